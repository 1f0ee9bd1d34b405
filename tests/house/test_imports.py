"""Who may import whom: one table, and the rules that keep the house quick and easy to read."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "pyro_cookbook"
TOPICS = ("models", "guides")
MAX_LINES, MAX_FILES = 400, 12

# Room → the rooms and packages it may import from, besides itself. Every permission is used.
MAY_IMPORT = {
    "programs": set(),
    "data": set(),
    "engines": {"programs"},
    "algorithms": {"programs"},
    "fits": {"programs", "engines"},
    "posterior": {"programs", "fits"},
    "formulas": {"programs", "data", "fits", "posterior", "verdict", "models"},
    "catalogue": {"programs", "data", "algorithms", "fits", "formulas", "models", "guides"},
    "verdict": {"programs", "fits", "posterior"},
    "estimators": {"programs", "data", "algorithms", "fits", "verdict", "models", "guides"},
    "publish": {"data", "catalogue", "fits", "formulas", "posterior", "verdict"},
}
DOORS = {"__init__", "__main__", "cli", "doctor"}  # may import any room
# Slow to import: in rooms that a fit passes through, only inside a function.
SLOW = {"arviz", "arviz_stats", "arviz_plots", "xarray", "pandas", "matplotlib"}
QUICK_ROOMS = {"programs", "engines", "fits"}
# Library → the rooms that may use it.
ONLY_IN = {"sklearn": {"data", "estimators"}, "matplotlib": {"publish"}}
# What topics may import from the standard library: words for types and formulas, nothing that acts.
PURE = {"__future__", "collections", "dataclasses", "functools", "itertools", "math", "typing"}


def room_of(path: Path) -> str:
    parts = path.relative_to(HOUSE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(source: str, *, top_level: bool = False) -> Iterator[str]:
    """Yield the full name of everything imported; relative imports have a leading dot."""
    tree = ast.parse(source)
    for node in outside_functions(tree) if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs on import: no function bodies, no TYPE_CHECKING blocks."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from outside_functions(node)


def rooms_imported(room: str, source: str) -> set[str]:
    """Rooms, topics and outer folders that a file imports, its own room left out."""
    found = set()
    for name in imports(source):
        top, *rest = name.split(".")
        if top == "pyro_cookbook" and rest:
            found.add(rest[0])
        elif top in {*TOPICS, "recipes", "tests", "benchmarks"} or not top:
            found.add(top)
    return found - {room}


def private_names(source: str) -> list[str]:
    """Underscored names taken from another file of the house, by import or as an attribute."""
    tree = ast.parse(source)
    found, modules = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyro_cookbook"):
            found += [a.name for a in node.names if a.name.startswith("_")]
            modules |= {a.asname or a.name for a in node.names if a.name.islower()}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in modules
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
        ):
            found.append(f"{node.value.id}.{node.attr}")
    return found


def forbidden(package: str, file: str, source: str) -> list[str]:
    """Return what a model or a guide imports against the rule of topics."""
    names = [name.replace("..", f"{package}.").lstrip(".") if name[0] != "." else
             f"{package}.{name.lstrip('.')}" for name in imports(source)]  # fmt: skip
    return [
        name
        for name in names
        if name.split(".")[0] not in PURE | {"torch", "pyro"}
        and not name.startswith((f"{package}._", "models._"))  # what both kinds of topic share
    ]


FILES = {path: path.read_text("utf-8") for path in sorted(HOUSE.rglob("*.py"))}


def test_the_rooms_are_those_of_the_table():
    rooms = {p.parent.name for p in HOUSE.glob("*/__init__.py")}
    assert rooms == set(MAY_IMPORT)
    assert {path.stem for path in HOUSE.glob("*.py")} == DOORS


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_what_it_may_and_all_of_it(room):
    used: dict[str, set[str]] = {}
    for path, source in FILES.items():
        if room_of(path) == room:
            for other in rooms_imported(room, source):
                used.setdefault(other, set()).add(str(path.relative_to(HOUSE)))
    assert {other: files for other, files in used.items() if other not in MAY_IMPORT[room]} == {}
    assert MAY_IMPORT[room] - set(used) == set(), "a permission that nobody uses"


def test_doors_import_rooms_only():
    outside = {*TOPICS, "recipes", "tests", "benchmarks", ""}
    for door in DOORS:
        assert rooms_imported(door, FILES[HOUSE / f"{door}.py"]) & outside == set()


def test_no_private_name_crosses_a_file():
    found = {str(p.relative_to(HOUSE)): private_names(source) for p, source in FILES.items()}
    assert {file: names for file, names in found.items() if names} == {}


def test_slow_libraries_wait_until_they_are_used():
    found = {
        (str(path.relative_to(HOUSE)), name.split(".")[0])
        for path, source in FILES.items()
        if room_of(path) in QUICK_ROOMS
        for name in imports(source, top_level=True)
    }
    assert {(file, name) for file, name in found if name in SLOW} == set()


# What draws, fits or judges, and takes up to a second to import each.
NOT_FOR_NEW_ROWS = (
    "arviz_plots", "arviz_stats", "jupytext", "matplotlib.pyplot", "scipy.optimize", "scipy.stats",
    "sklearn",
)  # fmt: skip


def test_new_rows_and_projects_need_nothing_that_draws_or_judges():
    doing = "from pyro_cookbook.publish.runs import predicting; import pyro_cookbook.publish.adapt"
    code = f"import sys; {doing}; print(*({{*{NOT_FOR_NEW_ROWS!r}, 'torch'}} & {{*sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["torch"], done.stderr


def test_some_libraries_are_used_in_some_rooms_only():
    used: dict[str, set[str]] = {library: set() for library in ONLY_IN}
    for path, source in FILES.items():
        for name in imports(source):
            if (library := name.split(".")[0]) in used and room_of(path):
                used[library].add(room_of(path))
    assert used == ONLY_IN, "every permission is used, and no other"


def test_no_topic_of_the_catalogue_imports_another():
    for path in (HOUSE / "catalogue" / "topics").glob("*.py"):
        names = list(imports(FILES[path]))
        assert [n for n in names if n.startswith("pyro_cookbook.catalogue.topics")] == [], path.name


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_has_few_files(room):
    inside = (p for p in (HOUSE / room).iterdir() if p.is_dir() and p.name != "topics")
    for folder in (HOUSE / room, *inside):
        assert len([p for p in folder.glob("*.py") if p.stem != "__init__"]) <= MAX_FILES, folder


@pytest.mark.parametrize("package", TOPICS)
def test_topics_import_what_they_may(package):
    files = {p.name: p.read_text("utf-8") for p in (ROOT / package).rglob("*.py")}
    assert files
    files["__init__.py"] = re.sub(
        r"^import (os|sys)$", "", files["__init__.py"], flags=re.MULTILINE
    )
    found = {file: forbidden(package, file, source) for file, source in files.items()}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("package", "source", "name"),
    [
        ("models", "import numpy as np", "numpy"),
        ("models", "from guides.pca import PCAMeanField", "guides.pca.PCAMeanField"),
        ("models", "import random", "random"),
        ("guides", "from models.pca import pca", "models.pca.pca"),
        ("guides", "def f():\n    import pyro_cookbook", "pyro_cookbook"),
        ("guides", "from .mixture import MixtureMAP", "guides.mixture.MixtureMAP"),
        ("guides", "from guides import mixture", "guides.mixture"),
    ],
)
def test_a_wrong_import_of_a_topic_is_found(package, source, name):
    assert forbidden(package, "pca.py", source) == [name]


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("models", "import math\nimport torch\nfrom pyro.nn import PyroModule"),
        ("guides", "import pyro\nfrom guides._encoders import Encoder"),
        ("guides", "from . import _encoders"),
        ("guides", "from models._distributions import Wishart"),
        ("models", "from models._distributions import Wishart"),
    ],
)
def test_a_right_import_of_a_topic_is_not(package, source):
    assert forbidden(package, "pca.py", source) == []


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("from pyro_cookbook.engines.svi import SVI", {"engines"}),
        ("from pyro_cookbook.engines import families\nimport torch", {"engines"}),
        ("def f():\n    import pyro_cookbook.verdict.advice", {"verdict"}),
        ("from models.pca import pca\nimport tests.build", {"models", "tests"}),
        ("from . import nuts", {""}),
        ("from pyro_cookbook.fits.result import Fit", set()),
    ],
)
def test_imported_rooms_are_seen(source, rooms):
    assert rooms_imported("fits", source) == rooms


def test_private_and_slow_imports_are_seen():
    assert private_names("from pyro_cookbook.fits.result import _name") == ["_name"]
    both = "from pyro_cookbook.engines import bound\nbound._error(1)\nbound.__doc__"
    assert private_names(both) == ["bound._error"]
    slow = "import numpy\nif TYPE_CHECKING:\n    import pandas\ndef f():\n    import xarray"
    assert list(imports(slow, top_level=True)) == ["numpy"]
    assert list(imports("class A:\n    import pandas", top_level=True)) == ["pandas"]


def is_long(source: str) -> bool:
    return len(source.splitlines()) > MAX_LINES


def test_files_are_short():
    folders = [f for f in ROOT.iterdir() if f.is_dir() and f.name[0] != "."]
    paths = [
        path
        for folder in folders
        if folder.name not in {"build", "results", "recipes"}  # recipes are mostly prose
        for path in folder.rglob("*.py")
    ]
    assert [path for path in paths if is_long(path.read_text("utf-8"))] == []
    assert is_long("x = 1\n" * (MAX_LINES + 1))
    assert not is_long("x = 1\n" * MAX_LINES)


def is_here(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and Path(str(spec.origin)) == ROOT / package / "__init__.py"


@pytest.mark.parametrize("package", [*TOPICS, "pyro_cookbook"])
def test_packages_come_from_this_repository(package):
    assert is_here(package)


def test_a_strangers_package_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "models", raising=False)
    assert not is_here("models")
