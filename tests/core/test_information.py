"""Entropies, divergences and mutual information against the table of all worlds, or closed forms."""

import math
from dataclasses import dataclass

import pytest
import torch
from enumeration import MODELS, Table, small_model
from helpers import seeded
from hypothesis import assume, given
from oracle import Circuit
from strategies import DISCRETE, examples, in_float64, models, region_graphs

from einet import (
    Bernoulli,
    Categorical,
    Einet,
    ExponentialFamily,
    Mixture,
    Normal,
    entropy,
    entropy_bounds,
    kl,
    mutual_information,
    random_binary_trees,
)
from einet.queries import information

SINGLE = [name for name in MODELS if "classes" not in name]


def entropy_of(probabilities):
    return -torch.xlogy(probabilities, probabilities).sum().item()


@pytest.mark.parametrize("name", SINGLE)
def test_bounds_hold_the_entropy_of_the_table(name):
    lower, upper = entropy_bounds(small_model(name))
    exact = entropy_of(Table(small_model(name)).probabilities)
    assert lower <= exact + 1e-9 and exact <= upper + 1e-9
    assert upper - lower < 3, "of no use"


@examples(25)
@given(models(families=DISCRETE, graphs=region_graphs(most_variables=4), classes=(1,)))
def test_bounds_on_random_graphs(model):
    lower, upper = entropy_bounds(model)
    exact = entropy_of(Table(model).probabilities)
    assert lower <= exact + 1e-9 and exact <= upper + 1e-9


@pytest.mark.parametrize("family", [Normal(), Bernoulli(), Categorical(categories=3)])
@pytest.mark.parametrize("depth", [0, 2])
def test_a_product_has_the_entropy_of_its_factors(family, depth):
    model = in_float64(Einet(random_binary_trees(5, depth, 1, seed=0), family, num_sums=1, seed=0))
    phi = model.leaves.parts[0].phi.detach()[:, :, 0, 0]
    exact = {
        "Normal": lambda: 0.5 * torch.log(2 * math.pi * math.e * phi[1]).sum().item(),
        "Bernoulli": lambda: entropy_of(torch.cat((phi, 1 - phi))),
        "Categorical": lambda: entropy_of(phi),
    }[type(family).__name__]()
    lower, upper = entropy_bounds(model)
    assert math.isclose(lower, exact, abs_tol=1e-9) and math.isclose(upper, exact, abs_tol=1e-9)


@examples(25)
@given(models(classes=(1,), most_entries=2, graphs=region_graphs(most_variables=4)))
def test_the_two_sides_differ_by_the_entropy_of_the_tree(model):
    circuit, nothing = Circuit(model), torch.zeros(model.graph.num_variables, dtype=torch.bool).numpy()
    assume(circuit.num_trees() < 5000)
    log_weights = [log_tree for log_tree, _ in circuit.root_trees(nothing[:, None].astype(float), nothing)]
    given_tree, joint = information._entropies(model).tolist()
    assert math.isclose(joint - given_tree, entropy_of(torch.tensor(log_weights).double().exp()), abs_tol=1e-5)


def test_the_latent_tree_bound_is_that_of_all_trees():
    """Far apart, the leaves tell the tree: then H(x) = H(x, z), and the bound is reached."""
    networks = [Einet(random_binary_trees(2, 1, 1, seed=0), Normal(), num_sums=1, seed=c).double() for c in range(2)]
    with torch.no_grad():
        networks[1].leaves.parts[0].phi[0] += 1e4
    model = Mixture(list(map(in_float64, networks)), [0.25, 0.75])
    lower, upper = entropy_bounds(model)
    factors = [0.5 * torch.log(2 * math.pi * math.e * n.leaves.parts[0].phi[1]).sum().item() for n in networks]
    weights = model.weights.detach()
    exact = (weights @ weights.new_tensor(factors)).item() + entropy_of(weights)
    assert math.isclose(lower, exact - entropy_of(weights), abs_tol=1e-9)
    assert math.isclose(upper, exact, abs_tol=1e-9)


