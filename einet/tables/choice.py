"""`leaf="auto"`: which family suits a column, by the likelihood of its cells that are held out.

Each family is judged as a single density and as a mixture of three, as the entries of a leaf are one, both fitted by EM
without a fifth of the cells at a time. The simplest whose cells are as likely as the best's wins, so that one row more
does not change what is near a tie. Values that repeat are compared as probabilities: a density times the column's step.

Source: not in the paper
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from einet.families.continuous import Exponential, Gamma, LogNormal, Normal
from einet.families.discrete import Binomial, Geometric, Poisson
from einet.family import ExponentialFamily
from einet.tables.column_models import (
    ENTRIES,
    TOLERANCE,
    Categories,
    Choice,
    ColumnModel,
    DensityMixture,
    HeapedMixture,
    held_out_densities,
    of_values,
    sampled,
    simplest,
)
from einet.tables.resolution import (
    DEVIATIONS_PER_STEP,
    center_and_scale,
    comparable_length,
    is_constant,
    isolated,
    resolution,
)

# A column may be one of categories if it has no more different values, and so many rows for each, on average.
MAX_CATEGORIES, ROWS_PER_CATEGORY = 50, 5
# A value is an atom if it has this share of the rows, no fewer of them, and so many times those of the typical value.
ATOM_SHARE, ATOM_ROWS, ATOM_EXCESS, MAX_ATOMS = 0.02, 5, 10, 5
# A value is a heap if so many rows have it, and if no more values than these are; their heights compare it with a
# density as wide as this part of Silverman's rule says, relative to rows that are at no heap, half a row at least.
HEAP_ROWS, MAX_HEAPS, BANDWIDTH, LEAST_REST = 5, 300, 0.9, 0.5
# Heaps, and atoms, are one if they differ by no more than this part of the column's unit, or of themselves: the network
# may have them as float32.
SAME = 1e-6
# Fewer rows than this decide nothing, and the column is normal. Larger numbers are no counts, nor totals.
MIN_ROWS, MAX_COUNT, MAX_TOTAL = 10, 1e6, 255
# From so many rows on, the largest number may be a total that none exceeds, if more than one row has it.
ROWS_OF_TOTAL = 50
# Of whole numbers, counts come before densities, which have so many more parameters then.
SIZE_OF_WHOLE = 20
# Counts are narrow where they are small: a mixture of them needs more.
ENTRIES_OF_COUNTS, NEAR_ZERO = 6, 3
# So many nats a row must a family of positive numbers be better than normal entries, which may be joined with others'.
HANDICAP = 0.08
# Parts of the median that are added to positive numbers before their logarithm is taken.
SHIFTS = (0.0, 0.3, 1.0)
# Squares of standardised values, in float64, leave no room for a variance below this part of them.
SMALLEST_VARIANCE = 1e-12
# Whole numbers are reals beside others where a step is no more than this share of the column's unit.
MAX_STEP = 0.2


def choose(column: np.ndarray, counts: bool = True, positive: bool = True) -> Choice:
    """The family, unit and atoms of a column of numbers, from its known cells (n,) in training.

    Args:
        column: the cells.
        counts: whether whole numbers may be counts.
        positive: whether 0 means something in the column's unit, so that families of positive numbers may suit it.
    """
    values, repeats = np.unique(column, return_counts=True)
    if is_constant(values):
        return of_values(values[[repeats.argmax()]])
    whole = bool((values == np.round(values)).all())
    few = len(values) <= min(MAX_CATEGORIES, max(2 if whole else 0, len(column) // ROWS_PER_CATEGORY))
    if few and len(values) == 2:
        return of_values(values)
    if len(column) < MIN_ROWS:
        return normal(column)
    candidates: list[ColumnModel] = [Categories(values, repeats)] if few else []
    if counts and whole and values[0] >= 0:
        candidates += _counts(column)
    candidates += _densities(column, values, repeats, positive, SIZE_OF_WHOLE if whole else 0)
    candidates += _heaps(column, values, repeats)
    return simplest(candidates, *sampled(column)).choice


def normal(column: np.ndarray, family: ExponentialFamily | None = None) -> Choice:
    """A normal column, or one of another family that may be shifted and scaled, at a robust scale."""
    center, scale = center_and_scale(column)
    step = resolution(column) / scale
    largest = max(abs(column.max() / scale - center / scale), abs(column.min() / scale - center / scale))
    smallest = max((DEVIATIONS_PER_STEP * step) ** 2, SMALLEST_VARIANCE * max(1.0, largest**2))
    narrowest = min(1.0, _bound(smallest, column))
    return Choice(family or Normal(min_variance=narrowest), center, scale, resolution=step)


def joint(column: np.ndarray, choice: Choice, positive: bool = True, heaps: bool = False) -> Choice:
    """A column of counts, positive numbers or reals as one that is normal together with others: itself, or its log.

    The logarithm is that of x + shift, which leaves small numbers nearer to what they are. One normal density of the
    cells that are held out decides; atoms and categories stay what they are, and so do heaps unless asked for.

    Args:
        column: the cells.
        choice: what `choose` made of them.
        positive: whether 0 means something in the column's unit.
        heaps: whether a column with heaps may become real.
    """
    near = column[~np.isin(column, choice.excluded)]
    atoms = len(choice.atoms) and not (heaps and choice.heaped)
    if choice.values is not None or atoms or len(near) < MIN_ROWS or not _is_fine(near, _step(near)):
        return choice
    options, (cells, folds) = [normal(near)], sampled(near)
    for part in SHIFTS if positive and near.min() >= 0 else ():
        shift = part * float(np.median(near))
        if near.min() + shift > 0 and _is_fine(np.log(near + shift), _step_in_logs(near, shift)):
            options.append(replace(normal(np.log(near + shift)), shift=shift))
    scores = [_as_one_normal(option, cells, folds) for option in options]
    best = int(np.argmax(scores))
    chosen = options[best if scores[best] > scores[0] + TOLERANCE else 0]
    return replace(chosen, excluded=choice.excluded)


def _is_fine(cells: np.ndarray, step: float) -> bool:
    """Whether steps are small beside the spread: a density of coarse cells would be surer than a probability can be."""
    return step <= MAX_STEP * center_and_scale(cells)[1]


def _step(cells: np.ndarray) -> float:
    """1 for whole numbers, 0 for others."""
    return float((cells == np.round(cells)).all())


def _step_in_logs(cells: np.ndarray, shift: float = 0.0) -> float:
    """The width of a whole number in log(x + shift), among the smallest; 0 of other cells."""
    return math.log1p(_step(cells) / max(float(np.quantile(cells, 0.05)) + shift - 0.5, 0.5))


def _as_one_normal(choice: Choice, cells: np.ndarray, folds: np.ndarray) -> float:
    """Nats a cell that is held out, of a normal density of the others, in the column's unit."""
    in_logs = not math.isnan(choice.shift)
    values = np.log(cells + choice.shift) if in_logs else cells
    z = torch.as_tensor((values - choice.center) / choice.scale)
    logs = held_out_densities(Normal(), z, torch.as_tensor(folds), 1, z[:0], -math.log(choice.scale))
    return float(logs.mean() - (values.mean() if in_logs else 0.0))


