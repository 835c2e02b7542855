"""The Einsum Network: a region graph, compiled into layers of tensors.

    x (B, D) -> leaves (L, K, B) -> einsum -> mixing -> einsum -> ... -> root (1, num_classes, B) -> log-density (B,)

Compilation walks the layers of Algorithm 1 from the root down and decides, once, in which order the regions of a layer
stand, so that in a forward pass children are found by a slice or a single `index_select`.

Paper: Section 3.3
Chapter: book/04_layers
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from einet.children import Children, Outputs, portions_of_leaves
from einet.derivatives import transformed
from einet.exponential_family import ExponentialFamily, refuse
from einet.graph import Partition, RegionGraph
from einet.identity import KEY, as_tensor, check_identity, identity
from einet.inputs import (
    MODEL_DTYPES,
    as_float,
    batch_last,
    check_concentration,
    check_device,
    checked_families,
    mask_last,
)
from einet.layers import SUM_PRODUCTS, CPLayer, MixingLayer, SumLayer, normalized_
from einet.leaves import LeafLayer
from einet.scaled import LogScaled, Scaled


class Einet(nn.Module):
    """A smooth and decomposable circuit over the regions of `graph`: a normalised density with exact marginals.

    graph        any `RegionGraph`
    leaf         the family of all variables, or a dict {family: variables} that gives each variable one
    num_sums     length K of the vectors of inner regions
    num_leaves   length of the vectors of leaf regions; `num_sums` by default
    num_classes  roots: with more than one, the model is a density of x given each class, log p(x | class)
    seed         of the initial parameters; different in every call where None
    sum_product  "tucker": sums over all products of a left and a right entry, K * K weights each (`EinsumLayer`); or
                 "cp": over products of entries of one number, K weights each (`CPLayer`), of equally long vectors
    concentration  positive: of the symmetric Dirichlet distribution that the initial weights of each sum are drawn from.
                 1 is the flat one; the smaller it is, the fewer weights share a sum's mass, and the more its entries
                 differ from each other: where EM begins to tell them apart

    `model(x)` is the log-density in nats. Weights are probabilities, the leaves' phi expectation parameters: `em.EM`
    moves both. They are float32, whatever torch's default is, and on its default device; `model.double()` makes them
    float64, and there is nothing else. Nothing is stored between calls. `ValueError` on bad input.

    `state_dict()` has, beside the parameters, an `identity`: the graph, families and sizes that they are parameters of.
    `load_state_dict` refuses the state of another model with a `RuntimeError` that says what differs, whatever `strict`
    is, before a parameter changes. A state without an identity, of einet 0.1.0 or one it was taken out of, is compared
    by names and shapes alone, with a warning. The state does not have the graph itself: what `einet.save` writes does.

    Paper: Section 3
    Chapter: book/04_layers
    """

    @torch.inference_mode(False)  # parameters that are born there could not be trained
    def __init__(
        self,
        graph: RegionGraph,
        leaf: ExponentialFamily | dict[ExponentialFamily, Sequence[int]],
        num_sums: int = 10,
        num_leaves: int | None = None,
        num_classes: int = 1,
        seed: int | None = None,
        sum_product: str = "tucker",
        concentration: float = 1.0,
    ):
        super().__init__()
        check_concentration(concentration)
        num_leaves = num_sums if num_leaves is None else num_leaves
        for name, value in (("num_sums", num_sums), ("num_leaves", num_leaves), ("num_classes", num_classes)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if sum_product not in SUM_PRODUCTS:
            raise ValueError(f"sum_product must be one of {', '.join(SUM_PRODUCTS)}, got {sum_product!r}")
        self.graph, self.families = graph, checked_families(leaf, graph.num_variables)
        self.num_sums, self.num_leaves, self.num_classes = num_sums, num_leaves, num_classes
        self.sum_product = sum_product
        self.channels = next(iter(self.families)).channels

        device = torch.zeros(()).device
        with torch.device("cpu"):  # where indices are counted; memory for parameters is not touched yet
            self.leaf_order, levels = _compile(graph, SUM_PRODUCTS[sum_product], num_sums, num_leaves, num_classes)
            scopes = [graph.regions[leaf].scope for leaf in self.leaf_order]
            kind = LogScaled if sum_product == "cp" else Scaled
            self.leaves = LeafLayer(scopes, self.families, num_leaves, kind)
            self.levels = nn.ModuleList(levels)
            pools = [p for level in levels for children in level.children_of for p in children.pools if kind is LogScaled]
            self.portions = portions_of_leaves(pools, len(scopes))
        self.register_buffer(KEY, as_tensor(self._identity()))
        if device.type != "cpu":
            self.to(device)
        self.reset_parameters(seed, concentration)

    def reset_parameters(self, seed: int | None = None, concentration: float = 1.0) -> None:
        """Draw all parameters anew: weights from a Dirichlet distribution of this concentration, leaves as their family
        does.

        On the CPU, so that a seed gives the same ones on any device. On the meta device there is nothing to draw.
        """
        check_concentration(concentration)
        if next(self.parameters()).is_meta:
            return
        generator = torch.Generator("cpu")
        generator.seed() if seed is None else generator.manual_seed(seed)
        with torch.no_grad(), torch.device("cpu"):
            for part in self.leaves.parts:
                part.phi.copy_(part.family.initial(tuple(part.phi.shape[1:]), generator))
            for level in self.levels:
                for layer in (*level.einsums, *level.mixings):
                    flat = level is self.levels[-1] or isinstance(layer, MixingLayer)
                    normalized_(layer.weights, layer.weight_dim, generator, 1.0 if flat else concentration)

    def _apply(self, fn: Callable, recurse: bool = True) -> Einet:
        """What `to` and all its like come to."""
        was_meta = next(self.parameters()).is_meta
        super()._apply(fn, recurse)
        if was_meta and not next(self.parameters()).is_meta:
            raise ValueError("on the meta device a model has lost its indices: build it anew, and load its parameters")
        return self

    @property
    def settings(self) -> dict[str, int | str]:
        """The arguments beside graph and leaf: `sum_product` where it is not the one of einet 0.1.0."""
        named = ("num_sums", "num_leaves", "num_classes", *(["sum_product"] if self.sum_product != "tucker" else []))
        return {name: getattr(self, name) for name in named}

    def _identity(self) -> dict:
        return identity(self.graph, self.families, **self.settings)

    def check_state(self, state: dict[str, Tensor], prefix: str) -> bool:
        """Whether the part `prefix` of a state says whose it is. `RuntimeError` where that is another model."""
        return check_identity(self._identity(), state, prefix)

    def _load_from_state_dict(self, state_dict, prefix, *arguments) -> None:
        """torch's step of `load_state_dict` for this module, which comes before those of its parts."""
        if not self.check_state(state_dict, prefix):
            warnings.warn(
                f"the state has no {prefix + KEY!r}, as in einet 0.1.0: only if the graph and the families are those "
                "that it was saved with is it this model's", stacklevel=2,
            )  # fmt: skip
        state_dict.pop(prefix + KEY, None)
        state_dict.update({prefix + KEY: self.identity} if KEY in self._buffers else {})  # a pickle of 0.1.0 has none
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def sum_layers(self) -> list[SumLayer]:
        """All layers with weights, from the leaves to the root."""
        return [layer for level in self.levels for layer in (*level.einsums, *level.mixings)]

    def forward(self, x: Tensor, observed: Tensor | None = None, check: bool = True) -> Tensor:
        """log p(x_observed) in nats, (B,), or (B, num_classes): all other variables are integrated out, exactly.

        x         (B, D), or (B, D, C) for families with C channels; on a grid graph also images (B, H, W[, C])
        observed  bool, (D,) or (B, D), or the grid's (H, W) or (B, H, W), a tensor or an array of numpy; None where
                  everything is. Entries of `x` that are not observed may hold anything, NaN included.
        check     whether to look for values outside the support; a caller that has done so saves the passes over x

        `ValueError`, with the value and the limit, for a wrong shape, dtype or device, an empty batch, or an observed
        entry outside its family's support; and for a model in less than float32.

        Gradients may be differentiated again, and with `check=False` the transforms of `torch.func` apply, both by
        slower operations. On the meta device nothing is checked, and the result has a shape alone.
        """
        if torch.is_grad_enabled() and next(self.parameters()).is_inference():
            raise ValueError(
                "parameters made in inference mode have no gradients: copy.deepcopy the model outside of it"
            )
        x, observed = self.as_input(x, observed, check)
        outputs = self.upward(self.leaves(x, observed))
        return self.at_root(outputs[-1], self.leaves.log_base(x, observed))

    def as_input(
        self, x: Tensor, observed: Tensor | None, check: bool = True, name: str = "observed"
    ) -> tuple[Tensor, Tensor | None]:
        """The layout inside the network: (D, C, B) and (D, B) or (D, 1) or None, checked; what is unobserved is 0.

        `name` is what the caller calls the mask.
        """
        variables, channels, parameter = self.graph.num_variables, self.channels, next(self.leaves.parameters())
        if parameter.dtype not in MODEL_DTYPES:
            raise ValueError(f"a model must be in float32 or float64, got {parameter.dtype}: call model.float()")
        given, x = x, batch_last(x, variables, channels, self.graph.shape)
        check_device("x", x, parameter)
        if observed is not None:
            observed = mask_last(observed, variables, x, self.graph.shape, name)
        x = as_float(x, parameter.dtype)
        if check and not x.is_meta:
            try:
                self._check_values(x, observed, exact=given.dtype not in (torch.int64, torch.uint64))
            except RuntimeError as error:
                if not transformed():
                    raise
                raise ValueError("torch.vmap shows no values: check them outside, and pass check=False") from error
        return x if observed is None else torch.where(observed[:, None], x, 0), observed

    def _check_values(self, x: Tensor, observed: Tensor | None, exact: bool) -> None:
        for part in self.leaves.parts:
            own = x if len(self.leaves.parts) == 1 else x[part.variables]
            if observed is not None:
                seen = observed if len(self.leaves.parts) == 1 else observed[part.variables]
                own = own.masked_select(seen[:, None])
            if not exact:
                refuse(own.abs() >= 2**53, own, "a whole number must be below 2^53, to be a float64")
            part.family.check(own)

    def upward(self, leaves: Scaled) -> list[Scaled]:
        """From the leaves' vectors to those of every level, the root's last."""
        outputs = Outputs(leaves, self.portions)
        for level in self.levels:
            outputs.append(level(outputs))
        return outputs

    def at_root(self, root: Scaled, log_base: Tensor | float) -> Tensor:
        """The root's vector (1, num_classes, B) and the base measure as log-densities (B,) or (B, num_classes)."""
        log_density = (root.log()[0] + log_base).to(root.value.dtype)
        return log_density[0] if self.num_classes == 1 else log_density.T


