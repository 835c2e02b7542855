"""The fourth and the fifth learner of Table 1: trees learned from rows, as one model, and as a mixture of several.

Every recipe of a set (`recipes`) is trained once and kept in data/runs/debd, which git ignores. One model: the recipe
whose validation rows have the best log-likelihood. Several: all these, and the best recipe with other seeds,
under one root, `einet.Mixture`, whose weights, and nothing else, are fitted to the validation rows by EM. So it is a
circuit with exact marginals, too.

Source: not in the paper
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import einet
from einet.tables.selection import mixing_weights
from experiments.debd.recipes import Recipe, again, around
from experiments.debd.training import OutOfTime
from experiments.records import say, write_whole

# Change it when a change of the code makes earlier trainings worthless.
VERSION = 1
# Members that the mixture hardly uses are left out; steps of EM on its weights, which are few and converge soon.
LEAST_WEIGHT, STEPS = 1e-3, 2000


@dataclass(frozen=True)
class Trained:
    """What the training of a recipe came to. `valid` is the mean log-likelihood of the validation rows."""

    recipe: Recipe
    valid: float
    best_epoch: int
    epochs: int
    parameters: int
    seconds: float


class Trees:
    """The learned trees of one data set, each trained once: `folder` keeps results and models."""

    def __init__(self, name: str, folder: Path, train: Tensor, valid: Tensor, deadline: float = float("inf")):
        self.name, self.folder, self.deadline = name, folder / f"trees-v{VERSION}", deadline
        self.train, self.valid = train, valid

    def result_of(self, recipe: Recipe) -> Trained:
        told = self.path(recipe, "json")
        if not told.exists():
            self._train(recipe)
        content = json.loads(told.read_text())
        return Trained(**content | {"recipe": Recipe(**content["recipe"])})

    def model_of(self, recipe: Recipe) -> einet.Einet:
        self.result_of(recipe)
        return einet.load(self.path(recipe, "safetensors"))

    def path(self, recipe: Recipe, ending: str) -> Path:
        return self.folder / ("-".join(str(value) for value in asdict(recipe).values()) + f".{ending}")

    def _train(self, recipe: Recipe) -> None:
        if time.time() >= self.deadline:
            raise OutOfTime(self.name)
        began, model = time.perf_counter(), initial(recipe, self.train)
        how = {"epochs": recipe.epochs, "batch_size": recipe.batch_size, "lr": recipe.lr, "last_lr": recipe.last_lr}
        how |= {"momentum": recipe.momentum}
        always = {"pseudocount": recipe.pseudocount, "leaf_pseudocount": recipe.leaf_pseudocount}
        always |= {"valid": self.valid, "seed": recipe.seed, "progress": False}
        history = einet.fit(model, self.train, patience=recipe.patience, **how, **always)
        best = max(history.valid)
        if recipe.full_batches:
            before = copy.deepcopy(model)
            end = einet.fit(model, self.train, epochs=recipe.full_batches, batch_size=None, lr=1.0, **always)
            model, best = (model, max(end.valid)) if max(end.valid) > best else (before, best)
        seconds = round(time.perf_counter() - began, 1)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        found = Trained(recipe, round(best, 5), history.best_epoch + 1, len(history.valid), parameters, seconds)
        self.folder.mkdir(parents=True, exist_ok=True)
        einet.save(model, self.path(recipe, "safetensors"))
        write_whole(self.path(recipe, "json"), json.dumps(asdict(found)))
        say(f"{self.name:10} {best:9.3f}  {seconds:6.0f} s  {recipe}")


def initial(recipe: Recipe, train: Tensor) -> einet.Einet:
    """The model of a recipe before its training."""
    rows, layers = train, {"sum_product": "cp"}
    if recipe.bagged:
        generator = torch.Generator().manual_seed(recipe.seed)
        rows = train[torch.randint(len(train), (len(train),), generator=generator)]
    if recipe.depth:
        graph, layers = einet.random_binary_trees(train.shape[1], recipe.depth, recipe.num_trees, seed=recipe.seed), {}
    else:
        graph = einet.chow_liu(rows, num_trees=recipe.num_trees, seed=recipe.seed)
    layers |= {"concentration": recipe.concentration, "seed": recipe.seed}
    model = einet.Einet(graph, einet.Bernoulli(), recipe.num_sums, **layers)
    einet.start_leaves(model, train, seed=recipe.seed)
    return model


# The two learners: a model, and what its record says of it


def learned(trees: Trees, recipes: Sequence[Recipe], wide: bool) -> tuple[einet.Einet, dict]:
    """The recipe that the validation rows like best; `wide`: of variations of the best one, too."""
    results = tried(trees, recipes, wide)
    best = best_of(results)
    settings = asdict(best.recipe) | {
        "best_epoch": best.best_epoch,
        "validation_log_likelihood": best.valid,
        "tried": [asdict(result) for result in results],
    }
    told = {"settings": settings, "parameters": best.parameters, "seconds": _seconds(results)}
    return trees.model_of(best.recipe), told


def ensemble(
    trees: Trees, recipes: Sequence[Recipe], wide: bool, more: Sequence[Recipe], times: int
) -> tuple[einet.Mixture, dict]:
    """All that `learned` tries, and its best some times more, as a mixture whose weights the validation rows choose."""
    results = tried(trees, recipes, wide)
    results += [trees.result_of(recipe) for recipe in (*again(best_of(results).recipe, times), *more)]
    models = [trees.model_of(result.recipe) for result in results]
    rows = torch.stack([einet.log_density(model, trees.valid) for model in models], 1).double()
    weights = fitted_weights(rows)
    kept = [place for place, weight in enumerate(weights.tolist()) if weight >= LEAST_WEIGHT]
    weights = fitted_weights(rows[:, kept])
    mixture = einet.Mixture([models[place] for place in kept], weights)
    settings = {
        "validation_log_likelihood": round(_mixed(rows[:, kept], weights).mean().item(), 5),
        "validation_with_equal_weights": round(_mixed(rows, torch.ones_like(rows[0]) / rows.shape[1]).mean().item(), 5),
        "members": [
            asdict(results[place]) | {"weight": round(weight, 5)}
            for place, weight in zip(kept, weights.tolist(), strict=True)
        ],
        "tried": len(results),
    }
    parameters = sum(parameter.numel() for parameter in mixture.parameters())
    return mixture, {"settings": settings, "parameters": parameters, "seconds": _seconds(results)}


def tried(trees: Trees, recipes: Sequence[Recipe], wide: bool) -> list[Trained]:
    results = [trees.result_of(recipe) for recipe in recipes]
    variations = around(best_of(results).recipe) if wide else ()
    return results + [trees.result_of(recipe) for recipe in variations if recipe not in recipes]


def best_of(results: Sequence[Trained]) -> Trained:
    return max(results, key=lambda result: result.valid)


def fitted_weights(log_densities: Tensor) -> Tensor:
    """The weights (C,) with the best mean log-likelihood of rows, from the components' log-densities (B, C)."""
    return torch.from_numpy(mixing_weights(log_densities.T.cpu().numpy(), steps=STEPS)).to(log_densities)


def _mixed(log_densities: Tensor, weights: Tensor) -> Tensor:
    return torch.logsumexp(log_densities + weights.log(), 1)


def _seconds(results: list[Trained]) -> float:
    return round(sum(result.seconds for result in results), 1)
