"""The old name of `einet.tables`, until version 0.3."""

import warnings

from einet.tables import EinetClassifier as EinetClassifier
from einet.tables import EinetDensity as EinetDensity

warnings.warn("einet.estimator is now einet.tables", DeprecationWarning, stacklevel=2)
