"""`leaf="auto"`: every family is chosen for what was drawn from it, and stays so with a row more."""

import numpy as np
import pytest
import scipy.stats

from einet.families import (
    Bernoulli,
    Binomial,
    Categorical,
    Exponential,
    Gamma,
    Geometric,
    Heaped,
    LogNormal,
    Normal,
    Poisson,
)
from einet.families import WithAtoms as Atoms
from einet.tables.choice import choose, joint
from einet.tables.column_models import of_values
from einet.tables.columns import Columns
from einet.tables.estimator import EinetDensity
from einet.tables.kinds import read
from einet.tables.resolution import center_and_scale, isolated, resolution, step_of


def kind(column):
    family = choose(column).family
    return (Atoms, type(family.family)) if isinstance(family, Atoms) else type(family)


DRAWS = {
    "normal": (lambda r, n: 5 + 3 * r.randn(n), Normal),
    "heavy tails": (lambda r, n: r.standard_t(2, n), Normal),
    "two heaps": (lambda r, n: np.where(r.rand(n) < 0.5, r.randn(n), 10 + r.randn(n)), Normal),
    "rounded": (lambda r, n: np.round(170 + 10 * r.randn(n), 1), Normal),
    "exponential": (lambda r, n: r.exponential(3, n), Exponential),
    "log-normal": (lambda r, n: r.lognormal(0, 1.5, n), LogNormal),
    "gamma": (lambda r, n: r.gamma(0.5, 2, n), Gamma),
    "poisson": (lambda r, n: r.poisson(3, n), Poisson),
    "poisson far from 0": (lambda r, n: r.poisson(20, n), Poisson),
    "geometric": (lambda r, n: r.geometric(0.2, n) - 1, Geometric),
    "geometric from 1": (lambda r, n: r.geometric(0.01, n), Geometric),
    "binomial": (lambda r, n: r.binomial(30, 0.9, n), Binomial),
    "yes or no": (lambda r, n: r.rand(n) < 0.1, Bernoulli),
    "stars": (lambda r, n: r.choice(5, n, p=[0.3, 0.05, 0.05, 0.2, 0.4]), Categorical),
    "prices": (lambda r, n: r.choice([9.99, 19.99, 49.99], n, p=[0.5, 0.3, 0.2]), Categorical),
    "prices in cents": (lambda r, n: r.choice([999, 1999, 4999], n), Categorical),
    "a code for missing": (lambda r, n: np.where(np.arange(n) % 20 == 3, -999, r.randn(n)), Normal),
}


@pytest.mark.parametrize("num_rows", [100, 1000])
@pytest.mark.parametrize("name", DRAWS)
def test_a_family_is_chosen_for_what_was_drawn_from_it(name, num_rows):
    draw, expected = DRAWS[name]
    for seed in range(3):
        column = draw(np.random.RandomState(seed), num_rows + 1).astype(float)
        assert kind(column[:-1]) == kind(column) == expected


def test_the_largest_of_a_few_numbers_is_no_total():
    """Waists of fifteen people, of whom the next may be wider than all."""
    random = np.random.RandomState(0)
    for column in (random.binomial(37, 0.93, 15), np.r_[random.binomial(37, 0.9, 100).clip(max=36), 37]):
        assert kind(column.astype(float)) is not Binomial


def test_a_few_halves_are_no_reason_for_spikes_at_whole_numbers():
    """Baths of houses: a density between whole numbers, compared as if only these were possible, would always win."""
    random = np.random.RandomState(0)
    baths = random.choice([1, 1.5, 2, 2.5, 3, 4], 700, p=[0.15, 0.01, 0.6, 0.02, 0.2, 0.02])
    assert kind(baths) is Categorical


@pytest.mark.parametrize("seed", range(3))
def test_values_that_people_prefer_are_heaps(seed):
    fahrenheit = np.random.RandomState(seed).normal(60, 15, 1001)
    celsius = np.round((np.round(fahrenheit) - 32) / 1.8, 1)
    for column in (amounts(1001, seed)[:, 0], celsius):
        assert kind(column[:-1]) == kind(column) == Heaped


