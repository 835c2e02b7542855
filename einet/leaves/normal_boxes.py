"""Probabilities of boxes under normal densities of vectors, and draws within them, given what is seen.

A box in one variable takes the normal distribution function, one in several an integral, by SciPy: for each cell and
entry, by a formula for two variables, else by quasi-random numbers, always the same. SciPy's errors are absolute, so
the error asked for goes with the result.

Source: not in the paper; Genz, "Numerical computation of multivariate normal probabilities" (1992), for the integrals
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from einet.intervals import draw_normal, log_narrow, log_normal_between
from einet.layers.scratch import CHUNK_NUMEL
from einet.leaves import gaussian

# Of an integral over several variables: the error relative to its value, and how many points it may cost.
ACCURACY = 1e-6
MAX_POINTS = 50_000
# Below this probability SciPy's formula of two variables, whose error is 1e-15, has lost digits.
SMALL = 1e-8
# In which the range of an integral over one variable is narrowed down.
ROUNDS = 6
# Of rejection, for each draw.
MAX_TRIES = 100_000


class Box(NamedTuple):
    """Of n cells: what is seen (n, s) of x (n, s), and the ends of what is `bounded` (n, s), which is not seen."""

    x: Tensor
    seen: Tensor
    low: Tensor
    high: Tensor
    bounded: Tensor

    def select(self, index: Tensor) -> Box:
        return self.map(lambda tensor: tensor[index])

    def map(self, function: Callable[[Tensor], Tensor]) -> Box:
        return Box(*map(function, self))


# Probabilities


def log_probabilities(mean: Tensor, factor: Tensor, x: Tensor, cells: gaussian.Cells, box: Box) -> Tensor:
    """log P(box | seen) of the cells of L regions: means (L, K, s), factors (L, K, s, s), x (L, s, B) -> (cells, K)."""
    result = x.new_zeros(len(box.x), mean.shape[1])
    for blocks, centre, variance in gaussian.conditionals(mean, factor, x, cells):
        low, high, bounded = (cells.taken(tensor, blocks)[:, None] for tensor in (box.low, box.high, box.bounded))
        each = _log_intervals(low, high, centre, variance[..., None])
        cells.put(result, blocks, torch.where(bounded, each, 0).sum(2))
    several = (box.bounded.sum(1) > 1).nonzero()[:, 0]
    for some in several.split(max(1, CHUNK_NUMEL // factor[0].numel())) if len(several) else ():
        region = some // x.shape[2]
        result[some] = _log_integrals(mean[region], factor[region], box.select(some))
    return result


def _log_intervals(low: Tensor, high: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """log P(low <= x <= high) of normal variables; the variance may have been rounded to 0."""
    deviation = variance.sqrt().clamp_min(gaussian.TINY)
    return log_normal_between((low - mean) / deviation, (high - mean) / deviation, (high - low) / deviation)


def _log_integrals(mean: Tensor, factor: Tensor, box: Box) -> Tensor:
    """log P(box | seen) of cells each with means (n, K, s) and factors (n, K, s, s): (n, K).

    The factor of the covariance of the variables in another order, what is seen first, has that of what is bounded
    given what is seen in the rows and columns of what is bounded.
    """
    order = torch.where(box.seen, 0, torch.where(box.bounded, 1, 2)).argsort(dim=1, stable=True)
    index = order[:, None].expand_as(mean)
    ordered = factor.gather(2, index[..., None].expand_as(factor))
    ordered = torch.linalg.qr(ordered.mT)[1].mT
    mean, box = mean.gather(2, index), box.map(lambda tensor: tensor.gather(1, order))
    result, distribution = mean.new_empty(mean.shape[:2]), _scipy_normal()
    for cell, (first, number) in enumerate(zip(box.seen.sum(1).tolist(), box.bounded.sum(1).tolist(), strict=True)):
        seen, own = slice(first), slice(first, first + number)
        known = (box.x[cell, seen] - mean[cell, :, seen])[..., None]
        z = torch.linalg.solve_triangular(ordered[cell, :, seen, seen], known, upper=False)
        centre = mean[cell, :, own] + (ordered[cell, :, own, seen] @ z)[..., 0]
        conditional = ordered[cell, :, own, own]
        deviation = conditional.square().sum(-1).sqrt().clamp_min(gaussian.TINY)
        low, high = ((end[cell, own] - centre) / deviation for end in (box.low, box.high))
        # Each variable on its lower side, where the distribution function keeps its digits.
        mirrored = low > -high
        low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
        conditional = conditional / (torch.where(mirrored, -1, 1) * deviation)[..., None]
        result[cell] = _log_standard(distribution, low, high, conditional)
    return result


def _log_standard(distribution: Any, low: Tensor, high: Tensor, factor: Tensor) -> Tensor:
    """log P(low <= z <= high) of K vectors (K, m) of standard normal variables of correlations F F', F (K, m, m)."""
    largest = log_normal_between(low, high, high - low).amin(1)
    ends, correlation = (low.cpu().numpy(), high.cpu().numpy()), (factor @ factor.mT).cpu().numpy()
    numbers = zip(*ends, correlation, largest.exp().tolist(), strict=True)
    found = low.new_tensor([_integral(distribution, *own) for own in numbers])
    result = torch.log(found)
    if low.shape[1] == 2 and (found < SMALL).any():
        small = found < SMALL
        result[small] = torch.minimum(_log_tails(low[small], high[small], factor[small]), largest[small])
    return result


