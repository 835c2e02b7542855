"""What chapter 9 makes of the race: tables, the panels of the paper's Figures 3 and 6, a formula for cost.

records = origin.read("efficiency")          as experiments/efficiency.py wrote them
panels(records, "epoch_seconds")             time against memory, a panel each for K, depth and R
table(records)                               by what factors einet is ahead, beside what was promised
Cost.fit(records)                            seconds and bytes from K, depth and R
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass

import matplotlib.pyplot as plt
import numpy as np

from einet import plotting as look

DEFAULT = {"num_sums": 10, "depth": 4, "num_replicas": 10}
LETTERS = {"num_sums": "K", "depth": "depth", "num_replicas": "R"}
MARKS = {  # colour and marker of each contestant
    "einet": (look.SUM_INK, "o"),
    "libcirkit": (look.PRODUCT, "s"),
    "libcirkit-compiled": (look.PRODUCT, "D"),
    "spflow": (look.LEAF, "^"),
    "libspn-keras": (look.LEAF, "v"),
    "log-domain": (look.INK, "P"),
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


def panels(records: list[dict], measure: str, own: list[dict] = ()) -> None:
    """Three panels of `measure` against memory, log-log; the size of a blob is the hyper-parameter. `own`: rings."""
    figure, axes = plt.subplots(3, 1, figsize=(6.4, 10), layout="constrained")
    for ax, (name, letter) in zip(axes, LETTERS.items(), strict=True):
        for who, (colour, marker) in MARKS.items():
            mine = [r for r in along(records, name) if r["implementation"] == who and r[measure] and r["peak_bytes"]]
            x, y = [r[measure] for r in mine], [r["peak_bytes"] / 1e6 for r in mine]
            sizes = [12 + 110 * r[name] / max(40 if letter != "depth" else 9, 1) for r in mine]
            ax.plot(x, y, color=colour, lw=0.8, alpha=0.5)
            ax.scatter(x, y, sizes, color=colour, marker=marker, alpha=0.75, label=who)
        for r in along(own, name):
            ax.scatter([r[measure]], [r["peak_bytes"] / 1e6], 150, facecolor="none", edgecolor=look.SUM_INK, lw=2)
        ax.set(xscale="log", yscale="log", title=f"{letter} varies", ylabel="MB above the model")
    axes[-1].set_xlabel({"epoch_seconds": "seconds an epoch"}.get(measure, "seconds a row, inference"))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


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
        {"rival": r["implementation"], "K, depth, R": at(r), "what": what, "factor": round(factor, 1)}
        | {"bar": r["bars"][what], "met": factor >= r["bars"][what]}
        for r in records
        for what, factor in r.get("ratios", {}).items()
        if what in r["bars"]
    ]


def counts(num_sums: int, depth: int, num_replicas: int) -> dict[str, float]:
    """Of a forward pass of one batch: multiply-adds of the einsums and of the leaves, numbers in all vectors, nodes."""
    inner = num_replicas * (2**depth - 2)
    einsums = (inner * num_sums**3 + num_replicas * num_sums**2) * B
    return {
        "einsums": einsums,
        "outer": num_replicas * (2**depth - 1) * num_sums**2 * B,
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

    def errors(self, records: list[dict], measure: str) -> list[float]:
        """Predicted over measured, for all of einet's points."""
        mine = [r for r in records if r["implementation"] == "einet" and r["status"] == "ok" and r[measure]]
        return [self(*at(r))[measure] / r[measure] for r in mine]

    def to_html(self) -> str:
        """The element that _static/cost.js turns into sliders."""
        numbers = json.dumps(asdict(self))
        return f"<div class='cost-figure' data-cost='{numbers}'></div><script src='../_static/cost.js'></script>"


def worst(errors: list[float]) -> float:
    """The largest factor by which a prediction is off, in either direction."""
    return max(math.exp(abs(math.log(e))) for e in errors)
