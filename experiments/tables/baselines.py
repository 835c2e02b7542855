"""Densities of reals to compare with: full-covariance Gaussian mixtures, kernels, and a Gaussian copula.

Each is a function of training rows (B, D) and of the widths of the columns (D,), which gives the log-density, in nats
and in the units of the rows, and what was chosen: by the log-likelihood of five folds of the training rows.

    density, chosen = gaussian_mixture(train, widths, seed)
    density(test)                                              (B,)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import log_ndtr, logsumexp, ndtri_exp

Density = Callable[[np.ndarray], np.ndarray]

FOLDS = 5
MAX_COMPONENTS = 10
# In variances of the columns. Nearly collinear columns like the first, scikit-learn's default; small tables the last.
REGULARIZERS = (1e-6, 1e-4, 1e-2)
# In standard deviations of the columns.
BANDWIDTHS = np.geomspace(0.03, 1.5, 16)
LOG_2PI = float(np.log(2 * np.pi))
# A copula of columns that nearly tell each other exactly: this share of independence keeps it invertible.
INDEPENDENCE = 1e-3
ROWS_PER_CHUNK = 500


def narrowest(widths: Any) -> Any:
    """The standard deviation of the normal whose peak is the uniform density over a width."""
    return widths / np.sqrt(2 * np.pi)


def folds(num_rows: int, num_folds: int = FOLDS) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Rows to train on and rows held out, `num_folds` times, each row held out once; one by one below `num_folds`."""
    part = np.random.default_rng(0).permutation(num_rows) % min(num_folds, num_rows)
    return [(np.flatnonzero(part != k), np.flatnonzero(part == k)) for k in range(part.max() + 1)]


def best_by_folds(options: Iterable[Any], make: Callable[[np.ndarray, Any], Density], rows: np.ndarray) -> Any:
    """The option whose densities, made without a fold, are largest on average on what was left out."""
    totals = {}
    for option in options:
        total = 0.0
        for train, held_out in folds(len(rows)):
            try:
                total += make(rows[train], option)(rows[held_out]).sum()
            except ValueError:  # more components than rows
                total = -np.inf
                break
        totals[option] = total if np.isfinite(total) else -np.inf
    return max(totals, key=lambda option: totals[option])


def spread(rows: np.ndarray) -> np.ndarray:
    """Standard deviations of the columns, 1 for a constant."""
    deviation = rows.std(0)
    return np.where(deviation > 0, deviation, 1.0)


# Gaussian mixture


