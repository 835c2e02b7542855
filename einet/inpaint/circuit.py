"""A model as one file that a browser can evaluate: a checkpoint in half precision, with its circuit spelled out.

The file is one that `einet.load` reads. Beside the description of the model, its JSON has

    image      {"low", "high"}: the values that are drawn black and white
    kinds      a name for each component of a mixture, null where nobody gave them any
    floor      the least weight of a sum, as `einet.load` restores it
    circuits   for each network: {"leaves", "levels"}

    leaves     for each family: {"regions", "variables"}, a leaf region and a variable for each pair of phi
    levels     for each level its regions, for each region {"mixing", "partitions"}
    mixing     [tensor, row] of the weights over the partitions, null where there is only one
    partitions [tensor, row, left, right] each, or more children: the weights, and the regions of the children

Regions count through: the leaves first, then level by level. A right child of -1 is the region about no variables.

Source: Section 4.2
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import torch

from einet.families.continuous import Normal
from einet.families.discrete import Bernoulli, Binomial, Categorical
from einet.families.mixed import WithAtoms
from einet.family import LeafFamily
from einet.layers.children import Children
from einet.layers.sums import WEIGHT_FLOOR
from einet.leaves.part import LeafPart
from einet.mixture import Mixture
from einet.network import Einet, Level
from einet.queries.passes import networks_of
from einet.storage.archive import as_value_error, read, write
from einet.storage.checkpoint import save

Range = tuple[float, float]
# The families that engine.js has. `families.FAMILIES` may have more.
PAGE_FAMILIES = (Bernoulli, Binomial, Categorical, Normal, WithAtoms)


def export(
    model: Einet | Mixture,
    path: str | os.PathLike,
    value_range: Range | None = None,
    kinds: Sequence[str] | None = None,
) -> None:
    """Write a model of images to one safetensors file, float16, for `InpaintWidget` and for pages without a kernel.

    `einet.load` reads the file, too. Both readers undo the effect of rounding to half precision on sums and bounds.

    Args:
        model: over a grid (H, W) with 1 or 3 channels and one class, of families that pages know.
        path: of the file.
        value_range: the values drawn black and white: (0, 1) by default for normal pixels, else the smallest and the
            largest of the family.
        kinds: a name for each component of a mixture, for who asks which is the most probable.

    Raises:
        ValueError: the model or the range is another, there is not one name for each component, or `einet.save` refuses
            the model.

    Source: Section 4.2
    """
    low, high = check_images(model, value_range)
    kinds = None if kinds is None else checked_names(kinds, "name", "component", len(networks_of(model)))
    distinct: dict[int, dict] = {}
    save(model, path, dtype=torch.float16)
    content, tensors = read(path)
    places = content["model"]["components"] or [0]
    for place, network in zip(places, networks_of(model), strict=True):
        distinct.setdefault(place, circuit(network))
    content["image"] = {"low": low, "high": high}
    content["kinds"] = kinds
    content["floor"] = WEIGHT_FLOOR
    content["circuits"] = [distinct[place] for place in sorted(distinct)]
    write(path, content, tensors)


def name_kinds(path: str | os.PathLike, kinds: Sequence[str]) -> None:
    """Give the components of a model in a file other names; its numbers stay, bit for bit.

    Raises:
        ValueError: `export` did not write the file, or there is not one name for each component.

    Source: not in the paper
    """
    value_range_of(path)
    content, tensors = read(path)
    count = len(content["model"]["components"] or [0])
    write(path, content | {"kinds": checked_names(kinds, "name", "component", count)}, tensors)


def value_range_of(path: str | os.PathLike) -> Range:
    """The range of values in a file; a `ValueError` where it is damaged, or `export` did not write it."""
    content, _ = read(path)
    with as_value_error(path):
        if "image" not in content:
            raise ValueError("it was not written by einet.inpaint.export")
        return content["image"]["low"], content["image"]["high"]


def kinds_of(path: str | os.PathLike) -> list[str] | None:
    """The names of a file's components, None where it has none."""
    return read(path)[0].get("kinds")


def checked_names(names: Sequence[str], what: str, of: str, count: int) -> list[str]:
    """As a list of `str`; a `ValueError` unless there are as many as wanted."""
    names = list(map(str, names))
    if len(names) != count:
        raise ValueError(f"need a {what} for each of {count} {of}s, got {len(names)}")
    return names


