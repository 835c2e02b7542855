"""The passes of a query: up through the circuit, and down along the trees it is a sum of.

A circuit is a mixture of *induced trees*: start at the root, choose one partition and one pair of entries (i, j) at
every sum, and go on at entry i on the left and entry j on the right, down to one entry of each leaf region met. A
sample is a tree drawn with its posterior probability, then its leaves drawn; an explanation is a tree chosen by maxima,
then the modes of its leaves. Both walk down level by level, for all samples and all nodes of a level at once.

Source: Section 2
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor

from einet.family import ExponentialFamily
from einet.layers.children import Children
from einet.layers.scaled import Scaled
from einet.layers.scratch import CHUNK_NUMEL, slices
from einet.layers.sums import SumLayer
from einet.leaves import FamilyLeaves
from einet.mixture import Mixture
from einet.network import Einet


class UpwardPass(NamedTuple):
    """The vectors of every level, leaves first, and those of the partitions of every inner level."""

    outputs: list[Scaled]
    partitions: list[Scaled]


class Visits(NamedTuple):
    """Visit a: sample[a] passes through entry[a] of node[a], a region or partition of one level. Three tensors (A,)."""

    node: Tensor
    sample: Tensor
    entry: Tensor

    def select(self, index: Tensor) -> Visits:
        return Visits(*(tensor[index] for tensor in self))


class Pick(Protocol):
    def __call__(self, odds: Tensor, which: Tensor, /) -> Tensor:
        """The choice of each visit (A,), from 0 to n - 1: its odds are row `which` (A,) of `odds` (U, n)."""
        ...


# Upward


def upward(network: Einet, leaves: Scaled, operation: Callable[..., Scaled] = SumLayer.__call__) -> UpwardPass:
    """The vectors of all levels and partitions.

    Args:
        network: the circuit.
        leaves: the vectors of its leaf regions.
        operation: called with a layer and its inputs in place of the layer, for a pass of maxima or entropies.
    """
    up = UpwardPass([leaves], [])
    for level in network.levels:
        up.partitions.append(level.partitions(up.outputs, operation))
        up.outputs.append(level.regions(up.partitions[-1], operation))
    return up


def log_evidence(model: Einet | Mixture, leaves: Sequence[Scaled], x: Tensor, observed: Tensor) -> Tensor:
    """log P(x_observed) of the whole model, (num_classes, B) in float64, from the leaves' vectors of each network."""
    each = [
        network.root(own).log()[0] + network.leaves.log_base(x, observed)  # of which components may differ
        for network, own in zip(networks_of(model), leaves, strict=True)
    ]
    if not isinstance(model, Mixture):
        return each[0]
    return torch.logsumexp(torch.stack(each, -1) + torch.log(model.weights.detach().double()), -1)


def log_vectors(network: Einet, x: Tensor, observed: Tensor) -> Tensor:
    """The leaf regions' vectors of log-densities, less the base measure, (L, K, B) in float64: none is too small."""
    leaves = network.leaves
    total = torch.zeros(leaves.num_nodes, leaves.num_entries, x.shape[-1], dtype=torch.float64, device=x.device)
    for part in leaves.parts:
        for regions, log_density in part.log_densities(x, observed):
            total.index_add_(0, regions, log_density.double())
    return total


def regions_of_pairs(part: FamilyLeaves) -> Tensor:
    """The leaf region of each pair of a region and a variable, (P,)."""
    return torch.cat([regions.repeat_interleave(variables.shape[1]) for regions, _, variables in part.groups()])


