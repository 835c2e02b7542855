"""Models on disk: the same to the last bit, whole at any moment, and nothing but ValueError from a file that is not."""

import json
import os
import pickle
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
import torch
from helpers import TREES, network
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from strategies import examples, in_float64, masks, models, rows

from einet import (
    EM,
    Bernoulli,
    Binomial,
    Categorical,
    Einet,
    Mixture,
    Normal,
    RegionGraph,
    fit,
    load,
    load_optimizer,
    poon_domingos,
    random_binary_trees,
    save,
    unconstrained,
)  # fmt: skip
from einet.storage.archive import read, write

MIXED = {Normal(min_variance=1e-4): (0, 3), Categorical(categories=3): (1, 4), Bernoulli(): (2, 5)}


def two_and_another():
    """Two networks alike, one over another graph, with another family."""
    other = network(Normal(), poon_domingos((2, 3), 1), num_sums=2, num_leaves=4, seed=3)
    graph = RegionGraph(TREES.regions, TREES.partitions, (2, 3))
    return Mixture([network(graph=graph), network(graph=graph, seed=1), other], [0.5, 0.2, 0.3])


def edited(path, change):
    """Write the file again, checksum and all, after `change(content, tensors)`."""
    content, tensors = read(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(content, tensors)
    write(path, content, tensors)


# The same to the last bit


@settings(examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(models(), st.sampled_from((torch.float32, torch.float64)))
@pytest.mark.slow
def test_round_trip(tmp_path, model, dtype):
    model, path = model.to(dtype), tmp_path / "model.safetensors"
    save(model, path)
    again = load(path)
    x, observed = rows(model, 5).to(dtype), masks(model, 5)
    assert torch.equal(model(x, observed), again(x, observed)) and torch.equal(model(x), again(x))
    assert again.graph == model.graph and again.families == model.families
    assert {p.dtype for p in again.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixtures(tmp_path, dtype):
    model = two_and_another().to(dtype)
    save(model, tmp_path / "mixture.safetensors")
    again = load(str(tmp_path / "mixture.safetensors"))
    x = torch.randn(20, 6, dtype=dtype)
    assert torch.equal(model(x), again(x)) and torch.equal(model.weights, again.weights)
    assert again.components[2].graph == model.components[2].graph


def test_a_component_may_occur_twice(tmp_path):
    twice = network()
    model = Mixture([twice, twice], [0.5, 0.5])
    save(model, tmp_path / "m")
    assert torch.equal(load(tmp_path / "m")(torch.zeros(1, 6)), model(torch.zeros(1, 6)))


def test_graphs_are_written_once(tmp_path):
    save(Mixture([network(seed=c) for c in range(50)], [0.02] * 50), tmp_path / "m")
    content, _ = read(tmp_path / "m")
    assert len(content["model"]["networks"]) == 1 and content["model"]["components"] == [0] * 50


@pytest.mark.parametrize("leaf", [MIXED, Binomial(total=7, floor=1e-3), Normal(channels=2), Categorical(categories=4)])
def test_families_come_back_as_they_were(tmp_path, leaf):
    model = network(leaf, num_classes=2, num_leaves=5)
    save(model, tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.families == model.families and list(again.families) == list(model.families)
    assert (again.num_sums, again.num_leaves, again.num_classes, again.channels) == (3, 5, 2, model.channels)


@dataclass(frozen=True)
class Shouted(Bernoulli):
    """A family of the user's own."""

    loudness: object = 1.5


@dataclass(frozen=True)
class Impostor(Bernoulli):
    pass


Impostor.__name__ = "Normal"


def test_a_family_of_the_users_own(tmp_path):
    model = network(Shouted(loudness=2.0))
    with pytest.raises(ValueError, match=r"Shouted is not one of .*families=\(Shouted,\)"):
        save(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())
    save(model, tmp_path / "m", families=[Shouted])
    with pytest.raises(ValueError, match="'Shouted' is not one of"):
        load(tmp_path / "m")
    assert list(load(tmp_path / "m", families=[Shouted]).families) == [Shouted(loudness=2.0)]
    with pytest.raises(ValueError, match="Normal is not one of"):
        save(network(Impostor()), tmp_path / "m")
    for loudness, reason in ((frozenset({1}), "what JSON can hold"), ((1, 2), "come back from JSON as they were")):
        with pytest.raises(ValueError, match=reason):
            save(network(Shouted(loudness=loudness)), tmp_path / "m", families=[Shouted])


@pytest.mark.parametrize("leaf", [MIXED, Normal(max_variance=0.01), Categorical(categories=50), Binomial(total=255)])
def test_half_precision_halves_the_file_and_is_a_density_again(tmp_path, leaf):
    model = network(leaf, random_binary_trees(6, 1, 20, seed=0), num_sums=15)
    save(model, tmp_path / "single")
    save(model, tmp_path / "half", dtype=torch.float16)
    again = load(tmp_path / "half")
    x = torch.zeros(1, 6)
    torch.testing.assert_close(again(x), model(x), rtol=1e-2, atol=1e-2)
    assert again(x, torch.zeros(6, dtype=torch.bool)).abs() < 1e-4  # nothing observed: the mass
    saved = (tmp_path / "single").stat().st_size - (tmp_path / "half").stat().st_size
    assert saved == pytest.approx(2 * sum(p.numel() for p in model.parameters()), abs=16)


def test_optimizers(tmp_path):
    model = network()
    em = EM(model, lr=0.5, pseudocount=0.1)
    torch.optim.lr_scheduler.StepLR(em, 1, 0.5)
    em.param_groups[0]["lr"] = 0.125
    save(model, tmp_path / "m", em)
    again = EM(load(tmp_path / "m"))
    load_optimizer(tmp_path / "m", again)
    assert (again.param_groups[0]["lr"], again.param_groups[0]["pseudocount"]) == (0.125, 0.1)
    with pytest.raises(ValueError, match="the state of EM, not of Adam"):
        load_optimizer(tmp_path / "m", torch.optim.Adam(model.parameters()))
    with pytest.raises(ValueError, match="parameter group"):
        load_optimizer(tmp_path / "m", EM(two_and_another()))
    save(model, tmp_path / "m")
    with pytest.raises(ValueError, match="optimizer"):
        load_optimizer(tmp_path / "m", again)


def test_the_state_of_adam(tmp_path):
    model = network()
    adam = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.8, 0.9))
    model(torch.randn(9, 6)).sum().backward()
    adam.step()
    with torch.no_grad():  # back to a distribution: Adam on weights themselves leaves it
        model.reset_parameters(0)
    save(model, tmp_path / "m", adam)
    again = torch.optim.Adam(load(tmp_path / "m").parameters())
    load_optimizer(tmp_path / "m", again)
    old, new = adam.state_dict(), again.state_dict()
    assert old["param_groups"] == new["param_groups"]
    assert all(torch.equal(v, new["state"][i][k]) for i, entries in old["state"].items() for k, v in entries.items())


def test_an_optimizer_that_keeps_more_than_numbers(tmp_path):
    model = network()
    lbfgs = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1))
    with pytest.raises(ValueError, match="SGD keeps more than tensors and JSON can hold"):
        save(model, tmp_path / "m", lbfgs)


