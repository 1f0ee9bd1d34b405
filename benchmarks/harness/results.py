"""What is kept of a row, in JSON, and the arithmetic on it: medians, ratios, distance to limits."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.finding import peer_of
from benchmarks.harness.row import LOWER_BOUND, Row

Record = dict[str, Any]
MAX_NUMBERS = 12  # of a run's quality; more are vectors, which `same` has judged and nobody reads
OF_THE_ROW = ("work", "peer", "target", "of", "cold", "busy", "threads", "note")


@dataclass(frozen=True)
class Spread:
    """Median, least and most of some runs."""

    median: float
    least: float
    most: float


def record(
    row: Row,
    file: str,
    *,
    size: str,
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    same: str = "",
    error: str = "",
    circumstances: Mapping[str, Any],
) -> Record:
    """Put together what is kept of a row; `circumstances` are load, limits, machine, versions."""
    kept = {
        side: [{k: v for k, v in one.items() if k != "quality" or len(v) <= MAX_NUMBERS}
               for one in many]
        for side, many in runs.items()
    }  # fmt: skip
    return {
        "file": file,
        **{name: getattr(row, name) for name in OF_THE_ROW},
        "peer_side": peer_of(row),
        "single": "32" in str(getattr(row, size).get("dtype", "")),
        "size": size,
        "runs": kept,
        "same": same,
        "lower_bound": same.endswith(LOWER_BOUND),
        "error": error,
        **circumstances,
    }


def load(file: Path) -> dict[str, Record]:
    """Read the records of earlier runs, by name of the row; none where there is no file."""
    return json.loads(file.read_text("utf-8")) if file.exists() else {}


def save(file: Path, records: Mapping[str, Record]) -> None:
    """Write them whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".part")
    beside.write_text(json.dumps(records, indent=1) + "\n", "utf-8")
    beside.replace(file)


def values(found: Record, side: str) -> list[float]:
    """Give what a side's runs are compared by: seconds, or MB."""
    return [one[found["of"]] for one in found["runs"][side]]


def spread(numbers: Sequence[float]) -> Spread:
    """Median, least and most.

    >>> from benchmarks.harness.results import spread
    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, least=1.0, most=3.0)
    """
    return Spread(statistics.median(numbers), min(numbers), max(numbers))


def ratio(found: Record, side: str) -> Spread:
    """How many times less ours needs: that of the medians, and the least and most run by run."""
    ours, theirs = values(found, "ours"), values(found, side)
    by_run = [b / a for a, b in zip(ours, theirs, strict=True)]
    return Spread(statistics.median(theirs) / statistics.median(ours), min(by_run), max(by_run))


def hits(found: Record) -> bool:
    """Whether the target is reached; a row that failed reaches none."""
    return not found["error"] and ratio(found, found["peer_side"]).median >= found["target"]


def lines(records: Mapping[str, Record]) -> Iterator[tuple[str, Record, str]]:
    """Yield name, record and peer for every line of the table: a row's own peer first."""
    for name, found in records.items():
        yield name, found, found["peer_side"]
        if not found["error"]:
            others = (side for side in found["runs"] if side not in ("ours", found["peer_side"]))
            yield from ((name, found, side) for side in others)


def achieved(found: Record, side: str = "ours") -> dict[str, tuple[float, float]]:
    """Give what a side's work achieved and its share of the machine's limit.

    Returns
    -------
    dict
        "GFLOP/s" against the matmul of the row's precision and "GB/s" against the copy; only what
        was counted.
    """
    seconds = statistics.median(one["seconds"] for one in found["runs"][side])
    matmul = "float32" if found["single"] else "float64"
    counts = {"GFLOP/s": ("flops", matmul), "GB/s": ("bytes", "copy")}
    given = {}
    for unit, (count, limit) in counts.items():
        rate = statistics.median(one[count] for one in found["runs"][side]) / seconds / 1e9
        if rate > 0:
            given[unit] = rate, rate / found["limits"][limit]
    return given
