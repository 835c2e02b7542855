"""Families of densities over whole numbers: `Binomial`, `Bernoulli`, `Categorical`, `Poisson` and `Geometric`.

Source: Section 3.4
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from einet.family import ExponentialFamily, check_bounds, raise_where
from einet.graph.regions import check_integers
from einet.intervals import log_between, log_gamma_above, log_gamma_below, uniform

# The entropy of a Poisson variable is a sum over this many values up to this rate, and an asymptotic series above it.
MAX_SUMMED_RATE, NUM_SUMMED_VALUES = 100.0, 260
# Coefficients of 1 / rate, 1 / rate^2, ...: Evans and Boersma (1988).
ENTROPY_SERIES = (1 / 12, 1 / 24, 19 / 360, 9 / 80, 863 / 2520, 1375 / 1008)


@dataclass(frozen=True)
class Binomial(ExponentialFamily):
    """Successes in `total` trials: T(x) = x, phi = total * p, theta = log(p / (1 - p)), A = total log(1 + e^theta).

    Args:
        total: number of trials, at least 1.
        floor: p stays within [floor, 1 - floor].

    Source: Section 3.4 and 4.2
    """

    total: int = 255
    floor: float = 1e-5

    cancels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integers(total=self.total)
        if not 0 < self.floor < 0.5:
            raise ValueError(f"floor must be within (0, 0.5), got {self.floor}")

    @property
    def num_values(self) -> int:
        return self.total + 1

    def check(self, x: Tensor) -> None:
        outside = ~((x >= 0) & (x <= self.total) & (x == x.floor()))
        raise_where(outside, x, f"a binomial variable must be an integer from 0 to {self.total}")

    def log_base(self, x: Tensor) -> Tensor | None:
        return math.lgamma(self.total + 1) - torch.lgamma(x + 1) - torch.lgamma(self.total - x + 1)

    def natural(self, phi: Tensor) -> Tensor:
        return torch.logit(phi / self.total)

    def log_normalizer(self, theta: Tensor) -> Tensor:
        return self.total * F.softplus(theta[0])

    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.total * (0.2 + 0.6 * torch.rand((1, *shape), generator=generator, dtype=torch.float32))

    def score(self, phi: Tensor, statistics: Tensor, counts: Tensor) -> Tensor:
        return (statistics - counts * phi) / self.variance(phi)

    def natural_gradient(self, phi: Tensor, gradient: Tensor) -> Tensor:
        return self.variance(phi) * gradient

    def project(self, phi: Tensor) -> Tensor:
        return phi.clamp(self.total * self.floor, self.total * (1 - self.floor))

    def unconstrain(self, phi: Tensor) -> Tensor:
        return self.natural(phi)

    def constrain(self, raw: Tensor) -> Tensor:
        return self.total * torch.sigmoid(raw).clamp(self.floor, 1 - self.floor)

    def sample(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        probability = phi[0] / self.total
        return torch.binomial(torch.full_like(probability, self.total), probability, generator=generator)

    def variance(self, phi: Tensor) -> Tensor:
        return phi[0] * (self.total - phi[0]) / self.total  # exact near both ends

    def mode(self, phi: Tensor) -> Tensor:
        return ((self.total + 1) * phi[0] / self.total).floor().clamp_max(self.total)


@dataclass(frozen=True)
class Bernoulli(Binomial):
    """A variable that is 0 or 1: the binomial of one trial, with phi = P(x = 1) within [floor, 1 - floor].

    Source: Section 3.4 and 4.1
    """

    total: ClassVar[int] = 1  # no longer a field: `Bernoulli(floor=...)`
    cancels: ClassVar[bool] = False

    def check(self, x: Tensor) -> None:
        raise_where((x != 0) & (x != 1), x, "a Bernoulli variable must be 0 or 1")

    def log_base(self, x: Tensor) -> Tensor | None:
        return None

    def sample(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.bernoulli(phi[0], generator=generator)


@dataclass(frozen=True)
class Categorical(ExponentialFamily):
    """One of `categories` values 0, 1, ...: T(x) is one-hot, phi the probabilities, theta = log phi, A(theta) = 0.

    Args:
        categories: number of values, at least 2.
        floor: lower bound on each probability, below 1 / categories.

    Source: Section 3.4
    """

    categories: int = 2
    floor: float = 1e-5

    indicator: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integers(least=2, categories=self.categories)
        if not 0 < self.floor < 1 / self.categories:
            raise ValueError(f"floor must be within (0, 1/{self.categories}), got {self.floor}")

    @property
    def num_statistics(self) -> int:
        return self.categories

    @property
    def num_values(self) -> int:
        return self.categories

    def check(self, x: Tensor) -> None:
        outside = ~((x >= 0) & (x < self.categories) & (x == x.floor()))
        raise_where(outside, x, f"a categorical variable must be an integer from 0 to {self.categories - 1}")

    def statistics(self, x: Tensor) -> Tensor:
        return F.one_hot(x.long(), self.categories).movedim(-1, 0).to(x.dtype)

    def natural(self, phi: Tensor) -> Tensor:
        return torch.log(phi)

    def log_normalizer(self, theta: Tensor) -> Tensor:
        return torch.logsumexp(theta, 0)

    def log_density(self, x: Tensor, phi: Tensor) -> Tensor:
        # A look-up: the product with a one-hot vector would hold a number for every category of each result.
        theta = self.natural(phi)
        shape = torch.broadcast_shapes(x.shape, theta.shape[1:])
        product = theta.expand(-1, *shape).gather(0, x.long().expand(1, *shape))[0]
        return product - self.log_normalizer(theta)

    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        draw = torch.rand((self.categories, *shape), generator=generator, dtype=torch.float32)
        return self.project(0.1 + draw)

    def score(self, phi: Tensor, statistics: Tensor, counts: Tensor) -> Tensor:
        return statistics / phi - counts / phi.sum(0)

    def natural_gradient(self, phi: Tensor, gradient: Tensor) -> Tensor:
        counts = phi * gradient
        return counts - phi * counts.sum(0)

    def project(self, phi: Tensor) -> Tensor:
        # Floor, then take the excess from what is above the floor, so that the floor holds and the sum is 1.
        above = (phi / phi.sum(0) - self.floor).clamp_min(0)
        return self.floor + above * ((1 - self.categories * self.floor) / above.sum(0))

    def unconstrain(self, phi: Tensor) -> Tensor:
        return torch.log((phi - self.floor).clamp_min(1e-3 * self.floor))

    def constrain(self, raw: Tensor) -> Tensor:
        return self.floor + (1 - self.categories * self.floor) * torch.softmax(raw, 0)

    def sample(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        draw = torch.rand(phi.shape[1:], generator=generator, dtype=phi.dtype, device=phi.device)
        return (phi.cumsum(0)[:-1] <= draw).sum(0).to(phi.dtype)

    def mean(self, phi: Tensor) -> Tensor:
        return (self._values(phi) * phi).sum(0)

    def variance(self, phi: Tensor) -> Tensor:
        return (self._values(phi) ** 2 * phi).sum(0) - self.mean(phi) ** 2

    def mode(self, phi: Tensor) -> Tensor:
        return phi.argmax(0).to(phi.dtype)

    def _values(self, phi: Tensor) -> Tensor:
        values = torch.arange(self.categories, dtype=phi.dtype, device=phi.device)
        return values.view(-1, *[1] * (phi.dim() - 1))


@dataclass(frozen=True)
class Counts(ExponentialFamily):
    """Base of densities over 0, 1, 2, ... without a limit: T(x) = x, phi = E[x] of at least `floor`."""

    floor: float = 1e-5

    cancels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(floor=self.floor)

    def check(self, x: Tensor) -> None:
        outside = ~((x >= 0) & (x == x.floor()) & torch.isfinite(x))
        raise_where(outside, x, f"a {type(self).__name__} variable must be an integer of at least 0")

    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.project(0.5 + 4 * torch.rand((1, *shape), generator=generator, dtype=torch.float32))

    def project(self, phi: Tensor) -> Tensor:
        return phi.clamp_min(self.floor)


def whole(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last count within [low, high]; the last is below the first where there is none."""
    first, last = low.clamp_min(0).ceil(), high.clamp_min(-1).floor()
    return first, torch.where(torch.isinf(first), -1, last)


