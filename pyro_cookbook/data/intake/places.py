"""A table as it came, before anything is made of its columns, and where its entries stand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from pyro_cookbook.data.errors import InputError

# Given the names there are, those to read, in their order.
Choice = Callable[[Sequence[str]], list[str]]


class Places(Protocol):
    """Where the entries of a table stand, in words that its reader can look up."""

    def place(self, row: int) -> str:
        """Say where a row is: "line 7" of a file of text, "row 5" of anything else."""

    def entry(self, row: int, column: str) -> str:
        """Give an entry as it is written there."""


@dataclass(frozen=True, eq=False)
class Raw:
    """A table as it came.

    Attributes
    ----------
    frame : pandas.DataFrame
        Columns of any kind under unique names. A first column without a name is called "".
    name : str
        What the table is called: the stem of its file.
    source : str
        What messages call it: the path as it was given.
    places : Places
    lines : tuple of str
        What was recognised on the way here, in sentences.
    decimal : str
        What stands before the decimals in columns of text: "." or ",".
    marks : callable
        Counts the marks of missing entries: mark → how often it was met.
    idle : frozenset of str
        Columns that say nothing here and are left out unless they are asked for: pixels that are
        the same in all pictures.
    """

    frame: pd.DataFrame
    name: str
    source: str
    places: Places
    lines: tuple[str, ...] = ()
    decimal: str = "."
    marks: Callable[[], dict[str, int]] = dict
    idle: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Rows:
    """Places in a table that has no lines: rows from 0.

    Attributes
    ----------
    frame : pandas.DataFrame
    parts : tuple of (str, int)
        Files that the rows were read from, one after the other, and the number of rows of each;
        empty if it is one.
    """

    frame: pd.DataFrame
    parts: tuple[tuple[str, int], ...] = ()

    def place(self, row: int) -> str:
        """Say "row 5", and of which file if there are several."""
        for name, size in self.parts:
            if row < size:
                return f"row {row} of {name}"
            row -= size
        return f"row {row}"

    def entry(self, row: int, column: str) -> str:
        """Give an entry as Python writes it, cut to 60 characters."""
        value: Any = self.frame[column].iloc[row]
        if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
            value = value.item()
        return shortened(repr(value))


def shortened(text: str, most: int = 60) -> str:
    """Cut a long entry, so that a message stays one line."""
    text = text.replace("\n", " ")
    return text if len(text) <= most else f"{text[: most - 1]}…"


def check_names(names: Sequence[str], source: str, where: str = "") -> None:
    """Refuse names that are there more than once.

    Raises
    ------
    InputError
        Naming all of them.
    """
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    again = [name for name, count in counts.items() if count > 1]
    if again:
        each = ", ".join(f"{name!r} is there {counts[name]} times" for name in again[:5])
        raise InputError(f"{source}: {where}column {each}, expected once")