class Level(nn.Module):
    """The inner regions of one topological layer: sums over products for partitions, mixing layers for regions with
    several.

    einsums    a layer for each combination of the lengths of the children's vectors
    children   where each of these layers finds its children
    order      sorts the partitions of all these layers by region
    counts     the numbers of partitions of the regions, ascending: there is a mixing layer for each that is not 1
    """

    def __init__(self, einsums: list[SumLayer], children: list[Children], order: list[int], counts: list[int]):
        super().__init__()
        self.einsums, self.children_of = nn.ModuleList(einsums), nn.ModuleList(children)
        self.num_single = counts.count(1)
        num_out = einsums[0].weights.shape[1]
        several = sorted(set(counts) - {1})
        self.mixings = nn.ModuleList(MixingLayer(counts.count(count), count, num_out) for count in several)
        sorted_already = order == list(range(len(order)))
        self.register_buffer("order", None if sorted_already else torch.tensor(order), persistent=False)

    def forward(self, outputs: list[Scaled]) -> Scaled:
        """The regions' vectors, from the outputs of the levels below, the leaves' first."""
        return self.regions(self.partitions(outputs))

    # Queries pass with other operations than sums, as maxima: `operation` takes a layer and its inputs.

    def partitions(self, outputs: list[Scaled], operation: Callable = SumLayer.__call__) -> Scaled:
        """The vectors of all partitions, those of a region side by side."""
        pairs = zip(self.einsums, self.children_of, strict=True)
        sums = Scaled.joined([operation(layer, children.gathered(outputs)) for layer, children in pairs])
        return sums if self.order is None else sums.map(lambda tensor: tensor.index_select(0, self.order))

    def regions(self, partitions: Scaled, operation: Callable = SumLayer.__call__) -> Scaled:
        """The vectors of all regions: their only partition's, or a mixture."""
        if not len(self.mixings):
            return partitions
        single, *groups = self.by_region(partitions)
        mixed = [operation(layer, group) for layer, group in zip(self.mixings, groups, strict=True)]
        return Scaled.joined(([single] if self.num_single else []) + mixed)

    def by_region(self, partitions: Scaled) -> list[Scaled]:
        """The regions with one partition, then what each mixing layer mixes."""
        sizes = [self.num_single, *(layer.weights.shape[:2].numel() for layer in self.mixings)]
        return [Scaled(*group) for group in zip(*(part.split(sizes) for part in partitions), strict=True)]


