"""What the machine can do at most: a matmul and a copy, on as many threads as the row has.

    python -m benchmarks.harness.limits [SIZE [MEGABYTES]]

prints GFLOP/s of a square matmul of that size in float64 and float32, and GB/s of a copy (what is
read and what is written counted), the best of five, as JSON. The threads are the environment's.
"""

import json
import sys
import time
from collections.abc import Callable

SIZE, MEGABYTES, REPEATS = 2000, 256, 5


def measure(size: int = SIZE, megabytes: int = MEGABYTES) -> dict[str, float]:
    """Give "float64" and "float32" in GFLOP/s and "copy" in GB/s."""
    import torch

    found = {}
    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        a, b, out = (torch.rand(size, size, dtype=dtype) for _ in range(3))
        found[name] = 2 * size**3 / _least(lambda a=a, b=b, out=out: torch.mm(a, b, out=out)) / 1e9
    source = torch.rand(megabytes * 125_000, dtype=torch.float64)
    target = torch.empty_like(source)
    found["copy"] = 2 * 8 * len(source) / _least(lambda: target.copy_(source)) / 1e9
    return found


def _least(work: Callable[[], object]) -> float:
    """Least seconds of some repeats, after one that does not count."""
    work()
    spent = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return min(spent)


if __name__ == "__main__":
    print(json.dumps(measure(*map(int, sys.argv[1:]))))
