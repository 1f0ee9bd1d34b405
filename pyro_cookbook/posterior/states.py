"""Every value of discrete latents that have few: what weights of draws cannot say of them.

A draw says nothing of a state that it never has. Where the joint states of a row's latents are few,
each is given its density.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.on_disk import Filled, let_go
from pyro_cookbook.programs.density.log_density import log_density, log_density_in_parts, parts
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.program import Program, Site

Array = npt.NDArray[np.float64]

# States that are enumerated: under every draw of the global latents, or once, where there are none.
_MAX_STATES, _MAX_STATES_ONCE = 64, 4096
# Numbers of the densities that are looked at together: 16 MiB.
_PART = 2**21
# Draws that show whether a guide's continuous latents depend on its discrete ones.
_SHOWN = 4


class States(NamedTuple):
    """The K joint states of the discrete latents that every row has.

    Attributes
    ----------
    log_p : array, shape (S, R, K)
        log p(v_r, h_r = state k | global latents of draw s); S = 1 without global latents. In
        several plates R counts their cells, in the order of the latents' batch dimensions; outside
        plates R = 1, and log p is that of everything.
    values : dict of str to Tensor, shape (K, ...)
        Site → its value in every state, of its event shape.
    plates : tuple of str
        Those of the latents; () outside plates.
    guide : array, shape (R, K), or None
        q(h_r = state k), the mean over the draws of the guide's other latents; None where the guide
        does not give it.
    """

    log_p: Array
    values: dict[str, Tensor]
    plates: tuple[str, ...]
    guide: Array | None

    def evidence(self) -> Array:
        """log p(v | global latents of a draw), the states summed out: shape (S,)."""
        found = [np.logaddexp.reduce(part, axis=-1).sum(1) for _, part in self.by_draws()]
        return np.concatenate(found)

    def by_draws(self) -> Iterator[tuple[slice, Array]]:
        """Go through `log_p` some draws of the global latents at a time."""
        step = max(1, _PART // max(1, self.log_p[0].size))
        for start in range(0, len(self.log_p), step):
            at = slice(start, min(start + step, len(self.log_p)))
            yield at, self.log_p[at]
            let_go()

    @property
    def matrix(self) -> Array:
        """The states as rows of numbers, shape (K, E): the sites' entries side by side."""
        count = self.log_p.shape[-1]
        parts = [value.reshape(count, -1) for value in self.values.values()]
        return torch.cat(parts, 1).double().cpu().numpy()

    def drawn(self, latents: Mapping[str, Tensor], rows: slice) -> Array:
        """Draws of the sites at some of the rows, laid out in the same way: shape (S, rows, E)."""
        count = self.log_p.shape[1]
        values = (latents[name].reshape(len(latents[name]), count, -1) for name in self.values)
        return torch.cat([value[:, rows] for value in values], 2).double().cpu().numpy()

    def chosen(self, index: npt.NDArray[np.int64], sites: Mapping[str, Site]) -> dict[str, Tensor]:
        """Values of the states numbered, shape (S, R): site → shape (S, ...)."""
        at = torch.as_tensor(index)
        return {
            name: value[at].reshape(len(index), *sites[name].shape)
            for name, value in self.values.items()
        }


def enumerate_states(
    fit: Fit, names: tuple[str, ...], row: str, latents: Mapping[str, Tensor]
) -> States | None:
    """log p(v_r, h_r = k | global) of every joint state k of the rows' latents, if they are few.

    Latents in several plates are enumerated cell by cell, where all that depends on them is in the
    same plates.

    Parameters
    ----------
    fit : Fit
    names : tuple of str
        The rows' latents, or where there are no rows those that are discrete.
    row : str
        The rows' plate; "" where there are none.
    latents : mapping of str to Tensor
        Site → draws of all latents, shape (S, ...).
    """
    model = fit.programs.model
    sites = model.sites
    if not names or not all(sites[name].is_discrete for name in names):
        return None
    given = {name: value for name, value in latents.items() if name not in names}
    plates = _cells_of(names, row, sites)
    if plates is None or (not row and given and not _apart(fit.programs.guide, names, given)):
        return None
    values = _product(model, names, _MAX_STATES if given else _MAX_STATES_ONCE)
    if values is None:
        return None
    count = len(next(iter(values.values())))
    spread = {name: _everywhere(values[name], sites[name], latents[name]) for name in names}
    if not given:  # the states take the place of the draws
        found = [by_cell(plates, sites, p) for _, p in log_density_in_parts(model, spread)]
        log_p = np.concatenate(found).T[None]
        log_q = _of_guide(fit.programs.guide, names, plates, spread)
        guide = None if log_q is None else _normalised(np.exp(log_q.T))
        return States(log_p, values, plates, guide)
    num_draws = len(next(iter(given.values())))
    filled, chosen = None, []
    for at in parts(model, num_draws, copies=count):
        some = {name: value[at] for name, value in given.items()}
        log_p, probability = _of_states(fit, plates, some, spread)
        if filled is None:
            filled = Filled((num_draws, *log_p.shape[1:]), log_p.dtype, shared=True)
        filled.write(at, log_p)
        chosen.append(probability)
    assert filled is not None
    told = [one for one in chosen if one is not None]
    guide = _normalised(np.sum(told, axis=0) / num_draws) if len(told) == len(chosen) else None
    return States(filled.array, values, plates, guide)


