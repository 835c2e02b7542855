"""book/origin.py: every number that a page did not compute says where it came from."""

import json
import time

import pytest

from book import origin
from experiments.provenance import provenance
from experiments.records import SHARED


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Writes records as book/results/made.json."""
    monkeypatch.setattr(origin, "RESULTS", tmp_path)
    return lambda records: (tmp_path / "made.json").write_text(json.dumps(records))


def made(**changes):
    """A record as the experiments write it."""
    own = provenance(3, time.time(), command="python experiments/made.py --fast")
    return {"value": 1.5, "provenance": own | changes}


def test_a_record_of_an_experiment_can_be_read_and_told(results):
    record = made(commit="0123456789abcdef" * 2 + "+changes", seconds=12.34, date="2026-11-24T13:38:33+00:00")
    results([record])
    assert origin.read("made") == [record]
    told = origin.line(record)
    versions = record["provenance"]["versions"]
    for word in ("python experiments/made.py --fast", "0123456789ab+changes", f"torch {versions['torch']}",
                 record["provenance"]["machine"], "device cpu", "seed 3", "12.3 s", "2026-11-24"):  # fmt: skip
        assert word in told


def test_records_of_one_run_are_told_once(capsys):
    first, second = made(seconds=1.0, date="2026-11-24T23:00:00"), made(seconds=2.5, date="2026-11-25T01:00:00")
    origin.show([first, second, made(seed=4, seconds=7.0, date="2026-11-26T01:00:00")])
    lines = capsys.readouterr().out.splitlines()
    assert [text for text in lines if not text.startswith(" ")] == [
        "2 records, 3.5 s, 2026-11-24 to 2026-11-25",
        "1 record, 7.0 s, 2026-11-26",
        "all of them",
    ]
    assert [text for text in lines if "seed" in text] == ["  seed     3", "  seed     4"]
    shared = lines[lines.index("all of them") + 1 :]
    assert [text.split()[0] for text in shared] == [name for name in SHARED if name != "seed"]
    assert len(lines) == 3 + 2 + len(shared)


def test_a_single_run_is_told_whole(capsys):
    origin.show([made(), made()])
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(SHARED)


def test_commands_that_differ_in_a_value_are_told_as_one(capsys):
    commands = [
        "python race.py --points K=1 --fast",
        "python race.py --points K=2 --fast",
        "python race.py --points K=3 --slow",  # another flag
        "python race.py --points K=3 --fast",
        "python walk.py --points K=1 --fast",  # another script
        "python race.py --points R=1 -o here",
        "python race.py --points R=2 -o there",  # two values: not every pair of them was run
    ]
    origin.show([made(command=command) for command in (*commands, commands[0])])
    told = [line.removeprefix("  command").strip() for line in capsys.readouterr().out.splitlines() if ".py" in line]
    assert told == ["python race.py --points K=1 | K=2 | K=3 --fast", commands[2], *commands[4:]]


def test_a_number_without_an_origin_is_refused(results):
    with pytest.raises(ValueError, match=r"made.json is not there.*experiments/made.py"):
        origin.read("made")
    record = made()
    del record["provenance"]["commit"], record["provenance"]["seed"]
    results([made(), record])
    with pytest.raises(ValueError, match="record 1 of .*made.json does not say its commit, seed"):
        origin.read("made")
    results([{"value": 1.5}])
    with pytest.raises(ValueError, match="record 0 .* command, commit, date, device"):
        origin.read("made")