def mixture_log_density(x: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """log of a mixture of normals with full covariances (K, D, D): (B,)."""
    parts = []
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        factor = np.linalg.cholesky(covariance)
        z = solve_triangular(factor, (x - mean).T, lower=True)
        log_volume = np.log(np.diag(factor)).sum()
        parts.append(np.log(weight) - 0.5 * (z**2).sum(0) - log_volume - 0.5 * x.shape[1] * LOG_2PI)
    return logsumexp(parts, axis=0)


def at_least(covariances: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Covariances (K, D, D) whose diagonals are raised to `variances` (D,); they stay positive definite."""
    raised = covariances.copy()
    diagonal = np.einsum("kdd->kd", raised)
    diagonal[:] = np.maximum(diagonal, variances)
    return raised


def fit_mixture(rows: np.ndarray, widths: np.ndarray, components: int, regularizer: float, seed: int, starts: int = 1):
    """scikit-learn's GaussianMixture on standardised columns, no normal narrower than the width of a column."""
    from sklearn.mixture import GaussianMixture

    center, scale = rows.mean(0), spread(rows)
    model = GaussianMixture(components, reg_covar=regularizer, n_init=starts, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # steps that ran out, in a fit that the folds judge anyhow
        model.fit((rows - center) / scale)
    covariances = at_least(model.covariances_, (narrowest(widths) / scale) ** 2)

    def density(x: np.ndarray) -> np.ndarray:
        standard = (x - center) / scale
        return mixture_log_density(standard, model.weights_, model.means_, covariances) - np.log(scale).sum()

    return density


def gaussian_mixture(rows: np.ndarray, widths: np.ndarray, seed: int, most: int = MAX_COMPONENTS):
    """Components by cross-validation, then the regularizer."""

    def fitted(components: int, regularizer: float, starts: int = 1):
        return lambda part, _: fit_mixture(part, widths, components, regularizer, seed, starts)

    counts = range(1, most + 1)
    components = best_by_folds(counts, lambda part, k: fitted(k, 1e-4)(part, None), rows)
    regularizer = best_by_folds(REGULARIZERS, lambda part, r: fitted(components, r)(part, None), rows)
    density = fitted(components, regularizer, starts=3)(rows, None)
    return density, {"components": components, "regularizer": regularizer}


# Kernels


def kernel_density(rows: np.ndarray, bandwidths: np.ndarray) -> Density:
    """Normal kernels around the rows, of one standard deviation a column, `bandwidths` (D,)."""

    def density(x: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(x), ROWS_PER_CHUNK):
            z = (x[start : start + ROWS_PER_CHUNK, None] - rows) / bandwidths
            found.append(logsumexp(-0.5 * (z**2).sum(2), axis=1))
        constant = np.log(bandwidths).sum() + 0.5 * rows.shape[1] * LOG_2PI + np.log(len(rows))
        return np.concatenate(found) - constant

    return density


def kernels(rows: np.ndarray, widths: np.ndarray, seed: int = 0):
    """One bandwidth for all columns, in standard deviations, by cross-validation, no kernel narrower than a width."""

    def made(part: np.ndarray, bandwidth: float) -> Density:
        return kernel_density(part, np.maximum(bandwidth * spread(part), narrowest(widths)))

    bandwidth = best_by_folds(BANDWIDTHS, made, rows)
    return made(rows, bandwidth), {"bandwidth": round(float(bandwidth), 4)}


# Gaussian copula


class KernelMarginal:
    """A density of one column, its distribution function, and that as a standard normal's quantile.

    Kernels, and for one row more the normal of the column, so that a value far outside has a tail that it can be in.
    """

    def __init__(self, values: np.ndarray, width: float):
        rows = values[:, None]
        bandwidth = max(kernels(rows, np.array([width]))[1]["bandwidth"] * spread(rows)[0], narrowest(width))
        self.means = np.append(values, values.mean())
        self.deviations = np.append(np.full(len(values), bandwidth), spread(rows)[0])

    def log_density(self, x: np.ndarray) -> np.ndarray:
        z = (x[:, None] - self.means) / self.deviations
        return logsumexp(-0.5 * z**2 - np.log(self.deviations), axis=1) - 0.5 * LOG_2PI - np.log(len(self.means))

    def normal_score(self, x: np.ndarray) -> np.ndarray:
        """The z whose standard normal probability is the share below x; from the nearer tail, to keep its digits."""
        z = (x[:, None] - self.means) / self.deviations
        below, above = (logsumexp(log_ndtr(sign * z), axis=1) - np.log(len(self.means)) for sign in (1, -1))
        return np.where(below < above, ndtri_exp(below), -ndtri_exp(above))


def copula_log_density(scores: np.ndarray, marginals: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """log c(u) + sum_d log f_d(x_d), from normal scores (B, D) and log-densities of the columns (B, D)."""
    factor = np.linalg.cholesky(correlation)
    z = solve_triangular(factor, scores.T, lower=True)
    copula = 0.5 * (scores**2).sum(1) - 0.5 * (z**2).sum(0) - np.log(np.diag(factor)).sum()
    return copula + marginals.sum(1)


def gaussian_copula(rows: np.ndarray, widths: np.ndarray, seed: int = 0):
    """Kernel marginals, tied by the correlation of their normal scores."""
    columns = [KernelMarginal(rows[:, d], widths[d]) for d in range(rows.shape[1])]
    scores = _together(columns, rows, "normal_score")
    correlation = np.corrcoef(scores, rowvar=False).reshape(len(columns), -1)
    correlation = (1 - INDEPENDENCE) * correlation + INDEPENDENCE * np.eye(len(columns))

    def density(x: np.ndarray) -> np.ndarray:
        return copula_log_density(
            _together(columns, x, "normal_score"), _together(columns, x, "log_density"), correlation
        )

    return density, {}


def _together(columns: list[KernelMarginal], rows: np.ndarray, what: str) -> np.ndarray:
    return np.stack([getattr(column, what)(rows[:, d]) for d, column in enumerate(columns)], 1)


REALS = {"gaussian mixture": gaussian_mixture, "kernels": kernels, "gaussian copula": gaussian_copula}