@pytest.mark.parametrize("name", ["trees", "mixture", "uneven, mixed"])
@pytest.mark.slow
def test_sampled_entropy_and_divergence_are_within_their_errors(name):
    model, other = small_model(name), small_model(name)
    for network in getattr(other, "components", [other]):
        network.reset_parameters(seed=99)
        in_float64(network)
    p, q = Table(model).probabilities, Table(other).probabilities
    for exact, estimate in (
        (entropy_of(p), lambda seed: entropy(model, 2000, seeded(seed))),
        ((p * (p.log() - q.log())).sum().item(), lambda seed: kl(model, other, 2000, seeded(seed))),
    ):
        estimates = [estimate(seed) for seed in range(40)]
        scores = torch.tensor([(e.value - exact) / e.standard_error for e in estimates])
        assert scores.abs().max() < 4 and abs(scores.mean()) < 4 / 40**0.5 and 0.6 < scores.std() < 1.4


def test_a_density_does_not_diverge_from_itself():
    model = small_model("trees")
    assert kl(model, model, 100) == (0.0, 0.0)


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("a, b", [([0], [1]), ([5, 2], [4]), ([3], [0, 1, 2])])
def test_mutual_information_is_that_of_the_table(name, a, b):
    model, table = small_model(name), Table(small_model(name))
    joint = table.probabilities.view(*(int(n) + 1 for n in table.worlds.amax(0)))
    h = {s: entropy_of(joint.sum([d for d in range(joint.dim()) if d not in s])) for s in map(tuple, (a, b, a + b))}
    exact = h[tuple(a)] + h[tuple(b)] - h[tuple(a + b)]
    assert math.isclose(mutual_information(model, a, b), exact, abs_tol=1e-9)
    assert math.isclose(mutual_information(model.float(), a, b), exact, abs_tol=1e-5)


def test_mutual_information_of_channels_and_of_independent_variables():
    model = in_float64(Einet(random_binary_trees(3, 1, 1, seed=0), Bernoulli(channels=2), num_sums=1, seed=0))
    assert mutual_information(model, [0], [1]) < 1e-9
    shared = in_float64(Einet(random_binary_trees(3, 0, 1), Bernoulli(channels=2), num_sums=3, seed=0))
    assert mutual_information(shared, [0], [1]) > 1e-4


