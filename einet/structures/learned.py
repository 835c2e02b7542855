"""Region graphs learned from rows: the mutual information of all pairs of variables, and the trees with most of it.

    table = pairwise_information(x)            # (D, D), in nats
    graph = chow_liu(x)                        # the tree with the largest sum of it, as a region graph
    model = Einet(graph, leaf, num_sums=32, sum_product="cp")

The tree becomes a circuit by a latent variable for each of its inner variables (a hidden Chow-Liu tree, HCLT). The
region of an inner variable v has one partition: the leaf {v}, and the regions of the variables below it. So the K
entries of a region are its density given each of K states above, and the weights of its sum are the transitions.

Source: not in the paper; Liu and Van den Broeck (2021), "Tractable Regularization of Probabilistic Circuits"
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from einet.graph.regions import RegionGraph
from einet.inputs import as_float, as_mask, as_pseudocount, batch_last, check_integers, mask_last

if TYPE_CHECKING:
    import numpy as np

    Array = Tensor | np.ndarray

# Rows that are counted at once, and columns that are sorted at once.
ROWS, COLUMNS = 4096, 64
MISSING = 255  # the level of a missing value

Edges = list[tuple[int, int]]
# A graph, or a function from rows, and what is observed of them, to one.
Structure = RegionGraph | Callable[[Tensor, Tensor | None], RegionGraph]


def chow_liu(
    x: Array,
    observed: Array | None = None,
    *,
    num_trees: int = 1,
    levels: int = 8,
    pseudocount: float = 0.1,
    seed: int = 0,
    shape: Sequence[int] | None = None,
) -> RegionGraph:
    """The tree over the variables with the most mutual information along its edges, as a region graph.

    Its regions have as many children as the tree has branches: `Einet` takes it with `sum_product="cp"`, and
    `graph.binary()` with any.

    Args:
        x: (B, D) rows, or (B, D, C); with `shape`, images (B, H, W) or (B, H, W, C) as well.
        observed: bool, the shape of `x` without channels, or (D,); None where everything is.
        num_trees: number of different trees below one root, which mixes them. The first is that of `x`, each of the
            others that of as many rows drawn with replacement, and takes as long.
        levels: as for `pairwise_information`.
        pseudocount: as for `pairwise_information`.
        seed: of the rows that are drawn.
        shape: the grid whose cells are the variables, which the graph keeps.

    Returns:
        The graph. A tree is rooted at its centre, so that it is as flat as it can be.

    Raises:
        ValueError: as for `pairwise_information`, or there are fewer different trees over D variables.
        ImportError: SciPy is not installed.

    Source: not in the paper; Chow and Liu (1968), "Approximating Discrete Probability Distributions with Dependence
        Trees"
    """
    check_integers(num_trees=num_trees)
    rows = _levels(x, observed, levels, pseudocount, shape)
    num_variables = len(rows.codes)
    _check_trees(num_trees, num_variables)
    trees = _trees(rows, pseudocount, num_trees, seed)
    return _graph([_rooted(tree, num_variables) for tree in trees], num_variables, shape)


def pairwise_information(
    x: Array,
    observed: Array | None = None,
    *,
    levels: int = 8,
    pseudocount: float = 0.1,
    shape: Sequence[int] | None = None,
) -> Tensor:
    """The mutual information of every two variables, estimated from rows, in nats.

    A column of more than `levels` different values is binned first, into `levels` bins of about equally many rows. For
    two columns, the rows that have both are counted. Several channels count by their mean.

    Args:
        x: (B, D) rows, or (B, D, C); with `shape`, images (B, H, W) or (B, H, W, C) as well. Numbers of any kind.
        observed: bool, the shape of `x` without channels, or (D,); None where everything is.
        levels: from 2 to 255. The time is proportional to its square.
        pseudocount: added to the count of each pair of levels.
        shape: the grid whose cells are the variables.

    Returns:
        (D, D) float64 on the CPU, symmetric; on the diagonal the entropies.

    Raises:
        ValueError: x is no tensor or array of numbers, of a wrong shape or without rows; NaN or infinity is not masked;
            a column has no observed value; or levels or pseudocount are out of range.

    Source: not in the paper; Chow and Liu (1968)
    """
    return _information(_levels(x, observed, levels, pseudocount, shape), pseudocount)


def graph_of(
    structure: Structure, x: Tensor, observed: Tensor | None, num_variables: int, sum_product: str
) -> RegionGraph:
    """The graph that `structure` is, or makes of rows; a `ValueError` unless it is over `num_variables`.

    Where it was made here, with partitions into more parts than the sums take, it is cut into halves: `binary`.
    """
    graph = structure if isinstance(structure, RegionGraph) else structure(x, observed)
    if not isinstance(graph, RegionGraph):
        raise ValueError(f"structure must return a RegionGraph, got {type(graph).__name__}")
    if graph.num_variables != num_variables:
        raise ValueError(f"structure must be over {num_variables} variables, got a graph over {graph.num_variables}")
    return graph.binary() if sum_product == "tucker" and graph is not structure else graph


# Levels of the columns


class _Levels(NamedTuple):
    """Rows with few values a column: `codes` (D, B) uint8, from 0 to the column's `counts[d]` - 1, or MISSING."""

    codes: Tensor
    counts: Tensor
    complete: bool  # whether all is observed


