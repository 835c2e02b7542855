"""The Pythons of the race: one that has torch and the rivals, and one more for the rival that needs TensorFlow.

    python, status = environment("libspn-keras")     makes .venv-libspn when first asked; a minute or two

Each is a virtual environment in the checkout's root with pins of its own. What cannot be installed is a result too: the
status is then "not installed: " and pip's last words. This module needs the standard library alone.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
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
