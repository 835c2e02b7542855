"""Learning: EM, whose expectation step is a backward pass, and the loop around it.

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

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from einet.families import ExponentialFamily
from einet.layers import CACHE, FamilyLeaves
from einet.network import Einet

# A weight below this is as good as 0; kept positive, it can grow again, and no product of densities dies of it.
WEIGHT_FLOOR = 1e-12
# Expected uses below this are none: dividing by them would return rounding errors.
FEWEST_USES = 1e-20


class EM(torch.optim.Optimizer):
    """Expectation-maximisation with step size `lr`, as a torch optimizer that ascends the log-likelihood.

        em = EM(model, lr=0.5)
        em.zero_grad(); model(x).sum().backward(); em.step()

    model        an `Einet`, or any module made of some
    lr           the step from the old parameters to the batch's, in (0, 1]; 1 is classical EM, for which gradients of all
                 batches are accumulated before one `step`. A `torch.optim.lr_scheduler` may drive it.
    pseudocount  at least 0: uses of every weight, and agreeable uses of every leaf entry, on top of the expected ones

    `step` raises `ValueError`, before it changes anything, where there is no gradient, or one that is not finite or of the
    wrong sign, or where weights are parametrized for gradient training.

    Paper: Section 3.5, Eq. (6) to (9)
    Chapter: book/07_em
    """

    def __init__(self, model: nn.Module, lr: float = 1.0, pseudocount: float = 0.0):
        if not 0 < lr <= 1:
            raise ValueError(f"lr must be within (0, 1], got {lr}")
        if not 0 <= pseudocount < float("inf"):
            raise ValueError(f"pseudocount must be finite and at least 0, got {pseudocount}")
        self.networks = [module for module in model.modules() if isinstance(module, Einet)]
        if not self.networks:
            raise ValueError(f"EM needs an Einet, got {type(model).__name__}")
        super().__init__(model.parameters(), {"lr": lr, "pseudocount": pseudocount})

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
        for network in self.networks:
            uses = leaf_uses(network)
            for layer in network.sum_layers():
                _move_weights(layer.weights, layer.weight_dim, lr, pseudocount)
            for part in network.leaves.parts:
                _move_leaves(part, uses, lr, pseudocount)
        return value


def _check_gradients(network: Einet) -> None:
    if any(parametrize.is_parametrized(module) for module in network.modules()):
        raise ValueError("the model is parametrized for gradient training (see unconstrained): EM cannot move it")
    if any(parameter.grad is None for parameter in network.parameters()):
        raise ValueError("there is no gradient: call model(x).sum().backward() before step()")
    # What is wrong anywhere in a circuit is wrong at its root and its leaves.
    root = torch.cat([layer.weights.grad.flatten() for layer in (*network.levels[-1].einsums, *network.levels[-1].mixings)])
    if not all(gradient.isfinite().all() for gradient in (root, *(part.phi.grad for part in network.leaves.parts))):
        raise ValueError("a gradient is not finite: some row has density 0 or infinity under the model")
    if (root < 0).any():
        raise ValueError("a weight's gradient is negative: EM ascends, so call model(x).sum().backward(), without a minus")


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
                    uses.index_add_(0, side.rows[side.at_leaves], uses_of_side[side.at_leaves])
    return uses


def _move_weights(weights: Tensor, dim: int, lr: float, pseudocount: float) -> None:
    for nodes in _slices(weights):
        old, counts = weights[nodes], weights[nodes] * weights.grad[nodes]
        counts += pseudocount
        total = counts.sum(dim, keepdim=True)
        rate = torch.where(total > FEWEST_USES, lr, 0.0)  # a node that nobody uses stays as it is
        old.mul_(1 - rate).add_(counts.mul_(rate / total.clamp_min(FEWEST_USES))).clamp_min_(WEIGHT_FLOOR)


def _slices(weights: Tensor) -> Iterator[slice]:
    """Nodes in portions that fit the cache, since the M-step passes over them several times."""
    step = max(1, CACHE // weights[0].numel())
    return (slice(start, start + step) for start in range(0, len(weights), step))


def _move_leaves(part: FamilyLeaves, uses: Tensor, lr: float, pseudocount: float) -> None:
    family, phi = part.family, part.phi.double()
    of_pairs = [uses[rows].repeat_interleave(variables.shape[1], 0) for rows, _, variables in part.groups()]
    total = torch.cat(of_pairs)[:, None] + pseudocount  # (P, 1, K)
    direction = family.natural_gradient(phi, part.phi.grad.double()) / total.double().clamp_min(FEWEST_USES)
    direction = torch.where(total > FEWEST_USES, direction, 0)
    part.phi.copy_(family.project(family.step(phi, direction, lr)))


# Gradient training, to compare with


def unconstrained(model: Einet) -> Einet:
    """Reparametrize `model`, in place, so that any gradient optimizer may train it: softmax weights, free leaves.

    Afterwards `model.parameters()` are unconstrained and `torch.optim.Adam` applies; `constrained(model)` goes back to plain
    probabilities and expectation parameters. Returns the model.

    Paper: Section 3.5
    Chapter: book/07_em
    """
    for layer in model.sum_layers():
        parametrize.register_parametrization(layer, "weights", _Softmax(layer.weight_dim))
    for part in model.leaves.parts:
        parametrize.register_parametrization(part, "phi", _Constrain(part.family))
    return model


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


# The loop


@dataclass
class History:
    """What `fit` saw, an entry an epoch: mean log-densities of the rows in nats, seconds, and step sizes.

    `train` is measured while the parameters move, on each batch before its step; `valid` after the epoch. `best_epoch` is the
    index of the parameters that the model holds at the end.

    Paper: Section 3.5
    Chapter: book/07_em
    """

    train: list[float] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    best_epoch: int = -1


def fit(
    model: Einet,
    x: Tensor,
    observed: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    valid: Tensor | tuple | None = None,
    epochs: int = 10,
    batch_size: int | None = 100,
    lr: float = 0.5,
    pseudocount: float = 0.0,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    patience: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train `model` on the rows of `x`, in place, by stochastic EM unless another `optimizer` is given.

    observed    bool, as in `Einet.forward`: what is missing is integrated out
    labels      (B,) classes, for a model with several: each row then trains its own root
    valid       rows to validate on, as (x,), (x, observed) or (x, observed, labels) or just x; the best epoch's parameters are kept
    batch_size  rows a step, in a new random order every epoch; None is full-batch: one step an epoch
    lr, pseudocount   of `EM`, where no `optimizer` is given
    scheduler   of the `optimizer`, stepped after every epoch
    patience    stop after this many epochs without a better validation; None never stops early
    seed        of the order of the rows; the global random state is left alone

    Paper: Section 3.5
    Chapter: book/07_em
    """
    if epochs < 1 or (batch_size is not None and batch_size < 1) or (patience is not None and patience < 1):
        raise ValueError(f"epochs, batch_size and patience must be at least 1, got {epochs}, {batch_size}, {patience}")
    if (labels is None) != (model.num_classes == 1):
        raise ValueError(f"labels must be given for a model with several classes and no other, this one has {model.num_classes}")
    optimizer = EM(model, lr=lr, pseudocount=pseudocount) if optimizer is None else optimizer
    train = _Rows(model, x, observed, labels)
    held_out = None if valid is None else _Rows(model, *(valid if isinstance(valid, tuple) else (valid,)))

    history, best, best_state = History(), -float("inf"), None
    epochs_shown = _progress_bar(epochs, progress)
    for epoch in epochs_shown:
        start = time.perf_counter()
        history.lr.append(optimizer.param_groups[0]["lr"])
        history.train.append(_epoch(model, train, optimizer, batch_size, seed + epoch))
        if scheduler is not None:
            scheduler.step()
        if held_out is not None:
            history.valid.append(held_out.mean_log_density(model))
        history.seconds.append(time.perf_counter() - start)

        score = history.valid[-1] if held_out is not None else float(epoch)
        if score > best:
            best, history.best_epoch = score, epoch
            if held_out is not None:
                best_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if hasattr(epochs_shown, "set_postfix"):
            epochs_shown.set_postfix(train=f"{history.train[-1]:.3f}", **({"valid": f"{history.valid[-1]:.3f}"} if held_out else {}))
        if patience is not None and epoch - history.best_epoch >= patience:
            break
    if best_state is not None:
        model.load_state_dict(best_state)
    return history


