"""What the cells of a column are, in each library and with each way of missing, and the way back."""

import datetime

import numpy as np
import pandas
import pytest

from einet.tables import EinetDensity
from einet.tables.columns import Columns
from einet.tables.kinds import read

SMALL = {"num_replicas": 2, "num_sums": 2, "epochs": 2, "validation": 0.0, "random_state": 0}
RANDOM = np.random.RandomState(0)
DAYS = [datetime.date(2020, 1, 1) + datetime.timedelta(days=int(day)) for day in RANDOM.randint(0, 300, 40)]
TIMES = [datetime.datetime(2020, 1, 1, 5, 0, second) for second in RANDOM.randint(0, 60, 40)]
CELLS = {
    "numbers": ("numbers", [float(x) for x in RANDOM.randn(40)]),
    "integers": ("numbers", [int(x) for x in RANDOM.randint(0, 90, 40)]),
    "text": ("categories", [str(x) for x in RANDOM.choice(["north", "east", "nowhere"], 40)]),
    "booleans": ("booleans", [bool(x) for x in RANDOM.rand(40) < 0.3]),
    "days": ("dates", DAYS),
    "times": ("dates", TIMES),
    "durations": ("durations", [datetime.timedelta(minutes=int(x)) for x in RANDOM.randint(1, 500, 40)]),
}
SERIES = {
    "float64": (CELLS["numbers"], "float64"),
    "float32": (CELLS["numbers"], "float32"),
    "Float64": (CELLS["numbers"], "Float64"),
    "int64": (CELLS["integers"], "int64"),
    "uint8": (CELLS["integers"], "uint8"),
    "Int64": (CELLS["integers"], "Int64"),
    "bool": (CELLS["booleans"], "bool"),
    "boolean": (CELLS["booleans"], "boolean"),
    "booleans as objects": (CELLS["booleans"], object),
    "object": (CELLS["text"], object),
    "str": (CELLS["text"], "str"),
    "category": (CELLS["text"], "category"),
    "ordered": (CELLS["text"], pandas.CategoricalDtype(["nowhere", "east", "never", "north"], ordered=True)),
    "a category of numbers": (("categories", CELLS["integers"][1]), "category"),
    "datetime64[ns]": (CELLS["times"], "datetime64[ns]"),
    "datetime64[s]": (CELLS["days"], "datetime64[s]"),
    "a zone": (CELLS["times"], "datetime64[ns, Europe/Paris]"),
    "dates as objects": (CELLS["days"], object),
    "times as objects": (CELLS["times"], object),
    "timedelta64[ns]": (CELLS["durations"], "timedelta64[ns]"),
    "durations as objects": (CELLS["durations"], object),
}
WITHOUT_GAPS = {"int64", "uint8", "bool"}


def same(one, other):
    """Equal but for rounding, whatever stands for missing."""
    assert one.dtype == other.dtype and one.isna().tolist() == other.isna().tolist()
    one, other = one.dropna(), other.dropna()
    if one.dtype.kind == "f":
        np.testing.assert_allclose(one.astype(float), other.astype(float), rtol=1e-6, atol=1e-6)
    else:
        assert one.tolist() == other.tolist() and list(map(type, one)) == list(map(type, other))


@pytest.mark.parametrize("gap", ["none", "None", "NaN", "NA", "NaT"])
@pytest.mark.parametrize("name", SERIES)
def test_a_column_of_pandas_comes_back_as_it_was(name, gap):
    (kind, cells), dtype = SERIES[name]
    series = pandas.Series(cells, dtype=dtype)
    gaps = {"None": None, "NaN": np.nan, "NA": pandas.NA, "NaT": pandas.NaT}
    if gap != "none":
        if name in WITHOUT_GAPS:
            pytest.skip("such a column has no gap")
        series = series.astype(object)
        series[3] = gaps[gap]
        series = series if dtype is object else series.where(series.notna(), None).astype(dtype)
    table = pandas.DataFrame({"f": RANDOM.randn(40), "it is": series}).set_index(np.arange(100, 140))
    columns = Columns(table)
    assert columns.kinds.columns[1].name == kind
    z, seen, _ = columns.encode(table)
    assert seen[:, 1].tolist() == table["it is"].notna().tolist()
    back = columns.decode(z, table.index)
    assert back.index.equals(table.index) and list(back) == ["f", "it is"]
    same(back["it is"], table["it is"])


