"""A run applied to new rows: clusters, codes, probabilities or predictions, in the user's units."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyro_cookbook import catalogue
from pyro_cookbook.data import InputError, Schema
from pyro_cookbook.fits.keeping.files import write_bytes
from pyro_cookbook.fits.keeping.storage import load
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.prediction import predict
from pyro_cookbook.publish.own_model import load_model, new_arguments, observed_arguments
from pyro_cookbook.publish.runs import formula
from pyro_cookbook.publish.runs.folder import DATA, STATE, Record, checked, read_record

# Of what is predicted, this interval.
_MASS = 0.89
_BATCH = 2_000  # rows at once, of a reader's own model
WRITERS = (".csv", ".parquet")


def predict_rows(
    folder: Path,
    source: Any,
    *,
    model: str | None = None,
    unseen: str = "refuse",
    seed: int = 0,
    **reading: Any,
) -> pd.DataFrame:
    """Say what a run means for new rows.

    Parameters
    ----------
    folder : Path
        Of the run.
    source : path or table
        The new rows: any form that `data.read` takes, with the columns that the run was made with.
    model : str, optional
        ``file.py:function`` of the run of a reader's own model: it is run, so it has to be named.
    unseen : {"refuse", "population"}
        Of a regression: levels of groups that the fit has not seen are refused, or drawn from the
        population of the groups.
    seed : int, default 0
        Of a regression's draws, and a reader's own model's.
    **reading
        missing, separator, decimal, encoding, header: as for `data.read`.

    Returns
    -------
    pandas.DataFrame
        A row for each new one, in their order, with the row's number in the source as its index.

    Raises
    ------
    FileNotFoundError, InputError
        In one line: if the folder is no run's, a file in it has changed, or the rows have not the
        columns of the run or have a category that is new.
    """
    record = read_record(folder)
    fit = fit_of(folder, record, model)
    if unseen != "refuse" and record.what != formula.NAME:
        raise InputError(f"--unseen: it is about groups of a regression, not {record.what}")
    if record.what == formula.NAME:
        frame = pd.read_parquet(checked(folder, record, DATA))
        kept = formula.kept_regression(fit, frame, record.options, record.guide, record.verdict)
        levels = record.schema_.get("arguments") or formula.levels_of(frame)
        found, rows = formula.predict_rows_of(
            kept, source, levels, reading, unseen=unseen, seed=seed
        )
    elif record.kind == "recipe":
        new = Schema.model_validate(record.schema_).apply(source, **reading)
        found, rows = catalogue.recipe(record.what).apply(fit, new), new.rows
        # Without the outcome's column the rows do not say what it is called.
        found = found.rename(columns={"P(outcome)": f"P({record.schema_['outcome']})"})
    else:
        found, rows = _own(fit, record.schema_["arguments"], source, seed, reading)
    return found.set_axis(pd.Index(rows, name="row"), axis=0)


def fit_of(folder: Path, record: Record, model: str | None) -> Fit:
    """Load the fit of a run.

    Raises
    ------
    InputError
        If its file has changed, or the model has, or a model is needed.
    """
    state = checked(folder, record, STATE)
    if record.kind == "model" and model is None:
        raise InputError(
            f"--model: the run is of {record.what}; name the file and the function, which are run"
        )
    if record.kind != "model" and model is not None:
        raise InputError(f"--model: the run is of the recipe {record.what}; leave it out")
    try:
        return load(state, model=None if model is None else load_model(model))
    except InputError:
        raise
    except ValueError as error:  # documented: of another release, or its model has changed
        raise InputError(str(error)) from error


def write_rows(found: pd.DataFrame, path: Path) -> None:
    """Write predictions whole, as CSV or Parquet by the file's name.

    Raises
    ------
    InputError, OSError
        If the name ends in neither, or the place cannot be written to.
    """
    check_target(path)
    if path.suffix == ".parquet":
        buffer = io.BytesIO()
        found.to_parquet(buffer)
        write_bytes(buffer.getvalue(), path)
    else:
        write_bytes(found.to_csv().encode(), path)


def check_target(path: Path) -> None:
    """Refuse a name that does not say what to write.

    Raises
    ------
    InputError
    """
    if path.suffix not in WRITERS:
        raise InputError(f"--out: got {path}, expected a name that ends in {' or '.join(WRITERS)}")
    if path.is_dir():
        raise InputError(f"--out: {path} is a folder, expected a file")


def _own(
    fit: Fit, levels: Mapping[str, Any], source: Any, seed: int, reading: Mapping[str, Any]
) -> tuple[pd.DataFrame, Any]:
    """Predict what a reader's own model observes: mean, sd and interval of each row."""
    observed = observed_arguments(fit, list(levels))
    wanted = {name: words for name, words in levels.items() if name not in observed}
    if not wanted:
        raise InputError(
            f"model: all its arguments ({', '.join(observed)}) are what it observes; there is"
            " nothing to predict from"
        )
    new = new_arguments(wanted, source, **reading)
    parts = []
    for begin in range(0, len(new.frame), _BATCH):
        rows = {name: value[begin : begin + _BATCH] for name, value in new.data.items()}
        try:
            tree = predict(fit, data_kwargs=rows, seed=seed)
        except ValueError as error:  # documented, in one line
            raise InputError(f"model: {error}") from error
        parts.append(_told(tree, len(next(iter(rows.values())))))
    return pd.concat(parts, ignore_index=True), new.rows


def _told(tree: Any, num_rows: int) -> pd.DataFrame:
    columns = {}
    edges = ((1 - _MASS) / 2, (1 + _MASS) / 2)
    for name, draws in tree["predictions"].to_dataset().data_vars.items():
        values = draws.stack(all=("chain", "draw"), create_index=False).transpose("all", ...)
        if values.shape[1:] != (num_rows,):
            continue
        array = values.to_numpy()
        columns[f"{name} mean"], columns[f"{name} sd"] = array.mean(0), array.std(0)
        columns[f"{name} lower"], columns[f"{name} upper"] = np.quantile(array, edges, axis=0)
    if not columns:
        raise InputError("model: nothing that it predicts has one value for each row")
    return pd.DataFrame(columns)
