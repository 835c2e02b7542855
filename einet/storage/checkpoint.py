"""Models on disk: safetensors for the numbers, JSON for the rest, and nothing that could be executed.

    save(model, "digits.safetensors")
    model = load("digits.safetensors")

The JSON has the networks' graphs, families and sizes, each once, and the number of each component's network. A reader
trusts none of it: expected shapes are derived without memory and compared with the file before a parameter is
allocated.

Source: not in the paper; a model is a graph and its parameters
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from einet.families import FAMILIES
from einet.family import LeafFamily
from einet.graph.regions import RegionGraph
from einet.layers.sums import CONCENTRATION, WEIGHT_FLOOR, Weighted
from einet.leaves.part import LeafPart
from einet.mixture import Mixture
from einet.network import Einet
from einet.storage.archive import as_value_error, read, write

DTYPES = (torch.float16, torch.float32, torch.float64)
# How far a sum's weights may be off 1, and a leaf's parameters, relatively, off what their family allows.
TOLERANCE = 1e-3
# Names of tensors in a file that are not parameters of its model.
NON_MODEL_PREFIXES = ("optimizer.", "training.")

Families = Iterable[type[LeafFamily]]


def save(
    model: Any,
    path: str | os.PathLike,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    families: Families = (),
    dtype: torch.dtype | None = None,
) -> None:
    """Write `model` to one file, its graph included. Killed at any moment, it leaves the old file or the new one.

    `model.state_dict()` has no graph: this is the way to keep a model over a graph that was drawn without a seed.

    Args:
        model: an `Einet` or a `Mixture`, not parametrized for gradient training (`constrained` undoes that); or an
            estimator of `einet.tables`, fitted, with its settings and what it knows of the columns.
        path: a file that is replaced, or none yet. A link to a file stays a link, and that file is replaced.
        optimizer: its step size and state are kept, too, for `load_optimizer`.
        families: classes of leaves that are not einet's own.
        dtype: of networks alone, as `optimizer` is. By default the parameters' own, and log-densities after `load` are
            the same to the last bit. With torch.float16 the file has half the size; `load` reads it as float32 and
            normalises again.

    Raises:
        ValueError: `model` is neither network, mixture nor estimator, is parametrized, has parameters that are no
            distribution or a family that nobody knows; an estimator is not fitted, or has a setting that no file holds,
            such as a function of your own for its structure; `path` is anything but a regular file, or in a folder that
            does not exist.
        OSError: the disk is full or the folder may not be written to. The old file stays.

    Source: not in the paper
    """
    if _is_estimator(model):
        if optimizer is not None or dtype is not None:
            raise ValueError("optimizer and dtype are of networks: an estimator is saved as it is")
        content, tensors = _tables().packed(model, _by_name(families))
        write(path, {"estimator": content}, tensors)
        return
    content = {"model": description(model, families)}
    check_saved(model)
    tensors = parameters_of(model)
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        check_dtype(tensors)
    if optimizer is not None:
        content["optimizer"], state = optimizer_state(optimizer)
        tensors |= state
    write(path, content, tensors)


def check_saved(model: Einet | Mixture) -> None:
    """Raise a `ValueError` where parameters are no distribution, or parametrized for gradient training."""
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise ValueError("the model is parametrized for gradient training: call constrained(model) first")
    check_dtype(parameters_of(model))
    _check_parameters(model)


def load(path: str | os.PathLike, *, families: Families = ()) -> Any:
    """The model that `save` wrote, on the CPU; from a checkpoint of `fit`, the best parameters so far.

    An `Einet`, a `Mixture` or an estimator of `einet.tables`, whichever it was. For the last scikit-learn is needed.

    Args:
        path: of the file.
        families: classes of leaves that are not einet's own.

    Raises:
        ValueError: there is no such file, or it is damaged, of another version or kind, names an unknown family, lacks
            a tensor or has one too many, or holds parameters that are no distribution: NaN, negative weights, weights
            whose sum is off 1 by more than 1e-3, a leaf outside its family's bounds.

    Source: not in the paper
    """
    content, tensors = read(path)
    with as_value_error(path):
        if "estimator" in content:
            return _tables().unpacked(content["estimator"], tensors, _by_name(families))
        own = {name: tensor for name, tensor in tensors.items() if not name.startswith(NON_MODEL_PREFIXES)}
        return model_from(content["model"], own, _by_name(families))


def load_optimizer(path: str | os.PathLike, optimizer: torch.optim.Optimizer) -> None:
    """Give `optimizer`, made for the loaded model, the step size and state of the one that was saved.

        model = load(path)
        em = EM(model)
        load_optimizer(path, em)

    Raises:
        ValueError: the file holds none, or one of another class.

    Source: not in the paper
    """
    content, tensors = read(path)
    with as_value_error(path):
        set_optimizer_state(optimizer, content["optimizer"], tensors)


def _is_estimator(model: Any) -> bool:
    """Whether an estimator of `einet.tables` is meant, which is not imported for that."""
    return any(kind.__module__.startswith("einet.tables.") for kind in type(model).__mro__)


def _tables() -> ModuleType:
    """How estimators are written and read: above this module, and only where scikit-learn is."""
    return import_module("einet.tables.saved")


# Models as JSON


def description(model: nn.Module, families: Families = ()) -> dict:
    """All of a model but its parameters, ready for JSON."""
    if not isinstance(model, (Einet, Mixture)):
        raise ValueError(
            f"only an Einet, a Mixture or an estimator of einet.tables can be saved, got {type(model).__name__}"
        )
    known, networks, places = _by_name(families), [], []
    for network in model.components if isinstance(model, Mixture) else [model]:
        described = _described(network, known)
        if described not in networks:
            networks.append(described)
        places.append(networks.index(described))
    return {"networks": networks, "components": places if isinstance(model, Mixture) else None}


def _described(network: Einet, known: dict[str, type]) -> dict:
    leaf = [{**_described_family(f, known), "variables": variables} for f, variables in network.families.items()]
    return json.loads(json.dumps({"graph": json.loads(network.graph.to_json()), "leaf": leaf, **network.settings}))


def _described_family(family: LeafFamily, known: dict[str, type]) -> dict:
    name = type(family).__name__
    if known.get(name) is not type(family):
        raise ValueError(f"{name} is not one of {sorted(known)}: pass families=({name},), to save and to load")
    fields = {field.name: getattr(family, field.name) for field in dataclasses.fields(family)}
    fields = {
        field: _described_family(value, known) if isinstance(value, LeafFamily) else value
        for field, value in fields.items()
    }
    described = {"family": name, "fields": fields}
    try:
        same = _family(json.loads(json.dumps(described)), known) == family
    except TypeError as error:
        raise ValueError(f"the fields of {family} must be what JSON can hold: {error}") from error
    if not same:
        raise ValueError(f"the fields of {family} must come back from JSON as they were, got {fields}")
    return described


def _by_name(families: Families) -> dict[str, type]:
    return FAMILIES | {family.__name__: family for family in families}


# And back


def model_from(content: dict, tensors: dict[str, Tensor], known: dict[str, type]) -> Einet | Mixture:
    """Check everything, then build."""
    arguments, places = [_arguments(network, known) for network in content["networks"]], content["components"]
    mixture = places is not None
    places = places if mixture else [0]
    if len(places) > len(tensors) or not all(place in range(len(arguments)) for place in places):
        raise ValueError(f"its components must be numbers of its {len(arguments)} networks, got {places[:8]}")
    _check_shapes(_shapes(arguments, places, mixture), tensors)
    dtype = check_dtype(tensors)
    components = [_outline(arguments[place]) for place in places]
    model = Mixture(components, [1 / len(places)] * len(places)) if mixture else components[0]
    model_dtype = torch.float32 if dtype == torch.float16 else dtype
    set_parameters(model, {name: tensor.to(model_dtype, copy=True) for name, tensor in tensors.items()}, assign=True)
    if dtype == torch.float16:
        _normalize(model)
    _check_parameters(model)
    return model


def _arguments(content: dict, known: dict[str, type]) -> dict:
    """The arguments of `Einet`."""
    leaf = {}
    for part in content["leaf"]:
        leaf[_family(part, known)] = part["variables"]
    settings = {name: content[name] for name in ("num_sums", "num_leaves", "num_classes")}
    settings["sum_product"] = content.get("sum_product", "tucker")  # einet 0.1.0 had no other
    return {"graph": _graph(content["graph"]), "leaf": leaf, **settings}


def _family(content: dict, known: dict[str, type]) -> LeafFamily:
    """The inverse of `_described_family`. A field may be a family itself, within which there is no other."""
    if content["family"] not in known:
        raise ValueError(f"its family {content['family']!r} is not one of {sorted(known)}: pass families=(...)")
    fields = content["fields"].items()
    nested = {n: v for n, v in fields if isinstance(v, dict) and v.keys() == {"family", "fields"}}
    return known[content["family"]](
        **content["fields"] | {name: _family(value, known) for name, value in nested.items()}
    )


def _graph(content: dict) -> RegionGraph:
    listed = [variable for scope in content["regions"] if scope is not None for variable in scope]
    if max(listed) >= len(listed):  # a scope costs memory by its largest variable, so no file may make one up
        raise ValueError(f"its graph has a variable {max(listed)}, but lists only {len(listed)}")
    return RegionGraph.from_json(json.dumps(content))


class _NoMemory(TorchFunctionMode):
    """A mode in which `torch.empty`, which all parameters come from, allocates on the meta device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **{**(kwargs or {}), **({"device": "meta"} if function is torch.empty else {})})


