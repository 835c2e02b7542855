"""The families of the package, by name: `einet.load` finds them here.

A family of your own is one more frozen dataclass with the methods of `ExponentialFamily`; the contract is in
`tests/contract.py`, and an exercise of the chapter writes one.

Source: Section 3.4
"""

from __future__ import annotations

from einet.families.continuous import Exponential, Gamma, LogNormal, MultivariateNormal, Normal
from einet.families.discrete import Bernoulli, Binomial, Categorical, Geometric, Poisson
from einet.families.heaped import Heaped
from einet.families.mixed import WithAtoms
from einet.family import LeafFamily

FAMILIES: dict[str, type[LeafFamily]] = {
    family.__name__: family
    for family in (
        *(Normal, MultivariateNormal, Exponential, Gamma, LogNormal, WithAtoms, Heaped),
        *(Bernoulli, Binomial, Categorical, Poisson, Geometric),
    )
}
