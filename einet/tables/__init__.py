"""Tables: scikit-learn's interface to Einsum Networks. Needs scikit-learn 1.6 or later (`pip install 'einet[tables]'`).

cells        every cell is looked at before it becomes a float
columns      what becomes of a column: its family, its scale, and back again
validation   when to stop: held-out rows, or folds
estimator    `EinetDensity` and `EinetClassifier`
"""

try:
    import sklearn as sklearn
except ImportError as error:
    raise ImportError("einet.tables needs scikit-learn 1.6 or later: pip install 'einet[tables]'") from error

from einet.tables.columns import TableWarning
from einet.tables.estimator import EinetClassifier, EinetDensity

__all__ = ["EinetClassifier", "EinetDensity", "TableWarning"]
