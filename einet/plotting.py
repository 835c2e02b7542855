"""Figures: images in a grid, region graphs, the odd cells of a table.

    leaf  densities        product  partitions        sum  mixtures

Edges are in a grey that reads on white as on black. The book has the same colours for its own figures (book/figures.py)
and pages (book/_static/book.css).

Source: not in the paper
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from einet.graph.regions import RegionGraph, check_integers

__all__ = ["draw_region_graph", "image_grid", "surprise"]

LEAF, PRODUCT, SUM = "#2a9d8f", "#e9a03b", "#4053c4"
INK = "#7b7f87"  # text, axes: at least 4 to 1 against white and against the dark theme's #14181e


def __getattr__(name: str):
    if name not in ("style", "SUM_INK"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"einet.plotting.{name} has moved to the book: from book import figures", DeprecationWarning, 2)
    return getattr(import_module("book.figures"), name)


def image_grid(images: Tensor, columns: int | None = None, ax: Axes | None = None, gap: int = 1) -> Axes:
    """Show images side by side.

    Args:
        images: (N, H, W) or (N, H, W, C) with C of 1 or 3, from 0 (black) to 1; other values are clipped. A pixel that
            is NaN is shown as hidden: a pale grey that no pixel has.
        columns: images in a row; all by default.
        ax: new axes where None.
        gap: pixels between images.

    Returns:
        The axes.

    Raises:
        ValueError: images have another shape, columns < 1 or gap < 0.

    Source: Section 4.2, Figure 4
    """
    images = torch.as_tensor(images).detach().cpu().float()
    shape = tuple(images.shape)
    if images.dim() == 3:
        images = images[..., None]
    if images.dim() != 4 or not len(images) or images.shape[-1] not in (1, 3):
        raise ValueError(f"images must be (N, H, W) or (N, H, W, C) with C of 1 or 3, got {shape}")
    num, height, width, channels = images.shape
    columns = num if columns is None else columns
    if columns < 1 or gap < 0:
        raise ValueError(f"columns must be at least 1 and gap at least 0, got {columns} and {gap}")
    rows, columns = -(-num // columns), min(columns, num)
    canvas = torch.zeros(rows * (height + gap) - gap, columns * (width + gap) - gap, 4)  # nothing, seen through
    for n, image in enumerate(images.expand(-1, -1, -1, 3)):
        top, left = n // columns * (height + gap), n % columns * (width + gap)
        hidden = image.isnan().any(-1, keepdim=True)
        colour = torch.where(hidden, 0.5, image.clamp(0, 1))
        canvas[top : top + height, left : left + width] = torch.cat((colour, 1 - 0.75 * hidden.float()), -1)
    ax = _axes(ax, (min(8.0, 0.8 * columns), min(8.0, 0.8 * columns) * canvas.shape[0] / canvas.shape[1]))
    ax.imshow(canvas.numpy(), interpolation="nearest")
    ax.set_axis_off()
    return ax


def draw_region_graph(graph: RegionGraph, ax: Axes | None = None, names: Sequence[str] | None = None) -> Axes:
    """Draw a small graph in the layers of Algorithm 1: leaves below, then partitions and sums in turn, the root on top.

    Args:
        graph: of at most 150 regions and partitions.
        ax: new axes where None.
        names: of the variables; their numbers by default. Regions show up to six.

    Returns:
        The axes.

    Raises:
        ValueError: the graph is larger.

    Source: Figure 5
    """
    nodes = len(graph.regions) + len(graph.partitions)
    if nodes > 150:
        raise ValueError(f"at most 150 regions and partitions can be drawn, this graph has {nodes}")
    names = [str(d) for d in range(graph.num_variables)] if names is None else names
    rows: list[list[tuple]] = []  # from below, each of nodes: ("region", index) or ("partition", index)
    for number, layer in enumerate(graph.topological_layers()):
        if number:
            rows.append([("partition", i) for i, p in enumerate(graph.partitions) if p.region in set(layer)])
        rows.append([("region", index) for index in layer])
    below = {("partition", i): [("region", child) for child in p.children] for i, p in enumerate(graph.partitions)}
    for i, p in enumerate(graph.partitions):
        below.setdefault(("region", p.region), []).append(("partition", i))

    at: dict[tuple, tuple[float, float]] = {}
    widest, met = max(map(len, rows)), _first_met(graph)
    for y, row in enumerate(rows):
        want = {node: sum(at[c][0] for c in below[node]) / len(below[node]) if y else met[node[1]] for node in row}
        for x, node in enumerate(sorted(row, key=want.__getitem__)):
            at[node] = ((x + 0.5) * widest / len(row), y)

    ax = _axes(ax, (min(10.0, 1.5 + 0.9 * widest), 0.8 + 0.75 * len(rows)))
    for node, children in below.items():
        for child in children:
            ax.plot(*zip(at[node], at[child], strict=True), color=INK, linewidth=1, alpha=0.6, zorder=1)
    for (kind, index), (x, y) in at.items():
        colour, text, shape = PRODUCT, "×", "round4,pad=0.2"
        if kind == "region":
            leaf, scope = y == 0, graph.regions[index].scope
            shown = [str(names[d]) for d in scope]
            if len(shown) > 6:
                shown[5:-1] = ["…"]
            colour, text, shape = LEAF if leaf else SUM, " ".join(shown), "round,pad=0.3"
        box = {"boxstyle": shape, "facecolor": colour, "edgecolor": "none"}
        ax.text(x, y, text, color="white", weight="bold", ha="center", va="center", fontsize=9, bbox=box, zorder=2)
    ax.set(xlim=(0, widest), ylim=(-0.5, len(rows) - 0.5))
    ax.set_axis_off()
    return ax


def surprise(surprises: Any, table: Any = None, odd: int = 5, rows: int = 40, ax: Axes | None = None) -> Axes:
    """Show which cells of which rows are odd: rows by columns, colour by nats, the oddest cells annotated.

    Nats of one column depend on its unit, so a cell's colour is by how much it is above its column's median: 10 nats
    are odds of 20,000 to 1 against a usual cell. Missing cells are left out.

    Args:
        surprises: (B, D) in nats, as of `EinetDensity.surprise`: a DataFrame, whose names and index are shown, an array
            or a tensor.
        table: what was asked about, in the same shape: the values of the odd cells are then shown in them.
        odd: how many cells are annotated: in place of `table`'s values by their nats above the median.
        rows: how many are shown: those with the oddest cells, in the order of the table.
        ax: new axes where None.

    Returns:
        The axes.

    Raises:
        ValueError: `surprises` is no table of numbers, `table` has another shape, or a number is out of range.

    Source: not in the paper
    """
    check_integers(odd=odd + 1, rows=rows)
    nats = torch.as_tensor(surprises.to_numpy(copy=True) if hasattr(surprises, "to_numpy") else surprises).double()
    if nats.dim() != 2 or not nats.numel():
        raise ValueError(f"surprises must be (B, D), got {tuple(nats.shape)}")
    if table is not None and tuple(table.shape) != tuple(nats.shape):
        raise ValueError(f"table must have the shape of surprises, {tuple(nats.shape)}, got {tuple(table.shape)}")
    above = nats - nats.nanquantile(0.5, dim=0)
    oddest = above.nan_to_num(-torch.inf, -torch.inf)
    shown = oddest.amax(1).argsort(descending=True, stable=True)[:rows].sort().values
    named = hasattr(surprises, "iloc")
    names = list(surprises.columns if named else range(nats.shape[1]))
    index = list(surprises.index if named else range(len(nats)))
    if ax is None:
        size = (min(10.0, 2 + 0.9 * len(names)), min(12.0, 1.2 + 0.24 * len(shown)))
        ax = plt.figure(figsize=size, layout="constrained").add_subplot()
    picture = ax.imshow(above[shown].numpy(), aspect="auto", interpolation="nearest", cmap="Oranges", vmin=0)
    ax.figure.colorbar(picture, ax=ax, label="nats above the column's median")
    ax.set_xticks(range(len(names)), [str(name) for name in names], rotation=45, ha="right")
    ax.set_yticks(range(len(shown)), [str(index[row]) for row in shown.tolist()], fontsize=8)
    place = {row: i for i, row in enumerate(shown.tolist())}
    for flat in oddest.flatten().argsort(descending=True, stable=True)[:odd].tolist():
        row, d = divmod(flat, len(names))
        if row in place and oddest[row, d] > 0:
            nats_here, ink = oddest[row, d].item(), "white" if oddest[row, d] > 0.6 * oddest.max() else "black"
            text = _cell(table, row, d, nats_here)
            ax.text(d, place[row], text, color=ink, ha="center", va="center", fontsize=8)
    return ax


def _cell(table: Any, row: int, d: int, nats: float) -> str:
    if table is None:
        return f"{nats:.1f}"
    value = table.iloc[row, d] if hasattr(table, "iloc") else table[row, d]
    value = value.item() if hasattr(value, "item") else value
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _first_met(graph: RegionGraph) -> dict[int, int]:
    """When a walk down from the root, left before right, first meets each region: trees come out side by side."""
    met: dict[int, int] = {}
    waiting = [graph.root]
    while waiting:
        region = waiting.pop()
        if region not in met:
            met[region] = len(met)
            children = [child for partition in graph.partitions_of[region] for child in partition.children]
            waiting += reversed(children)
    return met


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    return plt.figure(figsize=size).add_axes((0, 0, 1, 1)) if ax is None else ax
