"""The witness of short chains: how far does the posterior move the means and sds of the draws?

`check_chains` measures; the judges are functions of the numbers that it gives.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.chains import (
    MAX_DENSE,
    ROUNDING,
    SHRINKAGE,
    Summary,
    num_chains,
    run_chains,
    summarise,
    summarise_array,
    varies,
)
from pyro_cookbook.posterior.importance import MAX_KHAT, Weights
from pyro_cookbook.programs.coordinates import Coordinates, from_draws
from pyro_cookbook.programs.predictive import derived_values
from pyro_cookbook.programs.unconstrained import UnconstrainedDensity, unconstrained_density
from pyro_cookbook.verdict.findings import (
    NOTHING,
    RELIABLE,
    REWEIGHT,
    UNRELIABLE,
    Finding,
    percent,
    sds,
)
from pyro_cookbook.verdict.measures import columns

Array = npt.NDArray[np.float64]

# Chains measure errors; one up to here, in sds of a mean and as a share of an sd, its margin on
# top, is small enough to call the fit right (benchmarks/verdict).
MAX_ERROR = 0.22
# Sums of many latents add up errors of each, and a guide whose sums are a little off is of use:
# they may be off by so many times as much.
ALONG = 2.0
# k-hat below which weights can be trusted with means and sds on their own. Above it weights are
# few and noisy: reweighted draws have to agree with the chains twice as well.
GOOD_KHAT = 0.5
STRICTER = 0.5
# Chains of which more of the variance lies between than this have not mixed, in some tail.
MAX_PERSISTENCE = 0.35
# Chains still move where their halves differ by more than this many standard errors.
DRIFT_ERRORS = 3.0
# A chain that remembers its start by the correlation r has moved by the share 1 − r of the error.
# Noise alone gives correlations up to 0.2; at 0.6 more the chains are not heard at all.
NOISE_MEMORY, MOST_MEMORY = 0.2, 0.6
# Share of the guide's draws that need a finite place on the unconstrained scale.
MIN_PLACED = 0.99


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


@dataclass(frozen=True)
class ChainCheck:
    """What short chains make of a guide's draws.

    Attributes
    ----------
    table : pandas.DataFrame
        A row for each scalar: mean and sd of the guide's draws; of the reweighted draws, where the
        weights allow it; of the chains; and errors against the chains, with a margin: their
        standard error, or how far the chains still move.
    conclusive : bool
        Whether the chains moved well enough to say something.
    coordinates : Coordinates
        In which the guide's unconstrained draws are round.
    directions : pandas.DataFrame
        The same as `table` for three sums of unconstrained latents: see `directions_table`. Empty
        where there are none.
    positions : array, shape (S, D), or None
        Unconstrained draws of all chains; None where none were run.
    labels : list of str
        Names of the unconstrained scalars.
    """

    table: pd.DataFrame
    conclusive: bool
    coordinates: Coordinates
    directions: pd.DataFrame
    positions: Array | None
    labels: list[str]

    @property
    def plain(self) -> Displacement | None:
        """What the chains do to the guide's draws."""
        return None if self.positions is None else displacement(self.table, "")

    @property
    def reweighted(self) -> Displacement | None:
        """What they do to the reweighted draws; None where the weights are of no use."""
        has = self.positions is not None and "reweighted_shift" in self.table
        return displacement(self.table, "reweighted_") if has else None

    @property
    def along(self) -> Displacement | None:
        """What they do to sums of latents, where they do most."""
        if self.directions.empty:
            return None
        return displacement(self.directions, "")._replace(of_sum=True)

    @property
    def reweighted_along(self) -> Displacement | None:
        """The same for the reweighted draws."""
        if "reweighted_shift" not in self.directions:
            return None
        return displacement(self.directions, "reweighted_")._replace(of_sum=True)


