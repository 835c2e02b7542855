"""The scikit-learn face: a density and a classifier over the columns of a table, in which NaN means missing.

    EinetDensity().fit(X).score_samples(X)          log p(x), whatever is missing integrated out
    EinetClassifier().fit(X, y).predict_proba(X)    P(y | x) = p(x | y) P(y) / sum over y' of p(x | y') P(y')

Inside is a network over random binary trees with leaves to suit each column: `estimator.model_`, for every question
that `einet.queries` and `einet.sampling` answer, on rows that `estimator.columns_.encode` has translated.

Paper: Section 3 and 4.1, after Peharz et al. (2019), "Random Sum-Product Networks"
Chapter: book/12_queries
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from numbers import Integral

import numpy as np
import torch
from sklearn import __version__ as installed
from sklearn.base import BaseEstimator, ClassifierMixin, DensityMixin
from sklearn.utils import check_array, check_random_state, check_X_y
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from einet.cells import floats
from einet.columns import Columns
from einet.exponential_family import ExponentialFamily
from einet.graph import RegionGraph
from einet.learned import Structure, graph_of
from einet.network import Einet
from einet.queries import conditional_marginals
from einet.rows import check_positive, log_density, steps_of_epoch
from einet.sampling import sample
from einet.starts import start_leaves
from einet.structures import random_binary_trees
from einet.training import fit

try:
    from sklearn.utils.validation import validate_data
except ImportError as error:
    raise ImportError(f"einet.estimator needs scikit-learn 1.6 or later, this one is {installed}") from error

# Fewer rows than this are too few to decide when to stop; so many folds then decide together.
FEWEST_VALIDATION_ROWS, FOLDS = 50, 5
# Rows that a leaf entry starts around, if these are no more than a quarter of all, and rows that are completed at once.
ROWS_PER_ENTRY, PORTION = 50, 1000


class _EinetEstimator(BaseEstimator):
    """What both estimators share; the constructor only keeps its arguments, as scikit-learn wants it."""

    def __init__(
        self,
        leaf: str | ExponentialFamily | dict = "auto",
        depth: int | str = "auto",
        num_replicas: int = 10,
        num_sums: int = 10,
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
    ):
        self.leaf = leaf
        self.depth = depth
        self.num_replicas = num_replicas
        self.num_sums = num_sums
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.pseudocount = pseudocount
        self.leaf_pseudocount = leaf_pseudocount
        self.validation = validation
        self.patience = patience
        self.random_state = random_state
        self.structure = structure
        self.sum_product = sum_product

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _validated(self, X, *y, reset: bool = False):
        """X as floats, and y where it is given; sets or compares the names and the number of the columns."""
        options = {"dtype": np.float64, "ensure_all_finite": "allow-nan", "estimator": self}
        checked = check_X_y(floats(X), *y, **options) if y else check_array(floats(X), input_name="X", **options)
        validate_data(self, X, skip_check_array=True, reset=reset)
        return checked

    def _fit(self, X: np.ndarray, labels: np.ndarray, num_classes: int):
        """Columns, structure, starting point, EM. `labels` (B,) are 0, 1, ..."""
        random = check_random_state(self.random_state)
        seed = random.randint(2**31 - 1)
        columns = Columns(X, self.leaf, getattr(self, "feature_names_in_", None))
        x, observed, _ = columns.encode(X)
        sizes = {"num_sums": _integer(self.num_sums), "num_classes": num_classes, "sum_product": self.sum_product}
        model = Einet(self._graph(x, observed, seed), columns.families, **sizes, seed=seed).double()

        data = (x, observed, torch.as_tensor(labels)) if num_classes > 1 else (x, observed)
        network = partial(self._trained, model, columns, data, seed)
        order = random.permutation(len(X))
        parts = _folds(labels[order], self.validation)
        held_out = [order[parts == part] for part in range(parts.max() + 1)]
        epochs = _integer(self.epochs)
        if len(held_out) > 1:
            epochs, held_out = self._epochs_by_folds(network, order, parts, epochs), []
        model, history = network(order[parts < 0] if held_out else order, *held_out, epochs=epochs)
        columns.warn_of_floor(model.leaves)
        self.model_, self.columns_, self.history_ = model, columns, history
        return self

    def _graph(self, x: Tensor, observed: Tensor, seed: int) -> RegionGraph:
        """`structure`, or what it makes of all rows; by default, random trees."""
        num_columns = x.shape[1]
        if self.structure is not None:
            if not (isinstance(self.structure, RegionGraph) or callable(self.structure)):
                raise ValueError(
                    f"structure must be a RegionGraph, a function from rows to one, or None, got {self.structure!r}"
                )
            return graph_of(self.structure, x, observed, num_columns)
        depth = _depth(num_columns) if isinstance(self.depth, str) and self.depth == "auto" else self.depth
        return random_binary_trees(num_columns, _integer(depth), _integer(self.num_replicas), seed)

    def _trained(self, model: Einet, columns: Columns, data: tuple, seed: int, rows, held_out=None, *, epochs: int):
        """A copy of `model`, started at and trained on some rows; others, if held out, choose the epoch."""
        model = copy.deepcopy(model)
        several = max(1, min(ROWS_PER_ENTRY, len(rows) // 4))
        start_leaves(model, data[0][rows], data[1][rows], rows=several, share=several / (several + 1), seed=seed)
        _settle(model, columns.constant)
        batch_size = _integer(self.batch_size)
        check_positive(batch_size=batch_size)
        steps = steps_of_epoch(len(rows), batch_size)  # among which an epoch's pseudocounts are shared out
        history = fit(
            model,
            *(part[rows] for part in data),
            valid=None if held_out is None else tuple(part[held_out] for part in data),
            epochs=epochs,
            batch_size=batch_size,
            lr=self.lr,
            pseudocount=self.pseudocount / steps,
            leaf_pseudocount=self.leaf_pseudocount / steps,
            patience=None if held_out is None else _integer(self.patience),
            seed=seed,
            progress=False,
        )
        return model, history

    def _epochs_by_folds(self, network: Callable, order: np.ndarray, parts: np.ndarray, epochs: int) -> int:
        """How many epochs all rows should train for: as many steps as were best, in the median, without one fold."""
        best = []
        for part in range(parts.max() + 1):
            rows = order[parts != part]
            with warnings.catch_warnings():  # a fold says how far to go, not whether training succeeded
                warnings.filterwarnings("ignore", "training ended", UserWarning)
                _, history = network(rows, order[parts == part], epochs=epochs)
            best.append((history.best_epoch + 1) * steps_of_epoch(len(rows), self.batch_size))
        return max(1, round(float(np.median(best)) / steps_of_epoch(len(order), self.batch_size)))

    def _log_density(self, X) -> np.ndarray:
        """log p(x | class) in the units of `X`: (B, classes)."""
        check_is_fitted(self, "model_")
        X = self._validated(X)
        x, observed, offset = self.columns_.encode(X)
        return (log_density(self.model_, x, observed).reshape(len(X), -1) + offset[:, None]).numpy()


class EinetDensity(DensityMixin, _EinetEstimator):
    """A density over the columns of a table, with exact marginals: NaN is a missing value, in training and in queries.

    A table is an array, a DataFrame of pandas or polars, a table of pyarrow, or rows as lists; None, NaT, pandas.NA and
    masked cells are missing, too. Text of numbers is numbers; dates and other text must be coded as such.

    leaf          the family of the columns. "auto": a column whose values in training are integers, at most 10
                  different ones, is Bernoulli (one or two) or Categorical (more, if each occurs in at least 5 rows on
                  average) over the values seen; any other is Normal with a variance of at least 0.01 of the column's.
                  Or one `ExponentialFamily` for all columns, or a dict {family: columns}, these as numbers from 0 or,
                  after a DataFrame, as names; columns that it leaves out are chosen as by "auto". Where a family is
                  given, the support is the family's, and a value outside it a ValueError.
                  Normal columns are standardised inside; log-densities are in the units of the data all the same.
                  A column that is constant in training, but for rounding, is constant in samples, and its value has a
                  probability in place of a density: 1 - 1e-5, and any other value 1e-5.
    structure     a `RegionGraph` over the columns, or a function from the rows (B, D) as the network sees them, and
                  what is observed of them, to one, as `einet.chow_liu` is; random binary trees by default
    sum_product   of `einet.Einet`: "cp" for structures whose regions have more than two parts
    depth         of the random binary trees; "auto" is 1 below 8 columns, else 2
    num_replicas, num_sums         trees, and length of the vectors
    epochs, batch_size, lr   of `einet.fit`
    pseudocount, leaf_pseudocount   of `einet.EM`, but in rows of the whole training data, so that they weigh the less
                  the more rows there are
    validation    share of the rows that decide, by `patience` epochs without improvement, when to stop, as in
                  `einet.fit`. Where they are fewer than 50 rows, five folds decide: each is held out once, and all rows
                  then train for as many steps as were best in the median. With 0, or fewer than 10 rows, all rows train
                  for all `epochs`
    random_state  an integer makes fits and samples repeatable

    Sets `model_` (an `Einet` in float64), `columns_`, `history_`, `n_features_in_` and, from a table with names,
    `feature_names_in_`. `ValueError` for what scikit-learn refuses, such as another number of columns; for infinities,
    text, dates and all else that is no number, with the column and what to do; and, in training, for a column without
    any value. `einet.columns.TableWarning` for columns that outliers, or the bound on variances, will blur.

    A value that a column of categories never had in training has the probability 1e-5, whatever the other columns are.

    Paper: Section 3 and 4.1
    Chapter: book/12_queries
    """

    def fit(self, X, y=None):
        """Learn from the rows of X (B, D); `y` is ignored."""
        X = self._validated(X, reset=True)
        return self._fit(X, np.zeros(len(X), dtype=np.int64), 1)

    def score_samples(self, X) -> np.ndarray:
        """log p(x_observed) of each row, in nats and in the units of the data: (B,). 0 where all is missing."""
        return self._log_density(X)[:, 0]

    def score(self, X, y=None) -> float:
        """The mean of `score_samples`, for cross-validation and grid search."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None) -> np.ndarray:
        """New rows (n_samples, D), drawn from the density; by the estimator's `random_state` where none is given."""
        check_is_fitted(self, "model_")
        random = check_random_state(self.random_state if random_state is None else random_state)
        generator = torch.Generator().manual_seed(random.randint(2**31 - 1))
        n_samples = _integer(n_samples)
        check_positive(n_samples=n_samples)
        return self.columns_.decode(sample(self.model_, n_samples, generator))

    def predict_missing(self, X) -> np.ndarray:
        """X with every NaN replaced by what the rest of its row says: E[x_d | x_observed], or the most probable value
        where x_d has finitely many. All else is untouched."""
        check_is_fitted(self, "model_")
        X = self._validated(X)
        parts = [self._completed(X[start : start + PORTION]) for start in range(0, len(X), PORTION)]
        return np.where(np.isnan(X), np.concatenate(parts), X)

    def _completed(self, X: np.ndarray) -> np.ndarray:
        x, observed, _ = self.columns_.encode(X)
        marginals = conditional_marginals(self.model_, x, observed)
        values = marginals.mean()
        if self.columns_.discrete:
            probabilities = marginals.probabilities()[:, self.columns_.discrete]
            values[:, self.columns_.discrete] = probabilities.argmax(2).to(values.dtype)
        return self.columns_.decode(values)


