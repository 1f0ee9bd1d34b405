"""The terms of a formula on a table: columns, groups and the offset, and the same for new rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pyro_cookbook.data import InputError, listed
from pyro_cookbook.formulas.families import Array
from pyro_cookbook.formulas.responses import trials_of
from pyro_cookbook.formulas.syntax import check_columns, described, evaluated

Whole = npt.NDArray[np.int64]
_SHOWN = 5  # places of missing values


@dataclass(frozen=True)
class Kind:
    """One kind of group effect: an intercept or a slope, by a grouping factor.

    Attributes
    ----------
    name : str
        As formulae names it: "1|village", "age|village".
    factor : tuple of str
        The columns whose values together are a level.
    levels : tuple of tuple
        The levels that the table has, in order.
    """

    name: str
    factor: tuple[str, ...]
    levels: tuple[tuple[Any, ...], ...]

    @property
    def labels(self) -> list[str]:
        """Levels in words."""
        return [":".join(map(str, level)) for level in self.levels]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as the formula makes them, in the table's units.

    Attributes
    ----------
    x : array
        Columns of the linear predictor but the intercept, shape (n, D).
    z : array
        What multiplies each kind of group effect, shape (n, E).
    code : array of int
        Level of each row for each kind, shape (n, E); −1 for a level that the table did not have.
    offset : array
        Shape (n,).
    """

    x: Array
    z: Array
    code: Whole
    offset: Array


