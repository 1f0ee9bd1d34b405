"""Binary sparse coding by brute force: every state, one row and one Gaussian density at a time."""

from itertools import product
from typing import Any

import numpy as np
from scipy.special import expit, xlogy
from scipy.stats import multivariate_normal, norm
from torch import Tensor

from oracles.programs import Array, array


def states(num_units: int) -> list[tuple[int, ...]]:
    return list(product((0, 1), repeat=num_units))


def log_prior(theta: Any, h: tuple[int, ...]) -> float:
    on = expit(array(theta.b))
    return float(np.log(np.where(np.array(h) == 1, on, 1 - on)).sum())


def log_joint(theta: Any, v: Tensor) -> Array:
    """log p(v_n, h) by row and state: the prior times D normal densities."""
    W, scale = array(theta.W), float(theta.scale)
    table = np.empty((len(v), 2 ** W.shape[1]))
    for s, h in enumerate(states(W.shape[1])):
        loc = sum((W[:, i] for i in range(len(h)) if h[i]), np.zeros(len(W)))
        table[:, s] = log_prior(theta, h) + norm.logpdf(array(v), loc, scale).sum(1)
    return table


def log_evidence(theta: Any, v: Tensor) -> Array:
    return np.logaddexp.reduce(log_joint(theta, v), axis=1)


def posterior(theta: Any, v: Tensor) -> Array:
    joint = log_joint(theta, v)
    return np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))


def marginals(theta: Any, v: Tensor) -> Array:
    table, num_units = posterior(theta, v), len(theta.b)
    out = np.zeros((len(v), num_units))
    for s, h in enumerate(states(num_units)):
        for i in range(num_units):
            out[:, i] += h[i] * table[:, s]
    return out


def factorised(logits: Tensor) -> Array:
    """q(h) by row and state, of independent units."""
    on = expit(array(logits))
    return np.column_stack(
        [np.prod(np.where(np.array(h) == 1, on, 1 - on), axis=1) for h in states(on.shape[1])]
    )


def kl_to_posterior(theta: Any, v: Tensor, logits: Tensor) -> Array:
    """KL(q ‖ p(h | v)) of every row, from the two tables of probabilities."""
    q, p = factorised(logits), posterior(theta, v)
    return (xlogy(q, q) - xlogy(q, p)).sum(1)


def elbo(theta: Any, v: Tensor, logits: Tensor) -> Array:
    """E_q[log p(v, h) − log q(h)] of every row, as a sum over all states."""
    q = factorised(logits)
    return (q * log_joint(theta, v) - xlogy(q, q)).sum(1)


def expected_log_joint(theta: Any, v: Tensor, q: Array) -> float:
    """Σ_n E_q[log p(v_n, h; θ)] for any q by row and state: what an M step maximises."""
    return float((q * log_joint(theta, v)).sum())


def first_two_moments(theta: Any, v: Tensor) -> tuple[Array, Array]:
    """Mean and covariance of v under p(v; θ): Σ over states of the mixture's components."""
    W, num_units = array(theta.W), len(theta.b)
    weight = np.exp([log_prior(theta, h) for h in states(num_units)])
    loc = np.array([W @ np.array(h) for h in states(num_units)])
    mean = weight @ loc
    covariance = (loc * weight[:, None]).T @ loc - np.outer(mean, mean)
    return mean, covariance + float(theta.scale) ** 2 * np.eye(len(W))


def is_normalised(theta: Any, num_draws: int = 4000, seed: int = 0) -> tuple[float, float]:
    """∫ p(v) dv by importance sampling from a wide Gaussian: mean and standard error."""
    mean, covariance = first_two_moments(theta, None)
    wide = multivariate_normal(mean, 2 * covariance)
    draws = wide.rvs(num_draws, random_state=np.random.default_rng(seed))
    ratio = np.exp(log_evidence(theta, draws) - wide.logpdf(draws))
    return float(ratio.mean()), float(ratio.std() / num_draws**0.5)
