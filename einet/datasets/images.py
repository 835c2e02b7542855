"""Images: street numbers, faces, clothes, digits, and whatever is in a folder or a zip.

    images, labels = fashion_mnist("train")                  # (60000, 28, 28), uint8, and (60000,), int64
    images, labels = image_folder("photos.zip", size=128)    # (n, 128, 128, 3), uint8, and (n,)

Pixels are uint8: grey as (n, H, W), coloured as (n, H, W, 3) in red, green, blue. What cannot be read is a `ValueError`
that begins with the name of the file.

Paper: Section 4.2
Chapter: book/10_images
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from einet.datasets.disk import cache_folder, check_sha256, download, find, uncompressed

DEBIAN = Path("/usr/share/datasets")  # where the packages dataset-* of Debian put their files
SVHN_URL = "http://ufldl.stanford.edu/housenumbers/"
FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
CELEBA_URL = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
CELEBA_SPLITS = ("train", "valid", "test")  # 0, 1 and 2 of its partition
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# What readers of damaged files raise.
DAMAGE = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, EOFError, OSError, SyntaxError,
    zlib.error, struct.error, zipfile.BadZipFile,
)  # fmt: skip


class ImageSource(NamedTuple):
    """A file of images or of labels: its size, and the SHA-256 of its uncompressed bytes and of what a server sends."""

    path: str
    rows: int
    sha256: str
    served_sha256: str


def svhn(split: str) -> tuple[Tensor, Tensor]:
    """SVHN's crops, "train", "extra" or "test": (n, 32, 32, 3), uint8, and the digit in their middle, (n,), int64.

    Read from `svhn/train_32x32.mat` (182 MB; extra 1.3 GB, test 64 MB), or downloaded. `ValueError` for another split,
    and for a file that is damaged or another than published. `FileNotFoundError` where there is none. Needs scipy.

    Paper: Section 4.2
    Chapter: book/10_images
    """
    source = _chosen(SVHN, split)
    found = find("svhn", source.path)
    if found is None:
        found = download("svhn", source.path, SVHN_URL + source.path, source.served_sha256)
    content = uncompressed(found)
    check_sha256(found, content, source.sha256)
    return read_svhn(found, content)


def read_svhn(file: str | os.PathLike, content: bytes | None = None) -> tuple[Tensor, Tensor]:
    """Images (n, 32, 32, 3) and digits (n,) of a MATLAB file in SVHN's format: X (32, 32, 3, n), y from 1 to 10.

    The digit 0, which is 10 in the file, is 0 here. `content` is given where the file has been read already.
    `ValueError` for a file of another format.

    Paper: Section 4.2
    Chapter: book/10_images
    """
    from scipy.io import loadmat  # here and below, so that only who reads such a file needs the package
    from scipy.io.matlab import MatReadError

    with _damage(file, MatReadError):
        variables = loadmat(io.BytesIO(uncompressed(Path(file)) if content is None else content))
        x, y = variables["X"], variables["y"].ravel()
    if x.dtype != "uint8" or x.ndim != 4 or x.shape[:3] != (32, 32, 3) or y.shape != x.shape[3:]:
        raise ValueError(
            f"{file} should hold X (32, 32, 3, n) of uint8 and y (n, 1), got {x.dtype} {x.shape}, {y.shape}"
        )
    labels = torch.from_numpy(y.astype("int64"))
    if not ((labels >= 1) & (labels <= 10)).all():
        raise ValueError(f"{file} should have labels from 1 to 10, got {labels.min()} to {labels.max()}")
    return torch.from_numpy(x).permute(3, 0, 1, 2).contiguous(), labels % 10


def fashion_mnist(split: str) -> tuple[Tensor, Tensor]:
    """Fashion-MNIST, "train" or "test": clothes (n, 28, 28), uint8, and their kinds from 0 to 9, (n,), int64.

    Read from `fashion-mnist/train-images-idx3-ubyte` and its like, gzipped or not, or from Debian's package
    dataset-fashion-mnist, or downloaded (31 MB). `ValueError` for another split, and for files that are damaged or
    others than published. `FileNotFoundError` where there are none.

    Paper: not in it
    Chapter: book/10_images
    """
    x, labels = (_fashion_mnist_file(source) for source in _chosen(FASHION_MNIST, split))
    return x, labels.long()


def _fashion_mnist_file(source: ImageSource) -> Tensor:
    folder, served = "fashion-mnist", source.path + ".gz"
    found = find(folder, source.path, DEBIAN)
    if found is None:
        found = download(folder, served, FASHION_MNIST_URL + served, source.served_sha256)
    content = uncompressed(found)
    values = read_idx(found, content)
    check_sha256(found, content, source.sha256)
    return values


def read_idx(file: str | os.PathLike, content: bytes | None = None) -> Tensor:
    """The bytes of an IDX file, as of MNIST, gzipped if its name ends in ".gz", in the shape that it gives itself.

    `content` is given where the file has been read already. `ValueError` for a file that is truncated, too long, or
    holds something else than unsigned bytes.

    Paper: not in it
    Chapter: book/10_images
    """
    content = uncompressed(Path(file)) if content is None else content
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or content[3] == 0:
        raise ValueError(f"{file} should begin with the bytes 0 0 8 of an IDX file, got {list(content[:4])}")
    start = 4 + 4 * content[3]
    with _damage(file):
        shape = struct.unpack_from(f">{content[3]}I", content, 4)
    if len(content) - start != math.prod(shape):
        raise ValueError(f"{file} should hold {math.prod(shape)} bytes, as {shape}, got {len(content) - start}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[start:].view(shape).clone()


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: (1797, 8, 8), uint8, from 0 to 16, and their classes (1797,), int64. No file is needed.

    Paper: not in it
    Chapter: book/10_images
    """
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    return torch.from_numpy(x).to(torch.uint8).view(-1, 8, 8), torch.from_numpy(labels).long()


