"""The bound on fixed base draws, maximised by L-BFGS over rounds with ever more draws.

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
from pyro_cookbook.programs.coordinates import Coordinates
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity

Array = npt.NDArray[np.float64]

# The Monte-Carlo error that ends a fit: of a mean in sds, of an sd as a share of itself.
TOLERANCE = 0.05
MIN_DRAWS, MAX_DRAWS = 64, 16384
# Scalars that the draws of one bound may fill, all sites together.
_MAX_SCALARS = 2**26
_RANK = 10
_CYCLE, _MAX_CYCLES = 100, 10
# A round ends when an iteration gains less than this, in nats.
_GAIN = 1e-6
# … or when so many iterations together gain less than this.
_PATIENCE, _SLOW = 20, 2e-3
# A scale that grows by this factor in two rounds running is on its way to infinity.
_BLOWN_UP = 1e3

GAUSSIAN = ("mean_field", "whitened_mean_field", "low_rank", "full_rank")


@dataclass(frozen=True)
class Maximum:
    """Where a deterministic fit ended.

    Attributes
    ----------
    gaussian : Gaussian
    losses : list of float
        −bound after every iteration, in nats.
    converged, reason : bool, str
    num_draws : int
        Base draws of the last round.
    """

    gaussian: Gaussian
    losses: list[float] = field(default_factory=list)
    converged: bool = False
    reason: str = ""
    num_draws: int = 0


def maximise(
    density: UnconstrainedDensity,
    name: str,
    centre: Centre,
    *,
    seed: int,
    max_steps: int,
    on_step: Callable[[float], None] = lambda _: None,
    state: Mapping[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Maximum:
    """Maximise the bound of a Gaussian family over base draws, doubled until they are enough.

    Parameters
    ----------
    density : UnconstrainedDensity
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
    Maximum
        Converged if on fresh base draws a Newton step would move no mean by more than `TOLERANCE`
        sds, and no sd by more than that share.
    """
    rounds = _Rounds(density, name, centre, seed, max_steps)
    if state:
        rounds.load_state_dict(state)
    while True:
        save(rounds.state_dict())
        error, where = rounds.measure()
        ended = rounds.consider_stopping(error, where) or rounds.climb(error, on_step)
        if ended is not None:
            converged, reason = ended
            gaussian = rounds.family.unpack(rounds.parameters)
            return Maximum(gaussian, rounds.losses, converged, reason, rounds.num_draws)


class _Rounds:
    """Rounds of climbing on given base draws, with more draws in each."""

    def __init__(
        self, density: UnconstrainedDensity, name: str, centre: Centre, seed: int, max_steps: int
    ) -> None:
        self.density, self.name, self.seed, self.max_steps = density, name, seed, max_steps
        family = make(name, centre)
        self.num_draws, self.most = num_base_draws(density, family)
        self.family, self.parameters = _feasible(density, family, self.num_draws, seed)
        self.losses: list[float] = []
        self.done, self.blown_up = 0, 0  # rounds done; rounds running in which a scale has exploded

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue with the same numbers."""
        at = self.family.coordinates
        return {
            "x": self.parameters,
            "loc": at.loc,
            "root": at.root,
            "rounds": [self.done, self.blown_up, self.num_draws],
            "losses": self.losses,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.parameters = state["x"]
        self.family.coordinates = Coordinates(state["loc"], state["root"])
        self.done, self.blown_up, self.num_draws = state["rounds"]
        self.losses = list(state["losses"])

    def measure(self) -> tuple[float, int]:
        """Monte-Carlo error of the present member on fresh draws, and where it is largest."""
        seed = self.seed + 7919 * (self.done + 1)
        return _error(self.density, self.family, self.parameters, self.num_draws, seed)

    def consider_stopping(self, error: float, where: int) -> tuple[bool, str] | None:
        """Say whether the fit has converged and why it stops; None to go on."""
        if not np.isfinite(error) and self.done:
            return False, (
                "the log density is not finite at some draws of the guide: the posterior ends, or"
                " is not a number, where the guide has mass"
            )
        # The start of low rank is not stationary, even where its error is small.
        if error <= TOLERANCE and (self.done or self.name != "low_rank"):
            return True, (
                f"Monte-Carlo error at most {max(error, 1e-3):.1g} sd on {self.num_draws} fresh"
                " draws"
            )
        if self.done and self.num_draws >= self.most:
            return False, (
                f"with {self.num_draws} draws the Monte-Carlo error is still {error:.2g} sd, at"
                f" {self.density.labels()[where]!r}"
            )
        if len(self.losses) >= self.max_steps:
            return False, (f"out of steps after {self.max_steps}, Monte-Carlo error {error:.2g} sd")
        return None

    def climb(self, error: float, on_step: Callable[[float], None]) -> tuple[bool, str] | None:
        """Take one round, with more draws than the last; say why it must be the last, if so."""
        if self.done:
            growth = 4 if error > 2 * TOLERANCE else 2
            self.num_draws = min(self.most, self.num_draws * growth)
        before = self.family.unpack(self.parameters).scale
        eps = base_draws(self.num_draws, self.family.num_base, self.seed + self.done)
        self.family, self.parameters, settled = _optimise(
            self.density, self.family, self.parameters, eps,
            self.max_steps - len(self.losses), self.losses, on_step,
        )  # fmt: skip
        self.done += 1
        grown = self.family.unpack(self.parameters).scale / before
        self.blown_up = self.blown_up + 1 if grown.max() > _BLOWN_UP else 0
        if self.blown_up > 1 or (self.blown_up and not settled):
            return False, (
                "the bound keeps rising as the scale of"
                f" {self.density.labels()[int(grown.argmax())]!r} grows: the posterior is improper,"
                " or nearly so"
            )
        if not settled:
            return False, (
                f"the bound was still rising after {len(self.losses)} iterations, Monte-Carlo"
                f" error {error:.2g} sd"
            )
        return None


def make(name: str, centre: Centre) -> Family:
    """Make a family by name around a centre."""
    if name == "full_rank":
        return FullRank(centre)
    if name == "low_rank":
        rank = min(_RANK, max(1, len(centre.z) // 2))
        return LowRank(centre, *low_rank_start(centre, rank))
    if name not in {"mean_field", "whitened_mean_field"}:
        raise ValueError(f"guide: got {name!r}, expected one of {', '.join(GAUSSIAN)}")
    return MeanField(centre, whitened=name == "whitened_mean_field")


def num_base_draws(density: UnconstrainedDensity, family: Family) -> tuple[int, int]:
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
    density: UnconstrainedDensity, family: Family, num_draws: int, seed: int
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
    density: UnconstrainedDensity,
    family: Family,
    parameters: Array,
    eps: Array,
    max_steps: int,
    losses: list[float],
    on_step: Callable[[float], None],
) -> tuple[Family, Array, bool]:
    """Maximise the bound on given base draws by L-BFGS; a whole covariance is recentred between.

    Returns the family, its parameters, and whether the optimiser came to an end by itself.
    """
    from scipy.optimize import minimize  # late: new rows need none

    settled = False
    for _ in range(_MAX_CYCLES):
        guard, first = Guard(), len(losses)

        def descend(x: Array, family: Family = family, guard: Guard = guard) -> tuple[float, Array]:
            log_p, gradient = density.value_and_grad(family.unpack(x).draw(eps))
            with np.errstate(all="ignore"):  # the guard sees to what is not finite
                bound, slope = family.bound(x, eps, log_p, gradient)
            return guard(x, -bound, -slope)

        def after(intermediate_result: object, guard: Guard = guard, first: int = first) -> None:
            losses.append(guard.value)
            on_step(-guard.value)
            recent = losses[first:]
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
    density: UnconstrainedDensity, family: Family, parameters: Array, num_draws: int, seed: int
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
        at = family.coordinates
        step = at.stretch(at.gradient(mean))
        unit = np.maximum(gaussian.scale, at.scale)
        # The slope in the log of an sd, diagonal and factors together: −2 δ where all sds of a
        # Gaussian are too wide by a share δ.
        spread = gaussian.draw(eps) - gaussian.loc
        stretch = (1 + (gradient * spread).mean(0)) / 2
    errors = np.maximum(np.abs(step) / unit, np.abs(stretch))
    return float(errors.max()), int(errors.argmax())
