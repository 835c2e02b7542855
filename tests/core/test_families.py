"""The families of the paper, and two as users write them: the contract of contract.py, and what is special to each."""

import inspect
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from contract import Discrete, FamilyContract, OverPositiveNumbers
from scipy import stats

import einet
from einet import (
    Bernoulli,
    Binomial,
    Categorical,
    Einet,
    ExponentialFamily,
    LogNormal,
    Normal,
    Poisson,
    RegionGraph,
    random_binary_trees,
)
from einet.families import FAMILIES
from einet.family import LeafFamily, raise_where

# The families of the package


class TestNormal(FamilyContract):
    family = Normal()
    outside = [(math.nan, "finite, got nan"), (math.inf, "finite, got inf"), (-math.inf, "finite, got -inf")]
    wild = [[0.5, 0.0], [-1.0, -3.0], [2.0, 1e-9]]

    def support(self, phi):
        """The rectangle rule, which is exact to rounding for a smooth density that vanishes at both ends."""
        values = torch.linspace(-80, 80, 16001, dtype=torch.float64)[:, None]
        return values, torch.full_like(values, 0.01)

    @property
    def x(self):
        return torch.tensor([-3.0, -0.4, 0.0, 0.7, 5.0], dtype=torch.float64)[:, None]

    def scipy_log_density(self, x, phi):
        return stats.norm.logpdf(x, phi[0], np.sqrt(phi[1]))

    def inside(self, phi):
        return (phi[1] >= self.family.min_variance * (1 - 1e-6)) & (phi[1] <= self.family.max_variance * (1 + 1e-6))

    @pytest.mark.parametrize("size", [1e-8, 1e10, 1e15])
    def test_an_em_step_on_numbers_of_any_size(self, size):
        """Fails where the square of a variance is taken: in float32 it is infinite, or 0."""
        x = size * torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
        model = Einet(RegionGraph([{0}]), Normal(min_variance=1e-30), num_sums=1, seed=0)
        (part,) = model.leaves.parts
        part.phi.data.copy_(torch.tensor([0.0, 4 * size * size])[:, None, None, None])
        model(x).sum().backward()
        einet.EM(model).step()
        assert part.phi[1].item() == pytest.approx(x.double().var(correction=0).item(), rel=1e-4)


class TestNormalBounded(TestNormal):
    family = Normal(min_variance=0.3, max_variance=4.0)
    wild = [[0.5, 0.0], [-1.0, 4.5], [2.0, 1e9]]

    def test_initial_variance_is_as_near_to_one_as_allowed(self):
        for bounds, expected in [((0.3, 4.0), 1.0), ((1e-6, 1e-2), 1e-2), ((2.0, 3.0), 2.0)]:
            phi = Normal(*bounds).initial((5,), torch.Generator())
            assert phi[1].tolist() == pytest.approx([expected] * 5)


class TestNormalOfImages(TestNormal):
    """The paper's bounds for pixels, four orders of magnitude apart."""

    family = Normal(min_variance=1e-6, max_variance=1e-2)
    wild = [[0.5, 0.0], [-1.0, 1.0], [2.0, 1e-9]]

    def support(self, phi):
        values = torch.linspace(-4, 4, 80001, dtype=torch.float64)[:, None]
        return values, torch.full_like(values, 1e-4)

    @property
    def phi(self):
        mean = torch.linspace(-1, 1, 7, dtype=torch.float64)
        return torch.stack((mean, torch.logspace(-5, -2.01, 7, dtype=torch.float64)))

    @property
    def x(self):
        return torch.tensor([-1.0, 0.0, 0.34, 1.0], dtype=torch.float64)[:, None]


