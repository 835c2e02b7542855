"""EM against statistics gathered tree by tree, against the textbook, and the loop around it."""

import copy

import numpy as np
import pytest
import torch
from helpers import assert_same, each_of, em_step, log_likelihood, statistics_of
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle import Circuit, expected_statistics
from strategies import ALL, examples, in_float64, masks, models, region_graphs, rows

import einet
from einet import EM, Bernoulli, Binomial, Categorical, Einet, Normal, RegionGraph, poon_domingos, random_binary_trees
from einet.em import WEIGHT_FLOOR, leaf_uses

SMALL = region_graphs(most_variables=4, most_regions=8)


# The E-step: a backward pass gathers the statistics of Eq. (6)


@st.composite
def cases(draw):
    """A model with few enough induced trees to visit them all, three rows, their masks and classes."""
    model = draw(models(graphs=SMALL, most_entries=2))
    assume(Circuit(model).num_trees() <= 400)
    seed = draw(st.integers(0, 9))
    observed = draw(st.sampled_from((None, masks(model, 3, seed))))
    labels = torch.arange(3) % model.num_classes if model.num_classes > 1 else None
    return model, rows(model, 3, seed), observed, labels


@examples(30)
@given(cases())
def test_weight_times_gradient_is_the_expected_number_of_uses(case):
    model, x, observed, labels = case
    log_likelihood(*case).backward()
    sums, mixing, leaves = Circuit(model).total_uses(x, observed, [0] * 3 if labels is None else labels.tolist())
    found = Circuit(model, of=lambda parameter: parameter * parameter.grad)
    for region, nodes in sums.items():
        for expected, node in zip(nodes, found.sums[region], strict=True):
            np.testing.assert_allclose(node.weights, expected.weights, atol=1e-9)
    for region, expected in mixing.items():
        np.testing.assert_allclose(found.mixing[region], expected, atol=1e-9)
    with torch.no_grad():
        uses = dict(zip(model.leaf_order, leaf_uses(model).numpy(), strict=True))
    for region, expected in leaves.items():
        np.testing.assert_allclose(uses[region], expected, atol=1e-9)


@examples(30)
@given(cases(), st.sampled_from((0.3, 0.9)))
def test_step_is_the_convex_combination_with_the_statistics_by_hand(case, lr):
    model, x, observed, labels = case
    old, labels_by_hand = Circuit(copy.deepcopy(model)), [0] * 3 if labels is None else labels.tolist()
    sums, mixing, _ = old.total_uses(x, observed, labels_by_hand)
    targets = old.mean_statistics(x, observed, labels_by_hand)
    new = Circuit(em_step(*case, lr=lr))
    for region, nodes in sums.items():
        for counts, before, after in zip(nodes, old.sums[region], new.sums[region], strict=True):
            total = counts.weights.sum(1, keepdims=True)
            expected = (1 - lr) * before.weights + lr * counts.weights / np.maximum(total, 1e-300)
            np.testing.assert_allclose(after.weights, np.where(total > 1e-9, expected, before.weights), atol=1e-9)
    for region, counts in mixing.items():
        expected = (1 - lr) * old.mixing[region] + lr * counts / counts.sum(0)
        np.testing.assert_allclose(new.mixing[region], expected, atol=1e-9)
    for region, own in targets.items():
        for d, target in own.items():
            family, phi = old.leaves[region][d]
            expected = (1 - lr) * expected_statistics(family, phi) + lr * target
            np.testing.assert_allclose(expected_statistics(*new.leaves[region][d]), expected, atol=1e-7)


# The textbook


def textbook_mixture_step(x, weights, means, variances):
    """Bishop, Pattern Recognition and Machine Learning, (9.23) to (9.26), with diagonal covariance."""
    log_joint = np.log(weights) - 0.5 * (np.log(2 * np.pi * variances) + (x[:, None] - means) ** 2 / variances).sum(2)
    responsibility = np.exp(log_joint - log_joint.max(1, keepdims=True))
    responsibility /= responsibility.sum(1, keepdims=True)
    counts = responsibility.sum(0)
    new_means = responsibility.T @ x / counts[:, None]
    new_variances = np.stack([r @ (x - m) ** 2 / r.sum() for r, m in zip(responsibility.T, new_means, strict=True)])
    return counts / len(x), new_means, new_variances


