"""The witness of the weights: all latents together, row by row, state by state.

`check_weights` measures; the judges are functions of the numbers that it gives.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pyro_cookbook.fits.result import Estimate
from pyro_cookbook.posterior.importance import Weights
from pyro_cookbook.posterior.on_disk import by_columns
from pyro_cookbook.posterior.pareto import pieces, smooth
from pyro_cookbook.verdict.findings import (
    MAX_SHIFT,
    MAX_STRETCH,
    NOTHING,
    RELIABLE,
    REWEIGHT,
    UNRELIABLE,
    Finding,
    percent,
    sds,
)
from pyro_cookbook.verdict.measures import (
    chance,
    columns,
    effective_share,
    frequencies,
    khat_limit,
    kl_bound,
    location_scale_errors,
    site_errors,
    state_distance,
)

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# No marginal of a normal posterior can be as wrong as MAX_SHIFT or MAX_STRETCH with a smaller
# KL(q ‖ p), in nats: ½ · 0.25² = 0.031 for a mean, 0.058 and more for an sd.
MAX_KL = 0.03
# A KL below this, in nats, is told as this: it is rounding.
_LEAST_KL = 1e-6
# Discrete rows: largest total-variation distance from the exact marginal, and the smallest
# effective share of draws that reweighting may live on.
MAX_DISTANCE, MIN_SHARE = 0.05, 0.1
# Share of the guide's draws that may have no density.
MAX_EMPTY = 0.01
# The exact evidence may be above that of the weights by this many standard errors and nats: the
# weights' is a lower bound, and log 2 is what a second mode adds.
EVIDENCE_ERRORS, EVIDENCE_NATS = 4.0, 1.0


@dataclass(frozen=True)
class BlockCheck:
    """What the weights of one block of latents do.

    Attributes
    ----------
    block : str
    khat : float
    kl : float
        Upper bound of KL(q ‖ p), in nats.
    errors : dict of str to array, shape (2, scalars)
        Continuous site → change of each location (in sds) and sd (relative) under the weights;
        only where the weights can be used and the KL does not settle it.
    """

    block: str
    khat: float
    kl: float
    errors: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class RowCheck:
    """The same for every row of a plate by its own weights.

    Attributes
    ----------
    plate : str
    khat, kl : array, shape (R,)
    errors : dict of str to array, shape (2, scalars)
        Rows vary fastest: their weights serve all scalars of a row.
    """

    plate: str
    khat: Array
    kl: Array
    errors: Mapping[str, Array]


@dataclass(frozen=True)
class StateCheck:
    """A discrete latent of rows, against its probabilities by enumeration.

    Attributes
    ----------
    site, plate : str
        Names of all sites; of all plates, whose cells count as rows: "" outside plates.
    distance : array, shape (R,)
        Total variation of a scalar's probabilities; of a vector, the largest error of an entry's
        mean, as a share of its range.
    share : array, shape (R,)
        Share of the draws that is left by reweighting to the exact probabilities.
    """

    site: str
    plate: str
    distance: Array
    share: Array


@dataclass(frozen=True)
class WeightCheck:
    """What the importance weights say of a guide's draws, in numbers.

    Attributes
    ----------
    limit : float
        k-hat up to which so many weights can be used.
    joint : float
        k-hat of all latents together.
    blocks : tuple of BlockCheck
        Those that the verdict rests on: "joint", or "global" beside the rows.
    rows : RowCheck or None
    states : StateCheck or None
    """

    limit: float
    joint: float
    blocks: tuple[BlockCheck, ...] = ()
    rows: RowCheck | None = None
    states: StateCheck | None = None

    @property
    def khats(self) -> dict[str, float]:
        """k-hat by block: "joint", "global", the plate's name (its worst row)."""
        found = {"joint": self.joint} | {block.block: block.khat for block in self.blocks}
        return found if self.rows is None else found | {self.rows.plate: _worst(self.rows)}

    @property
    def khat(self) -> float:
        """The k-hat that the verdict rests on; NaN where only states were compared."""
        judged = [block.khat for block in self.blocks]
        judged += [] if self.rows is None else [_worst(self.rows)]
        return max(judged, default=float("nan"))


def _worst(rows: RowCheck) -> float:
    return float(rows.khat.max())


