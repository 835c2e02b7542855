"""Region graphs: which variables a density is about, and how it may be taken apart.

A *region* is a set of variables, its scope. A *partition* splits one region into two or more smaller ones, its
children; of two, they are left and right. A region without partitions is a *leaf region*. A region may have several
partitions, and may take part in several.

    root {0,1,2}            one region, two partitions
     /        \\
  {0}|{1,2}  {0,1}|{2}      partitions
       |       |
     {1}|{2} {0}|{1}        further down, the leaves {0}, {1}, {2} are shared

The graph is pure combinatorics: no numbers, no tensors. `network.Einet` hangs vectors of densities on the regions.

Source: Section 2 (smooth, decomposable), Section 3.3 (Algorithm 1)
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

_MOST_VARIABLES = 2**24


class Region(NamedTuple):
    """A node of the graph that stands for densities over `scope`, a sorted tuple of variables.

    Source: Section 3.1
    """

    scope: tuple[int, ...]


class Partition(tuple[int, ...]):
    """`region` splits into `children`, two or more: the tuple (region, left, right, ...) of indices into the regions.

    `left` and `right` are the children of a partition that has two. A single child would be the region once more.

    >>> Partition(3, 0, 1, 2).children, Partition(region=2, left=0, right=1).right
    ((0, 1, 2), 1)

    Source: Section 3.1
    """

    __slots__ = ()

    def __new__(cls, region: int, left: int, right: int, *others: int) -> Partition:
        return super().__new__(cls, (region, left, right, *others))

    def __getnewargs__(self) -> tuple[int, ...]:  # what a copy or a pickle is made of
        return tuple(self)

    @property
    def region(self) -> int:
        return self[0]

    @property
    def children(self) -> tuple[int, ...]:
        return self[1:]

    @property
    def left(self) -> int:
        return self._pair()[0]

    @property
    def right(self) -> int:
        return self._pair()[1]

    def _pair(self) -> tuple[int, ...]:
        if len(self.children) != 2:
            raise AttributeError(f"a partition into {len(self.children)} has no left and right: take its children")
        return self.children

    def __repr__(self) -> str:
        return f"Partition{tuple(self)}"


@dataclass(frozen=True)
class RegionGraph:
    """A smooth and decomposable directed acyclic graph of regions and partitions with a single root.

    >>> graph = RegionGraph([{0}, {1}, {0, 1}], [(2, 0, 1)])
    >>> graph.root, graph.leaves, graph.topological_layers()
    (2, (0, 1), ((0, 1), (2,)))

    Args:
        regions: one scope each, a `Region` or any iterable of variables; the root's is {0, ..., D-1}.
        partitions: (region, left, right) each, as indices into `regions`; or (region, child, child, child, ...).
        shape: the grid whose cells are the variables, row by row, as in (height, width).

    Raises:
        ValueError: the graph is not smooth (a partition does not cover its region), not decomposable (its children
            overlap), cyclic, or has not exactly one root. The message names the region.

    Source: Section 2 and 3.1
    """

    regions: tuple[Region, ...]
    partitions: tuple[Partition, ...] = ()
    shape: tuple[int, ...] | None = field(default=None)

    if TYPE_CHECKING:  # what the constructor takes is more than what the fields are

        def __init__(
            self,
            regions: Iterable[Region | Iterable[int]],
            partitions: Iterable[Partition | Sequence[int]] = (),
            shape: Sequence[int] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        scopes = [region.scope if isinstance(region, Region) else region for region in self.regions]
        scopes = [_as_scope(index, scope) for index, scope in enumerate(scopes)]
        object.__setattr__(self, "regions", tuple(Region(scope) for scope in scopes))
        object.__setattr__(self, "partitions", tuple(_as_partition(p, len(scopes)) for p in self.partitions))
        self._check_acyclic()
        self._check_partitions()
        self._check_root()
        object.__setattr__(self, "shape", self._checked_shape())

    # What the graph consists of

    @property
    def num_variables(self) -> int:
        return len(self.regions[self.root].scope)

    @cached_property
    def root(self) -> int:
        """The region that no partition contains."""
        return self._roots[0]

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """The regions without partitions."""
        return tuple(index for index in range(len(self.regions)) if not self.partitions_of[index])

    @cached_property
    def partitions_of(self) -> tuple[tuple[Partition, ...], ...]:
        """For each region, its partitions, in the order in which they were given."""
        found: list[list[Partition]] = [[] for _ in self.regions]
        for partition in self.partitions:
            found[partition.region].append(partition)
        return tuple(map(tuple, found))

    @cached_property
    def replica_of(self) -> dict[int, int]:
        """The replica of each leaf region: the lowest number at which no other leaf shares a variable with it.

        Leaves of one replica have disjoint scopes, so replica r and variable d name one vector of K densities (the
        paper's B x D x K x R tensor). A RAT with R trees has R replicas; a Poon-Domingos graph over cells has one.
        """
        taken = [0] * self.num_variables  # for each variable the replicas that have it, as the bits of an integer
        replica_of = {}
        for leaf in self.leaves:
            scope, used = self.regions[leaf].scope, 0
            for variable in scope:
                used |= taken[variable]
            replica_of[leaf] = (~used & (used + 1)).bit_length() - 1  # the lowest bit that is 0
            for variable in scope:
                taken[variable] |= 1 << replica_of[leaf]
        return replica_of

    @property
    def num_replicas(self) -> int:
        return 1 + max(self.replica_of.values())

    def topological_layers(self) -> tuple[tuple[int, ...], ...]:
        """Regions in layers, from the leaves to the root, so that every region comes after all it depends on.

        From the root down: a region joins the next layer once every partition that contains it has been visited, which
        puts it as deep as its longest path from the root. All leaf regions are then moved to layer 0.

        Source: Section 3.3, Algorithm 1
        """
        inner = [tuple(index for index in layer if self.partitions_of[index]) for layer in self._top_down()]
        return (self.leaves, *filter(None, reversed(inner)))

    def binary(self) -> RegionGraph:
        """The graph with two children a partition, for layers that take pairs; this one, where it has them already.

        The children of a partition are halved, in their order, again and again. Each half of more than one child is a
        region of its own, numbered after those that there are.
        """
        if all(len(partition.children) == 2 for partition in self.partitions):
            return self
        scopes = [region.scope for region in self.regions]
        partitions: list[tuple[int, ...]] = []

        def union(children: tuple[int, ...]) -> int:
            if len(children) == 1:
                return children[0]
            new = len(scopes)
            scopes.append(tuple(variable for child in children for variable in scopes[child]))
            split(new, children)
            return new

        def split(region: int, children: tuple[int, ...]) -> None:
            place, middle = len(partitions), (len(children) + 1) // 2
            partitions.append(())  # a region's partitions stay in their order
            partitions[place] = (region, union(children[:middle]), union(children[middle:]))

        for region, *children in self.partitions:
            split(region, tuple(children))
        return RegionGraph(scopes, partitions, self.shape)

    # To JSON and back

    def to_json(self) -> str:
        """The graph as JSON text. Inner scopes are left out: they are the unions of their partitions."""
        shape = None if self.shape is None else list(self.shape)
        return json.dumps({**self._structure(), "shape": shape})

    @cached_property
    def digest(self) -> str:
        """SHA-256 of regions and partitions: in every process, other graphs have others."""
        return hashlib.sha256(json.dumps(self._structure()).encode()).hexdigest()

    def _structure(self) -> dict[str, list]:
        scopes = [None if self.partitions_of[i] else list(region.scope) for i, region in enumerate(self.regions)]
        return {"regions": scopes, "partitions": [list(p) for p in self.partitions]}

    @classmethod
    def from_json(cls, text: str) -> RegionGraph:
        """The graph that `to_json` wrote. `ValueError` where `text` is not one."""
        try:
            content = json.loads(text)
            scopes, partitions, shape = content["regions"], content["partitions"], content["shape"]
            return cls(_complete(scopes, partitions), partitions, shape)
        except (KeyError, TypeError, IndexError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"not a region graph in JSON: {error!r}") from error

    def __repr__(self) -> str:
        return (
            f"RegionGraph({self.num_variables} variables, {len(self.regions)} regions of which {len(self.leaves)} "
            f"leaves, {len(self.partitions)} partitions)"
        )

    # What makes it valid

    @cached_property
    def _roots(self) -> tuple[int, ...]:
        children = {child for partition in self.partitions for child in partition.children}
        return tuple(index for index in range(len(self.regions)) if index not in children)

    def _top_down(self) -> list[list[int]]:
        """Layers from the roots down. What is on or below a cycle never has all its parents visited and is missing."""
        waiting = [0] * len(self.regions)
        for child in (child for partition in self.partitions for child in partition.children):
            waiting[child] += 1
        layers, layer = [], list(self._roots)
        while layer:
            layers.append(layer)
            following = []
            for partition in (p for index in layer for p in self.partitions_of[index]):
                for child in partition.children:
                    waiting[child] -= 1
                    if not waiting[child]:
                        following.append(child)
            layer = following
        return layers

    def _check_acyclic(self) -> None:
        reached = {index for layer in self._top_down() for index in layer}
        missed = set(range(len(self.regions))) - reached
        if not missed:
            return
        # Each missed region has a missed parent: climbing from one to the next must come round.
        parent = {child: p.region for p in self.partitions if p.region in missed for child in p.children}
        index, climbed = min(missed), set()
        while index not in climbed:
            climbed.add(index)
            index = parent[index]
        raise ValueError(f"cyclic: {self._name(index)} contains itself")

    def _check_partitions(self) -> None:
        masks = [_mask(region.scope) for region in self.regions]
        for partition in self.partitions:
            union = 0
            for child in partition.children:
                if union & masks[child]:
                    other = next(each for each in partition.children if masks[each] & masks[child])
                    raise ValueError(
                        f"not decomposable: {self._name(partition.region)} has a partition into {self._name(other)} "
                        f"and {self._name(child)}, which overlap"
                    )
                union |= masks[child]
            if union != masks[partition.region]:
                *some, last = (self._name(child) for child in partition.children)
                shown = ", ".join(some[:3]) + (", ..." if len(some) > 3 else "")
                raise ValueError(
                    f"not smooth: {self._name(partition.region)} has a partition into {shown} and {last}, which do not "
                    "make up its scope"
                )

    def _check_root(self) -> None:
        if len(self._roots) != 1:
            names = " and ".join(self._name(index) for index in self._roots[:3]) or "none"
            raise ValueError(f"a region graph has one root, this one has {len(self._roots)}: {names}")
        scope = self.regions[self.root].scope
        if scope != tuple(range(len(scope))):
            raise ValueError(f"the root must have variables 0 to {len(scope) - 1}, got {self._name(self.root)}")

    def _checked_shape(self) -> tuple[int, ...] | None:
        if self.shape is None:
            return None
        shape, cells = tuple(self.shape), 1
        for extent in shape:
            if not is_integer(extent):
                raise ValueError(f"shape must be positive integers, got {shape}")
            cells *= extent
        if cells != self.num_variables:
            raise ValueError(f"shape {shape} has {cells} cells, the graph {self.num_variables} variables")
        return shape

    def _name(self, index: int) -> str:
        scope = self.regions[index].scope
        shown = ", ".join(map(str, scope[:8])) + (", ..." if len(scope) > 8 else "")
        return f"region {index} over {{{shown}}}"


def is_integer(value: Any, least: int = 1) -> bool:
    """Whether it is an integer of at least `least`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_integers(least: int = 1, optional: bool = False, **named: Any) -> None:
    """Raise a `ValueError` for the first that is no integer, or less than `least`; None is none, unless `optional`."""
    for name, value in named.items():
        if not is_integer(value, least) and not (optional and value is None):
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def _as_scope(index: int, scope: Iterable[int]) -> tuple[int, ...]:
    try:
        variables = tuple(sorted(map(operator.index, scope)))
    except TypeError as error:
        raise ValueError(f"the variables of region {index} must be integers, got {scope!r}") from error
    if not variables or len(set(variables)) < len(variables) or variables[0] < 0 or variables[-1] >= _MOST_VARIABLES:
        raise ValueError(
            f"the scope of region {index} must hold variables from 0 to {_MOST_VARIABLES - 1}, each once and at least "
            f"one, got {variables[:8]}"
        )
    return variables


def _as_partition(partition: Sequence[int], num_regions: int) -> Partition:
    if len(partition) < 3 or not all(is_integer(i, 0) and i < num_regions for i in partition):
        shown = ", ".join(map(repr, partition[:8])) + (", ..." if len(partition) > 8 else "")
        raise ValueError(f"a partition is three regions or more, from 0 to {num_regions - 1}, got ({shown})")
    return Partition(*partition)


def _mask(scope: tuple[int, ...]) -> int:
    """The scope as the bits of one integer, so that union, intersection and comparison are single operations."""
    mask = 0
    for variable in scope:
        mask |= 1 << variable
    return mask


def _complete(scopes: list, partitions: list) -> list:
    """Fill in the scopes that are None, as the union of a partition's children, bottom-up."""
    scopes = list(scopes)
    children = {region: own for region, *own in partitions}
    missing = [index for index, scope in enumerate(scopes) if scope is None]
    while missing:
        still = []
        for index in missing:
            own = [scopes[child] for child in children[index]]
            if any(scope is None for scope in own):
                still.append(index)
            else:
                scopes[index] = sorted(set().union(*own))
        if len(still) == len(missing):
            raise ValueError(f"cyclic: the scope of region {still[0]} depends on itself")
        missing = still
    return scopes
