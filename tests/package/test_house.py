"""The house rules of the code that a machine can hold (shared with every author in README and ARCHITECTURE)."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys

import pytest
from project import PYPROJECT, ROOT

import einet
from einet.families import FAMILIES

FILES = sorted((ROOT / "einet").rglob("*.py"))
TREES = {f: ast.parse(f.read_text(encoding="utf-8")) for f in FILES}

# From the highest to the lowest, as import-linter reads them; `make lint` runs it.
(LAYERS,) = [c["layers"] for c in PYPROJECT["tool"]["importlinter"]["contracts"] if c["id"] == "layers"]

# The module that only says where the contents of others are now.
OLD_NAMES = {"former"}

PUBLIC = [n for n in getattr(einet, "__all__", []) if callable(getattr(einet, n))]


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


def test_the_map_of_modules_is_true():
    """The docstring of the package names every module, in an order in which imports point up the page, and package."""
    modules, _, packages = einet.__doc__.partition("\nModules")[2].partition("\nLetters")[0].partition("\nand packages")
    modules, packages = (
        [name for line in re.findall(r"^    (\w+(?:, \w+)*)  +\w", part, re.M) for name in line.split(", ")]
        for part in (modules, packages)
    )
    height = {name: i for i, layer in enumerate(reversed(LAYERS)) for name in layer.strip("()").split(" | ")}
    assert sorted(modules, key=height.get) == modules
    here = {f.stem for f in FILES if f.parent.name == "einet"} - {"__init__", "plotting", *OLD_NAMES}
    assert here < set(modules) and {f.parent.name for f in FILES} - {"einet"} == {*modules, *packages} - here
    assert sorted([*modules, *packages, *OLD_NAMES, "plotting"]) == sorted(height)


def test_every_package_has_its_layers():
    """import-linter would say nothing of a sub-package that no contract names."""
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    layered = {name for c in contracts if c["type"] == "layers" and c["exhaustive"] for name in c["containers"]}
    folders = {f.parent.relative_to(ROOT) for f in FILES}
    assert {".".join(folder.parts) for folder in folders} == layered


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.parent.name == "graph" or f.stem == "ready_made"], ids=lambda f: f.stem
)
def test_graphs_know_no_torch(file):
    assert "torch" not in {name.partition(".")[0] for name in imported(file)}


@per_file
def test_errors_reach_the_user(file):
    for node in ast.walk(TREES[file]):
        where = f"{file.name}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Assert), f"{where}: `python -O` drops an assert; raise ValueError"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{where}: a bare except hides bugs"


@per_file
def test_no_module_asks_which_family_it_has(file):
    """A family says of itself what it can, so that one of a user's own is asked the same."""
    asks = [ast.unparse(node) for node in ast.walk(TREES[file]) if isinstance(node, ast.Call)]
    asks = [call for call in asks if call.startswith("isinstance(")]
    assert not [call for call in asks if any(re.search(rf"\b{name}\b", call) for name in FAMILIES)]


def offered(file):
    """The names that a module defines, or passes on on purpose: `import name as name`, or in `__all__`."""
    for node in ast.walk(TREES[file]):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if alias.asname == alias.name)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            yield from ast.literal_eval(node.value)


OFFERED = {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): {*offered(f)} for f in FILES}


@per_file
def test_names_come_from_where_they_are_defined(file):
    """So a reader finds a name in the module that the import says; and nobody needs a module's private ones."""
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.ImportFrom) and node.module in OFFERED:
            names = [a.name for a in node.names if a.asname is None and f"{node.module}.{a.name}" not in OFFERED]
            assert not {*names} - OFFERED[node.module], f"{file.name}:{node.lineno}"
            assert not [name for name in names if name.startswith("_")], f"{file.name}:{node.lineno}"


@per_file
def test_no_pickle(file):
    assert not {"pickle", "cloudpickle", "dill"} & {n.partition(".")[0] for n in imported(file)}
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
    assert re.search(r"^Source: \S", doc, re.M), "a line `Source: Eq. (5)`, or `Source: not in the paper; ...`"


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


@pytest.mark.slow
def test_import_is_light():
    """`import einet` costs little beside that of torch (2 % of it), brings safetensors alone, and wakes no GPU."""
    code = """
import json, sys, time
start = time.process_time()
import torch
of_torch, before = time.process_time() - start, set(sys.modules)
import einet
share = (time.process_time() - start - of_torch) / of_torch
new = sorted(set(sys.modules) - before)
print(json.dumps([share, new, torch.cuda.is_initialized()]))
"""
    # As for a user, whose Python keeps what it has compiled: the first run may have to.
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    share, new, woken = min(run(code, **surroundings) for _ in range(3))
    tops = {name.partition(".")[0] for name in new}
    ours = {name.split(".")[1] for name in new if name.startswith("einet.")}
    assert tops - set(sys.stdlib_module_names) <= {"einet", "safetensors", "torch", "numpy"}
    top = {name for layer in LAYERS[:1] for name in layer.strip("()").split(" | ")}
    assert ours.isdisjoint(top), "the top layers are loaded by whoever asks for them"
    assert not woken
    assert share < 0.1, f"{share:.0%} of what torch costs"


@pytest.mark.parametrize("file", [f for f in FILES if f.stem == "plotting"], ids=lambda f: f.stem)
def test_one_palette(file):
    css = (ROOT / "book/_static/book.css").read_text()
    light = css[: css.index("}")]
    colours = re.findall(r"--einet-\w+: (#\w{6})", light)
    assert len(colours) == 3
    assert [c for c in colours if c not in file.read_text().lower()] == [], "plotting.py repeats book.css"


@pytest.mark.slow
def test_a_first_fit_does_not_import_torchs_compiler():
    """Which takes longer than torch itself, and which EM has no use for."""
    code = """
import sys, torch, einet
model = einet.Einet(einet.RegionGraph([{0}]), einet.Normal(), num_sums=2)
einet.fit(model, torch.randn(20, 1), epochs=2, progress=False)
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
