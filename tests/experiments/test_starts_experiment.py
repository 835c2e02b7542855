"""experiments/starts.py and experiments/learned.py: each training once, compared and chosen by validation rows."""

import json
from dataclasses import replace

import pytest
import torch

import einet
from experiments import learned, starts
from experiments.records import read_records


def record(dataset, structure, start, valid, rows=5, seed=0):
    key = {"dataset": dataset, "structure": structure, "start": start, "rows": rows, "seed": seed}
    return key | {"validation_log_likelihood": valid, "seconds": 1.0}


def test_gains_are_means_over_what_both_starts_have():
    found = [
        record("a", "tree", "flat", -5.0),
        record("a", "tree", "0.1+rows", -4.0),
        record("b", "tree", "flat", -9.0),
    ]
    found += [record("b", "tree", "0.1+rows", -9.5), record("c", "tree", "0.1+rows", -1.0)]
    _, line = starts.table(found).splitlines()
    gain = dict(zip(["structure", "sets", *starts.STARTS], line.split(), strict=True))
    assert gain["sets"] == "2" and gain["0.1+rows"] == "+0.250" and gain["0.3"] == "-"


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch, capsys):
    done = []

    def measured(*case):
        done.append(case)
        return record(*case[:3], -1.0, *case[3:])

    monkeypatch.setattr(starts, "measured", measured)
    monkeypatch.setattr(starts, "splits", lambda name, rows: [torch.zeros(min(rows, 7), 3)] * 3)
    output = tmp_path / "starts.json"
    arguments = ["starts.py", "--only", "dna,digits", "--structures", "tree,pd,rat-1", "--output", str(output)]
    for more, count in ((["--starts", "flat"], 4), ([], 4 * len(starts.STARTS))):
        monkeypatch.setattr("sys.argv", arguments + more)
        starts.main()
        assert len(done) == len(set(done)) == len(read_records(output)) == count
    assert ("digits", "rat-1", "flat", 7, 0) not in done and ("dna", "pd", "flat", 7, 0) not in done


@pytest.mark.parametrize("structure", ["rat-2", "rat-1-cp", "tree"])
def test_networks_of_structures(structure):
    x = (torch.rand(40, 5, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    flat, around = (starts.network("dna", structure, start, x, 0) for start in ("flat", "0.1+rows"))
    assert flat.sum_product == ("tucker" if structure == "rat-2" else "cp")
    assert not torch.equal(flat.leaves.parts[0].phi, around.leaves.parts[0].phi) and around(x).isfinite().all()


def test_the_best_by_validation_is_asked_for_the_test_rows(tmp_path, monkeypatch):
    splits = {name: torch.randint(2, (30, 4), dtype=torch.uint8) for name in ("train", "valid", "test")}
    asked = []
    monkeypatch.setattr(learned, "debd", lambda name, split: asked.append(split) or splits[split])
    monkeypatch.setattr(learned, "RUNS", tmp_path)
    recipes = [learned.Recipe(num_trees=1, num_sums=2, epochs=2, seed=seed) for seed in (0, 1)]
    found = learned.record("dna", recipes)
    valid = [each["validation_log_likelihood"] for each in found["tried"]]
    assert found["validation_log_likelihood"] == max(valid) and asked.count("test") == 1
    assert found["recipe"] == found["tried"][valid.index(max(valid))]["recipe"]
    assert learned.record("dna", recipes)["test_log_likelihood"] == found["test_log_likelihood"]
    assert asked.count("train") == 2, "a recipe is trained once"
    json.dumps(found)


def test_full_batches_at_the_end_are_kept_where_validation_rows_gain(tmp_path, monkeypatch):
    x = (torch.rand(30, 4, generator=torch.Generator().manual_seed(0)) < 0.2).to(torch.uint8)
    monkeypatch.setattr(learned, "debd", lambda name, split: x)
    plain = learned.Recipe(num_trees=1, num_sums=2, epochs=2, lr=0.1, momentum=0.5)
    fit = einet.fit
    for ruined in (False, True):
        monkeypatch.setattr(learned, "RUNS", tmp_path / str(ruined))
        ends = [(1 - x) if ruined else x]
        monkeypatch.setattr(
            einet, "fit", lambda model, x, ends=ends, **more: fit(model, ends[0] if more["lr"] == 1 else x, **more)
        )
        without, found = learned.trained("dna", plain)
        ended, gained = learned.trained("dna", replace(plain, full_batches=3))
        told = einet.log_density(ended, x).double().mean().item()
        assert told == pytest.approx(gained["validation_log_likelihood"], abs=1e-5)
        assert (told > found["validation_log_likelihood"] + 0.1) == (not ruined)
        assert all(map(torch.equal, ended.parameters(), without.parameters())) == ruined
