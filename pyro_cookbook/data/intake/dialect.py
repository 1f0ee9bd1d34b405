"""How a table is written as text: its encoding, separator, quotes, decimals and header."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyro_cookbook.data.errors import InputError
from pyro_cookbook.data.intake.places import shortened

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "blanks"}
# What stands for an entry that is missing, blanks around it left out.
MARKS = (
    "", "NA", "N/A", "n/a", "na", "#N/A", "<NA>", "NaN", "nan", "NAN", "NULL", "null", "None",
    "?", "-", "--", ".", "..",
)  # fmt: skip
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(\d*),(\d+)([eE][+-]?\d+)?")
_POINT = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
_SAMPLE = 1 << 16  # characters that are looked at to tell the dialect
_MOST_ROWS = 300
_SHARE_OF_NULLS = 0.5  # of one half of the bytes: UTF-16 of mostly Latin letters


@dataclass(frozen=True)
class Dialect:
    """How a table is written.

    Attributes
    ----------
    separator, quote, decimal : str
        One character each; for runs of blanks the separator is " ".
    runs : bool
        Whether several blanks separate like one.
    names : tuple of str
        Of the columns, blanks around them left out; made up if there is no header.
    header : bool
        Whether the first row has the names.
    trailing : bool
        Whether every row of the body ends in one more separator.
    first_line : int
        Line of the file with which the text begins, counted from 1: 2 below Excel's ``sep=;``.
    header_line : int
        Line of the file with the first row.
    """

    separator: str
    quote: str
    decimal: str
    runs: bool
    names: tuple[str, ...]
    header: bool
    trailing: bool
    first_line: int
    header_line: int

    @property
    def num_fields(self) -> int:
        """How many fields a row of the body has."""
        return len(self.names) + self.trailing


def decode(data: bytes, encoding: str | None, source: str) -> tuple[str, str]:
    """Turn bytes into text, and say how they are encoded.

    Without a byte-order mark text is UTF-16 if every other byte is null, else UTF-8, and where
    that does not decode Windows-1252, in which every byte but five means something.

    Raises
    ------
    InputError
        If they are no text, or not in the encoding that was asked for.
    """
    if encoding is not None:
        return _decoded(data, encoding, source), f"encoding {encoding}, as asked"
    for mark, name, said in (
        (b"\xef\xbb\xbf", "utf-8-sig", "UTF-8 with a byte-order mark"),
        (b"\xff\xfe", "utf-16", "UTF-16 with a byte-order mark"),
        (b"\xfe\xff", "utf-16", "UTF-16 with a byte-order mark"),
    ):
        if data.startswith(mark):
            return _decoded(data, name, source), said
    if b"\0" in data:
        text = _utf16(data, source)
        _check_control(text, source)
        return text, "UTF-16 without a byte-order mark"
    try:
        text, said = data.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError as error:
        place = data.count(b"\n", 0, error.start) + 1
        said = f"Windows-1252: it is not UTF-8 (byte 0x{data[error.start]:02x} in line {place})"
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            text, said = data.decode("latin-1"), said.replace("Windows-1252", "Latin-1")
    _check_control(text, source)
    return text, said


def _check_control(text: str, source: str) -> None:
    """Refuse characters that steer a terminal and stand in no table."""
    found = re.search(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]", text[: 1 << 20])
    if found:
        place = text.count("\n", 0, found.start()) + 1
        raise InputError(
            f"{source}: line {place}: character 0x{ord(found[0]):02x}, expected text (a binary"
            " file?)"
        )


def _decoded(data: bytes, encoding: str, source: str) -> str:
    try:
        return data.decode(encoding)
    except LookupError:
        raise InputError(f"encoding: got {encoding!r}, expected one that Python knows") from None
    except UnicodeDecodeError as error:
        place = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{source}: not {encoding}: {error.reason} (byte 0x{data[error.start]:02x}, line"
            f" {place})"
        ) from None


def _utf16(data: bytes, source: str) -> str:
    even, odd = data[0:4096:2].count(0), data[1:4096:2].count(0)
    half = min(len(data), 4096) / 2
    if max(even, odd) < _SHARE_OF_NULLS * half or min(even, odd) > 0.01 * half or len(data) % 2:
        raise InputError(f"{source}: not text: it has bytes of value 0 (a binary file?)")
    return _decoded(data, "utf-16-le" if odd > even else "utf-16-be", source)


def records(
    text: str,
    separator: str,
    quote: str,
    *,
    runs: bool = False,
    source: str = "",
    first_line: int = 1,
) -> Iterator[tuple[int, list[str]]]:
    """Go through the rows of a text; blank lines are none.

    Parameters
    ----------
    text : str
        Lines end in line feeds.
    separator, quote : str
    runs : bool, default False
        Whether several blanks separate like one.
    source : str
        What a message calls the file.
    first_line : int, default 1
        Line of the file with which the text begins.

    Yields
    ------
    line : int
        On which a row begins.
    fields : list of str

    Raises
    ------
    InputError
        If an entry is too long to be one: a quote is not closed for many lines.
    """
    lines = _lines(text)
    if runs:
        lines = (re.sub(r"[ \t]+", " ", line.strip()) + "\n" for line in lines)
    reader = csv.reader(lines, delimiter=separator, quotechar=quote)
    start = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # a field of more than 131,072 characters
            raise InputError(
                f"{source}: line {start + first_line - 1} begins an entry of more than"
                f" {csv.field_size_limit():,} characters; a quote that is never closed?"
            ) from error
        if fields:
            yield start + first_line - 1, fields
        start = reader.line_num + 1


def _lines(text: str) -> Iterator[str]:
    """Go through lines one by one: a header is found without splitting all that follows."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start : end + 1]
        start = end + 1
    yield text[start:]


