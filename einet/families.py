"""The exponential families that leaves may follow: `Normal`, `Binomial`, `Bernoulli` and `Categorical`.

A family of your own is one more frozen dataclass with the methods of `ExponentialFamily`; `tests/test_families.py` has
the contract, and an exercise of the chapter writes one.

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

from einet.exponential_family import ExponentialFamily, refuse


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
        if not 0 < self.min_variance < self.max_variance:
            raise ValueError(f"need 0 < min_variance < max_variance, got {self.min_variance} and {self.max_variance}")

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

    def start(self, x):
        centre = self.statistics(x)[0]
        variance = centre.var(0, correction=0).mean()  # of one size, so that no variable outweighs the others
        return self.project(torch.stack((centre, variance.expand(centre.shape))))

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


FAMILIES = {family.__name__: family for family in (Normal, Bernoulli, Binomial, Categorical)}
