"""The sum layers of an Einsum Network: einsum layers, thin layers of products entry by entry, and mixing layers.

Every region holds a vector of K densities, and a layer the vectors of L regions for a batch of B rows, the batch last
and contiguous: (L, K, B). Between layers densities travel scaled, as `value * exp(log_scale)` with the largest of each
vector at 1, so that nothing underflows. All that a pass, a query or EM needs to know of a layer is in `SumLayer`.

The einsum itself, Eq. (5), is in einsum.py: read that first. One file of both would have more than 400 lines.

Source: Section 3.2 and 3.3
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import cast

import torch
from torch import Tensor, nn

from einet.gpu.dispatch import PRECISIONS, kernels_for
from einet.layers.derivatives import transformed
from einet.layers.einsum import gradients_of_sums, scaled_sums
from einet.layers.scaled import Gathered, Scaled, fetched, rescaled
from einet.layers.scratch import CACHE_NUMEL, CHUNK_NUMEL, node_slices, slices
from einet.layers.scratch import _kept as _kept  # of einet 0.1.0, where programs still look for it
from einet.layers.thin import Layout, products
from einet.layers.thin import scaled_sums as thin_sums

# A weight below this is as good as 0; kept positive, it can grow again, and no product of densities dies of it.
WEIGHT_FLOOR = 1e-12
# Of the Dirichlet distribution that new weights are drawn from: experiments/starts.py, chapter 7.
CONCENTRATION = 0.1
# From this many pairs of entries on, `maximum` leaves out those that cannot be the largest; how many it tries first.
MANY_PAIRS, TRIED_FIRST = 2**12, 128


class Weighted(nn.Module):
    """A module with one parameter, `weights`, non-negative and summing to 1 along `weight_dim`, which EM moves."""

    weights: nn.Parameter
    weight_dim: int

    @property
    def expected_counts(self) -> Tensor:
        """How often each weight was used, in expectation: the weight times its gradient (Eq. 6)."""
        return self.weights * cast(Tensor, self.weights.grad)

    def kernels(self, weights: Tensor) -> ModuleType | None:
        """`einet.gpu.kernels`, where their M-step moves these weights."""
        return None


class SumLayer(Weighted):
    """Sums of one layer: every entry of every node is a mixture of some choices, weighted by `weights`.

    Its inputs are the vectors of its children, (L, K, B) each, the left ones first. A pass or a query asks the layer
    what the weights mean: no other module knows how choices are laid out in them.
    """

    def forward(self, *inputs: Scaled | Gathered) -> Scaled:
        """The sums, (L, K_out, B)."""
        raise NotImplementedError

    @property
    def num_choices(self) -> int:
        return self.weights.shape[self.weight_dim]

    @property
    def visits(self) -> Tensor:
        """How often each entry was used, in expectation, by all nodes together: (K_out,)."""
        return self.expected_counts.movedim(3 - self.weight_dim, 0).flatten(1).sum(1)

    def by_entry(self, numbers: Tensor) -> Tensor:
        """A number for each entry, (K_out,), in a shape that broadcasts against the sums of the weights."""
        return numbers[:, None] if self.weight_dim == 2 else numbers

    def maximum(self, *inputs: Scaled | Gathered) -> Scaled:
        """max over the choices of weight * density, scaled as the sums are: (L, K_out, B)."""
        raise NotImplementedError

    def odds(self, inputs: Sequence[Scaled] | None, node: Tensor, entry: Tensor, column: Tensor) -> Tensor:
        """weight * density of each choice, up to a factor, for U visits to an entry of a node: (U, num_choices).

        Densities are those of one column of the batch for each visit; without inputs they are all 1.
        """
        raise NotImplementedError

    def split(self, node: Tensor, entry: Tensor, choice: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        """What the choice of each visit takes of each input: (row there, entry)."""
        raise NotImplementedError

    def entropies(self, *inputs: Tensor) -> Tensor:
        """From the entropies of the children's entries, (L, K, 2), to those of the layer's, (L, K_out, 2), in nats.

        The first column is given what was chosen, here and below; the second includes the choices.
        """
        weights = self.weights.double()
        entropies = self.expectation(weights, *inputs)
        entropies[..., 1] -= torch.xlogy(weights, weights).sum(self.weight_dim)
        return entropies

    def expectation(self, weights: Tensor, *inputs: Tensor) -> Tensor:
        """The mean over the choices of the sum of what they take of the inputs, (L, K, n) -> (L, K_out, n)."""
        raise NotImplementedError

    def input_uses(self) -> Sequence[Tensor]:
        """The expected counts of the entries of each input, (L, K): those of all choices that take the entry, added."""
        raise NotImplementedError


class EinsumLayer(SumLayer):
    """L sum nodes of K_out entries each, every entry a mixture of all products of a left and a right child's entries.

        S_k = sum_ij W_kij N_i N'_j        weights (L, K_out, K * K'), the last axis summing to 1

    Source: Section 3.2, Eq. (5)
    """

    weight_dim = 2
    precision: str | None = "ieee"  # of the products on a GPU: see `set_precision`

    def __init__(self, num_nodes: int, num_out: int, num_left: int, num_right: int, *others: int):
        super().__init__()
        if others:
            raise ValueError(
                f"an einsum layer multiplies pairs, got a partition into {2 + len(others)}: graph.binary() is the same "
                "graph with two children a partition, and sum_product='cp' takes any number"
            )
        self.num_left, self.num_right = num_left, num_right
        self.weights = nn.Parameter(torch.empty(num_nodes, num_out, num_left * num_right, dtype=torch.float32))

    def forward(self, *children: Scaled | Gathered) -> Scaled:
        weights = self.weights  # once: where they are parametrized, each access computes them
        kernels = None if transformed() else self.kernels(weights)
        if kernels is not None:  # they gather the children, multiply and scale in one launch, and store no products
            pools, rows, segments = Gathered.of(children).by_side()
            return Scaled(*kernels.einsum(weights, pools, rows, segments, self.precision, gradients_of_sums))
        left, right = fetched(children)
        sums, log_scale = scaled_sums(weights, left.value, right.value)
        return Scaled(sums, log_scale + left.log_scale + right.log_scale)

    def kernels(self, weights: Tensor) -> ModuleType | None:
        return kernels_for(weights, self.num_left, self.num_right, self.precision)

    def maximum(self, *children: Scaled | Gathered) -> Scaled:
        left, right = fetched(children)
        (num_nodes, _, batch), (num_out, num_pairs) = left.value.shape, self.weights.shape[1:]
        maxima = left.value.new_empty(num_nodes, num_out, batch)
        largest = _all_choices if num_pairs < MANY_PAIRS or maxima.is_cuda else _likely_choices
        for nodes in slices(num_nodes, CACHE_NUMEL // (num_pairs * batch)):
            for rows in slices(batch, CHUNK_NUMEL // num_pairs):
                outer = left.value[nodes, :, None, rows] * right.value[nodes, None, :, rows]
                largest(self.weights[nodes], outer.flatten(1, 2), maxima[nodes, :, rows])
        value, log_scale = rescaled(maxima)
        return Scaled(value, left.log_scale + right.log_scale + log_scale)

    def odds(self, inputs: Sequence[Scaled] | None, node: Tensor, entry: Tensor, column: Tensor) -> Tensor:
        odds = self.weights[node, entry]
        if inputs is None:
            return odds
        left, right = (child.value[node, :, column] for child in inputs)
        return (self._as_pairs(odds) * left[:, :, None] * right[:, None]).flatten(1)

    def split(self, node: Tensor, entry: Tensor, choice: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        return (node, choice // self.num_right), (node, choice % self.num_right)

    def expectation(self, weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
        weights = self._as_pairs(weights)
        return weights.sum(3) @ left + weights.sum(2) @ right

    def input_uses(self) -> Sequence[Tensor]:
        weights, gradient = self.weights, cast(Tensor, self.weights.grad)
        pairs = weights.new_empty(len(weights), self.num_left, self.num_right)
        for nodes in node_slices(len(weights), weights[0].numel(), weights):
            torch.sum(self._as_pairs(weights[nodes] * gradient[nodes]), 1, out=pairs[nodes])
        return pairs.sum(2), pairs.sum(1)

    def _as_pairs(self, weights: Tensor) -> Tensor:
        return weights.unflatten(-1, (self.num_left, self.num_right))

    def extra_repr(self) -> str:
        return f"nodes={len(self.weights)}, {self.num_left} x {self.num_right} -> {self.weights.shape[1]}"


def _all_choices(weights: Tensor, choices: Tensor, maxima: Tensor) -> None:
    """maxima_kb = max_p W_kp choices_pb, by the formula: (L, K_out, P), (L, P, B), written to (L, K_out, B)."""
    for k in range(weights.shape[1]):
        maxima[:, k] = (weights[:, k, :, None] * choices).amax(1)


def _likely_choices(weights: Tensor, choices: Tensor, maxima: Tensor) -> None:
    """The same, without the products that are too small for any row: a few percent of them are left as a rule.

    In no row W_kp choices_pb is above its bound, W_kp max_b choices_pb. Those with the largest bounds are tried first,
    and whichever have bounds below all maxima that these reach need no trial.
    """
    for node, pairs in enumerate(choices):
        largest = pairs.amax(1)
        for k, own in enumerate(weights[node]):
            bound = own * largest
            first = bound.topk(TRIED_FIRST).indices
            reached = (own[first, None] * pairs.index_select(0, first)).amax(0)  # (B,)
            left = (bound >= reached.min()).nonzero()[:, 0]
            maxima[node, k] = (own[left, None] * pairs.index_select(0, left)).amax(0)


class CPLayer(SumLayer):
    """L sum nodes of K_out entries each, every entry a mixture of K products, of the entries i of all children.

        S_k = sum_i W_ki N_i N'_i ...        weights (L, K_out, K), the last axis summing to 1

    The thin layer takes any number of children, of equally long vectors; of one child it is a mixture of its entries.

    Args:
        num_nodes: L.
        num_out: K_out.
        lengths: K, once for each child.
        nodes: for each child the nodes that have it, where not all do. An input then has these nodes alone.

    Source: not in the paper; named CP for the canonical polyadic decomposition of the weights of Eq. (5)
    """

    weight_dim = 2

    def __init__(
        self, num_nodes: int, num_out: int, *lengths: int, nodes: Sequence[Sequence[int] | None] | None = None
    ):
        super().__init__()
        if len(set(lengths)) != 1:
            raise ValueError(
                "a cp layer multiplies vectors entry by entry, so children must have equally long ones, got lengths "
                f"{' and '.join(map(str, lengths))}: num_leaves must be num_sums"
            )
        self.layout = Layout(num_nodes, [None] * len(lengths) if nodes is None else nodes)
        self.weights = nn.Parameter(torch.empty(num_nodes, num_out, lengths[0], dtype=torch.float32))

    @property
    def num_children(self) -> int:
        return self.layout.num_sides

    def forward(self, *children: Scaled | Gathered) -> Scaled:
        return thin_sums(self.layout, self.weights, children)

    def maximum(self, *children: Scaled | Gathered) -> Scaled:
        product = products(self.layout, children, self.weights.dtype)
        maxima = product.value.new_empty(*self.weights.shape[:2], product.value.shape[2])
        _all_choices(self.weights, product.value, maxima)
        value, log_scale = rescaled(maxima)
        return Scaled(value, log_scale + product.log_scale)

    def odds(self, inputs: Sequence[Scaled] | None, node: Tensor, entry: Tensor, column: Tensor) -> Tensor:
        odds = self.weights[node, entry]
        if inputs is None:
            return odds
        logs = torch.zeros_like(odds)
        for side, given in enumerate(inputs):
            own, row = self.layout.find(side, node)
            visited = type(given)(given.value[row, :, column[own], None], given.log_scale[row, column[own], None])
            logs[own] += visited.relative()[..., 0]
        return odds * Scaled.from_log(logs[..., None], odds.dtype).value[..., 0]

    def split(self, node: Tensor, entry: Tensor, choice: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        return ((node, choice),) * self.num_children

    def expectation(self, weights: Tensor, *inputs: Tensor) -> Tensor:
        return weights @ self.layout.summed(torch.cat(inputs))

    def input_uses(self) -> Sequence[Tensor]:
        uses = self.expected_counts.sum(1)
        return [uses[self.layout.nodes(side, uses.device)] for side in range(self.num_children)]

    def extra_repr(self) -> str:
        nodes, num_out, length = self.weights.shape
        children = self.layout.num_children
        return f"nodes={nodes}, {children} children, {length} -> {num_out}"


# By the name of the sums over products: `Einet` takes one.
SUM_PRODUCTS = {"tucker": EinsumLayer, "cp": CPLayer}


class MixingLayer(SumLayer):
    """M regions with the same number P of partitions: entry k mixes entry k of the P partitions.

    weights (M, P, K), the middle axis summing to 1. Maps (M * P, K, B), a region's partitions side by side, to
    (M, K, B). Regions with other numbers of partitions have a mixing layer of their own, so nothing is padded and no
    padding can carry mass.

    Source: Section 3.3
    """

    weight_dim = 1

    def __init__(self, num_nodes: int, num_partitions: int, num_out: int):
        super().__init__()
        self.weights = nn.Parameter(torch.empty(num_nodes, num_partitions, num_out, dtype=torch.float32))

    def forward(self, partitions: Scaled) -> Scaled:
        weighted, log_scale = self._weighted(partitions)
        return Scaled(weighted.sum(1), log_scale)

    def maximum(self, partitions: Scaled) -> Scaled:
        weighted, log_scale = self._weighted(partitions)
        return Scaled(weighted.amax(1), log_scale)

    def _weighted(self, partitions: Scaled) -> tuple[Tensor, Tensor]:
        """w_p S_p (M, P, K, B), relative to the largest scale of a region's partitions, and that (M, B)."""
        weights = self.weights
        value, scales = partitions.map(lambda tensor: tensor.unflatten(0, weights.shape[:2]))
        log_scale = scales.amax(1).clamp_min(torch.finfo(scales.dtype).min)  # where all are impossible
        relative = torch.exp(scales - log_scale[:, None]).to(weights.dtype)
        return value * relative[:, :, None] * weights[..., None], log_scale

    def odds(self, inputs: Sequence[Scaled] | None, node: Tensor, entry: Tensor, column: Tensor) -> Tensor:
        odds = self.weights[node, :, entry]
        if inputs is None:
            return odds
        value, scales = inputs[0].map(lambda tensor: tensor.unflatten(0, self.weights.shape[:2]))
        scales = scales[node, :, column]
        relative = torch.exp(scales - scales.amax(1, keepdim=True)).to(odds.dtype)
        return odds * relative * value[node, :, entry, column]

    def split(self, node: Tensor, entry: Tensor, choice: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        return ((node * self.num_choices + choice, entry),)

    def expectation(self, weights: Tensor, partitions: Tensor) -> Tensor:
        return (weights[..., None] * partitions.unflatten(0, weights.shape[:2])).sum(1)

    def input_uses(self) -> Sequence[Tensor]:
        return (self.expected_counts.flatten(0, 1),)

    def extra_repr(self) -> str:
        return f"nodes={len(self.weights)}, partitions={self.weights.shape[1]}, {self.weights.shape[2]}"


def set_precision(model: nn.Module, precision: str | None) -> None:
    """How the einsum layers of `model` multiply on a GPU, where the fused kernels of `einet.gpu.kernels` serve them.

    "ieee", the default, multiplies in float32. The others use the tensor cores: "tf32" rounds every factor to 11
    significant bits, "tf32x3" and "bf16x3" split each in two and add three products. None leaves the kernels out, for
    the plain path in PyTorch. On a CPU, and in float64, nothing changes.

    Raises:
        ValueError: any other precision.

    Source: not in the paper, whose code multiplies as PyTorch does
    """
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision must be None or one of {', '.join(PRECISIONS)}, got {precision!r}")
    for layer in model.modules():
        if isinstance(layer, EinsumLayer):
            layer.precision = precision


def normalized_(weights: Tensor, dim: int, generator: torch.Generator, concentration: float = 1.0) -> None:
    """Fill with draws from the symmetric Dirichlet distribution of this concentration along `dim`; 1 is the flat one.

    Of a small concentration, few weights of a sum share its mass. Those with none are twice WEIGHT_FLOOR.
    """
    with torch.no_grad():
        uniform = torch.rand(weights.shape, generator=generator, dtype=torch.float32, device=generator.device)
        if concentration == 1:
            draw = uniform.clamp_min_(1e-6).log_().neg_()
            weights.copy_(draw / draw.sum(dim, keepdim=True))
            return
        # A gamma variable of shape c is one of shape c + 1 times U^(1 / c). By logarithms: many are below 1e-38.
        shape = torch.full_like(uniform, concentration + 1)
        draw = torch._standard_gamma(shape, generator).log_()  # pyright: ignore[reportPrivateImportUsage]
        draw += uniform.clamp_min_(torch.finfo(uniform.dtype).tiny).log_().div_(concentration)
        # Twice the floor: no rounding takes it below, so that a step which moves nothing changes nothing.
        draw = torch.softmax(draw, dim).clamp_min_(2 * WEIGHT_FLOOR)
        weights.copy_(draw / draw.sum(dim, keepdim=True))
