"""Bayesian logistic regression: coefficients are random variables, not parameters."""

import pyro
import pyro.distributions as dist
from torch import Tensor


def logistic_regression(
    x: Tensor,
    y: Tensor | None = None,
    num_obs: int | None = None,
    *,
    intercept_scale: float = 5.0,
    coefficient_scale: float = 2.5,
) -> Tensor:
    """Draw an intercept and coefficients, then a yes or no for each row of a table.

    ================  ==================================  ================
    site              distribution                         shape
    ================  ==================================  ================
    ``intercept``     a ~ N(0, intercept_scale)            ()
    ``coefficient``   β_d ~ N(0, coefficient_scale)        (D,)
    ``y``             y_n ~ Bernoulli(σ(a + x_nᵀβ))        (row,)
    ================  ==================================  ================

    Second arguments are standard deviations; σ is the logistic function.

    Parameters
    ----------
    x : Tensor
        Covariates, shape (n, D), each column of about mean 0 and standard deviation 1: the prior
        scales are in log odds for a change of one unit.
    y : Tensor, optional
        Outcomes, 0 or 1, shape (n,), in x's dtype. Without them they are drawn.
    num_obs : int, optional
        Rows in the whole data set, when `x` is a mini-batch of it. Default: the rows of `x`.
    intercept_scale, coefficient_scale : float, default 5 and 2.5
        Prior standard deviations, in log odds; positive.

    Returns
    -------
    Tensor
        The outcomes, observed or drawn, shape (n,).

    Notes
    -----
    Where a plane separates the outcomes, the likelihood rises for ever with the length of β: the
    prior alone holds the posterior, which is then wide and skewed, and its mode an underestimate of
    that length. Of columns that say almost the same only the sum of the coefficients is known.

    References
    ----------
    Jaakkola and Jordan (2000), doi:10.1023/A:1008932416310.
    Gelman, Jakulin, Pittau and Su (2008), doi:10.1214/08-AOAS191, for scales of priors.
    """
    num_rows, num_features = x.shape
    zero = x.new_zeros(())
    intercept = pyro.sample("intercept", dist.Normal(zero, intercept_scale))
    prior = dist.Normal(zero, coefficient_scale).expand([num_features]).to_event(1)
    coefficient = pyro.sample("coefficient", prior)
    with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
        # Of one draw of β: (n,). Of many at once, (particles, 1, D): (particles, n).
        score = coefficient @ x.mT
        if coefficient.dim() > 1:
            score = score.squeeze(-2)
        return pyro.sample("y", dist.Bernoulli(logits=intercept + score), obs=y)
