"""Two numbers for each draw: its pull on θ and on φ. That is all the methods differ in.

From rows v_n, draws h_nk ~ q(h | v_n; φ) and their log weights log p(v_n, h_nk) − log q(h_nk | v_n)
every method here ascends

    θ along  Σ_k a_k ∇ log p(v, h_k; θ),    φ along  Σ_k c_k ∇ log q(h_k | v; φ),

and those whose c is 0 train φ on dreams instead.
"""

import math

import torch
from torch import Tensor

METHODS = ("wake_sleep", "reweighted_sleep", "reweighted", "importance_weighted", "score")
# These train φ on draws of (v, h) from the model.
DREAMING = frozenset({"wake_sleep", "reweighted_sleep"})
# Methods whose rule compares a draw with the other draws of its row.
_MIN_PARTICLES = {"reweighted_sleep": 2, "reweighted": 2, "importance_weighted": 2}


def check(method: str, num_particles: int) -> None:
    """Refuse a method that there is not, or too few draws for it.

    Raises
    ------
    ValueError
    """
    if method not in METHODS:
        raise ValueError(f"method: got {method!r}, expected one of {', '.join(METHODS)}")
    fewest = _MIN_PARTICLES.get(method, 1)
    if num_particles < fewest:
        raise ValueError(
            f"num_particles: got {num_particles}, expected {fewest} at least for {method!r}"
        )


def coefficients(
    method: str, log_weights: Tensor, baseline: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Pull of each draw on θ and on φ.

    ========================  ===========================  =========================================
    method                    a_k, on θ                    c_k, on φ
    ========================  ===========================  =========================================
    ``wake_sleep``            1 / K                        0 (φ learns from dreams)
    ``reweighted_sleep``      ŵ_k                          0 (φ learns from dreams)
    ``reweighted``            ŵ_k                          ŵ_k
    ``importance_weighted``   ŵ_k                          L̂ − L̂_(−k) − ŵ_k
    ``score``                 1 / K                        (log w_k − baseline) / K
    ========================  ===========================  =========================================

    ŵ are the weights normalised over the draws of a row, L̂ = log of their mean, and L̂_(−k) the
    same with w_k replaced by the geometric mean of the others: a baseline that draw k cannot move
    (VIMCO).

    Parameters
    ----------
    method : {"wake_sleep", "reweighted_sleep", "reweighted", "importance_weighted", "score"}
    log_weights : Tensor
        log p(v, h_k) − log q(h_k | v), shape (K, ...), in nats.
    baseline : Tensor or float, default 0
        For ``score``: anything that does not depend on the draw, broadcast against the weights.

    Returns
    -------
    a, c : Tensor
        Shape (K, ...). Their expectations are gradients: of the bound (``score``), of the
        importance-weighted bound (``importance_weighted``), and up to a bias of order 1 / K of
        log p(v) and −KL(p ‖ q) (``reweighted``; its θ in ``reweighted_sleep``, too).

    References
    ----------
    Hinton, Dayan, Frey and Neal (1995), doi:10.1126/science.7761831.
    Bornschein and Bengio (2015), arXiv:1406.2751.
    Burda, Grosse and Salakhutdinov (2016), arXiv:1509.00519.
    Mnih and Rezende (2016), arXiv:1602.06725.
    Mnih and Gregor (2014), arXiv:1402.0030.
    """
    check(method, len(log_weights))
    even = torch.full_like(log_weights, 1 / len(log_weights))
    if method == "wake_sleep":
        return even, torch.zeros_like(log_weights)
    if method == "score":
        return even, even * (log_weights - baseline)
    share = torch.softmax(log_weights, 0)
    if method == "reweighted_sleep":
        return share, torch.zeros_like(share)
    if method == "reweighted":
        return share, share
    return share, _leave_one_out(log_weights) - share


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """log of the mean weight over the draws, from shape (K, ...) to (...), in nats."""
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def _leave_one_out(log_weights: Tensor) -> Tensor:
    """L̂ − L̂_(−k): what draw k adds to the bound, beside an average draw; shape (K, ...)."""
    num_particles = len(log_weights)
    geometric = (log_weights.sum(0) - log_weights) / (num_particles - 1)
    replaced = log_weights.expand(num_particles, *log_weights.shape).clone()
    index = torch.arange(num_particles)
    replaced[index, index] = geometric  # (which is left out, draw, ...)
    return torch.logsumexp(log_weights, 0) - torch.logsumexp(replaced, 1)
