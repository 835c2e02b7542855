"""The families beside the paper's that tables need: Poisson, Geometric, Exponential, Gamma, LogNormal; with SciPy."""

import inspect
import math

import numpy as np
import pytest
import torch
from contract import Discrete, FamilyContract, OverPositiveNumbers
from enumeration import chi_square
from scipy import optimize, special, stats

import einet
from einet import Einet, Exponential, Gamma, Geometric, LogNormal, Poisson, RegionGraph
from einet.families.continuous import SMALLEST_POSITIVE, gap_of, shape_of
from einet.family import ExponentialFamily


class Counts(Discrete):
    outside = [
        (-1.0, "integer of at least 0, got -1"),
        (0.5, "integer of at least 0, got 0.5"),
        (math.inf, "got inf"),
        (math.nan, "got nan"),
    ]
    wild = [[0.0], [-1.0], [1e-7]]

    def inside(self, phi):
        return phi[0] >= 1e-5 * (1 - 1e-6)


class TestPoisson(Counts):
    family = Poisson()
    values = range(60)

    def scipy_log_density(self, x, phi):
        return stats.poisson.logpmf(x, phi[0])


class TestGeometric(Counts):
    family = Geometric()
    values = range(400)

    @property
    def x(self):
        return torch.tensor([0.0, 1, 2, 5, 30], dtype=torch.float64)[:, None]

    def scipy_log_density(self, x, phi):
        return stats.geom.logpmf(x, 1 / (1 + phi[0]), loc=-1)


class TestExponential(OverPositiveNumbers):
    family = Exponential()
    outside = [(-1.0, "at least 0, got -1"), (math.inf, "got inf"), (math.nan, "got nan")]
    wild = [[0.0], [-1.0], [1e-9]]

    @property
    def x(self):
        return torch.tensor([0.0, 0.1, 1.0, 4.0], dtype=torch.float64)[:, None]

    def scipy_log_density(self, x, phi):
        return stats.expon.logpdf(x, scale=phi[0])

    def inside(self, phi):
        return phi[0] >= 1e-6 * (1 - 1e-6)


class TestGamma(OverPositiveNumbers):
    family = Gamma(max_shape=1e4)
    outside = [(0.0, "positive and finite, got 0"), (-1.0, "got -1"), (math.inf, "got inf"), (math.nan, "got nan")]
    wild = [[0.5, 0.0], [1.0, -3.0], [2.0, 1e9], [0.7, 1e-5]]

    @property
    def phi(self):
        return torch.stack((torch.linspace(0.5, 3, 7), torch.tensor([0.3, 0.7, 1, 1.5, 4, 20, 50]))).double()

    def scipy_log_density(self, x, phi):
        return stats.gamma.logpdf(x, phi[1], scale=phi[0] / phi[1])

    def inside(self, phi):
        return (phi[1] >= 0.01 * (1 - 1e-6)) & (phi[1] <= 1e4 * (1 + 1e-6))


class TestLogNormal(FamilyContract):
    family = LogNormal(max_variance=0.5)
    outside = [(0.0, "positive and finite, got 0"), (-1.0, "got -1"), (math.inf, "got inf"), (math.nan, "got nan")]
    wild = [[0.5, 0.0], [-1.0, 3.0], [2.0, 1e-9]]
    support, x = OverPositiveNumbers.support, OverPositiveNumbers.x

    @property
    def phi(self):
        return torch.stack((torch.linspace(-1, 1, 7), torch.linspace(0.05, 0.4, 7))).double()

    def scipy_log_density(self, x, phi):
        return stats.lognorm.logpdf(x, np.sqrt(phi[1]), scale=np.exp(phi[0]))

    def inside(self, phi):
        return (phi[1] >= 1e-6 * (1 - 1e-6)) & (phi[1] <= 0.5 * (1 + 1e-6))


# Small and large parameters: (family, phi, SciPy's distribution)


CASES = [
    *((Poisson(), [mean], stats.poisson(mean)) for mean in (1e-4, 0.3, 2.5, 99.9, 100.1, 3e4)),
    *((Geometric(), [mean], stats.geom(1 / (1 + mean), loc=-1)) for mean in (1e-4, 0.3, 2.5, 1e6)),
    *((Exponential(), [mean], stats.expon(scale=mean)) for mean in (1e-5, 0.3, 1e9)),
    *(
        (Gamma(), [mean, shape], stats.gamma(shape, scale=mean / shape))
        for mean, shape in ((1e-3, 0.05), (2.0, 0.6), (5.0, 1.0), (1e4, 30.0), (3.0, 1e4))
    ),
    *(
        (LogNormal(), [mean, variance], stats.lognorm(variance**0.5, scale=math.exp(mean)))
        for mean, variance in ((-9.0, 1e-4), (0.0, 1.0), (8.0, 4.0))
    ),
]
each_case = pytest.mark.parametrize(
    "family, phi, scipy", CASES, ids=[f"{type(family).__name__}-{phi}" for family, phi, _ in CASES]
)
QUANTILES = [1e-3, 0.1, 0.5, 0.9, 0.999]


def vector(phi):
    return torch.tensor(phi, dtype=torch.float64)[:, None]


