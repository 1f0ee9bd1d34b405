"""From recognised columns to a table: encoded, standardised, and described."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from pyro_cookbook.data.errors import InputError, listed
from pyro_cookbook.data.intake.kinds import excerpt
from pyro_cookbook.data.intake.recognise import Recognised
from pyro_cookbook.data.intake.schema import Column, Schema, columns_of, encode
from pyro_cookbook.data.intake.understood import Understood
from pyro_cookbook.data.tables import Table

_MOST_DESCRIBED = 12  # columns that get a sentence of their own
_TINY = 1e-140  # below, the square of a number is 0


def assemble(
    found: Recognised,
    *,
    outcome: str | None = None,
    missing: str = "refuse",
    labels: tuple[str, ...] = (),
    source: str | None = None,
) -> Table:
    """Make a table of columns, and the schema by which others become the same.

    Parameters
    ----------
    found : Recognised
    outcome : str, optional
        Its last column, if that is an outcome.
    missing : {"refuse", "drop"}
        What became of rows with missing entries.
    labels : tuple of str
        The class of each row.
    source : str, optional
        Where the data come from. Default: where they were read.

    Raises
    ------
    InputError
        If there are fewer than two rows or no columns, columns are constant, or a column of words
        cannot be encoded.
    """
    frame = found.frame
    if len(frame) < 2 or not len(frame.columns):
        raise InputError(
            f"{found.raw.source}: got {_count(len(frame), 'row')} and"
            f" {_count(len(frame.columns), 'column')}, expected 2 rows and 1 column at least"
        )
    columns = columns_of(found, outcome)
    _check_constant_words(columns, found.raw.source)
    values = encode(frame, columns, found.raw.source)
    names = [n for c in columns for n in c.encoded(is_outcome=c.name == outcome)]
    _check_encoded(names, found.raw.source)
    loc, scale = moments(values, names, found.raw.source)
    schema = Schema(
        columns=columns,
        outcome=outcome,
        loc=tuple(loc.tolist()),
        scale=tuple(scale.tolist()),
        missing="drop" if missing == "drop" else "refuse",
    )
    return _table(found, schema, values, labels, source, ())


def assembled(found: Recognised, schema: Schema, *, extra: Sequence[str] = ()) -> Table:
    """Make a table of new rows by the schema of old ones.

    Raises
    ------
    InputError
        If a word is none of the schema's levels.
    """
    frame = found.frame.copy()
    for column in schema.columns:
        if column.kind == "category":
            frame[column.name] = _with_levels(found, column)
        elif column.kind == "boolean":
            _check_truth(found, column.name)
    values = encode(frame, schema.columns, found.raw.source)
    lines = found.lines
    if extra:
        names = listed([repr(one) for one in extra])
        lines = (*lines, f"left out: {names}, which the fit does not use")
    changed = replace(found, frame=frame, lines=lines)
    said = ("standardised by the means and sds of the fit",)
    return _table(changed, schema, values, (), None, said)


def _with_levels(found: Recognised, column: Column) -> "pd.Series[Any]":
    """Give a Categorical the levels of the schema.

    Raises
    ------
    InputError
        At the first word that is none of them.
    """
    values = found.frame[column.name]
    unseen = ~values.isin(column.levels).to_numpy(dtype=bool)
    if unseen.any():
        row = int(unseen.argmax())
        raise InputError(
            f"{found.raw.source}: {found.place(row)}, column {column.name!r}: got"
            f" {found.entry(row, column.name)}, a level that the fit has not seen; it has"
            f" {excerpt(list(column.levels))} ({int(unseen.sum())} such of {len(values)} rows)"
        )
    return pd.Series(pd.Categorical(values.astype(object), categories=list(column.levels)))


def _check_truth(found: Recognised, name: str) -> None:
    wrong = ~found.frame[name].isin([0.0, 1.0]).to_numpy(dtype=bool)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"{found.raw.source}: {found.place(row)}, column {name!r}: got"
            f" {found.entry(row, name)}, expected true or false ({int(wrong.sum())} such of"
            f" {len(wrong)} rows)"
        )


def _check_constant_words(columns: Sequence[Column], source: str) -> None:
    constant = [column.name for column in columns if len(column.levels) == 1]
    if constant:
        raise InputError(f"{source}: {_constant(constant)}")


def _constant(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"column {names[0]!r} is constant; leave it out (--exclude)"
    return f"columns {listed([repr(n) for n in names])} are constant; leave them out (--exclude)"


def _check_encoded(names: Sequence[str], source: str) -> None:
    """Refuse columns of which one is called like a level of another."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(
                f"{source}: two columns are called {name!r} once words are encoded; rename one"
            )
        seen.add(name)


