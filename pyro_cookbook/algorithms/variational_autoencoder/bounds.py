"""Bounds of a fitted auto-encoder, row by row, and for one or two latents the evidence itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pyro
import torch
from pyro import poutine
from torch import Tensor

# Numbers that a table of draws × rows × columns, or grid × rows × columns, may have at once.
_CHUNK_NUMBERS = 2**23


class Decodes(Protocol):
    """What is asked of a model: `models.variational_autoencoder.VariationalAutoencoder` has it."""

    num_latents: int

    def decode(self, h: Tensor) -> Any:
        """Give the distribution of a row given latents of shape (..., K)."""


@torch.no_grad()
def log_weights(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    v: Tensor,
    num_draws: int,
    *,
    seed: int = 0,
) -> Tensor:
    """log p(v_n, h_s) − log q(h_s | v_n) of S draws from the guide.

    Parameters
    ----------
    model, guide : callable
        With every latent in the plate of the rows. They need not have seen these rows.
    v : Tensor
        Rows, shape (n, D).
    num_draws : int
        S.
    seed : int, default 0
        The global random state is put back.

    Returns
    -------
    Tensor
        Shape (S, n), in nats. The mean over the draws is the ELBO of each row.
    """
    at_once = max(1, _CHUNK_NUMBERS // v.numel())
    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for first in range(0, num_draws, at_once):
            size = min(at_once, num_draws - first)
            with pyro.plate("draws", size, dim=-2):
                q = poutine.trace(guide).get_trace(v)
                p = poutine.trace(poutine.replay(model, trace=q)).get_trace(v)
            found.append(_sum_of_sites(p) - _sum_of_sites(q))
    return torch.cat(found)


def _sum_of_sites(trace: Any) -> Tensor:
    """Log density of all sample sites, shape (S, n); without the plates' own."""
    trace.compute_log_prob()
    nodes = [
        node
        for node in trace.nodes.values()
        if node["type"] == "sample" and not poutine.util.site_is_subsample(node)
    ]
    total: Tensor = sum(node["log_prob"] for node in nodes)
    return total


def importance_weighted_bound(weights: Tensor, num_samples: int) -> Tensor:
    """Bound of each row from k importance samples: E[log (1/k) Σ w_i].

    At k = 1 it is the ELBO; it never falls with k, and tends to log p(v).

    Parameters
    ----------
    weights : Tensor
        Log weights, shape (S, n), in nats.
    num_samples : int
        k: the draws are cut into ⌊S / k⌋ groups of k, over which it averages.

    Returns
    -------
    Tensor
        Shape (n,), in nats.

    Raises
    ------
    ValueError
        If there are fewer than k draws.

    References
    ----------
    Burda, Grosse and Salakhutdinov (2016), arXiv:1509.00519, equation 8.
    """
    if not 1 <= num_samples <= len(weights):
        raise ValueError(
            f"num_samples: got {num_samples}, expected 1 to {len(weights)}, the number of draws"
        )
    groups = len(weights) // num_samples
    grouped = weights[: groups * num_samples].reshape(groups, num_samples, -1)
    return (torch.logsumexp(grouped, 1) - math.log(num_samples)).mean(0)


@dataclass(frozen=True)
class GridPosterior:
    """The posterior of one or two latents, by quadrature on a grid.

    Attributes
    ----------
    log_evidence : Tensor
        log p(v_n; θ), shape (n,), in nats.
    mean, sd : Tensor
        Of the latents given each row, shape (n, K).
    points : Tensor
        The grid, shape (G, K).
    log_posterior : Tensor
        Log probability of each point's cell given each row, shape (G, n).
    """

    log_evidence: Tensor
    mean: Tensor
    sd: Tensor
    points: Tensor
    log_posterior: Tensor


@torch.no_grad()
def on_grid(
    model: Decodes, v: Tensor, *, limit: float = 5.0, num_points: int = 101
) -> GridPosterior:
    """Integrate the latents out on a regular grid over [−limit, limit]^K.

    For a smooth integrand that is small at the edges, the sum over a regular grid converges faster
    than any power of its spacing, as soon as the spacing is below the posterior's own sd.

    Parameters
    ----------
    model : Decodes
        With K = 1 or 2.
    v : Tensor
        Rows, shape (n, D).
    limit : float, default 5.0
    num_points : int, default 101
        Along each axis.

    Raises
    ------
    ValueError
        If the model has more than two latents.
    """
    if model.num_latents > 2:
        raise ValueError(
            f"model: it has {model.num_latents} latents, expected 1 or 2 for a grid of"
            f" {num_points}^K points"
        )
    axis = torch.linspace(-limit, limit, num_points, dtype=v.dtype, device=v.device)
    points = torch.cartesian_prod(*[axis] * model.num_latents).reshape(-1, model.num_latents)
    log_prior = -points.square().sum(1) / 2 - model.num_latents * math.log(2 * math.pi) / 2
    log_cell = model.num_latents * math.log(float(axis[1] - axis[0]))
    size = max(1, _CHUNK_NUMBERS // v.numel())
    log_likelihood = torch.cat(
        [model.decode(part[:, None]).log_prob(v) for part in points.split(size)]
    )
    log_joint = log_likelihood + (log_prior + log_cell)[:, None]
    log_evidence = torch.logsumexp(log_joint, 0)
    log_posterior = log_joint - log_evidence
    share = log_posterior.exp().mT
    mean = share @ points
    sd = (share @ points.square() - mean.square()).clamp_min(0).sqrt()
    return GridPosterior(log_evidence, mean, sd, points, log_posterior)
