"""Mixtures by k-means: `fit_mixture`."""

import math
import os
import subprocess
import sys
import time

import pytest
import torch
from helpers import TREES, epochs_in, kill_in_the_middle, run_here, same, seeded

from einet import EM, Categorical, Einet, Normal, RegionGraph, fit, fit_mixture, load, random_binary_trees, start_leaves
from experiments.records import python_path


def clustered(num_rows=300):
    """Three clusters, of 1/2, 1/3 and 1/6 of the rows."""
    centres = torch.tensor([[5.0] * 6, [0.0] * 6, [-5.0] * 6])
    of_row = torch.tensor([0, 0, 0, 1, 1, 2]).repeat(num_rows // 6)
    return centres[of_row] + torch.randn(num_rows, 6, generator=seeded(0))


ARGUMENTS = {"num_sums": 2, "epochs": 3, "batch_size": 25, "seed": 4, "progress": False}


def test_cluster_shares_are_weights_and_components_are_trained():
    x = clustered()
    model = fit_mixture(x, 3, TREES, Normal(), concentration=1.0, **ARGUMENTS)
    assert sorted(model.weights.tolist()) == pytest.approx([1 / 6, 1 / 3, 1 / 2])
    single = Einet(TREES, Normal(), num_sums=2, seed=4, concentration=1.0)
    fit(single, x, epochs=3, batch_size=25, progress=False)
    assert model(x).mean() > single(x).mean() + 0.3
    means = sorted(c.leaves.parts[0].phi[0].mean().item() for c in model.components)
    assert means == pytest.approx([-5, 0, 5], abs=0.5)
    assert all(component.num_sums == 2 and component.graph == TREES for component in model.components)


def test_one_component_is_one_network():
    x = clustered()
    model = fit_mixture(x, 1, TREES, Normal(), **ARGUMENTS)
    single = Einet(TREES, Normal(), num_sums=2, seed=4)
    fit(single, x, epochs=3, batch_size=25, seed=4, progress=False)
    assert same(model.components[0], single) and model.weights.tolist() == [1]


def test_the_step_size_falls():
    x = clustered()
    model = fit_mixture(x, 1, TREES, Normal(), lr=0.8, decay=0.25, **ARGUMENTS)
    single = Einet(TREES, Normal(), num_sums=2, seed=4)
    em = EM(single)
    for epoch in range(3):
        em.param_groups[0]["lr"] = 0.8 * 0.25**epoch
        fit(single, x, epochs=1, batch_size=25, optimizer=em, seed=4 + epoch, progress=False)
    assert same(model.components[0], single)


def test_clusters_without_rows_are_left_out_and_tiny_ones_are_not():
    x = torch.cat((clustered(60), torch.full((1, 6), 100.0)))
    model = fit_mixture(x, 4, TREES, Normal(), **ARGUMENTS)
    assert min(model.weights.tolist()) == pytest.approx(1 / 61) and model(x).isfinite().all()
    same_rows = torch.tensor([[1.0] * 6, [2.0] * 6]).repeat(5, 1)
    model = fit_mixture(same_rows, 3, TREES, Normal(), **ARGUMENTS)
    assert model.weights.tolist() == [0.5, 0.5] and model(same_rows).isfinite().all()


@pytest.mark.parametrize("each_row", [True, False])
def test_missing_entries(each_row):
    x = clustered()
    observed = torch.rand(x.shape, generator=seeded(7)) < 0.7
    observed = observed if each_row else torch.tensor([True, True, False, True, True, True])
    junk = torch.where(observed, x, torch.nan)
    model = fit_mixture(junk, 3, TREES, Normal(), observed, **ARGUMENTS)
    assert sorted(model.weights.tolist()) == pytest.approx([1 / 6, 1 / 3, 1 / 2], abs=0.05)
    assert model(junk, observed).isfinite().all()
    assert same(model, fit_mixture(torch.where(observed, x, -7.0), 3, TREES, Normal(), observed, **ARGUMENTS))


def test_images_with_channels_and_mixed_families():
    x = torch.randint(0, 255, (40, 2, 3, 2)) / 255
    graph = random_binary_trees(6, 1, 1, seed=0)
    graph = type(graph)(graph.regions, graph.partitions, (2, 3))
    leaf = {Normal(channels=2, min_variance=1e-4): range(3), Normal(channels=2): range(3, 6)}
    observed = torch.tensor([[True, True, False], [True, True, True]])
    model = fit_mixture(x, 2, graph, leaf, observed, **ARGUMENTS)
    assert model(x).isfinite().all() and model.components[0].families.keys() == leaf.keys()


@pytest.mark.parametrize("leaf", [Normal(max_variance=0.01), Categorical(32)], ids=str)
def test_leaves_that_start_from_rows_are_all_used(leaf):
    """In high dimension: with leaves that start anywhere, one entry takes all rows."""
    generator = seeded(0)
    prototypes = torch.randint(2, (4, 1, 60), generator=generator)
    x = (24 * prototypes + torch.randint(8, (4, 50, 60), generator=generator)).flatten(0, 1).float()
    x = x / 32 if isinstance(leaf, Normal) else x
    graph, arguments = RegionGraph([range(60)], []), {**ARGUMENTS, "num_sums": 8, "lr": 0.5}
    anywhere = fit_mixture(x, 1, graph, leaf, **arguments)
    from_rows = fit_mixture(x, 1, graph, leaf, start_from_rows=True, **arguments)
    assert from_rows(x).mean() > anywhere(x).mean() + 0.1
    assert same(from_rows, fit_mixture(x, 1, graph, leaf, start_from_rows=True, **arguments))


def test_start_from_rows_with_missing_entries():
    x = clustered()
    observed = torch.rand(x.shape, generator=seeded(7)) < 0.7
    junk = torch.where(observed, x, torch.nan)
    model = Einet(TREES, Normal(), num_sums=2, seed=0)
    start_leaves(model, junk, observed)
    (part,) = model.leaves.parts
    centres = torch.where(observed, x, 0).sum(0) / observed.sum(0)
    for pair, variable in enumerate(part.pairs.tolist()):
        allowed = torch.cat((x[observed[:, variable], variable], centres[variable, None]))
        allowed = 0.8 * allowed + 0.2 * centres[variable]
        assert all((allowed - mean).abs().min() < 1e-5 for mean in part.phi[0, pair, 0])


def test_em_of_the_whole_mixture_may_follow():
    x = clustered()
    model = fit_mixture(x, 3, TREES, Normal(), **ARGUMENTS)
    before = model(x).mean().item()
    history = fit(model, x, epochs=4, batch_size=None, lr=1, progress=False)
    assert history.train[0] == pytest.approx(before, abs=1e-4)
    assert all(later > earlier - 1e-5 for earlier, later in zip(history.train, history.train[1:], strict=False))


@pytest.mark.slow
def test_processes_give_the_same(tmp_path):
    x, folder = clustered(), tmp_path / "a" / "b"
    observed = torch.rand(x.shape, generator=seeded(7)) < 0.9
    alone = fit_mixture(x, 3, TREES, Normal(), observed, **ARGUMENTS)
    together = fit_mixture(x, 3, TREES, Normal(), observed, processes=2, checkpoint_folder=folder, **ARGUMENTS)
    assert same(alone, together)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = fit_mixture(x, 3, TREES, Normal(), observed, checkpoint_folder=folder, **ARGUMENTS)
    assert same(alone, again) and len(before) == 4
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before


KILLED_MIXTURE = """
import sys, torch
from einet import Normal, fit_mixture, random_binary_trees
torch.set_num_threads(1)
x = torch.cat((torch.randn(150, 6, generator=torch.Generator().manual_seed(1)), torch.full((100, 6), 9.0)))
fit_mixture(x + torch.arange(6), 2, random_binary_trees(6, 2, 2, seed=0), Normal(), epochs=int(sys.argv[3]),
            batch_size=10, seed=3, processes=int(sys.argv[2]), checkpoint_folder=sys.argv[1], progress=False)
"""


OWN_FAMILY = """
import sys, torch
from einet import Normal, fit_mixture, random_binary_trees, save

class Own(Normal):  # as in a notebook: no module has it
    def initial(self, shape, generator):
        assert torch.get_num_threads() == 1, "one thread in a process"
        return super().initial(shape, generator)

torch.set_num_threads(1)
x = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
graph, settings = random_binary_trees(6, 2, 2, seed=0), {"epochs": 2, "progress": False}
found = [fit_mixture(x, 2, graph, Own(), processes=number, **settings).state_dict() for number in (1, 2)]
assert all(torch.equal(one, other) for one, other in zip(*(each.values() for each in found), strict=True))
print("the same")
"""


@pytest.mark.slow
def test_processes_need_no_guard_and_take_what_a_script_defines(tmp_path):
    """Each on one thread, whatever the caller's own number is, and a family that no module has."""
    (tmp_path / "script.py").write_text(OWN_FAMILY)
    environment = os.environ | python_path() | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, env=environment)
    assert done.stdout == "the same\n", done.stderr[-2000:]
    assert done.stderr == ""


