"""Refinement of amortised parameters: a few steps of the bound, row by row, from the encoder's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_cookbook.algorithms.variational_autoencoder.bounds import Decodes
from pyro_cookbook.programs.state.isolation import calm_threads


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
