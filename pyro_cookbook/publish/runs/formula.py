"""A regression by formula on a reader's table: read, fitted, kept, applied to new rows."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from pyro_cookbook.catalogue.topics.regression import Options, as_regression
from pyro_cookbook.data import InputError, load, recognise
from pyro_cookbook.fits.keeping.checkpoint import digest
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.formulas.regression import GUIDES, Regression, regression
from pyro_cookbook.formulas.syntax import check_columns, columns_of
from pyro_cookbook.publish.own_model import Arguments, arguments_from, new_arguments
from pyro_cookbook.publish.runs.folder import Data, asked, write_run
from pyro_cookbook.publish.runs.writing import files_of, record_of, room_for

NAME = "regression"


def read_columns(source: Any, formula: str, reading: Mapping[str, Any]) -> Arguments:
    """Read the columns that a formula names, words as categories.

    Parameters
    ----------
    source : path, table or None
        None: the recipe's own data.
    formula : str
    reading : mapping
        missing, separator, decimal, encoding, header: as for `data.read`.

    Raises
    ------
    FileNotFoundError, InputError
        As `data.read`, or if the formula names what is not there.
    """
    wanted = columns_of(formula)
    unused: list[str] = []

    def choose(names: Sequence[str]) -> list[str]:
        check_columns(formula, wanted, names)
        unused[:] = [name for name in names if name not in wanted]
        return [name for name in names if name in wanted]

    for option in ("columns", "exclude"):
        if reading.get(option) is not None:
            raise InputError(f"--{option}: the formula says which columns; leave it out")
    given = {name: value for name, value in reading.items() if name not in {"columns", "exclude"}}
    if source is None:
        source, given = load("diabetes").frame, {"name": "diabetes"}
    return arguments_from(recognise(source, choose, **given), unused)


def fit_formula(
    frame: pd.DataFrame, options: Options, guide: str, *, seed: int, budget: float,
    progress: bool | None,
) -> Regression:  # fmt: skip
    """Fit; what a reader should know is in the result's notes, and not warned of.

    Raises
    ------
    InputError
        If formula, table, family and guide do not go together.
    """
    if guide not in GUIDES:
        raise InputError(f"--guide: got {guide!r}, expected one of {', '.join(GUIDES)}")
    levels = [one.strip() for one in options.levels.split(",")] if options.levels else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return regression(
            options.formula, frame, family=options.family, levels=levels, guide=guide,
            prior_scale=options.prior_scale, budget=budget, seed=seed, progress=progress,
        )  # fmt: skip


def wanted(
    arguments: Arguments, options: Mapping[str, Any], guide: str, seed: int, draws: int
) -> dict[str, Any]:
    """Collect what decides the numbers of a run."""
    return asked(NAME, {"guide": guide, **options}, seed, draws, digest(arguments.data))


def write_regression(
    found: Regression, arguments: Arguments, folder: Path, *, options: Mapping[str, Any],
    guide: str, seed: int, draws: int, budget: float, seconds: float, command: str,
    overwrite: bool = False,
) -> None:  # fmt: skip
    """Write the folder of a run."""
    columns = {name: arguments.levels.get(name) for name in arguments.data}
    data = Data(
        name=arguments.name, source=arguments.source, bundled=False,
        digest=digest(arguments.data), rows=len(arguments.frame), columns=len(columns),
        understood=arguments.lines,
    )  # fmt: skip
    assert found.diagnosis is not None  # it is fresh
    record = record_of(
        kind="regression", what=NAME, guide=guide, options={"guide": guide, **options}, seed=seed,
        draws=draws, budget=budget, command=command, data=data, schema_={"arguments": columns},
        fit=found.fit, diagnosis=found.diagnosis, seconds=seconds,
    )  # fmt: skip
    tree = tree_of(found, draws)
    from pyro_cookbook.publish.runs.page import page_of_regression  # late: new rows have none

    page = page_of_regression(found, arguments, tree, folder, command=command, seed=seed)
    files = files_of(found.fit, tree, found.summary(), arguments.frame, page)
    write_run(folder, files, record, overwrite=overwrite)


def tree_of(found: Regression, draws: int) -> xr.DataTree:
    """Lay the draws out, as many as were asked for; of chains all that there are."""
    return found.tree(**(room_for(found.fit, draws) or {"num_draws": draws}))


def kept_regression(
    fit: Fit, frame: pd.DataFrame, options: Mapping[str, Any], guide: str, verdict: str
) -> Regression:
    """Give a regression that was kept, as it was."""
    own = {name: value for name, value in options.items() if name != "guide"}
    return as_regression(Options(**own), frame, guide, fit, verdict)


def levels_of(frame: pd.DataFrame) -> dict[str, tuple[str, ...] | None]:
    """Give the words of each column that has words."""
    return {
        str(name): tuple(map(str, values.cat.categories))
        if isinstance(values.dtype, pd.CategoricalDtype)
        else None
        for name, values in frame.items()
    }


def predict_rows_of(
    kept: Regression, source: Any, levels: Mapping[str, Any], reading: Mapping[str, Any],
    *, unseen: Any, seed: int,
) -> tuple[pd.DataFrame, Any]:  # fmt: skip
    """Predict new rows; give them with their numbers in the source."""
    terms = kept.design.terms
    needed = set(terms.predictors)
    if isinstance(terms.trials, str):
        needed.add(terms.trials)
    asked_for = {name: words for name, words in levels.items() if name in needed}
    new = new_arguments(asked_for, source, known_only=False, **reading)
    return kept.predict(new.frame, unseen=unseen, seed=seed), new.rows
