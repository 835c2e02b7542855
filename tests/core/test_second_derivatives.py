"""Derivatives of the second order: Hessians, products with them, penalties on gradients; `torch.func`.

What is right is the difference of gradients, which other tests hold to be right.
"""

import pytest
import torch
from strategies import in_float64, rows

import einet
from einet import Bernoulli, Binomial, Categorical, Einet, Mixture, Normal, poon_domingos, random_binary_trees
from einet.family import ExponentialFamily
from einet.layers.derivatives import parts
from einet.layers.scaled import Scaled
from einet.layers.sums import EinsumLayer

TREES = random_binary_trees(4, 2, 2, seed=0)
GRID = poon_domingos((2, 2), 1)
MIXED = {Normal(): [0], Bernoulli(): [1], Categorical(categories=3): [2], Binomial(total=3): [3]}


class OwnNormal(Normal):
    """A user's family that leaves `score` to autograd."""

    score = ExponentialFamily.score


def _model(graph=TREES, leaf=None, **arguments):
    return in_float64(Einet(graph, leaf or Normal(), **{"num_sums": 2, "seed": 0, **arguments}))


MODELS = {
    "trees": _model,
    "two lengths": lambda: _model(num_leaves=3),
    "rectangles": lambda: _model(GRID),
    "classes": lambda: _model(GRID, Bernoulli(), num_classes=2),
    "looked up": lambda: _model(leaf=Categorical(categories=3)),
    "mixed": lambda: _model(GRID, MIXED),
    "channels": lambda: _model(random_binary_trees(2, 1, 1, seed=0), Normal(channels=2)),
    "no depth": lambda: _model(random_binary_trees(2, 0, 1, seed=0)),
    "own": lambda: _model(random_binary_trees(2, 1, 1, seed=0), OwnNormal()),
    "mixture": lambda: Mixture([_model(seed=seed) for seed in (0, 1)], [0.3, 0.7]),
    "unconstrained": lambda: einet.unconstrained(_model(GRID, MIXED)),
}
OBSERVED = {"all": None, "shared": torch.arange(4) != 1, "each": torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0]]).bool()}


def as_function(model, observed=None):
    """(x, *parameters) -> log-densities, and the parameters."""
    names = [name for name, _ in model.named_parameters()]

    def log_density(x, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, given, (x, observed, False))

    return log_density, [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]


def rows_of(model, count=2):
    network = getattr(model, "components", [model])[0]
    return rows(network, count)


