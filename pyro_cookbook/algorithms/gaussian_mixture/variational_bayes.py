"""The variational Bayes mixture: mean field over labels and parameters, by coordinate ascent."""

import math
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from pyro_cookbook.algorithms.gaussian_mixture.densities import (
    CHUNK_ROWS,
    MixtureParameters,
    random_start,
)
from pyro_cookbook.algorithms.gaussian_mixture.em import e_step
from pyro_cookbook.algorithms.gaussian_mixture.sums import (
    Components,
    SufficientStatistics,
    expected_sums,
    statistics,
)
from pyro_cookbook.programs.state.isolation import calm_threads


class Prior(Protocol):
    """What is read of `models.gaussian_mixture.MixturePrior`; `MixturePosterior` has it too."""

    @property
    def concentration(self) -> Tensor:
        """α of the Dirichlet, shape (K,)."""
        ...

    @property
    def loc(self) -> Tensor:
        """Means, shape (D,) or (K, D)."""
        ...

    @property
    def mean_precision(self) -> Tensor:
        """β, shape () or (K,)."""
        ...

    @property
    def df(self) -> Tensor:
        """ν, shape () or (K,)."""
        ...

    @property
    def precision_tril(self) -> Tensor:
        """Cholesky factors of the Wisharts' scale matrices, shape (D, D) or (K, D, D)."""
        ...


@dataclass(frozen=True)
class MixturePosterior:
    """Parameters of q(π) ∏_k q(μ_k, Λ_k).

    Attributes
    ----------
    concentration : Tensor
        α of the Dirichlet, shape (K,).
    loc : Tensor
        m, shape (K, D).
    mean_precision : Tensor
        β, shape (K,).
    df : Tensor
        ν, shape (K,).
    precision_tril : Tensor
        Lower Cholesky factors of the Wisharts' scale matrices, shape (K, D, D).
    """

    concentration: Tensor
    loc: Tensor
    mean_precision: Tensor
    df: Tensor
    precision_tril: Tensor

    def expected_log_det(self) -> Tensor:
        """E log |Λ_k|, shape (K,): Bishop's equation 10.65."""
        return _expected_log_det(self.df, self.precision_tril)

    def expected_log_joint(self, v: Tensor) -> Tensor:
        """E log π_k + E log N(v_n; μ_k, Λ_k⁻¹), in nats, shape (n, K): equation 10.46."""
        num_features = v.shape[1]
        log_pi = self.concentration.digamma() - self.concentration.sum().digamma()
        log_det = self.expected_log_det()
        columns = []
        for k in range(len(self.df)):
            tril = self.precision_tril[k]
            quadratic = ((v - self.loc[k]) @ tril).square().sum(1)
            expected = num_features / self.mean_precision[k] + self.df[k] * quadratic
            columns.append(log_pi[k] + 0.5 * (log_det[k] - expected))
        return torch.stack(columns, dim=1) - 0.5 * num_features * math.log(2 * math.pi)


@dataclass(frozen=True)
class VariationalMixtureResult:
    """Outcome of `fit_variational_mixture`.

    Attributes
    ----------
    posterior : MixturePosterior
    responsibilities : Tensor
        q(h_n = k), shape (n, K).
    elbo : list of float
        The bound after every sweep, in nats; it never falls.
    converged : bool
    """

    posterior: MixturePosterior
    responsibilities: Tensor
    elbo: list[float]
    converged: bool


@calm_threads()
def fit_variational_mixture(
    v: Tensor,
    prior: Prior,
    *,
    start: Tensor | None = None,
    max_iterations: int = 2000,
    tol: float = 1e-10,
    num_restarts: int = 1,
    seed: int = 0,
) -> VariationalMixtureResult:
    """Maximise the bound of the variational Bayes mixture by coordinate ascent.

    Parameters
    ----------
    v : Tensor
        Rows, shape (n, D).
    prior : MixturePrior
        Its shapes set K and D.
    start : Tensor, optional
        Responsibilities to begin with, shape (n, K). Default: those of k-means++ centres.
    max_iterations : int, default 2000
    tol : float, default 1e-10
        Stop when a sweep raises the bound by less than `tol` relative.
    num_restarts : int, default 1
        The best bound is kept.
    seed : int, default 0

    References
    ----------
    Bishop (2006), *Pattern Recognition and Machine Learning*, section 10.2.
    """
    num_components = len(prior.concentration)
    centre = v.mean(0)  # second moments lose digits far from the origin
    moved = _moved(prior, -centre)
    outcomes = []
    for r in range(num_restarts):
        if start is None or r:
            theta = random_start(v, num_components, seed=seed + r)
            theta = MixtureParameters(theta.weights, theta.loc - centre, theta.scale_tril)
            sums, _ = e_step(theta, v, centre)
        else:
            sums = _sums_of(start, v, centre)
        outcomes.append(_ascend(v, centre, moved, sums, max_iterations, tol))
    posterior, elbo, converged = max(outcomes, key=lambda outcome: outcome[1][-1])
    posterior = _moved(posterior, centre, v.dtype)
    parts = [torch.softmax(posterior.expected_log_joint(p), 1) for p in v.split(CHUNK_ROWS)]
    return VariationalMixtureResult(posterior, torch.cat(parts), elbo, converged)


