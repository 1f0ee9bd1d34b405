"""Names of sites and plates that a tree keeps, changes or refuses."""

import arviz as az
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS

import pyro_cookbook as pc


def test_names_with_slashes_have_a_place():
    def model(y):
        h = pyro.sample("outer/h", dist.Normal(y.new_zeros(()), 1.0))
        with pyro.plate("outer/row", len(y), dim=-1):
            pyro.sample("outer/y", dist.Normal(h, 1.0), obs=y)

    fit = pc.as_fit(model, lambda y: pyro.sample("outer/h", dist.Normal(0.0, 1.0)), torch.ones(3))
    for tree in (pc.to_datatree(fit, num_draws=10), pc.predict(fit, num_draws=10)):
        assert set(tree.posterior.data_vars) == {"outer.h"}
    tree = pc.to_datatree(fit, num_draws=10)
    assert tree.log_likelihood["outer.y"].dims == ("chain", "draw", "outer.row")


def test_names_of_the_trees_own_dimensions_are_refused():
    def model(y):
        chain = pyro.sample("chain", dist.Normal(y.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(chain, 1.0).expand(y.shape).to_event(1), obs=y)

    def guide(y):
        pyro.sample("chain", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="'chain'") as caught:
        pc.from_pyro_svi(model, guide, torch.ones(3))
    assert "\n" not in str(caught.value)
    mcmc = MCMC(NUTS(model), num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run(torch.ones(3))
    with pytest.raises(ValueError, match="'chain'"):
        pc.from_pyro_mcmc(mcmc)


def test_step_is_a_name_as_good_as_any(tmp_path):
    """The losses have a dimension of that name, in a group that has no site."""

    def model(y):
        step = pyro.sample("step", dist.Normal(y.new_zeros(()), 1.0))
        with pyro.plate("row", len(y), dim=-1):
            pyro.sample("y", dist.Normal(step, 1.0), obs=y)

    def walk(y):
        with pyro.plate("step", len(y), dim=-1):
            h = pyro.sample("h", dist.Normal(y.new_zeros(()), 1.0))
            pyro.sample("y", dist.Normal(h, 1.0), obs=y)

    for one, name, dims in ((model, "step", ()), (walk, "h", ("step",))):
        fit = pc.fit(one, "mean_field", torch.ones(3))
        for tree in (pc.to_datatree(fit, num_draws=10), pc.predict(fit, num_draws=10)):
            assert tree.posterior[name].dims == ("chain", "draw", *dims)
        tree = pc.to_datatree(fit, num_draws=10)
        assert tree.sample_stats.loss.sizes == {"step": len(fit.losses)}
        tree.to_netcdf(tmp_path / f"{name}.nc")
        read = az.from_netcdf(tmp_path / f"{name}.nc")
        assert read.posterior[name].equals(tree.posterior[name])
