"""Options of a recipe: a dataclass, by hand or from a model's signature."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, field, fields, make_dataclass
from typing import Any

from pyro_cookbook.data import InputError, did_you_mean


def options_of(model: Callable[..., Any], **defaults: float) -> type:
    """Make the options of a model: the positive numbers that its signature takes by keyword.

    Parameters
    ----------
    model : callable
        Its keyword-only arguments with a number as default are options.
    **defaults
        Defaults that are not the signature's; of a module, these are all.

    Returns
    -------
    type
        A dataclass. Its values are refused, with an `InputError`, unless they are positive.
    """
    found = {
        name: float(one.default)
        for name, one in inspect.signature(model).parameters.items()
        if one.kind is one.KEYWORD_ONLY and isinstance(one.default, (int, float))
    }
    chosen = {**found, **defaults}
    return make_dataclass(
        "Options",
        [(name, float, field(default=value)) for name, value in chosen.items()],
        namespace={"__post_init__": _check_positive},
        frozen=True,
        kw_only=True,
    )


def _check_positive(self: Any) -> None:
    for name, value in asdict(self).items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{flag_of(name)}: got {value:g}, expected a positive number")


def flag_of(name: str) -> str:
    """Write a keyword as an option of the command line."""
    return f"--{name.replace('_', '-')}"


def checked(recipe: str, kind: type | None, given: Mapping[str, Any] | None) -> Any:
    """Give options as a value of their dataclass; None where a recipe has none.

    Parameters
    ----------
    recipe : str
        Its name, for messages.
    kind : type or None
    given : mapping, optional
        By name; what is None is as by default.

    Raises
    ------
    InputError
        For an unknown option, with the nearest there is, or a value that it cannot have.
    """
    asked = {name: value for name, value in (given or {}).items() if value is not None}
    names = [] if kind is None else [one.name for one in fields(kind)]
    for name in asked:
        if name not in names:
            there = [flag_of(one) for one in names]
            told = f"it has {', '.join(there)}" if there else "it has none"
            hint = did_you_mean(flag_of(name), there)
            raise InputError(f"{flag_of(name)}: no such option of {recipe}; {told}{hint}")
    return None if kind is None else kind(**asked)
