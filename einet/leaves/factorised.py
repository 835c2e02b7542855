"""Leaves that are products over their variables, each of one exponential family.

Source: Section 3.4
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from einet.family import ExponentialFamily
from einet.intervals import draw_among, log_total
from einet.layers.derivatives import transformed
from einet.layers.scaled import Scaled
from einet.layers.scratch import CHUNK_NUMEL, node_slices, slices
from einet.leaves.evidence import Evidence, column_of
from einet.leaves.part import Coordinates, LeafPart, LeafStep, LeafVisits, Values, begun
from einet.leaves.products import Factors, densities

# embedding_bag's backward waits for the CPU. Up to this many categories, a GPU is faster by a one-hot product.
MAX_ONE_HOT = 32
# Temporaries of the probability of an interval, of a family with infinitely many values.
NUMEL_OF_INTERVAL = 8


class FamilyLeaves(LeafPart):
    """One family's part of the leaf layer: a parameter vector for each pair of a leaf region and a variable in it.

    phi (|T|, P, C, K) of P pairs, sorted by how many variables of this family a region has. Regions with equally many
    are a group, and a group is one matrix product (L, K, n) @ (L, n, B) of parameters and gathered statistics: the
    paper's tensor of all B x D x K x R log-densities is never built.
    """

    family: ExponentialFamily

    def _shape(self, num_pairs: int, num_entries: int) -> tuple[int, ...]:
        return self.family.num_statistics, num_pairs, self.family.channels, num_entries

    def alone(self) -> Tensor:
        return self.phi

    # Densities

    def densities(self, x: Tensor, observed: Tensor | None, kind: type[Scaled]) -> Scaled:
        dtype = self.phi.dtype
        if self.uses_table(x):
            groups = [kind.from_log(log_density, dtype) for _, log_density in self.log_densities(x, observed)]
        else:
            groups = [kind(*densities(factors, kind, dtype)) for _, factors in self._factors(x, observed)]
        return self.in_order(groups)

    def uses_table(self, x: Tensor) -> bool:
        """Whether T(x) . theta is a look-up: T(x) is one-hot, and not of so few categories that a GPU multiplies."""
        return self.family.indicator and not (x.is_cuda and self.family.num_statistics <= MAX_ONE_HOT)

    def waits(self, x: Tensor) -> str | None:
        return f"at most {MAX_ONE_HOT} categories a variable, got more" if self.uses_table(x) else None

    def log_densities(self, x: Tensor, observed: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        if self.uses_table(x):
            return self._by_table(x, observed)
        return ((regions, densities(factors)[0]) for regions, factors in self._factors(x, observed))

    def _factors(self, x: Tensor, observed: Tensor | None) -> Iterator[tuple[Tensor, Factors]]:
        """(regions, arguments of `products.densities`) of each group, in float64 where float32 would cancel."""
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

    def log_boxes(self, given: Evidence) -> Iterator[tuple[Tensor, Tensor]]:
        bounded, region = given.bounded()[self.pairs], self.regions_of_pairs()
        numel = self.phi[0, 0].numel() * given.x.shape[2] * (self.family.num_values or NUMEL_OF_INTERVAL)
        asked = bounded.any(1).nonzero()[:, 0]
        for pairs in asked.split(max(1, CHUNK_NUMEL // numel)) if len(asked) else ():
            low, high = given.ends(self.pairs[pairs])  # (p, C, B or 1)
            phi = self.phi[:, pairs].double()
            if self.family.num_values is None:
                each = self.family.log_probability(low[:, :, None], high[:, :, None], phi[..., None])
            else:
                allowed = given.allowed(self.family, self.pairs[pairs], low, high)
                each = log_total(self.family.log_probabilities(phi), allowed)
            yield region[pairs], torch.where(bounded[pairs, None], each.sum(1), 0)

    def log_base(self, x: Tensor, observed: Tensor | None) -> Tensor | float:
        x, observed = self._select(x, observed)
        base = self.family.log_base(x.double())
        if base is None:
            return 0.0
        base = base.sum(1)
        return (base if observed is None else torch.where(observed, base, 0)).sum(0)

    # Parameters and learning

    def reset(self, generator: torch.Generator) -> None:
        self.phi.copy_(self.family.initial(tuple(self.phi.shape[1:]), generator))

    def project_(self) -> None:
        self.phi.copy_(self.family.project(self.phi))

    def is_valid(self, tolerance: float) -> bool:
        off = (self.family.project(self.phi) - self.phi).abs()
        return bool((off <= tolerance * self.phi.abs()).all() and self.phi.isfinite().all())

    def coordinates(self) -> Coordinates:
        return self.family

    def move(self, uses: Tensor, step: LeafStep) -> None:
        """As `LeafPart.move`.

        Of earlier steps `state` keeps the way from E[T(x)] to their statistics, which gets shorter with every step.
        The statistics themselves may be large, and their difference from E[T(x)] would be lost.
        """
        family, gradient, state, momentum = self.family, cast(Tensor, self.phi.grad), step.state, step.momentum
        column, rates = step.column, self._by_pairs(step.rates(uses))
        share = begun(state, "way", self.phi, momentum) if momentum else step.rate
        walked = self._by_pairs(uses * share) if momentum else rates
        for pairs in node_slices(self.phi.shape[1], self.phi[:, 0].numel(), self.phi):
            phi = self.phi[:, pairs]
            direction = family.natural_gradient(phi, gradient[:, pairs])
            if momentum:
                direction = state["way"][:, pairs].lerp_(direction, 1 - momentum) / share
            if column is not None:
                direction += step.leaf_pseudocount * family.towards(column[:, pairs], phi)
            direction = direction * rates[pairs]
            if momentum:
                state["way"][:, pairs] -= direction * walked[pairs]
            phi.copy_(family.project(family.step(phi, direction)))

    def _by_pairs(self, numbers: Tensor) -> Tensor:
        """Numbers of regions (R, K) as those of their pairs, (P, 1, K)."""
        of_groups = zip(numbers.split(self.counts), self.sizes, strict=True)
        return torch.cat([own.repeat_interleave(size, 0) for own, size in of_groups])[:, None]

    @torch.no_grad()
    def start(self, x: Tensor, observed: Tensor | None, chosen: Tensor, share: float, keep: float = 0.0) -> None:
        for pairs, phi in self.started(x, observed, chosen, share, keep):
            self.phi[:, pairs] = phi

    # What a density is asked

    def draws(self, visits: LeafVisits, generator: torch.Generator | None) -> Values:
        given, column = visits.given, visits.column
        bounded = None if given is None or given.low is None else given.bounded()
        for which, variables, phi in self._of_visits(visits):
            drawn = self.family.sample(phi, generator)
            if given is not None and bounded is not None and column is not None:
                drawn, columns = drawn.double(), column[which, None].expand_as(variables)
                inside = bounded[variables, column_of(bounded, columns)].nonzero(as_tuple=True)
                step = max(1, CHUNK_NUMEL // ((self.family.num_values or len(phi)) * phi.shape[3]))
                for some in zip(*(index.split(step) for index in inside), strict=True) if len(inside[0]) else ():
                    own = phi[(slice(None), *some)].double()  # (T, A, C)
                    drawn[some] = self._draws_within(given, own, variables[some], columns[some], generator)
            yield which, variables, drawn

    def _draws_within(
        self, given: Evidence, phi: Tensor, variables: Tensor, column: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Draws (A, C) of variables (A,) of parameters (|T|, A, C), in the boxes of rows `column` (A,)."""
        low, high = given.ends(variables, column)
        if self.family.num_values is None:
            return self.family.draw_between(low, high, phi, generator)
        allowed = given.allowed(self.family, variables, low, high, column)
        return draw_among(self.family.log_probabilities(phi), allowed, generator)

    def modes(self, visits: LeafVisits) -> Values:
        return ((which, variables, self.family.mode(phi)) for which, variables, phi in self._of_visits(visits))

    def _of_visits(self, visits: LeafVisits) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Parameters (|T|, a, s, C) of visits, as `Values`; evidence says nothing of other variables."""
        num_statistics, _, channels, entries = self.phi.shape
        tables = [
            # (L * K, T, s, C)
            self.phi[:, pairs].unflatten(1, tuple(variables.shape)).permute(1, 4, 0, 2, 3).flatten(0, 1)
            for _, pairs, variables in self.groups()
        ]
        for group, which, place, variables in self.visited(visits, lambda size: num_statistics * size * channels):
            yield which, variables, tables[group][place * entries + visits.entry[which]].movedim(1, 0)

    def at_modes(self, x: Tensor, observed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        phi = self.phi.double()
        at_mode = self.family.log_density(self.family.mode(phi), phi).sum(1)  # (P, K)
        for regions, pairs, variables in self.groups():
            of_regions = at_mode[pairs].unflatten(0, variables.shape).transpose(1, 2)  # (L, K, s)
            yield regions, (of_regions @ (~observed[variables]).double()).expand(-1, -1, x.shape[2])

    def moments(
        self, responsibilities: Tensor, x: Tensor, observed: Tensor, order: int, rate: float | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        def mean_and_square(phi: Tensor) -> Tensor:
            mean = self.family.mean(phi) if rate is None else self.family.exponential_mean(phi, rate)
            return mean[None] if order == 1 else torch.stack((mean, self.family.variance(phi) + mean**2))

        return self._weighted(mean_and_square, order, responsibilities)

    def tables(self, responsibilities: Tensor, num_values: int) -> Iterator[tuple[Tensor, Tensor]]:
        return self._weighted(lambda phi: _table(self.family, phi, num_values), num_values, responsibilities)

    def _weighted(
        self, function: Callable[[Tensor], Tensor], width: int, responsibilities: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Sums over entries of responsibility * (`function(phi)`, 1), in bounded memory: see `moments`.

        `function` is (width, ...) of the leaf entries of parameters phi (|T|, ...).
        """
        _, _, channels, entries = self.phi.shape
        numel = max(width + 1, len(self.phi)) * channels * max(entries, responsibilities.shape[2])
        for regions, pairs, variables in self.groups():
            phi = self.phi[:, pairs].unflatten(1, variables.shape)  # (T, L, s, C, K)
            size = variables.shape[1]
            for nodes in slices(len(regions), CHUNK_NUMEL // (numel * size)):
                weights = responsibilities[regions[nodes]].double()
                for d in slices(size, CHUNK_NUMEL // numel):
                    values = function(phi[:, nodes, d].double())
                    values = torch.cat((values, torch.ones_like(values[:1])))  # the last sums responsibilities
                    values = values.movedim(0, 2)  # (L, s, width + 1, C, K)
                    sums = (values.flatten(1, 3) @ weights).unflatten(1, values.shape[1:4])
                    yield variables[nodes, d].flatten(), sums.flatten(0, 1)

    def log_densities_at(
        self, at: Tensor, responsibilities: Tensor, x: Tensor, observed: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for regions, pairs, variables in self.groups():
            phi = self.phi[:, pairs].unflatten(1, variables.shape)[..., None].double()  # (T, L, s, C, K, 1)
            of_entries = self.family.log_density(at[variables][:, :, :, None], phi).sum(2)  # (L, s, K, b)
            weights = torch.log(responsibilities[regions, None].double())
            yield variables.flatten(), torch.logsumexp(of_entries + weights, 2).flatten(0, 1)

    def log_rests(self, x: Tensor, observed: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        region, numel = self.regions_of_pairs(), max(2, len(self.phi)) * self.phi[0, 0].numel() * x.shape[2]
        for pairs in slices(len(region), CHUNK_NUMEL // numel):
            own, phi = x[self.pairs[pairs]].double(), self.phi[:, pairs, ..., None].double()
            yield region[pairs], self.pairs[pairs], self.family.log_density(own[:, :, None], phi).sum(1)

    def distributions(
        self, responsibilities: Tensor, x: Tensor, observed: Tensor, wanted: Tensor
    ) -> Callable[[Tensor], Iterator[tuple[Tensor, Tensor]]]:
        asked, region = wanted[self.pairs].nonzero()[:, 0], self.regions_of_pairs()

        def below(at: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
            numel = len(at) * self.phi[0, 0].numel() * at.shape[3] * (self.family.num_values or NUMEL_OF_INTERVAL)
            for pairs in asked.split(max(1, CHUNK_NUMEL // numel)) if len(asked) else ():
                ends = at[:, self.pairs[pairs], :, None]  # (Q, p, C, 1, B)
                phi = self.phi[:, pairs, ..., None].double()  # (T, p, C, K, 1)
                of_entries = self.family.log_probability(torch.full_like(ends, -math.inf), ends, phi).exp()
                yield self.pairs[pairs], (of_entries * responsibilities[region[pairs], None].double()).sum(3)

        return below

    def numel_at(self) -> int:
        return self.phi[0].numel() * (1 if self.family.indicator else len(self.phi))

    def entropies(self) -> Iterator[tuple[Tensor, Tensor]]:
        phi = self.phi.double()
        step = max(1, CHUNK_NUMEL // ((self.family.num_values or 1) * phi[0, 0].numel()))
        of_pairs = torch.cat([self.family.entropy(chunk) for chunk in phi.split(step, 1)]).sum(1)  # (P, K)
        for regions, pairs, variables in self.groups():
            yield regions, of_pairs[pairs].unflatten(0, variables.shape).sum(1)

    def extra_repr(self) -> str:
        return f"{self.family}, pairs={self.phi.shape[1]}, entries={self.phi.shape[3]}"


def _table(family: ExponentialFamily, phi: Tensor, width: int) -> Tensor:
    """P(x = v) for v < width, (width, ...): 0 beyond the support, NaN of a family with infinitely many values."""
    if family.num_values is None:
        return phi.new_full((width, *phi.shape[1:]), torch.nan)
    table = torch.exp(family.log_probabilities(phi))
    return torch.cat((table, table.new_zeros(width - len(table), *table.shape[1:])))


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