@pytest.mark.slow
def test_an_error_of_a_process_is_that_of_the_caller(tmp_path):
    x = clustered(60)
    fit_mixture(x, 2, TREES, Normal(), checkpoint_folder=tmp_path, **ARGUMENTS)
    with pytest.raises(ValueError, match="has seen 3 epochs"):
        fit_mixture(x, 2, TREES, Normal(), checkpoint_folder=tmp_path, processes=2, **ARGUMENTS | {"epochs": 2})


def lives(pid):
    state = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state not in ("", "Z")


def descendants(pid):
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split("\n")
    children = {}
    for child, parent in (map(int, line.split()) for line in listed if line):
        children.setdefault(parent, []).append(child)
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


@pytest.mark.slow
def test_kill_9_of_a_mixture_ends_its_processes_and_each_component_goes_on(tmp_path, monkeypatch):
    script, folder = tmp_path / "script.py", tmp_path / "parts"
    script.write_text(KILLED_MIXTURE)

    def epochs():
        return sum(epochs_in(folder / f"component-{c}.safetensors") for c in (0, 1))

    # So many epochs that only their end ends the processes, and not that of their work.
    command = [sys.executable, script, folder, "2", "100000"]
    processes = kill_in_the_middle(command, lambda: epochs() >= 3, first=descendants)
    assert len(processes) >= 2
    deadline = time.monotonic() + 20
    while any(map(lives, processes)):
        assert time.monotonic() < deadline, "the helpers live on"
        time.sleep(0.05)
    seen = epochs()
    assert seen
    for where in (folder, tmp_path / "whole"):
        run_here(KILLED_MIXTURE, monkeypatch, where, 1, seen + 10)
    for c in (0, 1):
        name = f"component-{c}.safetensors"
        assert same(load(folder / name), load(tmp_path / "whole" / name))


