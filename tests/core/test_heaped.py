"""`Heaped`: the contract of families, heights that all leaves share, and EM over values that people prefer."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from contract import FamilyContract
from scipy import stats

import einet
from einet import Einet, Heaped, Normal, RegionGraph
from einet.families import FAMILIES

ATOMS, HEIGHTS = (-2.0, 0.5, 1.0), (0.7, 5.0, 0.02)


class OfHeaps(FamilyContract):
    family: Heaped
    wild = [[0.0, 9.0], [1.0, 1e-9], [-1.0, -1.0]]
    outside = [(math.inf, "must be finite, got inf"), (math.nan, "got nan")]

    @property
    def phi(self):
        return torch.tensor(np.stack((np.linspace(-2, 2, 7), np.linspace(0.1, 3, 7))))

    def support(self, phi):
        """The atoms, each with weight 1, and a rule for the integral over the rest."""
        values = torch.linspace(-25.0001, 25, 20001, dtype=torch.float64)[:, None]
        atoms = torch.tensor(self.family.atoms, dtype=torch.float64)[:, None]
        weights = torch.full_like(values, values[1].item() - values[0].item())
        return torch.cat((atoms, values)), torch.cat((torch.ones_like(atoms), weights))

    @property
    def x(self):
        return torch.tensor([*self.family.atoms, 0.1, 0.7, 4.0], dtype=torch.float64)[:, None]

    def scipy_log_density(self, x, phi):
        normal: Any = stats.norm(phi[0], np.sqrt(phi[1]))
        heights = dict(zip(self.family.atoms, self.family.heights, strict=True))
        total = 1 + sum(height * normal.pdf(atom) for atom, height in heights.items())
        each = np.array([[math.log(heights.get(value, 1.0))] for value in x[:, 0].tolist()])
        return normal.logpdf(x) + each - np.log(total)

    def inside(self, phi):
        return (phi[1] >= self.family.min_variance * (1 - 1e-6)) & (phi[1] <= 4 * (1 + 1e-6))


class TestThreeHeaps(OfHeaps):
    family = Heaped(1e-4, 4.0, atoms=ATOMS, heights=HEIGHTS)


class TestOneHighHeap(OfHeaps):
    """Nearly all of the mass is at one value."""

    family = Heaped(1e-2, 4.0, atoms=(0.5,), heights=(50.0,))


def one_leaf(family, num_sums=1):
    """A mixture of `num_sums` leaves over one variable."""
    graph = RegionGraph([{0}, {1}, {0, 1}], [(2, 0, 1)])
    return Einet(graph, {family: [0], Normal(): [1]}, num_sums=num_sums, seed=0).double()


def dollars(rows=3000, seed=0):
    """Amounts of which two thirds are rounded to hundreds, beside what each is tied to."""
    random = np.random.RandomState(seed)
    kind = random.randint(2, size=rows)
    exact = random.normal(np.where(kind, 3.0, -3.0), 1.5)
    x = np.where(random.rand(rows) < 2 / 3, np.round(exact), exact)
    return torch.tensor(np.stack((x, kind + random.normal(0, 0.1, rows)), 1))


def heights_of(x):
    """As `tables.choice` has them."""
    values, counts = np.unique(x, return_counts=True)
    heaps = counts >= 5
    density = stats.gaussian_kde(x)(values[heaps])
    rest = 1 - counts[heaps].sum() / len(x)
    return tuple(values[heaps]), tuple(counts[heaps] / len(x) / density / rest)


def log_density_of_dollars(x):
    """The density that `dollars` are drawn from, a probability at whole numbers."""
    total = 0
    for center, kind in ((-3.0, 0.0), (3.0, 1.0)):
        normal: Any = stats.norm(center, 1.5)
        whole = x[:, 0] == np.round(x[:, 0])
        rounded = 2 / 3 * (normal.cdf(x[:, 0] + 0.5) - normal.cdf(x[:, 0] - 0.5))
        total = total + 0.5 * np.where(whole, rounded, normal.pdf(x[:, 0]) / 3) * stats.norm.pdf(x[:, 1], kind, 0.1)
    return np.log(total)


def test_em_with_gaps_never_lowers_the_likelihood_and_finds_the_density():
    x, fresh = dollars(), dollars(seed=1)
    atoms, heights = heights_of(x[:, 0].numpy())
    observed = torch.tensor(np.random.RandomState(1).rand(*x.shape) < 0.8)
    model = one_leaf(Heaped(1e-2, atoms=atoms, heights=heights), 4)
    einet.start_leaves(model, x, observed)
    history = einet.fit(model, x, observed, epochs=30, batch_size=None, lr=1.0, progress=False)
    assert (np.diff(history.train) > -1e-9).all()
    lost = log_density_of_dollars(fresh.numpy()).mean() - einet.log_density(model, fresh).mean().item()
    assert -0.01 < lost < 0.06
    drawn = einet.sample(model, 4000, generator=torch.Generator().manual_seed(0))[:, 0].numpy()
    assert np.isin(drawn, atoms).mean() == pytest.approx(2 / 3, abs=0.05)


@pytest.mark.parametrize(("center", "deviation", "bounds"), [(1.9, 0.05, (0.2, math.inf)), (1.9, 4.0, (1e-2, 0.5))])
def test_em_at_a_bound_of_the_variance_finds_the_best_mean_there(center, deviation, bounds):
    """The mean of the narrower, or wider, density that rows ask for is none: the shares of the heaps change with it."""
    family = Heaped(*bounds, atoms=(-1.0, 3.0), heights=(10.0, 900.0))
    x = torch.tensor(np.random.RandomState(0).normal(center, deviation, (200, 1)))
    statistics = torch.stack((x.mean(0), (x * x).mean(0)))
    phi = family.expecting(statistics)
    means = torch.linspace(-5, 5, 2001, dtype=torch.float64)
    tried = torch.stack((means, phi[1].expand_as(means)))
    likelihoods = family.log_density(x, tried[:, None]).mean(0)
    assert min(abs(phi[1].item() / bound - 1) for bound in bounds) < 1e-9
    assert family.log_density(x, phi[:, None]).mean().item() >= likelihoods.max().item() - 1e-9


def test_boxes_are_sums_of_atoms_and_an_integral():
    family = Heaped(atoms=ATOMS, heights=HEIGHTS)
    phi = torch.tensor([[0.3], [1.5]], dtype=torch.float64)
    grid = torch.linspace(-1, 0.75, 200_001, dtype=torch.float64)[:, None]
    integral = torch.trapezoid(family.log_density(grid, phi[:, None]).exp()[:, 0], grid[:, 0])
    atom = family.log_density(torch.tensor([[0.5]]).double(), phi[:, None]).exp().item()
    (found,) = family.log_probability(torch.tensor([-1.0]).double(), torch.tensor([0.75]).double(), phi).exp()
    assert found.item() == pytest.approx(integral.item() + atom, rel=1e-6)
    (alone,) = family.log_probability(torch.tensor([0.5]).double(), torch.tensor([0.5]).double(), phi).exp()
    assert alone.item() == pytest.approx(atom)


def test_draws_between_are_within():
    family = Heaped(atoms=ATOMS, heights=HEIGHTS)
    phi = torch.tensor([[0.3], [1.5]], dtype=torch.float64).expand(2, 4000)
    low, high = torch.tensor(0.4).double(), torch.tensor(1.2).double()
    drawn = family.draw_between(low, high, phi, torch.Generator().manual_seed(0))
    assert ((drawn >= low) & (drawn <= high)).all()
    at = torch.tensor(0.5).double()
    expected = (family.log_probability(at, at, phi) - family.log_probability(low, high, phi)).exp()[0].item()
    assert (drawn == 0.5).double().mean().item() == pytest.approx(expected, abs=0.03)


def test_float32_knows_its_atoms():
    family = Heaped(atoms=(0.1, 0.3), heights=(50.0, 50.0))
    phi = torch.tensor([[0.0], [1.0]])
    wide = family.log_density(torch.tensor([[0.1]]).double(), phi.double()[:, None])
    assert family.log_density(torch.tensor([[0.1]]), phi[:, None]).item() == pytest.approx(wide.item(), abs=1e-5)


@pytest.mark.parametrize("target", [(0.0, 1e-9), (40.0, 1600.1), (0.7, 0.5), (-3.0, 300.0)])
def test_any_moments_are_reached_or_approached(target):
    """`expecting` finds the density that has given moments, near an atom and far from all of them."""
    family = Heaped(1e-12, atoms=ATOMS, heights=HEIGHTS)
    statistics = torch.tensor(target, dtype=torch.float64)[:, None]
    phi = family.expecting(statistics)
    torch.testing.assert_close(family.expected(phi), statistics, rtol=1e-6, atol=1e-9)


def test_it_is_saved_with_its_heaps(tmp_path):
    model = one_leaf(Heaped(atoms=ATOMS, heights=HEIGHTS))
    einet.save(model, tmp_path / "heaps.einet")
    loaded = einet.load(tmp_path / "heaps.einet")
    x = torch.tensor([[0.5, 0.0], [0.6, 0.0]]).double()
    assert torch.equal(model(x), loaded(x)) and FAMILIES["Heaped"] is Heaped


@pytest.mark.parametrize(
    ("atoms", "heights", "message"),
    [
        ((), (), "atoms must be different finite numbers"),
        ((1.0, 1.0), (1.0, 1.0), "atoms must be different"),
        ((1.0, 2.0), (1.0,), "heights must be 2 positive numbers"),
        ((1.0,), (0.0,), "heights must be 1 positive"),
        ((1.0,), (math.inf,), "heights must be 1 positive"),
        ((1.0,), 3.0, "heights must be 1 positive"),
    ],
)
def test_limits(atoms, heights, message):
    with pytest.raises(ValueError, match=message):
        Heaped(atoms=atoms, heights=heights)


def test_the_order_of_atoms_does_not_matter():
    assert Heaped(atoms=(3, -1), heights=(1, 2)) == Heaped(atoms=(-1.0, 3.0), heights=(2.0, 1.0))
