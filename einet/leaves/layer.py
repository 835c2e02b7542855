"""The leaf layer of a network: a part for each family.

Source: Section 3.4
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from einet.family import LeafFamily
from einet.layers.scaled import Scaled
from einet.leaves.factorised import FamilyLeaves
from einet.leaves.joint_normal import JointNormalLeaves
from einet.leaves.part import LeafPart


class LeafLayer(nn.Module):
    """The vectors of K log-densities of all leaf regions: products over families, by default over variables, too.

        log L_k(x) = sum over variables d of the region:  T(x_d) . theta_dk - A(theta_dk)

    The base measure log h(x) is the same for every entry: the network adds it once, at the root.

    Args:
        scopes: the variables of each region.
        families: the variables of each family.
        num_entries: K.
        kind: type of the result, `LogScaled` for a network of products entry by entry.

    Source: Section 3.4
    """

    parts: Sequence[LeafPart]

    def __init__(
        self,
        scopes: Sequence[Sequence[int]],
        families: Mapping[LeafFamily, Sequence[int]],
        num_entries: int,
        kind: type[Scaled] = Scaled,
    ):
        super().__init__()
        self.num_nodes, self.num_entries, self.kind = len(scopes), num_entries, kind
        parts = [
            (JointNormalLeaves if family.joint else FamilyLeaves)(family, variables, scopes, num_entries)
            for family, variables in families.items()
        ]
        self.parts = cast(Sequence[LeafPart], nn.ModuleList(parts))

    def forward(self, x: Tensor, observed: Tensor | None) -> Scaled:
        """x (D, C, B), observed (D, B) or (D, 1), or None for all -> densities (L, K, B), less the base measure."""
        if len(self.parts) == 1:
            return self.parts[0].densities(x, observed, self.kind)
        total = torch.zeros(self.num_nodes, self.num_entries, x.shape[-1], dtype=torch.float64, device=x.device)
        for part in self.parts:
            for regions, log_density in part.log_densities(x, observed):
                total = total.index_add(0, regions, log_density.double())
        return self.kind.from_log(total, self.parts[0].phi.dtype)

    def log_base(self, x: Tensor, observed: Tensor | None) -> Tensor | float:
        """The sum of log h(x_d) over the observed variables, (B,)."""
        return sum(part.log_base(x, observed) for part in self.parts)
