"""The twenty binary data sets of Table 1.

    x = debd("nltcs", "train")      # (16181, 16), uint8

Source: Section 4.2, "Binary data sets"
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from einet.datasets.disk import check_sha256, download, find, uncompressed

DEBD_URL = "https://raw.githubusercontent.com/arranger1044/DEBD/850908666388f1b1c766a304b37dae14613f1e51/datasets/"
SPLITS = ("train", "valid", "test")
NUM_CACHED_FILES = 6  # in memory, as uint8: kdd's three are 15 MB


class Source(NamedTuple):
    """One file of a data set: its path below the set's folder, its size, and the SHA-256 of its uncompressed bytes.

    Source: not in the paper
    """

    path: str
    rows: int
    variables: int
    sha256: str

    @property
    def bytes(self) -> int:
        return 2 * self.rows * self.variables  # each cell is a digit, and a comma or the end of its line


def debd(name: str, split: str) -> Tensor:
    """A split of one of the twenty binary data sets: 0 and 1 as uint8, (rows, variables).

    `data/README.md` says where they come from. Files read are cached; every call returns a copy.

    Args:
        name: as in `debd_sources()`.
        split: "train", "valid" or "test".

    Raises:
        ValueError: the set is unknown, or its file is damaged: truncated, of another checksum, or with a cell that is
            neither 0 nor 1.
        FileNotFoundError: the file is on no disk and cannot be downloaded. It names the file and the folder to put it
            in.

    Source: Section 4.2, Table 1
    """
    source = debd_sources().get((name, split))
    if source is None:
        names = ", ".join(dict.fromkeys(name for name, _ in debd_sources()))
        raise ValueError(f"no data set {name!r} with a split {split!r}; there are {names}, each with {SPLITS}")
    file = find("debd", source.path)
    if file is None:
        file = download("debd", source.path, DEBD_URL + source.path, source.sha256)
    status = file.stat()
    return _read_table(file, source, status.st_mtime_ns, status.st_size).clone()


@lru_cache(maxsize=1)
def debd_sources() -> dict[tuple[str, str], Source]:
    """All sixty files of the binary data sets by (name, split), in the order of the paper's table.

    Source: Table 1
    """
    sources = {}
    for line in (Path(__file__).parent / "debd.tsv").read_text(encoding="utf-8").splitlines():
        name, split, rows, variables, sha256 = line.split("\t")
        sources[name, split] = Source(f"{name}/{name}.{split}.data", int(rows), int(variables), sha256)
    return sources


# What files hold


@lru_cache(maxsize=NUM_CACHED_FILES)
def _read_table(file: Path, source: Source, changed: int, size: int) -> Tensor:
    """The cells of a file of comma-separated digits. `changed` and `size` are keys of the cache: files change."""
    text = uncompressed(file, source.bytes)
    if len(text) != source.bytes:
        relation = "more than" if len(text) > source.bytes else f"{len(text)} instead of"
        raise ValueError(f"{file} has {relation} {source.bytes} bytes: it is damaged, or not the file of that name")
    check_sha256(file, text, source.sha256)
    cells = torch.frombuffer(text, dtype=torch.uint8).view(source.rows, source.variables, 2)
    separators = torch.full((source.variables,), ord(","), dtype=torch.uint8)
    separators[-1] = ord("\n")
    digits = cells[..., 0] - ord("0")  # what is less than "0" wraps around
    wrong = (digits > 1) | (cells[..., 1] != separators)
    if wrong.any():
        row, column = (int(index) for index in wrong.nonzero()[0])
        raise ValueError(f"{file} has, in row {row}, column {column}, something else than 0 or 1")
    return digits
