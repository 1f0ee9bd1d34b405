"""`refine`: from a fit, judged or rejected, to draws of chains that agree."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from pyro_cookbook.fits.fitting import fit as fit_again
from pyro_cookbook.fits.linear_response import SUFFIX
from pyro_cookbook.fits.refined import RefinedDraws, Refinement
from pyro_cookbook.fits.result import Fit, Programs, check_fit
from pyro_cookbook.fits.settings import DETERMINISTIC
from pyro_cookbook.posterior.refining.agreement import Agreement, agree
from pyro_cookbook.posterior.refining.ensemble import Ensemble, Run
from pyro_cookbook.programs.coordinates import Coordinates, from_draws
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity, unconstrained_density
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.noncentring import candidates
from pyro_cookbook.programs.options import check_positive
from pyro_cookbook.programs.predictive import derived_values
from pyro_cookbook.programs.state.isolation import isolated
from pyro_cookbook.programs.state.progress import shown

Array = npt.NDArray[np.float64]

# Draws of the guide that scale the chains, and the groups of chains with one start.
_SCALING_DRAWS, _NUM_STARTS = 2000, 16
# Scalars of the model in a batch: it sets how many chains there are, the same on every machine.
_BATCH_SCALARS, _FEWEST, _MOST = 2e6, 32, 256
# Draws of each chain in the first round, of which half tune and half are kept; then twice as many.
_FIRST_ROUND, _LONGEST_ROUND = 64, 4096
# A latent that has one mode of the posterior counts if it has at least this share of its mass.
LEAST_SHARE = 1e-3


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
        chains = _begin(fit, seed)
        kept: _Kept | None = None
        bar = tqdm(desc="refine", unit=" draws", leave=False, disable=not shown(progress))
        try:
            with bar:
                for num_draws in _rounds():
                    kept = _round(chains, fit, num_draws, bar.update)
                    if kept.accepted or time.perf_counter() - started > budget:
                        break
        except KeyboardInterrupt:
            if kept is None:
                raise
            kept = replace(kept, reasons=(*kept.reasons, "it was interrupted"))
    assert kept is not None  # there is always a first round
    return _as_fit(fit, chains, kept, time.perf_counter() - started)


@dataclass
class _Chains:
    """The ensemble, the density it is of, and which chains have one start."""

    density: UnconstrainedDensity
    ensemble: Ensemble
    superchains: npt.NDArray[np.int64]
    rounds: int = 0


@dataclass(frozen=True)
class _Kept:
    """What a round of chains has, and what it is worth."""

    run: Run
    agreement: Agreement
    reasons: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        return self.agreement.holds


def _rounds() -> Any:
    """Draws a chain of every round: twice as many each time."""
    num_draws = _FIRST_ROUND
    while True:
        yield num_draws
        num_draws = min(2 * num_draws, _LONGEST_ROUND)


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


def _begin(fit: Fit, seed: int) -> _Chains:
    """Place chains at draws of the guide, and in every mode that the fit has found."""
    model, guide = fit.programs
    density = unconstrained_density(model)
    rng = np.random.default_rng(seed)
    drawn = draw(guide, _SCALING_DRAWS)
    z = density.unconstrain({name: drawn.values[name].double() for name in density.shapes})
    z = z[np.isfinite(z).all(1)]
    if not len(z):
        raise ValueError("fit: its guide draws no latents at which the model has a density")
    number = num_chains(density)
    starts = z[rng.integers(len(z), size=_NUM_STARTS)]
    modes = [mode for mode in fit.modes if mode.share > LEAST_SHARE and mode.location]
    if len(modes) > 1:
        for i in range(1, _NUM_STARTS, 2):  # every other one
            starts[i] = modes[(i // 2) % len(modes)].location
    superchains = np.repeat(np.arange(_NUM_STARTS), number // _NUM_STARTS)
    coordinates = _scale(z, fit)
    ensemble = Ensemble(density.value_and_grad, starts[superchains], coordinates, rng)
    return _Chains(density, ensemble, superchains)


def _scale(z: Array, fit: Fit) -> Coordinates:
    """Coordinates in which draws are round; of a single point, those of its surroundings."""
    if (z == z[0]).all():
        return Coordinates(z[0], np.full(z.shape[1], 0.1))
    return from_draws(z, max_dense=500, shrinkage=0.02)


def num_chains(density: UnconstrainedDensity) -> int:
    """Count the chains that a model can afford: a power of two between 32 and 256."""
    if density.obstacle:  # each chain costs a run of the model
        return _FEWEST
    affordable = max(1.0, _BATCH_SCALARS / max(1, density.scalars))
    return int(np.clip(2 ** int(np.log2(affordable)), _FEWEST, _MOST))


def _round(chains: _Chains, fit: Fit, num_draws: int, tick: Callable[[], object]) -> _Kept:
    """Let the chains go on, half of the way tuning them, and look whether they agree."""
    chains.ensemble.adapt(num_draws // 2, tick)
    run = chains.ensemble.run(num_draws // 2, tick)
    chains.rounds += 1
    values = scalars(chains.density, run)
    agreement = agree(values, run, chains.superchains)
    return _Kept(run, agreement, agreement.reasons(fit))


def scalars(density: UnconstrainedDensity, run: Run) -> dict[str, Array]:
    """Latents and derived values of a run, shape (chains, draws, scalars) each."""
    shape = run.draws.shape[:2]
    latents = density.constrain(run.draws.reshape(-1, run.draws.shape[2]))
    values = latents | derived_values(density.program, latents)
    return {
        name: value.detach().double().cpu().numpy().reshape(*shape, -1)
        for name, value in values.items()
    }


def _as_fit(fit: Fit, chains: _Chains, kept: _Kept, seconds: float) -> Fit:
    run, agreement = kept.run, kept.agreement
    record = Refinement(
        kept.accepted, kept.reasons, len(chains.superchains), _NUM_STARTS, run.draws.shape[1],
        agreement.acceptance, agreement.rhat, min(agreement.ess, float(run.draws[..., 0].size)),
        chains.ensemble.evaluations, seconds,
    )  # fmt: skip
    found = with_draws(fit, chains.density, run, record)
    why = f"{len(chains.superchains)} chains from the draws of {fit.family!r}"
    return replace(found, engine="ensemble", why=why)


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
