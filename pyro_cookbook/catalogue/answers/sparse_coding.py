"""What sparse coding says: topics 3 and 5b."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from guides import sparse_coding as guides
from pyro_cookbook.algorithms.sparse_coding import fista, mean_field
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
    """Find the codes of rows at the mode, by FISTA with the fit's dictionary, and their spread.

    The factors of a guide belong to the rows of the fit. For other rows those of the same family
    are found anew: independent normals or Laplaces at the maximum of their bound, which is one and
    is reached to 1e-4 nats, in about a millisecond a row of 36 atoms. An encoder is asked.

    Parameters
    ----------
    fit : Fit
    new : Table
        Rows of the same columns.

    Returns
    -------
    pandas.DataFrame
        A line for each row, in their order: ``h[k]`` of every atom, the mode, with exact zeros, in
        the units of the columns; ``reconstruction[column]``, W h + b at the mode, and
        ``reconstruction error``, the root of the mean square of what it misses, both in the units
        of the columns. Under a guide with a spread also ``h[k] mean`` and ``h[k] sd``, and
        ``ELBO``, in nats, a bound on the log density of the row.
    """
    theta: Any = fit.model
    names = _names(theta, new)
    family = _family(fit.guide)
    if family:
        atoms = range(theta.W.shape[1])
        names += [f"h[{k}] {what}" for k in atoms for what in ("mean", "sd")] + ["ELBO"]

    def answer(part: Tensor) -> list[Tensor]:
        found = _reconstructed(theta, part, _codes(theta, part))
        if not family:
            return found
        loc, scale = _factors(fit, part, family)
        sd = mean_field.FAMILIES[family](loc, scale).variance.sqrt()
        both = torch.stack([loc, sd], -1).flatten(1)
        return [*found, both, mean_field.elbo(theta, part, loc, scale, family)]

    return row_by_row(same_columns(new, new.raw, len(theta.b)), names, answer)


def _family(guide: object) -> str:
    """Name the family of a guide's factors; "" of a point."""
    if isinstance(guide, guides.SparseCodingGaussian):
        return "normal"
    is_point = isinstance(guide, guides.SparseCodingAmortized) and guide.point
    kinds = guides.SparseCodingMeanField | guides.SparseCodingAmortized
    return "laplace" if isinstance(guide, kinds) and not is_point else ""


def _factors(fit: Fit, v: Tensor, family: str) -> tuple[Tensor, Tensor]:
    """Locations and scales of the factors of any rows, each of shape (n, K)."""
    guide: Any = fit.guide
    if isinstance(fit.guide, guides.SparseCodingAmortized):
        loc = guide.encoder(v)
        return loc, guide.h_scale.expand_as(loc)
    theta: Any = fit.model
    return mean_field.fit_rows(theta, v, family)


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
