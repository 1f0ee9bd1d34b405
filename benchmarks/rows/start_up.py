"""How long one waits before anything happens: the command line's help and list, and the import.

None of them may import what is heavy; that holds on any machine, where seconds do not.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.harness.row import Measured, Row

# Seconds that each may take.
LIMIT = 0.4
PEER = f"the limit of {LIMIT} s"
HEAVY = ("torch", "pyro", "numpy", "scipy", "pandas", "pyarrow", "sklearn", "arviz", "matplotlib")
STARTS = {
    "help": ("-m", "pyro_cookbook", "--help"),
    "list": ("-m", "pyro_cookbook", "list"),
    "import": ("-c", "import pyro_cookbook"),
}


def _start(arguments: Sequence[str]) -> tuple[float, float]:
    """Run Python once: wall seconds, and those of the processor."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _heavy(arguments: Sequence[str]) -> int:
    """Count the heavy packages that a start imports."""
    command = [sys.executable, "-X", "importtime", *arguments]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    imported = {line.rpartition("|")[2].strip() for line in said.splitlines()}
    return len(imported & set(HEAVY))


def _median(arguments: Sequence[str], times: int) -> tuple[float, float]:
    runs = [_start(arguments) for _ in range(times)]
    return median(wall for wall, _ in runs), median(own for _, own in runs)


def ours(size: Mapping[str, Any]) -> Measured:
    """Start each in turn; the slowest counts."""
    found = {name: _median(arguments, size["times"]) for name, arguments in STARTS.items()}
    told = {name: wall for name, (wall, _) in found.items()}
    told |= {f"{name}, processor": own for name, (_, own) in found.items()}
    told |= {f"{name}, heavy": _heavy(arguments) for name, arguments in STARTS.items()}
    return Measured(max(wall for wall, _ in found.values()), told)


def limit(size: Mapping[str, Any]) -> Measured:
    """Give what each may take; an empty Python's start is told beside it."""
    wall, own = _median(("-c", "pass"), size["times"])
    return Measured(LIMIT, {"nothing": wall, "nothing, processor": own})


def same(runs: Mapping[str, Sequence[Measured]]) -> str:
    """No start imports a heavy package; tell its seconds, and those of the processor."""
    words = []
    for name in STARTS:
        heavy = max(run.quality[f"{name}, heavy"] for run in runs["ours"])
        assert heavy == 0, f"{name} imports {heavy} of {', '.join(HEAVY)}"
        own = median(run.quality[f"{name}, processor"] for run in runs["ours"])
        wall = median(run.quality[name] for run in runs["ours"])
        words.append(f"{name} {wall:.2f} s ({own:.2f} s of the processor)")
    nothing = median(run.quality["nothing"] for run in runs[PEER])
    return ", ".join(words) + f"; an empty Python {nothing:.2f} s"


ROWS = (
    Row(
        name="start_up",
        work="`pyro-cookbook --help`, `pyro-cookbook list`, `import pyro_cookbook`: median of nine"
        " starts, the slowest of the three",
        peer=PEER,
        sides={"ours": ours, PEER: limit},
        full={"times": 9},
        tiny={"times": 1},
        same=same,
        target=1.0,
    ),
)
