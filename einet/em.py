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

Paper: Section 3.5
Chapter: book/07_em
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from einet.exponential_family import ExponentialFamily
from einet.layers import WEIGHT_FLOOR, EinsumLayer, SumLayer, Weighted
from einet.leaves import FamilyLeaves
from einet.network import Einet
from einet.scratch import node_slices

# Expected uses below this are none: dividing by them would return rounding errors.
FEWEST_USES = 1e-20
# How much of the usual number of a root's visits is the last step's: a moving average over some twenty steps.
LAST_STEP = 0.05
NO_GRADIENT = "there is no gradient: call model(x).sum().backward() before step()"


class EM(torch.optim.Optimizer):
    """Expectation-maximisation with step size `lr`, as a torch optimizer that ascends the log-likelihood.

        em = EM(model, lr=0.5)
        em.zero_grad(); model(x).sum().backward(); em.step()

    model        an `Einet`, or any module made of some, such as a `Mixture` or a `DistributedDataParallel`
    lr           the step from the old parameters to the batch's, in (0, 1]; 1 is classical EM, for which gradients of
                 all batches are accumulated before one `step`. A `torch.optim.lr_scheduler` may drive it. Below 1, a
                 step with fewer rows than usual moves less; so does the root of a class with fewer rows than usual, or
                 than classes have on average.
    pseudocount  at least 0: so many uses more of every weight, and of every leaf entry by rows that are as it expects,
                 in each step
    leaf_pseudocount   at least 0: so many uses more of every leaf entry, in each step, by rows whose variables are each
                 distributed as in the data: shrinkage towards the columns' own distributions
    data         x, or (x, observed): where those distributions are taken from; needed for a `leaf_pseudocount`

    `step` raises `ValueError`, before it changes anything, where there is no gradient, or one that is not finite or of
    the wrong sign, or where weights are parametrized for gradient training. While a CUDA graph is recorded gradients
    have no values yet, so these are not looked at: `fit(..., cuda_graph=True)` then watches the likelihood.

    Paper: Section 3.5, Eq. (6) to (9)
    Chapter: book/07_em
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1.0,
        pseudocount: float = 0.0,
        leaf_pseudocount: float = 0.0,
        data: Tensor | tuple[Tensor, Tensor | None] | None = None,
    ):
        if not 0 < lr <= 1:
            raise ValueError(f"lr must be within (0, 1], got {lr}")
        for name, value in (("pseudocount", pseudocount), ("leaf_pseudocount", leaf_pseudocount)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be finite and at least 0, got {value}")
        if leaf_pseudocount and data is None:
            raise ValueError(f"leaf_pseudocount={leaf_pseudocount} needs data: the columns to shrink towards")
        self.networks = [module for module in model.modules() if isinstance(module, Einet)]
        self.weighted = [module for module in model.modules() if isinstance(module, Weighted)]
        if not self.networks:
            raise ValueError(f"EM needs an Einet, got {type(model).__name__}")
        check_movable(model)
        super().__init__(
            model.parameters(), {"lr": lr, "pseudocount": pseudocount, "leaf_pseudocount": leaf_pseudocount}
        )
        if leaf_pseudocount:
            x, observed = data if isinstance(data, tuple) else (data, None)
            for network in self.networks:
                for part in network.leaves.parts:
                    self.state[part.phi]["column"] = column_parameters(part, *network.as_input(x, observed))

    def __getstate__(self) -> dict:
        """All of it, for copies and pickles: torch's own would leave out which networks it moves."""
        return {**super().__getstate__(), "networks": self.networks, "weighted": self.weighted}

    def __setstate__(self, state: dict) -> None:
        """Also of einet 0.1.0, which had no `leaf_pseudocount`."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("leaf_pseudocount", 0.0)

    @torch.no_grad()
    def step(self, closure=None):
        """The M-step, from the gradients of `model(x).sum()`."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        group = self.param_groups[0]
        lr, pseudocount = group["lr"], group["pseudocount"]
        if not 0 <= lr <= 1:
            raise ValueError(f"lr must be within [0, 1], got {lr}")
        for network in self.networks:
            _check_gradients(network)
        if any(layer.weights.grad is None for layer in self.weighted):
            raise ValueError(NO_GRADIENT)
        uses = [leaf_uses(network) for network in self.networks]  # of the old weights
        rates = {}  # of the layers, by their weights
        for network, uses_of_leaves in zip(self.networks, uses, strict=True):
            rate, of_roots = _rates(self.state[network.sum_layers()[-1].weights], _visits(network), lr)
            rates |= {layer.weights: rate for layer in network.sum_layers()}
            rates |= {layer.weights: _by_entry(of_roots, layer) for layer in _top(network)}
            for part in network.leaves.parts:
                total = torch.cat([uses_of_leaves[rows] for rows, _, _ in part.groups()]) + pseudocount
                column = self.state[part.phi].get("column")
                _move_leaves(part, total, rate, column, group["leaf_pseudocount"])
        for layer in self.weighted:
            if layer.weights not in rates:  # of a mixture, whose visits are those of its components together
                total = (layer.weights * layer.weights.grad).sum()[None]
                rates[layer.weights], _ = _rates(self.state[layer.weights], total, lr)
            kernels = layer.kernels(layer.weights) if isinstance(layer, EinsumLayer) else None
            move = _move_weights if kernels is None else kernels.move_weights
            move(layer.weights, rates[layer.weights], layer.weight_dim, pseudocount, FEWEST_USES, WEIGHT_FLOOR)
        return value


