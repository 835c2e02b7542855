"""The race over learned structures: hidden Chow-Liu trees of einet beside those of its rivals, in one run.

    python -m experiments.race.learned                                     all points: a table and the ratios
    python -m experiments.race.learned --points accidents/16,ad/16 --only einet,libcirkit --no-venv

An epoch of 2,000 rows in batches of 100 on accidents and ad (binary, 111 and 1,556 columns) and on fields of 784 pixels
of 256 values; the rules, the rounds and the measures are those of efficiency.py, the contestants in
learned_contestants.py. The floor (floor.py) of the same shapes is printed beside.

sparc-pc is no part of requirements-bench.txt: where it is not installed, it is reported so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.race import efficiency
from experiments.race.efficiency import MEASURES, number, ratios, say, take_turns, warnings_of
from experiments.records import read_records, write_records

NAMES = ("einet", "libcirkit", "libcirkit-compiled", "spflow", "sparc-pc")
BARS = {"libcirkit-compiled": (1.5, 1.5, 2)}  # training, inference, memory; the others:
BAR = (3, 3, 2)


@dataclass(frozen=True)
class LearnedPoint:
    """A data set, and K."""

    data: str
    num_sums: int

    def __str__(self) -> str:
        return f"{self.data}, K={self.num_sums}"


POINTS = (("accidents", 16), ("accidents", 64), ("ad", 16), ("ad", 64), ("pixels", 32))


class Contestant(efficiency.Contestant):
    """A worker with a contestant of learned_contestants.py."""

    race = "learned"
    script = "race/learned.py"

    @staticmethod
    def of_point(point: LearnedPoint) -> dict:
        return asdict(point)


def race(point: LearnedPoint, names: list[str], options: argparse.Namespace) -> list[dict]:
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
    ours = next(record for record in records if record["implementation"] == "einet")
    for record in records:
        record["provenance"] |= {"seconds": round(time.time() - started, 1), "load": load}
        measured = record is not ours and record["status"] == ours["status"] == "ok"
        keys = {what: key for what, key in MEASURES.items() if measured and record[key] and ours[key]}
        record["ratios"] = {what: record[key] / ours[key] for what, key in keys.items()}
        bars = BARS.get(record["implementation"], BAR)
        record["bars"] = {} if record is ours else dict(zip(MEASURES, bars, strict=True))
    return records


def floor(point: LearnedPoint, options: argparse.Namespace) -> dict | None:
    """The bounds of these shapes, from a process of its own, since this one needs no torch."""
    code = (
        "import json; from experiments.race import floor; from experiments.race.learned_contestants import EinetThin\n"
        f"import torch; torch.set_num_threads({options.threads}); torch.set_flush_denormal(True)\n"
        f"model = EinetThin({point.data!r}, {point.num_sums}, 'cpu', 0).model\n"
        "print(json.dumps(floor.bounds(model)))"
    )
    python, status = efficiency.environment("einet", options.no_venv)
    if status != "ok":
        return None
    run = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=False, env=efficiency.surroundings()
    )
    return json.loads(run.stdout.splitlines()[-1]) if run.returncode == 0 else None


def report(point: LearnedPoint, records: list[dict], bounds: dict | None, rounds: int) -> None:
    say(f"\n{point}, medians of {rounds} rounds")
    say(f"{'':20}{'epoch s':>9}{'ms/100':>11}{'MB':>8}{'sum weights':>13}{'leaf params':>13}{'nats':>10}  learner")
    for record in records:
        say(
            f"{record['implementation']:20}{number(record['epoch_seconds'], 9, 3)}"
            f"{number(record['inference_seconds'], 11, 2, 1e5)}{number(record['peak_bytes'], 8, 0, 1e-6)}"
            f"{number(record.get('sum_weights'), 13)}{number(record.get('leaf_parameters'), 13)}"
            f"{number(record.get('log_likelihood'), 10, 1)}  {record.get('learner', '')}"
        )
    if bounds:
        for name in ("peak_seconds", "shape_seconds"):
            say(f"{'floor, ' + name:20}{bounds[name]['epoch']:>9.3f}{1e3 * bounds[name]['inference']:>11.2f}")
    for warning in warnings_of(records):
        say(f"  ! {warning}")
    for rival in records:
        if rival["ratios"]:
            say(f"  einet against {rival['implementation']}: {ratios(rival)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--points", help="such as accidents/16,pixels/32; all by default")
    add("--only", help=f"some contestants of {','.join(NAMES)}")
    add("--device", default="cpu", help="cpu or cuda")
    add("--rounds", type=int, default=5)
    add("--round-seconds", type=float, default=1.0)
    add("--infer-seconds", type=float, default=0.3)
    add("--timeout", type=float, default=300.0)
    add("--threads", type=int, default=efficiency.THREADS)
    add("--seed", type=int, default=0)
    add("--output", type=Path, help="a file for the records; none by default")
    add("--no-venv", action="store_true", help="use the running interpreter, whatever it lacks")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(NAMES)
    given = [text.split("/") for text in options.points.split(",")] if options.points else POINTS
    for data, num_sums in given:
        point = LearnedPoint(data, int(num_sums))
        records = race(point, names, options)
        bounds = floor(point, options)
        report(point, records, bounds, options.rounds)
        if options.output:  # records of other points stay
            of_point = asdict(point).items()
            others = [each for each in read_records(options.output) if not of_point <= each.items()]
            write_records(options.output, [*others, *({**record, "floor": bounds} for record in records)])


if __name__ == "__main__":
    main()
