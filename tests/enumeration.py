"""A small discrete model as the table of its joint distribution: what every query and sampler is compared with."""

import numpy as np
import torch
from oracle import worlds
from scipy import stats
from strategies import in_float64

from einet import (
    Bernoulli,
    Binomial,
    Categorical,
    Einet,
    Mixture,
    RegionGraph,
    poon_domingos,
    random_binary_trees,
)

UNEVEN = RegionGraph(
    [range(6), {0, 1, 2}, {3, 4, 5}, {0, 1}, {2}, {1, 2}, {0}, {3}, {4, 5}, {0, 1, 2, 3}, {1}, {0, 1, 2}],
    [(0, 1, 2), (0, 8, 9), (1, 3, 4), (1, 6, 5), (2, 7, 8), (9, 1, 7), (9, 7, 11), (3, 6, 10), (5, 4, 10)],
)
# Partitions into two, three and four, of leaves and inner regions, which two roots of trees share.
MANY = RegionGraph(
    [range(6), {0, 1, 2}, {3, 4}, {0}, {1}, {2}, {3}, {4}, {5}, {2, 3, 4, 5}],
    [(0, 1, 2, 8), (0, 3, 4, 9), (1, 3, 4, 5), (2, 6, 7), (9, 5, 6, 7, 8), (9, 2, 5, 8)],
)
MIXED = {Bernoulli(): [0, 3], Categorical(categories=3): [1, 4], Binomial(total=2): [2, 5]}


def _binary(**arguments):
    return Einet(random_binary_trees(8, 2, 3, seed=0), Bernoulli(), **{"num_sums": 3, "seed": 0, **arguments})


def _mixture():
    return Mixture([_binary(seed=seed, num_sums=2 + seed) for seed in range(3)], [0.2, 0.5, 0.3])


MODELS = {
    "trees": _binary,
    "ten variables": lambda: Einet(random_binary_trees(10, 3, 2, seed=1), Bernoulli(), num_sums=4, seed=3),
    "rectangles": lambda: Einet(poon_domingos((2, 4), 1), Bernoulli(), num_sums=3, num_leaves=2, seed=0),
    "uneven, mixed": lambda: Einet(UNEVEN, MIXED, num_sums=2, num_leaves=3, seed=0),
    "no depth": lambda: Einet(random_binary_trees(6, 0, 1), MIXED, num_sums=3, seed=0),
    "classes": lambda: _binary(num_classes=3),
    "mixture": _mixture,
    "thin": lambda: Einet(UNEVEN, MIXED, num_sums=3, sum_product="cp", seed=0),
    "many children": lambda: Einet(MANY, MIXED, num_sums=3, sum_product="cp", seed=0),
    "many children, classes": lambda: Einet(MANY, MIXED, num_sums=2, num_classes=3, sum_product="cp", seed=0),
}


def small_model(name):
    """One of the models in float64, its parameters less timid than those that training starts from."""
    model = MODELS[name]()
    for network in getattr(model, "components", [model]):
        with torch.no_grad():
            for layer in network.sum_layers():
                layer.weights.pow_(3)
            for part in network.leaves.parts:
                part.phi.copy_(part.family.constrain(2.5 * part.family.unconstrain(part.phi)))
        in_float64(network)
    if isinstance(model.double(), Mixture):
        with torch.no_grad():
            model.weights /= model.weights.sum()
    return model


def labels_of(model):
    """What a model with several classes is asked about, as keywords."""
    return {} if model.num_classes == 1 else {"labels": 1}


class Table:
    """worlds (W, D) and their probabilities (W,), given class 1 where there are several."""

    def __init__(self, model):
        network = model.components[0] if isinstance(model, Mixture) else model
        self.worlds = worlds(network)
        log_density = model(self.worlds).detach()
        self.probabilities = (log_density if model.num_classes == 1 else log_density[:, 1]).exp()
        most = self.worlds.amax(0).long() + 1
        self.stride = torch.tensor([int(most[d + 1 :].prod()) for d in range(len(most))])

    def given(self, row, observed):
        """p(world | the observed entries of one row), (W,)."""
        agrees = (self.worlds[:, observed] == row[observed]).all(1)
        posterior = self.probabilities * agrees
        return posterior / posterior.sum()

    def marginal(self, row, observed):
        return self.probabilities[(self.worlds[:, observed] == row[observed]).all(1)].sum()

    def p_value(self, samples, posterior=None):
        """Pearson's chi-square test of samples (N, D) against the table; rare worlds are counted together."""
        expected = (self.probabilities if posterior is None else posterior).numpy() * len(samples)
        counts = torch.bincount((samples.long() * self.stride).sum(1), minlength=len(self.worlds)).numpy()
        return chi_square(counts, expected)


def chi_square(counts, expected):
    if counts[expected == 0].any():
        return 0.0  # what cannot be has been drawn
    order = np.argsort(expected)
    rare = order[np.cumsum(expected[order]) < 5]
    rare = order[: len(rare) + 1]  # together at least 5
    common = np.setdiff1d(order, rare[expected[rare] < 5])
    together = [i for i in rare if expected[i] < 5]
    counts = np.append(counts[common], counts[together].sum())
    expected = np.append(expected[common], expected[together].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    statistic = ((counts - expected) ** 2 / expected).sum()
    return stats.chi2.sf(statistic, len(counts) - 1)


def check_p_values(p_values):
    """No tiny one among them, and all together as uniform as they are when the sampler is right."""
    assert min(p_values) > 0.001, f"smallest p-value {min(p_values):.2g}"
    small = sum(p < 0.1 for p in p_values)
    most = stats.binom.isf(1e-3, len(p_values), 0.1)
    assert small <= most, f"{small} of {len(p_values)} p-values are below 0.1, at most {most:.0f} are by chance"
    uniform = stats.kstest(p_values, "uniform").pvalue
    assert uniform > 0.001, f"the p-values are not uniform: {uniform:.2g}"
