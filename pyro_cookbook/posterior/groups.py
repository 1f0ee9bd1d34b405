"""What a model says about draws of its latents, in chunks, so that memory stays bounded."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_cookbook.posterior.layout import Array, Group, Values, constants, data
from pyro_cookbook.programs.density.log_density import log_density, total
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.predictive import derived_values, predictive
from pyro_cookbook.programs.program import Program

# Draws of a tree, where nothing else is asked for.
NUM_DRAWS = 1000
# What a tree may fill unless it is allowed more: a laptop keeps as much free beside a fit.
MAX_GIB = 1.0
# Scalars of one chunk, and how often each is held at a time: drawn, spread, checked, its density.
_CHUNK_SCALARS, _COPIES = 2**25, 8
# Of the latents' draws the posterior may take this share if their number is ours to choose.
_POSTERIOR_SHARE = 0.5


@dataclass(frozen=True)
class Plan:
    """How many draws are made, which of them are kept whole, and how many at a time.

    Attributes
    ----------
    num_draws : int
        S, of the posterior.
    kept : array of int
        Draws of which the predictive, the pointwise likelihood and the prior are kept, evenly
        spread over S; empty if not even one fits.
    chunk : int
    note : str
        What had to be left out, and why; "" if nothing.
    """

    num_draws: int
    kept: Array
    chunk: int
    note: str = ""

    def kept_of(self, at: slice) -> tuple[slice, Tensor]:
        """Say where the kept draws of a chunk belong, and which of the chunk's they are."""
        first, last = np.searchsorted(self.kept, [at.start, at.stop])
        return slice(first, last), torch.as_tensor(self.kept[first:last] - at.start)

    def chunks(self) -> Iterator[slice]:
        """Slices of the draws, one after the other."""
        for start in range(0, self.num_draws, self.chunk):
            yield slice(start, min(start + self.chunk, self.num_draws))


class Sizes(NamedTuple):
    """Bytes of one draw in the posterior and in all other groups, and scalars it fills."""

    posterior: int
    pointwise: int
    scalars: int


