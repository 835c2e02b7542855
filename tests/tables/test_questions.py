"""Questions to a density over a table, against integration, enumeration, and differences of log-densities."""

import numpy as np
import pandas
import pytest
from fictional import QUICK, density_of_people, people

import einet
from einet.tables import EinetDensity
from einet.tables.conditions import UNSEEN

GRID = np.linspace(-60, 160, 4001)  # ages, far beyond all there are


def mass(where, **fixed):
    """The integral of the density over the ages where that is true, with some cells fixed and the others missing."""
    rows = pandas.DataFrame({name: np.full(len(GRID), fixed.get(name, np.nan)) for name in people(2).columns})
    rows["age"] = GRID
    return np.trapezoid(np.where(where, np.exp(density_of_people().score_samples(rows)), 0), GRID)


def test_the_probability_of_an_interval_is_an_integral():
    asked = density_of_people().probability({"age": (30, 47)})
    assert asked == pytest.approx(mass((GRID >= 30) & (GRID <= 47)), abs=1e-3)
    above = density_of_people().probability({"age": (47, None)})
    below = density_of_people().probability({"age": (None, 47)})
    assert above + below == pytest.approx(1, abs=1e-9)


def test_the_probability_of_a_set_is_the_sum_of_its_values():
    ask = density_of_people().probability
    each = [ask({"region": value}) for value in (1, 2, 5)]
    alone = [np.exp(density_of_people().score_samples(one_row(region=value)))[0] for value in (1, 2, 5)]
    assert each == pytest.approx(alone, rel=1e-7)
    assert ask({"region": {1, 5}}) == pytest.approx(each[0] + each[2], rel=1e-9)
    assert ask({"region": (2, None)}) == pytest.approx(each[1] + each[2], rel=1e-9)
    assert ask({"region": {1, 2, 5}}) == pytest.approx(1 - np.exp(UNSEEN), rel=1e-9)
    assert ask({"region": {1, 7}}) == pytest.approx(each[0] + np.exp(UNSEEN), rel=1e-9)


def test_conditional_probabilities_are_ratios():
    ask = density_of_people().probability
    both = ask({"age": (30, 40), "member": {1}, "region": {1, 2}})
    assert ask({"age": (30, 40)}, {"member": {1}, "region": {1, 2}}) == pytest.approx(
        both / ask({"member": 1, "region": {1, 2}}), rel=1e-9
    )
    inside = (GRID >= 30) & (GRID <= 40)
    wanted = mass(inside, income=4000, region=2) / mass(GRID < 1000, income=4000, region=2)
    assert ask({"age": (30, 40)}, {"income": 4000, "region": 2}) == pytest.approx(wanted, abs=1e-3)


def test_conditions_on_one_column_meet():
    ask = density_of_people().probability
    assert ask({"age": (30, 40)}, {"age": (35, 50)}) == pytest.approx(ask({"age": (35, 40)}) / ask({"age": (35, 50)}))
    assert ask({"age": (30, 40)}, {"age": 35}) == pytest.approx(1)
    assert ask({"age": (30, 40)}, {"age": 45}) == 0
    assert ask({"region": {1, 2}}, {"region": {2, 5}}) == pytest.approx(ask({"region": 2}) / ask({"region": {2, 5}}))
    assert ask({"region": {1}}, {"region": 7}) == 0
    assert ask({"region": {1, 7}}, {"region": 7}) == pytest.approx(1)


def test_a_constant_and_what_is_no_condition():
    ask = density_of_people().probability
    assert ask({"year": 2024}) == pytest.approx(1 - np.exp(UNSEEN))
    assert ask({"year": (None, 2023)}) == 0
    assert ask({"year": 1999}) == pytest.approx(np.exp(UNSEEN))
    assert ask({"year": (None, None), "age": (None, float("inf"))}) == pytest.approx(1)
    assert ask({}) == pytest.approx(1)
    assert ask({"age": 30}) == 0  # a density, and no probability


