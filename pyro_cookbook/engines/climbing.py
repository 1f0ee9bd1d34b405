"""A mode, or a good centre where there is none, and coordinates in which it is round."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyro_cookbook.programs.coordinates import Coordinates, from_precision
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity

Array = npt.NDArray[np.float64]

# Up to this many latent scalars the whole Hessian is formed.
MAX_DENSE = 600
# A point is a mode if a Newton step from it would gain less than this, in nats.
MAX_DECREMENT = 1e-6
_MAX_ROUNDS, _ITERATIONS = 12, 150
# A climb that is still on a saddle or a ridge after so many rounds is given up.
_PATIENCE = 2
# Relative to the largest, smaller eigenvalues of the scaled precision count as flat.
FLAT = 1e-9
# Beyond this many nats above the start, or this far out, a climb has left for infinity.
_FAR = 1e8


@dataclass(frozen=True)
class Centre:
    """Where a fit starts, and in which coordinates.

    Attributes
    ----------
    coordinates : Coordinates
        Around the centre; R Rᵀ is the inverse of the (regularised) precision there, its diagonal
        alone in high dimensions.
    log_density : float
        At z, in nats.
    decrement : float
        What a Newton step would gain there, in nats.
    is_mode : bool
        The gradient vanishes and all curvatures are negative.
    eigenvalues : array
        Of the precision at z, scaled to a unit diagonal, ascending. Near zero: flat; below: a
        saddle.
    weakest : int
        Entry of z that takes most part in the direction of the smallest eigenvalue.
    """

    coordinates: Coordinates
    log_density: float
    decrement: float
    is_mode: bool
    eigenvalues: Array
    weakest: int

    @property
    def z(self) -> Array:
        """The centre itself, shape (D,)."""
        return self.coordinates.loc

    @property
    def scale(self) -> Array:
        """Standard deviations of the Gaussian with this precision, shape (D,)."""
        return self.coordinates.scale

    @property
    def log_mass(self) -> float:
        """Laplace's approximation of the log of the mass around a mode, in nats."""
        volume = len(self.z) / 2 * float(np.log(2 * np.pi))
        return self.log_density + self.coordinates.log_det + volume


def look(density: UnconstrainedDensity, z: Array) -> Centre:
    """Curvature and Newton decrement at a point."""
    value, gradient = density.value_and_grad(z[None])
    whole = True
    if density.dim <= MAX_DENSE:
        hessian = density.hessian(z)
        whole = bool(np.isfinite(hessian).all())
        if not whole:
            hessian = np.where(np.isfinite(hessian), hessian, 0.0) - np.eye(density.dim)
        coordinates, eigenvalues, weakest = from_precision(z, -hessian, FLAT)
    else:
        diagonal = _diagonal(density, z)
        root = 1 / np.sqrt(np.maximum(np.abs(diagonal), 1e-12))
        coordinates = Coordinates(z, root)
        eigenvalues, weakest = np.sort(diagonal * root**2), int(diagonal.argmin())
    step = coordinates.gradient(gradient)[0]
    decrement = float(step @ step) / 2
    is_mode = (
        whole and decrement < MAX_DECREMENT * max(1.0, density.dim / 100) and eigenvalues[0] > FLAT
    )
    return Centre(coordinates, float(value[0]), decrement, bool(is_mode), eigenvalues, weakest)


