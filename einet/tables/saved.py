"""Estimators on disk, without pickle: JSON that says what they are, and tensors. `einet.save` and `einet.load` call it.

What is written is settings, what was learned of the columns, and networks. A reader makes only what is listed here:
plain containers, arrays of numbers, dates and text, families, graphs, networks and this package's own classes; whatever
they say is compared with each other before an estimator is returned.

Source: not in the paper
"""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import asdict, fields
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from einet.family import LeafFamily
from einet.graph.regions import RegionGraph
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries.passes import networks_of
from einet.queries.sampling import sample
from einet.storage.checkpoint import check_saved, description, model_from, parameters_of
from einet.structures.learned import chow_liu
from einet.tables.classifier import EinetClassifier, numbers_of
from einet.tables.columns import Columns
from einet.tables.estimator import EinetDensity
from einet.tables.imputer import EinetImputer
from einet.tables.kinds import Kind, Kinds
from einet.tables.regressor import EinetRegressor
from einet.training import History

ESTIMATORS = {kind.__name__: kind for kind in (EinetClassifier, EinetDensity, EinetImputer, EinetRegressor)}
# What is kept as the attributes it has.
PARTS = {kind.__name__: kind for kind in (Columns, Kinds, Kind)}
# Cells of Python's own that are times, and how text becomes one.
CELLS = {
    "datetime": (datetime.datetime, datetime.datetime.fromisoformat),
    "date": (datetime.date, datetime.date.fromisoformat),
    "timedelta": (datetime.timedelta, lambda text: datetime.timedelta(microseconds=int(text))),
}
# Structures that are functions, by name.
FUNCTIONS = {"chow_liu": chow_liu}
# Kinds of arrays that are numbers, dates or durations.
NUMBERS, TIMES = "biuf", "mM"


