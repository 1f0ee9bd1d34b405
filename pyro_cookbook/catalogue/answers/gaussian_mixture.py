"""What a Gaussian mixture says: topic 2, at the optimum of EM and fully Bayesian."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import special
from torch import Tensor

from models._distributions import Wishart
from models.gaussian_mixture import bayesian_gaussian_mixture
from pyro_cookbook.algorithms.gaussian_mixture import em
from pyro_cookbook.algorithms.gaussian_mixture.variational_bayes import (
    MixturePosterior,
    predictive_log_joint,
)
from pyro_cookbook.catalogue.answers.frames import (
    FEW,
    TAILS,
    Array,
    intervals,
    labels,
    log_units,
    numbers,
    of_draws,
    points,
    row_by_row,
    same_columns,
    units_of,
)
from pyro_cookbook.data import Table
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.programs.state.isolation import isolated

_NUM_DRAWS = 4000


def posterior(fit: Fit) -> MixturePosterior:
    """Read q(π) ∏_k q(μ_k, Λ_k) off the guide of the fully Bayesian mixture."""
    guide: Any = fit.guide
    return MixturePosterior(
        guide.weights_concentration.detach(),
        guide.loc_loc.detach(),
        guide.loc_precision.detach(),
        guide.precision_df.detach(),
        guide.precision_tril.detach(),
    )


def estimates(fit: Fit, table: Table) -> pd.DataFrame:
    """Say weights, means, sds and correlations of the components, in the units of the columns.

    With columns standardised by loc and scale: mean = loc + scale · μ and sd = scale · √Σ_dd.

    Parameters
    ----------
    fit : Fit
    table : Table
        Whose rows were fitted.

    Returns
    -------
    pandas.DataFrame
        Index ``weight[k]``, ``mean[k, column]``, ``sd[k, column]`` and ``correlation[k, column,
        column]``, the last only where there are at most 500 of them. Columns mean, sd, lower, upper
        and unit.

    Notes
    -----
    At the optimum of EM only ``mean`` is a number. Under variational Bayes weights, means and sds
    have their exact beta, Student and inverse-gamma marginals under q; correlations come from 4,000
    draws of it.
    """
    if fit.model is bayesian_gaussian_mixture:
        return _bayesian(posterior(fit), table)
    theta: Any = fit.model
    tril = numbers(theta.scale_tril)
    covariance = tril @ tril.swapaxes(1, 2)
    loc, scale = numbers(table.loc), numbers(table.scale)
    components = range(len(tril))
    units = units_of(table.columns, len(components))
    sd = np.sqrt(covariance.diagonal(axis1=1, axis2=2))
    lines = [
        points(labels("weight", components), numbers(theta.weights)),
        points(labels("mean", components, table.columns), loc + scale * numbers(theta.loc), units),
        points(labels("sd", components, table.columns), scale * sd, units),
    ]
    if names := _pairs(len(components), table.columns):
        lines.append(points(names, _correlations(covariance)))
    return pd.concat(lines)


def _pairs(num_components: int, columns: tuple[str, ...]) -> list[str]:
    """Name the correlations; none if there are too many to be read."""
    pairs = [f"{a}, {b}" for a, b in combinations(columns, 2)]
    names = labels("correlation", range(num_components), pairs)
    return names if len(names) <= FEW else []


def _correlations(covariance: Array) -> Array:
    """Correlations above the diagonal, shape (..., D (D − 1) / 2)."""
    sd = np.sqrt(covariance.diagonal(axis1=-2, axis2=-1))
    rows, columns = np.triu_indices(covariance.shape[-1], 1)
    found: Array = covariance[..., rows, columns] / (sd[..., rows] * sd[..., columns])
    return found


def _bayesian(q: MixturePosterior, table: Table) -> pd.DataFrame:
    from scipy import stats  # late: half a second, for one guide of one recipe

    loc, scale = numbers(table.loc), numbers(table.scale)
    components, columns = range(len(q.df)), table.columns
    units = units_of(columns, len(components))
    # Of an inverse-Wishart matrix: (Λ⁻¹)_dd = Ψ_dd / χ² with ν − D + 1 degrees of freedom.
    root = scale * np.sqrt(numbers(torch.cholesky_inverse(q.precision_tril)).diagonal(0, 1, 2))
    free = numbers(q.df)[:, None] - len(columns) + 1
    spread = root / np.sqrt(free * numbers(q.mean_precision)[:, None])
    mean = stats.t(free, loc + scale * numbers(q.loc), spread)
    lines = [
        _weights(labels("weight", components), numbers(q.concentration)),
        _of(mean, labels("mean", components, columns), units),
        _sds(labels("sd", components, columns), root, free, units),
    ]
    if names := _pairs(len(components), columns):
        with isolated(0), torch.no_grad():
            precision = Wishart(q.df, scale_tril=q.precision_tril).sample(torch.Size([_NUM_DRAWS]))
            covariance = numbers(torch.cholesky_inverse(torch.linalg.cholesky(precision)))
        lines.append(of_draws(names, _correlations(covariance).reshape(_NUM_DRAWS, -1)))
    return pd.concat(lines)


def _weights(names: list[str], alpha: Array) -> pd.DataFrame:
    """Lines of a Dirichlet's marginals; a single component has all the weight."""
    if len(alpha) == 1:
        return points(names, 1.0)
    from scipy import stats

    return _of(stats.beta(alpha, alpha.sum() - alpha), names, "")


