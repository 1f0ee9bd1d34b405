"""`fit`: any Pyro model, a guide or the name of a family, and data."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_cookbook.engines import families
from pyro_cookbook.engines.choosing import (
    DETERMINISTIC,
    STOCHASTIC,
    Deterministic,
    Fitted,
    Stochastic,
)
from pyro_cookbook.engines.deterministic import run_deterministic
from pyro_cookbook.engines.stochastic import run_starts
from pyro_cookbook.fits.keeping.checkpoint import Checkpoint
from pyro_cookbook.fits.result import Estimate, Fit, Programs, Restart
from pyro_cookbook.fits.settings import Settings
from pyro_cookbook.fits.streaming import check_streamed, of_first, source_of, together, world
from pyro_cookbook.programs.checks import first_run
from pyro_cookbook.programs.density.enumeration import summed_out
from pyro_cookbook.programs.density.log_density import log_density, total
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.noncentring import noncentre
from pyro_cookbook.programs.program import Function, Program
from pyro_cookbook.programs.state.copying import copy_as_trained, copy_programs, copy_store
from pyro_cookbook.programs.state.isolation import isolated

# Scalars that the draws of the final ELBO may fill; the most draws that are of use, and the fewest
# that have an error: of data so large that these fill more, a draw has little noise.
_ELBO_SCALARS, _ELBO_DRAWS, _FEWEST_DRAWS = 2**25, 1000, 5
# What an engine does where a model is not of the quick kind.
_SLOWER = {
    DETERMINISTIC: "one draw at a time, as torch.vmap cannot follow the model",
    STOCHASTIC: "each step by Pyro's handlers, as no graph of model and guide serves",
}


def fit(
    model: Function,
    guide: Function | str = "auto",
    *data: Any,
    data_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    engine: str | None = None,
    noncentred: bool | Sequence[str] = False,
    elbo: ELBO | None = None,
    lr: float | None = None,
    max_steps: int = 20_000,
    tol: float | None = None,
    batch_size: int | None = None,
    num_restarts: int | None = None,
    checkpoint: str | Path | None = None,
    device: torch.device | str | None = None,
    progress: bool | None = None,
    **kwargs: Any,
) -> Fit:
    """Fit a guide, and the model's parameters if it has any, by maximising the ELBO.

    A family by name is fitted by the deterministic engine: Trace_ELBO on fixed base draws, handed
    to L-BFGS in coordinates that the curvature makes round, with draws doubled until they are
    enough. Everything else is fitted by SVI with Trace_ELBO.

    Parameters
    ----------
    model : callable
        Any Pyro model; a module with parameters has them learnt (freeze them with
        ``model.requires_grad_(False)``).
    guide : callable or str, default "auto"
        A guide, or a family: ``"map"``, ``"laplace"``, ``"mean_field"``, ``"whitened_mean_field"``,
        ``"low_rank"``, ``"full_rank"``, ``"flow"``. ``"auto"`` is full rank up to 250 latent
        scalars, low rank above.
    *data, **kwargs
        What model and guide are called with; or `pyro_cookbook.data.Shards` alone, for rows that
        are read from files: the result is then on the rows held out, and so is its ELBO.
    data_kwargs : mapping, optional
        More keyword data: the place for names that clash with an option here.
    seed : int, default 0
        Start r of several uses ``seed + r``. Same seed, same numbers.
    engine : {"deterministic", "stochastic"}, optional
        Default: deterministic for a Gaussian family by name, continuous latents, all data and a
        model without parameters; else stochastic. The result says which and why.
    noncentred : bool or sequence of str, default False
        Fit the model with these sites non-centred (`pyro.infer.reparam.LocScaleReparam`); True
        tries every site whose location or scale is latent and keeps what has the higher ELBO.
    elbo : pyro.infer.ELBO, optional
        Stochastic engine: the estimator of the bound. Default ``Trace_ELBO()``; with
        ``TraceEnum_ELBO`` discrete sites of the guide are summed over.
    lr : float, optional
        Stochastic engine: Adam's first learning rate, by default 0.03, or 0.01 for a flow. It falls
        to a hundredth, each time the ELBO stops rising.
    max_steps : int, default 20_000
        Largest number of steps of one start, or of L-BFGS iterations.
    tol : float, optional
        Stochastic engine: a rise of the ELBO below `tol` nats (two standard errors included)
        counts as none. Default: 0.001 for each latent scalar, 0.05 at least.
    batch_size : int, optional
        Rows of a mini-batch. Tensors with as many entries as the first one are cut by rows, and
        model and guide are called with ``num_obs=`` all rows. Processes that ``torchrun`` has
        started share each one.
    num_restarts : int, optional
        Stochastic engine: starts, of which the one with the highest final ELBO is kept (default
        1). A module is redrawn by calling ``reset_parameters()`` wherever it or a part of it has
        one. Deterministic engine: dispersed climbs to a mode (default 8, fewer for data of
        many rows).
    checkpoint : path, optional
        A file to save to as the fit goes and on interruption, and to resume from if it exists.
    device : torch.device or str, optional
        Where to compute. Default: where the data are.
    progress : bool, optional
        Show a progress bar. Default: at a terminal and in a notebook.

    Returns
    -------
    Fit
        With copies of model and guide, in the data's dtype; those passed in stay as they are.

    Raises
    ------
    NonFiniteELBO
        Naming the step and the site; its ``.fit`` holds the parameters of at most 99 steps before.
    ValueError
        If an argument is not as above, or the model cannot be fitted, in one line.

    Notes
    -----
    Converged means that the bound has stopped rising, and (deterministic engine) that the
    Monte-Carlo error of every mean is below 0.05 sd and of every sd below 5%. It says nothing about
    how close the bound is to the evidence: ask `diagnose`.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(y)):
    ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> fit = pc.fit(model, "full_rank", torch.tensor([1.0, 2.0, 3.0]))
    >>> fit.engine, fit.converged
    ('deterministic', True)
    >>> f"{fit.elbo.value:.1f}"
    '-6.6'
    """
    started = time.perf_counter()
    source = source_of(data, {**kwargs, **(data_kwargs or {})}, guide, batch_size)
    if source is not None:
        data = source.held_out()
    device = together(batch_size, device, data)
    settings = Settings(
        seed=seed, engine=engine, elbo=elbo, lr=lr, max_steps=max_steps, tol=tol,
        batch_size=batch_size, num_restarts=num_restarts, source=source,
    )  # fmt: skip
    args, kwargs = to_device(data, {**kwargs, **(data_kwargs or {})}, device)
    program = Program(model, args, kwargs)
    if noncentred is True and guide == "map":
        raise ValueError(
            "noncentred: got True, which compares heights of densities in different coordinates"
            " for guide 'map'; name the sites to non-centre"
        )
    with isolated(seed):
        trial, _ = copy_programs(program)  # a run may change what a module keeps
        trial = first_run(trial, guide=guide, batch_size=batch_size)
        trial = summed_out(trial, _drawn_by(guide, trial))
        if source is not None:
            check_streamed(trial)
        program = trial if trial.function is program.function else trial.of(program.function)
    if noncentred:
        found = _fit_noncentred(program, guide, noncentred, settings, checkpoint, progress)
    else:
        found = _fit_as_is(program, trial, guide, settings, checkpoint, progress)
    return replace(found, seconds=time.perf_counter() - started)


def _drawn_by(guide: Function | str, model: Program) -> set[str]:
    """Names of the sites that a guide draws; those of all latents, where it does not say."""
    if isinstance(guide, str) or not any(site.is_discrete for site in model.latents.values()):
        return set()
    _, own = copy_programs(model, guide)
    try:
        return set(model.of(own).sites)
    except Exception:  # whatever the reader's guide raises: it is said where it is run
        return set(model.latents)


def _fit_as_is(
    program: Program,
    trial: Program,
    guide: Function | str,
    settings: Settings,
    checkpoint: str | Path | None,
    progress: bool | None,
) -> Fit:
    """Choose an engine by a trial copy, run it, and keep the start with the highest ELBO."""
    with isolated(settings.seed):
        options, why = settings.choose(trial, guide)
    shared = settings.batch_size is not None  # by all processes; the first keeps the checkpoint
    if shared and world()[0]:
        checkpoint = None
    saved = Checkpoint(checkpoint, settings.record(program, guide, options) if checkpoint else {})
    if shared:
        saved.starts = of_first(saved.starts)
    fits = []
    for end in _run(program, guide, options, settings.seed, saved, progress):
        one = _to_fit(end)
        if end.obstacle:
            why += f"; {_SLOWER[settings.name_of(options)]} ({end.obstacle})"
        one = replace(one, engine=settings.name_of(options), why=why)
        if end.failure is not None:
            end.failure.fit = one  # type: ignore[attr-defined]
            raise end.failure
        fits.append(one)
    restarts = tuple(Restart(f.seed, f.elbo, f.converged, len(f.losses)) for f in fits)
    best = max(fits, key=lambda f: f.elbo.value if np.isfinite(f.elbo.value) else -np.inf)
    return replace(best, restarts=restarts)


def _run(
    program: Program,
    guide: Function | str,
    options: Deterministic | Stochastic,
    seed: int,
    saved: Checkpoint,
    progress: bool | None,
) -> Iterator[Fitted]:
    """Run the engine that the options are for."""
    if isinstance(options, Stochastic):
        yield from run_starts(program, guide, options, seed=seed, memory=saved, progress=progress)
        return
    with isolated(seed) as store:
        own, _ = copy_programs(program.keeping(store))
        family = families.choose(own) if guide == "auto" else str(guide)
        end = run_deterministic(own, family, options, seed=seed, memory=saved, progress=progress)
    yield end


def _fit_noncentred(
    program: Program,
    guide: Function | str,
    sites: bool | Sequence[str],
    settings: Settings,
    checkpoint: str | Path | None,
    progress: bool | None,
) -> Fit:
    """Fit with sites non-centred; if any may be, as the model is too, and keep the better."""
    with isolated(settings.seed):
        other, chosen = noncentre(program, sites)
        trial, _ = copy_programs(other)
    tried = _fit_as_is(other, trial, guide, settings, checkpoint, progress)
    tried = replace(tried, noncentred=chosen)
    if sites is not True:
        return tried
    as_is = _fit_as_is(program, copy_programs(program)[0], guide, settings, None, progress)
    return max((tried, as_is), key=lambda one: (one.converged, one.elbo.value))


def as_fit(
    model: Function,
    guide: Function,
    *data: Any,
    data_kwargs: Mapping[str, Any] | None = None,
    family: str = "",
    seed: int = 0,
    losses: Sequence[float] = (),
    converged: bool = True,
    reason: str = "fitted outside pyro_cookbook.fit",
    seconds: float = 0.0,
    param_state: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Fit:
    """Wrap a model and a guide that are fitted already: by EM, or by a loop of your own.

    Parameters
    ----------
    model, guide : callable
        The fitted programs. They are copied: what is trained later does not reach the fit.
    *data, data_kwargs, **kwargs
        The data, as for `fit`.
    family : str, optional
        Default: the guide's class.
    seed : int, default 0
        Of the draws behind the ELBO.
    losses : sequence of float, optional
        −ELBO after every iteration.
    converged, reason : bool, str
        What the algorithm said of itself.
    seconds : float, optional
    param_state : dict, optional
        Parameters kept outside modules. Default: a copy of Pyro's global store.

    Returns
    -------
    Fit
        With the ELBO estimated from fresh draws.

    Examples
    --------
    The exact posterior of a conjugate model as its guide: the bound is the evidence.

    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> def guide(y):
    ...     pyro.sample("mu", dist.Normal(y / 2, 0.5**0.5))
    >>> fit = pc.as_fit(model, guide, torch.tensor(1.0, dtype=torch.float64))
    >>> print(fit.elbo)
    -1.5155 ± 0.0000
    """
    program = Program(model, data, {**kwargs, **(data_kwargs or {})})
    if param_state is None:
        own, own_guide = copy_as_trained(program, guide)
    else:
        own, own_guide = copy_programs(program.keeping(copy_store(param_state)), guide)
    with isolated(seed, own.store):
        own = summed_out(own, _drawn_by(own_guide, own))
    family = family or str(getattr(guide, "__name__", type(guide).__name__))
    end = Fitted(own, own_guide, family, seed, list(losses), converged, reason)
    return replace(_to_fit(end), seconds=seconds)


def to_device(
    data: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device | str | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move every tensor among the data; None leaves them where they are."""
    if device is None:
        return data, kwargs

    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    return tuple(move(value) for value in data), {k: move(v) for k, v in kwargs.items()}


