"""Graphs learned from rows: information by counting, the best tree by trying all, exact circuits."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from oracle import Circuit
from scipy.special import logsumexp
from scipy.stats import entropy

import einet
from einet import Bernoulli, Categorical, Einet, Normal, RegionGraph, chow_liu, pairwise_information

CLOSE = {"rtol": 0, "atol": 1e-12}


def counted(x, observed, pseudocount):
    """Mutual information, pair by pair and value by value; entropies on the diagonal."""
    values = [np.unique(x[observed[:, d], d]) for d in range(x.shape[1])]
    found = np.empty((x.shape[1],) * 2)
    for i, j in itertools.combinations_with_replacement(range(x.shape[1]), 2):
        both = observed[:, i] & observed[:, j]
        table = np.full((len(values[i]), len(values[j])), float(pseudocount))
        np.add.at(table, tuple(np.searchsorted(values[d], x[both, d]) for d in (i, j)), 1)
        table /= table.sum()
        independent = table.sum(1, keepdims=True) * table.sum(0)
        found[i, j] = found[j, i] = entropy(table.sum(0)) if i == j else entropy(table.ravel(), independent.ravel())
    return found


def dependent(num_rows, num_values=(2, 3, 5, 2, 4), seed=0):
    """Whole numbers in columns, each leaning on an earlier one."""
    random = np.random.default_rng(seed)
    columns = [random.integers(0, num_values[0], num_rows)]
    for d, values in enumerate(num_values[1:], 1):
        copied = columns[random.integers(d)] % values
        columns.append(np.where(random.random(num_rows) < 0.6, copied, random.integers(0, values, num_rows)))
    return np.stack(columns, 1)


def edges_of(graph):
    """The tree, or trees, of a graph: (parent, child) for each inner variable."""
    variable = {}
    for region, partitions in enumerate(graph.partitions_of):
        if not partitions:
            (variable[region],) = graph.regions[region].scope
        elif region != graph.root:
            (variable[region],) = graph.regions[partitions[0].children[0]].scope
    trees = [set() for _ in graph.partitions_of[graph.root]]
    for tree, top in zip(trees, graph.partitions_of[graph.root], strict=True):
        waiting = [top]
        while waiting:
            own, *children = waiting.pop().children
            tree |= {(graph.regions[own].scope[0], variable[child]) for child in children}
            waiting += [partition for child in children for partition in graph.partitions_of[child]]
    return trees


# Information


@pytest.mark.parametrize("share", [1.0, 0.7], ids=["complete", "gaps"])
@pytest.mark.parametrize("pseudocount", [0.0, 0.1, 2])
def test_information_is_that_of_the_counts(share, pseudocount):
    x = dependent(40, (2, 3, 1, 5, 8, 2))
    observed = np.random.default_rng(1).random(x.shape) < share
    found = pairwise_information(x, None if share == 1 else observed, pseudocount=pseudocount)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.tensor(counted(x, observed, pseudocount)), **CLOSE)


def test_what_is_not_observed_may_be_anything():
    x, observed = (
        torch.tensor(dependent(60)).float(),
        torch.rand(60, 5, generator=torch.Generator().manual_seed(0)) < 0.8,
    )
    junk = torch.where(observed, x, torch.tensor([math.nan, 77.0])[torch.arange(60) % 2, None])
    assert torch.equal(pairwise_information(junk, observed), pairwise_information(x, observed))
    assert torch.equal(pairwise_information(x, torch.ones(5).bool()), pairwise_information(x))


@pytest.mark.parametrize("rows", [4097, 9000])
def test_rows_are_counted_in_portions(rows):
    x = dependent(rows)
    found = pairwise_information(x, x >= -1)
    torch.testing.assert_close(found, torch.tensor(counted(x, x >= 0, 0.1)), **CLOSE)


@pytest.mark.slow
def test_columns_are_sorted_in_portions():
    x = np.random.default_rng(0).integers(0, 3, (50, 150))
    torch.testing.assert_close(pairwise_information(x), torch.tensor(counted(x, x >= 0, 0.1)), **CLOSE)


@pytest.mark.parametrize("levels", [2, 3, 8, pytest.param(255, marks=pytest.mark.slow)])
def test_many_values_are_binned_by_rank(levels):
    """Any monotone change of the values leaves the bins as they are: as many rows in each, but for one."""
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = pairwise_information(x, levels=levels, pseudocount=0)
    rank = x.argsort(0).argsort(0)
    sizes = torch.full((levels,), 500 // levels)
    sizes[len(sizes) - 500 % levels :] += 1
    bins = torch.repeat_interleave(torch.arange(levels), sizes.sort(descending=True).values)[rank]
    torch.testing.assert_close(found, torch.tensor(counted(bins.numpy(), np.ones(x.shape, bool), 0)), **CLOSE)
    assert torch.equal(found, pairwise_information(x.exp(), levels=levels, pseudocount=0))


def test_a_value_that_most_rows_have_leaves_the_other_levels_to_the_others():
    """Of 800 zeros and 200 other numbers in 5 levels, the zeros are one and 50 rows each of the others."""
    x = torch.cat((torch.zeros(800), torch.arange(1.0, 201)))[:, None]
    entropies = pairwise_information(x, levels=5, pseudocount=0)
    assert entropies.item() == pytest.approx(entropy([800, 50, 50, 50, 50]))


def test_few_values_are_never_merged():
    x = torch.tensor([0.0] * 97 + [1, 2, 3])[:, None]
    assert pairwise_information(x, levels=4, pseudocount=0).item() == pytest.approx(entropy([97, 1, 1, 1]))


def test_arrays_and_tensors_of_all_kinds_are_alike():
    x = dependent(100, (2, 2, 2, 2))
    expected = pairwise_information(x)
    kinds = (torch.uint8, torch.bool, torch.int16, torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for other in (
        *(torch.tensor(x).to(kind) for kind in kinds),
        x.astype(np.float32),
        x == 1,
        x[:, ::1].copy(order="F"),
    ):
        assert torch.equal(pairwise_information(other), expected)


def test_channels_count_by_their_mean_and_images_by_their_pixels():
    images = torch.rand(90, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = pairwise_information(images.mean(3).reshape(90, 6))
    for x in (images, images.reshape(90, 6, 3)):
        torch.testing.assert_close(pairwise_information(x, shape=(2, 3)), expected, **CLOSE)
    torch.testing.assert_close(pairwise_information(images.mean(3), shape=(2, 3)), expected, **CLOSE)
    mask = torch.rand(90, 2, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    assert torch.equal(
        pairwise_information(images, mask, shape=(2, 3)),
        pairwise_information(images.mean(3).reshape(90, 6), mask.reshape(90, 6)),
    )
    assert chow_liu(images, shape=(2, 3)).shape == (2, 3)


# Trees


def all_trees(num_variables):
    """Every tree over the variables, by its Pruefer code."""
    for code in itertools.product(range(num_variables), repeat=num_variables - 2):
        degree = [1 + code.count(v) for v in range(num_variables)]
        edges = []
        for v in code:
            leaf = degree.index(1)
            edges.append((leaf, v))
            degree[leaf] -= 1
            degree[v] -= 1
        edges.append(tuple(v for v in range(num_variables) if degree[v] == 1))
        yield edges


@pytest.mark.parametrize("seed", range(5))
def test_no_tree_has_more_information(seed):
    x = dependent(200, seed=seed)
    information = counted(x, x >= 0, 0.1)
    (found,) = edges_of(chow_liu(x))
    most = max(sum(information[edge] for edge in tree) for tree in all_trees(5))
    assert sum(information[edge] for edge in found) == pytest.approx(most, abs=1e-12)


def test_a_chain_is_found_rooted_in_its_middle_and_as_regions():
    """0 - 1 - 2 - 3 - 4: region 0 splits into {2}, {1, 0} and {3, 4}, and those into two leaves each."""
    random = np.random.default_rng(0)
    flips = random.random((4000, 5)) < 0.1
    x = np.cumsum(flips, 1) % 2
    x[:, 0] = random.integers(0, 2, 4000)
    x = (x[:, :1] + np.cumsum(flips, 1) - flips[:, :1]) % 2
    graph = chow_liu(x)
    scopes = {graph.regions[part].scope for part in graph.partitions_of[graph.root][0].children}
    assert scopes == {(2,), (0, 1), (3, 4)}
    assert (len(graph.regions), len(graph.leaves), len(graph.partitions)) == (8, 5, 3)
    assert edges_of(graph) == [{(2, 1), (1, 0), (2, 3), (3, 4)}]


@pytest.mark.parametrize("seed", range(4))
def test_the_root_is_the_centre(seed):
    """No other root makes the tree flatter."""
    x = np.random.default_rng(seed).integers(0, 2, (30, 12))
    graph = chow_liu(x)
    (tree,) = edges_of(graph)
    near = {v: [b for a, b in [*tree, *((b, a) for a, b in tree)] if a == v] for v in range(12)}

    def height(variable, parent=None):
        return max((1 + height(other, variable) for other in near[variable] if other != parent), default=0)

    root = graph.regions[graph.partitions_of[graph.root][0].children[0]].scope[0]
    assert height(root) == min(map(height, range(12)))
    assert len(graph.topological_layers()) == 1 + height(root), "a leaf of the tree has no layer of its own"


def test_constant_and_equal_columns_do_no_harm():
    x = torch.tensor(dependent(100, (2, 3, 1, 2, 1, 2)))
    x[:, 5], x[:, 4] = x[:, 0], 7
    information = pairwise_information(x)
    assert (information[[2, 4]] == 0).all() and information[0, 5] > 0.9 * information[0, 0]
    (tree,) = edges_of(chow_liu(x))
    assert {(0, 5), (5, 0)} & tree and len(tree) == 5
    model = Einet(chow_liu(x), Categorical(categories=8), num_sums=2, sum_product="cp", seed=0)
    einet.fit(model, x.float(), epochs=2, progress=False)
    assert model(x.float()).isfinite().all()


def test_one_row_and_one_or_two_columns():
    assert chow_liu(torch.zeros(1, 1)) == RegionGraph([{0}])
    assert edges_of(chow_liu(torch.zeros(1, 2))) in ([{(0, 1)}], [{(1, 0)}])
    assert chow_liu(torch.zeros(1, 30)).num_variables == 30


def undirected(trees):
    return [frozenset(map(frozenset, tree)) for tree in trees]


@pytest.mark.parametrize("columns, most", [(3, 3), (4, 16), (9, 40)])
def test_several_trees_below_one_root_are_all_different(columns, most):
    """Even where all rows are alike, and up to as many as there are."""
    for x in (torch.zeros(20, columns), torch.tensor(dependent(50, (2,) * columns))):
        graph = chow_liu(x, num_trees=most)
        trees = undirected(edges_of(graph))
        assert len(set(trees)) == len(trees) == most == len(graph.partitions_of[graph.root])
        assert trees[0] == undirected(edges_of(chow_liu(x)))[0]
        assert len(graph.leaves) == most * columns, "trees share nothing but the root"


def test_a_graph_is_a_function_of_rows_and_seed():
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    graph = chow_liu(x, num_trees=4, seed=3)
    assert torch.equal(state, torch.get_rng_state()), "nobody else's random numbers are taken"
    assert graph == chow_liu(x.numpy(), num_trees=4, seed=3) != chow_liu(x, num_trees=4, seed=4)


# Circuits over them


def chow_liu_log_density(x, tree, table):
    """The Chow-Liu tree: log p(root) and log p(child | parent) along every edge; table(i, j) is p(x_i, x_j)."""
    root = next(iter({a for a, _ in tree} - {b for _, b in tree}))
    total = np.log(table(root, root).sum(1)[x[:, root]])
    for parent, child in tree:
        joint = table(parent, child)
        total += np.log((joint / joint.sum(1, keepdims=True))[x[:, parent], x[:, child]])
    return total


def variables_of(graph):
    """Of each region the variable of its leaf, and of each child the variable above it."""
    own = {leaf: graph.regions[leaf].scope[0] for leaf in graph.leaves}
    own |= {partition.region: own[partition.children[0]] for partition in graph.partitions}
    return own, {child: own[partition.region] for partition in graph.partitions for child in partition.children}


def at_the_tables_(model, table):
    """Entry k of a region is its density given that the variable above is k, by the tree's tables."""
    circuit, (own, above) = Circuit(model), variables_of(model.graph)  # of a float64 model, arrays in its memory

    def given_above(region):
        joint = table(above[region], own[region])
        return joint / joint.sum(1, keepdims=True)

    for region, (node,) in circuit.sums.items():
        node.weights[:] = given_above(region) if region in above else table(own[region], own[region]).sum(1)
    for leaf, parameters in circuit.leaves.items():
        beside_its_latent = above[leaf] == own[leaf]
        parameters[own[leaf]][1][:, 0] = np.eye(model.num_sums) if beside_its_latent else given_above(leaf).T


