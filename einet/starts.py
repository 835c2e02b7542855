"""Where EM starts from: leaves around rows of the data. (How weights are drawn is `Einet(..., concentration=...)`.)

    model = einet.Einet(graph, einet.Bernoulli(), concentration=0.1, seed=0)
    einet.start_leaves(model, x, seed=0)
    einet.fit(model, x)

In high dimension the entry of random parameters that happens to be nearest to the data wins every row by hundreds of
nats. Entries that are alike stay alike, since EM moves them alike. Leaves that start around rows avoid both.

Source: not in the paper; Section 3.5 for EM
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from einet.data import CheckedData
from einet.inputs import as_number, check_integers
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries.passes import networks_of

# Rows that entries are drawn from, at most, where each is compared with all others.
CANDIDATES = 10_000


@torch.inference_mode(False)  # parameters that are written to there could not be trained
def start_leaves(
    model: Einet | Mixture,
    x: Tensor,
    observed: Tensor | None = None,
    *,
    rows: int = 1,
    share: float = 0.8,
    keep: float = 0.0,
    distinct: bool = True,
    seed: int = 0,
) -> None:
    """Put every entry of every leaf region around rows of `x` of its own, in place: for any family, before training.

    An entry then expects

        E[T(x)] = share * (mean of T over its rows) + keep * (what it expected) + rest * (mean of T over all rows)

    Missing values count in neither mean, and a variable that no row has keeps its parameters. Weights stay as they are.

    Args:
        model: the density.
        x: rows, as in `Einet.forward`.
        observed: bool, as in `Einet.forward`.
        rows: how many random rows an entry starts around; the same ones for all variables of its region.
        share: within [0, 1].
        keep: within [0, 1 - share].
        distinct: whether every distinct row of the region's variables is equally likely to be drawn, so that a variable
            that is 1 in one row of a thousand has entries that start around 1. Else rows are as likely as they are
            frequent.
        seed: of the choice of rows; the global random state is left alone.

    Raises:
        ValueError: the data do not fit the model, or a setting is out of range. Nothing has changed then.

    Source: not in the paper
    """
    check_integers(rows=rows)
    share = as_number("share", share, "within [0, 1]", lambda number: 0 <= number <= 1)
    most = 1 - share
    keep = as_number("keep", keep, f"within [0, 1 - share={most:.4g}]", lambda number: 0 <= number <= most + 1e-9)
    data = CheckedData(model, x, observed)
    generator = torch.Generator("cpu").manual_seed(seed)
    for network in networks_of(model):
        values, mask = network.as_input(*data.select(slice(None)), check=False)
        leaves = network.leaves
        shape = (leaves.num_nodes, leaves.num_entries, rows)
        if distinct:
            scopes = [network.graph.regions[leaf].scope for leaf in network.leaf_order]
            chosen = _distinct(scopes, torch.Size(shape[1:]), values, mask, generator)
        else:
            chosen = torch.randint(len(x), shape, generator=generator, device="cpu")
        for part in leaves.parts:
            part.start(values, mask, chosen.to(values.device), share, keep)


def _distinct(
    scopes: Sequence[tuple[int, ...]], shape: torch.Size, x: Tensor, observed: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Row numbers of x (D, C, B) for each scope, (L, *shape): a row that k rows equal in the scope has weight 1 / k."""
    candidates = torch.randperm(x.shape[-1], generator=generator, device="cpu")[:CANDIDATES]
    numbers = x[..., candidates.to(x.device)].cpu().double()
    if observed is not None:
        mask = observed.expand(-1, x.shape[-1])[:, candidates.to(x.device)].cpu()
        numbers = torch.cat((numbers, mask[:, None].double()), 1)  # missing values are 0
    # Rows that are equal in a scope have equal sums of codes, each times a random number of its variable.
    _, codes = numbers.unique(return_inverse=True)
    times = torch.randint(-(2**62), 2**62, codes.shape[:2], generator=generator, device="cpu")
    sums = (codes * times[..., None]).sum(1)
    weights = {}
    for scope in set(scopes):
        _, which, count = sums[list(scope)].sum(0).unique(return_inverse=True, return_counts=True)
        weights[scope] = count.float().reciprocal()[which]
    drawn = [weights[scope].multinomial(shape.numel(), True, generator=generator) for scope in scopes]
    return candidates[torch.stack(drawn)].view(len(scopes), *shape)
