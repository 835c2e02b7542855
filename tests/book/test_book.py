"""What every notebook of the book keeps to, read from its file.

The frame of a chapter, `book/NN_name.ipynb` (directives may use ``` or :::):

    # 3 The einsum layer                          title, with the chapter's number
    $$ ... $$ (03-name)                           a formula; every label and every (03-target)= begins with "03-"
    ```{admonition} Exercise: ...                 a question with its target figure, three to five of them
    :class: exercise
    ★★ *On paper.* ...                            easy to open, one star to three; at least one is on paper
    ```{dropdown} Solution                        in words; code goes into a code cell right after it,
                                                  tagged "hide-cell" and "solution", so that it runs
    ```{admonition} In the paper                  section, equation, what differs here
    :class: paper
    ```{admonition} Summary                       at most 5 lines, each "- ..."
    :class: summary

A figure made by a cell has its alt text in the cell's metadata: {"mystnb": {"image": {"alt": "..."}}}.
Commit notebooks executed from top to bottom in a fresh kernel, without widget state.
"""

import re
from statistics import median

import nbformat
import pytest
import yaml
from project import ROOT

from book._ext.unfilled import SENTENCE

BOOK = ROOT / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
CHAPTERS = [f for f in NOTEBOOKS if re.match(r"\d\d_", f.name)]

every_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
every_chapter = pytest.mark.parametrize("file", CHAPTERS, ids=lambda f: f.stem)


def cells(file, kind):
    notebook = nbformat.read(file, as_version=4)
    return [c for c in notebook.cells if c.cell_type == kind and c.source.strip()]


def text(file):
    return "\n\n".join(c.source for c in cells(file, "markdown"))