def _top(network: Einet) -> list[SumLayer]:
    """The layers whose entries are the classes."""
    return [*network.levels[-1].einsums, *network.levels[-1].mixings]


def _visits(network: Einet) -> Tensor:
    """How many rows of each class passed through the root: (C,)."""
    root = _top(network)[-1]
    return (root.weights * root.weights.grad).movedim(3 - root.weight_dim, 0).flatten(1).sum(1)


def _by_entry(of_roots: Tensor, layer: SumLayer) -> Tensor:
    """The rates of classes (C,), in the shape of what the layer's weights sum to."""
    return of_roots[:, None] if layer.weight_dim == 2 else of_roots


def _rates(state: dict[str, Tensor], visits: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """The step of a network, and of each of its roots (C,), from their visits (C,), of which the average is told."""
    if "usual" not in state:
        state |= {"usual": torch.zeros_like(visits), "steps": visits.new_zeros(())}
    state["steps"] += 1
    average = state["usual"].lerp_(visits, LAST_STEP)
    usual = average / (1 - (1 - LAST_STEP) ** state["steps"])  # which began at 0

    def rate(now: Tensor, before: Tensor) -> Tensor:
        return torch.where(now > FEWEST_USES, lr * now / (lr * now + (1 - lr) * before), 0)  # unused, it stays

    return rate(visits.sum(), usual.sum()), rate(visits, usual.clamp_min(usual.mean()))


def check_movable(model: nn.Module) -> None:
    """`ValueError` for parameters that were born in inference mode: nothing may write to them outside."""
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError("parameters made in inference mode cannot be trained: copy.deepcopy the model outside of it")


def _check_gradients(network: Einet) -> None:
    sums, parts = network.sum_layers(), network.leaves.parts
    if any(parametrize.is_parametrized(layer) for layer in (*sums, *parts)):
        raise ValueError("the model is parametrized for gradient training (see unconstrained): EM cannot move it")
    parameters = [*(layer.weights for layer in sums), *(part.phi for part in parts)]
    if any(parameter.grad is None for parameter in parameters):
        raise ValueError(NO_GRADIENT)
    # What is wrong anywhere in a circuit is wrong at its root and its leaves.
    top = network.levels[-1]
    root = torch.cat([layer.weights.grad.flatten() for layer in (*top.einsums, *top.mixings)])
    if root.is_meta or root.is_cuda and torch.cuda.is_current_stream_capturing():
        return  # no value is known yet; `fit` looks at the likelihood after every epoch
    # One pass finds both bounds, and a NaN anywhere makes them NaN.
    bounds = [[float(bound) for bound in torch.aminmax(each)] for each in (root, *(part.phi.grad for part in parts))]
    if not all(math.isfinite(bound) for pair in bounds for bound in pair):
        raise ValueError("a gradient is not finite: some row has density 0 or infinity under the model")
    least_of_root, _ = bounds[0]
    if least_of_root < 0:
        raise ValueError("a weight's gradient is negative: EM ascends, call model(x).sum().backward() without a minus")


def leaf_uses(network: Einet) -> Tensor:
    """How often each leaf entry is used, in expectation, over the rows whose gradients have been accumulated: (L, K).

    A leaf entry is used as often as the weights above it, which is the weights times their gradients (`input_uses`).

    Paper: Section 3.5, the denominators of Eq. (7)
    Chapter: book/07_em
    """
    leaves = network.leaves
    uses = leaves.parts[0].phi.new_zeros(leaves.num_nodes, leaves.num_entries)
    for level in network.levels:
        for layer, children in zip(level.einsums, level.children_of, strict=True):
            if children.at_leaves:
                uses += children.sums_at_leaves(layer.input_uses())
    return uses


def _move_weights(weights: Tensor, rate: Tensor, dim: int, pseudocount: float, fewest: float, floor: float) -> None:
    for nodes in _slices(weights):
        old, counts = weights[nodes], weights[nodes] * weights.grad[nodes]
        if pseudocount:
            counts += pseudocount
        total = counts.sum(dim, keepdim=True)
        used = (total > fewest).to(total.dtype).mul_(rate)  # a node that nobody uses stays as it is
        old.lerp_(counts.div_(total.clamp_min_(fewest)), used).clamp_min_(floor)


def _slices(parameter: Tensor, dim: int = 0) -> list[slice]:
    """Portions along `dim` that fit a CPU's cache, since the M-step passes over them several times."""
    size = parameter.shape[dim]
    return node_slices(size, parameter.numel() // size, parameter)


def _move_leaves(
    part: FamilyLeaves, uses: Tensor, rate: Tensor, column: Tensor | None, leaf_pseudocount: float
) -> None:
    """`uses` (L, K) of the regions that have variables of this family, in the order of its groups."""
    family, uses = part.family, uses + leaf_pseudocount
    rate = torch.where(uses > FEWEST_USES, rate / uses.clamp_min(FEWEST_USES), 0)  # unused, it stays
    groups = [(len(rows), variables.shape[1]) for rows, _, variables in part.groups()]
    of_regions = rate.split([count for count, _ in groups])
    of_pairs = [own.repeat_interleave(size, 0) for own, (_, size) in zip(of_regions, groups, strict=True)]
    rate = torch.cat(of_pairs)[:, None]  # (P, 1, K)
    for pairs in _slices(part.phi, dim=1):
        phi = part.phi[:, pairs]
        direction = family.natural_gradient(phi, part.phi.grad[:, pairs])
        if leaf_pseudocount:
            direction += leaf_pseudocount * _towards(family, column[:, pairs], phi)
        phi.copy_(family.project(family.step(phi, direction * rate[pairs])))


def _towards(family: ExponentialFamily, target: Tensor, phi: Tensor) -> Tensor:
    """E[T(x)] at `target` less that at phi, about phi: what a row that is distributed as `target` adds to a step."""
    exact = phi.double()
    with torch.enable_grad():
        theta = family.natural(target.double()).requires_grad_()
        (statistics,) = torch.autograd.grad(family.log_normalizer(theta).sum(), theta)  # E[T(x)] at `target`
    gradient = family.score(exact, statistics.expand_as(exact), exact.new_ones(1))
    return family.natural_gradient(exact, gradient).to(phi.dtype)


@torch.no_grad()
def column_parameters(part: FamilyLeaves, x: Tensor, observed: Tensor | None) -> Tensor:
    """phi (|T|, P, C, 1) of the density that each variable of a leaf has by itself in x (D, C, B).

    For a variable that is never observed, the mean of its leaf's entries as they are.

    Paper: not in it
    Chapter: book/07_em
    """
    mean, count = part.column_statistics(x, observed)
    place = torch.searchsorted(part.variables, part.pairs)
    own = part.family.expecting(mean[:, place])  # (T, P, C)
    return torch.where(count[place] > 0, own, part.phi.double().mean(-1))[..., None].to(part.phi.dtype)


# Gradient training, to compare with


@torch.inference_mode(False)  # parameters that are born there could not be trained
def unconstrained(model: Einet) -> Einet:
    """Reparametrize `model`, in place, so that any gradient optimizer may train it: softmax weights, free leaves.

    Afterwards `model.parameters()` are unconstrained and `torch.optim.Adam` applies; `constrained(model)` goes back to
    plain probabilities and expectation parameters. Returns the model. `ValueError` where it is unconstrained already.

    Paper: Section 3.5
    Chapter: book/07_em
    """
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise ValueError("the model is parametrized for gradient training already")
    for layer in model.sum_layers():
        parametrize.register_parametrization(layer, "weights", _Softmax(layer.weight_dim))
    for part in model.leaves.parts:
        parametrize.register_parametrization(part, "phi", _Constrain(part.family))
    return model


@torch.inference_mode(False)  # parameters that are born there could not be trained
def constrained(model: Einet) -> Einet:
    """Undo `unconstrained`, keeping the density. Returns the model.

    Paper: Section 3.5
    Chapter: book/07_em
    """
    for layer in model.sum_layers():
        parametrize.remove_parametrizations(layer, "weights")
    for part in model.leaves.parts:
        parametrize.remove_parametrizations(part, "phi")
    return model


class _Softmax(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, raw: Tensor) -> Tensor:
        return torch.softmax(raw, self.dim)

    def right_inverse(self, weights: Tensor) -> Tensor:
        return torch.log(weights.clamp_min(WEIGHT_FLOOR))


class _Constrain(nn.Module):
    def __init__(self, family: ExponentialFamily):
        super().__init__()
        self.family = family

    def forward(self, raw: Tensor) -> Tensor:
        return self.family.constrain(raw)

    def right_inverse(self, phi: Tensor) -> Tensor:
        return self.family.unconstrain(phi)