def test_zeros_beside_a_density():
    random = np.random.RandomState(0)
    for seed, num_rows in ((0, 300), (1, 1000)):
        random = np.random.RandomState(seed)
        column = np.where(random.rand(num_rows + 1) < 0.7, 0, random.gamma(3, 2, num_rows + 1))
        assert kind(column[:-1]) == kind(column) and kind(column)[0] is Atoms
        assert choose(column).atoms.tolist() == [0]


def amounts(rows, seed=0):
    """Amounts of which most are hundreds, and what they follow from."""
    random = np.random.RandomState(seed)
    cause = random.randn(rows)
    exact = 3000 + 1500 * cause + 300 * random.randn(rows)
    return np.c_[np.where(random.rand(rows) < 0.7, np.round(exact, -2), exact), cause]


def test_the_probability_of_a_heap_is_that_of_what_was_rounded_to_it():
    """Beside a column that says much, fresh rows get what the density that they were drawn from gives them, nearly."""
    density = EinetDensity(epochs=30, random_state=0).fit(amounts(1500))
    fresh = amounts(1500, seed=1)
    exact = scipy.stats.norm(3000 + 1500 * fresh[:, 1], 300)
    heaps = fresh[:, 0] == np.round(fresh[:, 0], -2)
    rounded = 0.7 * (exact.cdf(fresh[:, 0] + 50) - exact.cdf(fresh[:, 0] - 50))
    truth = np.log(np.where(heaps, rounded, 0.3 * exact.pdf(fresh[:, 0]))) + scipy.stats.norm.logpdf(fresh[:, 1])
    lost = (truth - density.score_samples(fresh)).mean()
    assert "Heaped" in repr(density.columns_) and 0 < lost < 0.5
    drawn = density.sample(2000, random_state=0)[:, 0]
    assert np.mean(drawn == np.round(drawn, -2)) == pytest.approx(0.7, abs=0.05)
    assert density.probability(where={0: {3000}}) == pytest.approx(heaps_at(amounts(1500)[:, 0], 3000), abs=0.01)


def heaps_at(column, value):
    return np.mean(column == value)


def test_heaps_become_real_only_where_that_is_asked_and_are_compared_over_a_length():
    rows = amounts(1500)
    table = read(np.c_[rows, np.random.RandomState(1).lognormal(0, 1, 1500)], training=True)
    columns = Columns(table)
    kept, real = columns.as_reals(table), columns.as_reals(table, heaps=True)
    assert sorted(columns.reals) == [1] and sorted(kept.reals) == [1, 2] and sorted(real.reals) == [0, 1, 2]
    assert not kept.measure(table.numbers).any()
    at_heaps = np.isin(rows[:, 0], columns.atoms[0])
    length = real.lengths[0][1]
    assert real.measure(table.numbers).numpy() == pytest.approx(np.where(at_heaps, np.log(length), 0))


@pytest.mark.parametrize(("prefer", "expected"), [(np.round(np.linspace(-2, 2, 41), 1), Heaped), ([1.0, 3.0], Atoms)])
def test_values_that_differ_by_rounding_alone_are_one_heap_or_atom(prefer, expected):
    """As 0.3 and 0.1 + 0.2 do: a family's atoms must differ, and the most frequent remains."""
    random = np.random.RandomState(0)
    often = random.choice(prefer, 1000)
    almost = np.where(random.rand(1000) < 0.25, np.nextafter(often, -9), often)  # a unit in the last place less
    column = np.where(random.rand(1000) < 0.7, almost, random.randn(1000))
    choice = choose(column)
    assert type(choice.family) is expected and len(choice.atoms) > 1 and np.isin(choice.atoms, prefer).all()


