"""Leaves whose variables are jointly normal: the family `MultivariateNormal`.

The parameters are the mean mu and the Cholesky factor F of the covariance F F', lower triangles alone. Rounding a
covariance to float32 may leave it without a positive density; rounding its factor keeps the conditional deviations, on
the diagonal, to seven digits.

EM is by the gradient, as for all leaves. With z = F^-1 (x - mu), whose density is the standard one, the gradients g of
mu and H of F have the expected statistics, of n uses of an entry and whatever a row lacks,

    sum E[z] = F' g          sum E[z z'] - n 1 = B,  symmetric, with the lower triangle of  F' H

so a step of `rate` makes z normal with mean m = rate/n F' g and covariance 1 + rate/n B - m m', and F F' follows.

Source: not in the paper; Section 3.5, Eq. (7) and (9), for EM
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from einet.families.continuous import MultivariateNormal
from einet.layers.derivatives import transformed
from einet.layers.scratch import CHUNK_NUMEL, slices
from einet.leaves import gaussian, normal_boxes
from einet.leaves.evidence import Evidence, column_of
from einet.leaves.normal_boxes import Box
from einet.leaves.part import Coordinates, LeafPart, LeafStep, LeafVisits, Values

# What is left, in free coordinates, of a variance at its lower bound, relative to the bound.
LEAST_ABOVE_FLOOR = 1e-4
# Temporaries of the probability of an interval.
NUMEL_OF_INTERVAL = 8


@dataclass(frozen=True)
class Layout:
    """Where phi (n, K) has the parameters of each group: s means, then s (s + 1) / 2 of the factor, of each region.

    Attributes:
        counts: the regions of each group.
        sizes: the variables of each region of a group.
    """

    counts: tuple[int, ...]
    sizes: tuple[int, ...]

    def numbers(self) -> list[int]:
        """Of each group, in phi's first axis."""
        return [count * (size + size * (size + 1) // 2) for count, size in zip(self.counts, self.sizes, strict=True)]

    def groups(self, phi: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Means (L, K, s) and factors (L, K, s, s) of each group, in float64."""
        found = []
        for own, count, size in zip(phi.split(self.numbers()), self.counts, self.sizes, strict=True):
            own = own.double().view(count, -1, phi.shape[1]).transpose(1, 2)
            row, column = torch.tril_indices(size, size, device=phi.device)
            mean, lower = own[..., :size], own[..., size:]
            factor = lower.new_zeros(*lower.shape[:2], size * size).index_copy(2, row * size + column, lower)
            found.append((mean, factor.unflatten(2, (size, size))))
        return found

    def packed(self, groups: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The inverse, in float64."""
        found = []
        for mean, factor in groups:
            row, column = torch.tril_indices(*factor.shape[2:], device=factor.device)
            found.append(torch.cat((mean, factor[..., row, column]), 2).transpose(1, 2).flatten(0, 1))
        return torch.cat(found)


class JointNormalLeaves(LeafPart):
    """The leaf regions with variables of `MultivariateNormal`: phi (n, K) as of `Layout`.

    Source: not in the paper
    """

    family: MultivariateNormal

    @property
    def layout(self) -> Layout:
        return Layout(tuple(self.counts), tuple(self.sizes))

    def _shape(self, num_pairs: int, num_entries: int) -> tuple[int, ...]:
        return sum(self.layout.numbers()), num_entries

    def _normals(self) -> list[tuple[Tensor, Tensor]]:
        return self.layout.groups(self.phi)

    def _set(self, groups: list[tuple[Tensor, Tensor]]) -> None:
        self.phi.copy_(self.layout.packed(groups))

    def alone(self) -> Tensor:
        means = [mean.transpose(1, 2).flatten(0, 1) for mean, _ in self._normals()]
        variances = [factor.square().sum(-1).transpose(1, 2).flatten(0, 1) for _, factor in self._normals()]
        return torch.stack((torch.cat(means), torch.cat(variances)))[:, :, None].to(self.phi.dtype)

    # Densities

    def log_densities(self, x: Tensor, observed: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        for (regions, _, variables), (mean, factor) in zip(self.groups(), self._normals(), strict=True):
            values, seen = _of_group(variables, x, observed)
            if transformed() or x.is_meta:
                yield regions, gaussian.log_densities(mean, factor, values, seen)
            else:
                cells = _cells(mean, values, seen)
                yield regions, cast(Tensor, gaussian.LogDensities.apply(mean, factor, values, seen, cells))

    def log_boxes(self, given: Evidence) -> Iterator[tuple[Tensor, Tensor]]:
        bounded, num_rows = given.bounded(), given.x.shape[2]
        for (regions, _, variables), (mean, factor) in zip(self.groups(), self._normals(), strict=True):
            asked = bounded.any(1)[variables].any(1).nonzero()[:, 0]
            step = max(1, CHUNK_NUMEL // (NUMEL_OF_INTERVAL * mean[0].numel() * num_rows))
            for some in asked.split(step) if len(asked) else ():
                values, seen = _of_group(variables[some], given.x, given.observed)
                low, high = given.ends(variables[some].flatten())
                ends = (end[:, 0].unflatten(0, variables[some].shape) for end in (low, high))
                box = [values, given.observed[variables[some]], *ends, bounded[variables[some]]]
                box = Box(*(tensor.expand(-1, -1, num_rows).transpose(1, 2).flatten(0, 1) for tensor in box))
                cells = _cells(mean[some], values, seen)
                found = normal_boxes.log_probabilities(mean[some], factor[some], values, cells, box)
                yield regions[some], found.view(len(some), num_rows, -1).transpose(1, 2)

    def waits(self, x: Tensor) -> str | None:
        return "leaves that factorise: those of a joint normal density look at what is missing"

    # Parameters

    def reset(self, generator: torch.Generator) -> None:
        shape = (len(self.pairs), 1, self.phi.shape[1])
        self._set_alone(self.family.alone.initial(shape, generator), 0.0)

    def _set_alone(self, phi: Tensor, keep: float) -> None:
        """Means and variances (2, P, 1, K), with `keep` times the covariances that there were."""
        groups = []
        for (_, pairs, variables), (_, before) in zip(self.groups(), self._normals(), strict=True):
            mean, variance = phi[:, pairs, 0].double().unflatten(1, variables.shape).transpose(2, 3)  # (L, K, s) each
            factor = torch.diag_embed(variance.sqrt())
            if keep:
                covariance = keep * (before @ before.mT)
                covariance.diagonal(dim1=-2, dim2=-1).copy_(variance)
                factor = torch.linalg.cholesky_ex(covariance)[0]
            groups.append((mean, gaussian.floored(factor, self.family.min_variance)))
        self._set(groups)

    def project_(self) -> None:
        self._set([(mean, gaussian.floored(factor, self.family.min_variance)) for mean, factor in self._normals()])

    def is_valid(self, tolerance: float) -> bool:
        if not self.phi.isfinite().all():
            return False
        eps = torch.finfo(self.phi.dtype).eps
        for _, factor in self._normals():
            if (factor.diagonal(dim1=-2, dim2=-1) <= 0).any():
                return False
            # Singular values of a factor, the roots of eigenvalues, of the covariance and of the correlation.
            for own, floor in (
                (factor, self.family.min_variance),
                (factor / factor.square().sum(-1, keepdim=True).sqrt(), gaussian.RELATIVE_FLOOR),
            ):
                roots = torch.linalg.svdvals(own)
                rounded = own.shape[-1] * eps * roots[..., 0]
                if (roots[..., -1] < math.sqrt(floor) * (1 - tolerance) - rounded).any():
                    return False
        return True

    def coordinates(self) -> Coordinates:
        return FreeCoordinates(self.layout, self.family.min_variance)

    # Learning

    def move(self, uses: Tensor, step: LeafStep) -> None:
        column, leaf_pseudocount, rate = step.column, step.leaf_pseudocount, step.rates(uses.double())[..., None]
        moved, gradients = [], self.layout.groups(cast(Tensor, self.phi.grad))
        for (_, pairs, variables), (mean, factor), gradient, own in zip(
            self.groups(), self._normals(), gradients, rate.split(self.counts), strict=True
        ):
            shift = (factor.mT @ gradient[0][..., None])[..., 0]  # sum E[z]
            lower = factor.mT @ gradient[1]
            spread = torch.tril(lower) + torch.tril(lower, -1).mT  # sum E[z z'] - 1
            if column is not None:
                target = column[:, pairs, 0].double().unflatten(1, variables.shape).transpose(2, 3)  # (2, L, 1, s)
                first, second = _in_units_of(mean, factor, target)
                shift, spread = shift + leaf_pseudocount * first, spread + leaf_pseudocount * second
            moved.append(_moved(mean, factor, own * shift, own[..., None] * spread, self.family.min_variance))
        self._set(moved)

    @torch.no_grad()
    def start(self, x: Tensor, observed: Tensor | None, chosen: Tensor, share: float, keep: float = 0.0) -> None:
        """As `LeafPart.start`: means and variances are those of each variable by itself. Covariances count `keep`."""
        self._set_alone(torch.cat([phi for _, phi in self.started(x, observed, chosen, share, keep)], 1), keep)

    # What a density is asked

    def draws(self, visits: LeafVisits, generator: torch.Generator | None) -> Values:
        return self._completed(visits, generator, noise=True)

    def modes(self, visits: LeafVisits) -> Values:
        return self._completed(visits, None, noise=False)

    def _completed(self, visits: LeafVisits, generator: torch.Generator | None, noise: bool) -> Values:
        parameters, entries = self._normals(), self.phi.shape[1]
        for group, which, place, variables in self.visited(visits, lambda size: 4 * size * size):
            mean, factor = (tensor.flatten(0, 1) for tensor in parameters[group])
            entry = place * entries + visits.entry[which]
            values, own = mean[entry], factor[entry]
            if noise:
                drawn = torch.randn(values.shape, generator=generator, dtype=self.phi.dtype, device=values.device)
                values = values + (own @ drawn.double()[..., None])[..., 0]
            if visits.given is not None and visits.column is not None:
                given, column = visits.given, visits.column[which, None].expand_as(variables)
                x = given.x[variables, 0, column].double()
                seen = given.observed[variables, column_of(given.observed, column)]
                values = gaussian.completed(values, own, x, seen, entry)
                if noise and given.low is not None:
                    box = _boxes(given, variables, column, x, seen)
                    some = box.bounded.any(1).nonzero()[:, 0]
                    rows = given.first + column[some, 0]
                    drawn = normal_boxes.draws(
                        mean[entry[some]], own[some], entry[some], box.select(some), rows, generator
                    )
                    values = values.index_copy(0, some, drawn)
            yield which, variables, values[..., None]

    def at_modes(self, x: Tensor, observed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for (regions, _, variables), (mean, factor) in zip(self.groups(), self._normals(), strict=True):
            values, seen = _of_group(variables, x, observed)
            cells = _cells(mean, values, seen)
            everything = gaussian.log_normalizers(gaussian.whitening(factor, None), None)  # at the mean
            result = values.new_empty(values.shape[0] * values.shape[2], mean.shape[1])
            for blocks, patterns, place in cells.chunks(cells.numel_of_block(mean)):
                own, region = cast(Tensor, cells.seen)[patterns], cells.region[patterns]
                logs = everything[region] - gaussian.log_normalizers(gaussian.whitening(factor[region], own), own)
                cells.put(result, blocks, logs[place][..., None].expand(-1, -1, cells.cell.shape[1]))
            yield regions, result.view(len(mean), -1, mean.shape[1]).transpose(1, 2)

    def moments(
        self, responsibilities: Tensor, x: Tensor, observed: Tensor, order: int, rate: float | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for variables, cells, used, conditionals in self._conditionals(responsibilities, x, observed):
            result = used.new_empty(len(used), (order + 1) * variables.shape[1])
            for blocks, mean, variance in conditionals:
                weights = cells.taken(used, blocks)[:, :, None]  # (n, K, 1, w)
                variance = variance[..., None]
                moments = [mean, variance + mean**2][:order]
                if rate is not None:
                    moments = [self.family.alone.exponential_mean(torch.stack((mean, variance.expand_as(mean))), rate)]
                sums = [(weights * moment).sum(1) for moment in moments]  # (n, s, w)
                total = weights.sum(1).expand_as(sums[0])
                cells.put(result, blocks, torch.cat((*sums, total), 1))
            result = result.view(len(variables), -1, order + 1, variables.shape[1]).permute(0, 3, 2, 1)
            yield variables.flatten(), result.flatten(0, 1)[:, :, None]

    def log_densities_at(
        self, at: Tensor, responsibilities: Tensor, x: Tensor, observed: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for variables, cells, used, conditionals in self._conditionals(responsibilities, x, observed):
            of_cells = at[variables, 0].transpose(1, 2).flatten(0, 1)  # (cells, s)
            result = torch.empty_like(of_cells)
            for blocks, mean, variance in conditionals:
                variance = torch.where(variance > 0, variance, 1)[..., None]  # of an observed variable, anything
                squares = (cells.taken(of_cells, blocks)[:, None] - mean) ** 2 / variance
                logs = -0.5 * (squares + torch.log(variance) + gaussian.LOG_2_PI)
                weights = torch.log(cells.taken(used, blocks))[:, :, None]
                cells.put(result, blocks, torch.logsumexp(weights + logs, 1))
            yield variables.flatten(), result.view(len(variables), -1, variables.shape[1]).transpose(1, 2).flatten(0, 1)

    def log_rests(self, x: Tensor, observed: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for (regions, _, variables), (mean, factor) in zip(self.groups(), self._normals(), strict=True):
            entries, size = mean.shape[1:]
            for some in slices(len(regions), CHUNK_NUMEL // (mean[0].numel() * x.shape[2])):
                values, seen = _of_group(variables[some], x, observed)
                cells = _cells(mean[some], values, seen)
                result = values.new_empty(len(values) * x.shape[2], entries * size)
                for blocks, logs in gaussian.rests(mean[some], factor[some], values, cells):
                    cells.put(result, blocks, logs.flatten(1, 2))
                result = result.view(len(values), -1, entries, size).permute(0, 3, 2, 1)  # (L, s, K, B)
                yield regions[some].repeat_interleave(size), variables[some].flatten(), result.flatten(0, 1)

    def distributions(
        self, responsibilities: Tensor, x: Tensor, observed: Tensor, wanted: Tensor
    ) -> Callable[[Tensor], Iterator[tuple[Tensor, Tensor]]]:
        held = [
            (variables, cells, used, list(conditionals))
            for variables, cells, used, conditionals in self._conditionals(responsibilities, x, observed)
            if wanted[variables].any()
        ]

        def below(at: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
            for variables, cells, used, conditionals in held:
                of_cells = at[:, variables, 0].transpose(2, 3).flatten(1, 2)  # (Q, cells, s)
                result = torch.empty_like(of_cells)
                for blocks, mean, variance in conditionals:
                    weights = cells.taken(used, blocks)[:, :, None]
                    deviation = variance.sqrt().clamp_min(gaussian.TINY)[..., None]
                    for level, own in zip(of_cells, result, strict=True):
                        z = (cells.taken(level, blocks)[:, None] - mean) / deviation
                        cells.put(own, blocks, (weights * torch.special.ndtr(z)).sum(1))
                sums = result.unflatten(1, (len(variables), -1)).transpose(2, 3).flatten(1, 2)  # (Q, n, B)
                yield variables.flatten(), sums[:, :, None]

        return below

    def _conditionals(
        self, responsibilities: Tensor, x: Tensor, observed: Tensor
    ) -> Iterator[tuple[Tensor, gaussian.Cells, Tensor, Iterator[tuple[slice, Tensor, Tensor]]]]:
        """Of some regions each: variables (L, s), cells, responsibilities (cells, K), and `conditionals`."""
        for (regions, _, variables), (mean, factor) in zip(self.groups(), self._normals(), strict=True):
            for some in slices(len(regions), CHUNK_NUMEL // (mean[0].numel() * x.shape[2])):
                values, seen = _of_group(variables[some], x, observed)
                cells = _cells(mean[some], values, seen)
                used = responsibilities[regions[some]].double().transpose(1, 2).flatten(0, 1)
                conditionals = gaussian.conditionals(mean[some], factor[some], values, cells)
                yield variables[some], cells, used, conditionals

    def tables(self, responsibilities: Tensor, num_values: int) -> Iterator[tuple[Tensor, Tensor]]:
        shape = len(self.variables), num_values + 1, 1, responsibilities.shape[2]
        yield self.variables, responsibilities.new_full(shape, torch.nan, dtype=torch.float64)

    def numel_at(self) -> int:
        return 4 * len(self.pairs) * self.phi.shape[1]

    def entropies(self) -> Iterator[tuple[Tensor, Tensor]]:
        for (regions, _, _), (mean, factor) in zip(self.groups(), self._normals(), strict=True):
            log_deviations = torch.log(factor.diagonal(dim1=-2, dim2=-1)).sum(-1)
            yield regions, log_deviations + mean.shape[2] / 2 * (1 + gaussian.LOG_2_PI)


@dataclass(frozen=True)
class FreeCoordinates:
    """phi as a function of free numbers: the factor of the covariance less its floor, with logarithms on the diagonal.

    Attributes:
        layout: of phi.
        min_variance: the floor of all eigenvalues.
    """

    layout: Layout
    min_variance: float

    def constrain(self, raw: Tensor) -> Tensor:
        groups = []
        for mean, lower in self.layout.groups(raw):
            factor = torch.tril(lower, -1) + torch.diag_embed(torch.exp(lower.diagonal(dim1=-2, dim2=-1)))
            covariance = factor @ factor.mT + self.min_variance * torch.eye(*lower.shape[2:]).to(lower)
            groups.append((mean, torch.linalg.cholesky(covariance)))
        return self.layout.packed(groups).to(raw.dtype)

    def unconstrain(self, phi: Tensor) -> Tensor:
        groups = []
        for mean, factor in self.layout.groups(phi):
            eye = torch.eye(*factor.shape[2:]).to(factor)
            above = gaussian.factored(factor @ factor.mT - self.min_variance * eye)
            above = gaussian.floored(above, LEAST_ABOVE_FLOOR * self.min_variance)
            groups.append((mean, torch.tril(above, -1) + torch.diag_embed(above.diagonal(dim1=-2, dim2=-1).log())))
        return self.layout.packed(groups).to(phi.dtype)


def _of_group(variables: Tensor, x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """x (L, s, B), in float64, and what is observed of it, (L, s, B or 1), of the variables (L, s) of a group."""
    return x[variables, 0].double(), None if observed is None else observed[variables]


def _boxes(given: Evidence, variables: Tensor, column: Tensor, x: Tensor, seen: Tensor) -> Box:
    """Of visits to variables (a, s) in rows `column` (a, s), of which x (a, s) is `seen` (a, s)."""
    bounded = given.bounded()
    low, high = given.ends(variables.flatten(), column.flatten())
    bounded = bounded[variables, column_of(bounded, column)]
    return Box(x, seen, low.view(x.shape), high.view(x.shape), bounded)


def _cells(mean: Tensor, x: Tensor, seen: Tensor | None) -> gaussian.Cells:
    return gaussian.cells_of(seen, len(mean), x.shape[2], mean[0].numel(), x.device)


def _moved(mean: Tensor, factor: Tensor, shift: Tensor, spread: Tensor, min_variance: float) -> tuple[Tensor, Tensor]:
    """Mean and factor once E[z] is `shift` (L, K, s), and E[z z'] is 1 + `spread` (L, K, s, s)."""
    covariance = spread - shift[..., None] * shift[..., None, :]
    covariance.diagonal(dim1=-2, dim2=-1).add_(1)
    moved = gaussian.floored(factor @ gaussian.factored(covariance), min_variance)
    return mean + (factor @ shift[..., None])[..., 0], moved


def _in_units_of(mean: Tensor, factor: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """E[z] and E[z z'] - 1 of independent variables of means and variances `target` (2, L, K or 1, s)."""
    whitens = gaussian.whitening(factor, None)
    first = (whitens @ (target[0] - mean)[..., None])[..., 0]
    second = (whitens * target[1][..., None, :]) @ whitens.mT + first[..., None] * first[..., None, :]
    second.diagonal(dim1=-2, dim2=-1).sub_(1)
    return first, second