def _of(marginal: Any, names: list[str], unit: str | list[str]) -> pd.DataFrame:
    lower, upper = (marginal.ppf(tail) for tail in TAILS)
    return intervals(names, marginal.mean(), marginal.std(), lower, upper, unit)


def _sds(names: list[str], root: Array, free: Array, units: list[str]) -> pd.DataFrame:
    """Lines of root / χ, χ with `free` degrees of freedom.

    E 1/χ = Γ((f − 1)/2) / (√2 Γ(f/2)) and E 1/χ² = 1 / (f − 2); infinite where f is not above 2.
    """
    from scipy import stats

    inverse = np.exp(special.gammaln((free - 1) / 2) - special.gammaln(free / 2)) / np.sqrt(2)
    with np.errstate(divide="ignore"):
        second = np.where(free > 2, 1 / (free - 2), np.inf)
    sd = np.sqrt(np.maximum(second - inverse**2, 0))
    lower, upper = (root / stats.chi.ppf(1 - tail, free) for tail in TAILS)
    return intervals(names, root * inverse, root * sd, lower, upper, units)


def apply(fit: Fit, new: Table) -> pd.DataFrame:
    """Say of every row which component it comes from, by the exact posterior given θ.

    Under variational Bayes θ is integrated over q: each component is then a Student's t, and the
    probabilities are those of a mixture of them (Bishop, 2006, equation 10.81). Given the very rows
    that were fitted they are close to the guide's, not equal: the guide has counted each row in.

    Parameters
    ----------
    fit : Fit
    new : Table
        Rows of the same columns, standardised as those of the fit were.

    Returns
    -------
    pandas.DataFrame
        A line for each row, in their order: ``P[k]`` of every component, ``component``, the
        likeliest, and ``log density``, in nats, of the row in its own units.
    """
    log_joint, num_components, num_features = _log_joint(fit)
    constant = log_units(new)

    def answer(part: Tensor) -> list[Tensor]:
        joint = log_joint(part)
        return [torch.softmax(joint, 1), torch.logsumexp(joint, 1) - constant]

    names = [*labels("P", range(num_components)), "log density"]
    frame = row_by_row(same_columns(new, new.v, num_features), names, answer)
    likeliest = frame.iloc[:, :num_components].to_numpy().argmax(1)
    frame.insert(num_components, "component", likeliest)
    return frame


def _log_joint(fit: Fit) -> tuple[Callable[[Tensor], Tensor], int, int]:
    """log p(v, h = k) as a function of rows, and the numbers of components and columns."""
    if fit.model is bayesian_gaussian_mixture:
        q = posterior(fit)
        return lambda v: predictive_log_joint(q, v), *q.loc.shape
    theta: Any = fit.model
    return lambda v: em.log_joint(theta, v), *theta.loc.shape
