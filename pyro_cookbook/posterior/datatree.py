"""From Pyro to ArviZ: fits by SVI and by MCMC as an xarray DataTree."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import arviz as az
import numpy as np
import pyro
import torch
import xarray as xr
from pyro.infer import MCMC
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_cookbook.fits.fitting import as_fit
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.resampling import resample
from pyro_cookbook.programs.copying import copy_as_trained
from pyro_cookbook.programs.drawing import (
    Program,
    Site,
    describe,
    draw,
    log_density,
    total,
    trace_once,
)
from pyro_cookbook.programs.isolation import isolated
from pyro_cookbook.programs.predictive import predictive

Values = Mapping[str, Tensor]
Dims = Mapping[str, Sequence[str]]
Coords = Mapping[str, Any]


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
    with isolated(seed, fit.param_state):
        sites = describe(fit.model, *fit.args, **fit.kwargs)
        if reweight:
            latents = resample(fit, num_draws, seed)
        else:
            drawn = draw(fit.guide, num_draws, *fit.args, **fit.kwargs)
            latents = {name: drawn.values[name] for name in sites if name in drawn.values}
        groups, log_p = _model_groups(fit.model, sites, latents, fit.args, fit.kwargs)
        prior, why_not = _prior_groups(fit.model, sites, num_draws, fit.args, fit.kwargs)
    groups |= prior
    stats = {"log_p": total(log_p)}
    if not reweight:  # the density of resampled draws is not q's
        stats["log_q"] = drawn.total()
    groups["sample_stats"] = stats
    tree = layout.tree(groups, sites, parameters(fit.model))
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


def from_pyro_svi(
    model: Program, guide: Program, *data: Any, losses: Sequence[float] = (), **options: Any
) -> xr.DataTree:
    """Convert a model and guide trained by a loop of your own.

    Parameters
    ----------
    model, guide : callable
        The trained programs; parameters in Pyro's global store are found too.
    *data
        What they are called with.
    losses : sequence of float, optional
        −ELBO at every step.
    **options
        ``num_draws``, ``seed``, ``coords``, ``dims``, ``sample_dims`` and ``reweight`` go to
        `to_datatree`; the rest is keyword data.

    Returns
    -------
    xarray.DataTree
        As `to_datatree`.
    """
    names = inspect.signature(to_datatree).parameters
    layout = {key: options.pop(key) for key in list(options) if key in names and key != "fit"}
    fit = as_fit(model, guide, *data, losses=losses, data_kwargs=options)
    return to_datatree(fit, **layout)


def from_pyro_mcmc(
    mcmc: MCMC, *, coords: Coords | None = None, dims: Dims | None = None
) -> xr.DataTree:
    """Convert a finished run of Pyro's MCMC into the same shape of tree.

    Parameters
    ----------
    mcmc : pyro.infer.MCMC
        After ``run``, with a kernel made from a model.
    coords, dims : mapping, optional
        As for `to_datatree`.

    Returns
    -------
    xarray.DataTree
        With sample dimensions (chain, draw); sample_stats holds lp (log p(v, h), in nats) and
        diverging.

    Raises
    ------
    ValueError
        If the run has not happened, or its kernel has no model.
    """
    model: Any = mcmc.kernel.model
    args: Any = mcmc._args
    kwargs: Any = mcmc._kwargs
    if model is None or args is None:
        raise ValueError("mcmc: expected a run that is finished, of a kernel made from a model")
    samples = mcmc.get_samples(group_by_chain=True)
    num_chains, num_draws = next(iter(samples.values())).shape[:2]
    diverging = np.zeros((num_chains, num_draws), dtype=bool)
    for chain, steps in enumerate(mcmc.diagnostics().get("divergences", {}).values()):
        diverging[chain, steps] = True
    latents = {name: value.flatten(0, 1) for name, value in samples.items()}
    model, _, store = copy_as_trained(model, None, args, kwargs)
    return mcmc_tree(
        model, latents, diverging, args, kwargs, param_state=store, coords=coords, dims=dims
    )


def mcmc_tree(
    model: Program,
    latents: Values,
    diverging: np.ndarray,
    args: Any,
    kwargs: Any,
    *,
    param_state: Any = None,
    coords: Coords | None = None,
    dims: Dims | None = None,
) -> xr.DataTree:
    """Lay out draws of a Markov chain: latents of shape (chains · draws, ...), chain by chain."""
    num_chains = len(diverging)
    layout = Layout(coords or {}, dims or {}, ("chain", "draw"), num_chains)
    with isolated(0, param_state):
        sites = describe(model, *args, **kwargs)
        latents = {name: value for name, value in latents.items() if name in sites}
        groups, log_p = _model_groups(model, sites, latents, args, kwargs)
        prior, _ = _prior_groups(model, sites, diverging.size, args, kwargs)
    groups |= prior
    stats = {"lp": total(log_p), "diverging": torch.as_tensor(diverging).flatten()}
    groups["sample_stats"] = stats
    tree = layout.tree(groups, sites, parameters(model))
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


def _model_groups(
    model: Program, sites: Mapping[str, Site], latents: Values, args: Any, kwargs: Any
) -> tuple[dict[str, Values], dict[str, Tensor]]:
    """Collect what the model says about given draws of its latents."""
    num_draws = len(next(iter(latents.values())))
    log_p = log_density(model, latents, *args, **kwargs)
    new = predictive(model, latents, num_draws, *args, **kwargs)
    data = [name for name, site in sites.items() if site.is_data]
    derived = {name: new[name] for name, site in sites.items() if site.deterministic}
    observed = observed_values(model, args, kwargs)
    groups: dict[str, Values] = {
        "posterior": {**latents, **derived},
        "posterior_predictive": {name: new[name] for name in data},
        "log_likelihood": {
            name: log_p[name]
            for name, site in sites.items()
            if site.observed and not site.deterministic
        },
        "observed_data": {name: observed[name] for name in data},
        "constant_data": constants(model, args, kwargs, observed),
    }
    return groups, log_p


def _prior_groups(
    model: Program, sites: Mapping[str, Site], num_draws: int, args: Any, kwargs: Any
) -> tuple[dict[str, Values], str]:
    try:
        drawn = predictive(model, {}, num_draws, *args, **kwargs)
    except (NotImplementedError, ValueError, RuntimeError) as error:
        return {}, f"not drawn: {str(error).splitlines()[0] if str(error) else 'improper'}"
    prior = {name: v for name, v in drawn.items() if name in sites and not sites[name].is_data}
    kept = {name: value for name, value in prior.items() if value.numel()}
    return {
        "prior": kept,
        "prior_predictive": {n: v for n, v in drawn.items() if n in sites and sites[n].is_data},
    }, ""


def observed_values(model: Program, args: Any, kwargs: Any) -> dict[str, Tensor]:
    """Values of the observed sites."""
    nodes = trace_once(model, *args, **kwargs)
    return {name: node["value"] for name, node in nodes.items() if node["is_observed"]}


def constants(model: Program, args: Any, kwargs: Any, observed: Values) -> dict[str, Tensor]:
    """Tensor and number arguments that are not observed, under their names."""
    target = model.forward if isinstance(model, nn.Module) else model
    bound = inspect.signature(target).bind_partial(*args, **kwargs)
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


class Layout:
    """Names the dimensions of every variable and builds the tree."""

    def __init__(
        self, coords: Coords, dims: Dims, sample_dims: tuple[str, ...], num_chains: int = 1
    ) -> None:
        if sample_dims not in {("sample",), ("chain", "draw")}:
            raise ValueError(
                f"sample_dims: got {sample_dims}, expected ('sample',) or ('chain', 'draw')"
            )
        self.coords, self.dims, self.sample_dims = coords, dims, sample_dims
        self.num_chains = num_chains

    def tree(
        self, groups: Mapping[str, Values], sites: Mapping[str, Site], theta: Values
    ) -> xr.DataTree:
        """Build the tree of groups, each a mapping of variables to values."""
        rows = {
            site.shape[i]: name
            for site in sites.values()
            if site.is_data
            for i, name in enumerate(site.plates)
            if name
        }
        arrays: dict[str, dict[str, Any]] = {}
        dims: dict[str, list[str]] = {}
        for group, values in groups.items():
            if not values:
                continue
            has_draws = not group.endswith("_data")
            arrays[group] = {}
            for name, value in values.items():
                array = value.detach().cpu().numpy()
                if has_draws and self.sample_dims == ("chain", "draw"):
                    array = array.reshape(self.num_chains, -1, *array.shape[1:])
                arrays[group][name] = array
                event_shape = array.shape[len(self.sample_dims) if has_draws else 0 :]
                if name not in dims or group == "posterior":
                    dims[name] = self._dims(name, sites.get(name), event_shape, rows)
        used = {dim for names in dims.values() for dim in names}
        coords = {name: value for name, value in self.coords.items() if name in used}
        tree = az.from_dict(
            arrays,
            sample_dims=list(self.sample_dims),
            dims=dims,
            pred_dims=dims,  # ArviZ reads the groups called predictions by these two
            coords=coords,
            pred_coords=coords,
        )
        if theta:
            tree["theta"] = self.constants(theta)
        return tree

    def constants(self, values: Values) -> xr.DataTree:
        """Lay out values that have neither draws nor plates; names given count from the last."""
        arrays = {name: value.detach().cpu().numpy() for name, value in values.items()}
        dims: dict[Any, Any] = {}
        for name, array in arrays.items():
            given = list(self.dims.get(name, ()))[-array.ndim :] if array.ndim else []
            dims[name] = [f"{name}_dim_{i}" for i in range(array.ndim - len(given))] + given
        used = {dim for names in dims.values() for dim in names}
        coords = {name: value for name, value in self.coords.items() if name in used}
        return xr.DataTree(az.dict_to_dataset(arrays, sample_dims=[], dims=dims, coords=coords))

    def _dims(
        self, name: str, site: Site | None, shape: tuple[int, ...], rows: Mapping[int, str]
    ) -> list[str]:
        given = list(self.dims.get(name, ()))
        if len(given) == len(shape):
            return given
        if site is not None:
            plates = list(site.plates)
        else:  # an argument: its first dimension is the plate of as many rows
            plates = [rows[shape[0]]] if shape and shape[0] in rows else []
        names = [plate or f"{name}_dim_{i}" for i, plate in enumerate(plates)]
        events = len(shape) - len(names)
        if given and len(given) != events:
            raise ValueError(
                f"dims: {name!r} has shape {tuple(shape)} after {names or 'no plates'}; got"
                f" {len(given)} names ({', '.join(given)}), expected {events} or {len(shape)}"
            )
        return names + (given or [f"{name}_dim_{i + len(names)}" for i in range(events)])
