"""Marginals, conditionals and posteriors against enumeration, integration and Bayes' rule."""

import copy
import math

import pytest
import torch
from enumeration import MODELS, Table, labels_of, small_model
from hypothesis import given
from hypothesis import strategies as st
from oracle import all_masks
from strategies import DISCRETE, examples, in_float64, masks, models, region_graphs, rows

from einet import (
    Bernoulli,
    Categorical,
    Einet,
    Mixture,
    Normal,
    conditional_marginals,
    conditional_mean,
    conditional_variance,
    entropy,
    entropy_bounds,
    kl,
    log_conditional,
    log_marginal,
    mpe,
    poon_domingos,
    random_binary_trees,
)
from einet.queries import passes

CLOSE = dict(rtol=1e-9, atol=1e-9)
nan = float("nan")

small_models = models(families=DISCRETE, graphs=region_graphs(most_variables=4), classes=(1,))
binary_models = models(families=[Bernoulli()], graphs=region_graphs(most_variables=10, most_regions=12), classes=(1,))


def evidence_of(model, num_rows, seed=0):
    """Rows and masks, with NaN in whatever is missing."""
    x, observed = rows(model, num_rows, seed), masks(model, num_rows, seed)
    x[~observed] = nan
    return x, observed


def of_label(model, log_density):
    return log_density if model.num_classes == 1 else log_density[:, 1]


# Marginals and conditionals


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_marginals_are_sums_over_worlds(name):
    model, table = small_model(name), Table(small_model(name))
    for seed, observed in enumerate(all_masks(table.worlds.shape[1])[::7]):
        x = table.worlds[[seed % len(table.worlds)]].clone()
        x[:, ~observed] = nan
        expected = table.marginal(x[0], observed).log()
        torch.testing.assert_close(of_label(model, log_marginal(model, x, observed))[0], expected, **CLOSE)


@examples(25)
@given(st.sampled_from(sorted(MODELS)), st.integers(0, 99))
@pytest.mark.slow
def test_conditionals_are_quotients_of_sums_over_worlds(name, seed):
    model, table = small_model(name), Table(small_model(name))
    generator = torch.Generator().manual_seed(seed)
    x = table.worlds[torch.randint(len(table.worlds), (3,), generator=generator)].clone()
    role = torch.randint(3, x.shape, generator=generator)  # query, evidence, neither
    x[role == 2] = nan
    log_density = of_label(model, log_conditional(model, x, role == 0, role == 1))
    for row, r, found in zip(x, role, log_density, strict=True):
        expected = table.marginal(row, r < 2) / table.marginal(row, r == 1)
        torch.testing.assert_close(found, expected.log(), **CLOSE)


@examples(25)
@given(models(), st.integers(0, 9))
@pytest.mark.slow
def test_chain_rule_and_bayes_rule(model, seed):
    """log p(a, b) = log p(a) + log p(b | a) = log p(b) + log p(a | b), for any two disjoint sets."""
    x = rows(model, 4, seed)
    role = torch.randint(3, (4, model.graph.num_variables), generator=torch.Generator().manual_seed(seed))
    x[role == 2] = nan
    a, b = role == 0, role == 1
    joint = log_marginal(model, x, a | b)
    torch.testing.assert_close(log_marginal(model, x, a) + log_conditional(model, x, b, a), joint, **CLOSE)
    torch.testing.assert_close(log_marginal(model, x, b) + log_conditional(model, x, a, b), joint, **CLOSE)


@examples(15)
@given(small_models, st.integers(0, 9))
def test_conditionals_sum_to_one_over_the_query(model, seed):
    table, (x, observed) = Table(model), evidence_of(model, 1, seed)
    worlds = torch.where(observed, x, table.worlds)
    distinct = worlds.unique(dim=0)
    total = torch.logsumexp(log_conditional(model, distinct, ~observed[0], observed[0]), 0)
    torch.testing.assert_close(total, torch.zeros_like(total), **CLOSE)


