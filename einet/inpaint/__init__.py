"""Inpainting that answers: paint over a part of an image, and an exact conditional distribution fills it.

    circuit     `export`: a model as one file, with all that an engine in JavaScript needs to evaluate it

Paper: Section 4.2, Figure 4
Chapter: book/11_inpainting
"""

from einet.inpaint.circuit import export

__all__ = ["export"]
