"""The deterministic engine: a bound on fixed base draws, and a real optimiser.

References
----------
Kucukelbir, Tran, Ranganath, Gelman and Blei (2017), *Automatic differentiation variational
inference*, JMLR 18; Giordano, Ingram and Broderick (2024), *Black box variational inference with a
deterministic objective*, JMLR 25.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from pyro_cookbook.engines.base_draws import base_draws
from pyro_cookbook.engines.climbing import Centre, Guard
from pyro_cookbook.engines.gaussians import (
    Family,
    FullRank,
    Gaussian,
    LowRank,
    MeanField,
    low_rank_start,
)
from pyro_cookbook.programs.unconstrained import FlatDensity

Array = npt.NDArray[np.float64]

# The Monte-Carlo error that ends a fit: of a mean in sds, of an sd as a share of itself.
TOLERANCE = 0.05
MIN_DRAWS, MAX_DRAWS = 64, 16384
# Scalars that the draws of one bound may fill, all sites together.
_MAX_SCALARS = 2**26
# Whole covariances above this many latents have too many entries for any number of draws here.
MAX_FULL_RANK = 500
_RANK = 10
_CYCLE, _MAX_CYCLES = 100, 10
# A round ends when an iteration gains less than this, in nats.
_GAIN = 1e-6
# … or when so many iterations together gain less than this.
_PATIENCE, _SLOW = 20, 2e-3
# A scale that grows by this factor in two rounds running is on its way to infinity.
_BLOWN_UP = 1e3

GAUSSIAN = ("mean_field", "whitened_mean_field", "low_rank", "full_rank")


@dataclass
class Outcome:
    """How a deterministic fit ended."""

    gaussian: Gaussian
    losses: list[float] = field(default_factory=list)
    converged: bool = False
    reason: str = ""
    num_draws: int = 0


def maximise(
    density: FlatDensity,
    name: str,
    centre: Centre,
    *,
    seed: int,
    max_steps: int,
    on_step: Callable[[float], None] = lambda _: None,
    state: Mapping[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Outcome:
    """Maximise the bound of a Gaussian family over base draws, doubled until they are enough.

    Parameters
    ----------
    density : FlatDensity
    name : str
        One of `GAUSSIAN`.
    centre : Centre
        Where to start, and the coordinates to move in.
    seed : int
        Of the base draws.
    max_steps : int
        Largest number of L-BFGS iterations.
    on_step : callable
        Called with the bound, in nats, after every iteration.
    state : mapping, optional
        Continue from here: what `save` was called with.
    save : callable
        Called with the state before every round.

    Returns
    -------
    Outcome
        Converged if on fresh base draws a Newton step would move no mean by more than `TOLERANCE`
        sds, and no sd by more than that share.
    """
    family = make(name, centre)
    num_draws, most = num_base_draws(density, family)
    family, parameters = _feasible(density, family, num_draws, seed)
    outcome = Outcome(family.unpack(parameters))
    done, blown_up = 0, 0
    if state:
        parameters, family.z, family.whiten = state["x"], state["z"], state["whiten"]
        done, blown_up, num_draws = state["rounds"]
        outcome.losses = list(state["losses"])
    while True:
        save({"x": parameters, "z": family.z, "whiten": family.whiten,
              "rounds": [done, blown_up, num_draws], "losses": outcome.losses})  # fmt: skip
        error, where = _error(density, family, parameters, num_draws, seed + 7919 * (done + 1))
        outcome.num_draws = num_draws
        if not np.isfinite(error):
            outcome.reason = (
                "the log density is not finite at some draws of the guide: the posterior ends, or"
                " is not a number, where the guide has mass"
            )
            if done:
                break
        elif error <= TOLERANCE and (done or name != "low_rank"):
            outcome.converged = True
            outcome.reason = (
                f"Monte-Carlo error at most {max(error, 1e-3):.1g} sd on {num_draws} fresh draws"
            )
            break
        if done and num_draws >= most:
            outcome.reason = (
                f"with {num_draws} draws the Monte-Carlo error is still {error:.2g} sd, at"
                f" {density.labels()[where]!r}"
            )
            break
        if len(outcome.losses) >= max_steps:
            outcome.reason = f"out of steps after {max_steps}, Monte-Carlo error {error:.2g} sd"
            break
        if done:
            num_draws = min(most, num_draws * (4 if error > 2 * TOLERANCE else 2))
        before = family.unpack(parameters).scale
        family, parameters, settled = _optimise(
            density, family, parameters, base_draws(num_draws, family.num_base, seed + done),
            max_steps - len(outcome.losses), outcome, on_step,
        )  # fmt: skip
        done += 1
        grown = family.unpack(parameters).scale / before
        blown_up = blown_up + 1 if grown.max() > _BLOWN_UP else 0
        if blown_up > 1 or (blown_up and not settled):
            outcome.reason = (
                f"the bound keeps rising as the scale of {density.labels()[int(grown.argmax())]!r}"
                " grows: the posterior is improper, or nearly so"
            )
            break
        if not settled:
            outcome.reason = (
                f"the bound was still rising after {len(outcome.losses)} iterations, Monte-Carlo"
                f" error {error:.2g} sd"
            )
            break
    outcome.gaussian = family.unpack(parameters)
    return outcome


def make(name: str, centre: Centre) -> Family:
    """Make a family by name around a centre."""
    if name == "full_rank":
        return FullRank(centre)
    if name == "low_rank":
        rank = min(_RANK, max(1, len(centre.z) // 2))
        return LowRank(centre, *low_rank_start(centre, rank))
    return MeanField(centre, whitened=name == "whitened_mean_field")


def num_base_draws(density: FlatDensity, family: Family) -> tuple[int, int]:
    """Choose the first and the largest number of base draws for a family.

    Families with correlations start from four draws for each base dimension: with fewer than one
    a whole covariance has no maximum, and common factors line up with the noise of the draws.
    """
    needed = MIN_DRAWS if isinstance(family, MeanField) else 4 * family.num_base
    first = max(MIN_DRAWS, 1 << (needed - 1).bit_length())
    room = max(1, _MAX_SCALARS // density.scalars)
    most = max(MIN_DRAWS, min(MAX_DRAWS, 1 << (room.bit_length() - 1)))
    if isinstance(family, FullRank):
        most = max(first, most)
    return min(first, most), most


def _feasible(
    density: FlatDensity, family: Family, num_draws: int, seed: int
) -> tuple[Family, Array]:
    """Start narrower, where not all draws at the start have a density."""
    parameters = family.start.copy()
    eps = base_draws(num_draws, family.num_base, seed)
    for _ in range(12):
        if np.isfinite(density.value(family.unpack(parameters).draw(eps))).all():
            break
        if isinstance(family, FullRank):
            parameters[family.dim :][family.on_diagonal] -= 0.7
        else:
            parameters[family.dim : 2 * family.dim] -= 0.7
    return family, parameters


def _optimise(
    density: FlatDensity,
    family: Family,
    parameters: Array,
    eps: Array,
    max_steps: int,
    outcome: Outcome,
    on_step: Callable[[float], None],
) -> tuple[Family, Array, bool]:
    """Maximise the bound on given base draws by L-BFGS; a whole covariance is recentred between.

    Returns the family, its parameters, and whether the optimiser came to an end by itself.
    """
    settled = False
    for _ in range(_MAX_CYCLES):
        guard, first = Guard(), len(outcome.losses)

        def descend(x: Array, family: Family = family, guard: Guard = guard) -> tuple[float, Array]:
            log_p, gradient = density.value_and_grad(family.unpack(x).draw(eps))
            with np.errstate(all="ignore"):  # the guard sees to what is not finite
                bound, slope = family.bound(x, eps, log_p, gradient)
            return guard(x, -bound, -slope)

        def after(intermediate_result: object, guard: Guard = guard, first: int = first) -> None:
            outcome.losses.append(guard.value)
            on_step(-guard.value)
            recent = outcome.losses[first:]
            if len(recent) > _PATIENCE and recent[-1 - _PATIENCE] - recent[-1] < _SLOW:
                raise StopIteration  # which scipy takes for the end

        steps = min(_CYCLE if isinstance(family, FullRank) else 5 * _CYCLE, max_steps)
        result = minimize(
            descend,
            parameters,
            jac=True,
            method="L-BFGS-B",
            callback=after,
            options={
                "maxiter": steps,
                "maxcor": 20,
                "ftol": _GAIN / family.nats,
                "gtol": 3e-3,
                "maxls": 40,
            },
        )
        if guard.x.size:
            parameters = guard.x
        max_steps -= int(result.nit)
        settled = result.status != 1  # out of iterations
        if not isinstance(family, FullRank):
            break
        family, parameters = family.recentred(parameters), np.zeros_like(parameters)
        if settled or max_steps <= 0:
            break
    return family, parameters, settled


def _error(
    density: FlatDensity, family: Family, parameters: Array, num_draws: int, seed: int
) -> tuple[float, int]:
    """Largest Newton step of a mean (in sds) or an sd (relative) on fresh draws, and where."""
    gaussian = family.unpack(parameters)
    eps = base_draws(num_draws, family.num_base, seed)
    log_p, gradient = density.value_and_grad(gaussian.draw(eps))
    if not (np.isfinite(log_p).all() and np.isfinite(gradient).all()):
        return np.inf, 0
    mean = gradient.mean(0)
    if gaussian.diagonal is None:
        assert gaussian.factor is not None
        root = gaussian.factor
        step = root @ (root.T @ mean)
        # 0 at the optimum of a whole covariance: I + Sᵀ E[∇log p εᵀ].
        rest = np.eye(len(mean)) + root.T @ (gradient.T @ eps) / num_draws
        if isinstance(family, MeanField):
            rest = np.diag(np.diagonal(rest))
        rest = (rest + rest.T) / 2
        unit = gaussian.scale
        stretch = np.einsum("ij,jk,ik->i", root, rest, root) / (2 * unit**2)
    else:
        whiten = family.whiten
        root = np.diag(whiten) if whiten.ndim == 1 else whiten
        step = root @ (root.T @ mean)
        unit = np.maximum(gaussian.scale, np.linalg.norm(root, axis=1))
        # The slope in the log of an sd, diagonal and factors together: −2 δ where all sds of a
        # Gaussian are too wide by a share δ.
        spread = gaussian.draw(eps) - gaussian.loc
        stretch = (1 + (gradient * spread).mean(0)) / 2
    errors = np.maximum(np.abs(step) / unit, np.abs(stretch))
    return float(errors.max()), int(errors.argmax())
