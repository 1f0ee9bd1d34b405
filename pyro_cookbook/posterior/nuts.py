"""`sample`: Pyro's NUTS, started and scaled from a fit, chains in parallel."""

import multiprocessing
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyro
import torch
import xarray as xr
from pyro.infer import MCMC, NUTS
from torch import Tensor
from tqdm.auto import tqdm

from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.datatree import mcmc_tree
from pyro_cookbook.posterior.layout import Coords, Dims
from pyro_cookbook.programs.coordinates import Coordinates, from_draws
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.isolation import exclusive, isolated
from pyro_cookbook.programs.progress import shown
from pyro_cookbook.programs.unconstrained import UnconstrainedDensity, unconstrained_density

Array = npt.NDArray[np.float64]

_SCALING_DRAWS = 2000
# Whole covariances up to here; above, chains are scaled coordinate by coordinate.
_MAX_DENSE = 500


def sample(
    fit: Fit,
    *,
    num_draws: int = 1000,
    num_warmup: int = 500,
    num_chains: int = 4,
    target_accept: float = 0.8,
    seed: int = 0,
    processes: int | None = None,
    coords: Coords | None = None,
    dims: Dims | None = None,
    progress: bool | None = None,
) -> xr.DataTree:
    """Sample the posterior of a fit's model by NUTS.

    The chains start at draws of the guide and move in coordinates that its covariance makes round,
    so that warm-up is short and trajectories too.

    Parameters
    ----------
    fit : Fit
        Of a model whose latents are continuous; the verdict on it does not matter.
    num_draws, num_warmup : int, default 1000 and 500
        Of each chain.
    num_chains : int, default 4
    target_accept : float, default 0.8
        Mean acceptance that the step size is tuned to; raise it where there are divergences.
    seed : int, default 0
        Chain c uses ``seed + c``. Same seed, same numbers, however many processes.
    processes : int, optional
        Chains run at a time. Default: as many as there are processors.
    coords, dims : mapping, optional
        As for `to_datatree`.
    progress : bool, optional
        Show a bar of chains that are done. Default: if standard error is a terminal.

    Returns
    -------
    xarray.DataTree
        As `from_pyro_mcmc`, for R-hat and ESS by ArviZ; parameters of the model are held at their
        fitted values.

    Raises
    ------
    ValueError
        If a latent is discrete or the model has no density that is a function of its latents.

    References
    ----------
    Hoffman and Gelman (2014), *The No-U-Turn sampler*, JMLR 15.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(y)):
    ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> y = torch.tensor([1.0, 2.0, 3.0])
    >>> fit = pc.fit(model, "full_rank", y)
    >>> tree = pc.sample(fit, num_draws=50, num_warmup=20, num_chains=2)
    >>> dict(tree["posterior"]["mu"].sizes)
    {'chain': 2, 'draw': 50}
    """
    # Pyro's own diagnostics of a chain need four draws.
    for name, value, least in (("num_draws", num_draws, 4), ("num_chains", num_chains, 1)):
        if value < least:
            raise ValueError(f"{name}: got {value}, expected at least {least}")
    with isolated(seed, fit.param_state):
        model, guide = fit.programs
        density = unconstrained_density(model)
        drawn = draw(guide, max(_SCALING_DRAWS, num_chains))
        z = density.unconstrain({name: drawn.values[name].double() for name in density.shapes})
        z = z[np.isfinite(z).all(1)]
        # Whitening by many draws is as good for strong correlations as for none; few are shrunk.
        shrinkage = 0.02 if len(z) < 10 * density.dim else 1e-9
        scaled = from_draws(z, max_dense=_MAX_DENSE, shrinkage=shrinkage)
    jobs = [
        _Job(density, model.store, scaled, z[c], seed + c, num_draws, num_warmup, target_accept)
        for c in range(num_chains)
    ]
    with tqdm(total=num_chains, desc="NUTS, chains done", disable=not shown(progress)) as bar:
        chains = []
        for chain in _run(jobs, processes or os.cpu_count() or 1):
            chains.append(chain)
            bar.update(1)
    positions = np.stack([chain.positions for chain in chains])
    latents = density.constrain(positions.reshape(-1, density.dim))
    return mcmc_tree(
        model,
        {name: value.to(drawn.values[name].dtype) for name, value in latents.items()},
        np.stack([chain.diverging for chain in chains]),
        coords=coords,
        dims=dims,
    )


@dataclass
class _Job:
    """One chain to run."""

    density: UnconstrainedDensity
    store: dict[str, Any]
    coordinates: Coordinates
    start: Array
    seed: int
    num_draws: int
    num_warmup: int
    target_accept: float


@dataclass
class _Chain:
    """One chain that has run: positions, shape (num_draws, D), and which diverged."""

    positions: Array
    diverging: npt.NDArray[np.bool_]


def _run(jobs: Sequence[_Job], processes: int) -> Any:
    """Run chains in forked processes, or here, one after the other, where that is not possible."""
    can_fork = "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
    if processes < 2 or len(jobs) < 2 or not can_fork or jobs[0].density.device.type != "cpu":
        yield from map(_run_chain, jobs)
        return
    global _JOBS  # noqa: PLW0603 - models do not pickle: forked children find them here
    # Alone: a child forked while another thread runs a program would start with its handlers.
    with exclusive(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork")
        _JOBS = list(jobs)
        pool = multiprocessing.get_context("fork").Pool(min(processes, len(jobs)))
        _JOBS = []
    with pool:
        yield from pool.imap(_run_forked, range(len(jobs)))


_JOBS: list[_Job] = []


def _run_forked(index: int) -> _Chain:
    torch.set_num_threads(1)
    return _run_chain(_JOBS[index])


class _Potential(torch.autograd.Function):
    """−log density, whose gradient comes with its value."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, evaluate: Any) -> Tensor:
        value, gradient = evaluate(z.detach())
        ctx.save_for_backward(gradient.to(z.dtype))
        height: Tensor = -value.to(z.dtype)
        return height

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        gradient: Tensor
        (gradient,) = ctx.saved_tensors
        return -outer[0] * gradient, None


def _run_chain(job: _Job) -> _Chain:
    density, coordinates = job.density, job.coordinates
    loc = torch.as_tensor(coordinates.loc)
    root = torch.as_tensor(coordinates.matrix)
    start = torch.as_tensor(coordinates.solve(job.start - coordinates.loc))
    with isolated(job.seed, job.store):
        evaluate = density.traced()
        pyro.set_rng_seed(job.seed)  # tracing may have drawn

        def potential(values: dict[str, Tensor]) -> Tensor:
            apply: Any = _Potential.apply
            found: Tensor = apply(loc + root @ values["u"], evaluate)
            return found

        torch.set_num_threads(1)  # same numbers whether forked or not: it adds in one order
        kernel = NUTS(potential_fn=potential, target_accept_prob=job.target_accept)
        run = MCMC(
            kernel,
            num_samples=job.num_draws,
            warmup_steps=job.num_warmup,
            initial_params={"u": start},
            disable_progbar=True,
        )
        run.run()
        u = run.get_samples()["u"].numpy()
        diverging = np.zeros(job.num_draws, dtype=bool)
        diverging[run.diagnostics()["divergences"]["chain 0"]] = True
    return _Chain(coordinates.place(u), diverging)
