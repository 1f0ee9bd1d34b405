"""What follows from draws of the latents: computed values, and new observations."""

from typing import Any

import pyro.distributions as dist
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_cookbook.programs.density.log_density import Values, chunk_size, over_draws
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.observing import as_observation, is_derived, spread
from pyro_cookbook.programs.program import Program, quietly, sample_sites


def derived_values(program: Program, values: Values) -> dict[str, Tensor]:
    """Values of a model's deterministic sites at given latents.

    Parameters
    ----------
    program : Program
    values : mapping of str to Tensor
        Every latent site → values, shape (S, ...).

    Returns
    -------
    dict of str to Tensor
        Deterministic site → values, shape (S, ...).
    """
    derived = {name: site for name, site in program.sites.items() if site.deterministic}
    if not derived:
        return {}

    wide = program.wide

    def one(given: dict[str, Tensor]) -> dict[str, Tensor]:
        nodes = sample_sites(poutine.trace(poutine.condition(wide, data=given)).get_trace())
        return {name: node["value"] for name, node in nodes.items() if is_derived(node)}

    scalars = sum(site.shape.numel() for site in derived.values())
    num_draws = len(next(iter(values.values())))
    with quietly():
        found, _ = over_draws(one, wide.to_own(values), chunk=chunk_size(scalars, num_draws))
    return _as_in(program, found)


class _Release(Messenger):
    """Lets observed sites be drawn, in the shape observed, and leaves computed values computed."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not is_derived(msg) and not site_is_subsample(msg):
            if not isinstance(msg["fn"], dist.Unit):  # as many rows as were observed
                observation = as_observation(msg["name"], msg["fn"], msg["value"])
                msg["fn"] = spread(msg["fn"], observation)
            msg["is_observed"], msg["value"], msg["done"] = False, None, False


def released(program: Program) -> Program:
    """Give the program with its observed sites drawn anew."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with _Release():
            return program.function(*args, **kwargs)

    return program.of(run)


def predictive(program: Program, values: Values, num_draws: int) -> dict[str, Tensor]:
    """Draw what is observed anew, given latents; without latents, from the prior.

    Every observed site is released first, so that the data are never echoed.

    Returns
    -------
    dict of str to Tensor
        Every sample site of the model that was not given → values, shape (S, ...).
    """
    wide = program.wide
    drawn = draw(released(wide), num_draws, wide.to_own(values))
    new = {name: value for name, value in drawn.values.items() if name not in values}
    return _as_in(program, new)


def _as_in(program: Program, values: Values) -> dict[str, Tensor]:
    """Give values the dtypes that they have in a run of the program."""
    dtypes = {name: node["value"].dtype for name, node in program.nodes.items()}
    return {name: value.to(dtypes.get(name, value.dtype)) for name, value in values.items()}
