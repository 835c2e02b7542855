"""Table 1 of the paper beside ours and the best published, for chapter 10, and in short for the intro and the README.

    table = table_1.Table(origin.read("debd"))
    table.values, table.errors               # nats, a row for each data set; NaN where it has not been run yet
    table.reached("e")                       # per set: as good as the best of "any kind", as a "single" one, or less
    table.ranks()                            # average rank of each column, 1 being the best
    table.rows("nltcs", "einet")             # log-likelihoods of the test rows
    table.tests("d")                         # paired tests against another of our columns
    table.first_openings()                   # the same table with what the test rows said when they were opened first
    table.to_html()                          # what _static/debd.js turns into a table that answers
    table.summary(), table.at_first()        # what ours reaches, in a sentence; and by the first look at the test rows
    table.picture(), table.to_markdown()     # the table in short, for the intro and the README

The paper's values are in table_1.tsv, the best published ones with their sources in table_1_published.tsv. Both are
read by experiments/debd/table.py, too, which says when ours reaches a printed number.
"""

from __future__ import annotations

import html
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from book import figures, origin
from experiments.debd.table import best_of_all, reaches

PAPER, PUBLISHED, FIRST = (
    Path(__file__).resolve().parent / f"{name}.tsv" for name in ("table_1", "table_1_published", "table_1_first")
)
# Columns of the table: key, title, and to whom it belongs. (e) is the best of all of ours, by validation rows.
COLUMNS = {
    "RAT-SPN": ("RAT-SPN", "the paper"),
    "EiNet": ("EiNet", "the paper"),
    "a": ("(a) full batch", "ours"),
    "b": ("(b) stochastic", "ours"),
    "c": ("(c) best RAT", "ours"),
    "d": ("(d) learned tree", "ours"),
    "e": ("(e) best of all", "ours"),
    "single": ("single circuit", "best published"),
    "any": ("any kind", "best published"),
}
LEARNERS = {"a": "rat-spn", "b": "einet", "c": "best", "d": "learned"}
ALL = {learner: letter for letter, learner in LEARNERS.items()} | {"ensemble": "e"}
# What a column's rows were paired with, where a record has a test.
AGAINST = {"b": "a", "d": "c", "e": "d"}
# How each kind of mark is drawn in the picture: of the paper's two columns the better one.
MARKS = {
    "better": ("the paper, the better of two", figures.PRODUCT, "s", {}),
    "single": ("best published single circuit", figures.INK, "D", {"fillstyle": "none"}),
    "d": ("ours (d), one learned model", figures.SUM_INK, "o", {"fillstyle": "none"}),
    "e": ("ours (e), best of all", figures.SUM_INK, "o", {}),
}
GAP = "–"


