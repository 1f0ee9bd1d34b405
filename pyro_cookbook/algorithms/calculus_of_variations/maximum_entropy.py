"""Maximum entropy under constraints on moments: a density on a grid, by Lagrange multipliers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# A moment is met if it is within this many of its own standard deviations.
_MET = 1e-7


@dataclass(frozen=True)
class Grid:
    """Points and weights of a quadrature: ∫ f(x) dx ≈ Σ weights · f(points).

    Attributes
    ----------
    points, weights : ndarray
        Shape (G,), increasing and positive.
    """

    points: Array
    weights: Array

    def integral(self, values: ArrayLike) -> float:
        """∫ f(x) dx, of the values of f at the points."""
        return float(self.weights @ np.asarray(values, dtype=float))


def make_grid(low: float, high: float, num_panels: int = 200, order: int = 5) -> Grid:
    """Divide an interval into equal panels with a Gauss-Legendre rule on each.

    Parameters
    ----------
    low, high : float
        The support, or an interval outside which there is no mass to speak of.
    num_panels : int, default 200
        An even number has a border of two panels in the middle: a density with a kink there loses
        no accuracy.
    order : int, default 5
        Points of a panel.

    Raises
    ------
    ValueError
        If the interval is empty or not finite.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"low, high: got {low}, {high}, expected finite numbers, low below high")
    nodes, weights = np.polynomial.legendre.leggauss(order)
    half = (high - low) / num_panels / 2
    centres = low + half * (1 + 2 * np.arange(num_panels))
    points = (centres[:, None] + half * nodes).ravel()
    return Grid(points, np.tile(half * weights, num_panels))


@dataclass(frozen=True)
class GridDensity:
    """A density of maximum entropy: log p(x) = Σ_j λ_j T_j(x) − log Z.

    Attributes
    ----------
    grid : Grid
    log_density : ndarray
        log p at the points, shape (G,).
    multipliers : ndarray
        λ, one for each statistic, shape (J,).
    log_normaliser : float
        log Z. The multiplier of ∫p = 1 is 1 − log Z in the chapter's notation.
    entropy : float
        −∫ p log p, in nats.
    edges : tuple of float
        p at the low and at the high end of the grid, as fractions of p's maximum. Where the support
        has no end on that side and the number is not tiny, the grid has cut the density off: widen
        it, and if the number stays, the constraints alone determine no density.
    num_iterations : int
        Newton steps taken.
    """

    grid: Grid
    log_density: Array
    multipliers: Array
    log_normaliser: float
    entropy: float
    edges: tuple[float, float]
    num_iterations: int


