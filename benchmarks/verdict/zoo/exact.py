"""Exact posterior moments: quadrature on grids, and Gaussians given a grid of hyperparameters."""

from collections.abc import Callable, Iterable

import numpy as np
from scipy.linalg import solve_triangular

from .entry import Moments


def grid_weights(log_density: np.ndarray, edge: float = 1e-8) -> np.ndarray:
    """Normalise a log density on an evenly spaced grid; its mass must vanish at every edge.

    On a density that decays at both ends the trapezoidal rule converges geometrically, and its
    end weights do not matter.
    """
    weights: np.ndarray = np.exp(log_density - np.max(log_density))
    weights /= weights.sum()
    for axis in range(weights.ndim):
        ends = np.take(weights, [0, -1], axis=axis).sum()
        if ends > edge:
            raise ValueError(f"grid axis {axis}: mass {ends:.1e} at its ends, above {edge}")
    return weights


def mix(
    weights: np.ndarray, means: np.ndarray, sds: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of a mixture, by the law of total variance; `weights` lead in `means`, `sds`."""
    w = weights.ravel()
    means = np.asarray(means, float).reshape(w.size, *np.shape(means)[weights.ndim :])
    mean = np.tensordot(w, means, 1)
    variances = np.asarray(sds, float) ** 2
    if variances.ndim:
        variances = variances.reshape(means.shape)
    return mean, np.sqrt(np.tensordot(w, (means - mean) ** 2 + variances, 1))


def on_grid(log_density: np.ndarray, **sites: np.ndarray) -> Moments:
    """Moments of sites whose values are given at each point of the grid."""
    weights = grid_weights(log_density)
    return {name: mix(weights, np.broadcast_to(v, weights.shape)) for name, v in sites.items()}


def log_space(low: float, high: float, num: int) -> np.ndarray:
    """Evenly spaced in the logarithm, between `low` and `high`."""
    return np.exp(np.linspace(np.log(low), np.log(high), num))


def gaussian_posterior(
    X: np.ndarray,
    y: np.ndarray,
    noise: np.ndarray | float,
    prior_scale: np.ndarray | float,
    prior_loc: np.ndarray | float = 0.0,
    outputs: np.ndarray | None = None,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Log evidence, means and sds of b, or of ``outputs @ b``.

    The model is y ~ N(X b, noise), b ~ N(prior_loc, prior_scale), independently. By QR of the
    whitened system, so that collinear columns lose no digits to the normal equations.
    """
    num_rows, D = X.shape
    noise = np.broadcast_to(noise, num_rows)
    s = np.broadcast_to(prior_scale, D)
    A = np.vstack([X * s / noise[:, None], np.eye(D)])
    c = np.concatenate([y / noise, np.broadcast_to(prior_loc, D) / s])
    Q, R = np.linalg.qr(A)
    u = solve_triangular(R, Q.T @ c)
    log_evidence = (
        -0.5 * num_rows * np.log(2 * np.pi)
        - np.log(noise).sum()
        - np.log(np.abs(np.diag(R))).sum()
        - 0.5 * np.sum((c - A @ u) ** 2)
    )
    T = np.diag(s) if outputs is None else outputs * s
    root = solve_triangular(R, T.T, trans="T")
    return float(log_evidence), T @ u, np.sqrt(np.sum(root**2, axis=0))


Conditional = tuple[float, np.ndarray, np.ndarray]


def conditionally_gaussian(
    log_prior: np.ndarray, conditionals: Iterable[Conditional]
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Weights of a grid of hyperparameters, and the moments of what is Gaussian given them.

    `log_prior` is the hyperparameters' log density in the coordinates in which the grid is even;
    `conditionals` has one entry of `gaussian_posterior` for each of its points, in C order.
    """
    evidences, means, sds = map(np.array, zip(*conditionals, strict=True))
    weights = grid_weights(log_prior + evidences.reshape(log_prior.shape))
    shape = (*log_prior.shape, means.shape[-1])
    return weights, mix(weights, means.reshape(shape), sds.reshape(shape))


def regression(
    X: np.ndarray,
    y: np.ndarray,
    sigma: np.ndarray,
    log_prior: Callable[[np.ndarray], np.ndarray],
    prior_scale: np.ndarray | float,
    prior_loc: np.ndarray | float = 0.0,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Moments of σ and of the coefficients, y ~ N(X b, σ): Gaussian given σ, on a log-even grid."""
    weights, coefficients = conditionally_gaussian(
        log_prior(sigma) + np.log(sigma),
        (gaussian_posterior(X, y, s, prior_scale, prior_loc) for s in sigma),
    )
    return mix(weights, sigma), coefficients


def split(moments: tuple[np.ndarray, np.ndarray], **sizes: int) -> Moments:
    """Cut a vector's moments into sites, in order; size 0 is a scalar site, size n a vector."""
    out, start = {}, 0
    mean, sd = moments
    for name, size in sizes.items():
        part = slice(start, start + size) if size else start
        out[name] = (np.asarray(mean[part]), np.asarray(sd[part]))
        start += size or 1
    return out
