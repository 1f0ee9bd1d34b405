"""What is said of a row is said of that row: in any order, in any batch, of any table."""

import doctest
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from answered import (
    answers_of,
    autoencoder,
    beliefs,
    bits,
    counts,
    every_recipe,
    measurements,
    outcomes,
    prepared,
    rows_of,
    schools,
    without_last,
)

from pyro_cookbook import catalogue, data
from pyro_cookbook.catalogue.answers import frames

MADE = every_recipe()
LINES = ["mean", "sd", "lower", "upper", "unit"]
made = pytest.mark.parametrize("key", MADE)


def test_every_recipe_is_here():
    """But the regression: its answers are its own summary and predictions, below."""
    recipes = {one.name for one in catalogue.RECIPES} - {"regression"}
    assert {name for name, _, _ in MADE.values()} == recipes


def test_a_regression_answers_by_its_summary_and_its_predictions():
    recipe, table = catalogue.recipe("regression"), data.load("diabetes")
    fit = recipe.prepare("map", table).fit()
    found = recipe.estimates(fit, table)
    assert list(found.columns) == LINES
    x = np.column_stack([np.ones(442), table.frame[["bmi", "bp", "s5", "sex"]].to_numpy(float)])
    y = table.frame["target"].to_numpy(float)
    flat = np.linalg.lstsq(x, y, rcond=None)[0]
    sd = np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * (y - x @ flat).var())
    assert np.abs((found["mean"].to_numpy()[:5] - flat) / sd).max() < 0.2
    assert np.abs(flat / sd).max() > 2
    rows = recipe.apply(fit, table)
    np.testing.assert_allclose(rows["mean"], x @ flat, atol=0.1 * y.std())


@made
def test_estimates_are_few_named_lines(key):
    name, fit, table = MADE[key]
    found = answers_of(name).estimates(fit, table)
    assert list(found.columns) == LINES
    assert found.index.is_unique
    assert 0 < len(found) < 500
    assert found["mean"].notna().all()
    inside = found.dropna()
    assert ((inside["lower"] < inside["upper"]) & (inside["sd"] > 0)).all()
    pd.testing.assert_frame_equal(found, answers_of(name).estimates(fit, table))


@made
def test_a_line_for_each_row_whatever_the_order_and_the_batch(key):
    name, fit, table = MADE[key]
    apply = answers_of(name).apply
    whole = apply(fit, table)
    number = len(table.v)
    assert len(whole) == number
    assert whole.columns.is_unique
    order = torch.randperm(number, generator=torch.Generator().manual_seed(2))
    close(apply(fit, rows_of(table, order)), whole.iloc[order.numpy()])
    parts = [apply(fit, rows_of(table, slice(a, b))) for a, b in ((0, 1), (1, 6), (6, number))]
    close(pd.concat(parts), whole)
    assert len(apply(fit, rows_of(table, slice(0, 0)))) == 0
    # Not the same answer for all: another row is another line.
    varying = whole.std().gt(1e-9).sum()
    assert varying >= 2


def close(found, expected):
    assert list(found.columns) == list(expected.columns)
    np.testing.assert_allclose(found.to_numpy(float), expected.to_numpy(float), 1e-6, 1e-7)


@made
def test_a_table_of_other_columns_is_refused_in_a_line(key):
    name, fit, table = MADE[key]
    fewer = table if len(table.columns) == 1 else without_last(table)
    while len(fewer.columns) > 1 and name.startswith(("04c_log", "04c_eight")):
        fewer = without_last(fewer)
    if name.startswith(("04c_expl", "04c_eight")):
        fewer = measurements()
    with pytest.raises(data.InputError, match=r"^--data: '.*' has \d columns? \(.*\), expected"):
        answers_of(name).apply(fit, fewer)


def test_the_examples_run():
    flags = doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(frames, optionflags=flags) == (0, 4)


def test_chunks_stand_below_each_other():
    rows = torch.arange(14.0, dtype=torch.float64).reshape(7, 2)
    seen = []

    def answer(part):
        seen.append(len(part))
        return [part, part.sum(1)]

    found = frames.row_by_row(rows, ["a", "b", "sum"], answer, 3)
    assert seen == [3, 3, 1]
    np.testing.assert_array_equal(found.to_numpy(), np.column_stack([rows, rows.sum(1)]))


# --- what rows may hold --------------------------------------------------------------------------


def test_an_outcome_may_be_missing_and_is_not_looked_at():
    fit, table = prepared("04c_log", "laplace", "outcomes", None), outcomes()
    apply = answers_of("04c_log").apply
    with_it, without = apply(fit, table), apply(fit, without_last(table))
    assert list(with_it.columns) == ["P(ill)", "lower", "upper"]
    assert list(without.columns) == ["P(outcome)", "lower", "upper"]
    np.testing.assert_array_equal(with_it, without)
    hidden = table.raw.clone()
    hidden[:, -1] = torch.nan
    np.testing.assert_array_equal(with_it, apply(fit, replace(table, raw=hidden, v=torch.cat(
        [table.v[:, :-1], hidden[:, -1:]], 1))))  # fmt: skip


def test_a_schools_own_estimate_may_be_missing_and_is_not_looked_at():
    table, apply = data.load("eight_schools"), answers_of("04c_eight").apply
    pd.testing.assert_frame_equal(apply(schools(), table), apply(schools(), without_last(table)))
    wrong = table.raw.clone()
    wrong[3, 0] = 0.0
    with pytest.raises(data.InputError, match=r"'sigma' has the standard errors.* got 0 in row 3"):
        apply(schools(), replace(table, raw=wrong))


@pytest.mark.parametrize(
    ("fit", "table", "value", "told"),
    [
        (beliefs, bits, 2.0, "expected to be 0 or 1; 'c' has 2 in row 4"),
        (lambda: autoencoder("amortized", "bernoulli"), bits, 0.5, "'c' has 0.5 in row 4"),
        *(
            (lambda: autoencoder("amortized", "beta_binomial"), counts, value,
             f"expected to be whole numbers from 0 to 9, as in the fit; 'z' has {value:g} in row 4")
            for value in (10.0, -1.0, 2.5)
        ),
    ],
)  # fmt: skip
def test_values_that_the_likelihood_does_not_know_are_named(fit, table, value, told):
    raw = table().raw.clone()
    raw[4, 2] = value
    name = "05a" if fit is beliefs else "05c"
    with pytest.raises(data.InputError) as caught:
        answers_of(name).apply(fit(), replace(table(), raw=raw))
    assert str(caught.value).endswith(told)
