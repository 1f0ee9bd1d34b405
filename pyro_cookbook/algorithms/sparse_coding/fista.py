"""Sparse coding by convex optimisation: codes by FISTA, the objective, and how far from optimal."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_cookbook.programs.state.isolation import calm_threads

# Iterations between two looks at the duality gap, after which finished rows are set aside.
_CHECK_EVERY = 5
# Scalars of the codes of a piece of the rows. Its dozen arrays take memory that is at hand; larger
# ones would be asked of the system in each iteration anew, which zeroes them.
_SCALARS = 2**18


@dataclass(frozen=True)
class SparseCodingParameters:
    """θ of `models.sparse_coding.SparseCoding`, and its two fixed numbers, under the same names.

    Attributes
    ----------
    W : Tensor
        The dictionary, shape (D, K). Here any matrix will do; the model's columns have length 1.
    b : Tensor
        Mean of the rows, shape (D,).
    rate : float
        λ, the rate of the codes' prior.
    scale : float
        β^−½, the standard deviation of the noise.
    """

    W: Tensor
    b: Tensor
    rate: float
    scale: float


def objective(theta: SparseCodingParameters, v: Tensor, h: Tensor) -> Tensor:
    """J(h) = β/2 ‖v − b − W h‖² + λ Σ_k |h_k| of every row, in nats.

    Parameters
    ----------
    theta : SparseCodingParameters
        Or any object with its attributes, such as the model.
    v, h : Tensor
        Rows and codes, shapes (n, D) and (n, K).

    Returns
    -------
    Tensor
        Shape (n,).

    References
    ----------
    Goodfellow, Bengio and Courville (2016), *Deep Learning*, equation 19.16.
    """
    residual = (v - theta.b - h @ theta.W.mT) / theta.scale
    return residual.square().sum(1) / 2 + theta.rate * h.abs().sum(1)


def log_normaliser(theta: SparseCodingParameters) -> float:
    """log p(v, h) + J(h) of one row, in nats: K log(λ/2) + D/2 log(β / 2π), whatever v and h."""
    num_features, num_atoms = theta.W.shape
    log_beta = -2 * math.log(theta.scale)
    prior = num_atoms * math.log(theta.rate / 2)
    return prior + num_features / 2 * (log_beta - math.log(2 * math.pi))


def duality_gap(theta: SparseCodingParameters, v: Tensor, h: Tensor) -> Tensor:
    """Bound on J(h) − min J of every row, in nats, shape (n,): 0 at the optimum, and only there.

    Notes
    -----
    min J = max {β uᵀ(v − b) − β/2 ‖u‖² : |β W_kᵀu| ≤ λ for all k}. The residual, shrunk until it
    satisfies the constraints, is such a u; at the optimum it does so as it is.

    References
    ----------
    Kim, Koh, Lustig, Boyd and Gorinevsky (2007), doi:10.1109/JSTSP.2007.910971.
    """
    x = (v - theta.b) / theta.scale
    residual = x - h @ theta.W.mT / theta.scale
    steepest = (residual @ theta.W / theta.scale).abs().amax(1)
    u = residual * (theta.rate / steepest.clamp_min(theta.rate))[:, None]
    return objective(theta, v, h) - (u * x).sum(1) + u.square().sum(1) / 2


def kkt_violation(theta: SparseCodingParameters, v: Tensor, h: Tensor) -> Tensor:
    """How far a code is from satisfying the conditions of optimality, in units of λ.

    With g = β Wᵀ(v − b − W h): g_k = λ sign(h_k) where h_k ≠ 0, |g_k| ≤ λ where h_k = 0.

    Returns
    -------
    Tensor
        The largest violation in each row, shape (n,); 0 at the optimum, and only there.
    """
    pull = (v - theta.b - h @ theta.W.mT) @ theta.W / theta.scale**2 / theta.rate
    off = torch.where(h == 0, (pull.abs() - 1).clamp_min(0), (pull - h.sign()).abs())
    return off.amax(1)


def largest_rate(theta: SparseCodingParameters, v: Tensor) -> Tensor:
    """Find the λ from which on the code of a row is 0: max_k |β W_kᵀ(v − b)|, shape (n,)."""
    return ((v - theta.b) @ theta.W).abs().amax(1) / theta.scale**2


def soft_threshold(h: Tensor, threshold: float) -> Tensor:
    """Move towards 0 by `threshold`, and stop at 0: argmin_z ½ (z − h)² + threshold |z|."""
    return h.sign() * (h.abs() - threshold).clamp_min(0)


class Codes(NamedTuple):
    """Codes and what their computation says of itself.

    Attributes
    ----------
    h : Tensor
        Shape (n, K), with exact zeros.
    gap : Tensor
        `duality_gap` of every row when its last look was taken, in nats, shape (n,).
    trace : list of float
        ΣJ over the rows after every iteration, in nats.
    converged : bool
        Whether the gap of every row is below the tolerance.
    """

    h: Tensor
    gap: Tensor
    trace: list[float]
    converged: bool


@calm_threads()
def fista(
    theta: SparseCodingParameters,
    v: Tensor,
    *,
    start: Tensor | None = None,
    tol: float = 1e-7,
    max_iterations: int = 10_000,
    accelerate: bool = True,
) -> Codes:
    """Minimise J over the codes of all rows at once, W held.

    Parameters
    ----------
    theta : SparseCodingParameters
        Or any object with its attributes, such as the model.
    v : Tensor
        Rows, shape (n, D).
    start : Tensor, optional
        Shape (n, K). Default: 0.
    tol : float, default 1e-7
        A row is done when its duality gap is below `tol` times its J. In float32 the gap itself is
        known to about 1e-6 of J at 0: ask for no less.
    max_iterations : int, default 10_000
    accelerate : bool, default True
        Without it: ISTA.

    Returns
    -------
    Codes

    Raises
    ------
    ValueError
        If `tol` is not positive.

    Notes
    -----
    A gradient step on the quadratic, of length one over its largest curvature, then a soft
    threshold. Momentum is dropped in a row where it points uphill. Where atoms nearly coincide
    several codes have nearly the same J: J converges, a single code need not.

    References
    ----------
    Beck and Teboulle (2009), doi:10.1137/080716542. O'Donoghue and Candès (2015),
    doi:10.1007/s10208-013-9150-3.
    """
    if not tol > 0:
        raise ValueError(f"tol: got {tol}, expected a positive number")
    # In units of the noise variance: ½‖x − W h‖² + α Σ|h| = J / β.
    W, beta = theta.W.detach(), theta.scale**-2
    gram = W.mT @ W
    descent = _Descent(
        W, gram, theta.rate * theta.scale**2, 1 / float(torch.linalg.eigvalsh(gram.double())[-1]),
        tol, max_iterations, accelerate,
    )  # fmt: skip
    size = max(1, _SCALARS // len(gram))
    begin = v.new_zeros(len(v), len(gram)) if start is None else start.detach()
    pieces = zip(v.split(size), begin.split(size), strict=True)
    h, gap, costs, traces = zip(
        *(descent(x - theta.b.detach(), first) for x, first in pieces), strict=True
    )
    longest, gaps = max(map(len, traces)), torch.cat(gap)
    # A piece that is done stays where it is.
    whole = [
        [*trace, *[float(cost.sum())] * (longest - len(trace))]
        for trace, cost in zip(traces, costs, strict=True)
    ]
    trace = [sum(together) * beta for together in zip(*whole, strict=True)]
    return Codes(torch.cat(h), gaps * beta, trace, not bool((gaps > tol * torch.cat(costs)).any()))


@dataclass(frozen=True)
class _Descent:
    """The iterations for a piece of the rows."""

    W: Tensor
    gram: Tensor
    alpha: float
    step: float
    tol: float
    max_iterations: int
    accelerate: bool

    def __call__(self, x: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor, list[float]]:
        """Give codes, gaps, costs and the costs' sum after every iteration, in units of 1 / β."""
        gram, alpha, step = self.gram, self.alpha, self.step
        pull, power = x @ self.W, x.square().sum(1)
        found = start.clone()
        gaps, costs = torch.full_like(power, torch.inf), power.clone()
        rows = torch.arange(len(x), device=x.device)
        h = old = found.clone()
        h_gram = old_gram = h @ gram
        age = torch.ones_like(power)[:, None]
        trace: list[float] = []
        for iteration in range(self.max_iterations + 1):
            pull_h = (h * pull).sum(1)
            error = power - 2 * pull_h + (h * h_gram).sum(1)  # ‖x − W h‖²
            cost = error / 2 + alpha * h.abs().sum(1)
            costs[rows] = cost
            if iteration:
                trace.append(float(costs.sum()))
            if iteration % _CHECK_EVERY == 0 or iteration == self.max_iterations:
                shrink = alpha / (pull - h_gram).abs().amax(1).clamp_min(alpha)
                gap = cost - shrink * (power - pull_h) + shrink.square() * error / 2
                found[rows], gaps[rows] = h, gap
                left = gap > self.tol * cost
                if not left.any() or iteration == self.max_iterations:
                    break
                if not left.all():
                    rows, pull, power, age = rows[left], pull[left], power[left], age[left]
                    h, old, h_gram, old_gram = h[left], old[left], h_gram[left], old_gram[left]
            older, age = age, (1 + (1 + 4 * age.square()).sqrt()) / 2
            momentum = (older - 1) / age if self.accelerate else torch.zeros_like(age)
            ahead = h + momentum * (h - old)
            ahead_gram = h_gram + momentum * (h_gram - old_gram)
            new = soft_threshold(ahead - step * (ahead_gram - pull), step * alpha)
            uphill = ((ahead - new) * (new - h)).sum(1, keepdim=True) > 0
            age = torch.where(uphill, torch.ones_like(age), age)
            h, old, h_gram, old_gram = new, h, new @ gram, h_gram
        return found, gaps, costs, trace
