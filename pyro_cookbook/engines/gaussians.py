"""Gaussian families as affine maps of base draws: parameters, bound and its gradient.

A member of a family is q(z) = N(loc, S Sᵀ), drawn as z = loc + S ε with ε ~ N(0, I). The bound on
given base draws is the mean of log p(z) − log q(z), exactly Trace_ELBO's on the same draws. For
each family ``unpack`` maps the vector of parameters to a `Gaussian`, and ``bound`` gives the bound
and its gradient in that vector.
"""

from copy import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyro_cookbook.engines.climbing import Centre
from pyro_cookbook.programs.coordinates import Coordinates

Array = npt.NDArray[np.float64]

_HALF_LOG_2PI = 0.5 * float(np.log(2 * np.pi))


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution of z, through one of three factors of its covariance.

    Attributes
    ----------
    loc : array, shape (D,)
    diagonal : array, shape (D,), or None
        Standard deviations of the independent part.
    factor : array, shape (D, K), or None
        Loadings of K common draws; of all the noise where there is no independent part.
    """

    loc: Array
    diagonal: Array | None = None
    factor: Array | None = None

    @property
    def num_base(self) -> int:
        """Length of ε."""
        independent = 0 if self.diagonal is None else len(self.diagonal)
        return independent + (0 if self.factor is None else self.factor.shape[1])

    @property
    def scale(self) -> Array:
        """Marginal standard deviations, shape (D,)."""
        variance = np.zeros_like(self.loc)
        if self.diagonal is not None:
            variance += self.diagonal**2
        if self.factor is not None:
            variance += (self.factor**2).sum(1)
        return np.sqrt(variance)

    def covariance(self) -> Array:
        """Covariance, shape (D, D)."""
        covariance = np.zeros((len(self.loc), len(self.loc)))
        if self.diagonal is not None:
            covariance += np.diag(self.diagonal**2)
        if self.factor is not None:
            covariance += self.factor @ self.factor.T
        return covariance

    def draw(self, eps: Array) -> Array:
        """Map base draws, shape (S, num_base), to draws, shape (S, D)."""
        z = np.tile(self.loc, (len(eps), 1))
        if self.diagonal is not None:
            z += self.diagonal * eps[:, : len(self.loc)]
        if self.factor is not None:
            z += eps[:, -self.factor.shape[1] :] @ self.factor.T
        return z


class MeanField:
    """Independent factors: in the model's coordinates, or in whitened ones.

    Parameters
    ----------
    centre : Centre
    whitened : bool
        Independent in the whitened coordinates: z = loc + R (s ∘ ε).

    Notes
    -----
    In either case the location moves in whitened coordinates, loc = z₀ + R m, which changes how
    fast the optimum is reached and not where it is.
    """

    def __init__(self, centre: Centre, whitened: bool) -> None:
        self.coordinates, self.dim = centre.coordinates, len(centre.z)
        self.nats = max(1.0, abs(centre.log_density))
        self.whitened = whitened
        if whitened:
            self.unit: Array = np.ones(self.dim)
        elif self.coordinates.is_diagonal:
            self.unit = self.coordinates.root
        else:  # best for a Gaussian: one over the root of the precision's diagonal
            inverse = np.linalg.inv(self.coordinates.root)
            self.unit = 1 / np.sqrt((inverse**2).sum(0))
        self.num_base = self.dim
        self.start = np.zeros(2 * self.dim)

    def unpack(self, parameters: Array) -> Gaussian:
        """Read location and scales off the flat vector."""
        m, rho = parameters[: self.dim], parameters[self.dim :]
        loc, scale = self.coordinates.place(m), self.unit * np.exp(rho)
        if not self.whitened:
            return Gaussian(loc, diagonal=scale)
        if self.coordinates.is_diagonal:
            return Gaussian(loc, diagonal=self.coordinates.root * scale)
        return Gaussian(loc, factor=self.coordinates.root * scale)

    def bound(
        self, parameters: Array, eps: Array, log_p: Array, gradient: Array
    ) -> tuple[float, Array]:
        """Bound on base draws, and its gradient, from log p and its gradient at the draws."""
        scale = self.unit * np.exp(parameters[self.dim :])
        inward = self.coordinates.gradient(gradient)
        bound = log_p.mean() + np.log(scale).sum() + _base_entropy(eps)
        if self.whitened:
            bound += self.coordinates.log_det
        noise = inward if self.whitened else gradient
        return float(bound), np.concatenate([inward.mean(0), scale * (noise * eps).mean(0) + 1])


class FullRank:
    """Any covariance: z = z₀ + R (m + T ε), T lower triangular with a positive diagonal.

    Parameters
    ----------
    centre : Centre
        Of a whole Hessian.
    """

    def __init__(self, centre: Centre) -> None:
        self.coordinates = Coordinates(centre.z, centre.coordinates.matrix)
        self.dim, self.nats = len(centre.z), max(1.0, abs(centre.log_density))
        self.num_base = self.dim
        self.rows, self.columns = np.tril_indices(self.dim)
        self.on_diagonal = self.rows == self.columns
        self.start = np.zeros(self.dim + len(self.rows))

    def _triangle(self, parameters: Array) -> Array:
        triangle = np.zeros((self.dim, self.dim))
        entries = parameters[self.dim :]
        triangle[self.rows, self.columns] = np.where(
            self.on_diagonal, np.exp(np.minimum(entries, 300.0)), entries
        )
        return triangle

    def unpack(self, parameters: Array) -> Gaussian:
        """Read location and factor off the flat vector."""
        loc = self.coordinates.place(parameters[: self.dim])
        return Gaussian(loc, factor=self.coordinates.root @ self._triangle(parameters))

    def bound(
        self, parameters: Array, eps: Array, log_p: Array, gradient: Array
    ) -> tuple[float, Array]:
        """Bound on base draws, and its gradient, from log p and its gradient at the draws."""
        inward = self.coordinates.gradient(gradient)
        log_diagonal = parameters[self.dim :][self.on_diagonal]
        bound = log_p.mean() + log_diagonal.sum() + self.coordinates.log_det + _base_entropy(eps)
        slope = (inward.T @ eps / len(eps))[self.rows, self.columns]
        slope[self.on_diagonal] *= np.exp(log_diagonal)
        slope[self.on_diagonal] += 1
        return float(bound), np.concatenate([inward.mean(0), slope])

    def recentred(self, parameters: Array) -> "FullRank":
        """Return the same family, written about the member that the parameters give."""
        gaussian = self.unpack(parameters)
        assert gaussian.factor is not None
        again = copy(self)
        again.coordinates = Coordinates(gaussian.loc, gaussian.factor)
        return again


class LowRank:
    """A diagonal plus K common factors: z = loc + d ∘ ε₁ + F ε₂.

    Parameters
    ----------
    centre : Centre
    factor : array, shape (D, K)
        Where F starts.
    diagonal : array, shape (D,)
        Where d starts.
    """

    def __init__(self, centre: Centre, factor: Array, diagonal: Array) -> None:
        self.coordinates, self.dim = centre.coordinates, len(centre.z)
        self.nats = max(1.0, abs(centre.log_density))
        self.rank = factor.shape[1]
        self.unit = diagonal
        self.num_base = self.dim + self.rank
        loadings = (factor / self.unit[:, None]).ravel()
        self.start = np.concatenate([np.zeros(2 * self.dim), loadings])

    def _parts(self, parameters: Array) -> tuple[Array, Array]:
        d = self.unit * np.exp(parameters[self.dim : 2 * self.dim])
        loadings = parameters[2 * self.dim :].reshape(self.dim, self.rank)
        return d, d[:, None] * loadings  # as in Pyro: loadings in units of the independent part

    def unpack(self, parameters: Array) -> Gaussian:
        """Read location, diagonal and factors off the flat vector."""
        d, factor = self._parts(parameters)
        loc = self.coordinates.place(parameters[: self.dim])
        return Gaussian(loc, diagonal=d, factor=factor)

    def bound(
        self, parameters: Array, eps: Array, log_p: Array, gradient: Array
    ) -> tuple[float, Array]:
        """Bound on base draws, and its gradient, from log p and its gradient at the draws.

        In units of d, q has covariance I + B Bᵀ: with e = ε₁ + B ε₂ and r = (I + B Bᵀ)⁻¹ e,
        −log q = Σ log d + ½ log |I + Bᵀ B| + ½ eᵀ r + const.
        """
        size = len(eps)
        d = self.unit * np.exp(parameters[self.dim : 2 * self.dim])
        loadings = parameters[2 * self.dim :].reshape(self.dim, self.rank)
        own, common = eps[:, : self.dim], eps[:, self.dim :]
        e = own + common @ loadings.T
        inner = np.eye(self.rank) + loadings.T @ loadings
        solved = np.linalg.solve(inner, loadings.T)
        r = e - (e @ loadings) @ solved
        bound = (
            log_p.mean()
            + np.log(d).sum()
            + np.linalg.slogdet(inner)[1] / 2
            + ((e * r).sum(1)).mean() / 2
            + self.dim * _HALF_LOG_2PI
        )
        slope_d = d * (gradient * e).mean(0) + 1
        # ∂/∂B of ½ log|I + BBᵀ| is (I + BBᵀ)⁻¹ B; of ½ eᵀ(I + BBᵀ)⁻¹e it is r ε₂ᵀ − r rᵀ B.
        slope = (
            (d * gradient).T @ common / size
            + solved.T
            + r.T @ common / size
            - r.T @ (r @ loadings) / size
        )
        inward = self.coordinates.gradient(gradient).mean(0)
        return float(bound), np.concatenate([inward, slope_d, slope.ravel()])


Family = MeanField | FullRank | LowRank


def low_rank_start(centre: Centre, rank: int) -> tuple[Array, Array]:
    """Factor and diagonal near a centre's covariance: its leading directions in units of scale."""
    scale = centre.scale
    if centre.coordinates.is_diagonal:
        rng = np.random.default_rng(0)
        small = 0.1 / np.sqrt(rank) * rng.standard_normal((len(scale), rank))
        return scale[:, None] * small, scale
    correlation = centre.coordinates.root / scale[:, None]
    vectors, values, _ = np.linalg.svd(correlation, full_matrices=False)
    loadings = vectors[:, :rank] * np.sqrt(np.maximum(values[:rank] ** 2 - 1, 1e-4))
    rest = np.sqrt(np.maximum(1 - (loadings**2).sum(1), 1e-3))
    return scale[:, None] * loadings, scale * rest


def _base_entropy(eps: Array) -> float:
    """−mean log N(ε; 0, I) of the base draws."""
    return float((eps**2).sum(1).mean() / 2 + eps.shape[1] * _HALF_LOG_2PI)
