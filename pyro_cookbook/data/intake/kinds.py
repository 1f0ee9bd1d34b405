"""What a column holds: numbers, words, or truth values; and what it may not hold."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from pyro_cookbook.data.errors import InputError
from pyro_cookbook.data.intake.dialect import MARKS, NUMBER
from pyro_cookbook.data.intake.places import Raw, shortened

Kind = Literal["number", "category", "boolean"]

# Beyond this the square of a number, or a sum of them, is no float64 any more.
LARGEST = 1e150
_DATE = re.compile(
    r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d{1,2}:\d{2}.*)?|\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?"
    r"|\d{1,2}[ -.]+[A-Za-z]{3,9}[ -.]+\d{2,4}|[A-Za-z]{3,9} \d{1,2},? \d{4}"
)
# A number with something around or in it: €5, 5%, 1 000, 1.234,5, −5.
_DECORATED = re.compile(
    r"[€$£¥#~<>≤≥−–+-]*\s*\d[\d.,'’\s_\u00a0\u202f]*\s*[%‰€$£¥°*]?", re.IGNORECASE
)


@dataclass(frozen=True, eq=False)
class Settled:
    """A column as it is understood.

    Attributes
    ----------
    kind : {"number", "category", "boolean"}
    values : pandas.Series
        Floats (truth values as 0 and 1), NaN where missing; or a Categorical of words.
    """

    kind: Kind
    values: "pd.Series[Any]"


def settle(raw: Raw, column: str, kind: Kind | None = None) -> Settled:
    """Decide what a column holds.

    Parameters
    ----------
    raw : Raw
    column : str
    kind : {"number", "category", "boolean"}, optional
        What it has to hold. Default: to be decided: words are numbers if at least half of them
        are, and then every other one is refused.

    Raises
    ------
    InputError
        With the place of the first entry that cannot be used.
    """
    series: Any = raw.frame[column]
    if isinstance(series.dtype, pd.SparseDtype):
        series = series.sparse.to_dense()
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype) and kind in {None, "category"}:
        return _category(raw, series)
    if isinstance(dtype, pd.CategoricalDtype):
        series = series.astype(object)
    elif pd.api.types.is_bool_dtype(dtype) and kind != "category":
        return Settled("boolean" if kind is None else kind, _floats(series))
    elif pd.api.types.is_numeric_dtype(dtype) and dtype.kind != "c":
        if kind == "category":
            return _words(series.map(_plain, na_action="ignore").astype(object))
        settled = _floats(series)
        _check_finite(raw, column, settled)
        return Settled("number" if kind is None else kind, settled)
    elif dtype.kind in "mM" or isinstance(dtype, pd.PeriodDtype | pd.IntervalDtype):
        raise _refused_date(raw, column, int(np.flatnonzero(series.notna())[0]))
    elif dtype.kind == "c":
        raise _refused(raw, column, [0], "a real number: it is complex", len(series))
    return _settle_words(raw, column, series, kind)


def _plain(value: Any) -> str:
    """Write a number of a category as its level was: 3, not 3.0."""
    return str(int(value)) if float(value).is_integer() else str(value)


def _floats(series: "pd.Series[Any]") -> "pd.Series[Any]":
    return pd.Series(series.to_numpy(dtype=float, na_value=np.nan))


def _category(raw: Raw, series: "pd.Series[Any]") -> Settled:
    """Take a Categorical as it is, its levels as words; levels that no row has are left out."""
    series = series.reset_index(drop=True).cat.remove_unused_categories()
    levels = [str(level) for level in series.cat.categories]
    if len(set(levels)) < len(levels):
        raise InputError(
            f"{raw.source}: column {series.name!r}: two of its levels are written alike:"
            f" {excerpt(levels)}"
        )
    codes, index = np.asarray(series.cat.codes), pd.Index(levels, dtype="str")
    return Settled("category", pd.Series(pd.Categorical.from_codes(codes, categories=index)))


def _settle_words(raw: Raw, column: str, series: "pd.Series[Any]", kind: Kind | None) -> Settled:
    """Decide by the different entries of a column of text or of objects."""
    _check_objects(raw, column, series)
    codes, uniques = pd.factorize(series, use_na_sentinel=True)
    written = pd.Series([str(one).strip() for one in uniques], dtype=object)
    is_missing = written.isin(MARKS).to_numpy(dtype=bool)
    counts = np.bincount(codes[codes >= 0], minlength=len(written))
    present = counts * ~is_missing
    total = int(present.sum())
    values = numbers_of(written, raw.decimal)
    if kind == "category" or not total:
        return _by_codes(codes, written, is_missing) if total else _nothing(len(series), kind)
    lower = written.str.lower()
    if kind != "number" and bool(lower[~is_missing].isin(["true", "false"]).all()):
        truth = np.where(is_missing, np.nan, (lower == "true").to_numpy(float))
        return Settled("boolean", pd.Series(_spread(truth, codes)))
    is_number = ~np.isnan(values) & ~is_missing
    if kind is None:
        _check_dates(raw, column, codes, written, present)
        share = present[is_number | _decorated(written)].sum() / total
        if share < 0.5 or (not (present * is_number).any() and share < 0.9):
            return _by_codes(codes, written, is_missing)
    values[is_missing] = np.nan
    bad = np.flatnonzero(~is_number & ~is_missing)
    if len(bad):
        rows = np.flatnonzero(np.isin(codes, bad))
        entry = written[codes[rows[0]]]
        why = "true or false" if kind == "boolean" else _expected(entry, raw.decimal)
        raise _refused(raw, column, rows, why, len(series))
    settled = pd.Series(_spread(values, codes))
    _check_finite(raw, column, settled)
    return Settled(kind or "number", settled)


def numbers_of(written: "pd.Series[Any]", decimal: str) -> npt.NDArray[np.float64]:
    """Read numbers; NaN for what is none. Infinity is one, and refused later."""
    if decimal == ",":
        has_point = written.str.contains(".", regex=False).to_numpy(dtype=bool)
        written = written.str.replace(",", ".", regex=False).mask(has_point)
    plain = written.str.fullmatch(rf"(?:{NUMBER.pattern}|[+-]?inf(?:inity)?)", case=False, na=False)
    values = pd.to_numeric(written.where(plain), errors="coerce")
    return np.array(values, dtype=float)


def _decorated(written: "pd.Series[Any]") -> npt.NDArray[np.bool_]:
    return np.array([bool(_DECORATED.fullmatch(one)) for one in written], dtype=bool)


def _spread(values: npt.NDArray[Any], codes: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Give each row the value of its code; NaN for what is missing."""
    return np.where(codes >= 0, np.append(values, np.nan)[codes], np.nan)