def test_bad_input():
    model, classes = small_model("trees"), small_model("classes")
    for a, b, message in (
        ([], [1], "non-empty, disjoint"),
        ([0, 1], [1], "non-empty, disjoint"),
        ([0, 0], [1], "non-empty, disjoint"),
        ([0], [8], "from 0 to 7, got 8"),
        ([-1], [2], "from 0 to 7, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            mutual_information(model, a, b)
    wide = Einet(random_binary_trees(20, 2, 1), Bernoulli(), num_sums=2)
    with pytest.raises(ValueError, match="131072 joint values, at most 65536"):
        mutual_information(wide, range(10), range(10, 17))
    mixed = Einet(random_binary_trees(2, 1, 1), {Normal(): [0], Bernoulli(): [1]}, num_sums=2)
    with pytest.raises(ValueError, match="must be discrete, got 0: Normal"):
        mutual_information(mixed, [1], [0])
    for call in (
        lambda: entropy(classes),
        lambda: entropy_bounds(classes),
        lambda: kl(model, classes),
        lambda: kl(classes, model),
        lambda: mutual_information(classes, [0], [1]),
    ):
        with pytest.raises(ValueError, match="must have one class, got 3"):
            call()
    for wrong in (1, 0, 2.5):
        with pytest.raises(ValueError, match=f"num_samples must be an integer of at least 2, got {wrong}"):
            entropy(model, wrong)
    with pytest.raises(ValueError, match="x must have shape"):
        kl(model, wide)


@dataclass(frozen=True)
class LogNormal(Normal):
    """As in the tests of families: `Normal` of the logarithm. Its entropy is not that of its parent."""

    def statistics(self, x):
        return super().statistics(torch.log(x))

    def log_base(self, x):
        return -torch.log(x)

    def sample(self, phi, generator=None):
        return torch.exp(super().sample(phi, generator))

    def mean(self, phi):
        return torch.exp(phi[0] + phi[1] / 2)

    def variance(self, phi):
        return torch.expm1(phi[1]) * self.mean(phi) ** 2


@dataclass(frozen=True)
class LogNormalWithEntropy(LogNormal):
    def entropy(self, phi):
        return phi[0] + 0.5 * torch.log(2 * math.pi * math.e * phi[1])


@dataclass(frozen=True)
class Scaled(Normal):
    """`Normal` in another unit, x = 2 y: another density, with statistics of its own and without a base measure."""

    def natural(self, phi):
        return super().natural(torch.stack((2 * phi[0], 4 * phi[1])))

    def variance(self, phi):
        return 4 * phi[1]


@dataclass(frozen=True)
class Geometric(ExponentialFamily):
    """Failures before the first success: integers without a bound, h(x) = 1, A(theta) = -log(1 - e^theta)."""

    def check(self, x):
        pass

    def natural(self, phi):
        return torch.log(phi / (1 + phi))

    def log_normalizer(self, theta):
        return -torch.log(-torch.expm1(theta[0]))

    def initial(self, shape, generator):
        return 0.05 + torch.rand((1, *shape), generator=generator)

    def sample(self, phi, generator=None):
        draw = torch.rand(phi[0].shape, generator=generator, dtype=phi.dtype)
        return torch.floor(torch.log(draw) / self.natural(phi)[0])

    def variance(self, phi):
        return phi[0] * (1 + phi[0])


def one_leaf(family, *phi):
    model = Einet(random_binary_trees(1, 0, 1), family, num_sums=1, seed=0).double()
    model.leaves.parts[0].phi.data.copy_(torch.tensor(phi, dtype=torch.float64)[:, None, None, None])
    return model


def test_a_bound_that_a_family_cannot_answer_is_refused():
    """The entropy of a log-normal variable with mu = 0, sigma = 1 is 1.419; its parent's, of that variance, 2.190."""
    with pytest.raises(ValueError, match="LogNormal.* has no `entropy` of its own"):
        entropy_bounds(one_leaf(LogNormal(), 0.0, 1.0))
    lower, upper = entropy_bounds(one_leaf(LogNormalWithEntropy(), 0.0, 1.0))
    assert lower == pytest.approx(1.4189385332) and upper == pytest.approx(lower)


def test_a_subclass_with_another_density_has_its_own_entropy():
    lower, upper = entropy_bounds(one_leaf(Scaled(), 3.0, 0.25))
    assert lower == pytest.approx(0.5 * math.log(2 * math.pi * math.e)) and upper == pytest.approx(lower)
    assert Normal().location_scale and not Scaled().location_scale and not LogNormal().location_scale


@pytest.mark.parametrize("mean", [0.02, 0.4, 7.0])
def test_bounds_of_counts_without_a_limit(mean):
    """Below a variance of 0.06 the entropy of the normal density of that variance is even negative."""
    model, q = one_leaf(Geometric(), mean), mean / (1 + mean)
    exact = -(math.log(1 - q) + mean * math.log(q))
    lower, upper = entropy_bounds(model)
    assert lower == pytest.approx(exact) and upper >= exact - 1e-12
    estimate = entropy(model, 20_000, seeded(0))
    assert abs(estimate.value - exact) < 4 * estimate.standard_error
    assert information._sum_of_entropies(model) >= exact


def test_components_may_have_families_of_different_sizes():
    """As many values as the largest has: with those of the first component alone, some mass was left out."""
    graph = random_binary_trees(2, 1, 1, seed=0)
    components = [in_float64(Einet(graph, Categorical(n), num_sums=2, seed=n)) for n in (3, 2)]
    for both in (components, components[::-1]):
        with pytest.raises(ValueError, match="0 to 1, got 2"):
            mutual_information(Mixture(both, [0.5, 0.5]), [0], [1])
