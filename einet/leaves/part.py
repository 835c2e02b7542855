"""What a part of the leaf layer answers: the contract of `LeafPart`, and what all parts share.

No other module knows how the parameters of a leaf are laid out, or whether its variables depend on each other.

Source: Section 3.4
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from einet.family import LeafFamily
from einet.layers.scaled import Scaled
from einet.layers.scratch import CHUNK_NUMEL, slices
from einet.leaves.evidence import Evidence

# Expected counts below this are 0: dividing by them would return rounding errors.
MIN_COUNT = 1e-20


class LeafVisits(NamedTuple):
    """Visit a: to entry[a] of leaf region node[a], both (A,), given row column[a] (A,) of the evidence, if any."""

    node: Tensor
    entry: Tensor
    given: Evidence | None = None
    column: Tensor | None = None


class Coordinates(Protocol):
    """Parameters as functions of free numbers, for gradient training."""

    def constrain(self, raw: Tensor) -> Tensor: ...

    def unconstrain(self, phi: Tensor) -> Tensor: ...


# For some visits, which of them (a,), their variables (a, s), and values (a, s, C).
Values = Iterator[tuple[Tensor, Tensor, Tensor]]


class LeafStep(NamedTuple):
    """What an M-step of leaves is told.

    Attributes:
        rate: the step size, a tensor of one number.
        pseudocount: of rows whose statistics are what an entry expects.
        leaf_pseudocount: of rows whose variables are independent, each distributed as its column.
        state: what the optimizer keeps for these leaves: "column", the parameters of `column_parameters`, which a
            `leaf_pseudocount` needs, and, with momentum, what earlier steps left.
        momentum: the share of earlier steps in expected counts.
    """

    rate: Tensor
    pseudocount: float
    leaf_pseudocount: float
    state: dict[str, Tensor]
    momentum: float = 0.0

    def rates(self, uses: Tensor) -> Tensor:
        """The step for one expected count of each entry, in the shape of `uses`; 0 for an entry that no row uses."""
        total = uses + self.pseudocount + self.leaf_pseudocount
        return torch.where(total > MIN_COUNT, self.rate / total.clamp_min(MIN_COUNT), 0)

    @property
    def column(self) -> Tensor | None:
        """The columns' own parameters, where they count."""
        return self.state.get("column") if self.leaf_pseudocount else None


def begun(state: dict[str, Tensor], name: str, like: Tensor, momentum: float) -> Tensor:
    """By how much the moving average `name` in `state`, which began at 0, is too small in this step: 1 - momentum^t."""
    if name not in state:
        state |= {name: torch.zeros_like(like), "share": like.new_zeros(())}
    return state["share"].mul_(momentum).add_(1 - momentum)


