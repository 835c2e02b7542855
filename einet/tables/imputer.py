"""Gaps filled from the density of the rows themselves, as a transformer.

    make_pipeline(EinetImputer(), LogisticRegression()).fit(X, y)

Source: Section 2
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from einet.tables.estimator import EinetDensity
from einet.tables.questions import STRATEGIES, as_count


class EinetImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Fills missing cells from a density over the rows: p(x_d | what is there of the row).

    The density is trained on rows with gaps as they are, by EM, so a table needs no complete row. A table comes back in
    the form it came in: a DataFrame with its names, index and dtypes, where these can hold what was filled in; an array
    as an array. `set_output` changes that, as for any transformer.

    Args:
        density: the `EinetDensity` to train, a copy of it; by default one with all its defaults and this
            `random_state`.
        strategy: what a gap gets. "mean": E[x_d | rest], the smallest squared error, or the most probable label; that
            of a list of prices is none of them (`EinetDensity.predict_missing` has the most probable). "median": the
            middle of p(x_d | rest), the smallest absolute error. "mode": a most probable completion of the whole row
            (`einet.mpe`). "draw": a draw of all the row's gaps together, which keeps the columns' spread and how they
            depend on each other.
        random_state: an integer makes training and draws repeatable.

    Attributes:
        density_: the trained `EinetDensity`, for every other question.
        n_features_in_: D.
        feature_names_in_: of a DataFrame with names of text.

    Raises:
        ValueError: as `EinetDensity` does, for the table; or `strategy` is none of these.

    Source: Section 2
    """

    def __init__(
        self,
        density: EinetDensity | None = None,
        strategy: str = "mean",
        random_state: int | np.random.RandomState | None = None,
    ):
        self.density = density
        self.strategy = strategy
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> EinetImputer:
        """Learn from the rows of X (B, D), each as often as its weight says; `y` is ignored."""
        self._check_strategy()
        given = EinetDensity(random_state=self.random_state) if self.density is None else self.density
        density = cast(EinetDensity, clone(given))
        density.fit(X, sample_weight=sample_weight)
        validate_data(self, X, skip_check_array=True, reset=True)
        self.density_ = density
        return self

    def transform(self, X: Any) -> Any:
        """X with every missing cell filled by `strategy`."""
        check_is_fitted(self, "density_")
        self._check_strategy()
        return self.density_._completed(X, self.strategy, _generator(self.random_state))

    def draws(self, X: Any, n_draws: int = 5, random_state: int | np.random.RandomState | None = None) -> list:
        """Multiple imputation: X with its gaps drawn, so many times, independently.

        An analysis of each, and the spread of its results, has the uncertainty about the gaps that one completed table
        hides (Rubin's rules).

        Args:
            X: the table.
            n_draws: how many.
            random_state: the imputer's where None.

        Returns:
            `n_draws` tables in the form of X.
        """
        check_is_fitted(self, "density_")
        generator = _generator(self.random_state if random_state is None else random_state)
        return [self.density_._completed(X, "draw", generator) for _ in range(as_count("n_draws", n_draws))]

    def _check_strategy(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {list(STRATEGIES)}, got {self.strategy!r}")


def _generator(random_state: int | np.random.RandomState | None) -> torch.Generator:
    return torch.Generator().manual_seed(check_random_state(random_state).randint(2**31 - 1))
