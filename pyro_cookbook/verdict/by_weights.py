"""What importance weights say of a fit: all latents together, row by row, state by state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pyro_cookbook.posterior.importance import MAX_KHAT, Weights, smooth
from pyro_cookbook.verdict.moments import columns, location_scale_errors, measure_rows

Array = npt.NDArray[np.float64]

RELIABLE = "reliable"
REWEIGHT = "reliable after reweighting"
UNRELIABLE = "unreliable"
VERDICTS = (RELIABLE, REWEIGHT, UNRELIABLE)

# A mean off by more than this many posterior sds, or an sd by more than this share, is wrong.
MAX_SHIFT, MAX_STRETCH = 0.25, 0.25
# No marginal of a normal posterior can be as wrong as that with a smaller KL(q ‖ p), in nats:
# ½ · 0.25² = 0.031 for a mean, 0.058 and more for an sd.
MAX_KL = 0.03
# Discrete rows: largest total-variation distance from the exact marginal, and the smallest
# effective share of draws that reweighting may live on.
MAX_DISTANCE, MIN_SHARE = 0.05, 0.1


@dataclass
class Findings:
    """Collects reasons and advice; the worst verdict wins."""

    verdict: str = RELIABLE
    reasons: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def add(self, verdict: str, reason: str, *advice: str) -> None:
        """Add a reason for a verdict."""
        self.verdict = max(self.verdict, verdict, key=VERDICTS.index)
        self.reasons.append(reason)
        for step in advice:
            self.advise(step)

    def advise(self, step: str) -> None:
        """Add a piece of advice, once."""
        if step not in self.advice:
            self.advice.append(step)

    def take(self, other: "Findings") -> None:
        """Take over another's verdict, reasons and advice."""
        self.verdict = max(self.verdict, other.verdict, key=VERDICTS.index)
        self.reasons += other.reasons
        for step in other.advice:
            self.advise(step)


def judge_weights(
    weights: Weights, redraw: Callable[[], Weights], findings: Findings
) -> tuple[float, dict[str, float], tuple[int, ...]]:
    """Judge every block; return the k-hat the verdict rests on, all k-hats, and the bad rows."""
    _, joint = smooth(weights.joint)
    khats = {"joint": float(joint)}
    usable = joint <= _good_khat(weights) or _kl(weights.joint) <= MAX_KL
    # Weights say nothing of states that are never drawn: those that can be enumerated, are.
    if weights.states is None and (weights.rows is None or usable):
        # Weights of all latents together that can be used settle every part of them as well.
        names = [name for name in weights.sites if name in weights.draws.values]
        _judge_block("joint", weights.joint, names, weights, findings)
        return float(joint), khats, ()
    bad: tuple[int, ...] = ()
    global_weights: Array = np.full(len(weights.joint), 1 / len(weights.joint))
    if weights.shared is not None:
        global_weights, shared = smooth(weights.shared)
        khats["global"] = float(shared)
        names = list(weights.blocks.global_sites)
        _judge_block("global", weights.shared, names, weights, findings)
    if weights.states is not None:
        bad = _judge_states(weights, global_weights, findings)
    else:
        bad, khats[weights.blocks.row] = _judge_rows(weights, redraw, findings)
    return max([v for k, v in khats.items() if k != "joint"], default=float("nan")), khats, bad


def _good_khat(weights: Weights) -> float:
    return min(1 - 1 / float(np.log10(len(weights.joint))), MAX_KHAT)


def _kl(log_weights: Array) -> Array:
    """KL(q ‖ p) = log E[w] − E[log w] of each column, with two standard errors on top, in nats."""
    with np.errstate(invalid="ignore"):  # draws without a density give NaN, which is not small
        top = log_weights.max(0)
        ratio = np.exp(log_weights - top)
        mean = ratio.mean(0)
        spread = (ratio / mean - log_weights).std(0)  # the delta method, both terms at once
        kl: Array = top + np.log(mean) - log_weights.mean(0) + 2 * spread / len(log_weights) ** 0.5
    return kl


def _judge_block(
    block: str,
    log_weights: Array,
    names: list[str],
    weights: Weights,
    findings: Findings,
) -> None:
    good, kl = _good_khat(weights), float(_kl(log_weights))
    smoothed, khat = smooth(log_weights)
    if kl <= MAX_KL:
        findings.add(
            RELIABLE,
            f"KL(q ‖ p) of the {block} weights is below {kl:.2g} nats (k-hat {khat:.2f}): too"
            f" little for a mean to be off by {MAX_SHIFT} sd or an sd by {MAX_STRETCH:.0%}",
        )
        return
    if khat > good:
        findings.add(
            UNRELIABLE,
            f"k-hat of the {block} weights is {khat:.2f}, above {good:.2f}: the guide misses mass"
            " that the posterior has, and its draws cannot be reweighted",
        )
        return
    errors = {
        name: location_scale_errors(columns(weights.draws.values[name]), smoothed[:, None])
        for name in names
        if not weights.sites[name].is_discrete
    }
    _judge_errors(block, float(khat), errors, findings)


