"""The cells of a table before they become floats: each is a number, or missing, or refused with its column.

    floats(X)                 (B, D) float64 in which NaN is missing, from whatever scikit-learn takes for a table

Source: not in the paper
"""

from __future__ import annotations

import datetime
import re
import reprlib
from decimal import Decimal
from typing import Any

import numpy as np
import torch

# pandas' NaT as an integer.
INTEGER_NAT = -(2.0**63)
# float64 has all whole numbers up to this. A training column that goes further spans at least so many of its steps.
MAX_EXACT, MIN_STEPS = 2.0**53, 100
# Text that stands for a missing cell in many files.
MISSING_WORDS = {"", "-", "--", ".", "?", "na", "n/a", "#n/a", "<na>", "nat", "none", "null", "missing", "unknown"}

THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:([,' ])\d{3})(?:\1\d{3})*(?:\.\d+)?")


class CellError(ValueError, TypeError):
    """A cell that is no number. scikit-learn demands a `TypeError` for an object that `float` refuses.

    Source: not in the paper
    """


def floats(X: Any, training: bool = False) -> Any:
    """A table of numbers as float64 (B, D), with NaN for a missing cell.

    Missing are None, NaN, NaT, pandas.NA, Decimal("NaN"), null and what a mask hides. Text of a number is that number.

    Args:
        X: a DataFrame (pandas, polars), a pyarrow table, an array of any dtype, masked or not, a tensor, or rows as
            lists.
        training: whether to refuse whole numbers that are the same as floats.

    Returns:
        The array; X itself where it is no table, which scikit-learn says better.

    Raises:
        ValueError: a cell is anything else or infinite, with its column and a remedy; or scikit-learn would not compare
            the names of the columns.

    Source: not in the paper
    """
    columns = columns_of(X)
    if columns is None:
        return X
    return np.stack([numbers_of(*pair, training) for pair in zip(columns, labels_of(X, len(columns)), strict=True)], 1)


def columns_of(X: Any) -> list[np.ndarray] | None:
    """The columns of a table, their cells as they are; None where X is none, or has no cell.

    Source: not in the paper
    """
    names = names_of(X)
    if names is None:
        array = _as_array(X)
        if array is None or array.ndim != 2:
            return None
        columns = [array[:, d] for d in range(array.shape[1])]
    else:
        _check_names(names)
        columns = [_column(X, d) for d in range(len(names))]
    return columns if columns and len(columns[0]) else None


def labels_of(X: Any, number: int) -> list[ColumnLabel]:
    """How errors call the columns.

    Source: not in the paper
    """
    names = names_of(X)
    return [ColumnLabel(X, name) for name in (range(number) if names is None else names)]


def names_of(X: Any) -> list | None:
    """The names of a table's columns; None for an array and what else has none.

    Source: not in the paper
    """
    if hasattr(X, "column_names"):  # pyarrow
        return list(X.column_names)
    if len(getattr(X, "shape", ())) == 2 and hasattr(X, "columns"):
        return list(X.columns)
    return None


def _column(X, d: int) -> np.ndarray:
    if hasattr(X, "iloc"):  # pandas, whose own integers with gaps would become floats
        column = X.iloc[:, d]
        whole = not isinstance(column.dtype, np.dtype) and getattr(column.dtype, "kind", "") in ("i", "u")
        return np.asarray(column, dtype=object if whole else None)
    column = X.to_series(d) if hasattr(X, "to_series") else X.column(d)  # polars, pyarrow
    if str(getattr(column, "type", "")).startswith("dictionary"):  # pyarrow's categories
        cells = np.empty(len(column), dtype=object)
        cells[:] = column.to_pylist()
        return cells
    return np.asarray(column)


def _as_array(X) -> np.ndarray | None:
    """An array whose cells are still what they were; None for what is neither array nor rows in lists."""
    if isinstance(X, torch.Tensor):  # numpy has no bfloat16, nor anything that is elsewhere or has a gradient
        X = X.detach().cpu()
        X = X.double() if X.dtype == torch.bfloat16 else X
    if isinstance(X, np.matrix) or not (isinstance(X, (list, tuple)) or hasattr(X, "__array__")):
        return None
    if not isinstance(X, (list, tuple)):
        X = np.asanyarray(X)
        if X.dtype.names:
            raise CellError(f"X is a structured array of {list(X.dtype.names)}: pandas.DataFrame(X) makes it a table")
        return X
    if any(isinstance(row, np.ma.MaskedArray) for row in X):
        return np.ma.array(X)
    try:
        array = np.asarray(X)
    except (TypeError, ValueError):  # dates beside numbers, or rows of different lengths
        array = None
    rows_of_cells = any(isinstance(row, (list, tuple)) for row in X)
    rounded = array is not None and rows_of_cells and array.dtype.kind == "f" and (np.abs(array) > MAX_EXACT).any()
    if array is not None and not rounded and (array.dtype.kind in "biuf" or not rows_of_cells):
        return array
    try:
        return np.array(X, dtype=object)
    except ValueError:
        return None


def _check_names(names: list) -> None:
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"columns must have names of their own, got {twice} more than once")
    if not all(isinstance(name, str) for name in names) and names != list(range(len(names))):
        raise ValueError(
            f"columns must have names of text, or 0, 1, ..., got {names}: "
            "make them, as in X.set_axis([str(name) for name in X.columns], axis=1)"
        )


# A column


class ColumnLabel:
    """How errors call a column: its name, and the code that has it as a pandas Series.

    Source: not in the paper
    """

    def __init__(self, X: Any, name: Any):
        code = {"pandas": "X[{!r}]", "polars": "pandas.Series(X[{!r}])", "pyarrow": "X[{!r}].to_pandas()"}
        self.name, own = f"column {name!r}", code.get(type(X).__module__.partition(".")[0], "pandas.DataFrame(X)[{!r}]")
        self.code = own.format(name)

    def refused(self, cell) -> CellError:
        if isinstance(cell, (np.str_, np.bytes_)):
            cell = cell.item()
        kind, remedy = _kind_and_remedy(cell, self.code)
        shown = str(cell) if isinstance(cell, np.generic) else reprlib.repr(cell)
        return CellError(f"{self.name} holds {kind} ({shown}): {remedy}")


def numbers_of(cells: np.ndarray, label: ColumnLabel, training: bool) -> np.ndarray:
    """The cells (B,) of a column of numbers as float64.

    Source: not in the paper
    """
    numbers = np.full(len(cells), np.nan)
    known, cells = ~np.ma.getmaskarray(cells), np.ma.getdata(cells)
    if cells.dtype.kind in "biuf":
        with np.errstate(over="ignore"):  # of a long double, which is refused below
            numbers[known] = cells[known]
    else:
        numbers[known] = [_number(cell, label) for cell in cells[known]]
    if np.isinf(numbers).any():
        raise CellError(
            f"{label.name} holds an infinity, or a number too large for float64: cells must be finite, or NaN where "
            f"missing, as in {label.code}.replace([numpy.inf, -numpy.inf], numpy.nan)"
        )
    if (numbers == INTEGER_NAT).any():
        raise CellError(
            f"{label.name} holds {INTEGER_NAT:.0f}, which is what NaT becomes as an integer: make numbers of the dates "
            "themselves, as in (dates - dates.min()) / pandas.Timedelta('1D')"
        )
    if training and (np.abs(numbers) > MAX_EXACT).any():
        _check_steps(cells[known], label)
    return numbers


def _check_steps(cells: np.ndarray, label: ColumnLabel) -> None:
    """Refuse whole numbers so large, and so close to each other, that float64 hardly tells them apart."""
    whole = [int(cell) for cell in cells if isinstance(cell, (int, np.integer))]
    low, high = min(whole, default=0), max(whole, default=0)
    if low < high and high - low < MIN_STEPS * np.spacing(float(max(-low, high))):
        raise CellError(
            f"{label.name} holds whole numbers from {low} to {high}, which float64 rounds to one another: subtract the "
            f"least first, as in {label.code} - {low}"
        )


def _number(cell, label: ColumnLabel) -> float:
    if is_missing(cell):
        return np.nan
    if isinstance(cell, (np.datetime64, np.timedelta64, complex, np.complexfloating)) or getattr(cell, "ndim", 0):
        raise label.refused(cell)
    try:
        return float(cell)
    except OverflowError:
        return np.inf
    except (TypeError, ValueError):
        raise label.refused(cell) from None


def is_missing(cell: Any) -> bool:
    """Whether a cell is None, NaN, NaT, pandas.NA, Decimal("NaN") or masked.

    Source: not in the paper
    """
    if cell is None or cell is np.ma.masked or type(cell).__name__ == "NAType":
        return True
    if isinstance(cell, Decimal):
        return cell.is_nan()
    return bool(cell != cell) if not getattr(cell, "ndim", 0) else False  # NaN and NaT


# What to do about it


def _kind_and_remedy(cell, column: str) -> tuple[str, str]:
    """What a cell is, and code that makes numbers of such a column, a pandas Series."""
    if isinstance(cell, (str, bytes)):
        return "text", _remedy_of_text(cell, column)
    if isinstance(cell, (np.timedelta64, datetime.timedelta)):
        return "durations", f"code it in days, as in pandas.to_timedelta({column}) / pandas.Timedelta('1D')"
    if isinstance(cell, (np.datetime64, datetime.date)):
        return "dates", _days_since(cell, f"pandas.to_datetime({column})")
    if isinstance(cell, datetime.time):
        return "times", f"code it in hours, as in pandas.to_timedelta({column}.astype(str)) / pandas.Timedelta('1h')"
    if hasattr(cell, "start_time"):
        start = f"{column}.map(lambda period: period.start_time, na_action='ignore')"
        return "periods", _days_since(cell.start_time, start)
    if hasattr(cell, "mid"):
        middle = f"{column}.map(lambda interval: interval.mid, na_action='ignore')"
        return "intervals", f"code it as their middles, as in {middle}"
    if isinstance(cell, (complex, np.complexfloating)):
        return "complex numbers", (
            "Complex data not supported, so make a column of each part, of numpy.imag just "
            f"as in {column}.map(numpy.real)"
        )
    kind = f"a {type(cell).__name__}, where float's argument must be a string or a number"
    if hasattr(cell, "__len__"):
        return kind, f"give each part a column, as in pandas.DataFrame({column}.tolist())"
    return kind, _map(cell, column)


def _remedy_of_text(cell: str | bytes, column: str) -> str:
    text = (cell.decode(errors="replace") if isinstance(cell, bytes) else cell).strip()
    if text.lower() in MISSING_WORDS:
        return f"where this is a missing cell, say so, as in {column}.mask({column} == {cell!r})"
    separator = THOUSANDS.fullmatch(text)
    if separator or re.fullmatch(r"[+-]?\d+,\d+", text):
        change = f"{separator[1]!r}, ''" if separator else "',', '.'"
        code = f"{column}.map(lambda cell: float(str(cell).replace({change})), na_action='ignore')"
        return f"make numbers of it, as in {code}"
    if is_date(text):
        return f"make dates of it, as in pandas.to_datetime({column})"
    return f"where these are names and not numbers, say so, as in {column}.astype('category')"


def is_number(text: str | bytes) -> bool:
    """Whether text is that of a number, or of NaN.

    Source: not in the paper
    """
    try:
        float(text)
    except ValueError:
        return False
    return True


def looks_like_number(text: str) -> bool:
    """Whether text is that of a number in another notation.

    Source: not in the paper
    """
    return bool(THOUSANDS.fullmatch(text) or re.fullmatch(r"[+-]?\d+,\d+", text))


def is_date(text: str) -> bool:
    """Whether text is a date in the order of year, month and day.

    Source: not in the paper
    """
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _days_since(first, dates: str) -> str:
    return f"code it in days since a date, as in ({dates} - pandas.Timestamp('{first}')) / pandas.Timedelta('1D')"


def _map(cell, column: str) -> str:
    return f"code it as numbers, as in {column}.map({{{cell!r}: 0, ...}})"
