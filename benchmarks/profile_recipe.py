"""Where a recipe's time goes: its source run whole under cProfile, by processor time.

    cd recipes && python -m benchmarks.profile_recipe 02_expectation_maximisation [--rows 25]

Run it with the repository on PYTHONPATH. Prints a table of the functions of this project (and of
what is not its own, as "elsewhere" by package) with calls, own seconds and cumulative seconds. The
commands that a recipe types run under cProfile as well, and are added up with it; of other
processes that it starts it says the seconds. Processor seconds, not wall: other work on the machine
does not count, nor waiting for those processes. Of functions that make a graph cProfile loses
cumulative seconds; own seconds are whole.
"""

import argparse
import concurrent.futures
import cProfile
import os
import pstats
import resource
import subprocess
import sys
import tempfile
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


class Profiled(subprocess.Popen):
    """A `pyro-cookbook` that a recipe types writes a profile of itself into `folder`."""

    folder = Path()
    started = 0

    def __init__(self, args, *others, **keywords):
        if args[1:3] == ["-m", "pyro_cookbook"]:
            Profiled.started += 1
            target = self.folder / f"{Profiled.started}.prof"
            args = [args[0], "-m", "benchmarks.profile_recipe", "--command", target, *args[3:]]
        super().__init__(args, *others, **keywords)


def profiled(function, *arguments) -> cProfile.Profile:
    """Call the function under cProfile, by processor seconds."""
    profile = cProfile.Profile(time.process_time)
    profile.enable()
    try:
        function(*arguments)
    finally:
        profile.disable()
    return profile


def type_command(target: str, words: list[str]) -> None:
    """Run a command in this process; its profile goes to a file, and its code is given back."""
    sys.argv = ["pyro-cookbook", *words]
    time.perf_counter = lambda: time.process_time() / 4  # budgets are not the profiler's seconds
    code = []

    def app() -> None:
        try:
            from pyro_cookbook.cli import app

            app()
        except SystemExit as leaving:  # how a command ends
            code.append(leaving.code)

    profiled(app).dump_stats(target)
    sys.exit(*code)


def run(source: Path) -> pstats.Stats:
    """Run the source as ``__main__``, and the commands that it types."""
    concurrent.futures.ProcessPoolExecutor = InThisProcess
    os.environ["PYTHONPATH"] = str(ROOT)  # of the commands: they are typed in another folder
    main = types.ModuleType("__main__")
    main.__file__ = str(source)
    sys.modules["__main__"] = main
    code = compile(source.read_text("utf-8"), str(source), "exec")
    with tempfile.TemporaryDirectory() as folder:
        Profiled.folder, subprocess.Popen = Path(folder), Profiled
        stats = pstats.Stats(profiled(exec, code, main.__dict__))
        stats.add(*map(str, Path(folder).glob("*.prof")))
    return stats


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
    if sys.argv[1:2] == ["--command"]:
        type_command(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--rows", type=int, default=25)
    options = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    told, sys.stdout = sys.stdout, sys.stderr  # what the recipe prints is not the table
    stats = run(ROOT / "recipes" / f"{options.recipe}.py")
    sys.stdout = told
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    typed = f", {Profiled.started} commands that it types included" if Profiled.started else ""
    largest = ", ".join(f"{k} {v:.1f}" for k, v in list(elsewhere(stats).items())[:6])
    print(
        f"**{options.recipe}**: {stats.total_tt:.1f} s{typed};"
        f" {usage.ru_utime + usage.ru_stime:.1f} s in processes that it starts. Own"
        f" seconds by package: {largest}.\n"
    )
    print("| function | calls | own, s | cumulative, s |\n|---|--:|--:|--:|")
    for place, calls, spent, cumulative in list(own(stats))[: options.rows]:
        print(f"| `{place}` | {calls:,} | {spent:.2f} | {cumulative:.2f} |")


if __name__ == "__main__":
    main()
