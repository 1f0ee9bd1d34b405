"""Columns of a table that are combinations of others."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_cookbook.data.tables import Table

# A column that others give to within this share of its sd is a combination of them: rounding and
# noise below it would be all that a fit could tell it by.
TOLERANCE = 1e-3


def collinear_sets(table: Table) -> list[tuple[str, ...]]:
    """Find sets of columns of which the last is a linear combination of the others.

    Parameters
    ----------
    table : Table
        Standardised, so that a constant takes part in every combination.

    Returns
    -------
    list of tuple of str
        For each column that those before it give to within `TOLERANCE` of its sd: the columns that
        take part, and the column. Empty if the columns are independent. With n rows the n-th
        column is such a combination at the latest.
    """
    return collinear_columns(table.v, table.columns)


def collinear_columns(v: Tensor, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Find them among columns of mean square 1, shape (n, D), as `collinear_sets` does.

    Where the columns are not centred, a constant takes part in no combination.
    """
    correlation = v.mT @ v / len(v)
    triangle = torch.zeros_like(correlation)  # of the Cholesky factor of the independent columns
    kept: list[int] = []
    found = []
    for j in range(len(correlation)):
        size = len(kept)
        lower = triangle[:size, :size]
        row = torch.linalg.solve_triangular(lower, correlation[kept, j][:, None], upper=False)
        left = float(1 - row.square().sum())  # variance that the others leave of column j
        if left > TOLERANCE**2:
            triangle[size, :size], triangle[size, size] = row[:, 0], left**0.5
            kept.append(j)
            continue
        involved = _multiple(correlation, j)
        if not involved:
            weights = torch.linalg.solve_triangular(lower.mT, row, upper=True)[:, 0]
            involved = [i for i, w in zip(kept, weights, strict=True) if abs(w) > 10 * TOLERANCE]
        found.append(tuple(names[i] for i in (*involved, j)))
    return found


def _multiple(correlation: Tensor, j: int) -> list[int]:
    """Look for an earlier column that is the same but for its units."""
    same = correlation[:j, j].square() > 1 - TOLERANCE**2
    return [int(same.nonzero()[0])] if same.any() else []
