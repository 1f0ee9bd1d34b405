"""The list of recipes, read from the catalogue's sources without running them.

To run them takes torch, Pyro and ten times as long as a list may.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

_CATALOGUE = Path(__file__).parents[1] / "catalogue"
# What a list tells of a recipe, besides its guides: each is written out in its topic's file.
_FIELDS = ("name", "topic", "data", "default", "because", "learn")


@dataclass(frozen=True)
class Listed:
    """What is told of a recipe before it is run; fields as in `catalogue.Recipe`."""

    name: str
    topic: str
    data: str
    default: str
    because: str
    learn: str
    guides: tuple[str, ...]


@cache
def listed() -> tuple[Listed, ...]:
    """Read every recipe, in the catalogue's order.

    Examples
    --------
    >>> from pyro_cookbook.publish.listing import listed
    >>> listed()[0].name, listed()[0].guides
    ('01_inference_as_optimisation', ('map', 'mean_field', 'full_rank', 'amortized'))
    """
    recipes = assigned(_CATALOGUE / "__init__.py", "RECIPES")
    assert isinstance(recipes, ast.Tuple)
    return tuple(_of_topic(ast.unparse(entry).removesuffix(".RECIPE")) for entry in recipes.elts)


def notebooks() -> Mapping[str, str]:
    """Read what notebooks without a recipe are."""
    found: dict[str, str] = ast.literal_eval(assigned(_CATALOGUE / "__init__.py", "NOTEBOOKS"))
    return found


def _of_topic(topic: str) -> Listed:
    call = assigned(_CATALOGUE / "topics" / f"{topic}.py", "RECIPE")
    assert isinstance(call, ast.Call)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    told = {name: ast.literal_eval(given[name]) for name in _FIELDS}
    guides = given["guides"]
    assert isinstance(guides, ast.Dict)
    return Listed(**told, guides=tuple(ast.literal_eval(key) for key in guides.keys if key))


def assigned(path: Path, name: str) -> Any:
    """Find the expression that a file assigns to a name."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return node.value
    raise LookupError(f"{path.name}: nothing is assigned to {name}")


def print_recipes() -> None:
    """Print every recipe with its data and its guides."""
    table = RichTable()
    table.add_column("recipe", no_wrap=True)
    for name in ("topic", "data", "guides", "guide by default", "you learn"):
        table.add_column(name)
    for recipe in listed():
        default = f"[bold]{recipe.default}[/bold]: {recipe.because}"
        guides = ", ".join(recipe.guides)
        table.add_row(recipe.name, recipe.topic, recipe.data, guides, default, recipe.learn)
    out = console()
    out.print(table)
    for name, what in notebooks().items():
        out.print(f"{name}: {what}.", soft_wrap=True)


def console() -> Console:
    """Write tables whole where the output is a file, not a terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=140)
