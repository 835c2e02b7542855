"""Time and memory grow in proportion to the input: work is counted at three sizes, never timed.

Python's work is counted in steps of its interpreter, torch's in bytes of the tensors that its operators make.
"""

import gc

import pytest
import torch
from work import assert_proportional, made, steps

import einet
from einet import network
from einet.em import leaf_uses
from einet.graph.plan import by_lengths, of_one_layer, plan
from einet.layers import sums as layers
from einet.layers.scaled import Scaled
from einet.layers.sums import EinsumLayer

# Graphs


def trees(replicas):
    return einet.random_binary_trees(16, 4, replicas, seed=0)


def chain(length):
    """A region over the first variables for each number of them, the root first."""
    whole = [range(length - i) for i in range(length)]
    last = [[length - 1 - i] for i in range(length - 1)]
    return einet.RegionGraph([*whole, *last], [(i, i + 1, length + i) for i in range(length - 1)])


def star(leaves):
    """One leaf region in so many partitions, beside as many leaf regions that are in one each."""
    regions = [[0], *[[1]] * leaves, [0, 1]]
    return einet.RegionGraph(regions, [(leaves + 1, 0, i + 1) for i in range(leaves)])


class Counted(tuple):
    """Counts how many of its elements are gone through, by C as well."""

    passed = 0

    def __iter__(self):
        Counted.passed += len(self)
        return super().__iter__()


@pytest.mark.parametrize("grouped", [by_lengths, of_one_layer])
@pytest.mark.parametrize("graph", [trees, chain, star])
def test_compiling(graph, grouped, monkeypatch):
    table, layers = [], einet.RegionGraph.topological_layers
    monkeypatch.setattr(einet.RegionGraph, "topological_layers", lambda self: tuple(map(Counted, layers(self))))
    for size in (20, 40, 80):
        made_of = graph(size)
        Counted.passed = 0
        count = steps(lambda made_of=made_of: plan(made_of, 0, grouped))
        table.append((len(made_of.regions) + len(made_of.partitions), count + Counted.passed))
    assert_proportional(table)


@pytest.mark.parametrize("graph", [trees, chain, star])
def test_graphs_from_json(graph):
    """Scopes of inner regions are filled in, in whichever order they stand, in proportion to what they hold."""
    table = []
    for size in (20, 40, 80):
        made_of = graph(size)
        text = made_of.to_json()
        assert einet.RegionGraph.from_json(text) == made_of
        listed = sum(len(region.scope) for region in made_of.regions)
        table.append((listed, steps(lambda text=text: einet.RegionGraph.from_json(text))))
    assert_proportional(table)


@pytest.mark.parametrize("graph", [trees, chain, star])
def test_replicas(graph):
    table = []
    for size in (20, 40, 80):
        made_of = graph(size)
        listed = sum(len(made_of.regions[leaf].scope) for leaf in made_of.leaves)
        assert made_of.num_replicas == {trees: size, chain: 1, star: size}[graph]
        del made_of.__dict__["replica_of"]
        table.append((listed, steps(lambda made_of=made_of: made_of.replica_of)))
    assert_proportional(table)


@pytest.fixture
def plans(monkeypatch):
    """The graphs for which a plan is made."""
    found = []
    monkeypatch.setattr(network, "plan", lambda graph, *how: found.append(repr(graph)) or plan(graph, *how))
    return found


def test_a_graph_is_compiled_once_for_all_components(plans, tmp_path):
    graph = einet.random_binary_trees(6, 2, 3, seed=143)  # which no other test has: equal graphs are one
    networks = [einet.Einet(graph, einet.Bernoulli(), num_sums=2 + s, seed=s) for s in range(4)]
    assert len(plans) == 1, "whatever the lengths of the vectors"
    networks += [einet.Einet(graph, einet.Bernoulli(), num_sums=2, num_leaves=n, seed=n) for n in (3, 5)]
    assert len(plans) == 2, "lengths that differ are paired otherwise"
    equal = einet.RegionGraph.from_json(graph.to_json())
    assert einet.Einet(equal, einet.Bernoulli(), num_sums=2, seed=0).leaf_order == networks[0].leaf_order
    assert len(plans) == 2, "equal graphs are one graph"

    other = einet.random_binary_trees(6, 2, 3, seed=1)
    mixture = [einet.Einet(g, einet.Bernoulli(), num_sums=2, seed=s) for s, g in enumerate([graph, other] * 3)]
    einet.save(einet.Mixture(mixture, [1 / 6] * 6), tmp_path / "mixture.safetensors")
    del networks, mixture, graph, other, equal, plans[:]
    gc.collect()
    loaded = einet.load(tmp_path / "mixture.safetensors")
    assert len(loaded.components) == 6 and len(plans) == 2


@pytest.mark.slow
def test_plans_go_with_their_graphs():
    graph = einet.random_binary_trees(7, 2, 3, seed=0)
    model = einet.Einet(graph, einet.Bernoulli(), num_sums=2)
    assert graph in network._plans
    model.leaf_order.clear()  # a network's own list
    assert einet.Einet(graph, einet.Bernoulli(), num_sums=2).leaf_order
    before = len(network._plans)
    del graph, model
    gc.collect()
    assert len(network._plans) < before


