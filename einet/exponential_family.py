"""Exponential families: the densities at the leaves.

    log p(x) = log h(x) + T(x) . theta - A(theta)

A family says what its sufficient statistics T, base measure h and log-normaliser A are, and how natural parameters
theta follow from expectation parameters phi = E[T(x)], the ones a model keeps, because EM is linear in them. Everything
is elementwise: statistics and parameters come with one leading axis of length |T|, the rest is the caller's.

    phi, theta, T(x)   (|T|, ...)       A, log h, mean, variance, samples   (...)

Paper: Section 3.4
Chapter: book/06_leaves
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import ClassVar

import torch
from torch import Tensor

# The methods that make up a density.
DENSITY = {"statistics", "log_base", "natural", "log_normalizer", "log_density"}


@dataclass(frozen=True)
class ExponentialFamily:
    """What all families share. `channels` values (the colours of a pixel, say) make up a variable, independently.

    Paper: Section 3.4, Eq. (7) and (9)
    Chapter: book/06_leaves
    """

    channels: int = field(default=1, kw_only=True)

    num_statistics: ClassVar[int] = 1
    # Does T(x) . theta - A(theta) cancel so much that float32 is not enough?
    cancels: ClassVar[bool] = False
    # Is T(x) the indicator of one of |T| values? Then the product T(x) . theta is a look-up.
    indicator: ClassVar[bool] = False
    # Is a x + b of this family wherever x is? Then the columns of a table may be standardised.
    location_scale: ClassVar[bool] = False
    # How many values there are, 0, 1, ...; None where not finitely many. A property, where it depends on a field.
    num_values: ClassVar[int | None] = None
    # A value of the support: what the leaf layer takes in place of a missing one, whose statistics might be infinite.
    placeholder: ClassVar[float] = 0.0

    def __init_subclass__(cls) -> None:
        """What a family says of its own density is not inherited by one with another density: it may be wrong there."""
        super().__init_subclass__()
        for name in ("entropy", "location_scale"):
            above = takewhile(lambda owner, name=name: name not in vars(owner), cls.__mro__)
            if any(DENSITY & vars(owner).keys() for owner in above):
                setattr(cls, name, vars(ExponentialFamily)[name])

    def __post_init__(self) -> None:
        if not isinstance(self.channels, int) or self.channels < 1:
            raise ValueError(f"channels must be an integer of at least 1, got {self.channels!r}")

    # The density

    def check(self, x: Tensor) -> None:
        """`ValueError`, with the value and the limit, where an entry of `x` is outside the family's support."""
        raise NotImplementedError

    def statistics(self, x: Tensor) -> Tensor:
        """T(x)."""
        return x[None]

    def log_base(self, x: Tensor) -> Tensor | None:
        """log h(x), in nats; None where it is 0 everywhere."""
        return None

    def natural(self, phi: Tensor) -> Tensor:
        """theta(phi)."""
        raise NotImplementedError

    def log_normalizer(self, theta: Tensor) -> Tensor:
        """A(theta), whose gradient is E[T(x)]."""
        raise NotImplementedError

    def log_density(self, x: Tensor, phi: Tensor) -> Tensor:
        """log p(x), in nats, as the formula has it: the plain way, beside the grouped product of `leaves.LeafLayer`."""
        theta = self.natural(phi)
        base = self.log_base(x)
        return (self.statistics(x) * theta).sum(0) - self.log_normalizer(theta) + (0 if base is None else base)

    def log_probabilities(self, phi: Tensor) -> Tensor:
        """log P(x = v) of the values v = 0, 1, ..., in nats, where these are finitely many: (num_values, ...)."""
        value = torch.arange(self.num_values, dtype=phi.dtype, device=phi.device)
        return self.log_density(value.view(-1, *[1] * (phi.dim() - 1)), phi[:, None])

    # Learning

    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Random phi (|T|, *shape) to start EM from: in float32, whatever torch's default is."""
        raise NotImplementedError

    def expecting(self, statistics: Tensor) -> Tensor:
        """The phi whose E[T(x)] is `statistics`, or the nearest allowed: where a step of EM from anywhere ends."""
        anywhere = self.project(torch.ones_like(statistics))
        gradient = self.score(anywhere, statistics, torch.ones_like(statistics[0]))
        return self.project(self.step(anywhere, self.natural_gradient(anywhere, gradient)))

    def score(self, phi: Tensor, statistics: Tensor, uses: Tensor) -> Tensor:
        """d/dphi of sum_n u_n log p(x_n), where `statistics` (|T|, ...) are sum_n u_n T(x_n), and `uses` sum_n u_n,
        which may come with fewer axes, or with axes of length 1, for several densities that share it.

        By autograd here; a family whose leaves should be fast writes it out.
        """
        with torch.enable_grad():
            phi = phi.detach().requires_grad_()
            theta = self.natural(phi)
            total = (statistics * theta).sum() - (uses * self.log_normalizer(theta)).sum()
            return torch.autograd.grad(total, phi)[0]

    def natural_gradient(self, phi: Tensor, gradient: Tensor) -> Tensor:
        """From d/dphi to d/dtheta: the product Cov[T(x)] . gradient.

        d log p/dtheta = T(x) - E[T(x)], so what a batch's gradient becomes here is its expected statistics, centred.
        """
        raise NotImplementedError

    def step(self, phi: Tensor, direction: Tensor) -> Tensor:
        """The phi whose E[T(x)] is `direction` away from the present one."""
        return phi + direction

    def project(self, phi: Tensor) -> Tensor:
        """The nearest allowed phi: floors on probabilities, bounds on variances."""
        raise NotImplementedError

    def unconstrain(self, phi: Tensor) -> Tensor:
        """Coordinates in which every real vector is allowed, for gradient training: logarithms, of positive numbers."""
        return torch.log(phi)

    def constrain(self, raw: Tensor) -> Tensor:
        """The inverse of `unconstrain`."""
        return self.project(torch.exp(raw))

    # What a density is asked

    def sample(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One draw for each parameter vector."""
        raise NotImplementedError

    def mean(self, phi: Tensor) -> Tensor:
        """E[x]."""
        return phi[0]

    def variance(self, phi: Tensor) -> Tensor:
        """Var[x]."""
        raise NotImplementedError

    def mode(self, phi: Tensor) -> Tensor:
        """The most probable value."""
        raise NotImplementedError

    def entropy(self, phi: Tensor) -> Tensor:
        """H = -E[log p(x)], in nats: a sum over finitely many values, or A(theta) - E[T(x)] . theta where h(x) = 1.

        `ValueError` where neither holds: such a family has an entropy if it overrides this method.
        """
        if self.num_values is not None:
            return torch.special.entr(self.log_probabilities(phi).exp()).sum(0)
        if self.log_base(torch.ones_like(phi[0])) is not None:
            raise ValueError(f"{self} has no `entropy` of its own, and where log h(x) is not 0 there is no other way")
        with torch.enable_grad():
            theta = self.natural(phi.detach()).detach().requires_grad_()
            log_normalizer = self.log_normalizer(theta)
            (expected,) = torch.autograd.grad(log_normalizer.sum(), theta)
        return (log_normalizer - (expected * theta).sum(0)).detach()


def refuse(outside: Tensor, x: Tensor, rule: str) -> None:
    """`ValueError` with the rule and the first value `outside`."""
    if outside.any():
        raise ValueError(f"{rule}, got {x[outside][0].item()}")


def check_bounds(**bounds: float) -> None:
    """`ValueError` unless 0 < each bound < the next, and the first is finite; names and values are in the text."""
    values = list(bounds.values())
    if not (0 < values[0] < float("inf")) or any(not low < high for low, high in pairwise(values)):
        raise ValueError(f"need 0 < {' < '.join(bounds)}, got {' and '.join(map(str, values))}")
