"""Section 4.2: mixtures of EiNets on images, in bits per dimension, and the models that the book's pages run.

    python experiments/images.py --plan                 the runs and their numbers
    python experiments/images.py                        all runs that are not in book/results/images.json yet
    python experiments/images.py --only house-numbers,fashion-normal
    python experiments/images.py --quick                small ones, in a minute, into data/runs/quick
    python experiments/images.py --kinds                names for the components of the book's models, without training
    python experiments/images.py --only lfw --clusters 100 --rows 5000     another recipe, into data/runs/images.json

The recipe is the paper's: k-means clusters, an EiNet on a Poon-Domingos structure for each, cluster shares as weights,
stochastic EM. Runs named `tree` learn their structures: starts.py says how they begin, blur.py how histograms stay
smooth, measures.py what their samples and their answers are measured by, kinds.py how components get names. Every
number is an argument; recipes.py has the defaults of each run.

A run may be stopped or killed at any time: the same command goes on within the component and epoch it was in, from
data/runs/images, which git ignores. Each run is a process of its own, so that its peak of memory is its own. With
--device cuda networks are trained and asked on a GPU.

Bits per dimension are -log2 p(x) / D. Categorical and binomial pixels are probabilities of bytes, and comparable at
once. Normal pixels have a density over [0, 1): it is of bytes with uniform noise, (v + u) / 256, and 8 bits are added
for the 256 intervals; that is at least what the density's own probabilities of bytes would give (Jensen). Standard
errors are over test rows. lfw and cifar10 need $EINET_DATA; neither they nor pictures of them are passed on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from experiments.images.recipes import CLASSES, NUMBERS, RUNS, Recipe
from experiments.images.training import name_again, run
from experiments.records import ROOT, command_line, read_records, say, write_records

RESULTS = ROOT / "book" / "results" / "images.json"
MODELS = ROOT / "book" / "models"
KEPT = ROOT / "data" / "runs"

# Of glibc, which gives large tensors back to the system after every operation: fresh ones are zeroed page by page. With
# memory that stays, an epoch takes 0.6 of the time at K = 64.
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**29)}

# Small enough for a minute in all, large enough for bits that mean something.
QUICK = {
    "house-numbers": {"rows": 1500, "test_rows": 300, "clusters": 3, "sums": 10, "epochs": 6, "batch": 50},
    "fashion-normal": {"rows": 1000, "test_rows": 300, "sums": 8, "epochs": 4},
    "fashion-factorised": {"rows": 5000, "test_rows": 300},
}

README = """\
# Models

Written by `python experiments/images.py`, which says how they are trained; [images.json](../results/images.json) has
their test log-likelihoods. Parameters are float16. `einet.load` reads them, and so does the inpainter of the pages,
without Python.

