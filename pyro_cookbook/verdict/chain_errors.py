"""Errors of a guide's means and sds against short chains: tables, and what is worst in them."""

from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from pyro_cookbook.posterior.chains.short import ROUNDING, Summary, summarise_array, varies
from pyro_cookbook.posterior.pareto import pieces
from pyro_cookbook.verdict.measures import columns

Array = npt.NDArray[np.float64]

# Chains still move where their halves differ by more than this many standard errors.
DRIFT_ERRORS = 3.0
# More scalars than this have too many directions for the chains that there are.
MAX_SCALARS = 300
# Directions of so small a share of variance are none: the sum of a vector on the simplex.
_NULL = 1e-6


class Displacement(NamedTuple):
    """How far chains move the numbers: the largest over all scalars, margins on top.

    Attributes
    ----------
    shift : float
        Of a mean, in sds.
    stretch : float
        Of an sd, relative.
    label : str
        The scalar with the larger of the two.
    of_sum : bool
        Whether it is of a sum of latents, in which that one has the largest part.
    """

    shift: float
    stretch: float
    label: str
    of_sum: bool = False

    @property
    def where(self) -> str:
        """The scalar, or the sum, in words."""
        return f"a sum with much of {self.label!r}" if self.of_sum else f"{self.label!r}"

    @property
    def worst(self) -> float:
        """The larger of shift and stretch."""
        return max(self.shift, self.stretch)

    @property
    def site(self) -> str:
        """The site of that scalar."""
        return self.label.partition("[")[0]


def labels_of(name: str, value: Tensor) -> list[str]:
    """Name the scalars of a site with draws of shape (S, ...)."""
    indices = [",".join(map(str, index)) for index in product(*map(range, value.shape[1:]))]
    return [f"{name}[{index}]" if index else name for index in indices]


def draws_table(values: Mapping[str, Tensor], smoothed: Array | None) -> pd.DataFrame:
    """Means and sds of draws, plain and reweighted, a row for each scalar."""
    parts = []
    for name, value in values.items():
        flat = value.reshape(len(value), -1)
        found = [_moments(columns(flat[:, at]), smoothed) for at in pieces(*flat.shape[::-1])]
        names = ["mean", "sd", "reweighted_mean", "reweighted_sd"][: 2 if smoothed is None else 4]
        whole = np.concatenate([np.empty((len(names), 0)), *found], axis=1)
        part = dict(zip(names, whole, strict=True))
        parts.append(pd.DataFrame(part, index=labels_of(name, value)))
    return pd.concat(parts)


def _moments(x: Array, smoothed: Array | None) -> Array:
    """Mean and sd of each column, and under the weights too if there are any: shape (2 or 4, D)."""
    with np.errstate(all="ignore"):  # draws that overflow give an infinite sd, which says so
        found = [x.mean(0), x.std(0)]
        if smoothed is not None:
            mean = smoothed @ x
            found += [mean, np.sqrt(smoothed @ (x - mean) ** 2)]
    return np.stack(found)


def chain_table(summary: Summary, labels: list[str]) -> pd.DataFrame:
    """Means and sds of chains, and by how much of an sd they are unsure."""
    unit = np.maximum(summary.sd, _least_sd(summary.mean))
    columns = {
        "chain_mean": summary.mean,
        "chain_sd": summary.sd,
        "shift_margin": margin(summary.mean_se, summary.mean_drift) / unit,
        "stretch_margin": margin(summary.sd_se, summary.sd_drift) / unit,
    }
    return pd.DataFrame(columns, index=labels)


def margin(error: Array, drift: Array) -> Array:
    """How unsure a chain's number is: its standard error, or more where the chains still move.

    Still moving, by more than noise: as far again is to come.
    """
    return np.maximum(error, drift - DRIFT_ERRORS * error)


def with_errors(table: pd.DataFrame, moved: float) -> pd.DataFrame:
    """Add what the chains say of the draws' means and sds, plain and reweighted.

    Parameters
    ----------
    table : pandas.DataFrame
        As `draws_table` and `chain_table` give it together.
    moved : float
        Share of an error that the chains have moved: the rest is added.
    """
    table = table.copy()
    known = table["chain_mean"].to_numpy(), table["chain_sd"].to_numpy()
    for which in ("", "reweighted_"):
        if f"{which}mean" in table:
            own = table[f"{which}mean"].to_numpy(), table[f"{which}sd"].to_numpy()
            shift, stretch = errors_against(own, known)
            table[f"{which}shift"], table[f"{which}stretch"] = shift / moved, stretch / moved
    return table


