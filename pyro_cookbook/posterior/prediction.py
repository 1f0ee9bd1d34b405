"""`predict`: what a fit says about new data."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr

from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.datatree import constants
from pyro_cookbook.posterior.layout import Coords, Dims, Layout
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.isolation import isolated
from pyro_cookbook.programs.predictive import predictive
from pyro_cookbook.programs.program import Program


def predict(
    fit: Fit,
    *new_data: Any,
    data_kwargs: Mapping[str, Any] | None = None,
    num_draws: int = 1000,
    seed: int = 0,
    coords: Coords | None = None,
    dims: Dims | None = None,
    **kwargs: Any,
) -> xr.DataTree:
    """Draw latents and observations for new data. Observations are never echoed.

    Parameters
    ----------
    fit : Fit
    *new_data, data_kwargs, **kwargs
        What the model is to be called with; leave out what is to be predicted. With the observed
        argument given, an amortized guide infers the latents of those rows, and new observations
        are drawn from them. Without any data: the training data.
    num_draws : int, default 1000
    seed : int, default 0
    coords, dims : mapping, optional
        As for `to_datatree`.

    Returns
    -------
    xarray.DataTree
        Groups predictions (the observed sites), posterior (the latents behind them) and
        predictions_constant_data.

    Raises
    ------
    ValueError
        If rows with data of their own are new to a guide that has one factor for each old row.
    """
    args, all_kwargs = new_data, {**kwargs, **(data_kwargs or {})}
    if not args and not all_kwargs:
        args, all_kwargs = fit.args, fit.kwargs
    model, guide = fit.programs
    asked = model.on(*args, **all_kwargs)
    with isolated(seed, fit.param_state):
        new = asked.sites
        observed = [name for name, site in model.sites.items() if site.is_data]
        is_blind = not any(new[name].observed for name in observed if name in new)
        # Without observations there is nothing to infer from: old rows' guide will do.
        informed = asked.of(fit.guide)
        drawn = draw(guide if is_blind and not _runs(informed) else informed, num_draws)
        given = {}
        for name, value in drawn.values.items():
            if name not in new:
                continue
            if value.shape[1:] == new[name].shape:
                given[name] = value
            elif not is_blind:
                raise ValueError(
                    f"new_data: site {name!r} was fitted with shape {tuple(value.shape[1:])}, the"
                    f" new rows need {tuple(new[name].shape)}; only an amortized guide infers new"
                    " rows"
                )
        values = predictive(asked, given, num_draws)
    groups = {
        "predictions": {name: values[name] for name in observed if name in values},
        "posterior": {
            **given,
            **{name: v for name, v in values.items() if name not in observed and v.numel()},
        },
        "predictions_constant_data": constants(asked),
    }
    return Layout(coords or {}, dims or {}, ("sample",)).tree(groups, new, {})


def _runs(guide: Program) -> bool:
    """Whether a guide runs on its data."""
    function = guide.function
    target = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        inspect.signature(target).bind(*guide.args, **guide.kwargs)
        return bool(guide.sites)
    except (TypeError, ValueError, RuntimeError):
        return False
