"""The race on a GPU: the fused einsum layer beside plain PyTorch, torch.compile, and other libraries.

    python experiments/gpu.py --dry-run                              everything on a CPU with tiny shapes: two minutes
    python experiments/gpu.py --precompile                           fills Triton's cache, in parallel; no timing
    python experiments/gpu.py --minutes 8 --output $OUT/gpu.json     then the race; goes on where the file ends

Cases: the paper's sweep (K, depth, R around 10, 4, 10; D = 512, 2000 rows, batches of 100), a component of the SVHN
mixture (PD on 32 x 32 x 3, delta 8, one axis, K = 40, batch 500), PD along two axes (28 x 28, delta 4, K = 32, batch
256). gpu_contestants.py has the contestants. Each lives in a process of its own, one at a time, and meets all cases in
turn; a crash, an exhausted memory and a timeout are results.

Times are device events, the median of `--rounds` epochs (of as many batches as fit into `--round-seconds`, then scaled)
after a warm-up that includes all compiling and recording. Memory is torch.cuda.max_memory_allocated from the first step
on, less what the built model and the data hold. The log-likelihood is that of the first batch after the warm-up, so
that those who compute the same show the same.

Then, for one case, a roofline: for each kernel its multiply-adds and bytes, and the share of the card's own measured
matrix product or copy, whichever binds, that it reaches; and the error of a layer in nats for each precision.

A lent machine has torch and triton; what else the libraries need travels as wheels: pyjuice==2.6.3 numba llvmlite
networkx for PyJuice, libcirkit==0.3.1 einops opt_einsum graphviz pydot fast_pytorch_kmeans psutil for libcirkit.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from experiments.provenance import provenance
from experiments.records import command_line, python_path, read_records, say, write_records

HERE = Path(__file__).resolve().parent
NAMES = ("plain", "ieee", "tf32x3", "bf16x3", "tf32", "ieee+graph", "tf32x3+graph", "bf16x3+graph", "tf32+graph")
NAMES += ("at-once", "log-domain", "compiled", "pyjuice", "pyjuice=weights", "libcirkit")
WARM_UP = 5  # steps: three before a CUDA graph is recorded, and one replay
PACKAGES = ("torch", "triton", "numpy", "pyjuice", "libcirkit")


@dataclass(frozen=True)
class Case:
    """A network and its data. `trees` is (depth, R) of random binary trees, `grid` the arguments of poon_domingos."""

    name: str
    num_sums: int
    trees: tuple[int, int] | None = None
    grid: tuple | None = None
    num_variables: int = 512
    channels: int = 1
    batch: int = 100
    num_rows: int = 2000

    def graph(self, seed: int):
        import einet

        if self.trees is None:
            return einet.poon_domingos(*self.grid)
        return einet.random_binary_trees(self.num_variables, *self.trees, seed=seed)

    def family(self):
        import einet

        return einet.Normal(channels=self.channels, min_variance=1e-6)


def sweep() -> list[Case]:
    sizes = [(k, 4, 10) for k in (10, 40, 1, 2, 5, 15, 20, 30)]
    sizes += [(10, depth, 10) for depth in (9, 1, 2, 3, 5, 6, 7, 8)] + [(10, 4, r) for r in (40, 1, 5, 15, 20, 30)]
    return [Case(f"K={k} depth={depth} R={r}", k, trees=(depth, r)) for k, depth, r in sizes]


CASES = [
    Case("SVHN component", 40, grid=((32, 32), 8, (1,)), num_variables=1024, channels=3, batch=500, num_rows=5000),
    Case("two axes", 32, grid=((28, 28), 4), num_variables=784, batch=256, num_rows=2560),
    *sweep(),
]
TINY = [
    Case("tiny trees", 3, trees=(2, 2), num_variables=8, batch=4, num_rows=18),
    Case("tiny grid", 2, grid=((4, 4), 2), num_variables=16, channels=3, batch=3, num_rows=15),
]


# One contestant, in a process of its own


class Stopwatch:
    """Milliseconds between two points of the device's own time; of the CPU's clock where there is no device."""

    def __init__(self, device: str):
        import torch

        self.torch, self.cuda = torch, device.startswith("cuda")

    def __call__(self, action: Callable[[], object]) -> float:
        if not self.cuda:
            start = time.perf_counter()
            action()
            return 1000 * (time.perf_counter() - start)
        first, last = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.torch.cuda.synchronize()
        first.record()
        action()
        last.record()
        last.synchronize()
        return first.elapsed_time(last)


def measure(name: str, case: Case, options: argparse.Namespace) -> dict:
    """A record of one contestant at one case."""
    import torch

    from experiments.race.gpu_contestants import make

    watch, cuda = Stopwatch(options.device), options.device.startswith("cuda")
    torch.manual_seed(options.seed)
    shape = (case.num_rows, case.num_variables) + ((case.channels,) if case.channels > 1 else ())
    data = torch.randn(shape, device=options.device)
    contestant = make(name, case, options.device, options.seed, data)
    order = torch.randperm(case.num_rows, device=options.device)
    batches = [batch for batch in order.split(case.batch) if len(batch) == case.batch]

    gc.collect()
    before = torch.cuda.memory_allocated() if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    warm_up = [watch(lambda i=i: contestant.train(batches[i % len(batches)])) for i in range(WARM_UP)]
    rows = data[: case.batch]
    with torch.no_grad():
        likelihood = contestant.log_likelihood(rows).double().mean().item()
    record = {
        "implementation": name,
        "case": case.name,
        "log_likelihood": likelihood if abs(likelihood) < float("inf") else None,
        "warm_up_ms": [round(ms, 3) for ms in warm_up],
        "peak_bytes": torch.cuda.max_memory_allocated() - before if cuda else None,
        "differences": contestant.differences,
        **contestant.counts(),
    }
    if options.precompile:
        return record
    step = watch(lambda: contestant.train(batches[-1]))
    timed = max(1, min(len(batches), int(1000 * options.round_seconds / max(step, 1e-3))))
    epochs = []
    for _ in range(options.rounds):
        total = watch(lambda: [contestant.train(batch) for batch in batches[:timed]])
        epochs.append(total * len(batches) / timed)
    with torch.no_grad():
        inferences = [watch(lambda: contestant.log_likelihood(rows)) for _ in range(4 * options.rounds)]
    return record | {
        "epoch_ms": median(epochs),
        "epoch_ms_of_rounds": [round(ms, 4) for ms in epochs],
        "inference_ms": median(inferences),
        "timed_batches": timed,
    }


def child(options: argparse.Namespace) -> None:
    """All cases of one contestant; a line for each begun, and a line for each record."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    import torch

    torch.set_flush_denormal(True)
    for case in chosen_cases(options):
        if time.time() > options.deadline:
            break
        started = time.time()
        print(json.dumps({"begun": case.name}), file=answers, flush=True)
        try:
            record = {"status": "ok", **measure(options.child, case, options)}
        except Exception as error:  # whatever happens to a contestant is a result
            kind = "not installed" if isinstance(error, ImportError) else "failed"
            kind = "out of memory" if "out of memory" in str(error).lower() else kind
            text = f"{kind}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            record = {"implementation": options.child, "case": case.name, "status": text}
        origin = provenance(options.seed, started, device=options.device, command=options.command, packages=PACKAGES)
        print(json.dumps(record | {"provenance": origin}), file=answers, flush=True)
        gc.collect()
        if options.device.startswith("cuda"):
            torch.cuda.empty_cache()


