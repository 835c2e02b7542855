"""What chapter 7 draws: learning curves, and how training should start, from the records of experiments/starts.py.

curves(runs)               log-likelihood of training and held-out rows against passes over the data
records = origin.read("starts")
validation(records)        log-likelihoods of validation rows: a series over cases, structures and starts
gains(records)             nats that each start gains over the flat one: a frame of lists, one number a data set
table(records)             their means, and on how many sets they gain
by_depth(records)          random trees of each depth against those of depth 1 from the flat start: a frame of means
picture(records)           the same, drawn
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd

from book import figures
from einet.training import History

STARTS = ["flat", "0.1", "flat+rows", "0.3+rows", "0.1+rows", "0.03+rows"]
DEPTHS = {f"rat-{depth}": depth for depth in (1, 2, 3, 4)}
STRUCTURES = [*DEPTHS, "tree", "pd"]
IMAGES = {"digits": "digits", "fashion": "Fashion-MNIST"}
GAP = "–"


def curves(runs: Mapping[str, History]) -> None:
    """Two panels: full-batch EM in green, stochastic EM in blue, others in orange; the best held-out value in words."""
    figure, axes = plt.subplots(2, 1, figsize=(6, 7.6), sharex=True, layout="constrained")
    for (name, run), dash in zip(runs.items(), "- : - -- -. : - --".split(), strict=False):
        colour = figures.LEAF if "full" in name else figures.SUM_INK if "EM" in name else figures.PRODUCT
        for ax, values in zip(axes, (run.train, run.valid), strict=True):
            label = f"{name}: {max(run.valid):.1f}"
            ax.semilogx(range(1, len(values) + 1), values, dash, color=colour, label=label)
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


def by_depth(records: list[dict]) -> pd.DataFrame:
    """Mean nats of validation rows over random trees of depth 1 from the flat start: a row a depth, a column a start.

    Over the sets that have all depths of all these starts, which are those that at least half of the sets have;
    `attrs["sets"]` is how many.
    """
    values = validation(records).unstack("start").unstack("structure")
    values = values.reindex(columns=pd.MultiIndex.from_product([STARTS, list(DEPTHS)], names=["start", "structure"]))
    whole = {start: values[start].notna().all(axis=1).sum() for start in STARTS}
    kept = values[[start for start in STARTS if whole[start] >= max(1, whole["flat"] / 2)]].dropna()
    means = kept.sub(kept["flat", "rat-1"], axis=0).mean().unstack("start")[kept.columns.unique("start")]
    means = means.rename(index=DEPTHS).rename_axis(index="depth")
    means.attrs["sets"] = len(kept)
    return means


def picture(records: list[dict]) -> None:
    """A line a start over the depth of random trees: solid where leaves start around rows, dashed where at random."""
    means = by_depth(records)
    figure, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
    weights = list(dict.fromkeys(start.removesuffix("+rows") for start in means))
    colours = dict(zip(weights, (figures.INK, figures.SUM_INK, figures.LEAF, figures.PRODUCT), strict=False))
    for start, values in means.items():
        own = start.removesuffix("+rows")
        label = f"weights {own}, leaves {'around rows' if start.endswith('+rows') else 'at random'}"
        ax.plot(values, "o-" if start.endswith("+rows") else "o--", color=colours[own], label=label)
    ax.set(xlabel="depth of the random trees", ylabel="nats over depth 1, flat", xticks=means.index)
    figure.legend(loc="outside lower center", ncols=2, handlelength=3)
