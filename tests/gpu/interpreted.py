"""The kernels in Triton's interpreter. `test_kernels.py` runs this file, in a process with TRITON_INTERPRET=1."""

import pytest
import torch

import einet
from einet import Einet, poon_domingos, random_binary_trees, set_precision
from einet.gpu import kernels
from einet.layers.scaled import Gathered, Scaled
from einet.layers.sums import PRECISIONS, EinsumLayer

# (K_left, K_right, K_out, L, B), batches and layers odd, and not a multiple of a tile in sight
SIZES = [(1, 1, 1, 3, 5), (7, 7, 7, 3, 17), (10, 10, 10, 5, 37), (16, 16, 16, 1, 33), (40, 40, 40, 1, 3)]
SIZES += [(64, 64, 64, 1, 1), (10, 7, 3, 3, 9), (3, 20, 10, 3, 1), (10, 1, 4, 1, 7), (3, 4, 2, 3, 131)]


def segments(rows, length):
    offsets = [(rows < row).sum() for row in range(length + 1)]
    return torch.argsort(rows, stable=True), torch.stack(offsets)


def pool(length, entries, batch):
    """Vectors with their scales, which range over hundreds of nats; one entry of each is 1."""
    value = torch.rand(length, entries, batch)
    value /= value.amax(1, keepdim=True)
    return Scaled(value.requires_grad_(), 300 * torch.randn(length, batch, dtype=torch.float64))


def layer_of(size):
    num_left, num_right, num_out, num_nodes, _ = size
    layer = EinsumLayer(num_nodes, num_out, num_left, num_right)
    with torch.no_grad():
        layer.weights.copy_(torch.rand(layer.weights.shape))
        layer.weights /= layer.weights.sum(2, keepdim=True)
    return layer


def gathered(shared, size):
    """Children out of pools of another length and order; some are children twice, some never."""
    num_left, num_right, _, num_nodes, batch = size
    if shared:
        rows = torch.randint(5, (2 * num_nodes,))
        return Gathered([pool(5, num_left, batch)], [rows], [segments(rows, 5)], 2)
    rows = [torch.randint(length, (num_nodes,)) for length in (4, 3)]
    pools = [pool(4, num_left, batch), pool(3, num_right, batch)]
    return Gathered(pools, rows, [segments(r, len(p.value)) for p, r in zip(pools, rows, strict=True)], 2)


def everything(layer, children, precision, slope):
    """Value, log-scale, the log-densities, and the gradients of the weights and of all children."""
    layer.precision = precision
    value, log_scale = layer(children)
    inputs = (layer.weights, *(pool.value for pool in children.pools))
    gradients = torch.autograd.grad((value * slope).sum(), inputs)
    return value.detach(), log_scale, *gradients


def error(one, other):
    return ((one - other).norm() / other.norm().clamp_min(1e-30)).item()


@pytest.fixture(autouse=True)
def fused(monkeypatch):
    """How often the kernels were called: a test that never meets them shows nothing."""
    calls = []
    original = kernels.einsum
    monkeypatch.setattr(kernels, "einsum", lambda *arguments: calls.append(1) or original(*arguments))
    return calls


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_value_and_gradients(size, fused):
    layer = layer_of(size)
    slope = torch.randn(layer.weights.shape[0], size[2], size[4])
    for shared in (True, False) if size[0] == size[1] < 40 else (False,):
        children = gathered(shared, size)
        plain, ours = (everything(layer, children, precision, slope) for precision in (None, "ieee"))
        for name, one, other in zip(("value", "log_scale", "weights", "left", "right"), ours, plain, strict=False):
            assert error(one, other) < 3e-6, (name, shared)
        torch.testing.assert_close(ours[1], plain[1], rtol=0, atol=1e-5)
    assert fused


@pytest.mark.parametrize("seed", range(3))
def test_whole_pools_and_plain_vectors(seed, fused):
    """A tree's children are all of the pool, in order; a layer may also be given vectors as they are."""
    torch.manual_seed(seed)
    size = (5, 5, 5, 3, 7)
    layer, both = layer_of(size), pool(6, 5, 7)
    slope = torch.randn(3, 5, 7)
    as_it_is = Gathered([both], [torch.arange(6)], [None], 2)
    plain, ours = (everything(layer, as_it_is, precision, slope) for precision in (None, "ieee"))
    assert max(error(one, other) for one, other in zip(ours, plain, strict=True)) < 1e-6
    layer.precision = "ieee"
    torch.testing.assert_close(layer(*as_it_is.fetch()).value, ours[0])
    assert len(fused) == 2


@pytest.mark.parametrize("precision, most", [("ieee", 2e-6), ("tf32x3", 2e-6), ("bf16x3", 1e-4), ("tf32", 1e-3)])
def test_precision(precision, most):
    """Errors of a layer in nats, against float64. Rounding a factor to 11 bits costs most where there are few terms."""
    assert precision in PRECISIONS
    for size in ((10, 10, 10, 3, 17), (2, 2, 2, 5, 17)):
        layer, children = layer_of(size), gathered(False, size)
        layer.precision = precision
        ours = layer(children).log()
        left, right = (child.value.double() for child in children.fetch())
        weights = layer.weights.double().unflatten(2, size[:2])
        exact = torch.log(torch.einsum("lkij,lib,ljb->lkb", weights, left, right))
        exact += sum(child.log_scale for child in children.fetch())[:, None]
        assert (ours - exact).abs().max() < most


