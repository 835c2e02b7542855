"""k-means clusters of a data set, and the file that keeps them.

Source: Section 4.2 (clusters of images); scikit-learn's `KMeans`
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from einet.data import CheckedData
from einet.storage.archive import as_value_error, read, write
from einet.storage.resume import check_same


def clusters_of(data: CheckedData, num_clusters: int, seed: int, folder: Path | None) -> list[Tensor]:
    """The indices of the rows of each cluster that has any.

    Labels are kept in `folder`, if one is given, since k-means may give others on another machine.
    """
    if folder is None:
        labels = _k_means(data, num_clusters, seed)
    else:
        labels = _kept(folder, {"num_components": num_clusters, "seed": seed, "rows": data.digest()}, data)
    clusters = [(labels == c).nonzero()[:, 0] for c in range(num_clusters)]
    return [cluster for cluster in clusters if len(cluster)]


def _filled(data: CheckedData) -> Tensor:
    """Rows as vectors (B, D C), a missing value being the mean of its column, or 0 where that is empty."""
    x = data.x.detach().cpu().flatten(1).float()
    if data.observed is None:
        return x
    observed = data.observed.cpu().reshape(-1, data.num_variables)
    observed = observed.repeat_interleave(x.shape[1] // data.num_variables, 1).expand(x.shape)
    mean = torch.where(observed, x, 0).sum(0) / observed.sum(0).clamp_min(1)
    return torch.where(observed, x, mean)


def _k_means(data: CheckedData, num_clusters: int, seed: int) -> Tensor:
    """The cluster of each row, computed on one thread: the order of additions by several changes the last bits."""
    try:  # here, so that `import einet` needs torch alone
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ImportError("fit_mixture needs scikit-learn: pip install 'einet[tables]'") from error

    with threadpool_limits(1, "openmp"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than clusters
        labels = KMeans(num_clusters, n_init="auto", random_state=seed % 2**32).fit_predict(_filled(data).numpy())
    return torch.from_numpy(labels).long()


def _kept(folder: Path, settings: dict, data: CheckedData) -> Tensor:
    """The labels in `folder`, written there first if there are none."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "clusters.safetensors"
    if not path.exists():
        labels = _k_means(data, settings["num_components"], settings["seed"])
        write(path, {"clusters": settings}, {"labels": labels})
        return labels
    content, tensors = read(path)
    with as_value_error(path):
        check_same(content["clusters"], settings)
        labels = tensors["labels"]
        if labels.dtype != torch.int64 or labels.shape != data.x.shape[:1]:
            raise ValueError(f"it should have {len(data.x)} labels, int64, got {labels.dtype} {tuple(labels.shape)}")
        if not ((labels >= 0) & (labels < settings["num_components"])).all():
            raise ValueError(f"its labels should be from 0 to {settings['num_components'] - 1}, some are not")
        return labels.clone()
