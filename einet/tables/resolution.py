"""What the values of a column tell of their units: constants, a robust scale, and the smallest difference that counts.

Source: not in the paper
"""

from __future__ import annotations

import numpy as np

# A column is constant if its values differ by no more than this many units in the last place. More is not rounding:
# times in seconds since 1970 that differ by a microsecond differ by 4.
MAX_ROUNDING_ULPS = 3
# Quantiles whose distance is a column's unit, the first that differ, and that of a standard normal density.
SPREADS = ((0.25, 0.75, 1.349), (0.1, 0.9, 2.563), (0.02, 0.98, 4.107))
# Which of the differences of neighbours is the resolution, and the smallest standard deviation in it: that of a normal
# density whose largest value is 1 / resolution.
NEIGHBOURS_QUANTILE, DEVIATIONS_PER_STEP = 0.25, 0.4
# Values that differ by less than this part of the column's unit are as good as one.
SMALLEST_LENGTH = 1e-3
# So many decimals may a grid have.
MAX_DECIMALS = 6
# A few cells are finer than all others: this share of them says how long a step is beside other columns.
MOST_ON_GRID = 0.9
# Larger numbers have no digit left for a whole one.
MAX_WHOLE = 2.0**53
# A cell is isolated if it is this many times as far from the median as the next one is, or as the column's unit is
# wide; no more than these, and this share of them, are.
ISOLATION, MAX_ISOLATED, MAX_ISOLATED_SHARE = 10, 5, 0.02


def is_close(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether numbers differ by rounding alone, in units in the last place: the resolution of floats in any unit."""
    with np.errstate(over="ignore"):
        return np.abs(a - b) <= MAX_ROUNDING_ULPS * np.spacing(np.maximum(np.abs(a), np.abs(b)))


def is_constant(column: np.ndarray) -> bool:
    return bool(is_close(column.min(), column.max()))


def center_and_scale(column: np.ndarray) -> tuple[float, float]:
    """The median, and the standard deviation of a normal density whose middle half is as wide as that of the values.

    No few cells move them. Where half of the values are one, wider quantiles serve, and at last all values.
    """
    _, exponent = np.frexp(np.abs(column).max())
    scaled = np.ldexp(column, -exponent)  # so that no difference is infinite, nor a square 0
    center = np.quantile(scaled, 0.5)
    spread = 0.0
    for low, high, deviations in SPREADS:
        first, last = np.quantile(scaled, [low, high])
        if not is_close(first, last):
            spread = (last - first) / deviations
            break
    center, spread = np.ldexp([center, spread or scaled.std()], exponent)
    return float(center), float(max(spread, np.spacing(0.0)))


def resolution(column: np.ndarray, quantile: float = NEIGHBOURS_QUANTILE) -> float:
    """The difference of neighbouring values, which a quarter of them does not exceed; 0 for less than two values.

    Of values that are rounded it is the step, and of others how close the rows lie where they are dense.
    """
    values = np.unique(column)
    with np.errstate(over="ignore"):
        differences = np.diff(values)
    differences = differences[~is_close(values[1:], values[:-1])]
    return float(np.quantile(differences, quantile)) if len(differences) else 0.0


def step_of(column: np.ndarray, share: float = 1.0) -> float:
    """The greatest length of a decimal grid on which this share of the cells lies; 0 if MAX_DECIMALS show none.

    Degrees that were Fahrenheit have a step of a tenth, though no two of them are so close.
    """
    values, counts = np.unique(column, return_counts=True)
    for decimals in range(MAX_DECIMALS + 1):
        scaled = values * 10.0**decimals
        whole, largest = np.round(scaled), np.abs(scaled).max()
        on_grid = np.abs(scaled - whole) <= 1e-9 * (1 + largest)
        if largest < MAX_WHOLE and on_grid.sum() > 1 and counts[on_grid].sum() >= share * len(column):
            return float(np.gcd.reduce(np.diff(whole[on_grid]).astype(np.int64))) / 10**decimals
    return 0.0


def comparable_length(column: np.ndarray, share: float = 1.0) -> float:
    """How closely this share of cells is told apart: a step, or a thousandth of the column's unit if that is longer."""
    return max(step_of(column, share) or resolution(column, 0.0), SMALLEST_LENGTH * center_and_scale(column)[1])


def isolated(column: np.ndarray) -> np.ndarray:
    """The few values that lie farther out than all others by an order of magnitude, such as errors and codes."""
    center, scale = center_and_scale(column)
    values = np.unique(column)
    far = np.abs(values / scale - center / scale)
    order = np.argsort(far)
    values, far = values[order], far[order]
    most = max(1, min(MAX_ISOLATED, int(MAX_ISOLATED_SHARE * len(column))))
    first = max(1, len(values) - most)
    jumps = far[first:] > ISOLATION * np.maximum(far[first - 1 : -1], 1)
    return np.sort(values[first + int(jumps.argmax()) :]) if jumps.any() else values[:0]
