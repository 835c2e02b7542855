"""Where the sum layers of a compiled network find their children.

Source: Section 3.3
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn

from einet.scaled import Gathered, Scaled


class Children(nn.ModuleList):
    """The children of a sum layer among the outputs of the levels below, as a list of pools.

    Args:
        sides: for each side, the left one first, the places (output, row) of the nodes' children.
        sizes: the number of regions of each output.
        shared: whether all sides share one pool, as they do if their vectors have one length.
    """

    def __init__(self, sides: list[list[tuple[int, int]]], sizes: list[int], shared: bool = True):
        pools = [[place for side in sides for place in side]] if shared else sides
        super().__init__(Pool(places, sizes) for places in pools)
        self.num_sides = len(sides)

    @property
    def pools(self) -> Sequence[Pool]:
        return cast(Sequence[Pool], self)  # torch types it as a list of any modules

    def gathered(self, outputs: list[Scaled]) -> Gathered:
        """The children of all sides, lazily, for a layer that may gather them itself."""
        pools, rows, segments = zip(*(pool.gathered(outputs) for pool in self.pools), strict=True)
        return Gathered(pools, rows, segments, self.num_sides)

    def forward(self, outputs: list[Scaled]) -> Sequence[Scaled]:
        """The children of each side: left and right."""
        return self.gathered(outputs).fetch()

    def places(self, side: int, node: Tensor) -> Iterator[tuple[int, Tensor | slice, Tensor]]:
        """(output, which of `node`, their rows there) for the children of these nodes on one side."""
        sides_of_pool = self.num_sides // len(self)
        pool = self.pools[side // sides_of_pool]
        row = pool.rows.chunk(sides_of_pool)[side % sides_of_pool][node]
        for source, first, past in pool.ranges:
            which = slice(None) if len(pool.ranges) == 1 else ((row >= first) & (row < past)).nonzero()[:, 0]
            yield source, which, row[which] - first

    def sums_at_leaves(self, values: Sequence[Tensor]) -> Tensor | float:
        """For each leaf region the sum over the children that it is: (n, K) of every side -> (L, K)."""
        values = [torch.cat(list(values))] if len(self) == 1 else values
        pairs = zip(self.pools, values, strict=True)
        return sum(pool.sums_at_leaves(own) for pool, own in pairs if pool.at_leaves)

    @property
    def at_leaves(self) -> int:
        """The number of children that are leaf regions."""
        return sum(pool.at_leaves for pool in self.pools)


class Pool(nn.Module):
    """Regions of the levels below, as one tensor.

    Args:
        places: (output, row) of each child. In a tree they are all rows of the output just below, taken as it is.
        sizes: the number of regions of each output.
    """

    rows: Tensor
    order: Tensor
    offsets: Tensor

    def __init__(self, places: list[tuple[int, int]], sizes: list[int]):
        super().__init__()
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
        pool = Scaled.joined([outputs[source] for source, _, _ in self.ranges])
        return pool, self.rows, None if self.whole else (self.order, self.offsets)
