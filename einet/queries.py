"""Questions to a density: marginals, conditionals, and the posterior of every variable, all exact.

Evidence and queries are bool masks over the variables, (D,), (B, D) or in the shape of the grid;
what is in neither is integrated out, and may hold anything, NaN included. Every function takes a network or a mixture
and leaves nothing behind in it. A network with several classes is asked about one of them, `labels`.

Any number of threads may ask one model, but not while another trains it: an answer would come from parameters half
moved, or end in an error. Ask a `copy.deepcopy`, made between two steps.

Paper: Section 2, Eq. (1)
Chapter: book/12_queries
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from einet.derivatives import ordinary
from einet.mixture import Mixture
from einet.network import Einet
from einet.passes import (
    as_evidence,
    as_labels,
    check_evidence,
    check_model,
    networks_of,
    portions,
    table_of,
    values_of,
)
from einet.scratch import PORTION, slices

# Eq. (1)


@torch.no_grad()
def log_marginal(model: Einet | Mixture, x: Tensor, observed: Tensor | None = None) -> Tensor:
    """log p(x_observed), all else integrated out: nats, (B,), or (B, num_classes) for a model with several classes.

    `model(x, observed)` without gradients, in portions; errors are those of `Einet.forward`.

    Paper: Section 2
    Chapter: book/12_queries
    """
    check_model(model)
    inside, mask = model.as_input(x, observed)
    found = []
    for _, rows, seen in portions(model, inside, mask):
        seen = None if seen is None else seen.T.expand(rows.shape[2], -1)
        found.append(model(rows.permute(2, 0, 1), seen, check=False))
    return torch.cat(found)


def log_conditional(model: Einet | Mixture, x: Tensor, query: Tensor, evidence: Tensor) -> Tensor:
    """log p(x_query | x_evidence) = log p(x_query, x_evidence) - log p(x_evidence): nats, shaped as `log_marginal`.

    `ValueError` where query and evidence share a variable, and for evidence of density 0.

    Paper: Section 2, Eq. (1)
    Chapter: book/12_queries
    """
    query, evidence = _mask(model, x, query, "query"), _mask(model, x, evidence, "evidence")
    both = torch.atleast_2d(query & evidence).nonzero()
    if len(both):
        row, variable = both[0].tolist()
        raise ValueError(f"query and evidence overlap, first in variable {variable} of row {row}")
    given = log_marginal(model, x, evidence)
    check_evidence(given)
    return log_marginal(model, x, query | evidence) - given


def _mask(model: Einet | Mixture, x: Tensor, mask: Tensor, name: str) -> Tensor:
    """The mask as (D,) or (B, D), its shape and dtype checked."""
    mask = as_evidence(model, x, mask, check=False, name=name)[1].T
    return mask if len(mask) == len(x) else mask[0]


# The posterior of every variable


@dataclass(frozen=True)
class Marginals:
    """p(x_d | evidence) of each variable by itself: a mixture of leaf densities, weighted by how each row uses them.

    Made by `conditional_marginals`. An observed variable is a point mass at its value. Results have the shape of the
    rows asked about.

    uses    for each of `networks`, (L, K, B): the posterior probability that a row's tree ends in this leaf entry

    Paper: Section 2 and 3.5, Eq. (6)
    Chapter: book/12_queries
    """

    networks: tuple[Einet, ...]
    uses: tuple[Tensor, ...]
    x: Tensor  # (D, C, B)
    observed: Tensor  # (D, B) or (D, 1)
    shape: tuple[int, ...]
    dtype: torch.dtype

    @torch.no_grad()
    def mean(self) -> Tensor:
        """E[x_d | evidence]; the value itself where observed."""
        mean = self._expected(lambda family, phi: family.mean(phi)[None], 1)[:, 0]
        return self._shaped(torch.where(self.observed[:, None], self.x.to(mean.dtype), mean))

    @torch.no_grad()
    def variance(self) -> Tensor:
        """Var[x_d | evidence] = E[var + mean^2] - E[mean]^2 over the leaf entries; 0 where observed."""
        mean, square = self._expected(_mean_and_square, 2).unbind(1)
        return self._shaped(torch.where(self.observed[:, None], 0, (square - mean**2).clamp_min(0)))

    @torch.no_grad()
    def probabilities(self) -> Tensor:
        """P(x_d = v | evidence) for v = 0, 1, ..., on one more axis, which is as long as the largest support.

        0 for values beyond a variable's own support, and NaN for a variable that is not discrete. `ValueError` where
        none is.
        """
        counts = [values_of(family) for network in self.networks for family in network.families]
        most = max((count for count in counts if count is not None), default=0)
        if not most:
            raise ValueError("probabilities are those of discrete variables, and this model has none; see log_density")
        probabilities = self._expected(lambda family, phi: _padded(family, phi, most), most)  # (D, V, C, B)
        value = torch.arange(most, device=self.x.device)[:, None, None]
        point = (self.x[:, None] == value).to(probabilities.dtype)
        point = torch.where(probabilities.isnan(), probabilities, point)
        probabilities = torch.where(self.observed[:, None, None], point, probabilities)
        return probabilities.permute(3, 0, 2, 1).reshape(*self.shape, -1).to(self.dtype)

    @torch.no_grad()
    def log_density(self, at: Tensor) -> Tensor:
        """log p(x_d = at | evidence) of each variable, all its channels at once: (B, D), in nats.

        `at` has the shape of the rows, or broadcasts to it. Where observed, 0 at the value and -inf elsewhere.
        `ValueError` for values outside the support.
        """
        num_variables, channels, batch = self.x.shape
        at = torch.as_tensor(at, dtype=torch.float64, device=self.x.device)
        try:
            at = at.expand(self.shape)
        except RuntimeError as error:
            raise ValueError(f"at must broadcast to the rows' shape {self.shape}, got {tuple(at.shape)}") from error
        at = at.reshape(batch, num_variables, channels).permute(1, 2, 0)
        parts = [part for network in self.networks for part in network.leaves.parts]
        for part in parts:
            part.family.check(at[part.variables])
        numbers = sum(part.phi[0].numel() * (1 if part.family.indicator else len(part.phi)) for part in parts)
        found = [self._log_density(at[..., some], some) for some in slices(batch, PORTION // numbers)]
        point = torch.where((at == self.x).all(1), 0.0, -torch.inf)
        return torch.where(self.observed, point, torch.cat(found, 1)).T.to(self.dtype)

    def _log_density(self, at: Tensor, some: slice) -> Tensor:
        """log sum over a variable's leaf entries of use * density, for `some` rows, at (D, C, b): (D, b), float64."""
        variable, logs = [], []
        for network, uses in zip(self.networks, self.uses, strict=True):
            for part in network.leaves.parts:
                for rows, pairs, variables in part.groups():
                    phi = part.phi[:, pairs].unflatten(1, variables.shape)[..., None].double()  # (T, L, s, C, K, 1)
                    each = part.family.log_density(at[variables][:, :, :, None], phi).sum(2)  # (L, s, K, b)
                    log_uses = torch.log(uses[rows, None, :, some].double())
                    logs.append(torch.logsumexp(each + log_uses, 2).flatten(0, 1))
                    variable.append(variables.flatten())
        logs, variable = torch.cat(logs), torch.cat(variable)
        peak = logs.new_full((len(at), logs.shape[1]), -torch.inf)
        peak.scatter_reduce_(0, variable[:, None].expand_as(logs), logs, "amax")
        peak = peak.clamp_min(torch.finfo(peak.dtype).min)
        return peak + torch.zeros_like(peak).index_add_(0, variable, torch.exp(logs - peak[variable])).log()

    def _expected(self, function: Callable, width: int) -> Tensor:
        """E[f | evidence] of every variable: (D, Q, C, B), in float64; `function(family, phi)` is f (Q, ...), of
        `width` Q, for phi (|T|, ...). Beside the answer, temporaries of a portion of the leaf parameters exist."""
        num_variables, channels, batch = self.x.shape
        found = self.x.new_zeros(num_variables, width + 1, channels, batch, dtype=torch.float64)
        for network, uses in zip(self.networks, self.uses, strict=True):
            for part in network.leaves.parts:
                numbers = max(width + 1, len(part.phi)) * channels * max(part.phi.shape[-1], batch)
                for rows, pairs, variables in part.groups():
                    phi = part.phi[:, pairs].unflatten(1, variables.shape)  # (T, L, s, C, K)
                    own = slices(variables.shape[1], PORTION // numbers)  # of the variables of a region
                    for nodes in slices(len(rows), PORTION // (numbers * variables.shape[1])):
                        weights = uses[rows[nodes]].double()
                        for d in own:
                            values = function(part.family, phi[:, nodes, d].double())
                            values = torch.cat((values, torch.ones_like(values[:1])))  # the last one counts the uses
                            values = values.movedim(0, 2)  # (L, s, Q, C, K)
                            sums = (values.flatten(1, 3) @ weights).unflatten(1, values.shape[1:4])
                            found.index_add_(0, variables[nodes, d].flatten(), sums.flatten(0, 1))
        return found[:, :-1] / found[:, -1:]

    def _shaped(self, each: Tensor) -> Tensor:
        return each.permute(2, 0, 1).reshape(self.shape).to(self.dtype)


def _padded(family, phi: Tensor, width: int) -> Tensor:
    """`table_of` the family, (width, ...): 0 beyond its support, NaN where it has none that is finite."""
    if values_of(family) is None:
        return phi.new_full((width, *phi.shape[1:]), torch.nan)
    table = table_of(family, phi)
    return torch.cat((table, table.new_zeros(width - len(table), *table.shape[1:])))


def _mean_and_square(family, phi: Tensor) -> Tensor:
    mean = family.mean(phi)
    return torch.stack((mean, family.variance(phi) + mean**2))


def conditional_marginals(
    model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor | int | None = None
) -> Marginals:
    """p(x_d | x_observed) of every variable d, exactly, from one backward pass: a `Marginals`.

    The probability that a row's tree ends in leaf entry k is d log P / d log L_k, a gradient, as in the E-step of EM.
    x, observed   as in `Einet.forward`
    labels        for a model with several classes: (B,), or one for all; given the label, too

    `ValueError` for what `Einet.forward` refuses, and for evidence of density 0.

    Paper: Section 2 and 3.5, Eq. (6)
    Chapter: book/12_queries
    """
    found = list(_marginals(model, x, observed, labels))
    uses = tuple(torch.cat(parts, 2) for parts in zip(*(each.uses for each in found), strict=True))
    inside, mask = as_evidence(model, x, observed)
    return Marginals(found[0].networks, uses, inside, mask, tuple(x.shape), found[0].dtype)


def conditional_mean(model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor | int | None = None) -> Tensor:
    """E[x | x_observed], in the shape of `x`; observed entries are their own mean. See `conditional_marginals`.

    Paper: Section 2
    Chapter: book/12_queries
    """
    return torch.cat([each.mean() for each in _marginals(model, x, observed, labels)])


def conditional_variance(
    model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor | int | None = None
) -> Tensor:
    """Var[x_d | x_observed] of each variable, in the shape of `x`; 0 where observed. As `conditional_marginals`.

    Paper: Section 2
    Chapter: book/12_queries
    """
    return torch.cat([each.variance() for each in _marginals(model, x, observed, labels)])


def _marginals(model, x: Tensor, observed: Tensor, labels):
    """`Marginals` of portions of the rows."""
    inside, mask = as_evidence(model, x, observed)
    labels = as_labels(model.num_classes, labels, len(x), inside.device)
    dtype = x.dtype if x.is_floating_point() else next(model.parameters()).dtype
    for some, rows, seen in portions(model, inside, mask):
        shape = (rows.shape[2], *x.shape[1:])
        yield Marginals(tuple(networks_of(model)), _uses(model, rows, seen, labels[some]), rows, seen, shape, dtype)


def _uses(model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """d log P / d log L of every leaf entry of every network: (L, K, B)."""
    with torch.inference_mode(False):  # and gradients again, in whatever mode the caller is
        if next(model.parameters()).is_inference():
            model = copy.deepcopy(model)  # autograd could not keep what was born in inference mode
        with torch.no_grad():
            leaves = [network.leaves(x, observed) for network in networks_of(model)]
        leaves = [leaf._replace(value=leaf.value.requires_grad_()) for leaf in leaves]
        log_densities = []
        for network, leaf in zip(networks_of(model), leaves, strict=True):
            root = network.upward(leaf)[-1].log()[0]  # (num_classes, B)
            log_densities.append(root.gather(0, ordinary(labels)[None])[0])
        total = log_densities[0]
        if isinstance(model, Mixture):
            total = torch.logsumexp(torch.stack(log_densities, 1) + torch.log(model.weights.detach().double()), 1)
        check_evidence(total)
        gradients = torch.autograd.grad(total.sum(), [leaf.value for leaf in leaves])
    return tuple(leaf.uses(gradient) for leaf, gradient in zip(leaves, gradients, strict=True))
