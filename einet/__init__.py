"""Einsum Networks: densities with exact marginals, conditionals and samples, trained by EM.

    graph = einet.random_binary_trees(num_variables=16, depth=3, num_replicas=10, seed=0)
    model = einet.Einet(graph, einet.Bernoulli(), num_sums=10, seed=0)
    einet.fit(model, x)                        # x (B, 16)
    model(x), model(x, observed=mask)          # log-densities in nats, all, and of the observed entries alone

Modules, each using only those above it (import-linter holds it, by the contract in pyproject.toml):

    graph        regions and partitions: which variables a density is about, and how it is taken apart
    structures   ready-made graphs: random binary trees, Poon-Domingos, quadrants
    exponential_family        what a leaf family answers, for your own
    discrete, continuous, families  Bernoulli, Binomial, Categorical, Poisson, Geometric; Normal, LogNormal,
                 Exponential, Gamma; all of them by name
    scratch, derivatives, scaled    memory that is used again, second derivatives, densities that do not underflow
    kernels, einsum                 log_einsum_exp, the paper's operation, with its derivatives; kernels is for GPUs
    leaves       the leaf layer: densities of all leaf regions as grouped matrix products
    layers       what a sum layer is, and the three that there are: einsum, thin and mixing layers
    children, inputs, identity, network   Einet: a graph compiled into layers; children tells where a layer finds its
                 own, inputs checks what it is given, identity tells which model a state belongs to
    learned      graphs learned from rows: Chow-Liu trees
    mixture, em  several networks as one density; EM as an optimizer
    trees, queries, sampling, explain, information    what a density is asked; trees has the passes that they share
    files, checkpoint               models on disk
    rows, starts, training, clusters    one pass over a data set; where EM starts from; the loop around it; mixtures
                 that begin with k-means
    cells, columns, estimator, datasets, plotting, inpaint    what becomes of a table, scikit-learn's interface, data
                 sets, figures, a widget: what needs more than torch, and is imported by name, as in
                 `from einet.estimator import EinetClassifier`

Letters of tensors, trailed as comments in the code, `# (L, K, B)`:

    B  rows of a batch              the paper's N samples, a mini-batch of them
    D  variables                    D, in X = {X_1, ..., X_D}
    K  entries of a vector          K, the vector length: the nodes over one scope
    L  nodes of a layer             L, the vectorised sums of Eq. (5)
    R  replicas                     R, in the paper's leaf tensor B x D x K x R
    C  channels of a variable       not in the paper's formulas

and symbols: W weights (L, K, K * K) of Eq. (5); S sums; N, N' left and right children; T sufficient statistics, theta
natural and phi expectation parameters of a leaf (Section 3.4); lambda, the step size of EM (Eq. 8 and 9), is `lr`.

Paper: Peharz et al. (2020), "Einsum Networks: Fast and Scalable Learning of Tractable Probabilistic Circuits"
Chapter: book/intro
"""

from einet.checkpoint import load, load_optimizer, save
from einet.clusters import fit_mixture
from einet.continuous import Exponential, Gamma, LogNormal, Normal
from einet.discrete import Bernoulli, Binomial, Categorical, Geometric, Poisson
from einet.einsum import log_einsum_exp
from einet.em import EM, constrained, unconstrained
from einet.explain import Explanation, mpe
from einet.exponential_family import ExponentialFamily
from einet.graph import Partition, Region, RegionGraph
from einet.information import Bounds, Estimate, entropy, entropy_bounds, kl, mutual_information
from einet.layers import set_precision
from einet.learned import chow_liu, pairwise_information
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
from einet.rows import log_density
from einet.sampling import sample, sample_conditional
from einet.structures import poon_domingos, quad_graph, random_binary_trees
from einet.starts import start_leaves
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
    "History",
    "LogNormal",
    "Marginals",
    "Mixture",
    "Normal",
    "Partition",
    "Poisson",
    "Region",
    "RegionGraph",
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
    "log_density",
    "log_einsum_exp",
    "log_marginal",
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
    "unconstrained",
]
