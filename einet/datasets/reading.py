"""Files of images: MATLAB's, IDX, folders and zips of pictures.

    images, labels = image_folder("photos.zip", size=128)    # (n, 128, 128, 3), uint8, and (n,)

Pixels are uint8: grey as (n, H, W), coloured as (n, H, W, 3) in red, green, blue. A file that cannot be read is a
`ValueError` that begins with its name. A file's own account of its size is checked before it is read, since few bytes
may expand to any number.

Source: Section 4.2
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from einet.datasets.disk import opened
from einet.graph.regions import check_integers, is_integer

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_IMAGE_BYTES = 2**29  # of one file: more than any image has that Pillow does not take for a bomb
CHUNK_BYTES = 2**20
MAX_EXPANSION = 1032  # bytes that gzip makes of one
# What readers of damaged files raise.
READ_ERRORS = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, EOFError, OSError, SyntaxError,
    zlib.error, struct.error, zipfile.BadZipFile,
)  # fmt: skip


def read_svhn(file: str | os.PathLike, content: bytes | bytearray | None = None) -> tuple[Tensor, Tensor]:
    """Images (n, 32, 32, 3) and digits (n,) of a MATLAB file in SVHN's format. The digit 0, 10 in the file, is 0 here.

    Args:
        file: with X (32, 32, 3, n) and y from 1 to 10.
        content: its bytes, where they have been read already.

    Raises:
        ValueError: the file has another format.

    Source: Section 4.2
    """
    from scipy.io import loadmat, whosmat  # here and below: whoever reads no such file needs no such package
    from scipy.io.matlab import MatReadError

    with _as_value_error(file, MatReadError), opened(Path(file)) if content is None else io.BytesIO(content) as stream:
        shapes = {name: shape for name, shape, _ in whosmat(stream)}
        if shapes["X"][:3] != (32, 32, 3) or math.prod(shapes["y"]) != math.prod(shapes["X"][3:]):
            raise ValueError(
                f"it should hold X (32, 32, 3, n) and y (n, 1), got {shapes['X']}, ({math.prod(shapes['y'])},)"
            )
        stream.seek(0)
        variables = loadmat(stream, variable_names=("X", "y"))
        x, y = variables["X"], variables["y"].ravel()
    if x.dtype != "uint8" or x.ndim != 4 or x.shape[:3] != (32, 32, 3) or y.shape != x.shape[3:]:
        raise ValueError(
            f"{file} should hold X (32, 32, 3, n) of uint8 and y (n, 1), got {x.dtype} {x.shape}, {y.shape}"
        )
    labels = torch.from_numpy(y.astype("int64"))
    if not ((labels >= 1) & (labels <= 10)).all():
        raise ValueError(f"{file} should have labels from 1 to 10, got {labels.min()} to {labels.max()}")
    return torch.from_numpy(x).permute(3, 0, 1, 2).contiguous(), labels % 10


def read_idx(file: str | os.PathLike, content: bytes | bytearray | None = None) -> Tensor:
    """The bytes of an IDX file, as of MNIST, in the shape that it gives itself.

    Args:
        file: gzipped if its name ends in ".gz".
        content: its bytes, where they have been read already.

    Raises:
        ValueError: the file is truncated, too long, or holds anything but unsigned bytes.

    Source: not in the paper
    """
    expansion = MAX_EXPANSION if Path(file).suffix == ".gz" else 1
    capacity = os.path.getsize(file) * expansion if content is None else len(content)
    with opened(Path(file)) if content is None else io.BytesIO(content) as stream:
        head = stream.read(4)
        if len(head) < 4 or head[:3] != b"\x00\x00\x08" or head[3] == 0:
            raise ValueError(f"{file} should begin with the bytes 0 0 8 of an IDX file, got {list(head)}")
        with _as_value_error(file):
            shape = struct.unpack(f">{head[3]}I", stream.read(4 * head[3]))
        size = math.prod(shape)
        values = bytearray(stream.read(size + 1) if size <= capacity else b"")
    if len(values) != size:
        problem = f"got {len(values)}" if size <= capacity else f"and has room for {capacity}"
        raise ValueError(f"{file} should hold {size} bytes, as {shape}, {problem}")
    return torch.frombuffer(values, dtype=torch.uint8).view(shape) if size else torch.empty(shape, dtype=torch.uint8)


def image_folder(
    path: str | os.PathLike,
    size: int | Sequence[int],
    *,
    inside: str = "",
    crop: int | None = None,
    channels: int = 3,
    limit: int | None = None,
) -> tuple[Tensor, Tensor]:
    """All images of a folder or a zip, and of the folders in it, cut and scaled to one size, in alphabetical order.

    Values of 16 bits become the upper 8, so that black and white stay what they are; transparency is left out. Needs
    Pillow.

    Args:
        path: of the folder, or of the zip.
        size: of the result, (height, width) or both at once.
        inside: only images below this folder of it.
        crop: the middle crop x crop pixels are kept before scaling; by default as much as has the shape of `size`.
        channels: 3 for (n, H, W, 3), 1 for grey values (n, H, W).
        limit: only the first so many.

    Returns:
        Pixels, uint8, and (n,), int64: the number of the folder, in alphabetical order, that an image lies in.

    Raises:
        ValueError: an image is damaged, smaller than `crop` or larger than 512 MiB, or its mode does not say what is
            white (floats, integers of 32 bits) or cannot be converted; a folder has no images, a file is no zip, or a
            setting is out of range.

    Source: Section 4.2
    """
    size = tuple(size) if isinstance(size, Sequence) else (size, size)
    check_sizes(size, crop, channels, limit)
    names, opener = _listed(Path(path))
    names = sorted(name for name in names if name.startswith(f"{inside}/" if inside else "") and _is_image(name))
    if not names:
        raise ValueError(f"{Path(path) / inside} holds no image: no file that ends in one of {', '.join(ENDINGS)}")
    folders = [name.rpartition("/")[0] for name in names[:limit]]
    numbers = {folder: number for number, folder in enumerate(sorted(set(folders)))}
    pixels = pixels_of(names[:limit], opener, path, size, crop, channels)
    return pixels, torch.tensor([numbers[folder] for folder in folders])


def check_sizes(size: tuple, crop: int | None, channels: int, limit: int | None) -> None:
    """Raise a `ValueError` for settings out of range of `image_folder`."""
    if len(size) != 2 or not all(map(is_integer, size)):
        raise ValueError(f"size must be two integers of at least 1, got {size}")
    check_integers(optional=True, crop=crop, limit=limit)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels!r}")


Opener = Callable[[str], AbstractContextManager[IO[bytes]]]


def _listed(path: Path) -> tuple[list[str], Opener]:
    """The names of the files in a folder or a zip, and what opens one."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        return names, lambda name: file_of(path / name)
    if not path.exists():
        raise FileNotFoundError(f"there is no folder or zip {path}")
    with _as_value_error(path):
        archive = zipfile.ZipFile(path)
    return archive.namelist(), lambda name: _entry(archive, name)