def check_weights(weights: Weights, redraw: Callable[[], Weights]) -> WeightCheck:
    """Measure every block that a verdict can rest on.

    Parameters
    ----------
    weights : Weights
    redraw : callable
        Gives the weights of as many fresh draws, for what is doubtful.
    """
    limit = khat_limit(len(weights.joint))
    joint = float(smooth(weights.joint)[1])
    usable = joint <= limit or kl_bound(weights.joint) <= MAX_KL
    # Weights say nothing of states that are never drawn: those that can be enumerated, are.
    if weights.states is None and (weights.rows is None or usable):
        # Weights of all latents together that can be used settle every part of them as well.
        names = [name for name in weights.sites if name in weights.draws.values]
        block = _check_block("joint", weights.joint, names, weights, limit)
        return WeightCheck(limit, joint, (block,))
    blocks: tuple[BlockCheck, ...] = ()
    if weights.shared is not None:
        names = list(weights.blocks.global_sites)
        blocks = (_check_block("global", weights.shared, names, weights, limit),)
    check = WeightCheck(limit, joint, blocks)
    if weights.states is not None:
        return replace(check, states=_check_states(weights))
    return replace(check, rows=_check_rows(weights, redraw, limit))


def _check_block(
    block: str, log_weights: Array, names: list[str], weights: Weights, limit: float
) -> BlockCheck:
    kl = float(kl_bound(log_weights))
    smoothed, khat = smooth(log_weights)
    if kl <= MAX_KL or khat > limit:
        return BlockCheck(block, float(khat), kl)
    errors = {
        name: site_errors(weights.draws.values[name], smoothed)
        for name in names
        if not weights.sites[name].is_discrete
    }
    return BlockCheck(block, float(khat), kl, errors)


def _check_rows(weights: Weights, redraw: Callable[[], Weights], limit: float) -> RowCheck:
    first = _measure_rows(weights)
    flagged, doubtful = doubts(first, limit)
    if not (flagged.any() or any(doubt.any() for doubt in doubtful.values())):
        return first
    # The worst of many noisy estimates is bad by chance: fresh draws decide on those.
    second = _measure_rows(redraw())
    errors = {n: np.where(doubtful[n], second.errors[n], first.errors[n]) for n in first.errors}
    return replace(first, khat=np.where(flagged, second.khat, first.khat), errors=errors)


def doubts(rows: RowCheck, limit: float) -> tuple[Flags, dict[str, Flags]]:
    """Rows whose k-hat, and scalars whose errors are above their limits."""
    limits = np.array([[MAX_SHIFT], [MAX_STRETCH]])
    return rows.khat > limit, {name: error > limits for name, error in rows.errors.items()}


def _measure_rows(weights: Weights) -> RowCheck:
    """k-hat of every row, and what its weights do to the locations and scales of its latents."""
    assert weights.rows is not None
    plate, num_rows = weights.blocks.row, weights.rows.shape[1]
    values = {}
    for name in weights.blocks.local_sites:
        site = weights.sites[name]
        if not site.is_discrete:
            # Rows last, so that a row's weight serves all scalars of the row.
            value = weights.draws.values[name].movedim(1 + site.plates.index(plate), -1)
            values[name] = value.reshape(len(value), -1, num_rows)
    khat, kl = np.empty(num_rows), np.empty(num_rows)
    errors = {name: np.empty((2, *value.shape[1:])) for name, value in values.items()}
    widest = max((value.shape[1] for value in values.values()), default=1)
    for at, part in by_columns(weights.rows, widest):
        smoothed, khat[at] = smooth(part)
        kl[at] = kl_bound(part)
        for name, value in values.items():
            some = columns(value[..., at])
            found = location_scale_errors(some, np.tile(smoothed, value.shape[1]))
            errors[name][..., at] = found.reshape(2, value.shape[1], -1)
    return RowCheck(plate, khat, kl, {name: one.reshape(2, -1) for name, one in errors.items()})


def _check_states(weights: Weights) -> StateCheck:
    assert weights.states is not None
    plate, name = " × ".join(weights.states.plates), ", ".join(weights.states.values)
    weight = np.ones(1) if weights.shared is None else smooth(weights.shared)[0]
    exact = np.zeros(weights.states.log_p.shape[1:])
    for at, log_p in weights.states.by_draws():
        probability = np.exp(log_p - np.logaddexp.reduce(log_p, axis=-1, keepdims=True))
        exact += np.einsum("s,srk->rk", weight[at], probability)
    values, guide = weights.states.matrix, weights.states.guide
    if guide is not None:
        distance = state_distance(guide, values, exact)
    else:
        drawn = weights.draws.values
        guide = np.concatenate(
            [
                frequencies(weights.states.drawn(drawn, rows), values)
                for rows in pieces(len(exact), len(weights.joint) * values.shape[1])
            ]
        )
        distance = state_distance(guide, values, exact)
        # The worst of many rows is far off by chance.
        distance = np.maximum(distance - chance(exact, values, len(weights.joint)), 0.0)
    return StateCheck(name, plate, distance, effective_share(guide, exact))


