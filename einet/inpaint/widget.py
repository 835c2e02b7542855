"""The widget: images, a mask that is painted, and the model's answer below it.

Source: Section 4.2, Figure 4
"""

from __future__ import annotations

import base64
import html
import json
import os
import reprlib
import struct
import zlib
from collections.abc import Sequence
from typing import Any, cast

import anywidget
import torch
import traitlets
from torch import Tensor

from einet.inpaint.circuit import Range, check_images, value_range_of
from einet.inpaint.pages import SOURCE, es_module, page_name
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries.marginals import conditional_mean, conditional_variance
from einet.queries.most_probable import mpe_and_evidence
from einet.queries.passes import check_evidence, networks_of
from einet.queries.sampling import sample_conditional
from einet.storage.checkpoint import load

VIEWS = ("sample", "mean", "deviation", "explanation")
# Images side by side where no kernel answers, and their style.
MAX_PICTURES, PICTURE_STYLE = 10, "image-rendering: pixelated; max-width: 40rem; width: 100%"


class InpaintWidget(anywidget.AnyWidget):
    """Paint over a part of an image, and see what an exact conditional distribution puts there.

    Args:
        model: a network or a mixture over images, or the path of a file that `export` wrote. Only with a file the
            widget also answers in a built page, which has the very same file (`write_page_files`).
        images: (N, H, W), or (N, H, W, C) with C channels, in the model's units.
        labels: a name for each image; "image 1", "image 2", ... by default.
        value_range: the values drawn black and white, as in `export`; a file has its own.
        seed: of the samples; different in every run where None.

    Attributes:
        image: the number of the image that the user last asked about.
        observed: (H, W), true where it is visible.
        filled: the answer.

    Raises:
        ValueError: `export` refuses the model, an image has another size or values outside the range or the support, or
            there is not one label for each image.

    Source: Section 4.2, Figure 4
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
            value_range, file, path = value_range_of(model), page_name(model), model
            model = cast(Einet | Mixture, load(path))
        low, high = check_images(model, value_range)
        self.model, self.images = model, _checked_images(model, images, low, high)
        self.generator = torch.Generator(self.images.device)
        self.generator.seed() if seed is None else self.generator.manual_seed(seed)
        self.image, self.filled = 0, self.images[0]
        self.observed = torch.ones(self.images.shape[1:3], dtype=torch.bool)
        super().__init__(page=_page(self.images, labels, low, high, file))
        self.on_msg(_answer)

    def fill(self, image: int, observed: Tensor, view: str = "sample") -> tuple[Tensor, dict[str, float]]:
        """The answer for an image, (H, W, C), and numbers about it, in nats.

        The numbers are `logDensity`, of what is visible; for an explanation also `logCompleted` and `upperBound`.

        Args:
            image: its number.
            observed: bool, (H, W).
            view: "sample", "mean", "deviation" (the standard deviation) or "explanation", as `einet.mpe` finds it.

        Raises:
            ValueError: another view, an image that there is not, or a mask of another shape or dtype.
        """
        if view not in VIEWS or type(image) is not int or not 0 <= image < len(self.images):
            got = f"{reprlib.repr(view)}, {reprlib.repr(image)}"  # of any length
            raise ValueError(f"need one of the views {VIEWS} and an image from 0 to {len(self.images) - 1}, got {got}")
        if not isinstance(observed, Tensor) or observed.dtype != torch.bool or observed.shape != self.observed.shape:
            kind = (observed.dtype, tuple(observed.shape)) if isinstance(observed, Tensor) else type(observed).__name__
            raise ValueError(f"observed must be a bool tensor of shape {tuple(self.observed.shape)}, got {kind}")
        x, mask = self.images[image : image + 1], observed.to(self.images.device)
        fill = self._explain if view == "explanation" else self._fill
        filled, numbers = fill(x, mask, view)
        self.image, self.observed, self.filled = image, observed, filled
        return filled, numbers

    def _explain(self, x: Tensor, observed: Tensor, _: str) -> tuple[Tensor, dict[str, float]]:
        best, evidence = mpe_and_evidence(self.model, x, observed)
        numbers = {"logDensity": evidence, "logCompleted": best.log_density, "upperBound": best.upper_bound}
        return best.x[0], {name: number.item() for name, number in numbers.items()}

    def _fill(self, x: Tensor, observed: Tensor, view: str) -> tuple[Tensor, dict[str, float]]:
        """All views but explanations. A component that the evidence rules out gets a single pass."""
        joint = _log_joint(self.model, x, observed)
        numbers = {"logDensity": torch.logsumexp(joint, 0).item()}
        if view == "sample":
            component = torch.multinomial(joint.softmax(0), 1, generator=self.generator)
            network = networks_of(self.model)[component]
            return sample_conditional(network, x, observed, generator=self.generator)[0, 0], numbers
        probable = _probable_components(self.model, joint.softmax(0))
        if view == "mean":
            return conditional_mean(probable, x, observed)[0], numbers
        return conditional_variance(probable, x, observed)[0].sqrt(), numbers

    def _handle_msg(self, msg: dict) -> None:
        """Answer a message without content or of an unknown method as a question; ipywidgets would drop it."""
        data = msg["content"].get("data")
        known = isinstance(data, dict) and data.get("method") in ("update", "request_state")
        if known:
            super()._handle_msg(msg)
        else:
            self._handle_custom_msg(data.get("content") if isinstance(data, dict) else data, msg.get("buffers") or [])

    def _repr_mimebundle_(self, **arguments):
        bundle = super()._repr_mimebundle_(**arguments)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**(data or {}), "text/plain": repr(self), "text/html": self.as_html()}, metadata

    def __repr__(self) -> str:
        count, height, width, _ = self.images.shape
        return f"InpaintWidget({count} images of {height} x {width})"

    def as_html(self) -> str:
        """What a page shows without a kernel: the images, which the script of a built page makes a widget."""
        page, where = "", "where a kernel runs, as in JupyterLab"
        if self.page["file"]:
            page = f' data-page="{html.escape(json.dumps(self.page))}"'
            where += ", and in the built book, which brings its model along"
        alt, strip = html.escape(", ".join(self.page["labels"][:MAX_PICTURES])), self.images[:MAX_PICTURES]
        data = base64.b64encode(_png(_bytes_of_colours(torch.cat([*strip], 1), self.page))).decode()
        picture = f'<img alt="{alt}" style="{PICTURE_STYLE}" src="data:image/png;base64,{data}">'
        return f'<div class="einet-inpaint"{page}><p>This widget answers {where}.</p>{picture}</div>'


@torch.no_grad()
def _log_joint(model: Einet | Mixture, x: Tensor, observed: Tensor) -> Tensor:
    """log w_c + log P_c(evidence) of one row, for each component (C,), in float64."""
    joint = model.log_joint(x, observed)[0] if isinstance(model, Mixture) else model(x, observed)
    check_evidence(torch.logsumexp(joint, 0, keepdim=True))
    return joint.double()


def _probable_components(model: Einet | Mixture, posterior: Tensor) -> Einet | Mixture:
    """The mixture of those components whose posterior probability (C,) is not below 1e-12."""
    chosen = (posterior >= 1e-12).nonzero()[:, 0].tolist()
    if not isinstance(model, Mixture) or len(chosen) == len(model.components):
        return model
    weights = model.weights.detach()[chosen].double()
    return Mixture([model.components[c] for c in chosen], weights / weights.sum())


def _answer(widget: InpaintWidget, question: object, buffers: list) -> None:
    """One question of the front end, {"id", "image", "view"} and the mask as bytes; one answer, or an error.

    Every message is answered, since the page waits; with its `id` where that is a number or a short text.
    """
    name = question.get("id") if isinstance(question, dict) else None
    name = name if isinstance(name, int) or (isinstance(name, str) and len(name) <= 100) else None
    try:
        image, observed, view = _checked_question(question, buffers, widget.observed.shape)
        filled, numbers = widget.fill(image, observed, view)
        buffers = [_as_bytes(filled, widget.page["dtype"])]
    except Exception as error:  # a bad question, a model that was changed, no memory, ...
        reason = str(error) if isinstance(error, ValueError) else f"the kernel failed: {type(error).__name__}: {error}"
        widget.send({"id": name, "error": reason})
    else:
        widget.send({"id": name, **numbers}, buffers)


def _checked_question(question: object, buffers: list, shape: torch.Size) -> tuple[Any, Tensor, Any]:
    """The image, the mask and the view, of which `fill` checks the first and the last."""
    if not isinstance(question, dict) or not {"id", "image", "view"} <= question.keys():
        raise ValueError(f"a question must have an id, an image and a view, got {reprlib.repr(question)}")
    sizes = [memoryview(buffer).nbytes for buffer in buffers or ()]
    if sizes != [shape.numel()]:
        raise ValueError(f"the mask must have {shape.numel()} bytes, got {sum(sizes)} in {len(sizes)} buffers")
    mask = torch.frombuffer(bytearray(buffers[0]), dtype=torch.uint8)
    return question["image"], mask.view(shape) > 0, question["view"]


# What the page knows


def _as_bytes(x: Tensor, dtype: str) -> bytes:
    """The numbers of images and answers as widget.js reads them, unrounded and little-endian."""
    numbers = x.detach().cpu().to(getattr(torch, dtype)).contiguous().numpy()
    return numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()


def _checked_images(model: Einet | Mixture, images: Tensor, low: float, high: float) -> Tensor:
    """(N, H, W, C), floating. The model looks at the shape and the support."""
    x, _ = model.as_input(images, None)  # (D, C, N)
    outside = x[~((x >= low) & (x <= high))]
    if len(outside):
        raise ValueError(f"pixels must be within [{low}, {high}], got {outside[0].item()}")
    x = x.permute(2, 0, 1).reshape(x.shape[2], *(networks_of(model)[0].graph.shape or ()), -1)
    return x.clone()  # a copy: kernel and page keep the same numbers if the caller's change


def _page(images: Tensor, labels: Sequence[str] | None, low: float, high: float, file: str | None) -> dict:
    labels = [f"image {i + 1}" for i in range(len(images))] if labels is None else list(map(str, labels))
    if len(labels) != len(images):
        raise ValueError(f"need a label for each of {len(images)} images, got {len(labels)}")
    dtype = "float64" if images.dtype == torch.float64 else "float32"  # that also holds all of float16 and bfloat16
    return {
        **dict(zip(("height", "width", "channels"), images.shape[1:], strict=True)),
        "low": low,
        "high": high,
        "dtype": dtype,
        "images": [base64.b64encode(_as_bytes(image, dtype)).decode() for image in images],
        "labels": labels,
        "file": file,
    }


# A picture for where nothing answers


def _bytes_of_colours(image: Tensor, page: dict) -> Tensor:
    """(H, W, C), uint8, as widget.js draws it."""
    return ((image.double() - page["low"]) / (page["high"] - page["low"]) * 255).round().to(torch.uint8).cpu()


def _png(pixels: Tensor) -> bytes:
    """A PNG file of (H, W, C), uint8, where C is 1, grey, or 3. A row begins with 0: no filter."""
    height, width, channels = pixels.shape
    rows = torch.cat((torch.zeros(height, 1, dtype=torch.uint8), pixels.reshape(height, -1)), 1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows.numpy().tobytes(), 9)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunks
