"""The scikit-learn face: scikit-learn's own checks, densities in the data's units, and NaN as missing."""

import warnings
from functools import cache

import numpy as np
import pandas
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import einet
from einet import LogNormal, Poisson
from einet.families import Bernoulli, Binomial, Categorical, Normal
from einet.tables import EinetClassifier, EinetDensity, EinetImputer, EinetRegressor
from einet.tables.blur import TableWarning
from einet.tables.choice import choose
from einet.tables.columns import Columns
from experiments.missing import accuracies

# One training of one network; of small tables that have no such settings there are candidates, and folds of each.
SMALL = {"depth": 1, "num_replicas": 2, "num_sums": 3, "epochs": 10, "validation": 0.0, "random_state": 0}
SHORT = SMALL | {"epochs": 2}
COMPETING = {"depth": "auto", "validation": 0.1}


@parametrize_with_checks(
    [
        EinetDensity(**SHORT | COMPETING | {"epochs": 1}),
        EinetClassifier(**SHORT | {"validation": 0.1}),
        EinetDensity(**SHORT, leaf=Normal()),
        EinetClassifier(**SMALL | {"depth": 0}),
        EinetClassifier(**SHORT | COMPETING | {"epochs": 1}),
        EinetClassifier(**SHORT, refine=True),
        EinetRegressor(**SMALL | {"epochs": 30, "num_sums": 8, "num_replicas": 4}),
        EinetImputer(EinetDensity(**SHORT)),
        EinetImputer(EinetDensity(**SHORT), strategy="draw", random_state=0),
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
    assert np.log(integral) == pytest.approx(density.score_samples(row)[0], abs=1e-3)
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


@pytest.mark.slow
def test_samples_repeat_by_seed_and_look_like_the_data():
    X = load_iris().data
    density = EinetDensity(**SMALL).fit(X)
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


@pytest.mark.slow
def test_cross_validation_pipelines_and_grids():
    X, y = load_breast_cancer(return_X_y=True)
    assert cross_val_score(EinetClassifier(**SMALL | {"epochs": 30}), X, y, cv=3).mean() > 0.88
    pipeline = make_pipeline(MinMaxScaler(), EinetClassifier(**SMALL))
    grid = GridSearchCV(pipeline, {"einetclassifier__num_sums": [2, 3]}, cv=2)
    assert grid.fit(X[::4], y[::4]).best_score_ > 0.8


@pytest.mark.slow
def test_missing_entries_cost_less_than_imputed_ones():
    """30 % missing: integrated out of p(x | y) they cost little; filled with means they mislead the same model."""
    X, y = load_breast_cancer(return_X_y=True)
    complete, marginal, imputed = accuracies(X, y, num_sums=5, num_replicas=3, epochs=15, depth=1, validation=0.0)
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
    drawn = einet.sample(density.model_, 2000, torch.Generator().manual_seed(0))[:, 0]
    assert density.columns_.constant == [0] and drawn.mean() < 1e-3, "and the network knows it, too"


@pytest.mark.parametrize("leaf", ["auto", Normal()])
@pytest.mark.parametrize("value", [3.7, 0.1, -2.5, 0.0, 1.7e9, 1e300, -1e308, 1e-300, 5e-324])
def test_a_constant_comes_back_in_any_unit(value, leaf):
    X = np.c_[np.full(50, value), np.random.RandomState(0).randn(50)]
    density = EinetDensity(**SMALL, leaf=leaf).fit(X)
    assert (density.sample(500)[:, 0] == value).all()
    assert density.predict_missing([[np.nan, 0.0]])[0, 0] == value
    same, other, missing = density.score_samples([[value, 0], [value / 2 + 1e200, 0], [np.nan, 0]])
    assert same - missing == pytest.approx(np.log1p(-1e-5), abs=1e-9) and other - missing == pytest.approx(np.log(1e-5))


def test_rounding_does_not_make_a_constant_vary():
    X = np.array([[0.1 + 0.2], [0.3], [0.3]] * 20)
    density = EinetDensity(**SMALL).fit(X)
    assert density.columns_.constant == [0] and (density.sample(50) == 0.3).all()
    seen = density.score_samples([[0.1 + 0.2], [0.3], [0.3 + 1e-15]])
    assert seen == pytest.approx(np.log([1 - 1e-5, 1 - 1e-5, 1e-5]), abs=1e-7)


@pytest.mark.parametrize("step", [1e-3, 1e-6])
def test_seconds_since_1970_that_differ_a_little_vary(step):
    """By a millisecond they differ by less than 1e-12 of themselves."""
    X = 1.7e9 + step * np.random.RandomState(0).randint(0, 2, (200, 1))
    density = EinetDensity(**SMALL).fit(X)
    assert density.columns_.constant == [] and (density.sample(400) - 1.7e9).std() == pytest.approx(step / 2, rel=0.2)


@pytest.fixture(scope="module")
def in_unit():
    """The density of the same hundred rows in another unit."""
    X = np.random.RandomState(0).randn(100, 2)
    return X, cache(lambda unit: EinetDensity(**SHORT | COMPETING).fit(unit * X))


@pytest.mark.parametrize("unit", [1e307, 1e155, 1e-200, 1e-310])
def test_a_density_is_the_same_in_any_unit(in_unit, unit):
    """Squares of these are infinite, or 0, and a standard deviation of 0 was that of a constant."""
    X, density_in = in_unit
    expected, density = density_in(1), density_in(unit)
    assert density.score(unit * X) + 2 * np.log(unit) == pytest.approx(expected.score(X), abs=1e-3)
    # Rounding may send a draw, and with it those after it, to another component.
    assert (density.sample(2000) / unit).std(0) == pytest.approx(expected.sample(2000).std(0), rel=0.1)


def test_far_away_probabilities_still_sum_to_one_and_agree_with_the_prediction():
    X, y = load_iris(return_X_y=True)
    classifier = EinetClassifier(**SMALL | {"epochs": 3}).fit(X[:120], y[:120])  # 50, 50 and 20 of the classes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for far in (1e3, 1e7, 1e160):
            probabilities = classifier.predict_proba([[far, 0, 0, 0]])
            assert probabilities.sum() == pytest.approx(1, abs=1e-9)
            assert classifier.predict([[far, 0, 0, 0]]) == classifier.classes_[probabilities.argmax()]


def test_all_missing_is_the_prior():
    X, y = load_iris(return_X_y=True)
    classifier = EinetClassifier(**SMALL | {"epochs": 3}).fit(X[:120], y[:120])
    assert np.allclose(classifier.predict_proba(np.full((1, 4), np.nan)), [[5 / 12, 5 / 12, 1 / 6]])


@pytest.mark.parametrize("leaf", ["normal", [Normal()], None, {Normal(): [0, 0]}, {Normal(): [4]}, Bernoulli()])
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
    density = EinetDensity(**SMALL | COMPETING).fit(X)
    assert {type(family) for family in density.columns_.families} == {Normal, Categorical}
    grid = np.linspace(-60, 80, 20001)
    curves = [np.exp(density.score_samples(np.c_[grid, np.full(len(grid), k)])) for k in range(3)]
    assert sum(np.trapezoid(curve, grid) for curve in curves) == pytest.approx(1, abs=1e-4)
    assert density.predict_missing([[20.0, np.nan], [0.0, np.nan]])[:, 1].tolist() == [2, 0]
    assert density.predict_missing([[np.nan, 1.0]])[0, 0] == pytest.approx(10, abs=3)


# Families of one's own


def test_a_family_without_a_largest_value_beside_categories():
    """Its gaps are filled with the mean; each was filled with 0, the first of the other column's two values."""
    random = np.random.RandomState(0)
    kind = random.randint(0, 2, 300)
    X = np.c_[random.poisson(2 + 18 * kind), random.poisson(2 + 18 * kind), kind].astype(float)
    density = EinetDensity(**SMALL | {"epochs": 30}, leaf={Poisson(): [0, 1]}).fit(X)
    assert density.columns_.discrete == [2] and density.columns_.scale.tolist() == [1, 1, 1]
    filled = density.predict_missing([[np.nan, np.nan, 0], [np.nan, 21, 1], [20, np.nan, np.nan]])
    assert filled[:, 0] == pytest.approx([2, 20, 20], rel=0.25) and filled[:2, 1] == pytest.approx([2, 21], rel=0.25)
    assert filled[2, 2] == 1
    alone = EinetDensity(**SMALL, leaf=Poisson()).fit(X[:, :2])
    assert alone.columns_.discrete == [] and alone.predict_missing([[np.nan, 20]])[0, 0] > 5
    assert (alone.sample(50) == np.round(alone.sample(50))).all()


def test_a_family_that_is_no_longer_normal_is_not_standardised():
    X = np.exp(np.random.RandomState(0).randn(200, 2))
    density = EinetDensity(**SMALL, leaf=LogNormal()).fit(X)
    assert density.columns_.scale.tolist() == [1, 1] and (density.sample(200) > 0).all()
    assert density.predict_missing([[np.nan, 1.0]])[0, 0] > 0


# Columns that will be blurred


def test_a_bound_that_hides_what_is_known_is_told():
    """y = 2 a + noise: p(y | a) has a standard deviation of 1, and no leaf one below 7.4."""
    a = np.linspace(-100, 0, 1000)
    X = pandas.DataFrame({"a": a, "y": 2 * a + np.random.RandomState(0).randn(1000)})
    settings = {"random_state": 0, "num_replicas": 4, "epochs": 40}
    message = (
        r"% of the leaf entries of column '[ay]' .* deviation of (7|3)[.0-9]+: .*min_variance=0.0001\): \['[ay]'\]"
    )
    with pytest.warns(TableWarning, match=message):  # of both
        blurred = EinetDensity(**settings, leaf=Normal(min_variance=0.01)).fit(X).score(X)
    assert EinetDensity(**settings).fit(X).score(X) > blurred + 0.1  # which has no such bound, and warns of none


@pytest.mark.parametrize("draw", ["normal", "uniform", "exponential", "laplace"])
def test_a_bound_that_hides_nothing_is_not_told(draw):
    X = getattr(np.random.RandomState(0), draw)(size=(300, 2))
    EinetDensity(**SMALL | COMPETING | {"epochs": 40, "num_sums": 4}).fit(X)  # warnings are errors


# The columns of a table


def houses(num_rows=60):
    """A table with names: a number, a count from 0 to 2, and yes or no; a gap in each."""
    random = np.random.RandomState(0)
    rooms = random.randint(0, 3, num_rows)
    table = {"area": 40 + 20 * rooms + random.randn(num_rows), "rooms": rooms, "garden": random.randint(0, 2, num_rows)}
    return pandas.DataFrame(table, dtype=float).mask(np.eye(num_rows, 3, dtype=bool))


def test_encode_takes_what_the_estimator_takes_and_decode_undoes_it():
    table = houses()
    columns = EinetDensity(**SMALL).fit(table).columns_
    z, seen, offset = columns.encode(table)
    for same in (table.to_numpy(), torch.tensor(table.to_numpy()), table.to_numpy().tolist()):
        again, seen_again, offset_again = columns.encode(same)
        assert torch.equal(z.nan_to_num(-9), again.nan_to_num(-9)) and torch.equal(seen, seen_again)
        assert torch.equal(offset, offset_again)
    pandas.testing.assert_frame_equal(columns.decode(z), table, rtol=1e-12)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t[["rooms", "area", "garden"]], "'area' is expected, got 'rooms'"),
        (lambda t: t[["area", "rooms"]], "3 columns .*, got 2"),
        (lambda t: t.assign(area=np.inf), "infinity"),
        (lambda t: t.assign(garden="no"), "column 'garden' holds text"),
        (lambda t: t.assign(garden=pandas.Timestamp("2020-01-01")), "column 'garden' holds dates"),
    ],
)
def test_encode_refuses_what_the_estimator_refuses(change, message):
    density = EinetDensity(**SMALL).fit(houses())
    with pytest.raises(ValueError, match=message):
        density.columns_.encode(change(houses()))
    with pytest.raises(ValueError):
        density.score_samples(change(houses()))