# What there is to choose from


def _heaps(column: np.ndarray, values: np.ndarray, repeats: np.ndarray) -> Iterator[ColumnModel]:
    """Normal columns, but for the values that several rows have."""
    far = isolated(column)
    near = column[~np.isin(column, far)]
    often = (repeats >= HEAP_ROWS) & ~np.isin(values, far)
    if not often.any() or is_constant(near):
        return
    choice = normal(near)
    heaps = _apart(values[often], repeats[often], choice)
    if len(heaps) <= MAX_HEAPS:
        yield HeapedMixture(choice, heaps, _heights(near, heaps), far, comparable_length(near))


def _apart(values: np.ndarray, repeats: np.ndarray, choice: Choice) -> np.ndarray:
    """The most frequent of values that differ by rounding alone, as 0.3 and 0.1 + 0.2 do: a family's atoms differ."""
    z = (values - choice.center) / choice.scale
    group = np.r_[0, np.cumsum(np.diff(z) > SAME * np.maximum(1, np.abs(z[1:])))]
    order = np.lexsort((-repeats, group))
    return values[order[np.unique(group[order], return_index=True)[1]]]


def _heights(column: np.ndarray, heaps: np.ndarray) -> np.ndarray:
    """How long an interval of the density beside them has the probability of each heap, in the column's unit."""
    number = len(column)
    width = BANDWIDTH * center_and_scale(column)[1] * number**-0.2
    shares = (column == heaps[:, None]).sum(1) / number
    density = np.exp(-0.5 * ((heaps[:, None] - column) / width) ** 2).mean(1) / (math.sqrt(2 * math.pi) * width)
    rest = max((number - np.isin(column, heaps).sum()) / number, LEAST_REST / number)
    return shares / density / rest


