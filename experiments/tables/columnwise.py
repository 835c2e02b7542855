"""The best model of each column by itself: what a table's columns are worth if nothing ties them together.

Numbers and dates may be normal, log-normal, gamma, exponential, Poisson, geometric, a mixture of normals, kernels, or a
list of the values that were seen, whichever the folds of the training cells say; categories are a list of values. A
number counts as the interval of the column's width around it: log(P(interval) / width), which is close to the
log-density where that hardly changes within the width. Missing cells are left out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import stats

from experiments.tables.baselines import best_by_folds, narrowest, spread
from experiments.tables.cells import numbers

LogDensity = Callable[[np.ndarray], np.ndarray]
# Rows that each value seen, and all others together, begin with.
PSEUDOCOUNT = 0.5
# Of kernels, in standard deviations of the column.
BANDWIDTHS = (0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5)
# Of an interval, so that an outlier's logarithm is a number.
LEAST = 1e-300


def values_seen(cells: np.ndarray, width: float | None = None) -> LogDensity:
    """Probabilities of the values seen in training; all others share one, numbers by the steps between least and most.

    Args:
        cells: numbers or text.
        width: of numbers; None for text.
    """
    values, counts = np.unique(cells, return_counts=True)
    total = len(cells) + PSEUDOCOUNT * (len(values) + 1)
    log_share = dict(zip(values.tolist(), np.log((counts + PSEUDOCOUNT) / total), strict=True))
    others = 1 if width is None else max(1, round((values[-1] - values[0]) / width) + 1 - len(values))
    other = np.log(PSEUDOCOUNT / total / others)
    return lambda x: np.array([log_share.get(value, other) for value in x.tolist()]) - np.log(width or 1.0)


def interval(distribution: Any, width: float) -> LogDensity:
    """log(P(x - width / 2 < X < x + width / 2) / width) of a SciPy distribution, from the nearer tail."""

    def log_density(x: np.ndarray) -> np.ndarray:
        low, high = x - width / 2, x + width / 2
        lower = distribution.cdf(high) - distribution.cdf(low)
        upper = distribution.sf(low) - distribution.sf(high)
        return np.log(np.maximum(np.where(x < distribution.median(), lower, upper), LEAST)) - np.log(width)

    return log_density


def _normal(cells: np.ndarray, width: float) -> LogDensity:
    return interval(stats.norm(cells.mean(), max(cells.std(), narrowest(width))), width)


def _log_normal(cells: np.ndarray, width: float) -> LogDensity:
    _require(cells.min() > 0)
    log = np.log(cells)
    return interval(stats.lognorm(s=max(log.std(), 1e-3), scale=np.exp(log.mean())), width)


def _gamma(cells: np.ndarray, width: float) -> LogDensity:
    _require(cells.min() > 0 and cells.std() > 0)
    shape, _, scale = stats.gamma.fit(cells, floc=0)
    return interval(stats.gamma(shape, scale=scale), width)


def _exponential(cells: np.ndarray, width: float) -> LogDensity:
    _require(cells.min() >= 0 and cells.mean() > 0)
    return interval(stats.expon(scale=cells.mean()), width)


def _poisson(cells: np.ndarray, width: float) -> LogDensity:
    _require_counts(cells)
    return partial(stats.poisson.logpmf, mu=cells.mean())  # of whole numbers: a density over widths of 1


def _geometric(cells: np.ndarray, width: float) -> LogDensity:
    _require_counts(cells)
    return partial(stats.geom.logpmf, p=1 / (1 + cells.mean()), loc=-1)


def _mixture(components: int, cells: np.ndarray, width: float) -> LogDensity:
    from sklearn.mixture import GaussianMixture

    center, scale = cells.mean(), spread(cells)
    model = GaussianMixture(components, reg_covar=1e-6, random_state=0).fit((cells[:, None] - center) / scale)
    deviations = np.maximum(np.sqrt(model.covariances_.ravel()) * scale, narrowest(width))
    return _normals(model.weights_, model.means_.ravel() * scale + center, deviations, width)


def _kernels(bandwidth: float, cells: np.ndarray, width: float) -> LogDensity:
    values, counts = np.unique(cells, return_counts=True)
    return _normals(counts / len(cells), values, max(bandwidth * spread(cells), narrowest(width)), width)


def _normals(weights: np.ndarray, means: np.ndarray, deviations: Any, width: float) -> LogDensity:
    def log_density(x: np.ndarray) -> np.ndarray:
        z = np.abs(x[:, None] - means)  # the tail on the far side of the mean keeps its digits
        shares = stats.norm.sf((z - width / 2) / deviations) - stats.norm.sf((z + width / 2) / deviations)
        return np.log(np.maximum(shares @ weights, LEAST)) - np.log(width)

    return log_density


def _require(fits: Any) -> None:
    if not fits:
        raise ValueError("the family does not have these values")


def _require_counts(cells: np.ndarray) -> None:
    _require(cells.min() >= 0 and cells.mean() > 0 and (cells == np.round(cells)).all())


NUMBERS = {
    "normal": _normal,
    "log-normal": _log_normal,
    "gamma": _gamma,
    "exponential": _exponential,
    "Poisson": _poisson,
    "geometric": _geometric,
    **{f"{k} normals": partial(_mixture, k) for k in (2, 3, 5)},
    **{f"kernels of {h}": partial(_kernels, h) for h in BANDWIDTHS},
    "values seen": values_seen,
}


def cells_of(column: Any) -> np.ndarray:
    """The cells of a column that are there: text, or numbers, dates in days."""
    if column.dtype.kind not in "iufM":
        return np.array(column.dropna().astype(str))
    cells = numbers(column)
    return cells[np.isfinite(cells)]


def best_model(column: Any, width: float | None) -> tuple[str, LogDensity]:
    """The name and the log-density of the model that the folds of the training cells prefer."""
    cells = cells_of(column)
    if width is None:
        return "values seen", values_seen(cells)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mixtures of few different values
        name = best_by_folds(NUMBERS, lambda part, name: NUMBERS[name](part, width), cells)
        return name, NUMBERS[name](cells, width)
