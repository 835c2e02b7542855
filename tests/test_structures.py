"""RAT, PD and quadrants: the exact sizes of the structures, and the rules that they follow."""

import random
import time
from collections import Counter
from math import comb

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from einet import Bernoulli, Einet, RegionGraph, poon_domingos, quad_graph, random_binary_trees


def sizes(graph):
    """Inner regions, leaf regions, partitions."""
    return len(graph.regions) - len(graph.leaves), len(graph.leaves), len(graph.partitions)


def scopes(graph):
    return [region.scope for region in graph.regions]


def depths(graph):
    """The longest path from the root to each region."""
    depth = [0] * len(graph.regions)
    for layer in reversed(graph.topological_layers()[1:]):
        for partition in (p for region in layer for p in graph.partitions_of[region]):
            for child in partition[1:]:
                depth[child] = max(depth[child], depth[partition.region] + 1)
    return depth


# Random binary trees


@given(st.integers(0, 4), st.integers(1, 6), st.integers(0, 99))
def test_rat_has_the_sizes_of_complete_trees(depth, num_replicas, seed):
    graph = random_binary_trees(num_variables=16, depth=depth, num_replicas=num_replicas, seed=seed)
    if depth == 0:
        assert sizes(graph) == (0, 1, 0)
        return
    inner, leaves = num_replicas * (2**depth - 2) + 1, num_replicas * 2**depth
    assert sizes(graph) == (inner, leaves, num_replicas * (2**depth - 1))


def test_rat_halves_are_near_equal():
    graph = random_binary_trees(num_variables=23, depth=3, num_replicas=4, seed=0)
    for _, left, right in graph.partitions:
        assert abs(len(graph.regions[left].scope) - len(graph.regions[right].scope)) <= 1
    assert {len(graph.regions[leaf].scope) for leaf in graph.leaves} == {2, 3}


def test_rat_trees_share_nothing_but_the_root():
    graph = random_binary_trees(num_variables=8, depth=3, num_replicas=5, seed=0)
    uses = Counter(child for p in graph.partitions for child in p[1:])
    assert set(uses.values()) == {1}
    assert [len(partitions) for partitions in graph.partitions_of if len(partitions) > 1] == [5]
    assert len(graph.partitions_of[graph.root]) == 5


@pytest.mark.parametrize("num_variables, leaves", [(1, 1), (2, 2), (3, 3), (5, 5)])
def test_rat_deeper_than_its_variables_ends_at_single_variables(num_variables, leaves):
    graph = random_binary_trees(num_variables, depth=9, num_replicas=1, seed=0)
    assert len(graph.leaves) == leaves
    assert all(len(graph.regions[leaf].scope) == 1 for leaf in graph.leaves)


def test_rat_without_depth_is_its_root():
    assert random_binary_trees(7, depth=0, num_replicas=3) == RegionGraph([range(7)])


def test_rat_is_a_function_of_its_seed():
    first, again, other = (random_binary_trees(20, 3, 4, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert random_binary_trees(20, 3, 4) != random_binary_trees(20, 3, 4)


def test_rat_leaves_the_global_random_state_alone():
    random.seed(5)
    before = random.getstate()
    random_binary_trees(10, 2, 3)
    random_binary_trees(10, 2, 3, seed=1)
    assert random.getstate() == before


def test_rat_shuffles_each_tree_anew():
    """Any two variables part at the root with probability (D/2) / (D-1), here 5/9, in each tree on its own."""
    graph = random_binary_trees(num_variables=10, depth=1, num_replicas=2000, seed=0)
    halves = [set(graph.regions[p.left].scope) for p in graph.partitions]
    for one, other in [(0, 1), (4, 5), (0, 9)]:
        parted = sum((one in half) != (other in half) for half in halves)
        assert parted / 2000 == pytest.approx(5 / 9, abs=0.04)


def test_rat_shuffles_below_the_root_too():
    graph = random_binary_trees(num_variables=8, depth=2, num_replicas=500, seed=0)
    pairs = Counter(graph.regions[leaf].scope for leaf in graph.leaves)
    assert len(pairs) == comb(8, 2)
    assert max(pairs.values()) < 3 * min(pairs.values())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 1, 1), "num_variables.*at least 1, got 0"),
        ((4, -1, 1), "depth.*at least 0, got -1"),
        ((4, 1, 0), "num_replicas.*at least 1, got 0"),
        ((4.0, 1, 1), "num_variables.*got 4.0"),
        ((4, "2", 1), "depth.*got '2'"),
    ],
)
def test_rat_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_binary_trees(*arguments)