def test_with_the_trees_tables_a_circuit_is_the_chow_liu_tree():
    x = np.concatenate((dependent(300, (3,) * 9), dependent(50, (3,) * 9, seed=1)))
    graph = chow_liu(x)
    model = Einet(graph, Categorical(categories=3), num_sums=3, sum_product="cp").double()

    def table(i, j):
        counts = np.full((3, 3), 0.1)
        np.add.at(counts, (x[:, i], x[:, j]), 1)
        counts = counts if i != j else np.diag(np.bincount(x[:, i], minlength=3) + 0.1)
        return counts / counts.sum()

    at_the_tables_(model, table)
    rows = torch.tensor(list(itertools.product(range(3), repeat=9)))[::37]
    expected = chow_liu_log_density(rows.numpy(), edges_of(graph)[0], table)
    torch.testing.assert_close(model(rows.double()), torch.tensor(expected), rtol=0, atol=1e-9)
    assert max(len(p.children) for p in graph.partitions) > 2


def test_a_hidden_tree_is_the_sum_over_its_latent_states():
    """log p(x) = log sum_z p(z) p(x | z), over all states of all latent variables, with the model's own parameters."""
    x = torch.tensor(dependent(300, (2,) * 10))
    graph = chow_liu(x)
    model = Einet(graph, Bernoulli(), num_sums=2, sum_product="cp", seed=0).double()
    circuit = Circuit(model)
    above = {child: region for region, (node,) in circuit.sums.items() for child in node.children}
    rows, terms = x[:20].numpy(), []
    assert 3 <= len(circuit.sums) <= 9
    for state in itertools.product(range(2), repeat=len(circuit.sums)):
        z = dict(zip(circuit.sums, state, strict=True))
        term = np.zeros(len(rows))
        for region, (node,) in circuit.sums.items():  # a transition, from the latent above
            term += np.log(node.weights[z[above[region]] if region in above else 0, z[region]])
        for leaf, parameters in circuit.leaves.items():
            ((v, (_, phi)),) = parameters.items()
            p = phi[0, 0, z[above[leaf]]]
            term += np.log(np.where(rows[:, v] == 1, p, 1 - p))
        terms.append(term)
    expected = logsumexp(terms, axis=0)
    torch.testing.assert_close(model(x[:20].double()), torch.tensor(expected), rtol=0, atol=1e-9)


