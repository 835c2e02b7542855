"""Exact samples: whole rows, and the missing parts of rows given the rest.

Ancestral sampling: one upward pass with the evidence, then one downward pass that draws at every sum a child with
probability proportional to its weight times its value, for all samples and all nodes of a level at once. Draws are
independent; the cost is linear in their number.

Source: Section 2
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from einet.inputs import check_integers
from einet.leaves.evidence import Evidence
from einet.leaves.part import LeafPart, LeafVisits, Values
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries.boxes import Sets, as_boxes
from einet.queries.passes import (
    as_labels,
    check_evidence,
    check_model,
    chunks,
    descend,
    networks_of,
    result_dtype,
    upward,
    values,
    vectors_of,
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

    Args:
        model: the density.
        num_samples: N, at least 1.
        generator: on the model's device; without it every call draws anew. The global random state is left alone.
        labels: the class given, (N,) or one for all; only for a model with several.
        noise: if False, leaves answer with their modes. That is no draw from p(x), but shows what the sums chose: an
            equal generator chooses the same leaves either way.

    Source: Section 2
    """
    check_model(model)
    check_integers(num_samples=num_samples)
    device = next(model.parameters()).device
    draw = _Draw(generator, device, noise)
    labels = as_labels(model.num_classes, labels, num_samples, device)
    if isinstance(model, Einet):
        drawn = _draw_rows(model, labels, draw)
    else:
        drawn = _draw_mixed(model, model.weights[None], torch.zeros_like(labels), draw)
    return drawn[..., 0] if drawn.shape[2] == 1 else drawn


@torch.no_grad()
def sample_conditional(
    model: Einet | Mixture,
    x: Tensor,
    observed: Tensor,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    labels: Tensor | int | None = None,
    low: Tensor | float | None = None,
    high: Tensor | float | None = None,
    among: Sets | None = None,
    noise: bool = True,
) -> Tensor:
    """Draws of every row's missing entries, x_missing ~ p(x_missing | x_observed): (num_samples, *x.shape).

    A mixture's component is drawn for each sample, with its posterior probability given the row's observed entries.
    Within boxes, the variables of a `MultivariateNormal` leaf are drawn by rejection, which is exact.
    Observed entries come back bit for bit, in the dtype of `x`; integers that cannot hold draws come back as floats.

    Args:
        model: the density.
        x: rows, as in `Einet.forward`.
        observed: bool mask of the evidence, as in `Einet.forward`.
        num_samples: draws of each row, at least 1.
        generator: on the model's device; without it every call draws anew. The global random state is left alone.
        labels: the class given, (B,) or one for all; only for a model with several.
        low: missing entries are drawn given that they are at least this: as in `log_probability`.
        high: given that they are at most this.
        among: given that they are among these values.
        noise: if False, leaves answer with their modes, as in `sample`; not within boxes.

    Raises:
        ValueError: as `Einet.forward` and `log_probability` do, and for evidence of density 0, or that leaves a box of
            probability 0; for boxes without noise. A box in several variables of one `MultivariateNormal` leaf is so
            improbable that no try was within it.
        ImportError: as `log_probability` does.

    Source: Section 2, Eq. (1)
    """
    check_integers(num_samples=num_samples)
    if not noise and not (low is None and high is None and among is None):
        raise ValueError(f"noise must be True within low, high and among, got {noise}: a mode may lie outside")
    evidence = as_boxes(model, x, observed, low, high, among)
    device = evidence.x.device
    labels = as_labels(model.num_classes, labels, len(x), device)
    draw = _Draw(generator, device, noise)
    completed = [
        _complete(model, evidence.rows(chunk), num_samples, draw, labels[chunk])
        for chunk, _, _ in chunks(model, evidence.x, evidence.observed)
    ]
    drawn = evidence.rounded(torch.cat(completed, 1), result_dtype(networks_of(model)[0], x))
    seen = evidence.observed.T[..., None]  # (B or 1, D, 1)
    return torch.where(seen, x.reshape(drawn.shape[1:]).to(drawn.dtype), drawn).reshape(num_samples, *x.shape)


