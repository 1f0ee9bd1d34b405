"""Factor analysis in closed form: evidence, posterior, EM."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_cookbook.programs.state.isolation import calm_threads


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
    b = v.mean(0)
    covariance = (v - b).mT @ (v - b) / num_rows
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
