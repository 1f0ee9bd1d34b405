"""What logistic regression says: topic 4c."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import ndtri
from torch import Tensor

from guides import logistic_regression as guides
from pyro_cookbook.algorithms.logistic_regression import design
from pyro_cookbook.catalogue.answers.frames import (
    TAILS,
    Array,
    intervals,
    labels,
    numbers,
    of_draws,
    of_normal,
    row_by_row,
    same_columns,
)
from pyro_cookbook.data import Table
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.state.isolation import isolated

# Draws where q is no Gaussian, as after `refine`.
_NUM_DRAWS = 4000
# Where a normal is integrated, in sds: the trapezoid rule, whose error falls faster than any power
# of the spacing.
_NUM_POINTS, _RANGE = 401, 8.0
# Rows at a time: for each there are hundreds of points, or thousands of draws.
_CHUNK_ROWS = 512


@torch.no_grad()
def _gaussian(guide: object) -> tuple[Tensor, Tensor] | None:
    """Mean and covariance of (a, β) under q, for standardised covariates.

    None if q is no Gaussian; a point has the covariance 0.
    """
    q: Any = guide
    if isinstance(guide, guides.LogisticRegressionFullRank):
        return q.loc, q.scale_tril @ q.scale_tril.mT
    if isinstance(guide, guides.LogisticRegressionMAP):
        loc = torch.cat([q.intercept_loc[None], q.coefficient_loc])
        return loc, torch.zeros(len(loc), len(loc)).to(loc)
    if isinstance(guide, guides.LogisticRegressionMeanField):
        scale = torch.cat([q.intercept_scale[None], q.coefficient_scale])
        return torch.cat([q.intercept_loc[None], q.coefficient_loc]), scale.square().diag()
    return None


def _draws(fit: Fit) -> Tensor:
    """Draws of (a, β) from q, shape (S, D + 1)."""
    with isolated(0), torch.no_grad():
        values = draw(fit.programs.guide, _NUM_DRAWS).values
    return torch.cat([values["intercept"][:, None], values["coefficient"]], 1)


def estimates(fit: Fit, table: Table) -> pd.DataFrame:
    """Say the coefficients per unit of their columns, and the intercept where all columns are 0.

    With covariates standardised by loc and scale the score a + Σ_d β_d (x_d − loc_d) / scale_d has
    the coefficients β_d / scale_d and the intercept a − Σ_d β_d loc_d / scale_d.

    Parameters
    ----------
    fit : Fit
    table : Table
        Whose rows were fitted, its last column the outcome.

    Returns
    -------
    pandas.DataFrame
        Index ``intercept``, ``coefficient[column]``, in log odds per unit of the column, and ``odds
        ratio[column]``, for a difference of one sd of the column, which the unit states: per unit
        it is no number to print where a column varies by thousandths. Columns mean, sd, lower,
        upper and unit; of a point, only ``mean`` is a number.

    Notes
    -----
    Exact marginals of a Gaussian q; 4,000 draws of any other.
    """
    scale = numbers(table.scale[:-1])
    slopes = numbers(table.loc[:-1]) / scale
    columns = table.columns[:-1]
    raw = np.diag(np.concatenate([[1.0], 1 / scale]))
    raw[0, 1:] = -slopes
    names = ["intercept", *labels("coefficient", columns)]
    units = ["log odds", *(f"log odds per {column}" for column in columns)]
    ratios = labels("odds ratio", columns)
    spans = [f"per {s:.4g} of {c}" for s, c in zip(scale, columns, strict=True)]
    gaussian = _gaussian(fit.guide)
    if gaussian is None:
        draws = numbers(_draws(fit))
        of_ratios = of_draws(ratios, np.exp(draws[:, 1:]), spans)
        return pd.concat([of_draws(names, draws @ raw.T, units), of_ratios])
    loc, covariance = map(numbers, gaussian)
    sd = np.sqrt(np.diagonal(raw @ covariance @ raw.T))
    own = np.sqrt(np.diagonal(covariance))[1:]
    return pd.concat([of_normal(names, raw @ loc, sd, units), _odds(ratios, loc[1:], own, spans)])


def _odds(names: list[str], loc: Array, sd: Array, unit: list[str]) -> pd.DataFrame:
    """Lines of exp of a normal; of a point, if its sd is 0."""
    mean = np.exp(loc + sd**2 / 2)
    is_point = sd == 0
    spread = np.where(is_point, np.nan, mean * np.sqrt(np.expm1(sd**2)))
    width = np.where(is_point, np.nan, sd)
    lower, upper = (np.exp(loc + ndtri(tail) * width) for tail in TAILS)
    return intervals(names, mean, spread, lower, upper, unit)


def apply(fit: Fit, new: Table) -> pd.DataFrame:
    """Predict the outcome of rows: its probability, averaged over q, with the interval of it.

    Parameters
    ----------
    fit : Fit
    new : Table
        Rows of the same covariates, standardised as those of the fit were; after them the outcome
        may stand, which is not looked at.

    Returns
    -------
    pandas.DataFrame
        A line for each row, in their order: ``P(outcome)``, with the name of the last column for
        the word where it is there; ``lower`` and ``upper``, between which the probability itself
        lies with 89%. A point has no interval: NaN.

    Notes
    -----
    Under a Gaussian q the score of a row is normal, so the interval is exact and the average an
    integral in one dimension; any other q has 4,000 draws.
    """
    num_covariates = fit.args[0].shape[1]
    has_outcome = new.v.shape[1] == num_covariates + 1
    v = same_columns(new, new.v[:, :-1] if has_outcome else new.v, num_covariates)
    name = new.columns[-1] if has_outcome else "outcome"
    gaussian = _gaussian(fit.guide)
    if gaussian is None:
        return _by_draws(v, name, _draws(fit))
    loc, covariance = gaussian
    z = torch.linspace(-_RANGE, _RANGE, _NUM_POINTS).to(loc)
    weight = torch.softmax(-z.square() / 2, 0)
    tails = torch.as_tensor(ndtri(TAILS)).to(loc)

    def answer(part: Tensor) -> list[Tensor]:
        x = design(part)
        score, sd = x @ loc, ((x @ covariance) * x).sum(1).clamp_min(0).sqrt()
        mean = torch.sigmoid(score[:, None] + sd[:, None] * z) @ weight
        ends = torch.sigmoid(score[:, None] + sd[:, None] * tails)
        return [mean, torch.where(sd[:, None] > 0, ends, torch.nan)]

    return row_by_row(v, [f"P({name})", "lower", "upper"], answer, _CHUNK_ROWS)


def _by_draws(v: Tensor, name: str, draws: Tensor) -> pd.DataFrame:
    tails = torch.tensor(TAILS).to(draws)

    def answer(part: Tensor) -> list[Tensor]:
        probability = torch.sigmoid(design(part) @ draws.mT)
        return [probability.mean(1), torch.quantile(probability, tails, dim=1).mT]

    return row_by_row(v, [f"P({name})", "lower", "upper"], answer, _CHUNK_ROWS)
