"""What can be wrong with a model, a guide or data before anything is fitted, in one line each."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_cookbook.programs.in_place import copy_data, refuse_in_place, refuse_iterators
from pyro_cookbook.programs.log_density import first_line
from pyro_cookbook.programs.program import Program


def first_run(model: Program) -> None:
    """Run a model on its data for the first time and look at what it observes.

    Raises
    ------
    ValueError
        If a run would use up the data or change them, the model does not run on them, a row is
        observed more than once by accident, or an observation lies outside the support of its
        distribution.
    """
    refuse_iterators(model)
    trial = copy_data(model)
    try:
        _ = trial.nodes
    except Exception as error:  # whatever the reader's model raises
        raise ValueError(
            f"model: it does not run on these data ({first_line(error)}); got {_shapes(model)}"
        ) from error
    refuse_in_place(model, trial)
    for name, node in model.nodes.items():
        if node["is_observed"]:
            _check_observed(name, node)


def _check_observed(name: str, node: Mapping[str, Any]) -> None:
    fn, value = node["fn"], node["value"]
    if not isinstance(value, Tensor) or not value.numel():  # a bare pyro.factor
        return
    batch = value.shape[: value.dim() - fn.event_dim]
    try:
        # NumPy's: torch's imports sympy, half a second.
        rows = torch.Size(np.broadcast_shapes(batch, fn.batch_shape))
    except ValueError:
        raise ValueError(
            f"site {name!r}: observations of shape {tuple(value.shape)} do not fit a distribution"
            f" of batch shape {tuple(fn.batch_shape)}"
        ) from None
    if rows.numel() > max(batch.numel(), torch.Size(fn.batch_shape).numel()):
        raise ValueError(
            f"site {name!r}: observations of shape {tuple(value.shape)} against a distribution of"
            f" batch shape {tuple(fn.batch_shape)} would be counted {rows.numel()} times; give"
            " both the same shape"
        )
    try:
        inside = fn.support.check(value)
    except (NotImplementedError, RuntimeError, ValueError):
        return
    if not bool(inside.all()):
        outside = tuple(int(i) for i in (~inside).nonzero()[0]) if inside.dim() else ()
        base = fn
        while hasattr(base, "base_dist"):
            base = base.base_dist
        where = f"observation {list(outside)}" if outside else "the observation"
        entry = value[outside] if outside else value
        shown = f" ({entry.item():g})" if entry.numel() == 1 else ""
        raise ValueError(
            f"site {name!r}: {where}{shown} is outside the support of {type(base).__name__}"
        )


def same_sites(model: Program, guide: Program) -> None:
    """Refuse a guide that has not exactly the model's latent sites.

    Raises
    ------
    ValueError
        Naming the sites that only one of the two has.
    """
    wanted = set(model.latents)
    drawn = {name for name, site in guide.latents.items() if not site.auxiliary}
    for missing, role, other in (
        (sorted(wanted - drawn), "guide", "model"),
        (sorted(drawn - wanted), "model", "guide"),
    ):
        if missing:
            listed = ", ".join(repr(name) for name in missing)
            raise ValueError(
                f"{role}: it has no latent site {listed}, which the {other} samples; every latent"
                " site of the model, and no other, has to be in the guide"
            )


def _shapes(model: Program) -> str:
    function = model.function
    target = function.forward if isinstance(function, nn.Module) else function
    try:
        given = dict(inspect.signature(target).bind_partial(*model.args, **model.kwargs).arguments)
    except (TypeError, ValueError):
        given = {f"argument {i}": value for i, value in enumerate(model.args)} | model.kwargs
    shown = [
        f"{name} {tuple(value.shape)}" if isinstance(value, Tensor) else f"{name} {value!r:.40}"
        for name, value in given.items()
    ]
    return ", ".join(shown) or "no data"
