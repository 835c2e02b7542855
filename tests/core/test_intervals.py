"""Distribution functions of families: SciPy's, in far tails mpmath's; draws within intervals; what has neither."""

import math

import mpmath
import numpy as np
import pytest
import torch
from helpers import seeded
from scipy import stats
from test_families import NegativeBinomial, Rayleigh

from einet import Bernoulli, Binomial, Categorical, Exponential, Gamma, Geometric, LogNormal, Normal, Poisson
from einet.intervals import log_gamma_above, log_gamma_below, smallest

inf, nan = math.inf, math.nan


def scipy_categorical(*probabilities):
    return stats.rv_discrete(values=(range(len(probabilities)), probabilities))


# (family, phi, SciPy's distribution)
CASES = [
    *((Normal(), [mean, var], stats.norm(mean, var**0.5)) for mean, var in ((0.0, 1.0), (-3.0, 0.01), (1e6, 4.0))),
    *((LogNormal(), [mean, var], stats.lognorm(var**0.5, scale=math.exp(mean))) for mean, var in ((0, 1.0), (8, 4.0))),
    *((Exponential(), [mean], stats.expon(scale=mean)) for mean in (1e-5, 0.3, 1e9)),
    *(
        (Gamma(), [mean, shape], stats.gamma(shape, scale=mean / shape))
        for mean, shape in ((1e-3, 0.05), (2.0, 0.6), (5.0, 1.0), (1e4, 30.0), (3.0, 1e4))
    ),
    *((Poisson(), [mean], stats.poisson(mean)) for mean in (1e-4, 0.3, 2.5, 99.9, 3e4)),
    *((Geometric(), [mean], stats.geom(1 / (1 + mean), loc=-1)) for mean in (1e-4, 0.3, 2.5, 1e6)),
    (Bernoulli(), [0.3], stats.bernoulli(0.3)),
    (Binomial(7), [2.0], stats.binom(7, 2 / 7)),
    (Binomial(255), [3.0], stats.binom(255, 3 / 255)),
    (Categorical(4), [0.1, 0.2, 0.3, 0.4], scipy_categorical(0.1, 0.2, 0.3, 0.4)),
]
each_case = pytest.mark.parametrize(
    "family, phi, scipy", CASES, ids=[f"{type(family).__name__}-{phi}" for family, phi, _ in CASES]
)
LEVELS = [1e-12, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-12]
RTOL = 1e-8  # that of torch's incomplete gamma functions; the others have 1e-13


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def log_probability(family, phi, low, high):
    low, high = (torch.as_tensor(end, dtype=torch.float64).reshape(-1) for end in (low, high))
    return family.log_probability(low, high, double(*phi)[:, None])


def is_discrete(scipy):
    return not hasattr(scipy, "pdf") or hasattr(getattr(scipy, "dist", scipy), "pmf")


@each_case
def test_both_distribution_functions_are_scipys(family, phi, scipy):
    x = scipy.ppf(LEVELS)
    below, above = log_probability(family, phi, -inf, x), log_probability(family, phi, x, inf)
    np.testing.assert_allclose(below.exp(), scipy.cdf(x), rtol=RTOL)
    point = scipy.pmf(x) if is_discrete(scipy) else 0  # the intervals are closed
    np.testing.assert_allclose(above.exp(), scipy.sf(x) + point, rtol=RTOL)
    if not is_discrete(scipy):  # in SciPy's own logarithms, whose tails go further
        np.testing.assert_allclose(below, scipy.logcdf(x), rtol=RTOL, atol=1e-15)
        np.testing.assert_allclose(above, scipy.logsf(x), rtol=RTOL, atol=1e-15)


@each_case
def test_intervals_have_the_differences(family, phi, scipy):
    x = np.unique(scipy.ppf([0.01, 0.2, 0.5, 0.7, 0.97]))
    for i, low in enumerate(x):
        for high in x[i + 1 :]:
            expected = scipy.cdf(high) - scipy.cdf(low) + (scipy.pmf(low) if is_discrete(scipy) else 0)
            assert log_probability(family, phi, low, high).exp().item() == pytest.approx(expected, rel=1e-8)


