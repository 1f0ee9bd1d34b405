"""Factor analysis: closed forms, EM, and the maximum of the likelihood."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_cookbook.programs.state.isolation import calm_threads

# Rows of a chunk: so many are centred at a time.
CHUNK_ROWS = 8192
# Least noise variance, in parts of a column's: where the likelihood rises up to no noise at all.
LEAST_NOISE = 1e-8


@dataclass(frozen=True)
class FactorAnalysisParameters:
    """θ of `models.factor_analysis.FactorAnalysis`, under the same names.

    Attributes
    ----------
    W : Tensor
        Loadings, shape (D, K).
    b : Tensor
        Means, shape (D,).
    scale : Tensor
        Noise standard deviations, shape (D,), or (1,) if isotropic.
    """

    W: Tensor
    b: Tensor
    scale: Tensor


def posterior(theta: FactorAnalysisParameters, v: Tensor) -> tuple[Tensor, Tensor]:
    """Exact posterior of the factors: N(mean_n, V).

    Parameters
    ----------
    theta : FactorAnalysisParameters
        Or any object with its attributes, such as the model.
    v : Tensor
        Rows, shape (n, D).

    Returns
    -------
    mean : Tensor
        V WᵀΨ⁻¹(v − b), shape (n, K).
    covariance : Tensor
        V = (I + WᵀΨ⁻¹W)⁻¹, shape (K, K); the same for every row.

    References
    ----------
    Tipping and Bishop (1999), doi:10.1111/1467-9868.00196, equation 9, with Ψ for σ²I.
    """
    scaled = theta.W / theta.scale[:, None].expand_as(theta.W)
    precision = torch.eye(scaled.shape[1]).to(scaled) + scaled.mT @ scaled
    chol = torch.linalg.cholesky(precision)
    covariance = torch.cholesky_inverse(chol)
    mean = ((v - theta.b) / theta.scale) @ scaled @ covariance
    return mean, covariance


def log_evidence(theta: FactorAnalysisParameters, v: Tensor) -> Tensor:
    """log p(v_n; θ) of every row: the log density of N(b, W Wᵀ + Ψ).

    Parameters
    ----------
    theta : FactorAnalysisParameters
        Or any object with its attributes, such as the model.
    v : Tensor
        Rows, shape (n, D).

    Returns
    -------
    Tensor
        In nats, shape (n,). By the matrix inversion lemma it costs K³, not D³.
    """
    num_features = theta.W.shape[0]
    scale = theta.scale.expand(num_features)
    scaled = theta.W / scale[:, None]
    precision = torch.eye(scaled.shape[1]).to(scaled) + scaled.mT @ scaled
    chol = torch.linalg.cholesky(precision)
    white = (v - theta.b) / scale
    inner = torch.linalg.solve_triangular(chol, (white @ scaled).mT, upper=False)
    log_det = 2 * (chol.diagonal().log().sum() + scale.log().sum())
    quadratic = white.square().sum(1) - inner.square().sum(0)
    log_norm = num_features * math.log(2 * math.pi) + log_det
    return torch.neg(log_norm + quadratic) / 2


@calm_threads()
def em(
    v: Tensor,
    num_factors: int,
    *,
    isotropic: bool = False,
    max_iterations: int = 5000,
    tol: float = 1e-10,
    start: FactorAnalysisParameters | None = None,
    seed: int = 0,
) -> tuple[FactorAnalysisParameters, list[float]]:
    """Maximise the likelihood of factor analysis by EM.

    Parameters
    ----------
    v : Tensor
        Rows, shape (n, D).
    num_factors : int
        K.
    isotropic : bool, default False
        One noise scale for all features: probabilistic PCA.
    max_iterations : int, default 5000
    tol : float, default 1e-10
        Stop when an iteration raises the log evidence by less than `tol` relative.
    start : FactorAnalysisParameters, optional
        Default: W ~ N(0, 1) by `seed`, b the column means, scales the column sds.
    seed : int, default 0

    Returns
    -------
    theta : FactorAnalysisParameters
    log_evidence : list of float
        Total log p(v; θ) before every M step, in nats; it never falls.

    Notes
    -----
    Only v's mean and covariance enter, so an iteration costs D²K whatever the number of rows.

    References
    ----------
    Rubin and Thayer (1982), doi:10.1007/BF02293851.
    """
    num_rows, num_features = v.shape
    b, covariance = _moments(v)
    covariance = covariance.to(v.dtype)
    if start is None:
        generator = torch.Generator().manual_seed(seed)
        W = torch.randn(num_features, num_factors, generator=generator, dtype=v.dtype)
        start = FactorAnalysisParameters(W.to(v.device), b, covariance.diagonal().sqrt())
    theta = FactorAnalysisParameters(start.W, b, start.scale.expand(num_features))
    trace: list[float] = []
    for _ in range(max_iterations):
        trace.append(_total_log_evidence(theta, covariance, num_rows))
        if len(trace) > 1 and trace[-1] - trace[-2] < tol * abs(trace[-1]):
            break
        # E step: h | v has mean B(v − b) and covariance V. M step: regress v on h.
        psi = theta.scale.square()
        V = posterior(theta, theta.b[None])[1]
        B = V @ (theta.W / psi[:, None]).mT
        cross = covariance @ B.mT
        W = torch.linalg.solve(V + B @ cross, cross.mT).mT
        variance = (covariance.diagonal() - (W * cross).sum(1)).clamp_min(1e-12)
        if isotropic:
            variance = variance.mean().expand(num_features)
        theta = FactorAnalysisParameters(W, b, variance.sqrt())
    scale = theta.scale[:1] if isotropic else theta.scale
    return FactorAnalysisParameters(theta.W, theta.b, scale.clone()), trace


def _total_log_evidence(
    theta: FactorAnalysisParameters, covariance: Tensor, num_rows: int
) -> float:
    marginal = torch.distributions.MultivariateNormal(
        torch.zeros_like(theta.b), theta.W @ theta.W.mT + theta.scale.square().diag()
    )
    quadratic = torch.cholesky_solve(covariance, marginal.scale_tril).diagonal().sum()
    log_norm = marginal.log_prob(torch.zeros_like(theta.b))
    return float(num_rows * (log_norm - 0.5 * quadratic))


def _moments(v: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the rows, and their covariance (divided by n) in double precision."""
    b = v.mean(0)
    total = v.new_zeros(v.shape[1], v.shape[1], dtype=torch.float64)
    for part in v.split(CHUNK_ROWS):
        centred = part - b
        total += centred.mT @ centred
    return b, total / len(v)


