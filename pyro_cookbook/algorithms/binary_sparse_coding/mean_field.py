"""Binary sparse coding: all states by enumeration, mean field by fixed-point equations."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from pyro_cookbook.algorithms.binary_sparse_coding.settling import settle
from pyro_cookbook.programs.state.isolation import calm_threads

# Numbers of a chunk of rows: so many log densities, one for each row and state, are in memory.
CHUNK_NUMBERS = 2**22
MAX_UNITS = 20
# Rows that are swept together, so that they stay in a core's cache.
_PIECE = 1024


class HasTheta(Protocol):
    """Anything with the parameters as attributes: `SparseCodingParameters`, or the model itself."""

    @property
    def W(self) -> Tensor:
        """Atoms as columns, shape (D, K)."""

    @property
    def b(self) -> Tensor:
        """Log odds of the switches, shape (K,)."""

    @property
    def scale(self) -> Tensor:
        """Noise standard deviation, shape ()."""


@dataclass(frozen=True)
class SparseCodingParameters:
    """θ of `models.binary_sparse_coding.BinarySparseCoding`, under the same names.

    Attributes
    ----------
    W : Tensor
        Atoms as columns, shape (D, K).
    b : Tensor
        Log odds of the switches, shape (K,).
    scale : Tensor
        Noise standard deviation β^−½, shape (), positive.
    """

    W: Tensor
    b: Tensor
    scale: Tensor


# --- the posterior is a Boltzmann machine ---------------------------------------------------------


def drive(theta: HasTheta, v: Tensor) -> Tensor:
    """b_i + β vᵀW_:i − ½ β W_:iᵀW_:i: the log odds of each unit if all others are off.

    Parameters
    ----------
    theta : HasTheta
    v : Tensor
        Rows, shape (n, D).

    Returns
    -------
    Tensor
        Shape (n, K).
    """
    beta = theta.scale**-2
    return theta.b + beta * (v @ theta.W - theta.W.square().sum(0) / 2)


def inhibition(theta: HasTheta) -> Tensor:
    """β W_:jᵀW_:i with a zero diagonal: how much unit j, when on, takes from unit i's log odds.

    Returns
    -------
    Tensor
        Shape (K, K), symmetric. Negative entries excite.
    """
    gram = theta.scale**-2 * theta.W.mT @ theta.W
    return gram - gram.diagonal().diag()


def log_base(theta: HasTheta, v: Tensor) -> Tensor:
    """log p(v_n, h = 0), shape (n,), in nats.

    For any h: log p(v, h) = log p(v, 0) + hᵀ drive − ½ hᵀ inhibition h.
    """
    num_features = v.shape[1]
    log_scale = theta.scale.log() + 0.5 * math.log(2 * math.pi)
    quadratic = v.square().sum(1) / (2 * theta.scale**2)
    return logsigmoid(-theta.b).sum() - num_features * log_scale - quadratic


# --- exact answers by enumeration -----------------------------------------------------------------


def all_states(num_units: int) -> Tensor:
    """Every vector of K bits, as rows of 0 and 1: shape (2^K, K), counting up from 0.

    Raises
    ------
    ValueError
        If there are more than 2^20 of them.
    """
    if not 1 <= num_units <= MAX_UNITS:
        raise ValueError(
            f"num_units: got {num_units}, expected 1 to {MAX_UNITS} to enumerate 2^num_units states"
        )
    powers = torch.arange(num_units - 1, -1, -1)
    return (torch.arange(2**num_units)[:, None] >> powers) & 1


def log_joint(theta: HasTheta, v: Tensor) -> Tensor:
    """log p(v_n, h = s) for every state s in the order of `all_states`: shape (n, 2^K), in nats."""
    states = all_states(len(theta.b)).to(v)
    pairs = ((states @ inhibition(theta)) * states).sum(1) / 2
    return log_base(theta, v)[:, None] + drive(theta, v) @ states.mT - pairs


def chunks(theta: HasTheta, v: Tensor) -> Iterator[Tensor]:
    """Split the rows so that a table of all states for each fits in memory."""
    return iter(v.split(max(1, CHUNK_NUMBERS >> len(theta.b))))


def log_evidence(theta: HasTheta, v: Tensor) -> Tensor:
    """log p(v_n; θ) of every row, summed over all 2^K states: shape (n,), in nats.

    Raises
    ------
    ValueError
        If K is above 20.
    """
    return torch.cat([torch.logsumexp(log_joint(theta, part), 1) for part in chunks(theta, v)])


def posterior(theta: HasTheta, v: Tensor) -> Tensor:
    """p(h = s | v_n; θ) for every state in the order of `all_states`: shape (n, 2^K)."""
    return torch.cat([torch.softmax(log_joint(theta, part), 1) for part in chunks(theta, v)])


def posterior_marginals(theta: HasTheta, v: Tensor) -> Tensor:
    """p(h_i = 1 | v_n; θ): shape (n, K)."""
    states = all_states(len(theta.b)).to(v)
    return torch.cat(
        [torch.softmax(log_joint(theta, part), 1) @ states for part in chunks(theta, v)]
    )


# --- mean field -----------------------------------------------------------------------------------


def mean_field_elbo(theta: HasTheta, v: Tensor, logits: Tensor) -> Tensor:
    """Bound of q(h_n) = ∏ Bernoulli(σ(logits_ni)), the expectation taken in closed form.

    L = log p(v, 0) + ĥᵀ drive − ½ ĥᵀ inhibition ĥ + Σ_i H(ĥ_i); the pairs need no more than ĥ
    because the units are independent under q and the diagonal is in the drive.

    Parameters
    ----------
    theta : HasTheta
    v : Tensor
        Rows, shape (n, D).
    logits : Tensor
        Shape (n, K), real.

    Returns
    -------
    Tensor
        Shape (n,), in nats. Costs K² a row, not 2^K.
    """
    h = torch.sigmoid(logits)
    entropy = (softplus(logits) - h * logits).sum(1)
    pairs = ((h @ inhibition(theta)) * h).sum(1) / 2
    return log_base(theta, v) + (h * drive(theta, v)).sum(1) - pairs + entropy


def fixed_point(theta: HasTheta, v: Tensor, logits: Tensor) -> Tensor:
    """Right side of the fixed-point equation, as log odds, for all units at once: shape (n, K).

    References
    ----------
    Goodfellow, Bengio and Courville (2016), *Deep Learning*, equation 19.44.
    """
    return drive(theta, v) - torch.sigmoid(logits) @ inhibition(theta)


@dataclass(frozen=True)
class MeanFieldResult:
    """Outcome of a mean-field iteration.

    Attributes
    ----------
    logits : Tensor
        Log odds of every unit under q, shape (n, K).
    elbo : list of float
        The bound, summed over the rows, in nats: at the start, then after every sweep.
    converged : bool
        Whether the last sweep moved no probability by more than `tol`.
    """

    logits: Tensor
    elbo: list[float]
    converged: bool


def prior_logits(theta: HasTheta, v: Tensor) -> Tensor:
    """Set q to the prior, where the iterations start unless told otherwise: shape (n, K)."""
    return theta.b.expand(len(v), -1)


def single_updates(theta: HasTheta, v: Tensor, logits: Tensor) -> Iterator[Tensor]:
    """One sweep of coordinate ascent: yield q's logits after each unit's update.

    Given the others, the update is the maximum of the bound over that unit's ĥ, in every row.
    """
    drives, coupling = drive(theta, v), inhibition(theta)
    logits = logits.clone()
    h = torch.sigmoid(logits)
    for i in range(len(theta.b)):
        logits[:, i] = drives[:, i] - h @ coupling[:, i]
        h[:, i] = torch.sigmoid(logits[:, i])
        yield logits.clone()


@torch.no_grad()
@calm_threads()
def coordinate_ascent(
    theta: HasTheta,
    v: Tensor,
    *,
    start: Tensor | None = None,
    max_sweeps: int = 200,
    tol: float = 1e-8,
    keep_elbo: bool = True,
) -> MeanFieldResult:
    """Update unit after unit until nothing moves; no update lowers any row's bound.

    Parameters
    ----------
    theta : HasTheta
    v : Tensor
        Rows, shape (n, D).
    start : Tensor, optional
        Logits, shape (n, K). Default: `prior_logits`.
    max_sweeps : int, default 200
        Passes over all units, at most.
    tol : float, default 1e-8
        A row is done when a sweep moves none of its probabilities by more.
    keep_elbo : bool, default True
        Compute the bound after every sweep; without, only at the start and the end, and several
        times faster: where sweeps crawl towards an optimum, rows leap (see `settling`).

    Notes
    -----
    The end is a local optimum and depends on the start and the order of the units.
    """
    coupling = inhibition(theta)
    begin = prior_logits(theta, v[:1]) if start is None else start.detach()
    elbo = [_summed_bound(theta, v, begin)]
    logits = begin.expand(len(v), -1).clone()
    if not keep_elbo:
        converged = settle(lambda rows: drive(theta, v[rows]), coupling, logits, max_sweeps, tol)
        return MeanFieldResult(logits, [*elbo, _summed_bound(theta, v, logits)], converged)
    rows, sweep = torch.arange(len(v), device=v.device), 0
    while len(rows) and sweep < max_sweeps:
        sweep += 1
        left = []
        for some in rows.split(_PIECE):
            logits[some], moved = _sweep(coupling, drive(theta, v[some]), logits[some])
            left.append(some[moved > tol])
        rows = torch.cat(left)
        elbo.append(_summed_bound(theta, v, logits))
    return MeanFieldResult(logits, elbo, not len(rows))


def _summed_bound(theta: HasTheta, v: Tensor, logits: Tensor) -> float:
    """Sum the bound over the rows, a piece of them at a time; one row of logits serves all."""
    parts = logits.split(_PIECE) if len(logits) == len(v) else repeat(logits)
    pieces = zip(v.split(_PIECE), parts, strict=False)
    return float(sum(mean_field_elbo(theta, some, q).sum() for some, q in pieces))


def _sweep(coupling: Tensor, drives: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Sweep once over the units of some rows: their logits, and how far each row moved.

    Unit by row, so that a unit's numbers lie side by side: logits_i = drive_i − coupling_iᵀ ĥ.
    """
    fields = logits.mT.contiguous()
    h = torch.sigmoid(fields)
    before = h.clone()
    for i, unit_drive in enumerate(drives.mT.contiguous()):
        torch.addmv(unit_drive, h.mT, coupling[i], alpha=-1, out=fields[i])
        torch.sigmoid(fields[i], out=h[i])
    return fields.mT, (h - before).abs().amax(0)


