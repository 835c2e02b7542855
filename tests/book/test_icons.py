"""Of the theme's icons only those that pages use, in its script, its style and its font."""

from pathlib import Path
from types import SimpleNamespace

import pydata_sphinx_theme
import pytest
from fontTools.ttLib import TTFont

from book._ext import icons

THEME = Path(pydata_sphinx_theme.__file__).parent / "theme/pydata_sphinx_theme"
SCRIPT, STYLE, FONTS = (THEME / name.replace("_static", "static") for name in (icons.SCRIPT, icons.STYLE, icons.FONTS))


def test_the_script_keeps_what_is_asked_for_by_name_and_by_old_name():
    whole = SCRIPT.read_text(encoding="utf-8")
    short = icons.only(whole, {"moon", "pencil-alt", "no-such-icon"})
    kept = [match["quoted"] or match["name"] for match in icons.ENTRY.finditer(short)]
    assert sorted({*kept}) == ["moon", "pencil"]  # moon is there in two looks
    assert len(short) < len(whole) / 15
    assert icons.ENTRY.sub("", short) == icons.ENTRY.sub("", whole)
    with pytest.raises(ValueError, match="no-such-icon"):
        icons.only(whole, {"no-such-icon"})


def test_the_style_keeps_their_rules_and_all_others():
    whole = STYLE.read_text(encoding="utf-8")
    short = icons.only_rules(whole, {"moon"})
    assert ".fa-moon:before{" in short and ".fa-sun:before{" not in short
    assert len(icons.RULE.findall(whole)) > 1000 and len(icons.RULE.findall(short)) == 1
    assert icons.RULE.sub("", whole) == icons.RULE.sub("", short)


def test_the_font_keeps_its_signs(tmp_path):
    file = tmp_path / "fa-solid-900.woff2"
    file.write_bytes((FONTS / file.name).read_bytes())
    whole = file.stat().st_size
    icons.only_signs(file, {0xF00C, 0xF303})
    assert file.stat().st_size < whole / 20
    with TTFont(file) as font:
        assert {*font.getBestCmap()} == {0xF00C, 0xF303}


def test_signs_in_a_style_by_number_and_by_themselves():
    found = icons.SIGN.findall('a { content: "\\f15c" } b { content: "\uf058" } c { content: "abc" }')
    assert found == [("f15c", ""), ("", "\uf058")]


def test_the_index_is_loaded_by_the_page_that_searches(tmp_path):
    loads = (
        '<p>\n<script src="../_static/searchtools.js"></script>\n<script src="../searchindex.js?v=1"></script>\n</p>'
    )
    for name in ("page.html", "search.html"):
        (tmp_path / name).write_text(loads, encoding="utf-8")
    config = SimpleNamespace(html_theme_options={})
    icons.without_search(SimpleNamespace(outdir=tmp_path, builder=SimpleNamespace(format="html"), config=config), None)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "<p>\n</p>"
    assert (tmp_path / "search.html").read_text(encoding="utf-8") == loads


def test_names_that_pages_use(tmp_path):
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static/own.html").write_text('<i class="fas fa-gear"></i>', encoding="utf-8")
    (tmp_path / "page.html").write_text('<i class="fas fa-circle-half-stroke fa-lg"></i>', encoding="utf-8")
    assert icons.used(tmp_path) == {"circle-half-stroke", "lg"}
