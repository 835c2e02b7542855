"""What `experiments/tables.py` measured on tables that packages ship, for chapter 9: a picture and its sentences.

    records = origin.read("tables")
    other_tables.show(records)           # both of these:
    print(other_tables.summary(records)) # how often it is as good as others, and where not
    other_tables.picture(records)        # density, in nats a row from the best of the others, for each table

What counts as met is in experiments/tables/report.py, which prints all numbers.
"""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np

from book import figures
from experiments.tables import report

WIDTH = 76  # of a line on a page
PARTS = ("density", "imputation", "classes", "synthetic")


def of_part(records: list[dict], part: str) -> list[dict]:
    """The records of one of `PARTS`."""
    return [record for record in records if record["part"] == part]


def gains(records: list[dict]) -> list[tuple[str, float, bool]]:
    """Table, nats a row more than the best of the others, whether all its columns are real; the largest gain first."""
    rows = report.rows(of_part(records, "density"), "test_log_likelihood")
    found = [(row.table.replace("_", " "), row.ours - max(row.rivals()), "columns" not in row.figures) for row in rows]
    return sorted(found, key=lambda each: -each[1])


def show(records: list[dict]) -> None:
    """Print the sentences and draw the picture."""
    print(summary(records))
    picture(records)


def picture(records: list[dict]) -> None:
    """The density of test rows on each table, in nats a row from the best of the others."""
    found = gains(records)
    _, ax = plt.subplots(figsize=(6, 6.4), layout="constrained")
    for real, colour, label in (
        (True, figures.SUM_INK, "reals: mixture, kernels, copula"),
        (False, figures.PRODUCT, "all kinds: each column's best model"),
    ):
        places = [(place, gain) for place, (_, gain, of_reals) in enumerate(found) if of_reals == real]
        ax.plot([g for _, g in places], [p for p, _ in places], "o", color=colour, ms=6, label=label)
    ax.axvline(0, color=figures.INK, lw=1)
    ax.set_yticks(range(len(found)), [name for name, _, _ in found])
    ax.set_xscale("symlog", linthresh=0.1, linscale=0.7)
    ticks = (-1, -0.1, 0, 0.1, 1, 10)
    ax.set_xticks(ticks, [f"{tick:+g}".replace("-", "−") if tick else "0" for tick in ticks])
    ax.xaxis.set_minor_locator(plt.NullLocator())
    least, most = min(gain for _, gain, _ in found), max(gain for _, gain, _ in found)
    ax.set(xlim=(min(-0.5, 1.5 * least), max(0.5, 1.5 * most)), ylim=(len(found) - 0.4, -0.6))
    ax.set_xlabel("nats a row more than the best of the others")
    ax.figure.legend(loc="outside lower center", fontsize=9)


def summary(records: list[dict]) -> str:
    """The bars of every part that has records, in sentences."""
    sentences = [_density(records), _imputation(records), _classes(records), _synthetic(records)]
    return "\n".join(textwrap.fill(sentence, WIDTH) for sentence in sentences if sentence)


def _density(records: list[dict]) -> str:
    found = gains(records)
    if not found:
        return ""
    behind = [f"{name} ({gain:+.2f})" for name, gain, _ in found if gain < -report.NATS]
    ahead = sum(gain > report.NATS for _, gain, _ in found)
    first = f"Density: ahead by more than {report.NATS} nats on {ahead} of {len(found)} tables, "
    return first + (f"behind by more on {', '.join(behind)}." if behind else "behind by more on none.")


def _imputation(records: list[dict]) -> str:
    own = of_part(records, "imputation")
    reals, categories = report.rows(own, "rmse"), report.rows(own, "accuracy")
    if not reals:
        return ""
    close = sum(row.ours <= min(row.rivals()) * (1 + report.SHARE) for row in reals)
    right = sum(row.ours >= max(row.rivals()) for row in categories)
    return (
        f"Filling: the error in numbers within {report.SHARE:.0%} of the better of two imputers on {close} of "
        f"{len(reals)} tables; no fewer categories right than by the better on {right} of {len(categories)}."
    )


def _classes(records: list[dict]) -> str:
    own = of_part(records, "classes")
    accuracy, loss = report.rows(own, "accuracy"), report.rows(own, "log_loss")
    hidden = report.rows(own, "accuracy_hidden")
    if not accuracy:
        return ""
    close = {row.table for row in accuracy if row.ours >= max(row.rivals()) - report.POINTS}
    sharp = {row.table for row in loss if row.ours <= min(row.rivals()) + report.LOG_LOSS}
    best = sum(row.ours >= max(row.rivals()) for row in hidden)
    return (
        f"Classes: as good as the best of three classifiers on {len(close & sharp)} of {len(accuracy)} tables; "
        f"with 30 % of the test cells hidden, most right on {best}."
    )


def _synthetic(records: list[dict]) -> str:
    found = report.rows(of_part(records, "synthetic"), "quality")
    if not found:
        return ""
    mean, rival = (float(np.mean([row.figures[m] for row in found])) for m in ("einet", "gaussian copula"))
    ahead = sum(row.ours > max(row.rivals()) for row in found)
    return (
        f"Drawn rows: SDMetrics' quality {mean:.3f} on average, a Gaussian copula's {rival:.3f}; "
        f"ahead on {ahead} of {len(found)} tables."
    )
