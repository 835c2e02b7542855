"""Where the files of data sets are: below $EINET_DATA, in the cache, or on a server.

Downloading needs the optional package `pooch`; its progress bar needs `tqdm`.

Source: not in the paper
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BufferedReader
from pathlib import Path

RETRIES = 2  # of a download that failed


def cache_folder() -> Path:
    """The folder of downloads: `data/` of the checkout, or `~/.cache/einet` without one.

    Source: not in the paper
    """
    project = Path(__file__).resolve().parents[2]
    return project / "data" if (project / "pyproject.toml").is_file() else Path.home() / ".cache" / "einet"


def find(folder: str, path: str, *further: Path) -> Path | None:
    """The file `folder/path`, gzipped or not, below $EINET_DATA, the cache or `further` places; None if in none.

    Source: not in the paper
    """
    given = os.environ.get("EINET_DATA")
    for place in ([Path(given).expanduser()] if given else []) + [cache_folder(), *further]:
        for ending in ("", ".gz"):
            candidate = place / folder / (path + ending)
            if candidate.is_file():
                return candidate
    return None


def download(folder: str, path: str, url: str, sha256: str) -> Path:
    """Fetch `url` into the cache as `folder/path`, with a progress bar, again if it fails, and check its SHA-256.

    Raises:
        FileNotFoundError: it cannot be fetched.
        ValueError: what arrives is not the file.

    Source: not in the paper
    """
    target = cache_folder() / folder / path
    try:
        import pooch

        pooch.get_logger().setLevel(logging.WARNING)
        fetcher = pooch.create(
            path=target.parent, base_url="", registry={target.name: sha256}, urls={target.name: url},
            retry_if_failed=RETRIES,
        )  # fmt: skip
        return Path(fetcher.fetch(target.name, progressbar=find_spec("tqdm") is not None))
    except ImportError as error:
        reason = f"downloading it needs the package pooch ({error}): pip install pooch"
    except OSError as error:  # requests' errors too
        reason = f"downloading it from {url} failed: {error}"
    plain = target.name.removesuffix(".gz")
    raise FileNotFoundError(
        f"{target.name} is not on this machine, and {reason}\n"
        f"Put {plain} or {plain}.gz into {target.parent}, "
        f"or set EINET_DATA to a folder that holds {folder}/{path}."
    )


def uncompressed(file: Path, most: int) -> bytearray:
    """The bytes of a file, gzipped or not; one more than `most` if it holds more."""
    with opened(file) as stream:
        return bytearray(stream.read(most + 1))


@contextmanager
def opened(file: Path) -> Iterator[gzip.GzipFile | BufferedReader]:
    """A file, gzipped or not, as a stream: a few bytes can expand to any number of them."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def check_sha256(file: Path, content: bytes | bytearray | memoryview, sha256: str) -> None:
    """Raise a `ValueError` that names the file where its uncompressed content is not the expected one."""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{file} does not have the SHA-256 {sha256}: it is damaged, delete it")
