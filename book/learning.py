"""What chapter 7 draws: learning curves, and how training should start, from the records of experiments/starts.py.

curves(runs)               log-likelihood of training and held-out rows against passes over the data
records = origin.read("starts")
validation(records)        log-likelihoods of validation rows: a series over cases, structures and starts
gains(records)             nats that each start gains over the flat one: a frame of lists, one number a data set
table(records)             their means, and on how many sets they gain
deep_gains(records)        nats by which random trees of depth 4 are ahead of those of depth 1: a frame, sets by starts
picture(records)           the same, drawn
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd

from book import figures
from einet.training import History

STARTS = ["flat", "0.1", "0.03", "flat+rows", "0.1+rows", "0.03+rows"]
DEPTHS = [f"rat-{depth}" for depth in (1, 2, 3, 4)]
STRUCTURES = [*DEPTHS, "tree", "pd"]
IMAGES = {"digits": "digits", "fashion": "Fashion-MNIST"}
GAP = "–"
WIDE = (0, (1, 3))  # dots, far apart


def curves(runs: Mapping[str, History]) -> None:
    """Two panels: full-batch EM in green, stochastic EM in blue, others in orange; the best held-out value in words."""
    figure, axes = plt.subplots(2, 1, figsize=(6, 7.6), sharex=True, layout="constrained")
    for (name, run), dash in zip(runs.items(), ["-", ":", "-", "--", "-.", ":", "-", "--", WIDE, WIDE], strict=False):
        colour = figures.LEAF if "full" in name else figures.SUM_INK if "EM" in name else figures.PRODUCT
        for ax, values in zip(axes, (run.train, run.valid), strict=True):
            label = f"{name}: {max(run.valid):.1f}"
            ax.semilogx(range(1, len(values) + 1), values, linestyle=dash, color=colour, label=label)
    for ax, rows in zip(axes, ("training rows", "held-out rows"), strict=True):
        ax.set(title=rows, ylabel="nats per image", ylim=(-28, -15.5))
    axes[1].set_xticks((1, 2, 5, 10, 20, 30), (1, 2, 5, 10, 20, 30), minor=False)
    axes[1].set_xlabel("passes over the data")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=2, handlelength=3)


def validation(records: list[dict]) -> pd.Series:
    """Log-likelihoods of validation rows, by case (set, rows, seed), structure and start."""
    names = ["dataset", "rows", "seed", "structure", "start"]
    kept = [r for r in records if r["structure"] in STRUCTURES and r["start"] in STARTS]
    frame = pd.DataFrame(kept, columns=[*names, "validation_log_likelihood"])
    return frame.set_index(names)["validation_log_likelihood"].sort_index()


def gains(records: list[dict]) -> pd.DataFrame:
    """Nats of validation rows over the flat start: a row for each case and structure, NaN where a run is missing."""
    values = validation(records).unstack("start").reindex(columns=STARTS)
    return values.sub(values["flat"], axis=0).dropna(subset=["flat"])


def table(records: list[dict]) -> pd.DataFrame:
    """The mean gain over the flat start in nats, and on how many of how many sets there is one: "+0.21 (14 of 20)".

    A row for each structure over the binary sets, and for each structure of the images, whose nats are many more.
    """
    found = gains(records)[STARTS[1:]]
    names = found.index.droplevel(["rows", "seed"])
    rows = pd.Index([f"{IMAGES[name]}, {structure}" if name in IMAGES else structure for name, structure in names])
    order = [*STRUCTURES, *(f"{name}, {each}" for name in IMAGES.values() for each in STRUCTURES)]
    cells = {name: found[rows == name].apply(_told) for name in order if (rows == name).any()}
    return pd.DataFrame(cells).T


def _told(values: pd.Series) -> str:
    values = values.dropna()
    return f"{values.mean():+.3f} ({(values > 0).sum()} of {len(values)})" if len(values) else GAP


def deep_gains(records: list[dict]) -> pd.DataFrame:
    """Nats of validation rows that random trees of depth 4 are ahead of those of depth 1, of the same start.

    A row a set, in the order of what the flat start has, and a column a start.
    """
    values = validation(records).unstack("structure").reindex(columns=DEPTHS)
    ahead = (values["rat-4"] - values["rat-1"]).groupby(["dataset", "start"]).mean().unstack("start")
    ahead = ahead.reindex(columns=STARTS).dropna(subset=["flat"]).dropna(axis=1, how="all")
    return ahead.sort_values("flat")


def picture(records: list[dict]) -> None:
    """`deep_gains`, a mark for every set and start: filled where leaves start around rows."""
    ahead = deep_gains(records)
    weights = list(dict.fromkeys(start.removesuffix("+rows") for start in ahead))
    colours = dict(zip(weights, (figures.INK, figures.SUM_INK, figures.LEAF, figures.PRODUCT), strict=False))
    figure, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for start, values in ahead.items():
        own, around = start.removesuffix("+rows"), start.endswith("+rows")
        label = f"weights {own}, leaves {'around rows' if around else 'at random'}"
        ax.plot(values, "o" if around else "_", color=colours[own], markersize=7, markeredgewidth=2, label=label)
    ax.axhline(0, color=figures.INK, linewidth=1)
    ax.set_yscale("symlog", linthresh=0.1)
    ax.set(ylabel="depth 4 less depth 1, nats", xticks=range(len(ahead)))
    ax.set_xticklabels(ahead.index, rotation=90)
    figure.legend(loc="outside lower center", ncols=2)
