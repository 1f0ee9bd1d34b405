"""How long one waits before anything happens: the command line's help and list, and the import."""

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


def _median(arguments: Sequence[str], times: int) -> tuple[float, float]:
    runs = [_start(arguments) for _ in range(times)]
    return median(wall for wall, _ in runs), median(own for _, own in runs)


def ours(size: Mapping[str, Any]) -> Measured:
    """Start each in turn; the slowest counts."""
    found = {name: _median(arguments, size["times"]) for name, arguments in STARTS.items()}
    told = {name: wall for name, (wall, _) in found.items()}
    told |= {f"{name}, processor": own for name, (_, own) in found.items()}
    return Measured(max(wall for wall, _ in found.values()), told)


def nothing(size: Mapping[str, Any]) -> Measured:
    """Start Python for nothing."""
    wall, own = _median(("-c", "pass"), size["times"])
    return Measured(wall, {"nothing": wall, "nothing, processor": own})


def same(runs: Mapping[str, Sequence[Measured]]) -> str:
    """Hold every start to its limit, in seconds of the processor: wall time waits for others."""
    words = []
    for name in STARTS:
        own = median(run.quality[f"{name}, processor"] for run in runs["ours"])
        assert own <= LIMIT, f"{name}: {own:.2f} s of the processor, at most {LIMIT} s"
        wall = median(run.quality[name] for run in runs["ours"])
        words.append(f"{name} {wall:.2f} s ({own:.2f} s of the processor)")
    return ", ".join(words) + f"; limit {LIMIT} s"


ROWS = (
    Row(
        name="start_up",
        work="`pyro-cookbook --help`, `pyro-cookbook list`, `import pyro_cookbook`: median of nine"
        f" starts, the slowest of the three; at most {LIMIT} s",
        peer="python -c pass",
        sides={"ours": ours, "python -c pass": nothing},
        full={"times": 9},
        tiny={"times": 1},
        same=same,
        target=0.01,
        note="The limit is in seconds: the ratio to an empty Python is told, not asked for.",
    ),
)
