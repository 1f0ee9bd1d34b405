"""`diagnose`: may these numbers be used?"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from pyro_cookbook.fits.result import Estimate, Fit
from pyro_cookbook.fits.settings import DETERMINISTIC
from pyro_cookbook.posterior.importance import (
    MAX_KHAT,
    NUM_DRAWS,
    Weights,
    find_blocks,
    smooth,
    weigh,
)
from pyro_cookbook.programs.isolation import isolated
from pyro_cookbook.verdict.advice import advise
from pyro_cookbook.verdict.by_chains import Pull, pull
from pyro_cookbook.verdict.by_weights import (
    RELIABLE,
    REWEIGHT,
    UNRELIABLE,
    Findings,
    judge_weights,
)

# Short chains measure errors; a measured error up to here, its standard error on top, is small
# enough to call the fit right (benchmarks/verdict).
_MAX_PULL = 0.22
# Modes hold mass that a fit around one of them misses, by this much of a sd or of a variance.
_MODE_SHIFT, _MODE_VARIANCE = 0.1, 0.3
# Below this, weights can be trusted with means and sds on their own.
_GOOD_KHAT = 0.5
# Draws where the rows are summed out of each, which costs fifty more.
_SUMMED_DRAWS = 4000
# A mode within so many of the guide's sds is covered: chains and weights see it.
_COVERED = 3.0


@dataclass(frozen=True, eq=False)
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
    table : pandas.DataFrame
        Continuous latents and derived values, a row for each scalar: mean and sd of the guide's
        draws, of the reweighted draws where the weights allow it, and of short chains started from
        the guide's draws; errors of the first two against the third.
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
    table: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)

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


def diagnose(
    fit: Fit, *, log_evidence: float | None = None, num_draws: int = NUM_DRAWS, seed: int = 0
) -> Diagnosis:
    """Judge a fit by its importance weights, and by where short Markov chains pull its draws.

    Parameters
    ----------
    fit : Fit
    log_evidence : float, optional
        The exact log p(v), in nats, where it is known: it gives the gap.
    num_draws : int, default 20_000
        Draws of the guide. k-hat from few is noisy near its threshold.
    seed : int, default 0

    Returns
    -------
    Diagnosis

    Notes
    -----
    Continuous latents are judged by chains where the model's cost allows them: Hamiltonian
    Monte Carlo from the guide's draws leaves means and sds where they are if the guide is right.
    Elsewhere the weights decide. Neither sees a mode that nothing has visited: the starts of the
    deterministic engine look for those. Parameters of a model are point estimates; the verdict is
    on the latents given them.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), *Yes, but did it work?*, arXiv:1802.02538.
    """
    findings = Findings()
    _judge_convergence(fit, findings)
    with isolated(seed, fit.param_state):
        blocks = find_blocks(fit.programs.model.sites, fit.programs.guide.sites)
    discrete = any(site.is_discrete for site in fit.programs.model.latents.values())
    if discrete or (blocks.row and not blocks.global_sites):  # every row has weights of its own
        weights = weigh(fit, min(num_draws, _SUMMED_DRAWS), seed)
    else:
        weights = weigh(fit, num_draws, seed, sum_rows_out=False)
    joint = weights.joint
    with np.errstate(invalid="ignore"):
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
    pulled = None
    if not discrete and np.isfinite(joint).mean() > 0.99:
        pulled = _pull(fit, weights, seed)
    settled = pulled is not None and pulled.conclusive
    if not settled and not discrete and blocks.row and float(smooth(joint)[1]) > MAX_KHAT:
        weights = weigh(fit, min(num_draws, _SUMMED_DRAWS), seed)
    by_weights = Findings()
    khat, khats, bad_rows = judge_weights(
        weights, lambda: weigh(fit, len(weights.joint), seed + 1), by_weights
    )
    worst = ""
    if pulled is not None and settled:
        worst = _judge_pull(pulled, by_weights, khats, findings)
    else:
        worst = _take_weights(pulled, by_weights, khats, findings)
    _judge_modes(fit, pulled, findings)
    _judge_restarts(fit, findings)
    nan = Estimate(float("nan"), float("nan"))
    evidence = weights.evidence() if np.isfinite(joint).mean() > 0.99 else nan
    if log_evidence is not None and log_evidence - evidence.value > 4 * evidence.se + 1:
        findings.add(
            UNRELIABLE,
            f"the weights account for {evidence} nats of a log evidence of {log_evidence:.2f}: the"
            " guide never visits part of the posterior",
        )
    if findings.verdict == UNRELIABLE:
        with isolated(seed, fit.param_state):
            labels = pulled.density.labels() if pulled else []
            draws = pulled.unconstrained() if pulled else None
            for step in advise(fit, worst, draws, labels):
                findings.advise(step)
    table = pulled.table if pulled else pd.DataFrame()
    gap = _gap(log_evidence, elbo)
    return _conclude(findings, khat, khats, elbo, evidence, gap, bad_rows, table)


def _pull(fit: Fit, weights: Weights, seed: int) -> Pull | None:
    """Run short chains from the guide's draws."""
    smoothed, khat = smooth(weights.joint)
    with isolated(seed, fit.param_state):
        return pull(fit, weights, smoothed if khat <= MAX_KHAT else None, seed)


