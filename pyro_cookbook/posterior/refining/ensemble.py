"""An ensemble of Hamiltonian chains that is tuned by the spread of its own positions."""

from collections.abc import Callable
from dataclasses import InitVar, dataclass, field

import numpy as np
import numpy.typing as npt

from pyro_cookbook.posterior.chains.hamiltonian import Evaluate, State, Trajectory, follow, state
from pyro_cookbook.programs.coordinates import Coordinates, from_draws

Array = npt.NDArray[np.float64]

# Harmonic mean of the chains' acceptance that the step size is tuned to: of chains that are stuck
# where steps are too long, a few pull it down, as they should. None counts as less than the floor.
_TARGET, _FLOOR = 0.65, 1e-2
# A step is at most this long in round coordinates, and a trajectory's is up to so much shorter.
_MAX_STEP, _JITTER = 1.0, 0.4
# Largest number of steps of a trajectory: it bounds what a bad step size costs.
_MAX_LEAPFROGS = 64
# Adam's step on the log of the trajectory's length, its memories, and how far one step may lead.
_RATE, _MEMORY, _MEMORY_OF_SQUARES = 0.05, 0.9, 0.95
_SHORTEST, _LONGEST = 0.3, 20.0
# Whole covariances up to here; above, chains are scaled coordinate by coordinate.
_MAX_DENSE, _SHRINKAGE = 500, 0.02


def round_for(positions: Array) -> Coordinates:
    """Give the coordinates in which positions of chains, shape (S, D), are round."""
    return from_draws(positions, max_dense=_MAX_DENSE, shrinkage=_SHRINKAGE)


