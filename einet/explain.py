"""The most probable completion of a row, approximately, with a bound on how much better it could be.

Paper: Section 2
Chapter: book/12_queries
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from einet.layers import CACHE, Scaled
from einet.mixture import Mixture
from einet.network import Einet
from einet.trees import (
    as_evidence,
    as_labels,
    check_evidence,
    descend,
    left_and_right,
    networks_of,
    portions,
    result_dtype,
    upward,
    values,
)


class Explanation(NamedTuple):
    """Completed rows, their log-densities (B,), and a bound (B,) that no completion exceeds; nats.

    Paper: Section 2
    Chapter: book/12_queries
    """

    x: Tensor
    log_density: Tensor
    upper_bound: Tensor


@torch.no_grad()
def mpe(model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor | int | None = None) -> Explanation:
    """A probable completion of the missing entries: argmax over x_missing of p(x_missing, x_observed), approximately.

    Exact maximisation is NP-hard in circuits whose sums overlap, as these do. Two trees are decoded: the best one of a
    pass of maxima, and the one that follows the largest weighted value of the sum pass. Their leaves take their modes,
    and each row keeps the completion that the model finds more probable, so it is never worse than the second, the
    usual one. The bound gives every missing leaf entry its mode's density and sums as usual: no p(x) is above that.

    Arguments as `conditional_marginals`; `x` comes back as from `sample_conditional`.

    Paper: Section 2
    Chapter: book/12_queries
    """
    inside, mask = as_evidence(model, x, observed)
    labels = as_labels(model.num_classes, labels, len(x), inside.device)
    parts = [_explained(model, *rows, labels[some]) for some, *rows in portions(model, inside, mask)]
    found, log_density, bound = map(torch.cat, zip(*parts, strict=True))
    found = found.to(result_dtype(networks_of(model)[0], x))
    seen = mask.T[..., None]
    found = torch.where(seen, x.reshape(found.shape).to(found.dtype), found).reshape(x.shape)
    return Explanation(found, log_density, bound)


def _explained(model, x: Tensor, observed: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The better of two completions, (B, D, C), with its log-density and the bound, (B,)."""
    log_weights = model.weights.double().log().tolist() if isinstance(model, Mixture) else [0.0]
    best: list = [None, None]  # by maxima, by the sum pass: (score, completion)
    bounds = []
    for network, log_weight in zip(networks_of(model), log_weights, strict=True):
        leaves = network.leaves(x, observed)
        modes = _with_modes(network, leaves, observed)
        base = network.leaves.log_base(x, observed) + log_weight
        bounds.append(_at_root(upward(network, modes), labels) + base)
        passes = upward(network, modes, _max_einsum, _max_mixing), upward(network, leaves)
        for way, passed in enumerate(passes):
            score = _at_root(passed, labels)
            check_evidence(score)
            found = score + base, _decoded(network, passed, labels)
            best[way] = found if best[way] is None else _better(best[way], found)
    bound = torch.logsumexp(torch.stack(bounds), 0)
    completed = [torch.where(observed.T[..., None], x.permute(2, 0, 1), rows) for _, rows in best]
    rescored = [(_of_label(model(rows, check=False), labels), rows) for rows in completed]
    log_density, found = _better(*rescored)
    return found, log_density, torch.maximum(bound.to(log_density.dtype), log_density)  # they may differ by rounding


def _at_root(passed, labels: Tensor) -> Tensor:
    return passed.outputs[-1].log()[0].gather(0, labels[None])[0]


def _of_label(log_density: Tensor, labels: Tensor) -> Tensor:
    return log_density if log_density.dim() == 1 else log_density.gather(1, labels[:, None])[:, 0]


def _better(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(score (B,), rows (B, D, C)) of the higher score, row by row; the first where they tie."""
    higher = other[0] > one[0]
    return torch.where(higher, other[0], one[0]), torch.where(higher[:, None, None], other[1], one[1])


def _with_modes(network: Einet, leaves: Scaled, observed: Tensor) -> Scaled:
    """The leaves' vectors when every missing variable has its mode in each entry, base measure included."""
    total = leaves.log()
    for part in network.leaves.parts:
        phi = part.phi.double()
        at_mode = part.family.log_density(part.family.mode(phi), phi).sum(1)  # (P, K)
        for rows, pairs, variables in part.groups():
            own = at_mode[pairs].unflatten(0, variables.shape).transpose(1, 2)  # (L, K, s)
            total = total.index_add(0, rows, (own @ (~observed[variables]).double()).expand(-1, -1, total.shape[2]))
    return Scaled.from_log(total, leaves.value.dtype)


def _decoded(network: Einet, passed, labels: Tensor) -> Tensor:
    """The modes of the leaves of the tree that follows the largest odds: (B, D, C)."""
    row = torch.arange(len(labels), device=labels.device)
    visits = descend(network, labels, lambda odds, which: odds.argmax(1)[which], passed, row)
    return values(network, visits, len(labels), lambda family, phi: family.mode(phi))


def _max_einsum(layer, *children: Scaled) -> Scaled:
    """max_ij W_kij left_i right_j, scaled to a largest entry of 1: (L, K_out, B)."""
    left, right = left_and_right(children)
    (num_nodes, num_left, batch), num_out = left.value.shape, layer.weights.shape[1]
    maxima = left.value.new_empty(num_nodes, num_out, batch)
    step = max(1, CACHE // (num_left * layer.num_right * batch))
    for start in range(0, num_nodes, step):
        nodes = slice(start, start + step)
        outer = (left.value[nodes, :, None] * right.value[nodes, None]).flatten(1, 2)
        for k in range(num_out):
            torch.amax(layer.weights[nodes, k, :, None] * outer, 1, out=maxima[nodes, k])
    scale = maxima.amax(1).clamp_min(torch.finfo(maxima.dtype).tiny)
    return Scaled(maxima / scale[:, None], left.log_scale + right.log_scale + torch.log(scale.double()))


def _max_mixing(layer, partitions: Scaled) -> Scaled:
    """max_p w_p S_p, (M, K, B)."""
    shape = layer.weights.shape[:2]
    scales = partitions.log_scale.unflatten(0, shape)
    log_scale = scales.amax(1)
    relative = torch.exp(scales - log_scale[:, None]).to(layer.weights.dtype)
    mixed = partitions.value.unflatten(0, shape) * relative[:, :, None] * layer.weights[..., None]
    return Scaled(mixed.amax(1), log_scale)
