"""experiments/ and book/ are packages: every command line is there, and nobody edits Python's path to import them."""

import re
import runpy
import subprocess
import sys

import pytest
from project import PYPROJECT, ROOT

from experiments import records

COMMANDS = {
    "debd": "experiments.debd.command",
    "images": "experiments.images.command",
    "efficiency": "experiments.race.efficiency",
    "floor": "experiments.race.floor",
    "gpu": "experiments.race.gpu",
    "tables": "experiments.tables.command",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_line_calls_its_folder(name):
    main = runpy.run_path(str(ROOT / "experiments" / f"{name}.py"))["main"]
    assert main.__module__ == COMMANDS[name]


def test_commands_that_the_records_tell_are_there():
    told = {record["provenance"]["command"].split()[1] for file in ("debd", "efficiency", "floor", "images", "tables")
            for record in records.read_records(ROOT / f"book/results/{file}.json")}  # fmt: skip
    assert told and [script for script in told if not (ROOT / script).is_file()] == []


def test_a_race_starts_where_nothing_is_installed():
    """efficiency.py needs the standard library alone; -S hides what is installed."""
    command = [sys.executable, "-S", "-m", "experiments.efficiency", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--quick" in done.stdout, done.stderr


def test_nobody_edits_the_path():
    edits = re.compile(r"sys\.path\b *(\.|\[|\+?=[^=])")
    files = [f for folder in ("experiments", "book", "tests") for f in (ROOT / folder).rglob("*.py")]
    assert [f.name for f in files if edits.search(f.read_text("utf-8"))] == []


def test_an_installation_has_einet_alone_and_a_checkout_has_all():
    """With a package directory for the root, `pip install -e .` puts the checkout itself on the path."""
    settings = PYPROJECT["tool"]["setuptools"]
    assert settings["packages"]["find"]["include"] == ["einet*"] and settings["package-dir"] == {"": "."}
