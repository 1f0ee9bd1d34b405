"""The deterministic engine: its optimum is the family's best member, and it knows when not."""

from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from build import some_centre
from oracles.programs import array, gaussian_kl, mean_field_variances
from pyro.distributions import constraints

import pyro_cookbook as pc
from pyro_cookbook.engines import bound as deterministic
from pyro_cookbook.engines.bound import GAUSSIAN, make, maximise
from pyro_cookbook.engines.climbing import Centre, Guard, look
from pyro_cookbook.programs.coordinates import Coordinates
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
from pyro_cookbook.programs.program import Program

ORIGIN = torch.zeros((), dtype=torch.float64)
Y = torch.linspace(-1, 2, 7, dtype=torch.float64)


def normal(loc, covariance):
    """A model whose posterior is that Gaussian."""
    loc, root = torch.as_tensor(loc), torch.linalg.cholesky(torch.as_tensor(covariance))

    def model(_=None):
        pyro.sample("h", dist.MultivariateNormal(loc, scale_tril=root))

    return model


# --- Gaussian posteriors -----------------------------------------------------------------------

SDS = np.array([1e-3, 0.1, 1.0, 1e2, 1e5])
LOC = np.array([1.0, -3.0, 0.2, 40.0, -2e5])
COVARIANCE = 0.8 ** np.abs(np.subtract.outer(range(5), range(5))) * np.outer(SDS, SDS)


def test_full_rank_finds_a_badly_scaled_gaussian_exactly():
    fit = pc.fit(normal(LOC, COVARIANCE), "full_rank", ORIGIN)
    posterior = fit.guide.get_posterior()
    assert fit.converged
    np.testing.assert_allclose((array(posterior.loc) - LOC) / SDS, 0, atol=1e-6)
    scaled = array(posterior.covariance_matrix) / np.outer(SDS, SDS)
    np.testing.assert_allclose(scaled, COVARIANCE / np.outer(SDS, SDS), atol=1e-6)
    assert fit.elbo.value == pytest.approx(0, abs=1e-5)  # the evidence of no data, without noise


@pytest.mark.parametrize("coordinates", ["posterior", "dense", "diagonal"])
def test_mean_field_is_the_textbook_one_whatever_the_coordinates(coordinates):
    """One over the root of the precision's diagonal, to 1e-6 nats: 1e-3 of a sd."""
    covariance = COVARIANCE / np.outer(SDS, SDS)
    fit = pc.fit(normal(LOC, COVARIANCE), "mean_field", ORIGIN)
    loc = (array(fit.guide.locs.h) - LOC) / SDS
    scale = array(fit.guide.scales.h) / SDS
    if coordinates != "posterior":
        density = UnconstrainedDensity(Program(normal(np.zeros(5), covariance)))
        centre = some_centre(5, 1, dense=coordinates == "dense")
        outcome = maximise(density, "mean_field", centre, seed=0, max_steps=1000)
        start = make("mean_field", centre)
        assert np.abs(start.unit / mean_field_variances(covariance) ** 0.5 - 1).max() > 0.5
        assert outcome.converged
        loc, scale = outcome.gaussian.loc, outcome.gaussian.scale
    expected = mean_field_variances(covariance) ** 0.5
    assert (expected < 0.7).all()
    mode = look(UnconstrainedDensity(Program(normal(np.zeros(5), covariance))), np.zeros(5))
    np.testing.assert_allclose(make("mean_field", mode).unit, expected, rtol=1e-9)  # to begin at
    np.testing.assert_allclose(loc, 0, atol=5e-3)
    np.testing.assert_allclose(scale, expected, rtol=5e-3)


def test_whitened_mean_field_is_exact_for_a_gaussian():
    fit = pc.fit(normal(LOC, COVARIANCE), "whitened_mean_field", ORIGIN)
    posterior = fit.guide.get_posterior()
    np.testing.assert_allclose((array(posterior.loc) - LOC) / SDS, 0, atol=1e-6)
    scaled = array(posterior.covariance_matrix) / np.outer(SDS, SDS)
    np.testing.assert_allclose(scaled, COVARIANCE / np.outer(SDS, SDS), atol=1e-6)


