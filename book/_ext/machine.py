"""What the book was built with: the directive `{built-with}`."""

from __future__ import annotations

from datetime import UTC, datetime

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from experiments.provenance import commit, machine, versions

PACKAGES = ("torch", "numpy", "matplotlib", "scikit-learn", "jupyter-book", "myst-nb", "ipywidgets", "anywidget")


class BuiltWith(SphinxDirective):
    """A definition list: when, from which commit, on what machine, with which versions."""

    def run(self) -> list[nodes.Node]:
        return [definition_list(built_with())]


def built_with() -> dict[str, str]:
    """As in the records of experiments, with a commit that fits a phone."""
    head, plus, changes = commit().partition("+")
    return {
        "Built": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "Commit": head[:12] + plus + changes,
        "Machine": machine(),
        "Versions": ", ".join(f"{name} {number}" for name, number in versions(PACKAGES).items()),
    }


def definition_list(entries: dict[str, str]) -> nodes.definition_list:
    items = []
    for term, text in entries.items():
        definition = nodes.definition("", nodes.paragraph(text=text))
        items.append(nodes.definition_list_item("", nodes.term(text=term), definition))
    return nodes.definition_list("", *items)


def setup(app) -> dict:
    app.add_directive("built-with", BuiltWith)
    return {"parallel_read_safe": True}
