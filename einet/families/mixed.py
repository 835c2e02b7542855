"""`WithAtoms`: a density over real numbers beside values that have a probability of their own.

Source: not in the paper; Section 3.4 for exponential families
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from einet.families.continuous import SMALLEST_POSITIVE, Normal
from einet.families.discrete import Categorical
from einet.family import ExponentialFamily, broadcast_ends, raise_where
from einet.intervals import draw_among


@dataclass(frozen=True)
class WithAtoms(ExponentialFamily):
    """Point masses at `atoms` beside a density of `family`: rain, of which there is none on most days.

        p(a_j) = p_j at the j-th atom,    p(x) = p_rest f(x) elsewhere

    with respect to the counting measure at the atoms, which are the same for all leaves, and Lebesgue's elsewhere.
    T(x) = (1[x = a_1], ..., 1[rest], 1[rest] T'(x)), with T' of `family`; the model keeps phi = (p_1, ..., p_rest,
    phi') with phi' of `family`, which a row at an atom leaves alone.
    theta = (log p_j, log p_rest - A'(theta'), theta').

    A value is an atom if it is the same float64 or the same float32.

    Args:
        family: of the other values; of one channel, and one in which no value has a probability of its own. Counts
            need no atom: entries of a mixture whose mean is 0 are one.
        atoms: different finite numbers, at least one; kept sorted. They may be outside the support of `family`.
        floor: lower bound on each probability, positive.

    Raises:
        ValueError: an argument is none of these.

    Source: not in the paper; Section 3.4 for exponential families
    """

    family: ExponentialFamily = Normal()
    atoms: tuple[float, ...] = (0.0,)
    floor: float = 1e-5

    cancels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.family, ExponentialFamily) and self.family.atomless and self.family.channels == 1):
            raise ValueError(
                "family must be one of one channel in which no value has a probability of its own, such as "
                f"einet.Normal() or einet.Gamma(), got {self.family!r}"
            )
        atoms = as_atoms(self.atoms)
        object.__setattr__(self, "atoms", atoms)
        if not 0 < self.floor < 1 / (len(atoms) + 1):
            raise ValueError(f"floor must be within (0, 1/{len(atoms) + 1}), got {self.floor}")

    @property
    def num_statistics(self) -> int:
        return len(self.atoms) + 1 + self.family.num_statistics

    @property
    def placeholder(self) -> float:
        return self.family.placeholder

    @property
    def _which(self) -> Categorical:
        """The family of the question which atom a value is, or none."""
        return Categorical(len(self.atoms) + 1, floor=self.floor)

    # The density

    def check(self, x: Tensor) -> None:
        rest = ~self._is_atom(x).any(0)
        raise_where(~torch.isfinite(x), x, "a WithAtoms variable must be finite")
        self.family.check(x[rest])

    def statistics(self, x: Tensor) -> Tensor:
        at = self._is_atom(x)
        rest = ~at.any(0)
        others = torch.where(rest, self.family.statistics(self._beside_atoms(x, rest)), 0)
        return torch.cat((at.to(x.dtype), rest.to(x.dtype)[None], others))

    def log_base(self, x: Tensor) -> Tensor | None:
        rest = ~self._is_atom(x).any(0)
        base = self.family.log_base(self._beside_atoms(x, rest))
        return None if base is None else torch.where(rest, base, 0)

    def natural(self, phi: Tensor) -> Tensor:
        which, own = self._parts(phi)
        theta, log_which = self.family.natural(own), torch.log(which)
        of_rest = log_which[-1:] - self.family.log_normalizer(theta)[None]
        return torch.cat((log_which[:-1], of_rest, theta))

    def log_normalizer(self, theta: Tensor) -> Tensor:
        which, own = self._parts(theta)
        return torch.logsumexp(torch.cat((which[:-1], which[-1:] + self.family.log_normalizer(own)[None])), 0)

    def log_probability(self, low: Tensor, high: Tensor, phi: Tensor) -> Tensor:
        low, high, phi = broadcast_ends(low, high, phi)
        return torch.logsumexp(self._log_parts(low, high, phi), 0)

    def _log_parts(self, low: Tensor, high: Tensor, phi: Tensor) -> Tensor:
        """log P(x is the atom, low <= x <= high) of each, and of the rest: (atoms + 1, ...)."""
        which, own = self._parts(phi)
        atoms = self._values(phi)
        of_atoms = torch.where((atoms >= low) & (atoms <= high), torch.log(which[:-1]), -math.inf)
        return torch.cat((of_atoms, (torch.log(which[-1]) + self.family.log_probability(low, high, own))[None]))

    # Learning

    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.cat((self._which.initial(shape, generator), self.family.initial(shape, generator)))

    def expected(self, phi: Tensor) -> Tensor:
        which, own = self._parts(phi.detach().double())
        return torch.cat((which, which[-1:] * self.family.expected(own)))

    def score(self, phi: Tensor, statistics: Tensor, counts: Tensor) -> Tensor:
        which, own = self._parts(phi)
        of_which, others = self._parts(statistics)
        of_family = self.family.score(own.contiguous(), others.contiguous(), of_which[-1].contiguous())
        return torch.cat((self._which.score(which, of_which, counts), of_family))

    def natural_gradient(self, phi: Tensor, gradient: Tensor) -> Tensor:
        """As a direction, the part of `family` is that of the rows that are no atom, times their share."""
        (which, own), (of_which, of_own) = self._parts(phi), self._parts(gradient)
        return torch.cat((self._which.natural_gradient(which, of_which), self.family.natural_gradient(own, of_own)))

    def step(self, phi: Tensor, direction: Tensor) -> Tensor:
        # E[1[rest] T'] and p_rest move straight, so their ratio E[T' | rest] moves by the direction over the new one.
        (which, own), (of_which, of_own) = self._parts(phi), self._parts(direction)
        moved = which + of_which
        rest = moved[-1:].clamp_min(self.floor)  # below it, the ratio is one of rounding errors
        return torch.cat((moved, self.family.step(own, of_own / rest)))

    def project(self, phi: Tensor) -> Tensor:
        which, own = self._parts(phi)
        return torch.cat((self._which.project(which), self.family.project(own)))

    def unconstrain(self, phi: Tensor) -> Tensor:
        which, own = self._parts(phi)
        return torch.cat((self._which.unconstrain(which), self.family.unconstrain(own)))

    def constrain(self, raw: Tensor) -> Tensor:
        which, own = self._parts(raw)
        return torch.cat((self._which.constrain(which), self.family.constrain(own)))

    # What a density is asked

    def sample(self, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        which, own = self._parts(phi)
        drawn = self._which.sample(which, generator).long()
        of_family = self.family.sample(own, generator)
        return torch.where(drawn < len(self.atoms), self._at(drawn, phi), of_family)

    def draw_between(self, low: Tensor, high: Tensor, phi: Tensor, generator: torch.Generator | None = None) -> Tensor:
        low, high, phi = broadcast_ends(low, high, phi)
        parts = self._log_parts(low, high, phi)
        drawn = draw_among(parts, parts > -math.inf, generator).long()
        of_family = self.family.draw_between(low, high, self._parts(phi)[1], generator)
        return torch.where(drawn < len(self.atoms), self._at(drawn, phi), of_family)

    def mean(self, phi: Tensor) -> Tensor:
        which, own = self._parts(phi)
        return (which[:-1] * self._values(phi)).sum(0) + which[-1] * self.family.mean(own)

    def variance(self, phi: Tensor) -> Tensor:
        which, own = self._parts(phi)
        mean = self.mean(phi)
        of_atoms = (which[:-1] * (self._values(phi) - mean) ** 2).sum(0)
        return of_atoms + which[-1] * (self.family.variance(own) + (self.family.mean(own) - mean) ** 2)

    def mode(self, phi: Tensor) -> Tensor:
        """The value of the largest density; a probability and a density are compared as numbers."""
        which, own = self._parts(phi)
        of_family = self.family.mode(own)
        of_family = torch.where(self._is_atom(of_family).any(0), above(of_family), of_family)
        density = self.family.log_density(of_family, own) + torch.log(which[-1])
        most, atom = torch.log(which[:-1]).max(0)
        return torch.where(most >= density, self._at(atom, phi), of_family)

    def entropy(self, phi: Tensor) -> Tensor:
        which, own = self._parts(phi)
        return torch.special.entr(which).sum(0) + which[-1] * self.family.entropy(own)

    def max_entropy(self, variance: Tensor) -> Tensor:
        return most_entropy_beside(len(self.atoms), variance)

    # Its parts

    def _parts(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """What belongs to the atoms and the rest, and what to `family`."""
        number = len(self.atoms) + 1
        return tensor[:number], tensor[number:]

    def _is_atom(self, x: Tensor) -> Tensor:
        """Whether x is each of the atoms: (atoms, ...)."""
        pairs = zip(self.atoms, as_float32(self.atoms), strict=True)
        return torch.stack([(x == atom) | (x == same) for atom, same in pairs])

    def _beside_atoms(self, x: Tensor, rest: Tensor) -> Tensor:
        """x with a value that `family` has in place of atoms, where T' might be infinite, or have such a gradient."""
        return torch.where(rest, x, self.family.placeholder)

    def _values(self, phi: Tensor) -> Tensor:
        atoms = torch.tensor(self.atoms, dtype=phi.dtype, device=phi.device)
        return atoms.view(-1, *[1] * (phi.dim() - 1))

    def _at(self, index: Tensor, phi: Tensor) -> Tensor:
        atoms = torch.tensor(self.atoms, dtype=phi.dtype, device=phi.device)
        return atoms[index.clamp_max(len(self.atoms) - 1)]


def as_atoms(atoms: Iterable[float]) -> tuple[float, ...]:
    """Different finite numbers, ascending.

    Raises:
        ValueError: they are none, or none at all.
    """
    try:
        found = tuple(sorted(float(atom) for atom in atoms))
    except (TypeError, ValueError):
        found = ()
    if not found or not all(map(math.isfinite, found)) or len(set(as_float32(found))) < len(found):
        raise ValueError(f"atoms must be different finite numbers, also as float32, got {atoms!r}")
    return found


def as_float32(atoms: tuple[float, ...]) -> list[float]:
    """The numbers that these are when rounded to float32."""
    return torch.tensor(atoms, dtype=torch.float64).float().double().tolist()


def above(x: Tensor) -> Tensor:
    """The next larger number, also as float32."""
    narrow = x.float()
    larger = torch.nextafter(narrow, torch.full_like(narrow, math.inf)).double()
    return torch.maximum(larger, x.double() + SMALLEST_POSITIVE).to(x.dtype)


def most_entropy_beside(num_atoms: int, variance: Tensor) -> Tensor:
    """A bound in nats on the entropy of any variable of this variance that has a density beside so many atoms."""
    # H(which) + q H(rest) with H(rest) <= log(c / q) / 2, which is largest at q = c / e, or 1.
    most = 2 * math.pi * math.e * variance
    return math.log(num_atoms + 1) + torch.where(most < math.e, most / (2 * math.e), 0.5 * torch.log(most))
