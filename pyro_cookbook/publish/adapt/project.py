"""`adapt`: a recipe as a small project that stands on its own."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from pyro_cookbook.catalogue import Recipe, recipe
from pyro_cookbook.catalogue.options import checked
from pyro_cookbook.data import InputError, Table, did_you_mean, load
from pyro_cookbook.publish.adapt import installed
from pyro_cookbook.publish.adapt.folder import check_dest, write_folder
from pyro_cookbook.publish.adapt.notebook import notebook, pieces
from pyro_cookbook.publish.adapt.particulars import PARTICULARS
from pyro_cookbook.publish.adapt.sources import (
    Definition,
    File,
    collect,
    first_sentence,
    modules,
    tidied,
)

# Numbers that the draws in a project's tree may fill; and so many draws are of use.
_TREE_SCALARS, _FEWEST_DRAWS, _MOST_DRAWS = 4e6, 100, 1000
_PYTHON = "3.12"
# What the template of fit.py sets for itself, and the others tell as well.
_SCRIPTS = ("what", "by_svi", "rows", "data", "reading", "shown", "more")


def adapt(
    recipe_name: str,
    dest: str | Path,
    *,
    guide: str | None = None,
    table: Table | None = None,
    size: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a recipe as a small project of its own: model, guide, script, notebook, test, data.

    The project runs by two commands, ``python fit.py`` and ``pytest``. It uses `pyro_cookbook` as a
    library, and has the sources of its model and guide in it, taken from the installed packages
    `models` and `guides`, which it does not import.

    Parameters
    ----------
    recipe_name : str
        A recipe, by its name or the beginning of it.
    dest : path
        A folder that is new or empty.
    guide : str, optional
        One of the recipe's guides. Default: the recipe's.
    table : Table, optional
        The data, an outcome last. Default: the recipe's bundled table.
    size : int, optional
        Number of factors, components or atoms. Default: the recipe's, or as many as the table
        allows.
    options : mapping of str to object, optional
        The recipe's own options by name, as ``{"formula": "y ~ x"}``. Default: those of its bundled
        table.

    Returns
    -------
    list of Path
        The files that are written.

    Raises
    ------
    InputError
        In one line, for an unknown recipe, guide or option, a table, a size or a value of an option
        that the recipe cannot take, or a `dest` that is a file, has anything in it or cannot be
        written to. Nothing is left half-written.

    Examples
    --------
    >>> from pyro_cookbook.publish.adapt import adapt
    >>> paths = adapt("04c_explaining_away", "causes", guide="full_rank")
    >>> [path.name for path in paths][:4]
    ['README.md', 'model.py', 'guide.py', 'fit.py']
    """
    chosen = recipe(recipe_name)
    name = _guide(chosen, guide)
    rows = load(chosen.data) if table is None else table
    given = checked(chosen.name, chosen.options, options)
    told = _Told(chosen, name, rows, table is None, _size(chosen, rows, size), given)
    chosen.check(rows, told.size)
    check_dest(Path(dest))
    return write_folder(_render(told), Path(dest))


def _guide(chosen: Recipe, guide: str | None) -> str:
    name = chosen.default if guide is None else guide
    if name not in chosen.guides:
        hint = did_you_mean(name, chosen.guides)
        raise InputError(f"--guide: got {name!r}, expected one of {', '.join(chosen.guides)}{hint}")
    return name


def _size(chosen: Recipe, table: Table, size: int | None) -> int:
    if not chosen.size_name:
        if size is not None:
            raise InputError(f"--size: {chosen.name} has nothing to count; leave it out")
        return chosen.size
    most = chosen.max_size(table.v)
    if size is None:
        return max(1, min(chosen.size, most))
    if not 1 <= size <= most:
        raise InputError(
            f"--size: got {size} {chosen.size_name}, expected 1 to {most} for {table.name!r}"
        )
    return size


@dataclass(frozen=True)
class _Told:
    """What was asked for."""

    recipe: Recipe
    guide: str
    table: Table
    is_bundled: bool
    size: int
    options: Any

    @property
    def summary(self) -> str:
        """Half a line about the guide."""
        return self.recipe.guides[self.guide].summary


