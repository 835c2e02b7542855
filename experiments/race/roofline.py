"""How near the kernels come to what the card can do; gpu.py calls it, after the race.

    python experiments/race/roofline.py cuda "SVHN component" [roofline.json]

Ceilings are measured, not read off a data sheet: a large matrix product in each number format, and a large copy. A
kernel's multiply-adds and bytes are counted from the shapes of the layers: each input read once, each output written
once. Its time is that of one training step, from PyTorch's profiler. What it cannot beat is the larger of multiply-adds
over the rate of its products (three products in the x3 precisions) and bytes over the copy's rate.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from einet.layers.scaled import Scaled
from einet.layers.sums import EinsumLayer
from experiments.provenance import provenance
from experiments.race.gpu import CASES, TINY, Stopwatch
from experiments.race.gpu_contestants import FUSED, make
from experiments.records import write_records

KERNELS = ("_sums", "_weight_gradients", "_child_gradients", "_shared_sums", "_moved")
PRODUCTS = {"ieee": ("ieee", 1), "tf32": ("tf32", 1), "tf32x3": ("tf32", 3), "bf16x3": ("bf16", 3)}


def ceilings(device: str, size: int) -> dict[str, float]:
    """Multiply-adds a second by number format, and bytes a second of a copy, read and written."""
    watch, rates = Stopwatch(device), {}
    for name, dtype in (("ieee", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        a @ b
        rates[name] = size**3 / (1e-3 * min(watch(lambda a=a, b=b: a @ b) for _ in range(10)))
    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.randn(size * size * 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    rates["copy"] = 8 * source.numel() / (1e-3 * min(watch(lambda: target.copy_(source)) for _ in range(10)))
    return rates


def work(model, batch: int) -> dict[str, tuple[float, float]]:
    """Multiply-adds and bytes of each kernel in one training step."""
    total = {name: [0.0, 0.0] for name in KERNELS}

    def add(name: str, multiply_adds: float, numbers: float) -> None:
        total[name][0] += multiply_adds
        total[name][1] += 4 * numbers

    for level in model.levels:
        for layer, found in zip(level.einsums, level.children_of, strict=True):
            nodes, out, pairs = layer.weights.shape
            weights, products = nodes * out * pairs, nodes * pairs * batch
            children, sums = nodes * (layer.num_left + layer.num_right) * batch, nodes * out * batch
            scales = nodes * batch
            add("_sums", products * (out + 1), weights + children + sums + 7 * scales)
            add("_weight_gradients", products * (out + 1), children + sums + scales + weights)
            add("_child_gradients", products * (out + 2), weights + sums + scales + 2 * children)
            add("_moved", 0, 3 * weights)
            for pool in found.pools:
                if not pool.whole:
                    of_pool = (len(pool.offsets) - 1) * (children / nodes / 2)
                    add("_shared_sums", 0, len(pool.rows) * (children / nodes / 2) + of_pool)
    return {name: (multiply_adds, size) for name, (multiply_adds, size) in total.items()}


def seconds(contestant, rows: torch.Tensor, steps: int) -> dict[str, float]:
    """Device seconds of one training step by kernel, and of all others together; empty where there is no GPU."""
    if not rows.is_cuda:
        return {}
    for _ in range(3):
        contestant.train(rows)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            contestant.train(rows)
        torch.cuda.synchronize()
    found = dict.fromkeys((*KERNELS, "others"), 0.0)
    for event in profiler.key_averages():
        name = event.key if event.key in KERNELS else "others"
        found[name] += 1e-6 * event.self_device_time_total / steps
    return found


def errors(device: str, sizes: tuple[int, ...]) -> list[dict]:
    """The largest error of one layer's log-densities against float64, in nats, by K and precision."""
    found = []
    for num_sums in sizes:
        torch.manual_seed(0)
        layer = EinsumLayer(4, num_sums, num_sums, num_sums).to(device)
        weights = torch.rand(layer.weights.shape, device=device).log_().neg_()
        with torch.no_grad():
            layer.weights.copy_(weights / weights.sum(2, keepdim=True))
        value = torch.rand(8, num_sums, 64, device=device)
        halves, scale = (value / value.amax(1, keepdim=True)).chunk(2), torch.zeros(4, 64, device=device).double()
        children = [Scaled(half, scale) for half in halves]
        left, right = (half.double() for half in halves)
        weights = layer.weights.detach().double().unflatten(2, (num_sums, -1))
        exact = torch.einsum("lkij,lib,ljb->lkb", weights, left, right).log()
        for precision in (None, *FUSED):
            layer.precision = precision
            with torch.no_grad():
                worst = (layer(*children).log() - exact).abs().max().item()
            found.append({"K": num_sums, "precision": precision or "plain", "nats": worst})
    return found


def main() -> None:
    device, wanted = sys.argv[1:3]
    started, tiny = time.time(), device == "cpu"
    case = next(case for case in CASES + TINY if case.name == wanted)
    record = {"case": case.name, "errors": errors(device, (2, 5) if tiny else (2, 10, 20, 40, 64)), "kernels": []}
    record["ceilings"] = rates = ceilings(device, 64 if tiny else 8192)
    print("ceilings:", ", ".join(f"{name} {rate:.3g}/s" for name, rate in rates.items()))
    for error in record["errors"]:
        print(f"  K={error['K']:<3} {error['precision']:8} {error['nats']:.1e} nats")
    shape = (case.batch, case.num_variables) + ((case.channels,) if case.channels > 1 else ())
    rows = torch.arange(case.batch, device=device)
    print(f"\n{case.name}\n{'':16}{'kernel':18}{'ms':>9}{'multiply-adds':>15}{'bytes':>11}{'floor ms':>10}{'share':>8}")
    for precision in FUSED:
        contestant = make(precision, case, device, 0, torch.randn(shape, device=device))
        took = seconds(contestant, rows, 10)
        unit, times = PRODUCTS[precision]
        for name, (multiply_adds, size) in work(contestant.model, case.batch).items():
            arithmetic, memory = times * multiply_adds / rates[unit], size / rates["copy"]
            floor, bound = max((arithmetic, "products"), (memory, "memory"))
            share = floor / took[name] if took.get(name) else None
            entry = {"precision": precision, "kernel": name, "seconds": took.get(name), "multiply_adds": multiply_adds}
            record["kernels"].append({**entry, "bytes": size, "floor_seconds": floor, "share": share, "bound": bound})
            shown = f"{1e3 * took[name]:>9.3f}" if took else f"{'-':>9}"
            part = "-" if share is None else f"{share:.0%}"
            counted = f"{multiply_adds:>15.3g}{size:>11.3g}{1e3 * floor:>10.4f}"
            print(f"{precision:16}{name:18}{shown}{counted}{part:>8}  {bound}")
        if took:
            record["kernels"].append({"precision": precision, "kernel": "others", "seconds": took["others"]})
            print(f"{precision:16}{'all others':18}{1e3 * took['others']:>9.3f}")
    record["provenance"] = provenance(0, started, device=device, packages=("torch", "triton"))
    if len(sys.argv) > 3:
        write_records(Path(sys.argv[3]), [record])


if __name__ == "__main__":
    main()