def check_images(model: Einet | Mixture, value_range: Range | None = None) -> Range:
    """The values drawn black and white; a `ValueError` unless the model is one of images."""
    if not isinstance(model, (Einet, Mixture)):
        raise ValueError(f"model must be an Einet or a Mixture, got {type(model).__name__}")
    network = networks_of(model)[0]
    if len(network.graph.shape or ()) != 2:
        raise ValueError(f"the model's variables must be a grid (H, W), as of poon_domingos, got {network.graph.shape}")
    if network.channels not in (1, 3) or model.num_classes != 1:
        raise ValueError(
            f"the model must have 1 or 3 channels and one class, got {network.channels} and {model.num_classes}"
        )
    families = {family for each in networks_of(model) for family in each.families}
    foreign = [family for family in families if not _is_known(family)]
    if foreign:
        known = [family.__name__ for family in PAGE_FAMILIES]
        raise ValueError(f"{foreign[0]} is not one of the families {known}, which pages know")
    return _checked_range(families, value_range)


def _is_known(family: LeafFamily) -> bool:
    """Whether pages have the family, and, where it has atoms, the one beside them."""
    beside_atoms = getattr(family, "family", family)
    return {type(family), type(beside_atoms)} <= {*PAGE_FAMILIES}


def _checked_range(families: Iterable[LeafFamily], value_range: Range | None) -> Range:
    if value_range is None:
        tops = {(family.num_values or 2) - 1 for family in families}
        if len(tops) > 1:
            raise ValueError(f"pixels have different largest values, {sorted(tops)}: pass value_range")
        value_range = (0, tops.pop())
    low, high = map(float, value_range)
    if not low < high < float("inf") or low == -float("inf"):
        raise ValueError(f"value_range must be (low, high) with low < high, got {value_range}")
    return low, high


# The circuit, region by region


def circuit(network: Einet) -> dict:
    """The leaves and levels of a network, as described at the top."""
    ranges = [range(network.leaves.num_nodes)]
    levels = []
    for level in network.levels:
        levels.append(_level(level, ranges, 1 if network.sum_product == "cp" else 2))
        ranges.append(range(ranges[-1].stop, ranges[-1].stop + len(levels[-1])))
    return {"leaves": [_pairs(part) for part in network.leaves.parts], "levels": levels}


def _pairs(part: LeafPart) -> dict:
    """A leaf region and a variable for each pair of a family's parameters."""
    regions = [regions.repeat_interleave(variables.shape[1]) for regions, _, variables in part.groups()]
    return {"regions": torch.cat(regions).tolist(), "variables": part.pairs.tolist()}


def _level(level: Level, ranges: list[range], fewest: int) -> list[dict]:
    """The regions of one level, in the order of its output. A partition has at least the `fewest` children."""
    partitions = []
    for tensor, (layer, children) in enumerate(zip(level.einsums, level.children_of, strict=True)):
        sides = [_regions(children, side, len(layer.weights), ranges) for side in range(children.num_sides)]
        sides += [[-1] * len(layer.weights)] * (fewest - len(sides))  # a root that is a leaf has no right child
        for row, own in enumerate(zip(*sides, strict=True)):
            partitions.append([tensor, row, *(child for child in own if child is not None)])
    if level.order is not None:
        partitions = [partitions[i] for i in level.order.tolist()]
    shapes = [layer.weights.shape for layer in level.mixings]
    mixed = [[m, row] for m, shape in enumerate(shapes) for row in range(shape[0])]
    counts = [1] * level.num_single + [shape[1] for shape in shapes for _ in range(shape[0])]
    following = iter(partitions)
    groups = ([next(following) for _ in range(count)] for count in counts)
    mixings = [*[None] * level.num_single, *mixed]
    return [{"mixing": mixing, "partitions": group} for mixing, group in zip(mixings, groups, strict=True)]


def _regions(children: Children, side: int, num_nodes: int, ranges: list[range]) -> list[int | None]:
    """The numbers of the regions that are the nodes' children on one side; None for a node without one."""
    node = torch.arange(num_nodes)
    found: list[int | None] = [None] * num_nodes
    for source, own, row in children.places(side, node):
        for place, region in zip(node[own].tolist(), row.tolist(), strict=True):
            found[place] = region + ranges[source].start
    return found
