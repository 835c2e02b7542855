"""The page of the API, made from the docstrings while the book is built: the directive `{einet-api}`.

Docstrings of einet are written to be read as they stand, so only what their layout shows is translated: paragraphs,
`code`, lists, formulas and examples (indented), and rows such as `lr   the step size`, which become a definition list.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cached_property

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

ROW = re.compile(r"(\S+(?: \S+)*?) {2,}(\S.*)")
WIDTH = 76  # of a signature in one line


class Api(SphinxDirective):
    """Sections for the modules that it names, one after another, with a section for each public name."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        return [self.of_module(importlib.import_module(name)) for line in self.content for name in line.split()]

    def of_module(self, module) -> nodes.section:
        section = self.section(module.__name__, nodes.literal(text=module.__name__))
        section += described(inspect.getdoc(module).split("\n\n")[0], self.env.found_docs)
        for name, member in public_members(module):
            child = self.section(f"{module.__name__}.{name}", nodes.literal(text=name))
            child += signature(name, member)
            child += described(inspect.getdoc(member), self.env.found_docs)
            child += methods(member, self.env.found_docs)
            section += child
        return section

    def section(self, target: str, title: nodes.Node) -> nodes.section:
        section = nodes.section("", nodes.title("", "", title), ids=[nodes.make_id(target)], names=[target.lower()])
        self.state.document.note_explicit_target(section)
        return section


# What is public


def public_members(module) -> Iterator[tuple[str, object]]:
    """The documented classes and functions that a module defines, in the order of its text."""
    for name, member in vars(module).items():
        own = getattr(member, "__module__", "").startswith(module.__name__)
        if own and callable(member) and not name.startswith("_") and has_source(member):
            yield name, member


def has_source(member) -> bool:
    """Whether its docstring names the paper, as those of all public names do; the rest is there for the package."""
    return "\nChapter: " in (inspect.getdoc(member) or "")


def methods(member, documents: set[str]) -> list[nodes.Node]:
    """The documented methods and properties of a class, as one list."""
    found = nodes.definition_list()
    for name, method in vars(member).items() if inspect.isclass(member) else ():
        text = getattr(method, "__doc__", None)
        method = getattr(method, "__func__", method)  # of a class method
        value = isinstance(method, (property, cached_property))
        if text and not name.startswith("_") and (value or inspect.isfunction(method)):
            shown = name if value else name + call(method)
            item = nodes.definition_list_item("", nodes.term("", "", nodes.literal(text=shown)))
            item += nodes.definition("", *described(inspect.cleandoc(text), documents))
            found += item
    return [found] if len(found) else []


def call(member) -> str:
    """(x, observed=None): the parameters of a function, without `self` and without types, which the text gives."""
    if isinstance(member, type) and issubclass(member, Exception):
        return ""  # what is raised or warned of is not made by users
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(member).parameters.values()]
    return str(inspect.Signature([p for p in parameters if p.name not in ("self", "cls")]))


def signature(name: str, member) -> nodes.literal_block:
    text = name + call(member)
    if len(text) > WIDTH:  # a line a parameter; commas within a default, as in (1, 2), are left alone
        parts = re.split(r", (?=\*|/|\w+=|\w+(?:, |\)$))", text)
        text = (",\n" + " " * (len(name) + 1)).join(parts)
    return nodes.literal_block(text, text, language="python")


# From a docstring to nodes


def described(text: str, documents: set[str]) -> list[nodes.Node]:
    return [node for block in text.split("\n\n") for node in translated(block.splitlines(), documents)]


def translated(lines: list[str], documents: set[str]) -> list[nodes.Node]:
    """The nodes of one block, that is, of the lines between two blank ones."""
    if lines[0].startswith("Paper: "):
        return [nodes.paragraph("", "", *origin(lines, documents))]
    if lines[0].startswith(">>> ") or all(line.startswith("    ") for line in lines):
        return [literal("\n".join(lines))]
    if ROW.fullmatch(lines[0]):
        return [rows(lines)]
    if lines[0].startswith("- "):
        items = re.split(r"(?:^|\n)- ", "\n".join(lines))[1:]
        return [nodes.bullet_list("", *(nodes.list_item("", paragraph(item)) for item in items))]
    return [paragraph("\n".join(lines))]


def literal(text: str) -> nodes.literal_block:
    text = inspect.cleandoc(text)
    try:
        ast.parse(text)
        language = "python"
    except SyntaxError:
        language = "text"
    return nodes.literal_block(text, text, language=language)


def rows(lines: list[str]) -> nodes.definition_list:
    """`name   what it is`, where further lines are indented."""
    found: list[tuple[str, str]] = []
    for line in lines:
        row = ROW.fullmatch(line)
        if row and not line.startswith(" "):
            found.append((row[1], row[2]))
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    items = []
    for name, what in found:
        term = nodes.term("", "", nodes.literal(text=name))
        items.append(nodes.definition_list_item("", term, nodes.definition("", paragraph(what))))
    return nodes.definition_list("", *items)


def paragraph(text: str) -> nodes.paragraph:
    parts = re.split(r"`([^`]+)`", " ".join(text.split()))
    return nodes.paragraph("", "", *(nodes.literal(text=p) if i % 2 else nodes.Text(p) for i, p in enumerate(parts)))


def origin(lines: list[str], documents: set[str]) -> list[nodes.Node]:
    """Where it comes from in the paper, and the chapter, as a link where it is in the book."""
    chapter = lines[-1].removeprefix("Chapter: ")
    shown = nodes.literal(text=chapter)
    if chapter in documents:
        reference = {"refdomain": "std", "reftype": "doc", "reftarget": f"/{chapter}", "refexplicit": True}
        shown = addnodes.pending_xref("", shown, refwarn=True, **reference)
    before = " ".join(line.strip() for line in lines[:-1])
    return [nodes.emphasis(text=before), nodes.Text(". "), nodes.emphasis(text="Chapter: "), shown]


def setup(app) -> dict:
    app.add_directive("einet-api", Api)
    return {"parallel_read_safe": True}
