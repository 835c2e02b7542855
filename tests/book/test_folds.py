"""The chapters as JupyterLab shows them before anything ran: folds of the pages, and pictures that need no trust."""

import nbformat
import pytest
from project import ROOT

from book.folds import fold

CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
every_chapter = pytest.mark.parametrize("file", CHAPTERS, ids=lambda file: file.stem)


@every_chapter
def test_what_pages_fold_is_folded(file):
    notebook = nbformat.read(file, as_version=nbformat.NO_CONVERT)
    before = nbformat.writes(notebook)
    fold(notebook)
    assert nbformat.writes(notebook) == before, "run: python book/folds.py"


@every_chapter
def test_every_plot_is_stored_as_png_too(file):
    """JupyterLab draws no SVG of a notebook that it does not trust; figures.style() makes both."""
    for cell in nbformat.read(file, as_version=nbformat.NO_CONVERT).cells:
        for kinds in (output.get("data", {}) for output in cell.get("outputs", ())):
            assert "image/svg+xml" not in kinds or "image/png" in kinds


def test_a_cell_is_folded_by_its_tags():
    cells = [nbformat.v4.new_code_cell("1", metadata={"tags": [tag]}) for tag in ("hide-input", "hide-cell", "slow")]
    cells[2].metadata["jupyter"] = {"source_hidden": True}
    fold(nbformat.v4.new_notebook(cells=cells))
    assert [cell.metadata.get("jupyter") for cell in cells] == [
        {"source_hidden": True},
        {"source_hidden": True, "outputs_hidden": True},
        None,
    ]
