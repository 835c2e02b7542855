"""Modules of version 0.1.0 under the names that they had: `import einet.sampling` works until 0.3, and warns."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Where the names of a former module are defined now: in the first of these that has them.
FORMER = {
    "checkpoint": ["storage.checkpoint"],
    "clusters": ["clustered.mixtures", "clustered.kmeans"],
    "columns": ["tables.columns"],
    "estimator": ["tables"],
    "explain": ["queries.most_probable"],
    "exponential_family": ["family"],
    "files": ["storage.archive"],
    "information": ["queries.information"],
    "kernels": ["gpu.kernels"],
    "rows": ["data"],
    "sampling": ["queries.sampling"],
    "trees": ["queries.passes"],
}


class FormerModules(MetaPathFinder, Loader):
    """Finds and loads the former modules. Python asks it last, when no file has the name."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == "einet" and name in FORMER else None

    def exec_module(self, module: ModuleType) -> None:
        now = [f"einet.{name}" for name in FORMER[module.__name__.removeprefix("einet.")]]
        warnings.warn(f"{module.__name__} is now {now[0]}", DeprecationWarning, stacklevel=2)
        for name in reversed(now):
            module.__dict__.update({key: value for key, value in vars(import_module(name)).items() if key[:2] != "__"})


def find_former_modules() -> None:
    """Have Python look here for what it finds nowhere else."""
    if not any(isinstance(finder, FormerModules) for finder in sys.meta_path):
        sys.meta_path.append(FormerModules())