@each_case
def test_what_everybody_knows(family, phi, scipy):
    assert log_probability(family, phi, -inf, inf).item() == pytest.approx(0, abs=1e-12)
    a = scipy.ppf(0.4)
    for low, high in ((a, a - 1), (inf, -inf), (inf, inf), (-inf, -inf), (a + 0.25, a + 0.2)):
        assert log_probability(family, phi, low, high).item() == -inf
    at_a_point = log_probability(family, phi, a, a).item()
    assert at_a_point == (pytest.approx(scipy.logpmf(a), rel=RTOL) if is_discrete(scipy) else -inf)
    if is_discrete(scipy):
        assert log_probability(family, phi, a + 0.2, a + 0.8).item() == -inf
        assert log_probability(family, phi, a - 0.3, a + 0.8).item() == pytest.approx(scipy.logpmf(a), rel=RTOL)
        assert log_probability(family, phi, -inf, -0.5).item() == -inf


@each_case
def test_float32_and_shapes(family, phi, scipy):
    low, high = double(*scipy.ppf([0.1, 0.3, 0.3]))[:, None].float(), double(*scipy.ppf([0.6, 0.9])).float()
    found = family.log_probability(low, high, double(*phi)[:, None, None].float())
    assert found.shape == (3, 2) and found.dtype == torch.float32
    exact = family.log_probability(low.double(), high.double(), double(*phi)[:, None, None].float().double())
    torch.testing.assert_close(found.double().exp(), exact.exp(), atol=2e-3, rtol=2e-3)


# Tails that no double holds


def exact_normal(low, high):
    with mpmath.workdps(60):
        low, high = (-high, -low) if high < 0 else (low, high)  # where both terms are small
        integral = mpmath.ncdf(-mpmath.mpf(low)) - mpmath.ncdf(-mpmath.mpf(high))
        return float(mpmath.log(integral))


@pytest.mark.parametrize(
    "low, high",
    [(40, inf), (30, 31), (38, 38.5), (-41, -39), (200, 201), (8, 8.1), (1.0, 1.0 + 1e-9), (25, 25 + 1e-7), (-1, 1e-9)]
    + [(0.25, 0.75), (20.0, 20.04), (20.0, 20.06), (-0.3, 0.3)],
)
def test_far_and_narrow_intervals_of_a_normal(low, high):
    width = high - low
    found = log_probability(Normal(), [0.0, 1.0], low, high).item()
    assert found == pytest.approx(exact_normal(low, high), rel=1e-12, abs=1e-12), width
    shifted = Normal().log_probability(double(5 - 2 * high), double(5 - 2 * low), double(5, 4)[:, None]).item()
    assert shifted == pytest.approx(found, rel=1e-9, abs=2e-7 if width < 1e-6 else 1e-12)


@pytest.mark.parametrize(
    "shape, t",
    [(0.05, 700.0), (0.6, 1e4), (30.0, 1e-12), (30.0, 900.0), (400.0, 10.0), (1e4, 5e3), (1e4, 2e4), (1e6, 1.1e6),
     (1e6, 9e5)],
)  # fmt: skip
def test_far_tails_of_a_gamma(shape, t):
    upper = t > shape
    with mpmath.workdps(50):
        ends = (t, mpmath.inf) if upper else (0, t)
        expected = float(mpmath.log(mpmath.gammainc(shape, *ends, regularized=True)))
    assert expected < math.log(1e-280)
    found = (log_gamma_above if upper else log_gamma_below)(double(shape), double(t)).item()
    assert found == pytest.approx(expected, rel=1e-11)


def test_far_tails_of_counts():
    assert log_probability(Poisson(), [2.5], 300, inf).item() == pytest.approx(
        _log_sum(stats.poisson(2.5), 300), rel=1e-12
    )
    assert log_probability(Poisson(), [3e4], -inf, 20_000).item() == pytest.approx(
        _log_sum(stats.poisson(3e4), 20_000, -1), rel=1e-11
    )
    assert log_probability(Geometric(), [2.5], 5000, inf).item() == pytest.approx(5000 * math.log(2.5 / 3.5), rel=1e-12)
    assert log_probability(Binomial(255), [3.0], 250, inf).item() == pytest.approx(
        _log_sum(stats.binom(255, 3 / 255), 250), rel=1e-12
    )


def _log_sum(scipy, start, step=1):
    terms = scipy.logpmf(np.arange(start, start + step * 500, step))
    return float(np.logaddexp.reduce(terms[np.isfinite(terms)]))


