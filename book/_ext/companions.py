"""The files that a notebook needs beside the installed package: helpers of `book` and `experiments`, results, models.

They are found in its code: modules that it imports, and what these import; records it reads by `origin.read`; folders
of results, `RESULTS / "name"`; and strings that are names of files.
"""

from __future__ import annotations

import ast
import base64
import io
import re
import textwrap
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
RESULTS = BOOK / "results"
PACKAGES = ("book", "experiments")  # which no wheel has


def needed(sources: Iterable[str]) -> dict[str, Path]:
    """Files of the checkout, by where they have to lie from where the notebook runs."""
    found: dict[str, Path] = {}
    for source in sources:
        tree = ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.M))
        for text in _strings(tree):
            if (BOOK / text).is_file():
                found[text] = BOOK / text
        _follow(tree, found)
    return dict(sorted(found.items()))


def _follow(tree: ast.AST, found: dict[str, Path]) -> None:
    """Enter what code imports, and reads, from these packages."""
    for name in _read(tree):
        _enter(RESULTS / f"{name}.json", found)
    for name in _folders(tree):
        for file in sorted((RESULTS / name).glob("*")):
            _enter(file, found)
    for name in _imported(tree):
        for end in range(1, name.count(".") + 2):  # a package before its modules
            place = ROOT.joinpath(*name.split(".")[:end])
            for file in (place / "__init__.py", place.with_suffix(".py")):
                if file.is_file() and _enter(file, found):
                    inner = ast.parse(file.read_text(encoding="utf-8"))
                    for text in _strings(inner):
                        for name in (text, f"{text}.tsv"):
                            _enter(file.parent / name, found)
                    _follow(inner, found)


def _enter(file: Path, found: dict[str, Path]) -> bool:
    """Whether a file is there and new."""
    name = file.relative_to(ROOT).as_posix()
    if name in found or not file.is_file():
        return False
    found[name] = file
    return True


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.partition(".")[0] in PACKAGES)


def _read(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("origin.read", "read") and node.args:
            yield from _strings(node.args[0])


def _folders(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and re.fullmatch(r"(\w+\.)*RESULTS", ast.unparse(node.left)):
            yield from _strings(node.right)


def _strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"\w[\w./-]{1,80}", node.value)
        ):
            yield node.value


def cell(files: dict[str, Path]) -> str:
    """Code that writes the files, as far as they are not there."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, file in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), file.read_bytes(), zipfile.ZIP_DEFLATED)
    lines = textwrap.wrap(base64.b64encode(packed.getvalue()).decode(), 4000)
    names = textwrap.fill(", ".join(files), 84, initial_indent="# ", subsequent_indent="# ")
    return (
        f"# Files of the book that this chapter uses. They are written where the notebook runs:\n{names}\n"
        "import base64, io, pathlib, zipfile\n\n"
        'packed = """\n' + "\n".join(lines) + '\n"""\n'
        "with zipfile.ZipFile(io.BytesIO(base64.b64decode(packed))) as archive:\n"
        "    for name in archive.namelist():\n"
        "        if not pathlib.Path(name).exists():\n"
        "            archive.extract(name)"
    )
