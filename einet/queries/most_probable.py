"""The most probable completion of a row, approximately, with a bound on how much better it could be.

Source: Section 2
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from einet.layers.scaled import Gathered, Scaled
from einet.layers.sums import SumLayer
from einet.leaves.evidence import Evidence
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries.passes import (
    UpwardPass,
    as_evidence,
    as_labels,
    check_evidence,
    chunks,
    descend,
    networks_of,
    result_dtype,
    upward,
    values,
)

# exp(-45) = 3e-20: a thousand such terms are below half an ulp of float64.
PRUNE_BELOW_NATS = 45.0


class Explanation(NamedTuple):
    """Completed rows, their log-densities (B,) in nats, and a bound (B,) that no completion exceeds.

    Source: Section 2
    """

    x: Tensor
    log_density: Tensor
    upper_bound: Tensor


def mpe(model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor | int | None = None) -> Explanation:
    """A probable completion of the missing entries: argmax over x_missing of p(x_missing, x_observed), approximately.

    Exact maximisation is NP-hard in circuits whose sums overlap, as these do. Two trees are decoded: the best of a pass
    of maxima, and the one that follows the largest weighted value of the sum pass, which is the usual answer. Their
    leaves take their modes, and each row keeps the completion that the model finds more probable. The bound gives every
    missing leaf entry its mode's density and sums as usual: no p(x) is above that.

    Args and errors are those of `conditional_marginals`; `x` comes back as from `sample_conditional`.

    Source: Section 2
    """
    return mpe_and_evidence(model, x, observed, labels)[0]


@torch.no_grad()
def mpe_and_evidence(
    model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor | int | None = None
) -> tuple[Explanation, Tensor]:
    """`mpe`, and log p(x_observed), (B,) in float64, which it needs on its way."""
    inside, mask = as_evidence(model, x, observed)
    labels = as_labels(model.num_classes, labels, len(x), inside.device)
    explained = [_explained(model, rows, seen, labels[chunk]) for chunk, rows, seen in chunks(model, inside, mask)]
    completed, log_density, bound, evidence = map(torch.cat, zip(*explained, strict=True))
    completed = completed.to(result_dtype(networks_of(model)[0], x))
    completed = torch.where(mask.T[..., None], x.reshape(completed.shape).to(completed.dtype), completed)
    return Explanation(completed.reshape(x.shape), log_density, bound), evidence


class _Component(NamedTuple):
    """A network of the model, and its sum pass of B columns with the evidence, then B with `modes`."""

    network: Einet
    given: Evidence
    log_weight: float
    modes: Scaled  # the leaves' vectors where every missing variable has its mode
    up: UpwardPass
    base: Tensor | float  # log h of the evidence and the log weight, (B,)
    evidence: Tensor  # log w P(evidence), (B,)
    bound: Tensor  # at least log w P(completion), (B,)


def _component(network: Einet, log_weight: float, x: Tensor, observed: Tensor, labels: Tensor) -> _Component:
    leaves = network.leaves(x, observed)
    modes = _with_modes(network, leaves, x, observed)
    up = upward(network, Scaled.joined([leaves, modes], -1))
    base = network.leaves.log_base(x, observed) + log_weight
    evidence, bound = _at_root(up, labels.repeat(2)).chunk(2)
    return _Component(network, Evidence(x, observed), log_weight, modes, up, base, evidence + base, bound + base)


def _explained(
    model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The better of two completions, (B, D, C), with its log-density, the bound, and that of the evidence, (B,)."""
    # A pass for each component, those with the largest bounds first: they rule out the others.
    log_weights = model.weights.double().log().tolist() if isinstance(model, Mixture) else [0.0]
    weighted = zip(networks_of(model), log_weights, strict=True)
    components = [_component(network, log_weight, x, observed, labels) for network, log_weight in weighted]
    evidence = torch.logsumexp(torch.stack([component.evidence for component in components]), 0)
    check_evidence(evidence)
    components.sort(key=lambda component: component.bound.sum().item(), reverse=True)
    # Two candidates, with the evidence in its place, compared by the density of the whole model.
    candidates = [_by_maxima(components, labels), _by_sums(components, labels)]
    candidates = [torch.where(observed.T[..., None], x.permute(2, 0, 1), rows) for rows in candidates]
    log_densities = _log_density(components, torch.cat(candidates), labels).view(2, -1)
    better = log_densities.argmax(0), torch.arange(len(labels), device=labels.device)
    log_density = log_densities[better]
    # The bound holds exactly; rounding could put it below the density that was found.
    bound = torch.logsumexp(torch.stack([component.bound for component in components]), 0)
    bound = torch.maximum(bound.to(log_density.dtype), log_density)
    return torch.stack(candidates)[better], log_density, bound, evidence


