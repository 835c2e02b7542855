"""What travels between layers: vectors of scaled densities, so that nothing underflows, and lazily gathered ones.

Scales are constants to autograd. That is exact, for derivatives of every order: the circuit's output does not change
when a factor moves from `value` to `log_scale`, so the gradients of all scales sum to zero.

Source: Section 3.2, Eq. (4)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from einet.layers.derivatives import parts
from einet.layers.scratch import exp


def rescaled(sums: Tensor) -> tuple[Tensor, Tensor]:
    """(S / max S, log max S), by plain operations."""
    scale = sums.detach().amax(1).clamp_min(torch.finfo(sums.dtype).tiny)
    return sums / scale[:, None], torch.log(scale.double())


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
        """log value, (L, K, B). Where a density is 0 it is -inf, without a gradient."""
        possible = self.value > 0
        return torch.where(possible, torch.log(torch.where(possible, self.value, 1)), -torch.inf)

    def log(self) -> Tensor:
        """The log-densities (L, K, B), in float64."""
        return torch.log(self.value.double()) + self.log_scale[:, None]

    def uses(self, gradient: Tensor) -> Tensor:
        """Expected counts of the entries, value * d log P / d value, from the gradient d log P / d value."""
        return self.value.detach() * gradient

    def map(self, function: Callable[[Tensor], Tensor]) -> Scaled:
        """The same function of both tensors, such as `index_select` along an axis of both."""
        return type(self)(*map(function, self))

    @staticmethod
    def joined(several: Sequence[Scaled], dim: int = 0) -> Scaled:
        """Concatenation along an axis, as `LogScaled` if any are."""
        if len(several) == 1:
            return several[0]
        kind = LogScaled if any(isinstance(vectors, LogScaled) for vectors in several) else Scaled
        values = [vectors.value if type(vectors) is kind else vectors.relative() for vectors in several]
        return kind(torch.cat(values, dim), torch.cat([vectors.log_scale for vectors in several], dim))


class LogScaled(Scaled):
    """The same densities with log value in `value`, so that none is too small for its dtype.

    Leaves below layers that multiply entry by entry come like this: an entry that is e^-100 of the largest on one side
    may be the one that matters after the product.
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
    """The children of a sum layer, not gathered yet: on a GPU the einsum kernel gathers them itself.

    Attributes:
        pools: one that all sides share, or one for each side.
        rows: for each pool the index of the nodes' children in it, (sides * L,) with all left ones first, or (L,).
        segments: for each pool the CSR index (order, offsets) from its rows to the children: row m is the children
            order[offsets[m]:offsets[m + 1]]. None if child c is row c.
        num_sides: children of a node, 2 for pairs.
        sizes: for each pool the numbers of children on its sides. None if all sides have one child a node, and all
            pools as many sides.
    """

    pools: Sequence[Scaled]
    rows: Sequence[Tensor]
    segments: Sequence[tuple[Tensor, Tensor] | None]
    num_sides: int
    sizes: Sequence[Sequence[int]] | None = None

    @classmethod
    def of(cls, children: Sequence[Scaled | Gathered]) -> Gathered:
        """A layer's arguments. Vectors as they are become pools that are taken whole."""
        if isinstance(children[0], Gathered):
            return children[0]
        pools = cast(Sequence[Scaled], children)
        rows = [torch.arange(len(pool.value), device=pool.value.device) for pool in pools]
        return cls(pools, rows, [None] * len(pools), len(pools), [[len(own)] for own in rows])

    def by_side(self) -> tuple[Sequence[Scaled], list[Tensor], Sequence]:
        """The pools, the rows of each side, (L,), and the segments, as a kernel takes them."""
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
    """A layer's arguments as vectors: the left ones, the right ones."""
    return children[0].fetch() if isinstance(children[0], Gathered) else cast(Sequence[Scaled], children)
