"""Bayesian linear regression with normal noise: the exact posterior, by one quadrature."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_cookbook.algorithms.logistic_regression import design
from pyro_cookbook.programs.state.isolation import calm_threads

# Nodes over log σ, where they begin, and the log density below its peak at which they end.
_NUM_NODES, _WIDEST, _DEPTH, _NARROWINGS = 513, (-18.0, 8.0), 40.0, 4


@dataclass(frozen=True)
class LinearPrior:
    """Normal coefficients, and a gamma distribution for the precision of the noise.

    Attributes
    ----------
    scale : Tensor
        Standard deviations of intercept and coefficients, shape (P,), positive.
    shape, rate : float
        Of the precision 1 / σ² ~ Gamma(shape, rate).
    """

    scale: Tensor
    shape: float
    rate: float


@dataclass(frozen=True)
class LinearPosterior:
    """The posterior: σ on a grid, and given σ a normal in the directions of `basis`.

    With β = basis γ: γ_k | σ ~ N(s_k c_k / (s_k² + σ²), σ² / (s_k² + σ²)).

    Attributes
    ----------
    log_scale : Tensor
        Nodes of log σ, equally spaced, shape (G,).
    log_weight : Tensor
        Their log probabilities, shape (G,).
    basis : Tensor
        Prior scale times right singular vectors, shape (P, P).
    singular : Tensor
        s, shape (P,); 0 where the data say nothing.
    projected : Tensor
        c, the outcomes along the left singular vectors, shape (P,).
    log_evidence : float
        log p(y), in nats.
    """

    log_scale: Tensor
    log_weight: Tensor
    basis: Tensor
    singular: Tensor
    projected: Tensor
    log_evidence: float

    def given_scale(self, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of γ given σ², shape (..., P), for σ² of shape (...)."""
        total = self.singular.square() + variance[..., None]
        return self.singular * self.projected / total, (variance[..., None] / total).sqrt()

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (P,) and covariance (P, P) of β, σ integrated out."""
        weight = self.log_weight.exp()
        loc, scale = self.given_scale((2 * self.log_scale).exp())
        mean = weight @ loc
        apart = (loc - mean) * weight.sqrt()[:, None]
        inner = (weight @ scale.square()).diag() + apart.mT @ apart
        return self.basis @ mean, self.basis @ inner @ self.basis.mT

    def expected(self, power: int) -> float:
        """E σ^power."""
        return float(self.log_weight.exp() @ (power * self.log_scale).exp())


@calm_threads()
def linear_posterior(x: Tensor, y: Tensor, prior: LinearPrior) -> LinearPosterior:
    """Integrate the coefficients out in closed form, and σ by a sum over nodes of log σ.

    p(log σ | y) ∝ p(log σ) N(y; 0, σ² I + X diag(scale²) Xᵀ), a smooth function of one variable
    that falls off on both sides: the sum over equally spaced nodes is exact to rounding.

    Parameters
    ----------
    x : Tensor
        Covariates, shape (n, D).
    y : Tensor
        Outcomes, real, shape (n,).
    prior : LinearPrior
        Of P = D + 1 numbers, the intercept first.

    Returns
    -------
    LinearPosterior

    References
    ----------
    Gelman et al. (2013), *Bayesian Data Analysis*, section 14.8.
    """
    columns = design(x) * prior.scale
    outer, triangle = torch.linalg.qr(columns)
    left, singular, right = torch.linalg.svd(triangle, full_matrices=True)
    num, rank = columns.shape[1], len(singular)
    projected = (left.mT @ (outer.mT @ y))[:rank]
    off_span = float((y.square().sum() - projected.square().sum()).clamp_min(0))
    log_p = _LogDensity(singular, projected, off_span, len(y), prior)
    unit = torch.linspace(0, 1, _NUM_NODES).to(y)  # exact: 512 is a power of 2
    low, high = _WIDEST
    nodes = low + (high - low) * unit
    for _ in range(_NARROWINGS):
        height = log_p.at(nodes)
        within = torch.nonzero(height > height.max() - _DEPTH).flatten()
        first, last = max(int(within[0]) - 1, 0), min(int(within[-1]) + 1, _NUM_NODES - 1)
        nodes = nodes[first] + (nodes[last] - nodes[first]) * unit
    height = log_p.at(nodes)
    total = torch.logsumexp(height, 0)
    pad = y.new_zeros(num - rank)
    return LinearPosterior(
        log_scale=nodes,
        log_weight=height - total,
        basis=prior.scale[:, None] * right.mT,
        singular=torch.cat([singular, pad]),
        projected=torch.cat([projected, pad]),
        log_evidence=float(total + (nodes[1] - nodes[0]).log()),
    )


@dataclass(frozen=True)
class _LogDensity:
    """log p(y, log σ), the coefficients integrated out."""

    singular: Tensor
    projected: Tensor
    off_span: float
    num_rows: int
    prior: LinearPrior

    def at(self, log_scale: Tensor) -> Tensor:
        """Evaluate at nodes, shape (G,)."""
        a, b = self.prior.shape, self.prior.rate
        variance = (2 * log_scale).exp()
        total = self.singular.square() + variance[:, None]
        quadratic = self.off_span / variance + (self.projected.square() / total).sum(1)
        free = self.num_rows - len(self.singular)
        log_det = 2 * free * log_scale + total.log().sum(1)
        log_likelihood = -(self.num_rows * math.log(2 * math.pi) + log_det + quadratic) / 2
        # Gamma density of 1 / σ², and the Jacobian 2 / σ² of log σ.
        log_prior = a * math.log(b) - math.lgamma(a) - 2 * a * log_scale - b / variance
        return log_likelihood + log_prior + math.log(2)
