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
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from einet.exponential_family import ExponentialFamily, refuse
from einet.graph import Partition, RegionGraph
from einet.identity import KEY, as_tensor, check_identity, identity
from einet.inputs import MODEL_DTYPES, as_float, batch_last, check_device, checked_families, mask_last
from einet.layers import EinsumLayer, Gathered, MixingLayer, Scaled, normalized_, transformed
from einet.leaves import LeafLayer


class Einet(nn.Module):
    """A smooth and decomposable circuit over the regions of `graph`: a normalised density with exact marginals.

    graph        any `RegionGraph`
    leaf         the family of all variables, or a dict {family: variables} that gives each variable one
    num_sums     length K of the vectors of inner regions
    num_leaves   length of the vectors of leaf regions; `num_sums` by default
    num_classes  roots: with more than one, the model is a density of x given each class, log p(x | class)
    seed         of the initial parameters; different in every call where None

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
    ):
        super().__init__()
        num_leaves = num_sums if num_leaves is None else num_leaves
        for name, value in (("num_sums", num_sums), ("num_leaves", num_leaves), ("num_classes", num_classes)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        self.graph, self.families = graph, checked_families(leaf, graph.num_variables)
        self.num_sums, self.num_leaves, self.num_classes = num_sums, num_leaves, num_classes
        self.channels = next(iter(self.families)).channels

        device = torch.zeros(()).device
        with torch.device("cpu"):  # where indices are counted; memory for parameters is not touched yet
            self.leaf_order, levels = _compile(graph, num_sums, num_leaves, num_classes)
            self.leaves = LeafLayer([graph.regions[leaf].scope for leaf in self.leaf_order], self.families, num_leaves)
            self.levels = nn.ModuleList(levels)
        self.register_buffer(KEY, as_tensor(self._identity()))
        if device.type != "cpu":
            self.to(device)
        self.reset_parameters(seed)

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw all parameters anew: weights from the flat Dirichlet distribution, leaves as their family does.

        On the CPU, so that a seed gives the same ones on any device. On the meta device there is nothing to draw.
        """
        if next(self.parameters()).is_meta:
            return
        generator = torch.Generator("cpu")
        generator.seed() if seed is None else generator.manual_seed(seed)
        with torch.no_grad(), torch.device("cpu"):
            for part in self.leaves.parts:
                part.phi.copy_(part.family.initial(tuple(part.phi.shape[1:]), generator))
            for layer in self.sum_layers():
                normalized_(layer.weights, layer.weight_dim, generator)

    def _apply(self, fn: Callable, recurse: bool = True) -> Einet:
        """What `to` and all its like come to."""
        was_meta = next(self.parameters()).is_meta
        super()._apply(fn, recurse)
        if was_meta and not next(self.parameters()).is_meta:
            raise ValueError("on the meta device a model has lost its indices: build it anew, and load its parameters")
        return self

    def _identity(self) -> dict:
        sizes = {name: getattr(self, name) for name in ("num_sums", "num_leaves", "num_classes")}
        return identity(self.graph, self.families, **sizes)

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

    def sum_layers(self) -> list[EinsumLayer | MixingLayer]:
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
        outputs = [leaves]
        for level in self.levels:
            outputs.append(level(outputs))
        return outputs

    def at_root(self, root: Scaled, log_base: Tensor | float) -> Tensor:
        """The root's vector (1, num_classes, B) and the base measure as log-densities (B,) or (B, num_classes)."""
        log_density = (root.log()[0] + log_base).to(root.value.dtype)
        return log_density[0] if self.num_classes == 1 else log_density.T