@pytest.mark.parametrize("shared", [True, False])
def test_second_derivatives(shared, fused):
    """Of a penalty on the gradients of pools that several nodes share, one of them no contiguous tensor."""
    size = (4, 4, 3, 3, 5)
    layer, children = layer_of(size), gathered(shared, size)
    turned = [pool.value.detach().transpose(1, 2).contiguous().requires_grad_() for pool in children.pools]
    found = []
    for precision in (None, "ieee"):
        layer.precision = precision
        scales = [pool.log_scale for pool in children.pools]
        pools = [Scaled(own.transpose(1, 2), scale) for own, scale in zip(turned, scales, strict=True)]
        value, _ = layer(children._replace(pools=pools))
        inputs = (layer.weights, *turned)
        first = torch.autograd.grad(value.log().sum(), inputs, create_graph=True)
        found.append(torch.autograd.grad(sum(each.pow(2).sum() for each in first), inputs))
    for ours, plain in zip(*reversed(found), strict=True):
        assert plain.norm() > 0 and error(ours, plain) < 1e-5
    assert fused


def test_two_runs_give_equal_bits():
    size = (7, 7, 5, 9, 21)
    layer, children = layer_of(size), gathered(True, size)
    slope = torch.randn(9, 5, 21)
    for precision in PRECISIONS:
        first, second = (everything(layer, children, precision, slope) for _ in range(2))
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_vector_of_zeros_stays_finite():
    layer, children = layer_of((3, 4, 2, 1, 2)), gathered(False, (3, 4, 2, 1, 2))
    with torch.no_grad():
        children.pools[0].value.zero_()
    value, log_scale = layer(children)
    assert (value == 0).all() and log_scale.isfinite().all()


@pytest.mark.parametrize("size", [(65, 2, 2, 1, 3), (2, 65, 2, 1, 3), (2, 2, 65, 1, 3)], ids=str)
def test_long_vectors_take_the_plain_path(size, fused):
    layer, children = layer_of(size), gathered(False, size)
    assert layer(children).value.shape == (1, size[2], 3)
    assert not fused


def test_float64_takes_the_plain_path(fused):
    model = Einet(random_binary_trees(4, 1, 1, seed=0), einet.Normal(), num_sums=2, seed=0).double()
    assert model(torch.randn(3, 4, dtype=torch.float64)).dtype == torch.float64
    assert not fused


def networks():
    yield "trees", Einet(random_binary_trees(8, 2, 3, seed=0), einet.Normal(), num_sums=4, num_leaves=3, seed=0)
    yield "grid", Einet(poon_domingos((2, 3), 1), einet.Bernoulli(), num_sums=5, seed=0)
    yield "classes", Einet(poon_domingos((2, 2), 1), einet.Bernoulli(), num_sums=2, num_classes=3, seed=0)
    yield "one leaf", Einet(random_binary_trees(2, 0, 1, seed=0), einet.Bernoulli(), num_sums=4, seed=0)


@pytest.mark.parametrize("name, model", list(networks()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_network_and_a_step_of_em(name, model, fused):
    """Log-densities, some entries missing, and all parameters after one step, against the plain path."""
    x = torch.randint(2, (5, model.graph.num_variables)).float()
    observed = torch.rand(x.shape) < 0.8
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = {}
    for precision in (None, "ieee", "bf16x3"):
        set_precision(model, precision)
        model.load_state_dict(start)
        em = einet.EM(model, lr=0.5, pseudocount=0.01)
        em.zero_grad()
        log_density = model(x, observed)
        log_density.sum().backward()
        em.step()
        found[precision] = [log_density.detach(), *(tensor.clone() for tensor in model.state_dict().values())]
    for precision, most in (("ieee", 1e-5), ("bf16x3", 5e-4)):
        for one, other in zip(found[precision], found[None], strict=True):
            torch.testing.assert_close(one, other, rtol=most, atol=most)
    assert fused or name == "one leaf"  # which is a sum of a leaf's entries, without any product


def test_the_m_step_alone():
    """Weights that nobody uses stay, and none falls below the floor: as in the plain way."""
    layer = layer_of((3, 3, 4, 5, 1))
    grad = torch.rand(layer.weights.shape)
    grad[0] = 0
    grad[:, :, 0] = 0
    for rate in (torch.tensor(1.0), torch.tensor([0.3, 0.1, 0.2, 0.0])[:, None]):
        moved = []
        for move in (einet.em._move_weights, kernels.move_weights):
            weights = layer.weights.detach().clone()
            weights.grad = grad
            move(weights, rate, 2, 0, 1e-20, 1e-12)
            moved.append(weights)
        torch.testing.assert_close(*moved)
        torch.testing.assert_close(moved[1][0], layer.weights.detach()[0])
        assert rate.dim() or (moved[1][1:, :, 0] == torch.tensor(1e-12)).all()


def test_layers_that_no_gradient_is_asked_of(fused):
    layer, children = layer_of((3, 3, 2, 3, 5)), gathered(True, (3, 3, 2, 3, 5))
    with torch.no_grad():
        value, _ = layer(children)
    assert not value.requires_grad and fused
