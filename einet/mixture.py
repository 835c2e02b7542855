"""A mixture of Einsum Networks: a density again, with every query of a single one.

    log P(x) = log sum_c w_c P_c(x)

Source: Section 4.2
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from einet.layers.sums import Weighted
from einet.network import Einet


class Mixture(Weighted):
    """A density that mixes networks: `model(x, observed)` is the log-density in nats, (B,), as of one network.

    For each row a query weighs the components by their posterior, log w_c + log P_c(evidence) - log P(evidence), never
    by the prior or the nearest cluster alone.

    Args:
        components: networks over the same variables, shape and channels, with one class.
        weights: (C,), positive and summing to 1.

    Source: Section 4.2
    """

    weight_dim = 0
    num_classes = 1

    @torch.inference_mode(False)  # parameters that are born there could not be trained
    def __init__(self, components: Sequence[Einet], weights: Tensor | Sequence[float]):
        super().__init__()
        self.components = cast(Sequence[Einet], nn.ModuleList(components))
        weights = torch.as_tensor(weights, dtype=torch.float64, device="cpu")
        if not len(components) or weights.shape != (len(components),):
            raise ValueError(f"need a weight for each of {len(components)} components, got {tuple(weights.shape)}")
        if not (weights > 0).all() or abs(weights.sum().item() - 1) > 1e-5:
            raise ValueError(f"weights must be positive and sum to 1, got {weights.tolist()}")
        wrong = [type(c).__name__ for c in components if not isinstance(c, Einet)]
        if wrong:
            raise ValueError(f"components must be Einets, got {wrong[0]}")
        kinds = {(c.graph.num_variables, c.graph.shape, c.channels, c.num_classes) for c in components}
        if len(kinds) > 1 or components[0].num_classes != 1:
            raise ValueError(
                "components must have the same variables, shape and channels, and one class; as (variables, shape, "
                f"channels, classes) they have {sorted(map(str, kinds))}"
            )
        self.weights = nn.Parameter((weights / weights.sum()).to(next(components[0].parameters())))
        families = [tuple(component.families.items()) for component in components]
        # The first component with each assignment of families validates the support.
        self.validating = {families.index(assignment) for assignment in families}

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments) -> None:
        """torch's step of `load_state_dict`: all components are compared before any parameter changes."""
        for i, component in enumerate(self.components):
            component.check_state(state_dict, f"{prefix}components.{i}.")
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def forward(self, x: Tensor, observed: Tensor | None = None, check: bool = True) -> Tensor:
        """log P(x_observed) in nats, (B,). Arguments and errors are those of `Einet.forward`."""
        return torch.logsumexp(self.log_joint(x, observed, check), 1)

    def log_joint(self, x: Tensor, observed: Tensor | None = None, check: bool = True) -> Tensor:
        """log w_c + log P_c(x_observed) for each component, (B, C): the posterior of c, up to the log-density."""
        log_densities = [c(x, observed, check and i in self.validating) for i, c in enumerate(self.components)]
        return torch.stack(log_densities, 1) + torch.log(self.weights)

    def as_input(
        self, x: Tensor, observed: Tensor | None, check: bool = True, name: str = "observed"
    ) -> tuple[Tensor, Tensor | None]:
        """As `Einet.as_input`."""
        for i in self.validating - {0} if check else ():
            self.components[i].as_input(x, observed, name=name)
        return self.components[0].as_input(x, observed, check, name)
