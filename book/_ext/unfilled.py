"""What stands in place of a figure until its script fills it.

In a notebook no script does, so there the sentence says where the figure answers, with a link. On a built page it is
seen where a browser runs no scripts, and neither the sentence nor the link would be true.
"""

from __future__ import annotations

import re

from docutils import nodes

FIGURE = re.compile(r'(<div class="[\w-]+-figure">).*?(</div>)', re.S)
ON_A_PAGE = r"\1This figure needs JavaScript.\2"


def replace(app, doctree: nodes.document) -> None:
    for node in doctree.findall(nodes.raw):
        if node.get("format") == "html" and FIGURE.search(text := node.astext()):
            node.children = [nodes.Text(FIGURE.sub(ON_A_PAGE, text))]
            node.rawsource = ""


def setup(app) -> dict:
    app.connect("doctree-read", replace)
    return {"parallel_read_safe": True}
