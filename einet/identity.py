"""Which model the numbers of a state belong to: `state_dict()` has it as `identity`, `load_state_dict` compares it.

Shapes alone do not tell: two random graphs of equal sizes have parameters of equal shapes, and one's parameters are
another density in the other. The identity is JSON, as bytes in a tensor, so that it stays with the state wherever
tensors go: safetensors, a prefix, a copy on another device, of another dtype.

Source: not in the paper
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from einet.family import ExponentialFamily
from einet.graph import RegionGraph

KEY = "identity"
SHOWN = 200  # characters of a text in an identity, the rest is told by its digest
REMEDY = (
    "Build it over the graph and families of the saved one (random_binary_trees without a seed gives another graph in "
    f"every process), or keep both together with einet.save. A state without its {KEY!r} is not compared"
)


def identity(graph: RegionGraph, families: Mapping[ExponentialFamily, Sequence[int]], **settings: int | str) -> dict:
    """What must be equal for two models of one class to be the same density with the same parameters.

    A grid's shape is not among it, nor are settings of a family that have their default value.
    """
    listed = [f"{_told(family)} of {_shortened(_ranges(variables))}" for family, variables in families.items()]
    return {"graph": f"{graph!r} {graph.digest[:16]}", "families": listed, **settings}


def as_tensor(content: dict) -> Tensor:
    return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)


def check_identity(here: dict, state: Mapping[str, Tensor], prefix: str) -> bool:
    """Whether the part `prefix` of a state says whose it is, as those of einet 0.1.0 do not.

    `RuntimeError`, as torch's for wrong shapes, where it is of another model than `here`.
    """
    told = state.get(prefix + KEY)
    if told is None or told.is_meta:
        return False
    there = _content(told)
    differ = [f"{name} was {there.get(name)}, and is {now}" for name, now in here.items() if there.get(name) != now]
    if differ:
        raise RuntimeError(f"the state is of another model: {'; '.join(differ)}. {REMEDY}")
    return True


def _content(tensor: Tensor) -> dict:
    try:
        content = json.loads(bytes(tensor.detach().to("cpu", torch.uint8).tolist()))
    except (ValueError, TypeError):
        return {}
    return content if isinstance(content, dict) else {}


def _told(family: ExponentialFamily) -> str:
    """As its repr, without what is as it is by default: a setting that a later version adds changes no identity."""
    fields = [(f.name, _json(getattr(family, f.name)), _json(f.default)) for f in dataclasses.fields(family)]
    changed = [f"{name}={value}" for name, value, default in fields if value != default]
    return f"{type(family).__name__}({', '.join(changed)})"


def _json(value: object) -> str:
    return json.dumps(value, default=lambda other: type(other).__name__)


def _ranges(variables: Sequence[int]) -> str:
    """[0, 1, 2, 5] as "0-2, 5"."""
    found: list[list[int]] = []
    for variable in variables:
        if found and variable == found[-1][1] + 1:
            found[-1][1] = variable
        else:
            found.append([variable, variable])
    return ", ".join(f"{first}-{last}" if first < last else str(first) for first, last in found)


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... {hashlib.sha256(text.encode()).hexdigest()[:16]}"
