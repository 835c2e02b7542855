"""Chow-Liu trees and circuits beside libcirkit's: the same tree, and, with parameters copied, the same log-densities.

    python -m experiments.chow_liu_libcirkit                 nltcs, plants and dna, K = 4
    python -m experiments.chow_liu_libcirkit ad --sums 16    another of the twenty sets

In an environment of requirements-bench.txt, because libcirkit wants an older SciPy than the book. Both learn from the
training rows with the same pseudocount, 0.01 for each pair of values. Compared are the edges, which may differ where
two have equally much mutual information, and, on 500 test rows in float64, the log-densities of our circuit and of
libcirkit's over the same tree (`cp-t`: products of all children, then a dense sum), whose weights and leaves are ours.
"""

from __future__ import annotations

import argparse

import torch

import einet
from einet.datasets import debd

PSEUDOCOUNT = 0.01  # libcirkit's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["nltcs", "plants", "dna"], help="of the twenty binary sets")
    parser.add_argument("--sums", type=int, default=4, help="K, the length of all vectors")
    arguments = parser.parse_args()
    for name in arguments.names:
        print(f"{name}: {compare(name, arguments.sums)}")


def compare(name: str, num_sums: int) -> str:
    """One line about both trees and both circuits over ours."""
    from cirkit.templates.region_graph import ChowLiuTree

    train, rows = debd(name, "train"), debd(name, "test")[:500]
    graph = einet.chow_liu(train, pseudocount=PSEUDOCOUNT)
    settings = {"num_categories": 2, "chunk_size": 500}
    parents = ChowLiuTree(train.long(), "categorical", as_region_graph=False, **settings)
    theirs = {frozenset((v, int(parent))) for v, parent in enumerate(parents) if parent >= 0}
    ours = edges_of(graph)
    model = einet.Einet(graph, einet.Categorical(categories=2), num_sums=num_sums, sum_product="cp", seed=0).double()
    root = graph.regions[graph.partitions_of[graph.root][0].children[0]].scope[0]
    with torch.no_grad():
        expected = model(rows.double())
        found = libcirkit_of(model, rooted_at(ours, root, len(parents)))(rows.long()).flatten()
    information = einet.pairwise_information(train, pseudocount=PSEUDOCOUNT)
    more = sum(information[tuple(edge)] for edge in ours) - sum(information[tuple(edge)] for edge in theirs)
    return (
        f"{len(ours & theirs)} of {len(ours)} edges alike, ours with {more:.1e} nats more; log-densities down to "
        f"{expected.min():.1f} differ by {(found - expected).abs().max():.1e}"
    )


def edges_of(graph: einet.RegionGraph) -> set[frozenset[int]]:
    """The edges of the tree that the graph was made of: from each region's own leaf to those of its children."""
    own = {region: graph.regions[region].scope[0] for region in graph.leaves}
    own |= {partition.region: own[partition.children[0]] for partition in graph.partitions}
    return {frozenset((own[p.region], own[child])) for p in graph.partitions for child in p.children[1:]}


def rooted_at(edges: set[frozenset[int]], root: int, num_variables: int) -> list[int]:
    """The parent of each variable, -1 for the root, as libcirkit takes a tree."""
    parents, waiting = [-1] * num_variables, [root]
    left = set(edges)
    while waiting:
        variable = waiting.pop()
        for edge in [edge for edge in left if variable in edge]:
            (other,) = edge - {variable}
            parents[other] = variable
            waiting.append(other)
            left.remove(edge)
    return parents


def libcirkit_of(model: einet.Einet, parents: list[int]) -> torch.nn.Module:
    """libcirkit's circuit over the tree, with the model's parameters, which its layers are given by their scopes."""
    import numpy as np
    from cirkit.pipeline import PipelineContext
    from cirkit.symbolic.initializers import ConstantTensorInitializer
    from cirkit.symbolic.layers import CategoricalLayer, SumLayer
    from cirkit.symbolic.parameters import Parameter, TensorParameter
    from cirkit.templates.region_graph.algorithms.utils import tree2rg
    from cirkit.templates.utils import name_to_input_layer_factory

    def constant(values: torch.Tensor) -> Parameter:
        values = values.detach().numpy()
        return Parameter.from_input(TensorParameter(*values.shape, initializer=ConstantTensorInitializer(values)))

    circuit = tree2rg(np.array(parents)).build_circuit(
        input_factory=name_to_input_layer_factory("categorical", num_categories=2),
        sum_product="cp-t",
        num_input_units=model.num_sums,
        num_sum_units=model.num_sums,
    )
    weights, leaves = parameters_of(model)
    for layer in circuit.layers:
        scope = tuple(sorted(circuit.layer_scope(layer)))
        if isinstance(layer, SumLayer):
            layer.weight = constant(weights.pop(scope))
        elif isinstance(layer, CategoricalLayer):
            layer.probs = constant(leaves.pop(scope))
    if weights or leaves:
        raise RuntimeError(f"libcirkit has no layers over {[*weights, *leaves][:3]}")
    torch.set_default_dtype(torch.float64)
    context = PipelineContext(backend="torch", semiring="lse-sum", fold=False, optimize=False)
    compiled = context.compile(circuit)
    torch.set_default_dtype(torch.float32)
    return compiled


def parameters_of(model: einet.Einet) -> tuple[dict, dict]:
    """By scope: the weights (K_out, K) of each inner region, and the probabilities (K, 2) of each leaf."""
    graph, regions = model.graph, [list(model.leaf_order)]
    region_of = {frozenset(p.children): p.region for p in graph.partitions}
    weights = {}
    for level in model.levels:
        found = []
        for layer, children in zip(level.einsums, level.children_of, strict=True):
            every, below = torch.arange(len(layer.weights)), [set() for _ in layer.weights]
            for side in range(children.num_sides):
                for source, own, rows in children.places(side, every):
                    for node, row in zip(every[own].tolist(), rows.tolist(), strict=True):
                        below[node].add(regions[source][row])
            found += [region_of[frozenset(each)] for each in below]
            weights |= {graph.regions[r].scope: w for r, w in zip(found[-len(below) :], layer.weights, strict=True)}
        regions.append(found if level.order is None else [found[i] for i in level.order])
    (part,) = model.leaves.parts
    return weights, {(v,): part.phi[:, place, 0].T for place, v in enumerate(part.pairs.tolist())}


if __name__ == "__main__":
    main()
