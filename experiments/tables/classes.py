"""Accuracy and log-loss of classes on test rows, whole and with 30 % of their cells hidden.

Gradient boosting takes gaps and categories as they are; logistic regression and naive Bayes have categories one by one
as 0 or 1, numbers standardised, and the mean of training for a missing cell. All by scikit-learn's defaults, but for
steps enough that logistic regression converges.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from experiments.tables.cells import hidden_cells, hide, split
from experiments.tables.imputation import OneByOne, repeats
from experiments.tables.learners import Fitted, classifier
from experiments.tables.sources import Table

HIDDEN = 0.3
RIVALS = ("boosting", "logistic", "naive Bayes")
LEAST = 1e-15


def methods(table: Table) -> list[str]:
    return [*RIVALS, "einet"]


def measure(table: Table, method: str, seed: int) -> dict:
    frame = table.rows().dropna(subset=[table.target], ignore_index=True)
    y, X = frame[table.target].astype(str).to_numpy(), frame.drop(columns=table.target)
    train, test = split(len(frame), seed, y)
    several = np.tile(test, repeats(len(test)))
    gaps = hide(X.iloc[several].reset_index(drop=True), hidden_cells((len(several), X.shape[1]), HIDDEN, seed + 1000))
    model = {"einet": Ours}.get(method, Rival)(method, X.iloc[train], y[train], seed)
    found = {}
    for name, rows, labels in (("", X.iloc[test], y[test]), ("_hidden", gaps, y[several])):
        accuracy, log_loss = quality(model.probabilities(rows), model.classes, labels)
        found |= {f"accuracy{name}": accuracy, f"log_loss{name}": log_loss}
    return found | {"refused": getattr(model, "refused", None)}


def quality(probabilities: np.ndarray, classes: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Accuracy, and the mean of -log P(y) in nats, no probability less than LEAST."""
    right = probabilities[np.arange(len(y)), np.searchsorted(classes, y)]
    accuracy = (classes[probabilities.argmax(1)] == y).mean()
    return float(accuracy), float(-np.log(np.maximum(right, LEAST)).mean())


class Ours:
    def __init__(self, method: str, X: Any, y: np.ndarray, seed: int):
        self.fitted = Fitted(classifier(seed), X, y)
        self.refused, self.classes = self.fitted.refused, self.fitted.estimator.classes_

    def probabilities(self, X: Any) -> np.ndarray:
        return self.fitted.ask("predict_proba", X)


class Rival:
    def __init__(self, method: str, X: Any, y: np.ndarray, seed: int):
        self.code = _for_trees(X) if method == "boosting" else _for_lines(X)
        self.model = _estimator(method, X, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model.fit(self.code(X), y)
        self.classes = self.model.classes_

    def probabilities(self, X: Any) -> np.ndarray:
        return self.model.predict_proba(self.code(X))


def _estimator(method: str, X: Any, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB

    if method == "boosting":
        return HistGradientBoostingClassifier(random_state=seed, categorical_features=_text_columns(X))
    return LogisticRegression(max_iter=5000) if method == "logistic" else GaussianNB()


def _text_columns(X: Any) -> list[bool]:
    return [X[name].dtype.kind not in "iufM" for name in X]


def _for_trees(X: Any):
    """Categories as 0, 1, ...; a new one is missing."""
    from experiments.tables.learners import ByHand

    hand = ByHand(X)

    def code(frame: Any) -> np.ndarray:
        coded = hand.code(frame)
        for name, values in hand.values.items():
            coded[name] = coded[name].where(coded[name] < len(values))
        return coded.to_numpy()

    return code


def _for_lines(X: Any):
    coder = OneByOne(X)
    means = np.nan_to_num(np.nanmean(coder.code(X), axis=0))

    def code(frame: Any) -> np.ndarray:
        coded = coder.code(frame)
        return np.where(np.isnan(coded), means, coded)

    return code
