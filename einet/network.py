"""The Einsum Network: a region graph, compiled into layers of tensors.

    x (B, D) -> leaves (L, K, B) -> einsum -> mixing -> einsum -> ... -> root (1, num_classes, B) -> log-density (B,)

Compilation walks the layers of Algorithm 1 from the root down and decides, once, in which order the regions of a layer
stand, so that in a forward pass children are found by a slice or a single `index_select`.

Paper: Section 3.3
Chapter: book/04_layers
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from einet.exponential_family import ExponentialFamily, refuse
from einet.graph import Partition, RegionGraph
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
        self.whole = places == [(self.sources[0], row) for row in range(sizes[self.sources[0]])]
        first, offset = {}, 0
        for source in self.sources:
            first[source] = offset
            offset += sizes[source]
        rows = torch.tensor([first[source] + row for source, row in places])
        at_leaves = torch.tensor([node for node, (source, _) in enumerate(places) if source == 0], dtype=torch.long)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("at_leaves", at_leaves, persistent=False)  # those children that are leaf regions
        # The other way round: which children a leaf region is, and one beyond the last where it is fewer than others.
        users: list[list[int]] = [[] for _ in range(sizes[0] if 0 in self.sources else 0)]
        for node in at_leaves.tolist():
            users[places[node][1]].append(node)
        most = max(map(len, users), default=0)
        padded = [nodes + [len(places)] * (most - len(nodes)) for nodes in users]
        self.register_buffer("leaf_users", torch.tensor(padded, dtype=torch.long), persistent=False)
        # Row m of the sources is the children order[offsets[m]:offsets[m + 1]]: whose gradients it gets.
        self.register_buffer("order", torch.argsort(rows, stable=True), persistent=False)
        counts = torch.bincount(rows, minlength=offset)
        self.register_buffer("offsets", nn.functional.pad(counts.cumsum(0), (1, 0)), persistent=False)

    def forward(self, outputs: list[Scaled]) -> Scaled:
        return self.gathered(outputs).fetch()

    def gathered(self, outputs: list[Scaled]) -> Gathered:
        """The same, for a layer that may fetch the children itself."""
        pool = _joined([outputs[source] for source in self.sources])
        return Gathered(pool, self.rows, None if self.whole else (self.order, self.offsets))


class Constant(nn.Module):
    """The region about no variables, whose density is 1: the right child of a root that is itself a leaf."""

    at_leaves = ()

    def forward(self, outputs: list[Scaled]) -> Scaled:
        value, log_scale = outputs[0]
        return Scaled(torch.ones_like(value[:1, :1]), torch.zeros_like(log_scale[:1]))

    gathered = forward


# Compilation


def _compile(graph: RegionGraph, num_sums: int, num_leaves: int, num_classes: int) -> tuple[list[int], list[Level]]:
    """The order of the leaf regions, and the levels above them."""
    leaves = graph.leaves
    lengths = [num_sums if partitions else num_leaves for partitions in graph.partitions_of]
    if graph.root in leaves:  # one sum over the entries of the only region
        root = EinsumLayer(1, num_classes, num_leaves, 1)
        return [graph.root], [Level([root], [[Children([(0, 0)], [1]), Constant()]], [0], [1])]

    # From the root down: a layer's regions stand in the order in which the layers above ask for them.
    wanted: dict[int, None] = {graph.root: None}
    arranged = []
    for layer in reversed(graph.topological_layers()[1:]):
        asked = [region for region in wanted if region in set(layer)]
        regions = sorted(asked, key=lambda region: len(graph.partitions_of[region]))
        groups = _by_lengths([p for region in regions for p in graph.partitions_of[region]], lengths)
        for group in groups.values():
            wanted.update(dict.fromkeys([p.left for p in group] + [p.right for p in group]))
        arranged.append((regions, groups))

    # From the leaves up: now the places of all children are known.
    leaf_order = [region for region in wanted if not graph.partitions_of[region]]
    place = {region: (0, row) for row, region in enumerate(leaf_order)}
    sizes, levels = [len(leaf_order)], []
    for regions, groups in reversed(arranged):
        num_out = num_classes if regions == [graph.root] else num_sums
        levels.append(_level(graph, regions, groups, num_out, place, sizes))
        place |= {region: (len(sizes), row) for row, region in enumerate(regions)}
        sizes.append(len(regions))
    return leaf_order, levels


def _by_lengths(partitions: list[Partition], lengths: list[int]) -> dict[tuple[int, int], list[Partition]]:
    """Partitions by the lengths of their children's vectors, the shorter one on the left."""
    groups: dict[tuple[int, int], list[Partition]] = {}
    for region, left, right in partitions:
        left, right = sorted((left, right), key=lambda child: lengths[child])
        groups.setdefault((lengths[left], lengths[right]), []).append(Partition(region, left, right))
    return groups


def _level(graph: RegionGraph, regions: list[int], groups: dict, num_out: int, place: dict, sizes: list[int]) -> Level:
    einsums = [EinsumLayer(len(group), num_out, *lengths) for lengths, group in groups.items()]
    children = []
    for (num_left, num_right), group in groups.items():
        left, right = [place[p.left] for p in group], [place[p.right] for p in group]
        sides = [left + right] if num_left == num_right else [left, right]
        children.append([Children(side, sizes) for side in sides])
    position = {region: i for i, region in enumerate(regions)}
    computed = [position[p.region] for group in groups.values() for p in group]
    order = sorted(range(len(computed)), key=computed.__getitem__)
    counts = [len(graph.partitions_of[region]) for region in regions]
    return Level(einsums, children, order, counts)


def _joined(parts: list[Scaled]) -> Scaled:
    return parts[0] if len(parts) == 1 else Scaled(*map(torch.cat, zip(*parts, strict=True)))
