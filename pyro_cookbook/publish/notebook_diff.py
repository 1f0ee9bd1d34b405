"""Compare two builds of a notebook: sources exactly, numbers as far as printed, images by size.

What is printed is a claim, and its last digit says how precise. Another processor, another BLAS or
another number of threads adds in another order, and an optimiser or a sampler carries that into the
digits that it has not settled: those are not to be printed. So the tolerance is that of the print:

- a number with decimals, or a percentage: two units of its last place;
- a whole number: 2 %, so that counts below fifty are equal;
- ``x ± s``: x within three s, for s is how far off another run may be; s within a half.

Words are equal, and so are the labels of a table's rows and columns, and their order; but not the
name after "most at" in a verdict, the worst of many entries, some of which are nearly as bad.
"""

import base64
import re
import struct
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from itertools import zip_longest

from nbformat import NotebookNode

# Fonts and processors change an image's pixels, and with them how well it is compressed.
_IMAGE_TOLERANCE = {"width": 0.15, "height": 0.15, "bytes": 0.5}
_PLACES = 2.001  # the thousandth is for rounding: 0.7 - 0.5 is a little less than 0.2
_COUNT = 0.02
_STANDARD_ERRORS = 3.001

_PARTS = {"tr", "th", "td"}  # of a table
_MARKUP = re.compile(r"<style.*?</style>|<[^>]*>", re.DOTALL)
_WORST = re.compile(r"(?<=most at )(site )?'[^']*'")
# Digits inside a name (x1, khat_2) are text, and so is a minus after a letter or a digit.
_NUMBER = re.compile(
    r"(?<![\w.])[-−+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?P<decimals>\.\d*)?(?P<exponent>[eE][-+]?\d+)?"
    r"(?P<percent>(?=\s?%))?"
)


def differences(committed: NotebookNode, fresh: NotebookNode) -> list[str]:
    """Compare two builds of a notebook.

    Sources are equal exactly, text outputs as in `text_difference`, tables as in
    `table_difference`; the plain text beside a table says the same, and is not compared. PNG images
    are equal in width and height within 15 %, and within half in bytes: less is an empty figure.

    Parameters
    ----------
    committed, fresh
        The notebooks.

    Returns
    -------
    list of str
        A line for each difference; empty if there is none.
    """
    if len(committed.cells) != len(fresh.cells):
        return [f"{len(committed.cells)} cells are now {len(fresh.cells)}"]
    found = []
    for number, (old, new) in enumerate(zip(committed.cells, fresh.cells, strict=True), start=1):
        if (old.cell_type, old.source) != (new.cell_type, new.source):
            found.append(f"cell {number}: the source differs")
        else:
            found += [f"cell {number}: {line}" for line in _output_differences(old, new)]
    return found


def text_difference(committed: str, fresh: str) -> str | None:
    """Compare two printed texts, number by number.

    Words are equal exactly, numbers within the tolerance of their print (see the module). White
    space is not compared, since padding follows the width of numbers.

    Parameters
    ----------
    committed, fresh
        The texts.

    Returns
    -------
    str or None
        The first difference, or None.
    """
    lines, lines_now = (
        filter(str.strip, _WORST.sub("…", text).splitlines()) for text in (committed, fresh)
    )
    for line, line_now in zip_longest(lines, lines_now, fillvalue=""):
        words, words_now = ("".join(_NUMBER.sub("#", text).split()) for text in (line, line_now))
        if words != words_now:
            return f"{line.strip()[:80]!r} is now {line_now.strip()[:80]!r}"
        for old, new in zip(_numbers(line), _numbers(line_now), strict=True):
            if abs(old.value - new.value) > max(old.tolerance, new.tolerance):
                return f"{old.text} is now {new.text} in {line_now.strip()[:80]!r}"
    return None


def table_difference(committed: str, fresh: str) -> str | None:
    """Compare two HTML tables row by row.

    Parameters
    ----------
    committed, fresh
        HTML with one table each. A row's cells of kind ``th`` are its label.

    Returns
    -------
    str or None
        The first difference, with the label of its row and column, or None.
    """
    rows, rows_now = _rows(committed), _rows(fresh)
    if len(rows) != len(rows_now):
        return f"{len(rows)} rows are now {len(rows_now)}"
    for row, row_now in zip(rows, rows_now, strict=True):
        if difference := text_difference(row.label, row_now.label):
            return f"row {row.label!r}: {difference}"
        if len(row.cells) != len(row_now.cells):
            return f"row {row.label!r}: {len(row.cells)} cells are now {len(row_now.cells)}"
        for place, (cell, cell_now) in enumerate(zip(row.cells, row_now.cells, strict=True)):
            if difference := text_difference(cell, cell_now):
                return f"row {row.label!r}, column {place + 1}: {difference}"
    return None


