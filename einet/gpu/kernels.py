"""The einsum layer on a GPU: fused Triton kernels, in which no outer product ever reaches the device's memory.

For a sum node with weights W_kij and children l_i, r_j, for each row of a batch,

    S_k = sum_ij W_kij l_i r_j              `_sums`               forward
    dW_kij = sum over rows of g_k l_i r_j   `_weight_gradients`   backward, with g the gradient of S
    dl_i = sum_kj g_k W_kij r_j             `_child_gradients`    backward
    dr_j = sum_ki g_k W_kij l_i             `_child_gradients`

A program makes a tile of one node's outer products l_i r_j in its registers and feeds it to the tensor cores, tile
after tile; the backward pass makes them again. Each output has one owner, which adds its terms in a fixed order, so
two runs give equal bits. Children are fetched by row from a pool of vectors, (N, K, B), and a child that several nodes
share gets the sum of their gradients from one program, `_shared_sums`.

    precision   a product of two float32 on the tensor cores
    "ieee"      not on them: float32 multiply-adds, as on a CPU
    "tf32"      both factors rounded to 11 significant bits: one product
    "tf32x3"    both split in two such parts, a = a0 + a1: a0 b0 + a0 b1 + a1 b0
    "bf16x3"    the same with parts of 8 bits, which the tensor cores multiply twice as fast

`layers.EinsumLayer` calls `einsum` where `supports` is true, else its plain path: tests/gpu/test_kernels.py compares
them. Letters: B rows, K entries of a vector (K_OUT, K_LEFT, K_RIGHT), p = i * K_RIGHT + j a pair.

Source: Section 3.2, Eq. (4) and (5)
"""

# Triton's launch syntax, kernel[grid](...), has no types.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import next_power_of_2

# Triton's interpreter runs on the CPU, where tensor cores and their number formats are only imitated.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# A tile spans all entries of a vector: of longer ones, a program could not keep its sums in registers.
MAX_VECTOR_LENGTH = 64
TINY = tl.constexpr(torch.finfo(torch.float32).tiny)


def supports(weights: Tensor, num_left: int, num_right: int) -> bool:
    """Whether the kernels take such a layer: float32, vectors of at most 64 entries, a card with tensor cores.

    Source: not in the paper; the limits are those of a GPU's registers
    """
    fits = max(weights.shape[1], num_left, num_right) <= MAX_VECTOR_LENGTH
    return weights.dtype == torch.float32 and fits and (INTERPRETED or _has_tensor_cores(weights.device))


def einsum(
    weights: Tensor,
    pools: Sequence[tuple[Tensor, Tensor]],
    rows: Sequence[Tensor],
    segments: Sequence[tuple[Tensor, Tensor] | None],
    precision: str,
    again: Callable,
) -> tuple[Tensor, Tensor]:
    """The sums S_k = sum_ij W_kij l_i r_j of a layer, scaled to a largest entry of 1.

    Args:
        weights: (L, K_out, K * K').
        pools: (value (N, K, B), log_scale (N, B)) of the left children and of the right; one, if both share it.
        rows: the index of each node's left child in its pool, and of its right child: int64, (L,) each.
        segments: for each pool the CSR index (order, offsets) from rows to children, all left ones before all right
            ones if it is shared: row n is child order[offsets[n]:offsets[n + 1]]. None where child c is row c.
        precision: one of the table above.
        again: `einsum.gradients_of_sums`, for gradients that are differentiated again.

    Returns:
        S / max S (L, K_out, B), and its log scale (L, B) in float64.

    Source: Section 3.2, Eq. (5)
    """
    values, scales = zip(*pools, strict=True)
    with torch.cuda.device_of(weights):  # Triton launches on the current device, wherever the tensors are
        return _Einsum.apply(weights, scales, rows, segments, precision, again, *values)


def move_weights(weights: Tensor, rate: Tensor, dim: int, pseudocount: float, fewest: float, floor: float) -> None:
    """The M-step w <- (1 - rate) w + rate normalise(w * grad_w + pseudocount) along the last axis, in one pass.

    `em.EM` has the plain way.

    Args:
        weights: (L, K_out, n), with their gradient.
        rate: broadcasts against (L, K_out, 1).
        dim: the last axis.
        pseudocount: added to each expected count.
        fewest: a sum with no more expected counts stays as it is.
        floor: lower bound on each weight.

    Source: Section 3.5, Eq. (6) and (8)
    """
    rows, width = weights.shape[:-1].numel(), weights.shape[-1]
    rates = rate.expand(*weights.shape[:-1], 1).contiguous()
    numbers = map(float, (pseudocount, fewest, floor))  # Triton compiles anew for an integer
    sizes = {"WIDTH": width, "TILE": next_power_of_2(width)}
    with torch.cuda.device_of(weights):
        _moved[(rows,)](weights, weights.grad.contiguous(), rates, *numbers, **sizes, num_warps=4)


