"""The einsum of Eq. (5): sums over all products of a left and a right child's entries, and its derivatives.

It is the paper's log-einsum-exp trick (Eq. 4), with one saving: the logarithm at the end of a layer and the exponential
at the start of the next cancel, so both are left out, but for one logarithm a vector (see `rescaled`).

The fast way works in place, which is nothing that autograd could differentiate. Gradients that are differentiated in
turn (`create_graph=True`), and all that `torch.func` transforms, go by plain operations: right, and slow.

Source: Section 3.2, Eq. (4) and (5)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from einet.layers.derivatives import differentiable, transformed
from einet.layers.scaled import Scaled, rescaled
from einet.layers.scratch import node_slices, scratch


def log_einsum_exp(weights: Tensor, left: Tensor, right: Tensor, fast: bool = True) -> Tensor:
    """A layer of sums over all pairs of children, from log-densities to log-densities, in nats.

        log S_k = a + a' + log sum_ij W_kij exp(N_i - a) exp(N'_j - a'),   a = max_i N_i,   a' = max_j N'_j

    It may be differentiated any number of times.

    Args:
        weights: (L, K_out, K, K'), non-negative.
        left: (L, K, B).
        right: (L, K', B).
        fast: never hold all outer products at once. False spells the formula out in one `torch.einsum`.

    Returns:
        log S, (L, K_out, B).

    Source: Section 3.2, Eq. (4) and (5)
    """
    if fast:
        scaled_left, scaled_right = (Scaled.from_log(child, weights.dtype) for child in (left, right))
        sums, log_scale = scaled_sums(weights.flatten(2), scaled_left.value, scaled_right.value)
        log_scale = log_scale + scaled_left.log_scale + scaled_right.log_scale
        return Scaled(sums, log_scale).log().to(left.dtype)
    a, b = left.detach().amax(1, keepdim=True), right.detach().amax(1, keepdim=True)
    sums = torch.einsum("lkij,lib,ljb->lkb", weights, torch.exp(left - a), torch.exp(right - b))
    return a + b + torch.log(sums)


def _plain_sums(weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """S_k = sum_ij W_kij left_i right_j, by the formula."""
    weights = weights.unflatten(2, (left.shape[1], right.shape[1]))
    return torch.einsum("lkij,lib,ljb->lkb", weights, left, right)


def scaled_sums(weights: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """(S / max S, log max S) for weights (L, K_out, K * K'), the fast way where that may be differentiated."""
    if transformed():
        return rescaled(_plain_sums(weights, left, right))
    return _EinsumFunction.apply(weights, left, right)


class _EinsumFunction(torch.autograd.Function):
    """S_k = sum_ij W_kij left_i right_j, scaled to a largest entry of 1: (S / max S, log max S).

    The outer products (L, K * K', B) exist for a few nodes at a time, in one scratch buffer, and are formed anew in the
    backward pass: between the passes nothing but the (L, K, B) vectors is kept.
    """

    @staticmethod
    def forward(ctx, weights: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        sums = left.new_empty(len(weights), weights.shape[1], left.shape[2])
        for nodes, outer, _ in _outer_products(left, right):
            torch.bmm(weights[nodes], outer, out=sums[nodes])
        scale = sums.amax(1).clamp_min_(torch.finfo(sums.dtype).tiny)
        sums.div_(scale[:, None])
        log_scale = torch.log(scale.double())
        ctx.save_for_backward(weights, scale, left, right)
        ctx.mark_non_differentiable(log_scale)
        return sums, log_scale

    @staticmethod
    def backward(ctx, gradient: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        weights, scale, left, right = ctx.saved_tensors
        if torch.is_grad_enabled():  # the caller asks for gradients that can be differentiated
            return (*gradients_of_sums(scale, tuple, (weights, left, right), gradient),)
        gradient = gradient / scale[:, None]
        grad_weights, grad_left, grad_right = torch.empty_like(weights), *_side_by_side(left, right)
        for nodes, outer, other in _outer_products(left, right, num_buffers=2):
            torch.bmm(gradient[nodes], outer.transpose(1, 2), out=grad_weights[nodes])
            torch.bmm(weights[nodes].transpose(1, 2), gradient[nodes], out=outer)
            pairs, terms = (each.view(len(each), left.shape[1], right.shape[1], -1) for each in (outer, other))
            torch.sum(torch.mul(pairs, right[nodes, None], out=terms), 2, out=grad_left[nodes])
            torch.sum(pairs.mul_(left[nodes, :, None]), 1, out=grad_right[nodes])
        return grad_weights, grad_left, grad_right


def _side_by_side(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Empty tensors for both gradients, in one buffer where they are equally large: see `derivatives.parts`."""
    if left.shape != right.shape:
        return left.new_empty(left.shape), right.new_empty(right.shape)
    both = left.new_empty(2, *left.shape)
    return both[0], both[1]


def gradients_of_sums(scale: Tensor, fetch: Callable, inputs: Sequence[Tensor], gradient: Tensor) -> list:
    """Gradients of S / scale by `inputs`, which may be differentiated in turn.

    Args:
        scale: max S.
        fetch: takes the left and the right children out of the pools.
        inputs: the weights and the pools.
        gradient: of S / scale.
    """

    def plain(weights: Tensor, *pools: Tensor) -> Tensor:
        return _plain_sums(weights, *fetch(pools)) / scale[:, None]

    return differentiable(plain, inputs, gradient)


def _outer_products(left: Tensor, right: Tensor, num_buffers: int = 1) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(slice of nodes, their outer products (nodes, K * K', B), and with two buffers a second one of that size)."""
    (num_nodes, num_left, batch), num_right = left.shape, right.shape[1]
    slices = node_slices(num_nodes, num_left * num_right * batch, left)
    shape = (num_buffers, slices[0].stop, num_left * num_right, batch)
    with scratch(math.prod(shape), left) as buffer:
        buffers = buffer.view(shape)
        for nodes in slices:
            outer, other = (buffers[i, : nodes.stop - nodes.start] for i in (0, -1))
            pairs = outer.view(len(outer), num_left, num_right, batch)
            torch.mul(left[nodes, :, None], right[nodes, None], out=pairs)
            yield nodes, outer, other
