"""Checkpoints: the states of a fit's starts in one file, and what tells one fit from another."""

import dataclasses
import enum
import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from pyro_cookbook.fits.keeping.tensor_files import read_tensors, write_tensors

_DIGEST = "blake2b "
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# What these define is told apart by name: their code is their release's.
_LIBRARIES = ("torch", "pyro", "numpy", "builtins")


class Checkpoint:
    """The states of all starts of one fit, in one file; without a path it does nothing.

    Parameters
    ----------
    path : path or None
        Resumed from if the file exists.
    settings : dict
        What must be equal for the saved states to continue this very fit: see `settings_of`.

    Raises
    ------
    ValueError
        If the file is damaged or belongs to another fit, naming the first setting that differs.
    """

    def __init__(self, path: str | Path | None, settings: Mapping[str, Any]) -> None:
        self.path = Path(path) if path is not None else None
        self.settings = dict(settings)
        self.starts: dict[int, Any] = {}
        if self.path is not None and self.path.exists():
            content = read_tensors(self.path, "checkpoint")
            written, starts = content.get("settings"), content.get("starts")
            if not isinstance(written, dict) or not isinstance(starts, dict):
                raise ValueError(f"checkpoint: {self.path} is damaged")
            if not all(isinstance(r, int) and isinstance(s, dict) for r, s in starts.items()):
                raise ValueError(f"checkpoint: {self.path} is damaged")
            self._compare(written)
            self.starts = starts

    def _compare(self, written: Mapping[str, Any]) -> None:
        for name in {**self.settings, **written}:
            if name not in self.settings or name not in written:
                where = "without" if name in self.settings else "with"
                raise ValueError(f"checkpoint: {self.path} was written {where} {name}")
            then, now = written[name], self.settings[name]
            if then == now:
                continue
            if str(then).startswith(_DIGEST) and str(now).startswith(_DIGEST):
                raise ValueError(
                    f"checkpoint: {self.path} was written with another {name}; remove it to begin"
                    " anew"
                )
            raise ValueError(
                f"checkpoint: {self.path} was written with {name}={then!r}, got {now!r}"
            )

    def save(self, start: int, state: dict[str, Any]) -> None:
        """Record the state of one start and write the file."""
        if self.path is not None:
            self.starts[start] = state
            content = {"kind": "checkpoint", "settings": self.settings, "starts": self.starts}
            write_tensors(content, self.path)


def settings_of(
    model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], **options: Any
) -> dict[str, Any]:
    """Collect what decides the result of a fit, for `Checkpoint`.

    Parameters
    ----------
    model, guide : callable, or str
        The programs as they are before the fit, or a family's name.
    args, kwargs : tuple, dict
        The data.
    **options
        Every other option that changes the result: seed, tolerance, estimator of the bound.

    Returns
    -------
    dict of str to plain value
        Numbers and strings as they are, everything else by its `digest`: the programs under
        "model" and "guide", the data under "argument 0", … and "argument 'y'", the options under
        their names.
    """
    settings = {"model": _setting(model), "guide": _setting(guide)}
    settings |= {f"argument {i}": _setting(value) for i, value in enumerate(args)}
    settings |= {f"argument {name!r}": _setting(value) for name, value in kwargs.items()}
    return settings | {name: _setting(value) for name, value in options.items()}


def _setting(value: Any) -> Any:
    # A string that looks like a digest is digested, too.
    if type(value) in _PLAIN and not str(value).startswith(_DIGEST):
        return value
    return _DIGEST + digest(value)


def digest(value: Any) -> str:
    """Fingerprint of a value, the same in every process: equal values have equal digests.

    Parameters
    ----------
    value : Any
        Tensors and arrays count with dtype, shape and entries; containers with what is in them, a
        dict or set in any order; functions with their code, defaults, what they close over and the
        numbers, arrays, modules and functions among the globals they name; modules with their
        class's code, parameters, buffers and attributes; dataclasses with their fields,
        distributions with their parameters. Anything else counts with its class and those of its
        attributes that are numbers, strings, tensors or containers of them.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for part in _parts(value, {}):
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()


def _parts(value: Any, seen: dict[int, int]) -> Iterator[bytes | memoryview]:
    """Yield the bytes that a value is told by; `seen` has the order of the objects above it."""
    if type(value) in _PLAIN:
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, Tensor):
        yield from _tensor(value)
    elif isinstance(value, (np.ndarray, np.generic)):
        yield from _array(np.asarray(value), seen)
    elif _package(type(value)) == "pandas" and hasattr(value, "to_numpy"):
        yield from _parts(["pandas", list(getattr(value, "columns", ())), value.to_numpy()], seen)
    elif isinstance(value, (torch.dtype, torch.device, slice, range, enum.Enum)):
        yield f"{type(value).__name__} {value}".encode()
    elif isinstance(value, types.ModuleType):
        yield f"module {value.__name__}".encode()
    elif id(value) in seen:  # it contains itself: told by where it was met
        yield f"again {seen[id(value)]}".encode()
    else:
        inner = {**seen, id(value): len(seen)}
        for kind, content in _content(value):
            yield kind.encode()
            for item in content:
                yield from _parts(item, inner)
        yield b"end"


def _tensor(value: Tensor) -> Iterator[bytes | memoryview]:
    dense = value.detach().cpu()
    dense = dense if dense.layout is torch.strided else dense.to_dense()
    yield f"tensor {value.dtype} {tuple(value.shape)}".encode()
    yield dense.resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8).numpy().data


def _array(value: np.ndarray, seen: dict[int, int]) -> Iterator[bytes | memoryview]:
    yield f"array {value.dtype.str} {value.shape}".encode()
    if value.dtype.hasobject:
        yield from _parts(value.ravel().tolist(), seen)
    else:
        yield value.tobytes()


def _content(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield kinds of a value's content, and the values it consists of."""
    if isinstance(value, (list, tuple)):
        yield f"{type(value).__qualname__} {len(value)}", value
    elif isinstance(value, Mapping):
        pairs = sorted((digest(key), digest(item)) for key, item in value.items())
        yield f"dict {len(value)}", pairs
    elif isinstance(value, (set, frozenset)):
        yield f"set {len(value)}", sorted(digest(item) for item in value)
    elif isinstance(value, nn.Module):
        yield "module", _module(value)
    elif isinstance(value, TorchDistributionMixin):  # attributes come and go as they are asked for
        given: Any = value
        names = [*sorted(given.arg_constraints), "base_dist"]
        yield "distribution", [type(value), *(getattr(value, name, None) for name in names)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in dataclasses.fields(value)]
        yield "dataclass", [type(value), *(getattr(value, name) for name in names)]
    elif isinstance(value, _CODE):
        yield from _code(value)
    else:
        yield "object", [type(value), _attributes(value)]