# Compilation


class _PlanOfLevel(NamedTuple):
    """`groups` of partitions, one for each layer of sums over products: (the ranks of the lengths of the children's
    vectors, how many sides share each pool, the children's places, None where a node has none), the first and the last
    side by side. `order` and `counts` are those of `Level`.
    """

    groups: list[tuple[tuple[int, ...], list[int], list[list[tuple[int, int] | None]]]]
    order: list[int]
    counts: list[int]


# Networks over one graph, as the components of a mixture, share its plans, which live as long as the graph.
_plans: WeakKeyDictionary[RegionGraph, dict] = WeakKeyDictionary()


def _compile(
    graph: RegionGraph, layer: type[SumLayer], num_sums: int, num_leaves: int, num_classes: int
) -> tuple[list[int], list[Level]]:
    """The order of the leaf regions, and the levels above them, whose sums over products are of the class `layer`."""
    if graph.root in graph.leaves:  # one sum over the entries of the only region
        return [graph.root], [Level([CPLayer(1, num_classes, num_leaves)], [Children([[(0, 0)]], [1])], [0], [1])]
    plans, rank = _plans.setdefault(graph, {}), (num_leaves > num_sums) - (num_leaves < num_sums)
    if (rank, layer) not in plans:
        plans[rank, layer] = _plan(graph, rank, _of_one_layer if layer is CPLayer else _by_lengths)
    leaf_order, plan = plans[rank, layer]
    length, sizes, levels = {0: num_sums, rank: num_leaves}, [len(leaf_order)], []
    for groups, order, counts in plan:
        num_out = num_sums if len(levels) < len(plan) - 1 else num_classes
        einsums = [_layer(layer, num_out, [length[rank] for rank in ranks], sides) for ranks, _, sides in groups]
        children = [Children(sides, sizes, shared) for _, shared, sides in groups]
        levels.append(Level(einsums, children, order, counts))
        sizes.append(len(counts))
    return list(leaf_order), levels