def check_chains(
    fit: Fit,
    weights: Weights,
    smoothed: Array | None,
    seed: int,
    tick: Callable[[], object] = lambda: None,
) -> ChainCheck | None:
    """Start chains at a guide's draws; None where the model has no flat density.

    Parameters
    ----------
    fit : Fit
    weights : Weights
        With the guide's draws.
    smoothed : array, shape (S,), or None
        Their smoothed weights, where usable.
    seed : int
    tick : callable, optional
        Called after every step of the chains.
    """
    try:
        density = unconstrained_density(fit.programs.model)
    except (ValueError, RuntimeError, TypeError):  # no bijection, or not a function of the latents
        return None
    drawn = weights.draws.values
    latents = {name: drawn[name].to(density.dtype) for name in density.shapes}
    own = _with_derived(density, latents)
    table = draws_table(own, smoothed)
    starts = density.unconstrain(latents)
    placed = np.isfinite(starts).all(1)
    round_at = from_draws(starts[placed], max_dense=MAX_DENSE, shrinkage=SHRINKAGE)
    if not num_chains(density) or placed.mean() < MIN_PLACED:
        return ChainCheck(table, False, round_at, pd.DataFrame(), None, density.labels())
    chains = run_chains(density, starts[placed], seed, tick)
    ends = _with_derived(density, density.constrain(chains.positions))
    found = summarise(ends, chains.draws.shape[1])
    conclusive = chains.conclusive and not any(is_stuck(one) for one in found.values())
    rows = [chain_table(one, labels_of(name, own[name])) for name, one in found.items()]
    moved = share_moved(chains.memory)
    table = with_errors(table.join(pd.concat(rows)), moved)
    weight = None if smoothed is None else smoothed[placed]
    along = directions_table(starts[placed], chains.draws, round_at, density.labels(), weight)
    directions = along if along.empty else with_errors(along, moved)
    return ChainCheck(table, conclusive, round_at, directions, chains.positions, density.labels())


