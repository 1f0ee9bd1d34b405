"""EM for factor analysis with an exact or a mean-field E step; how factorial a posterior is."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_cookbook.algorithms.binary_sparse_coding.mean_field import all_states
from pyro_cookbook.algorithms.factor_analysis import FactorAnalysisParameters, posterior
from pyro_cookbook.programs.state.isolation import calm_threads

# Noise variances stay above this share of a feature's variance: a smaller one is a Heywood case.
_MIN_NOISE = 1e-8


def total_correlation(covariance: Tensor) -> Tensor:
    """KL(p ‖ ∏_k p_k) of a Gaussian p from the product of its own marginals, in nats.

    ½ (Σ_k log V_kk − log |V|): 0 if and only if V is diagonal, that is, if p is factorial.

    Parameters
    ----------
    covariance : Tensor
        V, positive definite, shape (..., K, K).

    Returns
    -------
    Tensor
        Shape (...).

    References
    ----------
    Watanabe (1960), doi:10.1147/rd.41.0066.
    """
    return (covariance.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.logdet(covariance)) / 2


def mean_field_gap(covariance: Tensor) -> Tensor:
    """KL(q ‖ p) of a Gaussian p from the best factorised Gaussian q, in nats.

    q has p's means and the variances 1 / (V⁻¹)_kk, so the KL is the `total_correlation` formula of
    the precision: ½ (Σ_k log (V⁻¹)_kk − log |V⁻¹|).

    Parameters
    ----------
    covariance : Tensor
        V, positive definite, shape (..., K, K).

    Returns
    -------
    Tensor
        Shape (...).
    """
    return total_correlation(torch.linalg.inv(covariance))


def binary_total_correlation(probs: Tensor) -> Tensor:
    """KL(p ‖ ∏_k p_k) of distributions over K bits, by enumeration, in nats.

    Σ_k H(h_k) − H(h): the entropies of the bits by themselves, less that of all together.

    Parameters
    ----------
    probs : Tensor
        Probability of every state in the order of `binary_sparse_coding.all_states`, shape
        (..., 2^K).

    Returns
    -------
    Tensor
        Shape (...).

    Raises
    ------
    ValueError
        If the last dimension is not a power of 2, at least 2.
    """
    num_states = probs.shape[-1]
    num_bits = num_states.bit_length() - 1
    if num_states != 2**num_bits or num_bits < 1:
        raise ValueError(f"probs: got {num_states} states, expected a power of 2, at least 2")
    on = probs @ all_states(num_bits).to(probs)
    alone = torch.special.entr(on) + torch.special.entr((1 - on).clamp_min(0))
    correlation: Tensor = alone.sum(-1) - torch.special.entr(probs).sum(-1)
    return correlation


@dataclass(frozen=True)
class VariationalEMResult:
    """Outcome of `em`, with the path it took.

    Attributes
    ----------
    theta : FactorAnalysisParameters
    elbo : list of float
        The bound after every E step, under the θ of that step, in nats, over all rows: with exact
        inference the log evidence. It never falls.
    log_evidence : list of float
        Σ_n log p(v_n; θ) under the same θ, in nats. With mean field it may fall.
    total_correlation : list of float
        Of the exact posterior of one row under the same θ, in nats; it is the same for every row.
    converged : bool
    """

    theta: FactorAnalysisParameters
    elbo: list[float]
    log_evidence: list[float]
    total_correlation: list[float]
    converged: bool


@calm_threads()
def em(
    v: Tensor,
    num_factors: int,
    *,
    inference: str = "mean_field",
    mask: Tensor | None = None,
    start: FactorAnalysisParameters | None = None,
    max_iterations: int = 20_000,
    tol: float = 1e-10,
    seed: int = 0,
) -> VariationalEMResult:
    """Learn factor analysis by EM with the exact posterior, or with the best factorised q.

    E step: q(h_n) = N(m_n, S), with m_n the exact posterior mean, which mean field has as well, and
    S = Λ⁻¹ or S = diag(1/Λ_kk), where Λ = I + WᵀΨ⁻¹W. M step, with C the covariance of the rows and
    m_n = B (v_n − b): for every feature d and the factors a that it may load on

        W_da = (C Bᵀ)_da (S + B C Bᵀ)_aa⁻¹,    ψ_d = C_dd − W_da (C Bᵀ)_da.

    Parameters
    ----------
    v : Tensor
        Rows, shape (n, D).
    num_factors : int
        K.
    inference : {"mean_field", "exact"}, default "mean_field"
    mask : Tensor, optional
        Which loadings are free, boolean, shape (D, K); the others stay 0. Default: all.
    start : FactorAnalysisParameters, optional
        Default: W ~ N(0, 1) by `seed`, b the column means, scales the column sds.
    max_iterations : int, default 20_000
    tol : float, default 1e-10
        Stop when an iteration raises the bound by less than `tol` relative.
    seed : int, default 0

    Returns
    -------
    VariationalEMResult

    Raises
    ------
    ValueError
        If `inference` is neither, or the mask has another shape or leaves a factor without
        features.

    Notes
    -----
    Without a mask W may be rotated without changing p(v), and mean field learns the rotation in
    which the posterior is diagonal: its bound then reaches the largest evidence. With a mask the
    rotation is not free.

    References
    ----------
    Neal and Hinton (1998), doi:10.1007/978-94-011-5014-9_12.
    """
    if inference not in {"mean_field", "exact"}:
        raise ValueError(f"inference: got {inference!r}, expected 'mean_field' or 'exact'")
    num_rows, num_features = v.shape
    shape = (num_features, num_factors)
    free = torch.ones(shape, dtype=torch.bool) if mask is None else mask.bool()
    if tuple(free.shape) != shape or not free.any(0).all():
        raise ValueError(
            f"mask: got shape {tuple(free.shape)}, expected {shape} with a free loading in each"
            " column"
        )
    free = free.to(v.device)
    b = v.mean(0)
    covariance = (v - b).mT @ (v - b) / num_rows
    if start is None:
        generator = torch.Generator().manual_seed(seed)
        W = torch.randn(shape, generator=generator, dtype=v.dtype).to(v.device)
        start = FactorAnalysisParameters(W, b, covariance.diagonal().sqrt())
    theta = FactorAnalysisParameters(start.W * free, b, start.scale.expand(num_features))
    elbo: list[float] = []
    evidence: list[float] = []
    correlation: list[float] = []
    converged = False
    for iteration in range(max_iterations):
        V = posterior(theta, theta.b[None])[1]
        evidence.append(_total_log_evidence(theta, covariance, num_rows))
        correlation.append(float(total_correlation(V)))
        gap = float(mean_field_gap(V)) if inference == "mean_field" else 0.0
        elbo.append(evidence[-1] - num_rows * gap)
        if iteration and elbo[-1] - elbo[-2] < tol * abs(elbo[-1]):
            converged = True
            break
        if iteration + 1 < max_iterations:
            B = V @ (theta.W / theta.scale.square()[:, None]).mT
            S = V if inference == "exact" else torch.diag(1 / torch.linalg.inv(V).diagonal())
            theta = _m_step(B, S, covariance, b, free)
    return VariationalEMResult(theta, elbo, evidence, correlation, converged)


def _m_step(
    B: Tensor, S: Tensor, covariance: Tensor, b: Tensor, free: Tensor
) -> FactorAnalysisParameters:
    """Regress every feature on the factors it may load on; a loading that is not free is 0."""
    cross = covariance @ B.mT
    second = S + B @ cross
    # One small system a feature: rows and columns of factors that are not free become those of I.
    both = free[:, :, None] & free[:, None, :]
    systems = torch.where(both, second, torch.eye(len(S)).to(S))
    W = torch.linalg.solve(systems, (cross * free)[..., None])[..., 0]
    variance = covariance.diagonal() - (W * cross).sum(1)
    floor = _MIN_NOISE * covariance.diagonal()
    return FactorAnalysisParameters(W, b, torch.maximum(variance, floor).sqrt())


def _total_log_evidence(
    theta: FactorAnalysisParameters, covariance: Tensor, num_rows: int
) -> float:
    """Σ_n log p(v_n; θ) from the rows' covariance about b."""
    marginal = theta.W @ theta.W.mT + theta.scale.square().diag()
    chol = torch.linalg.cholesky(marginal)
    quadratic = torch.cholesky_solve(covariance, chol).diagonal().sum()
    log_norm = len(marginal) * math.log(2 * math.pi) + 2 * chol.diagonal().log().sum()
    return float(-num_rows * (log_norm + quadratic) / 2)
