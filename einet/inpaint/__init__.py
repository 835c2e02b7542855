"""Inpainting that answers: paint over a part of an image, and an exact conditional distribution fills it.

    export(model, "digits.safetensors")
    InpaintWidget("digits.safetensors", images)

    circuit     `export`: a model as one file, with all that an engine in JavaScript needs to evaluate it
    widget      `InpaintWidget`: images, a mask that is painted, and Python that answers
    pages       `write_page_files`: what a built page needs to answer by itself
    engine.js   the circuit in JavaScript, without dependencies
    widget.js   what is seen, clicked and painted; inpaint.css

With a kernel Python computes, without one the engine does; tests hold that they agree. Needs anywidget.

Source: Section 4.2, Figure 4
"""

from einet.inpaint.circuit import export
from einet.inpaint.pages import write_page_files
from einet.inpaint.widget import InpaintWidget

__all__ = ["InpaintWidget", "export", "write_page_files"]
