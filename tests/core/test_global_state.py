"""What a caller sets for all of torch changes no result of a fit or a query with a seed, and is left as it was."""

import contextlib
import copy
import pickle

import numpy as np
import pytest
import torch

import einet
from einet import EM, Bernoulli, Categorical, Einet, Mixture, Normal, random_binary_trees

GRAPH = random_binary_trees(4, 2, 2, seed=0)
MIXED = {Normal(): [0, 1], Bernoulli(): [2], Categorical(categories=3): [3]}


def build(seed=0):
    return Einet(GRAPH, MIXED, num_sums=3, seed=seed)


def rows_and_masks():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator, dtype=torch.float32)
    x[:, 2:] = torch.randint(0, 2, (60, 2), generator=generator).float()
    return x, torch.rand(60, 4, generator=generator, dtype=torch.float32) < 0.6


def results(make=build, model=None):
    """Of training, in several ways, and of queries: a list of tensors."""
    x, observed = rows_and_masks() if model is None else model[1:]
    model, adam = (make(), make()) if model is None else (copy.deepcopy(model[0]), copy.deepcopy(model[0]))
    history = einet.fit(model, x, observed, valid=x, epochs=2, batch_size=16, patience=5, seed=3, progress=False)
    einet.unconstrained(adam)
    einet.fit(adam, x, optimizer=torch.optim.Adam(adam.parameters(), lr=0.01), epochs=2, progress=False)
    pair = Mixture([model, einet.constrained(adam)], [0.25, 0.75])
    answers = [
        torch.tensor(history.train + history.valid, device="cpu", dtype=torch.float64),
        *pair.state_dict().values(),
    ]
    for each in (model, pair):
        generator = torch.Generator("cpu").manual_seed(5)
        answers += [
            einet.log_density(each, x, observed),
            einet.log_conditional(each, x, ~observed, observed),
            einet.conditional_mean(each, x, observed),
            einet.conditional_variance(each, x, observed),
            einet.conditional_marginals(each, x, observed).probabilities(),
            einet.sample(each, 20, generator),
            einet.sample_conditional(each, x, observed, 2, generator),
            *einet.mpe(each, x, observed),
        ]
    return [answer.detach().clone() for answer in answers]


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
        assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def seeds():
    torch.manual_seed(123)
    np.random.seed(123)
    before, of_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    yield
    assert torch.equal(torch.get_rng_state(), before) and (np.random.get_state()[1] == of_numpy).all()


@contextlib.contextmanager
def mode(manager, gradients):
    with manager:
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert before[0] == gradients
        yield
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


STATES = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "seed": seeds,
    "two threads": lambda: threads(2),
    "no_grad": lambda: mode(torch.no_grad(), False),
    "inference_mode": lambda: mode(torch.inference_mode(), False),
    "enable_grad": lambda: mode(torch.enable_grad(), True),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


SLOW = "two threads"  # which wait for each other where cores are busy


@pytest.mark.parametrize("state", [pytest.param(n, marks=pytest.mark.slow) if n == SLOW else n for n in STATES])
def test_results_are_the_same_in_any_state(state):
    expected = results()
    with STATES[state]():
        found = results()
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_results_are_the_same_whatever_the_default_device_is():
    """New tensors are on the meta device by default, and all of this is on the CPU."""
    given = (build(), *rows_and_masks())
    expected = results(model=given)
    with torch.device("meta"):
        found = results(model=given)
        assert torch.empty(0).is_meta
        again = copy.deepcopy(given[0])
        again.reset_parameters(seed=7)
    drawn = zip(again.parameters(), build(7).parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in drawn)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_mixture_of_clusters_in_any_state():
    x = rows_and_masks()[0]
    settings = {"epochs": 2, "seed": 1, "num_sums": 2, "progress": False}

    def parameters():
        model = einet.fit_mixture(x, 2, GRAPH, MIXED, **settings)
        return list(model.state_dict().values())

    expected = parameters()
    for state in (torch.inference_mode(), torch.no_grad(), default_dtype(torch.float64)):
        with state:
            found = parameters()
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


# Inference mode: what is born there cannot be kept by autograd, nor changed outside


def test_a_model_that_is_built_in_inference_mode_is_like_any_other():
    x, observed = rows_and_masks()
    with torch.inference_mode():
        model = build()
    einet.fit(model, x, observed, epochs=1, progress=False)
    assert torch.equal(model(x).detach(), einet.log_density(model, x))


