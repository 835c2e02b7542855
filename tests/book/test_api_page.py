"""The API page, the map and the picture of the layers: every public name, and nothing that does not exist."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import docutils.core
import pytest
from project import PYPROJECT
from sphinx.ext.napoleon import Config, GoogleDocstring

from book._ext import einet_api as api
from book._ext import layering

ROOT = Path(__file__).parents[2]
PUBLIC = api.public()
API, MAP = ((ROOT / "book" / name).read_text(encoding="utf-8") for name in ("api.md", "map.md"))
PAGES = {file.stem: file.read_text(encoding="utf-8") for file in sorted((ROOT / "book/api").glob("*.md"))}


def member(name):
    """einet.layers.sums.EinsumLayer, or experiments.race.efficiency, which is a module."""
    module, _, last = name.rpartition(".")
    return getattr(import_module(module), last, None) or import_module(name)


# The API pages


def test_every_public_name_is_on_a_page_once():
    found = [name for page in PAGES.values() for name in re.findall(r"^\.\. auto\w+:: (\S+)$", page, re.M)]
    assert sorted(found) == sorted(PUBLIC.values()), "a page of book/api has each public name"


def test_every_page_is_a_module_that_has_its_names_and_is_listed():
    for stem, page in PAGES.items():
        title, names = re.fullmatch(r"# `(\S+)`\n(.+)", page, re.S).groups()
        assert title.removeprefix("einet.").replace(".", "_") == stem and f"- [`{title}`](api/{stem}): " in API
        assert f"- file: book/api/{stem}\n" in (ROOT / "_toc.yml").read_text(encoding="utf-8")
        for name in re.findall(r"^\.\. auto(?:class|exception|function):: (\S+)$", names, re.M):
            assert member(name).__module__.startswith(title), f"{name} is in {member(name).__module__}, not in {title}"


def shown(text):
    """A docstring as the page has it, as a document of docutils; what it warns of is an error."""
    settings = {"halt_level": 2, "report_level": 2, "warning_stream": False}
    text = str(GoogleDocstring(api.translated(text, {}), Config(napoleon_use_rtype=False, napoleon_use_ivar=True)))
    return docutils.core.publish_doctree(text, settings_overrides=settings)


def documented():
    for name in sorted(PUBLIC.values()):
        thing = member(name)
        parts = vars(thing).items() if inspect.isclass(thing) else ()
        own = {f"{name}.{key}": value for key, value in parts if not key.startswith("_")}
        for key, value in {name: thing, **own}.items():
            if callable(value) or isinstance(value, property):
                text = inspect.getdoc(value) if key == name else inspect.cleandoc(value.__doc__ or "")
                if text and getattr(value, "__module__", "einet").startswith("einet"):
                    yield pytest.param(text, id=key)


@pytest.mark.parametrize("text", [*documented()])
def test_docstrings_are_read_without_a_warning_and_no_word_is_lost(text):
    found = re.findall(r"\w+", shown(text).astext().replace("\\", ""))
    headings = {"Args", "Attributes", "Returns", "Raises", "Yields"}  # of which napoleon makes its own
    assert set(re.findall(r"\w+", text)) - set(found) <= headings


def test_layout():
    text = (
        "One `word` of\ncode, 2 * 3, a_ and |x|.\n\n    x = f(1) * 2\n\n"
        "Args:\n    x: Rows, *all* of them,\n        (B, D).\n\nRaises:\n    ValueError: Where `x` is wrong.\n\n"
        "Source: Section 3.5,\n    Eq. (6)"
    )
    tree = shown(text)
    first, code, fields = tree.children
    assert first.astext() == "One word of\ncode, 2 * 3, a_ and |x|." and first[1].tagname == "literal"
    assert (code.tagname, code.astext()) == ("literal_block", "x = f(1) * 2")
    assert [field[0].astext() for field in fields] == ["param x", "raises ValueError", "Source"]
    assert fields[0][1].astext() == "Rows, *all* of them,\n(B, D)." and fields[2][1].astext() == "Section 3.5,\nEq. (6)"


def test_names_are_links():
    assert api.inline("as `fit`s, `einet.fit` and `fit_`", {"fit": "einet.fit"}) == (
        r"as :py:obj:`fit <einet.fit>`\ s, :py:obj:`einet.fit <einet.fit>` and ``fit_``"
    )


def test_a_source_of_two_lines_is_one_field():
    tree = shown("Word.\n\nSource: not in the paper; but\nthere")
    assert [field.astext() for field in tree[1]] == ["Source\n\nnot in the paper; but\nthere"]


# The map


def test_every_public_name_is_on_the_map():
    assert set(re.findall(r"\{py:obj\}`~(\S+?)`", MAP)) == set(PUBLIC.values())


def test_what_the_map_names_exists():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in MAP.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row[0] not in ("paper", "what")]
    assert len(rows) > 30
    for _, chapters, names, test in rows:
        for number, file in re.findall(r"\[(\d+)\]\((\w+)\)", chapters):
            assert (ROOT / "book" / f"{file}.ipynb").is_file() and int(file[:2]) == int(number), file
        assert re.search(r"\[\d+\]", chapters)
        for name in re.findall(r"(?<!\{py:obj\})`([a-z][\w.]+)`", names):
            assert member(name), name
        file, words = re.fullmatch(r"`(\S+)`: (.+)", test).groups()
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        assert words.replace(" ", "_") in {getattr(node, "name", "").removeprefix("test_") for node in tree.body}, test


@pytest.mark.parametrize("place", [
    *(f"Section {number}" for number in ("2", "3.1", "3.2", "3.3", "3.4", "3.5", "4.1", "4.2")),
    *(f"({number})" for number in range(1, 10)), "Figure 1", "Figure 2", "Figures 3 and 6", "Figure 4", "Figure 5",
    "Table 1", "Algorithm 1", "appendix A", "appendix B", "appendix C",
])  # fmt: skip
def test_the_map_has_the_whole_paper(place):
    places = [line.split("|")[1] for line in MAP.partition("Past the paper")[0].splitlines() if line.startswith("| ")]
    assert any(re.search(rf"{re.escape(place)}(?!\d)", each) for each in places)


# The picture of the layers


def imported():
    """As the picture should have it, by a reading of its own: of the text of each file."""
    found = {}
    for file in (ROOT / "einet").rglob("*.py"):
        parts = file.relative_to(ROOT / "einet").with_suffix("").parts
        if not any(parts[0] in row for row in layering.layers()):  # the package itself, and old names
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            others = {name.split(".")[1] for name in names if name.startswith("einet.")}
            found.setdefault(parts[0], set()).update(others - {parts[0]})
    return found


def reached(arrows):
    found = {name: set(others) for name, others in arrows.items()}
    for _ in found:
        found = {name: others.union(*(found.get(other, set()) for other in others)) for name, others in found.items()}
    return {name: others for name, others in found.items() if others}


def test_arrows_are_the_imports_and_none_too_many():
    imports, _ = layering.imports()
    assert {name: others for name, others in imports.items() if others} == {n: o for n, o in imported().items() if o}
    arrows = {}
    for name, other in layering.needed(imports, layering.layers()):
        arrows.setdefault(name, set()).add(other)
    assert reached(arrows) == reached(imports)
    for name, others in arrows.items():
        for other in others:
            fewer = {**arrows, name: others - {other}}
            assert reached(fewer) != reached(arrows), f"{name} -> {other} follows from others"


def test_every_module_has_a_box_and_every_arrow_points_down():
    rows, (imports, core) = layering.layers(), layering.imports()
    boxes = layering.placed(rows, core)
    assert set(boxes) == set(imports) == {name for row in rows for name in row}
    assert all(0 <= box.x and box.x + box.width <= layering.WIDTH for box in boxes.values())
    for name, other in layering.needed(imports, rows):
        assert boxes[name].y < boxes[other].y
    for one in boxes.values():
        for other in boxes.values():
            beside = one.x + one.width < other.x or other.x + other.width < one.x
            assert one == other or beside or abs(one.y - other.y) >= layering.LINE, f"{one.name} lies on {other.name}"
    assert {"graph", "network", "training"} <= core and not {"tables", "datasets", "plotting", "gpu"} & core


def test_an_arrow_that_would_point_up_is_refused():
    with pytest.raises(ValueError, match="einet.low imports einet.high, which is not below it"):
        layering.needed({"low": {"high"}, "high": set()}, [["high"], ["low"]])


def test_the_picture_has_words_for_who_does_not_see_it():
    picture = layering.svg(layering.layers(), *layering.imports())
    (label,) = re.findall(r'aria-label="([^"]+)"', picture)
    assert "points down" in label and str(len(PYPROJECT["tool"]["importlinter"]["contracts"][0]["layers"]) - 1) in label
    assert "<title>mixture imports layers, network</title>" in picture