@dataclass
class Ensemble:
    """N chains in one batch, with one step size, trajectory length and coordinates for all.

    Attributes
    ----------
    evaluate : callable
        Log density and gradient.
    x : array, shape (N, D)
        Where the chains start.
    coordinates : Coordinates
        In which momenta are standard normal.
    rng : numpy.random.Generator
    step, length : float
        Of a leapfrog and of the longest trajectory, in those coordinates.
    evaluations : int
        Gradients computed so far, all chains together.
    residuals : callable, optional
        What positions are reduced to before coordinates are made round by them.
    at : State
        Where the chains are.

    Notes
    -----
    The length follows the ChEES criterion: it climbs the expected change, from a trajectory's start
    to its end, of the squared distance from the mean. Lengths are spread evenly below it, so that
    no period is met. The coordinates are whitened by the chains' positions.

    References
    ----------
    Hoffman, Radul and Sountsov (2021), *An adaptive-MCMC scheme for setting trajectory lengths in
    Hamiltonian Monte Carlo*, AISTATS, PMLR 130.
    """

    evaluate: Evaluate
    x: InitVar[Array]
    coordinates: Coordinates
    rng: np.random.Generator
    step: float = 0.0
    length: float = np.pi
    evaluations: int = 0
    residuals: Callable[[Array], Array] | None = None
    at: State = field(init=False, repr=False)
    _moments: tuple[float, float, int] = (0.0, 0.0, 0)

    def __post_init__(self, x: Array) -> None:
        self.step = self.step or 1.0 / x.shape[1] ** 0.25
        self.at = state(self._counted, x)

    def adapt(self, num_draws: int, tick: Callable[[], object]) -> None:
        """Tune while the chains go on: the coordinates half-way, step and length all the time."""
        seen: list[Array] = []
        half = num_draws // 2
        for t in range(num_draws):
            if t == half and seen:
                self.whiten(np.concatenate(seen))
            acceptance, slope, _ = self._move()
            # Steps of tuning get smaller, and are large again in new coordinates.
            size = (1 + (t % max(half, 1)) / 8) ** 0.6
            self.step = min(self.step * float(np.exp((acceptance - _TARGET) / size)), _MAX_STEP)
            self._climb(slope)
            if half // 2 <= t < half:
                seen.append(self.at.x)
            tick()

    def whiten(self, positions: Array) -> None:
        """Choose the coordinates in which positions, shape (S, D), are round."""
        if self.residuals is not None:
            positions = self.residuals(positions)
        self.coordinates = round_for(positions)

    def run(self, num_draws: int, tick: Callable[[], object]) -> "Run":
        """Keep every position of the chains, nothing tuned."""
        draws, values, gradients, accepted, diverging = [], [], [], [], []
        for _ in range(num_draws):
            acceptance, _, diverged = self._move()
            draws.append(self.at.x)
            values.append(self.at.value)
            gradients.append(self.at.gradient)
            accepted.append(acceptance)
            diverging.append(diverged)
            tick()
        return Run(
            np.stack(draws, 1), np.stack(values, 1), np.stack(gradients, 1),
            float(np.mean(accepted)), np.stack(diverging, 1),
        )  # fmt: skip

    def _move(self) -> tuple[float, float, npt.NDArray[np.bool_]]:
        """Follow one trajectory; give acceptance, the slope of the criterion, and who diverged."""
        share, step = self.rng.random(), self.step * (1 - _JITTER * self.rng.random())
        leapfrogs = int(np.clip(np.ceil(share * self.length / step), 1, _MAX_LEAPFROGS))
        momentum = self.rng.standard_normal(self.at.x.shape)
        path = follow(self._counted, self.coordinates, self.at, momentum, step, leapfrogs)
        slope = self._slope(path) * share
        self.at = path.accept(self.rng)
        harmonic = 1 / np.mean(1 / np.maximum(path.probability, _FLOOR))
        return float(harmonic), slope, path.diverged

    def _slope(self, path: Trajectory) -> float:
        """Estimate the criterion's derivative by the trajectory's length, in round coordinates."""
        if not path.probability.sum() > 0:
            return 0.0
        weights = path.probability / path.probability.sum()
        where = np.flatnonzero(path.probability > 0)  # elsewhere positions may be infinite
        ends = self._round(path.end.x[where])
        begins = self._round(path.begin.x)
        ends = ends - weights[where] @ ends
        begins = (begins - begins.mean(0))[where]
        growth = (ends**2).sum(1) - (begins**2).sum(1)
        return float(weights[where] @ (growth * (ends * path.momentum[where]).sum(1)))

    def _round(self, x: Array) -> Array:
        root = self.coordinates.root
        centred = x - self.coordinates.loc
        if self.coordinates.is_diagonal:
            return centred / root
        return np.asarray(np.linalg.solve(root, centred.T).T)

    def _climb(self, slope: float) -> None:
        """Take one step of Adam on the log of the length."""
        first, second, count = self._moments
        first = _MEMORY * first + (1 - _MEMORY) * slope
        second = _MEMORY_OF_SQUARES * second + (1 - _MEMORY_OF_SQUARES) * slope**2
        self._moments = first, second, count + 1
        mean = first / (1 - _MEMORY ** (count + 1))
        rms = np.sqrt(second / (1 - _MEMORY_OF_SQUARES ** (count + 1))) + 1e-12
        longer = self.length * float(np.exp(_RATE * mean / rms))
        self.length = float(np.clip(longer, _SHORTEST, _LONGEST))

    def _counted(self, x: Array) -> tuple[Array, Array]:
        self.evaluations += len(x)
        return self.evaluate(x)


@dataclass(frozen=True)
class Run:
    """What the chains have visited while nothing was tuned.

    Attributes
    ----------
    draws : array, shape (N, num_draws, D)
        Positions.
    values : array, shape (N, num_draws)
        Log densities there.
    gradients : array, shape (N, num_draws, D)
        Of the log density.
    acceptance : float
        Harmonic mean over chains of the probability of acceptance.
    diverging : array of bool, shape (N, num_draws)
    """

    draws: Array
    values: Array
    gradients: Array
    acceptance: float
    diverging: npt.NDArray[np.bool_]