def sniff(
    text: str,
    source: str,
    *,
    separator: str | None,
    decimal: str | None,
    header: bool | None,
    first_line: int = 1,
) -> Dialect:
    """Tell how a table is written from its first rows.

    The separator is the one under which most rows have as many fields as the header; among equals
    the one that leaves most numbers.

    Raises
    ------
    InputError
        If there are no rows, there is no header, or commas could mean two things.
    """
    sample = text[:_SAMPLE]
    if len(sample) < len(text):
        sample = sample.rpartition("\n")[0]
    quote = _quote(sample)
    candidates = [separator] if separator else list(SEPARATORS)
    if separator == "":
        raise InputError("separator: got '', expected one character")
    scored = [_scored(sample, one, quote) for one in candidates]
    if not any(score.rows for score in scored):
        raise InputError(f"{source}: it has only blank lines, expected a header and rows")
    best = max(scored, key=lambda score: score.key)
    if separator is None and best.key[0] <= 0:  # no separator in the header: one column
        best = _one_column(scored, decimal)
    names, body = best.rows[0], best.rows[1:]
    if len(names) > 1 and not names[-1].strip() and _is_trailing(names[:-1], body):
        names = names[:-1]
    blank_lines = len(sample) - len(sample.lstrip("\n"))
    if header is None:
        _check_header(names, body, source, first_line + blank_lines, best.separator)
    if header is False:
        names, body = [f"column {i + 1}" for i in range(len(names))], best.rows
    found = decimal or _decimal(body, best.separator, source)
    return Dialect(
        separator=best.separator,
        quote=quote,
        decimal=found,
        runs=best.runs,
        names=tuple(name.strip().replace("\n", " ") for name in names),
        header=header is not False,
        trailing=_is_trailing(names, body) and header is not False,
        first_line=first_line,
        header_line=first_line + blank_lines,
    )


@dataclass(frozen=True)
class _Scored:
    """The first rows under one separator; the larger the key, the likelier it is."""

    separator: str
    runs: bool
    rows: list[list[str]]
    key: tuple[float, float, int]


