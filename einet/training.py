"""The loop around EM: epochs, batches, validation, early stopping; and how it goes on after a `kill -9`.

    history = fit(model, x, valid=held_out, epochs=50, checkpoint="digits.safetensors")

Paper: Section 3.5 and 4
Chapter: book/07_em
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from einet.checkpoint import (
    check_dtype,
    check_state,
    description,
    optimizer_state,
    parameters_of,
    set_optimizer_state,
    set_parameters,
)
from einet.em import EM, check_movable
from einet.files import digest, read, refusals, write
from einet.mixture import Mixture
from einet.network import Einet
from einet.rows import GraphedStep, Rows, check_positive, epoch, steps_of_epoch

# Who gains less than these nats a row has not left the start.
FEWEST_NATS = 0.01


@dataclass
class History:
    """What `fit` saw, an entry an epoch: mean log-densities of the rows in nats, seconds, and step sizes.

    `train` is measured while the parameters move, on each batch before its step; `valid` after the epoch. `best_epoch`
    is the index of the parameters that the model holds at the end.

    Paper: Section 3.5
    Chapter: book/07_em
    """

    train: list[float] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    best_epoch: int = -1


@torch.inference_mode(False)  # gradients, and whatever an optimizer keeps: in whatever mode the caller is
def fit(
    model: Einet | Mixture,
    x: Tensor,
    observed: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    valid: Tensor | tuple | None = None,
    epochs: int = 10,
    batch_size: int | None = 100,
    lr: float = 0.5,
    last_lr: float | None = None,
    pseudocount: float = 0.0,
    leaf_pseudocount: float = 0.0,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    cuda_graph: bool = False,
    progress: bool = True,
) -> History:
    """Train `model` on the rows of `x`, in place, by stochastic EM unless another `optimizer` is given.

    observed    bool, as in `Einet.forward`: what is missing is integrated out
    labels      (B,) classes, for a model with several: each row then trains its own root
    valid       rows to validate on, as x, (x,), (x, observed) or (x, observed, labels): the parameters of the best
                epoch are kept
    batch_size  at most so many rows a step, in a new random order every epoch: an epoch's batches differ by at most one
                row in size. None is full-batch: one step an epoch
    lr, pseudocount, leaf_pseudocount   of `EM`, where no `optimizer` is given
    scheduler   of the `optimizer`, stepped after every epoch
    patience    stop after this many epochs without a better validation; None never stops early. An epoch of EM in which
                `lr` and the number of steps multiply to less than 1 counts as that much of an epoch only, since EM may
                stay on a plateau for 1 / lr steps. A warning says where training ended as good as it started
    seed        of the order of the rows; the global random state is left alone
    checkpoint  a file that is replaced after every epoch. Where it exists, training goes on from there, and ends with
                the same parameters, bit for bit, as if it had never stopped; `load` reads the best model so far.
                More `epochs` than before prolong a run; all else must be as it was, the initial parameters too
    cuda_graph  record one step of EM on the GPU, and replay it: a small or deep network then no longer waits for the
                CPU to launch its many kernels. The data are moved to the GPU. Gradients are not checked at every step:
                a likelihood that is not finite ends the training after the epoch, with a `ValueError`
    progress    show a bar, where tqdm is installed

    A model that is trained is no other thread's to ask: see `queries`.

    `ValueError` for settings or data out of range, or a checkpoint that is damaged or of another run.

    Paper: Section 3.5
    Chapter: book/07_em
    """
    check_positive(epochs=epochs, batch_size=batch_size, patience=patience)
    if patience is not None and valid is None:
        warnings.warn(f"patience={patience} has no effect without valid: nothing says when to stop", stacklevel=3)
    train = Rows(model, x, observed, labels)
    train.check_resolution()
    check_movable(model)
    held_out = None if valid is None else Rows(model, *(valid if isinstance(valid, tuple) else (valid,)))
    if any((rows.labels is None) != (model.num_classes == 1) for rows in (train, held_out) if rows is not None):
        raise ValueError(f"labels must be given where there are several classes, and only there: {model.num_classes}")
    if optimizer is None:
        # where the model is; the rows themselves may be elsewhere
        optimizer = EM(model, lr, pseudocount, leaf_pseudocount, train.some(slice(None)) if leaf_pseudocount else None)
        if last_lr: scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, last_lr / lr, max(1, epochs - 1))
    run = _Run(model, optimizer, scheduler, GraphedStep(train, optimizer, batch_size) if cuda_graph else None)
    if checkpoint is not None:
        settings = {"batch_size": batch_size, "patience": patience, "seed": seed, "rows": train.digest()}
        run.resume(checkpoint, {**settings, "validation rows": held_out and held_out.digest()}, epochs)
    at_start = None
    if patience is not None and held_out is not None and run.epoch == 0:
        at_start = held_out.log_densities().double().mean().item()
    bar = progress_bar(range(run.epoch, epochs), progress)
    for _ in bar:
        if patience is not None and run.waited(steps_of_epoch(len(x), batch_size)) >= patience:
            break
        run.advance(train, held_out, batch_size, seed)
        if checkpoint is not None:
            run.save(checkpoint)
        if progress:
            bar.set_postfix(run.shown())
    run.finish()
    if at_start is not None and run.epoch < epochs:
        _warn_of_plateau(at_start, max(run.history.valid), run.epoch)
    return run.history


class _Run:
    """A training run between two epochs: all that the next one depends on, and the best parameters so far."""

    def __init__(self, model: Einet | Mixture, optimizer: torch.optim.Optimizer, scheduler, graph: GraphedStep | None):
        self.model, self.optimizer, self.scheduler, self.graph = model, optimizer, scheduler, graph
        self.history, self.best = History(), None

    @property
    def epoch(self) -> int:
        return len(self.history.train)

    def waited(self, steps: int) -> float:
        """How many epochs, of so many steps each, have passed since the best one; of EM an epoch may count for less."""
        since = self.history.lr[self.history.best_epoch + 1 :]
        return round(sum(min(1.0, lr * steps) for lr in since), 6) if isinstance(self.optimizer, EM) else len(since)

    def advance(self, train: Rows, held_out: Rows | None, batch_size: int | None, seed: int) -> None:
        start, history = time.perf_counter(), self.history
        history.lr.append(self.optimizer.param_groups[0]["lr"])
        history.train.append(epoch(train, self.optimizer, batch_size, seed + self.epoch, self.graph))
        if self.scheduler is not None:
            self.scheduler.step()
        if held_out is not None:
            history.valid.append(held_out.log_densities().double().mean().item())
        history.seconds.append(time.perf_counter() - start)
        self._keep_the_best()

    def _keep_the_best(self) -> None:
        history = self.history
        if not history.valid:
            history.best_epoch = self.epoch - 1
        elif history.best_epoch < 0 or history.valid[-1] > history.valid[history.best_epoch]:
            history.best_epoch = self.epoch - 1
            self.best = {name: tensor.clone() for name, tensor in parameters_of(self.model).items()}

    def shown(self) -> dict[str, str]:
        last = {"train": self.history.train[-1:], "valid": self.history.valid[-1:]}
        return {name: f"{value[0]:.3f}" for name, value in last.items() if value}

    def finish(self) -> None:
        if self.best is not None:
            set_parameters(self.model, self.best)

    # On disk

    def resume(self, path: str | os.PathLike, settings: dict, epochs: int) -> None:
        """Go on from `path`, or, where there is no such file, begin it."""
        check_dtype(parameters_of(self.model))  # of another, no epoch could be read again
        self.settings = {
            **settings,
            "model": description(self.model, _families(self.model)),
            "initial parameters": digest(parameters_of(self.model)),
            "optimizer": optimizer_state(self.optimizer)[0],
            **_told(self.scheduler),
        }
        if not os.path.exists(path):
            self.save(path)  # now, so that a path where nothing can be written is found before an epoch is lost
            return
        content, tensors = read(path)
        with refusals(path):
            if "training" not in content:
                raise ValueError("it is a model, and not what `fit` was doing")
            check_same(content["training"]["settings"], self.settings)
            self._restore(content, tensors)
            if self.epoch > epochs:
                raise ValueError(f"it has seen {self.epoch} epochs, more than epochs={epochs}")

    def save(self, path: str | os.PathLike) -> None:
        state, tensors = optimizer_state(self.optimizer)
        current = parameters_of(self.model)
        best = current if self.best is None else self.best
        if self.history.best_epoch < self.epoch - 1:
            tensors |= {f"training.{name}": tensor for name, tensor in current.items()}
        training = {"history": asdict(self.history), "settings": self.settings}
        content = {"model": self.settings["model"], "optimizer": state, "training": training}
        write(path, content, {**best, **tensors})

    def _restore(self, content: dict, tensors: dict[str, Tensor]) -> None:
        best = {name: tensors[name] for name in parameters_of(self.model)}
        current = {name: tensors.get(f"training.{name}", tensor) for name, tensor in best.items()}
        for state in (best, current):
            check_state(self.model, state)
        set_parameters(self.model, current)
        self.history = History(**content["training"]["history"])
        if self.history.valid:
            self.best = {name: tensor.clone() for name, tensor in best.items()}
        with warnings.catch_warnings():  # torch would warn that no step of the optimizer came first
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(self.epoch if self.scheduler else 0):
                self.scheduler.step()
        set_optimizer_state(self.optimizer, content["optimizer"], tensors)


def _warn_of_plateau(at_start: float, best: float, epochs: int) -> None:
    if best - at_start < FEWEST_NATS:
        warnings.warn(
            f"training ended after {epochs} epochs without leaving its start: validation went from {at_start:.4g} to "
            f"{best:.4g} nats. Where variables depend on each other, more patience or another seed may get further",
            stacklevel=4,  # of whoever called `fit`, which has a frame of torch around it
        )


def _told(scheduler: torch.optim.lr_scheduler.LRScheduler | None) -> dict:
    """What a scheduler that has made no step is: its name, and what is plain in its state. Functions cannot be told."""
    if scheduler is None:
        return {"scheduler": None}
    state = {f"its {name}": value for name, value in scheduler.state_dict().items() if name[0] != "_"}
    plain = {name: str(value) for name, value in state.items() if isinstance(value, (int, float, str, dict))}
    return {"scheduler": type(scheduler).__name__, **plain}


def _families(model: Einet | Mixture) -> set[type]:
    networks = [module for module in model.modules() if isinstance(module, Einet)]
    return {type(family) for network in networks for family in network.families}


def check_same(there: dict, here: dict) -> None:
    """`ValueError`, naming it, where a setting of the run on disk is not that of the run which wants to go on."""
    for name, value in here.items():
        if there.get(name) != value:
            was, now = (f"{text[:120]}..." if len(text) > 120 else text for text in map(str, (there.get(name), value)))
            raise ValueError(f"it is of another run: {name} was {was}, and is {now}")


class _NoBar:
    """What stands for tqdm's bar where nothing is to be shown, or tqdm is not installed."""

    def __init__(self, steps: Iterable):
        self.steps = steps

    def __iter__(self):
        return iter(self.steps)

    def set_postfix(self, shown: dict[str, str]) -> None:
        pass


def progress_bar(steps: Iterable, progress: bool, total: int | None = None, unit: str = "epoch"):
    if not progress:
        return _NoBar(steps)
    try:
        from tqdm.auto import tqdm  # here, so that `import einet` needs torch alone
    except ImportError:
        return _NoBar(steps)
    return tqdm(steps, total=total, unit=unit)
