"""Where the sum layers of a compiled network find their children.

Source: Section 3.3
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn

from einet.layers.derivatives import parts
from einet.layers.scaled import Gathered, Scaled


class Outputs(list[Scaled]):
    """What the levels put out, the leaves first, of which those that a single layer asks for are in `portions`, too.

    Autograd joins the gradients of all portions at once, where it would add up those of slices one after the other,
    each as large as all leaves.
    """

    def __init__(self, leaves: Scaled, sizes: Sequence[int]):
        super().__init__([leaves])
        self.portions = [type(leaves)(*part) for part in zip(*(parts(each, sizes) for each in leaves), strict=True)]


def portions_of_leaves(pools: Iterable[Pool], num_leaves: int) -> list[int]:
    """The sizes of portions of the leaves, in their order, and `portion` of the pools that are one."""
    runs = sorted(((pool.run, pool) for pool in pools if pool.run), key=lambda pair: pair[0].start)
    sizes, end = [], 0
    for run, pool in runs:
        if run.start < end:
            continue  # shared with another: this one fetches its leaves
        sizes += [run.start - end] if run.start > end else []
        pool.portion = len(sizes)
        sizes.append(len(run))
        end = run.stop
    return sizes + ([num_leaves - end] if num_leaves > end else [])


class Children(nn.ModuleList):
    """The children of a sum layer among the outputs of the levels below, as a list of pools.

    Args:
        sides: for each side, the left one first, the places (output, row) of the nodes' children; None for a node
            without one.
        sizes: the number of regions of each output.
        shared: the numbers of sides, one after the other, that share a pool: all, unless lengths of vectors differ.
    """

    def __init__(
        self, sides: Sequence[Sequence[tuple[int, int] | None]], sizes: list[int], shared: Sequence[int] | None = None
    ):
        shared = [len(sides)] if shared is None else shared
        present = iter([place for place in side if place is not None] for side in sides)
        super().__init__(Pool([next(present) for _ in range(count)], sizes) for count in shared)
        self.num_sides = len(sides)
        self.pool_of = [(pool, side) for pool, count in enumerate(shared) for side in range(count)]
        for number, side in enumerate(sides):  # where a node's child stands on a side that not all have; or -1
            places = None
            if None in side:
                has_one = torch.tensor([place is not None for place in side])
                places = torch.where(has_one, has_one.cumsum(0) - 1, -1)
            self.register_buffer(f"place_{number}", places, persistent=False)

    @property
    def pools(self) -> Sequence[Pool]:
        return cast(Sequence[Pool], self)  # torch types it as a list of any modules

    def gathered(self, outputs: list[Scaled]) -> Gathered:
        """The children of all sides, lazily, for a layer that may gather them itself."""
        pools, rows, segments = zip(*(pool.gathered(outputs) for pool in self.pools), strict=True)
        return Gathered(pools, rows, segments, self.num_sides, [pool.sizes for pool in self.pools])

    def forward(self, outputs: list[Scaled]) -> Sequence[Scaled]:
        """The children of each side: left and right."""
        return self.gathered(outputs).fetch()

    def places(self, side: int, node: Tensor) -> Iterator[tuple[int, Tensor | slice, Tensor]]:
        """(output, which of `node`, their rows there) for the children of these nodes on one side."""
        index, own_side = self.pool_of[side]
        pool, place = self.pools[index], getattr(self, f"place_{side}")
        rows = pool.rows.split(pool.sizes)[own_side]
        row = rows[node] if place is None else torch.where(place[node] < 0, -1, rows[place[node]])
        for source, first, past in pool.ranges:
            alone = place is None and len(pool.ranges) == 1
            which = slice(None) if alone else ((row >= first) & (row < past)).nonzero()[:, 0]
            yield source, which, row[which] - first

    def sums_at_leaves(self, values: Sequence[Tensor]) -> Tensor | float:
        """For each leaf region the sum over the children that it is: (n, K) of every side -> (L, K)."""
        sides = iter(values)
        of_pools = [[next(sides) for _ in pool.sizes] for pool in self.pools]
        pools = zip(self.pools, of_pools, strict=True)
        joined = ((pool, own[0] if len(own) == 1 else torch.cat(own)) for pool, own in pools if pool.at_leaves)
        return sum(pool.sums_at_leaves(own) for pool, own in joined)

    @property
    def at_leaves(self) -> int:
        """The number of children that are leaf regions."""
        return sum(pool.at_leaves for pool in self.pools)


class Pool(nn.Module):
    """Regions of the levels below, as one tensor.

    Args:
        sides: (output, row) of each child. In a tree they are all rows of the output just below, taken as it is.
        sizes: the number of regions of each output.
    """

    rows: Tensor
    order: Tensor
    offsets: Tensor

    def __init__(self, sides: list[list[tuple[int, int]]], sizes: list[int]):
        super().__init__()
        self.sizes = [len(side) for side in sides]
        places = [place for side in sides for place in side]
        sources = sorted({source for source, _ in places})
        ends = list(accumulate(sizes[source] for source in sources))
        self.ranges = list(zip(sources, [0, *ends[:-1]], ends, strict=True))  # (output, its first row here, past it)
        first = {source: start for source, start, _ in self.ranges}
        numbers = [first[source] + row for source, row in places]
        self.whole = numbers == list(range(ends[-1]))
        self.register_buffer("rows", torch.tensor(numbers), persistent=False)
        # CSR for the backward pass: the gradient of row m sums those of children order[offsets[m]:offsets[m + 1]].
        self.register_buffer("order", torch.argsort(self.rows, stable=True), persistent=False)
        counts = torch.bincount(self.rows, minlength=ends[-1])
        self.register_buffer("offsets", nn.functional.pad(counts.cumsum(0), (1, 0)), persistent=False)
        # Leaves are output 0, so their children come first in `order`.
        self.at_leaves = sum(source == 0 for source, _ in places)
        self.num_leaves = sizes[0] if self.at_leaves else 0
        self.portion: int | None = None  # of the leaves, which is all of this pool: see `Outputs`

    @property
    def run(self) -> range | None:
        """The rows of the leaf regions that this is, one after the other; None for anything else."""
        first = int(self.rows[0])
        run = range(first, first + len(self.rows))
        return run if self.at_leaves == len(self.rows) and self.rows.tolist() == list(run) else None

    def placed(self, starts: Sequence[int]) -> Tensor:
        """The rows of all children in one numbering of all outputs, whose rows begin at `starts`."""
        placed = torch.empty_like(self.rows)
        for source, first, past in self.ranges:
            own = (self.rows >= first) & (self.rows < past)
            placed[own] = self.rows[own] - first + starts[source]
        return placed

    def sums_at_leaves(self, values: Tensor) -> Tensor:
        """For each leaf region the sum over the children that it is, (n, K) -> (L, K), always in the same order."""
        offsets = self.offsets[: self.num_leaves + 1]
        return nn.functional.embedding_bag(self.leaf_users, values, offsets, mode="sum", include_last_offset=True)

    @property
    def leaf_users(self) -> Tensor:
        """The children that are leaf regions, sorted by leaf."""
        return self.order[: self.at_leaves]

    def gathered(self, outputs: list[Scaled]) -> tuple[Scaled, Tensor, tuple[Tensor, Tensor] | None]:
        """The vectors of all sources, which of them are taken, and the CSR index, as `Gathered` has it."""
        if self.portion is not None and isinstance(outputs, Outputs):
            return outputs.portions[self.portion], self.rows, None
        pool = Scaled.joined([outputs[source] for source, _, _ in self.ranges])
        return pool, self.rows, None if self.whole else (self.order, self.offsets)
