"""Non-centring: which sites call for it, and what a fit makes of it."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.programs import array, log_prob
from pyro import poutine
from torch import Tensor

import pyro_cookbook as pc
from pyro_cookbook.programs.noncentring import candidates, noncentre
from pyro_cookbook.programs.program import Program

ORIGIN = torch.zeros((), dtype=torch.float64)
# Rubin (1981): effects of coaching in eight schools and their standard errors.
EFFECTS = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12], dtype=torch.float64)
ERRORS = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18], dtype=torch.float64)


def many_sites(y: Tensor) -> None:
    """Every way to depend on another latent, and not to."""
    mu = pyro.sample("mu", dist.Normal(ORIGIN, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0 + ORIGIN))
    pyro.sample("own", dist.Normal(ORIGIN, 1.0).expand([3]).to_event(1))
    pyro.sample("gamma", dist.Gamma(2.0 + ORIGIN, tau))
    pyro.sample("half", dist.HalfNormal(tau))
    pyro.sample("log_normal", dist.LogNormal(mu, tau))
    pyro.sample("joint", dist.MultivariateNormal(mu * torch.ones(2).to(y), torch.eye(2).to(y)))
    pyro.sample("df", dist.StudentT(1 + tau, ORIGIN, 1.0))
    pyro.sample("masked", dist.Normal(mu, 1.0).mask(False))
    pyro.sample("loc", dist.Laplace(mu, 1.0))
    pyro.sample("scale", dist.StudentT(4.0, ORIGIN, tau).expand([3]).to_event(1))
    with pyro.plate("group", 4, dim=-1):
        both = pyro.sample("both", dist.Normal(mu, tau))
        pyro.sample("row", dist.Normal(both[..., None], 1.0).expand([4, 2]).to_event(1))
    pyro.sample("y", dist.Normal(mu, tau), obs=y)


def test_candidates_are_the_latents_whose_location_or_scale_is_latent():
    assert candidates(Program(many_sites, (ORIGIN,))) == ("loc", "scale", "both", "row")


def test_there_are_none_where_a_latent_has_no_coordinates():
    def discrete(y):
        h = pyro.sample("h", dist.Bernoulli(0.5 + ORIGIN))
        pyro.sample("a", dist.Normal(h, 1.0))

    def mixture(y):
        modes = dist.Normal(torch.tensor([-1.0, 1.0]), 1.0)
        h = pyro.sample("h", dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), modes))
        pyro.sample("a", dist.Normal(h, 1.0))

    assert candidates(Program(discrete, (ORIGIN,))) == candidates(Program(mixture, (ORIGIN,))) == ()


@pytest.mark.parametrize(("steep", "found"), [(12, ("h",)), (30, ())], ids=["single", "double"])
def test_latents_may_be_moved_to_where_a_matrix_is_singular(steep, found):
    """In single precision only, or in double too: then nothing is known of the sites."""

    def model(y):
        mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 0.01))
        pyro.sample("h", dist.Normal(mu, 1.0))
        apart = 10 ** (-3 - steep * mu) * torch.eye(2).to(y)
        pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(y), 1 + apart), obs=y)

    assert candidates(Program(model, (torch.zeros(2),))) == found


def test_the_model_is_the_same_in_other_coordinates():
    """p(mu, tau, both) = p(mu, tau, both_decentered) / tau for each of four."""
    sites = candidates(Program(many_sites, (ORIGIN,)))
    other, chosen = noncentre(Program(many_sites, (ORIGIN,)), True)
    assert chosen == sites
    nodes = poutine.trace(other).get_trace().nodes
    values = {n: node["value"] for n, node in nodes.items() if node["type"] == "sample"}
    mu, tau = values["mu"], values["tau"]
    np.testing.assert_allclose(values["both"], mu + tau * values["both_decentered"], rtol=1e-12)
    np.testing.assert_allclose(values["scale"], tau * values["scale_decentered"], rtol=1e-12)
    latent = {n for n, node in nodes.items() if node["type"] == "sample"} - {"group", "y"}
    centred = {n: values[n] for n in latent if not n.endswith("_decentered")}
    given = {n: values[n] for n in latent if n not in sites}
    volume = (3 + 4) * float(tau.log())  # of scale and both
    assert abs(volume) > 0.1
    assert log_prob(many_sites, centred, ORIGIN) == pytest.approx(
        log_prob(other.function, given, ORIGIN) - volume, rel=1e-10
    )


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (["mu"], "noncentred: site 'mu' has no location or scale .*; those that have: 'theta'"),
        (["theta", "nobody"], "noncentred: site 'nobody' has no location"),
    ],
)
def test_a_site_that_cannot_be_is_named(sites, message):
    with pytest.raises(ValueError, match=message) as caught:
        pc.fit(eight_schools, "full_rank", EFFECTS, ERRORS, noncentred=sites)
    assert "\n" not in str(caught.value)


def test_a_model_without_such_a_site_is_refused():
    def flat(y):
        pyro.sample("a", dist.Normal(ORIGIN, 1.0))

    with pytest.raises(ValueError, match="noncentred: no latent site of the model"):
        pc.fit(flat, "full_rank", ORIGIN, noncentred=True)


# --- in a fit ----------------------------------------------------------------------------------


def eight_schools(y: Tensor, sigma: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(y.new_tensor(5.0)))
    with pyro.plate("school", len(y), dim=-1):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


@pytest.fixture(scope="module")
def fits():
    return [
        pc.fit(eight_schools, "mean_field", EFFECTS, ERRORS, noncentred=choice)
        for choice in (False, True, ["theta"])
    ]


def test_a_fit_of_eight_schools_is_better_non_centred(fits):
    centred, tried, named = fits
    assert centred.noncentred == ()
    assert tried.noncentred == named.noncentred == ("theta",)
    assert tried.converged
    assert tried.elbo.value > centred.elbo.value + 4 * np.hypot(tried.elbo.se, centred.elbo.se)
    assert tried.elbo == named.elbo


def test_what_is_better_centred_stays_centred():
    """A hundred rows a school leave nothing of the prior's dependence."""

    def rows(y):
        mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(y.new_tensor(5.0)))
        with pyro.plate("school", len(y), dim=-1):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, 0.1), obs=y)

    fit, other = (
        pc.fit(rows, "mean_field", EFFECTS, noncentred=choice, num_restarts=2)
        for choice in (True, ["theta"])
    )
    assert (fit.noncentred, other.noncentred) == ((), ("theta",))
    assert fit.elbo.value > other.elbo.value + 1


def test_the_tree_has_the_site_as_the_model_has_it(fits):
    posterior = pc.to_datatree(fits[1], num_draws=50).posterior
    assert posterior.theta.dims == ("chain", "draw", "school")
    expected = posterior.mu + posterior.tau * posterior.theta_decentered
    np.testing.assert_allclose(posterior.theta, expected, rtol=1e-12)


def test_a_non_centred_fit_comes_back(fits, tmp_path):
    pc.save(fits[1], tmp_path / "fit.safetensors")
    again = pc.load(tmp_path / "fit.safetensors", model=eight_schools)
    assert again.noncentred == ("theta",)
    one, two = (pc.to_datatree(fit, num_draws=20).posterior for fit in (fits[1], again))
    assert set(one.data_vars) == set(two.data_vars) == {"mu", "tau", "theta", "theta_decentered"}
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name], two[name])
    assert np.isfinite(array(pc.diagnose(again).elbo.value))