class EinetClassifier(ClassifierMixin, _EinetEstimator):
    """Bayes' rule on the class-conditional roots of one network, P(y | x) = p(x | y) P(y) / p(x); NaN is missing.

    The prior P(y) is the share of a class in the training data. What is missing is integrated out of p(x | y), so the
    prediction is that of the observed columns alone, with no imputation. Arguments are those of `EinetDensity`. Sets
    `classes_` and `class_log_prior_` too.

    Paper: Section 3 and 4.1
    Chapter: book/12_queries
    """

    def fit(self, X, y):
        """Learn p(x | y) and P(y) from rows X (B, D) and their classes y (B,), numbers or text."""
        X, y = self._validated(X, y, reset=True)
        check_classification_targets(y)
        self.classes_, labels, counts = np.unique(y, return_inverse=True, return_counts=True)
        self.class_log_prior_ = np.log(counts / len(y))
        return self._fit(X, labels.astype(np.int64), len(self.classes_))

    def predict_joint_log_proba(self, X) -> np.ndarray:
        """log p(x_observed, y), nats in the units of the data: (B, classes). Summed over y, it tells outliers."""
        return self._log_density(X) + self.class_log_prior_

    def predict_log_proba(self, X) -> np.ndarray:
        """log P(y | x_observed): (B, classes). Where p(x) is 0, as far as float64 can tell, the log-prior."""
        joint = self.predict_joint_log_proba(X)
        joint = np.where(np.isneginf(joint).all(1, keepdims=True), self.class_log_prior_, joint)
        joint = joint - joint.max(1, keepdims=True)  # first: the log p(x) of an outlier swallows digits
        return joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)

    def predict_proba(self, X) -> np.ndarray:
        """P(y | x_observed): (B, classes)."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X) -> np.ndarray:
        """The most probable class of each row: (B,)."""
        best = self.predict_log_proba(X).argmax(1)
        return self.classes_[best]


def _settle(model: Einet, constant: list[int]) -> None:
    """Leaves of constant columns, which no row trains, are sure of the one category there is."""
    for part in model.leaves.parts:
        here = torch.isin(part.pairs, torch.tensor(constant))
        if here.any():
            part.phi.data[:, here] = part.family.project(torch.zeros_like(part.phi[:, here]))


def _depth(num_columns: int) -> int:
    return 1 if num_columns < 8 else 2  # deeper trees were slower and no better on tables of 4 to 64 columns


def _folds(labels: np.ndarray, share: float) -> np.ndarray:
    """Which part of the held-out rows each row is in, an equal share of each class; -1 where it is in none.

    One part where `share` of the rows is enough to decide when to stop, several, of all rows, where these are few.
    """
    if not 0 <= share < 1:
        raise ValueError(f"validation must be a share within [0, 1), got {share}")
    rank, size = np.zeros(len(labels)), np.zeros(len(labels))
    for label in np.unique(labels):
        own = labels == label
        rank[own], size[own] = np.arange(own.sum()), own.sum()
    held_out = rank < np.floor(share * size)
    if held_out.sum() >= FEWEST_VALIDATION_ROWS:
        return np.where(held_out, 0, -1)
    if share == 0 or len(labels) < 2 * FOLDS:
        return np.full(len(labels), -1)
    return (rank + labels).astype(int) % FOLDS  # small classes begin in different folds


def _integer(value):
    """numpy's integers, as in a grid search, as Python's; all else is left to the network's own checks."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value
