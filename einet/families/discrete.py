"""Families of densities over whole numbers: `Binomial`, `Bernoulli`, `Categorical`, `Poisson` and `Geometric`.

Paper: Section 3.4
Chapter: book/06_leaves
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from einet.family import ExponentialFamily, check_bounds, refuse

# The entropy of a Poisson variable of a rate up to this is a sum over its values, else the asymptotic series.
FEW, MOST_VALUES = 100.0, 260
SERIES = (1 / 12, 1 / 24, 19 / 360, 9 / 80, 863 / 2520, 1375 / 1008)  # of 1 / rate, ...: Evans and Boersma (1988)


@dataclass(frozen=True)
class Binomial(ExponentialFamily):
    """The number of successes in `total` trials: T(x) = x, phi = total * p, p kept within [floor, 1 - floor].

    h(x) = total! / (x! (total - x)!), theta = log(p / (1 - p)), A(theta) = total log(1 + e^theta).

    Paper: Section 3.4 and 4.2
    Chapter: book/06_leaves
    """

    total: int = 255
    floor: float = 1e-5

    cancels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.total, int) or self.total < 1:
            raise ValueError(f"total must be an integer of at least 1, got {self.total!r}")
        if not 0 < self.floor < 0.5:
            raise ValueError(f"floor must be within (0, 0.5), got {self.floor}")

    @property
    def num_values(self) -> int:
        return self.total + 1

    def check(self, x):
        outside = ~((x >= 0) & (x <= self.total) & (x == x.floor()))
        refuse(outside, x, f"a binomial variable must be an integer from 0 to {self.total}")

    def log_base(self, x):
        return math.lgamma(self.total + 1) - torch.lgamma(x + 1) - torch.lgamma(self.total - x + 1)

    def natural(self, phi):
        return torch.logit(phi / self.total)

    def log_normalizer(self, theta):
        return self.total * F.softplus(theta[0])

    def initial(self, shape, generator):
        return self.total * (0.2 + 0.6 * torch.rand((1, *shape), generator=generator, dtype=torch.float32))

    def score(self, phi, statistics, uses):
        return (statistics - uses * phi) / self.variance(phi)

    def natural_gradient(self, phi, gradient):
        return self.variance(phi) * gradient

    def project(self, phi):
        return phi.clamp(self.total * self.floor, self.total * (1 - self.floor))

    def unconstrain(self, phi):
        return self.natural(phi)

    def constrain(self, raw):
        return self.total * torch.sigmoid(raw).clamp(self.floor, 1 - self.floor)

    def sample(self, phi, generator=None):
        probability = phi[0] / self.total
        return torch.binomial(torch.full_like(probability, self.total), probability, generator=generator)

    def variance(self, phi):
        return phi[0] * (self.total - phi[0]) / self.total  # exact near both ends

    def mode(self, phi):
        return ((self.total + 1) * phi[0] / self.total).floor().clamp_max(self.total)


@dataclass(frozen=True)
class Bernoulli(Binomial):
    """A variable that is 0 or 1, and 1 with probability phi: the binomial of one trial. phi within [floor, 1 - floor].

    Paper: Section 3.4 and 4.1
    Chapter: book/06_leaves
    """

    total: ClassVar[int] = 1  # no longer a field: `Bernoulli(floor=...)`
    cancels: ClassVar[bool] = False

    def check(self, x):
        refuse((x != 0) & (x != 1), x, "a Bernoulli variable must be 0 or 1")

    def log_base(self, x):
        return None

    def sample(self, phi, generator=None):
        return torch.bernoulli(phi[0], generator=generator)


@dataclass(frozen=True)
class Categorical(ExponentialFamily):
    """One of `categories` values 0, 1, ...: T(x) is the indicator of x, phi the probabilities, each at least `floor`.

    theta = log phi, and A(theta) = log sum exp theta, which is 0.

    Paper: Section 3.4
    Chapter: book/06_leaves
    """

    categories: int = 2
    floor: float = 1e-5

    indicator: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.categories, int) or self.categories < 2:
            raise ValueError(f"categories must be an integer of at least 2, got {self.categories!r}")
        if not 0 < self.floor < 1 / self.categories:
            raise ValueError(f"floor must be within (0, 1/{self.categories}), got {self.floor}")

    @property
    def num_statistics(self) -> int:
        return self.categories

    num_values = num_statistics

    def check(self, x):
        outside = ~((x >= 0) & (x < self.categories) & (x == x.floor()))
        refuse(outside, x, f"a categorical variable must be an integer from 0 to {self.categories - 1}")

    def statistics(self, x):
        return F.one_hot(x.long(), self.categories).movedim(-1, 0).to(x.dtype)

    def natural(self, phi):
        return torch.log(phi)

    def log_normalizer(self, theta):
        return torch.logsumexp(theta, 0)

    def log_density(self, x, phi):
        # A look-up: the product with an indicator would make a number for every category of each result.
        theta = self.natural(phi)
        shape = torch.broadcast_shapes(x.shape, theta.shape[1:])
        found = theta.expand(-1, *shape).gather(0, x.long().expand(1, *shape))[0]
        return found - self.log_normalizer(theta)

    def initial(self, shape, generator):
        draw = torch.rand((self.categories, *shape), generator=generator, dtype=torch.float32)
        return self.project(0.1 + draw)

    def score(self, phi, statistics, uses):
        return statistics / phi - uses / phi.sum(0)

    def natural_gradient(self, phi, gradient):
        counts = phi * gradient
        return counts - phi * counts.sum(0)

    def project(self, phi):
        # Floor, then take the excess from what is above the floor, so that the floor holds and the sum is 1.
        above = (phi / phi.sum(0) - self.floor).clamp_min(0)
        return self.floor + above * ((1 - self.categories * self.floor) / above.sum(0))

    def unconstrain(self, phi):
        return torch.log((phi - self.floor).clamp_min(1e-3 * self.floor))

    def constrain(self, raw):
        return self.floor + (1 - self.categories * self.floor) * torch.softmax(raw, 0)

    def sample(self, phi, generator=None):
        draw = torch.rand(phi.shape[1:], generator=generator, dtype=phi.dtype, device=phi.device)
        return (phi.cumsum(0)[:-1] <= draw).sum(0).to(phi.dtype)

    def mean(self, phi):
        return (self._values(phi) * phi).sum(0)

    def variance(self, phi):
        return (self._values(phi) ** 2 * phi).sum(0) - self.mean(phi) ** 2

    def mode(self, phi):
        return phi.argmax(0).to(phi.dtype)

    def _values(self, phi: Tensor) -> Tensor:
        values = torch.arange(self.categories, dtype=phi.dtype, device=phi.device)
        return values.view(-1, *[1] * (phi.dim() - 1))


@dataclass(frozen=True)
class Counts(ExponentialFamily):
    """What densities over 0, 1, 2, ... without a limit share: T(x) = x, and phi = E[x] is at least `floor`."""

    floor: float = 1e-5

    cancels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(floor=self.floor)

    def check(self, x):
        outside = ~((x >= 0) & (x == x.floor()) & torch.isfinite(x))
        refuse(outside, x, f"a {type(self).__name__} variable must be an integer of at least 0")

    def initial(self, shape, generator):
        return self.project(0.5 + 4 * torch.rand((1, *shape), generator=generator, dtype=torch.float32))

    def project(self, phi):
        return phi.clamp_min(self.floor)


@dataclass(frozen=True)
class Poisson(Counts):
    """How many events there were, each independent of the others: T(x) = x, phi = E[x] = Var[x] >= `floor`.

    h(x) = 1 / x!, theta = log phi, A(theta) = e^theta.

    Paper: not in it; Section 3.4 for exponential families
    Chapter: book/06_leaves
    """

    def log_base(self, x):
        return -torch.lgamma(x + 1)

    def natural(self, phi):
        return torch.log(phi)

    def log_normalizer(self, theta):
        return torch.exp(theta[0])

    def score(self, phi, statistics, uses):
        return statistics / phi - uses

    def natural_gradient(self, phi, gradient):
        return phi * gradient

    def sample(self, phi, generator=None):
        return torch.poisson(phi[0], generator)

    def variance(self, phi):
        return phi[0]

    def mode(self, phi):
        return phi[0].floor()

    def entropy(self, phi):
        few, many = phi[0].clamp_max(FEW), phi[0].clamp_min(FEW)
        series = sum(term / many**power for power, term in enumerate(SERIES, 1))
        summed = torch.zeros_like(few)
        for x in range(MOST_VALUES):  # one after another: all at once would be a large tensor
            summed += torch.special.entr(torch.exp(x * torch.log(few) - few - math.lgamma(x + 1)))
        return torch.where(phi[0] < FEW, summed, 0.5 * torch.log(2 * math.pi * math.e * many) - series)


@dataclass(frozen=True)
class Geometric(Counts):
    """How many failures there were before the first success, the fewer the likelier: T(x) = x, phi = E[x] >= `floor`.

    With the probability 1 / (1 + phi) of a success, theta = log(phi / (1 + phi)) and A(theta) = -log(1 - e^theta).

    Paper: not in it; Section 3.4 for exponential families
    Chapter: book/06_leaves
    """

    def natural(self, phi):
        return -torch.log1p(1 / phi)

    def log_normalizer(self, theta):
        return -torch.log(-torch.expm1(theta[0]))

    def score(self, phi, statistics, uses):
        return (statistics / phi - uses) / (1 + phi)

    def natural_gradient(self, phi, gradient):
        return phi * (phi * gradient + gradient)

    def sample(self, phi, generator=None):
        # The whole part of an exponential variable is geometric.
        return torch.floor(torch.empty_like(phi[0]).exponential_(generator=generator) / -self.natural(phi)[0])

    def variance(self, phi):
        return phi[0] * (1 + phi[0])

    def mode(self, phi):
        return torch.zeros_like(phi[0])
