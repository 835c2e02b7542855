"""Data sets of images: street numbers, faces, clothes, digits.

    images, labels = fashion_mnist("train")                  # (60000, 28, 28), uint8, and (60000,), int64

Pixels are uint8: grey as (n, H, W), coloured as (n, H, W, 3) in red, green, blue. A file that cannot be read is a
`ValueError` that begins with its name.

Source: Section 4.2
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from einet.datasets.disk import cache_folder, check_sha256, download, find, uncompressed
from einet.datasets.reading import check_sizes, file_of, pixels_of, read_idx, read_svhn

DEBIAN_FOLDER = Path("/usr/share/datasets")  # where the packages dataset-* of Debian put their files
SVHN_URL = "http://ufldl.stanford.edu/housenumbers/"
FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
CELEBA_URL = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
MAX_PARTITION_BYTES = 2**24  # of CelebA's 202,599 lines
CELEBA_SPLITS = ("train", "valid", "test")  # 0, 1 and 2 of its partition


class ImageSource(NamedTuple):
    """A file of images or of labels: its size, and the SHA-256 of its uncompressed bytes and of those served."""

    path: str
    rows: int
    sha256: str
    served_sha256: str

    @property
    def max_bytes(self) -> int:
        """An upper bound on the file's bytes: SVHN's colours are the largest, and some are for headers."""
        return self.rows * (32 * 32 * 3 + 1) + 2**20


def svhn(split: str) -> tuple[Tensor, Tensor]:
    """SVHN's crops (n, 32, 32, 3), uint8, and the digit in their middle, (n,), int64.

    Read from `svhn/train_32x32.mat` (182 MB; extra 1.3 GB, test 64 MB), or downloaded. Needs scipy.

    Args:
        split: "train", "extra" or "test".

    Raises:
        ValueError: another split, or a file that is damaged or other than published.
        FileNotFoundError: there is no file.

    Source: Section 4.2
    """
    source = _source_of(SVHN, split)
    file = find("svhn", source.path)
    if file is None:
        file = download("svhn", source.path, SVHN_URL + source.path, source.served_sha256)
    content = uncompressed(file, source.max_bytes)
    check_sha256(file, content, source.sha256)
    return read_svhn(file, content)


def fashion_mnist(split: str) -> tuple[Tensor, Tensor]:
    """Fashion-MNIST: clothes (n, 28, 28), uint8, and their kinds from 0 to 9, (n,), int64.

    Read from `fashion-mnist/train-images-idx3-ubyte` and its like, gzipped or not, or from Debian's package
    dataset-fashion-mnist, or downloaded (31 MB).

    Args:
        split: "train" or "test".

    Raises:
        ValueError: another split, or a file that is damaged or other than published.
        FileNotFoundError: there is no file.

    Source: not in the paper
    """
    x, labels = (_fashion_mnist_file(source) for source in _source_of(FASHION_MNIST, split))
    return x, labels.long()


def _fashion_mnist_file(source: ImageSource) -> Tensor:
    folder, served = "fashion-mnist", source.path + ".gz"
    file = find(folder, source.path, DEBIAN_FOLDER)
    if file is None:
        file = download(folder, served, FASHION_MNIST_URL + served, source.served_sha256)
    content = uncompressed(file, source.max_bytes)
    values = read_idx(file, content)
    check_sha256(file, content, source.sha256)
    return values


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: (1797, 8, 8), uint8, from 0 to 16, and their classes (1797,), int64. No file is needed.

    Source: not in the paper
    """
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    return torch.from_numpy(x).to(torch.uint8).view(-1, 8, 8), torch.from_numpy(labels).long()


def celeba(split: str, *, crop: int = 128, limit: int | None = None) -> Tensor:
    """The middle of CelebA's aligned faces: (n, crop, crop, 3), uint8.

    Read from `celeba/list_eval_partition.txt` and the JPEGs in `celeba/img_align_celeba`. Needs Pillow.

    Args:
        split: "train" (8 GB), "valid" or "test".
        crop: height and width of the middle.
        limit: only the first so many.

    Raises:
        ValueError: another split or crop, a partition with another line, or a JPEG that is missing, damaged, or smaller
            than the crop.
        FileNotFoundError: there is no file. Its terms do not allow that a program downloads it: the error says where to
            get it.

    Source: Section 4.2
    """
    if split not in CELEBA_SPLITS:
        raise ValueError(f"no split {split!r}; there are {CELEBA_SPLITS}")
    check_sizes((crop, crop), crop, 3, limit)
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
    return pixels_of(names, lambda name: file_of(folder / name), folder, (crop, crop), crop, channels=3)


def _names_of_split(partition: Path, number: int) -> Iterator[str]:
    """From lines like "000001.jpg 0"."""
    content = uncompressed(partition, MAX_PARTITION_BYTES)
    if len(content) > MAX_PARTITION_BYTES:
        raise ValueError(f"{partition} has more than {MAX_PARTITION_BYTES} bytes: it is not the partition of CelebA")
    for row, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        name, _, digit = line.strip().partition(" ")
        if digit not in ("0", "1", "2"):
            raise ValueError(f"{partition}, line {row}, should be a name and 0, 1 or 2, got {line[:60]!r}")
        if int(digit) == number:
            yield name


def _source_of(sources: dict[str, Any], split: str) -> Any:
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
