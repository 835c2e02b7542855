"""The thin layer, `sum_product="cp"`: against einsum layers of diagonal weights, where nothing may underflow, on disk.

That it is exact against the oracle is held by all tests that draw `strategies.models`, or go through
`enumeration.MODELS`.
"""

import json

import pytest
import torch
from enumeration import MANY, MIXED, UNEVEN, labels_of, small_model

import einet
from einet import EM, Bernoulli, Categorical, Einet, Normal, random_binary_trees
from einet.layers.scaled import LogScaled, Scaled
from einet.layers.sums import CPLayer, EinsumLayer
from einet.storage.checkpoint import description

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def thin(graph, leaf, num_sums=3, **arguments):
    return Einet(graph, leaf, num_sums=num_sums, sum_product="cp", seed=0, **arguments).double()


def imitation(model):
    """The same density by einsum layers, all weights erased but those of equal entries."""
    wide = Einet(model.graph, model.families, model.num_sums, num_classes=model.num_classes).double()
    wide.leaves.load_state_dict(model.leaves.state_dict())
    with torch.no_grad():
        for own, other in zip(wide.sum_layers(), model.sum_layers(), strict=True):
            weights = torch.diag_embed(other.weights).flatten(2) if isinstance(own, EinsumLayer) else other.weights
            own.weights.copy_(weights)
    return wide


# The same answers as its imitation


