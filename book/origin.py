"""Numbers that a page shows but did not compute: read from book/results, and shown with where they came from.

from book import origin

records = origin.read("debd")   # book/results/debd.json, which experiments/debd.py writes
origin.show(records)            # prints command, commit, versions, machine, device, seconds, seed
origin.line(records[0])         # the same about one record, for a table
"""

from __future__ import annotations

from pathlib import Path

from experiments.records import SHARED, line, read_records, show

__all__ = ["RESULTS", "line", "read", "show"]
RESULTS = Path(__file__).resolve().parent / "results"


def read(name: str) -> list[dict]:
    """The records of `book/results/<name>.json`, each with its `provenance`.

    `ValueError`, naming the file, where it is missing, or where a record does not say where it came from.
    """
    file = RESULTS / f"{name}.json"
    if not file.is_file():
        raise ValueError(f"{file} is not there: run the experiment that writes it (python experiments/{name}.py)")
    records = read_records(file)
    for number, record in enumerate(records):
        missing = {*SHARED, "date", "seconds"} - set(record.get("provenance", ()))
        if missing:
            raise ValueError(f"record {number} of {file} does not say its {', '.join(sorted(missing))}")
    return records