class Table:
    """The paper's values, ours and the best published, by data set (in the paper's order) and column."""

    def __init__(self, records: list[dict]):
        self.records = records
        self.paper = pd.read_csv(PAPER, sep="\t", comment="#", index_col="dataset")
        self.published = pd.read_csv(PUBLISHED, sep="\t", comment="#", index_col="dataset", dtype=str)
        self.names = self.paper["name"]
        found = {(r["dataset"], r["learner"]): r for r in records}
        best = best_of_all(records)
        self.told: dict[tuple[str, str], dict | None] = {(name, "e"): best.get(name) for name in self.names.index}
        for letter, learner in LEARNERS.items():
            self.told |= {(name, letter): found.get((name, learner)) for name in self.names.index}
        self.errors = self._frame("standard_error")
        self.values = pd.concat([self.paper[["RAT-SPN", "EiNet"]], self._frame("test_log_likelihood")], axis=1)
        self.values[["single", "any"]] = self.published[["single", "any"]].astype(float)

    def _frame(self, value: str) -> pd.DataFrame:
        letters = [*LEARNERS, "e"]
        of = [[(self.told[name, letter] or {}).get(value, np.nan) for letter in letters] for name in self.names.index]
        return pd.DataFrame(of, self.names.index, letters, dtype=float)

    # What it says

    @property
    def better(self) -> pd.Series:
        """The better one of the paper's two columns, nats."""
        return self.values[["RAT-SPN", "EiNet"]].max(axis=1)

    def missing(self) -> list[str]:
        """The paper's names of sets that lack one of our columns."""
        return list(self.names[self.errors.isna().any(axis=1)])

    def reaches(self, letter: str, published: str, rounded: bool = True) -> pd.Series:
        """On which sets a column of ours is at least as good as a published one; `rounded`: at the printed digits."""
        pairs = zip(self.values[letter], self.published[published], strict=True)
        met = [reaches(ours, text) if rounded else ours >= float(text) for ours, text in pairs]
        return pd.Series(met, self.names.index)

    def reached(self, letter: str) -> pd.Series:
        """What a column of ours is at least as good as: the best of "any kind", "single", "paper", or none of them."""
        words = pd.Series("none", self.names.index)
        words[self.values[letter] >= self.better] = "paper"
        words[self.reaches(letter, "single")] = "single"
        words[self.reaches(letter, "any")] = "any kind"
        words[self.values[letter].isna()] = GAP
        return words

    def near(self, letter: str, nats: float) -> int:
        """On how many sets a column is at most so many nats behind HCLT, the best published learned tree."""
        return int((self.values[letter] >= self.published["hclt"].astype(float) - nats).sum())

    def ranks(self) -> pd.Series:
        """The average rank of each column over the sets that have all; columns that are level share their ranks."""
        return self.values.dropna().rank(axis=1, ascending=False).mean()

    def tests(self, letter: str) -> pd.Series:
        """Whether rows of (b), (d), (e) are significantly better or worse than those of (a), (c), (d)."""
        of = {name: self.test(name, letter) for name in self.names.index}
        return pd.Series({name: test["verdict"] if test else GAP for name, test in of.items()})

    def test(self, name: str, letter: str) -> dict | None:
        """The paired test of a set's column against that of `AGAINST`, or None: not there, or the same model twice."""
        record, than = self.told[name, letter], self.told[name, AGAINST[letter]]
        if not record or not than or record is than:
            return None
        if record.get("t_test", {}).get("against") == than["learner"]:
            return record["t_test"]
        if than.get("t_test", {}).get("against") == record["learner"]:  # measured the other way round
            test = than["t_test"]
            words = {"better": "worse", "worse": "better"}
            turned = {"verdict": words.get(test["verdict"], test["verdict"]), "against": than["learner"]}
            turned |= {what: -test[what] for what in ("mean_difference", "t")}
            return turned | {"p_better": test["p_worse"], "p_worse": test["p_better"]}
        return None

    def rows(self, dataset: str, learner: str) -> np.ndarray:
        """Log-likelihoods of a set's test rows, in nats, float64."""
        with np.load(origin.RESULTS / "debd_rows" / f"{dataset}.npz", allow_pickle=False) as arrays:
            return arrays[learner].astype(np.float64)

    def first_openings(self) -> Table:
        """The table with the first values of those records whose test rows were opened a second time."""
        first = pd.read_csv(FIRST, sep="\t", comment="#", index_col=["dataset", "learner"])
        return Table([_as_at_first(record, first) for record in self.records])

    def details(self, letter: str) -> pd.DataFrame:
        """Of each set that has been run: learner, standard error, parameters, seconds, what was tried, seed."""
        there = {self.names[name]: r for (name, of), r in self.told.items() if of == letter and r}
        told = {
            name: {
                "learner": f"({ALL[r['learner']]})" if r["learner"] != "ensemble" else f"{_members(r)} members",
                "test": round(r["test_log_likelihood"], 3),
                "standard error": round(r["standard_error"], 3),
                "validation": round(r["settings"]["validation_log_likelihood"], 3),
                "parameters": r["parameters"],
                "seconds": round(r["seconds"]),
                "trainings": _tried(r["settings"]),
                "seed": r["provenance"]["seed"],
            }
            for name, r in there.items()
        }
        return pd.DataFrame(told).T.astype(object)

    # In short

    def summary(self) -> str:
        """One sentence: on how many sets our best reaches the best published single circuit, and that of any kind."""
        run = (self.reached("e") != GAP).sum()
        single, any_kind = self.counts()
        return (
            f"On {single} of {run} data sets our best circuit is at least as good as the best single circuit that has "
            f"been published, and on {any_kind} as the best tractable model of any kind."
        )

    def at_first(self) -> str:
        """What `summary` leaves out: the same counts by the first look at the test rows, and without rounding."""
        then = self.first_openings()
        told = ""
        if again := self.reopened():
            told = (
                f"The test rows of {len(again)} set{'s' * (len(again) > 1)} were opened a second time, after more "
                "trainings; by the first look the counts are {} and {}. ".format(*then.counts())
            )
        told += "Without rounding to the printed digits they are {} and {}".format(*self.counts(rounded=False))
        return told + (", and by the first look {} and {}.".format(*then.counts(rounded=False)) if again else ".")

    def counts(self, rounded: bool = True) -> tuple[int, int]:
        """On how many sets our best reaches the best published single circuit, and that of any kind."""
        single, any_kind = (int(self.reaches("e", kind, rounded).sum()) for kind in ("single", "any"))
        return single, any_kind

    def reopened(self) -> list[str]:
        """The sets of which ours (d) or (e) was opened twice."""
        then = self.first_openings().values
        return [name for name in self.names.index if not then.loc[name].equals(self.values.loc[name])]

    def picture(self) -> None:
        """For each set, in nats from the best published tractable model: the paper, a single circuit, ours."""
        values = self.values.assign(better=self.better)
        gains = values.sub(values["any"], axis=0)
        _, ax = plt.subplots(figsize=(6, 5.8), layout="constrained")
        places = range(len(gains))
        ax.hlines(places, gains["better"], gains["e"], color=figures.INK, lw=1, alpha=0.6)
        for column, (label, colour, marker, more) in MARKS.items():
            size = 7 if column == "d" else 5
            ax.plot(gains[column], places, marker, color=colour, ms=size, mew=1.4, label=label, zorder=3, **more)
        ax.axvline(0, color=figures.LEAF, lw=2, label="best published, any kind")
        ax.set_xscale("symlog", linthresh=0.01, linscale=0.6)
        ticks = (-10, -1, -0.1, 0, 0.1, 1)
        ax.set_xticks(ticks, [f"{tick:+g}".replace("-", "−") if tick else "0" for tick in ticks])
        ax.xaxis.set_minor_locator(plt.NullLocator())
        ax.set(xlim=(-40, 6), ylim=(len(gains) - 0.4, -0.6), xlabel="nats a row, in steps of ten")
        ax.set_yticks(places, self.names)
        ax.figure.legend(loc="outside lower center", ncols=2, fontsize=9)

    def to_markdown(self) -> str:
        """Two sets to a line: the paper's better column, the best published of any kind, our best."""
        head = "set | the paper | published | ours"
        cells = [f"{name} | {' | '.join(self._compared(of))}" for of, name in self.names.items()]
        half = len(cells) // 2
        lines = [f"| {head} | {head} |", "|---|---|---|---|---|---|---|---|"]
        return "\n".join(lines + [f"| {a} | {b} |" for a, b in zip(cells[:half], cells[half:], strict=True)])

    def _compared(self, name: str) -> list[str]:
        """Three numbers as Markdown, the largest in bold; a gap for ours where there is none."""
        values = self.better[name], self.values.loc[name, "any"], self.values.loc[name, "e"]
        texts = [f"{values[0]:.3f}", self.published.loc[name, "any"], f"{values[2]:.3f}"]
        largest = np.nanmax(values)
        bold = [value == largest for value in values]
        if self.reached("e")[name] == "any kind":  # level at the printed digits
            bold[2] = True
        marked = [f"**{text}**" if yes else text for text, yes in zip(texts, bold, strict=True)]
        return marked[:2] + [GAP if np.isnan(values[2]) else marked[2]]

    # On the page

    def to_html(self) -> str:
        """A plain table, and as JSON the records with their origins: _static/debd.js makes it sort, filter and tell."""
        owners = list(dict.fromkeys(owner for _, owner in COLUMNS.values()))
        spans = [sum(owner == whose for _, whose in COLUMNS.values()) for owner in owners]
        groups = "".join(f'<th colspan="{n}">{owner}</th>' for owner, n in zip(owners, spans, strict=True))
        titles = ["set", "(e) reaches", *(title for title, _ in COLUMNS.values())]
        head = f'<tr class="groups"><th colspan="2"></th>{groups}</tr><tr>{_cells("th", titles)}</tr>'
        reached = self.reached("e")
        body = "".join(
            f'<tr class="{reached[of].replace(" ", "-")}">{_cells("td", [name, reached[of], *self._texts(of)])}</tr>'
            for of, name in self.names.items()
        )
        means, ranks = self.values.mean(skipna=False), self.ranks()
        feet = {"mean": means.map("{:.3f}".format), "rank": ranks.map("{:.2f}".format)}
        foot = "".join(f"<tr>{_cells('td', [name, '', *of.replace('nan', GAP)])}</tr>" for name, of in feet.items())
        told = {"datasets": list(self.names.index), "columns": list(COLUMNS), "told": self._stories()}
        data = json.dumps(told, ensure_ascii=False).replace("</", "<\\/")
        plain = f'<table class="dataframe"><thead>{head}</thead><tbody>{body}</tbody><tfoot>{foot}</tfoot></table>'
        return f'<div class="debd-figure">{plain}<script type="application/json">{data}</script></div>'

    def _texts(self, name: str) -> list[str]:
        own = self.values.loc[name].map("{:.3f}".format).replace("nan", GAP)
        own[["single", "any"]] = self.published.loc[name, ["single", "any"]]
        return list(own)

    def _stories(self) -> dict[str, dict[str, dict]]:
        """Of each set and column what a page tells: in words what it is and what was measured, and its origin."""
        stories: dict[str, dict[str, dict]] = {name: {} for name in self.names.index}
        for (name, letter), record in self.told.items():
            if record:
                stories[name][letter] = _story(record, self.test(name, letter) if letter in AGAINST else None)
        for name, row in self.published.iterrows():
            for column in ("RAT-SPN", "EiNet"):
                stories[name][column] = {"what": f"Column {column} of Table 1 in Peharz et al. (2020), copied by hand."}
            for column in ("single", "any"):
                stories[name][column] = {"what": f"{row[f'{column}_by']}, as printed in {row[f'{column}_source']}."}
        return stories