def _sums_of(weight: Tensor, v: Tensor, origin: Tensor) -> SufficientStatistics:
    """Sum the rows relative to the origin, under weights that are given."""
    parts = zip(weight.split(CHUNK_ROWS), v.split(CHUNK_ROWS), strict=True)
    return reduce(add, (statistics(w.double(), (part - origin).double()) for w, part in parts))


def _ascend(
    v: Tensor,
    centre: Tensor,
    prior: Prior,
    sums: SufficientStatistics,
    max_iterations: int,
    tol: float,
) -> tuple[MixturePosterior, list[float], bool]:
    """Sweep from one start: q(π, μ, Λ), the bound after every sweep, and whether it converged."""
    elbo: list[float] = []
    for _ in range(max_iterations):
        posterior = update(prior, sums)
        sums, norm = expectation(posterior, v, centre)
        elbo.append(float(norm - kl_to_prior(posterior, prior)))
        if len(elbo) > 1 and elbo[-1] - elbo[-2] < tol * abs(elbo[-1]):
            return posterior, elbo, True
    return posterior, elbo, False


def _moved(parameters: Prior, by: Tensor, dtype: torch.dtype = torch.float64) -> MixturePosterior:
    """Move the distribution along with rows that move by a vector."""
    return MixturePosterior(
        parameters.concentration.to(dtype),
        (parameters.loc.double() + by.double()).to(dtype),
        parameters.mean_precision.to(dtype),
        parameters.df.to(dtype),
        parameters.precision_tril.to(dtype),
    )


def expectation(
    posterior: MixturePosterior, v: Tensor, origin: Tensor | None = None
) -> tuple[SufficientStatistics, Tensor]:
    """Update q(h): its sufficient statistics, and Σ_n log Σ_k exp E log p(v_n, h_n = k).

    As in `expected_log_joint`, the log joint is a constant less ½ ν_k |L_kᵀ (v − m_k)|².
    """
    num_features = posterior.loc.shape[1]
    constant = (
        posterior.concentration.digamma()
        - posterior.concentration.sum().digamma()
        + 0.5 * posterior.expected_log_det()
        - 0.5 * num_features * (1 / posterior.mean_precision + math.log(2 * math.pi))
    )
    root = posterior.df.sqrt()[:, None, None] * posterior.precision_tril.mT
    return expected_sums(Components(constant, root, posterior.loc), v, origin)


def update(prior: Prior, sums: SufficientStatistics) -> MixturePosterior:
    """Update q(π) and q(μ, Λ) from expected sufficient statistics: equations 10.58 to 10.63."""
    beta = prior.mean_precision + sums.count
    loc = (prior.mean_precision * prior.loc + sums.first) / beta[:, None]
    outer_prior = prior.mean_precision * prior.loc[:, None] * prior.loc[None, :]
    outer_loc = beta[:, None, None] * loc[:, :, None] * loc[:, None, :]
    inverse_scale = (
        torch.cholesky_inverse(prior.precision_tril) + sums.second + outer_prior - outer_loc
    )
    scale = torch.cholesky_inverse(torch.linalg.cholesky(inverse_scale))
    return MixturePosterior(
        concentration=prior.concentration + sums.count,
        loc=loc,
        mean_precision=beta,
        df=prior.df + sums.count,
        precision_tril=torch.linalg.cholesky(scale),
    )


