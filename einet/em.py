"""EM, whose expectation step is a backward pass.

The gradient of log P with respect to a sum weight, times the weight, is the number of times the weight is used, in
expectation (Eq. 6). The gradient with respect to a leaf's natural parameters theta is the sum of its statistics T(x),
weighted by how much each row uses the leaf, less what the leaf expects of them already. So the E-step is
`model(x).sum().backward()`, and `EM.step()` is the M-step:

    w       <- (1 - lr) w + lr normalise(w * grad_w + pseudocount)
    E[T(x)] <- E[T(x)] + lr (d log P / d theta) / (expected uses of the leaf entry + pseudocount)

The second line is Eq. (7) and (9), written so that a variable that a row lacks, or an entry that nobody uses, keeps its
parameters. It is a natural gradient step too: d/dtheta is the plain gradient d/dphi times the inverse Fisher matrix.

Paper: Section 3.5
Chapter: book/07_em
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from einet.exponential_family import ExponentialFamily
from einet.layers import EinsumLayer, node_slices
from einet.leaves import FamilyLeaves
from einet.network import Einet

# A weight below this is as good as 0; kept positive, it can grow again, and no product of densities dies of it.
WEIGHT_FLOOR = 1e-12
# Expected uses below this are none: dividing by them would return rounding errors.
FEWEST_USES = 1e-20


class EM(torch.optim.Optimizer):
    """Expectation-maximisation with step size `lr`, as a torch optimizer that ascends the log-likelihood.

        em = EM(model, lr=0.5)
        em.zero_grad(); model(x).sum().backward(); em.step()

    model        an `Einet`, or any module made of some, such as a `Mixture` or a `DistributedDataParallel`
    lr           the step from the old parameters to the batch's, in (0, 1]; 1 is classical EM, for which gradients of
                 all batches are accumulated before one `step`. A `torch.optim.lr_scheduler` may drive it.
    pseudocount  at least 0: so many uses more of every weight, and of every leaf entry by rows that are as it expects

    `step` raises `ValueError`, before it changes anything, where there is no gradient, or one that is not finite or of
    the wrong sign, or where weights are parametrized for gradient training. While a CUDA graph is recorded gradients
    have no values yet, so these are not looked at: `fit(..., cuda_graph=True)` then watches the likelihood.

    Paper: Section 3.5, Eq. (6) to (9)
    Chapter: book/07_em
    """

    def __init__(self, model: nn.Module, lr: float = 1.0, pseudocount: float = 0.0):
        if not 0 < lr <= 1:
            raise ValueError(f"lr must be within (0, 1], got {lr}")
        if not 0 <= pseudocount < float("inf"):
            raise ValueError(f"pseudocount must be finite and at least 0, got {pseudocount}")
        self.networks = [module for module in model.modules() if isinstance(module, Einet)]
        self.weighted = [module for module in model.modules() if hasattr(module, "weight_dim")]
        if not self.networks:
            raise ValueError(f"EM needs an Einet, got {type(model).__name__}")
        check_movable(model)
        super().__init__(model.parameters(), {"lr": lr, "pseudocount": pseudocount})

    def __getstate__(self) -> dict:
        """All of it, for copies and pickles: torch's own would leave out which networks it moves."""
        return {**super().__getstate__(), "networks": self.networks, "weighted": self.weighted}

    @torch.no_grad()
    def step(self, closure=None):
        """The M-step, from the gradients of `model(x).sum()`."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        lr, pseudocount = (self.param_groups[0][name] for name in ("lr", "pseudocount"))
        if not 0 <= lr <= 1:
            raise ValueError(f"lr must be within [0, 1], got {lr}")
        for network in self.networks:
            _check_gradients(network)
        uses = [leaf_uses(network) for network in self.networks]  # of the old weights
        for layer in self.weighted:
            kernels = layer.kernels(layer.weights) if isinstance(layer, EinsumLayer) else None
            move = _move_weights if kernels is None else kernels.move_weights
            move(layer.weights, layer.weight_dim, lr, pseudocount, FEWEST_USES, WEIGHT_FLOOR)
        for network, uses_of_leaves in zip(self.networks, uses, strict=True):
            for part in network.leaves.parts:
                _move_leaves(part, uses_of_leaves, lr, pseudocount)
        return value


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
        raise ValueError("there is no gradient: call model(x).sum().backward() before step()")
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

    A leaf entry (i) is used as often as the weights above it: n_i = sum over parents, k and j of W_kij dlogP/dW_kij.

    Paper: Section 3.5, the denominators of Eq. (7)
    Chapter: book/07_em
    """
    leaves = network.leaves
    uses = leaves.parts[0].phi.new_zeros(leaves.num_nodes, leaves.num_entries)
    for level in network.levels:
        for layer, sides in zip(level.einsums, level.children_of, strict=True):
            if not any(len(side.at_leaves) for side in sides):
                continue
            pairs = layer.weights.new_empty(len(layer.weights), layer.num_left, layer.num_right)
            for nodes in _slices(layer.weights):
                counts = layer.weights[nodes] * layer.weights.grad[nodes]
                torch.sum(counts.unflatten(2, pairs.shape[1:]), 1, out=pairs[nodes])
            entries = [pairs.sum(2), pairs.sum(1)]
            for side, uses_of_side in zip(sides, entries if len(sides) == 2 else [torch.cat(entries)], strict=True):
                if len(side.at_leaves):
                    padded = torch.cat((uses_of_side, torch.zeros_like(uses_of_side[:1])))
                    uses += padded[side.leaf_users].sum(1)  # rather than `index_add_`, whose order on a GPU is random
    return uses


def _move_weights(weights: Tensor, dim: int, lr: float, pseudocount: float, fewest: float, floor: float) -> None:
    for nodes in _slices(weights):
        old, counts = weights[nodes], weights[nodes] * weights.grad[nodes]
        if pseudocount:
            counts += pseudocount
        total = counts.sum(dim, keepdim=True)
        rate = (total > fewest).to(total.dtype).mul_(lr)  # a node that nobody uses stays as it is
        old.lerp_(counts.div_(total.clamp_min_(fewest)), rate).clamp_min_(floor)


def _slices(parameter: Tensor, dim: int = 0) -> list[slice]:
    """Portions along `dim` that fit a CPU's cache, since the M-step passes over them several times."""
    size = parameter.shape[dim]
    return node_slices(size, parameter.numel() // size, parameter)


def _move_leaves(part: FamilyLeaves, uses: Tensor, lr: float, pseudocount: float) -> None:
    family = part.family
    of_pairs = [uses[rows].repeat_interleave(variables.shape[1], 0) for rows, _, variables in part.groups()]
    total = torch.cat(of_pairs)[:, None] + pseudocount  # (P, 1, K)
    rate = torch.where(total > FEWEST_USES, lr / total.clamp_min(FEWEST_USES), 0)  # unused, it stays
    for pairs in _slices(part.phi, dim=1):
        phi = part.phi[:, pairs]
        direction = family.natural_gradient(phi, part.phi.grad[:, pairs]) * rate[pairs]
        phi.copy_(family.project(family.step(phi, direction)))


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
