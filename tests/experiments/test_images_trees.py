"""experiments/images: learned trees that start from clusters, smooth histograms, and what pictures are measured by."""

import math
from dataclasses import replace

import pytest
import torch
from test_images_experiment import drawn, made  # noqa: F401  (a fixture)

import einet
from einet.inpaint.circuit import circuit
from experiments.images import blur, measures, recipes, starts
from experiments.images.recipes import Recipe

LEVELS = 6


@pytest.fixture
def rows():
    """Grey 4 x 4 rows of two kinds, dark above or dark below, as numbers from 0 to 5."""
    return (drawn(400, 1, 0).train.flatten(1) // 43).float()


def tree_of(rows, leaf, sums=3):
    graph = einet.chow_liu(rows, shape=(4, 4))
    return einet.Einet(graph, leaf, num_sums=sums, sum_product="cp", concentration=1.0, seed=0)


# The start


@pytest.mark.parametrize("leaf", [einet.Categorical(LEVELS), einet.Normal(min_variance=1e-2)], ids=["bars", "bells"])
def test_a_start_from_clusters_is_ahead_of_em_from_random_weights(rows, leaf):
    network, other = tree_of(rows, leaf), tree_of(rows, leaf)
    starts.start_from_clusters(network, rows[:300], 1.5, seed=0)
    einet.fit(other, rows[:300], epochs=1, batch_size=50, progress=False)
    found, beside = (einet.log_density(each, rows[300:]).mean() for each in (network, other))
    assert found > beside + 1
    for layer in network.sum_layers():
        torch.testing.assert_close(layer.weights.sum(layer.weight_dim), torch.ones_like(layer.weights.sum(-1)))


def test_counting_is_what_the_states_say(rows, monkeypatch):
    """With the kind of each row as the state of all nodes, the tree is a mixture of two products."""
    kind = (rows[:, 0] > rows[:, 15]).long()
    monkeypatch.setattr(starts, "clusters", lambda *_: kind)
    monkeypatch.setattr(starts, "PSEUDOCOUNT", 1e-9)
    network = tree_of(rows, einet.Categorical(LEVELS, floor=1e-9), sums=2)
    starts.start_from_clusters(network, rows, 1.0, seed=0)
    network = network.double()
    total = torch.zeros(len(rows), dtype=torch.float64)
    for each in (0, 1):
        own = rows[kind == each]
        share = torch.stack([(own == level).double().mean(0) for level in range(LEVELS)])
        total += share.gather(0, rows.long()).prod(1) * len(own) / len(rows)
    torch.testing.assert_close(network(rows).exp().detach(), total, rtol=1e-3, atol=1e-12)


def test_every_parameter_is_set(rows):
    """Two networks of other random parameters are equal after the start."""
    one, two = (tree_of(rows, einet.Categorical(LEVELS)) for _ in range(2))
    two.reset_parameters(seed=5)
    for network in (one, two):
        starts.start_from_clusters(network, rows, 1.5, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert circuit(one)["levels"]


def test_a_bell_is_around_the_mean_place():
    weight = starts.bell([5, 6], (4, 4), 1.0).view(4, 4)
    assert weight[1, 1] == weight[1, 2] == weight.max()
    assert weight[1, 0] == weight[1, 3] < weight[1, 1]
    assert (weight[weight > 0] >= starts.LEAST_WEIGHT).all() and (weight == 0).any()


def test_shares_are_counts():
    above, below = torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 0, 0])
    counted = torch.tensor([[1.5 / 4, 2.5 / 4], [1.5 / 2, 0.5 / 2]])
    torch.testing.assert_close(starts.shares(above, below, 2, 2), counted)


# Smooth histograms


def test_blurred_counts_keep_their_sum_and_their_ends():
    counts = torch.rand(12, 2, 3, generator=torch.Generator().manual_seed(0))
    mixed = blur.blurred(counts, 1.5)
    torch.testing.assert_close(mixed.sum(0), counts.sum(0))
    assert torch.equal(mixed[[0, -1]], counts[[0, -1]])
    slow = torch.zeros_like(counts[1:-1])
    for source in range(10):
        offset = torch.arange(10.0) - source
        bell = torch.where(offset.abs() <= 4, torch.exp(-(offset**2) / 4.5), 0)
        slow += bell[:, None, None] / bell.sum() * counts[1 + source]
    torch.testing.assert_close(mixed[1:-1], slow)


