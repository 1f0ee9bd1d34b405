"""Peak resident memory of this process, in MB."""

import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak() -> float:
    """Highest resident memory so far.

    Where there is /proc, its VmHWM: Linux lets a process inherit ``ru_maxrss`` from the one that
    started it, and a child lighter than its parent would report the parent's.
    """
    if STATUS.exists():
        return _kilobytes("VmHWM") / 1e3
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def resident() -> float:
    """Resident memory now; where there is no /proc, the highest so far."""
    return _kilobytes("VmRSS") / 1e3 if STATUS.exists() else peak()


def above[T](work: Callable[[], T]) -> tuple[T, float]:
    """Do the work; give what it gives, and how far memory rose above what was resident before.

    >>> import numpy as np
    >>> from benchmarks.harness.memory import above
    >>> _, rise = above(lambda: np.ones(10_000_000).sum())
    >>> 75 < rise < 120
    True
    """
    # The high-water mark starts anew: making the data may have passed what the work will need.
    # Where there is no such switch it is that of the whole process, never too low.
    with suppress(OSError):
        CLEAR.write_text("5")
    before = resident()
    given = work()
    return given, max(peak() - before, 0.0)


def _kilobytes(field: str) -> float:
    """One line of /proc/self/status, which counts in KiB; in units of 1,000 bytes."""
    (line,) = (text for text in STATUS.read_text().splitlines() if text.startswith(field))
    return int(line.split()[1]) * 1.024
