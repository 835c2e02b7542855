"""The order in which a network computes a region graph: what stands where in each layer, without a number yet.

Source: Section 3.3, Algorithm 1
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import NamedTuple

from einet.graph.regions import Partition, RegionGraph


class Group(NamedTuple):
    """The partitions of one layer of sums over products. Side i has child i of each, in the order of the partitions."""

    partitions: list[Partition]
    ranks: tuple[int, ...]  # of the lengths of the children's vectors, for each side
    shared: list[int]  # how many sides share each pool
    sides: list[list[int | None]]  # regions, None where a partition has no such child


class PlanOfLevel(NamedTuple):
    """Each of `groups` is (ranks, shared, sides) of a `Group`, but with places (level, row) instead of regions.

    `order` and `counts` are those of `Level`.
    """

    groups: list[tuple[tuple[int, ...], list[int], list[list[tuple[int, int] | None]]]]
    order: list[int]
    counts: list[int]


def plan(graph: RegionGraph, rank: int, grouped: Callable) -> tuple[list[int], list[PlanOfLevel]]:
    """The order of the leaf regions, and what stands where in the levels above them.

    Args:
        graph: any graph with a partition.
        rank: of the length of the leaves' vectors: 1 where they are longer than those of inner regions, whose rank is
            0, and -1 where shorter.
        grouped: `by_lengths` or `of_one_layer`: which partitions share a layer, and in which order.
    """
    ranks = [0 if partitions else rank for partitions in graph.partitions_of]
    layers = graph.topological_layers()
    layer_of = {region: number for number, layer in enumerate(layers) for region in layer}

    # From the root down: a layer's regions stand in the order in which the layers above ask for them, or in that of
    # their partitions where these stand in one layer.
    wanted: list[dict[int, None]] = [{} for _ in layers]
    wanted[-1][graph.root] = None
    arranged = []
    for asked in reversed(wanted[1:]):
        regions = sorted(asked, key=lambda region: len(graph.partitions_of[region]))
        partitions = [partition for region in regions for partition in graph.partitions_of[region]]
        groups = grouped(graph, partitions, ranks)
        if len(partitions) == len(regions) and len(groups) == 1:
            regions = [partition.region for partition in groups[0].partitions]
        for child in (child for group in groups for side in group.sides for child in side):
            if child is not None:
                wanted[layer_of[child]][child] = None
        arranged.append((regions, groups))

    # From the leaves up: now the places of all children are known.
    leaf_order = list(wanted[0])
    place: dict[int | None, tuple[int, int] | None] = {None: None}
    place |= {region: (0, row) for row, region in enumerate(leaf_order)}
    levels = []
    for regions, groups in reversed(arranged):
        placed = [(own, shared, [[place[c] for c in side] for side in sides]) for _, own, shared, sides in groups]
        row_of = {region: row for row, region in enumerate(regions)}
        computed = [row_of[partition.region] for group in groups for partition in group.partitions]
        order = sorted(range(len(computed)), key=computed.__getitem__)
        levels.append(PlanOfLevel(placed, order, [len(graph.partitions_of[region]) for region in regions]))
        place |= {region: (len(levels), row) for region, row in row_of.items()}
    return leaf_order, levels


def by_lengths(graph: RegionGraph, partitions: list[Partition], ranks: list[int]) -> list[Group]:
    """Partitions by the number of their children and the lengths of the children's vectors, the shorter ones first."""
    groups: dict[tuple[int, ...], list[Partition]] = {}
    for region, *children in partitions:
        children.sort(key=ranks.__getitem__)
        groups.setdefault(tuple(ranks[child] for child in children), []).append(Partition(region, *children))
    found = []
    for own, group in groups.items():
        sides = [list(side) for side in zip(*(partition.children for partition in group), strict=True)]
        found.append(Group(group, own, [len(own)] if len(set(own)) == 1 else [1] * len(own), sides))
    return found


def of_one_layer(graph: RegionGraph, partitions: list[Partition], ranks: list[int]) -> list[Group]:
    """Partitions by the lengths of their children's vectors, however many these are; those with most children first.

    A partition's inner regions come first, whose densities are multiplied, then its leaves, whose logarithms are added.
    """
    groups: dict[tuple[int, ...], list[tuple[Partition, list[int], list[int]]]] = {}
    for partition in partitions:
        leaves = [child for child in partition.children if not graph.partitions_of[child]]
        inner = [child for child in partition.children if graph.partitions_of[child]]
        lengths = tuple(sorted({ranks[child] for child in partition.children}))
        groups.setdefault(lengths, []).append((partition, inner, leaves))
    found = []
    for group in groups.values():
        group.sort(key=lambda each: (-len(each[1]), -len(each[2])))
        columns = [list(zip_longest(*(each[kind] for each in group))) for kind in (1, 2)]
        sides = [list(side) for own in columns for side in own]
        lengths = tuple(next(ranks[child] for child in side if child is not None) for side in sides)
        found.append(Group([each[0] for each in group], lengths, [len(own) for own in columns if own], sides))
    return found
