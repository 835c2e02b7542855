"""What floats cannot hold: precision in float32, densities far below the smallest float, degenerate sizes and data."""

import copy
import math

import pytest
import torch
from helpers import each_of, em_step
from oracle import Circuit
from scipy.stats import binom
from strategies import ALL, instead, rows

import einet
from einet import EM, Bernoulli, Binomial, Categorical, Einet, Normal, RegionGraph, poon_domingos, random_binary_trees

FAMILIES = instead(ALL, Binomial(total=255), Categorical(categories=5))
each_family = each_of(FAMILIES)
each_precision = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def assert_finite(model, x, observed=None):
    """Values, gradients and, after a step, parameters."""
    assert model(x, observed).isfinite().all()
    em_step(model, x, observed)
    for parameter in model.parameters():
        assert parameter.isfinite().all() and parameter.grad.isfinite().all()
    assert model(x, observed).isfinite().all()


# Precision


@each_family
def test_float32_is_within_a_thousandth_of_float64(family):
    """The paper's default structure: 512 variables, depth 4, 10 replicas, K=10."""
    model = Einet(random_binary_trees(512, 4, 10, seed=0), family, num_sums=10, seed=0)
    x = rows(model, 50)
    difference = model(x.float()).double() - copy.deepcopy(model).double()(x.float())
    assert difference.abs().max() < 1e-3


def test_float64_is_the_recursion():
    model = Einet(random_binary_trees(64, 3, 4, seed=0), Normal(), num_sums=4, seed=0).double()
    x = 30 * torch.randn(5, 64, dtype=torch.float64)
    expected = torch.tensor(Circuit(model).log_density(x))[:, 0]
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("axis", [0, 1])
def test_images_of_narrow_gaussians_in_float32(axis):
    """32 x 32 x 3, variances at 1e-6, rows within a few deviations of the means: 0.05 nats of about 16,000.

    The exact value comes from a twin whose means and variances never were float32, by the oracle's recursion.
    """
    graph = poon_domingos((32, 32), 8, axes=[axis])
    model = Einet(graph, Normal(channels=3, min_variance=1e-6, max_variance=1e-2), num_sums=4, seed=0)
    exact = copy.deepcopy(model).double()
    mean = torch.rand(1024, 3, 1, dtype=torch.float64)
    (part,) = exact.leaves.parts
    with torch.no_grad():  # all entries of a pixel are near one another, so that every path through the circuit counts
        nudge = 3e-4 * torch.randn(part.phi.shape[1:], dtype=torch.float64)
        part.phi.copy_(torch.stack((mean[part.pairs] + nudge, torch.full_like(nudge, 1e-6))))
        model.leaves.parts[0].phi.copy_(part.phi)
    x = mean[..., 0] + 1e-3 * torch.randn(4, 1024, 3, dtype=torch.float64)
    expected = torch.tensor(Circuit(exact).log_density(x))[:, 0]
    assert expected.min() > 10_000
    torch.testing.assert_close(model(x.float()).double(), expected, rtol=0, atol=0.05)
    torch.testing.assert_close(model(x.float()).double(), copy.deepcopy(model).double()(x.float()), rtol=0, atol=0.005)


def test_statistics_of_narrow_gaussians_in_float32():
    """Mean 0.7 and variance 4e-6 are found in float32, where E[x^2] - E[x]^2 finds nothing of a variance."""
    model = Einet(RegionGraph([range(50)]), Normal(), num_leaves=2, seed=0)
    x = 0.7 + 2e-3 * torch.randn(400, 50)
    for _ in range(5):
        em_step(model, x)
    mean, variance = model.leaves.parts[0].phi.detach().mean((1, 2, 3))
    assert mean.item() == pytest.approx(0.7, abs=1e-3)
    assert variance.item() == pytest.approx(4e-6, rel=0.1)


# Far below the smallest float


@each_precision
@pytest.mark.parametrize("distance", [45.0, 1e3, 1e6])
@pytest.mark.parametrize(
    "graph", [random_binary_trees(100, 3, 4, seed=0), poon_domingos((10, 10), 5)], ids=["RAT", "PD"]
)
def test_a_hundred_variables_all_far_out(graph, distance, dtype):
    """45 deviations from 100 means: a log-density of -1e5, and no NaN in value, gradient or step."""
    model = Einet(graph, Normal(), num_sums=5, seed=0).to(dtype)
    x = distance * torch.tensor([1.0, -1.0])[torch.randint(0, 2, (8, 100))]
    assert model(x).max() < -9e4
    assert_finite(model, x)


@each_precision
def test_log_densities_of_minus_a_hundred_thousand_are_right(dtype):
    model = Einet(random_binary_trees(100, 3, 4, seed=0), Normal(), num_sums=5, seed=0).to(dtype)
    x = 45 + torch.randn(4, 100)
    expected = torch.tensor(Circuit(model).log_density(x))[:, 0]
    torch.testing.assert_close(model(x).double(), expected, rtol=1e-7 if dtype == torch.float32 else 1e-12, atol=0)


@each_precision
@each_of([family for family in FAMILIES if family.num_values])
def test_data_that_a_trained_model_holds_for_impossible(family, dtype):
    """Every leaf at its floor, every sum at a corner of the simplex; then rows of another value altogether."""
    model = Einet(random_binary_trees(2000, 3, 3, seed=0), family, num_sums=3, seed=0).to(dtype)
    for _ in range(3):
        em_step(model, torch.zeros(5, 2000))
    x = torch.ones(5, 2000)
    assert model(x).max() < -5e3
    exact = copy.deepcopy(model).double()(x)
    torch.testing.assert_close(model(x).double(), exact, rtol=3e-6, atol=0)
    assert_finite(model, x)


