"""Quantiles of a mixture of leaf densities: its distribution function, inverted.

Source: not in the paper; leaves as in Section 3.4
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from einet.intervals import smallest
from einet.layers.scratch import CHUNK_NUMEL, slices
from einet.network import Einet

INFINITY = torch.inf
# What `LeafPart.distributions` returns.
Distribution: TypeAlias = Callable[[Tensor], Iterator[tuple[Tensor, Tensor]]]


def quantiles(
    networks: Sequence[Einet],
    responsibilities: Sequence[Tensor],
    levels: Tensor,
    wanted: Tensor,
    x: Tensor,
    observed: Tensor,
) -> Tensor:
    """The least x with P(x_d <= x) at least a level (Q,), for each variable, channel and row: (Q, D, C, B) in float64.

    By bisection of the doubles, to the last bit; of a discrete variable the result is a value that it has.

    Args:
        networks: of a model.
        responsibilities: for each of them how often a row uses each leaf entry, (L, K, B).
        levels: within (0, 1).
        wanted: the variables (D,) that are needed; the others' results are any.
        x: (D, C, B).
        observed: (D, B) or (D, 1).
    """
    numel = sum(part.numel_at() for network in networks for part in network.leaves.parts)
    found = []
    for rows in slices(x.shape[2], CHUNK_NUMEL // numel):
        seen = observed if observed.shape[1] == 1 else observed[:, rows]
        functions = [
            part.distributions(used[..., rows], x[..., rows], seen, wanted)
            for network, used in zip(networks, responsibilities, strict=True)
            for part in network.leaves.parts
        ]
        found.append(
            _inverse(functions, x.new_zeros(len(levels), *x[..., rows].shape, dtype=torch.float64), levels, wanted)
        )
    return torch.cat(found, 3)


def _inverse(functions: Sequence[Distribution], nothing: Tensor, levels: Tensor, wanted: Tensor) -> Tensor:
    """Where the sum of `functions` reaches the levels (Q,) of its value at infinity: as `nothing`, (Q, D, C, B)."""
    target = levels[:, None, None, None] * _below(functions, nothing[:1] + INFINITY)

    def reached(at: Tensor) -> Tensor:
        return (_below(functions, at) >= target) | ~wanted[:, None, None]

    return smallest(reached, nothing - INFINITY, nothing + INFINITY)


def _below(functions: Sequence[Distribution], at: Tensor) -> Tensor:
    """sum over the leaf entries of a variable of responsibility * P(x_d <= at), of (Q, D, C, B)."""
    result = torch.zeros_like(at)
    for function in functions:
        for variables, sums in function(at):
            result.index_add_(1, variables, sums)
    return result
