"""Importance weights p/q of a fit's draws, block by block.

Rows that are independent given the global latents have weights of their own. The weight of the
global latents has the rows summed out: the product of all rows' weights would be useless long
before any single number is wrong.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from arviz_stats.base.array import array_stats
from torch import Tensor

from pyro_cookbook.fits.result import Estimate, Fit
from pyro_cookbook.programs.drawing import Draws, draw
from pyro_cookbook.programs.log_density import log_density, total
from pyro_cookbook.programs.program import Site
from pyro_cookbook.programs.state.isolation import isolated

Array = npt.NDArray[np.float64]

# Above this tail index importance weights cannot repair a fit (Vehtari et al. 2024).
MAX_KHAT = 0.7
# Draws behind a verdict and behind what it promises.
NUM_DRAWS = 20_000
# Weights that vary less than this (sd, in nats) are equal: KL(q ‖ p) is half its square, 5e-7.
EQUAL_WEIGHTS = 1e-3
# Scalars that the draws may fill; draws of rows' latents behind one global weight.
_MAX_SCALARS, _NUM_INNER = 2**27, 50
# Values of a row's discrete latent that are enumerated: under every draw of the global latents, or
# once, where there are none.
_MAX_STATES, _MAX_STATES_ONCE = 64, 4096


@dataclass(frozen=True)
class Blocks:
    """How the latents of a fit fall apart.

    Attributes
    ----------
    row : str
        Name of the plate of independent rows; "" if the latents are one block.
    local_sites, global_sites : tuple of str
        Latents inside and outside that plate.
    """

    row: str
    local_sites: tuple[str, ...]
    global_sites: tuple[str, ...]


@dataclass(frozen=True)
class Weights:
    """Draws of a guide and their log weights, in nats.

    Attributes
    ----------
    sites, guide_sites : dict of str to Site
        The model's sites and the guide's.
    blocks : Blocks
    draws : Draws
        The guide's draws.
    log_p : dict of str to Tensor
        The model's log density at them, site by site.
    joint : array, shape (S,)
        log p(v, h) − log q(h) of all latents.
    rows : array, shape (S, R), or None
        One column a row: log p(v_r, h_r | global) − log q(h_r).
    shared : array, shape (S,), or None
        Weight of the global latents with the rows summed out; None if there are none, or no rows.
    states : States or None
        Every value of the rows' only latent, where it has few.
    """

    sites: dict[str, Site]
    guide_sites: dict[str, Site]
    blocks: Blocks
    draws: Draws
    log_p: dict[str, Tensor]
    joint: Array
    rows: Array | None
    shared: Array | None
    states: "States | None"

    def evidence(self) -> Estimate:
        """Importance-weighted estimate of log p(v), in nats: a lower bound in expectation.

        References
        ----------
        Burda, Grosse and Salakhutdinov (2016), arXiv:1509.00519, equation 8, with each row's
        weights averaged on their own where rows are independent.
        """
        if self.states is not None and self.shared is None:  # exact, by enumeration
            return Estimate(float(np.logaddexp.reduce(self.states.log_p[0], axis=-1).sum()))
        if self.shared is not None:
            return _log_mean_exp(self.shared[:, None])
        return _log_mean_exp(self.joint[:, None] if self.rows is None else self.rows)


class States(NamedTuple):
    """The K values of a discrete latent that every row has.

    Attributes
    ----------
    log_p : array, shape (S, R, K)
        log p(v_r, h_r = value k | global latents of draw s); S = 1 without global latents. In
        several plates R counts their cells, in the order of the latent's batch dimensions.
    values : Tensor, shape (K, ...)
        With the event shape of the latent.
    plates : tuple of str
        Those of the latent.
    """

    log_p: Array
    values: Tensor
    plates: tuple[str, ...]


def _log_mean_exp(log_weights: Array) -> Estimate:
    """Sum over columns of log mean exp, with the delta method's standard error."""
    with np.errstate(all="ignore"):  # a density of +∞ gives NaN, which says so
        top = log_weights.max(0)
        weights = np.exp(log_weights - top)
        mean = weights.mean(0)
        variance = weights.var(0, ddof=1) / len(weights) / mean**2
        return Estimate(float((top + np.log(mean)).sum()), float(np.sqrt(variance.sum())))


