"""Table 1 of the paper beside ours, for chapter 10, and in short for the intro and the README.

    table = table_1.Table(origin.read("debd"))
    table.paper, table.ours, table.errors    # nats, a row for each data set; NaN where it has not been run yet
    table.gains                              # ours minus the paper's, in percent of the paper's
    table.rows("nltcs", "einet")             # log-likelihoods of the test rows
    table.trees, table.tree_errors           # nats of the learned trees, one model and an ensemble
    table.published                          # HCLT, the best single circuit, the best tractable model; and by whom
    table.to_html()                          # what _static/debd.js turns into a table that answers
    table.summary(), table.picture(), table.to_markdown()   # the table in short, for the intro and the README

In short: our best learner beside the better one of the paper's two columns. The paper's values are in table_1.tsv,
which experiments/debd/table.py reads, too; the best published ones in table_1_published.tsv, with their sources.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from book import figures, origin

PAPER, PUBLISHED = (Path(__file__).resolve().parent / f"{name}.tsv" for name in ("table_1", "table_1_published"))
TREES = {"learned": "learned trees", "ensemble": "ensemble of them"}
LEARNERS = {"rat-spn": "full batch", "einet": "stochastic", "best": "best"}
# Which of the paper's columns a learner is held against: EiNet's, and the better one of the two.
AGAINST = {"einet": "EiNet", "best": "better"}
GAP = "–"


class Table:
    """The paper's values and ours, by data set (in the paper's order) and learner."""

    def __init__(self, records: list[dict]):
        self.records = [record for record in records if record["learner"] in LEARNERS]
        self.tree_records = [record for record in records if record["learner"] in TREES]
        self.paper = pd.read_csv(PAPER, sep="\t", comment="#", index_col="dataset")
        self.paper["better"] = self.paper[["RAT-SPN", "EiNet"]].max(axis=1)
        self.published = pd.read_csv(PUBLISHED, sep="\t", comment="#", index_col="dataset")
        self.ours, self.errors = map(self._frame, ("test_log_likelihood", "standard_error"))
        self.trees, self.tree_errors = (self._frame(of, TREES) for of in ("test_log_likelihood", "standard_error"))
        theirs = pd.DataFrame({learner: self.paper[column] for learner, column in AGAINST.items()})
        self.gains = 100 * (self.ours[list(AGAINST)] - theirs) / theirs.abs()
        tests = {record["dataset"]: record["t_test"]["verdict"] for record in self.records if "t_test" in record}
        self.verdicts = pd.Series(tests, dtype=object).reindex(self.paper.index).fillna(GAP)

    def _frame(self, value: str, learners: dict[str, str] = LEARNERS) -> pd.DataFrame:
        found = {(r["dataset"], r["learner"]): r[value] for r in (*self.records, *self.tree_records)}
        cells = [[found.get((name, learner), np.nan) for learner in learners] for name in self.paper.index]
        return pd.DataFrame(cells, self.paper.index, list(learners), dtype=float)

    def missing(self) -> list[str]:
        """The paper's names of sets that lack a learner."""
        return list(self.paper["name"][self.ours.isna().any(axis=1)])

    def rows(self, dataset: str, learner: str) -> np.ndarray:
        """Log-likelihoods of a set's test rows, in nats, float64."""
        with np.load(origin.RESULTS / "debd_rows" / f"{dataset}.npz", allow_pickle=False) as arrays:
            return arrays[learner].astype(np.float64)

    def summary(self) -> str:
        """How many sets are complete, on how many ours is ahead or behind, and beyond one standard error of ours."""
        gain, error = self._in_short()

        def count(these: pd.Series) -> str:
            far = (these.abs() > error[these.index]).sum()
            return f"{len(these)}, on {far} by more than a standard error" if len(these) else "none"

        ahead, behind = count(gain[gain >= 0]), count(gain[gain < 0])
        complete = f"{len(gain)} of {len(self.paper)} sets are complete."
        return f"{complete}\nOurs is ahead on {ahead},\nand behind on {behind}."

    def _in_short(self) -> tuple[pd.Series, pd.Series]:
        """Gains and standard errors, in percent of the paper's better column, of the complete sets."""
        complete = ~self.ours.isna().any(axis=1)
        errors = 100 * self.errors["best"] / self.paper["better"].abs()
        return self.gains["best"][complete], errors[complete]

    def picture(self) -> None:
        """A dot for each complete set: what ours gains in percent, with a bar of one standard error to both sides."""
        gain, error = self._in_short()
        _, ax = plt.subplots(figsize=(5.2, 3), layout="constrained")
        for name, percent in gain.items():
            colour = figures.PRODUCT if percent < 0 else figures.SUM_INK
            place = self.paper.index.get_loc(name)
            ax.errorbar(place, percent, yerr=error[name], fmt="o", color=colour, ms=5, lw=1.5)
        ax.axhline(0, color=figures.INK, lw=1)
        ax.set_yscale("symlog", linthresh=1)
        ax.set_yticks((-10, -1, 0, 1, 10, 100), ("−10", "−1", "0", "+1", "+10", "+100"))
        ax.set(xlim=(-0.6, 19.6), ylabel="percent")
        ax.set_xticks(range(20), self.paper["name"], rotation=60, ha="right", rotation_mode="anchor")

    def to_markdown(self) -> str:
        """Two sets to a line: the paper's better column and our best learner, nats, the larger one in bold."""
        pairs = zip(self.paper["better"], self.ours["best"], strict=True)
        named = zip(self.paper["name"], pairs, strict=True)
        cells = [f"{name} | {' | '.join(_compared(*pair))}" for name, pair in named]
        half = len(cells) // 2
        head = "set | the paper | ours"
        lines = [f"| {head} | {head} |", "|---|---|---|---|---|---|"]
        return "\n".join(lines + [f"| {a} | {b} |" for a, b in zip(cells[:half], cells[half:], strict=True)])

    def to_html(self) -> str:
        """A plain table, and as JSON the records with their origins: _static/debd.js makes it sort, filter and tell."""
        columns = {"set": self.paper["name"]}
        columns |= {f"{column}, paper": self.paper[column].map("{:.3f}".format) for column in ("RAT-SPN", "EiNet")}
        columns |= {f"{title}, ours": self.ours[learner].map("{:.3f}".format) for learner, title in LEARNERS.items()}
        columns |= {f"{LEARNERS[learner]} gains, %": self.gains[learner].map("{:+.2f}".format) for learner in AGAINST}
        columns["stochastic against full batch"] = self.verdicts
        plain = pd.DataFrame(columns).replace(["nan", "+nan"], GAP).to_html(index=False, border=0)
        told = [{**record, "origin": origin.line(record)} for record in self.records]
        for record in told:
            del record["provenance"]
        data = json.dumps({"datasets": list(self.paper.index), "records": told})
        return f'<div class="debd-figure">{plain}<script type="application/json">{data}</script></div>'


def _compared(theirs: float, ours: float) -> list[str]:
    """Two numbers as Markdown, the larger one in bold; a gap for ours where there is none."""
    if np.isnan(ours):
        return [f"{theirs:.3f}", GAP]
    return [f"**{x:.3f}**" if x >= y else f"{x:.3f}" for x, y in ((theirs, ours), (ours, theirs))]
