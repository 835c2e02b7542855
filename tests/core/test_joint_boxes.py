"""Boxes, draws within them, surprises and quantiles of leaves that are jointly normal: by SciPy and by integration."""

import math
import sys

import numpy as np
import pytest
import torch
from helpers import seeded
from scipy import stats
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm
from test_joint_normal import TREES, conditional, gaussian_mixture, normalized, parameters, randomized, rows

from einet import (
    Bernoulli,
    Einet,
    Mixture,
    MultivariateNormal,
    Normal,
    RegionGraph,
    conditional_marginals,
    log_conditional_probability,
    log_marginal,
    log_probability,
    random_binary_trees,
    sample_conditional,
    surprise,
)
from einet.leaves import normal_boxes

inf, nan = math.inf, math.nan
LEAF = {MultivariateNormal(): [0, 1, 4], Normal(): [2], Bernoulli(): [3, 5]}


def network(kind="tucker"):
    """Regions of up to three jointly normal variables beside others; a mixture of two of these, or with classes."""
    if kind == "mixture":
        leaves = (LEAF, {Normal(): [4, 2], MultivariateNormal(): [0, 1], Bernoulli(): [3, 5]})
        parts = [randomized(normalized(Einet(TREES, leaf, num_sums=2, seed=s)), s) for s, leaf in enumerate(leaves)]
        return Mixture(parts, [0.3, 0.7]).double()
    classes = 3 if kind == "classes" else 1
    graph = random_binary_trees(6, 1, 3, seed=1)
    model = Einet(graph, LEAF, 2, classes, seed=0, sum_product="cp" if kind == "cp" else "tucker")
    return randomized(normalized(model))


every_kind = pytest.mark.parametrize("kind", ["tucker", "cp", "classes", "mixture"])


def labels_of(model):
    return {} if model.num_classes == 1 else {"labels": 2}


def data(num_rows, gaps=0.0):
    x, observed = rows(num_rows, 6, gaps)
    x[:, [3, 5]] = (x[:, [3, 5]] > 0).double()
    return x, observed


def log_density(model, x, observed=None):
    result = log_marginal(model, x, observed)
    return result if result.dim() == 1 else result[:, 2]


# Probabilities


NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)


def box_probability(mean, covariance, low, high):
    """Of a normal vector: one variable after the other by quadrature, down to two, whose formula SciPy has."""
    if len(mean) == 1:
        return np.diff(norm(mean[0], math.sqrt(covariance[0, 0])).cdf([low[0], high[0]]))[0]
    if len(mean) == 2:
        return multivariate_normal.cdf(high, mean, covariance, lower_limit=low)
    first = np.arange(len(mean)) == 0
    reach = 8 * math.sqrt(covariance[0, 0])
    start, end = max(low[0], mean[0] - reach), min(high[0], mean[0] + reach)
    total = 0.0
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        at = start + (end - start) * (node + 1) / 2
        rest = conditional(mean, covariance, np.full(len(mean), at), first)
        density = norm(mean[0], math.sqrt(covariance[0, 0])).pdf(at)
        total += (end - start) / 2 * weight * density * box_probability(*rest, low[1:], high[1:])
    return total


def by_scipy(model, low, high, x, seen):
    """sum over entries of weight * density of what is seen * probability of the box given it, of one row."""
    total, bounded = 0.0, (np.isfinite(low) | np.isfinite(high)) & ~seen
    for weight, mean, covariance in zip(*parameters(model), strict=True):
        if seen.any():
            weight *= multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).pdf(x[seen])
            mean, covariance = conditional(mean, covariance, x, seen)
        own = bounded[~seen]
        if own.any():
            weight *= box_probability(mean[own], covariance[np.ix_(own, own)], low[bounded], high[bounded])
        total += weight
    return total


