"""The DataTree: groups, dimensions, and ArviZ's functions on it."""

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam
from scipy import stats

import pyro_cookbook as pc

GROUPS = {
    "posterior",
    "posterior_predictive",
    "log_likelihood",
    "sample_stats",
    "prior",
    "prior_predictive",
    "observed_data",
    "constant_data",
}


def regression(x, y=None):
    """A conjugate regression with known noise, written without any shape discipline."""
    slope = pyro.sample("slope", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    mean = pyro.deterministic("mean", x @ slope)
    with pyro.plate("row", len(x), dim=-1):
        return pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(30, generator=generator, dtype=torch.float64)
    return x, x @ torch.tensor([1.0, -1.0], dtype=torch.float64) + 0.5 * noise


@pytest.fixture(scope="module")
def exact(data):
    x, y = (value.numpy() for value in data)
    covariance = np.linalg.inv(np.eye(2) + x.T @ x / 0.25)
    return covariance @ x.T @ y / 0.25, covariance


@pytest.fixture(scope="module")
def fit(data):
    return pc.fit(regression, "full_rank", *data, elbo=Trace_ELBO(num_particles=4))


@pytest.fixture(scope="module")
def tree(fit):
    return pc.to_datatree(fit, dims={"slope": ["feature"]}, coords={"feature": ["a", "b"]})


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_it_holds_every_group_with_named_dimensions(tree):
    assert set(tree.children) >= GROUPS
    assert tree.posterior.slope.dims == ("chain", "draw", "feature")
    assert list(tree.posterior.feature.values) == ["a", "b"]
    assert tree.posterior["mean"].dims == ("chain", "draw", "mean_dim_0")  # outside the plate
    assert tree.posterior_predictive.y.dims == ("chain", "draw", "row")
    assert tree.log_likelihood.y.dims == ("chain", "draw", "row")
    assert tree.observed_data.y.dims == ("row",)
    assert tree.constant_data.x.dims == ("row", "x_dim_1")
    assert tree.sample_stats.loss.dims == ("step",)
    assert "y" not in tree.constant_data
    assert tree.prior_predictive.y.sizes["row"] == 30


def test_the_posterior_is_the_conjugate_one(tree, exact):
    mean, covariance = exact
    draws = tree.posterior.slope.to_numpy()[0]
    se = np.sqrt(covariance.diagonal() / len(draws))
    assert (np.abs(draws.mean(0) - mean) < 5 * se + 0.1 * np.sqrt(covariance.diagonal())).all()
    assert np.abs(draws.std(0) / np.sqrt(covariance.diagonal()) - 1).max() < 0.15


def test_log_p_log_q_and_the_pointwise_likelihood_are_those_of_the_draws(tree, data, fit):
    x, y = (value.numpy() for value in data)
    slope = tree.posterior.slope.to_numpy()[0]
    likelihood = stats.norm.logpdf(y, slope @ x.T, 0.5)
    np.testing.assert_allclose(tree.log_likelihood.y[0], likelihood, rtol=1e-9)
    prior = stats.norm.logpdf(slope).sum(1)
    np.testing.assert_allclose(tree.sample_stats.log_p[0], likelihood.sum(1) + prior, rtol=1e-9)
    q = fit.guide.get_posterior()
    log_q = q.log_prob(torch.as_tensor(slope)).detach()
    np.testing.assert_allclose(tree.sample_stats.log_q[0], log_q, rtol=1e-6)


def test_the_predictive_does_not_echo_the_data(tree, data):
    y = data[1].numpy()
    draws = tree.posterior_predictive.y.to_numpy()[0]
    assert (draws.std(0) > 0.4).all()
    assert not np.isclose(draws, y).any(axis=1).all()
    assert abs((draws.mean(0) - y).std() - 0.5) < 0.2  # residuals of the noise's size


def test_names_for_dimensions_that_do_not_fit_are_refused(fit):
    with pytest.raises(ValueError, match=r"dims: 'slope' has shape \(2,\).*got 3 names"):
        pc.to_datatree(fit, dims={"slope": ["a", "b", "c"]}, num_draws=10)
    with pytest.raises(ValueError, match="sample_dims"):
        pc.to_datatree(fit, sample_dims=["draws"], num_draws=10)


def test_same_seed_same_draws(fit):
    first, second, other = (pc.to_datatree(fit, num_draws=20, seed=s).posterior for s in (1, 1, 2))
    assert first.equals(second)
    assert not first.equals(other)


# --- ArviZ --------------------------------------------------------------------------------------


def test_summary_as_it_comes(tree, exact):
    """The first step after a fit, without an option."""
    table = az.summary(tree)
    slope = table.loc[["slope[a]", "slope[b]"]]
    assert slope["mean"].astype(float).to_numpy() == pytest.approx(exact[0], abs=0.1)
    assert table["r_hat"].astype(float).isna().all()  # independent draws: nothing to compare
    stacked = az.summary(tree, var_names=["slope"], kind="stats", round_to=6)
    assert stacked["mean"].astype(float).to_numpy() == pytest.approx(exact[0], abs=0.1)
    predicted = az.summary(pc.predict(*_conjugate()), group="predictions")
    assert len(predicted) == 2


def _conjugate():
    def model(y=None):
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 2):
            pyro.sample("y", dist.Normal(h, 1.0), obs=y)

    return (
        pc.as_fit(model, lambda y=None: pyro.sample("h", dist.Normal(0.0, 1.0)), torch.ones(2)),
    )