def errors_against(own: tuple[Array, Array], known: tuple[Array, Array]) -> tuple[Array, Array]:
    """Errors of means (in the known sds) and of sds (relative).

    0 for the sd of what never varies, and where neither has a finite number; infinite where only
    one of them has.

    Parameters
    ----------
    own, known : pair of arrays, shape (scalars,)
        Means and sds.
    """
    (mean, sd), (known_mean, known_sd) = own, known
    least = np.maximum(known_sd, _least_sd(known_mean))
    with np.errstate(all="ignore"):
        shift, stretch = np.abs(mean - known_mean) / least, np.abs(sd / least - 1)
    stretch = np.where(varies(mean, sd) | varies(known_mean, known_sd), stretch, 0.0)
    shift = np.where(np.isnan(shift), _one_is_finite(mean, known_mean), shift)
    stretch = np.where(np.isnan(stretch), _one_is_finite(sd, known_sd), stretch)
    return shift, stretch


def _one_is_finite(own: Array, known: Array) -> Array:
    """0 where neither number is finite, else infinity."""
    return np.where(np.isfinite(own) | np.isfinite(known), np.inf, 0.0)


def _least_sd(mean: Array) -> Array:
    """Least sd to measure errors in: a value that is always the same has rounding only."""
    return np.maximum(ROUNDING * np.abs(mean), np.finfo(float).tiny)


def displacement(table: pd.DataFrame, which: str) -> Displacement:
    """Largest shift and stretch of a table `with_errors`, margins on top.

    Parameters
    ----------
    table : pandas.DataFrame
    which : {"", "reweighted_"}
    """
    shift = table[f"{which}shift"] + table["shift_margin"].fillna(0.0)
    stretch = table[f"{which}stretch"] + table["stretch_margin"].fillna(0.0)
    both = pd.concat([shift, stretch], axis=1).max(axis=1)
    return Displacement(float(shift.max()), float(stretch.max()), str(both.idxmax()))


def disagreement(table: pd.DataFrame) -> float:
    """Largest difference of plain and reweighted means (in sds) and sds; 0 without weights."""
    if "reweighted_sd" not in table:
        return 0.0
    own = table["mean"].to_numpy(), table["sd"].to_numpy()
    known = table["reweighted_mean"].to_numpy(), table["reweighted_sd"].to_numpy()
    return float(max(one.max() for one in errors_against(own, known)))


def directions_table(
    draws: Array, chains: Array, labels: list[str], smoothed: Array | None
) -> pd.DataFrame:
    """Means and sds along the directions in which chains and draws differ most.

    A guide can be right in every latent and wrong in their sums, where predictions and contrasts
    live: independent factors of many correlated latents are.

    Half of the chains say where to look: where their variance is the largest multiple of the
    draws', where the smallest, and where the means are farthest apart. The other half measures, so
    that chance finds none.

    Parameters
    ----------
    draws : array, shape (S, D)
        The guide's.
    chains : array, shape (num_draws, chains, D)
    labels : list of str
        Names of the scalars.
    smoothed : array, shape (S,), or None
        Weights of the draws, where usable.

    Returns
    -------
    pandas.DataFrame
        Labelled by the scalar that has the largest part; empty where there are no directions.
    """
    mean, sd = draws.mean(0), draws.std(0)
    moving = np.flatnonzero(varies(mean, sd) & np.isfinite(sd) & np.isfinite(chains).all((0, 1)))
    if not 2 <= len(moving) <= MAX_SCALARS:
        return pd.DataFrame()
    draws, chains, sd = draws[:, moving], chains[:, :, moving], sd[moving]
    eigenvalues, vectors = np.linalg.eigh(np.corrcoef(draws.T))
    kept = eigenvalues > _NULL
    inverse = (vectors[:, kept] / np.sqrt(eigenvalues[kept])).T / sd  # makes the draws round
    seen = chains[len(chains) // 2 :, ::2].reshape(-1, len(moving))
    apart = inverse @ (seen.mean(0) - draws.mean(0))
    spread = np.linalg.eigh(np.atleast_2d(np.cov(inverse @ seen.T)))[1]
    chosen = np.stack([spread[:, -1], spread[:, 0], apart]) @ inverse
    names = ["widest", "narrowest", "farthest"]
    own = draws_table({"sum": torch.as_tensor(draws @ chosen.T)}, smoothed).set_axis(names)
    table = own.join(chain_table(summarise_array(chains[:, 1::2] @ chosen.T), names))
    return table.set_axis([labels[moving[i]] for i in np.abs(chosen * sd).argmax(1)])
