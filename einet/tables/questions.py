"""What a density over a table is asked, in the table's names, units and forms.

Source: Section 2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from einet.inputs import as_number, check_integers
from einet.layers.scratch import slices
from einet.network import Einet
from einet.queries.boxes import log_probability
from einet.queries.marginals import Marginals, conditional_marginals
from einet.queries.most_probable import mpe
from einet.queries.sampling import sample, sample_conditional
from einet.queries.surprises import surprise
from einet.tables.cells import names_of
from einet.tables.columns import Columns
from einet.tables.conditions import Boxes, Conditions

# Rows that are completed at once.
ROWS_PER_CHUNK = 1000
STRATEGIES = ("mean", "median", "mode", "draw")
# As "mean", but with the most probable of finitely many numbers in place of their mean, which is none of them.
PREDICTION = "prediction"


class Questions:
    """Mixed into an estimator of a density, whose `model_` and `columns_` answer."""

    model_: Einet
    columns_: Columns
    random_state: Any
    _validated: Callable

    def sample(
        self,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = None,
        given: Mapping[Any, Any] | None = None,
    ) -> Any:
        """Draw new rows (n_samples, D), in the form of the training data: an array, or a DataFrame with its dtypes.

        Args:
            n_samples: how many.
            random_state: the estimator's where None.
            given: {column: condition}, such as {"age": 30, "income": (30, 40), "region": {"north", "east"}}: a value, a
                pair of bounds, both included, with None where there is none, or a set of values. Columns by name or
                number.

        Raises:
            ValueError: a condition names no column or makes no sense, or all of them together have probability 0.
        """
        check_is_fitted(self, "model_")
        random = check_random_state(self.random_state if random_state is None else random_state)
        generator = torch.Generator().manual_seed(random.randint(2**31 - 1))
        n_samples = as_count("n_samples", n_samples)
        conditions = Conditions(self.columns_, given)
        if not conditions.alternatives:
            drawn = sample(self.model_, n_samples, generator)
        else:
            drawn = self._draw_given(conditions, n_samples, generator)
        return conditions.filled(self.columns_.decode_numbers(drawn))

    def _draw_given(self, conditions: Conditions, n_samples: int, generator: torch.Generator) -> Tensor:
        """Which box each sample lies in, by their probabilities, and then a draw from that box."""
        boxes, log_probabilities = self._probabilities(conditions)
        if boxes is None or log_probabilities.max() == -torch.inf:
            raise ValueError("given has probability 0 under the density: no row meets it")
        odds = torch.softmax(log_probabilities, 0)
        chosen = torch.multinomial(odds, n_samples, replacement=True, generator=generator)
        low, high, x, observed, among, _ = boxes.rows(chosen)
        asked = {"low": low, "high": high, "among": among}
        return sample_conditional(self.model_, x, observed, generator=generator, **asked)[0]

    def probability(self, where: Mapping[Any, Any], given: Mapping[Any, Any] | None = None) -> float:
        """The probability that a row meets all conditions of `where`, exactly; of rows that meet `given`, if any.

        P(where | given) = P(where and given) / P(given), each a sum over boxes whose probability the leaves' cumulative
        distribution functions give.

        Args:
            where: {column: condition}, such as {"income": (50_000, None), "region": {"north", "east"}}: a pair of
                bounds, both included, with None where there is none, a set of values, or a value. The probability that
                a column of real numbers has one value is 0.
            given: conditions as for `sample`: a column of real numbers may have a value.

        Raises:
            ValueError: a condition names no column or makes no sense, the sets have too many combinations, or `given`
                has probability 0.
        """
        check_is_fitted(self, "model_")
        evidence = Conditions(self.columns_, given)
        _, below = self._probabilities(evidence)
        if below.max() == -torch.inf:
            raise ValueError("given has probability 0 under the density: nothing can be said of such rows")
        _, above = self._probabilities(Conditions(self.columns_, where, points=False, name="where"), evidence)
        return min(1.0, torch.exp(torch.logsumexp(above, 0) - torch.logsumexp(below, 0)).item())

    def _probabilities(self, one: Conditions, other: Conditions | None = None) -> tuple[Boxes | None, Tensor]:
        """The boxes of conditions, and the log-probability of each (N,), a density where values are given."""
        boxes = one.boxes(other)
        if boxes is None:
            return None, torch.tensor([-torch.inf], dtype=torch.float64)
        low, high, x, observed, among, offset = boxes
        return boxes, log_probability(self.model_, low, high, x, observed, among=among) + offset

    def predict_missing(self, X: Any) -> Any:
        """X with every missing cell filled, in the form of the training data, with the index of X.

        Columns of finitely many values get the most probable one, all others E[x_d | x_observed].
        """
        return self._completed(X, PREDICTION)

    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[Any, Any]:
        """Where missing cells lie: central intervals of p(x_d | x_observed), each cell by itself.

        Args:
            X: the table. A cell that is there is its own interval.
            coverage: the probability that the cell is in it, within (0, 1); a little more for whole numbers.

        Returns:
            The lower and the upper ends, each in the form of the training data. Categories that are no numbers have no
            interval: both ends are the most probable one.
        """
        coverage = as_coverage(coverage)
        tail = (1 - coverage) / 2
        return self._completed(X, tail), self._completed(X, 1 - tail)

    def _completed(self, X: Any, strategy: str | float, generator: torch.Generator | None = None) -> Any:
        """X with its gaps filled by one of `STRATEGIES`, by PREDICTION, or by the quantile of this probability."""
        check_is_fitted(self, "model_")
        cells = self._validated(X)
        parts = [self._numbers(cells[rows], strategy, generator) for rows in slices(len(cells), ROWS_PER_CHUNK)]
        filled = np.where(np.isnan(cells), np.concatenate(parts), cells)
        return self.columns_.table(filled, getattr(X, "index", None) if hasattr(X, "iloc") else None)

    def _numbers(self, X: np.ndarray, strategy: str | float, generator: torch.Generator | None) -> np.ndarray:
        """The cells (B, D), complete, as numbers."""
        x, observed, _ = self.columns_.encode(X)
        if strategy == "draw":
            return self.columns_.decode_numbers(sample_conditional(self.model_, x, observed, generator=generator)[0])
        if strategy == "mode":
            return self.columns_.decode_numbers(mpe(self.model_, x, observed).x)
        marginals = conditional_marginals(self.model_, x, observed)
        if strategy in ("mean", PREDICTION):
            rows = with_most_probable(marginals, means(marginals, self.columns_), self.columns_.discrete)
        else:
            values = marginals.quantile(0.5 if strategy == "median" else float(strategy))
            rows = with_most_probable(marginals, values, _without_order(self.columns_))
        numbers = self.columns_.decode_numbers(rows)
        lists = _lists_of_numbers(self.columns_) if strategy == "mean" else []
        probabilities = marginals.probabilities().double().numpy() if lists else None
        for d in lists:
            values = np.asarray(self.columns_.values[d])
            numbers[:, d] = cast(np.ndarray, probabilities)[:, d, : len(values)] @ values
        return numbers

    def surprise(self, X: Any) -> Any:
        """-log p(cell | the other cells of its row) of every cell, in nats and in the units of the data: (B, D).

        A cell is odd where this is large beside the other rows of its column; see `einet.plotting.surprise`. NaN where
        a cell is missing. A DataFrame where X is one.
        """
        check_is_fitted(self, "model_")
        cells = self._validated(X)
        x, observed, offset = self.columns_.encode_cells(cells)
        told = surprise(self.model_, x, observed).double().numpy()
        told = np.where(observed.numpy(), told, 0) - offset.numpy()
        return _numbers_like(X, np.where(np.isnan(cells), np.nan, told))


def means(marginals: Marginals, columns: Columns) -> Tensor:
    """E[x_d | evidence] in the units of the table, as the network's rows have it: (B, D)."""
    found = marginals.mean()
    for d in columns.logs:
        found[:, d] = marginals.mean_in_logs(float(columns.scale[d]))[:, d].to(found.dtype)
    return found


