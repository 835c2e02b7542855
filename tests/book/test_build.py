"""`make book` runs what it shows. All other tests look at pages that are built from what chapters have stored."""

import re
import subprocess
import sys

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from project import ROOT

CALL = "from jupyter_book.cli.main import main; main()"
WORDS = "Please {repository}`open an issue <issues/new>`."
STORED = new_output("stream", name="stdout", text="stored long ago")


@pytest.fixture
def build(tmp_path):
    """Build a book with our settings, of pages with one cell each, which has an output stored; (exit status, text)."""

    def build(repository="", **pages):
        config = (ROOT / "_config.yml").read_text(encoding="utf-8")
        assert 'url: "",' in config
        (tmp_path / "_config.yml").write_text(config.replace('url: "",', f'url: "{repository}",'), encoding="utf-8")
        (tmp_path / "book").symlink_to(ROOT / "book")
        first, *others = pages
        chapters = ["chapters:", *(f"- file: {name}" for name in others)] if others else []
        (tmp_path / "_toc.yml").write_text("\n".join(["format: jb-book", f"root: {first}", *chapters]))
        for name, source in pages.items():
            cells = [new_markdown_cell(f"# {name}\n\n{WORDS}"), new_code_cell(source, outputs=[STORED])]
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


@pytest.mark.slow
def test_one_address_brings_buttons_and_links(build, tmp_path):
    address = "https://github.com/someone/circuits"
    status, said = build(repository=address, good="print(6 * 7)")
    assert not status, said
    page = BeautifulSoup((tmp_path / "_build/html/good.html").read_text(encoding="utf-8"), "html.parser")
    links = {link["href"] for link in page.find_all("a", href=re.compile("^https?:"))}
    notebook = "gh-pages/notebooks/good.ipynb"
    assert {
        address,
        f"{address}/issues/new",
        f"https://colab.research.google.com/github/someone/circuits/blob/{notebook}",
        "https://mybinder.org/v2/gh/someone/circuits/main?urlpath=lab/tree/good.ipynb",
    } <= links
    assert any(link.startswith(f"{address}/issues/new?title=") for link in links)  # the theme's button, with the page
    fetched = [part.get("src") or part["href"] for part in page.find_all(["script", "link", "img"], src=True)]
    assert not [name for name in fetched if name.startswith("http")]
    copy = nbformat.read(tmp_path / "_build/html/notebooks/good.ipynb", as_version=4)
    assert f"git+{address}" in copy.cells[1].source
