"""Warns of columns that a density knows less closely than their cells are, for a bound that was asked for.

Source: not in the paper
"""

from __future__ import annotations

import warnings

from einet.family import LeafFamily
from einet.leaves import LeafLayer
from einet.tables.columns import Columns
from einet.tables.support import min_deviation

# The share of a column's leaf entries at their smallest variance above which the bound, not the data, sets the widths.
MAX_SHARE_AT_FLOOR = 2 / 3
# The variance of a standardised column from which an entry is as wide as its column, as entries are that no row uses.
UNUSED_VARIANCE = 0.5


class TableWarning(UserWarning):
    """A column of the training data whose cells will be blurred by a bound on variances that was asked for.

    Source: not in the paper
    """


def warn_of_floor(columns: Columns, leaves: LeafLayer) -> None:
    """Warn of each column most of whose leaf entries, after training, are as narrow as a given family allows.

    Source: not in the paper
    """
    for part in leaves.parts:
        if not part.family.location_scale:
            continue
        narrowest = min_deviation(part.family)
        variance = part.family.alone.variance(part.alone().detach())  # (P, C, K), of standardised columns
        used = variance < UNUSED_VARIANCE
        narrow = variance <= 1.2 * narrowest**2  # shrinkage keeps them off the bound itself
        for d in part.variables.tolist():
            pairs = part.pairs == d
            share = (narrow[pairs].sum() / used[pairs].sum().clamp_min(1)).item()
            if share > MAX_SHARE_AT_FLOOR and d not in columns.chosen and narrowest > columns.resolution[d]:
                _warn(columns, d, part.family, narrowest, share)


def _warn(columns: Columns, d: int, family: LeafFamily, narrowest: float, share: float) -> None:
    name = d if columns.names is None else columns.names[d]
    bound = f"leaf={{einet.{type(family).__name__}(min_variance={(narrowest / 10) ** 2:.1g}): [{name!r}]}}"
    warnings.warn(
        f"{share:.0%} of the leaf entries of column {name!r} are as narrow as allowed, a standard deviation of "
        f"{narrowest * columns.scale[d]:.3g}: given the other columns it may be known better than the density says. "
        f"If so, lower the bound, as in {bound}",
        TableWarning,
        stacklevel=3,
    )
