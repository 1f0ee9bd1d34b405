"""From any source to columns of numbers and words: what to read, and what is missing."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pyro_cookbook.data.errors import InputError, did_you_mean, listed
from pyro_cookbook.data.intake.files import read_file
from pyro_cookbook.data.intake.kinds import Kind, settle
from pyro_cookbook.data.intake.memory import read_memory
from pyro_cookbook.data.intake.places import Choice, Raw, check_names
from pyro_cookbook.data.intake.text import TextOptions

# What pandas calls a first column without a name when it writes and reads it again.
_NO_NAMES = ("", "Unnamed: 0")
_MOST_MENTIONED = 6  # columns, of those with missing entries
_FEWEST_COUNTED = 5  # rows: fewer count 1, 2, 3 by chance


@dataclass(frozen=True, eq=False)
class Recognised:
    """Columns of numbers and words, as they were understood.

    Attributes
    ----------
    frame : pandas.DataFrame
        Floats (truth values as 0 and 1) and Categoricals; rows from 0.
    kinds : dict of str to {"number", "category", "boolean"}
    rows : array
        Which rows of the source these are, from 0; shape (n,).
    raw : Raw
        Where they come from.
    lines : tuple of str
        What was recognised, left out and dropped.
    missing : dict of str to int
        Column → entries that were missing, rows that are dropped included.
    """

    frame: pd.DataFrame
    kinds: dict[str, Kind]
    rows: npt.NDArray[np.int64]
    raw: Raw
    lines: tuple[str, ...]
    missing: dict[str, int]

    def place(self, row: int) -> str:
        """Say where a row of the frame stands in the source."""
        return self.raw.places.place(int(self.rows[row]))

    def entry(self, row: int, column: str) -> str:
        """Give an entry as it is written in the source."""
        return self.raw.places.entry(int(self.rows[row]), column)


def recognise(
    source: Any,
    columns: Sequence[str] | Choice | None = None,
    *,
    exclude: Sequence[str] | None = None,
    outcome: str | None = None,
    missing: str = "refuse",
    separator: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    name: str | None = None,
    kinds: Mapping[str, Kind] | None = None,
) -> Recognised:
    """Read columns from any source; nothing is encoded or standardised.

    Parameters
    ----------
    source, exclude, outcome, missing, separator, decimal, encoding, header, name
        As for `read`.
    columns : sequence of str, or callable, optional
        The columns to read, or a function that is given the names there are and returns those.
    kinds : mapping of str to {"number", "category", "boolean"}, optional
        What columns have to hold. Default: what they look like.

    Raises
    ------
    FileNotFoundError, InputError
        As for `read`.

    Examples
    --------
    >>> found = recognise({"dose": ["1,5", "2"], "team": ["red", "blue"]}, ["team"])
    >>> found.kinds
    {'team': 'category'}
    """
    if missing not in {"refuse", "drop"}:
        raise InputError(f"missing: got {missing!r}, expected 'refuse' or 'drop'")
    _check_sequences(columns, exclude)
    options = TextOptions(separator=separator, decimal=decimal, encoding=encoding, header=header)
    known = dict(kinds or {})
    if isinstance(source, os.PathLike):
        source = Path(source)
    label = str(source) if isinstance(source, str | Path) else name or "data"
    if label == "-":
        label = "stdin"

    chosen: list[str] = []

    def choose(names: Sequence[str]) -> list[str]:
        chosen[:] = chosen_of(names, columns, exclude, outcome, label)
        return chosen

    if isinstance(source, str | Path):
        words = frozenset(column for column, kind in known.items() if kind == "category")
        raw = read_file(Path(source), options, choose, words, name)
    else:
        if options.given:
            raise InputError(f"{label}: separator, decimal, encoding and header are for text")
        raw = read_memory(source, name)
    if not chosen:  # read whole
        wanted = choose(list(raw.frame.columns))
        if columns is None and raw.idle:
            wanted = [one for one in wanted if one not in raw.idle]
            if not wanted:
                raise InputError(f"{label}: its {len(raw.frame)} rows are all the same")
            said = f"the same in all rows: {len(raw.idle)} columns, left out"
            raw = replace(raw, lines=(*raw.lines, said))
        raw = replace(raw, frame=raw.frame[wanted])
    return typed(raw, missing, known, keep_first=columns is not None)


def _check_sequences(columns: Any, exclude: Any) -> None:
    """Refuse a single string where names are expected: it would be a sequence of letters."""
    for argument, given in (("columns", columns), ("exclude", exclude)):
        if isinstance(given, str):
            raise InputError(
                f"{argument}: got {given!r}, expected a sequence of names: [{given!r}]"
            )


def chosen_of(
    names: Sequence[str],
    columns: Sequence[str] | Choice | None,
    exclude: Sequence[str] | None,
    outcome: str | None,
    source: str,
) -> list[str]:
    """Choose columns by name; the outcome is the last.

    Raises
    ------
    InputError
        If a name is not there or there twice, or nothing is left.
    """
    if callable(columns):
        return columns([name for name in names if name])
    chosen = list(names) if columns is None else [str(one) for one in columns]
    left_out = [str(one) for one in exclude or ()]
    check_names(chosen, source)
    check_names(left_out, source)
    for name in (*chosen, *left_out, *([] if outcome is None else [outcome])):
        if name not in names:
            there = [one for one in names if one]
            raise InputError(
                f"{source}: no column {name!r}; there are {listed(there, 40)}"
                f"{did_you_mean(name, there)}"
            )
    if outcome is not None and outcome in left_out:
        raise InputError(f"{source}: column {outcome!r} is the outcome, and excluded")
    chosen = [name for name in chosen if name not in left_out and name != outcome]
    chosen += [] if outcome is None else [outcome]
    if not chosen:
        what = f"there are {listed(names)}" if names else "it has none"
        raise InputError(f"{source}: no column is left; {what}")
    return chosen


def typed(
    raw: Raw, missing: str, kinds: Mapping[str, Kind], *, keep_first: bool = True
) -> Recognised:
    """Decide what each column holds, and refuse or drop rows with missing entries.

    Parameters
    ----------
    raw : Raw
        With the columns to use.
    missing : {"refuse", "drop"}
    kinds : mapping
        What columns have to hold.
    keep_first : bool, default True
        Whether a first column without a name that numbers or names the rows is kept.

    Raises
    ------
    InputError
    """
    lines = [*raw.lines]
    raw, said = _without_index(raw, keep_first)
    lines += said
    settled = {column: settle(raw, column, kinds.get(column)) for column in raw.frame.columns}
    frame = pd.DataFrame({column: one.values for column, one in settled.items()})
    counts = {column: int(frame[column].isna().sum()) for column in frame}
    frame, rows, said = _without_missing(raw, frame, counts, missing, bool(kinds))
    lines += said
    if not kinds:
        lines += _counting(frame, {column: one.kind for column, one in settled.items()})
    return Recognised(
        frame=frame,
        kinds={column: one.kind for column, one in settled.items()},
        rows=rows,
        raw=raw,
        lines=tuple(lines),
        missing={str(column): count for column, count in counts.items()},
    )


def _without_index(raw: Raw, keep_first: bool) -> tuple[Raw, list[str]]:
    """Leave out a first column without a name if it numbers or names the rows.

    Raises
    ------
    InputError
        If it has no name and does neither.
    """
    first = str(raw.frame.columns[0]) if len(raw.frame.columns) else None
    if keep_first or first not in _NO_NAMES:
        return raw, []
    column = raw.frame.iloc[:, 0]
    start = counts_from(column)
    if start is not None:
        what = f"numbers the rows from {start}"
    elif not pd.api.types.is_numeric_dtype(column) and column.is_unique and column.notna().all():
        what = "names the rows"
    elif first == "":
        raise InputError(
            f"{raw.source}: the first column has no name, and neither numbers nor names the rows;"
            " name it, or choose the others (--columns)"
        )
    else:
        return raw, []
    if len(raw.frame.columns) == 1:
        raise InputError(f"{raw.source}: its only column has no name and {what}")
    called = f"{first!r}" if first else "without a name"
    return replace(raw, frame=raw.frame.iloc[:, 1:]), [
        f"left out: the first column ({called}), which {what}"
    ]


def counts_from(column: "pd.Series[Any]") -> int | None:
    """Say where a column that only counts rows begins, at 0 or 1; None if it does not count."""
    is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if not is_number or pd.api.types.is_complex_dtype(column):
        return None
    values = column.to_numpy(dtype=float, na_value=np.nan)
    for start in (0, 1):
        if np.array_equal(values, np.arange(start, len(values) + start)):
            return start
    return None


def _counting(frame: pd.DataFrame, kinds: Mapping[str, Kind]) -> list[str]:
    """Point out named columns that only count the rows."""
    if len(frame) < _FEWEST_COUNTED:
        return []
    found = {c: counts_from(frame[c]) for c in frame if kinds[str(c)] == "number"}
    return [
        f"{column!r} only counts the rows, from {start}: leave it out (--exclude) if it measures"
        " nothing"
        for column, start in found.items()
        if start is not None
    ]


def _without_missing(
    raw: Raw, frame: pd.DataFrame, counts: Mapping[Any, int], missing: str, is_new: bool
) -> tuple[pd.DataFrame, npt.NDArray[np.int64], list[str]]:
    """Refuse or drop rows in which an entry is missing."""
    num_rows = len(frame)
    rows = np.arange(num_rows)
    if not any(counts.values()):
        return frame, rows, []
    empty = [column for column, count in counts.items() if count == num_rows]
    if empty and not is_new:
        which = f"column {empty[0]!r} has" if len(empty) == 1 else f"columns {_quoted(empty)} have"
        raise InputError(f"{raw.source}: {which} no entries; leave out what is empty (--exclude)")
    each = [f"{column!r} {count:,}" for column, count in counts.items() if count]
    per_column = listed(each, _MOST_MENTIONED)
    if missing == "drop":
        keep = frame.notna().all(axis=1).to_numpy(dtype=bool)
        marks = ", ".join(f"{mark or 'empty'} {n:,}" for mark, n in raw.marks().items())
        said = (
            f"dropped: {num_rows - keep.sum():,} of {num_rows:,} rows, in which entries are"
            f" missing: {per_column}" + (f"; marks: {marks}" if marks else "")
        )
        if not keep.any():
            raise InputError(f"{raw.source}: every row has a missing entry: {per_column}")
        kept = frame[keep].reset_index(drop=True)
        for column in kept.select_dtypes("category"):
            kept[column] = kept[column].cat.remove_unused_categories()
        return kept, rows[keep], [said]
    first = frame.isna().to_numpy()
    row = int(first.any(axis=1).argmax())
    column = frame.columns[int(first[row].argmax())]
    what = "a word" if isinstance(frame[column].dtype, pd.CategoricalDtype) else "a number"
    raise InputError(
        f"{raw.source}: {raw.places.place(row)}, column {column!r}: got"
        f" {raw.places.entry(row, column)}, which is missing, expected {what} (missing:"
        f" {per_column} of {num_rows:,} rows); missing='drop' (--missing drop) drops such rows"
    )


def _quoted(names: Sequence[Any]) -> str:
    return listed([repr(name) for name in names], _MOST_MENTIONED)
