"""A table of the reader's: read, checked, standardised."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from pyro_cookbook.data.errors import InputError, did_you_mean, listed
from pyro_cookbook.data.intake.schema import Column, Schema
from pyro_cookbook.data.intake.understood import Understood


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
        Names of the D columns; ``name[level]`` where a column of words was encoded.
    loc, scale : Tensor
        Mean and sd of each column in its own units, shape (D,).
    labels : tuple of str
        The class of each row, never shown to a model; empty if there is none.
    source : str
        Where the data come from.
    frame : pandas.DataFrame
        The columns before words were encoded: floats and Categoricals, n rows.
    rows : array
        Which rows of the source these are, from 0, shape (n,): not all, where some were dropped.
    schema : Schema
        How other rows become rows of this table.
    understood : Understood
        What to tell the reader before anything is fitted.
    """

    name: str
    v: Tensor
    raw: Tensor
    columns: tuple[str, ...]
    loc: Tensor
    scale: Tensor
    labels: tuple[str, ...]
    source: str
    frame: pd.DataFrame
    rows: npt.NDArray[np.int64]
    schema: Schema
    understood: Understood

    def ending_in(self, column: str) -> "Table":
        """Move a column to the end, where models with an outcome look for it.

        Parameters
        ----------
        column : str
            A column of the reader's table. One of two words may also be called as it is encoded;
            it is then a column of 0 and 1 under its own name.

        Raises
        ------
        InputError
            If there is no such column, listing those there are, or it has more than two levels.
        """
        chosen = self._source_of(column)
        columns = [one for one in self.schema.columns if one is not chosen]
        columns.append(chosen)
        places: dict[str, list[int]] = {}
        for one in self.schema.columns:
            start = sum(map(len, places.values()))
            width = len(one.encoded(is_outcome=one.name == self.schema.outcome))
            places[one.name] = list(range(start, start + width))
        order = [i for one in columns for i in places[one.name]]
        schema = Schema(
            columns=tuple(columns),
            outcome=chosen.name,
            loc=tuple(self.schema.loc[i] for i in order),
            scale=tuple(self.schema.scale[i] for i in order),
            missing=self.schema.missing,
        )
        return replace(
            self,
            v=self.v[:, order],
            raw=self.raw[:, order],
            columns=schema.encoded,
            loc=self.loc[order],
            scale=self.scale[order],
            frame=self.frame[[one.name for one in columns]],
            schema=schema,
            understood=self._understood(chosen, schema),
        )

    def _understood(self, chosen: Column, schema: Schema) -> Understood:
        """Say anew what is understood of the outcome, where it was said before."""
        from pyro_cookbook.data.assembly import sentence

        table = self.understood.table.set_index("column", drop=False)
        before = f"{chosen.name!r}: "
        lines = tuple(
            sentence(chosen, schema, table.loc[chosen.name]) if line.startswith(before) else line
            for line in self.understood.lines
        )
        return replace(
            self.understood,
            lines=lines,
            table=table.loc[[one.name for one in schema.columns]].reset_index(drop=True),
        )

    def _source_of(self, column: str) -> Column:
        """Find the reader's column that a name stands for."""
        for one in self.schema.columns:
            if column != one.name and column not in one.encoded():
                continue
            if len(one.levels) > 2:
                raise InputError(
                    f"{self.name}: outcome {one.name!r} has {len(one.levels)} levels"
                    f" ({listed(one.levels, 8)}), expected 2, or numbers"
                )
            return one
        there = [one.name for one in self.schema.columns]
        raise InputError(
            f"{self.name}: no column {column!r}; there are {listed(there, 40)}"
            f"{did_you_mean(column, there)}"
        )


def read(
    source: Any,
    columns: Sequence[str] | None = None,
    *,
    exclude: Sequence[str] | None = None,
    outcome: str | None = None,
    missing: str = "refuse",
    separator: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    name: str | None = None,
) -> Table:
    """Read a table of one's own: recognised and said, or refused in one line.

    Parameters
    ----------
    source : path, or a table in memory
        A file of text with any separator, compressed or not ("-": the standard input); Parquet or
        Arrow, a file or a folder of files; NumPy's ``.npy`` and ``.npz``; NetCDF or Zarr; a folder
        of pictures, one a row. In memory: a frame of pandas, polars or anything that speaks Arrow
        or the dataframe protocol, an array, a tensor, an xarray Dataset or DataArray, a SciPy
        sparse matrix, an AnnData, or a dict of columns.
    columns, exclude : sequence of str, optional
        The columns to use, in this order (default: all), and those to leave out.
    outcome : str, optional
        The column that the others explain: it becomes the last, and if it has two words they become
        0 and 1, in the order of the alphabet.
    missing : {"refuse", "drop"}, default "refuse"
        What becomes of rows in which an entry is missing.
    separator, decimal, encoding : str, optional
        Of text. Default: recognised.
    header : bool, optional
        Whether the first row of a text has the names. Default: yes, and a row of numbers is
        refused; with True it is taken for names.
    name : str, optional
        What to call the table. Default: the stem of the file.

    Returns
    -------
    Table
        Words as columns ``name[level]`` of 0 and 1, one for each level but the first.

    Raises
    ------
    FileNotFoundError, InputError
        In one line: the file, the row (its line in a text) and column, what was found and what was
        expected.

    Examples
    --------
    >>> table = read({"dose": [1, 2, 6, 7], "sick": ["no", "no", "yes", "no"]}, outcome="sick")
    >>> print(table.understood.lines[-1])
    'sick', the outcome: words: 1 is 'yes', 0 is 'no'
    """
    from pyro_cookbook.data.assembly import assemble
    from pyro_cookbook.data.intake.recognise import recognise

    found = recognise(
        source,
        columns,
        exclude=exclude,
        outcome=outcome,
        missing=missing,
        separator=separator,
        decimal=decimal,
        encoding=encoding,
        header=header,
        name=name,
    )
    return assemble(found, outcome=outcome, missing=missing)


def standardise(frame: pd.DataFrame, name: str, labels: tuple[str, ...], source: str) -> Table:
    """Give every column of a frame mean 0 and sd 1, words encoded.

    Parameters
    ----------
    frame : pandas.DataFrame
    name, source : str
        What the table is called, and where it comes from.
    labels : tuple of str
        The class of each row.

    Raises
    ------
    InputError
        If there are fewer than two rows or no columns, or a column is constant, too large to have
        a standard deviation, missing in some row, or nothing that could be encoded.
    """
    from pyro_cookbook.data.assembly import assemble
    from pyro_cookbook.data.intake.places import Raw, Rows
    from pyro_cookbook.data.intake.recognise import typed

    frame = frame.set_axis(pd.Index(map(str, frame.columns), dtype=object), axis=1)
    frame = frame.reset_index(drop=True)
    found = typed(Raw(frame, name, name, Rows(frame)), "refuse", {})
    return assemble(found, labels=labels, source=source)
