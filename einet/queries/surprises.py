"""How much each cell of a row surprises, given the rest of the row: all cells from one backward pass.

A tree ends in one leaf entry k of the regions that hold variable d. With r_k, the probability given the row that it is
this one, and its density p_k(x_d),

    p(x without d) / p(x) = sum_k r_k / p_k(x_d)

Source: not in the paper; Section 3.5, Eq. (6), for r_k
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from einet.layers.derivatives import ordinary
from einet.layers.scaled import LogScaled, Scaled
from einet.layers.scratch import CHUNK_NUMEL, slices
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries.passes import (
    as_labels,
    check_evidence,
    check_model,
    chunks,
    log_evidence,
    log_maxima,
    log_sums,
    log_vectors,
    networks_of,
    regions_of_pairs,
)

# A gradient below e^-600 may have lost digits in float64, or itself, on its way from the root.
LOST = -600.0
# What is lost may change a result by e^-30 of itself, which is below the rounding of float64 for a thousand entries.
NEGLIGIBLE = -30.0


def surprise(
    model: Einet | Mixture, x: Tensor, observed: Tensor | None = None, labels: Tensor | int | None = None
) -> Tensor:
    """-log p(x_d | all other observed cells of the row) in nats for every cell: which cell of an odd row is odd.

    Of a discrete variable it is at least 0; of others it depends on the unit, as densities do. Computed in float64
    whatever the model's dtype. A cell so far from some leaf entries that these leave the range of float64 costs a pass
    of its own.

    Args:
        model: the density.
        x: rows, as in `Einet.forward`.
        observed: bool mask of what is known, as in `Einet.forward`; None where everything is.
        labels: the class given, (B,) or one for all; only for a model with several.

    Returns:
        (B, D), all channels of a variable at once; NaN where not observed. The dtype is that of `x`, or of the model
        where `x` holds whole numbers.

    Raises:
        ValueError: as `Einet.forward` does, and for a row of density 0.

    Source: not in the paper; Section 3.5, Eq. (6), for the responsibilities
    """
    check_model(model)
    inside, mask = model.as_input(x, observed)
    mask = torch.ones_like(inside[:, 0, :1], dtype=torch.bool) if mask is None else mask
    labels = as_labels(model.num_classes, labels, len(x), inside.device)
    with torch.inference_mode(False):  # leaving it turns gradients on, in whatever mode the caller is
        exact = copy.deepcopy(model).double()
        inside = ordinary(inside).double()
        result = [
            _surprises(exact, rows, ordinary(seen), ordinary(labels[chunk]), chunk.start)
            for chunk, rows, seen in chunks(exact, inside, mask)
        ]
    dtype = x.dtype if x.is_floating_point() else next(model.parameters()).dtype
    return torch.where(mask, torch.cat(result, 1), math.nan).T.to(dtype)


def _surprises(model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor, first: int) -> Tensor:
    """The surprise of each cell of x (D, C, B), (D, B); anything where it is not observed."""
    with torch.no_grad():
        logs = [log_vectors(network, x, observed) for network in networks_of(model)]
    leaves = [n.leaves.kind.from_log(log, log.dtype) for n, log in zip(networks_of(model), logs, strict=True)]
    for own in leaves:
        own.value.requires_grad_()
    log_density = log_evidence(model, leaves, x, observed).gather(0, labels[None])[0]
    check_evidence(log_density, first)
    gradients = torch.autograd.grad(log_density.sum(), [own.value for own in leaves])
    with torch.no_grad():
        terms = [_terms(*each, x) for each in zip(networks_of(model), leaves, logs, gradients, strict=True)]
        variables, uses, lost = (torch.cat(each) for each in zip(*terms, strict=True))
        result = log_sums(uses, variables, len(x))
        unsafe = ((log_maxima(lost, variables, len(x)) - result > NEGLIGIBLE) & observed).nonzero()
        if len(unsafe):
            variable, row = unsafe.T
            without = _log_densities_without(model, x, observed, labels, variable, row)
            result[variable, row] = without - log_density[row]
    return result


def _terms(network: Einet, leaves: Scaled, logs: Tensor, gradient: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each pair of a region and a variable the variable, log sum_k r_k / p_k(x_d), and how much may be lost of it.

    log r_k is taken apart: log of the gradient, and of the density as it is scaled, which may be too small for a
    double. Where the scaled densities are logarithms, the gradient is r_k itself.
    """
    scaled = torch.zeros_like(logs) if isinstance(leaves, LogScaled) else logs - leaves.log_scale[:, None]
    gradient, variables, terms, lost = torch.log(gradient), [], [], []
    for part in network.leaves.parts:
        region, numel = regions_of_pairs(part), max(2, len(part.phi)) * part.phi[0, 0].numel() * x.shape[2]
        for pairs in slices(len(region), CHUNK_NUMEL // numel):
            own, d = region[pairs], part.pairs[pairs]
            density = part.family.log_density(x[d][:, :, None], part.phi[:, pairs, ..., None]).sum(1)  # (p, K, B)
            rest = torch.where(density > -math.inf, scaled[own] - density, math.inf)
            known = torch.where(density > -math.inf, gradient[own] + rest, -math.inf)
            terms.append(torch.logsumexp(known, 1))
            lost.append(LOST + rest.amax(1))
            variables.append(d)
    return torch.cat(variables), torch.cat(terms), torch.cat(lost)


def _log_densities_without(
    model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor, variable: Tensor, row: Tensor
) -> Tensor:
    """log p of the observed entries of a row but for a variable, for some rows and variables (n,), by a pass each."""
    x, labels, observed = x[:, :, row], labels[row], observed.expand(-1, x.shape[2])[:, row]
    observed[variable, torch.arange(len(row), device=row.device)] = False
    result = []
    for rows, own, seen in chunks(model, x, observed):
        leaves = [network.leaves(own, seen) for network in networks_of(model)]
        result.append(log_evidence(model, leaves, own, seen).gather(0, labels[None, rows])[0])
    return torch.cat(result)