def test_a_gap_is_nan_for_the_network_so_that_nobody_forgets_it():
    table = houses()
    density = EinetDensity(**SMALL).fit(table.assign(rate=5.0))
    table = table.assign(rate=5.0).fillna({"area": 60})
    table.loc[4, "rooms"] = 7  # never seen
    z, seen, offset = density.columns_.encode(table)
    assert torch.equal(z.isnan(), ~seen) and not seen[4, 1] and not seen[:, 3].any()
    assert np.allclose(einet.log_marginal(density.model_, z, seen) + offset, density.score_samples(table))
    with pytest.raises(ValueError, match="got nan"):
        density.model_(z)


def test_decode_takes_samples_of_every_row():
    table = houses()
    density = EinetDensity(**SMALL).fit(table)
    z, seen, _ = density.columns_.encode(table)
    drawn = density.columns_.decode(einet.sample_conditional(density.model_, z, seen, 7))
    assert drawn.shape == (7, *table.shape) and np.isfinite(drawn).all()
    assert set(np.unique(drawn[..., 1])) == {0, 1, 2}
    assert np.allclose(drawn[:, seen], table.to_numpy()[seen])
    assert density.columns_.decode(z[0]).shape == (3,)


@pytest.mark.parametrize("estimator", [EinetDensity, EinetClassifier])
@pytest.mark.parametrize("value", [3, -1, 0.5])
def test_a_value_outside_its_family_is_refused_with_its_column(estimator, value):
    leaf, table, y = {Categorical(3): ["rooms"]}, houses(), np.arange(60) % 2
    wrong = table.copy()
    wrong.loc[9, "rooms"] = value
    with pytest.raises(ValueError, match=f"column 'rooms': .* from 0 to 2, got {value}"):
        estimator(**SMALL, leaf=leaf).fit(wrong, y)
    with pytest.raises(ValueError, match=f"column 1: .* from 0 to 2, got {value}"):
        estimator(**SMALL, leaf={Categorical(3): [1]}).fit(wrong.to_numpy(), y)
    fitted = estimator(**SMALL, leaf=leaf).fit(table, y)
    with pytest.raises(ValueError, match=f"column 'rooms': .* from 0 to 2, got {value}"):
        fitted.score(wrong, y)