class TestBernoulli(Discrete):
    family = Bernoulli(floor=0.01)
    values = range(2)
    outside = [
        (2.0, "0 or 1, got 2"),
        (0.5, "0 or 1, got 0.5"),
        (-1.0, "0 or 1, got -1"),
        (math.nan, "0 or 1, got nan"),
    ]
    wild = [[0.0], [1.0], [-3.0], [0.999]]

    def scipy_log_density(self, x, phi):
        return stats.bernoulli.logpmf(x, phi[0])

    def inside(self, phi):
        return (phi[0] >= 0.01 * (1 - 1e-6)) & (phi[0] <= 0.99 * (1 + 1e-6))


class TestBinomial(Discrete):
    family = Binomial(total=7, floor=0.01)
    values = range(8)
    outside = [
        (8.0, "from 0 to 7, got 8"),
        (-1.0, "0 to 7, got -1"),
        (2.5, "0 to 7, got 2.5"),
        (math.nan, "0 to 7, got nan"),
    ]
    wild = [[0.0], [7.0], [-3.0], [0.01]]

    def scipy_log_density(self, x, phi):
        return stats.binom.logpmf(x, 7, phi[0] / 7)

    def inside(self, phi):
        return (phi[0] >= 0.07 * (1 - 1e-6)) & (phi[0] <= 6.93 * (1 + 1e-6))

    @pytest.mark.parametrize("value", [0, 255])
    def test_a_pixel_comes_back_from_the_end_of_the_scale(self, value):
        """Fails where phi (1 - phi / total) cancels: near the upper bound it is off by half a percent in float32."""
        model = Einet(RegionGraph([{0}]), Binomial(), num_sums=1, seed=0)
        (part,) = model.leaves.parts
        part.phi.data.copy_(Binomial().project(torch.full_like(part.phi, float(value))))
        model(torch.full((100, 1), 100.0)).sum().backward()
        einet.EM(model).step()
        assert part.phi.item() == pytest.approx(100, abs=1e-3)


class TestCategorical(Discrete):
    family = Categorical(categories=4, floor=0.01)
    values = range(4)
    outside = [
        (4.0, "from 0 to 3, got 4"),
        (-1.0, "0 to 3, got -1"),
        (1.5, "0 to 3, got 1.5"),
        (math.nan, "0 to 3, got nan"),
    ]
    wild = [[1.0, 0.0, 0.0, 0.0], [0.5, 0.495, 0.005, 0.0], [0.2, 0.2, 0.2, 0.2], [5.0, 1.0, 1.0, 3.0]]

    def scipy_log_density(self, x, phi):
        one_hot = np.eye(4, dtype=int)[x[:, 0].astype(int)]
        return np.stack([stats.multinomial.logpmf(one_hot, 1, p) for p in phi.T], 1)

    def inside(self, phi):
        return (phi >= 0.01 * (1 - 1e-5)).all(0) & ((phi.sum(0) - 1).abs() < 1e-5)

    def test_initial_is_normalised(self):
        """Mistake 7: a density that starts unnormalised disagrees with its own samples."""
        total = self.family.initial((100,), torch.Generator()).sum(0)
        torch.testing.assert_close(total, torch.ones(100))


# Families of your own


@dataclass(frozen=True)
class NegativeBinomial(ExponentialFamily):
    """How many failures there were before success number `total`: T(x) = x, phi = E[x], at least `floor`."""

    total: int = 3
    floor: float = 1e-3

    def check(self, x):
        raise_where(~((x >= 0) & (x == x.floor())), x, "a negative binomial variable must be an integer of at least 0")

    def log_base(self, x):
        return torch.lgamma(x + self.total) - math.lgamma(self.total) - torch.lgamma(x + 1)

    def natural(self, phi):
        return -torch.log1p(self.total / phi)

    def log_normalizer(self, theta):
        return -self.total * torch.log(-torch.expm1(theta[0]))

    def initial(self, shape, generator):
        return 0.5 + 4 * torch.rand((1, *shape), generator=generator)

    def natural_gradient(self, phi, gradient):
        return phi * (1 + phi / self.total) * gradient

    def project(self, phi):
        return phi.clamp_min(self.floor)

    def sample(self, phi, generator=None):
        rate = -torch.log(torch.rand((self.total, *phi[0].shape), generator=generator, dtype=phi.dtype)).sum(0)
        return torch.poisson(rate * phi[0] / self.total, generator)

    def variance(self, phi):
        return phi[0] * (1 + phi[0] / self.total)

    def mode(self, phi):
        return (phi[0] * (1 - 1 / self.total)).floor()


