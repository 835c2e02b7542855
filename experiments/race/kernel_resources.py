"""What the kernels need of a GPU, without one: compiled for an H100 (sm_90), taken apart, and counted.

    python experiments/race/kernel_resources.py --sums 10,40,64 --batch 100 --precision ieee,tf32x3

Triton brings its compiler and NVIDIA's assembler, so registers, spilled bytes, shared memory and the kinds of matrix
instructions are known on any Linux machine. Speed is not: that takes a card (gpu.py).

A program of an H100 has at most 255 registers a thread and 227 KiB of shared memory. HGMMA are the tensor cores' fast
instructions, HMMA the older ones, FFMA float32 multiply-adds outside of them.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from einet.gpu import kernels

H100 = GPUTarget("cuda", 90, 32)
TOOLS = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")
KINDS = ("HGMMA", "HMMA", "FFMA")
INTEGERS, DOUBLES = ("rows", "order", "offsets"), ("scale",)  # how the names of such arguments end; others are float32
SCALARS = {
    "batch": "i32",
    "size": "i32",
    "pseudocount": "fp32",
    "fewest": "fp32",
    "floor": "fp32",
}


def resources(name: str, settings: dict) -> dict:
    """One kernel with its compile-time constants: registers, spilled bytes, shared bytes, instructions by kind."""
    settings = dict(settings)
    options = {"num_warps": settings.pop("num_warps")}
    kernel = getattr(kernels, name)
    types = {parameter.name: _type(parameter.name, settings) for parameter in kernel.params}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(types.values()) if kind.startswith("*")}
    source = ASTSource(kernel, signature=types, constexprs=settings, attrs=aligned)
    compiled = triton.compile(source, target=H100, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        code = _run("nvdisasm", file.name)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    counts = {kind: len(re.findall(rf"\b{kind}", code)) for kind in KINDS}
    return {"registers": int(registers), "spilled": int(stack), "shared": compiled.metadata.shared, **counts}


def all_settings(num_sums: int, batch: int, precision: str, num_nodes: int = 1000) -> Iterable[tuple[str, dict]]:
    """The kernels of a layer of `num_nodes` nodes, with the constants that `kernels` would give them."""
    vectors = torch.empty(1, num_sums, batch)
    _, settings = kernels._settings(vectors, vectors, num_nodes, num_sums, precision, multiprocessors=132)
    settings["CARD"] = True
    pairs = {"TILE_B": kernels.ROWS_OF_GRADIENT, "TILE_P": kernels.PAIRS_OF_GRADIENT, "num_warps": 4}
    yield "_sums", settings
    yield "_weight_gradients", settings | pairs
    yield "_child_gradients", {name: value for name, value in settings.items() if name != "TILE_P"}
    width = num_sums**2
    yield "_moved", {"WIDTH": width, "TILE": triton.next_power_of_2(width), "num_warps": 4}
    yield "_shared_sums", {"TILE": 1024, "num_warps": 4}


def _type(name: str, settings: dict) -> str:
    if name in settings:
        return "constexpr"
    if name in SCALARS:
        return SCALARS[name]
    return "*i64" if name.endswith(INTEGERS) else "*fp64" if name.endswith(DOUBLES) else "*fp32"


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run([os.path.join(TOOLS, tool), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sums", default="10,40,64", help="lengths K of the vectors")
    parser.add_argument("--batch", default="100", help="batch sizes")
    parser.add_argument("--precision", default="ieee,tf32,tf32x3,bf16x3")
    options = parser.parse_args()
    print(f"triton {triton.__version__}, for sm_90")
    for num_sums in map(int, options.sums.split(",")):
        for batch in map(int, options.batch.split(",")):
            for precision in options.precision.split(","):
                print(f"K={num_sums}, batch {batch}, {precision}")
                for name, settings in all_settings(num_sums, batch, precision):
                    tiles = f"{settings.get('TILE_B', '')}x{settings.get('TILE_P', '')}"
                    found = resources(name, settings)
                    print(f"  {name:18} {tiles:8}", *(f"{key} {value:>6}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
