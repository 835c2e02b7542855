"""Hidden cells filled in: 20 % of the cells of all rows are hidden.

Fits see the training rows with their gaps; test rows are judged, those of a small table several times with other cells
hidden. Reals by the root of the mean squared error, in standard deviations of the training rows; categories by
the share that is right; and, of einet alone, the log-density of a row's hidden cells given the others, in nats a hidden
cell. The rivals have categories one by one as 0 or 1, and numbers standardised.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.tables.cells import hidden_cells, hide, is_category, numbers, split
from experiments.tables.learners import Fitted, density_estimator, log_widths
from experiments.tables.sources import Table

SHARE, ROWS = 0.2, 300
IMPUTERS = ("iterative", "neighbours")


def methods(table: Table) -> list[str]:
    return [*IMPUTERS, "einet"]


def measure(table: Table, method: str, seed: int) -> dict:
    frame = table.rows()
    train, test = split(len(frame), seed)
    seen = hide(frame.iloc[train], hidden_cells((len(train), frame.shape[1]), SHARE, seed))
    frame = frame[[name for name in frame if seen[name].notna().any()]]  # no model knows a column of gaps
    whole = frame.iloc[np.tile(test, repeats(len(test)))].reset_index(drop=True)
    hidden = hidden_cells(whole.shape, SHARE, seed + 1000) & whole.notna().to_numpy()
    arguments = seen[frame.columns], hide(whole, hidden), seed
    if method == "einet":
        fitted, filled = filled_by_einet(*arguments)
        found = _hidden_log_density(fitted, whole, arguments[1], hidden, frame)
    else:
        filled, found = _rival(method, *arguments), {}
    return errors(frame.iloc[train], whole, filled, hidden, frame) | found


def repeats(num_rows: int) -> int:
    """How often to judge the test rows, other cells hidden each time, so that a small table has ROWS of them, too."""
    return -(-ROWS // num_rows)


def errors(train: Any, test: Any, filled: Any, hidden: np.ndarray, whole: Any) -> dict:
    """rmse of the hidden reals, accuracy of the hidden categories; None where there are none."""
    squares, right = [], []
    for d, name in enumerate(whole.columns):
        cells = hidden[:, d]
        if is_category(whole[name]):
            right.extend(_text(filled[name][cells]) == _text(test[name][cells]))
        else:
            scale = np.nanstd(numbers(train[name])) or 1.0
            squares.extend(((numbers(filled[name]) - numbers(test[name]))[cells] / scale) ** 2)
    return {
        "rmse": float(np.sqrt(np.mean(squares))) if squares else None,
        "accuracy": float(np.mean(right)) if right else None,
        "cells": [len(squares), len(right)],
    }


def _text(column: Any) -> np.ndarray:
    """Names of kinds as text; numbers that came back as floats as the whole numbers they were."""
    return np.array([str(int(v)) if not isinstance(v, str) and v == v and v == int(v) else str(v) for v in column])


def _hidden_log_density(fitted: Fitted, whole: Any, gaps: Any, hidden: np.ndarray, table: Any) -> dict:
    shift = log_widths(fitted, whole, table)[hidden].sum()
    total = (fitted.log_density(whole) - fitted.log_density(gaps)).sum() - shift
    return {"hidden_log_density": float(total / max(1, hidden.sum())), "refused": fitted.refused}


def filled_by_einet(train: Any, test: Any, seed: int) -> tuple[Fitted, Any]:
    """By EinetImputer, or the density's own `predict_missing` where there is none; the density beside it."""
    import einet.tables

    imputer = getattr(einet.tables, "EinetImputer", None)
    if imputer is None:
        fitted = Fitted(density_estimator(seed), train)
        return fitted, fitted.frame(fitted.ask("predict_missing", test), test)
    fitted = Fitted(imputer(random_state=seed), train)
    filled = fitted.frame(fitted.ask("transform", test), test)
    return fitted.with_estimator(fitted.estimator.density_), filled


def _rival(method: str, train: Any, test: Any, seed: int) -> Any:
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer

    coder = OneByOne(train)
    imputer = IterativeImputer(random_state=seed) if method == "iterative" else KNNImputer()
    imputer.fit(coder.code(train))
    return coder.decode(imputer.transform(coder.code(test)), test)


class OneByOne:
    """Rows for scikit-learn: numbers standardised, and a column of 0 and 1 for each category seen in training."""

    def __init__(self, train: Any):
        self.values = {n: list(train[n].dropna().unique()) for n in train if is_category(train[n])}
        reals = {n: numbers(train[n]) for n in train if n not in self.values}
        self.scales = {name: (np.nanmean(x), np.nanstd(x) or 1.0) for name, x in reals.items()}

    def code(self, frame: Any) -> np.ndarray:
        columns = []
        for name in frame.columns:
            if name in self.scales:
                mean, deviation = self.scales[name]
                columns.append((numbers(frame[name]) - mean) / deviation)
            else:
                missing = frame[name].isna().to_numpy()
                columns += [np.where(missing, np.nan, (frame[name] == v).to_numpy()) for v in self.values[name]]
        return np.stack(columns, 1).astype(float)

    def decode(self, rows: np.ndarray, frame: Any) -> Any:
        """Filled rows as a frame: of categories the largest; what was there in `frame` stays as it was."""
        columns, place = {}, 0
        for name in frame.columns:
            several = len(self.values.get(name, [None]))
            block = rows[:, place : place + several]
            place += several
            if name in self.scales:
                mean, deviation = self.scales[name]
                columns[name] = block[:, 0] * deviation + mean
            else:
                best = frame[name].copy().astype(object)
                best[:] = [self.values[name][k] for k in block.argmax(1)]
                columns[name] = best.where(frame[name].isna(), frame[name])
        return type(frame)(columns, index=frame.index)
