"""States know whose they are: another graph, other families or other columns are refused, and nothing is changed."""

import copy
import io
import warnings
from functools import partial

import helpers
import pytest
import safetensors.torch
import torch
from project import ROOT
from torch import nn

from einet import Bernoulli, Binomial, Mixture, Normal, RegionGraph, load, random_binary_trees, save
from einet.storage.archive import read

GRAPH = random_binary_trees(8, 2, 3, seed=0)
network = partial(helpers.network, graph=GRAPH)


def numbers(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


HALVES = (0, 1, 2, 3), (4, 5, 6, 7)
SWAPPED = [{Normal(): a, Normal(min_variance=1e-3): b} for a, b in (HALVES, HALVES[::-1])]


@pytest.mark.parametrize("one, other, reason", [
    ({}, {"graph": random_binary_trees(8, 2, 3, seed=1)}, "graph was RegionGraph.8 variables.* and is RegionGraph"),
    ({"leaf": SWAPPED[0]}, {"leaf": SWAPPED[1]},
     r"families was \['Normal\(\) of 0-3', 'Normal\(min_variance=0.001\) of 4-7'\], and is \['Normal\(\) of 4-7'"),
    ({"leaf": Binomial(total=9)}, {"leaf": Binomial(total=3)}, r"Binomial\(total=9\) of 0-7.* and is .*total=3"),
    ({"leaf": Bernoulli()}, {"leaf": Normal()}, "families was .*Bernoulli.* and is .*Normal"),
    ({"num_classes": 2}, {}, "num_classes was 2, and is 1"),
    ({"num_sums": 4}, {}, "num_sums was 4, and is 3"),
], ids=("graph", "columns", "settings", "families", "classes", "sums"))  # fmt: skip
@pytest.mark.parametrize("strict", [True, False])
def test_the_state_of_another_model_is_refused(one, other, reason, strict):
    state, model = network(**one, seed=1).state_dict(), network(**other)
    before = numbers(model)
    with pytest.raises(RuntimeError, match=f"the state is of another model: .*{reason}.*einet.save"):
        model.load_state_dict(state, strict=strict)
    assert unchanged(model, before)


def test_many_columns_are_told_apart():
    """Whatever of them is shown, all are compared."""
    graph, even = random_binary_trees(400, 2, 1, seed=0), list(range(0, 400, 2))
    odd = [d for d in range(400) if d % 2]
    swap = (even[-1], odd[-1])
    others = [d for d in even if d != swap[0]] + [swap[1]], [d for d in odd if d != swap[1]] + [swap[0]]
    one, other = (network({Normal(): a, Normal(min_variance=1e-3): b}, graph=graph) for a, b in ((even, odd), others))
    with pytest.raises(RuntimeError, match="families was"):
        other.load_state_dict(one.state_dict())


def by_torch(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("carry", [
    by_torch,
    lambda state: safetensors.torch.load(safetensors.torch.save(state)),
    copy.deepcopy,
    lambda state: {name: tensor.clone() for name, tensor in state.items()},
    lambda state: {name: tensor.double() for name, tensor in state.items()},
    lambda state: {name: torch.from_numpy(tensor.numpy()) for name, tensor in state.items()},
], ids=("torch.save", "safetensors", "deepcopy", "clones", "float64", "numpy"))  # fmt: skip
def test_the_identity_stays_with_the_numbers(carry):
    state, right = carry(network(seed=1).state_dict()), network()
    right.load_state_dict(state)
    x = torch.randn(4, 8)
    assert torch.equal(right(x), network(seed=1)(x))
    with pytest.raises(RuntimeError, match="graph was"):
        network(graph=random_binary_trees(8, 2, 3, seed=1)).load_state_dict(state)


def test_models_inside_others():
    """A prefix, and a mixture of which one component is wrong: not even its weights change."""
    other = network(graph=random_binary_trees(8, 2, 3, seed=1))
    right, wrong = Mixture([network(seed=1), network(seed=2)], [0.6, 0.4]), Mixture([network(), other], [0.3, 0.7])
    state = nn.Sequential(right).state_dict()
    nn.Sequential(copy.deepcopy(right)).load_state_dict(state)
    before = numbers(wrong)
    with pytest.raises(RuntimeError, match="graph was"):
        nn.Sequential(wrong).load_state_dict(state)
    assert unchanged(wrong, before)


def test_an_old_state_is_loaded_with_a_warning():
    """Of 0.1.0: parameters alone. And one whose owner has taken the identity out, to have another graph's numbers."""
    old = dict(network(seed=1).named_parameters())
    for graph in (GRAPH, random_binary_trees(8, 2, 3, seed=1)):
        model = network(graph=graph)
        with pytest.warns(UserWarning, match="the state has no 'identity', as in einet 0.1.0"):
            assert str(model.load_state_dict(old)) == "<All keys matched successfully>"
        assert torch.equal(model.leaves.parts[0].phi, old["leaves.parts.0.phi"])


def test_what_changes_no_density_is_no_other_model():
    """The shape of the grid, and how the same graph was made."""
    state = network(seed=1).state_dict()
    for graph in (RegionGraph(GRAPH.regions, GRAPH.partitions, (2, 4)), RegionGraph.from_json(GRAPH.to_json())):
        network(graph=graph).load_state_dict(state)


def test_a_pickle_of_0_1_0_has_no_identity_and_loads_states():
    model = network()
    del model._buffers["identity"]
    model.load_state_dict(network(seed=1).state_dict())
    assert torch.equal(model.leaves.parts[0].phi, network(seed=1).leaves.parts[0].phi)


def test_files_have_the_parameters_alone(tmp_path):
    """As of 0.1.0, so that this version and that one read each other's."""
    model = Mixture([network(), network(seed=1)], [0.3, 0.7])
    save(model, tmp_path / "m")
    assert read(tmp_path / "m")[1].keys() == dict(model.named_parameters()).keys()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load(tmp_path / "m")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_files_of_0_1_0_are_read():
    for path in (ROOT / "book" / "models").glob("*.safetensors"):
        model = load(path)
        model.load_state_dict(model.state_dict())
