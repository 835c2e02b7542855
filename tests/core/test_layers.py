"""The layers one at a time, each against its formula in plain torch."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from oracle import log_density
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import einet.layers.scratch
from einet import Bernoulli, Binomial, Categorical, Normal, log_einsum_exp
from einet.layers.scaled import Gathered, Scaled
from einet.layers.scratch import node_slices, scratch
from einet.layers.sums import EinsumLayer, MixingLayer, normalized_
from einet.leaves import LeafLayer


def random_weights(*shape, over):
    weights = torch.rand(shape, dtype=torch.float64) + 1e-3
    return weights / weights.sum(over, keepdim=True)


def random_scaled(*shape):
    """Vectors whose largest entry is 1, at scales far apart."""
    value = torch.rand(shape, dtype=torch.float64)
    return Scaled(value / value.amax(1, keepdim=True), 1000 * torch.randn(shape[0], shape[2], dtype=torch.float64))


def log(scaled):
    return torch.log(scaled.value) + scaled.log_scale[:, None]


# log_einsum_exp

#         nodes, K_out, K, K', batch
SHAPES = [(1, 1, 1, 1, 1), (3, 2, 4, 5, 6), (7, 5, 1, 3, 2), (20, 4, 6, 6, 9)]


def einsum_arguments(nodes, num_out, num_left, num_right, batch, dtype=torch.float64, scale=1.0, shift=0.0):
    weights = random_weights(nodes, num_out, num_left, num_right, over=(2, 3))
    left = shift + scale * torch.randn(nodes, num_left, batch, dtype=torch.float64)
    right = shift + scale * torch.randn(nodes, num_right, batch, dtype=torch.float64)
    return [tensor.to(dtype).requires_grad_() for tensor in (weights, left, right)]


@pytest.mark.parametrize("fast", [True, False])
def test_log_einsum_exp_is_the_log_of_the_sum(fast):
    """The formula without any trick, where numbers are small enough for it."""
    weights, left, right = einsum_arguments(3, 2, 4, 5, 6)
    expected = torch.log((weights[..., None] * (left[:, None, :, None] + right[:, None, None]).exp()).sum((2, 3)))
    torch.testing.assert_close(log_einsum_exp(weights, left, right, fast=fast), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (5.0, -1e3), (0.1, -1e5), (1.0, 1e4)])
def test_fast_and_plain_agree_in_value_and_gradient(shape, dtype, tolerance, scale, shift):
    """Up to the rounding of the log-densities themselves, which in float32 are 0.008 apart at -1e5."""
    arguments = einsum_arguments(*shape, dtype, scale, shift)
    fast, plain = (log_einsum_exp(*arguments, fast=fast) for fast in (True, False))
    assert fast.dtype == plain.dtype == dtype
    torch.testing.assert_close(fast, plain, rtol=max(tolerance, 4 * torch.finfo(dtype).eps), atol=tolerance)
    for one, other in zip(*(torch.autograd.grad(out.sum(), arguments) for out in (fast, plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("fast", [True, False])
def test_gradient_of_log_einsum_exp_is_a_finite_difference(fast):
    arguments = einsum_arguments(2, 3, 2, 4, 3)
    assert torch.autograd.gradcheck(lambda *a: log_einsum_exp(*a, fast=fast), arguments)


@pytest.mark.parametrize("cache", [1, 100, 10**9])
def test_slices_of_nodes_do_not_show(monkeypatch, cache):
    """One node at a time, a few, or all in one: a last portion that is smaller than the others included."""
    arguments = einsum_arguments(7, 3, 4, 4, 5)
    expected = log_einsum_exp(*arguments, fast=False)
    monkeypatch.setattr(einet.layers.sums, "CACHE_NUMEL", cache)
    torch.testing.assert_close(log_einsum_exp(*arguments), expected)
    for one, other in zip(
        torch.autograd.grad(log_einsum_exp(*arguments).sum(), arguments),
        torch.autograd.grad(expected.sum(), arguments),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_impossible_children_are_impossible_not_nan():
    weights, left, right = einsum_arguments(1, 2, 3, 3, 2)
    with torch.no_grad():
        left[:, :, 0] = -math.inf
        left[:, 1, 1] = -math.inf
    out = log_einsum_exp(weights, left, right)
    assert out[0, :, 0].tolist() == [-math.inf] * 2
    assert out[0, :, 1].isfinite().all()


# Scaled


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaled_holds_what_no_float_could(dtype):
    """Values and scale are taken apart before anything is rounded."""
    log_density = torch.tensor([[[-123456.789, 0.0], [-123456.912, 5.0], [-123460.0, -2.0]]], dtype=torch.float64)
    scaled = Scaled.from_log(log_density, dtype)
    assert scaled.value.dtype == dtype
    assert scaled.value.amax(1).tolist() == [[1.0, 1.0]]
    torch.testing.assert_close(scaled.log(), log_density, rtol=0, atol=1e-6)


# Sums


@pytest.mark.parametrize("num_left, num_right", [(1, 1), (3, 3), (2, 4)])
def test_einsum_layer_is_the_formula(num_left, num_right):
    layer = EinsumLayer(5, 3, num_left, num_right).double()
    with torch.no_grad():
        layer.weights.copy_(random_weights(5, 3, num_left * num_right, over=2))
    left, right = random_scaled(5, num_left, 7), random_scaled(5, num_right, 7)
    weights = layer.weights.unflatten(2, (num_left, num_right))
    expected = torch.log(torch.einsum("lkij,lib,ljb->lkb", weights, left.value, right.value))
    out = layer(left, right)
    torch.testing.assert_close(log(out), expected + (left.log_scale + right.log_scale)[:, None])
    torch.testing.assert_close(out.value.amax(1), torch.ones(5, 7, dtype=torch.float64))


def test_einsum_layer_fetches_both_children_from_one_pool():
    layer = EinsumLayer(5, 3, 4, 4).double()
    with torch.no_grad():
        layer.weights.copy_(random_weights(5, 3, 16, over=2))
    left, right = random_scaled(5, 4, 7), random_scaled(5, 4, 7)
    both = Gathered([Scaled.joined([left, right])], [torch.arange(10)], [None], 2)
    torch.testing.assert_close(log(layer(both)), log(layer(left, right)))


@pytest.mark.parametrize("num_partitions", [2, 3, 5])
def test_mixing_layer_is_the_formula(num_partitions):
    """Partitions stand side by side; their scales may be worlds apart."""
    layer = MixingLayer(4, num_partitions, 3).double()
    with torch.no_grad():
        layer.weights.copy_(random_weights(4, num_partitions, 3, over=1))
    partitions = random_scaled(4 * num_partitions, 3, 6)
    each = log(partitions).unflatten(0, (4, num_partitions))
    expected = torch.logsumexp(torch.log(layer.weights)[..., None] + each, 1)
    torch.testing.assert_close(log(layer(partitions)), expected)


def test_mixing_layer_weighs_partitions_of_equal_scale_by_its_weights():
    layer = MixingLayer(1, 2, 1).double()
    with torch.no_grad():
        layer.weights.copy_(torch.tensor([[[0.25], [0.75]]]))
    partitions = Scaled(torch.tensor([[[1.0]], [[0.2]]]).double(), torch.zeros(2, 1).double())
    assert log(layer(partitions)).exp().item() == pytest.approx(0.25 * 1 + 0.75 * 0.2)


def test_gradients_of_the_layers_are_finite_differences():
    einsum, mixing = EinsumLayer(4, 2, 2, 3).double(), MixingLayer(2, 2, 2).double()
    weights = [random_weights(4, 2, 6, over=2), random_weights(2, 2, 2, over=1)]
    scales = [torch.randn(4, 3, dtype=torch.float64) for _ in range(2)]
    values = [random_scaled(4, size, 3).value for size in (2, 3)]

    def log_density(einsum_weights, mixing_weights, left, right):
        both = torch.func.functional_call(
            einsum, {"weights": einsum_weights}, (Scaled(left, scales[0]), Scaled(right, scales[1]))
        )
        return torch.func.functional_call(mixing, {"weights": mixing_weights}, (both,)).log()

    arguments = [tensor.requires_grad_() for tensor in (*weights, *values)]
    assert torch.autograd.gradcheck(log_density, arguments)


# Leaves

SCOPES = [(0, 1, 2, 3, 4), (2,), (1, 3), (0, 4), (4,), (0, 1, 2)]
MIXED = {Normal(): [0, 3], Categorical(categories=3): [1], Bernoulli(): [2], Binomial(total=4): [4]}


def mixed_leaves(batch=6, channels=1):
    """Regions of all sizes, variables of all families, one vector of 3 entries for each region."""
    families = {type(f)(**(vars(f) | {"channels": channels})): variables for f, variables in MIXED.items()}
    layer = LeafLayer(SCOPES, families, 3).double()
    x = torch.randint(0, 2, (5, channels, batch)).double()
    x[[0, 3]] = torch.randn(2, channels, batch, dtype=torch.float64)
    with torch.no_grad():
        for part in layer.parts:
            part.phi.copy_(part.family.constrain(torch.randn(part.phi.shape, dtype=torch.float64)))
    return layer, x


def expected_leaves(layer, x, observed):
    """Region by region, variable by variable, row by row; the textbook's densities are the oracle's."""
    expected = torch.zeros(len(SCOPES), 3, x.shape[-1], dtype=torch.float64)
    for part in layer.parts:
        for rows, pairs, variables in part.groups():
            places = iter(range(pairs.start, pairs.stop))
            for row, own in zip(rows.tolist(), variables.tolist(), strict=True):
                for d in own:
                    phi = part.phi[:, next(places)].detach().numpy()
                    for b in range(x.shape[-1]):
                        if observed[d, b]:
                            expected[row, :, b] += torch.tensor(log_density(part.family, x[d, :, b].numpy(), phi))
    return expected


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mask", ["all", "shared", "each", "none"])
def test_leaves_of_many_families_and_sizes(mask, channels):
    layer, x = mixed_leaves(channels=channels)
    batch = x.shape[-1]
    observed = {
        "all": None,
        "shared": torch.tensor([True, False, True, True, False])[:, None],
        "each": torch.rand(5, batch) < 0.5,
        "none": torch.zeros(5, 1, dtype=torch.bool),
    }[mask]
    seen = torch.ones(5, batch, dtype=torch.bool) if observed is None else observed.expand(5, batch)
    x = torch.where(seen[:, None], x, 0)
    # log h is left out of every region and added once at the root: here, once in each region that holds the variable
    with_base = layer(x, observed).log()
    for row, scope in enumerate(SCOPES):
        alone = seen.clone()
        alone[[d for d in range(5) if d not in scope]] = False
        with_base[row] += layer.log_base(x, alone)
    torch.testing.assert_close(with_base, expected_leaves(layer, x, seen))


@pytest.mark.parametrize("cache", [1, 30, 10**9])
def test_slices_of_leaves_do_not_show(monkeypatch, cache):
    layer = LeafLayer([(0, 1), (2, 3), (0, 2), (1, 3), (0, 3)], {Normal(): range(4)}, 3).double()
    with torch.no_grad():
        layer.parts[0].phi.copy_(torch.rand(layer.parts[0].phi.shape) + 0.5)
    x = torch.randn(4, 1, 6, dtype=torch.float64, requires_grad=True)
    arguments = (x, layer.parts[0].phi)

    def value_and_gradients():
        out = layer(x, None).log()
        return out, *torch.autograd.grad((out * out).sum(), arguments)

    expected = value_and_gradients()
    monkeypatch.setattr(einet.layers.sums, "CACHE_NUMEL", cache)
    for one, other in zip(value_and_gradients(), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_family_that_cancels_is_evaluated_in_float64():
    """Mistake 6: x^2 / (2 v) and x m / v are 5e5 each at a variance of 1e-6, and their difference is wanted to 1e-3."""
    layer = LeafLayer([range(100)], {Normal(): range(100)}, 1)
    mean, deviation = torch.rand(100, dtype=torch.float64), 1e-3
    with torch.no_grad():
        layer.parts[0].phi.copy_(torch.stack((mean, torch.full((100,), 1e-6).double()))[:, :, None, None])
    mean = layer.parts[0].phi[0, :, 0, 0].double().detach()
    x = (mean + deviation * torch.randn(100, dtype=torch.float64))[:, None, None]
    variance = layer.parts[0].phi[1, 0, 0, 0].double().item()
    expected = (-0.5 * (x[:, 0, 0] - mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)).sum()
    assert layer(x, None).log().item() == pytest.approx(expected.item(), abs=1e-6)


# Slices, and the memory that they share


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "num_nodes, numbers", [(1, 1), (1, 10**9), (50, 10_000), (80, 10_000), (2560, 10_000), (7, 40_000), (300, 1)]
)
def test_node_slices_are_all_nodes_once_and_about_equally_many(num_nodes, numbers, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    slices = node_slices(num_nodes, numbers, torch.empty(0))
    nodes = [node for part in slices for node in range(num_nodes)[part]]
    assert nodes == list(range(num_nodes))
    lengths = [len(range(num_nodes)[part]) for part in slices]
    assert lengths[0] == max(lengths) and all(length % threads == 0 for length in lengths[:-1])
    most = threads * max(1, einet.layers.scratch.CACHE_NUMEL // numbers)
    assert max(lengths) <= 1.5 * most + threads


def in_a_new_thread(function):
    """What `function` returns in a thread that has kept no memory yet."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def place(numbers, like):
    """Where scratch memory is, once it has been used."""
    with scratch(numbers, like) as memory:
        assert memory.shape == (numbers,) and memory.dtype == like.dtype
        return memory.data_ptr()


