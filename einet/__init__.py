"""Einsum Networks: densities with exact marginals, conditionals and samples, trained by EM."""

from einet.checkpoint import load, load_optimizer, save
from einet.clusters import fit_mixture
from einet.em import EM, constrained, unconstrained
from einet.explain import Explanation, mpe
from einet.families import Bernoulli, Binomial, Categorical, ExponentialFamily, Normal
from einet.graph import Partition, Region, RegionGraph
from einet.information import Bounds, Estimate, entropy, entropy_bounds, kl, mutual_information
from einet.layers import log_einsum_exp
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries import (
    Marginals,
    conditional_marginals,
    conditional_mean,
    conditional_variance,
    log_conditional,
    log_marginal,
)
from einet.sampling import sample, sample_conditional
from einet.structures import poon_domingos, random_binary_trees
from einet.training import History, fit, log_density

__all__ = [
    "Bernoulli",
    "Binomial",
    "Bounds",
    "Categorical",
    "EM",
    "Einet",
    "Estimate",
    "Explanation",
    "ExponentialFamily",
    "History",
    "Marginals",
    "Mixture",
    "Normal",
    "Partition",
    "Region",
    "RegionGraph",
    "conditional_marginals",
    "conditional_mean",
    "conditional_variance",
    "constrained",
    "entropy",
    "entropy_bounds",
    "fit",
    "fit_mixture",
    "kl",
    "load",
    "load_optimizer",
    "log_conditional",
    "log_density",
    "log_einsum_exp",
    "log_marginal",
    "mpe",
    "mutual_information",
    "poon_domingos",
    "random_binary_trees",
    "sample",
    "sample_conditional",
    "save",
    "unconstrained",
]