def test_heaps_that_gain_little_stay_real():
    """Three of ten amounts are rounded: not enough for a column that is no longer joined with others."""
    random = np.random.RandomState(1)
    exact = random.normal(3000, 1500, 1000)
    assert kind(np.where(random.rand(1000) < 0.3, np.round(exact, -2), exact)) is Normal


def test_too_many_heaps_are_none():
    exact = np.random.RandomState(0).uniform(-200, 200, 6000)
    column = np.where(np.arange(6000) % 10 < 7, np.round(exact), exact)
    assert kind(column) is Normal and kind(column[np.abs(column) < 120]) is Heaped


def test_a_column_may_have_nothing_but_heaps():
    """Half a row counts as beside them, so that their heights are finite."""
    assert kind(np.repeat(np.random.RandomState(1).randn(200), 5)) is Heaped


def test_few_rows_are_normal_or_categories():
    assert kind(np.array([1.5, 2.0, 4.0])) is Normal and kind(np.array([3.0, 7.0])) is Bernoulli
    assert kind(np.array([2.5, 7.1])) is Normal


@pytest.mark.parametrize("unit", [1e-300, 1e-3, 1000.0, 1e300])
def test_the_choice_is_the_same_in_any_unit(unit):
    for name in ("normal", "log-normal", "gamma", "exponential", "prices", "a code for missing"):
        draw, expected = DRAWS[name]
        assert kind(unit * draw(np.random.RandomState(0), 300)) == expected


# Log-densities in the units of the table


@pytest.mark.parametrize("name", DRAWS)
def test_the_offset_is_that_of_the_units(name):
    """Of a single leaf of the chosen family: integrated over the column's units, or summed, it has mass 1."""
    import torch

    import einet

    column = DRAWS[name][0](np.random.RandomState(0), 300).astype(float)[:, None]
    columns = Columns(column)
    model = einet.Einet(einet.RegionGraph([{0}]), columns.families, num_sums=1, seed=0).double()
    x, seen, _ = columns.encode(column)
    einet.fit(model, x, seen, epochs=2, batch_size=None, lr=1.0, progress=False)
    (family,) = columns.families

    def density(values):
        z, seen, offset = columns.encode(np.asarray(values, dtype=float)[:, None])
        with torch.no_grad():
            return torch.exp(model(z, seen) + offset).numpy()

    if columns.values[0] is not None:
        mass = density(columns.values[0]).sum()
    elif isinstance(family, (Poisson, Geometric, Binomial)):
        mass = density(np.arange(8000)).sum() - 1e-5 * (~columns.encode(np.arange(8000.0)[:, None])[1]).sum().item()
    else:
        low, high = (-200, 300) if isinstance(family, (Normal, Atoms)) else (1e-9, 2000)
        grid = np.linspace(low, high, 40_001) + 1e-7 if low < 0 else np.geomspace(low, high, 40_001)
        mass = np.trapezoid(density(grid), grid)
        mass += density(columns.atoms[0]).sum() if len(columns.atoms[0]) else 0
        mass += sum(columns.excluded[0].values())
    assert mass == pytest.approx(1, abs=2e-3)


# As reals that one normal density may hold


@pytest.mark.parametrize("unit", [1e-300, 1.0, 1e6])
def test_a_column_is_real_or_the_logarithm_of_one(unit):
    random = np.random.RandomState(0)
    normal, skewed = unit * (5 + random.randn(200)), unit * random.lognormal(0, 1, 200)
    one, other = joint(normal, choose(normal)), joint(skewed, choose(skewed))
    assert type(one.family) is type(other.family) is Normal
    assert np.isnan(one.shift) and other.shift == 0
    assert other.center == pytest.approx(np.log(unit), abs=0.3) and other.scale == pytest.approx(1, abs=0.3)
    raised = skewed - skewed.min()
    assert joint(raised, choose(raised)).shift > 0, "0 has no logarithm"


def test_counts_are_reals_and_dates_have_no_logarithm():
    counts = np.random.RandomState(0).poisson(30, 300).astype(float)
    assert type(choose(counts).family) is Poisson and type(joint(counts, choose(counts)).family) is Normal
    skewed = np.random.RandomState(0).lognormal(0, 1, 300)
    assert np.isnan(joint(skewed, choose(skewed), positive=False).shift)


