"""Gaussian families and their base draws: bound, gradient and guide."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from build import some_centre
from pyro import poutine
from pyro.infer import Trace_ELBO
from scipy import stats

from pyro_cookbook.engines import families
from pyro_cookbook.engines.base_draws import base_draws
from pyro_cookbook.engines.bound import GAUSSIAN, make
from pyro_cookbook.engines.gaussians import FullRank
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
from pyro_cookbook.programs.program import Program

ORIGIN = torch.zeros((), dtype=torch.float64)
Y = torch.linspace(-1, 2, 7, dtype=torch.float64)


def skewed(y):
    """Positive, simplex and real latents: six unconstrained scalars, far from Gaussian."""
    scale = pyro.sample("a.scale", dist.Gamma(2.0 + ORIGIN, 1.5))
    weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0]).to(y)))
    slopes = pyro.sample("slopes", dist.Normal(torch.zeros(3).to(y), 1.0).to_event(1))
    loc = (slopes * weights).sum(-1)[..., None] + slopes[..., :1] * y
    pyro.sample("y", dist.Normal(loc, scale[..., None]).to_event(1), obs=y)


# --- base draws --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_draws", "dim", "whole"), [(64, 16, True), (64, 17, False), (16, 21_300, False)]
)
def test_base_draws_have_the_moments_of_a_standard_normal(num_draws, dim, whole):
    eps = base_draws(num_draws, dim, seed=3)
    assert eps.shape == (num_draws, dim)
    np.testing.assert_allclose(eps.mean(0), 0, atol=1e-14)
    np.testing.assert_allclose((eps**2).mean(0), 1, rtol=1e-12)
    off = np.abs(eps[:, :17].T @ eps[:, :17] / num_draws - np.eye(min(17, dim))).max()
    assert (off < 1e-12) == whole
    assert not np.isin(base_draws(num_draws, dim, seed=4), eps).any()
    np.testing.assert_array_equal(base_draws(num_draws, dim, seed=3), eps)


def test_base_draws_are_normal():
    """Not only their moments: Kolmogorov and Smirnov's distance of a sample is 1.6 / √S at most."""
    eps = base_draws(4096, 3, seed=0)
    for column in eps.T:
        assert stats.kstest(column, "norm").statistic < 1.6 / 4096**0.5


# --- the bound ---------------------------------------------------------------------------------


def forced(guide, density, z):
    """The guide with its draw put at unconstrained values."""
    trace = poutine.trace(guide).get_trace(Y)
    for name, node in list(trace.nodes.items()):
        if name.endswith("_latent"):
            node["value"] = z
        elif name.endswith("_unconstrained"):
            node["value"] = density.unpack(z)[name.removesuffix("_unconstrained")]
        else:
            trace.remove_node(name)
    return poutine.replay(guide, trace=trace)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("name", GAUSSIAN)
def test_the_bound_is_that_of_pyro_on_the_same_draws(name, dense):
    density, rng = UnconstrainedDensity(Program(skewed, (Y,))), np.random.default_rng(0)
    family = make(name, some_centre(density.dim, 1, dense=dense))
    parameters = family.start + 0.3 * rng.standard_normal(len(family.start))
    gaussian, eps = family.unpack(parameters), rng.standard_normal((8, family.num_base))
    z = gaussian.draw(eps)
    bound, _ = family.bound(parameters, eps, *density.value_and_grad(z))
    pyro.set_rng_seed(0)
    guide = families.from_gaussian(name, Program(skewed, (Y,)), density, gaussian)
    with torch.no_grad():
        pyros = [
            -Trace_ELBO().loss(skewed, forced(guide, density, one), Y) for one in torch.tensor(z)
        ]
    assert np.std(pyros) > 1
    assert bound == pytest.approx(np.mean(pyros), rel=1e-10)


@pytest.mark.parametrize("name", GAUSSIAN)
def test_the_guide_draws_from_the_gaussian(name):
    density, rng = UnconstrainedDensity(Program(skewed, (Y,))), np.random.default_rng(0)
    family = make(name, some_centre(density.dim, 1, dense=True))
    gaussian = family.unpack(family.start + 0.3 * rng.standard_normal(len(family.start)))
    eps = rng.standard_normal((40_000, gaussian.num_base))
    drawn = gaussian.draw(eps)
    covariance, sd = gaussian.covariance(), gaussian.scale
    np.testing.assert_allclose(sd, np.sqrt(np.diag(covariance)), rtol=1e-12)
    # Standard errors of a mean and of a covariance of S draws: sd / √S and at most sd² √(2/S).
    np.testing.assert_allclose((drawn.mean(0) - gaussian.loc) / sd, 0, atol=4.5 / 200)
    error = (np.cov(drawn.T) - covariance) / np.outer(sd, sd)
    np.testing.assert_allclose(error, 0, atol=4.5 * 2**0.5 / 200)
    guide = families.from_gaussian(name, Program(skewed, (Y,)), density, gaussian)
    if name != "mean_field":
        posterior = guide.get_posterior()
        np.testing.assert_allclose(posterior.loc.detach(), gaussian.loc, rtol=1e-12)
        np.testing.assert_allclose(
            posterior.covariance_matrix.detach(), covariance, rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("name", GAUSSIAN)
def test_the_gradient_of_the_bound_is_that_of_finite_differences(name, dense):
    density, rng, h = UnconstrainedDensity(Program(skewed, (Y,))), np.random.default_rng(0), 1e-5
    family = make(name, some_centre(density.dim, 1, dense=dense))
    parameters = family.start + 0.3 * rng.standard_normal(len(family.start))
    eps = rng.standard_normal((8, family.num_base))

    def bound(x):
        return family.bound(x, eps, *density.value_and_grad(family.unpack(x).draw(eps)))

    steps = h * np.eye(len(parameters))
    slope = [(bound(parameters + s)[0] - bound(parameters - s)[0]) / (2 * h) for s in steps]
    np.testing.assert_allclose(bound(parameters)[1], slope, rtol=1e-6, atol=1e-6)


def test_a_recentred_covariance_is_the_same_member():
    family, rng = FullRank(some_centre(4, 0, dense=True)), np.random.default_rng(0)
    parameters = 0.5 * rng.standard_normal(len(family.start))
    before = family.unpack(parameters)
    after = family.recentred(parameters).unpack(np.zeros_like(parameters))
    np.testing.assert_allclose(after.loc, before.loc, rtol=1e-12)
    np.testing.assert_allclose(after.covariance(), before.covariance(), rtol=1e-9)
