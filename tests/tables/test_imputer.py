"""The imputer: what each strategy fills in, pipelines, names, and draws."""

import numpy as np
import pandas
import pytest
from fictional import QUICK, people
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from einet.tables import EinetDensity, EinetImputer


def with_gaps(num_rows=120):
    table = people(num_rows).astype(float)
    table.loc[::5, "age"], table.loc[1::7, "region"] = np.nan, np.nan
    return table


def imputer(**settings):
    return EinetImputer(EinetDensity(**QUICK), **settings)


def test_a_pipeline_fills_what_the_next_step_could_not_read():
    table = with_gaps()
    model = make_pipeline(imputer(), LogisticRegression(max_iter=5000)).fit(table[["age", "region"]], table["member"])
    assert model.predict(table[["age", "region"]]).shape == (120,)
    wide = make_pipeline(EinetImputer(EinetDensity()), LogisticRegression()).set_params(
        einetimputer__density__num_sums=2, einetimputer__strategy="median"
    )
    assert wide[0].density.num_sums == 2


def test_each_strategy_is_its_summary_of_the_conditional():
    table = with_gaps()
    row = table.loc[[5]]
    filled = {s: imputer(strategy=s, random_state=0).fit(table) for s in ("mean", "median", "mode", "draw")}
    density = filled["mean"].density_
    grid = np.linspace(-100, 200, 20001)
    worlds = pandas.concat([row] * len(grid), ignore_index=True).assign(age=grid)
    p = np.exp(density.score_samples(worlds) - density.score_samples(row))
    mean = np.trapezoid(p * grid, grid)
    assert filled["mean"].transform(row)["age"].item() == pytest.approx(mean, abs=1e-2)
    median = grid[np.searchsorted(np.cumsum(p) * (grid[1] - grid[0]), 0.5)]
    assert filled["median"].transform(row)["age"].item() == pytest.approx(median, abs=0.05)
    mode = filled["mode"].transform(row)
    assert density.score_samples(mode)[0] > density.score_samples(row.assign(age=grid[p.argmax()]))[0] - 0.5
    drawn = np.array([each["age"].item() for each in filled["draw"].draws(row, 300)])
    spread = np.trapezoid(p * (grid - mean) ** 2, grid) ** 0.5
    assert drawn.mean() == pytest.approx(mean, abs=4 * spread / 300**0.5)
    assert drawn.std() == pytest.approx(spread, rel=0.2)
    assert all(
        np.array_equal(one.transform(row)[["income", "member"]], row[["income", "member"]]) for one in filled.values()
    )
    assert set(filled["median"].transform(table)["region"]) <= {1, 2, 5}


def test_names_and_forms():
    table = with_gaps()
    fitted = imputer().fit(table)
    assert list(fitted.get_feature_names_out()) == list(table.columns)
    assert fitted.transform(table).index.equals(table.index)
    assert isinstance(fitted.set_output(transform="pandas").transform(table), pandas.DataFrame)
    array = imputer().set_output(transform="pandas").fit_transform(table.to_numpy())
    assert list(array.columns) == ["x0", "x1", "x2", "x3", "x4"]
    assert isinstance(imputer().fit_transform(table.to_numpy()), np.ndarray)


def test_draws_repeat_by_seed_and_differ_from_each_other():
    table = with_gaps()
    fitted = imputer(strategy="draw", random_state=3).fit(table)
    one, two = fitted.draws(table, 2)
    assert not one.equals(two) and one.equals(fitted.draws(table, 2)[0])
    assert fitted.transform(table).equals(fitted.transform(table))
    assert one["age"].drop(table.index[::5]).equals(table["age"].drop(table.index[::5]))
    with pytest.raises(ValueError, match="n_draws must be"):
        fitted.draws(table, 0)


def test_what_is_refused():
    table = with_gaps()
    with pytest.raises(ValueError, match=r"strategy must be one of \['mean', 'median', 'mode', 'draw'\], got 'most'"):
        imputer(strategy="most").fit(table)
    with pytest.raises(NotFittedError):
        imputer().transform(table)
    given = EinetDensity(**QUICK)
    assert EinetImputer(given).fit(table).density is given and not hasattr(given, "model_")


def test_weights_reach_the_density():
    table = with_gaps(40)
    times = np.arange(40) % 3
    weighed = imputer().fit(table, sample_weight=times).transform(table)
    repeated = imputer().fit(table.loc[table.index.repeat(times)]).transform(table)
    assert np.allclose(weighed, repeated, rtol=1e-6)


def test_numbers_of_a_list_are_filled_by_their_mean_and_predicted_by_the_likeliest():
    """Stars and prices: the mean has the smallest squared error, and is none of them."""
    random = np.random.RandomState(0)
    kind = random.rand(400) < 0.5
    stars = np.where(kind, random.choice([1.0, 2, 5], 400, p=[0.5, 0.2, 0.3]), random.choice([3.0, 5], 400))
    X = np.c_[stars, 10 * kind + random.randn(400)]
    imputer = EinetImputer(EinetDensity(epochs=20, random_state=0)).fit(X)
    gap = np.array([[np.nan, 10.0], [np.nan, 0.0], [2.0, 10.0]])
    assert imputer.density_.columns_.values[0].tolist() == [1, 2, 3, 5]
    filled = imputer.transform(gap)[:, 0]
    assert filled[:2] == pytest.approx([stars[kind].mean(), stars[~kind].mean()], abs=0.15) and filled[2] == 2
    assert imputer.density_.predict_missing(gap)[0, 0] == 1
