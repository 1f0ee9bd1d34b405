"""What explaining away says: topic 4c."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_cookbook.algorithms.explaining_away import (
    log_evidence,
    posterior,
    posterior_correlation,
)
from pyro_cookbook.catalogue.answers.frames import (
    labels,
    numbers,
    points,
    row_by_row,
    same_columns,
    units_of,
)
from pyro_cookbook.data import Table
from pyro_cookbook.fits.result import Fit


def estimates(fit: Fit, table: Table) -> pd.DataFrame:
    """Say how strong the causes are, and how they depend on each other once the sum is known.

    Parameters
    ----------
    fit : Fit
    table : Table
        Whose rows were fitted: one column, the sum.

    Returns
    -------
    pandas.DataFrame
        Index ``strength[k]``, w_k, what one sd of a cause adds to the sum; ``noise sd``, which is
        1; and of the exact posterior, whatever the sum, ``sd given the sum[k]``, in prior sds of
        the cause, and ``correlation given the sum[j, k]``. Columns mean, sd, lower, upper and unit;
        w is a point, so only ``mean`` is a number.
    """
    theta: Any = fit.model
    w = theta.w.detach()
    causes, unit = range(len(w)), units_of(table.columns)[0]
    sd = numbers(posterior(w, w.new_zeros(1, 1))[1].diagonal().sqrt())
    upper = np.triu_indices(len(w), 1)
    pairs = [f"{j}, {k}" for j, k in combinations(causes, 2)]
    lines = [
        points(labels("strength", causes), numbers(w), unit),
        points(["noise sd"], [1.0], unit),
        points(labels("sd given the sum", causes), sd),
    ]
    if pairs:
        correlation = numbers(posterior_correlation(w))[upper]
        lines.append(points(labels("correlation given the sum", pairs), correlation))
    return pd.concat(lines)


def apply(fit: Fit, new: Table) -> pd.DataFrame:
    """Infer the causes of sums, by the exact posterior given their strengths, whatever the guide.

    Parameters
    ----------
    fit : Fit
    new : Table
        Rows of one column, the sum.

    Returns
    -------
    pandas.DataFrame
        A line for each row, in their order: ``h[k] mean`` and ``h[k] sd`` of every cause, in its
        prior sds, and ``log density``, log p(v) in nats. The causes are correlated given the sum,
        alike in every row: `estimates` says how much.
    """
    theta: Any = fit.model
    w = theta.w.detach()
    names = [f"h[{k}] {what}" for k in range(len(w)) for what in ("mean", "sd")]

    def answer(part: Tensor) -> list[Tensor]:
        mean, covariance = posterior(w, part)
        both = torch.stack([mean, covariance.diagonal().sqrt().expand_as(mean)], -1)
        return [both.flatten(1), log_evidence(w, part)]

    return row_by_row(same_columns(new, new.raw, 1), [*names, "log density"], answer)