def test_isolated_values_atoms_and_counts_have_probabilities():
    random = np.random.RandomState(0)
    table = pandas.DataFrame({"a": random.randn(200), "n": random.poisson(30, 200), "rain": random.exponential(1, 200)})
    table.loc[:9, "a"], table.loc[:119, "rain"] = -999.0, 0.0
    density = EinetDensity(**QUICK).fit(table)
    ask, missing = density.probability, {"a": np.nan, "n": np.nan, "rain": np.nan}
    assert density.columns_.excluded[0] and density.columns_.atoms[2].size and 0.5 < ask({"rain": 0}) < 0.7
    for name, value in (("a", -999.0), ("n", 31), ("rain", 0.0)):
        if name == "n" and density.columns_.values[1] is None and ask({"n": 31}) == 0:
            continue  # a count whose family is one of real numbers
        alone = np.exp(density.score_samples(pandas.DataFrame([missing | {name: value}])))[0]
        assert ask({name: value}) == pytest.approx(alone, rel=1e-6), name
    assert ask({"a": (-1000, -500)}) == pytest.approx(ask({"a": -999}), rel=1e-9)
    assert ask({"a": (None, -500)}) + ask({"a": (-499.9, None)}) == pytest.approx(1, abs=1e-6)
    assert ask({"rain": (0.5, None)}, {"a": -999}) == pytest.approx(ask({"rain": (0.5, None)}), rel=1e-6)
    assert ask({"a": (0, 1)}, {"a": -999}) == 0 and ask({"a": (None, 0)}, {"a": -999}) == pytest.approx(1)
    drawn = density.sample(2000, random_state=0, given={"rain": (0, 1)})
    assert drawn["rain"].between(0, 1).all()
    wanted = ask({"rain": 0}) / ask({"rain": (0, 1)})
    assert (drawn["rain"] == 0).mean() == pytest.approx(wanted, abs=0.05)


def test_text_and_dates_in_conditions():
    random = np.random.RandomState(0)
    when = pandas.Timestamp("2020-01-01") + pandas.to_timedelta(random.randint(0, 700, 120), unit="D")
    table = pandas.DataFrame({"name": random.choice(["ann", "bob"], 120), "when": when})
    density = EinetDensity(**QUICK).fit(table)
    middle = pandas.Timestamp("2021-01-01")
    halves = density.probability({"when": (middle, None)}), density.probability({"when": (None, middle)})
    assert sum(halves) == pytest.approx(1, abs=1e-6) and 0.3 < halves[0] < 0.7
    drawn = density.sample(50, given={"name": "bob", "when": (middle, None)})
    assert set(drawn["name"]) == {"bob"} and (drawn["when"] >= middle).all() and drawn.dtypes.equals(table.dtypes)
    assert set(density.sample(3, given={"name": "zoe"})["name"]) == {"zoe"}
    for given, message in (
        ({"name": ("ann", None)}, "column 'name' has no order"),
        ({"name": 3}, "column 'name' had categories in training"),
        ({"when": ("2021-01-01", None)}, "column 'when' has dates, got text: as in datetime.date.fromisoformat"),
    ):
        with pytest.raises(ValueError, match=message):
            density.probability(given)


def test_columns_by_number_after_an_array():
    table = people()
    density = EinetDensity(**QUICK).fit(table.to_numpy(dtype=float))
    assert density.probability({0: (30, 40)}) == pytest.approx(
        density_of_people().probability({"age": (30, 40)}), rel=1e-9
    )
    assert density.sample(3, given={1: 2}).shape == (3, 5)
    assert np.array_equal(density.predict_missing(table.to_numpy(dtype=float)), table.to_numpy(dtype=float))


