"""Tables that go out as they came in: a DataFrame with its names, dtypes and index, or an array.

Source: not in the paper
"""

from __future__ import annotations

from typing import Any

import numpy as np

from einet.tables.cells import names_of


def template_of(X: Any) -> Any:
    """The table without its rows: names and dtypes. None for an array, a list of rows or a tensor."""
    if names_of(X) is None:
        return None
    return X.iloc[:0] if hasattr(X, "iloc") else X[:0]


def as_table(values: Any, template: Any, index: Any = None) -> Any:
    """Values (B, D) as a table with the names and dtypes of `template`; as they are where that is None.

    A column keeps its dtype where that can hold its values: means of whole numbers become floats.

    Args:
        values: an array, or a DataFrame, which keeps its dtypes.
        template: a table of pandas, polars or pyarrow, of which names and dtypes count.
        index: of the rows, for pandas.
    """
    if template is None:
        return values
    if hasattr(template, "iloc"):
        import pandas

        if isinstance(values, pandas.DataFrame):
            return values if index is None else values.set_axis(index, axis=0)
        columns = [_as_dtype(pandas.Series(values[:, d]), template.dtypes.iloc[d]) for d in range(values.shape[1])]
        frame = pandas.concat(columns, axis=1) if columns else pandas.DataFrame()
        frame.columns = template.columns
        return frame if index is None else frame.set_axis(index, axis=0)
    columns = {name: column_of(values, d) for d, name in enumerate(names_of(template) or ())}
    return type(template).from_pydict(columns) if hasattr(template, "from_pydict") else type(template)(columns)


def like(X: Any, values: Any) -> Any:
    """Values (B, D) about the rows of X, in the form of X."""
    return as_table(values, None if names_of(X) is None else X, getattr(X, "index", None))


def numbers_like(X: Any, values: np.ndarray) -> Any:
    """Floats (B, D) about the cells of X, in the form of X but for its dtypes."""
    names = names_of(X)
    if names is None:
        return values
    if hasattr(X, "iloc"):
        return type(X)(values, columns=X.columns, index=X.index)
    return as_table(values, X)


def column_of(values: Any, d: int) -> np.ndarray:
    """The d-th column of an array, or of a DataFrame."""
    return np.asarray(values.iloc[:, d] if hasattr(values, "iloc") else values[:, d])


def _as_dtype(column: Any, dtype: Any) -> Any:
    """A Series in another dtype, if that can hold its values. Floats of any width can."""
    try:
        changed = column.astype(dtype)
        if getattr(dtype, "kind", "") == "f":
            return changed
        same = (changed.astype(object) == column.astype(object)) | column.isna()
    except (TypeError, ValueError):
        return column
    return changed if bool(same.all()) else column
