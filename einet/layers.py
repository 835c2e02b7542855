"""The sum layers of an Einsum Network: einsum layers and mixing layers.

Every region holds a vector of K densities, and a layer the vectors of L regions for a batch of B rows, the batch last
and contiguous: (L, K, B). Between layers densities travel scaled, as `value * exp(log_scale)` with the largest of each
vector at 1, so that nothing underflows. It is the paper's log-einsum-exp trick (Eq. 4), with one saving: the logarithm
at the end of a layer and the exponential at the start of the next cancel, so both are left out, but for one logarithm
a vector.

Scales are constants to autograd. That is exact: the circuit's output is the same when a factor moves from `value` to
`log_scale`, so whatever gradient the choice of scale would have sums to zero. So it is for every order of derivative,
since the output as a function of the parameters is the same one for any scales that are held.

The fast ways work in place, which is nothing that autograd could differentiate. Gradients that are differentiated in
turn (`create_graph=True`), and all that `torch.func` transforms, go by plain operations: right, and slow.

Paper: Section 3.2 and 3.3
Chapter: book/03_einsum_layer
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Temporaries of about this many numbers stay in the cache of one core; 2^17 floats are half a megabyte.
CACHE = 2**17
# A GPU is busy with many more at once. Few slices are few launches; 2^24 floats are 64 megabytes.
GPU_SLICE = 2**24
# More bytes than these, for each core that works on a slice, are not kept for the next one.
MOST_KEPT = 2**23


class _Kept(threading.local):
    """A thread's scratch buffer; None while it is in use."""

    bytes: Tensor | None = None


_kept = _Kept()

# How the kernels for GPUs multiply two float32: see `set_precision`.
PRECISIONS = ("ieee", "tf32", "tf32x3", "bf16x3")


class Scaled(NamedTuple):
    """Vectors of densities value * exp(log_scale): value (L, K, B), log_scale (L, B) in float64."""

    value: Tensor
    log_scale: Tensor

    @classmethod
    def from_log(cls, log_density: Tensor, dtype: torch.dtype) -> Scaled:
        """From log-densities (L, K, B). The scale is subtracted before `dtype` rounds."""
        log_scale = log_density.detach().amax(1).clamp_min(torch.finfo(log_density.dtype).min)
        return cls(exp((log_density - log_scale[:, None]).to(dtype)), log_scale.double())

    def log(self) -> Tensor:
        """The log-densities (L, K, B), in float64."""
        return torch.log(self.value.double()) + self.log_scale[:, None]


