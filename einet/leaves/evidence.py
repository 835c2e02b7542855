"""What is known of rows: observed entries, and boxes that others lie in.

Source: Section 2, Eq. (1)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from einet.family import ExponentialFamily


@dataclass(frozen=True)
class Evidence:
    """Observed entries, and boxes that the others lie in. Without `low` and `high` there are no boxes.

    Attributes:
        x: (D, C, B).
        observed: (D, B) or (D, 1).
        low: (D, C, B) or (D, C, 1), float64. Of observed variables the ends may be anything.
        high: as `low`.
        among: for some variables which values they may have, (V, B) or (V, 1).
        first: the number of the first row, for messages.
    """

    x: Tensor
    observed: Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    among: Mapping[int, Tensor] = field(default_factory=dict)
    first: int = 0

    def rows(self, rows: slice | Tensor) -> Evidence:
        """The evidence of some rows."""

        def of(tensor: Any) -> Any:
            return tensor if tensor is None or tensor.shape[-1] == 1 else tensor[..., rows]

        among = {variable: of(table) for variable, table in self.among.items()}
        first = self.first + (rows.start or 0 if isinstance(rows, slice) else 0)
        x = self.x[..., rows]
        return Evidence(x, of(self.observed), of(self.low), of(self.high), among, first)

    def bounded(self) -> Tensor:
        """The variables of which something is known that is no value, (D, B) or (D, 1)."""
        if self.low is None or self.high is None:
            return torch.zeros_like(self.observed)
        bounded = ((self.low > -math.inf) | (self.high < math.inf)).any(1)
        bounded[list(self.among)] = True
        return bounded & ~self.observed

    def ends(self, variables: Tensor, column: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """low and high of variables (p,): (p, C, B), or (p, C) of a column (p,) each."""
        low, high = cast(Tensor, self.low)[variables], cast(Tensor, self.high)[variables]
        return (low, high) if column is None else (_at(low, column), _at(high, column))

    def allowed(
        self, family: ExponentialFamily, variables: Tensor, low: Tensor, high: Tensor, column: Tensor | None = None
    ) -> Tensor:
        """Which of a family's values lie in the box: (V, p, C, B), or (V, p, C) where each has a `column` (p,)."""
        allowed = family.allowed(low, high)
        for variable, table in self.among.items():
            own = (variables == variable).nonzero()[:, 0]
            if len(own):
                values = table[: len(allowed)]
                within = values[:, None, None] if column is None else values[:, column_of(table, column[own]), None]
                allowed = allowed.expand(*allowed.shape[:-1], max(allowed.shape[-1], within.shape[-1])).clone()
                allowed[:, own] &= within
        return allowed

    def rounded(self, drawn: Tensor, dtype: torch.dtype) -> Tensor:
        """Draws (N, B, D, C) in a dtype, whose rounding takes none out of its box that has another number inside."""
        result = drawn.to(dtype)
        if self.low is None or self.high is None or not dtype.is_floating_point:
            return result
        low, high = (end.permute(2, 0, 1) for end in (self.low, self.high))
        inside = self.bounded().T[..., None]
        above, below = inside & (result.double() > high), inside & (result.double() < low)
        result = torch.where(above, torch.nextafter(result, torch.full_like(result, -math.inf)), result)
        return torch.where(below, torch.nextafter(result, torch.full_like(result, math.inf)), result)


def column_of(tensor: Tensor, column: Tensor) -> Tensor:
    """The columns of a tensor's last axis, which may be one for all."""
    return column if tensor.shape[-1] > 1 else torch.zeros_like(column)


def _at(ends: Tensor, column: Tensor) -> Tensor:
    """(p, C, B) or (p, C, 1) at a column (p,) each: (p, C)."""
    return ends[torch.arange(len(ends), device=ends.device), :, column_of(ends, column)]