def _layer(layer: type[SumLayer], num_out: int, lengths: list[int], sides: list[list]) -> SumLayer:
    """The layer of these children; which nodes have which is told where not all have as many."""
    if all(None not in side for side in sides):
        return layer(len(sides[0]), num_out, *lengths)
    nodes = [[node for node, place in enumerate(side) if place is not None] for side in sides]
    return layer(len(sides[0]), num_out, *lengths, nodes=nodes)


class _Group(NamedTuple):
    """The partitions of one layer of sums over products; the other fields are as in `_PlanOfLevel`, of regions."""

    partitions: list[Partition]
    ranks: tuple[int, ...]
    shared: list[int]
    sides: list[list[int | None]]


def _plan(graph: RegionGraph, rank: int, grouped: Callable) -> tuple[list[int], list[_PlanOfLevel]]:
    """The order of the leaf regions, and what stands where in the levels above them.

    `rank` is 1 where the leaves' vectors are longer than those of inner regions, whose rank is 0, and -1 where shorter.
    `grouped` says which partitions share a layer, and in which order.
    """
    ranks = [0 if partitions else rank for partitions in graph.partitions_of]
    layers = graph.topological_layers()
    layer_of = {region: number for number, layer in enumerate(layers) for region in layer}

    # From the root down: a layer's regions stand in the order in which the layers above ask for them, or in that of
    # their partitions where these stand in one layer.
    wanted: list[dict[int, None]] = [{} for _ in layers]
    wanted[-1][graph.root] = None
    arranged = []
    for asked in reversed(wanted[1:]):
        regions = sorted(asked, key=lambda region: len(graph.partitions_of[region]))
        partitions = [partition for region in regions for partition in graph.partitions_of[region]]
        groups = grouped(graph, partitions, ranks)
        if len(partitions) == len(regions) and len(groups) == 1:
            regions = [partition.region for partition in groups[0].partitions]
        for child in (child for group in groups for side in group.sides for child in side):
            if child is not None:
                wanted[layer_of[child]][child] = None
        arranged.append((regions, groups))

    # From the leaves up: now the places of all children are known.
    leaf_order = list(wanted[0])
    place = {region: (0, row) for row, region in enumerate(leaf_order)}
    plan = []
    for regions, groups in reversed(arranged):
        plan.append(_plan_of_level(graph, regions, groups, place))
        place |= {region: (len(plan), row) for row, region in enumerate(regions)}
    return leaf_order, plan


