"""What experiments/images.py trains, and on what: the paper's recipe with every number in one place.

Pixels are bytes v from 0 to 255. A discrete family gets them as they are. Normal leaves get (v + u) / 256, u uniform
over [0, 1) and drawn once with the seed, so that their density over [0, 1) can be compared with a probability of bytes:
by Jensen's inequality, E_u log p((v + u) / 256) - D log 256 is at most the log-probability that p gives to the bytes v.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from math import prod

import torch
from torch import Tensor

import einet
from book.house_numbers import house_numbers
from einet.datasets import fashion_mnist, find, image_folder

LEVELS = 256
TREE_ROWS = 15_000  # that pairs of pixels are counted in
# Names of the labels of a data set, where these are kinds of things.
CLASSES = {
    "fashion-mnist": (
        *("T-shirt", "trousers", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "boot"),
    ),
}
PARTS = ("real", "samples", "without noise", "nearest")  # of a figure


@dataclass(frozen=True)
class Recipe:
    """One model and its training. The numbers of the paper's Section 4.2 are the defaults, but for rows and clusters.

    model    "einet"; or "factorised", a product of pixels for each class; or "gmm", scikit-learn's Gaussian mixture
    leaves   Normal, Binomial or Categorical
    rows     of training, the first so many; test_rows likewise
    sums     K; of a "gmm" the number of Gaussians, with full covariances if `full`
    delta, axes   of `einet.poon_domingos`, several deltas from coarse to fine; axis 0 is cut into upper and lower parts
    structure     "rectangles", of poon_domingos; or, with rows held out, a "tree" of `einet.chow_liu` for each cluster,
                  "one tree" for all of them, or the "quadrants" of `einet.quad_graph`
    layer    "tucker" or "cp", of such a network; last_lr (0: that of lr) and concentration likewise
    reach    of `starts.start_from_clusters`, where it is not 0
    blur     of `blur.BlurredEM`, where it is not 0
    held_out      the share of each cluster's rows that chooses the epoch
    joint_epochs  of EM of the mixture as a whole, at joint_lr
    """

    dataset: str
    model: str = "einet"
    leaves: str = "Normal"
    rows: int = 60_000
    test_rows: int = 10_000
    clusters: int = 20
    delta: tuple[int, ...] = (8,)
    axes: tuple[int, ...] = (0,)
    sums: int = 40
    epochs: int = 25
    batch: int = 500
    lr: float = 0.5
    decay: float = 1.0
    pseudocount: float = 0.0
    min_variance: float = 1e-6
    max_variance: float = 1e-2
    floor: float = 1e-5  # of the probability of a category
    start_from_rows: bool = True  # as `einet.fit_mixture` has it; the paper starts at random
    full: bool = False
    structure: str = "rectangles"
    layer: str = "tucker"
    last_lr: float = 0.0
    concentration: float = 1.0
    reach: float = 0.0
    blur: float = 0.0
    held_out: float = 0.0
    joint_epochs: int = 0
    joint_lr: float = 0.02
    hidden: bool = False  # whether halves of test images are hidden, and measures taken of what fills them
    export: str = ""  # the file below book/models that the model is written to, in float16
    figure: tuple[str, ...] = PARTS  # what is drawn of it; of some data sets no images may be passed on

    def family(self, channels: int) -> einet.Normal | einet.Binomial | einet.Categorical:
        if self.leaves == "Normal":
            return einet.Normal(channels=channels, min_variance=self.min_variance, max_variance=self.max_variance)
        if self.leaves == "Binomial":
            return einet.Binomial(LEVELS - 1, channels=channels)
        return einet.Categorical(LEVELS, channels=channels, floor=self.floor)


# What is no number.
KINDS = ("dataset", "model", "start_from_rows", "full", "structure", "layer", "hidden", "export", "figure")
NUMBERS = [field.name for field in fields(Recipe) if field.name not in KINDS]


# Data


@dataclass
class Images:
    """Bytes (n, H, W) or (n, H, W, 3) to train and to test on, and their classes where there are some."""

    train: Tensor
    test: Tensor
    labels: Tensor | None = None
    test_labels: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return tuple(self.train.shape[1:3])

    @property
    def channels(self) -> int:
        return prod(self.train.shape[3:])

    @property
    def dimensions(self) -> int:
        return prod(self.train.shape[1:])


def images(recipe: Recipe, seed: int) -> Images:
    """The recipe's rows of its data set. `FileNotFoundError` where a data set is on no disk."""
    return DATASETS[recipe.dataset](recipe.rows, recipe.test_rows, seed)


def _house_numbers(rows: int, test_rows: int, seed: int) -> Images:
    train, labels = house_numbers(rows, 2 * seed)
    return Images(train, house_numbers(test_rows, 2 * seed + 1)[0], labels)


def _fashion_mnist(rows: int, test_rows: int, seed: int) -> Images:
    (train, labels), (test, test_labels) = map(fashion_mnist, ("train", "test"))
    return Images(train[:rows], test[:test_rows], labels[:rows], test_labels[:test_rows])


def _zip(name: str, train: str, test: str, size: int, rows: int, test_rows: int, seed: int) -> Images:
    """A zip below $EINET_DATA, in random order. Where train and test are one folder, the test rows come first."""
    path = find(".", name)
    if path is None:
        raise FileNotFoundError(f"{name} is on no disk here: set EINET_DATA to a folder that holds it")
    parts = [image_folder(path, size, inside=inside)[0] for inside in dict.fromkeys((test, train))]
    shuffled = [part[torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))] for part in parts]
    rest = shuffled[-1] if train != test else shuffled[0][test_rows:]
    return Images(rest[:rows], shuffled[0][:test_rows])


