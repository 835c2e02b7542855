"""One run of experiments/images.py, in a process of its own: train, look at the test rows, draw, measure."""

from __future__ import annotations

import hashlib
import json
import resource
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

import einet
from book import figures
from einet import plotting
from einet.clustered.kmeans import clusters_of
from einet.data import CheckedData, log_density
from einet.inpaint import export
from einet.inpaint.circuit import name_kinds
from einet.storage.archive import read
from experiments.images.blur import BlurredEM, blur_
from experiments.images.kinds import explained, kinds
from experiments.images.measures import hidden_halves, looks, nearest
from experiments.images.recipes import (
    CLASSES,
    LEVELS,
    Images,
    Recipe,
    bits_per_dimension,
    graph_of,
    images,
    inputs,
    outputs,
)
from experiments.images.starts import start_from_clusters
from experiments.provenance import provenance
from experiments.records import say, write_whole

EXPORTED_BYTES = 2_000_000  # of a model that is committed, at most
DRAWN = 1000  # samples, whose time is taken
COLUMNS, LINES = 8, 2  # of each part of a figure
LEAST_BATCH, STEPS = 100, 20  # rows of a step, and steps of an epoch: in a small cluster batches are smaller
ROWS_OF_ENTRY, START_ROWS = 8, 10_000  # that an entry of a leaf starts around, and that these are drawn from


def run(name: str, recipe: Recipe, options) -> dict:
    """The record of one run: results, settings, and where they come from."""
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    started = time.time()
    data = images(recipe, options.seed)
    x = inputs(data.train, recipe, options.seed + 1)
    training = train_networks if recipe.model == "einet" and recipe.held_out else TRAININGS[recipe.model]
    model, seconds = training(recipe, data, x, options, folder_of(name, recipe, options))
    if recipe.export:  # what is asked is what the book has: a file in half precision
        exported(model.network, options.models / recipe.export)
        model = Circuit(einet.load(options.models / recipe.export), options.device)
    log_densities = model.log_density(inputs(data.test, recipe, options.seed + 2))
    record = {
        "run": name,
        "dataset": recipe.dataset,
        **results(log_densities, recipe, data.dimensions),
        "parameters": model.parameters,
        "seconds": round(seconds, 1),
        "samples_per_second": round(model.samples_per_second(options.seed), 1),
        "peak_memory_mb": peak_memory(),
        "settings": {**asdict(recipe), "dimensions": data.dimensions, "seed": options.seed, "threads": options.threads},
    }
    if recipe.export:
        record |= named(recipe, data, x, model.network, options)
    if isinstance(model, Circuit):
        record["roughness"] = looks(model.network, data, recipe, options.seed)
    if recipe.hidden:
        record["hidden_halves"] = hidden_halves(model.network, data, recipe, options.seed)
    if recipe.figure:
        figure(model.network, data, recipe, options.seed, options.output.with_name("images") / f"{name}.png")
    record["settings"] |= {"rows": len(data.train), "test_rows": len(data.test), "processes": options.processes}
    packages = ("torch", "numpy", "scikit-learn", "pillow", "matplotlib", "safetensors")
    origin = {"device": options.device, "command": options.command, "packages": packages}
    return {**record, "provenance": provenance(options.seed, started, **origin)}


def results(log_densities: Tensor, recipe: Recipe, dimensions: int) -> dict:
    """Means over the test rows, each with its standard error."""
    bits = bits_per_dimension(log_densities, recipe, dimensions)
    nats, error = log_densities.double(), len(log_densities) ** -0.5
    return {
        "test_log_likelihood": round(nats.mean().item(), 4),
        "standard_error": round(nats.std().item() * error, 4),
        "bits_per_dimension": round(bits.mean().item(), 5),
        "bits_standard_error": round(bits.std().item() * error, 5),
    }


