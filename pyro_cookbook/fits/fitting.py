"""`fit`: any Pyro model, a guide or the name of a family, and data."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor

from pyro_cookbook.engines import families
from pyro_cookbook.engines.deterministic import DETERMINISTIC, choose_engine, run_deterministic
from pyro_cookbook.engines.stochastic import run_starts
from pyro_cookbook.engines.svi import Options
from pyro_cookbook.fits.checkpoint import Checkpoint
from pyro_cookbook.fits.result import Estimate, Fit, Restart
from pyro_cookbook.programs.checks import first_run
from pyro_cookbook.programs.copying import copy_as_trained, copy_programs, copy_store
from pyro_cookbook.programs.drawing import Program, Site, describe, draw, log_density, total
from pyro_cookbook.programs.isolation import isolated
from pyro_cookbook.programs.noncentring import noncentre

# Scalars that the draws of the final ELBO may fill, and the most draws that are of use.
_ELBO_SCALARS, _ELBO_DRAWS = 2**25, 1000


def fit(
    model: Program,
    guide: Program | str = "auto",
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
        What model and guide are called with.
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
        model and guide are called with ``num_obs=`` all rows.
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
        Show a progress bar. Default: if standard error is a terminal.

    Returns
    -------
    Fit
        With copies of model and guide, in the data's dtype; those passed in stay as they are.

    Raises
    ------
    NonFiniteELBO
        Naming the step and the site; its ``.fit`` holds the last good parameters.
    ValueError
        If an argument is not as above, or the model cannot be fitted, in one line.

    Notes
    -----
    Converged means that the bound has stopped rising, and (deterministic engine) that the
    Monte-Carlo error of every mean is below 0.05 sd and of every sd below 5%. It says nothing about
    how close the bound is to the evidence: ask `diagnose`.
    """
    for name, value in (("num_restarts", num_restarts), ("max_steps", max_steps), ("lr", lr)):
        if value is not None and value <= 0:
            raise ValueError(f"{name}: got {value}, expected a positive number")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1 row")
    lr = lr or (0.01 if guide == "flow" else 0.03)  # faster, a flow leaves the posterior
    args, kwargs = to_device(data, {**kwargs, **(data_kwargs or {})}, device)
    started = time.perf_counter()
    with isolated(seed):
        trial, _ = copy_programs(model, None, args, kwargs)  # a run may change what a module keeps
        sites = first_run(trial, args, kwargs)
        chosen, why = choose_engine(
            engine, trial, guide, args, kwargs, elbo=elbo, batch_size=batch_size
        )
    settings = {
        "seed": seed, "lr": lr, "max_steps": max_steps, "batch_size": batch_size or 0,
        "engine": chosen, "guide": guide if isinstance(guide, str) else "",
    }  # fmt: skip
    common: dict[str, Any] = {"seed": seed, "checkpoint": checkpoint, "progress": progress}
    if noncentred:
        with isolated(seed):
            tried = noncentre(model, noncentred, args, kwargs)
        other = fit(
            tried.model, guide, *args, data_kwargs=kwargs, engine=engine, elbo=elbo, lr=lr,
            max_steps=max_steps, tol=tol, batch_size=batch_size, num_restarts=num_restarts,
            **common,
        )  # fmt: skip
        other = replace(other, noncentred=tried.sites)
        if noncentred is not True:
            return other
        as_is = fit(
            model, guide, *args, data_kwargs=kwargs, engine=engine, elbo=elbo, lr=lr,
            max_steps=max_steps, tol=tol, batch_size=batch_size, num_restarts=num_restarts,
            seed=seed, progress=progress,
        )  # fmt: skip
        best = max((other, as_is), key=lambda one: (one.converged, one.elbo.value))
        return replace(best, seconds=time.perf_counter() - started)
    saved = Checkpoint(checkpoint, settings)
    if chosen == DETERMINISTIC:
        assert isinstance(guide, str)
        with isolated(seed) as store:
            family = families.choose(sites) if guide == "auto" else guide
            own_model, _ = copy_programs(model, None, args, kwargs)
            found = run_deterministic(
                own_model, family, sites, args, kwargs, seed=seed, num_restarts=num_restarts,
                max_steps=max_steps, saved=saved, progress=progress,
            )  # fmt: skip
        one = as_fit(
            own_model, found.guide, *args, data_kwargs=kwargs, family=family, seed=seed,
            losses=found.losses, converged=found.converged, reason=found.reason,
            param_state=store,
        )  # fmt: skip
        return replace(
            one, engine=chosen, why=why, modes=found.modes, lost_starts=found.lost,
            seconds=time.perf_counter() - started,
        )  # fmt: skip
    if tol is None:
        tol = max(0.05, 1e-3 * families.num_latents(sites))
    options = Options(elbo or Trace_ELBO(), lr, max_steps, tol, batch_size)
    fits: list[Fit] = []
    for ended in run_starts(
        model, guide, args, kwargs, seed=seed, options=options, num_restarts=num_restarts or 1,
        saved=saved, progress=progress,
    ):  # fmt: skip
        with isolated(ended.seed, ended.store):
            finished = _finish(ended.guide, ended.family, args, kwargs)
        one = as_fit(
            ended.model, finished, *args,
            data_kwargs=kwargs, family=ended.family, seed=ended.seed, losses=ended.run.losses,
            converged=ended.run.converged, reason=ended.run.reason,
            seconds=time.perf_counter() - started, param_state=ended.store,
        )  # fmt: skip
        one = replace(one, engine=chosen, why=why)
        if ended.failure is not None:
            ended.failure.fit = one
            raise ended.failure
        fits.append(one)
    restarts = tuple(Restart(f.seed, f.elbo, f.converged, len(f.losses)) for f in fits)
    best = max(fits, key=lambda f: f.elbo.value if np.isfinite(f.elbo.value) else -np.inf)
    return replace(best, restarts=restarts, seconds=time.perf_counter() - started)