def test_a_column_without_a_value_is_refused():
    empty = houses().assign(rooms=np.nan)
    with pytest.raises(ValueError, match="column 'rooms' has no value in training"):
        EinetDensity(**SMALL).fit(empty)
    with pytest.raises(ValueError, match="column 1 has no value in training"):
        EinetClassifier(**SMALL, leaf=Normal()).fit(empty.to_numpy(), np.arange(60) % 2)


@pytest.mark.parametrize("rows", [np.zeros((2, 5)), torch.zeros(4)])
def test_decode_wants_rows_of_its_width(rows):
    columns = Columns(houses().to_numpy())
    assert columns.decode(np.zeros((2, 3))).shape == (2, 3)
    with pytest.raises(ValueError, match="z must have 3 columns"):
        columns.decode(rows)


@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_messages_have_the_name_of_the_argument(count):
    with pytest.raises(ValueError, match="n_samples must be an integer of at least 1"):
        EinetDensity(**SMALL).fit(houses()).sample(count)
    for leaf in ({"normal": [0]}, {Normal(): 0.5}):
        with pytest.raises(ValueError, match="leaf must"):
            EinetDensity(**SMALL, leaf=leaf).fit(houses())


def test_names_that_scikit_learn_would_not_compare_are_refused():
    table = pandas.DataFrame(houses().to_numpy())
    density = EinetDensity(**SMALL).fit(table)  # 0, 1, 2: places
    for names in ([0, 2, 1], [2000, 2001, 2002], ["a", 1, 2]):
        with pytest.raises(ValueError, match=r"names of text, or 0, 1, \.\.\., got \["):
            density.score_samples(table.set_axis(names, axis=1))
        with pytest.raises(ValueError, match="names of text|must be those of the training data"):
            density.columns_.encode(table.set_axis(names, axis=1))


