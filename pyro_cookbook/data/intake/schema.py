"""How columns of a table become the columns of a fit, so that new rows become the same ones."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)

from pyro_cookbook.data.errors import InputError, did_you_mean, listed, one_line
from pyro_cookbook.data.intake.kinds import excerpt
from pyro_cookbook.data.intake.recognise import Recognised, recognise

if TYPE_CHECKING:
    from pyro_cookbook.data.tables import Table

MOST_LEVELS = 1000  # of a column of words: each but the first becomes a column
_MOST_COLUMNS = 200_000
_MOST_ENTRIES = 1 << 31  # of the encoded table, 16 GB
_MOST_BYTES = 1 << 26  # of a schema as JSON

Word = Annotated[str, Field(max_length=10_000)]


class Column(BaseModel):
    """A column of a reader's table.

    Attributes
    ----------
    name : str
    kind : {"number", "category", "boolean"}
    levels : tuple of str
        Of a category, the base first; empty for the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Word
    kind: Literal["number", "category", "boolean"]
    levels: Annotated[tuple[Word, ...], Field(max_length=MOST_LEVELS, strict=False)] = ()

    @property
    def base(self) -> str | None:
        """The level that has no column of its own; None unless it is a category."""
        return self.levels[0] if self.levels else None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.kind == "category") != bool(self.levels):
            raise ValueError(f"column {self.name!r}: a category has levels, and nothing else has")
        if len(set(self.levels)) < len(self.levels):
            raise ValueError(f"column {self.name!r}: a level is there twice")
        return self

    def encoded(self, *, is_outcome: bool = False) -> tuple[str, ...]:
        """Name the columns that it becomes: ``name[level]`` for each level but the base.

        An outcome of two words is one column of 0 and 1 under its own name.
        """
        if self.kind != "category" or (is_outcome and len(self.levels) == 2):
            return (self.name,)
        return tuple(f"{self.name}[{level}]" for level in self.levels[1:])


class Schema(BaseModel):
    """How the columns of a table become standardised columns of numbers.

    Attributes
    ----------
    columns : tuple of Column
        Of the reader's table, in the order in which they are used.
    outcome : str, optional
        The one that the others explain; it is the last.
    loc, scale : tuple of float
        Mean and sd of each encoded column in its own units.
    missing : {"refuse", "drop"}
        What becomes of rows in which an entry is missing.

    Examples
    --------
    >>> from pyro_cookbook import data
    >>> table = data.read({"dose": [1.0, 2.0, 6.0, 7.0], "team": ["b", "a", "b", "a"]})
    >>> table.schema.encoded
    ('dose', 'team[b]')
    >>> new = table.schema.apply({"team": ["b"], "dose": [4.0], "note": ["new"]})
    >>> new.raw.tolist(), new.v.tolist()
    ([[4.0, 1.0]], [[0.0, 1.0]])
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    columns: Annotated[
        tuple[Column, ...], Field(min_length=1, max_length=_MOST_COLUMNS, strict=False)
    ]
    outcome: Word | None = None
    loc: Annotated[tuple[FiniteFloat, ...], Field(max_length=_MOST_COLUMNS, strict=False)]
    scale: Annotated[tuple[FiniteFloat, ...], Field(max_length=_MOST_COLUMNS, strict=False)]
    missing: Literal["refuse", "drop"] = "refuse"

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names):
            raise ValueError("a column is there twice")
        if self.outcome is not None and self.outcome != names[-1]:
            raise ValueError(f"the outcome is {self.outcome!r}, expected the last column")
        if not len(self.encoded) == len(self.loc) == len(self.scale):
            raise ValueError(
                f"{len(self.encoded)} columns, {len(self.loc)} means and {len(self.scale)} sds"
            )
        if not all(one > 0 for one in self.scale):
            raise ValueError("an sd is not positive")
        return self

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what ``model_dump_json()`` wrote.

        Raises
        ------
        InputError
            If it is not a schema, or larger than 64 MB.
        """
        if len(text) > _MOST_BYTES:
            raise InputError(f"schema: {len(text):,} bytes, expected {_MOST_BYTES:,} at most")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            told = first["msg"].removeprefix("Value error, ")
            raise InputError(f"schema: {place + ': ' if place else ''}{told}") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"schema: {one_line(error)}") from error

    @property
    def encoded(self) -> tuple[str, ...]:
        """Names of the encoded columns, in order."""
        return tuple(
            name
            for column in self.columns
            for name in column.encoded(is_outcome=column.name == self.outcome)
        )

    def apply(
        self,
        source: Any,
        *,
        need_outcome: bool = False,
        missing: str | None = None,
        separator: str | None = None,
        decimal: str | None = None,
        encoding: str | None = None,
        header: bool | None = None,
        name: str | None = None,
    ) -> "Table":
        """Read new rows as the old ones were read.

        Parameters
        ----------
        source
            As for `read`; its columns in any order. Others than the schema's are left out.
        need_outcome : bool, default False
            Whether the outcome is read as well; without it the table ends before it.
        missing : {"refuse", "drop"}, optional
            Default: the schema's.
        separator, decimal, encoding, header, name
            As for `read`.

        Returns
        -------
        Table
            Rows in their order, standardised by the means and sds of the old ones.

        Raises
        ------
        FileNotFoundError, InputError
            As for `read`, and if a column is missing or has a level that the old rows had not.
        """
        part = self if need_outcome or self.outcome is None else self.without_outcome()
        label = str(source) if hasattr(source, "joinpath") or isinstance(source, str) else "data"
        extra: list[str] = []

        def choose(names: Sequence[str]) -> list[str]:
            wanted = [column.name for column in part.columns]
            for one in wanted:
                if one not in names:
                    raise InputError(
                        f"{name or label}: no column {one!r}, which the fit was made with; there"
                        f" are {listed(names, 40)}{did_you_mean(one, names)}"
                    )
            extra[:] = [one for one in names if one not in wanted]
            return wanted

        found = recognise(
            source,
            choose,
            missing=missing or self.missing,
            separator=separator,
            decimal=decimal,
            encoding=encoding,
            header=header,
            name=name,
            kinds={column.name: column.kind for column in part.columns},
        )
        from pyro_cookbook.data.assembly import assembled

        return assembled(found, part, extra=extra)

    def without_outcome(self) -> Self:
        """Give the schema of all columns but the outcome.

        Raises
        ------
        InputError
            If nothing is left.
        """
        if len(self.columns) == 1:
            raise InputError("schema: the outcome is the only column")
        kept = self.columns[:-1]
        return self.model_copy(
            update={
                "columns": kept,
                "outcome": None,
                "loc": self.loc[:-1],
                "scale": self.scale[:-1],
            }
        )

    def undo(self, values: Any, columns: Sequence[str] | None = None) -> Any:
        """Turn standardised values, means or draws into the units of the table: v · scale + loc.

        Parameters
        ----------
        values : Tensor or array_like
            Shape (…, D), a last entry for each of `columns`.
        columns : sequence of str, optional
            Encoded columns. Default: all.

        Returns
        -------
        Tensor or array
            As it was given.
        """
        loc, scale = self._moments(values, columns)
        return values * scale + loc if isinstance(values, torch.Tensor) else (
            np.asarray(values) * scale + loc
        )  # fmt: skip

    def undo_scale(self, values: Any, columns: Sequence[str] | None = None) -> Any:
        """Turn standardised sds or differences into the units of the table: v · scale.

        Parameters
        ----------
        values, columns
            As for `undo`.
        """
        scale = self._moments(values, columns)[1]
        return values * scale if isinstance(values, torch.Tensor) else np.asarray(values) * scale

    def _moments(self, values: Any, columns: Sequence[str] | None) -> tuple[Any, Any]:
        names = list(self.encoded)
        wanted = names if columns is None else list(columns)
        for one in wanted:
            if one not in names:
                raise InputError(
                    f"columns: no column {one!r}; there are {listed(names)}"
                    f"{did_you_mean(one, names)}"
                )
        shape = np.shape(values)
        if not shape or shape[-1] != len(wanted):
            raise InputError(
                f"values: got shape {tuple(shape)}, expected {len(wanted)} columns at the end"
            )
        order = [names.index(one) for one in wanted]
        moments = [np.asarray(one, dtype=float)[order] for one in (self.loc, self.scale)]
        if isinstance(values, torch.Tensor):
            loc, scale = (torch.as_tensor(one).to(values) for one in moments)
            return loc, scale
        return moments[0], moments[1]


