"""Docstrings of einet on their way to the API page: what Sphinx's autodoc and napoleon do not know of their style.

- `code` in single backticks is code, and a link where it is the name of something public;
- a line `Source: Eq. (5)` at the end becomes a field, beside those of arguments and errors;
- what is indented, after a blank line, is an example or a formula, letter by letter.
"""

from __future__ import annotations

import importlib
import re

# Packages whose `__all__` is public under their own name; that of `einet` comes last, and wins.
PACKAGES = ("einet.tables", "einet.datasets", "einet.plotting", "einet.inpaint", "einet")

SECTION = re.compile(r"[A-Z]\w+:")
CODE = re.compile(r"`([^`]+)`")
MARKUP = re.compile(r"\*|(?<=\w)_(?!\w)|\|")  # what reStructuredText would take for it


def public() -> dict[str, str]:
    """Where each public name is: {"fit": "einet.fit", "EinetDensity": "einet.tables.EinetDensity", ...}.

    Of two of one name the later package's has it before its own, as "plotting.surprise".
    """
    found: dict[str, str] = {}
    for package in PACKAGES:
        for name in importlib.import_module(package).__all__:
            short = f"{package.rpartition('.')[2]}.{name}" if name in found else name
            found[short] = f"{package}.{name}"
    return found


def translated(text: str, names: dict[str, str]) -> str:
    """A docstring as napoleon wants it."""
    blocks, in_section = [], False
    for block in re.split(r"\n\s*\n", text):
        lines = block.splitlines()
        in_section = bool(SECTION.fullmatch(lines[0])) or (in_section and lines[0].startswith(" "))
        if not in_section and all(line.startswith("    ") for line in lines):
            blocks += ["::", block]
        elif lines[0].startswith("Source: "):
            blocks.append(":" + re.sub(r"\n\s*", "\n    ", inline(block, names)))
        else:
            blocks.append(inline(block, names))
    return "\n\n".join(blocks)


def inline(text: str, names: dict[str, str]) -> str:
    """Code between backticks, as a link if it names something public; nothing else is markup."""
    parts = CODE.split(text)
    for i, part in enumerate(parts):
        if not i % 2:
            parts[i] = MARKUP.sub(r"\\\g<0>", part)
            continue
        code = " ".join(part.split())
        target = names.get(code.removeprefix("einet.").removesuffix("()"))
        after = parts[i + 1][:1]
        parts[i] = (f":py:obj:`{code} <{target}>`" if target else f"``{code}``") + ("\\ " if after.isalnum() else "")
    return "".join(parts)


def process(app, what, name, member, options, lines) -> None:
    lines[:] = translated("\n".join(lines), app.einet_names).splitlines()


def hide(app, what, name, member, skip, options) -> bool | None:
    """What Python gives a named tuple, of whose fields it knows their numbers, and scikit-learn an estimator."""
    foreign = not (getattr(member, "__module__", "einet") or "builtins").startswith("einet")
    return True if foreign or type(member).__name__ == "_tuplegetter" else None


def setup(app) -> dict:
    app.einet_names = public()
    app.connect("autodoc-process-docstring", process, priority=400)  # before napoleon's 500
    app.connect("autodoc-skip-member", hide)
    return {"parallel_read_safe": True}
