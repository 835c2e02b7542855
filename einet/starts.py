"""Where EM starts from: leaves around rows of the data. (How weights are drawn is `Einet(..., concentration=...)`.)

    model = einet.Einet(graph, einet.Bernoulli(), concentration=0.1, seed=0)
    einet.start_leaves(model, x, seed=0)
    einet.fit(model, x)

Parameters that know nothing of the rows are, in high dimension, very different densities of every row, and the entry
that happens to be nearest takes them all; entries that are alike stay alike, since EM moves them alike.

Paper: not in it; Section 3.5 for EM
Chapter: book/07_em
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from einet.rows import Rows, check_positive
from einet.mixture import Mixture
from einet.network import Einet
from einet.trees import networks_of

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
    distinct: bool = True,
    seed: int = 0,
) -> None:
    """Put every entry of every leaf region around rows of `x` of its own, in place: for any family, before training.

    rows     how many random rows an entry starts around; the same ones for all variables of its region
    share    in [0, 1]: an entry expects E[T(x)] = share * the mean of T over its rows + (1 - share) * that over all
    distinct whether every distinct row of the region's variables is as likely to be drawn: a variable that is 1 in one
             row of a thousand then has entries that start around 1. Else rows are as likely as they are frequent
    seed     of the choice of rows; the global random state is left alone

    What is missing counts neither among an entry's rows nor in the mean; a variable that no row has keeps its
    parameters. Weights stay as they are. `ValueError` for data that do not fit the model, and settings out of range;
    nothing has changed then.

    Paper: not in it
    Chapter: book/07_em
    """
    check_positive(rows=rows)
    if not 0 <= share <= 1:
        raise ValueError(f"share must be within [0, 1], got {share}")
    data = Rows(model, x, observed)
    generator = torch.Generator("cpu").manual_seed(seed)
    for network in networks_of(model):
        values, mask = network.as_input(*data.some(slice(None)), check=False)
        leaves = network.leaves
        shape = (leaves.num_nodes, leaves.num_entries, rows)
        if distinct:
            scopes = [network.graph.regions[leaf].scope for leaf in network.leaf_order]
            chosen = _distinct(scopes, torch.Size(shape[1:]), values, mask, generator)
        else:
            chosen = torch.randint(len(x), shape, generator=generator, device="cpu")
        for part in leaves.parts:
            part.start(values, mask, chosen.to(values.device), share)


def _distinct(
    scopes: Sequence[tuple[int, ...]],
    shape: torch.Size,
    x: Tensor,
    observed: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """For each scope so many rows of x (D, C, B), (L, *shape): each as likely as there are few like it in the scope."""
    some = torch.randperm(x.shape[-1], generator=generator, device="cpu")[:CANDIDATES]
    numbers = x[..., some.to(x.device)].cpu().double()
    if observed is not None:
        mask = observed.expand(-1, x.shape[-1])[:, some.to(x.device)].cpu()
        numbers = torch.cat((numbers, mask[:, None].double()), 1)  # what is missing is 0, which is a value, too
    # Equal values have equal codes, and rows that are alike in a scope equal sums of these, each times a random number.
    _, codes = numbers.unique(return_inverse=True)
    times = torch.randint(-(2**62), 2**62, codes.shape[:2], generator=generator, device="cpu")
    sums = (codes * times[..., None]).sum(1)
    chosen = {}
    for scope in scopes:
        if scope not in chosen:
            _, which, count = sums[list(scope)].sum(0).unique(return_inverse=True, return_counts=True)
            chosen[scope] = count.float().reciprocal()[which]
    drawn = [chosen[scope].multinomial(shape.numel(), True, generator=generator) for scope in scopes]
    return some[torch.stack(drawn)].view(len(scopes), *shape)
