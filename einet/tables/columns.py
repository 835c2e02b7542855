"""The columns of a table as variables of a network, and back: rows behind the scikit-learn interface.

    columns = Columns(X)                       which family suits each column, from its values in training
    z, seen, offset = columns.encode(X)        model(z, seen) + offset = log p(x), in the units of the table
    columns.decode(z)                          rows of the table again

Source: not in the paper
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, cast

import numpy as np
import torch
from sklearn.utils import check_array
from torch import Tensor

from einet.families.continuous import Normal
from einet.families.discrete import Bernoulli, Categorical
from einet.family import ExponentialFamily
from einet.leaves import LeafLayer
from einet.tables.cells import floats, names_of

# leaf="auto": the smallest variance of a standardised column, and the columns of integers that are categories.
MIN_VARIANCE = 0.01
MAX_CATEGORIES, ROWS_PER_CATEGORY = 10, 5
# The probability that a column of categories, or a constant, holds a value that was not in the training data.
UNSEEN_PROBABILITY = 1e-5
# A column is constant if its values differ by no more than this many units in the last place. More is not rounding:
# times in seconds since 1970 that differ by a microsecond differ by 4.
MAX_ROUNDING_ULPS = 3
# The share of a column's leaf entries at their smallest variance above which the bound, not the data, sets the widths.
MAX_SHARE_AT_FLOOR = 2 / 3
# The variance of a standardised column from which an entry is as wide as its column, as entries are that no row uses.
UNUSED_VARIANCE = 0.9


class TableWarning(UserWarning):
    """A column of the training data whose cells will be blurred: by outliers, or by the bound on variances.

    Source: not in the paper
    """


class Columns:
    """How the columns of a table become variables of a network, and back.

    Args:
        X: the training data, (B, D).
        leaf: as in `EinetDensity`.
        names: of the columns, if they have any.

    Attributes:
        families: {family: columns}, for `Einet`.
        discrete: the columns of families with finitely many values.
        values: for each column the values that its categories 0, 1, ... stand for; None where it has none.
        constant: columns of one value but for rounding; `values` has the most frequent.
        center: (D,), of z = (x - center) / scale; 0 but for columns of families that may be shifted and scaled.
        scale: (D,), 1 but for these.

    Raises:
        ValueError: a column has no value; `leaf` is no family, or names a column that X does not have.

    Warns:
        TableWarning: a column has outliers so large that the bulk of its values is narrower than the narrowest leaf.

    Source: not in the paper
    """

    def __init__(
        self,
        X: np.ndarray,
        leaf: str | ExponentialFamily | dict[ExponentialFamily, Any] = "auto",
        names: Sequence[str] | None = None,
    ):
        self.names = None if names is None else list(names)
        known = [column[~np.isnan(column)] for column in X.T]
        for d, column in enumerate(known):
            if not len(column):
                raise ValueError(f"{self._label(d)} has no value in training")
        self.families = {}
        for family, own in self._given_families(leaf, len(known)).items():
            # No density has variance 0, so a constant is a category. It would be blurred, in whatever unit it is.
            left = [d for d in own if not (family.location_scale and _is_constant(known[d]))]
            if left or not own:
                self.families[family] = left
        named = {d for own in self.families.values() for d in own}
        self.values = [None if d in named else _categories(column) for d, column in enumerate(known)]
        for d in sorted(set(range(len(known))) - named):
            self.families.setdefault(_family(self.values[d]), []).append(d)
        self.constant = [d for d, values in enumerate(self.values) if values is not None and len(values) == 1]
        self.discrete = sorted(d for family, own in self.families.items() if family.num_values for d in own)
        self.center, self.scale, self._blurred = np.zeros(len(known)), np.ones(len(known)), set()
        for family, own in self.families.items():
            for d in own if family.location_scale else ():
                self.center[d], self.scale[d] = _center_and_spread(known[d])
                self._warn_of_outliers(d, known[d], family)

    def encode(self, X: Any) -> tuple[Tensor, Tensor, Tensor]:
        """A table as rows for the network.

        Missing in the rows, as NaN, are three kinds of cells: gaps, values of a category that were not in the training
        data, and those of a constant column, about which there is nothing to ask.

        Args:
            X: a table as the estimator's methods take it: an array, a DataFrame with the columns of the training data,
                or rows as lists. `cells.floats` says what is missing.

        Returns:
            Rows (B, D), what is observed of them (B, D), and the offset of their log-density (B,): log |dz/dx|, and the
            log probabilities that columns of categories, or constants, hold a value seen before, or not.

        Raises:
            ValueError: other columns; or text, an infinity or a value outside its family, with its column.
        """
        z, observed, offset = self.encode_cells(X)
        return z, observed, offset.sum(1)

    def encode_cells(self, X: Any) -> tuple[Tensor, Tensor, Tensor]:
        """`encode`, with the offset of each cell by itself (B, D)."""
        X = self._checked_array(X)
        observed = ~np.isnan(X)
        with np.errstate(over="ignore"):  # the family refuses infinities
            z = (X - self.center) / self.scale
        offset = -(observed * np.log(self.scale))
        for d, values in enumerate(self.values):
            if values is None:
                continue
            place = np.searchsorted(values, X[:, d]).clip(max=len(values) - 1)
            seen = _is_close(values[place], X[:, d]) if len(values) == 1 else values[place] == X[:, d]
            offset[:, d] += np.where(
                observed[:, d], np.where(seen, math.log1p(-UNSEEN_PROBABILITY), math.log(UNSEEN_PROBABILITY)), 0.0
            )
            observed[:, d] = seen & (len(values) > 1)
            z[:, d] = np.where(observed[:, d], place, np.nan)
        z, observed, offset = map(torch.as_tensor, (z, observed, offset))
        for family, own in self.families.items():
            self._check_support(family, own, z, observed)
        return z, observed, offset

    def decode(self, z: Tensor | np.ndarray) -> np.ndarray:
        """The network's rows (..., D), such as samples, in the units of the table. NaN stays NaN.

        Raises:
            ValueError: z has another width; or a mean of categories, which is none of them. `predict_missing` gives the
                most probable one.
        """
        z = torch.as_tensor(z).detach().cpu().numpy()
        if z.shape[-1:] != self.center.shape:
            raise ValueError(f"z must have {len(self.center)} columns, as the network's rows do, got {z.shape}")
        X = z * self.scale + self.center
        for d, values in enumerate(self.values):
            if values is not None:
                self._check_codes(d, z[..., d])
                place = np.nan_to_num(z[..., d]).astype(int).clip(max=len(values) - 1)
                X[..., d] = np.where(np.isnan(z[..., d]), np.nan, values[place])
        return X

    def _check_codes(self, d: int, codes: np.ndarray) -> None:
        wrong = codes[codes != np.floor(codes)]
        wrong = wrong[~np.isnan(wrong)]
        if len(wrong):
            raise ValueError(f"{self._label(d)} has categories 0, 1, ... in the network's rows, got {wrong[0]:g}")

    def _warn_of_outliers(self, d: int, column: np.ndarray, family: ExponentialFamily) -> None:
        bulk, narrowest = _bulk_deviation(column), _min_deviation(family) * self.scale[d]
        if bulk < narrowest:
            self._blurred.add(d)
            furthest = column[np.abs(column - np.median(column)).argmax()]
            problem = (
                f"{self._label(d)} has cells as far off as {furthest:g}, which set its unit: no leaf is narrower than "
                f"a standard deviation of {narrowest:.3g}, and most cells differ by {bulk:.3g}, so all are blurred. "
                "If the far ones are errors, or stand for missing cells, make them NaN. If not, lower the bound"
            )
            self._warn(problem, d, family, bulk / self.scale[d])

    def warn_of_floor(self, leaves: LeafLayer) -> None:
        """Warn of each column most of whose leaf entries, after training, are as narrow as allowed."""
        for part in leaves.parts:
            if not part.family.location_scale:
                continue
            narrowest = _min_deviation(part.family)
            variance = part.family.variance(part.phi.detach())  # (P, C, K), of standardised columns
            used = variance < UNUSED_VARIANCE
            narrow = variance <= 1.2 * narrowest**2  # shrinkage keeps them off the bound itself
            for d in part.variables.tolist():
                pairs = part.pairs == d
                share = (narrow[pairs].sum() / used[pairs].sum().clamp_min(1)).item()
                if share > MAX_SHARE_AT_FLOOR and d not in self._blurred:
                    problem = (
                        f"{share:.0%} of the leaf entries of {self._label(d)} are as narrow as allowed, a standard "
                        f"deviation of {narrowest * self.scale[d]:.3g}: given the other columns it may be known better "
                        "than the density says. If so, lower the bound"
                    )
                    self._warn(problem, d, part.family, narrowest)

    def _warn(self, problem: str, d: int, family: ExponentialFamily, spread: float) -> None:
        """A warning that shows how to allow leaves of a tenth of `spread`, in standardised units."""
        name = d if self.names is None else self.names[d]
        bound = f"leaf={{einet.{type(family).__name__}(min_variance={(spread / 10) ** 2:.1g}): [{name!r}]}}"
        warnings.warn(f"{problem}, as in {bound}", TableWarning, stacklevel=2)

    def _given_families(self, leaf: Any, num_columns: int) -> dict[ExponentialFamily, list[int]]:
        """The families that `leaf` names, with columns as numbers."""
        if isinstance(leaf, str) and leaf == "auto":
            return {}
        if isinstance(leaf, ExponentialFamily):
            return {leaf: list(range(num_columns))}
        if not isinstance(leaf, dict) or not all(isinstance(family, ExponentialFamily) for family in leaf):
            raise ValueError(f'leaf must be "auto", an ExponentialFamily or a dict of them, got {leaf!r}')
        own = {f: c if isinstance(c, Iterable) and not isinstance(c, str) else [c] for f, c in leaf.items()}
        return {family: [self._number(column, num_columns) for column in columns] for family, columns in own.items()}

    def _number(self, column: str | int, num_columns: int) -> int:
        if isinstance(column, Integral) and 0 <= int(column) < num_columns:
            return int(column)
        if self.names is not None and column in self.names:
            return self.names.index(cast(str, column))
        known = f"0 to {num_columns - 1}" + ("" if self.names is None else f", or {self.names}")
        raise ValueError(f"leaf must name columns of X, which are {known}, got {column!r}")

    def _label(self, d: int) -> str:
        return f"column {d if self.names is None else repr(self.names[d])}"

    def _checked_array(self, X: Any) -> np.ndarray:
        """A table as an array of floats."""
        for name, given in zip(self.names or (), names_of(X) or (), strict=False):
            if name != given:
                raise ValueError(f"the columns must be those of the training data: {name!r} is expected, got {given!r}")
        X = check_array(floats(X), dtype="float64", ensure_all_finite=cast(bool, "allow-nan"))
        if X.shape[1] != len(self.values):
            raise ValueError(f"X must have the {len(self.values)} columns of the training data, got {X.shape[1]}")
        return X

    def _check_support(self, family: ExponentialFamily, own: list[int], z: Tensor, observed: Tensor) -> None:
        """As the network would, but with the name of the first wrong column."""
        try:
            family.check(z[:, own][observed[:, own]])
        except ValueError as error:
            if len(own) == 1:
                raise ValueError(f"{self._label(own[0])}: {error}") from None
            for d in own:
                self._check_support(family, [d], z, observed)


def _categories(column: np.ndarray) -> np.ndarray | None:
    """The sorted values of a column of categories, the one of a constant; None for a column of numbers."""
    values, counts = np.unique(column, return_counts=True)
    if _is_constant(values):
        return values[[counts.argmax()]]
    few = len(values) <= min(MAX_CATEGORIES, max(2, len(column) // ROWS_PER_CATEGORY))
    return values if few and (values == np.round(values)).all() else None


def _family(values: np.ndarray | None) -> ExponentialFamily:
    if values is None:
        return Normal(min_variance=MIN_VARIANCE)
    return Bernoulli() if len(values) <= 2 else Categorical(categories=len(values))


def _is_close(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether numbers differ by rounding alone, in units in the last place: the resolution of floats in any unit."""
    with np.errstate(over="ignore"):
        return np.abs(a - b) <= MAX_ROUNDING_ULPS * np.spacing(np.maximum(np.abs(a), np.abs(b)))