def test_plots(tree):
    az.plot_dist(tree, var_names=["slope"])
    az.plot_pair(tree, var_names=["slope"])


def test_independent_draws_may_have_one_dimension(fit):
    tree = pc.to_datatree(fit, sample_dims=["sample"], num_draws=50)
    assert tree.posterior.slope.dims == ("sample", "slope_dim_0")
    assert tree.sample_stats.log_q.dims == ("sample",)
    table = az.summary(tree, sample_dims="sample", kind="stats")
    assert "r_hat" not in table
    az.plot_dist(tree, var_names=["slope"], sample_dims=["sample"])


def test_loo_and_ppc(fit):
    tree = pc.to_datatree(fit, num_draws=2000)
    assert tree.posterior.sizes["chain"] == 1
    loo = az.loo_approximate_posterior(
        tree, tree.sample_stats.log_p, tree.sample_stats.log_q, pointwise=True
    )
    exact_loo = az.loo(tree)  # the guide is nearly exact: the correction changes little
    assert loo.elpd == pytest.approx(exact_loo.elpd, abs=1.0)
    az.plot_ppc_dist(tree)


def test_netcdf_round_trip(tree, tmp_path):
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    again = az.from_netcdf(tmp_path / "tree.nc")
    for group in tree.children:
        assert again[group].to_dataset().equals(tree[group].to_dataset()), group
    assert again.attrs["converged"] == 1


# --- other ways in --------------------------------------------------------------------------------


def test_a_loop_of_ones_own_can_be_converted(data, exact):
    guide = AutoNormal(regression)
    svi = SVI(regression, guide, Adam({"lr": 0.02}), Trace_ELBO())
    losses = [svi.step(*data) for _ in range(1500)]
    tree = pc.from_pyro_svi(
        regression, guide, *data, losses=losses, num_draws=500, dims={"slope": ["feature"]}
    )
    assert set(tree.children) >= GROUPS
    assert tree.sample_stats.sizes["step"] == 1500
    mean = tree.posterior.slope.mean(("chain", "draw"))
    assert mean.to_numpy() == pytest.approx(exact[0], abs=0.1)


