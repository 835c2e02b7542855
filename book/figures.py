"""The look of the book's figures: the colours of einet's drawings, and matplotlib set up for pages in light and dark.

    from book import figures

    figures.style()
    ax.plot(x, y, color=figures.SUM_INK)

Text and axes are in a grey that reads on white as on black, and the background is left out, so that one figure serves
the light and the dark theme. The colours are those of book/_static/book.css.
"""

from __future__ import annotations

import matplotlib.pyplot as plt

from einet.plotting import INK, LEAF, PRODUCT, SUM

__all__ = ["INK", "LEAF", "PRODUCT", "SUM", "SUM_INK", "style"]
SUM_INK = "#6574da"  # sums as thin lines or small text, where SUM is too dark for a dark page


def style(svg: bool = True) -> None:
    """Set matplotlib up for the book: transparent, grey ink, lines in the order sum, product, leaf.

    In a notebook figures become SVG; `svg=False` keeps PNG, which is smaller where there are many points or images.
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
        set_matplotlib_formats("svg" if svg else "png")
