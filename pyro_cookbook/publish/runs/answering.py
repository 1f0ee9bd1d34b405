"""A regression by formula from the command line: read, fit, write, print."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pyro_cookbook.catalogue.topics.regression import Options
from pyro_cookbook.data import InputError
from pyro_cookbook.publish import console
from pyro_cookbook.publish.advising import as_typed
from pyro_cookbook.publish.runs import formula
from pyro_cookbook.publish.runs.folder import refuse_if_taken

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
