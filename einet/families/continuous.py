"""Densities over real numbers: `Normal`, `MultivariateNormal`, `LogNormal`, `Exponential` and `Gamma`.

Source: Section 3.4
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from einet.family import ExponentialFamily, LeafFamily, check_bounds, raise_where
from einet.intervals import draw_normal, log_gamma_between, log_normal_between, uniform

# In place of a positive number below the range of float32: 0 would be outside the support.
SMALLEST_POSITIVE = torch.finfo(torch.float32).tiny
# exp of more is not finite in float64.
LARGEST_EXPONENT = 700.0


@dataclass(frozen=True)
class Normal(ExponentialFamily):
    """The normal density over the reals: T(x) = (x, x^2), theta = (mu, -1/2) / sigma^2.

    The model keeps phi = (mu, sigma^2), not E[T(x)] = (mu, mu^2 + sigma^2): a variance of 1e-6 would drown in the
    rounding of mu^2. The centred statistics (x - mu, (x - mu)^2) have the covariance diag(sigma^2, 2 sigma^4).

    Args:
        min_variance: lower bound on the variance, positive.
        max_variance: upper bound on the variance.

    Source: Section 3.4
    """

    min_variance: float = 1e-6
    max_variance: float = math.inf

    num_statistics: ClassVar[int] = 2
    cancels: ClassVar[bool] = True
    location_scale: ClassVar[bool] = True
    atomless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(min_variance=self.min_variance, max_variance=self.max_variance)

    def check(self, x: Tensor) -> None:
        raise_where(~torch.isfinite(x), x, "a normal variable must be finite")

    def statistics(self, x: Tensor) -> Tensor:
        return torch.stack((x, x * x))

    def natural(self, phi: Tensor) -> Tensor:
        mean, variance = phi
        precision = variance.reciprocal()
        return torch.stack((mean * precision, -0.5 * precision))

    def log_normalizer(self, theta: Tensor) -> Tensor:
        first, second = theta
        return -0.25 * (first * first / second) - 0.5 * torch.log(second * (-1 / math.pi))

    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        variance = min(max(1.0, self.min_variance), self.max_variance)
        mean = torch.randn(shape, generator=generator, dtype=torch.float32)
        return torch.stack((mean, torch.full_like(mean, variance)))

    def score(self, phi: Tensor, statistics: Tensor, counts: Tensor) -> Tensor:
        (mean, variance), (first, second) = phi, statistics
        shift = torch.addcmul(first, counts, mean, value=-1)  # sum_n c_n (x_n - mean)
        squares = torch.addcmul(second, mean, first + shift, value=-1)  # sum_n c_n (x_n - mean)^2
        spread = squares.addcmul_(counts, variance, value=-1)
        return torch.stack((shift.div_(variance), spread.div_(variance).div_(2 * variance)))

    def natural_gradient(self, phi: Tensor, gradient: Tensor) -> Tensor:
        variance = phi[1]
        return torch.stack((variance * gradient[0], 2 * variance * (variance * gradient[1])))

    def step(self, phi: Tensor, direction: Tensor) -> Tensor:
        # E[x] and E[x^2] are linear in the step, so the variance loses the square of the mean's.
        shift, spread = direction
        return torch.stack((phi[0] + shift, torch.addcmul(phi[1] + spread, shift, shift, value=-1)))

    def project(self, phi: Tensor) -> Tensor:
        return torch.stack((phi[0], phi[1].clamp(self.min_variance, self.max_variance)))

    def unconstrain(self, phi: Tensor) -> Tensor:
        mean, variance = phi
        if math.isinf(self.max_variance):
            return torch.stack((mean, torch.log(variance)))
        share = torch.log(variance / self.min_variance) / math.log(self.max_variance / self.min_variance)
        return torch.stack((mean, torch.logit(share, eps=1e-4)))

    def constrain(self, raw: Tensor) -> Tensor:
        if math.isinf(self.max_variance):
            return torch.stack((raw[0], torch.exp(raw[1]).clamp_min(self.min_variance)))
        variance = self.min_variance * (self.max_variance / self.min_variance) ** torch.sigmoid(raw[1])
        return torch.stack((raw[0], variance))

    def sample(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean, variance = phi
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + variance.sqrt() * noise

    def log_probability(self, low: Tensor, high: Tensor, phi: Tensor) -> Tensor:
        mean, deviation = phi[0], phi[1].sqrt()
        return log_normal_between((low - mean) / deviation, (high - mean) / deviation, (high - low) / deviation)

    def draw_between(self, low: Tensor, high: Tensor, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean, deviation = phi[0], phi[1].sqrt()
        z = draw_normal((low - mean) / deviation, (high - mean) / deviation, generator)
        return within((mean + deviation * z).to(phi.dtype), low, high)

    def exponential_mean(self, phi: Tensor, rate: float) -> Tensor:
        mean, variance = phi
        return torch.exp((rate * mean + rate**2 / 2 * variance).clamp_max(LARGEST_EXPONENT))

    def variance(self, phi: Tensor) -> Tensor:
        return phi[1]

    def mode(self, phi: Tensor) -> Tensor:
        return phi[0]

    def entropy(self, phi: Tensor) -> Tensor:
        return 0.5 * torch.log(2 * math.pi * math.e * phi[1])  # exact where the general formula cancels


@dataclass(frozen=True)
class MultivariateNormal(LeafFamily):
    """The normal density of all variables of this family in a leaf region together, with a full covariance.

    Over a graph of one region the network is a Gaussian mixture. Missing values are integrated out exactly, whichever
    they are. The model keeps the mean and the Cholesky factor of the covariance (`leaves.joint_normal`).

    Args:
        min_variance: lower bound on the smallest eigenvalue of every covariance, positive.

    Raises:
        ValueError: more than one channel, or a bound that is not positive and finite.

    Source: not in the paper; Section 3.4 for exponential families
    """

    min_variance: float = 1e-6

    joint: ClassVar[bool] = True
    cancels: ClassVar[bool] = True
    location_scale: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels != 1:
            raise ValueError(f"channels of a MultivariateNormal must be 1, got {self.channels}")
        check_bounds(min_variance=self.min_variance)

    def check(self, x: Tensor) -> None:
        self.alone.check(x)

    @property
    def alone(self) -> Normal:
        return Normal(min_variance=self.min_variance)


class Positive(ExponentialFamily):
    """Base of densities over the positive numbers. 0, where log x is not defined, is outside the support."""

    placeholder: ClassVar[float] = 1.0

    def check(self, x: Tensor) -> None:
        raise_where(~((x > 0) & torch.isfinite(x)), x, f"a {type(self).__name__} variable must be positive and finite")


@dataclass(frozen=True)
class LogNormal(Positive, Normal):
    """Positive numbers whose logarithm is normal, such as incomes and durations: T(x) = (log x, log^2 x), h(x) = 1 / x.

    phi = (mu, sigma^2) and the bounds of `Normal` are those of the logarithm.

    Source: not in the paper; Section 3.4 for exponential families
    """

    atomless: ClassVar[bool] = True

    def exponential_mean(self, phi: Tensor, rate: float) -> Tensor:
        return Positive.exponential_mean(self, phi, rate)

    def statistics(self, x: Tensor) -> Tensor:
        return super().statistics(torch.log(x))

    def log_base(self, x: Tensor) -> Tensor | None:
        return -torch.log(x)

    def sample(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.exp(super().sample(phi, generator)).clamp_min(SMALLEST_POSITIVE)

    def log_probability(self, low: Tensor, high: Tensor, phi: Tensor) -> Tensor:
        mean, deviation, low, high = phi[0], phi[1].sqrt(), low.clamp_min(0), high.clamp_min(0)
        first, last = ((torch.log(end) - mean) / deviation for end in (low, high))
        log_probability = log_normal_between(first, last, torch.log1p((high - low) / low) / deviation)
        return torch.where(high > low, log_probability, -math.inf)

    def draw_between(self, low: Tensor, high: Tensor, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        first, last = (torch.log(end.clamp_min(0)) for end in (low, high))
        drawn = torch.exp(super().draw_between(first, last, phi, generator)).clamp_min(SMALLEST_POSITIVE)
        return within(drawn, low, high)

    def mean(self, phi: Tensor) -> Tensor:
        return torch.exp(phi[0] + phi[1] / 2)

    def variance(self, phi: Tensor) -> Tensor:
        return torch.expm1(phi[1]) * self.mean(phi) ** 2

    def mode(self, phi: Tensor) -> Tensor:
        return torch.exp(phi[0] - phi[1]).clamp_min(SMALLEST_POSITIVE)

    def entropy(self, phi: Tensor) -> Tensor:
        return phi[0] + super().entropy(phi)


@dataclass(frozen=True)
class Exponential(ExponentialFamily):
    """Waiting times, at least 0: T(x) = x, phi = E[x], theta = -1 / phi, A(theta) = -log(-theta).

    Args:
        min_mean: lower bound on the mean, positive.

    Source: not in the paper; Section 3.4 for exponential families
    """

    min_mean: float = 1e-6

    cancels: ClassVar[bool] = True
    atomless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(min_mean=self.min_mean)

    def check(self, x: Tensor) -> None:
        raise_where(~((x >= 0) & torch.isfinite(x)), x, "an Exponential variable must be finite and at least 0")

    def natural(self, phi: Tensor) -> Tensor:
        return -1 / phi

    def log_normalizer(self, theta: Tensor) -> Tensor:
        return -torch.log(-theta[0])

    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.project(torch.randn((1, *shape), generator=generator, dtype=torch.float32).exp())

    def score(self, phi: Tensor, statistics: Tensor, counts: Tensor) -> Tensor:
        return (statistics / phi - counts) / phi

    def natural_gradient(self, phi: Tensor, gradient: Tensor) -> Tensor:
        return phi * (phi * gradient)  # phi^2 may be infinite, or 0, where this is not

    def project(self, phi: Tensor) -> Tensor:
        return phi.clamp_min(self.min_mean)

    def sample(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return phi[0] * torch.empty_like(phi[0]).exponential_(generator=generator)

    def log_probability(self, low: Tensor, high: Tensor, phi: Tensor) -> Tensor:
        low = low.clamp_min(0)
        log_probability = -low / phi[0] + torch.log(-torch.expm1((low - high) / phi[0]))
        return torch.where(high > low, log_probability, -math.inf)

    def draw_between(self, low: Tensor, high: Tensor, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        low = low.clamp_min(0)
        share = uniform(low + high + phi[0], generator)
        rest = torch.log1p(share * torch.expm1((low - high) / phi[0]))
        return within((low - phi[0] * rest).to(phi.dtype), low, high)

    def variance(self, phi: Tensor) -> Tensor:
        return phi[0] ** 2

    def mode(self, phi: Tensor) -> Tensor:
        return torch.zeros_like(phi[0])


@dataclass(frozen=True)
class Gamma(Positive):
    """Positive numbers with a skew, such as amounts of rain: T(x) = (x, log x), theta = (-shape / mean, shape - 1).

    The model keeps phi = (mean, shape). A direction is one of the uncorrelated statistics (x, log x - x / mean). A
    shape below 1 has no mode; `mode` is then `SMALLEST_POSITIVE`. Samples are those of torch.distributions, which takes
    no generator.

    Args:
        min_shape: lower bound on the shape, positive.
        max_shape: upper bound on the shape.

    Source: not in the paper; Section 3.4 for exponential families
    """

    min_shape: float = 0.01
    max_shape: float = 1e6
    num_statistics: ClassVar[int] = 2
    cancels: ClassVar[bool] = True
    atomless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(min_shape=self.min_shape, max_shape=self.max_shape)

    def statistics(self, x: Tensor) -> Tensor:
        return torch.stack((x, torch.log(x)))

    def natural(self, phi: Tensor) -> Tensor:
        return torch.stack((-phi[1] / phi[0], phi[1] - 1))

    def log_normalizer(self, theta: Tensor) -> Tensor:
        return torch.lgamma(theta[1] + 1) - (theta[1] + 1) * torch.log(-theta[0])

    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        mean = torch.randn(shape, generator=generator, dtype=torch.float32).exp()
        return self.project(torch.stack((mean, torch.ones_like(mean))))

    def natural_gradient(self, phi: Tensor, gradient: Tensor) -> Tensor:
        return torch.stack((phi[0] * (phi[0] / phi[1] * gradient[0]), gradient[1]))

    def step(self, phi: Tensor, direction: Tensor) -> Tensor:
        (mean, shape), (shift, log_shift) = phi.double(), direction.double()
        gap = gap_of(shape) + torch.log1p(shift / mean) - shift / mean - log_shift
        return torch.stack((mean + shift, shape_of(gap, self.min_shape, self.max_shape))).to(phi.dtype)

    def project(self, phi: Tensor) -> Tensor:
        return torch.stack((phi[0].clamp_min(SMALLEST_POSITIVE), phi[1].clamp(self.min_shape, self.max_shape)))

    def sample(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        unit = torch._standard_gamma(phi[1].contiguous(), generator)  # pyright: ignore[reportPrivateImportUsage]
        return (unit * (phi[0] / phi[1])).clamp_min(SMALLEST_POSITIVE)

    def log_probability(self, low: Tensor, high: Tensor, phi: Tensor) -> Tensor:
        low, high = (end.double().clamp_min(0) * (phi[1].double() / phi[0].double()) for end in (low, high))
        return torch.where(high > low, log_gamma_between(phi[1].double(), low, high), -math.inf).to(phi.dtype)

    def draw_between(self, low: Tensor, high: Tensor, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return within(super().draw_between(low, high, phi, generator).clamp_min(SMALLEST_POSITIVE), low, high)

    def variance(self, phi: Tensor) -> Tensor:
        return phi[0] * (phi[0] / phi[1])

    def mode(self, phi: Tensor) -> Tensor:
        return (phi[0] * (1 - 1 / phi[1])).clamp_min(SMALLEST_POSITIVE)


def within(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x, whose rounding may not take it out of [low, high]."""
    return torch.minimum(torch.maximum(x, low), high)


def gap_of(shape: Tensor) -> Tensor:
    """log E[x] - E[log x] of a gamma density, about 1 / (2 shape)."""
    return torch.log(shape) - torch.digamma(shape)


def shape_of(gap: Tensor, low: float, high: float) -> Tensor:
    """The inverse of `gap_of`, within [low, high], by Newton's method in 1 / shape.

    The first guess is right to a few percent, so four steps reach the rounding of float64.

    Source: Minka (2002), "Estimating a Gamma distribution"
    """
    widest, narrowest = gap_of(torch.tensor([low, high], dtype=gap.dtype, device=gap.device))
    gap = gap.clamp(narrowest, widest)
    shape = (3 - gap + torch.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)
    for _ in range(4):
        slope = shape - shape**2 * torch.polygamma(1, shape)
        shape = 1 / (1 / shape + (gap_of(shape) - gap) / slope)
    return shape