@pytest.mark.parametrize("dim", [8, 20, 60])
def test_low_rank_finds_a_diagonal_and_a_common_factor(dim):
    """Also in so many dimensions that few draws would let the factors follow their noise."""
    rng = np.random.default_rng(dim)
    sd = np.logspace(-2, 2, dim)
    factor = sd * rng.standard_normal(dim)
    covariance = np.diag(sd**2) + np.outer(factor, factor)
    density = UnconstrainedDensity(Program(normal(sd, covariance)))
    centre = Centre(Coordinates(0 * sd, sd), -10.0, 1.0, True, np.ones(dim), 0)
    start = make("low_rank", centre)
    q = start.unpack(start.start)
    assert gaussian_kl(q.loc, q.covariance(), sd, covariance) > 1
    outcome = maximise(density, "low_rank", centre, seed=0, max_steps=2000)
    q = outcome.gaussian
    assert outcome.converged
    # Rounds end when 20 iterations gain less than 2e-3 nats.
    assert gaussian_kl(q.loc, q.covariance(), sd, covariance) < 1e-2
    np.testing.assert_allclose(q.scale, np.sqrt(np.diag(covariance)), rtol=0.05)


def test_a_low_rank_fit_to_the_noise_of_too_few_draws_is_not_converged(monkeypatch):
    monkeypatch.setattr(deterministic, "_MAX_SCALARS", 64)
    dim = 60
    density = UnconstrainedDensity(Program(normal(np.zeros(dim), np.eye(dim) + 1)))
    centre = Centre(Coordinates(np.zeros(dim), np.ones(dim)), -10.0, 1.0, True, np.ones(dim), 0)
    outcome = maximise(density, "low_rank", centre, seed=0, max_steps=500)
    assert outcome.num_draws == 64
    assert not outcome.converged


# --- many latents ------------------------------------------------------------------------------


def diagonal_and_factor(dim):
    sd = torch.logspace(-2, 2, dim, dtype=torch.float64)
    factor = sd * torch.randn(dim, generator=torch.Generator().manual_seed(0)).double() / 4

    def model(_):
        eta = pyro.sample("eta", dist.Normal(ORIGIN, 1.0))
        pyro.sample("h", dist.Normal(sd + factor * eta, sd).to_event(1))

    # Precisions of eta and of every h are those of its conditional.
    scales = np.concatenate([[(1 + dim * float((factor / sd).square().mean())) ** -0.5], sd])
    spread = np.concatenate([[1.0], array((sd**2 + factor**2).sqrt())])
    return model, np.concatenate([[0.0], sd]), scales, spread


@pytest.mark.parametrize("dim", [300, 1999])
def test_mean_field_of_many_latents(dim):
    model, loc, scale, spread = diagonal_and_factor(dim)
    fit = pc.fit(model, "mean_field", ORIGIN)
    assert fit.converged
    found = [
        array(torch.cat([part.eta.reshape(1), part.h]))
        for part in (fit.guide.locs, fit.guide.scales)
    ]
    # Within the tolerance of the fit: 0.05 sd of the mean, 5% of an sd.
    np.testing.assert_allclose((found[0] - loc) / spread, 0, atol=0.05)
    np.testing.assert_allclose(found[1], scale, rtol=0.05)


def test_low_rank_of_many_latents():
    model, loc, _, spread = diagonal_and_factor(300)
    fit = pc.fit(model, "low_rank", ORIGIN)
    posterior = fit.guide.get_posterior()
    assert fit.converged
    np.testing.assert_allclose((array(posterior.loc) - loc) / spread, 0, atol=0.05)
    np.testing.assert_allclose(posterior.stddev.detach(), spread, rtol=0.05)
    # Mean field's loss is about half the log of eta's precision, 1.5 nats.
    assert fit.elbo.value > -0.1


def test_a_whole_covariance_of_too_many_latents_is_refused():
    with pytest.raises(ValueError, match="'full_rank' of 501 latent scalars has 125751 entries"):
        pc.fit(diagonal_and_factor(500)[0], "full_rank", ORIGIN)


# --- draws -------------------------------------------------------------------------------------


def poisson(y):
    rate = pyro.sample("rate", dist.Normal(torch.zeros(2).to(y), 3.0).to_event(1))
    pyro.sample("y", dist.Poisson((rate[..., 0] * y + rate[..., 1]).exp()).to_event(1), obs=y**2)


COUNTS = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("name", GAUSSIAN)
@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.2)])
def test_the_error_of_a_shifted_or_stretched_member_is_its_shift_or_stretch(name, shift, stretch):
    sd = np.array([0.1, 3.0])
    family = make(name, Centre(Coordinates(0 * sd, sd), -10.0, 0.0, True, np.ones(2), 0))
    target, parameters = family.unpack(family.start), family.start.copy()
    density = UnconstrainedDensity(Program(normal(target.loc, target.covariance())))
    parameters[1] += shift
    scales = parameters[2:][family.on_diagonal] if name == "full_rank" else parameters[2:4]
    scales += np.log1p(stretch)
    if name == "full_rank":
        parameters[2:][family.on_diagonal] = scales
    error, _ = deterministic._error(density, family, parameters, 64, seed=0)
    # Of second order in the stretch; the low-rank start is 1% wider than the centre.
    assert error == pytest.approx(shift + stretch + stretch**2 / 2, rel=0.02, abs=1e-9)


