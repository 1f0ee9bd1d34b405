"""`adapt` as the command line asks for it: options in words, and a table to be read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_cookbook.catalogue import Recipe, read_options, recipe, table_for
from pyro_cookbook.data import InputError, Table
from pyro_cookbook.publish.adapt.formula import table_of_formula
from pyro_cookbook.publish.adapt.particulars import PARTICULARS
from pyro_cookbook.publish.adapt.project import adapt


def adapt_as_asked(
    recipe_name: str,
    dest: str | Path,
    words: Sequence[str],
    *,
    guide: str | None = None,
    source: str | None = None,
    outcome: str | None = None,
    **reading: Any,
) -> list[Path]:
    """Read what was asked for, and write the project.

    Parameters
    ----------
    recipe_name, dest, guide
        As for `adapt`.
    words : sequence of str
        The recipe's own options, as ``["--components", "5"]``.
    source : str, optional
        A table: a path, or "-". Default: the recipe's own.
    outcome : str, optional
        The column that the others explain. Default: the last.
    **reading
        columns, exclude, missing, separator, decimal, encoding, header: as for `data.read`.

    Returns
    -------
    list of Path
        The files that are written.

    Raises
    ------
    FileNotFoundError, InputError
        As `data.read` and `adapt`, or if an option has no meaning here.
    """
    chosen = recipe(recipe_name)
    options = read_options(chosen, words)
    size = options.pop("size", None)
    table = _table(chosen, source, outcome, reading, options)
    return adapt(chosen.name, dest, guide=guide, table=table, size=size, options=options)


def _table(
    chosen: Recipe,
    source: str | None,
    outcome: str | None,
    reading: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Table | None:
    """Read the table; None for the recipe's own."""
    if source is None:
        if outcome is not None:
            raise InputError("--outcome: it is about --data, which is not given")
        table_for(chosen, source, outcome, reading)  # what else is about a table is refused
        return None
    if PARTICULARS[chosen.name].has_words:
        return table_of_formula(options, source, outcome, reading)
    return table_for(chosen, source, outcome, reading)
