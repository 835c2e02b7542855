"""The scikit-learn face: scikit-learn's own checks, densities in the data's units, and NaN as missing."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from einet.estimator import EinetClassifier, EinetDensity
from einet.families import Normal
from experiments.missing import accuracies

SMALL = {"num_replicas": 2, "num_sums": 3, "epochs": 10, "random_state": 0}


@parametrize_with_checks(
    [
        EinetDensity(**SMALL),
        EinetClassifier(**SMALL),
        EinetDensity(**SMALL, leaf=Normal()),
        EinetClassifier(**SMALL, depth=0),
    ]
)
def test_scikit_learn_agrees(estimator, check):
    check(estimator)


def test_score_samples_is_a_density_in_the_units_of_the_data():
    X = 1000 + 50 * np.random.RandomState(0).randn(300, 1)
    density = EinetDensity(**SMALL).fit(X)
    grid = np.linspace(0, 2000, 20001)
    assert np.trapezoid(np.exp(density.score_samples(grid[:, None])), grid) == pytest.approx(1, abs=1e-4)


def test_what_is_missing_is_integrated_out():
    X = load_iris().data
    density = EinetDensity(**SMALL).fit(X)
    row, grid = X[:1].copy(), np.linspace(-20, 30, 20001)
    worlds = np.repeat(row, len(grid), 0)
    worlds[:, 2] = grid
    row[0, 2] = np.nan
    integral = np.trapezoid(np.exp(density.score_samples(worlds)), grid)
    assert np.log(integral) == pytest.approx(density.score_samples(row)[0], abs=1e-4)
    assert density.score_samples(np.full((1, 4), np.nan)) == pytest.approx(0, abs=1e-6)


def test_missing_entries_are_filled_and_the_others_untouched():
    X = load_iris().data.copy()
    density = EinetDensity(**SMALL | {"epochs": 40}).fit(X)
    gaps = X.copy()
    gaps[::3, 2] = np.nan
    filled = density.predict_missing(gaps)
    assert np.array_equal(filled[~np.isnan(gaps)], X[~np.isnan(gaps)])
    error, of_mean = (np.abs(guess - X[::3, 2]).mean() for guess in (filled[::3, 2], np.nanmean(gaps[:, 2])))
    assert error < 0.5 * of_mean


def test_samples_repeat_by_seed_and_look_like_the_data():
    X = load_iris().data
    density = EinetDensity(random_state=0).fit(X)
    drawn = density.sample(4000, random_state=1)
    assert np.array_equal(drawn, density.sample(4000, random_state=1))
    assert np.allclose(drawn.mean(0), X.mean(0), atol=0.3)


def test_discrete_columns_keep_their_values():
    X = np.random.RandomState(0).choice([3.0, 7.0, 9.0], (200, 2))
    density = EinetDensity(**SMALL).fit(X)
    assert set(np.unique(density.sample(100))) <= {3.0, 7.0, 9.0}
    assert np.isfinite(density.score_samples([[3.0, 8.0]]))  # 8 was never seen
    worlds = np.array([[a, b] for a in (3.0, 7.0, 9.0) for b in (3.0, 7.0, 9.0)])
    assert np.exp(density.score_samples(worlds)).sum() == pytest.approx(1, abs=1e-3)


def test_cross_validation_pipelines_and_grids():
    X, y = load_breast_cancer(return_X_y=True)
    assert cross_val_score(EinetClassifier(**SMALL | {"epochs": 30}), X, y, cv=3).mean() > 0.9
    pipeline = make_pipeline(MinMaxScaler(), EinetClassifier(**SMALL))
    grid = GridSearchCV(pipeline, {"einetclassifier__num_sums": [2, 3]}, cv=2)
    assert grid.fit(X[::4], y[::4]).best_score_ > 0.8


def test_missing_entries_cost_less_than_imputed_ones():
    """30 % missing: integrated out of p(x | y) they cost little; filled with means they mislead the same model."""
    X, y = load_breast_cancer(return_X_y=True)
    complete, marginal, imputed = accuracies(X, y, num_sums=5, epochs=30)
    print(f"accuracy: complete {complete:.3f}; 30 % missing: integrated out {marginal:.3f}, imputed {imputed:.3f}")
    assert complete - marginal < complete - imputed - 0.01


def test_infinities_and_other_widths_are_refused():
    density = EinetDensity(**SMALL).fit(load_iris().data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="infinity"):
            density.score_samples([[np.inf, 0, 0, 0]])
        with pytest.raises(ValueError, match="3 features"):
            density.score_samples([[0.0, 0, 0]])
