"""The cells of a table: numbers, missing, or refused with the column and a remedy that works."""

import datetime
import math
import re
from decimal import Decimal
from fractions import Fraction

import numpy
import numpy as np
import pandas
import pytest
import torch

from einet.tables import EinetClassifier, EinetDensity
from einet.tables.cells import floats
from einet.tables.kinds import read

SMALL = {"num_replicas": 2, "num_sums": 2, "epochs": 2, "validation": 0.0, "random_state": 0}
NAT = np.datetime64("NaT")
HIDDEN = np.ma.array([[1.0, 2.0], [3.0, 4.0]], mask=[[0, 0], [0, 1]])


def frame(cells, dtype=None):
    return pandas.DataFrame({"one": [1.0, 3.0], "cells": pandas.Series(cells, dtype=dtype)})


MISSING = {
    "NaN": [[1, 2], [3, math.nan]],
    "None": [[1, 2], [3, None]],
    "None in tuples": ((1, 2), (3, None)),
    "text of NaN": [["1", "2"], ["3", "nan"]],
    "bytes": np.array([[b"1", b"2"], [b"3", b"nan"]]),
    "pandas.NA in a list": [[1, 2], [3, pandas.NA]],
    "NaT in a list": [[1, 2], [3, NAT]],
    "NaT of a duration in a list": [[1, 2], [3, np.timedelta64("NaT")]],
    "pandas.NaT in a list": [[1, 2], [3, pandas.NaT]],
    "objects": np.array([[1, 2], [3, pandas.NA]], dtype=object),
    "Decimal": [[Decimal(1), Decimal(2)], [Fraction(3), Decimal("NaN")]],
    "a signalling NaN": [[1, 2], [3, Decimal("sNaN")]],
    "masked": HIDDEN,
    "masked integers": HIDDEN.astype(int),
    "masked objects": HIDDEN.astype(object),
    "masked dates": np.ma.array(np.array([[1, 2], [3, 4]], dtype=object), mask=[[0, 0], [0, 1]]),
    "rows that are masked": list(HIDDEN),
    "numpy's text": np.array([["1", "2"], ["3", "nan"]]),
    "float16": np.array([[1, 2], [3, np.nan]], dtype=np.float16),
    "a tensor": torch.tensor([[1, 2], [3, math.nan]]),
    "Int64": frame([2, None], "Int64"),
    "Float64": frame([2, None], "Float64"),
    "boolean": frame([True, None], "boolean").replace({"one": {1.0: 1.0}}),
    "category": frame([2, None], "category"),
    "sparse": frame([2, np.nan], pandas.SparseDtype(float)),
    "masked in objects": frame([2, np.ma.masked], object),
    "NA in objects": frame([2, pandas.NA], object),
    "NaT in objects": frame([2, NAT], object),
    "text and None": frame(["2", None], object),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_stands_for_missing_is_missing(name):
    expected = [[1, 1 if name == "boolean" else 2], [3, math.nan]]
    np.testing.assert_array_equal(floats(MISSING[name]), np.array(expected, dtype=np.float64))


@pytest.mark.parametrize("dtype", ["M8[ns]", "M8[D]", "m8[s]"])
def test_a_column_of_nothing_but_nat_has_no_value(dtype):
    table = frame(np.array(["NaT", "NaT"], dtype=dtype))
    assert np.isnan(floats(table)[:, 1]).all()
    with pytest.raises(ValueError, match="column 'cells' has no value in training"):
        EinetDensity(**SMALL).fit(table)


def test_a_gap_counts_as_one_in_fit_and_queries():
    """As NaN does; a mask that is dropped, say, would give the masked cell's number."""
    x = np.random.RandomState(0).randn(60, 2)
    gaps = np.random.RandomState(1).rand(60, 2) < 0.2
    expected = EinetDensity(**SMALL).fit(np.where(gaps, np.nan, x)).score_samples(np.where(gaps, np.nan, x))
    masked = np.ma.array(np.where(gaps, -999, x), mask=gaps)
    objects = np.where(gaps, None, x)
    for same in (masked, objects, objects.tolist(), pandas.DataFrame(objects), pandas.DataFrame(masked)):
        density = EinetDensity(**SMALL).fit(same)
        assert np.array_equal(density.score_samples(same), expected)
        assert np.array_equal(density.columns_.encode(same)[1].numpy(), ~gaps)
        assert not np.isnan(np.asarray(density.predict_missing(same))).any()


# Refusals whose remedy works

DAYS = pandas.Series(pandas.date_range("2020-01-01", periods=6)).where(np.arange(6) != 3)
REFUSED = {
    "dates as text": (DAYS.dt.strftime("%Y-%m-%d"), DAYS, "text"),
    "times": (pandas.Series([datetime.time(6), datetime.time(18, 30)] * 3), np.array([6, 18.5] * 3), "times"),
    "periods": (DAYS.dt.to_period("D"), np.array([0, 1, 2, math.nan, 4, 5]), "periods"),
    "thousands": (pandas.Series(["1,200", 900, None] * 2), np.array([1200, 900, math.nan] * 2), "text"),
    "thousands alone": (pandas.Series(["1,200", "2,900", None] * 2), np.array([1200, 2900, math.nan] * 2), "text"),
    "millions": (pandas.Series(["1,200,300.5", "9"] * 3), np.array([1200300.5, 9] * 3), "text"),
    "decimal commas": (pandas.Series(["0,5", "-12,25"] * 3), np.array([0.5, -12.25] * 3), "text"),
    "words for missing": (pandas.Series(["NA", "5"] * 3), np.array([math.nan, 5] * 3), "text"),
    "empty text": (pandas.Series(["", "5"] * 3), np.array([math.nan, 5] * 3), "text"),
    "words among numbers": (pandas.Series(["A5", "5", "7"] * 2), np.array([2, 0, 1] * 2), "text"),
    "complex": (pandas.Series([1 + 2j, 3j] * 3), np.array([1.0, 0] * 3), "complex numbers"),
    "lists": (pandas.Series([[1, 2]] * 6), np.array([[1, 2]] * 6), "a list"),
    "arrays": (pandas.Series([np.array([1, 2])] * 6), np.array([[1, 2]] * 6), "a ndarray"),
    "infinities": (pandas.Series([1.0, np.inf] * 3), np.array([1, math.nan] * 3), "an infinity"),
}


def followed(message, X):
    """What the code at the end of a message gives."""
    code = message[message.index("as in ") + len("as in ") :].replace(", ...}", ", 'b': 1, b'b': 1}")
    return eval(code, {"pandas": pandas, "numpy": numpy, "X": X})


def numbers(made):
    """What was made as floats, by the table's own reading."""
    made = made if isinstance(made, pandas.DataFrame) else pandas.DataFrame(made)
    return read(made.set_axis([str(name) for name in made], axis=1)).numbers.squeeze()


def same(made, expected):
    np.testing.assert_array_equal(numbers(made), numbers(expected))


@pytest.mark.parametrize("name", REFUSED)
def test_other_cells_are_refused_with_a_remedy_that_works(name):
    cells, expected, kind = REFUSED[name]
    table = pandas.DataFrame({"f": np.arange(6.0), "it is": cells})
    for estimator in (EinetDensity(**SMALL), EinetClassifier(**SMALL)):
        with pytest.raises(ValueError, match=f"^column 'it is' holds {kind}") as error:
            estimator.fit(table, [0, 1] * 3)
    made = followed(str(error.value), table)
    same(made, expected)


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_and_lists_are_told_by_the_number_of_the_column(name):
    cells, expected, kind = REFUSED[name]
    table = pandas.DataFrame({0: np.arange(6.0), 1: cells.astype(object)})
    rows = [list(row) for row in zip(*(table[d] for d in table), strict=True)]
    array = np.empty((6, 2), dtype=object)
    for place, row in enumerate(rows):
        array[place, 0], array[place, 1] = row
    for X in (rows, array):
        if name == "arrays" and X is rows:
            continue
        with pytest.raises(ValueError, match=f"^column 1 holds {kind}") as error:
            EinetDensity(**SMALL).fit(X)
        same(followed(str(error.value), X), expected)


@pytest.mark.parametrize("dtype", ["M8[ns]", "M8[D]", "m8[ns]"])
def test_arrays_of_dates_are_not_read_as_integers(dtype):
    X = np.array([[10, 20], [30, 40]]).astype(dtype)
    X[0, 0] = "NaT"
    for each in (X, list(X), pandas.DataFrame(X), np.ma.array(X)):
        table = read(each)
        assert {kind.name for kind in table.kinds.columns} == {"dates" if "M" in dtype else "durations"}
        assert np.isnan(table.numbers).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("table", [np.full((9, 2), -(2**63)), pandas.DataFrame({"0": [1.0, -(2.0**63)]})])
def test_the_integer_that_nat_becomes_is_refused(table):
    with pytest.raises(ValueError, match=r"^column ('0'|0) holds -9223372036854775808, which is what NaT becomes"):
        EinetDensity(**SMALL).fit(table)


def test_numbers_that_float64_cannot_hold_are_refused():
    for wrong in (10**400, Decimal("1e400"), "1e400", "inf", -math.inf):
        with pytest.raises(ValueError, match="^column 1 holds an infinity, or a number too large"):
            EinetDensity(**SMALL).fit([[1.0, 2], [2, wrong]])


FAR = 2**60
WHOLE = {
    "int64": np.array([[FAR, 0], [FAR + 1, 1], [FAR + 99, 2]] * 9),
    "uint64": np.array([[2**63 + FAR, 0], [2**63 + FAR + 1, 1]] * 9, dtype=np.uint64),
    "below 0": np.array([[-FAR, 0], [-FAR - 1, 1]] * 9),
    "lists": [[FAR, 0], [FAR + 1, 1]] * 9,
    "lists with floats": [[FAR, 0.5], [FAR + 1, 1.5]] * 9,
    "lists with gaps": [[FAR, None], [FAR + 1, 1]] * 9,
    "objects": np.array([[FAR, 0], [FAR + 1, 1]] * 9, dtype=object),
    "pandas": pandas.DataFrame({0: pandas.array([FAR, FAR + 1, None] * 9, dtype="Int64"), 1: range(27)}),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_that_floats_do_not_tell_apart_are_refused(name):
    """Two of them became one constant, in silence."""
    with pytest.raises(ValueError, match=r"^column 0 holds whole numbers from -?\d+ to -?\d+, which float64") as error:
        EinetDensity(**SMALL).fit(WHOLE[name])
    made = numbers(followed(str(error.value), WHOLE[name]))
    assert np.nanmin(made) == 0 and 1 <= np.nanmax(made) <= 99
    assert EinetDensity(**SMALL).fit(np.c_[made, made]).columns_.constant == []


def test_large_whole_numbers_that_vary_enough_are_numbers():
    """Nanoseconds since 1970 are rounded to 256 of them, and a constant is one at any size."""
    days = np.arange(30)[:, None] * 86_400_000_000_000 + 1_700_000_000_000_000_001
    density = EinetDensity(**SMALL).fit(days)
    assert density.sample(9).std() > 1e12
    assert np.isfinite(density.score(days[:1] + [[0], [1]]))  # queries may be as close as they like
    np.testing.assert_array_equal(EinetDensity(**SMALL).fit(np.full((9, 1), FAR)).sample(3), float(FAR))


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64, torch.bool]
)
def test_tensors_are_tables(dtype):
    X = torch.tensor([[1.0, 2.0], [3.0, 0.0]]).to(dtype)
    if dtype.is_floating_point:
        X[1, 1] = math.nan
        X.requires_grad_()
    expected = X.detach().double().numpy()
    np.testing.assert_array_equal(floats(X), expected)
    density = EinetDensity(**SMALL).fit(X.repeat(9, 1))
    assert density.score_samples(X).shape == (2,)


