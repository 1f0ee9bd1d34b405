"""Many draws of a Pyro program at once, with the log density of each at every site.

No shape discipline is asked of the program. Drawing is tried in one vectorised run, under an outer
plate, and checked against single runs; where that fails the program is run once a draw. Densities
of given values are computed under `torch.vmap`, or one draw at a time where vmap cannot follow.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

Program = Callable[..., Any]

# Largest number of scalars alive in one vmapped chunk: 64 MiB of doubles.
CHUNK_SCALARS = 2**23
_OUTER_PLATE = "_draws"
# Draws of a vectorised run that are repeated one at a time, to see that the two agree.
_NUM_CHECKED = 3


@dataclass(frozen=True)
class Site:
    """A sample site of a program, as one run shows it.

    Attributes
    ----------
    plates : tuple of str
        Names of the enclosing plates, in the order of the batch dimensions; "" where a batch
        dimension has no plate.
    shape : torch.Size
        Shape of one value: batch, then event.
    event_dim : int
    observed : bool
    is_delta : bool
        The distribution is a point mass.
    is_discrete : bool
    auxiliary : bool
        A draw of the guide alone, from which other sites are computed.
    deterministic : bool
        Recorded by ``pyro.deterministic``.
    """

    plates: tuple[str, ...]
    shape: torch.Size
    event_dim: int
    observed: bool
    is_delta: bool
    is_discrete: bool
    auxiliary: bool = False
    deterministic: bool = False

    @property
    def is_data(self) -> bool:
        """Whether the site holds data: observed, no derived value, no bare ``pyro.factor``."""
        return self.observed and not self.deterministic and self.shape.numel() > 0

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the site's log density."""
        return self.shape[: len(self.shape) - self.event_dim]


@dataclass(frozen=True)
class Draws:
    """S draws of a program.

    Attributes
    ----------
    values : dict of str to Tensor
        Site → values, shape (S, batch..., event...).
    log_prob : dict of str to Tensor
        Site → log density (scaled, as in the bound), shape (S, batch...).
    vectorised : bool
        Whether one run gave all draws.
    """

    values: dict[str, Tensor]
    log_prob: dict[str, Tensor] = field(default_factory=dict)
    vectorised: bool = True

    def total(self) -> Tensor:
        """Sum the log density over sites and rows: shape (S,)."""
        return total(self.log_prob)


def total(log_prob: Mapping[str, Tensor]) -> Tensor:
    """Sum log densities, shape (S, batch...) each, over sites and rows: shape (S,)."""
    terms = [value.reshape(len(value), -1).double().sum(1) for value in log_prob.values()]
    return torch.stack(terms).sum(0)


@contextmanager
def quietly() -> Iterator[None]:
    """Switch off gradients and Pyro's validation, whose data-dependent branches vmap refuses."""
    with torch.no_grad(), pyro.validation_enabled(False):
        yield


def sample_sites(trace: poutine.Trace) -> dict[str, dict[str, Any]]:
    """Sample sites of a trace, without the index draws of plates."""
    nodes: dict[str, Any] = dict(trace.nodes)
    return {
        name: node
        for name, node in nodes.items()
        if node["type"] == "sample" and not site_is_subsample(node)
    }