def log_density(model: Einet, x: Tensor, observed: Tensor | None = None, batch_size: int = 1000) -> Tensor:
    """`model(x, observed)` without gradients, in batches: for data that is too large for one call. Nats, (B,).

    Paper: Section 2
    Chapter: book/07_em
    """
    rows = _Rows(model, x, observed)
    with torch.no_grad():
        return torch.cat([rows.log_density(model, slice(i, i + batch_size)) for i in range(0, len(x), batch_size)])


class _Rows:
    """A data set, checked once: rows, their masks and their labels."""

    def __init__(self, model: Einet, x: Tensor, observed: Tensor | None = None, labels: Tensor | None = None):
        model.as_input(x, observed)
        self.x, self.observed, self.labels = x, observed, labels
        if labels is not None and (labels.shape != x.shape[:1] or labels.min() < 0 or labels.max() >= model.num_classes):
            raise ValueError(f"labels must be {len(x)} numbers from 0 to {model.num_classes - 1}, got {labels}")

    def log_density(self, model: Einet, rows) -> Tensor:
        device = model.leaves.parts[0].phi.device
        observed = self.observed
        if observed is not None:
            each_row = observed.dim() > 1 and len(observed) == len(self.x) and observed.shape != self.x.shape[1:]
            observed = (observed[rows] if each_row else observed).to(device)
        log_density = model(self.x[rows].to(device), observed, check=False)
        if self.labels is None:
            return log_density
        return log_density.gather(1, self.labels[rows, None].to(device))[:, 0]

    def mean_log_density(self, model: Einet, batch_size: int = 1000) -> float:
        with torch.no_grad():
            batches = [slice(i, i + batch_size) for i in range(0, len(self.x), batch_size)]
            return torch.cat([self.log_density(model, rows) for rows in batches]).double().mean().item()


def _epoch(model: Einet, rows: _Rows, optimizer: torch.optim.Optimizer, batch_size: int | None, seed: int) -> float:
    """One pass over the rows; the mean log-density as it was seen on the way."""
    order = torch.randperm(len(rows.x), generator=torch.Generator().manual_seed(seed))
    sign = 1 if isinstance(optimizer, EM) else -1
    total = 0.0
    optimizer.zero_grad()
    for batch in order.split(batch_size or 500):
        value = rows.log_density(model, batch).double().sum()
        (value * sign / (1 if sign > 0 else len(batch))).backward()
        total += value.item()
        if batch_size is not None:
            optimizer.step()
            optimizer.zero_grad()
    if batch_size is None:
        optimizer.step()
    return total / len(order)


def _progress_bar(epochs: int, progress: bool):
    if not progress:
        return range(epochs)
    from tqdm.auto import tqdm  # here, so that `import einet` needs torch alone

    return tqdm(range(epochs), unit="epoch")
