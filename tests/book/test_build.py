"""`make book` runs what it shows. All other tests look at pages that are built from what chapters have stored."""

import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from project import ROOT

CALL = "from jupyter_book.cli.main import main; main()"
STORED = new_output("stream", name="stdout", text="stored long ago")


@pytest.fixture
def build(tmp_path):
    """Build a book with our settings, of pages with one cell each, which has an output stored; (exit status, text)."""

    def build(**pages):
        (tmp_path / "_config.yml").symlink_to(ROOT / "_config.yml")
        (tmp_path / "book").symlink_to(ROOT / "book")
        first, *others = pages
        chapters = ["chapters:", *(f"- file: {name}" for name in others)] if others else []
        (tmp_path / "_toc.yml").write_text("\n".join(["format: jb-book", f"root: {first}", *chapters]))
        for name, source in pages.items():
            cells = [new_markdown_cell(f"# {name}"), new_code_cell(source, outputs=[STORED])]
            nbformat.write(new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
        command = [sys.executable, "-c", CALL, "build", str(tmp_path), "-W", "-n", "--keep-going"]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return build


@pytest.mark.slow
def test_chapters_run_and_may_write_no_errors(build, tmp_path):
    status, said = build(good="print(6 * 7)", bad="import sys\nprint('beware', file=sys.stderr)")
    page = (tmp_path / "_build/html/good.html").read_text(encoding="utf-8")
    assert ">42\n<" in page and "stored long ago" not in page, said
    assert status and "stderr was found in the cell outputs" in said and "bad.ipynb" in said


@pytest.mark.slow
def test_a_chapter_that_fails_stops_the_build(build):
    status, said = build(fails="1 / 0")
    assert status and "ZeroDivisionError" in said