def _by_lengths(graph: RegionGraph, partitions: list[Partition], ranks: list[int]) -> list[_Group]:
    """Partitions by how many children they have, and by the lengths of their vectors, the shorter ones first."""
    groups: dict[tuple[int, ...], list[Partition]] = {}
    for region, *children in partitions:
        children.sort(key=ranks.__getitem__)
        groups.setdefault(tuple(ranks[child] for child in children), []).append(Partition(region, *children))
    found = []
    for own, group in groups.items():
        sides = [list(side) for side in zip(*(partition.children for partition in group), strict=True)]
        found.append(_Group(group, own, [len(own)] if len(set(own)) == 1 else [1] * len(own), sides))
    return found


def _of_one_layer(graph: RegionGraph, partitions: list[Partition], ranks: list[int]) -> list[_Group]:
    """All partitions whose children's vectors have one length, however many these are: inner regions first, whose
    densities are multiplied, then leaves, whose logarithms are added up; those with most children first."""
    groups: dict[tuple[int, ...], list[tuple[Partition, list[int], list[int]]]] = {}
    for partition in partitions:
        leaves = [child for child in partition.children if not graph.partitions_of[child]]
        inner = [child for child in partition.children if graph.partitions_of[child]]
        lengths = tuple(sorted({ranks[child] for child in partition.children}))
        groups.setdefault(lengths, []).append((partition, inner, leaves))
    found = []
    for group in groups.values():
        group.sort(key=lambda each: (-len(each[1]), -len(each[2])))
        of_kinds = [[each[kind] for each in group] for kind in (1, 2)]
        columns = [list(zip_longest(*children)) for children in of_kinds]
        sides = [list(side) for own in columns for side in own]
        lengths = tuple(next(ranks[child] for child in side if child is not None) for side in sides)
        found.append(_Group([each[0] for each in group], lengths, [len(own) for own in columns if own], sides))
    return found


def _plan_of_level(graph: RegionGraph, regions: list[int], groups: list[_Group], place: dict) -> _PlanOfLevel:
    found = []
    for _, ranks, shared, sides in groups:
        found.append((ranks, shared, [[None if child is None else place[child] for child in side] for side in sides]))
    position = {region: i for i, region in enumerate(regions)}
    computed = [position[p.region] for group in groups for p in group.partitions]
    order = sorted(range(len(computed)), key=computed.__getitem__)
    return _PlanOfLevel(found, order, [len(graph.partitions_of[region]) for region in regions])