def _scored(sample: str, separator: str, quote: str) -> _Scored:
    runs = separator == " " and bool(re.search(r"(?m)^ |[ \t]{2}| $", sample))
    rows: list[list[str]] = []
    for _, fields in records(sample, separator, quote, runs=runs):
        rows.append(fields)
        if len(rows) > _MOST_ROWS:
            break
    width = len(rows[0]) if rows else 0
    if width < 2:
        return _Scored(separator, runs, rows, (-1.0, 0.0, width))
    body = rows[1:]
    extra = _is_trailing(rows[0], body)
    equal = sum(len(row) == width + extra for row in body) / max(len(body), 1)
    cells = [cell.strip() for row in body for cell in row]
    numbers = sum(bool(NUMBER.fullmatch(cell)) for cell in cells) / max(len(cells), 1)
    # Blanks stand in names and between words; they separate only what is mostly numbers.
    if separator == " " and (equal < 1 or numbers < 0.5):
        return _Scored(separator, runs, rows, (-1.0, 0.0, width))
    return _Scored(separator, runs, rows, (0.01 + equal, numbers, width))


def _one_column(scored: Sequence[_Scored], decimal: str | None) -> _Scored:
    """Choose for a header of one name: what would separate numbers below it, else nothing."""
    for one in scored:
        body = one.rows[1:]
        cells = [cell.strip() for row in body for cell in row]
        is_split = bool(body) and all(len(row) > 1 for row in body)
        if one.separator in ";\t|" and is_split and all(map(NUMBER.fullmatch, cells)):
            return one
    return next(one for one in scored if one.separator == (";" if decimal == "," else ","))


def _quote(sample: str) -> str:
    """Single quotes count where the header has them around every name, and no double ones."""
    first = sample.lstrip("\n").partition("\n")[0]
    cells = [cell.strip() for cell in re.split(r"[,;\t|]", first)]
    single = all(len(cell) > 1 and cell[0] == cell[-1] == "'" for cell in cells)
    return "'" if single and '"' not in sample else '"'


def _is_trailing(names: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    width = len(names) + 1
    return bool(body) and all(len(row) == width and not row[-1].strip() for row in body)


def _check_header(
    names: Sequence[str], body: Sequence[Sequence[str]], source: str, line: int, separator: str
) -> None:
    """Refuse a first row that is no header: numbers where names are expected.

    A whole number between names, like the year 1990, can be a name; 5.1 is none.
    """
    numbers = [i for i, name in enumerate(names) if NUMBER.fullmatch(name.strip())]
    years = all(re.fullmatch(r"[12]\d{3}", names[i].strip()) for i in numbers)
    width = len(names)
    ordinary = [row for row in body if len(row) == width]
    counted = [
        i for i in numbers if ordinary and all(NUMBER.fullmatch(row[i].strip()) for row in ordinary)
    ]
    if numbers and (len(numbers) == width or (counted and not years)):
        shown = shortened(separator.join(names), 40)
        what = "all numbers" if len(numbers) == width else f"{names[numbers[0]].strip()} among them"
        raise InputError(
            f"{source}: line {line}: got {shown!r}, {what}, expected the names of the columns;"
            " header=False (--no-header) takes it for the first row, header=True for names"
        )


def _decimal(body: Sequence[Sequence[str]], separator: str, source: str) -> str:
    """Tell whether commas stand before decimals: some do, no number has a point."""
    cells = [cell.strip() for row in body for cell in row]
    commas = [cell for cell in cells if _COMMA.fullmatch(cell)]
    if not commas or any(_POINT.fullmatch(cell) for cell in cells):
        return "."
    # 1,234 is a thousand to some and one and a bit to others; 1,5 or 0,123 or 1234,567 is neither.
    clear = [c for c in commas if not re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", c)]
    if not clear:
        raise InputError(
            f"{source}: {commas[0]!r} can be a thousand or a decimal; say decimal=',' (--decimal"
            " ,), or leave the marks of thousands out of the file"
        )
    return ","
