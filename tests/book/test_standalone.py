"""Notebooks to download: plain Markdown, nothing of the checkout, and buttons that fetch nothing by themselves."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from docutils import nodes
from project import ROOT

from book._ext import companions, repository, standalone
from book._ext.plain import Plain

NOTEBOOKS = sorted((ROOT / "_build/html/notebooks").glob("*.ipynb"))
MYST = re.compile(r"^\s*:::|\{[a-z][\w:-]*\}`|^\([\w-]+\)=$", re.M)

every_copy = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def plain(**options):
    given = {"link": lambda node: node["refuri"], "picture": Path, "number": lambda name: "", "script": ""} | options
    return Plain(**given)


def test_text_formulas_and_boxes():
    box = nodes.admonition(
        "", nodes.title("", "Summary"), nodes.paragraph("", "", nodes.Text("2 * 3 is "), nodes.math("", "6"))
    )
    items = nodes.bullet_list("", *(nodes.list_item("", nodes.paragraph("", text)) for text in ("one", "two")))
    formula = nodes.math_block("", "a = b", number=4)
    link = nodes.paragraph("", "", nodes.reference("", "there", refuri="https://x.org"))
    code = nodes.container("", nb_element="cell_code", cell_index=3)
    section = nodes.section("", nodes.title("", "Leaves"), box, items, code, formula, link)
    assert plain().cells(nodes.section("", section)) == [
        ("# Leaves\n\n> **Summary**\n>\n> 2 \\* 3 is $6$\n\n- one\n- two", {}),
        3,
        ("$$\na = b \\tag{4}\n$$\n\n[there](https://x.org)", {}),
    ]


def test_pictures_lie_in_the_cell(tmp_path):
    file = tmp_path / "dot.svg"
    file.write_text("<svg/>", encoding="utf-8")
    figure = nodes.figure("", nodes.image(uri="x", alt="a dot"), nodes.caption("", "Dots"), ids=["dot"])
    ((text, attachments),) = plain(picture=lambda uri: file, number={"dot": "2"}.get).cells(nodes.section("", figure))
    assert text == "![a dot](attachment:dot.svg)\n\n**Fig. 2.** Dots"
    assert attachments == {"dot.svg": {"image/svg+xml": "PHN2Zy8+"}}


def test_what_cannot_be_shown_is_an_error():
    with pytest.raises(ValueError, match="field_list"):
        plain().cells(nodes.section("", nodes.field_list("")))


def test_files_that_code_needs():
    code = ["%matplotlib inline\nfrom book import origin, table_1", 'model = load("models/fashion-mnist.safetensors")']
    found = companions.needed([*code, 'origin.read("floor")'])
    assert {"book/__init__.py", "book/origin.py", "book/figures.py", "book/table_1.tsv", "experiments/records.py",
            "book/results/floor.json", "models/fashion-mnist.safetensors"} <= {*found}  # fmt: skip
    assert not [name for name in found if name.startswith(("einet", "tests"))]
    rows = {f"book/results/debd_rows/{file.name}" for file in (ROOT / "book/results/debd_rows").iterdir()}
    assert rows and rows <= {*found}  # table_1 reads them row by row
    assert companions.needed(["import einet"]) == {}


def test_files_are_written_where_there_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("b").write_text("mine", encoding="utf-8")
    files = {"book/origin.py": ROOT / "book/origin.py", "b": ROOT / "LICENSE"}
    exec(companions.cell(files), {})
    assert Path("book/origin.py").read_bytes() == (ROOT / "book/origin.py").read_bytes()
    assert Path("b").read_text(encoding="utf-8") == "mine"


def pressed(page, name, **options):
    """The buttons of a page that the extension leaves, by their labels."""
    return standalone.launch("https://github.com/someone/circuits", options, page, name)["buttons"]


def test_buttons_lead_to_the_checkout_and_to_the_copy():
    binder, colab = pressed("book/07_em", "notebooks/07_em.ipynb", repository_branch="main")
    assert binder["url"] == "https://mybinder.org/v2/gh/someone/circuits/main?urlpath=lab/tree/book/07_em.ipynb"
    assert colab["url"] == (
        "https://colab.research.google.com/github/someone/circuits/blob/gh-pages/notebooks/07_em.ipynb"
    )
    assert {button["type"] for button in (binder, colab)} == {"link"}


@pytest.mark.parametrize("address", ["", "https://github.com/someone/circuits"])
def test_one_setting_brings_the_buttons(address):
    config = SimpleNamespace(html_theme_options={"repository_url": address})
    repository.show_buttons(None, config)
    options = config.html_theme_options
    assert options["use_repository_button"] == options["use_issues_button"] == bool(address)
    assert ("git+https" in standalone.install(address)) == bool(address)


def test_every_chapter_has_a_copy():
    if not NOTEBOOKS:
        pytest.skip("no built book: run `make book` first")
    assert [file.name for file in NOTEBOOKS] == sorted(file.name for file in (ROOT / "book").glob("*.ipynb"))


@every_copy
def test_a_copy_is_plain(file):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    original = nbformat.read(ROOT / "book" / file.name, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [c.source for c in original.cells if c.cell_type == "code"] == [c.source for c in code][-len(code) + 2 :]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert not MYST.search(cell.source), MYST.search(cell.source)
            pictures = re.findall(r"\]\((attachment:[^)]*)\)", cell.source)
            assert sorted(pictures) == sorted(f"attachment:{name}" for name in cell.get("attachments", {}))
            for address in re.findall(r"(?<!!)\[[^\]]*\]\(([^)]*)\)", cell.source):
                assert re.match(r"https?:|attachment:", address) or (file.parent / address).is_file(), address
    assert [output for cell in code for output in cell.outputs]


@pytest.mark.slow
@pytest.mark.skipif(not NOTEBOOKS, reason="no built book: run `make book` first")
def test_a_copy_runs_with_the_wheel_alone(tmp_path):
    """In an empty folder, with a Python that has the package from its wheel, and what others have made."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            tmp_path,
            ROOT,
        ],
        check=True,
    )
    venv.create(tmp_path / "venv", with_pip=False)
    site = next((tmp_path / "venv").glob("lib*/python*/site-packages"))
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, site, "zip")
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copy(ROOT / "_build/html/notebooks/01_circuits.ipynb", folder)
    run = (
        "import einet, importlib.util, sys, nbclient, nbformat\n"
        "assert einet.__file__.startswith(sys.prefix) and not importlib.util.find_spec('book')\n"
        "nb = nbformat.read('01_circuits.ipynb', 4)\n"
        "manager = nbclient.NotebookClient(nb, kernel_name='python3').create_kernel_manager()\n"
        "manager.kernel_spec.argv[0] = sys.executable\n"
        "nbclient.NotebookClient(nb, km=manager, timeout=300).execute()\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([tmp_path / "venv/bin/python", "-c", run], cwd=folder, env=env, check=True)
    assert (folder / "book/figures.py").is_file()
    assert ast.parse((folder / "book/figures.py").read_text(encoding="utf-8"))
