"""A picture for where nothing answers: what an `InpaintWidget` is about, as a PNG, without a library.

Source: not in the paper
"""

from __future__ import annotations

import struct
import zlib

import torch
from torch import Tensor

# Images side by side, the colour of what is hidden, as in inpaint.css, and the line between rows.
MAX_PICTURES, COVER, LINE = 10, (0xF0, 0xB6, 0x60), 1


def bytes_of_colours(image: Tensor, low: float, high: float) -> Tensor:
    """(..., 3), uint8, of values (..., C) with C of 1 or 3, as the page draws them."""
    grey = ((image.double() - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8).cpu()
    return grey.expand(*grey.shape[:-1], 3)


def sheet(images: Tensor, observed: Tensor, filled: Tensor, low: float, high: float) -> bytes:
    """A PNG of three rows: images (N, H, W, C), the same with a cover, and what was filled in."""
    colours = bytes_of_colours(images, low, high)
    cover = torch.tensor(COVER, dtype=torch.uint8)
    rows = [colours, torch.where(observed.cpu()[..., None], colours, cover), bytes_of_colours(filled, low, high)]
    line = torch.full((LINE, images.shape[2] * len(images), 3), 255, dtype=torch.uint8)
    strips = [torch.cat([*row], 1) for row in rows]
    return png(torch.cat([strips[0], line, strips[1], line, strips[2]]))


def png(pixels: Tensor) -> bytes:
    """A PNG file of (H, W, 3), uint8. A row begins with 0: no filter."""
    height, width, _ = pixels.shape
    rows = torch.cat((torch.zeros(height, 1, dtype=torch.uint8), pixels.reshape(height, -1)), 1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows.numpy().tobytes(), 9)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunks
