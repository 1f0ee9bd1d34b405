"""Do chains agree, and are they where the posterior is? What has to hold before they are used."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.chains.short import varies
from pyro_cookbook.posterior.refining.ensemble import Run

Array = npt.NDArray[np.float64]

# Chains agree up to here (Margossian et al. 2024).
MAX_RHAT = 1.01
# Effective draws of every mean and square: a mean is known to 0.05 sd, an sd to 4%.
MIN_ESS = 400.0
# Equipartition: a coordinate's mean of −(z − E z) ∂ log p/∂z is 1. It may be off by so much,
# three standard errors on top.
MAX_UNEQUAL = 0.1
# Above this tail index of its squares the sd of a scalar cannot be measured by draws, however many.
MAX_TAIL = 0.7
# Name of the log density beside the latents.
HEIGHT = "log density"
# Trajectories that may diverge.
MAX_DIVERGED = 0.01


class Agreement(NamedTuple):
    """How well chains agree.

    Attributes
    ----------
    table : pandas.DataFrame
        A row for each scalar: mean, sd, nested R-hat, ESS of the mean and of the square, and the
        tail index of the square.
    unequal : float
        Largest departure from equipartition, three standard errors taken off.
    acceptance, diverged : float
        Mean probability of acceptance, and the share of trajectories that diverged.
    """

    table: pd.DataFrame
    unequal: float
    acceptance: float
    diverged: float

    @property
    def rhat(self) -> float:
        """The largest nested R-hat."""
        return float(self.table["rhat"].max())

    @property
    def ess(self) -> float:
        """The smallest effective sample size."""
        return float(self.table[["ess_mean", "ess_square"]].to_numpy().min())

    @property
    def holds(self) -> bool:
        """Whether the draws may be used."""
        return bool(
            self.rhat < MAX_RHAT
            and self.ess >= MIN_ESS
            and self.unequal <= MAX_UNEQUAL
            and self.table["tail"].max() <= MAX_TAIL
            and self.diverged <= MAX_DIVERGED
        )

    def reasons(self, fit: Fit) -> tuple[str, ...]:
        """Say what was measured, and what fails."""
        worst = str(self.table["rhat"].idxmax())
        least = str(self.table[["ess_mean", "ess_square"]].min(axis=1).idxmin())
        told = [
            f"nested R-hat is at most {self.rhat:.3f} (at {worst!r}; below {MAX_RHAT} wanted)",
            f"there are at least {self.ess:.0f} effective draws (at {least!r};"
            f" {MIN_ESS:.0f} wanted)",
        ]
        if self.table["tail"].max() > MAX_TAIL:
            heavy = self.table["tail"].idxmax()
            told.append(
                f"the sd of {heavy!r} cannot be measured by draws, its tail is too heavy (index"
                f" {self.table['tail'].max():.2f} of its squares, up to {MAX_TAIL} can); its"
                " quantiles can"
            )
        if self.unequal > MAX_UNEQUAL:
            told.append(f"equipartition is off by {self.unequal:.0%}: the chains miss some part")
        if self.diverged > MAX_DIVERGED:
            told.append(f"{self.diverged:.0%} of the trajectories diverge")
        if self.rhat >= MAX_RHAT and len(fit.modes) > 1:
            told.append(
                f"the posterior has {len(fit.modes)} modes, apart at {fit.modes[1].site!r}: chains"
                " that stay in one do not say how much of the mass it has"
            )
        return tuple(told)


def agree(values: dict[str, Array], run: Run, superchains: npt.NDArray[np.int64]) -> Agreement:
    """Measure how well chains agree, in their log density too.

    In many dimensions a heavy tail is far out in all of them a little: chains that have not been
    there look alike in every latent, and not in the log density.

    Parameters
    ----------
    values : dict of str to array, shape (chains, draws, scalars)
    run : Run
    superchains : array of int, shape (chains,)
        Chains of one number had the same start.
    """
    # Nobody asks for its mean and sd: it only has to agree.
    unasked = {"ess_mean": np.inf, "ess_square": np.inf, "tail": 0.0}
    height = _measure(run.values[..., None], superchains) | unasked
    tables = [pd.DataFrame(height, index=[HEIGHT])]
    for name, value in values.items():
        labels = [f"{name}[{i}]" for i in range(value.shape[2])] if value.shape[2] > 1 else [name]
        tables.append(pd.DataFrame(_measure(value, superchains), index=labels))
    return Agreement(pd.concat(tables), unequal(run), run.acceptance, float(run.diverging.mean()))


def _measure(value: Array, superchains: npt.NDArray[np.int64]) -> dict[str, Array]:
    """Measure values of shape (chains, draws, scalars), scalar by scalar."""
    from arviz_stats.base.array import array_stats  # late: a second, and new rows need none

    mean, sd = value.mean((0, 1)), value.std((0, 1))
    rhat, tail = np.ones(len(mean)), np.zeros(len(mean))
    ess_mean, ess_square = np.full((2, len(mean)), np.inf)
    for i in np.flatnonzero(varies(mean, sd)):
        one = value[:, :, i]
        rhat[i] = array_stats.rhat_nested(
            one, superchain_ids=superchains, method="rank", chain_axis=0, draw_axis=1
        )
        ess_mean[i] = array_stats.ess(one, chain_axis=0, draw_axis=1, method="mean")
        square = ((one - mean[i]) / sd[i]) ** 2
        ess_square[i] = array_stats.ess(square, chain_axis=0, draw_axis=1, method="mean")
        tail[i] = array_stats.pareto_khat(square, chain_axis=0, draw_axis=1, tail="right")
    return {
        "mean": mean, "sd": sd, "tail": np.nan_to_num(tail),
        "rhat": np.nan_to_num(rhat, nan=np.inf),
        "ess_mean": np.nan_to_num(ess_mean, nan=0.0, posinf=np.inf),
        "ess_square": np.nan_to_num(ess_square, nan=0.0, posinf=np.inf),
    }  # fmt: skip


def unequal(run: Run) -> float:
    """Largest departure from equipartition over coordinates, three standard errors taken off.

    E[−(z − c) ∂ log p/∂z] = 1 for any c, by parts.
    """
    centred = run.draws - run.draws.mean((0, 1))
    by_chain = -(centred * run.gradients).mean(1)
    error = by_chain.std(0, ddof=1) / np.sqrt(len(by_chain))
    return float(np.max(np.abs(by_chain.mean(0) - 1) - 3 * error, initial=0.0))
