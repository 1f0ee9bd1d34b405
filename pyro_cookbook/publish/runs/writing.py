"""What came out of a run, as the files of its folder."""

import io
import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from pyro_cookbook.data import NAMES, Table
from pyro_cookbook.fits.keeping.checkpoint import digest
from pyro_cookbook.fits.keeping.storage import fit_bytes
from pyro_cookbook.fits.refined import RefinedDraws
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.groups import MAX_GIB, sizes_of
from pyro_cookbook.publish.outcome import Outcome, digest_of
from pyro_cookbook.publish.own_model import Arguments
from pyro_cookbook.publish.runs.folder import (
    DATA,
    DRAWS,
    REPORT,
    STATE,
    SUMMARY,
    Data,
    Record,
    asked,
    write_run,
)
from pyro_cookbook.verdict.diagnosis import Diagnosis
from pyro_cookbook.verdict.inference import Answer

PACKAGES = (
    "pyro-cookbook", "torch", "pyro-ppl", "nutpie", "arviz", "numpy", "scipy", "pandas", "formulae"
)  # fmt: skip


def write_outcome(
    outcome: Outcome, folder: Path, *, command: str, report: str | None, overwrite: bool = False
) -> None:
    """Write a recipe's run.

    Parameters
    ----------
    outcome : Outcome
    folder : Path
    command : str
        That made it.
    report : str or None
        The page, if it is to have one of its own.
    overwrite : bool, default False
        Whether another run in the folder may be replaced.

    Raises
    ------
    InputError, OSError
        As `write_run`.
    """
    table = outcome.table
    record = record_of(
        kind="recipe", what=outcome.recipe.name, guide=outcome.guide,
        options={"guide": outcome.guide, **outcome.options}, seed=outcome.seed,
        draws=outcome.num_draws, budget=None, command=command, data=data_of(table),
        schema_=table.schema.model_dump(), fit=outcome.fit, diagnosis=outcome.diagnosis,
        seconds=outcome.seconds,
    )  # fmt: skip
    files = files_of(outcome.fit, outcome.tree, outcome.estimates, table.frame, report)
    write_run(folder, files, record, overwrite=overwrite)


def write_answer(
    found: Answer, arguments: Arguments, tree: xr.DataTree, estimates: pd.DataFrame, folder: Path,
    *, spec: str, budget: float, seed: int, command: str, report: str | None,
    overwrite: bool = False,
) -> None:  # fmt: skip
    """Write the run of a reader's own model.

    Parameters
    ----------
    found : Answer
    arguments : Arguments
    tree : xarray.DataTree
        Its draws.
    estimates : pandas.DataFrame
        Their summary.
    folder : Path
    spec : str
        ``file.py:function``.
    budget, seed
        That were asked for.
    command, report, overwrite
        As for `write_outcome`.
    """
    columns = {name: arguments.levels.get(name) for name in arguments.data}
    data = Data(
        name=arguments.name, source=arguments.source, bundled=False,
        digest=digest(arguments.data), rows=len(arguments.frame), columns=len(columns),
        understood=arguments.lines,
    )  # fmt: skip
    record = record_of(
        kind="model", what=spec, guide=str(found.tried.index[-1]), options={}, seed=seed, draws=0,
        budget=budget, command=command, data=data, schema_={"arguments": columns}, fit=found.fit,
        diagnosis=found.diagnosis, seconds=float(found.tried["seconds"].sum()),
    )  # fmt: skip
    files = files_of(found.fit, tree, estimates, arguments.frame, report)
    write_run(folder, files, record, overwrite=overwrite)


def asked_of_model(spec: str, arguments: Arguments, seed: int) -> dict[str, Any]:
    """Collect what decides the numbers of a reader's own model's run."""
    return asked(spec, {}, seed, 0, digest(arguments.data))


def record_of(*, fit: Fit, diagnosis: Diagnosis, **given: Any) -> Record:
    """Put a record together; `given` are its fields that are known as they are."""
    elbo = fit.elbo
    return Record(
        versions=versions(),
        verdict=diagnosis.verdict,
        reasons=diagnosis.reasons,
        advice=diagnosis.advice,
        elbo=elbo.value if math.isfinite(elbo.value) else None,
        elbo_se=elbo.se if math.isfinite(elbo.se) else None,
        files={},
        **given,
    )


def data_of(table: Table) -> Data:
    """Describe a table."""
    return Data(
        name=table.name, source=table.source, bundled=table.name in NAMES,
        digest=digest_of(table), rows=len(table.v), columns=len(table.columns),
        understood=table.understood.lines,
    )  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: version(name) for name in PACKAGES},
    }


def files_of(
    fit: Fit, tree: xr.DataTree, estimates: pd.DataFrame, frame: pd.DataFrame, report: str | None
) -> Mapping[str, bytes]:
    """Give the content of each file."""
    rows = io.BytesIO()
    frame.to_parquet(rows)
    files = {
        STATE: fit_bytes(fit),
        DRAWS: netcdf_bytes(tree),
        SUMMARY: estimates.to_csv().encode(),
        DATA: rows.getvalue(),
    }
    return files if report is None else {**files, REPORT: report.encode()}


def room_for(fit: Fit, draws: int) -> dict[str, float]:
    """Keep what draws say of each row for about so many, and of chains all that there are.

    Parameters
    ----------
    fit : Fit
    draws : int
        At least one is kept of each chain.

    Returns
    -------
    dict
        Keywords of `to_datatree`; none for a fit that can draw anew, as many as are asked for.
    """
    if not isinstance(fit.guide, RefinedDraws):
        return {}
    posterior, pointwise, _ = sizes_of(fit.programs.model)
    num_chains = len(fit.guide.diverging)
    size = fit.guide.diverging.numel() * posterior + max(draws, num_chains) * pointwise
    return {"max_gib": min(MAX_GIB, size / 2**30)}


def netcdf_bytes(tree: xr.DataTree) -> bytes:
    """Write to memory: HDF5 locks files that it writes itself, and a full disk ends the process."""
    buffer = io.BytesIO()
    tree.to_netcdf(buffer, engine="h5netcdf")
    return buffer.getvalue()  # a view of the buffer would end the process if it met the collector
