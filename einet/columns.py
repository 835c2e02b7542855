"""The columns of a table as variables of a network, and back: what the scikit-learn face does to rows.

    columns = Columns(X)                       which family suits each column, from its values in training
    z, seen, offset = columns.encode(X)        model(z, seen) + offset = log p(x), in the units of the table
    columns.decode(z)                          rows of the table again

Paper: not in it
Chapter: book/12_queries
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from sklearn.utils import check_array
from torch import Tensor

from einet.exponential_family import ExponentialFamily
from einet.families import Bernoulli, Categorical, Normal

# leaf="auto": the smallest variance of a standardised column, and when a column of integers is one of categories.
MIN_VARIANCE = 0.01
MOST_CATEGORIES, ROWS_PER_CATEGORY = 10, 5
# The probability that a column of categories holds a value that was not in the training data.
UNSEEN = 1e-5


class Columns:
    """How the columns of a table become variables of a network, and back; made from the training data X (B, D).

    families   {family: columns}, for `Einet`
    discrete   the columns of all families but Normal
    values     for each column, the values that its categories 0, 1, ... stand for; None where it has none
    constant   columns of integers that are one and the same
    center, scale   (D,): z = (x - center) / scale; 0 and 1 but for Normal columns

    `leaf` is that of `EinetDensity`, and `names` are those of the columns, if they have any. `ValueError` for a column
    without a value, and for a leaf that is no family or names a column that X does not have.

    Paper: not in it
    Chapter: book/12_queries
    """

    def __init__(
        self,
        X: np.ndarray,
        leaf: str | ExponentialFamily | dict = "auto",
        names: Sequence[str] | None = None,
    ):
        self.names = None if names is None else list(names)
        known = [column[~np.isnan(column)] for column in X.T]
        for d, column in enumerate(known):
            if not len(column):
                raise ValueError(f"{self._called(d)} has no value in training")
        self.families = self._chosen(leaf, len(known))
        named = {d for own in self.families.values() for d in own}
        self.values = [None if d in named else _categories(column) for d, column in enumerate(known)]
        for d in sorted(set(range(len(known))) - named):
            self.families.setdefault(_family(self.values[d]), []).append(d)
        self.constant = [d for d, values in enumerate(self.values) if values is not None and len(values) == 1]
        normal = [d for family, own in self.families.items() if isinstance(family, Normal) for d in own]
        self.discrete = [d for d in range(len(known)) if d not in normal]
        self.center, self.scale = np.zeros(len(known)), np.ones(len(known))
        for d in normal:
            self.center[d], self.scale[d] = known[d].mean(), _spread(known[d])

    def encode(self, X) -> tuple[Tensor, Tensor, Tensor]:
        """Rows for the network (B, D), what is observed of them (B, D), and what to add to their log-density (B,).

        X is a table as the estimator's own methods take it: an array, a DataFrame with the columns of the training
        data, or rows as lists; NaN is missing. What is not observed is NaN in the network's rows, too: a gap, a value
        of a category that was not in the training data, and a constant column of integers, about which there is nothing
        to ask.
        What to add is log |dz/dx|, and the logarithms of the probabilities that columns of categories hold a value
        seen before, or not.

        `ValueError` for other columns, text and infinities, and, with the column, for a value outside its family.
        """
        X = self._checked(X)
        observed = ~np.isnan(X)
        z = (X - self.center) / self.scale
        offset = -(observed * np.log(self.scale)).sum(1)
        for d, values in enumerate(self.values):
            if values is None:
                continue
            place = np.searchsorted(values, X[:, d]).clip(max=len(values) - 1)
            seen = values[place] == X[:, d]
            offset += np.where(observed[:, d], np.where(seen, math.log1p(-UNSEEN), math.log(UNSEEN)), 0.0)
            observed[:, d] = seen & (len(values) > 1)
            z[:, d] = np.where(observed[:, d], place, np.nan)
        z, observed, offset = map(torch.as_tensor, (z, observed, offset))
        for family, own in self.families.items():
            self._check_support(family, own, z, observed)
        return z, observed, offset

    def decode(self, z: Tensor) -> np.ndarray:
        """The network's rows (..., D), as samples and completed rows are, in the units of the table; NaN stays NaN.

        `ValueError` for a mean of categories, which is none of them; `predict_missing` gives the most probable one.
        """
        z = z.numpy()
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
            raise ValueError(f"{self._called(d)} has categories 0, 1, ... in the network's rows, got {wrong[0]:g}")

    def _chosen(self, leaf, num_columns: int) -> dict[ExponentialFamily, list[int]]:
        """What `leaf` says itself, columns as numbers."""
        if isinstance(leaf, str) and leaf == "auto":
            return {}
        if isinstance(leaf, ExponentialFamily):
            return {leaf: list(range(num_columns))}
        if not isinstance(leaf, dict):
            raise ValueError(f'leaf must be "auto", an ExponentialFamily or a dict of them, got {leaf!r}')
        own = {f: [c] if isinstance(c, (str, Integral)) else c for f, c in leaf.items()}
        return {family: [self._number(column, num_columns) for column in columns] for family, columns in own.items()}

    def _number(self, column: str | int, num_columns: int) -> int:
        if isinstance(column, Integral) and 0 <= column < num_columns:
            return int(column)
        if self.names is not None and column in self.names:
            return self.names.index(column)
        known = f"0 to {num_columns - 1}" + ("" if self.names is None else f", or {self.names}")
        raise ValueError(f"leaf must name columns of X, which are {known}, got {column!r}")

    def _called(self, d: int) -> str:
        return f"column {d if self.names is None else repr(self.names[d])}"

    def _checked(self, X) -> np.ndarray:
        """A table as an array of floats."""
        check_table(X)
        for name, found in zip(self.names or (), getattr(X, "columns", ()), strict=False):
            if name != found:
                raise ValueError(f"the columns must be those of the training data: {name!r} is expected, got {found!r}")
        X = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan")
        if X.shape[1] != len(self.values):
            raise ValueError(f"X must have the {len(self.values)} columns of the training data, got {X.shape[1]}")
        return X

    def _check_support(self, family: ExponentialFamily, own: list[int], z: Tensor, observed: Tensor) -> None:
        """As the network would, but with the name of the first column that is wrong."""
        try:
            family.check(z[:, own][observed[:, own]])
        except ValueError as error:
            if len(own) == 1:
                raise ValueError(f"{self._called(own[0])}: {error}") from None
            for d in own:
                self._check_support(family, [d], z, observed)


def check_table(X) -> None:
    """`ValueError`, with the column and what to do, for a DataFrame with text that is no number, or with names that
    scikit-learn would not compare, so that columns in another order would pass for those of the training data."""
    if not (hasattr(X, "items") and hasattr(X, "dtypes") and getattr(X, "ndim", 0) == 2):
        return  # text in an array or a list is left to scikit-learn, and so is a lone row
    names = list(X.columns)
    if not all(isinstance(name, str) for name in names) and names != list(range(len(names))):
        raise ValueError(
            f"columns must have names of text, or 0, 1, ..., got {names}: X.columns.astype(str) makes them"
        )
    for name, column in X.items():
        for value in column if column.dtype.kind == "O" else ():
            if isinstance(value, str) and not _is_number(value):
                raise ValueError(
                    f"column {name!r} holds text ({value!r}): code it as numbers, as in "
                    f"X[{name!r}].map({{{value!r}: 0, ...}})"
                )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _categories(column: np.ndarray) -> np.ndarray | None:
    """The values of a column of categories, sorted; None for a column of numbers."""
    values = np.unique(column)
    few = len(values) <= min(MOST_CATEGORIES, max(2, len(column) // ROWS_PER_CATEGORY))
    return values if few and (values == np.round(values)).all() else None


def _family(values: np.ndarray | None) -> ExponentialFamily:
    if values is None:
        return Normal(min_variance=MIN_VARIANCE)
    return Bernoulli() if len(values) <= 2 else Categorical(categories=len(values))


def _spread(column: np.ndarray) -> float:
    """The standard deviation, or 1 for what is constant but for rounding."""
    deviation = float(column.std())
    return deviation if deviation > 1e-12 * np.abs(column).max() else 1.0
