"""Checks of a network's arguments: families, rows and masks in its own layout, or a `ValueError` that names the fault.

Source: Section 3
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from einet.family import LeafFamily
from einet.graph.regions import check_integers as check_integers  # defined there, below torch
from einet.layers.derivatives import ordinary

# Parameters in fewer bits lose mass by EM, and densities in float16 are soon 0.
MODEL_DTYPES = (torch.float32, torch.float64)
FLOATS = (torch.float16, torch.bfloat16, *MODEL_DTYPES)
WHOLE = (torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64)


def checked_families(leaf: Any, num_variables: int) -> dict[LeafFamily, tuple[int, ...]]:
    for family in leaf if isinstance(leaf, dict) else [leaf]:  # before `leaf` is a key: a list has no hash
        if not isinstance(family, LeafFamily):
            raise ValueError(f"leaf must be a family such as einet.Normal(), or a dict of them, got {family!r}")
    families = leaf if isinstance(leaf, dict) else {leaf: range(num_variables)}
    families = {family: tuple(sorted(variables)) for family, variables in families.items()}
    idle = [family for family, variables in families.items() if not variables]
    if idle:
        raise ValueError(f"leaf must name at least one variable for each family, got none for {idle[0]}")
    named = sorted(variable for variables in families.values() for variable in variables)
    if named != list(range(num_variables)):
        raise ValueError(f"leaf must name each variable from 0 to {num_variables - 1} once, got {named}")
    channels = {family.channels for family in families}
    if len(channels) > 1:
        raise ValueError(f"all families of a model have equally many channels, got {sorted(channels)}")
    return families


def as_number(name: str, value: Any, limit: str, holds: Callable[[float], bool]) -> float:
    """One real number, of Python, numpy or torch, as a float; text that looks like one is none."""
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError for a tensor of several
        number = math.nan
    if not holds(number):  # NaN holds nothing
        raise ValueError(f"{name} must be {limit}, got {value!r}")
    return number


def as_pseudocount(name: str, value: Any) -> float:
    return as_number(name, value, "finite and at least 0", lambda number: 0 <= number < math.inf)


def as_concentration(value: Any) -> float:
    return as_number("concentration", value, "positive and finite", lambda number: 0 < number < math.inf)


def as_parts(name: str, given: Any, *names: str) -> tuple:
    """x, or a tuple of x and what belongs to it, as a tuple of no more parts than `names`."""
    parts = given if isinstance(given, tuple) else (given,)
    if not 1 <= len(parts) <= len(names):
        raise ValueError(f"{name} must be x or a tuple such as ({', '.join(names)}), got a tuple of {len(parts)}")
    return parts


def batch_last(x: Tensor, variables: int, channels: int, grid: tuple[int, ...] | None) -> Tensor:
    """x as (D, C, B), contiguous. One channel may go without its axis."""
    if isinstance(x, Tensor) and x.layout != torch.strided:
        raise ValueError(f"x must be a dense tensor, got one in {x.layout}: call x.to_dense()")
    if not isinstance(x, Tensor) or x.dtype not in (torch.bool, *WHOLE, *FLOATS):
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be bool, whole numbers or floats of 16 to 64 bits in a real tensor, got {kind}")
    shapes = [(variables, channels)] + ([(*grid, channels)] if grid else [])
    if channels == 1:
        shapes += [shape[:-1] for shape in shapes]
    if tuple(x.shape[1:]) not in shapes:
        wanted = " or ".join(str(("B", *shape)) for shape in shapes)
        raise ValueError(f"x must have shape {wanted}, got {tuple(x.shape)}")
    if not len(x):
        raise ValueError("x must have at least one row, got an empty batch")
    return ordinary(x.reshape(len(x), -1).T.contiguous().view(variables, channels, -1))


def as_float(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in a dtype that holds all its values, and in which families can compare."""
    if x.dtype in MODEL_DTYPES:
        return x
    return x.to(dtype if x.is_floating_point() or x.dtype.itemsize <= 2 else torch.float64)


def as_mask(observed: Any, name: str = "observed") -> Tensor:
    """A bool tensor, from one or from an array of numpy."""
    if hasattr(observed, "__array_interface__") and observed.dtype == bool:
        return torch.tensor(observed.copy(), device="cpu")
    if not isinstance(observed, Tensor) or observed.dtype != torch.bool:
        kind = observed.dtype if isinstance(observed, Tensor) else type(observed).__name__
        raise ValueError(f"{name} must be a bool tensor, got {kind}")
    if observed.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor, got one in {observed.layout}: call {name}.to_dense()")
    return observed


def mask_last(observed: Tensor, variables: int, x: Tensor, grid: tuple[int, ...] | None, name: str) -> Tensor:
    """observed as (D, B), or (D, 1) where it is the same for all rows."""
    mask = as_mask(observed, name)
    mask = mask if mask is observed else mask.to(x.device)  # numpy knows no other device
    check_device(name, mask, x)
    shapes = [(variables,)] + ([tuple(grid)] if grid else [])
    shapes += [(x.shape[-1], *shape) for shape in shapes]
    if tuple(mask.shape) not in shapes:
        raise ValueError(f"{name} must have shape {' or '.join(map(str, shapes))}, got {tuple(mask.shape)}")
    return ordinary(mask.reshape(-1, variables).T.contiguous())


def check_device(name: str, tensor: Tensor, other: Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(f"{name} must be where the model is, on {other.device}, got a tensor on {tensor.device}")