@torch.no_grad()
@calm_threads()
def parallel_updates(
    theta: HasTheta,
    v: Tensor,
    *,
    damping: float = 0.5,
    start: Tensor | None = None,
    max_sweeps: int = 200,
    tol: float = 1e-8,
) -> MeanFieldResult:
    """Update all units at once from the old values, and go only part of the way.

    ĥ ← damping · ĥ + (1 − damping) · σ(fixed point of the old ĥ).

    Parameters
    ----------
    damping : float, default 0.5
        Share of the old ĥ that is kept, in [0, 1). At 0 overlapping units answer each other's
        past and can swing for ever; enough damping makes the bound rise (the direction ascends).
    theta, v, start, max_sweeps, tol
        As for `coordinate_ascent`.

    Raises
    ------
    ValueError
        If `damping` is outside [0, 1).
    """
    if not 0 <= damping < 1:
        raise ValueError(f"damping: got {damping}, expected 0 or more, and below 1")
    drives, coupling = drive(theta, v), inhibition(theta)
    h = torch.sigmoid(prior_logits(theta, v) if start is None else start.detach())
    eps = torch.finfo(h.dtype).eps

    def as_logits(h: Tensor) -> Tensor:
        return torch.logit(h, eps)

    elbo = [float(mean_field_elbo(theta, v, as_logits(h)).sum())]
    converged = False
    for _ in range(max_sweeps):
        moved = damping * h + (1 - damping) * torch.sigmoid(drives - h @ coupling)
        converged = bool((moved - h).abs().max() <= tol * (1 - damping))
        h = moved
        elbo.append(float(mean_field_elbo(theta, v, as_logits(h)).sum()))
        if converged:
            break
    return MeanFieldResult(as_logits(h), elbo, converged)
