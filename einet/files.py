"""One file for tensors and JSON: safetensors, replaced as a whole, read with distrust.

The metadata of the file are four texts:

    format    "einet"
    version   "1"
    content   JSON: whatever is no tensor
    sha256    of the content and all tensors, so that a flipped bit is found

Nothing in such a file is ever executed.

Paper: not in it
Chapter: book/12_queries
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

FORMAT, VERSION = "einet", "1"
# What wrong JSON, wrong tensors and a wrong file format raise in the code that reads them.
FOREIGN = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError, SafetensorError)


def write(path: str | os.PathLike, content: dict, tensors: dict[str, Tensor]) -> None:
    """Content and tensors in one file at `path`, which at any moment is the old one or the new one."""
    path = Path(path).resolve()
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: it is {'a folder' if path.is_dir() else 'in no folder that exists'}")
    text = json.dumps(content)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "version": VERSION, "content": text, "sha256": digest(tensors, text)}
    temporary = path.with_name(f".{path.name}.{threading.get_native_id()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask leaves; safetensors lets nobody else read
        safetensors.torch.save_file(_apart(tensors), temporary, metadata)
        os.chmod(temporary, mode)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except SafetensorError as error:  # the disk is full, or the folder may not be written to
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike) -> tuple[dict, dict[str, Tensor]]:
    """Content and tensors of the file at `path`. `ValueError` unless it is, bit by bit, what `write` wrote."""
    if not os.path.isfile(path):
        raise ValueError(f"cannot read {path}: {'a folder' if os.path.isdir(path) else 'there is no such file'}")
    with refusals(path):
        data = Path(path).read_bytes()  # once: safe_open opens a file twice, and it may be replaced in between
        tensors, metadata = safetensors.torch.load(data), _metadata(data)
        found = metadata.get("format"), metadata.get("version")
        if found != (FORMAT, VERSION):
            raise ValueError(f"its format and version are {found}, this einet reads {(FORMAT, VERSION)}")
        if digest(tensors, metadata["content"]) != metadata["sha256"]:
            raise ValueError("its checksum does not match what it holds")
        return json.loads(metadata["content"]), tensors


def _metadata(data: bytes) -> dict[str, str]:
    """The texts in the header of a safetensors file: JSON, after its length in 8 bytes."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]).get("__metadata__", {})


def digest(tensors: dict[str, Tensor], text: str = "") -> str:
    """SHA-256 of a text and of named tensors: names, types, shapes and all bytes."""
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory, as the components of a mixture may: safetensors refuses them otherwise."""
    apart, seen = {}, set()
    for name, tensor in tensors.items():
        apart[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return apart


def _sync(path: Path) -> None:
    """Wait until a file, or on POSIX a folder's list of files, is on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def refusals(path: str | os.PathLike) -> Iterator[None]:
    """Whatever a foreign file makes of the code that reads it comes out as one `ValueError` with its path."""
    try:
        yield
    except FOREIGN as error:
        reason = error if isinstance(error, ValueError) else repr(error)
        if isinstance(error, SafetensorError):
            reason = f"{error}: it is not a file of einet.save, or is damaged"
        raise ValueError(f"cannot read {path}: {reason}") from error
