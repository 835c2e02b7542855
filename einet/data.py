"""A data set as a model sees it: checked once, read in slices, and taken through the network batch by batch.

    CheckedData(model, x, observed).log_densities()    # nats, (B,), without gradients
    epoch(data, optimizer, batch_size=100, seed=0)    # one pass of training

Source: Section 3.5
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from einet.em import EM
from einet.gpu.graphed_step import GraphedStep
from einet.inputs import as_mask, check_integers
from einet.layers.scratch import slices
from einet.leaves.part import LeafPart
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries.passes import check_model
from einet.storage.archive import digest

# Rows of one pass that needs no gradients, and of one that does, where no batch size is given.
INFERENCE_ROWS, GRADIENT_ROWS = 1000, 500


def log_density(model: Einet | Mixture, x: Tensor, observed: Tensor | None = None, batch_size: int = 1000) -> Tensor:
    """`model(x, observed)` without gradients, in batches: for data that is too large for one call.

    Args:
        model: the density.
        x: rows, as in `Einet.forward`.
        observed: bool, as in `Einet.forward`.
        batch_size: rows in one pass.

    Returns:
        Log-densities in nats, (B,), or (B, num_classes).

    Raises:
        ValueError: as `Einet.forward` does.

    Source: Section 2
    """
    check_integers(batch_size=batch_size)
    return CheckedData(model, x, observed).log_densities(batch_size)


class CheckedData:
    """Rows, masks, labels and weights, checked once for `model`. They may be on another device than it is.

    A row of weight 0 is left out: it may have density 0, whose logarithm no 0 would cancel.
    """

    def __init__(
        self,
        model: Einet | Mixture,
        x: Tensor,
        observed: Tensor | None = None,
        labels: Tensor | None = None,
        weights: Tensor | None = None,
    ):
        check_model(model)
        observed = None if observed is None else as_mask(observed)
        self.model, self.x, self.observed, self.labels, self.weights = model, x, observed, labels, None
        first = x[:1] if isinstance(x, Tensor) and x.dim() else x
        self.num_variables = len(model.as_input(first, None, check=False)[0])
        # By shape, not numel: one row with a (D,) mask, or an (H, W) mask with H == len(x), would look per-row.
        per_row = (len(x) * self.num_variables, x.shape[:1])
        self.masks_differ = observed is not None and (observed.shape.numel(), observed.shape[:1]) == per_row
        for rows in slices(len(x), INFERENCE_ROWS):
            model.as_input(*self.select(rows))
        if labels is not None:
            self._check_labels(labels)
        if weights is not None:
            self._weigh(weights)

    def _weigh(self, weights: Tensor) -> None:
        weights = torch.as_tensor(weights).double().to(self.x.device)
        if weights.shape != self.x.shape[:1] or not (weights.isfinite() & (weights >= 0)).all() or not weights.any():
            raise ValueError(
                f"weights must be {len(self.x)} finite numbers of at least 0, one of them above 0, got {weights}"
            )
        kept = weights > 0
        if not kept.all():
            observed = self.observed if self.observed is None or not self.masks_differ else self.observed[kept]
            labels = None if self.labels is None else self.labels[kept]
            self.x, self.observed, self.labels = self.x[kept], observed, labels
        self.weights = weights[kept]

    @property
    def total_weight(self) -> float:
        """The number of rows, each as often as its weight says."""
        return float(len(self.x) if self.weights is None else self.weights.sum())

    def _check_labels(self, labels: Tensor) -> None:
        classes, right = self.model.num_classes, isinstance(labels, Tensor) and labels.dtype == torch.int64
        if not right or labels.shape != self.x.shape[:1] or labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"labels must be {len(self.x)} int64 numbers from 0 to {classes - 1}, got {labels}")

    def check_resolution(self) -> None:
        """Raise a `ValueError` where a variable is so far from 0 that the model could not tell its values apart.

        A mean is as fine as its type, and x^2 as float64 is: x^2 / variance is right where x < 10^7 deviations.
        """
        dtype, leaves = next(self.model.parameters()).dtype, self.model.modules()
        if not any(part.family.cancels for part in leaves if isinstance(part, LeafPart)):
            return
        found = []
        for rows in slices(len(self.x), INFERENCE_ROWS):
            x, seen = self.model.as_input(*self.select(rows), check=False)  # (D, C, B)
            x, seen = x.double(), torch.ones_like(x, dtype=torch.bool) if seen is None else seen[:, None]
            low, high = torch.where(seen, x, torch.inf).amin((1, 2)), torch.where(seen, x, -torch.inf).amax((1, 2))
            rounded = torch.maximum((x - x.to(dtype)).abs(), 1e-8 * x.abs())
            found.append(torch.stack((low, high, torch.where(seen, rounded, 0).amax((1, 2)))))
        low, high, lost = torch.stack(found, 1)  # (slices, D) each
        low, high, lost = low.amin(0), high.amax(0), lost.amax(0)
        for d in (lost > (high - low).clamp_min(0) / 100).logical_and(low < high).nonzero()[:1, 0].tolist():
            raise ValueError(
                f"variable {d} is from {low[d]:.17g} to {high[d]:.17g}, which a model in {dtype} knows to within "
                f"{lost[d]:.2g} only: subtract its mean first"
            )

    def select(self, rows: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        """Some rows and their masks, on the model's device."""
        device = next(self.model.parameters()).device
        observed = self.observed
        if observed is not None:
            observed = (observed[rows] if self.masks_differ else observed).to(device)
        return self.x[rows].to(device), observed

    def move(self, device: torch.device) -> None:
        self.x, others = self.x.to(device), (self.observed, self.labels, self.weights)
        self.observed, self.labels, self.weights = (None if part is None else part.to(device) for part in others)

    def log_density(self, rows: slice | Tensor) -> Tensor:
        log_density = self.model(*self.select(rows), check=False)
        if self.labels is None:
            return log_density
        return log_density.gather(1, self.labels[rows, None].to(log_density.device))[:, 0]

    def log_likelihood(self, rows: slice | Tensor) -> Tensor:
        """The sum of the log-densities of some rows, each times its weight."""
        log_density = self.log_density(rows).double()
        return (log_density if self.weights is None else log_density * self.weights[rows].to(log_density.device)).sum()

    @torch.no_grad()
    def mean_log_density(self) -> float:
        """The mean over all rows, by weight."""
        parts = [self.log_likelihood(rows) for rows in slices(len(self.x), INFERENCE_ROWS)]
        return torch.stack(parts).sum().item() / self.total_weight

    @torch.no_grad()
    def log_densities(self, batch_size: int = INFERENCE_ROWS) -> Tensor:
        return torch.cat([self.log_density(rows) for rows in slices(len(self.x), batch_size)])

    def digest(self) -> str:
        tensors = {"x": self.x, "observed": self.observed, "labels": self.labels, "weights": self.weights}
        return digest({name: tensor for name, tensor in tensors.items() if tensor is not None})


