"""What runs in a process of its own: one side of a row once, or the check of all runs.

    python -m benchmarks.harness.child run FILE ROW SIDE SIZE OUT
    python -m benchmarks.harness.child same FILE ROW RUNS OUT

`FILE` is a file of `benchmarks/rows`, `SIZE` is "full" or "tiny". OUT gets JSON: what was measured,
or the words of the check; or "error", one line, if it was raised.
"""

import json
import math
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness.finding import ROOT, rows_of
from benchmarks.harness.memory import peak
from benchmarks.harness.row import Measured, Row


def run(row: Row, side: str, size: str) -> dict[str, Any]:
    """Do the work once; its numbers, with processor seconds and peak memory of the process."""
    measured = row.sides[side](getattr(row, size))
    if not (math.isfinite(measured.seconds) and measured.seconds > 0):
        raise ValueError(f"{side} took {measured.seconds} s: no time")
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(usage.ru_utime + usage.ru_stime for usage in used)
    return {**asdict(measured), "processor": processor, "peak": peak()}


def same(row: Row, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Let the row say whether both sides solved one problem."""
    fields = Measured.__dataclass_fields__
    words = row.same(
        {
            side: [Measured(**{k: v for k, v in one.items() if k in fields}) for one in many]
            for side, many in runs.items()
        }
    )
    return {"same": words}


def in_one_line(error: BaseException) -> str:
    """Class and first line of an error, without the paths of this machine."""
    line = (str(error).strip().splitlines() or ["no message"])[0]
    for place in (f"{ROOT}/", f"{sys.prefix}/", f"{Path.home()}/"):
        line = line.replace(place, "")
    return f"{type(error).__name__}: {line}"


def main(what: str, file: str, name: str, *more: str) -> int:
    *given, out = more
    works: dict[str, Callable[[Row], dict[str, Any]]] = {
        "run": lambda row: run(row, *given),
        "same": lambda row: same(row, json.loads(Path(given[0]).read_text("utf-8"))),
    }
    try:
        found = works[what](next(row for row in rows_of(file) if row.name == name))
    except Exception as error:  # any: whatever a side raises is what its row says
        traceback.print_exc()
        found = {"error": in_one_line(error)}
    Path(out).write_text(json.dumps(found), "utf-8")
    return int("error" in found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
