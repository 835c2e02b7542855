"""Bayes' rule on the roots of networks, a root for each class.

    EinetClassifier().fit(X, y).predict_proba(X)    P(y | x) = p(x | y) P(y) / sum over y' of p(x | y') P(y')

Source: Section 3 and 4.1
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from einet.data import log_density
from einet.family import ExponentialFamily
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries.passes import networks_of
from einet.structures.learned import Structure
from einet.tables.class_candidates import ENTRIES, SHRINKAGE, TREES, class_candidates, class_network
from einet.tables.class_selection import Train, answering
from einet.tables.columns import Columns
from einet.tables.discriminative import Rows, some_rows
from einet.tables.estimator import TableEstimator
from einet.tables.questions import as_count
from einet.tables.weights import counted
from einet.training import History

# Most epochs of training on log P(y | x). The smallest variance of joint columns, where none says what it is.
MAX_REFINEMENT, NARROWEST = 60, 1e-4
# Columns of no more different numbers are categories wherever their family is that.
FEW_NUMBERS = 5


class EinetClassifier(ClassifierMixin, TableEstimator):
    """Bayes' rule on the class-conditional roots of networks, P(y | x) = p(x | y) P(y) / p(x); NaN is missing.

    The prior P(y) is the share of a class in the training data. Missing values are integrated out of p(x | y), so the
    prediction is that of the observed columns alone, with no imputation.

    What the networks are, rows decide that are held out, whole and with cells hidden: candidates are classes as normal
    densities with a common covariance or several with their own, naive Bayes, and random trees
    (`tables.class_candidates`), each as EM trained it and trained further on log P(y | x). Those that tell the classes
    best together answer together: P(y | x) is the mean of theirs, by weight. Arguments, errors and warnings are those
    of `EinetDensity`, and so are the attributes beside these.

    Args:
        depth: of random binary trees, which then take the place of the candidates, as below 20 rows.
        num_replicas: number of these trees, at most 5 where they are one candidate of several.
        num_sums: K of these trees; "auto" is 6 where they are one candidate of several, else 10.
        validation: of the network that is asked for; candidates are measured on a fifth of the rows, or, below 1,000,
            on every third.
        refine: whether networks are trained further on log P(y | x). "auto": candidates, where that is better on
            held-out rows. True: the best candidates, or the network that is asked for. False: none. p(x, y) of a
            network that was trained further is a means only.

    Attributes:
        classes_: the classes, sorted.
        class_log_prior_: log P(y) of each, in nats.
        model_: the network with the largest weight, with a root for each class.
        others_: the other networks, which answer, too.
        weights_: of their answers, that of `model_` first.
        measured_: what competed, the best first, if something did: names, the mean of log P(y | x) of held-out rows as
            `score`, epochs of training on it, and weights.

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
        refine: bool | str = "auto",
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
        del self.budget, self.n_init  # of candidates for a density
        self.refine = refine

    selects = True

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
        self.class_log_prior_ = np.log(share / share.sum())
        self.others_, self.weights_ = [], np.ones(1)
        vars(self).pop("measured_", None)  # of an earlier fit
        self._fit(X[rows], labels.astype(np.int64), len(classes), weights)
        self.classes_ = classes
        return self

    def _selected(self, typical, columns, X, data, labels, order, seed) -> tuple[Any, Columns, History]:
        """The networks that tell the classes best; as asked where there is nothing to tell."""
        num_classes = len(self.class_log_prior_)
        if num_classes == 1:
            return super()._selected(typical, columns, X, data, labels, order, seed)
        reals, width = sorted(columns.reals), data[0].shape[1]
        trees = min(as_count("num_replicas", self.num_replicas), TREES)
        entries = ENTRIES if self.num_sums == "auto" else as_count("num_sums", self.num_sums)
        settings = {"num_replicas": trees, "num_sums": entries, "seed": seed}
        floor = columns.floor() if reals else NARROWEST
        found = class_candidates(columns.families, reals, numbers_of(columns), floor, width, settings)

        def train(candidate, rows: np.ndarray) -> tuple[Einet, History]:
            return class_network(
                candidate,
                some_rows(data, rows),
                num_classes,
                columns.constant,
                epochs=as_count("epochs", self.epochs),
                pseudocount=self.pseudocount,
                leaf_pseudocount=SHRINKAGE * self.leaf_pseudocount,
                seed=seed,
            )

        answer = self._answering({each.name: partial(train, each) for each in found}, data, seed)
        if answer is None:
            graph = self._graph(data[0], data[1], seed)
            answer = self._as_asked(graph, columns, data, labels, num_classes, order, seed)
        return answer[0], columns, answer[1]

    def _as_asked(self, graph, columns, data, labels, num_classes, order, seed) -> tuple[Any, History]:
        """The structure that is asked for, refined if that is asked for."""
        model, history = super()._as_asked(graph, columns, data, labels, num_classes, order, seed)
        if self.refine is not True or num_classes == 1:
            return model, history
        epochs = history.best_epoch + 1

        def train(rows: np.ndarray) -> tuple[Einet, History]:
            if len(rows) == len(labels):
                return model, history
            again = copy.deepcopy(model)
            again.reset_parameters(seed)
            return self._trained(again, columns, data, seed, rows, epochs=epochs)

        return self._answering({"as asked": train}, data, seed) or (model, history)

    def _answering(self, candidates: dict[str, Train], data: Rows, seed: int) -> tuple[Einet, History] | None:
        """Measure and train; the first network, and None where there are no rows for that."""
        prior, epochs = torch.as_tensor(self.class_log_prior_), min(as_count("epochs", self.epochs), MAX_REFINEMENT)
        patience = epochs if self.patience is None else as_count("patience", self.patience)
        answer = answering(candidates, data, prior, self.refine, epochs, patience, seed)
        if answer is None:
            return None
        model, *self.others_ = answer.models
        self.weights_, self.measured_ = answer.weights, answer.measured
        if self.verbose:
            for each in answer.measured:
                print(f"[{each['name']}] {each['score']:.4g} nats a class held out, weight {each['weight']:.2g}")
        return model, answer.history

    def predict_joint_log_proba(self, X: Any) -> np.ndarray:
        """log p(x_observed, y) in nats, in the units of the data: (B, classes). Summed over y, it tells outliers.

        Of several networks: P(y | x) is the mean of theirs, and so is p(x), of those that are densities of the columns
        as they are, if some are: not of a normal density over counts, say.
        """
        joint = self._joint(X)
        if len(joint) == 1:
            return joint[0]
        models = (self.model_, *self.others_)
        own = [number for number, model in enumerate(models) if joint_of(model) <= {*self.columns_.reals}]
        own = own or list(range(len(models)))
        weights = self.weights_[own] / self.weights_[own].sum()
        of_rows = np.logaddexp.reduce(np.logaddexp.reduce(joint[own], axis=2) + np.log(weights)[:, None], axis=0)
        return self._posterior(joint) + of_rows[:, None]

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """log P(y | x_observed): (B, classes). Where p(x) is 0, as far as float64 can tell, the log-prior."""
        return self._posterior(self._joint(X))

    def _joint(self, X: Any) -> np.ndarray:
        """log p(x_observed, y) of each network, (networks, B, classes)."""
        check_is_fitted(self, "model_")
        x, observed, offset = self.columns_.encode(self._validated(X))
        found = [log_density(model, x, observed).reshape(len(x), -1) for model in (self.model_, *self.others_)]
        return (torch.stack(found) + offset[:, None]).numpy() + self.class_log_prior_

    def _posterior(self, joint: np.ndarray) -> np.ndarray:
        """The logarithm of the mean of P(y | x) of the networks."""
        joint = np.where(np.isneginf(joint).all(2, keepdims=True), self.class_log_prior_, joint)
        joint = joint - joint.max(2, keepdims=True)  # first: the log p(x) of an outlier swallows digits
        posterior = joint - np.logaddexp.reduce(joint, axis=2, keepdims=True)
        return np.logaddexp.reduce(posterior + np.log(self.weights_)[:, None, None], axis=0)

    def predict_proba(self, X: Any) -> np.ndarray:
        """P(y | x_observed): (B, classes)."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row: (B,)."""
        best = self.predict_log_proba(X).argmax(1)
        return self.classes_[best]


def numbers_of(columns: Columns) -> list[int]:
    """The columns of more than FEW_NUMBERS numbers: no labels, whatever their families are."""
    several = [values is None or len(values) > FEW_NUMBERS for values in columns.values]
    return [d for d, more in enumerate(several) if more and not columns.kinds.are_labels(d)]


def joint_of(model: Einet | Mixture) -> set[int]:
    """The variables of a joint family."""
    families = [item for network in networks_of(model) for item in network.families.items()]
    return {d for family, own in families if family.joint for d in own}
