"""Sum layers, each in one operation, and the numbers that they compute with.

sums                    the layers of a network: einsum, thin (cp), mixing, and what they answer to queries
einsum, thin            the operations: the paper's sum over pairs; the product entry by entry, then a dense sum
stack                   all thin layers of a network in one operation
children                where a layer finds its children
scaled                  densities as a value and a logarithmic scale, which do not underflow
scratch, derivatives    temporary memory; derivatives of derivatives
"""

from einet.layers.einsum import log_einsum_exp
from einet.layers.scaled import Scaled
from einet.layers.sums import CPLayer, EinsumLayer, MixingLayer, SumLayer, set_precision

__all__ = ["CPLayer", "EinsumLayer", "MixingLayer", "Scaled", "SumLayer", "log_einsum_exp", "set_precision"]
