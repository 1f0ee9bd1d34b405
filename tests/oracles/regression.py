"""Exact answers for regressions: conjugate, and integrals over scales on a grid."""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats
from statsmodels.tools.numdiff import approx_hess


@dataclass(frozen=True)
class Moments:
    """Exact means and sds of a posterior, and the log evidence if it is asked for."""

    mean: np.ndarray
    sd: np.ndarray


def gaussian_posterior(columns, y, noise, prior_sd):
    """Posterior of w in y ~ N(columns w, noise²), w_j ~ N(0, prior_sd_j): mean, covariance.

    With the log evidence, from the marginal distribution of y.
    """
    precision = columns.T @ columns / noise**2 + np.diag(1 / np.square(prior_sd))
    covariance = np.linalg.inv(precision)
    mean = covariance @ columns.T @ y / noise**2
    marginal = noise**2 * np.eye(len(y)) + (columns * np.square(prior_sd)) @ columns.T
    evidence = stats.multivariate_normal(np.zeros(len(y)), marginal).logpdf(y)
    return mean, covariance, evidence


def unknown_noise(columns, y, prior_sd, *, num_points=400):
    """Moments of w and σ, y ~ N(columns w, σ²), w_j ~ N(0, prior_sd_j), σ ~ Exponential(1)."""
    grid = np.exp(np.linspace(np.log(0.05), np.log(3.0), num_points))
    log_weights, means, variances = [], [], []
    for noise in grid:
        mean, covariance, evidence = gaussian_posterior(columns, y, noise, prior_sd)
        log_weights.append(evidence - noise + np.log(noise))  # dσ = σ d log σ
        means.append(np.append(mean, noise))
        variances.append(np.append(np.diag(covariance), 0.0))
    return _mixture(log_weights, means, variances)


def random_intercepts(columns, y, level, prior_sd, *, num_points=28):
    """Moments of w, τ and σ: y ~ N(columns w + u_level, σ²), u ~ N(0, τ), τ, σ ~ Exponential(1).

    Scales on a grid over which the posterior is negligible at the edges; w and u integrated out.
    """
    indicator = (level[:, None] == np.unique(level)).astype(float)
    both = np.concatenate([columns, indicator], axis=1)
    log_weights, means, variances = [], [], []
    noises = np.exp(np.linspace(np.log(0.15), np.log(0.35), num_points))
    scales = np.exp(np.linspace(np.log(0.12), np.log(1.6), num_points))
    for noise in noises:
        for scale in scales:
            prior = np.append(prior_sd, np.full(indicator.shape[1], scale))
            mean, covariance, evidence = _gaussian_by_determinants(both, y, noise, prior)
            log_weights.append(evidence - noise - scale + np.log(noise) + np.log(scale))
            kept = slice(0, columns.shape[1])
            means.append(np.concatenate([mean[kept], [scale, noise]]))
            variances.append(np.append(np.diag(covariance)[kept], [0.0, 0.0]))
    return _mixture(log_weights, means, variances)


def _gaussian_by_determinants(columns, y, noise, prior_sd):
    """As `gaussian_posterior`, in the size of w: log evidence by the determinant lemma."""
    precision = columns.T @ columns / noise**2 + np.diag(1 / np.square(prior_sd))
    covariance = np.linalg.inv(precision)
    mean = covariance @ columns.T @ y / noise**2
    log_det = (
        np.linalg.slogdet(precision)[1] + 2 * np.log(prior_sd).sum() + 2 * len(y) * np.log(noise)
    )
    square = y @ y / noise**2 - mean @ precision @ mean
    evidence = -0.5 * (square + log_det + len(y) * np.log(2 * np.pi))
    return mean, covariance, evidence


def _mixture(log_weights, means, variances):
    weights = np.exp(np.array(log_weights) - np.max(log_weights))
    weights /= weights.sum()
    means, variances = np.array(means), np.array(variances)
    mean = weights @ means
    return Moments(mean, np.sqrt(weights @ (variances + (means - mean) ** 2)))


def student_t_likelihood(x, y):
    """Maximum likelihood of y ~ a + b x + σ t_ν: a, b and σ, with standard errors of curvature."""
    columns = np.column_stack([np.ones(len(x)), x])
    y = np.asarray(y)

    def loss(p):
        left = (y - columns @ p[:2]) / np.exp(p[2])
        return -stats.t.logpdf(left, np.exp(p[3])).sum() + len(y) * p[2]

    start = np.linalg.lstsq(columns, y, rcond=None)[0]
    start = [*start, np.log(np.std(y - columns @ start)), 1.5]
    limits = {"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-10, "fatol": 1e-10}
    at = optimize.minimize(loss, start, method="Nelder-Mead", options=limits).x
    se = np.sqrt(np.diag(np.linalg.inv(approx_hess(at, loss))))
    scale = np.exp(at[2])
    return np.array([*at[:2], scale]), np.array([*se[:2], scale * se[2]])
