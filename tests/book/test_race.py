"""What chapter 11 makes of the race: book/race.py."""

import matplotlib.pyplot as plt
import pytest
import torch

import einet
from book import race


def record(who, num_sums=10, depth=4, num_replicas=10, **facts):
    point = {"num_sums": num_sums, "depth": depth, "num_replicas": num_replicas}
    return {"implementation": who, **point, "status": "ok", "ratios": {}, "bars": {}, **facts}


@pytest.mark.parametrize("point", [(3, 1, 2), (2, 4, 3), (5, 3, 1)])
def test_counts_are_those_of_a_network(point):
    num_sums, depth, num_replicas = point
    graph = einet.random_binary_trees(race.D, depth, num_replicas, seed=0)
    model = einet.Einet(graph, einet.Normal(), num_sums, seed=0)
    counted = race.counts(*point)
    weights = sum(level.einsums[0].weights.numel() for level in model.levels)
    assert counted["einsums"] == race.B * weights
    assert counted["leaves"] == race.B * model.leaves.parts[0].phi.numel()


def test_prices_that_made_the_times_are_found_again():
    def seconds(*point):
        c = race.counts(*point)
        return 3e-9 * c["einsums"] + 2e-8 * c["leaves"] + 1e-3 * c["layers"]

    points = [(k, depth, r) for k in (1, 10, 40) for depth in (1, 4, 9) for r in (1, 10, 40)]
    measured = [dict(epoch_seconds=seconds(*p), inference_seconds=1e-5, peak_bytes=1e6) for p in points]
    records = [record("einet", *p, **m) for p, m in zip(points, measured, strict=True)]
    records.append(record("spflow", epoch_seconds=1e9, inference_seconds=1.0, peak_bytes=1))
    cost = race.Cost.fit(records)
    assert race.worst(cost.errors(records, "epoch_seconds")) == pytest.approx(1, abs=1e-6)
    assert cost(25, 5, 15)["epoch_seconds"] == pytest.approx(seconds(25, 5, 15), rel=1e-6)


def test_the_picture_has_a_line_for_each_contestant_and_sweep():
    points = [(1, 4, 10), (10, 4, 10), (40, 4, 10), (10, 9, 10)]
    records = [record(who, *p, epoch_seconds=0.5 + i) for who in ("einet", "spflow") for i, p in enumerate(points)]
    records.append(record("spflow", 20, epoch_seconds=None))  # failed there
    race.picture(records)
    drawn = [{line.get_label(): line.get_xydata().tolist() for line in ax.lines} for ax in plt.gcf().axes]
    assert drawn[0]["spflow"] == drawn[0]["einet"] == [[1, 0.5], [10, 1.5], [40, 2.5]]
    assert drawn[1]["einet"] == [[4, 1.5], [9, 3.5]] and drawn[2]["einet"] == [[10, 1.5]]
    plt.close()


def test_what_went_wrong_is_told_once_with_its_points():
    records = [record("a", k, remark=f"{k}.5% are clamped") for k in (1, 2)]
    records += [record("b", 1), record("b", 2, status="out of memory: killed")]
    assert race.failures(records) == [
        "a: some are clamped (at all its 2 points)",
        "b: out of memory: killed (at K, depth, R = 2/4/10)",
    ]


def test_a_bar_is_met_from_its_value_on():
    records = [record("b", ratios={"training": t, "memory": 1.0}, bars={"training": 6}) for t in (5.9, 6.0)]
    assert [row["met"] for row in race.table(records)] == [False, True]


def test_the_worst_error_counts_in_both_directions():
    assert race.worst([1.1, 0.5]) == pytest.approx(2)


def test_a_point_does_not_help_to_predict_itself():
    points = [(k, depth, r) for k in (1, 10, 40) for depth in (1, 4, 9) for r in (1, 10, 40)]
    measured = {p: race.counts(*p)["vectors"] * 1e-6 for p in points}
    measured[10, 4, 10] *= 3
    records = [record("einet", *p, epoch_seconds=s, inference_seconds=s, peak_bytes=s) for p, s in measured.items()]
    factors = dict(zip(points, race.Cost.errors(records, "epoch_seconds"), strict=True))
    assert factors[10, 4, 10] == pytest.approx(1 / 3, rel=1e-6)


# The reader's own machine

