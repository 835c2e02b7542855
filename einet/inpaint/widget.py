"""The widget: images, a mask that is painted, and what the model says about what it covers.

Paper: Section 4.2, Figure 4
Chapter: book/11_inpainting
"""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Sequence
from pathlib import Path

import anywidget
import torch
import traitlets
from torch import Tensor

from einet.checkpoint import load
from einet.explain import mpe_and_evidence
from einet.files import read, refusals
from einet.inpaint.circuit import Range, check_images
from einet.inpaint.pages import SOURCE, es_module
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries import conditional_mean, conditional_variance
from einet.sampling import sample_conditional
from einet.trees import check_evidence, networks_of, values_of

VIEWS = ("sample", "mean", "deviation", "explanation")


class InpaintWidget(anywidget.AnyWidget):
    """Paint over a part of an image, and see what an exact conditional distribution puts there.

    model        a network or a mixture over images, or the path of a file that `export` wrote; only then does the
                 widget also answer in a built page, from the file of that name (`write_page_files`)
    images       (N, H, W), or (N, H, W, C) with C channels, in the model's units
    labels       a name for each image; "image 1", "image 2", ... by default
    value_range  the values that are drawn black and white, as in `export`; a file has its own
    seed         of the samples; different in every run where None

    What the user did last is in `image`, the number of the image, `observed` (H, W), true where it is visible, and
    `filled`, what was shown. `ValueError` for what `export` refuses, for images of another size or with values outside
    the range or the families' support, and for labels that are not one for each image.

    Paper: Section 4.2, Figure 4
    Chapter: book/11_inpainting
    """

    _esm = es_module()
    _css = SOURCE / "inpaint.css"
    page = traitlets.Dict().tag(sync=True)  # what the front end knows, with a kernel or without

    def __init__(
        self,
        model: Einet | Mixture | str | os.PathLike,
        images: Tensor,
        labels: Sequence[str] | None = None,
        value_range: Range | None = None,
        seed: int | None = None,
    ):
        file = None
        if not isinstance(model, (Einet, Mixture)):
            file, value_range, model = Path(model), _range_of(model), load(model)
        low, high = check_images(model, value_range)
        self.model, self.images = model, _checked_images(model, images, low, high)
        self.generator = torch.Generator(self.images.device)
        self.generator.seed() if seed is None else self.generator.manual_seed(seed)
        self.image, self.filled = 0, self.images[0]
        self.observed = torch.ones(self.images.shape[1:3], dtype=torch.bool)
        super().__init__(page=_page(model, self.images, labels, low, high, file))
        self.on_msg(_answer)

    def fill(self, image: int, observed: Tensor, view: str = "sample") -> tuple[Tensor, dict[str, float]]:
        """What is shown for an image, (H, W, C), and numbers about it, in nats.

        observed   bool, (H, W)
        view       "sample", "mean", "deviation" (the standard deviation) or "explanation", as `einet.mpe` finds it
        The numbers are `logDensity`, of what is visible; for an explanation also `logCompleted` and `upperBound`.
        `ValueError` for another view, an image that there is not, or a mask of another shape or dtype.
        """
        if view not in VIEWS or not isinstance(image, int) or not 0 <= image < len(self.images):
            raise ValueError(
                f"need one of the views {VIEWS} and an image from 0 to {len(self.images) - 1}, got {view!r}, {image!r}"
            )
        if not isinstance(observed, Tensor) or observed.dtype != torch.bool or observed.shape != self.observed.shape:
            kind = (observed.dtype, tuple(observed.shape)) if isinstance(observed, Tensor) else type(observed).__name__
            raise ValueError(f"observed must be a bool tensor of shape {tuple(self.observed.shape)}, got {kind}")
        self.image, self.observed = image, observed
        x, mask = self.images[image : image + 1], observed.to(self.images.device)
        fill = self._explain if view == "explanation" else self._fill
        self.filled, numbers = fill(x, mask, view)
        return self.filled, numbers

    def _explain(self, x: Tensor, observed: Tensor, _: str) -> tuple[Tensor, dict[str, float]]:
        best, evidence = mpe_and_evidence(self.model, x, observed)
        numbers = {"logDensity": evidence, "logCompleted": best.log_density, "upperBound": best.upper_bound}
        return best.x[0], {name: number.item() for name, number in numbers.items()}

    def _fill(self, x: Tensor, observed: Tensor, view: str) -> tuple[Tensor, dict[str, float]]:
        """All but explanations. Components that the evidence rules out are passed through once, not again."""
        joint = _log_joint(self.model, x, observed)
        numbers = {"logDensity": torch.logsumexp(joint, 0).item()}
        if view == "sample":
            component = torch.multinomial(joint.softmax(0), 1, generator=self.generator)
            network = networks_of(self.model)[component]
            return sample_conditional(network, x, observed, generator=self.generator)[0, 0], numbers
        likely = _likely(self.model, joint.softmax(0))
        if view == "mean":
            return conditional_mean(likely, x, observed)[0], numbers
        return conditional_variance(likely, x, observed)[0].sqrt(), numbers

    def _repr_mimebundle_(self, **arguments):
        bundle = super()._repr_mimebundle_(**arguments)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**(data or {}), "text/plain": repr(self), "text/html": self.as_html()}, metadata

    def __repr__(self) -> str:
        count, height, width, _ = self.images.shape
        return f"InpaintWidget({count} images of {height} x {width})"

    def as_html(self) -> str:
        """What a page shows where there is no kernel: an element that the page's script turns into the same widget."""
        if not self.page["file"]:
            return '<p class="einet-inpaint">This widget answers in JupyterLab, where its model is in memory.</p>'
        page = html.escape(json.dumps(self.page))
        return (
            f'<div class="einet-inpaint" data-page="{page}">This widget answers in the built book, '
            "where it needs no kernel, and in JupyterLab.</div>"
        )


