"""The house rules of the code that a machine can hold (shared with every author in README and ARCHITECTURE)."""

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import einet

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "einet").rglob("*.py"))
TREES = {f: ast.parse(f.read_text(encoding="utf-8")) for f in FILES}

# An import points to a lower layer, never up or sideways.
LAYER = {
    "cells": 0, "graph": 0, "exponential_family": 0, "files": 0, "kernels": 0, "scratch": 0, "derivatives": 0,
    "families": 1, "structures": 1, "identity": 1, "scaled": 1,
    "einsum": 2, "leaves": 2, "inputs": 2, "children": 2,
    "layers": 3,
    "network": 4,
    "mixture": 5, "em": 5, "trees": 5,
    "rows": 6, "explain": 6, "queries": 6, "sampling": 6, "checkpoint": 6,
    "information": 7, "training": 7,
    "clusters": 8, "columns": 8,
    "inpaint": 9, "plotting": 9, "datasets": 9, "estimator": 9,
}  # fmt: skip

CHAPTERS = {
    "intro", "01_circuits", "02_log_einsum_exp", "03_einsum_layer", "04_layers", "05_structures", "06_leaves", "07_em",
    "08_binary_datasets", "09_efficiency", "10_images", "11_inpainting", "12_queries", "13_past_the_paper",
}  # fmt: skip

PUBLIC = [n for n in getattr(einet, "__all__", []) if callable(getattr(einet, n))]


def module(file):
    """einet/em.py -> em; einet/inpaint/__init__.py -> inpaint; einet/__init__.py -> ''."""
    parts = file.relative_to(ROOT / "einet").with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported(file):
    """The absolute dotted names that a file imports, those inside functions included."""
    package = ("einet", *file.relative_to(ROOT / "einet").parent.parts)
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            name = ".".join(filter(None, (base, node.module)))
            # `from einet import em` imports a module, `from .em import EM` a name out of one.
            yield from (f"{name}.{a.name}" if name == "einet" else name for a in node.names)


def run(code, **env):
    """Run code in a fresh interpreter; it prints one JSON value."""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env or None)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)


def per_file(function):
    return pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))(function)


@per_file
def test_imports_point_down(file):
    me = module(file)
    if not me:  # the package's face may name any module; what it loads is tested below
        return
    assert me in LAYER, f"{file.name} has no layer yet: give it one here and in ARCHITECTURE"
    for name in imported(file):
        top, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if top != "einet" or other == me:
            continue
        assert other in LAYER, f"import the module that defines it, not {name}"
        assert LAYER[other] < LAYER[me], f"{me} (layer {LAYER[me]}) imports {other} (layer {LAYER[other]})"


@pytest.mark.parametrize("file", [f for f in FILES if module(f) in ("graph", "structures")], ids=lambda f: f.stem)
def test_graphs_know_no_torch(file):
    assert "torch" not in {name.partition(".")[0] for name in imported(file)}


@per_file
def test_errors_reach_the_user(file):
    for node in ast.walk(TREES[file]):
        where = f"{file.name}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Assert), f"{where}: `python -O` drops an assert; raise ValueError"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{where}: a bare except hides bugs"


@per_file
def test_no_pickle(file):
    assert not {"pickle", "cloudpickle", "dill", "joblib"} & {n.partition(".")[0] for n in imported(file)}
    calls = {ast.unparse(n.func) for n in ast.walk(TREES[file]) if isinstance(n, ast.Call)}
    assert not {"torch.load", "torch.save"} & calls, "torch.save and torch.load pickle; use checkpoint"


@per_file
def test_size(file):
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{lines} lines; a module that a reader finishes has at most 400"


def test_public_face():
    assert einet.__all__, "einet/__init__.py names the public face in __all__"
    assert [n for n in einet.__all__ if not hasattr(einet, n)] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_says_where_it_comes_from(name):
    doc = inspect.getdoc(getattr(einet, name)) or ""
    assert re.search(r"^Paper: \S", doc, re.M), "a line `Paper: Eq. (5)`, or `Paper: not in it; ...`"
    line = re.search(r"^Chapter: (.+)$", doc, re.M)
    assert line, "a line `Chapter: book/03_einsum_layer`"
    named = re.findall(r"book/(\w+)", line[1])
    assert named and set(named) <= CHAPTERS, f"no such chapter: {line[1]}"


def test_no_file_names_a_place_of_a_machine():
    """Folders of whoever worked here, such as home and work, are no part of the book; nor of a record's command."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: files could not be told from what was made here")
    places = re.compile(rb"(?<![\w.])/(work|tmp|root|home|mnt|Users)/[\w./~-]+|\b[A-Z]:\\\\?Users\b")
    files = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    found = {
        str(f.relative_to(ROOT)): match[0] for f in files if f.is_file() and (match := places.search(f.read_bytes()))
    }
    assert found == {}


def test_import_is_light():
    """`import einet` costs under 0.2 s of CPU beyond torch, brings safetensors alone, and wakes no GPU."""
    code = """
import json, sys, time
import torch
before = set(sys.modules)
start = time.process_time()
import einet
seconds = time.process_time() - start
new = sorted(set(sys.modules) - before)
print(json.dumps([seconds, new, torch.cuda.is_initialized()]))
"""
    seconds, new, woken = min(run(code) for _ in range(3))
    tops = {name.partition(".")[0] for name in new}
    ours = {name.split(".")[1] for name in new if name.startswith("einet.")}
    assert tops - set(sys.stdlib_module_names) <= {"einet", "safetensors", "torch", "numpy"}
    top = max(LAYER.values())
    assert {m for m in ours if LAYER[m] == top} == set(), "the top layer is loaded by whoever asks for it"
    assert not woken
    assert seconds < 0.2, f"{seconds:.2f} s"


@pytest.mark.parametrize("file", [f for f in FILES if f.stem == "plotting"], ids=lambda f: f.stem)
def test_one_palette(file):
    css = (ROOT / "book/_static/book.css").read_text()
    light = css[: css.index("}")]
    colours = re.findall(r"--einet-\w+: (#\w{6})", light)
    assert len(colours) == 3
    assert [c for c in colours if c not in file.read_text().lower()] == [], "plotting.py repeats book.css"
