"""Table 1: twenty binary data sets, three learners on random binary trees and two on learned ones.

    python experiments/debd.py --plan              what it will cost, at most
    python experiments/debd.py                     everything, into book/results/debd.json; start it again to go on
    python experiments/debd.py --hours 8           stop cleanly when the time is up
    python experiments/debd.py --quick             nltcs and dna, small searches, a minute of one core, into data/runs
    python experiments/debd.py --only dna,ad --learners learned,ensemble
    python -m experiments.debd.table               what has been found, beside what is published

The learners, three on the same random structures (search.py has all that they try), two on trees learned from rows:
    rat-spn   full-batch EM, over RAT-SPN's grid of structures
    einet     stochastic EM, over the same grid, with step and batch size
    best      as good as we can: larger structures, pseudocounts, a step size that falls
    learned   Chow-Liu trees with thin layers (recipes.py has what each set tries), one model
    ensemble  all models of `learned`, and others of their kind, as one mixture

Structure, settings, epoch and weights of a mixture are chosen by validation log-likelihood; the test rows are looked at
once, by the model that was chosen. Their log-likelihoods, row by row, are in book/results/debd_rows/, for paired tests.

What each training came to is kept in data/runs/debd, which git ignores, and never done twice; a long training goes on
where it was. Nothing but this script writes book/results/debd.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, replace
from pathlib import Path

import torch

from einet.data import log_density
from einet.datasets import debd, debd_sources
from einet.mixture import Mixture
from einet.network import Einet
from experiments.debd.learned import Trees, ensemble, learned
from experiments.debd.recipes import AGAIN, MEMBERS, RECIPES, around, cost_of
from experiments.debd.search import Candidate, Result, Size, best, cost, einet, rat_spn
from experiments.debd.table import RESULTS, paired_t_test, read_rows, table, write_rows
from experiments.debd.training import OutOfTime, Search
from experiments.provenance import provenance
from experiments.records import ROOT, command_line, read_records, say, write_records

RUNS = ROOT / "data" / "runs"
ON_RANDOM_TREES, ON_LEARNED_TREES = ("rat-spn", "einet", "best"), ("learned", "ensemble")
LEARNERS = (*ON_RANDOM_TREES, *ON_LEARNED_TREES)
# Whose rows a learner's are compared with, pair by pair, where these are there.
RIVALS = {"einet": "rat-spn", "learned": "best", "ensemble": "learned"}


def walk(learner: str, run, size: Size, quick: bool) -> Result:
    """The search of a learner, by whatever `run` does; the result it chooses. What `best` builds on comes first."""
    if learner == "best":
        found = {name: walk(name, run, size, quick) for name in LEARNERS[:2]}
        return max(best(run, size, quick, found), key=lambda result: result.valid)
    return {"rat-spn": rat_spn, "einet": einet}[learner](run, size, quick)[0]


def size_of(name: str) -> Size:
    train, valid = (debd_sources()[name, split] for split in ("train", "valid"))
    return Size(train.rows, valid.rows, train.variables)


# One task: a learner on a set


def task(name: str, learner: str, options: argparse.Namespace) -> tuple[dict, list[float]]:
    """The record of one learner on one set, and the log-likelihoods of the test rows. Runs in a process of its own."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    started = time.time()
    choose = on_learned_trees if learner in ON_LEARNED_TREES else on_random_trees
    model, chosen = choose(name, learner, options)
    rows = of_test_rows(name, model, options.device)
    record = {
        "dataset": name,
        "learner": learner,
        "test_log_likelihood": round(rows.mean().item(), 5),
        "standard_error": round(rows.std().item() / len(rows) ** 0.5, 5),
        **chosen,
        "provenance": provenance(options.seed, started, device=options.device, command=options.command),
    }
    return record, rows.tolist()


