"""Eight schools: a hierarchical model in two parametrisations, centred and non-centred."""

import pyro
import pyro.distributions as dist
from torch import Tensor


def eight_schools_centred(
    sigma: Tensor,
    y: Tensor | None = None,
    num_obs: int | None = None,
    *,
    mu_scale: float = 5.0,
    tau_scale: float = 5.0,
) -> Tensor:
    """Draw the effect of every school around a common mean, then its estimate.

    =========  ===================================  ================
    site       distribution                          shape
    =========  ===================================  ================
    ``mu``     μ ~ N(0, mu_scale)                    ()
    ``tau``    τ ~ HalfCauchy(tau_scale)             ()
    ``theta``  θ_j ~ N(μ, τ)                         (row,)
    ``y``      y_j ~ N(θ_j, σ_j)                     (row,)
    =========  ===================================  ================

    Second arguments are standard deviations; a row is a school.

    Parameters
    ----------
    sigma : Tensor
        Standard error of each estimate, shape (J,), positive, in the units of y.
    y : Tensor, optional
        Estimated effects, shape (J,), in points of the test. Without them they are drawn.
    num_obs : int, optional
        Schools in the whole data set, when `sigma` is a mini-batch. Default: those of `sigma`.
    mu_scale, tau_scale : float, default 5
        Scales of the priors, in the units of y; positive.

    Returns
    -------
    Tensor
        The estimates, observed or drawn, shape (J,).

    Notes
    -----
    Given little data a school, θ and τ form a funnel: θ_j − μ has the width τ, and the joint
    density has no mode, it rises without bound as τ → 0 with all θ_j = μ. MAP and Laplace do not
    exist and a Gaussian q is too sure of τ. With precise estimates (σ_j well below τ) this is the
    better form.

    References
    ----------
    Rubin (1981), doi:10.3102/10769986006004377.
    Gelman (2006), doi:10.1214/06-BA117A, for the prior of τ.
    """
    num_rows = len(sigma)
    zero = sigma.new_zeros(())
    mu = pyro.sample("mu", dist.Normal(zero, mu_scale))
    tau = pyro.sample("tau", dist.HalfCauchy(zero + tau_scale))
    with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        return pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_noncentred(
    sigma: Tensor,
    y: Tensor | None = None,
    num_obs: int | None = None,
    *,
    mu_scale: float = 5.0,
    tau_scale: float = 5.0,
) -> Tensor:
    """Draw every school's standardised effect, stretch and shift it, then draw its estimate.

    =========  ===================================  ================
    site       distribution                          shape
    =========  ===================================  ================
    ``mu``     μ ~ N(0, mu_scale)                    ()
    ``tau``    τ ~ HalfCauchy(tau_scale)             ()
    ``eta``    η_j ~ N(0, 1)                         (row,)
    ``theta``  θ_j = μ + τ η_j, derived              (row,)
    ``y``      y_j ~ N(θ_j, σ_j)                     (row,)
    =========  ===================================  ================

    The same p(μ, τ, θ, y) as `eight_schools_centred`, in other coordinates.

    Parameters
    ----------
    sigma, y, num_obs, mu_scale, tau_scale
        As for `eight_schools_centred`, with the same shapes.

    Returns
    -------
    Tensor
        The estimates, observed or drawn, shape (J,).

    Notes
    -----
    With precise estimates (σ_j well below τ) θ is known, η = (θ − μ) / τ depends on τ, and the
    centred form is the better one.

    References
    ----------
    Papaspiliopoulos, Roberts and Sköld (2007), doi:10.1214/088342307000000014.
    """
    num_rows = len(sigma)
    zero = sigma.new_zeros(())
    mu = pyro.sample("mu", dist.Normal(zero, mu_scale))
    tau = pyro.sample("tau", dist.HalfCauchy(zero + tau_scale))
    with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
        eta = pyro.sample("eta", dist.Normal(zero, zero + 1))
        theta = pyro.deterministic("theta", mu + tau * eta, event_dim=0)
        return pyro.sample("y", dist.Normal(theta, sigma), obs=y)
