"""Tables written as text: recognised, split strictly, and never guessed at in silence."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from pyro_cookbook.data.errors import InputError, one_line
from pyro_cookbook.data.intake.dialect import (
    MARKS,
    SEPARATORS,
    Dialect,
    decode,
    records,
    sniff,
)
from pyro_cookbook.data.intake.faults import check_quotes, check_widths, rows_of, too_many
from pyro_cookbook.data.intake.places import Choice, Raw, check_names, shortened

_BLOCK = 1 << 24  # bytes that Arrow converts at a time; a row may not be longer


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """What a reader says about a file of text; None is left to be recognised.

    Attributes
    ----------
    separator, decimal, encoding : str, optional
    header : bool, optional
        Whether the first row has names.
    """

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    header: bool | None = None

    def __post_init__(self) -> None:
        if self.decimal not in {None, ".", ","}:
            raise InputError(f"decimal: got {self.decimal!r}, expected '.' or ','")
        if self.separator is not None and len(self.separator) != 1:
            raise InputError(f"separator: got {self.separator!r}, expected one character")
        if self.separator is not None and self.separator in "\r\n\"'.":
            raise InputError(f"separator: got {self.separator!r}, which cannot separate numbers")
        if self.separator is not None and self.separator == self.decimal:
            raise InputError(f"separator: got {self.separator!r}, which is the decimal as well")

    @property
    def given(self) -> bool:
        """Whether there is anything that only a text could heed."""
        return any(
            v is not None for v in (self.separator, self.decimal, self.encoding, self.header)
        )


@dataclass(frozen=True, eq=False)
class Lines:
    """Places in a text: found by going through it, which is done for messages only.

    Attributes
    ----------
    text : str
    dialect : Dialect
    """

    text: str
    dialect: Dialect
    _found: dict[int, tuple[int, list[str]]] = field(default_factory=dict)

    def place(self, row: int) -> str:
        """Say "line 7", as an editor counts lines."""
        return f"line {self._record(row)[0]}"

    def entry(self, row: int, column: str) -> str:
        """Give an entry as it is written, in quotes."""
        fields = self._record(row)[1]
        return repr(shortened(fields[self.dialect.names.index(column)].strip()))

    def _record(self, row: int) -> tuple[int, list[str]]:
        if row not in self._found:
            self._found[row] = next(
                found for i, found in enumerate(rows_of(self.text, "", self.dialect)) if i == row
            )
        return self._found[row]


def read_text(
    data: bytes,
    source: str,
    name: str,
    options: TextOptions,
    choose: Choice,
    words: frozenset[str] = frozenset(),
) -> Raw:
    """Read a table that is written as text.

    Parameters
    ----------
    data : bytes
        Of the file, uncompressed.
    source, name : str
        What messages call it, and what the table is called.
    options : TextOptions
    choose : callable
        Which columns to read.
    words : frozenset of str
        Columns that hold words even where these look like numbers.

    Raises
    ------
    InputError
        With the line on which it cannot be read.
    """
    text, encoding = decode(data, options.encoding, source)
    text, ends = _one_kind_of_line(text)
    text, separator, first_line = _excel_line(_without_blanks(text), options.separator)
    if not text.strip():
        raise InputError(f"{source}: it is empty, expected a header and rows")
    dialect = sniff(
        text,
        source,
        separator=separator,
        decimal=options.decimal,
        header=options.header,
        first_line=first_line,
    )
    line = f"line {dialect.header_line}: " if dialect.header else ""
    _check_names(dialect.names, source, line)
    text, num_empty = _without_empty_rows(text, dialect)
    chosen = choose(dialect.names)
    table = _parsed(text, source, dialect, chosen, words)
    table = table.rename_columns(chosen)
    if not table.num_rows:
        raise InputError(f"{source}: it has a header and no rows below it")
    frame = pd.DataFrame({key: _as_series(table[key]) for key in chosen})
    return Raw(
        frame=frame,
        name=name,
        source=source,
        places=Lines(text, dialect),
        lines=_said(dialect, encoding, ends, num_empty, first_line, options),
        decimal=dialect.decimal,
        marks=lambda: _marks(text, source, dialect, table),
    )


def _said(
    dialect: Dialect,
    encoding: str,
    ends: str,
    num_empty: int,
    first_line: int,
    options: TextOptions,
) -> tuple[str, ...]:
    """Say what was recognised, one sentence each."""
    separator = SEPARATORS.get(dialect.separator, repr(dialect.separator))
    if len(dialect.names) == 1:
        separator = "none, one column"
    decimal = "comma" if dialect.decimal == "," else "point"
    lines = [f"text: {encoding}; separator: {separator}; decimals after a {decimal}"]
    if first_line > 1:
        lines.append(f"line 1 names the separator (sep={dialect.separator}) and is no row")
    if dialect.quote == "'":
        lines.append("quotes: single")
    if ends:
        lines.append(f"lines end in {ends}")
    if not dialect.header:
        lines.append("no header: the columns are called column 1, column 2, …, as asked")
    elif options.header:
        lines.append("the first row has the names, as asked")
    if dialect.trailing:
        lines.append("every row ends in one more separator, which is left out")
    if num_empty:
        lines.append(f"rows without any entry: {num_empty}, left out")
    lower: dict[str, str] = {}
    for name in dialect.names:
        other = lower.setdefault(name.lower(), name)
        if other != name:
            lines.append(f"columns {other!r} and {name!r} differ only in case")
    return tuple(lines)


def _one_kind_of_line(text: str) -> tuple[str, str]:
    """Make every line end in a line feed; say what they ended in if it was not one kind."""
    windows = text.count("\r\n")
    old, unix = text.count("\r") - windows, text.count("\n") - windows
    if windows or old:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    kinds = [n for n, count in (("CR LF", windows), ("CR", old), ("LF", unix)) if count]
    if len(kinds) > 1:
        return text, f"{', '.join(kinds[:-1])} and {kinds[-1]}, taken alike"
    return text, "CR" if kinds == ["CR"] else ""


def _without_blanks(text: str) -> str:
    """Empty the lines of blanks only: they are no rows."""
    if not re.search(r"(?:\A|\n) +(?:\n|\Z)", text):
        return text
    return re.sub(r"(?m)^ +$", "", text)


def _excel_line(text: str, separator: str | None) -> tuple[str, str | None, int]:
    """Take off the first line by which Excel is told the separator."""
    found = re.match(r'"?sep=(.)"?[ ]*\n', text)
    if not found:
        return text, separator, 1
    return text[found.end() :], separator or found[1], 2


def _check_names(names: Sequence[str], source: str, line: str) -> None:
    """Refuse columns without a name, but for the first, and names that are there twice."""
    for i, name in enumerate(names):
        if not name and i:
            raise InputError(f"{source}: {line}column {i + 1} has no name")
    check_names([name for name in names if name], source, line)


def _without_empty_rows(text: str, dialect: Dialect) -> tuple[str, int]:
    """Blank out rows of separators and blanks only; spreadsheets write them below a table."""
    if dialect.separator == " ":
        return re.sub(r"(?m)^[ \t]+$", "", text), 0
    separator = re.escape(dialect.separator)
    blanks = " " if dialect.separator == "\t" else " \t"
    least = dialect.num_fields - 1
    if not least or not re.search(rf"\n[{blanks}]*{separator}[{blanks}{separator}]*(\n|\Z)", text):
        return text, 0
    return re.subn(rf"(?m)^[{blanks}]*(?:{separator}[{blanks}]*){{{least},}}$", "", text)


def _parsed(
    text: str, source: str, dialect: Dialect, chosen: Sequence[str], words: frozenset[str]
) -> "pa.Table":
    """Split the body by Arrow, which refuses every row of another length."""
    indices = [dialect.names.index(name) for name in chosen]
    if dialect.trailing:
        indices.append(len(dialect.names))
    # Arrow reads 0x1A as 26, which is no number of a table: such texts are read word by word.
    as_text = chosen if "0x" in text or "0X" in text else words.intersection(chosen)
    types = {str(dialect.names.index(name)): pa.string() for name in as_text}
    if text.count(dialect.quote) % 2:
        check_quotes(text, source, dialect)
    body = _body(text, dialect)
    if not body.strip("\n"):
        raise InputError(f"{source}: it has a header and no rows below it")
    try:
        table = _arrow(body, dialect, indices, types, MARKS)
    except pa.ArrowInvalid as error:
        check_widths(text, source, dialect)
        raise InputError(f"{source}: not a readable table: {one_line(error)}") from error
    if dialect.trailing:
        extra = table.column(table.num_columns - 1)
        if extra.null_count < len(extra):
            row = pc.index(extra.is_valid(), True).as_py()
            line, fields = next(r for i, r in enumerate(rows_of(text, source, dialect)) if i == row)
            raise InputError(too_many(source, line, fields, dialect))
        table = table.select(range(table.num_columns - 1))
    return table


def _body(text: str, dialect: Dialect) -> str:
    """Give the text without its header."""
    if dialect.runs:
        text = re.sub(r"(?m)^[ \t]+|[ \t]+$", "", text)
        text = re.sub(r"[ \t]+", " ", text)
    if not dialect.header:
        return text
    found = records(text, dialect.separator, dialect.quote)
    next(found)
    line = next(found, (None,))[0]
    if line is None:
        return ""
    start = 0
    for _ in range(line - 1):
        start = text.index("\n", start) + 1
    return text[start:]


def _arrow(
    body: str,
    dialect: Dialect,
    indices: Sequence[int],
    types: dict[str, Any],
    marks: Sequence[str],
) -> "pa.Table":
    names = [str(i) for i in range(dialect.num_fields)]
    return arrow_csv.read_csv(
        pa.BufferReader(body.encode()),
        read_options=arrow_csv.ReadOptions(column_names=names, block_size=_BLOCK),
        parse_options=arrow_csv.ParseOptions(
            delimiter=dialect.separator, quote_char=dialect.quote, newlines_in_values=True
        ),
        convert_options=arrow_csv.ConvertOptions(
            null_values=list(marks),
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            decimal_point=dialect.decimal,
            true_values=["true", "True", "TRUE"],
            false_values=["false", "False", "FALSE"],
            column_types=types,
            include_columns=[str(i) for i in indices],
        ),
    )


def _as_series(column: "pa.ChunkedArray") -> "pd.Series[Any]":
    """Make numbers floats with NaN where one is missing; leave the other kinds theirs."""
    if pa.types.is_null(column.type):
        return pd.Series([float("nan")] * len(column), dtype=float)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return pd.Series(column.cast(pa.float64(), safe=False).to_numpy())
    if pa.types.is_boolean(column.type):
        return pd.Series(column.to_pandas(), dtype="boolean")
    return column.to_pandas()  # type: ignore[no-any-return]


def _marks(text: str, source: str, dialect: Dialect, table: "pa.Table") -> dict[str, int]:
    """Count the marks of missing entries, by reading once more the columns that have any."""
    missing = [key for key in table.column_names if table[key].null_count or _has_nan(table[key])]
    if not missing:
        return {}
    indices = [dialect.names.index(key) for key in missing]
    types = {str(i): pa.string() for i in indices}
    again = _arrow(_body(text, dialect), dialect, indices, types, [])
    counts: dict[str, int] = {}
    for column in again.columns:
        bare = pc.utf8_trim_whitespace(column)
        for one in pc.value_counts(bare.filter(pc.is_in(bare, pa.array(MARKS)))).to_pylist():
            counts[one["values"]] = counts.get(one["values"], 0) + one["counts"]
    return counts


def _has_nan(column: "pa.ChunkedArray") -> bool:
    return pa.types.is_floating(column.type) and bool(pc.any(pc.is_nan(column)).as_py())
