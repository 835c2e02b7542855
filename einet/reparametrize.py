"""Gradient training, to compare with EM: parameters without constraints, for any optimizer of torch.

    unconstrained(model)                                    # softmax weights, free leaves
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

Source: Section 3.5
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from einet.layers.sums import WEIGHT_FLOOR
from einet.leaves.part import Coordinates
from einet.network import Einet


@torch.inference_mode(False)  # parameters that are born there could not be trained
def unconstrained(model: Einet) -> Einet:
    """Reparametrize `model`, in place, so that any gradient optimizer may train it: softmax weights, free leaves.

    Afterwards `model.parameters()` are unconstrained and `torch.optim.Adam` applies; `constrained(model)` goes back to
    plain probabilities and expectation parameters.

    Returns:
        The model.

    Raises:
        ValueError: the model is unconstrained already.

    Source: Section 3.5
    """
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise ValueError("the model is parametrized for gradient training already")
    for layer in model.sum_layers():
        parametrize.register_parametrization(layer, "weights", _Softmax(layer.weight_dim))
    for part in model.leaves.parts:
        parametrize.register_parametrization(part, "phi", _Constrain(part.coordinates()))
    return model


@torch.inference_mode(False)  # parameters that are born there could not be trained
def constrained(model: Einet) -> Einet:
    """Undo `unconstrained`, in place, keeping the density.

    Returns:
        The model.

    Source: Section 3.5
    """
    for layer in model.sum_layers():
        parametrize.remove_parametrizations(layer, "weights")
    for part in model.leaves.parts:
        parametrize.remove_parametrizations(part, "phi")
    return model


class _Softmax(nn.Module):
    """Weights as a softmax of free numbers."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, raw: Tensor) -> Tensor:
        return torch.softmax(raw, self.dim)

    def right_inverse(self, weights: Tensor) -> Tensor:
        return torch.log(weights.clamp_min(WEIGHT_FLOOR))


class _Constrain(nn.Module):
    """The leaves' phi as a function of free numbers."""

    def __init__(self, coordinates: Coordinates):
        super().__init__()
        self.coordinates = coordinates

    def forward(self, raw: Tensor) -> Tensor:
        return self.coordinates.constrain(raw)

    def right_inverse(self, phi: Tensor) -> Tensor:
        return self.coordinates.unconstrain(phi)