def test_a_lone_row_is_left_to_scikit_learn():
    table = houses()
    with pytest.raises(ValueError, match="(?i)expected a 2.dimensional|expected 2D"):
        EinetDensity(**SMALL).fit(table.to_numpy()).score_samples(table.iloc[0])


def test_a_mean_of_categories_is_not_decoded():
    table = houses()
    density = EinetDensity(**SMALL).fit(table)
    z, seen, _ = density.columns_.encode(table)
    mean = einet.conditional_mean(density.model_, z, torch.zeros_like(seen))
    with pytest.raises(ValueError, match=r"column '(rooms|garden)' has categories 0, 1, \.\.\. .*, got 0\.\d+"):
        density.columns_.decode(mean)


def test_numbers_written_as_text_are_numbers():
    table = houses().astype({"garden": object})
    table["garden"] = ["0", "1", None] * 20
    assert EinetDensity(**SMALL).fit(table).columns_.discrete == [1, 2]


def test_a_leaf_for_some_columns_by_name_or_number():
    table = houses()
    area = choose(table["area"].dropna().to_numpy()).family
    assert type(area) is Normal
    for columns in (["rooms"], "rooms", [1], np.array([1]), 1):
        families = Columns(table.to_numpy(), {Binomial(2): columns}, list(table)).families
        assert families == {Binomial(2): [1], area: [0], Bernoulli(): [2]}
    own = EinetDensity(**SMALL, leaf={Binomial(2): ["rooms"]}).fit(table)
    assert own.model_.families == {Binomial(2): (1,), area: (0,), Bernoulli(): (2,)}
    every = EinetDensity(**SMALL, leaf={}).fit(table)
    assert np.array_equal(every.score_samples(table), EinetDensity(**SMALL).fit(table).score_samples(table))


