"""A table of the reader's: read, checked, standardised."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor


class InputError(ValueError):
    """What a reader gave cannot be used: a table, a column, an option. The message is one line."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table of numbers, standardised column by column.

    Attributes
    ----------
    name : str
    v : Tensor
        Rows, shape (n, D), float64, each column of mean 0 and sd 1.
    raw : Tensor
        Rows in their own units, shape (n, D), float64, as they were read: undoing the
        standardisation would turn a 1 into 0.9999999999999999.
    columns : tuple of str
        Names of the D columns.
    loc, scale : Tensor
        Mean and sd of each column in its own units, shape (D,).
    labels : tuple of str
        The class of each row, never shown to a model; empty if there is none.
    source : str
        Where the data come from.
    frame : DataFrame
        The columns as they are understood: numbers in their own units, words as categories.
    """

    name: str
    v: Tensor
    raw: Tensor
    columns: tuple[str, ...]
    loc: Tensor
    scale: Tensor
    labels: tuple[str, ...]
    source: str
    frame: pd.DataFrame = field(default_factory=pd.DataFrame)

    def ending_in(self, column: str) -> "Table":
        """Move a column to the end, where models with an outcome look for it.

        Raises
        ------
        InputError
            If there is no such column, listing those there are.
        """
        if column not in self.columns:
            raise InputError(
                f"{self.name}: no column {column!r}; there are {', '.join(self.columns)}"
            )
        order = [i for i, name in enumerate(self.columns) if name != column]
        order.append(self.columns.index(column))
        return replace(
            self,
            v=self.v[:, order],
            raw=self.raw[:, order],
            columns=tuple(self.columns[i] for i in order),
            loc=self.loc[order],
            scale=self.scale[order],
            frame=self.frame.iloc[:, order],
        )


def read(path: str | Path, columns: Sequence[str] | None = None) -> Table:
    """Read a table of one's own.

    Parameters
    ----------
    path : path
        A ``.csv`` file with a header, or a ``.parquet`` file.
    columns : sequence of str, optional
        The columns to use, all numeric, in this order. Default: all.

    Raises
    ------
    FileNotFoundError, InputError
        In one line: the file, the row (its line in a CSV file) and column, what was found and what
        was expected.
    """
    path = Path(path)
    frame = read_frame(path, columns)
    return standardise(frame, path.stem, (), str(path))


def read_frame(
    path: Path, columns: Sequence[str] | None = None, *, words: bool = False
) -> pd.DataFrame:
    """Read columns of numbers as they are in the file.

    Parameters
    ----------
    path : Path
        As for `read`.
    columns : sequence of str, optional
        Those to read, in this order. Default: all.
    words : bool, default False
        Whether columns may hold words, which are kept.

    Raises
    ------
    FileNotFoundError, InputError
        As for `read`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        first = str(error).strip().splitlines()[0] if str(error).strip() else "empty"
        raise InputError(f"{path}: not a readable table: {first}") from error
    frame.columns = pd.Index([str(name) for name in frame.columns])
    wanted = list(columns or frame.columns)
    for name, count in Counter(wanted).items():
        if name not in frame:
            raise InputError(f"{path}: no column {name!r}; there are {', '.join(frame.columns)}")
        if count > 1:
            raise InputError(f"{path}: column {name!r} is there {count} times, expected once")
    frame = frame[wanted]
    first_row = 2 if path.suffix != ".parquet" else 0  # line 1 is the header
    numbers: dict[str, Any] = {}
    for name in wanted:
        if words and not pd.api.types.is_numeric_dtype(frame[name]):
            numbers[name] = _words(path, frame[name], first_row)
            continue
        numbers[name] = _numbers(frame[name])
        bad = np.flatnonzero(~np.isfinite(numbers[name]))
        if len(bad):
            row = int(bad[0])
            place = f"line {row + first_row}" if first_row else f"row {row}"
            raise InputError(
                f"{path}: {place}, column {name!r}: got {frame[name].iloc[row]!r},"
                f" expected a finite number ({len(bad)} such of {len(frame)} rows)"
            )
    return pd.DataFrame(numbers)


def _words(path: Path, column: "pd.Series[Any]", first_row: int) -> "pd.Series[Any]":
    """Refuse a missing word, naming its place."""
    missing = np.flatnonzero(column.isna())
    if len(missing):
        place = f"line {missing[0] + first_row}" if first_row else f"row {missing[0]}"
        raise InputError(
            f"{path}: {place}, column {column.name!r}: got nothing, expected a word"
            f" ({len(missing)} such of {len(column)} rows)"
        )
    return column.astype(str)


def _numbers(column: "pd.Series[Any]") -> npt.NDArray[np.float64]:
    """Turn a column into floats; NaN for what is none, dates and durations among it."""
    if column.dtype.kind in "mMc":  # pandas would make nanoseconds of dates
        return np.full(len(column), np.nan)
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=np.nan)


def standardise(frame: pd.DataFrame, name: str, labels: tuple[str, ...], source: str) -> Table:
    """Give every column mean 0 and sd 1.

    Raises
    ------
    InputError
        If there are fewer than two rows or no columns, or a column is constant or too large to
        have a standard deviation, naming it.
    """
    if len(frame) < 2 or not len(frame.columns):
        raise InputError(
            f"{name}: got {len(frame)} rows and {len(frame.columns)} columns, expected 2 rows and 1"
            " column at least"
        )
    values = frame.to_numpy(dtype=float, copy=True)  # pandas' own may not be written to
    with np.errstate(over="ignore", invalid="ignore"):
        loc, scale = values.mean(0), values.std(0)
    columns = tuple(map(str, frame.columns))
    for column, largest, spread in zip(columns, np.abs(values).max(0), scale, strict=True):
        if not np.isfinite(spread):
            raise InputError(
                f"{name}: column {column!r} has entries too large to square; change its units"
            )
        if spread <= 1e-12 * largest:  # in any units: atoms are 1e-10 m apart
            raise InputError(f"{name}: column {column!r} is constant; leave it out")
    return Table(
        name=name,
        v=torch.as_tensor((values - loc) / scale),
        raw=torch.as_tensor(values),
        columns=columns,
        loc=torch.as_tensor(loc),
        scale=torch.as_tensor(scale),
        labels=labels,
        source=source,
        frame=frame.set_axis(columns, axis=1),
    )
