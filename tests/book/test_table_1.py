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
RECIPE = {"num_trees": 4, "num_sums": 16, "pseudocount": 0.01, "bagged": False, "depth": 0, "seed": 3}
TREES = RECIPE | {
    "batch_size": 500, "lr": 0.8, "last_lr": 0.05, "best_epoch": 9, "epochs": 25, "tried": [1],
    "validation_log_likelihood": -5.5,
}  # fmt: skip
MIXED = {
    "members": [{"recipe": RECIPE, "weight": 0.75}, {"recipe": RECIPE | {"depth": 1, "bagged": True}, "weight": 0.25}],
    "tried": 3, "validation_log_likelihood": -5.4,
}  # fmt: skip


def record(dataset, learner, value, settings=SETTINGS, **more):
    own = {"test_log_likelihood": value, "standard_error": 0.05, "settings": settings, "parameters": 9, "seconds": 2.0}
    return {"dataset": dataset, "learner": learner, **own, "provenance": ORIGIN, **more}


def paired(verdict, against):
    test = {"against": against, "verdict": verdict, "mean_difference": -0.02, "t": -2.5}
    return test | {"p_better": 0.99, "p_worse": 0.006}


RECORDS = [
    record("nltcs", "rat-spn", -6.0),
    record("nltcs", "einet", -6.02, t_test=paired("worse", "rat-spn")),
    record("nltcs", "best", -6.001),
    record("nltcs", "learned", -5.994, TREES, t_test=paired("no difference", "best")),
    record("nltcs", "ensemble", -5.996, MIXED, t_test=paired("worse", "learned")),
    record("ad", "einet", -26.0),
]


@pytest.fixture
def table():
    return table_1.Table(RECORDS)


def test_values(table):
    assert list(table.values) == list(table_1.COLUMNS) and len(table.values) == 20
    assert table.values.loc["ad", ["RAT-SPN", "EiNet", "b", "any"]].tolist() == [-48.472, -26.273, -26.0, -13.45]
    assert table.better["ad"] == -26.273 and table.better["nltcs"] == -6.011  # here RAT-SPN's
    assert table.values.loc["nltcs", list("abcde")].tolist() == [-6.0, -6.02, -6.001, -5.994, -5.996]
    assert np.isnan(table.values.loc["ad", "e"]) and table.errors.loc["nltcs", "e"] == 0.05
    missing = table.missing()
    assert "nltcs" not in missing and {"ad", "kdd-2k"} <= set(missing) and len(missing) == 19


def test_the_best_of_all_is_chosen_by_validation_rows():
    worse = record("nltcs", "ensemble", -5.0, MIXED | {"validation_log_likelihood": -7.0})
    assert table_1.Table([*RECORDS[:4], worse]).told["nltcs", "e"]["learner"] == "learned"
    assert table_1.Table(RECORDS).told["nltcs", "e"]["learner"] == "ensemble"


@pytest.mark.parametrize(
    "value,word", [(-5.994, "any kind"), (-5.996, "paper"), (-6.011, "paper"), (-6.012, "none"), (-5.0, "any kind")]
)
def test_a_printed_number_is_reached_at_its_own_digits(value, word):
    """Of nltcs -5.99 is published, both by a single circuit and by any, and the paper has -6.011."""
    table = table_1.Table([record("nltcs", "learned", value, TREES)])
    assert table.reached("d")["nltcs"] == word and (table.reached("d") == table_1.GAP).sum() == 19
    assert table.reaches("d", "any")["nltcs"] == (word == "any kind")
    assert table.reaches("d", "any", rounded=False)["nltcs"] == (value >= -5.99)


def test_a_single_circuit_is_less_than_any_kind():
    table = table_1.Table([record("plants", "learned", -12.5, TREES)])  # -12.54 and -11.99 are published
    assert table.reached("d")["plants"] == "single"


def test_ranks_share_what_is_level():
    """Nltcs alone has all columns: -5.99 twice, then (d), (e), (a), (c), the paper's two, (b)."""
    assert table_1.Table(RECORDS).ranks()[["single", "any", "d", "e", "a", "c", "RAT-SPN", "EiNet", "b"]].tolist() == [
        1.5, 1.5, 3, 4, 5, 6, 7, 8, 9,
    ]  # fmt: skip


def test_tests_of_pairs(table):
    assert [table.tests(letter)["nltcs"] for letter in "bde"] == ["worse", "no difference", "worse"]
    assert table.tests("b")["ad"] == table_1.GAP  # nothing to hold it against
    same = table_1.Table(RECORDS[:4])
    assert same.test("nltcs", "e") is None and same.told["nltcs", "e"] is same.told["nltcs", "d"]


def test_a_test_is_turned_round_where_the_best_is_the_rival():
    best = record("nltcs", "best", -5.9, SETTINGS | {"validation_log_likelihood": -1.0})
    worse = record("nltcs", "learned", -6.0, TREES, t_test=paired("worse", "best"))
    turned = table_1.Table([best, worse]).test("nltcs", "e")
    means = {"mean_difference": 0.02, "t": 2.5, "p_better": 0.006, "p_worse": 0.99}
    assert turned == {"against": "learned", "verdict": "better", **means}


