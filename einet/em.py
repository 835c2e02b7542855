"""EM, whose expectation step is a backward pass.

The gradient of log P with respect to a sum weight, times the weight, is the number of times the weight is used, in
expectation (Eq. 6). The gradient with respect to a leaf's natural parameters theta is the sum of its statistics T(x),
weighted by how much each row uses the leaf, less what the leaf expects of them already. So the E-step is
`model(x).sum().backward()`, and `EM.step()` is the M-step:

    w       <- (1 - rate) w + rate normalise(w * grad_w + pseudocount)
    E[T(x)] <- E[T(x)] + rate (d log P / d theta) / (expected uses of the leaf entry + pseudocount)

The second line is Eq. (7) and (9), written so that a variable that a row lacks, or an entry that nobody uses, keeps its
parameters. It is a natural gradient step too: d/dtheta is the plain gradient d/dphi times the inverse Fisher matrix.

The rate is `lr` in a step that sees as much as steps usually do. Where it sees less (a short batch, a component of a
mixture that few rows belong to, a class with few rows) it weighs less: with n visits of the root in this step and m in
a usual one,

    rate = lr n / (lr n + (1 - lr) m)

which is Eq. (8) and (9) for n = m, and 1 for lr = 1: classical EM has nothing to remember.

With `momentum` the counts of a step are averages over the last ones, c, for sums and leaves alike:

    C <- momentum C + (1 - momentum) w * grad_w,    c = C / (1 - momentum^t) in step t

Source: Section 3.5; for momentum, "Anemone", arXiv 2505.19982
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import unwrap
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from einet.inputs import as_number, as_parts, as_pseudocount
from einet.layers.scratch import CACHE_NUMEL, node_slices
from einet.layers.sums import WEIGHT_FLOOR, SumLayer, Weighted
from einet.leaves.part import MIN_COUNT, LeafStep, begun
from einet.network import Einet

# The share of the last step in a root's usual number of visits, a moving average over some twenty steps.
LAST_STEP = 0.05
NO_GRADIENT = "there is no gradient: call model(x).sum().backward() before step()"


class EM(torch.optim.Optimizer):
    """Expectation-maximisation with step size `lr`, as a torch optimizer that ascends the log-likelihood.

        em = EM(model, lr=0.5)
        em.zero_grad(); model(x).sum().backward(); em.step()

    The model may change its type or its device between steps.

    Args:
        model: an `Einet`, or any module made of some, such as a `Mixture` or a `DistributedDataParallel`.
        lr: the step from the old parameters to the batch's, in (0, 1]; 1 is classical EM, for which gradients of all
            batches are accumulated before one `step`. A `torch.optim.lr_scheduler` may drive it. Below 1, a step with
            fewer rows than usual moves less; so does the root of a class with fewer rows than usual, or than classes
            have on average.
        pseudocount: at least 0, added to the expected count of every weight in each step, and to that of every leaf
            entry as rows whose statistics are what the entry expects.
        leaf_pseudocount: at least 0, added to the expected count of every leaf entry in each step, as rows whose
            variables are each distributed as in `data`: shrinkage towards the columns' own distributions.
        data: x, (x,), (x, observed) or (x, observed, weights), needed for a `leaf_pseudocount`.
        momentum: in [0, 1), the share of earlier steps in expected counts, which then are moving averages over about
            1 / (1 - momentum) steps. Small batches make it worth while: a large `lr` then does not follow their noise.
            One more number is kept for every parameter; whoever sets parameters by hand makes a new `EM`.

    Raises:
        ValueError: a setting is out of range, or the model has nothing that EM could move. `step` raises it, too,
            before it changes anything, where a gradient is missing, not finite or of the wrong sign, or weights are
            parametrized for gradient training. While a CUDA graph is recorded, gradients have no values that it could
            check: `fit(..., cuda_graph=True)` then watches the likelihood.

    Source: Section 3.5, Eq. (6) to (9)
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1.0,
        pseudocount: float = 0.0,
        leaf_pseudocount: float = 0.0,
        data: Tensor | tuple[Tensor | None, ...] | None = None,
        momentum: float = 0.0,
    ):
        settings = {
            "lr": as_number("lr", lr, "within (0, 1]", lambda number: 0 < number <= 1),
            "pseudocount": as_pseudocount("pseudocount", pseudocount),
            "leaf_pseudocount": as_pseudocount("leaf_pseudocount", leaf_pseudocount),
            "momentum": as_momentum(momentum),
        }
        if leaf_pseudocount and data is None:
            raise ValueError(f"leaf_pseudocount={leaf_pseudocount} needs data: the columns to shrink towards")
        self.networks = [module for module in model.modules() if isinstance(module, Einet)]
        self.weighted = [module for module in model.modules() if isinstance(module, Weighted)]
        if not self.networks:
            raise ValueError(f"EM needs an Einet, got {type(model).__name__}")
        check_movable(model)
        super().__init__(model.parameters(), settings)
        if leaf_pseudocount:
            x, observed, weights = (*as_parts("data", data, "x", "observed", "weights"), None, None)[:3]
            for network in self.networks:
                values, mask = network.as_input(cast(Tensor, x), observed)
                for part in network.leaves.parts:
                    self.state[part.phi]["column"] = part.column_parameters(values, mask, weights)

    # torch's own two import its compiler before they run, which takes longer than to import torch.

    def add_param_group(self, param_group: dict) -> None:
        unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)

    def __getstate__(self) -> dict:
        """For copies and pickles: torch's own would leave out which networks the optimizer moves."""
        return {**super().__getstate__(), "networks": self.networks, "weighted": self.weighted}

    def __setstate__(self, state: dict) -> None:
        """A state of einet 0.1.0 has no `leaf_pseudocount` and no `momentum`."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("leaf_pseudocount", 0.0)
            group.setdefault("momentum", 0.0)

    @torch.inference_mode(False)  # else what is kept from one step to the next could not be written to outside
    @torch.no_grad()
    def step(self, closure=None):
        """The M-step, from the gradients of `model(x).sum()`."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        lr, pseudocount, leaf_pseudocount, momentum = self._settings()
        for network in self.networks:
            _check_gradients(network)
        if any(layer.weights.grad is None for layer in self.weighted):
            raise ValueError(NO_GRADIENT)
        self._follow()
        rates, of_leaves = self._all_rates(lr)
        with self._averaged_counts(momentum):
            uses = [leaf_uses(network) for network in self.networks]  # of the old weights
            for network, rate, uses_of_leaves in zip(self.networks, of_leaves, uses, strict=True):
                for part in network.leaves.parts:
                    own = torch.cat([uses_of_leaves[rows] for rows, _, _ in part.groups()])
                    part.move(own, LeafStep(rate, pseudocount, leaf_pseudocount, self.state[part.phi], momentum))
            self._move_sums(rates, pseudocount)
        return value

    def _all_rates(self, lr: float) -> tuple[dict[Tensor, Tensor], list[Tensor]]:
        """The step sizes of all weights, and of each network's leaves, from what this step saw."""
        rates, of_leaves = {}, []
        for network in self.networks:
            rate, of_roots = _rates(self.state[network.sum_layers()[-1].weights], _top(network)[-1].visits, lr)
            rates |= {layer.weights: rate for layer in network.sum_layers()}
            rates |= {top.weights: top.by_entry(of_roots) for top in _top(network)}
            of_leaves.append(rate)
        for layer in self.weighted:
            if layer.weights not in rates:  # of a mixture, whose visits are those of its components together
                total = layer.expected_counts.sum()[None]
                rates[layer.weights], _ = _rates(self.state[layer.weights], total, lr)
        return rates, of_leaves

    @contextmanager
    def _averaged_counts(self, momentum: float) -> Iterator[None]:
        """Until it is left, weight * gradient is the average of the expected counts of the last steps."""
        if not momentum:
            yield
            return
        own = [layer.weights.grad for layer in self.weighted]
        try:
            for layer in self.weighted:
                kept, counts = self.state[layer.weights], layer.expected_counts
                share = begun(kept, "counts", counts, momentum)
                average = kept["counts"].lerp_(counts, 1 - momentum) / share
                layer.weights.grad = average.div_(layer.weights.clamp_min(WEIGHT_FLOOR))
            yield
        finally:
            for layer, gradient in zip(self.weighted, own, strict=True):
                layer.weights.grad = gradient

    def _move_sums(self, rates: dict[Tensor, Tensor], pseudocount: float) -> None:
        together: dict[tuple, list[Tensor]] = {}  # weights that are moved alike
        for layer in self.weighted:
            weights = layer.weights
            kernels = layer.kernels(weights)
            if kernels is None:
                alike = weights.shape[1:], layer.weight_dim, weights.dtype, weights.device, id(rates[weights])
                together.setdefault(alike, []).append(weights)
            else:
                kernels.move_weights(weights, rates[weights], layer.weight_dim, pseudocount, MIN_COUNT, WEIGHT_FLOOR)
        for (_, dim, *_), several in together.items():
            _move_together(several, rates[several[0]], dim, pseudocount)

    def _settings(self) -> tuple[float, float, float, float]:
        """lr, pseudocount, leaf_pseudocount and momentum of this step: schedulers and users change them."""
        group = self.param_groups[0]
        lr = as_number("lr", group["lr"], "within [0, 1]", lambda number: 0 <= number <= 1)
        pseudocount, of_leaves = (as_pseudocount(name, group[name]) for name in ("pseudocount", "leaf_pseudocount"))
        parts = [part for network in self.networks for part in network.leaves.parts]
        if of_leaves and not all("column" in self.state.get(part.phi, {}) for part in parts):
            raise ValueError(f"leaf_pseudocount={of_leaves} needs data when EM is made: the columns to shrink towards")
        momentum = as_momentum(group["momentum"])
        if momentum and any(part.family.joint for part in parts):
            raise ValueError(f"momentum={momentum} is not for joint leaves: {parts[0].family}")
        return lr, pseudocount, of_leaves, momentum

    def _follow(self) -> None:
        """Move what is kept to the parameters' type and device, after `model.double()` or `model.to(device)`."""
        for parameter, kept in self.state.items():
            kept.update({name: tensor.to(parameter) for name, tensor in kept.items()})


