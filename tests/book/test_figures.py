"""The interactive figures: one stylesheet, and what they share in one place."""

import re

import pytest
from project import ROOT

STATIC = ROOT / "book" / "_static"
NAMES = sorted(f.stem for f in STATIC.glob("*.js") if "einetFigure(" in f.read_text("utf-8") and f.stem != "figure")
CSS = re.sub(r"/\*.*?\*/", "", (STATIC / "figures.css").read_text("utf-8"), flags=re.S)


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_leaves_its_look_to_the_stylesheet(name):
    script = (STATIC / f"{name}.js").read_text("utf-8")
    assert f'einetFigure("{name}", ' in script and f".{name}-figure" in CSS
    assert not re.search(r"\.\w+-figure [^`]*\{|<style", script)


def test_thirteen_figures_share_the_stylesheet_of_every_page():
    assert len(NAMES) == 13
    assert "html_css_files: [book.css, figures.css]" in (ROOT / "_config.yml").read_text()
    assert set(re.findall(r"\.(\w+)-figure\b", CSS)) == {*NAMES, "einet"}
    assert re.findall(r"\.(?!einet)\w+-figure \{[^}]*border: 1px", CSS) == [], "the frame is that of .einet-figure"


def test_random_numbers_of_pages_have_one_source():
    scripts = [*STATIC.glob("*.js"), *(ROOT / "einet" / "inpaint").glob("*.js")]
    assert [f.name for f in scripts if "0x6d2b79f5" in f.read_text("utf-8")] == ["tools.js"]