def test_another_mixture_is_refused(tmp_path):
    x = clustered(60)
    fit_mixture(x, 2, TREES, Normal(), checkpoint_folder=tmp_path, **ARGUMENTS)
    for change, reason in (
        ({"num_components": 3}, "num_components was 2, and is 3"), ({"seed": 5}, "seed was 4, and is 5"),
        ({"x": x + 1}, "rows was"), ({"epochs": 2}, "has seen 3 epochs"), ({"lr": 0.1}, "optimizer was"),
        ({"num_sums": 3}, "model was"),
    ):  # fmt: skip
        arguments = {"x": x, "num_components": 2, "graph": TREES, "leaf": Normal(), "checkpoint_folder": tmp_path}
        with pytest.raises(ValueError, match=reason):
            fit_mixture(**{**arguments, **ARGUMENTS, **change})


@pytest.mark.parametrize("change, reason", [
    ({"num_components": 0}, "num_components must be an integer of at least 1, got 0"),
    ({"num_components": 61}, "num_components must be at most the number of rows, 60, got 61"),
    ({"num_components": 2.5}, "num_components must be an integer"),
    ({"processes": 0}, "processes must be"),
    ({"epochs": 0}, "epochs must be"),
    ({"batch_size": 0}, "batch_size must be"),
    ({"x": torch.full((60, 6), math.nan)}, "must be finite, got nan"),
    ({"x": torch.zeros(60, 5)}, "shape"),
    ({"x": torch.zeros(0, 6)}, "at least one row"),
    ({"observed": torch.ones(60, 5, dtype=torch.bool)}, "observed must have shape"),
    ({"lr": 2.0}, "lr must be within"),
    ({"decay": 0.0}, "decay must be within"),
    ({"decay": 1.1}, "decay must be within"),
    ({"leaf": "Normal"}, "leaf must be"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_bad_input(change, reason):
    arguments = {"x": clustered(60), "num_components": 2, "graph": TREES, "leaf": Normal(), **ARGUMENTS}
    with pytest.raises(ValueError, match=reason):
        fit_mixture(**{**arguments, **change})
