"""What a project of a regression by formula needs of its table."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pyro_cookbook.catalogue.topics.regression import Options
from pyro_cookbook.data import InputError, Table, load, read, recognise
from pyro_cookbook.formulas.syntax import columns_of


def check_formula(table: Table, options: Options) -> dict[str, Any]:
    """Put the formula on the table, and give the levels of an outcome of words in their order.

    Parameters
    ----------
    table : Table
    options : Options

    Returns
    -------
    dict
        ``"levels"``: a tuple of words, or None for an outcome of numbers. They are written down,
        since a text does not keep the order of categories.

    Raises
    ------
    InputError
        If formula, family and table do not go together, or words of the table look like numbers
        in a text.
    """
    design = options.design(table.frame)
    _check_words(table.frame, columns_of(options.formula))
    name, levels = design.response.name, design.response.levels
    words = table.frame.select_dtypes("category")
    is_word = name in words and set(words[name].cat.categories) >= set(levels)
    return {"levels": levels if options.levels or is_word else None}


def _check_words(frame: pd.DataFrame, names: list[str]) -> None:
    """Refuse words that a text cannot tell from numbers, truth values or gaps."""
    for name in names:
        column = frame[name]
        if not isinstance(column.dtype, pd.CategoricalDtype):
            continue
        told = f"words of column {name!r} do not look like words in a text"
        try:
            kind = recognise({name: column.astype(str)}).kinds[name]
        except InputError as error:
            raise InputError(f"--data: {told}: {error}") from error
        if kind != "category":
            raise InputError(f"--data: {told}: {column.iloc[0]!r} would be a {kind}; rename them")


def table_of_formula(
    options: Mapping[str, Any], source: str | None, outcome: str | None, reading: Mapping[str, Any]
) -> Table:
    """Read the columns that a formula names.

    Parameters
    ----------
    options : mapping
        Of the recipe, by name.
    source : str or None
        A path, or "-"; None for the recipe's own data.
    outcome : str, optional
        Refused: the formula has it.
    reading : mapping
        columns, exclude, missing, separator, decimal, encoding, header: as for `data.read`.

    Raises
    ------
    FileNotFoundError, InputError
        As `data.read`, or if the formula is missing, or an option has no meaning here.
    """
    if outcome is not None:
        raise InputError("--outcome: the formula names it, before ~; leave it out")
    for option in ("columns", "exclude"):
        if reading.get(option) is not None:
            raise InputError(f"--{option}: the formula says which columns; leave it out")
    if source is None:
        return load("diabetes")
    if "formula" not in options:
        raise InputError("--formula: expected one, as 'y ~ x + z + (1 | group)'")
    return read(source, **{**reading, "columns": columns_of(options["formula"])})
