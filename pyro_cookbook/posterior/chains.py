"""Short Markov chains from a guide's draws: where would the posterior pull them?

A kernel that leaves the posterior invariant can only bring the guide's draws nearer to it. If the
guide is right the draws' means and sds stay; where they move, the guide is wrong by at least as
much. Unlike importance weights this works in hundreds of dimensions, and it says nothing where the
chains do not forget their starts, nor of a mode that they cannot reach.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyro_cookbook.programs.unconstrained import UnconstrainedDensity

Array = npt.NDArray[np.float64]

_WARMUP, _DRAWS = 12, 40
# Length of a trajectory in posterior sds, jittered by half: a quarter of a circle is independence.
_LENGTH, _MAX_LEAPFROGS = 1.6, 16
_TARGET = 0.8
# Scalars of the model that all gradients together may fill, and how many chains that is at most.
_BUDGET, _MIN_CHAINS, _MAX_CHAINS = 2e8, 32, 1024
# Whole covariances up to here; above, chains are scaled coordinate by coordinate.
_MAX_DENSE = 300


@dataclass(frozen=True)
class Chains:
    """What short chains from a guide's draws ended with.

    Attributes
    ----------
    draws : array, shape (num_draws, chains, D)
        Unconstrained positions after warm-up.
    memory : array, shape (D,)
        Correlation over chains of the start and the end: 0 where the start is forgotten.
    acceptance : float
        Mean probability of acceptance after warm-up.
    diverged : float
        Share of trajectories whose energy error was above 1000 nats or not finite.
    """

    draws: Array
    memory: Array
    acceptance: float
    diverged: float

    @property
    def conclusive(self) -> bool:
        """Whether the chains moved well enough for their draws to say something."""
        return bool(
            self.acceptance > 0.5 and self.diverged < 0.02 and np.abs(self.memory).max() < 0.6
        )


def num_chains(density: UnconstrainedDensity) -> int:
    """How many chains a model can afford; 0 if not enough to be of use."""
    if density.obstacle:  # each chain costs a run of the model
        return _MIN_CHAINS
    gradients = (_WARMUP + _DRAWS) * 5
    affordable = int(_BUDGET / gradients / max(1, density.scalars))
    return min(_MAX_CHAINS, affordable) if affordable >= _MIN_CHAINS else 0


def run_chains(density: UnconstrainedDensity, starts: Array, seed: int) -> Chains:
    """Hamiltonian Monte Carlo from every start, all chains at once.

    Parameters
    ----------
    density : UnconstrainedDensity
    starts : array, shape (S, D)
        Unconstrained draws of the guide: they start the chains and scale them.
    seed : int

    Returns
    -------
    Chains

    References
    ----------
    Neal (2011), *MCMC using Hamiltonian dynamics*, algorithm of figure 2.
    """
    rng = np.random.default_rng(seed)
    root = _scaling(starts)
    x = starts[: num_chains(density)].copy()
    first = x.copy()
    step = 1.0 / x.shape[1] ** 0.25
    value, gradient = _evaluate(density, x)
    kept, accepted, diverged = [], [], []
    for t in range(_WARMUP + _DRAWS):
        momentum = rng.standard_normal(x.shape)
        length = _LENGTH * rng.uniform(0.5, 1.5)
        leapfrogs = int(np.clip(np.ceil(length / step), 1, _MAX_LEAPFROGS))
        energy = value - (momentum**2).sum(1) / 2
        y, p, slope, height = x, momentum, gradient, value
        for _ in range(leapfrogs):
            p = p + step / 2 * _pull(root, slope)
            y = y + step * _push(root, p)
            height, slope = _evaluate(density, y)
            p = p + step / 2 * _pull(root, slope)
        with np.errstate(all="ignore"):
            change = height - (p**2).sum(1) / 2 - energy
        change = np.where(np.isfinite(change), change, -np.inf)
        probability = np.exp(np.minimum(change, 0.0))
        accept = rng.random(len(x)) < probability
        x = np.where(accept[:, None], y, x)
        value = np.where(accept, height, value)
        gradient = np.where(accept[:, None], slope, gradient)
        if t < _WARMUP:
            step *= float(np.exp(2 * (probability.mean() - _TARGET) / (1 + t / 4)))
            step = min(step, 1.0)
        else:
            kept.append(x)
            accepted.append(probability.mean())
            diverged.append((change < -1000).mean())
    return Chains(
        np.stack(kept), _correlation(first, x), float(np.mean(accepted)), float(np.mean(diverged))
    )


def moments(values: Mapping[str, Tensor], chains: int) -> dict[str, tuple[Array, ...]]:
    """Means and sds of the later half of chain draws, and how far they still move, site by site.

    Parameters
    ----------
    values : mapping of str to Tensor
        Site → values of all chain draws, shape (num_draws · chains, ...), draw by draw.
    chains : int

    Returns
    -------
    dict of str to arrays, each of shape (scalars,)
        Mean, sd, their standard errors, the changes of mean and sd between the two halves, and
        the persistence: the share of the variance that lies between chains. 0 for chains that
        roam, 1 for chains that stay where they are.
    """
    found: dict[str, tuple[Array, ...]] = {}
    for name, value in values.items():
        x = value.detach().cpu().double().numpy().reshape(-1, chains, value[0].numel())
        early, x = x[: len(x) // 2], x[len(x) // 2 :]
        mean = x.mean((0, 1))
        square = (x - mean) ** 2
        sd = np.sqrt(square.mean((0, 1)))
        drift = np.abs(early.mean((0, 1)) - mean), np.abs(early.std((0, 1)) - sd)
        tiny = np.finfo(float).tiny
        se_mean = x.mean(0).std(0, ddof=1) / np.sqrt(chains)
        se_sd = square.mean(0).std(0, ddof=1) / np.sqrt(chains) / np.maximum(2 * sd, tiny)
        found[name] = (mean, sd, se_mean, se_sd, *drift, x.mean(0).var(0) / np.maximum(sd**2, tiny))
    return found


def _evaluate(density: UnconstrainedDensity, x: Array) -> tuple[Array, Array]:
    value, gradient = density.value_and_grad(x)
    bad = ~(np.isfinite(value) & np.isfinite(gradient).all(1))
    return np.where(bad, -np.inf, value), np.where(bad[:, None], 0.0, gradient)


def _scaling(draws: Array) -> Array:
    """Root of the draws' covariance, shape (D, D); their sds alone in high dimensions."""
    sd = np.maximum(draws.std(0), 1e-300)
    if draws.shape[1] > min(_MAX_DENSE, len(draws) // 4):
        return sd
    correlation = np.corrcoef((draws / sd).T).reshape(len(sd), len(sd))
    shrunk = 0.99 * correlation + 0.01 * np.eye(len(sd))
    return sd[:, None] * np.linalg.cholesky(shrunk)


def _push(root: Array, p: Array) -> Array:
    return p * root if root.ndim == 1 else p @ root.T


def _pull(root: Array, g: Array) -> Array:
    return g * root if root.ndim == 1 else g @ root


def _correlation(a: Array, b: Array) -> Array:
    a, b = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return (a * b).sum(0) / np.maximum(scale, np.finfo(float).tiny)
