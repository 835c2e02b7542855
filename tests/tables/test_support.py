"""Which cells a family has: asked of `check`, whose error may say which are outside, or else of halves."""

import math

import numpy as np
import pytest

from einet.families import Exponential, Gamma, LogNormal, Normal, Poisson, WithAtoms
from einet.tables.support import inside


class Plain(Gamma):
    """A family of a user's own, whose error does not say which values are outside; it counts how often it was asked."""

    asked = 0

    def check(self, x):
        type(self).asked += 1
        if (x <= 0).any() or x.isinf().any():
            raise ValueError("positive, please")


@pytest.mark.parametrize(
    ("family", "allowed"),
    [
        (Normal(), np.isfinite),
        (Gamma(), lambda z: (z > 0) & np.isfinite(z)),
        (LogNormal(), lambda z: (z > 0) & np.isfinite(z)),
        (Exponential(), lambda z: (z >= 0) & np.isfinite(z)),
        (Poisson(), lambda z: (z >= 0) & np.isfinite(z) & (z == np.floor(z))),
        (WithAtoms(Gamma(), atoms=(-9.0, 0.0)), lambda z: ((z > 0) & np.isfinite(z)) | np.isin(z, (-9, 0))),
        (Plain(), lambda z: (z > 0) & np.isfinite(z)),
    ],
)
def test_each_cell_by_itself(family, allowed):
    random = np.random.RandomState(0)
    cells = np.r_[random.randn(200), random.poisson(2, 50), math.inf, -math.inf, -9, 0, np.nan]
    assert (inside(family, cells) == (allowed(cells) & ~np.isnan(cells))).all()


def test_cells_that_nothing_has_are_found_at_once():
    """A column half of whose cells are outside is no slower than others: the check is asked twice, not for each."""
    asked = []

    class Counted(Gamma):
        def check(self, x):
            asked.append(len(x))
            super().check(x)

    cells = np.linspace(-1, 1, 100_001)
    assert inside(Counted(), cells).sum() == 50_000 and len(asked) == 2