class _Einsum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights, scales, rows, segments, precision, again, *pools):
        given = weights, *pools
        weights, *pools = (tensor.contiguous() for tensor in given)
        scales = [scale.contiguous() for scale in scales]
        (num_nodes, num_out, _), batch = weights.shape, pools[0].shape[2]
        left, right = pools[0], pools[-1]
        value = weights.new_empty(num_nodes, num_out, batch)
        peak = weights.new_empty(num_nodes, batch)
        log_scale = weights.new_empty(num_nodes, batch, dtype=torch.float64)
        grid, settings = _settings(left, right, num_nodes, num_out, precision)
        _sums[grid](weights, left, right, scales[0], scales[-1], *rows, value, peak, log_scale, batch, **settings)
        ctx.save_for_backward(peak, *rows, *given)
        ctx.segments, ctx.precision, ctx.again = segments, precision, again
        ctx.mark_non_differentiable(log_scale)
        return value, log_scale

    @staticmethod
    def backward(ctx, gradient, _):
        peak, left_rows, right_rows, *given = ctx.saved_tensors
        if torch.is_grad_enabled():  # the caller asks for gradients that can be differentiated
            of_weights, *of_pools = ctx.again(
                peak, lambda pools: _fetched(pools, left_rows, right_rows), given, gradient
            )
            return of_weights, None, None, None, None, None, *of_pools
        weights, *pools = (tensor.contiguous() for tensor in given)
        (num_nodes, num_out, num_pairs), batch = weights.shape, peak.shape[1]
        left, right = pools[0], pools[-1]
        by_batch, settings = _settings(left, right, num_nodes, num_out, ctx.precision)
        given = (gradient.contiguous(), peak, left, right, left_rows, right_rows)

        grad_weights = torch.empty_like(weights)
        by_pairs = (num_nodes * triton.cdiv(num_pairs, PAIRS_OF_GRADIENT),)
        pair_tiles = settings | {"TILE_B": ROWS_OF_GRADIENT, "TILE_P": PAIRS_OF_GRADIENT, "num_warps": 4}
        _weight_gradients[by_pairs](*given, grad_weights, batch, **pair_tiles)

        # Each node's own gradients of its children: (2 L, K, B) where they share a pool, else twice (L, K, B).
        num_children = num_nodes if len(pools) == 2 else 2 * num_nodes
        children = [pool.new_empty(num_children, *pool.shape[1:]) for pool in pools]
        grad_left, grad_right = children if len(pools) == 2 else children[0].chunk(2)
        child_tiles = {name: value for name, value in settings.items() if name != "TILE_P"}
        _child_gradients[by_batch](weights, *given, grad_left, grad_right, batch, **child_tiles)
        shared = zip(children, pools, ctx.segments, strict=True)
        return grad_weights, None, None, None, None, None, *(_summed(*child) for child in shared)


def _fetched(pools: list[Tensor], left_rows: Tensor, right_rows: Tensor) -> tuple[Tensor, Tensor]:
    return pools[0].index_select(0, left_rows), pools[-1].index_select(0, right_rows)


def _summed(children: Tensor, pool: Tensor, segments: tuple[Tensor, Tensor] | None) -> Tensor:
    """The gradient of a pool (N, K, B): each row sums those of the children that it is."""
    if segments is None:
        return children
    total, size = torch.empty_like(pool), pool[0].numel()
    _shared_sums[(len(pool) * triton.cdiv(size, 1024),)](children, *segments, total, size, TILE=1024, num_warps=4)
    return total


# For the weights' gradient a program owns a tile of pairs, and takes a tile of rows at a time.
PAIRS_OF_GRADIENT, ROWS_OF_GRADIENT = 64, 32


