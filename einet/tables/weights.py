"""Rows that count more or less than once: a row of weight 2 is that row twice.

Whole weights become repeated rows, so that everything that a row decides (its column's family, the structure, where EM
starts, what is held out) sees it as often as it counts. Weights that are no whole numbers go to the E-step as they are;
all else then sees rows in proportion to them.

Source: not in the paper
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Whole weights are repeated up to so many rows, or to this many times the rows of the table.
MAX_REPEATED_ROWS, MAX_REPEATS = 100_000, 4


def as_weights(sample_weight: Any, num_rows: int) -> np.ndarray:
    """One finite number of at least 0 for each row: (B,) float64.

    Raises:
        ValueError: they are anything else, or all 0.
    """
    try:
        weights = np.array(sample_weight, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"sample_weight must be {num_rows} numbers, got {sample_weight!r}") from None
    if weights.ndim != 1 or len(weights) != num_rows:
        raise ValueError(f"sample_weight must have the shape ({num_rows},), got {weights.shape}")
    if not np.isfinite(weights).all() or weights.min() < 0:
        wrong = weights[~np.isfinite(weights) | (weights < 0)][0]
        raise ValueError(f"sample_weight must be finite and at least 0, got {wrong}")
    if not weights.any():
        raise ValueError("Sample weights must contain at least one non-zero number: all are 0, so no row counts")
    return weights


def counted(sample_weight: Any, num_rows: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Which rows to train on, and how much each of them counts.

    Args:
        sample_weight: (B,), or None where every row counts once.
        num_rows: B.

    Returns:
        Numbers of rows, those of weight 0 left out, (R,); and None where each of these counts once, a row of weight 2
        being there twice, or else their weights (R,).

    Raises:
        ValueError: `sample_weight` is no weights of these rows.
    """
    if sample_weight is None:
        return np.arange(num_rows), None
    weights = as_weights(sample_weight, num_rows)
    if (weights == np.round(weights)).all() and weights.sum() <= max(MAX_REPEATED_ROWS, MAX_REPEATS * num_rows):
        return np.repeat(np.arange(num_rows), weights.astype(np.int64)), None
    rows = np.flatnonzero(weights)
    return rows, weights[rows]


def in_proportion(weights: np.ndarray | None, num_rows: int) -> np.ndarray:
    """Numbers of rows, each as often as its weight is in units of the mean, but at least once: (R,), R < 2 num_rows.

    For what knows no weights. A row that counts little is there nevertheless: its values are values of their columns.
    """
    if weights is None:
        return np.arange(num_rows)
    return np.repeat(np.arange(num_rows), np.maximum(1, np.round(weights / weights.mean())).astype(np.int64))


def canonical_order(numbers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rows sorted by what they hold, (B,): whatever order a table comes in, a seed draws the same from it.

    Args:
        numbers: of a `Table`, (B, D), NaN where missing.
        labels: the class of each, (B,).
    """
    return np.lexsort((*numbers.T, labels))


def mean(values: np.ndarray, sample_weight: Any = None) -> float:
    """The mean of values (B,), each as often as its weight says. A value that counts 0 times may be infinite."""
    if sample_weight is None:
        return float(np.mean(values))
    weights = as_weights(sample_weight, len(values))
    return float(np.average(values[weights > 0], weights=weights[weights > 0]))
