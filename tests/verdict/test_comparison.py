"""Fits side by side."""

import dataclasses

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_cookbook as pc


def correlated():
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    pyro.sample("h", dist.MultivariateNormal(torch.zeros(2), covariance))


@pytest.fixture(scope="module")
def comparison():
    full, mean = pc.fit(correlated, "full_rank"), pc.fit(correlated, "mean_field")
    nuts = pc.sample(full, num_draws=1000, num_warmup=200, num_chains=2)
    return pc.compare(
        {"mean field": mean, "full rank": full, "map": pc.fit(correlated, "map"), "NUTS": nuts}
    )


def test_the_table_has_the_best_bound_first_and_the_known_gap(comparison):
    table = comparison.table
    assert list(table.index[:2]) == ["full rank", "mean field"]
    # KL of the mean field from the Gaussian: −½ log(1 − ρ²).
    assert table.loc["mean field", "below_best"] == pytest.approx(-0.5 * np.log(0.36), abs=0.05)
    assert table.loc["full rank", "verdict"] == "reliable"
    assert table.loc["mean field", "verdict"] == "unreliable"
    assert np.isnan(table.loc["map", "below_best"])  # a height, not a bound


def test_errors_are_those_against_nuts(comparison):
    table = comparison.table
    # Sds of the mean field are √(1 − ρ²) = 0.6; NUTS has 2,000 draws, here nearly independent.
    assert table.loc["mean field", "sd_error"] == pytest.approx(0.4, abs=0.05)
    assert table.loc["full rank", "sd_error"] < 0.1
    assert table.loc["full rank", "mean_error"] < 0.15
    assert table.loc["map", "sd_error"] == 1
    assert np.isnan(table.loc["NUTS", "sd_error"])


def test_one_plot_holds_them_all(comparison, tmp_path):
    plot = comparison.plot()
    (legend,) = plot.viz["figure"].item().legends
    assert {text.get_text() for text in legend.get_texts()} == set(comparison.trees)
    assert plot.data.sizes["model"] == 4
    plot.savefig(tmp_path / "forest.png")
    assert (tmp_path / "forest.png").stat().st_size > 5000


def test_nothing_and_an_unknown_reference_are_refused():
    with pytest.raises(ValueError, match="fits: got none"):
        pc.compare({})
    with pytest.raises(ValueError, match="reference: got 'NUTS'"):
        pc.compare({"map": pc.fit(correlated, "map")}, reference="NUTS")


def test_what_was_diagnosed_is_not_diagnosed_again(monkeypatch):
    one, other = pc.fit(correlated, "map"), pc.fit(correlated, "map", seed=1)
    known = pc.diagnose(one)
    asked = []

    def counting(fit, **options):
        asked.append(fit)
        return pc.diagnose(fit, **options)

    monkeypatch.setattr("pyro_cookbook.verdict.comparison.diagnose", counting)
    found = pc.compare({"a": one, "b": other}, diagnoses={"a": known})
    assert asked == [other]
    assert found.diagnoses["a"] is known
    assert list(found.diagnoses) == ["a", "b"]


def test_a_given_verdict_decides_whether_draws_are_reweighted():
    def narrow():
        pyro.sample("h", dist.MultivariateNormal(torch.zeros(2), 0.6 * torch.eye(2)))

    def wide():
        pyro.sample("h", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))

    fit = pc.as_fit(wide, narrow)
    known = pc.diagnose(fit)
    assert known.verdict == "reliable after reweighting"
    one, other = (
        pc.compare({"a": fit}, diagnoses={"a": dataclasses.replace(known, verdict=verdict)})
        for verdict in (known.verdict, "reliable")
    )
    # Standard deviations 1 and √0.6, each with an error of 1/√8000 or a little more.
    assert float(one.trees["a"].posterior.h.std()) == pytest.approx(1.0, abs=0.06)
    assert float(other.trees["a"].posterior.h.std()) == pytest.approx(0.6**0.5, abs=0.04)
    assert other.table.loc["a", "verdict"] == "reliable"


def test_a_diagnosis_of_nothing_that_is_compared_is_refused():
    fit = pc.fit(correlated, "map")
    with pytest.raises(ValueError, match="diagnoses: got 'b', expected names of fits: a"):
        pc.compare({"a": fit}, diagnoses={"b": pc.diagnose(fit)})
    with pytest.raises(ValueError, match=r"got a str for 'a', expected what pc\.diagnose"):
        pc.compare({"a": fit}, diagnoses={"a": "reliable"})
    with pytest.raises(ValueError, match="fits: got a str for 'a', expected a Fit or a DataTree"):
        pc.compare({"a": "map"})


def test_trees_without_a_variable_in_common_have_no_errors():
    def other():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    table = pc.compare(
        {"a": pc.fit(correlated, "map"), "b": pc.fit(other, "map")}, reference="b"
    ).table
    assert np.isnan(table.loc["a", "mean_error"])
    assert table.loc["a", "where"] == ""


def test_the_trees_have_the_names_that_the_reader_gives():
    found = pc.compare(
        {"map": pc.fit(correlated, "map")}, dims={"h": ["side"]}, coords={"side": ["l", "r"]}
    )
    assert list(found.trees["map"]["posterior"]["h"]["side"].values) == ["l", "r"]