@pytest.mark.parametrize("mixture", [False, True])
def test_parameters_and_rows_from_inference_mode(mixture):
    """A copy, or a conversion, that is made there has parameters that were born there."""
    x, observed = rows_and_masks()
    normal = build().double() if not mixture else Mixture([build(), build(1)], [0.5, 0.5]).double()
    with torch.inference_mode():
        model, rows, mask = copy.deepcopy(normal), x.clone(), observed.clone()
    assert all(parameter.is_inference() for parameter in model.parameters())
    for query in (einet.conditional_mean, einet.conditional_variance, einet.log_marginal):
        expected = query(normal, x, observed)
        assert torch.equal(query(model, rows, mask), expected)
        with torch.inference_mode():
            assert torch.equal(query(model, rows, mask), expected)
    with pytest.raises(ValueError, match="no gradients: copy.deepcopy"):
        model(x)
    found, expected = (
        torch.autograd.grad(m(rows, mask).sum(), list(m.parameters())) for m in (copy.deepcopy(model), normal)
    )
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    with pytest.raises(ValueError, match="inference mode .*copy.deepcopy"):
        EM(model)
    with pytest.raises(ValueError, match="inference mode .*copy.deepcopy"):
        einet.fit(model, rows, progress=False)
    einet.fit(copy.deepcopy(model), rows, mask, epochs=1, progress=False)


# The meta device, and others


def test_a_model_on_the_meta_device_has_shapes_alone():
    with torch.device("meta"):
        planned = build()
    moved, x = build().to("meta"), torch.empty(5, 4, device="meta")
    shapes = {name: tensor.shape for name, tensor in build().state_dict().items()}
    for model in (planned, moved):
        assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
        assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
        em, out = EM(model), model(x, torch.empty(4, dtype=torch.bool, device="meta"))
        assert out.is_meta and out.shape == (5,)
        out.sum().backward()
        em.step()
        for query in (einet.sample, einet.log_density, einet.log_marginal, einet.conditional_mean):
            with pytest.raises(ValueError, match="meta device"):
                query(model, 3) if query is einet.sample else query(model, x, torch.ones(4, dtype=torch.bool))
    for model in (planned, torch.nn.ModuleList([moved])):
        with pytest.raises(ValueError, match="build it anew"):
            model.to_empty(device="cpu")  # its indices would be whatever was in that memory


def test_rows_and_masks_on_another_device():
    model, x, observed = build(), torch.zeros(3, 4), torch.ones(4, dtype=torch.bool)
    with pytest.raises(ValueError, match="x must be where the model is, on cpu, got a tensor on meta"):
        model(x.to("meta"))
    with pytest.raises(ValueError, match="observed must be where the model is, on cpu, got a tensor on meta"):
        model(x, observed.to("meta"))
    with pytest.raises(ValueError, match="x must be where the model is, on meta, got a tensor on cpu"):
        model.to("meta")(x)


# Copies of the optimizer


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_em_can_be_copied_and_pickled(twin):
    x = rows_and_masks()[0]
    model = Mixture([build(), build(1)], [0.5, 0.5])
    em = EM(model, lr=0.5, pseudocount=0.1)
    other, its_em = twin((model, em))
    assert its_em.param_groups[0]["lr"] == 0.5
    for network, optimizer in ((model, em), (other, its_em)):
        network(x).sum().backward()
        optimizer.step()
    for one, another in zip(model.parameters(), other.parameters(), strict=True):
        assert one is not another and torch.equal(one, another)
    assert model.weights[0] != 0.5


# Masks of numpy, and the names of masks


def test_masks_may_be_arrays_of_numpy():
    model, (x, observed) = build(), rows_and_masks()
    array = observed.numpy()
    assert torch.equal(model(x, array), model(x, observed))
    assert torch.equal(model(x, array[0]), model(x, observed[0]))
    assert torch.equal(einet.log_density(model, x, array), einet.log_density(model, x, observed))
    assert torch.equal(
        einet.log_conditional(model, x, ~array, array), einet.log_conditional(model, x, ~observed, observed)
    )
    for query in (einet.conditional_mean, einet.conditional_variance, einet.log_marginal, einet.mpe):
        one, other = query(model, x, array), query(model, x, observed)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    first, second = (torch.Generator().manual_seed(0) for _ in range(2))
    found = einet.sample_conditional(model, x, array[:, ::-1], generator=first)
    assert torch.equal(found, einet.sample_conditional(model, x, observed.flip(1), generator=second))
    fitted = []
    for mask in (array, observed):
        fitted.append(build())
        einet.fit(fitted[-1], x, mask, valid=(x, mask), epochs=1, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in fitted), strict=True))


@pytest.mark.parametrize("name", ["query", "evidence"])
@pytest.mark.parametrize(
    "mask, message",
    [
        (None, "must be a bool tensor, got None"),
        (torch.ones(4), "must be a bool tensor, got torch.float32"),
        (np.ones(4, dtype=int), "must be a bool tensor, got ndarray"),
        ([True] * 4, "must be a bool tensor, got list"),
        (torch.ones(3, dtype=torch.bool), r"must have shape \(4,\) or \(60, 4\), got \(3,\)"),
        (torch.ones(4, dtype=torch.bool, device="meta"), "must be where the model is"),
    ],
    ids=str,
)
@pytest.mark.parametrize("mixture", [False, True])
def test_messages_name_the_mask_that_is_wrong(name, mask, message, mixture):
    model = Mixture([build(), build(1)], [0.5, 0.5]) if mixture else build()
    masks = {"query": torch.arange(4) < 1, "evidence": torch.arange(4) > 1} | {name: mask}
    with pytest.raises(ValueError, match=f"^{name} {message}"):
        einet.log_conditional(model, rows_and_masks()[0], **masks)
