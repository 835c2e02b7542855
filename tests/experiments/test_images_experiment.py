"""experiments/images.py on few small images, end to end: bits, resuming, records, models, and what fails."""

import math
from dataclasses import replace

import pytest
import torch

import einet
from einet.inpaint import circuit
from einet.storage.archive import read
from experiments.images import command as experiment
from experiments.images import kinds, measures, recipes, training
from experiments.images.recipes import Images, Recipe

FAMILIES = ["Normal", "Binomial", "Categorical"]


def drawn(rows, test_rows, seed):
    """Grey 4 x 4 images, dark above or dark below, of two classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows + test_rows) % 2
    dark = (torch.arange(4) < 2)[None, :, None] == labels.bool()[:, None, None]
    noise = torch.randint(40, (rows + test_rows, 4, 4), generator=generator)
    x = (torch.where(dark, 20, 180) + noise).to(torch.uint8)
    return Images(x[:rows], x[rows:], labels[:rows], labels[rows:])


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The made data set in the place of all; runs in this process. A function that calls the command line."""
    monkeypatch.setattr(recipes, "DATASETS", dict.fromkeys(recipes.DATASETS, drawn))
    monkeypatch.setattr(experiment, "in_new_process", lambda name, o: experiment.run(name, o.recipes[name], o))
    monkeypatch.setattr(training, "DRAWN", 3)

    def call(*arguments):
        folders = ["--runs", tmp_path / "runs", "--output", tmp_path / "images.json", "--models", tmp_path / "models"]
        small = "--rows 60 --test-rows 20 --clusters 2 --delta 2 --sums 2 --epochs 2 --batch 20 --processes 1 --quiet"
        options = experiment.parse_arguments([*map(str, folders), *small.split(), *arguments])
        failures = experiment.run_all(options)
        return failures, {record["run"]: record for record in experiment.read_records(options.output)}

    return call


def test_runs_are_recorded_and_not_repeated(made, tmp_path, capsys):
    failures, records = made("--only", "fashion-normal,fashion-factorised,fashion-gmm")
    assert failures == 0 and list(records) == ["fashion-normal", "fashion-factorised", "fashion-gmm"]
    for record in records.values():
        assert 0 < record["bits_per_dimension"] < 12 and record["bits_standard_error"] > 0
        assert record["settings"]["rows"] == 60 and record["settings"]["test_rows"] == 20
        assert record["provenance"]["seed"] == 0 and record["peak_memory_mb"] > 10
        assert record["seconds"] >= 0 and record["samples_per_second"] > 0 and record["parameters"] > 0
    before = (tmp_path / "images.json").read_text()
    made("--only", "fashion-normal,fashion-gmm")
    assert (tmp_path / "images.json").read_text() == before and "to do: nothing" in capsys.readouterr().out


def test_a_training_is_not_repeated_but_another_recipe_is(made, tmp_path):
    made("--only", "fashion-normal")
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("*.safetensors")}
    one = made("--only", "fashion-normal", "--again")[1]["fashion-normal"]
    assert len(kept) == 3 and {file: file.stat().st_mtime_ns for file in kept} == kept
    other = made("--only", "fashion-normal", "--again", "--lr", "0.1")[1]["fashion-normal"]
    assert len(list((tmp_path / "runs").rglob("*.safetensors"))) == 6
    assert one["bits_per_dimension"] != other["bits_per_dimension"]


def test_models_for_the_book(made, tmp_path):
    record = made("--only", "fashion-page")[1]["fashion-page"]
    file = tmp_path / "models" / record["model"]["file"]
    assert file.stat().st_size == record["model"]["bytes"]
    assert record["model"]["sha256"] in (tmp_path / "models" / "README.md").read_text()
    recipe = Recipe("fashion-mnist")
    model = einet.load(file)
    bits = recipes.bits_per_dimension(model(recipes.inputs(drawn(60, 20, 0).test, recipe, 2)), recipe, 16).mean()
    assert bits.item() == pytest.approx(record["bits_per_dimension"], abs=0.05)  # rounded to float16