def on_random_trees(name: str, learner: str, options: argparse.Namespace) -> tuple[Einet, dict]:
    """The model that a search over random binary trees chooses, and what its record says of it."""
    search = Search(name, options.runs / "debd" / name, options.deadline, options.device, options.seed)
    chosen = walk(learner, search.run, search.size, options.quick)
    settings = asdict(chosen.candidate) | {
        "num_rows": chosen.candidate.rows or search.size.rows,
        "best_epoch": chosen.best_epoch,
        "validation_log_likelihood": round(chosen.valid, 5),
        "candidates": len(search.results),
    }
    told = {
        "settings": settings | called(options),
        "parameters": chosen.parameters,
        "seconds": round(search.seconds, 1),
    }
    return search.model_of(chosen), told


def on_learned_trees(name: str, learner: str, options: argparse.Namespace) -> tuple[Einet | Mixture, dict]:
    """The model that the validation rows choose of a set's recipes, or a mixture; and what its record says of it."""
    train, valid = (debd(name, split).to(options.device) for split in ("train", "valid"))
    trees = Trees(name, options.runs / "debd" / name, train, valid, options.deadline)
    recipes, more = (
        [replace(recipe, seed=recipe.seed + options.seed) for recipe in some]
        for some in (RECIPES[name][: 1 if options.quick else None], MEMBERS.get(name, ()))
    )
    if learner == "learned":
        model, told = learned(trees, recipes, options.around)
    else:
        model, told = ensemble(trees, recipes, options.around, more, options.again)
    return model, told | {"settings": told["settings"] | called(options)}


def called(options: argparse.Namespace) -> dict:
    """What a record's settings say of the call."""
    return {"search": "quick" if options.quick else "full", "seed": options.seed}


def of_test_rows(name: str, model: Einet | Mixture, device: str) -> torch.Tensor:
    """The log-likelihoods of the test rows, float64: nothing else opens these, and `task` does once, at its end."""
    return log_density(model, debd(name, "test").to(device)).double().cpu()


# All tasks


def run_all(options: argparse.Namespace) -> int:
    """The learners of a set one after another, several sets at a time, the cheap ones first. The number of failures."""
    done = {(record["dataset"], record["learner"]) for record in read_records(options.output)}
    chains = {n: [learner for learner in options.learners if (n, learner) not in done] for n in options.names}
    waiting = [name for name in sorted(options.names, key=planned_seconds) if chains[name]]
    say(f"{len(done)} records in {options.output}; to do: {', '.join(waiting) or 'nothing'}")
    failures, running = 0, {}
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        while waiting or running:
            while waiting and len(running) < options.workers:
                name = waiting.pop(0)
                running[pool.submit(task, name, chains[name][0], options)] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                learner = chains[name].pop(0)
                try:
                    save(options.output, *future.result())
                except OutOfTime:
                    say(f"{name} {learner}: the time is up; the next call goes on from here")
                    continue
                except Exception as error:  # one set that fails leaves the others their night
                    failures += 1
                    say(f"{name} {learner} FAILED: {error!r}")
                    continue
                if chains[name]:
                    waiting.insert(0, name)
    return failures


def save(path: Path, record: dict, rows: list[float]) -> None:
    """The record in the place of an older one, its rows beside it; with the t-test against its rival."""
    name, learner = record["dataset"], record["learner"]
    write_rows(path, name, learner, rows)
    found = read_rows(path, name)
    records = [r for r in read_records(path) if (r["dataset"], r["learner"]) != (name, learner)] + [record]
    order = [name for name, split in debd_sources() if split == "train"]
    records.sort(key=lambda r: (order.index(r["dataset"]), LEARNERS.index(r["learner"])))
    for r in records:
        own, rival = r["learner"], RIVALS.get(r["learner"])
        if r["dataset"] == name and own in found and rival in found:
            r["t_test"] = paired_t_test(found[own], found[rival], against=rival)
    write_records(path, records)
    say(f"{name} {learner}: test {record['test_log_likelihood']:.3f} +- {record['standard_error']:.3f}")


# What it costs