def judge_weights(check: WeightCheck) -> Finding:
    """Add up what is said of every block that was measured."""
    finding = NOTHING
    for block in check.blocks:
        finding += judge_block(block, check.limit)
    if check.states is not None:
        finding += judge_states(check.states)
    if check.rows is not None:
        finding += judge_rows(check.rows, check.limit)
    return finding


def judge_block(check: BlockCheck, limit: float) -> Finding:
    """Judge a block by its KL, then by its k-hat, then by what its weights change."""
    if check.kl <= MAX_KL:
        told = (
            f"KL(q ‖ p) of the {check.block} weights is below {max(check.kl, _LEAST_KL):.2g} nats"
            f" (k-hat {check.khat:.2f}): too little for a mean to be off by {MAX_SHIFT} sd or an sd"
            f" by {percent(MAX_STRETCH)}"
        )
        return Finding(RELIABLE, (told,))
    if check.khat > limit:
        told = (
            f"k-hat of the {check.block} weights is {check.khat:.2f}, above {limit:.2f}: the guide"
            " misses mass that the posterior has, and its draws cannot be reweighted"
        )
        return Finding(UNRELIABLE, (told,))
    return judge_errors(check.block, check.khat, check.errors)


def judge_errors(block: str, khat: float, errors: Mapping[str, Array]) -> Finding:
    """Judge what usable weights change: too much, and the weighted draws are the right ones.

    Parameters
    ----------
    block : str
    khat : float
    errors : mapping of str to array, shape (2, scalars)
        Site → changes of locations (in sds) and of sds (relative).
    """
    if not errors:
        return Finding(RELIABLE, (f"k-hat of the {block} weights is {khat:.2f}",))
    where = max(errors, key=lambda name: errors[name].max(initial=0.0))
    shift, stretch = np.concatenate(list(errors.values()), axis=1).max(1, initial=0.0)
    told = (
        f"k-hat of the {block} weights is {khat:.2f}; reweighting moves locations by up to"
        f" {sds(shift)} sd and sds by up to {percent(stretch)} (most at site {where!r})"
    )
    wrong = shift > MAX_SHIFT or stretch > MAX_STRETCH
    return Finding(REWEIGHT if wrong else RELIABLE, (told,))


def judge_rows(check: RowCheck, limit: float) -> Finding:
    """Judge rows by their own weights: one that cannot be reweighted spoils them all."""
    bad = tuple(
        int(r)
        for r in np.argsort(-check.khat)
        if check.khat[r] > limit and not check.kl[r] <= MAX_KL
    )
    if not bad:
        return judge_errors(f"worst {check.plate!r}", _worst(check), check.errors)
    listed = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
    told = (
        f"{len(bad)} of {len(check.khat)} entries of {check.plate!r} have k-hat above {limit:.2f},"
        f" up to {_worst(check):.2f} (entries {listed})"
    )
    return Finding(UNRELIABLE, (told,), bad_rows=bad)


def judge_states(check: StateCheck) -> Finding:
    """Judge the probabilities of discrete rows against those by enumeration."""
    distance = check.distance
    told = f"probabilities of {check.site!r} are within {distance.max():.3f} of the exact ones"
    if check.plate:
        told += f" for the worst entry of {check.plate!r} ({distance.mean():.3f} on average)"
    bad = tuple(int(r) for r in np.argsort(-distance) if not distance[r] <= MAX_DISTANCE)
    if not bad:
        return Finding(RELIABLE, (told,))
    bad = bad if check.plate else ()
    if check.share.min() >= MIN_SHARE:
        return Finding(REWEIGHT, (told,), bad_rows=bad)
    advice = "give the guide more capacity, another start or smaller lr"
    return Finding(UNRELIABLE, (told,), (advice,), bad_rows=bad)


def judge_density(share: float) -> Finding:
    """Refuse a guide that draws where the model has no density: `share` of its draws.

    A few such draws have weight 0 and move no number; the bound is −∞ all the same.
    """
    if share == 0:
        return NOTHING
    told = f"{percent(share, 2)} of the guide's draws have no density under the model"
    if share <= MAX_EMPTY:
        return Finding(RELIABLE, (f"{told}: the bound is −∞, and without them all are as said",))
    return Finding(UNRELIABLE, (told,), ("check that the guide's support is inside the model's",))


def judge_evidence(evidence: Estimate, log_evidence: float | None) -> Finding:
    """Refuse weights that account for too little of the log evidence, where it is known."""
    if log_evidence is None:
        return NOTHING
    missing = log_evidence - evidence.value
    if not missing > EVIDENCE_ERRORS * evidence.se + EVIDENCE_NATS:
        return NOTHING
    told = (
        f"the weights account for {evidence} nats of a log evidence of {log_evidence:.2f}: the"
        " guide never visits part of the posterior"
    )
    return Finding(UNRELIABLE, (told,))
