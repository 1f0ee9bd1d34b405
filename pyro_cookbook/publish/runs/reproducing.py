"""A run made again from what its folder says, and compared with what it has."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from pyro_cookbook import catalogue, data
from pyro_cookbook.catalogue.topics.regression import Options
from pyro_cookbook.data import InputError, Schema, Table
from pyro_cookbook.publish.outcome import digest_of, run_guide
from pyro_cookbook.publish.own_model import answer, load_model, tensors_of
from pyro_cookbook.publish.runs import formula
from pyro_cookbook.publish.runs.folder import DATA, DRAWS, Record, checked, read_record
from pyro_cookbook.publish.runs.page import draws_of
from pyro_cookbook.publish.runs.predicting import fit_of
from pyro_cookbook.publish.runs.writing import versions


@dataclass(frozen=True)
class Reproduction:
    """How a run that was made again agrees with the one that is kept.

    Attributes
    ----------
    record : Record
        Of the run that is kept.
    verdict : str
        Of the one that was made again.
    arrays, equal : int
        Variables that were compared, and those with the same numbers bit for bit.
    largest : float
        Largest difference of a posterior mean, in posterior sds.
    changed : dict of str to (str, str)
        Package → its version then and now, where they differ.
    """

    record: Record
    verdict: str
    arrays: int
    equal: int
    largest: float
    changed: dict[str, tuple[str, str]]

    @property
    def holds(self) -> bool:
        """Whether all numbers are the same, bit for bit."""
        return self.equal == self.arrays

    def __str__(self) -> str:
        """Say it in some lines."""
        if self.holds:
            lines = [f"the same numbers: {self.arrays} arrays, bit for bit"]
        else:
            lines = [
                f"other numbers: {self.arrays - self.equal} of {self.arrays} arrays differ, means"
                f" by at most {self.largest:.2g} posterior sds"
            ]
            told = [f"{name} {then}, now {now}" for name, (then, now) in self.changed.items()]
            lines.append(f"versions: {'; '.join(told)}" if told else "versions: the same")
        lines.append(f"verdict: {self.verdict} (kept: {self.record.verdict})")
        return "\n".join(lines)


def reproduce(
    folder: Path, *, model: str | None = None, progress: bool | None = False
) -> Reproduction:
    """Make a run again from its record and the rows that are kept with it.

    Parameters
    ----------
    folder : Path
        Of the run; it stays as it is.
    model : str, optional
        ``file.py:function`` of the run of a reader's own model: it is run, so it has to be named.
    progress : bool, optional

    Raises
    ------
    FileNotFoundError, InputError
        If the folder is no run's, or a file in it or the model has changed.
    """
    record = read_record(folder)
    if "batch_size" in record.options or "shards" in record.options:
        raise InputError(
            f"{folder}: it was fitted to shards in {record.data.source}, which are not kept with"
            f" it; run again: {record.command}"
        )
    fit_of(folder, record, model)  # refuses a model that has changed
    for name in record.files:  # the tables and the page for people among them
        checked(folder, record, name)
    kept = xr.load_datatree(checked(folder, record, DRAWS), engine="h5netcdf")
    if record.kind == "recipe":
        options = {name: value for name, value in record.options.items() if name != "guide"}
        with TemporaryDirectory() as place:
            done = run_guide(
                catalogue.recipe(record.what), record.guide, table_of(folder, record),
                Path(place) / "unfinished", options=options, seed=record.seed,
                num_draws=record.draws, progress=progress,
            )  # fmt: skip
        verdict, tree = done.diagnosis.verdict, done.tree
    elif record.kind == "regression":
        frame = pd.read_parquet(checked(folder, record, DATA))
        own = {name: value for name, value in record.options.items() if name != "guide"}
        again = formula.fit_formula(
            frame, Options(**own), record.guide, seed=record.seed,
            budget=record.budget or 60.0, progress=progress,
        )  # fmt: skip
        verdict, tree = again.verdict, formula.tree_of(again, record.draws)
    else:
        assert model is not None  # or `fit_of` has refused
        data = tensors_of(pd.read_parquet(checked(folder, record, DATA)))
        found = answer(
            load_model(model), data, budget=record.budget or 60.0, seed=record.seed,
            progress=progress,
        )  # fmt: skip
        verdict, tree = found.verdict, draws_of(found)
    arrays, equal, largest = compared(kept, tree)
    return Reproduction(record, verdict, arrays, equal, largest, _changed(record))


def table_of(folder: Path, record: Record) -> Table:
    """Give the table of a run, from the rows that are kept with it.

    Raises
    ------
    InputError
        If they have changed.
    """
    if record.data.bundled:
        table = data.load(record.data.name)
    else:
        frame = pd.read_parquet(checked(folder, record, DATA))
        schema = Schema.model_validate(record.schema_)
        table = schema.apply(frame, need_outcome=True, name=record.data.name)
    if digest_of(table) != record.data.digest:
        raise InputError(f"{folder}: the rows are not those of the run; run again")
    return table


def compared(kept: xr.DataTree, again: xr.DataTree) -> tuple[int, int, float]:
    """Count variables of all groups and those that are equal, and measure how far means moved.

    Returns
    -------
    arrays, equal : int
    largest : float
        Largest difference of a posterior mean, in posterior sds.

    Raises
    ------
    InputError
        If there are other variables.
    """
    then, now = _variables(kept), _variables(again)
    if then.keys() != now.keys():
        odd = ", ".join(sorted(then.keys() ^ now.keys()))
        raise InputError(f"the run that was made again has other variables: {odd}")
    equal, largest = 0, 0.0
    for name, one in then.items():
        other = now[name]
        same = one.shape == other.shape and np.array_equal(one, other, equal_nan=True)
        equal += same
        if not same and name.startswith("posterior/"):
            largest = max(largest, _moved(one, other))
    return len(then), equal, largest


def _variables(tree: xr.DataTree) -> dict[str, npt.NDArray[np.float64]]:
    return {
        f"{node.name}/{name}": values.to_numpy().astype(float)
        for node in tree.subtree
        for name, values in node.to_dataset().data_vars.items()
        if values.dtype.kind in "fiub"
    }


def _moved(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Give the largest difference of two means over chains and draws, in the first one's sds."""
    first, second = (values.reshape(-1, *values.shape[2:]) for values in (one, other))
    apart, sd = np.abs(first.mean(0) - second.mean(0)), first.std(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(apart > 0, apart / sd, 0.0).max(initial=0.0))


def _changed(record: Record) -> dict[str, tuple[str, str]]:
    now = versions()
    return {
        name: (then, now.get(name, "missing"))
        for name, then in record.versions.items()
        if now.get(name) != then
    }
