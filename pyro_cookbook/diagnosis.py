"""`diagnose`: may these numbers be used?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pyro_cookbook.moments import columns, location_scale_errors, measure_rows
from pyro_cookbook.result import Estimate, Fit
from pyro_cookbook.weights import MAX_KHAT, Weights, smooth, weigh

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


@dataclass(frozen=True)
class Diagnosis:
    """The answer to "may I use these numbers?", with its grounds.

    Attributes
    ----------
    verdict : str
        "reliable": means and sds of the guide's draws may be used. "reliable after reweighting":
        those of the importance-weighted draws may, ``to_datatree(fit, reweight=True)``.
        "unreliable": neither.
    khat : float
        The Pareto k-hat the verdict rests on: the worst block's. NaN for a point, and where the
        only latents are discrete and summed over exactly.
    khats : dict of str to float
        k-hat by block: "joint", the plate's name (its worst row), "global".
    elbo : Estimate
        E_q[log p(v, h) − log q(h)], in nats.
    evidence : Estimate
        Importance-weighted estimate of log p(v), in nats; exact (se 0) where the latents could be
        enumerated. A lower bound in expectation. NaN for a point.
    gap : Estimate or None
        log p(v) − ELBO = KL(q ‖ p), where the evidence is known exactly, in nats.
    reasons, advice : tuple of str
        Why, and what to do next.
    bad_rows : tuple of int
        Rows whose own approximation failed, worst first.
    """

    verdict: str
    khat: float
    khats: dict[str, float]
    elbo: Estimate
    evidence: Estimate
    gap: Estimate | None
    reasons: tuple[str, ...]
    advice: tuple[str, ...]
    bad_rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Write the verdict, the numbers, the reasons and the advice, a line each."""
        khats = ", ".join(f"{block} {value:.2f}" for block, value in self.khats.items())
        lines = [f"Verdict: {self.verdict}", f"  ELBO      {self.elbo} nats"]
        if np.isfinite(self.evidence.value):
            how = "importance-weighted" if self.evidence.se else "exact, by enumeration"
            lines.append(f"  evidence  {self.evidence} nats ({how})")
        if self.gap is not None:
            lines.append(f"  gap       {self.gap} nats to the exact log evidence")
        if khats:
            lines.append(f"  k-hat     {khats}")
        lines += [f"  because   {reason}" for reason in self.reasons]
        lines += [f"  next      {step}" for step in self.advice]
        return "\n".join(lines)


@dataclass
class _Findings:
    """Collects reasons and advice; the worst verdict wins."""

    verdict: str = RELIABLE
    reasons: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def add(self, verdict: str, reason: str, *advice: str) -> None:
        self.verdict = max(self.verdict, verdict, key=VERDICTS.index)
        self.reasons.append(reason)
        self.advice += [step for step in advice if step not in self.advice]


def diagnose(
    fit: Fit, *, log_evidence: float | None = None, num_draws: int = 4000, seed: int = 0
) -> Diagnosis:
    """Judge a fit by the importance weights of its own draws.

    Parameters
    ----------
    fit : Fit
    log_evidence : float, optional
        The exact log p(v), in nats, where it is known: it gives the gap.
    num_draws : int, default 4000
        Draws of the guide. k-hat from fewer is noisy near its threshold.
    seed : int, default 0

    Returns
    -------
    Diagnosis

    Notes
    -----
    The weights see only where the guide has mass: a mode it never visits goes unnoticed, so compare
    restarts. Parameters of a model are point estimates; the verdict is on the latents given them.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), *Yes, but did it work?*, arXiv:1802.02538.
    """
    findings = _Findings()
    _judge_convergence(fit, findings)
    weights = weigh(fit, num_draws, seed)
    joint = weights.joint
    elbo = Estimate(float(joint.mean()), float(joint.std(ddof=1)) / len(joint) ** 0.5)
    points = _point_sites(weights)
    if points:
        gap = _gap(log_evidence, elbo) if _all_discrete(weights, points) else None
        _judge_point(fit, weights, points, findings)
        nan = Estimate(float("nan"), float("nan"))
        return _conclude(findings, float("nan"), {}, elbo, nan, gap)
    if not np.isfinite(joint).all():
        share = float((~np.isfinite(joint)).mean())
        findings.add(
            UNRELIABLE,
            f"{share:.1%} of the guide's draws have no density under the model",
            "check that the guide's support is inside the model's",
        )
    khat, khats, bad_rows = _judge_weights(
        weights, lambda: weigh(fit, num_draws, seed + 1), findings
    )
    _judge_restarts(fit, findings)
    evidence = weights.evidence()
    if log_evidence is not None and log_evidence - evidence.value > 4 * evidence.se + 1:
        findings.add(
            UNRELIABLE,
            f"the weights account for {evidence} nats of a log evidence of {log_evidence:.2f}: the"
            " guide never visits part of the posterior",
            _richer(weights),
        )
    gap = _gap(log_evidence, elbo)
    return _conclude(findings, khat, khats, elbo, evidence, gap, bad_rows)