@pytest.mark.parametrize("name", SERIES)
def test_samples_and_filled_gaps_have_the_dtypes(name):
    (_, cells), dtype = SERIES[name]
    table = pandas.DataFrame({"f": RANDOM.randn(40), "it is": pandas.Series(cells, dtype=dtype)})
    density = EinetDensity(**SMALL).fit(table)
    drawn, filled = density.sample(5), density.predict_missing(table.assign(f=np.nan)[7:9])
    assert drawn.dtypes.equals(table.dtypes) and filled.dtypes.equals(table.dtypes)
    assert filled.index.tolist() == [7, 8] and filled.notna().all(axis=None)
    same(filled["it is"], table["it is"][7:9])


def test_objects_in_arrays_and_lists():
    rows = [[1.5, "a", DAYS[0]], [2.5, "b", None], [None, None, DAYS[1]], [4.5, "a", DAYS[2]]]
    for X in (rows, np.array(rows, dtype=object)):
        columns = Columns(X)
        assert [kind.name for kind in columns.kinds.columns] == ["numbers", "categories", "dates"]
        z, seen, _ = columns.encode(X)
        assert seen.tolist() == [[cell is not None for cell in row] for row in rows]
        back = columns.decode(z)
        assert back.dtype == object and back[:, 1].tolist() == ["a", "b", None, "a"]
        assert columns.decode(z[None].repeat(2, 1, 1)).shape == (2, 4, 3)
    masked = np.ma.array(np.array(rows, dtype=object), mask=[[0, 1, 0]] * 2 + [[0, 0, 0]] * 2)
    assert np.isnan(read(masked).numbers[:2, 1]).all()


def test_arrays_of_numbers_stay_arrays():
    X = RANDOM.randn(40, 2)
    density = EinetDensity(**SMALL).fit(X)
    assert type(density.sample(3)) is type(density.predict_missing(X)) is np.ndarray


def libraries():
    return pytest.mark.parametrize("library", ["polars", "pyarrow"])


@libraries()
@pytest.mark.parametrize("name", CELLS)
def test_a_column_of_other_libraries_comes_back_as_it_was(library, name):
    module = pytest.importorskip(library)
    kind, cells = CELLS[name]
    cells = [None if place == 3 else cell for place, cell in enumerate(cells)]
    table = (module.DataFrame if library == "polars" else module.table)({"f": list(RANDOM.randn(40)), "it is": cells})
    columns = Columns(table)
    assert columns.kinds.columns[1].name == kind
    z, seen, _ = columns.encode(table)
    assert seen[:, 1].tolist() == [cell is not None for cell in cells]
    back = columns.decode(z)
    assert type(back) is type(table) and back.schema == table.schema
    found = back["it is"].to_list() if library == "polars" else back["it is"].to_pylist()
    assert found == cells if kind != "numbers" else found == pytest.approx(cells, nan_ok=True) or found[3] is None
    assert EinetDensity(**SMALL).fit(table).sample(2).schema == table.schema


