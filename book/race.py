"""What chapter 11 makes of the race: tables, the panels of the paper's Figures 3 and 6, a formula for cost.

records = origin.read("efficiency")          as experiments/efficiency.py wrote them
panels(records)                              time against memory, a row each for K, depth and R
picture(records)                             the time of an epoch alone, small, for the intro and the README
table(records)                               by what factors einet is ahead, beside what was promised
own = own_machine([(10, 4, 10), (40, 4, 10)])   einet timed here; panels(records, own) draws it into the panels
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

from book import figures

DEFAULT = {"num_sums": 10, "depth": 4, "num_replicas": 10}
LETTERS = {"num_sums": "K", "depth": "depth", "num_replicas": "R"}
LARGEST = {"num_sums": 40, "depth": 9, "num_replicas": 40}
TIMES = {"epoch_seconds": "seconds an epoch", "inference_seconds": "seconds a row"}
MARKS = {  # colour and marker of each contestant
    "einet": (figures.SUM_INK, "o"),
    "libcirkit": (figures.PRODUCT, "s"),
    "libcirkit-compiled": (figures.PRODUCT, "D"),
    "spflow": (figures.LEAF, "^"),
    "libspn-keras": (figures.LEAF, "v"),
    "log-domain": (figures.INK, "P"),
}
D, B, BATCHES = 512, 100, 20  # variables, rows of a batch, batches of an epoch


def at(record: dict) -> tuple[int, int, int]:
    """(K, depth, R) of a record."""
    return tuple(record[name] for name in LETTERS)


def along(records: list[dict], name: str) -> list[dict]:
    """The records of the sweep over one hyper-parameter, in its order."""
    others = {key: value for key, value in DEFAULT.items() if key != name}
    kept = [r for r in records if all(r[key] == value for key, value in others.items())]
    return sorted(kept, key=lambda r: r[name])


def panels(records: list[dict], own: Sequence[dict] = ()) -> None:
    """Time against memory, log-log: a row each for K, depth and R, training to the left and inference to the right.

    The size of a blob is the hyper-parameter. `own`, from `own_machine`: einet's blobs of this machine, as rings.
    """
    figure, axes = plt.subplots(3, 2, figsize=(5, 6.8), dpi=116, sharex="col", sharey="row", layout="constrained")
    for row, (name, letter) in zip(axes, LETTERS.items(), strict=True):
        for ax, measure in zip(row, TIMES, strict=True):
            for who, look_of in MARKS.items():
                mine = [r for r in along(records, name) if r["implementation"] == who]
                _blobs(ax, mine, name, measure, who, *look_of)
            if own:
                _rings(ax, along(own, name), name, measure)
            ax.set(xscale="log", yscale="log", title=f"{letter} varies")
    for ax, label in zip(axes[-1], TIMES.values(), strict=True):
        ax.set_xlabel(label)
    axes[1, 0].set_ylabel("MB above the model")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _blobs(ax, records: list[dict], name: str, measure: str, who: str, colour: str, marker: str) -> None:
    """The sweep of one contestant; points without a time or a memory are `failures`, and left out."""
    mine = [r for r in records if r[measure] and r["peak_bytes"]]
    x, y = [r[measure] for r in mine], [r["peak_bytes"] / 1e6 for r in mine]
    ax.plot(x, y, color=colour, lw=0.8, alpha=0.5)
    ax.scatter(x, y, [_size(r, name) for r in mine], color=colour, marker=marker, alpha=0.75, label=who)


def _rings(ax, own: list[dict], name: str, measure: str) -> None:
    """Rings around where blobs of these sizes would be; where memory is unknown, ticks on the lower edge."""
    style = {"marker": "o", "facecolor": "none", "edgecolor": figures.SUM_INK, "lw": 1.5}
    style["label"] = "einet, this machine"
    if all(r["peak_bytes"] for r in own):
        x, y = [r[measure] for r in own], [r["peak_bytes"] / 1e6 for r in own]
        ax.plot(x, y, color=figures.SUM_INK, lw=0.8, ls="--")
    else:
        x, y = [r[measure] for r in own], [0] * len(own)
        style |= {"transform": ax.get_xaxis_transform(), "clip_on": False}
    ax.scatter(x, y, [30 + _size(r, name) for r in own], **style)


def _size(record: dict, name: str) -> float:
    return 5 + 45 * record[name] / LARGEST[name]


def picture(records: list[dict]) -> None:
    """Three small panels side by side: seconds of an epoch against K, the depth and R, a line for each contestant."""
    figure, axes = plt.subplots(1, 3, figsize=(5.2, 3.4), sharey=True, layout="constrained")
    for ax, (name, letter) in zip(axes, LETTERS.items(), strict=True):
        for who, (colour, marker) in MARKS.items():
            mine = [r for r in along(records, name) if r["implementation"] == who and r["epoch_seconds"]]
            x, y = [r[name] for r in mine], [r["epoch_seconds"] for r in mine]
            ax.plot(x, y, color=colour, marker=marker, ms=4, lw=2 if who == "einet" else 1, label=who)
        ax.set(yscale="log", xlabel=letter, xticks=(1, 3, 5, 7, 9) if letter == "depth" else (1, 20, 40))
    axes[0].set_ylabel("seconds an epoch")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)


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
    return "at K, depth, R = " + ", ".join("/".join(map(str, at(r))) for r in some)


def table(records: list[dict]) -> list[dict]:
    """Rows of ratios with a bar: who, where, what, the factor, the bar, and whether it is met."""
    return [
        {"rival": r["implementation"], "K, depth, R": at(r), "what": what, "factor": round(factor, 2)}
        | {"bar": r["bars"][what], "met": factor >= r["bars"][what]}
        for r in records
        for what, factor in r.get("ratios", {}).items()
        if what in r["bars"]
    ]


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
