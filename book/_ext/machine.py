"""What the book was built with: the directive `{built-with}`."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

PACKAGES = "torch numpy matplotlib scikit-learn jupyter-book myst-nb sphinx ipywidgets anywidget".split()


class BuiltWith(SphinxDirective):
    """A definition list: when, from which commit, on what machine, with which versions."""

    def run(self) -> list[nodes.Node]:
        return [definition_list(built_with(self.env.srcdir))]


def built_with(folder: str) -> dict[str, str]:
    return {
        "Built": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "Commit": commit(folder),
        "Machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "Packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


def commit(folder: str) -> str:
    try:
        run = subprocess.run(["git", "-C", folder, "describe", "--always", "--dirty"], capture_output=True, text=True)
    except FileNotFoundError:  # there is no git
        return "unknown"
    return run.stdout.strip() or "unknown: not built from a clone"


def processor() -> str:
    """The processor's name, where Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def definition_list(entries: dict[str, str]) -> nodes.definition_list:
    items = []
    for term, text in entries.items():
        definition = nodes.definition("", nodes.paragraph(text=text))
        items.append(nodes.definition_list_item("", nodes.term(text=term), definition))
    return nodes.definition_list("", *items)


def setup(app) -> dict:
    app.add_directive("built-with", BuiltWith)
    return {"parallel_read_safe": True}
