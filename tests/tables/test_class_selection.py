"""Networks for classes: candidates, training on log P(y | x), held-out rows that weigh the answers, gaps."""

import math

import numpy as np
import pytest
import torch
from fictional import QUICK
from helpers import assert_same
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB

import einet
from einet.families import Categorical, MultivariateNormal, Normal
from einet.tables import EinetClassifier
from einet.tables.candidates import one_sum
from einet.tables.class_candidates import ClassCandidate, class_candidates, class_network, share_covariances
from einet.tables.class_selection import FEW_PARTS, parts_of
from einet.tables.classifier import joint_of
from einet.tables.discriminative import log_losses, mean_log_loss, refined, with_gaps
from einet.tables.selection import mixing_weights

SEED = {"random_state": 0, "validation": 0.0}
FEW = {"random_state": 0, "epochs": 6, "num_replicas": 2, "num_sums": 3}
SMALL_TREES = {"num_replicas": 2, "num_sums": 3, "seed": 0}


def many_classes(num_classes=20, each=8, columns=6, seed=0):
    """Classes as GaussianNB has them."""
    random = np.random.RandomState(seed)
    mean, spread = 1.5 * random.randn(num_classes, columns), random.uniform(0.7, 1.3, (num_classes, columns))
    labels = np.repeat(np.arange(num_classes), each + 30)
    X = mean[labels] + spread[labels] * random.randn(len(labels), columns)
    test = np.arange(len(labels)) % (each + 30) >= each
    return X[~test], labels[~test], X[test], labels[test]


def rows_of(X, y, weights=None):
    x = torch.as_tensor(X)
    return x, ~x.isnan(), torch.as_tensor(y), None if weights is None else torch.as_tensor(weights)


def trained(candidate, rows, num_classes, **settings):
    options = {"epochs": 50, "pseudocount": 0.0, "leaf_pseudocount": 0.0, "seed": 0} | settings
    return class_network(candidate, rows, num_classes, [], **options)[0]


def naive_bayes(families, width):
    return ClassCandidate("naive Bayes", one_sum(width, []), families, 1)


def shared_covariance(width):
    families = {MultivariateNormal(min_variance=1e-9): range(width)}
    return ClassCandidate("shared covariance", one_sum(width, list(range(width))), families, 1, common=math.inf)


def test_naive_bayes_without_shrinkage_is_sklearns():
    X, y, test, _ = many_classes()
    model = trained(naive_bayes({Normal(min_variance=1e-12): range(6)}, 6), rows_of(X, y), 20)
    plain = GaussianNB(var_smoothing=1e-15).fit(X, y)
    ours, wanted = model(torch.as_tensor(test)).detach().numpy() - np.log(20), plain.predict_joint_log_proba(test)
    near = wanted > wanted.max(1, keepdims=True) - 15  # farther off a class has a trace of the others
    assert ours[near] == pytest.approx(wanted[near], rel=1e-4, abs=1e-3) and near.sum() > 1000


def test_naive_bayes_with_gaps_and_weights_is_a_mean():
    x = torch.tensor([[0.0, 1.0], [2.0, torch.nan], [5.0, 0.0], [7.0, 2.0]], dtype=torch.float64)
    rows = (x, ~x.isnan(), torch.tensor([0, 0, 1, 1]), torch.tensor([1.0, 3.0, 1.0, 1.0]).double())
    model = trained(naive_bayes({Normal(min_variance=1e-9): [0], Categorical(categories=3): [1]}, 2), rows, 2)
    normal = next(part for part in model.leaves.parts if isinstance(part.family, Normal))
    means = normal.family.mean(normal.phi.detach()).flatten()
    assert means.tolist() == pytest.approx([1.5, 6.0], abs=1e-4)