@contextmanager
def file_of(path: Path) -> Iterator[IO[bytes]]:
    """An image's file, if it is not too large for one."""
    _check_bytes(path.stat().st_size)
    with open(path, "rb") as stream:
        yield stream


@contextmanager
def _entry(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    """An image's file in a zip, expanded in chunks, and no further than its header if that is no image's."""
    from PIL import Image

    _check_bytes(archive.getinfo(name).file_size)
    with archive.open(name) as stream:
        Image.open(stream).close()
    with archive.open(name) as stream:
        while stream.read(CHUNK_BYTES):  # at the end the checksum is compared
            pass
    with archive.open(name) as stream:
        yield stream


def _check_bytes(size: int) -> None:
    if size > MAX_IMAGE_BYTES:
        raise ValueError(f"it has {size} bytes, more than the {MAX_IMAGE_BYTES} of any image")


def _is_image(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    return not hidden and name.lower().endswith(ENDINGS)


def pixels_of(
    names: list[str],
    opener: Opener,
    path: str | os.PathLike,
    size: tuple,
    crop: int | None,
    channels: int,
) -> Tensor:
    """The images `names` of the folder or zip at `path`, cut and scaled as `image_folder` says: (n, H, W[, 3])."""
    from PIL import Image

    pixels = torch.empty(len(names), *size, channels, dtype=torch.uint8)
    for name, row in zip(names, pixels, strict=True):
        with _as_value_error(Path(path) / name, Image.DecompressionBombError), opener(name) as stream:
            data = _scaled(stream, size, crop, "RGB" if channels == 3 else "L")
        row.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8).view(row.shape))
    return pixels if channels == 3 else pixels[..., 0]


def _scaled(stream: IO[bytes], size: tuple[int, int], crop: int | None, mode: str) -> bytes:
    from PIL import Image, ImageOps

    with Image.open(stream) as image:
        limits = _black_and_white(image)
        image = ImageOps.exif_transpose(image)
    if limits is not None:  # Pillow itself would cut off what is above 255
        black, white = limits
        scale = 255 / (white - black)
        image = image.convert("I").point(lambda value: value * scale + (1e-6 - black * scale))  # rounded down
    image = image.convert(mode)
    if crop is not None:
        left, top = (image.width - crop) // 2, (image.height - crop) // 2
        if left < 0 or top < 0:
            raise ValueError(f"{image.width} x {image.height} pixels are fewer than the crop of {crop} x {crop}")
        image = image.crop((left, top, left + crop, top + crop))
    return ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS).tobytes()


def _black_and_white(image: Any) -> tuple[int, int] | None:
    """The values of black and white in an image of more than 8 bits; None for all others, which Pillow knows."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF: 258 is the number of bits, 262 is 0 where 0 is white
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        top = 2 ** tags.get(258, (16,))[0] - 1
        return (top, 0) if tags.get(262) == 0 else (0, top)
    if image.mode in ("I", "F"):
        raise ValueError(f"its values (mode {image.mode}) may be of any size: scale them to 8 or 16 bits")
    return None


@contextmanager
def _as_value_error(file: str | os.PathLike, *kinds: type[Exception]) -> Iterator[None]:
    """Re-raise any error of code that reads a file as a `ValueError` that names the file."""
    try:
        yield
    except (*READ_ERRORS, *kinds) as error:
        reason = error if isinstance(error, (ValueError, OSError)) else repr(error)
        raise ValueError(f"{file} cannot be read: {reason}") from error