class TestNegativeBinomial(Discrete):
    family = NegativeBinomial()
    values = range(400)
    outside = [(-1.0, "at least 0, got -1"), (0.5, "at least 0, got 0.5"), (math.nan, "got nan")]
    wild = [[0.0], [-1.0], [1e-5]]

    @property
    def x(self):
        return torch.tensor([0.0, 1, 2, 5, 30], dtype=torch.float64)[:, None]

    def scipy_log_density(self, x, phi):
        return stats.nbinom.logpmf(x, 3, 3 / (3 + phi[0]))

    def inside(self, phi):
        return phi[0] >= 1e-3 * (1 - 1e-6)

    def test_a_family_takes_forty_lines(self):
        for family in (NegativeBinomial, Rayleigh):
            assert len([line for line in inspect.getsource(family).splitlines() if line.strip()]) <= 40

    def test_it_trains(self):
        """Counts whose mean is 1 or 9 for all variables together: a mixture beats one mean by far."""
        generator = torch.Generator().manual_seed(0)
        means = torch.tensor([1.0, 9.0])[torch.randint(0, 2, (400, 1), generator=generator)].expand(-1, 6)
        x = self.family.sample(means[None], generator)
        model = Einet(random_binary_trees(6, 2, 3, seed=0), self.family, num_sums=4, seed=0)
        einet.fit(model, x, epochs=15, batch_size=50, progress=False)
        one_mean = self.scipy_log_density(x.numpy(), x.mean(0)[None].numpy()).sum(1).mean()
        assert model(x).mean().item() > one_mean + 1
        total = model(torch.arange(200.0)[:, None].expand(-1, 6), torch.arange(6) == 2).exp().sum()
        assert total.item() == pytest.approx(1, abs=1e-4)


@dataclass(frozen=True)
class Rayleigh(ExponentialFamily):
    """How far from the centre a round normal density of the plane hits: T(x) = x^2, h(x) = 2 x, phi = E[x^2]."""

    placeholder = 1.0

    def check(self, x):
        raise_where(~((x > 0) & torch.isfinite(x)), x, "a Rayleigh variable must be positive and finite")

    def statistics(self, x):
        return (x * x)[None]

    def log_base(self, x):
        return torch.log(2 * x)

    def natural(self, phi):
        return -1 / phi

    def log_normalizer(self, theta):
        return -torch.log(-theta[0])

    def initial(self, shape, generator):
        return 0.5 + torch.rand((1, *shape), generator=generator)

    def natural_gradient(self, phi, gradient):
        return phi**2 * gradient

    def project(self, phi):
        return phi.clamp_min(1e-6)

    def sample(self, phi, generator=None):
        return torch.sqrt(-phi[0] * torch.log1p(-torch.rand(phi[0].shape, generator=generator, dtype=phi.dtype)))

    def mean(self, phi):
        return torch.sqrt(math.pi * phi[0]) / 2

    def variance(self, phi):
        return phi[0] * (1 - math.pi / 4)

    def mode(self, phi):
        return torch.sqrt(phi[0] / 2)


class TestRayleigh(OverPositiveNumbers):
    family = Rayleigh()
    outside = [(0.0, "positive and finite, got 0"), (-1.0, "got -1"), (math.inf, "got inf"), (math.nan, "got nan")]
    wild = [[0.0], [-1.0], [1e-9]]

    def scipy_log_density(self, x, phi):
        return stats.rayleigh.logpdf(x, scale=np.sqrt(phi[0] / 2))

    def inside(self, phi):
        return phi[0] >= 1e-6 * (1 - 1e-6)


