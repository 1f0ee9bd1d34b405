"""From Pyro to ArviZ: fits by SVI and by MCMC as an xarray DataTree."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_cookbook.fits.refined import RefinedDraws
from pyro_cookbook.fits.result import Fit, check_fit
from pyro_cookbook.posterior.groups import (
    MAX_GIB,
    Plan,
    guide_draws,
    model_groups,
    plan,
    prior_groups,
    sizes_of,
    sliced,
)
from pyro_cookbook.posterior.layout import CHAINS, Array, Coords, Dims, Group, Layout, Values
from pyro_cookbook.posterior.resampling import resample
from pyro_cookbook.programs.checks import check_names
from pyro_cookbook.programs.options import check_positive, check_whole
from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.state.isolation import isolated


def to_datatree(
    fit: Fit,
    *,
    num_draws: int | None = None,
    seed: int = 0,
    coords: Coords | None = None,
    dims: Dims | None = None,
    sample_dims: Sequence[str] = CHAINS,
    reweight: bool = False,
    max_gib: float = MAX_GIB,
) -> xr.DataTree:
    """Draw from a fit and lay everything out in ArviZ's groups.

    Parameters
    ----------
    fit : Fit
    num_draws : int, optional
        Draws of the posterior. Default: 1000, or as many as leave half of `max_gib` free.
    seed : int, default 0
    coords : mapping of str to array_like, optional
        Dimension → labels.
    dims : mapping of str to sequence of str, optional
        Variable → names of its event dimensions, or of all its dimensions. Plates name themselves.
    sample_dims : ("chain", "draw") or ("sample",)
        ArviZ looks for chain and draw unless it is told otherwise, so the draws are one chain by
        default. They are independent: R-hat has nothing to compare and is NaN.
    reweight : bool, default False
        Resample the posterior by its Pareto-smoothed importance weights: what to use after the
        verdict "reliable after reweighting".
    max_gib : float, default 1
        GiB that all groups may fill, in memory and on disk. Where they would fill more, fewer draws
        are kept of the predictive, the pointwise likelihood and the prior, evenly spread; their
        coordinate says which, the attribute ``kept`` why.

    Returns
    -------
    xarray.DataTree
        Groups posterior, posterior_predictive, log_likelihood (pointwise, in nats), sample_stats
        (log_p and, unless reweighted, log_q of every draw; the loss of every step), prior,
        prior_predictive, observed_data, constant_data, and theta for the model's parameters. A
        prior that cannot be drawn from is left out, and the attribute ``prior`` says why. Discrete
        latents that the guide leaves out are summed out, and named by ``summed_out``.

    Raises
    ------
    ValueError
        If `reweight` is asked for and the weights cannot carry it, or `num_draws` draws of the
        posterior alone fill more than `max_gib`.
    OSError
        If the disk is full.

    Notes
    -----
    Every variable of more than 64 MiB (`on_disk.ON_DISK`) is written, draws by draws, to a
    temporary file without a name, in the folder of the environment's TMPDIR, and mapped from there:
    making the tree takes the memory of a few draws, and ArviZ reads what it looks at.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(y)):
    ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
    >>> tree = pc.to_datatree(pc.fit(model, "full_rank", torch.tensor([1.0, 2.0, 3.0])))
    >>> tree.posterior["mean"].dims, tree.log_likelihood["y"].dims
    (('chain', 'draw'), ('chain', 'draw', 'row'))
    """
    check_fit(fit)
    check_whole(1, num_draws=num_draws)
    check_positive(max_gib=max_gib)
    if isinstance(fit.guide, RefinedDraws):
        return _refined_tree(fit, num_draws, coords, dims, sample_dims, max_gib)
    model, guide = fit.programs
    with isolated(seed, fit.param_state):
        check_names(model)
        layout = Layout(model.sites, coords, dims, sample_dims)
        todo = plan(sizes_of(model, guide), num_draws, max_gib)
        log_q = torch.empty(todo.num_draws, dtype=torch.double)
        if reweight:
            draws = sliced(resample(fit, todo.num_draws, seed), todo)
        else:
            draws = guide_draws(model, guide, todo, log_q)
        groups, attrs = _collect(model, draws, todo)
    stats = groups["sample_stats"].values
    stats["log_p"] = stats.pop("lp")
    if not reweight:  # the density of resampled draws is not q's
        stats["log_q"] = log_q.numpy()
    tree = layout.tree(groups, parameters(fit.model))
    losses = xr.DataArray(fit.losses, dims=["step"], name="loss")
    tree["sample_stats"] = xr.DataTree(tree["sample_stats"].to_dataset().assign(loss=losses))
    tree.attrs.update(
        attrs,
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
    return tree


def _refined_tree(
    fit: Fit,
    num_draws: int | None,
    coords: Coords | None,
    dims: Dims | None,
    sample_dims: Sequence[str],
    max_gib: float,
) -> xr.DataTree:
    """Lay out the draws of a refined fit, chain by chain, or `num_draws` of them evenly spread."""
    guide = fit.guide
    assert isinstance(guide, RefinedDraws)
    latents, diverging = guide.latents, guide.diverging.numpy()
    if num_draws is not None and num_draws < diverging.size:
        each = max(1, num_draws // len(diverging))
        kept = np.linspace(0, diverging.shape[1] - 1, each).round().astype(int)
        index = (np.arange(len(diverging))[:, None] * diverging.shape[1] + kept).ravel()
        latents = {name: value[index] for name, value in latents.items()}
        diverging = diverging[:, kept]
    if tuple(sample_dims) != CHAINS:
        diverging = diverging.reshape(1, -1)
    tree = mcmc_tree(
        fit.programs.model, latents, diverging, coords=coords, dims=dims, max_gib=max_gib,
        sample_dims=sample_dims,
    )  # fmt: skip
    tree.attrs.update(guide=fit.family, engine=fit.engine, why=fit.why, reason=fit.reason)
    tree.attrs.update(seed=fit.seed, converged=int(fit.converged))
    return tree


def mcmc_tree(
    model: Program,
    latents: Values,
    diverging: Array,
    *,
    coords: Coords | None = None,
    dims: Dims | None = None,
    max_gib: float = MAX_GIB,
    sample_dims: Sequence[str] = CHAINS,
) -> xr.DataTree:
    """Lay out draws of a Markov chain: latents of shape (chains · draws, ...), chain by chain."""
    with isolated(0, model.store):
        check_names(model)
        layout = Layout(model.sites, coords, dims, sample_dims, len(diverging))
        latents = {name: value for name, value in latents.items() if name in model.sites}
        chains = len(diverging)
        todo = plan(sizes_of(model), diverging.size, max_gib, num_chains=chains, exist=True)
        groups, attrs = _collect(model, sliced(latents, todo), todo)
    groups["sample_stats"].values["diverging"] = diverging.ravel()
    tree = layout.tree(groups, parameters(model.function))
    tree.attrs.update(attrs)
    return tree


def _collect(model: Program, draws: Any, todo: Plan) -> tuple[dict[str, Group], dict[str, str]]:
    """Fill every group, and say in attributes what is not as asked for."""
    groups, log_p = model_groups(model, draws, todo)
    prior, why_not = prior_groups(model, todo)
    groups["sample_stats"] = Group(np.arange(todo.num_draws), {"lp": log_p.numpy()})
    latents = (name for name, site in model.sites.items() if not site.observed)
    summed = [name for name in latents if name not in groups["posterior"].values]
    notes = {"kept": todo.note, "prior": why_not, "summed_out": ", ".join(summed)}
    attrs = {"inference_library": "pyro", "inference_library_version": pyro.__version__}
    return groups | prior, attrs | {key: note for key, note in notes.items() if note}


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
