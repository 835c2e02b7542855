"""The slow and obvious way, in float64: one region and one row at a time, every world, every induced tree.

`Circuit` takes a model's parameters off its layers and hangs them on the regions of its graph. It finds the region of a
row by the children that the compiled plan names, which must be those of `graph.partitions`, or it raises. From there
on nothing of `einet.layers.sums` is used: plain log-sum-exp, plain sums, plain enumeration.
"""

import math
from collections import Counter
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import digamma, gammaln, logsumexp, xlogy

from einet import (
    Bernoulli,
    Binomial,
    Categorical,
    Exponential,
    Gamma,
    Geometric,
    Heaped,
    LogNormal,
    Normal,
    Poisson,
    WithAtoms,
)
from einet.layers.sums import EinsumLayer


class Sum(NamedTuple):
    """One partition's sums: entry k is sum_c weights[k, c] * the product of the children's entries choices[c]."""

    children: tuple[int, ...]
    choices: list[tuple[int, ...]]  # an entry of each child: all pairs, or equal ones; under a leaf root, of itself
    weights: np.ndarray


class Circuit:
    """The parameters of `model`, by region; `of` picks something else that is shaped like them, such as gradients.

    leaves[region][variable]   (family, phi (|T|, C, K))
    sums[region]               a `Sum` for each partition
    mixing[region]             weights (P, K), for regions with several partitions
    """

    def __init__(self, model, of=lambda parameter: parameter):
        self.graph, self.root = model.graph, model.graph.root
        self.leaves = _leaves(model, of)
        self.sums, self.mixing = _sums(model, of)

    # Densities

    def log_density(self, x, observed=None):
        """log p(x_observed), (B, num_classes), rows of x being (D,) or (D, C)."""
        x, observed = self._rows(x, observed)
        return np.array([self._root(row, mask) for row, mask in zip(x, observed, strict=True)])

    def _root(self, x, observed):
        if self.root not in self.leaves:
            return self.log_vector(self.root, x, observed)
        (node,) = self.sums[self.root]
        return logsumexp(_log(node.weights) + self.log_vector(self.root, x, observed), axis=1)

    def log_vector(self, region, x, observed):
        """The log-densities (K,) of one region for one row."""
        if region in self.leaves:
            densities = [log_density(f, x[d], phi) for d, (f, phi) in self.leaves[region].items() if observed[d]]
            return sum(densities, np.zeros(self._num_entries(region)))
        partitions = []
        for children, choices, weights in self.sums[region]:
            vectors = [self.log_vector(child, x, observed) for child in children]
            products = [sum(v[i] for v, i in zip(vectors, choice, strict=True)) for choice in choices]
            partitions.append(logsumexp(_log(weights) + products, axis=1))
        if region not in self.mixing:
            return partitions[0]
        return logsumexp(_log(self.mixing[region]) + np.array(partitions), axis=0)

    def _num_entries(self, leaf):
        _, phi = next(iter(self.leaves[leaf].values()))
        return phi.shape[-1]

    # Induced trees: one partition and one entry of each child chosen at every sum from the root to the leaves

    def trees(self, region, entry, x, observed):
        """All induced trees below one entry, as (log-weight, uses); a use is the place of a parameter."""
        if region in self.leaves:
            yield self.log_vector(region, x, observed)[entry], (("leaf", region, entry),)
            return
        for p, (children, choices, weights) in enumerate(self.sums[region]):
            chosen, log_mixing = (), 0.0
            if region in self.mixing:
                chosen, log_mixing = (("mixing", region, p, entry),), _log(self.mixing[region][p, entry])
            for c, choice in enumerate(choices):
                here = chosen + (("sum", region, p, entry, c),)
                below = (self.trees(*child, x, observed) for child in zip(children, choice, strict=True))
                for subtrees in product(*below):
                    log_tree = log_mixing + _log(weights[entry, c]) + sum(log_weight for log_weight, _ in subtrees)
                    yield log_tree, sum((uses for _, uses in subtrees), here)

    def root_trees(self, x, observed, label=0):
        if self.root not in self.leaves:
            yield from self.trees(self.root, label, x, observed)
            return
        (node,) = self.sums[self.root]
        for i in range(node.weights.shape[1]):
            for log_leaf, uses in self.trees(self.root, i, x, observed):
                yield _log(node.weights[label, i]) + log_leaf, (("sum", self.root, 0, label, i), *uses)

    def expected_uses(self, x, observed, label=0):
        """Eq. (6) for one row (D, C): how often each parameter is used, in expectation over the trees given the row."""
        log_weights, uses = zip(*self.root_trees(x, observed, label), strict=True)
        posterior = np.exp(np.array(log_weights) - logsumexp(log_weights))
        counts = Counter()
        for probability, places in zip(posterior, uses, strict=True):
            for place in places:
                counts[place] += probability
        return counts

    def total_uses(self, x, observed, labels):
        """The expected uses of every sum weight, mixing weight and leaf entry over all rows, by region."""
        x, observed = self._rows(x, observed)
        total = Counter()
        for row, mask, label in zip(x, observed, labels, strict=True):
            total.update(self.expected_uses(row, mask, label))
        return self._by_region(total)

    def _by_region(self, uses):
        def counts(shape, *where):
            return np.array([uses[(*where, *place)] for place in np.ndindex(shape)]).reshape(shape)

        sums = {
            region: [
                node._replace(weights=counts(node.weights.shape, "sum", region, p)) for p, node in enumerate(nodes)
            ]
            for region, nodes in self.sums.items()
        }
        mixing = {region: counts(weights.shape, "mixing", region) for region, weights in self.mixing.items()}
        leaves = {region: counts((self._num_entries(region),), "leaf", region) for region in self.leaves}
        return sums, mixing, leaves

    def mean_statistics(self, x, observed, labels):
        """Eq. (7) and (9): the mean T(x_d) over the uses of each leaf entry; E[T] stands in for what is missing.

        {region: {variable: (|T|, C, K)}}
        """
        x, observed = self._rows(x, observed)
        total = {region: {d: 0.0 for d in own} for region, own in self.leaves.items()}
        for row, mask, label in zip(x, observed, labels, strict=True):
            uses = self.expected_uses(row, mask, label)
            for region, own in self.leaves.items():
                probability = np.array([uses["leaf", region, k] for k in range(self._num_entries(region))])
                for d, (family, phi) in own.items():
                    statistics = expected_statistics(family, phi)
                    if mask[d]:
                        statistics = family.statistics(torch.tensor(row[d])).numpy()[..., None]
                    total[region][d] = total[region][d] + probability * statistics
        _, _, leaves = self.total_uses(x, observed, labels)
        return {region: {d: t / leaves[region] for d, t in own.items()} for region, own in total.items()}

    def _rows(self, x, observed):
        x = np.asarray(x, dtype=float).reshape(len(x), self.graph.num_variables, -1)
        return x, np.broadcast_to(True if observed is None else np.asarray(observed), x.shape[:2])

    def num_trees(self):
        """How many induced trees the root entry has."""

        def count(region):
            if region in self.leaves:
                return 1
            return sum(len(node.choices) * math.prod(map(count, node.children)) for node in self.sums[region])

        return count(self.root)


