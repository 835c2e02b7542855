"""Probabilities of intervals and draws from them: what the distribution functions of families are made of.

All in float64 and in logarithms, so that both tails keep their digits: a difference of two distribution functions is
taken on the side where they are small, and of a narrow interval the density is integrated instead.

Source: not in the paper
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Nodes and weights of the Gauss-Legendre rule of 8 points on [-1, 1], which both are symmetric.
NODES = (0.1834346424956498, 0.5255324099163290, 0.7966664774136267, 0.9602898564975363)
WEIGHTS = (0.3626837833783620, 0.3137066458778873, 0.2223810344533745, 0.1012285362903763)
# Below this probability digits are lost, or the number: the smallest double of full precision is 2e-308.
DEEP = 1e-280
LARGEST = torch.finfo(torch.float64).max


# Differences and sums


def log_difference(larger: Tensor, smaller: Tensor) -> Tensor:
    """log(e^larger - e^smaller); -inf where there is no difference."""
    return torch.where(larger > smaller, larger + torch.log(-torch.expm1(smaller - larger)), -math.inf)


def log_between(below: tuple[Tensor, Tensor], above: tuple[Tensor, Tensor]) -> Tensor:
    """log P(low <= x <= high), from log P(x < .) and log P(x > .) at both ends, (low, high) each.

    Both differences are the same number: the one of smaller terms has lost fewer digits.
    """
    left = below[1] < above[0]
    larger, smaller = torch.where(left, below[1], above[0]), torch.where(left, below[0], above[1])
    return log_difference(larger, smaller)


def log_narrow(log_density: Callable[[Tensor], Tensor], low: Tensor, width: Tensor) -> Tensor:
    """log of the integral of a density from `low` over a width on which it changes by a small factor."""
    half = 0.5 * width
    terms = [
        log_density(low + half * (1 + side * node)) + math.log(weight)
        for node, weight in zip(NODES, WEIGHTS, strict=True)
        for side in (-1, 1)
    ]
    return torch.logsumexp(torch.stack(terms), 0) + torch.log(half)


def log_total(log_probabilities: Tensor, allowed: Tensor) -> Tensor:
    """log of the sum over the values v that are allowed: log P(v) (V, ..., K) and a mask (V, ..., B) -> (..., K, B)."""
    peak = log_probabilities.amax(0)
    total = torch.exp(log_probabilities - peak).movedim(0, -1) @ allowed.movedim(0, -2).to(peak.dtype)
    result = torch.log(total) + peak[..., None]
    lost = (total < DEEP) & allowed.any(0)[..., None, :]
    if lost.any():  # all that is allowed is far below the likeliest value
        *place, entry, row = lost.nonzero(as_tuple=True)
        terms = torch.where(
            allowed[(slice(None), *place, row)], log_probabilities[(slice(None), *place, entry)], -math.inf
        )
        result[lost] = torch.logsumexp(terms, 0)
    return result


# Distribution functions


def log_normal_between(low: Tensor, high: Tensor, width: Tensor) -> Tensor:
    """log P(low <= z <= high) of a standard normal z; the width is high - low, which these may have rounded away."""
    log_cdf = torch.special.log_ndtr
    wide = log_between((log_cdf(low), log_cdf(high)), (log_cdf(-low), log_cdf(-high)))
    narrow = (width * (1 + low.abs() + high.abs()) < 1) & (width > 0)
    if not narrow.any():
        return wide
    return torch.where(narrow, log_narrow(lambda z: -0.5 * (z * z + math.log(2 * math.pi)), low, width), wide)


def log_gamma_between(shape: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """log P(low <= t <= high) of a gamma density of scale 1, 0 <= low."""
    shape, low, high = torch.broadcast_tensors(shape, low, high)
    below, above = (
        [log_gamma_below(shape, end) for end in (low, high)],
        [log_gamma_above(shape, end) for end in (low, high)],
    )
    wide = log_between((below[0], below[1]), (above[0], above[1]))
    width = high - low
    narrow = width * (1 + ((shape - 1).abs() + 2) / low) < 1
    if not narrow.any():
        return wide
    density = log_narrow(lambda t: (shape - 1) * torch.log(t) - t - torch.lgamma(shape), low, width)
    return torch.where(narrow, density, wide)


def log_gamma_below(shape: Tensor, t: Tensor) -> Tensor:
    """The logarithm of the regularised lower incomplete gamma function, also where it underflows."""
    probability = torch.special.gammainc(shape, t)
    deep = (probability < DEEP) & (t > 0) & torch.isfinite(shape)
    return _with_tail(torch.log(probability), deep, _series, shape, t)


def log_gamma_above(shape: Tensor, t: Tensor) -> Tensor:
    """The logarithm of the regularised upper incomplete gamma function, also where it underflows."""
    probability = torch.special.gammaincc(shape, t)
    deep = (probability < DEEP) & torch.isfinite(t) & (shape > 0)
    return _with_tail(torch.log(probability), deep, _fraction, shape, t)


def _with_tail(log_probability: Tensor, deep: Tensor, factor: Callable, shape: Tensor, t: Tensor) -> Tensor:
    """The tail is t^shape e^-t / Gamma(shape) times a factor of moderate size."""
    if not deep.any():
        return log_probability
    s, t = (tensor.expand_as(deep)[deep] for tensor in (shape, t))
    log_probability = log_probability.clone()
    log_probability[deep] = s * torch.log(t) - t - torch.lgamma(s) + torch.log(factor(s, t))
    return log_probability


def _series(shape: Tensor, t: Tensor) -> Tensor:
    """1 / s + t / (s (s + 1)) + ..., for t far below the shape s."""
    term = 1 / shape
    total, n = term, 0
    while (term > 1e-17 * total).any():
        n += 1
        term = term * (t / (shape + n))
        total = total + term
    return total


def _fraction(shape: Tensor, t: Tensor) -> Tensor:
    """1 / (t + 1 - s - (1 - s) / (t + 3 - s - 2 (2 - s) / (t + 5 - s - ...))), for t far above the shape s.

    By the modified algorithm of Lentz, whose steps approach 1.

    Source: not in the paper; Press et al., "Numerical Recipes", Section 6.2
    """
    b = t + 1 - shape
    c, d = torch.full_like(b, math.inf), 1 / b
    result, n, step = d, 0, b
    while ((step - 1).abs() > 1e-15).any() and n < 10_000:
        n += 1
        a, b = n * (shape - n), b + 2
        c, d = b + a / c, 1 / (b + a * d)
        step = c * d
        result = result * step
    return result


# Draws, and the inverses of distribution functions


def uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Within (0, 1], so that its logarithm is finite."""
    return 1 - torch.rand(like.shape, generator=generator, dtype=torch.float64, device=like.device)