class _Unfilled(Einet):
    def reset_parameters(self, seed: int | None = None, concentration: float = CONCENTRATION) -> None:
        """Parameters are read, not drawn."""


def _outline(arguments: dict) -> Einet:
    """A network whose parameters have names and shapes, but no memory yet."""
    with _NoMemory():
        network = _Unfilled(**arguments)
    # Once it is filled, it is a network like any other.
    network.__class__ = Einet  # pyright: ignore[reportAttributeAccessIssue]
    return network


def _shapes(arguments: list[dict], places: list[int], mixture: bool) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor of the model."""
    outlines = [parameters_of(_outline(network)) for network in arguments]
    shapes = [{name: tuple(tensor.shape) for name, tensor in outline.items()} for outline in outlines]
    if not mixture:
        return shapes[0]
    parts = {f"components.{c}.{name}": s for c, place in enumerate(places) for name, s in shapes[place].items()}
    return {"weights": (len(places),), **parts}


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """The part of a model's state that a file holds: the parameters, since its description has the identity."""
    return {name: parameter.detach() for name, parameter in model.named_parameters(remove_duplicate=False)}


def set_parameters(model: nn.Module, tensors: dict[str, Tensor], assign: bool = False) -> None:
    """The inverse of `parameters_of`, for a model of the same description."""
    model.load_state_dict({**model.state_dict(), **tensors}, assign=assign)


