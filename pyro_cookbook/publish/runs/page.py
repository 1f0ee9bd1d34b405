"""The page of one run: the verdict, the numbers in the reader's units, and what was understood."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pyro_cookbook.formulas.regression import Regression
from pyro_cookbook.publish.advising import as_typed
from pyro_cookbook.publish.figures import Picture, plot_estimates, plot_predictive
from pyro_cookbook.publish.outcome import Outcome
from pyro_cookbook.publish.own_model import Arguments
from pyro_cookbook.publish.report import draw_figures, encode, render
from pyro_cookbook.publish.runs.writing import room_for
from pyro_cookbook.verdict.diagnosis import Diagnosis
from pyro_cookbook.verdict.inference import Answer

_MOST_ROWS = 36  # of a table
_DRAWS = 1000  # of what is predicted for each row, where chains have given many more
# ArviZ's names of an interval's ends, as in "eti89_lb".
_ENDS = {"_lb": "lower", "_ub": "upper"}


@dataclass(frozen=True)
class Cells:
    """A table as text.

    Attributes
    ----------
    columns : list of str
    rows : list of (str, list of str)
        Name and cells.
    more : int
        Rows that are left out.
    """

    columns: list[str]
    rows: list[tuple[str, list[str]]]
    more: int


def page_of_outcome(outcome: Outcome, folder: Path, *, command: str) -> str:
    """Write the page of a recipe's run."""
    recipe, table = outcome.recipe, outcome.table
    size = {name: value for name, value in outcome.options.items() if value is not None}
    told = "".join(f", {name} {value}" for name, value in size.items())
    fitted, held = outcome.num_streamed, ""
    if fitted is not None:
        held = f" on the {len(table.v):,} rows held out"
    return _page(
        f"{recipe.title}",
        f"{fitted or len(table.v):,} rows and {len(table.columns)} columns of {table.name}"
        f"{held and ', judged'}{held}; guide"
        f" {outcome.guide}: {recipe.guides[outcome.guide].summary}{told}.",
        folder, table.name, outcome.diagnosis, outcome.estimates, draw_figures([outcome]),
        (*table.understood.lines, *outcome.warned),
        table.understood.table.set_index("column"), None,
        f"ELBO {outcome.fit.elbo} nats{held}. {'Of the rows fitted: ' if held else ''}"
        f"{outcome.fit.reason}. {outcome.note}".strip(),
        command=command, seed=outcome.seed, again=fitted is None,
    )  # fmt: skip


def page_of_answer(
    found: Answer, arguments: Arguments, estimates: pd.DataFrame, folder: Path, *, spec: str,
    command: str, seed: int,
) -> str:  # fmt: skip
    """Write the page of a reader's own model."""
    return _page(
        spec,
        f"{len(arguments.frame)} rows of {arguments.name}, as {', '.join(arguments.data)}.",
        folder, arguments.name, found.diagnosis, estimates, [plot_estimates(estimates)],
        arguments.lines, None, _tried(found), f"ELBO {found.fit.elbo} nats. {found.fit.reason}.",
        command=command, seed=seed, model=spec,
    )  # fmt: skip


def page_of_regression(
    found: Regression, arguments: Arguments, tree: xr.DataTree, folder: Path, *, command: str,
    seed: int,
) -> str:  # fmt: skip
    """Write the page of a regression by formula."""
    assert found.diagnosis is not None  # it is fresh
    family, estimates = found.design.family.name, found.summary()
    figures = [plot_estimates(estimates)]
    if "observed_data" in tree.children and "posterior_predictive" in tree.children:
        outcome = found.design.formula.partition("~")[0].strip()
        figures.append(plot_predictive(tree, found.guide, called=outcome))
    tried = None if found.answer is None else _tried(found.answer)
    return _page(
        "Regression by formula", f"{found.design.formula}, family {family}, {found.guide};"
        f" {len(arguments.frame)} rows of {arguments.name}.",
        folder, arguments.name, found.diagnosis, estimates, figures,
        (*arguments.lines, *found.notes), None, tried, f"{found.fit.reason}.",
        priors=found.priors(), command=command, seed=seed,
    )  # fmt: skip


def _tried(found: Answer) -> list[dict[str, str]]:
    return [
        {"rung": rung, "seconds": f"{seconds:.1f}", "family": family, "verdict": verdict}
        for rung, seconds, family, verdict in zip(
            found.tried.index, found.tried["seconds"], found.tried["family"],
            found.tried["verdict"], strict=True,
        )
    ]  # fmt: skip


def _page(
    heading: str, about: str, folder: Path, name: str, diagnosis: Diagnosis,
    estimates: pd.DataFrame, figures: Sequence[Picture], understood: Sequence[str],
    columns: pd.DataFrame | None, tried: Any, numbers: str, *, command: str, seed: int,
    model: str | None = None, priors: pd.DataFrame | None = None, again: bool = True,
) -> str:  # fmt: skip
    return render(
        "run.html.j2", heading=heading, about=about, folder=folder, data={"name": name},
        diagnosis=as_typed(diagnosis, folder, model), estimates=cells_of(estimates),
        figures=[(alt, encode(figure)) for alt, figure in figures],
        understood=[line.removesuffix(".") for line in understood],
        columns=None if columns is None else cells_of(columns), tried=tried, numbers=numbers,
        priors=None if priors is None else cells_of(priors),
        command=command, seed=seed, model_option="" if model is None else f" --model {model}",
        again=again,
    ).decode()  # fmt: skip


def cells_of(table: pd.DataFrame) -> Cells:
    """Write numbers with four digits, and a dash for what is not there."""
    shown = table.head(_MOST_ROWS)
    rows = [
        (str(name), [_cell(value) for value in row])
        for name, row in zip(shown.index, shown.itertuples(index=False), strict=True)
    ]
    names = [_ENDS.get(str(name)[-3:], str(name)) for name in table.columns]
    return Cells(names, rows, len(table) - len(shown))


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return "–"
    return f"{value:.4g}".replace("-", "−") if np.isfinite(value) else str(value)


def draws_of(found: Answer) -> xr.DataTree:
    """Give the draws of an answer, with which run they are of."""
    tree = found.tree(**room_for(found.fit, _DRAWS))
    tree.attrs.update(verdict=found.verdict)
    return tree
