"""Bayesian regression: a linear predictor with group effects, and seven families of outcomes."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from models._distributions import OrderedLogistic
from models._families import SPREAD


def regression(
    x: Tensor,
    z: Tensor,
    level: Tensor,
    offset: Tensor,
    trials: Tensor,
    y: Tensor | None = None,
    num_obs: int | None = None,
    *,
    family: str = "normal",
    intercept_scale: float | None = 2.5,
    coefficient_scale: float = 2.5,
    kind: Tensor | None = None,
    centring: Tensor | None = None,
    num_categories: int = 0,
) -> Tensor:
    """Draw coefficients and effects of groups, then an outcome for each row of a table.

    The linear predictor of row n is η_n = o_n + a + x_nᵀβ + Σ_e z_ne u_{level(n, e)}: an offset, an
    intercept, D columns, and for each of E kinds of group effects (an intercept by village, a slope
    by village, …) the effect of the row's level.

    ======================  =========================================  =======
    site                    distribution                               shape
    ======================  =========================================  =======
    ``intercept``           a ~ N(0, intercept_scale)                  ()
    ``coefficient``         β_d ~ N(0, coefficient_scale)              (D,)
    ``group_scale``         τ_e ~ Exponential(1)                       (E,)
    ``deviation``           w_k ~ N(0, τ_e^c_e), e the kind of k       (K,)
    ``effect``              u_k = w_k τ_e^(1 − c_e), derived           (K,)
    ``scale``               σ ~ Exponential(1); normal, student_t      ()
    ``degrees_of_freedom``  ν ~ Gamma(2, rate 0.1); student_t          ()
    ``dispersion``          α ~ Exponential(1); negative_binomial      ()
    ``share``               s ~ Dirichlet(1, …, 1); ordinal            (C,)
    ``cutpoint``            κ_j = logit(s_1 + … + s_j), derived        (C − 1,)
    ``y``                   of the family, below                       (row,)
    ======================  =========================================  =======

    Second arguments of N are standard deviations. In every form u_k ~ N(0, τ_e); c_e = 0 is the
    non-centred one, c_e = 1 the centred. The families, with σ(·) the logistic function:

    =====================  =============================================================
    family                 y_n given η_n
    =====================  =============================================================
    ``normal``             N(η, σ)
    ``student_t``          η + σ t_ν
    ``bernoulli``          Bernoulli(σ(η))
    ``binomial``           Binomial(trials_n, σ(η))
    ``poisson``            Poisson(exp η)
    ``negative_binomial``  mean μ = exp η, variance μ + α μ²
    ``ordinal``            P(y ≤ j) = σ(κ_{j+1} − η), j = 0, …, C − 1; no intercept
    =====================  =============================================================

    Parameters
    ----------
    x : Tensor
        Columns, shape (n, D), each of about mean 0 and standard deviation 1; D may be 0.
    z : Tensor
        What multiplies each kind of group effect, shape (n, E): 1 for an intercept; E may be 0.
    level : Tensor
        Which of the K effects each row has of each kind, shape (n, E), whole numbers.
    offset : Tensor
        Known part of the linear predictor, shape (n,), real.
    trials : Tensor
        Trials of each row, shape (n,), positive whole numbers; only of use to ``binomial``.
    y : Tensor, optional
        Outcomes, shape (n,), in x's dtype; of ``normal`` and ``student_t`` in units of about one
        standard deviation, of ``ordinal`` 0 to C − 1. Without them they are drawn.
    num_obs : int, optional
        Rows in the whole data set, when these are a mini-batch of it. Default: the rows of `x`.
    family : str, default "normal"
        One of the seven above.
    intercept_scale : float or None, default 2.5
        Prior standard deviation of the intercept, positive; None for a model without one.
    coefficient_scale : float, default 2.5
        Prior standard deviation of the coefficients, positive.
    kind : Tensor, optional
        Which of the E kinds each effect is of, shape (K,), whole numbers. Default: no groups.
    centring : Tensor, optional
        c, shape (E,), between 0 and 1. Default: 0.
    num_categories : int, default 0
        C, for ``ordinal``: 3 at least.

    Returns
    -------
    Tensor
        The outcomes, observed or drawn, shape (n,).

    Notes
    -----
    Effects of several kinds are independent a priori, also the intercept and the slope of one
    group: slopes are to be about the mean of their variable, where that is likeliest to hold. With
    few levels the data say little of τ, and its prior shows. Of columns that say almost the same
    only the sum of the coefficients is known. Where a plane separates outcomes of 0 and 1 the prior
    alone holds the coefficients.

    References
    ----------
    Gelman, Jakulin, Pittau and Su (2008), doi:10.1214/08-AOAS191, for standardised columns.
    Simpson, Rue, Riebler, Martins and Sørbye (2017), doi:10.1214/16-STS576, for τ and σ.
    Juárez and Steel (2010), doi:10.1198/jbes.2009.07145, for the prior of ν.
    McCullagh (1980), doi:10.1111/j.2517-6161.1980.tb01109.x, for the ordinal family.
    Papaspiliopoulos, Roberts and Sköld (2007), doi:10.1214/088342307000000014, for c.
    """
    num_rows, num_features = x.shape
    zero = x.new_zeros(())
    score = offset
    if intercept_scale is not None:
        score = score + pyro.sample("intercept", dist.Normal(zero, intercept_scale))
    if num_features:
        prior = dist.Normal(zero, coefficient_scale).expand([num_features]).to_event(1)
        score = score + _product(pyro.sample("coefficient", prior), x)
    if kind is not None:
        score = score + _group_part(z, level.long(), kind.long(), centring)
    spread = _spread(family, zero, num_categories)
    with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
        return pyro.sample("y", _outcome(family, score, trials, spread), obs=y)


def _product(coefficient: Tensor, x: Tensor) -> Tensor:
    """Of one draw of β: (n,). Of many at once, (particles, 1, D): (particles, n)."""
    score = coefficient @ x.mT
    return score.squeeze(-2) if coefficient.dim() > 1 else score


def _group_part(z: Tensor, level: Tensor, kind: Tensor, centring: Tensor | None) -> Tensor:
    """Draw scales and effects of all kinds; sum what they add to each row."""
    num_kinds = z.shape[1]
    one = z.new_ones(num_kinds)
    scale = pyro.sample("group_scale", dist.Exponential(one).to_event(1))
    share = torch.zeros_like(one) if centring is None else centring
    inside, outside = scale**share, scale ** (1 - share)
    deviation = pyro.sample(
        "deviation", dist.Normal(z.new_zeros(()), inside[..., kind]).to_event(1)
    )
    effect = pyro.deterministic("effect", deviation * outside[..., kind], event_dim=1)
    part = (z * effect[..., level]).sum(-1)
    return part.squeeze(-2) if effect.dim() > 1 else part


def _spread(family: str, zero: Tensor, num_categories: int) -> dict[str, Tensor]:
    """Draw what a family has besides its linear predictor."""
    one = zero + 1
    priors = {
        "scale": dist.Exponential(one),
        "degrees_of_freedom": dist.Gamma(2 * one, one / 10),
        "dispersion": dist.Exponential(one),
    }
    drawn = {name: pyro.sample(name, priors[name]) for name in SPREAD[family]}
    if family == "ordinal":
        share = pyro.sample("share", dist.Dirichlet(one.expand(num_categories)))
        below = share.cumsum(-1)[..., :-1]
        # Log of the sum above, not of 1 − below: shares of the last categories may be tiny.
        above = share.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        drawn["cutpoint"] = pyro.deterministic("cutpoint", below.log() - above.log(), event_dim=1)
    return drawn


def _outcome(
    family: str, score: Tensor, trials: Tensor, spread: dict[str, Tensor]
) -> dist.TorchDistribution:
    """Give the distribution of the outcomes at linear predictors."""
    if family == "normal":
        return dist.Normal(score, spread["scale"])
    if family == "student_t":
        return dist.StudentT(spread["degrees_of_freedom"], score, spread["scale"])
    if family == "bernoulli":
        return dist.Bernoulli(logits=score)
    if family == "binomial":
        return dist.Binomial(trials, logits=score)
    if family == "poisson":
        return dist.Poisson(score.exp())
    if family == "negative_binomial":
        dispersion = spread["dispersion"]
        return dist.NegativeBinomial(1 / dispersion, logits=score + dispersion.log())
    return OrderedLogistic(score, spread["cutpoint"])
