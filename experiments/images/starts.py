"""A start for learned trees over images: what a node's states stand for is guessed first, then all is counted.

EM from random weights has to find out what the K states of a node are to mean, and most of its epochs go into that.
Here the state of a node in an image is the k-means cluster of the pixels around the node's own ones. With states that
are known, one full step of EM is counting: transitions are shares of pairs of states, leaves are histograms given them.

Source: not in the paper; Liu, Zhang and Van den Broeck (2023), "Scaling Up Probabilistic Circuits by Latent Variable
    Distillation", where a neural network says what the states are
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from einet import Einet
from einet.inpaint.circuit import circuit
from einet.leaves.factorised import FamilyLeaves

LEAST_WEIGHT = 0.05  # of a pixel that still counts for the cluster of an image
LLOYD_ROWS, LLOYD_STEPS = 10_000, 6  # of k-means
PSEUDOCOUNT = 1.0  # rows that are spread over the states of a transition, or are as all rows for a leaf


@torch.no_grad()
def start_from_clusters(network: Einet, x: Tensor, reach: float, seed: int) -> None:
    """Set all parameters of a thin tree over a grid by counting, with clusters of the rows x (n, D[, C]) as states.

    Args:
        network: of one partition a region, as of `einet.chow_liu`, and of one family.
        x: rows.
        reach: standard deviation, in pixels, of the bell by which the pixels around a node count for its clusters.
        seed: of the rows that k-means starts from.
    """
    generator, entries = torch.Generator().manual_seed(seed), network.num_sums
    described, x = circuit(network), x.view(*x.shape[:2], -1)
    variables = [network.graph.regions[leaf].scope[0] for leaf in network.leaf_order]
    weights, children = {}, {}
    for level, regions in zip(network.levels, described["levels"], strict=True):
        for ((tensor, row, *below),) in (region["partitions"] for region in regions):
            number = len(variables) + len(children)
            weights[number], children[number] = level.einsums[tensor].weights[row], below
    states: dict[int, Tensor] = {}  # (n,) of every inner region, from the leaves to the root; and of the leaves
    for number, below in children.items():
        own = [child for child in below if child < len(variables)]
        near = bell([variables[leaf] for leaf in own], cast(Sequence[int], network.graph.shape), reach)
        states |= dict.fromkeys((number, *own), clusters(x, near, entries, generator))
        for child in set(below) - set(own):
            weights[child].copy_(shares(states[number], states[child], entries, entries))
    root = states[number]
    weights[number].copy_(shares(torch.zeros_like(root), root, 1, entries))
    part = cast(FamilyLeaves, network.leaves.parts[0])
    for pair, (leaf, variable) in enumerate(zip(*described["leaves"][0].values(), strict=True)):
        part.phi[:, pair] = parameters(x[:, variable], states[leaf], entries, part)
    part.project_()


def bell(centre: Sequence[int], shape: Sequence[int], reach: float) -> Tensor:
    """The weight (D,) of every pixel of a grid around the mean place of some."""
    place = torch.cartesian_prod(*(torch.arange(extent).float() for extent in shape))
    weight = torch.exp(-((place - place[list(centre)].mean(0)) ** 2).sum(1) / (2 * reach**2))
    return torch.where(weight >= LEAST_WEIGHT, weight, 0)


def clusters(x: Tensor, weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The cluster (n,) of each row of x (n, D, C), where squared differences count by the pixels' weights (D,)."""
    near = weight > 0
    rows = (x[:, near] * weight[near].sqrt()[:, None]).flatten(1)
    order = torch.randperm(len(x), generator=generator)
    some, means = rows[order[:LLOYD_ROWS]], rows[order[:count]]
    for _ in range(LLOYD_STEPS):
        member = F.one_hot(nearest_mean(some, means), len(means)).to(rows.dtype)
        sizes = member.sum(0)[:, None]
        means = torch.where(sizes > 0, member.T @ some / sizes.clamp_min(1), means)
    return nearest_mean(rows, means)


def nearest_mean(rows: Tensor, means: Tensor) -> Tensor:
    return torch.addmm((means**2).sum(1), rows, means.T, alpha=-2).argmin(1)


def shares(above: Tensor, below: Tensor, num_above: int, num_below: int) -> Tensor:
    """P(state below | state above), counted."""
    counts = torch.bincount(above * num_below + below, minlength=num_above * num_below).view(num_above, num_below)
    counts = counts + PSEUDOCOUNT / num_below
    return counts / counts.sum(1, keepdim=True)


def parameters(values: Tensor, states: Tensor, count: int, part: FamilyLeaves) -> Tensor:
    """phi (|T|, C, K) of the values (n, C) given each of K states, counted."""
    family, (rows, channels) = part.family.alone, values.shape
    place = (torch.arange(channels) * count + states[:, None]).flatten()  # of (C, K)
    size = channels * count
    if family.indicator:
        height = family.num_statistics
        flat = values.long().flatten() * size + place
        total = torch.bincount(flat, minlength=height * size).view(height, channels, count).double()
    else:
        statistics = family.statistics(values.flatten().double())
        total = statistics.new_zeros(len(statistics), size).index_add(1, place, statistics).view(-1, channels, count)
    counts = torch.bincount(states, minlength=count)
    at_large = total.sum(2, keepdim=True) / rows
    return family.expecting((total + PSEUDOCOUNT * at_large) / (counts + PSEUDOCOUNT)).to(part.phi.dtype)