def test_conditionals_of_one_and_two_normal_variables_integrate_to_one():
    model = in_float64(Einet(random_binary_trees(3, 1, 2, seed=1), Normal(), num_sums=3, seed=0))
    grid = torch.linspace(-9, 9, 301, dtype=torch.float64)
    step = grid[1] - grid[0]
    one = torch.cat((grid[:, None], torch.tensor([0.3, nan]).expand(301, 2)), 1).double()
    two = torch.cat((torch.cartesian_prod(grid, grid), torch.full((301**2, 1), 0.3)), 1).double()
    for x, query, evidence, cell in (
        (one, [True, False, False], [False, True, False], step),
        (two, [True, True, False], [False, False, True], step**2),
        (two, [True, True, False], [False, False, False], step**2),
    ):
        log_density = log_conditional(model, x, torch.tensor(query), torch.tensor(evidence))
        assert math.isclose((log_density.exp().sum() * cell).item(), 1, abs_tol=1e-9)


def test_log_marginal_is_the_forward_pass_in_portions(monkeypatch):
    model = small_model("rectangles").float()
    x, observed = rows(model, 50), masks(model, 50)
    whole = [model(x), model(x, observed), model(x, observed[0])]
    monkeypatch.setattr(passes, "CHUNK_NUMEL", 50)
    for found, expected in zip([log_marginal(model, x, o) for o in (None, observed, observed[0])], whole, strict=True):
        torch.testing.assert_close(found, expected.detach())
        assert not found.requires_grad


def test_masks_may_be_of_the_batch_of_a_row_or_of_the_grid():
    model = Einet(poon_domingos((2, 3), 1), Normal(channels=3), num_sums=2, seed=0)
    x = torch.randn(4, 2, 3, 3)
    query = torch.tensor([[True, False, False], [False, True, False]])
    evidence = torch.tensor([[False, True, False], [False, False, False]])
    expected = log_conditional(model, x, query, evidence)
    for q in (query, query.flatten(), query.expand(4, 2, 3), query.flatten().expand(4, 6)):
        for e in (evidence, evidence.flatten(), evidence.expand(4, 2, 3), evidence.flatten().expand(4, 6)):
            for rows_ in (x, x.view(4, 6, 3)):
                torch.testing.assert_close(log_conditional(model, rows_, q, e), expected)


# Posteriors of variables


@pytest.mark.parametrize("name", MODELS)
def test_means_variances_and_probabilities_are_those_of_the_enumerated_posterior(name):
    model, table = small_model(name), Table(small_model(name))
    x = table.worlds[::97].clone()
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    observed[0] = False
    x[~observed] = nan
    arguments = (model, x, observed, *labels_of(model).values())
    mean, variance = conditional_mean(*arguments), conditional_variance(*arguments)
    marginals = conditional_marginals(*arguments)
    torch.testing.assert_close(marginals.mean(), mean, **CLOSE)
    torch.testing.assert_close(marginals.variance(), variance, **CLOSE)
    probabilities = marginals.probabilities()
    values = torch.arange(probabilities.shape[-1])
    for b, (row, mask) in enumerate(zip(x, observed, strict=True)):
        posterior = table.given(row, mask)
        expected = posterior @ table.worlds
        torch.testing.assert_close(mean[b], expected, **CLOSE)
        torch.testing.assert_close(variance[b], posterior @ (table.worlds - expected) ** 2, **CLOSE)
        of_values = torch.einsum("w,wdv->dv", posterior, (table.worlds[..., None] == values).double())
        torch.testing.assert_close(probabilities[b], of_values, **CLOSE)
    for value in (0.0, 1.0):
        torch.testing.assert_close(marginals.log_density(value).exp(), probabilities[..., int(value)], **CLOSE)


@examples(10)
@given(binary_models, st.integers(0, 9))
def test_posteriors_on_random_graphs(model, seed):
    table, (x, observed) = Table(model), evidence_of(model, 2, seed)
    mean = conditional_mean(model, x, observed)
    for b in range(2):
        torch.testing.assert_close(mean[b], table.given(x[b], observed[b]) @ table.worlds, **CLOSE)