def predictive_log_joint(posterior: Prior, v: Tensor) -> Tensor:
    """log ∫ π_k N(v_n; μ_k, Λ_k⁻¹) q(π, μ, Λ): of a row not seen, each component is a Student's t.

    Parameters
    ----------
    posterior : MixturePosterior
    v : Tensor
        Rows, shape (n, D).

    Returns
    -------
    Tensor
        In nats, shape (n, K). With f = ν_k + 1 − D, component k has f degrees of freedom, location
        m_k and precision f β_k / (1 + β_k) L_k L_kᵀ.

    References
    ----------
    Bishop (2006), *Pattern Recognition and Machine Learning*, equations 10.81 and 10.82.
    """
    num_features = v.shape[1]
    free = posterior.df + 1 - num_features
    share = posterior.mean_precision / (1 + posterior.mean_precision)
    log_pi = (posterior.concentration / posterior.concentration.sum()).log()
    log_norm = torch.lgamma((free + num_features) / 2) - torch.lgamma(free / 2)
    log_det = posterior.precision_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_norm = log_norm + log_det + num_features / 2 * (share / math.pi).log()
    columns = []
    for k in range(len(free)):
        white = (v - posterior.loc[k]) @ posterior.precision_tril[k]
        tail = (1 + share[k] * white.square().sum(1)).log()
        columns.append(log_pi[k] + log_norm[k] - (free[k] + num_features) / 2 * tail)
    return torch.stack(columns, dim=1)


def kl_to_prior(posterior: MixturePosterior, prior: Prior) -> Tensor:
    """KL(q(π) ‖ p(π)) + Σ_k KL(q(μ_k, Λ_k) ‖ p(μ_k, Λ_k)), in nats, shape ()."""
    num_features = posterior.loc.shape[1]
    kl = kl_divergence(Dirichlet(posterior.concentration), Dirichlet(prior.concentration))
    ratio = prior.mean_precision / posterior.mean_precision
    shift = (
        ((posterior.loc - prior.loc)[:, None, :] @ posterior.precision_tril).square().sum((1, 2))
    )
    kl_loc = 0.5 * (
        num_features * (ratio - 1 - ratio.log()) + prior.mean_precision * posterior.df * shift
    )
    return kl + kl_loc.sum() + _kl_wishart(posterior, prior).sum()


def _kl_wishart(posterior: MixturePosterior, prior: Prior) -> Tensor:
    """KL of each Wishart to the prior's, shape (K,)."""
    num_features = posterior.loc.shape[1]
    log_norm_q = _wishart_log_norm(posterior.df, posterior.precision_tril)
    log_norm_p = _wishart_log_norm(prior.df, prior.precision_tril)
    whitened = torch.linalg.solve_triangular(
        prior.precision_tril.expand_as(posterior.precision_tril),
        posterior.precision_tril,
        upper=False,
    )
    trace = whitened.square().sum((1, 2))
    kl: Tensor = (
        log_norm_q
        - log_norm_p
        + 0.5 * (posterior.df - prior.df) * posterior.expected_log_det()
        + 0.5 * posterior.df * (trace - num_features)
    )
    return kl


def _wishart_log_norm(df: Tensor, tril: Tensor) -> Tensor:
    """log B(W, ν): equation B.79."""
    num_features = tril.shape[-1]
    log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return (
        -df * log_det
        - 0.5 * df * num_features * math.log(2)
        - torch.mvlgamma(0.5 * df, num_features)
    )


def _expected_log_det(df: Tensor, tril: Tensor) -> Tensor:
    num_features = tril.shape[-1]
    steps = torch.arange(num_features).to(tril)
    psi = (0.5 * (df[:, None] - steps)).digamma().sum(1)
    log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return psi + num_features * math.log(2) + 2 * log_det


def log_predictive_joint(posterior: MixturePosterior, v: Tensor) -> Tensor:
    """log of E π_k times the density of a new row from component k, all under q, in nats.

    The density is Student's t with ν + 1 − D degrees of freedom, precision
    (ν + 1 − D) β / (1 + β) L Lᵀ.

    Parameters
    ----------
    posterior : MixturePosterior
    v : Tensor
        Rows, shape (n, D).

    Returns
    -------
    Tensor
        Shape (n, K).

    References
    ----------
    Bishop (2006), *Pattern Recognition and Machine Learning*, equations 10.81 and 10.82.
    """
    num_features = v.shape[1]
    df = posterior.df + 1 - num_features
    shrink = posterior.mean_precision / (1 + posterior.mean_precision)
    log_norm = (
        torch.lgamma((df + num_features) / 2)
        - torch.lgamma(df / 2)
        + num_features / 2 * (shrink.log() - math.log(math.pi))
        + posterior.precision_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        + posterior.concentration.log()
        - posterior.concentration.sum().log()
    )
    columns = []
    for k in range(len(df)):
        quadratic = ((v - posterior.loc[k]) @ posterior.precision_tril[k]).square().sum(1)
        tail = torch.log1p(shrink[k] * quadratic)
        columns.append(log_norm[k] - (df[k] + num_features) / 2 * tail)
    return torch.stack(columns, dim=1)
