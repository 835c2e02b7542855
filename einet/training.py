"""The loop around EM: epochs, batches, validation, early stopping, and how it resumes.

    history = fit(model, x, valid=held_out, epochs=50, checkpoint="digits.safetensors")

Source: Section 3.5 and 4
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from einet.data import CheckedData, epoch, graphed_step, steps_of_epoch
from einet.em import EM, check_movable
from einet.gpu.graphed_step import GraphedStep
from einet.inputs import as_number, as_parts, check_integers
from einet.mixture import Mixture
from einet.network import Einet
from einet.storage.checkpoint import parameters_of, set_parameters
from einet.storage.resume import RunFile

# A model that gains fewer nats a row than this has not left its start.
MIN_GAIN_NATS = 0.01


@dataclass
class History:
    """The course of a training by `fit`, one entry an epoch.

    Attributes:
        train: mean log-density of the rows by weight in nats, of each batch before its step: while parameters move.
        valid: mean log-density of the validation rows in nats, after the epoch.
        seconds: duration of the epoch.
        lr: its step size.
        best_epoch: index of the parameters that the model holds at the end.

    Source: Section 3.5
    """

    train: list[float] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    best_epoch: int = -1


@torch.inference_mode(False)  # gradients, and the state of an optimizer, must be ordinary tensors
def fit(
    model: Einet | Mixture,
    x: Tensor,
    observed: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    valid: Tensor | tuple | None = None,
    epochs: int = 10,
    batch_size: int | None = 100,
    lr: float = 0.5,
    last_lr: float | None = None,
    pseudocount: float = 0.0,
    leaf_pseudocount: float = 0.0,
    momentum: float = 0.0,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    cuda_graph: bool = False,
    progress: bool = True,
) -> History:
    """Train `model` on the rows of `x`, in place, by stochastic EM unless another `optimizer` is given.

    No other thread may use the model meanwhile: see `queries`.

    Args:
        model: an `Einet`, or a `Mixture` of some.
        x: rows, as in `Einet.forward`.
        observed: bool, as in `Einet.forward`; missing values are integrated out.
        labels: (B,) int64, for a model with several classes: each row then trains its own root.
        weights: (B,) of at least 0, how often each row counts: with a weight of 2 as if it were there twice, with 0 not
            at all. Batches are of rows as they are, so a full batch alone is exactly that of the repeated rows.
        valid: rows to validate on, as x, (x,), (x, observed), (x, observed, labels) or (x, observed, labels, weights):
            the parameters of the best epoch are kept.
        epochs: passes over the rows.
        batch_size: most rows a step, in a new random order every epoch. An epoch's batches differ by at most one row in
            size. None is full-batch: one step an epoch.
        lr: of `EM`, where no `optimizer` is given; so are `pseudocount`, `leaf_pseudocount` and `momentum`.
        last_lr: `lr` falls to it by equal amounts until the last of the `epochs`. None: it stays. A large step finds
            its way, a small one averages over more rows. Only where no `optimizer` is given. A run on disk cannot be
            prolonged by more `epochs` then: its step would have fallen more slowly.
        pseudocount: see `EM`.
        leaf_pseudocount: see `EM`.
        momentum: see `EM`. 0.9 wants some thirty steps an epoch or more: a smaller `batch_size` where rows are few.
        optimizer: any of torch, made for the model's parameters.
        scheduler: of the `optimizer`, which must be given then; stepped after every epoch.
        patience: stop after this many epochs without a better validation; None never stops early. An epoch of EM in
            which `lr` and the number of steps multiply to less than 1 counts as that much of an epoch only, since EM
            may stay on a plateau for 1 / lr steps. A warning says where training ended as good as it started.
        seed: of the order of the rows; the global random state is left alone.
        checkpoint: a file that is replaced after every epoch. Where it exists, training goes on from there, and ends
            with the same parameters, bit for bit, as if it had never stopped; `load` reads the best model so far. More
            `epochs` than before prolong a run; all else must be as it was, the initial parameters too.
        cuda_graph: record one step of EM on the GPU, and replay it: a small or deep network then no longer waits for
            the CPU to launch its many kernels. The data are moved to the GPU. Gradients are not checked at every step:
            a likelihood that is not finite ends the training after the epoch, with a `ValueError`.
        progress: show a bar, where tqdm is installed.

    Returns:
        The `History` of all epochs, those before a resumed run included.

    Raises:
        ValueError: settings or data out of range, or a checkpoint that is damaged or of another run.

    Source: Section 3.5
    """
    check_integers(epochs=epochs)
    check_integers(optional=True, batch_size=batch_size, patience=patience)
    if patience is not None and valid is None:
        warnings.warn(f"patience={patience} has no effect without valid: nothing says when to stop", stacklevel=3)
    train = CheckedData(model, x, observed, labels, weights)
    train.check_resolution()
    check_movable(model)
    held_out = None if valid is None else _held_out(model, valid)
    if any((rows.labels is None) != (model.num_classes == 1) for rows in (train, held_out) if rows is not None):
        raise ValueError(f"labels must be given where there are several classes, and only there: {model.num_classes}")
    if optimizer is None:
        data = (*train.select(slice(None)), train.weights) if leaf_pseudocount else None  # on the model's device
        optimizer = EM(model, lr, pseudocount, leaf_pseudocount, data, momentum)
        scheduler = _falling(optimizer, lr, last_lr, epochs) if scheduler is None else scheduler
    elif last_lr is not None:
        raise ValueError(f"last_lr={last_lr} is of the EM that fit makes, and an optimizer is given: use a scheduler")
    _check_optimizer(model, optimizer, scheduler)
    run = _Run(model, optimizer, scheduler, graphed_step(train, optimizer, batch_size) if cuda_graph else None)
    if checkpoint is not None:
        settings = {"batch_size": batch_size, "patience": patience, "seed": seed, "rows": train.digest()}
        settings["validation rows"] = None if held_out is None else held_out.digest()
        run.resume(checkpoint, settings, epochs)
    at_start = None
    if patience is not None and held_out is not None and run.epoch == 0:
        at_start = held_out.mean_log_density()
    bar = progress_bar(range(run.epoch, epochs), progress)
    for _ in bar:
        if patience is not None and run.waited(steps_of_epoch(len(train.x), batch_size)) >= patience:
            break
        run.advance(train, held_out, batch_size, seed)
        run.save()
        if hasattr(bar, "set_postfix"):
            bar.set_postfix(run.shown())
    run.finish()
    if at_start is not None and run.epoch < epochs:
        _warn_of_plateau(at_start, max(run.history.valid), run.epoch)
    return run.history


def _held_out(model: Einet | Mixture, valid: Tensor | tuple) -> CheckedData:
    return CheckedData(model, *as_parts("valid", valid, "x", "observed", "labels", "weights"))


def _falling(optimizer: EM, lr: float, last_lr: float | None, epochs: int) -> LRScheduler | None:
    """A scheduler from `lr` to `last_lr` in equal steps; None where that is None."""
    if last_lr is None:
        return None
    last = as_number("last_lr", last_lr, f"within (0, lr={lr}]", lambda number: 0 < number <= lr)
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, last / lr, max(1, epochs - 1))


class _Run:
    """A training run between two epochs: what the next one depends on, and the best parameters so far."""

    def __init__(
        self,
        model: Einet | Mixture,
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler | None,
        graph: GraphedStep | None,
    ):
        self.model, self.optimizer, self.scheduler, self.graph = model, optimizer, scheduler, graph
        self.history, self.best, self.file = History(), None, None

    @property
    def epoch(self) -> int:
        return len(self.history.train)

    def waited(self, steps: int) -> float:
        """Epochs, of so many steps each, since the best one; of EM an epoch may count for less (see `patience`)."""
        since = self.history.lr[self.history.best_epoch + 1 :]
        return round(sum(min(1.0, lr * steps) for lr in since), 6) if isinstance(self.optimizer, EM) else len(since)

    def advance(self, train: CheckedData, held_out: CheckedData | None, batch_size: int | None, seed: int) -> None:
        start, history = time.perf_counter(), self.history
        history.lr.append(float(self.optimizer.param_groups[0]["lr"]))
        history.train.append(epoch(train, self.optimizer, batch_size, seed + self.epoch, self.graph))
        if self.scheduler is not None:
            self.scheduler.step()
        if held_out is not None:
            history.valid.append(held_out.mean_log_density())
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
        """Go on from the file at `path`, or begin it."""
        self.file = RunFile(path, self.model, self.optimizer, self.scheduler, settings)
        found = self.file.read(epochs)
        if found is None:
            self.save()  # now, so that a path that cannot be written to fails before an epoch is lost
            return
        set_parameters(self.model, found.current)
        self.history = History(**found.history)
        if self.history.valid:
            self.best = {name: tensor.clone() for name, tensor in found.best.items()}
        with warnings.catch_warnings():  # torch would warn that the optimizer has made no step yet
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(self.epoch):
                if self.scheduler is not None:
                    self.scheduler.step()
        self.file.restore_optimizer()

    def save(self) -> None:
        if self.file is not None:
            is_best = self.history.best_epoch == self.epoch - 1
            self.file.write(asdict(self.history), None if is_best else self.best)


def _check_optimizer(model: Einet | Mixture, optimizer: torch.optim.Optimizer, scheduler: LRScheduler | None) -> None:
    """Raise a `ValueError` where another model would be trained, or none."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"optimizer must be an optimizer of torch, made for the model, got {optimizer!r}")
    own = {id(parameter) for parameter in model.parameters()}
    if own.isdisjoint(id(parameter) for group in optimizer.param_groups for parameter in group["params"]):
        raise ValueError(
            f"optimizer must be made for this model's parameters, {type(optimizer).__name__} has none of them"
        )
    if scheduler is not None and getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError("scheduler must be made for the optimizer that is given: it drives no other")


def _warn_of_plateau(at_start: float, best: float, epochs: int) -> None:
    if best - at_start < MIN_GAIN_NATS:
        warnings.warn(
            f"training ended after {epochs} epochs without leaving its start: validation went from {at_start:.4g} to "
            f"{best:.4g} nats. Where variables depend on each other, more patience or another seed may get further",
            stacklevel=4,  # of whoever called `fit`, which has a frame of torch around it
        )


def progress_bar(steps: Iterable, progress: bool, total: int | None = None, unit: str = "epoch") -> Any:
    """tqdm's bar over the steps; the steps alone where none is wanted, or tqdm is not installed."""
    if progress:
        with suppress(ImportError):
            from tqdm.auto import tqdm  # here, so that `import einet` needs torch alone

            return tqdm(steps, total=total, unit=unit)
    return steps
