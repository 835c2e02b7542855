"""The README: its examples run as shown, what it points to exists, and its numbers are those of book/results."""

import json
import re
import subprocess
import sys

import joblib
import numpy as np
import pandas
import pytest
from project import PYPROJECT, ROOT

from book import readme

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)


def test_there_is_a_short_example():
    lines = [line for line in EXAMPLES[0].splitlines() if line and not line.startswith(("import ", "torch.set"))]
    assert len(lines) == 5


def run(code, folder):
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=folder)
    assert out.returncode == 0, out.stderr
    return out.stdout


@pytest.mark.slow
def test_first_example_runs_as_shown(tmp_path):
    everything, half = map(float, re.findall(r"-\d+\.\d+", run(EXAMPLES[0], tmp_path)))
    assert everything < half < 0, "eight binary variables are more probable than those and eight others"


@pytest.mark.slow
def test_own_csv(tmp_path):
    """The second example, on a file with a gap in the first row and one held-out row that does not belong."""
    random = np.random.default_rng(0)
    length = random.normal(170, 10, 400)
    lines = [f"{x:.1f},{x - 100 + random.normal():.1f},{i % 2}" for i, x in enumerate(length)]
    odd = int(pandas.Series(range(400)).sample(frac=0.2, random_state=0).iloc[5])
    lines[0], lines[odd] = "180,,1", "150,99,0"
    (tmp_path / "own.csv").write_text("\n".join(["height,weight,answer", *lines]))
    out = run(EXAMPLES[1], tmp_path)
    assert re.search(rf"the oddest row\nheight +150.0\nweight +99.0\nanswer +0.0\nName: {odd}", out)
    filled = re.search(r"^0 +180.0 +([\d.]+) +1$", out, re.M)
    assert 70 < float(filled[1]) < 90
    assert len(re.findall(r"^[0-4] +1\d\d\.\d+ +\d+\.\d+ +[01]$", out, re.M)) == 3 + 5
    # One row of 80 is 49 standard deviations off: -15 of the mean, if the density knows how narrow weights are.
    assert -20 < float(re.search(r"given the height: (-[\d.]+)", out)[1]) < -1
    scores = joblib.load(tmp_path / "own.joblib").score_samples(pandas.read_csv(tmp_path / "own.csv"))
    assert scores.argmin() == odd


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_targets(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    text = (ROOT / page).read_text(encoding="utf-8")
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.M)) <= targets


def test_the_citation_is_that_of_the_package():
    """Read without a parser: the version, the licence and the authors of pyproject.toml, the paper's title."""
    citation, project = (ROOT / "CITATION.cff").read_text(encoding="utf-8"), PYPROJECT["project"]
    said = dict(re.findall(r'^(version|license|  - name|    title): "?(.*?)"?$', citation, re.M))
    assert (said["version"], said["license"]) == (project["version"], project["license"])
    assert [said["  - name"]] == [author["name"] for author in project["authors"]]
    assert said["    title"] in README.replace("\n", " ")
    assert f"[{project['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_what_is_copied_is_fresh():
    """The table from book/results, pictures from the outputs of the intro: `python book/readme.py` writes them."""
    assert readme.with_table(README) == README
    pictures = readme.pictures()
    assert sorted(pictures) == ["readme_race.svg", "readme_strip.png"]
    for name, content in pictures.items():
        assert (ROOT / "book/_static" / name).read_bytes() == content, name
        assert f"](book/_static/{name})" in README


def test_table_1_is_that_of_the_results():
    """Read without book/table_1.py: the paper's better column, the best published, and what validation rows chose."""
    records = json.loads((ROOT / "book/results/debd.json").read_text(encoding="utf-8"))
    by_validation = sorted(records, key=lambda r: r["settings"]["validation_log_likelihood"])
    best = {r["dataset"]: r["test_log_likelihood"] for r in by_validation}  # the last one of a set stays
    paper, published = (rows_of(ROOT / f"book/{name}.tsv") for name in ("table_1", "table_1_published"))
    number = r"(\**-[\d.]+\**)"
    cells = re.findall(rf"\| ([\w-]+) \| {number} \| {number} \| {number} (?=\|)", README)
    assert len(cells) == len(paper) == 20
    shown = {name: texts for name, *texts in cells}
    for name, row in paper.items():
        theirs, others, ours = (text.strip("*") for text in shown[row["name"]])
        assert float(theirs) == max(float(row["RAT-SPN"]), float(row["EiNet"]))
        assert others == published[name]["any"] and ours == f"{best[name]:.3f}"
        bold = [text.startswith("*") for text in shown[row["name"]]]
        level = round(best[name], len(others.partition(".")[2])) >= float(others)
        largest = max(float(theirs), float(others), best[name])
        assert bold == [float(theirs) == largest, float(others) == largest, level], name


def rows_of(file):
    names, *rows = [x.split("\t") for x in file.read_text(encoding="utf-8").splitlines() if not x.startswith("#")]
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


@pytest.mark.parametrize("text", ["", readme.START, readme.END + readme.START * 2])
def test_a_readme_without_its_comments_is_refused(text):
    with pytest.raises(ValueError, match="once each"):
        readme.with_table(text)


def test_a_notebook_that_was_not_run_is_refused(tmp_path, monkeypatch):
    cell = {"metadata": {"tags": ["readme-race"]}, "outputs": []}
    (tmp_path / "intro.ipynb").write_text(json.dumps({"cells": [cell]}))
    monkeypatch.setattr(readme, "BOOK", tmp_path)
    with pytest.raises(ValueError, match="readme-race of intro.ipynb has no picture"):
        readme.pictures()


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
