"""Boxes: the probability that variables lie in intervals or sets, alone or beside observed values, exactly.

A box is a product, as a leaf is: where a variable lies in an interval, each leaf entry has the probability of that
interval in the place of a density, and the upward pass is the usual one.

Source: not in the paper; marginals as in Section 2
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from einet.inputs import as_mask
from einet.leaves.evidence import Evidence
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries.passes import (
    as_evidence,
    as_labels,
    check_evidence,
    check_model,
    chunks,
    log_evidence,
    networks_of,
    vectors_of,
)

# What a call takes for a bound or a set: `low`, `high`, `among`.
Sets = Mapping[int, Tensor | Collection[int]]


@torch.no_grad()
def log_probability(
    model: Einet | Mixture,
    low: Tensor | float | None = None,
    high: Tensor | float | None = None,
    x: Tensor | None = None,
    observed: Tensor | None = None,
    labels: Tensor | int | None = None,
    among: Sets | None = None,
) -> Tensor:
    """log P(low_d <= X_d <= high_d for all d) in nats; with observed entries, log of that times their density.

    The intervals are closed. An end that is infinite, or None, asks for nothing. Of zero width the interval of a
    continuous variable has probability 0, whose logarithm is -inf. See `log_conditional_probability` for a
    probability given what is observed.

    Exact but for boxes in several variables of one `MultivariateNormal` leaf, which are integrals by SciPy, for each
    row and entry: in two variables to ten digits; in more, up to some ten, with a relative error of 1e-6 to 1e-4, and
    of 1e-3 to 1e-1 in tails of e^-20 and less. They take from 0.2 ms in two variables to 0.1 s in ten.

    Args:
        model: the density.
        low: one number, a row (D,), or rows (B, D), each in the shapes of `x`.
        high: as `low`.
        x: rows, as in `Einet.forward`. Without them nothing is observed.
        observed: bool mask of the entries of `x` that are known. `low`, `high` and `among` say nothing of these.
        labels: the class given, (B,) or one for all; without it the result is that of all classes.
        among: for some variables the values they may have, of families with finitely many: a collection of values, or
            a bool tensor (V,) or (B, V) with a column for each value 0, 1, ... They must lie within the bounds, too.

    Returns:
        (B,), or (B, num_classes) for a model with several classes and no `labels`.

    Raises:
        ValueError: as `Einet.forward` does; a bound is NaN, `low` is above `high`, a value is none of its family's, or
            a family has no `log_probability`.
        ImportError: SciPy is needed, and not installed.

    Source: not in the paper; marginals as in Section 2
    """
    alone = x is None and observed is None
    evidence = as_boxes(model, x, observed, low, high, among, alone)
    return _asked(model, _log_joint(model, evidence), labels, alone)


@torch.no_grad()
def log_conditional_probability(
    model: Einet | Mixture,
    low: Tensor | float | None,
    high: Tensor | float | None,
    x: Tensor,
    observed: Tensor,
    labels: Tensor | int | None = None,
    among: Sets | None = None,
) -> Tensor:
    """log P(low_d <= X_d <= high_d for all d | x_observed) in nats, which is at most 0.

    Args, shapes and errors are those of `log_probability`, and a `ValueError` for evidence of density 0.

    Source: Section 2, Eq. (1)
    """
    evidence = as_boxes(model, x, observed, low, high, among)
    log_density = _log_joint(model, replace(evidence, low=None, high=None, among={}))
    check_evidence(log_density.T)
    return _asked(model, _log_joint(model, evidence) - log_density, labels, True)


def _asked(model: Einet | Mixture, result: Tensor, labels: Tensor | int | None, bounded: bool) -> Tensor:
    """(num_classes, B) in float64 as it is returned: of one class where one is asked for, at most 0 where `bounded`."""
    result = result.clamp_max(0) if bounded else result
    dtype = next(model.parameters()).dtype
    if labels is None and model.num_classes > 1:
        return result.T.to(dtype)
    labels = as_labels(model.num_classes, labels, result.shape[1], result.device)
    return result.gather(0, labels[None])[0].to(dtype)


def _log_joint(model: Einet | Mixture, evidence: Evidence) -> Tensor:
    """log P of the evidence, boxes included, (num_classes, B) in float64."""
    result = []
    for rows, _, _ in chunks(model, evidence.x, evidence.observed):
        own = evidence.rows(rows)
        result.append(
            log_evidence(model, [vectors_of(network, own) for network in networks_of(model)], own.x, own.observed)
        )
    return torch.cat(result, 1)


# From arguments


def as_boxes(
    model: Einet | Mixture,
    x: Tensor | None,
    observed: Tensor | None,
    low: Any,
    high: Any,
    among: Sets | None,
    alone: bool = False,
) -> Evidence:
    """The arguments of a query, checked, with as many rows as boxes where there are boxes alone."""
    check_model(model)
    network = networks_of(model)[0]
    bounds = _bound(network, "low", low), _bound(network, "high", high)
    sets = {variable: _set(model, variable, values) for variable, values in (among or {}).items()}
    widths = {name: tensor.shape[-1] for name, tensor in zip(("low", "high"), bounds, strict=True)}
    widths |= {f"among[{variable}]": table.shape[-1] for variable, table in sets.items()}
    if alone:
        parameter = next(model.parameters())
        inside = parameter.new_zeros(network.graph.num_variables, network.channels, max(widths.values()))
        mask = torch.zeros_like(inside[:, 0, :1], dtype=torch.bool)
    else:
        inside, mask = as_evidence(model, x, observed)  # pyright: ignore[reportArgumentType]
    batch = inside.shape[2]
    for name, width in widths.items():
        if width not in (1, batch):
            raise ValueError(f"{name} must be of one row or of {batch}, got {width}")
    if low is None and high is None and not sets:
        return Evidence(inside, mask, None, None, {})
    _check_ends(*bounds, mask)
    return Evidence(inside, mask, *bounds, sets)


def _bound(network: Einet, name: str, end: Any) -> Tensor:
    """One end as (D, C, B) or (D, C, 1), in float64."""
    variables, channels, grid = network.graph.num_variables, network.channels, network.graph.shape
    device = next(network.parameters()).device
    nothing = -math.inf if name == "low" else math.inf
    try:
        end = torch.as_tensor(nothing if end is None else end, dtype=torch.float64, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be numbers, got {type(end).__name__}") from error
    shapes = [(variables, channels)] + ([(*grid, channels)] if grid else [])
    if channels == 1:
        shapes += [shape[:-1] for shape in shapes]
    if end.dim() == 0:
        return end.expand(variables, channels, 1)
    if tuple(end.shape) in shapes:
        end = end[None]
    elif tuple(end.shape[1:]) not in shapes or not len(end):
        wanted = " or ".join(str(("B", *shape)) for shape in shapes)
        raise ValueError(f"{name} must be a number or have shape {wanted}, B left out or not, got {tuple(end.shape)}")
    return end.reshape(len(end), variables, channels).permute(1, 2, 0)


def _check_ends(low: Tensor, high: Tensor, observed: Tensor) -> None:
    """Raise a `ValueError` where an end that matters is NaN, or low is above high."""
    rules = {"low must be a number, -inf or inf": low.isnan(), "high must be a number, -inf or inf": high.isnan()}
    rules["low must be at most high"] = low > high
    for rule, wrong in rules.items():
        faults = (wrong.any(1) & ~observed).nonzero()
        if len(faults):
            variable, row = faults[0].tolist()
            first, last = (end[variable, :, row if end.shape[2] > 1 else 0].tolist() for end in (low, high))
            raise ValueError(f"{rule}, got low {first} and high {last} for variable {variable} of row {row}")


def _set(model: Einet | Mixture, variable: Any, values: Any) -> Tensor:
    """Which values a variable may have, (V, B) or (V, 1)."""
    networks = networks_of(model)
    families = {f for network in networks for f, variables in network.families.items() if variable in variables}
    if not families:
        raise ValueError(f"among: variables are from 0 to {networks[0].graph.num_variables - 1}, got {variable!r}")
    for family in families:
        if family.num_values is None:
            raise ValueError(f"among[{variable}]: {family} has not finitely many values, so give it low and high")
    width, device = max(family.num_values or 0 for family in families), next(model.parameters()).device
    if getattr(values, "dtype", None) in (torch.bool, bool):
        table = as_mask(values, f"among[{variable}]").to(device)
        if table.dim() not in (1, 2) or table.shape[-1] != width or not len(table):
            raise ValueError(f"among[{variable}] must have shape ({width},) or (B, {width}), got {tuple(table.shape)}")
        return torch.atleast_2d(table).T
    table = torch.zeros(width, 1, dtype=torch.bool, device=device)
    for value in values.tolist() if isinstance(values, Tensor) else values:
        if not isinstance(value, (int, float)) and not hasattr(value, "__index__") or value not in range(width):
            raise ValueError(f"among[{variable}]: values are integers from 0 to {width - 1}, got {value!r}")
        table[int(value)] = True
    return table
