"""Families of densities over real numbers: `Normal`, `LogNormal`, `Exponential` and `Gamma`.

Paper: Section 3.4
Chapter: book/06_leaves
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from einet.exponential_family import ExponentialFamily, check_bounds, refuse

# Stands in for a positive number that a float cannot hold: 0 would be outside the support. A float32, too, holds it.
SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Normal(ExponentialFamily):
    """The normal density over the reals, its variance kept within [min_variance, max_variance].

    T(x) = (x, x^2), theta = (mu, -1/2) / sigma^2. The expectation parameters are kept about the mean,
    phi = (E[x], E[(x - E[x])^2]) = (mu, sigma^2): the same information as E[T(x)] = (mu, mu^2 + sigma^2), but a
    variance of 1e-6 would drown in the rounding of mu^2. These statistics have the covariance diag(sigma^2, 2 sigma^4).

    Paper: Section 3.4
    Chapter: book/06_leaves
    """

    min_variance: float = 1e-6
    max_variance: float = math.inf

    num_statistics: ClassVar[int] = 2
    cancels: ClassVar[bool] = True
    location_scale: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(min_variance=self.min_variance, max_variance=self.max_variance)

    def check(self, x):
        refuse(~torch.isfinite(x), x, "a normal variable must be finite")

    def statistics(self, x):
        return torch.stack((x, x * x))

    def natural(self, phi):
        mean, variance = phi
        precision = variance.reciprocal()
        return torch.stack((mean * precision, -0.5 * precision))

    def log_normalizer(self, theta):
        first, second = theta
        return -0.25 * (first * first / second) - 0.5 * torch.log(second * (-1 / math.pi))

    def initial(self, shape, generator):
        variance = min(max(1.0, self.min_variance), self.max_variance)
        mean = torch.randn(shape, generator=generator, dtype=torch.float32)
        return torch.stack((mean, torch.full_like(mean, variance)))

    def score(self, phi, statistics, uses):
        (mean, variance), (first, second) = phi, statistics
        shift = torch.addcmul(first, uses, mean, value=-1)  # sum_n u_n (x_n - mean)
        squares = torch.addcmul(second, mean, first + shift, value=-1)  # sum_n u_n (x_n - mean)^2
        spread = squares.addcmul_(uses, variance, value=-1)
        return torch.stack((shift.div_(variance), spread.div_(variance).div_(2 * variance)))

    def natural_gradient(self, phi, gradient):
        variance = phi[1]
        return torch.stack((variance * gradient[0], 2 * variance * (variance * gradient[1])))

    def step(self, phi, direction):
        # E[x] and E[x^2] move straight; the variance between them loses the square of the mean's step.
        shift, spread = direction
        return torch.stack((phi[0] + shift, torch.addcmul(phi[1] + spread, shift, shift, value=-1)))

    def project(self, phi):
        return torch.stack((phi[0], phi[1].clamp(self.min_variance, self.max_variance)))

    def unconstrain(self, phi):
        mean, variance = phi
        if math.isinf(self.max_variance):
            return torch.stack((mean, torch.log(variance)))
        share = torch.log(variance / self.min_variance) / math.log(self.max_variance / self.min_variance)
        return torch.stack((mean, torch.logit(share, eps=1e-4)))

    def constrain(self, raw):
        if math.isinf(self.max_variance):
            return torch.stack((raw[0], torch.exp(raw[1]).clamp_min(self.min_variance)))
        variance = self.min_variance * (self.max_variance / self.min_variance) ** torch.sigmoid(raw[1])
        return torch.stack((raw[0], variance))

    def sample(self, phi, generator=None):
        mean, variance = phi
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + variance.sqrt() * noise

    def variance(self, phi):
        return phi[1]

    def mode(self, phi):
        return phi[0]

    def entropy(self, phi):
        return 0.5 * torch.log(2 * math.pi * math.e * phi[1])  # exact where the general formula cancels


class Positive(ExponentialFamily):
    """What densities over the positive numbers share: 0, where log x has no value, is outside their support."""

    placeholder: ClassVar[float] = 1.0

    def check(self, x):
        refuse(~((x > 0) & torch.isfinite(x)), x, f"a {type(self).__name__} variable must be positive and finite")


@dataclass(frozen=True)
class LogNormal(Positive, Normal):
    """Positive numbers whose logarithm is normal: incomes, durations, whatever varies by factors.

    T(x) = (log x, log^2 x), h(x) = 1 / x. The parameters, phi = (mu, sigma^2), and their bounds are the logarithm's.

    Paper: not in it; Section 3.4 for exponential families
    Chapter: book/06_leaves
    """

    def statistics(self, x):
        return super().statistics(torch.log(x))

    def log_base(self, x):
        return -torch.log(x)

    def sample(self, phi, generator=None):
        return torch.exp(super().sample(phi, generator)).clamp_min(SMALLEST)

    def mean(self, phi):
        return torch.exp(phi[0] + phi[1] / 2)

    def variance(self, phi):
        return torch.expm1(phi[1]) * self.mean(phi) ** 2

    def mode(self, phi):
        return torch.exp(phi[0] - phi[1]).clamp_min(SMALLEST)

    def entropy(self, phi):
        return phi[0] + super().entropy(phi)


@dataclass(frozen=True)
class Exponential(ExponentialFamily):
    """Numbers of at least 0, the smaller the likelier, such as waiting times: T(x) = x, phi = E[x] >= `min_mean`.

    theta = -1 / phi, A(theta) = -log(-theta).

    Paper: not in it; Section 3.4 for exponential families
    Chapter: book/06_leaves
    """

    min_mean: float = 1e-6

    cancels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(min_mean=self.min_mean)

    def check(self, x):
        refuse(~((x >= 0) & torch.isfinite(x)), x, "an Exponential variable must be finite and at least 0")

    def natural(self, phi):
        return -1 / phi

    def log_normalizer(self, theta):
        return -torch.log(-theta[0])

    def initial(self, shape, generator):
        return self.project(torch.randn((1, *shape), generator=generator, dtype=torch.float32).exp())

    def score(self, phi, statistics, uses):
        return (statistics / phi - uses) / phi

    def natural_gradient(self, phi, gradient):
        return phi * (phi * gradient)  # phi^2 may be infinite, or 0, where this is not

    def project(self, phi):
        return phi.clamp_min(self.min_mean)

    def sample(self, phi, generator=None):
        return phi[0] * torch.empty_like(phi[0]).exponential_(generator=generator)

    def variance(self, phi):
        return phi[0] ** 2

    def mode(self, phi):
        return torch.zeros_like(phi[0])


@dataclass(frozen=True)
class Gamma(Positive):
    """Positive numbers with a skew, such as amounts of rain: T(x) = (x, log x), shape in [min_shape, max_shape].

    The parameters kept are phi = (mean, shape), theta = (-shape / mean, shape - 1), and a direction is one of
    (x, log x - x / mean), uncorrelated statistics. A shape below 1 has no mode: `SMALLEST` stands in.

    Paper: not in it; Section 3.4 for exponential families
    Chapter: book/06_leaves
    """

    min_shape: float = 0.01
    max_shape: float = 1e6
    num_statistics: ClassVar[int] = 2
    cancels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(min_shape=self.min_shape, max_shape=self.max_shape)

    def statistics(self, x):
        return torch.stack((x, torch.log(x)))

    def natural(self, phi):
        return torch.stack((-phi[1] / phi[0], phi[1] - 1))

    def log_normalizer(self, theta):
        return torch.lgamma(theta[1] + 1) - (theta[1] + 1) * torch.log(-theta[0])

    def initial(self, shape, generator):
        mean = torch.randn(shape, generator=generator, dtype=torch.float32).exp()
        return self.project(torch.stack((mean, torch.ones_like(mean))))

    def natural_gradient(self, phi, gradient):
        return torch.stack((phi[0] * (phi[0] / phi[1] * gradient[0]), gradient[1]))

    def step(self, phi, direction):
        (mean, shape), (shift, log_shift) = phi.double(), direction.double()
        gap = gap_of(shape) + torch.log1p(shift / mean) - shift / mean - log_shift
        return torch.stack((mean + shift, shape_of(gap, self.min_shape, self.max_shape))).to(phi.dtype)

    def project(self, phi):
        return torch.stack((phi[0].clamp_min(SMALLEST), phi[1].clamp(self.min_shape, self.max_shape)))

    def sample(self, phi, generator=None):  # as torch.distributions does, which knows no generator
        return (torch._standard_gamma(phi[1].contiguous(), generator) * (phi[0] / phi[1])).clamp_min(SMALLEST)

    def variance(self, phi):
        return phi[0] * (phi[0] / phi[1])

    def mode(self, phi):
        return (phi[0] * (1 - 1 / phi[1])).clamp_min(SMALLEST)


def gap_of(shape: Tensor) -> Tensor:
    """log E[x] - E[log x] of a gamma density, about 1 / (2 shape)."""
    return torch.log(shape) - torch.digamma(shape)


def shape_of(gap: Tensor, low: float, high: float) -> Tensor:
    """The inverse of `gap_of`, within [low, high], by Newton's method for 1 / shape (Minka 2002, "Estimating a Gamma
    distribution"); his first guess is right to a few percent, so that four steps reach the rounding of float64."""
    widest, narrowest = gap_of(torch.tensor([low, high], dtype=gap.dtype, device=gap.device))
    gap = gap.clamp(narrowest, widest)
    shape = (3 - gap + torch.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)
    for _ in range(4):
        slope = shape - shape**2 * torch.polygamma(1, shape)
        shape = 1 / (1 / shape + (gap_of(shape) - gap) / slope)
    return shape