def as_momentum(value: object) -> float:
    return as_number("momentum", value, "within [0, 1)", lambda number: 0 <= number < 1)


def _top(network: Einet) -> list[SumLayer]:
    """The layers whose entries are the classes."""
    return [*network.levels[-1].einsums, *network.levels[-1].mixings]


def _rates(state: dict[str, Tensor], visits: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """The step of a network, and of each of its roots (C,), from their visits (C,). `state` keeps their average."""
    if "usual" not in state:
        state |= {"usual": torch.zeros_like(visits), "steps": visits.new_zeros(())}
    state["steps"] += 1
    average = state["usual"].lerp_(visits, LAST_STEP)
    usual = average / (1 - (1 - LAST_STEP) ** state["steps"])  # which began at 0

    def rate(now: Tensor, before: Tensor) -> Tensor:
        return torch.where(now > MIN_COUNT, lr * now / (lr * now + (1 - lr) * before), 0)  # unused, it stays

    return rate(visits.sum(), usual.sum()), rate(visits, usual.clamp_min(usual.mean()))


def check_movable(model: nn.Module) -> None:
    """Raise a `ValueError` where no parameter may be written to: made in inference mode, or all of them frozen."""
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError("parameters made in inference mode cannot be trained: copy.deepcopy the model outside of it")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("no parameter of the model requires a gradient: call model.requires_grad_() before training")


def _check_gradients(network: Einet) -> None:
    """Raise a `ValueError` unless all gradients are there, finite and of the right sign."""
    sums, parts = network.sum_layers(), network.leaves.parts
    if any(parametrize.is_parametrized(layer) for layer in (*sums, *parts)):
        raise ValueError("the model is parametrized for gradient training (see unconstrained): EM cannot move it")
    parameters = [*(layer.weights for layer in sums), *(part.phi for part in parts)]
    if not all(parameter.requires_grad for parameter in parameters):
        raise ValueError("some parameters do not require a gradient: EM moves all of a network, or none")
    gradients = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
    if len(gradients) < len(parameters):
        raise ValueError(NO_GRADIENT)
    # A NaN or an infinity anywhere shows at the root or at the leaves, so only those are checked.
    root = torch.cat([gradients[layer.weights].flatten() for layer in _top(network)])
    if root.is_meta or root.is_cuda and torch.cuda.is_current_stream_capturing():
        return  # no value is known yet; `fit` looks at the likelihood after every epoch
    # One pass finds both bounds, and a NaN anywhere makes them NaN.
    bounds = [float(end) for each in (root, *(gradients[part.phi] for part in parts)) for end in torch.aminmax(each)]
    if not all(map(math.isfinite, bounds)):
        raise ValueError("a gradient is not finite: some row has density 0 or infinity under the model")
    if bounds[0] < 0:
        raise ValueError("a weight's gradient is negative: EM ascends, call model(x).sum().backward() without a minus")


def leaf_uses(network: Einet) -> Tensor:
    """The expected counts of all leaf entries over the rows whose gradients have been accumulated: (L, K).

    A leaf entry is used as often as the weights above it (`SumLayer.input_uses`).

    Source: Section 3.5, the denominators of Eq. (7)
    """
    leaves = network.leaves
    if network.stack and network.stack.serves(leaves.parts[0].phi.detach()):
        return network.stack.leaf_uses()
    uses = leaves.parts[0].phi.new_zeros(leaves.num_nodes, leaves.num_entries)
    for level in network.levels:
        for layer, children in zip(level.einsums, level.children_of, strict=True):
            if children.at_leaves:
                uses += children.sums_at_leaves(layer.input_uses())
    return uses


def _move_together(several: list[Tensor], rate: Tensor, dim: int, pseudocount: float) -> None:
    """Move weights that differ in their numbers of nodes alone: as if they were a single layer's."""
    for weights in _batches(several):
        joined = weights[0]
        if len(weights) > 1:
            joined = torch.cat(weights)
            joined.grad = torch.cat([cast(Tensor, own.grad) for own in weights])
        _move_weights(joined, rate, dim, pseudocount, MIN_COUNT, WEIGHT_FLOOR)
        if len(weights) > 1:
            for own, moved in zip(weights, joined.split([len(own) for own in weights]), strict=True):
                own.copy_(moved)


def _batches(several: list[Tensor]) -> list[list[Tensor]]:
    """Neighbours that fit a CPU's cache together: of so few numbers, calling an operation costs more than its work."""
    batches, size = [], CACHE_NUMEL
    for weights in several:
        size += weights.numel()
        if size > CACHE_NUMEL:
            batches.append([])
            size = weights.numel()
        batches[-1].append(weights)
    return batches


def _move_weights(weights: Tensor, rate: Tensor, dim: int, pseudocount: float, fewest: float, floor: float) -> None:
    """The M-step of one layer, Eq. (8): the weights move by `rate` to their normalised expected counts."""
    gradient = cast(Tensor, weights.grad)
    for nodes in node_slices(len(weights), weights[0].numel(), weights):  # several passes, so in a CPU's cache
        old, counts = weights[nodes], weights[nodes] * gradient[nodes]
        if pseudocount:
            counts += pseudocount
        total = counts.sum(dim, keepdim=True)
        used = (total > fewest).to(total.dtype).mul_(rate)  # a node that nobody uses stays as it is
        old.lerp_(counts.div_(total.clamp_min_(fewest)), used).clamp_min_(floor)
