"""Exact samples: whole rows, and the missing parts of rows given the rest.

Ancestral sampling: one upward pass with the evidence, then one downward pass that draws, at every sum, a child with
probability proportional to its weight times its value, for all samples and all nodes of a level at once. Every draw is
independent and follows the model exactly; the cost is linear in the number of samples.

Paper: Section 2
Chapter: book/12_queries
"""

from __future__ import annotations

import torch
from torch import Tensor

from einet.family import ExponentialFamily
from einet.mixture import Mixture
from einet.network import Einet
from einet.passes import (
    as_evidence,
    as_labels,
    check_evidence,
    check_model,
    descend,
    networks_of,
    portions,
    result_dtype,
    upward,
    values,
)


@torch.no_grad()
def sample(
    model: Einet | Mixture,
    num_samples: int,
    generator: torch.Generator | None = None,
    labels: Tensor | int | None = None,
    noise: bool = True,
) -> Tensor:
    """Independent draws x ~ p(x): (N, D), or (N, D, C) for families with C channels.

    generator   on the model's device; without it every call draws anew. The global random state is left alone
    labels      for a model with several classes: (N,), or one for all; the rows are drawn from p(x | label)
    noise       if False, leaves answer with their modes. That is no draw from p(x), but shows what the sums chose: an
                equal generator chooses the same leaves either way

    `ValueError` unless num_samples >= 1.

    Paper: Section 2
    Chapter: book/12_queries
    """
    check_model(model)
    _check_count(num_samples)
    device = next(model.parameters()).device
    draw = _Draw(generator, device, noise)
    labels = as_labels(model.num_classes, labels, num_samples, device)
    if isinstance(model, Einet):
        drawn = _draw_rows(model, labels, draw)
    else:
        drawn = _draw_mixed(model, model.weights[None], torch.zeros_like(labels), draw, None, None)
    return drawn[..., 0] if drawn.shape[2] == 1 else drawn


@torch.no_grad()
def sample_conditional(
    model: Einet | Mixture,
    x: Tensor,
    observed: Tensor,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    labels: Tensor | int | None = None,
) -> Tensor:
    """Draws of every row's missing entries, x_missing ~ p(x_missing | x_observed): (num_samples, *x.shape).

    x, observed   as in `Einet.forward`; unobserved entries may hold anything. Observed entries come back bit for bit,
                  in the dtype of `x`; integers that cannot hold the draws of a real variable come back as floats
    generator     on the model's device; without it every call draws anew. The global random state is left alone
    labels        for a model with several classes: (B,), or one for all; given the label, too

    A mixture's component is drawn for each sample, with its posterior probability given the row's observed entries.
    `ValueError` for num_samples < 1, for what `Einet.forward` refuses, and for evidence of density 0.

    Paper: Section 2, Eq. (1)
    Chapter: book/12_queries
    """
    _check_count(num_samples)
    inside, mask = as_evidence(model, x, observed)
    labels = as_labels(model.num_classes, labels, len(x), inside.device)
    draw = _Draw(generator, inside.device)
    found = [
        _complete(model, rows, seen, num_samples, draw, labels[some])
        for some, rows, seen in portions(model, inside, mask)
    ]
    drawn = torch.cat(found, 1).to(result_dtype(networks_of(model)[0], x))
    seen = mask.T[..., None]  # (B or 1, D, 1)
    return torch.where(seen, x.reshape(drawn.shape[1:]).to(drawn.dtype), drawn).reshape(num_samples, *x.shape)


def _complete(model, x: Tensor, observed: Tensor, num_samples: int, draw: _Draw, labels: Tensor) -> Tensor:
    """x (D, C, B) and observed (D, B or 1) -> (num_samples, B, D, C), of which the unobserved entries matter."""
    row = torch.arange(x.shape[2], device=x.device).repeat(num_samples)
    if isinstance(model, Einet):
        drawn = _draw_rows(model, labels, draw, x, observed, row)
    else:
        joint = torch.stack([_log_density(c, x, observed) for c in model.components], 1)
        check_evidence(joint.amax(1))
        odds = torch.softmax(joint + torch.log(model.weights.double()), 1)
        drawn = _draw_mixed(model, odds, row, draw, x, observed)
    return drawn.unflatten(0, (num_samples, -1))


def _draw_mixed(model: Mixture, odds: Tensor, row: Tensor, draw: _Draw, x: Tensor | None, observed: Tensor | None):
    """A component for each sample by the odds (B, components) of its row, then each component draws its samples."""
    component = draw(odds, row)
    drawn = None
    for c, network in enumerate(model.components):
        own = (component == c).nonzero()[:, 0]
        if not len(own):
            continue
        labels = torch.zeros_like(own)
        if x is None:
            rows = _draw_rows(network, labels, draw)
        else:
            used, place = row[own].unique(return_inverse=True)
            seen = observed if observed.shape[1] == 1 else observed[:, used]
            rows = _draw_rows(network, labels[: len(used)], draw, x[:, :, used], seen, place)
        drawn = rows.new_empty(len(row), *rows.shape[1:]) if drawn is None else drawn
        drawn[own] = rows
    return drawn


def _draw_rows(network: Einet, labels: Tensor, draw: _Draw, x=None, observed=None, row=None) -> Tensor:
    """(N, D, C): a draw for each of `row` (N,), columns of x (D, C, B), from the roots `labels` (B,)."""
    passed = None
    if x is not None:
        passed = upward(network, network.leaves(x, observed))
        check_evidence(passed.outputs[-1].value[0].T.gather(1, labels[:, None])[:, 0].log())
        labels = labels[row]
    visits = descend(network, labels, draw, passed, row)
    return values(network, visits, len(labels), draw.value)


def _log_density(network: Einet, x: Tensor, observed: Tensor) -> Tensor:
    """log p(x_observed) less the base measure, which all components share: (B,), in float64."""
    return network.upward(network.leaves(x, observed))[-1].log()[0, 0]


class _Draw:
    """Picks by lot: the inverse of each row's distribution function, at a uniform number for each visit."""

    def __init__(self, generator: torch.Generator | None, device: torch.device, noise: bool = True):
        if generator is None:
            generator = torch.Generator(device)
            generator.seed()
        self.generator, self.noise = generator, noise

    def value(self, family: ExponentialFamily, phi: Tensor) -> Tensor:
        """A value for each leaf entry. Without noise one is drawn, too: later choices are then those with noise."""
        drawn = family.sample(phi, self.generator)
        return drawn if self.noise else family.mode(phi)

    def __call__(self, odds: Tensor, which: Tensor) -> Tensor:
        num_rows, width = odds.shape
        # All rows in one ascending list: row r of the distribution functions lies within (r, r + 1].
        reached = odds.double().cumsum(1)
        reached = reached / reached[:, -1:] + torch.arange(num_rows, device=odds.device)[:, None]
        uniform = torch.rand(len(which), generator=self.generator, dtype=torch.float64, device=odds.device)
        place = torch.searchsorted(reached.flatten(), uniform + which, right=True) - which * width
        return place.clamp(0, width - 1)


def _check_count(num_samples: int) -> None:
    if not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(f"num_samples must be an integer of at least 1, got {num_samples!r}")