# What a family says of its own density


def test_what_a_density_promises_is_not_inherited_by_another_density():
    """Through a mixin, too; what is refined without a change of the density keeps it."""

    class OfLogarithms:
        def statistics(self, x):
            return super().statistics(torch.log(x))

    class Mixed(OfLogarithms, Normal):
        pass

    class Renamed(Normal):
        def check(self, x):
            pass

    class Bare(Normal):
        statistics, log_base = LogNormal.statistics, LogNormal.log_base

    class Own(Bare):
        def entropy(self, phi):
            return phi[0] + 0.5 * torch.log(2 * math.pi * math.e * phi[1])

    for other in (Bare, Mixed):
        assert other.entropy is ExponentialFamily.entropy and not other.location_scale
    assert Renamed.entropy is Normal.entropy and Renamed.location_scale
    phi = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    assert Own().entropy(phi).item() == pytest.approx(stats.lognorm(1).entropy())


def test_how_many_values_a_family_has():
    for family, expected in ((Bernoulli(), 2), (Binomial(9), 10), (Categorical(4), 4), (Normal(), None)):
        assert family.num_values == expected
    assert LogNormal().num_values is Poisson().num_values is None  # nor have they a last value


def test_the_entropy_of_a_narrow_density_far_away_has_all_its_digits():
    """A(theta) - E[T(x)] . theta cancels there: both are 5e19."""
    phi = torch.tensor([[1e7], [1e-6]], dtype=torch.float64)
    assert Normal().entropy(phi).item() == pytest.approx(stats.norm(scale=1e-3).entropy(), abs=1e-12)


# Constructor arguments, one family at a time


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Normal(min_variance=0.0), "0 < min_variance < max_variance, got 0.0 and inf"),
        (lambda: Normal(min_variance=-1.0), "got -1.0"),
        (lambda: Normal(min_variance=2.0, max_variance=1.0), "got 2.0 and 1.0"),
        (lambda: Normal(min_variance=math.nan), "got nan"),
        (lambda: Binomial(total=0), "total .*at least 1, got 0"),
        (lambda: Binomial(total=2.5), "total .*at least 1, got 2.5"),
        (lambda: Binomial(total=3, floor=0.5), r"floor .*\(0, 0.5\), got 0.5"),
        (lambda: Bernoulli(floor=0.0), r"floor .*\(0, 0.5\), got 0.0"),
        (lambda: Categorical(categories=1), "categories .*at least 2, got 1"),
        (lambda: Categorical(categories=4, floor=0.25), r"floor .*\(0, 1/4\), got 0.25"),
    ],
)
def test_limits_of_a_family(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_bernoulli_is_the_binomial_of_one_trial():
    phi, x = torch.tensor([[0.1, 0.4, 0.9]]), torch.tensor([[0.0], [1.0]])
    torch.testing.assert_close(Bernoulli().log_density(x, phi), Binomial(total=1).log_density(x, phi))
    assert Bernoulli() != Binomial(total=1)
    with pytest.raises(TypeError):
        Bernoulli(total=3)


def test_families_are_found_by_name():
    names = {name for name in einet.__all__ if isinstance(getattr(einet, name), type)}
    public = {name for name in names if issubclass(getattr(einet, name), LeafFamily)} - {"ExponentialFamily"}
    assert FAMILIES == {name: getattr(einet, name) for name in public} and len(public) == 12


def test_small_variances_do_not_drown_in_the_mean():
    """At a mean of 100 and a variance of 1e-6, E[x^2] - E[x]^2 has no digit left in float32; phi keeps the variance."""
    family, phi = Normal(), torch.tensor([[100.0], [1e-6]])
    moved = family.step(phi, torch.tensor([[0.0], [0.5e-6]]))
    assert moved[1].item() == pytest.approx(1.5e-6, rel=1e-5)
