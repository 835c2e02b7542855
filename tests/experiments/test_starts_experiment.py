"""experiments/starts.py: each training once, compared by validation rows."""

import pytest
import torch

from experiments import starts
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
