"""experiments/debd.py on a made data set, end to end: what is chosen, resumed, recorded, compared."""

import ast
import gzip
import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

import einet
from einet.datasets import Source, binary
from experiments.debd import command as debd
from experiments.debd import learned as debd_learned
from experiments.debd import recipes as debd_recipes
from experiments.debd import search as debd_search
from experiments.debd import table as debd_table
from experiments.debd import training as debd_training
from experiments.debd.recipes import Recipe
from experiments.debd.search import Candidate, Result, Size
from experiments.records import ROOT

VARIABLES, ROWS = 6, {"train": 60, "valid": 30, "test": 40}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Two made sets, searches of a few small trainings, and everything in this process. Returns the options."""
    sources = {}
    generator = torch.Generator().manual_seed(0)
    for name in ("toy", "twin"):
        for split, rows in ROWS.items():
            side = torch.rand(rows, 1, generator=generator) < 0.5
            x = (torch.rand(rows, VARIABLES, generator=generator) < torch.where(side, 0.8, 0.2)).int()
            text = "".join(",".join(map(str, row)) + "\n" for row in x.tolist()).encode()
            sources[name, split] = Source(
                f"{name}/{name}.{split}.data", rows, VARIABLES, hashlib.sha256(text).hexdigest()
            )
            file = tmp_path / "data" / "debd" / f"{sources[name, split].path}.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(gzip.compress(text))
    monkeypatch.setenv("EINET_DATA", str(tmp_path / "data"))
    for module in (binary, debd):
        monkeypatch.setattr(module, "debd_sources", lambda: sources)
    monkeypatch.setattr(debd_search, "GRID", ((1, 2, 2, 1), (2, 2, 3, 2)))
    monkeypatch.setattr(debd_search, "PROBES", ((1, 2, 2, 1),))
    monkeypatch.setattr(debd_search, "LARGE", ((2, 4, 4, 4),))
    monkeypatch.setattr(debd_search, "STEPS", ((0.1, 20), (0.5, 20)))
    monkeypatch.setattr(debd_search, "PASSED_ROWS", 600)
    monkeypatch.setattr(debd_search, "FULL_BATCH_EPOCHS", 30)
    small = Recipe(num_trees=2, num_sums=2, epochs=6, batch_size=20)
    recipes = dict.fromkeys(("toy", "twin"), (small, replace(small, num_sums=3)))
    random = replace(small, depth=1, num_sums=4)
    for name, value in (("MEMBERS", {"toy": (random,)}), ("RECIPES", recipes)):
        for module in (debd, debd_recipes):
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(debd, "ProcessPoolExecutor", lambda workers, context: ThreadPoolExecutor(workers))
    return debd.parse_arguments(
        ["--only", "toy", "--workers", "1", "--output", f"{tmp_path}/made.json", "--runs", f"{tmp_path}/runs"]
    )


def without_seconds(value):
    """A record, and all within it, without how long anything took."""
    if isinstance(value, dict):
        return {name: without_seconds(each) for name, each in value.items() if name != "seconds"}
    return [without_seconds(each) for each in value] if isinstance(value, list) else value


def comparable(options):
    """Records without what differs between two runs, and all rows."""
    records = without_seconds(debd.read_records(options.output))
    for record in records:
        del record["provenance"]
    return records, {name: debd_table.read_rows(options.output, name) for name in options.names}


@pytest.fixture
def trainings(monkeypatch):
    """Counts trainings; `limit` is after how many the time is up."""

    def counted(trained):
        def train(self, candidate):
            if count.now >= count.limit:
                raise debd_training.OutOfTime(self.name)
            count.now += 1
            return trained(self, candidate)

        return train

    count = SimpleNamespace(now=0, limit=10**6)
    for owner, name in ((debd_training.Search, "trained"), (debd_learned.Trees, "_train")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return count


def test_records(made):
    assert debd.run_all(made) == 0
    records = debd.read_records(made.output)
    assert [(r["dataset"], r["learner"]) for r in records] == [("toy", name) for name in debd.LEARNERS]
    rows = debd_table.read_rows(made.output, "toy")
    for record in records:
        own = rows[record["learner"]]
        assert own.dtype == np.float32 and own.shape == (ROWS["test"],)
        assert record["test_log_likelihood"] == pytest.approx(own.mean(), abs=1e-4)
        assert record["standard_error"] == pytest.approx(own.std(ddof=1) / len(own) ** 0.5, abs=1e-4)
        assert record["test_log_likelihood"] > VARIABLES * np.log(0.5)  # it has learnt something
        assert record["provenance"]["command"].startswith("python experiments/debd.py") and record["seconds"] > 0
    full_batch, stochastic, best, one, several = (record["settings"] for record in records)
    assert full_batch["batch_size"] is None and full_batch["lr"] == 1 and full_batch["epochs"] == 30
    assert stochastic["batch_size"] == 20 and stochastic["candidates"] >= 4
    of_others = (full_batch["validation_log_likelihood"], stochastic["validation_log_likelihood"])
    assert best["validation_log_likelihood"] >= max(of_others)
    assert records[1]["t_test"] == debd_table.paired_t_test(rows["einet"], rows["rat-spn"])
    assert [record.get("t_test", {}).get("against") for record in records] == [None, "rat-spn", None, "best", "learned"]
    assert records[4]["t_test"] == debd_table.paired_t_test(rows["ensemble"], rows["learned"], "learned")
    tried = [result["valid"] for result in one["tried"]]
    assert (
        one["validation_log_likelihood"] == max(tried) and 2 + 3 <= len(tried) <= 2 + 4
    )  # one variation may be a recipe
    assert several["tried"] == len(tried) + 1 + 4  # the other member, and the best again
    assert sum(member["weight"] for member in several["members"]) == pytest.approx(1, abs=1e-4)
    assert several["validation_log_likelihood"] >= one["validation_log_likelihood"] - 1e-4
    for setting in ("epochs", "best_epoch", "pseudocount", "decay", "num_rows", "seed"):
        assert setting in best


def test_an_interrupted_run_goes_on(made, trainings, tmp_path):
    debd.run_all(made)
    expected, total = comparable(made), trainings.now
    made.output, made.runs = tmp_path / "again.json", tmp_path / "again"
    finished = []
    for limit in (3, 4, 9, 8, 10**6):  # the time is up within the first learner, the second, ..., and never
        trainings.now, trainings.limit = 0, limit
        assert debd.run_all(made) == 0
        finished.append(trainings.now)
    assert sum(finished) == total
    assert debd.read_records(made.output)[0]["seconds"] > 0
    found = comparable(made)
    assert found[0] == expected[0]
    for learner, rows in expected[1]["toy"].items():
        np.testing.assert_array_equal(found[1]["toy"][learner], rows)
    trainings.now = 0
    debd.run_all(made)
    assert trainings.now == 0


def test_one_set_that_fails_leaves_the_others_alone(made, monkeypatch, capsys):
    made.names, made.learners = ["toy", "twin"], ["rat-spn", "einet"]
    (Path(made.runs).parent / "data" / "debd" / "twin" / "twin.valid.data").write_text("damaged")
    assert debd.run_all(made) == 1
    assert {(r["dataset"], r["learner"]) for r in debd.read_records(made.output)} == {
        ("toy", "rat-spn"),
        ("toy", "einet"),
    }
    assert "twin rat-spn FAILED" in capsys.readouterr().out


def search_of(made, folder, deadline=float("inf")):
    return debd_training.Search("toy", made.runs / folder, deadline)


def test_a_long_training_goes_on_within(made, monkeypatch):
    candidate = Candidate(2, 2, 3, 2, epochs=12, lr=0.3, batch_size=20, decay=0.9)
    search = search_of(made, "whole")
    whole = search.model_of(search.result_of(candidate)).state_dict()
    monkeypatch.setattr(debd_training, "LONG", 1e-9)  # now it looks at the clock after every epoch
    for _ in range(5):
        with pytest.raises(debd_training.OutOfTime):
            search_of(made, "parts", time.time() + 0.001).fit(candidate)
    parts = search_of(made, "parts")
    assert 1 < debd_training.epochs_seen(parts.path(candidate, "run")) < 12
    result = parts.result_of(candidate)
    assert not parts.path(candidate, "run").exists()
    assert (result.valid, result.best_epoch) == (search.results[candidate].valid, search.results[candidate].best_epoch)
    for name, tensor in parts.model_of(result).state_dict().items():
        assert torch.equal(tensor, whole[name])


def test_a_dropped_model_comes_back_the_same(made):
    search = search_of(made, "dropped")
    results = search.run([Candidate(1, 2, 2, 1, epochs=5), Candidate(2, 2, 3, 2, epochs=5)])
    assert results[0].valid >= results[1].valid
    assert [search.path(result.candidate, "safetensors").exists() for result in results] == [True, False]
    before = search.model_of(results[0]).state_dict()
    search.path(results[0].candidate, "safetensors").unlink()
    for name, tensor in search.model_of(results[0]).state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_training_that_fails_comes_last(made, monkeypatch):
    fit = debd_training.einet.fit

    def failing(model, *arguments, **settings):
        if settings["batch_size"] == 20:
            raise ValueError("a gradient is not finite")
        return fit(model, *arguments, **settings)

    monkeypatch.setattr(debd_training.einet, "fit", failing)
    bad = Candidate(1, 2, 2, 1, epochs=5, batch_size=20)
    search = search_of(made, "failing")
    for _ in range(2):  # trained, then read
        results = search.run([bad, Candidate(1, 2, 2, 1, epochs=5)])
        assert results[-1].candidate == bad and results[-1].valid == -np.inf and "finite" in results[-1].error


def test_a_subset_is_the_same_rows(made):
    search = search_of(made, "subset")
    some = search.rows(Candidate(1, 2, 2, 1, epochs=5, rows=10))
    assert some.shape == (10, VARIABLES) and torch.equal(some, search.rows(Candidate(2, 2, 2, 2, epochs=9, rows=10)))
    assert search.rows(Candidate(1, 2, 2, 1, epochs=5)) is search.train


# What is tried


def recorded(size, learner="best"):
    """All candidates of a search in which the first one always wins."""
    seen = []

    def run(candidates):
        seen.extend(candidates)
        return [Result(c, -i, 1, 1, 1, 1.0) for i, c in enumerate(candidates)]

    debd.walk(learner, run, size, quick=False)
    return seen


@pytest.mark.parametrize("rows", [1600, 291326])
def test_every_learner_ends_on_all_rows(rows):
    size = Size(rows, rows // 10, 17)
    for learner in debd.ON_RANDOM_TREES:
        seen = recorded(size, learner)
        assert seen[-1].rows is None
        assert (debd_search.SUBSET in {candidate.rows for candidate in seen}) == (rows > debd_search.LARGE_SET)
        assert {candidate.structure for candidate in seen} >= set(debd_search.GRID)
        assert len({candidate.key for candidate in seen}) == len(set(seen))


def test_full_batch_is_full_batch():
    seen = recorded(Size(16181, 2157, 16), "rat-spn")
    assert {(c.batch_size, c.lr, c.pseudocount, c.decay) for c in seen} == {(None, 1.0, 0.0, 1.0)}
    assert max(c.epochs for c in seen) == 100


def test_the_schedule_ends_at_a_tenth():
    candidate = debd_search.scheduled(Candidate(1, 2, 2, 1, epochs=40))
    assert candidate.decay**candidate.epochs == pytest.approx(debd_search.LAST_STEP, rel=0.01)


def test_plan(capsys):
    debd.print_plan(debd.parse_arguments([]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 20 + 2
    hours = [float(line.split("hours, ")[1].split()[0]) for line in lines[-2:]]
    assert hours[1] < 12 and hours[0] < 20, "everything has to be done within 20 hours on two cores"
    quick = debd.parse_arguments(["--quick"])
    assert quick.names == ["nltcs", "dna"] and "ensemble" not in quick.learners
    of_set = [
        debd.planned_seconds(name, learner, quick=True) for name in quick.names for learner in ("best", "learned")
    ]
    assert sum(of_set) < 120


def test_arguments(capsys):
    for wrong in (["--only", "nltc"], ["--learners", "rat-spn,eniet"]):
        with pytest.raises(SystemExit):
            debd.parse_arguments(wrong)
    assert "eniet" in capsys.readouterr().err


# Comparison


@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.02, 0.3])
def test_t_test_against_scipy(shift):
    generator = np.random.default_rng(0)
    first = generator.normal(size=200)
    second = first + generator.normal(size=200) - shift
    ours = debd_table.paired_t_test(first, second)
    for alternative, key in (("greater", "p_better"), ("less", "p_worse")):
        theirs = stats.ttest_rel(first, second, alternative=alternative)
        assert ours[key] == pytest.approx(theirs.pvalue, rel=1e-9)
        assert ours["t"] == pytest.approx(theirs.statistic, abs=1e-4)
    assert ours["verdict"] == {-0.3: "worse", 0.0: "no difference", 0.02: "no difference", 0.3: "better"}[shift]


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "no difference"), (1.0, "better"), (-1.0, "worse")])
def test_t_test_of_constant_differences(shift, verdict):
    first = np.arange(5.0)
    test = debd_table.paired_t_test(first + shift, first)
    assert test["verdict"] == verdict and json.loads(json.dumps(test)) == test


def test_table():
    assert list(debd_table.PAPER) == list(dict.fromkeys(name for name, _ in binary.debd_sources()))
    records = [
        {"dataset": "nltcs", "learner": "einet", "test_log_likelihood": -6.015 * 1.004},
        {"dataset": "ad", "learner": "einet", "test_log_likelihood": -26.273 * 1.01},
        {"dataset": "ad", "learner": "best", "test_log_likelihood": -26.0},
    ]
    text = debd_table.table(records)
    assert "einet within 0.5 % of the paper's: 1 of 2" in text and "einet at worst 1.00 %" in text
    assert "best no worse than the paper's best: 1 of 1" in text and "nltcs" in text and "msnbc" not in text


# Learned trees


def test_every_set_has_recipes():
    names = {name for name, _ in binary.debd_sources()}
    assert set(debd_recipes.RECIPES) == names >= set(debd_recipes.MEMBERS)
    for name in names:
        own, more = debd_recipes.RECIPES[name], debd_recipes.MEMBERS.get(name, ())
        assert not any(recipe.depth for recipe in own), "a single model has a learned structure"
        others = (*debd_recipes.around(own[0]), *debd_recipes.again(own[0], 4), *more)
        assert len({*own}) == len(own) > 0 and len({*others}) == len(others) == 8 + len(more)


@pytest.mark.parametrize("seed", range(3))
def test_weights_of_a_mixture_against_a_grid(seed):
    rows = torch.randn(50, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    grid = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    means = torch.stack([torch.logsumexp(rows + torch.stack([w, 1 - w]).log(), 1).mean() for w in grid])
    weights = debd_learned.fitted_weights(rows)
    assert weights.sum().item() == pytest.approx(1)
    assert weights[0].item() == pytest.approx(grid[means.argmax()].item(), abs=2e-3)


def test_an_ensemble_is_one_density_with_exact_marginals(made):
    parts = (binary.debd("toy", split) for split in ("train", "valid"))
    trees = debd_learned.Trees("toy", made.runs / "one", *parts)
    recipes, more = debd.RECIPES["toy"], debd.MEMBERS["toy"]
    mixture, told = debd_learned.ensemble(trees, recipes, False, more, times=1)
    members = [trees.model_of(Recipe(**member["recipe"])) for member in told["settings"]["members"]]
    weights = [member["weight"] for member in told["settings"]["members"]]
    by_hand = sum(w * model(trees.valid).exp() for w, model in zip(weights, members, strict=True)).log()
    torch.testing.assert_close(mixture(trees.valid), by_hand, atol=1e-4, rtol=0)
    assert told["settings"]["validation_log_likelihood"] == pytest.approx(by_hand.mean().item(), abs=1e-4)
    everything = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * VARIABLES)
    assert mixture(everything).exp().sum().item() == pytest.approx(1, abs=1e-5)
    some = torch.arange(VARIABLES) < 2
    whole = everything[(everything[:, :2] == 1).all(1)]
    assert einet.log_marginal(mixture, whole[:1], some).item() == pytest.approx(
        mixture(whole).logsumexp(0).item(), abs=1e-5
    )


def test_full_batches_at_the_end_are_kept_where_validation_rows_gain(tmp_path, monkeypatch):
    x = (torch.rand(30, 4, generator=torch.Generator().manual_seed(0)) < 0.2).to(torch.uint8)
    plain = Recipe(num_trees=1, num_sums=2, epochs=2, lr=0.1, momentum=0.5)
    fit = einet.fit
    for ruined in (False, True):
        trees, end = debd_learned.Trees("toy", tmp_path / str(ruined), x, x), (1 - x) if ruined else x
        monkeypatch.setattr(
            einet, "fit", lambda model, x, end=end, **more: fit(model, end if more["lr"] == 1 else x, **more)
        )
        longer = replace(plain, full_batches=3)
        without, ended = trees.model_of(plain), trees.model_of(longer)
        told = einet.log_density(ended, x).double().mean().item()
        assert told == pytest.approx(trees.result_of(longer).valid, abs=1e-4)
        assert (told > trees.result_of(plain).valid + 0.1) == (not ruined)
        assert all(map(torch.equal, ended.parameters(), without.parameters())) == ruined


# Test rows


def test_one_function_opens_the_test_rows():
    """By the code: "test" as a constant is there once, in what `task` calls once, after the choice."""
    opened = []
    for file in sorted((ROOT / "experiments" / "debd").glob("*.py")):
        for function in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(function, ast.FunctionDef):
                words = [
                    n.value for n in ast.walk(function) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                ]
                names = [n.id for n in ast.walk(function) if isinstance(n, ast.Name)]
                opened += [(file.name, function.name)] * words.count("test")
                called = names.count("of_test_rows")
                assert called == ((file.name, function.name) == ("command.py", "task")), (file.name, function.name)
                assert "SPLITS" not in names
    assert opened == [("command.py", "of_test_rows")]


def test_test_rows_are_opened_once_a_record_and_last(made, monkeypatch):
    events = []

    def watched(owner, name, event):
        original = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *rest, **more: (events.append(event(*rest)), original(*rest, **more))[1]
        )

    watched(debd_training.Search, "trained", lambda *_: "train")
    watched(debd_learned.Trees, "_train", lambda *_: "train")
    for module in (debd, debd_training):
        watched(module, "debd", lambda _, split: split)
    watched(debd, "write_rows", lambda path, name, learner, rows: learner)
    debd.run_all(made)
    assert events.count("test") == len(debd.LEARNERS)
    before = [events[place - 1] for place, event in enumerate(events) if event in debd.LEARNERS]
    assert before == ["test"] * len(debd.LEARNERS)


# What is published


def test_published_values():
    assert list(debd_table.PUBLISHED) == list(debd_table.PAPER)
    for row in debd_table.PUBLISHED.values():
        assert float(row["single"]) <= float(row["any"]) < 0 and row["single_source"] and row["any_by"]


@pytest.mark.parametrize(("ours", "printed", "good"), [
    (-5.994, "-5.99", True), (-5.996, "-5.99", False), (-22.2514, "-22.251", True), (-22.26, "-22.251", False),
])  # fmt: skip
def test_reaches(ours, printed, good):
    assert debd_table.reaches(ours, printed) == good


def test_published_table():
    value = {name: float(row["hclt"]) - 0.01 for name, row in debd_table.PUBLISHED.items()}
    value["dna"] -= 0.05
    gains = dict(zip(debd_table.OURS, (-4, -3, -2, 0, 1), strict=True))
    records = [
        {"dataset": name, "learner": learner, "test_log_likelihood": value[name] + gain}
        | {"settings": {"validation_log_likelihood": gain}}
        for name in value for learner, gain in gains.items()
    ]  # fmt: skip
    text = debd_table.published_table(records)
    mean = sum(value.values()) / 20
    assert "learned within 0.05 nats of HCLT, or better: 19 of 20" in text
    assert f"learned, mean over 20 sets: {mean:.3f}" in text
    assert f"best of all, mean over 20 sets: {mean + 1:.3f}" in text
    beaten = sum(round(v + 1, 3) >= float(debd_table.PUBLISHED[name]["single"]) for name, v in value.items())
    assert f"best published, single: {beaten} of 20" in text
    ranks = next(line for line in text.splitlines() if line.startswith("rank")).split()
    assert len(ranks) == 1 + 10 + 3 and sum(map(float, ranks[1:11])) == pytest.approx(55, abs=0.06)
    assert float(ranks[3]) > float(ranks[4]) > float(ranks[5]) > float(ranks[6]) > float(ranks[7])
    assert "mean" in debd_table.published_table([])
    records[4]["settings"]["validation_log_likelihood"] = -3.5  # then the fourth is the best of its set
    chosen = debd_table.best_of_all(records)
    assert [record["learner"] for record in chosen.values()] == ["learned"] + ["ensemble"] * 19
    assert debd_table.best_of_all(records[:3]) == {}
