"""Which model the numbers of a state belong to: `state_dict()` has its `identity`, and `load_state_dict` compares it.

Shapes alone do not tell: two random graphs of equal sizes have parameters of equal shapes, and one's parameters are
another density in the other. The identity is JSON, as bytes in a tensor, so that it stays with the state wherever
tensors go: safetensors, a prefix, a copy on another device or of another dtype.

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
from einet.graph.regions import RegionGraph

KEY = "identity"
MAX_TEXT = 200  # characters of a text in an identity; a digest stands for the rest
REMEDY = (
    "Build it over the graph and families of the saved one (random_binary_trees without a seed gives another graph in "
    f"every process), or keep both together with einet.save. A state without its {KEY!r} is not compared"
)


def identity(graph: RegionGraph, families: Mapping[ExponentialFamily, Sequence[int]], **settings: int | str) -> dict:
    """What two models of one class must share to be the same density with the same parameters.

    A grid's shape is not part of it, nor are fields of a family that have their default value.
    """
    listed = [f"{_family_text(family)} of {_shortened(_ranges(variables))}" for family, variables in families.items()]
    return {"graph": f"{graph!r} {graph.digest[:16]}", "families": listed, **settings}


def as_tensor(content: dict) -> Tensor:
    return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)


def check_identity(here: dict, state: Mapping[str, Tensor], prefix: str) -> bool:
    """Whether the part `prefix` of a state has an identity; those of einet 0.1.0 have none.

    Raises:
        RuntimeError: it is that of another model than `here`; torch raises the same for wrong shapes.
    """
    saved = state.get(prefix + KEY)
    if saved is None or saved.is_meta:
        return False
    there = _content(saved)
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


def _family_text(family: ExponentialFamily) -> str:
    """The repr without default values, so that a field that a later version adds changes no identity."""
    fields = [(f.name, _json(getattr(family, f.name)), _json(f.default)) for f in dataclasses.fields(family)]
    changed = [f"{name}={value}" for name, value, default in fields if value != default]
    return f"{type(family).__name__}({', '.join(changed)})"


def _json(value: object) -> str:
    return json.dumps(value, default=_text)


def _text(value: object) -> str:
    """A family within a family as itself, and anything else that JSON cannot hold as its type."""
    return _family_text(value) if isinstance(value, ExponentialFamily) else type(value).__name__


def _ranges(variables: Sequence[int]) -> str:
    """[0, 1, 2, 5] as "0-2, 5"."""
    ranges: list[list[int]] = []
    for variable in variables:
        if ranges and variable == ranges[-1][1] + 1:
            ranges[-1][1] = variable
        else:
            ranges.append([variable, variable])
    return ", ".join(f"{first}-{last}" if first < last else str(first) for first, last in ranges)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... {hashlib.sha256(text.encode()).hexdigest()[:16]}"