@examples(20)
@given(models(), st.integers(0, 9))
@pytest.mark.slow
def test_posterior_density_is_the_conditional_of_one_variable(model, seed):
    """`log_density` for all variables at once, against Eq. (1) for each; an observed one is a point mass."""
    x, observed = evidence_of(model, 3, seed)
    at = rows(model, 3, seed + 1)
    labels = None if model.num_classes == 1 else torch.tensor([0, 2, 1])
    found = conditional_marginals(model, x, observed, labels).log_density(at)
    for d in range(model.graph.num_variables):
        query = torch.zeros_like(observed)
        query[:, d] = ~observed[:, d]
        expected = log_conditional(model, torch.where(query, at, x), query, observed)
        expected = expected if labels is None else expected.gather(1, labels[:, None])[:, 0]
        point = torch.where(at[:, d] == x[:, d], 0.0, -torch.inf)
        torch.testing.assert_close(found[:, d], torch.where(observed[:, d], point, expected), **CLOSE)


@pytest.mark.parametrize("mixture", [False, True])
def test_moments_of_normal_variables_by_integration(mixture):
    networks = [Einet(random_binary_trees(3, 1, 2, seed=s), Normal(), num_sums=3, seed=s).double() for s in (1, 2)]
    model = Mixture(list(map(in_float64, networks)), [0.3, 0.7]).double() if mixture else in_float64(networks[0])
    x, observed = torch.tensor([[nan, 0.7, nan]], dtype=torch.float64), torch.tensor([False, True, False])
    grid = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    marginals = conditional_marginals(model, x.expand(4001, 3), observed)
    density = marginals.log_density(grid[:, None]).exp() * (grid[1] - grid[0])  # (values, D)
    mean, variance = conditional_mean(model, x, observed)[0], conditional_variance(model, x, observed)[0]
    for d in (0, 2):
        assert math.isclose(density[:, d].sum().item(), 1, abs_tol=1e-9)
        assert math.isclose((density[:, d] * grid).sum().item(), mean[d].item(), abs_tol=1e-9)
        assert math.isclose((density[:, d] * (grid - mean[d]) ** 2).sum().item(), variance[d].item(), abs_tol=1e-9)
    assert mean[1] == 0.7 and variance[1] == 0


def test_channels_and_grids():
    model = in_float64(Einet(poon_domingos((2, 3), 1), Normal(channels=3), num_sums=2, seed=0))
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    observed = torch.tensor([[True, False, True], [False, True, True]])
    x[:, ~observed] = nan
    mean, variance = conditional_mean(model, x, observed), conditional_variance(model, x, observed)
    assert mean.shape == variance.shape == x.shape
    assert torch.equal(mean[:, observed], x[:, observed]) and (variance[:, observed] == 0).all()
    assert (variance[:, ~observed] > 0).all()
    marginals = conditional_marginals(model, x, observed)
    at = torch.zeros_like(x)
    query = torch.zeros_like(observed)
    query[0, 1] = True
    expected = log_conditional(model, torch.where(query[..., None], at, x), query, observed)
    torch.testing.assert_close(marginals.log_density(at)[:, 1], expected, **CLOSE)


def test_mixed_families_and_probabilities():
    graph = random_binary_trees(4, 2, 2, seed=0)
    model = in_float64(Einet(graph, {Normal(): [1], Bernoulli(): [0, 3], Categorical(categories=4): [2]}, num_sums=2))
    x, observed = evidence_of(model, 5)
    probabilities = conditional_marginals(model, x, observed).probabilities()
    assert probabilities.shape == (5, 4, 4)
    assert probabilities[:, 1].isnan().all() and (probabilities[:, [0, 3], 2:] == 0).all()
    torch.testing.assert_close(probabilities[:, [0, 2, 3]].sum(2), torch.ones(5, 3, dtype=torch.float64), **CLOSE)


def test_a_small_variance_far_from_zero_is_exact_in_float32():
    model = Einet(random_binary_trees(4, 1, 2, seed=0), Normal(), num_sums=3, seed=0)
    with torch.no_grad():
        model.leaves.parts[0].phi[0] = 1000.0
        model.leaves.parts[0].phi[1] = 1e-4
    x, observed = torch.full((2, 4), 1000.0), torch.arange(4) < 2
    variance = conditional_variance(model, x, observed)[:, 2:]
    torch.testing.assert_close(variance, torch.full_like(variance, 1e-4), rtol=1e-5, atol=0)


