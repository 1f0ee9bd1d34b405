"""`diagnose`: may these numbers be used?"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from pyro_cookbook.fits.modes import Found, has_flat_prior, known_modes, look_for_modes
from pyro_cookbook.fits.refined import RefinedDraws
from pyro_cookbook.fits.result import Estimate, Fit, check_fit
from pyro_cookbook.posterior.chains.short import NUM_STEPS
from pyro_cookbook.posterior.importance import (
    MANY_LATENTS,
    MAX_KHAT,
    NUM_DRAWS,
    Weights,
    find_blocks,
    weigh,
)
from pyro_cookbook.posterior.pareto import smooth
from pyro_cookbook.programs.density.unconstrained import unconstrained_density
from pyro_cookbook.programs.options import check_whole
from pyro_cookbook.programs.state.isolation import isolated
from pyro_cookbook.programs.state.progress import shown
from pyro_cookbook.verdict.advice import GO_ON, SAMPLE, advise, vectorise
from pyro_cookbook.verdict.by_chains import (
    MAX_ERROR,
    ChainCheck,
    check_chains,
    judge_mixed,
    judge_unmixed,
    with_sums,
)
from pyro_cookbook.verdict.by_fit import (
    judge_convergence,
    judge_modes,
    judge_points,
    judge_restarts,
    mode_distances,
    point_sites,
    share_sure,
)
from pyro_cookbook.verdict.by_weights import (
    MAX_EMPTY,
    check_weights,
    judge_density,
    judge_evidence,
    judge_weights,
)
from pyro_cookbook.verdict.chain_errors import disagreement
from pyro_cookbook.verdict.findings import REFINED, REWEIGHT, UNRELIABLE, Finding
from pyro_cookbook.verdict.measures import told_khat
from pyro_cookbook.verdict.shape import are_enough, most_curved

# Draws where the rows are summed out of each, which costs fifty more.
_SUMMED_DRAWS = 4000
_UNKNOWN = Estimate(float("nan"), float("nan"))

# Fewer draws have no tail that a k-hat could be fitted to.
_FEWEST = 100


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The answer to "may I use these numbers?", with its grounds.

    Attributes
    ----------
    verdict : str
        "reliable": means and sds of the guide's draws may be used. "reliable after reweighting":
        those of the importance-weighted draws may, ``to_datatree(fit, reweight=True)``. "reliable
        after refining": `refine` has put draws of chains that agree in the place of the guide's.
        "unreliable": neither.
    khat : float
        The Pareto k-hat of the worst block; where chains decide it is a second opinion. NaN for a
        point, and where the only latents are discrete and summed over exactly.
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
    is_point : bool
        The guide is a single point at some site: its ELBO is the height of a density.
    table : pandas.DataFrame
        Continuous latents and derived values, a row for each scalar: mean and sd of the guide's
        draws, of the reweighted draws where the weights allow it, and of short chains started from
        the guide's draws; errors of the first two against the third.
    num_draws : int
        Weights that k-hat is of.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(y)):
    ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> y = torch.tensor([1.0, 2.0, 3.0])
    >>> diagnosis = pc.diagnose(pc.fit(model, "map", y))
    >>> diagnosis.verdict, diagnosis.evidence
    ('unreliable', Estimate(value=nan, se=nan))
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
    is_point: bool = False
    table: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    num_draws: int = 0

    def __str__(self) -> str:
        """Write the verdict, the numbers, the reasons and the advice, a line each."""
        khats = ", ".join(
            f"{block} {told_khat(value, self.num_draws)}" for block, value in self.khats.items()
        )
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
    fit: Fit,
    *,
    log_evidence: float | None = None,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
    progress: bool | None = None,
) -> Diagnosis:
    """Judge a fit by its importance weights, and by where short Markov chains move its draws.

    Parameters
    ----------
    fit : Fit
    log_evidence : float, optional
        The exact log p(v), in nats, where it is known: it gives the gap.
    num_draws : int, default 20_000
        Draws of the guide, at least 100. k-hat from few is noisy near its threshold. At most 4000
        where more than 600 latent scalars are weighed together.
    seed : int, default 0
    progress : bool, optional
        Show a progress bar. Default: at a terminal and in a notebook.

    Returns
    -------
    Diagnosis

    Raises
    ------
    OSError
        If the disk is full.

    Notes
    -----
    Continuous latents are judged by chains where the model's cost allows them: Hamiltonian
    Monte Carlo from the guide's draws leaves means and sds where they are if the guide is right.
    Elsewhere the weights decide. Neither sees a mode that nothing has visited: climbs from
    dispersed points and from draws of large weight look for those. Parameters of a model are point
    estimates; the verdict is on the latents given them. Weights of rows that fill more than 64 MiB
    lie in a temporary file, in the folder of the environment's TMPDIR.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), *Yes, but did it work?*, arXiv:1802.02538.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(y)):
    ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> y = torch.tensor([1.0, 2.0, 3.0])
    >>> pc.diagnose(pc.fit(model, "full_rank", y)).verdict
    'reliable'
    """
    check_fit(fit)
    check_whole(_FEWEST, num_draws=num_draws)
    if fit.refinements and isinstance(fit.guide, RefinedDraws):
        return _diagnose_refined(fit, log_evidence)
    with _bar(progress) as bar:
        weights = _weigh(fit, num_draws, seed)
        if points := point_sites(weights):
            return _diagnose_point(fit, weights, points, log_evidence)
        bar.update()
        bar.set_description("chains")
        chains = _run_chains(fit, weights, seed, bar.update)
        bar.set_description("weights of blocks")
        blocks = _weigh_blocks(fit, weights, chains, num_draws, seed)
        check = check_weights(blocks, lambda: weigh(fit, len(blocks.joint), seed + 1))
    elbo, share = _elbo(weights), _share_dense(weights)
    evidence = blocks.evidence() if share >= 1 - MAX_EMPTY else _UNKNOWN
    by_weights = judge_weights(check)
    measured = chains is not None and chains.conclusive and not fit.programs.model.learns
    finding = judge_convergence(fit.converged, fit.reason, fit.engine, measured=measured)
    finding += judge_density(1 - share) + _judge_draws(chains, by_weights, check.joint)
    finding += _judge_starts(fit, chains, _look_for_modes(fit, weights, chains, seed))
    finding += judge_evidence(evidence, log_evidence)
    finding = _with_advice(finding, fit, weights, chains, seed)
    table = pd.DataFrame() if chains is None else chains.table
    return Diagnosis(
        finding.verdict, check.khat, check.khats, elbo, evidence, _gap(log_evidence, elbo),
        finding.reasons, finding.advice, by_weights.bad_rows, table=table,
        num_draws=len(blocks.joint),
    )  # fmt: skip


def _bar(progress: bool | None) -> Any:
    """Show how far it is: the weights are one step, and most of the time are the chains'."""
    total = 1 + NUM_STEPS
    return tqdm(total=total, desc="weights", leave=False, disable=not shown(progress))


