"""What a program is called with, as tensors and plain values; and back, checking every piece."""

import importlib
import inspect
from collections import namedtuple
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from pyro_cookbook.fits.keeping.source import source_hash

# Programs and named tuples of these packages are found again by name.
OWN_PACKAGES = ("models", "guides")
# Classes elsewhere that stand where a guide stands.
OWN_CLASSES = ("pyro_cookbook.fits.refined:RefinedDraws",)
# What is stored as it is. Their subclasses (NumPy's scalars, enumerations) are not: only their own
# class could make them again, and loading runs no code of a file.
_PLAIN = (bool, int, float, complex, str, type(None))


def encode(value: Any, name: str) -> Any:
    """Turn an argument into tensors and plain values.

    Parameters
    ----------
    value : Any
        A tensor, an array or scalar of NumPy, a plain value, or a list, tuple, named tuple or dict
        of them.
    name : str
        What to call it in the error.

    Raises
    ------
    TypeError
        If there is anything else in it.
    """
    if isinstance(value, Tensor) or type(value) in _PLAIN:
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (np.ndarray, np.generic)):
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        try:
            return {kind: torch.tensor(np.asarray(value))}
        except TypeError:  # of strings, dates, objects, 128 bits
            raise TypeError(
                f"{name}: cannot save a NumPy {kind} of {np.asarray(value).dtype}; expected numbers"
            ) from None
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        reference = f"{type(value).__module__}:{type(value).__qualname__}"
        items = [[key, encode(item, name)] for key, item in value._asdict().items()]
        return {"fields": items, "name": reference}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [encode(item, name) for item in value]}
    if isinstance(value, dict):
        pairs = [[encode(key, name), encode(item, name)] for key, item in value.items()]
        return {"dict": pairs}
    raise TypeError(
        f"{name}: cannot save a {type(value).__name__}; expected tensors, arrays, numbers, strings,"
        " and lists, tuples or dicts of them"
    )


def decode(value: Any) -> Any:
    """Turn what `encode` made back; a named tuple of other packages gets a class of its own.

    Raises
    ------
    ValueError
        If `encode` cannot have made it.
    """
    if isinstance(value, Tensor) or type(value) in _PLAIN:
        return value
    kind = next(iter(value), "") if isinstance(value, dict) else ""
    content = value[kind] if kind else None
    if kind in {"array", "scalar"} and isinstance(content, Tensor) and len(value) == 1:
        array = content.numpy()
        return array if kind == "array" else array[()]
    if not isinstance(content, list):
        raise ValueError(f"got {shown(value)}, expected an argument")
    if kind == "list":
        return [decode(item) for item in content]
    if kind == "tuple":
        return tuple(decode(item) for item in content)
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in content):
        raise ValueError(f"got a {kind} of other things than pairs")
    pairs = [(decode(key), decode(item)) for key, item in content]
    try:
        if kind == "dict":
            return dict(pairs)
        if kind == "fields":
            return _named_tuple(value["name"], dict(pairs))
    except (TypeError, KeyError, AttributeError) as error:  # unhashable; no name; other fields
        raise ValueError(f"got a {kind} that cannot be one: {error}") from error
    raise ValueError(f"got {shown(value)}, expected an argument")


def _named_tuple(reference: str, items: dict[str, Any]) -> Any:
    found = find(reference)
    if inspect.isclass(found) and issubclass(found, tuple):
        return found(**items)
    name = reference.rpartition(":")[2].rpartition(".")[2]
    return namedtuple(name, list(items))(**items)


def find(reference: str) -> Any:
    """Look up "module:name" among what our own packages define; None for anything else."""
    module, _, name = reference.partition(":")
    if reference in OWN_CLASSES:
        return getattr(importlib.import_module(module), name)
    if module.split(".")[0] not in OWN_PACKAGES or "." in name or name.startswith("_"):
        return None
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (ImportError, TypeError):  # no such file; not even a name of one
        return None
    # What a file merely imports, torch's classes among it, is not a program of ours.
    ours = getattr(found, "__module__", "").split(".")[0] in OWN_PACKAGES
    return found if ours else None


def reference(program: Any) -> dict[str, Any]:
    """Name a program, with its source's hash and the plain arguments its class is built from."""
    target = program if inspect.isfunction(program) or inspect.isclass(program) else type(program)
    named = {
        "name": f"{target.__module__}:{target.__qualname__}", "source": source_hash(program)
    }  # fmt: skip
    if not isinstance(program, nn.Module):
        return named | {"init": None}
    init = {}
    for key in inspect.signature(target).parameters:
        value = getattr(program, key, None)
        value = list(value) if isinstance(value, (tuple, list)) else value
        items = value if isinstance(value, list) else [value]
        if value is None or not all(type(item) in _PLAIN for item in items):
            return named | {"init": None}
        init[key] = value
    return named | {"init": init}


def check_arguments(kind: type, init: Mapping[str, Any], role: str) -> None:
    """Compare what a module of ours was built from with what its constructor takes.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    names = inspect.signature(kind).parameters
    if init.keys() != names.keys():
        told = f"got {', '.join(map(str, init))}; expected {', '.join(names)}"
        raise ValueError(f"damaged: {role} is a {kind.__name__}: {told}")
    for name in names:
        try:
            check(init[name], hints[name])
        except ValueError as error:
            raise ValueError(f"damaged: {role} is a {kind.__name__}: {name}: {error}") from error


def shown(value: Any) -> str:
    """Say what a value is, shortly."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"


def pack(record: Any) -> dict[str, Any]:
    """Turn a dataclass of numbers, strings and tuples into a dict of plain values, by name."""
    return {field.name: _plain(getattr(record, field.name)) for field in fields(record)}


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return pack(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, str) else value


def unpack[T](kind: type[T], packed: Any) -> T:
    """Make a dataclass again, checking names and types.

    Raises
    ------
    ValueError
        Naming the field, what it has and what was expected.
    """
    if not isinstance(packed, Mapping):
        raise ValueError(f"got {shown(packed)}, expected a {kind.__name__}")
    hints = get_type_hints(kind)
    if packed.keys() != hints.keys():
        raise ValueError(
            f"got a {kind.__name__} with {', '.join(map(str, packed))}; expected {', '.join(hints)}"
        )
    values = {}
    for name, hint in hints.items():
        try:
            values[name] = check(packed[name], hint)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return kind(**values)


def check(value: Any, hint: Any) -> Any:
    """Return a value as the type hint has it; lists become tuples, packed dataclasses dataclasses.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if hasattr(hint, "__dataclass_fields__"):
        return unpack(hint, value)
    if get_origin(hint) in {tuple, Sequence}:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"got {shown(value)}, expected a list")
        return tuple(check(item, get_args(hint)[0]) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ValueError(f"got {shown(value)}, expected {hint.__name__}")
    return value
