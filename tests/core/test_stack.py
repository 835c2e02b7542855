"""Networks of thin layers in one operation: the same numbers as level by level, and when levels go one by one."""

import copy
import math

import pytest
import torch
from enumeration import MANY, MIXED
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import DISCRETE, examples, in_float64, masks, models, rows
from torch import nn

import einet
from einet import EM, Bernoulli, Categorical, Einet, Normal, random_binary_trees
from einet.families.discrete import Binomial

CLOSE = {"rtol": 1e-12, "atol": 1e-12}
# A region and a leaf with two parents each, in one partition of the root each; leaves at all heights.
SHARED = einet.RegionGraph(
    [range(6), {0, 1, 2}, {0, 1}, {2}, {0}, {1}, {3, 4, 5}, {3}, {4, 5}, {4}, {5}],
    [(0, 1, 6), (0, 2, 3, 7, 8), (1, 2, 3), (2, 4, 5), (6, 7, 8), (8, 9, 10)],
)


def learned(num_trees=1):
    x = torch.randint(2, (60, 9), generator=torch.Generator().manual_seed(0))
    x[:, 1::2] |= x[:, ::2][:, :4]
    return einet.chow_liu(x, num_trees=num_trees)


def star():
    return einet.RegionGraph([range(40), *({d} for d in range(40))], [range(41)])


NETWORKS = {
    "several trees below a root": lambda: thin(random_binary_trees(6, 2, 3, seed=0), MIXED),
    "of uneven depth": lambda: thin(random_binary_trees(7, 3, 2, seed=0), Normal()),
    "classes": lambda: thin(random_binary_trees(6, 2, 3, seed=0), MIXED, num_classes=3),
    "a learned tree": lambda: thin(learned(), Bernoulli()),
    "three learned trees": lambda: thin(learned(3), Categorical(categories=2), num_classes=2),
    "regions of several parents": lambda: thin(SHARED, MIXED),
    "one level": lambda: thin(star(), Normal()),
    "no level": lambda: thin(random_binary_trees(3, 0, 1), Bernoulli()),
    "a single entry": lambda: thin(learned(), Bernoulli(), num_sums=1),
}


def thin(graph, leaf, num_sums=4, **arguments):
    return in_float64(Einet(graph, leaf, num_sums=num_sums, sum_product="cp", seed=0, **arguments))


def by_level(model):
    """The same model, without its stack."""
    other = copy.deepcopy(model)
    other.stack = None
    return other


def answers(model, x, observed=None):
    """Log-densities, and the gradients of their weighted sum by the rows and by all parameters."""
    x = x.clone().requires_grad_()
    log_density = model(x, observed)
    factors = torch.linspace(0.5, 2, log_density.numel(), dtype=x.dtype).view_as(log_density)
    inputs = [x, *model.parameters()]  # of which categories have no gradient by their rows
    return [log_density, *torch.autograd.grad((log_density * factors).sum(), inputs, materialize_grads=True)]


def assert_same(model, x, observed=None):
    for one, other in zip(answers(model, x, observed), answers(by_level(model), x, observed), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, **CLOSE)  # the gradient by a probability of 0


def is_in_one(model, x):
    """Whether the stack computes this batch."""
    leaves = model.leaves(*model.as_input(x, None))
    return model.stack is not None and model.stack.sums(leaves) is not None


# The same numbers


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_gradients_are_those_of_the_levels(name, missing):
    model = NETWORKS[name]()
    x = rows(model, 7)
    assert is_in_one(model, x)
    assert_same(model, x, masks(model, 7) if missing else None)


@given(models(families=(*DISCRETE, Normal()), thin=st.just(3)))
@examples(80)
def test_any_network_that_is_one_stack(model):
    assume(model.stack is not None)
    assert_same(model, rows(model, 4), masks(model, 4))


@pytest.mark.parametrize("name", NETWORKS)
def test_float32_is_as_near_to_float64_as_level_by_level(name):
    exact = NETWORKS[name]()
    model, x = copy.deepcopy(exact).float(), rows(exact, 20)
    for one, other in zip(answers(model, x.float()), answers(exact, x), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_of_em_moves_it_as_level_by_level(name):
    model = NETWORKS[name]()
    other, x, observed = by_level(model), rows(model, 9), masks(model, 9)
    for each in (model, other):
        em = EM(each, lr=0.5, pseudocount=0.1)
        for _ in range(2):
            em.zero_grad()
            each(x, observed).sum().backward()
            em.step()
    for one, parameter in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, parameter, **CLOSE)


def test_weights_that_are_moved_together_or_one_by_one(monkeypatch):
    moved = []
    for cache in (0, 20, 10**6):
        monkeypatch.setattr("einet.em.CACHE_NUMEL", cache)
        model = NETWORKS["a learned tree"]()
        model(rows(model, 9)).sum().backward()
        EM(model, lr=0.5).step()
        moved.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(moved[0], moved[1]) and torch.equal(moved[1], moved[2])


def test_the_first_derivative_is_asked_for_twice_and_the_second_once():
    model = NETWORKS["regions of several parents"]()
    log_density = model(rows(model, 3)).sum()
    first = torch.autograd.grad(log_density, [*model.parameters()], retain_graph=True)
    again = torch.autograd.grad(log_density, [*model.parameters()], create_graph=True)
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    model = thin(SHARED, Normal(), num_sums=2)
    x = rows(model, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, *_: model(x), (x, *model.parameters()))