class LeafPart(nn.Module):
    """One family's part of the leaf layer: all leaf regions with variables of this family.

    Regions with equally many of them are a group. All parameters are in one tensor, whose last axis is the K entries.
    A new kind of leaf is a subclass that has the methods which here are not implemented.

    Args:
        family: of the variables.
        variables: those of the family.
        scopes: the variables of every leaf region of the network.
        num_entries: K.

    Source: Section 3.4
    """

    phi: nn.Parameter
    regions: Tensor  # those with variables of this family, by group
    by_region: Tensor  # argsort of `regions`
    pairs: Tensor  # the variable of each pair of a region and a variable in it, (P,)
    variables: Tensor  # of this family, ascending

    def __init__(self, family: LeafFamily, variables: Sequence[int], scopes: Sequence, num_entries: int):
        super().__init__()
        self.family: Any = family
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
        shape = self._shape(len(pairs), num_entries)
        self.phi = nn.Parameter(torch.empty(shape, dtype=torch.float32))

    def _shape(self, num_pairs: int, num_entries: int) -> tuple[int, ...]:
        """Of phi."""
        raise NotImplementedError

    def groups(self) -> Iterator[tuple[Tensor, slice, Tensor]]:
        """(regions (L,), the slice of their pairs, their variables (L, s)) of each group."""
        start = 0
        for regions, size in zip(self.regions.split(self.counts), self.sizes, strict=True):
            pairs = slice(start, start + len(regions) * size)
            yield regions, pairs, self.pairs[pairs].view(-1, size)
            start = pairs.stop

    def regions_of_pairs(self) -> Tensor:
        """The leaf region of each pair of a region and a variable, (P,)."""
        return torch.cat([regions.repeat_interleave(variables.shape[1]) for regions, _, variables in self.groups()])

    def alone(self) -> Tensor:
        """Parameters (|T|, P, C, K), of `family.alone`, of the density of each pair's variable by itself."""
        raise NotImplementedError

    # Densities

    def densities(self, x: Tensor, observed: Tensor | None, kind: type[Scaled]) -> Scaled:
        """The vectors of all regions, where this is their only family."""
        groups = [kind.from_log(logs, self.phi.dtype) for _, logs in self.log_densities(x, observed)]
        return self.in_order(groups)

    def in_order(self, groups: list[Scaled]) -> Scaled:
        """The vectors of all groups, by region."""
        if len(groups) == 1:
            return groups[0]
        return Scaled.joined(groups).map(lambda tensor: tensor.index_select(0, self.by_region))

    def log_densities(self, x: Tensor, observed: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """(regions, log-densities (L, K, B)) of each group, to be added to those of other families."""
        raise NotImplementedError

    def log_boxes(self, given: Evidence) -> Iterator[tuple[Tensor, Tensor]]:
        """(regions (n,), log P(box | observed) (n, K, B or 1)), to be added to `log_densities`, a region at any times.

        Raises:
            ValueError: the family knows no probabilities of intervals.
        """
        raise NotImplementedError

    def log_base(self, x: Tensor, observed: Tensor | None) -> Tensor | float:
        """The sum of log h(x_d) over the observed variables, (B,): what `log_densities` leave out."""
        return 0.0

    def waits(self, x: Tensor) -> str | None:
        """Why a training step waits for the CPU, so that no CUDA graph may have it; None where it does not."""
        return None

    # Parameters

    def reset(self, generator: torch.Generator) -> None:
        """Draw random parameters to start EM from."""
        raise NotImplementedError

    def project_(self) -> None:
        """Move the parameters to the nearest allowed ones."""
        raise NotImplementedError

    def is_valid(self, tolerance: float) -> bool:
        """Whether the parameters are finite, and allowed, up to a relative tolerance."""
        raise NotImplementedError

    def coordinates(self) -> Coordinates:
        """Between phi and free numbers of its shape. What is returned holds no reference to this module."""
        raise NotImplementedError

    # Learning

    def move(self, uses: Tensor, step: LeafStep) -> None:
        """The M-step, Eq. (9), from the gradient of the summed log-densities in `phi.grad`.

        Args:
            uses: expected counts (R, K) of the entries of `regions`.
            step: how far, and what else counts.
        """
        raise NotImplementedError

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
        family = self.family.alone
        for rows in slices(x.shape[-1], CHUNK_NUMEL // (family.num_statistics * len(self.variables))):
            seen = torch.ones_like(x[self.variables, 0, rows], dtype=torch.bool)
            if observed is not None:
                seen &= observed[self.variables][:, rows] if observed.shape[1] > 1 else observed[self.variables]
            values = torch.where(seen[:, None], x[self.variables][..., rows].double(), family.placeholder)
            total = total + torch.where(seen[:, None], family.statistics(values), 0) @ times[rows]
            count = count + (seen.double() @ times[rows])[:, None]
        return torch.where(count > 0, total / count, 0), count

    @torch.inference_mode(False)  # an optimizer keeps them
    @torch.no_grad()
    def column_parameters(self, x: Tensor, observed: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """Parameters (|T|, P, C, 1) of the density that the variable of each pair has by itself in x (D, C, B).

        For a variable that is never observed, the mean of its leaf's entries as they are.
        """
        mean, count = self.column_statistics(x, observed, weights)
        place = torch.searchsorted(self.variables, self.pairs)
        own = self.family.alone.expecting(mean[:, place])  # (T, P, C)
        return torch.where(count[place] > 0, own, self.alone().double().mean(-1))[..., None].to(self.phi.dtype)

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
        raise NotImplementedError

    def started(
        self, x: Tensor, observed: Tensor | None, chosen: Tensor, share: float, keep: float
    ) -> Iterator[tuple[slice, Tensor]]:
        """(pairs, their parameters (|T|, p, C, K), each variable by itself) after a `start`."""
        mean, count = self.column_statistics(x, observed)
        family, before = self.family.alone, self.alone()
        region = self.regions_of_pairs()
        place = torch.searchsorted(self.variables, self.pairs)
        for pairs in slices(len(self.pairs), CHUNK_NUMEL // (before[:, 0].numel() * chosen.shape[2])):
            # The statistics of the chosen rows of some pairs of a region and a variable, and their means.
            variables, rows = self.pairs[pairs, None, None], chosen[region[pairs]]  # (p, 1, 1), (p, K, n)
            values = x.movedim(1, 2)[variables, rows].movedim(3, 1).double()  # (p, C, K, n)
            seen = torch.ones_like(rows, dtype=torch.bool)
            if observed is not None:
                seen = observed.expand(-1, x.shape[-1])[variables, rows]
            values = torch.where(seen[:, None], values, family.placeholder)
            total = torch.where(seen[:, None], family.statistics(values), 0).sum(-1)  # (T, p, C, K)
            of_all = mean[:, place[pairs], :, None]
            of_rows = torch.where(seen.any(-1)[:, None], total / seen.sum(-1).clamp_min(1)[:, None], of_all)
            expected = share * of_rows + (1 - share - keep) * of_all
            if keep:
                expected = expected + keep * family.expected(before[:, pairs])
            phi = family.expecting(expected).to(self.phi.dtype)
            yield pairs, torch.where(count[place[pairs], :, None] > 0, phi, before[:, pairs])

    # What a density is asked

    def draws(self, visits: LeafVisits, generator: torch.Generator | None) -> Values:
        """A draw of each visit's variables, jointly, given what is observed, and within boxes; of what is, anything."""
        raise NotImplementedError

    def modes(self, visits: LeafVisits) -> Values:
        """The most probable values of each visit's variables, given what is observed; of what is, anything."""
        raise NotImplementedError

    def at_modes(self, x: Tensor, observed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(regions, log p(missing at its mode | observed) (L, K, B)) of each group, base measure included."""
        raise NotImplementedError

    def moments(
        self, responsibilities: Tensor, x: Tensor, observed: Tensor, order: int, rate: float | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Sums over entries of responsibility times E[x_d | observed], then E[x_d^2 | observed], then 1.

        Args:
            responsibilities: of all leaf regions' entries, (nodes, K, B).
            x: (D, C, B).
            observed: (D, B) or (D, 1). Of observed variables the sums are anything.
            order: 1 for the mean alone, 2.
            rate: for E[exp(rate x_d) | observed] in place of the mean, with order 1.

        Yields:
            Variables (n,), and their sums (n, order + 1, C, B) in float64. A variable comes once a region
        """
        raise NotImplementedError

    def tables(self, responsibilities: Tensor, num_values: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The same, (n, num_values + 1, C, B), of P(x_d = v), v < num_values; NaN where x_d has no such values."""
        raise NotImplementedError

    def log_densities_at(
        self, at: Tensor, responsibilities: Tensor, x: Tensor, observed: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Variables (n,), and log sum over entries of responsibility * p(x_d = at_d | observed), (n, B).

        `at` (D, C, B) is in float64. Of observed variables the densities are anything.
        """
        raise NotImplementedError

    def log_rests(self, x: Tensor, observed: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Regions (n,), variables (n,), and log p(x_d | all else that is observed in the region), (n, K, B) in float64.

        The base measure is included. Of missing variables the densities are anything.
        """
        raise NotImplementedError

    def distributions(
        self, responsibilities: Tensor, x: Tensor, observed: Tensor, wanted: Tensor
    ) -> Callable[[Tensor], Iterator[tuple[Tensor, Tensor]]]:
        """A function of `at` (Q, D, C, B): variables (n,), and sums (Q, n, C, B) over entries of a region of

            responsibility * P(x_d <= at_d | observed)

        Only `wanted` (D,) variables are needed. Of observed variables the sums are anything.
        """
        raise NotImplementedError

    def numel_at(self) -> int:
        """Numbers in the temporaries of `log_densities_at`, and held by `distributions`, for a row."""
        raise NotImplementedError

    def entropies(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(regions, entropies (L, K) in nats) of each group; a `ValueError` where the family has none."""
        raise NotImplementedError

    def visited(self, visits: LeafVisits, numel: Callable[[int], int]) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Visits to the regions of each group, in chunks, `numel(size)` being what one needs for its temporaries.

        Yields:
            The number of the group, which visits (a,), their regions' places in the group (a,), their variables (a, s).
        """
        for group, (regions, _, variables) in enumerate(self.groups()):
            place = torch.searchsorted(regions, visits.node).clamp_max(len(regions) - 1)
            inside = (regions[place] == visits.node).nonzero()[:, 0]
            for which in inside.split(max(1, CHUNK_NUMEL // numel(variables.shape[1]))):
                yield group, which, place[which], variables[place[which]]
