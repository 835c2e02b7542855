"""The README: its example runs as shown, and what it points to exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)


def test_there_is_a_short_example():
    lines = [line for line in EXAMPLES[0].splitlines() if line.strip() and not line.startswith("import ")]
    assert len(lines) == 5


@pytest.mark.parametrize("code", EXAMPLES)
def test_example_runs_as_shown(code, tmp_path):
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    everything, half = map(float, re.findall(r"-\d+\.\d+", out.stdout))
    assert everything < half < 0, "eight binary variables are more probable than those and eight others"


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", README)
    assert links
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


def test_commands_are_targets():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`?\bmake ([a-z]+)`?", README)) <= targets
