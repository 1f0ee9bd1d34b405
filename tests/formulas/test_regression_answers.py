"""Regressions beside exact answers and statsmodels, in the units of the table."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from oracles import regression as oracle
from statsmodels.miscmodels.ordinal_model import OrderedModel

import pyro_cookbook as pc
from pyro_cookbook import data
from pyro_cookbook.catalogue.topics import regression as recipe
from pyro_cookbook.formulas import regression as fitted

SETS = sm.datasets


def full_rank(monkeypatch, *args, **kwargs):
    """Fit without a verdict, which takes longer than the fit: here an answer is known."""
    monkeypatch.setattr(fitted, "diagnose", lambda *_, **__: SimpleNamespace(verdict="reliable"))
    return pc.regression(*args, guide="full_rank", **kwargs)


def in_sds(found, estimate, se):
    """Distance of means to estimates in standard errors, and sds in them."""
    estimate, se = (pd.Series(v).reindex(found.index).dropna() for v in (estimate, se))
    found = found.loc[estimate.index]
    assert len(estimate) > 1
    assert (estimate / se).abs().max() > 4  # a fit that has stayed at its start is far off
    return ((found["mean"] - estimate) / se).abs().max(), found["sd"].div(se).sub(1).abs().max()


# 4000 draws: 0.016 sd is a mean's standard error, 1.1% an sd's; the largest of ten is within 0.05
# and 4%. A posterior mean differs from an estimate by skewness, of the order of sd / √n.
MEAN, SD = 0.12, 0.07


def fair():
    table = SETS.fair.load_pandas().data[::4]
    table = table.assign(affair=(table.affairs > 0).astype(int))
    right = "rate_marriage + age + yrs_married + religious"
    exact = smf.logit(f"affair ~ {right}", table).fit(disp=0)
    return f"affair ~ {right}", table, "bernoulli", exact.params, exact.bse


def star98():
    table = SETS.star98.load_pandas().data
    table = table.assign(n=table.NABOVE + table.NBELOW)
    right = "LOWINC + PERASIAN + PERBLACK + PERHISP + PCTCHRT"
    family = sm.families.Binomial()
    exact = smf.glm(f"NABOVE + NBELOW ~ {right}", table, family=family).fit()
    return f"p(NABOVE, n) ~ {right}", table, "binomial", exact.params, exact.bse


def committee():
    table = SETS.committee.load_pandas().data
    right = "SUBS + STAFF + PRESTIGE"
    exact = smf.poisson(f"BILLS104 ~ {right}", table, offset=np.log(table.SIZE)).fit(disp=0)
    return f"BILLS104 ~ {right} + offset(log(SIZE))", table, "poisson", exact.params, exact.bse


def randhie():
    table = SETS.randhie.load_pandas().data[::8].reset_index(drop=True)
    right = "lncoins + idp + physlm + disea"
    exact = smf.negativebinomial(f"mdvis ~ {right}", table).fit(disp=0)
    params, bse = (s.rename({"alpha": "dispersion"}) for s in (exact.params, exact.bse))
    return f"mdvis ~ {right}", table, "negative_binomial", params, bse


def anes96():
    table = SETS.anes96.load_pandas().data
    names = ["logpopul", "selfLR", "age", "educ", "income"]
    model = OrderedModel(table.PID.astype("category").cat.as_ordered(), table[names], distr="logit")
    exact = model.fit(method="newton", disp=0)
    cuts = model.transform_threshold_params(exact.params.to_numpy()[5:])[1:-1]
    params = {**exact.params[:5], **{f"cut({k}|{k + 1})": cut for k, cut in enumerate(cuts)}}
    # Of the first cutpoint alone statsmodels gives the standard error: of others, of log gaps.
    bse = {**exact.bse[:5], "cut(0|1)": exact.bse.iloc[5]}
    return f"PID ~ {' + '.join(names)}", table, "ordinal", params, bse


@pytest.mark.parametrize("case", [fair, star98, committee, randhie, anes96])
def test_with_a_flat_prior_means_are_maximum_likelihoods(case, monkeypatch):
    formula, table, family, estimate, se = case()
    found = full_rank(monkeypatch, formula, table, family=family, prior_scale=50.0)
    mean, sd = in_sds(found.summary(), estimate, se)
    assert mean < MEAN
    assert sd < SD


def test_outcomes_with_outliers_are_as_maximum_likelihood_has_them(monkeypatch):
    """235 households, ν about 3; of σ and ν, whose posterior is skewed, only the place."""
    table = SETS.engel.load_pandas().data
    estimate, se = oracle.student_t_likelihood(table.income, table.foodexp)
    names = ["Intercept", "income", "scale"]
    formula = "foodexp ~ income"
    found = full_rank(monkeypatch, formula, table, family="student_t", prior_scale=50.0).summary()
    mean, sd = in_sds(found, pd.Series(estimate, names)[:2], pd.Series(se, names)[:2])
    assert mean < 0.3
    assert sd < 0.1
    least_squares = smf.ols(formula, table).fit().params
    assert abs(least_squares["Intercept"] - estimate[0]) > 2 * se[0]  # outliers count less
    assert abs(found.loc["scale", "mean"] - estimate[2]) < se[2]
    assert 2 < found.loc["degrees_of_freedom", "mean"] < 5  # 3.2 at maximum likelihood


def test_words_are_coded_as_statsmodels_does(monkeypatch):
    """Also an interaction, and an intercept that is at 0 of all columns."""
    table = SETS.fair.load_pandas().data[::4]
    table = table.assign(job=table.occupation.map("job {:.0f}".format))
    exact = smf.ols("rate_marriage ~ age * religious + job", table).fit()
    estimate, se = (s.rename(lambda name: name.replace("[T.", "[")) for s in (exact.params,
                    exact.bse))  # fmt: skip
    found = full_rank(monkeypatch, "rate_marriage ~ age * religious + job", table, prior_scale=50)
    assert set(estimate.index) == set(found.summary().index) - {"scale"}
    mean, sd = in_sds(found.summary(), estimate, se)
    assert mean < MEAN
    assert sd < SD


def diabetes(rows):
    table = data.load("diabetes").frame.iloc[:rows]
    columns = table[["bmi", "s5"]].to_numpy()
    standard = (columns - columns.mean(0)) / columns.std(0)
    y = ((table.target - table.target.mean()) / table.target.std(ddof=0)).to_numpy()
    return table, columns, np.column_stack([np.ones(rows), standard]), y


def test_an_unknown_noise_is_integrated_out(monkeypatch):
    """Sixty patients and a prior that counts: every coefficient in the table's units."""
    table, columns, standard, y = diabetes(60)
    exact = oracle.unknown_noise(standard, y, np.full(3, 0.3))
    found = full_rank(monkeypatch, "target ~ bmi + s5", table, prior_scale=0.3).summary()
    unit = table.target.std(ddof=0)
    scale = np.append(unit / columns.std(0), unit)
    mean, sd = exact.mean[1:] * scale, exact.sd[1:] * scale
    kept = found.loc[["bmi", "s5", "scale"]]
    assert (mean / sd)[1:].min() > 1  # at 0, where a fit begins, these are off by more
    np.testing.assert_array_less(np.abs(kept["mean"] - mean) / sd, MEAN)
    np.testing.assert_array_less(np.abs(kept["sd"] / sd - 1), SD)
    least_squares = smf.ols("target ~ bmi + s5", table).fit().params
    assert np.abs(least_squares["s5"] - mean[1]) > 2 * MEAN * sd[1]  # the prior is seen