def test_two_columns_of_one_name_are_refused():
    X = pandas.DataFrame(np.zeros((9, 3)), columns=["a", "b", "a"])
    with pytest.raises(ValueError, match=r"columns must have names of their own, got \['a'\] more than once"):
        EinetDensity(**SMALL).fit(X)


def test_a_number_too_long_for_float64_is_no_warning():
    wide = np.array([[np.longdouble("1e400")], [1.0]])
    if not np.isfinite(wide[0, 0]):
        pytest.skip("long double is float64 here")
    with pytest.raises(ValueError, match="^column 0 holds an infinity"):
        EinetDensity(**SMALL).fit(wide)


def test_structured_arrays_are_told_how_they_become_tables():
    X = np.array([(1.0, 2), (3.0, 4)] * 9, dtype=[("a", float), ("b", int)])
    with pytest.raises(ValueError, match=r"structured array of \['a', 'b'\]: pandas.DataFrame\(X\)"):
        EinetDensity(**SMALL).fit(X)
    assert list(EinetDensity(**SMALL).fit(pandas.DataFrame(X)).feature_names_in_) == ["a", "b"]


@pytest.mark.parametrize("names", [[("a", "x"), ("a", "y")], [2000, 2001], ["a", 1]])
def test_names_that_scikit_learn_would_not_compare_can_be_made_so(names):
    X = pandas.DataFrame(np.random.RandomState(0).randn(30, 2), columns=pandas.Index(names))
    with pytest.raises(ValueError, match="^columns must have names of text") as error:
        EinetDensity(**SMALL).fit(X)
    assert list(EinetDensity(**SMALL).fit(followed(str(error.value), X)).feature_names_in_) == list(map(str, names))


