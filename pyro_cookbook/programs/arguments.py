"""The arguments that a program is called with, by name, and which of them hold its observations.

An argument holds a site's observations if the model hands it to the site. That is seen in a run,
not in the values: an exposure and counts that are both all ones are still two arguments.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from pyro_cookbook.programs.observing import is_derived
from pyro_cookbook.programs.program import Function, Program
from pyro_cookbook.programs.state.isolation import isolated


def named_arguments(program: Program) -> dict[str, Any]:
    """Name what a program is called with, in its signature's words.

    What ``*data`` takes is called ``data[0]``, ``data[1]``, …; what has no name, ``argument 0``, ….

    Parameters
    ----------
    program : Program
        Its data need not be complete.

    Returns
    -------
    dict of str to object
        Positional arguments first.
    """
    names = _positional_names(program.function, len(program.args))
    return dict(zip(names, program.args, strict=True)) | program.kwargs


def with_arguments(program: Program, values: Mapping[str, Any]) -> Program:
    """Put other values in the place of arguments, under the names of `named_arguments`.

    Raises
    ------
    ValueError
        If there is no argument of that name.
    """
    args, kwargs = program.args, program.kwargs
    names = _positional_names(program.function, len(args))
    for name in values:
        if name not in names and name not in kwargs:
            known = ", ".join([*names, *kwargs]) or "none"
            raise ValueError(f"argument: got {name!r}, expected one of those given: {known}")
    swapped = tuple(values.get(name, value) for name, value in zip(names, args, strict=True))
    return program.on(*swapped, **{name: values.get(name, value) for name, value in kwargs.items()})


def observed_arguments(program: Program) -> dict[str, str]:
    """Say which argument holds each observed site's value.

    Parameters
    ----------
    program : Program
        A model on its data.

    Returns
    -------
    dict of str to str
        Observed site → name of the argument, as `named_arguments` names it. Computed values and
        bare ``pyro.factor`` sites are no observations.

    Raises
    ------
    ValueError
        If no argument holds the value of an observed site, naming the site: the value is a
        constant, or the model transforms its argument (``obs=y.log()``, ``obs=y[index]``).
    """
    found = holders(program)
    for site, argument in found.items():
        if argument is None:
            raise ValueError(
                f"model: no argument holds the value of observed site {site!r}; pass the"
                " observations as a tensor, and give it to obs= as it is"
            )
    return {site: argument for site, argument in found.items() if argument is not None}


def holders(program: Program) -> dict[str, str | None]:
    """As `observed_arguments`, with None where no argument holds a site's value.

    The program runs once, on a copy of each argument. An argument holds a value if the two are one
    object, or share all their memory in the same order (``obs=y.reshape(-1)``).
    """
    given = named_arguments(program)
    copies = {name: _copied(value) for name, value in given.items()}
    with isolated(0, program.store):
        nodes = with_arguments(program, copies).nodes
    # What a model changes in place is no longer what it was given.
    kept = [name for name in given if _same(given[name], copies[name])]
    return {
        site: next((name for name in kept if _is_held(node["value"], copies[name])), None)
        for site, node in nodes.items()
        if node["is_observed"] and not is_derived(node) and not _is_factor(node)
    }


def _positional_names(function: Function, count: int) -> list[str]:
    """Name the first arguments of a function."""
    target = function.forward if isinstance(function, nn.Module) else function
    names: list[str] = []
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # a callable that does not tell
        parameters = {}.values()
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}[{i}]" for i in range(count - len(names))]
        elif parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}:
            names.append(parameter.name)
    names += [f"argument {i}" for i in range(len(names), count)]
    return names[:count]


def _copied(value: Any) -> Any:
    """Copy an array: equal, and in memory of its own. Anything else is left as it is."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def _is_factor(node: Mapping[str, Any]) -> bool:
    value = node["value"]
    return isinstance(value, Tensor) and not value.numel()


def _same(given: Any, copied: Any) -> bool:
    """Whether there is a copy, which a run has left equal to what was given."""
    if copied is given or copied.shape != given.shape:
        return False
    is_nan = given != given  # noqa: PLR0124
    return bool(((copied == given) | is_nan).all())


def _is_held(value: Any, copied: Any) -> bool:
    """Whether an observed value is an argument: the object, or all its memory in its order."""
    if value is copied:
        return True
    first, second = _memory(value), _memory(copied)
    return first is not None and first == second


def _memory(value: Any) -> tuple[int, int, int] | None:
    """Where the numbers of an array begin, how many they are and how long each is."""
    if isinstance(value, Tensor) and value.numel() and value.is_contiguous():
        return value.data_ptr(), value.numel(), value.element_size()
    if isinstance(value, np.ndarray) and value.size and value.flags.c_contiguous:
        return value.ctypes.data, value.size, value.itemsize
    return None
