"""What chapter 11 makes of the race: pictures of the paper's Figures 3 and 6, tables, a formula for cost.

records = origin.read("efficiency")          as experiments/efficiency.py wrote them; or "race_learned"
picture(records)                             the time of an epoch against K, depth and R, for the intro and the README
picture(records, MEASURES)                   time, inference and memory below each other
verdict(records)                             the lead at the default point and the promises kept, in a sentence
table(records)                               by what factors einet is ahead, beside what was promised
standing(records)                            the same in short: of each rival the least factor, and promises kept
leads(records, "training")                   the factors alone, a row a point and a column a rival
own = own_machine([(10, 4, 10), (40, 4, 10)])   einet timed here; picture(records, own=own) draws it into the picture
Cost.fit(records)                            seconds and bytes from K, depth and R
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from book import figures

DEFAULT = {"num_sums": 10, "depth": 4, "num_replicas": 10}
LETTERS = {"num_sums": "K", "depth": "depth", "num_replicas": "R"}
# What is measured: a label, and what a record's number is multiplied by. 100 log-densities are a batch.
MEASURES = {
    "epoch_seconds": ("seconds an epoch", 1.0),
    "inference_seconds": ("ms for 100 log-densities", 1e5),
    "peak_bytes": ("MB above the model", 1e-6),
}
MARKS = {  # colour and marker of each contestant
    "einet": (figures.SUM_INK, "o"),
    "libcirkit": (figures.PRODUCT, "s"),
    "libcirkit-compiled": (figures.PRODUCT, "D"),
    "spflow": (figures.LEAF, "^"),
    "libspn-keras": (figures.LEAF, "v"),
    "log-domain": (figures.INK, "P"),
}
D, B, BATCHES = 512, 100, 20  # variables, rows of a batch, batches of an epoch


def at(record: dict) -> tuple:
    """(K, depth, R) of a record; (data, K) where the structure was learned."""
    return tuple(record[name] for name in ("data", *LETTERS) if name in record)


def along(records: list[dict], name: str) -> list[dict]:
    """The records of the sweep over one hyper-parameter, in its order."""
    others = {key: value for key, value in DEFAULT.items() if key != name}
    kept = [r for r in records if all(r[key] == value for key, value in others.items())]
    return sorted(kept, key=lambda r: r[name])


def picture(records: list[dict], measures: Sequence[str] = ("epoch_seconds",), own: Sequence[dict] = ()) -> None:
    """Three panels side by side: a measure against K, the depth and R, a line for each contestant; a row a measure.

    `own`, from `own_machine`: einet on this machine, as a dashed line.
    """
    size = (5.2, 1.2 + 2.2 * len(measures))
    figure, axes = plt.subplots(
        len(measures), 3, figsize=size, sharex="col", sharey="row", squeeze=False, layout="constrained"
    )
    for row, measure in zip(axes, measures, strict=True):
        label, factor = MEASURES[measure]
        for ax, (name, letter) in zip(row, LETTERS.items(), strict=True):
            for who, (colour, marker) in MARKS.items():
                mine = [r for r in along(records, name) if r["implementation"] == who and r[measure]]
                look = {"color": colour, "marker": marker, "ms": 4, "lw": 2 if who == "einet" else 1}
                ax.plot([r[name] for r in mine], [factor * r[measure] for r in mine], label=who, **look)
            here = [r for r in along(own, name) if r[measure]]
            if here:
                look = {"color": figures.SUM_INK, "marker": "o", "mfc": "none", "ls": "--"}
                ax.plot(
                    [r[name] for r in here], [factor * r[measure] for r in here], label="einet, this machine", **look
                )
            ax.set(yscale="log", xticks=(1, 3, 5, 7, 9) if letter == "depth" else (1, 20, 40))
        row[0].set_ylabel(label)
    for ax, letter in zip(axes[-1], LETTERS.values(), strict=True):
        ax.set_xlabel(letter)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)


def failures(records: list[dict]) -> list[str]:
    """One line for each contestant and thing that went wrong or needs a remark, with the points where it did."""
    where: dict[tuple[str, str], list[dict]] = {}
    for r in records:
        what = r["status"] if r["status"] != "ok" else r.get("remark")
        if what:
            without_numbers = re.sub(r"[\d.]+%", "some", what)
            where.setdefault((r["implementation"], without_numbers), []).append(r)
    return [f"{who}: {what} ({_points(at_these, records)})" for (who, what), at_these in where.items()]


def _points(some: list[dict], records: list[dict]) -> str:
    """Where that was: at all points of a contestant, or at these."""
    raced = [r for r in records if r["implementation"] == some[0]["implementation"]]
    if len(some) == len(raced):
        return f"at all its {len(raced)} points"
    return f"at {_letters(some)} = " + ", ".join("/".join(map(str, at(r))) for r in some)


def _letters(records: list[dict]) -> str:
    """What `at` has of these records."""
    return "data, K" if "data" in records[0] else "K, depth, R"


def table(records: list[dict]) -> list[dict]:
    """Rows of ratios with a bar: who, where, what, the factor, the bar, and whether it is met."""
    return [
        {"rival": r["implementation"], _letters(records): at(r), "what": what, "factor": round(factor, 2)}
        | {"bar": r["bars"][what], "met": factor >= r["bars"][what]}
        for r in records
        for what, factor in r.get("ratios", {}).items()
        if what in r["bars"]
    ]


def standing(records: list[dict]) -> pd.DataFrame:
    """A row a rival and a column a measure: the least factor at points with a promise, and how many were kept."""
    found = pd.DataFrame(table(records)).groupby(["rival", "what"], sort=False)
    short = found.agg(least=("factor", "min"), kept=("met", "sum"), of=("met", "size"))
    cells = [f"{least:.3g} ({kept:.0f}/{of:.0f})" for least, kept, of in short.itertuples(index=False)]
    return pd.Series(cells, short.index).unstack()[["training", "inference", "memory"]]


def verdict(records: list[dict]) -> str:
    """Of the sweep, in a sentence: who is how far behind at the default point, and how many promises were kept."""
    there = [r for r in records if at(r) == tuple(DEFAULT.values())]
    ours = next(r for r in there if r["implementation"] == "einet")
    behind = sorted((r["ratios"]["training"], r["implementation"]) for r in there if r["ratios"])
    promises = table(records)
    kept = sum(promise["met"] for promise in promises)
    (least, near), (most, far) = behind[0], behind[-1]
    where = ", ".join(f"{letter} = {DEFAULT[name]}" for name, letter in LETTERS.items())
    return (
        f"At {where} an epoch of einet takes {ours['epoch_seconds']:.2f} seconds; its rivals need from {least:.1f} "
        f"({near}) to {most:.1f} ({far}) times as long. Of {len(promises)} promises {kept} were kept and "
        f"{len(promises) - kept} missed."
    )


def leads(records: list[dict], what: str) -> pd.DataFrame:
    """By what factors einet is ahead in "training", "inference" or "memory": a row a point, a column a rival."""
    points = dict.fromkeys(at(r) for r in records)
    rivals = dict.fromkeys(r["implementation"] for r in records if r["implementation"] != "einet")
    found = {(at(r), r["implementation"]): r["ratios"].get(what, np.nan) for r in records}
    cells = [[found.get((point, rival), np.nan) for rival in rivals] for point in points]
    names = pd.MultiIndex.from_tuples(list(points), names=_letters(records).split(", "))
    return pd.DataFrame(cells, names, list(rivals))


def timed(num_sums: int, depth: int, num_replicas: int, threads: int = 1, seconds: float = 0.3) -> dict:
    """einet's record at one point, on this machine and in this process, by the race's own worker.

    Medians of as many training steps as fit into `seconds`, and of as many inferences as fit into half of that, but of
    at least three. `peak_bytes` is None where the system cannot tell.
    """
    from experiments.race.worker import Worker  # here, since it knows no Windows

    point = dict(zip(LETTERS, (num_sums, depth, num_replicas), strict=True))
    worker = Worker("einet", {"num_variables": D, **point}, "cpu", 0, threads, B * BATCHES, B, "own machine")
    built = worker.build()
    steps = max(3, int(seconds / built["batch_seconds"]))
    calls = max(3, int(seconds / 2 / built["inference_seconds"]))
    return {
        "implementation": "einet",
        **point,
        "epoch_seconds": BATCHES * median(worker.train(1)["seconds"] for _ in range(steps)),
        "inference_seconds": median(worker.infer(calls)["seconds"]) / B,
        "peak_bytes": built["peak_bytes"],
    }


def own_machine(points: Sequence[tuple[int, int, int]], threads: int = 1, at_most: float = 20) -> list[dict]:
    """Records of the points (K, depth, R), in their order, until `at_most` seconds have passed."""
    started, records = time.perf_counter(), []
    for point in points:
        if not records or time.perf_counter() - started < at_most:
            records.append(timed(*point, threads=threads))
    return records


def counts(num_sums: int, depth: int, num_replicas: int) -> dict[str, float]:
    """Of a forward pass of one batch: multiply-adds of the einsums and the leaves, numbers in vectors, layers."""
    inner = num_replicas * (2**depth - 2)
    einsums = (inner * num_sums**3 + num_replicas * num_sums**2) * B
    return {
        "einsums": einsums,
        "leaves": 2 * D * num_replicas * num_sums * B,
        "vectors": num_replicas * (2 ** (depth + 1) - 1) * num_sums * B,
        "layers": depth + 1,
    }


@dataclass(frozen=True)
class Cost:
    """Seconds or bytes as a sum of non-negative multiples of `counts`."""

    epoch_seconds: dict[str, float]
    inference_seconds: dict[str, float]
    peak_bytes: dict[str, float]

    @classmethod
    def fit(cls, records: list[dict]) -> Cost:
        """Least squares on relative errors over einet's points, no coefficient below zero."""
        from scipy.optimize import nnls

        mine = [r for r in records if r["implementation"] == "einet" and r["status"] == "ok"]
        found = {}
        for measure in ("epoch_seconds", "inference_seconds", "peak_bytes"):
            rows = [(list(counts(*at(r)).values()), r[measure]) for r in mine if r[measure]]
            scaled = np.array([[x / y for x in xs] for xs, y in rows])
            unit = scaled.max(0)
            solution, _ = nnls(scaled / unit, np.ones(len(rows)))
            found[measure] = dict(zip(counts(1, 1, 1), (solution / unit).tolist(), strict=True))
        return cls(**found)

    def __call__(self, num_sums: int, depth: int, num_replicas: int) -> dict[str, float]:
        """Predicted seconds of an epoch, seconds of a row of inference, bytes."""
        c = counts(num_sums, depth, num_replicas)
        return {what: sum(x * c[name] for name, x in terms.items()) for what, terms in asdict(self).items()}

    @classmethod
    def errors(cls, records: list[dict], measure: str) -> list[float]:
        """Predicted over measured, for einet's points, each predicted from all the others."""
        mine = [r for r in records if r["implementation"] == "einet" and r["status"] == "ok" and r[measure]]
        return [cls.fit([r for r in mine if r is not one])(*at(one))[measure] / one[measure] for one in mine]

    def to_html(self) -> str:
        """The element that _static/cost.js turns into sliders."""
        numbers = json.dumps(asdict(self))
        return f"<div class='cost-figure' data-cost='{numbers}'></div><script src='../_static/cost.js'></script>"


def worst(errors: list[float]) -> float:
    """The largest factor by which a prediction is off, in either direction."""
    return max(math.exp(abs(math.log(e))) for e in errors)