_CODE = (
    functools.partial,
    types.MethodType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.CodeType,
    type,
)


def _code(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, functools.partial):
        yield "partial", [value.func, value.args, value.keywords]
    elif isinstance(value, types.MethodType):
        yield "method", [value.__func__, value.__self__]
    elif isinstance(value, types.FunctionType):
        yield f"function {value.__qualname__}", _function(value)
    elif isinstance(value, types.BuiltinFunctionType):
        is_bound = isinstance(value.__self__, Tensor)
        yield f"builtin {value.__qualname__}", [value.__self__] if is_bound else []
    elif isinstance(value, types.CodeType):
        yield "code", [value.co_code, value.co_names, value.co_varnames, value.co_consts]
    else:
        yield f"class {value.__qualname__}", _class(value)


def _function(value: types.FunctionType) -> list[Any]:
    """Code, defaults, closure, and the globals that are data or of the same package."""
    package = _package(value)
    if package in _LIBRARIES:
        return []
    closure = []
    for cell in value.__closure__ or ():
        try:
            closure.append(cell.cell_contents)
        except ValueError:  # a name that is not set yet
            closure.append("empty")
    named = {}
    for name in _names(value.__code__):
        other = value.__globals__.get(name)
        is_data = isinstance(
            other, (*_PLAIN, Tensor, np.ndarray, np.generic, list, tuple, dict, nn.Module)
        )
        is_ours = isinstance(other, types.FunctionType) and _package(other) == package
        if is_data or is_ours or dataclasses.is_dataclass(other):
            named[name] = other
    pairs = [item for name in sorted(named) for item in (name, named[name])]
    return [value.__code__, value.__defaults__, value.__kwdefaults__, closure, pairs]


def _names(code: types.CodeType) -> set[str]:
    """Names of globals (and attributes) in a function and in those inside it."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _class(value: type) -> list[Any]:
    """Code of the methods, its own and inherited ones, libraries' left out."""
    content: list[Any] = []
    for kind in value.__mro__:
        for name, item in sorted(vars(kind).items()) if _package(kind) not in _LIBRARIES else ():
            # Inside class methods and static methods, properties, decorated functions.
            for inside in ("__func__", "fget", "__wrapped__"):
                item = getattr(item, inside, item)  # noqa: PLW2901
            if isinstance(item, (types.FunctionType, *_PLAIN)) and name != "__module__":
                content += [name, item]
    return content


def _module(value: nn.Module) -> list[Any]:
    content: list[Any] = []
    for name, module in value.named_modules():
        content += [name, type(module), _attributes(module)]
        if isinstance(module, AutoGuide):
            content.append(module._model)  # held where `named_modules` does not look
    return [*content, dict(value.state_dict())]


def _attributes(value: Any) -> dict[str, Any]:
    """Attributes that are numbers, strings, tensors and containers of them."""

    def is_plain(item: Any) -> bool:
        if type(item) in {list, tuple}:
            return all(map(is_plain, item))
        if type(item) is dict:
            return all(map(is_plain, item.values()))
        return type(item) in _PLAIN or isinstance(item, (Tensor, np.ndarray, np.generic))

    # The last is a bound's, which learns the number of plates when it is first used.
    skipped = ("_parameters", "_buffers", "max_plate_nesting")
    plain = getattr(value, "__dict__", {}).items()
    return {name: item for name, item in plain if name not in skipped and is_plain(item)}


def _package(value: Any) -> str:
    return str(getattr(value, "__module__", "") or "").split(".", maxsplit=1)[0]