def test_families_with_correlations_get_four_draws_for_each_base_dimension():
    def first(name, dim, scalars=2000):
        centre = Centre(Coordinates(np.zeros(dim), np.ones(dim)), -10.0, 0.0, True, np.ones(dim), 0)
        density = SimpleNamespace(scalars=scalars)
        return deterministic.num_base_draws(density, make(name, centre))[0]

    assert [first(name, 400) for name in GAUSSIAN] == [64, 64, 2048, 2048]
    assert first("low_rank", 1000) == 4096
    assert first("low_rank", 1000, scalars=2**20) == 64  # what memory allows


@pytest.mark.parametrize("name", GAUSSIAN)
def test_draws_are_doubled_until_the_error_is_small_on_fresh_draws(name, monkeypatch):
    density = UnconstrainedDensity(Program(poisson, (COUNTS,)))
    centre = Centre(Coordinates(np.zeros(2), np.ones(2)), -10.0, 1.0, True, np.ones(2), 0)
    found = []
    for tolerance in (0.05, 0.01):
        monkeypatch.setattr(deterministic, "TOLERANCE", tolerance)
        outcome = maximise(density, name, centre, seed=0, max_steps=5000)
        assert outcome.converged
        found.append(outcome)
    assert found[1].num_draws > found[0].num_draws
    # A far better optimum is where the second one says it is, by its own tolerance.
    monkeypatch.setattr(deterministic, "MIN_DRAWS", 16384)
    best = maximise(density, name, centre, seed=5, max_steps=5000).gaussian
    np.testing.assert_allclose((found[1].gaussian.loc - best.loc) / best.scale, 0, atol=0.02)
    np.testing.assert_allclose(found[1].gaussian.scale / best.scale, 1, atol=0.02)


def test_a_fit_that_runs_out_of_draws_or_steps_says_so(monkeypatch):
    short = pc.fit(poisson, "full_rank", COUNTS, max_steps=1)
    assert not short.converged
    assert "still rising after 1 iterations, Monte-Carlo error" in short.reason
    monkeypatch.setattr(deterministic, "TOLERANCE", 1e-4)
    monkeypatch.setattr(deterministic, "MAX_DRAWS", 64)
    few = pc.fit(poisson, "full_rank", COUNTS)
    assert not few.converged
    assert "with 64 draws the Monte-Carlo error is still" in few.reason
    assert "'rate[" in few.reason


