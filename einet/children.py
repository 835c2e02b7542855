"""Where the sum layers of a compiled network find their children.

Paper: Section 3.3
Chapter: book/04_layers
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from einet.scaled import Gathered, Scaled


class Children(nn.ModuleList):
    """Where a sum layer finds its children among the outputs of the levels below: a list of pools.

    `sides` has for each side, the left one first, the places (output, row) of the nodes' children there. All sides
    share one pool, unless their vectors differ in length.
    """

    def __init__(self, sides: list[list[tuple[int, int]]], sizes: list[int], shared: bool = True):
        pools = [[place for side in sides for place in side]] if shared else sides
        super().__init__(Pool(places, sizes) for places in pools)
        self.num_sides = len(sides)

    def gathered(self, outputs: list[Scaled]) -> Gathered:
        """The children of all sides, for a layer that may fetch them itself."""
        pools, rows, segments = zip(*(pool.gathered(outputs) for pool in self), strict=True)
        return Gathered(pools, rows, segments, self.num_sides)

    def forward(self, outputs: list[Scaled]) -> Sequence[Scaled]:
        """The children of each side: left and right."""
        return self.gathered(outputs).fetch()

    def places(self, side: int, node: Tensor) -> Iterator[tuple[int, Tensor | slice, Tensor]]:
        """(output, which of `node`, their rows there) for the children of these nodes on one side."""
        a_pool = self.num_sides // len(self)  # so many sides
        pool = self[side // a_pool]
        number = pool.rows.chunk(a_pool)[side % a_pool][node]
        for source, first, past in pool.ranges:
            own = slice(None) if len(pool.ranges) == 1 else ((number >= first) & (number < past)).nonzero()[:, 0]
            yield source, own, number[own] - first

    def sums_at_leaves(self, each: Sequence[Tensor]) -> Tensor | float:
        """For each leaf region the sum over the children that it is: (n, K) of every side -> (L, K)."""
        each = [torch.cat(list(each))] if len(self) == 1 else each
        pools = zip(self, each, strict=True)
        return sum(pool.sums_at_leaves(own) for pool, own in pools if pool.at_leaves)

    @property
    def at_leaves(self) -> int:
        """So many children are leaf regions."""
        return sum(pool.at_leaves for pool in self)


class Pool(nn.Module):
    """Some regions of the levels below, as one tensor.

    `places` are pairs (output, row). In a tree they are all of the output just below, which is then taken as it is.
    """

    def __init__(self, places: list[tuple[int, int]], sizes: list[int]):
        super().__init__()
        sources = sorted({source for source, _ in places})
        ends = list(accumulate(sizes[source] for source in sources))
        self.ranges = list(
            zip(sources, [0, *ends], ends, strict=False)
        )  # (output, its first row here, and the last + 1)
        first = {source: start for source, start, _ in self.ranges}
        numbers = [first[source] + row for source, row in places]
        self.whole = numbers == list(range(ends[-1]))
        rows = torch.tensor(numbers)
        self.register_buffer("rows", rows, persistent=False)
        # CSR: row m of the sources is the children order[offsets[m]:offsets[m + 1]], whose gradients it gets.
        self.register_buffer("order", torch.argsort(rows, stable=True), persistent=False)
        counts = torch.bincount(rows, minlength=ends[-1])
        self.register_buffer("offsets", nn.functional.pad(counts.cumsum(0), (1, 0)), persistent=False)
        # The leaves, where there are any, are the first rows, and so the first of `order`.
        self.at_leaves = sum(source == 0 for source, _ in places)  # so many children are leaf regions
        self.num_leaves = sizes[0] if self.at_leaves else 0

    def sums_at_leaves(self, each: Tensor) -> Tensor:
        """For each leaf region the sum over the children that it is, (n, K) -> (L, K), always in the same order."""
        offsets = self.offsets[: self.num_leaves + 1]
        return nn.functional.embedding_bag(self.leaf_users, each, offsets, mode="sum", include_last_offset=True)

    @property
    def leaf_users(self) -> Tensor:
        """The children that are leaf regions, by leaf: as many numbers as there are such children."""
        return self.order[: self.at_leaves]

    def gathered(self, outputs: list[Scaled]) -> tuple[Scaled, Tensor, tuple[Tensor, Tensor] | None]:
        """The vectors of all sources, and which of them are taken, as `Gathered` has it."""
        pool = Scaled.joined([outputs[source] for source, _, _ in self.ranges])
        return pool, self.rows, None if self.whole else (self.order, self.offsets)