def test_components_are_named_after_what_they_explain(made, tmp_path):
    """Two classes that differ, two clusters: each component has the name of one, in the file and in the record."""
    record = made("--only", "fashion-page")[1]["fashion-page"]
    names = [component["name"] for component in record["kinds"]["components"]]
    assert sorted(names) == ["mostly T-shirt", "mostly trousers"] and record["kinds"]["rows"] == 60
    assert sum(component["images"] for component in record["kinds"]["components"]) == pytest.approx(60, abs=1)
    file = tmp_path / "models" / record["model"]["file"]
    assert circuit.kinds_of(file) == names
    tensors = read(file)[1]
    circuit.name_kinds(file, ["a", "b"])
    given = "--models", tmp_path / "models", "--output", tmp_path / "images.json", "--rows", "60", "--test-rows", "20"
    small = "--clusters 2 --delta 2 --sums 2 --epochs 2 --batch 20 --only fashion-page --kinds"
    options = experiment.parse_arguments([*map(str, given), *small.split()])
    assert experiment.name_all(options) == 1 and circuit.kinds_of(file) == names
    (again,) = experiment.read_records(tmp_path / "images.json")
    assert again["model"] == record["model"] and again["kinds"]["components"] == record["kinds"]["components"]
    assert again["kinds"]["provenance"]["seed"] == 0
    assert all(torch.equal(tensor, read(file)[1][name]) for name, tensor in tensors.items()), "numbers stay"


def test_what_components_explain_by_hand():
    """Two components, one entry each, over one pixel: posterior probabilities are quotients."""
    graph = einet.RegionGraph([range(1)], (), (1, 1))
    networks = [einet.Einet(graph, einet.Bernoulli(), num_sums=1, seed=0) for _ in range(2)]
    for network, share in zip(networks, (0.8, 0.4), strict=True):
        torch.nn.init.constant_(network.leaves.parts[0].phi, share)
    x, labels = torch.tensor([[[1.0]], [[0.0]], [[1.0]]]), torch.tensor([0, 1, 1])
    counts = kinds.explained(einet.Mixture(networks, [0.5, 0.5]), x, labels, 2)
    torch.testing.assert_close(counts, torch.tensor([[2 / 3, 1 / 4 + 2 / 3], [1 / 3, 3 / 4 + 1 / 3]]).double())
    found = kinds.kinds(torch.tensor([[5.0, 3.0, 2.0], [9.0, 1.0, 0.0], [1.0, 1.0, 1.0]]).double(), ["a", "b", "c"])
    assert [each["name"] for each in found] == ["mostly a or b", "mostly a", "mostly a or b"]
    assert found[0] == {"name": "mostly a or b", "images": 10, "shares": {"a": 0.5, "b": 0.3}}
    assert kinds.name_of(["a", "b", "c"]) == "mostly a, b or c"


def test_a_model_too_large_is_not_written(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "EXPORTED_BYTES", 100)
    failures, records = made("--only", "fashion-page")
    assert failures == 1 and not records and "at most 100" in capsys.readouterr().out
    assert not list((tmp_path / "models").glob("*.safetensors"))