def _cells(tag: str, texts: list[str]) -> str:
    return "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)


def _as_at_first(record: dict, first: pd.DataFrame) -> dict:
    key = record["dataset"], record["learner"]
    if key not in first.index:
        return record
    then = first.loc[key]
    settings = record["settings"] | {"validation_log_likelihood": float(then["validation_log_likelihood"])}
    values = {what: float(then[what]) for what in ("test_log_likelihood", "standard_error")}
    without = {what: value for what, value in record.items() if what != "t_test"}
    return {**without, "settings": settings, **values}


def _members(record: dict) -> int:
    return len(record["settings"]["members"])


def _tried(settings: dict) -> int:
    """How many trainings the validation rows chose from."""
    tried = settings.get("candidates", settings.get("tried", 0))
    return tried if isinstance(tried, int) else len(tried)


def _story(record: dict, test: dict | None) -> dict:
    s = record["settings"]
    if "members" in s:
        members = [f"{_trees(m['recipe'])} ({m['weight']:.0%})" for m in s["members"]]
        how = f"A mixture of {len(members)}, whose weights the validation rows chose: {'; '.join(members)}"
    elif "num_trees" in s:
        how = f"{_trees(s)}, in batches of {s['batch_size']}, λ = {s['lr']:g} falling to {s['last_lr']:g}"
        how += f"; epoch {s['best_epoch']} of at most {s['epochs']}"
    else:
        how = f"Depth {s['depth']}, {s['num_replicas']} replicas, {s['num_leaves']} entries of a leaf"
        how += f", {s['num_sums']} of a sum; " if s["depth"] > 1 else "; "
        em = f"stochastic EM, batches of {s['batch_size']}, λ = {s['lr']:g}" if s["batch_size"] else "full-batch EM"
        em += ", falling to a tenth" if s["decay"] < 1 else ""
        em += f", pseudocount {s['pseudocount']:g}" if s["pseudocount"] else ""
        how += f"{em}; epoch {s['best_epoch']} of at most {s['epochs']}, {s['num_rows']:,} training rows"
    tried = f"Chosen from {_tried(s)} trainings" if _tried(s) > 1 else "One training, no choice"
    story = {
        "learner": record["learner"],
        "error": record["standard_error"],
        "parameters": record["parameters"],
        "seconds": record["seconds"],
        "what": f"{how}. {tried}, {s['validation_log_likelihood']:.3f} on the validation rows.",
        "origin": origin.line(record),
    }
    return story | ({"test": test} if test else {})


def _trees(recipe: dict) -> str:
    """A recipe in a few words."""
    many = f"{recipe['num_trees']} {'random' if recipe['depth'] else 'learned'} tree{'s' * (recipe['num_trees'] > 1)}"
    drawn = " of rows drawn again" if recipe["bagged"] else ""
    return f"{many}{drawn}, K = {recipe['num_sums']}, pseudocount {recipe['pseudocount']:g}, seed {recipe['seed']}"
