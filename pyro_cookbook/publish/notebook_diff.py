"""Compare two builds of a notebook: sources exactly, numbers within a tolerance, images by size."""

import base64
import re
import struct
from itertools import zip_longest

from nbformat import NotebookNode

# Fonts and processors change an image's pixels, and with them how well it is compressed.
_IMAGE_TOLERANCE = {"width": 0.15, "height": 0.15, "bytes": 0.5}

_MARKUP = re.compile(r"<style.*?</style>|<[^>]*>", re.DOTALL)
# Digits inside a name (x1, khat_2) are text, and so is a minus after a letter or a digit.
_NUMBER = re.compile(
    r"(?<![\w.])[-−+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?P<decimals>\.\d*)?(?P<exponent>[eE][-+]?\d+)?"
)


def differences(committed: NotebookNode, fresh: NotebookNode, rtol: float = 0.02) -> list[str]:
    """Compare two builds of a notebook.

    Sources are equal exactly, text outputs as in `text_difference`, HTML in its text. PNG images
    are equal in width and height within 15 %, and within half in bytes: less is an empty figure.

    Parameters
    ----------
    committed, fresh
        The notebooks.
    rtol
        Relative tolerance of numbers.

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
            found += [f"cell {number}: {line}" for line in _output_differences(old, new, rtol)]
    return found


def text_difference(committed: str, fresh: str, rtol: float = 0.02) -> str | None:
    """Compare two printed texts, number by number.

    Words are equal exactly. Numbers are within `rtol` or, unless they are whole, within one unit of
    the last printed digit. White space is not compared, since padding follows the width of numbers.

    Parameters
    ----------
    committed, fresh
        The texts.
    rtol
        Relative tolerance of numbers.

    Returns
    -------
    str or None
        The first difference, or None.
    """
    lines, lines_now = (filter(str.strip, text.splitlines()) for text in (committed, fresh))
    for line, line_now in zip_longest(lines, lines_now, fillvalue=""):
        words, words_now = ("".join(_NUMBER.sub("#", text).split()) for text in (line, line_now))
        if words != words_now:
            return f"{line.strip()[:80]!r} is now {line_now.strip()[:80]!r}"
        for old, new in zip(_NUMBER.finditer(line), _NUMBER.finditer(line_now), strict=True):
            (a, unit), (b, unit_now) = _value(old), _value(new)
            # The thousandth more is for rounding: 0.3 - 0.2 is a little over 0.1.
            if abs(a - b) > max(rtol * max(abs(a), abs(b)), 1.001 * max(unit, unit_now)):
                return f"{old[0]} is now {new[0]} in {line_now.strip()[:80]!r}"
    return None


def _output_differences(old: NotebookNode, new: NotebookNode, rtol: float) -> list[str]:
    before, after = _shown(old), _shown(new)
    kinds, kinds_now = ([kind for kind, _ in shown] for shown in (before, after))
    if kinds != kinds_now:
        return [f"outputs {kinds} are now {kinds_now}"]
    found = []
    for (kind, value), (_, value_now) in zip(before, after, strict=True):
        if kind.endswith("image/png"):
            difference = _image_difference(value, value_now)
        elif kind.endswith("text/html"):
            difference = text_difference(_MARKUP.sub("", value), _MARKUP.sub("", value_now), rtol)
        else:
            difference = text_difference(value, value_now, rtol)
        if difference:
            found.append(f"{kind}: {difference}")
    return found


def _shown(cell: NotebookNode) -> list[tuple[str, str]]:
    """Return the kind and value of everything below a cell."""
    shown: list[tuple[str, str]] = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            shown.append((output.name, output.text))
        elif output.output_type == "error":
            shown.append(("error", f"{output.ename}: {output.evalue}"))
        else:
            shown += [(f"{output.output_type} {k}", str(v)) for k, v in sorted(output.data.items())]
    return shown


def _value(number: re.Match[str]) -> tuple[float, float]:
    """Return a printed number, and the unit of its last digit: 0 if it is whole."""
    value = float(number[0].replace("−", "-").replace(",", ""))
    decimals = len(number["decimals"] or ".") - 1
    if not decimals and not number["exponent"]:
        return value, 0.0
    return value, 10.0 ** (int((number["exponent"] or "e0")[1:]) - decimals)


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
