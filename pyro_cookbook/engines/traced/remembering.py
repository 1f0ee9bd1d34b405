"""What a program remembers from one run to the next: a count of its runs, a weight that grows.

A graph does not run the program, and would leave such a number where it was.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

# Steps from a program to what it holds that are looked at.
_DEEPEST = 4


def numbers_kept(programs: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers that functions, modules and objects keep, by name, and which tensors they keep.

    Parameters
    ----------
    programs : mapping of str to callable
        By the names that those of the numbers begin with.

    Returns
    -------
    dict of str to number or tuple
        What they close over, the globals that they name, and the attributes of objects; of a
        tensor its identity and how often it has been written to.

    Examples
    --------
    >>> class Guide:
    ...     def __init__(self):
    ...         self.runs = 3
    >>> numbers_kept({"guide": Guide()})
    {'guide.runs': 3}
    """
    seen: set[int] = set()
    found = (_numbers(program, name, seen, _DEEPEST) for name, program in programs.items())
    return {name: value for one in found for name, value in one}


def _numbers(value: Any, name: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (bool, int, float)):
        yield name, value
    elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        yield name, (id(value), value._version)
    elif depth and id(value) not in seen:
        seen.add(id(value))
        for key, inner in _held(value).items():
            yield from _numbers(inner, f"{name}.{key}", seen, depth - 1)


def _held(value: Any) -> Mapping[str, Any]:
    """Name what a value holds."""
    if isinstance(value, FunctionType):
        code = value.__code__
        cells = zip(code.co_freevars, value.__closure__ or (), strict=True)
        inside = {name: cell.cell_contents for name, cell in cells if _is_full(cell)}
        named = {n: value.__globals__[n] for n in code.co_names if n in value.__globals__}
        return {**named, **inside, "__dict__": vars(value)}
    if isinstance(value, MethodType):
        return {"self": value.__self__, "function": value.__func__}
    if isinstance(value, partial):
        return {"function": value.func, "args": list(value.args), "keywords": value.keywords}
    if isinstance(value, nn.Module):
        own = {k: v for k, v in vars(value).items() if k[0] != "_" or isinstance(v, (int, float))}
        return {**own, **dict(value.named_children())}
    if isinstance(value, dict):
        return {str(key): inner for key, inner in islice(value.items(), 100)}
    if isinstance(value, (list, tuple)):
        return {str(place): inner for place, inner in enumerate(value[:100])}
    module = getattr(type(value), "__module__", "")
    if module.partition(".")[0] in {"torch", "pyro", "builtins", "numpy"}:
        return {}
    return dict(getattr(value, "__dict__", {}))


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a name without a value yet
        return False
