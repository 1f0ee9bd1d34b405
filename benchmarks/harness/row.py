"""What a row of the table is: one piece of work, done by us and by a peer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LOWER_BOUND = "its time is a lower bound"


@dataclass(frozen=True)
class Measured:
    """One run of one side.

    Attributes
    ----------
    seconds : float
        Of the work, imports and the making of data apart. Where a row is cold, the harness takes
        the seconds of the whole process instead.
    quality : dict of str to float
        What the work reached: bound, objective, error. Both sides are compared by it.
    flops, bytes : float
        Floating-point operations and bytes moved that the work needs at least, counted by a
        formula; 0 where no count is meant.
    memory : float
        Peak resident memory above that before the work, in MB; 0 if it was not measured.
    """

    seconds: float
    quality: Mapping[str, float]
    flops: float = 0.0
    bytes: float = 0.0
    memory: float = 0.0


@dataclass(frozen=True)
class Row:
    """A comparison, run side by side, each run in a process of its own.

    Attributes
    ----------
    name : str
        What `make bench ROWS=…` selects it by, and the order of its file in the table.
    work : str
        Its first cell: the work, its sizes and where it stops.
    peer : str
        The name of the peer's side and what its cell says.
    sides : dict of str to callable
        "ours" and the peer's name (there may be several peers) → function of a size that does the
        work. Heavy packages are imported inside it.
    full, tiny : dict
        The size that is measured, and the one that a test runs in a second or two.
    same : callable
        Given every run of every side, raises AssertionError unless both solved the same problem to
        the same quality; gives the words for the table's cell. Where the peer stops short of it
        they end in `LOWER_BOUND`, and the ratio is shown with "≥": going on would take it longer.
    target : float
        How many times faster ours should be; below 1 it may be slower by that much.
    of : str
        "seconds", or "memory" where the ratio is of memory.
    cold : bool
        Whether seconds are those of the whole process, imports included.
    busy : int
        How many other processes keep the machine busy meanwhile.
    threads : int
        Threads that each side may use; 0 leaves each its default.
    note : str
        What a reader of the table has to know besides: what limits a row that misses, a setting.
    """

    name: str
    work: str
    peer: str
    sides: Mapping[str, Callable[[Mapping[str, Any]], Measured]]
    full: Mapping[str, Any]
    tiny: Mapping[str, Any]
    same: Callable[[Mapping[str, Sequence[Measured]]], str]
    target: float
    of: str = "seconds"
    cold: bool = False
    busy: int = 0
    threads: int = 1
    note: str = field(default="")
