"""A mixture is a density, its components are weighed by their posterior, and EM moves the whole of it."""

import copy

import helpers
import numpy as np
import pytest
import torch
from helpers import em_step
from hypothesis import given
from hypothesis import strategies as st
from oracle import Circuit, worlds
from scipy.special import logsumexp
from strategies import DISCRETE, in_float64, masks, models, rows

from einet import (
    EM,
    Bernoulli,
    Binomial,
    Einet,
    Geometric,
    Mixture,
    Normal,
    Poisson,
    conditional_mean,
    fit,
    random_binary_trees,
    sample_conditional,
)

GRAPH = random_binary_trees(4, 2, 2, seed=0)


def network(seed=0, leaf=Bernoulli(), graph=GRAPH, **sizes):
    return in_float64(helpers.network(leaf, graph, **{"num_sums": 2, "seed": seed, **sizes}))


def mixture(leaf=Bernoulli(), weights=(0.2, 0.5, 0.3)):
    return Mixture([network(seed, leaf) for seed in range(len(weights))], weights).double()


@st.composite
def mixtures(draw):
    """One to three networks over as many variables, each with a graph, families and sizes of its own."""
    first = draw(models(DISCRETE, classes=(1,)))
    variables, components = first.graph.num_variables, [first]
    for seed in range(draw(st.integers(0, 2))):
        graph = random_binary_trees(variables, draw(st.integers(0, 2)), 2, seed=seed)
        leaf = draw(st.sampled_from((Bernoulli(), Binomial(total=2))))
        components.append(network(seed, leaf, graph, num_sums=1 + seed))
    uses = np.array([draw(st.integers(1, 9)) for _ in components])
    return Mixture(components, uses / uses.sum()).double()


def log_density(model, x, observed=None):
    """log sum_c w_c P_c(x), from the components' circuits, region by region."""
    each = [Circuit(c).log_density(x, observed)[:, 0] for c in model.components]
    return logsumexp(np.stack(each, 1) + np.log(model.weights.detach().numpy()), axis=1)


# The density


@given(mixtures())
@pytest.mark.slow
def test_it_is_the_sum_of_its_components(model):
    x = rows(model.components[0], 4) % 2  # 0 or 1: in the support of all
    observed = masks(model.components[0], 4)
    for mask in (None, observed, observed[0]):
        expected = log_density(model, x, mask)
        np.testing.assert_allclose(model(x, mask).detach(), expected, rtol=1e-9, atol=1e-9)


def minus_log_weights(model, x):
    """Mistake 1: a published mixture subtracts log p_k."""
    return torch.logsumexp(model.log_joint(x) - 2 * torch.log(model.weights), 1)


def nearest_component(model, x):
    """And the same, where only the best component counts."""
    return model.log_joint(x).amax(1)


def mass(model, log_density=lambda model, x: model(x)):
    return log_density(model, worlds(model.components[0])).exp().sum().item()


def test_its_mass_is_one_before_and_after_training():
    model = mixture()
    assert mass(model) == pytest.approx(1, abs=1e-9)
    fit(model, worlds(model.components[0])[:9], epochs=3, batch_size=4, progress=False)
    assert mass(model) == pytest.approx(1, abs=1e-9)


def test_the_mistakes_would_be_seen():
    assert mass(mixture(), minus_log_weights) == pytest.approx(1 / 0.2 + 1 / 0.5 + 1 / 0.3)
    assert 0.3 < mass(mixture(), nearest_component) < 0.9


def test_nothing_observed_is_certain():
    assert mixture()(torch.zeros(1, 4), torch.zeros(4, dtype=torch.bool)).item() == pytest.approx(0, abs=1e-9)


# The posterior of the component


def test_components_are_weighed_by_their_posterior():
    model, x = mixture(), worlds(network(0))
    observed = torch.tensor([True, False, True, False])
    joint = model.log_joint(x, observed).detach().numpy()
    each = np.stack([Circuit(c).log_density(x, observed.numpy())[:, 0] for c in model.components], 1)
    posterior = model.weights.detach().numpy() * np.exp(each)
    posterior /= posterior.sum(1, keepdims=True)
    np.testing.assert_allclose(np.exp(joint - logsumexp(joint, axis=1, keepdims=True)), posterior, atol=1e-9)


def test_a_conditional_sample_draws_its_component_from_the_posterior():
    """Mistake 2 takes the best component: there, the rest of the row would be the same in every draw."""
    sides = [network(seed) for seed in (0, 1)]
    with torch.no_grad():
        for side, probability in zip(sides, (0.001, 0.999), strict=True):
            side.leaves.parts[0].phi.fill_(probability)
            side.leaves.parts[0].phi[:, side.leaves.parts[0].pairs == 0] = 0.5  # the first variable tells nothing
    model = Mixture(sides, [0.3, 0.7]).double()
    observed = torch.tensor([True, False, False, False])
    drawn = sample_conditional(model, torch.zeros(1, 4), observed, 4000, torch.Generator().manual_seed(0))
    ones = (drawn[:, 0, 1:].sum(1) > 1.5).double().mean().item()
    assert ones == pytest.approx(0.7, abs=0.03)


# EM of the whole