@pytest.mark.slow
def test_boxes_in_any_variables_of_a_mixture_by_scipy():
    model, (x, observed) = gaussian_mixture(4, 2), rows(10, 4, 0.6)
    observed[0, 3] = True
    generator = seeded(3)
    low = torch.randn(x.shape, generator=generator).double() - 1
    high = low + 3 * torch.rand(x.shape, generator=generator)
    high[torch.rand(x.shape, generator=generator) < 0.3] = inf
    low[torch.rand(x.shape, generator=generator) < 0.3] = -inf
    found = log_probability(model, low, high, torch.where(observed, x, nan), observed)
    given = log_conditional_probability(model, low, high, x, observed)
    nothing = torch.full_like(low[0], inf)
    numbers = set()
    for b in range(len(x)):
        numbers.add(int((((low > -inf) | (high < inf)) & ~observed)[b].sum()))
        row = [t[b].numpy() for t in (x, observed)]
        expected = by_scipy(model, low[b].numpy(), high[b].numpy(), *row)
        assert found[b].exp().item() == pytest.approx(expected, rel=1e-5)
        evidence = by_scipy(model, -nothing.numpy(), nothing.numpy(), *row)
        assert given[b].exp().item() == pytest.approx(expected / evidence, rel=1e-5)
    assert numbers >= {0, 1, 2, 3}
    assert torch.equal(found, log_probability(model, low, high, x, observed))  # integrals have no random part


@every_kind
def test_boxes_in_networks_are_integrals(kind):
    """Of one jointly normal variable, of two, and of two beside a set and another family's interval."""
    model = network(kind)
    nodes, weights = (torch.tensor(each) for each in np.polynomial.legendre.leggauss(40))
    x, _ = data(3)
    observed = torch.tensor([False, True, True, True, False, True])
    low, high = torch.full((6,), -inf).double(), torch.full((6,), inf).double()
    low[0], high[0], low[4], high[4] = -1.0, 1.5, 0.0, 2.0
    first, last = -1 + 1.25 * (nodes + 1), nodes + 1
    for row in range(3):
        many = x[row].repeat(40 * 40, 1)
        many[:, 0], many[:, 4] = first.repeat_interleave(40), last.repeat(40)
        density = log_density(model, many).exp().view(40, 40)
        both = ((density * weights).sum(1) * 1.25 * weights).sum()
        found = log_probability(model, low, high, x[row : row + 1], observed, **labels_of(model))
        assert found.exp().item() == pytest.approx(both.item(), rel=1e-5)
        many = many[::40].clone()
        one = (log_density(model, many, observed | (torch.arange(6) == 0)).exp() * 1.25 * weights).sum()
        alone = torch.where(torch.arange(6) == 0, high, inf)
        found = log_probability(model, -alone.abs() + 0.5 * (alone < inf), alone, x[row : row + 1], observed,
                                **labels_of(model))  # fmt: skip
        assert found.exp().item() == pytest.approx(one.item(), rel=1e-9)


@every_kind
def test_a_box_beside_an_interval_and_a_set_of_other_families(kind):
    """The probability of the whole is the sum of those of its eight parts, each with the far ends as its own."""
    model, (x, _) = network(kind), data(2)
    observed = torch.arange(6) == 1
    low, high = torch.full((6,), -1.5).double(), torch.full((6,), 2.0).double()
    whole = log_probability(model, low, high, x, observed, **labels_of(model)).exp()
    total = 0
    for d, split in ((0, 0.2), (2, 0.1), (4, 1.0)):
        halves = []
        for ends in ((low, torch.where(torch.arange(6) == d, split, high)),
                     (torch.where(torch.arange(6) == d, split, low), high)):  # fmt: skip
            halves.append(log_probability(model, *ends, x, observed, **labels_of(model)).exp())
        torch.testing.assert_close(sum(halves), whole, rtol=1e-5, atol=0)
    for bits in ({3: [0]}, {3: [1]}):
        total = total + log_probability(model, low, high, x, observed, among=bits, **labels_of(model)).exp()
    torch.testing.assert_close(total, whole, rtol=1e-5, atol=0)


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("end", [2.0, 6.0, 20.0, 100.0])
def test_far_tails_keep_their_digits(end, side):
    """P(side * x >= end in two variables, of three) with correlation 1/2: the integral of one variable by SciPy."""
    model = normalized(Einet(RegionGraph([range(3)]), MultivariateNormal(), num_sums=1, seed=0))
    (part,) = model.leaves.parts
    factor = torch.linalg.cholesky(torch.tensor([[1.0, 0.5, 0.2], [0.5, 1, 0.3], [0.2, 0.3, 1]]).double())
    part.phi.data.copy_(part.layout.packed([(torch.zeros(1, 1, 3).double(), factor[None, None])]))

    def log_integrand(z):
        return norm.logpdf(z) + norm.logcdf((0.5 * z - end) / math.sqrt(0.75))

    peak = log_integrand(end)
    value, _ = quad(lambda z: math.exp(log_integrand(z) - peak), end, end + 9, epsabs=0, epsrel=1e-9, limit=200)
    ends = torch.tensor([end, end, -inf]).double()
    box = (ends, None) if side > 0 else (None, -ends)
    assert log_probability(model, *box).item() == pytest.approx(peak + math.log(value), rel=1e-9, abs=1e-7)
    nowhere = torch.full((3,), 1e4).double()
    assert log_probability(model, nowhere, nowhere + 1).item() == -inf


