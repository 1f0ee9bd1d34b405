"""What recipes ask of a table, said in one line before anything is fitted."""

import torch

from pyro_cookbook.data import InputError, Table, collinear_sets

_SHOWN = 3  # sets of columns, and columns of a set


def anything(table: Table, size: int) -> None:
    """Take every table."""


def clusters_of_measurements(table: Table, size: int) -> None:
    """Refuse what no mixture of normals is made for.

    Columns that are combinations of others have a covariance without an inverse. A column of two
    values lets components shrink onto one of them: the likelihood rises without bound.

    Raises
    ------
    InputError
        Naming the columns.
    """
    independent_columns(table, size)
    two = _of_two_values(table)
    if two:
        are = "has two values" if len(two) == 1 else "have two values each"
        raise InputError(
            f"--data: column{'s' * (len(two) > 1)} {_listed(two)} of {table.name!r} {are}: a"
            " component can shrink onto one of them, and the likelihood rises without bound; leave"
            " out what is no measurement (--exclude)"
        )


def independent_columns(table: Table, size: int) -> None:
    """Refuse columns that are combinations of others: their covariance has no inverse.

    Raises
    ------
    InputError
        Naming the columns.
    """
    if len(table.v) <= len(table.columns):
        raise InputError(
            f"--data: {table.name!r} has {len(table.v)} rows and {len(table.columns)} columns; a"
            " covariance of the columns needs more rows than columns"
        )
    _refuse(table, len(table.columns), "a covariance of the columns has no inverse")


def noise_left_by_factors(table: Table, size: int) -> None:
    """Refuse tables of which `size` factors explain some columns without any noise.

    A set of m columns that depend on each other lies in m − 1 dimensions. With as many factors
    their noise falls to 0 and the likelihood rises without bound; with fewer it does not.

    Raises
    ------
    InputError
        Naming the columns.
    """
    count = "1 factor" if size == 1 else f"{size} factors"
    if len(table.v) <= size + 1:
        raise InputError(
            f"--data: {table.name!r} has {len(table.v)} rows; with {count} they would have no noise"
            f" and a likelihood of ∞: expected {size + 2} rows at least"
        )
    _refuse(table, size + 1, f"with {count} they have no noise and a likelihood of ∞")


def _refuse(table: Table, largest: int, why: str) -> None:
    """Refuse sets of at most `largest` columns that depend on each other."""
    found = [names for names in collinear_sets(table) if len(names) <= largest]
    if found:
        sets = ", ".join(f"({_listed(names)})" for names in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more sets" if len(found) > _SHOWN else ""
        raise InputError(
            f"--data: columns {sets}{more} of {table.name!r} are collinear, the last of each a"
            f" combination of the others: {why}; leave it out (--columns)"
        )


def _listed(names: tuple[str, ...]) -> str:
    if len(names) <= 2 * _SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[:_SHOWN])}, …, {names[-1]}: {len(names)} columns"


def _of_two_values(table: Table) -> tuple[str, ...]:
    low, high = table.raw.min(0).values, table.raw.max(0).values
    is_end = (table.raw == low) | (table.raw == high)
    return tuple(
        name for name, only in zip(table.columns, is_end.all(0).tolist(), strict=True) if only
    )


def zeros_and_ones(table: Table, size: int) -> None:
    """Ask for columns of 0 and 1.

    Raises
    ------
    InputError
        Naming the first value that is neither.
    """
    wrong = torch.nonzero((table.raw != 0) & (table.raw != 1))
    if len(wrong):
        row, column = map(int, wrong[0])
        raise InputError(
            f"--data: the columns are expected to be 0 or 1; {table.columns[column]!r} has"
            f" {float(table.raw[row, column]):g} in row {row}"
        )


def one_column(table: Table, size: int) -> None:
    """Ask for one column.

    Raises
    ------
    InputError
    """
    if len(table.columns) != 1:
        raise InputError(
            f"--columns: got {len(table.columns)} columns ({_listed(table.columns)}), expected 1,"
            " the observed sum"
        )


def estimates_with_errors(table: Table, size: int) -> None:
    """Ask for two columns: standard errors and, last, the estimates they belong to.

    Raises
    ------
    InputError
    """
    if len(table.columns) != 2:
        raise InputError(
            "--columns: expected 2, the standard error of each school and, last, its effect; got"
            f" {len(table.columns)} ({_listed(table.columns)})"
        )
    sigma = table.raw[:, 0]
    if not bool((sigma > 0).all()):
        raise InputError(
            f"--data: column {table.columns[0]!r} has the standard errors, which are positive; got"
            f" {float(sigma.min()):g} in row {int(sigma.argmin())}"
        )


def covariates_and_classes(table: Table, size: int) -> None:
    """Ask for covariates and, last, an outcome of 0 and 1.

    Raises
    ------
    InputError
    """
    if len(table.columns) < 2:
        raise InputError(
            f"--columns: got 1 column ({table.columns[0]}), expected covariates and an outcome"
        )
    y = table.raw[:, -1]
    wrong = torch.nonzero((y != 0) & (y != 1)).flatten()
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"--outcome: column {table.columns[-1]!r} is the outcome, 0 or 1; got"
            f" {float(y[row]):g} in row {row} (another column: --outcome NAME)"
        )
