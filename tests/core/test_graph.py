"""Region graphs: what is valid, Algorithm 1, replicas, JSON. Graphs by hand, and graphs that hypothesis draws."""

import copy
import json
import pickle
from dataclasses import FrozenInstanceError

import pytest
from helpers import COUNTS
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from strategies import examples, region_graphs

from einet import Partition, Region, RegionGraph, poon_domingos, random_binary_trees

#            5 {0,1,2,3}            The root splits in two ways. 4 is used at depth 1 and at depth 2,
#            /        \             6 at depth 2 only, and the leaves 0 and 1 at depths 3 and 2.
#      4|7            6|3
#      /  \           / \
#   0|1   2|3       4|2              scopes: 0 {0}  1 {1}  2 {2}  3 {3}  4 {0,1}  6 {0,1,2}  7 {2,3}
HAND = RegionGraph(
    [{0}, {1}, {2}, {3}, {0, 1}, {0, 1, 2, 3}, {0, 1, 2}, {2, 3}],
    [(5, 4, 7), (5, 6, 3), (6, 4, 2), (4, 0, 1), (7, 2, 3)],
)


def layers(graph):
    return [set(layer) for layer in graph.topological_layers()]


# Algorithm 1


def test_layers_of_a_region_used_at_several_depths():
    """4 waits until 5 and 6, which both contain it, have been visited; 7 needs only 5 and comes a layer earlier."""
    assert layers(HAND) == [{0, 1, 2, 3}, {4}, {6, 7}, {5}]


def test_layers_with_one_two_and_three_partitions():
    assert layers(COUNTS) == [{0, 1, 2, 7, 8, 9, 13, 14}, {3, 4, 5, 10, 11}, {6, 12}, {15, 16}, {17}]


def test_leaves_at_all_depths_move_to_the_first_layer():
    chain = RegionGraph([{0}, {1}, {2}, {0, 1}, {0, 1, 2}], [(4, 3, 2), (3, 0, 1)])
    assert layers(chain) == [{0, 1, 2}, {3}, {4}]


def test_a_root_that_is_a_leaf_is_one_layer():
    assert layers(RegionGraph([{0, 1}])) == [{0}]


@given(region_graphs())
def test_every_region_comes_after_all_it_depends_on(graph):
    level_of = {region: level for level, layer in enumerate(graph.topological_layers()) for region in layer}
    assert sorted(region for layer in graph.topological_layers() for region in layer) == list(range(len(graph.regions)))
    assert all(level_of[child] < level_of[p.region] for p in graph.partitions for child in p[1:])
    assert {region for region, level in level_of.items() if level == 0} == set(graph.leaves)


@given(region_graphs())
def test_inner_regions_stand_as_deep_as_their_longest_path(graph):
    """A region waits until every partition that contains it has been visited: no breadth-first search."""

    def longest_path(region):
        return max((1 + longest_path(p.region) for p in graph.partitions if region in p[1:]), default=0)

    for depth, layer in enumerate(reversed(graph.topological_layers()[1:])):
        assert all(longest_path(region) == depth for region in layer)


def at_several_depths(graph):
    """The inner regions to which there are paths of different lengths."""
    depths = {graph.root: {0}}
    for layer in reversed(graph.topological_layers()[1:]):
        for parent, *children in (partition for region in layer for partition in graph.partitions_of[region]):
            for child in children:
                depths.setdefault(child, set()).update(depth + 1 for depth in depths[parent])
    return [region for region, found in depths.items() if len(found) > 1 and graph.partitions_of[region]]


def with_one_two_and_three_partitions(graph):
    """The layers that hold regions of each kind."""
    counts = [{len(graph.partitions_of[region]) for region in layer} for layer in graph.topological_layers()]
    return [layer for layer, found in enumerate(counts) if {1, 2, 3} <= found]


@pytest.mark.parametrize("reached", [at_several_depths, with_one_two_and_three_partitions])
def test_drawn_graphs_are_as_hard_as_promised(reached):
    """So that no test which draws from the strategy passes because it draws trees alone."""
    find(region_graphs(), reached, settings=settings(max_examples=1000, phases=[Phase.generate], derandomize=True))


# What a graph knows of itself


def test_regions_and_partitions_are_named_tuples():
    assert HAND.regions[4] == Region((0, 1))
    assert HAND.partitions[0] == Partition(region=5, left=4, right=7)
    assert HAND.partitions_of[5] == (Partition(5, 4, 7), Partition(5, 6, 3))
    assert (HAND.root, HAND.leaves, HAND.num_variables) == (5, (0, 1, 2, 3), 4)


