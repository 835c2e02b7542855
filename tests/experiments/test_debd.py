"""experiments/debd.py on a made data set, end to end: what is chosen, resumed, recorded, compared."""

import gzip
import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from einet.datasets import Source, binary
from experiments.debd import command as debd
from experiments.debd import search as debd_search
from experiments.debd import table as debd_table
from experiments.debd import training as debd_training
from experiments.debd.search import Candidate, Result, Size

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
    monkeypatch.setattr(debd, "ProcessPoolExecutor", lambda workers, context: ThreadPoolExecutor(workers))
    return debd.parse_arguments(
        ["--only", "toy", "--workers", "1", "--output", f"{tmp_path}/made.json", "--runs", f"{tmp_path}/runs"]
    )


def comparable(options):
    """Records without what differs between two runs, and all rows."""
    records = debd.read_records(options.output)
    for record in records:
        del record["provenance"], record["seconds"]
    return records, {name: debd_table.read_rows(options.output, name) for name in options.names}


@pytest.fixture
def trainings(monkeypatch):
    """Counts trainings; `limit` is after how many the time is up."""
    trained = debd_training.Search.trained

    def counted(self, candidate):
        if counted.count >= counted.limit:
            raise debd_training.OutOfTime(self.name)
        counted.count += 1
        return trained(self, candidate)

    counted.count, counted.limit = 0, 10**6
    monkeypatch.setattr(debd_training.Search, "trained", counted)
    return counted


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
    full_batch, stochastic, best = (record["settings"] for record in records)
    assert full_batch["batch_size"] is None and full_batch["lr"] == 1 and full_batch["epochs"] == 30
    assert stochastic["batch_size"] == 20 and stochastic["candidates"] >= 4
    of_others = (full_batch["validation_log_likelihood"], stochastic["validation_log_likelihood"])
    assert best["validation_log_likelihood"] >= max(of_others)
    assert records[1]["t_test"] == debd_table.paired_t_test(rows["einet"], rows["rat-spn"])
    assert "t_test" not in records[0] and "t_test" not in records[2]
    for setting in ("epochs", "best_epoch", "pseudocount", "decay", "num_rows", "seed"):
        assert setting in best


def test_an_interrupted_run_goes_on(made, trainings, tmp_path):
    debd.run_all(made)
    expected, total = comparable(made), trainings.count
    made.output, made.runs = tmp_path / "again.json", tmp_path / "again"
    finished = []
    for limit in (3, 4, 9, 10**6):  # the time is up within the first learner, within the second, and never
        trainings.count, trainings.limit = 0, limit
        assert debd.run_all(made) == 0
        finished.append(trainings.count)
    assert sum(finished) == total
    assert debd.read_records(made.output)[0]["seconds"] > 0
    found = comparable(made)
    assert found[0] == expected[0]
    for learner, rows in expected[1]["toy"].items():
        np.testing.assert_array_equal(found[1]["toy"][learner], rows)
    trainings.count = 0
    debd.run_all(made)
    assert trainings.count == 0


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
    for learner in debd.LEARNERS:
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
    assert hours[1] < 8 and hours[0] < 16, "everything has to be done overnight"
    assert debd.planned_seconds("nltcs", quick=True) < 40


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
