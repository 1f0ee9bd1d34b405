"""Linear response: the covariances that a mean-field fit implies."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pyro_cookbook.engines import families
from pyro_cookbook.engines.base_draws import base_draws
from pyro_cookbook.engines.choosing import DETERMINISTIC
from pyro_cookbook.engines.gaussians import Gaussian
from pyro_cookbook.fits.fitting import as_fit
from pyro_cookbook.fits.result import Fit, check_fit
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity, unconstrained_density
from pyro_cookbook.programs.state.isolation import isolated

Array = npt.NDArray[np.float64]

SUFFIX = "+linear_response"
NAME = f"mean_field{SUFFIX}"
# Every draw costs a Hessian of D rows.
_MAX_LATENTS, _PRODUCTS = 500, 16_384


def linear_response(fit: Fit, *, seed: int = 0) -> Fit:
    """Replace the covariance of a mean-field fit by its linear response.

    Tilt the log density by tᵀz; the optimal mean-field location moves at the rate
    d loc / d t, which is the covariance of z for a Gaussian posterior and often close to it for
    others. With H the Hessian of −ELBO in location and log scales (ℓ, ρ), the rate is the ℓℓ block
    of H⁻¹.

    Parameters
    ----------
    fit : Fit
        By the deterministic engine, of family "mean_field".
    seed : int, default 0
        Of the base draws behind H.

    Returns
    -------
    Fit
        Of family "mean_field+linear_response": the same location on the unconstrained scale, the
        new covariance. Judge it like any other.

    Raises
    ------
    ValueError
        If the fit is of another family or engine, has too many latents, or is at no optimum (H is
        not positive definite).

    References
    ----------
    Giordano, Broderick and Jordan (2018), *Covariances, robustness, and variational Bayes*, JMLR
    19; Giordano, Ingram and Broderick (2024), JMLR 25, section 3.

    Examples
    --------
    Two causes of one sum: given the sum they are anticorrelated, and each has variance 2/3.

    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    ...     pyro.sample("y", dist.Normal(h.sum(-1), 1.0), obs=y)
    >>> mean_field = pc.fit(model, "mean_field", torch.tensor(1.0))
    >>> repaired = pc.linear_response(mean_field)
    >>> covariance = repaired.guide.get_posterior().covariance_matrix.detach()
    >>> [f"{value:.2f}" for value in covariance[0].tolist()]
    ['0.67', '-0.33']
    """
    check_fit(fit)
    if fit.family != "mean_field" or fit.engine != DETERMINISTIC:
        raise ValueError(
            f"fit: got family {fit.family!r} by the {fit.engine or 'unknown'} engine, expected"
            " 'mean_field' by the deterministic one"
        )
    started = time.perf_counter()
    with isolated(seed, fit.param_state):
        density = unconstrained_density(fit.programs.model)
        if density.dim > _MAX_LATENTS:
            raise ValueError(
                f"fit: got {density.dim} latent scalars, expected at most {_MAX_LATENTS}"
            )
        loc, scale = _location_and_scale(fit, density)
        covariance = _response(density, loc, scale, seed)
        unit = np.sqrt(np.diagonal(covariance))
        root = unit[:, None] * np.linalg.cholesky(covariance / unit / unit[:, None])
        guide = families.from_gaussian(
            NAME, fit.programs.model, density, Gaussian(loc, factor=root)
        )
    one = as_fit(
        fit.model, guide, *fit.args, data_kwargs=fit.kwargs, family=NAME, seed=fit.seed,
        losses=list(fit.losses), converged=fit.converged, reason=fit.reason,
        param_state=fit.param_state,
    )  # fmt: skip
    seconds = fit.seconds + time.perf_counter() - started
    why = "linear response of a mean-field fit"
    return replace(
        one, engine=fit.engine, why=why, modes=fit.modes, lost_starts=fit.lost_starts,
        noncentred=fit.noncentred, seconds=seconds,
    )  # fmt: skip


def _location_and_scale(fit: Fit, density: UnconstrainedDensity) -> tuple[Array, Array]:
    """Read the unconstrained location and scales off the guide."""
    guide: Any = fit.guide
    locs, scales = [], []
    for name in density.shapes:
        loc, scale = guide.locs, guide.scales
        for part in guide.stored(name).split("."):
            loc, scale = getattr(loc, part), getattr(scale, part)
        locs.append(loc.detach().double().cpu().numpy().ravel())
        scales.append(scale.detach().double().cpu().numpy().ravel())
    return np.concatenate(locs), np.concatenate(scales)


def _response(density: UnconstrainedDensity, loc: Array, scale: Array, seed: int) -> Array:
    """Compute the ℓℓ block of H⁻¹, H the Hessian of −ELBO in location and log scales."""
    dim = density.dim
    num_draws = int(2 ** np.clip(np.floor(np.log2(_PRODUCTS / dim)), 5, 8))
    eps = base_draws(num_draws, dim, seed)
    z = loc + scale * eps
    _, gradient = density.value_and_grad(z)
    upper, cross, lower = (np.zeros((dim, dim)) for _ in range(3))
    for one, e in zip(z, eps, strict=True):
        hessian = density.hessian(one)
        step = scale * e
        upper -= hessian / num_draws
        cross -= hessian * step / num_draws
        lower -= hessian * step * step[:, None] / num_draws
    # The second derivative of z in ρ is the step itself.
    lower -= np.diag((gradient * scale * eps).mean(0))
    schur = upper - cross @ np.linalg.solve(lower, cross.T)
    scaled = schur * scale * scale[:, None]  # near the identity
    scaled = (scaled + scaled.T) / 2
    smallest = float(np.linalg.eigvalsh(scaled)[0])
    if not smallest > 1e-9:
        raise ValueError(
            "fit: the Hessian of its ELBO is not positive definite (smallest scaled eigenvalue"
            f" {smallest:.2g}): it is at no maximum, and has no linear response"
        )
    covariance: Array = np.linalg.inv(scaled) * scale * scale[:, None]
    return covariance
