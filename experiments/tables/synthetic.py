"""SDMetrics' quality report of as many rows sampled from the fit as it was fitted to: 1 is best.

The rival is copulas' GaussianMultivariate, which picks the family of each column. As in SDV, a category becomes a
number drawn within an interval as long as its share, a date the day, and gaps, of which a copula knows nothing, are
filled from the column at random; einet is fitted with them.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from experiments.tables.cells import DAY, numbers, split
from experiments.tables.learners import fitted_density
from experiments.tables.sources import Table


def methods(table: Table) -> list[str]:
    return ["gaussian copula", "einet"]


def measure(table: Table, method: str, seed: int) -> dict:
    frame = table.rows()
    train = frame.iloc[split(len(frame), seed)[0]].reset_index(drop=True)
    refused = None
    if method == "einet":
        fitted = fitted_density(train, seed)
        sampled, refused = fitted.frame(fitted.estimator.sample(len(train)), train), fitted.refused
    else:
        sampled = copula_rows(train, seed)
    return quality(train, sampled) | {"refused": refused}


def quality(real: Any, sampled: Any) -> dict:
    """The score of the report, and its two parts: shapes of columns and trends of pairs."""
    from sdmetrics.reports.single_table import QualityReport

    kinds = {name: _kind(real[name]) for name in real.columns}
    # SDMetrics compares within a kind; both tables have the same dtypes.
    real, sampled = (_plain(frame, kinds) for frame in (real, sampled))
    report = QualityReport()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report.generate(real, sampled, {"columns": {n: {"sdtype": k} for n, k in kinds.items()}}, verbose=False)
    scores = report.get_properties().set_index("Property")["Score"]
    names = {"columns": "Column Shapes", "pairs": "Column Pair Trends"}
    return {"quality": float(report.get_score())} | {name: float(scores[key]) for name, key in names.items()}


def _kind(column: Any) -> str:
    return "categorical" if column.dtype.kind in "bOT" else "datetime" if column.dtype.kind == "M" else "numerical"


def _plain(frame: Any, kinds: dict[str, str]) -> Any:
    made = {}
    for name, kind in kinds.items():
        column = frame[name]
        made[name] = column.astype(float) if kind == "numerical" else column
        if kind == "categorical":
            made[name] = column.astype(object).where(column.notna(), None)
        if kind == "datetime":
            made[name] = column.astype("datetime64[ns]")
    return type(frame)(made)


def copula_rows(train: Any, seed: int) -> Any:
    """As many rows as in training, from copulas' Gaussian copula."""
    from copulas.multivariate import GaussianMultivariate

    random = np.random.default_rng(seed)
    shares = {n: train[n].astype(str).value_counts(normalize=True) for n in train if _kind(train[n]) == "categorical"}
    coded = type(train)({name: _as_numbers(train[name], shares.get(name), random) for name in train.columns})
    model = GaussianMultivariate(random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(coded)
        rows = model.sample(len(train))
    return type(train)({name: _as_were(rows[name], train[name], shares.get(name)) for name in train.columns})


def _as_numbers(column: Any, shares: Any, random: np.random.Generator) -> np.ndarray:
    known = column.dropna().to_numpy()
    column = column.copy()
    column[column.isna()] = random.choice(known, int(column.isna().sum()))
    if shares is None:
        return numbers(column).astype(float)
    ends = shares.cumsum()
    return np.array([ends[str(v)] - shares[str(v)] * random.random() for v in column])


def _as_were(values: Any, column: Any, shares: Any) -> Any:
    x = values.to_numpy()
    if shares is not None:
        ends = shares.cumsum()
        return ends.index.to_numpy()[np.searchsorted(ends.to_numpy()[:-1], x)]
    x = x.clip(np.nanmin(numbers(column)), np.nanmax(numbers(column)))  # as SDV's enforce_min_max_values
    if column.dtype.kind == "M":
        return np.datetime64(0, "D") + np.round(x).astype(int) * DAY
    return np.round(x) if column.dtype.kind in "iu" else x
