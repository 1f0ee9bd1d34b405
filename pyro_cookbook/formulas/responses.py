"""The outcome of a formula: read for its family, refused where it is not of its support."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pyro_cookbook.data import InputError, listed
from pyro_cookbook.formulas.families import Array, Family


@dataclass(frozen=True, eq=False)
class Response:
    """Outcomes as the model has them, but for their units.

    Attributes
    ----------
    name : str
    y : array
        Shape (n,): numbers; 0 and 1; counts; categories from 0.
    trials : array
        Shape (n,), 1 but for binomial outcomes.
    levels : tuple of str
        What the numbers stand for: failure and success, or the categories in order; else empty.
    """

    name: str
    y: Array
    trials: Array
    levels: tuple[str, ...] = ()


def read_response(
    found: Any, frame: pd.DataFrame, family: Family, levels: Sequence[Any] | None
) -> Response:
    """Read the outcome of a formula for a family.

    Parameters
    ----------
    found : object
        formulae's matrix of the outcome.
    frame : DataFrame
    family : Family
    levels : sequence, optional
        The words of an outcome in their order: failure and success, or the categories.

    Raises
    ------
    InputError
        If outcomes are not of the family's support, naming the first and its row, or do not vary.
    """
    name, values = str(found.name), np.asarray(found.design_matrix)
    if found.kind == "proportion" and family.name != "binomial":
        raise _unfit(name, family, "is of successes and trials, which the family binomial takes")
    if levels is not None and family.name not in {"bernoulli", "ordinal"}:
        raise InputError(f"levels: family {family.name!r} has none; leave it out")
    if family.name == "binomial":
        return _binomial(name, values, found.kind)
    if family.name == "bernoulli":
        return _bernoulli(name, values, found, frame, levels)
    if family.is_ordinal:
        return _ordinal(name, frame, levels)
    if found.kind != "numeric" or values.ndim > 1:
        raise _unfit(name, family, "has words; it takes numbers")
    y = values.astype(float)
    _check_finite(name, y)
    if family.link == "log":
        _check_counts(name, y, family)
    elif y.max() - y.min() <= 1e-12 * np.abs(y).max():
        raise InputError(f"outcome: {name!r} is {y[0]:g} in all rows; there is nothing to explain")
    return Response(name, y, np.ones_like(y))


def _unfit(name: str, family: Family, why: str) -> InputError:
    return InputError(f"outcome: {name!r} {why} (family {family.name}: {family.summary})")


def _check_finite(name: str, y: Array) -> None:
    bad = np.flatnonzero(~np.isfinite(y))
    if len(bad):
        raise InputError(
            f"outcome: {name!r} is {y[bad[0]]} in row {bad[0]}, expected a finite number"
        )


def _check_counts(name: str, y: Array, family: Family) -> None:
    bad = np.flatnonzero((y < 0) | (y != np.round(y)))
    if len(bad):
        raise InputError(
            f"outcome: {name!r} is {y[bad[0]]:g} in row {bad[0]}, expected a count, 0, 1, 2, …"
            f" (family {family.name}; {len(bad)} such of {len(y)} rows)"
        )
    if not y.any():
        raise InputError(f"outcome: {name!r} is 0 in all rows; there is nothing to explain")


def trials_of(response: Any, frame: pd.DataFrame) -> str | int | None:
    """Give the column or the number of trials of an outcome p(successes, trials); else None.

    Looked at before formulae does, which would not say in which row successes are too many.

    Raises
    ------
    InputError
        If trials are no column and no whole number, or successes and trials do not go together.
    """
    call = getattr(response.term.components[0], "call", None)
    if call is None or call.callee not in {"p", "prop", "proportion"}:
        return None
    arguments = [getattr(one, "name", getattr(one, "value", None)) for one in call.args]
    if len(arguments) != 2 or arguments[0] not in frame:
        raise InputError(
            f"outcome: {response.term.name!r} is expected to be of a column of successes and one of"
            " trials, or their number: p(successes, trials)"
        )
    successes, trials = arguments
    if not isinstance(trials, int) and trials not in frame:
        raise InputError(
            f"outcome: the trials of {response.term.name!r} are expected to be a column or a whole"
            " number"
        )
    columns = [frame[successes], frame[trials] if trials in frame else pd.Series([trials])]
    if not all(pd.api.types.is_numeric_dtype(column) for column in columns):
        raise InputError(f"outcome: {response.term.name!r} has words; it takes counts")
    y = columns[0].to_numpy(float)
    _check_trials(str(response.term.name), y, np.resize(columns[1].to_numpy(float), len(y)))
    return trials


def _check_trials(name: str, y: Array, trials: Array) -> None:
    """Refuse what is no count of trials, or of successes among them."""
    whole = np.round
    for wrong, what, values in (
        ((trials < 1) | (trials != whole(trials)), "trials, expected 1, 2, 3, …", trials),
        ((y < 0) | (y != whole(y)), "successes, expected 0, 1, 2, …", y),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(f"outcome: {name!r} has {values[row]:g} {what} (row {row})")
    if (y > trials).any():
        row = int(np.argmax(y > trials))
        raise InputError(
            f"outcome: {name!r} has {y[row]:g} successes of {trials[row]:g} trials in row {row}"
        )


def _binomial(name: str, values: Any, kind: str) -> Response:
    if kind != "proportion":
        raise InputError(
            f"outcome: got {name!r} for family binomial, expected p(successes, trials) before '~'"
        )
    y, trials = values.astype(float).T
    if y.sum() in {0.0, trials.sum()}:
        which = "success" if not y.any() else "failure"
        raise InputError(
            f"outcome: {name!r} has no {which} in any row; there is nothing to explain"
        )
    return Response(name, y, trials)


def _bernoulli(
    name: str, values: Any, found: Any, frame: pd.DataFrame, levels: Sequence[Any] | None
) -> Response:
    there = [str(level) for level in found.levels] if found.levels is not None else []
    if levels is not None:
        y, words = _coded(name, frame, levels)
        if len(words) != 2:
            raise InputError(f"levels: got {len(words)}, expected 2, failure and success")
    elif there:
        if len(there) != 2:
            raise InputError(
                f"outcome: {name!r} has {len(there)} levels ({listed(there)}), expected 2 for"
                " family bernoulli; one of them against the others: write"
                f" {name}[{there[-1]}] ~ …"
            )
        y, words = values[:, 1].astype(float), tuple(there)
    else:
        y, words = values.astype(float), ("0", "1")
        if found.kind != "numeric" and not np.isin(y, (0, 1)).all():
            raise InputError(f"outcome: {name!r} cannot be read as yes or no")
        bad = np.flatnonzero((y != 0) & (y != 1))
        if len(bad):
            raise InputError(
                f"outcome: {name!r} is {y[bad[0]]:g} in row {bad[0]}, expected 0 or 1 for family"
                f" bernoulli ({len(bad)} such of {len(y)} rows)"
            )
    if y.min() == y.max():
        raise InputError(
            f"outcome: {name!r} is {words[int(y[0])]} in all rows; there is nothing to explain"
        )
    return Response(name, y, np.ones_like(y), words)


def _ordinal(name: str, frame: pd.DataFrame, levels: Sequence[Any] | None) -> Response:
    if name not in frame:
        raise InputError(f"outcome: {name!r} is expected to be a column for family ordinal")
    column = frame[name]
    if levels is None:
        if isinstance(column.dtype, pd.CategoricalDtype) and column.cat.ordered:
            levels = list(column.cat.remove_unused_categories().cat.categories)
        elif pd.api.types.is_numeric_dtype(column):
            levels = sorted(column.unique())
        else:
            raise InputError(
                f"outcome: {name!r} has words, whose order is not known; name them in it"
                f" (levels): {listed(sorted(map(str, column.unique())))}"
            )
    y, words = _coded(name, frame, levels)
    if len(words) < 3:
        raise InputError(
            f"outcome: {name!r} has {len(words)} levels ({listed(words)}), expected 3 at least for"
            " family ordinal; two are for family bernoulli"
        )
    if len(words) > max(20, len(y) // 5):
        raise InputError(
            f"outcome: {name!r} has {len(words)} levels in {len(y)} rows, expected categories;"
            " measurements are for family normal or student_t"
        )
    return Response(name, y, np.ones_like(y), words)


def _coded(name: str, frame: pd.DataFrame, levels: Sequence[Any]) -> tuple[Array, tuple[str, ...]]:
    """Code outcomes by the order of the levels, each of which has a row."""
    if name not in frame:
        raise InputError(f"levels: {name!r} is expected to be a column")
    order = [str(_plain(level)) for level in levels]
    if len(set(order)) < len(order):
        raise InputError(f"levels: got {listed(order)}, expected each once")
    words = frame[name].astype(object).map(lambda value: str(_plain(value)))
    y = pd.Index(order).get_indexer(pd.Index(words)).astype(float)
    strange = np.flatnonzero(y < 0)
    if len(strange):
        raise InputError(
            f"outcome: {name!r} is {words.iloc[strange[0]]!r} in row {strange[0]}, expected one of"
            f" {listed(order)}"
        )
    empty = [level for level, count in zip(order, np.bincount(y.astype(int), minlength=len(order)),
                                           strict=True) if not count]  # fmt: skip
    if empty:
        raise InputError(f"levels: no row of {name!r} is {listed(empty)}")
    return y, tuple(order)


def _plain(value: Any) -> Any:
    """Write 3.0 and NumPy's 3 as 3."""
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, float) and value.is_integer() else value
