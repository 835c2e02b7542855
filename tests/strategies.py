"""Hypothesis draws region graphs and models: shared, uneven, overlapping, mixed."""

import random

import torch
from hypothesis import assume, settings
from hypothesis import strategies as st

from einet import (
    Bernoulli,
    Binomial,
    Categorical,
    Einet,
    Exponential,
    Gamma,
    Geometric,
    Heaped,
    LogNormal,
    Normal,
    Poisson,
    RegionGraph,
    WithAtoms,
)

DISCRETE = (Bernoulli(), Categorical(categories=3), Binomial(total=2))
OF_TABLES = (
    *(Poisson(), Geometric(), Exponential(), Gamma(), LogNormal(max_variance=4.0), WithAtoms(Normal(), (0.0,))),
    Heaped(max_variance=4.0, atoms=(0.0, 2.5), heights=(2.0, 0.5)),
)
ALL = (*DISCRETE, Normal(), *OF_TABLES)
ZERO_OR_ONE = tuple(family for family in ALL if not isinstance(family, (Gamma, LogNormal)))  # that allow both values


def instead(families, *others):
    """The families, these in the place of those of the same class."""
    return tuple(next((other for other in others if type(other) is type(family)), family) for family in families)


def examples(count):
    """Of a test that needs so many examples, as a decorator; fewer, in proportion, under a profile that has fewer."""
    return settings(max_examples=max(2, count * settings.default.max_examples // 100))


@st.composite
def region_graphs(draw, most_variables=6, most_regions=16):
    """A valid graph: 1 to 3 partitions a region into 2 to 4, new or shared with any region of their scope, anywhere."""
    scopes, partitions = [tuple(range(draw(st.integers(1, most_variables))))], []
    todo = [0]
    while todo:
        region = todo.pop(draw(st.integers(0, len(todo) - 1)))
        scope = scopes[region]
        leaf = len(scopes) > most_regions or (region and draw(st.integers(0, 3)) == 0)
        if len(scope) == 1 or leaf:
            continue
        for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
            children = []
            for part in _parts(draw, scope, scopes):
                same = [i for i, other in enumerate(scopes) if other == part]
                if same and draw(st.integers(0, 2)):
                    children.append(draw(st.sampled_from(same)))
                    continue
                children.append(len(scopes))
                scopes.append(part)
                todo.append(children[-1])
            partitions.append((region, *children))
    return _shuffled(scopes, partitions, draw(st.integers(0, 9)))


def _parts(draw, scope, scopes):
    """Two to four parts of a scope."""
    parts = _halves(draw, scope, scopes)
    while len(parts) < min(draw(st.sampled_from((2, 2, 2, 3, 4))), len(scope)):
        largest = max(parts, key=len)
        parts.remove(largest)
        parts += _halves(draw, largest, scopes)
    return parts


def _halves(draw, scope, scopes):
    """Two parts of a scope: any, or one that is a region already."""
    parts = [set(other) for other in scopes if set(other) < set(scope)]
    if parts and draw(st.booleans()):
        part = draw(st.sampled_from(parts))
    else:
        chosen = draw(st.integers(1, 2 ** (len(scope) - 1) - 1))
        part = {d for i, d in enumerate(scope) if chosen >> i & 1}
    return [tuple(d for d in scope if (d in part) == side) for side in (True, False)]


def _shuffled(scopes, partitions, seed):
    """The same graph, its regions and partitions in another order, and children too, here and there."""
    source = random.Random(seed)
    number = source.sample(range(len(scopes)), len(scopes))
    renumbered = [None] * len(scopes)
    for old, new in enumerate(number):
        renumbered[new] = scopes[old]
    moved = [
        (number[r], *(number[child] for child in source.sample(children, len(children)))) for r, *children in partitions
    ]
    return told_apart(RegionGraph(renumbered, source.sample(moved, len(moved))))


def told_apart(graph):
    """The graph, unless two regions have the same partitions: from below, no test could say which is which."""
    inner = [sorted(sorted(p.children) for p in own) for own in graph.partitions_of if own]
    assume(all(inner.count(own) == 1 for own in inner))
    return graph


@st.composite
def leaf_families(draw, num_variables, choices):
    """One family for all variables, or each variable its own."""
    if draw(st.booleans()):
        return draw(st.sampled_from(choices))
    mixed = {}
    for variable in range(num_variables):
        mixed.setdefault(draw(st.sampled_from(choices)), []).append(variable)
    return mixed


@st.composite
def models(draw, families=ALL, graphs=region_graphs(), classes=(1, 3), most_entries=3, thin=st.integers(0, 3)):
    """A float64 model with random parameters, one in four of them thin (where `thin` is 3), the others over pairs."""
    graph, entries = draw(graphs), st.integers(1, most_entries)
    leaf = draw(leaf_families(graph.num_variables, families))
    sizes = {"num_sums": draw(entries), "num_leaves": draw(entries), "num_classes": draw(st.sampled_from(classes))}
    if draw(thin) == 3:
        sizes |= {"sum_product": "cp", "num_leaves": sizes["num_sums"]}
    else:
        graph = told_apart(graph.binary())
    return in_float64(Einet(graph, leaf, **sizes, seed=draw(st.integers(0, 99))))


def in_float64(model):
    """The model in float64, its parameters normalised to float64's precision too."""
    model.double()
    with torch.no_grad():
        for layer in model.sum_layers():
            layer.weights /= layer.weights.sum(layer.weight_dim, keepdim=True)
        for part in model.leaves.parts:
            part.phi.copy_(part.family.project(part.phi))
    return model


def rows(model, num_rows, seed=0):
    """Rows that the model's families allow, (B, D) or (B, D, C), float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_rows, model.graph.num_variables, model.channels)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    for family, variables in model.families.items():
        shape = (num_rows, len(variables), model.channels)
        if family.num_values:
            x[:, list(variables)] = torch.randint(0, family.num_values, shape, generator=generator).double()
        elif type(family) is not Normal:
            x[:, list(variables)] = family.sample(family.initial(shape, generator).double(), generator)
    return x[..., 0] if model.channels == 1 else x


def masks(model, num_rows, seed=0):
    """A mask for each row (B, D): each entry observed with probability 0.6."""
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.rand(num_rows, model.graph.num_variables, generator=generator) < 0.6
