"""Short Markov chains from a guide's draws: where would the posterior pull them?

A kernel that leaves the posterior invariant never takes the law of the guide's draws further from
it, in total variation or KL. If the guide is right the draws' means and sds stay; where they move
by more than chance, it is wrong. How far one of them moves estimates its error and does not bound
it: a single mean or sd can overshoot, or not have arrived. Unlike importance weights this works in
hundreds of dimensions, and it says nothing where the chains do not forget their starts, nor of a
mode that they cannot reach.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyro_cookbook.posterior.chains.hamiltonian import follow, state
from pyro_cookbook.programs.coordinates import from_draws
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity

Array = npt.NDArray[np.float64]

# Trajectories of a chain: those that find the step size, and those that are kept.
_WARMUP, _DRAWS = 12, 40
NUM_STEPS = _WARMUP + _DRAWS
# Length of a trajectory in posterior sds, jittered by half: a quarter of a circle is independence.
_LENGTH, _MAX_LEAPFROGS = 1.6, 16
# Mean probability of acceptance that the step size is tuned to: near the best for HMC.
_TARGET = 0.8
# Chains that accept less often than this, or remember their start better (a correlation), have
# not moved enough to say something; nor have those of which more than this share diverges.
_MIN_ACCEPTANCE, _MAX_MEMORY, _MAX_DIVERGED = 0.5, 0.6, 0.02
# Scalars of the model that all gradients together may fill, and how many chains that is at most.
_BUDGET, _MIN_CHAINS, _MAX_CHAINS = 2e8, 32, 1024
# The same of a model that would else be weighed with its rows summed out, which costs more: enough
# chains that the largest of ten thousand correlations of 0 is below _MAX_MEMORY.
_LARGE_BUDGET, _ENOUGH_CHAINS = 2e9, 64
# Gradients that a trajectory costs on average.
_GRADIENTS = 5
# Whole covariances up to here; above, chains are scaled coordinate by coordinate.
MAX_DENSE = 300
# Share of the correlations given up for a covariance that can be factorised.
SHRINKAGE = 0.01
# Numbers that differ by less than this share of their size are equal, but for rounding: the sd of
# a value that is always the same.
ROUNDING = 1e-11


@dataclass(frozen=True)
class Chains:
    """What short chains from a guide's draws ended with.

    Attributes
    ----------
    draws : array, shape (num_draws, chains, D)
        Unconstrained positions after warm-up.
    values : array, shape (num_draws, chains)
        Log densities there.
    memory : array, shape (D,)
        Correlation over chains of the start and the end: 0 where the start is forgotten.
    acceptance : float
        Mean probability of acceptance after warm-up.
    diverged : float
        Share of trajectories whose energy error was above 1000 nats or not finite.
    """

    draws: Array
    values: Array
    memory: Array
    acceptance: float
    diverged: float

    @property
    def positions(self) -> Array:
        """All draws of all chains, draw by draw: shape (num_draws · chains, D)."""
        flattened: Array = self.draws.reshape(-1, self.draws.shape[2])
        return flattened

    @property
    def conclusive(self) -> bool:
        """Whether the chains moved well enough for their draws to say something."""
        return bool(
            self.acceptance > _MIN_ACCEPTANCE
            and self.diverged < _MAX_DIVERGED
            and np.abs(self.memory).max() < _MAX_MEMORY
        )


def num_chains(density: UnconstrainedDensity, *, large: bool = False) -> int:
    """How many chains a model can afford; 0 if not enough to be of use.

    Parameters
    ----------
    density : UnconstrainedDensity
    large : bool, default False
        Whether what there is beside chains costs more than they do.
    """
    if density.obstacle:  # each chain costs a run of the model
        return _MIN_CHAINS
    each = NUM_STEPS * _GRADIENTS * max(1, density.scalars)
    affordable = min(_MAX_CHAINS, int(_BUDGET / each))
    if large:
        affordable = max(affordable, min(_ENOUGH_CHAINS, int(_LARGE_BUDGET / each)))
    return affordable if affordable >= _MIN_CHAINS else 0


def run_chains(
    density: UnconstrainedDensity,
    starts: Array,
    seed: int,
    tick: Callable[[], object] = lambda: None,
    number: int | None = None,
) -> Chains:
    """Hamiltonian Monte Carlo from every start, all chains at once.

    Parameters
    ----------
    density : UnconstrainedDensity
    starts : array, shape (S, D)
        Unconstrained draws of the guide: they start the chains and scale them.
    seed : int
    tick : callable, optional
        Called after each of the `NUM_STEPS` trajectories, as a progress bar needs it.
    number : int, optional
        Of chains. Default: `num_chains`.

    Returns
    -------
    Chains
    """
    rng = np.random.default_rng(seed)
    scaled = from_draws(starts, max_dense=MAX_DENSE, shrinkage=SHRINKAGE)
    first = starts[: num_chains(density) if number is None else number]
    at = state(density.value_and_grad, first)
    step = 1.0 / first.shape[1] ** 0.25
    kept, values, accepted, diverged = [], [], [], []
    for t in range(NUM_STEPS):
        momentum = rng.standard_normal(first.shape)
        length = _LENGTH * rng.uniform(0.5, 1.5)
        leapfrogs = int(np.clip(np.ceil(length / step), 1, _MAX_LEAPFROGS))
        path = follow(density.value_and_grad, scaled, at, momentum, step, leapfrogs)
        at = path.accept(rng)
        if t < _WARMUP:
            step *= float(np.exp(2 * (path.probability.mean() - _TARGET) / (1 + t / 4)))
            step = min(step, 1.0)
        else:
            kept.append(at.x)
            values.append(at.value)
            accepted.append(path.probability.mean())
            diverged.append(path.diverged.mean())
        tick()
    return Chains(
        np.stack(kept), np.stack(values), _correlation(first, at.x), float(np.mean(accepted)),
        float(np.mean(diverged)),
    )  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """What the later half of the chains' draws says of a site, scalar by scalar.

    Attributes
    ----------
    mean, sd : array, shape (scalars,)
    mean_se, sd_se : array
        Their standard errors, from the differences between chains.
    mean_drift, sd_drift : array
        How far mean and sd have moved from the earlier half to the later.
    persistence : array
        Share of the variance that lies between chains: 0 for chains that roam, 1 for chains that
        stay where they are, 0 for a value that never varies.
    """

    mean: Array
    sd: Array
    mean_se: Array
    sd_se: Array
    mean_drift: Array
    sd_drift: Array
    persistence: Array


def summarise(values: Mapping[str, Tensor], chains: int) -> dict[str, Summary]:
    """Summarise chain draws site by site.

    Parameters
    ----------
    values : mapping of str to Tensor
        Site → values of all chain draws, shape (num_draws · chains, ...), draw by draw.
    chains : int
    """
    return {
        name: summarise_array(
            value.detach().cpu().double().numpy().reshape(-1, chains, value[0].numel())
        )
        for name, value in values.items()
    }


def summarise_array(x: Array) -> Summary:
    """Summarise draws of shape (num_draws, chains, scalars)."""
    chains, tiny = x.shape[1], np.finfo(float).tiny
    early, x = x[: len(x) // 2], x[len(x) // 2 :]
    with np.errstate(all="ignore"):  # values that overflow give an infinite sd, which says so
        mean = x.mean((0, 1))
        square = (x - mean) ** 2
        sd = np.sqrt(square.mean((0, 1)))
        between = x.mean(0)
        return Summary(
            mean=mean,
            sd=sd,
            mean_se=between.std(0, ddof=1) / np.sqrt(chains),
            sd_se=square.mean(0).std(0, ddof=1) / np.sqrt(chains) / np.maximum(2 * sd, tiny),
            mean_drift=np.abs(early.mean((0, 1)) - mean),
            sd_drift=np.abs(early.std((0, 1)) - sd),
            persistence=np.where(varies(mean, sd), between.var(0) / np.maximum(sd**2, tiny), 0.0),
        )


def varies(mean: Array, sd: Array) -> npt.NDArray[np.bool_]:
    """Whether values vary by more than rounding does, given their means and sds."""
    return ~(sd <= ROUNDING * np.abs(mean))


def _correlation(a: Array, b: Array) -> Array:
    a, b = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return (a * b).sum(0) / np.maximum(scale, np.finfo(float).tiny)