# Training


def epoch(
    data: CheckedData,
    optimizer: torch.optim.Optimizer,
    batch_size: int | None,
    seed: int,
    graph: GraphedStep | None = None,
) -> float:
    """One pass over the rows. Returns the mean log-density by weight, of each batch before its step."""
    order = torch.randperm(len(data.x), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    order = order if graph is None else order.to(graph.device)
    total = torch.zeros((), dtype=torch.float64, device="cpu")
    optimizer.zero_grad()
    # Batches differ by at most one row in size: a short one at the end would count as much as the others.
    for batch in order.tensor_split(steps_of_epoch(len(order), batch_size or GRADIENT_ROWS)):
        if batch_size is None:
            total = total + _accumulate(data, optimizer, batch, len(order))
        else:
            total = total + (step(data, optimizer, batch) if graph is None else graph.step(batch))
    if batch_size is None:
        optimizer.step()
    mean = total.item() / data.total_weight  # only here does the CPU wait for a GPU
    if graph is not None and not math.isfinite(mean):
        raise ValueError(f"the log-likelihood became {mean}: some row has density 0 or infinity under the model")
    return mean


def steps_of_epoch(num_rows: int, batch_size: int | None) -> int:
    """The number of batches, of at most `batch_size` rows each, of an epoch; 1 where that is None."""
    return 1 if batch_size is None else math.ceil(num_rows / batch_size)


def step(data: CheckedData, optimizer: torch.optim.Optimizer, batch: Tensor) -> Tensor:
    """One step on a batch. Returns the sum of its log-densities before the step."""
    value = _accumulate(data, optimizer, batch, len(batch))
    optimizer.step()
    optimizer.zero_grad()
    return value


def _accumulate(data: CheckedData, optimizer: torch.optim.Optimizer, batch: Tensor, rows_of_step: int) -> Tensor:
    """Add the gradients of a batch to those there are. Returns the sum of its log-densities.

    EM weighs a step by the rows it saw. Any other optimizer gets the gradient of a mean, whose divisor has the mean
    weight of all rows, so that a batch of light rows moves less than one of heavy rows.
    """
    value = data.log_likelihood(batch)
    if isinstance(optimizer, EM):
        value.backward()
    else:
        (-value / (rows_of_step * data.total_weight / len(data.x))).backward()
    return value.detach()


def graphed_step(data: CheckedData, optimizer: torch.optim.Optimizer, batch_size: int | None) -> GraphedStep:
    """`step` on the batches of `data` as a CUDA graph; the rows are moved to the model's GPU."""
    device = next(data.model.parameters()).device
    if device.type != "cuda":
        raise ValueError(f"cuda_graph=True needs the model on a CUDA device, got {device}")
    if not isinstance(optimizer, EM) or batch_size is None:
        raise ValueError(f"cuda_graph=True needs EM and a batch_size, got {type(optimizer).__name__}, {batch_size}")
    parts = [part for part in data.model.modules() if isinstance(part, LeafPart)]
    for why in filter(None, (part.waits(part.phi) for part in parts)):
        raise ValueError(f"cuda_graph=True needs {why}")
    data.move(device)
    return GraphedStep(partial(step, data, optimizer), lambda: optimizer.param_groups[0]["lr"], device)
