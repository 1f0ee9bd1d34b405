"""One trajectory of Hamiltonian Monte Carlo, of many chains at once.

A position moves as a ball on the landscape −log p, given a random push; the end is accepted with
the probability that makes up for the error of the finite steps. What chains do with trajectories,
how long they are and how steps are tuned, is their own.

Neal (2011), *MCMC using Hamiltonian dynamics*, algorithm of figure 2.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyro_cookbook.programs.coordinates import Coordinates

Array = npt.NDArray[np.float64]
# Log density, shape (N,), and gradient, shape (N, D), at positions of shape (N, D).
Evaluate = Callable[[Array], tuple[Array, Array]]

# An energy error above this, in nats, is a trajectory that has left the posterior (as in Stan).
DIVERGENCE = 1000.0


@dataclass(frozen=True)
class State:
    """Where N chains are.

    Attributes
    ----------
    x : array, shape (N, D)
    value : array, shape (N,)
        Log density; −∞ where it or its gradient is not finite.
    gradient : array, shape (N, D)
        Of the log density; 0 where it is not finite.
    """

    x: Array
    value: Array
    gradient: Array


@dataclass(frozen=True)
class Trajectory:
    """Where one trajectory of every chain led.

    Attributes
    ----------
    begin, end : State
    momentum : array, shape (N, D)
        At the end.
    probability : array, shape (N,)
        Of acceptance: min(1, exp(−energy error)), 0 where the energy is not finite.
    diverged : array of bool, shape (N,)
        Whether the energy error is above 1000 nats or not finite.
    """

    begin: State
    end: State
    momentum: Array
    probability: Array
    diverged: npt.NDArray[np.bool_]

    def accept(self, rng: np.random.Generator) -> State:
        """Draw for every chain whether it goes to the end or stays where it began."""
        accepted = rng.random(len(self.probability)) < self.probability
        column = accepted[:, None]
        return State(
            np.where(column, self.end.x, self.begin.x),
            np.where(accepted, self.end.value, self.begin.value),
            np.where(column, self.end.gradient, self.begin.gradient),
        )


def state(evaluate: Evaluate, x: Array) -> State:
    """Evaluate positions, shape (N, D)."""
    value, gradient = evaluate(x)
    bad = ~(np.isfinite(value) & np.isfinite(gradient).all(1))
    return State(x, np.where(bad, -np.inf, value), np.where(bad[:, None], 0.0, gradient))


def follow(
    evaluate: Evaluate,
    coordinates: Coordinates,
    begin: State,
    momentum: Array,
    step: float,
    leapfrogs: int,
) -> Trajectory:
    """Follow Hamilton's equations by leapfrog steps.

    Parameters
    ----------
    evaluate : callable
        Log density and gradient.
    coordinates : Coordinates
        In which momenta are standard normal.
    begin : State
    momentum : array, shape (N, D)
    step : float
        Of a leapfrog, in those coordinates.
    leapfrogs : int
        How many.
    """
    at, p = begin, momentum
    for _ in range(leapfrogs):
        p = p + step / 2 * coordinates.gradient(at.gradient)
        at = state(evaluate, at.x + step * coordinates.stretch(p))
        p = p + step / 2 * coordinates.gradient(at.gradient)
    with np.errstate(all="ignore"):
        change = at.value - begin.value - (p**2).sum(1) / 2 + (momentum**2).sum(1) / 2
    change = np.where(np.isfinite(change), change, -np.inf)
    return Trajectory(begin, at, p, np.exp(np.minimum(change, 0.0)), change < -DIVERGENCE)