def _complete(model: Einet | Mixture, evidence: Evidence, num_samples: int, draw: _Draw, labels: Tensor) -> Tensor:
    """(num_samples, B, D, C), of which the unobserved entries matter."""
    row = torch.arange(len(labels), device=labels.device).repeat(num_samples)
    if isinstance(model, Einet):
        drawn = _draw_rows(model, labels, draw, evidence, row)
    else:
        joint = torch.stack([_log_density(c, evidence) for c in model.components], 1)
        check_evidence(joint.amax(1), evidence.first)
        odds = torch.softmax(joint + torch.log(model.weights.double()), 1)
        drawn = _draw_mixed(model, odds, row, draw, evidence)
    return drawn.unflatten(0, (num_samples, -1))


def _draw_mixed(model: Mixture, odds: Tensor, row: Tensor, draw: _Draw, evidence: Evidence | None = None) -> Tensor:
    """A component for each sample by the odds (B, components) of its row, then each component draws its samples."""
    component, result = draw(odds, row), torch.empty(0)
    for c, network in enumerate(model.components):
        own = (component == c).nonzero()[:, 0]
        if not len(own):
            continue
        labels = torch.zeros_like(own)
        if evidence is None:
            drawn = _draw_rows(network, labels, draw)
        else:  # one column of the upward pass for each row, however many samples it has
            columns, place = row[own].unique(return_inverse=True)
            drawn = _draw_rows(network, labels[: len(columns)], draw, evidence.rows(columns), place)
        if not len(result):
            result = drawn.new_empty(len(row), *drawn.shape[1:])
        result[own] = drawn
    return result


def _draw_rows(
    network: Einet,
    labels: Tensor,
    draw: _Draw,
    evidence: Evidence | None = None,
    column: Tensor | None = None,
) -> Tensor:
    """(N, D, C): a draw for each of `column` (N,), rows of the evidence, from the roots `labels` (B,)."""
    up = None
    if evidence is not None and column is not None:
        up = upward(network, vectors_of(network, evidence))
        check_evidence(up.outputs[-1].value[0].T.gather(1, labels[:, None])[:, 0].log(), evidence.first)
        labels = labels[column]
    visits = descend(network, labels, draw, up, column)
    return values(network, visits, len(labels), draw.value, evidence, column)


def _log_density(network: Einet, evidence: Evidence) -> Tensor:
    """log p(x_observed) times the probability of the box, (B,), in float64."""
    base = network.leaves.log_base(evidence.x, evidence.observed)
    return network.root(vectors_of(network, evidence)).log()[0, 0] + base


class _Draw:
    """Draws choices by inverting each row's distribution function at a uniform number for each visit."""

    def __init__(self, generator: torch.Generator | None, device: torch.device, noise: bool = True):
        if generator is None:
            generator = torch.Generator(device)
            generator.seed()
        self.generator, self.noise = generator, noise

    def value(self, part: LeafPart, visits: LeafVisits) -> Values:
        """Values at leaf entries. Without noise some are drawn all the same, so that later choices stay equal."""
        drawn = part.draws(visits, self.generator)
        if self.noise:
            return drawn
        deque(drawn, maxlen=0)
        return part.modes(visits)

    def __call__(self, odds: Tensor, which: Tensor) -> Tensor:
        num_rows, width = odds.shape
        # One ascending list for all rows: the distribution function of row r lies within (r, r + 1].
        cumulative = odds.double().cumsum(1)
        cumulative = cumulative / cumulative[:, -1:] + torch.arange(num_rows, device=odds.device)[:, None]
        uniform = torch.rand(len(which), generator=self.generator, dtype=torch.float64, device=odds.device)
        place = torch.searchsorted(cumulative.flatten(), uniform + which, right=True) - which * width
        return place.clamp(0, width - 1)