class Terms:
    """A formula evaluated on a table.

    Parameters
    ----------
    formula : str
    frame : DataFrame
        Its numbers, booleans, words and categories; other columns may be in it.

    Attributes
    ----------
    columns : tuple of str
        Names of the D columns, as formulae gives them, without the intercept.
    has_intercept : bool
    kinds : tuple of Kind
    frame : DataFrame
        The columns that the formula uses, words as categories: all that another process needs.
    rows : Rows
    trials : str, int or None
        The column or the number of trials of an outcome p(successes, trials).
    response : object
        formulae's matrix of the outcome.

    Raises
    ------
    InputError
        If the formula cannot be read, or names what is not there, or a column that it uses has
        missing values, infinities, dates or other objects, naming the places.
    """

    def __init__(self, formula: str, frame: pd.DataFrame) -> None:
        self.formula = formula
        self.described = described(formula)
        used = _named(self.described.var_names)
        check_columns(formula, used, [str(name) for name in frame])
        if len(frame) < 2:
            raise InputError(f"data: got {len(frame)} rows, expected 2 at least")
        check_entries(frame, used)
        frame = _as_categories(frame[used])
        self.trials = trials_of(self.described.response, frame)
        by_term = [term.var_names for term in self.described.terms]
        self.predictors = _named(set().union(*by_term))
        self.frame = frame
        self.matrices = evaluated(formula, frame)
        self.response = self.matrices.response
        self.dtypes = frame.dtypes
        self.kinds = self._kinds(frame)
        self._levels = self._words(frame)
        common = self.matrices.common
        terms = list(common.terms.values()) if common is not None else []
        self.has_intercept = any(term.kind == "intercept" for term in terms)
        names = [list(t.labels) for t in terms if t.kind not in {"intercept", "offset"}]
        self.columns = tuple(str(name) for group in names for name in group)
        self.rows = self._rows(frame, new=False)
        self.check_finite(self.rows)

    def _kinds(self, frame: pd.DataFrame) -> tuple[Kind, ...]:
        """List kinds of group effects, with the levels that occur."""
        found = []
        for term in self._group_terms():
            factor = tuple(str(part.name) for part in term.factor.components)
            for part in factor:
                if part not in frame:
                    raise InputError(
                        f"formula: the group {term.factor.name!r} is expected to be a column, or"
                        " columns joined by ':'"
                    )
            levels = frame[list(factor)].drop_duplicates().sort_values(list(factor))
            keys = tuple(tuple(row) for row in levels.astype(object).to_numpy())
            names = [f"{one}|{term.factor.name}" for one in _labels(term.expr)]
            found += [Kind(name, factor, keys) for name in names]
        return tuple(found)

    def _group_terms(self) -> list[Any]:
        group = self.matrices.group
        return [] if group is None else list(group.terms.values())

    def _words(self, frame: pd.DataFrame) -> dict[str, set[Any]]:
        """Levels of the columns of words that are predictors, not only names of groups."""
        names: set[str] = set()
        for term in self.described.terms:
            names |= set(_named(getattr(term, "expr", term).var_names))
        return {
            name: set(frame[name].cat.categories)
            for name in names
            if isinstance(frame[name].dtype, pd.CategoricalDtype)
        }

    def on(self, frame: pd.DataFrame) -> Rows:
        """Give the same columns for new rows.

        Raises
        ------
        InputError
            If a predictor is not there, has missing values, or a level that the table did not have.
        """
        for name in self.predictors:
            if name not in frame:
                raise InputError(
                    f"data: no column {name!r}, which the formula {self.formula!r} needs; there are"
                    f" {listed(list(frame.columns))}"
                )
        check_entries(frame, self.predictors)
        frame = frame[self.predictors].reset_index(drop=True)
        for name, levels in self._levels.items():
            strange = np.flatnonzero(~frame[name].isin(levels))
            if len(strange):
                raise InputError(
                    f"data: column {name!r} has {frame[name].iloc[strange[0]]!r} in row"
                    f" {strange[0]}, a level that the fit has not seen; expected one of"
                    f" {listed(sorted(map(str, levels)))}"
                )
        for name in self.predictors:
            is_number = pd.api.types.is_numeric_dtype(self.dtypes[name])
            if is_number and not pd.api.types.is_numeric_dtype(frame[name]):
                raise InputError(
                    f"data: column {name!r} was of numbers in the fit; got"
                    f" {frame[name].iloc[0]!r} in row 0"
                )
        frame = frame.assign(**{name: frame[name].astype(self.dtypes[name])
                                for name in self._levels})  # fmt: skip
        try:
            with np.errstate(all="ignore"):  # what is not finite is named below, with its row
                rows = self._rows(frame, new=True)
        except (ValueError, TypeError, IndexError) as error:  # a transform meets strange values
            raise InputError(f"data: {str(error).splitlines()[0]}") from error
        self.check_finite(rows)
        return rows

    def _rows(self, frame: pd.DataFrame, *, new: bool) -> Rows:
        """Collect columns, offset and groups, with transforms as they were on the table."""
        n = len(frame)
        columns, offset = [np.empty((n, 0))], np.zeros(n)
        common = self.matrices.common
        for term in common.terms.values() if common is not None else ():
            if term.kind == "intercept":
                continue
            values = term.eval_new_data(frame) if new else term.data
            if term.kind == "offset":
                offset = offset + np.asarray(values, float).reshape(-1)
            else:
                columns.append(np.asarray(values, float).reshape(n, -1))
        by = [_values(term.expr, frame, new=new) for term in self._group_terms()]
        z = np.concatenate([np.empty((n, 0)), *by], axis=1)
        codes = {kind.factor: codes_of(frame, kind) for kind in self.kinds}
        code = np.stack([codes[kind.factor] for kind in self.kinds], 1) if self.kinds else None
        return Rows(
            np.concatenate(columns, axis=1),
            z,
            np.empty((n, 0), np.int64) if code is None else code,
            offset,
        )

    def check_finite(self, rows: Rows) -> None:
        """Refuse what a function has made infinite or NaN: the logarithm of 0.

        Raises
        ------
        InputError
            Naming the column and the row.
        """
        names = ["the offset", *self.columns, *(kind.name for kind in self.kinds)]
        values = np.concatenate([rows.offset[:, None], rows.x, rows.z], axis=1)
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = bad[0]
            raise InputError(
                f"formula: {names[column]} is {values[row, column]} in row {row}, expected a finite"
                f" number ({len(np.unique(bad[:, 0]))} such of {len(values)} rows)"
            )