@pytest.fixture(scope="module")
def firms():
    """Eleven firms, twenty years of each."""
    table = SETS.grunfeld.load_pandas().data
    return table, pc.regression("invest ~ value + capital + (1 | firm)", table, seed=1)


def test_intercepts_of_groups_are_integrated_out(firms):
    table, found = firms
    columns = table[["value", "capital"]].to_numpy()
    standard = np.column_stack([np.ones(220), (columns - columns.mean(0)) / columns.std(0)])
    unit = table.invest.std(ddof=0)
    y = (table.invest - table.invest.mean()).to_numpy() / unit
    level = np.unique(table.firm, return_inverse=True)[1]
    exact = oracle.random_intercepts(standard, y, level, np.full(3, 2.5))
    scale = np.concatenate([unit / columns.std(0), [unit, unit]])
    mean, sd = exact.mean[1:] * scale, exact.sd[1:] * scale
    kept = found.summary().loc[["value", "capital", "sd(1|firm)", "scale"]]
    assert found.may_be_used
    np.testing.assert_array_less(np.abs(kept["mean"] - mean) / sd, 0.22)  # what reliable promises
    np.testing.assert_array_less(np.abs(kept["sd"] / sd - 1), 0.22)
    assert (mean / sd).min() > 3


def test_predictions_of_groups_known_and_new(firms):
    table, found = firms
    rows = table.iloc[[200, 3, 50]].drop(columns="invest")
    predicted = found.predict(rows)
    assert predicted.index.tolist() == [200, 3, 50]
    assert predicted.columns.tolist() == ["mean", "sd", "eti89_lb", "eti89_ub"]
    np.testing.assert_array_less(np.abs(predicted["mean"] - table.invest[rows.index]), 3 * 60)
    expected = found.predict(rows, of="mean")
    np.testing.assert_allclose(expected["mean"], predicted["mean"])
    noise = found.summary().loc["scale", "mean"]
    np.testing.assert_allclose(
        predicted["sd"] ** 2, expected["sd"] ** 2 + noise**2, rtol=0.2
    )  # sds of 1000 draws
    strange = rows.assign(firm="Acme")
    with pytest.raises(data.InputError, match=r"the group 'firm' is 'Acme' in row 0, a level"):
        found.predict(strange)
    new = found.predict(strange, unseen="population", of="mean")
    between = found.summary().loc["sd(1|firm)", "mean"]
    assert (new["sd"] > 0.8 * between).all()
    assert (expected["sd"] < 0.3 * between).all()


