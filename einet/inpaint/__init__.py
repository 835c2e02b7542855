"""Inpainting: paint over a part of an image, and an exact conditional distribution fills it.

    export(model, "digits.safetensors")
    InpaintWidget("digits.safetensors", images)

    circuit     `export`: a model as one file, with its circuit spelled out for an engine in JavaScript
    widget      `InpaintWidget`: images, a mask that is painted, and Python that answers
    pages       `write_page_files`: the files with which a built page answers by itself
    picture     a picture for where nothing answers
    engine.js   the circuit in JavaScript, without dependencies: tools, file, families, leaves, circuit
    widget.js   the view: elements, ground (ink on any page), colours, painting, pictures (of the user), views, layout;
                kernel.js and page.js say who answers; inpaint.css is its style

With a kernel Python computes, without one the engine does; tests hold that they agree. Needs anywidget.

Source: Section 4.2, Figure 4
"""

from einet.inpaint.circuit import export
from einet.inpaint.pages import write_page_files
from einet.inpaint.widget import InpaintWidget

__all__ = ["InpaintWidget", "export", "write_page_files"]
