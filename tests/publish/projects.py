"""Projects that `adapt` has written, run in this process without `models` and `guides`."""

import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

OWN = ("model", "guide")


@contextmanager
def alone(
    folder: Path, last: str = "test_model", sources: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """Import a project's model and guide, and one file that uses them, and give that.

    Neither `models` nor `guides` is there. Files may come from other sources.
    """
    hidden = {n: m for n, m in sys.modules.items() if n.split(".")[0] in {"models", "guides"}}
    for name in (*hidden, "models", "guides"):
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        for name in (*OWN, last):
            path = folder / f"{name}.py"
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            text = (sources or {}).get(name) or path.read_text("utf-8")
            exec(compile(text, str(path), "exec"), module.__dict__)
        yield module
    finally:
        for name in (*OWN, last, *hidden, "models", "guides"):
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


def failures(module: ModuleType) -> tuple[int, list[str]]:
    """Call every test of a module, with each of its parameters: how many, and which failed."""
    count, failed = 0, []
    for name, test in inspect.getmembers(module, inspect.isfunction):
        if not name.startswith("test_"):
            continue
        cases: list[dict[str, Any]] = [{}]
        for mark in getattr(test, "pytestmark", []):
            argument, values = mark.args
            cases = [{argument: value} for value in values]
        for case in cases:
            count += 1
            try:
                test(**case)
            except Exception as error:  # whatever a wrong model leads to
                failed.append(f"{name}: {error!r}")
    return count, failed
