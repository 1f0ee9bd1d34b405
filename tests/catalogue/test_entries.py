"""Entries of the catalogue: names, defaults, and what recipes ask of a table and of options."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pyro.infer import Trace_ELBO

from guides.factor_analysis import FactorAnalysisMeanField
from models.factor_analysis import FactorAnalysis
from pyro_cookbook import catalogue, data
from pyro_cookbook.algorithms import factor_analysis
from pyro_cookbook.catalogue.estimators import sum_of_rows, vectorised_bound
from pyro_cookbook.fits.fitting import as_fit

RECIPES = Path(__file__).parents[2] / "recipes"
RNG = np.random.default_rng(0)
A, B, C, D = RNG.standard_normal((4, 40))
FACTORS = ("01_inference_as_optimisation", "04d_learning_meets_inference")


def table(**columns):
    return data.standardise(pd.DataFrame(columns), "mine", (), "mine.csv")


def refusal(recipe, rows, **options):
    entry = catalogue.recipe(recipe)
    with pytest.raises(data.InputError) as caught:
        entry.prepare(options.pop("guide", entry.default), rows, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- names -------------------------------------------------------------------------------------


def test_every_notebook_is_a_recipes_or_is_explained():
    notebooks = {path.stem for path in RECIPES.glob("*.py")}
    assert notebooks == {r.notebook for r in catalogue.RECIPES} | set(catalogue.NOTEBOOKS)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("01", ["01_inference_as_optimisation"]),
        ("expectation", ["02_expectation_maximisation"]),
        ("04c_eight_schools", ["04c_eight_schools"]),
        *(
            (name, ["04c_explaining_away", "04c_logistic_regression", "04c_eight_schools"])
            for name in ("04c", "04c_continuous_latents", "continuous")
        ),
    ],
)
def test_a_name_or_a_notebooks_or_its_beginning_finds_recipes(name, found):
    assert [one.name for one in catalogue.matching(name)] == found


def test_a_name_that_fits_several_lists_those_and_no_others():
    with pytest.raises(data.InputError) as caught:
        catalogue.recipe("04c")
    told = str(caught.value)
    assert told.startswith("recipe: got '04c', which fits 3 recipes")
    named = told.partition("expected one of ")[2].split(", ")
    assert named == ["04c_explaining_away", "04c_logistic_regression", "04c_eight_schools"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("05_two", "05_two_dimensions is a notebook about four densities in the plane"),
        ("06", "06_the_bridge is a notebook that compares methods on three models"),
        *(
            (name, "07_your_model is a notebook about models of your")
            for name in ("07", "07_your_model", "your_model")
        ),
    ],
)
def test_a_notebook_without_a_recipe_says_what_it_is(name, what):
    with pytest.raises(data.InputError, match=what):
        catalogue.matching(name)


def test_an_unknown_name_lists_all():
    with pytest.raises(data.InputError) as caught:
        catalogue.recipe("99")
    assert all(one.name in str(caught.value) for one in catalogue.RECIPES)


@pytest.mark.parametrize("recipe", catalogue.RECIPES, ids=lambda one: one.name)
def test_every_recipe_has_a_guide_by_default_with_a_reason(recipe):
    assert recipe.default in recipe.guides
    assert recipe.because
    assert len({(one.topic, one.model) for one in catalogue.RECIPES}) == len(catalogue.RECIPES)


# --- options and tables ------------------------------------------------------------------------


def test_options_are_checked():
    wine = data.load("wine")
    assert refusal("01", wine, guide="flow") == (
        "--guide: got 'flow', expected one of map, mean_field, full_rank, amortized"
    )
    assert "--size: got 14 factors, expected 1 to 13 for 'wine'" in refusal("01", wine, size=14)
    assert "--size: got 0 factors, expected 1 to" in refusal("01", wine, size=0)
    assert "has nothing to count" in refusal("04c_log", data.load("breast_cancer"), size=2)
    few = table(a=A, b=B)
    assert "--size: got 3 factors, the default, expected 1 to 2 for 'mine'" in refusal("01", few)


def test_preparing_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    catalogue.recipe("04c_expl").prepare("amortized", data.load("two_causes"))
    assert torch.get_rng_state().equal(state)


COLLINEAR = {
    "duplicated": ({"a": A, "b": B, "c": C, "again": A}, "(a, again)"),
    "scaled": ({"a": A, "b": B, "c": C, "feet": -3.28 * A + 7}, "(a, feet)"),
    "sum": ({"a": A, "b": B, "a+b": A + B, "c": C}, "(a, b, a+b)"),
    "several": ({"a": A, "b": B, "3a": 3 * A, "a+b": A + B}, "(a, 3a), (a, b, a+b)"),
    "nearly": ({"a": A, "b": B, "c": C, "sum": A + B + 5e-4 * C}, "(a, b, sum)"),
}


@pytest.mark.parametrize("recipe", [*FACTORS, "02_expectation_maximisation"])
@pytest.mark.parametrize("kind", COLLINEAR)
def test_collinear_columns_are_named_before_anything_is_fitted(recipe, kind):
    columns, named = COLLINEAR[kind]
    for guide in catalogue.recipe(recipe).guides:
        told = refusal(recipe, table(**columns), guide=guide, size=3)
        assert told.startswith(f"--data: columns {named} of 'mine' are collinear")


@pytest.mark.parametrize("recipe", FACTORS)
def test_factors_take_columns_that_depend_on_more_of_them(recipe):
    """Five shares of a whole lie in four dimensions: three factors leave noise, four do not."""
    p, q, r, s = np.exp([A, B, C, D])
    shares = np.stack([p, q, r, s, np.ones(40)]) / (p + q + r + s + 1)
    rows = table(**dict(zip("pqrst", shares, strict=True)))
    assert "(p, q, r, s, t) of 'mine' are collinear" in refusal(recipe, rows, size=4)
    assert float(factor_analysis.em(rows.v, 4, max_iterations=500)[0].scale.min()) < 1e-5
    assert float(factor_analysis.em(rows.v, 3, max_iterations=500)[0].scale.min()) > 1e-3
    catalogue.recipe(recipe).check(rows, 3)


def test_more_columns_than_rows():
    wide = table(**{f"c{k}": column for k, column in enumerate(RNG.standard_normal((8, 6)))})
    told = refusal("02", wide, size=2)
    assert "'mine' has 6 rows and 8 columns; a covariance of the columns needs more rows" in told
    square = table(**{f"c{k}": column for k, column in enumerate(RNG.standard_normal((5, 6)))})
    assert refusal("01", wide, size=5).endswith("expected 7 rows at least")
    assert "(c0, c1, c2, c3, c4, c5) of 'mine' are collinear" not in refusal("01", wide, size=5)
    for recipe in FACTORS:  # what is wide is no fault in itself
        catalogue.recipe(recipe).check(wide, 4)
    catalogue.recipe("02").prepare("mean_field", square, size=2)  # 6 rows, 5 columns


@pytest.mark.parametrize("recipe", ["03", "04b", "04c_log"])
def test_recipes_that_can_take_collinear_columns_do(recipe):
    entry = catalogue.recipe(recipe)
    rows = table(a=A, b=B, a2=2 * A, sum=A + B, y=(C > 0).astype(float))
    prepared = entry.prepare(entry.default, rows, size=2 if entry.size_name else None)
    for program in (prepared.model, prepared.guide):
        if isinstance(program, torch.nn.Module):
            program.double()
    programs = prepared.model, prepared.guide
    assert np.isfinite(Trace_ELBO().loss(*programs, *prepared.data, **prepared.data_kwargs))


def test_rows_that_an_algorithm_refuses_are_a_matter_of_input():
    few = table(a=[1.0, 2.0, 4.0], b=[0.0, 1.0, 0.0])
    assert "'mine': the noise has vanished: 8 units explain 3 rows" in refusal("04a", few)


def test_a_table_of_bits_is_of_bits():
    told = refusal("05a", table(a=[0.0, 1.0, 1.0], b=[1.0, 0.0, 0.5]), size=1)
    assert told.endswith("expected to be 0 or 1; 'b' has 0.5 in row 2")


# --- outcomes ----------------------------------------------------------------------------------


def test_tables_of_another_shape_are_refused():
    assert "got 1 column (a), expected covariates and an outcome" in refusal("04c_log", table(a=A))
    assert "got 2 columns (a, b), expected 1" in refusal("04c_expl", table(a=A, b=B))
    assert "expected 2, the standard error" in refusal("04c_eight", table(a=A))
    assert "got 3 (a, b, c)" in refusal("04c_eight", table(a=A**2, b=B, c=C))
    assert "'a' has the standard errors, which are positive" in refusal(
        "04c_eight", table(a=A, b=B)
    )


def test_an_outcome_is_0_or_1_to_the_last_bit():
    told = refusal("04c_log", table(x=A, y=[0.0, 2.0, 1.0, 1.0] * 10))
    assert "--outcome: column 'y' is the outcome, 0 or 1; got 2 in row 1" in told
    for ones in range(1, 40):  # of them six in a hundred would be rounded on the way back
        rows = table(x=A, y=[1.0] * ones + [0.0] * (40 - ones))
        prepared = catalogue.recipe("04c_log").prepare("full_rank", rows)
        assert prepared.data[1].sum() == ones


# --- estimators --------------------------------------------------------------------------------


def test_the_evidence_is_the_sum_of_the_rows():
    rows = torch.randn(6, 3, dtype=torch.float64)
    model = FactorAnalysis(3, 1).double().requires_grad_(False)
    fit = as_fit(model, FactorAnalysisMeanField(6, 1).double(), rows)
    exact = torch.distributions.MultivariateNormal(
        model.b, model.W @ model.W.mT + model.scale.square().diag()
    )
    evidence = sum_of_rows(factor_analysis.log_evidence)(fit)
    assert evidence == pytest.approx(float(exact.log_prob(rows).sum()), rel=1e-9)


def test_the_bound_is_estimated_from_many_draws_in_one_run():
    bound = vectorised_bound(5)
    assert (bound.num_particles, bound.vectorize_particles) == (5, True)
