"""Densities that a table is offered: mixtures whose real columns are joint, and trees learned from the rows.

    columns      every column by itself
    mixture-K    K components: in each, the real columns are one multivariate normal and the other columns independent;
                 where all columns are real, a Gaussian mixture
    tree-K       the Chow-Liu tree of the rows, thin layers, vectors of K entries

Source: not in the paper
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from einet.families.continuous import MultivariateNormal
from einet.family import LeafFamily
from einet.graph.regions import RegionGraph
from einet.structures.learned import Structure, chow_liu

Families = Mapping[LeafFamily, Sequence[int]]

# A mixture of K is tried where each component has this many rows; so is a tree of K where each entry has.
ROWS_PER_COMPONENT, ROWS_PER_ENTRY = 8, 5


@dataclass(frozen=True)
class Candidate:
    """A density to be trained and measured.

    Attributes:
        name: for people, such as "mixture-4".
        structure: a graph, or a function from rows and masks to it.
        families: its leaves, as in `Einet`.
        num_sums: K.
        sum_product: as in `Einet`.
        shrinkage: factor of the `leaf_pseudocount` of training.
        start: the number of its start: another seed.
        learns: whether it says more than what each column is by itself, so that shrinkage and starts matter.

    Source: not in the paper
    """

    name: str
    structure: Structure
    families: Families
    num_sums: int
    sum_product: str = "cp"
    shrinkage: float = 1.0
    start: int = 0
    learns: bool = True

    def started(self, start: int) -> Candidate:
        """The same from another start."""
        return replace(self, name=f"{self.name}, start {start}", start=start)

    def shrunk(self, factor: float) -> Candidate:
        """The same with leaves that are drawn more, or less, to the columns' own densities."""
        return replace(self, name=f"{self.name}, shrinkage {factor:g}", shrinkage=factor)


def ladders(
    families: Families, reals: list[int], floor: float, num_rows: int, num_columns: int, sizes: Sequence[int]
) -> list[list[Candidate]]:
    """The candidates of each kind, the smallest first.

    Args:
        families: of the columns, as if each was by itself.
        reals: columns that may be joint.
        floor: the smallest variance of a joint density.
        num_rows: of the training data.
        num_columns: of the training data.
        sizes: K, ascending.

    Source: not in the paper
    """
    mixtures = _mixtures(joined(families, reals, floor), num_columns, reals, num_rows, sizes)
    # Few rows may say nothing of what belongs together.
    columns = [Candidate("columns", one_sum(num_columns, []), families, 1, learns=False)] if len(reals) > 1 else []
    trees = _trees(families, num_rows, sizes) if num_columns > 2 else []
    return [ladder for ladder in (columns, mixtures, trees) if ladder]


def of_reals(several: list[list[Candidate]]) -> list[list[Candidate]]:
    """The mixtures among ladders, where counts and skewed columns are reals: all else is as good without that."""
    found = [[each for each in ladder if each.name.startswith("mixture")] for ladder in several]
    return [[replace(each, name=f"{each.name} of reals") for each in ladder] for ladder in found if ladder]


def joined(families: Families, reals: list[int], floor: float) -> Families:
    """The families with one multivariate normal for the columns `reals`, where there are several."""
    if len(reals) < 2:
        return families
    left = {family: [d for d in own if d not in reals] for family, own in families.items()}
    found: Families = {MultivariateNormal(min_variance=floor): reals}
    return found | {family: own for family, own in left.items() if own}


def _mixtures(
    families: Families, num_columns: int, reals: list[int], num_rows: int, sizes: Sequence[int]
) -> list[Candidate]:
    graph = one_sum(num_columns, reals)
    few = [size for size in sizes if size == 1 or size * ROWS_PER_COMPONENT <= num_rows] or [1]
    return [Candidate(f"mixture-{size}", graph, families, size) for size in few]


def _trees(families: Families, num_rows: int, sizes: Sequence[int]) -> list[Candidate]:
    few = [size for size in sizes if size > 2 and size * ROWS_PER_ENTRY <= num_rows]
    return [Candidate(f"tree-{size}", tree, families, size) for size in few]


def tree(x: Tensor, observed: Tensor | None) -> RegionGraph:
    """`chow_liu`, to which a column without any observed value, such as a constant one, is a value of its own.

    Source: not in the paper
    """
    if observed is None:
        return chow_liu(x)
    never = ~observed.any(0)
    return chow_liu(torch.where(never, 0, x), observed | never)


def up_to(most: int) -> list[int]:
    """1, 2, 4, ... up to the largest K that is tried.

    Source: not in the paper
    """
    return [2**power for power in range(most.bit_length()) if 2**power <= most]


def one_sum(num_columns: int, joint: list[int]) -> RegionGraph:
    """One sum over products of all columns, of which `joint` stay together.

    Source: not in the paper
    """
    parts = [joint] if len(joint) > 1 else []
    parts += [[d] for d in range(num_columns) if not parts or d not in joint]
    if len(parts) == 1:
        return RegionGraph(parts)
    return RegionGraph([*parts, range(num_columns)], [(len(parts), *range(len(parts)))])


def climbed(
    ladder: list[Candidate],
    score: Callable[[Candidate], float],
    patience: int = 2,
    best: float = -math.inf,
    least: float = 0.0,
) -> Iterator[Candidate]:
    """The candidates of a ladder up to where `patience` of them in a row were not better than the best by `least`.

    Source: not in the paper
    """
    waited = 0
    for candidate in ladder:
        found = score(candidate)
        yield candidate
        waited = 0 if found > best + least else waited + 1
        best = max(best, found)
        if waited >= patience:
            return
