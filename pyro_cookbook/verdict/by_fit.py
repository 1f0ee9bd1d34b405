"""The witness of the fit itself: did it converge, where did its starts end, is it a point?"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pyro_cookbook.fits.result import Mode
from pyro_cookbook.fits.settings import DETERMINISTIC, HIDDEN
from pyro_cookbook.posterior.importance import Weights
from pyro_cookbook.programs.coordinates import Coordinates
from pyro_cookbook.verdict.findings import (
    NOTHING,
    RELIABLE,
    UNRELIABLE,
    Finding,
    nats,
    percent,
    sds,
)

Array = npt.NDArray[np.float64]

# A mode within so many of the guide's sds is covered: chains and weights see it.
MAX_COVERED = 3.0
# Mass of modes that are not covered, times their distance in the guide's sds: how much it would
# move the mean, in sds; times the squared distance: the variance, as a share. Below, it is let be.
MODE_SHIFT, MODE_VARIANCE = 0.1, 0.3
# A start that ended lower than the best by this many nats, and by as many standard errors of the
# difference, ended elsewhere: half a nat of noise or of the stopping rule's is no local optimum.
START_NATS, START_ERRORS = 0.5, 4.0
# A discrete row whose likeliest value has this probability is nearly that value.
SURE = 0.95
# A guide whose bound lacks no more than this of the exact evidence, in nats, is no point: whatever
# value it always draws has at least a probability of 0.99.
CERTAIN = 0.01


def judge_convergence(
    converged: bool, reason: str, engine: str, *, measured: bool = False
) -> Finding:
    """Refuse a fit that has not converged.

    Parameters
    ----------
    converged : bool
    reason : str
        Why the fit stopped.
    engine : str
        Which one stopped it.
    measured : bool, default False
        Whether chains have measured the errors of all that was fitted. Then a rise that only might
        be hidden by the noise of mini-batches is no reason: what it could still change, they see.
    """
    if converged:
        return NOTHING
    if measured and HIDDEN in reason:
        return Finding(RELIABLE, (f"{reason}, but chains have measured what is left",))
    advice: tuple[str, ...] = ()
    if engine != DETERMINISTIC:
        advice = ("raise max_steps, or lower the noise: elbo=Trace_ELBO(num_particles=8)",)
    elif "out of steps" in reason:
        advice = ("raise max_steps",)
    return Finding(UNRELIABLE, (f"the fit has not converged: {reason}",), advice)


def judge_restarts(elbos: Array, errors: Array) -> Finding:
    """Tell of starts that ended below the best: a better optimum may have been missed.

    Parameters
    ----------
    elbos, errors : array, shape (starts,)
        Where each start ended and its standard error, in nats.
    """
    if len(elbos) < 2:
        return NOTHING
    best = int(np.nanargmax(elbos))
    below = elbos[best] - elbos
    apart = below > START_ERRORS * np.hypot(errors, errors[best]) + START_NATS
    if not apart.any():
        return NOTHING
    told = (
        f"{int(apart.sum())} of {len(elbos)} starts ended more than {START_NATS} nats below the"
        f" best, by up to {nats(float(np.nanmax(below)))}: there are local optima, and a better one"
        " may not have been found"
    )
    return Finding(RELIABLE, (told,))


def mode_distances(modes: Sequence[Mode], coordinates: Coordinates | None) -> Array:
    """How far each mode is from the guide's mean, in the guide's sds along the way there.

    Parameters
    ----------
    modes : sequence of Mode
    coordinates : Coordinates or None
        In which the guide's draws are round. Without them: the distance from the mode with the most
        mass, in sds of the narrower.
    """
    if coordinates is None:
        return np.array([mode.distance for mode in modes])
    return np.array([coordinates.distance(np.array(mode.location)) for mode in modes])


def judge_modes(
    shares: Array, distances: Array, sites: Sequence[str], beyond: npt.NDArray[np.bool_]
) -> Finding:
    """Refuse a guide that leaves out modes whose mass would move means or sds.

    Parameters
    ----------
    shares : array, shape (modes,)
        Share of the mass of all modes found.
    distances : array, shape (modes,)
        As `mode_distances` gives them.
    sites : sequence of str
        Where each mode is farthest.
    beyond : array of bool, shape (modes,)
        The log density dips on the way from the guide's mean: the guide stands on another hill.
    """
    if len(shares) < 2:
        return NOTHING
    missed = (
        beyond
        & (distances > MAX_COVERED)
        & ((shares * distances > MODE_SHIFT) | (shares * distances**2 > MODE_VARIANCE))
    )
    if not missed.any():
        return NOTHING
    largest = int(np.where(missed, shares, -np.inf).argmax())
    told = (
        f"climbs from dispersed starts ended in {len(shares)} modes; those that the guide does not"
        f" cover hold about {sum(shares[missed]):.2g} of the mass, "
        f"{sds(distances[largest], 1)} of its sds away (most at site {sites[largest]!r})"
    )
    advice = (
        "report each mode for itself, or remove the symmetry (order the components, fix a sign)"
    )
    return Finding(UNRELIABLE, (told,), (advice,))


def judge_points(points: Sequence[str], *, discrete: bool, sure: float | None) -> Finding:
    """Refuse a guide that is a single point.

    Parameters
    ----------
    points : sequence of str
        Latents whose draws are all the same.
    discrete : bool
        Whether all of those are discrete.
    sure : float or None
        Share of rows whose latent has a value of probability above 0.95, where it is known.
    """
    if not points:
        return NOTHING
    names = ", ".join(repr(name) for name in points)
    reasons = [
        f"the guide is a single point at {names}: it cannot tell a spread, an interval, or how much"
        " of the posterior lies near it"
    ]
    if not discrete:
        reasons.append(
            "the entropy of a point is −∞ and is left out, so its ELBO is the height of a density:"
            " it bounds nothing and depends on the units of the latents"
        )
    elif sure is not None:
        reasons.append(
            f"{percent(sure)} of the rows have a value of probability above {SURE}; for those the"
            " point is nearly the posterior"
        )
    advice = (
        "use it as the mode only; for uncertainty fit 'laplace', 'full_rank' or another guide that"
        " has a spread"
    )
    return Finding(UNRELIABLE, tuple(reasons), (advice,))


def point_sites(weights: Weights) -> list[str]:
    """Name the latents of a guide that are points: their draws are all the same.

    A discrete latent that is nearly certain looks like one, and is none: where every state of the
    rows has been weighed, a gap to the exact evidence says whether anything is missing.
    """
    points = [
        name
        for name, value in weights.draws.values.items()
        if name in weights.sites and bool((value == value[:1]).all())
    ]
    if weights.states is None or weights.shared is not None:
        return points
    missing = weights.evidence().value - float(weights.joint.mean())
    return [name for name in points if missing > CERTAIN or not weights.sites[name].is_discrete]


def share_sure(weights: Weights) -> float | None:
    """Share of rows whose discrete latent is nearly certain; None where it was not enumerated."""
    if weights.states is None:
        return None
    log_p: Array = weights.states.log_p[0]
    log_top = log_p.max(-1) - np.logaddexp.reduce(log_p, axis=-1)
    return float((np.exp(log_top) > SURE).mean())
