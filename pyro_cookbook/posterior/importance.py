"""Importance weights p/q of a fit's draws, block by block.

Rows that are independent given the global latents have weights of their own. The weight of the
global latents has the rows summed out: the product of all rows' weights would be useless long
before any single number is wrong.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_cookbook.fits.result import Estimate, Fit
from pyro_cookbook.posterior.on_disk import Filled, by_columns
from pyro_cookbook.posterior.states import States, by_cell, enumerate_states
from pyro_cookbook.programs.density.log_density import log_density_in_parts, total
from pyro_cookbook.programs.drawing import Draws, draw
from pyro_cookbook.programs.program import Program, Site
from pyro_cookbook.programs.state.isolation import isolated

Array = npt.NDArray[np.float64]

# Above this tail index importance weights cannot repair a fit (Vehtari et al. 2024).
MAX_KHAT = 0.7
# Draws behind a verdict and behind what it promises.
NUM_DRAWS = 20_000
# Scalars that the draws may fill, all at once and where they are made in groups, and how many draws
# there are at least; draws of rows' latents behind one global weight.
_MAX_SCALARS, _GROUP_SCALARS, _FEWEST, _NUM_INNER = 2**27, 2**24, 200, 50
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
        The guide's draws, without their densities.
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
    joint: Array
    rows: Array | None
    shared: Array | None
    states: States | None

    @property
    def has_blocks(self) -> bool:
        """Whether latents that were weighed together fall apart into rows and global ones."""
        return self.rows is None and bool(find_blocks(self.sites, self.guide_sites).row)

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
    value, variance = (np.empty(log_weights.shape[1]) for _ in range(2))
    with np.errstate(all="ignore"):  # a density of +∞ gives NaN, which says so
        for at, part in by_columns(log_weights):
            top = part.max(0)
            weights = np.exp(part - top)
            mean = weights.mean(0)
            variance[at] = weights.var(0, ddof=1) / len(weights) / mean**2
            value[at] = top + np.log(mean)
        return Estimate(float(value.sum()), float(np.sqrt(variance.sum())))


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
        latent scalars are weighed together. Where so few as 200 fill a gigabyte, they are drawn in
        groups and kept in temporary files; draws of a group depend on its size.
    seed : int, default 0
    sum_rows_out : bool, default True
        Weigh global latents with the rows summed out, which costs 50 times the draws. Without it
        latents of both kinds have joint weights only.
    """
    model, guide = fit.programs
    with isolated(seed, fit.param_state):
        sites, guide_sites = model.sites, guide.sites
        scalars = sum(site.shape.numel() for site in (*sites.values(), *guide_sites.values()))
        num_draws = int(min(num_draws, max(_FEWEST, _MAX_SCALARS // max(1, scalars))))
        blocks = find_blocks(sites, guide_sites)
        whole = not blocks.row or bool(blocks.global_sites and not sum_rows_out)
        if whole and model.num_latents > MANY_LATENTS:
            num_draws = min(num_draws, _ENOUGH_DRAWS)
        groups = _groups(num_draws, scalars)
        if blocks.row and whole:
            blocks = Blocks("", (), (*blocks.global_sites, *blocks.local_sites))
        drawn, sums = _draw_and_weigh(model, guide, blocks.row, groups)
        latents = {name: drawn.values[name] for name in sites if name in drawn.values}
        shared = None
        if blocks.row:
            states = enumerate_states(fit, blocks.local_sites, blocks.row, latents)
        else:
            discrete = tuple(name for name in latents if sites[name].is_discrete)
            states = enumerate_states(fit, discrete, "", latents)
        if blocks.row and blocks.global_sites:
            if states is not None:
                evidence = states.evidence()
            else:
                evidence = _inner_evidence(fit, blocks, latents, groups)
            outside = [name for name in sums.guide if blocks.row not in guide_sites[name].plates]
            shared = evidence + sums.outside - sums.of_guide(outside)
        elif states is not None and len(states.values) < len(latents):
            # All densities are in those of the states; the guide's, but for its discrete latents.
            rest = [name for name in sums.guide if name not in states.values]
            shared = states.evidence() - sums.of_guide(rest)
        return Weights(sites, guide_sites, blocks, drawn, sums.joint, sums.rows, shared, states)


def _groups(num_draws: int, scalars: int) -> list[slice]:
    """Cut the draws into groups where all of them would fill more than a gigabyte at once."""
    step = num_draws
    if num_draws * scalars > _MAX_SCALARS:
        step = max(1, _GROUP_SCALARS // scalars)
    return [slice(start, min(start + step, num_draws)) for start in range(0, num_draws, step)]


class _Sums:
    """Sums of the log densities at draws: one for each draw, site and row would be too many.

    Attributes
    ----------
    joint : array, shape (S,)
        log p − log q of all latents.
    outside : array, shape (S,)
        log p of the sites outside the rows.
    guide : dict of str to array, shape (S,)
        log q site by site.
    rows : array, shape (S, R), or None
        log p − log q row by row, where there are rows.
    """

    def __init__(self, model: Program, guide: Program, row: str, num_draws: int) -> None:
        self._model, self._guide, self._row, self._num_draws = model, guide, row, num_draws
        self.joint, self.outside = np.zeros(num_draws), np.zeros(num_draws)
        self.guide: dict[str, Array] = {}
        self.rows: Array | None = None
        self._filled: Filled | None = None

    def add(self, group: slice, drawn: Draws) -> None:
        """Sum up the densities at a group of draws, a part at a time."""
        row, log_q = self._row, drawn.log_prob
        for name, density in log_q.items():
            sums = self.guide.setdefault(name, np.zeros(self._num_draws))
            sums[group] = _numpy(total({name: density}))
        latents = {n: drawn.values[n] for n in self._model.sites if n in drawn.values}
        for part, log_p in log_density_in_parts(self._model, latents, by_site=bool(row)):
            at = slice(group.start + part.start, group.start + part.stop)
            q = {name: density[part] for name, density in log_q.items()}
            self.joint[at] = _numpy(total(log_p) - total(q))
            if row:
                self.outside[at] = _outside(row, self._model.sites, log_p)
                rows = by_row(row, self._model.sites, log_p) - by_row(row, self._guide.sites, q)
                self._write(at, rows)

    def _write(self, at: slice, rows: Array) -> None:
        if self._filled is None:
            self._filled = Filled((self._num_draws, rows.shape[1]), rows.dtype, shared=True)
            self.rows = self._filled.array
        self._filled.write(at, rows)

    def of_guide(self, names: Iterable[str]) -> Array:
        """Sum log q over some sites: shape (S,)."""
        return np.sum([self.guide[name] for name in names], axis=0, dtype=float)


def _draw_and_weigh(
    model: Program, guide: Program, row: str, groups: list[slice]
) -> tuple[Draws, _Sums]:
    """Draw from the guide group by group, and sum the densities up; several groups lie on disk."""
    sums = _Sums(model, guide, row, groups[-1].stop)
    filled: dict[str, Filled] = {}
    for group in groups:
        drawn = draw(guide, group.stop - group.start)
        sums.add(group, drawn)
        if len(groups) == 1:
            return Draws(drawn.values, how=drawn.how), sums
        for name, value in drawn.values.items():
            array = value.detach().cpu().numpy()
            if name not in filled:
                shape = (groups[-1].stop, *array.shape[1:])
                filled[name] = Filled(shape, array.dtype, shared=True)
            filled[name].write(group, array)
    values = {
        name: torch.from_numpy(filled[name].array).to(value.device)
        for name, value in drawn.values.items()
    }
    return Draws(values, how=drawn.how), sums


def _inner_evidence(
    fit: Fit, blocks: Blocks, latents: Mapping[str, Tensor], groups: list[slice]
) -> Array:
    """Σ_r log p(v_r | global), each row's latents averaged over inner draws."""
    found = np.empty(groups[-1].stop)
    for group in groups:
        running: Array | None = None
        for _, rows in inner_draws(fit, blocks, {n: v[group] for n, v in latents.items()}):
            running = rows if running is None else np.logaddexp(running, rows, out=running)
        assert running is not None
        found[group] = (running - np.log(_NUM_INNER)).sum(1)
    return found


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
        rows = [
            by_row(blocks.row, model.sites, log_p)
            - by_row(blocks.row, guide.sites, {n: q[at] for n, q in inner.log_prob.items()})
            for at, log_p in log_density_in_parts(model, values)
        ]
        yield values, np.concatenate(rows)


def by_row(row: str, sites: Mapping[str, Site], log_prob: Mapping[str, Tensor]) -> Array:
    """Sum the sites inside the plate over everything but draws and rows: shape (S, R)."""
    return by_cell((row,), sites, log_prob)


def _outside(row: str, sites: Mapping[str, Site], log_prob: Mapping[str, Tensor]) -> Array:
    terms = {name: value for name, value in log_prob.items() if row not in sites[name].plates}
    return _numpy(total(terms)) if terms else np.zeros(1)


def _numpy(value: Tensor) -> Array:
    return value.detach().cpu().double().numpy()
