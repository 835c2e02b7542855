"""The race of experiments/: who meets where, what is promised, what is written, and the floor under it."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import einet
from experiments import environments, records
from experiments.race import efficiency, floor
from experiments.race.efficiency import DEFAULT, Point, bars_of

EAGER = [name for name in efficiency.NAMES if name not in ("einet", *efficiency.COMPILED)]
FULL = SimpleNamespace(points=None, full=True, names=list(efficiency.NAMES))


def record(name, epoch=1.0, inference=1e-4, peak=1e6, status="ok", point=DEFAULT):
    measured = {"epoch_seconds": epoch, "inference_seconds": inference, "peak_bytes": peak}
    return {"implementation": name, "device": "cpu", "status": status, **vars(point), **measured}


# What is promised (the factors that the issue names)


@pytest.mark.parametrize("rival", EAGER)
@pytest.mark.parametrize("change", [{"num_sums": k} for k in (10, 40)] + [{"num_replicas": r} for r in (15, 40)])
def test_everyone_eager_has_bars_at_large_points(rival, change):
    bars = bars_of(replace(DEFAULT, **change), rival)
    assert bars["training"] >= 6
    assert bars["inference"] >= 5
    assert bars["memory"] >= 4


@pytest.mark.parametrize("rival", EAGER)
def test_bars_at_depth_9(rival):
    assert bars_of(Point(depth=9), rival) == {"training": 3, "inference": 5, "memory": 4}


def test_other_bars():
    assert bars_of(DEFAULT, "libcirkit-compiled") == {"training": 3, "inference": 2, "memory": 2}
    assert bars_of(Point(num_sums=40), "log-domain")["training"] == 10
    assert bars_of(Point(num_sums=40), "libcirkit-compiled") == {}
    assert bars_of(Point(num_sums=5), "spflow") == {}
    assert bars_of(Point(depth=3), "spflow") == {}


def test_ratios_are_written_beside_the_bars():
    records = [record("einet"), record("spflow", 7.0, 4e-4, 5e6), record("libcirkit", status="out of memory")]
    efficiency.compare(DEFAULT, records)
    assert records[1]["ratios"] == pytest.approx({"training": 7, "inference": 4, "memory": 5})
    assert records[2]["ratios"] == {} != records[2]["bars"]
    assert records[0]["ratios"] == records[0]["bars"] == {}
    assert efficiency.ratios(records[1]).startswith("training 7.0x (bar 10: SHORT), inference 4.0x (bar 5: SHORT)")


def test_nobody_is_compared_with_a_contestant_that_failed():
    records = [record("einet", status="failed"), record("spflow")]
    efficiency.compare(DEFAULT, records)
    assert records[1]["ratios"] == {}


# Who meets where


def test_the_sweep_has_the_papers_points_and_all_contestants():
    plan = dict(efficiency.plan(FULL))
    assert {p.num_sums for p in plan} >= {1, 10, 20, 40}
    assert {p.depth for p in plan} == set(range(1, 10))
    assert {p.num_replicas for p in plan} >= {1, 10, 20, 40}
    assert len(efficiency.plan(FULL)) == len(plan), "each point once"
    assert all(set(names) >= {"einet", *EAGER} for names in plan.values())
    assert "libcirkit-compiled" in plan[DEFAULT]
    assert "libcirkit-compiled" not in plan[Point(num_sums=2)]


def test_results_are_replaced_point_by_point(tmp_path):
    path, other = tmp_path / "new" / "efficiency.json", Point(num_sums=40)
    efficiency.save(path, DEFAULT, [record("einet"), record("spflow")], "cpu")
    efficiency.save(path, other, [record("einet", point=other)], "cpu")
    efficiency.save(path, DEFAULT, [record("einet", epoch=2.0)], "cpu")
    found = {(r["implementation"], r["num_sums"]): r["epoch_seconds"] for r in json.loads(path.read_text())}
    assert found == {("einet", 10): 2.0, ("spflow", 10): 1.0, ("einet", 40): 1.0}


def test_records_of_other_files_are_merged_whole_and_in_order(tmp_path, monkeypatch):
    path, other = tmp_path / "efficiency.json", tmp_path / "other.json"
    wide, deep = Point(num_sums=40), Point(depth=2)
    efficiency.save(path, deep, [record("spflow", point=deep), record("einet", point=deep)], "cpu")
    efficiency.save(path, wide, [record("einet", point=wide)], "cpu")
    again = record("einet", epoch=2.0, point=wide) | {"ratios": {"training": 3.0}, "remark": "kept whole"}
    records.write_records(other, [record("spflow"), again, record("einet", point=replace(DEFAULT, num_replicas=1))])
    monkeypatch.setattr(sys, "argv", ["efficiency.py", "--merge", str(other), "--output", str(path)])
    efficiency.main()
    merged = json.loads(path.read_text())
    points = ("default", "K=40", "depth=2", "depth=2", "R=1")
    assert [str(Point(*map(r.get, ("num_sums", "depth", "num_replicas")))) for r in merged] == list(points)
    assert merged[1] == again and [r["implementation"] for r in merged[2:4]] == ["einet", "spflow"]


def test_the_results_of_the_book_are_as_the_race_writes_them(tmp_path):
    """Nobody puts them together by hand: merged into an empty file they are what they were."""
    efficiency.merge(tmp_path / "efficiency.json", records.read_records(efficiency.RESULTS))
    assert (tmp_path / "efficiency.json").read_text() == efficiency.RESULTS.read_text()


def test_a_command_is_told_without_the_places_of_a_machine(tmp_path):
    """Names inside the checkout are told from its root, an option whose value lies elsewhere is not told."""
    inside = str(records.ROOT / "book" / "results" / "new.json")
    words = [
        "--points",
        "K=1",
        "--output",
        str(tmp_path / "x.json"),
        f"--runs={tmp_path}",
        "--models",
        inside,
        "--full",
    ]
    told = "python experiments/efficiency.py --points K=1 --models book/results/new.json --full"
    assert records.command_line(words, "efficiency.py") == told
    assert records.portable(["python", str(tmp_path / "race.py"), "10/4/10"]) == "python race.py 10/4/10"
    made = {"value": 1, "provenance": {"command": " ".join([*told.split(), "--output", str(tmp_path)]), "seed": 0}}
    records.write_records(tmp_path / "made.json", [made])
    assert records.read_records(tmp_path / "made.json")[0]["provenance"] == {"command": told, "seed": 0}


# The race itself, at its smallest point: what a missing library looks like, and what a present one leaves


@pytest.mark.slow
def test_a_race(tmp_path):
    options = SimpleNamespace(
        device="cpu", seed=0, no_venv=True, threads=1, rounds=1, round_seconds=0.1, infer_seconds=0.1
    )
    options.timeout = 120.0
    point = Point(num_sums=1, depth=1, num_replicas=2)
    einet_record, logs, absent = efficiency.race(point, ["einet", "log-domain", "libspn-keras"], options)
    for r in (einet_record, logs):
        assert r["status"] == "ok"
        assert r["epoch_seconds"] > 0 < r["inference_seconds"]
        assert (r["sum_weights"], r["leaf_parameters"]) == (4, 2048)
        assert r["provenance"]["commit"]
    assert logs["ratios"]["training"] == pytest.approx(logs["epoch_seconds"] / einet_record["epoch_seconds"])
    assert absent["status"].startswith("not installed: ") and absent["epoch_seconds"] is None
    assert absent["provenance"]["machine"]


def test_why_a_rival_cannot_be_installed_is_its_status(tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"{tmp_path / 'no_such_wheel-1-py3-none-any.whl'}\n")
    _, status = environments.installed(tmp_path / "venv", requirements)
    assert status.startswith("not installed: ERROR:")
    assert "no_such_wheel" in status


def test_the_last_error_counts():
    assert environments.last_error("ERROR: one\nERROR: two\n[notice] a new release of pip\n") == "ERROR: two"
    assert environments.last_error("killed\n") == "killed"
    assert environments.last_error("") == "pip said nothing"


# The floor


@pytest.mark.parametrize(("num_sums", "depth", "num_replicas"), [(3, 2, 2), (4, 3, 1), (2, 1, 3)])
def test_counts_of_the_floor(num_sums, depth, num_replicas):
    """RAT: R 2^(t - 1) einsums at distance t from the root's partitions, the topmost with one entry."""
    graph = einet.random_binary_trees(16, depth, num_replicas, seed=0)
    layers = floor.products(einet.Einet(graph, einet.Normal(), num_sums=num_sums))
    forward = sum(floor.multiply_adds(p) for p in layers)
    einsums = num_sums**2 * num_replicas * (1 + num_sums * sum(2**t for t in range(1, depth)))
    assert forward == floor.BATCH * (einsums + 2 * 16 * num_replicas * num_sums)


def test_the_floor_is_below_what_einet_needs(monkeypatch):
    """Also with noise: the floor takes the best of many products, and einet does more than multiply."""
    monkeypatch.setattr(floor, "THREADS", torch.get_num_threads())
    monkeypatch.setattr(floor, "REPEATS", 5)
    floor.product_rate.cache_clear()
    (bound,) = floor.lay([(4, 3, 4)])
    assert bound["multiply_adds"]["epoch"] > 2 * 20 * bound["multiply_adds"]["inference"]
    assert all(0 < seconds for rate in ("peak_seconds", "shape_seconds") for seconds in bound[rate].values())
    model = einet.Einet(einet.random_binary_trees(512, 3, 4, seed=0), einet.Normal(), num_sums=4)
    rows = torch.randn(floor.BATCH, 512)
    with torch.no_grad():
        seconds = 1 / floor.best_rate(1, lambda: model(rows))
    assert bound["peak_seconds"]["inference"] < seconds
    assert bound["provenance"]["machine"]
