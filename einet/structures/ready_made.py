"""Ready-made region graphs: random binary trees (RAT), Poon-Domingos rectangles (PD), and quadrants (QG).

All return a plain `RegionGraph`; a structure of your own is one more function that does.

Source: Section 3.3 and 4
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from einet.graph.regions import RegionGraph, check_integers, is_integer

Rectangle = tuple[tuple[int, int], ...]  # (start, stop) along each axis


def random_binary_trees(num_variables: int, depth: int, num_replicas: int, seed: int | None = None) -> RegionGraph:
    """RAT: `num_replicas` random trees below one root, each halving its scope `depth` times.

    Each tree shuffles the variables, splits them into two halves of (near) equal size and recurses; trees share nothing
    but the root. A region of a single variable is a leaf, however deep the tree was to be. With depth 0 the root is the
    one leaf region.

    Args:
        num_variables: at least 1.
        depth: at least 0.
        num_replicas: at least 1.
        seed: of the shuffles. With None every call gives another graph; `einet.save` keeps a model's graph with its
            parameters, `state_dict` does not.

    Source: Section 4.1, after Peharz et al. (2019), "Random Sum-Product Networks"
    """
    check_integers(num_variables=num_variables, num_replicas=num_replicas)
    check_integers(least=0, depth=depth)
    generator = random.Random(seed)
    scopes: list[list[int]] = [list(range(num_variables))]
    partitions: list[tuple[int, int, int]] = []

    def split(region: int, levels: int) -> None:
        if not levels or len(scopes[region]) < 2:
            return
        shuffled = generator.sample(scopes[region], len(scopes[region]))
        middle = len(shuffled) // 2
        left, right = len(scopes), len(scopes) + 1
        scopes.extend((shuffled[:middle], shuffled[middle:]))
        partitions.append((region, left, right))
        split(left, levels - 1)
        split(right, levels - 1)

    for _ in range(num_replicas):
        split(0, depth)
    return RegionGraph(scopes, partitions)


def poon_domingos(
    shape: Sequence[int],
    delta: int | Sequence[int],
    axes: Iterable[int] | None = None,
    max_depth: int | None = None,
) -> RegionGraph:
    """PD: every axis-aligned cut of a grid into two rectangles, again and again, equal rectangles being shared.

    A region is a hyper-rectangle. It has one partition for every multiple of `delta` strictly inside it, and is a leaf
    where there is none. A grid of n x m cells of size delta has n(n+1)m(m+1)/4 regions.

    Args:
        shape: of the grid, whose cells are the variables, row by row.
        delta: distance of the cuts; of a list, coarse first, each region uses the first entry that cuts it.
        axes: along which to cut; all by default.
        max_depth: regions that many cuts below the root are leaves.

    Raises:
        ValueError: delta cuts nothing at all, or an argument is out of range.

    Source: Section 4.2, after Poon and Domingos (2011)
    """
    shape = tuple(shape)
    deltas = tuple(delta) if isinstance(delta, Iterable) else (delta,)
    axes = tuple(range(len(shape))) if axes is None else tuple(axes)
    _check_grid(shape, deltas, axes, max_depth)

    root: Rectangle = tuple((0, extent) for extent in shape)
    index_of: dict[Rectangle, int] = {root: 0}
    partitions: list[tuple[int, int, int]] = []
    level = [root]
    depth = 0
    while level and depth != max_depth:
        following = []
        for whole in level:
            for halves in _cuts(whole, deltas, axes):
                for half in halves:
                    if half not in index_of:
                        index_of[half] = len(index_of)
                        following.append(half)
                left, right = halves
                partitions.append((index_of[whole], index_of[left], index_of[right]))
        level, depth = following, depth + 1
    if not partitions and max_depth != 0:
        raise ValueError(f"delta {list(deltas)} cuts nothing of a grid of shape {shape} along axes {axes}")
    return RegionGraph([_cells(rectangle, shape) for rectangle in index_of], partitions, shape)


def quad_graph(shape: Sequence[int]) -> RegionGraph:
    """The quad-tree of an image, every square being cut both ways: first into rows, and first into columns.

    A square of the grid has two partitions, top | bottom and left | right, and each of these four halves has one: into
    the two of the four quadrants that it is made of, which all share. So down to the pixels, which are the leaves.
    Squares are of a power of two, and lie at its multiples; where the grid ends inside one, it is a rectangle, and is
    cut one way alone where the other cut would be outside.

    A grid of 2^n x 2^n has (4^(n+1) - 1) / 3 squares and four halves for each that is no pixel: fewer regions than
    `poon_domingos(shape, 1)` by far.

    Args:
        shape: (height, width), any integers of at least 1.

    Returns:
        The graph, all partitions into two, its `shape` the grid.

    Raises:
        ValueError: For another shape.

    Source: not in the paper; Mari, Vessio and Vergari (2023), "Unifying and Understanding Overparameterized Circuit
        Representations via Low-Rank Tensor Decompositions"
    """
    shape = tuple(shape)
    if len(shape) != 2 or not all(map(is_integer, shape)):
        raise ValueError(f"shape must be two integers of at least 1, (height, width), got {shape}")
    squares: list[Rectangle] = [((0, shape[0]), (0, shape[1]))]
    index_of: dict[Rectangle, int] = {squares[0]: 0}
    partitions: list[tuple[int, int, int]] = []

    def split(whole: Rectangle, step: int, axis: int) -> tuple[Rectangle, ...]:
        """Where a multiple of `step` cuts the axis, the two halves, after a partition into them; else nothing."""
        for left, right in _cuts(whole, (step,), (axis,)):
            for half in (left, right):
                index_of.setdefault(half, len(index_of))
            partitions.append((index_of[whole], index_of[left], index_of[right]))
            return left, right
        return ()

    for square in squares:  # which grow
        extent = max(stop - start for start, stop in square)
        step = 1 << max(0, (extent - 1).bit_length() - 1)  # the largest power of two below it
        quadrants: dict[Rectangle, None] = {}
        for axis in (0, 1):
            for half in split(square, step, axis):
                quadrants |= dict.fromkeys(split(half, step, 1 - axis) or (half,))
        squares += quadrants
    return RegionGraph([_cells(rectangle, shape) for rectangle in index_of], partitions, shape)


def _check_grid(shape: tuple, deltas: tuple, axes: tuple, max_depth: int | None) -> None:
    if not shape or not all(map(is_integer, shape)):
        raise ValueError(f"shape must be positive integers, got {shape}")
    if not deltas or not all(map(is_integer, deltas)):
        raise ValueError(f"delta must be an integer of at least 1, or a list of them, got {list(deltas)}")
    if len(set(axes)) < len(axes) or not axes or not all(axis in range(len(shape)) for axis in axes):
        raise ValueError(f"axes must be different numbers from 0 to {len(shape) - 1}, got {axes}")
    check_integers(least=0, optional=True, max_depth=max_depth)


def _cuts(whole: Rectangle, deltas: tuple[int, ...], axes: tuple[int, ...]) -> Iterator[tuple[Rectangle, Rectangle]]:
    """All binary cuts of a rectangle at multiples of the first delta that has any inside it."""
    for delta in deltas:
        points = [(a, at) for a in axes for at in range((whole[a][0] // delta + 1) * delta, whole[a][1], delta)]
        for axis, at in points:
            before, (start, stop), after = whole[:axis], whole[axis], whole[axis + 1 :]
            yield (*before, (start, at), *after), (*before, (at, stop), *after)
        if points:
            return


def _cells(rectangle: Rectangle, shape: tuple[int, ...]) -> list[int]:
    """The variables of a rectangle: cell (i, j, ...) of the grid has number (i * shape[1] + j) * shape[2] + ..."""
    offsets = [0]
    for (start, stop), extent in zip(rectangle, shape, strict=True):
        offsets = [offset * extent + i for offset, i in product(offsets, range(start, stop))]
    return offsets
