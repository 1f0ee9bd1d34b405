"""Files that are written whole or not at all, and files of tensors read without running code."""

import io
import os
import secrets
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def write_bytes(content: bytes, path: Path) -> None:
    """Write to a neighbouring file and rename: an interruption leaves the old file or the new.

    The neighbour's name is its own, so that two processes may write the same file: the later wins.

    Raises
    ------
    OSError
        Naming the file, if the disk is full or the place cannot be written to; nothing is left
        behind.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a full disk may tell only now
        part.replace(path)
    except OSError as error:
        raise type(error)(f"{path}: not written: {error.strerror or error}") from error
    finally:
        if part.parent.is_dir():
            part.unlink(missing_ok=True)


def write_tensors(content: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values, in dicts and lists, as one file.

    Raises
    ------
    OSError
        As `write_bytes`.
    """
    buffer = io.BytesIO()  # torch's own writer ends the process where the disk is full
    torch.save(_compact(content), buffer)
    write_bytes(buffer.getvalue(), path)  # a view of the buffer would upset the collector


def read_tensors(path: Path, kind: str) -> dict[str, Any]:
    """Read a file of tensors and plain values.

    Parameters
    ----------
    path : Path
    kind : str
        The entry "kind" that it has to have.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is not a file of that kind, is damaged, or asks for code to be run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on a strange pickle torch warns before it refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever bytes that are no pickle, or half of one, lead to
        raise ValueError(f"{path}: not a readable {kind} file (damaged, or not ours)") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise ValueError(f"{path}: expected a {kind} file, got something else")
    size = path.stat().st_size
    if any(value.numel() * value.element_size() > size for value in _tensors(content)):
        raise ValueError(f"{path}: damaged: it has a tensor larger than the file")
    return content


def _compact(value: Any) -> Any:
    """Copy views: a file has a tensor's own entries, not all that it is a view of."""
    if isinstance(value, dict):
        return {key: _compact(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_compact(item) for item in value)
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    if value.layout is not torch.strided:
        return value
    value = value.as_subclass(Tensor)
    is_whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
    # Strides are kept where they can be: the order of entries decides how products are rounded.
    return value if is_whole else value.clone(memory_format=torch.preserve_format)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield every dense tensor in dicts and lists."""
    if isinstance(value, Tensor):
        if value.layout is torch.strided:
            yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