def test_what_was_read_first_comes_back():
    """For the ensemble of ad, table_1_first.tsv has -14.382, chosen by -14.958 on validation rows."""
    records = [
        record("ad", "learned", -14.7, TREES | {"validation_log_likelihood": -16.0}),
        record("ad", "ensemble", -14.3, MIXED, t_test=paired("better", "learned")),
    ]
    now = table_1.Table(records)
    then = now.first_openings()
    assert now.values.loc["ad", "e"] == -14.3 and then.values.loc["ad", "e"] == -14.38192
    assert then.values.loc["ad", "d"] == -14.7 and then.errors.loc["ad", "e"] == 0.44822
    assert then.test("ad", "e") is None, "the test was of other rows' log-likelihoods"


def test_the_first_look_is_told_beside_the_counts():
    """Of dna -79.05 is published, by a single circuit and by any kind, the first look said -78.512."""
    told = "Without rounding to the printed digits they are 1 and 1, and by the first look 1 and 1."
    trees = TREES | {"validation_log_likelihood": -80.0}
    late = [record("dna", "learned", -79.2, trees), record("dna", "ensemble", -78.0, MIXED)]
    table = table_1.Table(late)
    assert table.reopened() == ["dna"] and table.at_first() == (
        "The test rows of 1 set were opened a second time, after more trainings; by the first look the counts are "
        f"1 and 1. {told}"
    )
    assert table_1.Table(late[:1]).at_first() == "Without rounding to the printed digits they are 0 and 0."


def test_counts_of_the_records():
    """Each count once more from the values themselves, at the printed digits and without."""
    now = table_1.Table(origin.read("debd"))
    wanted = []
    for table in (now.first_openings(), now):
        for rounded in (True, False):
            for kind in ("single", "any"):
                printed = table.published[kind]
                ours = [
                    round(value, len(text.split(".")[1])) if rounded else value
                    for value, text in zip(table.values["e"], printed, strict=True)
                ]
                wanted.append(sum(own >= float(text) for own, text in zip(ours, printed, strict=True)))
    then, then_exact, _, exact = zip(wanted[::2], wanted[1::2], strict=True)
    found = [int(number) for number in re.findall(r"\d+", now.at_first())]
    assert found == [len(now.reopened()), *then, *exact, *then_exact]


def test_first_openings_were_other_numbers_than_the_records():
    records = {(r["dataset"], r["learner"]): r for r in origin.read("debd")}
    lines = [x.split("\t") for x in table_1.FIRST.read_text(encoding="utf-8").splitlines() if not x.startswith("#")]
    assert len(lines) == 8
    for name, learner, value, *_ in lines[1:]:
        assert 0 < records[name, learner]["test_log_likelihood"] - float(value) < 3


def test_without_any_result():
    table = table_1.Table([])
    assert len(table.missing()) == 20 and table.ranks().isna().all() and "nan<" not in table.to_html()
    assert table.summary().startswith("On 0 of 0 data sets")


def test_in_short(table):
    assert table.summary() == (
        "On 0 of 1 data sets our best circuit is at least as good as the best single circuit that has been published, "
        "and on 0 as the best tractable model of any kind."
    )
    best = table_1.Table(RECORDS[:4])  # -5.994, which is -5.99 at two digits
    assert best.summary().startswith("On 1 of 1 data sets") and best.summary().endswith(
        "on 1 as the best tractable model of any kind."
    )
    lines = best.to_markdown().splitlines()
    assert len(lines) == 2 + 10 and lines[2].startswith(
        "| nltcs | -6.011 | **-5.99** | **-5.994** | dna | -96.086 | **-79.05** | – |"
    )
    assert table.to_markdown().splitlines()[2].startswith("| nltcs | -6.011 | **-5.99** | -5.996 |")


@pytest.mark.parametrize("records", [RECORDS, []])
def test_picture_has_the_distances_from_the_best_published(records):
    table_1.Table(records).picture()
    lines = {line.get_label(): line.get_xydata() for line in plt.gca().lines}
    ours = lines[table_1.MARKS["e"][0]]
    assert np.isfinite(ours[:, 0]).sum() == (len(records) > 0)
    if records:
        assert ours[0] == pytest.approx([-5.996 + 5.99, 0])
    assert lines[table_1.MARKS["better"][0]][-1] == pytest.approx([-26.273 + 13.45, 19])
    assert [label.get_text() for label in plt.gca().get_yticklabels()][::19] == ["nltcs", "ad"]
    plt.close()


def test_details(table):
    assert table.details("e").loc["nltcs", ["learner", "parameters", "trainings", "seed"]].tolist() == [
        "2 members",
        9,
        3,
        0,
    ]
    assert table.details("d").loc["nltcs", ["learner", "trainings"]].tolist() == ["(d)", 1]
    assert table.details("b").loc["ad", ["learner", "trainings"]].tolist() == ["(b)", 58]


