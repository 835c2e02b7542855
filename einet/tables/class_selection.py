"""Which networks tell classes apart: they are measured on rows they were not trained on, and the best answer together.

Every network is trained without one part of the rows at a time, by EM on log p(x, y), and asked for the classes of
what it has not seen, whole and with cells hidden. Copies of the best are trained further on log P(y | x), and asked,
too. The weights with which the answers P(y | x) are mixed follow from these by EM; networks that matter are trained on
all rows.

Source: not in the paper; stacking is that of Smyth and Wolpert (1999), "Linearly combining density estimators"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from einet.network import Einet
from einet.tables.discriminative import Rows, log_losses, refined, some_rows, with_gaps
from einet.tables.selection import MIN_WEIGHT, mixing_weights
from einet.training import History

# Where this many rows are held out by one part of PARTS, it decides alone; else so many parts, each held out once.
PARTS, ENOUGH_ROWS, FEW_PARTS = 5, 200, 3
# So many of the candidates, the best by EM, are trained further.
MOST_REFINED = 2
REFINED = ", refined"

Train = Callable[[np.ndarray], tuple[Einet, History]]


class Measured(NamedTuple):
    """A network, and what it says of rows that it was not trained on.

    Attributes:
        name: that of its candidate; a refined one ends with ", refined".
        train: from numbers of rows to a network that EM trained on them.
        losses: -log P(y | x) in nats, of whole held-out rows and of the same rows with gaps, (2, rows).
        epochs: of training on log P(y | x), the median of those that were best; None where there was none of that.
    """

    name: str
    train: Train
    losses: Tensor
    epochs: int | None


class Part(NamedTuple):
    """Rows that are held out together.

    Attributes:
        own: their numbers.
        others: those of all other rows.
        inside: the other rows.
        outside: the rows that are held out, and again with gaps.
    """

    own: np.ndarray
    others: np.ndarray
    inside: Rows
    outside: Rows


class Answering(NamedTuple):
    """Networks that answer together, the one with the largest weight first, and what was measured, the best first.

    Attributes:
        models: each with a root for every class.
        weights: of their answers.
        history: of the first one's EM.
        measured: a dict for each, of name, score, epochs and weight.
    """

    models: list[Einet]
    weights: np.ndarray
    history: History
    measured: list[dict[str, Any]]


def answering(
    candidates: dict[str, Train], rows: Rows, log_prior: Tensor, refine: Any, epochs: int, patience: int, seed: int
) -> Answering | None:
    """The networks that tell the classes of held-out rows best, together.

    Args:
        candidates: how each is trained, by name.
        rows: x, observed, labels and weights.
        log_prior: log P(y), (classes,).
        refine: False for networks as EM trained them, True for those trained further, "auto" for both.
        epochs: most of training further.
        patience: of that.
        seed: of what is drawn.

    Returns:
        None where no class has two rows.
    """
    parts = parts_of(rows[2].numpy(), np.random.RandomState(seed))
    if parts.max() < 0:
        return None
    divided = list(_divided(rows, parts, seed))
    options = {"epochs": epochs, "patience": patience, "seed": seed}
    found = _measured(candidates, divided, log_prior, refine, options)
    own = np.concatenate([part.own for part in divided])
    count = torch.ones(len(own)).double() if rows[3] is None else rows[3][own].double()
    count = (count / count.sum()).repeat(2).numpy() / 2
    logs = -torch.stack([each.losses.flatten() for each in found]).numpy()
    weights = mixing_weights(logs, count)
    kept = [number for number, weight in enumerate(weights) if weight >= MIN_WEIGHT] or [int(weights.argmax())]
    final = np.zeros(len(found))
    final[kept] = mixing_weights(logs[kept], count)
    order = sorted(kept, key=lambda number: -final[number])
    models, history = _trained([found[number] for number in order], rows, log_prior, seed)
    told = [
        {"name": each.name, "score": score, "epochs": each.epochs, "weight": float(weight)}
        for each, score, weight in zip(found, (logs @ count).tolist(), final, strict=True)
    ]
    return Answering(models, final[order], history, sorted(told, key=lambda each: -each["score"]))


def _measured(
    candidates: dict[str, Train], divided: list[Part], log_prior: Tensor, refine: Any, options: dict
) -> list[Measured]:
    """All candidates as EM trains them, and the best of them trained further; these alone where `refine` is True."""
    found, models = [], {}
    for name, train in candidates.items():
        models[name] = [train(part.others)[0] for part in divided]
        losses = [_losses_twice(model, part, log_prior) for model, part in zip(models[name], divided, strict=True)]
        found.append(Measured(name, train, torch.cat(losses, 1), None))
    if not refine:
        return found
    best = sorted(found, key=lambda each: each.losses.mean().item())[:MOST_REFINED]
    further = [_refined(each, models[each.name], divided, log_prior, options) for each in best]
    return further if refine is True else found + further


def _trained(chosen: list[Measured], rows: Rows, log_prior: Tensor, seed: int) -> tuple[list[Einet], History]:
    """Those that were chosen, on all rows, and the history of the first."""
    everything = np.arange(len(rows[0]))
    by_em = {train: train(everything) for train in dict.fromkeys(each.train for each in chosen)}
    models = []
    for each in chosen:
        model = by_em[each.train][0]
        models.append(refined(model, rows, None, log_prior, epochs=each.epochs, seed=seed)[0] if each.epochs else model)
    return models, by_em[chosen[0].train][1]


def _divided(rows: Rows, parts: np.ndarray, seed: int) -> Iterator[Part]:
    """The parts that have rows."""
    generator = torch.Generator().manual_seed(seed)
    for part in np.unique(parts[parts >= 0]):
        own, others = np.flatnonzero(parts == part), np.flatnonzero(parts != part)
        outside = some_rows(rows, own)
        yield Part(own, others, some_rows(rows, others), _joined(outside, with_gaps(outside, generator)))


def _losses_twice(model: Einet, part: Part, log_prior: Tensor) -> Tensor:
    return log_losses(model, part.outside, log_prior).view(2, -1)


def _refined(plain: Measured, models: list[Einet], divided: list[Part], log_prior: Tensor, options: dict) -> Measured:
    """What becomes of a candidate that is trained further."""
    losses, best = [], []
    for model, part in zip(models, divided, strict=True):
        better, course = refined(model, part.inside, part.outside, log_prior, **options)
        losses.append(_losses_twice(better, part, log_prior))
        best.append(course.best)
    return Measured(plain.name + REFINED, plain.train, torch.cat(losses, 1), round(float(np.median(best))))


def parts_of(labels: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """The part in which each row is held out, (B,); -1 for never, as for a row that is alone in its class."""
    order, parts = random.permutation(len(labels)), np.full(len(labels), -1)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        if len(own) > 1:
            parts[own] = (np.arange(len(own)) + label) % (PARTS if len(labels) >= PARTS * ENOUGH_ROWS else FEW_PARTS)
    return np.where(parts > 0, -1, parts) if len(labels) >= PARTS * ENOUGH_ROWS else parts


def _joined(one: Rows, other: Rows) -> Rows:
    x, observed, labels = (torch.cat(pair) for pair in zip(one[:3], other[:3], strict=True))
    return x, observed, labels, None if one[3] is None or other[3] is None else torch.cat((one[3], other[3]))