def folder_of(name: str, recipe: Recipe, options) -> Path:
    """Where a training is kept. Another recipe or seed has another folder."""
    told = {**asdict(recipe), "seed": options.seed, "export": "", "figure": (), "test_rows": 0}
    return options.runs / "images" / f"{name}-{hashlib.sha256(repr(told).encode()).hexdigest()[:8]}"


def peak_memory() -> int:
    """The most that this process, or one of its helpers, ever held in memory, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return round(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024)


# Models, all with the same three questions


class Circuit:
    """An EiNet or a mixture of them."""

    def __init__(self, network: einet.Einet | einet.Mixture, device: str):
        self.network, self.device = network.to(device), device
        self.parameters = sum(parameter.numel() for parameter in network.parameters())

    def log_density(self, x: Tensor) -> Tensor:
        return log_density(self.network, x, batch_size=500).cpu()

    def samples_per_second(self, seed: int) -> float:
        generator = torch.Generator(self.device).manual_seed(seed)
        einet.sample(self.network, 1, generator)
        start = time.perf_counter()
        einet.sample(self.network, DRAWN, generator)
        return DRAWN / (time.perf_counter() - start)


class Gaussians:
    """A mixture of scikit-learn."""

    def __init__(self, mixture):
        self.mixture = mixture
        self.parameters = mixture._n_parameters()

    def log_density(self, x: Tensor) -> Tensor:
        parts = x.flatten(1).split(1000)
        return torch.cat([torch.from_numpy(self.mixture.score_samples(part.numpy())) for part in parts])

    def samples_per_second(self, seed: int) -> float:
        self.mixture.random_state = seed
        start = time.perf_counter()
        self.mixture.sample(DRAWN)
        return DRAWN / (time.perf_counter() - start)


def train_einet(recipe: Recipe, data: Images, x: Tensor, options, folder: Path) -> tuple[Circuit, float]:
    """k-means and a network for each cluster, and seconds. What is in `folder` is not done again.

    Seconds are those of all epochs, whichever process and call they were in, without k-means.
    """
    graph = einet.poon_domingos(data.shape, recipe.delta, recipe.axes)
    model = einet.fit_mixture(
        x,
        recipe.clusters,
        graph,
        recipe.family(data.channels),
        num_sums=recipe.sums,
        epochs=recipe.epochs,
        batch_size=recipe.batch,
        lr=recipe.lr,
        decay=recipe.decay,
        pseudocount=recipe.pseudocount,
        start_from_rows=recipe.start_from_rows,
        concentration=1.0,  # the records are of flat starts
        seed=options.seed,
        device=options.device,
        processes=options.processes,
        checkpoint_folder=folder,
        progress=not options.quiet,
    )
    kept = [read(file)[0]["training"]["history"]["seconds"] for file in folder.glob("component-*.safetensors")]
    return Circuit(model, options.device), sum(map(sum, kept))


def train_networks(recipe: Recipe, data: Images, x: Tensor, options, folder: Path) -> tuple[Circuit, float]:
    """For each k-means cluster a network, or one for all rows, by validation rows; and seconds, without k-means."""
    clusters = [torch.arange(len(x))]
    if recipe.clusters > 1:
        clusters = clusters_of(CheckedData(einet.Einet(*single_region(recipe, data)), x), recipe.clusters, 0, folder)
    shared = graph_of(recipe, x, data.shape) if recipe.structure == "one tree" else None
    networks, seconds = [], 0.0
    for number, cluster in enumerate(clusters):
        graph = shared or graph_of(recipe, x[cluster], data.shape)
        file = folder / f"network-{number}.safetensors"
        network, own = train_network(recipe, data, x[cluster], graph, options, file, options.seed + number)
        networks.append(network)
        seconds += own
    model = networks[0]
    if len(networks) > 1:
        model = einet.Mixture(networks, [len(cluster) / len(x) for cluster in clusters])
    if recipe.joint_epochs:
        history = einet.fit(
            model,
            x,
            epochs=recipe.joint_epochs,
            batch_size=recipe.batch,
            optimizer=optimizer_of(model, recipe, recipe.joint_lr),
            seed=options.seed,
            checkpoint=folder / "together.safetensors",
            progress=not options.quiet,
        )
        seconds += sum(history.seconds)
    return Circuit(model, options.device), seconds


def single_region(recipe: Recipe, data: Images) -> tuple[einet.RegionGraph, einet.LeafFamily, int]:
    """The arguments of a network that only checks rows."""
    return einet.poon_domingos(data.shape, min(data.shape), max_depth=0), recipe.family(data.channels), 1


def train_network(
    recipe: Recipe, data: Images, x: Tensor, graph: einet.RegionGraph, options, file: Path, seed: int
) -> tuple[einet.Einet, float]:
    """One network, and the seconds of its start and of all epochs, whichever call they were in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    done = file.with_suffix(".json")
    if done.exists():
        return einet.load(file).to(options.device), json.loads(done.read_text())["seconds"]
    start, first = time.perf_counter(), round(len(x) * (1 - recipe.held_out))
    rows, held_out = x[:first], x[first:]
    network = einet.Einet(
        graph,
        recipe.family(data.channels),
        num_sums=recipe.sums,
        sum_product=recipe.layer,
        concentration=recipe.concentration,
        seed=seed,
    ).to(options.device)
    if recipe.reach:
        start_from_clusters(network, rows, recipe.reach, seed)
    else:
        einet.start_leaves(network, rows[:START_ROWS], rows=ROWS_OF_ENTRY, distinct=False, seed=seed)
    if recipe.blur:
        blur_(network, recipe.blur)
    optimizer = optimizer_of(network, recipe, recipe.lr)
    seconds = time.perf_counter() - start
    history = einet.fit(
        network,
        rows,
        valid=held_out,
        epochs=recipe.epochs,
        batch_size=min(recipe.batch, max(LEAST_BATCH, len(rows) // STEPS)),
        optimizer=optimizer,
        scheduler=falling(optimizer, recipe),
        seed=seed,
        checkpoint=file,
        progress=not options.quiet,
    )
    bits = ", ".join(f"{value:.3f}" for value in bits_per_dimension(Tensor(history.valid), recipe, data.dimensions))
    say(f"{file.stem}: {len(rows)} rows, bits of validation rows {bits}")
    seconds += sum(history.seconds)
    write_whole(done, json.dumps({"seconds": seconds}))
    return network, seconds


def optimizer_of(model: einet.Einet | einet.Mixture, recipe: Recipe, lr: float) -> einet.EM:
    if recipe.blur:
        return BlurredEM(model, lr, recipe.pseudocount, recipe.blur)
    return einet.EM(model, lr, recipe.pseudocount)


def falling(optimizer: torch.optim.Optimizer, recipe: Recipe) -> torch.optim.lr_scheduler.LinearLR:
    """The step falls from the recipe's lr to its last_lr in the last epoch."""
    share = (recipe.last_lr or recipe.lr) / recipe.lr
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, share, max(1, recipe.epochs - 1))


def train_factorised(recipe: Recipe, data: Images, x: Tensor, options, folder: Path) -> tuple[Circuit, float]:
    """For each class a product of pixels, by one full step of EM: shares and histograms."""
    start = time.perf_counter()
    graph = einet.poon_domingos(data.shape, recipe.delta, max_depth=0)
    classes, shares = data.labels.unique(), []
    networks = [einet.Einet(graph, recipe.family(data.channels), num_sums=1, num_leaves=1, seed=0) for _ in classes]
    for network, label in zip(networks, classes, strict=True):
        rows = x[data.labels == label]
        einet.fit(network, rows, epochs=1, batch_size=None, lr=1.0, pseudocount=recipe.pseudocount, progress=False)
        shares.append(len(rows) / len(x))
    return Circuit(einet.Mixture(networks, shares), options.device), time.perf_counter() - start


def train_gmm(recipe: Recipe, data: Images, x: Tensor, options, folder: Path) -> tuple[Gaussians, float]:
    """scikit-learn's mixture of Gaussians, diagonal or full, with as many iterations as a recipe has epochs."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    start = time.perf_counter()
    mixture = GaussianMixture(
        recipe.sums, covariance_type="full" if recipe.full else "diag", reg_covar=recipe.min_variance,
        max_iter=recipe.epochs, init_params="random_from_data", random_state=options.seed,
    )  # fmt: skip
    with threadpool_limits(options.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is part of the recipe
        mixture.fit(x.flatten(1).numpy())
    return Gaussians(mixture), time.perf_counter() - start


TRAININGS = {"einet": train_einet, "factorised": train_factorised, "gmm": train_gmm}


# What the book shows


def exported(network: einet.Einet | einet.Mixture, path: Path) -> None:
    """Write a model for the book. `ValueError` where it is too large to be committed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    export(network, path)
    if (size := path.stat().st_size) > EXPORTED_BYTES:
        path.unlink()
        raise ValueError(f"{path.name} has {size} bytes, at most {EXPORTED_BYTES} are committed")


def named(recipe: Recipe, data: Images, x: Tensor, network: einet.Einet | einet.Mixture, options) -> dict:
    """What a record says of its model's file, whose components get names where the classes of the images have some."""
    path, found = options.models / recipe.export, {}
    if recipe.dataset in CLASSES and isinstance(network, einet.Mixture):
        classes = CLASSES[recipe.dataset]
        components = kinds(explained(network, x, data.labels, len(classes)), classes)
        name_kinds(path, [component["name"] for component in components])
        found = {"kinds": {"rows": len(x), "components": components}}
    content = path.read_bytes()
    return {"model": {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}} | found


def name_again(recipe: Recipe, options) -> dict:
    """What `named` has for a run's model that is there, and where that comes from. Nothing is trained."""
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    started, data = time.time(), images(recipe, options.seed)
    network = einet.load(options.models / recipe.export).to(options.device)
    found = named(recipe, data, inputs(data.train, recipe, options.seed + 1), network, options)
    origin = provenance(options.seed, started, device=options.device, command=options.command)
    return found | ({"kinds": found["kinds"] | {"provenance": origin}} if "kinds" in found else {})


def figure(network: einet.Einet | einet.Mixture, data: Images, recipe: Recipe, seed: int, path: Path) -> None:
    """Figure 4: training images and samples, as many as the recipe allows.

    With them, the same samples without the noise of their leaves, and the training image nearest to each of those.
    """
    count = COLUMNS * LINES
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:count]
    parts = {"real": data.train[order]}
    for name, noise in (("samples", True), ("without noise", False)):
        generator = torch.Generator(next(network.parameters()).device).manual_seed(seed)
        draws = einet.sample(network, count, generator, noise=noise)
        parts[name] = outputs(draws.cpu(), recipe, data.train.shape[1:])
    if "nearest" in recipe.figure:
        parts["nearest"] = data.train[nearest(parts["without noise"], data.train)]
    draw({name: parts[name] for name in recipe.figure}, path)


def draw(parts: dict[str, Tensor], path: Path) -> None:
    """A PNG of the parts below each other, each with its name at the left; transparent where there is no image."""
    figures.style(svg=False)
    ax = plotting.image_grid(torch.cat(list(parts.values())) / (LEVELS - 1), columns=COLUMNS)
    pixels = ax.images[0].get_array().shape[0] / len(parts)
    for i, name in enumerate(parts):
        ax.text(-2, (i + 0.5) * pixels, name, ha="right", va="center", rotation=90)
    path.parent.mkdir(parents=True, exist_ok=True)
    ax.figure.savefig(path, dpi=120, bbox_inches="tight")
