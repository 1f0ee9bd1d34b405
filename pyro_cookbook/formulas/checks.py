"""What a design must not have, and what is to be said of it, before anything is fitted."""

from collections.abc import Sequence
from itertools import compress

import numpy as np
import torch

from pyro_cookbook.data import InputError, collinear_columns, listed
from pyro_cookbook.formulas.families import Array, Family
from pyro_cookbook.formulas.responses import Response
from pyro_cookbook.formulas.terms import Kind, Rows

# Entries of the linear program that looks for a separating plane: a second at most. In larger
# tables planes across one column are looked for, which is what a category with one outcome makes.
_LARGEST_PROGRAM = 200_000
_SHOWN = 3  # sets of collinear columns


def check_columns_vary(x: Array, names: Sequence[str]) -> None:
    """Refuse columns that are the same in all rows.

    Raises
    ------
    InputError
        Naming them.
    """
    constant = np.ptp(x, axis=0) <= 1e-12 * np.abs(x).max(0, initial=0.0)
    if constant.any():
        found = [f"{name!r} ({value:g})" for name, value in
                 zip(compress(names, constant), x[0, constant], strict=True)]  # fmt: skip
        are = "are" if len(found) > 1 else "is"
        raise InputError(
            f"formula: {listed(found)} {are} the same in all rows; the intercept has that: leave"
            " out"
        )


def check_independent(x: Array, names: Sequence[str]) -> None:
    """Refuse standardised columns that are combinations of others.

    Raises
    ------
    InputError
        Naming the sets.
    """
    found = collinear_columns(torch.as_tensor(x), names)
    if found:
        sets = ", ".join(f"({listed(one)})" for one in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more sets" if len(found) > _SHOWN else ""
        raise InputError(
            f"formula: columns {sets}{more} are collinear, the last of each a combination of the"
            " others: leave it out, or centre what is squared (scale(x), poly(x, 2))"
        )


def check_groups(kinds: Sequence[Kind], rows: Rows) -> None:
    """Refuse groups with one level, and slopes that are 0 in all rows.

    Raises
    ------
    InputError
        Naming the group.
    """
    for index, kind in enumerate(kinds):
        if len(kind.levels) < 2:
            raise InputError(
                f"formula: the group {':'.join(kind.factor)!r} has one level,"
                f" {kind.labels[0]!r}, expected 2 at least; leave it out"
            )
        if not rows.z[:, index].any():
            raise InputError(f"formula: the slope {kind.name!r} is of 0 in all rows; leave it out")


def notes(
    x: Array, names: Sequence[str], kinds: Sequence[Kind], response: Response, family: Family,
    *, has_intercept: bool,
) -> tuple[str, ...]:  # fmt: skip
    """Say what a reader should know of a design that can be fitted.

    Parameters
    ----------
    x : array
        Standardised columns, shape (n, D).
    names, kinds, response, family, has_intercept
        Of the design.
    """
    said = []
    count = x.shape[1] + has_intercept
    if count > len(x):
        said.append(
            f"{count} coefficients and {len(x)} rows: the data leave some directions open, which"
            " the priors decide"
        )
    elif family.name in {"bernoulli", "binomial"}:
        apart = separating(x, response, names, has_intercept=has_intercept)
        if apart:
            said.append(
                f"a plane separates the outcomes ({listed(apart)}): maximum likelihood would be"
                " infinite, and the prior alone says how large these coefficients are"
            )
    said += [
        f"the group {':'.join(kind.factor)!r} has {len(kind.levels)} levels: of its scale the data"
        " say little, and the prior shows"
        for kind in kinds
        if kind.name.startswith("1|") and len(kind.levels) < 5
    ]
    return tuple(said)


def separating(
    x: Array, response: Response, names: Sequence[str], *, has_intercept: bool
) -> list[str]:
    """Name the columns of a plane that has successes on one side and failures on the other.

    Rows may lie in the plane, but not all of them. Found by a linear program (Konis, 2007, Linear
    programming algorithms for detecting separated data in binary logistic regression models).

    Returns
    -------
    list of str
        Empty if there is none; in a large table also if it is across several columns.
    """
    columns = np.column_stack([np.ones(len(x)), x]) if has_intercept else x
    successes, failures = response.y > 0, response.y < response.trials
    if (successes & failures).all() or not x.shape[1]:
        return []
    if columns.size > _LARGEST_PROGRAM:
        return _across_one(x[successes], x[failures], names) if has_intercept else []
    from scipy.optimize import linprog

    sides = np.concatenate([columns[successes], -columns[failures]])
    found = linprog(-sides.sum(0), A_ub=-sides, b_ub=np.zeros(len(sides)), bounds=(-1, 1))
    if found.status != 0 or -found.fun < 1e-6:
        return []
    weights = found.x[has_intercept:]
    return [name for name, w in zip(names, weights, strict=True) if abs(w) > 1e-6]


def _across_one(successes: Array, failures: Array, names: Sequence[str]) -> list[str]:
    """Name the columns of which one value parts successes from failures, itself left out."""
    above = failures.max(0) <= successes.min(0)
    below = successes.max(0) <= failures.min(0)
    return list(compress(names, above | below))