def _settings(
    left: Tensor, right: Tensor, num_nodes: int, num_out: int, precision: str, multiprocessors: int = 0
) -> tuple[tuple[int], dict[str, int | str]]:
    """A grid of tiles of the batch, and the kernels' compile-time constants: sizes, and the powers of 2 above them."""
    batch, num_left, num_right = left.shape[2], left.shape[1], right.shape[1]
    tile = min(max(16, next_power_of_2(batch)), 64 if precision == "ieee" else 128)
    multiprocessors = multiprocessors or _multiprocessors(left.device)
    while tile > 16 and num_nodes * triton.cdiv(batch, tile) < multiprocessors:
        tile //= 2  # rather small tiles than idle multiprocessors
    sizes = {"K_OUT": num_out, "K_LEFT": num_left, "K_RIGHT": num_right}
    padded = {"PAD_OUT": max(16, next_power_of_2(num_out)), "PAD_RIGHT": max(16, next_power_of_2(num_right))}
    tiles = {"TILE_B": tile, "TILE_P": 16 if precision == "ieee" else 32, "ALIGN": math.gcd(batch, 16)}
    settings = {"PRECISION": precision, "CARD": not INTERPRETED, "num_warps": 8 if tile > 64 else 4}
    return (num_nodes * triton.cdiv(batch, tile),), sizes | padded | tiles | settings


@cache
def _multiprocessors(device: torch.device) -> int:
    return 1 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count


