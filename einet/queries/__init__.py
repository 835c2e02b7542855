"""What a density is asked, all by the same three passes.

passes           upward, downward, and values at leaves: what the questions share
marginals        log-marginals, conditionals, and their moments and tables, by one backward pass
sampling         samples, given anything or nothing
most_probable    the most probable completion
information      entropy, divergence, mutual information
"""

from einet.queries.information import Bounds, Estimate, entropy, entropy_bounds, kl, mutual_information
from einet.queries.marginals import (
    Marginals,
    conditional_marginals,
    conditional_mean,
    conditional_variance,
    log_conditional,
    log_marginal,
)
from einet.queries.most_probable import Explanation, mpe
from einet.queries.sampling import sample, sample_conditional

__all__ = [
    "Bounds",
    "Estimate",
    "Explanation",
    "Marginals",
    "conditional_marginals",
    "conditional_mean",
    "conditional_variance",
    "entropy",
    "entropy_bounds",
    "kl",
    "log_conditional",
    "log_marginal",
    "mpe",
    "mutual_information",
    "sample",
    "sample_conditional",
]