@dataclass(frozen=True)
class Poisson(Counts):
    """Numbers of independent events: T(x) = x, phi = E[x] = Var[x], h(x) = 1 / x!, theta = log phi, A(theta) = e^theta.

    Args:
        floor: lower bound on phi, positive.

    Source: not in the paper; Section 3.4 for exponential families
    """

    def log_base(self, x: Tensor) -> Tensor | None:
        return -torch.lgamma(x + 1)

    def natural(self, phi: Tensor) -> Tensor:
        return torch.log(phi)

    def log_normalizer(self, theta: Tensor) -> Tensor:
        return torch.exp(theta[0])

    def score(self, phi: Tensor, statistics: Tensor, counts: Tensor) -> Tensor:
        return statistics / phi - counts

    def natural_gradient(self, phi: Tensor, gradient: Tensor) -> Tensor:
        return phi * gradient

    def sample(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.poisson(phi[0], generator)

    def log_probability(self, low: Tensor, high: Tensor, phi: Tensor) -> Tensor:
        # P(x < n) = P(t > mean) and P(x >= n) = P(t < mean), where t, the time of event number n, has a gamma density.
        mean, (first, last) = phi[0].double(), whole(low.double(), high.double())
        mean, first, last = torch.broadcast_tensors(mean, first, last)
        ends = first, last + 1
        below, above = ([side(end, mean) for end in ends] for side in (log_gamma_above, log_gamma_below))
        log_probability = log_between((below[0], below[1]), (above[0], above[1]))
        return torch.where(first <= last, log_probability, -math.inf).to(phi.dtype)

    def variance(self, phi: Tensor) -> Tensor:
        return phi[0]

    def mode(self, phi: Tensor) -> Tensor:
        return phi[0].floor()

    def entropy(self, phi: Tensor) -> Tensor:
        low, high = phi[0].clamp_max(MAX_SUMMED_RATE), phi[0].clamp_min(MAX_SUMMED_RATE)
        series = sum(term / high**power for power, term in enumerate(ENTROPY_SERIES, 1))
        summed = torch.zeros_like(low)
        for x in range(NUM_SUMMED_VALUES):  # one after another: all at once would be a large tensor
            summed += torch.special.entr(torch.exp(x * torch.log(low) - low - math.lgamma(x + 1)))
        return torch.where(phi[0] < MAX_SUMMED_RATE, summed, 0.5 * torch.log(2 * math.pi * math.e * high) - series)


@dataclass(frozen=True)
class Geometric(Counts):
    """Failures before the first success, which has the probability 1 / (1 + phi): T(x) = x, phi = E[x].

    theta = log(phi / (1 + phi)), A(theta) = -log(1 - e^theta).

    Args:
        floor: lower bound on phi, positive.

    Source: not in the paper; Section 3.4 for exponential families
    """

    def natural(self, phi: Tensor) -> Tensor:
        return -torch.log1p(1 / phi)

    def log_normalizer(self, theta: Tensor) -> Tensor:
        return -torch.log(-torch.expm1(theta[0]))

    def score(self, phi: Tensor, statistics: Tensor, counts: Tensor) -> Tensor:
        return (statistics / phi - counts) / (1 + phi)

    def natural_gradient(self, phi: Tensor, gradient: Tensor) -> Tensor:
        return phi * (phi * gradient + gradient)

    def sample(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        # The whole part of an exponential variable is geometric.
        return torch.floor(torch.empty_like(phi[0]).exponential_(generator=generator) / -self.natural(phi)[0])

    def log_probability(self, low: Tensor, high: Tensor, phi: Tensor) -> Tensor:
        (first, last), log_failure = whole(low, high), self.natural(phi)[0]
        log_probability = first * log_failure + torch.log(-torch.expm1((last - first + 1) * log_failure))
        return torch.where(first <= last, log_probability, -math.inf)

    def draw_between(self, low: Tensor, high: Tensor, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        (first, last), log_failure = whole(low, high), self.natural(phi)[0]
        share = uniform(first + last + log_failure, generator)
        more = torch.log1p(share * torch.expm1((last - first + 1) * log_failure)) / log_failure
        return torch.minimum(first + (more.ceil() - 1).clamp_min(0), last).to(phi.dtype)

    def variance(self, phi: Tensor) -> Tensor:
        return phi[0] * (1 + phi[0])

    def mode(self, phi: Tensor) -> Tensor:
        return torch.zeros_like(phi[0])