class Level(nn.Module):
    """The inner regions of one topological layer: einsum layers for partitions, mixing layers for regions with several.

    There is an einsum layer for each pair of vector lengths, a mixing layer for each number of partitions. `counts` are
    the numbers of partitions of the regions, ascending; `order` sorts the partitions of all einsum layers by region.
    """

    def __init__(self, einsums: list[EinsumLayer], children: list[list], order: list[int], counts: list[int]):
        super().__init__()
        self.einsums = nn.ModuleList(einsums)
        self.children_of = nn.ModuleList(nn.ModuleList(sides) for sides in children)  # left and right, or both in one
        self.num_single = counts.count(1)
        num_out = einsums[0].weights.shape[1]
        several = sorted(set(counts) - {1})
        self.mixings = nn.ModuleList(MixingLayer(counts.count(count), count, num_out) for count in several)
        sorted_already = order == list(range(len(order)))
        self.register_buffer("order", None if sorted_already else torch.tensor(order), persistent=False)

    def forward(self, outputs: list[Scaled]) -> Scaled:
        """The regions' vectors, from the outputs of the levels below, the leaves' first."""
        return self.regions(self.partitions(outputs))

    # Queries pass with other sums than the layers' own, as of maxima: `einsum` and `mixing` take the layer, too.

    def partitions(self, outputs: list[Scaled], einsum: Callable = EinsumLayer.__call__) -> Scaled:
        """The vectors of all partitions, those of a region side by side."""
        pairs = zip(self.einsums, self.children_of, strict=True)
        sums = _joined([einsum(layer, *(side.gathered(outputs) for side in sides)) for layer, sides in pairs])
        return sums if self.order is None else Scaled(*(part.index_select(0, self.order) for part in sums))

    def regions(self, partitions: Scaled, mixing: Callable = MixingLayer.__call__) -> Scaled:
        """The vectors of all regions: their only partition's, or a mixture."""
        if not len(self.mixings):
            return partitions
        single, *groups = self.by_region(partitions)
        mixed = [mixing(layer, group) for layer, group in zip(self.mixings, groups, strict=True)]
        return _joined(([single] if self.num_single else []) + mixed)

    def by_region(self, partitions: Scaled) -> list[Scaled]:
        """The regions with one partition, then what each mixing layer mixes."""
        sizes = [self.num_single, *(layer.weights.shape[:2].numel() for layer in self.mixings)]
        return [Scaled(*group) for group in zip(*(part.split(sizes) for part in partitions), strict=True)]


class Children(nn.Module):
    """Some regions of the levels below, as one tensor: where an einsum layer finds its children.

    `places` are pairs (output, row). In a tree they are all of the output just below, which is then taken as it is.
    """

    def __init__(self, places: list[tuple[int, int]], sizes: list[int]):
        super().__init__()
        self.sources = sorted({source for source, _ in places})
        first, pool = {}, 0
        for source in self.sources:
            first[source] = pool
            pool += sizes[source]
        numbers = [first[source] + row for source, row in places]
        self.whole = numbers == list(range(pool))
        rows = torch.tensor(numbers)
        self.register_buffer("rows", rows, persistent=False)
        # CSR: row m of the sources is the children order[offsets[m]:offsets[m + 1]], whose gradients it gets.
        self.register_buffer("order", torch.argsort(rows, stable=True), persistent=False)
        counts = torch.bincount(rows, minlength=pool)
        self.register_buffer("offsets", nn.functional.pad(counts.cumsum(0), (1, 0)), persistent=False)
        # The leaves, where there are any, are the first rows, and so the first of `order`.
        self.at_leaves = sum(source == 0 for source, _ in places)  # so many children are leaf regions
        self.num_leaves = sizes[0] if self.at_leaves else 0

    @property
    def leaf_users(self) -> Tensor:
        """The children that are leaf regions, those of a leaf side by side: `sums_at_leaves` adds them up."""
        return self.order[: self.at_leaves]

    def sums_at_leaves(self, each: Tensor) -> Tensor:
        """For each leaf region the sum over the children that it is, (n, K) -> (L, K), always in the same order."""
        offsets = self.offsets[: self.num_leaves + 1]
        return nn.functional.embedding_bag(self.leaf_users, each, offsets, mode="sum", include_last_offset=True)

    def forward(self, outputs: list[Scaled]) -> Scaled:
        return self.gathered(outputs).fetch()

    def gathered(self, outputs: list[Scaled]) -> Gathered:
        """The same, for a layer that may fetch the children itself."""
        pool = _joined([outputs[source] for source in self.sources])
        return Gathered(pool, self.rows, None if self.whole else (self.order, self.offsets))


class Constant(nn.Module):
    """The region about no variables, whose density is 1: the right child of a root that is itself a leaf."""

    at_leaves = 0

    def forward(self, outputs: list[Scaled]) -> Scaled:
        value, log_scale = outputs[0]
        return Scaled(torch.ones_like(value[:1, :1]), torch.zeros_like(log_scale[:1]))

    gathered = forward


