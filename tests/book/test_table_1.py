"""book/table_1.py: the paper's table beside ours, whole or with gaps."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from project import ROOT

from book import origin, table_1

ORIGIN = {
    "command": "python experiments/debd.py", "commit": "0" * 40, "versions": {"torch": "2.13.0"}, "machine": "made",
    "device": "cpu", "seed": 0, "date": "2026-11-24T13:00:00+00:00", "seconds": 3.0,
}  # fmt: skip
SETTINGS = {
    "depth": 2, "num_replicas": 10, "num_leaves": 8, "num_sums": 8, "epochs": 50, "lr": 0.1, "batch_size": 100,
    "pseudocount": 0.0, "decay": 1.0, "num_rows": 16181, "best_epoch": 12, "validation_log_likelihood": -6.0,
    "candidates": 58,
}  # fmt: skip


def record(dataset, learner, value, **more):
    own = {"test_log_likelihood": value, "standard_error": 0.05, "settings": SETTINGS, "parameters": 9, "seconds": 2.0}
    return {"dataset": dataset, "learner": learner, **own, "provenance": ORIGIN, **more}


TEST = {"verdict": "worse", "mean_difference": -0.02, "t": -2.5, "p_better": 0.99, "p_worse": 0.006}
RECORDS = [
    record("nltcs", "rat-spn", -6.0),
    record("nltcs", "einet", -6.02, t_test=TEST),
    record("nltcs", "best", -5.9),
    record("ad", "einet", -26.0),
]


@pytest.fixture
def table():
    return table_1.Table(RECORDS)


def test_values(table):
    assert len(table.paper) == 20 and table.ours.shape == (20, 3)
    assert table.paper.loc["ad", ["RAT-SPN", "EiNet", "better"]].tolist() == [-48.472, -26.273, -26.273]
    assert table.paper.loc["nltcs", "better"] == -6.011  # here RAT-SPN's
    assert table.gains.loc["nltcs", "einet"] == pytest.approx(-100 * 0.005 / 6.015)
    assert table.gains.loc["nltcs", "best"] == pytest.approx(100 * 0.111 / 6.011)
    assert table.gains.loc["ad", "einet"] > 0 and np.isnan(table.gains.loc["ad", "best"])
    assert table.verdicts["nltcs"] == "worse" and table.verdicts["ad"] == table_1.GAP
    missing = table.missing()
    assert "nltcs" not in missing and {"ad", "kdd-2k"} <= set(missing) and len(missing) == 19


def test_learned_trees_lie_beside(table):
    """The chapter's three columns stay as they are, whatever the records of learned trees say."""
    more = [
        record("nltcs", name, value, t_test=TEST | {"verdict": "better"})
        for name, value in (("learned", -5.8), ("ensemble", -5.7))
    ]
    wider = table_1.Table([*RECORDS, *more])
    assert wider.records == table.records and wider.to_html() == table.to_html()
    assert wider.trees.loc["nltcs"].tolist() == [-5.8, -5.7] and wider.tree_errors.loc["nltcs"].tolist() == [0.05, 0.05]
    assert wider.trees.notna().sum().sum() == 2 and list(wider.published.index) == list(wider.paper.index)
    assert wider.published.loc["dna", ["hclt", "single", "any_by"]].tolist() == [-79.05, -79.05, "HCLT"]


def test_without_any_result():
    table = table_1.Table([])
    assert len(table.missing()) == 20 and table.gains.isna().all(axis=None) and "nan<" not in table.to_html()


def test_in_short(table):
    assert table.summary() == (
        "1 of 20 sets are complete.\nOurs is ahead on 1, on 1 by more than a standard error,\nand behind on none."
    )
    lines = table.to_markdown().splitlines()
    assert len(lines) == 2 + 10 and lines[2].startswith("| nltcs | -6.011 | **-5.900** | dna | ")
    assert lines[-1] == f"| pumsb-star | -31.954 | {table_1.GAP} | ad | -26.273 | {table_1.GAP} |"
    behind = table_1.Table([*RECORDS[:2], record("nltcs", "best", -6.03)])  # by less than the standard error, 0.05
    assert behind.summary().endswith("ahead on none,\nand behind on 1, on 0 by more than a standard error.")
    assert lines[2].replace("-6.011 | **-5.900**", "**-6.011** | -6.030") == behind.to_markdown().splitlines()[2]