# Other libraries' tables


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_tables_of_other_libraries(library):
    module = pytest.importorskip(library)
    make = module.DataFrame if library == "polars" else module.table
    good = make({"a": [1, 2, None] * 9, "b": [True, None, False] * 9, "c": [1.5, None, 2.25] * 9})
    expected = np.array([[1, 1, 1.5], [2, math.nan, math.nan], [math.nan, 0, 2.25]] * 9)
    np.testing.assert_array_equal(floats(good), expected)
    density = EinetDensity(**SMALL).fit(good)
    assert list(density.feature_names_in_) == ["a", "b", "c"]
    other = make({"b": [1], "a": [1], "c": [1.0]})
    with pytest.raises(ValueError, match="'a' is expected, got 'b'"):
        density.columns_.encode(other)
    for cells, wanted, kind in (
        (["1,200", "9", None] * 2, [1200, 9, math.nan] * 2, "text"),
        ([datetime.time(6), datetime.time(18, 30)] * 3, [6, 18.5] * 3, "times"),
        ([[1, 2]] * 6, [[1, 2]] * 6, "a ndarray"),
    ):
        table = make({"f": np.arange(6.0), "it": cells})
        with pytest.raises(ValueError, match=f"^column 'it' holds {kind}") as error:
            EinetDensity(**SMALL).fit(table)
        same(followed(str(error.value), table), np.array(wanted))


def test_what_is_no_table_is_left_to_scikit_learn():
    for wrong in (np.arange(3.0), [1.0, 2.0], np.zeros((2, 2, 2)), [[1.0], [2.0, 3.0]], 3.0, None):
        with pytest.raises(ValueError, match=re.compile("array|element|shape|dim", re.I)):
            EinetDensity(**SMALL).fit(wrong)
