"""Which density a table gets: candidates are measured on rows that they were not trained on, and the best are mixed.

Every candidate is trained without one fold at a time, or without one part of many rows, and asked for the log-densities
of what it has not seen. Sizes of one kind grow until they no longer help. The weights that the candidates would have in
a mixture follow from these log-densities by EM; those that matter are trained on all rows, for as many steps as were
best without the folds.

Source: not in the paper; stacking is that of Smyth and Wolpert (1999), "Linearly combining density estimators"
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from einet.data import log_density, steps_of_epoch
from einet.mixture import Mixture
from einet.network import Einet
from einet.starts import start_leaves
from einet.structures.learned import graph_of
from einet.tables.candidates import Candidate, climbed
from einet.training import History, fit

# Up to so many rows a step of EM sees all of them. More rows are taken in batches, with steps that fall.
FULL_BATCH_ROWS, BATCH_ROWS, LAST_LR = 2000, 500, 0.05
# A candidate with less weight than this in the mixture is left out of it.
MIN_WEIGHT = 0.1
# Factors of the leaf pseudocount that are tried with the best size of a kind.
SHRINKAGES = (10.0, 100.0, 1000.0)
# Steps of EM for the weights of the mixture.
WEIGHT_STEPS = 200


@dataclass(frozen=True)
class Rows:
    """The encoded rows of a table, and how they are divided.

    Attributes:
        x: (B, D).
        observed: (B, D).
        weights: how often each row counts, (B,), or None where all count once.
        parts: the part of each row that is held out together, -1 for rows that never are: (B,).
        constant: columns of a single value.

    Source: not in the paper
    """

    x: Tensor
    observed: Tensor
    weights: Tensor | None
    parts: np.ndarray
    constant: list[int]

    def select(self, rows: np.ndarray) -> tuple[Tensor, Tensor, None, Tensor | None]:
        """x, observed, no labels, and weights of some rows, as `fit` takes them."""
        index = torch.as_tensor(rows)
        return self.x[index], self.observed[index], None, None if self.weights is None else self.weights[index]


@dataclass(frozen=True)
class Training:
    """How candidates are trained.

    Source: not in the paper
    """

    epochs: int
    patience: int | None
    pseudocount: float
    leaf_pseudocount: float
    seed: int
    num_starts: int = 1
    verbose: bool = False

    def steps(self, num_rows: int, shrinkage: float) -> dict[str, Any]:
        """The settings of `fit` for so many rows; pseudocounts are of all rows together."""
        batch_size = None if num_rows <= FULL_BATCH_ROWS else BATCH_ROWS
        steps = steps_of_epoch(num_rows, batch_size)
        return {
            "batch_size": batch_size,
            "lr": 1.0 if batch_size is None else 0.5,
            "last_lr": None if batch_size is None else LAST_LR,
            "pseudocount": self.pseudocount / steps,
            "leaf_pseudocount": self.leaf_pseudocount * shrinkage / steps,
            "seed": self.seed,
            "progress": False,
        }


@dataclass
class Measured:
    """A candidate, the log-densities of held-out rows, and for how many epochs it should train on all rows.

    Source: not in the paper
    """

    candidate: Candidate
    log_densities: np.ndarray  # of the rows that were held out, in their order
    epochs: int
    score: float = field(init=False)

    def __post_init__(self):
        self.score = float(self.log_densities.mean()) if len(self.log_densities) else float("nan")


def trained(
    candidate: Candidate,
    rows: Rows,
    chosen: np.ndarray,
    training: Training,
    held_out: np.ndarray | None = None,
    epochs: int | None = None,
) -> tuple[Einet, History]:
    """A candidate that learned from the rows `chosen`; `held_out` rows choose the epoch.

    Source: not in the paper
    """
    x, observed, _, weights = rows.select(chosen)
    graph = graph_of(candidate.structure, x, observed, x.shape[1], candidate.sum_product)
    model = Einet(
        graph,
        dict(candidate.families),
        candidate.num_sums,
        sum_product=candidate.sum_product,
        seed=training.seed + candidate.start,
    ).double()
    start_leaves(model, x, observed, distinct=False, seed=training.seed + candidate.start)
    fix_constant_columns(model, rows.constant)
    with warnings.catch_warnings():  # that a single component does not move is no news
        warnings.filterwarnings("ignore", "training ended", UserWarning)
        history = fit(
            model,
            x,
            observed,
            weights=weights,
            valid=None if held_out is None else rows.select(held_out),
            epochs=epochs or training.epochs,
            patience=None if held_out is None else training.patience,
            **training.steps(len(chosen), candidate.shrinkage),
        )
    return model, history


def measured(candidate: Candidate, rows: Rows, training: Training) -> Measured:
    """The log-densities that a candidate gives to rows it was not trained on.

    Source: not in the paper
    """
    found, steps = np.full(len(rows.parts), np.nan), []
    for part in range(rows.parts.max() + 1):
        chosen, held_out = np.flatnonzero(rows.parts != part), np.flatnonzero(rows.parts == part)
        model, history = trained(candidate, rows, chosen, training, held_out)
        found[held_out] = log_density(model, *rows.select(held_out)[:2]).double().numpy()
        steps.append((history.best_epoch + 1) * len(chosen))
    return Measured(candidate, found[rows.parts >= 0], max(1, round(float(np.median(steps)) / len(rows.parts))))


def best(ladders: list[list[Candidate]], rows: Rows, training: Training) -> list[Measured]:
    """All candidates that were measured, the best first.

    Source: not in the paper
    """
    found: dict[str, Measured] = {}

    def score(candidate: Candidate) -> float:
        found[candidate.name] = measured(candidate, rows, training)
        if training.verbose:
            print(f"[{candidate.name}] {found[candidate.name].score:.4g} nats a row held out")
        return found[candidate.name].score

    for ladder in ladders:
        sizes = list(climbed(ladder, score))
        largest = max(sizes, key=lambda each: found[each.name].score)
        if not largest.learns:
            continue
        list(climbed([largest.shrunk(factor) for factor in SHRINKAGES], score, patience=1))
        for start in range(1, training.num_starts):
            score(largest.started(start))
    return sorted(found.values(), key=lambda each: -each.score)


def weights_of(several: list[Measured]) -> np.ndarray:
    """The weights of a mixture of the candidates that make the held-out rows most probable, by EM: (candidates,).

    Source: not in the paper
    """
    logs = np.stack([each.log_densities for each in several], 1)
    densities = np.exp(logs - logs.max(1, keepdims=True))
    weights = np.full(len(several), 1 / len(several))
    for _ in range(WEIGHT_STEPS):
        joint = densities * weights
        weights = (joint / joint.sum(1, keepdims=True)).mean(0)
    return weights


def selected(ladders: list[list[Candidate]], rows: Rows, training: Training) -> tuple[Einet | Mixture, History, list]:
    """The density of a table, the history of its largest component, and what was measured.

    Source: not in the paper
    """
    everything = np.arange(len(rows.parts))
    if rows.parts.max() < 0:  # nothing is held out
        smallest = ladders[0][0]
        return *trained(smallest, rows, everything, training), [Measured(smallest, np.zeros(0), training.epochs)]
    found = best(ladders, rows, training)
    # Many that are alike share the weight, so that none may have much of it.
    kept = [each for each, weight in zip(found, weights_of(found), strict=True) if weight >= MIN_WEIGHT] or found[:1]
    weights = weights_of(kept)
    models = [trained(each.candidate, rows, everything, training, epochs=each.epochs) for each in kept]
    model, history = models[int(weights.argmax())]
    return (model if len(models) == 1 else Mixture([m for m, _ in models], weights.tolist()).double()), history, found


def fix_constant_columns(model: Einet, constant: list[int]) -> None:
    """Make the leaves of constant columns, which no row trains, sure of the one category there is.

    Source: not in the paper
    """
    for part in model.leaves.parts:
        here = torch.isin(part.pairs, torch.tensor(constant))
        if here.any():
            part.phi.data[:, here] = part.family.project(torch.zeros_like(part.phi[:, here]))
