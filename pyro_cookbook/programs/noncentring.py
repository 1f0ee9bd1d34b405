"""Non-centring: which sites call for it, and a model with them non-centred."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from torch.distributions import biject_to

from pyro_cookbook.programs.drawing import Program, quietly, trace_once

# Families that LocScaleReparam can split into location, scale and a standard draw.
_LOC_SCALE = (dist.Normal, dist.Laplace, dist.Cauchy, dist.StudentT, dist.Gumbel)


@dataclass(frozen=True)
class Noncentred:
    """A model with sites non-centred.

    Attributes
    ----------
    model : callable
        θ = loc + scale · θ_decentered, with θ_decentered sampled and θ deterministic.
    sites : tuple of str
    """

    model: Callable[..., Any]
    sites: tuple[str, ...]


def candidates(model: Program, args: Any, kwargs: Any) -> tuple[str, ...]:
    """Latent sites of a location-scale family whose location or scale depends on another latent.

    Found by moving the other latents and looking whether the site's distribution moves.
    """
    nodes = trace_once(model, *args, **kwargs)
    latent = {name: node for name, node in nodes.items() if not node["is_observed"]}
    if any(node["fn"].support.is_discrete for node in latent.values()):
        return ()
    found = []
    try:
        first, second = (_moved(model, latent, shift, args, kwargs) for shift in (0.0, 0.7))
    except NotImplementedError:  # a support without a bijection to the reals
        return ()
    for name, node in latent.items():
        if not isinstance(_base(node["fn"]), _LOC_SCALE):
            continue
        before, after = _base(first[name]["fn"]), _base(second[name]["fn"])
        if not (torch.equal(before.loc, after.loc) and torch.equal(before.scale, after.scale)):
            found.append(name)
    return tuple(found)


def noncentre(model: Program, sites: bool | Sequence[str], args: Any, kwargs: Any) -> Noncentred:
    """Non-centre sites of a model.

    Parameters
    ----------
    model : callable
    sites : True or sequence of str
        True: every one of `candidates`.
    args, kwargs
        The model's data.

    Raises
    ------
    ValueError
        If a site named cannot be non-centred, or there is none to non-centre.
    """
    possible = candidates(model, args, kwargs)
    chosen = possible if isinstance(sites, bool) else tuple(sites)
    for name in chosen:
        if name not in possible:
            raise ValueError(
                f"noncentred: site {name!r} has no location or scale that depends on another"
                f" latent; those that have: {', '.join(map(repr, possible)) or 'none'}"
            )
    if not chosen:
        raise ValueError(
            "noncentred: no latent site of the model has a location or scale that depends on"
            " another latent"
        )
    config: dict[str, Any] = {name: LocScaleReparam(centered=0.0) for name in chosen}
    return Noncentred(poutine.reparam(model, config=config), chosen)


def _base(fn: Any) -> Any:
    """Undo `to_event`, and nothing else: LogNormal has a Normal inside and is none."""
    while isinstance(fn, (dist.Independent, torch.distributions.Independent)):
        fn = fn.base_dist
    return fn


def _moved(model: Program, latent: Any, shift: float, args: Any, kwargs: Any) -> dict[str, Any]:
    """Run the model with all latents moved on their unconstrained scale."""
    values = {}
    with quietly():
        for name, node in latent.items():
            transform = biject_to(node["fn"].support)
            unconstrained = transform.inv(node["value"])
            zero = torch.where(torch.isfinite(unconstrained), unconstrained, 0.0)
            values[name] = transform(zero + shift)
        held = poutine.condition(model, data=values)
        return dict(poutine.trace(held).get_trace(*args, **kwargs).nodes)
