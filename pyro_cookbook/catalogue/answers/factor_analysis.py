"""What factor analysis says: topics 1 and 4d."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_cookbook.algorithms.factor_analysis import log_evidence, posterior
from pyro_cookbook.catalogue.answers.frames import (
    FEW,
    labels,
    log_units,
    numbers,
    points,
    row_by_row,
    same_columns,
    units_of,
)
from pyro_cookbook.data import Table
from pyro_cookbook.fits.result import Fit


def estimates(fit: Fit, table: Table) -> pd.DataFrame:
    """Say θ in the units of the columns: v = mean + loading · h + noise.

    With columns standardised by loc and scale: mean = loc + scale · b, loading = scale · W, noise
    sd = scale · ψ^½. The communality is the share of a column's variance that the factors explain,
    W Wᵀ / (W Wᵀ + Ψ). Unlike a loading it does not depend on how the factors are rotated.

    Parameters
    ----------
    fit : Fit
    table : Table
        Whose rows were fitted.

    Returns
    -------
    pandas.DataFrame
        Index ``mean[column]``, ``noise sd[column]``, ``communality[column]`` and
        ``loading[factor, column]``; of more than 500 loadings ``variance explained[factor]``
        instead, the sum of its squares over standardised columns. Columns mean, sd, lower, upper
        and unit; θ is a point, so only ``mean`` is a number.
    """
    theta: Any = fit.model
    W, b, sd = numbers(theta.W), numbers(theta.b), numbers(theta.scale.expand(len(theta.b)))
    loc, scale = numbers(table.loc), numbers(table.scale)
    columns, factors = table.columns, range(W.shape[1])
    explained = np.square(W)
    shared = explained.sum(1)
    if W.size <= FEW:
        units = units_of(columns, len(factors))
        of_factors = points(labels("loading", factors, columns), (scale[:, None] * W).T, units)
    else:
        of_factors = points(labels("variance explained", factors), explained.sum(0))
    return pd.concat(
        [
            points(labels("mean", columns), loc + scale * b, units_of(columns)),
            of_factors,
            points(labels("noise sd", columns), scale * sd, units_of(columns)),
            points(labels("communality", columns), shared / (shared + sd**2)),
        ]
    )


def apply(fit: Fit, new: Table) -> pd.DataFrame:
    """Infer the factors of rows, by the exact posterior given θ, whichever guide was fitted.

    Parameters
    ----------
    fit : Fit
    new : Table
        Rows of the same columns, standardised as those of the fit were.

    Returns
    -------
    pandas.DataFrame
        A line for each row, in their order: ``h[k] mean`` and ``h[k] sd`` of every factor, and
        ``log density``, in nats, of the row in its own units.
    """
    theta: Any = fit.model
    v = same_columns(new, new.v, len(theta.b))
    factors = range(theta.W.shape[1])
    names = [f"h[{k}] {what}" for k in factors for what in ("mean", "sd")]
    constant = log_units(new)

    def answer(part: Tensor) -> list[Tensor]:
        mean, covariance = posterior(theta, part)
        both = torch.stack([mean, covariance.diagonal().sqrt().expand_as(mean)], -1)
        return [both.flatten(1), log_evidence(theta, part) - constant]

    return row_by_row(v, [*names, "log density"], answer)