def test_a_data_set_that_is_not_here_leaves_the_others_their_turn(made, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("EINET_DATA", str(tmp_path))
    lfw = recipes.partial(recipes._zip, "lfw-129.zip", "a", "a", 8)
    monkeypatch.setitem(recipes.DATASETS, "lfw", lfw)
    failures, records = made("--only", "lfw,fashion-factorised")
    assert failures == 1 and list(records) == ["fashion-factorised"]
    assert "lfw FAILED: lfw-129.zip" in capsys.readouterr().out


@pytest.mark.parametrize("leaves", FAMILIES)
def test_bits_of_uniform_bytes_are_eight(leaves):
    """A density of 1 over [0, 1), or a probability of 1/256 for each byte, is 8 bits per dimension."""
    log_density = torch.full((5,), 0.0 if leaves == "Normal" else -10 * math.log(256))
    bits = recipes.bits_per_dimension(log_density, Recipe("", leaves=leaves), 10)
    assert bits.tolist() == pytest.approx([8] * 5)


@pytest.mark.parametrize("leaves", FAMILIES)
def test_bytes_come_back(leaves):
    recipe = Recipe("", leaves=leaves)
    x = torch.arange(256, dtype=torch.uint8).view(4, 8, 8)
    made = recipes.inputs(x, recipe, seed=3)
    assert made.shape == (4, 64) and torch.equal(recipes.outputs(made, recipe, (8, 8)), x)
    assert leaves != "Normal" or (0 <= made.min() and made.max() < 1)


def test_the_factorised_baseline_is_the_histogram_of_each_class():
    data, recipe = drawn(60, 20, 0), Recipe("", model="factorised", leaves="Categorical", delta=(2,))
    x = recipes.inputs(data.train, recipe, 0)
    options = experiment.parse_arguments(["--quiet"])
    model, _ = training.train_factorised(recipe, data, x, options, None)
    first = x[data.labels == 0]
    counts = torch.stack([(first == value).sum(0) for value in range(256)]) / len(first)
    torch.testing.assert_close(model.network.components[0].leaves.parts[0].phi[:, :, 0, 0], counts, atol=5e-3, rtol=0)


def test_nearest_is_the_nearest(monkeypatch):
    monkeypatch.setattr(measures, "PART", 3)
    others = torch.randint(256, (8, 2, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert measures.nearest(others[[7, 0, 4]], others).tolist() == [7, 0, 4]


def test_every_number_is_an_argument():
    words = ["--only", "lfw", "--delta", "16", "--axes", "0", "1", "--max-variance", "0.1", "--clusters", "100"]
    options = experiment.parse_arguments(words)
    recipe = options.recipes["lfw"]
    assert (recipe.delta, recipe.axes, recipe.max_variance, recipe.clusters) == ((16,), (0, 1), 0.1, 100)
    assert options.output == experiment.KEPT / "images.json"  # not the book's
    assert experiment.parse_arguments([]).output == experiment.RESULTS
    assert experiment.parse_arguments(["--quick"]).output == experiment.KEPT / "quick" / "images.json"


def test_unknown_runs_are_refused(capsys):
    with pytest.raises(SystemExit):
        experiment.parse_arguments(["--only", "svhn"])
    assert "unknown runs: svhn" in capsys.readouterr().err


def test_records_of_the_book():
    """Each is of a recipe as it is now, from a command of this experiment; no photographs are among the pictures."""
    for record in experiment.read_records(experiment.RESULTS):
        assert experiment.is_of(record, recipes.RUNS), record["run"]
        assert record["provenance"]["command"].startswith("python experiments/images")
    drawn_of = {path.stem for path in (experiment.RESULTS.parent / "images").glob("*.png")}
    assert drawn_of <= {name for name, recipe in recipes.RUNS.items() if recipe.figure}
    assert all(recipe.figure == () for recipe in recipes.RUNS.values() if recipe.dataset in ("lfw", "cifar10"))


def test_another_recipe_is_another_record():
    record = {"run": "fashion-gmm", "settings": {"sums": 53, "delta": 7}}
    assert experiment.is_of(record, recipes.RUNS)
    assert not experiment.is_of({"run": "fashion-gmm", "settings": {"sums": 20}}, recipes.RUNS)
    assert not experiment.is_of({"run": "fashion-gmm", "settings": {"delta": [7, 1]}}, recipes.RUNS)


def test_only_what_may_be_passed_on_is_drawn(monkeypatch):
    seen = []
    monkeypatch.setattr(training, "draw", lambda parts, path: seen.append(list(parts)))
    data, recipe = drawn(40, 10, 0), Recipe("", leaves="Categorical", delta=(2,))
    network = einet.Einet(einet.poon_domingos(data.shape, 2), recipe.family(data.channels), num_sums=2, seed=0)
    for parts in (recipes.PARTS, ("samples", "without noise"), ("real",)):
        training.figure(network, data, replace(recipe, figure=parts), 0, None)
    assert seen == [["real", "samples", "without noise", "nearest"], ["samples", "without noise"], ["real"]]