class Packing:
    """An estimator as JSON and tensors.

    Args:
        known: the families by name.

    Attributes:
        tensors: of all that is packed, by name.
    """

    def __init__(self, known: dict[str, type]):
        self.known, self.tensors, self.inside = known, {}, False

    def estimator(self, estimator: BaseEstimator) -> dict:
        """A `ValueError` says what is none of this package's, not fitted, or has a setting that no file holds."""
        name = type(estimator).__name__
        if ESTIMATORS.get(name) is not type(estimator):
            raise ValueError(f"only {sorted(ESTIMATORS)} can be saved, got {name}")
        learned = {key: value for key, value in vars(estimator).items() if key.endswith("_") and key[0] != "_"}
        if not learned and not self.inside:
            raise ValueError(f"this {name} is not fitted: there is nothing to save")
        self.inside = True
        packed = {key: self.pack(value) for key, value in learned.items()}
        settings = {}
        for key, value in estimator.get_params(deep=False).items():
            try:
                settings[key] = self.pack(value)
            except ValueError as error:
                remedy = f"set_params({key}=None) before saving, which changes nothing that was learned"
                raise ValueError(f"{key}={value!r} of {name} cannot be saved ({error}): {remedy}") from None
        return {"class": name, "settings": settings, "learned": packed}

    def pack(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)) and not isinstance(value, np.generic):
            return value
        if isinstance(value, (list, tuple, set, frozenset)):
            return {"type": type(value).__name__, "items": [self.pack(each) for each in value]}
        if isinstance(value, dict):
            return {"type": "dict", "items": [[self.pack(key), self.pack(each)] for key, each in value.items()]}
        if isinstance(value, np.generic):
            return {"type": "scalar", "array": self._array(np.asarray(value))}
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, LeafFamily):
            return self._family(value)
        if isinstance(value, RegionGraph):
            return {"type": "graph", "graph": json.loads(value.to_json())}
        if isinstance(value, Einet):
            return self._network(value)
        if isinstance(value, Mixture):
            weights = self._array(value.weights.detach().cpu().numpy())
            return {**weights, "type": "mixture", "components": [self._network(each) for each in value.components]}
        if isinstance(value, History):
            return {"type": "history", "fields": asdict(value)}
        if callable(value) and FUNCTIONS.get(getattr(value, "__name__", "")) is value:
            return {"type": "function", "name": value.__name__}
        if PARTS.get(type(value).__name__) is type(value):
            return {"type": "part", "class": type(value).__name__, "attributes": self._attributes(value)}
        if isinstance(value, (datetime.date, datetime.timedelta)):
            return self._cell(value)
        if isinstance(value, np.dtype) or hasattr(value, "construct_from_string"):  # the latter of pandas
            return self._dtype(value)
        if isinstance(value, BaseEstimator):
            return {"type": "estimator", "estimator": self.estimator(value)}
        raise ValueError(f"{type(value).__module__}.{type(value).__qualname__} is nothing that a file holds")

    def _array(self, array: np.ndarray) -> dict:
        kind, name = array.dtype.kind, f"tables.{len(self.tensors)}"
        if kind in NUMBERS and array.dtype.itemsize <= 8:
            numbers = array.astype(np.int64) if kind == "u" else array
            self.tensors[name] = torch.as_tensor(np.ascontiguousarray(numbers)).reshape(numbers.shape)
        elif kind in TIMES:
            self.tensors[name] = torch.as_tensor(np.ascontiguousarray(array).view(np.int64)).reshape(array.shape)
        elif kind in "UO":
            return {"type": "objects", "kind": kind, "shape": array.shape, "items": self.pack(array.ravel().tolist())}
        else:
            raise ValueError(f"an array of {array.dtype} is nothing that a file holds")
        return {"type": "array", "dtype": str(array.dtype), "tensor": name}

    def _family(self, family: LeafFamily) -> dict:
        name = type(family).__name__
        if self.known.get(name) is not type(family):
            raise ValueError(f"{name} is not one of {sorted(self.known)}: pass families=({name},), to save and to load")
        own = {field.name: self.pack(getattr(family, field.name)) for field in fields(family)}  # pyright: ignore
        return {"type": "family", "class": name, "fields": own}

    def _network(self, network: Einet) -> dict:
        check_saved(network)
        prefix = f"tables.{len(self.tensors)}."
        self.tensors |= {prefix + key: tensor for key, tensor in parameters_of(network).items()}
        return {"type": "network", "prefix": prefix, "model": description(network, self.known.values())}

    def _attributes(self, part: Any) -> dict:
        attributes = {}
        for key, value in vars(part).items():
            try:
                attributes[key] = self.pack(value)
            except ValueError:
                if key != "example":  # which only errors show, but for times of Python's own
                    raise
                attributes[key] = None
        return attributes

    def _cell(self, value: Any) -> dict:
        """A time of Python's, or one of pandas' as that."""
        name = next(name for name, (kind, _) in CELLS.items() if isinstance(value, kind))
        microseconds = datetime.timedelta(microseconds=1)
        text = str(round(value / microseconds)) if isinstance(value, datetime.timedelta) else value.isoformat()
        return {"type": "cell", "class": name, "text": text}

    def _dtype(self, dtype: Any) -> dict:
        """A dtype of numpy or pandas, by its name, or its categories."""
        if hasattr(dtype, "categories"):
            categories = self.pack(np.asarray(dtype.categories))
            return {"type": "dtype", "categories": categories, "ordered": bool(dtype.ordered)}
        return {"type": "dtype", "name": str(dtype), "pandas": not isinstance(dtype, np.dtype)}


