"""The arithmetic of the thin layer: products of vectors entry by entry, then one dense sum, in scaled numbers.

    S_k = sum_i W_ki N_i N'_i ...        weights (L, K_out, K), children (K, B) -> (L, K_out, B)

Nodes of one layer may have any number of children each, so children stand in a row, and `Layout` says whose they are:
products run over all nodes that have a first child, then over those that have a second one, and the layer is one
batched matrix product.

A product of numbers may underflow where the product of their sums would not: what one child thinks impossible may be
what the others want. The plain product is right as long as nothing that was lost could have mattered, which the sums
tell afterwards. Where it might have, all is done by logarithms, in which nothing underflows.

Source: not in the paper; the numbers are scaled as in Section 3.2, Eq. (4)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn

from einet.layers.derivatives import differentiable, transformed
from einet.layers.scaled import Gathered, LogScaled, Scaled, rescaled
from einet.layers.scratch import exp

# Products of more children than these are as fast by logarithms.
MOST_FACTORS = 8


class Layout:
    """Which nodes have a first child, a second one, and so on.

    `nodes` has for each number of a child the nodes that have it, ascending; None where all have. As in `Gathered`,
    the children of one number are a side. No module, since its buffers would be looked up in every call.
    """

    def __init__(self, num_nodes: int, nodes: Sequence[Sequence[int] | None]):
        every = list(range(num_nodes))
        nodes = [every if own is None else list(own) for own in nodes]
        self.num_nodes, self.sizes = num_nodes, [len(own) for own in nodes]
        self.starts = [0, *accumulate(self.sizes)]  # of the sides among all children
        with torch.device("cpu"):
            node_of = torch.tensor(sum(nodes, []))  # of each child, side by side
        self._copies = {node_of.device: node_of}  # by device
        self.first = [own == every[: len(own)] for own in nodes]  # whether it is the first nodes that have it

    @property
    def num_sides(self) -> int:
        return len(self.sizes)

    def is_full(self, side: int) -> bool:
        return self.sizes[side] == self.num_nodes

    @property
    def num_children(self) -> str:
        """How many a node has: a number, or the fewest and the most."""
        counts = torch.bincount(next(iter(self._copies.values())), minlength=self.num_nodes)
        return "-".join(str(count) for count in sorted({int(counts.min()), int(counts.max())}))

    def nodes(self, side: int, device: torch.device) -> slice | Tensor:
        """The nodes that have a child on this side."""
        return slice(self.sizes[side]) if self.first[side] else self.node_of(range(side, side + 1), device)

    def find(self, side: int, node: Tensor) -> tuple[slice | Tensor, Tensor]:
        """(which of `node` have a child on this side, which child of the side it is)."""
        if self.is_full(side):
            return slice(None), node
        own = self.node_of(range(side, side + 1), node.device)
        row = torch.searchsorted(own, node).clamp_max(len(own) - 1)
        found = (own[row] == node).nonzero()[:, 0]
        return found, row[found]

    def summed(self, each: Tensor, sides: range | None = None) -> Tensor:
        """For each node the sum over its children: (n, ...) of some sides, one behind the other -> (L, ...)."""
        sides = range(self.num_sides) if sides is None else sides
        if self.sizes[sides.start] == self.num_nodes and all(map(self.is_full, sides)):
            return each if len(sides) == 1 else each.unflatten(0, (len(sides), -1)).sum(0)
        return each.new_zeros(self.num_nodes, *each.shape[1:]).index_add(0, self.node_of(sides, each.device), each)

    def handed_down(self, of_nodes: Tensor, sides: range) -> Tensor:
        """Of each child its node's: (L, ...) -> (n, ...)."""
        if len(sides) == 1 and self.is_full(sides[0]):
            return of_nodes
        return of_nodes.index_select(0, self.node_of(sides, of_nodes.device))

    def node_of(self, sides: range, device: torch.device) -> Tensor:
        """The node of each child on these sides."""
        if device not in self._copies:
            self._copies[device] = next(iter(self._copies.values())).to(device)
        return self._copies[device][self.starts[sides.start] : self.starts[sides.stop]]


