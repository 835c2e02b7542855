"""Runs that are stopped, killed and prolonged end as if they had never stopped; mixtures by k-means.

What one epoch does is tested in test_em.py.
"""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
import torch
from strategies import rows

from einet import (
    EM,
    Bernoulli,
    Categorical,
    Einet,
    Mixture,
    Normal,
    RegionGraph,
    fit,
    fit_mixture,
    load,
    random_binary_trees,
    save,
    unconstrained,
)
from einet.clusters import start
from einet.files import read

GRAPH = random_binary_trees(6, 2, 2, seed=0)
X = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
HELD_OUT = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors: more threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(seed=0, **arguments):
    return Einet(GRAPH, Normal(min_variance=1e-3), num_sums=3, seed=seed, **arguments)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def by_em(model, **arguments):
    return model, {"batch_size": 20, "lr": 0.3, **arguments}


def by_scheduled_em(model, **arguments):
    em = EM(model, lr=0.8)
    return model, {"optimizer": em, "scheduler": torch.optim.lr_scheduler.MultiStepLR(em, [2, 3], 0.5), **arguments}


def by_adam(model, **arguments):
    unconstrained(model)
    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda epoch: 1 / (1 + epoch))
    return model, {"optimizer": adam, "scheduler": schedule, **arguments}


def by_momentum(model, **arguments):
    unconstrained(model)
    return model, {"optimizer": torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), **arguments}


def train(how, epochs, checkpoint=None, model=None, x=X, **arguments):
    model, arguments = how(network() if model is None else model, **arguments)
    return model, fit(model, x, epochs=epochs, checkpoint=checkpoint, progress=False, **arguments)


# Resume


@pytest.mark.parametrize("how", [by_em, by_scheduled_em, by_adam, by_momentum])
@pytest.mark.parametrize("settings", [
    {}, {"valid": HELD_OUT, "patience": 2}, {"batch_size": None, "observed": X > -1, "seed": 5},
], ids=("plain", "validated", "full-batch"))  # fmt: skip
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, how, settings):
    path = tmp_path / "run"
    whole, history = train(how, 5, **settings)
    for epochs in (1, 1, 3):
        train(how, epochs, path, **settings)
    parts, again = train(how, 5, path, **settings)
    assert same(whole, parts)
    assert (history.train, history.valid, history.lr) == (again.train, again.valid, again.lr)
    assert history.best_epoch == again.best_epoch and len(again.seconds) == len(again.train)
    before = os.stat(path).st_mtime_ns
    finished, again = train(how, 5, path, **settings)  # and once it has ended, nothing is done again
    assert same(whole, finished) and os.stat(path).st_mtime_ns == before


def test_mixtures_and_classes_resume(tmp_path):
    def mixture():
        return Mixture([network(), network(1)], [0.4, 0.6])

    whole, _ = train(by_em, 4, model=mixture())
    train(by_em, 2, tmp_path / "m", model=mixture())
    parts, _ = train(by_em, 4, tmp_path / "m", model=mixture())
    assert same(whole, parts)

    labels = torch.arange(60) % 3
    whole, _ = train(by_em, 4, model=network(num_classes=3), labels=labels)
    train(by_em, 2, tmp_path / "c", model=network(num_classes=3), labels=labels)
    parts, _ = train(by_em, 4, tmp_path / "c", model=network(num_classes=3), labels=labels)
    assert same(whole, parts)


def test_a_checkpoint_changes_nothing(tmp_path):
    with_it, history = train(by_em, 3, tmp_path / "run", valid=HELD_OUT)
    without, same_history = train(by_em, 3, valid=HELD_OUT)
    assert same(with_it, without) and history.valid == same_history.valid


def test_the_best_model_so_far_can_be_loaded(tmp_path):
    """Overfitting: the best epoch is not the last, and the file holds both."""
    x = X[:10]
    model, history = train(by_em, 12, tmp_path / "run", x=x, valid=HELD_OUT, lr=0.9)
    assert 0 <= history.best_epoch < 11
    assert same(load(tmp_path / "run"), model)
    _, tensors = read(tmp_path / "run")
    assert any(name.startswith("training.") for name in tensors)
    longer, _ = train(by_em, 14, x=x, valid=HELD_OUT, lr=0.9)
    again, _ = train(by_em, 14, tmp_path / "run", x=x, valid=HELD_OUT, lr=0.9)
    assert same(longer, again)


@dataclass(frozen=True)
class Shouted(Bernoulli):
    pass


