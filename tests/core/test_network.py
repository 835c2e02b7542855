"""The network against the oracle: densities, marginals, gradients, on graphs that hypothesis draws."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import Circuit, all_masks, worlds
from strategies import ALL, DISCRETE, examples, in_float64, masks, models, region_graphs, rows
from torch.func import functional_call

import einet
from einet import Bernoulli, Binomial, Categorical, Einet, Normal, RegionGraph, poon_domingos, random_binary_trees

EXACT = dict(rtol=1e-9, atol=1e-9)


def binary_model(**arguments):
    graph = random_binary_trees(num_variables=6, depth=2, num_replicas=3, seed=0)
    return in_float64(Einet(graph, Bernoulli(), **{"num_sums": 3, "seed": 0, **arguments}))


# Against the oracle


@examples(40)
@given(models(), st.integers(0, 9))
def test_density_is_the_recursion_over_regions(model, seed):
    x = rows(model, 4, seed)
    torch.testing.assert_close(model(x).reshape(4, -1), torch.tensor(Circuit(model).log_density(x)), **EXACT)


@examples(40)
@given(models(), st.integers(0, 9))
@pytest.mark.slow
def test_marginal_is_the_recursion_with_leaves_left_out(model, seed):
    x, observed = rows(model, 4, seed), masks(model, 4, seed)
    expected = torch.tensor(Circuit(model).log_density(x, observed))
    torch.testing.assert_close(model(x, observed).reshape(4, -1), expected, **EXACT)


@examples(25)
@given(models(families=DISCRETE, graphs=region_graphs(most_variables=4)))
@pytest.mark.slow
def test_every_marginal_is_the_sum_over_all_worlds(model):
    """Every mask, for the world that is all zeros and the one that is all ones."""
    everything = worlds(model)
    probability = Circuit(model).log_density(everything)
    np.testing.assert_allclose(np.exp(probability).sum(0), 1, atol=1e-6)
    for value in (0.0, 1.0):
        x = torch.full((1, model.graph.num_variables), value, dtype=torch.float64)
        for mask in all_masks(model.graph.num_variables):
            agrees = (everything[:, mask] == value).all(1)
            expected = torch.tensor(np.exp(probability[agrees]).sum(0))
            torch.testing.assert_close(model(x, mask).exp().reshape(-1), expected.reshape(-1), **EXACT)


@examples(25)
@given(models(families=(Bernoulli(),), graphs=region_graphs(most_variables=8, most_regions=24)))
def test_mass_is_one(model):
    mass = model(worlds(model)).exp().sum(0)
    torch.testing.assert_close(mass, torch.ones_like(mass), atol=1e-6, rtol=0)


@examples(15)
@given(models(families=DISCRETE, graphs=region_graphs(most_variables=5)))
def test_mass_is_one_in_float32(model):
    mass = model.float()(worlds(model)).double().exp().sum(0)
    torch.testing.assert_close(mass, torch.ones_like(mass), atol=1e-6, rtol=0)


@examples(15)
@given(models(), st.integers(0, 9))
def test_each_row_is_masked_on_its_own(model, seed):
    x, observed = rows(model, 5, seed), masks(model, 5, seed)
    alone = torch.cat([model(x[[i]], observed[i]).reshape(1, -1) for i in range(5)])
    torch.testing.assert_close(model(x, observed).reshape(5, -1), alone, **EXACT)


@examples(25)
@given(models(graphs=region_graphs(most_variables=4, most_regions=8), most_entries=2), st.booleans())
@pytest.mark.slow
def test_gradients_are_finite_differences(model, masked):
    x = rows(model, 2)
    observed = masks(model, 2) if masked else None
    names, values = zip(
        *((name, p.detach().clone().requires_grad_()) for name, p in model.named_parameters()), strict=True
    )

    def forward(*parameters):
        return functional_call(model, dict(zip(names, parameters, strict=True)), (x, observed))

    assert torch.autograd.gradcheck(forward, values, atol=1e-6)


@examples(10)
@given(models(families=(Normal(),), graphs=region_graphs(most_variables=4, most_regions=8), most_entries=2))
def test_gradient_of_the_data_is_a_finite_difference(model):
    x = rows(model, 2).requires_grad_()
    assert torch.autograd.gradcheck(model, (x,), atol=1e-6)
    assert torch.autograd.gradcheck(lambda x: model(x, masks(model, 2)), (x,), atol=1e-6)


@pytest.mark.parametrize(
    "family", [Normal(channels=3), Binomial(total=3, channels=3), Categorical(categories=3, channels=3)]
)
def test_channels_are_independent_given_the_entry(family):
    model = Einet(poon_domingos((2, 3), 1), family, num_sums=2, num_leaves=3, seed=1).double()
    x, observed = rows(model, 3), masks(model, 3)
    torch.testing.assert_close(model(x)[:, None], torch.tensor(Circuit(model).log_density(x)), **EXACT)
    torch.testing.assert_close(
        model(x, observed)[:, None], torch.tensor(Circuit(model).log_density(x, observed)), **EXACT
    )


@pytest.mark.parametrize(
    "graph",
    [
        random_binary_trees(7, 2, 3, seed=1),
        random_binary_trees(5, 9, 2, seed=1),
        random_binary_trees(1, 3, 2, seed=1),
        random_binary_trees(4, 0, 5, seed=1),
        poon_domingos((3, 4), 1),
        poon_domingos((4, 4), [2, 1]),
        poon_domingos((2, 2, 2), 1),
    ],
    ids=repr,
)
def test_ready_made_structures_are_the_recursion(graph):
    model = Einet(graph, Bernoulli(), num_sums=2, num_leaves=3, seed=0).double()
    x, observed = rows(model, 3), masks(model, 3)
    torch.testing.assert_close(
        model(x, observed)[:, None], torch.tensor(Circuit(model).log_density(x, observed)), **EXACT
    )


@given(models())
@examples(30)
def test_left_is_the_graphs_left_where_lengths_are_equal(model):
    """A reader of the weights (K_out, K_left * K_right) needs to know which child is the row and which the column."""
    if model.num_sums != model.num_leaves or not model.graph.partitions:
        return
    for region, nodes in Circuit(model).sums.items():
        assert sorted(node.children for node in nodes) == sorted(p.children for p in model.graph.partitions_of[region])


# Shapes, types, devices


def test_classes_are_densities_of_their_own():
    model = binary_model(num_classes=3)
    everything = worlds(model)
    log_density = model(everything)
    assert log_density.shape == (64, 3)
    torch.testing.assert_close(log_density.exp().sum(0), torch.ones(3, dtype=torch.float64))
    assert not torch.allclose(log_density[:, 0], log_density[:, 1])


def test_images_are_accepted_where_the_graph_has_a_grid():
    model = Einet(poon_domingos((2, 3), 1), Normal(channels=3), num_sums=2, seed=0)
    images = torch.randn(4, 2, 3, 3)
    observed = torch.rand(4, 2, 3) < 0.5
    flat = model(images.reshape(4, 6, 3), observed.reshape(4, 6))
    torch.testing.assert_close(model(images, observed), flat)
    torch.testing.assert_close(model(images, observed[0]), model(images.reshape(4, 6, 3), observed[0].reshape(6)))


def test_grey_images_need_no_channel_axis():
    model = Einet(poon_domingos((2, 3), 1), Bernoulli(), num_sums=2, seed=0)
    x = torch.randint(0, 2, (4, 6)).float()
    for shape in [(4, 6, 1), (4, 2, 3), (4, 2, 3, 1)]:
        torch.testing.assert_close(model(x.reshape(shape)), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.float64])
@pytest.mark.parametrize("family", [Bernoulli(), Binomial(total=3), Categorical(categories=4), Normal()])
def test_whole_numbers_of_any_type_are_data(family, dtype):
    model = Einet(random_binary_trees(4, 1, 2, seed=0), family, num_sums=2, seed=0)
    x = torch.randint(0, 2, (5, 4))
    assert model(x.to(dtype)).dtype == torch.float32
    torch.testing.assert_close(model(x.to(dtype)), model(x.float()))


def test_a_row_counts_alike_in_any_batch():
    model = Einet(random_binary_trees(12, 3, 4, seed=0), Normal(), num_sums=5, seed=0)
    x = torch.randn(50, 12)
    torch.testing.assert_close(model(x), torch.cat([model(row[None]) for row in x]))


def test_a_view_that_is_not_contiguous_is_data():
    model = binary_model()
    x = torch.randint(0, 2, (6, 5)).double()
    torch.testing.assert_close(model(x.T), model(x.T.contiguous()), rtol=0, atol=0)


def test_double_evaluates_in_float64():
    model = binary_model().double()
    assert model(rows(model, 2)).dtype == torch.float64
    assert model.float()(rows(model, 2)).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_computes_the_same():
    families = {Normal(): [0, 1], Bernoulli(): [2], Binomial(total=4): [3], Categorical(categories=3): [4, 5]}
    model = Einet(poon_domingos((2, 3), 1), families, num_sums=3, num_leaves=2, seed=0)
    x, observed = rows(model, 20).float(), masks(model, 20)
    fast = copy.deepcopy(model).to("cuda")
    torch.testing.assert_close(fast(x.cuda(), observed.cuda()).cpu(), model(x, observed), rtol=1e-4, atol=1e-4)
    for network in (model, fast):
        einet.fit(network, x, observed, epochs=2, batch_size=8, progress=False)  # rows may stay where they are
    torch.testing.assert_close(fast(x.cuda()).cpu(), model(x), rtol=1e-3, atol=1e-3)


# Parameters


def test_weights_of_concentration_1_start_as_a_flat_dirichlet():
    """The largest of n exponentials has mean 1 + 1/2 + ... + 1/n: a start too flat or too sharp would miss it."""
    model = Einet(random_binary_trees(64, 3, 20, seed=0), Bernoulli(), num_sums=3, seed=0, concentration=1.0)
    layer = model.levels[0].einsums[0]
    sums = layer.weights.sum(layer.weight_dim)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    expected = sum(1 / i for i in range(1, 10)) / 9
    assert layer.weights.amax(2).mean().item() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("families", ALL)
def test_seed_decides_all_parameters(families):
    def parameters(seed):
        model = Einet(random_binary_trees(4, 2, 2, seed=0), families, num_sums=2, seed=seed)
        return dict(model.named_parameters())

    first, again, other = parameters(1), parameters(1), parameters(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_lengths_by_default():
    model = Einet(random_binary_trees(4, 1, 2, seed=0), Bernoulli())
    assert (model.num_sums, model.num_leaves, model.num_classes) == (10, 10, 1)
    assert Einet(random_binary_trees(4, 1, 2, seed=0), Bernoulli(), num_sums=3).leaves.parts[0].phi.shape[-1] == 3


def test_without_a_seed_every_model_is_new():
    graph = random_binary_trees(4, 1, 1, seed=0)
    one, two = (Einet(graph, Normal(), num_sums=2).leaves.parts[0].phi for _ in range(2))
    assert not torch.equal(one, two)


def test_global_random_state_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = Einet(random_binary_trees(4, 1, 2, seed=0), Normal(), num_sums=2, seed=1)
    Einet(random_binary_trees(4, 1, 2), Normal(), num_sums=2)
    x = torch.ones(8, 4)
    model(x).sum().backward()
    einet.EM(model).step()
    einet.fit(model, x, epochs=2, batch_size=3, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


# No state between calls


def test_calls_do_not_influence_each_other():
    model = binary_model()
    x, observed = rows(model, 5), masks(model, 5)
    before = copy.deepcopy(model.state_dict())
    first, masked = model(x), model(x, observed)
    assert torch.equal(model(x), first)
    assert torch.equal(model(x, observed), masked)
    assert not torch.allclose(first, masked)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_forward_leaves_its_input_alone():
    model = Einet(random_binary_trees(4, 1, 2, seed=0), Normal(), num_sums=2, seed=0)
    x = torch.tensor([[1.0, math.nan, 2.0, 3.0]])
    observed = torch.tensor([True, False, True, True])
    model(x, observed)
    assert math.isnan(x[0, 1]) and observed.tolist() == [True, False, True, True]


@pytest.mark.parametrize("save", [lambda model: model, lambda model: model.state_dict()], ids=["model", "state"])
def test_what_is_saved_does_not_grow_with_the_data(save):
    def size(model):
        file = io.BytesIO()
        torch.save(save(model), file)
        return file.tell()

    model = Einet(random_binary_trees(16, 2, 2, seed=0), Normal(), num_sums=2, seed=0)
    before = size(model)
    model(torch.randn(5000, 16)).sum().backward()
    model.zero_grad(set_to_none=True)
    assert size(model) == before


def test_state_carries_the_density_to_another_model():
    one, other = binary_model(seed=0), binary_model(seed=1)
    x = rows(one, 5)
    assert not torch.allclose(one(x), other(x))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x), other(x))


def test_a_deep_copy_is_independent():
    model = binary_model()
    x = rows(model, 5)
    before, twin = model(x), copy.deepcopy(model)
    assert torch.equal(twin(x), before)
    twin.reset_parameters(seed=5)
    assert torch.equal(model(x), before)


# What the network asks of its arguments


def test_a_variable_missing_from_every_row_says_nothing():
    model = binary_model()
    nothing = torch.zeros(6, dtype=torch.bool)
    torch.testing.assert_close(model(rows(model, 3), nothing), torch.zeros(3, dtype=torch.float64))


def test_regions_of_equal_scope_are_different_regions():
    """Two leaves over {0}: their parameters must not be confused."""
    graph = RegionGraph([{0}, {0}, {1}, {0, 1}], [(3, 0, 2), (3, 2, 1)])
    model = Einet(graph, Bernoulli(), num_sums=2, seed=0).double()
    x = worlds(model)
    torch.testing.assert_close(model(x)[:, None], torch.tensor(Circuit(model).log_density(x)), **EXACT)
