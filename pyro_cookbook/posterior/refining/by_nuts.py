"""NUTS in the place of a guide: where one trajectory length for all chains fails.

Funnels and ridges have no step and no length that serve all of their parts; NUTS chooses the length
anew in each.
"""

import time
from dataclasses import replace

import numpy as np

from pyro_cookbook.fits.refined import Refinement
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.nuts import run_nuts
from pyro_cookbook.posterior.refining.agreement import agree
from pyro_cookbook.posterior.refining.ensemble import Run
from pyro_cookbook.posterior.refining.refine import scalars, with_draws
from pyro_cookbook.programs.density.unconstrained import unconstrained_density
from pyro_cookbook.programs.state.isolation import isolated

# Acceptance that steps are tuned to: smaller steps than Stan's 0.8, for posteriors that have
# resisted everything else.
_TARGET = 0.9


def refine_by_nuts(
    fit: Fit, *, num_draws: int = 1000, num_warmup: int = 500, budget: float | None = None,
    seed: int = 0, progress: bool | None = None,
) -> Fit:  # fmt: skip
    """Run NUTS from a fit's draws, and judge it as `refine` judges its chains.

    Parameters
    ----------
    fit : Fit
        Of a model whose latents are continuous, or summed out.
    num_draws, num_warmup : int, default 1000 and 500
        Of each of four chains.
    budget : float, optional
        Seconds of wall time after which the chains are cut off, at one length. None: none.
    seed : int, default 0
    progress : bool, optional

    Returns
    -------
    Fit
        With the chains' draws in the place of the guide.

    Raises
    ------
    OutOfTime
        A ValueError: the budget was not enough for 100 draws of each chain.
    """
    started = time.perf_counter()
    draws, diverging = run_nuts(
        fit, num_draws=num_draws, num_warmup=num_warmup, num_chains=4, target_accept=_TARGET,
        seed=seed, progress=progress, seconds=budget,
    )  # fmt: skip
    chains = len(draws)
    with isolated(seed, fit.param_state):
        density = unconstrained_density(fit.programs.model)
        values, slopes = density.value_and_grad(draws.reshape(-1, density.dim))
        heights = values.reshape(draws.shape[:2])
        run = Run(draws, heights, slopes.reshape(draws.shape), _TARGET, diverging)
        found = agree(scalars(density, run), run, np.arange(chains))
    seconds = time.perf_counter() - started
    record = Refinement(
        found.holds, found.reasons(fit), chains, chains, draws.shape[1], _TARGET, found.rhat,
        min(found.ess, float(draws[..., 0].size)), 0, seconds,
    )  # fmt: skip
    why = f"{chains} chains of NUTS from the draws of {fit.family!r}"
    return replace(with_draws(fit, density, run, record), engine="nuts", why=why)