def test_categories_and_atoms_stay_what_they_are():
    random = np.random.RandomState(0)
    zeros = np.where(random.rand(300) < 0.7, 0, random.gamma(3, 2, 300))
    for column, choice in ((zeros, choose(zeros)), (np.arange(3.0), of_values(np.arange(3.0)))):
        assert joint(column, choice) is choice


def logarithms():
    """Columns of a log-normal, one with zeros, a normal, and the rows."""
    random = np.random.RandomState(0)
    skewed = random.lognormal(0, 1, 300)
    table = np.c_[random.lognormal(1, 1, 300), skewed - skewed.min(), 50 + random.randn(300)]
    table = read(table, training=True)
    columns = Columns(table).as_reals(table)
    assert columns.logs == [0, 1] and sorted(columns.reals) == [0, 1, 2]
    return columns, table.numbers


def test_logarithms_there_and_back():
    columns, table = logarithms()
    z, seen, _ = columns.encode(table)
    assert seen.all() and columns.decode(z) == pytest.approx(table, rel=1e-9, abs=1e-12)
    assert "LogNormal" in repr(columns) and "Normal, of log(x + " in repr(columns)
    assert columns.coordinates(0, np.array([-1.0]))[0] < columns.coordinates(0, np.array([1e-300]))[0] < -100


def test_what_has_no_logarithm_is_unseen():
    columns, table = logarithms()
    z, seen, offset = columns.encode(np.r_[[[-1.0, 0, 50]], table[:1]])
    assert seen.tolist() == [[False, True, True], [True] * 3] and z[0, 0].isnan()
    alone = columns.encode(np.array([[np.nan, 0, 50]]))[2]
    assert offset[0].item() - alone.item() == pytest.approx(np.log(1e-5))


def test_few_steps_are_no_reals():
    """A density of small counts would give more than a probability of 1: they stay counts; large ones are reals."""
    random = np.random.RandomState(0)
    table = read(np.c_[random.geometric(0.35, 500), random.poisson(900, 500), random.randn(500)], training=True)
    columns = Columns(table)
    joined = columns.as_reals(table)
    assert sorted(columns.reals) == [2] and sorted(joined.reals) == [1, 2] and joined.logs == []


@pytest.mark.parametrize("chance", [(0.6, 0.25), (0.8, 0.3), (0.5, 0.1)])
def test_no_density_of_whole_numbers_exceeds_probability(chance):
    """Fresh rows get no more than their true distribution gives them, in one column and beside one that says much."""
    random = np.random.RandomState(0)
    kind = random.rand(4000) < 0.5
    nights = random.geometric(np.where(kind, *chance))
    beside = np.c_[nights, 50 * nights + random.randn(4000)]
    truth = np.logaddexp(*(scipy.stats.geom(p).logpmf(nights) for p in chance)) - np.log(2)
    alone = EinetDensity(epochs=20, random_state=0).fit(nights[:1000, None])
    assert -0.05 < (alone.score_samples(nights[1000:, None]) - truth[1000:]).mean() < 0.01
    density = EinetDensity(epochs=20, random_state=0).fit(beside[:1000])
    truth += scipy.stats.norm(50 * nights).logpdf(beside[:, 1])
    assert (density.score_samples(beside[1000:]) - truth[1000:]).mean() < 0.01


def test_reals_alone_are_no_other_columns():
    table = read(np.random.RandomState(0).randn(200, 2), training=True)
    assert Columns(table).as_reals(table) is None


# Scale and resolution


