"""The loop around EM: epochs, batches, validation, early stopping; and what survives a `kill -9`.

    history = fit(model, x, valid=held_out, epochs=50, checkpoint="digits.safetensors")
    mixture = fit_mixture(x, 100, graph, Normal(channels=3), num_sums=40, checkpoint_folder="faces")

Paper: Section 3.5 and 4
Chapter: book/07_em
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from einet.checkpoint import description, optimizer_state, set_optimizer_state
from einet.em import EM
from einet.families import ExponentialFamily
from einet.files import digest, read, refusals, write
from einet.graph import RegionGraph
from einet.mixture import Mixture
from einet.network import Einet

# Rows of one pass that needs no gradients, and of one that does, where no batch size is given.
INFERENCE_ROWS, GRADIENT_ROWS = 1000, 500


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
    checkpoint: str | os.PathLike | None = None,
    progress: bool = True,
) -> History:
    """Train `model` on the rows of `x`, in place, by stochastic EM unless another `optimizer` is given.

    observed    bool, as in `Einet.forward`: what is missing is integrated out
    labels      (B,) classes, for a model with several: each row then trains its own root
    valid       rows to validate on, as x, (x,), (x, observed) or (x, observed, labels): the parameters of the best
                epoch are kept
    batch_size  rows a step, in a new random order every epoch; None is full-batch: one step an epoch
    lr, pseudocount   of `EM`, where no `optimizer` is given
    scheduler   of the `optimizer`, stepped after every epoch
    patience    stop after this many epochs without a better validation; None never stops early
    seed        of the order of the rows; the global random state is left alone
    checkpoint  a file that is replaced after every epoch. Where it exists, training goes on from there, and ends with the
                same parameters, bit for bit, as if it had never stopped; `einet.load` reads the best model so far.
                More `epochs` than before prolong a run; everything else must be as it was, the initial parameters too.

    `ValueError` for settings or data out of range, or a checkpoint that is damaged or of another run.

    Paper: Section 3.5
    Chapter: book/07_em
    """
    _check_positive(epochs=epochs, batch_size=batch_size, patience=patience)
    if (labels is None) != (model.num_classes == 1):
        raise ValueError(f"labels are for a model with several classes, and needed there; this one has {model.num_classes}")
    train = _Rows(model, x, observed, labels)
    held_out = None if valid is None else _Rows(model, *(valid if isinstance(valid, tuple) else (valid,)))
    run = _Run(model, EM(model, lr=lr, pseudocount=pseudocount) if optimizer is None else optimizer, scheduler)
    if checkpoint is not None:
        settings = {"batch_size": batch_size, "patience": patience, "seed": seed}
        run.resume(checkpoint, {**settings, "x": train.digest(), "valid": held_out and held_out.digest()}, epochs)
    bar = _progress_bar(range(run.epoch, epochs), progress)
    for _ in bar:
        if run.is_over(patience):
            break
        run.advance(train, held_out, batch_size, seed)
        if checkpoint is not None:
            run.save(checkpoint)
        if progress:
            bar.set_postfix(run.last())
    run.finish()
    return run.history


def log_density(model: Einet | Mixture, x: Tensor, observed: Tensor | None = None, batch_size: int = 1000) -> Tensor:
    """`model(x, observed)` without gradients, in batches: for data that is too large for one call. Nats, (B,).

    Paper: Section 2
    Chapter: book/07_em
    """
    _check_positive(batch_size=batch_size)
    return _Rows(model, x, observed).log_densities(model, batch_size)


def fit_mixture(
    x: Tensor,
    num_components: int,
    graph: RegionGraph,
    leaf: ExponentialFamily | dict[ExponentialFamily, Sequence[int]],
    observed: Tensor | None = None,
    *,
    num_sums: int = 10,
    num_leaves: int | None = None,
    epochs: int = 10,
    batch_size: int | None = 100,
    lr: float = 0.5,
    pseudocount: float = 0.0,
    seed: int = 0,
    device: str | torch.device = "cpu",
    processes: int = 1,
    checkpoint_folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> Mixture:
    """A `Mixture` as in the paper: k-means clusters, a network trained on each by `fit`, cluster shares as weights.

    observed    what is missing counts as its column's mean for the clusters, and is integrated out for the networks
    num_sums, num_leaves   of `Einet`; `epochs` to `pseudocount` are of `fit`
    seed        of the clusters, of the networks' parameters (seed + 0, seed + 1, ...) and of the orders of rows
    device      where the networks are trained, a cluster at a time; `x` may be elsewhere
    processes   with more than one, clusters are trained in parallel, on one thread each, and the result is that of a
                sequential run on one thread. Scripts then need `if __name__ == "__main__":`
    checkpoint_folder   made if there is none. Clusters and networks are kept there, so that after a `kill -9` the same call goes on

    Clusters without rows, as duplicates cause them, are left out: there may be fewer components than asked for. EM of
    the whole mixture may follow: `fit(mixture, x)`. Needs scikit-learn. `ValueError` as for `Einet` and `fit`.

    Paper: Section 4.2
    Chapter: book/10_images
    """
    _check_positive(epochs=epochs, batch_size=batch_size, num_components=num_components, processes=processes)
    rows = _Rows(Einet(graph, leaf, num_sums=1, seed=0), x, observed)
    if num_components > len(x):
        raise ValueError(f"num_components must be at most the number of rows, {len(x)}, got {num_components}")
    folder = None if checkpoint_folder is None else Path(checkpoint_folder)
    clusters = _clusters(rows, num_components, seed, folder)
    training = dict(epochs=epochs, batch_size=batch_size, lr=lr, pseudocount=pseudocount, seed=seed)
    jobs = [
        _Job(*rows.some(cluster), graph, leaf, num_sums, num_leaves, seed + c, training, str(device), _file(folder, c))
        for c, cluster in enumerate(clusters)
    ]
    states = _progress_bar(_in_processes(jobs, processes) if processes > 1 else map(_train, jobs), progress, len(jobs))
    components = [job.network(state).to(device) for job, state in zip(jobs, states, strict=True)]
    return Mixture(components, [len(cluster) / len(x) for cluster in clusters]).to(device)
