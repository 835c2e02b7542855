"""Families of columns: those that are given, what values they have, how narrow they may be, and what to call them.

Source: not in the paper
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from einet.family import ExponentialFamily, LeafFamily


def given_families(leaf: Any, num_columns: int, names: list[str] | None) -> dict[LeafFamily, list[int]]:
    """The families that `leaf` names, as in `EinetDensity`, with columns as numbers.

    Raises:
        ValueError: `leaf` is no family, or names a column that there is not.

    Source: not in the paper
    """
    if isinstance(leaf, str) and leaf == "auto":
        return {}
    if isinstance(leaf, LeafFamily):
        return {leaf: list(range(num_columns))}
    if not isinstance(leaf, dict) or not all(isinstance(family, LeafFamily) for family in leaf):
        raise ValueError(f'leaf must be "auto", an ExponentialFamily or a dict of them, got {leaf!r}')
    own = {f: c if isinstance(c, Iterable) and not isinstance(c, str) else [c] for f, c in leaf.items()}
    return {family: [_number(column, num_columns, names) for column in columns] for family, columns in own.items()}


def _number(column: str | int, num_columns: int, names: list[str] | None) -> int:
    if isinstance(column, Integral) and 0 <= int(column) < num_columns:
        return int(column)
    if names is not None and column in names:
        return names.index(cast(str, column))
    known = f"0 to {num_columns - 1}" + ("" if names is None else f", or {names}")
    raise ValueError(f"leaf must name columns of X, which are {known}, got {column!r}")


def inside(family: ExponentialFamily, z: np.ndarray) -> np.ndarray:
    """Whether each cell is in the support: the whole column, in most tables, or one after the other.

    Source: not in the paper
    """
    inside = ~np.isnan(z)
    values, place = np.unique(z[inside], return_inverse=True)
    inside[inside] = _among(family, torch.as_tensor(values))[place]
    return inside


def _among(family: ExponentialFamily, values: Tensor) -> np.ndarray:
    """Which of the values `check` allows. Where its error does not say, it is asked of halves."""
    allowed = torch.ones(len(values), dtype=torch.bool)
    while True:
        try:
            family.check(values[allowed])
            return allowed.numpy()
        except ValueError as error:
            outside = getattr(error, "outside", None)
            if outside is None or outside.shape != (int(allowed.sum()),):
                break
            allowed[allowed.clone()] = ~outside
    if len(values) == 1:
        return np.array([False])
    half = len(values) // 2
    return np.concatenate((_among(family, values[:half]), _among(family, values[half:])))


def min_deviation(family: LeafFamily) -> float:
    """The smallest standard deviation of a leaf: that of parameters 0 after `project`.

    Source: not in the paper
    """
    alone = family.alone
    nothing = torch.zeros(alone.num_statistics, 1, dtype=torch.float64)
    return alone.variance(alone.project(nothing)).sqrt().item()


def described(family: LeafFamily, atoms: np.ndarray, shift: float) -> str:
    """A family's name, with the number of its values, or its atoms in the units of the table; `shift` of a logarithm.

    Source: not in the paper
    """
    if not math.isnan(shift):
        return f"Normal, of log(x + {shift:.3g})" if shift else "LogNormal"
    within = getattr(family, "family", None)
    atoms = atoms if len(atoms) else np.array(getattr(family, "atoms", ()))  # of a given family, as they are
    if len(atoms) and isinstance(within, ExponentialFamily):
        return f"{type(within).__name__} with atoms at {', '.join(f'{atom:g}' for atom in atoms)}"
    if len(atoms):
        return f"{type(family).__name__} at {len(atoms)} values"
    count = getattr(family, "categories", getattr(family, "total", None))
    return type(family).__name__ + ("" if count is None or type(family).__name__ == "Bernoulli" else f"({count})")
