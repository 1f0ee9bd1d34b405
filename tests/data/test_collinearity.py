"""Columns that are combinations of others, and those that nearly are."""

import numpy as np
import pandas as pd
import pytest

from pyro_cookbook import data

RNG = np.random.default_rng(0)
A, B, C, NOISE = RNG.standard_normal((4, 50))


def sets(**columns):
    return data.collinear_sets(data.standardise(pd.DataFrame(columns), "t", (), ""))


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"a": A, "b": B, "c": C}, []),
        ({"a": A, "again": A, "b": B}, [("a", "again")]),
        ({"a": A, "b": B, "scaled": -3 * A + 7}, [("a", "scaled")]),
        ({"a": A, "b": B, "sum": A + B}, [("a", "b", "sum")]),
        ({"sum": A + B, "c": C, "b": B, "a": A}, [("sum", "b", "a")]),
        ({"a": A, "b": B, "3a": 3 * A, "a+b": A + B}, [("a", "3a"), ("a", "b", "a+b")]),
        (
            {"a+b": A + B, "b": B, "a": A, "3a": 3 * A},
            [("a+b", "b", "a"), ("a", "3a")],  # also a multiple of one that is no base
        ),
        ({"yes": np.sign(A), "no": -np.sign(A)}, [("yes", "no")]),
        ({"p": A, "q": B, "rest": 100 - A - B}, [("p", "q", "rest")]),  # shares of a hundred
        ({"a": 1e6 + A, "b": B, "c": C, "sum": A + 1e-2 * B}, [("a", "b", "sum")]),
    ],
)
def test_combinations_are_found_with_the_columns_that_take_part(columns, found):
    assert sets(**columns) == found


@pytest.mark.parametrize(("share", "is_found"), [(0.0, True), (0.9e-3, True), (1.2e-3, False)])
def test_the_limit_is_a_thousandth_of_the_sd(share, is_found):
    others = np.stack([np.ones(50), A, B], axis=1)
    noise = NOISE - others @ np.linalg.lstsq(others, NOISE)[0]
    column = A - 2 * B
    column = column + share * column.std() * noise / noise.std()
    assert sets(a=A, b=B, column=column) == ([("a", "b", "column")] if is_found else [])
    # The limit is in the column's own sd, whatever its units.
    assert sets(a=A, b=1e9 * B, column=1e-9 * column) == sets(a=A, b=B, column=column)


def test_with_n_rows_the_nth_column_depends_on_the_others():
    columns = {f"c{k}": column for k, column in enumerate(RNG.standard_normal((8, 6)))}
    found = sets(**columns)
    assert [one[-1] for one in found] == ["c5", "c6", "c7"]  # the mean takes one row
    assert all(len(one) == 6 for one in found)


def test_bundled_tables_have_independent_columns():
    for name in data.NAMES:
        table = data.load(name)
        # Whitened patches have the constant and the finest waves taken out.
        assert (data.collinear_sets(table) == []) == (name != "patches"), name
