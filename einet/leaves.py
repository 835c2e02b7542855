"""The leaf layer: exponential families over the variables of each leaf region.

Paper: Section 3.4
Chapter: book/06_leaves
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from einet.derivatives import differentiable, transformed
from einet.exponential_family import ExponentialFamily
from einet.scaled import Scaled
from einet.scratch import PORTION, exp_, node_slices, room, slices

# Up to this many categories, a GPU multiplies by indicators.
MULTIPLIED = 32


class LeafLayer(nn.Module):
    """The vectors of K log-densities of all leaf regions, fully factorised over each region's variables.

        log L_k(x) = sum over variables d of the region:  T(x_d) . theta_dk - A(theta_dk)

    `scopes` are the regions' variables; `families` maps each family to the variables that follow it. The base measure
    log h(x) is the same for every entry, so the network adds it once, at the root (`log_base`). `kind` is what comes
    out: `Scaled`, or `LogScaled` for a network of products entry by entry.

    Paper: Section 3.4
    Chapter: book/06_leaves
    """

    def __init__(
        self,
        scopes: Sequence[Sequence[int]],
        families: dict[ExponentialFamily, Sequence[int]],
        num_entries: int,
        kind: type[Scaled] = Scaled,
    ):
        super().__init__()
        self.num_nodes, self.num_entries, self.kind = len(scopes), num_entries, kind
        self.parts = nn.ModuleList(
            FamilyLeaves(family, variables, scopes, num_entries) for family, variables in families.items()
        )

    def forward(self, x: Tensor, observed: Tensor | None) -> Scaled:
        """x (D, C, B), observed (D, B) or (D, 1), or None for all -> densities (L, K, B), less the base measure."""
        if len(self.parts) == 1:
            return self.parts[0].densities(x, observed, self.kind)
        total = torch.zeros(self.num_nodes, self.num_entries, x.shape[-1], dtype=torch.float64, device=x.device)
        for part in self.parts:
            for rows, log_density in part.log_densities(x, observed):
                total = total.index_add(0, rows, log_density.double())
        return self.kind.from_log(total, self.parts[0].phi.dtype)

    def log_base(self, x: Tensor, observed: Tensor | None) -> Tensor | float:
        """The sum of log h(x_d) over the observed variables, (B,)."""
        return sum(part.log_base(x, observed) for part in self.parts)


class FamilyLeaves(nn.Module):
    """One family's part of the leaf layer: parameters for each pair of a leaf region and a variable in it.

    phi (|T|, P, C, K): P pairs, sorted so that regions with equally many variables of this family stand together. Such
    a group is one matrix product of parameters and gathered statistics, (L, K, n) @ (L, n, B), and the paper's tensor
    of all B x D x K x R log-densities is never built.
    """

    def __init__(self, family: ExponentialFamily, variables: Sequence[int], scopes, num_entries: int):
        super().__init__()
        self.family = family
        mine = set(variables)
        scopes = [[d for d in scope if d in mine] for scope in scopes]
        of_size: dict[int, list[int]] = {}
        for row, scope in enumerate(scopes):
            of_size.setdefault(len(scope), []).append(row)
        self.sizes = sorted(of_size.keys() - {0})
        groups = [of_size[size] for size in self.sizes]
        pairs = [d for group in groups for row in group for d in scopes[row]]
        for g, group in enumerate(groups):
            self.register_buffer(f"rows_{g}", torch.tensor(group), persistent=False)
        by_group = torch.tensor([row for group in groups for row in group])
        self.register_buffer("order", torch.argsort(by_group), persistent=False)  # back to that of the regions
        self.register_buffer("pairs", torch.tensor(pairs), persistent=False)
        self.register_buffer("variables", torch.tensor(sorted(variables)), persistent=False)
        self.phi = nn.Parameter(
            torch.empty(family.num_statistics, len(pairs), family.channels, num_entries, dtype=torch.float32)
        )

    def groups(self):
        """(rows of the layer (L,), their pairs as a slice, their variables (L, s)) of each group of regions."""
        start = 0
        for g, size in enumerate(self.sizes):
            rows = getattr(self, f"rows_{g}")
            pairs = slice(start, start + len(rows) * size)
            yield rows, pairs, self.pairs[pairs].view(-1, size)
            start = pairs.stop

    @torch.no_grad()
    def column_statistics(self, x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
        """The means of T(x_d) over the rows of x (D, C, B) in which d is observed, (|T|, V, C), and how many these are,
        (V, 1), for each variable of the family: float64. The mean of no rows is 0."""
        size = max(1, PORTION // (self.family.num_statistics * len(self.variables)))
        total, count = 0, 0
        for start in range(0, x.shape[-1], size):
            rows = slice(start, start + size)
            seen = torch.ones_like(x[self.variables, 0, rows], dtype=torch.bool)
            if observed is not None:
                seen &= observed[self.variables][:, rows] if observed.shape[1] > 1 else observed[self.variables]
            own = torch.where(seen[:, None], x[self.variables][..., rows].double(), self.family.placeholder)
            total = total + torch.where(seen[:, None], self.family.statistics(own), 0).sum(-1)
            count = count + seen.sum(-1, keepdim=True)
        return total / count.clamp_min(1), count

    @torch.no_grad()
    def start(self, x: Tensor, observed: Tensor | None, chosen: Tensor, share: float) -> None:
        """Put each entry around rows of x (D, C, B) of its own: `chosen` (L, K, n). Its E[T(x)] is, by `share`, their
        mean, and else the mean of all rows. A variable that no row has keeps its parameters."""
        mean, count = self.column_statistics(x, observed)
        region = torch.cat([rows.repeat_interleave(variables.shape[1]) for rows, _, variables in self.groups()])
        place = torch.searchsorted(self.variables, self.pairs)
        of_a_pair = self.phi[:, 0].numel() * chosen.shape[2]
        for pairs in slices(len(self.pairs), max(1, PORTION // of_a_pair)):
            variables, rows = self.pairs[pairs, None, None], chosen[region[pairs]]  # (p, 1, 1), (p, K, n)
            own = x.movedim(1, 2)[variables, rows].movedim(3, 1).double()  # (p, C, K, n)
            seen = torch.ones_like(rows, dtype=torch.bool)
            if observed is not None:
                seen = observed.expand(-1, x.shape[-1])[variables, rows]
            own = torch.where(seen[:, None], own, self.family.placeholder)
            total = torch.where(seen[:, None], self.family.statistics(own), 0).sum(-1)  # (T, p, C, K)
            of_all = mean[:, place[pairs], :, None]
            of_rows = torch.where(seen.any(-1)[:, None], total / seen.sum(-1).clamp_min(1)[:, None], of_all)
            phi = self.family.expecting(torch.lerp(of_all, of_rows, share)).to(self.phi.dtype)
            self.phi[:, pairs] = torch.where(count[place[pairs], :, None] > 0, phi, self.phi[:, pairs])

    def densities(self, x: Tensor, observed: Tensor | None, kind: type[Scaled]) -> Scaled:
        """The vectors of all regions, where this is their only family."""
        dtype = self.phi.dtype
        if kind is not Scaled or self.looks_up(x):
            groups = [kind.from_log(log_density, dtype) for _, log_density in self.log_densities(x, observed)]
        else:
            groups = [Scaled(*densities) for _, densities in self._multiply(x, observed, dtype)]
        if len(groups) == 1:
            return groups[0]
        return Scaled.joined(groups).map(lambda tensor: tensor.index_select(0, self.order))

    def looks_up(self, x: Tensor) -> bool:
        """Whether T(x) . theta is looked up in a table: where T(x) is an indicator. On a GPU the gradient of a look-up
        waits for the CPU, so that few categories are multiplied there, like the statistics of any family."""
        return self.family.indicator and not (x.is_cuda and self.family.num_statistics <= MULTIPLIED)

    def log_densities(self, x: Tensor, observed: Tensor | None):
        """(rows, log-densities (L, K, B)) of each group of regions, to be added to those of other families."""
        return self._look_up(x, observed) if self.looks_up(x) else self._multiply(x, observed, None)

    def _multiply(self, x: Tensor, observed: Tensor | None, dtype: torch.dtype | None):
        """(rows, what `_LeafFunction` returns) of each group, in float64 where float32 would cancel."""
        masked, num_variables = observed is not None, len(x)
        x, observed = self._own(x, observed)
        statistics = self.family.statistics(x.to(torch.float64 if self.family.cancels else self.phi.dtype))
        if masked:
            statistics = torch.where(observed[:, None], statistics, 0)
        row_of = torch.arange(statistics[..., 0].numel(), device=x.device).view(statistics.shape[:3])  # of (T, D, C, B)
        features = statistics.flatten(0, 2)
        if masked:  # A(theta) counts where its variable is observed: the mask is one more statistic
            features = torch.cat((features, observed.to(features.dtype).expand(-1, x.shape[-1])))
        sizes = [variables.numel() for _, _, variables in self.groups()]
        densities = _plain_densities if transformed() else _LeafFunction.apply
        for (rows, _, variables), phi in zip(self.groups(), self.phi.split(sizes, 1), strict=True):
            if len(x) < num_variables:
                variables = torch.searchsorted(self.variables, variables)
            index = row_of[:, variables].transpose(0, 1).flatten(1)  # (L, T s C)
            if masked:
                index = torch.cat((index, variables + row_of.numel()), 1)
            phi = phi.unflatten(1, variables.shape).permute(0, 1, 4, 2, 3)  # (T, L, K, s, C)
            yield rows, densities(phi, features, index, self.family, masked, dtype)

    def _own(self, x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x and observed of the variables of this family alone, where statistics and gradients are finite: log x is not
        for values of other families, nor for the 0 of a missing one, which its `placeholder` replaces."""
        if len(x) > len(self.variables):
            x, observed = (None if part is None else part[self.variables] for part in (x, observed))
        if observed is not None and self.family.placeholder:
            x = torch.where(observed[:, None], x, self.family.placeholder)
        return x, observed

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
            bags = index[pairs].view(len(rows), -1, x.shape[-1]).transpose(1, 2).flatten(0, 1)  # (L B, s C)
            if transformed():
                sums = nn.functional.embedding(bags, table).sum(1)
            else:
                sums = _BagFunction.apply(nn.functional.embedding_bag(bags, table, mode="sum"), table, bags)
            yield rows, sums.view(len(rows), -1, entries).transpose(1, 2).contiguous()

    def log_base(self, x: Tensor, observed: Tensor | None) -> Tensor | float:
        x, observed = self._own(x, observed)
        base = self.family.log_base(x.double())
        if base is None:
            return 0.0
        base = base.sum(1)
        return (base if observed is None else torch.where(observed, base, 0)).sum(0)

    def extra_repr(self) -> str:
        return f"{self.family}, pairs={self.phi.shape[1]}, entries={self.phi.shape[3]}"