def test_a_partition_is_a_tuple_of_its_region_and_its_children():
    pair, three = Partition(5, 4, 7), Partition(5, 4, 7, 1)
    region, left, right = pair
    assert (region, left, right) == (5, 4, 7) == pair == (pair.region, pair.left, pair.right) and hash(pair) == hash(
        (5, 4, 7)
    )
    assert (three.region, three.children, pair.children) == (5, (4, 7, 1), (4, 7))
    assert repr(three) == "Partition(5, 4, 7, 1)" and eval(repr(three)) == three
    for copied in (copy.copy(three), pickle.loads(pickle.dumps(three)), pickle.loads(pickle.dumps(three, 0))):
        assert copied == three and type(copied) is Partition
    with pytest.raises(AttributeError, match="into 3 has no left and right"):
        three.left  # noqa: B018
    with pytest.raises(TypeError):
        Partition(5, 4)


# Partitions into more than two

FOUR = RegionGraph(
    [range(6), {0}, {1}, {2, 3, 4, 5}, {2}, {3}, {4}, {5}, {4, 5}],
    [(0, 1, 2, 3), (3, 4, 5, 6, 7), (3, 8, 4, 5), (8, 6, 7)],
)


def test_layers_of_partitions_into_many():
    assert layers(FOUR) == [{1, 2, 4, 5, 6, 7}, {8}, {3}, {0}]
    assert FOUR.partitions_of[3] == (Partition(3, 4, 5, 6, 7), Partition(3, 8, 4, 5))


def test_binary_halves_the_children_again_and_again():
    binary = FOUR.binary()
    assert binary.regions[:9] == FOUR.regions and binary.shape == FOUR.shape
    assert [region.scope for region in binary.regions[9:]] == [(0, 1), (2, 3), (4, 5), (2, 4, 5)]
    assert binary.partitions == (
        (0, 9, 3), (9, 1, 2), (3, 10, 11), (10, 4, 5), (11, 6, 7), (3, 12, 5), (12, 8, 4), (8, 6, 7),
    )  # fmt: skip


def test_binary_is_balanced():
    hub = RegionGraph([range(300), *({d} for d in range(300))], [range(301)])
    assert len(hub.binary().topological_layers()) == 1 + 9, "2 ** 9 > 300"


@given(region_graphs())
def test_binary_has_pairs_alone_and_the_old_regions(graph):
    binary = graph.binary()
    assert all(len(partition.children) == 2 for partition in binary.partitions)
    assert binary.binary() is binary and (binary is graph) == (len(binary.partitions) == len(graph.partitions))
    assert binary.regions[: len(graph.regions)] == graph.regions and binary.leaves == graph.leaves

    def expanded(region):
        """A region of the binary graph as those of the other that make it up."""
        return (region,) if region < len(graph.regions) else sum(map(expanded, binary.partitions_of[region][0][1:]), ())

    for region, partitions in enumerate(graph.partitions_of):
        found = [sum(map(expanded, partition.children), ()) for partition in binary.partitions_of[region]]
        assert found == [partition.children for partition in partitions]


def test_scopes_are_sorted_whatever_they_are_given_as():
    graph = RegionGraph([{0}, Region((1,)), [2], (2, 1), range(3)], [(4, 0, 3), (3, 1, 2)])
    assert [region.scope for region in graph.regions] == [(0,), (1,), (2,), (1, 2), (0, 1, 2)]


def test_equal_graphs_have_equal_hashes():
    again = RegionGraph(list(HAND.regions), [list(p) for p in HAND.partitions])
    assert again == HAND and hash(again) == hash(HAND)
    assert RegionGraph([{0}, {1}, {0, 1}], [(2, 0, 1)]) != RegionGraph([{0}, {1}, {0, 1}], [(2, 1, 0)])
    assert RegionGraph([{0, 1}], shape=(1, 2)) != RegionGraph([{0, 1}], shape=(2, 1))


def test_a_graph_is_frozen():
    with pytest.raises(FrozenInstanceError):
        HAND.regions = ()
    scopes, partitions = [[0], [1], [0, 1]], [[2, 0, 1]]
    graph = RegionGraph(scopes, partitions)
    scopes[0].append(7)
    partitions[0][1] = 9
    assert graph == RegionGraph([{0}, {1}, {0, 1}], [(2, 0, 1)])


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph))], ids=["copy", "pickle"]
)
def test_copies_are_equal(copied):
    assert copied(HAND) == HAND and copied(HAND).topological_layers() == HAND.topological_layers()