def test_many_variables_are_those_of_independent_ones():
    """Ten variables, of which five hang together: against the product of SciPy's five and five of one variable."""
    model = normalized(Einet(RegionGraph([range(10)]), MultivariateNormal(), num_sums=1, seed=0))
    (part,) = model.leaves.parts
    factor = torch.eye(10).double()
    factor[5:, 4] = 1.0
    part.phi.data.copy_(part.layout.packed([(torch.zeros(1, 1, 10).double(), factor[None, None])]))
    found = log_probability(model, -torch.ones(10), torch.full((10,), 2.0)).exp().item()
    one = norm.cdf(2) - norm.cdf(-1)
    others, _ = quad(lambda z: norm.pdf(z) * (norm.cdf(2 - z) - norm.cdf(-1 - z)) ** 5, -1, 2, epsabs=1e-12)
    assert found == pytest.approx(one**4 * others, rel=1e-4)


@pytest.mark.parametrize("size, end, error", [(3, -1.0, 1e-5), (3, 2.0, 1e-3), (3, 8.0, 1e-2), (5, 0.5, 1e-4)])
def test_tails_of_three_and_five_variables_are_as_good_as_they_say(size, end, error):
    """Equal correlations of 1/2: given one normal number the variables are independent."""
    model = normalized(Einet(RegionGraph([range(size)]), MultivariateNormal(), num_sums=1, seed=0))
    (part,) = model.leaves.parts
    factor = torch.linalg.cholesky(0.5 * torch.eye(size).double() + 0.5)
    part.phi.data.copy_(part.layout.packed([(torch.zeros(1, 1, size).double(), factor[None, None])]))

    def log_integrand(u):
        return norm.logpdf(u) + size * norm.logcdf(u - end * math.sqrt(2))

    at = np.linspace(-10, 40, 5001)
    peak = log_integrand(at).max()
    expected = peak + math.log(np.trapezoid(np.exp(log_integrand(at) - peak), at))
    assert log_probability(model, torch.full((size,), end)).item() == pytest.approx(expected, rel=0, abs=error)


def test_regions_of_one_variable_answer_as_normal_leaves():
    graph = RegionGraph([[0], [1], [0, 1]], [(2, 0, 1)])
    ours, theirs = (
        Einet(graph, leaf, num_sums=3, seed=0).double() for leaf in (MultivariateNormal(1e-3), Normal(1e-3))
    )
    x, observed = rows(12, 2, 0.4)
    low = torch.randn(x.shape, generator=seeded(0)).double()
    close = {"rtol": 1e-9, "atol": 1e-9, "equal_nan": True}
    for ask in (
        lambda model: log_probability(model, low, low + 1, x, observed),
        lambda model: log_probability(model, low + 30, None),
        lambda model: surprise(model, x, observed),
        lambda model: conditional_marginals(model, x, observed).quantile([0.1, 0.9]),
    ):
        torch.testing.assert_close(ask(ours), ask(theirs), **close)


