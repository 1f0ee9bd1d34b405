"""Answers are in the units of the reader's columns: in other units they are other numbers."""

import math
import re

import numpy as np
import pytest
import torch
from answered import (
    answers_of,
    autoencoder,
    entropy,
    measurements,
    moved,
    outcomes,
    prepared,
    shapes,
)

from guides.logistic_regression import LogisticRegressionMeanField
from models.logistic_regression import logistic_regression
from pyro_cookbook.fits.fitting import as_fit

FACTOR, SHIFT = 1000.0, 7.0
NUMBERS = ["mean", "sd", "lower", "upper"]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8, equal_nan=True)


def converted(name, line, column):
    """What a line of `estimates` has to be once a column is FACTOR times itself plus SHIFT."""
    inside = re.fullmatch(r".*\[(?:\d+, )?(.*)\]", name)
    if inside is None or inside[1] != column:
        return line[NUMBERS].to_numpy(float)
    kind = name.partition("[")[0]
    factor = {"coefficient": 1 / FACTOR, "multiplier of x²": FACTOR**-2}.get(kind, FACTOR)
    if kind in {"communality", "correlation", "odds ratio"}:
        factor = 1.0
    numbers = factor * line[NUMBERS].to_numpy(float)
    if kind == "mean":
        numbers[[0, 2, 3]] += SHIFT
    return numbers


FITTED = [
    ("01", "04d", "exact", shapes),
    ("04d", "04d", "mean_field", shapes),
    ("02", "02", "exact", measurements),
    ("02", "02", "mean_field", measurements),
    ("04c_log", "04c_log", "map", outcomes),
    ("04c_log", "04c_log", "laplace", outcomes),
]


@pytest.mark.parametrize(("recipe", "fitted", "guide", "table"), FITTED)
def test_a_column_in_other_units_changes_its_own_quantities_exactly(recipe, fitted, guide, table):
    entry, old = answers_of(recipe), table()
    new = moved(old, 1, FACTOR, SHIFT)
    size = 2 if entry.size_name else None
    before = entry.estimates(prepared(fitted, guide, table.__name__, size), old)
    refitted = answers_of(fitted).prepare(guide, new, size=size).fit()
    after = entry.estimates(refitted, new)
    assert list(after.index) == list(before.index)
    assert before.index.is_unique
    changed = [name for name in before.index if not np.allclose(
        before.loc[name, "mean"], after.loc[name, "mean"], rtol=1e-3)]  # fmt: skip
    assert any("mass" in name for name in changed)
    for name in before.index.drop("intercept", errors="ignore"):
        close(after.loc[name, NUMBERS].to_numpy(float), converted(name, before.loc[name], "mass"))
    if "intercept" in before.index:
        shifted = before["mean"]["intercept"] - SHIFT * after["mean"]["coefficient[mass]"]
        close(after["mean"]["intercept"], shifted)
    said, said_anew = (
        entry.apply(prepared(fitted, guide, table.__name__, size), old),
        entry.apply(refitted, new),
    )
    if "log density" in said:
        said_anew["log density"] += math.log(FACTOR)
    close(said_anew, said)


def test_entropy_in_other_units():
    """The fit knows standardised columns alone, so it is the same one."""
    fit, old = entropy("flow"), measurements()
    new = moved(old, 1, FACTOR, SHIFT)
    before, after = (answers_of("04b").estimates(fit, table)["mean"] for table in (old, new))
    close(after["entropy"], before["entropy"] + math.log(FACTOR))
    for name in before.index.drop(["entropy", "multiplier of x[mass]"]):
        line = answers_of("04b").estimates(fit, old).loc[name]
        close(after[name], converted(name, line, "mass")[0])
    # The density exp(λ₁ x + λ₂ x²) is the normal of the table's own means and sds.
    for table, found in ((old, before), (new, after)):
        linear, square = (
            np.array([found[f"multiplier of {x}[{c}]"] for c in table.columns]) for x in ("x", "x²")
        )
        close(-linear / (2 * square), table.raw.mean(0))
        close(1 / np.sqrt(-2 * square), table.raw.std(0, correction=0))


def test_the_auto_encoder_in_other_units():
    fit, old = autoencoder("amortized"), measurements()
    new = moved(old, 1, FACTOR, SHIFT)
    before, after = (answers_of("05c").estimates(fit, table) for table in (old, new))
    for name in before.index:
        close(after.loc[name, "mean"], converted(name, before.loc[name], "mass")[0])
    close(before["mean"]["noise sd[mass]"], old.scale[1] * fit.model.scale[1].detach())
    one, other = (answers_of("05c").apply(fit, table) for table in (old, new))
    close(other["reconstruction[mass]"], FACTOR * one["reconstruction[mass]"] + SHIFT)
    close(other["ELBO"], one["ELBO"] - math.log(FACTOR))
    same = one.columns.drop(["reconstruction[mass]", "ELBO"])
    close(other[same], one[same])


# --- and they are the right ones -----------------------------------------------------------------


def test_factors_have_the_means_and_variances_of_the_raw_columns():
    """At the maximum of the likelihood the model's variances are those of the rows."""
    table = shapes()
    found = answers_of("01").estimates(prepared("04d", "exact", "shapes"), table)["mean"]
    variance = table.raw.numpy().var(0)
    for d, column in enumerate(table.columns):
        explained = sum(found[f"loading[{k}, {column}]"] ** 2 for k in range(2))
        assert found[f"mean[{column}]"] == pytest.approx(table.raw[:, d].mean())
        total = explained + found[f"noise sd[{column}]"] ** 2
        assert total == pytest.approx(variance[d], rel=1e-3)
        assert found[f"communality[{column}]"] == pytest.approx(explained / total)
    assert found.size == 6 * (3 + 2)