def test_repr_counts():
    assert repr(HAND) == "RegionGraph(4 variables, 8 regions of which 4 leaves, 5 partitions)"


# Replicas


@given(region_graphs())
def test_leaves_of_one_replica_are_disjoint_and_no_lower_number_would_do(graph):
    assert set(graph.replica_of) == set(graph.leaves)
    taken = [set() for _ in range(graph.num_replicas)]
    for leaf in graph.leaves:
        scope, replica = set(graph.regions[leaf].scope), graph.replica_of[leaf]
        assert not scope & taken[replica]
        assert all(scope & taken[lower] for lower in range(replica))
        taken[replica] |= scope


@pytest.mark.parametrize("num_replicas", [1, 2, 7])
def test_a_rat_has_a_replica_a_tree(num_replicas):
    graph = random_binary_trees(num_variables=9, depth=2, num_replicas=num_replicas, seed=0)
    assert graph.num_replicas == num_replicas
    for replica in range(num_replicas):
        scopes = [graph.regions[leaf].scope for leaf in graph.leaves if graph.replica_of[leaf] == replica]
        assert sorted(sum(scopes, ())) == list(range(9))


def test_poon_domingos_has_one_replica():
    assert poon_domingos((4, 6), 2).num_replicas == 1


# What is refused


@pytest.mark.parametrize(
    "regions, partitions, message",
    [
        ([{0}, {1}, {0, 1, 2}], [(2, 0, 1)], r"not smooth: region 2 over \{0, 1, 2\}.*region 0 over \{0\}"),
        ([{0}, {1, 2}, {0, 1}], [(2, 0, 1)], r"not smooth: region 2 over \{0, 1\}.*region 1 over \{1, 2\}"),
        (
            [{0, 1}, {1, 2}, {0, 1, 2}],
            [(2, 0, 1)],
            r"not decomposable: region 2 over \{0, 1, 2\}.*region 1 over \{1, 2\}",
        ),
        ([{0, 1}, {0, 1}], [(1, 0, 0)], r"not decomposable: region 1 over \{0, 1\}"),
        ([{0}, {1}, {2}, {0, 1, 2}], [(3, 0, 1, 2, 1)], r"not decomposable.* region 1 over \{1\} and region 1"),
        ([{0}, {1}, {1, 2}, {0, 1, 2}], [(3, 0, 1, 2)], r"not decomposable.* region 1 over \{1\} and region 2"),
        ([{0}, {1}, {2}, {0, 1, 2, 3}], [(3, 0, 1, 2)], r"not smooth.* region 0 .*, region 1 .* and region 2 over"),
        ([{0, 1}], [(0, 0, 0)], r"cyclic: region 0 over \{0, 1\}"),
        ([{0, 1}, {0, 1}, {2}, {0, 1, 2}], [(3, 0, 2), (0, 1, 2), (1, 0, 2)], r"cyclic: region [01] over \{0, 1\}"),
        ([{0}, {1}, {0, 1}, {0, 1}], [(2, 0, 1), (3, 0, 1)], r"one root.* 2: region 2 over \{0, 1\} and region 3"),
        ([{0}, {0, 1}], [], r"one root.* 2: region 0 over \{0\} and region 1 over \{0, 1\}"),
        ([], [], "one root.* 0"),
        ([{1}, {2}, {1, 2}], [(2, 0, 1)], r"0 to 1.*region 2 over \{1, 2\}"),
        ([{0}, {2}, {0, 2}], [(2, 0, 1)], r"0 to 1.*region 2 over \{0, 2\}"),
        ([{0}, ()], [], r"region 1 .* at least one"),
        ([(0, 0)], [], r"region 0 .* each once"),
        ([{0}, {-1}], [], r"region 1 .*from 0.*-1"),
        ([{0, 2**24}], [], f"region 0 .*to {2**24 - 1}.*{2**24}"),
        ([{0.5}], [], r"region 0 must be integers, got \{0.5\}"),
        ([3], [], "region 0 must be integers, got 3"),
        ([{0}, {1}, {0, 1}], [(2, 0)], r"0 to 2, got \(2, 0\)"),
        ([{0}, {1}, {0, 1}], [(2, 0, 3)], r"0 to 2, got \(2, 0, 3\)"),
        ([{0}, {1}, {0, 1}], [(2, -3, 1)], r"0 to 2, got \(2, -3, 1\)"),
        ([{0}, {1}, {0, 1}], [(2, 0.0, 1)], r"0 to 2, got \(2, 0.0, 1\)"),
        ([{0}, {1}, {0, 1}], [(2, 0, True)], r"0 to 2, got \(2, 0, True\)"),
    ],
)
def test_invalid_graphs_are_refused_by_name(regions, partitions, message):
    with pytest.raises(ValueError, match=message):
        RegionGraph(regions, partitions)


