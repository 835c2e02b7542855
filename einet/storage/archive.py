"""One file for tensors and JSON: safetensors, replaced as a whole, read with distrust.

The metadata of the file are four texts:

    format    "einet"
    version   "1"
    content   JSON: all that is not a tensor
    sha256    of the content and all tensors, so that a flipped bit is found

Nothing in such a file is ever executed. Writing is done here, since safetensors' writer opens the path itself, through
a link that waits there, and needs numpy. Reading, where bytes may be hostile, is left to safetensors.

Source: not in the paper
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows, where left-overs of killed processes stay
    fcntl = None

FORMAT, VERSION = "einet", "1"
# What code that reads a file raises for wrong JSON, wrong tensors or another format.
PARSING_ERRORS = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError, MemoryError,
    SafetensorError,
)  # fmt: skip
DTYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000  # bytes, of safetensors' readers
TEMPORARY_NAME = re.compile(r"\.einet-[0-9a-f]{16}\.tmp")


def write(path: str | os.PathLike, content: dict, tensors: dict[str, Tensor]) -> None:
    """Write content and tensors to one file at `path`, which at any moment is the old one or the new one.

    A link to a file, or to where none is yet, stays a link.

    Raises:
        ValueError: anything but a regular file is at `path`.
    """
    path = _target(path)
    text = json.dumps(content)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = _header(tensors, {"format": FORMAT, "version": VERSION, "content": text, "sha256": digest(tensors, text)})
    with _replacement(path) as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for _, tensor in _in_file_order(tensors):
            stream.write(_memory(tensor))


def read(path: str | os.PathLike) -> tuple[dict, dict[str, Tensor]]:
    """Content and tensors of the file at `path`.

    Raises:
        ValueError: it is not, bit by bit, what `write` wrote.
    """
    if not os.path.isfile(path):
        raise ValueError(f"cannot read {path}: {'a folder' if os.path.isdir(path) else 'there is no such file'}")
    _remove_left_overs(Path(path).resolve().parent)
    with as_value_error(path):
        data, metadata = _read_whole(path)
        tensors = safetensors.torch.load(data)
        kind = metadata.get("format"), metadata.get("version")
        if kind != (FORMAT, VERSION):
            raise ValueError(f"its format and version are {kind}, this einet reads {(FORMAT, VERSION)}")
        if digest(tensors, metadata["content"]) != metadata["sha256"]:
            raise ValueError("its checksum does not match what it holds")
        return json.loads(metadata["content"]), tensors


def digest(tensors: dict[str, Tensor], text: str = "") -> str:
    """SHA-256 of a text and of named tensors: names, types, shapes and all bytes."""
    sha256 = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        tensor = tensor.detach().cpu().contiguous()
        sha256.update(_memory(tensor))
    return sha256.hexdigest()


@contextmanager
def as_value_error(path: str | os.PathLike) -> Iterator[None]:
    """Re-raise any error of code that reads a file as a `ValueError` that names the file."""
    try:
        yield
    except PARSING_ERRORS as error:
        reason = error if isinstance(error, ValueError) else repr(error)
        if isinstance(error, (SafetensorError, UnicodeDecodeError, json.JSONDecodeError)):
            reason = f"{error}: it is not a file of einet.save, or is damaged"
        raise ValueError(f"cannot read {path}: {reason}") from error


# The format: the length of the header in 8 bytes, the header, which is JSON, and the numbers of all tensors


def _in_file_order(tensors: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """The widest numbers first, so that all lie at multiples of their size."""
    return sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))


def _header(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    header: dict[str, dict] = {"__metadata__": metadata}
    end = 0
    for name, tensor in _in_file_order(tensors):
        if tensor.dtype not in DTYPE_NAMES:
            raise ValueError(f"{name} is of {tensor.dtype}, a file has one of {list(DTYPE_NAMES)}")
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"the description of the model has {len(text)} bytes, a file at most {MAX_HEADER_BYTES}")
    return text


def _memory(tensor: Tensor) -> ctypes.Array:
    """The bytes of a contiguous CPU tensor, valid as long as it lives: no copy, and no numpy."""
    return (ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr())


def _read_whole(path: str | os.PathLike) -> tuple[bytes, dict[str, str]]:
    """All bytes and the metadata of a file, once its size is checked against its header.

    The file is opened once, since it may be replaced at any moment.
    """
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"of its {size} bytes {length} should be a header: it is not a file of einet.save")
        header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
        if size != wanted:
            raise ValueError(f"it has {size} bytes, and should by its header have {wanted}: it is cut short or damaged")
        stream.seek(0)
        return stream.read(size), header.get("__metadata__", {})


# Replacing a file as a whole


def _target(path: str | os.PathLike) -> Path:
    """The path without links. Raise a `ValueError` where anything but a regular file is."""
    try:
        kind = os.stat(path).st_mode  # of the target of a link
    except FileNotFoundError:
        kind = stat.S_IFREG  # to be
    resolved = Path(path).resolve()
    if not stat.S_ISREG(kind):
        reason = "it is a folder" if stat.S_ISDIR(kind) else "it is no regular file, and nothing else is replaced"
        raise ValueError(f"cannot write {path}: {reason}")
    if not resolved.parent.is_dir():
        raise ValueError(f"cannot write {path}: it is in no folder that exists")
    return resolved


@contextmanager
def _replacement(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path`, renamed to it at the end if nothing has failed."""
    _remove_left_overs(path.parent)
    stream = None
    try:
        stream = _temporary(path.parent)
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
        if fcntl is None:
            stream.close()  # Windows renames no open file; elsewhere the lock is held until the name is gone
        os.replace(stream.name, path)
        _sync(path.parent)
    except OSError as error:  # the disk is full, or the folder may not be written to
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if stream is not None:
            with suppress(OSError):  # buffered bytes find the disk full once more
                stream.close()
            Path(stream.name).unlink(missing_ok=True)


def _temporary(folder: Path) -> BinaryIO:
    """A new file under a name of its own, locked until it is closed, so that nobody takes it for a left-over."""
    while True:
        stream = open(folder / f".einet-{secrets.token_hex(8)}.tmp", "xb")
        try:
            _lock(stream.fileno())
        except BlockingIOError:  # another process has locked it first, and is about to remove it
            stream.close()
            continue
        except OSError:  # a file system without locks, where left-overs stay
            return stream
        if os.path.exists(stream.name):
            return stream
        stream.close()


def _remove_left_overs(folder: Path) -> None:
    """Remove temporary files of killed processes, of any container: the system has taken their locks away."""
    if fcntl is None:
        return
    with suppress(OSError):  # here and below: a file that may not be removed stays
        entries = [entry for entry in os.scandir(folder) if TEMPORARY_NAME.fullmatch(entry.name)]
        left_over = [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]
        for path in left_over:
            with suppress(OSError), _opened(path) as descriptor:
                _lock(descriptor)
                os.unlink(path)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync(folder: Path) -> None:
    """On POSIX, wait until a folder's list of files is on the disk."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