def test_a_mixture_of_thin_networks_answers_as_its_imitations():
    networks = [thin(random_binary_trees(6, 2, 2, seed=s), MIXED, num_sums=2 + s) for s in range(2)]
    model = einet.Mixture(networks, [0.3, 0.7]).double()
    wide = einet.Mixture([imitation(network) for network in networks], [0.3, 0.7]).double()
    x = einet.sample(model, 7, torch.Generator().manual_seed(0))
    observed = torch.rand(7, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    for question in (
        lambda m: m(x, observed),
        lambda m: einet.log_conditional(m, x, ~observed & torch.tensor([1, 1, 1, 0, 0, 0]).bool(), observed),
        lambda m: einet.conditional_mean(m, x, observed),
        lambda m: einet.conditional_variance(m, x, observed),
        lambda m: einet.conditional_marginals(m, x, observed).probabilities(),
        lambda m: einet.mpe(m, x, observed).log_density,
        lambda m: einet.mpe(m, x, observed).upper_bound,
        lambda m: torch.tensor(einet.entropy_bounds(m)),
        lambda m: torch.tensor(einet.mutual_information(m, [0, 1], [2])),
    ):
        torch.testing.assert_close(question(model), question(wide), equal_nan=True, **CLOSE)


@pytest.mark.parametrize("lr", [0.5, 1.0])
def test_a_step_of_em_moves_it_as_its_imitation(lr):
    model = thin(random_binary_trees(6, 2, 3, seed=0), MIXED, num_classes=3)
    wide, x = imitation(model), einet.sample(model, 9, torch.Generator().manual_seed(0), labels=1)
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    for each in (model, wide):
        em = EM(each, lr=lr)
        for _ in range(2):
            em.zero_grad()
            each(x, observed).gather(1, torch.arange(9)[:, None] % 3).sum().backward()
            em.step()
    torch.testing.assert_close(model(x), wide(x), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(model.leaves.parts[0].phi, wide.leaves.parts[0].phi, **CLOSE)


# Nothing underflows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_children_that_disagree_by_a_thousand_nats(dtype):
    """What the left child thinks all but impossible is what the right one wants: their product is finite."""
    graph = einet.RegionGraph([(0, 1), (0,), (1,)], [(0, 1, 2)])
    model = thin(graph, Normal(), num_sums=2).to(dtype)
    (part,) = model.leaves.parts
    with torch.no_grad():
        part.phi[0], part.phi[1] = torch.tensor([0.0, 50.0]), 1.0
        model.levels[0].einsums[0].weights.fill_(0.5)
    x = torch.tensor([[0.0, 50.0]], dtype=dtype, requires_grad=True)
    log_density = model(x)
    assert log_density.item() == pytest.approx(-1250 - torch.log(torch.tensor(2 * torch.pi)).item(), rel=1e-6)
    log_density.sum().backward()
    assert x.grad.tolist() == [[pytest.approx(25.0), pytest.approx(-25.0)]], "each entry has half the row"
    completed = einet.mpe(model, x.detach(), torch.tensor([True, True]))
    assert completed.log_density.item() == pytest.approx(log_density.item())
    drawn = einet.conditional_mean(model, x.detach(), torch.tensor([True, False]))
    assert drawn[0, 1].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kind", [Scaled, LogScaled])
def test_a_hub_of_three_hundred_children(kind):
    """One layer, 300 children; entry 0 is best in one half of them, entry 1 in the other, 20 nats ahead each time."""
    layer = CPLayer(1, 2, *[2] * 300)
    with torch.no_grad():
        layer.weights.copy_(torch.tensor([[[0.25, 0.75], [0.5, 0.5]]]))
    logs = torch.zeros(300, 2, 1, dtype=torch.float64)
    logs[:150, 1], logs[150:, 0] = -20, -20
    logs -= 5  # and all far from 1
    children = [kind.from_log(each[None], torch.float32) for each in logs]
    expected = torch.full((1, 2, 1), -3000.0 - 1500.0, dtype=torch.float64)
    for found in (layer(*children), layer.maximum(*children)):
        assert found.value.amax() == 1
    torch.testing.assert_close(layer(*children).log(), expected, rtol=0, atol=1e-3)
    odds = layer.odds(children, torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    torch.testing.assert_close(odds / odds.sum(), torch.tensor([[0.25, 0.75]]), rtol=1e-3, atol=0)
    assert layer.split(torch.tensor([0]), torch.tensor([1]), torch.tensor([1])) == ((0, 1),) * 300
    entropies = layer.entropies(*[torch.ones(1, 2, 2, dtype=torch.float64)] * 300)
    torch.testing.assert_close(entropies[0, 1], torch.tensor([300.0, 300.0 + 0.6931471805599453]).double())


def test_what_is_impossible_stays_so_and_spoils_no_gradient():
    model = thin(random_binary_trees(4, 2, 2, seed=0), Categorical(categories=3), num_sums=2)
    with torch.no_grad():
        for part in model.leaves.parts:
            part.phi[2] = 0
            part.phi /= part.phi.sum(0)
            part.phi[0, :, :, 0], part.phi[1, :, :, 0] = 1, 0  # some entries rule out what others allow
    possible, impossible = torch.tensor([[1.0, 0, 1, 0]]), torch.tensor([[2.0, 0, 0, 0]])
    assert model(possible).isfinite() and model(impossible).item() == -torch.inf
    model(possible).sum().backward()
    assert all(layer.weights.grad.isfinite().all() for layer in model.sum_layers())
    with pytest.raises(ValueError, match="density 0"):
        einet.sample_conditional(model, impossible, torch.ones(4).bool())


def test_an_entry_of_density_0_has_no_gradient():
    """Of a product of three vectors, which goes by logarithms."""
    layer = CPLayer(1, 2, 2, 2, 2)
    with torch.no_grad():
        layer.weights.fill_(0.5)
    value = torch.tensor([[[1.0], [0.0]]], requires_grad=True)
    sums = layer(*[Scaled(value, torch.zeros(1, 1, dtype=torch.float64))] * 3).log()
    assert sums.exp().flatten().tolist() == [0.5, 0.5]
    sums.sum().backward()
    assert value.grad.flatten().tolist() == [6.0, 0.0]


def scaled_children(*values, dtype=torch.float64):
    """Vectors (L, K) for a single row each, as children."""
    values = [torch.tensor(value, dtype=dtype)[..., None].requires_grad_() for value in values]
    return [Scaled(value, torch.zeros(len(value), 1, dtype=torch.float64)) for value in values]


def layer_of(weights, lengths, nodes=None):
    layer = CPLayer(len(weights), len(weights[0]), *lengths, nodes=nodes).to(torch.float64)
    with torch.no_grad():
        layer.weights.copy_(torch.tensor(weights))
    return layer


def test_a_product_that_underflows_is_done_by_logarithms():
    """Of four vectors, each in [e^-60, 1]: products of float32 stop at e^-87. Values and gradients are exact."""
    small = 8.75651076269652e-27  # e^-60
    children = scaled_children(*[[[1, small]]] * 2, *[[[small, 1]]] * 2, dtype=torch.float32)
    layer = layer_of([[[0.25, 0.75]]], [2] * 4).float()
    sums = layer(*children).log()
    assert sums.item() == pytest.approx(-120, abs=1e-4)
    sums.sum().backward()
    assert children[0].value.grad.flatten().tolist() == pytest.approx([0.25, 0.75 / small], rel=1e-4)


def test_gradients_of_entries_of_density_0_are_exact():
    """dS/dv_i = W_i u_i where v_i is 0, too: nothing is divided by it."""
    left, right = scaled_children([[1.0, 0.0]], [[0.5, 0.25]])
    layer_of([[[0.5, 0.5]]], [2, 2])(left, right).log().exp().sum().backward()
    assert left.value.grad.flatten().tolist() == pytest.approx([0.25, 0.125])
    assert right.value.grad.flatten().tolist() == pytest.approx([0.5, 0.0])


def test_nodes_with_one_child_two_and_three():
    """S = sum_i w_i of the products of the children that a node has; what the children hold is not written to."""
    first, second, third = scaled_children(
        [[1.0, 0.5], [0.5, 1.0], [1.0, 0.25]], [[0.5, 1.0], [1.0, 0.5]], [[0.25, 1.0]]
    )
    layer = layer_of([[[0.5, 0.5]]] * 3, [2] * 3, nodes=[None, [0, 2], [0]])
    before = first.value.detach().clone()
    sums = layer(first, second, third).log().exp()
    assert torch.equal(first.value, before)
    expected = [0.5 * (0.125 + 0.5), 0.5 * 1.5, 0.5 * (1 + 0.125)]
    assert sums.flatten().tolist() == pytest.approx(expected)
    sums.sum().backward()
    assert second.value.grad.flatten().tolist() == pytest.approx([0.125, 0.25, 0.5, 0.125])
    assert third.value.grad.flatten().tolist() == pytest.approx([0.25, 0.25])
    odds = layer.odds([first, second, third], torch.tensor([2, 1]), torch.tensor([0, 0]), torch.tensor([0, 0]))
    torch.testing.assert_close(odds / odds.sum(1, keepdim=True), torch.tensor([[8, 1], [3, 6]]).double() / 9)
    entropies = layer.entropies(*(torch.ones(n, 2, 2, dtype=torch.float64) for n in (3, 2, 1)))
    assert entropies[:, 0, 0].tolist() == [3, 1, 2]
    assert layer.maximum(first, second, third).log().exp().flatten().tolist() == pytest.approx([0.25, 0.5, 0.5])


def test_what_the_first_nodes_alone_have_is_multiplied_into_a_copy():
    first, second = scaled_children([[1.0, 0.5], [0.5, 1.0]], [[0.5, 1.0]])
    sums = layer_of([[[0.5, 0.5]]] * 2, [2, 2], nodes=[None, [0]])(first, second).log().exp()
    assert first.value.flatten().tolist() == [1, 0.5, 0.5, 1]
    assert sums.flatten().tolist() == pytest.approx([0.5, 0.75])


def test_leaves_are_handed_out_in_portions_where_one_layer_has_them():
    """In a tree each level has a slice of the leaves; gradients are as those of leaves that are fetched by row."""
    rows = torch.randint(2, (40, 12), generator=torch.Generator().manual_seed(0))
    model = thin(einet.chow_liu(rows), Bernoulli())
    assert sum(model.portions) == 12 and len(model.portions) == len(model.levels) > 1
    model(rows).sum().backward()
    portioned = [parameter.grad.clone() for parameter in model.parameters()]
    for level in model.levels:
        for pool in level.children_of[0].pools:
            pool.portion = None
    model.zero_grad()
    model(rows).sum().backward()
    for one, parameter in zip(portioned, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)


# Partitions into any number of children


def hub(children=300):
    return einet.RegionGraph([range(children), *({d} for d in range(children))], [range(children + 1)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_hub_is_one_layer_and_does_not_underflow(dtype):
    """300 leaves, each of e^-1000 and less, below one sum: the log-density is the textbook's naive Bayes mixture."""
    model = thin(hub(), Normal(), num_sums=4).to(dtype)
    assert [(len(level.einsums), len(level.mixings)) for level in model.levels] == [(1, 0)]
    x = 60 * torch.randn(5, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (part,), (layer,) = model.leaves.parts, model.sum_layers()
    mean, variance = torch.empty(2, 300, 4, dtype=torch.float64)
    mean[part.pairs], variance[part.pairs] = part.phi.detach()[:, :, 0].double()
    each = torch.distributions.Normal(mean, variance.sqrt()).log_prob(x[..., None]).sum(1)
    expected = torch.logsumexp(each + layer.weights[0, 0].detach().double().log(), 1)
    assert expected.max() < -300_000 / 2
    torch.testing.assert_close(
        model(x.to(dtype)).double(), expected, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=0
    )


def test_a_level_is_one_layer_however_many_children_its_nodes_have():
    model = thin(MANY, MIXED)
    found = [[(layer.layout.num_children, len(layer.weights)) for layer in level.einsums] for level in model.levels]
    assert found == [[("2", 1)], [("3-4", 3)], [("3", 2)]]


def test_a_leaf_below_an_inner_region_has_no_sum():
    """A chain of latent variables: a transition for each inner region, and the leaves' own vectors below it."""
    chain = einet.RegionGraph([range(3), {0}, {1, 2}, {1}, {2}], [(0, 1, 2), (2, 3, 4)])
    assert [tuple(layer.weights.shape) for layer in thin(chain, Bernoulli()).sum_layers()] == [(1, 3, 3), (1, 1, 3)]


def test_einsum_layers_take_pairs_and_say_how_to_get_them():
    with pytest.raises(ValueError, match=r"pairs, got a partition into 3: graph.binary\(\)"):
        Einet(MANY, MIXED, num_sums=2)
    assert Einet(MANY.binary(), MIXED, num_sums=2)(torch.zeros(1, 6)).isfinite()


def test_em_learns_a_naive_bayes_mixture():
    """On a hub EM is that of the textbook: responsibilities, then shares and means."""
    model = thin(hub(5), Bernoulli(), num_sums=2)
    x = (torch.rand(30, 5, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    (part,), (layer,) = model.leaves.parts, model.sum_layers()
    phi = part.phi.detach()[0, :, 0].clone()[part.pairs.argsort()]  # (5, K)
    log_joint = (x[:, :, None] * phi.log() + (1 - x[:, :, None]) * (1 - phi).log()).sum(1) + layer.weights[0, 0].log()
    responsibility = log_joint.detach().softmax(1)
    em = EM(model, lr=1.0)
    model(x).sum().backward()
    em.step()
    torch.testing.assert_close(layer.weights[0, 0], responsibility.mean(0), check_dtype=False, rtol=1e-6, atol=1e-6)
    expected = (responsibility.T @ x / responsibility.sum(0)[:, None]).T
    torch.testing.assert_close(part.phi[0, :, 0][part.pairs.argsort()], expected, rtol=1e-6, atol=1e-6)


# Derivatives, and training by them


def test_second_derivatives_and_transforms():
    model = thin(random_binary_trees(3, 2, 1, seed=0), Normal(), num_sums=2)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, *_: model(x), (x, *model.parameters()))
    by_row = torch.func.vmap(torch.func.grad(lambda row: model(row[None], check=False)[0]))(x)
    torch.testing.assert_close(by_row, torch.autograd.grad(model(x).sum(), x)[0])


@pytest.mark.parametrize("graph", [UNEVEN, MANY], ids=["pairs", "many"])
def test_free_parameters_are_the_same_density(graph):
    model = thin(graph, MIXED)
    x = einet.sample(model, 20, torch.Generator().manual_seed(0))
    before = model(x).detach()
    einet.unconstrained(model)
    torch.testing.assert_close(model(x), before, rtol=1e-6, atol=1e-6)
    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(5):
        adam.zero_grad()
        (-model(x).mean()).backward()
        adam.step()
    assert einet.constrained(model)(x).mean() > before.mean()


# On disk, and what is refused


@pytest.mark.parametrize("name", ["thin", "many children", "many children, classes"])
def test_a_file_brings_it_back(tmp_path, name):
    model = small_model(name)
    einet.save(model, tmp_path / "thin.safetensors")
    loaded = einet.load(tmp_path / "thin.safetensors")
    x = einet.sample(model, 5, **labels_of(model))
    assert loaded.graph == model.graph
    assert loaded.sum_product == "cp" and torch.equal(loaded(x), model(x))
    assert "sum_product" not in json.dumps(description(small_model("trees"))), "such files are as those of 0.1.0"


def test_the_state_of_the_other_kind_is_refused():
    graph = random_binary_trees(4, 1, 1, seed=0)
    wide = Einet(graph, Bernoulli(), num_sums=1, seed=0)
    with pytest.raises(RuntimeError, match="sum_product was None, and is cp"):
        Einet(graph, Bernoulli(), num_sums=1, sum_product="cp").load_state_dict(wide.state_dict())


def test_a_mixture_is_fitted_of_thin_networks():
    x = (torch.rand(40, 6, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    arguments = {"num_sums": 2, "epochs": 1, "progress": False, "sum_product": "cp"}
    model = einet.fit_mixture(x, 2, random_binary_trees(6, 1, 2, seed=0), Bernoulli(), **arguments)
    assert {network.sum_product for network in model.components} == {"cp"}


def test_lengths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="lengths 2 and 3: num_leaves must be num_sums"):
        CPLayer(1, 2, 2, 3)
    uneven = einet.RegionGraph([(0, 1, 2), (0, 1), (2,), (0,), (1,)], [(0, 1, 2), (1, 3, 4)])
    with pytest.raises(ValueError, match="num_leaves must be num_sums"):
        Einet(uneven, Bernoulli(), num_sums=2, num_leaves=3, sum_product="cp")
    with pytest.raises(ValueError, match="sum_product must be one of tucker, cp, got 'hadamard'"):
        Einet(uneven, Bernoulli(), sum_product="hadamard")
