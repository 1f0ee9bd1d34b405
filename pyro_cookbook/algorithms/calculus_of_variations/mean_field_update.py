"""The general mean-field update, on a grid: for any joint density of two hidden scalars."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyro_cookbook.algorithms.calculus_of_variations.maximum_entropy import Grid

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GridMeanField:
    """A fixed point of the mean-field updates.

    Attributes
    ----------
    grids : tuple of Grid
        Of h₁ and of h₂.
    log_q : tuple of ndarray
        log q₁(h₁) and log q₂(h₂) at the points, shapes (G₁,) and (G₂,).
    elbo : list of float
        The bound after every update of one factor, in nats; it never falls.
    log_evidence : float
        log ∫∫ p(v, h₁, h₂) dh₁ dh₂ on the same grids, in nats.
    log_marginals : tuple of ndarray
        The exact log p(h₁ | v) and log p(h₂ | v), shapes (G₁,) and (G₂,).
    converged : bool
    """

    grids: tuple[Grid, Grid]
    log_q: tuple[Array, Array]
    elbo: list[float]
    log_evidence: float
    log_marginals: tuple[Array, Array]
    converged: bool

    def moments(self, i: int) -> tuple[float, float]:
        """Mean and standard deviation of q_i, i = 0 or 1."""
        grid, density = self.grids[i], np.exp(self.log_q[i])
        mean = grid.integral(grid.points * density)
        return mean, float(np.sqrt(grid.integral((grid.points - mean) ** 2 * density)))


def update(log_joint: Array, log_q_other: ArrayLike, own: Grid, other: Grid) -> Array:
    """log q̃(h_i) = E_{q_j}[log p(v, h)] + const: the best factor given the other.

    Parameters
    ----------
    log_joint : ndarray
        log p(v, h) at the points, own variable first, shape (G_own, G_other).
    log_q_other : array_like
        Log density of the other factor, shape (G_other,).
    own, other : Grid

    Returns
    -------
    ndarray
        Normalised log density, shape (G_own,).

    References
    ----------
    Goodfellow, Bengio and Courville (2016), *Deep Learning*, equation 19.56.
    """
    expected = log_joint @ (other.weights * np.exp(log_q_other))
    return np.asarray(expected - _log_integral(expected, own.weights))


def mean_field(
    log_joint: Callable[[Array, Array], Array],
    grids: tuple[Grid, Grid],
    *,
    start: ArrayLike | None = None,
    max_sweeps: int = 1000,
    tol: float = 1e-11,
) -> GridMeanField:
    """Update the two factors in turn until the bound stops rising.

    No family is chosen for q: the form of each factor comes out of the update.

    Parameters
    ----------
    log_joint : callable
        log p(v, h₁, h₂) at the data in hand, from arrays of shapes (G₁, 1) and (1, G₂) to finite
        values of shape (G₁, G₂).
    grids : tuple of Grid
        For h₁ and h₂; they must hold all the mass.
    start : array_like, optional
        log q₂ to start from, up to a constant, shape (G₂,). Default: uniform.
    max_sweeps : int, default 1000
    tol : float, default 1e-11
        Stop when a sweep raises the bound by less, in nats.

    Raises
    ------
    ValueError
        If the log joint is not finite somewhere on the grids.

    Notes
    -----
    Each update is the best for its factor, so the bound never falls; where the posterior has
    several modes the end depends on the start.
    """
    first, second = grids
    values = np.asarray(log_joint(first.points[:, None], second.points[None, :]), dtype=float)
    if values.shape != (len(first.points), len(second.points)) or not np.isfinite(values).all():
        raise ValueError(
            f"log_joint: expected finite values of shape {len(first.points), len(second.points)},"
            f" got shape {values.shape} with {int((~np.isfinite(values)).sum())} not finite"
        )
    start = np.zeros(len(second.points)) if start is None else np.asarray(start, dtype=float)
    log_q2 = start - _log_integral(start, second.weights)
    elbo: list[float] = []
    converged = False
    for _ in range(max_sweeps):
        log_q1 = update(values, log_q2, first, second)
        elbo.append(_bound(values, (log_q1, log_q2), grids))
        log_q2 = update(values.T, log_q1, second, first)
        elbo.append(_bound(values, (log_q1, log_q2), grids))
        if len(elbo) > 2 and elbo[-1] - elbo[-3] < tol:
            converged = True
            break
    weights = np.log(first.weights)[:, None] + np.log(second.weights)
    log_evidence = float(np.logaddexp.reduce(values + weights, axis=None))
    marginals = (
        np.logaddexp.reduce(values + np.log(second.weights), axis=1) - log_evidence,
        np.logaddexp.reduce(values + np.log(first.weights)[:, None], axis=0) - log_evidence,
    )
    return GridMeanField(grids, (log_q1, log_q2), elbo, log_evidence, marginals, converged)


def _log_integral(log_values: Array, weights: Array) -> float:
    return float(np.logaddexp.reduce(log_values + np.log(weights)))


def _bound(values: Array, log_q: tuple[Array, Array], grids: tuple[Grid, Grid]) -> float:
    """E_q[log p(v, h)] + H(q₁) + H(q₂)."""
    p1, p2 = (grid.weights * np.exp(q) for grid, q in zip(grids, log_q, strict=True))
    return float(p1 @ values @ p2 - p1 @ log_q[0] - p2 @ log_q[1])
