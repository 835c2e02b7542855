"""Memory for temporaries: slices that fit the cache, and a scratch buffer that is used again and again.

Source: not in the paper
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# Temporaries of about this many numbers stay in the cache of one core; 2^17 floats are half a megabyte.
CACHE_NUMEL = 2**17
# A GPU is busy with many more at once. Few slices are few launches; 2^24 floats are 64 megabytes.
GPU_SLICE_NUMEL = 2**24
# More bytes than these, for each core that works on a slice, are not kept for the next one.
MAX_KEPT_BYTES = 2**23
# Temporaries of a query hold about this many numbers; 2^22 doubles are 32 MiB.
CHUNK_NUMEL = 2**22


class _Kept(threading.local):
    """A thread's scratch buffer; None while it is in use."""

    bytes: Tensor | None = None


_kept = _Kept()


def exp(log: Tensor) -> Tensor:
    """e^log for log <= 0, and 0 where that is less than the smallest normal number: there MKL is ten times slower."""
    tiny = torch.finfo(log.dtype).tiny
    return nn.functional.threshold(torch.exp(log.clamp_min(math.log(tiny) + 0.5)), 2 * tiny, 0)


def exp_(log: Tensor) -> Tensor:
    """The same in place, which autograd does not see."""
    tiny = torch.finfo(log.dtype).tiny
    return nn.functional.threshold_(log.clamp_min_(math.log(tiny) + 0.5).exp_(), 2 * tiny, 0)


def node_slices(num_nodes: int, numbers: int, tensor: Tensor) -> list[slice]:
    """Slices of nodes, about equally large, where each node needs a temporary of so many numbers, beside `tensor`."""
    threads = 1 if tensor.is_cuda else torch.get_num_threads()
    at_once = threads * max(1, (GPU_SLICE_NUMEL if tensor.is_cuda else CACHE_NUMEL) // numbers)
    count = max(1, round(num_nodes / at_once))
    step = math.ceil(num_nodes / count / threads) * threads  # as many nodes for each thread
    return [slice(start, min(start + step, num_nodes)) for start in range(0, num_nodes, step)]


@contextmanager
def scratch(numbers: int, like: Tensor) -> Iterator[Tensor]:
    """Scratch memory for so many numbers of a kind.

    A CPU gets the same memory each time: fresh from the system it would cost more than what is computed in it. While
    one uses the buffer it is not in its thread's slot, so that whoever comes in between, such as a signal handler,
    makes one of its own. Only plain tensors are kept: what a fake-tensor mode makes has no numbers.
    """
    size = numbers * like.element_size()
    keeps = like.device.type == "cpu" and type(like) is Tensor and size <= MAX_KEPT_BYTES * torch.get_num_threads()
    if not keeps or torch.compiler.is_compiling():
        yield like.new_empty(numbers)
        return
    buffer = vars(_kept).pop("bytes", None)  # at once: nothing can come in between
    if buffer is None or buffer.numel() < size:
        with torch.inference_mode(False):  # a tensor that is born there could not be written to outside
            buffer = torch.empty(size, dtype=torch.uint8, device="cpu")
    yield buffer[:size].view(like.dtype)
    if type(buffer) is Tensor:
        _kept.bytes = buffer


def slices(size: int, step: int) -> list[slice]:
    """`step` things at a time, of `size`; one by one where not even one fits."""
    step = max(1, step)
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]
