"""Numbers that a caller gives as options: refused in one line where they cannot serve."""

import math
import operator
from typing import Any

# NumPy's and Pyro's generators take seeds below this.
_SEEDS = 2**32


def check_whole(least: int, **values: Any) -> None:
    """Refuse options that are no whole numbers of at least so much; None is left to the default.

    Raises
    ------
    ValueError
        Naming the option.
    """
    for name, value in values.items():
        if value is None:
            continue
        if not _is_whole(value) or value < least:
            raise ValueError(f"{name}: got {value!r}, expected a whole number of at least {least}")


def check_positive(**values: Any) -> None:
    """Refuse options that are no positive numbers; None is left to the default.

    Raises
    ------
    ValueError
        Naming the option.
    """
    for name, value in values.items():
        if value is not None and not _between(value, 0.0, math.inf):
            raise ValueError(f"{name}: got {value!r}, expected a positive number")


def check_share(**values: Any) -> None:
    """Refuse options that are no numbers between 0 and 1, both left out.

    Raises
    ------
    ValueError
        Naming the option.
    """
    for name, value in values.items():
        if not _between(value, 0.0, 1.0):
            raise ValueError(f"{name}: got {value!r}, expected a number between 0 and 1")


def as_seed(value: Any) -> int:
    """Give a seed as Python's integer.

    Raises
    ------
    ValueError
        If it is no whole number from 0 to 2³² − 1.
    """
    if not _is_whole(value) or not 0 <= value < _SEEDS:
        raise ValueError(f"seed: got {value!r}, expected a whole number from 0 to {_SEEDS - 1}")
    return operator.index(value)  # Pyro takes no integer of NumPy's


def _is_whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def _between(value: Any, low: float, high: float) -> bool:
    try:
        return low < float(value) <= high if high == math.inf else low < float(value) < high
    except (TypeError, ValueError):
        return False
