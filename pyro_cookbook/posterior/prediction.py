"""`predict`: what a fit says about new data."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from pyro_cookbook.fits.result import Fit, check_fit
from pyro_cookbook.posterior.groups import MAX_GIB, Sizes, plan
from pyro_cookbook.posterior.known import Known, independent_dims, known_latents
from pyro_cookbook.posterior.layout import (
    CHAINS,
    Coords,
    Dims,
    Group,
    Layout,
    constants,
    data,
)
from pyro_cookbook.programs.checks import check_names
from pyro_cookbook.programs.density.log_density import first_line
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.options import check_positive, check_whole
from pyro_cookbook.programs.predictive import derived_values, predictive
from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.state.isolation import isolated


def predict(
    fit: Fit,
    *new_data: Any,
    data_kwargs: Mapping[str, Any] | None = None,
    known: Collection[str] | None = None,
    num_draws: int | None = None,
    seed: int = 0,
    coords: Coords | None = None,
    dims: Dims | None = None,
    sample_dims: Sequence[str] = CHAINS,
    max_gib: float = MAX_GIB,
    **kwargs: Any,
) -> xr.DataTree:
    """Draw what new data leave open, and the latents behind it.

    The *rows* of the data are the plate of the first dimension of what is observed. Without
    observations, new data have new rows, as many as they may be: their latents are drawn from the
    model. Plates of other things (groups, components, features) are known: the first entries are
    those of the fit, entries beyond are drawn from the model given all that is known.

    Parameters
    ----------
    fit : Fit
    *new_data, data_kwargs, **kwargs
        What the model is to be called with; leave out what is to be predicted. With observations,
        an amortised guide infers the latents of their rows. With the training observations and
        something beyond them, a horizon or later inputs, the history is held and the rest
        predicted. Without any data: the training data.
    known : collection of str, optional
        Names of plates, or of sites in plates, whose entries are those of the fit; sites outside
        of plates always are. Default: all plates but the rows, and the rows too for the training
        observations.
    num_draws : int, optional
        Default: 1000, or as many as fill half of `max_gib`.
    seed : int, default 0
    coords, dims, sample_dims, max_gib
        As for `to_datatree`.

    Returns
    -------
    xarray.DataTree
        Groups predictions (what the call leaves unobserved and what the fit does not know; where
        that is nothing, new draws of all observations: they are never echoed), posterior (the
        latents behind them) and predictions_constant_data.

    Raises
    ------
    ValueError
        If the model does not run on the new data; if rows or groups with observations of their own
        are new to a guide with one factor for each old one; if entries of a site that are new
        depend on known ones in a way that the model does not say.

    Notes
    -----
    Latents of new rows or groups are drawn from the model *given* the latents that are known and
    the history: where new observations say more of them, fit the model to all data.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(x, y=None):
    ...     slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(x)):
    ...         pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
    >>> x = torch.arange(5.0)
    >>> tree = pc.predict(pc.fit(model, "full_rank", x, 2 * x), torch.tensor([10.0, 20.0]))
    >>> tree.predictions["y"].mean(("chain", "draw")).round().values.tolist()
    [20.0, 40.0]
    """
    check_fit(fit)
    check_whole(1, num_draws=num_draws)
    check_positive(max_gib=max_gib)
    trained, _ = fit.programs
    all_kwargs = {**kwargs, **(data_kwargs or {})}
    asked = trained.on(*new_data, **all_kwargs) if new_data or all_kwargs else trained
    with isolated(seed, fit.param_state):
        _check_runs(asked)
        check_names(asked)
        observed = [name for name, site in trained.sites.items() if site.is_data]
        layout = Layout(asked.sites, coords, dims, sample_dims, data_sites=observed)
        source = known_latents(fit, asked, known)
        wanted = _wanted(trained, asked, observed)
        todo = plan(_sizes(asked, source.guide), num_draws, max_gib)
        names = ("predictions", "posterior")
        groups = {name: Group(np.arange(todo.num_draws)) for name in names}
        for at in todo.chunks():
            values = _draw(asked, source, at.stop - at.start, again=not wanted)
            for name, value in values.items():
                new = name in (wanted or observed)
                groups[names[0] if new else names[1]].write(at, {name: value})
        groups["predictions_constant_data"] = data(constants(asked))
    return layout.tree(groups)


def _check_runs(asked: Program) -> None:
    try:
        asked.sites  # noqa: B018 - found here and kept
    except Exception as error:  # whatever the reader's model raises
        raise ValueError(
            f"new_data: the model does not run on them ({first_line(error)}); what is to be"
            " predicted may be left out if it has the default None"
        ) from error


def _wanted(trained: Program, asked: Program, observed: Collection[str]) -> list[str]:
    """Sites to predict: observed in training and open now, or not there in training."""
    there = {name for name, site in trained.sites.items() if site.shape.numel()}
    return [
        name
        for name, site in asked.sites.items()
        if site.shape.numel() and (not site.observed or site.deterministic)
        if name in observed or name not in there
    ]


def _sizes(asked: Program, guide: Program) -> Sizes:
    values = [node["value"] for node in asked.nodes.values()]
    scalars = sum(site.shape.numel() for site in guide.sites.values())
    return Sizes(
        posterior=sum(value.numel() * value.element_size() for value in values),
        pointwise=0,
        scalars=scalars + 2 * sum(value.numel() for value in values),
    )


def _draw(asked: Program, source: Known, num_draws: int, *, again: bool) -> dict[str, Tensor]:
    """Draw all sites of the model on new data; with what is observed held, or drawn again."""
    wide = asked.wide  # a matrix that cannot be factorised in single precision can be in double
    drawn = wide.to_own(draw(source.guide, num_draws).values)
    given: dict[str, Tensor] = {}
    for name in asked.latents:
        if name in source.sites and name in drawn:
            given[name] = _entries(wide, name, drawn[name], given)
    if not again:
        found = draw(wide, num_draws, given).values
    else:
        found = {**given, **predictive(asked, given, num_draws)}
        if given:  # computed values are those at the data, not at what is drawn again
            found |= derived_values(asked, given)
    dtypes = {name: node["value"].dtype for name, node in asked.nodes.items()}
    return {name: value.to(dtypes[name]) for name, value in found.items() if value.numel()}


def _entries(asked: Program, name: str, value: Tensor, given: Mapping[str, Tensor]) -> Tensor:
    """Known entries of a site in its new size: the first ones; new ones come from the model."""
    old, new = value.shape[1:], asked.sites[name].shape
    if old == new:
        return value
    known = (slice(None), *(slice(0, min(pair)) for pair in zip(old, new, strict=False)))
    if len(old) == len(new) and all(a >= b for a, b in zip(old, new, strict=True)):
        return value[known]
    grown = [i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]]
    if len(old) != len(new) or max(grown) >= independent_dims(asked.nodes[name]):
        raise ValueError(
            f"new_data: site {name!r} was fitted with shape {tuple(old)}, these data need"
            f" {tuple(new)}, and its new entries depend on the known ones; write it with"
            " independent latents in a plate"
        )
    # Sites before it are given by now, so that groups in groups are drawn given theirs.
    fresh = draw(asked, len(value), given).values[name].clone()
    fresh[known] = value[known]
    return fresh
