"""Check an installation: versions, places, and one tiny fit with a known answer."""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

# Where this package lies; models and guides must lie beside it.
ROOT = Path(__file__).resolve().parents[1]


def check() -> list[tuple[str, bool, str]]:
    """Run every check.

    Returns
    -------
    list of (str, bool, str)
        Name of the check, whether it passed, and what was found.
    """
    python = sys.version.split()[0]
    results = [("python", sys.version_info >= (3, 12), f"{python}, 3.12 or newer is needed")]
    results += _requirements()
    results += [_place(name) for name in ("models", "guides", "pyro_cookbook")]
    if all(passed for _, passed, _ in results):  # else it would say the same by a traceback
        results.append(_evidence())
    return results


def _requirements() -> list[tuple[str, bool, str]]:
    try:
        texts = requires("pyro-cookbook") or ()
    except PackageNotFoundError:
        return [("pyro-cookbook", False, "not installed; pip install -e . in its folder")]
    return [_requirement(text) for text in texts if ";" not in text]


def _requirement(text: str) -> tuple[str, bool, str]:
    requirement = Requirement(text)
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return requirement.name, False, f"missing, {requirement.specifier} is needed"
    fits = requirement.specifier.contains(found, prereleases=True)
    return requirement.name, fits, f"{found}, {requirement.specifier} is needed"


def _place(name: str) -> tuple[str, bool, str]:
    """Compare where a package comes from: a stranger's `models` would be imported in silence."""
    try:
        found = Path(str(import_module(name).__file__)).resolve().parent
    except ImportError as error:
        return name, False, f"cannot be imported: {error}"
    return name, found == ROOT / name, f"imported from {found}"


def _evidence() -> tuple[str, bool, str]:
    """With q the exact posterior every draw's log ratio is the log evidence."""
    import torch

    from pyro_cookbook import catalogue, data
    from pyro_cookbook.posterior.importance import weigh

    recipe = catalogue.recipe("02_expectation_maximisation")
    fit = recipe.prepare("exact", data.load("iris")).fit()
    joint = weigh(fit, num_draws=100).joint
    exact = recipe.log_evidence(fit) or float("nan")
    error = float(abs(joint / exact - 1).max())
    threads = torch.get_num_threads()
    return (
        "exact fit",
        error < 1e-9,
        f"relative error {error:.1e} of log evidence, {threads} threads",
    )
