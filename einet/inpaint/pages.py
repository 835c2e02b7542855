"""Files with which built pages answer without a kernel, over http and from the disk.

A page that was opened from the disk may load classic scripts alone: no modules, and nothing by `fetch`. So engine and
widget are joined into one script, and each model becomes a script that holds the file in base64. Its name has the
SHA-256 of the file: two models never share one, and a page refuses a script of other content.

Source: not in the paper
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from einet.inpaint.circuit import value_range_of

SOURCE = Path(__file__).parent
# Each uses names of those before it.
ENGINE = ("tools", "file", "families", "leaves", "circuit", "engine")
VIEW = ("elements", "ground", "colours", "painting", "pictures", "views", "layout", "widget", "kernel", "page")
START = """const base = document.currentScript.src;
// for figures of other kinds
globalThis.einetInpaint = { loadModel: (file) => loadModel(file, base), random, drawPixels, coloursOf };
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => start(base));
else start(base);
"""


def write_page_files(folder: str | os.PathLike, models: Iterable[str | os.PathLike] = ()) -> None:
    """Write `inpaint.js`, `inpaint.css` and a script for each model into `folder`.

    A page that has the script and the style sheet turns every `InpaintWidget`'s html into a widget.

    Args:
        folder: made where it does not exist.
        models: paths of files that `export` wrote.

    Raises:
        ValueError: a file is damaged, or `export` did not write it.

    Source: not in the paper
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inpaint.js").write_text(classic_script(), encoding="utf-8")
    (folder / "inpaint.css").write_bytes((SOURCE / "inpaint.css").read_bytes())
    for model in map(Path, models):
        value_range_of(model)
        name, text = page_name(model), base64.b64encode(model.read_bytes()).decode()
        script = f'(globalThis.einetModels ??= {{}})[{json.dumps(name)}] = "{text}";\n'
        (folder / f"{name}.js").write_text(script, encoding="utf-8")


def page_name(model: str | os.PathLike) -> str:
    """The name of a model's file in pages: its stem, for people, and the SHA-256 of its bytes."""
    return f"{Path(model).stem}-{hashlib.sha256(Path(model).read_bytes()).hexdigest()}"


def joined(names: Iterable[str] = ENGINE + VIEW) -> str:
    """Modules in one file, without imports and exports: neither anywidget nor a page loads a second one."""
    modules = ((SOURCE / f"{name}.js").read_text(encoding="utf-8") for name in names)
    return re.sub(r"^(import|export) .*\n", "", "".join(modules), flags=re.M)


def es_module() -> str:
    """The module that anywidget loads."""
    return joined() + "export default { render };\n"


def classic_script() -> str:
    """The script that pages load: it starts all widgets of the page."""
    return f'(() => {{\n"use strict";\n{joined()}{START}}})();\n'
