"""What the cells of each column are - numbers, text, yes or no, dates, durations - and how they become floats and back.

    table = read(X, training=True)          table.kinds, table.numbers (B, D), NaN where missing
    table.kinds.numbers(X)                  of another table of the same columns
    table.kinds.table(numbers)              a DataFrame again, if X was one

Source: not in the paper
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from einet.tables.cells import (
    CellError,
    ColumnLabel,
    columns_of,
    is_date,
    is_missing,
    is_number,
    labels_of,
    looks_like_number,
    names_of,
    numbers_of,
)
from einet.tables.frames import frame

# More different labels than this are names, not categories.
MAX_LABELS = 10_000
# Times are whole microseconds inside: of 290,000 years, and Python's unit. From the coarsest step that a column has:
STEPS = {"days": 86_400_000_000, "seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}


@dataclass
class Kind:
    """One column.

    Attributes:
        name: "numbers", "booleans", "categories", "dates" or "durations".
        dtype: of the library whose DataFrame the column was in, or of numpy.
        labels: of categories, which are 0, 1, ... as numbers.
        origin: of dates, in microseconds since 1970: the first.
        step: of times, in microseconds; all are whole multiples of it from `origin`.
        example: a known cell, so that objects come back as such.
    """

    name: str = "numbers"
    dtype: Any = None
    labels: list = field(default_factory=list)
    origin: int = 0
    step: int = 1
    example: Any = None

    @property
    def unit(self) -> tuple[str, int]:
        """Days or seconds, and how many microseconds they have."""
        name = "days" if self.step % STEPS["days"] == 0 else "seconds"
        return name, STEPS[name]

    def numbers(self, cells: np.ndarray, label: ColumnLabel, training: bool = False) -> np.ndarray:
        """The cells (B,) of such a column as float64, NaN where missing.

        Raises:
            ValueError: a cell is of another kind.
        """
        if self.name == "numbers":
            return numbers_of(cells, label, training)
        known = _known(cells)
        result, cells = np.full(len(cells), np.nan), np.ma.getdata(cells)[known]
        if self.name == "categories":
            place = {each: float(number) for number, each in enumerate(self.labels)}
            result[known] = [self._place(cell, place, label) for cell in cells]
        elif self.name == "booleans":
            result[known] = [self._checked(cell, _is_yes_or_no, label) for cell in cells]
        else:
            result[known] = (self._microseconds(cells, label) - self.origin) / self.unit[1]
        return result

    def _place(self, cell: Any, place: dict, label: ColumnLabel) -> float:
        """The number of a label; one beyond the last of what was never seen."""
        cell = _plain(cell)
        text = all(isinstance(each, (str, bytes)) for each in self.labels)
        self._checked(cell, lambda cell: isinstance(cell, (str, bytes)) if text else cell.__hash__ is not None, label)
        return place.get(cell, float(len(place)))

    def _microseconds(self, cells: np.ndarray, label: ColumnLabel) -> np.ndarray:
        of_dates = self.name == "dates"
        if cells.dtype.kind not in "Mm":
            check, convert = (_is_date, _from_date) if of_dates else (_is_duration, _from_duration)
            return np.array([convert(self._checked(cell, check, label)) for cell in cells], dtype=np.int64)
        if (cells.dtype.kind == "M") != of_dates:
            raise self._wrong(cells[0], label)
        return cells.astype("M8[us]" if of_dates else "m8[us]").astype(np.int64)

    def _checked(self, cell: Any, right: Callable[[Any], bool], label: ColumnLabel) -> Any:
        if not right(cell):
            raise self._wrong(cell, label)
        return cell

    def _wrong(self, cell: Any, label: ColumnLabel) -> CellError:
        shown = f"{type(cell).__name__} {str(cell)[:40]!r}"
        return CellError(
            f"{label.name} had {self.name} in training, such as {str(self.example)[:40]!r}, and here a cell is "
            f"{shown}: make its cells of the same kind, or NaN where they are missing"
        )

    def cells(self, numbers: np.ndarray) -> np.ndarray:
        """The inverse of `numbers`: an array (B,) of floats, bools, labels, datetime64 or timedelta64.

        Missing is NaN, NaT or, among bools and labels, None.
        """
        missing = np.isnan(numbers)
        if self.name == "numbers":
            return numbers
        if self.name in ("categories", "booleans"):
            labels = np.empty(max(2, len(self.labels)) + 1, dtype=object)
            labels[: max(2, len(self.labels))] = self.labels if self.name == "categories" else [False, True]
            place = np.where(missing, len(labels) - 1, np.nan_to_num(numbers)).astype(int)
            return labels[place]
        steps = np.rint(np.nan_to_num(numbers) * self.unit[1] / self.step)
        most = 9e18 / self.step
        microseconds = steps.clip(-most, most).astype(np.int64) * self.step + self.origin
        result = microseconds.astype("M8[us]" if self.name == "dates" else "m8[us]")
        result[missing] = "NaT"
        return result

    def text(self) -> str:
        if self.name in ("dates", "durations"):
            return f"{self.name}, {self.unit[0]}"
        return self.name

    def shown(self, number: float) -> str:
        if self.name == "numbers":
            return f"{number:g}"
        cell = self.cells(np.array([number]))[0]
        if self.name == "dates":
            return str(cell.astype("M8[D]") if self.unit[0] == "days" else cell.astype("M8[s]"))
        return str(cell.item()) if self.name == "durations" else str(cell)


@dataclass
class Table:
    """A table that has been read, so that nobody reads it twice."""

    kinds: Kinds
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: np.ndarray) -> Table:
        return Table(self.kinds, self.numbers[rows])


@dataclass
class Kinds:
    """The columns of a table.

    Attributes:
        columns: a `Kind` for each.
        names: of them, if they have any.
        library: "pandas", "polars" or "pyarrow" if it was one's table.
    """

    columns: list[Kind]
    names: list | None = None
    library: str | None = None

    def numbers(self, X: Any) -> Any:
        """A table of the same columns as floats; X itself where it is no table, or floats already.

        Raises:
            ValueError: other names, or a cell of another kind, with its column.
        """
        if isinstance(X, Table):
            return X.numbers
        plain = all(kind.name == "numbers" for kind in self.columns)
        if not plain and isinstance(X, np.ndarray) and X.dtype.kind == "f" and not isinstance(X, np.ma.MaskedArray):
            return X
        columns = columns_of(X)
        if columns is None:
            return X
        if not plain:
            self.check_names(X)
        if len(columns) != len(self.columns):
            return read(X).numbers  # for scikit-learn to say that there are too many
        labels = labels_of(X, len(columns))
        triples = zip(self.columns, columns, labels, strict=True)
        return np.stack([kind.numbers(cells, label) for kind, cells, label in triples], 1)

    def check_names(self, X: Any) -> None:
        for name, given in zip(self.names or (), names_of(X) or (), strict=False):
            if name != given:
                raise ValueError(f"the columns must be those of the training data: {name!r} is expected, got {given!r}")

    def table(self, numbers: np.ndarray, index: Any = None) -> Any:
        """Floats (..., D) as cells: a DataFrame of rows (B, D), if the training data were one, or an array."""
        if self.library is not None and numbers.ndim == 2:
            cells = [kind.cells(column) for kind, column in zip(self.columns, numbers.T, strict=True)]
            return frame(self.library, self.names or [], cells, self.columns, index)
        if all(kind.name == "numbers" for kind in self.columns):
            return numbers
        result = np.empty(numbers.shape, dtype=object)
        for d, kind in enumerate(self.columns):
            cells = kind.cells(numbers[..., d].reshape(-1))
            result[..., d] = cells.astype(object).reshape(numbers.shape[:-1])
        return result

    # What a column means, for the choice of its family

    def are_labels(self, d: int) -> bool:
        return self.columns[d].name in ("categories", "booleans")

    def may_count(self, d: int) -> bool:
        return self.columns[d].name == "numbers"

    def has_zero(self, d: int) -> bool:
        return self.columns[d].name != "dates"


def read(X: Any, training: bool = False) -> Table:
    """What a table's columns are, and their cells as floats.

    Raises:
        ValueError: X is no table; a cell is none of these, or not of the kind of the others in its column; a column has
            more than 10,000 different labels.

    Source: not in the paper
    """
    columns = columns_of(X)
    if columns is None:
        return Table(Kinds([]), X)
    names = names_of(X)
    library = type(X).__module__.partition(".")[0] if names is not None else None
    labels = labels_of(X, len(columns))
    pairs = enumerate(zip(columns, labels, strict=True))
    kinds = [_kind(cells, _dtype(X, d), label, names is not None) for d, (cells, label) in pairs]
    numbers = [kind.numbers(cells, label, training) for kind, cells, label in zip(kinds, columns, labels, strict=True)]
    library = library if library in ("pandas", "polars", "pyarrow") else None
    return Table(Kinds(kinds, names, library), np.stack(numbers, 1))


def _dtype(X: Any, d: int) -> Any:
    if hasattr(X, "iloc"):
        return X.dtypes.iloc[d]
    if hasattr(X, "column_names"):
        return X.schema.field(d).type
    return X.dtypes[d] if hasattr(X, "dtypes") else getattr(X, "dtype", None)


def _kind(cells: np.ndarray, dtype: Any, label: ColumnLabel, named: bool) -> Kind:
    known = np.ma.getdata(cells)[_known(cells)]
    example = _plain(known[0]) if len(known) else None
    if _is_category(dtype):
        return Kind("categories", dtype, _labels(known, dtype, label), example=example)
    if not len(known) or known.dtype.kind in ("iufc" if named else "biufc"):  # an array has one type for all columns
        return Kind("numbers", dtype)
    if known.dtype.kind == "b" or all(isinstance(cell, (bool, np.bool_)) for cell in known):
        return Kind("booleans", dtype, example=example)
    if known.dtype.kind == "M" or all(map(_is_date, known)):
        return _times(Kind("dates", dtype, example=example), known, label)
    if known.dtype.kind == "m" or all(map(_is_duration, known)):
        return _times(Kind("durations", dtype, example=example), known, label)
    if all(isinstance(cell, (str, bytes)) for cell in known) and not _are_numbers(known):
        return Kind("categories", dtype, _labels(known, None, label), example=example)
    return Kind("numbers", dtype)


def _known(cells: np.ndarray) -> np.ndarray:
    """Which cells are there."""
    known, cells = ~np.ma.getmaskarray(cells), np.ma.getdata(cells)
    if cells.dtype.kind in "fcMm":
        return known & ~np.isnat(cells) if cells.dtype.kind in "Mm" else known & ~np.isnan(cells)
    if cells.dtype.kind in "OSU":
        return known & ~np.array([is_missing(cell) or _is_text_of_nan(cell) for cell in cells], dtype=bool)
    return known


def _is_text_of_nan(cell: Any) -> bool:
    return isinstance(cell, (str, bytes)) and cell.strip().lower() in ("nan", b"nan")


def _are_numbers(known: np.ndarray) -> bool:
    """Whether most text is that of numbers or dates, so that the rest is a fault, and no category."""
    texts = [cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell) for cell in known]
    like = {text: is_number(text) or looks_like_number(text.strip()) or is_date(text.strip()) for text in set(texts)}
    return sum(like[text] for text in texts) >= len(texts) / 2


def _labels(known: np.ndarray, dtype: Any, label: ColumnLabel) -> list:
    """The different labels that occur, in the order of a pandas category, or sorted."""
    try:
        labels = {_plain(cell) for cell in known}
    except TypeError:
        raise label.refused(known[0]) from None
    if len(labels) > MAX_LABELS:
        raise ValueError(
            f"{label.name} has {len(labels)} different labels, at most {MAX_LABELS} can be categories: "
            f"leave it out, or join the rare ones"
        )
    declared = getattr(dtype, "categories", None)
    if declared is not None and hasattr(declared, "tolist"):  # pandas
        return [each for each in declared.tolist() if each in labels]
    try:
        return sorted(labels)
    except TypeError:
        return sorted(labels, key=str)


def _times(kind: Kind, known: np.ndarray, label: ColumnLabel) -> Kind:
    """With its origin and its step, from the cells."""
    microseconds = kind._microseconds(known, label)
    kind.origin = int(microseconds.min()) if kind.name == "dates" else 0
    offsets = microseconds - kind.origin
    if kind.name == "dates" and microseconds.min() % STEPS["days"]:
        offsets = np.append(offsets, kind.origin % STEPS["days"])
    kind.step = next(step for step in STEPS.values() if not (offsets % step).any())
    return kind


def _is_category(dtype: Any) -> bool:
    return str(dtype).lower().startswith(("category", "categorical", "enum", "dictionary"))


def _plain(cell: Any) -> Any:
    """A cell without numpy's types, so that equal labels are one."""
    return (
        cell.item() if isinstance(cell, np.generic) and not isinstance(cell, (np.datetime64, np.timedelta64)) else cell
    )


def _is_yes_or_no(cell: Any) -> bool:
    return isinstance(cell, (bool, np.bool_)) or (isinstance(cell, (int, float, np.number)) and cell in (0, 1))


def _is_date(cell: Any) -> bool:
    return isinstance(cell, (np.datetime64, datetime.date))


def _is_duration(cell: Any) -> bool:
    return isinstance(cell, (np.timedelta64, datetime.timedelta))


def _from_date(cell: Any) -> int:
    """Microseconds since 1970, of a date with a zone in UTC."""
    if isinstance(cell, datetime.datetime) and cell.tzinfo is not None:
        cell = cell.astimezone(datetime.timezone.utc).replace(tzinfo=None)
    return int(np.datetime64(cell, "us").astype(np.int64))


def _from_duration(cell: Any) -> int:
    if isinstance(cell, np.timedelta64):
        return int(cell.astype("m8[us]").astype(np.int64))
    return math.floor(cell / datetime.timedelta(microseconds=1))