def _to_fit(end: Fitted) -> Fit:
    """Wrap what an engine returned, with the ELBO from fresh draws."""
    # The store that the block yields also has the networks that functions register.
    with isolated(end.seed, end.model.store) as store:
        elbo = _final_elbo(end.model, end.model.of(end.guide))
    model = end.model.keeping(store if store["params"] else {})
    programs = Programs(model, model.of(end.guide))
    return Fit(
        programs=programs,
        family=end.family,
        seed=end.seed,
        losses=np.asarray(end.losses, dtype=float),
        elbo=elbo,
        converged=end.converged,
        reason=end.reason,
        seconds=0.0,
        restarts=(Restart(end.seed, elbo, end.converged, len(end.losses)),),
        modes=end.modes,
        lost_starts=end.lost,
    )


def _final_elbo(model: Program, guide: Program) -> Estimate:
    """Mean of log p − log q over fresh draws on all data."""
    scalars = sum(site.shape.numel() for site in model.sites.values())
    num_draws = int(np.clip(_ELBO_SCALARS // max(1, scalars), _FEWEST_DRAWS, _ELBO_DRAWS))
    drawn = draw(guide, num_draws)
    latents = {name: drawn.values[name] for name in model.sites if name in drawn.values}
    log_p = total(log_density(model, latents, by_site=False))
    log_ratio = (log_p - drawn.total()).double()
    return Estimate(float(log_ratio.mean()), float(log_ratio.std()) / num_draws**0.5)
