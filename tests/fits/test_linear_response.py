"""Linear response: covariances from a mean-field fit that has none."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.programs import array
from scipy import stats

import pyro_cookbook as pc
from pyro_cookbook.engines.base_draws import base_draws
from pyro_cookbook.engines.climbing import Centre
from pyro_cookbook.engines.gaussians import MeanField
from pyro_cookbook.programs.coordinates import Coordinates
from pyro_cookbook.programs.density.unconstrained import unconstrained_density
from pyro_cookbook.programs.program import Program

ORIGIN = torch.zeros((), dtype=torch.float64)
SDS = np.array([1e-2, 1.0, 1e3])
CORRELATION = np.array([[1, 0.9, -0.5], [0.9, 1, -0.3], [-0.5, -0.3, 1]])
COVARIANCE = CORRELATION * np.outer(SDS, SDS)


def correlated(_):
    root = torch.linalg.cholesky(torch.tensor(COVARIANCE))
    pyro.sample("h", dist.MultivariateNormal(torch.tensor(SDS), scale_tril=root))


def test_the_covariance_of_a_gaussian_is_exact():
    fit = pc.fit(correlated, "mean_field", ORIGIN)
    before = array(fit.guide.scales.h) / SDS
    np.testing.assert_allclose(before, np.diag(np.linalg.inv(CORRELATION)) ** -0.5, rtol=5e-3)
    assert (before < 0.9).all()  # the sds that are mended
    after = pc.linear_response(fit)
    posterior = after.guide.get_posterior()
    found = array(posterior.covariance_matrix) / np.outer(SDS, SDS)
    np.testing.assert_allclose(found, CORRELATION, atol=1e-6)
    np.testing.assert_allclose(array(posterior.loc), array(fit.guide.locs.h), rtol=1e-12)
    assert after.family == "mean_field+linear_response"
    assert (after.engine, after.modes, after.converged) == (fit.engine, fit.modes, fit.converged)
    assert after.elbo.value > fit.elbo.value + 0.5
    assert after.elbo.value == pytest.approx(0, abs=1e-4)  # no data: the evidence is 1


# --- a posterior that is not Gaussian ----------------------------------------------------------

X = torch.linspace(0.0, 3.0, 12, dtype=torch.float64)  # not centred: the two are correlated
SEEN = torch.tensor([0.0, 0, 1, 0, 0, 1, 0, 1, 1, 0, 1, 1], dtype=torch.float64)


def logistic(x, y):
    intercept = pyro.sample("intercept", dist.Normal(ORIGIN, 2.0))
    slope = pyro.sample("slope", dist.Normal(ORIGIN, 2.0))
    with pyro.plate("row", len(x), dim=-1):
        pyro.sample("y", dist.Bernoulli(logits=intercept + slope * x), obs=y)


def quadrature():
    """Mean and covariance of the posterior on a grid."""
    grid = np.stack(np.meshgrid(*2 * [np.linspace(-9, 9, 601)], indexing="ij"), -1).reshape(-1, 2)
    logits = grid @ np.stack([np.ones(12), array(X)])
    log_p = stats.norm(0, 2).logpdf(grid).sum(1)
    log_p += (array(SEEN) * logits - np.logaddexp(0, logits)).sum(1)
    weight = np.exp(log_p - log_p.max())
    return np.average(grid, axis=0, weights=weight), np.cov(grid.T, aweights=weight, ddof=0)


def test_sds_of_a_logistic_regression_are_nearer_to_those_by_quadrature():
    fit = pc.fit(logistic, "mean_field", X, SEEN)
    _, exact = quadrature()
    sd = np.sqrt(np.diag(exact))
    before = array(torch.stack([fit.guide.scales.intercept, fit.guide.scales.slope]))
    posterior = pc.linear_response(fit).guide.get_posterior()
    after = array(posterior.covariance_matrix)
    assert (before / sd < 0.75).all()
    np.testing.assert_allclose(np.sqrt(np.diag(after)) / sd, 1, atol=0.08)
    correlation = exact[0, 1] / sd.prod()
    assert correlation < -0.7
    assert after[0, 1] / np.sqrt(after[0, 0] * after[1, 1]) == pytest.approx(correlation, abs=0.05)


def test_the_response_is_the_location_block_of_the_inverse_hessian_of_the_bound():
    """By finite differences of the bound's own gradient, on the same 256 base draws."""
    fit = pc.fit(logistic, "mean_field", X, SEEN)
    density = unconstrained_density(Program(logistic, (X, SEEN)))
    family = MeanField(
        Centre(Coordinates(np.zeros(2), np.ones(2)), 0.0, 0.0, True, np.ones(2), 0), False
    )
    eps, h = base_draws(256, 2, seed=5), 1e-5
    locs, scales = fit.guide.locs, fit.guide.scales
    at = array(
        torch.stack([locs.intercept, locs.slope, scales.intercept.log(), scales.slope.log()])
    )

    def slope(x):
        z = family.unpack(x).draw(eps)
        return family.bound(x, eps, *density.value_and_grad(z))[1]

    hessian = -np.array([(slope(at + s) - slope(at - s)) / (2 * h) for s in h * np.eye(4)])
    found = pc.linear_response(fit, seed=5).guide.get_posterior().covariance_matrix
    expected = np.linalg.inv(hessian)[:2, :2]
    np.testing.assert_allclose(array(found), expected, rtol=1e-6)
    naive = np.linalg.inv(hessian[:2, :2])  # scales held: another answer
    assert np.abs(naive / expected - 1).max() > 0.01


# --- what has none -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guide", "engine", "message"),
    [
        ("full_rank", None, "got family 'full_rank' by the deterministic engine, expected"),
        ("mean_field", "stochastic", "got family 'mean_field' by the stochastic engine"),
    ],
)
def test_other_fits_are_refused(guide, engine, message):
    fit = pc.fit(correlated, guide, ORIGIN, engine=engine, max_steps=60)
    with pytest.raises(ValueError, match=message):
        pc.linear_response(fit)


def test_a_fit_that_is_at_no_maximum_is_refused():
    def heavy(_):
        pyro.sample("h", dist.StudentT(1.0, ORIGIN, 1.0))

    fit = pc.fit(heavy, "mean_field", ORIGIN)
    fit.guide.locs.h = torch.nn.Parameter(ORIGIN + 5.0)  # where the log density is convex
    fit.guide.scales.h = ORIGIN + 0.1
    with pytest.raises(ValueError, match=r"not positive definite .* at no maximum") as caught:
        pc.linear_response(fit)
    assert "\n" not in str(caught.value)


def test_too_many_latents_are_refused():
    def wide(_):
        pyro.sample("h", dist.Normal(torch.zeros(501).to(ORIGIN), 1.0).to_event(1))

    with pytest.raises(ValueError, match="got 501 latent scalars, expected at most 500"):
        pc.linear_response(pc.fit(wide, "mean_field", ORIGIN))
