"""One chain of nutpie's: what it calls, what it gives, and what it does where models fail."""

import os
import signal
import time

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_cookbook as pc
from pyro_cookbook.posterior.chains import no_u_turn
from pyro_cookbook.posterior.chains.no_u_turn import run_chain
from pyro_cookbook.programs.coordinates import Coordinates

OPTIONS = {"num_draws": 400, "num_warmup": 100, "target_accept": 0.8, "seed": 3}
SQUARE = Coordinates(np.array([2.0, -1.0]), np.array([[2.0, 0.0], [1.5, 0.5]]))
DIAGONAL = Coordinates(np.array([2.0, -1.0]), np.array([2.0, 0.5]))


def normal(z):
    """N(0, I), in nats but for a constant, and its gradient."""
    return -0.5 * z @ z, -z


@pytest.mark.parametrize("coordinates", [SQUARE, DIAGONAL])
def test_height_and_gradient_are_those_at_the_point_that_the_coordinates_mean(coordinates):
    landscape = no_u_turn._Landscape(normal, coordinates)
    u = np.array([0.3, -0.7])
    value, gradient = landscape(u)
    z = coordinates.loc + coordinates.matrix @ u
    assert value == pytest.approx(-0.5 * z @ z, rel=1e-12)
    steps = 1e-6 * np.eye(2)
    slope = [(landscape(u + h)[0] - landscape(u - h)[0]) / 2e-6 for h in steps]
    np.testing.assert_allclose(gradient, slope, rtol=1e-7)


@pytest.mark.parametrize("coordinates", [SQUARE, DIAGONAL])
def test_a_chain_begins_where_it_is_told_and_ends_in_the_posterior(coordinates):
    seen = []

    def watched(z):
        seen.append(z.numpy().copy())
        return normal(z)

    start = np.array([1.0, -2.0])
    options = OPTIONS | {"num_draws": 4000}
    chain = run_chain(watched, coordinates, start, **options)
    np.testing.assert_allclose(seen[0], start, rtol=1e-12)
    assert chain.positions.shape == (4000, 2)
    assert not chain.diverging.any()
    # Every tenth is as good as independent; N(loc, R Rᵀ), not of these data, is far away.
    few = chain.positions[::10]
    for column in few.T:
        assert stats.kstest(column, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(few.T)[0, 1]) < 4 / len(few) ** 0.5
    assert stats.kstest(few[:, 0], stats.norm(2.0, 2.0).cdf).pvalue < 1e-6


def test_a_higher_target_takes_smaller_steps():
    def gradients(target):
        calls = []
        run_chain(
            lambda z: (calls.append(1), normal(z))[1], DIAGONAL, np.zeros(2),
            **OPTIONS | {"target_accept": target},
        )  # fmt: skip
        return len(calls)

    assert gradients(0.99) > 1.5 * gradients(0.6)


def test_same_seed_same_chain_and_another_seed_another():
    chains = [run_chain(normal, DIAGONAL, np.zeros(2), **OPTIONS | {"seed": s}).positions
              for s in (3, 3, 4)]  # fmt: skip
    np.testing.assert_array_equal(chains[0], chains[1])
    assert not np.isin(chains[2], chains[0]).any()


def test_a_chain_that_begins_at_the_mode_is_nudged():
    chain = run_chain(normal, DIAGONAL, np.zeros(2), **OPTIONS | {"num_draws": 2000})
    for column in chain.positions[::10].T:
        assert stats.kstest(column, "norm").pvalue > 1e-4


def test_a_flat_direction_is_told_in_one_line():
    with pytest.raises(ValueError, match="gradient of the log density is zero in some") as caught:
        run_chain(lambda z: (-0.5 * z[0] ** 2, -z * z.new_tensor([1.0, 0.0])), DIAGONAL,
                  np.ones(2), **OPTIONS)  # fmt: skip
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["singular", "infinite", "no gradient"])
def test_where_there_is_no_density_a_trajectory_diverges_and_the_chain_goes_on(kind):
    def walled(z):
        if z[0] > 0.5 and kind == "singular":
            raise torch.linalg.LinAlgError("not positive-definite")
        value, gradient = normal(z)
        if z[0] > 0.5:
            value = value - torch.inf if kind == "infinite" else value
            gradient = gradient * torch.nan
        return value, gradient

    chain = run_chain(walled, DIAGONAL, np.zeros(2), **OPTIONS)
    assert (chain.positions[:, 0] <= 0.5).all()
    assert 0 < chain.diverging.sum() < len(chain.positions)


@pytest.mark.parametrize("call", [1, 30, 700])
def test_an_error_of_the_model_is_raised_as_it_is(call, capfd):
    calls = []

    def failing(z):
        calls.append(1)
        if len(calls) == call:
            raise KeyError("mine")
        return normal(z)

    with pytest.raises((KeyError, ValueError), match="mine"):
        run_chain(failing, DIAGONAL, np.zeros(2), **OPTIONS)
    assert len(calls) == call
    assert "panicked" not in capfd.readouterr().err


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_comes_out_of_sample_too(processes):
    """A model without a graph, run as it is: its course depends on a value."""

    def model(y):
        h = pyro.sample("h", dist.Normal(y.new_zeros(()), 1.0))
        if h > 1.2 and len(runs) > 100:
            raise KeyError("mine")
        runs.append(1)

    runs = []

    def guide(y):
        pyro.sample("h", dist.Normal(y.new_zeros(()), 0.1))

    fit = pc.as_fit(model, guide, torch.zeros(3).double())
    with pytest.raises(KeyError, match="mine"):
        pc.sample(fit, num_chains=2, processes=processes)


def test_draws_of_a_trajectory_that_was_cut_off_are_not_kept():
    landscapes = []

    class Stopping(no_u_turn._Landscape):
        def __init__(self, *args):
            super().__init__(*args)
            landscapes.append(self)

    def slow(z):
        if landscapes[0].num_draws >= 150:
            time.sleep(0.2)  # time is up within the next trajectories
        return normal(z)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(no_u_turn, "_Landscape", Stopping)
        chain = run_chain(slow, DIAGONAL, np.zeros(2), **OPTIONS, seconds=1.0)
    whole = run_chain(normal, DIAGONAL, np.zeros(2), **OPTIONS)
    assert 0 < len(chain.positions) < 400
    np.testing.assert_array_equal(chain.positions, whole.positions[: len(chain.positions)])


def test_a_chain_without_time_gives_no_draws():
    chain = run_chain(normal, DIAGONAL, np.zeros(2), **OPTIONS, seconds=-1.0)
    assert chain.positions.shape == (0, 2)
    assert chain.diverging.shape == (0,)


def test_ctrl_c_ends_a_chain():
    # What a shell starts behind ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ctrl_c_ends_a_chain()
    finally:
        signal.signal(signal.SIGINT, before)


def ctrl_c_ends_a_chain():
    def pressing(z):
        calls.append(1)
        if len(calls) == 50:
            os.kill(os.getpid(), signal.SIGINT)
        if len(calls) > 50:
            time.sleep(0.01)
        return normal(z)

    calls = []
    with pytest.raises(KeyboardInterrupt):
        run_chain(pressing, DIAGONAL, np.zeros(2), **OPTIONS | {"num_draws": 10**6})
    before = len(calls)
    time.sleep(0.3)
    assert len(calls) <= before + 1  # nutpie's thread has ended
