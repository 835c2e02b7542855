"""A fair race: Figures 3 and 6 of the paper, einet beside its rivals, in one run on one machine.

    python experiments/efficiency.py --quick                      a table and the ratios, minutes on an idle machine
    python experiments/efficiency.py --full                       the sweep, into book/results/efficiency.json
    python experiments/efficiency.py --only einet,libcirkit --points K=40,depth=9
    python -m experiments.efficiency --quick                      the same from a Python that einet is not installed in

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

The rivals want other versions of numpy than the book, so they live in environments of their own, which environments.py
makes when they are first needed. `--no-venv` takes the running interpreter as it is. A rival that cannot be installed
is reported with what pip said.

`--full` writes after every point and skips the points that the file already has, so it may be stopped at any time. It
begins with the floor (floor.py): what this machine's matrix product and copy would need at least. A bare `--output`
puts the points of any other call into the same file, each in its place, and `--merge` those of files from elsewhere.
This script itself needs the standard library alone.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from experiments.environments import environment
from experiments.provenance import busy_seconds, provenance
from experiments.records import ROOT, command_line, python_path, read_records, say, write_records

HERE = Path(__file__).resolve().parent
RESULTS = ROOT / "book" / "results" / "efficiency.json"
NAMES = ("einet", "libcirkit", "libcirkit-compiled", "spflow", "libspn-keras", "log-domain")
COMPILED = ("libcirkit-compiled",)

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
COMPILED_AT = {
    "num_sums": (1, 5, 10, 20, 40),
    "depth": (1, 4, 6, 9),
    "num_replicas": (1, 10, 20, 40),
}  # half a minute each
QUICK = (
    (DEFAULT, NAMES),
    (Point(num_sums=40), ("einet", "libcirkit")),
    (Point(num_replicas=40), ("einet", "libcirkit")),
    (Point(depth=9), ("einet", "libcirkit")),
)

# At least how many times faster, faster, and smaller einet is to be: training, inference, memory. Where a point and a
# rival have a bar here and another in `bars_of`, the higher one holds.
MEASURES = {"training": "epoch_seconds", "inference": "inference_seconds", "memory": "peak_bytes"}
BARS = {
    ("default", "libcirkit"): (6, 5, 6),
    ("default", "libcirkit-compiled"): (3, 2, 2),
    ("default", "spflow"): (10, 5, 6),
    ("K=40", "libcirkit"): (8, 5, 4),
    ("K=40", "log-domain"): (10, 5, 4),
    ("R=40", "libcirkit"): (15, 5, 4),
}


def bars_of(point: Point, rival: str) -> dict[str, int]:
    """The factors by which einet is to be ahead of a rival; empty where nothing was promised.

    Against everyone who is not compiled: training 6x wherever K >= 10, R >= 10 and the depth is 4, and 3x at depth 9;
    there, inference 5x and memory 4x.
    """
    bars = BARS.get((str(point), rival), (0, 0, 0))
    large = point.depth == 4 and point.num_sums >= 10 and point.num_replicas >= 10
    if rival not in COMPILED and (large or str(point) == "depth=9"):
        bars = [max(pair) for pair in zip(bars, (6 if large else 3, 5, 4), strict=True)]
    return {what: bar for what, bar in zip(MEASURES, bars, strict=True) if bar}


def surroundings(threads: int = THREADS) -> dict[str, str]:
    """The environment variables of a worker."""
    limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
    return {**os.environ, **limits, **python_path()}


class Contestant:
    """A worker process, and what it has said so far. Once anything goes wrong, it is asked no more: see `status`."""

    race = "rat"  # which contestants the worker knows
    script = "efficiency.py"  # of experiments/, for the records

    @staticmethod
    def of_point(point: Point) -> dict:
        """What a contestant is made with."""
        return {"num_variables": NUM_VARIABLES, **asdict(point)}

    def __init__(self, name: str, point: Point, options: argparse.Namespace):
        self.name, self.facts, self.cpu_seconds = name, {}, 0.0
        self.epochs, self.inferences = [], []
        self.batches = self.calls = 0
        settings = {
            "name": name,
            "race": self.race,
            "point": self.of_point(point),
            "device": options.device,
            "seed": options.seed,
            "threads": options.threads,
            "num_samples": NUM_SAMPLES,
            "batch_size": BATCH_SIZE,
            "command": command_line(script=self.script),
        }
        python, self.status = environment(name, options.no_venv)
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [python, str(HERE / "worker.py"), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=surroundings(options.threads),
        )

    def build(self, options: argparse.Namespace) -> None:
        """Build the model and plan the rounds: a whole epoch and 20 inferences, or what fits into a round."""
        self.facts = self.ask("introduce", options.timeout) | self.ask("build", options.timeout)
        if self.status == "ok":
            fitting = int(options.round_seconds / self.facts.pop("batch_seconds"))
            self.batches = max(1, min(NUM_BATCHES, fitting))
            self.calls = max(2, min(20, int(options.infer_seconds / self.facts.pop("inference_seconds"))))

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
            "provenance": provenance(None, time.time(), device=device, packages=()),  # replaced by the worker's
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
    compare(point, records)
    for record in records:
        record["provenance"] |= {"seconds": round(time.time() - started, 1), "load": load}
    return records


def compare(point: Point, records: list[dict]) -> None:
    """Give each rival `ratios`, by how many times einet is faster or smaller at this point, and `bars` to meet."""
    ours = next((r for r in records if r["implementation"] == "einet" and r["status"] == "ok"), None)
    for record in records:
        both = (record, ours) if ours and record is not ours and record["status"] == "ok" else ()
        known = [(what, *(r[key] for r in both)) for what, key in MEASURES.items() if both]
        record["ratios"] = {what: theirs / own for what, theirs, own in known if theirs and own}
        record["bars"] = bars_of(point, record["implementation"]) if record is not ours else {}


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
    for rival in records:
        if rival["ratios"]:
            say(f"  einet against {rival['implementation']}: {ratios(rival)}")


def ratios(rival: dict) -> str:
    parts = []
    for what, factor in rival["ratios"].items():
        bar = rival["bars"].get(what)
        verdict = "" if bar is None else f" (bar {bar}: {'met' if factor >= bar else 'SHORT'})"
        parts.append(f"{what} {factor:.1f}x{verdict}")
    return ", ".join(parts)


def warnings_of(records: list[dict]) -> Iterable[str]:
    """What would make the numbers less than fair."""
    counts = {(r["sum_weights"], r["leaf_parameters"]) for r in records if r["status"] == "ok" and r["sum_weights"]}
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


def is_at(record: dict, point: Point, names: Iterable[str], device: str) -> bool:
    same = all(record[key] == value for key, value in asdict(point).items())
    return same and record["device"] == device and record["implementation"] in names


def save(path: Path, point: Point, records: list[dict], device: str) -> None:
    """Put the records of one point in the place of those it had; the file is never half written."""
    names = [record["implementation"] for record in records]
    kept = [record for record in read_records(path) if not is_at(record, point, names, device)]
    write_records(path, sorted(kept + records, key=place_in_the_sweep))


def place_in_the_sweep(record: dict) -> tuple:
    """Where a record stands in the file: K varies first, the default point among its values, then depth, then R."""
    values = tuple(record[name] for name in SWEEP)
    changed = [place for place, name in enumerate(SWEEP) if record[name] != getattr(DEFAULT, name)]
    return record["device"], max(changed, default=0), values, NAMES.index(record["implementation"])


def merge(path: Path, records: list[dict]) -> None:
    """`save` for the records of another file, point by point. They are taken whole: their ratios are of one run."""
    points: dict[tuple, list[dict]] = {}
    for record in records:
        points.setdefault((Point(**{name: record[name] for name in SWEEP}), record["device"]), []).append(record)
    for (point, device), of_the_point in points.items():
        save(path, point, of_the_point, device)


def lay_floor(options: argparse.Namespace) -> None:
    """floor.json beside the results, unless it is there: the bounds of all points of the sweep."""
    path = options.output.with_name("floor.json")
    if options.device == "cpu" and (options.redo or not path.exists()):
        python, _ = environment("einet", options.no_venv)
        points = ",".join(f"{p.num_sums}/{p.depth}/{p.num_replicas}" for p, _ in plan(options))
        command = [python, str(HERE / "floor.py"), "--points", points, "--output", str(path)]
        subprocess.run(command, check=True, env={**os.environ, **python_path()})


# Command line


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
    add("--full", action="store_true", help=f"the whole sweep for all, into {RESULTS.relative_to(ROOT)}")
    add("--points", help="instead: some points, such as default,K=40,depth=9")
    add("--only", help=f"some contestants of {','.join(NAMES)}")
    add("--device", default="cpu", help="cpu or cuda")
    add("--rounds", type=int, default=5, help="turns that each contestant takes")
    add("--round-seconds", type=float, default=1.0, help="training time in a turn, at most, beyond one batch")
    add("--infer-seconds", type=float, default=0.3, help="inference time in a turn, at most, beyond two batches")
    add("--timeout", type=float, default=300.0, help="seconds to wait for any answer of a contestant")
    add("--threads", type=int, default=THREADS)
    add("--seed", type=int, default=0)
    add("--merge", type=Path, nargs="+", metavar="FILE", help="run nothing; add the records of other files")
    results = RESULTS.relative_to(ROOT)
    add("--output", type=Path, nargs="?", const=RESULTS, help=f"results file, {results} if not named; default: none")
    add("--redo", action="store_true", help="run points again that the results file has")
    add("--no-venv", action="store_true", help="use the running interpreter, whatever it lacks")
    options = parser.parse_args()
    if not (options.quick or options.full or options.points or options.merge):
        parser.error("say --quick, --full, --points or --merge")
    options.names = options.only.split(",") if options.only else list(NAMES)
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no contestant {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if (options.full or options.merge) and options.output is None:
        options.output = RESULTS
    return options


def plan(options: argparse.Namespace) -> list[tuple[Point, list[str]]]:
    """Which contestants meet at which points, in order."""
    if options.points:
        return [(parse_point(text), options.names) for text in options.points.split(",")]
    if options.full:
        points = [replace(DEFAULT, **{name: value}) for name, values in SWEEP.items() for value in values]
        return [(point, in_full(point, options.names)) for point in dict.fromkeys(points)]  # the default point once
    return [(point, [name for name in names if name in options.names]) for point, names in QUICK]


def in_full(point: Point, names: list[str]) -> list[str]:
    """Who runs at a point of the sweep: compiling takes long, so that who compiles leaves some points out."""
    compiled = all(getattr(point, name) in values for name, values in COMPILED_AT.items())
    return [name for name in names if compiled or name not in COMPILED]


def main() -> None:
    options = parse_arguments()
    if options.merge:
        for file in options.merge:
            merge(options.output, json.loads(file.read_text()))
        return
    if options.full:
        lay_floor(options)
    for point, names in plan(options):
        if options.output and not options.redo:
            done = {r["implementation"] for r in read_records(options.output) if is_at(r, point, names, options.device)}
            if done >= set(names):
                say(f"{point}: in {options.output} already")
                continue
        records = race(point, names, options)
        report(point, records, options.rounds)
        if options.output:
            save(options.output, point, records, options.device)


if __name__ == "__main__":
    main()