def test_memory_is_used_again_by_its_thread_alone():
    first = place(1000, torch.empty(0))
    assert place(500, torch.empty(0, dtype=torch.float64)) == first
    with scratch(10, torch.empty(0)) as memory:
        assert memory.data_ptr() == first
        assert in_a_new_thread(lambda: place(10, torch.empty(0))) != first
        assert einet.layers.scratch._kept.bytes is None


def test_memory_in_use_is_its_users_alone():
    """Who comes in the middle gets memory of their own; one of the two is kept."""
    place(1000, torch.empty(0))
    with scratch(1000, torch.empty(0)) as outer:
        outer.fill_(7)
        with scratch(1000, torch.empty(0)) as inner:
            inner.fill_(8)
        with scratch(2000, torch.empty(0)) as larger:
            larger.fill_(9)
        assert (outer == 7).all()
    with scratch(1000, torch.empty(0)) as again:
        assert again.data_ptr() == outer.data_ptr()


def test_memory_of_a_use_that_ends_in_an_error_is_not_kept():
    kept = in_a_new_thread(lambda: (pytest.raises(KeyError, fails_in_a_room), einet.layers.scratch._kept.bytes))[1]
    assert kept is None


def fails_in_a_room():
    with scratch(10, torch.empty(0)):
        raise KeyError


