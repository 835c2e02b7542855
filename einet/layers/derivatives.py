"""Which way autograd came, and gradients that are differentiated again: helpers of the layers' own derivatives.

Source: not in the paper
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor


def transformed() -> bool:
    """Whether a transform of `torch.func` is active: it takes plain operations alone."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def differentiable(plain: Callable[..., Tensor], inputs: Sequence[Tensor], gradient: Tensor) -> list[Tensor | None]:
    """Gradients of the `inputs`, given that of `plain`, that can be differentiated; None where not required."""
    with torch.enable_grad():
        inputs = [tensor.view_as(tensor) for tensor in inputs]  # told apart, where one tensor comes twice
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        gradients = iter(torch.autograd.grad(plain(*inputs), wanted, gradient, create_graph=True))
        return [next(gradients) if tensor.requires_grad else None for tensor in inputs]


def ordinary(tensor: Tensor) -> Tensor:
    """The tensor; a copy if it was made in inference mode, which autograd could not keep."""
    return tensor.clone() if tensor.is_inference() and torch.is_grad_enabled() else tensor


def parts(tensor: Tensor, sizes: int | Sequence[int]) -> Sequence[Tensor]:
    """Views of so many equal parts, or of parts of these sizes, one behind the other.

    Gradients of all parts that were made in one buffer are not copied.
    """
    sizes = [len(tensor) // sizes] * sizes if isinstance(sizes, int) else list(sizes)
    if len(sizes) == 1:
        return (tensor,)
    if transformed() or torch.compiler.is_compiling() or not tensor.requires_grad:
        return tensor.split(sizes)
    return _Parts.apply(tensor, sizes)


class _Parts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
        ctx.shape = tensor.shape
        return tensor.split(sizes)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0]._base
        if torch.is_grad_enabled() or whole is None or not _are_parts(gradients, whole, ctx.shape):
            whole = torch.cat(gradients)
        return whole.view(ctx.shape), None


def _are_parts(gradients: Sequence[Tensor], whole: Tensor, shape: torch.Size) -> bool:
    """Whether the gradients are, in order, all of `whole`."""
    if not whole.is_contiguous() or whole.numel() != shape.numel():
        return False
    ends = accumulate(gradient.numel() for gradient in gradients)
    places = [whole.storage_offset() + end - gradient.numel() for end, gradient in zip(ends, gradients, strict=True)]
    return all(
        gradient._base is whole and gradient.is_contiguous() and gradient.storage_offset() == place
        for gradient, place in zip(gradients, places, strict=True)
    )