def _nothing(num_rows: int, kind: Kind | None) -> Settled:
    if kind == "category":
        return Settled("category", pd.Series(pd.Categorical([None] * num_rows)))
    return Settled(kind or "number", pd.Series(np.full(num_rows, np.nan)))


def _words(series: "pd.Series[Any]") -> Settled:
    codes, uniques = pd.factorize(series, use_na_sentinel=True)
    written = pd.Series([str(one) for one in uniques], dtype=object)
    return _by_codes(codes, written, np.zeros(len(written), dtype=bool))


def _by_codes(
    codes: npt.NDArray[np.intp], written: "pd.Series[Any]", is_missing: npt.NDArray[np.bool_]
) -> Settled:
    """Make a Categorical with sorted levels."""
    levels = sorted(set(written[~is_missing]))
    place = {level: i for i, level in enumerate(levels)}
    new = np.array([place.get(one, -1) for one in written.mask(is_missing)] + [-1])
    values = pd.Categorical.from_codes(new[codes], categories=pd.Index(levels, dtype="str"))
    return Settled("category", pd.Series(values))


# --- refusals ----------------------------------------------------------------------------------


def _refused(raw: Raw, column: str, rows: Any, expected: str, num_rows: int) -> InputError:
    row = int(rows[0])
    return InputError(
        f"{raw.source}: {raw.places.place(row)}, column {column!r}: got"
        f" {raw.places.entry(row, column)}, expected {expected} ({len(rows)} such of"
        f" {num_rows} rows)"
    )