def log_maxima(logs: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """The largest of `logs` (n, B) in each `group` (n,): (num_groups, B)."""
    empty = logs.new_full((num_groups, logs.shape[1]), -torch.inf)
    return empty.scatter_reduce_(0, group[:, None].expand_as(logs), logs, "amax")


def log_sums(logs: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """log of the sums of e^logs (n, B) over those of equal `group` (n,): (num_groups, B)."""
    peak = log_maxima(logs, group, num_groups).clamp_min(torch.finfo(logs.dtype).min)
    return peak + torch.zeros_like(peak).index_add_(0, group, torch.exp(logs - peak[group])).log()


# Downward


def descend(
    network: Einet, entry: Tensor, pick: Pick, up: UpwardPass | None = None, column: Tensor | None = None
) -> Visits:
    """From the root down one tree for each sample.

    The odds of a choice are its weight times its density.

    Args:
        network: the circuit.
        entry: each sample's entry of the root, (N,).
        pick: makes a choice by its odds.
        up: an upward pass with the evidence. Without one, all densities are 1.
        column: each sample's column of `up`, (N,).

    Returns:
        The visits to leaf regions.
    """
    descent = _Descent(network, pick, up, column)
    root = Visits(torch.zeros_like(entry), torch.arange(len(entry), device=entry.device), entry)
    descent.waiting[-1].append(root)
    for depth in reversed(range(len(network.levels))):
        descent.step(depth)
    return _joined(descent.waiting[0])


def _joined(several: list[Visits]) -> Visits:
    return Visits(*map(torch.cat, zip(*several, strict=True)))


class _Descent:
    """A work queue: `waiting` has for each output, leaves first, the visits that are still to be passed on."""

    def __init__(self, network: Einet, pick: Pick, up: UpwardPass | None, column: Tensor | None):
        self.network, self.pick, self.up, self.column = network, pick, up, column
        self.waiting: list[list[Visits]] = [[] for _ in range(len(network.levels) + 1)]

    def step(self, depth: int) -> None:
        """Pass the visits of one level on to its children."""
        if not self.waiting[depth + 1]:
            return  # no sample came here: a region below several others is met in some trees only
        level, visits = self.network.levels[depth], _joined(self.waiting[depth + 1])
        self.waiting[depth + 1] = []
        # Each region chooses a partition, whose number is then that in the layers' own order.
        visits = visits._replace(node=self._partitions(depth, visits))
        if level.order is not None:
            visits = visits._replace(node=level.order[visits.node])
        # Each partition chooses a pair of entries: one layer after another takes its own nodes.
        first = 0
        for layer, children in zip(level.einsums, level.children_of, strict=True):
            inside = (visits.node >= first) & (visits.node < first + len(layer.weights))
            own = visits if len(level.einsums) == 1 else visits.select(inside.nonzero()[:, 0])
            self._visit(layer, children, own._replace(node=own.node - first))
            first += len(layer.weights)

    def _partitions(self, depth: int, visits: Visits) -> Tensor:
        """A partition for each visit to a region."""
        level, chosen = self.network.levels[depth], visits.node.clone()
        groups = None if self.up is None else level.by_region(self.up.partitions[depth])
        region = partition = level.num_single  # a region with a single partition has its number
        for number, mixing in enumerate(level.mixings, 1):
            num_nodes = len(mixing.weights)
            inside = ((visits.node >= region) & (visits.node < region + num_nodes)).nonzero()[:, 0]
            own = visits.select(inside)
            inputs = None if groups is None else [groups[number]]
            ((node, _),) = self._choose(mixing, inputs, own._replace(node=own.node - region))
            chosen[inside] = partition + node
            region, partition = region + num_nodes, partition + num_nodes * mixing.num_choices
        return chosen

    def _visit(self, layer: SumLayer, children: Children, visits: Visits) -> None:
        """A choice for each visit to a partition, and the visits to its children that follow."""
        if not len(visits.node):
            return
        inputs = None if self.up is None else children(self.up.outputs)
        for side, (node, entry) in enumerate(self._choose(layer, inputs, visits)):
            for source, which, row in children.places(side, node):
                if len(row):
                    self.waiting[source].append(Visits(row, visits.sample[which], entry[which]))

    def _choose(
        self, layer: SumLayer, inputs: Sequence[Scaled] | None, visits: Visits
    ) -> Sequence[tuple[Tensor, Tensor]]:
        """What each visit uses of each input: the row there, and the entry."""
        entries, columns, column = max(self.network.num_sums, self.network.num_classes), 1, 0
        if self.up is not None and self.column is not None:
            columns, column = self.up.outputs[0].value.shape[2], self.column[visits.sample]
        # Visits to the same (node, entry, column) share one row of odds: pack the three in an integer, and sort by it.
        key, order = ((visits.node * entries + visits.entry) * columns + column).sort()
        distinct, which, counts = torch.unique_consecutive(key, return_inverse=True, return_counts=True)
        end, chosen = torch.cat((counts.new_zeros(1), counts.cumsum(0))), torch.empty_like(key)
        for keys in slices(len(distinct), CHUNK_NUMEL // layer.num_choices):
            # Unpack a chunk of the keys, compute their odds, and choose for all visits that have them.
            packed, visited = distinct[keys], slice(end[keys.start], end[keys.stop])
            odds = layer.odds(inputs, packed // (entries * columns), packed // columns % entries, packed % columns)
            chosen[order[visited]] = self.pick(odds, which[visited] - keys.start)
        return layer.split(visits.node, visits.entry, chosen)


# At the leaves


def values(
    network: Einet, visits: Visits, num_samples: int, value: Callable[[ExponentialFamily, Tensor], Tensor]
) -> Tensor:
    """`value(family, phi)` of every variable, (N, D, C), phi (|T|, ...) being that of the leaf entry a sample uses."""
    num_variables = network.graph.num_variables
    result = network.leaves.parts[0].phi.new_empty(num_samples * num_variables, network.channels)
    for part in network.leaves.parts:
        for regions, pairs, variables in part.groups():
            phi = part.phi[:, pairs].unflatten(1, (len(regions), -1))  # (T, L, s, C, K)
            table = phi.permute(1, 4, 0, 2, 3).flatten(0, 1)  # (L * K, T, s, C)
            node_of = regions.new_full((network.leaves.num_nodes,), -1)
            node_of[regions] = torch.arange(len(regions), device=regions.device)
            inside = (node_of[visits.node] >= 0).nonzero()[:, 0]
            for own in map(visits.select, inside.split(max(1, CHUNK_NUMEL // table[0].numel()))):
                node = node_of[own.node]
                of_visits = value(part.family, table[node * network.num_leaves + own.entry].movedim(1, 0))  # (A, s, C)
                places = own.sample[:, None] * num_variables + variables[node]
                result[places.flatten()] = of_visits.flatten(0, 1)
    return result.view(num_samples, -1, network.channels)


# What queries take and return


def result_dtype(network: Einet, x: Tensor) -> torch.dtype:
    """The dtype of completed rows: that of `x` where it holds every value of the families, else the network's."""
    if x.is_floating_point():
        return x.dtype
    largest = 1 if x.dtype == torch.bool else torch.iinfo(x.dtype).max
    fits = all(family.num_values is not None and family.num_values - 1 <= largest for family in network.families)
    return x.dtype if fits else network.leaves.parts[0].phi.dtype


def as_labels(num_classes: int, labels: Tensor | int | None, count: int, device: torch.device) -> Tensor:
    """`labels` as (count,) classes, zeros for a model with a single one; a `ValueError` where they do not fit it."""
    if (labels is None) != (num_classes == 1):
        raise ValueError(f"labels are for models with several classes, and needed there; this one has {num_classes}")
    labels = torch.as_tensor(0 if labels is None else labels, device=device)
    if labels.is_floating_point() or labels.is_complex() or labels.shape not in ((), (count,)):
        raise ValueError(f"labels must be one integer or {count}, got {labels.dtype} of shape {tuple(labels.shape)}")
    if (labels < 0).any() or (labels >= num_classes).any():
        raise ValueError(f"labels must be from 0 to {num_classes - 1}, got {labels.tolist()}")
    return labels.long().expand(count)


def check_model(model: Any) -> None:
    """Raise a `ValueError` for what is neither network nor mixture, such as an estimator, which has one inside."""
    if not hasattr(model, "as_input"):
        raise ValueError(
            f"expected an Einet or a Mixture, got {type(model).__name__}: of a scikit-learn estimator take its model_, "
            "and rows from its columns_.encode"
        )
    if next(model.parameters()).is_meta:
        raise ValueError("the model is on the meta device, where it has no numbers to answer with")


def as_evidence(
    model: Einet | Mixture, x: Tensor, observed: Tensor, check: bool = True, name: str = "observed"
) -> tuple[Tensor, Tensor]:
    """`model.as_input`, for queries that need a mask: (D, C, B), and (D, B) or (D, 1)."""
    check_model(model)
    if observed is None:
        raise ValueError(f"{name} must be a bool tensor, got None")
    return cast(tuple[Tensor, Tensor], model.as_input(x, observed, check, name))


Mask = TypeVar("Mask", bound=Tensor | None)


def chunks(model: Einet | Mixture, x: Tensor, observed: Mask) -> Iterator[tuple[slice, Tensor, Mask]]:
    """(rows, x (D, C, b), observed) of chunks of rows whose upward passes fit a bounded memory."""
    numel = 0  # of a row
    for network in networks_of(model):
        weights = [layer.weights for level in network.levels for layer in level.einsums]
        numel += network.leaves.num_nodes * network.num_leaves + sum(w.shape[:2].numel() for w in weights)
    for rows in slices(x.shape[2], 4 * CHUNK_NUMEL // numel):
        mask = observed if observed is None or observed.shape[1] == 1 else observed[:, rows]
        yield rows, x[:, :, rows], cast(Mask, mask)


def networks_of(model: Einet | Mixture) -> list[Einet]:
    """The components of a mixture, or the network alone."""
    return list(model.components) if isinstance(model, Mixture) else [model]


def check_evidence(log_density: Tensor, first: int = 0) -> None:
    """Raise a `ValueError` where a row's evidence has density 0: nothing follows from what cannot be.

    `first` is the number of the first row.
    """
    impossible = (~torch.isfinite(log_density)).nonzero()
    if len(impossible):
        raise ValueError(f"row {first + int(impossible[0, 0])} has density 0, and so has no conditional density")
