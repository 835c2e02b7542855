"""The house, drawn from its imports: the directive `{layering}`.

Rows are the layers of pyproject.toml, which import-linter checks; arrows are what grimp finds that modules import. An
arrow that follows from others is left out: who imports `em` has `network` below it anyway. The core, which `import
einet` loads, stands at the left on one ground, packages beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import NamedTuple

import tomllib
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]

# Pixels of a phone, on which the picture is shown as large as this; letters are 12 high.
WIDTH, CORE, MARGIN, GAP, LETTER = 356, 250, 6, 6, 6.7
LINE, BOX = 34, 20  # from one line of boxes to the next, and the height of a box

PARTS = {"graph", "layers", "queries", "structures"}  # packages that belong to the core

Imports = dict[str, set[str]]  # by module: those that it imports


class Box(NamedTuple):
    """A module or a package, and where it stands."""

    name: str
    x: float
    y: float
    width: float
    kind: str  # "core" or "beside"


class Layering(SphinxDirective):
    """The picture as a figure; the content of the directive is its caption."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        for file in (ROOT / "einet").rglob("*.py"):
            self.env.note_dependency(str(file))
        picture = nodes.raw("", svg(layers(), *imports()), format="html")
        text, messages = self.parse_inline(" ".join(self.content))
        return [nodes.figure("", picture, nodes.caption("", "", *text), classes=["layering"]), *messages]


def layers() -> list[list[str]]:
    """The rows of pyproject.toml, the highest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (rows,) = (contract["layers"] for contract in settings["contracts"] if contract["id"] == "layers")
    return [row.split(" | ") for row in rows if not row.startswith("(")]  # in brackets: an old name, which goes one day


def imports() -> tuple[Imports, set[str]]:
    """What each module or package of einet imports of the others, and which of them are the core."""
    import grimp

    graph = grimp.build_graph("einet", cache_dir=None)
    core = {name for name in graph.find_upstream_modules("einet") if not graph.find_children(name)}
    for name in sorted(graph.find_children("einet")):
        if any(_short(name) in row for row in layers()):
            graph.squash_module(name)
        else:
            graph.remove_module(name)
    found = {
        _short(name): {_short(other) for other in graph.find_modules_directly_imported_by(name) - {name, "einet"}}
        for name in graph.find_children("einet")
    }
    return found, PARTS | {_short(name) for name in core if name.count(".") == 1} & found.keys()


def _short(name: str) -> str:
    return name.removeprefix("einet.")


def needed(found: Imports, rows: list[list[str]]) -> list[tuple[str, str]]:
    """The arrows from which all others follow. `ValueError` for one that would not point down."""
    level = {name: number for number, row in enumerate(rows) for name in row}
    below: Imports = {}
    arrows = []
    for name in sorted(found, key=lambda name: -level[name]):
        for other in sorted(found[name]):
            if level[other] <= level[name]:
                raise ValueError(f"einet.{name} imports einet.{other}, which is not below it")
        direct = [other for other in found[name] if not any(other in below[third] for third in found[name])]
        arrows += [(name, other) for other in sorted(direct)]
        below[name] = found[name].union(*(below[other] for other in found[name]))
    return arrows


def placed(rows: list[list[str]], core: set[str]) -> dict[str, Box]:
    """A box for each module: those of the core centred at the left, others at the right, or in the middle if alone."""
    boxes, y = {}, MARGIN
    for row in rows:
        inside, beside = ([name for name in row if (name in core) == kind] for kind in (True, False))
        for line in _lines(inside):
            boxes |= {box.name: box for box in _centred(line, y, MARGIN, CORE - MARGIN, "core")}
            y += LINE
        if beside:
            y -= LINE if inside else 0
            alone = len(beside) > 1
            left, right = (0, WIDTH) if alone else (CORE + MARGIN, WIDTH)
            boxes |= {box.name: box for box in _centred(beside, y, left, right, "beside")}
            y += LINE
    return boxes


def _width(name: str) -> float:
    return LETTER * len(name) + 2 * MARGIN


def _lines(names: Iterable[str]) -> list[list[str]]:
    """Names of one row, in as many lines as they need."""
    lines: list[list[str]] = []
    for name in names:
        if not lines or sum(map(_width, lines[-1])) + _width(name) + len(lines[-1]) * GAP > CORE - 4 * MARGIN:
            lines.append([])
        lines[-1].append(name)
    return lines


def _centred(names: list[str], y: float, left: float, right: float, kind: str) -> list[Box]:
    x = (left + right - sum(map(_width, names)) - GAP * (len(names) - 1)) / 2
    boxes = []
    for name in names:
        boxes.append(Box(name, x, y, _width(name), kind))
        x += _width(name) + GAP
    return boxes


def svg(rows: list[list[str]], found: Imports, core: set[str]) -> str:
    """The picture, whose colours are those of the page (book.css)."""
    boxes, arrows = placed(rows, core), needed(found, rows)
    height = max(box.y for box in boxes.values()) + BOX + MARGIN
    top = min(box.y for box in boxes.values() if box.kind == "core") - MARGIN - 12
    alt = (
        f"The {len(boxes)} modules and packages of einet in {len(rows)} layers, from {', '.join(rows[0])} at the top "
        f"to {rows[-1][0]} at the bottom. Every arrow, from a module to one that it imports, points down. "
        f"The core, {len(core)} modules, stands at the left, packages beside it."
    )
    parts = [
        f'<svg class="layering" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(alt)}">',
        '<defs><marker id="layering-head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5" markerHeight="5"'
        ' orient="auto"><path class="head" d="M0 0L8 4L0 8z"/></marker></defs>',
        f'<rect class="ground" x="0" y="{top}" width="{CORE}" height="{height - top}" rx="8"/>',
        f'<text class="title" x="{MARGIN}" y="{top + 13}">the core</text>',
    ]
    for row in rows:  # the arrows of a row before the boxes below it, behind which they pass
        for box in (boxes[name] for name in row):
            ends = [boxes[other] for name, other in arrows if name == box.name]
            below = ", ".join(sorted(found[box.name])) or "nothing"
            parts.append(f'<g class="{box.kind}"><title>{box.name} imports {below}</title>')
            parts += [_arrow(box, end) for end in ends]
            parts.append(f'<rect x="{box.x:.1f}" y="{box.y}" width="{box.width:.1f}" height="{BOX}" rx="4"/>')
            parts.append(f'<text x="{box.x + box.width / 2:.1f}" y="{box.y + 14}">{box.name}</text></g>')
    return "\n".join([*parts, "</svg>"])


def _arrow(start: Box, end: Box) -> str:
    x1, y1, x2, y2 = start.x + start.width / 2, start.y + BOX, end.x + end.width / 2, end.y - 1
    bend = min(60, (y2 - y1) / 2)
    return f'<path d="M{x1:.1f} {y1}C{x1:.1f} {y1 + bend} {x2:.1f} {y2 - bend} {x2:.1f} {y2}"/>'


def setup(app) -> dict:
    app.add_directive("layering", Layering)
    return {"parallel_read_safe": True}
