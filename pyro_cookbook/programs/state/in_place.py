"""Data that a run would change or use up: said at the first run, which is on a copy of them."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping, MappingView
from operator import ne
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_cookbook.programs.arguments import named_arguments
from pyro_cookbook.programs.program import Program


def refuse_in_place(program: Program, trial: Program, *, role: str = "model") -> None:
    """Refuse a program whose run has changed the data.

    Parameters
    ----------
    program : Program
        As it was before any run.
    trial : Program
        The same on a copy of its data, as `copy_data` gives it, after it has run.
    role : {"model", "guide"}
        What to call the program.

    Raises
    ------
    ValueError
        Naming the argument, and the first entry that differs.
    """
    before, after = named_arguments(program), named_arguments(trial)
    for name, value in before.items():
        where = _difference(dict(_leaves("", value)), dict(_leaves("", after[name])))
        if where is not None:
            at = f" (first at entry {where})" if where else ""
            raise ValueError(
                f"{role}: it changes its argument {name!r} in place{at}; work on a copy:"
                f" {name} = {_copying_expression(name, value)}"
            )


def refuse_iterators(program: Program) -> None:
    """Refuse data that the first run would use up, and all later runs would find empty.

    Parameters
    ----------
    program : Program
        Its data are looked at to the bottom of lists, tuples, dicts and dataclasses.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    for name, value in named_arguments(program).items():
        for path, leaf in _leaves(name, value):
            if hasattr(leaf, "__next__") or isinstance(leaf, MappingView):
                raise ValueError(
                    f"{path}: got a {type(leaf).__name__}, which the first run may use up; expected"
                    f" a tensor, an array or a list: list({path})"
                )


def copy_data(program: Program) -> Program:
    """Copy what a program is called with, to the bottom of lists, tuples, dicts and dataclasses.

    Tensors, arrays and tables are copied, any other object is taken as it is. What is one object in
    two places stays one.
    """
    memo: dict[int, Any] = {}
    return program.on(
        *(_copied(value, memo) for value in program.args),
        **{key: _copied(value, memo) for key, value in program.kwargs.items()},
    )


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if id(value) not in memo:
        memo[id(value)] = _copy_one(value, memo)
    return memo[id(value)]


def _copy_one(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, np.ndarray):
        array = value.copy()
        if array.dtype.hasobject:
            for index in np.ndindex(array.shape):
                array[index] = _copied(value[index], memo)
        return array
    if isinstance(value, tuple):
        items = [_copied(item, memo) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, (list, dict, set, bytearray)):
        own: Any = copy.copy(value)  # of the same class, with what else it has
        if isinstance(value, dict):
            own.update({key: _copied(item, memo) for key, item in value.items()})
        elif isinstance(value, list):
            own[:] = [_copied(item, memo) for item in value]
        return own
    if _is_record(value):
        own = copy.copy(value)
        for name, item in _items(value) or ():
            object.__setattr__(own, name.lstrip("."), _copied(item, memo))
        return own
    if _is_table(value):
        return value.copy(deep=True)
    return value


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _is_table(value: Any) -> bool:
    """Whether a value is of pandas or xarray, which are not imported to fit a model."""
    return type(value).__module__.split(".")[0] in {"pandas", "xarray"} and hasattr(value, "equals")


def _items(value: Any) -> list[tuple[str, Any]] | None:
    """Return what a container holds, each with how one writes its place; None if it is none."""
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", item) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        return [(str(list(index)), value[index]) for index in np.ndindex(value.shape)]
    if _is_record(value):
        return [
            (f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)
        ]
    return None


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield everything in a nest of containers that is none itself."""
    items = _items(value)
    if items is None:
        yield path, value
    for place, item in items or ():
        yield from _leaves(path + place, item)


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Where two nests differ: the first place; "" if all of a lone value; None if nowhere."""
    for path in [*before, *(path for path in after if path not in before)]:
        if path not in before or path not in after:
            return path
        entry = _first_unequal(before[path], after[path])
        if entry is not None:
            return path + entry
    return None


def _first_unequal(before: Any, after: Any) -> str | None:
    """Index of the first entry that differs, NaN being equal to NaN; "" for the whole."""
    if before is after:
        return None
    if type(before) is not type(after):
        return ""
    if isinstance(before, (Tensor, np.ndarray)):
        if before.shape != after.shape or before.dtype != after.dtype:
            return ""
        if isinstance(before, Tensor) and before.layout != torch.strided:
            before, after = before.to_dense(), after.to_dense()
        both_nan = ne(before, before) & ne(after, after)
        unequal = ne(before, after) & ~both_nan
        if not unequal.any():
            return None
        places = np.argwhere(unequal.numpy(force=True) if isinstance(unequal, Tensor) else unequal)
        return str([int(i) for i in places[0]]) if unequal.ndim else ""
    if _is_table(before):
        return None if before.equals(after) else ""
    both_nan = ne(before, before) and ne(after, after)
    return "" if ne(before, after) and not both_nan else None


def _copying_expression(name: str, value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{name}.clone()"
    if isinstance(value, np.ndarray) or _is_table(value):
        return f"{name}.copy()"
    return f"copy.deepcopy({name})"