def test_parameters_in_the_global_store_are_found():
    def model(y):
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(h, 1.0), obs=y)

    def guide(y):
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("h", dist.Normal(loc, 0.7))

    y = torch.tensor(2.0)
    svi = SVI(model, guide, Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(300):
        svi.step(y)
    tree = pc.from_pyro_svi(model, guide, y)
    pyro.clear_param_store()
    assert float(tree.posterior.h.mean()) == pytest.approx(1.0, abs=0.2)  # started at 0


def test_nuts_lands_in_the_same_shape(data, exact):
    mcmc = MCMC(NUTS(regression), num_samples=300, warmup_steps=200, disable_progbar=True)
    mcmc.run(*data)
    tree = pc.from_pyro_mcmc(mcmc, dims={"slope": ["feature"]})
    assert set(tree.children) >= GROUPS
    assert tree.posterior.slope.dims == ("chain", "draw", "feature")
    assert tree.posterior.slope.mean(("chain", "draw")).to_numpy() == pytest.approx(
        exact[0], abs=0.1
    )
    x, y = (value.numpy() for value in data)
    slope = tree.posterior.slope.to_numpy()[0]
    lp = stats.norm.logpdf(y, slope @ x.T, 0.5).sum(1) + stats.norm.logpdf(slope).sum(1)
    np.testing.assert_allclose(tree.sample_stats.lp[0], lp, rtol=1e-9)
    assert tree.sample_stats.diverging.dtype == bool
    assert az.loo(tree).elpd < 0


def test_a_run_of_mcmc_that_has_not_happened_is_refused():
    with pytest.raises(ValueError, match="mcmc: expected a run that is finished"):
        pc.from_pyro_mcmc(MCMC(NUTS(regression), num_samples=10, warmup_steps=10))


def test_a_prior_that_cannot_be_drawn_is_left_out_with_the_reason(data):
    def improper(y):
        h = pyro.sample("h", dist.ImproperUniform(dist.constraints.real, (), ()))
        pyro.sample("y", dist.Normal(h, 1.0).expand(y.shape).to_event(1), obs=y)

    def guide(y):
        pyro.sample("h", dist.Normal(y.mean(), len(y) ** -0.5))

    y = data[1]
    tree = pc.to_datatree(pc.as_fit(improper, guide, y))
    assert "prior" not in tree.children
    assert "not drawn" in tree.attrs["prior"]
    assert float(tree.posterior.h.mean()) == pytest.approx(float(y.mean()), abs=0.05)


# --- discrete latents that were summed out --------------------------------------------------------

COUNTS = torch.tensor([-1.4, -0.6, -1.1, 2.7, 3.2, 0.9], dtype=torch.float64)


def mixture(y):
    share = pyro.sample("share", dist.Beta(y.new_tensor(2.0), 2.0))
    with pyro.plate("row", len(y), dim=-1):
        z = pyro.sample("z", dist.Bernoulli(share), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(4 * z - 1, 0.7), obs=y)


def assert_summed(tree, lp):
    """Densities of rows with z summed out, against SciPy's; lp is their sum with the prior."""
    share = tree.posterior["share"].to_numpy()[..., None]
    low, high = (stats.norm.logpdf(COUNTS.numpy(), loc, 0.7) for loc in (-1.0, 3.0))
    rows = np.logaddexp(np.log1p(-share) + low, np.log(share) + high)
    np.testing.assert_allclose(tree.log_likelihood["y"], rows, rtol=1e-6)
    prior = stats.beta.logpdf(share[..., 0], 2, 2)
    np.testing.assert_allclose(tree.sample_stats[lp], rows.sum(-1) + prior, rtol=1e-6)
    assert set(tree.posterior.data_vars) == {"share"}
    assert tree.attrs["summed_out"] == "z"
    # New observations have new z: a share of them is near 3.
    new = (tree.posterior_predictive["y"] > 1).mean(("chain", "draw", "row"))
    size = tree.posterior_predictive["y"].size
    assert abs(float(new) - share.mean()) < 4 * 0.5 / size**0.5 + 0.01


def test_nuts_with_an_enumerated_site():
    mcmc = MCMC(NUTS(mixture), num_samples=200, warmup_steps=100, disable_progbar=True)
    mcmc.run(COUNTS)
    assert_summed(pc.from_pyro_mcmc(mcmc), "lp")


def test_a_guide_without_the_enumerated_site():
    def guide(y):
        pyro.sample("share", dist.Beta(y.new_tensor(4.0), 5.0))

    for seed in (0, 1):
        tree = pc.from_pyro_svi(mixture, guide, COUNTS, seed=seed)
        assert_summed(tree, "log_p")
        log_q = stats.beta.logpdf(tree.posterior["share"], 4, 5)
        np.testing.assert_allclose(tree.sample_stats.log_q, log_q, rtol=1e-6)
        bound = float((tree.sample_stats.log_p - tree.sample_stats.log_q).mean())
        assert abs(tree.attrs["elbo"] - bound) < 5 * tree.attrs["elbo_se"] < 0.2


def test_a_guide_without_a_latent_that_cannot_be_summed_out_is_refused():
    def model(y):
        share = pyro.sample("share", dist.Beta(y.new_tensor(2.0), 2.0))
        rate = pyro.sample("rate", dist.Gamma(y.new_tensor(2.0), 2.0))
        pyro.sample("y", dist.Normal(share + rate, 1.0).expand(y.shape).to_event(1), obs=y)

    with pytest.raises(ValueError, match="site 'rate': it has no value, and a Gamma cannot"):
        pc.from_pyro_svi(model, lambda y: pyro.sample("share", dist.Beta(2.0, 2.0)), COUNTS)


def test_rows_that_share_a_summed_latent_have_one_density():
    def model(y):
        share = pyro.sample("share", dist.Beta(y.new_tensor(2.0), 2.0))
        z = pyro.sample("z", dist.Bernoulli(share))
        with pyro.plate("row", len(y), dim=-1):
            pyro.sample("y", dist.Normal(4 * z - 1, 0.7), obs=y)

    tree = pc.from_pyro_svi(model, lambda y: pyro.sample("share", dist.Beta(2.0, 2.0)), COUNTS)
    assert tree.log_likelihood["y"].dims == ("chain", "draw")
    share = tree.posterior["share"].to_numpy()
    low, high = (stats.norm.logpdf(COUNTS.numpy(), loc, 0.7).sum() for loc in (-1.0, 3.0))
    exact = np.logaddexp(np.log1p(-share) + low, np.log(share) + high)
    np.testing.assert_allclose(tree.log_likelihood["y"], exact, rtol=1e-5)


# --- names ----------------------------------------------------------------------------------------


def test_what_is_observed_is_told_by_identity():
    """Equal numbers are not the same argument; the same argument is, whatever else it equals."""

    def model(exposure, y, levels):
        rate = pyro.sample("rate", dist.Gamma(2.0, 2.0))
        with pyro.plate("row", len(y), dim=-1):
            pyro.sample("y", dist.Poisson(rate * exposure), obs=y)

    guide = lambda *data: pyro.sample("rate", dist.Gamma(3.0, 3.0))  # noqa: E731
    ones = torch.ones(20)
    for y in (ones.clone(), ones, ones.long()):  # equal, the very same, and converted
        tree = pc.to_datatree(pc.as_fit(model, guide, ones, y, ones[:5]), num_draws=10)
        assert set(tree.constant_data.data_vars) == {"exposure", "levels"}
    assert tree.constant_data["exposure"].dims == ("row",)
    assert tree.constant_data["levels"].dims == ("levels_dim_0",)


@pytest.mark.parametrize(("num_groups", "dims"), [(3, ("row",)), (4, ("x_dim_0",))])
def test_a_size_that_two_dimensions_have_names_none(num_groups, dims):
    def model(x, y):
        with pyro.plate("group", num_groups, dim=-1):
            pyro.sample("effect", dist.Normal(y.new_zeros(()), 1.0))
        with pyro.plate("row", len(y), dim=-1):
            pyro.sample("y", dist.Normal(x, 1.0), obs=y)

    def guide(x, y):
        with pyro.plate("group", num_groups, dim=-1):
            pyro.sample("effect", dist.Normal(y.new_zeros(()), 1.0))

    tree = pc.to_datatree(pc.as_fit(model, guide, torch.zeros(4), torch.ones(4)), num_draws=10)
    assert tree.constant_data["x"].dims == dims
    named = pc.to_datatree(
        pc.as_fit(model, guide, torch.zeros(4), torch.ones(4)), num_draws=10, dims={"x": ["row"]}
    )
    assert named.constant_data["x"].dims == ("row",)
