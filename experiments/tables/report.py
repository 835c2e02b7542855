"""The records as tables, with a verdict for each table and each bar.

Methods are compared on the splits that all of them have; a table on which einet has none is left out of the counts, and
said to be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

# What counts as as good as the best.
NATS, POINTS, LOG_LOSS, SHARE = 0.1, 0.01, 0.03, 0.05
QUALITY = 0.90
MOST = 0.75  # "on 15 of 20"
SHOWN = ("test_log_likelihood", "rmse", "accuracy", "hidden_log_density", "log_loss", "quality", "fit_seconds")


@dataclass
class Row:
    """One table: the mean of each method's figure, over `splits` that all have."""

    table: str
    splits: int
    figures: dict[str, float]

    @property
    def ours(self) -> float:
        return self.figures["einet"]

    def rivals(self) -> list[float]:
        return [figure for method, figure in self.figures.items() if method != "einet"]


def text(records: list[dict], parts: Iterable[str]) -> str:
    """The report of some parts."""
    made: dict[str, Callable[[list[dict]], list[str]]] = {
        "density": density,
        "imputation": imputation,
        "classes": classes,
        "synthetic": synthetic,
        "time": seconds,
    }
    lines: list[str] = []
    for part in parts:
        own = [record for record in records if record["part"] == part]
        if own:
            lines += [f"== {part} ==", *made[part](own), ""]
            lines += [f"  {line}" for line in failures(own)]
    return "\n".join(lines)


def figures(entry: dict) -> str:
    """The main figures of an entry in a line, or its status."""
    if entry["status"] != "ok":
        return entry["status"][:100]
    return "  ".join(f"{name} {entry[name]}" for name in SHOWN if name in entry)


