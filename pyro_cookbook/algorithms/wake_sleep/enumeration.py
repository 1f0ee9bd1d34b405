"""Exact answers of a sigmoid belief network of few causes, by a sum over all their states.

Everything takes leading dimensions: several θ, such as one for each seed, in one call.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from pyro_cookbook.algorithms.binary_sparse_coding.mean_field import all_states
from pyro_cookbook.programs.state.isolation import calm_threads


class HasTheta(Protocol):
    """Anything with the model's parameters, such as the model itself."""

    @property
    def W(self) -> Tensor:
        """What a cause adds to the log odds of the features, shape (..., D, K)."""

    @property
    def b(self) -> Tensor:
        """Log odds of the causes, shape (..., K)."""

    @property
    def c(self) -> Tensor:
        """Log odds of the features with every cause off, shape (..., D)."""


class BeliefParameters(NamedTuple):
    """θ of `models.sigmoid_belief_network.SigmoidBeliefNetwork`, or of several.

    Attributes
    ----------
    W, b, c : Tensor
        Shapes (..., D, K), (..., K), (..., D), real, in nats.
    """

    W: Tensor
    b: Tensor
    c: Tensor


def log_joint(theta: HasTheta, v: Tensor) -> Tensor:
    """log p(v_n, h = s) for every state s: shape (..., n, 2^K), in nats.

    Parameters
    ----------
    theta : HasTheta
    v : Tensor
        Rows of 0 and 1, shape (n, D) or (..., n, D).

    Raises
    ------
    ValueError
        If K is above 20.
    """
    states = all_states(theta.b.shape[-1]).to(theta.b)
    logits = states @ theta.W.mT + theta.c[..., None, :]  # (..., 2^K, D)
    log_prior = logsigmoid(theta.b) @ states.mT + logsigmoid(-theta.b) @ (1 - states).mT
    constant = log_prior - softplus(logits).sum(-1)
    return v @ logits.mT + constant[..., None, :]


def log_evidence(theta: HasTheta, v: Tensor) -> Tensor:
    """log p(v_n; θ) of every row: shape (..., n), in nats."""
    return torch.logsumexp(log_joint(theta, v), -1)


def posterior(theta: HasTheta, v: Tensor) -> Tensor:
    """p(h = s | v_n; θ) for every state in the order of `all_states`: shape (..., n, 2^K)."""
    return torch.softmax(log_joint(theta, v), -1)


def log_factorised(logits: Tensor) -> Tensor:
    """log q(h = s) of independent bits for every state: from (..., n, K) to (..., n, 2^K)."""
    states = all_states(logits.shape[-1]).to(logits)
    return logsigmoid(logits) @ states.mT + logsigmoid(-logits) @ (1 - states).mT


def factorised_elbo(theta: HasTheta, v: Tensor, logits: Tensor) -> Tensor:
    """Bound of q(h_n) = ∏ Bernoulli(σ(logits_ni)), without draws: shape (..., n), in nats."""
    log_q = log_factorised(logits)
    return (log_q.exp() * (log_joint(theta, v) - log_q)).sum(-1)


class Distances(NamedTuple):
    """How far a factorised q is from the exact posterior, row by row, in nats.

    Attributes
    ----------
    reverse : Tensor
        KL(q ‖ p), the gap of the bound: large where q is and p is not.
    forward : Tensor
        KL(p ‖ q), what the sleep phase lowers: large where p is and q is not.
    log_evidence : Tensor
        log p(v_n; θ).
    """

    reverse: Tensor
    forward: Tensor
    log_evidence: Tensor


def distances(theta: HasTheta, v: Tensor, logits: Tensor) -> Distances:
    """Measure both divergences between ∏ Bernoulli(σ(logits_ni)) and p(h | v_n; θ).

    Parameters
    ----------
    theta : HasTheta
    v : Tensor
        Rows, shape (n, D) or (..., n, D).
    logits : Tensor
        Shape (..., n, K), real.

    Returns
    -------
    Distances
        Each of shape (..., n).
    """
    joint = log_joint(theta, v)
    evidence = torch.logsumexp(joint, -1)
    log_p, log_q = joint - evidence[..., None], log_factorised(logits)
    log_ratio = log_q - log_p
    return Distances(
        (log_q.exp() * log_ratio).sum(-1), -(log_p.exp() * log_ratio).sum(-1), evidence
    )


@torch.no_grad()
@calm_threads()
def mean_field(
    theta: HasTheta,
    v: Tensor,
    *,
    start: Tensor | None = None,
    max_sweeps: int = 200,
    tol: float = 1e-8,
) -> tuple[Tensor, list[float]]:
    """Climb to the best factorised q of every row by itself, by coordinate ascent.

    The logit of cause i becomes E_q[log p(v, h) | h_i = 1] − E_q[log p(v, h) | h_i = 0], the other
    causes drawn from q, as a sum over all states. No update lowers any row's bound.

    Parameters
    ----------
    theta : HasTheta
        One θ.
    v : Tensor
        Rows, shape (n, D).
    start : Tensor, optional
        Logits, shape (n, K). Default: the prior's.
    max_sweeps : int, default 200
    tol : float, default 1e-8
        Stop when a sweep moves no probability by more.

    Returns
    -------
    logits : Tensor
        Shape (n, K).
    elbo : list of float
        The bound summed over the rows, in nats: at the start, then after each sweep.

    Notes
    -----
    The end is a local optimum: where a row has two explanations it has settled on one of them.
    """
    joint, states = log_joint(theta, v), all_states(len(theta.b)).to(v)
    logits = (theta.b.expand(len(v), -1) if start is None else start).detach().to(v).clone()
    elbo = [float(factorised_elbo(theta, v, logits).sum())]
    for _ in range(max_sweeps):
        before = torch.sigmoid(logits)
        for i in range(logits.shape[1]):
            signs = 2 * states[:, i] - 1
            own = logsigmoid(logits[:, i, None] * signs)  # log q_i of every state's bit
            others = torch.exp(log_factorised(logits) - own)
            logits[:, i] = (others * signs * joint).sum(1)
        elbo.append(float(factorised_elbo(theta, v, logits).sum()))
        if (torch.sigmoid(logits) - before).abs().max() <= tol:
            break
    return logits, elbo