class Unpacking:
    """And back, with distrust: anything that `Packing` does not write raises an error of `storage.archive`."""

    def __init__(self, known: dict[str, type], tensors: dict[str, Tensor]):
        self.known, self.tensors, self.used = known, tensors, set()

    def whole(self, content: dict) -> Any:
        """The estimator of a file, checked."""
        if not content["learned"]:
            raise ValueError("its estimator has learned nothing")
        estimator = self.estimator(content)
        extra = sorted(self.tensors.keys() - self.used)
        if extra:
            raise ValueError(f"it has the tensors {extra[:3]}, which belong to nothing")
        return estimator

    def estimator(self, content: dict) -> Any:
        if content["class"] not in ESTIMATORS:
            raise ValueError(f"its estimator {content['class']!r} is not one of {sorted(ESTIMATORS)}")
        kind = ESTIMATORS[content["class"]]
        settings = {key: self.unpack(value) for key, value in content["settings"].items()}
        estimator = kind(**settings)
        for key, value in content["learned"].items():
            if not key.endswith("_") or key[0] == "_" or hasattr(kind, key):
                raise ValueError(f"{key!r} is nothing that {kind.__name__} learns")
            setattr(estimator, key, self.unpack(value))
        if content["learned"]:
            _check(estimator)
        return estimator

    def unpack(self, content: Any) -> Any:
        if content is None or isinstance(content, (bool, int, float, str)):
            return content
        readers = {
            "list": lambda: [self.unpack(each) for each in content["items"]],
            "tuple": lambda: tuple(self.unpack(each) for each in content["items"]),
            "set": lambda: {self.unpack(each) for each in content["items"]},
            "frozenset": lambda: frozenset(self.unpack(each) for each in content["items"]),
            "dict": lambda: {self.unpack(key): self.unpack(each) for key, each in content["items"]},
            "scalar": lambda: self._array(content["array"])[()],
            "array": lambda: self._array(content),
            "objects": lambda: self._objects(content),
            "family": lambda: self._family(content),
            "graph": lambda: RegionGraph.from_json(json.dumps(content["graph"])),
            "network": lambda: self._network(content),
            "mixture": lambda: self._mixture(content),
            "history": lambda: History(**content["fields"]),
            "function": lambda: FUNCTIONS[content["name"]],
            "part": lambda: self._part(content),
            "estimator": lambda: self.estimator(content["estimator"]),
            "cell": lambda: CELLS[content["class"]][1](content["text"]),
            "dtype": lambda: self._dtype(content),
        }
        return readers[content["type"]]()

    def _array(self, content: dict) -> np.ndarray:
        dtype, tensor = np.dtype(content["dtype"]), self._take(content["tensor"])
        if dtype.kind in TIMES:
            if tensor.dtype != torch.int64:
                raise ValueError(f"dates must be int64, got {tensor.dtype}")
            return tensor.numpy().copy().view(dtype)
        if dtype.kind not in NUMBERS:
            raise ValueError(f"an array of {dtype} is none of numbers")
        return tensor.numpy().astype(dtype)

    def _objects(self, content: dict) -> np.ndarray:
        items, kind = self.unpack(content["items"]), content["kind"]
        if kind not in ("U", "O") or (kind == "U" and not all(isinstance(item, str) for item in items)):
            raise ValueError(f"an array of {kind} is none of text")
        array = np.empty(len(items), dtype=object)
        array[:] = items
        return (array.astype(str) if kind == "U" else array).reshape(content["shape"])

    def _family(self, content: dict) -> LeafFamily:
        if content["class"] not in self.known:
            raise ValueError(f"its family {content['class']!r} is not one of {sorted(self.known)}: pass families=(...)")
        return self.known[content["class"]](**{key: self.unpack(each) for key, each in content["fields"].items()})

    def _network(self, content: dict) -> Einet:
        prefix = content["prefix"]
        own = {key[len(prefix) :]: self._take(key) for key in self.tensors if key.startswith(prefix)}
        model = model_from(content["model"], own, self.known)
        if not isinstance(model, Einet):
            raise ValueError("a network of an estimator is no mixture itself")
        return model

    def _mixture(self, content: dict) -> Mixture:
        components = [self._network(each) for each in content["components"]]
        dtype = next(components[0].parameters()).dtype
        return Mixture(components, self._array(content).tolist()).to(dtype)

    def _part(self, content: dict) -> Any:
        kind = PARTS[content["class"]]
        part: Any = object.__new__(kind)
        for key, value in content["attributes"].items():
            of_class = getattr(kind, key, None)
            if key.startswith("__") or callable(of_class) or isinstance(of_class, property):
                raise ValueError(f"{key!r} is no attribute of {kind.__name__}")
            setattr(part, key, self.unpack(value))
        return part

    def _dtype(self, content: dict) -> Any:
        if "categories" not in content and not content["pandas"]:
            return np.dtype(str(content["name"]))
        import pandas

        if "categories" in content:
            return pandas.CategoricalDtype(self.unpack(content["categories"]), bool(content["ordered"]))
        return pandas.api.types.pandas_dtype(str(content["name"]))

    def _take(self, name: str) -> Tensor:
        self.used.add(name)
        return self.tensors[name]


# What is read must agree with itself


