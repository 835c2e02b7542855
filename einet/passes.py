"""The passes of a query: up through the circuit, and down along the trees it is a sum of.

A circuit is a mixture of *induced trees*: starting at the root, choose one partition and one pair of entries (i, j) at
every sum, and go on at entry i on the left and entry j on the right, down to one entry of each leaf region met. A
sample is a tree drawn with its posterior probability, then its leaves drawn; an explanation is a tree chosen by maxima,
then the modes of its leaves. Both walk down level by level, for all samples and all nodes of a level at once.

Paper: Section 2
Chapter: book/12_queries
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from einet.children import Children
from einet.family import ExponentialFamily
from einet.layers import SumLayer
from einet.network import Einet
from einet.scaled import Scaled
from einet.scratch import PORTION


class Passed(NamedTuple):
    """An upward pass: the vectors of every level, leaves first, and those of the partitions of every inner level."""

    outputs: list[Scaled]
    partitions: list[Scaled]


class Visits(NamedTuple):
    """Sample `sample` uses entry `entry` of the region or partition in row `row` of a level: three tensors (A,)."""

    row: Tensor
    sample: Tensor
    entry: Tensor

    def of(self, which: Tensor) -> Visits:
        return Visits(*(part[which] for part in self))


# (odds (U, n), which (A,)) -> the choice, from 0 to n - 1, of each visit (A,), by the odds in row `which`
Pick = Callable[[Tensor, Tensor], Tensor]


# Upward


def upward(network: Einet, leaves: Scaled, operation: Callable = SumLayer.__call__) -> Passed:
    """The vectors of all levels and partitions. Other operations than the layers' sums make other passes, as of maxima.

    operation(layer, *inputs) -> Scaled stands in for the layers where given.
    """
    passed = Passed([leaves], [])
    for level in network.levels:
        passed.partitions.append(level.partitions(passed.outputs, operation))
        passed.outputs.append(level.regions(passed.partitions[-1], operation))
    return passed


# Downward


def descend(
    network: Einet, entry: Tensor, pick: Pick, passed: Passed | None = None, row: Tensor | None = None
) -> Visits:
    """From the root's entry of each sample (N,) down one tree each; the leaves that are met, and in which entries.

    The odds of a choice are its weight times its density, in the column `row` (N,) of `passed`, the evidence of each
    sample. Without evidence all densities are 1, and no pass is needed.
    """
    descent = _Descent(network, pick, passed, row)
    nothing = torch.zeros_like(entry)
    descent.found[-1].append(Visits(nothing, torch.arange(len(entry), device=entry.device), entry))
    for depth in reversed(range(len(network.levels))):
        descent.step(depth)
    return Visits(*map(torch.cat, zip(*descent.found[0], strict=True)))


class _Descent:
    """`found` collects, for each level, the visits that the levels above it make there."""

    def __init__(self, network: Einet, pick: Pick, passed: Passed | None, row: Tensor | None):
        self.network, self.pick, self.passed, self.row = network, pick, passed, row
        inner = [level.num_single + sum(len(mixing.weights) for mixing in level.mixings) for level in network.levels]
        self.sizes = [network.leaves.num_nodes, *inner]
        self.found: list[list[Visits]] = [[] for _ in self.sizes]

    def step(self, depth: int) -> None:
        """Pass the visits of one level on to its children."""
        if not self.found[depth + 1]:
            return  # no sample came here: regions below several others are met in some trees only
        level, above = self.network.levels[depth], Visits(*map(torch.cat, zip(*self.found[depth + 1], strict=True)))
        self.found[depth + 1] = []
        visits = above._replace(row=self._partitions(depth, above))
        if level.order is not None:
            visits = visits._replace(row=level.order[visits.row])
        first = 0
        for layer, children in zip(level.einsums, level.children_of, strict=True):
            inside = (visits.row >= first) & (visits.row < first + len(layer.weights))
            own = visits if len(level.einsums) == 1 else visits.of(inside.nonzero()[:, 0])
            self._visit(layer, children, own._replace(row=own.row - first))
            first += len(layer.weights)

    def _partitions(self, depth: int, visits: Visits) -> Tensor:
        """A partition for each visit to a region."""
        level, chosen = self.network.levels[depth], visits.row.clone()
        groups = [None] * (1 + len(level.mixings))
        if self.passed is not None:
            groups = level.by_region(self.passed.partitions[depth])
        region = partition = level.num_single
        for mixing, group in zip(level.mixings, groups[1:], strict=True):
            num_nodes = len(mixing.weights)
            own = ((visits.row >= region) & (visits.row < region + num_nodes)).nonzero()[:, 0]
            here = visits.of(own)
            ((row, _),) = self._choose(mixing, group and [group], here._replace(row=here.row - region))
            chosen[own] = partition + row
            region, partition = region + num_nodes, partition + num_nodes * mixing.num_choices
        return chosen

    def _visit(self, layer: SumLayer, children: Children, visits: Visits) -> None:
        """A choice for each visit to a partition: its children are visited in the entries that it takes."""
        if not len(visits.row):
            return
        inputs = None if self.passed is None else children(self.passed.outputs)
        for side, (node, entry) in enumerate(self._choose(layer, inputs, visits)):
            for source, own, row in children.places(side, node):
                if len(row):
                    self.found[source].append(Visits(row, visits.sample[own], entry[own]))

    def _choose(self, layer: SumLayer, inputs: Sequence[Scaled] | None, visits: Visits):
        """What each visit uses of the layer's inputs. Visits to one entry for one row of evidence share their odds."""
        entries, rows, evidence = max(self.network.num_sums, self.network.num_classes), 1, 0
        if self.row is not None:
            rows, evidence = self.passed.outputs[0].value.shape[2], self.row[visits.sample]
        key, order = ((visits.row * entries + visits.entry) * rows + evidence).sort()
        distinct, which, counts = torch.unique_consecutive(key, return_inverse=True, return_counts=True)
        end, chosen = torch.cat((counts.new_zeros(1), counts.cumsum(0))), torch.empty_like(key)
        step = max(1, PORTION // layer.num_choices)
        for start in range(0, len(distinct), step):
            some = distinct[start : start + step]
            visited = slice(end[start], end[start + len(some)])
            odds = layer.odds(inputs, some // (entries * rows), some // rows % entries, some % rows)
            chosen[order[visited]] = self.pick(odds, which[visited] - start)
        return layer.split(visits.row, visits.entry, chosen)


# At the leaves


def values(network: Einet, visits: Visits, num_samples: int, value: Callable) -> Tensor:
    """(N, D, C): `value(family, phi)` of every variable, phi (|T|, ...) being that of the leaf entry a sample uses."""
    shape = (num_samples * network.graph.num_variables, network.channels)
    found = network.leaves.parts[0].phi.new_empty(shape)
    for part in network.leaves.parts:
        for rows, pairs, variables in part.groups():
            phi = part.phi[:, pairs].unflatten(1, (len(rows), -1))  # (T, L, s, C, K)
            table = phi.permute(1, 4, 0, 2, 3).flatten(0, 1)  # (L * K, T, s, C)
            node_of = rows.new_full((network.leaves.num_nodes,), -1)
            node_of[rows] = torch.arange(len(rows), device=rows.device)
            inside = (node_of[visits.row] >= 0).nonzero()[:, 0]
            for own in map(visits.of, inside.split(max(1, PORTION // table[0].numel()))):
                node = node_of[own.row]
                drawn = value(part.family, table[node * network.num_leaves + own.entry].movedim(1, 0))  # (A, s, C)
                places = own.sample[:, None] * network.graph.num_variables + variables[node]
                found[places.flatten()] = drawn.flatten(0, 1)
    return found.view(num_samples, -1, network.channels)


# What queries take and return


def values_of(family: ExponentialFamily) -> int | None:
    """How many values a discrete family has, 0, 1, ...; None where they are not finitely many."""
    return family.num_values


def table_of(family: ExponentialFamily, phi: Tensor) -> Tensor:
    """P(x = v) for each value v of a discrete family and each of its parameters, phi (|T|, ...) -> (V, ...)."""
    return torch.exp(family.log_probabilities(phi))


def result_dtype(network: Einet, x: Tensor) -> torch.dtype:
    """The dtype of completed rows: that of `x` where it holds every value of the families, else the network's."""
    if x.is_floating_point():
        return x.dtype
    most = 1 if x.dtype == torch.bool else torch.iinfo(x.dtype).max
    counts = [values_of(family) for family in network.families]
    fits = all(count is not None and count - 1 <= most for count in counts)
    return x.dtype if fits else network.leaves.parts[0].phi.dtype


def as_labels(num_classes: int, labels: Tensor | int | None, count: int, device: torch.device) -> Tensor:
    """(count,) classes; zeros for a model with a single one. `ValueError` where they do not fit the model."""
    if (labels is None) != (num_classes == 1):
        raise ValueError(f"labels are for models with several classes, and needed there; this one has {num_classes}")
    labels = torch.as_tensor(0 if labels is None else labels, device=device)
    if labels.is_floating_point() or labels.is_complex() or labels.shape not in ((), (count,)):
        raise ValueError(f"labels must be one integer or {count}, got {labels.dtype} of shape {tuple(labels.shape)}")
    if (labels < 0).any() or (labels >= num_classes).any():
        raise ValueError(f"labels must be from 0 to {num_classes - 1}, got {labels.tolist()}")
    return labels.long().expand(count)


def check_model(model) -> None:
    """`ValueError` for what is neither network nor mixture, such as an estimator, which has one inside."""
    if not hasattr(model, "as_input"):
        raise ValueError(
            f"expected an Einet or a Mixture, got {type(model).__name__}: of a scikit-learn estimator take its model_, "
            "and rows from its columns_.encode"
        )
    if next(model.parameters()).is_meta:
        raise ValueError("the model is on the meta device, where it has no numbers to answer with")


def as_evidence(
    model, x: Tensor, observed: Tensor, check: bool = True, name: str = "observed"
) -> tuple[Tensor, Tensor]:
    """`model.as_input`, for queries that need a mask: (D, C, B), and (D, B) or (D, 1)."""
    check_model(model)
    if observed is None:
        raise ValueError(f"{name} must be a bool tensor, got None")
    return model.as_input(x, observed, check, name)


def portions(model, x: Tensor, observed: Tensor | None) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """(rows, x, observed) in portions of rows whose upward passes fit a bounded memory. Inside layout, (D, C, B)."""
    a_row = 0
    for network in networks_of(model):
        weights = [layer.weights for level in network.levels for layer in level.einsums]
        a_row += network.leaves.num_nodes * network.num_leaves + sum(w.shape[:2].numel() for w in weights)
    step = max(1, 4 * PORTION // a_row)
    for start in range(0, x.shape[2], step):
        some = slice(start, min(start + step, x.shape[2]))
        same = observed is None or observed.shape[1] == 1
        yield some, x[:, :, some], observed if same else observed[:, some]


def networks_of(model) -> list[Einet]:
    """The components of a mixture, or the network alone."""
    return list(getattr(model, "components", (model,)))


def check_evidence(log_density: Tensor) -> None:
    """`ValueError` where a row's evidence has density 0: nothing follows from what cannot be."""
    impossible = (~torch.isfinite(log_density)).nonzero()
    if len(impossible):
        raise ValueError(f"row {impossible[0, 0].item()} has density 0, and so has no conditional density")
