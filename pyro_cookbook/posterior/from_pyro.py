"""From Pyro's own SVI and MCMC to the same trees."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from pyro.infer import MCMC

from pyro_cookbook.fits.fitting import as_fit
from pyro_cookbook.posterior.datatree import mcmc_tree, to_datatree
from pyro_cookbook.posterior.groups import MAX_GIB
from pyro_cookbook.posterior.layout import Coords, Dims
from pyro_cookbook.programs.program import Function, Program
from pyro_cookbook.programs.state.copying import copy_as_trained


def from_pyro_svi(
    model: Function, guide: Function, *data: Any, losses: Sequence[float] = (), **options: Any
) -> xr.DataTree:
    """Convert a model and guide trained by a loop of your own.

    Parameters
    ----------
    model, guide : callable
        The trained programs; parameters in Pyro's global store are found too.
    *data
        What they are called with. Discrete latents that the guide leaves out, as for
        ``TraceEnum_ELBO``, are summed out.
    losses : sequence of float, optional
        −ELBO at every step.
    **options
        ``num_draws``, ``seed``, ``coords``, ``dims``, ``sample_dims``, ``reweight`` and
        ``max_gib`` go to `to_datatree`; the rest is keyword data.

    Returns
    -------
    xarray.DataTree
        As `to_datatree`.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(y)):
    ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> y = torch.tensor([1.0, 2.0, 3.0])
    >>> from pyro.infer import SVI, Trace_ELBO
    >>> from pyro.infer.autoguide import AutoNormal
    >>> guide = AutoNormal(model)
    >>> svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    >>> with pyro.get_param_store().scope():
    ...     losses = [svi.step(y) for _ in range(50)]
    ...     tree = pc.from_pyro_svi(model, guide, y, losses=losses)
    >>> tree["sample_stats"]["loss"].sizes["step"]
    50
    """
    names = inspect.signature(to_datatree).parameters
    layout = {key: options.pop(key) for key in list(options) if key in names and key != "fit"}
    fit = as_fit(model, guide, *data, losses=losses, data_kwargs=options)
    return to_datatree(fit, **layout)


def from_pyro_mcmc(
    mcmc: MCMC,
    *,
    coords: Coords | None = None,
    dims: Dims | None = None,
    max_gib: float = MAX_GIB,
) -> xr.DataTree:
    """Convert a finished run of Pyro's MCMC into the same shape of tree.

    Parameters
    ----------
    mcmc : pyro.infer.MCMC
        After ``run``, with a kernel made from a model.
    coords, dims, max_gib
        As for `to_datatree`; all draws of the posterior are kept.

    Returns
    -------
    xarray.DataTree
        With sample dimensions (chain, draw); sample_stats holds lp (log p(v, h), in nats) and
        diverging. Discrete latents, which Pyro sums out, are not in the posterior: lp and
        log_likelihood are sums over them as well, new observations have new ones, and the
        attribute ``summed_out`` names them.

    Raises
    ------
    ValueError
        If the run has not happened, or its kernel has no model.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(y)):
    ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> y = torch.tensor([1.0, 2.0, 3.0])
    >>> from pyro.infer import MCMC, NUTS
    >>> mcmc = MCMC(NUTS(model), num_samples=20, warmup_steps=10, disable_progbar=True)
    >>> mcmc.run(y)
    >>> dict(pc.from_pyro_mcmc(mcmc)["posterior"]["mu"].sizes)
    {'chain': 1, 'draw': 20}
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
    own, _ = copy_as_trained(Program(model, args, kwargs))
    return mcmc_tree(own, latents, diverging, coords=coords, dims=dims, max_gib=max_gib)