# Compilation


class _PlanOfLevel(NamedTuple):
    """`groups` of partitions, one for each einsum layer: (the ranks of both lengths, the places of both children).

    `order` and `counts` are those of `Level`.
    """

    groups: list[tuple[tuple[int, int], list[list[tuple[int, int]]]]]
    order: list[int]
    counts: list[int]


# Networks over one graph, as the components of a mixture, share its plans, which live as long as the graph.
_plans: WeakKeyDictionary[RegionGraph, dict] = WeakKeyDictionary()


def _compile(graph: RegionGraph, num_sums: int, num_leaves: int, num_classes: int) -> tuple[list[int], list[Level]]:
    """The order of the leaf regions, and the levels above them."""
    if graph.root in graph.leaves:  # one sum over the entries of the only region
        root = EinsumLayer(1, num_classes, num_leaves, 1)
        return [graph.root], [Level([root], [[Children([(0, 0)], [1]), Constant()]], [0], [1])]
    plans, rank = _plans.setdefault(graph, {}), (num_leaves > num_sums) - (num_leaves < num_sums)
    if rank not in plans:
        plans[rank] = _plan(graph, rank)
    leaf_order, plan = plans[rank]
    length, sizes, levels = {0: num_sums, rank: num_leaves}, [len(leaf_order)], []
    for groups, order, counts in plan:
        num_out = num_sums if len(levels) < len(plan) - 1 else num_classes
        einsums = [
            EinsumLayer(sum(map(len, sides)) // 2, num_out, length[left], length[right])
            for (left, right), sides in groups
        ]
        children = [[Children(side, sizes) for side in sides] for _, sides in groups]
        levels.append(Level(einsums, children, order, counts))
        sizes.append(len(counts))
    return list(leaf_order), levels


def _plan(graph: RegionGraph, rank: int) -> tuple[list[int], list[_PlanOfLevel]]:
    """The order of the leaf regions, and what stands where in the levels above them.

    `rank` is 1 where the leaves' vectors are longer than those of inner regions, whose rank is 0, and -1 where shorter.
    """
    ranks = [0 if partitions else rank for partitions in graph.partitions_of]
    layers = graph.topological_layers()
    layer_of = {region: number for number, layer in enumerate(layers) for region in layer}

    # From the root down: a layer's regions stand in the order in which the layers above ask for them.
    wanted: list[dict[int, None]] = [{} for _ in layers]
    wanted[-1][graph.root] = None
    arranged = []
    for asked in reversed(wanted[1:]):
        regions = sorted(asked, key=lambda region: len(graph.partitions_of[region]))
        groups = _by_lengths([p for region in regions for p in graph.partitions_of[region]], ranks)
        for group in groups.values():
            for child in [p.left for p in group] + [p.right for p in group]:
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


def _by_lengths(partitions: list[Partition], lengths: list[int]) -> dict[tuple[int, int], list[Partition]]:
    """Partitions by the lengths of their children's vectors, the shorter one on the left."""
    groups: dict[tuple[int, int], list[Partition]] = {}
    for region, left, right in partitions:
        left, right = sorted((left, right), key=lambda child: lengths[child])
        groups.setdefault((lengths[left], lengths[right]), []).append(Partition(region, left, right))
    return groups


def _plan_of_level(graph: RegionGraph, regions: list[int], groups: dict, place: dict) -> _PlanOfLevel:
    found = []
    for ranks, group in groups.items():
        left, right = [place[p.left] for p in group], [place[p.right] for p in group]
        found.append((ranks, [left + right] if ranks[0] == ranks[1] else [left, right]))
    position = {region: i for i, region in enumerate(regions)}
    computed = [position[p.region] for group in groups.values() for p in group]
    order = sorted(range(len(computed)), key=computed.__getitem__)
    return _PlanOfLevel(found, order, [len(graph.partitions_of[region]) for region in regions])


def _joined(parts: list[Scaled]) -> Scaled:
    return parts[0] if len(parts) == 1 else Scaled(*map(torch.cat, zip(*parts, strict=True)))