def as_fit(
    model: Program,
    guide: Program,
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
    """
    all_kwargs = {**kwargs, **(data_kwargs or {})}
    if param_state is None:
        model, guide, param_state = copy_as_trained(model, guide, data, all_kwargs)
    else:
        model, guide = copy_programs(model, guide, (), {})
        param_state = copy_store(param_state)
    family = family or str(getattr(guide, "__name__", type(guide).__name__))
    with isolated(seed, param_state) as store:  # with the networks that functions register
        sites = describe(model, *data, **all_kwargs)
        elbo = _final_elbo(model, guide, sites, data, all_kwargs)
    return Fit(
        model=model,
        guide=guide,
        args=data,
        kwargs=all_kwargs,
        family=family,
        seed=seed,
        losses=np.asarray(losses, dtype=float),
        elbo=elbo,
        converged=converged,
        reason=reason,
        seconds=seconds,
        restarts=(Restart(seed, elbo, converged, len(losses)),),
        param_state=store if store["params"] else {},
    )


def to_device(
    data: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device | str | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move every tensor among the data; None leaves them where they are."""
    if device is None:
        return data, kwargs

    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    return tuple(move(value) for value in data), {k: move(v) for k, v in kwargs.items()}


def _finish(guide: Program, family: str, args: Any, kwargs: Any) -> Program:
    """Turn the mode into a Gaussian, for the Laplace family."""
    if family != "laplace":
        return guide
    auto: Any = guide
    try:
        posterior = auto.laplace_approximation(*args, **kwargs).get_posterior()
    except (torch.linalg.LinAlgError, ValueError) as error:
        raise ValueError(
            "guide: 'laplace' needs a positive definite Hessian at the mode, and this one is not:"
            " a direction is flat or the fit has not reached a mode; try 'full_rank'"
        ) from error
    # The same Gaussian in the parameters of the full-rank family, which can be saved and loaded.
    gaussian: Any = families.build("full_rank", auto.model, args, kwargs)
    with torch.no_grad():
        gaussian(*args, **kwargs)
        gaussian.loc.copy_(posterior.loc)
    diagonal = posterior.scale_tril.diagonal()
    gaussian.scale = diagonal.detach()
    gaussian.scale_tril = (posterior.scale_tril / diagonal[:, None]).detach()
    return gaussian  # type: ignore[no-any-return]


def _final_elbo(
    model: Program, guide: Program, sites: Mapping[str, Site], args: Any, kwargs: Any
) -> Estimate:
    """Mean of log p − log q over fresh draws on all data."""
    scalars = sum(site.shape.numel() for site in sites.values())
    num_draws = int(np.clip(_ELBO_SCALARS // max(1, scalars), 20, _ELBO_DRAWS))
    drawn = draw(guide, num_draws, *args, **kwargs)
    latents = {name: drawn.values[name] for name in sites if name in drawn.values}
    log_p = total(log_density(model, latents, *args, **kwargs))
    log_ratio = (log_p - drawn.total()).double()
    return Estimate(float(log_ratio.mean()), float(log_ratio.std()) / num_draws**0.5)