POINTS = [(10, 4, 10), (20, 4, 10), (10, 2, 10)]  # one in all rows, one in the first, one in the second


@pytest.fixture
def two_threads():
    """So that a machine that is timed with one thread has set it; conftest.py sets it back."""
    torch.set_num_threads(2)


@pytest.mark.slow
def test_this_machine_is_timed_at_all_points(two_threads):
    own = race.own_machine(POINTS, at_most=float("inf"))  # however busy it is
    assert [race.at(r) for r in own] == POINTS
    for r in own:
        assert 0 < r["inference_seconds"] < r["epoch_seconds"]
        vectors = 4 * race.counts(*race.at(r))["vectors"]  # float32, all kept between the passes
        assert r["peak_bytes"] is None or vectors < r["peak_bytes"] < 100e6
    assert torch.get_num_threads() == 1


def test_when_time_is_up_no_other_point_is_begun(two_threads):
    assert [race.at(r) for r in race.own_machine(POINTS, at_most=0)] == POINTS[:1]


def test_this_machine_is_a_dashed_line_beside_the_others():
    facts = {"epoch_seconds": 2.0, "inference_seconds": 1e-4, "peak_bytes": None}
    race.picture(
        [record("spflow", *p, **facts) for p in POINTS], race.MEASURES, [record("einet", *p, **facts) for p in POINTS]
    )
    drawn = [{line.get_label(): line.get_xydata().tolist() for line in ax.lines} for ax in plt.gcf().axes]
    own = [lines.get("einet, this machine") for lines in drawn]
    assert own[:3] == [[[10, 2.0], [20, 2.0]], [[2, 2.0], [4, 2.0]], [[10, 2.0]]]
    assert own[3][0] == pytest.approx([10, 10.0]) and own[6:] == [None] * 3  # in ms; no memory, no line
    assert drawn[3]["spflow"][0] == pytest.approx([10, 10.0])
    plt.close()


# Learned structures


def learned(who, data="ad", **facts):
    return {"implementation": who, "data": data, "num_sums": 16, "status": "ok", "ratios": {}, "bars": {}, **facts}


def test_leads_over_learned_structures():
    records = [learned(who, data) for data in ("ad", "dna") for who in ("einet", "a", "b")]
    records[1]["ratios"] = {"training": 3.0, "memory": 0.5}
    records[4] |= {"status": "timeout: no answer", "bars": {"training": 3}}
    records[5] |= {"ratios": {"training": 2.0}, "bars": {"training": 3}}
    found = race.leads(records, "training")
    assert list(found.index) == [("ad", 16), ("dna", 16)] and list(found) == ["a", "b"]
    assert found.loc[("ad", 16), "a"] == 3.0 and found.loc[("dna", 16), "b"] == 2.0 and found.isna().sum().sum() == 2
    assert race.table(records) == [
        {"rival": "b", "data, K": ("dna", 16), "what": "training", "factor": 2.0, "bar": 3, "met": False}
    ]
    assert race.failures(records) == ["a: timeout: no answer (at data, K = dna/16)"]


def test_a_verdict_and_a_table_of_leads_and_promises():
    """Two kept of three: the least factor of a rival and a measure is told even where that promise was missed."""
    bars = {"training": 3, "inference": 2, "memory": 2}
    facts = {"epoch_seconds": 0.2, "ratios": {"training": 4.0, "inference": 2.5, "memory": 1.98}, "bars": bars}
    faster = {"epoch_seconds": 0.2, "ratios": {"training": 8.0}, "bars": {"training": 3}}
    records = [record("einet", epoch_seconds=0.2), record("a", **facts), record("a", 40, **faster)]
    records.append(record("b", epoch_seconds=2.0, ratios={"training": 10.0, "memory": 3.0}, bars={"memory": 2}))
    standing = race.standing(records)
    assert standing.loc["a"].tolist() == ["4 (2/2)", "2.5 (1/1)", "1.98 (0/1)"]
    assert standing.loc["b", "memory"] == "3 (1/1)" and standing.loc["b"].isna().sum() == 2
    assert race.verdict(records) == (
        "At K = 10, depth = 4, R = 10 an epoch of einet takes 0.20 seconds; its rivals need from 4.0 (a) to 10.0 (b) "
        "times as long. Of 5 promises 4 were kept and 1 missed."
    )