def find_blocks(model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site]) -> Blocks:
    """Split the latents by a plate that all data share, if the guide respects it.

    Of several plates, the one that leaves the fewest latents outside; of those, the one with the
    most rows; of those, the outermost. Where the guide leaves a latent out, which is then summed
    out, rows need not be independent.
    """
    observed = [site for site in model_sites.values() if site.is_data]
    latents = {name: site for name, site in model_sites.items() if not site.observed}
    if not latents.keys() <= guide_sites.keys():
        return Blocks("", (), tuple(latents))
    found: dict[tuple[int, int], Blocks] = {}
    for row, size in zip(observed[0].plates, observed[0].shape, strict=False) if observed else ():
        if row and all(row in site.plates for site in observed):
            local = tuple(name for name, site in latents.items() if row in site.plates)
            apart = tuple(name for name in latents if name not in local)
            if local and _has_rows(row, local, apart, latents, guide_sites):
                outside = sum(latents[name].shape.numel() for name in apart)
                found.setdefault((outside, -size), Blocks(row, local, apart))
    return found[min(found)] if found else Blocks("", (), tuple(latents))


def _has_rows(
    row: str,
    local: tuple[str, ...],
    apart: tuple[str, ...],
    latents: Mapping[str, Site],
    guide_sites: Mapping[str, Site],
) -> bool:
    """Whether a guide draws rows apart: one joint density of all latents has no weights by row."""
    in_rows = [site for site in guide_sites.values() if row in site.plates]
    scalars = sum(site.shape.numel() for site in in_rows if not site.auxiliary)
    outside = sum(
        site.shape.numel()
        for site in guide_sites.values()
        if site.auxiliary and row not in site.plates
    )
    needed = sum(latents[name].shape.numel() for name in local)
    return scalars == needed and outside <= sum(latents[name].shape.numel() for name in apart)