def _check(estimator: Any) -> None:
    """Raise a `ValueError` where the parts of an estimator do not belong together."""
    width = estimator.n_features_in_
    names = getattr(estimator, "feature_names_in_", None)
    if not isinstance(width, int) or width < 1 or (names is not None and np.shape(names) != (width,)):
        raise ValueError(f"it has {width} columns, and the names {names}")
    inner = getattr(estimator, "density_", None)
    if isinstance(estimator, (EinetImputer, EinetRegressor)):
        extra = int(isinstance(estimator, EinetRegressor))
        if type(inner) is not EinetDensity or getattr(inner, "n_features_in_", None) != width + extra:
            raise ValueError(f"it has {width} columns, and its density others")
        return
    model, columns = estimator.model_, estimator.columns_
    if not isinstance(model, (Einet, Mixture)) or type(columns) is not Columns:
        raise ValueError("it lacks a network, or columns")
    others = estimator.others_ if isinstance(estimator, EinetClassifier) else []
    for network in [*networks_of(model), *others]:
        if not isinstance(network, Einet):
            raise ValueError(f"{type(network).__name__} is no network")
        joint = numbers_of(columns) if isinstance(estimator, EinetClassifier) else columns.reals
        _check_columns(columns, network, width, {*joint})
    classes = 1
    if isinstance(estimator, EinetClassifier):
        classes, prior = len(estimator.classes_), np.asarray(estimator.class_log_prior_)
        if prior.shape != (classes,) or not abs(np.exp(prior).sum() - 1) < 1e-6:
            raise ValueError(f"its {classes} classes have the log-prior {prior}")
        if len(set(estimator.classes_.tolist())) != classes:
            raise ValueError("a class is there twice")
        weights = np.asarray(estimator.weights_)
        if weights.shape != (1 + len(others),) or not (weights > 0).all() or not abs(weights.sum() - 1) < 1e-6:
            raise ValueError(f"its {1 + len(others)} networks have the weights {weights}")
        if any(other.num_classes != classes for other in others):
            raise ValueError(f"it has {classes} classes, and a network others")
    if model.num_classes != classes:
        raise ValueError(f"its network has {model.num_classes} classes, and it has {classes}")


def _check_columns(columns: Columns, model: Einet, width: int, may_be_joint: set[int]) -> None:
    """By their attributes, and by taking two of the network's own rows there and back."""
    # Any family but that of joint columns is the column's own.
    of_columns, of_network = (
        {d: f for f, own in each.items() for d in own} for each in (columns.families, model.families)
    )
    joint = {d for d, family in of_network.items() if family.joint} & may_be_joint
    if of_columns.keys() != of_network.keys() or any(of_columns[d] != of_network[d] for d in of_network.keys() - joint):
        raise ValueError("its columns have other families than its network")
    if model.graph.num_variables != width or len(columns.values) != width or len(columns.kinds.columns) != width:
        raise ValueError(f"it has {width} columns, and its network {model.graph.num_variables}")
    if not np.isfinite(columns.center).all() or not np.isfinite(columns.scale).all() or not (columns.scale > 0).all():
        raise ValueError("the scale of a column is not finite and positive")
    for d, values in enumerate(columns.values):
        if values is not None and (not len(values) or any(not a < b for a, b in pairwise(values))):
            raise ValueError(f"the values of column {d} are not sorted, or one is there twice")
    if not joint <= {*columns.reals}:
        return  # what it draws is not what these columns hold
    rows = sample(model, 2, torch.Generator().manual_seed(0), labels=0 if model.num_classes > 1 else None)
    numbers = columns.decode_numbers(rows)
    columns.table(numbers)
    x, observed, offset = columns.encode(numbers)
    if x.shape != rows.shape or observed.shape != rows.shape or math.isnan(float(offset.sum())):
        raise ValueError("its columns do not translate its network's rows")


def packed(estimator: Any, known: dict[str, type]) -> tuple[dict, dict[str, Tensor]]:
    """Content and tensors of a file: for `einet.save`."""
    packing = Packing(known)
    return packing.estimator(estimator), packing.tensors


def unpacked(content: dict, tensors: dict[str, Tensor], known: dict[str, type]) -> Any:
    """The estimator of such a file: for `einet.load`, which turns all errors into a `ValueError`."""
    return Unpacking(known, tensors).whole(content)
