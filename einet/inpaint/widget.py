"""The widget: images, a mask that is painted, and the model's answer below it.

Source: Section 4.2, Figure 4
"""

from __future__ import annotations

import base64
import html
import json
import os
import reprlib
from collections.abc import Sequence
from typing import Any, cast

import anywidget
import torch
import traitlets
from torch import Tensor

from einet.inpaint.circuit import Range, check_images, checked_names, kinds_of, value_range_of
from einet.inpaint.pages import SOURCE, es_module, page_name
from einet.inpaint.picture import MAX_PICTURES, sheet
from einet.mixture import Mixture
from einet.network import Einet
from einet.queries.marginals import conditional_mean, conditional_variance
from einet.queries.most_probable import mpe_and_evidence
from einet.queries.passes import check_evidence, networks_of
from einet.queries.sampling import sample_conditional
from einet.storage.checkpoint import load

VIEWS = ("sample", "samples", "mean", "deviation", "explanation", "kind", "truth")
NUM_SAMPLES = 6  # of the view "samples"
PICTURE_STYLE = "image-rendering: pixelated; max-width: 40rem; width: 100%"


class InpaintWidget(anywidget.AnyWidget):
    """Paint over a part of an image, and see what an exact conditional distribution puts there.

    A notebook shows it where a kernel runs. Colab asks first for `google.colab.output.enable_custom_widget_manager()`.

    Args:
        model: a network or a mixture over images, or the path of a file that `export` wrote. Only with a file the
            widget also answers in a built page, which has the very same file (`write_page_files`).
        images: (N, H, W), or (N, H, W, C) with C channels, in the model's units.
        labels: a name for each image; "image 1", "image 2", ... by default.
        value_range: the values drawn black and white, as in `export`; a file has its own.
        seed: of the samples; different in every run where None.
        kinds: a name for each component of a mixture; those of the file, or "kind 1", "kind 2", ... by default.

    Attributes:
        image: the number of the image that the user last asked about, or the user's own image, (H, W, C).
        observed: (H, W), true where it is visible.
        filled: the answer.

    Raises:
        ValueError: `export` refuses the model, an image has another size or values outside the range or the support, or
            there is not one label for each image, or one name for each component.

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
        kinds: Sequence[str] | None = None,
    ):
        file = None
        if not isinstance(model, (Einet, Mixture)):
            value_range, file, path = value_range_of(model), page_name(model), model
            kinds = kinds_of(path) if kinds is None else kinds
            model = cast(Einet | Mixture, load(path))
        low, high = check_images(model, value_range)
        self.model, self.images = model, _checked_images(model, images, low, high)
        self.generator = torch.Generator(self.images.device)
        self.generator.seed() if seed is None else self.generator.manual_seed(seed)
        self.image: int | Tensor = 0
        self.filled = self.images[0]
        self.observed = torch.ones(self.images.shape[1:3], dtype=torch.bool)
        names = _names(kinds, "kind", len(networks_of(model)), "component")
        labels = _names(labels, "image", len(self.images), "image")
        whole = all(family.num_values for network in networks_of(model) for family in network.families)
        page = _page(self.images, labels, low, high, file)
        super().__init__(page={**page, "kinds": names if len(names) > 1 else [], "whole": whole})
        self.on_msg(_answer)

    def fill(
        self, image: int | Tensor, observed: Tensor, view: str = "sample", noise: bool = True
    ) -> tuple[Tensor, dict[str, float]]:
        """The answer for an image, (H, W, C), or (6, H, W, C) for "samples", and numbers about it, in nats.

        The numbers are `logDensity`, of what is visible; for an explanation also `logCompleted` and `upperBound`; for
        the truth `logCompleted`, of the whole image; for a kind its number, `kind`, and its `probability`.

        Args:
            image: its number, or one of your own, (H, W) or (H, W, C), in the model's units.
            observed: bool, (H, W).
            view: "sample", "samples" (six of them), "mean", "deviation" (the standard deviation), "explanation", as
                `einet.mpe` finds it, "kind" (the mean within the most probable component of a mixture), or "truth" (the
                image itself).
            noise: if False, samples are the modes of the leaves that were drawn, as in `sample_conditional`.

        Raises:
            ValueError: another view, an image that there is not, or a mask of another shape or dtype.
        """
        known = isinstance(image, Tensor) or (type(image) is int and 0 <= image < len(self.images))
        if view not in VIEWS or not known or type(noise) is not bool:
            got = ", ".join(map(reprlib.repr, (view, image, noise)))  # of any length
            raise ValueError(
                f"need one of the views {VIEWS}, an image from 0 to {len(self.images) - 1}, and noise or not, got {got}"
            )
        if not isinstance(observed, Tensor) or observed.dtype != torch.bool or observed.shape != self.observed.shape:
            kind = (observed.dtype, tuple(observed.shape)) if isinstance(observed, Tensor) else type(observed).__name__
            raise ValueError(f"observed must be a bool tensor of shape {tuple(self.observed.shape)}, got {kind}")
        if isinstance(image, Tensor):
            x = self._checked(image[None].to(self.images))
            image = x[0]
        else:
            x = self.images[image : image + 1]
        filled, numbers = self._answer(x, observed.to(self.images.device), view, noise)
        self.image, self.observed, self.filled = image, observed, filled
        return filled, numbers

    def _checked(self, images: Tensor) -> Tensor:
        return _checked_images(self.model, images, self.page["low"], self.page["high"])

    def _answer(self, x: Tensor, observed: Tensor, view: str, noise: bool) -> tuple[Tensor, dict[str, float]]:
        if view == "explanation":
            return self._explain(x, observed)
        joint = _log_joint(self.model, x, observed)
        numbers = {"logDensity": torch.logsumexp(joint, 0).item()}
        if view == "truth":
            all_of_it = _log_joint(self.model, x, torch.ones_like(observed))
            return x[0], numbers | {"logCompleted": torch.logsumexp(all_of_it, 0).item()}
        posterior = joint.softmax(0)
        if view == "kind":
            kind = int(posterior.argmax())
            only = networks_of(self.model)[kind]
            return conditional_mean(only, x, observed)[0], numbers | {
                "kind": kind,
                "probability": posterior[kind].item(),
            }
        if view in ("sample", "samples"):
            drawn = self._draws(x, observed, posterior, NUM_SAMPLES if view == "samples" else 1, noise)
            return drawn if view == "samples" else drawn[0], numbers
        probable = _probable_components(self.model, posterior)
        if view == "mean":
            return conditional_mean(probable, x, observed)[0], numbers
        return conditional_variance(probable, x, observed)[0].sqrt(), numbers

    def _draws(self, x: Tensor, observed: Tensor, posterior: Tensor, count: int, noise: bool) -> Tensor:
        """(count, H, W, C). A component that the evidence rules out gets no second pass."""
        component = torch.multinomial(posterior, count, replacement=True, generator=self.generator)
        drawn = x.expand(count, *x.shape[1:]).clone()
        for c in component.unique().tolist():
            own, network = component == c, networks_of(self.model)[c]
            several = int(own.sum())
            drawn[own] = sample_conditional(network, x, observed, several, self.generator, noise=noise)[:, 0]
        return drawn

    def _explain(self, x: Tensor, observed: Tensor) -> tuple[Tensor, dict[str, float]]:
        best, evidence = mpe_and_evidence(self.model, x, observed)
        numbers = {"logDensity": evidence, "logCompleted": best.log_density, "upperBound": best.upper_bound}
        return best.x[0], {name: number.item() for name, number in numbers.items()}

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
        names = ", ".join(self.page["labels"][:MAX_PICTURES])
        alt = html.escape(f"{names}: the images, the same with a half hidden, and what may be there", quote=True)
        data = base64.b64encode(self._picture()).decode()
        picture = f'<img alt="{alt}" style="{PICTURE_STYLE}" src="data:image/png;base64,{data}">'
        return f'<div class="einet-inpaint"{page}><p>This widget answers {where}.</p>{picture}</div>'

    def _picture(self) -> bytes:
        """Images, the same with their lower halves hidden, and a draw of these, whose leaves answer with their modes.

        It is the same at every call.
        """
        images, observed = self.images[:MAX_PICTURES], torch.zeros_like(self.observed)
        observed[: len(observed) // 2] = True
        generator = torch.Generator(images.device).manual_seed(0)
        drawn = sample_conditional(self.model, images, observed.to(images.device), 1, generator, noise=False)[0]
        return sheet(images, observed, drawn, self.page["low"], self.page["high"])


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
        filled, numbers = widget.fill(*_checked_question(question, buffers, widget))
        buffers = [_as_bytes(filled, widget.page["dtype"])]
    except Exception as error:  # a bad question, a model that was changed, no memory, ...
        reason = str(error) if isinstance(error, ValueError) else f"the kernel failed: {type(error).__name__}: {error}"
        widget.send({"id": name, "error": reason})
    else:
        widget.send({"id": name, **numbers}, buffers)


def _checked_question(question: object, buffers: list, widget: InpaintWidget) -> tuple[Any, Tensor, Any, Any]:
    """What `fill` is asked, who checks the rest: the image, the mask, the view and whether leaves have noise."""
    if not isinstance(question, dict) or not {"id", "image", "view"} <= question.keys():
        raise ValueError(f"a question must have an id, an image and a view, got {reprlib.repr(question)}")
    image, shape, dtype = question["image"], widget.images.shape[1:], widget.page["dtype"]
    wanted = [widget.observed.numel()]
    if image is None:  # the user's own, which comes along
        wanted.append(shape.numel() * getattr(torch, dtype).itemsize)
    sizes = [memoryview(buffer).nbytes for buffer in buffers or ()]
    if sizes != wanted:
        raise ValueError(f"the mask must have {wanted[0]} bytes, an image of your own {wanted[1:]}, got {sizes}")
    if image is None:
        image = torch.frombuffer(bytearray(buffers[1]), dtype=getattr(torch, dtype)).view(shape)
    mask = torch.frombuffer(bytearray(buffers[0]), dtype=torch.uint8).view(widget.observed.shape)
    return image, mask > 0, question["view"], question.get("noise", True)


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


def _names(names: Sequence[str] | None, kind: str, count: int, of: str) -> list[str]:
    """As given, or "kind 1", "kind 2", ..."""
    if names is None:
        return [f"{kind} {i + 1}" for i in range(count)]
    return checked_names(names, "label" if kind == "image" else "name", of, count)


def _page(images: Tensor, labels: list[str], low: float, high: float, file: str | None) -> dict:
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
