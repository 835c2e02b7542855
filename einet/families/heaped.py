"""`Heaped`: a normal density beside values that are more frequent than their neighbours, such as round numbers.

Source: not in the paper; Section 3.4 for exponential families
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from einet.families.continuous import Normal
from einet.families.mixed import above, as_atoms, as_float32, most_entropy_beside
from einet.family import broadcast_ends
from einet.intervals import draw_among

# Newton's method for the parameters of given moments ends after so many steps, halved so often at most, or where the
# next is not worth this many nats. A step may lose what rounding may.
MAX_STEPS, MAX_HALVINGS, MIN_GAIN, ROUNDING = 200, 60, 1e-18, 1e-13
# It ends, too, at this part of the smallest variance.
NARROWER = 1e-3


@dataclass(frozen=True, repr=False)
class Heaped(Normal):
    """A normal density over the reals and a list of values, in which each leaf weighs all values of the list alike.

        p(a_j) = h_j N(a_j; m, s^2) / Z at the j-th atom,    p(x) = N(x; m, s^2) / Z elsewhere
        Z = 1 + sum_j h_j N(a_j; m, s^2)

    with respect to the counting measure at the atoms and Lebesgue's elsewhere. Prices end in .99, amounts are
    hundreds, temperatures were degrees Fahrenheit before they were Celsius. Where such values are `Categorical`, or the
    atoms of `WithAtoms`, each leaf must learn how frequent each is. Here the heights h_j say once, for all leaves, how
    much more frequent a value is than the density around it, and a leaf still has two parameters.

    T(x) = (x, x^2), theta = (m, -1/2) / s^2 and A(theta) = A_N(theta) + log Z, with A_N of `Normal`; log h(x) is
    log h_j at the atoms, 0 elsewhere. The model keeps phi = (m, s^2), which are not the mean and the variance of x.

    A value is an atom if it is the same float64 or the same float32.

    Args:
        atoms: different finite numbers, at least one.
        heights: the h_j, positive, one for each atom: lengths, over which the density has the atom's probability.
        min_variance: lower bound on s^2, positive.
        max_variance: upper bound on s^2.

    Raises:
        ValueError: an argument is none of these.

    Source: not in the paper. Values that people prefer are called heaps by Heitjan and Rubin (1990), "Inference from
    coarse data via multiple imputation with application to age heaping"
    """

    atoms: tuple[float, ...] = field(default=(0.0,), kw_only=True)
    heights: tuple[float, ...] = field(default=(1.0,), kw_only=True)

    location_scale: ClassVar[bool] = False
    atomless: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        atoms = as_atoms(self.atoms)
        try:
            heights = tuple(float(height) for height in self.heights)
        except (TypeError, ValueError):
            heights = ()
        if len(heights) != len(atoms) or not all(0 < height < math.inf for height in heights):
            raise ValueError(f"heights must be {len(atoms)} positive numbers, one for each atom, got {self.heights!r}")
        pairs = sorted(zip(map(float, self.atoms), heights, strict=True))
        object.__setattr__(self, "atoms", tuple(atom for atom, _ in pairs))
        object.__setattr__(self, "heights", tuple(height for _, height in pairs))

    def __repr__(self) -> str:
        return f"Heaped({len(self.atoms)} atoms from {self.atoms[0]:g} to {self.atoms[-1]:g})"

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Atoms, the same as float32, the middles between them, and the logs of their heights, all in float64."""
        atoms = torch.tensor(self.atoms, dtype=torch.float64)
        same = torch.tensor(as_float32(self.atoms), dtype=torch.float64)
        return atoms, same, (atoms[1:] + atoms[:-1]) / 2, torch.tensor(self.heights, dtype=torch.float64).log()

    # The density

    def log_base(self, x: Tensor) -> Tensor | None:
        atoms, same, middles, log_heights = (each.to(x.device) for each in self._table)
        wide = x.detach().double().contiguous()
        nearest = torch.searchsorted(middles, wide)
        is_atom = (wide == atoms[nearest]) | (wide == same[nearest])
        return torch.where(is_atom, log_heights[nearest], 0).to(x.dtype)

    def log_normalizer(self, theta: Tensor) -> Tensor:
        first, second = theta.double()
        variance = -0.5 / second
        total = torch.logsumexp(self._log_weights(first * variance, variance), 0)
        return super().log_normalizer(theta) + total.to(theta.dtype)

    def _log_weights(self, mean: Tensor, variance: Tensor) -> Tensor:
        """log of the part of each atom in Z, and of the density, which is 0: (atoms + 1, ...), in float64."""
        mean, variance = mean.double(), variance.double()
        atoms, log_heights = self._heaps(mean)
        logs = log_heights - (atoms - mean) ** 2 / (2 * variance) - 0.5 * torch.log(2 * math.pi * variance)
        return torch.cat((logs, torch.zeros_like(mean)[None]))

    def _shares(self, phi: Tensor) -> Tensor:
        """The probability of each atom, and of none: (atoms + 1, ...), in float64."""
        return torch.softmax(self._log_weights(*phi), 0)

    def log_probability(self, low: Tensor, high: Tensor, phi: Tensor) -> Tensor:
        low, high, phi = broadcast_ends(low, high, phi)
        return torch.logsumexp(self._log_parts(low, high, phi), 0).to(phi.dtype)

    def _log_parts(self, low: Tensor, high: Tensor, phi: Tensor) -> Tensor:
        """log P(x is the atom, low <= x <= high) of each, and of the density: (atoms + 1, ...)."""
        logs, atoms = torch.log_softmax(self._log_weights(*phi), 0), self._atoms_of(phi)
        of_atoms = torch.where((atoms >= low) & (atoms <= high), logs[:-1], -math.inf)
        return torch.cat((of_atoms, (logs[-1] + Normal.log_probability(self, low, high, phi).double())[None]))

    # Learning

    def score(self, phi: Tensor, statistics: Tensor, counts: Tensor) -> Tensor:
        exact, counted = phi.double(), counts.double()
        mean, variance = exact
        shares, away = self._shares(exact)[:-1], self._atoms_of(exact) - mean
        of_mean = (shares * away).sum(0) / variance
        of_variance = (shares * (away**2 - variance)).sum(0) / variance / (2 * variance)
        of_normal = super().score(exact, statistics.double(), counted)
        return (of_normal - counted * torch.stack((of_mean, of_variance))).to(phi.dtype)

    def step(self, phi: Tensor, direction: Tensor) -> Tensor:
        # A direction is of (x - m, (x - m)^2). In units of s, their new means are those of a normal density of mean 0
        # and variance 1 that is tilted until it has them.
        mean, variance = phi.double()
        deviation = variance.sqrt()
        tilted = self._tilted(mean, deviation)
        unit = torch.stack((deviation, variance))
        start = torch.stack((torch.zeros_like(mean), torch.full_like(mean, -0.5)))
        least = NARROWER * self.min_variance / variance  # which `project` undoes
        target = tilted.moments(start)[0] + direction.double() / unit
        found = tilted.having(target, start, least)
        found = tilted.having_mean(target[0], found, -0.5 / found[1] <= least)
        spread = -0.5 / found[1]
        return torch.stack((mean + deviation * found[0] * spread, variance * spread)).to(phi.dtype)

    def project(self, phi: Tensor) -> Tensor:
        # Of the densities of a variance at its bound, the most likely for rows has their mean, as the one outside has.
        # Its m is another, since the shares of the atoms change with the variance.
        allowed = super().project(phi)
        out = (allowed[1] != phi[1]) & (phi[1] > 0)
        if not out.any():
            return allowed
        mean, deviation = allowed[0].double(), allowed[1].double().sqrt()
        away = self.mean(torch.where(out, phi, allowed).double()) - mean
        start = torch.stack((torch.zeros_like(mean), torch.full_like(mean, -0.5)))
        found = self._tilted(mean, deviation).having_mean(away / deviation, start, out)
        return torch.stack(((mean + deviation * found[0]).to(phi.dtype), allowed[1]))

    def _tilted(self, mean: Tensor, deviation: Tensor) -> _Tilted:
        """The density in units of its deviation, from its center."""
        atoms, log_heights = self._heaps(mean)
        return _Tilted((atoms - mean) / deviation, log_heights - torch.log(deviation))

    # What a density is asked

    def sample(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        drawn = draw_among(torch.log(self._shares(phi)), torch.ones_like(phi[:1], dtype=torch.bool), generator).long()
        return self._chosen(drawn, Normal.sample(self, phi, generator))

    def draw_between(self, low: Tensor, high: Tensor, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        low, high, phi = broadcast_ends(low, high, phi)
        parts = self._log_parts(low, high, phi)
        drawn = draw_among(parts, parts > -math.inf, generator).long()
        return self._chosen(drawn, Normal.draw_between(self, low, high, phi, generator))

    def _chosen(self, drawn: Tensor, of_density: Tensor) -> Tensor:
        """The atoms whose numbers were drawn; what the density drew where none of them was."""
        atoms = self._table[0].to(of_density)
        return torch.where(drawn < len(atoms), atoms[drawn.clamp_max(len(atoms) - 1)], of_density)

    def exponential_mean(self, phi: Tensor, rate: float) -> Tensor:
        shares, atoms = self._shares(phi), self._atoms_of(phi)
        of_density = shares[-1] * Normal.exponential_mean(self, phi, rate).double()
        return ((shares[:-1] * torch.exp(rate * atoms)).sum(0) + of_density).to(phi.dtype)

    def mean(self, phi: Tensor) -> Tensor:
        shares = self._shares(phi)
        return ((shares[:-1] * self._atoms_of(phi)).sum(0) + shares[-1] * phi[0]).to(phi.dtype)

    def variance(self, phi: Tensor) -> Tensor:
        shares, (center, spread) = self._shares(phi), phi.double()
        away = self._atoms_of(phi) - center  # from here, so that no digits are lost far from 0
        mean = (shares[:-1] * away).sum(0)
        of_atoms = (shares[:-1] * (away - mean) ** 2).sum(0)
        return (of_atoms + shares[-1] * (spread + mean**2)).to(phi.dtype)

    def mode(self, phi: Tensor) -> Tensor:
        """The value of the largest density; a probability and a density are compared as numbers."""
        logs, center = self._log_weights(*phi), phi[0]
        is_atom = (self._atoms_of(phi) == center).any(0)
        of_density = torch.where(is_atom, above(center), center)
        most, atom = logs[:-1].max(0)
        density = -0.5 * torch.log(2 * math.pi * phi[1].double())
        return self._chosen(torch.where(most >= density, atom, len(self.atoms)), of_density)

    def entropy(self, phi: Tensor) -> Tensor:
        logs = torch.log_softmax(self._log_weights(*phi), 0)
        shares = logs.exp()
        return (-(shares * logs).sum(0) + shares[-1] * Normal.entropy(self, phi)).to(phi.dtype)

    def max_entropy(self, variance: Tensor) -> Tensor:
        return most_entropy_beside(len(self.atoms), variance)

    def _atoms_of(self, phi: Tensor) -> Tensor:
        return self._heaps(phi[0])[0]

    def _heaps(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Atoms and the logs of their heights, beside the axes of one parameter: (atoms, 1, ..., 1)."""
        atoms, _, _, log_heights = (each.to(like.device).view(-1, *[1] * like.dim()) for each in self._table)
        return atoms, log_heights


class _Tilted:
    """exp(theta . (y, y^2)) over a standard measure of reals, and over atoms, for many leaves at once, in float64.

    Args:
        atoms: y of the atoms, (A, ...).
        log_heights: of the atoms, which broadcasts against them.
    """

    def __init__(self, atoms: Tensor, log_heights: Tensor):
        self.atoms, self.log_heights = atoms, log_heights

    def _parts(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """A of the reals alone, and log of the share of each atom beside it, which is not divided by Z yet."""
        first, second = theta
        alone = -0.25 * first * first / second - 0.5 * torch.log(second * (-1 / math.pi))
        return alone, self.log_heights + first * self.atoms + second * self.atoms**2 - alone

    def log_normalizer(self, theta: Tensor) -> Tensor:
        """A(theta), (...)."""
        alone, logs = self._parts(theta)
        return alone + torch.logsumexp(torch.cat((logs, torch.zeros_like(alone)[None])), 0)

    def moments(self, theta: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """E[(y, y^2)], (2, ...), and the variances and the covariance of y and y^2."""
        alone, logs = self._parts(theta)
        shares = torch.softmax(torch.cat((logs, torch.zeros_like(alone)[None])), 0)
        variance = -0.5 / theta[1]
        mean = theta[0] * variance
        ((first, second), of_reals), rest = self._about(mean, variance), shares[-1]
        y, square = self.atoms, self.atoms**2
        mean_y = (shares[:-1] * y).sum(0) + rest * first
        mean_square = (shares[:-1] * square).sum(0) + rest * second
        gaps = (y - mean_y, first - mean_y), (square - mean_square, second - mean_square)

        def covariance(one: int, other: int, within: Tensor) -> Tensor:
            between = (shares[:-1] * gaps[one][0] * gaps[other][0]).sum(0)
            return between + rest * (within + gaps[one][1] * gaps[other][1])

        covariances = covariance(0, 0, of_reals[0]), covariance(1, 1, of_reals[1]), covariance(0, 1, of_reals[2])
        return torch.stack((mean_y, mean_square)), covariances

    @staticmethod
    def _about(mean: Tensor, variance: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """`moments` of a normal variable."""
        both = 2 * mean * variance
        return (mean, mean**2 + variance), (variance, 2 * variance**2 + 2 * mean * both, both)

    def having(self, target: Tensor, theta: Tensor, least: Tensor) -> Tensor:
        """The theta under which E[(y, y^2)] is `target`, from another one: Newton's method, never downhill.

        It is where theta . target - A(theta), which is concave, is largest. What no theta has, such as a variance of 0,
        it approaches, but no density narrower than the variance `least`.
        """
        value = (theta * target).sum(0) - self.log_normalizer(theta)
        for _ in range(MAX_STEPS):
            means, (of_y, of_square, both) = self.moments(theta)
            gap, determinant = target - means, (of_y * of_square - both * both).clamp_min(1e-300)
            step = torch.stack((of_square * gap[0] - both * gap[1], of_y * gap[1] - both * gap[0])) / determinant
            gain = (gap * step).sum(0)
            going = (gain > MIN_GAIN) & torch.isfinite(step).all(0) & (-0.5 / theta[1] > least)
            if not going.any():
                break
            theta, value = self._uphill(target, theta, torch.where(going, step, 0), value)
        return theta

    def having_mean(self, mean: Tensor, theta: Tensor, where: Tensor) -> Tensor:
        """`having` with E[y] alone, by the first of theta alone, where that is asked."""
        target = torch.stack((mean, torch.zeros_like(mean)))
        value = (theta * target).sum(0) - self.log_normalizer(theta)
        for _ in range(MAX_STEPS):
            means, (of_y, _, _) = self.moments(theta)
            gap = mean - means[0]
            step = gap / of_y.clamp_min(1e-300)
            going = where & (gap * step > MIN_GAIN) & torch.isfinite(step)
            if not going.any():
                break
            step = torch.stack((torch.where(going, step, 0), torch.zeros_like(step)))
            theta, value = self._uphill(target, theta, step, value)
        return theta

    def _uphill(self, target: Tensor, theta: Tensor, step: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """As much of a step as makes the objective larger, halved until it does."""
        found, best, left = theta, value, torch.ones_like(value, dtype=torch.bool)
        for halvings in range(MAX_HALVINGS):
            tried = theta + 0.5**halvings * step
            possible = tried[1] < 0
            tried = torch.where(possible, tried, theta)
            reached = (tried * target).sum(0) - self.log_normalizer(tried)
            better = left & possible & (reached >= value - ROUNDING * (1 + value.abs()))
            found, best = torch.where(better, tried, found), torch.where(better, reached, best)
            left &= ~better & (step != 0).any(0)
            if not left.any():
                break
        return found, best
