"""A reader's own model on a reader's own table, from the command line."""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from pyro_cookbook.data import InputError, Recognised, did_you_mean, recognise
from pyro_cookbook.verdict.inference import Answer, infer

# Of a column's words so many are listed.
_LEVELS_SHOWN = 10


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


@dataclass(frozen=True, eq=False)
class Arguments:
    """What a model is called with, and what became of the table.

    Attributes
    ----------
    data : dict of str to Tensor
        Argument → column; words as whole numbers from 0.
    levels : dict of str to tuple of str
        Column of words → what the numbers stand for.
    frame : pandas.DataFrame
        The columns as they were understood.
    lines : tuple of str
        What was understood, for the reader.
    name, source : str
    rows : array of int
        Which rows of the source these are.
    """

    data: dict[str, Tensor]
    levels: dict[str, tuple[str, ...]]
    frame: pd.DataFrame
    lines: tuple[str, ...]
    name: str
    source: str
    rows: np.ndarray[Any, Any]


def arguments_of(model: Callable[..., Any], source: Any, **reading: Any) -> Arguments:
    """Read the columns that have the names of a model's arguments.

    Parameters
    ----------
    model : callable
    source : path or table
        Any form that `data.read` takes.
    **reading
        exclude, missing, separator, decimal, encoding, header: as for `data.read`.

    Raises
    ------
    InputError
        If an argument without a default has no column, or none has one, or as `data.read`.
    """
    parameters = inspect.signature(model).parameters
    unused: list[str] = []

    def choose(names: Sequence[str]) -> list[str]:
        chosen = _columns_for(parameters, names, str(source))
        unused[:] = [name for name in names if name not in chosen]
        return chosen

    return arguments_from(recognise(source, choose, **reading), unused)


def arguments_from(found: Recognised, unused: Sequence[str] = ()) -> Arguments:
    """Turn columns into arguments, and say what the words have become."""
    levels = {
        name: tuple(map(str, found.frame[name].cat.categories))
        for name, kind in found.kinds.items()
        if kind == "category"
    }
    lines = [f"{found.raw.name}: {len(found.frame):,} rows", *found.lines]
    for name, words in levels.items():
        listed = ", ".join(f"{code} {word}" for code, word in enumerate(words[:_LEVELS_SHOWN]))
        more = ", …" if len(words) > _LEVELS_SHOWN else ""
        lines.append(f"{name}: {len(words)} words: {listed}{more}")
    if unused:
        lines.append(f"not used: {', '.join(unused)}")
    return _arguments(found, levels, tuple(lines))


def new_arguments(
    levels: Mapping[str, Sequence[str] | None],
    source: Any,
    *,
    known_only: bool = True,
    **reading: Any,
) -> Arguments:
    """Read new rows for a model that has been fitted.

    Parameters
    ----------
    levels : mapping of str to sequence of str or None
        The arguments, and what the whole numbers stand for where they were words.
    known_only : bool, default True
        Refuse words that the fit has not seen.
    source, **reading
        As for `arguments_of`.

    Raises
    ------
    InputError
        If a column is missing or has a word that the fit has not seen, or as `data.read`.
    """

    def choose(names: Sequence[str]) -> list[str]:
        for name in levels:
            if name not in names:
                raise InputError(f"{source}: {_no_column(name, names)}")
        return list(levels)

    kinds: Any = {name: "number" if words is None else "category" for name, words in levels.items()}
    found = recognise(source, choose, kinds=kinds, **reading)
    known = {name: tuple(words) for name, words in levels.items() if words is not None}
    for name, words in known.items() if known_only else ():
        values = found.frame[name].astype(str)
        unseen = np.flatnonzero(~values.isin(words))
        if len(unseen):
            row = int(unseen[0])
            raise InputError(
                f"{found.raw.source}: {found.place(row)}, column {name!r}: got"
                f" {values.iloc[row]!r}, which the fit has not seen; it has"
                f" {', '.join(words[:_LEVELS_SHOWN])} ({len(unseen)} such of {len(values)} rows)"
            )
        found.frame[name] = pd.Categorical(values, categories=list(words))
    return _arguments(found, known, found.lines)


def _columns_for(
    parameters: Mapping[str, inspect.Parameter], names: Sequence[str], source: str
) -> list[str]:
    for name, one in parameters.items():
        if one.kind in {one.VAR_POSITIONAL, one.VAR_KEYWORD}:
            continue
        if name not in names and one.default is one.empty:
            raise InputError(f"{source}: {_no_column(name, names)}")
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    chosen = [name for name in names if name in parameters or takes_all]
    if not chosen:
        raise InputError(
            f"{source}: none of its columns is an argument of the model, which takes"
            f" {', '.join(parameters) or 'none'}"
        )
    return chosen


def _no_column(name: str, names: Sequence[str]) -> str:
    told = f"no column {name!r}, which the model takes; there are {', '.join(names)}"
    return told + did_you_mean(name, names)


def _arguments(
    found: Recognised, levels: dict[str, tuple[str, ...]], lines: tuple[str, ...]
) -> Arguments:
    return Arguments(
        tensors_of(found.frame), levels, found.frame, lines, found.raw.name, found.raw.source,
        found.rows,
    )  # fmt: skip


def tensors_of(frame: pd.DataFrame) -> dict[str, Tensor]:
    """Turn columns into tensors: numbers into floats, words into whole numbers from 0."""
    data = {}
    for name, values in frame.items():
        if isinstance(values.dtype, pd.CategoricalDtype):
            data[str(name)] = torch.as_tensor(np.array(values.cat.codes, dtype=np.int64))
        else:
            data[str(name)] = torch.as_tensor(values.to_numpy(np.float32, copy=True))
    return data


def answer(
    model: Callable[..., Any],
    data: Mapping[str, Tensor],
    *,
    budget: float,
    seed: int,
    progress: bool | None,
) -> Answer:
    """Infer.

    Raises
    ------
    InputError
        If the model or the data are wrong, in one line.
    """
    try:
        return infer(model, data_kwargs=data, budget=budget, seed=seed, progress=progress)
    except ValueError as error:  # documented: model or data are wrong, in one line
        raise InputError(str(error)) from error


def observed_arguments(answered: Any, arguments: Sequence[str]) -> list[str]:
    """Name the arguments that are observed: an observed site's value is theirs."""
    sites = answered.programs.model.sites
    observed = {name for name, site in sites.items() if site.is_data}
    return [name for name in arguments if name in observed]


def summary(tree: xr.DataTree) -> pd.DataFrame:
    """Mean, sd and 89% interval of every latent and derived value."""
    import arviz as az  # late: new rows need none

    table: pd.DataFrame = az.summary(tree, kind="stats", round_to="none")
    return table
