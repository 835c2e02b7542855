"""EM whose histograms of grey levels are smooth: each row counts as a bell of levels around its own.

A leaf of 256 shares is used by one row in K. So few counts jump from level to level where the truth does not, and the
next expectation step believes the jumps. Black and white, the lowest and the highest level, are not blurred.

Source: not in the paper
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from einet import EM, Einet, Mixture
from einet.families.discrete import Categorical
from einet.leaves.part import LeafPart

REACH = 3  # standard deviations to which a bell reaches


class BlurredEM(EM):
    """`EM` of networks with `Categorical` leaves alone, whose counts are blurred by a bell.

    Args:
        model: an `Einet`, or a `Mixture` of some.
        lr: see `EM`; so is `pseudocount`.
        pseudocount: see `lr`.
        width: standard deviation of the bell, in levels.
    """

    def __init__(self, model: Einet | Mixture, lr: float, pseudocount: float, width: float):
        super().__init__(model, lr, pseudocount)
        self.width = width
        foreign = [part.family for part in self._parts() if not isinstance(part.family, Categorical)]
        if foreign:
            raise ValueError(f"leaves must be Categorical to be blurred, got {foreign[0]}")

    def _parts(self) -> list[LeafPart]:
        return [part for network in self.networks for part in network.leaves.parts]

    @torch.no_grad()
    def step(self, closure=None):
        if closure is not None:
            raise ValueError("closure must be None: what it computes would not be blurred")
        for part in self._parts():
            if part.phi.grad is not None:
                counts = part.phi * part.phi.grad
                part.phi.grad.copy_(blurred(counts, self.width)).div_(part.phi)
        return super().step()


def blurred(counts: Tensor, width: float) -> Tensor:
    """Counts (levels, ...), of which each but the first and the last level's is spread over its neighbours."""
    inner, steps = counts[1:-1], int(REACH * width)
    offset = torch.arange(-steps, steps + 1, dtype=counts.dtype)
    bell = torch.exp(-(offset**2) / (2 * width**2))
    # What would fall off an end stays: each level's own bell is cut there, and sums to 1.
    inside = F.conv1d(torch.ones(1, 1, len(inner), dtype=counts.dtype), bell[None, None], padding=steps)[0, 0]
    given = inner / inside.view(-1, *[1] * (counts.dim() - 1))
    mixed = torch.zeros_like(inner)
    for step, share in zip(range(-steps, steps + 1), bell.tolist(), strict=True):
        n = len(inner) - abs(step)
        mixed[max(step, 0) : max(step, 0) + n].add_(given[max(-step, 0) : max(-step, 0) + n], alpha=share)
    return torch.cat((counts[:1], mixed, counts[-1:]))


@torch.no_grad()
def blur_(network: Einet, width: float) -> None:
    """Blur the histograms of all leaves, in place."""
    for part in network.leaves.parts:
        part.phi.copy_(blurred(part.phi, width))
