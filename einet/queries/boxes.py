"""Boxes: the probability that variables lie in intervals or sets, alone or beside observed values, exactly.

A box is a product, as a leaf is: where a variable lies in an interval, each leaf entry has the probability of that
interval in the place of a density, and the upward pass is the usual one.

Source: not in the paper; marginals as in Section 2
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from einet.family import ExponentialFamily
from einet.inputs import as_mask
from einet.intervals import draw_among, log_total
from einet.layers.scaled import Scaled
from einet.layers.scratch import CHUNK_NUMEL
from einet.leaves import FamilyLeaves
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries.passes import (
    Visits,
    as_evidence,
    as_labels,
    check_evidence,
    check_model,
    chunks,
    log_evidence,
    log_vectors,
    networks_of,
    regions_of_pairs,
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
        result.append(log_evidence(model, [own.leaves(network) for network in networks_of(model)], own.x, own.observed))
    return torch.cat(result, 1)


# What is known of rows


@dataclass(frozen=True)
class Evidence:
    """Observed entries, and boxes that the others lie in. Without `low` and `high` there are no boxes.

    Attributes:
        x: (D, C, B).
        observed: (D, B) or (D, 1).
        low: (D, C, B) or (D, C, 1), float64.
        high: as `low`.
        among: for some variables which values they may have, (V, B) or (V, 1).
        first: the number of the first row, for messages.
    """

    x: Tensor
    observed: Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    among: Mapping[int, Tensor] = field(default_factory=dict)
    first: int = 0

    def rows(self, rows: slice | Tensor) -> Evidence:
        """The evidence of some rows."""

        def of(tensor: Any) -> Any:
            return tensor if tensor is None or tensor.shape[-1] == 1 else tensor[..., rows]

        among = {variable: of(table) for variable, table in self.among.items()}
        first = self.first + (rows.start or 0 if isinstance(rows, slice) else 0)
        x = self.x[..., rows]
        return Evidence(x, of(self.observed), of(self.low), of(self.high), among, first)

    def bounded(self) -> Tensor:
        """The variables of which something is known that is no value, (D, B) or (D, 1)."""
        if self.low is None or self.high is None:
            return torch.zeros_like(self.observed)
        bounded = ((self.low > -math.inf) | (self.high < math.inf)).any(1)
        bounded[list(self.among)] = True
        return bounded & ~self.observed

    def leaves(self, network: Einet) -> Scaled:
        """The vectors of the leaf regions: densities of what is observed times probabilities of boxes."""
        if self.low is None:
            return network.leaves(self.x, self.observed)
        total, bounded = log_vectors(network, self.x, self.observed), self.bounded()
        for part in network.leaves.parts:
            self._add_boxes(part, total, bounded[part.pairs])
        return network.leaves.kind.from_log(total, part.phi.dtype)

    def _add_boxes(self, part: FamilyLeaves, total: Tensor, bounded: Tensor) -> None:
        """Add the log-probabilities of a part's pairs (P,) of which `bounded` (P, B) is true to those of regions."""
        region, numel = regions_of_pairs(part), part.phi[0, 0].numel() * total.shape[2] * (part.family.num_values or 8)
        asked = bounded.any(1).nonzero()[:, 0]
        for pairs in asked.split(max(1, CHUNK_NUMEL // numel)) if len(asked) else ():
            each = self._log_probabilities(part.family, part.phi[:, pairs].double(), part.pairs[pairs])
            each = torch.where(bounded[pairs, None], each, 0).expand(-1, -1, total.shape[2])
            total.index_add_(0, region[pairs], each)

    def _log_probabilities(self, family: ExponentialFamily, phi: Tensor, variables: Tensor) -> Tensor:
        """log P(box) of the entries of phi (|T|, p, C, K) for these variables (p,): (p, K, B) or (p, K, 1)."""
        low, high = self.ends(variables)
        if family.num_values is None:
            return family.log_probability(low[:, :, None], high[:, :, None], phi[..., None]).sum(1)
        return log_total(family.log_probabilities(phi), self._allowed(family, variables, low, high)).sum(1)

    def ends(self, variables: Tensor, column: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """low and high of variables (p,): (p, C, B), or (p, C) of a column (p,) each."""
        low, high = cast(Tensor, self.low)[variables], cast(Tensor, self.high)[variables]
        return (low, high) if column is None else (_at(low, column), _at(high, column))

    def _allowed(
        self, family: ExponentialFamily, variables: Tensor, low: Tensor, high: Tensor, column: Tensor | None = None
    ) -> Tensor:
        """Which of a family's values lie in the box: (V, p, C, B), or (V, p, C) where each has a `column` (p,)."""
        allowed = family.allowed(low, high)
        for variable, table in self.among.items():
            own = (variables == variable).nonzero()[:, 0]
            if len(own):
                values = table[: len(allowed)]
                within = values[:, None, None] if column is None else values[:, _column(table, column[own]), None]
                allowed = allowed.expand(*allowed.shape[:-1], max(allowed.shape[-1], within.shape[-1])).clone()
                allowed[:, own] &= within
        return allowed

    # Draws

    def redraw(
        self,
        network: Einet,
        visits: Visits,
        column: Tensor,
        drawn: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Draws (N, D, C), those of variables in boxes drawn anew, within, from the leaf entries that samples use.

        Args:
            network: the circuit.
            visits: to its leaf regions.
            column: each sample's row, (N,).
            drawn: what leaves answered without boxes.
            generator: for what is drawn.
        """
        drawn, bounded = drawn.double(), self.bounded()
        for part in network.leaves.parts:
            for regions, pairs, variables in part.groups():
                node_of = regions.new_full((network.leaves.num_nodes,), -1)
                node_of[regions] = torch.arange(len(regions), device=regions.device)
                own = visits.select((node_of[visits.node] >= 0).nonzero()[:, 0])
                node = node_of[own.node]
                place = _column(bounded, column[own.sample])[:, None].expand(-1, variables.shape[1])
                visit, which = bounded[variables[node], place].nonzero(as_tuple=True)
                pair = pairs.start + node * variables.shape[1]
                step = max(1, CHUNK_NUMEL // ((part.family.num_values or len(part.phi)) * network.channels))
                for a, i in zip(visit.split(step), which.split(step), strict=True) if len(visit) else ():
                    variable, sample = variables[node[a], i], own.sample[a]
                    phi = part.phi[:, pair[a] + i, :, own.entry[a]].movedim(0, 1).double()  # (T, A, C)
                    drawn[sample, variable] = self._draws(part.family, phi, variable, column[sample], generator)
        return drawn

    def _draws(
        self, family: ExponentialFamily, phi: Tensor, variables: Tensor, column: Tensor, generator: torch.Generator
    ) -> Tensor:
        low, high = self.ends(variables, column)
        if family.num_values is None:
            return family.draw_between(low, high, phi, generator)
        allowed = self._allowed(family, variables, low, high, column)
        return draw_among(family.log_probabilities(phi), allowed, generator)

    def rounded(self, drawn: Tensor, dtype: torch.dtype) -> Tensor:
        """Draws (N, B, D, C) in a dtype, whose rounding takes none out of its box that has another number inside."""
        result = drawn.to(dtype)
        if self.low is None or self.high is None or not dtype.is_floating_point:
            return result
        low, high = (end.permute(2, 0, 1) for end in (self.low, self.high))
        inside = self.bounded().T[..., None]
        above, below = inside & (result.double() > high), inside & (result.double() < low)
        result = torch.where(above, torch.nextafter(result, torch.full_like(result, -math.inf)), result)
        return torch.where(below, torch.nextafter(result, torch.full_like(result, math.inf)), result)


def _column(tensor: Tensor, column: Tensor) -> Tensor:
    """The columns of a tensor's last axis, which may be one for all."""
    return column if tensor.shape[-1] > 1 else torch.zeros_like(column)


def _at(ends: Tensor, column: Tensor) -> Tensor:
    """(p, C, B) or (p, C, 1) at a column (p,) each: (p, C)."""
    return ends[torch.arange(len(ends), device=ends.device), :, _column(ends, column)]


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