def _named(names: set[str]) -> list[str]:
    """Columns among the names of a term: formulae lists numbers in a call as ''."""
    return sorted(names - {""})


def _labels(expr: Any) -> Sequence[str]:
    return ["1"] if expr.kind == "intercept" else [str(label) for label in expr.labels]


def _values(expr: Any, frame: pd.DataFrame, *, new: bool) -> Array:
    n = len(frame)
    if expr.kind == "intercept":
        return np.ones((n, 1))
    values = expr.eval_new_data(frame) if new else expr.data
    return np.asarray(values, float).reshape(n, -1)


def codes_of(frame: pd.DataFrame, kind: Kind) -> Whole:
    """Code the level of each row; −1 for those that the fit has not seen."""
    keys = frame[list(kind.factor)].astype(object)
    if len(kind.factor) == 1:
        index = pd.Index([level[0] for level in kind.levels], dtype=object)
        found = index.get_indexer(pd.Index(keys.iloc[:, 0], dtype=object))
    else:
        levels = pd.MultiIndex.from_tuples(kind.levels)
        found = levels.get_indexer(pd.MultiIndex.from_frame(keys))
    return np.asarray(found, np.int64)


def _as_categories(frame: pd.DataFrame) -> pd.DataFrame:
    """Make categories of words, and leave out levels that no row has."""
    made = {}
    for name in frame:
        column = frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            made[name] = column.cat.remove_unused_categories()
        elif not pd.api.types.is_numeric_dtype(column):
            made[name] = column.astype("category")
        else:
            made[name] = column
    return pd.DataFrame(made).reset_index(drop=True)


def check_entries(frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Refuse missing values, infinities, dates and objects in the columns that are used.

    Raises
    ------
    InputError
        With the places of missing values, column by column.
    """
    missing = {}
    for name in names:
        column = frame[name]
        if column.ndim > 1:
            raise InputError(f"data: {column.shape[1]} columns are called {name!r}, expected one")
        kind = column.dtype.kind
        if kind in "mMc" or isinstance(column.dtype, pd.PeriodDtype):
            raise InputError(
                f"data: column {name!r} has dates, durations or complex numbers ({column.dtype});"
                " make it a number, as days since the first"
            )
        gaps = np.flatnonzero(column.isna())
        if len(gaps):
            missing[name] = gaps
        elif pd.api.types.is_numeric_dtype(column):
            bad = np.flatnonzero(~np.isfinite(column.to_numpy(float)))
            if len(bad):
                raise InputError(
                    f"data: column {name!r} has {column.iloc[bad[0]]} in row {bad[0]}, expected a"
                    " finite number"
                )
        elif not isinstance(column.dtype, pd.CategoricalDtype):
            _check_words(column, name)
    if missing:
        places = "; ".join(
            f"{name!r} in row{'s' * (len(rows) > 1)} {listed_rows(rows)}"
            for name, rows in missing.items()
        )
        raise InputError(f"data: missing values that the formula needs: {places}")


def _check_words(column: "pd.Series[Any]", name: str) -> None:
    """Refuse a column that mixes words with other things."""
    if column.dtype != object:
        return
    for row, value in enumerate(column):
        if not isinstance(value, str):
            raise InputError(
                f"data: column {name!r} has {value!r} ({type(value).__name__}) in row {row},"
                " expected a word as in other rows, or numbers in all"
            )


def listed_rows(rows: npt.NDArray[Any]) -> str:
    """List the first rows, and how many there are."""
    shown = ", ".join(map(str, rows[:_SHOWN]))
    return f"{shown}, … ({len(rows)} rows)" if len(rows) > _SHOWN else shown
