"""Chapter 9's picture of other tables: what it counts, from records made up here."""

import matplotlib.pyplot as plt
import pytest

from book import other_tables


def record(part, table, method, **figures):
    return {"part": part, "table": table, "method": method, "splits": [{"split": 0, "status": "ok", **figures}]}


def density(table, einet, **others):
    figures = {"einet": einet, **others}
    return [record("density", table, name.replace("_", " "), test_log_likelihood=v) for name, v in figures.items()]


RECORDS = [
    *density("old_faithful", -4.0, gaussian_mixture=-4.2, kernels=-4.3),
    *density("swiss", -21.5, gaussian_mixture=-22.0, kernels=-21.0),
    *density("cars", -22.0, columns=-27.0),
    record("imputation", "swiss", "einet", rmse=1.04, accuracy=0.8),
    record("imputation", "swiss", "neighbours", rmse=1.0, accuracy=0.8),
    record("imputation", "cars", "einet", rmse=1.06, accuracy=0.7),
    record("imputation", "cars", "neighbours", rmse=1.0, accuracy=0.8),
    record("classes", "cars", "einet", accuracy=0.80, log_loss=0.5, accuracy_hidden=0.7),
    record("classes", "cars", "boosting", accuracy=0.805, log_loss=0.49, accuracy_hidden=0.6),
    record("classes", "swiss", "einet", accuracy=0.80, log_loss=0.5, accuracy_hidden=0.5),
    record("classes", "swiss", "boosting", accuracy=0.805, log_loss=0.46, accuracy_hidden=0.6),
    record("synthetic", "cars", "einet", quality=0.95),
    record("synthetic", "cars", "gaussian copula", quality=0.9),
]


def test_gains_are_from_the_best_of_the_others():
    found = other_tables.gains(RECORDS)
    assert [name for name, _, _ in found] == ["cars", "old faithful", "swiss"]
    assert [gain for _, gain, _ in found] == pytest.approx([5.0, 0.2, -0.5])
    assert [real for _, _, real in found] == [False, True, True]


def test_sentences_count_what_is_as_good_and_name_what_is_not():
    told = " ".join(other_tables.summary(RECORDS).split())
    assert "ahead by more than 0.1 nats on 2 of 3 tables, behind by more on swiss (-0.50)" in told
    assert "within 5% of the better of two imputers on 1 of 2 tables" in told and "by the better on 1 of 2" in told
    assert "as good as the best of three classifiers on 1 of 2 tables" in told and "most right on 1." in told
    assert "0.950 on average, a Gaussian copula's 0.900; ahead on 1 of 1" in told
    assert "more on none" in " ".join(other_tables.summary(density("cars", -22.0, columns=-27.0)).split())


def test_the_picture_has_a_mark_for_each_table(capsys):
    other_tables.show(RECORDS)
    ax = plt.gca()
    marks = sorted(float(x) for line in ax.lines[:2] for x in line.get_xdata())
    assert marks == pytest.approx([-0.5, 0.2, 5.0]) and ax.get_yticklabels()[0].get_text() == "cars"
    assert capsys.readouterr().out.startswith("Density: ")
    plt.close()