def maximise_entropy(
    grid: Grid, statistics: Sequence[Callable[[Array], Array]], targets: ArrayLike
) -> GridDensity:
    """Find the density of maximum entropy on a grid, given the means of some statistics.

    The Lagrangian H[p] + λ₀ (∫p − 1) + Σ_j λ_j (E_p[T_j] − t_j) is stationary at
    p = exp(Σ_j λ_j T_j) / Z(λ). The multipliers minimise the dual log Z(λ) − λᵀt, a smooth convex
    function with gradient E_p[T] − t and Hessian Cov_p(T), by Newton steps in a trust region.

    Parameters
    ----------
    grid : Grid
        Its interval is the support.
    statistics : sequence of callable
        T_j, from points of shape (G,) to finite values of shape (G,); they and the constant 1 must
        be linearly independent. None at all gives the uniform density.
    targets : array_like
        t_j = E_p[T_j], shape (J,).

    Returns
    -------
    GridDensity

    Raises
    ------
    ValueError
        If the statistics are dependent or not finite, or no density on the grid has such means.

    Notes
    -----
    On an infinite support the maximum need not exist (a mean alone; moments up to an odd order).
    The grid makes the support finite and always gives an answer: look at `GridDensity.edges`.

    References
    ----------
    Goodfellow, Bengio and Courville (2016), *Deep Learning*, section 19.4.2.
    Cover and Thomas (2006), *Elements of Information Theory*, theorem 12.1.1.
    """
    target = np.asarray(targets, dtype=float)
    if target.shape != (len(statistics),):
        raise ValueError(
            f"targets: got shape {target.shape}, expected one number for each of"
            f" {len(statistics)} statistics"
        )
    if not len(statistics):
        return _density(grid, np.zeros((0, len(grid.points))), target, 0)
    values = np.stack([np.broadcast_to(T(grid.points), grid.points.shape) for T in statistics])
    if not np.isfinite(values).all():
        raise ValueError("statistics: not finite on the whole grid; move the grid's ends")
    for j, (row, t) in enumerate(zip(values, target, strict=True)):
        if not row.min() < t < row.max():
            raise ValueError(
                f"targets: got {t:.6g} for statistic {j}, whose values on the grid lie between"
                f" {row.min():.6g} and {row.max():.6g}"
            )
    # Newton in coordinates in which the statistics are uncorrelated under the uniform density.
    share = grid.weights / grid.weights.sum()
    covariance = np.cov(values, aweights=share, ddof=0).reshape(len(values), -1)
    spread = np.sqrt(covariance.diagonal())
    roots, axes = np.linalg.eigh(covariance / np.outer(spread, spread))
    if roots.min() < 1e-12:
        raise ValueError("statistics: one is a linear combination of the others and a constant")
    whiten = (axes / np.sqrt(roots)).T / spread
    centred = whiten @ (values - target[:, None])

    def dual(multipliers: Array) -> tuple[float, Array]:
        log_p = multipliers @ centred
        log_z, p = _normalise(grid, log_p)
        return log_z, centred @ p

    def hessian(multipliers: Array) -> Array:
        _, p = _normalise(grid, multipliers @ centred)
        mean = centred @ p
        return np.asarray((centred * p) @ centred.T - np.outer(mean, mean))

    from scipy.optimize import minimize  # late: new rows need none

    found = minimize(
        dual, np.zeros(len(values)), jac=True, hess=hessian, method="trust-exact",
        options={"gtol": 1e-11, "maxiter": 1000},
    )  # fmt: skip
    density = _density(grid, values, np.asarray(found.x @ whiten), int(found.nit))
    p = grid.weights * np.exp(density.log_density)
    error = np.abs(values @ p - target) / np.sqrt(np.maximum(values**2 @ p - (values @ p) ** 2, 0))
    if not error.max() < _MET:
        raise ValueError(f"targets: no density on the grid has the means {target.tolist()}")
    return density


def _normalise(grid: Grid, log_p: Array) -> tuple[float, Array]:
    """Log of the integral, and the probabilities of the points."""
    top = log_p.max()
    mass = grid.weights * np.exp(log_p - top)
    total = mass.sum()
    return float(np.log(total) + top), mass / total


def _density(grid: Grid, values: Array, multipliers: Array, num_iterations: int) -> GridDensity:
    log_p = multipliers @ values if len(values) else np.zeros_like(grid.points)
    log_z, probability = _normalise(grid, log_p)
    log_p = log_p - log_z
    low, high = np.exp(log_p[[0, -1]] - log_p.max()).tolist()
    entropy = float(-probability @ log_p)
    return GridDensity(grid, log_p, multipliers, log_z, entropy, (low, high), num_iterations)


def gaussian_multipliers(loc: ArrayLike, scale: ArrayLike) -> tuple[Array, Array]:
    """λ₁ = loc/scale² and λ₂ = −1/(2 scale²): those whose optimum is N(loc, scale²).

    Parameters
    ----------
    loc, scale : array_like
        Mean and standard deviation, of one shape; the latter positive.
    """
    loc, variance = np.asarray(loc, dtype=float), np.square(np.asarray(scale, dtype=float))
    return loc / variance, -0.5 / variance


def kl_divergence(grid: Grid, log_p: ArrayLike, log_q: ArrayLike) -> float:
    """KL(p ‖ q) = ∫ p (log p − log q), in nats, of two log densities at the grid's points."""
    p, q = np.asarray(log_p, dtype=float), np.asarray(log_q, dtype=float)
    return grid.integral(np.exp(p) * (p - q))


def total_variation(grid: Grid, log_p: ArrayLike, log_q: ArrayLike) -> float:
    """½ ∫ |p − q|: the largest difference of the two in the probability of any event."""
    return 0.5 * grid.integral(np.abs(np.exp(log_p) - np.exp(log_q)))
