"""The loop around EM: epochs, batches, validation, early stopping.

Paper: Section 3.5 and 4
Chapter: book/07_em
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from einet.em import EM
from einet.mixture import Mixture
from einet.network import Einet


@dataclass
class History:
    """What `fit` saw, an entry an epoch: mean log-densities of the rows in nats, seconds, and step sizes.

    `train` is measured while the parameters move, on each batch before its step; `valid` after the epoch. `best_epoch` is the
    index of the parameters that the model holds at the end.

    Paper: Section 3.5
    Chapter: book/07_em
    """

    train: list[float] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    best_epoch: int = -1


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
    pseudocount: float = 0.0,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    patience: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train `model` on the rows of `x`, in place, by stochastic EM unless another `optimizer` is given.

    observed    bool, as in `Einet.forward`: what is missing is integrated out
    labels      (B,) classes, for a model with several: each row then trains its own root
    valid       rows to validate on, as (x,), (x, observed) or (x, observed, labels) or just x; the best epoch's parameters are kept
    batch_size  rows a step, in a new random order every epoch; None is full-batch: one step an epoch
    lr, pseudocount   of `EM`, where no `optimizer` is given
    scheduler   of the `optimizer`, stepped after every epoch
    patience    stop after this many epochs without a better validation; None never stops early
    seed        of the order of the rows; the global random state is left alone

    Paper: Section 3.5
    Chapter: book/07_em
    """
    if epochs < 1 or (batch_size is not None and batch_size < 1) or (patience is not None and patience < 1):
        raise ValueError(f"epochs, batch_size and patience must be at least 1, got {epochs}, {batch_size}, {patience}")
    if (labels is None) != (model.num_classes == 1):
        raise ValueError(f"labels must be given for a model with several classes and no other, this one has {model.num_classes}")
    optimizer = EM(model, lr=lr, pseudocount=pseudocount) if optimizer is None else optimizer
    train = _Rows(model, x, observed, labels)
    held_out = None if valid is None else _Rows(model, *(valid if isinstance(valid, tuple) else (valid,)))

    history, best, best_state = History(), -float("inf"), None
    epochs_shown = _progress_bar(epochs, progress)
    for epoch in epochs_shown:
        start = time.perf_counter()
        history.lr.append(optimizer.param_groups[0]["lr"])
        history.train.append(_epoch(model, train, optimizer, batch_size, seed + epoch))
        if scheduler is not None:
            scheduler.step()
        if held_out is not None:
            history.valid.append(held_out.mean_log_density(model))
        history.seconds.append(time.perf_counter() - start)

        score = history.valid[-1] if held_out is not None else float(epoch)
        if score > best:
            best, history.best_epoch = score, epoch
            if held_out is not None:
                best_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if hasattr(epochs_shown, "set_postfix"):
            epochs_shown.set_postfix(train=f"{history.train[-1]:.3f}", **({"valid": f"{history.valid[-1]:.3f}"} if held_out else {}))
        if patience is not None and epoch - history.best_epoch >= patience:
            break
    if best_state is not None:
        model.load_state_dict(best_state)
    return history


def log_density(model: Einet | Mixture, x: Tensor, observed: Tensor | None = None, batch_size: int = 1000) -> Tensor:
    """`model(x, observed)` without gradients, in batches: for data that is too large for one call. Nats, (B,).

    Paper: Section 2
    Chapter: book/07_em
    """
    rows = _Rows(model, x, observed)
    with torch.no_grad():
        return torch.cat([rows.log_density(model, slice(i, i + batch_size)) for i in range(0, len(x), batch_size)])


class _Rows:
    """A data set, checked once: rows, their masks and their labels."""

    def __init__(self, model: Einet | Mixture, x: Tensor, observed: Tensor | None = None, labels: Tensor | None = None):
        _, mask = model.as_input(x, observed)
        self.each_row = mask is not None and mask.shape[1] > 1
        self.x, self.observed, self.labels = x, observed, labels
        if labels is not None and (labels.shape != x.shape[:1] or labels.min() < 0 or labels.max() >= model.num_classes):
            raise ValueError(f"labels must be {len(x)} numbers from 0 to {model.num_classes - 1}, got {labels}")

    def log_density(self, model: Einet | Mixture, rows) -> Tensor:
        device = next(model.parameters()).device
        observed = self.observed
        if observed is not None:
            observed = (observed[rows] if self.each_row else observed).to(device)
        log_density = model(self.x[rows].to(device), observed, check=False)
        if self.labels is None:
            return log_density
        return log_density.gather(1, self.labels[rows, None].to(device))[:, 0]

    def mean_log_density(self, model: Einet | Mixture, batch_size: int = 1000) -> float:
        with torch.no_grad():
            batches = [slice(i, i + batch_size) for i in range(0, len(self.x), batch_size)]
            return torch.cat([self.log_density(model, rows) for rows in batches]).double().mean().item()


def _epoch(model: Einet | Mixture, rows: _Rows, optimizer: torch.optim.Optimizer, batch_size: int | None, seed: int) -> float:
    """One pass over the rows; the mean log-density as it was seen on the way."""
    order = torch.randperm(len(rows.x), generator=torch.Generator().manual_seed(seed))
    total = 0.0
    optimizer.zero_grad()
    for batch in order.split(batch_size or 500):
        value = rows.log_density(model, batch).double().sum()
        rows_of_step = len(order) if batch_size is None else len(batch)
        (value if isinstance(optimizer, EM) else -value / rows_of_step).backward()
        total += value.item()
        if batch_size is not None:
            optimizer.step()
            optimizer.zero_grad()
    if batch_size is None:
        optimizer.step()
    return total / len(order)


def _progress_bar(epochs: int, progress: bool):
    if not progress:
        return range(epochs)
    from tqdm.auto import tqdm  # here, so that `import einet` needs torch alone

    return tqdm(range(epochs), unit="epoch")
