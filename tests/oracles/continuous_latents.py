"""Exact answers for continuous latents: conditioning, quadrature on grids, SciPy's optimisers."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logsumexp
from scipy.stats import halfcauchy, multivariate_normal, norm
from torch import Tensor

from oracles.programs import Array, array

# --- explaining away ---------------------------------------------------------------------------


def causes_posterior(w: Tensor, v: Tensor) -> tuple[Array, Array]:
    """Mean and covariance of h given v, by conditioning the joint Gaussian of (h, v)."""
    joint = causes_joint(w)
    gain = joint[:-1, -1] / joint[-1, -1]
    return array(v) * gain, joint[:-1, :-1] - np.outer(gain, joint[-1, :-1])


def causes_joint(w: Tensor) -> Array:
    """Covariance of (h, v): v is w · h plus a noise of variance 1."""
    mix = np.block([[np.eye(len(w)), np.zeros((len(w), 1))], [array(w)[None], np.ones((1, 1))]])
    return mix @ mix.T


def causes_log_evidence(w: Tensor, v: Tensor) -> Array:
    return multivariate_normal([0], causes_joint(w)[-1:, -1:]).logpdf(array(v))


# --- logistic regression -----------------------------------------------------------------------


def logistic_log_joint(beta: Array, x: Tensor, y: Tensor, scales: Array) -> Array:
    """log p(y, β) with β = (intercept, coefficients) in the last axis, by SciPy's densities."""
    design = np.column_stack([np.ones(len(x)), array(x)])
    sign = 2 * array(y) - 1
    log_likelihood = log_expit(sign * (beta @ design.T)).sum(-1)
    return log_likelihood + norm.logpdf(beta, 0, scales).sum(-1)


def logistic_mode(x: Tensor, y: Tensor, scales: Array) -> Array:
    """Maximise the log joint by BFGS from 0."""
    start = np.zeros(x.shape[1] + 1)
    found = minimize(
        lambda beta: -logistic_log_joint(beta, x, y, scales), start, tol=1e-12, method="BFGS",
        options={"gtol": 1e-7},
    )  # fmt: skip
    return np.asarray(found.x)


class GridPosterior(NamedTuple):
    """What a grid over the intercept and one coefficient gives."""

    log_evidence: float
    mean: Array
    sd: Array
    covariance: Array
    points: Array
    weight: Array


def logistic_grid(x: Tensor, y: Tensor, scales: Array, half_width: float = 9.0) -> GridPosterior:
    """Integrate the posterior of (intercept, one coefficient) by the trapezium rule."""
    mode = logistic_mode(x, y, scales)
    curvature = _logistic_curvature(mode, x, scales)
    sd = np.sqrt(np.diag(np.linalg.inv(curvature)))
    axes = [
        np.linspace(m - half_width * s, m + half_width * s, 401)
        for m, s in zip(mode, sd, strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    log_joint = np.concatenate(
        [logistic_log_joint(part, x, y, scales) for part in np.array_split(points, 40)]
    )
    log_cell = sum(np.log(axis[1] - axis[0]) for axis in axes)
    log_evidence = float(logsumexp(log_joint) + log_cell)
    weight = np.exp(log_joint + log_cell - log_evidence)
    mean = weight @ points
    covariance = (weight[:, None] * (points - mean)).T @ (points - mean)
    return GridPosterior(
        log_evidence, mean, np.sqrt(np.diag(covariance)), covariance, points, weight
    )


def _logistic_curvature(beta: Array, x: Tensor, scales: Array) -> Array:
    """Hessian of −log joint by central differences of its analytic gradient."""
    design = np.column_stack([np.ones(len(x)), array(x)])

    def gradient(at: Array) -> Array:
        return design.T @ expit(design @ at) + at / scales**2  # y shifts it by a constant

    step = 1e-5
    return np.stack(
        [(gradient(beta + step * e) - gradient(beta - step * e)) / (2 * step)
         for e in np.eye(len(beta))]
    )  # fmt: skip


# --- eight schools -----------------------------------------------------------------------------


class SchoolsPosterior(NamedTuple):
    """Exact moments, in points; those of τ and of log τ too."""

    log_evidence: float
    mu: tuple[float, float]
    tau: tuple[float, float]
    log_tau: tuple[float, float]
    theta: tuple[Array, Array]


def schools_posterior(
    sigma: Tensor, y: Tensor, mu_scale: float = 5.0, tau_scale: float = 5.0
) -> SchoolsPosterior:
    """Integrate over log τ on a grid; given τ, (μ, θ, y) is Gaussian and is conditioned as such."""
    log_tau = np.linspace(-14, 12, 2001)
    se, seen, num = array(sigma), array(y), len(sigma)
    tau = np.exp(log_tau)
    # (μ, θ, y) is a linear map of independent standard normals: μ's, the schools', the noises.
    mix = np.zeros((len(tau), 1 + 2 * num, 1 + 2 * num))
    mix[..., 0] = mu_scale
    own = tau[:, None, None] * np.eye(num)
    mix[:, 1 : 1 + num, 1 : 1 + num] = mix[:, 1 + num :, 1 : 1 + num] = own
    mix[:, 1 + num :, 1 + num :] = np.diag(se)
    joint = mix @ mix.transpose(0, 2, 1)
    latent, data = slice(0, 1 + num), slice(1 + num, None)
    cross, marginal = joint[:, latent, data], joint[:, data, data]
    gain = np.linalg.solve(marginal, cross.transpose(0, 2, 1)).transpose(0, 2, 1)
    means = gain @ seen
    variances = np.einsum("tii->ti", joint[:, latent, latent]) - (gain * cross).sum(2)
    distance = np.linalg.solve(marginal, np.broadcast_to(seen[:, None], (len(tau), num, 1)))[..., 0]
    log_likelihood = -0.5 * (
        num * np.log(2 * np.pi) + np.linalg.slogdet(marginal)[1] + distance @ seen
    )
    log_prior = halfcauchy(scale=tau_scale).logpdf(tau) + log_tau  # of log τ: |dτ/d log τ| = τ
    log_weight = log_likelihood + log_prior + np.log(log_tau[1] - log_tau[0])
    log_evidence = float(logsumexp(log_weight))
    weight = np.exp(log_weight - log_evidence)

    def moments(mean: Array, variance: Array) -> tuple[Array, Array]:
        first = weight @ mean
        return first, np.sqrt(weight @ (variance + mean**2) - first**2)

    mean, sd = moments(means, variances)
    none = np.zeros_like(log_tau)
    return SchoolsPosterior(
        log_evidence,
        (float(mean[0]), float(sd[0])),
        tuple(map(float, moments(tau, none))),  # type: ignore[arg-type]
        tuple(map(float, moments(log_tau, none))),  # type: ignore[arg-type]
        (mean[1:], sd[1:]),
    )
