"""Bayes' rule on the roots of one network, a root for each class.

    EinetClassifier().fit(X, y).predict_proba(X)    P(y | x) = p(x | y) P(y) / sum over y' of p(x | y') P(y')

Source: Section 3 and 4.1
"""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
import torch
from sklearn.base import ClassifierMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets

from einet.family import ExponentialFamily
from einet.structures.learned import Structure
from einet.tables.columns import Columns, TableWarning
from einet.tables.discriminative import Rows, some_rows
from einet.tables.estimator import TableEstimator
from einet.tables.kinds import Table
from einet.tables.refinement import Trained, applied, chosen
from einet.tables.weights import canonical_order, counted


class EinetClassifier(ClassifierMixin, TableEstimator):
    """Bayes' rule on the class-conditional roots of one network, P(y | x) = p(x | y) P(y) / p(x); NaN is missing.

    The prior P(y) is the share of a class in the training data. Missing values are integrated out of p(x | y), so the
    prediction is that of the observed columns alone, with no imputation. Arguments, errors and warnings are those of
    `EinetDensity`, and so are the attributes beside these.

    Args:
        refine: whether the network may be replaced by one that tells the classes apart better: its own weights, trained
            further on log P(y | x), or classes of independent columns (naive Bayes), which suits many classes of few
            rows. "auto": where one is better on held-out rows, by more than a standard error of the difference. True:
            trained further, for as long as that was good for held-out rows. False: neither. `score_samples` of a
            density is then no longer what was learned: p(x, y) of a network that was trained further is a means only.

    Attributes:
        classes_: the classes, sorted.
        class_log_prior_: log P(y) of each, in nats.
        refinement_: what `refine` chose, and the log-loss of each choice; None where nothing was compared.

    Source: Section 3 and 4.1
    """

    def __init__(
        self,
        leaf: str | ExponentialFamily | dict = "auto",
        depth: int | str = "auto",
        num_replicas: int = 10,
        num_sums: int | str = "auto",
        epochs: int = 200,
        batch_size: int | None = 100,
        lr: float = 0.1,
        pseudocount: float = 1e-3,
        leaf_pseudocount: float = 0.03,
        validation: float = 0.1,
        patience: int | None = 5,
        random_state: int | np.random.RandomState | None = None,
        structure: Structure | None = None,
        sum_product: str = "tucker",
        verbose: int = 0,
        refine: bool | str = False,
    ):
        super().__init__(
            leaf=leaf,
            depth=depth,
            num_replicas=num_replicas,
            num_sums=num_sums,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            pseudocount=pseudocount,
            leaf_pseudocount=leaf_pseudocount,
            validation=validation,
            patience=patience,
            random_state=random_state,
            structure=structure,
            sum_product=sum_product,
            verbose=verbose,
        )
        del self.budget, self.n_init  # of candidates, which do not compete for classes
        self.refine = refine

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> EinetClassifier:
        """Learn p(x | y) and P(y).

        Args:
            X: rows (B, D).
            y: their classes (B,), numbers or text.
            sample_weight: (B,), how often each row counts: 2 is that row twice, 0 is not there.
        """
        X, y = self._validated(X, y, reset=True)
        check_classification_targets(y)
        if self.refine not in (True, False, "auto"):
            raise ValueError(f'refine must be True, False or "auto", got {self.refine!r}')
        rows, weights = counted(sample_weight, len(X))
        classes, labels = np.unique(y[rows], return_inverse=True)
        share = np.bincount(labels, weights)
        X, labels, log_prior = X[rows], labels.astype(np.int64), np.log(share / share.sum())
        self._fit(X, labels, len(classes), weights)
        self.refinement_ = None
        if self.refine and len(classes) > 1:
            self._refine(X, labels, log_prior, weights)
        self.classes_, self.class_log_prior_ = classes, log_prior
        return self

    def _refine(self, X: Table, labels: np.ndarray, log_prior: np.ndarray, weights: np.ndarray | None) -> None:
        """Replace the network by one that tells the classes apart better, where there is one."""
        num_classes, prior = len(log_prior), torch.as_tensor(log_prior)
        seed = check_random_state(self.random_state).randint(2**31 - 1)

        def rows_of(columns: Columns) -> Rows:
            x, observed, _ = columns.encode(X)
            return x, observed, torch.as_tensor(labels), None if weights is None else torch.as_tensor(weights)

        all_rows = rows_of(self.columns_)
        order = canonical_order(X.numbers, labels)

        def train(some: np.ndarray) -> Trained:
            """The same network of some rows, for as many epochs."""
            settings = {"structure": self.model_.graph, "epochs": self.history_.best_epoch + 1, "validation": 0}
            other, own = cast(EinetClassifier, clone(self)), order[some]
            other.set_params(**settings, random_state=seed, verbose=0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TableWarning)  # of all rows there was one
                other._fit(X[own], labels[own], num_classes, None if weights is None else weights[own])
            return Trained(other.model_, some_rows(rows_of(other.columns_), order))

        self.refinement_ = chosen(train, labels[order], prior, self.refine, seed)
        if self.refinement_ is not None:
            self.model_ = applied(self.refinement_, self.model_, some_rows(all_rows, order), prior, seed)
            if self.verbose:
                print(f"[{type(self).__name__}] {self.refinement_.choice}: log-loss {self.refinement_.log_loss}")

    def predict_joint_log_proba(self, X: Any) -> np.ndarray:
        """log p(x_observed, y) in nats, in the units of the data: (B, classes). Summed over y, it tells outliers."""
        return self._log_density(X) + self.class_log_prior_

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """log P(y | x_observed): (B, classes). Where p(x) is 0, as far as float64 can tell, the log-prior."""
        joint = self.predict_joint_log_proba(X)
        joint = np.where(np.isneginf(joint).all(1, keepdims=True), self.class_log_prior_, joint)
        joint = joint - joint.max(1, keepdims=True)  # first: the log p(x) of an outlier swallows digits
        return joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)

    def predict_proba(self, X: Any) -> np.ndarray:
        """P(y | x_observed): (B, classes)."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row: (B,)."""
        best = self.predict_log_proba(X).argmax(1)
        return self.classes_[best]