def products(layout: Layout, children: Sequence[Scaled | Gathered], dtype: torch.dtype) -> Scaled:
    """The products of all nodes' children, by logarithms and by operations that anything may differentiate."""
    pools, values, log_scales = _taken_apart(children)
    value, scale = _by_logarithms(layout, pools, values, dtype)
    return Scaled(value, _with_scales(layout, pools, log_scales, scale))


def scaled_sums(layout: Layout, weights: Tensor, children: Sequence[Scaled | Gathered]) -> Scaled:
    """The sums, scaled to a largest entry of 1."""
    pools, values, log_scales = _taken_apart(children)
    if plainly(weights, values[0]):
        sums, own = _ThinFunction.apply(weights, layout, pools, *values)
    else:
        value, scale = _by_logarithms(layout, pools, values, weights.dtype)
        sums, own = rescaled(torch.bmm(weights, value))
        own = own + scale
    return Scaled(sums, _with_scales(layout, pools, log_scales, own))


def plainly(weights: Tensor, value: Tensor) -> bool:
    """Whether numbers may be looked at and written over: on a CPU, where no transform and no compiler is at work."""
    plain = type(weights) in (Tensor, nn.Parameter) and type(value) is Tensor and weights.device.type == "cpu"
    return plain and not transformed() and not torch.compiler.is_compiling()


class _Pool:
    """What a layer knows of one pool of children: whether they are logarithms, which sides, and which rows they are."""

    __slots__ = ("is_log", "rows", "sides")

    def __init__(self, is_log: bool, sides: range, rows: Tensor | None):
        self.is_log, self.sides, self.rows = is_log, sides, rows

    def taken(self, tensor: Tensor) -> Tensor:
        return tensor if self.rows is None else tensor.index_select(0, self.rows)


def _taken_apart(children: Sequence[Scaled | Gathered]) -> tuple[list[_Pool], list[Tensor], list[Tensor]]:
    """What a layer is called with: its pools, their values, and their log-scales."""
    given, pools, first = Gathered.of(children), [], 0
    for pool, rows, segments, sizes in zip(given.pools, given.rows, given.segments, given.sizes_of_pools, strict=True):
        sides = range(first, first + len(sizes))
        pools.append(_Pool(isinstance(pool, LogScaled), sides, None if segments is None else rows))
        first = sides.stop
    return pools, [pool.value for pool in given.pools], [pool.log_scale for pool in given.pools]


def _with_scales(layout: Layout, pools: list[_Pool], log_scales: list[Tensor], own: Tensor) -> Tensor:
    """The log-scales of the nodes (L, B), their own and those of all their children."""
    for pool, log_scale in zip(pools, log_scales, strict=True):
        log_scale = pool.taken(log_scale)
        if len(pool.sides) == 1 and layout.is_full(pool.sides[0]):
            own = own + log_scale
        else:
            own = own.index_add(0, layout.node_of(pool.sides, own.device), log_scale)
    return own


def _by_logarithms(layout: Layout, pools: list[_Pool], values: Sequence[Tensor], dtype: torch.dtype) -> Scaled:
    """The products, scaled to a largest entry of 1; (L, B) is the logarithm of their scale."""
    logs = []
    for pool, value in zip(pools, values, strict=True):
        value = pool.taken(value)
        logs.append(value if pool.is_log else Scaled(value, value).relative())
    return Scaled.from_log(layout.summed(logs[0] if len(logs) == 1 else torch.cat(logs)), dtype)


