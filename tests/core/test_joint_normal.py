"""The multivariate normal leaf, against SciPy, scikit-learn and the formulas of conditional normal densities."""

import copy
import itertools
import math
import pickle
import re

import numpy as np
import pytest
import torch
from helpers import em_step, seeded
from scipy.stats import multivariate_normal, norm
from sklearn.mixture import GaussianMixture

import einet
import einet.inpaint.circuit
from einet import Bernoulli, Einet, MultivariateNormal, Normal, RegionGraph, random_binary_trees
from einet.leaves import JointNormalLeaves, gaussian

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
TREES = random_binary_trees(6, 1, 2, seed=0)  # leaf regions of three variables


def normalized(model):
    """In float64, whose sums of weights are off 1 by 1e-16, not by 1e-8."""
    model.double()
    with torch.no_grad():
        for layer in model.sum_layers():
            layer.weights /= layer.weights.sum(layer.weight_dim, keepdim=True)
    return model


def randomized(model, seed=0):
    """The model with factors far from diagonal, in every joint leaf."""
    generator = seeded(seed)
    for network in getattr(model, "components", [model]):
        for part in network.leaves.parts:
            if isinstance(part, JointNormalLeaves):
                groups = []
                for mean, factor in part.layout.groups(part.phi.detach()):
                    drawn = torch.tril(0.7 * torch.randn(factor.shape, generator=generator, dtype=torch.float64), -1)
                    scale = 0.3 + torch.rand(mean.shape, generator=generator, dtype=torch.float64)
                    groups.append((mean, drawn + torch.diag_embed(scale)))
                part.phi.data.copy_(part.layout.packed(groups))
    return model


def gaussian_mixture(size=4, entries=3, seed=0, **arguments):
    """One region: a Gaussian mixture in float64, of whatever parameters."""
    model = Einet(RegionGraph([range(size)]), MultivariateNormal(**arguments), num_sums=entries, seed=seed)
    return randomized(normalized(model), seed)


def parameters(model):
    """The weights (K,), means (K, s) and covariances (K, s, s) of a model of one region, as numpy's."""
    (part,), (layer,) = model.leaves.parts, model.sum_layers()
    ((mean, factor),) = part.layout.groups(part.phi.detach().clone())
    return (layer.weights.detach().double().flatten().numpy(), *(t[0].numpy() for t in (mean, factor @ factor.mT)))


def rows(num_rows, size, gaps=0.0, seed=0):
    """Correlated rows, and what is observed of each: at random, nothing in the first and everything in the second."""
    generator = seeded(seed)
    spread = torch.randn(size, size, generator=generator, dtype=torch.float64)
    x = torch.randn(num_rows, size, generator=generator, dtype=torch.float64) @ spread
    x[::2] += 3 * torch.randn(size, generator=generator, dtype=torch.float64)
    observed = torch.rand(num_rows, size, generator=generator) >= gaps
    observed[0], observed[1] = False, True
    return x, observed


def log_density(model, x, seen):
    """By SciPy, of one row."""
    if not seen.any():
        return 0.0
    of_entries = [
        math.log(weight) + multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).logpdf(x[seen])
        for weight, mean, covariance in zip(*parameters(model), strict=True)
    ]
    return np.logaddexp.reduce(of_entries)


