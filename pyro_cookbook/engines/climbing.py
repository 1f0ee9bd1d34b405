"""A mode, or a good centre where there is none, and coordinates in which it is round."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from pyro_cookbook.programs.unconstrained import FlatDensity

Array = npt.NDArray[np.float64]

# Up to this many latent scalars the whole Hessian is formed.
MAX_DENSE = 600
# A point is a mode if a Newton step from it would gain less than this, in nats.
MAX_DECREMENT = 1e-6
_MAX_ROUNDS, _ITERATIONS = 12, 150
# A climb that is still on a saddle or a ridge after so many rounds is given up.
_PATIENCE = 2
# Relative to the largest, smaller eigenvalues of the scaled precision count as flat.
_FLAT = 1e-9
# Beyond this many nats above the start, or this far out, a climb has left for infinity.
_FAR = 1e8


@dataclass(frozen=True)
class Centre:
    """Where a fit starts, and in which coordinates.

    Attributes
    ----------
    z : array, shape (D,)
    whiten : array, shape (D, D) or (D,)
        W with W Wᵀ the inverse of the (regularised) precision; its diagonal alone in high
        dimensions.
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

    z: Array
    whiten: Array
    log_density: float
    decrement: float
    is_mode: bool
    eigenvalues: Array
    weakest: int

    @property
    def scale(self) -> Array:
        """Standard deviations of the Gaussian with this precision, shape (D,)."""
        return np.abs(self.whiten) if self.whiten.ndim == 1 else np.linalg.norm(self.whiten, axis=1)

    @property
    def log_mass(self) -> float:
        """Laplace's approximation of the log of the mass around a mode, in nats."""
        w = self.whiten
        log_det = np.log(np.abs(w)).sum() if w.ndim == 1 else np.linalg.slogdet(w)[1]
        return self.log_density + float(log_det) + len(self.z) / 2 * float(np.log(2 * np.pi))


def apply(whiten: Array, x: Array) -> Array:
    """W x for every row of x."""
    return x * whiten if whiten.ndim == 1 else x @ whiten.T


def apply_transposed(whiten: Array, x: Array) -> Array:
    """Wᵀ x for every row of x."""
    return x * whiten if whiten.ndim == 1 else x @ whiten


def solve(whiten: Array, x: Array) -> Array:
    """W⁻¹ x for one vector."""
    return x / whiten if whiten.ndim == 1 else np.linalg.solve(whiten, x)


def whitening(precision: Array) -> tuple[Array, Array, int]:
    """Coordinates in which a precision matrix is the identity.

    Scaled to a unit diagonal first, so that parameters of size 1e-3 and 1e5 can share a model;
    eigenvalues are taken by size and kept away from zero.

    Parameters
    ----------
    precision : array, shape (D, D)

    Returns
    -------
    whiten : array, shape (D, D)
    eigenvalues : array, shape (D,)
        Of the scaled precision, ascending.
    weakest : int
        Entry with the largest part in the smallest eigenvalue's direction.
    """
    diagonal = np.abs(np.diagonal(precision)).copy()
    diagonal[diagonal < np.finfo(float).tiny] = 1.0
    unit = 1 / np.sqrt(diagonal)
    eigenvalues, vectors = np.linalg.eigh(precision * unit * unit[:, None])
    size = np.maximum(np.abs(eigenvalues), _FLAT * max(1.0, np.abs(eigenvalues).max()))
    whiten = unit[:, None] * vectors / np.sqrt(size)
    return whiten, eigenvalues, int(np.abs(vectors[:, 0]).argmax())


def look(density: FlatDensity, z: Array) -> Centre:
    """Curvature and Newton decrement at a point."""
    value, gradient = density.value_and_grad(z[None])
    whole = True
    if density.dim <= MAX_DENSE:
        hessian = density.hessian(z)
        whole = bool(np.isfinite(hessian).all())
        if not whole:
            hessian = np.where(np.isfinite(hessian), hessian, 0.0) - np.eye(density.dim)
        whiten, eigenvalues, weakest = whitening(-hessian)
    else:
        diagonal = _diagonal(density, z)
        whiten = 1 / np.sqrt(np.maximum(np.abs(diagonal), 1e-12))
        eigenvalues, weakest = np.sort(diagonal * whiten**2), int(diagonal.argmin())
    step = apply_transposed(whiten, gradient)[0]
    decrement = float(step @ step) / 2
    is_mode = (
        whole and decrement < MAX_DECREMENT * max(1.0, density.dim / 100) and eigenvalues[0] > _FLAT
    )
    return Centre(z, whiten, float(value[0]), decrement, bool(is_mode), eigenvalues, weakest)


def climb(density: FlatDensity, start: Array) -> Centre:
    """Climb to a mode: L-BFGS in coordinates that the Hessian makes round, again and again.

    Parameters
    ----------
    density : FlatDensity
    start : array, shape (D,)
        A point of finite density.

    Returns
    -------
    Centre
        With ``is_mode`` false where the climb ended at no mode: the density rises for ever, or is
        flat.
    """
    here = look(density, start)
    for r in range(_MAX_ROUNDS):
        if here.is_mode or (r >= _PATIENCE and here.eigenvalues[0] <= 0):
            break
        z = ascend(density, here.z, here.whiten, _ITERATIONS if density.dim <= MAX_DENSE else 2000)
        if not np.isfinite(z).all() or np.abs(solve(here.whiten, z - start)).max() > _FAR:
            break
        there = look(density, z)
        if not np.isfinite(there.log_density) or (
            there.log_density - here.log_density < 1e-9 * max(1.0, abs(here.log_density))
            and there.decrement >= 0.99 * here.decrement
        ):
            break
        here = there
    return here


def ascend(density: FlatDensity, points: Array, whiten: Array, iterations: int) -> Array:
    """Climb by L-BFGS in whitened coordinates, from one point or from several at once.

    Parameters
    ----------
    density : FlatDensity
    points : array, shape (D,) or (K, D)
        The sum of their log densities is climbed, so that one evaluation serves all of them.
    whiten : array
        As in `Centre`.
    iterations : int

    Returns
    -------
    array, the shape of `points`
        The highest points of finite density.
    """
    begin = np.atleast_2d(points)
    guards = [Guard() for _ in begin]

    def descend(x: Array) -> tuple[float, Array]:
        u = x.reshape(begin.shape)
        value, gradient = density.value_and_grad(begin + apply(whiten, u))
        with np.errstate(all="ignore"):  # the guard sees to what is not finite
            slope = -apply_transposed(whiten, gradient)
        parts = [guard(*one) for guard, *one in zip(guards, u, -value, slope, strict=True)]
        return float(sum(value for value, _ in parts)), np.concatenate([g for _, g in parts])

    minimize(
        descend,
        np.zeros(begin.size),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": iterations, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-5, "maxls": 40},
    )
    ends = begin + apply(whiten, np.stack([guard.x for guard in guards]))
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


def _diagonal(density: FlatDensity, z: Array, num_probes: int = 64) -> Array:
    """Diagonal of the precision by random signs (Hutchinson): E[v ∘ Hv] with v = ±1."""
    signs = np.sign(np.random.default_rng(0).standard_normal((num_probes, density.dim)))
    products = density.hvp(np.tile(z, (num_probes, 1)), signs)
    diagonal: Array = -(signs * products).mean(0)
    # An estimate of a small entry is mostly noise of its neighbours: keep away from zero.
    floored: Array = np.maximum(diagonal, 1e-3 * np.median(np.abs(diagonal)) + 1e-300)
    return floored