def test_a_full_step_of_blurred_em_is_the_blurred_histogram():
    graph = einet.RegionGraph([(0,)])
    x = torch.randint(8, (500, 1), generator=torch.Generator().manual_seed(0)).float()
    network = einet.Einet(graph, einet.Categorical(8), num_sums=1, seed=0)
    for model in (network, einet.Mixture([network], [1.0])):
        network.reset_parameters(0)
        optimizer = blur.BlurredEM(model, 1.0, 0.0, 1.0)
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        shares = torch.bincount(x[:, 0].long(), minlength=8)[:, None] / 500
        torch.testing.assert_close(network.leaves.parts[0].phi[:, 0, 0], blur.blurred(shares, 1.0), atol=1e-4, rtol=0)


def test_what_blurred_em_refuses(rows):
    with pytest.raises(ValueError, match="must be Categorical"):
        blur.BlurredEM(tree_of(rows, einet.Normal()), 0.5, 0.0, 1.0)
    with pytest.raises(ValueError, match="closure must be None"):
        blur.BlurredEM(tree_of(rows, einet.Categorical(LEVELS)), 0.5, 0.0, 1.0).step(lambda: 0.0)


# Measures


def test_roughness_is_the_mean_difference_of_neighbours():
    board = (torch.arange(4)[:, None] + torch.arange(4)) % 2 * 10
    assert measures.roughness(board[None].to(torch.uint8)) == 10
    stripes = (torch.arange(4)[:, None] % 2 * 10).expand(4, 4)
    assert measures.roughness(stripes[None]) == 5


def test_covers_hide_a_half_each():
    for visible in measures.covers((4, 6)).values():
        assert visible.shape == (4, 6) and visible.sum() == 12


@pytest.mark.parametrize("leaves", ["Normal", "Categorical"])
def test_hidden_halves_of_independent_pixels(leaves):
    """Where pixels are independent, the answer is each pixel's own mean, whatever is visible."""
    data = drawn(60, 20, 0)
    recipe = Recipe("", leaves=leaves, max_variance=1.0)
    graph = einet.poon_domingos((4, 4), 1, max_depth=0)
    network = einet.Einet(graph, recipe.family(1), num_sums=1, num_leaves=1, seed=0)
    x = recipes.inputs(data.train, recipe, 0)
    einet.fit(network, x, epochs=1, batch_size=None, lr=1.0, progress=False)
    found = measures.hidden_halves(network, data, recipe, 0)
    test = data.test.float()
    for name, visible in measures.covers((4, 4)).items():
        away = (test - data.train.float().mean(0))[:, ~visible].square().mean().sqrt().item()
        assert found[name]["mean"] == pytest.approx(away, abs=0.3)
        assert found[name]["draw"] > found[name]["mean"] > found[name]["class_mean"] > 0
        observed = visible.flatten().expand(20, -1)
        asked = recipes.inputs(data.test, recipe, 2)
        hidden = einet.log_density(network, asked, ~observed).mean().item() / 8
        bound = math.log(256) if leaves == "Normal" else 0
        assert found[name]["nats"] == pytest.approx(hidden - bound, abs=1e-3)


# Runs


def test_trees_over_clusters_are_recorded_and_resumed(made, tmp_path):  # noqa: F811
    words = ["--only", "fashion-trees-32-joint", "--held-out", "0.2"]
    failures, records = made(*words)
    record = records["fashion-trees-32-joint"]
    assert failures == 0 and set(record["roughness"]) == {"samples", "without_noise"}
    assert record["settings"]["structure"] == "tree" and record["settings"]["layer"] == "cp"
    files = sorted(file.name for file in (tmp_path / "runs").rglob("*.safetensors"))
    assert files == ["clusters.safetensors", "network-0.safetensors", "network-1.safetensors", "together.safetensors"]
    again = made(*words, "--again")[1]["fashion-trees-32-joint"]
    assert again["bits_per_dimension"] == record["bits_per_dimension"] and again["seconds"] == record["seconds"]


@pytest.mark.parametrize("name", ["fashion-quad-32", "fashion-tree-random-32", "fashion-tree-32"])
def test_all_structures_are_trained(made, name):  # noqa: F811
    failures, records = made("--only", name, "--clusters", "1")
    assert failures == 0 and 0 < records[name]["bits_per_dimension"] < 8


def test_structures_of_recipes():
    x = drawn(60, 20, 0).train.flatten(1)
    recipe = Recipe("", structure="tree", delta=(2,))
    assert all(len(p.children) == 2 for p in recipes.graph_of(recipe, x, (4, 4)).partitions)
    assert recipes.graph_of(replace(recipe, layer="cp"), x, (4, 4)) == einet.chow_liu(x, shape=(4, 4))
    assert recipes.graph_of(replace(recipe, structure="quadrants"), x, (4, 4)) == einet.quad_graph((4, 4))
    assert recipes.graph_of(replace(recipe, structure="rectangles"), x, (4, 4)) == einet.poon_domingos((4, 4), 2, (0,))