class improper_at_origin(Messenger):
    """Puts a prior that cannot be drawn from where its unconstrained 0 is."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["value"] is None and isinstance(getattr(fn, "base_dist", fn), dist.ImproperUniform):
            shape = (*fn.batch_shape, *fn.event_shape)
            unconstrained = biject_to(fn.support).inverse_shape(torch.Size(shape))
            msg["value"] = biject_to(fn.support)(torch.zeros(unconstrained)).expand(shape)
            msg["done"] = True


def trace_once(program: Program, *args: Any, **kwargs: Any) -> dict[str, dict[str, Any]]:
    """Run a program once, improper priors and all; give its sample sites."""
    with quietly(), improper_at_origin():
        return sample_sites(poutine.trace(program).get_trace(*args, **kwargs))


def describe(program: Program, *args: Any, **kwargs: Any) -> dict[str, Site]:
    """Run a program once and describe its sample sites."""
    return describe_nodes(trace_once(program, *args, **kwargs))


def describe_nodes(nodes: Mapping[str, dict[str, Any]]) -> dict[str, Site]:
    """Describe the sample sites of a run, as `trace_once` gives them."""
    return {name: _describe(node) for name, node in nodes.items()}


def is_derived(node: Mapping[str, Any]) -> bool:
    """Whether a site records a computed value; Pyro does not mark those of a reparametrisation."""
    fn = node["fn"]
    masked = isinstance(fn, dist.MaskedDistribution) and fn._mask is False
    return bool(node["is_observed"] and masked and isinstance(fn.base_dist, dist.Delta))


def _describe(node: dict[str, Any]) -> Site:
    fn, shape = node["fn"], torch.Size(node["value"].shape)
    batch_dim = len(shape) - fn.event_dim
    plates = [""] * batch_dim
    for frame in node["cond_indep_stack"]:
        if frame.vectorized and -frame.dim <= batch_dim:
            plates[frame.dim] = frame.name
    base = fn
    while hasattr(base, "base_dist") and not isinstance(base, dist.Delta):
        base = base.base_dist
    return Site(
        plates=tuple(plates),
        shape=shape,
        event_dim=fn.event_dim,
        observed=bool(node["is_observed"]),
        is_delta=isinstance(base, dist.Delta),
        # Discrete point masses: the support of a Delta is "real" whatever its value's type.
        is_discrete=fn.support.is_discrete or not node["value"].is_floating_point(),
        auxiliary=bool(node["infer"].get("is_auxiliary", False)),
        deterministic=is_derived(node),
    )


def draw(
    program: Program,
    num_draws: int,
    *args: Any,
    given: Mapping[str, Tensor] | None = None,
    **kwargs: Any,
) -> Draws:
    """Run a program `num_draws` times, with the log density of what was drawn.

    Parameters
    ----------
    program : callable
        A model or guide.
    num_draws : int
        S.
    *args, **kwargs
        The program's data.
    given : mapping of str to Tensor, optional
        Values to hold fixed, shape (S, ...) each.

    Returns
    -------
    Draws
        The sites not observed, computed values among them, and those given.
    """
    given = dict(given or {})
    with quietly():
        proto = poutine.trace(
            poutine.condition(program, data={name: value[0] for name, value in given.items()})
        ).get_trace(*args, **kwargs)
        sites = {name: _describe(node) for name, node in sample_sites(proto).items()}
        kept = [
            name
            for name, site in sites.items()
            if not site.observed or site.deterministic or name in given
        ]
        if num_draws > _NUM_CHECKED:
            vectorised = _draw_at_once(program, num_draws, sites, kept, given, args, kwargs)
            if vectorised is not None:
                return vectorised
        values: dict[str, list[Tensor]] = {name: [] for name in kept}
        dense = [name for name in kept if not sites[name].deterministic]
        log_prob: dict[str, list[Tensor]] = {name: [] for name in dense}
        for s in range(num_draws):
            one = _trace_one(program, {k: v[s] for k, v in given.items()}, args, kwargs)
            for name in kept:
                values[name].append(one[name]["value"])
            for name in dense:
                log_prob[name].append(one[name]["log_prob"])
        return Draws(
            {name: torch.stack(value) for name, value in values.items()},
            {name: torch.stack(value) for name, value in log_prob.items()},
            vectorised=False,
        )


def _trace_one(
    program: Program, given: Mapping[str, Tensor], args: Any, kwargs: Any
) -> dict[str, dict[str, Any]]:
    trace = poutine.trace(poutine.condition(program, data=dict(given))).get_trace(*args, **kwargs)
    trace.compute_log_prob()
    return sample_sites(trace)


def _draw_at_once(
    program: Program,
    num_draws: int,
    sites: Mapping[str, Site],
    kept: list[str],
    given: Mapping[str, Tensor],
    args: Any,
    kwargs: Any,
) -> Draws | None:
    """All draws in one run under an outer plate; None where the program does not allow it."""
    nesting = max((len(sites[name].batch_shape) for name in sites), default=0)

    def spread(name: str, value: Tensor) -> Tensor:
        site = sites[name]
        ones = (1,) * (nesting - len(site.batch_shape))
        return value.reshape(num_draws, *ones, *site.shape)

    spread_given = {name: spread(name, value) for name, value in given.items()}
    rng_state = torch.get_rng_state()
    try:
        with pyro.plate(_OUTER_PLATE, num_draws, dim=-1 - nesting):
            many = _trace_one(program, spread_given, args, kwargs)
        values, log_prob = {}, {}
        for name in kept:
            site, node = sites[name], many[name]
            values[name] = node["value"].reshape(num_draws, *site.shape)
            if not site.deterministic:  # what is computed has no density
                log_prob[name] = node["log_prob"].reshape(num_draws, *site.batch_shape)
    except Exception:  # whatever the program's shapes run into; single runs show its real errors
        torch.set_rng_state(rng_state)
        return None
    # The same draws one at a time: points are computed anew, everything else is held.
    free = [name for name in kept if not sites[name].is_delta and not sites[name].deterministic]
    held = [*free, *(name for name in kept if name in given and name not in free)]
    rng_after = torch.get_rng_state()
    agree = _densities_agree(program, {name: values[name] for name in held}, log_prob, args, kwargs)
    for s in range(_NUM_CHECKED if agree else 0):
        one = _trace_one(program, {name: values[name][s] for name in held}, args, kwargs)
        for name in kept:
            agree &= _close(values[name][s], one[name]["value"])
            if name in log_prob:
                agree &= _close(log_prob[name][s], one[name]["log_prob"])
    torch.set_rng_state(rng_after if agree else rng_state)
    return Draws(values, log_prob) if agree else None


def _densities_agree(
    program: Program,
    values: Mapping[str, Tensor],
    log_prob: Mapping[str, Tensor],
    args: Any,
    kwargs: Any,
) -> bool:
    """Whether all draws have the density that the program gives them one at a time, under vmap.

    A program that branches on its values cannot be followed by vmap, nor by a vectorised run.
    """

    def one(given: dict[str, Tensor]) -> dict[str, Tensor]:
        nodes = _trace_one(program, given, args, kwargs)
        return {name: nodes[name]["log_prob"] for name in given}

    if not values:
        return True
    scalars = sum(value[0].numel() for value in values.values())
    chunk = max(1, CHUNK_SCALARS // max(1, 4 * scalars))
    try:
        singly = torch.vmap(one, chunk_size=chunk, randomness="same")(dict(values))
    except Exception:  # as in `log_density`
        return False
    return all(_close(log_prob[name], value) for name, value in singly.items())


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or not a.is_floating_point():
        return a.shape == b.shape and bool((a == b).all())
    rtol = 1e-3 if a.dtype == torch.float32 else 1e-8
    return torch.allclose(a, b, rtol=rtol, atol=rtol, equal_nan=True)


def log_density(
    model: Program, values: Mapping[str, Tensor], *args: Any, **kwargs: Any
) -> dict[str, Tensor]:
    """Log density of a model at given latents, site by site.

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
        Every sample site, observed ones included → log density, shape (S, batch...).
    """

    def one(given: dict[str, Tensor]) -> dict[str, Tensor]:
        nodes = _trace_one(model, given, args, kwargs)
        return {name: node["log_prob"] for name, node in nodes.items()}

    given = dict(values)
    num_draws = len(next(iter(given.values())))
    with quietly():
        first = _trace_one(model, {name: value[0] for name, value in given.items()}, args, kwargs)
        scalars = sum(node["value"].numel() + node["log_prob"].numel() for node in first.values())
        chunk = max(1, min(num_draws, CHUNK_SCALARS // max(1, 4 * scalars)))
        try:
            return dict(torch.vmap(one, chunk_size=chunk)(given))
        except Exception:  # branches on values, .item(), operators without a batching rule
            rows = []
            for s in range(num_draws):
                try:
                    rows.append(one({name: value[s] for name, value in given.items()}))
                except torch.linalg.LinAlgError:  # a singular matrix has no density
                    rows.append({n: v["log_prob"] * 0 - torch.inf for n, v in first.items()})
            return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