def test_a_shared_covariance_is_sklearns_discriminant_analysis_and_exact_with_gaps():
    X, y = load_iris(return_X_y=True)
    X, y = X[20:], y[20:]  # classes of different sizes
    model, prior = trained(shared_covariance(4), rows_of(X, y), 3), np.log(np.bincount(y) / len(y))
    plain = LinearDiscriminantAnalysis(solver="lsqr", priors=np.exp(prior)).fit(X, y)
    joint = model(torch.as_tensor(X)).detach().numpy() + prior
    ours = joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)
    wanted = plain.predict_log_proba(X)
    assert ours[wanted > -15] == pytest.approx(wanted[wanted > -15], abs=1e-3)
    # p(x_1, x_3 | y) is the normal density of two columns.
    gaps = X.copy()
    gaps[:, [0, 2]] = np.nan
    seen = [1, 3]
    found = model(*rows_of(gaps, y)[:2]).detach().numpy()
    covariance = plain.covariance_[np.ix_(seen, seen)]
    for label in range(3):
        wanted = multivariate_normal(plain.means_[label, seen], covariance).logpdf(X[:, seen])
        own = y == label
        assert found[own, label] == pytest.approx(wanted[own], abs=1e-3)


def test_covariances_are_shrunk_by_rows_of_their_mean():
    X, y = load_iris(return_X_y=True)
    joint = ClassCandidate("joint", one_sum(4, [0, 1]), {MultivariateNormal(): [0, 1], Normal(): [2, 3]}, 1)
    model = trained(joint, rows_of(X, y), 3)

    def spreads():
        of_all = {}
        for part in model.leaves.parts:
            if isinstance(part.family, Normal):
                of_all["alone"] = part.phi[1].detach().clone()[:, 0]
            else:
                ((_, factor),) = part.layout.groups(part.phi.detach())
                of_all["joint"] = (factor @ factor.mT)[0]
        return of_all["alone"], of_all["joint"]

    alone, covariance = spreads()
    share_covariances(model, torch.full((3,), 50.0), 25.0)
    shrunk_alone, shrunk = spreads()
    assert shrunk_alone == pytest.approx(alone * 2 / 3 + alone.mean(1, keepdim=True) / 3, rel=1e-6)
    assert shrunk == pytest.approx(covariance * 2 / 3 + covariance.mean(0) / 3, rel=1e-6)


def test_components_belong_to_their_class():
    X, y = load_iris(return_X_y=True)
    for candidate in class_candidates({Normal(): range(4)}, [0, 1, 2, 3], [0, 1, 2, 3], 1e-3, 4, SMALL_TREES):
        model = trained(candidate, rows_of(X, y), 3, epochs=4, leaf_pseudocount=1.0, pseudocount=1e-3)
        assert model.num_classes == 3 and model(torch.as_tensor(X)).isfinite().all(), candidate.name
        if candidate.components:
            uses = model.sum_layers()[-1].weights.detach().view(3, 3, -1).sum(2)
            assert uses == pytest.approx(torch.eye(3), abs=1e-3), candidate.name


def test_weights_of_answers_are_the_likeliest():
    random = np.random.RandomState(0)
    losses = torch.as_tensor(random.exponential(size=(2, 200)))
    count = torch.as_tensor(random.uniform(0.5, 2, 200))
    found = mixing_weights(-losses.numpy(), count.numpy())
    grid = torch.linspace(1e-3, 1 - 1e-3, 999).double()[:, None]
    mixed = torch.log(grid * torch.exp(-losses[0]) + (1 - grid) * torch.exp(-losses[1])) @ (count / count.sum())
    assert found.sum() == pytest.approx(1) and found[0] == pytest.approx(grid[mixed.argmax()].item(), abs=2e-3)


def test_gaps_are_made_where_there_were_none():
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)).double()
    rows = (x, torch.ones(500, 4, dtype=torch.bool), torch.zeros(500, dtype=torch.int64), None)
    lost, seen, _, _ = with_gaps(rows, torch.Generator().manual_seed(0))
    assert torch.equal(lost.isnan(), ~seen) and (~seen).double().mean() == pytest.approx(0.3, abs=0.05)
    some = with_gaps(rows, torch.Generator().manual_seed(0), among=0.5)[1]
    assert some.all(1).double().mean() == pytest.approx(0.5 + 0.5 * 0.7**4, abs=0.07)