@dataclass(frozen=True)
class _Number:
    text: str
    value: float
    tolerance: float


def _numbers(line: str) -> list[_Number]:
    """Find a line's numbers, each with how far another build's may be from it."""
    found: list[_Number] = []
    end = 0
    for match in _NUMBER.finditer(line):
        number = _number(match)
        if found and line[end : match.start()].strip() == "±":
            reach = _STANDARD_ERRORS * number.value
            found[-1] = replace(found[-1], tolerance=max(reach, found[-1].tolerance))
            number = replace(number, tolerance=max(number.value / 2, number.tolerance))
        found.append(number)
        end = match.end()
    return found


def _number(match: re.Match[str]) -> _Number:
    text = match[0]
    value = float(text.replace("−", "-").replace(",", ""))
    decimals = len(match["decimals"] or ".") - 1
    if not decimals and not match["exponent"] and match["percent"] is None:
        return _Number(text, value, _COUNT * abs(value))
    unit = 10.0 ** (int((match["exponent"] or "e0")[1:]) - decimals)
    return _Number(text, value, _PLACES * unit)


@dataclass
class _Row:
    label: str
    cells: list[str]


class _Table(HTMLParser):
    """The rows of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[_Row] = []
        self._kind = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _PARTS:
            self._kind = tag
        if tag == "tr":
            self.rows.append(_Row("", []))
        elif tag == "td":
            self.rows[-1].cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in _PARTS:
            self._kind = ""

    def handle_data(self, data: str) -> None:
        if self._kind == "td":
            self.rows[-1].cells[-1] += data
        elif self._kind == "th":
            self.rows[-1].label += f" {data}" if self.rows[-1].label else data


def _rows(html: str) -> list[_Row]:
    table = _Table()
    table.feed(html)
    return table.rows


def _output_differences(old: NotebookNode, new: NotebookNode) -> list[str]:
    before, after = _shown(old), _shown(new)
    kinds, kinds_now = ([kind for kind, _ in shown] for shown in (before, after))
    if kinds != kinds_now:
        return [f"outputs {kinds} are now {kinds_now}"]
    found = []
    for (kind, value), (_, value_now) in zip(before, after, strict=True):
        if kind.endswith("image/png"):
            difference = _image_difference(value, value_now)
        elif kind.endswith("text/html"):
            difference = _html_difference(value, value_now)
        else:
            difference = text_difference(value, value_now)
        if difference:
            found.append(f"{kind}: {difference}")
    return found


def _html_difference(committed: str, fresh: str) -> str | None:
    if "<table" in committed and "<table" in fresh:
        return table_difference(committed, fresh)
    return text_difference(_MARKUP.sub("", committed), _MARKUP.sub("", fresh))


def _shown(cell: NotebookNode) -> list[tuple[str, str]]:
    """Return the kind and value of everything below a cell."""
    shown: list[tuple[str, str]] = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            shown.append((output.name, output.text))
        elif output.output_type == "error":
            shown.append(("error", f"{output.ename}: {output.evalue}"))
        else:
            data = {
                k: v for k, v in output.data.items() if k != "text/plain" or len(output.data) == 1
            }
            shown += [(f"{output.output_type} {k}", str(v)) for k, v in sorted(data.items())]
    return shown


def _image_difference(committed: str, fresh: str) -> str | None:
    sizes, sizes_now = _image_size(committed), _image_size(fresh)
    for name, tolerance in _IMAGE_TOLERANCE.items():
        old, new = sizes[name], sizes_now[name]
        if abs(old - new) > tolerance * max(old, new):
            return f"{name} {old} is now {new}"
    return None


def _image_size(png: str) -> dict[str, int]:
    data = base64.b64decode(png)
    width, height = struct.unpack(">II", data[16:24])
    return {"width": width, "height": height, "bytes": len(data)}
