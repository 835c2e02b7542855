"""The README: its example runs as shown, and what it points to exists."""

import json
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


def test_the_race_is_that_of_the_results():
    """Each row of the table, in the order of the records at the default point, and the ratios below it."""
    records = json.loads((ROOT / "book/results/efficiency.json").read_text(encoding="utf-8"))
    at = {(r["num_sums"], r["depth"], r["num_replicas"], r["implementation"]): r for r in records}
    shown = re.findall(r"^\| .* \| ([\d.]+) s \| ([\d.]+) ms \| (\d+) MB \|$", README, re.M)
    default = [r for place, r in at.items() if place[:3] == (10, 4, 10)]
    measured = [(r["epoch_seconds"], 1e5 * r["inference_seconds"], r["peak_bytes"] / 1e6) for r in default]
    assert shown == [(f"{epoch:.2f}", f"{inference:.1f}", f"{memory:.0f}") for epoch, inference, memory in measured]
    told = re.search(r"is ([\d.]+) times as fast .* length 40, ([\d.]+) times .* and ([\d.]+) times at depth 9", README)
    points = (40, 4, 10), (10, 4, 40), (10, 9, 10)
    epochs = [[at[(*place, who)]["epoch_seconds"] for who in ("libcirkit", "einet")] for place in points]
    assert told.groups() == tuple(f"{theirs / ours:.1f}" for theirs, ours in epochs)
    assert {r["provenance"]["commit"][:7] for r in records} == {re.search(r"at commit (\w{7})", README)[1]}
