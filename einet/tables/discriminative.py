"""Networks for classes, judged and trained by log P(y | x) in place of log p(x, y).

    losses = log_losses(model, rows, log_prior)                # nats, of each row
    better, course = refined(model, rows, held_out, log_prior)
    model = naive_bayes(families, rows, num_classes)

Rows are (x, observed, labels, weights), the last None where all rows count once.

Source: not in the paper; Section 4 compares generative with discriminative training of such networks
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from einet.data import steps_of_epoch
from einet.family import LeafFamily
from einet.layers.scratch import slices
from einet.layers.sums import WEIGHT_FLOOR
from einet.network import Einet
from einet.reparametrize import constrained, unconstrained
from einet.starts import start_leaves
from einet.structures.ready_made import random_binary_trees
from einet.training import fit

Rows = tuple[Tensor, Tensor, Tensor, Tensor | None]
# Adam's steps, and the rows of each.
LEARNING_RATE, BATCH_SIZE, ROWS_PER_CHUNK = 0.02, 100, 1000
# Rows distributed as the whole column that a class of a naive Bayes model is shrunk by.
SHRINKAGE = 1.0


class Course(NamedTuple):
    """The log-loss on held-out rows in nats, before training and after each epoch, and the best of these.

    Attributes:
        losses: of 0, 1, ... epochs.
        best: the number of epochs with the least.
    """

    losses: list[float]
    best: int


@torch.no_grad()
def log_losses(model: Einet, rows: Rows, log_prior: Tensor) -> Tensor:
    """-log P(y | x_observed) of each row in nats, (B,).

    Args:
        model: with a root for each class.
        rows: as in this module's docstring.
        log_prior: log P(y), (classes,).
    """
    parts = slices(len(rows[0]), ROWS_PER_CHUNK)
    return torch.cat([_losses(model, some_rows(rows, part), log_prior) for part in parts])


def mean_log_loss(model: Einet, rows: Rows, log_prior: Tensor) -> float:
    """The mean of `log_losses`, by weight."""
    losses, weights = log_losses(model, rows, log_prior), rows[3]
    return (losses if weights is None else losses * weights).sum().item() / _count(rows)


def refined(
    model: Einet,
    rows: Rows,
    held_out: Rows | None,
    log_prior: Tensor,
    *,
    epochs: int = 100,
    patience: int = 5,
    seed: int = 0,
) -> tuple[Einet, Course]:
    """A copy of `model` trained further on log P(y | x) by Adam, from where it is.

    Args:
        model: with a root for each class; it stays as it is.
        rows: to train on.
        held_out: rows that choose the epoch. None: the last one.
        log_prior: log P(y), (classes,), which stays.
        epochs: most passes over the rows.
        patience: passes without a smaller log-loss on held-out rows after which to stop.
        seed: of the order of the rows.

    Returns:
        The network, and its course on the held-out rows.
    """
    free = unconstrained(copy.deepcopy(model))
    optimizer = torch.optim.Adam(free.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    losses = [math.inf if held_out is None else mean_log_loss(free, held_out, log_prior)]
    best, kept = 0, copy.deepcopy(free.state_dict())
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(rows[0]), generator=generator)
        for batch in order.tensor_split(steps_of_epoch(len(order), BATCH_SIZE)):
            optimizer.zero_grad()
            some = some_rows(rows, batch)
            each = _losses(free, some, log_prior)
            each = each if some[3] is None else each * (some[3] * len(order) / _count(rows))
            each.mean().backward()
            optimizer.step()
        losses.append(-epoch if held_out is None else mean_log_loss(free, held_out, log_prior))
        if not math.isfinite(losses[-1]):
            break
        if losses[-1] < losses[best]:
            best, kept = epoch, copy.deepcopy(free.state_dict())
        if epoch - best >= patience:
            break
    free.load_state_dict(kept)
    return constrained(free), Course(losses, best)


def naive_bayes(
    families: Mapping[LeafFamily, Sequence[int]], rows: Rows, num_classes: int, shrinkage: float = SHRINKAGE
) -> Einet:
    """Each class as independent columns: a network of one leaf region with an entry for each class, by one EM step.

    Its most probable parameters are means over the rows of a class, which are few numbers to learn: where classes are
    many and have few rows each, no mixture that they share gets as far.

    Args:
        families: {family: variables}.
        rows: to train on.
        num_classes: of the labels.
        shrinkage: rows distributed as the whole column, added to each class.
    """
    width = rows[0].shape[1]
    graph = random_binary_trees(width, depth=0, num_replicas=1, seed=0)
    model = Einet(graph, dict(families), num_sums=num_classes, num_classes=num_classes, seed=0).double()
    (root,) = model.sum_layers()
    own = torch.eye(num_classes, dtype=torch.float64).reshape(num_classes, -1)
    with torch.no_grad():
        own = own.clamp_min(WEIGHT_FLOOR)  # of the other classes' entries, for rows that are far from its own
        root.weights.copy_((own / own.sum(1, keepdim=True)).reshape(root.weights.shape))
    x, observed, labels, weights = rows
    start_leaves(
        model, x, observed, share=0
    )  # all entries alike: the first step then has each class's rows by themselves
    options = {"epochs": 1, "batch_size": None, "lr": 1.0, "progress": False, "leaf_pseudocount": shrinkage}
    fit(model, x, observed, labels, weights=weights, **options)
    return model


def _losses(model: Einet, rows: Rows, log_prior: Tensor) -> Tensor:
    x, observed, labels, _ = rows
    log_posterior = torch.log_softmax(model(x, observed).double() + log_prior, 1)
    return -log_posterior.gather(1, labels[:, None])[:, 0]


def some_rows(rows: Rows, chosen: slice | Tensor | np.ndarray) -> Rows:
    """Those of these numbers, in this order."""
    x, observed, labels, weights = rows
    return x[chosen], observed[chosen], labels[chosen], None if weights is None else weights[chosen]


def _count(rows: Rows) -> float:
    return float(len(rows[0]) if rows[3] is None else rows[3].sum())
