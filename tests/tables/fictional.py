"""A small table and a density of it, which several tests ask."""

from functools import cache

import numpy as np
import pandas

from einet.tables import EinetDensity

# One training of one network, of few epochs: what a test compares is exact for any density.
QUICK = {"depth": 1, "num_replicas": 2, "num_sums": 3, "epochs": 5, "validation": 0.0, "random_state": 0}


def people(num_rows=200, seed=0):
    """Two real columns that depend on each other, one of three categories, one of two, and a constant."""
    random = np.random.RandomState(seed)
    region = random.choice([1, 2, 5], num_rows, p=[0.5, 0.3, 0.2])
    age = random.uniform(20, 60, num_rows) + region
    income = 100 * age + 500 * region + 300 * random.randn(num_rows)
    member = (random.rand(num_rows) < age / 80).astype(int)
    columns = {"age": age, "region": region, "income": income, "member": member, "year": np.full(num_rows, 2024)}
    return pandas.DataFrame(columns)


@cache
def density_of_people():
    return EinetDensity(**QUICK).fit(people())
