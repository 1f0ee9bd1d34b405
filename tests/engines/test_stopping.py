"""The stopping rule knows the noise: it is neither fooled by it nor blind behind it."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import binom

from pyro_cookbook.engines.stopping import NUM_BLOCKS, Blocks, Trend, fall, looks, trend

NUM_SERIES, NUM_ROWS = 400, 12
TIME = np.arange(NUM_BLOCKS) - (NUM_BLOCKS - 1) / 2


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def heavy_tailed(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_t(4, size=shape)


def trends(noise, seed: int, *, rise: float, wander: float = 0.3, error: float = 0.5, common=100):
    """Trends of bounds that rise from half to half: blocks wander, estimates have errors."""
    rng = np.random.default_rng(seed)
    line = rise * TIME / (NUM_BLOCKS / 2)
    for _ in range(NUM_SERIES):
        values = line + wander * noise(rng, NUM_BLOCKS) + error * noise(rng, NUM_ROWS, NUM_BLOCKS)
        yield trend(values + common * noise(rng, NUM_ROWS, 1), num_steps=200)


NOISES = pytest.mark.parametrize("noise", [normal, heavy_tailed])


@NOISES
def test_slope_is_recovered_with_errors_that_are_not_too_small(noise):
    found = list(trends(noise, 0, rise=3.0))
    z = np.array([(t.rise - 3) / t.se for t in found])
    # Student's t with 6 degrees of freedom has standard deviation √(6 / 4).
    assert abs(z.mean()) < 4 * (6 / 4 / NUM_SERIES) ** 0.5
    assert 0.6 < z.std() < 1.1 * (6 / 4) ** 0.5
    assert (abs(z) < 3).mean() > 0.95


def test_what_is_common_to_all_blocks_is_no_error():
    one, two = (list(trends(normal, 1, rise=1.0, common=c)) for c in (0.0, 1e4))
    np.testing.assert_allclose([t.rise for t in one], [t.rise for t in two], atol=1e-8)
    np.testing.assert_allclose([t.se for t in one], [t.se for t in two], atol=1e-8)


@NOISES
def test_a_flat_bound_is_not_seen_to_rise_or_fall(noise):
    found = list(trends(noise, 2, rise=0.0))
    seen = sum(t.is_rising(0.1) or t.is_falling(0.1) for t in found)
    assert seen <= binom.ppf(0.999, NUM_SERIES, 0.03)
    assert sum(t.has_stopped(2.5) for t in found) >= binom.ppf(0.001, NUM_SERIES, 0.97)


@NOISES
def test_a_rise_hidden_in_errors_is_not_declared_stopped(noise):
    found = list(trends(noise, 3, rise=1.0, wander=300.0, error=500.0))
    assert np.mean([t.se for t in found]) > 10
    assert not any(t.has_stopped(tol=1.0) for t in found)


@pytest.mark.parametrize(
    ("rise", "se", "stopped", "rising", "falling"),
    [
        (0.01, 0.01, True, False, False),
        (0.04, 0.01, False, False, False),  # up to 0.06
        (0.2, 0.01, False, True, False),
        (0.2, 0.1, False, False, False),
        (-600.0, 290.0, False, False, False),  # its luck is not that it has stopped
        (-600.0, 100.0, False, False, True),
        (-0.2, 0.01, False, False, True),
        (np.nan, np.nan, False, False, False),
    ],
)
def test_what_a_rise_and_its_error_say(rise, se, stopped, rising, falling):
    found = Trend(rise, se, 200)
    assert found.has_stopped(0.05) == stopped
    assert found.is_rising(0.05) == rising
    assert found.is_falling(0.05) == falling


def test_a_slow_rise_adds_up_where_it_is_seen():
    seen, hidden = Trend(0.01, 0.001, 200), Trend(0.01, 0.02, 200)
    assert seen.has_stopped(0.05)
    assert not seen.would_rise(400, 0.05)  # by 0.04
    assert seen.would_rise(600, 0.05)  # by 0.06
    assert not hidden.would_rise(10**6, 0.05)


def test_straight_line_has_its_rise_and_no_error():
    found = trend(np.tile(np.arange(8.0), (3, 1)), 400)
    assert found == Trend(rise=pytest.approx(4.0), se=pytest.approx(0, abs=1e-9), num_steps=400)


def test_rise_and_scatter_are_those_of_a_regression():
    values = np.random.default_rng(7).standard_normal(NUM_BLOCKS)
    line = stats.linregress(np.arange(NUM_BLOCKS), values)
    found = trend(values[None], 400)
    assert found.rise == pytest.approx(NUM_BLOCKS / 2 * line.slope, rel=1e-9)
    assert found.se == pytest.approx(NUM_BLOCKS / 2 * line.stderr, rel=1e-9)
    assert found.noise == 0


def test_noise_is_that_of_the_mean_slope():
    values = np.random.default_rng(8).standard_normal((NUM_ROWS, NUM_BLOCKS))
    slopes = [stats.linregress(np.arange(NUM_BLOCKS), row).slope for row in values]
    assert trend(values, 400).noise == pytest.approx(NUM_BLOCKS / 2 * stats.sem(slopes), rel=1e-9)


def test_the_error_has_the_scatter_of_blocks_and_the_noise_of_estimates():
    steady = 0.3 * TIME + 0.5 * np.array([1.0, -1.0])[:, None] * TIME  # slopes 0.8 and −0.2
    found = trend(steady, 400)
    assert found.rise == pytest.approx(0.3 * NUM_BLOCKS / 2)
    assert found.se == pytest.approx(found.noise) == pytest.approx(0.5 * NUM_BLOCKS / 2)
    wandering = np.random.default_rng(9).standard_normal(NUM_BLOCKS)
    both, alone = trend(steady + wandering, 400), trend(wandering[None], 400)
    assert both.se == pytest.approx(np.hypot(alone.se, found.se))


@pytest.mark.parametrize(
    ("length", "expected"),
    [(2000, [500, 1000, 2000]), (799, [799]), (800, [400, 800]), (3, [3])],
)
def test_looks_are_few_and_each_window_is_twice_the_last(length, expected):
    assert looks(length, 400) == expected


def test_blocks_are_the_eighths_of_the_second_half():
    blocks = Blocks()
    for step in range(1, 161):
        blocks.add({"p": torch.tensor(float(step))}, step, 160)
    assert blocks.counts == [10] * NUM_BLOCKS
    expected = 85.5 + 10 * np.arange(NUM_BLOCKS)
    assert [float(one["p"]) for one in blocks.means()] == list(expected)
    blocks.clear()
    assert blocks.means() == []


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
    found = [fall(losses) for losses in noise(np.random.default_rng(5), NUM_SERIES, 2000)]
    assert np.mean([one.nats for one in found]) > 0  # the best of many blocks is lucky
    assert sum(one.is_real(tol=1.0) for one in found) <= binom.ppf(0.999, NUM_SERIES, 0.01)


def test_a_fall_names_the_step_at_which_the_best_block_ends():
    losses = np.concatenate([np.full(30, 9.0), np.full(200, 5.0), np.zeros(100), np.full(100, 3.0)])
    found = fall(losses)
    assert (found.nats, found.se, found.step) == (3.0, 0.0, 330)