def celeba(split: str, *, crop: int = 128, limit: int | None = None) -> Tensor:
    """CelebA's aligned faces, "train", "valid" or "test", their middle: (n, crop, crop, 3), uint8.

    Read from `celeba/list_eval_partition.txt` and the JPEGs in `celeba/img_align_celeba`; `limit` keeps the first ones
    (all of "train" are 8 GB). Its terms do not allow that a program downloads it: `FileNotFoundError` says where to
    get it. `ValueError` for another split or crop, a partition with another line, or a JPEG that is missing, damaged,
    or smaller than the crop. Needs Pillow.

    Paper: Section 4.2
    Chapter: book/10_images
    """
    if split not in CELEBA_SPLITS:
        raise ValueError(f"no split {split!r}; there are {CELEBA_SPLITS}")
    _check_sizes((crop, crop), crop, 3, limit)
    partition = find("celeba", "list_eval_partition.txt")
    if partition is None:
        raise FileNotFoundError(
            f"list_eval_partition.txt is not on this machine. Agree to CelebA's terms at {CELEBA_URL}, and put that "
            f"file and the folder img_align_celeba into {cache_folder() / 'celeba'}, or set EINET_DATA to a folder "
            "that holds celeba/list_eval_partition.txt."
        )
    names = list(_names_of_split(partition, CELEBA_SPLITS.index(split)))[:limit]
    if not names:
        raise ValueError(f"{partition} names no image of {split!r}")
    folder = partition.parent / "img_align_celeba"
    return _pixels(names, lambda name: (folder / name).read_bytes(), folder, (crop, crop), crop, channels=3)