def _counts(column: np.ndarray) -> Iterator[ColumnModel]:
    """Whole numbers without a bound, from 0 or 1, or up to the largest; isolated cells are none of them."""
    out = isolated(column)
    rest = column[~np.isin(column, out)]
    if is_constant(rest) or rest.max() > MAX_COUNT:
        return
    # Far from 0 a mixture of counts fits, too, but no count is narrower than its mean's square root.
    near_zero = np.quantile(rest, 0.02) <= NEAR_ZERO
    for first in {0.0, 1.0} if rest.min() == 1 else {0.0}:
        families: list[ExponentialFamily] = [Poisson(), Geometric()]
        most = int(rest.max())
        if most <= MAX_TOTAL and first == 0 and len(rest) >= ROWS_OF_TOTAL and (rest == most).sum() > 1:
            families.append(Binomial(total=most))
        for family in families:
            for entries in (1, ENTRIES_OF_COUNTS) if near_zero else (1,):
                yield DensityMixture(Choice(family, first, 1.0, resolution=1.0), out[:0], out, entries, 1.0, False)


def _densities(
    column: np.ndarray, values: np.ndarray, repeats: np.ndarray, positive: bool, extra: int
) -> Iterator[ColumnModel]:
    """Normal columns, and those of positive numbers; with atoms, where a value is far more frequent than others are."""
    rounded = len(values) <= len(column) / 2
    step = comparable_length(column) if rounded else resolution(column)
    usual = max(1.0, float(np.median(repeats)))
    often = (repeats >= max(ATOM_ROWS, ATOM_SHARE * len(column))) & (repeats >= ATOM_EXCESS * usual)
    often &= ~np.isin(values, isolated(column))
    often, repeats = values[often], repeats[often]
    for atoms in [often[:0], often][: 2 if 0 < len(often) <= MAX_ATOMS else 1]:
        rest = column[~np.isin(column, atoms)]
        if len(rest) < MIN_ROWS or len(np.unique(rest)) < 3:
            continue
        far = isolated(rest)
        near = rest[~np.isin(rest, far)]
        if is_constant(near):
            continue
        choices = [(normal(near), far)]
        if positive and near.min() > 0:
            choices.append((_gamma(near), far))
        if positive and rest.min() > 0:
            far_in_logs = np.exp(isolated(np.log(rest)))
            far_in_logs = rest[np.isin(rest, far_in_logs)] if len(far_in_logs) else far[:0]
            choices.append((_lognormal(rest), np.unique(far_in_logs)))
        if positive and near.min() >= 0:
            choices.append((_exponential(near), far))
        for choice, rare in choices:
            apart = _apart(atoms, repeats, choice) if len(atoms) else atoms
            for entries in (1, ENTRIES):
                candidate = DensityMixture(choice, apart, rare, entries, step, rounded)
                candidate.size += extra
                if not len(atoms) and type(choice.family) is not Normal:
                    candidate.handicap = HANDICAP
                yield candidate


def _gamma(column: np.ndarray) -> Choice:
    scale = float(np.median(column))
    narrowest = max(DEVIATIONS_PER_STEP * max(resolution(np.log(column)), _step_in_logs(column)), 1e-3)
    shape = max(1.0, min(1e6, 1 / _bound(narrowest**2, column)))
    return Choice(Gamma(max_shape=shape), 0.0, scale, resolution=resolution(column) / scale)


def _lognormal(column: np.ndarray) -> Choice:
    scale = float(np.median(column))
    logs = np.log(column) - math.log(scale)
    step = max(resolution(logs), _step_in_logs(column))
    smallest = max((DEVIATIONS_PER_STEP * step) ** 2, SMALLEST_VARIANCE * max(1.0, np.abs(logs).max() ** 2))
    family = LogNormal(min_variance=min(1.0, _bound(smallest, column)))
    return Choice(family, 0.0, scale, resolution=resolution(column) / scale)


def _exponential(column: np.ndarray) -> Choice:
    scale = float(np.median(column[column > 0]))
    step = resolution(column) / scale
    return Choice(Exponential(min_mean=min(1.0, _down(max(step, 1e-6)))), 0.0, scale, resolution=step)


def _bound(variance: float, column: np.ndarray) -> float:
    """The smallest variance of a column's family: of whole numbers the given one, whose density is below 1 / step."""
    return variance if _step(column) else _down(variance)


def _down(bound: float) -> float:
    """A power of 10, so that columns of about the same bound share a family, and the work of a network's leaves."""
    return 10.0 ** math.floor(math.log10(bound) + 1e-9)
