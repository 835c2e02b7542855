"""Networks for classes, judged and trained by log P(y | x) in place of log p(x, y).

    losses = log_losses(model, rows, log_prior)                # nats, of each row
    better, course = refined(model, rows, held_out, log_prior)

Rows are (x, observed, labels, weights), the last None where all rows count once.

Source: not in the paper; Section 4 compares generative with discriminative training of such networks
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from einet.data import steps_of_epoch
from einet.layers.scratch import slices
from einet.network import Einet
from einet.reparametrize import constrained, unconstrained

Rows = tuple[Tensor, Tensor, Tensor, Tensor | None]
# Adam's steps; the rows of each, such that an epoch has STEPS of them, but no fewer than LEAST_BATCH.
LEARNING_RATE, BATCH_SIZE, LEAST_BATCH, STEPS, ROWS_PER_CHUNK = 0.02, 100, 16, 10, 1000
# The share of its cells that a row loses: one of two rows in training, and a copy of each that measures.
HIDDEN = 0.3


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

    Of half of the rows, others each time, some cells are hidden: the network must know classes by few columns, too.

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
    batch_size = max(LEAST_BATCH, min(BATCH_SIZE, len(rows[0]) // STEPS))
    losses = [math.inf if held_out is None else mean_log_loss(free, held_out, log_prior)]
    best, kept = 0, copy.deepcopy(free.state_dict())
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(rows[0]), generator=generator)
        for batch in order.tensor_split(steps_of_epoch(len(order), batch_size)):
            optimizer.zero_grad()
            some = with_gaps(some_rows(rows, batch), generator, among=0.5)
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


def with_gaps(rows: Rows, generator: torch.Generator, among: float = 1.0) -> Rows:
    """Rows of which more cells are missing, each of them with probability HIDDEN.

    Args:
        rows: as in this module's docstring.
        generator: of what is hidden.
        among: the share of the rows that lose cells.
    """
    x, observed, labels, weights = rows
    lost = torch.rand(observed.shape, generator=generator, dtype=torch.float64) < HIDDEN
    if among < 1:
        lost &= torch.rand(len(x), 1, generator=generator, dtype=torch.float64) < among
    return x.masked_fill(lost, torch.nan), observed & ~lost, labels, weights


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
