"""`sample`: nutpie's NUTS, started and scaled from a fit, chains in parallel."""

import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from tqdm.auto import tqdm

from pyro_cookbook.fits.result import Fit, check_fit
from pyro_cookbook.posterior.chains.no_u_turn import Chain, Evaluate, run_chain
from pyro_cookbook.posterior.datatree import mcmc_tree
from pyro_cookbook.posterior.groups import MAX_GIB
from pyro_cookbook.posterior.layout import Coords, Dims, Values
from pyro_cookbook.programs.coordinates import Coordinates, from_draws
from pyro_cookbook.programs.density.log_density import first_line
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity, unconstrained_density
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.options import check_share, check_whole
from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.spreading import is_spread, spread
from pyro_cookbook.programs.state.isolation import exclusive, isolated
from pyro_cookbook.programs.state.progress import shown

Array = npt.NDArray[np.float64]

_SCALING_DRAWS = 2000
# Whole covariances up to here; above, chains are scaled coordinate by coordinate.
_MAX_DENSE = 500
# Enough to be drawn at once, as the chains' draws are.
_REHEARSED = 8
# A chain that is cut off keeps so many draws, or is of no use.
_LEAST_DRAWS = 100


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
    max_gib: float = MAX_GIB,
    progress: bool | None = None,
) -> xr.DataTree:
    """Sample the posterior of a fit's model by NUTS.

    The chains are nutpie's. They start at draws of the guide and move in coordinates that its
    covariance makes round, so that warm-up is short and trajectories too.

    Parameters
    ----------
    fit : Fit
        Of a model whose latents are continuous; the verdict on it does not matter.
    num_draws, num_warmup : int, default 1000 and 500
        Of each chain; at least one.
    num_chains : int, default 4
    target_accept : float, default 0.8
        Mean acceptance that the step size is tuned to; raise it where there are divergences.
    seed : int, default 0
        Chain c uses ``seed + c``. Same seed, same numbers, however many processes.
    processes : int, optional
        Chains run at a time. Default: as many as there are processors, or as
        ``joblib.parallel_config`` says, over machines too; see `spread`.
    coords, dims, max_gib
        As for `to_datatree`; all draws of the posterior are kept.
    progress : bool, optional
        Show a bar of chains that are done. Default: at a terminal and in a notebook.

    Returns
    -------
    xarray.DataTree
        As `from_pyro_mcmc`, for R-hat and ESS by ArviZ; parameters of the model are held at their
        fitted values.

    Raises
    ------
    ValueError
        If a latent is discrete or the model has no density that is a function of its latents; if
        that is not finite at draws of the guide; if draws of this model cannot be laid out, before
        the chains run.
    DrawsLeftOver
        If they could not be laid out all the same; its ``.draws`` holds them.

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
    check_fit(fit)
    check_whole(1, num_draws=num_draws, num_warmup=num_warmup)
    check_whole(1, num_chains=num_chains, processes=processes)
    check_share(target_accept=target_accept)
    with isolated(seed, fit.param_state):
        density = unconstrained_density(fit.programs.model)
    model = fit.programs.model
    dtypes = _rehearse(fit, density, {"coords": coords, "dims": dims, "max_gib": max_gib})
    draws, diverging = run_nuts(
        fit, num_draws=num_draws, num_warmup=num_warmup, num_chains=num_chains,
        target_accept=target_accept, seed=seed, processes=processes, progress=progress,
    )  # fmt: skip
    with isolated(seed, fit.param_state):
        latents = density.constrain(draws.reshape(-1, density.dim))
    latents = {name: value.to(dtypes[name]) for name, value in latents.items()}
    try:
        return mcmc_tree(model, latents, diverging, coords=coords, dims=dims, max_gib=max_gib)
    except Exception as error:  # after minutes of sampling, whatever it is
        raise DrawsLeftOver(error, latents, diverging.shape) from error


def run_nuts(
    fit: Fit,
    *,
    num_draws: int,
    num_warmup: int,
    num_chains: int,
    target_accept: float,
    seed: int,
    processes: int | None = None,
    progress: bool | None = None,
    seconds: float | None = None,
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Run the chains; options as for `sample`.

    Parameters
    ----------
    seconds : float, optional
        Wall time after which chains are cut off, all at the length of the shortest. What is kept
        then depends on the machine.

    Returns
    -------
    draws : array, shape (num_chains, S, D)
        On the unconstrained scale; S is `num_draws` unless they were cut off.
    diverging : array of bool, shape (num_chains, S)

    Raises
    ------
    OutOfTime
        If fewer than 100 draws were made of a chain.
    """
    until = None if seconds is None else time.monotonic() + seconds
    density, coordinates, starts = _prepare(fit, num_chains, seed)
    if processes is None and seconds is None and is_spread():  # this clock tells others nothing
        program = replace(density.program)  # without what it has found and kept
        far = [
            _Far(program, coordinates, start, seed + c, num_draws, num_warmup, target_accept)
            for c, start in enumerate(starts)
        ]
        return _stacked(spread(_run_far, far, progress=progress))
    with isolated(seed, density.program.store):
        evaluate = density.traced()
    processes = _processes(processes, num_chains, density)
    rounds = -(-num_chains // processes)
    jobs = [
        _Job(
            density, evaluate, coordinates, start, seed + c, num_draws, num_warmup, target_accept,
            until, rounds - c // processes,
        )
        for c, start in enumerate(starts)
    ]  # fmt: skip
    chains, least = [], min(_LEAST_DRAWS, num_draws)
    with closing(_run(jobs, processes, shown(progress))) as running:
        for chain in running:
            if len(chain.positions) < least:
                raise OutOfTime(
                    f"NUTS: {seconds:.3g} seconds were not enough for warm-up and {least} draws"
                )
            chains.append(chain)
    return _stacked(chains)


def _stacked(chains: Sequence[Chain]) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Put chains beside one another, all cut to the length of the shortest."""
    length = min(len(chain.positions) for chain in chains)
    positions = np.stack([chain.positions[:length] for chain in chains])
    return positions, np.stack([chain.diverging[:length] for chain in chains])


class OutOfTime(ValueError):
    """The seconds that NUTS was given were not enough for draws that are of any use."""


class DrawsLeftOver(RuntimeError):
    """The chains have run, and their draws could not be laid out.

    Attributes
    ----------
    draws : dict of str to array
        Site → values, shape (chains, draws, ...).
    """

    def __init__(self, error: Exception, latents: Values, shape: tuple[int, ...]) -> None:
        super().__init__(
            f"sample: the draws could not be laid out ({first_line(error)}); they are in this"
            " error's .draws"
        )
        self.draws = {
            name: value.cpu().numpy().reshape(*shape, *value.shape[1:])
            for name, value in latents.items()
        }


def _prepare(
    fit: Fit, num_chains: int, seed: int
) -> tuple[UnconstrainedDensity, Coordinates, Array]:
    """Density, coordinates that make the guide's draws round, and a start for each chain."""
    with isolated(seed, fit.param_state):
        density = unconstrained_density(fit.programs.model)
        drawn = draw(fit.programs.guide, max(_SCALING_DRAWS, num_chains)).values
        z = density.unconstrain({name: drawn[name].double() for name in density.shapes})
        z = z[np.isfinite(z).all(1)]
        heights, slopes = density.value_and_grad(z[: 4 * num_chains])
    good = np.flatnonzero(np.isfinite(heights) & np.isfinite(slopes).all(1))
    if not len(good):
        raise ValueError(
            f"model: its log density is not finite at any of {len(heights)} draws of the guide,"
            " where chains start"
        )
    starts = z[good[np.arange(num_chains) % len(good)]]
    # Whitening by many draws is as good for strong correlations as for none; few are shrunk.
    shrinkage = 0.02 if len(z) < 10 * density.dim else 1e-9
    return density, from_draws(z, max_dense=_MAX_DENSE, shrinkage=shrinkage), starts


def _rehearse(fit: Fit, density: UnconstrainedDensity, options: Any) -> dict[str, torch.dtype]:
    """Lay out a few draws of the guide: what cannot be laid out is said before the chains run.

    Returns
    -------
    dict of str to torch.dtype
        The latents' own dtypes: chains run in double precision.
    """
    with isolated(0, fit.param_state):
        drawn = draw(fit.programs.guide, _REHEARSED).values
    latents = {name: drawn[name] for name in density.shapes}
    mcmc_tree(fit.programs.model, latents, np.zeros((1, _REHEARSED), dtype=bool), **options)
    return {name: value.dtype for name, value in latents.items()}


@dataclass
class _Job:
    """One chain to run."""

    density: UnconstrainedDensity
    evaluate: Evaluate
    coordinates: Coordinates
    start: Array
    seed: int
    num_draws: int
    num_warmup: int
    target_accept: float
    # The moment at which all chains have to end, and how many rounds of chains share what is left.
    until: float | None
    rounds: int


@dataclass(frozen=True)
class _Far:
    """One chain to run elsewhere: graphs cannot be sent, and are made again there."""

    program: Program
    coordinates: Coordinates
    start: Array
    seed: int
    num_draws: int
    num_warmup: int
    target_accept: float


def _run_far(far: _Far) -> Chain:
    with isolated(far.seed, far.program.store):
        density = unconstrained_density(far.program)
        evaluate = density.traced()
    return _run_chain(
        _Job(
            density, evaluate, far.coordinates, far.start, far.seed, far.num_draws, far.num_warmup,
            far.target_accept, until=None, rounds=1,
        )
    )  # fmt: skip


def _processes(wanted: int | None, num_chains: int, density: UnconstrainedDensity) -> int:
    """Count the processes to fork; 1 where chains run here, one after the other."""
    can_fork = "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
    if not can_fork or density.device.type != "cpu":
        return 1
    return min(wanted or os.cpu_count() or 1, num_chains)


def _run(jobs: Sequence[_Job], processes: int, progress: bool) -> Generator[Chain]:
    chains = map(_run_chain, jobs) if processes < 2 else _run_in_processes(jobs, processes)
    yield from tqdm(chains, total=len(jobs), desc="NUTS, chains done", disable=not progress)


def _run_in_processes(jobs: Sequence[_Job], processes: int) -> Generator[Chain]:
    global _JOBS  # noqa: PLW0603 - models do not pickle: forked children find them here
    fork = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(processes, mp_context=fork)
    try:
        # Alone: a child forked while another thread runs a program would start with its handlers.
        with exclusive(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*multi-threaded, use of fork")
            _JOBS = list(jobs)
            chains = pool.map(_run_forked, range(len(jobs)))
        yield from chains
    finally:
        _JOBS = []
        pool.shutdown(cancel_futures=True)


_JOBS: list[_Job] = []


def _run_forked(index: int) -> Chain:
    torch.set_num_threads(1)
    return _run_chain(_JOBS[index])


def _run_chain(job: _Job) -> Chain:
    # `isolated` puts the number of threads back.
    with isolated(job.seed, job.density.program.store):
        torch.set_num_threads(1)  # same numbers whether forked or not: it adds in one order
        return run_chain(
            job.evaluate, job.coordinates, job.start, num_draws=job.num_draws,
            num_warmup=job.num_warmup, target_accept=job.target_accept, seed=job.seed,
            seconds=None if job.until is None else (job.until - time.monotonic()) / job.rounds,
        )  # fmt: skip
