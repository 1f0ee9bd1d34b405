"""Where many chains begin: at draws of a guide, or on all hills of the posterior."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pyro_cookbook.fits.modes import has_flat_prior, look_for_modes, modes_from, place
from pyro_cookbook.fits.result import Fit, Mode
from pyro_cookbook.posterior.refining.annealing import Hills, NotAnnealed, anneal
from pyro_cookbook.posterior.refining.ensemble import Ensemble, round_for
from pyro_cookbook.programs.coordinates import Coordinates
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity, unconstrained_density
from pyro_cookbook.programs.drawing import draw

Array = npt.NDArray[np.float64]

# Draws of the guide that scale the chains, and the groups of chains with one start.
_SCALING_DRAWS, _NUM_STARTS = 2000, 16
# Scalars of the model in a batch: it sets how many chains there are, the same on every machine.
_BATCH_SCALARS, _FEWEST, _MOST = 2e6, 32, 256
# Points of an annealed population: fewer say too little of how much mass each hill has.
_FEWEST_POINTS, _MOST_POINTS = 64, 256
# Moves after a step of annealing, at the first try.
_MOVES = 4
# A mode counts if it has at least this share of the mass.
LEAST_SHARE = 1e-3


@dataclass
class Chains:
    """The ensemble, the density it is of, and which chains have one start.

    Attributes
    ----------
    density : UnconstrainedDensity
    ensemble : Ensemble
    superchains : array of int, shape (chains,)
        Chains of one number had the same start, or are one annealed population.
    modes : tuple of Mode
        That are known.
    hills : Hills or None
        Where they were annealed from, if there are several.
    rounds : int
        How many there have been.
    """

    density: UnconstrainedDensity
    ensemble: Ensemble
    superchains: npt.NDArray[np.int64]
    modes: tuple[Mode, ...]
    hills: Hills | None = None
    rounds: int = 0

    def shares(self, positions: Array) -> tuple[Array, Array]:
        """Share of each hill in the draws, shape (N, draws, D), and the error of populations."""
        assert self.hills is not None
        which = self.hills.nearest(positions.reshape(-1, positions.shape[2]))
        on = which.reshape(len(positions), -1)[:, :, None] == np.arange(len(self.hills.places))
        by_chain = on.mean(1)
        groups = np.stack([by_chain[self.superchains == k].mean(0) for k in range(_NUM_STARTS)])
        return groups.mean(0), groups.std(0, ddof=1) / np.sqrt(_NUM_STARTS)


def begin(fit: Fit, seed: int, tick: Callable[[], object], effort: int = 0) -> Chains:
    """Place chains.

    Parameters
    ----------
    fit : Fit
        Its modes are where hills are.
    seed : int
    tick : callable
        Called after each step of annealing.
    effort : int
        How often chains have failed to agree: each time annealing takes twice as long.
    """
    model, guide = fit.programs
    density = unconstrained_density(model)
    rng = np.random.default_rng([seed, effort] if effort else seed)
    drawn = draw(guide, _SCALING_DRAWS)
    z = density.unconstrain({name: drawn.values[name].double() for name in density.shapes})
    z = z[np.isfinite(z).all(1)]
    if not len(z):
        raise ValueError("fit: its guide draws no latents at which the model has a density")
    modes = _modes(fit, density, z, seed)
    hills = _hills(density, modes, z)
    if hills is not None:
        try:
            return _annealed(density, modes, hills, rng, tick, effort)
        except NotAnnealed:  # too hard: chains from all hills, which will not agree
            pass
    number = num_chains(density)
    starts = z[rng.integers(len(z), size=_NUM_STARTS)]
    if hills is not None:
        tops = [one.loc for one in hills.places]
        for i in range(1, _NUM_STARTS, 2):  # every other one
            starts[i] = tops[(i // 2) % len(tops)]
    superchains = np.repeat(np.arange(_NUM_STARTS), number // _NUM_STARTS)
    ensemble = Ensemble(density.value_and_grad, starts[superchains], _scale(z), rng)
    return Chains(density, ensemble, superchains, modes)


def with_modes_of(fit: Fit, chains: Chains) -> Fit:
    """Climb from where chains are that do not agree: do they stand on several hills?"""
    if chains.hills is not None:
        return fit
    known = [np.array(mode.location) for mode in fit.modes]
    first = np.unique(chains.superchains, return_index=True)[1]
    modes = modes_from(chains.density, chains.ensemble.at.x[first], known)
    return replace(fit, modes=modes or fit.modes)


def num_chains(density: UnconstrainedDensity) -> int:
    """Count the chains that a model can afford: a power of two between 32 and 256."""
    if density.obstacle:  # each chain costs a run of the model
        return _FEWEST
    return _affordable(density, _FEWEST, _MOST)


def _affordable(density: UnconstrainedDensity, fewest: int, most: int, groups: int = 1) -> int:
    affordable = max(1.0, _BATCH_SCALARS / groups / max(1, density.scalars))
    return int(np.clip(2 ** int(np.log2(affordable)), fewest, most))


def _modes(fit: Fit, density: UnconstrainedDensity, z: Array, seed: int) -> tuple[Mode, ...]:
    """Modes that are known; looked for where the fit has not, or not far enough."""
    if fit.modes and not has_flat_prior(density):
        return fit.modes
    return look_for_modes(fit, density, z, density.value(z), seed).modes


def _hills(density: UnconstrainedDensity, modes: tuple[Mode, ...], z: Array) -> Hills | None:
    """Give the hills with a share of the mass, if several; the guide is for what is beside them."""
    counted = [mode for mode in modes if mode.share > LEAST_SHARE and mode.location]
    if len(counted) < 2 or density.obstacle:
        return None
    shares = np.array([mode.share for mode in counted])
    places = [place(density, mode) for mode in counted]
    return Hills(places, shares, None if (z == z[0]).all() else _scale(z))


def _annealed(
    density: UnconstrainedDensity,
    modes: tuple[Mode, ...],
    hills: Hills,
    rng: np.random.Generator,
    tick: Callable[[], object],
    effort: int,
) -> Chains:
    found = anneal(
        density.value_and_grad, hills,
        size=_affordable(density, _FEWEST_POINTS, _MOST_POINTS, _NUM_STARTS),
        num_populations=_NUM_STARTS, num_moves=_MOVES * 2**effort, rng=rng, tick=tick,
    )  # fmt: skip
    within = _scale(hills.residuals(found.x))
    ensemble = Ensemble(
        density.value_and_grad, found.x, within, rng, evaluations=found.evaluations,
        residuals=hills.residuals,
    )  # fmt: skip
    return Chains(density, ensemble, found.populations, modes, hills)


def _scale(z: Array) -> Coordinates:
    """Coordinates in which draws are round; of a single point, those of its surroundings."""
    if (z == z[0]).all():
        return Coordinates(z[0], np.full(z.shape[1], 0.1))
    return round_for(z)
