"""What is refused before anything is fitted: one line, with the place."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tables import small

import pyro_cookbook as pc
from pyro_cookbook import data
from pyro_cookbook.formulas import checks
from pyro_cookbook.formulas import regression as fitted
from pyro_cookbook.formulas.design import Design


def told(formula, frame=None, family="normal", levels=None):
    with pytest.raises(data.InputError) as caught:
        Design(formula, small() if frame is None else frame, family, levels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("", "formula: got '', expected one as 'y ~ x + z + (1 | group)'"),
        (3, "formula: got 3, expected one as 'y ~ x + z + (1 | group)'"),
        ("y", "formula: got 'y', which has no '~'; expected outcome ~ predictors"),
        ("y ~ x +", "formula: it cannot be read after 'y ~ x +': something is missing"),
        ("y ~ x z", "formula: it cannot be read at character 7, 'z': an operator is expected"
                    " before it"),
        ("y ~ x + (1 | g", "formula: it cannot be read after 'y ~ x + (1 | g': expect ')' after"
                           " expression"),
        ("y ~ x $ z", "formula: it cannot be read at character 7, '$ z': unexpected character: $"),
        ("y ~ 'x", "formula: it cannot be read at character 5, \"'x\": unterminated string"),
        ("y ~ `x", "formula: it cannot be read at character 5, '`x': a ` that is not closed"),
        ("~ x", "formula: it cannot be read at character 1, '~ x': don't know how to parse '~'"),
        ("y ~ x ~ z", "formula: it cannot be read at character 9, 'z': there is more than one '~'"
                      " in model formula"),
        ("y + z ~ x", "formula: 'y + z ~ x' makes no sense: The response term must be of class"),
        ("y ~ x*2", "formula: 'y ~ x*2' makes no sense: Interaction with numeric does not make"),
        ("y ~ x + incme", "formula: no column 'incme'; there are y, x, z, g, h"),
        ("y ~ x + tme", "did you mean 'time'?"),
        ("q ~ x", "formula: no column 'q'; there are y, x"),
        ("y ~ cube(x)", "formula: no function 'cube'; there are"),
        ("y ~ np.save(x)", "formula: no function 'np.save' of numbers; there are"),
        ("y ~ 0", "formula: 'y ~ 0' has nothing to learn"),
        ("y ~ bs(z)", "formula: 'y ~ bs(z)': Must specify either 'df' or 'knots'"),
        ("y ~ x + (1 | C(g))", "formula: the group 'C(g)' is expected to be a column"),
    ],
)  # fmt: skip
def test_a_formula_that_cannot_be_read_is_refused_with_its_place(formula, message):
    assert told(formula).startswith(message) or told(formula).endswith(message)


def test_logarithms_of_zero_are_named_with_their_row():
    frame = small().assign(k=[0] + [1] * 11, w=range(12))
    assert told("y ~ log(w)", frame) == (
        "formula: log(w) is -inf in row 0, expected a finite number (1 such of 12 rows)"
    )
    assert told("k ~ x + offset(log(w))", frame, "poisson").startswith(
        "formula: the offset is -inf in row 0"
    )


def test_missing_values_are_refused_with_all_their_places_and_only_where_used():
    frame = small()
    frame.loc[[2, 7], "x"] = np.nan
    frame.loc[3, "g"] = None
    frame.loc[5, "z"] = np.nan
    assert told("y ~ x + (1 | g)", frame) == (
        "data: missing values that the formula needs: 'g' in row 3; 'x' in rows 2, 7"
    )
    Design("y ~ time", frame)


def test_dates_infinities_and_objects_are_refused_by_name():
    frame = small().assign(day=pd.date_range("2020-01-01", periods=12))
    assert "column 'day' has dates" in told("y ~ day", frame)
    frame = small()
    frame.loc[4, "x"] = np.inf
    assert told("y ~ x", frame) == "data: column 'x' has inf in row 4, expected a finite number"
    mixed = small().assign(m=["a"] * 11 + [3])
    assert told("y ~ m", mixed) == (
        "data: column 'm' has 3 (int) in row 11, expected a word as in other rows, or numbers in"
        " all"
    )
    twice = pd.concat([small(), small()[["x"]]], axis=1)
    assert "2 columns are called 'x'" in told("y ~ x", twice)


OUTCOMES = {
    "two in yes or no": ("k ~ x", "bernoulli", "outcome: 'k' is 4 in row 2, expected 0 or 1"),
    "three words": ("h ~ x", "bernoulli", "outcome: 'h' has 3 levels (u, v, w), expected 2"),
    "negative count": ("y ~ x", "poisson", "expected a count, 0, 1, 2, … (family poisson; 12 such"),
    "no proportion": ("k ~ x", "binomial", "expected p(successes, trials) before '~'"),
    "too many successes": ("p(trials, k) ~ x", "binomial", "outcome: 'p(trials, k)' has 0 trials"),
    "more than trials": ("p(k, 4) ~ x", "binomial",
                         "outcome: 'p(k, 4)' has 5 successes of 4 trials in row 8"),
    "proportion elsewhere": ("p(k, trials) ~ x", "normal", "which the family binomial takes"),
    "words measured": ("h ~ x", "normal", "outcome: 'h' has words; it takes numbers"),
    "words counted": ("h ~ x", "poisson", "outcome: 'h' has words; it takes numbers"),
    "no order": ("h ~ x", "ordinal", "outcome: 'h' has words, whose order is not known"),
    "two levels": ("flag ~ x", "ordinal", "outcome: 'flag' has 2 levels (False, True), expected 3"),
    "measured categories": ("y ~ x", "ordinal", "outcome: 'y' has 12 levels in 12 rows"),
    "constant": ("trials ~ x", "normal", "outcome: 'trials' is 10 in all rows; there is nothing"),
    "unknown family": ("y ~ x", "gausian", "family: got 'gausian', expected one of normal"),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTCOMES)
def test_an_outcome_that_is_not_of_the_family_is_refused_with_its_row(case):
    formula, family, message = OUTCOMES[case]
    frame = small().assign(w=0)
    if case == "measured categories":
        frame = pd.concat([frame, frame.assign(y=frame.y + 9)], ignore_index=True)
        message = "outcome: 'y' has 24 levels in 24 rows"
    assert message in told(formula, frame, family)


def test_one_class_only_and_fractions_of_counts_are_refused():
    assert told("w ~ x", small().assign(w=1), "bernoulli") == (
        "outcome: 'w' is 1 in all rows; there is nothing to explain"
    )
    half = small().assign(w=[0.5] + [1.0] * 11)
    assert "outcome: 'w' is 0.5 in row 0, expected a count" in told("w ~ x", half, "poisson")
    assert "has 0.5 successes" in told("p(w, trials) ~ x", half, "binomial")
    none = small().assign(w=0)
    assert "is 0 in all rows" in told("w ~ x", none, "negative_binomial")
    assert "has no success" in told("p(w, trials) ~ x", none, "binomial")


def test_levels_are_checked():
    assert told("h ~ x", family="ordinal", levels=["u", "w"]) == (
        "outcome: 'h' is 'v' in row 1, expected one of u, w"
    )
    assert "no row of 'h' is t" in told("h ~ x", family="ordinal", levels=list("tuvw"))
    assert "expected each once" in told("h ~ x", family="ordinal", levels=list("uvvw"))
    assert "levels: family 'normal' has none" in told("y ~ x", levels=["a", "b"])


def test_constant_and_collinear_columns_are_named():
    frame = small().assign(c=3.0, twice=lambda f: 2 * f.x + 1, xz=lambda f: f.x + f.z)
    assert told("y ~ x + c", frame) == (
        "formula: 'c' (3) is the same in all rows; the intercept has that: leave out"
    )
    assert "columns (x, twice) are collinear" in told("y ~ x + twice", frame)
    assert "columns (x, z, xz) are collinear" in told("y ~ x + z + xz", frame)
    assert "are collinear" in told("grade ~ 0 + h", frame, "ordinal")  # the cutpoints have it
    empty = small().assign(h=list("uv") * 6, g=list("ab") * 6)
    assert "'h[v]:g[b]'" in told("y ~ h:g + x", empty) or "collinear" in told("y ~ h * g", empty)


def test_groups_of_one_level_are_refused_and_of_few_are_noted():
    frame = small().assign(one="a")
    assert "the group 'one' has one level, 'a'" in told("y ~ x + (1 | one)", frame)
    assert "of its scale the data say little" in Design("y ~ x + (1 | h)", frame).notes[0]


def test_more_coefficients_than_rows_are_noted_not_refused():
    rng = np.random.default_rng(1)
    wide = pd.DataFrame(rng.normal(size=(6, 9)), columns=[*"abcdefgh", "y"])
    design = Design(f"y ~ {' + '.join('abcdefgh')}", wide)
    assert design.notes == (
        "9 coefficients and 6 rows: the data leave some directions open, which the priors decide",
    )


SEPARATED = {
    "wholly": ([0, 0, 0, 1, 1, 1], True),
    "but for ties": ([0, 0, 0, 1, 0, 1], True),  # rows 3 and 4 have the same x
    "not": ([0, 1, 0, 1, 0, 1], False),
}


@pytest.mark.parametrize("case", SEPARATED)
def test_separation_is_said(case):
    y, apart = SEPARATED[case]
    frame = pd.DataFrame({"y": y, "x": [1.0, 2, 3, 4, 4, 6], "u": [1.0, -1, 2, -1, 1, 0.5]})
    notes = Design("y ~ x", frame, "bernoulli").notes
    assert [note.startswith("a plane separates the outcomes (x)") for note in notes] == [
        True
    ] * apart


@pytest.mark.parametrize("limit", [200_000, 0])
def test_a_category_with_one_outcome_separates_in_tables_of_any_size(limit, monkeypatch):
    monkeypatch.setattr(checks, "_LARGEST_PROGRAM", limit)
    frame = small().assign(y=[0, 1, 1, 0, 1, 1, 0, 0, 1, 1, 1, 1])  # all of w are successes
    (note,) = Design("y ~ x + h", frame, "bernoulli").notes
    assert "(h[w])" in note
    mixed = frame.assign(y=[0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0])
    assert Design("y ~ g", mixed, "bernoulli").notes == ()


def test_what_is_to_be_known_is_a_warning_and_refusals_reach_the_caller(monkeypatch):
    monkeypatch.setattr(
        fitted, "diagnose", lambda *_, **__: SimpleNamespace(verdict="unreliable")
    )  # seconds, of no use here
    frame = pd.DataFrame({"y": [0, 0, 0, 1, 1, 1], "x": [1.0, 2, 3, 4, 5, 6]})
    with pytest.warns(UserWarning, match="y ~ x: a plane separates the outcomes"):
        pc.regression("y ~ x", frame, family="bernoulli", guide="map")
    with pytest.raises(data.InputError, match=r"guide: got 'fullrank'.*did you mean 'full_rank'"):
        pc.regression("y ~ x", frame, guide="fullrank")
    with pytest.raises(data.InputError, match="prior_scale: got -1, expected a positive number"):
        pc.regression("y ~ x", frame, prior_scale=-1)
    with pytest.raises(data.InputError, match="data: got a list, expected a DataFrame"):
        pc.regression("y ~ x", [1, 2])