def test_a_learned_tree_is_better_than_a_random_one():
    """On rows of a long chain, which random halves tear apart."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(1500, 20, generator=generator) < 0.1).cumsum(1) % 2
    x, fresh = x[:1000].float(), x[1000:].float()
    found = []
    for graph in (chow_liu(x), einet.random_binary_trees(20, 4, 4, seed=0)):
        model = Einet(graph, Bernoulli(), num_sums=4, sum_product="cp", seed=0)
        einet.fit(model, x, epochs=10, progress=False, seed=0)
        found.append(model(fresh).mean().item())
    truth = 20 * -entropy([0.1, 0.9])
    assert truth - 0.7 < found[0] and found[1] < found[0] - 0.5


@pytest.mark.parametrize("leaf", [Normal(), Bernoulli()])
def test_einsum_layers_take_the_binary_graph(leaf):
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))
    x = x if isinstance(leaf, Normal) else (x > 0).float()
    model = Einet(chow_liu(x, num_trees=2).binary(), leaf, num_sums=2, seed=0)
    assert model(x).isfinite().all()


# Wide tables


@pytest.mark.slow
def test_wide_tables_take_seconds():
    x = torch.randint(0, 2, (2461, 1556), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    start = time.process_time()
    graph = chow_liu(x)
    assert time.process_time() - start < 3 and graph.num_variables == 1556


# What is refused


@pytest.mark.parametrize("question", [chow_liu, pairwise_information])
@pytest.mark.parametrize(
    "x, observed, arguments, message",
    [
        ([[0, 1]], None, {}, "real tensor, got list"),
        (np.array([["a", "b"]]), None, {}, "x must be an array of numbers, got one of <U1"),
        (torch.zeros(2, 2, dtype=torch.complex64), None, {}, "got torch.complex64"),
        (torch.zeros(0, 3), None, {}, "at least one row"),
        (torch.zeros(3, 0), None, {}, "at least one column"),
        (torch.zeros(3), None, {}, "must have shape"),
        (torch.zeros(2, 3, 4, 5), None, {}, "must have shape"),
        (torch.zeros(2, 3, 4), None, {"shape": (3, 5)}, r"\(2, 3, 4\)"),
        (torch.zeros(2, 3), None, {"shape": (3, 0)}, r"shape\[1\] must be an integer of at least 1, got 0"),
        (torch.zeros(2, 3), torch.ones(2, 2).bool(), {}, r"observed must have shape .*, got \(2, 2\)"),
        (torch.zeros(2, 3), torch.ones(2, 3), {}, "observed must be a bool"),
        (torch.zeros(2, 3), torch.tensor([True, False, True]), {}, "column 1 has none"),
        (torch.tensor([[0.0, 1], [2, math.nan]]), None, {}, "got nan in row 1, column 1"),
        (torch.tensor([[0.0, math.inf], [2, 1]]), None, {}, "got inf in row 0, column 1"),
        (torch.zeros(2, 3), None, {"levels": 1}, "levels must be an integer of at least 2, got 1"),
        (torch.zeros(2, 3), None, {"levels": 256}, "from 2 to 255, got 256"),
        (torch.zeros(2, 3), None, {"levels": 2.5}, "levels must be an integer"),
        (torch.zeros(2, 3), None, {"pseudocount": -1}, "at least 0, got -1"),
        (torch.zeros(2, 3), None, {"pseudocount": math.inf}, "finite"),
    ],
)
def test_bad_input_is_refused(question, x, observed, arguments, message):
    with pytest.raises(ValueError, match=message):
        question(x, observed, **arguments)


@pytest.mark.parametrize("columns, num_trees, message", [
    (5, 0, "num_trees must be an integer of at least 1, got 0"),
    (5, 1.0, "num_trees must be an integer"),
    (4, 17, "num_trees must be at most 16, the trees over 4 variables, got 17"),
    (2, 2, "at most 1,"),
    (1, 2, "at most 1,"),
])  # fmt: skip
def test_more_trees_than_there_are_are_refused(columns, num_trees, message):
    with pytest.raises(ValueError, match=message):
        chow_liu(torch.zeros(3, columns), num_trees=num_trees)


# In mixtures and estimators


def two_kinds(num_rows=200):
    """Of one kind neighbours agree, of the other opposites: each has a tree of its own."""
    random = np.random.default_rng(0)
    x = random.integers(0, 2, (num_rows, 8))
    flipped = random.random((num_rows, 4)) < 0.05
    x[::2, 1::2] = x[::2, ::2] ^ flipped[::2]
    x[1::2, 4:] = x[1::2, :4] ^ flipped[1::2]
    x = np.concatenate((x, np.arange(num_rows)[:, None] % 2 * np.ones((1, 12), int)), 1)  # which k-means tells apart
    return torch.tensor(x).float()


FEW = {"num_sums": 2, "sum_product": "cp", "epochs": 2, "progress": False}


def test_each_component_has_the_tree_of_its_rows(tmp_path):
    x = two_kinds()
    model = einet.fit_mixture(x, 2, chow_liu, Bernoulli(), **FEW)
    shares = x[::2], x[1::2]
    assert {c.graph for c in model.components} == {chow_liu(share) for share in shares}
    einet.save(model, tmp_path / "mixture.safetensors")
    loaded = einet.load(tmp_path / "mixture.safetensors")
    assert [c.graph for c in loaded.components] == [c.graph for c in model.components]
    assert torch.equal(loaded(x), model(x))
    einet.fit(model, x, epochs=1, progress=False)
    assert model(x).mean() > loaded(x).mean() - 0.1


def test_one_graph_for_all_goes_by_either_name():
    x = two_kinds(40)
    graph = einet.random_binary_trees(20, 1, 2, seed=0)
    found = [
        einet.fit_mixture(x, 2, graph, Bernoulli(), **FEW),
        einet.fit_mixture(x, 2, structure=graph, leaf=Bernoulli(), **FEW),
        einet.fit_mixture(x, 2, graph=graph, leaf=Bernoulli(), **FEW),
        einet.fit_mixture(x, 2, lambda rows, observed: graph, Bernoulli(), **FEW),
    ]
    assert all(torch.equal(found[0](x), other(x)) for other in found[1:])


def test_a_structure_sees_the_rows_of_a_cluster_and_their_masks():
    x, observed = two_kinds(), torch.rand(200, 20, generator=torch.Generator().manual_seed(0)) < 0.9
    seen = []

    def structure(rows, masks):
        seen.append((rows, masks))
        return chow_liu(rows, masks).binary()

    model = einet.fit_mixture(x, 2, structure, Bernoulli(), observed, **{**FEW, "sum_product": "tucker"})
    assert sorted(len(rows) for rows, _ in seen) == sorted((model.weights * 200).round().int().tolist())
    for rows, masks in seen:
        own = (x[:, None] == rows).all(2).any(1)
        assert torch.equal(x[own], rows) and torch.equal(observed[own], masks)


def test_images_keep_their_grid():
    images = torch.rand(30, 3, 4, 3, generator=torch.Generator().manual_seed(0))
    model = einet.fit_mixture(
        images, 2, lambda x, observed: chow_liu(x, observed, shape=(3, 4)), Normal(channels=3), **FEW
    )
    assert model(images).isfinite().all() and {c.graph.shape for c in model.components} == {(3, 4)}


def test_an_interrupted_mixture_of_trees_goes_on(tmp_path):
    x = two_kinds(60)
    whole = einet.fit_mixture(x, 2, chow_liu, Bernoulli(), checkpoint_folder=tmp_path, **FEW)
    (tmp_path / "component-1.safetensors").unlink()
    again = einet.fit_mixture(x, 2, chow_liu, Bernoulli(), checkpoint_folder=tmp_path, **FEW)
    assert torch.equal(whole(x), again(x))
    with pytest.raises(ValueError, match="model was"):
        other = einet.random_binary_trees(20, 1, 2, seed=0)
        einet.fit_mixture(x, 2, other, Bernoulli(), checkpoint_folder=tmp_path, **FEW)


@pytest.mark.parametrize("arguments, message", [
    ({}, "takes one structure"),
    ({"structure": chow_liu, "graph": RegionGraph([range(20)])}, "takes one structure"),
    ({"structure": "tree"}, "structure must be a RegionGraph, or a function from rows to one, got 'tree'"),
    ({"structure": lambda x, observed: None}, "structure must return a RegionGraph, got NoneType"),
    ({"structure": lambda x, observed: RegionGraph([range(3)])}, "over 20 variables, got a graph over 3"),
    ({"structure": chow_liu(two_kinds(40)), "sum_product": "tucker"}, r"graph\.binary\(\)"),
    ({"structure": chow_liu, "leaf": None}, "and a leaf"),
    ({"structure": chow_liu, "leaf": "Normal"}, "leaf must be"),
    ({"structure": chow_liu, "x": [[1.0]]}, "real tensor"),
    ({"structure": chow_liu, "x": torch.tensor(1.0)}, "shape"),
])  # fmt: skip
def test_structures_that_are_none_are_refused(arguments, message, tmp_path):
    given = {"x": two_kinds(40), "num_components": 2, "leaf": Bernoulli(), **FEW, **arguments}
    with pytest.raises(ValueError, match=message):
        einet.fit_mixture(**given)


def test_estimators_learn_their_structure():
    from sklearn.base import clone

    from einet.tables import EinetClassifier, EinetDensity

    x = two_kinds(120).numpy().astype(float)
    x[::7, 3] = math.nan
    settings = {"structure": chow_liu, "sum_product": "cp", "num_sums": 2, "epochs": 3, "random_state": 0}
    density = clone(EinetDensity(**settings)).fit(x)
    assert density.model_.graph == chow_liu(x, ~np.isnan(x)) and density.model_.sum_product == "cp"
    assert np.isfinite(density.score_samples(x)).all()
    halved = EinetDensity(**{**settings, "sum_product": "tucker"}).fit(x)  # whose sums take pairs
    assert halved.model_.graph == density.model_.graph.binary() != density.model_.graph
    classifier = EinetClassifier(**{**settings, "structure": density.model_.graph}).fit(x, np.arange(120) % 2)
    assert classifier.model_.graph == density.model_.graph
    np.testing.assert_allclose(classifier.predict_proba(x).sum(1), 1)
    for wrong, message in (
        ("tree", "structure must be a RegionGraph, a function from rows to one, or None, got 'tree'"),
        (RegionGraph([range(3)]), "over 20 variables, got a graph over 3"),
    ):
        with pytest.raises(ValueError, match=message):
            EinetDensity(structure=wrong).fit(x)
