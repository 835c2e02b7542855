"""What a density is asked, all by the same three passes.

boxes            probabilities of intervals and sets, by an upward pass
surprises        which cell of a row is odd, by one backward pass
passes           upward, downward, and values at leaves: what the questions share
marginals        log-marginals, conditionals, and their moments and tables, by one backward pass
sampling         samples, given anything or nothing
most_probable    the most probable completion
information      entropy, divergence, mutual information
"""

from einet.queries.boxes import log_conditional_probability, log_probability
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
from einet.queries.surprises import surprise

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
    "log_conditional_probability",
    "log_marginal",
    "log_probability",
    "mpe",
    "mutual_information",
    "sample",
    "sample_conditional",
    "surprise",
]
