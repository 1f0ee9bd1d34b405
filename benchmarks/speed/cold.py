"""A program in a process of its own, timed from its start to its end."""

import json
import os
import subprocess
import time
from collections.abc import Collection
from pathlib import Path


def run(python: str, script: Path, *options: object) -> tuple[float, dict]:
    """Run one process; give its seconds and what it printed."""
    command = [python, str(script), *map(str, options)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return seconds, json.loads(done.stdout.splitlines()[-1])


def rows_of(file: Path, names: Collection[str]) -> dict[str, str]:
    """Give the rows of an earlier table by model: a model that is not run again keeps its row."""
    if not file.exists():
        return {}
    lines = file.read_text("utf-8").splitlines()
    rows = {line.split(" ")[1]: line for line in lines if line.startswith("| ")}
    return {name: line for name, line in rows.items() if name in names}
