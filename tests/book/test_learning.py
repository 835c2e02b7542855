"""What chapter 7 draws: book/learning.py."""

import itertools

import matplotlib.pyplot as plt
import pandas as pd

from book import learning
from einet.training import History


def record(dataset, structure, start, valid, seed=0):
    key = {"dataset": dataset, "structure": structure, "start": start, "rows": 5, "seed": seed}
    return key | {"validation_log_likelihood": valid}


def of_depths(datasets, starts, value):
    cases = itertools.product(datasets, learning.DEPTHS.items(), starts)
    return [record(name, structure, start, value(name, depth, start)) for name, (structure, depth), start in cases]


def test_a_start_is_compared_where_both_were_run():
    found = [record("a", "tree", "flat", -5.0), record("a", "tree", "0.1+rows", -4.0)]
    found += [record("b", "tree", "flat", -9.0), record("b", "tree", "0.1+rows", -9.5)]
    found += [record("c", "tree", "0.1+rows", -1.0)]  # nothing to compare with
    found += [record("digits", "tree", "flat", -200.0), record("digits", "tree", "0.1", -150.0)]
    found += [record("a", "tree-cp", "flat", 0.0), record("a", "tree", "0.3", 0.0)]  # of neither list
    table = learning.table(found)
    assert table.index.tolist() == ["tree", "digits, tree"], "the nats of images are no binary set's"
    assert table.loc["tree", "0.1+rows"] == "+0.250 (1 of 2)" and table.loc["tree", "0.1"] == learning.GAP
    assert table.loc["digits, tree", "0.1"] == "+50.000 (1 of 1)"
    gains = learning.gains(found)["0.1+rows"].dropna()
    assert gains.tolist() == [1.0, -0.5]


def test_depths_are_compared_on_the_sets_that_have_all_starts():
    def value(name, depth, start):
        return {"a": -10.0, "b": -20.0, "c": 0.0}[name] - depth * (0.5 if start == "flat" else 0.25)

    found = of_depths("ab", ["flat", "0.1+rows"], value) + of_depths("c", ["flat", "0.3+rows"], value)
    means = learning.by_depth(found)
    assert means.attrs["sets"] == 2 and means.index.tolist() == [1, 2, 3, 4]
    expected = pd.DataFrame({"flat": [0.0, -0.5, -1.0, -1.5], "0.1+rows": [0.25, 0.0, -0.25, -0.5]}, [1, 2, 3, 4])
    pd.testing.assert_frame_equal(means, expected, check_names=False)
    learning.picture(found)
    (ax,) = plt.gcf().axes
    drawn = {line.get_label(): line for line in ax.lines}
    assert list(drawn) == ["weights flat, leaves at random", "weights 0.1, leaves around rows"]
    assert drawn["weights 0.1, leaves around rows"].get_ydata().tolist() == [0.25, 0.0, -0.25, -0.5]
    plt.close()


def test_curves_name_the_best_held_out_value():
    runs = {"EM, full batch": History(train=[-20, -18], valid=[-21, -20.25]), "Adam, 0.1": History([-19], [-20])}
    learning.curves(runs)
    training, held_out = plt.gcf().axes
    assert [line.get_label() for line in held_out.lines] == ["EM, full batch: -20.2", "Adam, 0.1: -20.0"]
    assert training.lines[0].get_xydata().tolist() == [[1, -20], [2, -18]]
    assert training.lines[0].get_color() != training.lines[1].get_color()
    plt.close()


def test_a_single_run_has_nothing_to_be_compared_with():
    only = [record("a", "rat-1", "flat", -1.0)]
    assert (learning.table(only) == learning.GAP).all(axis=None)
