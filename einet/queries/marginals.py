"""Questions to a density: marginals, conditionals, and the posterior of every variable, all exact.

Evidence and queries are bool masks over the variables, (D,), (B, D) or in the shape of the grid. A variable in neither
is integrated out, and may hold anything, NaN included. Every function takes a network or a mixture, and leaves nothing
behind in it. A network with several classes is asked about one of them, `labels`.

Any number of threads may ask one model, but not while another trains it: parameters would be half moved. Ask a
`copy.deepcopy` made between two steps.

Source: Section 2, Eq. (1)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from einet.layers.derivatives import ordinary
from einet.layers.scratch import CHUNK_NUMEL, slices
from einet.leaves.part import LeafPart
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries.passes import as_evidence, as_labels, check_evidence, check_model, chunks, log_evidence, networks_of
from einet.queries.quantiles import quantiles

# Eq. (1)


@torch.no_grad()
def log_marginal(model: Einet | Mixture, x: Tensor, observed: Tensor | None = None) -> Tensor:
    """log p(x_observed), all else integrated out: `model(x, observed)` without gradients, in chunks of bounded memory.

    Returns:
        Nats, (B,), or (B, num_classes) for a model with several classes.

    Source: Section 2
    """
    check_model(model)
    inside, mask = model.as_input(x, observed)
    log_densities = []
    for _, rows, seen in chunks(model, inside, mask):
        seen = None if seen is None else seen.T.expand(rows.shape[2], -1)
        log_densities.append(model(rows.permute(2, 0, 1), seen, check=False))
    return torch.cat(log_densities)


def log_conditional(model: Einet | Mixture, x: Tensor, query: Tensor, evidence: Tensor) -> Tensor:
    """log p(x_query | x_evidence) = log p(x_query, x_evidence) - log p(x_evidence), in nats, shaped as `log_marginal`.

    Raises:
        ValueError: query and evidence share a variable, or the evidence has density 0.

    Source: Section 2, Eq. (1)
    """
    query, evidence = _mask(model, x, query, "query"), _mask(model, x, evidence, "evidence")
    overlap = torch.atleast_2d(query & evidence).nonzero()
    if len(overlap):
        row, variable = overlap[0].tolist()
        raise ValueError(f"query and evidence overlap, first in variable {variable} of row {row}")
    log_evidence = log_marginal(model, x, evidence)
    check_evidence(log_evidence)
    return log_marginal(model, x, query | evidence) - log_evidence


def _mask(model: Einet | Mixture, x: Tensor, mask: Tensor, name: str) -> Tensor:
    """The mask as (D,) or (B, D), its shape and dtype checked."""
    mask = as_evidence(model, x, mask, check=False, name=name)[1].T
    return mask if len(mask) == len(x) else mask[0]


# The posterior of every variable


@dataclass(frozen=True)
class Marginals:
    """p(x_d | evidence) of each variable by itself: a mixture of leaf densities, weighted by responsibilities.

    Made by `conditional_marginals`. An observed variable is a point mass at its value. Results have the shape of the
    rows asked about.

    Attributes:
        responsibilities: for each of `networks` p(leaf entry k of region l is used | row b), (L, K, B).

    Source: Section 2 and 3.5, Eq. (6)
    """

    networks: tuple[Einet, ...]
    responsibilities: tuple[Tensor, ...]
    x: Tensor  # (D, C, B)
    observed: Tensor  # (D, B) or (D, 1)
    shape: tuple[int, ...]
    dtype: torch.dtype

    @torch.no_grad()
    def mean(self) -> Tensor:
        """E[x_d | evidence]; the value itself where observed."""
        mean = self._moments(1)[:, 0]
        return self._shaped(torch.where(self.observed[:, None], self.x.to(mean.dtype), mean))

    @torch.no_grad()
    def mean_in_logs(self, rate: float) -> Tensor:
        """log E[exp(rate x_d) | evidence] / rate: where x_d is a logarithm over rate, that of the mean.

        NaN for a variable that is not normal; the value itself where observed.

        Args:
            rate: positive.
        """
        mean = self._expected(lambda part, used: part.moments(used, self.x, self.observed, 1, rate), 1)[:, 0]
        return self._shaped(torch.where(self.observed[:, None], self.x.to(mean.dtype), torch.log(mean) / rate))

    @torch.no_grad()
    def variance(self) -> Tensor:
        """Var[x_d | evidence] = E[var + mean^2] - E[mean]^2 over the leaf entries; 0 where observed."""
        mean, square = self._moments(2).unbind(1)
        return self._shaped(torch.where(self.observed[:, None], 0, (square - mean**2).clamp_min(0)))

    @torch.no_grad()
    def probabilities(self) -> Tensor:
        """P(x_d = v | evidence) for v = 0, 1, ..., on one more axis, as long as the largest support.

        It is 0 beyond a variable's own support, and NaN for a variable that is not discrete; a `ValueError` if none is.
        """
        num_values = max(family.num_values or 0 for network in self.networks for family in network.families)
        if not num_values:
            raise ValueError("probabilities are those of discrete variables, and this model has none; see log_density")
        probabilities = self._expected(lambda part, used: part.tables(used, num_values), num_values)  # (D, V, C, B)
        value = torch.arange(num_values, device=self.x.device)[:, None, None]
        point = (self.x[:, None] == value).to(probabilities.dtype)
        point = torch.where(probabilities.isnan(), probabilities, point)
        probabilities = torch.where(self.observed[:, None, None], point, probabilities)
        return probabilities.permute(3, 0, 2, 1).reshape(*self.shape, -1).to(self.dtype)

    @torch.no_grad()
    def log_density(self, at: Tensor) -> Tensor:
        """log p(x_d = at | evidence) of each variable, all its channels at once, in nats: (B, D).

        Where observed it is 0 at the value and -inf elsewhere.

        Args:
            at: values in the shape of the rows, or what broadcasts to it; a `ValueError` for one outside the support.
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
        numel = sum(part.numel_at() for part in parts)
        log_density = [self._log_density(at[..., rows], rows) for rows in slices(batch, CHUNK_NUMEL // numel)]
        point = torch.where((at == self.x).all(1), 0.0, -torch.inf)
        return torch.where(self.observed, point, torch.cat(log_density, 1)).T.to(self.dtype)

    @torch.no_grad()
    def quantile(self, q: float | Sequence[float] | Tensor) -> Tensor:
        """The least x with P(x_d <= x | evidence) >= q, of each variable and channel; the value itself where observed.

        `quantile([0.05, 0.95])` are the ends of an interval that holds 90 % of what a missing entry may be.

        Args:
            q: one level within (0, 1), or some.

        Returns:
            In the shape of the rows, for several levels on one more axis, the first.

        Raises:
            ValueError: a level is not within (0, 1), or a family has no `log_probability`.
        """
        try:
            levels = torch.as_tensor(q, dtype=torch.float64, device=self.x.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"q must be numbers within (0, 1), got {q!r}") from error
        if levels.dim() > 1 or not levels.numel() or not ((levels > 0) & (levels < 1)).all():
            raise ValueError(f"q must be a number within (0, 1) or several, got {q}")
        wanted, finite = ~self.observed.all(1), self._finite()
        known = self.x, self.observed
        found = quantiles(self.networks, self.responsibilities, levels.reshape(-1), wanted & ~finite, *known)
        if (wanted & finite).any():
            num_values = max(family.num_values or 0 for network in self.networks for family in network.families)
            table = self._expected(lambda part, used: part.tables(used, num_values), num_values)[finite]
            below = table.cumsum(1)
            found[:, finite] = torch.stack([(below < q * below[:, -1:]).sum(1).double() for q in levels.reshape(-1)])
        found = torch.where(self.observed[:, None], self.x.double(), found)
        shaped = torch.stack([self._shaped(each) for each in found])
        return shaped if levels.dim() else shaped[0]

    def _finite(self) -> Tensor:
        """Which variables have finitely many values, (D,)."""
        finite = torch.ones_like(self.observed[:, 0])
        for network in self.networks:
            for family, variables in network.families.items():
                if family.num_values is None:
                    finite[list(variables)] = False
        return finite

    def _log_density(self, at: Tensor, rows: slice) -> Tensor:
        """log sum over a variable's leaf entries of responsibility * density, of some rows at (D, C, b): (D, b)."""
        variable, logs = [], []
        seen = self.observed if self.observed.shape[1] == 1 else self.observed[:, rows]
        for network, responsibilities in zip(self.networks, self.responsibilities, strict=True):
            for part in network.leaves.parts:
                answer = part.log_densities_at(at, responsibilities[..., rows], self.x[..., rows], seen)
                for variables, of_variables in answer:
                    variable.append(variables)
                    logs.append(of_variables)
        # log-sum-exp over the leaf regions of each variable.
        logs, variable = torch.cat(logs), torch.cat(variable)
        peak = logs.new_full((len(at), logs.shape[1]), -torch.inf)
        peak.scatter_reduce_(0, variable[:, None].expand_as(logs), logs, "amax")
        peak = peak.clamp_min(torch.finfo(peak.dtype).min)
        return peak + torch.zeros_like(peak).index_add_(0, variable, torch.exp(logs - peak[variable])).log()

    def _moments(self, order: int) -> Tensor:
        """E[x_d | evidence], and for order 2 E[x_d^2 | evidence], (D, order, C, B)."""
        return self._expected(lambda part, used: part.moments(used, self.x, self.observed, order), order)

    def _expected(self, sums: Callable[[LeafPart, Tensor], Iterator[tuple[Tensor, Tensor]]], width: int) -> Tensor:
        """An expectation given the evidence of every variable, (D, width, C, B) in float64.

        `sums(part, responsibilities)` are those of `LeafPart.moments` or `tables`: the last is of responsibilities.
        """
        num_variables, channels, batch = self.x.shape
        total = self.x.new_zeros(num_variables, width + 1, channels, batch, dtype=torch.float64)
        for network, responsibilities in zip(self.networks, self.responsibilities, strict=True):
            for part in network.leaves.parts:
                for variables, of_variables in sums(part, responsibilities):
                    total.index_add_(0, variables, of_variables)
        return total[:, :-1] / total[:, -1:]

    def _shaped(self, result: Tensor) -> Tensor:
        return result.permute(2, 0, 1).reshape(self.shape).to(self.dtype)


def conditional_marginals(
    model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor | int | None = None
) -> Marginals:
    """p(x_d | x_observed) of every variable d, exactly, by one backward pass.

    The probability that a row's tree ends in leaf entry k is the gradient d log P / d log L_k, as in the E-step of EM.

    Args:
        model: the density.
        x: rows, as in `Einet.forward`.
        observed: bool mask of the evidence, as in `Einet.forward`.
        labels: the class given, (B,) or one for all; only for a model with several.

    Raises:
        ValueError: as `Einet.forward` does, and for evidence of density 0.

    Source: Section 2 and 3.5, Eq. (6)
    """
    chunked = list(_marginals(model, x, observed, labels))
    by_network = zip(*(marginals.responsibilities for marginals in chunked), strict=True)
    responsibilities = tuple(torch.cat(several, 2) for several in by_network)
    inside, mask = as_evidence(model, x, observed)
    return Marginals(chunked[0].networks, responsibilities, inside, mask, tuple(x.shape), chunked[0].dtype)


def conditional_mean(model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor | int | None = None) -> Tensor:
    """E[x | x_observed], in the shape of `x`; the value itself where observed. Arguments as `conditional_marginals`.

    Source: Section 2
    """
    return torch.cat([marginals.mean() for marginals in _marginals(model, x, observed, labels)])


def conditional_variance(
    model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor | int | None = None
) -> Tensor:
    """Var[x_d | x_observed] in the shape of `x`; 0 where observed. Arguments as `conditional_marginals`.

    Source: Section 2
    """
    return torch.cat([marginals.variance() for marginals in _marginals(model, x, observed, labels)])


def _marginals(model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor | int | None) -> Iterator[Marginals]:
    """`Marginals` of chunks of the rows."""
    inside, mask = as_evidence(model, x, observed)
    labels = as_labels(model.num_classes, labels, len(x), inside.device)
    networks = tuple(networks_of(model))
    dtype = x.dtype if x.is_floating_point() else next(model.parameters()).dtype
    for chunk, rows, seen in chunks(model, inside, mask):
        shape = (rows.shape[2], *x.shape[1:])
        yield Marginals(networks, _responsibilities(model, rows, seen, labels[chunk]), rows, seen, shape, dtype)


def _responsibilities(model: Einet | Mixture, x: Tensor, observed: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """d log P / d log L of every leaf entry of every network, p(entry is used | row): (L, K, B)."""
    with torch.inference_mode(False):  # leaving it turns gradients on, in whatever mode the caller is
        if next(model.parameters()).is_inference():
            model = copy.deepcopy(model)  # autograd could not keep what was born in inference mode
        with torch.no_grad():
            leaves = [network.leaves(x, observed) for network in networks_of(model)]
        leaves = [leaf._replace(value=leaf.value.requires_grad_()) for leaf in leaves]
        total = log_evidence(model, leaves, x, observed).gather(0, ordinary(labels)[None])[0]
        check_evidence(total)
        gradients = torch.autograd.grad(total.sum(), [leaf.value for leaf in leaves])
    return tuple(leaf.uses(gradient) for leaf, gradient in zip(leaves, gradients, strict=True))