class Gathered(NamedTuple):
    """Rows of a pool of vectors, not fetched yet: on a GPU, the kernel of the einsum layer fetches them itself.

    rows      (n,), or None for all rows in their order
    segments  (order, offsets), where not all rows are taken in their order: row m of the pool was taken by those
              children that are order[offsets[m]:offsets[m + 1]]
    """

    pool: Scaled
    rows: Tensor | None = None
    segments: tuple[Tensor, Tensor] | None = None

    def fetch(self) -> Scaled:
        """The vectors, as a tensor of their own."""
        return self.pool if self.segments is None else Scaled(*(part.index_select(0, self.rows) for part in self.pool))


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
    at_once = threads * max(1, (GPU_SLICE if tensor.is_cuda else CACHE) // numbers)
    count = max(1, round(num_nodes / at_once))
    step = math.ceil(num_nodes / count / threads) * threads  # as many nodes for each thread
    return [slice(start, min(start + step, num_nodes)) for start in range(0, num_nodes, step)]


@contextmanager
def room(numbers: int, like: Tensor) -> Iterator[Tensor]:
    """Scratch memory for so many numbers of a kind.

    A CPU gets the same memory each time: fresh from the system it would cost more than what is computed in it. While
    one uses the buffer it is not in its thread's slot, so that whoever comes in between, such as a signal handler,
    makes one of its own. Only plain tensors are kept: what a fake-tensor mode makes has no numbers.
    """
    size = numbers * like.element_size()
    keeps = like.device.type == "cpu" and type(like) is Tensor and size <= MOST_KEPT * torch.get_num_threads()
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


# Derivatives


def transformed() -> bool:
    """Whether a transform of `torch.func` is at work: it takes plain operations alone."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def differentiable(plain: Callable[..., Tensor], inputs: Sequence[Tensor], gradient: Tensor) -> list[Tensor | None]:
    """The gradients of `inputs`, given that of `plain(*inputs)`, which may be differentiated in turn; None where not
    wanted."""
    with torch.enable_grad():
        inputs = [each.view_as(each) for each in inputs]  # each by itself, where one tensor comes twice
        wanted = [each for each in inputs if each.requires_grad]
        found = iter(torch.autograd.grad(plain(*inputs), wanted, gradient, create_graph=True))
        return [next(found) if each.requires_grad else None for each in inputs]


def ordinary(tensor: Tensor) -> Tensor:
    """The same, or a copy of a tensor that was born in inference mode, which autograd could not keep."""
    return tensor.clone() if tensor.is_inference() and torch.is_grad_enabled() else tensor


# Sums of products


def log_einsum_exp(weights: Tensor, left: Tensor, right: Tensor, fast: bool = True) -> Tensor:
    """A layer of sums over all pairs of children, from log-densities to log-densities, in nats.

        log S_k = a + a' + log sum_ij W_kij exp(N_i - a) exp(N'_j - a'),   a = max_i N_i,   a' = max_j N'_j

    weights (L, K_out, K, K'), left (L, K, B), right (L, K', B) -> (L, K_out, B). `fast=False` spells the formula out in
    one `torch.einsum`; the fast way never holds all outer products at once. Both may be differentiated any number of
    times.

    Paper: Section 3.2, Eq. (4) and (5)
    Chapter: book/02_log_einsum_exp
    """
    if fast:
        scaled_left, scaled_right = (Scaled.from_log(child, weights.dtype) for child in (left, right))
        sums, log_scale = _scaled_sums(weights.flatten(2), scaled_left.value, scaled_right.value)
        log_scale = log_scale + scaled_left.log_scale + scaled_right.log_scale
        return Scaled(sums, log_scale).log().to(left.dtype)
    a, b = left.detach().amax(1, keepdim=True), right.detach().amax(1, keepdim=True)
    sums = torch.einsum("lkij,lib,ljb->lkb", weights, torch.exp(left - a), torch.exp(right - b))
    return a + b + torch.log(sums)


def _plain_sums(weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """S_k = sum_ij W_kij left_i right_j, by the formula."""
    weights = weights.unflatten(2, (left.shape[1], right.shape[1]))
    return torch.einsum("lkij,lib,ljb->lkb", weights, left, right)


def _scaled_sums(weights: Tensor, *children: Tensor) -> tuple[Tensor, Tensor]:
    if not transformed():
        return _EinsumFunction.apply(weights, *children)
    sums = _plain_sums(weights, *_left_and_right(children))
    scale = sums.detach().amax(1).clamp_min(torch.finfo(sums.dtype).tiny)
    return sums / scale[:, None], torch.log(scale.double())


class _EinsumFunction(torch.autograd.Function):
    """S_k = sum_ij W_kij left_i right_j, scaled to a largest entry of 1: (S / max S, log max S).

    The outer products (L, K * K', B) exist for a few nodes at a time only, in one buffer that is used again and again,
    and are formed anew in the backward pass: between the passes nothing but the (L, K, B) vectors is kept.
    """

    @staticmethod
    def forward(ctx, weights: Tensor, *children: Tensor) -> tuple[Tensor, Tensor]:
        left, right = _left_and_right(children)
        sums = left.new_empty(len(weights), weights.shape[1], left.shape[2])
        for nodes, outer, _ in _outer_products(left, right):
            torch.bmm(weights[nodes], outer, out=sums[nodes])
        scale = sums.amax(1).clamp_min_(torch.finfo(sums.dtype).tiny)
        sums.div_(scale[:, None])
        log_scale = torch.log(scale.double())
        ctx.save_for_backward(weights, scale, *children)
        ctx.mark_non_differentiable(log_scale)
        return sums, log_scale

    @staticmethod
    def backward(ctx, gradient: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        weights, scale, *children = ctx.saved_tensors
        if torch.is_grad_enabled():  # the caller asks for gradients that can be differentiated
            return (*gradients_of_sums(scale, _left_and_right, (weights, *children), gradient),)
        left, right = _left_and_right(children)
        gradient = gradient / scale[:, None]
        grad_weights, grad_children = torch.empty_like(weights), [torch.empty_like(child) for child in children]
        grad_left, grad_right = _left_and_right(grad_children)
        for nodes, outer, other in _outer_products(left, right, rooms=2):
            torch.bmm(gradient[nodes], outer.transpose(1, 2), out=grad_weights[nodes])
            torch.bmm(weights[nodes].transpose(1, 2), gradient[nodes], out=outer)
            pairs, terms = (each.view(len(each), left.shape[1], right.shape[1], -1) for each in (outer, other))
            torch.sum(torch.mul(pairs, right[nodes, None], out=terms), 2, out=grad_left[nodes])
            torch.sum(pairs.mul_(left[nodes, :, None]), 1, out=grad_right[nodes])
        return grad_weights, *grad_children


def gradients_of_sums(scale: Tensor, fetch: Callable, inputs: Sequence[Tensor], gradient: Tensor) -> list:
    """Gradients of the `inputs` of S / scale, weights and pools, which may be differentiated in turn.

    `fetch` takes the left and the right children out of the pools.
    """

    def plain(weights: Tensor, *pools: Tensor) -> Tensor:
        return _plain_sums(weights, *fetch(pools)) / scale[:, None]

    return differentiable(plain, inputs, gradient)


def _left_and_right(children: Sequence[Tensor]) -> Sequence[Tensor]:
    """Two tensors as they are; one tensor is all left children and, below them, all right children."""
    return children if len(children) == 2 else children[0].chunk(2)


def _outer_products(left: Tensor, right: Tensor, rooms: int = 1):
    """Slices of nodes, their outer products (nodes, K * K', B), and as much room again if `rooms` is 2."""
    (num_nodes, num_left, batch), num_right = left.shape, right.shape[1]
    slices = node_slices(num_nodes, num_left * num_right * batch, left)
    shape = (rooms, slices[0].stop, num_left * num_right, batch)
    with room(math.prod(shape), left) as buffer:
        buffers = buffer.view(shape)
        for nodes in slices:
            outer, other = (buffers[i, : nodes.stop - nodes.start] for i in (0, -1))
            pairs = outer.view(len(outer), num_left, num_right, batch)
            torch.mul(left[nodes, :, None], right[nodes, None], out=pairs)
            yield nodes, outer, other


class EinsumLayer(nn.Module):
    """L sum nodes of K_out entries each, every entry a mixture of all products of a left and a right child's entries.

    weights (L, K_out, K * K'), non-negative, the last axis summing to 1. Maps the children's vectors (L, K, B) and
    (L, K', B), or both as one (2 L, K, B), to (L, K_out, B).

    Paper: Section 3.2, Eq. (5)
    Chapter: book/03_einsum_layer
    """

    def __init__(self, num_nodes: int, num_out: int, num_left: int, num_right: int):
        super().__init__()
        self.num_left, self.num_right = num_left, num_right
        self.weights = nn.Parameter(torch.empty(num_nodes, num_out, num_left * num_right, dtype=torch.float32))

    weight_dim = 2
    precision: str | None = "ieee"  # of the products on a GPU: see `set_precision`

    def forward(self, *children: Scaled | Gathered) -> Scaled:
        weights = self.weights  # once: where they are parametrized, every look computes them
        kernels = None if transformed() else self.kernels(weights)
        if kernels is not None:
            return self._fused(kernels, weights, [c if isinstance(c, Gathered) else Gathered(c) for c in children])
        children = [c.fetch() if isinstance(c, Gathered) else c for c in children]
        sums, log_scale = _scaled_sums(weights, *(child.value for child in children))
        left, right = _left_and_right([child.log_scale for child in children])
        return Scaled(sums, log_scale + left + right)

    def kernels(self, weights: Tensor) -> ModuleType | None:
        """`einet.kernels`, where the layer goes through them: the weights are on a GPU, and Triton is installed."""
        on_gpu = weights.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"  # the latter imitates one, for tests
        kernels = _import_kernels() if on_gpu and self.precision else None
        return kernels if kernels and kernels.serves(weights, self.num_left, self.num_right) else None

    def _fused(self, kernels: ModuleType, weights: Tensor, children: list[Gathered]) -> Scaled:
        """The same by a kernel that fetches the children, multiplies and scales in one go, and holds no products."""
        pools, rows, segments = zip(*children, strict=True)
        rows = [
            torch.arange(len(pool.value), device=weights.device) if own is None else own
            for pool, own in zip(pools, rows, strict=True)
        ]
        return Scaled(
            *kernels.einsum(weights, pools, _left_and_right(rows), segments, self.precision, gradients_of_sums)
        )

    def extra_repr(self) -> str:
        return f"nodes={len(self.weights)}, {self.num_left} x {self.num_right} -> {self.weights.shape[1]}"


def set_precision(model: nn.Module, precision: str | None) -> None:
    """How the einsum layers of `model` multiply on a GPU, where the fused kernels of `einet.kernels` serve them.

    "ieee", the default, multiplies in float32. The others use the tensor cores: "tf32" rounds every factor to 11
    significant bits, "tf32x3" and "bf16x3" split each in two and add three products. None leaves the kernels out, for
    the plain path in PyTorch. On a CPU, and in float64, nothing changes. `ValueError` for anything else.

    Paper: not in it; its code multiplies as PyTorch does
    Chapter: book/13_past_the_paper
    """
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision must be None or one of {', '.join(PRECISIONS)}, got {precision!r}")
    for layer in model.modules():
        if isinstance(layer, EinsumLayer):
            layer.precision = precision


@cache
def _import_kernels() -> ModuleType | None:
    try:
        from einet import kernels  # here, so that `import einet` needs no Triton
    except ImportError:
        return None
    return kernels


class MixingLayer(nn.Module):
    """M regions with the same number P of partitions: entry k mixes entry k of the P partitions.

    weights (M, P, K), non-negative, the middle axis summing to 1. Maps (M * P, K, B), a region's partitions side by
    side, to (M, K, B). Regions with other numbers of partitions have a mixing layer of their own, so nothing is padded
    and no padding can carry mass.

    Paper: Section 3.3
    Chapter: book/04_layers
    """

    def __init__(self, num_nodes: int, num_partitions: int, num_out: int):
        super().__init__()
        self.weights = nn.Parameter(torch.empty(num_nodes, num_partitions, num_out, dtype=torch.float32))

    weight_dim = 1

    def forward(self, partitions: Scaled) -> Scaled:
        weights = self.weights
        shape = weights.shape[:2]
        scales = partitions.log_scale.unflatten(0, shape)
        log_scale = scales.amax(1).clamp_min(torch.finfo(scales.dtype).min)  # where all are impossible
        relative = torch.exp(scales - log_scale[:, None]).to(weights.dtype)
        values = partitions.value.unflatten(0, shape) * relative[:, :, None]
        return Scaled((values * weights[..., None]).sum(1), log_scale)

    def extra_repr(self) -> str:
        return f"nodes={len(self.weights)}, partitions={self.weights.shape[1]}, {self.weights.shape[2]}"


def normalized_(weights: Tensor, dim: int, generator: torch.Generator) -> None:
    """Fill with a draw from the flat Dirichlet distribution along `dim`."""
    with torch.no_grad():
        uniform = torch.rand(weights.shape, generator=generator, dtype=torch.float32, device=generator.device)
        draw = uniform.clamp_min_(1e-6).log_().neg_()
        weights.copy_(draw / draw.sum(dim, keepdim=True))
