"""The thin layers of a whole network in one go, where a network is nothing else: one operation to autograd.

A learned tree has tens of levels of few nodes each, so that its cost is that of calling operations. Here all leaves are
added up at once, whichever level asks for them, and a level is a handful of operations in memory of one piece:

    A_n = sum of log N over the children of node n,   P_n = exp(A_n - max A_n),   S_n = W_n P_n,   log S_n upwards

Backwards goes how often each entry is used, u = d log P(x) / d log S, which a node hands down to its children as it is:

    d / d W_n = (u_n / S_n) P_n^T,   uses of the children of n:  P_n * W_n^T (u_n / S_n)

By logarithms no product underflows. Where a sum is 0, or all but 0, u / S says nothing, and the levels go one by one.

Source: not in the paper; the numbers are scaled as in Section 3.2, Eq. (4)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from einet.layers.children import Children
from einet.layers.derivatives import differentiable
from einet.layers.scaled import LogScaled, Scaled
from einet.layers.sums import CPLayer
from einet.layers.thin import plainly, scaled_sums

# A level of thin layers: the only one, and where it finds its children.
Thin = tuple[CPLayer, Children]


class Parents(NamedTuple):
    """The parents of one level's nodes among all nodes; `child` is which of the level's, None for one each in order."""

    parent: Tensor
    child: Tensor | None

    def hand_up(self, logs: Tensor, sums: Tensor) -> None:
        """Add the logarithms of the level's nodes to their parents' sums."""
        sums.index_add_(0, self.parent, logs if self.child is None else logs.index_select(0, self.child))

    def handed_down(self, uses: Tensor, num_nodes: int) -> Tensor:
        """How often the level's nodes are used, from the uses of all nodes' children."""
        own = uses.index_select(0, self.parent)
        if self.child is None:
            return own
        return own.new_zeros(num_nodes, *own.shape[1:]).index_add_(0, self.child, own)


class ThinStack:
    """Who is whose child in a network of thin layers, whose nodes are numbered through, those of the first level first.

    Args:
        levels: from the leaves to the root.
        num_leaves: the number of leaf regions.

    No module, since its buffers would be looked up in every call; it is of use on a CPU only.
    """

    def __init__(self, levels: Sequence[Thin], num_leaves: int):
        self.levels, self.num_leaves, self.sizes = levels, num_leaves, [len(layer.weights) for layer, _ in levels]
        starts = [0, *accumulate(self.sizes)]
        of_outputs = [0, *(num_leaves + start for start in starts)]  # where each output begins: leaves, then levels
        nodes, places = [], []
        for start, (layer, children) in zip(starts, levels, strict=False):
            nodes.append(start + layer.layout.node_of(range(layer.num_children), torch.device("cpu")))
            places.append(torch.cat([pool.placed(of_outputs) for pool in children.pools]))
        # Which leaves and nodes are below each node of the last level, or are it: those whose scales it has.
        below = torch.zeros(self.sizes[-1], of_outputs[-1])
        below[:, of_outputs[-2] :].fill_diagonal_(1)
        for node, place in zip(reversed(nodes), reversed(places), strict=True):
            below.index_add_(1, place, below[:, num_leaves + node])
        self.root, self.below = below.nonzero(as_tuple=True)
        node, place = torch.cat(nodes), torch.cat(places)
        # The leaves of each node, in CSR, and the parents of each leaf and of each level's nodes.
        is_leaf = place < num_leaves
        by_node = torch.argsort(node[is_leaf], stable=True)
        self.leaf = place[is_leaf][by_node]
        counts = torch.bincount(node[is_leaf], minlength=starts[-1])
        self.offsets = nn.functional.pad(counts.cumsum(0), (1, 0))
        self.of_leaves, *self.parents = (_parents(node, place, *own) for own in pairwise(of_outputs[:-1]))

    def serves(self, value: Tensor) -> bool:
        """Whether tensors like this one are on a CPU, and their numbers may be looked at."""
        return plainly(self.levels[0][0].weights, value)

    def sums(self, leaves: Scaled) -> Scaled | None:
        """The sums of the last level, scaled to a largest entry of 1; None where the levels must go one by one."""
        if not isinstance(leaves, LogScaled) or not self.serves(leaves.value):
            return None
        weights = [layer.weights for layer, _ in self.levels]
        with torch.no_grad():
            computed = _computed(self, leaves.value, weights)
        if computed is None:
            return None
        products, sums, value, scale, scales = computed
        own = torch.cat((leaves.log_scale, scales.double())).index_select(0, self.below)
        log_scale = torch.log(scale.double()).index_add_(0, self.root, own)
        arguments = (self, leaves.log_scale, products, sums, scale, value)
        return Scaled(_StackFunction.apply(*arguments, leaves.value, *weights), log_scale)

    def leaf_uses(self) -> Tensor:
        """For each leaf region (L, K): how often an entry is used, the sum of weight * gradient over all parents."""
        used = torch.cat([layer.expected_counts.sum(1) for layer, _ in self.levels])
        return self.of_leaves.handed_down(used, self.num_leaves)

    def one_by_one(self, leaves: Scaled, weights: Sequence[Tensor]) -> Scaled:
        """The same by layers that stand for themselves."""
        outputs = [leaves]
        for (layer, children), own in zip(self.levels, weights, strict=True):
            outputs.append(scaled_sums(layer.layout, own, [children.gathered(outputs)]))
        return outputs[-1]


def _parents(node: Tensor, place: Tensor, start: int, past: int) -> Parents:
    """Of the children that stand from `start` to `past`."""
    inside = ((place >= start) & (place < past)).nonzero()[:, 0]
    inside = inside[torch.argsort(place[inside], stable=True)]
    child = place[inside] - start
    return Parents(node[inside], None if torch.equal(child, torch.arange(past - start)) else child)


def _computed(stack: ThinStack, leaves: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    """What the forward pass finds, or None where a sum is so small that a quotient by it is not exact.

    Returns:
        The products (N, K, B), the sums of all levels but the last (N - R, K, B), those of the last as S / max S and
        max S, and the scales of the products, max A (N, B).
    """
    (_, entries, batch), (num_nodes, num_roots) = leaves.shape, (len(stack.offsets) - 1, stack.sizes[-1])
    tiny, eps = torch.finfo(leaves.dtype).tiny, torch.finfo(leaves.dtype).eps
    of_leaves = nn.functional.embedding_bag(
        stack.leaf, leaves.flatten(1), stack.offsets, mode="sum", include_last_offset=True
    )
    products, scales = of_leaves.view(num_nodes, entries, batch), leaves.new_empty(num_nodes, batch)
    sums = leaves.new_empty(num_nodes - num_roots, entries, batch)
    outputs = [*sums.split(stack.sizes[:-1]), leaves.new_empty(num_roots, weights[-1].shape[1], batch)]
    parts = zip(products.split(stack.sizes), scales.split(stack.sizes), outputs, weights, strict=True)
    for level, (product, scale, output, own) in enumerate(parts):
        torch.amax(product, 1, out=scale)
        product.sub_(scale[:, None])
        torch.threshold_(product, math.log(2 * tiny), -math.inf).exp_()  # subnormals make MKL ten times slower
        torch.bmm(own, product, out=output)
        if level < len(stack.parents):
            stack.parents[level].hand_up(torch.log(output), products)
    last = outputs[-1]
    largest = last.amax(1)
    if not all(each.amin().item() >= tiny / eps**2 for each in (sums, largest) if each.numel()):  # or is not a number
        return None
    return products, sums, last / largest[:, None], largest, scales


class _StackFunction(torch.autograd.Function):
    """From the leaves' logarithms and all weights to the sums of the last level, which are computed already."""

    @staticmethod
    def forward(ctx, stack, leaf_scale, products, sums, scale, value, leaves, *weights):
        ctx.stack = stack
        ctx.save_for_backward(leaf_scale, products, sums, scale, leaves, *weights)
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient):
        leaf_scale, products, sums, scale, leaves, *weights = ctx.saved_tensors
        stack = cast(ThinStack, ctx.stack)
        if torch.is_grad_enabled():  # the caller asks for gradients that can be differentiated

            def plain(leaves: Tensor, *weights: Tensor) -> Tensor:
                return stack.one_by_one(LogScaled(leaves, leaf_scale), weights).value  # scaled to 1, too

            return *[None] * 6, *differentiable(plain, (leaves, *weights), gradient)
        uses, found = torch.empty_like(products), []
        parts = zip(products.split(stack.sizes), uses.split(stack.sizes), weights, strict=True)
        below = [*zip(stack.parents, sums.split(stack.sizes[:-1]), strict=True)] if len(weights) > 1 else []
        back = gradient / scale[:, None]  # d / d S
        for number, (product, own_uses, own) in reversed([*enumerate(parts)]):
            if number < len(below):
                parents, output = below[number]
                back = parents.handed_down(uses, len(output)).div_(output)
            found.append(torch.bmm(back, product.transpose(1, 2)))
            torch.bmm(own.transpose(1, 2), back, out=own_uses).mul_(product)
        return *[None] * 6, stack.of_leaves.handed_down(uses, len(leaves)), *reversed(found)
