"""p(y | x): a density over y, whose mean and quantiles are predicted, with gaps in x."""

import numpy as np
import pandas
import pytest
from fictional import QUICK, people
from sklearn.linear_model import LinearRegression

from einet.tables import EinetRegressor

X, Y = people()[["age", "region"]], people()["income"]


@pytest.fixture(scope="module")
def fitted():
    return EinetRegressor(**QUICK).fit(X, Y)


@pytest.fixture(scope="module")
def rows():
    table = X.iloc[:3].astype(float)
    table.iloc[1, 0], table.iloc[2] = np.nan, np.nan
    return table


def test_answers_are_those_of_the_density_over_y(fitted, rows):
    grid = np.linspace(-40000, 60000, 40001)
    low, high = fitted.predict_interval(rows, coverage=0.7)
    for i, mean in enumerate(fitted.predict(rows)):
        p = np.exp(fitted.log_density(pandas.concat([rows.iloc[[i]]] * len(grid)), grid))
        assert np.trapezoid(p, grid) == pytest.approx(1, abs=1e-4)
        assert np.trapezoid(p * grid, grid) == pytest.approx(mean, rel=1e-4)
        assert np.trapezoid(np.where((grid >= low[i]) & (grid <= high[i]), p, 0), grid) == pytest.approx(0.7, abs=2e-3)


def test_the_score_is_r_squared(fitted):
    assert fitted.score(X, Y) == pytest.approx(1 - ((fitted.predict(X) - Y) ** 2).mean() / Y.var(ddof=0))
    times = np.arange(len(X)) % 3
    assert fitted.score(X, Y, times) == pytest.approx(fitted.score(X.loc[X.index.repeat(times)], Y.repeat(times)))


@pytest.mark.slow
def test_it_finds_what_a_line_finds():
    settings = QUICK | {"num_sums": 5, "epochs": 60}
    train, test = slice(0, 300), slice(300, 400)
    table = people(400)
    inputs, target = table[["age", "region"]], table["income"]
    line = LinearRegression().fit(inputs[train], target[train]).score(inputs[test], target[test])
    assert EinetRegressor(**settings).fit(inputs[train], target[train]).score(inputs[test], target[test]) > line - 0.1


def test_a_target_of_few_values_has_the_mean_of_these():
    y = np.array([2.0, 5.0, 11.0])[np.arange(150) % 3]
    x = y[:, None] + np.random.RandomState(0).randn(150, 1)
    fitted = EinetRegressor(**QUICK | {"epochs": 30}).fit(x, y)
    predicted, (low, high) = fitted.predict(x), fitted.predict_interval(x)
    assert predicted.min() >= 2 and predicted.max() <= 11 and fitted.score(x, y) > 0.8
    assert (low <= high).all() and set(low) | set(high) <= {2.0, 5.0, 11.0}
    given_x = fitted.density_.probability({1: (float(low[0]), float(high[0]))}, {0: float(x[0, 0])})
    assert given_x >= 0.9 - 1e-4
    constant = EinetRegressor(**QUICK).fit(x, np.full(150, 3.0))
    assert (constant.predict(x[:4]) == 3).all() and (constant.predict_interval(x[:4])[1] == 3).all()


def test_the_target_keeps_out_of_the_way_of_the_columns():
    table = X.rename(columns={"age": "income"})
    fitted = EinetRegressor(**QUICK).fit(table, Y)
    assert fitted.density_.columns_.names == ["income", "region", "income_"]
    assert fitted.predict(table).shape == Y.shape
    assert list(fitted.feature_names_in_) == ["income", "region"]


def test_a_gap_in_the_target_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        EinetRegressor(**QUICK).fit(X, Y.where(Y.index > 0))