def directions_table(
    draws: Array, chains: Array, coordinates: Coordinates, labels: list[str], smoothed: Array | None
) -> pd.DataFrame:
    """Means and sds along the directions in which chains and draws differ most.

    A guide can be right in every latent and wrong in their sums, where predictions and contrasts
    live: independent factors of many correlated latents are. Half of the chains say where to look:
    along the direction in which their variance is the largest multiple of the draws', the smallest,
    and in which the means are farthest apart. The other half measures, so that chance finds none.

    Parameters
    ----------
    draws : array, shape (S, D)
        The guide's, on the unconstrained scale.
    chains : array, shape (num_draws, chains, D)
    coordinates : Coordinates
        In which the draws are round.
    labels : list of str
        Names of the unconstrained scalars.
    smoothed : array, shape (S,), or None
        Weights of the draws, where usable.
    """
    if coordinates.is_diagonal or draws.shape[1] < 2:
        return pd.DataFrame()
    later = chains[len(chains) // 2 :]
    seen = later[:, ::2].reshape(-1, later.shape[2])
    inverse = np.linalg.inv(coordinates.root)
    apart = inverse @ (seen.mean(0) - draws.mean(0))
    vectors = np.linalg.eigh(np.cov(inverse @ seen.T))[1]
    chosen = np.stack([vectors[:, -1], vectors[:, 0], apart]) @ inverse
    largest = np.abs(chosen * coordinates.scale).argmax(1)
    ends = summarise_array(chains[:, 1::2] @ chosen.T)
    value = torch.as_tensor(draws @ chosen.T)
    own = draws_table({"sum": value}, smoothed).set_axis(["widest", "narrowest", "farthest"])
    table = own.join(chain_table(ends, list(own.index)))
    return table.set_axis([labels[int(i)] for i in largest])


def _with_derived(density: UnconstrainedDensity, latents: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the values of deterministic sites."""
    derived = derived_values(density.program, latents)
    return latents | derived


def labels_of(name: str, value: Tensor) -> list[str]:
    """Name the scalars of a site with draws of shape (S, ...)."""
    indices = [",".join(map(str, index)) for index in np.ndindex(*value.shape[1:])]
    return [f"{name}[{index}]" if index else name for index in indices]


def draws_table(values: Mapping[str, Tensor], smoothed: Array | None) -> pd.DataFrame:
    """Means and sds of draws, plain and reweighted, a row for each scalar."""
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
        parts.append(pd.DataFrame(part, index=labels_of(name, value)))
    return pd.concat(parts)


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


def is_stuck(summary: Summary) -> bool:
    """Whether chains stay where they are: too much of some scalar's variance is between them."""
    return bool((summary.persistence > MAX_PERSISTENCE).any())


def share_moved(memory: Array) -> float:
    """Share of an error that chains have moved, by the correlations of their ends with starts."""
    return 1 - float(np.clip(np.abs(memory).max() - NOISE_MEMORY, 0.0, MOST_MEMORY))


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


def with_sums(plain: Displacement, along: Displacement | None) -> Displacement:
    """Give the error that a verdict rests on: a latent's, or that of a sum where it is too large.

    Parameters
    ----------
    plain, along : Displacement
        Of the latents, and of sums of them, if there are any.
    """
    if along is None or along.worst <= ALONG * MAX_ERROR or plain.worst > MAX_ERROR:
        return plain
    return along


def judge_mixed(
    plain: Displacement, reweighted: Displacement | None, apart: float, khat: float
) -> Finding:
    """Judge by chains that have mixed, with the weights as a second opinion.

    Parameters
    ----------
    plain, reweighted : Displacement
        What the chains do to the guide's draws, and to the reweighted ones, if there are any.
    apart : float
        What the weights alone do to the guide's draws, as `disagreement` gives it.
    khat : float
        Of the weights of all latents together.
    """
    told = (
        f"short chains from the guide's draws move means by at most {sds(plain.shift)} sd and sds"
        f" by at most {percent(plain.stretch)} (most at {plain.where})"
    )
    if plain.worst <= MAX_ERROR:
        # Of a guide's too heavy tails weights are at their best, and chains come back late.
        if khat <= GOOD_KHAT and apart > MAX_ERROR:
            told += (
                f", but the weights (k-hat {khat:.2f}) move the numbers by {percent(apart)}: from"
                " tails as heavy as the guide's the chains come back late"
            )
            return Finding(REWEIGHT, (told,), site=plain.site)
        reasons = [told]
        if khat > MAX_KHAT:
            reasons.append(
                f"k-hat of the joint weights is {khat:.2f}: the draws cannot be reweighted, and"
                " need not be"
            )
        return Finding(RELIABLE, tuple(reasons), site=plain.site)
    if reweighted is not None:
        limit = MAX_ERROR if khat <= GOOD_KHAT else STRICTER * MAX_ERROR
        if reweighted.worst <= limit:
            agree = (
                f"reweighted, they are within {sds(reweighted.shift)} sd and"
                f" {percent(reweighted.stretch)} of the chains' (k-hat {khat:.2f})"
            )
            return Finding(REWEIGHT, (told, agree), site=plain.site)
        told += (
            f"; reweighting does not mend it ({sds(reweighted.shift)} sd and"
            f" {percent(reweighted.stretch)}, at {reweighted.where})"
        )
    told += f": a fit is right up to {MAX_ERROR} sd and {percent(MAX_ERROR)}"
    if plain.of_sum:
        told += f" in every latent, and up to {ALONG * MAX_ERROR} sd in sums of them"
    return Finding(UNRELIABLE, (told,), site=plain.site)


def judge_unmixed(plain: Displacement | None, by_weights: str, khat: float) -> Finding:
    """Judge by chains that have not mixed: they can refute a fit, and not confirm it.

    Parameters
    ----------
    plain : Displacement or None
        What the chains do to the guide's draws; None where none were run.
    by_weights : str
        The verdict of the weights.
    khat : float
        Of the weights of all latents together.
    """
    if plain is None or plain.worst <= MAX_ERROR:
        return NOTHING
    told = (
        f"short chains from the guide's draws move means by at least {sds(plain.shift)} sd and sds"
        f" by {percent(plain.stretch)} (most at {plain.label!r}), and have not mixed"
    )
    # Reweighted draws may be right all the same, but only the best of weights confirm them.
    confirmed = by_weights != RELIABLE and khat <= GOOD_KHAT
    return Finding(RELIABLE if confirmed else UNRELIABLE, (told,), site=plain.site)