DATASETS = {
    "house-numbers": _house_numbers,
    "fashion-mnist": _fashion_mnist,
    "lfw": partial(_zip, "lfw-128.zip", "lfw-128", "lfw-128", 128),
    "cifar10": partial(_zip, "cifar10.zip", "cifar10/train", "cifar10/test", 32),
}  # fmt: skip


def inputs(images: Tensor, recipe: Recipe, seed: int) -> Tensor:
    """What the recipe's family takes, (n, D) or (n, D, 3), float32."""
    x = images.flatten(1, 2).float()
    if recipe.leaves != "Normal":
        return x
    return x.add_(torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))).div_(LEVELS)


def outputs(x: Tensor, recipe: Recipe, shape: tuple[int, ...]) -> Tensor:
    """Bytes (n, *shape) again, of what a model drew."""
    x = x.reshape(-1, *shape)
    return (x * LEVELS if recipe.leaves == "Normal" else x).floor().clamp(0, LEVELS - 1).to(torch.uint8)


def bits_per_dimension(log_densities: Tensor, recipe: Recipe, dimensions: int) -> Tensor:
    """From nats, (n,): -log2 p / D, and for densities of [0, 1) the log2 256 = 8 bits that an interval is wide."""
    bits = -log_densities.double() / dimensions / torch.tensor(2.0, dtype=torch.float64).log()
    return bits + (torch.tensor(LEVELS).log2().item() if recipe.leaves == "Normal" else 0)


def graph_of(recipe: Recipe, x: Tensor, shape: tuple[int, int]) -> einet.RegionGraph:
    """The structure of one network, from the rows where it is learned."""
    if recipe.structure in ("tree", "one tree"):
        graph = einet.chow_liu(x[:TREE_ROWS], shape=shape)
        return graph.binary() if recipe.layer == "tucker" else graph
    if recipe.structure == "quadrants":
        return einet.quad_graph(shape)
    return einet.poon_domingos(shape, recipe.delta, recipe.axes)


_fashion = partial(
    Recipe, "fashion-mnist", delta=(7,), axes=(0, 1), sums=16, batch=100, epochs=8, lr=0.3, pseudocount=0.01,
    max_variance=1.0,
)  # fmt: skip

_pixels = partial(_fashion, leaves="Categorical", delta=(16, 8, 4, 2, 1), lr=0.4, pseudocount=0.0)

_one = partial(
    Recipe, "fashion-mnist", layer="cp", leaves="Categorical", clusters=1, batch=500, lr=0.1, last_lr=0.01, floor=1e-6,
    pseudocount=0.01, held_out=1 / 12, figure=(),
)  # fmt: skip
_tree = partial(_one, structure="tree", reach=1.5, blur=1.5)

RUNS = {
    "house-numbers": Recipe("house-numbers", rows=40_000, test_rows=5_000, batch=100),
    "house-numbers-small": Recipe(
        "house-numbers",
        rows=40_000,
        test_rows=5_000,
        clusters=7,
        sums=16,
        batch=100,
        export="house-numbers.safetensors",
    ),
    "house-numbers-pixels": Recipe(
        "house-numbers", rows=40_000, test_rows=5_000, delta=(16, 8, 4, 2, 1), axes=(0, 1), sums=10, epochs=10,
        batch=100, lr=0.4, decay=0.79, figure=(),
    ),  # fmt: skip
    "fashion-normal": _fashion(leaves="Normal"),
    "fashion-binomial": _fashion(leaves="Binomial", figure=()),
    "fashion-categorical": _fashion(leaves="Categorical", figure=()),
    "fashion-factorised": _fashion("factorised", leaves="Categorical", pseudocount=1.0, figure=()),
    "fashion-gmm": _fashion("gmm", sums=53, epochs=5, full=True, figure=()),
    "fashion-gmm-20": _fashion("gmm", sums=20, epochs=5, full=True, figure=()),
    "fashion-pixels": _pixels(clusters=1, epochs=6, decay=0.68, sums=16, figure=()),
    "fashion-pixels-10": _pixels(clusters=10, epochs=10, decay=0.79, sums=10, figure=()),
    "fashion-quad-32": _one(structure="quadrants", concentration=0.1, sums=32, lr=0.5, epochs=8, blur=1.5),
    "fashion-tree-random-32": _one(structure="tree", concentration=0.1, sums=32, lr=0.5, epochs=8, blur=1.5),
    "fashion-tree-32": _tree(sums=32, epochs=6),
    "fashion-trees-32": _tree(clusters=16, sums=32, epochs=6, hidden=True, figure=PARTS),
    "fashion-trees-32-joint": _tree(clusters=16, sums=32, epochs=6, joint_epochs=1, hidden=True, figure=PARTS),
    "fashion-page": _tree(
        leaves="Normal", clusters=10, sums=9, epochs=8, joint_epochs=3, lr=0.2, last_lr=0.02, min_variance=1e-6,
        max_variance=1.0, blur=0.0, joint_lr=0.03, hidden=True, export="fashion-mnist.safetensors",
    ),  # fmt: skip
    "lfw": Recipe("lfw", rows=12_233, test_rows=1_000, clusters=100, delta=(32,), figure=()),
    "cifar10": Recipe("cifar10", rows=50_000, clusters=100, figure=()),
}  # fmt: skip
