"""`fit`: any Pyro model, a guide or the name of a family, and data."""

import copy
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_cookbook import families
from pyro_cookbook._state import adopt, isolated
from pyro_cookbook.checkpoint import Checkpoint
from pyro_cookbook.draws import Program, Site, describe, draw, log_density, total
from pyro_cookbook.result import Estimate, Fit, Restart
from pyro_cookbook.svi import SVI, NonFiniteELBO, Options

# Scalars that the draws of the final ELBO may fill, and the most draws that are of use.
_ELBO_SCALARS, _ELBO_DRAWS = 2**25, 1000


def fit(
    model: Program,
    guide: Program | str = "auto",
    *data: Any,
    data_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    elbo: ELBO | None = None,
    lr: float = 0.03,
    max_steps: int = 20_000,
    tol: float | None = None,
    batch_size: int | None = None,
    num_restarts: int = 1,
    checkpoint: str | Path | None = None,
    device: torch.device | str | None = None,
    progress: bool | None = None,
    **kwargs: Any,
) -> Fit:
    """Fit a guide, and the model's parameters if it has any, by SVI with Trace_ELBO.

    Parameters
    ----------
    model : callable
        Any Pyro model; a module with parameters has them learnt (freeze them with
        ``model.requires_grad_(False)``).
    guide : callable or str, default "auto"
        A guide, or a family: ``"map"``, ``"laplace"``, ``"mean_field"``, ``"low_rank"``,
        ``"full_rank"``, ``"flow"``. ``"auto"`` is full rank up to 100 latent scalars, mean field
        above.
    *data, **kwargs
        What model and guide are called with.
    data_kwargs : mapping, optional
        More keyword data: the place for names that clash with an option here.
    seed : int, default 0
        Start r of several uses ``seed + r``. Same seed, same numbers.
    elbo : pyro.infer.ELBO, optional
        The estimator of the bound. Default ``Trace_ELBO()``; with ``TraceEnum_ELBO`` discrete sites
        of the guide are summed over.
    lr : float, default 0.03
        Adam's first learning rate. It falls to a hundredth, each time the ELBO stops rising.
    max_steps : int, default 20_000
        Largest number of steps of one start.
    tol : float, optional
        A rise of the ELBO below `tol` nats (two standard errors included) counts as none. Default:
        0.001 for each latent scalar, 0.05 at least.
    batch_size : int, optional
        Rows of a mini-batch. Tensors with as many entries as the first one are cut by rows, and
        model and guide are called with ``num_obs=`` all rows.
    num_restarts : int, default 1
        Starts; the one with the highest final ELBO is kept. A module is redrawn by calling
        ``reset_parameters()`` wherever it or a part of it has one.
    checkpoint : path, optional
        A file to save to every 500 steps and on interruption, and to resume from if it exists.
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
        If an argument is not as above, in one line.

    Notes
    -----
    Converged means that the bound has stopped rising for this start. It says nothing about how
    close the bound is to the evidence: ask `diagnose`.
    """
    for name, value in (("num_restarts", num_restarts), ("max_steps", max_steps), ("lr", lr)):
        if value <= 0:
            raise ValueError(f"{name}: got {value}, expected a positive number")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1 row")
    args, kwargs = to_device(data, {**kwargs, **(data_kwargs or {})}, device)
    started = time.perf_counter()
    settings = {"seed": seed, "lr": lr, "max_steps": max_steps, "batch_size": batch_size or 0}
    saved = Checkpoint(checkpoint, settings)
    fits: list[Fit] = []
    for r in range(num_restarts):
        with isolated(seed + r) as store:
            one_model, one_guide, family = _instantiate(model, guide, args, kwargs, num_restarts)
            if tol is None:
                tol = max(0.05, 1e-3 * families.num_latents(describe(one_model, *args, **kwargs)))
            options = Options(elbo or Trace_ELBO(), lr, max_steps, tol, batch_size)
            run = SVI(one_model, one_guide, args, kwargs, options)
            failure: NonFiniteELBO | None = None
            try:
                run.prepare()
                if r in saved.starts:
                    run.load_state_dict(saved.starts[r])
                with _progress(progress, run, f"start {r + 1} of {num_restarts}") as bar:
                    run.run(partial(_report, bar=bar, saved=saved, start=r))
            except NonFiniteELBO as error:
                if not error.step:  # nothing was fitted
                    raise
                failure = error
                run.reason = str(error).split(";", maxsplit=1)[0]
            except KeyboardInterrupt:
                saved.save(r, run.state_dict())
                raise
            if failure is None:
                saved.save(r, run.state_dict())
            final_guide = _finish(one_guide, family, args, kwargs)
        one = as_fit(
            one_model,
            final_guide,
            *args,
            data_kwargs=kwargs,
            family=family,
            seed=seed + r,
            losses=run.losses,
            converged=run.converged,
            reason=run.reason,
            seconds=time.perf_counter() - started,
            param_state=store,
        )
        if failure is not None:
            failure.fit = one
            raise failure
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
        The fitted programs. They are not copied.
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
        param_state = _global_params()
    family = family or str(getattr(guide, "__name__", type(guide).__name__))
    with isolated(seed, param_state):
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
        param_state=param_state,
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


