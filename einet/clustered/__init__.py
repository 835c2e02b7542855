"""Mixtures for data that come in kinds: k-means clusters, and a network for each. Needs scikit-learn."""

from einet.clustered.mixtures import fit_mixture

__all__ = ["fit_mixture"]