def _levels(x: Any, observed: Any, levels: int, pseudocount: float, shape: Sequence[int] | None) -> _Levels:
    check_integers(least=2, levels=levels)
    if levels > MISSING:
        raise ValueError(f"levels must be from 2 to {MISSING}, got {levels}")
    as_pseudocount("pseudocount", pseudocount)
    x, seen = _checked(x, observed, shape)
    parts = []
    for start in range(0, len(x), COLUMNS):
        own = None if seen is None else seen[start : start + COLUMNS]
        parts.append(_binned(_values(x[start : start + COLUMNS], own, start), own, levels))
    codes, counts = map(torch.cat, zip(*parts, strict=True))
    return _Levels(codes, counts, seen is None)


def _checked(x: Any, observed: Any, shape: Sequence[int] | None) -> tuple[Tensor, Tensor | None]:
    """x as (D, C, B), and the mask as (D, B), or None where all is observed; on the CPU."""
    if hasattr(x, "__array_interface__"):
        if x.dtype.kind not in "biuf":
            raise ValueError(f"x must be an array of numbers, got one of {x.dtype}")
        x = torch.as_tensor(x)
    grid, sizes = None if shape is None else tuple(shape), tuple(getattr(x, "shape", ()))[1:]
    if grid is not None:
        extents: dict[str, Any] = {f"shape[{axis}]": extent for axis, extent in enumerate(grid)}
        check_integers(**extents)
    variables = math.prod(grid or sizes[:1])
    axes = len(grid) if grid and sizes[: len(grid)] == grid else 1  # of the variables
    if 0 in sizes:
        raise ValueError(f"x must have at least one column, got shape {('B', *sizes)}")
    x = batch_last(x, variables, sizes[axes] if len(sizes) > axes else 1, grid).detach().cpu()
    if observed is None:
        return x, None
    mask = mask_last(as_mask(observed).cpu(), variables, x, grid, "observed").expand(-1, x.shape[2])
    empty = (~mask.any(1)).nonzero()
    if len(empty):
        raise ValueError(f"every column must have an observed value, column {empty[0].item()} has none")
    return x, None if mask.all() else mask


def _values(x: Tensor, seen: Tensor | None, first: int) -> Tensor:
    """One number for each variable and row, (d, C, B) -> (d, B); infinity where it is not observed."""
    values = as_float(x, torch.float32)
    values = values[:, 0] if x.shape[1] == 1 else values.double().mean(1)
    wrong = ~values.isfinite() if seen is None else seen & ~values.isfinite()
    if wrong.any():
        column, row = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"x must be finite where it is observed, got {values[column, row]} in row {row}, column {first + column}"
        )
    return values if seen is None else values.masked_fill(~seen, math.inf)


