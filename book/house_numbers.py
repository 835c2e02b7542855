"""House numbers that are drawn: a stand-in for SVHN that needs no file.

    images, labels = house_numbers(10_000, seed=0)      # (10000, 32, 32, 3), uint8, and (10000,), int64

Chapter 12 and experiments/images.py train on them.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

SIZE, SCALE = 32, 3  # pixels of an image, and how many times finer it is drawn
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneralBol",
    "cmss10", "cmb10",
)  # fmt: skip
CONTRAST = 0.3  # the least difference in brightness between a number and its wall


def house_numbers(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`n` crops of house numbers as SVHN has them: (n, 32, 32, 3), uint8, and the digit in the middle, (n,), int64.

    A number of one to four digits, in one of eight fonts, slightly turned and sheared, on a wall with light from one
    side; its neighbours are cut off at the sides; then blur and noise. Image i depends on `seed` and i alone, so that a
    longer call begins with what a shorter one gives. Needs Pillow, numpy, and matplotlib, which has the fonts; with
    other versions of them some pixels may be others. `ValueError` unless n >= 1 and seed >= 0.
    """
    import numpy as np

    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    images, labels = np.empty((n, SIZE, SIZE, 3), np.uint8), np.empty(n, np.int64)
    for i in range(n):
        images[i], labels[i] = _house_number(np.random.default_rng((seed, i)))
    return torch.from_numpy(images), torch.from_numpy(labels)


def _house_number(rng) -> tuple:
    """One image and the digit in its middle."""
    number = _number(rng)
    place = int(rng.integers(len(number)))
    mask, shade = _drawn(rng, number, place)
    wall, paint = _colours(rng)
    image = wall + (paint - wall) * mask[..., None] - shade[..., None]
    image = image * _light(rng)[..., None] + rng.normal(0, rng.uniform(0.005, 0.025), image.shape)
    return (image.clip(0, 1) * 255 + 0.5).astype("uint8"), int(number[place])


def _number(rng) -> str:
    """Of one to four digits. As along a street, the first is the smaller the likelier (Benford's law)."""
    import numpy as np

    first = np.arange(1, 10)
    first = rng.choice(first, p=np.log10(1 + 1 / first))
    length = rng.choice(4, p=(0.2, 0.35, 0.3, 0.15))
    return str(first) + "".join(map(str, rng.integers(10, size=length)))


# Shapes


def _drawn(rng, number: str, place: int) -> tuple:
    """How much of each pixel (32, 32) the number covers, and how dark its shadow is."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFilter

    extent, margin = SIZE * SCALE, 8 * SCALE  # what the turn brings into view lies in the margin
    font = _font(FONTS[rng.integers(len(FONTS))], int(rng.integers(22, 28)) * SCALE)
    canvas = Image.new("L", (extent + 2 * margin,) * 2)
    left, top, right, bottom = font.getbbox(number[place])
    x = (canvas.width - right - left) / 2 - font.getlength(number[:place]) + rng.normal(0, 0.6 * SCALE)
    y = (canvas.height - bottom - top) / 2 + rng.normal(0, 0.6 * SCALE)
    ImageDraw.Draw(canvas).text((x, y), number, fill=255, font=font)
    turn = _turn(rng, extent / 2, margin)
    canvas = canvas.transform((extent, extent), Image.Transform.AFFINE, turn, Image.Resampling.BILINEAR)
    canvas = canvas.resize((SIZE, SIZE), Image.Resampling.BOX)
    canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    mask = np.asarray(canvas, np.float32) / 255
    if rng.random() < 0.6:
        return mask, np.zeros_like(mask)
    shadow = np.roll(mask, (1, int(rng.integers(-1, 2))), (0, 1))
    return mask, rng.uniform(0.1, 0.3) * shadow * (1 - mask)


@lru_cache(maxsize=len(FONTS) * 8)
def _font(name: str, height: int):
    """A font whose digits are so many pixels high."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    file = str(Path(get_data_path()) / "fonts" / "ttf" / f"{name}.ttf")
    _, top, _, bottom = ImageFont.truetype(file, 100).getbbox("0123456789")
    return ImageFont.truetype(file, round(100 * height / (bottom - top)))


def _turn(rng, middle: float, margin: float) -> tuple[float, ...]:
    """From pixels without to pixels with margin: turned by about 3 degrees, and sheared as much, about the middle."""
    turn, shear = rng.normal(0, 0.05, 2)
    a, b, c, d = 1.0, shear + turn, -turn, 1.0
    return a, b, margin + middle * (1 - a - b), c, d, margin + middle * (1 - c - d)


# Colours


def _colours(rng) -> tuple:
    """The colours of wall and number, each red, green and blue from 0 to 1, apart in brightness by `CONTRAST`."""
    light = rng.uniform(0.5, 0.9)
    dark = rng.uniform(0.08, light - CONTRAST)
    colours = [level + tint for level, tint in zip((light, dark), _tints(rng), strict=True)]
    return tuple(colours if rng.random() < 0.5 else colours[::-1])


def _tints(rng) -> tuple:
    """Two deviations from grey: most houses are warm or cold, few are coloured."""
    import numpy as np

    warm = np.array((1.0, 0.1, -0.9))
    return tuple(rng.normal(0.03, 0.05) * warm + rng.normal(0, 0.015, 3) for _ in range(2))


def _light(rng):
    """A factor for each pixel, (32, 32): light from one side, and blocks as JPEGs have them."""
    import numpy as np

    side = rng.normal(0, 0.12, 2)
    ramp = np.linspace(-1, 1, SIZE)
    blocks = np.kron(rng.normal(0, 0.02, (SIZE // 4, SIZE // 4)), np.ones((4, 4)))
    return 1 + side[0] * ramp[:, None] + side[1] * ramp + blocks
