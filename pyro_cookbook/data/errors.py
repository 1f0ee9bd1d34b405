"""What is said when a table cannot be used: one line."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

_SHOWN = 12  # names in a list


class InputError(ValueError):
    """What a reader gave cannot be used: a table, a column, an option. The message is one line."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Point to the nearest of some names; "" if none is near.

    Examples
    --------
    >>> did_you_mean("wieght", ["height", "weight"])
    "; did you mean 'weight'?"
    """
    lower = {other.strip().lower(): other for other in names}
    near = get_close_matches(name.strip().lower(), lower, 1)
    return f"; did you mean {lower[near[0]]!r}?" if near else ""


def listed(names: Sequence[object], most: int = _SHOWN) -> str:
    """List names, the first `most` of them if there are more.

    Examples
    --------
    >>> listed(["a", "b", "c"], most=2)
    'a, b, … (3 in all)'
    """
    shown = ", ".join(str(name).replace("\n", " ") for name in names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names):,} in all)"


def one_line(error: BaseException) -> str:
    """Give the first line of what an exception says; its type if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
