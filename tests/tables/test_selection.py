"""Which density a table gets: candidates, what held-out rows say of them, and their mixture."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris, load_linnerud
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split

import einet
from einet import Bernoulli, Mixture, MultivariateNormal, Normal
from einet.tables import EinetDensity
from einet.tables.candidates import Candidate, climbed, joined, ladders, one_sum, tree, up_to
from einet.tables.selection import Coding, Measured, Rows, Training, measured, mixed, selected, weights_of

TRAINING = Training(epochs=30, patience=5, pseudocount=0.0, leaf_pseudocount=0.0, seed=0)


def rows(x, parts, constant=(), weights=None):
    x = torch.as_tensor(x)
    weights = None if weights is None else torch.as_tensor(weights)
    units = torch.zeros(len(x), dtype=torch.float64)
    return Rows(x, torch.ones_like(x, dtype=torch.bool), weights, np.asarray(parts), list(constant), units)


def correlated(num_rows, seed=0):
    return np.random.RandomState(seed).multivariate_normal([0, 1], [[1, 0.9], [0.9, 1]], num_rows)


def test_sizes_are_powers_of_two():
    assert up_to(1) == [1] and up_to(16) == [1, 2, 4, 8, 16] and up_to(20) == [1, 2, 4, 8, 16]


def test_reals_are_joint_and_all_else_stays():
    families = {Normal(): [0, 2], Bernoulli(): [1, 3]}
    assert joined(families, [0, 2], 0.1) == {MultivariateNormal(min_variance=0.1): [0, 2], Bernoulli(): [1, 3]}
    assert joined(families, [2], 0.1) == families, "a column by itself is not joint"


def test_one_sum_keeps_joint_columns_together():
    assert [region.scope for region in one_sum(3, [0, 2]).regions] == [(0, 2), (1,), (0, 1, 2)]
    assert [region.scope for region in one_sum(2, [0, 1]).regions] == [(0, 1)]
    assert len(one_sum(3, []).leaves) == 3


def test_each_kind_has_its_ladder_and_few_rows_have_short_ones():
    families = {Normal(): [0, 1], Bernoulli(): [2]}
    many = ladders(families, [0, 1], 0.1, 1000, 3, up_to(16))
    assert [[each.name for each in ladder] for ladder in many] == [
        ["columns"],
        ["mixture-1", "mixture-2", "mixture-4", "mixture-8", "mixture-16"],
        ["tree-4", "tree-8", "tree-16"],
    ]
    few = ladders(families, [0, 1], 0.1, 15, 3, up_to(16))
    assert [[each.name for each in ladder] for ladder in few] == [["columns"], ["mixture-1"]]


def test_a_ladder_ends_where_larger_ones_do_not_help():
    ladder = [Candidate(str(size), one_sum(2, []), {Normal(): [0, 1]}, size) for size in range(6)]
    scores = [1.0, 3.0, 2.0, 2.5, 9.0, 9.0]
    found = [each.num_sums for each in climbed(ladder, lambda each: scores[each.num_sums])]
    assert found == [0, 1, 2, 3]


def test_a_tree_knows_a_column_without_values():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    observed = torch.ones(50, 4, dtype=torch.bool)
    observed[:, 2] = False
    assert tree(x, observed).num_variables == 4 and tree(x, None).num_variables == 4


def test_weights_make_held_out_rows_most_probable():
    random = np.random.RandomState(0)
    logs = random.randn(2, 200)
    first, second = weights_of([Measured(None, log, 1) for log in logs])
    best = minimize_scalar(lambda w: -np.log(w * np.exp(logs[0]) + (1 - w) * np.exp(logs[1])).mean(), bounds=(0, 1)).x
    assert first + second == pytest.approx(1) and first == pytest.approx(best, abs=1e-3)


def test_a_mixture_of_one_is_the_normal_density():
    x, parts = correlated(400), np.arange(400) % 5
    (only,) = ladders({Normal(): [0, 1]}, [0, 1], 1e-6, 400, 2, [1])[1:]
    _, model, _, found = selected([Coding(rows(x, parts), [only])], TRAINING)
    exact = multivariate_normal(x.mean(0), np.cov(x.T, bias=True)).logpdf(x)
    assert einet.log_density(model, torch.as_tensor(x)).numpy() == pytest.approx(exact, abs=1e-3)
    assert found[0].candidate.name.startswith("mixture-1")


def test_many_that_are_alike_leave_one():
    """Twelve equal candidates have a twelfth of the weight each: none reached a tenth, and nothing was left to mix."""
    x, parts = correlated(100), np.arange(100) % 2
    alike = [Candidate(str(number), one_sum(2, [0, 1]), {MultivariateNormal(): [0, 1]}, 1) for number in range(12)]
    coding = Coding(rows(x, parts), [[replace(each, learns=False)] for each in alike])
    _, model, _, found = selected([coding], TRAINING)
    assert isinstance(model, einet.Einet) and len(found) == 12


def test_shrinkage_is_tried_as_long_as_it_is_better_than_none():
    ladder = [Candidate(str(size), one_sum(2, []), {Normal(): [0, 1]}, size) for size in range(3)]
    assert [each.num_sums for each in climbed(ladder, lambda each: -each.num_sums, patience=1, best=1.0)] == [0]


def test_rows_that_count_more_weigh_more_held_out():
    """A row of weight 2 is that row twice, for the score of a candidate and for the weights of the mixture."""
    x, parts, weights = correlated(60), np.arange(60) % 3, np.random.RandomState(1).randint(1, 4, 60)
    twice = np.repeat(np.arange(60), weights)
    found = []
    for coding in (rows(x, parts, weights=weights), rows(x[twice], parts[twice])):
        several = [
            measured(Candidate(name, one_sum(2, joint), {family: [0, 1]}, 1), coding, TRAINING)
            for name, joint, family in (("columns", [], Normal()), ("joint", [0, 1], MultivariateNormal()))
        ]
        found.append(([each.score for each in several], weights_of(several), mixed(several).score))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-6) and found[0][2] == pytest.approx(found[1][2], abs=1e-6)


def test_another_way_to_have_the_columns_must_be_better():
    """As reals, the same columns with the same densities: no better, so the first stays. In other units, they are."""
    x, parts = correlated(60), np.arange(60) % 3
    ladder = [replace(Candidate("one", one_sum(2, [0, 1]), {MultivariateNormal(): [0, 1]}, 1), learns=False)]
    for gain, best in ((0.0, 0), (0.01, 0), (0.03, 1)):
        other = replace(rows(x, parts), units=torch.full((60,), gain, dtype=torch.float64))
        assert selected([Coding(rows(x, parts), [ladder]), Coding(other, [ladder])], TRAINING)[0] == best


def skewed(num_rows, seed=0):
    """Two correlated log-normal columns, and a count that goes along with them."""
    logs = correlated(num_rows, seed)
    return np.c_[np.exp(logs), np.random.RandomState(seed + 1).poisson(20 * np.exp(0.5 * logs[:, 0]))]


@pytest.mark.slow
def test_skewed_columns_are_joint_in_logs():
    """A mixture of normals in the columns' own units, which is what reals had, is 0.3 nats a row behind."""
    density = EinetDensity(random_state=0, num_sums=1).fit(skewed(150))
    assert density.columns_.logs[:2] == [0, 1] and density.measured_[0]["name"].startswith("mixture-1 of reals")
    fresh, rival = skewed(2000, 5), GaussianMixture(2, random_state=0, n_init=3).fit(skewed(150))
    assert density.score(fresh) > rival.score(fresh) + 0.3
    x = np.log(fresh[:, :2])
    truth = (multivariate_normal([0, 1], [[1, 0.9], [0.9, 1]]).logpdf(x) - x.sum(1)).mean()
    pair = fresh.copy()
    pair[:, 2] = np.nan
    assert density.score(pair) == pytest.approx(truth, abs=0.1)