def assert_the_same_gradients(value, inputs):
    """By plain operations and by the fast ways, which other tests hold to be right."""
    plain = torch.autograd.grad(value.sum(), inputs, create_graph=True)
    for one, other in zip(plain, torch.autograd.grad(value.sum(), inputs), strict=True):
        torch.testing.assert_close(one.detach(), other)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_second_derivatives_are_differences_of_first_ones(name):
    """By rows and parameters at once, cross terms included."""
    model = MODELS[name]()
    function, parameters = as_function(model)
    x = rows_of(model).requires_grad_(name in ("trees", "rectangles", "channels", "own", "mixture"))
    assert_the_same_gradients(function(x, *parameters), [each for each in (x, *parameters) if each.requires_grad])
    assert torch.autograd.gradgradcheck(function, (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("name", ["trees", "mixed", "looked up"])
@pytest.mark.parametrize("mask", OBSERVED)
@pytest.mark.slow
def test_second_derivatives_where_entries_are_missing(name, mask):
    model = MODELS[name]()
    function, parameters = as_function(model, OBSERVED[mask])
    x = rows_of(model).requires_grad_(name == "trees")
    assert torch.autograd.gradgradcheck(function, (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.slow
def test_second_derivatives_of_log_einsum_exp(fast):
    shapes = ((2, 3, 2, 4), (2, 2, 3), (2, 4, 3))
    arguments = [torch.rand(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    assert torch.autograd.gradgradcheck(lambda *a: einet.log_einsum_exp(*a, fast=fast), arguments)


def test_a_tensor_that_is_both_children():
    layer, scale = EinsumLayer(2, 3, 2, 2).double(), torch.zeros(2, 3, dtype=torch.float64)
    weights = torch.rand(2, 3, 4, dtype=torch.float64).requires_grad_()
    value = torch.rand(2, 2, 3, dtype=torch.float64).requires_grad_()

    def log_sums(weights, value):
        child = Scaled(value, scale)
        return torch.func.functional_call(layer, {"weights": weights}, (child, child)).log()

    assert_the_same_gradients(log_sums(weights, value), (weights, value))
    assert torch.autograd.gradgradcheck(log_sums, (weights, value))


def test_third_derivatives():
    model = MODELS["rectangles"]()
    x = rows_of(model, 1).requires_grad_()

    def slope(x):
        (first,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return first.pow(2).sum()

    assert torch.autograd.gradgradcheck(slope, (x,), fast_mode=True)


def hessian_by_differences(model, x, step=1e-5):
    def gradient(at):
        at = at.clone().requires_grad_()
        return torch.autograd.grad(model(at).sum(), at)[0].flatten()

    steps = step * torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)
    return torch.stack([(gradient(x + s) - gradient(x - s)) / (2 * step) for s in steps])


@pytest.mark.parametrize("name", ["trees", "rectangles", "mixture"])
def test_every_way_of_asking(name):
    model = MODELS[name]()
    x = rows_of(model, 1)
    right, functional = hessian_by_differences(model, x), torch.autograd.functional

    def total(rows):
        return model(rows).sum()

    close = {"rtol": 1e-6, "atol": 1e-7}
    torch.testing.assert_close(functional.hessian(total, x).view(4, 4), right, **close)
    with pytest.raises(RuntimeError, match="Batching rule not implemented"):  # not done, and not done wrong
        functional.hessian(total, x, vectorize=True)
    direction = torch.tensor([[1.0, -2.0, 0.5, 3.0]], dtype=torch.float64)
    for product in (functional.hvp, functional.vhp):
        torch.testing.assert_close(product(total, x, direction)[1][0], right @ direction[0], **close)

    def gradient(rows):
        return torch.autograd.grad(total(rows), rows, create_graph=True)[0]

    torch.testing.assert_close(functional.jacobian(gradient, x).view(4, 4), right, **close)
    at = x.clone().requires_grad_()
    slope = gradient(at)
    slope.pow(2).sum().backward()  # a penalty on the gradient
    torch.testing.assert_close(at.grad[0], 2 * right @ slope.detach()[0], **close)
    (along,) = functional.jvp(total, x, direction)[1:]
    torch.testing.assert_close(along, (slope.detach() * direction).sum(), **close)


def test_a_penalty_on_the_gradient_of_a_batch_reaches_the_parameters():
    """In float32, on several levels: d/dphi of |d log p/dx|^2 against a difference in float64."""
    model = Einet(random_binary_trees(16, 3, 3, seed=0), Normal(), num_sums=3, seed=0)
    x = torch.randn(5, 16)

    def penalty(model, x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(model(x).sum(), x, create_graph=True)[0].pow(2).sum()

    for layer in (model.leaves.parts[0], model.levels[1].einsums[0]):
        parameter = next(layer.parameters())
        (found,) = torch.autograd.grad(penalty(model, x), parameter)
        direction = torch.randn(parameter.shape)
        ends = []
        for sign in (1e-4, -1e-4):
            moved = _model(model.graph, num_sums=3)
            moved.load_state_dict(model.state_dict())
            own = dict(moved.named_parameters())[next(n for n, p in model.named_parameters() if p is parameter)]
            own.data += sign * direction
            ends.append(penalty(moved, x.double()))
        expected = (ends[0] - ends[1]) / 2e-4
        torch.testing.assert_close((found * direction).sum().double(), expected.detach(), rtol=1e-4, atol=1e-4)


# torch.func


@pytest.mark.filterwarnings("ignore")  # torch warns of its own doings
@pytest.mark.parametrize("name", ["trees", "rectangles", "mixed", "looked up", "mixture", "classes"])
def test_transforms(name):
    model = MODELS[name]()
    x = rows_of(model, 3)
    function, parameters = as_function(model)
    expected = function(x, *parameters)
    one_by_one = torch.vmap(lambda row: function(row[None], *parameters)[0])(x)
    torch.testing.assert_close(one_by_one, expected)

    every = tuple(range(1, len(parameters) + 1))
    found = torch.func.grad(lambda *a: function(*a).sum(), every)(x, *parameters)
    for one, other in zip(found, torch.autograd.grad(expected.sum(), parameters), strict=True):
        torch.testing.assert_close(one, other)
    if name in ("trees", "rectangles", "mixture"):
        each = torch.vmap(torch.func.hessian(lambda row: function(row[None], *parameters)[0]))(x)
        right = torch.stack([hessian_by_differences(model, row[None]) for row in x])
        torch.testing.assert_close(each, right, rtol=1e-6, atol=1e-7)


def test_transforms_that_look_at_values_say_so():
    model = MODELS["trees"]()
    with pytest.raises(ValueError, match="check=False"):
        torch.vmap(lambda row: model(row[None]))(rows_of(model))
    x = rows_of(model)
    found = torch.func.grad(lambda rows: model(rows).sum())(x)  # here values can be seen
    torch.testing.assert_close(found, torch.autograd.functional.jacobian(lambda rows: model(rows).sum(), x))


@pytest.mark.parametrize("order, copied", [((0, 1), False), ((1, 0), True), ((0, 0), True)])
def test_gradients_of_parts_come_together_in_their_order(order, copied):
    """Made side by side in one buffer they are that buffer; otherwise they are copied to where they belong."""
    buffer = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)

    class Given(torch.autograd.Function):
        @staticmethod
        def forward(ctx, left, right):
            return left + right

        @staticmethod
        def backward(ctx, gradient):
            return buffer[order[0]], buffer[order[1]]

    whole = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(Given.apply(*parts(whole, 2)).sum(), whole)
    assert gradient.tolist() == torch.cat([buffer[i] for i in order]).tolist()
    assert (gradient.data_ptr() != buffer.data_ptr()) == copied
