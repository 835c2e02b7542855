"""Estimators on disk: all that they were comes back, without pickle, and files that say anything else are refused."""

import datetime
import json

import numpy as np
import pandas
import pytest
import torch
from fictional import QUICK, density_of_people, people
from sklearn.datasets import load_iris

import einet
from einet.storage.archive import read, write
from einet.tables import EinetClassifier, EinetDensity, EinetImputer, EinetRegressor

TABLE = people(40)
VARYING = TABLE.drop(columns="year")


def there_and_back(estimator, tmp_path):
    path = tmp_path / "estimator.einet"
    einet.save(estimator, path)
    loaded = einet.load(path)
    assert type(loaded) is type(estimator) and repr(loaded) == repr(estimator)
    return loaded


def test_a_density_comes_back_bit_for_bit(tmp_path):
    density = density_of_people()
    loaded = there_and_back(density, tmp_path)
    table = TABLE.astype({"age": "float64", "region": "float64"})
    table.loc[3, "age"], table.loc[4, "region"] = np.nan, 7
    assert np.array_equal(loaded.score_samples(table), density.score_samples(table))
    assert loaded.sample(5).equals(density.sample(5))
    given = {"age": (30, 40), "region": {1, 2}}
    assert loaded.probability(given) == density.probability(given)
    assert loaded.predict_missing(table).equals(density.predict_missing(table))
    assert list(loaded.feature_names_in_) == list(density.feature_names_in_)
    assert vars(loaded.history_) == vars(density.history_)
    assert loaded.get_params() == density.get_params()
    with pytest.raises(ValueError, match="feature names"):
        loaded.score_samples(TABLE.rename(columns={"age": "height"}))


def test_other_estimators_come_back(tmp_path):
    X, y = load_iris(return_X_y=True)
    text = np.array(["setosa", "versicolor", "virginica"])[y]
    for target in (text, y, text.astype(object), y.astype(bool)):
        classifier = EinetClassifier(**QUICK).fit(X, target)
        loaded = there_and_back(classifier, tmp_path)
        assert np.array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
        assert (
            np.array_equal(loaded.predict(X), classifier.predict(X))
            and loaded.classes_.dtype == classifier.classes_.dtype
        )
    inputs = TABLE[["age", "region"]]
    regressor = EinetRegressor(**QUICK).fit(inputs, TABLE["income"])
    assert np.array_equal(there_and_back(regressor, tmp_path).predict(inputs), regressor.predict(inputs))
    imputer = EinetImputer(EinetDensity(**QUICK), strategy="draw", random_state=3).fit(X)
    gaps = np.where(np.arange(4) == 2, np.nan, X)
    assert np.array_equal(there_and_back(imputer, tmp_path).transform(gaps), imputer.transform(gaps))


@pytest.mark.parametrize(
    "settings",
    [
        {"leaf": {einet.LogNormal(): ["age"], einet.Normal(min_variance=1e-3): ["income"]}},
        {"structure": einet.chow_liu, "sum_product": "cp"},
        {"structure": einet.random_binary_trees(4, 1, 1, seed=3)},
        {"random_state": np.int64(3), "batch_size": None},
    ],
)
def test_settings_come_back(settings, tmp_path):
    density = EinetDensity(**QUICK | settings).fit(VARYING)
    loaded = there_and_back(density, tmp_path)
    assert np.array_equal(loaded.score_samples(VARYING), density.score_samples(VARYING))
    for name, value in settings.items():
        assert getattr(loaded, name) == value
    assert np.array_equal(loaded.fit(VARYING).score_samples(VARYING), density.score_samples(VARYING))


def test_columns_of_any_kind_come_back(tmp_path):
    random = np.random.RandomState(0)
    table = pandas.DataFrame(
        {
            "name": random.choice(["ann", "bob", "cyd"], 80),
            "size": pandas.Categorical(random.choice(["s", "m", "l"], 80), ["s", "m", "l"], ordered=True),
            "member": pandas.array(random.rand(80) < 0.5, dtype="boolean"),
            "visits": pandas.array(random.poisson(20, 80), dtype="Int64"),
            "rain": np.where(random.rand(80) < 0.6, 0, random.exponential(1, 80)),
            "since": pandas.Timestamp("2020-02-03") + pandas.to_timedelta(random.randint(0, 900, 80), unit="D"),
            "day": [datetime.date(2020, 1, 1) + datetime.timedelta(days=int(k)) for k in random.randint(0, 900, 80)],
            "wait": pandas.to_timedelta(random.randint(0, 900, 80), unit="s"),
        }
    )
    table.loc[3, ["name", "visits"]] = None
    density = EinetDensity(**QUICK).fit(table)
    loaded = there_and_back(density, tmp_path)
    assert np.array_equal(loaded.score_samples(table), density.score_samples(table))
    assert loaded.sample(6).equals(density.sample(6)) and loaded.sample(6).dtypes.equals(table.dtypes)
    assert repr(loaded.columns_) == repr(density.columns_)
    given = {"name": {"ann", "bob"}, "since": (pandas.Timestamp("2021-01-01"), None), "rain": 0, "member": True}
    assert loaded.probability(given) == density.probability(given)
    drawn = loaded.sample(20, given=given)
    assert set(drawn["name"]) <= {"ann", "bob"} and (drawn["since"] >= "2021-01-01").all()
    assert (drawn["rain"] == 0).all() and drawn["member"].all()
    assert loaded.predict_missing(table).equals(density.predict_missing(table))


