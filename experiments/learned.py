"""Binary data sets by learned trees: `einet.chow_liu`, thin layers, one model a set, chosen on validation rows.

    python experiments/learned.py                       all sets of RECIPES; start it again to go on
    python experiments/learned.py --only dna,plants     some of them

Each recipe of a set is trained once and kept in data/runs/learned, which git ignores; the one with the best
log-likelihood of the validation rows is asked for the test rows, once, and becomes the set's record in
book/results/learned.json, with the validation of all.

Source: not in the paper; the data sets are those of Table 1
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

import einet
from einet.datasets import debd
from experiments.provenance import provenance
from experiments.records import ROOT, read_records, say, write_records, write_whole

RESULTS, RUNS = ROOT / "book" / "results" / "learned.json", ROOT / "data" / "runs" / "learned"


@dataclass(frozen=True)
class Recipe:
    """One model: trees below one root, states a variable, and how it is trained. Pseudocounts are those of a step."""

    num_trees: int = 8
    num_sums: int = 16
    pseudocount: float = 0.001
    leaf_pseudocount: float = 0.0
    batch_size: int = 500
    epochs: int = 25
    lr: float = 0.8
    last_lr: float = 0.05
    concentration: float = 0.03
    patience: int = 6
    seed: int = 0
    momentum: float = 0.0
    full_batches: int = 0  # at most so many steps of size 1 of all rows at the end, where validation rows gain


# On what was seen of validation rows: few rows want larger pseudocounts, sets of kinds of rows want more trees.
RECIPES = {
    "dna": [Recipe(num_sums=8, pseudocount=0.05, epochs=40), Recipe(num_sums=8, pseudocount=0.1, epochs=40)],
    "plants": [
        Recipe(batch_size=200),
        Recipe(num_sums=24, pseudocount=0.0005, epochs=20, lr=0.7, concentration=0.02),
    ],
    "accidents": [Recipe(num_trees=4, pseudocount=0.003)],
    "pumsb_star": [Recipe(num_trees=4, pseudocount=0.001, epochs=30)],
    "kosarek": [Recipe(num_trees=4, pseudocount=0.0003, leaf_pseudocount=0.01, batch_size=1000)],
    "ad": [Recipe(num_trees=1, pseudocount=0.0003, leaf_pseudocount=0.01, batch_size=820, lr=0.9, last_lr=0.2)],
    "tmovie": [
        Recipe(num_trees=4, num_sums=8, pseudocount=0.03, leaf_pseudocount=0.03, batch_size=1000),
        Recipe(num_sums=8, pseudocount=0.1, leaf_pseudocount=0.1, batch_size=1000, epochs=40, lr=0.9, last_lr=0.1),
    ],
}


def trained(name: str, recipe: Recipe) -> tuple[einet.Einet, dict]:
    """The model of a recipe, and what its training came to; from data/runs where it was made before."""
    file = RUNS / name / ("-".join(str(value) for value in asdict(recipe).values()) + ".safetensors")
    told = file.with_suffix(".json")
    if told.exists():
        return einet.load(file), json.loads(told.read_text())
    began = time.perf_counter()
    train, valid = debd(name, "train"), debd(name, "valid")
    graph = einet.chow_liu(train, num_trees=recipe.num_trees, seed=recipe.seed)
    model = einet.Einet(
        graph,
        einet.Bernoulli(),
        recipe.num_sums,
        seed=recipe.seed,
        sum_product="cp",
        concentration=recipe.concentration,
    )
    einet.start_leaves(model, train, seed=recipe.seed)
    settings = {
        "valid": valid,
        "pseudocount": recipe.pseudocount,
        "leaf_pseudocount": recipe.leaf_pseudocount,
        "seed": recipe.seed,
        "progress": False,
    }
    history = einet.fit(
        model,
        train,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        lr=recipe.lr,
        last_lr=recipe.last_lr,
        momentum=recipe.momentum,
        patience=recipe.patience,
        **settings,
    )
    best = max(history.valid)
    if recipe.full_batches:
        before = copy.deepcopy(model)
        end = einet.fit(model, train, epochs=recipe.full_batches, batch_size=None, lr=1.0, **settings)
        model, best = (model, max(end.valid)) if max(end.valid) > best else (before, best)
    found = {
        "recipe": asdict(recipe),
        "validation_log_likelihood": round(best, 5),
        "best_epoch": history.best_epoch + 1,
        "epochs": len(history.valid),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(time.perf_counter() - began, 1),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    einet.save(model, file)
    write_whole(told, json.dumps(found))
    say(f"{name:12}{found['validation_log_likelihood']:10.3f}  {found['seconds']:6.0f} s  {recipe}")
    return model, found


def record(name: str, recipes: list[Recipe]) -> dict:
    """The best of the recipes by validation, and its log-likelihood of the test rows."""
    began = time.time()
    model, found = max((trained(name, recipe) for recipe in recipes), key=lambda m: m[1]["validation_log_likelihood"])
    rows = einet.log_density(model, debd(name, "test")).double()
    return {
        "dataset": name,
        "test_log_likelihood": round(rows.mean().item(), 5),
        "standard_error": round(rows.std().item() / len(rows) ** 0.5, 5),
        **found,
        "tried": [trained(name, recipe)[1] for recipe in recipes],
        "provenance": provenance(found["recipe"]["seed"], began),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", help="some of the sets " + ",".join(RECIPES))
    add("--epochs", type=int, help="other than the recipes', for a quick look")
    add("--output", type=Path, default=RESULTS, help="results file")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(RECIPES)
    if set(names) - RECIPES.keys():
        parser.error(f"unknown: {', '.join(sorted(set(names) - RECIPES.keys()))}")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    done = {each["dataset"] for each in read_records(options.output)}
    for name in names:
        if name in done:
            continue
        recipes = [replace(r, epochs=options.epochs or r.epochs) for r in RECIPES[name]]
        found = record(name, recipes)
        write_records(options.output, [*read_records(options.output), found])
        say(f"{name:12}test {found['test_log_likelihood']:.3f} +- {found['standard_error']:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
