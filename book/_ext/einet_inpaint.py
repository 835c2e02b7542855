"""Pages that show an `InpaintWidget` get what it needs to answer without a kernel: its script, its style, its models.

So do chapters 7 and 12, whose figures ask the same engine.

All of it is made while the book is built: the script from the one source in einet/inpaint, the models from book/models.
"""

from __future__ import annotations

import json
from pathlib import Path

from einet.inpaint import write_page_files
from einet.inpaint.pages import page_name

MODELS = Path(__file__).parents[1] / "models"
SHOWN_BY = ("einet-inpaint", "regions-figure", "em-figure")  # classes of elements


def write_files(app) -> None:
    if app.builder.format == "html":
        write_page_files(Path(app.outdir) / "_static/inpaint", sorted(MODELS.glob("*.safetensors")))


def add_files(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    if any(f'class="{name}"' in context.get("body", "") for name in SHOWN_BY):
        app.add_css_file("inpaint/inpaint.css")
        app.add_js_file("inpaint/inpaint.js", loading_method="defer")
        # for figures, which know models of the book by the stems of their files
        names = {path.stem: page_name(path) for path in MODELS.glob("*.safetensors")}
        app.add_js_file(None, body=f"globalThis.einetFiles = {json.dumps(names)};")


def setup(app) -> dict:
    app.connect("builder-inited", write_files)
    app.connect("html-page-context", add_files)
    return {"parallel_read_safe": True}
