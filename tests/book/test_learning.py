"""What chapter 7 draws: book/learning.py."""

import matplotlib.pyplot as plt

from book import learning
from einet.training import History


def record(dataset, structure, start, valid, seed=0):
    key = {"dataset": dataset, "structure": structure, "start": start, "rows": 5, "seed": seed}
    return key | {"validation_log_likelihood": valid}


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


def test_deep_trees_are_held_against_shallow_ones_of_the_same_start():
    found = [record("a", "rat-1", "flat", -5.0), record("a", "rat-4", "flat", -5.5)]
    found += [record("a", "rat-1", "0.1+rows", -4.0), record("a", "rat-4", "0.1+rows", -3.0)]
    found += [record("b", "rat-1", "flat", -8.0, seed) for seed in (0, 1)]
    found += [record("b", "rat-4", "flat", -9.0 - seed, seed) for seed in (0, 1)]
    found += [record("b", "rat-4", "0.1+rows", -1.0), record("c", "rat-4", "flat", -1.0)]  # nothing to compare with
    ahead = learning.deep_gains(found)
    assert ahead.index.tolist() == ["b", "a"] and ahead["flat"].tolist() == [-1.5, -0.5]
    assert list(ahead) == ["flat", "0.1+rows"] and ahead["0.1+rows"].dropna().to_dict() == {"a": 1.0}
    learning.picture(found)
    (ax,) = plt.gcf().axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert drawn["weights flat, leaves at random"] == [-1.5, -0.5]
    assert drawn["weights 0.1, leaves around rows"][1] == 1.0
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