def test_weights_that_change_before_the_gradient_are_noticed():
    model = NETWORKS["a learned tree"]()
    log_density = model(rows(model, 3)).sum()
    with torch.no_grad():
        model.levels[0].einsums[0].weights.mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        log_density.backward()


def test_a_copy_has_a_stack_of_its_own():
    model = NETWORKS["a learned tree"]()
    other, x = copy.deepcopy(model), rows(model, 3)
    with torch.no_grad():
        for layer in other.sum_layers():
            layer.weights.copy_(layer.weights.flip(2))
    assert is_in_one(other, x) and not torch.allclose(model(x), other(x))
    assert_same(other, x)


# Where levels go one by one


def test_what_is_impossible_goes_level_by_level():
    model = thin(random_binary_trees(4, 2, 2, seed=0), Categorical(categories=3))
    (part,) = model.leaves.parts
    with torch.no_grad():
        part.phi[2] = 0
        part.phi /= part.phi.sum(0)
        part.phi[0, :, :, 0], part.phi[1, :, :, 0] = 1, 0  # some entries rule out what others allow
    impossible = torch.tensor([[1.0, 0, 1, 0], [2, 0, 0, 0]], dtype=torch.float64)
    possible = impossible[:1]
    assert is_in_one(model, possible) and not is_in_one(model, impossible)
    assert_same(model, possible)
    assert model(impossible).tolist() == [pytest.approx(model(possible).item(), rel=1e-12), -torch.inf]


def test_a_sum_of_0_has_exact_gradients_of_its_weights():
    """S_0 = 1 u_0 + 0 u_1 where u_0 is 0: its weight of 0 has a gradient, which no quotient by S_0 shows."""
    chain = einet.RegionGraph([range(3), {0}, {1, 2}, {1}, {2}], [(0, 1, 2), (2, 3, 4)])
    model = thin(chain, Bernoulli(), num_sums=2)
    lower, upper = model.sum_layers()
    (part,) = model.leaves.parts
    with torch.no_grad():
        lower.weights.copy_(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
        upper.weights.fill_(0.5)
        part.phi.fill_(0.5)
        part.phi[..., 0] = torch.where(part.pairs == 1, 0, 0.5)[None, :, None]
    x = torch.ones(1, 3, dtype=torch.float64)
    assert not is_in_one(model, x)
    model(x).sum().backward()
    # P(x) = 1/2 sum_k 1/2 S_k with S = W (0, 1/4), so dP/dW = 1/4 (0, 1/4) for both k, and P = 1/16.
    torch.testing.assert_close(lower.weights.grad, torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]).double(), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_that_would_underflow(dtype):
    """Four vectors of (1, 1e-20) and (1e-20, 1), times the leaves' 1/2: both entries of their product are 1e-40."""
    regions = [range(8), *({2 * i, 2 * i + 1} for i in range(4)), *({d} for d in range(8))]
    graph = einet.RegionGraph(regions, [(0, 1, 2, 3, 4), *((1 + i, 5 + 2 * i, 6 + 2 * i) for i in range(4))])
    model = thin(graph, Bernoulli(), num_sums=2).to(dtype)
    lower, upper = model.sum_layers()
    with torch.no_grad():
        model.leaves.parts[0].phi.fill_(0.5)
        lower.weights.copy_(0.5 * torch.tensor([[1, 1e-20], [1e-20, 1], [1, 1e-20], [1e-20, 1]])[..., None])
        upper.weights.copy_(torch.tensor([[[0.25, 0.75]]]))
    x = torch.zeros(1, 8, dtype=dtype)
    assert is_in_one(model, x)
    log_density = model(x)
    assert log_density.item() == pytest.approx(-8 * math.log(2) - 40 * math.log(10), rel=1e-6)
    log_density.sum().backward()
    assert upper.weights.grad.flatten().tolist() == pytest.approx([1, 1])
    assert lower.weights.grad[0].tolist() == [pytest.approx([0.25] * 2), pytest.approx([0.75e20] * 2)]


def test_networks_that_are_more_than_a_stack():
    """Mixtures below the root, layers of pairs, and vectors of two lengths go level by level."""
    for model in (
        thin(einet.poon_domingos((2, 4), 1), Bernoulli()),
        Einet(random_binary_trees(4, 1, 2), Bernoulli()),
        thin(MANY, MIXED),
    ):
        assert not is_in_one(model, rows(model, 2).to(next(model.parameters()).dtype))


def test_transforms_and_a_compiler_go_level_by_level(monkeypatch):
    model = thin(learned(), Binomial(total=2))
    x = rows(model, 3)
    expected = answers(model, x)[1]
    monkeypatch.setattr("einet.layers.stack._computed", None)  # whoever calls it fails
    factors = torch.linspace(0.5, 2, 3, dtype=x.dtype)
    by_row = torch.func.vmap(torch.func.grad(lambda row: model(row[None], check=False)[0]))(x)
    torch.testing.assert_close(by_row * factors[:, None], expected, **CLOSE)
    with pytest.raises(TypeError):
        model(x)


@pytest.mark.parametrize("size, stacked", [(20, True), (2000, False)])
def test_a_root_of_many_partitions_makes_no_table_of_all_by_all(size, stacked):
    """As a file may have it: one leaf in `size` partitions, beside a leaf each. Above a limit, levels go one by one."""
    graph = einet.RegionGraph([[0], *[[1]] * size, [0, 1]], [(size + 1, 0, i + 1) for i in range(size)])
    model = einet.Einet(graph, einet.Bernoulli(), num_sums=1, seed=0, sum_product="cp")
    assert (model.stack is not None) == stacked
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(model(x).exp().sum(), torch.tensor(1.0))