def test_entries_are_told_apart_at_log_densities_of_minus_fifty_million():
    """Means of 0 and 1e-4, a row at 1e4: one nat between densities that float32 rounds to multiples of four nats."""
    model = Einet(RegionGraph([{0}]), Normal(), num_leaves=2, seed=0)
    with torch.no_grad():
        model.leaves.parts[0].phi.copy_(torch.tensor([[0.0, 1e-4], [1.0, 1.0]])[:, None, None])
    (root,) = model.levels[0].einsums
    model(torch.tensor([[1e4]])).sum().backward()
    prior = root.weights[0, 0].double()
    expected = prior * torch.tensor([1.0, math.e]) / (prior[0] + math.e * prior[1])
    torch.testing.assert_close((root.weights * root.weights.grad)[0, 0].double(), expected, rtol=1e-3, atol=0)


def test_partitions_of_very_different_scale_are_mixed_right():
    """One partition of the root is 1e4 nats likelier in some rows and less likely in others, in one batch."""
    graph = RegionGraph([{0}, {1}, {0}, {1}, {0, 1}], [(4, 0, 1), (4, 2, 3)])
    model = Einet(graph, Normal(), num_sums=2, seed=0)
    (part,) = model.leaves.parts
    with torch.no_grad():
        part.phi[0, model.leaf_order.index(0)] += 200
    x = torch.tensor([[0.0, 0.0], [200.0, 0.0], [100.0, 0.0], [-1e4, 5.0]])
    expected = torch.tensor(Circuit(model).log_density(x))[:, 0]
    torch.testing.assert_close(model(x).double(), expected, rtol=1e-6, atol=1e-5)


@each_precision
def test_weights_at_their_floor_carry_what_only_they_can_explain(dtype):
    """A path of weights of 1e-12 each through mixing and sums is all that explains a row."""
    model = Einet(poon_domingos((2, 2), 1), Bernoulli(floor=1e-5), num_sums=2, seed=0).to(dtype)
    with torch.no_grad():
        for layer in model.sum_layers():  # all mass on the last place, 1e-12 on the others
            layer.weights.fill_(1e-12)
            layer.weights.movedim(layer.weight_dim, 0)[-1] = 1 - 1e-12
        model.leaves.parts[0].phi[..., 0], model.leaves.parts[0].phi[..., 1] = 1 - 1e-5, 1e-5
    x = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]])
    expected = torch.tensor(Circuit(model).log_density(x))[:, 0]
    torch.testing.assert_close(model(x).double(), expected, rtol=1e-6, atol=1e-5)
    assert_finite(model, x)


# Degenerate sizes

SIZES = {
    "K=1": dict(graph=random_binary_trees(4, 2, 2, seed=0), num_sums=1),
    "D=1": dict(graph=random_binary_trees(1, 2, 2, seed=0), num_sums=3),
    "depth 0": dict(graph=random_binary_trees(4, 0, 2, seed=0), num_sums=3),
    "all three": dict(graph=random_binary_trees(1, 0, 1, seed=0), num_sums=1, num_leaves=1),
    "classes": dict(graph=random_binary_trees(2, 1, 1, seed=0), num_sums=1, num_classes=2),
}


@each_family
@each_precision
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 3])
def test_degenerate_sizes(size, family, batch, dtype):
    model = Einet(leaf=family, seed=0, **SIZES[size]).to(dtype)
    x = rows(model, batch)
    expected = torch.tensor(Circuit(model).log_density(x))
    torch.testing.assert_close(model(x).reshape(batch, -1).double(), expected, rtol=1e-5, atol=1e-5)
    assert_finite(model, x, torch.rand(batch, model.graph.num_variables) < 0.5)
    for _ in range(3):
        assert_finite(model, x)


# Degenerate data


MIXED = {Normal(): [0], Bernoulli(): [1], Binomial(total=255): [2], Categorical(categories=5): [3]}


@pytest.mark.parametrize(
    "family, lr", [(Normal(), 1.0), (Bernoulli(), 1.0), (MIXED, 0.5)], ids=["Normal", "Bernoulli", "mixed"]
)
@pytest.mark.slow
def test_a_thousand_steps_on_constant_data(family, lr):
    model = Einet(random_binary_trees(4, 1, 2, seed=0), family, num_sums=3, seed=0)
    x, em = torch.ones(6, 4), EM(model, lr=lr)
    for _ in range(1000):
        em.zero_grad()
        model(x, check=False).sum().backward()
        em.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    likeliest = {Normal: -0.5 * math.log(2 * math.pi * 1e-6), Binomial: binom.logpmf(1, 255, 1 / 255)}
    best = sum(likeliest.get(type(f), 0.0) * len(variables) for f, variables in model.families.items())
    assert model(x).tolist() == pytest.approx([best] * 6, abs=1e-2)
    assert model(0 * x).isfinite().all()


@each_family
def test_nothing_is_learned_from_nothing_observed(family):
    model = Einet(random_binary_trees(4, 1, 2, seed=0), family, num_sums=3, seed=0)
    before = copy.deepcopy(model.state_dict())
    for _ in range(100):
        em_step(model, torch.ones(6, 4), torch.zeros(4, dtype=torch.bool))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-4, atol=1e-5)


def test_an_outlier_among_the_rows_is_explained_not_fatal():
    model = Einet(random_binary_trees(8, 2, 3, seed=0), Normal(), num_sums=4, seed=0)
    x = torch.randn(50, 8)
    x[7] = 1e6
    einet.fit(model, x, epochs=10, batch_size=20, progress=False)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model(x).isfinite().all()
