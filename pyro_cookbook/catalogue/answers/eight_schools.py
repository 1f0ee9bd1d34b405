"""What the eight schools say: topic 4c."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_cookbook.catalogue.answers.frames import (
    FEW,
    TAILS,
    labels,
    numbers,
    of_draws,
    row_by_row,
    same_columns,
    units_of,
)
from pyro_cookbook.data import InputError, Table
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.state.isolation import isolated

_NUM_DRAWS = 20_000
# Draws of a new school's estimate, and rows that are predicted at a time.
_NUM_PREDICTED, _CHUNK_ROWS = 4000, 256


def _draws(fit: Fit) -> dict[str, Tensor]:
    """Draws of mu and tau, shape (S,), and of the schools' effects theta, shape (S, J)."""
    with isolated(0), torch.no_grad():
        found = draw(fit.programs.guide, _NUM_DRAWS).values
    mu, tau = found["mu"], found["tau"]
    theta = found["theta"] if "theta" in found else mu[:, None] + tau[:, None] * found["eta"]
    return {"mu": mu, "tau": tau, "theta": theta}


def estimates(fit: Fit, table: Table) -> pd.DataFrame:
    """Say the schools' common mean, their spread, and the effect of each.

    Parameters
    ----------
    fit : Fit
    table : Table
        Whose rows were fitted: standard errors and, last, estimates.

    Returns
    -------
    pandas.DataFrame
        Index ``mu``, ``tau`` and, of at most 500 schools, ``effect[j]``, μ + τ η_j in the
        non-centred form. Columns mean, sd, lower, upper and unit; of a point, only ``mean`` is a
        number.

    Notes
    -----
    Of 20,000 draws of the guide: means are known to 0.7% of an sd.
    """
    found = _draws(fit)
    unit = units_of(table.columns)[-1]
    common = torch.stack([found["mu"], found["tau"]], 1)
    lines = [of_draws(["mu", "tau"], numbers(common), unit)]
    schools = range(found["theta"].shape[1])
    if len(schools) <= FEW:
        lines.append(of_draws(labels("effect", schools), numbers(found["theta"]), unit))
    return pd.concat(lines)


def apply(fit: Fit, new: Table) -> pd.DataFrame:
    """Predict the effect of schools not seen, and what a study with their standard error would say.

    A school's effect is drawn from N(μ, τ²), its estimate from N(effect, σ²), with μ and τ from the
    guide. What a new school itself has found is not looked at.

    Parameters
    ----------
    fit : Fit
    new : Table
        Rows whose first column is the standard error σ; an estimate may follow.

    Returns
    -------
    pandas.DataFrame
        A line for each row, in their order: ``effect mean``, ``effect sd``, ``effect lower``,
        ``effect upper``, the same for every school; ``estimate mean``, ``estimate sd``, ``estimate
        lower`` and ``estimate upper``, which depend on σ. Intervals hold 89%.

    Raises
    ------
    InputError
        If a standard error is not positive.

    Notes
    -----
    From 20,000 draws of μ and τ, and 4,000 of an estimate, the same for every row: what is said of
    a row does not depend on the others.
    """
    sigma = _standard_errors(new)
    found = _draws(fit)
    rng = np.random.default_rng(0)
    mu, tau = numbers(found["mu"]), numbers(found["tau"])
    effect = mu + tau * rng.standard_normal(len(mu))
    variance = float(mu.var() + np.square(tau).mean())
    fixed = np.array([mu.mean(), variance**0.5, *np.quantile(effect, TAILS)])
    some = torch.as_tensor(effect[:_NUM_PREDICTED])
    noise = torch.as_tensor(rng.standard_normal(len(some)))
    tails = torch.tensor(TAILS).to(some)

    def answer(part: Tensor) -> list[Tensor]:
        ends = torch.quantile(some + part * noise, tails, dim=1).mT
        sd = (variance + part[:, 0].square()).sqrt()
        same = torch.as_tensor(fixed).expand(len(part), -1)
        return [same, same[:, :1], sd, ends]

    kinds: Any = ("mean", "sd", "lower", "upper")
    names = [f"{what} {kind}" for what in ("effect", "estimate") for kind in kinds]
    return row_by_row(sigma, names, answer, _CHUNK_ROWS)


def _standard_errors(new: Table) -> Tensor:
    if new.raw.shape[1] not in {1, 2}:
        same_columns(new, new.raw, 2)
    sigma = new.raw[:, :1]
    wrong = torch.nonzero(~(sigma[:, 0] > 0)).flatten()
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"--data: column {new.columns[0]!r} has the standard errors, which are positive; got"
            f" {float(sigma[row, 0]):g} in row {row}"
        )
    return sigma
