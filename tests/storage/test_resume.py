"""Runs that are stopped, killed and prolonged end as if they had never stopped."""

import os
import sys
from dataclasses import dataclass

import pytest
import torch
from helpers import TREES, epochs_in, kill_in_the_middle, mixture, network, run_here, same

from einet import (
    EM,
    Bernoulli,
    Einet,
    Mixture,
    Normal,
    fit,
    load,
    save,
    training,
    unconstrained,
)
from einet.storage.archive import read

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
HELD_OUT = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))


def by_em(model, **arguments):
    return model, {"batch_size": 20, "lr": 0.3, **arguments}


def by_averaged_em(model, **arguments):
    return by_em(model, momentum=0.9, **arguments)


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


@pytest.mark.parametrize("how", [by_em, by_averaged_em, by_scheduled_em, by_adam, by_momentum])
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


def test_a_step_that_falls_goes_on_from_where_it_was(tmp_path, monkeypatch):
    settings = {"lr": 0.9, "last_lr": 0.1, "batch_size": 20}
    whole, history = train(by_em, 5, **settings)
    advance = training._Run.advance

    def stopped(run, *arguments):
        if run.epoch == 3:
            raise KeyboardInterrupt
        advance(run, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training._Run, "advance", stopped)
        train(by_em, 5, tmp_path / "run", **settings)
    parts, again = train(by_em, 5, tmp_path / "run", **settings)
    assert same(whole, parts) and again.lr == history.lr
    with pytest.raises(ValueError, match="its total_iters was 4, and is 6"):
        train(by_em, 7, tmp_path / "run", **settings)


def test_mixtures_and_classes_resume(tmp_path):
    whole, _ = train(by_em, 4, model=mixture((0.4, 0.6)))
    train(by_em, 2, tmp_path / "m", model=mixture((0.4, 0.6)))
    parts, _ = train(by_em, 4, tmp_path / "m", model=mixture((0.4, 0.6)))
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
        return Einet(TREES, Shouted(), num_sums=2, seed=0)

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
    ({"momentum": 0.1}, "optimizer was"),
    ({"x": X + 1}, "rows was"),
    ({"x": X[:-1]}, "rows was"),
    ({"x": X.double()}, "rows was"),
    ({"observed": X > 0}, "rows was"),
    ({"valid": HELD_OUT}, "validation rows was None"),
    ({"model": network(seed=1)}, "initial parameters was"),
    ({"model": Einet(TREES, Normal(), num_sums=3, seed=0)}, "model was"),
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
    em = EM(model := network(), lr=0.8)
    em.param_groups[0]["initial_lr"] = 0.8
    with pytest.raises(ValueError, match="scheduler was MultiStepLR, and is None"):
        train(by_em, 2, tmp_path / "run", model, batch_size=100, optimizer=em)
    em = EM(model := network(), lr=0.8)
    faster = torch.optim.lr_scheduler.MultiStepLR(em, [2, 3], 0.25)
    with pytest.raises(ValueError, match="its gamma was 0.5, and is 0.25"):
        train(by_em, 2, tmp_path / "run", model, batch_size=100, optimizer=em, scheduler=faster)


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
x = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
model = Einet(random_binary_trees(6, 2, 2, seed=0), Normal(min_variance=1e-3), num_sums=3, seed=0)
fit(model, x, valid=x[:50], epochs=60, batch_size=20, lr=0.1, seed=3, checkpoint=sys.argv[1], progress=False)
"""


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
