"""The verdict of short chains: how far the posterior pulls the means and sds of a guide's draws."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.chains import Chains, moments, num_chains, run_chains
from pyro_cookbook.posterior.importance import Weights
from pyro_cookbook.programs.predictive import derived_values
from pyro_cookbook.programs.unconstrained import UnconstrainedDensity, unconstrained_density
from pyro_cookbook.verdict.moments import columns

Array = npt.NDArray[np.float64]

# Chains of which more of the variance lies between than this have not mixed, in some tail.
_MAX_PERSISTENCE = 0.35


@dataclass(frozen=True)
class Pull:
    """What short chains make of a guide's draws.

    Attributes
    ----------
    table : pandas.DataFrame
        A row for each scalar: mean and sd of the guide's draws; of the reweighted draws, where the
        weights allow it; of the chains; and errors against the chains, with a margin: their
        standard error, or how far the chains still move.
    conclusive : bool
        Whether the chains moved well enough to say something.
    chains : Chains or None
    density : UnconstrainedDensity
    loc, scale : array, shape (D,)
        Means and sds of the guide's draws on the unconstrained scale.
    """

    table: pd.DataFrame
    conclusive: bool
    chains: Chains | None
    density: UnconstrainedDensity
    loc: Array
    scale: Array

    def worst(self, which: str) -> tuple[float, float, str]:
        """Largest shift (in sds) and stretch (relative), margin on top, and the label.

        Parameters
        ----------
        which : {"", "reweighted_"}
        """
        shift = self.table[f"{which}shift"] + self.table["shift_margin"]
        stretch = self.table[f"{which}stretch"] + self.table["stretch_margin"]
        both = pd.concat([shift, stretch], axis=1).fillna(np.inf).max(axis=1)
        return float(shift.max()), float(stretch.max()), str(both.idxmax())

    def between(self) -> float:
        """Largest difference of plain and reweighted means (in sds) and sds; 0 without weights."""
        if "reweighted_sd" not in self.table:
            return 0.0
        sd = self.table["reweighted_sd"].clip(lower=np.finfo(float).tiny)
        shift = (self.table["mean"] - self.table["reweighted_mean"]).abs() / sd
        stretch = (self.table["sd"] / sd - 1).abs()
        varies = self.table["sd"] > 0
        return float(np.fmax(shift, stretch)[varies].max())

    def unconstrained(self) -> Array | None:
        """Positions of all chains, shape (S, D)."""
        if self.chains is None:
            return None
        flat: Array = self.chains.draws.reshape(-1, self.density.dim)
        return flat


def pull(fit: Fit, weights: Weights, smoothed: Array | None, seed: int) -> Pull | None:
    """Start chains at a guide's draws; None where the model has no flat density.

    Parameters
    ----------
    fit : Fit
    weights : Weights
        With the guide's draws.
    smoothed : array, shape (S,), or None
        Their smoothed weights, where usable.
    seed : int
    """
    try:
        density = unconstrained_density(fit.programs.model)
    except (ValueError, RuntimeError, TypeError):
        return None
    drawn = weights.draws.values
    latents = {name: drawn[name].to(density.dtype) for name in density.shapes}
    own = _with_derived(density, latents)
    table = _summaries(own, smoothed)
    starts = density.unconstrain(latents)
    usable = np.isfinite(starts).all(1)
    with np.errstate(all="ignore"):
        loc, scale = starts[usable].mean(0), np.maximum(starts[usable].std(0), 1e-300)
    if not num_chains(density) or usable.mean() < 0.99:
        return Pull(table, False, None, density, loc, scale)
    chains = run_chains(density, starts[usable], seed)
    positions = chains.draws.reshape(-1, density.dim)
    ends = _with_derived(density, density.constrain(positions))
    parts = []
    stuck = False
    for name, found in moments(ends, chains.draws.shape[1]).items():
        mean, sd, se_mean, se_sd, mean_drift, sd_drift, persistence = found
        stuck |= bool((persistence > _MAX_PERSISTENCE).any())
        labels = _labels(name, own[name])
        unit = np.maximum(sd, np.finfo(float).tiny)
        parts.append(
            pd.DataFrame(
                {
                    "chain_mean": mean,
                    "chain_sd": sd,
                    # Still moving, by more than noise: as far again is to come.
                    "shift_margin": np.maximum(se_mean, mean_drift - 3 * se_mean) / unit,
                    "stretch_margin": np.maximum(se_sd, sd_drift - 3 * se_sd) / unit,
                },
                index=labels,
            )
        )
    table = table.join(pd.concat(parts))
    # A chain that remembers its start by r has moved by the share 1 − r of the error.
    moved = 1 - float(np.clip(np.abs(chains.memory).max() - 0.2, 0.0, 0.6))
    least = table["chain_sd"].clip(lower=np.finfo(float).tiny)
    for which in ("", "reweighted_"):
        if f"{which}mean" in table:
            shifted = (table[f"{which}mean"] - table["chain_mean"]).abs() / least
            table[f"{which}shift"] = shifted / moved
            table[f"{which}stretch"] = (table[f"{which}sd"] / least - 1).abs() / moved
    return Pull(table, chains.conclusive and not stuck, chains, density, loc, scale)


def _with_derived(density: UnconstrainedDensity, latents: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the values of deterministic sites."""
    derived = derived_values(density.program, latents)
    return latents | derived


def _summaries(values: dict[str, Tensor], smoothed: Array | None) -> pd.DataFrame:
    """Means and sds of draws, plain and reweighted."""
    parts = []
    for name, value in values.items():
        x = columns(value)
        with np.errstate(all="ignore"):  # draws that overflow give an infinite sd, which says so
            part = {"mean": x.mean(0), "sd": x.std(0)}
            if smoothed is not None:
                mean = smoothed @ x
                part |= {
                    "reweighted_mean": mean,
                    "reweighted_sd": np.sqrt(smoothed @ (x - mean) ** 2),
                }
        parts.append(pd.DataFrame(part, index=_labels(name, value)))
    return pd.concat(parts)


def _labels(name: str, value: Tensor) -> list[str]:
    indices = [",".join(map(str, index)) for index in np.ndindex(*value.shape[1:])]
    return [f"{name}[{index}]" if index else name for index in indices]
