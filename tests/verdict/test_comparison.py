"""Fits side by side."""

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


def test_the_trees_have_the_names_that_the_reader_gives():
    found = pc.compare(
        {"map": pc.fit(correlated, "map")}, dims={"h": ["side"]}, coords={"side": ["l", "r"]}
    )
    assert list(found.trees["map"]["posterior"]["h"]["side"].values) == ["l", "r"]