# The parent: starts contestants, keeps records


def follow(name: str, cases: list[Case], options: argparse.Namespace) -> Iterable[dict]:
    """Records of one contestant, as they come. A process that dies is started again behind the case that killed it."""
    cases = list(cases)
    while cases and time.time() < options.deadline:
        command = [sys.executable, __file__, *sys.argv[1:], "--child", name, "--deadline", str(options.deadline)]
        command += ["--cases", ";".join(case.name for case in cases)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(options))
        begun, timer = None, threading.Timer(options.case_seconds, process.kill)
        timer.start()
        for line in process.stdout:
            timer.cancel()
            answer = json.loads(line)
            begun = answer.get("begun")
            if begun is None:
                yield answer
            cases = [case for case in cases if case.name != begun]
            seconds = max(1.0, min(options.case_seconds, options.deadline + 60 - time.time()))
            timer = threading.Timer(seconds, process.kill)
            timer.start()
        code = process.wait()
        timer.cancel()
        if begun is None or time.time() > options.deadline:
            return
        status = f"timeout: {options.case_seconds:.0f} s" if code == -9 else f"crashed: exit status {code}"
        yield {"implementation": name, "case": begun, "status": status, "provenance": {}}


def environment(options: argparse.Namespace) -> dict:
    interpreter = {"TRITON_INTERPRET": "1"} if options.dry_run else {}
    return {**os.environ, **python_path(), **interpreter}


