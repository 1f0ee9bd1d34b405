"""Populations of points, annealed from the hills of a posterior to the posterior: what each weighs.

Chains do not pass between hills that lie far apart, so however long they run they cannot say how
much of the mass each hill has. Here points are drawn on all hills, in proportions known only
roughly, and the density from which they were drawn is turned into the posterior's in small steps.
At each step points are weighted, drawn again by weight, and moved. Several populations do so on
their own: how far they differ is the error of the proportions.

Neal (2001), *Annealed importance sampling*, doi:10.1023/A:1008923215028; Del Moral, Doucet and
Jasra (2006), *Sequential Monte Carlo samplers*, doi:10.1111/j.1467-9868.2006.00553.x.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp

from pyro_cookbook.posterior.chains.hamiltonian import Evaluate, follow, state
from pyro_cookbook.posterior.refining.ensemble import round_for
from pyro_cookbook.programs.coordinates import Coordinates

Array = npt.NDArray[np.float64]

# Degrees of freedom of a hill's Student t, at least: its tails are to be heavier than the hill's.
_LEAST_FREEDOM = 5
# No hill begins with less than this share of the points: Laplace's shares may be far off.
_LEAST_SHARE, _BROAD_SHARE = 0.1, 0.1
# Effective share of the points after a step, acceptance that moves are tuned to, and a bound on
# the steps, for densities that are not annealed in so many.
_EFFECTIVE, _TARGET, _MAX_STEPS = 0.6, 0.8, 200
_LEAPFROGS = 8


@dataclass(frozen=True)
class Hills:
    """A mixture of Student t distributions, one on every hill.

    Attributes
    ----------
    places : sequence of Coordinates
        Where each is, and the coordinates in which it is round.
    shares : array, shape (K,)
        Of the mass, roughly.
    broad : Coordinates, optional
        One more, for what lies beside the hills: a tenth of the points begin there.
    """

    places: Sequence[Coordinates]
    shares: Array
    broad: Coordinates | None = None

    @property
    def dim(self) -> int:
        """Dimension of the space."""
        return len(self.places[0].loc)

    @property
    def freedom(self) -> float:
        """Degrees of freedom: more in many dimensions, or all draws would be far out."""
        return float(max(_LEAST_FREEDOM, self.dim))

    @cached_property
    def parts(self) -> tuple[list[Coordinates], Array]:
        """Parts of the mixture, and their weights."""
        number = len(self.places)
        weights = (1 - _LEAST_SHARE) * self.shares / self.shares.sum() + _LEAST_SHARE / number
        if self.broad is None:
            return list(self.places), weights
        return [*self.places, self.broad], np.append((1 - _BROAD_SHARE) * weights, _BROAD_SHARE)

    def draw(self, number: int, rng: np.random.Generator) -> Array:
        """Draw points, shape (number, D)."""
        places, weights = self.parts
        which = rng.choice(len(places), size=number, p=weights)
        normal = rng.standard_normal((number, self.dim))
        u = normal / np.sqrt(rng.chisquare(self.freedom, number) / self.freedom)[:, None]
        placed = np.stack([place.place(u) for place in places])
        return np.asarray(placed[which, np.arange(number)])

    def value_and_grad(self, x: Array) -> tuple[Array, Array]:
        """Log density and gradient of points of shape (N, D); neither is finite too far out."""
        places, weights = self.parts
        with np.errstate(all="ignore"):
            heights, slopes = zip(*(self._one(place, x) for place in places), strict=True)
            joint = np.stack(heights) + np.log(weights)[:, None]
            value = logsumexp(joint, axis=0)
            responsible = np.exp(joint - value)
            return value, np.einsum("kn,knd->nd", responsible, np.stack(slopes))

    def nearest(self, x: Array) -> npt.NDArray[np.int64]:
        """Say which hill each point is on, by number."""
        heights = np.stack([self._one(place, x)[0] for place in self.places])
        return np.asarray(heights.argmax(0))

    def residuals(self, x: Array) -> Array:
        """Points, as seen from the tops of their hills."""
        tops = np.stack([place.loc for place in self.places])
        return np.asarray(x - tops[self.nearest(x)])

    def _one(self, place: Coordinates, x: Array) -> tuple[Array, Array]:
        """Log density and gradient of one Student t."""
        inverse = 1 / place.root if place.is_diagonal else np.linalg.inv(place.root)
        centred = x - place.loc
        u = centred * inverse if place.is_diagonal else centred @ inverse.T
        freedom, dim = self.freedom, self.dim
        square = (u**2).sum(1)
        constant = gammaln((freedom + dim) / 2) - gammaln(freedom / 2) - place.log_det
        constant -= dim / 2 * np.log(freedom * np.pi)
        value = constant - (freedom + dim) / 2 * np.log1p(square / freedom)
        slope = -((freedom + dim) / (freedom + square))[:, None] * u
        return value, slope * inverse if place.is_diagonal else slope @ inverse


@dataclass(frozen=True)
class Annealed:
    """Where populations have ended.

    Attributes
    ----------
    x : array, shape (N, D)
        Points; those of one population follow each other.
    populations : array of int, shape (N,)
    num_steps : int
        From the hills' density to the posterior.
    evaluations : int
        Gradients computed, of all points.
    """

    x: Array
    populations: npt.NDArray[np.int64]
    num_steps: int
    evaluations: int


class NotAnnealed(ArithmeticError):
    """A population has lost all of its points, or the way is too long."""


def anneal(
    evaluate: Evaluate,
    hills: Hills,
    *,
    size: int,
    num_populations: int,
    num_moves: int,
    rng: np.random.Generator,
    tick: Callable[[], object],
) -> Annealed:
    """Anneal populations from the hills' density to the posterior.

    Parameters
    ----------
    evaluate : callable
        Log density, up to a constant, and gradient of the posterior.
    hills : Hills
    size, num_populations : int
        Points in a population, and populations.
    num_moves : int
        Trajectories of Hamiltonian Monte Carlo after each step.
    rng : numpy.random.Generator
    tick : callable
        Called after each step.

    Raises
    ------
    NotAnnealed
    """
    number = size * num_populations
    x, inverse_temperature, step, evaluations = hills.draw(number, rng), 0.0, 0.5, 0

    def between(points: Array) -> tuple[Array, Array]:
        nonlocal evaluations
        evaluations += len(points)
        (p, slope), (q, from_hills) = evaluate(points), hills.value_and_grad(points)
        return (
            (1 - inverse_temperature) * q + inverse_temperature * p,
            (1 - inverse_temperature) * from_hills + inverse_temperature * slope,
        )

    for num_steps in range(1, _MAX_STEPS + 1):
        gain = state(evaluate, x).value - hills.value_and_grad(x)[0]
        evaluations += number
        ahead = _furthest(gain, 1.0 - inverse_temperature)
        x = x[_drawn_again(gain * ahead, num_populations, rng)]
        inverse_temperature = min(1.0, inverse_temperature + ahead)
        coordinates = round_for(hills.residuals(x))
        at = state(between, x)
        for _ in range(num_moves):
            momentum = rng.standard_normal(x.shape)
            leapfrogs = int(rng.integers(1, _LEAPFROGS + 1))
            path = follow(between, coordinates, at, momentum, step, leapfrogs)
            at = path.accept(rng)
            step = min(step * float(np.exp(path.probability.mean() - _TARGET)), 1.0)
        x = at.x
        tick()
        if inverse_temperature == 1.0:
            which = np.repeat(np.arange(num_populations), size)
            return Annealed(x, which, num_steps, evaluations)
    raise NotAnnealed(f"the way to the posterior takes more than {_MAX_STEPS} steps")


def _furthest(gain: Array, left: float) -> float:
    """Give the longest step after which enough points count, at most what is left."""

    def effective(ahead: float) -> float:
        weights = np.exp(ahead * gain - np.max(ahead * gain))
        return float(weights.sum() ** 2 / (weights @ weights) / len(weights))

    if not np.isfinite(gain).any():
        raise NotAnnealed("no point has a density")
    if effective(left) >= _EFFECTIVE:
        return left
    low, high = 0.0, left
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if effective(middle) >= _EFFECTIVE else (low, middle)
    # Where points without a density are too many, any step loses them: a short one.
    return low or left / _MAX_STEPS


def _drawn_again(
    log_weights: Array, num_populations: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw the points of each population again, in proportion to their weights."""
    by_population = log_weights.reshape(num_populations, -1)
    size = by_population.shape[1]
    if not np.isfinite(by_population).any(1).all():
        raise NotAnnealed("a population has lost all of its points")
    chosen = []
    for k, logs in enumerate(by_population):
        edges = np.cumsum(np.exp(logs - logs.max()))
        marks = (np.arange(size) + rng.random()) / size * edges[-1]
        chosen.append(k * size + np.minimum(np.searchsorted(edges, marks), size - 1))
    return np.concatenate(chosen)