def _instantiate(
    model: Program, guide: Program | str, args: Any, kwargs: Any, num_restarts: int
) -> tuple[Program, Program, str]:
    """Copy both programs, give them the data's dtype and device, and draw their start."""
    named = isinstance(guide, str)
    model, guide = copy.deepcopy((model, guide))  # together: a guide may hold its model
    floats = [
        value
        for value in (*args, *kwargs.values())
        if isinstance(value, Tensor) and value.is_floating_point()
    ]
    redrawn = named
    for program in (model, guide):
        adopt(program)
        if isinstance(program, nn.Module):
            if floats:
                program.to(device=floats[0].device, dtype=floats[0].dtype)
            if num_restarts > 1:
                redrawn |= _redraw(program)
    if num_restarts > 1 and not redrawn:
        raise ValueError(
            f"num_restarts: got {num_restarts}, but neither model nor guide has a"
            " reset_parameters() to draw a new start"
        )
    if not isinstance(guide, str):
        return model, guide, type(guide).__name__
    sites = describe(model, *args, **kwargs)
    family = families.choose(sites) if guide == "auto" else guide
    return model, families.build(family, model, sites), family


def _redraw(program: nn.Module) -> bool:
    """Call the outermost `reset_parameters` of each part that trains; say whether there was one."""
    reset = getattr(program, "reset_parameters", None)
    if reset is not None:
        if any(p.requires_grad for p in program.parameters()):
            reset()
            return True
        return False
    return max([_redraw(child) for child in program.children()], default=False)  # all of them


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
    gaussian: Any = families.FAMILIES["full_rank"](auto.model)
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


def _global_params() -> dict[str, Any]:
    import pyro  # local: only fits made without `fit` read the global store

    store = pyro.get_param_store()
    state: Any = store.get_state()
    return {key: dict(value) for key, value in state.items()} if len(store) else {}


def _progress(progress: bool | None, run: SVI, title: str) -> Any:
    shown = sys.stderr.isatty() if progress is None else progress
    total_steps = run.options.max_steps
    return tqdm(total=total_steps, initial=len(run.losses), desc=title, disable=not shown)


def _report(run: SVI, bar: Any, saved: Checkpoint, start: int) -> None:
    step = len(run.losses)
    bar.update(1)
    if step % 100 == 0:
        bar.set_postfix_str(f"ELBO {-np.mean(run.losses[-100:]):.4g}, lr stage {run.stage + 1}")
    if step % Checkpoint.EVERY == 0 and not run.reason:
        saved.save(start, run.state_dict())