def test_effects_and_priors_have_names_and_units(firms):
    table, found = firms
    effects = found.effects()
    assert effects.index[0] == "1|firm[American Steel]"
    by_hand = table.invest - found.predict(table, of="mean")["mean"]
    assert by_hand.groupby(table.firm).mean().abs().max() < 30  # effects are in the predictions
    assert effects["mean"].std() == pytest.approx(
        found.summary().loc["sd(1|firm)", "mean"], rel=0.3
    )
    priors = found.priors()
    unit = table.invest.std(ddof=0)
    assert priors.loc["value", "scale"] == pytest.approx(2.5 * unit / table.value.std(ddof=0))
    assert priors.loc["sd(1|firm)", "scale"] == pytest.approx(unit)


def test_the_tree_is_labelled_and_in_the_tables_units(firms):
    table, found = firms
    tree = found.tree(num_draws=400)
    posterior, summary = tree["posterior"], found.summary()
    for name, label in (("group_scale", "sd(1|firm)"), ("scale", "scale")):
        error = abs(float(posterior[name].mean()) - summary.loc[label, "mean"])
        assert error < 0.3 * summary.loc[label, "sd"]
    value = posterior["coefficient"].sel(predictor="value")
    assert float(value.mean()) == pytest.approx(summary.loc["value", "mean"], rel=0.05)
    assert posterior["effect"].sel(group_level="1|firm[Goodyear]").sizes.keys() == {"chain", "draw"}
    np.testing.assert_allclose(tree["observed_data"]["y"], table.invest)
    noise = float(posterior["scale"].mean())
    density = tree["log_likelihood"]["y"].to_numpy()
    assert density.mean() == pytest.approx(-np.log(noise) - 0.5 * np.log(2 * np.pi) - 0.5, abs=0.1)
    assert tree.attrs["formula"] == "invest ~ value + capital + (1 | firm)"


def test_predictions_of_counts_and_categories(monkeypatch):
    formula, table, family, *_ = committee()
    counts = full_rank(monkeypatch, formula, table, family=family)
    predicted = counts.predict(table.drop(columns="BILLS104"))
    # With an intercept, means add up to the data's.
    assert predicted["mean"].sum() == pytest.approx(table.BILLS104.sum(), rel=0.02)
    twice = counts.predict(table.assign(SIZE=2 * table.SIZE))["mean"]
    np.testing.assert_allclose(twice, 2 * predicted["mean"], rtol=1e-9)  # exposure counts
    assert (predicted["eti89_lb"] % 1 == 0).mean() > 0.5
    formula, table, family, *_ = anes96()
    grades = full_rank(monkeypatch, formula, table, family=family)
    shares = grades.predict(table)
    levels = [str(k) for k in range(7)]
    np.testing.assert_allclose(shares[levels].sum(axis=1), 1.0)
    observed = table.PID.value_counts(normalize=True).sort_index().to_numpy()
    np.testing.assert_allclose(shares[levels].mean(), observed, atol=0.02)
    assert set(shares["most_probable"]) <= set(levels)


def test_a_point_has_no_spread_and_a_binomial_counts_successes(monkeypatch):
    formula, table, family, estimate, _ = star98()
    monkeypatch.setattr(fitted, "diagnose", lambda *_, **__: SimpleNamespace(verdict="unreliable"))
    point = pc.regression(formula, table, family=family, guide="map")
    assert point.summary()["sd"].isna().all()
    assert point.summary().loc["LOWINC", "mean"] == pytest.approx(estimate["LOWINC"], rel=0.01)
    whole = point.predict(table, of="mean")["mean"]
    assert whole.sum() == pytest.approx(table.NABOVE.sum(), rel=0.01)
    assert not point.may_be_used


def test_a_fit_that_is_back_predicts_the_same_from_its_columns(firms, tmp_path):
    """By `infer`, and of the recipe: other programs, the same units."""
    table, found = firms
    pc.save(found.fit, tmp_path / "fit.pt")
    options = recipe.Options(formula=found.design.formula)
    design = found.design
    back = recipe.as_regression(
        options, design.terms.frame, "infer", pc.load(tmp_path / "fit.pt"), found.verdict
    )
    rows = table.head(5)
    again = replace(back, seed=found.seed).predict(rows)
    pd.testing.assert_frame_equal(again, found.predict(rows))
    prepared = recipe.RECIPE.prepare(
        "map", SimpleNamespace(frame=table, v=None), options={"formula": design.formula}
    )
    prepared.options["max_steps"] = 60  # any fit will do: its units and names are looked at
    point = recipe.as_regression(options, table, "map", prepared.fit(), "unreliable")
    assert point.summary().index.tolist() == found.summary().index.tolist()
    assert point.predict(rows)["mean"].between(-1000, 2000).all()
