"""The Pythons of the race, and the oldest and the newest environment that pyproject.toml allows.

    python, status = environment("libspn-keras")     makes .venv-libspn when first asked; a minute or two
    python experiments/environments.py               the core's tests with the oldest and the newest packages and Python
    python experiments/environments.py --only oldest --cuda-stubs

Those of the race are virtual environments in the checkout's root with pins of their own: one that has torch and the
rivals, and one more for the rival that needs TensorFlow. What cannot be installed is a result too: the status is then
"not installed: " and pip's last words.

The oldest and the newest live in a temporary folder. The first half of the tests runs with nothing but what the core
declares, the second with scikit-learn and what the tests compare with. The oldest has the floors of pyproject.toml, the
newest what pip chooses. `--cuda-stubs` spares the gigabytes that PyPI's torch for Linux brings along (cuda_stubs.py).
This module needs the standard library alone.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from experiments.cuda_stubs import make_stubs
from experiments.records import ROOT, python_path

HERE = Path(__file__).resolve().parent
RIVALS = (".venv-bench", HERE / "requirements-bench.txt", ("torch", "cirkit", "spflow", "safetensors"))
ENVIRONMENTS = {"libspn-keras": (".venv-libspn", HERE / "requirements-libspn.txt", ("torch", "libspn_keras"))}


@cache
def environment(name: str, as_is: bool = False) -> tuple[str, str]:
    """(the Python to run contestant `name` with, "ok" or why it cannot be had).

    The running interpreter, if it has what the contestant needs or is to be taken `as_is`; else a virtual environment.
    """
    folder, requirements, modules = ENVIRONMENTS.get(name, RIVALS)
    if as_is or all(find_spec(module) for module in modules):
        return sys.executable, "ok"
    return installed(ROOT / folder, requirements)


@cache
def installed(folder: Path, requirements: Path) -> tuple[str, str]:
    """As `environment`: the Python of a virtual environment with these requirements, made here if need be."""
    python, mark = folder / "bin" / "python", folder / ".installed"
    if not mark.exists():
        print(f"making {folder.name} from {requirements.name}: a minute or two", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        command = [str(python), "-m", "pip", "install", "-qq", "-r", str(requirements)]
        pip = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if pip.returncode:
            return str(python), f"not installed: {last_error(pip.stderr)}"
        mark.touch()
    return str(python), "ok"


def last_error(text: str) -> str:
    """The last line of pip's that says ERROR, else the last line of all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["pip said nothing"]
    return next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])[:300]


# The oldest and the newest environment

TESTERS, COMPARED_WITH = ("pytest", "hypothesis"), ("scipy", "pandas", "array-api-strict", "tqdm")
# Tests of the core; the others are of the book, its data sets, its experiments and its pages.
CORE = ("core", "clustered", "storage/test_checkpoint.py", "storage/test_resume.py", "tables/test_estimator.py",
        "package/test_dependencies.py", "package/test_house.py", "experiments/test_distributed.py")  # fmt: skip

# What others warn of: torch, when it is imported without numpy; a new pytest, of tests that an old scikit-learn made.
OF_OTHERS = ("-W", "ignore:Failed to initialize NumPy:UserWarning", "-W", "ignore:Passing a non-Collection iterable")


def requirements(age: str) -> tuple[list[str], list[str], int]:
    """(what the core needs, what tables need, 3.N of Python) at their floors, or without them for the newest."""
    import tomllib  # of Python 3.11; the race may be called by an older one

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core, tables = project["dependencies"], project["optional-dependencies"]["tables"]
    floor = int(project["requires-python"].removeprefix(">=3."))
    if age == "oldest":
        return [text.replace(">=", "==") for text in core], [text.replace(">=", "==") for text in tables], floor
    return core, tables, max(minor for minor in range(floor, 100) if interpreter(minor))


@cache
def interpreter(minor: int) -> str | None:
    """A Python 3.`minor` that runs: the one on the path, or one of pyenv's."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for place in (shutil.which(f"python3.{minor}"), *map(str, versions.glob(f"3.{minor}.*/bin/python"))):
        command = [place, "-c", "import sys; print(sys.version_info.minor)"]
        if place and subprocess.run(command, capture_output=True, text=True, check=False).stdout == f"{minor}\n":
            return place
    return None


def check(age: str, folder: Path, stubs: bool) -> bool:
    """Make one of the two environments in `folder` and run the tests there; whether all passed."""
    core, tables, minor = requirements(age)
    if not interpreter(minor):
        raise SystemExit(f"Python 3.{minor}, the oldest that pyproject.toml allows, is not on this machine")
    subprocess.run([interpreter(minor), "-m", "venv", str(folder)], check=True)
    python, variables = str(folder / "bin" / "python"), {**os.environ, **python_path(), "OMP_NUM_THREADS": "1"}
    if stubs:
        install(python, *(text for text in core if text.startswith("torch")), "--no-deps")
        install(python, *needs_of_torch(python))
        (libraries,) = folder.glob("lib/python*/site-packages/torch/lib")
        make_stubs(libraries, folder / "stubs")
        variables["LD_LIBRARY_PATH"] = str(folder / "stubs")
    passed = True
    for more, tests in ((core, ("package/test_dependencies.py",)), ((*core, *tables, *COMPARED_WITH), CORE)):
        install(python, *(text for text in more if not (stubs and text.startswith("torch"))), *TESTERS)
        subprocess.run([python, "-m", "pip", "list"], check=False)
        command = [python, "-m", "pytest", "-q", *OF_OTHERS, *(f"tests/{name}" for name in tests)]
        passed &= subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode == 0
    return passed


def install(python: str, *requirements: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "-q", *requirements], check=True)


def needs_of_torch(python: str) -> list[str]:
    """What the installed torch declares, without the libraries of GPUs."""
    code = "from importlib.metadata import requires; print(*requires('torch'), sep='\\n')"
    lines = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if not re.match("nvidia|cuda|triton", line) and "extra ==" not in line]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("oldest", "newest"), help="one of the two")
    parser.add_argument("--cuda-stubs", action="store_true", help="no CUDA libraries beside torch; needs gcc")
    options = parser.parse_args()
    failed = []
    for age in (options.only,) if options.only else ("oldest", "newest"):
        with tempfile.TemporaryDirectory(prefix=f"einet-{age}-") as folder:
            failed += [] if check(age, Path(folder) / "venv", options.cuda_stubs) else [age]
    print(f"failed: {', '.join(failed)}" if failed else "passed")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