def race(options: argparse.Namespace) -> list[dict]:
    path = options.output
    records = read_records(path) if path else []
    for name in options.names:
        done = {record["case"] for record in records if record["implementation"] == name}
        for record in follow(name, [c for c in chosen_cases(options) if c.name not in done], options):
            records.append(record)
            epoch = f"{record['epoch_ms']:.2f} ms" if "epoch_ms" in record else ""
            say(f"{name:16} {record['case']:22} {epoch:>14}  {record['status']}")
            if path:
                write_records(path, records)
    return records


def precompile(options: argparse.Namespace) -> None:
    """All contestants at once: times would mean nothing, but Triton's and the compiler's caches are full afterwards."""
    command = [sys.executable, __file__, *sys.argv[1:], "--deadline", str(options.deadline), "--child"]
    running = [
        subprocess.Popen([*command, name], stdout=subprocess.DEVNULL, env=environment(options))
        for name in options.names
        if name.partition("+")[0] not in ("plain", "at-once", "log-domain", "libcirkit") and "+" not in name
    ]
    for process in running:
        process.wait()


def table(records: list[dict]) -> None:
    """Medians, and how many times the plain path's time and memory that is: more is better."""
    for case in dict.fromkeys(record["case"] for record in records):
        here = [record for record in records if record["case"] == case]
        plain = next((r for r in here if r["implementation"] == "plain" and "epoch_ms" in r), None)
        titles = f"{'epoch ms':>12}{'x plain':>9}{'infer ms':>10}{'MB':>10}{'x less':>8}{'weights':>12}{'nats':>12}"
        print(f"\n{case:24}{titles}")
        for r in here:
            if "epoch_ms" not in r:
                print(f"{r['implementation']:24}{r['status']}")
                continue
            faster = plain["epoch_ms"] / r["epoch_ms"] if plain else float("nan")
            memory = r["peak_bytes"] / 1e6 if r["peak_bytes"] else float("nan")
            less = plain["peak_bytes"] / r["peak_bytes"] if plain and r["peak_bytes"] else float("nan")
            nats = "-" if r["log_likelihood"] is None else f"{r['log_likelihood']:.2f}"
            print(
                f"{r['implementation']:24}{r['epoch_ms']:>12.2f}{faster:>9.2f}{r['inference_ms']:>10.3f}{memory:>10.1f}"
                f"{less:>8.2f}{r['sum_weights']:>12}{nats:>12}"
            )


def chosen_cases(options: argparse.Namespace) -> list[Case]:
    cases = TINY if options.dry_run else CASES
    if options.batch:
        cases = [replace(case, batch=options.batch) for case in cases]
    return [case for case in cases if not options.cases or case.name in options.cases.split(";")]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--dry-run", action="store_true", help="tiny shapes on the CPU, the kernels in Triton's interpreter")
    add("--precompile", action="store_true", help="a few steps of all contestants at once, no times")
    add("--device", default="cuda")
    add("--only", help=f"some contestants of {','.join(NAMES)}")
    add("--cases", help="some cases, by name, separated by ;")
    add("--batch", type=int, help="another batch size for all cases")
    add("--rounds", type=int, default=5, help="epochs timed")
    add("--round-seconds", type=float, default=0.5, help="training time of a round, at most, beyond one batch")
    add("--case-seconds", type=float, default=150.0, help="a contestant that takes longer over a case is stopped")
    add("--minutes", type=float, default=1e6, help="no new case is begun after this time")
    add("--roofline", default="SVHN component", help="the case of the roofline table; none for no table")
    add("--seed", type=int, default=0)
    add("--output", type=Path)
    add("--child", help=argparse.SUPPRESS)
    add("--deadline", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.dry_run:
        options.device, options.rounds, options.round_seconds, options.roofline = "cpu", 1, 0.01, "tiny trees"
    options.names = options.only.split(",") if options.only else list(NAMES)
    options.deadline = options.deadline or time.time() + 60 * options.minutes
    options.command = command_line(script="gpu.py")
    known = {case.name for case in (TINY if options.dry_run else CASES)}
    unknown = (set(options.names) - set(NAMES)) | (set((options.cases or "").split(";")) - known - {""})
    if unknown:
        parser.error(f"no such contestant or case: {', '.join(sorted(unknown))}")
    return options


def main() -> None:
    options = parse_arguments()
    if options.child:
        child(options)
    elif options.precompile:
        precompile(options)
    else:
        table(race(options))
        if options.roofline != "none" and time.time() < options.deadline:
            command = [sys.executable, str(HERE / "roofline.py"), options.device, options.roofline]
            subprocess.run(command + ([str(options.output.with_name("roofline.json"))] if options.output else []),
                           env=environment(options), check=False)  # fmt: skip


if __name__ == "__main__":
    main()
