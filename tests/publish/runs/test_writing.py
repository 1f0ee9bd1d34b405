"""How much of its draws a run keeps."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_cookbook as pc
from pyro_cookbook.publish.runs.writing import netcdf_bytes, room_for

Y = torch.linspace(-1, 2, 200)


def model(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.fixture(scope="module")
def refined():
    return pc.refine(pc.fit(model, "laplace", Y))


@pytest.mark.parametrize(("draws", "each"), [(1000, 3), (10, 1)])
def test_of_chains_all_draws_are_kept_and_of_what_they_say_of_rows_as_many_as_asked_for(
    refined, draws, each
):
    num_chains, num_draws = refined.guide.diverging.shape
    assert (num_chains, num_draws > 3) == (256, True)
    tree = pc.to_datatree(refined, **room_for(refined, draws))
    assert tree["posterior"]["mean"].shape == (num_chains, num_draws)
    for group in ("posterior_predictive", "log_likelihood"):
        assert tree[group]["y"].shape == (num_chains, each, len(Y))
    whole = pc.to_datatree(refined)
    assert tree["posterior"].equals(whole["posterior"])
    assert len(netcdf_bytes(tree)) < len(netcdf_bytes(whole)) / 2


def test_a_guide_draws_as_many_as_are_asked_for():
    assert room_for(pc.fit(model, "laplace", Y), 10) == {}
