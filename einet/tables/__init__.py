"""Tables: scikit-learn's interface to Einsum Networks. Needs scikit-learn 1.6 or later (`pip install 'einet[tables]'`).

cells        every cell is looked at before it becomes a float
kinds        what a column's cells are: numbers, text, dates, ...; frames has them as a DataFrame again
resolution   a column's unit, and the smallest difference that counts in it
choice       which family suits a column, by held-out cells
columns      a table's columns as variables of a network, and back
validation   when to stop: held-out rows, or folds
weights      rows that count more or less than once
frames       tables that go out as they came in
conditions   what a question asks of columns, as boxes of variables
questions    samples, probabilities, completions, intervals and surprises of a density
estimator    `EinetDensity`, and what all estimators share
discriminative, refinement    training on log P(y | x), and whether it pays
classifier   `EinetClassifier`
imputer      `EinetImputer`
regressor    `EinetRegressor`
"""

try:
    import sklearn as sklearn
except ImportError as error:
    raise ImportError("einet.tables needs scikit-learn 1.6 or later: pip install 'einet[tables]'") from error

from einet.tables.blur import TableWarning
from einet.tables.classifier import EinetClassifier
from einet.tables.estimator import EinetDensity
from einet.tables.imputer import EinetImputer
from einet.tables.regressor import EinetRegressor

__all__ = ["EinetClassifier", "EinetDensity", "EinetImputer", "EinetRegressor", "TableWarning"]