@cache
def _has_tensor_cores(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


# Products of float32 matrices


@triton.jit
def _dot(a, b, total, PRECISION: tl.constexpr, CARD: tl.constexpr):
    """total + a @ b, for float32 a (m, n) and b (n, o)."""
    if PRECISION == "ieee":
        total = tl.dot(a, b, total, input_precision="ieee")
    elif PRECISION == "tf32":
        total = tl.dot(_tf32(a), _tf32(b), total, input_precision="tf32")
    elif PRECISION == "tf32x3":
        a0, b0 = _tf32(a), _tf32(b)
        a1, b1 = _tf32(a - a0), _tf32(b - b0)
        total = tl.dot(a1, b0, total, input_precision="tf32")  # small terms first
        total = tl.dot(a0, b1, total, input_precision="tf32")
        total = tl.dot(a0, b0, total, input_precision="tf32")
    else:  # bf16x3
        a0, b0 = a.to(tl.bfloat16), b.to(tl.bfloat16)
        a1, b1 = (a - a0.to(tl.float32)).to(tl.bfloat16), (b - b0.to(tl.float32)).to(tl.bfloat16)
        if not CARD:  # numpy multiplies no bfloat16; as float32 they are the same numbers
            a0, a1, b0, b1 = a0.to(tl.float32), a1.to(tl.float32), b0.to(tl.float32), b1.to(tl.float32)
        total = tl.dot(a1, b0, total)
        total = tl.dot(a0, b1, total)
        total = tl.dot(a0, b0, total)
    return total


@triton.jit
def _tf32(x):
    """The nearest float32 with 10 stored bits of mantissa. The tensor cores would cut off instead, always downwards."""
    bits = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _outer(left, right, i, j, b, inside, batch):
    """left_i right_j of the pairs i, j and rows b, which broadcast to the tile's shape; 0 where not `inside`."""
    l_i = tl.load(left + i * batch + b, mask=inside, other=0.0)
    r_j = tl.load(right + j * batch + b, mask=inside, other=0.0)
    return l_i * r_j


# The kernels. Program n of a grid has node n // tiles and tile n % tiles: those of one node run side by side, and share
# its weights in the L2 cache.


@triton.jit(do_not_specialize=["batch"])
def _sums(
    weights, left, right, left_scale, right_scale, left_rows, right_rows, value, peak, log_scale, batch,
    K_OUT: tl.constexpr, K_LEFT: tl.constexpr, K_RIGHT: tl.constexpr, PAD_OUT: tl.constexpr, PAD_RIGHT: tl.constexpr,
    TILE_B: tl.constexpr, TILE_P: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr, CARD: tl.constexpr,
):  # fmt: skip
    """The sums of one node for TILE_B rows: S_k = sum_p W_kp (l r)_p, then S / max S and log max S + the scales."""
    tiles = tl.cdiv(batch, TILE_B)
    node = (tl.program_id(0) // tiles).to(tl.int64)
    b = (tl.program_id(0) % tiles) * TILE_B + tl.arange(0, TILE_B)  # (TILE_B,)
    batch = tl.multiple_of(batch, ALIGN)  # so that several rows are loaded at once
    k = tl.arange(0, PAD_OUT)  # (PAD_OUT,)
    left_row, right_row = tl.load(left_rows + node), tl.load(right_rows + node)
    left += left_row * K_LEFT * batch
    right += right_row * K_RIGHT * batch
    weights += node * K_OUT * K_LEFT * K_RIGHT

    total = tl.zeros((TILE_B, PAD_OUT), tl.float32)
    for start in range(0, K_LEFT * K_RIGHT, TILE_P):
        p = start + tl.arange(0, TILE_P)  # (TILE_P,)
        is_pair = p < K_LEFT * K_RIGHT
        i, j = p // K_RIGHT, p % K_RIGHT
        inside = (b < batch)[:, None] & is_pair[None, :]
        outer = _outer(left, right, i[None, :], j[None, :], b[:, None], inside, batch)  # (TILE_B, TILE_P)
        at = k[None, :] * (K_LEFT * K_RIGHT) + p[:, None]
        w = tl.load(weights + at, mask=(k < K_OUT)[None, :] & is_pair[:, None], other=0.0)  # (TILE_P, PAD_OUT)
        total = _dot(outer, w, total, PRECISION, CARD)

    largest = tl.maximum(tl.max(total, 1), TINY)  # (TILE_B,)
    at = node * K_OUT * batch + k[None, :] * batch + b[:, None]
    tl.store(value + at, total / largest[:, None], mask=(k < K_OUT)[None, :] & (b < batch)[:, None])
    scale = tl.load(left_scale + left_row * batch + b, mask=b < batch, other=0.0)
    scale += tl.load(right_scale + right_row * batch + b, mask=b < batch, other=0.0)
    tl.store(peak + node * batch + b, largest, mask=b < batch)
    tl.store(log_scale + node * batch + b, scale + tl.log(largest.to(tl.float64)), mask=b < batch)


@triton.jit(do_not_specialize=["batch"])
def _weight_gradients(
    gradient, peak, left, right, left_rows, right_rows, grad_weights, batch,
    K_OUT: tl.constexpr, K_LEFT: tl.constexpr, K_RIGHT: tl.constexpr, PAD_OUT: tl.constexpr, PAD_RIGHT: tl.constexpr,
    TILE_B: tl.constexpr, TILE_P: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr, CARD: tl.constexpr,
):  # fmt: skip
    """dW_kp = sum_b (l r)_pb g_bk of one node, for TILE_P pairs and all k: the batch is gone through in order."""
    tiles = tl.cdiv(K_LEFT * K_RIGHT, TILE_P)
    node = (tl.program_id(0) // tiles).to(tl.int64)
    p = (tl.program_id(0) % tiles) * TILE_P + tl.arange(0, TILE_P)  # (TILE_P,)
    batch = tl.multiple_of(batch, ALIGN)
    i, j, is_pair = p // K_RIGHT, p % K_RIGHT, p < K_LEFT * K_RIGHT
    k = tl.arange(0, PAD_OUT)  # (PAD_OUT,)
    left += tl.load(left_rows + node) * K_LEFT * batch
    right += tl.load(right_rows + node) * K_RIGHT * batch
    gradient += node * K_OUT * batch
    peak += node * batch

    total = tl.zeros((TILE_P, PAD_OUT), tl.float32)
    for start in range(0, batch, TILE_B):
        b = start + tl.arange(0, TILE_B)  # (TILE_B,)
        inside = is_pair[:, None] & (b < batch)[None, :]
        outer = _outer(left, right, i[:, None], j[:, None], b[None, :], inside, batch)  # (TILE_P, TILE_B)
        g = _gradient_of_sums(gradient, peak, k, b, batch, K_OUT)  # (TILE_B, PAD_OUT)
        total = _dot(outer, g, total, PRECISION, CARD)

    at = node * K_OUT * K_LEFT * K_RIGHT + k[None, :] * (K_LEFT * K_RIGHT) + p[:, None]
    tl.store(grad_weights + at, total, mask=(k < K_OUT)[None, :] & is_pair[:, None])


@triton.jit(do_not_specialize=["batch"])
def _child_gradients(
    weights, gradient, peak, left, right, left_rows, right_rows, grad_left, grad_right, batch,
    K_OUT: tl.constexpr, K_LEFT: tl.constexpr, K_RIGHT: tl.constexpr, PAD_OUT: tl.constexpr, PAD_RIGHT: tl.constexpr,
    TILE_B: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr, CARD: tl.constexpr,
):  # fmt: skip
    """One node's gradients of its children for TILE_B rows. For each i in turn, q_j = sum_k g_k W_kij gives both:

    dl_i = sum_j q_j r_j,   dr_j += q_j l_i
    """
    tiles = tl.cdiv(batch, TILE_B)
    node = (tl.program_id(0) // tiles).to(tl.int64)
    b = (tl.program_id(0) % tiles) * TILE_B + tl.arange(0, TILE_B)  # (TILE_B,)
    batch = tl.multiple_of(batch, ALIGN)
    k, j = tl.arange(0, PAD_OUT), tl.arange(0, PAD_RIGHT)  # (PAD_OUT,), (PAD_RIGHT,)
    left += tl.load(left_rows + node) * K_LEFT * batch
    right += tl.load(right_rows + node) * K_RIGHT * batch
    weights += node * K_OUT * K_LEFT * K_RIGHT
    gradient += node * K_OUT * batch
    peak += node * batch

    g = _gradient_of_sums(gradient, peak, k, b, batch, K_OUT)  # (TILE_B, PAD_OUT)
    inside = (b < batch)[:, None] & (j < K_RIGHT)[None, :]
    at = j[None, :] * batch + b[:, None]  # (TILE_B, PAD_RIGHT)
    r_j = tl.load(right + at, mask=inside, other=0.0)
    dr_j = tl.zeros((TILE_B, PAD_RIGHT), tl.float32)
    is_pair = (k < K_OUT)[:, None] & (j < K_RIGHT)[None, :]
    for i in range(0, K_LEFT):
        w = tl.load(weights + k[:, None] * (K_LEFT * K_RIGHT) + (i * K_RIGHT + j)[None, :], mask=is_pair, other=0.0)
        q = _dot(g, w, tl.zeros((TILE_B, PAD_RIGHT), tl.float32), PRECISION, CARD)  # (TILE_B, PAD_RIGHT)
        l_i = tl.load(left + i * batch + b, mask=b < batch, other=0.0)  # (TILE_B,)
        tl.store(grad_left + (node * K_LEFT + i) * batch + b, tl.sum(q * r_j, 1), mask=b < batch)
        dr_j += q * l_i[:, None]
    tl.store(grad_right + node * K_RIGHT * batch + at, dr_j, mask=inside)


@triton.jit
def _gradient_of_sums(gradient, peak, k, b, batch, K_OUT: tl.constexpr):
    """g_k = (gradient of S_k / max S) / max S of one node: (rows b, entries k), 0 beyond the batch and K_OUT."""
    inside = (b < batch)[:, None] & (k < K_OUT)[None, :]
    g = tl.load(gradient + k[None, :] * batch + b[:, None], mask=inside, other=0.0)
    return g / tl.load(peak + b, mask=b < batch, other=1.0)[:, None]


@triton.jit
def _shared_sums(children, order, offsets, total, size, TILE: tl.constexpr):
    """total_n = the sum of children[c] over all c in order[offsets[n]:offsets[n + 1]], in that order."""
    tiles = tl.cdiv(size, TILE)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    at = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)  # of the row's K * B numbers
    partial = tl.zeros((TILE,), tl.float32)
    for position in range(tl.load(offsets + row), tl.load(offsets + row + 1)):
        child = tl.load(order + position)
        partial += tl.load(children + child * size + at, mask=at < size, other=0.0)
    tl.store(total + row * size + at, partial, mask=at < size)


@triton.jit
def _moved(weights, gradient, rates, pseudocount, fewest, floor, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """One sum's weights: counts = w * grad_w + pseudocount, w <- (1 - rate) w + rate counts / their total."""
    row = tl.program_id(0).to(tl.int64)
    at = row * WIDTH + tl.arange(0, TILE)
    inside = tl.arange(0, TILE) < WIDTH
    w = tl.load(weights + at, mask=inside, other=0.0)
    counts = tl.load(gradient + at, mask=inside, other=0.0) * w
    counts = tl.where(inside, counts + pseudocount, 0.0)
    total = tl.sum(counts, 0)
    rate = tl.where(total > fewest, tl.load(rates + row), 0.0)
    w = (1 - rate) * w + counts * (rate / tl.maximum(total, fewest))
    tl.store(weights + at, tl.maximum(w, floor), mask=inside)