def test_same_seed_same_numbers_and_another_seed_others():
    one, two, other = (pc.fit(poisson, "full_rank", COUNTS, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.losses, two.losses)
    assert one.elbo == two.elbo
    assert not np.isin(one.losses, other.losses).any()


# --- modes -------------------------------------------------------------------------------------


def gammas(_):
    """p(s) ∝ s^(a−1) e^(−b s): mode (a − 1) / b; of log s, log (a / b) with precision a."""
    shape = torch.tensor([1.5, 4.0, 30.0]).to(ORIGIN)
    pyro.sample("s", dist.Gamma(shape, torch.tensor([2.0, 0.01, 300.0]).to(ORIGIN)).to_event(1))


A, B = np.array([1.5, 4.0, 30.0]), np.array([2.0, 0.01, 300.0])


def test_map_is_the_mode_in_the_space_of_the_latents():
    fit = pc.fit(gammas, "map", ORIGIN)
    assert fit.converged
    # A Newton step would gain 1e-6 nats: 1.4e-3 sds.
    np.testing.assert_allclose(fit.guide.median()["s"].detach(), (A - 1) / B, rtol=2e-3)
    assert "Newton step" in fit.reason


def test_laplace_is_the_curvature_at_the_mode_of_the_unconstrained_latents():
    posterior = pc.fit(gammas, "laplace", ORIGIN).guide.get_posterior()
    np.testing.assert_allclose(posterior.loc.detach(), np.log(A / B), atol=2e-3)
    np.testing.assert_allclose(
        posterior.covariance_matrix.detach(), np.diag(1 / A), rtol=4e-3, atol=1e-6
    )


def test_laplace_refuses_a_flat_direction_and_names_it():
    def plateau(y):
        b, c = (pyro.sample(n, dist.ImproperUniform(constraints.real, (), ())) for n in ("b", "c"))
        pyro.factor("edge", -5 * ((b - c).abs() - 1).clamp(min=0) ** 2)
        pyro.sample("y", dist.Normal(b + c, 1.0), obs=y)

    message = (
        r"'laplace' needs a mode .* flat along a direction of '[bc]' \(smallest eigenvalue of the"
        r" scaled precision -?\d.*\); try 'full_rank'"
    )
    with pytest.raises(ValueError, match=message) as caught:
        pc.fit(plateau, "laplace", ORIGIN)
    assert "\n" not in str(caught.value)
    top = pc.fit(plateau, "map", ORIGIN)
    assert not top.converged
    assert "flat along a direction" in top.reason


def test_every_mode_is_reported_with_its_mass():
    def two_hills(_):
        x = pyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
        hills = [np.log(w) + dist.Normal(m, s).log_prob(x) for w, m, s in HILLS]
        pyro.factor("hills", torch.logsumexp(torch.stack(hills), 0))

    fit = pc.fit(two_hills, "full_rank", ORIGIN)
    assert len(fit.modes) == 2
    # Each hill is Gaussian where the other is 40 sds away.
    assert [mode.share for mode in fit.modes] == pytest.approx([0.7, 0.3], abs=1e-6)
    assert [mode.distance for mode in fit.modes] == pytest.approx([0, 40], abs=1e-2)
    assert {mode.site for mode in fit.modes} == {"x"}
    assert sum(mode.num_starts for mode in fit.modes) + fit.lost_starts == 8


HILLS = ((0.3, -1.0, 0.05), (0.7, 1.0, 0.1))


def test_the_best_whitened_mean_field_has_no_error_though_its_coordinates_are_not_round():
    """What is left between the coordinates no member of the family can mend."""
    covariance = 0.8 ** np.abs(np.subtract.outer(range(4), range(4)))
    density = UnconstrainedDensity(Program(normal(np.zeros(4), covariance)))
    root = some_centre(4, 1, dense=True).coordinates.root
    centre = Centre(Coordinates(np.zeros(4), root), -10.0, 0.0, True, np.ones(4), 0)
    family = make("whitened_mean_field", centre)
    inward = np.linalg.solve(root, np.linalg.solve(root, covariance).T)
    parameters = np.concatenate([np.zeros(4), np.log(mean_field_variances(inward)) / 2])
    error, _ = deterministic._error(density, family, parameters, 64, seed=0)
    assert error < 1e-9


def test_a_low_rank_fit_does_not_stop_at_its_start_though_its_sds_are_right_there():
    """Of independent factors: the sds of a mean field are stationary, its zero loadings are not."""
    dim = 12
    covariance = np.eye(dim) + 0.3
    scale = mean_field_variances(covariance) ** 0.5
    density = UnconstrainedDensity(Program(normal(np.zeros(dim), covariance)))
    centre = Centre(Coordinates(np.zeros(dim), scale), -10.0, 0.0, True, np.ones(dim), 0)
    start = make("low_rank", centre)
    error, _ = deterministic._error(density, start, start.start, 128, seed=0)
    assert error < deterministic.TOLERANCE  # or the test shows nothing
    q = maximise(density, "low_rank", centre, seed=0, max_steps=2000).gaussian
    assert gaussian_kl(q.loc, q.covariance(), np.zeros(dim), covariance) < 1e-2


def test_all_rounds_together_take_no_more_than_max_steps(monkeypatch):
    def poisson(y):
        rate = pyro.sample("rate", dist.Normal(torch.zeros(2).to(y), 3.0).to_event(1))
        mean = (rate[..., 0] * y + rate[..., 1]).exp()
        pyro.sample("y", dist.Poisson(mean).to_event(1), obs=y**2)

    density = UnconstrainedDensity(Program(poisson, (torch.arange(3.0, dtype=torch.float64),)))
    centre = Centre(Coordinates(np.zeros(2), np.ones(2)), -10.0, 1.0, True, np.ones(2), 0)
    monkeypatch.setattr(deterministic, "TOLERANCE", 1e-4)
    monkeypatch.setattr(deterministic, "MAX_DRAWS", 64)
    first = maximise(density, "mean_field", centre, seed=0, max_steps=5000)
    monkeypatch.setattr(deterministic, "MAX_DRAWS", 1024)
    most = len(first.losses) + 1  # one is left to the second round
    outcome = maximise(density, "mean_field", centre, seed=0, max_steps=most)
    assert len(outcome.losses) == most
    assert not outcome.converged


def test_a_value_whose_gradient_is_no_number_is_walled_off():
    guard, best = Guard(), np.array([1.0, 2.0])
    assert guard(best, 5.0, np.ones(2))[0] == 5.0
    value, gradient = guard(best + 1, 3.0, np.array([0.0, np.nan]))
    assert value > 5.0
    np.testing.assert_array_equal(gradient, [1.0, 1.0])  # back to the best point
    np.testing.assert_array_equal(guard.x, best)