# Poon-Domingos


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (dict(shape=(4, 4), delta=1), (84, 16, 200)),
        (dict(shape=(28, 28), delta=7), (84, 16, 200)),
        (dict(shape=(28, 28), delta=4), (735, 49, 3136)),
        (dict(shape=(32, 32), delta=8, axes=[1]), (6, 4, 10)),
        (dict(shape=(32, 32), delta=8, axes=(0,)), (6, 4, 10)),
        (dict(shape=(10,), delta=1), (45, 10, 165)),
        (dict(shape=(2, 2, 2), delta=1), (19, 8, 27)),
        (dict(shape=(8,), delta=[4, 2]), (3, 4, 3)),
        (dict(shape=(8,), delta=[4, 1]), (1 + 2 * 6, 8, 1 + 2 * 10)),
        (dict(shape=(5, 1), delta=2), (3, 3, 4)),
        (dict(shape=(8,), delta=1, max_depth=1), (1, 14, 7)),
        (dict(shape=(8,), delta=1, max_depth=0), (0, 1, 0)),
        (dict(shape=(8,), delta=8, max_depth=0), (0, 1, 0)),
    ],
    ids=str,
)
def test_pd_has_exactly_these_sizes(arguments, expected):
    assert sizes(poon_domingos(**arguments)) == expected


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_pd_sizes_on_any_grid_of_cells(n, m, delta):
    """A region is a choice of two of n+1 lines each way, a partition of three one way and two the other."""
    if n * m == 1:
        return
    graph = poon_domingos((n * delta, m * delta), delta)
    assert len(graph.regions) == comb(n + 1, 2) * comb(m + 1, 2)
    assert len(graph.partitions) == comb(n + 1, 3) * comb(m + 1, 2) + comb(n + 1, 2) * comb(m + 1, 3)
    assert len(graph.leaves) == n * m
    assert len(set(scopes(graph))) == len(graph.regions)


def test_pd_variables_are_numbered_row_by_row():
    graph = poon_domingos((2, 3), 1)
    assert graph.shape == (2, 3)
    assert (0, 1, 3, 4) in scopes(graph)  # the left two columns
    assert (0, 1, 2) in scopes(graph)  # the upper row
    assert (1, 3) not in scopes(graph)
    assert (2, 3) not in scopes(graph)  # the end of one row and the start of the next


@pytest.mark.parametrize("axis", [0, 1])
def test_pd_cuts_on_the_chosen_axis_alone(axis):
    """Strips: whole rows for axis 0, whole columns for axis 1."""
    graph = poon_domingos((3, 2), 1, axes=[axis])
    expected = [{(0, 1), (2, 3), (4, 5)}, {(0, 2, 4), (1, 3, 5)}][axis]
    assert {graph.regions[leaf].scope for leaf in graph.leaves} == expected


def test_pd_cuts_at_multiples_of_delta_and_leaves_the_rest():
    graph = poon_domingos((7,), 3)
    assert {graph.regions[leaf].scope for leaf in graph.leaves} == {(0, 1, 2), (3, 4, 5), (6,)}


def test_pd_counts_multiples_of_a_finer_delta_from_the_edge_of_the_grid():
    """The half from 4 to 8 is cut at 6, not at 4 + 3."""
    graph = poon_domingos((8,), [4, 3])
    assert {graph.regions[leaf].scope for leaf in graph.leaves} == {(0, 1, 2), (3,), (4, 5), (6, 7)}


def test_pd_uses_a_finer_delta_only_where_no_coarser_one_cuts():
    graph = poon_domingos((4, 4), [2, 1])
    root_halves = {graph.regions[child].scope for p in graph.partitions_of[graph.root] for child in p[1:]}
    rows = [tuple(range(4 * i, 4 * i + 4)) for i in range(4)]
    assert rows[0] + rows[1] in root_halves and rows[0] not in root_halves
    assert rows[0] not in scopes(graph)  # two rows are still cut at column 2 first
    assert (0, 1) in scopes(graph) and (1, 2) not in scopes(graph)
    assert {graph.regions[leaf].scope for leaf in graph.leaves} == {(d,) for d in range(16)}


def test_pd_partitions_say_left_for_the_lower_half():
    for graph in (poon_domingos((4,), 1), poon_domingos((2, 3), 1)):
        assert all(graph.regions[p.left].scope < graph.regions[p.right].scope for p in graph.partitions)


@pytest.mark.parametrize("max_depth", [1, 2, 3])
def test_pd_stops_at_max_depth(max_depth):
    """The shortest way from the root to a region that is cut is shorter than max_depth."""
    graph = poon_domingos((16,), 1, max_depth=max_depth)
    level, reached = {graph.root}, set()
    for _ in range(max_depth):
        reached |= level
        level = {child for region in level for p in graph.partitions_of[region] for child in p[1:]}
    assert {p.region for p in graph.partitions} <= reached
    assert level - reached <= set(graph.leaves)
    assert max(depths(graph)) >= max_depth


