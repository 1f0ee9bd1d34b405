"""Runs a row: each side each time in a fresh process, the sides in turn, all on equal threads."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness.finding import ROOT
from benchmarks.harness.row import Row

LIMIT = 1800  # seconds after which a side is given up
# Read by OpenMP, three BLAS, numexpr, Numba, Rayon and XLA (the last two) when they are loaded.
THREADS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS", "NPROC", "PJRT_NPROC",
)  # fmt: skip
# How idle threads wait: a library's default, or its own choice, must not come from the caller.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# Without its files of bytecode every start compiles our source anew, but no installed peer's.
UNCOMPILED = ("PYTHONDONTWRITEBYTECODE",)
# Ends by itself when the process that started it is gone.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


class SideError(RuntimeError):
    """A side that raised, hung or died; or sides that did not solve the same problem."""


def environment(threads: int, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give the environment of a side; 0 threads leave each library its default."""
    given = os.environ if given is None else given
    dropped = (*THREADS, *WAITING, *UNCOMPILED)
    kept = {name: text for name, text in given.items() if name not in dropped}
    return {**kept, **dict.fromkeys(THREADS if threads else (), str(threads)), "MPLBACKEND": "Agg"}


@contextmanager
def busy(number: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep so many other processes computing."""
    beside = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]
    try:
        yield beside
    finally:
        for process in beside:
            process.kill()
            process.wait()


def run_row(
    file: str, row: Row, *, runs: int, size: str, progress: Callable[[str], None]
) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """Run every side so many times in turn, and check them.

    Returns
    -------
    runs : dict of str to list of dict
        By side: the fields of `Measured`, "processor" (seconds) and "peak" (MB) of the process.
    same : str
        In what words the row says that both sides solved the same problem.

    Raises
    ------
    SideError
        If a side raised, hung or died, or the sides did not reach the same quality.
    """
    done: dict[str, list[dict[str, Any]]] = {side: [] for side in row.sides}
    with tempfile.TemporaryDirectory() as folder, busy(row.busy):
        out = Path(folder) / "out.json"
        for number in range(runs):
            # Each goes first every other time: what one leaves behind (heat, caches) hits both.
            for side in list(row.sides)[:: -1 if number % 2 else 1]:
                found, whole = _child(("run", file, row.name, side, size), out, row.threads, side)
                if row.cold:
                    found["seconds"] = whole
                if row.of == "memory" and not found["memory"] > 0:
                    raise SideError(f"{side}: gave no memory, which this row compares")
                done[side].append(found)
                progress(f"  {number + 1}/{runs} {side}: {_told(row, found)}")
        everything = Path(folder) / "runs.json"
        everything.write_text(json.dumps(done), "utf-8")
        words, _ = _child(("same", file, row.name, str(everything)), out, 1, "not the same")
    return done, words["same"]


def run_side(file: str, row: Row, side: str, size: str) -> dict[str, Any]:
    """Run one side once."""
    with tempfile.TemporaryDirectory() as folder:
        return _child(
            ("run", file, row.name, side, size), Path(folder) / "out.json", row.threads, side
        )[0]


def _told(row: Row, found: Mapping[str, float]) -> str:
    seconds = f"{found['seconds']:.3g} s"
    return f"{found['memory']:.0f} MB, {seconds}" if row.of == "memory" else seconds


def _child(what: tuple[str, ...], out: Path, threads: int, who: str) -> tuple[Any, float]:
    """Run the child; give what it wrote, and the seconds of the whole process."""
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.harness.child", *what, str(out)]
    started = time.perf_counter()
    try:
        code, said = finish(command, environment(threads), LIMIT)
    except subprocess.TimeoutExpired as error:
        raise SideError(f"{who}: not done after {error.timeout:.0f} s") from None
    seconds = time.perf_counter() - started
    found = json.loads(out.read_text("utf-8")) if out.exists() else {"error": f"ended with {code}"}
    if "error" in found:
        failure = SideError(f"{who}: {found['error']}")
        failure.add_note(said[-4000:])
        raise failure
    return found, seconds


def finish(command: list[str], variables: Mapping[str, str], limit: float) -> tuple[int, str]:
    """Run a process to its end: its code, and what it said. At the limit it ends with its own."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdout=said, stderr=said, start_new_session=True
        )
        try:
            process.wait(limit)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said.seek(0)
        return process.returncode, said.read().decode("utf-8", "replace")


def limits(threads: int, *sizes: int) -> dict[str, float]:
    """Measure the machine on so many threads, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.harness.limits", *map(str, sizes)],
        cwd=ROOT, env=environment(threads), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)
