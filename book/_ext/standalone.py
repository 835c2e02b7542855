"""Copies of the chapters that need no checkout: `notebooks/NAME.ipynb` beside the built pages, and the buttons to them.

A copy has plain Markdown, its pictures inside, a cell that installs what is missing, one that writes the few files of
the book that the chapter uses, and the stored outputs. The button of a page downloads it. Once `repository.url` of
_config.yml is set, there are also buttons for Binder and Colab, for the repository and for an issue: links, so nothing
is fetched before somebody presses one. Colab opens the copy, from the branch that the built book is published on.
"""

from __future__ import annotations

import re
from os.path import normpath
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import nbformat
from docutils import nodes

from book._ext import companions, repository
from book._ext.plain import Plain
from book.folds import folds as folds_of

FOLDER = "notebooks"
PUBLISHED = "gh-pages"  # the branch that `ghp-import -n -p _build/html` writes


def install(address: str) -> str:
    """The cell that installs the package, where it is missing."""
    what = f"einet[notebooks] @ git+{address}" if address else "einet[notebooks]"
    return (
        "# The package of the book, where it is not installed yet. A wheel does as well:\n"
        '# %pip install "einet-0.1.0-py3-none-any.whl[notebooks]"\n'
        "import importlib.util\n\n"
        'if not importlib.util.find_spec("einet"):\n'
        f'    %pip install --quiet "{what}"'
    )


def papers(app) -> dict[str, str]:
    """Addresses of papers, by the ids of their entries on the page of references."""
    found = {}
    for citation in app.env.get_domain("cite").citations:
        fields = citation.entry.fields
        if address := f"https://doi.org/{fields['doi']}" if "doi" in fields else fields.get("url"):
            found[citation.citation_id] = address
    return found


def address_of(app, page: str, node: nodes.Element) -> str:
    """Where a reference leads to from a notebook: to a paper, another copy, or the built book, if it has an address."""
    address = node.get("refuri", "")
    parts, base = urlsplit(address), app.config.html_baseurl.rstrip("/")
    if parts.scheme:
        return address
    if paper := papers(app).get(parts.fragment):
        return paper
    if not parts.path:
        return ""
    other = str(PurePosixPath(normpath(PurePosixPath(page).parent / parts.path)).with_suffix(""))
    if base:
        return f"{base}/{other}.html#{parts.fragment}".removesuffix("#")
    return f"{PurePosixPath(other).name}.ipynb" if is_notebook(app, other) else ""


def is_notebook(app, page: str) -> bool:
    return page in app.env.found_docs and Path(app.env.doc2path(page)).suffix == ".ipynb"


def copy(app, page: str, doctree: nodes.document) -> nbformat.NotebookNode:
    """The standalone copy of a page that is a notebook."""
    env, address = app.env, app.config.html_baseurl.rstrip("/")
    original = nbformat.read(env.doc2path(page), as_version=4)
    pictures = {name: file for file, (_, name) in env.images.items()}  # as the writer has renamed them
    numbers = env.toc_fignumbers.get(page, {}).get("figure", {})
    here = (
        f"[in the built book]({address}/{page}.html)" if address else "in the built book, on the page of this chapter"
    )
    plain = Plain(
        link=lambda node: address_of(app, page, node),
        picture=lambda uri: Path(env.srcdir) / pictures[PurePosixPath(uri).name],
        number=lambda name: ".".join(map(str, numbers.get(name, ()))),
        script=f"*A figure that answers to the mouse stands here {here}; it needs no kernel there.*",
    )
    cells = []
    for part in plain.cells(doctree):
        if isinstance(part, int):
            cells.append(of_code(original.cells[part]))
        else:
            text, attachments = part
            cells.append(nbformat.v4.new_markdown_cell(text, **({"attachments": attachments} if attachments else {})))
    first = 1 if cells and cells[0].cell_type == "markdown" else 0
    cells[first:first] = preparations(app, [cell.source for cell in cells if cell.cell_type == "code"])
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # the same copy from the same book
    kept = {name: original.metadata[name] for name in ("kernelspec", "language_info") if name in original.metadata}
    return nbformat.v4.new_notebook(cells=cells, metadata=kept)


def preparations(app, sources: list[str]) -> list[nbformat.NotebookNode]:
    """Cells without which the others would not run elsewhere."""
    cells = [nbformat.v4.new_code_cell(install(repository.address(app.config)))]
    if files := companions.needed(sources):
        cells.append(nbformat.v4.new_code_cell(companions.cell(files), metadata={"jupyter": {"source_hidden": True}}))
    return cells


def of_code(cell: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A cell with its outputs, as every editor shows them: PNG rather than SVG, no widgets, no scripts of the page."""
    outputs = []
    for output in cell.outputs:
        data = dict(output.get("data", {}))
        data.pop("application/vnd.jupyter.widget-view+json", None)
        if "image/png" in data:
            data.pop("image/svg+xml", None)
        if "text/html" in data:
            data["text/html"] = re.sub(r"<script.*?</script>", "", data["text/html"], flags=re.S)
        outputs.append(nbformat.from_dict({**output, "data": data} if data else output))
    folds = folds_of(cell.metadata.get("tags", []))
    return nbformat.v4.new_code_cell(
        cell.source, execution_count=cell.execution_count, outputs=outputs, metadata={"jupyter": folds} if folds else {}
    )


def write(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """The copy of a page, and the buttons that lead to it."""
    if app.builder.format != "html" or doctree is None or not is_notebook(app, pagename):
        return
    name = f"{FOLDER}/{PurePosixPath(pagename).name}.ipynb"
    file = Path(app.outdir) / name
    file.parent.mkdir(exist_ok=True)
    nbformat.write(copy(app, pagename, doctree), file)
    for group in context["header_buttons"]:
        for button in group.get("buttons", ()):
            if button["label"] == "download-source-button":
                button.update(url=context["pathto"](name, 1), tooltip="Download a notebook that stands alone")
    if address := repository.address(app.config):
        context["header_buttons"].insert(0, launch(address, app.config.html_theme_options, pagename, name))


def launch(address: str, options: dict, page: str, name: str) -> dict:
    """The buttons for Binder, which opens the chapter in the whole checkout, and for Colab, which opens its copy."""
    project = "/".join(address.split("/")[-2:])
    branch = options.get("repository_branch") or "main"
    binder = f"https://mybinder.org/v2/gh/{project}/{branch}?urlpath=lab/tree/{page}.ipynb"
    colab = f"https://colab.research.google.com/github/{project}/blob/{PUBLISHED}/{name}"
    buttons = [
        {
            "type": "link",
            "text": text,
            "tooltip": f"Open in {text}",
            "icon": "fas fa-rocket",
            "url": url,
            "label": label,
        }
        for text, url, label in (("Binder", binder, "launch-binder"), ("Colab", colab, "launch-colab"))
    ]
    return {"type": "group", "tooltip": "Run this chapter", "icon": "fas fa-rocket", "buttons": buttons,
            "label": "launch-buttons"}  # fmt: skip


def setup(app) -> dict:
    app.connect("html-page-context", write, priority=600)  # after the theme's buttons, at 501
    return {"parallel_read_safe": True}
