"""Run catalogue entries: fit, keep, diagnose, convert."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import xarray as xr

from pyro_cookbook.catalogue import Recipe
from pyro_cookbook.data import InputError, Shards, Table
from pyro_cookbook.fits.keeping.checkpoint import digest
from pyro_cookbook.fits.keeping.storage import save
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.datatree import to_datatree
from pyro_cookbook.posterior.layout import Coords, Dims
from pyro_cookbook.publish.runs.folder import asked
from pyro_cookbook.verdict.diagnosis import Diagnosis, diagnose

# What one NetCDF file may hold in draws, in bytes: a draw of a large table has every row anew.
MAX_BYTES = 200_000_000


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; the message says what is kept, and how to go on."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """One guide of one recipe, fitted and judged.

    Attributes
    ----------
    recipe : Recipe
    guide : str
    options : dict
        That were asked for, by name.
    table : Table
    fit : Fit
    diagnosis : Diagnosis
    log_evidence : float or None
        Exact log p(v; θ), in nats.
    estimates : pandas.DataFrame
        What the fit says, in the table's units.
    tree : xarray.DataTree
    seed, num_draws : int
        That were asked for.
    seconds : float
        Of the fit and its diagnosis.
    note : str
        What was left out of the tree to bound its size; "" if nothing was.
    coords, dims : mapping
        Labels and names of the dimensions, for ArviZ.
    warned : tuple of str
        What a reader should know of the table.
    num_streamed : int or None
        Rows of shards that were fitted, where those of the table were held out.
    """

    recipe: Recipe
    guide: str
    options: Mapping[str, Any]
    table: Table
    fit: Fit
    diagnosis: Diagnosis
    log_evidence: float | None
    estimates: pd.DataFrame
    tree: xr.DataTree
    seed: int
    num_draws: int
    seconds: float
    note: str
    coords: Coords
    dims: Dims
    warned: tuple[str, ...]
    num_streamed: int | None = None


def wanted(
    recipe: Recipe,
    guide: str,
    table: Table,
    *,
    options: Mapping[str, Any],
    seed: int,
    num_draws: int,
) -> dict[str, Any]:
    """Collect what decides the numbers of a run: another run has another."""
    return asked(recipe.name, {"guide": guide, **options}, seed, num_draws, digest_of(table))


def _name_of(wanted: dict[str, Any], table: Table) -> str:
    """Tell unfinished runs apart by what is asked for; of shards, whatever is in them now."""
    options = wanted["options"]
    if "shards" in options:  # where they have changed, the checkpoint says so
        wanted = {**wanted, "options": {**options, "shards": ""}, "data": table.source}
    return digest(wanted)[:12]


def digest_of(table: Table) -> str:
    """Fingerprint of a table's rows in their own units."""
    return digest([table.columns, table.raw])


