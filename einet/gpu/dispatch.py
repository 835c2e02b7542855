"""Which layers go through the fused kernels, whose module is imported when the first one does.

Source: not in the paper
"""

from __future__ import annotations

import os
from functools import cache
from types import ModuleType

from torch import Tensor

# How the kernels multiply two float32: see `layers.set_precision`.
PRECISIONS = ("ieee", "tf32", "tf32x3", "bf16x3")


def kernels_for(weights: Tensor, num_left: int, num_right: int, precision: str | None) -> ModuleType | None:
    """`einet.gpu.kernels`, where the weights are on a GPU, Triton is installed, and the kernels support them."""
    on_gpu = weights.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"  # the latter imitates one, for tests
    kernels = import_kernels() if on_gpu and precision else None
    return kernels if kernels and kernels.supports(weights, num_left, num_right) else None


@cache
def import_kernels() -> ModuleType | None:
    """The kernels; None without Triton."""
    try:
        from einet.gpu import kernels  # here, so that `import einet` needs no Triton
    except ImportError:
        return None
    return kernels
