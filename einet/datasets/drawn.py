"""Where `house_numbers` was; for one version."""

from __future__ import annotations

import warnings
from importlib import import_module

from torch import Tensor


def house_numbers(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Deprecated: book/house_numbers.py of the project has it."""
    text = "einet.datasets.house_numbers has moved to the book: from book.house_numbers import house_numbers"
    warnings.warn(text, DeprecationWarning, stacklevel=2)
    return import_module("book.house_numbers").house_numbers(n, seed)