def test_a_family_may_be_given_and_chosen_at_once():
    table = houses().assign(odd=[3.0, 4.0] * 30)
    density = EinetDensity(**SMALL, leaf={Bernoulli(): ["garden"]}).fit(table)
    assert density.columns_.families[Bernoulli()] == [2, 3]
    assert set(np.unique(density.sample(50)["odd"])) == {3, 4}
    with pytest.raises(ValueError, match="column 'garden': a Bernoulli"):
        density.score_samples(table.assign(garden=3.0))
    assert np.isfinite(density.score_samples(table.assign(odd=5.0))).all()


@pytest.mark.parametrize("column", ["attic", 3, -1])
def test_a_leaf_for_a_column_that_is_not_there(column):
    leaf = {Normal(): ["area"], Binomial(2): [column]}
    with pytest.raises(ValueError, match=rf"0 to 2, or \['area', 'rooms', 'garden'\], got {column!r}"):
        EinetDensity(**SMALL, leaf=leaf).fit(houses())
    with pytest.raises(ValueError, match="which are 0 to 2, got 'area'"):
        EinetDensity(**SMALL, leaf=leaf).fit(houses().to_numpy())


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, x, seen: einet.log_marginal(model, x),
        lambda model, x, seen: einet.log_conditional(model, x, ~seen, seen),
        lambda model, x, seen: einet.conditional_mean(model, x, seen),
        lambda model, x, seen: einet.conditional_marginals(model, x, seen),
        lambda model, x, seen: einet.sample(model, 5),
        lambda model, x, seen: einet.sample_conditional(model, x, seen),
        lambda model, x, seen: einet.mpe(model, x, seen),
        lambda model, x, seen: einet.entropy(model),
        lambda model, x, seen: einet.entropy_bounds(model),
        lambda model, x, seen: einet.mutual_information(model, [0], [1]),
        lambda model, x, seen: einet.log_density(model, x),
        lambda model, x, seen: einet.fit(model, x),
    ],
)
def test_questions_to_an_estimator_say_where_its_network_is(ask):
    seen = torch.tensor([True, False])
    for x in (torch.zeros(1, 2), houses()):
        with pytest.raises(ValueError, match="an Einet or a Mixture, got EinetDensity: .* model_, .* columns_.encode"):
            ask(EinetDensity(), x, seen)