def test_much_memory_is_not_kept():
    much = einet.layers.scratch.MAX_KEPT_BYTES // 4 * torch.get_num_threads() + 1
    kept = place(10, torch.empty(0))
    with scratch(much, torch.empty(0)) as memory:
        assert memory.data_ptr() != kept and einet.layers.scratch._kept.bytes is not None
    assert place(10, torch.empty(0)) == kept


def scores(seed):
    """A model whose layers work in several slices, and rows."""
    model = einet.Einet(einet.random_binary_trees(32, 3, 6, seed=seed), Normal(), num_sums=24, seed=seed)
    return model, torch.randn(300, 32, generator=torch.Generator().manual_seed(seed))


def test_a_fake_tensor_mode_leaves_no_fake_memory():
    """What is made there has no numbers; kept, it would take them from every later query of its thread."""
    model, x = scores(0)
    right = einet.log_density(model, x)

    def after_planning():
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            model(x, check=False)
            with scratch(10, torch.empty(0).new_empty(0)) as memory:
                assert type(memory) is not torch.Tensor
        assert einet.layers.scratch._kept.bytes is None
        return einet.log_density(model, x)

    assert torch.equal(in_a_new_thread(after_planning), right)


class Asks(TorchDispatchMode):
    """Asks another model in the middle of each matrix product, as a signal handler or a debugger might."""

    def __init__(self, ask):
        super().__init__()
        self.ask, self.asked = ask, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.bmm.out, torch.ops.aten.baddbmm.out):
            self.asked += 1
            if self.asked % 7 == 1:
                self.ask()
        return function(*args, **(kwargs or {}))