@torch.no_grad()
def _log_joint(model: Einet | Mixture, x: Tensor, observed: Tensor) -> Tensor:
    """log w_c + log P_c(evidence) of one row, for each component (C,), in float64."""
    joint = model.log_joint(x, observed)[0] if isinstance(model, Mixture) else model(x, observed)
    check_evidence(torch.logsumexp(joint, 0, keepdim=True))
    return joint.double()


def _likely(model: Einet | Mixture, posterior: Tensor) -> Einet | Mixture:
    """The mixture of those components whose posterior probability (C,) is not below 1e-12."""
    chosen = (posterior >= 1e-12).nonzero()[:, 0].tolist()
    if len(chosen) == len(networks_of(model)):
        return model
    weights = model.weights.detach()[chosen].double()
    return Mixture([model.components[c] for c in chosen], weights / weights.sum())


def _answer(widget: InpaintWidget, question: dict, buffers: list) -> None:
    """One question of the front end, {"id", "image", "view"} and the mask as bytes; one answer, or an error."""
    try:
        mask = torch.frombuffer(bytearray(buffers[0]), dtype=torch.uint8)
        if len(mask) != widget.observed.numel():
            raise ValueError(f"the mask must have {widget.observed.numel()} bytes, got {len(mask)}")
        filled, numbers = widget.fill(question["image"], mask.view(widget.observed.shape) > 0, question["view"])
    except ValueError as error:
        widget.send({"id": question["id"], "error": str(error)})
        return
    widget.send({"id": question["id"], **numbers}, [filled.float().cpu().contiguous().numpy().tobytes()])


# What the page knows


def _range_of(path: str | os.PathLike) -> Range:
    """The range of values that is in a file. `ValueError` where it is none that `export` wrote."""
    content, _ = read(path)
    with refusals(path):
        if "image" not in content:
            raise ValueError("it was not written by einet.inpaint.export")
        return content["image"]["low"], content["image"]["high"]


def _checked_images(model, images: Tensor, low: float, high: float) -> Tensor:
    """(N, H, W, C), floating. The model looks at the shape and the support."""
    x, _ = model.as_input(images, None)  # (D, C, N)
    outside = x[~((x >= low) & (x <= high))]
    if len(outside):
        raise ValueError(f"pixels must be within [{low}, {high}], got {outside[0].item()}")
    return x.permute(2, 0, 1).reshape(x.shape[2], *networks_of(model)[0].graph.shape, -1)


def _page(model, images: Tensor, labels: Sequence[str] | None, low: float, high: float, file: Path | None) -> dict:
    labels = [f"image {i + 1}" for i in range(len(images))] if labels is None else list(map(str, labels))
    if len(labels) != len(images):
        raise ValueError(f"need a label for each of {len(images)} images, got {len(labels)}")
    discrete = all(values_of(family) for network in networks_of(model) for family in network.families)
    steps = int(high - low) if discrete and high - low <= 255 else 255
    levels = ((images.double() - low) / (high - low) * steps).round().to(torch.uint8).cpu().numpy()
    return {
        **dict(zip(("height", "width", "channels"), images.shape[1:], strict=True)),
        "low": low,
        "high": high,
        "steps": steps,  # an image's bytes count from 0, black, to this, white
        "discrete": discrete,
        "images": [base64.b64encode(image.tobytes()).decode() for image in levels],
        "labels": labels,
        "file": file and file.stem,
    }
