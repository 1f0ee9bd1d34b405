"""Sparse coding by other routes: scikit-learn's lasso, SciPy's densities and quadrature."""

from typing import Any

import numpy as np
from scipy import integrate, stats
from sklearn.decomposition import sparse_encode
from torch import Tensor

from oracles.programs import Array, array


def codes(theta: Any, v: Tensor) -> Array:
    """Minimise J by coordinate descent: the lasso with α = λ / β."""
    return sparse_encode(
        array(v) - array(theta.b),
        array(theta.W).T,
        algorithm="lasso_cd",
        alpha=theta.rate * theta.scale**2,
        max_iter=100_000,
    )


def objective(theta: Any, v: Tensor, h: Any) -> Array:
    """J of every row, by a loop over rows and codes."""
    W, b, h = array(theta.W), array(theta.b), array(h)
    beta = 1 / theta.scale**2
    return np.array(
        [
            beta / 2 * sum((row - b - W @ code) ** 2) + theta.rate * sum(map(abs, code))
            for row, code in zip(array(v), h, strict=True)
        ]
    )


def log_joint(theta: Any, v: Tensor, h: Any) -> Array:
    """log p(v, h) of every row by SciPy's densities."""
    W, b, h = array(theta.W), array(theta.b), array(h)
    prior = stats.laplace(0, 1 / theta.rate).logpdf(h).sum(1)
    return prior + stats.norm(h @ W.T + b, theta.scale).logpdf(array(v)).sum(1)


def kkt_violation(theta: Any, v: Tensor, h: Any) -> Array:
    """Largest violation of the lasso's conditions in every row, in units of λ, by cases."""
    W, h = array(theta.W), array(h)
    worst = []
    for row, code in zip(array(v) - array(theta.b), h, strict=True):
        slope = W.T @ (W @ code - row) / theta.scale**2  # of the quadratic part
        cases = [
            max(abs(g) - theta.rate, 0) if x == 0 else abs(g + theta.rate * np.sign(x))
            for g, x in zip(slope, code, strict=True)
        ]
        worst.append(max(cases) / theta.rate)
    return np.array(worst)


def elbo(theta: Any, v: Tensor, factors: Any) -> float:
    """Bound of q(h) = ∏ of SciPy's `factors`, arrays of frozen distributions of shape (n, K).

    E‖v − b − W h‖² needs means and variances, the prior E|h|, which is integrated numerically.
    """
    mean, sd, entropy = factors.mean(), factors.std(), factors.entropy()
    W, beta = array(theta.W), theta.scale**-2
    error = ((array(v) - array(theta.b) - mean @ W.T) ** 2).sum() + (sd**2 @ (W**2).T).sum()

    grid = np.linspace(0, 40, 8001)  # E|h| = ∫ P(h > x) + P(h < −x) over x > 0
    x = grid[:, None, None]
    absolute = integrate.simpson((factors.sf(x) + factors.cdf(-x)).sum((1, 2)), x=grid)
    num_rows, (num_features, num_atoms) = len(mean), W.shape
    constant = num_atoms * np.log(theta.rate / 2) + num_features / 2 * np.log(beta / (2 * np.pi))
    return num_rows * constant - beta / 2 * error - theta.rate * absolute + entropy.sum()


def log_evidence_of_two(theta: Any, v: Tensor) -> Array:
    """log p(v) of every row for K = 2 atoms, by a sum over a fine grid of both codes."""
    grid = np.linspace(-12, 12, 801) / theta.rate
    first, second = np.meshgrid(grid, grid, indexing="ij")
    points = np.column_stack([first.ravel(), second.ravel()])
    cell = (grid[1] - grid[0]) ** 2
    rows = []
    for row in array(v):
        loc = points @ array(theta.W).T + array(theta.b)
        log_p = stats.norm(loc, theta.scale).logpdf(row).sum(1)
        log_p += stats.laplace(0, 1 / theta.rate).logpdf(points).sum(1)
        rows.append(np.logaddexp.reduce(log_p) + np.log(cell))
    return np.array(rows)