def planned_seconds(name: str, learner: str = "best", quick: bool = False, likely: bool = False) -> float:
    """Core seconds by the model: as if the dearest candidate won every comparison, and none stopped early.

    `likely`: as if the median one won, and stopped at two thirds of its epochs.
    """
    size, seen = size_of(name), {}
    if learner in ON_LEARNED_TREES:
        recipes = RECIPES[name][:1] if quick else [*RECIPES[name], *around(RECIPES[name][0])]
        costs = [cost_of(recipe, size) for recipe in recipes]
        more = [cost_of(recipe, size) for recipe in MEMBERS.get(name, ())] + [max(costs)] * AGAIN
        return sum(costs) + (learner == "ensemble") * sum(more)

    def run(candidates: list[Candidate]) -> list[Result]:
        seen.update((candidate, cost(candidate, size)) for candidate in candidates)
        dearest = sorted(candidates, key=lambda candidate: -seen[candidate])
        order = dearest[len(dearest) // 2 :] + dearest[: len(dearest) // 2] if likely else dearest
        return [Result(c, -place, c.epochs, c.epochs, 0, seen[c]) for place, c in enumerate(order)]

    walk(learner, run, size, quick)
    return sum(seen.values()) * (2 / 3 if likely else 1)


def print_plan(options: argparse.Namespace) -> None:
    """What a run costs; `best` uses what the two before it found, and `ensemble` what `learned` did."""
    say(f"{'core minutes, at most':24}" + "".join(f"{column:>10}" for column in (*LEARNERS, "likely")))
    most = likely = 0.0
    for name in sorted(options.names, key=planned_seconds):
        shares = {learner: planned_seconds(name, learner) for learner in LEARNERS}
        grown = shares["ensemble"]
        shares["best"] -= shares["rat-spn"] + shares["einet"]
        shares["ensemble"] -= shares["learned"]
        most, expected = most + sum(shares.values()), planned_seconds(name, likely=True) + grown
        likely += expected
        say(f"{name:24}" + "".join(f"{share / 60:10.1f}" for share in (*shares.values(), expected)))
    for total, what in ((most, "at most"), (likely, "likely")):
        say(f"{what}: {total / 3600:.1f} core hours, {total / 3600 / options.workers:.1f} on {options.workers} cores")


# Command line


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [name for name, split in debd_sources() if split == "train"]
    add = parser.add_argument
    add("--plan", action="store_true", help="print what a run costs, and run nothing")
    add(
        "--quick",
        action="store_true",
        help="small searches on nltcs and dna, from scratch, beside the results",
    )
    add("--only", help=f"some of the sets {','.join(names)}")
    add("--learners", help=f"some of {','.join(LEARNERS)}")
    how = {"action": argparse.BooleanOptionalAction, "default": True}
    add("--around", **how, help="try variations of a set's best recipe, too; not with --quick")
    add("--again", type=int, default=AGAIN, help="an ensemble trains the best recipe so many times more")
    add("--hours", type=float, default=float("inf"), help="stop cleanly after so long")
    add("--workers", type=int, default=2, help="processes, each with one thread")
    add("--device", default="cpu", help="cpu or cuda")
    add("--seed", type=int, default=0, help="of structures, initial parameters and batches")
    add("--output", type=Path, help=f"results file; by default {RESULTS.relative_to(ROOT)}")
    add("--runs", type=Path, default=RUNS, help="where trainings are kept")
    options = parser.parse_args(arguments)
    options.names = options.only.split(",") if options.only else ["nltcs", "dna"] if options.quick else names
    single = [learner for learner in LEARNERS if learner != "ensemble"]
    options.learners = options.learners.split(",") if options.learners else single if options.quick else [*LEARNERS]
    unknown = set(options.names) - set(names) | set(options.learners) - set(LEARNERS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    options.around = options.around and not options.quick
    options.deadline = time.time() + 3600 * options.hours
    options.command = command_line(arguments, "debd.py")
    if options.quick:
        options.runs = options.runs / "quick"
        shutil.rmtree(options.runs, ignore_errors=True)
    options.output = options.output or (options.runs / RESULTS.name if options.quick else RESULTS)
    return options


def main() -> int:
    options = parse_arguments()
    if options.plan:
        print_plan(options)
        return 0
    failures = run_all(options)
    say(table(read_records(options.output)))
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
