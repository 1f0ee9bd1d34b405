"""`predict`: what a fit says about new data."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr

from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.datatree import Coords, Dims, Layout, constants, observed_values
from pyro_cookbook.programs.drawing import describe, draw
from pyro_cookbook.programs.isolation import isolated
from pyro_cookbook.programs.predictive import predictive


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
    with isolated(seed, fit.param_state):
        old = describe(fit.model, *fit.args, **fit.kwargs)
        new = describe(fit.model, *args, **all_kwargs)
        observed = [name for name, site in old.items() if site.is_data]
        is_blind = not any(new[name].observed for name in observed if name in new)
        # Without observations there is nothing to infer from: old rows' guide will do.
        on_old = is_blind and not _takes(fit.guide, args, all_kwargs)
        guide_data = (fit.args, fit.kwargs) if on_old else (args, all_kwargs)
        drawn = draw(fit.guide, num_draws, *guide_data[0], **guide_data[1])
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
        values = predictive(fit.model, given, num_draws, *args, **all_kwargs)
        seen = observed_values(fit.model, args, all_kwargs)
    groups = {
        "predictions": {name: values[name] for name in observed if name in values},
        "posterior": {
            **given,
            **{name: v for name, v in values.items() if name not in observed and v.numel()},
        },
        "predictions_constant_data": constants(fit.model, args, all_kwargs, seen),
    }
    return Layout(coords or {}, dims or {}, ("sample",)).tree(groups, new, {})


def _takes(guide: Any, args: Any, kwargs: Any) -> bool:
    """Whether a guide runs on these data."""
    target = guide.forward if isinstance(guide, torch.nn.Module) else guide
    try:
        inspect.signature(target).bind(*args, **kwargs)
        describe(guide, *args, **kwargs)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True