@pytest.mark.parametrize(
    "given, message",
    [
        ([("age", 3)], "given must be a dict of columns and conditions"),
        ({"height": 3}, "given must name columns of the training data, which are .'age'.*, got 'height'"),
        ({"age": (40, 30)}, r"column 'age' must have bounds \(low, high\) with low <= high, got \(40, 30\)"),
        ({"age": (1, 2, 3)}, r"must have bounds \(low, high\), got \(1, 2, 3\): a set"),
        ({"age": ("a", 3)}, "must have bounds"),
        ({"age": "old"}, "given: column 'age' holds text"),
        ({"age": float("nan")}, "column 'age' must be a value that is not missing, got nan"),
        ({"age": None}, "got None: leave it out"),
        ({"region": set()}, r"got set\(\): leave it out"),
        ({"region": ("a", None)}, "column 'region' holds text"),
        ({"age": 30, 0: 31}, "given has column 0 twice"),
        ({"age": set(range(200)), "income": set(range(200))}, "40000 combinations, of which at most 20000"),
    ],
)
def test_conditions_that_make_no_sense(given, message):
    for ask in (lambda: density_of_people().sample(given=given), lambda: density_of_people().probability({}, given)):
        with pytest.raises(ValueError, match=message):
            ask()


def test_evidence_of_probability_0_is_refused():
    for given in ({"year": (2030, 2040)}, {"age": {30, 31}}):
        with pytest.raises(ValueError, match="given has probability 0"):
            density_of_people().sample(given=given)
        with pytest.raises(ValueError, match="given has probability 0"):
            density_of_people().probability({"region": 1}, given)


def test_samples_keep_to_what_is_given():
    given = {"age": (30, 40), "region": {1, 5}, "member": 1}
    drawn = density_of_people().sample(3000, random_state=1, given=given)
    assert drawn["age"].between(30, 40).all() and set(drawn["region"]) == {1, 5} and (drawn["member"] == 1).all()
    assert drawn.equals(density_of_people().sample(3000, random_state=1, given=given))
    wanted = density_of_people().probability({"region": 1, "age": (30, 34)}, given)
    share = ((drawn["region"] == 1) & (drawn["age"] <= 34)).mean()
    assert share == pytest.approx(wanted, abs=4 * (wanted * (1 - wanted) / 3000) ** 0.5)
    drawn = density_of_people().sample(5, given={"age": 31.25, "region": 7})
    assert (drawn[["age", "region"]] == [31.25, 7]).all(axis=None)


def one_row(**cells):
    return pandas.DataFrame({name: [cells.get(name, np.nan)] for name in people(2).columns})


def test_surprise_is_the_difference_without_the_cell():
    density, table = density_of_people(), people(20, seed=3).astype(float)
    table.loc[0, "age"], table.loc[1, "region"], table.loc[2, "income"] = np.nan, 7, 1e5
    told = density.surprise(table)
    assert list(told.columns) == list(table.columns) and told.index.equals(table.index)
    assert told.isna().equals(table.isna())
    for name in table.columns:
        without = table.assign(**{name: np.nan})
        wanted = np.where(table[name].isna(), np.nan, density.score_samples(without) - density.score_samples(table))
        assert np.allclose(told[name], wanted, rtol=1e-6, atol=1e-6, equal_nan=True), name
    assert told.loc[1, "region"] == pytest.approx(-UNSEEN)
    assert told["income"].idxmax() == 2
    assert isinstance(EinetDensity(**QUICK).fit(people().to_numpy(float)).surprise(table.to_numpy()), np.ndarray)


def test_intervals_hold_what_they_say():
    density, table = density_of_people(), people(5, seed=4).astype(float)
    table.loc[[0, 2], "age"] = np.nan
    table.loc[0, "region"] = np.nan
    low, high = density.predict_interval(table, coverage=0.8)
    assert (low.loc[1] == table.loc[1]).all() and (high.loc[1] == table.loc[1]).all()
    for row in (0, 2):
        known = {name: cell for name, cell in table.loc[row].items() if not np.isnan(cell)}
        ends = low.loc[row, "age"], high.loc[row, "age"]
        assert density.probability({"age": ends}, known) == pytest.approx(0.8, abs=1e-6)
        assert density.probability({"age": (None, ends[0])}, known) == pytest.approx(0.1, abs=1e-6)
    region = (low.loc[0, "region"], high.loc[0, "region"])
    known = {name: cell for name, cell in table.loc[0].items() if not np.isnan(cell)}
    assert density.probability({"region": region}, known) >= 0.8 - 1e-4
    for coverage in (0, 1, "wide"):
        with pytest.raises(ValueError, match=r"coverage must be a probability within \(0, 1\)"):
            density.predict_interval(table, coverage)


