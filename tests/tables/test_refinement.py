"""Training on log P(y | x), naive Bayes, and the choice between them and the density's own network."""

import numpy as np
import pytest
import torch
from fictional import QUICK
from helpers import assert_same
from sklearn.datasets import load_iris
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB

from einet.families import Categorical, Normal
from einet.tables import EinetClassifier
from einet.tables.discriminative import log_losses, mean_log_loss, naive_bayes, refined
from einet.tables.refinement import FEW_PARTS, _parts

SEED = {"random_state": 0, "validation": 0.0}


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


def test_naive_bayes_without_shrinkage_is_sklearns():
    X, y, test, _ = many_classes()
    model = naive_bayes({Normal(min_variance=1e-12): range(6)}, rows_of(X, y), 20, shrinkage=0)
    plain = GaussianNB(var_smoothing=1e-15).fit(X, y)
    ours, wanted = model(torch.as_tensor(test)).detach().numpy() - np.log(20), plain.predict_joint_log_proba(test)
    near = wanted > wanted.max(1, keepdims=True) - 15  # farther off a class has a trace of the others
    assert ours[near] == pytest.approx(wanted[near], rel=1e-4, abs=1e-3) and near.sum() > 1000


def test_naive_bayes_with_gaps_and_weights_is_a_mean():
    x = torch.tensor([[0.0, 1.0], [2.0, torch.nan], [5.0, 0.0], [7.0, 2.0]], dtype=torch.float64)
    rows = (x, ~x.isnan(), torch.tensor([0, 0, 1, 1]), torch.tensor([1.0, 3.0, 1.0, 1.0]))
    model = naive_bayes({Normal(min_variance=1e-9): [0], Categorical(categories=3): [1]}, rows, 2, shrinkage=0)
    normal = next(part for part in model.leaves.parts if isinstance(part.family, Normal))
    means = normal.family.mean(normal.phi.detach()).flatten()
    assert means.tolist() == pytest.approx([1.5, 6.0], abs=1e-4)


def test_the_loss_is_sklearns():
    X, y = load_iris(return_X_y=True)
    fitted = EinetClassifier(**QUICK).fit(X, y)
    x, seen, _ = fitted.columns_.encode(X)
    rows = (x, seen, torch.as_tensor(y), torch.arange(150.0).double())
    prior = torch.as_tensor(fitted.class_log_prior_)
    each = -fitted.predict_log_proba(X)[np.arange(150), y]
    assert log_losses(fitted.model_, rows, prior).numpy() == pytest.approx(each, abs=1e-9)
    wanted = log_loss(y, fitted.predict_proba(X), sample_weight=np.arange(150))
    assert mean_log_loss(fitted.model_, rows, prior) == pytest.approx(wanted)


def test_training_on_the_posterior_lowers_its_loss_and_keeps_the_best():
    X, y = load_iris(return_X_y=True)
    fitted = EinetClassifier(**QUICK).fit(X, y)
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
    ours = EinetClassifier(**SEED, num_replicas=3, epochs=20, refine="auto").fit(X, y)
    assert ours.refinement_.choice == "naive Bayes"
    assert ours.score(test, wanted) >= plain.score(test, wanted) - 0.01
    assert log_loss(wanted, ours.predict_proba(test)) < log_loss(wanted, plain.predict_proba(test))


@pytest.mark.slow
@pytest.mark.parametrize("refine", ["auto", True])
def test_refining_is_no_worse_and_says_what_it_chose(refine):
    X, y = load_iris(return_X_y=True)
    gaps = np.where(np.random.RandomState(0).rand(*X.shape) < 0.1, np.nan, X)
    ours = EinetClassifier(**SEED, num_replicas=3, num_sums=4, epochs=20, refine=refine).fit(gaps, y)
    losses = ours.refinement_.log_loss
    assert set(losses) == {"generative", "refined", "naive Bayes"}
    if refine is True:
        assert ours.refinement_.choice == "refined" and ours.refinement_.epochs >= 1
    elif ours.refinement_.choice != "generative":
        assert losses[ours.refinement_.choice] == min(losses.values()) < losses["generative"]
    assert ours.score(gaps, y) > 0.9
    other = EinetClassifier(**SEED, num_replicas=3, num_sums=4, epochs=20, refine=refine).fit(gaps[::-1], y[::-1])
    assert other.predict_proba(X) == pytest.approx(ours.predict_proba(X), rel=1e-6, abs=1e-9)


def test_parts_hold_every_row_out_once_but_for_lonely_ones():
    labels = np.array([0] * 7 + [1] * 2 + [2])
    parts = _parts(labels, np.random.RandomState(0))
    assert parts[-1] == -1 and set(parts[:7]) == set(range(FEW_PARTS)) and (parts[:-1] >= 0).all()
    assert len(set(parts[7:9])) == 2
    many = _parts(np.arange(2000) % 3, np.random.RandomState(0))
    assert set(many) == {-1, 0} and (many == 0).sum() == pytest.approx(400, abs=3)


def test_a_choice_that_is_none_is_refused():
    with pytest.raises(ValueError, match="refine must be True, False or \"auto\", got 'often'"):
        EinetClassifier(**QUICK, refine="often").fit(np.eye(4), [0, 1, 0, 1])
    assert EinetClassifier(**QUICK).fit(np.eye(4), [0, 1, 0, 1]).refinement_ is None
    assert EinetClassifier(**QUICK, refine="auto").fit(np.eye(2), [0, 1]).refinement_ is None
