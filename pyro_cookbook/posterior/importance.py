"""Importance weights p/q of a fit's draws, block by block.

Rows that are independent given the global latents have weights of their own. The weight of the
global latents has the rows summed out: the product of all rows' weights would be useless long
before any single number is wrong.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyro_cookbook.fits.result import Estimate, Fit
from pyro_cookbook.posterior.states import States, by_cell, enumerate_states
from pyro_cookbook.programs.density.log_density import log_density, total
from pyro_cookbook.programs.drawing import Draws, draw
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
# Where more latent scalars than this are weighed together so many draws are enough: the standard
# error of a k-hat of 0.7 is 0.12, of five times as many 0.08, and it is chains that decide.
MANY_LATENTS, _ENOUGH_DRAWS = 600, 4000


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
        Every joint state of the rows' latents, or of those outside plates, where they have few.
    """

    sites: dict[str, Site]
    guide_sites: dict[str, Site]
    blocks: Blocks
    draws: Draws
    log_p: dict[str, Tensor]
    joint: Array
    rows: Array | None
    shared: Array | None
    states: States | None

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
        S; fewer if the draws would fill more than a gigabyte, and at most 4000 where more than 600
        latent scalars are weighed together.
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
        whole = not blocks.row or bool(blocks.global_sites and not sum_rows_out)
        if whole and model.num_latents > MANY_LATENTS:
            num_draws = min(num_draws, _ENOUGH_DRAWS)
        drawn = draw(guide, num_draws)
        latents = {name: drawn.values[name] for name in sites if name in drawn.values}
        log_p = log_density(model, latents, by_site=bool(blocks.row))
        joint = _numpy(total(log_p) - drawn.total())
        rows = shared = states = None
        if blocks.row and whole:
            blocks = Blocks("", (), (*blocks.global_sites, *blocks.local_sites))
        if blocks.row:
            rows = by_row(blocks.row, sites, log_p) - by_row(
                blocks.row, guide_sites, drawn.log_prob
            )
            states = enumerate_states(fit, blocks.local_sites, blocks.row, latents)
        else:
            discrete = tuple(name for name in latents if sites[name].is_discrete)
            states = enumerate_states(fit, discrete, "", latents)
        if blocks.row and blocks.global_sites:
            if states is not None:
                evidence = np.logaddexp.reduce(states.log_p, axis=-1).sum(1)
            else:
                evidence = _inner_evidence(fit, blocks, latents)
            shared = evidence + _outside(blocks.row, sites, log_p)
            shared = shared - _outside(blocks.row, guide_sites, drawn.log_prob)
        elif states is not None and len(states.values) < len(latents):
            # All densities are in those of the states; the guide's, but for its discrete latents.
            shared = np.logaddexp.reduce(states.log_p, axis=-1).sum(1)
            rest = {n: v for n, v in drawn.log_prob.items() if n not in states.values}
            shared = shared - _numpy(total(rest))
        return Weights(sites, guide_sites, blocks, drawn, log_p, joint, rows, shared, states)


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
    from arviz_stats.base.array import array_stats  # late: a second, and new rows need none

    columns = log_weights.reshape(len(log_weights), -1).T
    # Log weights of −∞ are draws where the model has no mass; they may not be the majority.
    kept = columns != -np.inf
    finite = (np.isfinite(columns) | ~kept).all(1) & (kept.mean(1) > 0.5)
    steady = (finite & kept.all(1))[:, None]
    equal = steady[:, 0] & (np.where(steady, columns, 0.0).std(1) < EQUAL_WEIGHTS)
    khat = np.where(equal, 0.0, np.inf)
    smoothed = np.full_like(columns, -np.log(len(log_weights)))
    for index in np.flatnonzero(finite & ~equal):
        smoothed[index] = -np.inf
        some = kept[index]
        try:
            # ArviZ takes log likelihoods, whose negatives are the log weights of leave-one-out.
            smoothed[index, some], khat[index] = array_stats.psislw(-columns[index, some])
        except ValueError:  # tied tail: a few distinct weights only
            khat[index] = np.nan
        if np.isnan(khat[index]):
            norm = np.logaddexp.reduce(columns[index])
            smoothed[index], khat[index] = columns[index] - norm, 0.0
    weights = np.exp(smoothed.T).reshape(log_weights.shape)
    return weights / weights.sum(0), khat.reshape(log_weights.shape[1:])