| file | run | bytes | SHA-256 |
|---|---|---|---|
"""


def run_all(options: argparse.Namespace) -> int:
    """The runs one after another, each in a new process. The number of those that failed."""
    done = {record["run"] for record in read_records(options.output) if is_of(record, options.recipes)}
    waiting = [name for name in options.names if options.again or name not in done]
    say(f"{len(done)} of {len(options.names)} runs are in {options.output}; to do: {', '.join(waiting) or 'nothing'}")
    failures = 0
    for name in waiting:
        started = time.time()
        try:
            record = in_new_process(name, options)
        except (ValueError, OSError) as error:  # a data set that is not here leaves the others their turn
            failures += 1
            say(f"{name} FAILED: {error}")
            continue
        save(options.output, record)
        if "model" in record:
            (options.models / "README.md").write_text(readme(read_records(options.output)))
        say(f"{told(record)} ({time.time() - started:.0f} s)")
    return failures


def name_all(options: argparse.Namespace) -> int:
    """Names for the components of models that have been written; the number of models."""
    records = [record for record in read_records(options.output) if is_of(record, options.recipes)]
    records = [record for record in records if "model" in record and record["dataset"] in CLASSES]
    for record in records:
        name = record["run"]
        found = name_again(options.recipes[name], options)
        save(options.output, record | found)
        say(f"{name}: {'; '.join(each['name'] for each in found['kinds']['components'])}")
    (options.models / "README.md").write_text(readme(read_records(options.output)))
    return len(records)


def is_of(record: dict, recipes: dict[str, Recipe]) -> bool:
    """Whether a record has the numbers of its recipe; those of rows are what there was, at most what was asked for."""
    if record["run"] not in recipes:
        return False  # nobody asks for it
    recipe, settings = asdict(recipes[record["run"]]), record["settings"]
    numbers = {name: recipe[name] for name in NUMBERS if name not in ("rows", "test_rows")}
    return all(_as_list(settings.get(name, number)) == _as_list(number) for name, number in numbers.items())


def _as_list(value) -> list:
    """Tuples are lists in JSON, and earlier records have a lone delta."""
    return list(value) if isinstance(value, (tuple, list)) else [value]


def in_new_process(name: str, options: argparse.Namespace) -> dict:
    """`run`, where nothing has used memory yet. The process may have helpers, as no worker of a pool could."""
    context = multiprocessing.get_context("spawn")
    os.environ |= {variable: value for variable, value in ALLOCATOR.items() if variable not in os.environ}
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(sender, name, options.recipes[name], options))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        raise OSError(f"its process ended with exit code {process.join() or process.exitcode}") from None
    process.join()
    if isinstance(result, Exception):
        raise result
    return result


def answer(sender, name: str, recipe: Recipe, options: argparse.Namespace) -> None:
    try:
        sender.send(run(name, recipe, options))
    except (ValueError, OSError) as error:
        sender.send(error)


def save(path: Path, record: dict) -> None:
    """The record in the place of an older one of the same run, in the order of the runs."""
    records = [other for other in read_records(path) if other["run"] != record["run"]] + [record]
    records.sort(key=lambda each: list(RUNS).index(each["run"]))
    write_records(path, records)


def readme(records: list[dict]) -> str:
    models = [(record["model"], record["run"]) for record in records if "model" in record]
    return README + "".join(f"| {m['file']} | {run} | {m['bytes']} | `{m['sha256']}` |\n" for m, run in models)


# What is said


def told(record: dict) -> str:
    return (
        f"{record['run']:20} {record['bits_per_dimension']:8.4f} +- {record['bits_standard_error']:.4f} bits, "
        f"{record['test_log_likelihood']:11.1f} nats, {record['parameters']:>10,} parameters, "
        f"{record['seconds']:7.1f} s, {record['peak_memory_mb']:6} MB, {record['samples_per_second']:8.1f} samples/s"
    )


def print_plan(options: argparse.Namespace) -> None:
    for name in options.names:
        recipe = asdict(options.recipes[name])
        say(f"{name}: {recipe['model']} on {recipe['dataset']}, {', '.join(f'{n} {recipe[n]}' for n in NUMBERS)}")


# Command line


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--plan", action="store_true", help="print what would be run, and run nothing")
    add("--quick", action="store_true", help=f"smaller {', '.join(QUICK)}, beside the results")
    add("--only", help=f"some of {','.join(RUNS)}")
    add("--again", action="store_true", help="runs that have a record, too; their trainings are not repeated")
    add("--kinds", action="store_true", help="name the components of the models that are there, and train nothing")
    add("--threads", type=int, default=1, help="of each process")
    add("--processes", type=int, default=2, help="components that are trained at once")
    add("--device", default="cpu", help="cpu or cuda")
    add("--seed", type=int, default=0, help="of data, noise, clusters, parameters and batches")
    add("--quiet", action="store_true", help="no progress bar")
    add("--output", type=Path, help=f"results file; by default {RESULTS.relative_to(ROOT)}, if no number is changed")
    add("--models", type=Path, help=f"where models for the book go; by default {MODELS.relative_to(ROOT)}, likewise")
    add("--runs", type=Path, default=KEPT, help="where trainings are kept")
    for name in NUMBERS:
        kind = type(getattr(RUNS["house-numbers"], name))
        several = {"nargs": "+", "type": int} if kind is tuple else {"type": kind}
        add(f"--{name.replace('_', '-')}", **several, help=f"in place of the recipe's {name}")
    options = parser.parse_args(arguments)
    options.names = options.only.split(",") if options.only else list(QUICK if options.quick else RUNS)
    unknown = sorted(set(options.names) - set(RUNS))
    if unknown:
        parser.error(f"unknown runs: {', '.join(unknown)}")
    given = {name: getattr(options, name) for name in NUMBERS if getattr(options, name) is not None}
    options.recipes = {name: recipe_of(name, options.quick, given) for name in options.names}
    options.command = command_line(arguments, "images.py")
    changed = any(recipe != RUNS[name] for name, recipe in options.recipes.items())
    place(options, into_the_book=not (options.quick or changed))
    return options


def recipe_of(name: str, quick: bool, given: dict) -> Recipe:
    given = {number: tuple(value) if isinstance(value, list) else value for number, value in given.items()}
    return replace(RUNS[name], **(QUICK.get(name, {}) if quick else {}), **given)


def place(options: argparse.Namespace, into_the_book: bool) -> None:
    """Where things go: into the book with the recipes as they are, else beside it."""
    if options.quick:
        options.runs = options.runs / "quick"
    options.output = options.output or (RESULTS if into_the_book else options.runs / RESULTS.name)
    options.models = options.models or (MODELS if into_the_book else options.runs / "models")


def main() -> int:
    options = parse_arguments()
    if options.plan:
        print_plan(options)
        return 0
    if options.kinds:
        return 0 if name_all(options) else 1
    return min(run_all(options), 1)


if __name__ == "__main__":
    sys.exit(main())
