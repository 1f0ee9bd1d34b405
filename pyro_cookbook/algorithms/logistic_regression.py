"""Logistic regression by classical algorithms: Newton, Laplace, and the Jaakkola-Jordan bound."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_cookbook.programs.state.isolation import calm_threads

# Halvings of a Newton step before it is taken as lost in rounding.
_MAX_HALVINGS = 40


@dataclass(frozen=True)
class NewtonResult:
    """The mode of the posterior, and the curvature there.

    Attributes
    ----------
    mode : Tensor
        Intercept and coefficients, shape (D + 1,).
    covariance : Tensor
        Inverse of the curvature −∇² log p(y, mode), shape (D + 1, D + 1).
    log_joint : list of float
        log p(y, β) before every step and at the end, in nats; it never falls.
    converged : bool
    """

    mode: Tensor
    covariance: Tensor
    log_joint: list[float]
    converged: bool


def design(x: Tensor) -> Tensor:
    """Put a column of ones before the covariates: shape (n, D + 1)."""
    return torch.cat([torch.ones_like(x[:, :1]), x], dim=1)


def prior_precision(x: Tensor, intercept_scale: float, coefficient_scale: float) -> Tensor:
    """Inverse prior variances of intercept and coefficients, shape (D + 1,)."""
    for name, scale in (("intercept", intercept_scale), ("coefficient", coefficient_scale)):
        if not scale > 0:
            raise ValueError(f"{name}_scale: got {scale}, expected a positive number")
    precision = x.new_full((x.shape[1] + 1,), coefficient_scale**-2)
    precision[0] = intercept_scale**-2
    return precision


def log_joint(beta: Tensor, x: Tensor, y: Tensor, precision: Tensor) -> Tensor:
    """log p(y, β) in nats, for β = (intercept, coefficients) in the last dimension.

    Parameters
    ----------
    beta : Tensor
        Shape (..., D + 1).
    x, y : Tensor
        Covariates (n, D) and outcomes 0 or 1 (n,).
    precision : Tensor
        As `prior_precision` gives it.

    Returns
    -------
    Tensor
        Shape (...).
    """
    score = beta @ design(x).mT
    log_likelihood = logsigmoid((2 * y - 1) * score).sum(-1)
    log_prior = (precision.log() - math.log(2 * math.pi) - precision * beta.square()).sum(-1) / 2
    return log_likelihood + log_prior


@calm_threads()
def newton(
    x: Tensor,
    y: Tensor,
    *,
    intercept_scale: float = 5.0,
    coefficient_scale: float = 2.5,
    max_iterations: int = 100,
    tol: float = 1e-12,
) -> NewtonResult:
    """Find the mode by Newton's method: iteratively reweighted least squares.

    A step solves (XᵀSX + P) δ = Xᵀ(y − p) − Pβ, where S = diag(p (1 − p)) and P is the prior
    precision; it is halved until the log joint does not fall.

    Parameters
    ----------
    x, y : Tensor
        Covariates (n, D) and outcomes 0 or 1 (n,), float.
    intercept_scale, coefficient_scale : float, default 5 and 2.5
        Prior standard deviations, as for `models.logistic_regression`.
    max_iterations : int, default 100
    tol : float, default 1e-12
        Stop when half the squared Newton decrement, the rise still expected, is below `tol` nats,
        or rounding keeps the log joint from rising.

    References
    ----------
    Green (1984), doi:10.1111/j.2517-6161.1984.tb01288.x.
    """
    _check(x, y)
    columns = design(x)
    precision = prior_precision(x, intercept_scale, coefficient_scale)
    beta = x.new_zeros(x.shape[1] + 1)
    trace, converged = [float(log_joint(beta, x, y, precision))], False
    chol = _curvature_root(columns, beta, precision)
    for _ in range(max_iterations):
        gradient = columns.mT @ (y - torch.sigmoid(columns @ beta)) - precision * beta
        step = torch.cholesky_solve(gradient[:, None], chol)[:, 0]
        if float(gradient @ step) / 2 < tol:
            converged = True
            break
        for _ in range(_MAX_HALVINGS):
            height = float(log_joint(beta + step, x, y, precision))
            if height >= trace[-1]:
                break
            step = step / 2
        else:
            converged = True
            break
        beta = beta + step
        trace.append(height)
        chol = _curvature_root(columns, beta, precision)
    return NewtonResult(beta, torch.cholesky_inverse(chol), trace, converged)


def laplace(
    x: Tensor, y: Tensor, *, intercept_scale: float = 5.0, coefficient_scale: float = 2.5
) -> tuple[Tensor, Tensor]:
    """Laplace's Gaussian: the mode (D + 1,) and the inverse curvature (D + 1, D + 1)."""
    found = newton(x, y, intercept_scale=intercept_scale, coefficient_scale=coefficient_scale)
    return found.mode, found.covariance


