"""Refinement of amortised parameters: a few steps of the bound, row by row, from the encoder's."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_cookbook.algorithms.variational_autoencoder.bounds import Decodes
from pyro_cookbook.programs.state.isolation import calm_threads

# Points among which `fit_rows` looks for a start, and the sd that it starts with.
_NUM_STARTS, _START_SCALE = 64, 0.3
# Numbers that the decoder gives for a chunk of rows, all starting points together.
_CHUNK_NUMBERS = 2**23


@dataclass(frozen=True)
class Refined:
    """Normals of each row after refinement.

    Attributes
    ----------
    loc, scale : Tensor
        m and s, shape (n, K), real and positive.
    elbo : list of float
        One estimate of the bound before every step, in nats a row.
    """

    loc: Tensor
    scale: Tensor
    elbo: list[float]


def elbo(model: Decodes, v: Tensor, loc: Tensor, scale: Tensor, eps: Tensor) -> Tensor:
    """Bound of q(h_n) = N(m_n, diag s_n²), with KL(q ‖ prior) in closed form.

    Parameters
    ----------
    model : Decodes
    v : Tensor
        Rows, shape (n, D).
    loc, scale : Tensor
        Shape (n, K).
    eps : Tensor
        Base draws, shape (S, n, K): h = m + s ε.

    Returns
    -------
    Tensor
        Shape (n,), in nats: the mean over the draws of log p(v | h), minus
        ½ Σ (m² + s² − 1 − log s²).

    References
    ----------
    Kingma and Welling (2014), arXiv:1312.6114, equation 10 and appendix B.
    """
    kl = (loc.square() + scale.square() - 1 - 2 * scale.log()).sum(-1) / 2
    log_likelihood: Tensor = model.decode(loc + scale * eps).log_prob(v)
    return log_likelihood.mean(0) - kl


@calm_threads()
def refine(
    model: Decodes,
    v: Tensor,
    loc: Tensor,
    scale: Tensor,
    *,
    num_steps: int,
    lr: float = 0.05,
    num_draws: int = 4,
    seed: int = 0,
) -> Refined:
    """Climb the bound of every row by Adam in (m, log s); θ is held.

    Parameters
    ----------
    model : Decodes
    v : Tensor
        Rows, shape (n, D).
    loc, scale : Tensor
        Where to start, shape (n, K): what the encoder says, or 0 and 1, the prior.
    num_steps : int
    lr : float, default 0.05
        Adam's first step; it falls linearly to a tenth, to settle the noise.
    num_draws : int, default 4
        Base draws a row and step.
    seed : int, default 0
        Of the base draws; the global random state is untouched.

    Returns
    -------
    Refined

    References
    ----------
    Kim, Wiseman, Miller, Sontag and Rush (2018), *Semi-amortized variational autoencoders*,
    arXiv:1802.02550. Cremer, Li and Duvenaud (2018), arXiv:1801.03558.
    """
    generator = torch.Generator(v.device).manual_seed(seed)
    loc = loc.detach().clone().requires_grad_()
    log_scale = scale.detach().log().requires_grad_()
    optimiser = torch.optim.Adam([loc, log_scale], lr=lr)
    trace: list[float] = []
    for step in range(num_steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * (1 - 0.9 * step / num_steps)
        eps = torch.randn(num_draws, *loc.shape, generator=generator, dtype=v.dtype)
        bound = elbo(model, v, loc, log_scale.exp(), eps.to(v.device))
        loc.grad, log_scale.grad = torch.autograd.grad(-bound.sum(), [loc, log_scale])
        optimiser.step()
        trace.append(float(bound.detach().mean()))
    return Refined(loc.detach(), log_scale.detach().exp(), trace)


def base_draws(num_draws: int, num_latents: int, *, seed: int = 0) -> Tensor:
    """Quasi-random standard normals that all rows share, shape (S, 1, K), float64.

    Points of a scrambled Sobol sequence, each with its mirror image, stretched until their mean is
    0 and their covariance I: the bound of a quadratic log density is then exact, and no direction
    is left out, in which a fit to these draws could let an sd grow.

    Parameters
    ----------
    num_draws : int
        S, even and at least 2 K.
    num_latents : int
        K.
    seed : int, default 0
        Of the scrambling.

    References
    ----------
    Owen (1998), doi:10.1006/jcom.1998.0487, for the scrambling.

    Raises
    ------
    ValueError
        If there are fewer than 2 K draws.
    """
    if num_draws < 2 * num_latents:
        raise ValueError(f"num_draws: got {num_draws}, expected {2 * num_latents} at least")
    engine = torch.quasirandom.SobolEngine(num_latents, scramble=True, seed=seed)
    uniform = engine.draw(num_draws // 2, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    normal = torch.special.ndtri(uniform)
    root = torch.linalg.cholesky(normal.mT @ normal / len(normal))
    normal = torch.linalg.solve_triangular(root, normal.mT, upper=False).mT
    return torch.cat([normal, -normal])[:, None]


@calm_threads()
def fit_rows(
    model: Decodes, v: Tensor, *, num_steps: int = 40, lr: float = 0.15
) -> tuple[Tensor, Tensor]:
    """Fit the normals of rows that no encoder has seen, each row on its own; θ is held.

    The start of a row is the point of the largest log p(v, h) among 0 and 64 quasi-random ones of
    the prior. From there Adam climbs the bound of a few base draws that all rows share, so that
    what is found of a row does not depend on the others.

    Parameters
    ----------
    model : Decodes
    v : Tensor
        Rows, shape (n, D).
    num_steps : int, default 40
    lr : float, default 0.15
        Adam's first step; it falls linearly to a hundredth.

    Returns
    -------
    loc, scale : Tensor
        m and s, shape (n, K), real and positive.

    Notes
    -----
    With more than a few latents no point is near, and the start is 0 for most rows.
    """
    points = base_draws(max(_NUM_STARTS, 2 * model.num_latents), model.num_latents).to(v)[:, 0]
    loc = _best_of(model, v, torch.cat([points[:1] * 0, points])).requires_grad_()
    log_scale = torch.full_like(loc, math.log(_START_SCALE)).requires_grad_()
    eps = base_draws(max(4, 2 * model.num_latents), model.num_latents).to(v)
    optimiser = torch.optim.Adam([loc, log_scale], lr=lr)
    with torch.enable_grad():
        for step in range(num_steps):
            for group in optimiser.param_groups:
                group["lr"] = lr * (1 - 0.99 * step / num_steps)
            bound = elbo(model, v, loc, log_scale.exp(), eps)
            loc.grad, log_scale.grad = torch.autograd.grad(-bound.sum(), [loc, log_scale])
            optimiser.step()
    return loc.detach(), log_scale.detach().exp()


@torch.no_grad()
def _best_of(model: Decodes, v: Tensor, points: Tensor) -> Tensor:
    """Pick for every row the point of the largest log p(v, h), shape (n, K)."""
    log_prior = -points.square().sum(1, keepdim=True) / 2
    decoded = model.decode(points[:, None])
    size = max(1, _CHUNK_NUMBERS // (len(points) * v.shape[1]))
    best = [(decoded.log_prob(part) + log_prior).argmax(0) for part in v.split(size)]
    return points[torch.cat(best)] if best else v.new_zeros(0, points.shape[1])
