"""einet's estimators, by their defaults, and their log-densities in the measure of the baselines.

A mixture of columns has probabilities where the estimator takes a column for a list of values, counts or atoms, and
densities elsewhere. Which is which is asked of the estimator itself, cell by cell: a density hardly changes within a
thousandth of the column's width, and what jumps there is a probability.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np

from experiments.tables.cells import DAY, hide, numbers, step, widths

# A cell that jumps by more nats than this beside its value has a probability; so has a column most of whose cells do.
JUMP, MOST = 0.2, 0.9
BESIDE = 1e-3


def density_estimator(seed: int) -> Any:
    from einet.tables import EinetDensity

    return EinetDensity(random_state=seed)


def classifier(seed: int) -> Any:
    from einet.tables import EinetClassifier

    return EinetClassifier(random_state=seed)


class ByHand:
    """Rows as numbers, for an estimator that knows no text: categories as 0, 1, ... in training, dates as days."""

    def __init__(self, frame: Any):
        self.values = {n: sorted(frame[n].dropna().astype(str).unique()) for n in frame if frame[n].dtype.kind in "bOT"}
        self.kinds = {n: frame[n].dtype for n in frame}

    def code(self, frame: Any) -> Any:
        """A frame of floats; what training had not is one number more."""
        return type(frame)({name: self._coded(name, frame[name]) for name in frame.columns}, index=frame.index)

    def _coded(self, name: str, column: Any) -> np.ndarray:
        if name not in self.values:
            return numbers(column)
        places = {value: place for place, value in enumerate(self.values[name])}
        coded = [np.nan if value is None or value != value else places.get(str(value), len(places)) for value in column]
        return np.array(coded, dtype=float)

    def decode(self, frame: Any) -> Any:
        """A frame of floats as the table had them, categories as text."""
        columns = {}
        for name, column in frame.items():
            if name in self.values:
                places = column.round().clip(0, len(self.values[name]) - 1)
                columns[name] = [None if p != p else self.values[name][int(p)] for p in places]
            elif self.kinds[name].kind == "M":
                columns[name] = np.datetime64(0, "D") + np.round(column.to_numpy()).astype(int) * DAY
            else:
                columns[name] = column.to_numpy()
        return type(frame)(columns, index=frame.index)


class Fitted:
    """An estimator fitted to a frame as it is, or, where it refuses that (`refused`), to what a user codes by hand."""

    def __init__(self, estimator: Any, frame: Any, *y: Any):
        self.estimator, self.hand, self.refused = estimator, None, None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                estimator.fit(frame, *y)
            except (ValueError, TypeError) as error:
                self.refused = f"{type(error).__name__}: {error}"[:200]
                self.hand = ByHand(frame)
                estimator.fit(self.hand.code(frame), *y)

    def with_estimator(self, estimator: Any) -> Fitted:
        """Another estimator that was fitted to the same rows."""
        other = copy.copy(self)
        other.estimator = estimator
        return other

    def ask(self, question: str, frame: Any) -> np.ndarray:
        """A method of the estimator, of rows."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(self.estimator, question)(self.hand.code(frame) if self.hand else frame)

    def log_density(self, frame: Any, chunk: int = 2000) -> np.ndarray:
        """log p of what each row has, as the estimator has it: (B,)."""
        parts = [self.ask("score_samples", frame.iloc[k : k + chunk]) for k in range(0, len(frame), chunk)]
        return np.concatenate(parts)

    def frame(self, rows: Any, like: Any) -> Any:
        """Rows that the estimator returned, as a frame like that of training."""
        frame = rows if hasattr(rows, "columns") else type(like)(rows, columns=like.columns)
        return self.hand.decode(frame) if self.hand else frame


_LAST: list[tuple[int, Any, Fitted]] = []


def fitted_density(train: Any, seed: int) -> Fitted:
    """`density_estimator`, fitted. The last one is kept: several parts of one split ask the same rows of it."""
    train = train.reset_index(drop=True)
    if not (_LAST and _LAST[0][0] == seed and _LAST[0][1].equals(train)):
        _LAST[:] = [(seed, train, Fitted(density_estimator(seed), train))]
    return _LAST[0][2]


def log_widths(fitted: Fitted, frame: Any, table: Any) -> np.ndarray:
    """What to subtract from the log of each cell to have a density: 0, or log(width) for a probability: (B, D).

    Where a whole column has probabilities they are spread over its step, those of single atoms over its width. Both are
    what they are in the `table` that the frame's rows are from.
    """
    found = np.zeros(frame.shape)
    known = widths(table)
    for d, name in enumerate(frame.columns):
        if name in known:
            probable = _probable(fitted, frame, name, known[name])
            length = (step(numbers(table[name])) if probable.all() else 0) or known[name]
            found[:, d] = np.where(frame[name].notna().to_numpy() & probable, np.log(length), 0.0)
    return found


def _probable(fitted: Fitted, frame: Any, name: str, width: float) -> np.ndarray:
    """Which cells of a column the estimator gives a probability."""
    values = frame[name].drop_duplicates().dropna()
    if not len(values):
        return np.zeros(len(frame), dtype=bool)
    rows = frame.loc[values.index]
    alone = hide(rows, np.array([[other != name for other in frame.columns]] * len(rows)))
    beside = alone.assign(**{name: _moved(alone[name], BESIDE * width)})
    here = fitted.log_density(alone)
    try:
        jump = np.nan_to_num(np.abs(here - fitted.log_density(beside)))
    except ValueError:  # whole numbers only
        return np.ones(len(frame), dtype=bool)
    probable = jump > JUMP
    if probable.mean() > MOST:
        return np.ones(len(frame), dtype=bool)
    return frame[name].isin(values[probable]).to_numpy()


def _moved(column: Any, by: float) -> Any:
    if column.dtype.kind == "M":
        return column + np.timedelta64(max(1, round(by * 86400)), "s")
    return column.astype(float) + by
