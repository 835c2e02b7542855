"""pyproject.toml, as the tests ask it."""

from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10, for which pytest brings it under its older name
    import tomli as tomllib

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
