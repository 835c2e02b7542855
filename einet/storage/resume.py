"""A training run on disk, replaced after every epoch, so that it goes on where it was interrupted.

Source: not in the paper
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import Tensor

from einet.mixture import Mixture
from einet.network import Einet
from einet.storage.archive import as_value_error, digest, read, write
from einet.storage.checkpoint import (
    check_dtype,
    check_state,
    description,
    optimizer_state,
    parameters_of,
    set_optimizer_state,
)


class SavedRun(NamedTuple):
    """A run on disk: its history, and the best and the current parameters."""

    history: dict
    best: dict[str, Tensor]
    current: dict[str, Tensor]


class RunFile:
    """The file of one training run.

    A run that wants to go on must be the one on disk: model, initial parameters, optimizer, scheduler and `settings`
    are compared.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        model: Einet | Mixture,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None,
        settings: dict,
    ):
        check_dtype(parameters_of(model))  # of another, no epoch could be read again
        self.path, self.model, self.optimizer = path, model, optimizer
        families = {type(f) for network in model.modules() if isinstance(network, Einet) for f in network.families}
        self.settings = {
            **settings,
            "model": description(model, families),
            "initial parameters": digest(parameters_of(model)),
            "optimizer": optimizer_state(optimizer)[0],
            **_scheduler_settings(scheduler),
        }

    def read(self, epochs: int) -> SavedRun | None:
        """The run after its last epoch; None where there is no file.

        Raises:
            ValueError: the file is damaged, of another run, or has seen more than `epochs`.
        """
        if not os.path.exists(self.path):
            return None
        content, tensors = read(self.path)
        with as_value_error(self.path):
            if "training" not in content:
                raise ValueError("it is a model, and not what `fit` was doing")
            check_same(content["training"]["settings"], self.settings)
            best = {name: tensors[name] for name in parameters_of(self.model)}
            current = {name: tensors.get(f"training.{name}", tensor) for name, tensor in best.items()}
            for state in (best, current):
                check_state(self.model, state)
            history = content["training"]["history"]
            if len(history["train"]) > epochs:
                raise ValueError(f"it has seen {len(history['train'])} epochs, more than epochs={epochs}")
            self._optimizer_content = content["optimizer"], tensors
            return SavedRun(history, best, current)

    def restore_optimizer(self) -> None:
        """Give the optimizer the state that `read` found, after the scheduler has made its steps."""
        with as_value_error(self.path):
            set_optimizer_state(self.optimizer, *self._optimizer_content)

    def write(self, history: dict, best: dict[str, Tensor] | None) -> None:
        """Replace the file. `best` is None where the current parameters are the best."""
        state, tensors = optimizer_state(self.optimizer)
        current = parameters_of(self.model)
        if best is not None:
            tensors |= {f"training.{name}": tensor for name, tensor in current.items()}
        training = {"history": history, "settings": self.settings}
        content = {"model": self.settings["model"], "optimizer": state, "training": training}
        write(self.path, content, {**(best or current), **tensors})


def check_same(there: dict, here: dict) -> None:
    """Raise a `ValueError` with the name of a setting in which the run on disk differs from this one."""
    for name, value in here.items():
        if there.get(name) != value:
            was, now = (f"{text[:120]}..." if len(text) > 120 else text for text in map(str, (there.get(name), value)))
            raise ValueError(f"it is of another run: {name} was {was}, and is {now}")


def _scheduler_settings(scheduler: torch.optim.lr_scheduler.LRScheduler | None) -> dict:
    """A fresh scheduler by its name and the plain values of its state; callables, as of LambdaLR, are not compared."""
    if scheduler is None:
        return {"scheduler": None}
    state = {f"its {name}": value for name, value in scheduler.state_dict().items() if name[0] != "_"}
    plain = {name: str(value) for name, value in state.items() if isinstance(value, (int, float, str, dict))}
    return {"scheduler": type(scheduler).__name__, **plain}
