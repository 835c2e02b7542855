"""A real target as one more column: p(y | x) from the density of both.

Source: Section 2, Eq. (1)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from einet.layers.scratch import slices
from einet.queries.marginals import Marginals, conditional_marginals
from einet.tables.estimator import EinetDensity, TableEstimator
from einet.tables.kinds import Kind, Kinds, Table
from einet.tables.questions import ROWS_PER_CHUNK, as_coverage, means


class EinetRegressor(RegressorMixin, TableEstimator):
    """p(y | x) = p(x, y) / p(x) of a real target, from one density over the columns and the target; NaN is missing.

    Missing values of x are integrated out, so a prediction is that of the observed columns alone. Arguments, errors and
    warnings are those of `EinetDensity`; in a dict for `leaf` the target has the name of y, or "y", or else the number
    after the last column.

    Attributes:
        density_: the `EinetDensity` over the columns and the target, its last column.
        n_features_in_: D.
        feature_names_in_: of a DataFrame with names of text.

    Source: Section 2, Eq. (1)
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> EinetRegressor:
        """Learn p(x, y).

        Args:
            X: rows (B, D).
            y: real numbers (B,), none of them missing.
            sample_weight: (B,), how often each row counts: 2 is that row twice, 0 is not there.
        """
        table, numbers = self._validated(X, y, reset=True)
        name = getattr(y, "name", None)
        target = _free_name("y" if name is None else str(name), table.kinds.names)
        names = None if table.kinds.names is None else [*table.kinds.names, target]
        kinds = Kinds([*table.kinds.columns, Kind(dtype=np.dtype(float))], names, table.kinds.library)
        joint = Table(kinds, np.column_stack((table.numbers, np.asarray(numbers, dtype=np.float64))))
        self.density_ = EinetDensity(**self.get_params(deep=False))._fit_table(joint, sample_weight)
        return self

    def _kinds(self) -> Kinds:
        """Those of the columns without the target."""
        check_is_fitted(self, "density_")
        kinds = self.density_.columns_.kinds
        return Kinds(kinds.columns[:-1], None if kinds.names is None else kinds.names[:-1], kinds.library)

    def predict(self, X: Any) -> np.ndarray:
        """E[y | x_observed] of each row: (B,)."""

        def of_density(marginals: Marginals) -> Tensor:
            return means(marginals, self.density_.columns_)

        return self._answers(X, of_density, lambda values, shares: shares @ values)

    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """The central interval of p(y | x_observed) of each row: its lower and its upper ends, (B,) each.

        Args:
            X: rows (B, D).
            coverage: the probability that y lies in it, within (0, 1).
        """
        tail = (1 - as_coverage(coverage)) / 2
        return self._quantile(X, tail), self._quantile(X, 1 - tail)

    def log_density(self, X: Any, y: Any) -> np.ndarray:
        """log p(y | x_observed) of each row, in nats and in the unit of y: (B,)."""
        check_is_fitted(self, "density_")
        table, numbers = self._validated(X, y)
        cells = table.numbers
        joint = np.column_stack((cells, np.asarray(numbers, dtype=np.float64)))
        alone = np.column_stack((cells, np.full(len(cells), np.nan)))
        both, of_cells = (self.density_._log_density_of(numbers)[:, 0] for numbers in (joint, alone))
        return both - of_cells

    def _quantile(self, X: Any, q: float) -> np.ndarray:
        def of_values(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
            reached = shares.cumsum(1) >= q * shares.sum(1, keepdims=True) - 1e-12
            return values[reached.argmax(1)]

        return self._answers(X, lambda marginals: marginals.quantile(q), of_values)

    def _answers(self, X: Any, of_density, of_values) -> np.ndarray:
        """What p(y | x) answers: as a density of the network's rows, or by the values of y, where these are few."""
        check_is_fitted(self, "density_")
        cells, columns = self._validated(X), self.density_.columns_
        values = columns.values[-1]
        joint = np.column_stack((cells, np.full(len(cells), np.nan)))
        answers = []
        for rows in slices(len(joint), ROWS_PER_CHUNK):
            x, observed, _ = columns.encode(joint[rows])
            marginals = conditional_marginals(self.density_.model_, x, observed)
            if values is None:
                answers.append(columns.decode_numbers(_target_alone(of_density(marginals)))[:, -1])
            elif len(values) == 1:
                answers.append(np.full(len(x), values[0]))
            else:
                shares = marginals.probabilities()[:, -1, : len(values)].double().numpy()
                answers.append(of_values(np.asarray(values, dtype=np.float64), shares))
        return np.concatenate(answers).astype(np.float64)


def _free_name(name: str, names: list | None) -> str:
    while names is not None and name in names:
        name += "_"
    return name


def _target_alone(rows: Tensor) -> Tensor:
    """Rows of which only the target is known: means of the other columns need not be values of theirs."""
    rows = rows.clone()
    rows[:, :-1] = torch.nan
    return rows
