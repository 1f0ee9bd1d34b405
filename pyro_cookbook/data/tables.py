"""Tables to fit: those that ship with scikit-learn, and the reader's own."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn import datasets
from torch import Tensor

from pyro_cookbook.data.bars import make_bars
from pyro_cookbook.data.patches import load_patches


@dataclass(frozen=True)
class Table:
    """A table of numbers, standardised column by column.

    Attributes
    ----------
    name : str
    v : Tensor
        Rows, shape (n, D), float64, each column of mean 0 and sd 1.
    columns : tuple of str
        Names of the D columns.
    loc, scale : Tensor
        Mean and sd of each column in its own units, shape (D,): ``v * scale + loc`` undoes the
        standardisation.
    labels : tuple of str
        The class of each row, never shown to a model; empty if there is none.
    source : str
        Where the data come from.
    """

    name: str
    v: Tensor
    columns: tuple[str, ...]
    loc: Tensor
    scale: Tensor
    labels: tuple[str, ...]
    source: str


Loaded = tuple[pd.DataFrame, tuple[str, ...]]  # columns, and the class of each row


def _with_classes(load: Callable[[], Any]) -> Loaded:
    """Read one of scikit-learn's tables of measurements."""
    bunch = load()
    frame = pd.DataFrame(bunch.data, columns=list(bunch.feature_names))
    return frame, tuple(str(bunch.target_names[k]) for k in bunch.target)


def _patches() -> Loaded:
    table = load_patches()
    return table.data, ()


def _bars() -> Loaded:
    bars = make_bars()
    side = round(bars.v.shape[1] ** 0.5)
    names = [f"{row}, {column}" for row in range(side) for column in range(side)]
    return pd.DataFrame(bars.v.numpy(), columns=names), ()


def _breast_cancer() -> Loaded:
    bunch: Any = datasets.load_breast_cancer(as_frame=True)
    frame = bunch.data.iloc[:, :10].rename(columns=lambda name: name.removeprefix("mean "))
    return frame.assign(malignant=1.0 - bunch.target), ()  # scikit-learn's 1 is benign


def _two_causes() -> Loaded:
    noise = np.random.default_rng(0).standard_normal((100, 3))
    return pd.DataFrame({"sum": noise @ np.array([1.5, 1.0, 1.0])}), ()


def _eight_schools() -> Loaded:
    return pd.DataFrame(
        {
            "sigma": [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0],
            "effect": [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0],
        }
    ), ()


_BUNDLED: dict[str, tuple[Callable[[], Loaded], str]] = {
    "wine": (
        partial(_with_classes, datasets.load_wine),
        "178 wines of three cultivars, 13 chemical measurements (Forina et al., UCI repository,"
        " CC BY 4.0); ships with scikit-learn",
    ),
    "iris": (
        partial(_with_classes, datasets.load_iris),
        "150 flowers of three species, 4 measurements in cm (Fisher, 1936, public domain); ships"
        " with scikit-learn",
    ),
    "patches": (
        _patches,
        "whitened patches of two photographs by KEES VD and Dario Scarpa (CC BY 2.0), which ship"
        " with scikit-learn",
    ),
    "bars": (_bars, "images of 4 × 4 pixels, sums of bars with noise (simulated)"),
    "breast_cancer": (
        _breast_cancer,
        "569 tumours, ten measurements of cell nuclei and whether malignant (Wolberg, Street and"
        " Mangasarian, UCI repository, CC BY 4.0); ships with scikit-learn",
    ),
    "two_causes": (_two_causes, "100 sums of two hidden causes and noise (simulated)"),
    "eight_schools": (
        _eight_schools,
        "effects of coaching in eight schools, in points of a test, with their standard errors"
        " (Rubin, 1981, table 1; facts in the public domain)",
    ),
}


def load(name: str) -> Table:
    """Load a bundled table.

    Parameters
    ----------
    name : str
        One of `NAMES`.

    Raises
    ------
    ValueError
        For any other name, listing those there are.
    """
    if name not in _BUNDLED:
        raise ValueError(f"data: got {name!r}, expected one of {', '.join(_BUNDLED)}")
    loader, source = _BUNDLED[name]
    frame, labels = loader()
    return standardise(frame, name, labels, source)


NAMES = tuple(_BUNDLED)


def read(path: str | Path, columns: list[str] | None = None) -> Table:
    """Read a table of one's own.

    Parameters
    ----------
    path : path
        A ``.csv`` file with a header, or a ``.parquet`` file.
    columns : list of str, optional
        The columns to use, all numeric. Default: all.

    Raises
    ------
    FileNotFoundError, ValueError
        In one line: the file, the row (its line in a CSV file) and column, what was found and what
        was expected.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        first = str(error).strip().splitlines()[0] if str(error).strip() else "empty"
        raise ValueError(f"{path}: not a readable table: {first}") from error
    for column in columns or ():
        if column not in frame:
            raise ValueError(
                f"{path}: no column {column!r}; there are {', '.join(map(str, frame.columns))}"
            )
    frame = frame[columns] if columns else frame
    first_row = 2 if path.suffix != ".parquet" else 0  # line 1 is the header
    for column in frame.columns:
        numbers = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float)
        bad = np.flatnonzero(~np.isfinite(numbers))
        if len(bad):
            row = int(bad[0])
            place = f"line {row + first_row}" if first_row else f"row {row}"
            raise ValueError(
                f"{path}: {place}, column {str(column)!r}: got {frame[column].iloc[row]!r},"
                f" expected a finite number ({len(bad)} such of {len(frame)} rows)"
            )
    return standardise(frame.astype(float), path.stem, (), str(path))


def standardise(frame: pd.DataFrame, name: str, labels: tuple[str, ...], source: str) -> Table:
    """Give every column mean 0 and sd 1.

    Raises
    ------
    ValueError
        If there are fewer than two rows or no columns, or a column is constant, naming it.
    """
    if len(frame) < 2 or not len(frame.columns):
        raise ValueError(
            f"{name}: got {len(frame)} rows and {len(frame.columns)} columns, expected 2 rows and 1"
            " column at least"
        )
    values = frame.to_numpy(dtype=float)
    loc, scale = values.mean(0), values.std(0)
    constant = np.flatnonzero(scale <= 1e-12 * np.maximum(1, np.abs(loc)))
    if len(constant):
        raise ValueError(
            f"{name}: column {str(frame.columns[constant[0]])!r} is constant; leave it out"
        )
    return Table(
        name=name,
        v=torch.as_tensor((values - loc) / scale),
        columns=tuple(map(str, frame.columns)),
        loc=torch.as_tensor(loc),
        scale=torch.as_tensor(scale),
        labels=labels,
        source=source,
    )
