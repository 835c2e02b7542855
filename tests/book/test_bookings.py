"""The table of chapter 9, whose truth is known: its densities, what is done to it, and its figure."""

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from book import bookings


@pytest.fixture(scope="module")
def rows():
    return bookings.make(800, seed=0)[0]


def slow_density(row):
    """By the sum over the four kinds of guests, column by column, from what the table shows."""
    day = (row["arrived"] - bookings.NEW_YEAR).days
    region, room = (
        list(known).index(row[name]) for name, known in (("region", bookings.REGIONS), ("room", bookings.ROOMS))
    )
    usual = bookings.RATE[room] * (1 + 0.25 * np.exp(-(((day - 200) / 45) ** 2)))
    total = 0.0
    for k, share in enumerate(bookings.SHARES):
        p = share * bookings.REGION[k, region] * bookings.ROOM[k, room] * bookings.STARS[k, row["stars"] - 1]
        p *= stats.norm.pdf(day, bookings.DAY[k], bookings.DAYS[k])
        p *= stats.poisson.pmf(row["guests"] - 1, bookings.MORE_GUESTS[k])
        p *= stats.geom.pmf(row["nights"], bookings.LAST_NIGHT[k])
        p *= stats.norm.pdf(np.log(row["ahead"] / bookings.AHEAD[k]), 0, 0.5) / row["ahead"]
        nothing = bookings.NO_EXTRAS[k]
        spent = stats.gamma.pdf(row["extras"], 3, scale=5 * row["guests"]) if row["extras"] else 0
        total += p * (nothing if not row["extras"] else (1 - nothing) * spent)
    return np.log(total * stats.norm.pdf(row["rate"], usual, 6))


def test_log_density_is_the_sum_over_kinds_of_guests():
    """Up to what is rounded: days, tenths of a day, cents."""
    rows, log_density = bookings.make(300, seed=3)
    off = np.array([slow_density(row) for _, row in rows.iterrows()]) - log_density
    assert abs(off.mean()) < 0.02 and np.median(abs(off)) < 0.05


def test_the_same_seed_makes_the_same_file(rows):
    again = bookings.make(800, seed=0)[0]
    assert bookings.as_sent(rows, seed=2)[0] == bookings.as_sent(again, seed=2)[0]
    assert bookings.as_sent(rows, seed=3)[0] != bookings.as_sent(rows, seed=2)[0]


@pytest.mark.parametrize("seed", range(3))
def test_what_differs_is_a_gap_or_an_error_that_is_named(rows, seed):
    text, wrong = bookings.as_sent(rows, seed)
    sent = pd.read_csv(io.StringIO(text), na_values="?", parse_dates=["arrived"], dayfirst=True)
    assert list(sent.columns) == list(rows.columns) and len(sent) == len(rows)
    differs = (sent != rows) & sent.notna()
    assert (differs == wrong).all(axis=None)
    assert wrong.sum().sum() == 40 and wrong.sum(axis=1).max() == 1
    assert (
        wrong.sum().to_dict() | {"arrived": 5, "nights": 5, "ahead": 5, "extras": 5, "rate": 10, "room": 10}
        == wrong.sum().to_dict()
    )
    for name, share in bookings.GAPS.items():
        assert abs(sent[name].isna().mean() - share) < 4 * (share / 800) ** 0.5
    assert sent.drop(columns=list(bookings.GAPS)).notna().all(axis=None)


def test_there_and_back(rows):
    numbers = bookings.as_numbers(rows, one_hot=True)
    assert numbers.shape == (800, 7 + 8) and (numbers.filter(like="room ").sum(axis=1) == 1).all()
    back = bookings.from_one_hot(numbers.to_numpy(), rows)
    assert all((back[name] == rows[name]).all() for name in rows)
    gap = rows[:3].assign(room=["oduble", None, "suite"])
    assert bookings.as_numbers(gap, one_hot=True).filter(like="room ").isna().all(axis=1).tolist() == [
        True,
        True,
        False,
    ]
    assert bookings.as_numbers(gap)["room"].isna().tolist() == [True, True, False]


def test_errors_of_what_is_right_and_of_the_mean(rows):
    hidden = np.zeros(rows.shape, dtype=bool)
    hidden[:, [1, 6]] = True
    none = bookings.errors(rows, rows, np.ones_like(hidden))
    assert none["region"] == none["room"] == none["stars"] == 1 and none["rate"] == none["arrived"] == 0
    mean = rows.assign(rate=rows["rate"].mean(), region="coast")
    found = bookings.errors(mean, rows, hidden)
    assert found["rate"] == pytest.approx((799 / 800) ** 0.5)
    assert found["region"] == (rows["region"] == "coast").mean()


def test_the_figure_has_the_oddest_rows(rows):
    text, wrong = bookings.as_sent(rows, seed=0)
    table = pd.read_csv(io.StringIO(text), na_values="?", parse_dates=["arrived"], dayfirst=True)
    above = pd.DataFrame(np.where(wrong, 5.0, 1.0), columns=rows.columns).where(table.notna())

    def fill(gaps):
        modes = {name: rows[name].mode()[0] for name in rows}
        return pd.DataFrame({n: gaps[n].astype(object).where(gaps[n].notna(), modes[n]) for n in rows})

    script = bookings.figure_data(table, rows, wrong, above, fill, 24).data
    data = json.loads(re.fullmatch(r'<script type="application/json" id="surprise-data">(.*)</script>', script)[1])
    assert data["columns"] == list(rows) and len(data["rows"]) == 24
    for line in data["rows"]:
        index, column = line["line"] - 2, line["wrong"]
        assert wrong.iloc[index, column] and line["nats"][column] == 5
        assert [cell == "–" for cell in line["cells"]] == table.iloc[index].isna().tolist()
        assert line["right"] != line["cells"][column]
