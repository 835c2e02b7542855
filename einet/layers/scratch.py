"""Memory for temporaries: slices that fit a cache, and a scratch buffer for each thread.

Source: not in the paper
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# Numbers in temporaries that stay in the cache of one core: 2^17 floats are half a megabyte.
CACHE_NUMEL = 2**17
# Numbers in a GPU's temporaries: few slices are few launches. 2^24 floats are 64 MiB.
GPU_SLICE_NUMEL = 2**24
# Numbers in the temporaries of a query: 2^22 doubles are 32 MiB.
CHUNK_NUMEL = 2**22
# Scratch buffers larger than this, per thread of torch, are freed after use.
MAX_KEPT_BYTES = 2**23


class _Kept(threading.local):
    bytes: Tensor | None = None  # this thread's scratch buffer; None while it is in use


_kept = _Kept()


def exp(log: Tensor) -> Tensor:
    """exp(log) for log <= 0. Results below the smallest normal float become 0: subnormals make MKL ten times slower."""
    tiny = torch.finfo(log.dtype).tiny
    return nn.functional.threshold(torch.exp(log.clamp_min(math.log(tiny) + 0.5)), 2 * tiny, 0)


def exp_(log: Tensor) -> Tensor:
    """The same in place, which autograd does not see."""
    tiny = torch.finfo(log.dtype).tiny
    return torch.threshold_(log.clamp_min_(math.log(tiny) + 0.5).exp_(), 2 * tiny, 0)


def node_slices(num_nodes: int, numel: int, tensor: Tensor) -> list[slice]:
    """Near-equal slices of the nodes whose temporaries, `numel` numel a node, fit the cache of `tensor`'s device."""
    threads = 1 if tensor.is_cuda else torch.get_num_threads()
    at_once = threads * max(1, (GPU_SLICE_NUMEL if tensor.is_cuda else CACHE_NUMEL) // numel)
    count = max(1, round(num_nodes / at_once))
    step = math.ceil(num_nodes / count / threads) * threads  # as many nodes for each thread
    return slices(num_nodes, step)


@contextmanager
def scratch(numel: int, like: Tensor) -> Iterator[Tensor]:
    """A scratch buffer of `numel` elements like `like`; the next `with` block on this thread overwrites it.

    A block within the block gets memory of its own. On a CPU, memory fresh from the system would cost more than what
    is computed in it. Only plain tensors are kept: those of a fake-tensor mode have no numbers.
    """
    size = numel * like.element_size()
    keeps = like.device.type == "cpu" and type(like) is Tensor and size <= MAX_KEPT_BYTES * torch.get_num_threads()
    if not keeps or torch.compiler.is_compiling():
        yield like.new_empty(numel)
        return
    buffer = vars(_kept).pop("bytes", None)  # atomic: a signal handler that comes between finds none, and makes its own
    if buffer is None or buffer.numel() < size:
        with torch.inference_mode(False):  # a tensor that is born there could not be written to outside
            buffer = torch.empty(size, dtype=torch.uint8, device="cpu")
    yield buffer[:size].view(like.dtype)
    if type(buffer) is Tensor:
        _kept.bytes = buffer


def slices(size: int, step: int) -> list[slice]:
    """Slices of `step` things, at least 1, out of `size`."""
    step = max(1, step)
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]