@pytest.mark.parametrize(
    ("column", "step"),
    [
        ([1.0, 3, 7], 2.0),
        ([0.1, 0.3, 0.4], 0.1),
        ([0, 0.6, 1.1, 1.7, 2.2], 0.1),
        ([2.5, 5.0, 7.5] * 10 + [0.125], 0.125),
        ([np.pi, np.e, np.sqrt(2)], 0.0),
        ([1e15, 3e15], 2e15),
    ],
)
def test_the_step_of_a_decimal_grid(column, step):
    assert step_of(np.array(column)) == pytest.approx(step)


def test_a_scale_that_no_few_cells_move():
    column = np.random.RandomState(0).randn(1000)
    center, scale = center_and_scale(column)
    assert center == pytest.approx(0, abs=0.1) and scale == pytest.approx(1, abs=0.1)
    for other in (np.r_[1e6, column[1:]], np.where(np.arange(1000) % 20 == 0, -999, column)):
        moved, wider = center_and_scale(other)
        assert abs(moved - center) < 0.1 and abs(wider - scale) < 0.15
    assert center_and_scale(np.r_[np.zeros(900), np.arange(100)])[1] > 0


def test_isolated_cells_are_few_and_far():
    column = np.random.RandomState(0).randn(1000)
    assert isolated(np.r_[1e6, column]).tolist() == [1e6] and isolated(np.r_[-1e3, 1e6, column]).tolist() == [-1e3, 1e6]
    assert len(isolated(column)) == len(isolated(np.arange(50.0))) == 0


def test_the_resolution_is_the_step_of_rounded_values():
    column = np.round(np.random.RandomState(0).randn(1000), 2)
    assert resolution(column) == pytest.approx(0.01) and resolution(np.array([1.0, 1.0])) == 0
    assert resolution(np.r_[0.1 + 0.2, 0.3, 0.7]) == pytest.approx(0.4)  # rounding is no step


def test_one_error_is_a_gap_and_moves_no_other_row():
    random = np.random.RandomState(0)
    column = random.randn(1000)
    clean, dirty = Columns(column[:, None]), Columns(np.r_[1e6, column[1:]][:, None])
    assert dirty.excluded == [{1e6: 1e-3}] and dirty.center == pytest.approx(clean.center, abs=0.01)
    z, seen, offset = dirty.encode(np.array([[1e6], [0.5]]))
    assert seen.tolist() == [[False], [True]] and dirty.decode(z[1:]).item() == pytest.approx(0.5)
    assert offset.tolist() == pytest.approx([np.log(1e-3), np.log1p(-1e-3) - np.log(dirty.scale[0])])
    assert "Normal, but for 1e+06" in repr(dirty)


def test_a_narrow_cluster_in_a_wide_one_is_above_the_floor():
    random = np.random.RandomState(0)
    column = np.r_[100 * random.randn(500), 5 + 1e-3 * random.randn(500)]
    columns = Columns(column[:, None])
    (family,) = columns.families
    assert np.sqrt(family.min_variance) * columns.scale[0] < 3e-4


def test_what_a_chosen_family_does_not_have_is_unseen():
    """And neither an error nor a density of 0: the probability of categories that were never seen."""
    random = np.random.RandomState(0)
    table = np.c_[random.poisson(3, 300), random.lognormal(0, 1.5, 300), random.binomial(30, 0.9, 300)].astype(float)
    columns = Columns(table)
    assert [type(f) for f in columns.families] == [Poisson, LogNormal, Binomial]
    z, seen, offset = columns.encode(np.array([[-1, -2.0, 31], [2.5, 0, 29.5]]))
    assert not seen.any() and z.isnan().all() and offset.tolist() == pytest.approx([3 * np.log(1e-5)] * 2)


def test_reals_that_may_be_joined_and_their_units():
    random = np.random.RandomState(0)
    table = np.c_[50 + 7 * random.randn(400), random.poisson(3, 400), random.randn(400)]
    columns = Columns(table)
    assert columns.reals == {0: columns.scale[0], 2: columns.scale[2]} and columns.scale[0] == pytest.approx(7, rel=0.2)
    assert (columns.resolution[[0, 2]] < 0.05).all() and Columns(table, {Normal(): [0]}).reals.keys() == {2}
