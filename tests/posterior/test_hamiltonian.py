"""One trajectory: it runs backwards, keeps the energy, and is accepted as a whole or not at all."""

import numpy as np
import pytest

from pyro_cookbook.posterior.chains.hamiltonian import State, Trajectory, follow, state
from pyro_cookbook.programs.coordinates import Coordinates

PRECISION = np.array([[2.0, 0.6], [0.6, 1.0]])
MEAN = np.array([1.0, -2.0])


def gaussian(x):
    """Log density of N(MEAN, PRECISION⁻¹) without its constant, and the gradient."""
    slope = -(x - MEAN) @ PRECISION
    return ((x - MEAN) * slope).sum(1) / 2, slope


@pytest.fixture
def coordinates():
    root = np.linalg.cholesky(np.linalg.inv(PRECISION) + np.diag([0.3, 0.0]))
    return Coordinates(np.array([0.5, 0.0]), root)


@pytest.fixture
def start():
    rng = np.random.default_rng(0)
    return state(gaussian, rng.standard_normal((50, 2))), rng.standard_normal((50, 2))


def energy_error(path, momentum):
    kinetic = ((path.momentum**2).sum(1) - (momentum**2).sum(1)) / 2
    return path.end.value - path.begin.value - kinetic


def test_with_the_momentum_turned_round_it_leads_back(start, coordinates):
    begin, momentum = start
    there = follow(gaussian, coordinates, begin, momentum, 0.3, 7)
    back = follow(gaussian, coordinates, there.end, -there.momentum, 0.3, 7)
    assert np.abs(there.end.x - begin.x).max() > 1
    np.testing.assert_allclose(back.end.x, begin.x, atol=1e-12)
    np.testing.assert_allclose(-back.momentum, momentum, atol=1e-12)


def test_the_energy_error_falls_with_the_square_of_the_step(start, coordinates):
    begin, momentum = start
    errors = [
        np.abs(energy_error(follow(gaussian, coordinates, begin, momentum, h, n), momentum)).max()
        for h, n in ((0.2, 10), (0.1, 20), (0.05, 40))
    ]
    assert errors[0] > 1e-2
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_a_round_normal_is_followed_in_a_circle():
    """In round coordinates: x(t) = x cos t + p sin t, p(t) = p cos t − x sin t."""
    unit = Coordinates(np.zeros(2), np.eye(2))
    x, p = np.random.default_rng(1).standard_normal((2, 20, 2))
    begin = state(lambda x: (-(x**2).sum(1) / 2, -x), x)
    path = follow(lambda x: (-(x**2).sum(1) / 2, -x), unit, begin, p, 0.001, 1000)
    np.testing.assert_allclose(path.end.x, np.cos(1) * x + np.sin(1) * p, atol=1e-5)
    np.testing.assert_allclose(path.momentum, np.cos(1) * p - np.sin(1) * x, atol=1e-5)


def test_acceptance_makes_up_for_the_energy_error(start, coordinates):
    begin, momentum = start
    path = follow(gaussian, coordinates, begin, momentum, 0.9, 3)
    change = energy_error(path, momentum)
    assert change.min() < -0.5 < 0.5 < change.max()
    np.testing.assert_allclose(path.probability, np.minimum(1, np.exp(change)), rtol=1e-12)
    assert not path.diverged.any()


def test_who_is_rejected_keeps_position_value_and_gradient():
    begin = State(np.zeros((4, 2)), np.zeros(4), np.zeros((4, 2)))
    end = State(np.ones((4, 2)), np.ones(4), np.ones((4, 2)))
    sure = Trajectory(begin, end, np.ones((4, 2)), np.array([0, 1, 0, 1.0]), np.zeros(4, bool))
    after = sure.accept(np.random.default_rng(0))
    np.testing.assert_array_equal(after.x, [[0, 0], [1, 1], [0, 0], [1, 1]])
    np.testing.assert_array_equal(after.value, [0, 1, 0, 1])
    np.testing.assert_array_equal(after.gradient, [[0, 0], [1, 1], [0, 0], [1, 1]])


def test_it_is_accepted_as_often_as_it_says():
    n = 20_000
    begin = State(np.zeros((n, 1)), np.zeros(n), np.zeros((n, 1)))
    end = State(np.ones((n, 1)), np.ones(n), np.ones((n, 1)))
    path = Trajectory(begin, end, np.ones((n, 1)), np.full(n, 0.3), np.zeros(n, bool))
    share = path.accept(np.random.default_rng(0)).value.mean()
    assert share == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / n))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_where_density_or_gradient_is_not_finite_nobody_goes(bad, coordinates):
    def broken(x):
        value, slope = gaussian(x)
        value[0], slope[1, 0] = bad, bad
        return value, slope

    begin = state(gaussian, np.zeros((3, 2)))
    path = follow(broken, coordinates, begin, np.ones((3, 2)), 0.1, 1)
    np.testing.assert_array_equal(path.end.value[:2], -np.inf)
    np.testing.assert_array_equal(path.end.gradient[:2], 0)
    np.testing.assert_array_equal(path.probability[:2], 0)
    np.testing.assert_array_equal(path.diverged, [True, True, False])


def test_divergence_is_an_energy_error_above_a_thousand_nats():
    def fallen(by):
        return lambda x: (np.full(len(x), -by), np.zeros_like(x))

    unit = Coordinates(np.zeros(1), np.eye(1))
    begin = State(np.zeros((1, 1)), np.zeros(1), np.zeros((1, 1)))
    for by, diverged in ((999.0, False), (1001.0, True)):
        path = follow(fallen(by), unit, begin, np.ones((1, 1)), 0.1, 2)
        assert path.diverged.item() is diverged