def _of_states(
    fit: Fit, plates: tuple[str, ...], given: Mapping[str, Tensor], spread: Mapping[str, Tensor]
) -> tuple[Array, Array | None]:
    """log p of every state under some draws, shape (S, R, K), and Σ_s q of it, shape (R, K)."""
    model, guide = fit.programs
    num_draws, names = len(next(iter(given.values()))), tuple(spread)
    columns, chosen = [], []
    for k in range(len(spread[names[0]])):
        held = {n: v[k].expand(num_draws, *v.shape[1:]) for n, v in spread.items()}
        at = {**given, **held}
        columns.append(by_cell(plates, model.sites, log_density(model, at)))
        log_q = _of_guide(guide, names, plates, at)
        if log_q is not None:
            chosen.append(np.exp(log_q).sum(0))
    told = np.stack(chosen, -1) if len(chosen) == len(columns) else None
    return np.stack(columns, axis=-1), told


def _of_guide(
    guide: Program, names: tuple[str, ...], plates: tuple[str, ...], values: Mapping[str, Tensor]
) -> Array | None:
    """log q(h_r | the guide's other latents), shape (S, R); None if it has latents of its own."""
    sites = guide.sites
    own = [name for name, site in guide.latents.items() if not site.deterministic]
    if not all(name in values for name in own):
        return None
    at, inside = {name: values[name] for name in own}, {}
    for name in names:  # outside its support a distribution need not say −∞: it may raise
        node = guide.nodes[name]
        support: Any = getattr(node["fn"], "support", None)
        held = None if support is None else support.check(at[name])
        if held is not None and held.shape == (len(at[name]), *sites[name].batch_shape):
            inside[name] = held
            held = held.reshape(*held.shape, *(1 for _ in range(sites[name].event_dim)))
            at[name] = at[name].where(held, node["value"].to(at[name]))
    density = log_density(guide, at)
    kept = {
        n: density[n].where(inside[n], -torch.inf) if n in inside else density[n] for n in names
    }
    return by_cell(plates, sites, kept)


def _normalised(probability: Array) -> Array | None:
    """Give probabilities, shape (R, K), if those of every row add up to one.

    They do not where a guide's site lacks a plate, or has states that the model has not.
    """
    whole = probability.ndim == 2 and np.allclose(probability.sum(-1), 1.0, atol=1e-4)
    return probability if whole else None


def _product(model: Program, names: tuple[str, ...], most: int) -> dict[str, Tensor] | None:
    """Every combination of the sites' values, shape (K, event...) each; None if there are many."""
    supports = []
    for name in names:
        fn: Any = model.nodes[name]["fn"]
        if not fn.has_enumerate_support:
            return None
        try:
            support = fn.enumerate_support(expand=False)
        except (NotImplementedError, ValueError):  # vectors of discrete entries, or too many
            return None
        supports.append(support.reshape(len(support), *fn.event_shape))
    if math.prod(map(len, supports)) > most:
        return None
    index = torch.cartesian_prod(*(torch.arange(len(one)) for one in supports))
    index = index.reshape(-1, len(names))
    each = zip(names, supports, index.T, strict=True)
    return {name: support[i] for name, support, i in each}


def _everywhere(values: Tensor, site: Site, like: Tensor) -> Tensor:
    """Give every cell of a site the same value, state by state: shape (K, ...)."""
    batch = site.batch_shape
    event = site.shape[len(batch) :]
    wide = values.to(like).reshape(len(values), *(1 for _ in batch), *event)
    return wide.expand(len(values), *site.shape)


def _cells_of(
    names: tuple[str, ...], row: str, sites: Mapping[str, Site]
) -> tuple[str, ...] | None:
    """Plates whose cells have one state each, and depend on no other; None if they have not."""
    if not row:
        return () if all(sites[name].batch_shape.numel() == 1 for name in names) else None
    first, *others = (tuple(p for p in sites[name].plates if p) for name in names)
    if any(plates != first for plates in others):
        return None
    inside = [one for one in sites.values() if row in one.plates and not one.deterministic]
    alone = all(plate in one.plates for plate in first for one in inside)
    for name in names:
        site = sites[name]
        size = math.prod(site.shape[site.plates.index(plate)] for plate in first)
        alone = alone and size == site.batch_shape.numel()
    return first if alone else None


def _apart(guide: Program, names: tuple[str, ...], given: Mapping[str, Tensor]) -> bool:
    """Whether a guide draws its other latents whatever its discrete ones are."""
    few = {name: value[:_SHOWN] for name, value in given.items()}
    densities = []
    for _ in range(2 * _SHOWN):  # the discrete ones are drawn anew each time
        found = draw(guide, len(next(iter(few.values()))), few).log_prob
        densities.append(torch.stack([found[n].reshape(len(found[n]), -1).sum(1) for n in few]))
    return all(torch.allclose(densities[0], other) for other in densities[1:])


def by_cell(
    plates: tuple[str, ...], sites: Mapping[str, Site], log_prob: Mapping[str, Tensor]
) -> Array:
    """Sum the sites inside all the plates over everything but draws and the plates' cells.

    Returns
    -------
    array, shape (S, cells)
        The last plate varies fastest; without plates one cell.
    """
    terms = []
    for name, value in log_prob.items():
        own = sites[name].plates
        if all(plate in own for plate in plates):
            axes = [1 + own.index(plate) for plate in plates]
            moved = value.movedim(axes, list(range(1, 1 + len(plates))))
            cells = moved.shape[1 : 1 + len(plates)].numel()
            summed = moved.reshape(len(value), cells, -1).sum(2)
            terms.append(summed.detach().cpu().double().numpy())
    return np.sum(terms, axis=0, dtype=float)