@pytest.mark.slow
def test_portions_change_nothing(monkeypatch):
    model = small_model("mixture")
    x, observed = Table(model).worlds[:60], torch.arange(8) < 3
    whole = conditional_mean(model, x, observed), conditional_marginals(model, x, observed).log_density(1.0)
    monkeypatch.setattr(passes, "CHUNK_NUMEL", 50)
    monkeypatch.setattr("einet.queries.marginals.CHUNK_NUMEL", 50)
    monkeypatch.setattr("einet.leaves.factorised.CHUNK_NUMEL", 50)
    parts = conditional_mean(model, x, observed), conditional_marginals(model, x, observed).log_density(1.0)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64])
def test_moments_are_floats_of_the_rows_precision(dtype):
    model = small_model("trees").float()
    x, observed = Table(model).worlds[:2].to(dtype), torch.arange(8) < 3
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert conditional_mean(model, x, observed).dtype == conditional_variance(model, x, observed).dtype == wanted


# State and errors


@pytest.mark.parametrize("name", ["trees", "mixture"])
def test_queries_leave_nothing_behind(name):
    model = small_model(name)
    x, observed = Table(model).worlds[:2], torch.arange(8) < 3
    before, attributes = copy.deepcopy(model.state_dict()), [set(vars(module)) for module in model.modules()]
    state = torch.random.get_rng_state()
    found = [
        log_marginal(model, x, observed),
        log_conditional(model, x, ~observed, observed),
        conditional_mean(model, x, observed),
        conditional_variance(model, x, observed),
        conditional_marginals(model, x, observed).probabilities(),
        *mpe(model, x, observed),
    ]
    entropy_bounds(model), entropy(model, 10), kl(model, model, 10)
    assert not any(tensor.requires_grad for tensor in found)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(new, before[name]) for name, new in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_query_and_evidence_may_not_overlap():
    model = small_model("trees")
    a, b = torch.arange(8) < 3, torch.arange(8) > 1
    with pytest.raises(ValueError, match="overlap, first in variable 2 of row 0"):
        log_conditional(model, torch.zeros(2, 8), a, b)
    b = b & torch.tensor([[False], [True]])
    with pytest.raises(ValueError, match="overlap, first in variable 2 of row 1"):
        log_conditional(model, torch.zeros(2, 8), a, b)


@pytest.mark.parametrize("query", [conditional_mean, conditional_variance, conditional_marginals, mpe])
def test_bad_input(query):
    model, x, observed = small_model("classes"), torch.zeros(2, 8), torch.arange(8) < 3
    for arguments, message in (
        ((x, observed), "has 3"),
        ((x, observed, 3), "from 0 to 2"),
        ((x, observed, torch.tensor([0, 1, 2])), "one integer or 2"),
        ((x, None, 0), "observed must be a bool tensor, got None"),
        ((x, observed.long(), 0), "observed must be a bool tensor, got torch.int64"),
        ((x, observed[:4], 0), "observed must have shape"),
        ((x[:, :4], observed, 0), "x must have shape"),
        ((x + 0.5, observed, 0), "must be 0 or 1, got 0.5"),
        ((x[:0], observed, 0), "empty batch"),
    ):
        with pytest.raises(ValueError, match=message):
            query(model, *arguments)


def test_bad_values_for_a_posterior():
    marginals = conditional_marginals(small_model("trees"), torch.zeros(2, 8), torch.arange(8) < 3)
    with pytest.raises(ValueError, match="must broadcast to the rows' shape"):
        marginals.log_density(torch.zeros(3, 8))
    with pytest.raises(ValueError, match="must be 0 or 1, got 2"):
        marginals.log_density(2.0)
    model = Einet(random_binary_trees(2, 1, 1), Normal(), num_sums=2)
    with pytest.raises(ValueError, match="this model has none"):
        conditional_marginals(model, torch.zeros(1, 2), torch.tensor([True, False])).probabilities()


def test_evidence_of_density_zero():
    model = Einet(random_binary_trees(4, 1, 1, seed=0), Categorical(categories=2), num_sums=2, seed=0)
    with torch.no_grad():
        model.leaves.parts[0].phi[1] = 0.0
    x, observed = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0]]), torch.arange(4) < 1
    for query in (conditional_mean, conditional_marginals, lambda m, x, o: log_conditional(m, x, ~o, o)):
        with pytest.raises(ValueError, match="row 1 has density 0"):
            query(model, x, observed)
