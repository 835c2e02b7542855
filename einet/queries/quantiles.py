"""Quantiles of a mixture of leaf densities: its distribution function, inverted.

Source: not in the paper; leaves as in Section 3.4
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from einet.intervals import smallest
from einet.layers.scratch import CHUNK_NUMEL
from einet.network import Einet
from einet.queries.passes import regions_of_pairs

INFINITY = torch.inf


def quantiles(networks: Sequence[Einet], responsibilities: Sequence[Tensor], levels: Tensor, wanted: Tensor) -> Tensor:
    """The least x with P(x_d <= x) at least a level (Q,), for each variable, channel and row: (Q, D, C, B) in float64.

    By bisection of the doubles, to the last bit; of a discrete variable the result is a value that it has.

    Args:
        networks: of a model.
        responsibilities: for each of them how often a row uses each leaf entry, (L, K, B).
        levels: within (0, 1).
        wanted: the variables (D,) that are needed; the others' results are any.
    """
    network = networks[0]
    num_variables, batch = network.graph.num_variables, responsibilities[0].shape[2]
    nothing = levels.new_zeros(len(levels), num_variables, network.channels, batch)
    total = _below(networks, responsibilities, nothing[:1] + INFINITY, wanted)
    target = levels[:, None, None, None] * total

    def reached(at: Tensor) -> Tensor:
        below = _below(networks, responsibilities, at, wanted)
        return (below >= target) | ~wanted[:, None, None]

    return smallest(reached, nothing - INFINITY, nothing + INFINITY)


def _below(networks: Sequence[Einet], responsibilities: Sequence[Tensor], at: Tensor, wanted: Tensor) -> Tensor:
    """sum over the leaf entries of a variable of responsibility * P(x_d <= at), of (Q, D, C, B)."""
    result = torch.zeros_like(at)
    for network, uses in zip(networks, responsibilities, strict=True):
        for part in network.leaves.parts:
            family, region = part.family, regions_of_pairs(part)
            numel = len(at) * part.phi[0, 0].numel() * at.shape[3] * (family.num_values or 8)
            asked = wanted[part.pairs].nonzero()[:, 0]
            for pairs in asked.split(max(1, CHUNK_NUMEL // numel)) if len(asked) else ():
                ends = at[:, part.pairs[pairs], :, None]  # (Q, p, C, 1, B)
                phi = part.phi[:, pairs, ..., None].double()  # (T, p, C, K, 1)
                below = family.log_probability(torch.full_like(ends, -INFINITY), ends, phi).exp()
                sums = (below * uses[region[pairs], None].double()).sum(3)
                result.index_add_(1, part.pairs[pairs], sums)
    return result
