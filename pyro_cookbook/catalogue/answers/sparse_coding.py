"""What sparse coding says: topics 3 and 5b."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pyro_cookbook.algorithms.sparse_coding import fista
from pyro_cookbook.catalogue.answers.frames import (
    FEW,
    labels,
    numbers,
    points,
    row_by_row,
    same_columns,
    units_of,
)
from pyro_cookbook.data import Table
from pyro_cookbook.fits.result import Fit

# As the recipe's own guide at the mode: a row is done when its gap is below so much of its J.
_TOL = 1e-6
# Rows by whose codes the use of the atoms is told.
_NUM_ROWS = 2000
_UNIT = "units of the columns"


def _codes(theta: Any, v: Tensor) -> Tensor:
    return fista.fista(theta, v, tol=_TOL).h


@torch.no_grad()
def estimates(fit: Fit, table: Table) -> pd.DataFrame:
    """Say which atoms the rows use, and how much.

    A dictionary is hundreds of pictures, not a list of numbers: of more than 500 entries of W none
    is listed. The use of an atom is told by the codes at the mode of at most 2,000 rows of the fit,
    evenly spread.

    Parameters
    ----------
    fit : Fit
    table : Table
        Whose rows were fitted.

    Returns
    -------
    pandas.DataFrame
        Index ``usage[k]``, the share of the rows in which the code of an atom is not 0; ``mean
        |code|[k]``; ``noise sd`` and ``rate``, λ, which are not learned; ``mean[column]``, b, and
        ``atom[k, column]``, where there are at most 500. Columns mean, sd, lower, upper and unit;
        the dictionary is a point, so only ``mean`` is a number.
    """
    theta: Any = fit.model
    rows = fit.args[0]
    h = _codes(theta, rows[:: -(-len(rows) // _NUM_ROWS)])
    atoms, W = range(h.shape[1]), numbers(theta.W)
    lines = [
        points(labels("usage", atoms), numbers((h != 0).to(h).mean(0))),
        points(labels("mean |code|", atoms), numbers(h.abs().mean(0)), _UNIT),
        points(["noise sd", "rate"], [theta.scale, theta.rate], [_UNIT, "per unit of the columns"]),
    ]
    if len(table.columns) <= FEW:
        b = numbers(theta.b)
        lines.append(points(labels("mean", table.columns), b, units_of(table.columns)))
    if W.size <= FEW:
        lines.append(points(labels("atom", atoms, table.columns), W.T))
    return pd.concat(lines)


def apply(fit: Fit, new: Table) -> pd.DataFrame:
    """Find the codes of rows at the mode, by FISTA with the dictionary of the fit.

    This is so whichever guide was fitted: the guides' own factors belong to the rows of the fit.

    Parameters
    ----------
    fit : Fit
    new : Table
        Rows of the same columns.

    Returns
    -------
    pandas.DataFrame
        A line for each row, in their order: ``h[k]`` of every atom, with exact zeros, in the units
        of the columns; ``reconstruction[column]``, W h + b; and ``reconstruction error``, the root
        of the mean square of what it misses, both in the units of the columns. A mode has no
        spread.
    """
    theta: Any = fit.model

    def answer(part: Tensor) -> list[Tensor]:
        return _reconstructed(theta, part, _codes(theta, part))

    rows = same_columns(new, new.raw, len(theta.b))
    return row_by_row(rows, _names(theta, new), answer)


def apply_encoder(fit: Fit, new: Table) -> pd.DataFrame:
    """Find the codes of rows by the encoder that was learned, with a certificate for each.

    Parameters
    ----------
    fit : Fit
        With an encoder for a guide. Where draws stand in its place, the codes are FISTA's.
    new : Table
        Rows of the same columns.

    Returns
    -------
    pandas.DataFrame
        As of `apply`, and last ``duality gap``: by at most so many nats a code's objective J is
        above the smallest possible.
    """
    theta: Any = fit.model
    guide: Any = fit.guide

    def answer(part: Tensor) -> list[Tensor]:
        h = guide.code(part) if hasattr(guide, "code") else _codes(theta, part)
        return [*_reconstructed(theta, part, h), fista.duality_gap(theta, part, h)]

    rows = same_columns(new, new.raw, len(theta.b))
    return row_by_row(rows, [*_names(theta, new), "duality gap"], answer)


def _names(theta: Any, new: Table) -> list[str]:
    codes = labels("h", range(theta.W.shape[1]))
    return [*codes, *labels("reconstruction", new.columns), "reconstruction error"]


def _reconstructed(theta: Any, v: Tensor, h: Tensor) -> list[Tensor]:
    """Codes, reconstructions, and their errors."""
    reconstruction = h @ theta.W.mT + theta.b
    return [h, reconstruction, (v - reconstruction).square().mean(1).sqrt()]