@pytest.mark.parametrize("num_variables", [1, 3])
def test_three_steps_on_a_gaussian_mixture_are_the_textbooks(num_variables):
    model = in_float64(Einet(RegionGraph([range(num_variables)]), Normal(), num_leaves=4, seed=0))
    x = torch.randn(200, num_variables, dtype=torch.float64) * torch.tensor([1.0, 3.0, 0.5])[:num_variables]
    (root,), (part,) = model.levels[0].einsums, model.leaves.parts
    for _ in range(3):
        weights = root.weights.detach().numpy().reshape(4)
        means, variances = part.phi.detach().numpy()[:, :, 0].transpose(0, 2, 1)
        weights, means, variances = textbook_mixture_step(x.numpy(), weights, means, variances)
        em_step(model, x)
        np.testing.assert_allclose(root.weights.detach().reshape(4), weights, atol=1e-10)
        np.testing.assert_allclose(part.phi.detach()[0, :, 0].T, means, atol=1e-9)
        np.testing.assert_allclose(part.phi.detach()[1, :, 0].T, variances, atol=1e-9)


def test_one_step_on_a_fully_factorised_density_is_the_mean():
    model = Einet(RegionGraph([range(3)]), {Bernoulli(): [0], Normal(): [1], Binomial(total=9): [2]}, num_leaves=1)
    x = torch.stack((torch.arange(8) % 2, torch.randn(8), torch.arange(8)), 1).double()
    model = em_step(model.double(), x)
    phi = {part.family: part.phi.detach().flatten().tolist() for part in model.leaves.parts}
    assert phi[Bernoulli()] == pytest.approx([0.5])
    assert phi[Binomial(total=9)] == pytest.approx([3.5])
    assert phi[Normal()] == pytest.approx([x[:, 1].mean().item(), x[:, 1].var(correction=0).item()])


def test_three_lines_of_training():
    """The example of the README."""
    graph = einet.random_binary_trees(num_variables=16, depth=3, num_replicas=10, seed=0)
    model = einet.Einet(graph, einet.Bernoulli(), num_sums=10, seed=0)
    x = torch.randint(0, 2, (500, 16)).float()
    em, before = einet.EM(model, lr=0.5), model(x).mean()
    for batch in x.split(100):
        em.zero_grad()
        model(batch).sum().backward()
        em.step()
    assert model(x).mean() > before
    assert model(x, observed=torch.arange(16) < 8).mean() > model(x).mean()


# The M-step

GRAPHS = [random_binary_trees(6, 2, 3, seed=0), poon_domingos((2, 3), 1)]
each_family = each_of(ALL)


def training(family, graph=GRAPHS[0], num_rows=40, missing=False):
    """A model and rows from two clusters, with one entry in four missing."""
    model = in_float64(Einet(graph, family, num_sums=3, num_leaves=2, seed=0))
    x = rows(model, num_rows)
    x[: num_rows // 2] = x[0]
    observed = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.75 if missing else None
    return model, x, observed


@each_family
@pytest.mark.parametrize("graph", GRAPHS, ids=["RAT", "PD"])
@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
@pytest.mark.slow
def test_full_batch_em_never_lowers_the_likelihood(family, graph, missing):
    model, x, observed = training(family, graph, missing=missing)
    assert any(level.mixings for level in model.levels)
    em, values = EM(model), []
    for _ in range(50):
        em.zero_grad()
        value = log_likelihood(model, x, observed)
        value.backward()
        em.step()
        values.append(value.item())
    assert np.diff(values).min() > -1e-9 * abs(values[-1])
    assert values[-1] > values[0] + 10


@each_family
@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
def test_a_small_step_goes_a_part_of_the_way(family, missing):
    model, x, observed = training(family, missing=missing)
    part_way, all_the_way = (em_step(copy.deepcopy(model), x, observed, lr=lr) for lr in (0.2, 1.0))
    for old, part, whole in zip(*map(Einet.sum_layers, (model, part_way, all_the_way)), strict=True):
        torch.testing.assert_close(part.weights, 0.8 * old.weights + 0.2 * whole.weights, atol=1e-11, rtol=0)
    for old, part, whole in zip(*map(statistics_of, (model, part_way, all_the_way)), strict=True):
        torch.testing.assert_close(part, 0.8 * old + 0.2 * whole, atol=1e-4, rtol=0)  # `whole` is off by its floor


@each_family
def test_gradients_of_batches_add_up_to_those_of_the_whole(family):
    model, x, observed = training(family, missing=True)
    whole = em_step(copy.deepcopy(model), x, observed)
    for batch, mask in zip(x.split(7), observed.split(7), strict=True):
        log_likelihood(model, batch, mask).backward()
    EM(model).step()
    assert_same(model, whole, atol=1e-10, rtol=1e-10)


@each_family
def test_rows_count_as_often_as_they_come(family):
    model, x, _ = training(family, num_rows=9)
    weighted = copy.deepcopy(model)
    times = torch.arange(1, 10)
    (weighted(x) * times).sum().backward()
    EM(weighted).step()
    assert_same(weighted, em_step(model, x.repeat_interleave(times, 0)), atol=1e-10, rtol=1e-10)


@each_family
def test_step_keeps_the_model_a_density(family):
    model, x, observed = training(family, missing=True)
    for lr in (1.0, 0.5, 1.0):
        em_step(model, x, observed, lr=lr)
    for layer in model.sum_layers():
        total = layer.weights.sum(layer.weight_dim)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-9)
        assert (layer.weights >= WEIGHT_FLOOR).all()
    for part in model.leaves.parts:
        torch.testing.assert_close(part.family.project(part.phi), part.phi, rtol=1e-12, atol=0)


