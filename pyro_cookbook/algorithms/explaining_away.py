"""Explaining away in closed form: posterior, evidence, and mean field by its fixed point."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_cookbook.programs.state.isolation import calm_threads


def posterior(w: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Exact posterior of the causes: N(mean_n, V).

    Parameters
    ----------
    w : Tensor
        Strengths, shape (K,).
    v : Tensor
        Rows, shape (n, 1).

    Returns
    -------
    mean : Tensor
        w v / (1 + ‖w‖²), shape (n, K).
    covariance : Tensor
        V = (I + w wᵀ)⁻¹ = I − w wᵀ / (1 + ‖w‖²), shape (K, K); the same for every row.
    """
    total = 1 + w.square().sum()
    covariance = torch.eye(len(w)).to(w) - torch.outer(w, w) / total
    return v * (w / total), covariance


def posterior_correlation(w: Tensor) -> Tensor:
    """Correlation matrix of the causes given v, shape (K, K); the same for every v.

    With two causes of the same sign its off-diagonal is negative: explaining away.
    """
    _, covariance = posterior(w, w.new_zeros(1, 1))
    sd = covariance.diagonal().sqrt()
    return covariance / torch.outer(sd, sd)


def log_evidence(w: Tensor, v: Tensor) -> Tensor:
    """log p(v_n; w) of every row, the log density of N(0, 1 + ‖w‖²), in nats, shape (n,)."""
    total = 1 + w.square().sum()
    return torch.neg(math.log(2 * math.pi) + total.log() + v[:, 0].square() / total) / 2


def mean_field_optimum(w: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Give the best factorised q: where the fixed-point updates end.

    Parameters
    ----------
    w, v : Tensor
        As for `posterior`.

    Returns
    -------
    loc : Tensor
        Shape (n, K): the exact posterior means.
    scale : Tensor
        (1 + wᵢ²)^−½, shape (K,); not above the exact posterior sds.

    Notes
    -----
    For two causes with posterior correlation ρ, scale / exact sd = √(1 − ρ²), and the gap of the
    bound is KL(q ‖ p) = −½ log(1 − ρ²) a row.
    """
    return posterior(w, v)[0], (1 + w.square()).rsqrt()


def mean_field_elbo(w: Tensor, v: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Give the bound of a factorised Gaussian q, row by row.

    Parameters
    ----------
    w, v : Tensor
        As for `posterior`.
    loc, scale : Tensor
        Of q, broadcast to shape (n, K).

    Returns
    -------
    Tensor
        E_q[log p(v, h)] + H(q) in nats, shape (n,).
    """
    variance = scale.square()
    residual = (v[:, 0] - loc @ w).square() + (variance * w.square()).sum(-1)
    log_prior = (loc.square() + variance).sum(-1)
    constant = math.log(2 * math.pi) - len(w)  # the normalisers and entropies of h cancel
    return torch.neg(residual + log_prior + constant) / 2 + scale.log().sum(-1)


@dataclass(frozen=True)
class MeanFieldResult:
    """Outcome of the fixed-point iteration.

    Attributes
    ----------
    loc : Tensor
        Means of q at the end, shape (n, K).
    scale : Tensor
        Standard deviations of q, shape (K,).
    path : Tensor
        Means before the first and after every sweep, shape (sweeps + 1, n, K).
    elbo : list of float
        The bound summed over rows after every sweep, in nats.
    converged : bool
    """

    loc: Tensor
    scale: Tensor
    path: Tensor
    elbo: list[float]
    converged: bool


@calm_threads()
def mean_field(
    w: Tensor,
    v: Tensor,
    *,
    start: Tensor | None = None,
    max_sweeps: int = 1000,
    tol: float = 1e-12,
) -> MeanFieldResult:
    """Climb the bound by the chapter's updates, one cause after the other, all rows at once.

    q̃(hᵢ | v) ∝ exp E_{q₋ᵢ}[log p(v, h)] is Gaussian with variance 1 / (1 + wᵢ²) and mean
    mᵢ = wᵢ (v − Σ_{j≠i} wⱼ mⱼ) / (1 + wᵢ²): the strength times what the others leave unexplained.

    Parameters
    ----------
    w, v : Tensor
        As for `posterior`.
    start : Tensor, optional
        Means to start from, shape (n, K). Default: 0, the prior.
    max_sweeps : int, default 1000
    tol : float, default 1e-12
        Stop when no mean moves by more.

    Returns
    -------
    MeanFieldResult

    Notes
    -----
    With two causes a sweep multiplies the error of the means by ρ², ρ their posterior correlation:
    what mean field leaves out also makes its updates slow.

    References
    ----------
    Goodfellow, Bengio and Courville (2016), *Deep Learning*, section 19.4.3.
    """
    precision = 1 + w.square()
    scale = precision.rsqrt()
    loc = v.new_zeros(len(v), len(w)) if start is None else start.clone()
    path, elbo, converged = [loc.clone()], [], False
    for _ in range(max_sweeps):
        for i in range(len(w)):
            unexplained = v[:, 0] - loc @ w + loc[:, i] * w[i]
            loc[:, i] = w[i] * unexplained / precision[i]
        moved = float((loc - path[-1]).abs().max())
        path.append(loc.clone())
        elbo.append(float(mean_field_elbo(w, v, loc, scale).sum()))
        if moved <= tol:
            converged = True
            break
    return MeanFieldResult(loc, scale, torch.stack(path), elbo, converged)