def plan(
    sizes: Sizes,
    num_draws: int | None,
    max_gib: float,
    *,
    num_chains: int = 1,
    exist: bool = False,
) -> Plan:
    """Share the memory that a tree may fill out among its groups.

    Parameters
    ----------
    sizes : Sizes
    num_draws : int or None
        What was asked for. None: 1000, or as many as leave half of the memory free.
    max_gib : float
    num_chains : int, default 1
        Draws are kept evenly in each of them.
    exist : bool, default False
        The draws are there already, whatever they fill.

    Raises
    ------
    ValueError
        If so many draws of the posterior alone fill more.
    """
    posterior, pointwise, scalars = sizes
    limit = int(max_gib * 2**30)
    if num_draws is None:
        affordable = int(limit * _POSTERIOR_SHARE) // max(1, posterior)
        num_draws = int(np.clip(affordable, 1, NUM_DRAWS))
    if num_draws * posterior > limit and not exist:
        raise ValueError(
            f"num_draws: {num_draws} draws fill {gib(num_draws * posterior)}, more than"
            f" max_gib={max_gib:g} allows; ask for at most {limit // posterior}"
        )
    per_chain = num_draws // num_chains
    free = max(0, limit - num_draws * posterior)
    fit = min(per_chain, free // max(1, pointwise * num_chains))
    note = ""
    if fit < per_chain:
        note = (
            f"{fit * num_chains} of {num_draws} draws of the predictive, the likelihood and the"
            f" prior are kept: all draws fill {gib(num_draws * (posterior + pointwise))},"
            f" max_gib={max_gib:g}"
        )
    step = np.arange(fit) * per_chain // max(1, fit)
    kept = (np.arange(num_chains)[:, None] * per_chain + step).ravel()
    chunk = int(np.clip(_CHUNK_SCALARS // (_COPIES * max(1, scalars)), 1, num_draws))
    return Plan(num_draws, kept, chunk, note)


def gib(size: float) -> str:
    """Write a number of bytes."""
    return f"{size / 2**30:.2g} GiB"


def sizes_of(model: Program, guide: Program | None = None) -> Sizes:
    """Find what one draw of a model's groups fills, and of the guide that draws it."""
    values: dict[str, Tensor] = {name: node["value"] for name, node in model.nodes.items()}
    wide = own_dtype(model).itemsize
    posterior = pointwise = 0
    scalars = sum(site.shape.numel() for site in guide.sites.values()) if guide else 0
    for name, site in model.sites.items():
        size = values[name].numel() * values[name].element_size()
        scalars += values[name].numel() + site.batch_shape.numel()
        if site.is_data:  # new ones, those of the prior, and a density for each
            pointwise += 2 * size + site.batch_shape.numel() * wide
        else:
            posterior += size
            pointwise += size  # of the prior
    return Sizes(posterior, pointwise, scalars)


def own_dtype(model: Program) -> torch.dtype:
    """Find the widest floating-point type among a model's latents; the default without any."""
    types = [model.nodes[name]["value"].dtype for name in model.latents]
    floats = [dtype for dtype in types if dtype.is_floating_point]
    return max(floats, key=lambda dtype: dtype.itemsize, default=torch.get_default_dtype())


def model_groups(
    model: Program, draws: Iterable[tuple[slice, Values]], plan: Plan
) -> tuple[dict[str, Group], Tensor]:
    """Collect what the model says about given draws of its latents.

    Parameters
    ----------
    model : Program
    draws : iterable of (slice, mapping of str to Tensor)
        Where a chunk's draws belong, and the latents' values, shape (chunk, ...).
    plan : Plan

    Returns
    -------
    groups : dict of str to Group
        posterior, posterior_predictive, log_likelihood, observed_data and constant_data.
    log_p : Tensor, shape (S,)
        log p(v, h), in nats.
    """
    sites = model.sites
    names = [name for name, site in sites.items() if site.is_data]
    dense = [name for name, site in sites.items() if site.observed and not site.deterministic]
    groups = {
        "posterior": Group(np.arange(plan.num_draws)),
        "posterior_predictive": Group(plan.kept),
        "log_likelihood": Group(plan.kept),
        "observed_data": data({name: model.observed[name] for name in names}),
        "constant_data": data(constants(model)),
    }
    log_p = torch.empty(plan.num_draws, dtype=torch.double)
    dtype = own_dtype(model)  # densities are computed in double precision, and kept in the data's
    for at, latents in draws:
        groups["posterior"].write(at, {**latents, **derived_values(model, latents)})
        density = log_density(model, latents)
        log_p[at] = total(density)
        place, kept = plan.kept_of(at)
        if not len(kept):
            continue
        some = {name: value[kept] for name, value in latents.items()}
        some_density = {name: density[name][kept].to(dtype) for name in dense}
        groups["log_likelihood"].write(place, some_density)
        new = predictive(model, some, len(kept))
        groups["posterior_predictive"].write(place, {name: new[name] for name in names})
    return groups, log_p


def prior_groups(model: Program, plan: Plan) -> tuple[dict[str, Group], str]:
    """Draw from the prior; without groups, and why not, if that is not possible."""
    num_draws, sites = len(plan.kept), model.sites
    groups = {name: Group(np.arange(num_draws)) for name in ("prior", "prior_predictive")}
    for start in range(0, num_draws, plan.chunk):
        at = slice(start, min(start + plan.chunk, num_draws))
        try:
            drawn = predictive(model, {}, at.stop - at.start)
        except (NotImplementedError, ValueError, RuntimeError) as error:  # an improper prior
            text = str(error).strip() or "improper"
            return {}, f"not drawn: {text.splitlines()[0]}"
        for name, value in drawn.items():
            if name in sites and value.numel():
                group = "prior_predictive" if sites[name].is_data else "prior"
                groups[group].write(at, {name: value})
    return groups, ""


def guide_draws(
    model: Program, guide: Program, plan: Plan, log_q: Tensor
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Draw a model's latents from a guide, chunk by chunk, and note their log density."""
    for at in plan.chunks():
        drawn = draw(guide, at.stop - at.start)
        log_q[at] = drawn.total()
        yield at, {name: drawn.values[name] for name in model.sites if name in drawn.values}


def sliced(values: Values, plan: Plan) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Cut draws that are there already into chunks."""
    for at in plan.chunks():
        yield at, {name: value[at] for name, value in values.items()}
