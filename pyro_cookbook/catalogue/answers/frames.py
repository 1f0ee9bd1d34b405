"""Frames that answers are made of: quantities with their intervals, and a line for every row."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from torch import Tensor

from pyro_cookbook.data import InputError, Table

Array = NDArray[np.float64]

# An interval holds 89% of the posterior, with as much below it as above.
LEVEL = 0.89
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
# A table of more numbers than this is told by its norms, and not number by number.
FEW = 500
# Rows of a chunk: what is computed on the way to an answer is in memory for so many at a time.
CHUNK_ROWS = 8192


# --- quantities ----------------------------------------------------------------------------------


def points(names: Sequence[str], values: ArrayLike, unit: str | Sequence[str] = "") -> pd.DataFrame:
    """Lines of learned parameters, which have no posterior: NaN in all but ``mean``.

    Parameters
    ----------
    names : sequence of str
    values : array_like
        As many numbers, in any shape; rows first.
    unit : str or sequence of str, default ""
        One for all, or one for each.

    Returns
    -------
    pandas.DataFrame
        Index `names`, columns mean, sd, lower, upper, unit.

    Examples
    --------
    >>> from pyro_cookbook.catalogue.answers.frames import points
    >>> points(["noise sd"], 0.5, "units of length")
               mean  sd  lower  upper             unit
    noise sd   0.5 NaN    NaN    NaN  units of length
    """
    mean = _flat(values)
    nothing = np.full(len(mean), np.nan)
    return intervals(names, mean, nothing, nothing, nothing, unit)


def intervals(
    names: Sequence[str],
    mean: ArrayLike,
    sd: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    unit: str | Sequence[str] = "",
) -> pd.DataFrame:
    """Lines of quantities whose mean, sd and interval are known; parameters as of `points`."""
    columns = {"mean": mean, "sd": sd, "lower": lower, "upper": upper}
    numbers = {name: _flat(value) for name, value in columns.items()}
    units = [unit] * len(names) if isinstance(unit, str) else list(unit)
    return pd.DataFrame({**numbers, "unit": units}, index=pd.Index(names))


def of_normal(
    names: Sequence[str], loc: ArrayLike, sd: ArrayLike, unit: str | Sequence[str] = ""
) -> pd.DataFrame:
    """Lines of quantities with normal posteriors; an sd of 0 is a point, which has none."""
    loc, sd = _flat(loc), _flat(sd)
    sd = np.where(sd > 0, sd, np.nan)
    lower, upper = (loc + ndtri(tail) * sd for tail in TAILS)
    return intervals(names, loc, sd, lower, upper, unit)


def of_draws(
    names: Sequence[str], draws: ArrayLike, unit: str | Sequence[str] = ""
) -> pd.DataFrame:
    """Lines of quantities known by draws, shape (S, quantities); one draw is a point."""
    values = np.asarray(draws, dtype=float)
    mean, sd = values.mean(0), values.std(0)
    lower, upper = np.quantile(values, TAILS, axis=0)
    is_point = values.min(0) == values.max(0)
    sd, lower, upper = (np.where(is_point, np.nan, one) for one in (sd, lower, upper))
    return intervals(names, np.where(is_point, values[0], mean), sd, lower, upper, unit)


def labels(name: str, *indices: Sequence[object]) -> list[str]:
    """Name every entry of an array: ``loading[0, ash]``, the last index running fastest.

    Examples
    --------
    >>> from pyro_cookbook.catalogue.answers.frames import labels
    >>> labels("mean", range(2), ["a", "b"])
    ['mean[0, a]', 'mean[0, b]', 'mean[1, a]', 'mean[1, b]']
    """
    inside = [""]
    for index in indices:
        inside = [f"{before}, {one}" if before else str(one) for before in inside for one in index]
    return [f"{name}[{one}]" for one in inside]


def units_of(columns: Sequence[str], times: int = 1) -> list[str]:
    """Say that quantities have the units of their columns, `times` times over."""
    return [f"units of {column}" for column in columns] * times


def numbers(values: Tensor) -> Array:
    """Turn a tensor into an array of float64."""
    return np.asarray(values.detach().cpu().numpy(), dtype=float)


def _flat(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=float).ravel()


# --- rows ----------------------------------------------------------------------------------------


@torch.no_grad()
def row_by_row(
    rows: Tensor,
    names: Sequence[str],
    answer: Callable[[Tensor], Sequence[Tensor]],
    chunk_rows: int = CHUNK_ROWS,
) -> pd.DataFrame:
    """Make a frame with a line for every row, in their order, chunk by chunk.

    Parameters
    ----------
    rows : Tensor
        Shape (n, D).
    names : sequence of str
        Of the frame's columns.
    answer : callable
        From some of the rows, shape (m, D), to tensors of shape (m,) or (m, columns) that stand
        side by side under `names`.
    chunk_rows : int
        The largest m.
    """
    found = np.empty((len(rows), len(names)))
    for first in range(0, len(rows), chunk_rows):
        part = rows[first : first + chunk_rows]
        side_by_side = [value.reshape(len(part), -1) for value in answer(part)]
        found[first : first + len(part)] = numbers(torch.cat(side_by_side, 1))
    return pd.DataFrame(found, columns=list(names))


def same_columns(new: Table, rows: Tensor, expected: int) -> Tensor:
    """Give the rows back, if they have as many columns as those of the fit.

    Raises
    ------
    InputError
        If they have not.
    """
    if rows.shape[1] != expected:
        raise InputError(
            f"--data: {new.name!r} has {len(new.columns)} columns ({', '.join(new.columns)}),"
            f" expected the {expected} of the fit"
        )
    return rows


def log_units(table: Table) -> float:
    """Σ_d log scale_d: what a log density of standardised columns exceeds that of the raw by."""
    return float(table.scale.log().sum())