@dataclass(frozen=True)
class FactorAnalysisMaximum:
    """Outcome of `maximise`.

    Attributes
    ----------
    theta : FactorAnalysisParameters
    log_evidence : list of float
        Total log p(v; θ) of the start and after every iteration, in nats; it never falls.
    converged : bool
    """

    theta: FactorAnalysisParameters
    log_evidence: list[float]
    converged: bool


@calm_threads()
def maximise(
    v: Tensor,
    num_factors: int,
    *,
    isotropic: bool = False,
    max_iterations: int = 1000,
    tol: float = 1e-12,
) -> FactorAnalysisMaximum:
    """Maximise the likelihood of factor analysis over the noise alone, the loadings being known.

    Given the noise Ψ, the best loadings are W = Ψ^½ U (Θ − I)^½, with Θ and U the K largest
    eigenvalues and their vectors of Ψ^−½ S Ψ^−½, S the covariance of the rows. What is left is a
    smooth function of D numbers, log Ψ, which L-BFGS climbs; of one number if isotropic, and then
    its maximum is known.

    Parameters
    ----------
    v : Tensor
        Rows, shape (n, D); no column constant.
    num_factors : int
        K, at most D.
    isotropic : bool, default False
        One noise scale for all features: probabilistic PCA.
    max_iterations : int, default 1000
    tol : float, default 1e-12
        Stop when an iteration raises the log evidence by less than `tol` relative.

    Notes
    -----
    EM makes the same way in thousands of small steps. An iteration costs D³ whatever the number of
    rows. A noise variance stays above 10⁻⁸ of its column's variance.

    References
    ----------
    Jöreskog (1967), doi:10.1007/BF02289658. Tipping and Bishop (1999),
    doi:10.1111/1467-9868.00196, section 3.2, for the isotropic maximum.

    Examples
    --------
    >>> import torch
    >>> from pyro_cookbook.algorithms.factor_analysis import em, maximise
    >>> h = torch.randn(500, 1, generator=torch.Generator().manual_seed(0)).double()
    >>> v = h * torch.tensor([1.0, 2.0, -1.0, 0.5]) + h.roll(1) * torch.tensor([0.0, 1, 1, 0])
    >>> v = v + torch.randn(500, 4, generator=torch.Generator().manual_seed(1)).double()
    >>> best, climbed = maximise(v, 1), em(v, 1)[1]
    >>> abs(best.log_evidence[-1] - climbed[-1]) < 1e-4
    True
    """
    b, covariance = _moments(v)
    S = covariance.cpu()
    variance = S.diagonal().clamp_min(1e-300)
    trace: list[float] = []

    def found(psi: Tensor, converged: bool) -> FactorAnalysisMaximum:
        theta = FactorAnalysisParameters(_loadings(S, psi, num_factors), b, psi.sqrt())
        if isotropic:
            theta = FactorAnalysisParameters(theta.W, b, theta.scale[:1].clone())
        theta = FactorAnalysisParameters(*(x.to(v) for x in vars(theta).values()))
        return FactorAnalysisMaximum(theta, trace, converged)

    def loss(log_psi: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = _profile(S, torch.as_tensor(log_psi).exp(), num_factors)
        return value, gradient.numpy()

    if isotropic:
        rest = torch.linalg.eigvalsh(S)[: len(S) - num_factors]
        noise = rest.mean() if len(rest) else variance.new_zeros(())
        psi = noise.clamp_min(LEAST_NOISE * float(variance.mean())).expand(len(S))
        trace.append(-len(v) * _profile(S, psi, num_factors)[0])
        return found(psi, True)
    from scipy.optimize import minimize  # late: new rows need none

    begin = (variance / 2).log().numpy()
    trace.append(-len(v) * loss(begin)[0])
    result = minimize(
        loss,
        begin,
        jac=True,
        method="L-BFGS-B",
        bounds=[(math.log(LEAST_NOISE) + x, x) for x in variance.log().tolist()],
        callback=lambda intermediate_result: trace.append(-len(v) * intermediate_result.fun),
        options={"maxiter": max_iterations, "maxfun": 50 * max_iterations, "ftol": tol, "gtol": 0,
                 "maxcor": 20},
    )  # fmt: skip
    return found(torch.as_tensor(result.x).exp(), result.status != 1)


def _eigen(S: Tensor, psi: Tensor, num_factors: int) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues and vectors of Ψ^−½ S Ψ^−½, and which of them a factor explains."""
    white = S / psi.sqrt() / psi.sqrt()[:, None]
    values, vectors = torch.linalg.eigh(white)
    explained = (torch.arange(len(S)) >= len(S) - num_factors) & (values > 1)
    return values, vectors, explained


def _loadings(S: Tensor, psi: Tensor, num_factors: int) -> Tensor:
    """W = Ψ^½ U (Θ − I)^½, shape (D, K), the strongest factor first."""
    values, vectors, _ = _eigen(S, psi, num_factors)
    root = (values[-num_factors:] - 1).clamp_min(0).sqrt()
    return (psi.sqrt()[:, None] * vectors[:, -num_factors:] * root).flip(1)


def _profile(S: Tensor, psi: Tensor, num_factors: int) -> tuple[float, Tensor]:
    """−log p of a row at the best loadings, in nats, and its gradient in log Ψ, shape (D,).

    ½ (D log 2π + log |Ψ| + Σ_k (1 + log θ_k) + Σ_j θ_j), k over the eigenvalues that factors
    explain, j over the others; ∂θ / ∂ log ψ_i = −θ u_i².
    """
    values, vectors, explained = _eigen(S, psi, num_factors)
    terms = torch.where(explained, 1 + values.clamp_min(1).log(), values)
    slopes = torch.where(explained, torch.ones_like(values), values)
    loss = 0.5 * (len(S) * math.log(2 * math.pi) + psi.log().sum() + terms.sum())
    return float(loss), 0.5 * (1 - vectors.square() @ slopes)