def columns_of(found: Recognised, outcome: str | None) -> tuple[Column, ...]:
    """Describe recognised columns.

    Raises
    ------
    InputError
        If a column of words names rows, or has too many levels, or the outcome has not two.
    """
    columns = []
    for column, kind in found.kinds.items():
        levels: tuple[str, ...] = ()
        if kind == "category":
            values = found.frame[column]
            levels = tuple(str(level) for level in values.cat.categories)
            _check_levels(found, column, levels, is_outcome=column == outcome)
        columns.append(Column(name=column, kind=kind, levels=levels))
    return tuple(columns)


def _check_levels(
    found: Recognised, column: str, levels: Sequence[str], *, is_outcome: bool
) -> None:
    source, num_rows = found.raw.source, len(found.frame)
    if len(levels) == num_rows and num_rows > 1:
        raise InputError(
            f"{source}: column {column!r} has a different word in each of {num_rows:,} rows"
            f" ({excerpt(list(levels), 3)}): it names rows; leave it out (--exclude)"
        )
    if is_outcome and len(levels) > 2:
        raise InputError(
            f"{source}: outcome {column!r} has {len(levels)} levels ({excerpt(list(levels))}),"
            " expected 2, or numbers"
        )
    if len(levels) > MOST_LEVELS:
        raise InputError(
            f"{source}: column {column!r} has {len(levels):,} different words, expected"
            f" {MOST_LEVELS:,} at most; group them, or leave it out (--exclude)"
        )


def encode(frame: pd.DataFrame, schema_columns: Sequence[Column], source: str) -> (
    npt.NDArray[np.float64]
):  # fmt: skip
    """Write categories as indicators of every level but the base; the rest stays.

    Parameters
    ----------
    frame : pandas.DataFrame
        Floats, and Categoricals that have the columns' levels in the columns' order.
    schema_columns : sequence of Column
    source : str

    Returns
    -------
    array
        Shape (n, number of encoded columns).

    Raises
    ------
    InputError
        If that would take more than 16 GB.
    """
    width = sum(max(len(column.levels) - 1, 1) for column in schema_columns)
    if width * len(frame) > _MOST_ENTRIES:
        raise InputError(
            f"{source}: {len(frame):,} rows and {width:,} columns once words are encoded are too"
            " many; choose columns (--columns)"
        )
    parts = []
    for column in schema_columns:
        values = frame[column.name]
        if column.kind != "category":
            parts.append(values.to_numpy(dtype=float)[:, None])
            continue
        codes = np.asarray(values.cat.codes)
        others = np.arange(1, len(column.levels))
        parts.append((codes[:, None] == others).astype(float))
    return np.concatenate(parts, axis=1)
