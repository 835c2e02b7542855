"""A step weighs what it saw: batches of any size, classes, plateaus, and shrinkage where rows are few."""

import copy
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from helpers import statistics_of

import einet
from einet import EM, Bernoulli, Categorical, Einet, Normal, fit, fit_mixture
from einet.em import LAST_STEP
from einet.tables import EinetClassifier, EinetDensity
from einet.tables.validation import folds
from einet.training import History

SMALL = {"depth": 1, "num_replicas": 3, "num_sums": 4, "random_state": 0}


def within(values, nats):
    assert max(values) - min(values) < nats, values


# Batches


def step(em, model, x, **arguments):
    em.zero_grad()
    model(x, **arguments).sum().backward()
    em.step()


def test_the_rate_of_a_node_follows_its_uses():
    """Root weights after steps of 80, 80 and 1 rows, against the formula of the module's docstring."""
    x = (torch.rand(161, 6, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    model = Einet(einet.random_binary_trees(6, 1, 1, seed=0), Bernoulli(), num_sums=3, seed=0).double()
    em, lr, usual = EM(model, lr=0.4), 0.4, 0.0
    weights = model.sum_layers()[-1].weights
    for number, batch in enumerate(x.split(80), 1):
        before = weights.detach().clone()
        step(em, model, batch)
        counts = before * weights.grad
        uses = counts.sum()
        assert uses.item() == pytest.approx(len(batch))  # all rows pass through the root
        usual = (1 - LAST_STEP) * usual + LAST_STEP * uses
        usual_uses = usual / (1 - (1 - LAST_STEP) ** number)
        rate = lr * uses / (lr * uses + (1 - lr) * usual_uses)
        torch.testing.assert_close(weights.detach(), before + rate * (counts / uses - before))
    assert rate < 0.02  # of the one row


def test_leaves_and_inner_weights_move_by_the_same_rate():
    """As far as `rate` on the way to where a step of `lr=1` would go."""
    x = (torch.rand(161, 6, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    model = Einet(einet.random_binary_trees(6, 2, 2, seed=0), Bernoulli(), num_sums=3, seed=0).double()
    em, usual = EM(model, lr=0.4), 0.0
    for number, batch in enumerate(x.split(80), 1):
        before, there = copy.deepcopy(model), copy.deepcopy(model)
        step(EM(there), there, batch)
        step(em, model, batch)
        usual = (1 - LAST_STEP) * usual + LAST_STEP * len(batch)
        rate = 0.4 * len(batch) / (0.4 * len(batch) + 0.6 * usual / (1 - (1 - LAST_STEP) ** number))
        for own, moved, far in zip(*(each.parameters() for each in (before, model, there)), strict=True):
            # Bernoulli's phi is the expectation itself, but for a bound at 1e-6.
            torch.testing.assert_close(moved, own + rate * (far - own), rtol=0, atol=1e-6)
    assert rate < 0.02


def test_a_class_of_which_a_batch_has_few_rows_moves_less():
    x = (torch.rand(400, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    model = Einet(einet.random_binary_trees(6, 1, 2, seed=0), Bernoulli(), num_sums=3, num_classes=2, seed=0)
    em, (weights,) = EM(model, lr=0.5), [e.weights for e in model.levels[-1].einsums]  # (2, classes, 9)
    for few in (20, 20, 1):
        before = weights.detach().clone()
        em.zero_grad()
        labels = torch.cat((torch.zeros(40 - few), torch.ones(few))).long()
        model(x[:40]).gather(1, labels[:, None]).sum().backward()
        em.step()
        x = x.roll(40, 0)
    counts = before * weights.grad
    way = counts / counts.sum(2, keepdim=True) - before  # all the way to what the batch says
    rate = ((weights.detach() - before).norm(dim=2) / way.norm(dim=2)).mean(0)
    assert rate[0] > 0.5 and rate[1] < 0.15


def test_a_class_that_is_rare_in_every_step_moves_less_than_the_others():
    """Its few rows say little, however usual that is: they are weighed against what classes have on average."""
    x = (torch.rand(40, 6, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    graph = einet.random_binary_trees(6, 1, 1, seed=0)
    model = Einet(graph, Bernoulli(), num_sums=3, num_classes=2, seed=0).double()
    em, (weights,) = EM(model, lr=0.4), [e.weights for e in model.levels[-1].einsums]
    labels = (torch.arange(40) == 0).long()
    for _ in range(3):
        before = weights.detach().clone()
        em.zero_grad()
        model(x).gather(1, labels[:, None]).sum().backward()
        em.step()
        counts = before * weights.grad
        way = counts / counts.sum(2, keepdim=True) - before
        rates = ((weights.detach() - before).norm(dim=2) / way.norm(dim=2))[0]
        expected = [0.4, 0.4 * 1 / (0.4 * 1 + 0.6 * 20)]
        torch.testing.assert_close(rates, torch.tensor(expected).double(), rtol=1e-6, atol=0)


def test_the_weights_of_a_mixture_move_less_in_a_small_step():
    x = rows_of_4(torch.float64)
    model = einet.Mixture([tree().double(), Einet(tree().graph, Normal(), num_sums=3, seed=1).double()], [0.5, 0.5])
    em, usual = EM(model, 0.4), 0.0
    for number, batch in enumerate((x[:30], x[30:59], x[59:]), 1):
        before = model.weights.detach().clone()
        step(em, model, batch)
        counts = before * model.weights.grad
        usual = (1 - LAST_STEP) * usual + LAST_STEP * len(batch)
        of_usual = usual / (1 - (1 - LAST_STEP) ** number)
        rate = 0.4 * len(batch) / (0.4 * len(batch) + 0.6 * of_usual)
        torch.testing.assert_close(model.weights.detach(), before + rate * (counts / len(batch) - before))
    assert rate < 0.05


@pytest.mark.parametrize(
    "rows, size, expected", [(501, 100, {83, 84}), (500, 100, {100}), (7, 10, {7}), (11, 10, {5, 6})]
)
def test_batches_of_an_epoch_differ_by_at_most_one_row(rows, size, expected):
    model, seen = Einet(einet.random_binary_trees(2, 1, 1, seed=0), Normal(), num_sums=2, seed=0), []
    model.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    fit(model, torch.randn(rows, 2), epochs=1, batch_size=size, progress=False)
    assert set(seen) == expected and sum(seen) == rows and len(seen) == -(-rows // size)


@pytest.mark.slow
def test_one_row_more_is_no_worse():
    """README's first model: with a short last batch it lost 2 nats from 500 to 501 rows."""
    fresh, found = torch.randint(0, 2, (2000, 16), generator=torch.Generator().manual_seed(1)).float(), []
    for rows in (500, 501, 502, 505, 550):
        x = torch.randint(0, 2, (rows, 16), generator=torch.Generator().manual_seed(0)).float()
        model = Einet(einet.random_binary_trees(16, 3, 10, seed=0), Bernoulli(), num_sums=10, seed=0)
        fit(model, x, epochs=5, progress=False)
        found.append(model(fresh).mean().item())
    within(found, 0.1)


def kinds(rows, seed):
    """Two kinds of rows, a column of 0 and 1 and the kind itself last."""
    random = np.random.RandomState(seed)
    kind = np.arange(rows) % 2
    return np.c_[
        3 * kind + random.randn(rows), -2 * kind + random.randn(rows), random.rand(rows) < 0.2 + 0.5 * kind
    ], kind


@pytest.mark.slow
def test_one_row_more_is_no_worse_in_a_mixture():
    x, fresh = (torch.as_tensor(kinds(rows, seed)[0][:, :2]).float() for rows, seed in ((1100, 0), (2000, 1)))
    found = []
    for rows in (1000, 1002, 1004, 1010, 1100):  # half of them in each cluster
        graph = einet.random_binary_trees(2, 1, 2, seed=0)
        model = fit_mixture(x[:rows], 2, graph, Normal(min_variance=0.01), num_sums=3, progress=False)
        found.append(model(fresh).mean().item())
    within(found, 0.1)


@pytest.mark.parametrize("estimator", [EinetDensity, EinetClassifier])
@pytest.mark.slow
def test_one_row_more_is_no_worse_in_an_estimator(estimator):
    (X, kind), (fresh, truth), found = kinds(550, 0), kinds(2000, 1), []
    for rows in (500, 501, 502, 505, 550):
        model = estimator(**SMALL, epochs=20).fit(X[:rows], kind[:rows])
        if estimator is EinetDensity:
            found.append(model.score(fresh))
        else:
            found.append(model.predict_log_proba(fresh)[np.arange(2000), truth].mean())
    within(found, 0.1)


# Plateaus


def test_patience_counts_small_steps_as_less_than_an_epoch():
    x = torch.randn(80, 2)
    nothing = (x, torch.zeros(2, dtype=torch.bool))  # whose log-density is 0, whatever is learned
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for lr, batch_size, epochs in ((0.1, 100, 20), (0.1, 40, 10), (0.5, 20, 2), (1.0, None, 2)):
            model = Einet(einet.random_binary_trees(2, 1, 1, seed=0), Normal(), num_sums=2, seed=0)
            settings = {"valid": nothing, "epochs": 60, "patience": 2, "lr": lr, "batch_size": batch_size}
            history = fit(model, x, **settings, progress=False)
            assert len(history.train) - 1 - history.best_epoch == pytest.approx(epochs, abs=1)


def test_training_that_stays_where_it_started_is_said():
    x = torch.randint(0, 2, (200, 4), generator=torch.Generator().manual_seed(0)).float()
    model = Einet(einet.random_binary_trees(4, 1, 1, seed=0), Bernoulli(), num_sums=2, seed=0)
    fit(model, x, epochs=30, progress=False)
    with pytest.warns(UserWarning, match="without leaving its start") as found:
        fit(model, x, valid=x[:50], epochs=100, patience=1, lr=0.01, progress=False)
    assert found[0].filename == __file__


def test_patience_without_validation_rows_is_said():
    model = Einet(einet.random_binary_trees(2, 1, 1, seed=0), Normal(), num_sums=2, seed=0)
    with pytest.warns(UserWarning, match="patience=3 has no effect without valid") as found:
        fit(model, torch.randn(20, 2), epochs=2, patience=3, progress=False)
    assert found[0].filename == __file__


def test_classes_of_few_rows_are_validated_by_folds():
    """A tenth of nine rows of a class is none: a hundred such classes would hold nothing out."""
    few = folds(np.repeat(np.arange(100), 9), 0.1)
    assert set(few) == set(range(5)) and np.bincount(few).min() > 150
    assert set(folds(np.zeros(600), 0.1)) == {0, -1} and set(folds(np.zeros(600), 0.0)) == {-1}


def test_a_mixture_without_gradient_is_refused_before_anything_moves():
    model = einet.Mixture(
        [Einet(einet.random_binary_trees(2, 1, 1, seed=s), Normal(), seed=s) for s in (0, 1)], [0.5, 0.5]
    )
    before = [parameter.detach().clone() for parameter in model.parameters()]
    sum(component(torch.randn(5, 2)).sum() for component in model.components).backward()
    with pytest.raises(ValueError, match="there is no gradient"):
        EM(model, 0.5).step()
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("seed", [1, 7])
@pytest.mark.slow
def test_two_kinds_of_rows_are_told_apart(seed):
    """Old Faithful, more or less: a fit that stops on the plateau has -5.0 nats, one that leaves it -4.4."""

    def eruptions(rows, seed):
        random = np.random.RandomState(seed)
        long = random.rand(rows) < 0.64
        lengths = np.where(long, 4.3, 2.0) + 0.4 * random.randn(rows)
        return np.c_[lengths, np.where(long, 80, 54.5) + 6 * random.randn(rows)]

    density = EinetDensity(num_replicas=3, num_sums=5, random_state=seed).fit(eruptions(204, seed))
    assert density.score(eruptions(2000, 999)) > -4.5


# Shrinkage


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("family", [Normal(), Bernoulli(), Categorical(categories=3)], ids=lambda f: type(f).__name__)
def test_leaf_pseudocounts_are_rows_distributed_as_the_column(family, missing):
    generator = torch.Generator().manual_seed(0)
    x = 5 + torch.randn(60, 4, generator=generator).double()
    if not isinstance(family, Normal):
        x = (x - 5).mul(2).round().clamp(0, 1 if isinstance(family, Bernoulli) else 2)
    observed = torch.rand(x.shape, generator=generator) < 0.6 if missing else None
    models = [Einet(einet.random_binary_trees(4, 1, 2, seed=0), family, num_sums=3, seed=0).double() for _ in range(2)]
    for model, count in zip(models, (0.0, 7.0), strict=True):
        step(EM(model, 1.0, 0.0, count, (x, observed)), model, x, observed=observed)
    plain, shrunk = (statistics_of(model)[0] for model in models)  # (T, P, C, K)
    (part,) = models[0].leaves.parts
    seen = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
    column = [family.statistics(x[seen[:, d], d]).mean(-1) for d in part.pairs.tolist()]
    column = torch.stack(column, 1)[..., None, None]
    # shrunk = (uses * plain + 7 * column) / (uses + 7): the same `uses` for all statistics of an entry
    uses = (7 * (column - shrunk) / (shrunk - plain))[0]
    torch.testing.assert_close(shrunk, (uses * plain + 7 * column) / (uses + 7), rtol=1e-4, atol=1e-4)
    of_variables = torch.zeros(4).double().index_add(0, part.pairs, uses.sum((1, 2)))
    torch.testing.assert_close(of_variables, torch.full((4,), 60.0).double(), rtol=1e-3, atol=0)  # a row uses one each


def test_the_columns_own_density():
    x = torch.tensor([[1.0, 5e4], [2.0, 5e4 + 1], [6.0, 9.0]])
    observed = torch.tensor([[True, True], [True, True], [True, False]])
    model = Einet(einet.random_binary_trees(2, 1, 1, seed=0), Normal(), num_sums=2, seed=0).double()
    (part,) = model.leaves.parts
    found = part.column_parameters(*model.as_input(x.double(), observed))[:, part.pairs.argsort(), 0, 0]
    torch.testing.assert_close(found[0], torch.tensor([3.0, 5e4 + 0.5]).double())
    torch.testing.assert_close(found[1], torch.tensor([14 / 3, 0.25]).double(), rtol=1e-3, atol=0)


def test_the_columns_own_density_in_portions(monkeypatch):
    x, model = rows_of_4(torch.float64), tree().double()
    (part,) = model.leaves.parts
    rows, observed = model.as_input(x, torch.rand(60, 4, generator=torch.Generator().manual_seed(1)) < 0.5)
    whole = part.column_parameters(rows, observed)
    monkeypatch.setattr("einet.leaves.part.CHUNK_NUMEL", 100)
    torch.testing.assert_close(part.column_parameters(rows, observed), whole)
    mean = torch.where(observed, rows[:, 0], 0).sum(1) / observed.sum(1)
    torch.testing.assert_close(whole[0, :, 0, 0], mean[part.pairs])


def test_a_column_without_a_value_is_shrunk_towards_its_leaves_as_they_are():
    model = tree().double()
    (part,) = model.leaves.parts
    never = torch.tensor([False, True, True, True])
    found = part.column_parameters(*model.as_input(rows_of_4(torch.float64), never))[..., 0]
    here = part.pairs == 0
    torch.testing.assert_close(found[:, here], part.phi.detach()[:, here].mean(-1))
    assert not torch.allclose(found[:, ~here], part.phi.detach()[:, ~here].mean(-1))


@pytest.mark.parametrize("arguments, reason", [
    ({"leaf_pseudocount": -1.0}, "leaf_pseudocount must be finite and at least 0, got -1.0"),
    ({"leaf_pseudocount": 1.0}, "needs data"),
])  # fmt: skip
def test_bad_leaf_pseudocounts(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        EM(Einet(einet.random_binary_trees(2, 1, 1, seed=0), Normal(), seed=0), **arguments)


# Folds


@pytest.fixture
def asked(monkeypatch):
    """What estimators ask of `fit`, which here trains nothing and says which epoch was best: keyword arguments."""
    calls, module, best = [], sys.modules[EinetDensity.__module__], (3, 5, 4, 9, 7, 0)
    start = module.start_leaves

    def starts(model, x, observed, **arguments):
        calls.append({"start": x, "model": model})
        start(model, x, observed, **arguments)

    def fits(model, x, observed, labels=None, **arguments):
        assert model is calls[-1]["model"]
        calls[-1] |= {"x": x, "labels": labels, **arguments}
        return History(train=[0.0], best_epoch=best[len(calls) - 1])

    monkeypatch.setattr(module, "start_leaves", starts)
    monkeypatch.setattr(module, "fit", fits)
    return calls


def rows_of(estimator, x):
    """Which rows these are: the first column counts them."""
    return set(estimator.columns_.decode(x)[:, 0].round().astype(int))


def counting(rows):
    return np.c_[np.arange(rows), np.random.RandomState(0).randn(rows)]


@pytest.mark.parametrize("labels", [None, np.arange(120) < 20])
def test_folds_hold_each_row_out_once_and_then_all_rows_train(asked, labels):
    settings = {"batch_size": 50, "pseudocount": 0.6, "leaf_pseudocount": 1.2, "patience": 3, "epochs": 44}
    make = EinetDensity if labels is None else EinetClassifier
    estimator, everything = make(**SMALL, **settings).fit(counting(120), labels), set(range(120))
    *first, last = asked
    held_out = [rows_of(estimator, fold["valid"][0]) for fold in first]
    assert len(held_out) == 5 and set.union(*held_out) == everything and sum(map(len, held_out)) == 120
    for fold, rows in zip(first, held_out, strict=True):
        assert rows_of(estimator, fold["x"]) == rows_of(estimator, fold["start"]) == everything - rows
        assert (fold["epochs"], fold["patience"]) == (44, 3)
        assert (fold["pseudocount"], fold["leaf_pseudocount"]) == (0.6 / 2, 1.2 / 2)  # 96 rows are two steps
        if labels is not None:
            assert fold["valid"][2].sum() == 4 and fold["labels"].sum() == 16
    assert rows_of(estimator, last["x"]) == rows_of(estimator, last["start"]) == everything
    # The best epochs were, in the median, the sixth, of two steps; all rows take three steps an epoch.
    assert (last["valid"], last["patience"], last["epochs"]) == (None, None, 6 * 2 // 3)
    assert (last["pseudocount"], last["leaf_pseudocount"]) == (0.6 / 3, 1.2 / 3)
    assert estimator.model_ is last["model"] and len({id(each["model"]) for each in asked}) == 6


def test_folds_are_drawn_at_random(asked):
    first = [
        rows_of(EinetDensity(**{**SMALL, "random_state": seed}).fit(counting(60)), asked[0]["valid"][0])
        for seed in (0, 1)
        if not asked.clear()
    ]
    assert first[0] != first[1] and len(first[0]) == len(first[1]) == 12


def test_where_rows_are_many_a_share_is_held_out(asked):
    labels = np.arange(600) < 100
    estimator = EinetClassifier(**SMALL, epochs=44, batch_size=100).fit(counting(600), labels)
    (call,) = asked
    rows, held_out = rows_of(estimator, call["x"]), rows_of(estimator, call["valid"][0])
    assert len(held_out) == 60 and rows | held_out == set(range(600)) and not rows & held_out
    assert rows_of(estimator, call["start"]) == rows
    assert call["valid"][2].sum() == 10  # a tenth of each class
    assert (call["epochs"], call["patience"]) == (44, 5) and call["pseudocount"] == 1e-3 / 6


@pytest.mark.parametrize("rows, share", [(1, 0.1), (9, 0.0), (600, 0.0)])
def test_all_rows_train_where_none_are_held_out(asked, rows, share):
    EinetDensity(**SMALL, validation=share, epochs=44).fit(counting(rows))
    (call,) = asked
    assert len(call["x"]) == rows
    assert (call["valid"], call["patience"], call["epochs"]) == (None, None, 44)


@pytest.mark.parametrize("rows, fits", [(2, 3), (3, 4), (9, 6), (499, 6), (500, 1)])
def test_fifty_rows_can_decide_alone(asked, rows, fits):
    EinetDensity(**SMALL).fit(counting(rows))
    assert len(asked) == fits


def test_no_fold_is_empty_however_few_rows_of_however_many_classes():
    random = np.random.RandomState(0)
    for rows in range(2, 14):
        for _ in range(50):
            labels = np.unique(random.randint(0, random.randint(1, rows + 1), rows), return_inverse=True)[1]
            parts = folds(labels, 0.1)
            assert 2 <= len(set(parts)) <= 5 and set(parts) == set(range(parts.max() + 1))


def test_a_fold_that_stays_where_it_started_is_not_said():
    """Independent columns: one of these folds gets no further than its start, which is the right answer."""
    X = np.random.RandomState(1).randn(60, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EinetDensity(num_replicas=2, num_sums=2, patience=1, random_state=0).fit(X)


# Settings, modes and types that change on the way


def tree(leaf=None, **sizes):
    return Einet(einet.random_binary_trees(4, 1, 2, seed=0), leaf or Normal(), num_sums=3, seed=0, **sizes)


def rows_of_4(dtype=torch.float32):
    return torch.randn(60, 4, generator=torch.Generator().manual_seed(0)).to(dtype)


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_model_may_change_its_type_between_steps():
    """What EM remembers was of the old type, and the step after `model.double()` an error of torch."""
    x, there, back = rows_of_4(), tree(), tree()
    ems = [EM(model, 0.5, 0.0, 1.0, x) for model in (there, back)]
    for em, model in zip(ems, (there, back), strict=True):
        step(em, model, x)
    there.double()
    for em, model in zip(ems, (there, back), strict=True):
        step(em, model, x[:7].to(next(model.parameters())))
    assert {tensor.dtype for kept in ems[0].state.values() for tensor in kept.values()} == {torch.float64}
    for one, other in zip(there.parameters(), back.parameters(), strict=True):
        torch.testing.assert_close(one, other.double(), rtol=1e-3, atol=1e-4)
    there.float()
    step(ems[0], there, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_em_keeps_in_inference_mode_serves_outside(dtype):
    x, model, other = rows_of_4(dtype), tree().to(dtype), tree().to(dtype)
    with torch.inference_mode():
        em = EM(model, 0.5, 0.0, 1.0, x)
    plain = EM(other, 0.5, 0.0, 1.0, x)
    for _ in range(2):
        step(plain, other, x)
        em.zero_grad()
        model(x).sum().backward()
        with torch.inference_mode():
            em.step()
    assert not any(tensor.is_inference() for kept in em.state.values() for tensor in kept.values())
    step(plain, other, x)
    step(em, model, x)
    assert equal(model, other)


def test_data_may_be_a_tuple_of_one():
    x, models = rows_of_4(), [tree(), tree(), tree()]
    for model, data in zip(models, (x, (x,), (x, None)), strict=True):
        step(EM(model, 0.5, 0.0, 1.0, data), model, x)
    assert equal(*models[:2]) and equal(*models[1:])


@pytest.mark.parametrize("name, bad, reason", [
    ("lr", -0.1, "lr must be within [0, 1], got -0.1"),
    ("lr", float("nan"), "lr must be within [0, 1], got nan"),
    ("pseudocount", -1.0, "pseudocount must be finite and at least 0, got -1.0"),
    ("pseudocount", float("nan"), "pseudocount must be finite and at least 0, got nan"),
    ("leaf_pseudocount", -1.0, "leaf_pseudocount must be finite and at least 0, got -1.0"),
    ("leaf_pseudocount", 1.0, "leaf_pseudocount=1.0 needs data"),
])  # fmt: skip
def test_a_setting_that_went_wrong_later_moves_nothing(name, bad, reason):
    """A pseudocount of NaN, set in `param_groups`, made all parameters NaN."""
    model, x = tree(), rows_of_4()
    em, before = EM(model, 0.5), tree()
    em.param_groups[0][name] = bad
    model(x).sum().backward()
    with pytest.raises(ValueError, match=re.escape(reason)):
        em.step()
    assert equal(model, before) and not em.state


@pytest.mark.parametrize("bad", ["0.5", None, [0.5], torch.tensor([0.5, 0.5]), 1j], ids=repr)
@pytest.mark.parametrize("name", ["lr", "pseudocount", "leaf_pseudocount"])
def test_settings_that_are_no_numbers(name, bad):
    with pytest.raises(ValueError, match=f"{name} must be .*, got {re.escape(repr(bad))}"):
        EM(tree(), **{name: bad}, data=rows_of_4())


@pytest.mark.parametrize("kind", [np.float32, np.float64, torch.tensor], ids=lambda kind: kind.__name__)
def test_settings_may_be_numbers_of_any_kind(kind, tmp_path):
    """0.5 and 0.25 are exact in all of them, and what is kept on disk is a plain number."""
    models = [tree(), tree()]
    for model, number in zip(models, (float, kind), strict=True):
        settings = {"lr": number(0.5), "pseudocount": number(0.25), "leaf_pseudocount": number(0.25)}
        history = fit(model, rows_of_4(), **settings, epochs=2, checkpoint=tmp_path / kind.__name__, progress=False)
    assert equal(*models) and history.lr == [0.5, 0.5] and type(history.lr[0]) is float


def test_a_history_has_plain_numbers():
    model = einet.unconstrained(tree())
    sgd = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.25))
    history = fit(model, rows_of_4(), optimizer=sgd, epochs=1, progress=False)
    assert history.lr == [0.25] and type(history.lr[0]) is float


def test_a_frozen_model_is_refused():
    model, x = tree().requires_grad_(False), rows_of_4()
    for train in (EM, lambda model: fit(model, x, progress=False)):
        with pytest.raises(ValueError, match="no parameter of the model requires a gradient"):
            train(model)
    model.sum_layers()[0].weights.requires_grad_()
    model(x).sum().backward()
    with pytest.raises(ValueError, match="some parameters do not require a gradient"):
        EM(model).step()


TOO_LONG = [((), "data"), ((1, 2, 3, 4), "data"), ((), "valid"), ((1, 2, 3, 4, 5), "valid")]


@pytest.mark.parametrize(("data", "name"), TOO_LONG)
def test_tuples_of_another_length(data, name):
    with pytest.raises(
        ValueError, match=f"{name} must be x or a tuple such as .x, observed.*got a tuple of {len(data)}"
    ):
        EM(tree(), 0.5, 0.0, 1.0, data) if name == "data" else fit(tree(), rows_of_4(), valid=data)


@pytest.mark.parametrize("make", [EM, lambda model: torch.optim.Adam(model.parameters())], ids=["EM", "Adam"])
def test_the_optimizer_of_another_model_is_refused(make):
    """Adam trained the other one's parameters, which had no gradient: nothing happened, without a word."""
    model = tree()
    with pytest.raises(ValueError, match="optimizer must be made for this model's parameters"):
        fit(model, rows_of_4(), optimizer=make(copy.deepcopy(model)), progress=False)
    with pytest.raises(ValueError, match="optimizer must be an optimizer of torch"):
        fit(model, rows_of_4(), optimizer=make, progress=False)


def test_a_scheduler_drives_the_optimizer_that_is_given():
    """One without an `optimizer` drove none that `fit` used: `lr` stayed, without a word."""
    model = tree()
    em = EM(model, 0.5)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(em, 0.5)
    with pytest.raises(ValueError, match="scheduler must be made for the optimizer"):
        fit(model, rows_of_4(), scheduler=scheduler, progress=False)
    assert fit(model, rows_of_4(), optimizer=em, scheduler=scheduler, epochs=2, progress=False).lr == [0.5, 0.25]


@pytest.mark.parametrize("name, bad, reason", [
    ("leaf_pseudocount", -1, "leaf_pseudocount must be finite and at least 0, got -1"),
    ("pseudocount", "a", "pseudocount must be finite and at least 0, got 'a'"),
    ("patience", "a", "patience must be an integer of at least 1, got 'a'"),
    ("patience", 0, "patience must be an integer of at least 1, got 0"),
    ("epochs", True, "epochs must be an integer of at least 1, got True"),
    ("lr", None, "lr must be within (0, 1], got None"),
    ("validation", "a", "validation must be a share within [0, 1), got 'a'"),
    ("validation", None, "validation must be a share within [0, 1), got None"),
])  # fmt: skip
@pytest.mark.parametrize("validation", [0, 0.5])
def test_estimators_name_the_setting_as_it_was_given(name, bad, reason, validation):
    """A pseudocount was shown as an epoch's share of it, and `patience` was not looked at without validation."""
    with pytest.raises(ValueError, match=re.escape(reason) + "$"):
        EinetDensity(**{**SMALL, "validation": validation, "batch_size": 20, name: bad}).fit(gaussian(120, 0))


def gaussian(rows, seed):
    return np.random.RandomState(seed).randn(rows, 4) @ np.linalg.cholesky(0.6 * np.eye(4) + 0.4)


@pytest.mark.parametrize("rows", [30, 60])
@pytest.mark.slow
def test_few_rows_are_no_worse_than_one_gaussian(rows):
    """Without shrinkage and folds, 60 rows were 15 nats worse than the truth."""
    X, fresh = gaussian(rows, 1), gaussian(3000, 2)
    mean, covariance = X.mean(0), np.cov(X.T, bias=True)
    off = fresh - mean
    one = -0.5 * ((off @ np.linalg.inv(covariance) * off).sum(1) + np.linalg.slogdet(2 * np.pi * covariance)[1]).mean()
    assert EinetDensity(random_state=0, num_replicas=4, num_sums=5).fit(X).score(fresh) > one - 0.6


@pytest.mark.parametrize("rows", [8, 9, 10])
def test_no_cliff_where_rows_are_very_few(rows):
    """Without folds below ten rows, eight had -14.3 nats, nine -11.7 and ten -6.6; now eight have -8.3."""
    density = EinetDensity(random_state=0, num_replicas=4, num_sums=5).fit(gaussian(rows, 1))
    assert density.score(gaussian(3000, 2)) > -9


@pytest.mark.slow
def test_no_cliff_where_folds_give_way_to_held_out_rows():
    fresh, X = gaussian(3000, 2), gaussian(520, 1)
    within([EinetDensity(**SMALL).fit(X[:rows]).score(fresh) for rows in (480, 499, 500, 520)], 0.1)