def _integral(distribution: Any, low: Any, high: Any, correlation: Any, largest: float) -> float:
    """P(low <= z <= high) of standard normal variables z of these correlations, which is not above `largest`."""
    from numpy.random import default_rng  # which SciPy needs, too

    if largest == 0.0:
        return 0.0
    options = {"lower_limit": low, "maxpts": MAX_POINTS, "releps": ACCURACY, "allow_singular": True}
    random = "rng" in inspect.signature(distribution.cdf).parameters  # else SciPy's generator has its own state

    def integral(error: float) -> float:
        rng = {"rng": default_rng(0)} if random else {}
        return min(
            max(float(distribution.cdf(high, 0 * high, correlation, abseps=error, **options, **rng)), 0.0), largest
        )

    found = integral(ACCURACY * largest)
    # The error that SciPy looks at is absolute.
    return integral(10 * ACCURACY * found) if len(low) > 2 and 0 < found < 0.1 * largest else found


def _log_tails(low: Tensor, high: Tensor, factor: Tensor) -> Tensor:
    """`_log_standard` for two variables (n, 2), by integration over the first, of what it leaves to the second.

    The logarithm of that is concave, so all but e^-40 lies around the largest of some values, and ever closer.
    """
    slope = (factor[:, 1, 0] * factor[:, 0, 0].sign())[:, None]
    deviation = factor[:, 1, 1].abs().clamp_min(gaussian.TINY)[:, None]
    ends = torch.stack((low, high), 2)  # (n, 2, 2)
    reach = 2 * torch.where(ends.isfinite(), ends, 0).abs().amax((1, 2)) + 80
    first, last = torch.maximum(low[:, 0], -reach)[:, None], torch.minimum(high[:, 0], reach)[:, None]

    def log_density(z: Tensor) -> Tensor:
        below, above = ((end - slope * z) / deviation for end in (low[:, 1:], high[:, 1:]))
        rest = log_normal_between(below, above, (high - low)[:, 1:] / deviation)
        return rest - 0.5 * (z.square() + gaussian.LOG_2_PI)

    unit = torch.linspace(0, 1, 101, dtype=low.dtype, device=low.device)
    for _ in range(ROUNDS):
        z = first + (last - first) * unit
        logs = log_density(z)
        matters = logs > logs.amax(1, keepdim=True) - 40
        left = matters.long().argmax(1, keepdim=True)
        right = 100 - matters.flip(1).long().argmax(1, keepdim=True)
        first, last = z.gather(1, (left - 1).clamp_min(0)), z.gather(1, (right + 1).clamp_max(100))
    width = (last - first) / 100
    return torch.logsumexp(log_narrow(log_density, first + (last - first) * unit[:-1], width), 1)