def test_tables_of_children():
    table = []
    for size in (50, 100, 200):
        model = einet.Einet(star(size), einet.Bernoulli(), num_sums=2, seed=0).double()
        table.append((size, sum(buffer.numel() for buffer in model.levels.buffers())))
        x = torch.randint(0, 2, (5, 2)).double()
        model(x).sum().backward()
        (layer,), (pool,) = model.levels[0].einsums, model.levels[0].children_of[0]
        counts = (layer.weights * layer.weights.grad).sum(1).view(size, 2, 2).detach()
        uses = torch.zeros(size + 1, 2, dtype=torch.float64)
        uses.index_add_(0, pool.rows, torch.cat((counts.sum(2), counts.sum(1))))
        with torch.no_grad():
            torch.testing.assert_close(leaf_uses(model), uses, rtol=1e-12, atol=1e-12)
    assert_proportional(table)


def test_leaf_layers_of_many_shapes():
    """A group of regions for each size of a scope: finding them is one pass over the regions."""
    table = []
    for size in (10, 20, 40):
        scopes = [range(width) for width in range(1, size + 1)] + [[0]] * size**2
        count = steps(lambda scopes=scopes, n=size: einet.leaves.LeafLayer(scopes, {einet.Bernoulli(): range(n)}, 1))
        table.append((sum(map(len, scopes)), count))
    assert_proportional(table)


# Queries


def test_probabilities(monkeypatch):
    """Beside the answer there is a portion of the leaf parameters: no table of values x values, nor all at once."""
    monkeypatch.setattr("einet.leaves.factorised.CHUNK_NUMEL", 2**10)
    many_leaves, one_leaf = einet.random_binary_trees(8, 1, 4, seed=0), einet.random_binary_trees(64, 0, 1)
    for family, graph in ((einet.Categorical, many_leaves), (lambda values: einet.Binomial(values - 1), one_leaf)):
        for values in (12, 24, 48):
            model = einet.Einet(graph, family(values), num_sums=8, seed=0)
            x, observed = torch.zeros(1, graph.num_variables), torch.arange(graph.num_variables) < 2
            marginals = einet.conditional_marginals(model, x, observed)
            answer = 8 * marginals.probabilities().numel()
            assert made(marginals.probabilities).largest <= 2 * answer + 8 * 2**10, values


def test_log_densities_of_categories():
    """A look-up: no number for each category of each result, which a family's formula would make."""
    phi = torch.rand(64, 1, 5)
    phi /= phi.sum(0)
    x = torch.randint(0, 64, (1000, 1))
    assert made(lambda: einet.Categorical(64).log_density(x, phi)).largest <= 8 * 1000 * 5
    assert torch.equal(einet.Categorical(64).log_density(x, phi), phi.log()[x[:, 0], 0] - phi.log().logsumexp(0))


@pytest.mark.parametrize("leaf", [einet.Normal(), einet.Categorical(4)])
@pytest.mark.slow
def test_log_density_of_more_rows(leaf, monkeypatch):
    monkeypatch.setattr("einet.queries.marginals.CHUNK_NUMEL", 2**8)
    model, table = einet.Einet(einet.random_binary_trees(8, 2, 2, seed=0), leaf, num_sums=4, seed=0), []
    for rows in (50, 100, 400):
        x, observed = einet.sample(model, rows), torch.rand(rows, 8) < 0.5
        marginals = einet.conditional_marginals(model, x, observed)
        table.append((rows, made(lambda m=marginals, x=x: m.log_density(x)).total))
    assert_proportional(table)


@torch.no_grad()
@pytest.mark.slow
def test_maxima_of_long_vectors():
    """Of the K x K products of each of the K maxima few are made. All would be more than 4 K^3 bytes for each row."""
    generator = torch.Generator().manual_seed(0)
    for entries in (64, 96, 128):
        layer = EinsumLayer(1, entries, entries, entries)
        network.normalized_(layer.weights, layer.weight_dim, generator)
        for spread in (0.1, 3):  # entries that differ little, and much
            logs = -spread * torch.rand(2, entries, 100, generator=generator)
            left, right = (Scaled.from_log(part.double(), torch.float32) for part in logs.split(1))
            found = []
            count = made(lambda: found.append(layer.maximum(left, right)))  # noqa: B023
            assert count.total < 4 * 0.4 * entries**3 * 100, (entries, spread)
            outer = (left.value[:, :, None] * right.value[:, None]).flatten(1, 2)
            plain = torch.empty_like(found[0].value)
            layers._all_choices(layer.weights, outer, plain)
            assert torch.equal(found[0].value, plain / plain.amax(1, keepdim=True))


def test_maxima_where_nothing_is_possible():
    """All products are 0, so none can be left out; they are 0 all the same."""
    weights, outer, maxima = torch.rand(1, 2, 4096), torch.zeros(1, 4096, 3), torch.ones(1, 2, 3)
    layers._likely_choices(weights, outer, maxima)
    assert torch.equal(maxima, torch.zeros(1, 2, 3))
