"""Modes of a fit's posterior that the fit itself has not found."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyro_cookbook.engines.choosing import Mode
from pyro_cookbook.engines.climbing import look
from pyro_cookbook.engines.multistart import Improper, dispersed, find_modes, has_valley
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.programs.coordinates import Coordinates
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
from pyro_cookbook.programs.program import is_improper

Array = npt.NDArray[np.float64]

# Dispersed starts where the fit has looked for no modes, and draws of large weight to start at.
_NUM_DISPERSED, _NUM_HEAVY = 8, 4
# Where a prior cannot be drawn from, nothing says how far apart the hills may be: draws of the
# guide are pushed out, to so many times their distance from its mean.
_FAR = np.geomspace(4.0, 16.0, 32)[:, None]
# With more scalars a climb costs more than the chains, and ends in no mode that counts.
MAX_SCALARS = 500


@dataclass(frozen=True)
class Found:
    """Modes, and which of them lie on another hill than the one that the guide stands on.

    Attributes
    ----------
    modes : tuple of Mode
    beyond : array of bool, shape (modes,)
        Between the guide's mean and the mode the log density dips.
    """

    modes: tuple[Mode, ...]
    beyond: npt.NDArray[np.bool_]


def look_for_modes(
    fit: Fit, density: UnconstrainedDensity, draws: Array, log_weights: Array, seed: int
) -> Found:
    """Look for modes from where the fit's own search did not begin, up to 500 scalars.

    From dispersed points, if the fit has looked for none: guides of your own, flows and models with
    parameters do not. From the guide's draws with the largest weights, which are where it has too
    little mass. And under a flat prior from far outside the guide.

    Parameters
    ----------
    fit : Fit
    density : UnconstrainedDensity
    draws : array, shape (S, D)
        Unconstrained draws of the guide.
    log_weights : array, shape (S,)
    seed : int
        Of the dispersed points.
    """
    if density.dim > MAX_SCALARS:
        return known_modes(fit, density, draws, log_weights, seed)
    known = [np.array(mode.location) for mode in fit.modes]
    points = draws[np.argsort(-log_weights, kind="stable")[:_NUM_HEAVY]]
    if not known:
        points = np.vstack([points, dispersed(density, _NUM_DISPERSED, seed)])
    if has_flat_prior(density):
        centre, out = draws.mean(0), draws[: len(_FAR)]
        points = np.vstack([points, centre + _FAR[: len(out)] * (out - centre)])
    try:
        modes = find_modes(density, points, known)
    except Improper:  # the density does not fall on the way of some climb: what is known stays
        modes = fit.modes
    return Found(modes, _beyond(density, draws.mean(0), modes))


def modes_from(
    density: UnconstrainedDensity, points: Array, known: Sequence[Array]
) -> tuple[Mode, ...]:
    """Climb from points, shape (K, D), beside known modes; nothing where it is improper."""
    try:
        return find_modes(density, points, known)
    except Improper:
        return ()


def place(density: UnconstrainedDensity, mode: Mode) -> Coordinates:
    """Give the coordinates in which the posterior is round around a mode."""
    return look(density, np.array(mode.location)).coordinates


def has_flat_prior(density: UnconstrainedDensity) -> bool:
    """Whether a latent has a prior that cannot be drawn from."""
    nodes = density.program.nodes
    return any(is_improper(nodes[name]["fn"]) for name in density.shapes)


def known_modes(
    fit: Fit, density: UnconstrainedDensity, draws: Array, log_weights: Array, seed: int
) -> Found:
    """Look only where the modes are that the fit has found; as `look_for_modes`."""
    return Found(fit.modes, _beyond(density, draws.mean(0), fit.modes))


def _beyond(
    density: UnconstrainedDensity, centre: Array, modes: Sequence[Mode]
) -> npt.NDArray[np.bool_]:
    found = [has_valley(density, centre, np.array(mode.location)) for mode in modes]
    return np.array(found, dtype=bool)