def test_a_family_of_the_users_own(tmp_path):
    def model():
        return Einet(GRAPH, Shouted(), num_sums=2, seed=0)

    x = (X > 0).float()
    whole, _ = train(by_em, 3, model=model(), x=x)
    train(by_em, 1, tmp_path / "run", model=model(), x=x)
    assert same(train(by_em, 3, tmp_path / "run", model=model(), x=x)[0], whole)
    assert same(load(tmp_path / "run", families=[Shouted]), whole)


@pytest.mark.parametrize("change, reason", [
    ({"seed": 1}, "seed was 0, and is 1"),
    ({"batch_size": 21}, "batch_size was 20, and is 21"),
    ({"patience": 3, "valid": HELD_OUT}, "patience was None, and is 3"),
    ({"lr": 0.31}, "optimizer was"),
    ({"pseudocount": 0.1}, "optimizer was"),
    ({"x": X + 1}, "rows was"),
    ({"x": X[:-1]}, "rows was"),
    ({"x": X.double()}, "rows was"),
    ({"observed": X > 0}, "rows was"),
    ({"valid": HELD_OUT}, "validation rows was None"),
    ({"model": network(seed=1)}, "initial parameters was"),
    ({"model": Einet(GRAPH, Normal(), num_sums=3, seed=0)}, "model was"),
    ({"model": Mixture([network()], [1.0])}, "model was"),
    ({"how": by_scheduled_em, "batch_size": 20}, "optimizer was"),
    ({"epochs": 2}, "has seen 3 epochs, more than epochs=2"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_another_run_is_refused(tmp_path, change, reason):
    path = tmp_path / "run"
    train(by_em, 3, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=reason) as refusal:
        train(**{"how": by_em, "epochs": 4, "checkpoint": path, **change})
    assert str(path) in str(refusal.value) and path.read_bytes() == before


def test_another_schedule_is_refused(tmp_path):
    train(by_scheduled_em, 2, tmp_path / "run")
    em = EM(network(), lr=0.8)
    em.param_groups[0]["initial_lr"] = 0.8
    with pytest.raises(ValueError, match="scheduler was MultiStepLR, and is None"):
        train(by_em, 2, tmp_path / "run", batch_size=100, optimizer=em)
    em = EM(network(), lr=0.8)
    faster = torch.optim.lr_scheduler.MultiStepLR(em, [2, 3], 0.25)
    with pytest.raises(ValueError, match="its gamma was 0.5, and is 0.25"):
        train(by_em, 2, tmp_path / "run", batch_size=100, optimizer=em, scheduler=faster)


def test_what_is_no_run(tmp_path):
    save(network(), tmp_path / "model")
    (tmp_path / "text").write_text("hello")
    for name, reason in (("model", "a model, and not what"), ("text", "cannot read"), (".", "a folder")):
        with pytest.raises(ValueError, match=reason):
            train(by_em, 1, tmp_path / name)
    with pytest.raises(ValueError, match="in no folder that exists"):  # at once, not after an epoch
        train(by_em, 10**9, tmp_path / "none" / "run")
    train(by_em, 2, tmp_path / "run")
    (tmp_path / "run").write_bytes((tmp_path / "run").read_bytes()[:-1])
    with pytest.raises(ValueError, match="cannot read"):
        train(by_em, 2, tmp_path / "run")


KILLED = """
import sys, torch
from einet import Einet, Normal, fit, random_binary_trees
torch.set_num_threads(1)
x = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
model = Einet(random_binary_trees(6, 2, 2, seed=0), Normal(min_variance=1e-3), num_sums=3, seed=0)
fit(model, x, valid=x[:50], epochs=60, batch_size=20, lr=0.1, seed=3, checkpoint=sys.argv[1], progress=False)
"""


def kill_in_the_middle(command, until, first=lambda pid: None):
    """Start, wait, look, and send SIGKILL; what the look has seen."""
    process, deadline = subprocess.Popen(command), time.monotonic() + 100
    try:
        while not until():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline, "it takes too long"
            time.sleep(0.005)
        seen = first(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    return seen


def epochs_in(path):
    """In a file that may be replaced while it is read."""
    return len(read(path)[0]["training"]["history"]["train"]) if os.path.exists(path) else 0


def run_here(code, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["", *map(str, arguments)])
    exec(code, {"__name__": "__main__"})


@pytest.mark.slow
def test_kill_9(tmp_path, monkeypatch):
    path = tmp_path / "run"
    kill_in_the_middle([sys.executable, "-c", KILLED, path], lambda: epochs_in(path) >= 5)
    assert 5 <= epochs_in(path) < 60
    for file in (path, tmp_path / "whole"):
        run_here(KILLED, monkeypatch, file)
    assert epochs_in(path) == 60
    whole, parts = read(tmp_path / "whole"), read(path)
    assert whole[1].keys() == parts[1].keys() and all(torch.equal(whole[1][name], parts[1][name]) for name in whole[1])


# Mixtures by k-means


def clustered(num_rows=300):
    """Three clusters, of 1/2, 1/3 and 1/6 of the rows."""
    centres = torch.tensor([[5.0] * 6, [0.0] * 6, [-5.0] * 6])
    of_row = torch.tensor([0, 0, 0, 1, 1, 2]).repeat(num_rows // 6)
    return centres[of_row] + torch.randn(num_rows, 6, generator=torch.Generator().manual_seed(0))


ARGUMENTS = {"num_sums": 2, "epochs": 3, "batch_size": 25, "seed": 4, "progress": False}


def test_cluster_shares_are_weights_and_components_are_trained():
    x = clustered()
    model = fit_mixture(x, 3, GRAPH, Normal(), **ARGUMENTS)
    assert sorted(model.weights.tolist()) == pytest.approx([1 / 6, 1 / 3, 1 / 2])
    single = Einet(GRAPH, Normal(), num_sums=2, seed=4)
    fit(single, x, epochs=3, batch_size=25, progress=False)
    assert model(x).mean() > single(x).mean() + 0.3
    means = sorted(c.leaves.parts[0].phi[0].mean().item() for c in model.components)
    assert means == pytest.approx([-5, 0, 5], abs=0.5)
    assert all(component.num_sums == 2 and component.graph == GRAPH for component in model.components)


def test_one_component_is_one_network():
    x = clustered()
    model = fit_mixture(x, 1, GRAPH, Normal(), **ARGUMENTS)
    single = Einet(GRAPH, Normal(), num_sums=2, seed=4)
    fit(single, x, epochs=3, batch_size=25, seed=4, progress=False)
    assert same(model.components[0], single) and model.weights.tolist() == [1]


def test_the_step_size_falls():
    x = clustered()
    model = fit_mixture(x, 1, GRAPH, Normal(), lr=0.8, decay=0.25, **ARGUMENTS)
    single = Einet(GRAPH, Normal(), num_sums=2, seed=4)
    em = EM(single)
    for epoch in range(3):
        em.param_groups[0]["lr"] = 0.8 * 0.25**epoch
        fit(single, x, epochs=1, batch_size=25, optimizer=em, seed=4 + epoch, progress=False)
    assert same(model.components[0], single)


def test_clusters_without_rows_are_left_out_and_tiny_ones_are_not():
    x = torch.cat((clustered(60), torch.full((1, 6), 100.0)))
    model = fit_mixture(x, 4, GRAPH, Normal(), **ARGUMENTS)
    assert min(model.weights.tolist()) == pytest.approx(1 / 61) and model(x).isfinite().all()
    same_rows = torch.tensor([[1.0] * 6, [2.0] * 6]).repeat(5, 1)
    model = fit_mixture(same_rows, 3, GRAPH, Normal(), **ARGUMENTS)
    assert model.weights.tolist() == [0.5, 0.5] and model(same_rows).isfinite().all()


@pytest.mark.parametrize("each_row", [True, False])
def test_missing_entries(each_row):
    x = clustered()
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(7)) < 0.7
    observed = observed if each_row else torch.tensor([True, True, False, True, True, True])
    junk = torch.where(observed, x, torch.nan)
    model = fit_mixture(junk, 3, GRAPH, Normal(), observed, **ARGUMENTS)
    assert sorted(model.weights.tolist()) == pytest.approx([1 / 6, 1 / 3, 1 / 2], abs=0.05)
    assert model(junk, observed).isfinite().all()
    assert same(model, fit_mixture(torch.where(observed, x, -7.0), 3, GRAPH, Normal(), observed, **ARGUMENTS))


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
    generator = torch.Generator().manual_seed(0)
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
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(7)) < 0.7
    junk = torch.where(observed, x, torch.nan)
    model = Einet(GRAPH, Normal(), num_sums=2, seed=0)
    start(model, junk, observed)
    (part,) = model.leaves.parts
    centres = torch.where(observed, x, 0).sum(0) / observed.sum(0)
    for pair, variable in enumerate(part.pairs.tolist()):
        allowed = torch.cat((x[observed[:, variable], variable], centres[variable, None]))
        allowed = 0.8 * allowed + 0.2 * centres[variable]
        assert all((allowed - mean).abs().min() < 1e-5 for mean in part.phi[0, pair, 0])


def test_em_of_the_whole_mixture_may_follow():
    x = clustered()
    model = fit_mixture(x, 3, GRAPH, Normal(), **ARGUMENTS)
    before = model(x).mean().item()
    history = fit(model, x, epochs=4, batch_size=None, lr=1, progress=False)
    assert history.train[0] == pytest.approx(before, abs=1e-4)
    assert all(later > earlier - 1e-5 for earlier, later in zip(history.train, history.train[1:], strict=False))


@pytest.mark.slow
def test_processes_give_the_same(tmp_path):
    x, folder = clustered(), tmp_path / "a" / "b"
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(7)) < 0.9
    alone = fit_mixture(x, 3, GRAPH, Normal(), observed, **ARGUMENTS)
    together = fit_mixture(x, 3, GRAPH, Normal(), observed, processes=2, checkpoint_folder=folder, **ARGUMENTS)
    assert same(alone, together)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = fit_mixture(x, 3, GRAPH, Normal(), observed, checkpoint_folder=folder, **ARGUMENTS)
    assert same(alone, again) and len(before) == 4
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before


KILLED_MIXTURE = """
import sys, torch
from einet import Normal, fit_mixture, random_binary_trees
if __name__ == "__main__":
    torch.set_num_threads(1)
    x = torch.cat((torch.randn(150, 6, generator=torch.Generator().manual_seed(1)), torch.full((100, 6), 9.0)))
    fit_mixture(x + torch.arange(6), 2, random_binary_trees(6, 2, 2, seed=0), Normal(), epochs=40, batch_size=10,
                seed=3, processes=int(sys.argv[2]), checkpoint_folder=sys.argv[1], progress=False)
"""


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

    helpers = kill_in_the_middle([sys.executable, script, folder, "2"], lambda: epochs() >= 3, first=descendants)
    assert len(helpers) >= 2
    deadline = time.monotonic() + 20
    while any(map(lives, helpers)):
        assert time.monotonic() < deadline, "the helpers live on"
        time.sleep(0.05)
    assert 0 < epochs() < 80
    for where in (folder, tmp_path / "whole"):
        run_here(KILLED_MIXTURE, monkeypatch, where, 1)
    for c in (0, 1):
        name = f"component-{c}.safetensors"
        assert same(load(folder / name), load(tmp_path / "whole" / name))


def test_another_mixture_is_refused(tmp_path):
    x = clustered(60)
    fit_mixture(x, 2, GRAPH, Normal(), checkpoint_folder=tmp_path, **ARGUMENTS)
    for change, reason in (
        ({"num_components": 3}, "num_components was 2, and is 3"), ({"seed": 5}, "seed was 4, and is 5"),
        ({"x": x + 1}, "rows was"), ({"epochs": 2}, "has seen 3 epochs"), ({"lr": 0.1}, "optimizer was"),
        ({"num_sums": 3}, "model was"),
    ):  # fmt: skip
        arguments = {"x": x, "num_components": 2, "graph": GRAPH, "leaf": Normal(), "checkpoint_folder": tmp_path}
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
    arguments = {"x": clustered(60), "num_components": 2, "graph": GRAPH, "leaf": Normal(), **ARGUMENTS}
    with pytest.raises(ValueError, match=reason):
        fit_mixture(**{**arguments, **change})


@pytest.mark.parametrize("change, reason", [
    ({"epochs": None}, "epochs must be"),
    ({"epochs": 1.5}, "epochs must be"),
    ({"patience": 0}, "patience must be"),
    ({"labels": torch.zeros(60, dtype=torch.long)}, "labels must be given where"),
    ({"x": [[1.0] * 6]}, "real tensor"),
    ({"x": torch.tensor(1.0)}, "shape"),
    ({"valid": torch.full((3, 6), math.nan)}, "finite"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_bad_settings_of_fit(change, reason):
    with pytest.raises(ValueError, match=reason):
        fit(network(), **{"x": X, "progress": False, **change})


def test_bad_labels():
    for labels in (torch.zeros(60), torch.zeros(59, dtype=torch.long), torch.full((60,), 3), torch.full((60,), -1)):
        with pytest.raises(ValueError, match="labels must be 60 int64 numbers from 0 to 2"):
            fit(network(num_classes=3), X, labels=labels, progress=False)


def test_a_bad_value_is_found_in_any_row():
    """Data are checked in portions."""
    model = Einet(GRAPH, Bernoulli(), num_sums=2, seed=0)
    x = rows(model, 2500)
    x[2400, 3] = 2
    with pytest.raises(ValueError, match="must be 0 or 1, got 2"):
        fit(model, x, progress=False)