@pytest.mark.slow
def test_independent_counts_stay_counts():
    random = np.random.RandomState(0)
    density = EinetDensity(random_state=0, num_sums=2).fit(random.poisson(3, (200, 2)))
    drawn = density.sample(200)
    assert not density.columns_.logs and (drawn == np.round(drawn)).all()


@pytest.mark.slow
def test_several_starts_are_tried_and_an_earlier_table_is_forgotten():
    density = EinetDensity(n_init=2, num_sums=2, random_state=0).fit(correlated(60))
    assert any(each["name"].endswith("start 1") for each in density.measured_)
    assert not hasattr(density.fit(correlated(9)), "measured_"), "too few rows for candidates"


@pytest.mark.slow
def test_what_is_correlated_is_joint():
    density = EinetDensity(random_state=0).fit(correlated(300))
    scores = {each["name"]: each["score"] for each in density.measured_}
    assert scores["mixture-1"] > scores["columns"] + 0.5
    assert [each["score"] for each in density.measured_] == sorted(scores.values(), reverse=True)
    alone = multivariate_normal([0, 1], [[1, 0.9], [0.9, 1]]).logpdf(correlated(2000, 1)).mean()
    assert density.score(correlated(2000, 1)) > alone - 0.05


@pytest.mark.slow
def test_a_given_size_is_the_only_one():
    density = EinetDensity(num_sums=3, random_state=0).fit(correlated(100))
    names = {each["name"].partition(",")[0] for each in density.measured_}
    assert names == {"columns", "mixture-3"}