@examples(10)
@given(cases())
def test_a_pseudocount_is_so_many_uses_more(case):
    """Of every weight; and of every leaf entry, by rows that it agrees with."""
    model, x, observed, labels = case
    old, labels_by_hand = Circuit(copy.deepcopy(model)), [0] * 3 if labels is None else labels.tolist()
    sums, mixing, uses = old.total_uses(x, observed, labels_by_hand)
    targets = old.mean_statistics(x, observed, labels_by_hand)
    new = Circuit(em_step(*case, pseudocount=0.5))
    for region, nodes in sums.items():
        for counts, after in zip(nodes, new.sums[region], strict=True):
            expected = (counts.weights + 0.5) / (counts.weights + 0.5).sum(1, keepdims=True)
            np.testing.assert_allclose(after.weights, expected, atol=1e-9)
    for region, counts in mixing.items():
        np.testing.assert_allclose(new.mixing[region], (counts + 0.5) / (counts + 0.5).sum(0), atol=1e-9)
    for region, own in targets.items():
        for d, target in own.items():
            before = expected_statistics(*old.leaves[region][d])
            expected = (uses[region] * target + 0.5 * before) / (uses[region] + 0.5)
            np.testing.assert_allclose(expected_statistics(*new.leaves[region][d]), expected, atol=1e-7)


def test_a_class_without_rows_keeps_its_root():
    model = in_float64(Einet(GRAPHS[0], Bernoulli(), num_sums=3, num_classes=3, seed=0))
    x, labels = rows(model, 20), torch.arange(20) % 2  # nobody of class 2
    (root,) = model.levels[-1].mixings
    before = root.weights.detach().clone()
    em_step(model, x, labels=labels)
    torch.testing.assert_close(root.weights[..., 2], before[..., 2], atol=1e-11, rtol=0)
    assert not torch.allclose(root.weights[..., :2], before[..., :2], atol=1e-3)


def test_entries_that_nobody_uses_cost_no_mass():
    """Their weights stay positive, so that they may return, but so small that the sum is still 1."""
    model = in_float64(Einet(RegionGraph([{0}]), Normal(), num_leaves=100, seed=0))
    (root,) = model.levels[0].einsums
    with torch.no_grad():
        model.leaves.parts[0].phi[0, 0, 0, 1:] += 1e4
    em_step(model, torch.randn(20, 1).double())
    assert root.weights.sum().item() == pytest.approx(1, abs=1e-9)
    assert root.weights.min() > 0
    assert root.weights.min().float() > 0


def test_channels_are_fitted_each_to_its_own():
    model = in_float64(Einet(RegionGraph([range(2)]), Normal(channels=3), num_leaves=1, seed=0))
    x = torch.randn(30, 2, 3, dtype=torch.float64) + torch.arange(6).view(2, 3)
    em_step(model, x)
    torch.testing.assert_close(model.leaves.parts[0].phi[0, :, :, 0], x.mean(0))
    torch.testing.assert_close(model.leaves.parts[0].phi[1, :, :, 0], x.var(0, correction=0))


def test_several_networks_are_moved_by_one_optimizer():
    pair = torch.nn.ModuleList(training(family)[0] for family in (Normal(), Bernoulli()))
    alone = copy.deepcopy(pair)
    data = [rows(model, 10) for model in pair]
    sum(model(x).sum() for model, x in zip(pair, data, strict=True)).backward()
    EM(pair, lr=0.5).step()
    for model, expected, x in zip(pair, alone, data, strict=True):
        assert_same(model, em_step(expected, x, lr=0.5), rtol=0, atol=0)


def test_a_closure_is_called_for_its_gradients():
    model, x, _ = training(Bernoulli())
    expected = em_step(copy.deepcopy(model), x)
    em = EM(model)

    def closure():
        em.zero_grad()
        value = model(x).sum()
        value.backward()
        return value

    before = model(x).sum().item()
    assert em.step(closure).item() == pytest.approx(before)
    assert_same(model, expected, rtol=0, atol=0)


