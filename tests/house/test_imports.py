"""The import rule, the length of files, and where the packages come from."""

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("models", "guides", "pyro_cookbook")
FILES = [
    path
    for folder in sorted(ROOT.iterdir())
    if folder.is_dir() and folder.name[0] != "." and folder.name not in {"build", "results"}
    for path in sorted(folder.rglob("*.py"))
]
# What topics may import from the standard library: words for types and formulas, nothing that acts.
PURE = {"__future__", "collections", "dataclasses", "functools", "itertools", "math", "typing"}
MAX_LINES = 400


def imports(package: str, source: str) -> Iterator[str]:
    """Yield the full name of everything that a file of `package` imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = [package] if node.level else []
            parts += [node.module] if node.module else []
            yield from (".".join([*parts, alias.name]) for alias in node.names)


def forbidden(package: str, file: str, source: str) -> list[str]:
    """Return what a file imports against the rule of its package."""
    names = imports(package, source)
    if package == "pyro_cookbook":
        topics = {"models", "guides"} if not file.startswith("catalogue/") else set()
        return [name for name in names if name.split(".")[0] in topics | {"recipes", "tests"}]
    return [
        name
        for name in names
        if name.split(".")[0] not in PURE | {"torch", "pyro"}
        and not name.startswith((f"{package}._", "models._"))  # what both kinds of topic share
    ]


def is_long(source: str) -> bool:
    return len(source.splitlines()) > MAX_LINES


def is_here(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and Path(str(spec.origin)) == ROOT / package / "__init__.py"


@pytest.mark.parametrize("package", PACKAGES)
def test_each_file_imports_what_its_package_may(package):
    folder = ROOT / package
    files = {str(path.relative_to(folder)): path for path in FILES if folder in path.parents}
    assert files
    found = {
        file: forbidden(package, file, path.read_text("utf-8")) for file, path in files.items()
    }
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("package", "file", "source", "name"),
    [
        ("models", "pca.py", "import numpy as np", "numpy"),
        ("models", "pca.py", "from guides.pca import PCAMeanField", "guides.pca.PCAMeanField"),
        ("models", "pca.py", "import random", "random"),
        ("guides", "pca.py", "from models.pca import pca", "models.pca.pca"),
        ("guides", "pca.py", "def f():\n    import pyro_cookbook", "pyro_cookbook"),
        ("guides", "pca.py", "from .mixture import MixtureMAP", "guides.mixture.MixtureMAP"),
        ("guides", "pca.py", "from guides import mixture", "guides.mixture"),
        ("pyro_cookbook", "fitting.py", "import models", "models"),
        ("pyro_cookbook", "__init__.py", "from guides import pca", "guides.pca"),
        ("pyro_cookbook", "catalogue/pca.py", "import tests.oracles", "tests.oracles"),
    ],
)
def test_a_wrong_import_is_found(package, file, source, name):
    assert forbidden(package, file, source) == [name]


@pytest.mark.parametrize(
    ("package", "file", "source"),
    [
        ("models", "pca.py", "import math\nimport torch\nfrom pyro.nn import PyroModule"),
        ("guides", "pca.py", "import pyro\nfrom guides._encoders import Encoder"),
        ("guides", "pca.py", "from . import _encoders"),
        ("guides", "pca.py", "from models._distributions import Wishart"),
        ("models", "pca.py", "from models._distributions import Wishart"),
        ("pyro_cookbook", "catalogue/pca.py", "import models.pca\nfrom .fitting import fit"),
        ("pyro_cookbook", "fitting.py", "import pyro\nfrom .catalogue import find"),
    ],
)
def test_a_right_import_is_not(package, file, source):
    assert forbidden(package, file, source) == []


def test_files_are_short():
    code = [path for path in FILES if "recipes" not in path.parts]  # those are mostly prose
    assert [path for path in code if is_long(path.read_text("utf-8"))] == []
    assert is_long("x = 1\n" * (MAX_LINES + 1))
    assert not is_long("x = 1\n" * MAX_LINES)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_come_from_this_repository(package):
    assert is_here(package)


def test_a_strangers_package_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "models", raising=False)
    assert not is_here("models")
