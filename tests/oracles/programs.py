"""Exact answers by other routes than the library's: SciPy densities, conditioning, enumeration."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from scipy.stats import multivariate_normal
from torch import Tensor

Array = NDArray[np.float64]


def array(value: Any) -> Array:
    return value.detach().double().numpy() if isinstance(value, Tensor) else np.asarray(value)


# --- any model and guide -----------------------------------------------------------------------


def replayed(
    model: Callable, guide: Callable, *data: Any, **kwargs: Any
) -> tuple[poutine.Trace, poutine.Trace]:
    """Run the guide and replay the model: their traces, (model, guide)."""
    trace_q = poutine.trace(guide).get_trace(*data, **kwargs)
    return poutine.trace(poutine.replay(model, trace_q)).get_trace(*data, **kwargs), trace_q


@torch.no_grad()
def log_ratio(model: Callable, guide: Callable, *data: Any, **kwargs: Any) -> float:
    """log p(v, h) − log q(h | v) of one draw of all latents."""
    trace_p, trace_q = replayed(model, guide, *data, **kwargs)
    return float(trace_p.log_prob_sum() - trace_q.log_prob_sum())


@torch.no_grad()
def row_log_ratios(model: Callable, guide: Callable, v: Tensor) -> Array:
    """log p(v_n, h_n) − log q(h_n | v_n) of one draw, where every latent belongs to a row."""

    def rows(trace: poutine.Trace) -> Tensor:
        trace.compute_log_prob()
        return sum(site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample")

    trace_p, trace_q = replayed(model, guide, v)
    return array(rows(trace_p) - rows(trace_q))


@torch.no_grad()
def log_prob(program: Callable, values: Mapping[str, Tensor], *data: Any, **kwargs: Any) -> float:
    """Log density of a program's sites, the latent ones held at given values."""
    held = poutine.condition(program, data=dict(values))
    return float(poutine.trace(held).get_trace(*data, **kwargs).log_prob_sum())


@torch.no_grad()
def gaussian_elbo(model: Callable, guide: Callable, *data: Any) -> float:
    """ELBO of a guide with h_n ~ N(m_n, L Lᵀ) and a log ratio quadratic in h, without sampling.

    The mean of a quadratic over N(m, L Lᵀ) is its average over the 2K points m ± √K L e_i.
    """
    q = poutine.trace(guide).get_trace(*data).nodes["h"]["fn"]
    scale = q.scale_tril if hasattr(q, "scale_tril") else torch.diag_embed(q.stddev)
    steps = math.sqrt(q.event_shape[0]) * scale.mT  # row i is √K L e_i
    points = [q.mean + sign * step for step in steps.unbind(-2) for sign in (1, -1)]
    ratios = [log_prob(model, {"h": h}, *data) - log_prob(guide, {"h": h}, *data) for h in points]
    return sum(ratios) / len(ratios)


# --- Gaussians ---------------------------------------------------------------------------------


def gaussian_kl(loc_q: Array, cov_q: Array, loc_p: Array, cov_p: Array) -> float:
    """KL(q ‖ p), summed over the rows of the means."""
    delta, precision = np.atleast_2d(loc_q - loc_p), np.linalg.inv(cov_p)
    log_det = np.linalg.slogdet(cov_p)[1] - np.linalg.slogdet(cov_q)[1]
    per_row = np.trace(precision @ cov_q) - len(cov_q) + log_det
    return 0.5 * (len(delta) * per_row + np.einsum("ni,ij,nj", delta, precision, delta))


def mean_field_variances(covariance: Array) -> Array:
    """Variances of the factorised Gaussian closest to N(·, covariance) in KL(q ‖ p)."""
    return 1 / np.diag(np.linalg.inv(covariance))


# --- factor analysis ---------------------------------------------------------------------------


def factor_analysis_marginal(theta: Any) -> Array:
    """Covariance of v: W Wᵀ + Ψ."""
    W, scale = array(theta.W), array(theta.scale)
    return W @ W.T + np.diag(np.broadcast_to(scale**2, len(W)))


def factor_analysis_log_evidence(theta: Any, v: Tensor) -> Array:
    return multivariate_normal(array(theta.b), factor_analysis_marginal(theta)).logpdf(array(v))


def factor_analysis_posterior(theta: Any, v: Tensor) -> tuple[Array, Array]:
    """Mean and covariance of h given v, by conditioning the joint Gaussian of (h, v)."""
    W, b = array(theta.W), array(theta.b)
    gain = np.linalg.solve(factor_analysis_marginal(theta), W).T  # Cov(h, v) Cov(v)⁻¹
    return (array(v) - b) @ gain.T, np.eye(W.shape[1]) - gain @ W


# --- Gaussian mixture --------------------------------------------------------------------------


def mixture_log_joint(theta: Any, v: Tensor) -> Array:
    """log p(v_n, h_n = k), shape (n, K), by enumeration over k."""
    weights, loc, tril = array(theta.weights), array(theta.loc), array(theta.scale_tril)
    return np.column_stack(
        [
            np.log(weights[k]) + multivariate_normal(loc[k], tril[k] @ tril[k].T).logpdf(array(v))
            for k in range(len(weights))
        ]
    )


def mixture_log_evidence(theta: Any, v: Tensor) -> Array:
    return np.logaddexp.reduce(mixture_log_joint(theta, v), axis=1)


def mixture_responsibilities(theta: Any, v: Tensor) -> Array:
    joint = mixture_log_joint(theta, v)
    return np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
