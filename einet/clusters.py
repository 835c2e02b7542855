"""A mixture for images: k-means clusters, and a network for each.

    mixture = fit_mixture(x, 100, graph, Normal(channels=3), num_sums=40, checkpoint_folder="faces")
    mixture = fit_mixture(x, 8, chow_liu, Bernoulli(), sum_product="cp")  # each component has a tree of its own

Paper: Section 4.2
Chapter: book/10_images
"""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from einet.em import EM
from einet.exponential_family import ExponentialFamily
from einet.files import read, refusals, write
from einet.graph import RegionGraph
from einet.learned import Structure, graph_of
from einet.mixture import Mixture
from einet.network import Einet
from einet.rows import Rows, check_positive
from einet.training import check_same, fit, progress_bar

STARTING_ROWS = 1000  # from which leaves draw the rows that they begin with


def fit_mixture(
    x: Tensor,
    num_components: int,
    structure: Structure | None = None,
    leaf: ExponentialFamily | dict[ExponentialFamily, Sequence[int]] | None = None,
    observed: Tensor | None = None,
    *,
    graph: RegionGraph | None = None,
    num_sums: int = 10,
    num_leaves: int | None = None,
    sum_product: str = "tucker",
    epochs: int = 10,
    batch_size: int | None = 100,
    lr: float = 0.5,
    pseudocount: float = 0.0,
    decay: float = 1.0,
    start_from_rows: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    processes: int = 1,
    checkpoint_folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> Mixture:
    """A `Mixture` as in the paper: k-means clusters, a network trained on each by `fit`, cluster shares as weights.

    structure   the networks' graph, or a function from the rows of a cluster and their masks, or None, to the graph of
                its network, as `chow_liu` is one: `lambda x, observed: chow_liu(x, observed, shape=(28, 28))`. To go on
                after an interruption it must give the same graph for the same rows
    leaf        the networks' families, as `Einet` takes them
    graph       the name of `structure` before it could be a function
    observed    what is missing counts as its column's mean for the clusters, and is integrated out for the networks
    num_sums, num_leaves, sum_product   of `Einet`
    epochs, batch_size, lr, pseudocount   of `fit`
    decay       what the step size is multiplied with after every epoch
    start_from_rows   the entries of a leaf region's vector begin around rows of the cluster, see `start`
    seed        of the clusters, of the networks' parameters (seed + 0, seed + 1, ...) and of the orders of rows
    device      where the networks are trained; `x` may be elsewhere
    processes   with more than one, clusters are trained in parallel, on one thread each, and the result is that of a
                sequential run on one thread. Scripts then need `if __name__ == "__main__":`
    checkpoint_folder   where clusters and networks are kept, so that after a `kill -9` the same call goes on

    Clusters without rows, as duplicates cause them, are left out: there may be fewer components than asked for. EM of
    the whole mixture may follow: `fit(mixture, x)`. Needs scikit-learn. `ValueError` as for `Einet` and `fit`.

    Paper: Section 4.2
    Chapter: book/10_images
    """
    check_positive(epochs=epochs, batch_size=batch_size, num_components=num_components, processes=processes)
    if (structure is None) == (graph is None) or leaf is None:
        raise ValueError("fit_mixture takes one structure, a graph or a function from rows to one, and a leaf")
    structure = graph if structure is None else structure
    rows = Rows(_any_network(structure, leaf, x, sum_product), x, observed)
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be within (0, 1], got {decay}")
    if num_components > len(x):
        raise ValueError(f"num_components must be at most the number of rows, {len(x)}, got {num_components}")
    folder = None if checkpoint_folder is None else Path(checkpoint_folder)
    clusters = _clusters(rows, num_components, seed, folder)
    training = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
    steps = {"lr": lr, "pseudocount": pseudocount, "decay": decay}
    networks = []
    for c, cluster in enumerate(clusters):
        own = graph_of(structure, *rows.some(cluster), rows.num_variables)
        networks.append((own, leaf, num_sums, num_leaves, 1, seed + c, sum_product))
    files = [folder and folder / f"component-{c}.safetensors" for c in range(len(clusters))]
    jobs = (
        (network, *_arrays(rows, cluster), str(device), start_from_rows, steps, {**training, "checkpoint": file})
        for network, cluster, file in zip(networks, clusters, files, strict=True)
    )
    states = progress_bar(_results(jobs, processes), progress, len(clusters), "component")
    components = [_network(*each) for each in zip(networks, states, strict=True)]
    return Mixture(components, [len(cluster) / len(x) for cluster in clusters]).to(device)


def _any_network(structure: Structure, leaf: Any, x: Tensor, sum_product: str) -> Einet:
    """What the rows are checked with. Where the graph is not known yet, it is one region, on the grid of the rows."""
    if not isinstance(structure, RegionGraph):
        if not callable(structure):
            raise ValueError(f"structure must be a RegionGraph, or a function from rows to one, got {structure!r}")
        families = leaf if isinstance(leaf, dict) else [leaf]
        channels = getattr(next(iter(families), None), "channels", 1)
        sizes = tuple(getattr(x, "shape", (1, 1)))[1:] or (1,)
        sizes = sizes[:-1] if channels > 1 and len(sizes) > 1 else sizes
        structure = RegionGraph([range(math.prod(sizes))], shape=sizes if len(sizes) > 1 else None)
    return Einet(structure, leaf, num_sums=1, seed=0, sum_product=sum_product)


# Clusters


def _clusters(rows: Rows, num_clusters: int, seed: int, folder: Path | None) -> list[Tensor]:
    """The rows of each cluster that has any; kept in the folder, since k-means need not come out the same elsewhere."""
    if folder is None:
        labels = _k_means(rows, num_clusters, seed)
    else:
        labels = _kept(folder, {"num_components": num_clusters, "seed": seed, "rows": rows.digest()}, rows)
    clusters = [(labels == c).nonzero()[:, 0] for c in range(num_clusters)]
    return [cluster for cluster in clusters if len(cluster)]


def _kept(folder: Path, settings: dict, rows: Rows) -> Tensor:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "clusters.safetensors"
    if not path.exists():
        labels = _k_means(rows, settings["num_components"], settings["seed"])
        write(path, {"clusters": settings}, {"labels": labels})
        return labels
    content, tensors = read(path)
    with refusals(path):
        check_same(content["clusters"], settings)
        labels = tensors["labels"]
        if labels.dtype != torch.int64 or labels.shape != rows.x.shape[:1]:
            raise ValueError(f"it should have {len(rows.x)} labels, int64, got {labels.dtype} {tuple(labels.shape)}")
        if not ((labels >= 0) & (labels < settings["num_components"])).all():
            raise ValueError(f"its labels should be from 0 to {settings['num_components'] - 1}, some are not")
        return labels.clone()


def _k_means(rows: Rows, num_clusters: int, seed: int) -> Tensor:
    """The cluster of each row. On one thread: the order in which several add up would change the last bits."""
    from sklearn.cluster import KMeans  # here, so that `import einet` needs torch alone
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "openmp"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than clusters
        labels = KMeans(num_clusters, n_init="auto", random_state=seed % 2**32).fit_predict(_filled(rows).numpy())
    return torch.from_numpy(labels).long()


def _filled(rows: Rows, nothing: Tensor | None = None) -> Tensor:
    """Rows as vectors (B, D C). What is missing is the mean of its column, or `nothing` (D, 1) where that is empty."""
    x = rows.x.detach().cpu().flatten(1).float()
    if rows.observed is None:
        return x
    observed = rows.observed.cpu().reshape(-1, rows.num_variables)
    observed = observed.repeat_interleave(x.shape[1] // rows.num_variables, 1).expand(x.shape)
    count = observed.sum(0)
    mean = torch.where(observed, x, 0).sum(0) / count.clamp_min(1)
    if nothing is not None:
        mean = torch.where(count > 0, mean, nothing.expand(-1, len(mean) // len(nothing)).flatten())
    return torch.where(observed, x, mean)


# One network a cluster, here or in other processes


def _train(job: tuple) -> dict:
    """The parameters of one network, trained on one cluster, as arrays: those pass between processes by value."""
    network, x, observed, device, start_from_rows, steps, training = job
    model, x = Einet(*network).to(device), torch.from_numpy(x)
    observed = None if observed is None else torch.from_numpy(observed)
    if start_from_rows:
        start(model, x, observed, seed=training["seed"])
    optimizer = EM(model, lr=steps["lr"], pseudocount=steps["pseudocount"])
    falls = steps["decay"] < 1
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, steps["decay"]) if falls else None
    fit(model, x, observed, optimizer=optimizer, scheduler=scheduler, progress=False, **training)
    return {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}


def start(model: Einet, x: Tensor, observed: Tensor | None = None, seed: int = 0) -> None:
    """Put the leaves of `model` around rows of `x`, in place: each entry of a region's vector around a row of its own.

    Initial parameters that know nothing of the rows are, in high dimension, very different densities of every row, and
    the entry that happens to be nearest takes them all. A missing entry of a row counts as its column's mean.

    Paper: not in it
    Chapter: book/10_images
    """
    rows = Rows(model, x, observed)
    generator = torch.Generator("cpu").manual_seed(seed)
    some = torch.randperm(len(x), generator=generator, device="cpu")[:STARTING_ROWS]
    nothing = torch.zeros(rows.num_variables, 1)
    for leaves in model.leaves.parts:
        nothing[leaves.variables.cpu()] = leaves.family.placeholder
    filled = _filled(rows, nothing)[some].view(len(some), rows.num_variables, -1)
    values = filled.permute(1, 2, 0).to(next(model.parameters()).device)  # (D, C, B)
    for leaves in model.leaves.parts:
        pass


def _arrays(rows: Rows, cluster: Tensor) -> tuple:
    return tuple(None if part is None else part.detach().cpu().numpy() for part in rows.some(cluster))


def _network(arguments: tuple, state: dict) -> Einet:
    network = Einet(*arguments)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return network


def _results(jobs: Iterable[tuple], processes: int) -> Iterator[dict]:
    """`_train` of each job, in order."""
    if processes == 1:
        yield from map(_train, jobs)
        return
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_begin_process)
    try:
        yield from pool.map(_train, jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_process() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Whoever kills the parent means its helpers too: they would go on, and then wait for work forever."""
    parent = parent_process()
    if parent is not None:  # None in the main process alone
        parent.join()
        os._exit(1)
