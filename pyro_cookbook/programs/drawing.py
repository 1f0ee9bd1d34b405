"""Many draws of a program at once, with the log density of each at every site.

No shape discipline is asked of the program. Drawing is tried in one vectorised run, under an outer
plate, and checked against single runs; where that fails vmap spreads one run over the draws; and
where vmap cannot follow the program is run once a draw.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_cookbook.programs.density.log_density import Values, chunk_size, over_draws, total
from pyro_cookbook.programs.program import Program, Site, describe, quietly, run_at, run_once

_OUTER_PLATE = "_draws"
# Draws of a vectorised run that are repeated one at a time, to see that the two agree.
_NUM_CHECKED = 3
# Densities of so many scalars of draws at most are compared with those of one draw at a time, but
# of so many draws at least: where the two differ they do at any draw.
_COMPARED_SCALARS, _FEWEST_COMPARED = 2**22, 64
# So many draws are tried first: where shapes meet that should not, all draws would fill S × S.
_NUM_TRIED = 4
# Runs that show whether a support moves.
_NUM_SUPPORTS = 4


@dataclass(frozen=True)
class Draws:
    """S draws of a program.

    Attributes
    ----------
    values : dict of str to Tensor
        Site → values, shape (S, batch..., event...).
    log_prob : dict of str to Tensor
        Site → log density (scaled, as in the bound), shape (S, batch...).
    how : {"plate", "vmap", "loop"}
        In one run under an outer plate, in one that vmap spreads over the draws, or one by one.
    """

    values: dict[str, Tensor]
    log_prob: dict[str, Tensor] = field(default_factory=dict)
    how: str = "plate"

    def total(self) -> Tensor:
        """Sum the log density over sites and rows: shape (S,)."""
        return total(self.log_prob)


def draw(program: Program, num_draws: int, given: Values | None = None) -> Draws:
    """Run a program `num_draws` times, with the log density of what was drawn.

    Parameters
    ----------
    program : Program
        A model or guide.
    num_draws : int
        S.
    given : mapping of str to Tensor, optional
        Values to hold fixed, shape (S, ...) each.

    Returns
    -------
    Draws
        The sites not observed, computed values among them, and those given.
    """
    given = dict(given or {})
    with quietly():
        held = {name: value[0] for name, value in given.items()}
        sites = describe(run_at(program, held)) if held else program.sites
        kept = [
            name
            for name, site in sites.items()
            if not site.observed or site.deterministic or name in given
        ]
        if num_draws > _NUM_TRIED and _can_be_drawn_at_once(program, sites, kept, given):
            vectorised = _draw_at_once(program, num_draws, sites, kept, given)
            if vectorised is not None:
                return vectorised
        if num_draws > _NUM_TRIED:
            mapped = _draw_by_vmap(program, num_draws, sites, kept, given)
            if mapped is not None:
                return mapped
        return _draw_one_by_one(program, num_draws, sites, kept, given)


def _can_be_drawn_at_once(
    program: Program, sites: Mapping[str, Site], kept: list[str], given: Values
) -> bool:
    """Try a few draws; the random state is left as it is."""
    rng_state = torch.get_rng_state()
    few = {name: value[:_NUM_TRIED] for name, value in given.items()}
    drawn = _draw_at_once(program, _NUM_TRIED, sites, kept, few)
    torch.set_rng_state(rng_state)
    return drawn is not None


def _draw_one_by_one(
    program: Program, num_draws: int, sites: Mapping[str, Site], kept: list[str], given: Values
) -> Draws:
    values: dict[str, list[Tensor]] = {name: [] for name in kept}
    dense = [name for name in kept if not sites[name].deterministic]
    log_prob: dict[str, list[Tensor]] = {name: [] for name in dense}
    for s in range(num_draws):
        one = run_at(program, {k: v[s] for k, v in given.items()})
        for name in kept:
            values[name].append(one[name]["value"])
        for name in dense:
            log_prob[name].append(one[name]["log_prob"])
    return Draws(
        {name: torch.stack(value) for name, value in values.items()},
        {name: torch.stack(value) for name, value in log_prob.items()},
        how="loop",
    )


def _draw_by_vmap(
    program: Program, num_draws: int, sites: Mapping[str, Site], kept: list[str], given: Values
) -> Draws | None:
    """One run that vmap spreads over the draws, for shapes of one draw only; None if it cannot."""
    dense = [name for name in kept if not sites[name].deterministic]

    def one(values: dict[str, Tensor]) -> dict[str, Tensor]:
        nodes = run_at(program, {name: values[name] for name in given})
        found = {f"value {name}": nodes[name]["value"] for name in kept}
        return found | {f"log_prob {name}": nodes[name]["log_prob"] for name in dense}

    rng_state = torch.get_rng_state()
    scalars = sum(site.shape.numel() for site in sites.values())
    found, obstacle = over_draws(
        one, {**given, "": torch.zeros(num_draws)}, chunk=chunk_size(scalars, num_draws),
        randomness="different", or_loop=False,
    )  # fmt: skip
    values = {name: found.get(f"value {name}", torch.zeros(0)) for name in kept}
    drawn = [name for name in dense if name not in given and not sites[name].is_delta]
    # A sampler that vmap does not know by heart may give every draw the same numbers.
    if obstacle or any(_is_one_draw(values[name]) for name in drawn):
        torch.set_rng_state(rng_state)
        return None
    return Draws(values, {name: found[f"log_prob {name}"] for name in dense}, how="vmap")


def _is_one_draw(values: Tensor) -> bool:
    """Whether continuous draws are all the same."""
    return values.is_floating_point() and values.numel() > 0 and bool((values == values[0]).all())


def _draw_at_once(
    program: Program, num_draws: int, sites: Mapping[str, Site], kept: list[str], given: Values
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
            many = run_at(program, spread_given)
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
    agree = _densities_agree(program, {name: values[name] for name in held}, log_prob)
    for s in range(_NUM_CHECKED if agree else 0):
        one = run_at(program, {name: values[name][s] for name in held})
        for name in kept:
            agree &= _close(values[name][s], one[name]["value"])
            if name in log_prob:
                agree &= _close(log_prob[name][s], one[name]["log_prob"])
    torch.set_rng_state(rng_after if agree else rng_state)
    return Draws(values, log_prob) if agree else None


def _densities_agree(program: Program, values: Values, log_prob: Values) -> bool:
    """Whether draws have the density that the program gives them one at a time, under vmap.

    A program that branches on its values cannot be followed by vmap, nor by a vectorised run.
    """

    def one(given: dict[str, Tensor]) -> dict[str, Tensor]:
        nodes = run_at(program, given)
        return {name: nodes[name]["log_prob"] for name in given}

    if not values:
        return True
    scalars = sum(value[0].numel() for value in values.values())
    num_draws = max(_FEWEST_COMPARED, _COMPARED_SCALARS // max(1, scalars))
    values = {name: value[:num_draws] for name, value in values.items()}
    singly, obstacle = over_draws(
        one, values, chunk=chunk_size(scalars, num_draws), randomness="same", or_loop=False
    )
    compared = {name: log_prob[name][:num_draws] for name in singly}
    return not obstacle and all(_close(compared[name], value) for name, value in singly.items())


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or not a.is_floating_point():
        return a.shape == b.shape and bool((a == b).all())
    rtol = 1e-3 if a.dtype == torch.float32 else 1e-8
    return torch.allclose(a, b, rtol=rtol, atol=rtol, equal_nan=True)


def has_moving_support(program: Program, name: str) -> bool:
    """Whether the support of a site depends on latents: its bounds are others in another draw."""
    found = []
    rng_state = pyro.util.get_rng_state()
    try:
        for seed in range(_NUM_SUPPORTS):
            pyro.set_rng_seed(seed)
            nodes = run_once(program, lambda _, shape: torch.randn(shape))
            found.append(_bounds(nodes[name]["fn"].support))
    finally:
        pyro.util.set_rng_state(rng_state)
    return any(
        len(other) != len(found[0]) or not all(map(torch.equal, other, found[0]))
        for other in found[1:]
    )


def _bounds(constraint: Any) -> list[Tensor]:
    """Every number in a constraint: bounds, sizes, those of the constraints it is made of."""
    numbers = []
    for value in vars(constraint).values():
        if isinstance(value, (Tensor, int, float)):
            numbers.append(torch.as_tensor(value))
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, torch.distributions.constraints.Constraint):
                numbers += _bounds(part)
    return numbers