def test_a_question_in_the_middle_of_another_changes_neither():
    (model, x), (other, y) = scores(0), scores(5)
    right, right_other, answers = einet.log_density(model, x), einet.log_density(other, y), []
    model(x).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    with Asks(lambda: answers.append(einet.log_density(other, y))) as mode:
        value = model(x)
        value.sum().backward()
    assert mode.asked > 20
    assert torch.equal(value.detach(), right)
    assert all(torch.equal(p.grad, expected) for p, expected in zip(model.parameters(), gradients, strict=True))
    assert answers and all(torch.equal(answer, right_other) for answer in answers)


def test_a_thread_may_begin_in_inference_mode():
    """What is born there may not be written to outside; the memory that is kept must be no such tensor."""
    layer = LeafLayer([range(3), range(3)], {Normal(): range(3)}, 2)
    einsum = EinsumLayer(1, 2, 2, 2)
    x = torch.randn(3, 1, 5)

    def sums():
        pool = layer(x, None)
        return einsum(Gathered([pool], [torch.arange(2)], [None], 2)).value

    def both():
        with torch.inference_mode():
            before = sums().clone()
        kept = einet.layers.scratch._kept.bytes
        assert kept is not None and not kept.is_inference()
        return before, sums()

    with torch.no_grad():
        layer.parts[0].phi.copy_(Normal().initial((6, 1, 2), torch.Generator().manual_seed(0)))
        einsum.weights.fill_(0.25)
    before, after = in_a_new_thread(both)
    after.sum().backward()
    torch.testing.assert_close(after, before.clone())