def test_dtypes_of_a_dataframe_come_back(tmp_path):
    table = TABLE.astype({"region": "Int64", "member": bool, "age": "float32"})
    loaded = there_and_back(EinetDensity(**QUICK).fit(table), tmp_path)
    assert loaded.sample(2).dtypes.equals(table.dtypes)


def test_what_cannot_be_saved(tmp_path):
    path = tmp_path / "estimator.einet"
    with pytest.raises(ValueError, match="this EinetDensity is not fitted"):
        einet.save(EinetDensity(), path)
    density = EinetDensity(**QUICK | {"structure": lambda x, observed: einet.random_binary_trees(5, 1, 1, seed=0)})
    with pytest.raises(ValueError, match=r"structure=.* cannot be saved .*: set_params\(structure=None\)"):
        einet.save(density.fit(TABLE), path)
    einet.save(density.set_params(structure=None), path)
    with pytest.raises(ValueError, match=r"random_state=.*set_params\(random_state=None\)"):
        einet.save(EinetDensity(**QUICK | {"random_state": np.random.RandomState(0)}).fit(TABLE), path)
    with pytest.raises(ValueError, match="optimizer and dtype are of networks"):
        einet.save(density_of_people(), path, dtype=torch.float16)

    class Own(EinetDensity):
        pass

    with pytest.raises(ValueError, match="only .*'EinetDensity'.* can be saved, got Own"):
        einet.save(Own(**QUICK).fit(TABLE), path)
    with pytest.raises(ValueError, match="only an Einet, a Mixture or an estimator of einet.tables can be saved"):
        einet.save(pandas.DataFrame(), path)


# Files that say anything else


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "density.einet"
    einet.save(density_of_people(), path)
    return read(path)


def changed(content, place, value):
    """A copy of nested JSON with another value at one place."""
    copied = json.loads(json.dumps(content))
    inside = copied
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return copied


COLUMNS = ("estimator", "learned", "columns_", "attributes")


@pytest.mark.parametrize(
    "place, value",
    [
        (("estimator", "class"), "EinetClassifier"),
        (("estimator", "class"), "BaseEstimator"),
        (("estimator", "learned"), {}),
        (("estimator", "learned", "fit"), 3),
        (("estimator", "learned", "fit_"), {"type": "function", "name": "system"}),
        (("estimator", "learned", "__class__"), "x"),
        (("estimator", "learned", "model_"), None),
        (("estimator", "learned", "n_features_in_"), 3),
        (("estimator", "learned", "n_features_in_"), True),
        (("estimator", "settings", "command"), "rm"),
        (("estimator", "settings", "leaf"), {"type": "pickle", "data": "gASV"}),
        (("estimator", "settings", "leaf"), {"type": "family", "class": "Popen", "fields": {}}),
        ((*COLUMNS, "encode"), 3),
        ((*COLUMNS, "values"), {"type": "list", "items": []}),
        ((*COLUMNS, "center"), {"type": "list", "items": [0, 0, 0, 0, 0]}),
        ((*COLUMNS, "families"), {"type": "dict", "items": []}),
        (("estimator", "learned", "columns_", "class"), "Popen"),
        (("estimator", "learned", "model_", "prefix"), "nothing."),
        (("estimator", "learned", "model_", "model", "networks", 0, "num_leaves"), 10**9),
    ],
)
def test_changed_files_are_refused(written, tmp_path, place, value):
    content, tensors = written
    path = tmp_path / "changed.einet"
    write(path, changed(content, place, value), tensors)
    with pytest.raises(ValueError, match="cannot read .*changed.einet"):
        einet.load(path)


def test_changed_numbers_are_refused(written, tmp_path):
    content, tensors = written
    path = tmp_path / "changed.einet"
    attributes = content["estimator"]["learned"]["columns_"]["attributes"]
    free = json.dumps([attributes[name] for name in ("center", "missing", "ranges", "resolution")])
    for name, tensor in tensors.items():
        if f'"{name}"' not in free and tensor.numel() > 1:  # these may be -1, and so may a constant
            write(path, content, {**tensors, name: torch.full_like(tensor, -1)})
            with pytest.raises(ValueError, match="cannot read"):
                einet.load(path)
        write(path, content, {key: value for key, value in tensors.items() if key != name})
        with pytest.raises(ValueError, match="cannot read"):
            einet.load(path)
    write(path, content, {**tensors, "more": torch.zeros(3)})
    with pytest.raises(ValueError, match="which belong to nothing"):
        einet.load(path)