def test_rows(table, tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "RESULTS", tmp_path)
    (tmp_path / "debd_rows").mkdir()
    np.savez(tmp_path / "debd_rows" / "nltcs.npz", einet=np.float32([-1, -2]))
    assert table.rows("nltcs", "einet").tolist() == [-1.0, -2.0] and table.rows("nltcs", "einet").dtype == np.float64


def test_html(table):
    page = table.to_html()
    assert page.count("<tr") == 2 + 20 + 2 and "nan<" not in page
    assert page.count(f"<td>{table_1.GAP}</td>") == 18 * (1 + 5) + (1 + 4) + 5  # of ad (b) alone; means of our five
    data = json.loads(re.search(r'<script type="application/json">(.*)</script>', page)[1])
    assert data["columns"] == list(table_1.COLUMNS) and len(data["datasets"]) == 20
    assert set(data["told"]["ad"]) == {"RAT-SPN", "EiNet", "b", "single", "any"}
    assert "experiments/debd.py" in data["told"]["nltcs"]["e"]["origin"]
    assert data["told"]["ad"]["any"]["what"] == "EXPC, as printed in Di Mauro et al. 2021, supplement, Table 7."


@pytest.fixture(scope="module")
def tab(browser, tmp_path_factory):
    """The table with its script and its style, opened from the disk in a narrow window."""
    page = tmp_path_factory.mktemp("page") / "table.html"
    static = ROOT / "book/_static"
    script = "".join((static / name).read_text(encoding="utf-8") for name in ("figure.js", "debd.js"))
    style = (static / "figures.css").read_text(encoding="utf-8")
    head = f"<!doctype html><meta charset='utf-8'><style>{style}</style><script>{script}</script>"
    page.write_text(head + table_1.Table(RECORDS).to_html(), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 390, "height": 800})
    tab.errors = []
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.goto(page.as_uri())
    return tab


def names(tab):
    return tab.locator("tbody tr:visible td:first-child").all_inner_texts()


def test_the_verdict_stays_in_sight(tab):
    """However far the numbers are scrolled, the name and what (e) is as good as are on the screen."""
    for left in (0, 10_000):
        tab.evaluate(f"document.querySelector('.scroll').scrollLeft = {left}")
        boxes = [tab.locator("tbody tr").first.locator("td").nth(i).bounding_box() for i in (0, 1)]
        assert boxes[0]["x"] >= 0 and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] + 0.5
        assert boxes[1]["x"] + boxes[1]["width"] < 390 / 2 + 40
    assert tab.locator("tbody tr").first.locator("td").nth(1).inner_text() == "paper"
    tab.evaluate("document.querySelector('.scroll').scrollLeft = 0")


def test_the_page_sorts_by_keyboard(tab):
    order = names(tab)
    head, button = (tab.locator(f"thead tr:nth-child(2) th{inner}").nth(3) for inner in ("", " button"))
    button.focus()
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert names(tab)[0] == "bbc" and names(tab)[-1] == "kdd-2k"
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending" and names(tab)[0] == "kdd-2k"
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "none" and names(tab) == order
    button = tab.locator("thead tr:nth-child(2) th button").nth(4)
    for times in (1, 2):  # what is missing stays below
        button.click()
        assert names(tab)[0] == "nltcs", times
    button.click()


def test_the_page_filters(tab):
    tab.locator("select").select_option("(e) behind the best single circuit")
    assert names(tab) == ["nltcs"] and tab.locator("[role=status]").inner_text() == "1 of 20 sets"
    for of in ("(e) as good as the best of any kind", "learned trees (d) behind random ones (c)"):
        tab.locator("select").select_option(of)
        assert names(tab) == []
    tab.locator("select").select_option("not run yet")
    assert len(names(tab)) == 19 and "nltcs" not in names(tab)
    tab.locator("select").select_option("all sets")
    tab.locator("input").fill("baud")  # DEBD's name of audio
    assert names(tab) == ["audio"]
    tab.locator("input").fill("")
    assert len(names(tab)) == 20


def test_the_page_says_where_a_number_came_from(tab):
    cells, output = tab.locator("tbody tr").first.locator("td button"), tab.locator("output")
    words = {
        0: ("RAT-SPN: −6.011 nats", "Table 1 in Peharz"),
        2: ("−6.000 ± 0.050", "Depth 2", "experiments/debd.py"),
        3: ("Minus (a), row by row: −0.0200 nats", "p = 0.0060, one-sided: worse", "λ = 0.1"),
        5: ("4 learned trees, K = 16", "One training, no choice", "no difference"),
        6: ("ensemble", "A mixture of 2", "random trees of rows drawn again", "(25%)", "Chosen from 3 trainings"),
        7: ("HCLT, as printed in Selvam",),
    }
    for place, told in words.items():
        cells.nth(place).press("Enter")
        shown = output.text_content()
        assert [text for text in told if text not in shown] == [], place
        assert cells.nth(place).get_attribute("aria-pressed") == "true"
    assert tab.locator("[aria-pressed=true]").count() == 1
    cells.nth(6).click()
    assert not output.locator("details").evaluate("fold => fold.open"), "provenance is folded"
    assert tab.errors == []