def _weigh(fit: Fit, num_draws: int, seed: int) -> Weights:
    """Draw from the guide, with weights for every row where there are rows on their own."""
    with isolated(seed, fit.param_state):
        blocks = find_blocks(fit.programs.model.sites, fit.programs.guide.sites)
        discrete = _has_discrete(fit)
    if discrete or (blocks.row and not blocks.global_sites):  # every row has weights of its own
        return weigh(fit, min(num_draws, _SUMMED_DRAWS), seed)
    return weigh(fit, num_draws, seed, sum_rows_out=False)


def _has_discrete(fit: Fit) -> bool:
    """Whether the guide has to draw discrete latents."""
    return any(site.is_discrete for site in fit.programs.model.latents.values())


def _run_chains(
    fit: Fit, weights: Weights, seed: int, tick: Callable[[], object]
) -> ChainCheck | None:
    """Run short chains from the guide's draws, where all latents are continuous."""
    if _has_discrete(fit) or _share_dense(weights) < 1 - MAX_EMPTY:
        return None
    smoothed, khat = smooth(weights.joint)
    usable = khat <= MAX_KHAT
    large = not usable and weights.has_blocks
    with isolated(seed, fit.param_state):
        return check_chains(fit, weights, smoothed if usable else None, seed, tick, large=large)


def _diagnose_point(
    fit: Fit, weights: Weights, points: list[str], log_evidence: float | None
) -> Diagnosis:
    """Judge a guide that is a point: it has neither weights nor chains."""
    discrete = all(weights.sites[name].is_discrete for name in points)
    finding = judge_convergence(fit.converged, fit.reason, fit.engine) + judge_points(
        points, discrete=discrete, sure=share_sure(weights)
    )
    elbo = _elbo(weights)
    gap = _gap(log_evidence, elbo) if discrete else None
    return Diagnosis(
        finding.verdict,
        float("nan"),
        {},
        elbo,
        _UNKNOWN,
        gap,
        finding.reasons,
        finding.advice,
        is_point=True,
    )


def _diagnose_refined(fit: Fit, log_evidence: float | None) -> Diagnosis:
    """Give the verdict on chains that `refine` has measured."""
    done = fit.refinements[-1]
    advice = () if done.accepted else (GO_ON, SAMPLE)
    verdict = REFINED if done.accepted else UNRELIABLE
    return Diagnosis(
        verdict, float("nan"), {}, fit.elbo, _UNKNOWN, _gap(log_evidence, fit.elbo), done.reasons,
        advice,
    )  # fmt: skip


