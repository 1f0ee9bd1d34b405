"""On what it was measured: processor and versions; no name of a host, no path."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "torch", "pyro-ppl", "numpy", "scipy", "scikit-learn", "numpyro", "jax", "pymc", "pytensor",
    "nutpie",
)  # fmt: skip


def machine() -> str:
    """Describe the processor, its cores and the memory."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    kind = f"{platform.machine()}, {platform.system()}"
    return f"{name} ({kind}), {os.cpu_count()} cores, {memory:.0f} GB"


def versions() -> str:
    """Versions of Python and of the libraries that are here."""
    told = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            told.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(told)


def load() -> float:
    """Mean number of processes that wanted a processor over the last minute."""
    return os.getloadavg()[0]