# Forms


def test_what_comes_out_has_the_names_dtypes_and_index_of_what_went_in():
    table = people(30).astype({"region": "Int64", "member": bool, "age": "float32"})
    table.index = [f"row {i}" for i in range(30)]
    density = EinetDensity(**QUICK).fit(table)
    drawn = density.sample(4)
    assert drawn.dtypes.equals(table.dtypes) and list(drawn.index) == [0, 1, 2, 3]
    gaps = table.copy()
    gaps.loc["row 3", "region"], gaps.loc["row 4", "age"] = pandas.NA, np.nan
    filled = density.predict_missing(gaps)
    assert filled.dtypes.equals(table.dtypes) and filled.index.equals(table.index) and not filled.isna().any(axis=None)
    assert filled.drop(["row 3", "row 4"]).equals(table.drop(["row 3", "row 4"]))


def test_a_mean_of_whole_numbers_is_rounded():
    table = pandas.DataFrame({"a": np.arange(60) ** 2, "b": np.random.RandomState(0).randn(60)})
    density, gaps = EinetDensity(**QUICK).fit(table), table.astype({"a": "Int64"})
    gaps.loc[3, "a"] = pandas.NA
    filled = density.predict_missing(gaps)
    assert filled["a"].dtype == table["a"].dtype and filled["a"].drop(3).equals(table["a"].drop(3))


def test_an_array_stays_an_array():
    density, gaps = EinetDensity(**QUICK).fit(people().to_numpy(float)), people(3).to_numpy(float)
    gaps[0, 0] = np.nan
    for answer in (density.sample(3), density.predict_missing(gaps), *density.predict_interval(gaps)):
        assert isinstance(answer, np.ndarray) and answer.shape == (3, 5) and answer.dtype == np.float64


@pytest.mark.slow
def test_logarithms_are_asked_in_the_units_of_the_table(tmp_path):
    """Densities, probabilities, means and intervals of columns that are joint in logs, by integration; and saved."""
    logs = np.random.RandomState(0).multivariate_normal([0, 1], [[1, 0.9], [0.9, 1]], 120)
    density = EinetDensity(random_state=0, num_sums=2).fit(np.exp(logs))
    assert density.columns_.logs == [0, 1]
    grid = np.geomspace(1e-6, 1e6, 20001)
    alone = np.exp(density.score_samples(np.c_[grid, np.full(len(grid), np.nan)]))
    assert np.trapezoid(alone, grid) == pytest.approx(1 - np.exp(UNSEEN), abs=1e-4)
    inside = (grid >= 0.5) & (grid <= 2)
    wanted = np.trapezoid(alone[inside], grid[inside])
    assert density.probability({0: (0.5, 2)}) == pytest.approx(wanted, abs=1e-3)
    assert density.probability({0: (None, -1)}) == pytest.approx(0, abs=1e-4)
    given = np.exp(density.score_samples(np.c_[np.full(len(grid), 3.0), grid]))
    given /= np.trapezoid(given, grid)
    row = np.array([[3.0, np.nan]])
    assert density.predict_missing(row)[0, 1] == pytest.approx(np.trapezoid(given * grid, grid), rel=1e-4)
    low, high = density.predict_interval(row)
    assert np.trapezoid(np.where(grid < low[0, 1], given, 0), grid) == pytest.approx(0.05, abs=2e-3)
    assert np.trapezoid(np.where(grid > high[0, 1], given, 0), grid) == pytest.approx(0.05, abs=2e-3)
    drawn = density.sample(2000, given={0: 3.0})
    assert (drawn[:, 0] == 3).all() and drawn[:, 1].mean() == pytest.approx(np.trapezoid(given * grid, grid), rel=0.1)
    einet.save(density, tmp_path / "density.einet")
    again = einet.load(tmp_path / "density.einet")
    assert np.array_equal(again.score_samples(np.exp(logs)), density.score_samples(np.exp(logs)))
