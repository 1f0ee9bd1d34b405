"""What a variational auto-encoder says: topic 5c."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_cookbook.algorithms.variational_autoencoder.refinement import (
    base_draws,
    elbo,
    fit_rows,
)
from pyro_cookbook.catalogue.answers.frames import (
    CHUNK_ROWS,
    FEW,
    labels,
    log_units,
    numbers,
    points,
    row_by_row,
    same_columns,
    units_of,
)
from pyro_cookbook.catalogue.checks import zeros_and_ones
from pyro_cookbook.data import InputError, Table
from pyro_cookbook.fits.result import Fit

# Base draws of a row's bound, the same for every row.
_NUM_DRAWS, _SEED = 32, 1
# Numbers that the decoder gives for a chunk of rows, all draws together.
_CHUNK_NUMBERS = 2**23
# A latent is in use if its mean moves by more than this between rows, as a variance.
_ACTIVE = 0.01


def _infer(fit: Fit, v: Tensor) -> tuple[Tensor, Tensor]:
    """Means and sds of the latents of any rows: the encoder's, or found row by row."""
    guide: Any = fit.guide
    if hasattr(guide, "encode"):
        loc, scale = guide.encode(v)
        return loc, scale
    return fit_rows(fit.model, v)  # type: ignore[arg-type]


@torch.no_grad()
def estimates(fit: Fit, table: Table) -> pd.DataFrame:
    """Say which latents are in use, and how much noise the decoder leaves.

    The weights of a network are no list to be read. A latent whose posterior mean does not move
    from row to row is ignored by the decoder (*collapse*).

    Parameters
    ----------
    fit : Fit
    table : Table
        Whose rows were fitted.

    Returns
    -------
    pandas.DataFrame
        Index ``activity[k]``, the variance over the rows of the posterior mean; ``KL[k]``, in nats,
        the mean over the rows of what the posterior of a latent differs from the prior; ``active
        latents``, of activity above 0.01; and with the Gaussian likelihood ``noise sd[column]``, of
        at most 500 columns. Columns mean, sd, lower, upper and unit; all are points, so only
        ``mean`` is a number.

    References
    ----------
    Burda, Grosse and Salakhutdinov (2016), arXiv:1509.00519, section 5, for the activity.
    """
    model: Any = fit.model
    guide: Any = fit.guide
    # Of the rows of the fit a guide with a factor for each has them already.
    own = hasattr(guide, "h_loc")
    loc, scale = (guide.h_loc, guide.h_scale) if own else _infer(fit, fit.args[0])
    activity = numbers(loc.var(0, correction=0))
    kl = (loc.square() + scale.square() - 1 - 2 * scale.log()).mean(0) / 2
    latents = range(len(activity))
    lines = [
        points(labels("activity", latents), activity),
        points(labels("KL", latents), numbers(kl), "nats"),
        points(["active latents"], [float(np.sum(activity > _ACTIVE))]),
    ]
    if model.likelihood == "gaussian" and len(table.columns) <= FEW:
        sd = numbers(table.scale * model.scale)
        lines.append(points(labels("noise sd", table.columns), sd, units_of(table.columns)))
    return pd.concat(lines)


def apply(fit: Fit, new: Table) -> pd.DataFrame:
    """Infer the latents of rows, by the encoder or, where a fit has none, row by row, θ held.

    Row by row: Adam on the bound of independent normals, with base draws that all rows share, from
    the point of the largest density among a few hundred.

    Parameters
    ----------
    fit : Fit
    new : Table
        Rows of the same columns; with the Gaussian likelihood standardised as those of the fit.

    Returns
    -------
    pandas.DataFrame
        A line for each row, in their order: ``h[k] mean`` and ``h[k] sd`` of every latent;
        ``reconstruction[column]``, the mean of the column at the latents' means, in its own units
        (of 0 and 1: a probability); and ``ELBO``, in nats, a bound on the log density of the row in
        its own units, or on its log probability where columns are whole numbers, from 32
        quasi-random draws that all rows share.

    Raises
    ------
    InputError
        If a value is none that the likelihood knows, naming it.
    """
    model: Any = fit.model
    gaussian = model.likelihood == "gaussian"
    v = same_columns(new, new.v if gaussian else new.raw, model.num_features)
    _check_support(model, new)
    num_draws = max(_NUM_DRAWS, 2 * model.num_latents)
    eps = base_draws(num_draws, model.num_latents, seed=_SEED).to(v)
    constant = log_units(new) if gaussian else 0.0

    def answer(part: Tensor) -> list[Tensor]:
        loc, scale = _infer(fit, part)
        mean = _mean(model, loc)
        if gaussian:
            mean = new.loc + new.scale * mean
        bound = elbo(model, part, loc, scale, eps) - constant
        return [torch.stack([loc, scale], -1).flatten(1), mean, bound]

    latents = [f"h[{k}] {what}" for k in range(model.num_latents) for what in ("mean", "sd")]
    names = [*latents, *labels("reconstruction", new.columns), "ELBO"]
    chunk_rows = min(CHUNK_ROWS, max(1, _CHUNK_NUMBERS // (num_draws * model.num_features)))
    return row_by_row(v, names, answer, chunk_rows)


def _mean(model: Any, h: Tensor) -> Tensor:
    """E[v | h] of every column, shape (n, D)."""
    mean: Tensor = model.decode(h).mean
    return mean


def _check_support(model: Any, new: Table) -> None:
    if model.likelihood == "bernoulli":
        zeros_and_ones(new, model.num_latents)
    if model.likelihood != "beta_binomial":
        return
    raw, most = new.raw, model.total_count
    wrong = torch.nonzero((raw < 0) | (raw > most) | (raw != raw.round()))
    if len(wrong):
        row, column = map(int, wrong[0])
        raise InputError(
            f"--data: the columns are expected to be whole numbers from 0 to {most}, as in the fit;"
            f" {new.columns[column]!r} has {float(raw[row, column]):g} in row {row}"
        )
