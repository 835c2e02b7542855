"""How training should start: weights from Dirichlet distributions of several concentrations, leaves around rows or not.

    python experiments/starts.py --plan                         what there is to do
    python experiments/starts.py --hours 1                      stop when the time is up; start it again to go on
    python experiments/starts.py --only dna,plants --structures rat-1,rat-4 --starts flat,0.1+rows

Every combination of a data set, a structure and a start is trained once, by one recipe (`RECIPE`), and becomes a record
of book/results/starts.json: the log-likelihood of validation rows at the best epoch, which is what starts are compared
by, and that of the test rows. What is there is not done again.

    sets         the twenty binary ones; "digits" and "fashion" are images, whose structures are those of IMAGES
    structures   rat-1 to rat-4: random binary trees of this depth, full (Tucker) layers; rat-1-cp ...: thin ones
                 tree: the Chow-Liu tree of the training rows, thin layers; pd, pd-cp: rectangles of an image
    starts       flat: `Einet` as it always was; 0.1: weights of this concentration; +rows: leaves around rows

Paper: Section 3.5 for the steps
Chapter: book/07_em
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

import torch

import einet
from einet.datasets import debd, debd_sources, digits, fashion_mnist
from experiments.provenance import provenance
from experiments.records import ROOT, read_records, say, write_records

RESULTS = ROOT / "book" / "results" / "starts.json"
RECIPE = {"epochs": 20, "patience": 4, "batch_size": 200, "lr": 0.5, "pseudocount": 0.001}
SIZES = {"num_sums": 8, "num_replicas": 8}
IMAGES = {"digits": ((8, 8), 2, 16), "fashion": ((28, 28), 7, 255)}  # shape, delta of the rectangles, largest value
BINARY = list(dict.fromkeys(name for name, _ in debd_sources()))
STRUCTURES = [f"rat-{depth}{kind}" for kind in ("", "-cp") for depth in (1, 2, 3, 4)] + ["tree", "pd", "pd-cp"]
CONCENTRATIONS = {"flat": 1.0, "0.3": 0.3, "0.1": 0.1, "0.03": 0.03}
STARTS = [weights + leaves for weights in CONCENTRATIONS for leaves in ("", "+rows")]
KEY = ("dataset", "structure", "start", "rows", "seed")


def splits(name: str, rows: int) -> list[torch.Tensor]:
    """Training rows, at most so many, validation rows and test rows."""
    if name in BINARY:
        train, valid, test = (debd(name, split) for split in ("train", "valid", "test"))
        return [train[:rows], valid, test]
    if name == "digits":
        x, _ = digits()
        x, sizes = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))], (1200, 297, 300)
        train, valid, test = x.flatten(1).split(sizes)
        return [train[:rows], valid, test]
    x, _ = fashion_mnist("train")
    test, _ = fashion_mnist("test")
    return [x.flatten(1)[:-5000][:rows], x.flatten(1)[-5000:], test.flatten(1)]


def fits(name: str, structure: str) -> bool:
    return structure.startswith("pd") == (name in IMAGES) or structure == "tree"


def network(name: str, structure: str, start: str, x: torch.Tensor, seed: int) -> einet.Einet:
    """The model as training begins."""
    shape, delta, largest = IMAGES.get(name, (None, None, 1))
    kind, _, rest = structure.partition("-")
    if kind == "pd":
        graph = einet.poon_domingos(shape, delta)
    elif kind == "tree":
        graph = einet.chow_liu(x)
    else:
        graph = einet.random_binary_trees(x.shape[1], int(rest[0]), SIZES["num_replicas"], seed=seed)
    leaf = einet.Bernoulli() if largest == 1 else einet.Binomial(largest)
    thin = kind == "tree" or structure.endswith("-cp")
    weights, _, rows = start.partition("+")
    model = einet.Einet(
        graph,
        leaf,
        SIZES["num_sums"],
        seed=seed,
        sum_product="cp" if thin else "tucker",
        concentration=CONCENTRATIONS[weights],
    )
    if rows:
        einet.start_leaves(model, x, seed=seed)
    return model


def measured(name: str, structure: str, start: str, rows: int, seed: int) -> dict:
    """The record of one training."""
    began = time.time()
    train, valid, test = splits(name, rows)
    model = network(name, structure, start, train, seed)
    steps = {key: RECIPE[key] for key in ("lr", "pseudocount")}
    optimizer = einet.EM(model, **steps)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, RECIPE["epochs"])
    history = einet.fit(
        model,
        train,
        valid=valid,
        epochs=RECIPE["epochs"],
        batch_size=RECIPE["batch_size"],
        patience=RECIPE["patience"],
        optimizer=optimizer,
        scheduler=falling,
        seed=seed,
        progress=False,
    )
    return {
        "dataset": name,
        "structure": structure,
        "start": start,
        "rows": len(train),
        "seed": seed,
        "validation_log_likelihood": round(max(history.valid), 5),
        "test_log_likelihood": round(einet.log_density(model, test).double().mean().item(), 5),
        "train_log_likelihood": round(history.train[history.best_epoch], 5),
        "best_epoch": history.best_epoch + 1,
        "epochs": len(history.valid),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "settings": RECIPE | SIZES | {"decay": "linear to 0.1 of lr"},
        "seconds": round(sum(history.seconds), 1),
        "provenance": provenance(seed, began),
    }


def table(records: list[dict]) -> str:
    """How much better than the flat start each other start is, in nats of validation: the mean over sets and seeds."""
    found = {tuple(record[name] for name in KEY): record["validation_log_likelihood"] for record in records}
    lines = [f"{'structure':12}{'sets':>5}" + "".join(f"{start:>11}" for start in STARTS)]
    for structure in STRUCTURES:
        cases = [key for key in found if key[1] == structure and key[2] == "flat"]
        cells = []
        for start in STARTS:
            pairs = [((key[0], structure, start, key[3], key[4]), key) for key in cases]
            gains = [found[other] - found[key] for other, key in pairs if other in found]
            cells.append(f"{sum(gains) / len(gains):+11.3f}" if gains else f"{'-':>11}")
        if cases:
            lines.append(f"{structure:12}{len({key[0] for key in cases}):5}" + "".join(cells))
    return "\n".join(lines)


def main() -> int:
    options = parse_arguments()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    records = read_records(options.output)
    done = {tuple(record[name] for name in KEY) for record in records}
    cases = [
        (name, structure, start, min(options.rows, len(splits(name, options.rows)[0])), seed)
        for seed, name in itertools.product(options.seeds, options.names)
        for structure, start in itertools.product(options.structures, options.starts)
        if fits(name, structure)
    ]
    waiting = [case for case in cases if case not in done]
    say(f"{len(records)} records in {options.output}; {len(waiting)} of {len(cases)} to do")
    for case in waiting if not options.plan else ():
        if time.time() >= options.deadline:
            say("the time is up; the next call goes on from here")
            break
        record = measured(*case)
        records = [*records, record]
        write_records(options.output, records)
        say(f"{' '.join(map(str, case)):45} {record['validation_log_likelihood']:9.3f} {record['seconds']:7.1f} s")
    say(table(records))
    return 0


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add, several = parser.add_argument, lambda text: text.split(",")
    add("--plan", action="store_true", help="say how much there is to do, and what was found so far")
    add("--only", type=several, dest="names", default=[*BINARY, *IMAGES], help="some of the sets")
    add("--structures", type=several, default=STRUCTURES, help="some of " + ",".join(STRUCTURES))
    add("--starts", type=several, default=STARTS, help="some of " + ",".join(STARTS))
    add("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0])
    add("--rows", type=int, default=3000, help="at most so many training rows")
    add("--hours", type=float, default=float("inf"), help="stop cleanly after so long")
    add("--output", type=Path, default=RESULTS, help="results file")
    options = parser.parse_args(arguments)
    known = {*BINARY, *IMAGES, *STRUCTURES, *STARTS}
    unknown = {*options.names, *options.structures, *options.starts} - known
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    options.deadline = time.time() + 3600 * options.hours
    return options


if __name__ == "__main__":
    sys.exit(main())