def _names_of_split(partition: Path, number: int) -> Iterator[str]:
    """From lines like "000001.jpg 0"."""
    for row, line in enumerate(uncompressed(partition).decode("utf-8", "replace").splitlines(), 1):
        name, _, digit = line.strip().partition(" ")
        if digit not in ("0", "1", "2"):
            raise ValueError(f"{partition}, line {row}, should be a name and 0, 1 or 2, got {line[:60]!r}")
        if int(digit) == number:
            yield name


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

    path      of the folder, or of the zip
    size      of the result, (height, width) or both at once
    inside    only what lies below this folder of it
    crop      the middle crop x crop pixels are kept before scaling; by default as much as has the shape of `size`
    channels  3 for (n, H, W, 3), 1 for grey values (n, H, W)
    limit     only the first so many

    Returns pixels, uint8, and (n,), int64: the number of the folder, in alphabetical order, that an image lies in.
    `ValueError` for an image that is damaged or smaller than `crop`, a folder without images, a file that is no zip;
    and for settings out of range. Needs Pillow.

    Paper: Section 4.2
    Chapter: book/10_images
    """
    size = tuple(size) if isinstance(size, Sequence) else (size, size)
    _check_sizes(size, crop, channels, limit)
    names, read = _listed(Path(path))
    names = sorted(name for name in names if name.startswith(f"{inside}/" if inside else "") and _is_image(name))
    if not names:
        raise ValueError(f"{Path(path) / inside} holds no image: no file that ends in one of {', '.join(ENDINGS)}")
    folders = [name.rpartition("/")[0] for name in names[:limit]]
    numbers = {folder: number for number, folder in enumerate(sorted(set(folders)))}
    pixels = _pixels(names[:limit], read, path, size, crop, channels)
    return pixels, torch.tensor([numbers[folder] for folder in folders])


def _check_sizes(size: tuple, crop: int | None, channels: int, limit: int | None) -> None:
    if len(size) != 2 or not all(isinstance(extent, int) and extent >= 1 for extent in size):
        raise ValueError(f"size must be two integers of at least 1, got {size}")
    for name, value in (("crop", crop), ("limit", limit)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels!r}")


def _listed(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    """The names of the files in a folder or a zip, and what reads one."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        return names, lambda name: (path / name).read_bytes()
    if not path.exists():
        raise FileNotFoundError(f"there is no folder or zip {path}")
    with _damage(path):
        archive = zipfile.ZipFile(path)
    return archive.namelist(), archive.read


def _is_image(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    return not hidden and name.lower().endswith(ENDINGS)


def _pixels(
    names: list[str],
    read: Callable[[str], bytes],
    path: str | os.PathLike,
    size: tuple,
    crop: int | None,
    channels: int,
) -> Tensor:
    from PIL import Image

    pixels = torch.empty(len(names), *size, channels, dtype=torch.uint8)
    for name, row in zip(names, pixels, strict=True):
        with _damage(Path(path) / name, Image.DecompressionBombError):
            data = _scaled(read(name), size, crop, "RGB" if channels == 3 else "L")
        row.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8).view(row.shape))
    return pixels if channels == 3 else pixels[..., 0]


def _scaled(content: bytes, size: tuple[int, int], crop: int | None, mode: str) -> bytes:
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(content)) as image:
        image = ImageOps.exif_transpose(image).convert(mode)
    if crop is not None:
        left, top = (image.width - crop) // 2, (image.height - crop) // 2
        if left < 0 or top < 0:
            raise ValueError(f"{image.width} x {image.height} pixels are fewer than the crop of {crop} x {crop}")
        image = image.crop((left, top, left + crop, top + crop))
    return ImageOps.fit(image, size[::-1], Image.Resampling.LANCZOS).tobytes()


@contextmanager
def _damage(file: str | os.PathLike, *kinds: type[Exception]) -> Iterator[None]:
    """Whatever a damaged file makes of the code that reads it comes out as one `ValueError` with its name."""
    try:
        yield
    except (*DAMAGE, *kinds) as error:
        reason = error if isinstance(error, (ValueError, OSError)) else repr(error)
        raise ValueError(f"{file} cannot be read: {reason}") from error


def _chosen(sources: dict, split: str):
    if split not in sources:
        raise ValueError(f"no split {split!r}; there are {tuple(sources)}")
    return sources[split]


def _svhn_source(split: str, rows: int, sha256: str) -> ImageSource:
    return ImageSource(f"{split}_32x32.mat", rows, sha256, sha256)


SVHN = {
    "train": _svhn_source("train", 73257, "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"),
    "extra": _svhn_source("extra", 531131, "a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3"),
    "test": _svhn_source("test", 26032, "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"),
}

FASHION_MNIST = {
    "train": (
        ImageSource(
            "train-images-idx3-ubyte", 60000,
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        ImageSource(
            "train-labels-idx1-ubyte", 60000,
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
    ),
    "test": (
        ImageSource(
            "t10k-images-idx3-ubyte", 10000,
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        ImageSource(
            "t10k-labels-idx1-ubyte", 10000,
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
}  # fmt: skip