def laplace_log_evidence(found: NewtonResult) -> float:
    """log p(y) by Laplace: the log joint at the mode + ½ log|2π covariance|, in nats.

    Notes
    -----
    It is no bound, in either direction.
    """
    num = len(found.mode)
    log_det = float(torch.linalg.slogdet(found.covariance)[1])
    return found.log_joint[-1] + 0.5 * (num * math.log(2 * math.pi) + log_det)


@dataclass(frozen=True)
class JaakkolaJordanResult:
    """The Gaussian of the tangent bound.

    Attributes
    ----------
    loc, covariance : Tensor
        Of intercept and coefficients, shapes (D + 1,) and (D + 1, D + 1).
    xi : Tensor
        Where each row's bound touches the logistic function, ± ξ_n, shape (n,), not negative.
    bound : list of float
        Lower bound on log p(y) after every iteration, in nats; it never falls.
    converged : bool
    """

    loc: Tensor
    covariance: Tensor
    xi: Tensor
    bound: list[float]
    converged: bool


@calm_threads()
def jaakkola_jordan(
    x: Tensor,
    y: Tensor,
    *,
    intercept_scale: float = 5.0,
    coefficient_scale: float = 2.5,
    max_iterations: int = 1000,
    tol: float = 1e-10,
) -> JaakkolaJordanResult:
    """Fit a full Gaussian by EM on a quadratic bound of the logistic function; no sampling.

    log σ(s) ≥ log σ(ξ) + (s − ξ)/2 − λ(ξ)(s² − ξ²) with λ(ξ) = tanh(ξ/2) / 4ξ is quadratic in s,
    so that with a normal prior q is Gaussian (E step), and ξ_n² = E_q[(x_nᵀβ)²] makes the bound
    tightest (M step).

    Parameters
    ----------
    x, y, intercept_scale, coefficient_scale
        As for `newton`.
    max_iterations : int, default 1000
    tol : float, default 1e-10
        Stop when an iteration raises the bound by less than `tol` relative.

    Notes
    -----
    The bound is below the ELBO of its own q, and its q is narrower than the best Gaussian.

    References
    ----------
    Jaakkola and Jordan (2000), doi:10.1023/A:1008932416310.
    """
    _check(x, y)
    columns = design(x)
    precision = prior_precision(x, intercept_scale, coefficient_scale)
    linear = columns.mT @ (y - 0.5)
    xi = torch.ones_like(y)
    bound: list[float] = []
    converged = False
    for _ in range(max_iterations):
        curvature = precision.diag() + 2 * (columns * _slope(xi)[:, None]).mT @ columns
        chol = torch.linalg.cholesky(curvature)
        loc = torch.cholesky_solve(linear[:, None], chol)[:, 0]
        # The integral over β of the bound on the joint, a Gaussian one.
        per_row = logsigmoid(xi) - xi / 2 + _slope(xi) * xi.square()
        log_det = precision.log().sum() / 2 - chol.diagonal().log().sum()
        bound.append(float(per_row.sum() + log_det + linear @ loc / 2))
        if len(bound) > 1 and bound[-1] - bound[-2] < tol * abs(bound[-1]):
            converged = True
            break
        spread = torch.linalg.solve_triangular(chol, columns.mT, upper=False).square().sum(0)
        xi = ((columns @ loc).square() + spread).sqrt()
    return JaakkolaJordanResult(loc, torch.cholesky_inverse(chol), xi, bound, converged)


def _slope(xi: Tensor) -> Tensor:
    """λ(ξ) = tanh(ξ/2) / 4ξ, with its limit 1/8 at 0."""
    small = xi < 1e-4
    safe = torch.where(small, torch.ones_like(xi), xi)
    return torch.where(small, torch.full_like(xi, 0.125), torch.tanh(safe / 2) / (4 * safe))


def _curvature_root(columns: Tensor, beta: Tensor, precision: Tensor) -> Tensor:
    p = torch.sigmoid(columns @ beta)
    curvature = (columns * (p * (1 - p))[:, None]).mT @ columns + precision.diag()
    root: Tensor = torch.linalg.cholesky(curvature)
    return root


def _check(x: Tensor, y: Tensor) -> None:
    if x.dim() != 2 or y.shape != x.shape[:1]:
        raise ValueError(
            f"x, y: got shapes {tuple(x.shape)} and {tuple(y.shape)}, expected (n, D) and (n,)"
        )
    if not bool(((y == 0) | (y == 1)).all()):
        raise ValueError("y: expected outcomes 0 and 1 only")
