"""The scikit-learn face: scikit-learn's own checks, densities in the data's units, and NaN as missing."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from einet.estimator import EinetClassifier, EinetDensity
from einet.families import Bernoulli, Categorical, Normal
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


def test_a_constant_column_says_nothing_and_comes_back():
    X = np.c_[np.full(50, 5.0), np.random.RandomState(0).randn(50)]
    density = EinetDensity(**SMALL).fit(X)
    assert (density.sample(2000)[:, 0] == 5).all()
    assert density.predict_missing([[np.nan, 0.0]])[0, 0] == 5
    same, other, missing = density.score_samples([[5, 0.0], [6, 0.0], [np.nan, 0.0]])
    other, missing = other - same, missing - same
    assert other < -11 and missing == pytest.approx(0, abs=1e-4)


def test_far_away_probabilities_still_sum_to_one_and_agree_with_the_prediction():
    X, y = load_iris(return_X_y=True)
    classifier = EinetClassifier(**SMALL).fit(X[:120], y[:120])  # 50, 50 and 20 of the classes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for far in (1e3, 1e7, 1e160):
            probabilities = classifier.predict_proba([[far, 0, 0, 0]])
            assert probabilities.sum() == pytest.approx(1, abs=1e-9)
            assert classifier.predict([[far, 0, 0, 0]]) == classifier.classes_[probabilities.argmax()]


def test_all_missing_is_the_prior():
    X, y = load_iris(return_X_y=True)
    classifier = EinetClassifier(**SMALL).fit(X[:120], y[:120])
    assert np.allclose(classifier.predict_proba(np.full((1, 4), np.nan)), [[5 / 12, 5 / 12, 1 / 6]])


@pytest.mark.parametrize("leaf", ["normal", [Normal()], None, {Normal(): [0, 1]}, Bernoulli()])
def test_leaves_that_do_not_fit_are_refused(leaf):
    with pytest.raises(ValueError, match="leaf must|must be 0 or 1"):
        EinetDensity(**SMALL, leaf=leaf).fit(load_iris().data)


def test_a_failed_fit_leaves_nothing_half_done():
    X = load_iris().data
    density = EinetDensity(**SMALL | {"lr": 3})
    with pytest.raises(ValueError, match="lr"):
        density.fit(X)
    with pytest.raises(NotFittedError):
        density.score_samples(X)
    before = density.set_params(lr=0.1).fit(X).score_samples(X)
    with pytest.raises(ValueError, match="lr"):
        density.set_params(lr=3).fit(2 * X)
    assert np.array_equal(density.score_samples(X), before)


def test_mixed_columns_have_mass_one():
    random = np.random.RandomState(0)
    kind = random.randint(0, 3, 300)
    X = np.c_[10 * kind + random.randn(300), kind]
    density = EinetDensity(**SMALL | {"epochs": 40}).fit(X)
    assert {type(family) for family in density.model_.families} == {Normal, Categorical}
    grid = np.linspace(-60, 80, 20001)
    curves = [np.exp(density.score_samples(np.c_[grid, np.full(len(grid), k)])) for k in range(3)]
    assert sum(np.trapezoid(curve, grid) for curve in curves) == pytest.approx(1, abs=1e-4)
    assert density.predict_missing([[20.0, np.nan], [0.0, np.nan]])[:, 1].tolist() == [2, 0]
    assert density.predict_missing([[np.nan, 1.0]])[0, 0] == pytest.approx(10, abs=3)