def test_components_have_the_weighted_means_and_sds_of_the_raw_columns():
    """At a fixed point of EM."""
    table, fit = measurements(), prepared("02", "exact")
    found = answers_of("02").estimates(fit, table)
    rows = answers_of("02").apply(fit, table)
    raw = table.raw.numpy()
    assert found["sd"].isna().all()
    for k in range(2):
        share = rows[f"P[{k}]"].to_numpy()
        assert found["mean"][f"weight[{k}]"] == pytest.approx(share.mean(), abs=1e-4)
        covariance = np.cov(raw.T, aweights=share, ddof=0)
        for d, column in enumerate(table.columns):
            mean = np.average(raw[:, d], weights=share)
            sd = covariance[d, d] ** 0.5
            assert found["mean"][f"mean[{k}, {column}]"] == pytest.approx(mean, abs=1e-3 * sd)
            assert found["mean"][f"sd[{k}, {column}]"] == pytest.approx(sd, rel=1e-3)
        correlation = covariance[0, 2] / (covariance[0, 0] * covariance[2, 2]) ** 0.5
        name = f"correlation[{k}, length (cm), count]"
        assert found["mean"][name] == pytest.approx(correlation, abs=1e-3)


def test_logistic_coefficients_make_the_score_of_a_raw_row():
    table, fit = outcomes(), prepared("04c_log", "map", "outcomes", None)
    found = answers_of("04c_log").estimates(fit, table)
    slopes = [found["mean"][f"coefficient[{c}]"] for c in table.columns[:-1]]
    score = found["mean"]["intercept"] + table.raw[:, :-1].numpy() @ slopes
    rows = answers_of("04c_log").apply(fit, table)
    close(rows["P(ill)"], 1 / (1 + np.exp(-score)))
    ratio = math.exp(slopes[0] * float(table.scale[0]))
    assert found["mean"]["odds ratio[length (cm)]"] == pytest.approx(ratio)
    assert found["unit"]["odds ratio[length (cm)]"].startswith(f"per {table.scale[0]:.4g} of len")
    assert found["unit"]["coefficient[mass]"] == "log odds per mass"
    assert found["sd"].isna().all()
    assert rows[["lower", "upper"]].isna().all(axis=None)


def test_coefficients_of_independent_normals_have_their_own_sds():
    table = outcomes()
    guide = LogisticRegressionMeanField(3).double()
    guide.intercept_loc, guide.intercept_scale = torch.tensor([0.4, 0.3]).double()
    guide.coefficient_loc = torch.tensor([1.0, -2.0, 0.5]).double()
    guide.coefficient_scale = torch.tensor([0.2, 0.1, 0.4]).double()
    x, y = table.v[:, :-1], table.raw[:, -1]
    found = answers_of("04c_log").estimates(as_fit(logistic_regression, guide, x, y), table)
    scale, slope = table.scale[:-1].numpy(), np.array([1.0, -2.0, 0.5])
    names = [f"coefficient[{c}]" for c in table.columns[:-1]]
    close(found["mean"][names], slope / scale)
    close(found["sd"][names], np.array([0.2, 0.1, 0.4]) / scale)
    close(found["upper"][names], (slope + 1.598193 * np.array([0.2, 0.1, 0.4])) / scale)
    away = table.loc[:-1].numpy() / scale
    close(found["mean"]["intercept"], 0.4 - away @ slope)
    close(found["sd"]["intercept"], math.hypot(0.3, *(away * [0.2, 0.1, 0.4])))


def test_a_logistic_regression_of_draws_is_told_as_by_its_gaussian(monkeypatch):
    """As after `refine`, where draws stand in the guide's place."""
    from pyro_cookbook.catalogue.answers import logistic_regression as module

    table, fit = outcomes(), prepared("04c_log", "laplace", "outcomes", None)
    exact, rows = module.estimates(fit, table), module.apply(fit, table)
    monkeypatch.setattr(module, "_gaussian", lambda guide: None)
    drawn, predicted = module.estimates(fit, table), module.apply(fit, table)
    assert list(drawn.index) == list(exact.index)
    first = slice(0, 4)  # odds ratios have long tails
    error = (drawn["mean"] - exact["mean"])[first] / exact["sd"][first]
    assert error.abs().max() < 5 / 4000**0.5
    np.testing.assert_allclose(drawn["sd"][first], exact["sd"][first], rtol=5 / 8000**0.5)
    for end in ("lower", "upper"):  # a quantile in a tail of 5.5% has an error of 2.1 sd / √n
        assert ((drawn[end] - exact[end])[first] / exact["sd"][first]).abs().max() < 10 / 4000**0.5
    np.testing.assert_allclose(drawn["lower"][4:], exact["lower"][4:], rtol=0.1)
    np.testing.assert_allclose(drawn["upper"][4:], exact["upper"][4:], rtol=0.1)
    assert (predicted - rows).abs().max(axis=None) < 0.03
    assert list(predicted.columns) == ["P(ill)", "lower", "upper"]
    assert drawn.equals(module.estimates(fit, table))
