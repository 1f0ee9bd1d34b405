"""A program in a process of its own, timed from its start to its end."""

import json
import os
import subprocess
import time
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