@pytest.mark.parametrize("break_it, reason", [
    (unconstrained, "constrained"),
    (lambda model: model.bfloat16(), "dtype"),
    (lambda model: model.leaves.double(), "one dtype"),
    (lambda model: model.levels[0].einsums[0].weights.data.fill_(torch.nan), "levels.0.einsums.0 are negative, or off"),
    (lambda model: model.levels[0].einsums[0].weights.data.mul_(1.01), "off a sum of 1"),
    (lambda model: model.leaves.parts[0].phi.data.fill_(-1), "leaves.parts.0 are outside what Normal"),
])  # fmt: skip
def test_what_cannot_be_saved(tmp_path, break_it, reason):
    model = network()
    break_it(model)
    with pytest.raises(ValueError, match=reason):
        save(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_only_models_to_files_in_folders(tmp_path):
    with pytest.raises(ValueError, match="or an estimator of einet.tables can be saved, got Linear"):
        save(torch.nn.Linear(2, 2), tmp_path / "m")
    with pytest.raises(ValueError, match="is a folder"):
        save(network(), tmp_path)
    with pytest.raises(ValueError, match="in no folder that exists"):
        save(network(), tmp_path / "none" / "m")


# Whole at any moment


def test_the_old_file_stays_when_writing_fails(tmp_path, monkeypatch):
    path, old = tmp_path / "m", network()
    save(old, path)
    before = path.read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    targets = (("secrets", "token_hex"), ("einet.storage.archive", "_memory"), ("os", "fsync"), ("os", "replace"))
    for module, name in targets:
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.{name}", fail)
            with pytest.raises(KeyboardInterrupt):
                save(network(seed=1), path)
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_others_may_read_the_file_and_links_stay_links(tmp_path):
    os.symlink(tmp_path / "real", tmp_path / "link")
    save(network(), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and not (tmp_path / "real").is_symlink()
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


WRITES_FOREVER = """
import itertools, sys, torch
from einet.storage.archive import write
for i in itertools.count():
    write(sys.argv[1], {"number": i}, {"x": torch.full((500_000,), float(i))})
"""


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """And read at any moment: a reader sees one file, though the writer replaces it."""
    paths = [tmp_path / str(i) / "state" for i in range(3)]
    for path in paths:
        path.parent.mkdir()
    writers = [subprocess.Popen([sys.executable, "-c", WRITES_FOREVER, path]) for path in paths]
    deadline = time.monotonic() + 60
    try:
        for path, writer in zip(paths, writers, strict=True):
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            for _ in range(random.Random(path.parent.name).randrange(50)):
                content, tensors = read(path)
                assert (tensors["x"] == content["number"]).all()
            writer.send_signal(signal.SIGKILL)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    for path in paths:
        content, tensors = read(path)
        assert (tensors["x"] == content["number"]).all() and os.listdir(path.parent) == [path.name]


# What load refuses


class Bomb:
    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_is_refused_and_never_executed(tmp_path):
    bomb = Bomb()
    bomb.path = str(tmp_path / "executed")
    (tmp_path / "m").write_bytes(pickle.dumps(bomb))
    with pytest.raises(ValueError, match="cannot read .*m: "):
        load(tmp_path / "m")
    torch.save({"x": torch.ones(3)}, tmp_path / "m")
    with pytest.raises(ValueError, match="cannot read .*m: "):
        load(tmp_path / "m")
    assert not (tmp_path / "executed").exists()


def test_no_file(tmp_path):
    for path, reason in ((tmp_path, "a folder"), (tmp_path / "none", "no such file"), ("\0", "no such file")):
        with pytest.raises(ValueError, match=reason):
            load(path)
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for name in ("empty", "pipe"):
        with pytest.raises(ValueError, match=f"cannot read .*{name}"):
            load(tmp_path / name)
    (tmp_path / "of_joblib").write_bytes(b"\x80\x04\x95" * 100)
    with pytest.raises(ValueError, match="cannot read .*joblib: .*not a file of einet.save"):
        load(tmp_path / "of_joblib")


def test_foreign_safetensors(tmp_path):
    save_file({"x": torch.ones(3)}, tmp_path / "m")
    with pytest.raises(ValueError, match=r"format and version are \(None, None\)"):
        load(tmp_path / "m")
    for metadata in ({"format": "pt"}, {"format": "einet", "version": "2"}):
        save_file({"x": torch.ones(3)}, tmp_path / "m", metadata)
        with pytest.raises(ValueError, match=f"{metadata.get('version', 'pt')}.* this einet reads \\('einet', '1'\\)"):
            load(tmp_path / "m")
    write(tmp_path / "m", {"clusters": 3}, {"labels": torch.ones(3)})
    with pytest.raises(ValueError, match="cannot read .*'model'"):
        load(tmp_path / "m")


def drop(name):
    return lambda content, tensors: tensors.pop(name)


def put(name, change):
    return lambda content, tensors: tensors.update({name: change(tensors.get(name))})


def tell(**values):
    return lambda content, tensors: content["model"]["networks"][0].update(values)


def tell_leaf(**fields):
    return lambda content, tensors: content["model"]["networks"][0]["leaf"][0]["fields"].update(fields)


def tell_graph(**values):
    return lambda content, tensors: content["model"]["networks"][0]["graph"].update(values)


PHI, WEIGHTS = "leaves.parts.0.phi", "levels.0.einsums.0.weights"
HUGE = 10**9


@pytest.mark.parametrize("change, reason", [
    (drop(PHI), rf"lacks the tensors \['{PHI}'\]"),
    (put("more", lambda _: torch.ones(1)), r"has \['more'\]"),
    (put(PHI, lambda phi: phi[:, 1:]), rf"shape of {PHI} should be \(2, 12, 1, 3\), it is \(2, 11, 1, 3\)"),
    (put(PHI, lambda phi: phi.double()), "one dtype"),
    (put(PHI, lambda phi: phi.long()), "one dtype"),
    (put(PHI, lambda phi: phi * torch.nan), "outside what Normal"),
    (put(PHI, lambda phi: phi * 1000), "outside what Normal"),
    (put(WEIGHTS, lambda w: w * torch.nan), "negative, or off"),
    (put(WEIGHTS, lambda w: w * 1.01), "off a sum of 1"),
    (put(WEIGHTS, lambda w: torch.cat((w[..., :1] - 2, w[..., 1:-1], w[..., -1:] + 2), -1)), "negative"),
    (tell(num_sums=HUGE), "should be|overflow"),
    (tell(num_sums=10**30), "cannot read"),
    (tell(num_sums=10**5), "should be"),
    (tell(num_sums="3"), "num_sums must be an integer"),
    (tell(num_classes=HUGE), "should be"),
    (tell(leaf=[]), "cannot read"),
    (tell_leaf(channels=HUGE), "should be"),
    (tell_leaf(colour="red"), "colour"),
    (tell_leaf(min_variance=[1]), "cannot read"),
    (tell_graph(regions=[[2**24 - 1]] * 2000), "has a variable 16777215, but lists only 2000"),
    (tell_graph(shape=[HUGE, HUGE]), "cells"),
    (tell_graph(partitions=[[0, 0, 0]]), "cannot read"),
    (lambda content, _: content["model"].update(components=[0] * 1000), "components must be"),
    (lambda content, _: content["model"].update(components=[0, 1]), "components must be"),
    (lambda content, _: content["model"].update(components=[]), "lacks"),
    (lambda content, _: content["model"].update(networks=[]), "components must be"),
    (lambda content, _: content.update(model=None), "cannot read"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_refusals(tmp_path, change, reason):
    save(network(), tmp_path / "m")
    edited(tmp_path / "m", change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=reason) as refusal:
        load(tmp_path / "m")
    assert str(tmp_path / "m") in str(refusal.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


@pytest.mark.slow
def test_a_mixture_without_mass_one(tmp_path):
    for weights in ([0.5, 0.5, 0.1], [0.5, 0.6, -0.1], [torch.nan] * 3):
        save(two_and_another(), tmp_path / "m")
        edited(tmp_path / "m", put("weights", lambda _, w=weights: torch.tensor(w)))
        with pytest.raises(ValueError, match="the weights of the mixture are negative, or off"):
            load(tmp_path / "m")


@pytest.mark.parametrize("share", [0, 0.001, 0.05, 0.3, 0.6, 0.9, 0.99999])
def test_any_flipped_bit_is_found(tmp_path, share):
    save(network(), tmp_path / "m")
    data = bytearray((tmp_path / "m").read_bytes())
    data[int(share * len(data))] ^= 1
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(ValueError, match="cannot read .*m: "):
        load(tmp_path / "m")


# A thousand files that nobody wrote

NASTY = (None, True, False, 0, 1, -1, 2, 3, 7, HUGE, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "0",
         "Normal", "Categorical", "\0", [], [0], [[]], [None], [[0, 1], [0]], {}, {"a": 1})  # fmt: skip


def mutated_bytes(data, source):
    """Flip, cut, drop, repeat or splice some bytes."""
    data = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 5))):
        at, length = source.randrange(len(data) or 1), source.choice((1, 1, 8, 100))
        kind = source.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes([source.randrange(256)])
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at : at + length] = source.randbytes(length)
        else:
            start = source.randrange(len(data) or 1)
            data[at : at + length] = data[start : start + length]
    return bytes(data)


def mutated_json(value, source):
    """Change one place, somewhere inside: another value, something gone, something twice."""
    inner = isinstance(value, (dict, list)) and value
    if not inner or source.random() < 0.15:
        return source.choice(NASTY)
    value = dict(value) if isinstance(value, dict) else list(value)
    key = source.choice(list(value)) if isinstance(value, dict) else source.randrange(len(value))
    kind = source.randrange(8)
    if kind == 0:
        del value[key]
    elif kind == 1 and isinstance(value, list):
        value.insert(key, source.choice(value))
    else:
        value[key] = mutated_json(value[key], source)
    return value


def mutated_tensors(tensors, source):
    tensors = dict(tensors)
    name = source.choice(list(tensors))
    tensor = tensors.pop(name)
    changed = (
        lambda: tensor.flatten(), lambda: tensor[..., :-1], lambda: tensor.double(), lambda: tensor * torch.nan,
        lambda: tensor.bool(), lambda: tensor * 2, lambda: tensor[None], lambda: -tensor, lambda: tensor.bfloat16(),
        lambda: tensor.to(torch.complex64), lambda: torch.empty(0, HUGE), lambda: tensor.to(torch.float8_e4m3fn),
    )  # fmt: skip
    tensors[source.choice((name, name, name, name + "x", "training." + name))] = source.choice(changed)()
    return tensors


@pytest.mark.slow
def test_fuzz(tmp_path):
    """Only ValueError comes out of 1,000 mutated files, and what still loads is a density."""
    path, originals = tmp_path / "m", []
    for model in (network(), network(MIXED, num_classes=2), two_and_another()):
        save(model, path, EM(model))
        originals.append((path.read_bytes(), *read(path)))
    source = random.Random(0)
    for i in range(1000):
        data, content, tensors = source.choice(originals)
        if i % 2:
            changed = mutated_bytes(data, source)
            path.write_bytes(changed)
        else:
            content = mutated_json(content, source) if i % 4 else content
            write(path, content, tensors if i % 4 else mutated_tensors(tensors, source))
        try:
            model = load(path)
        except ValueError as error:
            assert str(path) in str(error)
            continue
        assert not i % 2 or changed == data, "bytes that changed have passed the checksum"
        nothing = torch.zeros(6, dtype=torch.bool)
        channels = (model.components[0] if isinstance(model, Mixture) else model).channels
        mass = model(torch.zeros(1, 6, channels), nothing)
        assert mass.abs().max() < 0.01, json.dumps(content)


@pytest.mark.slow
def test_fuzz_of_optimizers(tmp_path):
    model = network()
    save(model, tmp_path / "m", EM(model))
    content, tensors = read(tmp_path / "m")
    source = random.Random(1)
    for _ in range(200):
        write(tmp_path / "m", {**content, "optimizer": mutated_json(content["optimizer"], source)}, tensors)
        try:
            load_optimizer(tmp_path / "m", EM(model))
        except ValueError as error:
            assert str(tmp_path / "m") in str(error)


def test_float64_models_of_float64_data(tmp_path):
    model = in_float64(network(Normal()))
    save(model, tmp_path / "m")
    assert next(load(tmp_path / "m").parameters()).dtype == torch.float64


@pytest.mark.slow
def test_a_loaded_model_learns_like_the_saved_one(tmp_path):
    saved = two_and_another()
    save(saved, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert type(loaded) is Mixture and {type(component) for component in loaded.components} == {Einet}
    x = torch.randn(40, 6)
    for model in (saved, loaded):
        fit(model, x, epochs=2, batch_size=10, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), loaded.parameters(), strict=True))