@pytest.mark.parametrize("records", [RECORDS, []])
def test_picture_has_a_dot_for_each_complete_set(records):
    table_1.Table(records).picture()
    bars = plt.gca().containers
    assert len(bars) == len([r for r in records if r["learner"] == "best"])
    for bar in bars:
        assert bar.lines[0].get_xydata()[0] == pytest.approx([0, 100 * 0.111 / 6.011])
    assert [label.get_text() for label in plt.gca().get_xticklabels()][::19] == ["nltcs", "ad"]
    plt.close()


def test_rows(table, tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "RESULTS", tmp_path)
    (tmp_path / "debd_rows").mkdir()
    np.savez(tmp_path / "debd_rows" / "nltcs.npz", einet=np.float32([-1, -2]))
    assert table.rows("nltcs", "einet").tolist() == [-1.0, -2.0] and table.rows("nltcs", "einet").dtype == np.float64


def test_html(table):
    html = table.to_html()
    assert html.count("<tr") == 21 and "nan<" not in html
    assert (
        html.count(f"<td>{table_1.GAP}</td>") == 18 * 6 + 4
    )  # of ad, only the stochastic learner and its gain are there
    data = json.loads(re.search(r'<script type="application/json">(.*)</script>', html)[1])
    assert len(data["datasets"]) == 20 and len(data["records"]) == 4
    assert all("experiments/debd.py" in r["origin"] for r in data["records"])


@pytest.fixture(scope="module")
def tab(browser, tmp_path_factory):
    """The table with its script, opened from the disk."""
    page = tmp_path_factory.mktemp("page") / "table.html"
    script = "".join((ROOT / "book/_static" / name).read_text(encoding="utf-8") for name in ("figure.js", "debd.js"))
    body = table_1.Table(RECORDS).to_html()
    page.write_text(f"<!doctype html><meta charset='utf-8'><script>{script}</script>{body}", encoding="utf-8")
    tab = browser.new_page()
    tab.errors = []
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.goto(page.as_uri())
    return tab


def names(tab):
    return tab.locator("tbody tr:visible td:first-child").all_inner_texts()


def test_the_page_sorts_by_keyboard(tab):
    order = names(tab)
    head = tab.locator("thead th").nth(2)
    tab.locator("thead th button").nth(2).focus()
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert names(tab)[0] == "bbc" and names(tab)[-1] == "kdd-2k"
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending" and names(tab)[0] == "kdd-2k"
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "none" and names(tab) == order
    for times in (1, 2):  # what is missing stays below
        tab.locator("thead th button").nth(3).click()
        assert names(tab)[0] == "nltcs", times
    tab.locator("thead th button").nth(3).click()


def test_the_page_filters(tab):
    tab.locator("select").select_option("stochastic behind the paper's EiNet")
    assert names(tab) == ["nltcs"] and tab.locator("[role=status]").inner_text() == "1 of 20 sets"
    tab.locator("select").select_option("not run yet")
    assert len(names(tab)) == 19 and "nltcs" not in names(tab)
    tab.locator("select").select_option("all sets")
    tab.locator("input").fill("baud")  # DEBD's name of audio
    assert names(tab) == ["audio"]
    tab.locator("input").fill("")
    assert len(names(tab)) == 20


def test_the_page_says_where_a_number_came_from(tab):
    cells, output = tab.locator("tbody tr").first.locator("td button"), tab.locator("output")
    told = {}
    for place, words in enumerate(
        (
            "Table 1 in Peharz",
            "Table 1 in Peharz",
            "−6.000 ± 0.050",
            "λ = 0.1",
            "experiments/debd.py",
            "100 · (−6.020 − −6.015) / 6.015",
            "100 · (−5.900 − −6.011) / 6.011",
            "p = 0.0060",
        )  # fmt: skip
    ):
        cells.nth(place).hover()
        told[place] = output.inner_text()
        assert words in told[place]
    cells.nth(3).click()  # keeps it
    cells.nth(0).hover()
    assert output.inner_text() == told[3] and cells.nth(3).get_attribute("aria-pressed") == "true"
    cells.nth(3).press("Enter")  # lets it go
    cells.nth(1).focus()
    assert output.inner_text() == told[1]
    assert tab.errors == []
