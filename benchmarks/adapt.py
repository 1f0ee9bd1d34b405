"""Every recipe taken home: written into an empty folder, and its two commands run there.

``python benchmarks/adapt.py > benchmarks/adapt.md`` writes each recipe under its default guide with
``pyro_cookbook.publish.adapt``, and runs ``python fit.py``, ``pytest`` and the notebook, one after
the other, each in processes of their own in which the packages ``models`` and ``guides`` cannot be
imported. Seconds are wall time, of one thread, imports included. Names as arguments choose recipes;
``--all`` takes every guide.
"""

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pyro_cookbook import catalogue
from pyro_cookbook.publish.adapt import adapt

ROOT = Path(__file__).parents[1]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# Read by every Python that starts with it on its path: the cookbook's topics are not there.
BLOCK = "import sys\nsys.modules['models'] = sys.modules['guides'] = None\n"
COMMANDS = {
    "fit.py": ["fit.py"],
    "pytest": ["-m", "pytest", "-q", "-p", "no:cacheprovider"],
    "notebook": ["-c", "from nbclient.cli import main; main()", "notebook.ipynb"],
}


def seconds_of(command: list[str], folder: Path, block: Path) -> tuple[float, str]:
    """Run a command in a project; a failure ends all."""
    path = os.pathsep.join([str(block), str(ROOT)])
    environment = os.environ | ONE_THREAD | {"PYTHONPATH": path}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{folder.name}: {command}\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - started, done.stdout


def measure(name: str, guide: str, folder: Path, block: Path) -> str:
    """Write a project and run it: a line of the table."""
    files = adapt(name, folder, guide=guide)
    told = {what: seconds_of(command, folder, block) for what, command in COMMANDS.items()}
    verdict = re.findall(r"^Verdict: (.*)$", told["fit.py"][1], re.MULTILINE)
    passed = re.findall(r"(\d+) passed", told["pytest"][1])
    lines = sum(len(p.read_text("utf-8").splitlines()) for p in files if p.suffix == ".py")
    cells = [
        name, guide, len(files), lines, f"{told['fit.py'][0]:.0f}", verdict[0],
        f"{told['pytest'][0]:.0f}", passed[0], f"{told['notebook'][0]:.0f}",
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    wanted = [argument for argument in sys.argv[1:] if argument != "--all"]
    chosen = [r for r in catalogue.RECIPES if not wanted or r.name in wanted]
    print("# Every recipe taken home\n")
    print(f"`python benchmarks/adapt.py`, {platform.machine()}, {os.cpu_count()} cores, load")
    print(f"{os.getloadavg()[0]:.1f} at the start: where other work goes on, seconds are longer.\n")
    print("| recipe | guide | files | lines of Python | `python fit.py`, s | verdict | `pytest`, s"
          " | passed | notebook, s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        block = Path(place) / "block"
        block.mkdir()
        (block / "sitecustomize.py").write_text(BLOCK)
        for recipe in chosen:
            for guide in recipe.guides if "--all" in sys.argv else [recipe.default]:
                folder = Path(place) / f"{recipe.name}-{guide}"
                print(measure(recipe.name, guide, folder, block), flush=True)


if __name__ == "__main__":
    main()
