"""pyproject.toml, environment.yml and constraints-lowest.txt ask for the same packages."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
PINS = (ROOT / "constraints-lowest.txt").read_text("utf-8").splitlines()
CONDA_NAMES = {"torch": "pytorch"}


def bounds(requirements: list[str]) -> dict[str, str]:
    """Return name to lower bound; a requirement of any other form is an error."""
    pairs = [requirement.split(">=") for requirement in requirements]
    assert all(len(pair) == 2 for pair in pairs)
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def wanted() -> dict[str, str]:
    project = PROJECT["project"]
    return bounds([*project["dependencies"], *project["optional-dependencies"]["dev"]])


def test_conda_environment_asks_for_what_the_project_does():
    (pip,) = [entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict)]
    names = [entry for entry in CONDA["dependencies"] if isinstance(entry, str) and entry != "pip"]
    assert pip == ["-e ."]
    assert bounds(names) == {CONDA_NAMES.get(name, name): b for name, b in wanted().items()} | {
        "python": PROJECT["project"]["requires-python"].removeprefix(">=")
    }
    assert CONDA["channels"] == ["conda-forge"]
    assert CONDA["name"] == PROJECT["project"]["name"]


def test_constraints_pin_each_lower_bound():
    assert [f"{name}=={bound}" for name, bound in wanted().items()] == PINS


def test_python_bound_is_one():
    bound = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert (ROOT / ".python-version").read_text("utf-8").strip() == bound
    assert PROJECT["tool"]["mypy"]["python_version"] == bound
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{bound.replace('.', '')}"
    assert f"sys.version_info < ({bound.replace('.', ', ')})" in (ROOT / "Makefile").read_text(
        "utf-8"
    )
