"""Which network tells classes apart best: the density's own, one trained further on log P(y | x), or naive Bayes.

Source: not in the paper
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from einet.network import Einet
from einet.tables.discriminative import Rows, log_losses, naive_bayes, refined, some_rows

# Where this many rows are held out by one part of PARTS, it decides alone; else so many parts, each held out once.
PARTS, ENOUGH_ROWS, FEW_PARTS = 5, 200, 3
GENERATIVE, REFINED, NAIVE = "generative", "refined", "naive Bayes"


class Refinement(NamedTuple):
    """What was chosen, and why.

    Attributes:
        choice: "generative", "refined" or "naive Bayes".
        log_loss: of each in nats, on rows that it was not trained on.
        epochs: of training on log P(y | x), as many as were best in the median.
    """

    choice: str
    log_loss: dict[str, float]
    epochs: int


class Trained(NamedTuple):
    """A network of some rows, and what all rows of the table are for it."""

    model: Einet
    rows: Rows


def chosen(
    train: Callable[[np.ndarray], Trained], labels: np.ndarray, log_prior: Tensor, refine: Any, seed: int
) -> Refinement | None:
    """Compare on rows that were held out.

    Args:
        train: from numbers of rows to a network trained on them.
        labels: the class of each row, in an order that does not depend on the table's, (B,).
        log_prior: log P(y), (classes,).
        refine: "auto", where another choice than the density's own must be better by a standard error of the
            difference; True for "refined" whatever comes out.
        seed: of what is drawn.

    Returns:
        A `Refinement`; None where no class has two rows.
    """
    parts = _parts(labels, np.random.RandomState(seed))
    if parts.max() < 0:
        return None
    losses: dict[str, list[Tensor]] = {GENERATIVE: [], REFINED: [], NAIVE: []}
    weights, epochs = [], []
    for part in range(parts.max() + 1):
        own, others = np.flatnonzero(parts == part), np.flatnonzero(parts != part)
        model, rows = train(others)
        inside, outside = some_rows(rows, others), some_rows(rows, own)
        further, course = refined(model, inside, outside, log_prior, seed=seed)
        naive = naive_bayes(model.families, inside, model.num_classes)
        for name, network in ((GENERATIVE, model), (REFINED, further), (NAIVE, naive)):
            losses[name].append(log_losses(network, outside, log_prior))
        epochs.append(course.best)
        weights.append(torch.ones(len(own)) if rows[3] is None else rows[3][own])
    weight = torch.cat(weights).double() / torch.cat(weights).sum()
    each = {name: torch.cat(several) for name, several in losses.items()}
    mean = {name: (weight * several).sum().item() for name, several in each.items()}
    median = round(float(np.median(epochs)))
    if refine is True:
        return Refinement(REFINED, mean, max(1, median))
    best = min(mean, key=mean.__getitem__)
    gain = each[GENERATIVE] - each[best]
    error = (weight**2 * (gain - (weight * gain).sum()) ** 2).sum().sqrt().item()
    better = mean[GENERATIVE] - mean[best] > error and (best != REFINED or median > 0)
    return Refinement(best if better else GENERATIVE, mean, median)


def applied(refinement: Refinement, model: Einet, rows: Rows, log_prior: Tensor, seed: int) -> Einet:
    """The network that was chosen, trained on all rows, of which `model` is the density's own."""
    if refinement.choice == NAIVE:
        return naive_bayes(model.families, rows, model.num_classes)
    if refinement.choice == REFINED:
        return refined(model, rows, None, log_prior, epochs=refinement.epochs, seed=seed)[0]
    return model


def _parts(labels: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """The part in which each row is held out, (B,); -1 for never, as for a row that is alone in its class."""
    order, parts = random.permutation(len(labels)), np.full(len(labels), -1)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        if len(own) > 1:
            parts[own] = (np.arange(len(own)) + label) % (PARTS if len(labels) >= PARTS * ENOUGH_ROWS else FEW_PARTS)
    return np.where(parts > 0, -1, parts) if len(labels) >= PARTS * ENOUGH_ROWS else parts
