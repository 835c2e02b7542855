"""Splits, hidden cells, kinds and steps of columns.

A column of a table is rounded: to whole years, to tenths of a millimetre. Its step is the greatest length that divides
the differences of nearly all cells, its width that or a thousandth of its standard deviation, whichever is more.
Nothing that is scored here is known more closely than the width: no normal of a baseline peaks above the uniform
density over it, and a probability P of an atom counts as the density P / width. Without this a log-density has no upper
bound on a column whose values repeat, and the sharpest spike would win.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NUM_SPLITS, TEST_SHARE = 5, 0.25
RELATIVE_WIDTH, MAX_DECIMALS, MOST = 1e-3, 6, 0.9
DAY = np.timedelta64(1, "D")


def split(num_rows: int, seed: int, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows, TEST_SHARE of them, of each class where there are `labels` (at least one to train)."""
    random = np.random.default_rng(seed)
    order = random.permutation(num_rows)
    labels = np.zeros(num_rows, dtype=int) if labels is None else labels
    test = np.zeros(num_rows, dtype=bool)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        test[own[: min(round(TEST_SHARE * len(own)), len(own) - 1)]] = True
    return order[~test[order]], order[test[order]]


def hidden_cells(shape: tuple[int, int], share: float, seed: int) -> np.ndarray:
    """Which cells to hide, each with probability `share`: (B, D)."""
    return np.random.default_rng([seed, 1]).random(shape) < share


def hide(frame: Any, hidden: np.ndarray) -> Any:
    """The frame with the hidden cells missing, in the way of each column; whole numbers with gaps are floats."""
    columns = {}
    for d, name in enumerate(frame.columns):
        column = frame[name]
        if column.dtype.kind in "iu" and hidden[:, d].any():
            column = column.astype(float)
        if column.dtype.kind in "bOT":
            column = column.astype(object)
        columns[name] = column.mask(hidden[:, d], None if column.dtype == object else np.nan)
    return type(frame)(columns, index=frame.index)


def is_category(column: Any) -> bool:
    """Whether a column has names of kinds: text, logical, or no more than two numbers."""
    return column.dtype.kind not in "iufM" or column.nunique() <= 2


def numbers(column: Any) -> np.ndarray:
    """A column of numbers or dates as floats; dates in days since 1970."""
    if column.dtype.kind == "M":
        values = column.to_numpy()
        return np.where(np.isnat(values), np.nan, (values - np.datetime64(0, "D")) / DAY)
    return column.to_numpy(dtype=float)


def step(values: np.ndarray) -> float:
    """The greatest length that divides the differences of MOST cells; 0 if MAX_DECIMALS decimals do not show one.

    A few ages in months leave a column of ages in years what it is.
    """
    values, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    if len(values) < 2:
        return 0.0
    for decimals in range(MAX_DECIMALS + 1):
        scaled = values * 10.0**decimals
        whole = np.round(scaled)
        exact = np.abs(scaled - whole) <= 1e-9 * np.abs(scaled).max() + 1e-9
        if counts[exact].sum() >= MOST * counts.sum() and exact.sum() > 1:
            return float(np.gcd.reduce(np.diff(whole[exact]).astype(np.int64))) / 10**decimals
    return 0.0


def width(column: Any) -> float:
    """How closely the values of a column of numbers or dates are known, in its units; days for dates."""
    values = numbers(column)
    deviation = float(np.nanstd(values)) if np.isfinite(values).any() else 0.0
    return max(step(values), RELATIVE_WIDTH * deviation) or 1.0


def widths(frame: Any) -> dict[str, float]:
    """The width of each column that is a number or a date."""
    return {name: width(frame[name]) for name in frame.columns if frame[name].dtype.kind in "iufM"}