class _BagFunction(torch.autograd.Function):
    """Passes on the sums that `embedding_bag` made of a table's rows.

    Their gradient goes back the way they came. One that is differentiated in turn, which `embedding_bag` could not do,
    goes to the table straight away.
    """

    @staticmethod
    def forward(ctx, sums, table, bags):
        ctx.save_for_backward(bags)
        ctx.rows = len(table)
        return sums.view_as(sums)

    @staticmethod
    def backward(ctx, gradient):
        if not torch.is_grad_enabled():
            return gradient, None, None
        (bags,) = ctx.saved_tensors
        of_rows = gradient.repeat_interleave(bags.shape[1], 0)
        return None, gradient.new_zeros(ctx.rows, gradient.shape[1]).index_add(0, bags.flatten(), of_rows), None


def _plain_densities(phi, features, index, family, masked, dtype) -> Tensor | Scaled:
    """What `_LeafFunction` returns, by plain operations on all nodes at once."""
    parameters, constants = _parameters(family, phi.to(features.dtype), masked)
    logs = torch.baddbmm(constants, parameters, features[index])
    return logs if dtype is None else Scaled.from_log(logs, dtype)


class _LeafFunction(torch.autograd.Function):
    """log L_k = sum over s variables and C channels:  T(x) . theta_k - A(theta_k), (L, K, B), from phi (T, L, K, s, C).

    With a `dtype` it goes on to densities in that precision, scaled: (L / max L, log max L). Features (n, B) are the
    statistics of all variables, and `index` (L, T s C) says which a region multiplies. If `masked`, a feature that is 1
    where a variable is observed follows for each of the region's variables: what A(theta) is multiplied with.

    A few nodes at a time, so that neither the gathered features nor the log-densities, which may be in float64, ever
    exist as a whole. Beside what is given, nothing is kept for the backward pass but the densities.
    """

    @staticmethod
    def forward(ctx, phi, features, index, family, masked, dtype):
        (_, num_nodes, entries, *_), batch = phi.shape, features.shape[1]
        density = features.new_empty(num_nodes, entries, batch, dtype=dtype)
        log_scale = features.new_empty(num_nodes, batch, dtype=torch.float64)
        parameters, constants = _parameters(family, _contiguous(phi, features.dtype), masked)
        for nodes, gathered, logs in _gathered(features, index, entries):
            torch.baddbmm(constants[nodes], parameters[nodes], gathered, out=logs)
            if dtype is None:
                density[nodes] = logs
                continue
            scale = logs.amax(1).clamp_min_(torch.finfo(logs.dtype).min)
            log_scale[nodes] = scale
            exp_(density[nodes].copy_(logs.sub_(scale[:, None])))
        ctx.family, ctx.masked, ctx.dtype = family, masked, dtype
        ctx.save_for_backward(phi, features, index, None if dtype is None else density)
        if dtype is None:
            return density
        ctx.mark_non_differentiable(log_scale)
        return density, log_scale

    @staticmethod
    def backward(ctx, gradient, _=None):
        phi, features, index, density = ctx.saved_tensors
        if torch.is_grad_enabled():

            def plain(phi: Tensor, features: Tensor) -> Tensor:
                found = _plain_densities(phi, features, index, ctx.family, ctx.masked, ctx.dtype)
                return found if ctx.dtype is None else found.value

            return *differentiable(plain, (phi, features), gradient), None, None, None, None
        _, num_nodes, entries, *pair = phi.shape
        sums = features.new_empty(num_nodes, entries, index.shape[1])  # over the rows, of the features an entry sees
        uses_of_nodes = features.new_empty(num_nodes, entries)
        grad_features = torch.zeros_like(features) if ctx.needs_input_grad[1] else None
        if grad_features is not None:
            parameters, _ = _parameters(ctx.family, _contiguous(phi, features.dtype), ctx.masked)
        for nodes, gathered, uses in _gathered(features, index, entries):
            # d log P / d log L: the probability, given the row, that the circuit uses this entry
            if ctx.dtype is not None:
                torch.mul(gradient[nodes], density[nodes], out=uses)
            else:
                uses.copy_(gradient[nodes])
            if not ctx.masked:
                torch.sum(uses, 2, out=uses_of_nodes[nodes])
            torch.bmm(uses, gathered.transpose(1, 2), out=sums[nodes])
            if grad_features is not None:
                back = torch.bmm(parameters[nodes].transpose(1, 2), uses)  # (nodes, n, B)
                grad_features.index_add_(0, index[nodes].flatten(), back.flatten(0, 1))
        width = len(phi) * math.prod(pair)
        statistics = sums[..., :width].unflatten(2, (len(phi), *pair)).movedim(2, 0)  # as phi
        uses = sums[..., width:, None] if ctx.masked else uses_of_nodes[..., None, None]  # (L, K, s, C)
        grad_phi = ctx.family.score(_contiguous(phi, features.dtype), statistics, uses)
        return grad_phi.to(phi.dtype), grad_features, None, None, None, None


