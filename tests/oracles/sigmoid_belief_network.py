"""Sigmoid belief networks by brute force: one row, one state, one SciPy probability at a time."""

from itertools import product
from typing import Any

import numpy as np
from scipy.special import expit, xlogy
from scipy.stats import bernoulli
from torch import Tensor

from oracles.programs import Array, array


def states(num_units: int) -> list[tuple[int, ...]]:
    return list(product((0, 1), repeat=num_units))


def log_joint(theta: Any, v: Tensor) -> Array:
    """log p(v_n, h) by row and state."""
    W, b, c = array(theta.W), array(theta.b), array(theta.c)
    rows = array(v)
    table = np.empty((len(rows), 2 ** len(b)))
    for s, h in enumerate(states(len(b))):
        prior = sum(bernoulli.logpmf(h[i], expit(b[i])) for i in range(len(b)))
        on = [expit(c[d] + sum(W[d, i] for i in range(len(b)) if h[i])) for d in range(len(c))]
        for n, row in enumerate(rows):
            table[n, s] = prior + sum(bernoulli.logpmf(row[d], on[d]) for d in range(len(c)))
    return table


def log_evidence(theta: Any, v: Tensor) -> Array:
    return np.logaddexp.reduce(log_joint(theta, v), axis=1)


def posterior(theta: Any, v: Tensor) -> Array:
    joint = log_joint(theta, v)
    return np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))


def factorised(logits: Tensor) -> Array:
    """q(h) by row and state, of independent bits."""
    on = expit(array(logits))
    return np.column_stack(
        [np.prod(np.where(np.array(h) == 1, on, 1 - on), axis=1) for h in states(on.shape[1])]
    )


def kl(p: Array, q: Array) -> Array:
    """KL(p ‖ q) of tables of probabilities, row by row."""
    return (xlogy(p, p) - xlogy(p, q)).sum(1)


def elbo(theta: Any, v: Tensor, logits: Tensor) -> Array:
    q = factorised(logits)
    return (q * log_joint(theta, v) - xlogy(q, q)).sum(1)


def importance_weighted(theta: Any, v: Tensor, logits: Tensor) -> Array:
    """E[log ½ (w_1 + w_2)] of two draws, by a sum over all pairs of states: shape (n,)."""
    q = factorised(logits)
    log_weights = log_joint(theta, v) - np.log(q)
    pairs = np.logaddexp(log_weights[:, :, None], log_weights[:, None, :]) - np.log(2)
    return np.einsum("ns,nt,nst->n", q, q, pairs)


def reweighted_pull(theta: Any, v: Tensor, logits: Tensor) -> Array:
    """E[Σ_k ŵ_k (h_k − ĥ)] of two draws: wake-phi's mean pull on q's logits, shape (n, K)."""
    q, on = factorised(logits), expit(array(logits))
    log_weights = log_joint(theta, v) - np.log(q)
    share = expit(log_weights[:, :, None] - log_weights[:, None, :])  # of the first of the pair
    weight = 2 * np.einsum("ns,nt,nst->ns", q, q, share)  # either draw may be the one
    return weight @ np.array(states(on.shape[1])) - weight.sum(1, keepdims=True) * on