@given(region_graphs(most_variables=5), st.data())
def test_a_valid_graph_made_invalid_is_refused(graph, data):
    """A variable more in one half of a partition: it overlaps the other half, or sticks out of the region."""
    if not graph.partitions:
        return
    victim = data.draw(st.sampled_from([child for p in graph.partitions for child in p.children]))
    missing = sorted(set(range(graph.num_variables + 1)) - set(graph.regions[victim].scope))
    regions = list(graph.regions)
    regions[victim] = (*regions[victim].scope, data.draw(st.sampled_from(missing)))
    with pytest.raises(ValueError, match="not smooth|not decomposable"):
        RegionGraph(regions, graph.partitions)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (0, 4), (-2, -2), (2.0, 2.0), ("a", 4), (True, 4)])
def test_shape_must_have_a_cell_for_each_variable(shape):
    with pytest.raises(ValueError, match="shape"):
        RegionGraph([range(4)], shape=shape)


# JSON


@given(region_graphs())
def test_json_brings_the_graph_back(graph):
    again = RegionGraph.from_json(graph.to_json())
    assert again == graph and again.topological_layers() == graph.topological_layers()


def test_json_and_digest_of_pairs_are_those_of_einet_0_1_0():
    triples = "[[5, 4, 7], [5, 6, 3], [6, 4, 2], [4, 0, 1], [7, 2, 3]]"
    regions = "[[0], [1], [2], [3], null, null, null, null]"
    assert HAND.to_json() == f'{{"regions": {regions}, "partitions": {triples}, "shape": null}}'
    assert HAND.digest == "4f2638e8ce0bc7ef324c997a52b7869620c58e09e79505a759fca0c3579a5d18"


def test_json_keeps_the_shape():
    graph = poon_domingos((4, 6), 2)
    assert RegionGraph.from_json(graph.to_json()) == graph
    assert json.loads(graph.to_json())["shape"] == [4, 6]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        '{"regions": [[0]], "partitions": []}',
        '{"regions": 5, "partitions": [], "shape": null}',
        '{"regions": [null], "partitions": [], "shape": null}',
        '{"regions": [null, [0]], "partitions": [[0, 0, 1]], "shape": null}',
        '{"regions": [null, null], "partitions": [[0, 1, 1], [1, 0, 0]], "shape": null}',
        '{"regions": [null, [0], [1]], "partitions": [[0, 1, 9]], "shape": null}',
        '{"regions": [[0], [1], null], "partitions": [[2, 0, "1"]], "shape": null}',
        '{"regions": [[0], [1], null], "partitions": [[[2], 0, 1]], "shape": null}',
        '{"regions": [[1e400]], "partitions": [], "shape": null}',
        '{"regions": [[0, 1]], "partitions": [], "shape": 2}',
        '{"regions": [[0, 1]], "partitions": [], "shape": [2.0]}',
        '{"regions": [[0]], "partitions": [5], "shape": null}',
        5,
        None,
    ],
)
def test_damaged_json_is_refused(text):
    with pytest.raises(ValueError):
        RegionGraph.from_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)


@examples(200)
@given(JSON, JSON, JSON)
@pytest.mark.slow
def test_any_json_is_a_graph_or_a_value_error(regions, partitions, shape):
    _graph_or_value_error(json.dumps({"regions": regions, "partitions": partitions, "shape": shape}))


@examples(200)
@given(region_graphs(most_variables=4), st.data())
def test_json_with_one_entry_replaced_is_a_graph_or_a_value_error(graph, data):
    content = json.loads(graph.to_json())
    lists = [content["regions"], *filter(None, content["regions"]), content["partitions"], *content["partitions"]]
    damaged = data.draw(st.sampled_from([part for part in lists if part]))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(JSON)
    _graph_or_value_error(json.dumps(content))


@examples(200)
@given(region_graphs(most_variables=4), st.data())
def test_json_with_characters_lost_is_a_graph_or_a_value_error(graph, data):
    text = graph.to_json()
    start = data.draw(st.integers(0, len(text)))
    _graph_or_value_error(text[:start] + data.draw(st.text("[]{},:019-e. n", max_size=3)) + text[start + 3 :])


def _graph_or_value_error(text):
    try:
        graph = RegionGraph.from_json(text)
    except ValueError:
        return
    assert RegionGraph.from_json(graph.to_json()) == graph
