"""The records of book/results: read, written whole or not at all, and told by commands that every machine has.

    python experiments/records.py book/results/*.json     writes older records again as they would be written today

A record's command names no place of the machine it ran on: files of the checkout go by their names from its root, and
an option whose value lies elsewhere is left out, since where a number was written to is no part of how it was made.
This module needs the standard library alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def read_records(path: Path) -> list[dict]:
    """The records of a file; none where there is no file yet."""
    return json.loads(path.read_text()) if path.exists() else []


def write_records(path: Path, records: list[dict]) -> None:
    """Put records in the place of the file; it is never half written."""
    for record in records:
        if origin := record.get("provenance"):
            origin["command"] = portable(origin["command"].split())
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(records, indent=1) + "\n")
    draft.replace(path)


def command_line(arguments: list[str] | None = None, script: str | None = None) -> str:
    """The command of a record, by default that of this process."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return portable(["python", str(Path(script or sys.argv[0]).resolve()), *arguments])


def portable(words: list[str]) -> str:
    """The words of a command as one line, without places outside the checkout."""
    kept: list[str] = []
    for word in words:
        option, equals, value = word.rpartition("=")
        place = Path(value)
        if not place.is_absolute():
            kept.append(word)
        elif place.is_relative_to(ROOT):
            kept.append(option + equals + place.relative_to(ROOT).as_posix())
        elif equals:
            continue
        elif kept and kept[-1].startswith("-"):
            kept.pop()  # the option that this would be the value of
        else:
            kept.append(place.name)
    return " ".join(kept)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_records(Path(name), read_records(Path(name)))
