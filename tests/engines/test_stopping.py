"""The stopping rule knows the noise: it is neither fooled by it nor blind behind it."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy.stats import binom

import pyro_cookbook as pc
from pyro_cookbook.engines.choosing import Stochastic
from pyro_cookbook.engines.stopping import Trend, fall, trend
from pyro_cookbook.engines.svi import DECAY, SVI
from pyro_cookbook.programs.program import Program

NUM_SERIES, NUM_STEPS = 200, 2000


def white(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(NUM_SERIES, NUM_STEPS))


def heavy_tailed(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_t(3, size=(NUM_SERIES, NUM_STEPS))


def remembering(rng: np.random.Generator) -> np.ndarray:
    """Autoregressive, as the optimiser's momentum leaves it: a memory of a few steps."""
    noise = rng.normal(size=(NUM_SERIES, NUM_STEPS))
    for t in range(1, NUM_STEPS):
        noise[:, t] += 0.7 * noise[:, t - 1]
    return noise


def trends(noise: np.ndarray, rise: float) -> list[Trend]:
    """Trends of losses whose ELBO rises by `rise` from one half of the window to the other."""
    line = rise * np.arange(NUM_STEPS) / (NUM_STEPS / 2)
    return [trend(series - line) for series in noise]


NOISES = pytest.mark.parametrize("noise", [white, heavy_tailed, remembering])


@NOISES
def test_slope_is_recovered_with_calibrated_errors(noise):
    found = trends(noise(np.random.default_rng(0)), rise=3.0)
    z = np.array([(t.rise - 3) / t.se for t in found])
    # Student's t with 18 degrees of freedom has standard deviation √(18 / 16).
    assert abs(z.mean()) < 4 * (18 / 16 / NUM_SERIES) ** 0.5
    assert 0.85 < z.std() / (18 / 16) ** 0.5 < 1.15
    low, high = binom.interval(0.999, NUM_SERIES, 0.939)  # of within two standard errors
    assert low <= (abs(z) < 2).sum() <= high


@NOISES
def test_noisy_flat_series_is_not_declared_risen(noise):
    found = trends(noise(np.random.default_rng(1)), rise=0.0)
    risen = sum(t.rise > 2 * t.se for t in found)
    assert risen <= binom.ppf(0.999, NUM_SERIES, 0.03)
    assert all(t.has_stopped(tol=1.5) for t in found)


@NOISES
def test_rise_hidden_in_noise_is_not_declared_stopped(noise):
    """The noise of one step is 500 times the rise, and the tolerance half of it."""
    found = trends(500 * noise(np.random.default_rng(2)), rise=1.0)
    assert np.mean([t.se for t in found]) > 10
    stopped = sum(t.has_stopped(tol=0.5) for t in found)
    assert stopped <= binom.ppf(0.999, NUM_SERIES, 0.03)


def test_rise_out_of_the_noise_is_seen():
    found = trends(white(np.random.default_rng(3)), rise=3.0)
    assert all(t.rise > 2 * t.se for t in found)
    assert not any(t.has_stopped(tol=0.5) for t in found)


def test_straight_line_has_its_rise_and_no_error():
    found = trend(-np.arange(400.0))
    assert found.rise == pytest.approx(200)
    assert found.se == pytest.approx(0, abs=1e-9)


def test_oldest_steps_beyond_full_batches_are_left_out():
    losses = np.concatenate([[1e9] * 19, np.zeros(400)])
    assert trend(losses) == Trend(rise=0.0, se=0.0, num_steps=400)


def test_fewer_than_two_steps_a_batch_are_refused():
    with pytest.raises(ValueError, match="losses: got 39 values, expected at least 40"):
        trend(np.zeros(39))
    assert trend(np.zeros(40)).num_steps == 40


# --- in a fit ----------------------------------------------------------------------------------


def model(v: torch.Tensor) -> None:
    h = pyro.sample("h", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(v), dim=-1):
        pyro.sample("v", dist.Normal(h, 1.0), obs=v)


def test_fit_cut_off_while_rising_says_so():
    options = {"engine": "stochastic", "lr": 0.01, "max_steps": 450}
    fit = pc.fit(model, "map", torch.full((20,), 100.0), **options)
    assert not fit.converged
    assert "while rising" in fit.reason


def test_fit_that_has_risen_stops_by_itself_and_says_so():
    options = {"engine": "stochastic", "lr": 0.1, "max_steps": 10_000}
    fit = pc.fit(model, "map", torch.full((20,), 1.0), **options)
    assert fit.converged
    assert "less than the tolerance" in fit.reason
    assert len(fit.losses) < 5000
    median = fit.guide.median()["h"].item()
    assert median == pytest.approx(1.0, abs=5e-3)


@pytest.mark.parametrize("max_steps", [1, 39, 420, 839])
def test_fit_of_any_number_of_steps_ends(max_steps):
    fit = pc.fit(model, "map", torch.full((20,), 1.0), engine="stochastic", max_steps=max_steps)
    assert len(fit.losses) == max_steps
    assert "out of steps" in fit.reason
    assert not fit.converged


def test_an_elbo_that_ends_below_its_best_is_seen():
    noise = np.random.default_rng(4).standard_normal(600)
    losses = noise + np.concatenate(
        [np.linspace(20, 0, 200), np.linspace(0, 5, 200), np.full(200, 5)]
    )
    found = fall(losses)
    assert found.is_real(tol=1.0)
    assert found.nats == pytest.approx(3.75, abs=0.6)  # the best block already rises
    assert 200 <= found.step <= 300
    assert not fall(losses[:200]).is_real(tol=0.0)  # so far it only rose


@NOISES
def test_noise_is_not_a_fall(noise):
    found = [fall(losses) for losses in noise(np.random.default_rng(5))]
    assert np.mean([one.nats for one in found]) > 0  # the best of many blocks is lucky
    assert sum(one.is_real(tol=1.0) for one in found) <= binom.ppf(0.999, NUM_SERIES, 0.01)


@pytest.mark.parametrize("end", [0.0, 5.0])
def test_a_fit_whose_elbo_ended_below_its_best_has_not_converged(end):
    noise = 0.1 * np.random.default_rng(6).standard_normal(1400)
    run = SVI(Program(None), Program(None), Stochastic(Trace_ELBO(), 0.03, 10_000, 1.0))
    run.losses = [*(noise[:1000]), *(noise[1000:] + end)]
    run.stage, run.stage_start = len(DECAY) - 1, 1000
    run._consider_stopping()
    assert run.converged == (end == 0.0)
    assert ("below its best, at step" in run.reason) == (end > 0)
