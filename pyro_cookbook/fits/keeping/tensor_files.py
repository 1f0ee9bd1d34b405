"""Files of tensors and plain values, read without running code: safetensors with JSON inside.

The tensors lie in the file as safetensors has them; the lists and dicts that they are part of are
JSON in the header's metadata, where ``{"tensor": "3"}`` stands for the tensor of that name.
"""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pyro_cookbook.fits.keeping.files import write_bytes

_CONTENT = "content"  # its place in the metadata
_EARLIER = b"PK\x03\x04"  # how files of earlier releases began


def write_tensors(content: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values, in dicts, lists and tuples, as one file.

    Raises
    ------
    TypeError
        If there is anything else among them.
    OSError
        As `write_bytes`.
    """
    write_bytes(tensor_bytes(content), path)


def tensor_bytes(content: dict[str, Any]) -> bytes:
    """Give what `write_tensors` writes."""
    tensors: dict[str, Tensor] = {}
    told = json.dumps(_plain(content, tensors))
    found: bytes = safetensors.torch.save(tensors, {_CONTENT: told})
    return found


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
        If it is not a file of that kind or is damaged. Sizes are compared with the file's before
        anything is allocated.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {})[_CONTENT])
            # Copies lie where torch puts them, aligned: that decides how products are rounded.
            found = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            content = _made(told, found)
    except Exception as error:  # whatever bytes of another kind, or half of a file, lead to
        with path.open("rb") as opened:
            earlier = opened.read(len(_EARLIER)) == _EARLIER
        why = "of an earlier release: fit and save again" if earlier else "damaged, or not ours"
        raise ValueError(f"{path}: not a readable {kind} file ({why})") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise ValueError(f"{path}: expected a {kind} file, got something else")
    return content


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Turn a value into what JSON has, its tensors put aside."""
    if isinstance(value, Tensor):
        return _put_aside(value.detach().cpu(), tensors)
    if value is None or type(value) in {bool, int, float, str}:
        return value
    if type(value) is list:
        return [_plain(item, tensors) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(item, tensors) for item in value]}
    if isinstance(value, dict):  # as pairs: keys may be numbers
        return {"dict": [[_plain(k, tensors), _plain(v, tensors)] for k, v in value.items()]}
    if type(value) is complex:
        return {"complex": [value.real, value.imag]}
    raise TypeError(f"cannot write a {type(value).__name__}")


def _put_aside(value: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if value.layout is torch.sparse_coo:
        value = value.coalesce()
        parts = [_put_aside(value.indices(), tensors), _put_aside(value.values(), tensors)]
        return {"sparse": [list(value.shape), *parts]}
    if value.layout is not torch.strided:
        raise TypeError(f"cannot write a tensor of layout {value.layout}")
    if value.is_complex():
        return {"complex tensor": _put_aside(torch.view_as_real(value.resolve_conj()), tensors)}
    value = value.as_subclass(Tensor)
    name = str(len(tensors))
    found: dict[str, Any] = {"tensor": name}
    # Strides are kept: the order of entries decides how products are rounded.
    strides = value.stride()
    order = sorted(range(value.dim()), key=lambda i: (-strides[i], i))
    if order != list(range(value.dim())):
        value = value.permute(order)
        found["order"] = order
    # A copy: safetensors refuses views, and of a view only its own entries are to be written.
    tensors[name] = value.resolve_neg().clone(memory_format=torch.contiguous_format)
    return found


def _made(told: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo `_plain`; raise whatever, if `_plain` cannot have made it."""
    if isinstance(told, list):
        return [_made(item, tensors) for item in told]
    if not isinstance(told, dict):
        return told
    kind = next(iter(told))
    content = told[kind]
    if kind == "tuple":
        return tuple(_made(item, tensors) for item in content)
    if kind == "dict":
        return {_made(key, tensors): _made(item, tensors) for key, item in content}
    if kind == "complex":
        return complex(*content)
    if kind == "complex tensor":
        return torch.view_as_complex(_made(content, tensors))
    if kind == "sparse":
        size, indices, values = content
        parts = _made(indices, tensors), _made(values, tensors)
        return torch.sparse_coo_tensor(*parts, size, check_invariants=True).coalesce()
    if kind != "tensor":
        raise ValueError(f"unknown {kind!r}")
    value = tensors[content]
    dims = range(value.dim())
    order = told.get("order", list(dims))
    return value.permute([order.index(i) for i in dims])
