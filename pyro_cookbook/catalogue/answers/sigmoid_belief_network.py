"""What a sigmoid belief network says: topic 5a."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pyro_cookbook.algorithms.binary_sparse_coding.mean_field import CHUNK_NUMBERS, all_states
from pyro_cookbook.algorithms.wake_sleep.enumeration import log_joint
from pyro_cookbook.catalogue.answers.frames import (
    FEW,
    labels,
    numbers,
    points,
    row_by_row,
    same_columns,
)
from pyro_cookbook.catalogue.checks import zeros_and_ones
from pyro_cookbook.data import Table
from pyro_cookbook.fits.result import Fit


def estimates(fit: Fit, table: Table) -> pd.DataFrame:
    """Say how often a cause is on, and what it then adds to the log odds of the columns.

    Parameters
    ----------
    fit : Fit
    table : Table
        Whose rows were fitted.

    Returns
    -------
    pandas.DataFrame
        Index ``P(on)[k]``, σ(b_k); ``weight norm[k]``, the length of W_:k; ``P(1 | all
        off)[column]``, σ(c_d), and ``weight[k, column]``, W_dk, each where there are at most 500.
        Columns mean, sd, lower, upper and unit; θ is a point, so only ``mean`` is a number.
    """
    theta: Any = fit.model
    causes = range(len(theta.b))
    lines = [
        points(labels("P(on)", causes), numbers(torch.sigmoid(theta.b))),
        points(labels("weight norm", causes), numbers(theta.W.norm(dim=0)), "log odds"),
    ]
    if len(table.columns) <= FEW:
        off = numbers(torch.sigmoid(theta.c))
        lines.append(points(labels("P(1 | all off)", table.columns), off))
    if theta.W.numel() <= FEW:
        names = labels("weight", causes, table.columns)
        lines.append(points(names, numbers(theta.W.mT), "log odds"))
    return pd.concat(lines)


def apply(fit: Fit, new: Table) -> pd.DataFrame:
    """Infer the causes of rows, by a sum over all 2^K states: exact given θ, whatever the guide.

    Parameters
    ----------
    fit : Fit
    new : Table
        Rows of the same columns, of 0 and 1.

    Returns
    -------
    pandas.DataFrame
        A line for each row, in their order: ``P(h[k] = 1)`` of every cause; ``P(column)``, the
        probability of a 1 there given the causes that the row makes probable; ``log probability``,
        log p(v) in nats, which any guide's bound stays below.

    Raises
    ------
    InputError
        Naming the first value that is neither 0 nor 1.
    """
    theta: Any = fit.model
    num_features, num_units = theta.W.shape
    rows = same_columns(new, new.raw, num_features)
    zeros_and_ones(new, num_units)
    states = all_states(num_units).to(theta.W)
    seen = torch.sigmoid(states @ theta.W.mT + theta.c)

    def answer(part: Tensor) -> list[Tensor]:
        joint = log_joint(theta, part)
        posterior = torch.softmax(joint, 1)
        return [posterior @ states, posterior @ seen, torch.logsumexp(joint, 1)]

    names = [
        *(f"P(h[{k}] = 1)" for k in range(num_units)),
        *(f"P({column})" for column in new.columns),
        "log probability",
    ]
    return row_by_row(rows, names, answer, max(1, CHUNK_NUMBERS >> num_units))