def draw_among(log_probabilities: Tensor, allowed: Tensor, generator: torch.Generator | None) -> Tensor:
    """A value v for each place of log P(v) (V, ...), among those allowed (V, ...), of which there is one at least."""
    terms = torch.where(allowed, log_probabilities, -math.inf)
    cumulative = torch.softmax(terms, 0).cumsum(0)
    below = cumulative < uniform(cumulative[0], generator) * cumulative[-1]
    # Rounding aside, the first value whose cumulative probability is reached is allowed.
    return below.sum(0).to(log_probabilities.dtype)


def draw_normal(low: Tensor, high: Tensor, generator: torch.Generator | None) -> Tensor:
    """A standard normal number within [low, high], by an inverse distribution function, that of the nearer tail."""
    mirrored = low > -high
    left, right = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    share = uniform(left, generator)
    first, last = torch.special.ndtr(left), torch.special.ndtr(right)
    z = torch.special.ndtri(first + share * (last - first))
    deep = last < DEEP
    if deep.any():
        left_, right_ = left[deep], right[deep]
        target = torch.log(share[deep]) + log_normal_between(left_, right_, right_ - left_)
        z[deep] = smallest(lambda at: log_normal_between(left_, at, at - left_) >= target, left_, right_)
    z = torch.minimum(torch.maximum(z, left), right)
    return torch.where(mirrored, -z, z)


def smallest(holds: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """The smallest finite doubles within [low, high] for which a condition holds, that holds from somewhere on.

    By bisection of the doubles themselves, which are as many between 1 and 2 as between 2 and 4: 64 halvings reach the
    last bit of any number, whatever its size. If it holds nowhere before `high`, the result is `high`.
    """
    low, high = _order(low.double().clamp(-LARGEST, LARGEST)), _order(high.double().clamp(-LARGEST, LARGEST))
    while (low < high).any():
        middle = (low & high) + ((low ^ high) >> 1)  # rounded down, without an overflow
        found = holds(_double(middle))
        low, high = torch.where(found, low, torch.minimum(middle + 1, high)), torch.where(found, middle, high)
    return _double(high)


def _order(x: Tensor) -> Tensor:
    """Integers that are ordered as the doubles x are, neighbours for neighbours."""
    bits = x.contiguous().view(torch.int64)
    return torch.where(bits < 0, torch.iinfo(torch.int64).min - bits, bits)


def _double(order: Tensor) -> Tensor:
    """The inverse of `_order`, which is its own."""
    return torch.where(order < 0, torch.iinfo(torch.int64).min - order, order).view(torch.float64)