def _render(told: _Told) -> dict[str, bytes]:
    """Make every file of a project, in memory: name → content."""
    entry = PARTICULARS[told.recipe.name]
    values = _values(told) | entry.values(told.table, told.options)
    script = _template(f"recipes/{entry.templates}.fit.j2").make_module(values)
    for name in _SCRIPTS:
        values[name] = getattr(script, name)
    fit = tidied(str(script))
    test = _template(f"recipes/{entry.templates}.test.j2").render(values)
    walk = _template("notebook.py.j2").render(values | pieces(fit))
    readme = _template("README.md.j2").render(values)
    files = {
        "README.md": re.sub(r"\n{3,}", "\n\n", readme),
        **_sources(told),
        "fit.py": fit,
        "notebook.ipynb": notebook(walk),
        "test_model.py": tidied(test),
        "data.csv": _csv(told.table, has_words=entry.has_words),
        "environment.yml": _template("environment.yml.j2").render(values),
    }
    if (text := installed.licence()) is not None:
        files["LICENSE"] = text
    return {name: content.encode() for name, content in files.items()}


def _template(name: str) -> Template:
    return _environment().get_template(f"adapt/{name}")


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("pyro_cookbook.publish"),
        autoescape=False,  # Python and Markdown, not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["literal"] = _literal
    return made


def _literal(value: str | float | Sequence[str] | None) -> str:
    """Write a value as Python source, words in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)


def _values(told: _Told) -> dict[str, Any]:
    """Tell the templates what was asked for, and how to say it."""
    entry, table, chosen = PARTICULARS[told.recipe.name], told.table, told.recipe
    pair = entry.pairs[told.guide]
    per_draw = table.v.numel() + len(table.v) * max(told.size, 1)
    requirement = installed.requirement()
    return {
        "recipe": chosen,
        "guide": told.guide,
        "summary": told.summary,
        "size": told.size,
        "options": {} if told.options is None else asdict(told.options),
        "has_words": entry.has_words,
        "guide_class": pair.guide.partition(".")[2],
        "model_name": pair.model.partition(".")[2],
        "num_draws": max(_FEWEST_DRAWS, min(_MOST_DRAWS, int(_TREE_SCALARS / per_draw))),
        "about": first_sentence(Definition.at(f"models.{pair.model}")),
        "guide_is": first_sentence(Definition.at(f"guides.{pair.guide}")),
        "point": told.guide == "map" or told.summary.startswith("a point"),
        "exact": entry.exact,
        "data_is": table.source if told.is_bundled else f"your table {table.name!r}",
        "is_bundled": told.is_bundled,
        "source": table.source,
        "columns": entry.columns,
        "licence": installed.licence() is not None,
        "requirement": requirement,
        "is_folder": requirement.startswith("-e ") or "file:" in requirement,
        "slug": chosen.model.replace(" ", "-").lower(),
        "python": _PYTHON,
    }


def _sources(told: _Told) -> dict[str, str]:
    """Put model.py and guide.py together."""
    pair = PARTICULARS[told.recipe.name].pairs[told.guide]
    model = collect([Definition.at(f"models.{pair.model}")])
    there = dict.fromkeys(model.definitions, "model")
    names = [pair.guide, *pair.more_guides]
    guide = collect([Definition.at(f"guides.{name}") for name in names], there)
    title = told.recipe.model[0].upper() + told.recipe.model[1:]
    return {
        "model.py": model.text(f"{title}: the generative story.\n\n{_origin(model)}"),
        "guide.py": guide.text(f"A guide for model.py: {told.summary}.\n\n{_origin(guide)}"),
    }


def _origin(file: File) -> str:
    """Say where a file is from, as its licence asks."""
    names = [module.replace(".", "/") + ".py" for module in modules(file)]
    return f"From the Pyro cookbook (Apache License 2.0):\n{', '.join(sorted(names))}.\n"


def _csv(table: Table, *, has_words: bool) -> str:
    """Write the rows in their own units, every number with the digits that give it back."""
    encoded = pd.DataFrame(table.raw.numpy(), columns=list(table.columns))
    frame = table.frame if has_words else encoded
    return frame.to_csv(index=False, lineterminator="\n")