def code_lines(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def directives(file, name, title=""):
    """The bodies of {name} directives whose title begins with `title`."""
    found = re.findall(r"^(`{3,}|:{3,})\{" + name + r"\} ?(.*)\n((?:.*\n)*?)\1 *$", text(file) + "\n", re.M)
    return [body for _, heading, body in found if heading.startswith(title)]


@every_notebook
def test_was_run_from_top_to_bottom(file):
    counts = [c.execution_count for c in cells(file, "code")]
    assert counts == list(range(1, len(counts) + 1)), "restart the kernel and run all cells, then commit"


@every_notebook
def test_outputs_are_clean(file):
    for cell in cells(file, "code"):
        for out in cell.outputs:
            assert out.output_type != "error", f"{out.ename} in: {cell.source}"
            assert out.get("name") != "stderr", f"stderr ({out.text[:200]}) in: {cell.source}"
    assert "widgets" not in nbformat.read(file, as_version=4).metadata, "clear the widget state before saving"


@every_notebook
def test_runs_on_any_machine(file):
    kernel = nbformat.read(file, as_version=4).metadata.kernelspec.name
    assert kernel == "python3", f"kernel {kernel} exists on one machine only"


@every_notebook
def test_size(file):
    # a plot is stored twice, as SVG for pages and as PNG for JupyterLab
    kilobytes = file.stat().st_size / 1000
    assert kilobytes <= 500, f"{kilobytes:.0f} kB; draw less, or at a lower resolution"
    sizes = [len(code_lines(c)) for c in cells(file, "code")]
    assert sum(sizes) <= 150, f"{sum(sizes)} code lines; what is longer belongs into einet"
    assert max(sizes) <= 20, f"a cell of {max(sizes)} lines"
    assert median(sizes) <= 8, f"the median cell has {median(sizes)} lines"


@every_notebook
def test_no_widget_that_stalls_a_build(file):
    for cell in cells(file, "code"):
        found = re.search(r"\bOutput\(|@(\w+\.)?interact\b|\binteract(ive)?\(", cell.source)
        assert not found, f"{found[0]} sometimes hangs without a browser"


@every_notebook
def test_a_stored_inpainter_is_a_picture(file):
    """JupyterLab shows "model not found" where the view of a widget is stored that is gone: so its html is, alone."""
    for cell in cells(file, "code"):
        for data in (out.get("data", {}) for out in cell.outputs):
            assert "application/vnd.jupyter.widget-view+json" not in data, "delete this part of the output"
            if "einet-inpaint" in (shown := data.get("text/html", "")):
                assert '<img alt="' in shown and "data:image/png;base64," in shown


@every_notebook
def test_a_figure_that_only_pages_fill_says_so_with_a_link(file):
    for unfilled in re.findall(r'<div class="[\w-]+-figure">.*?</div>', text(file), re.S):
        (link,) = re.findall(r'<a href="([^"]*)', unfilled)
        assert SENTENCE.search(unfilled) and (file.parent / link).is_file()


@every_notebook
def test_every_image_has_alt_text(file):
    source = text(file)
    assert re.findall(r"!\[\s*\]\([^)]*\)", source) == [], "![what it shows](...)"
    assert [tag for tag in re.findall(r"<img[^>]*>", source) if not re.search(r"alt=\"[^\"]", tag)] == []
    for name in ("figure", "image"):
        assert [b for b in directives(file, name) if not re.search(r"^:alt: \S", b, re.M)] == []
    for cell in cells(file, "code"):
        if any(kind.startswith("image/") for out in cell.outputs for kind in out.get("data", {})):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert alt.strip(), f'no {{"mystnb": {{"image": {{"alt": ...}}}}}} in the metadata of: {cell.source}'


@every_chapter
def test_length_of_the_prose(file):
    prose = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|^\s*:\w+:[^\n]*$|[`:]{3,}\S*", " ", text(file), flags=re.S | re.M)
    words = len(re.findall(r"[^\W\d_][\w'’-]*", prose))
    assert 1300 <= words <= 2500, f"{words} words"


@every_chapter
def test_labels_begin_with_the_chapter(file):
    equations = re.findall(r"\$\$[ \t]*\(([^)\s]+)\)", text(file))
    equations += [label for b in directives(file, "math") for label in re.findall(r"^:label: (\S+)", b, re.M)]
    targets = re.findall(r"^\(([^)\s]+)\)=\s*$", text(file), re.M)
    assert equations, "at least one labelled formula: $$ ... $$ (03-name)"
    assert [x for x in equations + targets if not x.startswith(file.name[:2] + "-")] == []


@every_chapter
def test_title_carries_the_number(file):
    assert re.match(rf"# {int(file.name[:2])} \S", text(file)), f"the first line: # {int(file.name[:2])} Title"


@every_chapter
def test_frame(file):
    assert directives(file, "admonition", "Exercise"), "an exercise"
    assert directives(file, "dropdown", "Solution"), "a solution"
    assert len(directives(file, "admonition", "In the paper")) == 1, "one box `In the paper`"
    summary = directives(file, "admonition", "Summary")
    assert len(summary) == 1, "one summary"
    points = re.findall(r"^- ", summary[0], re.M)
    assert 1 <= len(points) <= 5, f"{len(points)} lines in the summary"
    for cell in cells(file, "code"):
        tags = cell.metadata.get("tags", [])
        assert "solution" not in tags or "hide-cell" in tags, f"a solution in plain sight: {cell.source}"


@every_chapter
def test_exercises_go_from_easy_to_open(file):
    found = re.findall(r"^:::\{admonition\} Exercise(.*)\n:class: exercise\n(.*)", text(file), re.M)
    assert 3 <= len(found) <= 5 and len(directives(file, "dropdown", "Solution")) == len(found)
    stars = [re.search("★+", heading + first)[0] for heading, first in found]
    assert stars == sorted(stars) and (stars[0], stars[-1]) == ("★", "★★★"), stars
    assert any("on paper" in (heading + first).lower() for heading, first in found)


@every_chapter
def test_what_agrees_is_asserted(file):
    asserts = [c for c in cells(file, "code") if re.search(r"^\s*assert |\bassert_close\(", c.source, re.M)]
    assert asserts, "at least one assert: slow and fast agree, on the page"


def test_addresses_of_before_lead_to_a_chapter():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    names = {f"book/{file.stem}" for file in NOTEBOOKS}
    redirects = config["sphinx"]["config"]["redirects"]
    assert len(redirects) >= 8 and not redirects.keys() & names, "a page stands where a redirect should"
    assert {f"book/{target.removesuffix('.html')}" for target in redirects.values()} <= names


def test_chapters_stand_in_the_order_of_their_numbers():
    chapters = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"][0]["chapters"]
    assert [f"{each['file']}.ipynb" for each in chapters] == [f"book/{file.name}" for file in CHAPTERS]
    titles = [int(re.match(r"# (\d+) ", text(file))[1]) for file in CHAPTERS]
    assert titles == [int(file.name[:2]) for file in CHAPTERS]
