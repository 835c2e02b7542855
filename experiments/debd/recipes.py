"""Learned trees on the twenty sets: what a recipe is, which ones each set tries, and what one costs.

Every recipe here was found on training and validation rows. Few rows want larger pseudocounts and fewer states, sets
whose columns form chains want few trees with many states, and sets of kinds of rows want many trees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from experiments.debd.search import Size


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
    bagged: bool = False  # whether all trees are those of rows drawn with replacement, not the first one's of all rows
    depth: int = 0  # of random binary trees in the place of learned ones, with full layers: members of mixtures alone
    momentum: float = 0.0
    full_batches: int = 0  # at most so many steps of size 1 of all rows at the end, where validation rows gain


CHAINS = Recipe(num_trees=4)
KINDS = Recipe(num_sums=8, pseudocount=0.003, leaf_pseudocount=0.01)
FEW_ROWS = Recipe(num_sums=8, pseudocount=0.1, leaf_pseudocount=0.1, epochs=40, lr=0.9, last_lr=0.1)
# Small steps and few states: where rows are few and columns many, large ones learn the rows by heart.
SLOW = Recipe(num_sums=4, pseudocount=0.05, leaf_pseudocount=0.05, batch_size=200, lr=0.3, last_lr=0.03)

# The first of a set is what `--quick` trains; variations of the best one follow (`around`).
RECIPES: dict[str, tuple[Recipe, ...]] = {
    "nltcs": (
        Recipe(num_sums=32, pseudocount=0.0003, epochs=15, lr=0.5),
        Recipe(pseudocount=0.03),
    ),
    "msnbc": (replace(CHAINS, epochs=5, batch_size=2000),),
    "kdd": (replace(CHAINS, num_sums=8, leaf_pseudocount=0.01, batch_size=2000, epochs=6),),
    "plants": (
        Recipe(batch_size=200),
        Recipe(num_sums=24, pseudocount=0.0005, epochs=20, lr=0.7, concentration=0.02),
    ),
    "jester": (
        KINDS,
        replace(KINDS, pseudocount=0.03, leaf_pseudocount=0.03),
        replace(KINDS, pseudocount=0.1, leaf_pseudocount=0.1, last_lr=0.02),
        replace(KINDS, pseudocount=0.03, leaf_pseudocount=0.03, num_sums=16, epochs=35),
    ),
    "baudio": (KINDS, replace(KINDS, pseudocount=0.03, leaf_pseudocount=0.03)),
    "bnetflix": (replace(KINDS, pseudocount=0.01, leaf_pseudocount=0.03),),
    "accidents": (replace(CHAINS, pseudocount=0.003),),
    "tretail": (replace(CHAINS, num_sums=8, leaf_pseudocount=0.01, batch_size=1000, epochs=12),),
    "pumsb_star": (replace(CHAINS, epochs=30),),
    "dna": (
        Recipe(num_sums=8, pseudocount=0.1, epochs=40),
        Recipe(num_sums=8, pseudocount=0.05, epochs=40),
    ),
    "kosarek": (replace(CHAINS, pseudocount=0.0003, leaf_pseudocount=0.01, batch_size=1000),),
    "msweb": (replace(CHAINS, num_sums=8, leaf_pseudocount=0.01, batch_size=1000, epochs=10),),
    "book": (replace(KINDS, num_trees=4, pseudocount=0.01, leaf_pseudocount=0.03, batch_size=1000, epochs=20),),
    "tmovie": (
        replace(KINDS, num_trees=4, pseudocount=0.03, leaf_pseudocount=0.03, batch_size=1000),
        replace(FEW_ROWS, batch_size=1000),
    ),
    "cwebkb": (replace(FEW_ROWS, num_trees=4, batch_size=1000), SLOW),
    "cr52": (
        replace(FEW_ROWS, num_trees=4, batch_size=1000, epochs=20),
        replace(SLOW, pseudocount=0.03, leaf_pseudocount=0.03, epochs=20),
    ),
    "c20ng": (replace(FEW_ROWS, num_trees=4, pseudocount=0.03, batch_size=1000, epochs=12),),
    "bbc": (
        replace(SLOW, epochs=40),
        replace(SLOW, epochs=20),
        replace(FEW_ROWS, num_trees=4, batch_size=1000),
    ),
    "ad": (Recipe(num_trees=1, pseudocount=0.0003, leaf_pseudocount=0.01, batch_size=820, lr=0.9, last_lr=0.2),),
}
# What a set's mixture takes in beside its own recipes: random trees, where rows fall into kinds.
RANDOM = Recipe(
    depth=1, num_trees=20, num_sums=40, pseudocount=0.00001, leaf_pseudocount=0.1, batch_size=100, epochs=30, lr=0.2,
    last_lr=0.02, concentration=1.0,
)  # fmt: skip
MEMBERS = dict.fromkeys(("jester", "bbc"), (RANDOM,))
# How often it takes in the best recipe once more.
AGAIN = 4


def around(recipe: Recipe) -> tuple[Recipe, ...]:
    """Twice the states; larger pseudocounts, smaller ones; twice the trees."""
    return (
        replace(recipe, num_sums=2 * recipe.num_sums),
        replace(recipe, pseudocount=3 * recipe.pseudocount, leaf_pseudocount=3 * (recipe.leaf_pseudocount or 0.01)),
        replace(recipe, pseudocount=recipe.pseudocount / 3, leaf_pseudocount=recipe.leaf_pseudocount / 3),
        replace(recipe, num_trees=2 * recipe.num_trees),
    )


def again(recipe: Recipe, times: int) -> tuple[Recipe, ...]:
    """The same with other seeds, and with trees of rows drawn with replacement."""
    return tuple(replace(recipe, seed=recipe.seed + 1 + time, bagged=True) for time in range(times))


def cost_of(recipe: Recipe, size: Size) -> float:
    """Seconds of a training to its last epoch on one core, by a model fitted to measured ones (within 2x)."""
    cells = size.variables * recipe.num_trees * recipe.num_sums
    products = recipe.depth and recipe.num_trees * recipe.num_sums**2
    steps = -(-size.rows // recipe.batch_size)
    return recipe.epochs * ((size.rows + size.valid_rows / 3) * (1e-8 * cells + 2e-9 * products) + 0.01 * steps)
