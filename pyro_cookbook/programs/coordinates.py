"""Affine coordinates of the unconstrained latents, in which a posterior is round.

One map serves climbs, Gaussian families, chains and NUTS: z = loc + R u, with R a whole matrix or,
in high dimensions, a diagonal one.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Coordinates:
    """The map u ↦ z = loc + R u.

    Attributes
    ----------
    loc : array, shape (D,)
    root : array, shape (D, D) or (D,)
        R, a root of a covariance: R Rᵀ. Of shape (D,) it is a diagonal.
    """

    loc: Array
    root: Array

    @property
    def is_diagonal(self) -> bool:
        """Whether R is a diagonal."""
        return self.root.ndim == 1

    @property
    def matrix(self) -> Array:
        """R as a matrix, shape (D, D)."""
        return np.diag(self.root) if self.is_diagonal else self.root

    @property
    def scale(self) -> Array:
        """Standard deviations of z for u ~ N(0, I), shape (D,)."""
        return np.abs(self.root) if self.is_diagonal else np.linalg.norm(self.root, axis=1)

    @property
    def log_det(self) -> float:
        """Log of the volume that the map stretches a unit volume to: log |det R|."""
        if self.is_diagonal:
            return float(np.log(np.abs(self.root)).sum())
        return float(np.linalg.slogdet(self.root)[1])

    def at(self, loc: Array) -> "Coordinates":
        """Give the same directions around another point."""
        return replace(self, loc=loc)

    def place(self, u: Array) -> Array:
        """Compute loc + R u for every row of u: shape (..., D)."""
        return self.loc + self.stretch(u)

    def stretch(self, u: Array) -> Array:
        """Compute R u for every row of u: shape (..., D)."""
        return u * self.root if self.is_diagonal else u @ self.root.T

    def gradient(self, g: Array) -> Array:
        """Gradients in u of gradients g in z: Rᵀ g for every row, shape (..., D)."""
        return g * self.root if self.is_diagonal else g @ self.root

    def solve(self, step: Array) -> Array:
        """Compute R⁻¹ times a step of z, shape (D,)."""
        return step / self.root if self.is_diagonal else np.linalg.solve(self.root, step)

    def distance(self, z: Array) -> float:
        """Distance of a point from loc in these coordinates: ‖R⁻¹ (z − loc)‖."""
        return float(np.linalg.norm(self.solve(z - self.loc)))


def from_precision(loc: Array, precision: Array, flat: float) -> tuple[Coordinates, Array, int]:
    """Coordinates in which a precision matrix is the identity.

    Scaled to a unit diagonal first, so that parameters of size 1e-3 and 1e5 can share a model;
    eigenvalues are taken by size and kept away from zero.

    Parameters
    ----------
    loc : array, shape (D,)
    precision : array, shape (D, D)
    flat : float
        Relative to the largest, smaller eigenvalues are raised to this.

    Returns
    -------
    coordinates : Coordinates
    eigenvalues : array, shape (D,)
        Of the scaled precision, ascending.
    weakest : int
        Entry with the largest part in the smallest eigenvalue's direction.
    """
    diagonal = np.abs(np.diagonal(precision)).copy()
    diagonal[diagonal < np.finfo(float).tiny] = 1.0
    unit = 1 / np.sqrt(diagonal)
    eigenvalues, vectors = np.linalg.eigh(precision * unit * unit[:, None])
    size = np.maximum(np.abs(eigenvalues), flat * max(1.0, np.abs(eigenvalues).max()))
    root = unit[:, None] * vectors / np.sqrt(size)
    return Coordinates(loc, root), eigenvalues, int(np.abs(vectors[:, 0]).argmax())


def from_draws(draws: Array, *, max_dense: int, shrinkage: float) -> Coordinates:
    """Coordinates in which draws have unit covariance.

    Parameters
    ----------
    draws : array, shape (S, D)
        A column that does not vary keeps its unit.
    max_dense : int
        Above this many columns, or a quarter of S, only the sds are used.
    shrinkage : float
        Share of the identity mixed into the correlation, against the noise of few draws.
    """
    loc = draws.mean(0)
    constant = (draws == draws[0]).all(0)
    sd = np.where(constant, 1.0, np.maximum(draws.std(0), np.finfo(float).tiny))
    if draws.shape[1] > min(max_dense, len(draws) // 4) or constant.any():
        return Coordinates(loc, sd)
    correlation = np.corrcoef(((draws - loc) / sd).T).reshape(len(sd), len(sd))
    shrunk = (1 - shrinkage) * correlation + shrinkage * np.eye(len(sd))
    return Coordinates(loc, sd[:, None] * np.linalg.cholesky(shrunk))