class _ThinFunction(torch.autograd.Function):
    """From the pools' values to (S / max S, log max S), the children's own scales not counted.

    Kept for the backward pass are the products (L, K, B), beside the children themselves.
    """

    @staticmethod
    def forward(ctx, weights, layout, pools, *values):
        product, log_scale = _multiplied(layout, pools, values, weights.dtype)
        sums = torch.bmm(weights, product)
        scale = sums.amax(1)
        number = torch.finfo(sums.dtype)
        ctx.by_logarithms = False
        if scale.amin().item() < number.tiny / number.eps**2 and not all(pool.is_log for pool in pools):
            ctx.by_logarithms = True  # what underflowed may matter
            product, log_scale = _by_logarithms(layout, pools, values, sums.dtype)
            scale = torch.amax(torch.bmm(weights, product, out=sums), 1)
        scale.clamp_min_(number.tiny)
        sums.div_(scale[:, None])
        own = torch.log(scale.double())
        log_scale = own if log_scale is None else own.add_(log_scale)
        ctx.layout, ctx.pools = layout, pools
        ctx.save_for_backward(weights, scale, product, *values)
        ctx.mark_non_differentiable(log_scale)
        return sums, log_scale

    @staticmethod
    def backward(ctx, gradient, _):
        weights, scale, product, *values = ctx.saved_tensors
        if torch.is_grad_enabled():  # the caller asks for gradients that can be differentiated
            return _again(ctx, gradient)
        gradient = gradient / scale[:, None]
        grad_weights = torch.bmm(gradient, product.transpose(1, 2))
        uses = torch.bmm(weights.transpose(1, 2), gradient).mul_(product)  # d / d log of the product
        found = []
        for pool, value in zip(ctx.pools, values, strict=True):
            own = ctx.layout.handed_down(uses, pool.sides)
            if not pool.is_log:
                own = own / pool.taken(value)
                if not torch.isfinite(own.sum()):  # an entry is 0, which a quotient cannot see past
                    return _again(ctx, gradient * scale[:, None])
            found.append(own if pool.rows is None else torch.zeros_like(value).index_add_(0, pool.rows, own))
        return grad_weights, None, None, *found


def _multiplied(
    layout: Layout, pools: list[_Pool], values: Sequence[Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """The products, and the logarithm of their scale (L, B) where they have one. Nothing is done for underflow."""
    factors = [(pool, value) for pool, value in zip(pools, values, strict=True) if not pool.is_log]
    if sum(len(pool.sides) for pool, _ in factors) > MOST_FACTORS:
        return _by_logarithms(layout, pools, values, dtype)
    product, log_scale = None, None
    for pool, value in zip(pools, values, strict=True):
        if pool.is_log:
            own = layout.summed(pool.taken(value), pool.sides)
            product = own if product is None else product + own
    if product is not None:
        if sum(len(pool.sides) for pool in pools if pool.is_log) > 1:  # the largest of their sum is anywhere below 0
            scale = product.detach().amax(1).clamp_min(torch.finfo(product.dtype).min)
            product, log_scale = product - scale[:, None], scale.double()
        product = exp(product)
    for pool, value in factors:
        sizes = [layout.sizes[side] for side in pool.sides]
        for side, factor in zip(pool.sides, pool.taken(value).split(sizes), strict=True):
            product = _times(layout, product, side, factor)
    return cast(Tensor, product), log_scale  # a layer has children


def _times(layout: Layout, product: Tensor | None, side: int, factor: Tensor) -> Tensor:
    """The product times the factors of the nodes that have a child on this side."""
    if product is None and layout.is_full(side):
        return factor.clone()  # for what follows to multiply in place
    if product is None:
        product = factor.new_ones(layout.num_nodes, *factor.shape[1:])
    if layout.is_full(side):
        return product * factor  # no one else's from now on
    if layout.first[side] and not torch.is_grad_enabled():
        product[: layout.sizes[side]].mul_(factor)  # which is no one else's
        return product
    if layout.first[side]:
        size = layout.sizes[side]
        return torch.cat((product[:size] * factor, product[size:]))
    nodes = layout.node_of(range(side, side + 1), product.device)
    return product.index_copy(0, nodes, product[nodes] * factor)


def _again(ctx, gradient: Tensor) -> tuple:
    """The gradients by plain operations, which may be differentiated in turn; exact where entries are 0, too."""
    weights, scale, _, *values = ctx.saved_tensors
    multiply = _by_logarithms if ctx.by_logarithms else _multiplied

    def plain(weights: Tensor, *values: Tensor) -> Tensor:
        product, _ = multiply(ctx.layout, ctx.pools, values, weights.dtype)
        return torch.bmm(weights, product) / scale[:, None]

    grad_weights, *found = differentiable(plain, (weights, *values), gradient)
    return grad_weights, None, None, *found
