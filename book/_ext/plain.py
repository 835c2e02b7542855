"""A page as plain Markdown, which every notebook editor shows: what the standalone notebooks are written with.

Sphinx has read the page already, so that references, citations and numbers of formulas and figures are words and links.
Boxes become quotations, folds `<details>`, pictures attachments of their cell.
"""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from docutils import nodes

MARKUP = re.compile(r"[\\`*_$<]")
Cell = int | tuple[str, dict]  # the number of a cell of code, or text with its attachments


class Plain:
    """Writes nodes of one page.

    link     from a reference to the address it leads to from a notebook, or "" where there is none
    picture  from the address of an image, as Sphinx has it, to its file
    number   from the id of a figure to its number, or ""
    script   what takes the place of a figure that a script of the built page fills
    """

    def __init__(
        self, link: Callable[[nodes.Element], str], picture: Callable[[str], Path], number: Callable[[str], str],
        script: str,
    ) -> None:  # fmt: skip
        self.link, self.picture, self.number, self.script = link, picture, number, script
        self.attachments: dict[str, dict[str, str]] = {}

    def cells(self, page: nodes.Element) -> list[Cell]:
        """The page, cell by cell: text between cells of code is one cell."""
        found: list[Cell] = []
        text: list[str] = []

        def end_of_text() -> None:
            if text:
                found.append(("\n\n".join(text), self.attachments))
                self.attachments = {}
                text.clear()

        for part in self.parts(page, level=0):
            if isinstance(part, int):
                end_of_text()
                found.append(part)
            elif part.strip():
                text.append(part)
        end_of_text()
        return found

    def parts(self, node: nodes.Node, level: int) -> Iterator[str | int]:
        """Blocks of text, and numbers of cells of code, in their order."""
        for child in node.children:
            if isinstance(child, nodes.section):
                yield from self.parts(child, level + 1)
            elif isinstance(child, nodes.title) and isinstance(node, nodes.section):
                yield f"{'#' * level} {self.inline(child)}"
            elif isinstance(child, nodes.container) and child.get("nb_element") == "cell_code":
                yield child["cell_index"]
            elif isinstance(child, (nodes.container, nodes.compound)) and not child.get("design_component"):
                yield from self.parts(child, level)
            else:
                yield self.block(child)

    def blocks(self, node: nodes.Node, start: int = 0) -> str:
        return "\n\n".join(filter(None, map(self.block, node.children[start:])))

    def block(self, node: nodes.Node) -> str:
        """One block of text. `ValueError` for a kind of node that this writer does not know."""
        name = type(node).__name__
        method = getattr(self, f"_{name}", None)
        if method:
            return method(node)
        if name in ("target", "meta", "comment", "toctree", "substitution_definition", "index"):
            return ""
        if name in ("Text", "emphasis", "strong", "literal", "math", "reference", "inline"):
            return self._inline_node(node)
        if isinstance(node, nodes.Admonition):
            title = "" if isinstance(node, nodes.admonition) else f"**{name.capitalize()}**\n\n"
            return quoted(title + self.blocks(node))
        raise ValueError(
            f"a standalone notebook cannot show a {name}: {node.astext()[:60]!r}; book/_ext/plain.py has to"
        )

    # Blocks

    def _paragraph(self, node) -> str:
        return self.inline(node)

    _caption = _compact_paragraph = _line = _paragraph

    def _title(self, node) -> str:
        return f"**{self.inline(node)}**"

    _rubric = _title

    def _block_quote(self, node) -> str:
        return quoted(self.blocks(node))

    def _container(self, node) -> str:
        return folded(node, self) if node.get("design_component") == "dropdown" else self.blocks(node)

    _compound = _legend = _definition = _list_item = _line_block = _container

    def _dropdown_main(self, node) -> str:
        return folded(node, self)

    def _literal_block(self, node) -> str:
        language = node.get("language", "")
        return f"```{'' if language in ('none', 'default', 'text') else language}\n{node.astext()}\n```"

    def _math_block(self, node) -> str:
        number = node.get("number")
        formula = node.astext().strip()
        if node.get("nowrap"):
            return formula
        tag = rf" \tag{{{number}}}" if number else ""
        return f"$$\n{formula}{tag}\n$$"

    def _figure(self, node) -> str:
        images, caption, rest = [], "", []
        for child in node.children:
            if isinstance(child, nodes.caption):
                caption = self.inline(child)
            else:
                (images if isinstance(child, (nodes.image, nodes.reference)) else rest).append(self.block(child))
        numbers = filter(None, map(self.number, node.get("ids", ())))
        label = next((f"**Fig. {number}.** " for number in numbers), "")
        return "\n\n".join(filter(None, [*images, label + caption, *rest]))

    def _image(self, node) -> str:
        file = self.picture(node["uri"])
        kind = mimetypes.guess_type(file.name)[0] or "image/png"
        self.attachments[file.name] = {kind: base64.b64encode(file.read_bytes()).decode()}
        return f"![{node.get('alt', '')}](attachment:{file.name})"

    def _bullet_list(self, node) -> str:
        return "\n".join(indented("- ", self.blocks(item)) for item in node.children)

    def _enumerated_list(self, node) -> str:
        start = node.get("start", 1)
        return "\n".join(indented(f"{n}. ", self.blocks(item)) for n, item in enumerate(node.children, start))

    def _definition_list(self, node) -> str:
        return "\n".join(indented("- ", self._entry_of_list(item)) for item in node.children)

    def _entry_of_list(self, item) -> str:
        terms = [self.inline(child) for child in item.children if isinstance(child, nodes.term)]
        rest = [self.block(child) for child in item.children if isinstance(child, nodes.definition)]
        return f"**{', '.join(terms)}**: " + "\n\n".join(rest)

    def _table(self, node) -> str:
        title = [self.inline(child) for child in node.children if isinstance(child, nodes.title)]
        rows = [[self._cell(entry) for entry in row.children] for row in node.findall(nodes.row)]
        head = rows[0] if any(node.findall(nodes.thead)) else [""] * len(rows[0])
        body = rows[1:] if any(node.findall(nodes.thead)) else rows
        lines = [head, ["---"] * len(head), *body]
        return "\n\n".join([*title, "\n".join(f"| {' | '.join(line)} |" for line in lines)])

    def _cell(self, entry) -> str:
        return re.sub(r"\s*\n\s*", " ", self.blocks(entry)).replace("|", r"\|")

    def _transition(self, node) -> str:
        return "---"

    def _raw(self, node) -> str:
        text = node.astext()
        if "<script" in text or re.search(r'class="[\w-]+-figure"', text):
            return self.script if "-figure" in text else ""
        return text

    def _footnote(self, node) -> str:
        label, *rest = node.children
        return f"[{label.astext()}] " + "\n\n".join(map(self.block, rest))

    # Within a line

    def inline(self, node: nodes.Node) -> str:
        return "".join(map(self._inline_node, node.children))

    def _inline_node(self, node: nodes.Node) -> str:
        if isinstance(node, nodes.Text):
            return MARKUP.sub(r"\\\g<0>", node.astext())
        if isinstance(node, nodes.math):
            return f"${node.astext()}$"
        if isinstance(node, nodes.literal):
            return f"`{node.astext()}`"
        if isinstance(node, nodes.image):
            return self._image(node)
        if isinstance(node, nodes.raw):
            return node.astext()
        if isinstance(node, nodes.footnote_reference):
            return f"[{node.astext()}]"
        text = self.inline(node)
        if isinstance(node, nodes.reference):
            address = self.link(node)
            return f"[{text}]({address})" if address and text else text
        mark = {nodes.emphasis: "*", nodes.strong: "**"}.get(type(node), "")
        return mark + text + mark


def folded(node: nodes.Element, plain: Plain) -> str:
    first, *rest = node.children
    inside = "\n\n".join(filter(None, map(plain.block, rest)))
    return f"<details>\n<summary>{first.astext()}</summary>\n\n{inside}\n\n</details>"


def quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def indented(mark: str, text: str) -> str:
    return mark + text.replace("\n", "\n" + " " * len(mark)).replace("\n" + " " * len(mark) + "\n", "\n\n")
