"""The table of chapter 9: bookings of a guesthouse that does not exist, and the density that they are drawn from.

    rows, log_density = bookings.make(1000, seed=0)     complete and right; log p of each row, in nats
    sent, wrong = bookings.as_sent(rows, seed=1)        as a CSV file, with gaps and errors; which cells are wrong

Guests are of four kinds, which the table does not name: families, couples, people on business, and hikers. Given the
kind, columns are independent, but for the rate, which is that of the room and the season, and the extras, which grow
with the guests. So the density of a row is a sum over four kinds, and no model can have a higher mean log-density.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
from IPython.display import HTML
from numpy.random import Generator
from scipy import special, stats

NEW_YEAR = pd.Timestamp("2025-01-01")
SHARES = np.array([0.35, 0.30, 0.20, 0.15])
REGIONS, ROOMS = np.array(["north", "south", "coast", "abroad"]), np.array(["bunk", "single", "double", "suite"])
REGION = np.array([[0.5, 0.3, 0.1, 0.1], [0.2, 0.3, 0.1, 0.4], [0.3, 0.2, 0.4, 0.1], [0.1, 0.5, 0.1, 0.3]])
ROOM = np.array([[0.05, 0.0, 0.35, 0.6], [0.0, 0.05, 0.7, 0.25], [0.0, 0.8, 0.15, 0.05], [0.75, 0.15, 0.1, 0.0]])
STARS = np.array(
    [[0.1, 0.1, 0.2, 0.3, 0.3], [0, 0.05, 0.1, 0.25, 0.6], [0, 0.1, 0.5, 0.3, 0.1], [0.3, 0.2, 0.1, 0.1, 0.3]]
)
DAY, DAYS = np.array([208.0, 190.0, 170.0, 150.0]), np.array([14.0, 60.0, 70.0, 25.0])  # of the year: mean, deviation
MORE_GUESTS, LAST_NIGHT = np.array([2.6, 1.0, 0.1, 1.8]), np.array([0.12, 0.4, 0.6, 0.85])
AHEAD, NO_EXTRAS = np.array([120.0, 40.0, 6.0, 14.0]), np.array([0.3, 0.6, 0.9, 0.75])
RATE = np.array([28.0, 62.0, 95.0, 140.0])  # of each room, in winter
GAPS = {"region": 0.1, "ahead": 0.2, "rate": 0.1, "extras": 0.1, "stars": 0.3}


def make(num_rows: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Bookings, and log p of each: (num_rows,) in nats, of a day, a day ahead and a euro."""
    random = np.random.default_rng(seed)
    kind = random.choice(4, num_rows, p=SHARES)
    by_kind, all_kinds = np.log(SHARES)[:, None] + np.zeros(num_rows), np.arange(4)[:, None]

    def draw(of, log_density="logpdf"):
        nonlocal by_kind
        x = of(kind).rvs(random_state=random)
        by_kind = by_kind + getattr(of(all_kinds), log_density)(x)
        return x

    def choose(table: np.ndarray) -> np.ndarray:
        nonlocal by_kind
        x = (random.random(num_rows)[:, None] > table[kind].cumsum(1)[:, :-1]).sum(1)
        by_kind = by_kind + np.log(np.maximum(table, 1e-300))[:, x]
        return x

    day = draw(lambda k: stats.norm(DAY[k], DAYS[k]))
    region, room, stars = choose(REGION), choose(ROOM), choose(STARS)
    guests = 1 + draw(lambda k: stats.poisson(MORE_GUESTS[k]), "logpmf")
    nights = draw(lambda k: stats.geom(LAST_NIGHT[k]), "logpmf")
    ahead = draw(lambda k: stats.lognorm(0.5, scale=AHEAD[k]))
    rate = draw(lambda k: stats.norm(_usual_rate(room, day), 6.0))
    some = draw(lambda k: stats.bernoulli(1 - NO_EXTRAS[k]), "logpmf")
    spent = stats.gamma(3.0, scale=5.0 * guests)
    extras = np.where(some, spent.rvs(random_state=random), 0.0)
    log_density = special.logsumexp(by_kind, 0) + np.where(some, spent.logpdf(extras), 0.0)
    table = {
        "arrived": NEW_YEAR + pd.to_timedelta(day.round(), unit="D"),
        "region": REGIONS[region],
        "room": ROOMS[room],
        "guests": guests,
        "nights": nights,
        "ahead": ahead.round(1),
        "rate": rate.round(2),
        "extras": extras.round(2),
        "stars": stars + 1,
    }
    return pd.DataFrame(table), log_density


