"""The command: runs rows, keeps what they gave after each, and writes table and figure."""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import machine, running
from benchmarks.harness.finding import ROOT, UnknownRowError, choose, find
from benchmarks.harness.results import Record, hits, load, ratio, record, save
from benchmarks.harness.row import Row
from benchmarks.harness.table import markdown

OUT, TINY_OUT = ROOT / "benchmarks" / "RESULTS.md", ROOT / "results" / "benchmarks_tiny.md"
SMALL = (400, 32)  # matmul and MB of the limits beside tiny sizes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 if a row failed, 2 for an unknown row, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help="a row, or a file of rows; all if none"
    )
    parser.add_argument("--runs", type=int, default=5, help="of each side (default: 5)")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: do both sides agree?")
    parser.add_argument("--out", type=Path, help="table; data and figure go beside it")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error(f"--runs: at least 1, got {options.runs}")
    out = options.out or (TINY_OUT if options.tiny else OUT)
    if out.suffix != ".md":
        parser.error(f"--out: the table is Markdown, so its name ends in .md; got {out.name}")
    found = find()
    try:
        names = choose(found, options.rows)
    except UnknownRowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = "tiny" if options.tiny else "full"
    try:
        return _run(found, names, runs=options.runs, size=size, out=out.resolve())
    except KeyboardInterrupt:
        print(f"interrupted; {out.name} has the rows that were done", file=sys.stderr)
        return 130


def _run(
    found: dict[str, tuple[str, Row]], names: list[str], *, runs: int, size: str, out: Path
) -> int:
    """Run these rows, write after each; 1 if one of them failed."""
    data, begun, failures = out.with_suffix(".json"), time.monotonic(), 0
    records, limits = load(data), dict[int, dict[str, float]]()
    for number, name in enumerate(names, start=1):
        file, row = found[name]
        minutes = (time.monotonic() - begun) / 60
        print(f"[{number}/{len(names)}, {minutes:.1f} min] {name}: {row.work}", flush=True)
        if row.threads not in limits:
            limits[row.threads] = running.limits(row.threads, *(SMALL if size == "tiny" else ()))
        done = one(file, row, runs=runs, size=size, limits=limits[row.threads])
        failures += bool(done["error"])
        print(f"  → {_told(done)}", flush=True)
        records[name] = done
        # In the order of the table; a row that is no longer in the folder leaves it.
        records = {name: records[name] for name in found if name in records}
        write(records, out)
    return int(failures > 0)


def one(file: str, row: Row, *, runs: int, size: str, limits: dict[str, float]) -> Record:
    """Run a row; a failure is kept in its record."""
    circumstances = {
        "load": machine.load(),
        "limits": limits,
        "machine": machine.machine(),
        "versions": machine.versions(),
    }
    try:
        done, same = running.run_row(file, row, runs=runs, size=size, progress=_say)
    except running.SideError as error:
        for note in getattr(error, "__notes__", ()):
            print(note, file=sys.stderr)
        return record(row, file, size=size, runs={}, error=str(error), circumstances=circumstances)
    return record(row, file, size=size, runs=done, same=same, circumstances=circumstances)


def write(records: dict[str, Record], out: Path) -> None:
    """Write data, table and figure; the figure in a process of its own, so that this stays light.

    (A child's peak memory may be told as no less than its parent's.)
    """
    data, figure = out.with_suffix(".json"), out.with_suffix(".png")
    save(data, records)
    subprocess.run(
        [sys.executable, "-m", "benchmarks.harness.figure", data, figure], cwd=ROOT, check=True
    )
    out.write_text(markdown(records, figure=figure.name), "utf-8")


def _say(text: str) -> None:
    print(text, flush=True)


def _told(done: Record) -> str:
    if done["error"]:
        return f"FAILED: {done['error']}"
    times = ratio(done, done["peer_side"]).median
    reached = "reached" if hits(done) else "missed"
    return f"{times:.3g} times, target {done['target']:.3g} {reached}; {done['same']}"
