"""The look of the book's figures: the colours of einet's drawings, and matplotlib set up for pages in light and dark.

    from book import figures

    figures.style()
    ax.plot(x, y, color=figures.SUM_INK)

Text and axes are in a grey that reads on white as on black, and the background is left out, so that one figure serves
the light and the dark theme. The colours are those of book/_static/book.css.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.patches import FancyArrowPatch
from torch import Tensor

from einet.graph import RegionGraph
from einet.plotting import INK, LEAF, PRODUCT, SUM

__all__ = [
    "INK",
    "LEAF",
    "PRODUCT",
    "SUM",
    "SUM_INK",
    "edges_of_tree",
    "information_data",
    "information_map",
    "missing_data",
    "style",
]
SUM_INK = "#6574da"  # sums as thin lines or small text, where SUM is too dark for a dark page


def style(svg: bool = True) -> None:
    """Set matplotlib up for the book: transparent, grey ink, lines in the order sum, product, leaf.

    In a notebook figures become SVG, which the book's pages show, and PNG beside it: JupyterLab draws no SVG of a
    notebook that it does not trust, such as one of a fresh clone. `svg=False` keeps PNG alone, which is smaller where
    there are many points or images.
    """
    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    plt.rcParams.update(dict.fromkeys(ink, INK))
    plt.rcParams.update(
        {
            "axes.prop_cycle": plt.cycler(color=[SUM_INK, PRODUCT, LEAF, INK]),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titlesize": 11,
            "grid.color": INK,
            "grid.alpha": 0.25,
            "font.size": 11,
            "lines.linewidth": 2,
            "legend.frameon": False,
            "figure.figsize": (6.4, 3.6),
            "figure.dpi": 110,
            "figure.constrained_layout.hspace": 0.08,  # a label below one panel, a title above the next
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "svg.fonttype": "path",
            "svg.hashsalt": "einet",  # the same figure is the same file
        }
    )
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        set_matplotlib_formats(*(["svg", "png"] if svg else ["png"]))


def edges_of_tree(graph: RegionGraph) -> list[tuple[int, int]]:
    """The pairs of variables that a graph of `einet.chow_liu`, of one tree, joins, each in order."""

    def variable(region: int) -> int:  # the first child of a region is the leaf of its own variable
        for partition in graph.partitions_of[region]:
            region = partition.children[0]
        return graph.regions[region].scope[0]

    ends = [(variable(p.region), variable(child)) for p in graph.partitions for child in p.children[1:]]
    return [(min(pair), max(pair)) for pair in ends]


def information_map(
    ax: Axes, information: Tensor, tree: RegionGraph, of: int, names: tuple[Sequence, Sequence] | None = None
) -> None:
    """What all variables know of one, and the tree over them: chapter 5.

    information   (D, D) in nats. The greener a cell, the more it knows of the variable `of`, which is orange
    tree          the more two neighbours know of each other, the thicker the line
    names         of the rows and columns of the grid whose cells the variables are, row by row; a square one if None
    """
    shape = _grid(len(information), names)
    known = information[of].clone()
    known[of] = 0
    shades = LinearSegmentedColormap.from_list("known", [to_rgba(LEAF, alpha) for alpha in (0.06, 1)])
    ax.pcolormesh(known.pow(0.7).view(shape), cmap=shades)
    row, column = divmod(of, shape[1])
    ax.add_patch(plt.Rectangle((column, row), 1, 1, facecolor=PRODUCT))
    edges = edges_of_tree(tree)
    most = max(information[edge] for edge in edges)
    for u, v in edges:
        (y, x), (to_y, to_x) = divmod(u, shape[1]), divmod(v, shape[1])
        far = max(abs(y - to_y), abs(x - to_x)) > 1  # then it is bent, or it would run over the cells between
        bent = 0.25 * far * (-1) ** (u + v)
        line = {"arrowstyle": "-", "color": SUM_INK, "linewidth": 4 * float(information[u, v] / most) ** 0.5}
        ends = (x + 0.5, y + 0.5), (to_x + 0.5, to_y + 0.5)
        ax.add_patch(
            FancyArrowPatch(*ends, connectionstyle=f"arc3,rad={bent}", shrinkA=0, shrinkB=0, clip_on=False, **line)
        )
    ax.invert_yaxis()
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_aspect("auto" if names else "equal")
    for set_ticks, words in zip((ax.set_yticks, ax.set_xticks), names or ([], []), strict=True):
        set_ticks([i + 0.5 for i in range(len(words))], words)


def information_data(
    counts: dict[str, Tensor], trees: dict[str, RegionGraph], levels: dict, names: dict, pseudocount: float
) -> str:
    """What book/_static/information.js shows of each set of rows, by its title, as an element for a page.

    counts   (D, D, C, C): how many rows have a value of one variable and one of another
    levels   the names of these values
    names    as for `information_map`
    """
    sets = []
    for title, tree in trees.items():
        flat = counts[title].long().flatten(2)
        sets.append(
            {
                "title": title,
                "shape": _grid(len(flat), names[title]),
                "names": names[title],
                "levels": levels[title],
                "edges": edges_of_tree(tree),
                "counts": [flat[u, u + 1 :].tolist() for u in range(len(flat))],
            }
        )
    data = json.dumps({"pseudocount": pseudocount, "sets": sets}, separators=(",", ":"))
    return f'<script type="application/json" id="information-data">{data}</script>'


def missing_data(labels: Sequence[int], shown: Sequence[Tensor], beliefs: Sequence) -> str:
    """Chapter 8's digits with more and more gaps, as the script element that _static/missing.js reads.

    Args:
        labels: of the digits.
        shown: the digits, NaN where a pixel is missing, for 0, 10, ..., 90 % of them.
        beliefs: for each of these, probabilities of the classes with gaps integrated out, and filled.
    """
    stages = []
    for share, x, both in zip(range(0, 100, 10), shown, beliefs, strict=True):
        pixels = ["".join(map(str, row)) for row in x.nan_to_num(2).int().tolist()]
        stages.append([share, pixels, *([[round(100 * p) for p in row] for row in of.tolist()] for of in both)])
    data = json.dumps({"labels": list(map(int, labels)), "stages": stages})
    return f'<script type="application/json" id="missing-data">{data}</script>'


def _grid(num_variables: int, names: tuple[Sequence, Sequence] | None) -> tuple[int, int]:
    return (len(names[0]), len(names[1])) if names else 2 * (math.isqrt(num_variables),)