def _conclude(
    findings: _Findings,
    khat: float,
    khats: dict[str, float],
    elbo: Estimate,
    evidence: Estimate,
    gap: Estimate | None,
    bad_rows: tuple[int, ...] = (),
) -> Diagnosis:
    if findings.verdict == REWEIGHT:
        findings.advice.insert(0, "use the reweighted draws: to_datatree(fit, reweight=True)")
    return Diagnosis(
        findings.verdict, khat, khats, elbo, evidence, gap,
        tuple(findings.reasons), tuple(findings.advice), bad_rows,
    )  # fmt: skip


def _gap(log_evidence: float | None, elbo: Estimate) -> Estimate | None:
    return None if log_evidence is None else Estimate(log_evidence - elbo.value, elbo.se)


def _judge_convergence(fit: Fit, findings: _Findings) -> None:
    if not fit.converged:
        findings.add(
            UNRELIABLE,
            f"the fit has not converged: {fit.reason}",
            "raise max_steps, or lower the noise: elbo=Trace_ELBO(num_particles=8)",
        )


def _point_sites(weights: Weights) -> list[str]:
    """Latents whose draws are all the same."""
    return [
        name
        for name, value in weights.draws.values.items()
        if name in weights.sites and bool((value == value[:1]).all())
    ]


def _all_discrete(weights: Weights, names: list[str]) -> bool:
    return all(weights.sites[name].is_discrete for name in names)


def _judge_point(fit: Fit, weights: Weights, points: list[str], findings: _Findings) -> None:
    names = ", ".join(repr(name) for name in points)
    findings.add(
        UNRELIABLE,
        f"the guide is a single point at {names}: it cannot tell a spread, an interval, or how much"
        " of the posterior lies near it",
        "use it as the mode only; for uncertainty fit 'laplace', 'full_rank' or another guide that"
        " has a spread",
    )
    if not _all_discrete(weights, points):
        findings.reasons.append(
            "the entropy of a point is −∞ and is left out, so its ELBO is the height of a density:"
            " it bounds nothing and depends on the units of the latents"
        )
    elif weights.states is not None:
        log_top = weights.states[0].max(-1) - np.logaddexp.reduce(weights.states[0], axis=-1)
        sure = float((np.exp(log_top) > 0.95).mean())
        findings.reasons.append(
            f"{sure:.0%} of the rows have a value of probability above 0.95; for those the point is"
            " nearly the posterior"
        )


def _judge_weights(
    weights: Weights, redraw: Callable[[], Weights], findings: _Findings
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


_RICHER = "fit a richer family ('full_rank', 'flow'), or reparametrise the model"
_SUM_OUT = "sum the discrete sites out of the model and fit 'full_rank', or sample it with NUTS"


def _richer(weights: Weights) -> str:
    return _SUM_OUT if any(site.is_discrete for site in weights.sites.values()) else _RICHER


def _kl(log_weights: Array) -> Array:
    """KL(q ‖ p) = log E[w] − E[log w] of each column, with two standard errors on top, in nats."""
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
    findings: _Findings,
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
            _richer(weights),
        )
        return
    errors = {
        name: location_scale_errors(columns(weights.draws.values[name]), smoothed[:, None])
        for name in names
        if not weights.sites[name].is_discrete
    }
    _judge_errors(block, float(khat), errors, findings)


def _judge_errors(
    block: str, khat: float, errors: Mapping[str, Array], findings: _Findings
) -> None:
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
    weights: Weights, redraw: Callable[[], Weights], findings: _Findings
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
            _richer(weights),
        )
    else:
        _judge_errors(f"worst {row!r}", float(khat.max()), errors, findings)
    return bad, float(khat.max())


def _judge_states(weights: Weights, global_weights: Array, findings: _Findings) -> tuple[int, ...]:
    """Discrete rows: the guide's marginals against those by enumeration."""
    assert weights.states is not None
    row, name = weights.blocks.row, weights.blocks.local_sites[0]
    log_p = weights.states - np.logaddexp.reduce(weights.states, axis=-1, keepdims=True)
    if len(log_p) == 1:
        exact = np.exp(log_p[0])
    else:
        exact = np.einsum("s,srk->rk", global_weights, np.exp(log_p))
    value = weights.draws.values[name].reshape(len(weights.joint), -1).cpu().numpy()
    guide = np.stack([(value == k).mean(0) for k in range(exact.shape[1])], axis=-1)
    distance = 0.5 * np.abs(guide - exact).sum(-1)
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


def _judge_restarts(fit: Fit, findings: _Findings) -> None:
    if len(fit.restarts) < 2:
        return
    values = np.array([restart.elbo.value for restart in fit.restarts])
    errors = np.array([restart.elbo.se for restart in fit.restarts])
    best = int(np.nanargmax(values))
    apart = values[best] - values > 4 * np.hypot(errors, errors[best]) + 0.5
    if apart.any():
        findings.reasons.append(
            f"{int(apart.sum())} of {len(values)} starts ended more than 0.5 nats below the best,"
            f" by up to {float((values[best] - values).max()):.1f}: there are local optima, and a"
            " better one may not have been found"
        )