def moments(
    values: npt.NDArray[np.float64], names: Sequence[str], source: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and sd of each column.

    Raises
    ------
    InputError
        Naming all columns that are constant.
    """
    largest = np.abs(values).max(0)
    unit = np.where((largest < _TINY) & (largest > 0), largest, 1.0)
    is_tiny = bool((unit != 1).any())
    loc, scale = values.mean(0), (values / unit).std(0) * unit if is_tiny else values.std(0)
    constant = scale <= 1e-12 * largest  # in any units: atoms are 1e-10 m apart
    if constant.any():
        bad = [name for name, one in zip(names, constant, strict=True) if one]
        raise InputError(f"{source}: {_constant(bad)}")
    return loc, scale


def _table(
    found: Recognised,
    schema: Schema,
    values: npt.NDArray[np.float64],
    labels: tuple[str, ...],
    source: str | None,
    said: Sequence[str],
) -> Table:
    loc, scale = np.array(schema.loc), np.array(schema.scale)
    return Table(
        name=found.raw.name,
        v=torch.as_tensor((values - loc) / scale),
        raw=torch.as_tensor(values),
        columns=schema.encoded,
        loc=torch.as_tensor(loc),
        scale=torch.as_tensor(scale),
        labels=labels,
        source=source or found.raw.source,
        frame=found.frame,
        rows=found.rows,
        schema=schema,
        understood=_understood(found, schema, said),
    )


# --- what is said ------------------------------------------------------------------------------


def _understood(found: Recognised, schema: Schema, said: Sequence[str]) -> Understood:
    frame = found.frame
    kinds: list[str] = [column.kind for column in schema.columns]
    head = f"{found.raw.name}: {_count(len(frame), 'row')}, {_count(len(kinds), 'column')}"
    if len(schema.encoded) != len(kinds):
        head += f", {len(schema.encoded)} once words are encoded"
    table = _described(found, schema)
    lines = [head, *found.lines]
    if len(kinds) <= _MOST_DESCRIBED:
        rows = (table.iloc[i] for i in range(len(table)))
        lines += [sentence(c, schema, row) for c, row in zip(schema.columns, rows, strict=True)]
    else:
        named = {"number": "numbers", "category": "words", "boolean": "true and false"}
        each = [f"{kinds.count(k)} of {what}" for k, what in named.items() if kinds.count(k)]
        lines.append(f"columns: {', '.join(each)}")
    return Understood((*lines, *said), table)


def sentence(column: Column, schema: Schema, described: Mapping[str, Any] | Any) -> str:
    """Say what a column holds, and what becomes of its words.

    Parameters
    ----------
    column : Column
    schema : Schema
        That it belongs to.
    described : mapping
        Its row of `Understood.table`.
    """
    is_outcome = column.name == schema.outcome
    what = f"{column.name!r}" + (", the outcome" if is_outcome else "")
    if column.kind == "number":
        return f"{what}: numbers from {described['smallest']:.6g} to {described['largest']:.6g}"
    if column.kind == "boolean":
        return f"{what}: true (1) and false (0)"
    if is_outcome and len(column.levels) == 2:
        return f"{what}: words: 1 is {column.levels[1]!r}, 0 is {column.levels[0]!r}"
    others = excerpt(list(column.levels[1:]))
    return (
        f"{what}: words, {len(column.levels)} levels: {column.levels[0]} (the base), {others};"
        f" columns {listed(column.encoded(), 3)}"
    )


def _described(found: Recognised, schema: Schema) -> pd.DataFrame:
    """Describe each column in a row; a category has levels, the others a range and moments."""
    rows = []
    for column in schema.columns:
        values = found.frame[column.name]
        numbers = values if column.kind != "category" else pd.Series([np.nan])
        rows.append(
            {
                "column": column.name,
                "kind": column.kind,
                "smallest": numbers.min(),
                "largest": numbers.max(),
                "mean": numbers.mean(),
                "sd": numbers.std(ddof=0),
                "levels": len(column.levels) or np.nan,
                "missing": found.missing.get(column.name, 0),
            }
        )
    return pd.DataFrame(rows)


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
