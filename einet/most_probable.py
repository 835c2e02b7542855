"""The most probable completion of a row, approximately, with a bound on how much better it could be.

Source: Section 2
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from einet.layers import SumLayer
from einet.mixture import Mixture
from einet.network import Einet
from einet.passes import (
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
from einet.scaled import Gathered, Scaled

# e^-45 is less than half the last bit of a float64, for a thousand networks together.
PRUNE_BELOW_NATS = 45.0


class Explanation(NamedTuple):
    """Completed rows, their log-densities (B,), and a bound (B,) that no completion exceeds; nats.

    Source: Section 2
    """

    x: Tensor
    log_density: Tensor
    upper_bound: Tensor


def mpe(model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor | int | None = None) -> Explanation:
    """A probable completion of the missing entries: argmax over x_missing of p(x_missing, x_observed), approximately.

    Exact maximisation is NP-hard in circuits whose sums overlap, as these do. Two trees are decoded: the best one of a
    pass of maxima, and the one that follows the largest weighted value of the sum pass. Their leaves take their modes,
    and each row keeps the completion that the model finds more probable, so it is never worse than the second, the
    usual one. The bound gives every missing leaf entry its mode's density and sums as usual: no p(x) is above that.

    Arguments as `conditional_marginals`; `x` comes back as from `sample_conditional`.

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
    parts = [_explained(model, *rows, labels[some]) for some, *rows in chunks(model, inside, mask)]
    found, log_density, bound, evidence = map(torch.cat, zip(*parts, strict=True))
    found = found.to(result_dtype(networks_of(model)[0], x))
    seen = mask.T[..., None]
    found = torch.where(seen, x.reshape(found.shape).to(found.dtype), found).reshape(x.shape)
    return Explanation(found, log_density, bound), evidence


class _Part(NamedTuple):
    """A network of the model, and its sum pass.

    modes    the leaves' vectors, as `_with_modes`
    passed   B columns with the missing entries integrated out, then B with `modes`
    base     log h of the evidence and the network's log weight, (B,)
    score    log w P(evidence), (B,)
    bound    log w P(completion) is never above it, (B,)
    """

    network: Einet
    log_weight: float
    modes: Scaled
    passed: UpwardPass
    base: Tensor
    score: Tensor
    bound: Tensor


def _part(network: Einet, log_weight: float, x: Tensor, observed: Tensor, labels: Tensor) -> _Part:
    leaves = network.leaves(x, observed)
    modes = _with_modes(network, leaves, observed)
    passed = upward(network, Scaled.joined([leaves, modes], -1))
    base = network.leaves.log_base(x, observed) + log_weight
    score, bound = _at_root(passed, labels.repeat(2)).chunk(2)
    return _Part(network, log_weight, modes, passed, base, score + base, bound + base)


def _explained(model, x: Tensor, observed: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The better of two completions, (B, D, C), with its log-density, the bound, and that of the evidence, (B,)."""
    log_weights = model.weights.double().log().tolist() if isinstance(model, Mixture) else [0.0]
    weighted = zip(networks_of(model), log_weights, strict=True)
    parts = [_part(network, log_weight, x, observed, labels) for network, log_weight in weighted]
    evidence = torch.logsumexp(torch.stack([part.score for part in parts]), 0)
    check_evidence(evidence)
    parts.sort(key=lambda part: part.bound.sum().item(), reverse=True)  # so that the first rule out the last
    ways = [_by_maxima(parts, labels), _by_sums(parts, labels)]
    ways = [torch.where(observed.T[..., None], x.permute(2, 0, 1), found) for found in ways]
    found, log_density = torch.stack(ways), _log_density(parts, torch.cat(ways), labels).view(2, -1)
    better = log_density.argmax(0), torch.arange(len(labels), device=labels.device)
    log_density, bound = log_density[better], torch.logsumexp(torch.stack([part.bound for part in parts]), 0)
    bound = torch.maximum(bound.to(log_density.dtype), log_density)  # rounding aside
    return found[better], log_density, bound, evidence


def maximum(layer: SumLayer, *inputs: Scaled | Gathered) -> Scaled:
    """The operation of a pass of maxima."""
    return layer.maximum(*inputs)


def _by_maxima(parts: list[_Part], labels: Tensor) -> Tensor:
    """The modes of the best tree of all, (B, D, C). A network whose bound is below a tree that was found has none."""
    best, found = torch.full_like(parts[0].bound, -torch.inf), _empty(parts, labels)
    for part in parts:
        if (part.bound <= best).all():
            continue
        passed = upward(part.network, part.modes, maximum)
        score = _at_root(passed, labels) + part.base
        rows = (score > best).nonzero()[:, 0]
        if len(rows):
            best[rows], found[rows] = score[rows], _decoded(part.network, passed, labels[rows], rows)
    return found


def _by_sums(parts: list[_Part], labels: Tensor) -> Tensor:
    """The modes of the tree that follows the largest odds, from the network of the largest posterior on: (B, D, C)."""
    chosen, found = torch.stack([part.score for part in parts]).argmax(0), _empty(parts, labels)
    for number in chosen.unique().tolist():
        rows = (chosen == number).nonzero()[:, 0]
        found[rows] = _decoded(parts[number].network, parts[number].passed, labels[rows], rows)
    return found


def _log_density(parts: list[_Part], rows: Tensor, labels: Tensor) -> Tensor:
    """log P(rows) of the whole model, for two completions of each row: (2 B,), in the model's precision.

    A network that, by its bound, adds less than e^-45 of what the others add up to would be lost to rounding anyway.
    """
    total, labels = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=rows.device), labels.repeat(2)
    for part in parts:
        if (part.bound.repeat(2) > total - PRUNE_BELOW_NATS).any():
            log_density = part.network(rows, check=False)
            total = torch.logaddexp(total, _of_label(log_density, labels) + part.log_weight)
    return total.to(log_density.dtype)


def _empty(parts: list[_Part], labels: Tensor) -> Tensor:
    network = parts[0].network
    return network.leaves.parts[0].phi.new_zeros(len(labels), network.graph.num_variables, network.channels)


def _at_root(passed: UpwardPass, labels: Tensor) -> Tensor:
    return passed.outputs[-1].log()[0].gather(0, labels[None])[0]


def _of_label(log_density: Tensor, labels: Tensor) -> Tensor:
    return log_density if log_density.dim() == 1 else log_density.gather(1, labels[:, None])[:, 0]


def _with_modes(network: Einet, leaves: Scaled, observed: Tensor) -> Scaled:
    """The leaves' vectors when every missing variable has its mode in each entry, base measure included."""
    total = leaves.log()
    for part in network.leaves.parts:
        phi = part.phi.double()
        at_mode = part.family.log_density(part.family.mode(phi), phi).sum(1)  # (P, K)
        for rows, pairs, variables in part.groups():
            own = at_mode[pairs].unflatten(0, variables.shape).transpose(1, 2)  # (L, K, s)
            total.index_add_(0, rows, (own @ (~observed[variables]).double()).expand(-1, -1, total.shape[2]))
    return type(leaves).from_log(total, leaves.value.dtype)


def _decoded(network: Einet, passed: UpwardPass, labels: Tensor, column: Tensor) -> Tensor:
    """The modes of the leaves of the tree that follows the largest odds, in these columns of a pass: (N, D, C)."""
    visits = descend(network, labels, lambda odds, which: odds.argmax(1)[which], passed, column)
    return values(network, visits, len(labels), lambda family, phi: family.mode(phi))
