"""`refine`: from a fit, judged or rejected, to draws of chains that agree."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from pyro_cookbook.fits.fitting import fit as fit_again
from pyro_cookbook.fits.linear_response import SUFFIX
from pyro_cookbook.fits.modes import MAX_SCALARS
from pyro_cookbook.fits.refined import RefinedDraws, Refinement
from pyro_cookbook.fits.result import Fit, Programs, check_fit
from pyro_cookbook.fits.settings import DETERMINISTIC
from pyro_cookbook.posterior.refining.agreement import Agreement, agree
from pyro_cookbook.posterior.refining.beginning import Chains, begin, with_modes_of
from pyro_cookbook.posterior.refining.ensemble import Run
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
from pyro_cookbook.programs.noncentring import candidates
from pyro_cookbook.programs.options import check_positive
from pyro_cookbook.programs.predictive import derived_values
from pyro_cookbook.programs.state.isolation import isolated
from pyro_cookbook.programs.state.progress import shown

Array = npt.NDArray[np.float64]

# Draws of each chain in the first round, of which half tune and half are kept; then twice as many.
_FIRST_ROUND, _LONGEST_ROUND = 64, 4096
# Of each of many chains that were annealed: they have no way to go. Then they are annealed anew,
# with twice as many moves.
_ANNEALED_ROUND = 16
# After so many rounds without agreement chains may stand on several hills: they climb.
_ROUNDS_TO_CLIMB = 2
# A round takes about so many times as long as the one before: it is begun if there is the time.
_NEXT_TAKES = 2.0


def refine(
    fit: Fit,
    *,
    budget: float = 60.0,
    seed: int = 0,
    progress: bool | None = None,
) -> Fit:
    """Run many short chains from a fit's draws until they agree.

    Parameters
    ----------
    fit : Fit
        Of a model whose latents are continuous; the verdict on it does not matter. A refined fit
        goes on from where its chains are.
    budget : float, default 60
        Seconds of wall time, after which no new round of chains is begun.
    seed : int, default 0
        Same seed, same numbers, if the chains agree before the budget ends.
    progress : bool, optional
        Show a progress bar. Default: at a terminal and in a notebook.

    Returns
    -------
    Fit
        With draws of the chains in the place of the guide: `to_datatree` gives them by chain and
        draw, `predict`, `save` and `compare` use them, and `diagnose` says "reliable after
        refining" or why not. Its ``refinements`` say what was measured; its ELBO is that of the fit
        it came from, still a bound. Ctrl-C gives what the last whole round has.

    Raises
    ------
    ValueError
        If a latent is discrete, or the model has no density that is a function of its latents.

    Notes
    -----
    Sites that can be non-centred are, where that gives the fit a higher bound. Chains are accepted
    if nested R-hat is below 1.01 for every latent and derived scalar and for the log density; if
    there are 400 effective draws of each scalar's mean and square, whose tail index has to be below
    0.7; and if equipartition holds, E[−(z − E z) ∂ log p/∂z] = 1 for each coordinate, which looks
    at the density where the chains are, and so needs no chain to have moved. Where a fit has found
    several modes, chains start in each of them: chains that do not pass between them never agree. A
    mode that nothing has found is not seen.

    References
    ----------
    Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman (2024), *Nested R-hat*, Bayesian
    Analysis, doi:10.1214/24-BA1453.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(y)):
    ...         pyro.sample("y", dist.StudentT(4.0, mu, 1.0), obs=y)
    >>> rough = pc.fit(model, "laplace", torch.tensor([-4.0, 1.0, 2.0, 3.0]))
    >>> pc.diagnose(pc.refine(rough)).verdict
    'reliable after refining'
    """
    check_fit(fit)
    check_positive(budget=budget)
    started = time.perf_counter()
    begun = better_centred(fit)
    left = budget - (time.perf_counter() - started)
    return refine_as_it_is(begun, budget=left, seed=seed, progress=progress)


def refine_as_it_is(fit: Fit, *, budget: float, seed: int, progress: bool | None) -> Fit:
    """Refine a fit in the coordinates that it has; as `refine`."""
    started = time.perf_counter()
    with isolated(seed, fit.param_state):
        kept: _Kept | None = None
        bar = tqdm(desc="refine", unit=" draws", leave=False, disable=not shown(progress))
        try:
            with bar:
                chains = begin(fit, seed, bar.update)
                while True:
                    begun = time.perf_counter()
                    kept = _round(chains, fit, bar.update)
                    left = budget - (time.perf_counter() - started)
                    if kept.accepted or left < _NEXT_TAKES * (time.perf_counter() - begun):
                        break
                    chains = _next(fit, chains, seed, bar.update)
        except KeyboardInterrupt:
            if kept is None:
                raise
            kept = replace(kept, reasons=(*kept.reasons, "it was interrupted"))
    assert kept is not None  # there is always a first round
    return _as_fit(fit, kept, time.perf_counter() - started)


@dataclass(frozen=True)
class _Kept:
    """What a round of chains has, and what it is worth."""

    chains: Chains
    run: Run
    agreement: Agreement
    reasons: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        return self.agreement.holds


def better_centred(fit: Fit) -> Fit:
    """Fit again with sites non-centred, where that can be, and keep what has the higher bound.

    Only where the fit is of a family by name by the deterministic engine: its bound is then known
    well enough to compare.
    """
    if fit.noncentred or fit.engine != DETERMINISTIC or fit.family == "map":
        return fit
    with isolated(fit.seed, fit.param_state):
        splittable = candidates(fit.programs.model)
    if not splittable:
        return fit
    family = fit.family.removesuffix(SUFFIX)
    try:
        other = fit_again(
            fit.model, family, *fit.args, data_kwargs=fit.kwargs, noncentred=splittable,
            seed=fit.seed,
        )  # fmt: skip
    except ValueError:  # the family cannot be fitted in the other coordinates
        return fit
    return max((fit, other), key=lambda one: (one.converged, one.elbo.value))


def _round(chains: Chains, fit: Fit, tick: Callable[[], object]) -> _Kept:
    """Let the chains go on, half of the way tuning them, and look whether they agree."""
    num_draws = min(_FIRST_ROUND * 2**chains.rounds, _LONGEST_ROUND)
    if chains.hills is not None:
        num_draws = _ANNEALED_ROUND
    chains.ensemble.adapt(num_draws // 2, tick)
    run = chains.ensemble.run(num_draws // 2, tick)
    chains.rounds += 1
    agreement = agree(scalars(chains.density, run), run, chains.superchains)
    reasons = agreement.reasons(replace(fit, modes=chains.modes))
    if chains.hills is not None:
        reasons = (*reasons, _told(*chains.shares(run.draws)))
    return _Kept(chains, run, agreement, reasons)


def _next(fit: Fit, chains: Chains, seed: int, tick: Callable[[], object]) -> Chains:
    """Give the chains of the next round: those that wait on hills of their own begin anew."""
    if chains.hills is not None:
        again = begin(fit, seed, tick, effort=chains.rounds)
    elif chains.rounds == _ROUNDS_TO_CLIMB and chains.density.dim <= MAX_SCALARS:
        again = begin(with_modes_of(fit, chains), seed, tick, effort=chains.rounds)
        if again.hills is None:
            return chains
    else:
        return chains
    again.rounds = chains.rounds
    again.ensemble.evaluations += chains.ensemble.evaluations
    return again


def _told(shares: Array, errors: Array) -> str:
    """Say how the mass is divided."""
    return "shares of the mass by hill: " + ", ".join(
        f"{share:.3f} ± {error:.3f}" for share, error in zip(shares, errors, strict=True)
    )


def scalars(density: UnconstrainedDensity, run: Run) -> dict[str, Array]:
    """Latents and derived values of a run, shape (chains, draws, scalars) each."""
    shape = run.draws.shape[:2]
    latents = density.constrain(run.draws.reshape(-1, run.draws.shape[2]))
    values = latents | derived_values(density.program, latents)
    return {
        name: value.detach().double().cpu().numpy().reshape(*shape, -1)
        for name, value in values.items()
    }


def _as_fit(fit: Fit, kept: _Kept, seconds: float) -> Fit:
    chains, run, agreement = kept.chains, kept.run, kept.agreement
    record = Refinement(
        kept.accepted, kept.reasons, len(chains.superchains),
        len(np.unique(chains.superchains)), run.draws.shape[1],
        agreement.acceptance, agreement.rhat, min(agreement.ess, float(run.draws[..., 0].size)),
        chains.ensemble.evaluations, seconds,
    )  # fmt: skip
    found = with_draws(fit, chains.density, run, record)
    why = f"{len(chains.superchains)} chains from the draws of {fit.family!r}"
    return replace(found, engine="ensemble", why=why, modes=chains.modes)


def with_draws(fit: Fit, density: UnconstrainedDensity, run: Run, record: Refinement) -> Fit:
    """Put the draws of chains in the place of a fit's guide."""
    model = fit.programs.model
    with isolated(0, fit.param_state):
        positions = run.draws.reshape(-1, run.draws.shape[2])
        latents = model.to_own(density.constrain(positions))
        guide = RefinedDraws.of(latents, torch.as_tensor(run.diverging))
    return replace(
        fit,
        programs=Programs(model, model.of(guide)),
        family="refined",
        converged=record.accepted,
        reason="the chains agree" if record.accepted else "the chains do not agree",
        seconds=fit.seconds + record.seconds,
        refinements=(*fit.refinements, record),
    )