@each_case
def test_log_density_moments_and_entropy_are_scipys(family, phi, scipy):
    x = scipy.ppf(QUANTILES)
    log_density = scipy.logpmf if hasattr(scipy.dist, "pmf") else scipy.logpdf
    found = family.log_density(torch.tensor(x), vector(phi).expand(-1, len(x)))
    np.testing.assert_allclose(found, log_density(x), rtol=1e-9, atol=1e-9)
    assert family.mean(vector(phi)).item() == pytest.approx(scipy.mean(), rel=1e-12)
    assert family.variance(vector(phi)).item() == pytest.approx(scipy.var(), rel=1e-9)
    entropy = exact_entropy(scipy) if isinstance(family, (Poisson, Geometric)) else scipy.entropy()
    assert family.entropy(vector(phi)).item() == pytest.approx(entropy, rel=1e-10, abs=1e-10)


def exact_entropy(scipy):
    """SciPy's own sums end too early for large counts; of a geometric density it is known."""
    if scipy.dist.name == "geom":
        success = scipy.args[0]
        return -(math.log(success) + (1 - success) / success * math.log1p(-success))
    x = np.arange(*(max(0, scipy.mean() + side * (40 * scipy.std() + 60)) // 1 for side in (-1, 1)))
    return special.entr(scipy.pmf(x)).sum()


@each_case
def test_float32_rounds_the_result_alone(family, phi, scipy):
    """In a model of 100 columns: where the leaves do not compute in float64 it is off by several roundings."""
    x = torch.tensor(scipy.ppf(QUANTILES)).float().clamp_min(SMALLEST_POSITIVE if family.placeholder else 0)
    models = [
        Einet(RegionGraph([range(100)]), family, num_leaves=1, seed=0).to(d) for d in (torch.float32, torch.float64)
    ]
    for model in models:
        model.leaves.parts[0].phi.data.copy_(vector(phi).float()[:, None, None].expand(-1, 100, 1, 1))
    found, exact = (model(x[:, None].expand(-1, 100)).double() for model in models)
    torch.testing.assert_close(found, exact, rtol=3e-7, atol=1e-4)


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_are_distributed_as_scipy_says(family, phi, scipy, dtype):
    drawn = family.sample(vector(phi).to(dtype).expand(-1, 4000), torch.Generator().manual_seed(5))
    assert drawn.dtype == dtype
    family.check(drawn)
    drawn = drawn.double().numpy()
    if not hasattr(scipy.dist, "pmf"):
        assert stats.kstest(drawn, scipy.cdf).pvalue > 1e-3
        return
    edges = np.unique(scipy.ppf(np.linspace(0, 1, 30)[1:-1]))  # cells (.., e0], (e0, e1], ..., (e28, ..)
    cells = np.diff(scipy.cdf(edges), prepend=0, append=1)
    counts = np.bincount(np.searchsorted(edges, drawn), minlength=len(cells))
    assert chi_square(counts, cells * len(drawn)) > 1e-3


# EM


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_step_of_em_is_weighted_maximum_likelihood(family, phi, scipy, dtype):
    """By the textbook: weighted means, of x or of log x; for Gamma's shape, the root that SciPy finds."""
    random = np.random.RandomState(0)
    x = scipy.rvs(300, random_state=random).astype(float)
    x = np.float32(x).astype(float).clip(SMALLEST_POSITIVE if family.placeholder else 0)
    weights = random.rand(300)
    mean = np.average(x, weights=weights)
    model = Einet(RegionGraph([{0}]), family, num_sums=1, seed=0).to(dtype)
    (part,) = model.leaves.parts
    part.phi.data.copy_(vector(phi)[:, None, None] * 1.3)
    for _ in range(1 if dtype == torch.float64 else 2):  # the second step rounds less, being shorter
        model.zero_grad()
        (model(torch.tensor(x)[:, None]) * torch.tensor(weights)).sum().backward()
        einet.EM(model).step()
    found = part.phi.detach().double().flatten().tolist()
    if isinstance(family, LogNormal):
        center = np.average(np.log(x), weights=weights)
        expected = [center, np.average((np.log(x) - center) ** 2, weights=weights)]
    elif isinstance(family, Gamma):
        gap = math.log(mean) - np.average(np.log(x), weights=weights)
        root = optimize.brentq(lambda k: math.log(k) - special.digamma(k) - gap, 1e-3, 1e6, rtol=1e-12)
        expected = [mean, root]
    else:
        expected = [max(mean, family.project(torch.zeros(1)).item())]
    assert found == pytest.approx(expected, rel=1e-7 if dtype == torch.float64 else 2e-3)


def test_gamma_without_weights_is_scipys_fit():
    x = stats.gamma.rvs(2.7, scale=3, size=500, random_state=0)
    shape, _, scale = stats.gamma.fit(x, floc=0)
    phi = Gamma().expecting(Gamma().statistics(torch.tensor(x)[:, None]).mean(1))
    assert phi[:, 0].tolist() == pytest.approx([shape * scale, shape], rel=1e-6)


def test_shapes_are_found_from_one_bound_to_the_other():
    shape = torch.logspace(-2, 6, 300, dtype=torch.float64)
    torch.testing.assert_close(shape_of(gap_of(shape), 0.01, 1e6), shape, rtol=1e-8, atol=0)
    few = shape[shape < 100]
    torch.testing.assert_close(shape_of(gap_of(few), 0.01, 1e6), few, rtol=1e-11, atol=0)
    beyond = torch.tensor([-1.0, 0.0, 1e-9, 1e3, math.inf, -math.inf], dtype=torch.float64)
    assert shape_of(beyond, 0.01, 1e6).tolist() == pytest.approx([1e6, 1e6, 1e6, 0.01, 0.01, 1e6], rel=1e-8)


def test_gamma_of_one_value_ends_at_its_largest_shape():
    """Where all rows are alike the likelihood has no bound, as for a normal."""
    model = Einet(RegionGraph([{0}]), Gamma(max_shape=1e4), num_sums=1, seed=0)
    einet.fit(model, torch.full((50, 1), 3.0), epochs=5, lr=1.0, progress=False)
    assert model.leaves.parts[0].phi.flatten().tolist() == pytest.approx([3, 1e4], rel=1e-3)


def test_narrow_gammas_are_found_in_float32():
    """A shape of 3e5, a deviation of two thousandths: E[x] and E[log x] differ by less than float32 tells apart."""
    x = torch.tensor(stats.gamma.rvs(3e5, scale=7 / 3e5, size=2000, random_state=0))[:, None]
    shapes = []
    for dtype in (torch.float32, torch.float64):
        model = Einet(RegionGraph([{0}]), Gamma(), num_sums=1, seed=0).to(dtype)
        for _ in range(4):
            model.zero_grad()
            model(x).sum().backward()
            einet.EM(model).step()
        shapes.append(model.leaves.parts[0].phi.flatten()[1].item())
    assert shapes[1] == pytest.approx(3e5, rel=0.1) and shapes[0] == pytest.approx(shapes[1], rel=1e-3)


# Ends of the support


def test_modes():
    assert Poisson().mode(vector([2.7])).item() == 2 and Poisson().mode(vector([0.4])).item() == 0
    assert Geometric().mode(vector([9.0])).item() == Exponential().mode(vector([9.0])).item() == 0
    assert Gamma().mode(vector([6.0, 3.0])).item() == pytest.approx(4)
    assert Gamma().mode(vector([6.0, 0.5])).item() == SMALLEST_POSITIVE  # the density rises without bound towards 0
    assert LogNormal().mode(vector([1.0, 0.5])).item() == pytest.approx(math.exp(0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_that_a_float_cannot_hold_are_still_positive(dtype):
    """Four in ten draws of so small a shape are below every float32."""
    phi = vector([1.0, 0.01]).to(dtype).expand(-1, 1000)
    Gamma().check(Gamma().sample(phi, torch.Generator().manual_seed(0)))
    model = Einet(RegionGraph([{0}]), Gamma(), num_leaves=1, seed=0).to(dtype)
    model.leaves.parts[0].phi.data.copy_(vector([1.0, 0.5])[:, None, None])
    nothing = torch.zeros(1, dtype=torch.bool)
    for of_rows in (torch.float32, torch.float64):  # the mode, in the type of the rows
        completed = einet.mpe(model, torch.zeros(1, 1, dtype=of_rows), nothing).x
        assert completed > 0 and model(completed).isfinite()
    narrow = LogNormal().mode(vector([0.0, 200.0]).to(dtype))
    assert narrow > 0


def test_a_value_that_was_never_seen_starts_clusters_inside_the_support():
    """A column without any value in a cluster is its mean, and has none: not 0, of which log x is no number."""
    model = Einet(
        einet.random_binary_trees(3, 1, 1, seed=0), {Gamma(): [0], LogNormal(): [1], Poisson(): [2]}, num_sums=2
    )
    x = torch.rand(20, 3).mul(9).ceil()
    einet.start_leaves(model, x, torch.arange(3) == 2)
    assert all(part.phi.isfinite().all() for part in model.leaves.parts)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Poisson(floor=0.0), "0 < floor, got 0.0"),
        (lambda: Geometric(floor=-1.0), "0 < floor, got -1.0"),
        (lambda: Geometric(floor=math.inf), "got inf"),
        (lambda: Exponential(min_mean=math.nan), "0 < min_mean, got nan"),
        (lambda: Gamma(min_shape=0.0), "0 < min_shape < max_shape, got 0.0 and 1000000.0"),
        (lambda: Gamma(min_shape=2.0, max_shape=1.0), "got 2.0 and 1.0"),
        (lambda: LogNormal(min_variance=-1.0), "0 < min_variance < max_variance, got -1.0"),
    ],
)
def test_limits(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("family", [Poisson, Geometric, Exponential, Gamma, LogNormal])
def test_each_takes_forty_lines(family):
    code = inspect.getsource(family).replace(family.__doc__, "")
    assert len([line for line in code.splitlines() if line.strip()]) <= 40, "beside what the docstring explains"
    assert getattr(einet, family.__name__) is family and issubclass(family, ExponentialFamily)
