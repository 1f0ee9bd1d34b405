"""What follows from draws of the latents: computed values, and new observations."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_cookbook.programs.drawing import (
    CHUNK_SCALARS,
    Program,
    draw,
    is_derived,
    quietly,
    sample_sites,
)


def derived_values(
    model: Program, values: Mapping[str, Tensor], *args: Any, **kwargs: Any
) -> dict[str, Tensor]:
    """Values of a model's deterministic sites at given latents.

    Parameters
    ----------
    model : callable
    values : mapping of str to Tensor
        Every latent site → values, shape (S, ...).
    *args, **kwargs
        The model's data.

    Returns
    -------
    dict of str to Tensor
        Deterministic site → values, shape (S, ...).
    """

    def one(given: dict[str, Tensor]) -> dict[str, Tensor]:
        held = poutine.condition(model, data=given)
        nodes = sample_sites(poutine.trace(held).get_trace(*args, **kwargs))
        return {name: node["value"] for name, node in nodes.items() if is_derived(node)}

    with quietly():
        first = one({name: value[0] for name, value in values.items()})
        if not first:
            return {}
        num_draws = len(next(iter(values.values())))
        chunk = max(1, CHUNK_SCALARS // max(1, 4 * sum(v.numel() for v in first.values())))
        try:
            return dict(torch.vmap(one, chunk_size=min(num_draws, chunk))(dict(values)))
        except Exception:  # as in `log_density`
            rows = [one({k: v[s] for k, v in values.items()}) for s in range(num_draws)]
            return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


class _Release(Messenger):
    """Lets observed sites be drawn, and leaves computed values computed."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not is_derived(msg) and not site_is_subsample(msg):
            msg["is_observed"], msg["value"], msg["done"] = False, None, False


def released(model: Program) -> Program:
    """Return the model with its observed sites drawn anew."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with _Release():
            return model(*args, **kwargs)

    return run


def predictive(
    model: Program, values: Mapping[str, Tensor], num_draws: int, *args: Any, **kwargs: Any
) -> dict[str, Tensor]:
    """Draw what is observed anew, given latents; without latents, from the prior.

    Every observed site is released first, so that the data are never echoed.

    Returns
    -------
    dict of str to Tensor
        Every sample site of the model → values, shape (S, ...).
    """
    drawn = draw(released(model), num_draws, *args, given=values, **kwargs)
    return {name: value for name, value in drawn.values.items() if name not in values}
