"""What binary sparse coding says: topic 4a."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_cookbook.algorithms.binary_sparse_coding.mean_field import (
    CHUNK_NUMBERS,
    all_states,
    log_joint,
)
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

_UNIT = "units of the columns"


def estimates(fit: Fit, table: Table) -> pd.DataFrame:
    """Say how often a unit is on, and what it then adds to a row.

    Parameters
    ----------
    fit : Fit
    table : Table
        Whose rows were fitted.

    Returns
    -------
    pandas.DataFrame
        Index ``P(on)[k]``, σ(b_k); ``atom norm[k]``, the length of W_:k; ``noise sd``; and
        ``atom[k, column]`` where there are at most 500. Columns mean, sd, lower, upper and unit; θ
        is a point, so only ``mean`` is a number.
    """
    theta: Any = fit.model
    W = numbers(theta.W)
    units = range(W.shape[1])
    lines = [
        points(labels("P(on)", units), numbers(torch.sigmoid(theta.b))),
        points(labels("atom norm", units), np.linalg.norm(W, axis=0), _UNIT),
        points(["noise sd"], numbers(theta.scale), _UNIT),
    ]
    if W.size <= FEW:
        names = labels("atom", units, table.columns)
        lines.append(points(names, W.T, units_of(table.columns, len(units))))
    return pd.concat(lines)


def apply(fit: Fit, new: Table) -> pd.DataFrame:
    """Infer the switches of rows, by a sum over all 2^K states: exact given θ, whatever the guide.

    Parameters
    ----------
    fit : Fit
    new : Table
        Rows of the same columns.

    Returns
    -------
    pandas.DataFrame
        A line for each row, in their order: ``P(h[k] = 1)`` of every unit;
        ``reconstruction[column]``, the posterior mean of W h, and ``reconstruction error``, the
        root of the mean square of what it misses, both in the units of the columns; ``log
        density``, log p(v) in nats.
    """
    theta: Any = fit.model
    num_features, num_units = theta.W.shape
    states = all_states(num_units).to(theta.W)

    def answer(part: Tensor) -> list[Tensor]:
        joint = log_joint(theta, part)
        on = torch.softmax(joint, 1) @ states
        reconstruction = on @ theta.W.mT
        error = (part - reconstruction).square().mean(1).sqrt()
        return [on, reconstruction, error, torch.logsumexp(joint, 1)]

    names = [
        *(f"P(h[{k}] = 1)" for k in range(num_units)),
        *labels("reconstruction", new.columns),
        "reconstruction error",
        "log density",
    ]
    rows = same_columns(new, new.raw, num_features)
    return row_by_row(rows, names, answer, max(1, CHUNK_NUMBERS >> num_units))
