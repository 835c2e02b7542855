"""When to stop: held-out rows, or folds where these would be too few.

Source: not in the paper
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from einet.data import steps_of_epoch
from einet.inputs import as_number

# Fewer validation rows than this are too few to decide when to stop; so many folds then decide together.
MIN_VALIDATION_ROWS, FOLDS = 50, 5


def folds(labels: np.ndarray, share: float) -> np.ndarray:
    """Divide rows into validation parts, with an equal share of each class.

    Args:
        labels: the class of each row, (B,).
        share: of the rows that are held out, within [0, 1).

    Returns:
        The part of each row, (B,): 0 for held-out rows and -1 for all others, if there are enough of the first, or 0 to
        FOLDS - 1. All are -1 where share is 0, or for a single row.
    """
    share = as_number("validation", share, "a share within [0, 1)", lambda number: 0 <= number < 1)
    rank, size = np.zeros(len(labels)), np.zeros(len(labels))
    for label in np.unique(labels):
        own = labels == label
        rank[own], size[own] = np.arange(own.sum()), own.sum()
    held_out = rank < np.floor(share * size)
    if held_out.sum() >= MIN_VALIDATION_ROWS:
        return np.where(held_out, 0, -1)
    if share == 0 or len(labels) < 2:
        return np.full(len(labels), -1)
    return (rank + labels).astype(int) % FOLDS  # small classes begin in different folds


def epochs_by_folds(train: Callable, order: np.ndarray, parts: np.ndarray, epochs: int, batch_size: int | None) -> int:
    """How many epochs all rows should train for: as many steps as were best, in the median, without one fold.

    Args:
        train: from rows, held-out rows and `epochs=` to a model and its `History`.
        order: the rows, (B,).
        parts: the fold of each of them, (B,), as by `folds`.
        epochs: most of them.
        batch_size: as in `einet.fit`.
    """
    best = []
    for part in range(parts.max() + 1):
        rows = order[parts != part]
        with warnings.catch_warnings():  # a fold says how far to go, not whether training succeeded
            warnings.filterwarnings("ignore", "training ended", UserWarning)
            _, history = train(rows, order[parts == part], epochs=epochs)
        best.append((history.best_epoch + 1) * steps_of_epoch(len(rows), batch_size))
    return max(1, round(float(np.median(best)) / steps_of_epoch(len(order), batch_size)))