def _weigh_blocks(
    fit: Fit, weights: Weights, chains: ChainCheck | None, num_draws: int, seed: int
) -> Weights:
    """Weigh block by block where joint weights have to be used and are of no use.

    Not where the chains of a large model have refuted its fit: of 50 times the draws none could
    clear it, by `judge_unmixed`, where the joint weights are of no use.
    """
    decided = chains is not None and chains.conclusive
    large = fit.programs.model.num_latents > MANY_LATENTS
    if large and chains is not None and chains.plain is not None:
        decided |= chains.plain.worst > MAX_ERROR
    if decided or not weights.has_blocks or float(smooth(weights.joint)[1]) <= MAX_KHAT:
        return weights
    return weigh(fit, min(num_draws, _SUMMED_DRAWS), seed)


def _judge_draws(chains: ChainCheck | None, by_weights: Finding, khat: float) -> Finding:
    """Judge by the chains where they have mixed, elsewhere by the weights and what chains add."""
    if chains is not None and chains.conclusive and chains.plain is not None:
        apart, reweighted = disagreement(chains.table), chains.reweighted
        if reweighted is not None:
            reweighted = with_sums(reweighted, chains.reweighted_along)
        return judge_mixed(with_sums(chains.plain, chains.along), reweighted, apart, khat)
    moved = None if chains is None else chains.plain
    return judge_unmixed(moved, by_weights.verdict, khat) + by_weights


def _look_for_modes(
    fit: Fit, weights: Weights, chains: ChainCheck | None, seed: int
) -> Found | None:
    """Look for modes where the fit has not, or where its weights say that it misses mass.

    None where chains could not be started: the model is too large, or has no such density.
    """
    if chains is None or chains.positions is None:
        return None
    # Where the fit has looked and found no mode, as in a funnel, there is none to be found here.
    heavy = not fit.lost_starts and float(smooth(weights.joint)[1]) > MAX_KHAT
    unsearched = not fit.modes and not fit.lost_starts
    with isolated(seed, fit.param_state):
        density = unconstrained_density(fit.programs.model)
        drawn = weights.draws.values
        z = density.unconstrain({n: drawn[n].to(density.dtype) for n in density.shapes})
        placed = np.isfinite(z).all(1)
        # A flat prior says nothing of where to begin: the fit's search may have been too narrow.
        flat = not fit.lost_starts and has_flat_prior(density)
        found = look_for_modes if heavy or unsearched or flat else known_modes
        return found(fit, density, z[placed], weights.joint[placed], seed)


def _judge_starts(fit: Fit, chains: ChainCheck | None, found: Found | None) -> Finding:
    """Judge by the modes and the local optima that the fit's starts and others have found."""
    modes = fit.modes if found is None else found.modes
    beyond = np.ones(len(modes), dtype=bool) if found is None else found.beyond
    distances = mode_distances(modes, None if chains is None else chains.coordinates)
    shares = np.array([mode.share for mode in modes])
    by_modes = judge_modes(shares, distances, [mode.site for mode in modes], beyond)
    elbos = np.array([restart.elbo.value for restart in fit.restarts])
    return by_modes + judge_restarts(elbos, np.array([one.elbo.se for one in fit.restarts]))


def _with_advice(
    finding: Finding, fit: Fit, weights: Weights, chains: ChainCheck | None, seed: int
) -> Finding:
    """Say what to do next, given what all judges have said."""
    if chains is not None:
        finding += Finding(advice=vectorise(chains.obstacle))
    if finding.verdict == REWEIGHT:
        first = "use the reweighted draws: to_datatree(fit, reweight=True)"
        return Finding(advice=(first,)) + finding
    if finding.verdict != UNRELIABLE:
        return finding
    positions, labels = (None, []) if chains is None else (chains.positions, chains.labels)
    with isolated(seed, fit.param_state):
        curved = None
        if positions is not None and are_enough(positions):
            scores = unconstrained_density(fit.programs.model).value_and_grad(positions)[1]
            curved = most_curved(positions, scores, labels)
        steps = advise(fit, finding.site, positions, labels, curved)
    return finding + Finding(advice=steps)


def _elbo(weights: Weights) -> Estimate:
    joint = weights.joint
    with np.errstate(invalid="ignore"):
        return Estimate(float(joint.mean()), float(joint.std(ddof=1)) / len(joint) ** 0.5)


def _gap(log_evidence: float | None, elbo: Estimate) -> Estimate | None:
    return None if log_evidence is None else Estimate(log_evidence - elbo.value, elbo.se)


def _share_dense(weights: Weights) -> float:
    """Share of the draws at which the model has a density."""
    return float(np.isfinite(weights.joint).mean())