def weigh(fit: Fit, num_draws: int = 4000, seed: int = 0, *, sum_rows_out: bool = True) -> Weights:
    """Draw from a fit's guide and compute the weights.

    Parameters
    ----------
    fit : Fit
    num_draws : int, default 4000
        S; fewer if the draws would fill more than a gigabyte.
    seed : int, default 0
    sum_rows_out : bool, default True
        Weigh global latents with the rows summed out, which costs 50 times the draws. Without it
        latents of both kinds have joint weights only.
    """
    model, guide = fit.programs
    with isolated(seed, fit.param_state):
        sites, guide_sites = model.sites, guide.sites
        scalars = sum(site.shape.numel() for site in (*sites.values(), *guide_sites.values()))
        num_draws = int(min(num_draws, max(200, _MAX_SCALARS // max(1, scalars))))
        blocks = find_blocks(sites, guide_sites)
        drawn = draw(guide, num_draws)
        latents = {name: drawn.values[name] for name in sites if name in drawn.values}
        log_p = log_density(model, latents, by_site=bool(blocks.row))
        joint = _numpy(total(log_p) - drawn.total())
        rows = shared = states = None
        if blocks.row and blocks.global_sites and not sum_rows_out:
            blocks = Blocks("", (), (*blocks.global_sites, *blocks.local_sites))
        if blocks.row:
            rows = by_row(blocks.row, sites, log_p) - by_row(
                blocks.row, guide_sites, drawn.log_prob
            )
            states = enumerate_states(fit, blocks, latents)
        if blocks.row and blocks.global_sites:
            if states is not None:
                evidence = np.logaddexp.reduce(states.log_p, axis=-1).sum(1)
            else:
                evidence = _inner_evidence(fit, blocks, latents)
            shared = evidence + _outside(blocks.row, sites, log_p)
            shared = shared - _outside(blocks.row, guide_sites, drawn.log_prob)
        return Weights(sites, guide_sites, blocks, drawn, log_p, joint, rows, shared, states)


def enumerate_states(fit: Fit, blocks: Blocks, latents: Mapping[str, Tensor]) -> States | None:
    """log p(v_r, h_r = k | global) for every value k of the rows' only latent, if it has few.

    A latent in several plates is enumerated cell by cell, where all that depends on it is in the
    same plates.
    """
    model = fit.programs.model
    sites = model.sites
    if len(blocks.local_sites) != 1 or not sites[blocks.local_sites[0]].is_discrete:
        return None
    name = blocks.local_sites[0]
    fn: Any = model.nodes[name]["fn"]
    plates = _cells_of(name, blocks.row, sites)
    if not plates or not fn.has_enumerate_support:
        return None
    try:
        support = fn.enumerate_support(expand=False)
    except (NotImplementedError, ValueError):  # vectors of discrete entries, or too many of them
        return None
    if len(support) > (_MAX_STATES if blocks.global_sites else _MAX_STATES_ONCE):
        return None
    values = support.reshape(len(support), *fn.event_shape).to(latents[name])
    shape = latents[name].shape
    spread = values.reshape(len(values), *(1,) * (len(shape) - 1 - fn.event_dim), *fn.event_shape)
    if not blocks.global_sites:  # the values take the place of the draws
        given = {name: spread.expand(len(values), *shape[1:])}
        log_p = log_density(model, given)
        return States(by_cell(plates, sites, log_p).T[None], values, plates)
    columns = []
    for value in spread:
        log_p = log_density(model, {**latents, name: value.expand(shape)})
        columns.append(by_cell(plates, sites, log_p))
    return States(np.stack(columns, axis=-1), values, plates)


def _cells_of(name: str, row: str, sites: Mapping[str, Site]) -> tuple[str, ...]:
    """Plates whose cells have one latent each, and depend on no other; () if they have not."""
    site = sites[name]
    plates = tuple(plate for plate in site.plates if plate)
    size = math.prod(site.shape[site.plates.index(plate)] for plate in plates)
    inside = [one for one in sites.values() if row in one.plates and not one.deterministic]
    alone = all(plate in one.plates for plate in plates for one in inside)
    return plates if alone and size == site.batch_shape.numel() else ()


def _inner_evidence(fit: Fit, blocks: Blocks, latents: Mapping[str, Tensor]) -> Array:
    """Σ_r log p(v_r | global), each row's latents averaged over inner draws."""
    running = np.full(0, -np.inf)
    for _, rows in inner_draws(fit, blocks, latents):
        running = np.logaddexp(running, rows) if running.size else rows
    summed: Array = (running - np.log(_NUM_INNER)).sum(1)
    return summed


def inner_draws(
    fit: Fit, blocks: Blocks, latents: Mapping[str, Tensor]
) -> Iterator[tuple[dict[str, Tensor], Array]]:
    """Draw the rows' latents again and again under the same global ones, with rows' log weights.

    Yields
    ------
    values : dict of str to Tensor
        All latents, shape (S, ...).
    log_weights : array, shape (S, R)
    """
    model, guide = fit.programs
    given = {name: latents[name] for name in blocks.global_sites}
    num_draws = len(next(iter(latents.values())))
    for _ in range(_NUM_INNER):
        inner = draw(guide, num_draws, given)
        values = {name: inner.values[name] for name in latents}
        log_p = log_density(model, values)
        rows = by_row(blocks.row, model.sites, log_p)
        yield values, rows - by_row(blocks.row, guide.sites, inner.log_prob)


def by_row(row: str, sites: Mapping[str, Site], log_prob: Mapping[str, Tensor]) -> Array:
    """Sum the sites inside the plate over everything but draws and rows: shape (S, R)."""
    return by_cell((row,), sites, log_prob)


def by_cell(
    plates: tuple[str, ...], sites: Mapping[str, Site], log_prob: Mapping[str, Tensor]
) -> Array:
    """Sum the sites inside all the plates over everything but draws and the plates' cells.

    Returns
    -------
    array, shape (S, cells)
        The last plate varies fastest.
    """
    terms = []
    for name, value in log_prob.items():
        own = sites[name].plates
        if all(plate in own for plate in plates):
            axes = [1 + own.index(plate) for plate in plates]
            moved = value.movedim(axes, list(range(1, 1 + len(plates))))
            cells = moved.shape[1 : 1 + len(plates)].numel()
            terms.append(_numpy(moved.reshape(len(value), cells, -1).sum(2)))
    return np.sum(terms, axis=0, dtype=float)


def _outside(row: str, sites: Mapping[str, Site], log_prob: Mapping[str, Tensor]) -> Array:
    terms = {name: value for name, value in log_prob.items() if row not in sites[name].plates}
    return _numpy(total(terms)) if terms else np.zeros(1)


def _numpy(value: Tensor) -> Array:
    return value.detach().cpu().double().numpy()


def smooth(log_weights: Array) -> tuple[Array, Array]:
    """Pareto-smooth log weights along the first axis.

    Parameters
    ----------
    log_weights : array, shape (S,) or (S, R)

    Returns
    -------
    weights : array
        Normalised, the shape of the input.
    khat : array, shape () or (R,)
        Tail index of each column. 0 where the weights are equal, inf where they are not finite.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), *Pareto smoothed importance sampling*, JMLR 25.
    """
    columns = log_weights.reshape(len(log_weights), -1).T
    # Log weights of −∞ are draws where the model has no mass; they may not be the majority.
    finite = np.isfinite(columns).all(1)
    equal = finite & (np.where(finite[:, None], columns, 0.0).std(1) < EQUAL_WEIGHTS)
    khat = np.where(equal, 0.0, np.inf)
    smoothed = np.full_like(columns, -np.log(len(log_weights)))
    for index in np.flatnonzero(finite & ~equal):
        try:
            # ArviZ takes log likelihoods, whose negatives are the log weights of leave-one-out.
            smoothed[index], khat[index] = array_stats.psislw(-columns[index])
        except ValueError:  # tied tail: a few distinct weights only
            khat[index] = np.nan
        if np.isnan(khat[index]):
            norm = np.logaddexp.reduce(columns[index])
            smoothed[index], khat[index] = columns[index] - norm, 0.0
    weights = np.exp(smoothed.T).reshape(log_weights.shape)
    return weights / weights.sum(0), khat.reshape(log_weights.shape[1:])
