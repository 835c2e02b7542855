"""Entropy, divergence and mutual information, in nats.

Densities and small marginals are exact; an expectation over all variables is sampled, or bounded.

Source: not in the paper; its densities and marginals make these possible
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from einet.family import ExponentialFamily
from einet.inputs import check_integers
from einet.layers.scaled import Gathered, Scaled, fetched
from einet.layers.scratch import CHUNK_NUMEL
from einet.layers.sums import SumLayer
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries.marginals import conditional_marginals, log_marginal
from einet.queries.passes import check_model, networks_of, upward
from einet.queries.sampling import sample

# Joint values that `mutual_information` enumerates at most.
MAX_JOINT_VALUES = 2**16


class Estimate(NamedTuple):
    """A mean over samples, in nats, and its standard error.

    Source: not in the paper; the usual Monte Carlo estimate
    """

    value: float
    standard_error: float


def kl(
    p: Einet | Mixture, q: Einet | Mixture, num_samples: int = 10_000, generator: torch.Generator | None = None
) -> Estimate:
    """KL(p || q) = E_p[log p(x) - log q(x)], estimated without bias from samples of p.

    Args:
        p: the density that is sampled.
        q: another over the same variables and channels.
        num_samples: at least 2.
        generator: on the device of p; without it every call draws anew.

    Raises:
        ValueError: a model has several classes, or a sample of p is outside the support of q.

    Source: not in the paper; the densities are exact, the expectation is sampled
    """
    _check_one_class(q)
    x = _samples(p, num_samples, generator)
    return _estimate(log_marginal(p, x).double() - log_marginal(q, x).double())


def entropy(model: Einet | Mixture, num_samples: int = 10_000, generator: torch.Generator | None = None) -> Estimate:
    """H = -E[log p(x)], estimated without bias from samples; `entropy_bounds` has bounds without sampling.

    Args and errors are those of `kl`.

    Source: not in the paper; the densities are exact, the expectation is sampled
    """
    return _estimate(-log_marginal(model, _samples(model, num_samples, generator)).double())


def _samples(model: Einet | Mixture, num_samples: int, generator: torch.Generator | None) -> Tensor:
    check_integers(least=2, num_samples=num_samples)  # fewer have no standard error
    _check_one_class(model)
    return sample(model, num_samples, generator)


def _check_one_class(model: Einet | Mixture) -> None:
    check_model(model)
    if model.num_classes != 1:
        raise ValueError(f"the model must have one class, got {model.num_classes}")


def _estimate(terms: Tensor) -> Estimate:
    return Estimate(terms.mean().item(), (terms.std() / len(terms) ** 0.5).item())


# Bounds on the entropy


class Bounds(NamedTuple):
    """lower <= value <= upper, in nats.

    Source: not in the paper
    """

    lower: float
    upper: float


@torch.no_grad()
def entropy_bounds(model: Einet | Mixture) -> Bounds:
    """H(x | z) <= H(x) <= min(H(x, z), sum_d H(x_d)), exactly and without sampling.

    z is the induced tree that x comes from (see `passes`), and both sides follow from one pass up, for every entry

        H(x | z) = sum_ij W_ij (H_i + H_j),     H(x, z) the same - sum_ij W_ij log W_ij

    The gap is at most H(z), which is large in a large circuit. There the second upper bound helps. Entropies of single
    variables come from `conditional_marginals` given nothing; where a family has infinitely many values, from a normal
    density of the same variance.

    Raises:
        ValueError: the model has several classes, or a family does not know its `entropy`.

    Source: not in the paper; latent variables as in Section 3.5
    """
    _check_one_class(model)
    given_tree, joint = torch.stack([_entropies(network) for network in networks_of(model)], 1)
    if isinstance(model, Mixture):  # one more choice, at the top
        weights = model.weights.double()
        given_tree, joint = weights * given_tree, weights * joint - torch.xlogy(weights, weights)
    return Bounds(given_tree.sum().item(), min(joint.sum().item(), _sum_of_entropies(model)))


def _entropies(network: Einet) -> Tensor:
    """H(x | z) and H(x, z): the two columns of an upward pass whose values are entropies."""
    entropies = network.leaves.parts[0].phi.new_zeros(network.leaves.num_nodes, network.num_leaves, dtype=torch.float64)
    for part in network.leaves.parts:
        of_pairs = _entropy_of(part.family, part.phi.double()).sum(1)  # (P, K)
        for regions, pairs, variables in part.groups():
            entropies.index_add_(0, regions, of_pairs[pairs].unflatten(0, variables.shape).sum(1))
    leaves = Scaled(entropies[..., None].repeat(1, 1, 2), entropies.new_zeros(len(entropies), 2))
    return upward(network, leaves, _entropies_of).outputs[-1].value[0, 0]


def _entropies_of(layer: SumLayer, *inputs: Scaled | Gathered) -> Scaled:
    """The operation of a pass of entropies, which stand where densities do and have no scale."""
    entropies = layer.entropies(*(vectors.value for vectors in fetched(inputs)))
    return Scaled(entropies, entropies.new_zeros(len(entropies), 2))


def _entropy_of(family: ExponentialFamily, phi: Tensor) -> Tensor:
    """The entropy of each density of a family, phi (|T|, P, C, K) -> (P, C, K), in bounded memory."""
    step = max(1, CHUNK_NUMEL // ((family.num_values or 1) * phi[0, 0].numel()))
    return torch.cat([family.entropy(chunk) for chunk in phi.split(step, 1)])


def _entropy_of_table(probabilities: Tensor, dim: int = 0) -> Tensor:
    return -torch.xlogy(probabilities, probabilities).sum(dim)


def _sum_of_entropies(model: Einet | Mixture) -> float:
    """sum_d H(x_d), or more where a variable has not finitely many values."""
    network = networks_of(model)[0]
    num_variables = network.graph.num_variables
    phi = network.leaves.parts[0].phi
    x = phi.new_zeros(1, num_variables, network.channels, dtype=torch.float64)
    marginals = conditional_marginals(model, x, torch.zeros(num_variables, dtype=torch.bool, device=phi.device))
    total = torch.zeros_like(x)
    for family, variables in network.families.items():
        if family.num_values is None:
            total[:, variables] = family.max_entropy(marginals.variance()[:, variables])
        else:
            total[:, variables] = _entropy_of_table(marginals.probabilities()[:, variables], -1)
    return total.sum().item()


# Mutual information


def mutual_information(model: Einet | Mixture, a: Sequence[int], b: Sequence[int]) -> float:
    """I(a; b) = sum over the values of x_a and x_b of p(x_a, x_b) log(p(x_a, x_b) / p(x_a) p(x_b)), in nats, exactly.

    Args:
        model: a density with one class.
        a: discrete variables. All joint values of a and b are enumerated, the other variables integrated out.
        b: discrete variables, none of them in a.

    Raises:
        ValueError: a and b are empty, overlap, are not discrete, or have more than 65536 joint values.

    Source: not in the paper; marginals as in Section 2
    """
    _check_one_class(model)
    a, b = list(a), list(b)
    supports = [support for d in a + b for support in _supports(model, a, b, d)]
    if math.prod(supports) > MAX_JOINT_VALUES:
        raise ValueError(
            f"{a} and {b} have {math.prod(supports)} joint values, at most {MAX_JOINT_VALUES} are enumerated"
        )
    joint = _joint(model, a + b, torch.tensor(list(product(*map(range, supports))), dtype=torch.float64))
    values_of_a = math.prod(supports[: len(a) * networks_of(model)[0].channels])
    joint = (joint / joint.sum()).view(values_of_a, -1)
    information = _entropy_of_table(joint.sum(1)) + _entropy_of_table(joint.sum(0)) - _entropy_of_table(joint.flatten())
    return max(0.0, information.item())


def _supports(model: Einet | Mixture, a: list[int], b: list[int], variable: int) -> list[int]:
    """The number of values of each channel of a variable."""
    networks = networks_of(model)
    if not a or not b or len({*a, *b}) < len(a) + len(b):
        raise ValueError(f"a and b must be non-empty, disjoint and without repetition, got {a} and {b}")
    families = {f for network in networks for f, variables in network.families.items() if variable in variables}
    if not families:
        raise ValueError(f"variables are from 0 to {networks[0].graph.num_variables - 1}, got {variable}")
    for family in families:
        if family.num_values is None:
            raise ValueError(f"values are enumerated, so variables must be discrete, got {variable}: {family}")
    return [max(family.num_values or 0 for family in families)] * networks[0].channels


def _joint(model: Einet | Mixture, variables: list[int], worlds: Tensor) -> Tensor:
    """p(x_variables = world) of each world (W, channels * variables): (W,), in float64."""
    network = networks_of(model)[0]
    device = network.leaves.parts[0].phi.device
    observed = torch.zeros(network.graph.num_variables, dtype=torch.bool)
    observed[variables] = True
    log_probabilities = []
    for chunk in worlds.split(1024):
        x = chunk.new_zeros(len(chunk), network.graph.num_variables, network.channels)
        x[:, variables] = chunk.view(len(chunk), len(variables), -1)
        log_probabilities.append(log_marginal(model, x.to(device), observed.to(device)))
    return torch.cat(log_probabilities).double().exp()