@libraries()
def test_categories_and_zones_of_other_libraries(library):
    polars = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    table = polars.DataFrame({"t": CELLS["text"][1], "w": TIMES}).with_columns(
        c=polars.col("t").cast(polars.Categorical),
        e=polars.col("t").cast(polars.Enum(["nowhere", "north", "east", "z"])),
        z=polars.col("w").dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Paris"),
    )
    table = table if library == "polars" else table.to_arrow()
    columns = Columns(table)
    back = columns.decode(columns.encode(table)[0])
    assert [kind.name for kind in columns.kinds.columns] == ["categories", "dates", "categories", "categories", "dates"]
    assert back.schema == table.schema
    rows = [frame.to_dicts() if library == "polars" else frame.to_pylist() for frame in (back, table)]
    assert rows[0] == rows[1]


# Errors


def people(num_rows=40):
    return pandas.DataFrame(
        {
            "town": CELLS["text"][1][:num_rows],
            "born": pandas.to_datetime(DAYS[:num_rows]),
            "ok": CELLS["booleans"][1][:num_rows],
            "stay": pandas.to_timedelta(CELLS["durations"][1][:num_rows]),
            "age": CELLS["numbers"][1][:num_rows],
        }
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.assign(age="old"), r"column 'age' holds text \('old'\)"),
        (lambda t: t.assign(age=t.born), "column 'age' holds dates"),
        (
            lambda t: t.assign(town=3),
            "column 'town' had categories in training, such as '.*', and here a cell is int '3'",
        ),
        (lambda t: t.assign(born=3.5), "column 'born' had dates in training, .* float64 '3.5': make its cells of the"),
        (lambda t: t.assign(born="then"), "column 'born' had dates in training, .* str 'then'"),
        (lambda t: t.assign(stay=t.born), "column 'stay' had durations in training"),
        (lambda t: t.assign(ok="yes"), "column 'ok' had booleans in training, .* str 'yes'"),
        (lambda t: t.assign(town=[["a"]] * 40), "column 'town' had categories"),
        (lambda t: t[["born", "town", "ok", "stay", "age"]], "'town' is expected, got 'born'"),
        (lambda t: t.drop(columns="ok"), "5 (columns|features)|'ok' is expected|features"),
    ],
)
def test_cells_of_another_kind_are_told_with_their_column(change, message):
    table = people()
    density = EinetDensity(**SMALL).fit(table)
    with pytest.raises(ValueError, match=message):
        density.columns_.encode(change(table))
    with pytest.raises(ValueError):
        density.score_samples(change(table))


def test_a_label_that_was_never_seen_is_improbable():
    table = people()
    columns = Columns(table)
    z, seen, offset = columns.encode(table.assign(town="moon"))
    assert not seen[:, 0].any() and z[:, 0].isnan().all()
    known = columns.encode(table)[2]
    assert (offset - known).numpy() == pytest.approx(np.log(1e-5) - np.log1p(-1e-5))


def test_too_many_labels_are_names():
    table = pandas.DataFrame({"name": [f"n{i}" for i in range(10_001)], "f": 0.5})
    with pytest.raises(ValueError, match="column 'name' has 10001 different labels, at most 10000 .*leave it out"):
        Columns(table)


def test_two_level_names_are_told():
    table = pandas.DataFrame(RANDOM.randn(9, 2), columns=pandas.MultiIndex.from_tuples([("a", "x"), ("a", "y")]))
    with pytest.raises(ValueError, match=r"columns must have names of text.*\('a', 'x'\)"):
        Columns(table)


def test_the_columns_print_as_a_table():
    table = people().assign(rain=np.where(np.arange(40) % 3, 0, RANDOM.gamma(2, 2, 40)), one=7.5)
    table.loc[3, "town"] = None
    lines = repr(EinetDensity(**SMALL).fit(table).columns_).splitlines()
    assert lines[0].split() == ["column", "cells", "family", "range", "missing"] and len(lines) == 8
    assert lines[1].split("  ")[0] == "town" and "Categorical(3)" in lines[1] and "2.5 %" in lines[1]
    assert "dates, days" in lines[2] and "2020-" in lines[2]
    assert "with atoms at 0" in lines[6] and "constant" in lines[7] and "7.5" in lines[7]
