"""Table 1 of the paper beside ours, for chapter 8.

    table = table_1.Table(origin.read("debd"))
    table.paper, table.ours, table.errors    # nats, a row for each data set; NaN where it has not been run yet
    table.gains                              # ours minus the paper's, in percent of the paper's
    table.rows("nltcs", "einet")             # log-likelihoods of the test rows
    table.to_html()                          # what _static/debd.js turns into a table that answers

The paper's values are in table_1.tsv, which experiments/debd_table.py reads, too.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import origin
import pandas as pd

PAPER = Path(__file__).resolve().parent / "table_1.tsv"
LEARNERS = {"rat-spn": "full batch", "einet": "stochastic", "best": "best"}
# Which of the paper's columns a learner is held against: EiNet's, and the better one of the two.
AGAINST = {"einet": "EiNet", "best": "better"}
GAP = "–"


class Table:
    """The paper's values and ours, by data set (in the paper's order) and learner."""

    def __init__(self, records: list[dict]):
        self.records = records
        self.paper = pd.read_csv(PAPER, sep="\t", comment="#", index_col="dataset")
        self.paper["better"] = self.paper[["RAT-SPN", "EiNet"]].max(axis=1)
        self.ours = self._frame("test_log_likelihood")
        self.errors = self._frame("standard_error")
        theirs = pd.DataFrame({learner: self.paper[column] for learner, column in AGAINST.items()})
        self.gains = 100 * (self.ours[list(AGAINST)] - theirs) / theirs.abs()
        tests = {record["dataset"]: record["t_test"]["verdict"] for record in records if "t_test" in record}
        self.verdicts = pd.Series(tests, dtype=object).reindex(self.paper.index).fillna(GAP)

    def _frame(self, value: str) -> pd.DataFrame:
        found = {(record["dataset"], record["learner"]): record[value] for record in self.records}
        cells = [[found.get((name, learner), np.nan) for learner in LEARNERS] for name in self.paper.index]
        return pd.DataFrame(cells, self.paper.index, list(LEARNERS), dtype=float)

    def missing(self) -> list[str]:
        """The paper's names of sets that lack a learner."""
        return list(self.paper["name"][self.ours.isna().any(axis=1)])

    def rows(self, dataset: str, learner: str) -> np.ndarray:
        """Log-likelihoods of a set's test rows, in nats, float64."""
        with np.load(origin.RESULTS / "debd_rows" / f"{dataset}.npz", allow_pickle=False) as arrays:
            return arrays[learner].astype(np.float64)

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