def _refused_date(raw: Raw, column: str, row: int) -> InputError:
    return InputError(
        f"{raw.source}: {raw.places.place(row)}, column {column!r}: got"
        f" {raw.places.entry(row, column)}, a date or a time, expected a number or a word; make it"
        " a number (days since the first, say) or leave the column out (--exclude)"
    )


def _check_finite(raw: Raw, column: str, values: "pd.Series[Any]") -> None:
    """Refuse infinity, and numbers that have no square."""
    size = values.abs().to_numpy()
    with np.errstate(invalid="ignore"):
        infinite, large = np.flatnonzero(np.isinf(size)), np.flatnonzero(size > LARGEST)
    if len(infinite):
        raise _refused(raw, column, infinite, "a finite number", len(size))
    if len(large):
        what = f"a number below {LARGEST:g} in size, so that it has a square"
        raise _refused(raw, column, large, what, len(size))


def _check_objects(raw: Raw, column: str, series: "pd.Series[Any]") -> None:
    """Refuse what is neither a word nor a number: lists, dicts, dates, complex numbers."""
    if series.dtype != object:
        return
    kinds = series.map(type)
    for one in kinds.unique():
        if issubclass(one, (str, int, float, bool, np.number, np.bool_, type(None), bytes)):
            if not issubclass(one, (complex, np.complexfloating, bytes)):
                continue
        elif one.__name__ in {"NAType", "NaTType", "Decimal", "Fraction", "MaskedConstant"}:
            continue
        rows = np.flatnonzero((kinds == one).to_numpy())
        if one.__name__ in {"Timestamp", "datetime", "date", "time", "timedelta", "Timedelta"}:
            raise _refused_date(raw, column, int(rows[0]))
        what = f"a number or a word, not a {one.__name__}"
        raise _refused(raw, column, rows, what, len(series))


def _check_dates(
    raw: Raw,
    column: str,
    codes: npt.NDArray[np.intp],
    written: "pd.Series[Any]",
    present: npt.NDArray[np.int64],
) -> None:
    dates = np.array([bool(_DATE.fullmatch(one)) and not NUMBER.fullmatch(one) for one in written])
    if 2 * int(present[dates].sum()) > int(present.sum()):
        raise _refused_date(
            raw, column, int(np.flatnonzero(np.isin(codes, np.flatnonzero(dates)))[0])
        )


def _expected(entry: str, decimal: str) -> str:
    """Say what an entry should have been, and why it is none."""
    if re.fullmatch(r"[+-]?\d*,\d+", entry) and decimal == ".":
        return "a finite number with a decimal point, or decimal=',' (--decimal ,)"
    if re.fullmatch(r"[+-]?\d*\.\d+", entry) and decimal == ",":
        return "a finite number with a decimal comma like the others, or decimal='.' (--decimal .)"
    if re.fullmatch(r"[+-]?\d{1,3}([.,'’\s_\u00a0\u202f]\d{3})+([.,]\d+)?", entry):
        return "a finite number without marks of thousands"
    if entry.startswith(("−", "–")):
        return "a finite number; its sign is not the minus of a keyboard (-)"
    if _DECORATED.fullmatch(entry):
        return "a finite number without a sign or unit"
    return "a finite number"


def excerpt(levels: "list[str]", most: int = 8) -> str:
    """List levels, the first few if there are many."""
    shown = ", ".join(shortened(level, 30) for level in levels[:most])
    return shown if len(levels) <= most else f"{shown}, …"