def test_portions_change_nothing(monkeypatch):
    model, (x, observed) = network(), data(6, 0.5)
    low = x - 0.5

    def ask():
        return (
            log_probability(model, low, None, x, observed),
            surprise(model, x, observed),
            conditional_marginals(model, x, observed).quantile(0.3),
            sample_conditional(model, x, observed, 3, seeded(0), low=low)[:, observed],
        )

    whole = ask()
    for module in ("leaves.gaussian", "leaves.joint_normal", "leaves.normal_boxes", "leaves.factorised", "leaves.part",
                   "queries.passes", "queries.quantiles"):  # fmt: skip
        monkeypatch.setattr(f"einet.{module}.CHUNK_NUMEL", 50)
    for ours, theirs in zip(ask(), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_without_scipy_a_box_in_several_variables_says_what_to_install(monkeypatch):
    model, (x, _) = gaussian_mixture(3, 2), rows(2, 3)
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    one = torch.tensor([0.0, -inf, -inf])
    assert log_probability(model, one).isfinite() and log_probability(model, 0, None, x, torch.arange(3) > 0).numel()
    with pytest.raises(ImportError, match="pip install 'scipy"):
        log_probability(model, 0)


# Draws


def uniform_p_values(model, drawn, low, high, x, observed, order, free):
    """Rosenblatt's transform of draws (n, D): each variable's distribution function given those before in `order`."""
    known, seen, result = x.repeat(len(drawn), 1), observed.clone(), []
    for d in order:
        ends = high.repeat(len(drawn), 1)
        ends[:, d] = drawn[:, d]
        inside = log_probability(model, low, high, known, seen, **labels_of(model))
        u = (log_probability(model, low, ends, known, seen, **labels_of(model)) - inside).exp()
        assert d in free or ((drawn[:, d] >= low[d]) & (drawn[:, d] <= high[d])).all()
        result.append(stats.kstest(u.clamp_max(1).numpy(), "uniform").pvalue)
        known[:, d], seen = drawn[:, d], seen | (torch.arange(len(low)) == d)
    return result


@pytest.mark.slow
@every_kind
def test_draws_are_uniform_after_their_distribution_function(kind):
    """Two jointly normal variables in a box, and one real that is not in it."""
    model, x = network(kind), data(2)[0][:1]
    observed = torch.tensor([False, True, False, True, False, True])
    low, high = torch.full((6,), -inf).double(), torch.full((6,), inf).double()
    low[0], high[0], low[4] = -0.5, 1.0, 0.5
    drawn = sample_conditional(model, x, observed, 250, seeded(1), **labels_of(model), low=low, high=high)[:, 0]
    assert torch.equal(drawn[:, observed], x[:, observed].expand(250, 3))
    assert min(uniform_p_values(model, drawn, low, high, x, observed, (2, 0, 4), {2})) > 1e-3


def test_one_bounded_variable_moves_the_others_of_its_region():
    """A far box in one variable, which a draw without it would hardly meet, and those that it is correlated with."""
    model, x = gaussian_mixture(4, 2), rows(2, 4)[0][:1]
    observed = torch.tensor([False, False, True, False])
    low, high = torch.tensor([-inf, 8.0, -inf, -inf]).double(), torch.tensor([inf, 8.5, inf, inf]).double()
    drawn = sample_conditional(model, x, observed, 300, seeded(0), low=low, high=high)[:, 0]
    assert min(uniform_p_values(model, drawn, low, high, x, observed, (1, 0, 3), {0, 3})) > 1e-3
    single = sample_conditional(model.float(), x.float(), observed, 50, seeded(0), low=low, high=high)
    assert single.dtype == torch.float32 and ((single >= low) & (single <= high))[..., [0, 1, 3]].all()


def test_rows_with_their_own_evidence_and_boxes():
    model, (x, observed) = network(), data(8, 0.5)
    low = torch.where(torch.rand(x.shape, generator=seeded(5)) < 0.5, x - 0.3, -inf)
    low[:, [3, 5]] = -inf
    drawn = sample_conditional(model, x, observed, 200, seeded(2), low=low)
    assert ((drawn >= low) | observed).all() and torch.equal(drawn[0][observed], x[observed])
    whole = log_probability(model, low, None, x, observed)
    for d in (0, 1, 4):
        middle = drawn[..., d].median(0).values  # half of what is drawn is below
        high = torch.full_like(low, inf)
        high[:, d] = middle
        share = (log_probability(model, low, high, x, observed) - whole).exp()
        assert ((share - 0.5).abs() < 0.15)[~observed[:, d]].all()


def test_a_box_that_draws_do_not_meet_is_refused(monkeypatch):
    model, (x, _) = gaussian_mixture(3, 1), rows(3, 3)
    _, (mean,), (covariance,) = parameters(model)
    deviation = torch.tensor(np.sqrt(np.diag(covariance)))
    low = (torch.tensor(mean) + torch.zeros(3, 3)).double()
    nothing = torch.zeros(3, dtype=torch.bool)
    monkeypatch.setattr(normal_boxes, "MAX_TRIES", 200)
    low[2] += 1e-3 * deviation
    high = low + 30 * deviation
    high[2] = low[2] + 1e-4 * deviation
    for rows_at_once in (slice(0, 2), slice(0, 3)):
        ask = (model, x[rows_at_once], nothing, 5, seeded(0))
        box = {"low": low[rows_at_once], "high": high[rows_at_once]}
        if rows_at_once.stop == 2:
            assert sample_conditional(*ask, **box).isfinite().all()
            continue
        with pytest.raises(ValueError, match="no draw of row 2 in 200 tries .* too improbable for exact draws"):
            sample_conditional(*ask, **box)


# Surprises


def cell_by_cell(model, x, observed):
    whole, result = log_density(model, x, observed), torch.full(x.shape, nan, dtype=torch.float64)
    for d in range(x.shape[1]):
        without = observed & (torch.arange(x.shape[1]) != d)
        result[:, d] = torch.where(observed[:, d], log_density(model, x, without) - whole, nan)
    return result


@every_kind
@pytest.mark.parametrize("size", [1.0, 1e5])
def test_surprises_are_two_log_marginals(kind, size):
    model, (x, observed) = network(kind), data(12, 0.3)
    x[torch.arange(6), torch.tensor([0, 1, 2, 4, 0, 1])] *= size
    for mask in (observed, torch.ones_like(observed)):
        found = surprise(model, torch.where(mask, x, nan), mask, **labels_of(model))
        rounding = 1e-14 * log_density(model, x, mask).abs().max().item()
        expected = cell_by_cell(model, x, mask)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=max(1e-8, rounding), equal_nan=True)