def test_the_loss_is_sklearns():
    X, y = load_iris(return_X_y=True)
    fitted = EinetClassifier(**QUICK, refine=False).fit(X, y)
    x, seen, _ = fitted.columns_.encode(X)
    rows = (x, seen, torch.as_tensor(y), torch.arange(150.0).double())
    prior = torch.as_tensor(fitted.class_log_prior_)
    each = -fitted.predict_log_proba(X)[np.arange(150), y]
    assert log_losses(fitted.model_, rows, prior).numpy() == pytest.approx(each, abs=1e-9)
    wanted = log_loss(y, fitted.predict_proba(X), sample_weight=np.arange(150))
    assert mean_log_loss(fitted.model_, rows, prior) == pytest.approx(wanted)


def test_training_on_the_posterior_lowers_its_loss_and_keeps_the_best():
    X, y = load_iris(return_X_y=True)
    fitted = EinetClassifier(**QUICK, refine=False).fit(X, y)
    x, seen, _ = fitted.columns_.encode(X)
    prior = torch.as_tensor(fitted.class_log_prior_)
    inside, outside = (tuple(part[i::2] for part in (x, seen, torch.as_tensor(y))) + (None,) for i in (0, 1))
    before = mean_log_loss(fitted.model_, outside, prior)
    better, course = refined(fitted.model_, inside, outside, prior, epochs=8)
    assert course.losses[0] == pytest.approx(before)
    assert mean_log_loss(better, outside, prior) == pytest.approx(course.losses[course.best])
    assert course.losses[course.best] < before
    assert mean_log_loss(fitted.model_, outside, prior) == before
    again, _ = refined(fitted.model_, inside, outside, prior, epochs=8)
    assert_same(better, again)
    doubled = (*inside[:3], torch.full((75,), 2.0).double())
    assert_same(better, refined(fitted.model_, doubled, outside, prior, epochs=8)[0], rtol=1e-6, atol=1e-8)
    none, course = refined(fitted.model_, inside, outside, prior, epochs=0)
    assert_same(none, fitted.model_, rtol=1e-6, atol=1e-8)
    last, course = refined(fitted.model_, inside, None, prior, epochs=3)
    assert course.best == 3


@pytest.mark.slow
def test_many_classes_of_few_rows_are_told_apart_as_well_as_by_naive_bayes():
    X, y, test, wanted = many_classes()
    plain = GaussianNB().fit(X, y)
    ours = EinetClassifier(**SEED, num_replicas=2, epochs=20).fit(X, y)
    assert ours.score(test, wanted) >= plain.score(test, wanted) - 0.01
    assert log_loss(wanted, ours.predict_proba(test)) < log_loss(wanted, plain.predict_proba(test))


@pytest.fixture(scope="module")
def several():
    X, y = load_iris(return_X_y=True)
    gaps = np.where(np.random.RandomState(0).rand(*X.shape) < 0.1, np.nan, X)
    gaps[:, 3] = np.digitize(X[:, 3], [0.7, 1.6])  # three categories
    return gaps, y, EinetClassifier(**FEW).fit(gaps, y)


@pytest.mark.slow
def test_held_out_rows_choose_and_weigh(several):
    X, y, ours = several
    scores, weights = ([each[key] for each in ours.measured_] for key in ("score", "weight"))
    assert scores == sorted(scores, reverse=True) and sum(weights) == pytest.approx(1)
    assert sorted(weight for weight in weights if weight) == pytest.approx(sorted(ours.weights_))
    assert {"naive Bayes", "mixture-3", "random trees"} < {each["name"] for each in ours.measured_}
    assert sum(each["name"].endswith(", refined") for each in ours.measured_) == 2
    assert ours.score(X, y) > 0.9
    assert ours.weights_.sum() == pytest.approx(1) and len(ours.weights_) == 1 + len(ours.others_)
    again = EinetClassifier(**FEW).fit(X[::-1], y[::-1])
    assert again.predict_proba(X) == pytest.approx(ours.predict_proba(X), rel=1e-6, abs=1e-9)


