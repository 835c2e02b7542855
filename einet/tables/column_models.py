"""Models of a column of numbers, and how likely they find cells that are held out: what `choice.choose` compares.

Source: not in the paper
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from einet.families.discrete import Bernoulli, Categorical
from einet.families.heaped import Heaped
from einet.families.mixed import WithAtoms
from einet.family import ExponentialFamily

# The probability that a column of categories, or a constant, holds a value that was not in the training data.
UNSEEN_PROBABILITY = 1e-5
# Categories of at most this perplexity, as if so many were equally frequent, count as the simplest model.
SIMPLE_PERPLEXITY = 4.0
# Values of a grid, at most.
MAX_GRID = 3000
# So many rows decide, each held out once; a mixture of so many densities, after so many steps of EM.
MAX_ROWS, FOLDS, ENTRIES, STEPS = 1000, 5, 3, 15
# A simpler model wins if it has no fewer nats a row than the best less so many, or so many standard errors.
TOLERANCE, STANDARD_ERRORS = 0.02, 1.5
# So many nats a row must heaps be better than anything else: such a column is not joined with others.
HANDICAP_OF_HEAPS = 0.25


@dataclass
class Choice:
    """How a column becomes a variable: z = (x - center) / scale of `family`, or the number of one of `values`.

    Attributes:
        atoms: in x, the values that have a probability of their own beside the density.
        excluded: isolated values, such as errors and codes, which count as gaps.
        resolution: the smallest difference in z that counts, 0 where none does.
        shift: of z = (log(x + shift) - center) / scale; NaN where z is no logarithm.
        heaped: whether the atoms are heaps.
    """

    family: ExponentialFamily
    center: float = 0.0
    scale: float = 1.0
    values: np.ndarray | None = None
    atoms: np.ndarray = field(default_factory=lambda: np.empty(0))  # in x
    excluded: np.ndarray = field(default_factory=lambda: np.empty(0))
    resolution: float = 0.0
    shift: float = math.nan
    heaped: bool = False


def of_values(values: np.ndarray) -> Choice:
    """A column of categories; of one, for a constant."""
    number = len(values)
    family = Bernoulli() if number <= 2 else Categorical(number, floor=min(1e-5, 0.1 / number))
    return Choice(family, values=values)


# Models


class ColumnModel:
    """A model of the column: its size in free parameters, what it stands for, and nats that it gives away."""

    size: float
    choice: Choice
    handicap: float = 0.0

    def held_out(self, cells: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """log P of each cell by the model fitted to the other folds, a density times the column's step."""
        raise NotImplementedError


class Categories(ColumnModel):
    """A share of the rows for each value."""

    def __init__(self, values: np.ndarray, repeats: np.ndarray):
        shares = repeats / repeats.sum()
        perplexity = math.exp(-(shares * np.log(shares)).sum())
        self.values, self.size, self.choice = values, perplexity - SIMPLE_PERPLEXITY, of_values(values)

    def held_out(self, cells: np.ndarray, folds: np.ndarray) -> np.ndarray:
        return _shares(np.searchsorted(self.values, cells), folds, len(self.values))


class DensityMixture(ColumnModel):
    """Densities of one family, beside atoms."""

    def __init__(self, choice: Choice, atoms: np.ndarray, rare: np.ndarray, entries: int, step: float, repeats: bool):
        family = choice.family
        self.family, self.entries, self.step, self.repeats = family, entries, step, repeats
        self.size = entries * family.num_statistics + entries - 1 + len(atoms)
        if len(atoms):
            inside = tuple((atoms - choice.center) / choice.scale)
            choice = replace(choice, family=self._beside(family, inside), atoms=atoms)
        self.choice, self.atoms = replace(choice, excluded=rare), np.concatenate((atoms, rare))

    def _beside(self, family: ExponentialFamily, atoms: tuple[float, ...]) -> ExponentialFamily:
        """The family with atoms."""
        return WithAtoms(family, atoms=atoms)

    def held_out(self, cells: np.ndarray, folds: np.ndarray) -> np.ndarray:
        which = np.argmax(np.concatenate((cells == self.atoms[:, None], np.ones((1, len(cells)), dtype=bool))), 0)
        rest = which == len(self.atoms)
        result = _shares(which, folds, len(self.atoms) + 1)
        if not rest.any():
            return result
        z = torch.as_tensor((cells[rest] - self.choice.center) / self.choice.scale)
        step = self.step / self.choice.scale
        grid = self._grid(cells[rest]) if self.repeats else z[:0]
        result[rest] += held_out_densities(
            self.family, z, torch.as_tensor(folds[rest]), self.entries, grid, math.log(step)
        )
        return result

    def _grid(self, cells: np.ndarray) -> torch.Tensor:
        """All values that the column could have, in z, if there are not too many."""
        low, number = cells.min(), (cells.max() - cells.min()) / self.step
        grid = low + self.step * np.arange(min(number, MAX_GRID) + 1)
        grid = grid[~np.isin(grid, self.atoms)] if number <= MAX_GRID else grid[:0]
        return torch.as_tensor((grid - self.choice.center) / self.choice.scale)