def climb(density: UnconstrainedDensity, start: Array) -> Centre:
    """Climb to a mode: L-BFGS in coordinates that the Hessian makes round, again and again.

    Parameters
    ----------
    density : UnconstrainedDensity
    start : array, shape (D,)
        A point of finite density.

    Returns
    -------
    Centre
        With ``is_mode`` false where the climb ended at no mode: the density rises for ever, or is
        flat.
    """
    here, gained = look(density, start), np.inf
    for r in range(_MAX_ROUNDS):
        # In the neck of a funnel Newton's step promises more and more.
        lost = here.eigenvalues[0] <= 0 and (r >= _PATIENCE or here.decrement > gained)
        if here.is_mode or lost:
            break
        gained = here.decrement
        iterations = _ITERATIONS if density.dim <= MAX_DENSE else 2000
        z = ascend(density, here.z, here.coordinates, iterations)
        if not np.isfinite(z).all() or np.abs(here.coordinates.solve(z - start)).max() > _FAR:
            break
        there = look(density, z)
        if not np.isfinite(there.log_density) or (
            there.log_density - here.log_density < 1e-9 * max(1.0, abs(here.log_density))
            and there.decrement >= 0.99 * here.decrement
        ):
            break
        here = there
    return here


def ascend(
    density: UnconstrainedDensity, points: Array, coordinates: Coordinates, iterations: int
) -> Array:
    """Climb by L-BFGS in whitened coordinates, from one point or from several at once.

    Parameters
    ----------
    density : UnconstrainedDensity
    points : array, shape (D,) or (K, D)
        The sum of their log densities is climbed, so that one evaluation serves all of them. A
        point without a finite density and gradient has no slope to climb: it stays, and is not
        in the sum, in which a wall of its own would drown the others.
    coordinates : Coordinates
        Whose directions to climb in; its own place does not matter.
    iterations : int

    Returns
    -------
    array, the shape of `points`
        The highest points of finite density.
    """
    from scipy.optimize import minimize  # late: new rows need none

    ends = np.array(np.atleast_2d(points))
    value, gradient = density.value_and_grad(ends)
    climbers = np.flatnonzero(np.isfinite(value) & np.isfinite(gradient).all(1))
    if not climbers.size:
        return ends.reshape(points.shape)
    begin = ends[climbers]
    guards = [Guard() for _ in begin]

    def descend(x: Array) -> tuple[float, Array]:
        u = x.reshape(begin.shape)
        value, gradient = density.value_and_grad(begin + coordinates.stretch(u))
        with np.errstate(all="ignore"):  # the guard sees to what is not finite
            slope = -coordinates.gradient(gradient)
        parts = [guard(*one) for guard, *one in zip(guards, u, -value, slope, strict=True)]
        return float(sum(value for value, _ in parts)), np.concatenate([g for _, g in parts])

    minimize(
        descend,
        np.zeros(begin.size),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": iterations, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-5, "maxls": 40},
    )
    ends[climbers] = begin + coordinates.stretch(np.stack([guard.x for guard in guards]))
    return ends.reshape(points.shape)


class Guard:
    """Keeps the best point of an optimiser, and walls off where the function is not finite.

    Beyond the wall the function is a slope that leads back to the best point, which a line search
    can follow.
    """

    def __init__(self) -> None:
        self.x = np.zeros(0)
        self.value = np.inf

    def __call__(self, x: Array, value: Any, gradient: Array) -> tuple[float, Array]:
        """Pass value and gradient on where they are finite."""
        if np.isfinite(value) and np.isfinite(gradient).all():
            if value < self.value:
                self.x, self.value = x.copy(), float(value)
            return float(value), gradient
        if not self.x.size:  # not even the start is finite
            return np.finfo(float).max / 1e100, np.zeros_like(x)
        away = x - self.x
        return self.value + 1e3 + abs(self.value) + float(away @ away) / 2, away


def _diagonal(density: UnconstrainedDensity, z: Array, num_probes: int = 64) -> Array:
    """Diagonal of the precision by random signs (Hutchinson): E[v ∘ Hv] with v = ±1."""
    signs = np.sign(np.random.default_rng(0).standard_normal((num_probes, density.dim)))
    products = density.hvp(np.tile(z, (num_probes, 1)), signs)
    diagonal: Array = -(signs * products).mean(0)
    # An estimate of a small entry is mostly noise of its neighbours: keep away from zero.
    floored: Array = np.maximum(diagonal, 1e-3 * np.median(np.abs(diagonal)) + 1e-300)
    return floored