def _is_constant(column: np.ndarray) -> bool:
    return bool(_is_close(column.min(), column.max()))


def _center_and_spread(column: np.ndarray) -> tuple[float, float]:
    """The mean and the standard deviation, scaled by a power of 2 so that no square is infinite or 0."""
    _, exponent = np.frexp(np.abs(column).max())
    scaled = np.ldexp(column, -exponent)
    center, spread = np.ldexp([scaled.mean(), scaled.std()], exponent)
    return center, max(spread, np.spacing(0.0))


def _bulk_deviation(column: np.ndarray) -> float:
    """The standard deviation of a normal density whose middle half is as wide as that of the values.

    Where half of them are one value, such as 0, the middle half of the others and this value count.
    """
    low, middle, high = np.quantile(column, [0.25, 0.5, 0.75])
    if (column == middle).mean() >= 0.5:
        low, high = np.quantile(column[column != middle], [0.25, 0.75])
        low, high = min(low, middle), max(high, middle)
    return (high - low) / 1.349


def _min_deviation(family: ExponentialFamily) -> float:
    """The smallest standard deviation of a leaf: that of parameters 0 after `project`."""
    nothing = torch.zeros(family.num_statistics, 1, dtype=torch.float64)
    return family.variance(family.project(nothing)).sqrt().item()
