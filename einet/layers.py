"""The layers of an Einsum Network: leaves, einsum layers, mixing layers.

Every region holds a vector of K densities, and a layer the vectors of L regions for a batch of B rows, the batch last
and contiguous: (L, K, B). Between layers densities travel scaled, as `value * exp(log_scale)` with the largest of each
vector at 1, so that nothing underflows. It is the paper's log-einsum-exp trick (Eq. 4), with one saving: the logarithm at the
end of a layer and the exponential at the start of the next cancel, so both are left out, but for one logarithm a vector.

Scales are constants to autograd. That is exact: with the rest of the circuit above it, a layer's output is unchanged when
a factor moves from `value` to `log_scale`, so whatever gradient the choice of scale has sums to zero.

Paper: Section 3.2 and 3.3
Chapter: book/03_einsum_layer
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from einet.families import ExponentialFamily

# Temporaries of about this many numbers stay in the cache of one core; 2^17 floats are half a megabyte.
CACHE = 2**17


class Scaled(NamedTuple):
    """Vectors of densities value * exp(log_scale): value (L, K, B), log_scale (L, B) in float64."""

    value: Tensor
    log_scale: Tensor

    @classmethod
    def from_log(cls, log_density: Tensor, dtype: torch.dtype) -> Scaled:
        """From log-densities (L, K, B). The scale is subtracted before `dtype` rounds."""
        log_scale = log_density.detach().amax(1).clamp_min(torch.finfo(log_density.dtype).min)
        return cls(torch.exp((log_density - log_scale[:, None]).to(dtype)), log_scale.double())

    def log(self) -> Tensor:
        """The log-densities (L, K, B), in float64."""
        return torch.log(self.value.double()) + self.log_scale[:, None]


# Sums of products


def log_einsum_exp(weights: Tensor, left: Tensor, right: Tensor, fast: bool = True) -> Tensor:
    """A layer of sums over all pairs of children, from log-densities to log-densities, in nats.

        log S_k = a + a' + log sum_ij W_kij exp(N_i - a) exp(N'_j - a'),   a = max_i N_i,   a' = max_j N'_j

    weights (L, K_out, K, K'), left (L, K, B), right (L, K', B) -> (L, K_out, B). `fast=False` spells the formula out in
    one `torch.einsum`; the fast way never holds all outer products at once. Both are differentiable (the fast way once).

    Paper: Section 3.2, Eq. (4) and (5)
    Chapter: book/02_log_einsum_exp
    """
    if fast:
        scaled_left, scaled_right = (Scaled.from_log(child, weights.dtype) for child in (left, right))
        sums, log_scale = _EinsumFunction.apply(weights.flatten(2), scaled_left.value, scaled_right.value)
        log_scale = log_scale + scaled_left.log_scale + scaled_right.log_scale
        return Scaled(sums, log_scale).log().to(left.dtype)
    a, b = left.detach().amax(1, keepdim=True), right.detach().amax(1, keepdim=True)
    sums = torch.einsum("lkij,lib,ljb->lkb", weights, torch.exp(left - a), torch.exp(right - b))
    return a + b + torch.log(sums)


class _EinsumFunction(torch.autograd.Function):
    """S_k = sum_ij W_kij left_i right_j, scaled to a largest entry of 1: (S / max S, log max S).

    The outer products (L, K * K', B) exist for a few nodes at a time only, in one buffer that is used again and again,
    and are formed anew in the backward pass: between the passes nothing but the (L, K, B) vectors is kept.
    """

    @staticmethod
    def forward(ctx, weights: Tensor, *children: Tensor) -> tuple[Tensor, Tensor]:
        left, right = _left_and_right(children)
        sums = left.new_empty(len(weights), weights.shape[1], left.shape[2])
        for nodes, outer in _outer_products(left, right):
            torch.bmm(weights[nodes], outer, out=sums[nodes])
        scale = sums.amax(1).clamp_min_(torch.finfo(sums.dtype).tiny)
        sums.div_(scale[:, None])
        log_scale = torch.log(scale.double())
        ctx.save_for_backward(weights, scale, *children)
        ctx.mark_non_differentiable(log_scale)
        return sums, log_scale

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        weights, scale, *children = ctx.saved_tensors
        left, right = _left_and_right(children)
        gradient = gradient / scale[:, None]
        grad_weights, grad_children = torch.empty_like(weights), [torch.empty_like(child) for child in children]
        grad_left, grad_right = _left_and_right(grad_children)
        for nodes, outer in _outer_products(left, right):
            torch.bmm(gradient[nodes], outer.transpose(1, 2), out=grad_weights[nodes])
            torch.bmm(weights[nodes].transpose(1, 2), gradient[nodes], out=outer)
            pairs = outer.view(len(outer), left.shape[1], right.shape[1], -1)
            torch.sum(pairs * right[nodes, None], 2, out=grad_left[nodes])
            torch.sum(pairs.mul_(left[nodes, :, None]), 1, out=grad_right[nodes])
        return grad_weights, *grad_children


def _left_and_right(children: Sequence[Tensor]) -> Sequence[Tensor]:
    """Two tensors as they are; one tensor is all left children and, below them, all right children."""
    return children if len(children) == 2 else children[0].chunk(2)


def _outer_products(left: Tensor, right: Tensor):
    """Slices of nodes and their outer products (nodes, K * K', B), all in the same buffer."""
    (num_nodes, num_left, batch), num_right = left.shape, right.shape[1]
    step = max(1, CACHE // max(1, num_left * num_right * batch))
    buffer = left.new_empty(min(step, num_nodes), num_left, num_right, batch)
    for start in range(0, num_nodes, step):
        nodes = slice(start, min(start + step, num_nodes))
        outer = buffer[: nodes.stop - start]
        torch.mul(left[nodes, :, None], right[nodes, None], out=outer)
        yield nodes, outer.view(len(outer), num_left * num_right, batch)


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
        self.weights = nn.Parameter(torch.empty(num_nodes, num_out, num_left * num_right))

    weight_dim = 2

    def forward(self, *children: Scaled) -> Scaled:
        sums, log_scale = _EinsumFunction.apply(self.weights, *(child.value for child in children))
        left, right = _left_and_right([child.log_scale for child in children])
        return Scaled(sums, log_scale + left + right)

    def extra_repr(self) -> str:
        return f"nodes={len(self.weights)}, {self.num_left} x {self.num_right} -> {self.weights.shape[1]}"


class MixingLayer(nn.Module):
    """M regions with the same number P of partitions: entry k mixes entry k of the P partitions.

    weights (M, P, K), non-negative, the middle axis summing to 1. Maps (M * P, K, B), a region's partitions side by
    side, to (M, K, B). Regions with other numbers of partitions have a mixing layer of their own, so nothing is padded and
    no padding can carry mass.

    Paper: Section 3.3
    Chapter: book/04_layers
    """

    def __init__(self, num_nodes: int, num_partitions: int, num_out: int):
        super().__init__()
        self.weights = nn.Parameter(torch.empty(num_nodes, num_partitions, num_out))

    weight_dim = 1

    def forward(self, partitions: Scaled) -> Scaled:
        shape = self.weights.shape[:2]
        scales = partitions.log_scale.unflatten(0, shape)
        log_scale = scales.amax(1)
        relative = torch.exp(scales - log_scale[:, None]).to(self.weights.dtype)
        values = partitions.value.unflatten(0, shape) * relative[:, :, None]
        return Scaled((values * self.weights[..., None]).sum(1), log_scale)

    def extra_repr(self) -> str:
        return f"nodes={len(self.weights)}, partitions={self.weights.shape[1]}, {self.weights.shape[2]}"


# Leaves


class LeafLayer(nn.Module):
    """The vectors of K log-densities of all leaf regions, fully factorised over each region's variables.

        log L_k(x) = sum over variables d of the region:  T(x_d) . theta_dk - A(theta_dk)

    `scopes` are the regions' variables; `families` maps each family to the variables that follow it. The base measure
    log h(x) is the same for every entry, so the network adds it once, at the root (`log_base`).

    Paper: Section 3.4
    Chapter: book/06_leaves
    """

    def __init__(
        self,
        scopes: Sequence[Sequence[int]],
        families: dict[ExponentialFamily, Sequence[int]],
        num_entries: int,
    ):
        super().__init__()
        self.num_nodes, self.num_entries = len(scopes), num_entries
        self.parts = nn.ModuleList(
            FamilyLeaves(family, variables, scopes, num_entries) for family, variables in families.items()
        )

    def forward(self, x: Tensor, observed: Tensor | None) -> Scaled:
        """x (D, C, B), observed (D, B) or (D, 1), or None for all -> densities (L, K, B), less the base measure."""
        if len(self.parts) == 1:
            return self.parts[0].densities(x, observed)
        total = torch.zeros(self.num_nodes, self.num_entries, x.shape[-1], dtype=torch.float64, device=x.device)
        for part in self.parts:
            for rows, log_density in part.log_densities(x, observed):
                total = total.index_add(0, rows, log_density.double())
        return Scaled.from_log(total, self.parts[0].phi.dtype)

    def log_base(self, x: Tensor, observed: Tensor | None) -> Tensor | float:
        """The sum of log h(x_d) over the observed variables, (B,)."""
        return sum(part.log_base(x, observed) for part in self.parts)


class FamilyLeaves(nn.Module):
    """One family's part of the leaf layer: parameters for each pair of a leaf region and a variable in it.

    phi (|T|, P, C, K): P pairs, sorted so that regions with equally many variables of this family stand together. Such a
    group is one matrix product of parameters and gathered statistics, (L, K, n) @ (L, n, B), and the paper's tensor of
    all B x D x K x R log-densities is never built.
    """

    def __init__(self, family: ExponentialFamily, variables: Sequence[int], scopes, num_entries: int):
        super().__init__()
        self.family = family
        mine = set(variables)
        scopes = [[d for d in scope if d in mine] for scope in scopes]
        self.sizes = sorted({len(scope) for scope in scopes} - {0})
        groups = [[row for row, scope in enumerate(scopes) if len(scope) == size] for size in self.sizes]
        pairs = [d for group in groups for row in group for d in scopes[row]]
        for g, group in enumerate(groups):
            self.register_buffer(f"rows_{g}", torch.tensor(group), persistent=False)
        self.register_buffer("pairs", torch.tensor(pairs), persistent=False)
        self.register_buffer("variables", torch.tensor(sorted(variables)), persistent=False)
        self.phi = nn.Parameter(torch.empty(family.num_statistics, len(pairs), family.channels, num_entries))

    def groups(self):
        """(rows of the layer (L,), their pairs as a slice, their variables (L, s)) of each group of regions."""
        start = 0
        for g, size in enumerate(self.sizes):
            rows = getattr(self, f"rows_{g}")
            pairs = slice(start, start + len(rows) * size)
            yield rows, pairs, self.pairs[pairs].view(-1, size)
            start = pairs.stop

    def densities(self, x: Tensor, observed: Tensor | None) -> Scaled:
        """The vectors of all regions, where this is their only family."""
        if self.family.indicator:
            groups = [Scaled.from_log(log_density, self.phi.dtype) for _, log_density in self._look_up(x, observed)]
        else:
            groups = [Scaled(*_LeafFunction.apply(*terms, self.phi.dtype)) for _, terms in self._terms(x, observed)]
        if len(groups) == 1:
            return groups[0]
        order = torch.argsort(torch.cat([rows for rows, _, _ in self.groups()]))
        return Scaled(*(torch.cat(part).index_select(0, order) for part in zip(*groups, strict=True)))

    def log_densities(self, x: Tensor, observed: Tensor | None):
        """(rows, log-densities (L, K, B)) of each group of regions, to be added to those of other families."""
        if self.family.indicator:
            return self._look_up(x, observed)
        return ((rows, _LeafFunction.apply(*terms, None)) for rows, terms in self._terms(x, observed))

    def _terms(self, x: Tensor, observed: Tensor | None):
        """(rows, what `_LeafFunction` multiplies) of each group, in float64 where float32 would cancel."""
        dtype = torch.float64 if self.family.cancels else self.phi.dtype
        theta = self.family.natural(self.phi.to(dtype))  # (T, P, C, K)
        constants = -self.family.log_normalizer(theta).sum(1)  # (P, K)
        statistics = self.family.statistics(x.to(dtype))  # (T, D, C, B)
        num_statistics, num_variables, channels, batch = statistics.shape
        row_of = torch.arange(num_statistics * num_variables * channels, device=x.device).view(statistics.shape[:3])
        if observed is not None:
            statistics = torch.where(observed[:, None], statistics, 0)
        features = statistics.reshape(-1, batch)
        if observed is not None:  # A(theta) counts where its variable is observed: the mask is one more statistic
            features = torch.cat((features, observed.to(dtype).expand(-1, batch)))
        for rows, pairs, variables in self.groups():
            by_region = (len(rows), -1)
            parameters = theta[:, pairs].unflatten(1, by_region).transpose(0, 1).flatten(1, 3)  # (L, T s C, K)
            constant = constants[pairs].unflatten(0, by_region)  # (L, s, K)
            index = row_of[:, variables].transpose(0, 1).flatten(1)  # (L, T s C)
            if observed is None:
                yield rows, (parameters, constant.sum(1), features, index)
            else:
                parameters, index = torch.cat((parameters, constant), 1), torch.cat((index, variables + row_of.numel()), 1)
                yield rows, (parameters, torch.zeros_like(constant[:, 0]), features, index)

    def _look_up(self, x: Tensor, observed: Tensor | None):
        """Where T(x) is an indicator, T(x) . theta is the row of theta that x names; unobserved, a row of zeros."""
        table = torch.log(self.phi).permute(1, 2, 0, 3)  # (P, C, values, K)
        num_pairs, channels, values, entries = table.shape
        table = torch.cat((table.reshape(-1, entries), table.new_zeros(1, entries)))
        first = torch.arange(num_pairs * channels, device=x.device).view(-1, channels, 1) * values
        index = first + x.long()[self.pairs]  # (P, C, B)
        if observed is not None:
            index = torch.where(observed[self.pairs, None], index, len(table) - 1)
        for rows, pairs, _ in self.groups():
            bags = index[pairs].view(len(rows), -1, x.shape[-1]).transpose(1, 2)  # (L, B, s C)
            sums = nn.functional.embedding_bag(bags.flatten(0, 1), table, mode="sum")
            yield rows, sums.view(len(rows), -1, entries).transpose(1, 2).contiguous()

    def log_base(self, x: Tensor, observed: Tensor | None) -> Tensor | float:
        base = self.family.log_base(x[self.variables].double())
        if base is None:
            return 0.0
        base = base.sum(1)
        return (base if observed is None else torch.where(observed[self.variables], base, 0)).sum(0)

    def extra_repr(self) -> str:
        return f"{self.family}, pairs={self.phi.shape[1]}, entries={self.phi.shape[3]}"


class _LeafFunction(torch.autograd.Function):
    """log L_k = constants[l, k] + sum_n parameters[l, n, k] * features[index[l, n], b], (L, K, B).

    With a `dtype` it goes on to densities in that precision, scaled: (L / max L, log max L). A few nodes at a time, so
    that neither the gathered features nor the log-densities, which may be in float64, ever exist as a whole.
    """

    @staticmethod
    def forward(ctx, parameters, constants, features, index, dtype):
        num_nodes, _, entries = parameters.shape
        batch = features.shape[1]
        density = features.new_empty(num_nodes, entries, batch, dtype=dtype)
        log_scale = features.new_empty(num_nodes, batch, dtype=torch.float64)
        for nodes, gathered in _gathered(features, index, entries):
            logs = torch.baddbmm(constants[nodes, :, None], parameters[nodes].transpose(1, 2), gathered)
            if dtype is None:
                density[nodes] = logs
                continue
            scale = logs.amax(1).clamp_min_(torch.finfo(logs.dtype).min)
            log_scale[nodes] = scale
            torch.exp(logs.sub_(scale[:, None]).to(dtype), out=density[nodes])
        ctx.scaled = dtype is not None
        ctx.save_for_backward(parameters, features, index, density if ctx.scaled else None)
        if not ctx.scaled:
            return density
        ctx.mark_non_differentiable(log_scale)
        return density, log_scale

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, _=None):
        parameters, features, index, density = ctx.saved_tensors
        grad_parameters = torch.empty_like(parameters)
        grad_constants = parameters.new_empty(len(parameters), parameters.shape[2])
        grad_features = torch.zeros_like(features) if ctx.needs_input_grad[2] else None
        for nodes, gathered in _gathered(features, index, parameters.shape[2]):
            # d log P / d log L: the probability, given the row, that the circuit uses this entry
            uses = gradient[nodes] * density[nodes] if ctx.scaled else gradient[nodes]
            torch.sum(uses, 2, dtype=parameters.dtype, out=grad_constants[nodes])
            uses = uses.to(parameters.dtype)
            torch.bmm(gathered, uses.transpose(1, 2), out=grad_parameters[nodes])
            if grad_features is not None:
                back = torch.bmm(parameters[nodes], uses)  # (nodes, n, B)
                grad_features.index_add_(0, index[nodes].flatten(), back.flatten(0, 1))
        return grad_parameters, grad_constants, grad_features, None, None


def _gathered(features: Tensor, index: Tensor, entries: int):
    """Slices of nodes and their features (nodes, n, B), all in the same buffer."""
    (num_nodes, width), batch = index.shape, features.shape[1]
    step = max(1, CACHE // (max(width, entries) * batch))
    buffer = features.new_empty(min(step, num_nodes) * width, batch)
    for start in range(0, num_nodes, step):
        nodes = slice(start, min(start + step, num_nodes))
        rows = buffer[: (nodes.stop - start) * width]
        torch.index_select(features, 0, index[nodes].flatten(), out=rows)
        yield nodes, rows.view(nodes.stop - start, width, batch)


def normalized_(weights: Tensor, dim: int, generator: torch.Generator) -> None:
    """Fill with a draw from the flat Dirichlet distribution along `dim`."""
    with torch.no_grad():
        draw = torch.rand(weights.shape, generator=generator).clamp_min_(1e-6).log_().neg_()
        weights.copy_(draw / draw.sum(dim, keepdim=True))
