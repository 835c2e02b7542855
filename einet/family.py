"""Exponential families: the densities at the leaves.

    log p(x) = log h(x) + T(x) . theta - A(theta)

A family gives its sufficient statistics T, base measure h, log-normaliser A, and the natural parameters theta as a
function of the expectation parameters phi = E[T(x)]. A model keeps phi, because EM is linear in it. All methods are
elementwise: statistics and parameters have one leading axis of length |T|, the other axes are the caller's.

    phi, theta, T(x)   (|T|, ...)       A, log h, mean, variance, samples   (...)

Source: Section 3.4
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import ClassVar, cast

import torch
from torch import Tensor

from einet.graph.regions import check_integers
from einet.intervals import draw_among, log_total, smallest, uniform

DENSITY_METHODS = {"statistics", "log_base", "natural", "log_normalizer", "log_density"}


@dataclass(frozen=True)
class LeafFamily:
    """What a model and its queries ask of any family of leaves, as a frozen dataclass.

    Args:
        channels: independent values that make up one variable, such as the colours of a pixel; at least 1.

    Source: Section 3.4
    """

    channels: int = field(default=1, kw_only=True)

    # The variables of one leaf region depend on each other; else a leaf is a product over its variables.
    joint: ClassVar[bool] = False
    # T(x) . theta - A(theta) cancels so much that it needs float64.
    cancels: ClassVar[bool] = False
    # a x + b is of this family wherever x is, so the columns of a table may be standardised.
    location_scale: ClassVar[bool] = False
    # The number of values 0, 1, ...; None where they are not finitely many.
    num_values: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        check_integers(channels=self.channels)

    def check(self, x: Tensor) -> None:
        """Raise a `ValueError` with value and limit where an entry of `x` is outside the support."""
        raise NotImplementedError

    @property
    def alone(self) -> ExponentialFamily:
        """The family that each variable by itself is of."""
        raise NotImplementedError


@dataclass(frozen=True)
class ExponentialFamily(LeafFamily):
    """The contract of a family whose variables are independent within a leaf, as a frozen dataclass.

    Args:
        channels: independent values that make up one variable, such as the colours of a pixel; at least 1.

    Source: Section 3.4, Eq. (7) and (9)
    """

    # |T|. A property where it depends on a field, as `num_values` may be.
    num_statistics: ClassVar[int] = 1
    # T(x) is the one-hot vector of one of |T| values, so T(x) . theta is a look-up.
    indicator: ClassVar[bool] = False
    # No value has a probability of its own, so that there may be atoms beside the density.
    atomless: ClassVar[bool] = False
    # A value of the support. The leaf layer puts it in place of a missing one, whose statistics might be infinite.
    placeholder: ClassVar[float] = 0.0

    def __init_subclass__(cls) -> None:
        """A subclass with another density does not inherit what its parent says of its own: it may be wrong there."""
        super().__init_subclass__()
        for name in ("entropy", "location_scale", "atomless", "log_probability", "draw_between"):
            above = takewhile(lambda owner, name=name: name not in vars(owner), cls.__mro__)
            if any(DENSITY_METHODS & vars(owner).keys() for owner in above):
                setattr(cls, name, getattr(ExponentialFamily, name))

    @property
    def alone(self) -> ExponentialFamily:
        return self

    # The density

    def statistics(self, x: Tensor) -> Tensor:
        """T(x)."""
        return x[None]

    def log_base(self, x: Tensor) -> Tensor | None:
        """log h(x) in nats; None where it is 0 everywhere."""
        return None

    def natural(self, phi: Tensor) -> Tensor:
        """theta(phi)."""
        raise NotImplementedError

    def log_normalizer(self, theta: Tensor) -> Tensor:
        """A(theta). Its gradient is E[T(x)]."""
        raise NotImplementedError

    def log_density(self, x: Tensor, phi: Tensor) -> Tensor:
        """log p(x) in nats, by the formula: `leaves.LeafLayer` computes the same as grouped products."""
        theta = self.natural(phi)
        base = self.log_base(x)
        return (self.statistics(x) * theta).sum(0) - self.log_normalizer(theta) + (0 if base is None else base)

    def log_probabilities(self, phi: Tensor) -> Tensor:
        """log P(x = v) in nats for v = 0, 1, ... of a family with finitely many values: (num_values, ...)."""
        value = torch.arange(cast(int, self.num_values), dtype=phi.dtype, device=phi.device)
        return self.log_density(value.view(-1, *[1] * (phi.dim() - 1)), phi[:, None])

    def allowed(self, low: Tensor, high: Tensor) -> Tensor:
        """Which of finitely many values lie within [low, high]: (num_values, ...)."""
        value = torch.arange(cast(int, self.num_values), dtype=low.dtype, device=low.device)
        value = value.view(-1, *[1] * max(low.dim(), high.dim()))
        return (value >= low) & (value <= high)

    def log_probability(self, low: Tensor, high: Tensor, phi: Tensor) -> Tensor:
        """log P(low <= x <= high) in nats, of the closed interval; -inf where it holds no value, as of low > high.

        Both ends may be infinite, and both tails keep their digits: P(x >= 40) of a standard normal variable is
        e^-804.6.

        Args:
            low: broadcasts against phi[0].
            high: as `low`.
            phi: (|T|, ...).

        Raises:
            ValueError: the family has infinitely many values, and no distribution function of its own.
        """
        if self.num_values is None:
            raise ValueError(f"{self} has no `log_probability` of its own, so that of an interval is not known")
        low, high, phi = broadcast_ends(low, high, phi)
        return log_total(self.log_probabilities(phi)[..., None], self.allowed(low, high)[..., None])[..., 0, 0]

    # Learning

    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Random phi (|T|, *shape) to start EM from, in float32 whatever torch's default is."""
        raise NotImplementedError

    def expected(self, phi: Tensor) -> Tensor:
        """E[T(x)], the gradient of A, in float64: the inverse of `expecting`."""
        with torch.enable_grad():
            theta = self.natural(phi.detach().double()).detach().requires_grad_()
            return torch.autograd.grad(self.log_normalizer(theta).sum(), theta)[0]

    def expecting(self, statistics: Tensor) -> Tensor:
        """The phi whose E[T(x)] is `statistics`, or the nearest allowed: the end of an EM step from anywhere."""
        anywhere = self.project(torch.ones_like(statistics))
        gradient = self.score(anywhere, statistics, torch.ones_like(statistics[0]))
        return self.project(self.step(anywhere, self.natural_gradient(anywhere, gradient)))

    def score(self, phi: Tensor, statistics: Tensor, counts: Tensor) -> Tensor:
        """Gradient with respect to phi of sum_n c_n log p(x_n), by autograd unless a family writes it out.

        Args:
            phi: (|T|, ...).
            statistics: sum_n c_n T(x_n), (|T|, ...).
            counts: sum_n c_n. It broadcasts against phi[0]: several densities may share it.
        """
        with torch.enable_grad():
            phi = phi.detach().requires_grad_()
            theta = self.natural(phi)
            total = (statistics * theta).sum() - (counts * self.log_normalizer(theta)).sum()
            return torch.autograd.grad(total, phi)[0]

    def natural_gradient(self, phi: Tensor, gradient: Tensor) -> Tensor:
        """From d/dphi to d/dtheta: the product Cov[T(x)] . gradient.

        d log p / d theta = T(x) - E[T(x)], so a batch's gradient becomes its expected statistics, centred.
        """
        raise NotImplementedError

    def towards(self, target: Tensor, phi: Tensor) -> Tensor:
        """The direction, for `step`, of a row that is distributed as `target`, which broadcasts against `phi`."""
        exact = phi.double()
        gradient = self.score(exact, self.expected(target).expand_as(exact), exact.new_ones(1))
        return self.natural_gradient(exact, gradient).to(phi.dtype)

    def step(self, phi: Tensor, direction: Tensor) -> Tensor:
        """The phi whose E[T(x)] is that of the present one plus `direction`."""
        return phi + direction

    def project(self, phi: Tensor) -> Tensor:
        """The nearest allowed phi: floors on probabilities, bounds on variances."""
        raise NotImplementedError

    def unconstrain(self, phi: Tensor) -> Tensor:
        """Coordinates for gradient training, in which every real vector is allowed: here log phi."""
        return torch.log(phi)

    def constrain(self, raw: Tensor) -> Tensor:
        """The inverse of `unconstrain`."""
        return self.project(torch.exp(raw))

    # What a density is asked

    def sample(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One draw for each parameter vector."""
        raise NotImplementedError

    def draw_between(self, low: Tensor, high: Tensor, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One draw within [low, high] for each parameter vector, where `log_probability` is more than -inf.

        The distribution function is inverted at a uniform number, to the last bit.
        """
        low, high, phi = broadcast_ends(low, high, phi)
        if self.num_values is not None:
            return draw_among(self.log_probabilities(phi), self.allowed(low, high), generator)
        target = torch.log(uniform(low, generator)) + self.log_probability(low, high, phi)
        return smallest(lambda at: self.log_probability(low, at, phi) >= target, low, high).to(phi.dtype)

    def mean(self, phi: Tensor) -> Tensor:
        """E[x]."""
        return phi[0]

    def exponential_mean(self, phi: Tensor, rate: float) -> Tensor:
        """E[exp(rate x)], the mean of what x is the logarithm of; NaN where a family does not say."""
        return torch.full_like(phi[0], torch.nan)

    def variance(self, phi: Tensor) -> Tensor:
        """Var[x]."""
        raise NotImplementedError

    def mode(self, phi: Tensor) -> Tensor:
        """The most probable value."""
        raise NotImplementedError

    def entropy(self, phi: Tensor) -> Tensor:
        """H = -E[log p(x)] in nats: a sum over finitely many values, or A(theta) - E[T(x)] . theta where h(x) = 1.

        Raises:
            ValueError: neither holds. Such a family overrides this method if it has an entropy.
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

    def max_entropy(self, variance: Tensor) -> Tensor:
        """A bound in nats on the entropy of any mixture of densities of the family that has this variance.

        It is the entropy of a normal density. An integer plus uniform noise on [-1/2, 1/2] is a real variable of the
        same entropy, and of 1/12 more variance.
        """
        return 0.5 * torch.log(2 * math.pi * math.e * (variance if self.location_scale else variance + 1 / 12))


def broadcast_ends(low: Tensor, high: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ends and the parameters in one shape, beside the axis of statistics."""
    shape = torch.broadcast_shapes(low.shape, high.shape, phi.shape[1:])
    phi = phi.view(len(phi), *[1] * (len(shape) - phi.dim() + 1), *phi.shape[1:])
    return low.expand(shape), high.expand(shape), phi.expand(-1, *shape)


class OutsideError(ValueError):
    """Values that a rule does not allow, and which they are: `outside`, in the shape of what was checked."""

    def __init__(self, message: str, outside: Tensor):
        super().__init__(message)
        self.outside = outside


def raise_where(outside: Tensor, x: Tensor, rule: str) -> None:
    """Raise an `OutsideError` with the rule and the first value `outside`."""
    if outside.any():
        raise OutsideError(f"{rule}, got {x[outside][0].item()}", outside)


def check_bounds(**bounds: float) -> None:
    """Raise a `ValueError` unless 0 < first < second < ... and the first is finite."""
    values = list(bounds.values())
    if not (0 < values[0] < float("inf")) or any(not low < high for low, high in pairwise(values)):
        raise ValueError(f"need 0 < {' < '.join(bounds)}, got {' and '.join(map(str, values))}")
