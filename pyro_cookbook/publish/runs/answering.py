"""A recipe, or a regression by formula, from the command line: read, fit, write, print."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pyro_cookbook import catalogue
from pyro_cookbook.catalogue.topics.regression import Options
from pyro_cookbook.data import InputError
from pyro_cookbook.publish import console, outcome
from pyro_cookbook.publish.advising import as_typed
from pyro_cookbook.publish.runs import formula
from pyro_cookbook.publish.runs.folder import refuse_if_taken
from pyro_cookbook.publish.runs.page import page_of_outcome
from pyro_cookbook.publish.runs.streaming import streaming
from pyro_cookbook.publish.runs.writing import write_outcome

_BUDGET = 60.0  # seconds


def answer_formula(
    options: Mapping[str, Any],
    guide: str,
    table: Any,
    reading: Mapping[str, Any],
    out: Path | None,
    *,
    overwrite: bool,
    seed: int,
    draws: int,
    command: str,
) -> None:
    """Fit a regression by formula to a table, write its folder, and print what it says.

    Parameters
    ----------
    options : mapping
        Of the recipe, by name.
    guide : str
        "infer", or a family.
    table : path or None
        None: the recipe's own data.
    reading : mapping
        How the table is read: as for `data.read`.
    out : Path, optional
        The folder. Default: one in results.
    overwrite, seed, draws, command
        As for `write_outcome`.

    Raises
    ------
    InputError, OSError
        If something is wrong with the input, or the folder cannot be written.
    """
    if table is not None and "formula" not in options:
        raise InputError("--formula: expected one, as 'y ~ x + z + (1 | group)'")
    chosen = Options(**options)
    arguments = formula.read_columns(table, chosen.formula, reading)
    folder = out or Path("results") / f"regression-{guide}-{arguments.name}"
    asked = formula.wanted(arguments, options, guide, seed, draws)
    refuse_if_taken(folder, asked, overwrite=overwrite)
    console.print_understood(arguments.lines)
    torch.set_num_threads(1)
    started = time.perf_counter()
    found = formula.fit_formula(
        arguments.frame, chosen, guide, seed=seed, budget=_BUDGET, progress=None
    )
    seconds = time.perf_counter() - started
    formula.write_regression(
        found, arguments, folder, options=options, guide=guide, seed=seed, draws=draws,
        budget=_BUDGET, seconds=seconds, command=command, overwrite=overwrite,
    )  # fmt: skip
    assert found.diagnosis is not None  # it is fresh
    console.say(str(as_typed(found.diagnosis, folder)))
    for note in found.notes:
        console.say(f"Note: {note}")
    console.print_numbers(found.summary())
    console.say(f"Report: {folder / 'report.html'}")


def fit_recipe(
    recipe: catalogue.Recipe,
    guide: str | None,
    source: str | None,
    target: str | None,
    reading: Mapping[str, Any],
    patches: int | None,
    options: Mapping[str, Any],
    out: Path | None,
    *,
    overwrite: bool,
    seed: int,
    draws: int,
    command: str,
) -> None:
    """Fit a recipe to a table or to shards, write its folder, and print what it says.

    Parameters
    ----------
    recipe : Recipe
    guide : str, optional
        Default: the recipe's.
    source : path, optional
        None: the recipe's own data.
    target
        The outcome's column, as for `catalogue.table_for`.
    reading, patches
        As for `catalogue.table_for`.
    options : mapping
        Of the recipe, by name.
    out : Path, optional
        The folder. Default: one in results.
    overwrite, seed, draws, command
        As for `write_outcome`.

    Raises
    ------
    InputError, OSError
        If something is wrong with the input, or the folder cannot be written.
    """
    torch.set_num_threads(1)
    told = {**reading, "outcome": target, "patches": patches}
    streamed = streaming(recipe, guide, source, options, told, seed)
    guide = guide or recipe.default
    if streamed is None:
        loaded = catalogue.table_for(recipe, source, target, reading, patches)
    else:
        loaded, options = streamed.table, {**options, "shards": streamed.told}
    name = f"{recipe.name}-{guide}" + ("" if source is None else f"-{loaded.name}")
    folder = out or Path("results") / name
    asked = outcome.wanted(recipe, guide, loaded, options=options, seed=seed, num_draws=draws)
    refuse = partial(refuse_if_taken, folder, asked, overwrite=overwrite)
    if streamed is None:
        refuse()
    else:
        streamed.begin(refuse)
        if streamed.follows:
            streamed.help()
            return
    console.print_understood(() if source is None else loaded.understood.lines)
    done = outcome.run_guide(
        recipe, guide, loaded, folder.with_name(f"{folder.name}.unfinished"), options=options,
        seed=seed, num_draws=draws, progress=None, warn=lambda note: console.say(f"Note: {note}"),
        prepare=None if streamed is None else streamed.prepare,
    )  # fmt: skip
    page = page_of_outcome(done, folder, command=command)
    write_outcome(done, folder, command=command, report=page, overwrite=overwrite)
    console.print_outcomes([done])
    console.say(str(as_typed(done.diagnosis, folder)))
    console.print_numbers(done.estimates)
    if done.note:
        console.say(f"Note: {done.note}")
    console.say(f"Report: {folder / 'report.html'}")