@pytest.mark.slow
def test_gaps_are_summed_out_exactly_by_every_network(several):
    X, _, ours = several
    rows = X[::10].copy()
    rows[:, 3] = np.nan
    worlds = [np.column_stack((rows[:, :3], np.full(len(rows), value))) for value in (0.0, 1.0, 2.0)]
    x, seen, offset = ours.columns_.encode(rows)
    answers = []
    for model in (ours.model_, *ours.others_):
        each = [model(*ours.columns_.encode(world)[:2]).detach() for world in worlds]
        joint = torch.logsumexp(torch.stack(each), 0) + torch.as_tensor(ours.class_log_prior_)
        answers.append(torch.softmax(joint, 1).numpy())
    wanted = np.average(answers, axis=0, weights=ours.weights_)
    assert ours.predict_proba(rows) == pytest.approx(wanted, abs=1e-6)
    densities = [
        torch.logsumexp(model(x, seen).detach() + torch.as_tensor(ours.class_log_prior_), 1)
        for model in (ours.model_, *ours.others_)
    ]
    proper = [joint_of(model) <= {*ours.columns_.reals} for model in (ours.model_, *ours.others_)]
    weights = np.where(proper, ours.weights_, 0) if any(proper) else ours.weights_
    of_rows = (
        torch.logsumexp(
            torch.stack(densities, 1) + torch.as_tensor(np.log(np.maximum(weights / weights.sum(), 1e-300))), 1
        )
        + offset
    )
    total = np.logaddexp.reduce(ours.predict_joint_log_proba(rows), axis=1)
    assert total == pytest.approx(of_rows.numpy(), abs=1e-6)


@pytest.mark.slow
def test_several_networks_are_saved_and_what_does_not_agree_is_refused(several, tmp_path):
    X, _, ours = several
    einet.save(ours, tmp_path / "classes.safetensors")
    back = einet.load(tmp_path / "classes.safetensors")
    assert np.array_equal(back.predict_proba(X), ours.predict_proba(X)) and back.measured_ == ours.measured_
    back.weights_ = np.full(len(ours.weights_), 2.0)
    einet.save(back, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match="networks have the weights"):
        einet.load(tmp_path / "wrong.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(("refine", "suffixes"), [(True, {True}), (False, {False})])
def test_refine_says_what_competes(refine, suffixes):
    X, y = load_iris(return_X_y=True)
    ours = EinetClassifier(**FEW, refine=refine).fit(X, y)
    assert {each["name"].endswith(", refined") for each in ours.measured_} == suffixes
    assert ours.score(X, y) > 0.9


@pytest.mark.slow
def test_a_network_that_is_asked_for_is_refined_if_that_is_asked_for():
    X, y = load_iris(return_X_y=True)
    ours = EinetClassifier(**FEW, depth=1, refine=True).fit(X, y)
    assert [each["name"] for each in ours.measured_] == ["as asked, refined"] and ours.weights_.tolist() == [1]
    plain = EinetClassifier(**FEW, depth=1).fit(X, y)
    assert not hasattr(plain, "measured_") and plain.weights_.tolist() == [1]
    assert log_loss(y, ours.predict_proba(X)) < log_loss(y, plain.predict_proba(X))
    assert not hasattr(ours.set_params(refine="auto").fit(X, y), "measured_")


def test_parts_hold_every_row_out_once_but_for_lonely_ones():
    labels = np.array([0] * 7 + [1] * 2 + [2])
    parts = parts_of(labels, np.random.RandomState(0))
    assert parts[-1] == -1 and set(parts[:7]) == set(range(FEW_PARTS)) and (parts[:-1] >= 0).all()
    assert len(set(parts[7:9])) == 2
    many = parts_of(np.arange(2000) % 3, np.random.RandomState(0))
    assert set(many) == {-1, 0} and (many == 0).sum() == pytest.approx(400, abs=3)


def test_a_choice_that_is_none_is_refused():
    with pytest.raises(ValueError, match="refine must be True, False or \"auto\", got 'often'"):
        EinetClassifier(**QUICK, refine="often").fit(np.eye(4), [0, 1, 0, 1])
    assert not hasattr(EinetClassifier(**QUICK).fit(np.eye(2), [0, 1]), "measured_")
