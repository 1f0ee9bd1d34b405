"""The witness of short chains: how far does the posterior move the means and sds of the draws?

`check_chains` measures; the judges are functions of the numbers that it gives.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.chains.short import (
    MAX_DENSE,
    SHRINKAGE,
    Summary,
    num_chains,
    run_chains,
    summarise,
    summarise_array,
)
from pyro_cookbook.posterior.importance import MAX_KHAT, Weights
from pyro_cookbook.posterior.on_disk import Filled
from pyro_cookbook.programs.coordinates import Coordinates, from_draws
from pyro_cookbook.programs.density.log_density import parts
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity, unconstrained_density
from pyro_cookbook.programs.predictive import derived_values
from pyro_cookbook.verdict.chain_errors import (
    Displacement,
    chain_table,
    directions_table,
    displacement,
    draws_table,
    labels_of,
    with_errors,
)
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
# The same for the log density at the chains' positions. In many dimensions a heavy tail is far out
# in all of them a little: no latent shows that the chains have not been there, the density does.
MAX_PERSISTENCE_OF_DENSITY = 0.5
# A chain that remembers its start by the correlation r has moved by the share 1 − r of the error.
# Noise alone gives correlations up to 0.2; at 0.6 more the chains are not heard at all.
NOISE_MEMORY, MOST_MEMORY = 0.2, 0.6
# Share of the guide's draws that need a finite place on the unconstrained scale.
MIN_PLACED = 0.99


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
    coordinates : Coordinates or None
        In which the guide's unconstrained draws are round; None where neither chains nor modes
        need them.
    directions : pandas.DataFrame
        The same as `table` for three sums of latents: see `chain_errors.directions_table`.
        Empty where there are none.
    positions : array, shape (S, D), or None
        Unconstrained draws of all chains; None where none were run.
    labels : list of str
        Names of the unconstrained scalars.
    obstacle : str
        Why the model had to be run once for each draw; "" if it had not.
    """

    table: pd.DataFrame
    conclusive: bool
    coordinates: Coordinates | None
    directions: pd.DataFrame
    positions: Array | None
    labels: list[str]
    obstacle: str

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
    *,
    large: bool = False,
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
    large : bool, default False
        As for `num_chains`.
    """
    try:
        density = unconstrained_density(fit.programs.model)
    except (ValueError, RuntimeError, TypeError):  # no bijection, or not a function of the latents
        return None
    drawn = {name: weights.draws.values[name] for name in density.shapes}
    number = num_chains(density, large=large)
    if not number:
        return _not_run(fit, density, drawn, smoothed)
    latents = {name: value.to(density.dtype) for name, value in drawn.items()}
    own = _with_derived(density, latents)
    table = draws_table(own, smoothed)
    starts = density.unconstrain(latents)
    placed = np.isfinite(starts).all(1)
    round_at = from_draws(starts[placed], max_dense=MAX_DENSE, shrinkage=SHRINKAGE)
    if placed.mean() < MIN_PLACED:
        nothing, labels = pd.DataFrame(), density.labels()
        return ChainCheck(table, False, round_at, nothing, None, labels, density.obstacle)
    chains = run_chains(density, starts[placed], seed, tick, number)
    ends = _with_derived(density, density.constrain(chains.positions))
    found = summarise(ends, chains.draws.shape[1])
    height = summarise_array(chains.values[..., None])
    stuck = any(is_stuck(one) for one in found.values())
    stuck |= is_stuck(height, MAX_PERSISTENCE_OF_DENSITY)
    conclusive = chains.conclusive and not stuck
    rows = [chain_table(one, labels_of(name, own[name])) for name, one in found.items()]
    moved = share_moved(chains.memory)
    table = with_errors(table.join(pd.concat(rows)), moved)
    own_side, reached = (_side_by_side(one, density.shapes) for one in (own, ends))
    reached = reached.reshape(*chains.draws.shape[:2], -1)
    labels = [label for name in density.shapes for label in labels_of(name, own[name])]
    along = directions_table(own_side, reached, labels, smoothed)
    directions = along if along.empty else with_errors(along, moved)
    return ChainCheck(
        table, conclusive, round_at, directions, chains.positions, density.labels(),
        density.obstacle,
    )  # fmt: skip


def _not_run(
    fit: Fit, density: UnconstrainedDensity, drawn: dict[str, Tensor], smoothed: Array | None
) -> ChainCheck:
    """Tell the guide's own numbers alone, a few scalars at a time: chains would cost too much."""
    table = draws_table(_with_derived(density, drawn), smoothed)
    round_at = None
    if fit.modes:  # else there is nothing to be placed
        starts = density.unconstrain(drawn)
        placed = starts[np.isfinite(starts).all(1)]
        round_at = from_draws(placed, max_dense=MAX_DENSE, shrinkage=SHRINKAGE)
    return ChainCheck(
        table, False, round_at, pd.DataFrame(), None, density.labels(), density.obstacle
    )


def _side_by_side(values: Mapping[str, Tensor], names: Collection[str]) -> Array:
    """Draws of several sites as one matrix: a column for each scalar."""
    return np.concatenate([columns(values[name]) for name in names], axis=1)


def _with_derived(density: UnconstrainedDensity, latents: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the values of deterministic sites, in a file where they are many."""
    num_draws = len(next(iter(latents.values())))
    filled: dict[str, Filled] = {}
    for at in parts(density.program, num_draws):
        derived = derived_values(density.program, {n: v[at] for n, v in latents.items()})
        for name, value in derived.items():
            array = value.detach().cpu().numpy()
            if name not in filled:
                filled[name] = Filled((num_draws, *array.shape[1:]), array.dtype, shared=True)
            filled[name].write(at, array)
    return latents | {name: torch.from_numpy(one.array) for name, one in filled.items()}


def is_stuck(summary: Summary, limit: float = MAX_PERSISTENCE) -> bool:
    """Whether chains stay where they are: too much of some scalar's variance is between them."""
    return bool((summary.persistence > limit).any())


def share_moved(memory: Array) -> float:
    """Share of an error that chains have moved, by the correlations of their ends with starts."""
    return 1 - float(np.clip(np.abs(memory).max() - NOISE_MEMORY, 0.0, MOST_MEMORY))


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
