"""What stands in place of a figure until its script fills it.

In a notebook no script does, so there the sentence says where the figure answers, with a link. On a built page it is
seen where a browser runs no scripts, and neither the sentence nor the link would be true.
"""

from __future__ import annotations

import re

from docutils import nodes

SENTENCE = re.compile(r'(?<=-figure">)This figure answers in the <a href="[^"]*">built book</a>\.(?=</div>)')
ON_A_PAGE = "This figure needs JavaScript."


def replace(app, doctree: nodes.document) -> None:
    for node in doctree.findall(nodes.raw):
        if node.get("format") == "html" and SENTENCE.search(text := node.astext()):
            node.children = [nodes.Text(SENTENCE.sub(ON_A_PAGE, text))]
            node.rawsource = ""


def setup(app) -> dict:
    app.connect("doctree-read", replace)
    return {"parallel_read_safe": True}