@pytest.mark.parametrize("lr", [1.0, 0.3])
def test_a_step_is_the_textbooks(lr):
    """Weights move to the mean posterior, and a component as if alone, on rows weighed by its posterior."""
    model = mixture(Normal())
    x = torch.randn(30, 4).double()
    posterior = torch.softmax(model.log_joint(x), 1).detach()
    weights = (1 - lr) * model.weights.detach() + lr * posterior.mean(0)
    alone = copy.deepcopy(model.components)
    for component, of_rows in zip(alone, posterior.T, strict=True):
        (of_rows * component(x)).sum().backward()
        EM(component, lr=lr).step()
    em_step(model, x, lr=lr)
    torch.testing.assert_close(model.weights.data, weights)
    for moved, expected in zip(model.components.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(moved.data, expected.data)


@pytest.mark.parametrize("leaf", [Normal(), Bernoulli(), {Normal(): (0, 2), Bernoulli(): (1, 3)}], ids=str)
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.slow
def test_full_batch_em_never_lowers_the_likelihood(leaf, missing):
    model = mixture(leaf)
    x = (torch.randn(40, 4) > 0).double() if leaf == Bernoulli() else torch.randn(40, 4).double()
    x[:, 1::2] = (x[:, 1::2] > 0).double()
    observed = torch.rand(40, 4) < 0.6 if missing else None
    values = []
    for _ in range(25):
        values.append(model(x, observed).sum().item())
        em_step(model, x, observed)
    assert min(np.diff(values)) > -1e-6
    assert values[-1] > values[0] + 1
    assert model.weights.sum().item() == pytest.approx(1, abs=1e-9)


def test_the_loop_trains_it():
    model, x = mixture(Normal()), torch.randn(60, 4).double() * 3 + 1
    history = fit(model, x, epochs=8, batch_size=20, valid=x[:20], progress=False)
    assert history.valid[-1] > history.valid[0]


def test_a_component_that_nobody_visits_keeps_its_parameters():
    """Mistake 3, for mixtures: no statistics is no reason to move."""
    model = mixture(Normal(), (0.5, 0.5))
    with torch.no_grad():
        model.components[1].leaves.parts[0].phi[0] += 1e6
    before = copy.deepcopy(model.components[1].state_dict())
    em_step(model, torch.randn(20, 4).double())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.components[1].state_dict().items())
    assert model.weights[1].item() == pytest.approx(0, abs=1e-9) and model.weights[1] > 0


def test_a_pseudocount_keeps_it_alive():
    model = mixture(Normal(), (0.5, 0.5))
    with torch.no_grad():
        model.components[1].leaves.parts[0].phi[0] += 1e6
    em_step(model, torch.randn(20, 4).double(), pseudocount=1)
    assert model.weights[1].item() == pytest.approx(1 / 22)


# Bad input


def test_what_is_no_mixture():
    good = [network(0), network(1)]
    other = network(0, graph=random_binary_trees(5, 2, 2, seed=0))
    colours, classes = network(0, Normal(channels=3)), network(0, num_classes=2)
    for components, weights, reason in (
        ([], [], "need a weight for each of 0 components"),
        (good, [1.0], "need a weight for each of 2 components"),
        (good, [[0.5, 0.5]], "need a weight"),
        (good, [0.5, 0.6], r"sum to 1, got \[0.5, 0.6\]"),
        (good, [1.0, 0.0], "positive"),
        (good, [1.5, -0.5], "positive"),
        (good, [float("nan"), 0.5], "positive"),
        ([good[0], other], [0.5, 0.5], "same variables"),
        ([good[0], colours], [0.5, 0.5], "channels"),
        ([classes, classes], [0.5, 0.5], "one class"),
        ([good[0], torch.nn.Linear(4, 1)], [0.5, 0.5], "components must be Einets, got Linear"),
    ):
        with pytest.raises(ValueError, match=reason):
            Mixture(components, weights)


def test_it_checks_its_input_like_a_network():
    model = mixture()
    for x, observed, reason in (
        (torch.zeros(2, 5), None, "shape"),
        (torch.full((2, 4), 2.0), None, "must be 0 or 1, got 2"),
        (torch.zeros(2, 4), torch.ones(5, dtype=torch.bool), "observed must have shape"),
    ):
        with pytest.raises(ValueError, match=reason):
            model(x, observed)


def test_components_of_different_families_each_check_their_support():
    """Binomial(2) allows a 2, Bernoulli does not."""
    model = Mixture([network(0, Binomial(total=2)), network(1)], [0.5, 0.5])
    with pytest.raises(ValueError, match="must be 0 or 1, got 2"):
        model(torch.full((1, 4), 2.0))
    with pytest.raises(ValueError, match="must be 0 or 1, got 2"):
        fit(model, torch.full((1, 4), 2.0), progress=False)


def test_components_of_other_families_weigh_by_their_whole_densities():
    """Base measures differ, too: 1 / x! of a Poisson variable, 1 of a geometric one."""
    graph = random_binary_trees(3, 1, 2, seed=0)
    parts = [Einet(graph, family, num_sums=2, seed=i).double() for i, family in enumerate((Poisson(), Geometric()))]
    model = Mixture(parts, [0.5, 0.5])
    x, observed = torch.tensor([[6.0, 0, 0]]).double(), torch.tensor([True, False, False])
    posterior = torch.softmax(model.log_joint(x, observed), 1)[0]
    expected = sum(p * conditional_mean(part, x, observed) for p, part in zip(posterior, parts, strict=True))
    torch.testing.assert_close(conditional_mean(model, x, observed), expected.detach())
    drawn = sample_conditional(model, x, observed, 20_000, torch.Generator().manual_seed(0))
    error = drawn.std(0) / 20_000**0.5
    assert ((drawn.mean(0) - expected).abs() <= 4 * error + 1e-9).all()
