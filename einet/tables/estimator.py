"""The scikit-learn face: a density over the columns of a table, in which NaN means missing, and what all share.

    EinetDensity().fit(X).score_samples(X)          log p(x), whatever is missing integrated out

Inside is a network over random binary trees with leaves to suit each column: `estimator.model_`, for every question
that `einet.queries` answers, on rows that `estimator.columns_.encode` has translated.

Source: Section 3 and 4.1, after Peharz et al. (2019), "Random Sum-Product Networks"
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn import __version__ as installed
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_array, check_random_state, check_X_y
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from einet.data import log_density, steps_of_epoch
from einet.family import LeafFamily
from einet.graph.regions import RegionGraph
from einet.inputs import as_number, as_pseudocount, check_integers
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries.passes import networks_of
from einet.starts import start_leaves
from einet.structures.learned import Structure, graph_of
from einet.structures.ready_made import random_binary_trees
from einet.tables.blur import warn_of_floor
from einet.tables.candidates import ladders, of_reals, up_to
from einet.tables.columns import Columns
from einet.tables.kinds import Kinds, Table, read
from einet.tables.questions import Questions
from einet.tables.selection import Coding, Rows, Training, fix_constant_columns, selected
from einet.tables.validation import epochs_by_folds, folds
from einet.tables.weights import canonical_order, counted, in_proportion, mean
from einet.training import History, fit

try:
    from sklearn.utils.validation import validate_data
except ImportError as error:
    raise ImportError(f"einet.tables needs scikit-learn 1.6 or later, this one is {installed}") from error

# Fewer rows cannot tell candidates apart: random trees, which stay near the columns' own densities, serve them.
MIN_ROWS = 10
# The largest K that is tried, and from how many starts.
BUDGETS, STARTS = {"fast": 16, "thorough": 64}, {"fast": 1, "thorough": 3}
# Rows that a leaf entry starts around, if these are no more than a quarter of all.
ROWS_PER_ENTRY = 50


class TableEstimator(BaseEstimator):
    """What the estimators share. The constructor keeps its arguments and checks none, as scikit-learn wants it."""

    def __init__(
        self,
        leaf: str | LeafFamily | dict = "auto",
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
        budget: str = "fast",
        n_init: int | str = "auto",
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
        self.verbose = verbose
        self.budget = budget
        self.n_init = n_init

    selects = False  # whether candidates compete where no structure is asked for
    budget, n_init = "fast", "auto"

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _validated(self, X: Any, *y: Any, reset: bool = False) -> Any:
        """X as floats, and y if given: a `Table` to train on (`reset`), whose columns are recorded, or an array."""
        options = {"dtype": np.float64, "ensure_all_finite": "allow-nan", "estimator": self}
        if reset:
            table = read(X, training=True)
        else:
            kinds = self._kinds()
            table = Table(kinds, kinds.numbers(X))
        cells = table.numbers
        checked = check_X_y(cells, *y, **options) if y else check_array(cells, input_name="X", **options)
        validate_data(self, X, skip_check_array=True, reset=reset)
        if y:
            return replace(table, numbers=checked[0]), checked[1]
        return replace(table, numbers=checked) if reset else checked

    def _kinds(self) -> Kinds:
        """What the cells of each column of a table are."""
        check_is_fitted(self, "columns_")
        return self.columns_.kinds

    def _fit(self, X: Table, labels: np.ndarray, num_classes: int, weights: np.ndarray | None = None) -> None:
        """Columns, then the density that is best on held-out rows, or the one that is asked for.

        `labels` (B,) are 0, 1, ...; `weights` (B,) are of EM alone.
        """
        self._check_settings()
        random = check_random_state(self.random_state)
        seed = random.randint(2**31 - 1)
        order = canonical_order(X.numbers, labels)
        X, labels, weights = X[order], labels[order], None if weights is None else weights[order]
        typical = in_proportion(weights, len(X))
        columns = Columns(X[typical], self.leaf, getattr(self, "feature_names_in_", None))
        x, observed, _ = columns.encode(X)
        order = random.permutation(len(x))
        data = (x, observed, torch.as_tensor(labels) if num_classes > 1 else None)
        data += (None if weights is None else torch.as_tensor(weights),)
        if self.selects and self.structure is None and self.depth == "auto" and len(x) >= MIN_ROWS:
            model, columns, history = self._selected(X[typical], columns, X, data, labels, order, seed)
        else:
            vars(self).pop("measured_", None)  # of an earlier fit
            graph = self._graph(x[typical], observed[typical], seed)
            model, history = self._as_asked(graph, columns, data, labels, num_classes, order, seed)
        self.model_, self.columns_, self.history_ = model, columns, history

    def _selected(
        self, typical: Table, columns: Columns, X: Table, data: tuple, labels: np.ndarray, order: np.ndarray, seed: int
    ) -> tuple[Einet | Mixture, Columns, History]:
        """The best of the candidates, or a mixture of the best, and what the columns are to it."""
        parts = np.empty(len(order), dtype=int)
        parts[order] = folds(labels[order], self.validation)
        training = Training(
            epochs=_integer(self.epochs),
            patience=_integer(self.patience),
            pseudocount=self.pseudocount,
            leaf_pseudocount=self.leaf_pseudocount,
            seed=seed,
            num_starts=STARTS[self.budget] if self.n_init == "auto" else _integer(self.n_init),
            verbose=bool(self.verbose),
        )
        most = None if self.num_sums == "auto" else _integer(self.num_sums)
        sizes = up_to(BUDGETS[self.budget]) if most is None else [most]
        ways = [columns, columns.as_reals(typical), columns.as_reals(typical, heaps=True)]
        ways = [each for each in ways if each is not None]
        codings = []
        for each in ways:
            x, observed, units = each.encode(X)
            units = units + each.measure(X.numbers)
            rows = Rows(x, observed, data[3], parts, each.constant, units)
            kinds = ladders(each.families, sorted(each.reals), each.floor(), len(x), x.shape[1], sizes)
            codings.append(Coding(rows, kinds if each is columns else of_reals(kinds)))
        chosen, model, history, found = selected(codings, training)
        for network in networks_of(model):
            warn_of_floor(ways[chosen], network.leaves)
        self.measured_ = [{"name": each.candidate.name, "score": each.score, "epochs": each.epochs} for each in found]
        return model, ways[chosen], history

    def _as_asked(self, graph, columns, data, labels, num_classes, order, seed) -> tuple[Einet, History]:
        """The structure that is asked for: starting point, EM."""
        num_sums = 10 if self.num_sums == "auto" else _integer(self.num_sums)
        sizes = {"num_sums": num_sums, "num_classes": num_classes, "sum_product": self.sum_product}
        model = Einet(graph, columns.families, **sizes, seed=seed).double()
        network = partial(self._trained, model, columns, data, seed)
        parts = folds(labels[order], self.validation)
        epochs = _integer(self.epochs)
        if parts.max() > 0:
            epochs = epochs_by_folds(network, order, parts, epochs, self.batch_size)
        if parts.max() == 0:
            model, history = network(order[parts < 0], order[parts == 0], epochs=epochs)
        else:
            model, history = network(order, epochs=epochs)
        warn_of_floor(columns, model.leaves)
        return model, history

    def _check_settings(self) -> None:
        """Raise a `ValueError` for settings out of range, whether or not this table needs them."""
        check_integers(epochs=_integer(self.epochs))
        as_number("lr", self.lr, "within (0, 1]", lambda number: 0 < number <= 1)
        if self.budget not in BUDGETS:
            raise ValueError(f"budget must be one of {', '.join(BUDGETS)}, got {self.budget!r}")
        if self.n_init != "auto":
            check_integers(n_init=_integer(self.n_init))
        check_integers(optional=True, batch_size=_integer(self.batch_size), patience=_integer(self.patience))
        for name in ("pseudocount", "leaf_pseudocount"):
            as_pseudocount(name, getattr(self, name))

    def _graph(self, x: Tensor, observed: Tensor, seed: int) -> RegionGraph:
        """`structure`, or the graph that it makes of all rows; by default, random trees."""
        num_columns = x.shape[1]
        if self.structure is not None:
            if not (isinstance(self.structure, RegionGraph) or callable(self.structure)):
                raise ValueError(
                    f"structure must be a RegionGraph, a function from rows to one, or None, got {self.structure!r}"
                )
            return graph_of(self.structure, x, observed, num_columns, self.sum_product)
        depth = self.depth
        if isinstance(depth, str) and depth == "auto":  # deeper were slower and no better on tables of 4 to 64 columns
            depth = 1 if num_columns < 8 else 2
        return random_binary_trees(num_columns, _integer(depth), _integer(self.num_replicas), seed)

    def _trained(self, model: Einet, columns: Columns, data: tuple, seed: int, rows, held_out=None, *, epochs: int):
        """A copy of `model`, started at and trained on `rows`, and its `History`; `held_out` rows choose the epoch."""
        model = copy.deepcopy(model)
        several = max(1, min(ROWS_PER_ENTRY, len(rows) // 4))
        share = several / (several + 1)  # the initial density of a leaf, of variance 1, counts as one row more
        start = {"rows": several, "share": share, "keep": 1 - share, "distinct": False, "seed": seed}
        x, observed = data[0][rows], data[1][rows]
        labels, weights = (None if part is None else part[rows] for part in data[2:])
        typical = in_proportion(None if weights is None else weights.numpy(), len(x))
        start_leaves(model, x[typical], observed[typical], **start)
        fix_constant_columns(model, columns.constant)
        batch_size = _integer(self.batch_size)
        steps = steps_of_epoch(len(rows), batch_size)  # each gets an equal part of the pseudocounts
        history = fit(
            model,
            x,
            observed,
            labels,
            weights=weights,
            valid=None if held_out is None else tuple(None if part is None else part[held_out] for part in data),
            epochs=epochs,
            batch_size=batch_size,
            lr=self.lr,
            pseudocount=self.pseudocount / steps,
            leaf_pseudocount=self.leaf_pseudocount / steps,
            patience=None if held_out is None else _integer(self.patience),
            seed=seed,
            progress=self.verbose > 1,
        )
        if self.verbose:
            print(_told(type(self).__name__, history, len(rows), held_out))
        return model, history

    def _log_density(self, X: Any) -> np.ndarray:
        """log p(x | class) in the units of `X`: (B, classes)."""
        check_is_fitted(self, "model_")
        return self._log_density_of(self._validated(X))

    def _log_density_of(self, numbers: np.ndarray) -> np.ndarray:
        x, observed, offset = self.columns_.encode(numbers)
        return (log_density(self.model_, x, observed).reshape(len(x), -1) + offset[:, None]).numpy()


class EinetDensity(Questions, DensityMixin, TableEstimator):
    """A density over the columns of a table, with exact marginals: NaN is a missing value, in training and in queries.

    A table is an array, a DataFrame of pandas or polars, a table of pyarrow, or rows as lists; None, NaT, pandas.NA and
    masked cells are missing, too. Text is categories, unless it is that of numbers; dates and durations are numbers, in
    days or seconds, and come back as what they were. `columns_` prints as a table of what became of each column.

    Columns are standardised inside, at a scale that no few cells move; log-densities are in the units of the data all
    the same, and at values with a probability of their own, which `columns_.atoms` lists, log-probabilities. A column
    that is constant in training, but for rounding, is constant in samples, and its value has a probability in place of
    a density: 1 - 1e-5, and any other value 1e-5. So has a value that a column of categories never had in training, or
    one outside the support of the family that was chosen, whatever the other columns are.

    What the density is, rows decide that are held out: candidates are Gaussian mixtures whose other columns are
    independent within a component, Chow-Liu trees, several sizes of both, with little or much shrinkage, and the
    columns by themselves; those that make the held-out rows most probable together are mixed (`tables.selection`).
    Of more than 10,000 rows so many decide, and all are learned from. Counts and skewed columns, and those with heaps,
    may be reals there, too, or the logarithms of x + a shift (`columns_.logs`), in one normal density with all others,
    where that is better; a sample is then no whole number, and "mode" is that of logarithms.

    Args:
        leaf: the family of the columns. "auto" chooses for each the simplest that is as good as any on held-out cells:
            categories (text; few values; numbers that repeat, such as prices), counts (`Poisson`, `Geometric`,
            `Binomial`), positive numbers with a long tail (`LogNormal`, `Gamma`, `Exponential`), or `Normal`; beside
            atoms (`WithAtoms`), where single values are too frequent for a density, or far from all others; `Heaped`
            where people prefer many values, such as hundreds. Or one `ExponentialFamily` for all columns, or a dict
            {family: columns}, these as numbers from 0 or, after a
            DataFrame, as names; columns that it leaves out are chosen as by "auto". The support of a family that is
            given is its own, and a value outside it an error.
        depth: of random binary trees, which then take the place of the candidates, as below 10 rows. For these, "auto"
            is 1 below 8 columns, else 2.
        num_replicas: number of these trees.
        num_sums: K, the only size that is tried; "auto" tries several, or is 10 where a structure is asked for.
        epochs: as in `einet.fit`; so is `patience`.
        batch_size: as in `einet.fit`, where a structure is asked for; so is `lr`. Candidates are trained by full
            batches up to 2,000 rows, else by batches of 500 with steps that fall.
        lr: see `batch_size`.
        pseudocount: as in `einet.EM`, but in rows of the whole training data, so that it weighs the less the more rows
            there are; so is `leaf_pseudocount`.
        leaf_pseudocount: see `pseudocount`.
        validation: share of the rows that decide, by `patience` epochs without improvement, when to stop. Where they
            are fewer than 50 rows, five folds decide: each is held out once, and all rows then train for as many steps
            as were best in the median. With 0, or a single row, all rows train for all `epochs`.
        patience: see `epochs`.
        random_state: an integer makes fits and samples repeatable.
        structure: a `RegionGraph` over the columns, or a function to one, such as `einet.chow_liu`, from the rows
            (B, D) as the network sees them and the mask of what is observed; the candidates by default.
        sum_product: as in `einet.Einet`. "cp" suits regions of more than two parts, as `einet.chow_liu` makes them;
            for "tucker", what a function makes is cut into halves.
        budget: "fast" tries K up to 16 from one start, "thorough" up to 64 from three. Neither looks at a clock, so
            that a seed gives the same density on any machine.
        n_init: number of starts of the best size of each kind; "auto" is that of the budget.
        verbose: 1 prints a line for each training, 2 shows a bar of its epochs, too, where tqdm is installed.

    Attributes:
        model_: an `Einet`, or a `Mixture` of the best candidates, in float64.
        columns_: translates between the table and the rows of the network.
        history_: the `History` of its training, or that of its largest component.
        measured_: the candidates, the best first, if some competed: their names, their mean log-densities of held-out
            rows as `score`, in the units of the data, and their epochs.

    Raises:
        ValueError: scikit-learn refuses the table, such as for another number of columns; a cell is infinite, nested,
            of another kind than its column's, or of one that is not known, with the column and a remedy; or, in
            training, a column has no value.

    Warns:
        TableWarning: the bound on variances of a family that was given will blur a column.

    Source: Section 3 and 4.1
    """

    selects = True

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> EinetDensity:
        """Learn from the rows of X (B, D); `y` is ignored.

        Args:
            X: the table.
            y: ignored.
            sample_weight: (B,), how often each row counts: 2 is that row twice, 0 is not there.
        """
        return self._fit_table(self._validated(X, reset=True), sample_weight)

    def _fit_table(self, table: Table, sample_weight: Any) -> EinetDensity:
        rows, weights = counted(sample_weight, len(table))
        self._fit(table[rows], np.zeros(len(rows), dtype=np.int64), 1, weights)
        self.n_features_in_ = table.numbers.shape[1]
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x_observed) of each row, in nats and in the units of the data: (B,). 0 where all is missing."""
        return self._log_density(X)[:, 0]

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The mean of `score_samples`, for cross-validation and grid search."""
        return mean(self.score_samples(X), sample_weight)


def _told(name: str, history: History, num_rows: int, held_out: np.ndarray | None) -> str:
    """A line on one training, for `verbose`: nats a row of columns as the network has them."""
    best, seconds = history.best_epoch, sum(history.seconds)
    told = f"[{name}] {num_rows} rows, {len(history.train)} epochs in {seconds:.1f} s: {history.train[best]:.4g} nats"
    if held_out is None:
        return told
    return f"{told}, {history.valid[best]:.4g} on {len(held_out)} held out, best epoch {best + 1}"


def _integer(value: Any) -> Any:
    """numpy's integers, as in a grid search, as Python's; anything else as it is, for the network to check."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value