class HeapedMixture(DensityMixture):
    """Normal densities beside values whose frequencies all entries share."""

    handicap = HANDICAP_OF_HEAPS

    def __init__(self, choice: Choice, heaps: np.ndarray, heights: np.ndarray, rare: np.ndarray, step: float):
        self.heights = heights / choice.scale
        super().__init__(replace(choice, heaped=True), heaps, rare, ENTRIES, step, True)

    def _beside(self, family: Any, atoms: tuple[float, ...]) -> ExponentialFamily:
        return Heaped(family.min_variance, atoms=atoms, heights=tuple(self.heights.tolist()))


# Which of them


def sampled(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells and their folds, at most MAX_ROWS. A row more in the column changes no more than one of them."""
    order = np.random.RandomState(0).rand(len(column)).argsort(kind="stable")
    rows = np.sort(order[:MAX_ROWS])
    return column[rows], np.random.RandomState(1).randint(0, FOLDS, len(column))[rows]


def simplest(candidates: list[ColumnModel], cells: np.ndarray, folds: np.ndarray) -> ColumnModel:
    """The smallest whose held-out cells are as likely as the best's, as far as the cells tell."""
    scores = [candidate.held_out(cells, folds) - candidate.handicap for candidate in candidates]
    best = max(scores, key=np.mean)
    order = sorted(range(len(candidates)), key=lambda number: candidates[number].size)
    for number in order:
        lost = best - scores[number]
        if lost.mean() <= max(TOLERANCE, STANDARD_ERRORS * lost.std() / math.sqrt(len(lost))):
            return candidates[number]
    return candidates[scores.index(best)]  # never: the best loses nothing to itself


def _shares(which: np.ndarray, folds: np.ndarray, number: int) -> np.ndarray:
    """log of the share of each cell's category in the other folds; one that these lack is unseen."""
    table = np.zeros((FOLDS, number))
    np.add.at(table, (folds, which), 1)
    others = table.sum(0) - table
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(others / others.sum(1, keepdims=True))
    return np.maximum(np.nan_to_num(logs, nan=-np.inf), math.log(UNSEEN_PROBABILITY))[folds, which]


@torch.no_grad()
def held_out_densities(
    family: ExponentialFamily, z: torch.Tensor, folds: torch.Tensor, entries: int, grid: torch.Tensor, log_step: float
) -> np.ndarray:
    """log p(z) + log_step (n,) by a mixture that EM has fitted to the other folds, all folds at once.

    On a grid, densities that are narrower than a step, or end at a value, would sum to more than 1; they are divided by
    that.
    """
    statistics, base = family.statistics(z), family.log_base(z)  # (T, n)
    train = (folds != torch.arange(FOLDS)[:, None]).double()  # (F, n)
    # Entries begin with equal parts of the sorted cells.
    part = (z.argsort().argsort() * entries).div(len(z), rounding_mode="floor")
    uses = (part == torch.arange(entries)[:, None]).double().expand(FOLDS, -1, -1)  # (F, K, n)
    overall = torch.einsum("fn,tn->tf", train, statistics) / train.sum(1).clamp_min(1)
    logs, theta, shares = uses, uses, uses
    for _ in range(STEPS if entries > 1 else 1):
        weights = uses * train[:, None]
        number = weights.sum(2)
        # One row of the column's own mean, so that no entry ends on a single cell.
        total = torch.einsum("fkn,tn->tfk", weights, statistics) + (overall[..., None] if entries > 1 else 0)
        phi = family.expecting(total / (number + (1 if entries > 1 else 0)).clamp_min(1e-9))
        theta = family.natural(phi)
        shares = torch.log((number + 1) / (number + 1).sum(1, keepdim=True)) - family.log_normalizer(theta)
        logs = torch.einsum("tfk,tn->fkn", theta, statistics) + shares[..., None]
        uses = torch.softmax(logs, 1)
    result = torch.logsumexp(logs, 1).gather(0, folds[None])[0]
    result = log_step + (result if base is None else result + base)
    if len(grid):
        on_grid = torch.einsum("tfk,tn->fkn", theta, family.statistics(grid)) + shares[..., None]
        base = family.log_base(grid)
        total = log_step + torch.logsumexp(on_grid if base is None else on_grid + base, (1, 2))
        result = result - total.clamp_min(0)[folds]
    return result.numpy()
