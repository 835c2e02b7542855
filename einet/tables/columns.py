"""The columns of a table as variables of a network, and back: rows behind the scikit-learn interface.

    columns = Columns(X)                       which family suits each column, from its values in training
    z, seen, offset = columns.encode(X)        model(z, seen) + offset = log p(x), in the units of the table
    columns.decode(z)                          rows of the table again

Source: not in the paper
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from sklearn.utils import check_array
from torch import Tensor

from einet.families.continuous import Normal
from einet.family import LeafFamily
from einet.tables.choice import choose, joint, normal
from einet.tables.column_models import UNSEEN_PROBABILITY, Choice, of_values
from einet.tables.kinds import Table, read
from einet.tables.resolution import MOST_ON_GRID, comparable_length, is_close, is_constant
from einet.tables.support import described, given_families, inside


class Columns:
    """How the columns of a table become variables of a network, and back. Its repr is a table of them.

    Args:
        X: the training data: a table as `kinds.read` takes it, a `Table` that it has read, or floats (B, D).
        leaf: as in `EinetDensity`.
        names: of the columns, if they have any.

    Attributes:
        kinds: what the cells of each column are: numbers, text, dates, ...
        families: {family: columns}, for `Einet`.
        chosen: the columns whose family `leaf` did not name.
        discrete: the columns of families with finitely many values.
        reals: {column: scale} of those whose family was chosen and is `Normal`, which may be joined to one density.
        values: for each column the values that its categories 0, 1, ... stand for; None where it has none. Of text,
            its labels are `kinds.labels`, in the order of these.
        constant: columns of one value but for rounding; `values` has the most frequent.
        atoms: for each column the values that have a probability of their own beside a density.
        heaped: the columns whose atoms are heaps.
        excluded: for each column isolated values, far from all others, and their shares. They count as gaps, with such
            a probability, so that they move nothing but their own rows; nor are they in samples.
        center: (D,), of z = (x - center) / scale; 0 but for columns of families that may be shifted and scaled.
        shift: (D,), of z = (log(x + shift) - center) / scale; NaN but for columns that are logarithms.
        scale: (D,), 1 but for these, and chosen families of positive numbers.
        resolution: (D,), the smallest difference in z that counts: a column's step, where its values are rounded, or
            how close its values lie; 0 where that means nothing.
        missing: (D,), the share of missing cells.
        ranges: (D, 2), the least and the largest number.
        lengths: {column: its heaps, and the length over which a density is compared with their probabilities}.

    Raises:
        ValueError: a column has no value; `leaf` is no family, or names a column that X does not have.

    Source: not in the paper
    """

    def __init__(
        self,
        X: Any,
        leaf: str | LeafFamily | dict[LeafFamily, Any] = "auto",
        names: Sequence[str] | None = None,
    ):
        table = X if isinstance(X, Table) else read(X, training=True)
        self.kinds, numbers = table.kinds, table.numbers
        names = self.kinds.names if names is None else names
        self.names = None if names is None else list(names)
        known = [column[~np.isnan(column)] for column in numbers.T]
        for d, column in enumerate(known):
            if not len(column):
                raise ValueError(f"{self._label(d)} has no value in training")
        self.missing = np.isnan(numbers).mean(0)
        self.ranges = np.array([[column.min(), column.max()] for column in known])
        self.lengths: dict[int, tuple[np.ndarray, float]] = {}
        self._take(self._choices(known, leaf), known)

    def _take(self, choices: list[Choice], known: list[np.ndarray]) -> None:
        """Set what follows from the choice of each column and its known cells."""
        self.values = [choice.values for choice in choices]
        self.atoms = [choice.atoms for choice in choices]
        self.heaped = [d for d, choice in enumerate(choices) if choice.heaped]
        self.excluded = [
            {float(value): float((column == value).mean()) for value in choice.excluded}
            for choice, column in zip(choices, known, strict=True)
        ]
        self.center = np.array([choice.center for choice in choices])
        self.scale = np.array([choice.scale for choice in choices])
        self.shift = np.array([choice.shift for choice in choices])
        self.resolution = np.array([choice.resolution for choice in choices])
        self.constant = [d for d, values in enumerate(self.values) if values is not None and len(values) == 1]
        self.discrete = sorted(d for family, own in self.families.items() if family.num_values for d in own)
        self.reals = {
            d: float(self.scale[d])
            for family, own in self.families.items()
            if type(family) is Normal
            for d in own
            if d in self.chosen
        }

    def as_reals(self, X: Table, heaps: bool = False) -> Columns | None:
        """The same columns of the same rows, but counts and skewed columns are reals, too, or the logarithms of these.

        One normal density may then hold all of them together. None where that changes nothing.

        Args:
            X: the rows.
            heaps: whether columns with heaps are reals, too; None where there are no such columns.
        """
        known, family_of = [column[~np.isnan(column)] for column in X.numbers.T], self._family_of()
        choices = []
        for d, column in enumerate(known):
            numbers = self.center[d], self.scale[d], self.values[d], self.atoms[d], np.array(list(self.excluded[d]))
            choice = Choice(cast(Any, family_of[d]), *numbers, self.resolution[d], heaped=d in self.heaped)
            changes = d in self.chosen and not self.kinds.are_labels(d)
            choices.append(joint(column, choice, self.kinds.has_zero(d), heaps) if changes else choice)
        other = copy.copy(self)
        other.lengths = {
            d: (self.atoms[d], comparable_length(known[d], MOST_ON_GRID))
            for d, choice in enumerate(choices)
            if d in self.heaped and not choice.heaped
        }
        if heaps and not other.lengths:
            return None
        other.families = {family: [] for family in self.families if not self.families[family]}
        for d, choice in enumerate(choices):
            other.families.setdefault(choice.family, []).append(d)
        other._take(choices, known)
        return other if other.logs or other.reals.keys() != self.reals.keys() else None

    def measure(self, numbers: np.ndarray) -> Tensor:
        """What to add to log-densities of rows (B, D), as `numbers` has them, to compare them with another coding's.

        The density of a column, in a coding in which another has probabilities of heaps, is taken times a length there.
        """
        found = np.zeros(len(numbers))
        for d, (heaps, length) in self.lengths.items():
            found += np.where(np.isin(numbers[:, d], heaps), math.log(length), 0.0)
        return torch.as_tensor(found)

    def _family_of(self) -> dict[int, LeafFamily]:
        return {d: family for family, own in self.families.items() for d in own}

    def _choices(self, known: list[np.ndarray], leaf: Any) -> list[Choice]:
        """What becomes of each column. Sets `families` and `chosen`."""
        self.families: dict[LeafFamily, list[int]] = {}
        choices: dict[int, Choice] = {}
        for family, own in given_families(leaf, len(known), self.names).items():
            # No density has variance 0, so a constant is a category. It would be blurred, in whatever unit it is.
            left = [d for d in own if not (family.location_scale and is_constant(known[d]))]
            if left or not own:
                self.families[family] = left
            for d in left:
                self._check_labels(d, family)
                choices[d] = normal(known[d], family.alone) if family.location_scale else Choice(family.alone)
        self.chosen = sorted(set(range(len(known))) - choices.keys())
        for d in self.chosen:
            choices[d] = self._chosen(d, known[d])
            self.families.setdefault(choices[d].family, []).append(d)
        return [choices[d] for d in range(len(known))]

    def _check_labels(self, d: int, family: LeafFamily) -> None:
        labels = self.kinds.columns[d].labels
        if labels and (family.num_values or 0) < len(labels):
            raise ValueError(
                f"{self._label(d)} has {len(labels)} labels, and {family} is no family of so many values: leave it out "
                f"of leaf, or give it einet.Categorical({len(labels)})"
            )

    @property
    def logs(self) -> list[int]:
        """The columns that are logarithms."""
        return np.flatnonzero(~np.isnan(self.shift)).tolist()

    def _chosen(self, d: int, column: np.ndarray) -> Choice:
        if self.kinds.are_labels(d) or is_constant(column):
            values, counts = np.unique(column, return_counts=True)
            return of_values(values if self.kinds.are_labels(d) else values[[counts.argmax()]])
        return choose(column, counts=self.kinds.may_count(d), positive=self.kinds.has_zero(d))

    def __repr__(self) -> str:
        family_of = self._family_of()
        names = range(len(self.values)) if self.names is None else self.names
        rows = [("column", "cells", "family", "range", "missing")]
        for d, name in enumerate(names):
            family = "constant" if d in self.constant else described(family_of[d], self.atoms[d], self.shift[d])
            family += f", but for {', '.join(f'{value:g}' for value in self.excluded[d])}" if self.excluded[d] else ""
            missing = f"{100 * self.missing[d]:.2g} %"
            rows.append((str(name), self.kinds.columns[d].text(), family, self._range(d), missing))
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    def _range(self, d: int) -> str:
        low, high = (self.kinds.columns[d].shown(number) for number in self.ranges[d])
        values = self.values[d]
        if self.kinds.are_labels(d) and values is not None:
            return f"{len(values)} values, {low} to {high}" if len(values) > 1 else low
        return low if low == high else f"{low} to {high}"

    # To the network

    def numbers(self, X: Any) -> np.ndarray:
        """A table of the same columns as floats (B, D), NaN where missing; the number of its label for text.

        Raises:
            ValueError: other columns, or a cell that is not of its column's kind, with its column.
        """
        self.kinds.check_names(X)
        with np.errstate(invalid="ignore"):  # scikit-learn's sum of numbers near the largest may be inf - inf
            X = check_array(self.kinds.numbers(X), dtype="float64", ensure_all_finite=cast(bool, "allow-nan"))
        if X.shape[1] != len(self.values):
            raise ValueError(f"X must have the {len(self.values)} columns of the training data, got {X.shape[1]}")
        return X

    def encode(self, X: Any) -> tuple[Tensor, Tensor, Tensor]:
        """A table as rows for the network.

        Missing in the rows, as NaN, are three kinds of cells: gaps, values that a chosen family does not have, such as
        a category that was not in the training data, and those of a constant column, about which there is nothing to
        ask.

        Args:
            X: a table as the estimator's methods take it: an array, a DataFrame with the columns of the training data,
                rows as lists, or what `numbers` returns.

        Returns:
            Rows (B, D), what is observed of them (B, D), and the offset of their log-density (B,): log |dz/dx|, and the
            log probabilities that columns whose chosen family does not have every value hold one that it has, or not.

        Raises:
            ValueError: other columns; a cell of another kind, an infinity or, for a family that was given, a value
                outside it, with its column.
        """
        z, observed, offset = self.encode_cells(X)
        return z, observed, offset.sum(1)

    def encode_cells(self, X: Any) -> tuple[Tensor, Tensor, Tensor]:
        """`encode`, with the offset of each cell by itself (B, D)."""
        X = self.numbers(X)
        observed = ~np.isnan(X)
        with np.errstate(over="ignore", invalid="ignore"):  # the family refuses infinities
            z = (X - self.center) / self.scale
        for d in self.logs:
            z[:, d] = np.where(X[:, d] + self.shift[d] > 0, self.coordinates(d, X[:, d]), np.nan)
        offset = np.zeros(X.shape)
        for family, own in self.families.items():
            for d in own:
                here = observed[:, d].copy()
                values = self.values[d]
                if values is not None:
                    z[:, d], observed[:, d] = self._category(d, X[:, d])
                else:
                    here &= self._not_excluded(d, X, observed, offset[:, d])
                    if not self.has_unseen(d, family):
                        offset[:, d] -= np.where(here, math.log(self.scale[d]), 0.0)
                        continue
                    observed[:, d] &= inside(family.alone, z[:, d])
                seen = observed[:, d]
                offset[:, d] += np.where(here & ~seen, math.log(UNSEEN_PROBABILITY), 0.0)
                offset[:, d] += np.where(here & seen, math.log1p(-UNSEEN_PROBABILITY), 0.0)
                if values is None:
                    of_density = seen & ~np.isin(X[:, d], self.atoms[d])
                    offset[:, d] -= np.where(of_density, math.log(self.scale[d]), 0.0)
                    if d in self.logs:
                        offset[seen, d] -= np.log(X[seen, d] + self.shift[d])
                elif len(values) == 1:
                    observed[:, d] = False
        z = np.where(observed, z, np.nan)
        z, observed, offset = map(torch.as_tensor, (z, observed, offset))
        for family, own in self.families.items():
            self._check_support(family, own, z, observed)
        return z, observed, offset

    def coordinates(self, d: int, numbers: np.ndarray) -> np.ndarray:
        """Numbers (n,) of a column of numbers as the network has them; far below all others what has no logarithm."""
        if np.isnan(self.shift[d]):
            return (numbers - self.center[d]) / self.scale[d]
        positive = np.maximum(numbers + self.shift[d], np.finfo(float).tiny)
        return (np.log(positive) - self.center[d]) / self.scale[d]

    def has_unseen(self, d: int, family: LeafFamily | None = None) -> bool:
        """Whether a column's chosen family does not have every value, so that one that it has not is possible, too."""
        if family is None:
            family = next(each for each, own in self.families.items() if d in own)
        as_is = type(family) is Normal and np.isnan(self.shift[d])
        return self.values[d] is not None or (d in self.chosen and not as_is)

    def _not_excluded(self, d: int, X: np.ndarray, observed: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Which cells are none of the isolated values; these become gaps here, with their probability."""
        excluded = self.excluded[d]
        for value, share in excluded.items():
            at = X[:, d] == value
            offset[at] += math.log(share)
            observed[at, d] = False
        offset[observed[:, d]] += math.log1p(-sum(excluded.values()))
        return ~np.isin(X[:, d], list(excluded))

    def _category(self, d: int, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number of each cell's category, and whether it has one."""
        values = cast(np.ndarray, self.values[d])
        place = np.searchsorted(values, column).clip(max=len(values) - 1)
        near = is_close(values[place], column) if len(values) == 1 else values[place] == column
        return place.astype(float), near

    # And back

    def decode(self, z: Tensor | np.ndarray, index: Any = None) -> Any:
        """The network's rows (..., D), such as samples, as cells of the table. NaN stays NaN, or what is missing there.

        Args:
            z: rows.
            index: of a pandas DataFrame.

        Returns:
            For rows (B, D) after a DataFrame, one of the same library, with its names and dtypes as far as they can
            hold the cells. Otherwise an array: of floats, or of objects where some columns are no numbers.

        Raises:
            ValueError: z has another width; or a mean of categories, which is none of them. `predict_missing` gives the
                most probable one.
        """
        return self.table(self.decode_numbers(z), index)

    def table(self, numbers: np.ndarray, index: Any = None) -> Any:
        """What `numbers` returned, as the cells of the table: a DataFrame, if the training data were."""
        return self.kinds.table(numbers, index)

    def decode_numbers(self, z: Tensor | np.ndarray) -> np.ndarray:
        """`decode` to floats (..., D), as `numbers` returns them."""
        z = torch.as_tensor(z).detach().cpu().numpy()
        if z.shape[-1:] != self.center.shape:
            raise ValueError(f"z must have {len(self.center)} columns, as the network's rows do, got {z.shape}")
        X = z * self.scale + self.center
        for d in self.logs:
            with np.errstate(over="ignore"):
                X[..., d] = np.exp(X[..., d]) - self.shift[d]
        for d, values in enumerate(self.values):
            if values is not None:
                self._check_codes(d, z[..., d])
                place = np.nan_to_num(z[..., d]).astype(int).clip(max=len(values) - 1)
                X[..., d] = np.where(np.isnan(z[..., d]), np.nan, values[place])
            if len(self.atoms[d]):  # without the rounding of the way there and back
                inside = (self.atoms[d] - self.center[d]) / self.scale[d]
                place = np.searchsorted(inside, z[..., d]).clip(max=len(inside) - 1)
                X[..., d] = np.where(z[..., d] == inside[place], self.atoms[d][place], X[..., d])
        return X

    def _check_codes(self, d: int, codes: np.ndarray) -> None:
        wrong = codes[codes != np.floor(codes)]
        wrong = wrong[~np.isnan(wrong)]
        if len(wrong):
            raise ValueError(f"{self._label(d)} has categories 0, 1, ... in the network's rows, got {wrong[0]:g}")

    def floor(self) -> float:
        """The smallest variance of a density of all reals together: that of the narrowest of them."""
        own = [family for family, columns in self.families.items() if {*columns} & self.reals.keys()]
        return min((getattr(family, "min_variance", 1.0) for family in own), default=1.0)

    # Arguments

    def _label(self, d: int) -> str:
        return f"column {d if self.names is None else repr(self.names[d])}"

    def _check_support(self, family: LeafFamily, own: list[int], z: Tensor, observed: Tensor) -> None:
        """As the network would, but with the name of the first wrong column."""
        try:
            family.check(z[:, own][observed[:, own]])
        except ValueError as error:
            if len(own) == 1:
                raise ValueError(f"{self._label(own[0])}: {error}") from None
            for d in own:
                self._check_support(family, [d], z, observed)