def with_most_probable(marginals: Marginals, values: Tensor, columns: list[int]) -> Tensor:
    """Values (B, D) with the most probable one in some columns of finitely many values."""
    if columns:
        probabilities = marginals.probabilities()[:, columns].nan_to_num(-1)
        values[:, columns] = probabilities.argmax(2).to(values.dtype)
    return values


def as_count(name: str, value: Any) -> int:
    """A whole number of at least 1, numpy's too."""
    value = int(value) if isinstance(value, np.integer) else value
    check_integers(**{name: value})
    return value


def as_coverage(value: Any) -> float:
    return as_number("coverage", value, "a probability within (0, 1)", lambda number: 0 < number < 1)


def _without_order(columns: Columns) -> list[int]:
    """The columns of labels."""
    return [d for d in columns.discrete if columns.kinds.are_labels(d)]


def _lists_of_numbers(columns: Columns) -> list[int]:
    """The columns of finitely many numbers, of which there are more than two."""
    several = [d for d, values in enumerate(columns.values) if values is not None and len(values) > 2]
    return [d for d in several if not columns.kinds.are_labels(d)]


def _numbers_like(X: Any, values: np.ndarray) -> Any:
    """Floats (B, D) about the cells of X: a DataFrame where X is one."""
    names = names_of(X)
    if names is None:
        return values
    if hasattr(X, "iloc"):
        return type(X)(values, columns=X.columns, index=X.index)
    columns = dict(zip(names, values.T, strict=True))
    return type(X).from_pydict(columns) if hasattr(X, "from_pydict") else type(X)(columns)
