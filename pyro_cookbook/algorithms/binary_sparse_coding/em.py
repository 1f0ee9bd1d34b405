"""Learning in binary sparse coding: EM with the exact posterior, and with mean field."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_cookbook.algorithms.binary_sparse_coding.mean_field import (
    HasTheta,
    SparseCodingParameters,
    all_states,
    chunks,
    coordinate_ascent,
    log_joint,
    prior_logits,
)
from pyro_cookbook.programs.state.isolation import calm_threads

# Prior probabilities stay this far from 0 and 1, so that b is finite.
MIN_PROB = 1e-6


@dataclass(frozen=True)
class SufficientStatistics:
    """Sums over rows that an M step needs.

    Attributes
    ----------
    num_rows : int
        n.
    first : Tensor
        Σ_n E[h_n], shape (K,).
    second : Tensor
        Σ_n E[h_n h_nᵀ], shape (K, K).
    cross : Tensor
        Σ_n v_n E[h_n]ᵀ, shape (D, K).
    energy : Tensor
        Σ_n ‖v_n‖², shape ().
    """

    num_rows: int
    first: Tensor
    second: Tensor
    cross: Tensor
    energy: Tensor


def mean_field_statistics(v: Tensor, logits: Tensor) -> SufficientStatistics:
    """Sum over rows of independent units: E[h hᵀ] = ĥ ĥᵀ off the diagonal, ĥ on it."""
    h = torch.sigmoid(logits)
    first = h.sum(0)
    second = h.mT @ h
    second = second - second.diagonal().diag() + first.diag()
    return SufficientStatistics(len(v), first, second, v.mT @ h, v.square().sum())


def exact_statistics(theta: HasTheta, v: Tensor) -> tuple[SufficientStatistics, Tensor]:
    """Sum over the exact posterior of all rows, by enumeration; and Σ_n log p(v_n; θ), shape ()."""
    states = all_states(len(theta.b)).to(v)
    weight, cross = v.new_zeros(len(states)), v.new_zeros(v.shape[1], states.shape[1])
    evidence = v.new_zeros(())
    for part in chunks(theta, v):
        joint = log_joint(theta, part)
        norm = torch.logsumexp(joint, 1)
        probs = torch.exp(joint - norm[:, None])
        evidence = evidence + norm.sum()
        weight = weight + probs.sum(0)
        cross = cross + part.mT @ (probs @ states)
    first, second = weight @ states, (states * weight[:, None]).mT @ states
    return SufficientStatistics(len(v), first, second, cross, v.square().sum()), evidence


def m_step(sums: SufficientStatistics) -> SparseCodingParameters:
    """Maximise the expected complete-data likelihood over W, b and scale together.

    W = (Σ v E[h]ᵀ)(Σ E[h hᵀ])⁻¹, σ(b) = mean of E[h], and scale² is the mean squared residual of a
    feature under q.

    Raises
    ------
    ValueError
        If the noise vanishes: K units explain the rows exactly.

    Notes
    -----
    A unit that is on in no row has no say in the first equation: the least-squares solution of
    smallest norm gives it the atom 0. Prior probabilities are kept within 1e-6 of 0 and 1.
    """
    tiny = torch.finfo(sums.second.dtype).eps * sums.num_rows
    ridge = tiny * torch.eye(len(sums.first)).to(sums.second)
    W = torch.linalg.solve(sums.second + ridge, sums.cross.mT).mT
    prob = (sums.first / sums.num_rows).clamp(MIN_PROB, 1 - MIN_PROB)
    residual = sums.energy - 2 * (W * sums.cross).sum() + ((W @ sums.second) * W).sum()
    variance = residual / (sums.num_rows * len(W))
    if not variance > 1e3 * torch.finfo(W.dtype).eps * sums.energy / (sums.num_rows * len(W)):
        raise ValueError(
            f"the noise has vanished: {len(sums.first)} units explain {sums.num_rows} rows exactly;"
            " use fewer units or more rows"
        )
    return SparseCodingParameters(W, torch.logit(prob), variance.sqrt())


@dataclass(frozen=True)
class EMResult:
    """Outcome of EM.

    Attributes
    ----------
    theta : SparseCodingParameters
        Of the best start.
    elbo : list of float
        The bound that was climbed, after each E step, under the θ of that step, in nats: Σ log p(v)
        with exact inference, the mean-field bound otherwise.
    logits : Tensor or None
        Mean field's q under `theta`, shape (n, K); None with exact inference.
    converged : bool
    restarts : list of float
        Final bound of every start, in nats.
    """

    theta: SparseCodingParameters
    elbo: list[float]
    logits: Tensor | None
    converged: bool
    restarts: list[float]


def random_start(v: Tensor, num_units: int, *, seed: int = 0) -> SparseCodingParameters:
    """Atoms of noise in the scale of the data, two units on a row, noise as large as the data."""
    generator = torch.Generator().manual_seed(seed)
    size = v.square().mean().sqrt()
    noise = torch.randn(v.shape[1], num_units, generator=generator, dtype=torch.float64).to(v)
    W = v.mean(0)[:, None] / 2 + 0.1 * size * noise
    prob = v.new_full((num_units,), min(0.5, 2 / num_units))
    return SparseCodingParameters(W, torch.logit(prob), size)


@torch.no_grad()
@calm_threads()
def em(
    v: Tensor,
    num_units: int,
    *,
    inference: str = "mean_field",
    start: SparseCodingParameters | None = None,
    max_iterations: int = 500,
    tol: float = 1e-7,
    sweeps: int = 5,
    num_restarts: int = 1,
    seed: int = 0,
) -> EMResult:
    """Learn θ by EM with exact or mean-field inference, from one or several starts.

    Parameters
    ----------
    v : Tensor
        Rows, shape (n, D).
    num_units : int
        K; at most 20 with exact inference.
    inference : {"mean_field", "exact"}, default "mean_field"
        The E step: sweeps of `coordinate_ascent` from the last q, or enumeration of all 2^K states.
    start : SparseCodingParameters, optional
        Where the first start begins. Default: `random_start` by `seed`.
    max_iterations : int, default 500
    tol : float, default 1e-7
        Stop when an iteration raises the bound by less than `tol` relative.
    sweeps : int, default 5
        Sweeps of a mean-field E step, at most.
    num_restarts : int, default 1
        Start r uses ``seed + r``; the start with the highest bound is kept.
    seed : int, default 0

    Raises
    ------
    ValueError
        If `inference` is neither, or the noise vanishes.

    Notes
    -----
    Neither kind ever lowers its own bound; mean field may well lower the evidence. Both have many
    local optima.

    References
    ----------
    Neal and Hinton (1998), doi:10.1007/978-94-011-5014-9_12.
    """
    if inference not in {"mean_field", "exact"}:
        raise ValueError(f"inference: got {inference!r}, expected 'mean_field' or 'exact'")
    outcomes = []
    for r in range(num_restarts):
        theta = random_start(v, num_units, seed=seed + r) if start is None or r else start
        outcomes.append(_climb(v, theta, inference, max_iterations, tol, sweeps))
    theta, elbo, logits, converged = max(outcomes, key=lambda outcome: outcome[1][-1])
    return EMResult(theta, elbo, logits, converged, [one[1][-1] for one in outcomes])


def _climb(
    v: Tensor,
    theta: SparseCodingParameters,
    inference: str,
    max_iterations: int,
    tol: float,
    sweeps: int,
) -> tuple[SparseCodingParameters, list[float], Tensor | None, bool]:
    """Run EM from one start: θ, the bound after every E step, q, and whether it has converged."""
    elbo: list[float] = []
    logits = None if inference == "exact" else prior_logits(theta, v)
    for iteration in range(max_iterations):
        if logits is None:
            sums, evidence = exact_statistics(theta, v)
            elbo.append(float(evidence))
        else:
            found = coordinate_ascent(theta, v, start=logits, max_sweeps=sweeps, keep_elbo=False)
            logits = found.logits
            sums = mean_field_statistics(v, logits)
            elbo.append(found.elbo[-1])
        if iteration and elbo[-1] - elbo[-2] < tol * abs(elbo[-1]):
            return theta, elbo, logits, True
        if iteration + 1 < max_iterations:
            theta = m_step(sums)
    return theta, elbo, logits, False
