"""What the pages fold, JupyterLab folds too: the tags of Jupyter Book, said in the metadata that JupyterLab reads.

python book/folds.py    # writes it into every chapter; a test holds that it is there
"""

from __future__ import annotations

from pathlib import Path

import nbformat

BOOK = Path(__file__).resolve().parent
HIDDEN = {
    "hide-input": ("source_hidden",),
    "hide-output": ("outputs_hidden",),
    "hide-cell": ("source_hidden", "outputs_hidden"),
}


def folds(tags: list[str]) -> dict[str, bool]:
    """The metadata `jupyter` of a cell with these tags."""
    return {fold: True for tag in tags for fold in HIDDEN.get(tag, ())}


def fold(notebook: nbformat.NotebookNode) -> None:
    """Fold in JupyterLab the cells of code that the pages fold, and no others."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("jupyter", None)
            if found := folds(cell.metadata.get("tags", [])):
                cell.metadata["jupyter"] = found


if __name__ == "__main__":
    for file in sorted(BOOK.glob("*.ipynb")):
        chapter = nbformat.read(file, as_version=nbformat.NO_CONVERT)
        fold(chapter)
        nbformat.write(chapter, file)
