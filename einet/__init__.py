"""Einsum Networks: densities with exact marginals, conditionals and samples, trained by EM."""

from einet.em import EM, constrained, unconstrained
from einet.families import Bernoulli, Binomial, Categorical, ExponentialFamily, Normal
from einet.graph import Partition, Region, RegionGraph
from einet.layers import log_einsum_exp
from einet.mixture import Mixture
from einet.network import Einet
from einet.structures import poon_domingos, random_binary_trees
from einet.training import History, fit, log_density

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "EM",
    "Einet",
    "ExponentialFamily",
    "History",
    "Mixture",
    "Normal",
    "Partition",
    "Region",
    "RegionGraph",
    "constrained",
    "fit",
    "log_density",
    "log_einsum_exp",
    "poon_domingos",
    "random_binary_trees",
    "unconstrained",
]
