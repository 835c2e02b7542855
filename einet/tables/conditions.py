"""Conditions on the columns of a table, as boxes of the network's variables.

    Conditions(columns, {"age": (30, None), "region": {"north", "east"}, "job": "baker"}).boxes()

Source: not in the paper
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from einet.tables.cells import ColumnLabel
from einet.tables.column_models import UNSEEN_PROBABILITY
from einet.tables.columns import Columns

# The number of boxes that one question may take.
MAX_BOXES = 20_000
SEEN, UNSEEN = math.log1p(-UNSEEN_PROBABILITY), math.log(UNSEEN_PROBABILITY)


class Alternative(NamedTuple):
    """What one variable may be: `value`, if it is not NaN; between `low` and `high`; one of the `codes`, if any.

    `offset` is added to its log-probability. `kind` tells values of the training data, as a whole, from each that was
    not in them; it is None where that does not matter.
    """

    low: float = -math.inf
    high: float = math.inf
    value: float = math.nan
    codes: frozenset[int] | None = None
    kind: Any = None
    offset: float = 0.0


ANYTHING = Alternative()


class Boxes(NamedTuple):
    """The network's side of a question: N disjoint boxes, whose probabilities are added up.

    Attributes:
        low: (N, D), -inf where there is no bound.
        high: (N, D), inf where there is no bound.
        x: values (N, D), NaN where there is none.
        observed: (N, D).
        among: for variables with finitely many values, which are allowed (N, V).
        offset: added to the log-probability of each, (N,).
    """

    low: Tensor
    high: Tensor
    x: Tensor
    observed: Tensor
    among: dict[int, Tensor]
    offset: Tensor

    def rows(self, chosen: Tensor) -> Boxes:
        among = {d: allowed[chosen] for d, allowed in self.among.items()}
        low, high, x, observed = (part[chosen] for part in self[:4])
        return Boxes(low, high, x, observed, among, self.offset[chosen])


class Conditions:
    """Conditions {column: condition}: a value, a pair of bounds, both included, or a set of values.

    Args:
        columns: of the table.
        given: {name or number of a column: a value, (low, high) with None for no bound, or a set}.
        points: whether one value of a column of numbers is evidence, with a density, in place of an interval.
        name: of the argument, for errors.

    Attributes:
        alternatives: for each column that has a condition; none where no value meets it.
        values: {column: the value}, of columns that are to be one.

    Raises:
        ValueError: a column is not there, a bound is no number, bounds are the wrong way round or a set is empty.
    """

    def __init__(self, columns: Columns, given: Mapping[Any, Any] | None, points: bool = True, name: str = "given"):
        self.columns, self.name = columns, name
        if given is not None and not isinstance(given, Mapping):
            raise ValueError(f"{name} must be a dict of columns and conditions, got {given!r}")
        self.alternatives: dict[int, list[Alternative]] = {}
        self.values: dict[int, Any] = {}
        for column, condition in (given or {}).items():
            d = self._number(column)
            if d in self.alternatives:
                raise ValueError(f"{name} has column {column!r} twice")
            self.alternatives[d] = self._alternatives(d, condition, points)
            if not isinstance(condition, (tuple, set, frozenset)):
                self.values[d] = condition

    def _number(self, column: Any) -> int:
        width, names = len(self.columns.values), self.columns.names
        if names is not None and column in names:
            return names.index(column)
        if isinstance(column, Integral) and not isinstance(column, bool) and 0 <= int(column) < width:
            return int(column)
        known = f"0 to {width - 1}" if names is None else names
        raise ValueError(f"{self.name} must name columns of the training data, which are {known}, got {column!r}")

    def _alternatives(self, d: int, condition: Any, points: bool) -> list[Alternative]:
        label = f"{self.name}: column {d if self.columns.names is None else repr(self.columns.names[d])}"
        several = isinstance(condition, (set, frozenset))
        if condition is None or (several and not condition):
            raise ValueError(f"{label} must be a value, bounds or a set of values, got {condition!r}: leave it out")
        if isinstance(condition, tuple):
            low, high = _bounds(condition, label)
            if low is None and high is None:
                return [ANYTHING]
            return self._between(d, low, high, label)
        wanted = list(condition) if several else [condition]
        numbers = [self._number_of(d, value, label) for value in wanted]
        known = self.columns.values[d]
        if known is not None:
            codes = [np.flatnonzero(np.asarray(known) == number) for number in numbers]
            pairs = zip(wanted, codes, strict=True)
            unseen = [Alternative(kind=("unseen", value), offset=UNSEEN) for value, own in pairs if not len(own)]
            return _known(known, np.concatenate(codes)) + unseen
        point = points and not several
        return list(dict.fromkeys(self._at(d, number, point) for number in numbers))

    def _at(self, d: int, number: float, point: bool) -> Alternative:
        """One value of a column of numbers."""
        if number in self.columns.excluded[d]:
            return self._isolated(d, number)
        if not self._is_seen(d, number):
            return Alternative(kind=("unseen", number), offset=UNSEEN + self._possible(d).offset - SEEN)
        z = self._coordinate(d, number)
        return self._possible(d)._replace(value=z) if point else self._possible(d)._replace(low=z, high=z)

    def _between(self, d: int, low: Any, high: Any, label: str) -> list[Alternative]:
        if self.columns.kinds.columns[d].name == "categories":
            raise ValueError(f"{label} has no order: give a value or a set of values, not bounds {low, high}")
        least = -math.inf if low is None else self._number_of(d, low, label)
        most = math.inf if high is None else self._number_of(d, high, label)
        known = self.columns.values[d]
        if known is None:
            ends = (end if math.isinf(end) else self._coordinate(d, end) for end in (least, most))
            isolated = [self._isolated(d, value) for value in self.columns.excluded[d] if least <= value <= most]
            return [self._possible(d)._replace(**dict(zip(("low", "high"), ends, strict=True))), *isolated]
        known = np.asarray(known)
        return _known(known, np.flatnonzero((known >= least) & (known <= most)))

    def _possible(self, d: int) -> Alternative:
        """Any value that the family of a column of numbers has."""
        excluded, unseen = self.columns.excluded[d], self.columns.has_unseen(d)
        offset = math.log1p(-sum(excluded.values())) + (SEEN if unseen else 0.0)
        return Alternative(kind="seen", offset=offset) if excluded or unseen else ANYTHING

    def _isolated(self, d: int, number: float) -> Alternative:
        """A value that has a probability of its own beside the family, whatever the other columns are."""
        return Alternative(kind=("isolated", number), offset=math.log(self.columns.excluded[d][number]))

    def _is_seen(self, d: int, number: float) -> bool:
        """Whether the family of a column of numbers has this value."""
        row = np.full((1, len(self.columns.values)), np.nan)
        row[0, d] = number
        return bool(self.columns.encode(row)[1][0, d])

    def _number_of(self, d: int, value: Any, label: str) -> float:
        """A cell as the number that its column has for it."""
        kind, cell = self.columns.kinds.columns[d], np.empty(1, dtype=object)
        if kind.name in ("dates", "durations") and isinstance(value, str):
            raise ValueError(f"{label} has {kind.name}, got text: as in datetime.date.fromisoformat({value!r})")
        cell[0] = value
        names = self.columns.names
        try:
            number = float(kind.numbers(cell, ColumnLabel(None, d if names is None else names[d]))[0])
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        if math.isnan(number):
            raise ValueError(f"{label} must be a value that is not missing, got {value!r}")
        return number

    def _coordinate(self, d: int, number: float) -> float:
        """A number as the network has it."""
        return float(self.columns.coordinates(d, np.array([number]))[0])

    def filled(self, numbers: np.ndarray) -> Any:
        """Numbers (B, D) as a table in which the columns that are to be one value are that."""
        unseen = {}
        for d, value in self.values.items():
            number = self._number_of(d, value, self.name)
            kind = self.columns.kinds.columns[d]
            if kind.name == "categories" and number >= len(kind.labels):
                unseen[d] = value
            else:
                numbers[:, d] = number
        table: Any = self.columns.table(numbers)
        for d, value in unseen.items():
            cells = np.full(len(numbers), value, dtype=object)
            if isinstance(table, np.ndarray):
                table[:, d] = cells
            elif hasattr(table, "isetitem"):  # pandas
                table.isetitem(d, cells)
        return table

    def boxes(self, other: Conditions | None = None) -> Boxes | None:
        """All combinations of alternatives, of `other` too; None where nothing meets them all.

        Raises:
            ValueError: they are more than MAX_BOXES.
        """
        alternatives = dict(self.alternatives)
        for d, others in ({} if other is None else other.alternatives).items():
            pairs = product(alternatives.get(d, [ANYTHING]), others)
            alternatives[d] = [both for one, another in pairs if (both := _both(one, another)) is not None]
        number = math.prod(len(several) for several in alternatives.values())
        if number > MAX_BOXES:
            raise ValueError(f"the sets of numbers have {number} combinations, of which at most {MAX_BOXES} are summed")
        if not number:
            return None
        combinations = [dict(zip(alternatives, chosen, strict=True)) for chosen in product(*alternatives.values())]
        filled = torch.tensor([*ANYTHING[:3], 0.0], dtype=torch.float64).repeat(number, len(self.columns.values), 1)
        among = {
            d: torch.ones(number, len(np.asarray(self.columns.values[d])), dtype=torch.bool)
            for d, several in alternatives.items()
            if any(a.codes is not None for a in several)
        }
        for row, combination in enumerate(combinations):
            for d, a in combination.items():
                filled[row, d] = torch.tensor([*a[:3], a.offset], dtype=torch.float64)
                if a.codes is not None:
                    among[d][row] = torch.tensor([code in a.codes for code in range(among[d].shape[1])])
        low, high, x, offset = filled.unbind(2)
        return Boxes(low, high, x, ~x.isnan(), among, offset.sum(1))


def _bounds(condition: tuple, label: str) -> tuple[Any, Any]:
    if len(condition) != 2:
        raise ValueError(f"{label} must have bounds (low, high), got {condition!r}: a set {{...}} has several values")
    low, high = (None if isinstance(end, float) and math.isinf(end) else end for end in condition)
    try:
        wrong = low is not None and high is not None and not low <= high
    except TypeError:
        wrong = True
    if wrong:
        raise ValueError(f"{label} must have bounds (low, high) with low <= high, got {condition!r}")
    return low, high


def _known(known: Any, codes: np.ndarray) -> list[Alternative]:
    """Some of the values of a column that has categories, or is constant: then there is no variable to ask."""
    if not len(codes):
        return []
    codes_of_variable = None if len(known) == 1 else frozenset(codes.tolist())
    return [Alternative(codes=codes_of_variable, kind="seen", offset=SEEN)]


def _both(one: Alternative, other: Alternative) -> Alternative | None:
    """What meets both conditions on a column; None where nothing does."""
    low, high = max(one.low, other.low), min(one.high, other.high)
    values = {a.value for a in (one, other) if not math.isnan(a.value)}
    kinds = {a.kind for a in (one, other) if a.kind is not None}
    sets = [a.codes for a in (one, other) if a.codes is not None]
    codes = frozenset.intersection(*sets) if sets else None
    if low > high or len(values) > 1 or len(kinds) > 1 or (sets and not codes):
        return None
    if any(not low <= value <= high for value in values):
        return None
    value, kind = next(iter(values), math.nan), next(iter(kinds), None)
    return Alternative(low, high, value, codes, kind, min(one.offset, other.offset))
