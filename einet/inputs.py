"""What a network is given, as it wants it: families, rows and masks, or a `ValueError` that names what is wrong.

Paper: Section 3
Chapter: book/04_layers
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from einet.derivatives import ordinary
from einet.exponential_family import ExponentialFamily

# Parameters in fewer bits lose mass by EM, and densities in float16 are soon 0.
MODEL_DTYPES = (torch.float32, torch.float64)
FLOATS = (torch.float16, torch.bfloat16, *MODEL_DTYPES)
WHOLE = (torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64)


def checked_families(leaf, num_variables: int) -> dict[ExponentialFamily, tuple[int, ...]]:
    for family in leaf if isinstance(leaf, dict) else [leaf]:  # which a list, say, could not be a key of
        if not isinstance(family, ExponentialFamily):
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


def batch_last(x: Tensor, variables: int, channels: int, grid: tuple[int, ...] | None) -> Tensor:
    """x as (D, C, B), contiguous. One channel may go without its axis."""
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
    """x in a type that holds all its values, and that families can compare in."""
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


def check_concentration(concentration: float) -> None:
    if isinstance(concentration, bool) or not isinstance(concentration, (int, float)) or not 0 < concentration < math.inf:
        raise ValueError(f"concentration must be a positive, finite number, got {concentration!r}")
