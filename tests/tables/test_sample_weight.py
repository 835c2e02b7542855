"""Weights of rows for estimators: a row of weight 2 is that row twice, wherever it lies in the table."""

import numpy as np
import pytest
from fictional import QUICK, people
from sklearn.datasets import load_iris

import einet
from einet.tables import EinetClassifier, EinetDensity
from einet.tables.weights import MAX_REPEATED_ROWS, counted, in_proportion

TABLE, TIMES = people(60).drop(columns="year"), np.arange(60) % 4


@pytest.mark.parametrize(
    "settings",
    [{}, {"validation": 0.2}, {"validation": 0.2, "depth": "auto"}, {"structure": einet.chow_liu, "sum_product": "cp"}],
)
def test_whole_weights_are_repeated_rows_in_any_order(settings):
    settings = QUICK | settings
    weighed = EinetDensity(**settings).fit(TABLE, sample_weight=TIMES)
    repeated = TABLE.loc[TABLE.index.repeat(TIMES)].sample(frac=1, random_state=1)
    plain = EinetDensity(**settings).fit(repeated)
    assert weighed.score_samples(TABLE) == pytest.approx(plain.score_samples(TABLE), rel=1e-6)
    assert weighed.score(TABLE, sample_weight=TIMES) == pytest.approx(plain.score(repeated))


def test_weights_of_classes_are_their_prior():
    X, y = load_iris(return_X_y=True)
    times = np.where(y == 0, 3, y)
    weighed = EinetClassifier(**QUICK).fit(X, y, sample_weight=times)
    plain = EinetClassifier(**QUICK).fit(X.repeat(times, 0), y.repeat(times))
    assert weighed.class_log_prior_ == pytest.approx(np.log([1 / 2, 1 / 6, 1 / 3]))
    assert weighed.predict_proba(X) == pytest.approx(plain.predict_proba(X), rel=1e-6)
    only = EinetClassifier(**QUICK).fit(X, y, sample_weight=np.where(y == 1, 0, 0.5))
    assert list(only.classes_) == [0, 2] and only.class_log_prior_ == pytest.approx(np.log([0.5, 0.5]))
    assert weighed.score(X, y, times) == pytest.approx(plain.score(X.repeat(times, 0), y.repeat(times)))


def test_fractions_weigh_in_training():
    """Two clusters, of which the second counts a tenth."""
    random = np.random.RandomState(0)
    X = np.concatenate((random.randn(100, 1), 10 + random.randn(100, 1)))
    weights = np.repeat([1.0, 0.1], 100)
    density = EinetDensity(**QUICK | {"epochs": 60}).fit(X, sample_weight=weights)
    assert density.probability({0: (5, None)}) == pytest.approx(1 / 11, abs=0.02)
    assert density.score(X, sample_weight=weights) > EinetDensity(**QUICK | {"epochs": 60}).fit(X).score(
        X, sample_weight=weights
    )


def test_many_repeats_are_weights():
    rows, weights = counted(np.full(10, MAX_REPEATED_ROWS), 10)
    assert len(rows) == 10 and (weights == MAX_REPEATED_ROWS).all()
    rows, weights = counted([2, 0, 1], 3)
    assert rows.tolist() == [0, 0, 2] and weights is None
    rows, weights = counted([0.5, 0, 1], 3)
    assert rows.tolist() == [0, 2] and weights.tolist() == [0.5, 1]


def test_rows_in_proportion_are_all_there():
    assert in_proportion(np.array([0.1, 0.1, 2.8]), 3).tolist() == [0, 1, 2, 2, 2]
    assert in_proportion(None, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "weights, message",
    [
        (np.ones(59), r"sample_weight must have the shape \(60,\), got \(59,\)"),
        (np.ones((60, 2)), r"shape \(60,\), got \(60, 2\)"),
        (-np.ones(60), "finite and at least 0, got -1.0"),
        (np.full(60, np.nan), "finite and at least 0, got nan"),
        (np.zeros(60), "at least one non-zero number"),
        (["heavy"] * 60, "sample_weight must be 60 numbers"),
    ],
)
def test_weights_that_cannot_be(weights, message):
    density = EinetDensity(**QUICK)
    with pytest.raises(ValueError, match=message):
        density.fit(TABLE, sample_weight=weights)
    assert not hasattr(density, "model_")


def test_verbose_tells_of_each_training(capsys):
    assert "mixture-1" in (EinetDensity(num_sums=1, epochs=5, verbose=1).fit(TABLE), capsys.readouterr().out)[1]
    trees = QUICK | {"epochs": 2}
    EinetDensity(**trees).fit(TABLE)
    assert capsys.readouterr().out == ""
    EinetDensity(**trees | {"verbose": 1}).fit(TABLE)
    assert capsys.readouterr().out.startswith("[EinetDensity] 60 rows, 2 epochs in")
    EinetDensity(**trees | {"verbose": 1, "validation": 0.5}).fit(people(200))
    assert "on 100 held out, best epoch 2" in capsys.readouterr().out
