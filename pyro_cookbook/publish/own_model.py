"""A reader's own model on a reader's own table, from the command line."""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from pyro_cookbook.data import InputError, did_you_mean, recognise
from pyro_cookbook.fits.files import write_bytes
from pyro_cookbook.fits.storage import save
from pyro_cookbook.publish.outcome import netcdf_bytes
from pyro_cookbook.verdict.inference import Answer, infer


def load_model(spec: str) -> Callable[..., Any]:
    """Take a function from a Python file, which is run.

    Parameters
    ----------
    spec : str
        ``path/to/file.py:name``.

    Raises
    ------
    InputError
        If it is not written so, there is no such file, it does not run, or there is no such
        function in it.
    """
    path, colon, name = spec.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise InputError(f"model: got {spec!r}, expected a file and a function: my_model.py:model")
    if not Path(path).is_file():
        raise InputError(f"model: {path}: no such file")
    module_spec: Any = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(module_spec)
    sys.path.insert(0, str(Path(path).resolve().parent))  # what lies beside it can be imported
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:  # whatever the reader's file does
        raise InputError(f"model: {path} does not run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    found = getattr(module, name, None)
    if not callable(found) or inspect.isclass(found):
        there = [n for n, value in vars(module).items() if inspect.isfunction(value)]
        raise InputError(
            f"model: {path} has no function {name!r}; it has {', '.join(there) or 'none'}"
        )
    return found  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Arguments:
    """What a model is called with, and what became of the table.

    Attributes
    ----------
    data : dict of str to Tensor
        Argument → column; words as whole numbers from 0, in the order of the alphabet.
    levels : dict of str to list of str
        Column of words → what the numbers stand for.
    unused : tuple of str
        Columns that are no argument.
    """

    data: dict[str, Tensor]
    levels: dict[str, list[str]]
    unused: tuple[str, ...]


def arguments_of(model: Callable[..., Any], path: Path) -> Arguments:
    """Read the columns that have the names of a model's arguments.

    Raises
    ------
    InputError
        If an argument without a default has no column, or none has one.
    """
    parameters = inspect.signature(model).parameters
    unused: list[str] = []

    def choose(names: Sequence[str]) -> list[str]:
        chosen = _taken(parameters, names, path)
        unused[:] = [name for name in names if name not in chosen]
        return chosen

    found = recognise(path, choose)
    data, levels = {}, {}
    for name, kind in found.kinds.items():
        column = found.frame[name]
        if kind == "category":
            data[name] = torch.as_tensor(column.cat.codes.to_numpy(np.int64))
            levels[name] = [str(level) for level in column.cat.categories]
        else:
            data[name] = torch.as_tensor(column.to_numpy(np.float32))
    return Arguments(data, levels, tuple(unused))


def _taken(
    parameters: Mapping[str, inspect.Parameter], names: Sequence[str], path: Path
) -> list[str]:
    """Choose the columns that a model takes, in the order of the table.

    Raises
    ------
    InputError
        If an argument without a default has no column, or none has one.
    """
    for name, one in parameters.items():
        if one.kind in {one.VAR_POSITIONAL, one.VAR_KEYWORD}:
            continue
        if name not in names and one.default is one.empty:
            raise InputError(
                f"{path}: no column {name!r}, which the model takes; there are"
                f" {', '.join(names)}{did_you_mean(name, names)}"
            )
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    chosen = [name for name in names if name in parameters or takes_all]
    if not chosen:
        raise InputError(
            f"{path}: none of its columns is an argument of the model, which takes"
            f" {', '.join(parameters) or 'none'}"
        )
    return chosen


def answer(
    spec: str, path: Path, out: Path, *, budget: float, seed: int, progress: bool | None
) -> tuple[Answer, Arguments, dict[str, Path]]:
    """Infer, and write what was found.

    Returns
    -------
    answer : Answer
    arguments : Arguments
    written : dict of str to Path
        "draws" (NetCDF), "fit" (`pyro_cookbook.load`) and "summary" (CSV).

    Raises
    ------
    InputError
        If model or table are wrong, before anything is fitted.
    """
    model = load_model(spec)
    arguments = arguments_of(model, path)
    try:
        found = infer(
            model, data_kwargs=arguments.data, budget=budget, seed=seed, progress=progress
        )
    except ValueError as error:  # documented: model or data are wrong, in one line
        raise InputError(str(error)) from error
    stem = f"{Path(spec.rpartition(':')[0]).stem}-{path.stem}"
    kinds = {"draws": ".nc", "fit": ".pt", "summary": ".csv"}
    written = {kind: out / f"{stem}{suffix}" for kind, suffix in kinds.items()}
    out.mkdir(parents=True, exist_ok=True)
    save(found.fit, written["fit"])
    tree = found.tree()
    write_bytes(netcdf_bytes(tree), written["draws"])
    write_bytes(summary(tree).to_csv().encode(), written["summary"])
    return found, arguments, written


def summary(tree: xr.DataTree) -> pd.DataFrame:
    """Mean, sd and 89% interval of every latent and derived value."""
    table: pd.DataFrame = az.summary(tree, kind="stats", round_to="none")
    return table
