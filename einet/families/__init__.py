"""The exponential families of the package, by name: `einet.load` finds them here.

A family of your own is one more frozen dataclass with the methods of `ExponentialFamily`; the contract is in
`tests/contract.py`, and an exercise of the chapter writes one.

Source: Section 3.4
"""

from __future__ import annotations

from einet.families.continuous import Exponential, Gamma, LogNormal, Normal
from einet.families.discrete import Bernoulli, Binomial, Categorical, Geometric, Poisson
from einet.families.mixed import WithAtoms
from einet.family import ExponentialFamily

FAMILIES: dict[str, type[ExponentialFamily]] = {
    family.__name__: family
    for family in (
        *(Normal, LogNormal, Exponential, Gamma, WithAtoms),
        *(Bernoulli, Binomial, Categorical, Poisson, Geometric),
    )
}