def _judge_pull(
    pulled: Pull, by_weights: Findings, khats: dict[str, float], findings: Findings
) -> str:
    """Judge by the chains, with the weights as a second opinion; return the worst site."""
    shift, stretch, label = pulled.worst("")
    told = (
        f"short chains from the guide's draws move means by at most {shift:.2f} sd and sds by at"
        f" most {stretch:.0%} (most at {label!r})"
    )
    site = label.partition("[")[0]
    # A guide with too heavy tails: weights are at their best, and chains far out come back late.
    apart = pulled.between() if khats["joint"] <= _GOOD_KHAT else 0.0
    if max(shift, stretch) <= _MAX_PULL < apart:
        findings.add(
            REWEIGHT,
            f"{told}, but the weights (k-hat {khats['joint']:.2f}) move the numbers by {apart:.0%}:"
            " from tails as heavy as the guide's the chains come back late",
        )
        return site
    if max(shift, stretch) <= _MAX_PULL:
        findings.add(RELIABLE, told)
        if khats["joint"] > MAX_KHAT:
            findings.reasons.append(
                f"k-hat of the joint weights is {khats['joint']:.2f}: the draws cannot be"
                " reweighted, and need not be"
            )
        return site
    if "reweighted_shift" in pulled.table:
        again, wider, at = pulled.worst("reweighted_")
        # Near k-hat's threshold weights are few and noisy: they have to agree twice as well.
        limit = _MAX_PULL if khats["joint"] <= _GOOD_KHAT else _MAX_PULL / 2
        if max(again, wider) <= limit:
            findings.add(REWEIGHT, told)
            findings.reasons.append(
                f"reweighted, they are within {again:.2f} sd and {wider:.0%} of the chains'"
                f" (k-hat {khats['joint']:.2f})"
            )
            return site
        told += f"; reweighting does not mend it ({again:.2f} sd and {wider:.0%}, at {at!r})"
    findings.add(UNRELIABLE, f"{told}: a fit is right up to {_MAX_PULL} sd and {_MAX_PULL:.0%}")
    return site


def _take_weights(
    pulled: Pull | None, by_weights: Findings, khats: dict[str, float], findings: Findings
) -> str:
    """Judge by the weights; chains that have not mixed can refute a fit, and not confirm it."""
    site = ""
    if pulled is not None and pulled.chains is not None:
        shift, stretch, label = pulled.worst("")
        if max(shift, stretch) > _MAX_PULL:
            site = label.partition("[")[0]
            by_weights.reasons.insert(
                0,
                f"short chains from the guide's draws move means by at least {shift:.2f} sd and sds"
                f" by {stretch:.0%} (most at {label!r}), and have not mixed",
            )
            if by_weights.verdict == RELIABLE or khats["joint"] > _GOOD_KHAT:
                by_weights.verdict = UNRELIABLE  # nothing confirms the reweighted draws
    findings.take(by_weights)
    return site


def _judge_modes(fit: Fit, pulled: Pull | None, findings: Findings) -> None:
    """Modes that the guide does not cover, whose mass would move means or sds."""
    if len(fit.modes) < 2:
        return
    missed = []
    for mode in fit.modes:
        distance = mode.distance
        if pulled is not None:
            apart = np.abs(np.array(mode.location) - pulled.loc) / pulled.scale
            distance = float(apart.max())
        if distance > _COVERED and (
            mode.share * distance > _MODE_SHIFT or mode.share * distance**2 > _MODE_VARIANCE
        ):
            missed.append((mode, distance))
    if missed:
        mode, distance = max(missed, key=lambda pair: pair[0].share)
        findings.add(
            UNRELIABLE,
            f"climbs from dispersed starts ended in {len(fit.modes)} modes; those that the guide"
            f" does not cover hold about {sum(m.share for m, _ in missed):.2g} of the mass,"
            f" {distance:.1f} of its sds away (most at site {mode.site!r})",
            "report each mode for itself, or remove the symmetry (order the components, fix a"
            " sign)",
        )


def _conclude(
    findings: Findings,
    khat: float,
    khats: dict[str, float],
    elbo: Estimate,
    evidence: Estimate,
    gap: Estimate | None,
    bad_rows: tuple[int, ...] = (),
    table: pd.DataFrame | None = None,
) -> Diagnosis:
    if findings.verdict == REWEIGHT:
        findings.advice.insert(0, "use the reweighted draws: to_datatree(fit, reweight=True)")
    return Diagnosis(
        findings.verdict, khat, khats, elbo, evidence, gap,
        tuple(findings.reasons), tuple(findings.advice), bad_rows,
        pd.DataFrame() if table is None else table,
    )  # fmt: skip


def _gap(log_evidence: float | None, elbo: Estimate) -> Estimate | None:
    return None if log_evidence is None else Estimate(log_evidence - elbo.value, elbo.se)


def _judge_convergence(fit: Fit, findings: Findings) -> None:
    if not fit.converged:
        advice = []
        if fit.engine != DETERMINISTIC:
            advice = ["raise max_steps, or lower the noise: elbo=Trace_ELBO(num_particles=8)"]
        elif "out of steps" in fit.reason:
            advice = ["raise max_steps"]
        findings.add(
            UNRELIABLE,
            f"the fit has not converged: {fit.reason}",
            *advice,
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


def _judge_point(fit: Fit, weights: Weights, points: list[str], findings: Findings) -> None:
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
        log_p = weights.states.log_p[0]
        log_top = log_p.max(-1) - np.logaddexp.reduce(log_p, axis=-1)
        sure = float((np.exp(log_top) > 0.95).mean())
        findings.reasons.append(
            f"{sure:.0%} of the rows have a value of probability above 0.95; for those the point is"
            " nearly the posterior"
        )


def _judge_restarts(fit: Fit, findings: Findings) -> None:
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