def log_density(family, x, phi):
    """x (C,) and phi (|T|, C, K) -> log-densities (K,), by the textbook's formula of each family."""
    x = x[:, None]
    match family:
        case LogNormal():
            log_x = np.log(x)
            each = -0.5 * (log_x - phi[0]) ** 2 / phi[1] - 0.5 * np.log(2 * math.pi * phi[1]) - log_x
        case Poisson():
            each = xlogy(x, phi[0]) - phi[0] - gammaln(x + 1)
        case Geometric():
            each = x * np.log(phi[0] / (1 + phi[0])) - np.log1p(phi[0])
        case Exponential():
            each = -x / phi[0] - np.log(phi[0])
        case Gamma():
            rate = phi[1] / phi[0]
            each = phi[1] * np.log(rate) + (phi[1] - 1) * np.log(x) - rate * x - gammaln(phi[1])
        case Heaped(atoms=atoms, heights=heights):
            normal = lambda value: np.exp(-0.5 * (value - phi[0]) ** 2 / phi[1]) / np.sqrt(2 * math.pi * phi[1])  # noqa: E731
            total = 1 + sum(height * normal(atom) for atom, height in zip(atoms, heights, strict=True))
            base = [heights[atoms.index(value)] if value in atoms else 1.0 for value in x[:, 0]]
            each = np.log(base) - np.log(total) - 0.5 * (x - phi[0]) ** 2 / phi[1] - 0.5 * np.log(2 * math.pi * phi[1])
        case Normal():
            each = -0.5 * (x - phi[0]) ** 2 / phi[1] - 0.5 * np.log(2 * math.pi * phi[1])
        case Bernoulli():
            each = np.log(np.where(x == 1, phi[0], 1 - phi[0]))
        case Binomial(total=n):
            base = gammaln(n + 1) - gammaln(x + 1) - gammaln(n - x + 1)
            each = base + x * np.log(phi[0] / n) + (n - x) * np.log1p(-phi[0] / n)
        case Categorical():
            each = np.log([phi[int(value), c] for c, value in enumerate(x[:, 0])])
        case WithAtoms(family=other, atoms=atoms):
            rest, own = phi[len(atoms)], phi[len(atoms) + 1 :]
            places = [atoms.index(value) if value in atoms else None for value in x[:, 0]]
            each = [
                np.log(rest[c]) + log_density(other, x[c], own[:, [c]]) if at is None else np.log(phi[at, c])
                for c, at in enumerate(places)
            ]
            each = np.array(each)
        case _:
            each = family.log_density(*map(torch.tensor, (x, phi))).numpy()
    return each.sum(0)


