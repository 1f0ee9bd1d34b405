"""What is wrong with a text that cannot be split into rows: looked for after a failure only."""

import re
from collections.abc import Iterator, Sequence

from pyro_cookbook.data.errors import InputError
from pyro_cookbook.data.intake.dialect import NUMBER, Dialect, records
from pyro_cookbook.data.intake.places import shortened


def rows_of(text: str, source: str, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Go through the rows of the body, with the lines of the file on which they begin."""
    found = all_rows_of(text, source, dialect)
    if dialect.header:
        next(found)
    return found


def all_rows_of(text: str, source: str, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Go through all rows, the header's too."""
    return records(
        text,
        dialect.separator,
        dialect.quote,
        runs=dialect.runs,
        source=source,
        first_line=dialect.first_line,
    )


def check_widths(text: str, source: str, dialect: Dialect) -> None:
    """Name the first row that has not as many fields as the header.

    Raises
    ------
    InputError
    """
    for line, fields in rows_of(text, source, dialect):
        if len(fields) > dialect.num_fields:
            raise InputError(too_many(source, line, fields, dialect))
        if len(fields) < dialect.num_fields:
            raise InputError(
                f"{source}: line {line} has {_fields(len(fields))}, expected"
                f" {dialect.num_fields} like the {_first(dialect)}: {_shown(fields, dialect)}"
            )


def too_many(source: str, line: int, fields: Sequence[str], dialect: Dialect) -> str:
    """Say that a row has more fields than the header, and why that may be."""
    hint = ""
    if len(dialect.names) == 1 and len(fields) > 1 and not dialect.names[0].isidentifier():
        hint = "; a title or a comment above the header?"
    elif len(fields) == len(dialect.names) + 1:
        if not fields[-1].strip():
            hint = "; it ends in a separator"
        elif dialect.separator == "," and all(NUMBER.fullmatch(one.strip()) for one in fields):
            hint = "; a comma for the decimals, or a column without a name?"
        else:
            hint = "; a column without a name?"
    return (
        f"{source}: line {line} has {_fields(len(fields))}, expected {len(dialect.names)} like the"
        f" {_first(dialect)}: {_shown(fields, dialect)}{hint}"
    )


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def _first(dialect: Dialect) -> str:
    return "header" if dialect.header else "first row"


def _shown(fields: Sequence[str], dialect: Dialect) -> str:
    return repr(shortened(dialect.separator.join(fields), 40))


def check_quotes(text: str, source: str, dialect: Dialect) -> None:
    """Refuse a quote that is never closed: all that follows would be one entry.

    Raises
    ------
    InputError
    """
    quote = dialect.quote
    inside = rf"{re.escape(dialect.separator)}\n{quote}"
    line = dialect.first_line
    for line, _ in all_rows_of(text, source, dialect):  # noqa: B007
        pass
    start = 0
    for _ in range(line - dialect.first_line):
        start = text.index("\n", start) + 1
    # What the last row has of quotes: those that begin a field open one, and it must close.
    rest = text[start:].replace(2 * quote, "")
    opened = re.search(rf"(?:^|(?<=[{inside}]))[ ]*{quote}[^{quote}]*\Z", rest)
    if opened:
        line += rest[: opened.start()].count("\n")
        raise InputError(f"{source}: line {line} opens a quote ({quote}) that is never closed")
