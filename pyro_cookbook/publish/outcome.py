"""Run catalogue entries: fit, diagnose, convert, write."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from pyro_cookbook.catalogue import Recipe
from pyro_cookbook.data import Table
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.fits.storage import save
from pyro_cookbook.posterior.datatree import to_datatree
from pyro_cookbook.programs.isolation import isolated
from pyro_cookbook.publish import figures
from pyro_cookbook.publish import topic_figures as pictures
from pyro_cookbook.verdict.diagnosis import Diagnosis, diagnose
from pyro_cookbook.verdict.findings import VERDICTS


@dataclass(frozen=True, eq=False)
class Outcome:
    """One guide of one recipe, fitted and judged.

    Attributes
    ----------
    recipe : Recipe
    guide : str
    table : Table
    fit : Fit
    diagnosis : Diagnosis
    log_evidence : float or None
        Exact log p(v; θ), in nats.
    tree : xarray.DataTree
    seconds : float
        Of the fit and its diagnosis.
    """

    recipe: Recipe
    guide: str
    table: Table
    fit: Fit
    diagnosis: Diagnosis
    log_evidence: float | None
    tree: xr.DataTree
    seconds: float


def run_guide(
    recipe: Recipe,
    guide: str,
    table: Table,
    *,
    size: int | None = None,
    seed: int = 0,
    num_draws: int = 1000,
    progress: bool | None = False,
) -> Outcome:
    """Fit one guide of a recipe to a table.

    Parameters
    ----------
    recipe : Recipe
    guide : str
        One of ``recipe.guides``.
    table : Table
    size : int, optional
        Number of factors or components. Default: the recipe's.
    seed : int, default 0
    num_draws : int, default 1000
        Draws to keep in the DataTree; the diagnosis makes its own.
    progress : bool, optional

    Raises
    ------
    ValueError
        For an unknown guide, or a size that the data do not allow.
    """
    if guide not in recipe.guides:
        raise ValueError(f"--guide: got {guide!r}, expected one of {', '.join(recipe.guides)}")
    rows = recipe.rows(table)
    size = _checked_size(recipe, table, size)
    started = time.perf_counter()
    with isolated(seed):
        prepared = recipe.guides[guide].prepare(rows, size, seed)
    fit = prepared.fit(seed=seed, progress=progress)
    log_evidence = recipe.log_evidence(fit)
    diagnosis = diagnose(fit, log_evidence=log_evidence, seed=seed)
    seconds = time.perf_counter() - started
    tree = to_datatree(
        fit, num_draws=num_draws, seed=seed, coords=recipe.coords(table), dims=recipe.dims
    )
    tree.attrs.update(recipe=recipe.name, guide=guide, data=table.name, verdict=diagnosis.verdict)
    return Outcome(recipe, guide, table, fit, diagnosis, log_evidence, tree, seconds)


def _checked_size(recipe: Recipe, table: Table, size: int | None) -> int:
    if size is None:
        return recipe.size
    if not recipe.size_name:
        raise ValueError(f"--size: {recipe.name} has nothing to count; leave it out")
    most = recipe.max_size(table.v)
    if not 1 <= size <= most:
        raise ValueError(
            f"--size: got {size} {recipe.size_name}, expected 1 to {most} for {table.name!r}"
            f" with {len(table.v)} rows and {len(table.columns)} columns"
        )
    return size


def write_outcome(outcome: Outcome, folder: Path) -> Path:
    """Write the fit (``.pt``) and its DataTree (``.nc``); give the path of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{outcome.recipe.name}-{outcome.guide}"
    save(outcome.fit, stem.with_name(f"{stem.name}.pt"))
    path = stem.with_name(f"{stem.name}.nc")
    part = path.with_name(f"{path.name}.part")
    try:
        outcome.tree.to_netcdf(part, engine="h5netcdf")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def run_recipes(
    recipes: Sequence[Recipe],
    load: Callable[[str], Table],
    on_outcome: Callable[[Outcome], None],
    *,
    seed: int = 0,
    num_draws: int = 1000,
) -> list[Outcome]:
    """Fit every guide of every recipe to its bundled data, telling the caller of each."""
    outcomes = []
    for recipe in recipes:
        table = load(recipe.data)
        for guide in recipe.guides:
            outcome = run_guide(recipe, guide, table, seed=seed, num_draws=num_draws)
            on_outcome(outcome)
            outcomes.append(outcome)
    return outcomes


def draw_figures(outcomes: Sequence[Outcome]) -> list[tuple[str, Figure]]:
    """Draw the figures of one recipe: alternative text and figure."""
    first = outcomes[0]
    bounds = {o.guide: (o.fit.losses, o.fit.elbo.value, o.log_evidence) for o in outcomes}
    drawn = [
        (
            f"Bound against steps for every guide of {first.recipe.title}",
            figures.plot_bounds(bounds, first.recipe.title.rsplit(":", maxsplit=1)[-1].strip()),
        )
    ]
    draw = pictures.PICTURES.get(first.recipe.name)
    if draw is not None:
        drawn.append(draw({o.guide: o.tree for o in outcomes}, first.table))
    spread = [o for o in outcomes if np.isfinite(o.diagnosis.evidence.value)]  # no points
    best = min(
        spread or [first], key=lambda o: (VERDICTS.index(o.diagnosis.verdict), -o.fit.elbo.value)
    )
    chains = to_datatree(
        best.fit,
        num_draws=200,
        coords=best.recipe.coords(best.table),
        dims=best.recipe.dims,
        sample_dims=("chain", "draw"),
    )
    if "observed_data" in chains.children:
        drawn.append(figures.plot_predictive(chains, best.guide))
    return drawn
