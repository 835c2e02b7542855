"""Networks that classes are offered, each with a root for every class.

    shared covariance   a class is one product: its columns of numbers are one multivariate normal, with the same
                        covariance in every class, and the others independent (linear discriminant analysis with
                        categories and any gaps; of counts and the like it is no density, but it knows their classes)
    naive Bayes         a class is one product of columns
    mixture-M           a class has M components of its own, products of columns
    joint mixture-M     the same, with the real columns of a component as one multivariate normal
    random trees        random binary trees, whose entries the classes share

Source: Section 4.1 for a root for each class
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from einet.layers.sums import WEIGHT_FLOOR
from einet.leaves.joint_normal import JointNormalLeaves
from einet.network import Einet
from einet.starts import start_leaves
from einet.structures.learned import Structure, graph_of
from einet.structures.ready_made import random_binary_trees
from einet.tables.candidates import Families, joined, one_sum
from einet.tables.discriminative import Rows
from einet.tables.selection import fix_constant_columns
from einet.training import History, fit

# Components of a class.
COMPONENTS = 3
JOINT_COMPONENTS = 2
# Steps of EM: one tells all where a class is one product of what was observed, and a few where cells are missing.
STEPS, STEPS_OF_GAPS, STEPS_OF_TREES = 25, 8, 10
# How much a component that starts around a row of its class is this row. A factor of the `leaf_pseudocount`.
START_SHARE, SHRINKAGE = 0.5, 30.0
# A factor of that for joint leaves.
JOINT_SHRINKAGE = 1e-3
# Rows of the components' common covariance that each component of its own covariance is shrunk by.
ROWS_OF_COMMON, FEW_ROWS_OF_COMMON = 20.0, 5.0
# Random trees: entries of a region, trees, rows that a leaf entry starts around.
ENTRIES, TREES, ROWS_PER_ENTRY = 6, 5, 10


@dataclass(frozen=True)
class ClassCandidate:
    """A network to be trained and measured.

    Attributes:
        name: for people.
        structure: its graph, or a function from rows and masks to it.
        families: its leaves, as in `Einet`.
        components: of each class, which then are the entries of one sum; None: classes share `num_sums` entries.
        num_sums: K.
        common: rows of the components' common covariance that each is shrunk by; infinite, it has no other.
        steps: of EM.

    Source: not in the paper
    """

    name: str
    structure: Structure
    families: Families
    components: int | None = None
    num_sums: int = ENTRIES
    common: float = 0.0
    steps: int = STEPS


def class_candidates(
    families: Families, reals: list[int], numbers: list[int], floor: float, num_columns: int, settings: dict
) -> list[ClassCandidate]:
    """What competes for a table.

    Args:
        families: of the columns, as if each was by itself.
        reals: columns that may be joint.
        numbers: columns that may be joint where a common covariance tells classes.
        floor: the smallest variance of a joint density.
        num_columns: of the table.
        settings: `num_replicas`, `num_sums` and `seed` of the random trees.

    Source: not in the paper
    """
    alone = one_sum(num_columns, [])
    found = []
    if len(numbers) > 1:
        joint, graph = joined(families, numbers, floor), one_sum(num_columns, numbers)
        found.append(ClassCandidate("shared covariance", graph, joint, 1, common=math.inf))
    if len(reals) > 1:
        joint, graph, name = joined(families, reals, floor), one_sum(num_columns, reals), "joint mixture"
        own = JOINT_COMPONENTS
        found.append(ClassCandidate(f"{name}-{own}", graph, joint, own, common=ROWS_OF_COMMON))
    trees = random_binary_trees(num_columns, 1 if num_columns < 8 else 2, settings["num_replicas"], settings["seed"])
    return [
        *found,
        ClassCandidate("naive Bayes", alone, families, 1),
        ClassCandidate(f"mixture-{COMPONENTS}", alone, families, COMPONENTS, common=FEW_ROWS_OF_COMMON),
        ClassCandidate("random trees", trees, families, num_sums=settings["num_sums"], steps=STEPS_OF_TREES),
    ]


def class_network(
    candidate: ClassCandidate,
    rows: Rows,
    num_classes: int,
    constant: list[int],
    *,
    epochs: int,
    pseudocount: float,
    leaf_pseudocount: float,
    seed: int,
) -> tuple[Einet, History]:
    """A candidate that learned log p(x, y) from rows by EM.

    Args:
        candidate: what to train.
        rows: x, observed, labels and weights, as in `tables.discriminative`.
        num_classes: of the labels, each of which has a row.
        constant: columns of a single value.
        epochs: most steps of EM.
        pseudocount: as in `einet.EM`.
        leaf_pseudocount: as in `einet.EM`.
        seed: of what is drawn.

    Source: Section 3.5
    """
    x, observed, labels, weights = rows
    own = candidate.components
    num_sums = candidate.num_sums if own is None else num_classes * own
    sum_product = "tucker" if own is None else "cp"
    graph = graph_of(candidate.structure, x, observed, x.shape[1], sum_product)
    sizes = {"num_sums": num_sums, "num_classes": num_classes, "sum_product": sum_product}
    model = Einet(graph, dict(candidate.families), **sizes, seed=seed).double()
    steps = candidate.steps
    if own is None:
        start_leaves(model, x, observed, rows=ROWS_PER_ENTRY, distinct=False, seed=seed)
    else:
        _own_entries(model, own)
        if own == 1:  # all alike: the first step then has each class's rows by themselves
            start_leaves(model, x, observed, share=0)
            there = [d for d in range(x.shape[1]) if d not in constant]
            steps = 1 if bool(observed[:, there].all()) else STEPS_OF_GAPS
        else:
            _start_in_classes(model, x, observed, labels, own, seed)
    fix_constant_columns(model, constant)
    options = {"epochs": min(steps, epochs), "pseudocount": pseudocount, "weights": weights}
    history = _em(model, rows, leaf_pseudocount=leaf_pseudocount, **options)
    alone = [(part, part.phi.detach().clone()) for part in model.leaves.parts if not part.family.joint]
    if len(alone) < len(model.leaves.parts):  # rows of independent columns would hide how narrow a joint density is
        history = _em(model, rows, leaf_pseudocount=JOINT_SHRINKAGE * leaf_pseudocount, **options)
        for part, phi in alone:
            part.phi.data.copy_(phi)
    if candidate.common:
        count = torch.ones(len(x)) if weights is None else weights
        of_classes = torch.zeros(num_classes).double().index_add(0, labels, count.double())
        share_covariances(model, of_classes, candidate.common)
    return model, history


def _em(model: Einet, rows: Rows, **options: Any) -> History:
    x, observed, labels, _ = rows
    with warnings.catch_warnings():  # that a single component does not move is no news
        warnings.filterwarnings("ignore", "training ended", UserWarning)
        return fit(model, x, observed, labels, batch_size=None, lr=1.0, progress=False, **options)


@torch.no_grad()
def _own_entries(model: Einet, own: int) -> None:
    """Give each class so many entries of the root, and of the others a trace, for rows that are far from its own."""
    weights = model.sum_layers()[-1].weights
    classes = model.num_classes
    blocks = torch.eye(classes, dtype=weights.dtype).repeat_interleave(own, 1).clamp_min(WEIGHT_FLOOR)
    weights.copy_((blocks / blocks.sum(1, keepdim=True)).view(weights.shape))


def _start_in_classes(model: Einet, x: Tensor, observed: Tensor, labels: Tensor, own: int, seed: int) -> None:
    """Start each entry around a row of its class, as `start_leaves` does around any rows."""
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in range(model.num_classes):
        rows = (labels == label).nonzero()[:, 0]
        chosen.append(rows[torch.randint(len(rows), (own,), generator=generator)])
    values, mask = model.as_input(x, observed)
    for part in model.leaves.parts:
        part.start(values, mask, torch.cat(chosen).expand(model.leaves.num_nodes, -1)[..., None], START_SHARE)


@torch.no_grad()
def share_covariances(model: Einet, of_classes: Tensor, rows: float) -> None:
    """Shrink the covariance of each component to their mean, by so many rows of it.

    Args:
        model: with one sum, whose entries are the components.
        of_classes: rows of each class, (classes,).
        rows: of the mean; infinite, all have the mean.

    Source: not in the paper; Friedman (1989), "Regularized Discriminant Analysis"
    """
    weights = model.sum_layers()[-1].weights
    uses = of_classes.to(weights) @ weights.view(len(of_classes), -1)  # (K,)
    share = uses / uses.sum()
    keep = torch.zeros_like(uses) if math.isinf(rows) else uses / (uses + rows)

    def shrunk(spread: Tensor) -> Tensor:  # (n, K, ...)
        by_entry = (-1, *[1] * (spread.dim() - 2))
        mean = (share.view(by_entry) * spread).sum(1, keepdim=True)
        return torch.lerp(mean.expand_as(spread), spread, keep.view(by_entry))

    for part in model.leaves.parts:
        if isinstance(part, JointNormalLeaves):
            factors = [(mean, factor @ factor.mT) for mean, factor in part.layout.groups(part.phi)]
            factors = [(mean, torch.linalg.cholesky(shrunk(covariance))) for mean, covariance in factors]
            part.phi.copy_(part.layout.packed(factors))
        elif part.family.location_scale and len(part.phi) == 2:  # mean and variance
            part.phi[1] = shrunk(part.phi[1].flatten(0, 1)).view_as(part.phi[1])
