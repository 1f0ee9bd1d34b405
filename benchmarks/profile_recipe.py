"""Where a recipe's time goes: its source run whole under cProfile, by processor time.

    cd recipes && python -m benchmarks.profile_recipe 02_expectation_maximisation [--rows 25]

Run it with the repository on PYTHONPATH. Prints a table of the functions of this project (and of
what is not its own, as "elsewhere" by package) with calls, own seconds and cumulative seconds, and
the seconds of the processes that the recipe started, which cProfile does not see. Processor
seconds, not wall: other work on the machine does not count, nor waiting for those processes.
"""

import argparse
import concurrent.futures
import cProfile
import pstats
import resource
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness.finding import ROOT


class InThisProcess(concurrent.futures.Executor):
    """What a recipe sends to a pool of processes is done here, where it is seen."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def submit(self, fn, /, *args, **kwargs):
        done = concurrent.futures.Future()
        done.set_result(fn(*args, **kwargs))
        return done


def run(source: Path) -> cProfile.Profile:
    """Run the source as ``__main__``."""
    concurrent.futures.ProcessPoolExecutor = InThisProcess
    main = types.ModuleType("__main__")
    main.__file__ = str(source)
    sys.modules["__main__"] = main
    code = compile(source.read_text("utf-8"), str(source), "exec")
    profile = cProfile.Profile(time.process_time)
    profile.enable()
    try:
        exec(code, main.__dict__)
    finally:
        profile.disable()
    return profile


def own(stats: pstats.Stats) -> Iterator[tuple[str, int, float, float]]:
    """Yield place, calls, own and cumulative seconds of the project's functions, most first."""
    found = [
        (Path(file).relative_to(ROOT).as_posix() + f" {name}", calls, spent, cumulative)
        for (file, _, name), (_, calls, spent, cumulative, _) in stats.stats.items()
        if Path(file).is_relative_to(ROOT) and ".venv" not in file and not name.startswith("<")
    ]
    yield from sorted(found, key=lambda one: -one[3])


def elsewhere(stats: pstats.Stats) -> dict[str, float]:
    """Own seconds of everything that is not the project's, by package; built-ins by themselves."""
    sums: dict[str, float] = {}
    for (file, _, _), (_, _, spent, _, _) in stats.stats.items():
        parts = Path(file).parts
        if "site-packages" in parts:
            package = parts[parts.index("site-packages") + 1]
        elif file == "~":
            package = "compiled code"
        elif Path(file).is_relative_to(ROOT):
            package = "this project"
        else:
            package = "Python"
        sums[package] = sums.get(package, 0.0) + spent
    return dict(sorted(sums.items(), key=lambda one: -one[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--rows", type=int, default=25)
    options = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    told, sys.stdout = sys.stdout, sys.stderr  # what the recipe prints is not the table
    profile = run(ROOT / "recipes" / f"{options.recipe}.py")
    sys.stdout = told
    stats = pstats.Stats(profile)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"**{options.recipe}**: {stats.total_tt:.1f} s, and {usage.ru_utime + usage.ru_stime:.1f} s"
        f" in processes that it starts. Own seconds by package:"
        f" {', '.join(f'{k} {v:.1f}' for k, v in list(elsewhere(stats).items())[:6])}.\n"
    )
    print("| function | calls | own, s | cumulative, s |\n|---|--:|--:|--:|")
    for place, calls, spent, cumulative in list(own(stats))[: options.rows]:
        print(f"| `{place}` | {calls:,} | {spent:.2f} | {cumulative:.2f} |")


if __name__ == "__main__":
    main()