# Draws


@each_case
def test_draws_within_an_interval_follow_the_distribution_function(family, phi, scipy):
    low, high = double(scipy.ppf(0.3)), double(scipy.ppf(0.95))
    draws = family.draw_between(low, high, double(*phi)[:, None].expand(-1, 4000), seeded(0))
    assert draws.shape == (4000,) and draws.dtype == torch.float64
    assert ((draws >= low) & (draws <= high)).all()
    family.check(draws)
    _check_draws(family, phi, low.item(), high.item(), draws)


@each_case
def test_draws_without_bounds_are_samples(family, phi, scipy):
    draws = family.draw_between(double(-inf), double(inf), double(*phi)[:, None].expand(-1, 4000), seeded(1))
    family.check(draws)
    _check_draws(family, phi, -inf, inf, draws)


def _check_draws(family, phi, low, high, draws):
    """By steps of the exact conditional distribution function, which for counts is not continuous."""
    x = torch.unique(torch.quantile(draws, double(0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98), interpolation="lower"))
    exact = (log_probability(family, phi, low, x) - log_probability(family, phi, low, high)).exp()
    found = (draws[:, None] <= x).double().mean(0)
    deviation = (exact * (1 - exact) / len(draws)).sqrt()
    assert ((found - exact).abs() <= 4 * deviation + 1e-12).all()


@pytest.mark.parametrize(
    "family, phi, low, high, mean",
    [
        # Far above x0 a tail is exponential, at the rate of the density's own logarithm there.
        (Normal(), [0.0, 1.0], 50.0, inf, 50 + 1 / 50),
        (Normal(), [0.0, 1.0], -inf, -50.0, -50 - 1 / 50),
        (Normal(), [0.0, 1.0], 50.0, 50.001, 50.0005),
        (LogNormal(), [0.0, 1.0], math.exp(50), inf, math.exp(50) * 50 / 49),
        (Gamma(), [2.0, 2.0], 900.0, inf, 901),
        (Exponential(), [1.0], 900.0, inf, 901),
        (Poisson(), [2.0], 400.0, inf, 400.005),
        (Geometric(), [1.0], 3000.0, inf, 3001),
        (Binomial(255), [3.0], 254.5, inf, 255),
    ],
    ids=str,
)
def test_draws_from_far_tails(family, phi, low, high, mean):
    draws = family.draw_between(double(low), double(high), double(*phi)[:, None].expand(-1, 2000), seeded(0))
    assert ((draws >= low) & (draws <= high)).all()
    assert draws.mean().item() == pytest.approx(mean, abs=4 * draws.std().item() / 2000**0.5 + 1e-4)


def test_draws_are_the_generators_and_float32_stays():
    for family, phi, scipy in CASES:
        low, high = (double(scipy.ppf(level)).float() for level in (0.2, 0.9))
        parameters = double(*phi)[:, None].float().expand(-1, 20)
        one, two = (family.draw_between(low, high, parameters, seeded(3)) for _ in range(2))
        assert torch.equal(one, two) and one.dtype == torch.float32
        assert ((one >= low) & (one <= high)).all()


# What has none


@pytest.mark.parametrize("family", [NegativeBinomial(), Rayleigh()], ids=str)
def test_a_family_without_a_distribution_function_says_so(family):
    for ask in (family.log_probability, family.draw_between):
        with pytest.raises(ValueError, match=f"{type(family).__name__}.*no `log_probability`"):
            ask(double(0.0), double(1.0), double(1.0)[None])


def test_another_density_does_not_inherit_a_distribution_function():
    class OfLogarithms(Normal):
        statistics, log_base = LogNormal.statistics, LogNormal.log_base

    with pytest.raises(ValueError, match="no `log_probability`"):
        OfLogarithms().log_probability(double(0.0), double(1.0), double(0.0, 1.0)[:, None])


# Bisection of doubles


def test_the_smallest_double():
    low, high = double(-inf, 0, 3, 5, -1), double(inf, 4, 3.1, 5, 1)
    for number in (math.pi, -1e300, 5e-324, 0.0):
        found = smallest(lambda x, number=number: x >= number, low, high)
        expected = [min(max(number, a), b) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
        assert found.tolist() == expected