def _binned(values: Tensor, seen: Tensor | None, levels: int) -> tuple[Tensor, Tensor]:
    """The level of each value (d, B), and how many levels each column has.

    Each level takes its share of the rows that are left, and all that are equal to the last of them, so that a value of
    many rows does not use up the levels of the others.
    """
    ordered = values.sort(1).values
    end = torch.full((len(values), 1), values.shape[1]) if seen is None else seen.sum(1, keepdim=True)
    different = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1, keepdim=True) - (end < values.shape[1]).long()
    codes, counts = torch.zeros(values.shape, dtype=torch.uint8), torch.ones_like(end)
    taken = torch.zeros_like(end)
    for level in range(levels - 1):
        share = torch.where(different <= levels, 1, -((taken - end) // (levels - level)))
        edge = ordered.gather(1, (taken + share).minimum(end) - 1)
        taken = torch.searchsorted(ordered, edge, right=True)
        going_on = taken < end
        if not going_on.any():
            break
        codes += (values > edge) & going_on
        counts += going_on
    return codes if seen is None else codes.masked_fill_(~seen, MISSING), counts[:, 0]


# Counts of pairs of levels


def _information(rows: _Levels, alpha: float) -> Tensor:
    """H(i) + H(j) - H(i, j) of all pairs, each by the rows that have both.

    The last level of a column, `rest`, needs no products: its counts are what is left of all rows that have both.
    """
    order = rows.counts.argsort(descending=True, stable=True)  # columns with a level v are then the first so many
    levels = rows.counts[order].double()
    joint, single, total = _counted(rows.codes[order], levels, rows.complete)
    cells = (total + alpha * levels[:, None] * levels).clamp_min(1e-300)

    rest, both, marginal = total.clone(), torch.zeros_like(cells), torch.zeros_like(cells)
    for v, with_any in enumerate(single):
        n, left = len(with_any), with_any.clone()
        marginal[:n] += torch.special.entr((with_any + alpha * levels) / cells[:n])
        rest[:n] -= with_any
        for w in range(len(single)):
            counts = (joint[v, w] if v <= w else joint[w, v].T).double()
            m = counts.shape[1]
            both[:n, :m] += torch.special.entr((counts + alpha) / cells[:n, :m])
            left[:, :m] -= counts
        with_rest = torch.special.entr((left + alpha) / cells[:n])
        both[:n] += with_rest
        both[:, :n] += with_rest.T
        joint[v, "rest"] = left
    marginal += torch.special.entr((rest + alpha * levels) / cells)
    for v in range(len(single)):
        rest[:, : len(single[v])] -= joint[v, "rest"].T
    both += torch.special.entr((rest + alpha) / cells)

    information = (marginal + marginal.T - both).clamp_min_(0)
    information.diagonal().copy_(marginal.diagonal())
    place = order.argsort()
    return information[place][:, place]


def _counted(codes: Tensor, levels: Tensor, complete: bool) -> tuple[dict, list[Tensor], Tensor]:
    """Counts of the rows with level v in one column and level w in another, by one matrix product for each v <= w.

    joint[v, w]  (n_v, n_w), n_v columns having v and a level above it
    single[v]    (n_v, D), where the other column has any level
    total        (D, D), where both have any
    """
    num_columns, num_rows = codes.shape
    dtype = torch.float32 if num_rows < 2**24 else torch.float64  # counts are exact
    sizes = [int((levels > v + 1).sum()) for v in range(int(levels.amax()) - 1)]
    joint: dict = {}
    for v, n in enumerate(sizes):
        joint |= {(v, w): torch.zeros(n, sizes[w], dtype=dtype) for w in range(v, len(sizes))}
    single = [torch.zeros(n, num_columns, dtype=dtype) for n in sizes]
    total = torch.zeros(num_columns, num_columns, dtype=dtype)
    for chunk in codes.split(ROWS, 1):
        has = [(chunk[:n] == v).to(dtype) for v, n in enumerate(sizes)]
        for (v, w), counts in joint.items():
            counts.addmm_(has[v], has[w].T)
        if complete:
            for v, counts in enumerate(single):
                counts += has[v].sum(1, keepdim=True)
            total += chunk.shape[1]
        else:
            seen = (chunk != MISSING).to(dtype)
            for v, counts in enumerate(single):
                counts.addmm_(has[v], seen.T)
            total.addmm_(seen, seen.T)
    return joint, [counts.double() for counts in single], total.double()


# Trees


def _trees(rows: _Levels, alpha: float, num_trees: int, seed: int) -> list[Edges]:
    """Different trees: that of the rows, then those of rows drawn from them."""
    generator, num_rows = torch.Generator("cpu").manual_seed(seed), rows.codes.shape[1]
    trees = [_spanning_tree(_information(rows, alpha))]
    while len(trees) < num_trees:
        drawn = torch.randint(num_rows, (num_rows,), generator=generator)
        information = _information(rows._replace(codes=rows.codes[:, drawn]), alpha)
        tree, noise = _spanning_tree(information), 1e-6
        while tree in trees:  # then one that is nearly as good; in the end noise alone decides, so there is one
            random = torch.rand(information.shape, generator=generator, dtype=torch.float64)
            tree, noise = _spanning_tree(information + noise * (random + random.T)), min(2 * noise, 1e3)
        trees.append(tree)
    return trees


def _spanning_tree(information: Tensor) -> Edges:
    """The edges of the spanning tree with the largest sum, each and all in ascending order."""
    costs = -1 - information  # never 0, which SciPy takes for no edge
    costs.fill_diagonal_(0)
    tree = _scipy_sparse().csgraph.minimum_spanning_tree(costs.numpy()).tocoo()
    return sorted((min(edge), max(edge)) for edge in zip(tree.row.tolist(), tree.col.tolist(), strict=True))


def _rooted(edges: Edges, num_variables: int) -> list[tuple[int, int]]:
    """(variable, its parent) in breadth-first order from the centre, which is its own parent."""
    near: list[list[int]] = [[] for _ in range(num_variables)]
    for one, other in edges:
        near[one].append(other)
        near[other].append(one)

    def walk(start: int) -> dict[int, int]:
        parent, order = {start: start}, [start]
        for variable in order:  # which grows
            new = [other for other in near[variable] if other not in parent]
            parent |= dict.fromkeys(new, variable)
            order += new
        return parent

    end = [*walk(0)][-1]  # one end of a longest path
    parent = walk(end)
    path = [[*parent][-1]]
    while path[-1] != end:
        path.append(parent[path[-1]])
    return list(walk(path[len(path) // 2]).items())


def _graph(trees: list[list[tuple[int, int]]], num_variables: int, shape: Sequence[int] | None) -> RegionGraph:
    """All trees below one root, region 0, each with regions of its own."""
    scopes: list[tuple[int, ...]] = [tuple(range(num_variables))]
    partitions: list[tuple[int, ...]] = []
    for tree in trees if num_variables > 1 else []:
        below: list[list[int]] = [[] for _ in range(num_variables)]  # the regions of the variables below each variable
        for variable, parent in reversed(tree):
            scopes.append((variable,))
            region, children = len(scopes) - 1, below[variable][::-1]
            if children:
                parts = (region, *children)
                if parent == variable:
                    region = 0
                else:
                    region = len(scopes)
                    scopes.append(tuple(variable for part in parts for variable in scopes[part]))
                partitions.append((region, *parts))
            below[parent].append(region)
    return RegionGraph(scopes, partitions, shape)


def _check_trees(num_trees: int, num_variables: int) -> None:
    most = num_variables ** max(0, num_variables - 2)  # Cayley's formula
    if num_trees > most:
        raise ValueError(f"num_trees must be at most {most}, the trees over {num_variables} variables, got {num_trees}")


def _scipy_sparse() -> Any:
    try:
        import scipy.sparse.csgraph  # here, so that `import einet` needs torch alone
    except ImportError as error:
        raise ImportError("einet.chow_liu needs scipy, which comes with scikit-learn: pip install scipy") from error
    return scipy.sparse