def test_step_keeps_the_gradients_and_zero_grad_forgets_them():
    model, x, _ = training(Bernoulli())
    em = EM(model)
    model(x).sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    em.step()
    assert all(map(torch.equal, before, (parameter.grad for parameter in model.parameters())))
    em.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_portions_of_nodes_do_not_show(monkeypatch):
    model, x, observed = training(Normal(), missing=True)
    expected = em_step(copy.deepcopy(model), x, observed)
    monkeypatch.setattr(einet.layers.sums, "CACHE_NUMEL", 1)
    assert_same(em_step(model, x, observed), expected, atol=1e-12, rtol=1e-12)


def test_a_step_is_the_same_in_float32():
    model, x, observed = training(Normal(), missing=True)
    single = em_step(copy.deepcopy(model).float(), x, observed)
    assert_same(single.double(), em_step(model, x, observed), atol=1e-5, rtol=1e-5)


# Step sizes


def test_a_scheduler_drives_the_step_size():
    model, x, _ = training(Bernoulli())
    by_hand = copy.deepcopy(model)
    em, em_by_hand = EM(model, lr=0.8), EM(by_hand)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(em, 0.5)
    for lr in (0.8, 0.4, 0.2):
        em_by_hand.param_groups[0]["lr"] = lr
        for each, network in ((em, model), (em_by_hand, by_hand)):
            each.zero_grad()
            network(x).sum().backward()
            each.step()
        scheduler.step()
    assert_same(model, by_hand, rtol=1e-12, atol=1e-12)


def test_a_step_of_size_zero_at_the_end_of_a_schedule_changes_nothing():
    model, x, _ = training(Categorical(categories=3))
    before = copy.deepcopy(model)
    em = EM(model)
    em.param_groups[0]["lr"] = 0.0
    model(x).sum().backward()
    em.step()
    assert_same(model, before, rtol=0, atol=1e-12)


# Gradient training


@each_family
def test_unconstrained_and_constrained_keep_the_density(family):
    model, x, observed = training(family)
    em_step(model, x)  # some parameters at their bounds
    before = model(x).detach()
    torch.testing.assert_close(einet.unconstrained(model)(x), before, rtol=1e-3, atol=1e-3)
    free = model(x).detach()
    torch.testing.assert_close(einet.constrained(model)(x), free, rtol=1e-12, atol=0)
    assert [type(layer).__name__ for layer in model.sum_layers()] == [
        type(layer).__name__ for layer in training(family)[0].sum_layers()
    ]
    EM(model)
    em_step(model, x)


@each_family
def test_adam_improves_the_likelihood_and_leaves_a_density(family):
    model, x, _ = training(family)
    before = model(x).mean().item()
    einet.unconstrained(model)
    adam = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(30):
        adam.zero_grad()
        (-model(x).mean()).backward()
        adam.step()
    einet.constrained(model)
    assert model(x).mean().item() > before + 0.5
    for layer in model.sum_layers():
        total = layer.weights.sum(layer.weight_dim)
        torch.testing.assert_close(total, torch.ones_like(total))
    for part in model.leaves.parts:
        torch.testing.assert_close(part.family.project(part.phi), part.phi, rtol=1e-9, atol=0)


def test_unconstrained_gradients_are_finite_differences():
    model = in_float64(Einet(RegionGraph([{0}, {1}, {0, 1}], [(2, 0, 1)] * 2), Categorical(categories=3), num_sums=2))
    einet.unconstrained(model)
    x = rows(model, 3)
    names, values = zip(*((n, p.detach().requires_grad_()) for n, p in model.named_parameters()), strict=True)
    assert len(names) == 3 and all("parametrizations" in name for name in names)

    def forward(*parameters):
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(forward, values)


def test_categories_may_be_multiplied_as_well_as_looked_up(monkeypatch):
    """What a GPU does with few categories, on the CPU: the same density, the same step."""
    graph = random_binary_trees(4, 1, 2, seed=0)
    x, observed, found = torch.randint(3, (9, 4)).float(), torch.rand(9, 4) < 0.8, []
    for uses_table in (True, False):
        monkeypatch.setattr(einet.leaves.FamilyLeaves, "uses_table", lambda self, x, found=uses_table: found)
        model = Einet(graph, Categorical(categories=3), num_sums=3, seed=0)
        em = EM(model, lr=0.5)
        log_density = model(x, observed)
        log_density.sum().backward()
        em.step()
        found.append([log_density.detach(), *(parameter.detach() for parameter in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
