"""The project's folder and its pyproject.toml, as the tests ask them."""

from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10, for which pytest brings it under its older name
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
