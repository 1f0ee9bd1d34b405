"""Short chains: they leave a right guide alone, and measure how far a wrong one is off."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_cookbook.posterior.chains import moments, num_chains, run_chains
from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.unconstrained import UnconstrainedDensity

CORRELATION = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.3], [0.0, 0.3, 1.0]]).double()
SCALES = np.array([1e-3, 1.0, 1e4])


@pytest.fixture
def gaussian():
    unit = torch.as_tensor(SCALES)

    def model():
        loc = torch.zeros(3, dtype=torch.float64)
        pyro.sample("h", dist.MultivariateNormal(loc, CORRELATION * unit * unit[:, None]))

    return UnconstrainedDensity(Program(model))


@pytest.fixture
def log_gamma():
    def model():
        shape = torch.full((4,), 2.0, dtype=torch.float64)
        pyro.sample("h", dist.Gamma(shape, shape).to_event(1))

    return UnconstrainedDensity(Program(model))


def exact_draws(size, seed=0):
    noise = np.random.default_rng(seed).standard_normal((size, 3))
    return noise @ np.linalg.cholesky(CORRELATION.numpy()).T * SCALES


def errors(density, chains, mean, sd):
    """Errors of the pooled chain draws in their own standard errors."""
    found = moments(density.constrain(chains.draws.reshape(-1, density.dim)), chains.draws.shape[1])
    m, s, se_m, se_s, *_ = found["h"]
    return np.abs(m - mean) / se_m, np.abs(s - sd) / se_s


def test_chains_that_start_in_the_posterior_stay_there(gaussian):
    chains = run_chains(gaussian, exact_draws(4000), seed=0)
    assert chains.conclusive
    assert chains.acceptance > 0.6
    assert np.abs(chains.memory).max() < 0.2  # three standard errors at 512 chains
    for off in errors(gaussian, chains, 0.0, SCALES):
        assert off.max() < 4


@pytest.mark.parametrize(("shift", "factor"), [(1.0, 1.0), (0.0, 0.5), (-0.5, 2.0)])
def test_chains_find_the_way_from_a_wrong_guide(gaussian, shift, factor):
    starts = factor * exact_draws(4000) + shift * SCALES
    chains = run_chains(gaussian, starts, seed=1)
    settled = chains.draws[15:]  # what they forget, they forget within some steps
    mean, sd = settled.mean((0, 1)) / SCALES, settled.std((0, 1)) / SCALES
    assert np.abs(starts.mean(0) / SCALES).max() > 0.4 or abs(factor - 1) > 0.4
    assert np.abs(mean).max() < 0.1
    assert np.abs(sd - 1).max() < 0.1


def test_a_skewed_posterior_keeps_its_moments(log_gamma):
    rng = np.random.default_rng(0)
    starts = np.log(rng.gamma(2.0, 0.5, (4000, 4)))
    chains = run_chains(log_gamma, starts, seed=0)
    for off in errors(log_gamma, chains, 1.0, 0.5**0.5):
        assert off.max() < 4
    # Without the Jacobian of the logarithm the mean would be ½.
    assert 0.5 < 1.0 - 10 * 0.03


def test_memory_shows_chains_that_cannot_move():
    def two_islands():
        x = pyro.sample("x", dist.Normal(torch.zeros(1).double(), 20.0).to_event(1))
        apart = torch.stack([-((x - 15) ** 2).sum() / 2, -((x + 15) ** 2).sum() / 2])
        pyro.factor("islands", apart.logsumexp(0))

    rng = np.random.default_rng(0)
    starts = np.where(rng.random((2000, 1)) < 0.5, 15.0, -15.0) + rng.standard_normal((2000, 1))
    chains = run_chains(UnconstrainedDensity(Program(two_islands)), starts, seed=0)
    assert np.abs(chains.memory).max() > 0.9
    assert not chains.conclusive


def test_same_seed_same_chains(gaussian):
    starts = exact_draws(600)
    one, two, other = (run_chains(gaussian, starts, seed=s).draws for s in (3, 3, 4))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_a_model_that_is_too_large_has_no_chains(gaussian):
    assert num_chains(gaussian) == 1024
    gaussian.scalars = 10_000_000
    assert num_chains(gaussian) == 0
