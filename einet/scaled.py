"""What travels between layers: vectors of densities, scaled so that nothing underflows, and vectors not fetched yet.

Scales are constants to autograd. That is exact: the circuit's output is the same when a factor moves from `value` to
`log_scale`, so whatever gradient the choice of scale would have sums to zero. So it is for every order of derivative,
since the output as a function of the parameters is the same one for any scales that are held.

Paper: Section 3.2, Eq. (4)
Chapter: book/02_log_einsum_exp
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from einet.derivatives import parts
from einet.scratch import exp


class Scaled(NamedTuple):
    """Vectors of densities value * exp(log_scale): value (L, K, B), log_scale (L, B) in float64."""

    value: Tensor
    log_scale: Tensor

    @classmethod
    def from_log(cls, log_density: Tensor, dtype: torch.dtype) -> Scaled:
        """From log-densities (L, K, B). The scale is subtracted before `dtype` rounds."""
        log_scale = log_density.detach().amax(1).clamp_min(torch.finfo(log_density.dtype).min)
        return cls(cls._from_relative((log_density - log_scale[:, None]).to(dtype)), log_scale.double())

    @staticmethod
    def _from_relative(relative: Tensor) -> Tensor:
        return exp(relative)

    def relative(self) -> Tensor:
        """log value, (L, K, B), which is -inf, and without a gradient, where a density is 0."""
        possible = self.value > 0
        return torch.where(possible, torch.log(torch.where(possible, self.value, 1)), -torch.inf)

    def log(self) -> Tensor:
        """The log-densities (L, K, B), in float64."""
        return torch.log(self.value.double()) + self.log_scale[:, None]

    def uses(self, gradient: Tensor) -> Tensor:
        """value * d log P / d value, given the gradient d log P / d value: how often each entry is used."""
        return self.value.detach() * gradient

    def map(self, function: Callable[[Tensor], Tensor]) -> Scaled:
        """The same function of both tensors, such as a choice along an axis that both have."""
        return type(self)(*map(function, self))

    @staticmethod
    def joined(several: Sequence[Scaled], dim: int = 0) -> Scaled:
        """All of them along an axis, as logarithms where any are."""
        if len(several) == 1:
            return several[0]
        kind = next((type(each) for each in several if isinstance(each, LogScaled)), Scaled)
        values = [each.value if type(each) is kind else each.relative() for each in several]
        return kind(torch.cat(values, dim), torch.cat([each.log_scale for each in several], dim))


class LogScaled(Scaled):
    """The same densities, `value` being their logarithms less the scale: none is too small for its dtype.

    So leaves are given to layers that multiply entry by entry: entries that are e^-100 of the largest on one side may
    be the ones that matter once the other side is multiplied.
    """

    @staticmethod
    def _from_relative(relative: Tensor) -> Tensor:
        return relative

    def relative(self) -> Tensor:
        return self.value

    def log(self) -> Tensor:
        return self.value.double() + self.log_scale[:, None]

    def uses(self, gradient: Tensor) -> Tensor:
        return gradient


class Gathered(NamedTuple):
    """The children of a sum layer, not fetched yet: on a GPU, the kernel of the einsum layer fetches them itself.

    pools      one that all sides share, or one for each side
    rows       for each pool, where in it the nodes' children are, all left ones before all right ones: (sides * L,)
               or (L,)
    segments   for each pool (order, offsets), or None where it is taken whole, in its order: row m of the pool is the
               children order[offsets[m]:offsets[m + 1]]
    num_sides  2 for pairs
    sizes      for each pool, the numbers of children on its sides; None where all sides have as many, one a node, and
               all pools as many sides
    """

    pools: Sequence[Scaled]
    rows: Sequence[Tensor]
    segments: Sequence[tuple[Tensor, Tensor] | None]
    num_sides: int
    sizes: Sequence[Sequence[int]] | None = None

    @classmethod
    def of(cls, children: Sequence[Scaled | Gathered]) -> Gathered:
        """What a layer is called with, where that may be vectors as they are: each is then a pool, taken whole."""
        if isinstance(children[0], Gathered):
            return children[0]
        rows = [torch.arange(len(child.value), device=child.value.device) for child in children]
        return cls(children, rows, [None] * len(children), len(children), [[len(own)] for own in rows])

    def by_side(self) -> tuple[Sequence[Scaled], list[Tensor], Sequence]:
        """The pools, the rows of each side, (L,), and the segments: what a kernel takes."""
        sides = [side for rows, sizes in zip(self.rows, self.sizes_of_pools, strict=True) for side in rows.split(sizes)]
        return self.pools, sides, self.segments

    @property
    def sizes_of_pools(self) -> Sequence[Sequence[int]]:
        if self.sizes is not None:
            return self.sizes
        sides = self.num_sides // len(self.pools)
        return [[len(rows) // sides] * sides for rows in self.rows]

    def fetch(self) -> list[Scaled]:
        """The vectors of each side, the left ones first."""
        sides = []
        for pool, rows, segments, sizes in zip(self.pools, self.rows, self.segments, self.sizes_of_pools, strict=True):
            taken = pool if segments is None else pool.map(lambda tensor, rows=rows: tensor.index_select(0, rows))
            halves = [parts(tensor, sizes) for tensor in taken]
            sides += [type(pool)(*side) for side in zip(*halves, strict=True)]
        return sides


def fetched(children: Sequence[Scaled | Gathered]) -> Sequence[Scaled]:
    """What a layer is called with, as vectors: the left ones, the right ones."""
    return children[0].fetch() if isinstance(children[0], Gathered) else children