def _scipy_normal() -> Any:
    try:
        from scipy.stats import multivariate_normal  # here, so that `import einet` needs torch alone
    except ImportError as error:
        raise ImportError(
            "a box in several variables of one MultivariateNormal leaf needs scipy: pip install 'scipy>=1.10'"
        ) from error
    return multivariate_normal


# Draws


def draws(
    mean: Tensor, factor: Tensor, entry: Tensor, box: Box, row: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Draws (n, s) given what is seen, within boxes, each of a mean (n, s) and a factor (n, s, s), by rejection.

    A proposal has its least probable variable within the box, and all others given that one.

    Args:
        mean: of each draw.
        factor: of each draw.
        entry: numbers (n,), equal where factors are.
        box: of each draw.
        row: the numbers (n,) of rows, for messages.
        generator: for what is drawn.

    Raises:
        ValueError: no proposal of MAX_TRIES was within its box.
    """
    whitens = gaussian.whitening(factor[:, None], box.seen)[:, 0]
    covariance = factor @ factor.mT
    explains = covariance @ whitens.mT
    known = torch.where(box.seen, box.x - mean, 0)
    centre = mean + (explains @ (whitens @ known[..., None]))[..., 0]
    variance = (covariance.diagonal(dim1=-2, dim2=-1) - explains.square().sum(-1)).clamp_min(0)
    each = torch.where(box.bounded, _log_intervals(box.low, box.high, centre, variance), math.inf)
    place = each.argmin(1, keepdim=True)  # of the least probable
    centre, deviation = centre.gather(1, place), variance.gather(1, place).sqrt().clamp_min(gaussian.TINY)
    result, waiting, tries, copies = torch.empty_like(mean), torch.arange(len(mean), device=mean.device), 0, 1
    while len(waiting):
        if tries >= MAX_TRIES:
            raise ValueError(
                f"no draw of row {int(row[waiting[0]])} in {tries} tries was within its box in the variables of a "
                "MultivariateNormal leaf: the box is too improbable for exact draws; ask for a wider one"
            )
        which = waiting.repeat_interleave(copies)
        own = box.select(which)
        drawn = _proposals(
            mean[which], factor[which], entry[which], own, place[which], centre[which], deviation[which], generator
        )
        inside = (((drawn >= own.low) & (drawn <= own.high)) | ~own.bounded).all(1).view(-1, copies)
        accepted, first = inside.any(1), inside.long().argmax(1)  # the first of several that are
        result[waiting[accepted]] = drawn.view(len(waiting), copies, -1)[accepted, first[accepted]]
        waiting, tries = waiting[~accepted], tries + copies
        fits = CHUNK_NUMEL // max(1, 4 * len(waiting) * factor[0].numel())
        copies = max(1, min(2 * copies, fits, MAX_TRIES - tries))
    return result


def _proposals(
    mean: Tensor,
    factor: Tensor,
    entry: Tensor,
    box: Box,
    place: Tensor,
    centre: Tensor,
    deviation: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Draws (n, s), of which the variable at `place` (n, 1), of this mean and deviation given x, is within the box."""
    low, high = box.low.gather(1, place), box.high.gather(1, place)
    one = centre + deviation * draw_normal((low - centre) / deviation, (high - centre) / deviation, generator)
    one = torch.minimum(torch.maximum(one, low), high)
    x, seen = box.x.scatter(1, place, one), box.seen.scatter(1, place, True)
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    start = mean + (factor @ noise[..., None])[..., 0]
    return gaussian.completed(start, factor, x, seen, entry).scatter(1, place, one)