def check_state(model: Einet | Mixture, tensors: dict[str, Tensor]) -> None:
    """Raise a `ValueError` where `tensors` cannot be the parameters of `model`, by the rules of `load`."""
    own = parameters_of(model)
    _check_shapes({name: tuple(tensor.shape) for name, tensor in own.items()}, tensors)
    if check_dtype(tensors) != check_dtype(own):
        raise ValueError(f"the parameters must be of {check_dtype(own)}, got {check_dtype(tensors)}")
    trial = copy.deepcopy(model)
    set_parameters(trial, tensors)
    _check_parameters(trial)


def _check_shapes(shapes: dict[str, tuple[int, ...]], tensors: dict[str, Tensor]) -> None:
    missing, extra = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    if missing or extra:
        raise ValueError(f"it lacks the tensors {missing[:3]} and has {extra[:3]}, which do not belong to its model")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"the shape of {name} should be {shape}, it is {tuple(tensors[name].shape)}")


def check_dtype(tensors: dict[str, Tensor]) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) != 1 or not dtypes <= set(DTYPES):
        raise ValueError(f"the parameters must have one dtype of {DTYPES}, got {sorted(map(str, dtypes))}")
    return dtypes.pop()


@torch.no_grad()
def _check_parameters(model: Einet | Mixture) -> None:
    for name, module in model.named_modules():
        if isinstance(module, Weighted):
            off = (module.weights.sum(module.weight_dim) - 1).abs().max()
            if not (module.weights >= 0).all() or not off <= TOLERANCE:
                raise ValueError(f"the weights of {name or 'the mixture'} are negative, or off a sum of 1 by {off}")
        elif isinstance(module, LeafPart):
            if not module.is_valid(TOLERANCE):
                raise ValueError(f"the parameters of {name} are outside what {module.family} allows")


@torch.no_grad()
def _normalize(model: Einet | Mixture) -> None:
    """Undo the effect of rounding to half precision on sums and bounds."""
    for module in model.modules():
        if isinstance(module, Weighted):
            module.weights.clamp_min_(WEIGHT_FLOOR).div_(module.weights.sum(module.weight_dim, keepdim=True))
        elif isinstance(module, LeafPart):
            module.project_()


# Optimizers


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict, dict[str, Tensor]]:
    """An optimizer's settings, ready for JSON, and the tensors it keeps; a `ValueError` if it keeps anything else."""
    state = optimizer.state_dict()
    kept = [(i, key, value) for i, entries in state["state"].items() for key, value in entries.items()]
    tensors = {f"optimizer.{i}.{key}": value for i, key, value in kept if isinstance(value, Tensor)}
    plain = [[i, key, value] for i, key, value in kept if not isinstance(value, Tensor)]
    content = {"class": type(optimizer).__name__, "groups": state["param_groups"], "plain": plain}
    try:
        return json.loads(json.dumps(content)), tensors
    except TypeError as error:
        raise ValueError(f"{type(optimizer).__name__} keeps more than tensors and JSON can hold: {error}") from error


def set_optimizer_state(optimizer: torch.optim.Optimizer, content: dict, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_state`; a `ValueError` where the optimizer is of another class or other parameters."""
    if content["class"] != type(optimizer).__name__:
        raise ValueError(f"it holds the state of {content['class']}, not of {type(optimizer).__name__}")
    state: dict[int, dict] = {}
    for i, key, value in content["plain"]:
        state.setdefault(i, {})[key] = value
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".", 2)
            state.setdefault(int(i), {})[key] = tensor.clone()
    tuples = [{key: tuple(v) for key, v in group.items() if isinstance(v, list)} for group in content["groups"]]
    groups = [{**g, **t, "params": g["params"]} for g, t in zip(content["groups"], tuples, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