def test_surprise_of_one_normal_is_its_conditional_density():
    model, (x, observed) = gaussian_mixture(4, 1), rows(10, 4, 0.3)
    found = surprise(model, x, observed)
    _, (mean,), (covariance,) = parameters(model)
    for b, (row, seen) in enumerate(zip(x.numpy(), observed.numpy(), strict=True)):
        for d in range(4):
            if not seen[d]:
                assert found[b, d].isnan()
                continue
            others = seen & (np.arange(4) != d)
            if others.any():
                centre, spread = conditional(mean, covariance, row, others)
                place = int((~others)[:d].sum())
                centre, spread = centre[place], spread[place, place]
            else:
                centre, spread = mean[d], covariance[d, d]
            assert found[b, d].item() == pytest.approx(-norm(centre, math.sqrt(spread)).logpdf(row[d]), rel=1e-8)


# Quantiles


@every_kind
def test_quantiles_invert_the_distribution_function(kind):
    model, (x, observed) = network(kind), data(6, 0.5)
    levels = (1e-9, 0.05, 0.5, 0.95)
    found = conditional_marginals(model, x, observed, **labels_of(model)).quantile(levels)
    for level, at in zip(levels, found, strict=True):
        assert torch.equal(at[observed], x[observed])
        for d in (0, 1, 2, 4):
            high = torch.full_like(x, inf)
            high[:, d] = at[:, d]
            below = log_conditional_probability(model, None, high, x, observed, **labels_of(model)).exp()
            expected = torch.where(observed[:, d], 1.0, level).double()
            torch.testing.assert_close(below, expected, rtol=1e-7, atol=1e-14)
