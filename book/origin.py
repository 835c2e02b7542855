"""Numbers that a page shows but did not compute: read from book/results, and shown with where they came from.

    import origin

    records = origin.read("debd")   # book/results/debd.json, which experiments/debd.py writes
    origin.show(records)            # prints command, commit, versions, machine, device, seconds, seed
    origin.line(records[0])         # the same about one record, for a table

Chapters run in the folder book/, where Python finds this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
# What records have in common that came from one run; `seconds` and `date` are each record's own.
SHARED = ("command", "commit", "versions", "machine", "device", "seed")


def read(name: str) -> list[dict]:
    """The records of `book/results/<name>.json`, each with its `provenance`.

    `ValueError`, naming the file, where it is missing, or where a record does not say where it came from.
    """
    file = RESULTS / f"{name}.json"
    if not file.is_file():
        raise ValueError(f"{file} is not there: run the experiment that writes it (python experiments/{name}.py)")
    records = json.loads(file.read_text(encoding="utf-8"))
    for number, record in enumerate(records):
        missing = {*SHARED, "date", "seconds"} - set(record.get("provenance", ()))
        if missing:
            raise ValueError(f"record {number} of {file} does not say its {', '.join(sorted(missing))}")
    return records


def facts(record: dict) -> dict[str, str]:
    """Where a record came from, in words: what is shared with its run, by name."""
    origin = record["provenance"]
    versions = ", ".join(f"{package} {version}" for package, version in origin["versions"].items())
    commit = origin["commit"][:12] + ("+changes" if origin["commit"].endswith("+changes") else "")
    words = {name: str(origin[name]) for name in SHARED}
    return words | {"commit": commit, "versions": versions}


def line(record: dict) -> str:
    """Where one record came from, as a line of text."""
    origin = record["provenance"]
    words = [f"{name} {value}" for name, value in facts(record).items()]
    return "; ".join([*words, f"{origin['seconds']:.1f} s", f"started {origin['date'][:10]}"])


def show(records: Iterable[dict]) -> None:
    """Print where records came from, once for all of the same commit, machine and seed, with their commands;
    what is the same for all of these groups comes last."""
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        words = facts(record)
        del words["command"]
        groups.setdefault(tuple(words.items()), []).append(record["provenance"])
    told = {words: (_together([o["command"] for o in origins]), *words) for words, origins in groups.items()}
    common = set.intersection(*map(set, told.values())) if len(groups) > 1 else set()
    for words, origins in groups.items():
        days = sorted({origin["date"][:10] for origin in origins})
        seconds = sum(origin["seconds"] for origin in origins)
        when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        print(f"{len(origins)} record{'s' * (len(origins) > 1)}, {seconds:.1f} s, {when}")
        _list(pair for pair in told[words] if pair not in common)
    if common:
        print("all of them")
        _list(pair for pair in next(iter(told.values())) if pair in common)


def _together(commands: list[str]) -> tuple[str, str]:
    """Commands that differ in one and the same value, such as that of --points, as one with all its values."""
    lines: list[list[list[str]]] = []
    for command in dict.fromkeys(commands):
        words = command.split()
        for line in lines:
            other = [i for i, word in enumerate(words) if len(line) == len(words) and line[i] != [word]]
            if len(other) == 1 and other[0] >= 3 and words[other[0] - 1][0] == "-" and words[other[0]][0] != "-":
                line[other[0]].append(words[other[0]])
                break
        else:
            lines.append([[word] for word in words])
    return "command", "\n           ".join(" ".join(map(" | ".join, line)) for line in lines)


def _list(words: Iterable[tuple[str, str]]) -> None:
    for name, value in words:
        print(f"  {name:9}{value}")