def maximum(layer: SumLayer, *inputs: Scaled | Gathered) -> Scaled:
    """The operation of a pass of maxima."""
    return layer.maximum(*inputs)


def _by_maxima(components: list[_Component], labels: Tensor) -> Tensor:
    """The modes of the best tree of all, (B, D, C); without a pass where a component's bound is below one found."""
    best, result = torch.full_like(components[0].bound, -torch.inf), _empty(components, labels)
    for component in components:
        if (component.bound <= best).all():
            continue
        up = upward(component.network, component.modes, maximum)
        of_tree = _at_root(up, labels) + component.base
        rows = (of_tree > best).nonzero()[:, 0]
        if len(rows):
            best[rows] = of_tree[rows]
            result[rows] = _decoded(component.network, up, labels[rows], rows, component.given)
    return result


def _by_sums(components: list[_Component], labels: Tensor) -> Tensor:
    """The modes of the tree that follows the largest odds, from the component of the largest posterior: (B, D, C)."""
    chosen = torch.stack([component.evidence for component in components]).argmax(0)
    result = _empty(components, labels)
    for number in chosen.unique().tolist():
        rows = (chosen == number).nonzero()[:, 0]
        component = components[number]
        result[rows] = _decoded(component.network, component.up, labels[rows], rows, component.given)
    return result


def _log_density(components: list[_Component], rows: Tensor, labels: Tensor) -> Tensor:
    """log P(rows) of the whole model, for two completions of each row: (2 B,), in the model's precision.

    A component whose bound is PRUNE_BELOW_NATS below the sum of the others is left out: rounding would lose it.
    """
    total, labels = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=rows.device), labels.repeat(2)
    for component in components:
        if (component.bound.repeat(2) > total - PRUNE_BELOW_NATS).any():
            log_density = component.network(rows, check=False)
            log_density = log_density if log_density.dim() == 1 else log_density.gather(1, labels[:, None])[:, 0]
            total = torch.logaddexp(total, log_density + component.log_weight)
    return total.to(components[0].modes.value.dtype)


def _empty(components: list[_Component], labels: Tensor) -> Tensor:
    network = components[0].network
    return network.leaves.parts[0].phi.new_zeros(len(labels), network.graph.num_variables, network.channels)


def _at_root(up: UpwardPass, labels: Tensor) -> Tensor:
    return up.outputs[-1].log()[0].gather(0, labels[None])[0]


def _with_modes(network: Einet, leaves: Scaled, x: Tensor, observed: Tensor) -> Scaled:
    """The leaves' vectors when every missing variable has its mode in each entry, base measure included."""
    total = leaves.log()
    for part in network.leaves.parts:
        for regions, log_densities in part.at_modes(x, observed):
            total.index_add_(0, regions, log_densities)
    return type(leaves).from_log(total, leaves.value.dtype)


def _decoded(network: Einet, up: UpwardPass, labels: Tensor, column: Tensor, given: Evidence | None = None) -> Tensor:
    """The modes of the leaves of the tree that follows the largest odds, in these columns of a pass: (N, D, C)."""
    visits = descend(network, labels, lambda odds, which: odds.argmax(1)[which], up, column)
    return values(network, visits, len(labels), lambda part, at: part.modes(at), given, column)
