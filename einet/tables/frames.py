"""Columns of cells as a DataFrame of pandas or polars or a table of pyarrow, in the dtypes that they had in training.

Source: not in the paper
"""

from __future__ import annotations

import datetime
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

# Python's dates, and those of nanoseconds in 64 bits: no sample goes further.
FIRST_DATE, LAST_DATE = np.datetime64("0001-01-02", "us"), np.datetime64("9999-12-30", "us")
FIRST_NANOSECOND, LAST_NANOSECOND = np.datetime64("1677-09-22", "us"), np.datetime64("2262-04-11", "us")


def frame(library: str, names: Sequence, cells: Sequence[np.ndarray], kinds: Sequence[Any], index: Any = None) -> Any:
    """A table of one of three libraries.

    Args:
        library: "pandas", "polars" or "pyarrow".
        names: of the columns.
        cells: of each, as `Kind.cells` gives them.
        kinds: what each was in training: `name`, `dtype` and `example`.
        index: of a pandas DataFrame.

    Source: not in the paper
    """
    module = importlib.import_module(library)
    if library == "pandas":
        columns = [_series(module, column, kind, index) for column, kind in zip(cells, kinds, strict=True)]
        result = module.concat(columns, axis=1)
        return result.set_axis(module.Index(names), axis=1)
    objects = [_objects(column, kind) for column, kind in zip(cells, kinds, strict=True)]
    if library == "polars":
        columns = [_of_polars(module, n, each, kind) for n, each, kind in zip(names, objects, kinds, strict=True)]
        return module.DataFrame(columns)
    columns = [_of_pyarrow(module, each, kind) for each, kind in zip(objects, kinds, strict=True)]
    return module.Table.from_arrays(columns, names=list(names))


def _within_dates(cells: np.ndarray, nanoseconds: bool) -> np.ndarray:
    if cells.dtype.kind == "M":
        first, last = (FIRST_NANOSECOND, LAST_NANOSECOND) if nanoseconds else (FIRST_DATE, LAST_DATE)
        return np.where(np.isnat(cells), cells, np.clip(cells, first, last))
    return cells


def _is_whole(dtype: Any) -> bool:
    return str(dtype).lower().startswith(("int", "uint"))


def _whole(cells: np.ndarray, dtype: Any) -> np.ndarray:
    """Rounded, within what an integer type can hold."""
    low, high = np.iinfo(str(dtype).lower()).min, np.iinfo(str(dtype).lower()).max
    return np.rint(cells).clip(low, np.nextafter(float(high), 0) if high > 2**53 else high)


def _series(pandas: Any, cells: np.ndarray, kind: Any, index: Any) -> Any:
    dtype = kind.dtype
    gaps = bool(pandas.isna(cells).any())
    if kind.name == "dates":
        cells = _within_dates(cells, "ns" in str(dtype))
        if str(dtype) == "object":
            return pandas.Series(_python(cells, kind), index=index, dtype=object)
        series = pandas.Series(cells, index=index)
        if getattr(dtype, "tz", None) is not None:
            series = series.dt.tz_localize("UTC")
        return series.astype(dtype)
    if kind.name == "durations":
        if str(dtype) == "object":
            return pandas.Series(_python(cells, kind), index=index, dtype=object)
        return pandas.Series(cells, index=index).astype(dtype)
    if kind.name in ("categories", "booleans"):
        held = object if gaps and str(dtype) == "bool" else dtype
        return pandas.Series(list(cells), index=index, dtype=held)
    if _is_whole(dtype):
        nullable = not isinstance(dtype, np.dtype)
        if gaps and not nullable:
            return pandas.Series(np.rint(cells), index=index)
        whole = [None if np.isnan(cell) else int(cell) for cell in _whole(cells, dtype)]
        return pandas.Series(whole, index=index, dtype=dtype)
    if str(dtype).lower().startswith("float"):
        return pandas.Series(cells, index=index).astype(dtype)
    return pandas.Series(cells, index=index)


def _python(cells: np.ndarray, kind: Any) -> list:
    """Times as Python's objects: dates without a time where the column had such, in UTC where it had zones."""
    example = kind.example
    result = [None if np.isnat(cell) else cell.astype(object) for cell in cells]
    if kind.name == "dates" and isinstance(example, datetime.datetime):
        if example.tzinfo is not None:
            result = [c and c.replace(tzinfo=datetime.timezone.utc).astimezone(example.tzinfo) for c in result]
        return result
    if kind.name == "dates" and isinstance(example, datetime.date):
        return [c and c.date() for c in result]
    return result


def _objects(cells: np.ndarray, kind: Any) -> list:
    """Python's objects, None where missing."""
    if cells.dtype.kind in "Mm":
        return _python(_within_dates(cells, "ns" in str(kind.dtype)), kind)
    if kind.name == "numbers":
        whole = _is_whole(kind.dtype)
        cells = _whole(cells, kind.dtype) if whole else cells
        return [None if np.isnan(cell) else int(cell) if whole else float(cell) for cell in cells]
    return list(cells)


def _of_polars(polars: Any, name: Any, objects: list, kind: Any) -> Any:
    dtype = kind.dtype
    if kind.name == "dates":
        series = polars.Series(str(name), objects, dtype=polars.Datetime("us"))
        zone = getattr(dtype, "time_zone", None)
        if zone is not None:
            series = series.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
        return series.cast(dtype)
    if kind.name == "numbers" and not dtype.is_numeric():
        return polars.Series(str(name), objects, dtype=polars.Float64)
    return polars.Series(str(name), objects, dtype=dtype, strict=False)


def _of_pyarrow(pyarrow: Any, objects: list, kind: Any) -> Any:
    kinds = pyarrow.types
    if kinds.is_dictionary(kind.dtype):
        return pyarrow.array(objects, type=kind.dtype.value_type).dictionary_encode().cast(kind.dtype)
    number = kinds.is_integer(kind.dtype) or kinds.is_floating(kind.dtype)
    if kind.name == "numbers" and not number:
        return pyarrow.array(objects, type=pyarrow.float64())
    return pyarrow.array(objects, type=kind.dtype)
