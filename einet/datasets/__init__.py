"""Data sets: found on disk, or downloaded once, and checked by their SHA-256.

    x = debd("nltcs", "train")                  # (16181, 16), uint8
    images, labels = fashion_mnist("train")     # (60000, 28, 28), uint8, and (60000,)

A file is looked for in the folder that the environment variable EINET_DATA names, then in the cache, and downloaded
into the cache if it is in neither and its terms allow that. The cache is `data/` of the project that einet is installed
from, and `~/.cache/einet` where it is installed without its project. Nothing happens at import.

    binary   the twenty data sets of Table 1
    images   SVHN, CelebA, Fashion-MNIST, digits
    reading  files of images: folders and zips of your own, and the formats of those sets
    disk     where files are

Downloading needs the package `pooch`, images need Pillow, SVHN scipy, digits scikit-learn: each is imported where it is
used.

Source: Section 4.2
"""

from einet.datasets.binary import DEBD_URL, SPLITS, Source, debd, debd_sources
from einet.datasets.disk import cache_folder, download, find
from einet.datasets.drawn import house_numbers as house_numbers
from einet.datasets.images import celeba, digits, fashion_mnist, svhn
from einet.datasets.reading import image_folder, read_idx, read_svhn

__all__ = [
    "DEBD_URL",
    "SPLITS",
    "Source",
    "cache_folder",
    "celeba",
    "debd",
    "debd_sources",
    "digits",
    "download",
    "fashion_mnist",
    "find",
    "image_folder",
    "read_idx",
    "read_svhn",
    "svhn",
]