def conditional(mean, covariance, x, seen):
    """Mean and covariance of what is not seen, by the formula."""
    gain = covariance[np.ix_(~seen, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    rest = covariance[np.ix_(~seen, ~seen)] - gain @ covariance[np.ix_(seen, ~seen)]
    return mean[~seen] + gain @ (x[seen] - mean[seen]), rest


def posterior(model, x, seen):
    """Weights of the entries given what is seen, and the conditional means and covariances of the rest."""
    weights, means, covariances = parameters(model)
    logs = [
        math.log(weight) + (multivariate_normal(m[seen], c[np.ix_(seen, seen)]).logpdf(x[seen]) if seen.any() else 0)
        for weight, m, c in zip(weights, means, covariances, strict=True)
    ]
    parts = [conditional(m, c, x, seen) for m, c in zip(means, covariances, strict=True)]
    return np.exp(logs - np.logaddexp.reduce(logs)), *map(np.array, zip(*parts, strict=True))


# Densities


@pytest.mark.parametrize("size", [1, 2, 4])
def test_all_subsets_of_what_is_observed(size):
    model, x = gaussian_mixture(size), rows(2**size, size)[0]
    observed = torch.tensor(list(itertools.product([False, True], repeat=size)))
    expected = torch.tensor([log_density(model, r.numpy(), o.numpy()) for r, o in zip(x, observed, strict=True)])
    torch.testing.assert_close(model(x, observed).detach(), expected, **CLOSE)
    for row, seen in enumerate(observed):  # one mask for all rows
        torch.testing.assert_close(model(x, seen)[row].detach(), expected[row], **CLOSE)
    torch.testing.assert_close(model(x)[-1].detach(), expected[-1], **CLOSE)


@pytest.mark.parametrize("numel", [1, 200, 10**6])
@pytest.mark.parametrize("gaps", [0.0, 0.1, 0.5])
def test_in_chunks_and_blocks_of_any_size(numel, gaps, monkeypatch):
    """Blocks of equal patterns are filled up, and cut where memory ends: what fills up counts nowhere."""
    model, (x, observed) = (
        randomized(normalized(Einet(TREES, MultivariateNormal(), num_sums=2, seed=0))),
        rows(40, 6, gaps),
    )
    monkeypatch.setattr(gaussian, "CHUNK_NUMEL", numel)
    x.requires_grad_()
    value = model(x, observed)
    gradients = torch.autograd.grad((value * torch.arange(40)).sum(), [x, *model.parameters()])

    def plain(*arguments):
        return gaussian.log_densities(*arguments[:-1])

    monkeypatch.setattr(gaussian.LogDensities, "apply", plain)
    expected = model(x, observed)
    torch.testing.assert_close(value, expected, **CLOSE)
    for ours, theirs in zip(
        gradients, torch.autograd.grad((expected * torch.arange(40)).sum(), [x, *model.parameters()]), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-7)


@pytest.mark.parametrize("sum_product", ["tucker", "cp"])
def test_in_a_network_beside_other_families(sum_product):
    """Marginals by enumeration of bits, and numerical integration of one real: they agree with `observed`."""
    leaf = {MultivariateNormal(): [0, 1, 4], Normal(): [2], Bernoulli(): [3, 5]}
    model = randomized(
        normalized(Einet(random_binary_trees(6, 1, 3, seed=1), leaf, 2, seed=0, sum_product=sum_product))
    )
    x = torch.randn(1, 6, generator=seeded(0)).double()
    x[:, [3, 5]] = 1.0
    grid = torch.linspace(-14, 14, 4001, dtype=torch.float64)
    many = x.repeat(len(grid), 1)
    many[:, 1] = grid
    both = []
    for bit in (0.0, 1.0):
        many[:, 5] = bit
        both.append(torch.trapezoid(model(many).exp(), grid))
    observed = torch.tensor([True, False, True, True, True, False])
    torch.testing.assert_close(sum(both).log(), model(x, observed)[0], rtol=1e-6, atol=1e-6)


def test_one_variable_is_normal():
    graph = RegionGraph([[0], [1], [0, 1]], [(2, 0, 1)])
    ours, theirs = (
        Einet(graph, leaf, num_sums=3, seed=0).double() for leaf in (MultivariateNormal(1e-3), Normal(1e-3))
    )
    x, observed = rows(50, 2, 0.3)
    for _ in range(4):
        torch.testing.assert_close(ours(x, observed), theirs(x, observed), **CLOSE)
        for model in (ours, theirs):
            model.zero_grad()
            em = einet.EM(model, lr=0.7, pseudocount=0.5, leaf_pseudocount=0.3, data=(x, observed))
            model(x, observed).sum().backward()
            em.step()
    einet.start_leaves(ours, x, observed, share=0.5, keep=0.2)
    einet.start_leaves(theirs, x, observed, share=0.5, keep=0.2)
    torch.testing.assert_close(ours(x, observed), theirs(x, observed), **CLOSE)


# Learning


def test_em_is_that_of_scikit_learn():
    x, _ = rows(400, 5)
    model = normalized(Einet(RegionGraph([range(5)]), MultivariateNormal(1e-6), num_sums=3, seed=0))
    einet.start_leaves(model, x, seed=1)
    weights, means, covariances = parameters(model)
    theirs = GaussianMixture(
        3, reg_covar=0, tol=0, max_iter=5, weights_init=weights, means_init=means,
        precisions_init=np.linalg.inv(covariances),
    )  # fmt: skip
    with pytest.warns(Warning, match="converge"):
        theirs.fit(x.numpy())
    for _ in range(5):
        em_step(model, x)
    torch.testing.assert_close(model(x).detach(), torch.tensor(theirs.score_samples(x.numpy())), rtol=1e-7, atol=1e-7)
    for ours, other in zip(parameters(model), (theirs.weights_, theirs.means_, theirs.covariances_), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sum_product", ["tucker", "cp"])
@pytest.mark.parametrize("graph", [RegionGraph([range(6)]), TREES])
def test_em_with_gaps_never_lowers_the_likelihood(graph, sum_product):
    x, observed = rows(80, 6, 0.4)
    model = normalized(Einet(graph, MultivariateNormal(), num_sums=3, seed=0, sum_product=sum_product))
    em, values = einet.EM(model), []
    for _ in range(25):
        em.zero_grad()
        values.append(model(x, observed).sum())
        values[-1].backward()
        em.step()
    assert (torch.stack(values).diff() > -1e-8 * values[0].abs()).all() and values[-1] > values[0] + 50


def test_a_step_of_one_normal_is_the_textbook_e_step():
    """Expected statistics of gaps: E[x | seen], and E[x x' | seen], by the formula, for half a step."""
    model, (x, observed) = gaussian_mixture(3, 1), rows(30, 3, 0.4)
    _, (mean,), (covariance,) = parameters(model)
    first, second = np.zeros(3), np.zeros((3, 3))
    for row, seen in zip(x.numpy(), observed.numpy(), strict=True):
        filled, rest = row.copy(), np.zeros((3, 3))
        filled[~seen], rest[np.ix_(~seen, ~seen)] = conditional(mean, covariance, row, seen)
        first, second = first + filled / 30, second + (np.outer(filled, filled) + rest) / 30
    em = einet.EM(model, lr=0.5)
    model(x, observed).sum().backward()
    em.step()
    first, second = (first + mean) / 2, (second + covariance + np.outer(mean, mean)) / 2
    _, (found,), (spread,) = parameters(model)
    np.testing.assert_allclose(found, first, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(spread, second - np.outer(first, first), rtol=1e-9, atol=1e-9)


def test_shrinkage_is_towards_independent_columns():
    model, (x, observed) = gaussian_mixture(3, 2), rows(50, 3, 0.3)
    em_step(model, x, observed, leaf_pseudocount=1e9, data=(x, observed))
    _, means, covariances = parameters(model)
    columns = [x[observed[:, d], d] for d in range(3)]
    for mean, covariance in zip(means, covariances, strict=True):
        np.testing.assert_allclose(mean, [column.mean() for column in columns], atol=1e-5)
        np.testing.assert_allclose(covariance, np.diag([column.var(correction=0) for column in columns]), atol=1e-5)


def test_starts_are_around_rows():
    x, observed = rows(100, 6, 0.2)
    for share, keep in ((0.8, 0.0), (1.0, 0.0), (0.0, 1.0), (0.3, 0.4)):
        model, other = (normalized(Einet(TREES, leaf, num_sums=4, seed=0)) for leaf in (MultivariateNormal(), Normal()))
        for each in (model, other):
            einet.start_leaves(each, x, observed, share=share, keep=keep, seed=3)
        torch.testing.assert_close(model(x, observed), other(x, observed), **CLOSE)
    model = randomized(model)
    before = model(x, observed)
    einet.start_leaves(model, x, observed, share=0.0, keep=1.0)
    torch.testing.assert_close(model(x, observed), before, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_data_do_no_harm(dtype):
    """Two equal columns, one that is their sum, and a constant one; more variables than rows of an entry."""
    x, _ = rows(12, 3)
    x = torch.cat((x, x[:, :1], x[:, :1] + x[:, 1:2], torch.full((12, 1), 5.0)), 1).to(dtype)
    observed = torch.rand(x.shape, generator=seeded(0)) < 0.8
    for mask in (None, observed):
        model = Einet(RegionGraph([range(6)]), MultivariateNormal(min_variance=1e-4), num_sums=3, seed=0).to(dtype)
        einet.start_leaves(model, x, mask)
        history = einet.fit(model, x, mask, epochs=30, batch_size=None, lr=1.0, progress=False)
        assert all(map(math.isfinite, history.train)) and history.train[-1] > history.train[0]
        assert np.diff(history.train).min() > (-1e-9 if dtype == torch.float64 else -1e-2)
        _, _, covariances = parameters(model)
        assert np.linalg.eigvalsh(covariances).min() > 1e-4 * (1 - 1e-3)
        assert all(part.is_valid(1e-3) for part in model.leaves.parts)


def test_the_floor_is_the_nearest_covariance():
    """Eigenvalues below the floor are raised to it, which no covariance within it beats; others stay."""
    spread = torch.tensor([[[4.0, 1.9], [1.9, 1.0]]]).double()
    values, vectors = torch.linalg.eigh(spread)
    found = gaussian.floored(torch.linalg.cholesky(spread), 0.3)
    expected = vectors @ torch.diag_embed(values.clamp_min(0.3)) @ vectors.mT
    torch.testing.assert_close(found @ found.mT, expected, **CLOSE)
    assert (found[0].diagonal() > 0).all() and found[0, 0, 1] == 0
    torch.testing.assert_close(gaussian.floored(found, 0.3), found, rtol=1e-9, atol=1e-9)


def test_units_do_not_matter():
    """Variables in units of 1e-3, 1 and 1e6: above its floor a mixture is the same density in other units."""
    x, observed = rows(200, 3, 0.2)
    units = torch.tensor([1e-3, 1.0, 1e6]).double()
    values = []
    for each in (x, x * units):
        model = normalized(Einet(RegionGraph([range(3)]), MultivariateNormal(1e-30), num_sums=2, seed=0))
        einet.start_leaves(model, each, observed, seed=0)
        for _ in range(10):
            em_step(model, each, observed)
        values.append(model(each, observed) + (observed * units.log() * (each is not x)).sum(1))
        assert model.leaves.parts[0].is_valid(1e-9)
    torch.testing.assert_close(values[0], values[1], rtol=1e-7, atol=1e-7)


def test_adam_trains_it_and_it_comes_back():
    x, observed = rows(60, 6, 0.3)
    model = randomized(normalized(Einet(TREES, MultivariateNormal(), num_sums=3, seed=0)))
    before = model(x, observed).detach()
    einet.unconstrained(model)
    torch.testing.assert_close(model(x, observed).detach(), before, rtol=1e-5, atol=1e-5)
    model = copy.deepcopy(model)
    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(30):
        adam.zero_grad()
        (-model(x, observed).sum()).backward()
        adam.step()
    trained = model(x, observed).detach()
    einet.constrained(model)
    torch.testing.assert_close(model(x, observed).detach(), trained, rtol=1e-6, atol=1e-6)
    assert trained.mean() > before.mean() + 0.5


def test_second_derivatives_and_transforms():
    model, (x, observed) = gaussian_mixture(3, 2), rows(5, 3, 0.3)
    x.requires_grad_()

    def loss(x):
        return model(x, observed, check=False).sum()

    (gradient,) = torch.autograd.grad(loss(x), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    step = 1e-5
    for place in ((2, 1), (4, 2)):
        ends = []
        for sign in (1, -1):
            moved = x.detach().clone()
            moved[place] += sign * step
            moved.requires_grad_()
            ends.append(torch.autograd.grad(loss(moved), moved)[0].square().sum())
        assert second[place].item() == pytest.approx((ends[0] - ends[1]).item() / (2 * step), rel=1e-5, abs=1e-5)
    by_rows = torch.func.vmap(lambda row, seen: model(row[None], seen[None], check=False)[0])(x.detach(), observed)
    torch.testing.assert_close(by_rows, model(x, observed), **CLOSE)
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), gradient.detach(), **CLOSE)


# Queries


def test_conditionals_by_the_formula():
    model, (x, observed) = gaussian_mixture(4, 3), rows(12, 4, 0.5)
    mean = einet.conditional_mean(model, x, observed)
    variance = einet.conditional_variance(model, x, observed)
    marginals = einet.conditional_marginals(model, x, observed)
    at = torch.randn(x.shape, generator=seeded(4)).double()
    densities, in_logs = marginals.log_density(at), marginals.mean_in_logs(0.7)
    for b, (row, seen) in enumerate(zip(x.numpy(), observed.numpy(), strict=True)):
        weights, means, covariances = posterior(model, row, seen)
        expected = weights @ means
        np.testing.assert_allclose(mean[b][observed[b]], row[seen])
        np.testing.assert_allclose(mean[b][~observed[b]], expected, rtol=1e-8, atol=1e-8)
        variances = np.array([np.diag(c) for c in covariances]).reshape(means.shape)
        squares = weights @ (variances + means**2) - expected**2
        np.testing.assert_allclose(variance[b][~observed[b]], squares, rtol=1e-8, atol=1e-8)
        assert (variance[b][observed[b]] == 0).all()
        of_exponentials = weights @ np.exp(0.7 * means + 0.7**2 / 2 * variances)  # the means of log-normal densities
        np.testing.assert_allclose(in_logs[b][~observed[b]], np.log(of_exponentials) / 0.7, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(in_logs[b][observed[b]], row[seen])
        own = weights @ norm(means, np.sqrt(variances)).pdf(at[b].numpy()[~seen])
        np.testing.assert_allclose(densities[b][~observed[b]], np.log(own), rtol=1e-8, atol=1e-8)
        assert torch.isneginf(densities[b][observed[b]]).all()
    torch.testing.assert_close(marginals.mean(), mean)
    for query, evidence in (((0,), (1, 2)), ((3, 1), ())):
        masks = [torch.isin(torch.arange(4), torch.tensor(part, dtype=torch.int64)) for part in (query, evidence)]
        expected = log_density(model, x[0].numpy(), (masks[0] | masks[1]).numpy()) - log_density(
            model, x[0].numpy(), masks[1].numpy()
        )
        assert einet.log_conditional(model, x[:1], *masks).item() == pytest.approx(expected, rel=1e-9)


def test_means_of_exponentials_beside_other_families():
    """Normal leaves have them as joint ones do, the huge are finite, and other families have none."""
    graph = RegionGraph([{0}, {1}, {0, 1}], [(2, 0, 1)])
    joint, alone = (
        Einet(graph, {family: [0], Bernoulli(): [1]}, num_sums=3, sum_product="cp", seed=0)
        for family in (MultivariateNormal(), Normal())
    )
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    for model in (joint, alone):
        normalized(model)
        phi = model.leaves.parts[0].alone().detach()[:, 0, 0]
        weights = model.sum_layers()[0].weights.detach().flatten()
        answers = einet.conditional_marginals(model, torch.zeros(1, 2).double(), nothing)
        expected = torch.logsumexp(torch.log(weights) + 2 * phi[0] + 2 * phi[1], -1) / 2
        assert answers.mean_in_logs(2.0)[0, 0].item() == pytest.approx(expected.item(), rel=1e-9)
        assert answers.mean_in_logs(2.0)[0, 1].isnan() and answers.mean_in_logs(1e3).isfinite()[0, 0]


def test_no_probabilities_of_values():
    model = normalized(Einet(TREES, {MultivariateNormal(): [0, 1, 2], Bernoulli(): [3, 4, 5]}, num_sums=2, seed=0))
    marginals = einet.conditional_marginals(model, torch.zeros(2, 6).double(), torch.zeros(6, dtype=torch.bool))
    table = marginals.probabilities()
    assert table[:, :3].isnan().all()
    torch.testing.assert_close(table[:, 3:].sum(-1), torch.ones(2, 3).double())


@pytest.mark.slow
def test_samples_have_the_moments():
    model, (x, observed) = gaussian_mixture(4, 2), rows(3, 4, 0.0)
    weights, means, covariances = parameters(model)
    drawn = einet.sample(model, 200_000, seeded(0)).numpy()
    mean = weights @ means
    second = np.einsum("k,kij->ij", weights, covariances + means[:, :, None] * means[:, None])
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), second - np.outer(mean, mean), atol=0.06)
    modes = einet.sample(model, 20, seeded(0), noise=False)
    assert all(np.abs(means - mode).sum(1).min() < 1e-9 for mode in modes.numpy())
    observed[:] = torch.tensor([True, False, True, False])
    drawn = einet.sample_conditional(model, x, observed, 100_000, seeded(1))
    assert torch.equal(drawn[:, :, [0, 2]], x[:, [0, 2]].expand(100_000, 3, 2))
    for b in range(3):
        weights, means, covariances = posterior(model, x[b].numpy(), observed[b].numpy())
        mean = weights @ means
        second = np.einsum("k,kij->ij", weights, covariances + means[:, :, None] * means[:, None])
        np.testing.assert_allclose(drawn[:, b, [1, 3]].mean(0), mean, atol=0.03)
        np.testing.assert_allclose(np.cov(drawn[:, b, [1, 3]].T), second - np.outer(mean, mean), atol=0.05)


def test_the_most_probable_completion_of_a_normal_is_its_conditional_mean():
    model, (x, observed) = gaussian_mixture(4, 1), rows(10, 4, 0.4)
    found = einet.mpe(model, x, observed)
    torch.testing.assert_close(found.x, einet.conditional_mean(model, x, observed), **CLOSE)
    torch.testing.assert_close(found.log_density, model(found.x).detach(), **CLOSE)
    torch.testing.assert_close(found.upper_bound, found.log_density, **CLOSE)


@pytest.mark.parametrize("sum_product", ["tucker", "cp"])
def test_no_completion_is_above_the_bound(sum_product):
    leaf = {MultivariateNormal(): [0, 1, 2, 4], Bernoulli(): [3, 5]}
    model = randomized(normalized(Einet(TREES, leaf, num_sums=3, seed=0, sum_product=sum_product)))
    x, observed = rows(6, 6, 0.5)
    x[:, [3, 5]] = (x[:, [3, 5]] > 0).double()
    found = einet.mpe(model, x, observed)
    assert torch.equal(found.x[observed], x[observed])
    for drawn in einet.sample_conditional(model, x, observed, 200, seeded(0)):
        assert (model(drawn) <= found.upper_bound + 1e-9).all()
    assert (found.log_density <= found.upper_bound).all()


def test_entropy_of_one_normal():
    model = gaussian_mixture(4, 1)
    _, (mean,), (covariance,) = parameters(model)
    exact = multivariate_normal(mean, covariance).entropy()
    bounds = einet.entropy_bounds(model)
    assert bounds.lower == pytest.approx(exact) and bounds.upper == pytest.approx(exact)
    estimate = einet.entropy(model, 20_000, seeded(0))
    assert abs(estimate.value - exact) < 5 * estimate.standard_error
    wide = gaussian_mixture(4, 3)
    bounds, estimate = einet.entropy_bounds(wide), einet.entropy(wide, 20_000, seeded(0))
    assert bounds.lower - 0.1 < estimate.value < bounds.upper + 0.1
    assert einet.kl(model, model, 100, seeded(0)).value == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="variables must be discrete"):
        einet.mutual_information(model, [0], [1])


def test_classes_and_mixtures():
    x, observed = rows(40, 6, 0.3)
    labels = (torch.arange(40) % 2).long()
    model = normalized(Einet(TREES, MultivariateNormal(), num_sums=3, num_classes=2, seed=0))
    history = einet.fit(model, x, observed, labels=labels, epochs=5, progress=False)
    assert history.train[-1] > history.train[0]
    assert einet.conditional_mean(model, x, observed, labels).isfinite().all()
    mixed = einet.fit_mixture(
        x, 2, TREES, MultivariateNormal(1e-3), observed=observed, num_sums=2, epochs=3, progress=False
    )
    own = [component(x, observed) for component in mixed.components]
    weights = mixed.weights.detach().log()
    torch.testing.assert_close(mixed(x, observed), torch.logsumexp(torch.stack(own, 1) + weights, 1))
    mean, drawn = (
        einet.conditional_mean(mixed, x, observed),
        einet.sample_conditional(mixed, x, observed, 300, seeded(0)),
    )
    deviation = einet.conditional_variance(mixed, x, observed).sqrt()
    assert ((drawn.mean(0) - mean).abs() <= 0.4 * deviation + 1e-6).all()


# Files and copies


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_loaded_copied(tmp_path, dtype):
    leaf = {MultivariateNormal(1e-3): [0, 1, 2], Normal(): [3, 4, 5]}
    model = randomized(Einet(TREES, leaf, num_sums=3, seed=0).to(dtype))
    x, observed = rows(30, 6, 0.3)
    em_step(model, x.to(dtype), observed)
    einet.save(model, tmp_path / "model.safetensors")
    loaded = einet.load(tmp_path / "model.safetensors")
    assert loaded.families == model.families
    other = Einet(TREES, leaf, num_sums=3, seed=1).to(dtype)
    other.load_state_dict(model.state_dict())
    for each in (loaded, other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(each(x.to(dtype), observed), model(x.to(dtype), observed))
    einet.save(model, tmp_path / "half.safetensors", dtype=torch.float16)
    half = einet.load(tmp_path / "half.safetensors")
    assert (half(x.to(dtype), observed) - model(x.to(dtype), observed)).abs().mean() < 0.2
    with pytest.raises(RuntimeError, match="another model"):
        Einet(TREES, {MultivariateNormal(1e-2): [0, 1, 2], Normal(): [3, 4, 5]}, num_sums=3).load_state_dict(
            model.state_dict()
        )


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_files_with_wrong_parameters_are_refused(tmp_path, value):
    model = gaussian_mixture(3, 2)
    model.leaves.parts[0].phi.data[3] = value  # the first number of the factor
    with pytest.raises(ValueError, match="outside what MultivariateNormal"):
        einet.save(model, tmp_path / "model.safetensors")
    model = gaussian_mixture(3, 2)
    model.leaves.parts[0].phi.data[3] = 1e-4  # below the root of the floor, 1e-6
    with pytest.raises(ValueError, match="outside what MultivariateNormal"):
        einet.save(model, tmp_path / "model.safetensors")


# Mistakes


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"channels": 2}, "channels of a MultivariateNormal must be 1, got 2"),
        ({"channels": 0}, "channels"),
        ({"min_variance": 0.0}, "need 0 < min_variance, got 0.0"),
        ({"min_variance": -1.0}, "need 0 < min_variance"),
        ({"min_variance": math.nan}, "need 0 < min_variance"),
        ({"min_variance": math.inf}, "need 0 < min_variance"),
    ],
)
def test_limits(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MultivariateNormal(**arguments)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite(value):
    model, (x, observed) = gaussian_mixture(3, 2), rows(5, 3)
    x[2, 1] = value
    with pytest.raises(ValueError, match="a normal variable must be finite"):
        model(x)
    observed[2, 1] = False
    assert model(x, observed).isfinite().all()
    assert einet.sample_conditional(model, x, observed).isfinite().all()


def test_a_channel_more_beside_it_is_refused():
    with pytest.raises(ValueError, match="equally many channels"):
        Einet(TREES, {MultivariateNormal(): [0, 1, 2], Normal(channels=3): [3, 4, 5]})


def test_pages_do_not_know_it():
    model = Einet(einet.poon_domingos((2, 3), 1), MultivariateNormal(), num_sums=2, seed=0)
    with pytest.raises(ValueError, match="is not one of the families"):
        einet.inpaint.circuit.check_images(model)


def test_on_the_meta_device_it_has_a_shape():
    with torch.device("meta"):
        model = Einet(TREES, MultivariateNormal(), num_sums=2)
        assert model(torch.empty(7, 6), torch.ones(7, 6, dtype=torch.bool)).shape == (7,)
