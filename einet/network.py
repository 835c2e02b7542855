"""The Einsum Network: a region graph, compiled into layers of tensors.

    x (B, D) -> leaves (L, K, B) -> einsum -> mixing -> einsum -> ... -> root (1, num_classes, B) -> log-density (B,)

Compilation walks the layers of Algorithm 1 from the root down and decides, once, in which order the regions of a layer
stand, so that in a forward pass children are found by a slice or a single `index_select`.

Source: Section 3.3
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from einet.family import LeafFamily, raise_where
from einet.graph.plan import by_lengths, of_one_layer, plan
from einet.graph.regions import RegionGraph
from einet.identity import KEY, as_tensor, check_identity, identity
from einet.inputs import (
    MODEL_DTYPES,
    as_concentration,
    as_float,
    batch_last,
    check_device,
    check_integers,
    checked_families,
    mask_last,
)
from einet.layers.children import Children, Outputs, portions_of_leaves
from einet.layers.derivatives import transformed
from einet.layers.scaled import LogScaled, Scaled
from einet.layers.scratch import CHUNK_NUMEL
from einet.layers.stack import ThinStack
from einet.layers.sums import CONCENTRATION, SUM_PRODUCTS, CPLayer, EinsumLayer, MixingLayer, SumLayer, normalized_
from einet.leaves.layer import LeafLayer


class Einet(nn.Module):
    """A smooth and decomposable circuit over the regions of `graph`: a normalised density with exact marginals.

    `model(x)` is the log-density in nats. Weights are probabilities, the leaves' phi expectation parameters: `em.EM`
    moves both. They are float32, whatever torch's default is, and on its default device; `model.double()` makes them
    float64, the only other type. Nothing is stored between calls.

    `state_dict()` has, beside the parameters, an `identity`: the graph, families and sizes that they are parameters of.
    `load_state_dict` refuses the state of another model with a `RuntimeError` that says what differs, whatever `strict`
    is, before a parameter changes. A state without an identity, such as one of einet 0.1.0, is compared by names and
    shapes alone, with a warning. The graph itself is not in the state, but in what `einet.save` writes.

    Args:
        graph: any `RegionGraph`.
        leaf: the family of all variables, or a dict {family: variables} that gives each variable one.
        num_sums: length K of the vectors of inner regions.
        num_leaves: length of the vectors of leaf regions; `num_sums` by default.
        num_classes: number of roots. With several, the model is a density of x given each class, log p(x | class).
        seed: of the initial parameters; different in every call where None.
        sum_product: "tucker" for sums over all products of a left and a right entry, K * K weights each
            (`EinsumLayer`); "cp" for sums over products of entries of one number, K weights each (`CPLayer`), of
            equally long vectors.
        concentration: positive, of the symmetric Dirichlet distribution that the sums over products below the root draw
            their initial weights from. 1 is the flat one. Of a small one, few weights share a sum's mass, so that the
            entries of a vector differ: entries that are alike stay alike, since EM moves them alike. 0.1, the
            default, is what a comparison over all data sets of the book found (experiments/starts.py).

    Raises:
        ValueError: an argument is out of range, or families and graph do not fit.

    Source: Section 3
    """

    stack: ThinStack | None  # all levels in one, where they are thin

    @torch.inference_mode(False)  # parameters that are born there could not be trained
    def __init__(
        self,
        graph: RegionGraph,
        leaf: LeafFamily | dict[LeafFamily, Sequence[int]],
        num_sums: int = 10,
        num_leaves: int | None = None,
        num_classes: int = 1,
        seed: int | None = None,
        sum_product: str = "tucker",
        concentration: float = CONCENTRATION,
    ):
        super().__init__()
        as_concentration(concentration)
        num_leaves = num_sums if num_leaves is None else num_leaves
        check_integers(num_sums=num_sums, num_leaves=num_leaves, num_classes=num_classes)
        if sum_product not in SUM_PRODUCTS:
            raise ValueError(f"sum_product must be one of {', '.join(SUM_PRODUCTS)}, got {sum_product!r}")
        self.graph, self.families = graph, checked_families(leaf, graph.num_variables)
        self.num_sums, self.num_leaves, self.num_classes = num_sums, num_leaves, num_classes
        self.sum_product = sum_product
        self.channels = next(iter(self.families)).channels

        device = torch.zeros(()).device
        with torch.device("cpu"):  # indices are computed there; memory for parameters is not touched yet
            self.leaf_order, levels = _compile(graph, num_sums, num_leaves, num_classes, SUM_PRODUCTS[sum_product])
            scopes = [graph.regions[leaf].scope for leaf in self.leaf_order]
            kind = LogScaled if sum_product == "cp" else Scaled
            self.leaves = LeafLayer(scopes, self.families, num_leaves, kind)
            self.levels = cast(Sequence[Level], nn.ModuleList(levels))
            thin = [children for level in levels for children in level.children_of if kind is LogScaled]
            self.stack = _stack(levels, len(scopes))
            self.portions = portions_of_leaves([pool for children in thin for pool in children.pools], len(scopes))
        self.register_buffer(KEY, as_tensor(self._identity()))
        if device.type != "cpu":
            self.to(device)
        self.reset_parameters(seed, concentration)

    def reset_parameters(self, seed: int | None = None, concentration: float = CONCENTRATION) -> None:
        """Draw all parameters anew: weights by this concentration, leaves as their family does.

        They are drawn on the CPU: a seed gives the same ones for any device, and on the meta device none.
        """
        concentration = as_concentration(concentration)
        if next(self.parameters()).is_meta:
            return
        generator = torch.Generator("cpu")
        generator.seed() if seed is None else generator.manual_seed(seed)
        with torch.no_grad(), torch.device("cpu"):
            for part in self.leaves.parts:
                part.reset(generator)
            for level in self.levels:
                for layer in (*level.einsums, *level.mixings):
                    # Concentration makes entries differ. The root has no other, and partitions differ anyway.
                    flat = level is self.levels[-1] or isinstance(layer, MixingLayer)
                    normalized_(layer.weights, layer.weight_dim, generator, 1.0 if flat else concentration)

    def _apply(self, fn: Callable, recurse: bool = True) -> Einet:
        """torch's own for `to`, `double`, `cuda` and the like."""
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
        """Whether a state has an identity at `prefix`; a `RuntimeError` where it is that of another model."""
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
        """log p(x_observed) in nats: all other variables are integrated out, exactly.

        Gradients may be differentiated again, and with `check=False` the transforms of `torch.func` apply, both by
        slower operations. On the meta device nothing is checked, and the result has a shape alone.

        Args:
            x: (B, D), or (B, D, C) for families with C channels; on a grid graph also images (B, H, W[, C]).
            observed: bool, (D,) or (B, D), or the grid's (H, W) or (B, H, W), a tensor or an array of numpy; None where
                everything is. Entries of `x` that are not observed may hold anything, NaN included.
            check: raise for observed values outside the support. False saves passes over x that is validated already.

        Returns:
            (B,), or (B, num_classes).

        Raises:
            ValueError: wrong shape, dtype or device, an empty batch, or an observed entry outside its family's support;
                or a model in less than float32.
        """
        if torch.is_grad_enabled() and next(self.parameters()).is_inference():
            raise ValueError(
                "parameters made in inference mode have no gradients: copy.deepcopy the model outside of it"
            )
        x, observed = self.as_input(x, observed, check)
        return self.at_root(self.root(self.leaves(x, observed)), self.leaves.log_base(x, observed))

    def as_input(
        self, x: Tensor, observed: Tensor | None, check: bool = True, name: str = "observed"
    ) -> tuple[Tensor, Tensor | None]:
        """x (D, C, B) and observed (D, B), (D, 1) or None, as inside the network, checked. Unobserved entries are 0.

        `name` is the caller's for the mask, for messages.
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
                raise_where(own.abs() >= 2**53, own, "a whole number must be below 2^53, to be a float64")
            part.family.check(own)

    def root(self, leaves: Scaled) -> Scaled:
        """The root's vector (1, num_classes, B), from the leaves'."""
        sums = self.stack and self.stack.sums(leaves)
        return self.upward(leaves)[-1] if sums is None else self.levels[-1].regions(self.levels[-1].ordered(sums))

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
    """The inner regions of one topological layer: sums over products for all partitions, mixtures of several.

    Args:
        einsums: a layer for each combination of the lengths of the children's vectors.
        children: where each of these layers finds its children.
        order: sorts the partitions of all these layers by region.
        counts: the numbers of partitions of the regions, ascending. There is a mixing layer for each that is not 1.
    """

    order: Tensor | None

    def __init__(self, einsums: list[SumLayer], children: list[Children], order: list[int], counts: list[int]):
        super().__init__()
        self.einsums = cast(Sequence[SumLayer], nn.ModuleList(einsums))
        self.children_of = cast(Sequence[Children], nn.ModuleList(children))
        self.num_single, num_out = counts.count(1), einsums[0].weights.shape[1]
        mixings = [MixingLayer(counts.count(count), count, num_out) for count in sorted(set(counts) - {1})]
        self.mixings = cast(Sequence[MixingLayer], nn.ModuleList(mixings))
        sorted_already = order == list(range(len(order)))
        self.register_buffer("order", None if sorted_already else torch.tensor(order), persistent=False)

    def forward(self, outputs: list[Scaled]) -> Scaled:
        """The regions' vectors, from the outputs of the levels below, the leaves' first."""
        return self.regions(self.partitions(outputs))

    # `operation` takes a layer and its inputs; queries pass others than the sums, such as the maxima.

    def partitions(self, outputs: list[Scaled], operation: Callable = SumLayer.__call__) -> Scaled:
        """The vectors of all partitions, those of a region side by side."""
        pairs = zip(self.einsums, self.children_of, strict=True)
        return self.ordered(Scaled.joined([operation(layer, children.gathered(outputs)) for layer, children in pairs]))

    def ordered(self, sums: Scaled) -> Scaled:
        """What the layers have computed, one after the other, with the partitions of a region side by side."""
        order = self.order
        return sums if order is None else sums.map(lambda tensor: tensor.index_select(0, order))

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


# Networks over one graph, such as the components of a mixture, share its plans, which live as long as the graph.
_plans: WeakKeyDictionary[RegionGraph, dict] = WeakKeyDictionary()


def _compile(
    graph: RegionGraph, num_sums: int, num_leaves: int, num_classes: int, layer: type[SumLayer] = EinsumLayer
) -> tuple[list[int], list[Level]]:
    """The order of the leaf regions, and the levels above them, with `layer` for the sums over products."""
    if graph.root in graph.leaves:  # one sum over the entries of the only region
        return [graph.root], [Level([CPLayer(1, num_classes, num_leaves)], [Children([[(0, 0)]], [1])], [0], [1])]
    plans, rank = _plans.setdefault(graph, {}), (num_leaves > num_sums) - (num_leaves < num_sums)
    if (rank, layer) not in plans:
        plans[rank, layer] = plan(graph, rank, of_one_layer if layer is CPLayer else by_lengths)
    leaf_order, levels_above = plans[rank, layer]
    length, sizes, levels = {0: num_sums, rank: num_leaves}, [len(leaf_order)], []
    for groups, order, counts in levels_above:
        num_out = num_sums if len(levels) < len(levels_above) - 1 else num_classes
        einsums = [_layer(layer, num_out, [length[rank] for rank in ranks], sides) for ranks, _, sides in groups]
        children = [Children(sides, sizes, shared) for _, shared, sides in groups]
        levels.append(Level(einsums, children, order, counts))
        sizes.append(len(counts))
    return list(leaf_order), levels


def _stack(levels: list[Level], num_leaves: int) -> ThinStack | None:
    """All levels in one, where each is a single thin layer, with nothing but mixtures of the last one's partitions."""
    if any(len(level.einsums) > 1 or not isinstance(level.einsums[0], CPLayer) for level in levels):
        return None
    if any(len(level.mixings) or level.order is not None for level in levels[:-1]):
        return None
    thin = [(cast(CPLayer, level.einsums[0]), level.children_of[0]) for level in levels]
    sizes = [len(layer.weights) for layer, _ in thin]
    if sizes[-1] * (num_leaves + sum(sizes)) > CHUNK_NUMEL:  # the stack's table of what is below which root
        return None
    lengths = {layer.weights.shape[2] for layer, _ in thin} | {layer.weights.shape[1] for layer, _ in thin[:-1]}
    return ThinStack(thin, num_leaves) if len(lengths) == 1 else None


def _layer(layer: type[SumLayer], num_out: int, lengths: list[int], sides: list[list]) -> SumLayer:
    """The layer over these children. It is told the nodes of each side where some have none there."""
    if all(None not in side for side in sides):
        return layer(len(sides[0]), num_out, *lengths)
    nodes = [[node for node, place in enumerate(side) if place is not None] for side in sides]
    return layer(len(sides[0]), num_out, *lengths, nodes=nodes)
