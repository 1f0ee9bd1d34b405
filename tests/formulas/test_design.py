"""Columns, groups, outcomes and units of a design; the same columns for new rows."""

import numpy as np
import pandas as pd
import pytest
from patsy import dmatrix
from tables import small

from pyro_cookbook import catalogue, data
from pyro_cookbook.formulas.design import Design
from pyro_cookbook.formulas.syntax import columns_of
from pyro_cookbook.publish.runs.formula import read_columns

FORMULAS = [
    "x + z", "x * h", "C(k) + x", "bs(z, df=4)", "poly(x, 2) + z", "I(x**2) + np.log(z)", "h:g",
]  # fmt: skip


@pytest.mark.parametrize("right", [f for f in FORMULAS if "poly" not in f])
def test_columns_span_what_patsys_do(right):
    """Another implementation of the language, by another hand: the same space of columns."""
    frame = small()
    design = Design(f"y ~ {right}", frame)
    ours = np.column_stack([np.ones(12), design.terms.rows.x])
    theirs = np.asarray(dmatrix(right, frame))
    assert np.linalg.matrix_rank(ours) == np.linalg.matrix_rank(theirs)
    both = np.column_stack([ours, theirs])
    assert np.linalg.matrix_rank(both, tol=1e-8) == np.linalg.matrix_rank(ours)


@pytest.mark.parametrize(
    ("formula", "names"),
    [
        ("y ~ poly(x, 2) + bs(z, df=4)", ["x", "y", "z"]),
        ("p(k, 10) ~ np.log(z) + (x | g:h)", ["g", "h", "k", "x", "z"]),
        ("k ~ 1 + offset(log(time))", ["k", "time"]),
    ],
)
def test_columns_that_a_formula_uses_are_found_among_others(formula, names):
    """Numbers in a call are no columns."""
    assert columns_of(formula) == names
    assert sorted(read_columns(small(), formula, {}).frame) == names


@pytest.mark.parametrize("right", [f for f in FORMULAS if f != "h:g"])
def test_new_rows_get_the_same_columns(right):
    """Splines, polynomials and scales remember the table, in any order and number of rows."""
    frame = small()
    design = Design(f"y ~ {right} + (x | g)", frame)
    chosen = [7, 2, 9]
    rows, _ = design.on(frame.drop(columns="y").iloc[chosen])
    np.testing.assert_allclose(rows.x, design.rows.x[chosen], atol=1e-12)
    np.testing.assert_allclose(rows.z, design.rows.z[chosen], atol=1e-12)
    np.testing.assert_array_equal(rows.level, design.rows.level[chosen])
    np.testing.assert_allclose(rows.offset, design.rows.offset[chosen], atol=1e-12)


