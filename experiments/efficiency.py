"""A fair race: Figures 3 and 6 of the paper, einet beside its rivals, in one run on one machine.

    python experiments/efficiency.py --quick                      a table and the ratios, minutes on an idle machine
    python experiments/efficiency.py --full                       the sweep, into book/results/efficiency.json
    python experiments/efficiency.py --only einet,libcirkit --points K=40,depth=9

One online-learning epoch on N = 2000 samples of Gaussian noise with D = 512 variables, batches of 100, over RAT
structures; K, depth or R vary, one at a time, around K = 10, depth = 4, R = 10. Measured: training seconds an epoch,
peak memory of training above the built model, inference seconds a sample for a batch of 100.

How the race is kept fair (contestants.py says what is equal and what is not, worker.py how memory is measured):
- each contestant lives in a process of its own, with 2 threads, and all take turns, one at a time, round after round,
  so that whatever slows the machine down slows down all; medians of the rounds are compared, as ratios, within a run;
- warm-up before any time counts; a slow contestant is timed on as many batches as fit `--round-seconds`, then scaled to
  the epoch (`timed_batches` in the record);
- what other processes used of the CPU meanwhile is recorded as `load`, in cores;
- out of memory, a timeout, a crash, a clamped or infinite likelihood are results: `status` and `remark`.

The rivals want other versions of numpy and scipy than the book, so they live in `.venv-bench` (experiments/
requirements.txt), which this script creates when it is first run, unless the running interpreter has them already.
`--no-venv` takes the running interpreter as it is; what it lacks is then reported as "not installed".

`--full` writes after every point and skips the points that the file already has, so it may be stopped at any time.
This script itself needs the standard library alone.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from provenance import busy_seconds

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "book" / "results" / "efficiency.json"
NAMES = ("einet", "libcirkit", "libcirkit-compiled", "spflow", "log-domain")

NUM_SAMPLES, BATCH_SIZE, NUM_VARIABLES = 2000, 100, 512
NUM_BATCHES = NUM_SAMPLES // BATCH_SIZE
THREADS = 2


@dataclass(frozen=True)
class Point:
    """One place in the sweep."""

    num_sums: int = 10
    depth: int = 4
    num_replicas: int = 10

    def __str__(self) -> str:
        changed = [f"{letter}={getattr(self, name)}" for letter, name in LETTERS.items()]
        changed = [text for text in changed if text not in ("K=10", "depth=4", "R=10")]
        return ", ".join(changed) or "default"


LETTERS = {"K": "num_sums", "depth": "depth", "R": "num_replicas"}
DEFAULT = Point()
SWEEP = {
    "num_sums": (1, 2, 5, 10, 15, 20, 30, 40),
    "depth": (1, 2, 3, 4, 5, 6, 7, 8, 9),
    "num_replicas": (1, 5, 10, 15, 20, 30, 40),
}
QUICK = (
    (DEFAULT, NAMES),
    (Point(num_sums=40), ("einet", "libcirkit")),
    (Point(num_replicas=40), ("einet", "libcirkit")),
    (Point(depth=9), ("einet", "libcirkit")),
)

# At least how many times faster, faster, and smaller einet is to be: training, inference, memory. None: no bar.
BARS = {
    ("default", "libcirkit"): (6, 5, 6),
    ("default", "libcirkit-compiled"): (3, 2, 2),
    ("default", "spflow"): (10, 5, 6),
    ("default", "log-domain"): (6, 5, 4),
    ("K=40", "libcirkit"): (8, 5, 4),
    ("K=40", "log-domain"): (10, 5, 4),
    ("R=40", "libcirkit"): (15, 5, 4),
    ("depth=9", "libcirkit"): (3, 5, 4),
}


class Contestant:
    """A worker process, and what it has said so far. Once anything goes wrong, it is asked no more: see `status`."""

    def __init__(self, name: str, point: Point, options: argparse.Namespace):
        self.name, self.status, self.facts, self.cpu_seconds = name, "ok", {}, 0.0
        self.epochs, self.inferences = [], []
        self.batches = self.calls = 0
        settings = {
            "name": name,
            "point": {"num_variables": NUM_VARIABLES, **asdict(point)},
            "device": options.device,
            "seed": options.seed,
            "threads": THREADS,
            "num_samples": NUM_SAMPLES,
            "batch_size": BATCH_SIZE,
            "command": " ".join(["python", "experiments/efficiency.py", *sys.argv[1:]]),
        }
        threads = {f"{library}_NUM_THREADS": str(THREADS) for library in ("OMP", "MKL", "OPENBLAS")}
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [options.python, str(ROOT / "experiments" / "worker.py"), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, **threads, "PYTHONPATH": path},
        )

    def build(self, options: argparse.Namespace) -> None:
        """Build the model and plan the rounds: a whole epoch and a second of inference, or what fits into a round."""
        self.facts = self.ask("introduce", options.timeout) | self.ask("build", options.timeout)
        if self.status == "ok":
            fitting = int(options.round_seconds / self.facts.pop("batch_seconds"))
            self.batches = max(1, min(NUM_BATCHES, fitting))
            self.calls = max(2, min(20, int(1 / self.facts.pop("inference_seconds"))))

    def take_turn(self, options: argparse.Namespace) -> None:
        trained = self.ask("train", options.timeout, batches=self.batches)
        if self.status == "ok":
            self.epochs.append(trained["seconds"] * NUM_BATCHES / self.batches)
            inferred = self.ask("infer", options.timeout, calls=self.calls)
            self.inferences += [seconds / BATCH_SIZE for seconds in inferred.get("seconds", [])]

    def finish(self, options: argparse.Namespace) -> None:
        self.facts |= self.ask("finish", options.timeout)
        if self.status == "ok" and not abs(self.facts["log_likelihood"]) < float("inf"):
            self.status, self.facts["log_likelihood"] = "log-likelihood not finite", None

    def ask(self, action: str, timeout: float, **arguments) -> dict:
        """The worker's answer; empty, with the status changed, where there is none."""
        if self.status != "ok":
            return {}
        try:
            self.process.stdin.write(json.dumps({"ask": action, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return self._died()
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        if not ready:
            self.process.kill()
            self.status = f"timeout: no answer to {action!r} within {timeout:.0f} s"
            return {}
        line = self.process.stdout.readline()
        if not line:
            return self._died()
        answer = json.loads(line)
        self.status = answer.pop("status")
        self.cpu_seconds += answer.pop("cpu_seconds")
        return answer

    def _died(self) -> dict:
        code = self.process.wait()
        self.errors.seek(0)
        last = ([""] + self.errors.read().strip().splitlines())[-1]
        self.status = "out of memory: killed" if code == -9 else f"failed: exit status {code}: {last}"
        return {}

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()

    def record(self, point: Point, device: str) -> dict:
        return {
            "implementation": self.name,
            **asdict(point),
            "device": device,
            "epoch_seconds": median(self.epochs) if self.epochs else None,
            "inference_seconds": median(self.inferences) if self.inferences else None,
            "peak_bytes": None,
            "status": self.status,
            "provenance": {},
            **self.facts,
            "timed_batches": self.batches,
            "epoch_seconds_of_rounds": [round(seconds, 4) for seconds in self.epochs],
        }


def race(point: Point, names: Iterable[str], options: argparse.Namespace) -> list[dict]:
    """All contestants at one point, taking turns; one record each."""
    started, contestants = time.time(), []
    try:
        for name in names:
            contestants.append(Contestant(name, point, options))
            contestants[-1].build(options)
            say(f"  {point}: {name} built: {contestants[-1].status}")
        load = take_turns(contestants, options)
        for contestant in contestants:
            contestant.finish(options)
    finally:
        for contestant in contestants:
            contestant.close()
    records = [contestant.record(point, options.device) for contestant in contestants]
    for record in records:
        record["provenance"] |= {"seconds": round(time.time() - started, 1), "load": load}
    return records


def take_turns(contestants: list[Contestant], options: argparse.Namespace) -> dict:
    """The rounds, each begun by another contestant. Returns what other processes used meanwhile, in cores."""

    def by_others() -> float:
        return busy_seconds() - sum(contestant.cpu_seconds for contestant in contestants)

    start, before = time.perf_counter(), by_others()
    for turn in range(options.rounds):
        first = turn % len(contestants)
        for contestant in contestants[first:] + contestants[:first]:
            contestant.take_turn(options)
    return {"other_processes_cores": round(max(0.0, by_others() - before) / (time.perf_counter() - start), 2)}


# Report


def say(text: str) -> None:
    print(text, flush=True)


def report(point: Point, records: list[dict], rounds: int) -> None:
    """The table of one point, and by what factors einet is ahead, with the bars beside them."""
    settings = ", ".join(f"{letter}={getattr(point, name)}" for letter, name in LETTERS.items())
    say(f"\n{point} ({settings}), medians of {rounds} rounds")
    say(f"{'':20}{'epoch s':>9}{'ms/100':>11}{'MB':>8}{'sum weights':>13}{'leaf params':>13}{'nats':>10}  learner")
    for record in records:
        say(
            f"{record['implementation']:20}{number(record['epoch_seconds'], 9, 3)}"
            f"{number(record['inference_seconds'], 11, 2, 1e5)}{number(record['peak_bytes'], 8, 0, 1e-6)}"
            f"{number(record.get('sum_weights'), 13)}{number(record.get('leaf_parameters'), 13)}"
            f"{number(record.get('log_likelihood'), 10, 1)}  {record.get('learner', '')}"
        )
    for warning in warnings_of(records):
        say(f"  ! {warning}")
    ours = next((r for r in records if r["implementation"] == "einet" and r["status"] == "ok"), None)
    for rival in records:
        if ours and rival is not ours and rival["status"] == "ok":
            say(f"  einet against {rival['implementation']}: " + ratios(point, ours, rival))


def ratios(point: Point, ours: dict, rival: dict) -> str:
    parts = []
    bars = BARS.get((str(point), rival["implementation"]), (None, None, None))
    measures = (("epoch_seconds", "training"), ("inference_seconds", "inference"), ("peak_bytes", "memory"))
    for (key, what), bar in zip(measures, bars, strict=True):
        if not ours[key] or not rival[key]:
            continue
        factor = rival[key] / ours[key]
        verdict = "" if bar is None else f" (bar {bar}: {'met' if factor >= bar else 'SHORT'})"
        parts.append(f"{what} {factor:.1f}x{verdict}")
    return ", ".join(parts)


def warnings_of(records: list[dict]) -> Iterable[str]:
    """What would make the numbers less than fair."""
    counts = {(r["sum_weights"], r["leaf_parameters"]) for r in records if r["status"] == "ok"}
    if len(counts) > 1:
        yield f"unequal numbers of parameters: {sorted(counts)}"
    load = records[0]["provenance"]["load"]["other_processes_cores"]
    if load > 0.1:
        yield f"other processes used {load} cores meanwhile"
    for record in records:
        if record["status"] != "ok":
            yield f"{record['implementation']}: {record['status']}"
        if record.get("remark"):
            yield f"{record['implementation']}: {record['remark']}"


def number(value: float | None, width: int, digits: int = 0, scale: float = 1.0) -> str:
    return f"{'-':>{width}}" if value is None else f"{value * scale:>{width},.{digits}f}"


# Results on disk


def load_records(path: Path) -> list[dict]:
    return json.loads(path.read_text()) if path.exists() else []


def is_at(record: dict, point: Point, names: Iterable[str], device: str) -> bool:
    same = all(record[key] == value for key, value in asdict(point).items())
    return same and record["device"] == device and record["implementation"] in names


def save(path: Path, point: Point, records: list[dict], device: str) -> None:
    """Put the records of one point in the place of those it had; the file is never half written."""
    names = [record["implementation"] for record in records]
    kept = [record for record in load_records(path) if not is_at(record, point, names, device)]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(kept + records, indent=1) + "\n")
    draft.replace(path)


# Command line


def interpreter(options: argparse.Namespace) -> str:
    """The Python that has torch and the rivals: the running one, or that of .venv-bench, made here if need be."""
    if options.no_venv or all(find_spec(name) for name in ("torch", "cirkit", "spflow", "safetensors")):
        return sys.executable
    folder = ROOT / ".venv-bench"
    python, installed = str(folder / "bin" / "python"), folder / ".installed"
    if not installed.exists():
        say("making .venv-bench for the rivals (a minute; libcirkit and spflow are not in this interpreter)")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        requirements = str(ROOT / "experiments" / "requirements.txt")
        subprocess.run([python, "-m", "pip", "install", "-qq", "-r", requirements], check=True)
        installed.touch()
    return python


def parse_point(text: str) -> Point:
    """The default point with one hyper-parameter changed: default, K=40, depth=9 or R=5."""
    if text == "default":
        return DEFAULT
    letter, _, value = text.partition("=")
    if letter not in LETTERS or not value.isdigit() or int(value) < 1:
        raise SystemExit(f"a point is default, K=..., depth=... or R=... with a positive integer, got {text!r}")
    return replace(DEFAULT, **{LETTERS[letter]: int(value)})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="the default point for all; K=40, R=40 and depth 9 for two")
    add("--full", action="store_true", help="the whole sweep for all, written to the results file")
    add("--points", help="instead: some points, such as default,K=40,depth=9")
    add("--only", help=f"some contestants of {','.join(NAMES)}")
    add("--device", default="cpu", help="cpu or cuda")
    add("--rounds", type=int, default=5, help="turns that each contestant takes")
    add("--round-seconds", type=float, default=5.0, help="training time in a turn, at most, beyond one batch")
    add("--timeout", type=float, default=600.0, help="seconds to wait for any answer of a contestant")
    add("--seed", type=int, default=0)
    add("--output", type=Path, help=f"results file; with --full {RESULTS.relative_to(ROOT)}, else none")
    add("--redo", action="store_true", help="run points again that the results file has")
    add("--no-venv", action="store_true", help="use the running interpreter, whatever it lacks")
    options = parser.parse_args()
    if not (options.quick or options.full or options.points):
        parser.error("say --quick, --full or --points")
    options.names = options.only.split(",") if options.only else list(NAMES)
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no contestant {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if options.full and options.output is None:
        options.output = RESULTS
    return options


def plan(options: argparse.Namespace) -> list[tuple[Point, list[str]]]:
    """Which contestants meet at which points, in order."""
    if options.points:
        return [(parse_point(text), options.names) for text in options.points.split(",")]
    if options.full:
        points = [replace(DEFAULT, **{name: value}) for name, values in SWEEP.items() for value in values]
        return [(point, options.names) for point in dict.fromkeys(points)]  # the default point once
    return [(point, [name for name in names if name in options.names]) for point, names in QUICK]


def main() -> None:
    options = parse_arguments()
    options.python = interpreter(options)
    for point, names in plan(options):
        if options.output and not options.redo:
            done = {r["implementation"] for r in load_records(options.output) if is_at(r, point, names, options.device)}
            if done >= set(names):
                say(f"{point}: in {options.output} already")
                continue
        records = race(point, names, options)
        report(point, records, options.rounds)
        if options.output:
            save(options.output, point, records, options.device)


if __name__ == "__main__":
    main()
