"""Einsum Networks: densities with exact marginals, conditionals and samples, trained by EM.

    graph = einet.random_binary_trees(num_variables=16, depth=3, num_replicas=10, seed=0)
    model = einet.Einet(graph, einet.Bernoulli(), num_sums=10, seed=0)
    einet.fit(model, x)                        # x (B, 16)
    model(x), model(x, observed=mask)          # log-densities in nats, all, and of the observed entries alone

Modules, each using only those above it (import-linter holds it, by the contracts in pyproject.toml); four are packages:

    graph        regions and partitions: which variables a density is about, and how it is taken apart
    intervals    probabilities of intervals, and draws from them
    family       what a leaf family answers, for your own; families/ has those that there are, by name
    layers       the sum layers, each in one operation: the paper's einsum, products entry by entry, mixing
    leaves       the leaf layer: densities of all leaf regions, factorised or jointly normal
    inputs, identity    the checks of arguments; which model a state belongs to
    network      Einet, a graph compiled into layers
    em, mixture, reparametrize    EM as an optimizer; several networks as one density; other optimizers
    structures   graphs that nobody writes by hand: random binary trees, Poon-Domingos, quadrants, Chow-Liu trees
    queries      what a density is asked: marginals, conditionals, samples, modes, entropies
    data, starts, training        one pass over a data set; where EM starts from; the loop around it

and packages, named for what they are for, the last three of which are imported by name, as in
`from einet.tables import EinetClassifier`, since they need more than torch:

    families     Bernoulli, Binomial, Categorical, Poisson, Geometric; Normal,
                 MultivariateNormal, LogNormal, Exponential, Gamma; WithAtoms, Heaped
    gpu          fused kernels and training steps as CUDA graphs
    storage      models and training runs on disk
    clustered    mixtures that begin with k-means
    tables       scikit-learn's interface, for columns of any kind
    datasets     data sets, checked
    inpaint      a widget that answers, with a kernel or in a page alone; plotting draws graphs

Letters of tensors, trailed as comments in the code, `# (L, K, B)`:

    B  rows of a batch              the paper's N samples, a mini-batch of them
    D  variables                    D, in X = {X_1, ..., X_D}
    K  entries of a vector          K, the vector length: the nodes over one scope
    L  nodes of a layer             L, the vectorised sums of Eq. (5)
    R  replicas                     R, in the paper's leaf tensor B x D x K x R
    C  channels of a variable       not in the paper's formulas

and symbols: W weights (L, K, K * K) of Eq. (5); S sums; N, N' left and right children; T sufficient statistics, theta
natural and phi expectation parameters of a leaf (Section 3.4); lambda, the step size of EM (Eq. 8 and 9), is `lr`.

Source: Peharz et al. (2020), "Einsum Networks: Fast and Scalable Learning of Tractable Probabilistic Circuits"
"""

from einet.clustered.mixtures import fit_mixture
from einet.data import log_density
from einet.em import EM
from einet.families.continuous import Exponential, Gamma, LogNormal, MultivariateNormal, Normal
from einet.families.discrete import Bernoulli, Binomial, Categorical, Geometric, Poisson
from einet.families.heaped import Heaped
from einet.families.mixed import WithAtoms
from einet.family import ExponentialFamily
from einet.former import find_former_modules
from einet.graph import Partition, Region, RegionGraph
from einet.layers import log_einsum_exp, set_precision
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries import (
    Bounds,
    Estimate,
    Explanation,
    Marginals,
    conditional_marginals,
    conditional_mean,
    conditional_variance,
    entropy,
    entropy_bounds,
    kl,
    log_conditional,
    log_conditional_probability,
    log_marginal,
    log_probability,
    mpe,
    mutual_information,
    sample,
    sample_conditional,
    surprise,
)
from einet.reparametrize import constrained, unconstrained
from einet.starts import start_leaves
from einet.storage.checkpoint import load, load_optimizer, save
from einet.structures import chow_liu, pairwise_information, poon_domingos, quad_graph, random_binary_trees
from einet.training import History, fit

__all__ = [
    "Bernoulli",
    "Binomial",
    "Bounds",
    "Categorical",
    "EM",
    "Einet",
    "Estimate",
    "Explanation",
    "Exponential",
    "ExponentialFamily",
    "Gamma",
    "Geometric",
    "Heaped",
    "History",
    "LogNormal",
    "Marginals",
    "Mixture",
    "MultivariateNormal",
    "Normal",
    "Partition",
    "Poisson",
    "Region",
    "RegionGraph",
    "WithAtoms",
    "chow_liu",
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
    "log_conditional_probability",
    "log_density",
    "log_einsum_exp",
    "log_marginal",
    "log_probability",
    "mpe",
    "mutual_information",
    "pairwise_information",
    "poon_domingos",
    "quad_graph",
    "random_binary_trees",
    "sample",
    "sample_conditional",
    "save",
    "set_precision",
    "start_leaves",
    "surprise",
    "unconstrained",
]

find_former_modules()
