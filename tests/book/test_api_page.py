"""The API reference shows every public name, and every letter of its docstring."""

import importlib.util
import inspect
import re

import pytest
from docutils import nodes
from project import ROOT

import einet

spec = importlib.util.spec_from_file_location("einet_api", ROOT / "book" / "_ext" / "einet_api.py")
api = importlib.util.module_from_spec(spec)
spec.loader.exec_module(api)

MODULES = [name for name in (ROOT / "book" / "api.md").read_text().split("```")[1].split() if "." in name]
MEMBERS = {name: dict(api.public_members(importlib.import_module(name))) for name in MODULES}


def letters(text):
    """What is left without spaces, bullets and the marks of code."""
    return "".join(re.sub(r"^- ", "", text.replace("`", ""), flags=re.M).split())


def test_every_public_name_is_there():
    listed = {name for members in MEMBERS.values() for name in members}
    assert set(einet.__all__) <= listed


@pytest.mark.parametrize("module", MODULES)
def test_no_letter_of_a_docstring_is_lost(module):
    for member in MEMBERS[module].values():
        text = inspect.getdoc(member)
        body = text[: text.index("\n\nPaper: ")]
        assert letters(nodes.section("", *api.described(body, set())).astext()) == letters(body)


def test_layout():
    text = """One `word` of\ncode.\n\n    x = f(1)\n\nlr   the step,\n     small\nx, y  two\n\n- a\n- b\n  c"""
    paragraph, code, rows, bullets = api.described(text, set())
    assert [type(node) for node in paragraph] == [nodes.Text, nodes.literal, nodes.Text]
    assert (code.astext(), code["language"]) == ("x = f(1)", "python")
    assert [item[0].astext() for item in rows] == ["lr", "x, y"]
    assert rows[0][1].astext() == "the step, small"
    assert [item.astext() for item in bullets] == ["a", "b c"]


def test_the_origin_links_to_chapters_that_are_in_the_book():
    lines = ["Paper: Section 3.5,", "    Eq. (6)", "Chapter: book/07_em"]
    linked, plain = (api.origin(lines, documents)[-1] for documents in ({"book/07_em"}, set()))
    assert (linked["reftarget"], linked.astext()) == ("/book/07_em", "book/07_em")
    assert isinstance(plain, nodes.literal)


def test_long_signatures_take_a_line_a_parameter():
    def f(first_parameter=1, second_parameter=(2, 3), *, third_parameter=None, fourth_parameter="a string"):
        pass

    assert api.signature("f", f).astext().splitlines() == [
        "f(first_parameter=1,",
        "  second_parameter=(2, 3),",
        "  *,",
        "  third_parameter=None,",
        "  fourth_parameter='a string')",
    ]