def _judge_errors(block: str, khat: float, errors: Mapping[str, Array], findings: Findings) -> None:
    if not errors:
        findings.add(RELIABLE, f"k-hat of the {block} weights is {khat:.2f}")
        return
    where = max(errors, key=lambda name: errors[name].max(initial=0.0))
    shift, stretch = np.concatenate(list(errors.values()), axis=1).max(1, initial=0.0)
    told = (
        f"k-hat of the {block} weights is {khat:.2f}; reweighting moves locations by up to"
        f" {shift:.2f} sd and sds by up to {stretch:.0%} (most at site {where!r})"
    )
    if shift > MAX_SHIFT or stretch > MAX_STRETCH:
        findings.add(REWEIGHT, told)
    else:
        findings.add(RELIABLE, told)


def _judge_rows(
    weights: Weights, redraw: Callable[[], Weights], findings: Findings
) -> tuple[tuple[int, ...], float]:
    """Judge every row by its own weights; return the bad rows, worst first, and the worst k-hat."""
    assert weights.rows is not None
    row, good = weights.blocks.row, _good_khat(weights)
    khat, errors = measure_rows(weights)
    flagged = khat > good
    doubtful = {name: error.T > (MAX_SHIFT, MAX_STRETCH) for name, error in errors.items()}
    if flagged.any() or any(doubt.any() for doubt in doubtful.values()):
        # The worst of many noisy estimates is bad by chance: fresh draws decide on those.
        again, errors_again = measure_rows(redraw())
        khat = np.where(flagged, again, khat)
        errors = {n: np.where(doubtful[n].T, errors_again[n], errors[n]) for n in errors}
    kl = _kl(weights.rows)
    bad = tuple(int(r) for r in np.argsort(-khat) if khat[r] > good and kl[r] > MAX_KL)
    if bad:
        listed = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        findings.add(
            UNRELIABLE,
            f"{len(bad)} of {len(khat)} entries of {row!r} have k-hat above {good:.2f}, up to"
            f" {khat.max():.2f} (entries {listed})",
        )
    else:
        _judge_errors(f"worst {row!r}", float(khat.max()), errors, findings)
    return bad, float(khat.max())


def _frequencies(drawn: Array, values: Array) -> Array:
    """How often each row, of shape (S, R, E), has each of K vectors, shape (K, E): (R, K)."""
    # Whole numbers that tell the vectors apart, in mixed radix.
    low = values.min(0)
    radix = np.cumprod([1, *(np.ptp(values, axis=0)[:-1] + 1)])
    codes, found = (values - low) @ radix, (drawn - low) @ radix
    order = np.argsort(codes)
    index = order[np.searchsorted(codes[order], found)]
    num_rows, num_values = drawn.shape[1], len(values)
    flat = (index + num_values * np.arange(num_rows)).ravel()
    counts = np.bincount(flat, minlength=num_rows * num_values)
    return counts.reshape(num_rows, num_values) / len(drawn)


def _judge_states(weights: Weights, global_weights: Array, findings: Findings) -> tuple[int, ...]:
    """Discrete rows: the guide's probabilities against those by enumeration."""
    assert weights.states is not None
    row, name = weights.blocks.row, weights.blocks.local_sites[0]
    log_p = weights.states.log_p
    log_p = log_p - np.logaddexp.reduce(log_p, axis=-1, keepdims=True)
    if len(log_p) == 1:
        exact = np.exp(log_p[0])
    else:
        exact = np.einsum("s,srk->rk", global_weights, np.exp(log_p))
    values = weights.states.values.reshape(exact.shape[1], -1).cpu().numpy()
    drawn = weights.draws.values[name].reshape(*weights.joint.shape, len(exact), -1).cpu().numpy()
    guide = _frequencies(drawn, values)
    if values.shape[1] == 1:
        distance = 0.5 * np.abs(guide - exact).sum(-1)
    else:  # a vector: the mean of each of its entries
        span = np.maximum(np.ptp(values, axis=0), 1)
        distance = (np.abs(drawn.mean(0) - exact @ values) / span).max(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Rarer states may go undrawn by a guide that is right.
        ratio = np.where(exact > 0.01, exact**2 / guide, 0.0)
    share = 1 / np.maximum(ratio.sum(-1), 1.0)
    order = np.argsort(-distance)
    told = (
        f"probabilities of {name!r} are within {distance.max():.3f} of the exact ones for the worst"
        f" entry of {row!r} ({distance.mean():.3f} on average)"
    )
    if distance.max() <= MAX_DISTANCE:
        findings.add(RELIABLE, told)
        return ()
    bad = tuple(int(r) for r in order if distance[r] > MAX_DISTANCE)
    if share.min() >= MIN_SHARE:
        findings.add(REWEIGHT, told)
    else:
        findings.add(UNRELIABLE, told, "give the guide more capacity, another start or smaller lr")
    return bad