def rows(records: list[dict], figure: str) -> list[Row]:
    """The tables on which einet has the figure, each method's mean over the splits that all methods have."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for record in records:
        entries = {e["split"]: e[figure] for e in record["splits"] if e["status"] == "ok" and figure in e}
        if entries:
            found.setdefault(record["table"], {})[record["method"]] = entries
    made = []
    for table, methods in found.items():
        common = set.intersection(*(set(entries) for entries in methods.values()))
        if common and "einet" in methods and len(methods) > 1:
            means = {m: float(np.mean([entries[s] for s in common])) for m, entries in methods.items()}
            made.append(Row(table, len(common), means))
    return made


def failures(records: list[dict]) -> list[str]:
    """What failed, and what einet refused until it was coded by hand, once for each table."""
    lines = {}
    for record in records:
        for entry in record["splits"]:
            why = entry["status"] if entry["status"] != "ok" else entry.get("refused")
            if why:
                word = "failed" if entry["status"] != "ok" else "coded by hand"
                lines[record["table"], record["method"]] = f"{record['table']}, {record['method']}: {word}: {why[:110]}"
    return list(lines.values())


def grid(found: list[Row], verdict: Callable[[Row], str], digits: int = 3) -> list[str]:
    """Tables by methods, with a word for each table."""
    methods = list(dict.fromkeys(m for row in found for m in row.figures))
    lines = [f"{'table':22}{'splits':>6}" + "".join(f"{m:>18}" for m in methods) + "  verdict"]
    for row in found:
        cells = (f"{row.figures[m]:18.{digits}f}" if m in row.figures else f"{'':18}" for m in methods)
        lines.append(f"{row.table:22}{row.splits:6}" + "".join(cells) + "  " + verdict(row))
    return lines


def bar(what: str, passed: int, of: int, share: float) -> str:
    """A line for a bar: so many of the tables must pass."""
    word = "OPEN  " if not of else "MET   " if passed >= share * of else "MISSED"
    return f"{word} {what}: {passed} of {of}"


def density(records: list[dict]) -> list[str]:
    def verdict(row: Row) -> str:
        ahead = row.ours - max(row.rivals())
        return f"{'ahead' if ahead > NATS else 'level' if ahead >= -NATS else 'BEHIND'} {ahead:+.3f}"

    found = rows(records, "test_log_likelihood")
    columns = [row for row in found if "columns" in row.figures]
    reals = [row for row in found if "columns" not in row.figures]
    gains = [row.ours - max(row.rivals()) for row in reals]
    lines = ["reals, nats a row", *grid(reals, verdict)]
    lines.append(bar(f"ahead or within {NATS} nats of the best", sum(g >= -NATS for g in gains), len(gains), 1))
    lines.append(bar(f"ahead of all by more than {NATS}", sum(g > NATS for g in gains), len(gains), 0.5))
    losers = {row.table: losing_columns(records, row.table) for row in columns}
    lines += ["", "of all kinds, nats a row, and columns that lose beside their own best model"]
    lines += grid(columns, lambda row: f"{verdict(row)}  {losers[row.table]}")
    passed = sum(row.ours > max(row.rivals()) for row in columns)
    lines.append(bar("more than the columns by themselves", passed, len(columns), 1))
    lines.append(bar("every column gains from the others", sum(not each for each in losers.values()), len(columns), 1))
    return lines


def losing_columns(records: list[dict], table: str) -> str:
    """Columns that einet gives less, when it knows the rest of the row, than the best model of the column alone."""
    entries = {
        r["method"]: {e["split"]: e for e in r["splits"] if e["status"] == "ok"} for r in records if r["table"] == table
    }
    ours, alone = entries.get("einet", {}), entries.get("columns", {})
    common = ours.keys() & alone.keys()
    names = list(next(iter(ours.values()))["given_rest"]) if common else []
    gains = {n: float(np.mean([ours[s]["given_rest"][n] - alone[s]["alone"][n] for s in common])) for n in names}
    return ", ".join(f"{name} {gain:.2f}" for name, gain in gains.items() if gain < 0)


def imputation(records: list[dict]) -> list[str]:
    reals, categories = rows(records, "rmse"), rows(records, "accuracy")
    lines = ["reals, RMSE in standard deviations"]
    lines += grid(reals, lambda row: f"{100 * (row.ours / min(row.rivals()) - 1):+.1f} %")
    lines += ["", "categories, share that is right"]
    lines += grid(categories, lambda row: f"{100 * (row.ours - max(row.rivals())):+.1f} points")
    worse = {row.table: [row.ours / min(row.rivals()) - 1] for row in reals}
    for row in categories:
        worse.setdefault(row.table, []).append(1 - row.ours / max(row.rivals()) if max(row.rivals()) else 0.0)
    most = [max(each) for each in worse.values()]
    lines.append(bar("no worse than the better imputer, in both", sum(w <= 0 for w in most), len(most), MOST))
    lines.append(bar(f"within {100 * SHARE:.0f} % of it, in both", sum(w <= SHARE for w in most), len(most), 1))
    return lines


def classes(records: list[dict]) -> list[str]:
    accuracy, loss = rows(records, "accuracy"), rows(records, "log_loss")
    lines = ["accuracy", *grid(accuracy, lambda row: f"{100 * (row.ours - max(row.rivals())):+.1f} points")]
    lines += ["", "log-loss, nats", *grid(loss, lambda row: f"{row.ours - min(row.rivals()):+.3f}")]
    close = {row.table for row in accuracy if row.ours >= max(row.rivals()) - POINTS}
    sharp = {row.table for row in loss if row.ours <= min(row.rivals()) + LOG_LOSS}
    lines.append(bar("within 1 point and 0.03 nats of the best", len(close & sharp), len(accuracy), MOST))
    hidden, hidden_loss = rows(records, "accuracy_hidden"), rows(records, "log_loss_hidden")
    lines += ["", "accuracy, 30 % of the test cells hidden"]
    lines += grid(hidden, lambda row: f"{100 * (row.ours - max(row.rivals())):+.1f} points")
    lines += ["", "log-loss, 30 % of the test cells hidden"]
    lines += grid(hidden_loss, lambda row: f"{row.ours - min(row.rivals()):+.3f}")
    best = sum(row.ours >= max(row.rivals()) for row in hidden)
    lines.append(bar("best accuracy with gaps", best, len(hidden), MOST))
    best = sum(row.ours <= min(row.rivals()) for row in hidden_loss)
    lines.append(bar("best log-loss with gaps", best, len(hidden_loss), MOST))
    return lines


def synthetic(records: list[dict]) -> list[str]:
    found = rows(records, "quality")
    lines = grid(found, lambda row: f"{row.ours - max(row.rivals()):+.3f}")
    mean = float(np.mean([row.ours for row in found])) if found else 0.0
    lines.append(f"{'MET   ' if mean >= QUALITY else 'MISSED'} mean quality at least {QUALITY}: {mean:.3f}")
    ahead = sum(row.ours > max(row.rivals()) for row in found)
    lines.append(bar("ahead of the Gaussian copula", ahead, len(found), MOST))
    return lines


def seconds(records: list[dict]) -> list[str]:
    limits = {"2000x10": 10, "100000x20": 300}
    lines = []
    for record in records:
        entry = record["splits"][0]
        if "fit_seconds" not in entry:
            continue
        first, limit = entry["fit_seconds"][0], limits.get(record["table"])
        met = "" if limit is None else ("MET    " if first < limit and entry["peak_bytes"] < 2e9 else "MISSED ")
        lines.append(
            f"{met}{record['table']}: fits {entry['fit_seconds']} s, {entry['peak_bytes'] / 1e6:.0f} MB, imports: torch"
            f" {entry['torch_import_seconds']} s, einet.tables {entry['import_seconds']} s, {entry['threads']} threads"
        )
    return lines
