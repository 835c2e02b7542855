"""Which density a table gets: candidates are measured on rows that they were not trained on, and the best are mixed.

The columns may be variables in two ways: as what each is by itself, or all as reals, or their logarithms, that one
normal density can hold together. Densities of one way can be mixed, so the better way is found first.

Every candidate is trained without one fold at a time, or without one part of many rows, and asked for the log-densities
of what it has not seen. Sizes of one kind grow until they no longer help. The weights that the candidates would have in
a mixture follow from these log-densities by EM; those that matter are trained on all rows, for as many steps as were
best without the folds.

Source: not in the paper; stacking is that of Smyth and Wolpert (1999), "Linearly combining density estimators"
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp
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
# So many rows, drawn at random, decide between candidates; those that were chosen learn from all rows, at least twice.
DECIDING_ROWS, LEAST_EPOCHS = 10_000, 2
# Factors of the leaf pseudocount that are tried with the best size of a kind; less of it where there are reals, since a
# row of a wide column would keep a narrow cluster from being as narrow as it is.
SHRINKAGES, LESS = (10.0, 100.0, 1000.0), (0.1, 0.01, 0.001, 1e-4, 1e-5)
# A factor is worth going on if it was better by so many nats a row.
LEAST_GAIN = 0.005
# Of the first weights: all components of a Gaussian mixture begin with some rows.
CONCENTRATION = 1.0
# Steps of EM for the weights of the mixture.
WEIGHT_STEPS = 200
# So many nats a row must a later way to have the columns as variables be better than the ones before.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Rows:
    """The encoded rows of a table, and how they are divided.

    Attributes:
        x: (B, D).
        observed: (B, D).
        weights: how often each row counts, (B,), or None where all count once.
        parts: the part of each row that is held out together, -1 for rows that never are: (B,).
        constant: columns of a single value.
        units: log p in the units of the table, less that of x, (B,).

    Source: not in the paper
    """

    x: Tensor
    observed: Tensor
    weights: Tensor | None
    parts: np.ndarray
    constant: list[int]
    units: Tensor

    def select(self, rows: np.ndarray) -> tuple[Tensor, Tensor, None, Tensor | None]:
        """x, observed, no labels, and weights of some rows, as `fit` takes them."""
        index = torch.as_tensor(rows)
        return self.x[index], self.observed[index], None, None if self.weights is None else self.weights[index]

    def deciding(self, seed: int) -> Rows:
        """DECIDING_ROWS of them, or all."""
        if len(self.parts) <= DECIDING_ROWS:
            return self
        some = np.sort(np.random.RandomState(seed).permutation(len(self.parts))[:DECIDING_ROWS])
        x, observed, _, weights = self.select(some)
        return replace(self, x=x, observed=observed, weights=weights, parts=self.parts[some], units=self.units[some])


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
    weights: np.ndarray | None = None  # how often each of these rows counts
    score: float = field(init=False)

    def __post_init__(self):
        some = len(self.log_densities)
        self.score = float(np.average(self.log_densities, weights=self.weights)) if some else float("nan")


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
        concentration=CONCENTRATION,
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
        found[held_out] = (log_density(model, *rows.select(held_out)[:2]).double() + rows.units[held_out]).numpy()
        steps.append((history.best_epoch + 1) * len(chosen))
    asked = rows.parts >= 0
    weights = None if rows.weights is None else rows.weights.numpy()[asked]
    return Measured(candidate, found[asked], max(1, round(float(np.median(steps)) / len(rows.parts))), weights)


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
        reals = any(family.location_scale or family.joint for family in largest.families)
        for factors in (LESS, SHRINKAGES) if reals else (SHRINKAGES,):
            tried = [largest.shrunk(factor) for factor in factors]
            before = found[largest.name].score
            scores = [found[each.name].score for each in climbed(tried, score, 1, before, LEAST_GAIN)]
            if max(scores) > found[largest.name].score:
                break
        for start in range(1, training.num_starts):
            score(largest.started(start))
    return sorted(found.values(), key=lambda each: -each.score)


def weights_of(several: list[Measured]) -> np.ndarray:
    """The weights of a mixture of the candidates that make the held-out rows most probable: (candidates,).

    Source: not in the paper
    """
    return mixing_weights(np.stack([each.log_densities for each in several]), several[0].weights)


def mixing_weights(logs: np.ndarray, count: np.ndarray | None = None, steps: int = WEIGHT_STEPS) -> np.ndarray:
    """The weights of a mixture under which rows are most probable, by EM: (K,).

    Args:
        logs: log-probabilities of the rows under each of K models, (K, rows).
        count: how often each row counts, (rows,); None for all once.
        steps: of EM, from equal weights.

    Source: not in the paper
    """
    probabilities = np.exp(logs - logs.max(0))
    weights = np.full((len(logs), 1), 1 / len(logs))
    for _ in range(steps):
        joint = probabilities * weights
        weights = np.average(joint / joint.sum(0), 1, count)[:, None]
    return weights[:, 0]


@dataclass(frozen=True)
class Coding:
    """One way to have the columns as variables, and what competes there.

    Source: not in the paper
    """

    rows: Rows
    ladders: list[list[Candidate]]


@dataclass(frozen=True)
class Mixed:
    """The candidates that matter, with their weights, and the mean log-density that their mixture has held out.

    Source: not in the paper
    """

    kept: list[Measured]
    weights: np.ndarray
    score: float


def mixed(found: list[Measured]) -> Mixed:
    """Those of the candidates, the best first, that have some weight in their mixture.

    Source: not in the paper
    """
    # Many that are alike share the weight, so that none may have much of it.
    kept = [each for each, weight in zip(found, weights_of(found), strict=True) if weight >= MIN_WEIGHT] or found[:1]
    weights = weights_of(kept)
    together = logsumexp(np.stack([each.log_densities for each in kept], 1) + np.log(weights), axis=1)
    return Mixed(kept, weights, float(np.average(together, weights=kept[0].weights)))


def selected(codings: list[Coding], training: Training) -> tuple[int, Einet | Mixture, History, list[Measured]]:
    """Which coding is best, its density, the history of the largest component, and all that was measured.

    Source: not in the paper
    """
    first = codings[0]
    everything = np.arange(len(first.rows.parts))
    if first.rows.parts.max() < 0:  # nothing is held out
        smallest = first.ladders[0][0]
        model, history = trained(smallest, first.rows, everything, training)
        return 0, model, history, [Measured(smallest, np.zeros(0), training.epochs)]
    found = [best(coding.ladders, coding.rows.deciding(training.seed), training) for coding in codings]
    mixtures, chosen = [mixed(each) for each in found], 0
    for number, mixture in enumerate(mixtures):
        chosen = number if mixture.score > mixtures[chosen].score + TOLERANCE else chosen
    kept, weights, rows = mixtures[chosen].kept, mixtures[chosen].weights, codings[chosen].rows
    models = [trained(each.candidate, rows, everything, training, epochs=_epochs(each, rows)) for each in kept]
    model, history = models[int(weights.argmax())]
    if len(models) > 1:
        model = Mixture([each for each, _ in models], weights.tolist()).double()
    return chosen, model, history, sorted((each for several in found for each in several), key=lambda each: -each.score)


def _epochs(measured: Measured, rows: Rows) -> int:
    """For how many epochs all rows are seen, so that as many steps are taken as were best for those that decided."""
    share = min(1.0, DECIDING_ROWS / len(rows.parts))
    return measured.epochs if share == 1 else max(LEAST_EPOCHS, round(share * measured.epochs))


def fix_constant_columns(model: Einet, constant: list[int]) -> None:
    """Make the leaves of constant columns, which no row trains, sure of the one category there is.

    Source: not in the paper
    """
    for part in model.leaves.parts:
        here = torch.isin(part.pairs, torch.tensor(constant))
        if here.any():
            part.phi.data[:, here] = part.family.project(torch.zeros_like(part.phi[:, here]))