def _usual_rate(room: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Of a room on a day of the year: a quarter more at the height of the summer."""
    return RATE[room] * (1 + 0.25 * np.exp(-(((day - 200) / 45) ** 2)))


def as_sent(rows: pd.DataFrame, seed: int, num_errors: int = 40) -> tuple[str, pd.DataFrame]:
    """The rows as a CSV file with gaps and errors, and a table of bools: the cells that are wrong.

    Errors are what somebody might have typed: a rate in cents, or with two digits swapped; a room of another booking,
    or misspelt; a date some months off; the nights twice; hours in place of days; ten times the extras. One cell of a
    row at most is wrong, and none of these is a gap.
    """
    random = np.random.default_rng(seed)
    sent, wrong = rows.astype(object), pd.DataFrame(False, index=rows.index, columns=rows.columns)
    chosen = random.permutation(len(rows))
    for column, mistake in _MISTAKES * (num_errors // len(_MISTAKES)):
        while True:  # the next row in which the mistake makes a difference
            row, chosen = chosen[0], chosen[1:]
            right = rows.at[row, column]
            typed = mistake(right, random)
            if typed is not None and typed != right:
                break
            chosen = np.append(chosen, row)
        sent.at[row, column], wrong.at[row, column] = typed, True
    for column, share in GAPS.items():
        gap = (random.random(len(rows)) < share) & ~wrong[column].to_numpy()
        sent.loc[gap, column] = random.choice(["", "?", "n/a"], gap.sum())
    sent["arrived"] = [day.strftime("%d.%m.%Y") for day in sent["arrived"]]
    return sent.to_csv(index=False), wrong


def _swapped(text: str, random: Generator) -> str | None:
    """Two neighbouring characters, of those before a point, in the other order."""
    length = len(text.partition(".")[0])
    if length < 2:
        return None
    at = random.integers(length - 1)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _months_off(day: pd.Timestamp, random: Generator) -> pd.Timestamp:
    return day + pd.DateOffset(months=int(random.choice([-4, -3, 3, 4])))


_MISTAKES = [
    ("rate", lambda rate, random: round(100 * rate, 2)),
    ("rate", lambda rate, random: float(_swapped(str(rate), random) or rate)),
    ("room", lambda room, random: random.choice(ROOMS)),
    ("room", _swapped),
    ("arrived", _months_off),
    ("nights", lambda nights, random: int(f"{nights}{nights}")),
    ("ahead", lambda ahead, random: round(24 * ahead, 1)),
    ("extras", lambda extras, random: round(10 * extras, 2)),
]


def as_numbers(rows: pd.DataFrame, one_hot: bool = False) -> pd.DataFrame:
    """Bookings for estimators that want numbers: days of the year, and categories, or a column of 0 and 1 for each.

    NaN where a cell is missing, or is none of the rooms and regions.
    """
    known = {"region": REGIONS, "room": ROOMS}
    columns = {}
    for name in rows:
        cells = rows[name]
        if name == "arrived":
            columns[name] = (cells - NEW_YEAR) / pd.Timedelta(days=1)
        elif name not in known:
            columns[name] = cells.astype(float)
        elif one_hot:
            missing = ~cells.isin(known[name])
            columns |= {f"{name} {value}": (cells == value).astype(float).mask(missing) for value in known[name]}
        else:
            columns[name] = pd.Categorical(cells.where(cells.isin(known[name])), categories=known[name])
    return pd.DataFrame(columns, index=rows.index)


def from_one_hot(numbers: np.ndarray, rows: pd.DataFrame) -> pd.DataFrame:
    """`as_numbers(rows, one_hot=True)`, filled by some imputer, as bookings again; of several 1, the largest counts."""
    table = pd.DataFrame(numbers, index=rows.index, columns=as_numbers(rows[:1], one_hot=True).columns)
    found = {}
    for name in rows:
        if name == "arrived":
            found[name] = NEW_YEAR + pd.to_timedelta(table[name].round(), unit="D")
        elif name in table:
            found[name] = table[name]
        else:
            own = table.filter(like=f"{name} ")
            found[name] = own.idxmax(axis=1).str.removeprefix(f"{name} ")
    return pd.DataFrame(found)


def errors(filled: pd.DataFrame, whole: pd.DataFrame, hidden: np.ndarray) -> pd.Series:
    """Of filled cells the share right, for text, stars and guests; else the root mean square error, in deviations."""
    numbers, right = as_numbers(filled), as_numbers(whole)
    found = {}
    for name, own in zip(whole, hidden.T, strict=True):
        if name in ("region", "room"):
            found[name] = (filled[name] == whole[name])[own].mean()
        elif name in ("guests", "stars"):
            found[name] = (numbers[name].round() == right[name])[own].mean()
        else:
            squares = (numbers[name] - right[name])[own] ** 2
            found[name] = squares.mean() ** 0.5 / right[name].std()
    return pd.Series(found)


def figure_data(
    table: pd.DataFrame, rows: pd.DataFrame, wrong: pd.DataFrame, above: pd.DataFrame, fill: Callable, num_rows: int
) -> HTML:
    """The oddest rows, as the script element that _static/surprise.js reads.

    Args:
        table: as it was sent.
        rows: as it is right.
        wrong: the cells in which these differ, bools.
        above: nats of each cell above the usual.
        fill: from a table with gaps to one without, for what was expected in place of a cell.
        num_rows: how many.
    """
    chosen = above.max(axis=1).nlargest(num_rows).index
    odd = table.loc[chosen]
    expected = {name: _words(fill(odd.drop(columns=name).reindex(columns=odd.columns))[name]) for name in odd}
    cells, right = odd.apply(_words), rows.loc[chosen].apply(_words)
    data = []
    for index in chosen:
        nats = [None if np.isnan(each) else round(each, 1) for each in above.loc[index]]
        line = {"line": int(index) + 2, "cells": cells.loc[index].tolist(), "nats": nats}
        line["expected"] = [expected[name][index] for name in odd]
        if wrong.loc[index].any():
            column = wrong.loc[index].to_numpy().argmax()
            line |= {"wrong": int(column), "right": right.loc[index].iloc[column]}
        data.append(line)
    text = json.dumps({"columns": list(odd), "rows": data}, separators=(",", ":"), ensure_ascii=False)
    return HTML(f'<script type="application/json" id="surprise-data">{text}</script>')


def _words(cells: pd.Series) -> pd.Series:
    """Cells as a reader sees them: days without hours, at most two decimals, a dash where one is missing."""
    if cells.name == "arrived":
        words = pd.to_datetime(cells).dt.strftime("%d %b")
    elif cells.dtype.kind in "if":
        words = cells.astype(float).map(lambda cell: f"{cell:.2f}".rstrip("0").rstrip("."))
    else:
        words = cells.astype(object)
    return words.where(cells.notna(), "–")
