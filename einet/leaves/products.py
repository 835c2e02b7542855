"""The log-densities of factorised leaves as grouped matrix products, with derivatives of their own.

Source: Section 3.4
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from einet.family import ExponentialFamily
from einet.layers.derivatives import differentiable, transformed
from einet.layers.scaled import Scaled
from einet.layers.scratch import exp_, node_slices, scratch

Factors: TypeAlias = tuple[Tensor, Tensor, Tensor, ExponentialFamily, bool]


def densities(
    factors: Factors, kind: type[Scaled] | None = None, dtype: torch.dtype | None = None
) -> tuple[Tensor, Any]:
    """(log-densities, None), or with a `kind` and `dtype` scaled ones: by `_LeafFunction` where that is possible."""
    if not transformed():
        return _LeafFunction.apply(*factors, kind, dtype)
    logs = _plain_logs(*factors)
    return (logs, None) if kind is None or dtype is None else kind.from_log(logs, dtype)


def _plain_logs(phi: Tensor, features: Tensor, index: Tensor, family: ExponentialFamily, masked: bool) -> Tensor:
    parameters, constants = _parameters(family, phi.to(features.dtype), masked)
    return torch.baddbmm(constants, parameters, features[index])


class _LeafFunction(torch.autograd.Function):
    """log L_k = sum over s variables and C channels:  T(x) . theta_k - A(theta_k), (L, K, B), from phi (T, L, K, s, C).

    `features` (n, B) has a row for each statistic of each variable, `index` (L, T s C) the rows of each region. If
    `masked`, a mask follows for each variable, in both: its coefficient is -A(theta). With a `kind` the result is
    scaled, (L / max L, log max L), or its logarithm, (log L - log max L, log max L), in `dtype`.

    It takes a few nodes at a time, so neither the gathered features nor the log-densities, which may be in float64,
    ever exist as a whole. The backward pass keeps nothing but its inputs and the densities.
    """

    @staticmethod
    def forward(ctx, phi, features, index, family, masked, kind, dtype):
        (_, num_nodes, entries, *_), batch = phi.shape, features.shape[1]
        density = features.new_empty(num_nodes, entries, batch, dtype=dtype)
        log_scale = features.new_empty(num_nodes, batch, dtype=torch.float64)
        parameters, constants = _parameters(family, _contiguous(phi, features.dtype), masked)
        for nodes, gathered, logs in _gathered(features, index, entries):
            torch.baddbmm(constants[nodes], parameters[nodes], gathered, out=logs)
            if kind is None:
                density[nodes] = logs
                continue
            scale = logs.amax(1).clamp_min_(torch.finfo(logs.dtype).min)
            log_scale[nodes] = scale
            relative = density[nodes].copy_(logs.sub_(scale[:, None]))
            if kind is Scaled:
                exp_(relative)
        ctx.family, ctx.masked, ctx.kind, ctx.dtype = family, masked, kind, dtype
        ctx.save_for_backward(phi, features, index, density if kind is Scaled else None)
        if kind is None:
            return density, None
        ctx.mark_non_differentiable(log_scale)
        return density, log_scale

    @staticmethod
    def backward(ctx, gradient, _):
        phi, features, index, density = ctx.saved_tensors
        if torch.is_grad_enabled():

            def plain(phi: Tensor, features: Tensor) -> Tensor:
                logs = _plain_logs(phi, features, index, ctx.family, ctx.masked)
                return logs if ctx.kind is None else ctx.kind.from_log(logs, ctx.dtype).value

            return *differentiable(plain, (phi, features), gradient), *[None] * 5
        _, num_nodes, entries, *pair = phi.shape
        sums = features.new_empty(num_nodes, entries, index.shape[1])  # over the rows, of counts * features
        totals = features.new_empty(num_nodes, entries)  # of the counts
        grad_features = torch.zeros_like(features) if ctx.needs_input_grad[1] else None
        parameters = None
        if grad_features is not None:
            parameters, _ = _parameters(ctx.family, _contiguous(phi, features.dtype), ctx.masked)
        for nodes, gathered, counts in _gathered(features, index, entries):
            # The expected count d log P / d log L: the probability, given the row, that the circuit uses this entry.
            if density is not None:
                torch.mul(gradient[nodes], density[nodes], out=counts)
            else:
                counts.copy_(gradient[nodes])
            if not ctx.masked:
                torch.sum(counts, 2, out=totals[nodes])
            torch.bmm(counts, gathered.transpose(1, 2), out=sums[nodes])
            if grad_features is not None and parameters is not None:
                back = torch.bmm(parameters[nodes].transpose(1, 2), counts)  # (nodes, n, B)
                grad_features.index_add_(0, index[nodes].flatten(), back.flatten(0, 1))
        width = len(phi) * math.prod(pair)
        statistics = sums[..., :width].unflatten(2, (len(phi), *pair)).movedim(2, 0)  # as phi
        counts = sums[..., width:, None] if ctx.masked else totals[..., None, None]  # (L, K, s, C)
        grad_phi = ctx.family.score(_contiguous(phi, features.dtype), statistics, counts)
        return grad_phi.to(phi.dtype), grad_features, *[None] * 5


def _contiguous(phi: Tensor, dtype: torch.dtype) -> Tensor:
    """One pass if the type changes; if it does not, `to` alone would keep the strides."""
    return phi.to(dtype, memory_format=torch.contiguous_format).contiguous()


def _parameters(family: ExponentialFamily, phi: Tensor, masked: bool) -> tuple[Tensor, Tensor]:
    """The coefficients of each region's features, (L, K, n), and the constants, (L, K, 1)."""
    theta = family.natural(phi)  # (T, L, K, s, C)
    parameters, normalizers = theta.movedim(0, 2).flatten(2), family.log_normalizer(theta)
    if not masked:
        return parameters, -normalizers.sum((2, 3))[..., None]
    return torch.cat((parameters, -normalizers.sum(3)), 2), torch.zeros_like(parameters[..., :1])


def _gathered(features: Tensor, index: Tensor, entries: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Slices of nodes, their features (nodes, n, B), and a scratch buffer (nodes, entries, B)."""
    (num_nodes, width), batch = index.shape, features.shape[1]
    slices = node_slices(num_nodes, max(width, entries) * batch, features)
    sizes = [slices[0].stop * width, slices[0].stop * entries]
    with scratch(sum(sizes) * batch, features) as memory:
        for_features, for_entries = memory.view(-1, batch).split(sizes)
        for_entries = for_entries.view(-1, entries, batch)
        for nodes in slices:
            count = nodes.stop - nodes.start
            rows = for_features[: count * width]
            torch.index_select(features, 0, index[nodes].flatten(), out=rows)
            yield nodes, rows.view(count, width, batch), for_entries[:count]
