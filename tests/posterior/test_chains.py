"""Short chains: they leave a right guide alone, and measure how far a wrong one is off."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_cookbook.posterior.chains.short import Chains, num_chains, run_chains, summarise, varies
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
from pyro_cookbook.programs.program import Program

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
    found = summarise(density.constrain(chains.positions), chains.draws.shape[1])["h"]
    return np.abs(found.mean - mean) / found.mean_se, np.abs(found.sd - sd) / found.sd_se


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
    chains = run_chains(UnconstrainedDensity(Program(two_islands, ())), starts, seed=0)
    assert np.abs(chains.memory).max() > 0.9
    assert not chains.conclusive


def test_values_are_the_log_densities_where_the_chains_are(gaussian):
    chains = run_chains(gaussian, exact_draws(600), seed=0)
    there = gaussian.value(chains.positions).reshape(chains.values.shape)
    np.testing.assert_allclose(chains.values, there, rtol=1e-10)


def test_same_seed_same_chains(gaussian):
    starts = exact_draws(600)
    one, two, other = (run_chains(gaussian, starts, seed=s).draws for s in (3, 3, 4))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_a_model_that_is_too_large_has_no_chains(gaussian):
    assert num_chains(gaussian) == 1024
    gaussian.scalars = 10_000_000
    assert num_chains(gaussian) == 0


@pytest.mark.parametrize(
    ("numbers", "conclusive"),
    [
        ({"acceptance": 0.51}, True),
        ({"acceptance": 0.49}, False),
        ({"diverged": 0.019}, True),
        ({"diverged": 0.021}, False),
        ({"memory": np.array([0.1, 0.59])}, True),
        ({"memory": np.array([0.1, 0.61])}, False),
        ({"memory": np.array([-0.61, 0.1])}, False),
    ],
)
def test_chains_that_have_not_moved_well_are_not_conclusive(numbers, conclusive):
    good = {
        "draws": np.zeros((2, 3, 2)),
        "values": np.zeros((2, 3)),
        "memory": np.zeros(2),
        "acceptance": 0.8,
        "diverged": 0.0,
    }
    assert Chains(**good | numbers).conclusive == conclusive


def test_positions_are_the_draws_of_all_chains_draw_by_draw():
    draws = np.arange(24.0).reshape(4, 3, 2)  # 4 draws of 3 chains of 2 scalars
    positions = Chains(draws, np.zeros((4, 3)), np.zeros(2), 1.0, 0.0).positions
    np.testing.assert_array_equal(positions, np.arange(24.0).reshape(12, 2))


def test_trajectories_that_leave_the_posterior_are_counted():
    """A wall inside a normal: who ends behind it has lost all density."""

    def walled():
        x = pyro.sample("x", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
        pyro.factor("wall", torch.where(x.sum() > 1.0, -torch.inf, 0.0))

    starts = np.random.default_rng(0).standard_normal((4000, 1))
    chains = run_chains(
        UnconstrainedDensity(Program(walled, ())), starts[starts[:, 0] < 1.0], seed=0
    )
    assert chains.diverged > 0.05  # P(x > 1) = 0.16 of the ends of long trajectories
    assert not chains.conclusive
    assert chains.draws.max() <= 1.0


def test_chains_of_a_normal_posterior_never_diverge(gaussian):
    assert run_chains(gaussian, exact_draws(600), seed=0).diverged == 0


def one_site(values):
    """Draws of shape (num_draws, chains), as the chains give them: draw by draw."""
    values = np.asarray(values, dtype=float)
    return summarise({"h": torch.as_tensor(values.reshape(-1))}, values.shape[1])["h"]


def test_a_summary_is_of_the_later_half():
    # Two chains of four draws: 0 and 8 at first; later 2, 4 and 4, 6.
    found = one_site([[0, 8], [0, 8], [2, 4], [4, 6]])
    assert found.mean == 4
    assert found.sd == np.sqrt((4 + 0 + 0 + 4) / 4)
    assert found.mean_drift == 0
    assert found.sd_drift == 4 - found.sd


def test_a_drift_is_the_change_from_the_earlier_half():
    found = one_site([[0, 0], [0, 0], [1, 5], [1, 5]])
    assert found.mean_drift == 3
    assert found.sd_drift == 2


def test_standard_errors_are_those_of_chains_that_are_independent():
    """Chains whose draws are all the same: a mean has the error of as many draws as chains."""
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((500, 1, 400))  # 500 replications of 400 chains
    found = [one_site(np.repeat(one, 6, axis=0)) for one in spread]
    means, sds = ([getattr(one, name)[0] for one in found] for name in ("mean", "sd"))
    # Of 500 replications a standard deviation has a relative standard error of 3%.
    assert np.mean([one.mean_se for one in found]) == pytest.approx(np.std(means), rel=0.13)
    assert np.mean([one.sd_se for one in found]) == pytest.approx(np.std(sds), rel=0.13)


def test_persistence_is_the_share_of_the_variance_between_chains():
    assert one_site(np.tile([[1.0, 3.0, 5.0]], (6, 1))).persistence == 1  # they never move
    assert one_site([[0, 2], [2, 0], [0, 2], [2, 0]]).persistence == 0
    # Means 1 and 3, and 2 within each: variances 1 and 4.
    found = one_site([[9, 9], [9, 9], [-1, 1], [3, 5]])
    assert found.persistence == pytest.approx(1 / 5)


def test_a_value_that_never_varies_persists_in_nothing():
    rounded = np.where(np.arange(12).reshape(6, 2) % 2, 0.1, 0.1 + 2e-17)
    assert one_site(rounded).persistence == 0
    assert one_site(np.zeros((6, 2))).persistence == 0


def test_sites_of_any_shape_are_summarised_scalar_by_scalar():
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((6, 4, 3, 2)) + np.arange(6).reshape(3, 2)
    found = summarise({"W": torch.as_tensor(draws.reshape(24, 3, 2))}, 4)["W"]
    np.testing.assert_allclose(found.mean, draws[3:].mean((0, 1)).reshape(-1))
    np.testing.assert_allclose(found.sd, draws[3:].std((0, 1)).reshape(-1))


@pytest.mark.parametrize(
    ("mean", "sd", "expected"),
    [
        (1.0, 1e-13, False),
        (1.0, 1e-9, True),
        (-1e6, 1e-7, False),
        (-1e6, 1e-3, True),
        (0.0, 0.0, False),
        (0.0, 1e-300, True),
        (np.nan, np.nan, True),
    ],
)
def test_rounding_is_no_variation(mean, sd, expected):
    assert varies(np.array([mean]), np.array([sd])).tolist() == [expected]


def test_chains_in_more_dimensions_than_draws_can_correlate_are_scaled_by_their_sds():
    scales = torch.logspace(-4, 4, 50, dtype=torch.float64)

    def wide():
        pyro.sample("h", dist.Normal(torch.zeros(50).double(), scales).to_event(1))

    starts = np.random.default_rng(0).standard_normal((120, 50)) * scales.numpy()  # D > 120 / 4
    chains = run_chains(UnconstrainedDensity(Program(wide, ())), starts, seed=0)
    assert chains.acceptance > 0.6
    assert np.abs(chains.memory).max() < 0.5  # five standard errors of 120 chains
    sd = chains.draws[10:].std((0, 1)) / scales.numpy()
    # 120 chains of 30 draws, of which a few each are independent.
    assert np.abs(sd - 1).max() < 0.15


def test_a_model_that_vmap_cannot_follow_has_few_chains(gaussian):
    gaussian.obstacle = "a branch on a value"
    assert num_chains(gaussian) == 32


def test_the_number_of_chains_falls_with_the_cost_of_a_run(gaussian):
    gaussian.scalars = 10_000
    assert num_chains(gaussian) == 76  # 2e8 / (52 · 5) / 10,000
    gaussian.scalars = 30_000
    assert num_chains(gaussian) == 0


@pytest.mark.parametrize(
    ("scalars", "number"),
    # As many as else, but 64 where those are fewer, down to 32: 2e9 / (52 · 5) / scalars.
    [(10_000, 76), (13_000, 64), (100_000, 64), (200_000, 38), (250_000, 0)],
)
def test_a_large_model_that_would_cost_more_without_chains_has_some(gaussian, scalars, number):
    gaussian.scalars = scalars
    assert num_chains(gaussian, large=True) == number


def test_memory_is_the_correlation_of_where_chains_began_and_ended():
    def model():
        pyro.sample("h", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))

    starts = np.random.default_rng(0).standard_normal((64, 2))
    chains = run_chains(UnconstrainedDensity(Program(model)), starts, seed=0)
    number = chains.draws.shape[1]
    for d in range(2):
        expected = np.corrcoef(starts[:number, d], chains.draws[-1][:, d])[0, 1]
        np.testing.assert_allclose(chains.memory[d], expected, atol=1e-12)
