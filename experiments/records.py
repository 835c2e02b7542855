"""The records of book/results: read, written whole or not at all, and shown with where they come from.

    python experiments/records.py book/results/*.json     writes older records again as they would be written today

A record's command names no place of the machine it ran on: files of the checkout go by their names from its root, and
an option whose value lies elsewhere is left out, since where a number was written to is no part of how it was made.
This module needs the standard library alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What records have in common that came from one run; `seconds` and `date` are each record's own.
SHARED = ("command", "commit", "versions", "machine", "device", "seed")


def read_records(path: Path) -> list[dict]:
    """The records of a file; none where there is no file yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def write_records(path: Path, records: list[dict]) -> None:
    """Put records in the place of the file; it is never half written."""
    for record in records:
        if origin := record.get("provenance"):
            origin["command"] = portable(origin["command"].split())
    write_whole(path, json.dumps(records, indent=1) + "\n")


def write_whole(path: Path, content: str | bytes) -> None:
    """Put content in the place of a file, which is never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_bytes(content.encode() if isinstance(content, str) else content)
    draft.replace(path)


# How a process was, and is, called


def command_line(arguments: list[str] | None = None, script: str | None = None) -> str:
    """The command of a record, by default that of this process; `script` is the name of a file of experiments/."""
    arguments = sys.argv[1:] if arguments is None else arguments
    file = ROOT / "experiments" / script if script else Path(sys.argv[0]).resolve()
    return portable(["python", str(file), *arguments])


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


def python_path() -> dict[str, str]:
    """The environment variable by which another Python finds einet and experiments."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}


# Shown


def say(text: str) -> None:
    """A line of a long run, shown at once."""
    print(text, flush=True)


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
    """Print where records came from, once for all of the same commit, machine and seed, with their commands.

    What is the same for all of these groups comes last.
    """
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
        for merged in lines:
            other = [i for i, word in enumerate(words) if len(merged) == len(words) and merged[i] != [word]]
            if len(other) == 1 and other[0] >= 3 and words[other[0] - 1][0] == "-" and words[other[0]][0] != "-":
                merged[other[0]].append(words[other[0]])
                break
        else:
            lines.append([[word] for word in words])
    return "command", "\n           ".join(" ".join(map(" | ".join, merged)) for merged in lines)


def _list(words: Iterable[tuple[str, str]]) -> None:
    for name, value in words:
        print(f"  {name:9}{value}")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_records(Path(name), read_records(Path(name)))
