"""The floor under the race of efficiency.py: what einsum layers and leaves cost at least on this machine.

    python experiments/floor.py                                      the default point, a minute's fraction
    python experiments/floor.py --points 10/4/10,40/4/10 --output book/results/floor.json      K/depth/R

Counted, for a batch of B rows and from the shapes of the model's own layers:

    multiply-adds  L K_out K^2 B of each einsum layer and 2 D R K B of Gaussian leaves (two statistics), forward.
                   Training multiplies three times in an einsum layer (forward, gradient of the weights, of the
                   children), twice in the leaves, whose input needs no gradient.
    bytes          of what must move if caches keep nothing but the outer products. Inference: parameters and rows read
                   once, the vectors between layers written and read. Training: parameters read by both passes and
                   written once, their gradients written and read; vectors and their gradients written and read,
                   vectors read once more by the backward pass; rows read twice.

Measured: multiply-adds a second of a float32 product of two 1024 x 1024 matrices (`peak`) and of the batched products
of each layer (`own shapes`, as many nodes at once as the layer takes), and bytes a second of a copy of 256 MB, read and
written. All are the best of many, with as many threads as the race. Leaves are computed in float64 for precision, at
half the rate; the floor is that of float32.

No program of these products runs faster than max(multiply-adds / peak, bytes / copy). With the rates of its own shapes
it cannot be faster than `shape_seconds`, unless it finds other products. Neither counts what lies between products:
outer products, exponentials, scales, the EM step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

import einet
from einet.layers.scratch import node_slices
from einet.leaves import MAX_ONE_HOT
from experiments.provenance import provenance
from experiments.records import command_line, write_records

NUM_SAMPLES, BATCH, NUM_VARIABLES, THREADS = 2000, 100, 512, 2
REPEATS, AT_LEAST_SECONDS = 30, 0.004


def best_rate(work: float, action: Callable[[], object]) -> float:
    """Units of `work` a second, in the fastest of some repeats that last a few milliseconds each."""
    action()
    start = time.perf_counter()
    action()
    calls = 1 + int(AT_LEAST_SECONDS / max(time.perf_counter() - start, 1e-9))
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(calls):
            action()
        seconds.append((time.perf_counter() - start) / calls)
    return work / min(seconds)


@cache
def product_rate(nodes: int, rows: int, inner: int, columns: int) -> float:
    """Multiply-adds a second of `nodes` float32 products (rows, inner) @ (inner, columns) in one call."""
    a, b = torch.rand(nodes, rows, inner), torch.rand(nodes, inner, columns)
    out = torch.empty(nodes, rows, columns)
    return best_rate(nodes * rows * inner * columns, lambda: torch.bmm(a, b, out=out))


@cache
def copy_rate(numbers: int = 2**26) -> float:
    """Bytes a second of copying float32 numbers from memory to memory, read and written."""
    source, target = torch.rand(numbers), torch.empty(numbers)
    return best_rate(2 * 4 * numbers, lambda: target.copy_(source))


def products(model: einet.Einet) -> list[dict]:
    """The matrix products of a forward pass, layer by layer: `nodes` products (rows, inner) @ (inner, BATCH)."""
    found = []
    for part in model.leaves.parts:
        if part.family.indicator and part.family.num_statistics > MAX_ONE_HOT:
            continue  # looked up, and counted among what is moved alone
        for rows, _, variables in part.groups():
            inner = part.family.num_statistics * variables.shape[1]
            found.append({"layer": "leaves", "nodes": len(rows), "rows": model.num_leaves, "inner": inner, "times": 2})
    for depth, level in enumerate(model.levels, start=1):
        for layer in level.einsums:
            nodes, out, pairs = layer.weights.shape
            found.append({"layer": f"einsum {depth}", "nodes": nodes, "rows": out, "inner": pairs, "times": 3})
    return found


def multiply_adds(product: dict) -> int:
    return product["nodes"] * product["rows"] * product["inner"] * BATCH


def shape_seconds(product: dict) -> float:
    """One forward pass through this layer at the rate that its own shapes reach, slices in the cache."""
    nodes = node_slices(product["nodes"], max(product["inner"], product["rows"]) * BATCH, torch.empty(0))[0].stop
    return multiply_adds(product) / product_rate(nodes, product["rows"], product["inner"], BATCH)


def numbers_moved(model: einet.Einet) -> dict[str, int]:
    """How many float32 numbers a batch of training, and one of inference, must move at least."""
    parameters = sum(p.numel() for p in model.parameters())
    sums = sum(layer.weights.shape[:2].numel() for level in model.levels for layer in level.einsums)
    vectors = (model.leaves.num_nodes * model.num_leaves + sums) * BATCH
    rows = BATCH * model.graph.num_variables
    return {"training": 5 * parameters + 5 * vectors + 2 * rows, "inference": parameters + 2 * vectors + rows}


def floor(num_sums: int, depth: int, num_replicas: int) -> dict:
    """The record of one point: counts, and bounds in seconds for an epoch and for 100 inferences."""
    graph = einet.random_binary_trees(NUM_VARIABLES, depth, num_replicas, seed=0)
    model = einet.Einet(graph, einet.Normal(), num_sums=num_sums, seed=0)
    return {"num_sums": num_sums, "depth": depth, "num_replicas": num_replicas, **bounds(model)}


def bounds(model: einet.Einet) -> dict:
    """The counts of a model, and its bounds in seconds for an epoch and for 100 inferences."""
    layers, moved = products(model), numbers_moved(model)
    forward = sum(multiply_adds(p) for p in layers)
    training = sum(p["times"] * multiply_adds(p) for p in layers)
    batches = NUM_SAMPLES // BATCH
    peak = product_rate(1, 1024, 1024, 1024)
    record: dict = {}
    record |= {"multiply_adds": {"inference": forward, "epoch": batches * training}}
    record |= {"bytes": {"inference": 4 * moved["inference"], "epoch": 4 * batches * moved["training"]}}
    record["peak_seconds"] = {
        what: max(record["multiply_adds"][what] / peak, record["bytes"][what] / copy_rate())
        for what in ("inference", "epoch")
    }
    record["shape_seconds"] = {
        "inference": sum(shape_seconds(p) for p in layers),
        "epoch": batches * sum(p["times"] * shape_seconds(p) for p in layers),
    }
    return record


def lay(points: list[tuple[int, int, int]]) -> list[dict]:
    """The floor of all points, each with the rates that it rests on and where it comes from."""
    torch.set_num_threads(THREADS)
    torch.set_flush_denormal(True)
    started = time.time()
    records = [floor(*point) for point in points]
    rates = {"peak_multiply_adds": product_rate(1, 1024, 1024, 1024), "copy_bytes": copy_rate()}
    origin = provenance(0, started, command=command_line(script="floor.py"), packages=("torch", "numpy"))
    origin["seconds"] = round(origin["seconds"] / len(records), 1)
    return [{**record, "rates": rates, "provenance": origin} for record in records]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", default="10/4/10", help="K/depth/R of each point, separated by commas")
    parser.add_argument("--output", type=Path, help="where to write the record; by default it is printed alone")
    options = parser.parse_args()
    result = lay([tuple(int(x) for x in point.split("/")) for point in options.points.split(",")])
    rates = result[0]["rates"]
    print(
        f"{rates['peak_multiply_adds']:.3g} multiply-adds/s of large products, {rates['copy_bytes']:.3g} bytes/s copied"
    )
    print(f"{'K/depth/R':>12}{'epoch ms, peak':>16}{'own shapes':>12}{'100 rows ms, peak':>19}{'own shapes':>12}")
    for p in result:
        bounds = [1e3 * p[rate][what] for what in ("epoch", "inference") for rate in ("peak_seconds", "shape_seconds")]
        name = f"{p['num_sums']}/{p['depth']}/{p['num_replicas']}"
        print(f"{name:>12}{bounds[0]:>16.1f}{bounds[1]:>12.1f}{bounds[2]:>19.2f}{bounds[3]:>12.2f}", flush=True)
    if options.output:
        write_records(options.output, result)


if __name__ == "__main__":
    main()
