"""Mean log-density of test rows, in nats a row and in the units of the table.

Reals: rows with gaps are left out for all. Of all kinds: with gaps, which each model leaves out of its sum; the one
baseline is the best model of every column by itself. einet has, beside the rows, each column alone and given the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.tables.baselines import REALS
from experiments.tables.cells import hide, split, widths
from experiments.tables.columnwise import best_model, cells_of
from experiments.tables.learners import fitted_density, log_widths
from experiments.tables.sources import Table

COLUMNS = "columns"


def methods(table: Table) -> list[str]:
    return [*(REALS if table.reals else [COLUMNS]), "einet"]


def frame_of(table: Table) -> Any:
    """The rows that all methods have."""
    frame = table.rows()
    return frame.dropna(ignore_index=True) if table.reals else frame


def measure(table: Table, method: str, seed: int) -> dict:
    """One split: test_log_likelihood, and what was chosen or how each column did."""
    frame = frame_of(table)
    known = widths(frame)
    train, test = (frame.iloc[rows] for rows in split(len(frame), seed))
    if method == "einet":
        return _einet(train, test, frame, seed)
    if method == COLUMNS:
        return _columns(train, test, known)
    rows = train.to_numpy(dtype=float)
    density, chosen = REALS[method](rows, np.array(list(known.values())), seed)
    return {"test_log_likelihood": float(density(test.to_numpy(dtype=float)).mean()), "chosen": chosen}


def _columns(train: Any, test: Any, known: dict) -> dict:
    chosen, alone = {}, {}
    for name in train.columns:
        chosen[name], log_density = best_model(train[name], known.get(name))
        alone[name] = float(log_density(cells_of(test[name])).sum() / len(test))
    return {"test_log_likelihood": sum(alone.values()), "chosen": chosen, "alone": alone}


def _einet(train: Any, test: Any, table: Any, seed: int) -> dict:
    fitted = fitted_density(train, seed)
    shift = log_widths(fitted, test, table)
    whole = fitted.log_density(test)
    found = {"test_log_likelihood": float((whole - shift.sum(1)).mean()), "refused": fitted.refused}
    alone, given = {}, {}
    for d, name in enumerate(test.columns):
        hidden = np.zeros(test.shape, dtype=bool)
        hidden[:, d] = True
        one = fitted.log_density(hide(test, ~hidden))
        rest = fitted.log_density(hide(test, hidden))
        alone[name] = float((one - shift[:, d]).mean())
        given[name] = float((whole - rest - shift[:, d]).mean())
    return found | {"alone": alone, "given_rest": given}