def run_guide(
    recipe: Recipe,
    guide: str,
    table: Table,
    unfinished: Path,
    *,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    num_draws: int = 1000,
    progress: bool | None = False,
    warn: Callable[[str], None] = lambda note: None,
    prepare: Callable[..., Any] | None = None,
) -> Outcome:
    """Fit one guide of a recipe to a table and judge it.

    An interrupted fit is kept and goes on from there when the same is asked for again; a fit that
    is not judged yet is kept too.

    Parameters
    ----------
    recipe : Recipe
    guide : str
        One of ``recipe.guides``.
    table : Table
    unfinished : Path
        Folder for what an interruption leaves.
    options : mapping, optional
        The recipe's options, by name. Default: its own.
    seed : int, default 0
    num_draws : int, default 1000
        Draws to keep in the DataTree, fewer where they would fill more than `MAX_BYTES`; the
        diagnosis makes its own.
    progress : bool, optional
    warn : callable, optional
        Called, before the fit, with each thing that a reader should know of the table.
    prepare : callable, optional
        Stands for ``recipe.prepare``, where the table is not what is fitted.

    Raises
    ------
    InputError
        For an unknown guide, an option or a table that the recipe cannot take, or more rows than
        the memory holds draws of.
    OSError
        If a file cannot be written.
    Interrupted
        On Ctrl-C.
    """
    options = dict(options or {})
    name = f"{recipe.name}-{guide}"
    told = _name_of(wanted(recipe, guide, table, options=options, seed=seed, num_draws=0), table)
    checkpoint = unfinished / f"{name}-{told}.safetensors"
    unjudged = unfinished / f"{name}-{told}-unjudged.safetensors"
    started = perf_counter()
    kept = "nothing was kept"
    try:
        own = {k: value for k, value in options.items() if k not in {"size", "max_steps"}}
        make = prepare or recipe.prepare
        prepared = make(guide, table, size=options.get("size"), seed=seed, options=own)
        if "max_steps" in options:
            if prepared.reason:
                raise InputError(f"--max-steps: {guide} is not fitted by steps; leave it out")
            prepared.options["max_steps"] = options["max_steps"]
        for told_before in prepared.notes:
            warn(told_before)
        try:
            fit = prepared.fit(seed=seed, progress=progress, checkpoint=checkpoint)
        except ValueError as error:  # `fit` documents it: a model that cannot be fitted to the rows
            raise InputError(f"{recipe.name}: {error}") from error
        save(fit, unjudged)
        kept = f"the fit is kept in {unjudged}, not judged yet"
        log_evidence = recipe.log_evidence(fit)
        diagnosis = diagnose(fit, log_evidence=log_evidence, seed=seed)
        seconds = perf_counter() - started
        coords = {**recipe.coords(table), **prepared.coords}
        dims = {**recipe.dims, **prepared.dims}
        tree, note = _bounded_tree(fit, coords, dims, num_draws, seed)
        attributes = {"recipe": recipe.name, "guide": guide, "data": table.name}
        tree.attrs.update(attributes, verdict=diagnosis.verdict)
        estimates = recipe.estimates(fit, table)
    except KeyboardInterrupt as error:
        if checkpoint.exists() and not unjudged.exists():
            kept = f"the fit so far is kept in {checkpoint}; the same command goes on from there"
        raise Interrupted(kept) from error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise InputError(
            f"{table.name!r} with {len(table.v)} rows and {len(table.columns)} columns: out of"
            f" memory; {kept}; take fewer rows"
        ) from error
    finally:
        remove_if_empty(unfinished)
    for path in (checkpoint, unjudged):
        path.unlink(missing_ok=True)
    remove_if_empty(unfinished)
    return Outcome(
        recipe, guide, options, table, fit, diagnosis, log_evidence, estimates, tree, seed,
        num_draws, seconds, note, coords, dims, prepared.notes,
        len(prepared.data[0]) if isinstance(prepared.data[0], Shards) else None,
    )  # fmt: skip


def remove_if_empty(folder: Path) -> None:
    """Remove a folder, unless something is in it or it was never made."""
    with suppress(OSError):
        folder.rmdir()


def _bounded_tree(
    fit: Fit, coords: Coords, dims: Dims, num_draws: int, seed: int
) -> tuple[xr.DataTree, str]:
    """Convert with as many draws as `MAX_BYTES` holds, and say if that is fewer than asked for."""

    def convert(count: int) -> xr.DataTree:
        return to_datatree(fit, num_draws=count, seed=seed, coords=coords, dims=dims)

    few = convert(2)
    arrays = [array for node in few.subtree for array in node.to_dataset().data_vars.values()]
    one_draw = sum(array.nbytes for array in arrays if "draw" in array.dims) / 2
    count = int(max(1, min(num_draws, MAX_BYTES // one_draw)))
    if count == num_draws:
        return convert(count), ""
    return convert(count), (
        f"{count} of {num_draws} draws kept: a draw has"
        f" {one_draw / 1e6:.2g} MB, and the file holds {MAX_BYTES / 1e6:.0f} MB of draws"
    )


def _is_out_of_memory(error: BaseException) -> bool:
    # torch has no class for it on the CPU.
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def run_recipes(
    recipes: Sequence[Recipe],
    load: Callable[[str], Table],
    unfinished: Path,
    on_outcome: Callable[[Outcome], None],
    *,
    seed: int = 0,
    num_draws: int = 1000,
) -> list[Outcome]:
    """Fit every guide of every recipe to its bundled data, telling the caller of each.

    Raises
    ------
    Interrupted
        On Ctrl-C, saying how many fits are done.
    """
    outcomes: list[Outcome] = []
    total = sum(len(recipe.guides) for recipe in recipes)
    try:
        for recipe in recipes:
            table = load(recipe.data)
            for guide in recipe.guides:
                outcome = run_guide(
                    recipe, guide, table, unfinished, seed=seed, num_draws=num_draws
                )
                on_outcome(outcome)
                outcomes.append(outcome)
    except KeyboardInterrupt as error:
        kept = str(error) or "nothing was kept"
        raise Interrupted(
            f"{len(outcomes)} of {total} fits are written; of the next, {kept}"
        ) from error
    return outcomes
