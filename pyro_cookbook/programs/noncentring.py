"""Non-centring: which sites call for it, and a model with them non-centred."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from torch.distributions import biject_to

from pyro_cookbook.programs.observing import MaskedSite, Node
from pyro_cookbook.programs.program import Program, quietly

# Families that LocScaleReparam can split into location, scale and a standard draw.
_LOC_SCALE = (dist.Normal, dist.Laplace, dist.Cauchy, dist.StudentT, dist.Gumbel)


def candidates(program: Program) -> tuple[str, ...]:
    """Latent sites of a location-scale family whose location or scale depends on another latent.

    Found by moving the other latents and looking whether the site's distribution moves; none where
    the model cannot be run at the moved latents.
    """
    program = program.wide  # there a matrix may have an inverse in double precision alone
    latent = {name: program.nodes[name] for name in program.latents}
    if any(node["fn"].support.is_discrete for node in latent.values()):
        return ()
    found = []
    try:
        first, second = (_moved(program, latent, shift) for shift in (0.0, 0.7))
    except (NotImplementedError, torch.linalg.LinAlgError):  # no bijection to the reals; singular
        return ()
    for name, node in latent.items():
        if not isinstance(_base(node["fn"]), _LOC_SCALE):
            continue
        before, after = _base(first[name]["fn"]), _base(second[name]["fn"])
        if not (torch.equal(before.loc, after.loc) and torch.equal(before.scale, after.scale)):
            found.append(name)
    return tuple(found)


def noncentre(program: Program, sites: bool | Sequence[str]) -> tuple[Program, tuple[str, ...]]:
    """Non-centre sites of a model.

    Parameters
    ----------
    program : Program
    sites : True or sequence of str
        True: every one of `candidates`.

    Returns
    -------
    program : Program
        θ = loc + scale · θ_decentered, with θ_decentered sampled and θ deterministic.
    sites : tuple of str
        The sites that were non-centred.

    Raises
    ------
    ValueError
        If a site named cannot be non-centred, or there is none to non-centre.
    """
    possible = candidates(program)
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
    return program.of(poutine.reparam(program.function, config=config)), chosen


def _base(fn: Any) -> Any:
    """Undo `to_event` and idle entries, nothing else: LogNormal has a Normal inside and is none."""
    while isinstance(fn, (torch.distributions.Independent, MaskedSite)):
        fn = fn.base_dist
    return fn


def _moved(program: Program, latent: Mapping[str, Node], shift: float) -> dict[str, Node]:
    """Run the model with all latents moved on their unconstrained scale."""
    values = {name: program.nodes[name]["value"] for name in program.summed}  # these stay
    with quietly():
        for name, node in latent.items():
            transform = biject_to(node["fn"].support)
            unconstrained = transform.inv(node["value"])
            zero = torch.where(torch.isfinite(unconstrained), unconstrained, 0.0)
            values[name] = transform(zero + shift)
        held = poutine.condition(program, data=values)
        return dict(poutine.trace(held).get_trace().nodes)
