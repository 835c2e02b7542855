"""The leaf layer: exponential families over the variables of each leaf region.

Source: Section 3.4
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from einet.family import ExponentialFamily
from einet.layers.derivatives import differentiable, transformed
from einet.layers.scaled import Scaled
from einet.layers.scratch import CHUNK_NUMEL, exp_, node_slices, scratch, slices

# embedding_bag's backward waits for the CPU. Up to this many categories, a GPU is faster by a one-hot product.
MAX_ONE_HOT = 32

_Factors: TypeAlias = tuple[Tensor, Tensor, Tensor, ExponentialFamily, bool]


class LeafLayer(nn.Module):
    """The vectors of K log-densities of all leaf regions, fully factorised over each region's variables.

        log L_k(x) = sum over variables d of the region:  T(x_d) . theta_dk - A(theta_dk)

    The base measure log h(x) is the same for every entry: the network adds it once, at the root.

    Args:
        scopes: the variables of each region.
        families: the variables of each family.
        num_entries: K.
        kind: type of the result, `LogScaled` for a network of products entry by entry.

    Source: Section 3.4
    """

    parts: Sequence[FamilyLeaves]

    def __init__(
        self,
        scopes: Sequence[Sequence[int]],
        families: Mapping[ExponentialFamily, Sequence[int]],
        num_entries: int,
        kind: type[Scaled] = Scaled,
    ):
        super().__init__()
        self.num_nodes, self.num_entries, self.kind = len(scopes), num_entries, kind
        parts = [FamilyLeaves(family, variables, scopes, num_entries) for family, variables in families.items()]
        self.parts = cast(Sequence[FamilyLeaves], nn.ModuleList(parts))

    def forward(self, x: Tensor, observed: Tensor | None) -> Scaled:
        """x (D, C, B), observed (D, B) or (D, 1), or None for all -> densities (L, K, B), less the base measure."""
        if len(self.parts) == 1:
            return self.parts[0].densities(x, observed, self.kind)
        total = torch.zeros(self.num_nodes, self.num_entries, x.shape[-1], dtype=torch.float64, device=x.device)
        for part in self.parts:
            for regions, log_density in part.log_densities(x, observed):
                total = total.index_add(0, regions, log_density.double())
        return self.kind.from_log(total, self.parts[0].phi.dtype)

    def log_base(self, x: Tensor, observed: Tensor | None) -> Tensor | float:
        """The sum of log h(x_d) over the observed variables, (B,)."""
        return sum(part.log_base(x, observed) for part in self.parts)


class FamilyLeaves(nn.Module):
    """One family's part of the leaf layer: a parameter vector for each pair of a leaf region and a variable in it.

    phi (|T|, P, C, K) of P pairs, sorted by how many variables of this family a region has. Regions with equally many
    are a group, and a group is one matrix product (L, K, n) @ (L, n, B) of parameters and gathered statistics: the
    paper's tensor of all B x D x K x R log-densities is never built.
    """

    regions: Tensor  # those with variables of this family, by group
    by_region: Tensor  # argsort of `regions`
    pairs: Tensor  # the variable of each pair, (P,)
    variables: Tensor  # of this family, ascending

    def __init__(self, family: ExponentialFamily, variables: Sequence[int], scopes: Sequence, num_entries: int):
        super().__init__()
        self.family = family
        mine = set(variables)
        scopes = [[d for d in scope if d in mine] for scope in scopes]
        groups: dict[int, list[int]] = {}
        for region, scope in enumerate(scopes):
            groups.setdefault(len(scope), []).append(region)
        self.sizes = sorted(groups.keys() - {0})  # how many variables a region of each group has
        self.counts = [len(groups[size]) for size in self.sizes]  # of regions
        regions = [region for size in self.sizes for region in groups[size]]
        pairs = [d for region in regions for d in scopes[region]]
        self.register_buffer("regions", torch.tensor(regions, dtype=torch.int64), persistent=False)
        self.register_buffer("by_region", torch.argsort(self.regions), persistent=False)
        self.register_buffer("pairs", torch.tensor(pairs), persistent=False)
        self.register_buffer("variables", torch.tensor(sorted(variables)), persistent=False)
        shape = family.num_statistics, len(pairs), family.channels, num_entries
        self.phi = nn.Parameter(torch.empty(shape, dtype=torch.float32))

    def groups(self) -> Iterator[tuple[Tensor, slice, Tensor]]:
        """(regions (L,), the slice of their pairs, their variables (L, s)) of each group."""
        start = 0
        for regions, size in zip(self.regions.split(self.counts), self.sizes, strict=True):
            pairs = slice(start, start + len(regions) * size)
            yield regions, pairs, self.pairs[pairs].view(-1, size)
            start = pairs.stop

    @torch.no_grad()
    def column_statistics(
        self, x: Tensor, observed: Tensor | None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """For each variable of the family the mean of T(x_d) over the rows of x (D, C, B) where d is observed.

        `weights` (B,), if any, say how often each row counts.

        Returns:
            The means (|T|, V, C) in float64, 0 for a variable of no row, and the numbers of rows (V, 1).
        """
        total = count = torch.zeros((), dtype=torch.float64, device=x.device)
        times = x.new_ones(x.shape[-1], dtype=torch.float64) if weights is None else weights.to(x.device)
        for rows in slices(x.shape[-1], CHUNK_NUMEL // (self.family.num_statistics * len(self.variables))):
            seen = torch.ones_like(x[self.variables, 0, rows], dtype=torch.bool)
            if observed is not None:
                seen &= observed[self.variables][:, rows] if observed.shape[1] > 1 else observed[self.variables]
            values = torch.where(seen[:, None], x[self.variables][..., rows].double(), self.family.placeholder)
            total = total + torch.where(seen[:, None], self.family.statistics(values), 0) @ times[rows]
            count = count + (seen.double() @ times[rows])[:, None]
        return torch.where(count > 0, total / count, 0), count

    @torch.inference_mode(False)  # an optimizer keeps them
    @torch.no_grad()
    def column_parameters(self, x: Tensor, observed: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """phi (|T|, P, C, 1) of the density that the variable of each pair has by itself in x (D, C, B).

        For a variable that is never observed, the mean of its leaf's entries as they are.
        """
        mean, count = self.column_statistics(x, observed, weights)
        place = torch.searchsorted(self.variables, self.pairs)
        own = self.family.expecting(mean[:, place])  # (T, P, C)
        return torch.where(count[place] > 0, own, self.phi.double().mean(-1))[..., None].to(self.phi.dtype)

    @torch.no_grad()
    def start(self, x: Tensor, observed: Tensor | None, chosen: Tensor, share: float, keep: float = 0.0) -> None:
        """Put each entry around rows of its own. A variable that no row has keeps its parameters.

        Args:
            x: (D, C, B).
            observed: (D, B) or (D, 1), or None for all.
            chosen: the rows of each entry, (L, K, n).
            share: the weight of their mean in the entry's E[T(x)].
            keep: the weight of what the entry expects so far; the mean over all rows has the rest.
        """
        mean, count = self.column_statistics(x, observed)
        region = torch.cat([regions.repeat_interleave(variables.shape[1]) for regions, _, variables in self.groups()])
        place = torch.searchsorted(self.variables, self.pairs)
        for pairs in slices(len(self.pairs), CHUNK_NUMEL // (self.phi[:, 0].numel() * chosen.shape[2])):
            # The statistics of the chosen rows of some pairs of a region and a variable, and their means.
            variables, rows = self.pairs[pairs, None, None], chosen[region[pairs]]  # (p, 1, 1), (p, K, n)
            values = x.movedim(1, 2)[variables, rows].movedim(3, 1).double()  # (p, C, K, n)
            seen = torch.ones_like(rows, dtype=torch.bool)
            if observed is not None:
                seen = observed.expand(-1, x.shape[-1])[variables, rows]
            values = torch.where(seen[:, None], values, self.family.placeholder)
            total = torch.where(seen[:, None], self.family.statistics(values), 0).sum(-1)  # (T, p, C, K)
            of_all = mean[:, place[pairs], :, None]
            of_rows = torch.where(seen.any(-1)[:, None], total / seen.sum(-1).clamp_min(1)[:, None], of_all)
            expected = share * of_rows + (1 - share - keep) * of_all
            if keep:
                expected = expected + keep * self.family.expected(self.phi[:, pairs])
            phi = self.family.expecting(expected).to(self.phi.dtype)
            self.phi[:, pairs] = torch.where(count[place[pairs], :, None] > 0, phi, self.phi[:, pairs])

    def densities(self, x: Tensor, observed: Tensor | None, kind: type[Scaled]) -> Scaled:
        """The vectors of all regions, where this is their only family."""
        dtype = self.phi.dtype
        if self.uses_table(x):
            groups = [kind.from_log(log_density, dtype) for _, log_density in self.log_densities(x, observed)]
        else:
            groups = [kind(*_densities(factors, kind, dtype)) for _, factors in self._factors(x, observed)]
        if len(groups) == 1:
            return groups[0]
        return Scaled.joined(groups).map(lambda tensor: tensor.index_select(0, self.by_region))

    def uses_table(self, x: Tensor) -> bool:
        """Whether T(x) . theta is a look-up: T(x) is one-hot, and not of so few categories that a GPU multiplies."""
        return self.family.indicator and not (x.is_cuda and self.family.num_statistics <= MAX_ONE_HOT)

    def log_densities(self, x: Tensor, observed: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """(regions, log-densities (L, K, B)) of each group, to be added to those of other families."""
        if self.uses_table(x):
            return self._by_table(x, observed)
        return ((regions, _densities(factors)[0]) for regions, factors in self._factors(x, observed))

    def _factors(self, x: Tensor, observed: Tensor | None) -> Iterator[tuple[Tensor, _Factors]]:
        """(regions, arguments of `_LeafFunction`) of each group, in float64 where float32 would cancel."""
        # The statistics of all variables, a row of `features` each, are 0 where a variable is missing.
        num_variables = len(x)
        x, observed = self._select(x, observed)
        statistics = self.family.statistics(x.to(torch.float64 if self.family.cancels else self.phi.dtype))
        row_of = torch.arange(statistics[..., 0].numel(), device=x.device).view(statistics.shape[:3])  # of (T, D, C, B)
        if observed is None:
            features = statistics.flatten(0, 2)
        else:  # the mask is one more feature of each variable, with the coefficient -A(theta)
            mask = observed.to(statistics.dtype).expand(-1, x.shape[-1])
            features = torch.cat((torch.where(observed[:, None], statistics, 0).flatten(0, 2), mask))
        # For each group, the parameters of its pairs, and the rows of `features` that they multiply.
        sizes = [variables.numel() for _, _, variables in self.groups()]
        for (regions, _, variables), phi in zip(self.groups(), self.phi.split(sizes, 1), strict=True):
            if len(x) < num_variables:
                variables = torch.searchsorted(self.variables, variables)
            index = row_of[:, variables].transpose(0, 1).flatten(1)  # (L, T s C)
            if observed is not None:
                index = torch.cat((index, variables + row_of.numel()), 1)
            phi = phi.unflatten(1, variables.shape).permute(0, 1, 4, 2, 3)  # (T, L, K, s, C)
            yield regions, (phi, features, index, self.family, observed is not None)

    def _select(self, x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x and observed of this family's variables, a placeholder for missing values.

        So statistics and gradients are finite: log x is not for another family's values, nor for a missing one's 0.
        """
        if len(x) > len(self.variables):
            x, observed = x[self.variables], None if observed is None else observed[self.variables]
        if observed is not None and self.family.placeholder:
            x = torch.where(observed[:, None], x, self.family.placeholder)
        return x, observed

    def _by_table(self, x: Tensor, observed: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Where T(x) is one-hot, T(x) . theta is a row of a table; of a missing variable, the last row, of zeros."""
        table = torch.log(self.phi).permute(1, 2, 0, 3)  # (P, C, values, K)
        num_pairs, channels, values, entries = table.shape
        table = torch.cat((table.reshape(-1, entries), table.new_zeros(1, entries)))
        first = torch.arange(num_pairs * channels, device=x.device).view(-1, channels, 1) * values
        index = first + x.long()[self.pairs]  # (P, C, B)
        if observed is not None:
            index = torch.where(observed[self.pairs, None], index, len(table) - 1)
        for regions, pairs, _ in self.groups():
            bags = index[pairs].view(len(regions), -1, x.shape[-1]).transpose(1, 2).flatten(0, 1)  # (L B, s C)
            if transformed():
                sums = nn.functional.embedding(bags, table).sum(1)
            else:
                sums = _BagFunction.apply(nn.functional.embedding_bag(bags, table, mode="sum"), table, bags)
            yield regions, sums.view(len(regions), -1, entries).transpose(1, 2).contiguous()

    def log_base(self, x: Tensor, observed: Tensor | None) -> Tensor | float:
        x, observed = self._select(x, observed)
        base = self.family.log_base(x.double())
        if base is None:
            return 0.0
        base = base.sum(1)
        return (base if observed is None else torch.where(observed, base, 0)).sum(0)

    def extra_repr(self) -> str:
        return f"{self.family}, pairs={self.phi.shape[1]}, entries={self.phi.shape[3]}"


class _BagFunction(torch.autograd.Function):
    """The sums that `embedding_bag` made of a table's rows, with a gradient that can be differentiated again.

    The first goes back through `embedding_bag`, which has no second one: that goes to the table directly.
    """

    @staticmethod
    def forward(ctx, sums, table, bags):
        ctx.save_for_backward(bags)
        ctx.table_rows = len(table)
        return sums.view_as(sums)

    @staticmethod
    def backward(ctx, gradient):
        if not torch.is_grad_enabled():
            return gradient, None, None
        (bags,) = ctx.saved_tensors
        of_rows = gradient.repeat_interleave(bags.shape[1], 0)
        return None, gradient.new_zeros(ctx.table_rows, gradient.shape[1]).index_add(0, bags.flatten(), of_rows), None


def _densities(
    factors: _Factors, kind: type[Scaled] | None = None, dtype: torch.dtype | None = None
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
