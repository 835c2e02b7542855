"""A mixture for data that come in kinds: k-means clusters, and a network trained on each.

    mixture = fit_mixture(x, 100, graph, Normal(channels=3), num_sums=40, checkpoint_folder="faces")
    mixture = fit_mixture(x, 8, chow_liu, Bernoulli(), sum_product="cp")  # each component has a tree of its own

Source: Section 4.2
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from einet.clustered.kmeans import clusters_of
from einet.data import CheckedData
from einet.em import EM
from einet.family import LeafFamily
from einet.graph.regions import RegionGraph
from einet.inputs import as_concentration, check_integers
from einet.layers.sums import CONCENTRATION
from einet.mixture import Mixture
from einet.network import Einet
from einet.starts import start_leaves
from einet.structures.learned import Structure, graph_of
from einet.training import fit, progress_bar


def fit_mixture(
    x: Tensor,
    num_components: int,
    structure: Structure | None = None,
    leaf: LeafFamily | dict[LeafFamily, Sequence[int]] | None = None,
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
    concentration: float = CONCENTRATION,
    seed: int = 0,
    device: str | torch.device = "cpu",
    processes: int = 1,
    checkpoint_folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> Mixture:
    """A `Mixture` as in the paper: k-means clusters, a network trained on each by `fit`, cluster shares as weights.

    EM of the whole mixture may follow: `fit(mixture, x)`. Needs scikit-learn.

    Args:
        x: rows, as in `Einet.forward`.
        num_components: number of clusters.
        structure: the networks' graph, or a function from the rows of a cluster, and their masks or None, to the graph
            of its network, such as `lambda x, observed: chow_liu(x, observed, shape=(28, 28))`, which suits
            `sum_product="cp"` and is cut into halves for "tucker". To resume, it must give the same graph for the
            same rows.
        leaf: the networks' families, as in `Einet`.
        observed: bool, as in `Einet.forward`. A missing value counts as its column's mean for the clusters, and is
            integrated out for the networks.
        graph: the name of `structure` before it could be a function.
        num_sums: as in `Einet`; so are `num_leaves` and `sum_product`.
        num_leaves: see `num_sums`.
        sum_product: see `num_sums`.
        epochs: as in `fit`; so are `batch_size`, `lr` and `pseudocount`.
        batch_size: see `epochs`.
        lr: see `epochs`.
        pseudocount: see `epochs`.
        decay: within (0, 1], the factor of the step size after every epoch.
        start_from_rows: whether the entries of a leaf region start around rows of the cluster, as by `start_leaves`.
        concentration: as in `Einet`.
        seed: of the clusters, of the networks' parameters (seed + 0, seed + 1, ...) and of the orders of rows.
        device: where the networks are trained; `x` may be elsewhere.
        processes: number of clusters that are trained in parallel, on one thread each if there are several. The result
            is that of a sequential run on one thread. Scripts need no `if __name__ == "__main__":`.
        checkpoint_folder: keeps clusters and networks, so that the same call resumes after an interruption.
        progress: show a bar, where tqdm is installed.

    Returns:
        The mixture. Clusters without rows, as duplicates cause them, are left out: it may have fewer components.

    Raises:
        ValueError: as for `Einet` and `fit`.

    Source: Section 4.2
    """
    check_integers(epochs=epochs, num_components=num_components, processes=processes)
    check_integers(optional=True, batch_size=batch_size)
    given = [each for each in (structure, graph) if each is not None]
    if len(given) != 1 or leaf is None:
        raise ValueError("fit_mixture takes one structure, a graph or a function from rows to one, and a leaf")
    (structure,) = given
    data = CheckedData(_any_network(structure, leaf, x, sum_product), x, observed)
    as_concentration(concentration)
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be within (0, 1], got {decay}")
    if num_components > len(x):
        raise ValueError(f"num_components must be at most the number of rows, {len(x)}, got {num_components}")
    folder = None if checkpoint_folder is None else Path(checkpoint_folder)
    clusters = clusters_of(data, num_components, seed, folder)
    shape = {"num_sums": num_sums, "num_leaves": num_leaves, "sum_product": sum_product, "concentration": concentration}
    graphs = [graph_of(structure, *data.select(cluster), data.num_variables, sum_product) for cluster in clusters]
    networks = [{"graph": own, "leaf": leaf, **shape, "seed": seed + c} for c, own in enumerate(graphs)]
    files = [None if folder is None else folder / f"component-{c}.safetensors" for c in range(len(clusters))]
    jobs = (
        {
            "network": network,
            "rows": tuple(part if part is None else part.detach().cpu() for part in data.select(cluster)),
            "device": str(device),
            "start_from_rows": start_from_rows,
            "steps": {"lr": lr, "pseudocount": pseudocount, "decay": decay},
            "training": {"epochs": epochs, "batch_size": batch_size, "seed": seed, "checkpoint": file},
        }
        for network, cluster, file in zip(networks, clusters, files, strict=True)
    )
    states = progress_bar(_trained(jobs, processes), progress, len(clusters), "component")
    components = []
    for network, state in zip(networks, states, strict=True):
        components.append(Einet(**network))
        components[-1].load_state_dict(state)
    return Mixture(components, [len(cluster) / len(x) for cluster in clusters]).to(device)


def _any_network(structure: Structure, leaf: Any, x: Tensor, sum_product: str) -> Einet:
    """A network that checks the rows: of a single region on their grid, where the graph is not known yet."""
    if not isinstance(structure, RegionGraph):
        if not callable(structure):
            raise ValueError(f"structure must be a RegionGraph, or a function from rows to one, got {structure!r}")
        families = leaf if isinstance(leaf, dict) else [leaf]
        channels = getattr(next(iter(families), None), "channels", 1)
        sizes = tuple(getattr(x, "shape", (1, 1)))[1:] or (1,)
        sizes = sizes[:-1] if channels > 1 and len(sizes) > 1 else sizes
        structure = RegionGraph([range(math.prod(sizes))], shape=sizes if len(sizes) > 1 else None)
    return Einet(structure, leaf, num_sums=1, seed=0, sum_product=sum_product)


# One network a cluster, here or in other processes


def _trained(jobs: Iterable[dict], processes: int) -> Iterator[dict[str, Tensor]]:
    """`_train` of each job, in order, each as soon as it has ended."""
    from joblib import Parallel, delayed, parallel_config  # here, so that `import einet` needs torch alone

    with parallel_config("loky", inner_max_num_threads=1):
        parallel = Parallel(n_jobs=processes, return_as="generator", max_nbytes=None)  # rows by value, not in files
    states = parallel(delayed(_train)(**job, caller=os.getpid()) for job in jobs)
    return cast(Iterator[dict[str, Tensor]], states)


def _train(
    network: dict,
    rows: tuple[Tensor, Tensor | None],
    device: str,
    start_from_rows: bool,
    steps: dict,
    training: dict,
    caller: int,
) -> dict[str, Tensor]:
    """The parameters of one network, trained on the rows, and masks, of one cluster."""
    _end_with(caller)
    model, (x, observed) = Einet(**network).to(device), rows
    if start_from_rows:
        start_leaves(model, x, observed, seed=training["seed"])
    optimizer = EM(model, lr=steps["lr"], pseudocount=steps["pseudocount"])
    falls = steps["decay"] < 1
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, steps["decay"]) if falls else None
    fit(model, x, observed, optimizer=optimizer, scheduler=scheduler, progress=False, **training)
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}


@cache  # one thread a process, however many clusters it trains
def _end_with(caller: int) -> None:
    """Let this process, unless it is the caller, end with the caller.

    joblib's processes would finish their task first, which may take hours and write to the same files as the next run.
    On Windows, where an orphan keeps the number of its parent, they do.
    """
    if os.getpid() != caller:
        threading.Thread(target=_watch, args=(caller,), daemon=True).start()


def _watch(caller: int) -> None:
    while os.getppid() == caller:
        time.sleep(0.5)
    os._exit(1)