@pytest.mark.slow
def test_constant_columns_stay_sure_in_every_component():
    X = np.c_[correlated(200), np.full(200, 5.0)]
    density = EinetDensity(random_state=0, num_sums=2).fit(X)
    assert (density.sample(100)[:, 2] == 5).all()


@pytest.mark.parametrize("name, value", [("budget", "slow"), ("n_init", 0), ("n_init", True), ("lr", 3)])
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        EinetDensity(**{name: value}).fit(correlated(30))


@pytest.mark.slow
def test_a_seed_gives_the_same_density():
    X = correlated(120)
    one, other = (EinetDensity(random_state=3).fit(X).score_samples(X) for _ in range(2))
    assert np.array_equal(one, other)


def a_line(num_rows, seed):
    random = np.random.RandomState(seed)
    a = random.uniform(-100, 0, num_rows)
    return np.c_[a, 2 * a + random.randn(num_rows)]


def clusters(num_rows, seed):
    random = np.random.RandomState(seed)
    return np.array([[0, 0, 4], [6, 6, 0]])[random.randint(2, size=num_rows)] + random.randn(num_rows, 3)


def gym(num_rows, seed):
    """Exercises and measures of twenty people: 15 to train on, and five for what is left."""
    both = load_linnerud()
    order = np.random.RandomState(seed).permutation(20)
    return np.c_[both.data, both.target][order[:15] if num_rows == 15 else order[15:]]


TABLES = {"a line": (a_line, 60), "clusters": (clusters, 60), "skewed": (skewed, 60), "gym": (gym, 15)}


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_small_tables_are_no_worse_than_a_gaussian_mixture(name):
    """Of one to three components, the one that is best on the rows asked about: more than it could know."""
    draw, num_rows = TABLES[name]
    differences = []
    for seed in (0, 1):
        train, test = draw(num_rows, seed), draw(1000, seed + 10 if name != "gym" else seed)
        unit = train.std(0)
        rivals = [GaussianMixture(k, reg_covar=1e-2 if name == "gym" else 1e-4, random_state=0) for k in (1, 2, 3)]
        best = max(rival.fit(train / unit).score(test / unit) for rival in rivals) - np.log(unit).sum()
        differences.append(EinetDensity(random_state=0).fit(train).score(test) - best)
    assert np.mean(differences) > -0.1


@pytest.mark.slow
def test_the_default_is_no_worse_than_a_gaussian_mixture():
    """Iris, mean of three splits: random trees had 1.1 nats less than the mixture in the first version."""
    differences = []
    for seed in range(3):
        train, test = train_test_split(load_iris().data, random_state=seed)
        ours = EinetDensity(random_state=0, leaf=Normal(min_variance=1e-3)).fit(train)
        rival = GaussianMixture(2, reg_covar=1e-4, random_state=0, n_init=3).fit(train)
        differences.append(ours.score(test) - rival.score(test))
        assert isinstance(ours.model_, einet.Einet | Mixture)
    assert np.mean(differences) > -0.1


def test_a_narrow_cluster_in_a_wide_one_is_found():
    """A pseudocount of one wide row would keep it wide; case 05 of the users."""
    random = np.random.RandomState(0)
    X = np.r_[100 * random.randn(500, 1), 5 + 1e-3 * random.randn(500, 1)]
    truth = np.logaddexp(scipy.stats.norm(0, 100).logpdf(X), scipy.stats.norm(5, 1e-3).logpdf(X)).mean() - np.log(2)
    assert EinetDensity(random_state=0).fit(X).score(X) > truth - 0.3
