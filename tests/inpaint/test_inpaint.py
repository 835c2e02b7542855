"""The inpainter: its engine in JavaScript, run by node, beside einet and all worlds of a small model; its file."""

import base64
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from oracle import Circuit
from project import ROOT
from scipy import stats

import einet
from einet.datasets import fashion_mnist
from einet.inpaint import InpaintWidget, circuit, export, pages
from einet.storage.archive import read

NODE = shutil.which("node") or shutil.which("nodejs")
needs_node = pytest.mark.skipif(not NODE, reason="no node: the engine was not run (apt-get install nodejs)")


def ask(path, questions, *arguments):
    """The engine's answers, in order."""
    engine = path.with_name("engine.js")
    engine.write_text(pages.joined(pages.ENGINE) + "export { random, readModel, sha256 };", encoding="utf-8")
    out = subprocess.run(
        [NODE, Path(__file__).with_name("inpaint_engine.mjs"), engine, path, *arguments],
        input=json.dumps(questions), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    found = json.loads(out.stdout)
    return found.get("answers") or found["error"]


# Models: a family each, both kinds of graphs, one and three channels, all shapes of a circuit


def rectangles(leaf, shape=(4, 4), delta=1, **sizes):
    return einet.Einet(einet.poon_domingos(shape, delta), leaf, **{"num_sums": 3, "seed": 0, **sizes})


def trees(leaf, seed=0):
    graph = einet.random_binary_trees(12, 2, 3, seed=seed)
    grid = einet.RegionGraph(graph.regions, graph.partitions, (3, 4))
    return einet.Einet(grid, leaf, num_sums=3, num_leaves=4, seed=seed)


def thin_trees(leaf, num_trees):
    """Learned trees, whose variables have from one to several others below them."""
    rows = torch.randint(3, (50, 12), generator=torch.Generator().manual_seed(0))
    graph = einet.chow_liu(rows, num_trees=num_trees, shape=(3, 4))
    assert len({len(partition.children) for partition in graph.partitions}) > 1
    return einet.Einet(graph, leaf, num_sums=3, seed=0, sum_product="cp")


def colours():
    return einet.Normal(min_variance=1e-6, max_variance=1e-2, channels=3)


def bell():
    return einet.Normal(min_variance=1e-6, max_variance=1e-2)


def atoms(channels=1):
    """Black and white pixels beside all others; 0.3 is no float32."""
    return einet.WithAtoms(bell(), (0.0, 0.3, 1.0), floor=1e-3, channels=channels)


def hub():
    """One partition into all pixels."""
    return einet.RegionGraph([range(400), *({d} for d in range(400))], [range(401)], (20, 20))


def three(seed, num_sums):
    return rectangles(einet.Categorical(categories=3), num_sums=num_sums, seed=seed)


def mixture(*components):
    return einet.Mixture(components, np.arange(1, 1 + len(components)) / sum(range(1 + len(components))))


MODELS = {
    "Bernoulli": lambda: rectangles(einet.Bernoulli()),
    "binary image": lambda: rectangles(einet.Bernoulli(), delta=[2, 1]),
    "Binomial": lambda: rectangles(einet.Binomial(255), delta=[2, 1], num_leaves=2),
    "Categorical": lambda: trees(einet.Categorical(categories=5)),
    "Normal": lambda: rectangles(einet.Normal(min_variance=1e-6, max_variance=1e-2, channels=3), (6, 4), 2),
    "atoms": lambda: rectangles(atoms(channels=3), (4, 4), 2),
    "atoms, mixed": lambda: mixture(*(trees({atoms(): range(0, 12, 2), bell(): range(1, 12, 2)}, s) for s in range(2))),
    "two families": lambda: trees({einet.Bernoulli(): range(0, 12, 2), einet.Categorical(): range(1, 12, 2)}),
    "one leaf": lambda: einet.Einet(einet.RegionGraph([range(6)], (), (2, 3)), einet.Binomial(7), num_sums=3, seed=0),
    "mixture": lambda: mixture(*(trees(einet.Binomial(16), seed) for seed in range(3))),
    "mixed": lambda: mixture(three(0, 3), three(1, 2)),
    "thin": lambda: rectangles(einet.Binomial(16), delta=[2, 1], sum_product="cp"),
    "thin, learned": lambda: thin_trees(einet.Categorical(categories=3), num_trees=2),
    "thin, colours": lambda: einet.Einet(einet.quad_graph((4, 4)), colours(), num_sums=3, seed=0, sum_product="cp"),
    "thin and full": lambda: mixture(three(0, 3), rectangles(einet.Categorical(categories=3), sum_product="cp")),
    "thin leaf": lambda: einet.Einet(
        einet.RegionGraph([range(6)], (), (2, 3)), einet.Binomial(7), num_sums=3, seed=0, sum_product="cp"
    ),
    "hub": lambda: einet.Einet(hub(), einet.Binomial(16), num_sums=3, seed=0, sum_product="cp"),
}  # fmt: skip


def exported(name, folder):
    """A model that trained numbers could have, its file, and itself as the file has it, in float64."""
    model = MODELS[name]()
    with torch.no_grad():
        for network in getattr(model, "components", [model]):
            for layer in network.sum_layers():
                layer.weights.pow_(3).div_(layer.weights.sum(layer.weight_dim, keepdim=True))
            for part in network.leaves.parts:
                if isinstance(part.family, einet.Normal):
                    part.phi.copy_(
                        torch.stack((torch.rand_like(part.phi[0]), 10 ** (-2 - 4 * torch.rand_like(part.phi[0]))))
                    )
                elif isinstance(part.family, einet.WithAtoms):
                    number = len(part.family.atoms) + 1
                    part.phi[:number] = (3 * torch.randn_like(part.phi[:number])).softmax(0)
                    part.phi[number:] = torch.rand_like(part.phi[number:]) * torch.tensor([1.0, 1e-2]).view(2, 1, 1, 1)
                    part.phi.copy_(part.family.project(part.phi))
    export(model, folder / "model.safetensors")
    return folder / "model.safetensors", einet.load(folder / "model.safetensors").double()


def rows_and_masks(model, count=6):
    generator = torch.Generator().manual_seed(0)
    x = einet.sample(model, count, generator)
    masks = torch.rand(count, x.shape[1], generator=generator) < torch.linspace(0, 1, count)[:, None]
    return x, masks


def as_questions(x, masks, **more):
    return [{"x": r.flatten().tolist(), "observed": m.tolist(), **more} for r, m in zip(x, masks, strict=True)]


@needs_node
@pytest.mark.parametrize("name", MODELS)
def test_engine_answers_as_einet(name, tmp_path):
    path, model = exported(name, tmp_path)
    x, masks = rows_and_masks(model)
    answers = ask(path, as_questions(x, masks, samples=3, moments=True, explanation=True))
    log_density = einet.log_marginal(model, x, masks)
    assert_near([a["logDensity"] for a in answers], log_density, 1e-3, 1e-5)
    marginals = einet.conditional_marginals(model, x, masks)
    shape = (len(x), -1)
    assert_near([a["mean"] for a in answers], marginals.mean().reshape(shape), 1e-3)
    assert_near([a["deviation"] for a in answers], marginals.variance().sqrt().reshape(shape), 1e-3)
    networks = getattr(model, "components", [model])
    own = [network(x, masks).detach() for network in networks]
    if len(networks) > 1:
        own = [each + weight.log() for each, weight in zip(own, model.weights, strict=True)]
    posterior = torch.stack(own, 1).softmax(1)
    assert_near([a["kind"]["posterior"] for a in answers], posterior, 1e-4)
    for row, mask, odds, answer in zip(x, masks, posterior, answers, strict=True):
        kind = answer["kind"]["kind"]
        assert odds[kind] > odds.max() - 1e-4
        wanted = einet.conditional_mean(networks[kind], row[None], mask)
        assert_near(answer["kind"]["x"], wanted.flatten(), 1e-3)
    assert_near([a["logDensityOfAll"] for a in answers], einet.log_density(model, x), 1e-3, 1e-5)
    best = einet.mpe(model, x, masks)
    assert_near([a["best"]["logDensity"] for a in answers], best.log_density, 1e-3, 1e-5)
    assert_near([a["best"]["upperBound"] for a in answers], best.upper_bound, 1e-3, 1e-5)
    assert_near([a["best"]["x"] for a in answers], best.x.reshape(shape), 1e-6)
    seen = masks.repeat_interleave(model_channels(model), 1)
    for row, mask, answer in zip(x.reshape(shape), seen, answers, strict=True):
        samples = torch.tensor(answer["samples"], dtype=torch.float64)
        assert torch.equal(samples[:, mask], row[mask].expand(3, -1)), "what is visible stays, bit for bit"
        assert mask.any() or not torch.equal(samples[0], samples[1])
        for network in getattr(model, "components", [model]):
            for part in network.leaves.parts:
                part.family.check(samples.view(3, masks.shape[1], -1)[:, part.variables])


# A 4x4 binary image model, every world of it


@needs_node
def test_engine_agrees_with_enumeration(tmp_path):
    """Its log-density of all 2^16 images sums to 1, and what it says of some pixels is a sum over those images."""
    path, model = exported("binary image", tmp_path)
    images = torch.tensor(list(product((0.0, 1.0), repeat=16)))
    answers = ask(path, as_questions(images, torch.ones(len(images), 16, dtype=torch.bool)))
    p = np.exp([a["logDensity"] for a in answers])
    assert p.sum() == pytest.approx(1, abs=1e-9)
    some = slice(None, None, 4099)
    slow = Circuit(model).log_density(images[some].double().numpy())
    np.testing.assert_allclose(np.log(p[some]), slow[:, 0], atol=1e-6)

    x, masks = rows_and_masks(model)
    answers = ask(path, as_questions(x, masks, moments=True))
    for row, mask, answer in zip(x, masks, answers, strict=True):
        agrees = (images == row)[:, mask].all(1).numpy()
        mean = p[agrees] @ images.numpy()[agrees] / p[agrees].sum()
        assert answer["logDensity"] == pytest.approx(np.log(p[agrees].sum()), abs=1e-6)
        np.testing.assert_allclose(answer["mean"], mean, atol=1e-6)
        np.testing.assert_allclose(answer["deviation"], np.sqrt((mean * (1 - mean)).clip(0)), atol=1e-6)


def test_a_sample_without_noise_is_of_the_same_leaves(tmp_path):
    """All leaves have standard deviation 0.01 and are far apart: noise moves no value to another leaf's mean."""
    leaf = einet.Normal(min_variance=0.99e-4, max_variance=1e-4)
    model = einet.Einet(einet.poon_domingos((3, 3), 1), leaf, num_sums=4, seed=0)
    export(model, tmp_path / "model.safetensors", value_range=(-3, 3))
    question = {"x": [0.5] * 9, "observed": [True] * 3 + [False] * 6, "pairs": 50}
    noisy, quiet = np.array(ask(tmp_path / "model.safetensors", [question])[0]["pairs"]).transpose(1, 0, 2)
    assert (noisy[:, :3] == 0.5).all() and (quiet[:, :3] == 0.5).all()
    assert 0.005 < np.abs(noisy - quiet)[:, 3:].mean() < 0.011
    assert max(len(np.unique(values)) for values in quiet[:, 3:].T) in (2, 3, 4), "means of a leaf's four entries"


@needs_node
@pytest.mark.parametrize("name", ["Bernoulli", "mixed"])
def test_samples_match_the_posterior(name, tmp_path):
    """Chi-square: 20,000 completions of five hidden pixels against their exact conditional distribution."""
    path, model = exported(name, tmp_path)
    x = einet.sample(model, 1, torch.Generator().manual_seed(3))
    hidden = torch.tensor([1, 4, 5, 6, 11])
    mask = torch.ones(16, dtype=torch.bool).index_fill(0, hidden, False)
    values = range(2 if name == "Bernoulli" else 3)
    completions = torch.tensor(list(product(values, repeat=5)), dtype=x.dtype)
    worlds = x.repeat(len(completions), 1).index_copy(1, hidden, completions)
    posterior = torch.exp(model(worlds) - model(x, mask))
    (answer,) = ask(path, as_questions(x, mask[None], samples=20_000))
    assert_follows(np.array(answer["samples"])[:, hidden], completions.numpy(), posterior.detach().numpy())


def assert_follows(drawn, values, probabilities):
    """A chi-square test, rare values together: fails one correct sampler in a thousand, and the seed is fixed."""
    assert probabilities.sum() == pytest.approx(1, abs=1e-6)
    counts = (drawn[:, None] == values).all(2).sum(0)
    expected = probabilities * len(drawn)
    rare = expected < 5
    found = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    keep = wanted > 0
    assert counts.sum() == len(drawn) and keep.sum() > 8
    assert stats.chisquare(found[keep], wanted[keep] * found.sum() / wanted.sum()).pvalue > 1e-3


@needs_node
@pytest.mark.parametrize("family", [einet.Normal(), einet.Binomial(30), einet.Categorical(categories=4), atoms()])
def test_leaves_are_drawn_from_their_family(family, tmp_path):
    """One leaf, one entry: the samples of each pixel are those of one distribution."""
    model = einet.Einet(einet.RegionGraph([range(2)], (), (1, 2)), family, num_sums=1, seed=0)
    export(model, tmp_path / "model.safetensors")
    phi = einet.load(tmp_path / "model.safetensors").leaves.parts[0].phi[:, :, 0, 0].double().detach()
    question = {"x": [0, 0], "observed": [False, False], "samples": 20_000}
    drawn = np.array(ask(tmp_path / "model.safetensors", [question])[0]["samples"])
    for pixel in range(2):
        if isinstance(family, einet.Normal):
            mean, variance = phi[:, pixel].tolist()
            assert stats.kstest(drawn[:, pixel], "norm", (mean, variance**0.5)).pvalue > 1e-3
            continue
        if isinstance(family, einet.WithAtoms):
            counts = (drawn[:, pixel, None] == np.array(family.atoms)).sum(0)
            counts = np.append(counts, len(drawn) - counts.sum())
            shares = phi[:4, pixel].numpy() / phi[:4, pixel].sum().item()
            assert stats.chisquare(counts, shares * len(drawn)).pvalue > 1e-3
            rest = drawn[:, pixel][~np.isin(drawn[:, pixel], family.atoms)]
            mean, variance = phi[4:, pixel].tolist()
            assert stats.kstest(rest, "norm", (mean, variance**0.5)).pvalue > 1e-3
            continue
        values = torch.arange(31 if isinstance(family, einet.Binomial) else 4).double()
        wanted = family.log_density(values, phi[:, pixel, None]).exp().numpy()
        counts = (drawn[:, pixel, None] == values.numpy()).sum(0)
        likely = wanted * len(drawn) >= 5
        expected = wanted[likely] * counts[likely].sum() / wanted[likely].sum()
        assert stats.chisquare(counts[likely], expected).pvalue > 1e-3


# Files


@needs_node
@pytest.mark.parametrize("length", [0, 1, 55, 56, 63, 64, 65, 10_000])
def test_sha256(length, tmp_path):
    data = np.random.default_rng(length).bytes(length)
    (tmp_path / "file").write_bytes(data)
    assert ask(tmp_path / "file", [], "sha256") == hashlib.sha256(data).hexdigest()


@needs_node
@pytest.mark.parametrize("damage", ["empty", "cut", "no header", "NaN", "another file", "a checkpoint"])
def test_engine_refuses_a_damaged_file(damage, tmp_path):
    path, model = exported("Binomial", tmp_path)
    whole = path.read_bytes()
    data = {
        "empty": b"",
        "cut": whole[:-100],
        "no header": whole[:300],
        "NaN": whole[:-2] + b"\xff\xff",
        "another file": b"<html>404: not found</html>" * 9,
        "a checkpoint": whole,
    }[damage]
    path.write_bytes(data)
    if damage == "a checkpoint":
        einet.save(model, path, dtype=torch.float16)
    message = ask(path, [])
    assert isinstance(message, str) and message


def test_an_exported_file_is_a_checkpoint(tmp_path):
    model = MODELS["mixture"]()
    export(model, tmp_path / "model.safetensors")
    again, x = einet.load(tmp_path / "model.safetensors"), einet.sample(model, 50)
    torch.testing.assert_close(again(x), model(x), atol=0.05, rtol=0)
    size = sum(p.numel() for p in model.parameters())
    assert (tmp_path / "model.safetensors").stat().st_size < 2 * size + 12_000


def test_names_of_components_come_with_a_file(tmp_path):
    model, images, file = MODELS["mixture"](), torch.zeros(1, 3, 4), tmp_path / "model.safetensors"
    export(model, file, kinds=["dark", "grey", "light"])
    before = file.read_bytes()
    assert InpaintWidget(file, images).page["kinds"] == ["dark", "grey", "light"]
    assert InpaintWidget(file, images, kinds=["a", "b", "c"]).page["kinds"] == ["a", "b", "c"]
    circuit.name_kinds(file, ["a", "b", "c"])
    assert circuit.kinds_of(file) == ["a", "b", "c"] and file.read_bytes() != before
    circuit.name_kinds(file, ["dark", "grey", "light"])
    assert file.read_bytes() == before
    export(model, file)
    assert circuit.kinds_of(file) is None and InpaintWidget(file, images).page["kinds"][0] == "kind 1"
    for give in (circuit.name_kinds, lambda *names: export(model, names[0], kinds=names[1])):
        with pytest.raises(ValueError, match="a name for each of 3 components, got 2"):
            give(file, ["a", "b"])


def test_half_as_large_where_components_share_a_graph(tmp_path):
    model = rectangles(einet.Bernoulli())
    export(mixture(model, model), tmp_path / "two.safetensors")
    export(model, tmp_path / "one.safetensors")
    one, two = (read(tmp_path / f"{name}.safetensors")[0] for name in ("one", "two"))
    assert one["circuits"] == two["circuits"]


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (torch.nn.Linear(2, 2), {}, "Linear"),
        (einet.Einet(einet.random_binary_trees(4, 1, 1), einet.Bernoulli(), num_sums=2), {}, "grid"),
        (rectangles(einet.Bernoulli(), num_classes=2), {}, "one class, got 1 and 2"),
        (rectangles(einet.Bernoulli(channels=2)), {}, "1 or 3 channels"),
        (trees({einet.Bernoulli(): range(6), einet.Binomial(3): range(6, 12)}), {}, r"\[1, 3\]: pass value_range"),
        (rectangles(einet.Normal()), {"value_range": (1, 0)}, "low < high"),
        (rectangles(einet.Normal()), {"value_range": (0, float("nan"))}, "low < high"),
    ],
)
def test_what_cannot_be_exported(model, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / "model.safetensors", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_family_of_ones_own_is_not_exported(tmp_path):
    class Ternary(einet.Categorical):
        pass

    with pytest.raises(ValueError, match="Ternary"):
        export(rectangles(Ternary(categories=3)), tmp_path / "model.safetensors")


@pytest.mark.parametrize("arguments", [{}, {"value_range": (0, 9)}])
def test_a_family_that_is_known_by_name_is_not_exported_either(arguments, tmp_path, monkeypatch):
    """`einet.save` and `einet.load` take it, the page's engine does not: it would fail in the page."""

    class Counts(einet.Normal):
        def check(self, x):
            pass

    monkeypatch.setitem(einet.families.FAMILIES, "Counts", Counts)
    with pytest.raises(
        ValueError, match=r"Counts\(.* is not one of .*'Bernoulli', 'Binomial', 'Categorical', 'Normal'"
    ):
        export(rectangles(Counts()), tmp_path / "model.safetensors", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", [einet.Poisson, einet.Geometric, einet.Exponential, einet.Gamma, einet.LogNormal])
def test_families_that_the_engine_lacks_are_not_exported(family, tmp_path):
    """A log-normal is a `Normal`, to Python, and would have been shown as one."""
    message = rf"{family.__name__}\(.* is not one of .*'Bernoulli', 'Binomial', 'Categorical', 'Normal'"
    with pytest.raises(ValueError, match=message):
        export(rectangles(family()), tmp_path / "model.safetensors", value_range=(0, 9))
    assert not list(tmp_path.iterdir())


def test_atoms_beside_a_family_that_the_engine_lacks_are_not_exported(tmp_path):
    with pytest.raises(ValueError, match=r"WithAtoms\(.*Gamma\(.* is not one of the families"):
        export(rectangles(einet.WithAtoms(einet.Gamma())), tmp_path / "model.safetensors", value_range=(0, 9))
    assert not list(tmp_path.iterdir())


def test_the_engine_has_the_families_that_are_exported():
    (names,) = re.findall(r"^const FAMILIES = \{(.*)\};", pages.joined(), re.M)
    assert set(re.findall(r"(\w+):", names)) == {family.__name__ for family in circuit.PAGE_FAMILIES}


# The widget, without a browser


def image_widget(**arguments):
    model = rectangles(einet.Binomial(255), (4, 4), 2)
    return InpaintWidget(model, einet.sample(model, 3, torch.Generator().manual_seed(0)).view(3, 4, 4), **arguments)


def ask_widget(widget, question, mask):
    """What the widget sends back to its front end, as anywidget would carry it."""
    content, *buffers = ask_raw(widget, question, [memoryview(bytes(mask))])
    return content, *(np.frombuffer(buffer, dtype=np.float32) for buffer in buffers)


def ask_raw(widget, question, buffers):
    return ask_comm(widget, {"content": {"data": {"method": "custom", "content": question}}, "buffers": buffers})


def ask_comm(widget, message):
    """The one answer to a message of the front end, and its buffers."""
    sent = []
    widget.send = lambda content, buffers=(): sent.append((content, *buffers))
    widget._handle_msg(message)
    (answer,) = sent
    return answer


def test_a_question_of_the_front_end_is_answered():
    widget, mask = image_widget(seed=0), [1, 0] * 8
    observed = torch.tensor(mask).view(4, 4) > 0
    x = widget.images[1:2]
    content, mean = ask_widget(widget, {"id": 7, "image": 1, "view": "mean"}, mask)
    assert content == {"id": 7, "logDensity": pytest.approx(widget.model(x, observed).item())}
    np.testing.assert_allclose(mean, einet.conditional_mean(widget.model, x, observed).flatten().numpy())
    assert widget.image == 1 and torch.equal(widget.observed, observed)
    _, spread = ask_widget(widget, {"id": 8, "image": 1, "view": "deviation"}, mask)
    np.testing.assert_allclose(spread**2, einet.conditional_variance(widget.model, x, observed).flatten(), rtol=1e-4)
    content, best = ask_widget(widget, {"id": 9, "image": 1, "view": "explanation"}, mask)
    wanted = einet.mpe(widget.model, x, observed)
    np.testing.assert_array_equal(best, wanted.x.flatten().numpy())
    assert content["logCompleted"] == wanted.log_density.item() and content["upperBound"] == wanted.upper_bound.item()
    draws = [ask_widget(widget, {"id": n, "image": 1, "view": "sample"}, mask)[1] for n in range(2)]
    assert not np.array_equal(*draws)
    for draw in draws:
        np.testing.assert_array_equal(draw[::2], x.flatten()[::2].numpy())
    np.testing.assert_array_equal(widget.filled.flatten().numpy(), draws[1])
    again = image_widget(seed=0)
    np.testing.assert_array_equal(ask_widget(again, {"id": 1, "image": 1, "view": "sample"}, mask)[1], draws[0])


@pytest.mark.parametrize("noise", [True, False])
def test_the_tick_of_noise_reaches_the_leaves(noise):
    """What comes back through the comm is what `fill` draws from the same seed, with the tick and without."""
    asked, own = image_widget(seed=0), image_widget(seed=0)
    content, drawn = ask_widget(asked, {"id": 1, "image": 0, "view": "samples", "noise": noise}, [0] * 16)
    wanted, numbers = own.fill(0, torch.zeros(4, 4, dtype=torch.bool), "samples", noise)
    assert content["logDensity"] == numbers["logDensity"] and np.array_equal(drawn, wanted.flatten())
    other, _ = image_widget(seed=0).fill(0, torch.zeros(4, 4, dtype=torch.bool), "samples", not noise)
    assert not np.array_equal(drawn, other.flatten())


def test_six_draws_with_noise_and_without():
    leaf = einet.Normal(min_variance=0.99e-4, max_variance=1e-4)
    network = [einet.Einet(einet.poon_domingos((3, 3), 1), leaf, num_sums=4, seed=seed) for seed in range(2)]
    widget = InpaintWidget(einet.Mixture(network, [0.5, 0.5]), torch.full((1, 3, 3), 0.5), value_range=(-3, 3), seed=0)
    observed = torch.arange(9).view(3, 3) < 2
    noisy, numbers = widget.fill(0, observed, "samples")
    quiet, _ = widget.fill(0, observed, "samples", noise=False)
    assert noisy.shape == quiet.shape == (6, 3, 3, 1) and torch.equal(widget.filled, quiet)
    assert numbers["logDensity"] == pytest.approx(widget.model(widget.images, observed).item())
    assert (noisy[:, observed] == 0.5).all() and (quiet[:, observed] == 0.5).all()
    means = torch.cat([component.leaves.parts[0].phi[0].flatten() for component in network])
    assert torch.isin(quiet[:, ~observed], means).all() and not torch.isin(noisy[:, ~observed], means).any()
    assert len(quiet.flatten(1).unique(dim=0)) > 3
    again = InpaintWidget(widget.model, widget.images, value_range=(-3, 3), seed=0)
    assert torch.equal(again.fill(0, observed, "samples")[0], noisy)


def test_the_most_probable_kind_and_the_truth():
    dark, light = (rectangles(einet.Bernoulli(), seed=seed) for seed in range(2))
    for network, odds in ((dark, 0.2), (light, 0.7)):
        torch.nn.init.constant_(network.leaves.parts[0].phi, odds)
    model, observed = einet.Mixture([dark, light], [0.9, 0.1]), torch.arange(16).view(4, 4) < 3
    widget = InpaintWidget(model, torch.ones(1, 4, 4), kinds=["dark", "light"])
    assert widget.page["kinds"] == ["dark", "light"]
    filled, numbers = widget.fill(0, observed, "kind")
    share = torch.tensor([0.9 * 0.2**3, 0.1 * 0.7**3])
    assert numbers["kind"] == 1 and numbers["probability"] == pytest.approx((share[1] / share.sum()).item(), abs=1e-5)
    torch.testing.assert_close(filled[~observed], torch.full((13, 1), 0.7))
    filled, numbers = widget.fill(0, observed, "truth")
    assert torch.equal(filled, widget.images[0])
    assert numbers["logCompleted"] == pytest.approx(model(widget.images).item(), abs=1e-4)
    assert InpaintWidget(dark, torch.ones(1, 4, 4)).page["kinds"] == [], "one kind is none"
    with pytest.raises(ValueError, match="a name for each of 2 components, got 1"):
        InpaintWidget(model, torch.ones(1, 4, 4), kinds=["dark"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_of_ones_own(dtype):
    """It comes with the question, bit by bit, and must be one that the model could have."""
    model = rectangles(einet.Binomial(255), (4, 4), 2).to(dtype)
    widget = InpaintWidget(model, torch.zeros(1, 4, 4, dtype=dtype))
    own, observed = torch.arange(16).view(4, 4, 1).to(dtype), torch.arange(16).view(4, 4) < 9
    question = {"id": 3, "image": None, "view": "truth"}
    answer, shown = ask_raw(widget, question, [bytes(observed.flatten().tolist()), own.numpy().tobytes()])
    assert torch.equal(torch.frombuffer(bytearray(shown), dtype=widget.images.dtype), own.flatten().to(widget.images))
    assert answer["logDensity"] == pytest.approx(model(own[None], observed).item(), abs=1e-3)
    assert isinstance(widget.image, torch.Tensor) and torch.equal(widget.image, own)
    for bad, message in (
        (own + 0.5, "integer from 0 to 255"),
        (own - 1, "from 0 to 255"),
        (own[:3], r"\(1, 3, 4, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            widget.fill(bad, observed)
    (answer,) = ask_raw(widget, question, [bytes(16), bytes(7)])
    assert "got [16, 7]" in answer["error"]


@pytest.mark.parametrize(
    ("question", "mask", "message"),
    [
        ({"image": 3, "view": "mean"}, [1] * 16, "an image from 0 to 2"),
        ({"image": 0, "view": "median"}, [1] * 16, "median"),
        ({"image": 0, "view": "mean"}, [1] * 15, r"16 bytes, an image of your own [], got [15]"),
        ({"image": 0, "view": "mean", "noise": 1}, [1] * 16, "noise or not, got 'mean', 0, 1"),
    ],
)
def test_a_bad_question_is_answered_with_the_reason(question, mask, message):
    (content,) = ask_widget(image_widget(), {"id": 4, **question}, mask)
    assert content["id"] == 4 and message in content["error"]


GOOD, MASK = {"id": 4, "image": 0, "view": "mean"}, [bytes([1] * 16)]
SHAPELESS = [
    *((question, MASK) for question in (None, 5, "mean", [], [GOOD], {}, {"id": 4}, {**GOOD, "image": None})),
    *(({**GOOD, "image": image}, MASK) for image in (True, 0.5, "0", [0], {}, 10**400, float("nan"), -1)),
    *(({**GOOD, "view": view}, MASK) for view in (None, 5, ["mean"], {"mean": 1}, "mean" * 10**6)),
    *((GOOD, buffers) for buffers in (None, [], [b""], [bytes(10**7)], MASK * 2, ["text"], [None], 5)),
    *(({"id": name}, MASK) for name in ([], {}, "4" * 1000, None)),
]


@pytest.mark.parametrize("number", range(len(SHAPELESS)))
def test_every_message_is_answered(number):
    """Whatever a front end sends gets one answer, with a reason of readable length; the next question is answered."""
    widget = image_widget()
    question, buffers = SHAPELESS[number]
    (content,) = ask_raw(widget, question, buffers)
    assert content["error"] and len(content["error"]) < 300
    own = question.get("id") if isinstance(question, dict) else None
    assert content["id"] == (4 if own == 4 else None)
    assert json.dumps(content) and widget.image == 0 and widget.observed.all(), "nothing was changed"
    content, _ = ask_raw(widget, GOOD, MASK)
    assert content == {"id": 4, "logDensity": pytest.approx(widget.model(widget.images[:1]).item())}


@pytest.mark.parametrize("data", [{"method": "custom"}, {"method": "none of ours"}, {}, None, "text"])
def test_messages_that_ipywidgets_would_drop_are_answered(data):
    (content,) = ask_comm(image_widget(), {"content": {"data": data}})
    assert "a question must have an id" in content["error"]


def test_a_kernel_that_fails_says_so():
    widget = image_widget()
    widget.model = None
    (content,) = ask_raw(widget, GOOD, MASK)
    assert content["id"] == 4 and "the kernel failed: TypeError" in content["error"]


def test_the_samples_of_a_mixture_follow_its_posterior():
    """Their mean is the conditional mean: components are drawn by their posterior, not by their weights."""
    dark, light = (rectangles(einet.Bernoulli(), seed=seed) for seed in range(2))
    for network, odds in ((dark, 0.2), (light, 0.7)):
        torch.nn.init.constant_(network.leaves.parts[0].phi, odds)
    model = einet.Mixture([dark, light], [0.9, 0.1])
    x, observed = torch.ones(1, 4, 4), torch.arange(16).view(4, 4) < 2
    widget = InpaintWidget(model, x, seed=0)
    drawn = torch.stack([widget.fill(0, observed)[0] for _ in range(400)]).mean(0)[..., 0]
    wanted = einet.conditional_mean(model, x, observed)[0]
    assert 0.3 < wanted[3, 3] < 0.6 and torch.equal(drawn[observed], wanted[observed])
    assert abs(drawn[~observed].mean() - wanted[~observed].mean()) < 5 * 0.25 / 400**0.5


def test_components_that_the_evidence_rules_out_change_nothing():
    """Moments are passed through the likely components alone, explanations through all that could win."""
    networks = [rectangles(einet.Bernoulli(), seed=seed) for seed in range(4)]
    for network, odds in zip(networks, (1e-5, 0.3, 0.6, 1 - 1e-5), strict=True):
        torch.nn.init.constant_(network.leaves.parts[0].phi, odds)
    model = einet.Mixture(networks, [0.1, 0.2, 0.3, 0.4]).double()
    x, observed = (torch.arange(16).view(1, 4, 4) % 2).double(), torch.arange(16).view(4, 4) < 8
    widget = InpaintWidget(model, x)
    passed = []
    networks[0].leaves.register_forward_hook(lambda *_: passed.append(1))
    wanted = einet.conditional_marginals(model, x, observed)
    for view, numbers in (("mean", wanted.mean()), ("deviation", wanted.variance().sqrt())):
        passed.clear()
        filled, found = widget.fill(0, observed, view)
        torch.testing.assert_close(filled, numbers[0, ..., None], atol=1e-9, rtol=0)
        assert len(passed) == 1, "once for the posterior, not again"
        assert found["logDensity"] == pytest.approx(einet.log_marginal(model, x, observed).item(), abs=1e-9)
    _, found = widget.fill(0, observed, "explanation")
    assert found["logDensity"] == pytest.approx(einet.log_marginal(model, x, observed).item(), abs=1e-9)


def test_a_mask_of_the_wrong_shape():
    for observed in (torch.ones(16, dtype=torch.bool), torch.ones(4, 4), None):
        with pytest.raises(ValueError, match=r"bool tensor of shape \(4, 4\)"):
            image_widget().fill(0, observed)


@pytest.mark.parametrize(
    ("leaf", "images", "arguments", "message"),
    [
        (einet.Binomial(255), torch.zeros(2, 4, 5), {}, r"got \(2, 4, 5\)"),
        (einet.Binomial(255), torch.zeros(0, 4, 4), {}, "empty"),
        (einet.Binomial(255), torch.full((1, 4, 4), 256), {}, "from 0 to 255, got 256"),
        (einet.Binomial(255), torch.full((1, 4, 4), 0.5), {}, "integer from 0 to 255, got 0.5"),
        (einet.Normal(), torch.full((1, 4, 4), 1.5), {}, r"within \[0.0, 1.0\], got 1.5"),
        (einet.Normal(), torch.full((1, 4, 4), torch.nan), {}, "finite"),
        (einet.Normal(channels=3), torch.zeros(1, 4, 4), {}, "got"),
        (einet.Binomial(255), torch.zeros(2, 4, 4), {"labels": ["one"]}, "each of 2 images, got 1"),
    ],
)
def test_images_that_do_not_fit(leaf, images, arguments, message):
    with pytest.raises(ValueError, match=message):
        InpaintWidget(rectangles(leaf), images, **arguments)


def test_a_file_that_is_no_image_model(tmp_path):
    model = rectangles(einet.Bernoulli())
    einet.save(model, tmp_path / "plain.safetensors")
    for path, message in (
        (tmp_path / "plain.safetensors", "einet.inpaint.export"),
        (tmp_path / "none", "no such file"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            InpaintWidget(path, torch.zeros(1, 4, 4))
        assert str(path) in str(caught.value)


def test_html_is_for_pages(tmp_path):
    """With a kernel the widget's view, without one an element with all that the engine needs but the model."""
    widget = image_widget(labels=['a "quoted" <one>', "b", "c"])
    assert "JupyterLab" in widget.as_html() and "data-page" not in widget.as_html()
    export(widget.model, tmp_path / "shirts.safetensors", value_range=(0, 255))
    widget = InpaintWidget(tmp_path / "shirts.safetensors", widget.images, ['a "quoted" <one>', "b", "c"])
    bundle, _ = widget._repr_mimebundle_()
    assert bundle["text/html"] == widget.as_html() and "application/vnd.jupyter.widget-view+json" in bundle
    page = json.loads(html.unescape(re.search('data-page="([^"]*)"', widget.as_html())[1]))
    assert page == widget.page and page["labels"][0] == 'a "quoted" <one>'
    assert page["file"] == f"shirts-{hashlib.sha256((tmp_path / 'shirts.safetensors').read_bytes()).hexdigest()}"


def numbers_of(page):
    """The images as widget.js reads them."""
    read = [np.frombuffer(base64.b64decode(image), page["dtype"]) for image in page["images"]]
    return torch.tensor(np.stack(read)).view(-1, page["height"], page["width"], page["channels"])


@pytest.mark.parametrize(("dtype", "count"), [(torch.float32, 5), (torch.float64, 1)])
@pytest.mark.parametrize(
    ("family", "value_range"),
    [
        (einet.Normal(channels=3), (-1e3, 1e3)),
        (einet.Normal(), (-1.0, 1e-30)),
        (einet.Binomial(100_000), None),
        (einet.Categorical(categories=3), (0, 255)),
    ],
)
def test_the_page_has_the_very_numbers(family, value_range, dtype, count):
    """Reals, integers and codes of any range: what the page decodes is what the kernel looks at, bit by bit."""
    model = rectangles(family, (4, 4), 2).to(dtype)
    low, high = value_range or (0, 100_000)
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(count, 4, 4, family.channels, dtype=torch.float64, generator=generator)
    largest = high if isinstance(family, einet.Normal) else 2 if isinstance(family, einet.Categorical) else 100_000
    x = low + (largest - low) * u if isinstance(family, einet.Normal) else (largest * u).round()
    images = x.to(dtype).clamp(low, high)
    widget = InpaintWidget(model, images, value_range=value_range)
    assert numbers_of(widget.page).dtype == widget.images.dtype == dtype
    kept = images.clone()
    images.zero_()  # the caller's images may change: not what kernel and page look at
    assert torch.equal(numbers_of(widget.page), kept) and torch.equal(widget.images, kept)
    _, bytes_back = ask_raw(widget, {"id": 1, "image": count - 1, "view": "mean"}, [bytes([1] * 16)])
    assert torch.equal(torch.frombuffer(bytearray(bytes_back), dtype=dtype), kept[-1].flatten())


def test_a_picture_is_in_the_html():
    """Where nothing answers, and no script runs: a PNG of images, the same with a cover, and draws of what is below."""
    model = rectangles(einet.Normal(min_variance=1e-6, max_variance=1e-2, channels=3), (4, 4), 2)
    images = torch.rand(12, 4, 4, 3, generator=torch.Generator().manual_seed(0))
    html = InpaintWidget(model, images, [f"<{n}>" for n in range(12)]).as_html()
    alt, picture = re.search(r'<img alt="([^"]*)".*src="data:image/png;base64,([^"]*)"', html).groups()
    assert alt.startswith(", ".join(f"&lt;{n}&gt;" for n in range(10)) + ": ") and "&lt;10&gt;" not in alt
    pixels = (255 * plt.imread(io.BytesIO(base64.b64decode(picture)))).round()
    assert pixels.shape == (14, 40, 3)
    top, covered, filled = pixels[:4], pixels[5:9], pixels[10:]
    wanted = (255 * torch.cat([*images[:10]], 1)).round()
    np.testing.assert_array_equal(top, wanted)
    np.testing.assert_array_equal(covered[:2], wanted[:2])
    assert (covered[2:] == picture_colour()).all() and (pixels[4] == 255).all()
    np.testing.assert_array_equal(filled[:2], wanted[:2])
    means = (255 * model.leaves.parts[0].phi[0].detach()).round().clamp(0, 255)
    assert np.isin(filled[2:], means).all() and len(np.unique(filled[2:])) > 20, "means of leaves"
    assert InpaintWidget(model, images).as_html().split("base64,")[1] == html.split("base64,")[1], (
        "the same in every run"
    )


def picture_colour():
    """That of the cover in inpaint.css."""
    cover = re.search(r"--cover: #(\w{6});", (pages.SOURCE / "inpaint.css").read_text())[1]
    return np.array([*bytes.fromhex(cover)])


COMMITTED = sorted((ROOT / "book/models").glob("*.safetensors"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_models(path):
    """At most 2 MB, an image model that the widget reads, and its checksum in the README beside it."""
    assert path.stat().st_size <= 2_000_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() in (path.parent / "README.md").read_text()
    content, _ = read(path)
    assert content["image"] and content["circuits"]
    einet.load(path)


DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="no Fashion-MNIST here (apt-get install dataset-fashion-mnist)")
def test_the_clothes_of_chapter_11():
    """The sheet of images in book/_static: the first twenty of each kind of the test set."""
    images, labels = fashion_mnist("test")
    rows = [torch.cat(list(images[labels == kind][:20]), 1) for kind in range(10)]
    sheet = plt.imread(ROOT / "book/_static/13_clothes.png")
    np.testing.assert_array_equal((255 * sheet).round().astype(np.uint8), torch.cat(rows).numpy())


def model_channels(model):
    return getattr(model, "components", [model])[0].channels


def assert_near(found, wanted, atol, rtol=0.0):
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), wanted, atol=atol, rtol=rtol)