def test_threads_do_not_disturb_each_other():
    tasks = [[part.detach() for part in einsum_arguments(20, 4, 6, 6, 90)] for _ in range(4)]
    expected = [log_einsum_exp(*task) for task in tasks]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda i: log_einsum_exp(*tasks[i % 4]), range(200)))
    finally:
        sys.setswitchinterval(interval)
    assert all(torch.equal(result, expected[i % 4]) for i, result in enumerate(results))


@pytest.mark.filterwarnings("ignore")  # dynamo warns of its own doings
@pytest.mark.slow
def test_a_model_can_be_compiled():
    """To AOT's graphs, which all compilers begin with; they allow no view of bytes as numbers."""
    model = einet.Einet(einet.random_binary_trees(4, depth=2, num_replicas=2, seed=0), Normal(), num_sums=3, seed=0)
    x = torch.randn(5, 4)
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x), model(x))


def test_memory_is_where_the_tensors_are():
    def device_of(like):
        with scratch(10, like) as memory:
            return memory.device.type

    assert device_of(torch.empty(0, device="meta")) == "meta"

    def where_new_tensors_are_not():
        with torch.device("meta"):
            return device_of(torch.empty(0, device="cpu"))

    assert in_a_new_thread(where_new_tensors_are_not) == "cpu"


def test_a_draw_of_weights_is_flat():
    """Dirichlet(1, 1, 1): each weight is below t with probability 1 - (1 - t)^2."""
    weights = torch.empty(20_000, 3)
    normalized_(weights, 1, torch.Generator().manual_seed(0))
    torch.testing.assert_close(weights.sum(1), torch.ones(20_000))
    assert (weights > 0).all()
    for t in (0.1, 0.5, 0.9):
        assert (weights[:, 1] < t).double().mean().item() == pytest.approx(1 - (1 - t) ** 2, abs=0.015)
