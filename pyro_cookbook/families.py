"""Families of guides by name, for any model with continuous latents."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pyro.infer import autoguide
from pyro.nn import PyroModule

from pyro_cookbook.draws import Program, Site

# Up to this many latent scalars "auto" can afford a full covariance.
MAX_FULL_RANK = 100

FAMILIES: dict[str, Callable[..., PyroModule]] = {
    "map": autoguide.AutoDelta,
    "laplace": autoguide.AutoLaplaceApproximation,
    "mean_field": autoguide.AutoNormal,
    "low_rank": autoguide.AutoLowRankMultivariateNormal,
    "full_rank": autoguide.AutoMultivariateNormal,
    "flow": partial(autoguide.AutoIAFNormal, num_transforms=2),
}


def choose(sites: Mapping[str, Site]) -> str:
    """Name the family behind "auto": full rank while its covariance is small, else mean field."""
    dim = num_latents(sites)
    return "full_rank" if dim <= MAX_FULL_RANK else "mean_field"


def num_latents(sites: Mapping[str, Site]) -> int:
    """Count the latent scalars of a program."""
    return sum(site.shape.numel() for site in sites.values() if not site.observed)


def build(name: str, model: Program, sites: Mapping[str, Site]) -> PyroModule:
    """Make the guide of a family.

    Parameters
    ----------
    name : str
        One of `FAMILIES`. Each is the textbook family in the model's unconstrained coordinates.
    model : callable
    sites : mapping
        The model's sites, as `describe` gives them.

    Raises
    ------
    ValueError
        For an unknown name, a model without latents, or a discrete latent, naming the site.
    """
    if name not in FAMILIES:
        raise ValueError(f"guide: got {name!r}, expected a guide or one of {', '.join(FAMILIES)}")
    latents = {key: site for key, site in sites.items() if not site.observed}
    if not latents:
        raise ValueError(f"model: it has no latent site for guide {name!r} to approximate")
    for key, site in latents.items():
        if site.is_discrete:
            raise ValueError(
                f"guide: site {key!r} is discrete, and family {name!r} needs continuous latents;"
                " sum it out of the model or give a guide of your own"
            )
    if name == "flow" and num_latents(sites) < 2:  # an autoregressive flow needs a predecessor
        raise ValueError("guide: 'flow' needs two latent scalars or more, got 1; use 'full_rank'")
    options: dict[str, Any] = {} if name in {"map", "flow"} else {"init_scale": 0.1}
    if name == "laplace":
        options = {}
    return FAMILIES[name](model, **options)