def _contiguous(phi: Tensor, dtype: torch.dtype) -> Tensor:
    """In one pass where the type changes, too; `to` alone leaves the order as it is where it does not."""
    return phi.to(dtype, memory_format=torch.contiguous_format).contiguous()


def _parameters(family: ExponentialFamily, phi: Tensor, masked: bool) -> tuple[Tensor, Tensor]:
    """What the features of each region are multiplied with, (L, K, n), and what is added, (L, K, 1)."""
    theta = family.natural(phi)  # (T, L, K, s, C)
    parameters, normalizers = theta.movedim(0, 2).flatten(2), family.log_normalizer(theta)
    if not masked:
        return parameters, -normalizers.sum((2, 3))[..., None]
    return torch.cat((parameters, -normalizers.sum(3)), 2), torch.zeros_like(parameters[..., :1])


def _gathered(features: Tensor, index: Tensor, entries: int):
    """Slices of nodes, their features (nodes, n, B), and room for (nodes, entries, B)."""
    (num_nodes, width), batch = index.shape, features.shape[1]
    slices = node_slices(num_nodes, max(width, entries) * batch, features)
    sizes = [slices[0].stop * width, slices[0].stop * entries]
    with room(sum(sizes) * batch, features) as memory:
        buffer, other = memory.view(-1, batch).split(sizes)
        other = other.view(-1, entries, batch)
        for nodes in slices:
            count = nodes.stop - nodes.start
            rows = buffer[: count * width]
            torch.index_select(features, 0, index[nodes].flatten(), out=rows)
            yield nodes, rows.view(count, width, batch), other[:count]