def expected_statistics(family, phi):
    """E[T(x)]: phi, but for the normal, whose phi is the mean and the variance, and the gamma, of mean and shape."""
    if isinstance(family, Heaped):
        shape = (-1, *[1] * (phi.ndim - 1))
        atoms, heights = np.reshape(family.atoms, shape), np.reshape(family.heights, shape)
        weights = heights * np.exp(-0.5 * (atoms - phi[0]) ** 2 / phi[1]) / np.sqrt(2 * math.pi * phi[1])
        total = 1 + weights.sum(0)
        mean = (phi[0] + (weights * atoms).sum(0)) / total
        return np.stack((mean, (phi[0] ** 2 + phi[1] + (weights * atoms**2).sum(0)) / total))
    if isinstance(family, Normal):
        return np.stack((phi[0], phi[0] ** 2 + phi[1]))
    if isinstance(family, Gamma):
        return np.stack((phi[0], np.log(phi[0]) - np.log(phi[1]) + digamma(phi[1])))
    if isinstance(family, WithAtoms):
        number = len(family.atoms) + 1
        return np.concatenate((phi[:number], phi[number - 1] * expected_statistics(family.family, phi[number:])))
    return phi


def support(family):
    """All values of a discrete family."""
    return range(family.categories if isinstance(family, Categorical) else family.total + 1)


def worlds(model):
    """Every joint value of a model of discrete variables with one channel: (W, D), the last variable fastest."""
    values = {d: support(family) for family, variables in model.families.items() for d in variables}
    return torch.tensor(list(product(*(values[d] for d in range(model.graph.num_variables)))), dtype=torch.float64)


def all_masks(num_variables):
    return torch.tensor(list(product((False, True), repeat=num_variables)))


# From a compiled model to regions


def _leaves(model, of):
    leaves = {region: {} for region in model.leaf_order}
    for part in model.leaves.parts:
        phi = _numpy(of(part.phi))
        for rows, pairs, variables in part.groups():
            places = range(pairs.start, pairs.stop)
            for place, (n, d) in zip(places, np.ndenumerate(variables.numpy()), strict=True):
                own = leaves[model.leaf_order[rows[n[0]]]]
                assert d not in own and d in model.families[part.family]
                own[int(d)] = part.family, phi[:, place]
    assert sorted(leaves) == sorted(model.graph.leaves)
    for region, own in leaves.items():
        assert sorted(own) == list(model.graph.regions[region].scope)
    return leaves


def _sums(model, of):
    graph = model.graph
    sums, mixings, rows = {}, {}, [list(model.leaf_order)]
    for level in model.levels:
        nodes = []
        for layer, children in zip(level.einsums, level.children_of, strict=True):
            sides = [_regions_of(children, side, len(layer.weights), rows) for side in range(children.num_sides)]
            for *own, weights in zip(*sides, _numpy(of(layer.weights)), strict=True):
                own = tuple(child for child in own if child is not None)
                nodes.append(Sum(own, _choices(layer, len(own)), weights))
        if level.order is not None:
            nodes = [nodes[i] for i in level.order]
        groups = [([nodes.pop(0)], None) for _ in range(level.num_single)]
        for layer in level.mixings:
            for weights in _numpy(of(layer.weights)):
                groups.append(([nodes.pop(0) for _ in weights], weights))
        assert not nodes
        rows.append([])
        for group, weights in groups:
            region = _region_of(graph, group, taken=sums)
            sums[region] = group
            rows[-1].append(region)
            if weights is not None:
                mixings[region] = weights
    inner = {partition.region for partition in graph.partitions} | {graph.root}
    assert sums.keys() == inner and rows[-1] == [graph.root]
    return sums, mixings


def _choices(layer, num_children):
    """The entries of the children that each choice multiplies: all pairs, or, in a thin layer, those of one number."""
    if isinstance(layer, EinsumLayer):
        return list(product(range(layer.num_left), range(layer.num_right)))
    return [(i,) * num_children for i in range(layer.num_choices)]


def _regions_of(children, side, num_nodes, rows):
    """The regions that are the nodes' children on one side; None for a node without one."""
    found = [None] * num_nodes
    for source, own, row in children.places(side, torch.arange(num_nodes)):
        for node, i in zip(torch.arange(num_nodes)[own], row, strict=True):
            found[node] = rows[source][i]
    return found


def _region_of(graph, group, taken):
    """The region whose partitions are these. Regions with equal partitions are interchangeable from below."""
    if len(group[0].children) == 1:
        return graph.root
    named = sorted(sorted(node.children) for node in group)
    for region, partitions in enumerate(graph.partitions_of):
        if region not in taken and named == sorted(sorted(p.children) for p in partitions):
            return region
    raise AssertionError(f"the plan has a region with the partitions {named}, the graph has not")


def _numpy(tensor):
    return tensor.detach().double().numpy()


def _log(weights):
    with np.errstate(divide="ignore"):
        return np.log(weights)