def test_columns_are_standardised_and_outcomes_too():
    design = Design("y ~ x + z", small())
    np.testing.assert_allclose(design.rows.x.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(design.rows.x.std(0), 1, atol=1e-12)
    y = design.arguments()[0][-1]
    assert float(y.mean()) == pytest.approx(0, abs=1e-12)
    assert float(y.std(correction=0)) == pytest.approx(1)
    without = Design("y ~ 0 + x", small())
    assert not without.has_intercept
    np.testing.assert_allclose(without.rows.x[:, 0], small().x / small().x.std(ddof=0))


def test_the_intercept_counts_from_the_mean_of_the_outcomes():
    """With no other predictor it is 0 at maximum likelihood, offsets and trials included."""
    frame = small()
    poisson = Design("k ~ 1 + offset(log(time))", frame, "poisson")
    assert np.exp(poisson.rows.offset).sum() == pytest.approx(frame.k.sum())
    binomial = Design("p(k, trials) ~ 1", frame, "binomial")
    assert (frame.trials / (1 + np.exp(-binomial.rows.offset))).sum() == pytest.approx(21)


def test_groups_are_those_that_occur_with_slopes_about_their_mean():
    frame = small().iloc[:8]
    design = Design("y ~ x + (x | g) + (0 + z | h) + (1 | g:h)", frame)
    assert [kind.name for kind in design.kinds] == ["1|g", "x|g", "z|h", "1|g:h"]
    assert design.kinds[3].labels == [
        f"{g}:{h}" for g, h in sorted(set(zip(frame.g, frame.h, strict=True)))
    ]
    np.testing.assert_array_equal(np.bincount(design.kind), [4, 4, 3, 8])
    np.testing.assert_allclose(design.rows.z[:, 0], 1)
    np.testing.assert_allclose(design.rows.z[:, 1].mean(), 0, atol=1e-12)
    np.testing.assert_allclose(design.rows.z[:, 2], frame.z / frame.z.std(ddof=0))
    for index in range(4):  # every row has the effect of its own level
        names = [design.effects[k] for k in design.rows.level[:, index]]
        by = [frame.g, frame.g, frame.h, frame.g + ":" + frame.h][index]
        assert names == [f"{design.kinds[index].name}[{level}]" for level in by]


def test_outcomes_may_be_words_in_an_order_that_is_said():
    frame = small()
    assert Design("yes ~ x", frame, "bernoulli").response.levels == ("no", "yes")
    y = Design("yes ~ x", frame, "bernoulli", levels=["yes", "no"]).response.y
    np.testing.assert_array_equal(y, frame.yes == "no")
    np.testing.assert_array_equal(Design("h[v] ~ x", frame, "bernoulli").response.y, frame.h == "v")
    np.testing.assert_array_equal(Design("flag ~ x", frame, "bernoulli").response.y, frame.flag)
    graded = Design("grade ~ x", frame, "ordinal").response
    assert graded.levels == ("low", "mid", "high")
    np.testing.assert_array_equal(graded.y, [0, 2, 1] * 4)
    words = frame.assign(grade=frame.grade.astype(str))
    again = Design("grade ~ x", words, "ordinal", levels=["high", "mid", "low"]).response
    np.testing.assert_array_equal(again.y, [2, 0, 1] * 4)
    assert Design("k ~ x", frame, "ordinal").response.levels == tuple("012345")


NEW = {
    "missing column": (lambda f: f.drop(columns="x"), "no column 'x', which the formula"),
    "missing value": (lambda f: f.assign(x=[np.nan, 1, 2]), "'x' in row 0"),
    "new word": (lambda f: f.assign(h=["u", "q", "v"]),
                 "column 'h' has 'q' in row 1, a level that the fit has not seen; expected one of"
                 " u, v, w"),
    "words for numbers": (lambda f: f.assign(x=list("abc")), "column 'x' was of numbers in the"),
    "infinite": (lambda f: f.assign(z=[1.0, 0.0, 2.0]), "log(z) is -inf in row 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", NEW)
def test_new_rows_that_do_not_fit_are_refused(case):
    change, message = NEW[case]
    design = Design("y ~ x + h + log(z)", small())
    with pytest.raises(data.InputError) as caught:
        design.on(change(small().head(3)))
    assert message in str(caught.value)


def test_trials_of_new_rows_are_wanted():
    design = Design("p(k, trials) ~ x", small(), "binomial")
    with pytest.raises(data.InputError, match="no column 'trials', which has the trials"):
        design.on(small()[["x"]])
    with pytest.raises(data.InputError, match=r"column 'trials' is 0.0 in row 0, expected trials"):
        design.on(small()[["x"]].assign(trials=0))
    assert Design("p(k, 10) ~ x", small(), "binomial").on(small()[["x"]])[1].tolist() == [10] * 12


@pytest.mark.parametrize(("spread", "centred"), [(3.0, 1.0), (0.05, 0.0)])
@pytest.mark.parametrize("family", ["normal", "bernoulli", "poisson"])
def test_groups_are_centred_where_their_data_say_much(spread, centred, family):
    rng = np.random.default_rng(4)
    level = np.repeat(np.arange(15), 30)
    score = rng.normal(size=15)[level] * spread
    outcomes = {
        "normal": score + rng.normal(size=450),
        "bernoulli": rng.random(450) < 1 / (1 + np.exp(-score)),
        "poisson": rng.poisson(np.exp(np.minimum(score, 4))),
    }
    frame = pd.DataFrame({"y": outcomes[family], "g": level, "x": rng.normal(size=450)})
    assert Design("y ~ x + (1 | g)", frame, family).centring() == [centred]


def test_the_recipe_takes_options_and_refuses_others():
    recipe, table = catalogue.recipe("regression"), data.load("diabetes")
    prepared = recipe.prepare("map", table, options={"formula": "target ~ bmi * sex"})
    assert prepared.coords["predictor"] == ["bmi", "sex", "bmi:sex"]
    assert prepared.data[0].shape == (442, 3)
    assert recipe.prepare("map", table).coords["predictor"] == ["bmi", "bp", "s5", "sex"]
    for options, message in (
        ({"formla": "y ~ x"}, "--formla: no such option of regression; it has --formula, --family"),
        ({"family": "norml"}, "family: got 'norml'.*did you mean 'normal'"),
        ({"prior_scale": 0.0}, "--prior-scale: got 0.0, expected a positive number"),
    ):
        with pytest.raises(data.InputError, match=message):
            recipe.prepare("map", table, options=options)
    with pytest.raises(
        data.InputError, match=r"--formula: no such option of 02_expect.*; it has none"
    ):
        catalogue.recipe("02").prepare("exact", data.load("iris"), options={"formula": "y ~ x"})