def test_pd_of_32_by_32_is_built_in_half_a_second():
    seconds = []
    for _ in range(3):
        start = time.process_time()
        graph = poon_domingos((32, 32), 4)
        seconds.append(time.process_time() - start)
    assert sizes(graph) == (1232, 64, 6048)
    assert min(seconds) < 0.5


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(shape=(4, 4), delta=4), r"delta \[4\] cuts nothing .*\(4, 4\)"),
        (dict(shape=(4, 8), delta=[6, 4], axes=[0]), r"delta \[6, 4\] cuts nothing .*along axes \(0,\)"),
        (dict(shape=(1, 1), delta=1), r"delta \[1\] cuts nothing"),
        (dict(shape=(4, 4), delta=0), r"delta .*at least 1.*0"),
        (dict(shape=(4, 4), delta=[2, -1]), r"delta .*at least 1.*-1"),
        (dict(shape=(4, 4), delta=[]), r"delta .*at least 1"),
        (dict(shape=(4, 4), delta=2.0), r"delta .*at least 1.*2\.0"),
        (dict(shape=(), delta=1), r"shape .*positive"),
        (dict(shape=(4, 0), delta=1), r"shape .*positive.*\(4, 0\)"),
        (dict(shape=(4, 4), delta=1, axes=[2]), r"axes .*0 to 1.*\(2,\)"),
        (dict(shape=(4, 4), delta=1, axes=[-1]), r"axes .*0 to 1.*\(-1,\)"),
        (dict(shape=(4, 4), delta=1, axes=[0, 0]), r"axes .*different.*\(0, 0\)"),
        (dict(shape=(4, 4), delta=1, axes=[]), r"axes"),
        (dict(shape=(4, 4), delta=1, max_depth=-1), r"max_depth .*at least 0.*-1"),
        (dict(shape=(4, 4), delta=1, max_depth=1.5), r"max_depth .*at least 0.*1\.5"),
    ],
    ids=str,
)
def test_pd_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        poon_domingos(**arguments)


# Quadrants, cut both ways


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_a_quad_graph_of_a_power_of_two(n):
    """Squares of 4^0 + ... + 4^n, four halves for each that is no pixel; two partitions for a square, one for a half."""
    graph = quad_graph((2**n, 2**n))
    squares, pixels = (4 ** (n + 1) - 1) // 3, 4**n
    assert sizes(graph) == (5 * (squares - pixels), pixels, 6 * (squares - pixels)) and graph.shape == (2**n, 2**n)
    assert len(graph.topological_layers()) == 2 * n + 1


def test_a_quad_graph_of_four_pixels_by_hand():
    #  0 1
    #  2 3
    graph = quad_graph((2, 2))

    def parts(region):
        return [tuple(graph.regions[child].scope for child in p.children) for p in graph.partitions_of[region]]

    assert parts(graph.root) == [((0, 1), (2, 3)), ((0, 2), (1, 3))]
    halves = [child for partition in graph.partitions_of[graph.root] for child in partition.children]
    assert [parts(half) for half in halves] == [[((0,), (1,))], [((2,), (3,))], [((0,), (2,))], [((1,), (3,))]]
    assert len(graph.leaves) == 4, "both cuts share the quadrants"


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 1), (3, 3), (5, 9), (8, 4), (28, 28)])
def test_a_quad_graph_of_any_shape(shape):
    """Rectangles, no two alike, with the pixels as leaves; squares lie at multiples of their size."""
    graph = quad_graph(shape)
    scopes = [region.scope for region in graph.regions]
    assert len(set(scopes)) == len(scopes) and sorted(scopes[leaf] for leaf in graph.leaves) == [
        (d,) for d in range(shape[0] * shape[1])
    ]
    for scope, partitions in zip(scopes, graph.partitions_of, strict=True):
        (top, left), (bottom, right) = divmod(scope[0], shape[1]), divmod(scope[-1], shape[1])
        height, width = bottom - top + 1, right - left + 1
        assert len(scope) == height * width
        if len(partitions) == 2:  # a square cut both ways, where the grid does not end inside
            size = 1 << (max(height, width) - 1).bit_length()
            assert top % size == left % size == 0
    assert max(map(len, graph.partitions_of)) <= 2 and {len(p.children) for p in graph.partitions} <= {2}
    model = Einet(graph, Bernoulli(), num_sums=2, seed=0)
    assert model(torch.zeros(1, *shape)).isfinite()


def test_a_square_at_the_border_is_cut_where_the_others_are():
    """5 x 9 pixels: at 8 along the wide side, which leaves 8 x 5 and 1 x 5, and 5 rows at 4 below that."""
    graph = quad_graph((5, 9))
    halves = [graph.regions[child].scope for p in graph.partitions_of[graph.root] for child in p.children]
    assert halves == [
        tuple(row * 9 + column for row in range(5) for column in range(8)),
        tuple(row * 9 + 8 for row in range(5)),
    ]


@pytest.mark.parametrize("shape", [(), (4,), (2, 2, 2), (0, 3), (2.0, 2), ("a", 1)])
def test_quad_graphs_have_two_axes(shape):
    with pytest.raises(ValueError, match="two integers of at least 1"):
        quad_graph(shape)
