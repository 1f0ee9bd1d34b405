"""What the density of maximum entropy says: topic 4b."""

import math
from typing import Any

import pandas as pd
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_cookbook.catalogue.answers.frames import (
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

# Where a flow is integrated, in the units of its logistic base: 1e-13 lies beyond either end.
_NUM_POINTS, _RANGE = 4001, 30.0


def _density(fit: Fit) -> Any:
    """Density of one value in each column: a normal or a spline flow, batch shape (D,)."""
    guide: Any = fit.guide
    if hasattr(guide, "density"):
        return guide.density().base_dist
    return dist.Normal(guide.h_loc, guide.h_scale)


def _moments(density: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, sd and entropy of every column: exact of a normal, by the trapezoid rule of a flow.

    With h = T(t) and t logistic, E f(h) = ∫ f(T(t)) σ′(t) dt.
    """
    if isinstance(density, torch.distributions.Normal):
        entropy = 0.5 * math.log(2 * math.pi * math.e) + density.scale.log()
        return density.loc, density.scale, entropy
    t = torch.linspace(-_RANGE, _RANGE, _NUM_POINTS, dtype=torch.float64)[:, None]
    weight = torch.sigmoid(t) * torch.sigmoid(-t) * float(t[1, 0] - t[0, 0])
    h = t.expand(-1, *density.batch_shape)
    for transform in density.transforms:
        h = transform(h)
    mean = (weight * h).sum(0)
    variance = (weight * (h - mean).square()).sum(0)
    return mean, variance.sqrt(), -(weight * density.log_prob(h)).sum(0)


@torch.no_grad()
def estimates(fit: Fit, table: Table) -> pd.DataFrame:
    """Say mean, sd and entropy of the density that was found, and the multipliers it was found at.

    With columns standardised by loc and scale: mean = loc + scale · E h, sd = scale · sd h, the
    entropy is larger by Σ log scale, and λ₁ x + λ₂ x² has λ₂ / scale² and λ₁ / scale − 2 λ₂ loc /
    scale² for its multipliers.

    Parameters
    ----------
    fit : Fit
    table : Table
        Whose rows were fitted.

    Returns
    -------
    pandas.DataFrame
        Index ``mean[column]``, ``sd[column]``, ``multiplier of x[column]``, ``multiplier of
        x²[column]``, and ``entropy`` of all columns together, in nats. Columns mean, sd, lower,
        upper and unit; the density has no posterior, so only ``mean`` is a number.
    """
    mean, sd, entropy = _moments(_density(fit))
    linear, quadratic = fit.kwargs["multipliers"]
    loc, scale, columns = table.loc, table.scale, table.columns
    of_square = quadratic / scale.square()
    return pd.concat(
        [
            points(labels("mean", columns), numbers(loc + scale * mean), units_of(columns)),
            points(labels("sd", columns), numbers(scale * sd), units_of(columns)),
            points(
                labels("multiplier of x", columns),
                numbers(linear / scale - 2 * of_square * loc),
                [f"per {column}" for column in columns],
            ),
            points(
                labels("multiplier of x²", columns),
                numbers(of_square),
                [f"per squared {column}" for column in columns],
            ),
            points(["entropy"], [float(entropy.sum()) + log_units(table)], "nats"),
        ]
    )


def apply(fit: Fit, new: Table) -> pd.DataFrame:
    """Say where rows lie in the density that was found, whose columns are independent.

    Parameters
    ----------
    fit : Fit
    new : Table
        Rows of the same columns, standardised as those of the fit were.

    Returns
    -------
    pandas.DataFrame
        A line for each row, in their order: ``P(below)[column]``, the probability of a value not
        above the row's, and ``log density``, in nats, of the row in its own units.
    """
    density = _density(fit)
    constant = log_units(new)

    def answer(part: Tensor) -> list[Tensor]:
        return [density.cdf(part), density.log_prob(part).sum(-1) - constant]

    v = same_columns(new, new.v, density.batch_shape[0])
    return row_by_row(v, [*labels("P(below)", new.columns), "log density"], answer)
