"""From Pyro to ArviZ: fits by SVI and by MCMC as an xarray DataTree."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.layout import Coords, Dims, Layout, Values
from pyro_cookbook.posterior.resampling import resample
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.isolation import isolated
from pyro_cookbook.programs.log_density import log_density, total
from pyro_cookbook.programs.predictive import predictive
from pyro_cookbook.programs.program import Program


def to_datatree(
    fit: Fit,
    *,
    num_draws: int = 1000,
    seed: int = 0,
    coords: Coords | None = None,
    dims: Dims | None = None,
    sample_dims: Sequence[str] = ("sample",),
    reweight: bool = False,
) -> xr.DataTree:
    """Draw from a fit and lay everything out in ArviZ's groups.

    Parameters
    ----------
    fit : Fit
    num_draws : int, default 1000
        Draws of the posterior, the prior and both predictives.
    seed : int, default 0
    coords : mapping of str to array_like, optional
        Dimension → labels.
    dims : mapping of str to sequence of str, optional
        Variable → names of its event dimensions, or of all its dimensions. Plates name themselves.
    sample_dims : ("sample",) or ("chain", "draw")
        Independent draws have no chains, so "sample" is the default. ArviZ 1.3's
        ``loo_approximate_posterior`` and ``plot_ppc_dist`` insist on chain and draw.
    reweight : bool, default False
        Resample the posterior by its Pareto-smoothed importance weights: what to use after the
        verdict "reliable after reweighting".

    Returns
    -------
    xarray.DataTree
        Groups posterior, posterior_predictive, log_likelihood (pointwise, in nats), sample_stats
        (log_p and, unless reweighted, log_q of every draw; the loss of every step), prior,
        prior_predictive, observed_data, constant_data, and theta for the model's parameters. A
        prior that cannot be drawn from is left out, and the attribute ``prior`` says why.

    Raises
    ------
    ValueError
        If `reweight` is asked for and the weights cannot carry it.
    """
    layout = Layout(coords or {}, dims or {}, tuple(sample_dims))
    model, guide = fit.programs
    with isolated(seed, fit.param_state):
        if reweight:
            latents = resample(fit, num_draws, seed)
        else:
            drawn = draw(guide, num_draws)
            latents = {name: drawn.values[name] for name in model.sites if name in drawn.values}
        groups, log_p = _model_groups(model, latents)
        prior, why_not = _prior_groups(model, num_draws)
    groups |= prior
    stats = {"log_p": total(log_p)}
    if not reweight:  # the density of resampled draws is not q's
        stats["log_q"] = drawn.total()
    groups["sample_stats"] = stats
    tree = layout.tree(groups, model.sites, parameters(fit.model))
    losses = xr.DataArray(fit.losses, dims=["step"], name="loss")
    tree["sample_stats"] = xr.DataTree(tree["sample_stats"].to_dataset().assign(loss=losses))
    tree.attrs.update(
        inference_library="pyro",
        inference_library_version=pyro.__version__,
        guide=fit.family,
        engine=fit.engine,
        why=fit.why,
        elbo=fit.elbo.value,
        elbo_se=fit.elbo.se,
        converged=int(fit.converged),
        reason=fit.reason,
        seed=fit.seed,
        reweighted=int(reweight),
    )
    if why_not:
        tree.attrs["prior"] = why_not
    return tree


def mcmc_tree(
    model: Program,
    latents: Values,
    diverging: np.ndarray,
    *,
    coords: Coords | None = None,
    dims: Dims | None = None,
) -> xr.DataTree:
    """Lay out draws of a Markov chain: latents of shape (chains · draws, ...), chain by chain."""
    num_chains = len(diverging)
    layout = Layout(coords or {}, dims or {}, ("chain", "draw"), num_chains)
    with isolated(0, model.store):
        latents = {name: value for name, value in latents.items() if name in model.sites}
        groups, log_p = _model_groups(model, latents)
        prior, _ = _prior_groups(model, diverging.size)
    groups |= prior
    stats = {"lp": total(log_p), "diverging": torch.as_tensor(diverging).flatten()}
    groups["sample_stats"] = stats
    tree = layout.tree(groups, model.sites, parameters(model.function))
    tree.attrs.update(inference_library="pyro", inference_library_version=pyro.__version__)
    return tree


def parameters(model: Any) -> dict[str, Tensor]:
    """θ: every parameter of a model by name, in its constrained space."""
    if not isinstance(model, nn.Module):
        return {}
    theta = {}
    for prefix, module in model.named_modules():
        own = module._pyro_params if isinstance(module, PyroModule) else {}
        names = [*own, *(n for n, _ in module.named_parameters(recurse=False))]
        for name in names:
            if not name.endswith("_unconstrained"):
                theta[f"{prefix}.{name}".lstrip(".")] = getattr(module, name)
    return theta


def _model_groups(model: Program, latents: Values) -> tuple[dict[str, Values], dict[str, Tensor]]:
    """Collect what the model says about given draws of its latents."""
    num_draws = len(next(iter(latents.values())))
    log_p = log_density(model, latents)
    new = predictive(model, latents, num_draws)
    sites = model.sites
    data = [name for name, site in sites.items() if site.is_data]
    derived = {name: new[name] for name, site in sites.items() if site.deterministic}
    groups: dict[str, Values] = {
        "posterior": {**latents, **derived},
        "posterior_predictive": {name: new[name] for name in data},
        "log_likelihood": {
            name: log_p[name]
            for name, site in sites.items()
            if site.observed and not site.deterministic
        },
        "observed_data": {name: model.observed[name] for name in data},
        "constant_data": constants(model),
    }
    return groups, log_p


def _prior_groups(model: Program, num_draws: int) -> tuple[dict[str, Values], str]:
    try:
        drawn = predictive(model, {}, num_draws)
    except (NotImplementedError, ValueError, RuntimeError) as error:
        return {}, f"not drawn: {str(error).splitlines()[0] if str(error) else 'improper'}"
    known = {name: model.sites[name] for name in drawn if name in model.sites}
    prior = {name: drawn[name] for name, site in known.items() if not site.is_data}
    return {
        "prior": {name: value for name, value in prior.items() if value.numel()},
        "prior_predictive": {name: drawn[name] for name, site in known.items() if site.is_data},
    }, ""


def constants(program: Program) -> dict[str, Tensor]:
    """Tensor and number arguments that are not observed, under their names."""
    function, observed = program.function, program.observed
    target = function.forward if isinstance(function, nn.Module) else function
    bound = inspect.signature(target).bind_partial(*program.args, **program.kwargs)
    constants: dict[str, Tensor] = {}

    def add(name: str, value: Any) -> None:
        if hasattr(value, "_asdict"):
            value = value._asdict()
        if isinstance(value, Mapping):
            for key, item in value.items():
                add(f"{name}_{key}", item)
        elif isinstance(value, (Tensor, np.ndarray, int, float)):
            tensor = torch.as_tensor(value)
            taken = (v for v in observed.values() if v.shape == tensor.shape)
            if not any(torch.equal(v, tensor) for v in taken):
                constants[name] = tensor

    for name, value in bound.arguments.items():
        kind = inspect.signature(target).parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            for i, item in enumerate(value):
                add(f"{name}_{i}", item)
        elif kind is inspect.Parameter.VAR_KEYWORD:
            for key, item in value.items():
                add(key, item)
        else:
            add(name, value)
    return constants
