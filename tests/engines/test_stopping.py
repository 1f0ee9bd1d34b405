"""The stopping rule knows the noise: it is neither fooled by it nor blind behind it."""

from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy import stats
from scipy.stats import binom
from torch import nn

import pyro_cookbook as pc
from pyro_cookbook.engines.choosing import Stochastic
from pyro_cookbook.engines.stochastic import _redraw, run_starts
from pyro_cookbook.engines.stopping import NUM_BATCHES, Trend, fall, trend
from pyro_cookbook.engines.svi import DECAY, MIN_FIRST, SVI, NonFiniteELBO
from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.state.isolation import isolated

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


def test_rise_and_error_are_those_of_a_regression_on_batch_means():
    losses = np.random.default_rng(7).standard_normal(400)
    line = stats.linregress(np.arange(NUM_BATCHES), -losses.reshape(NUM_BATCHES, -1).mean(1))
    found = trend(losses)
    assert found.rise == pytest.approx(NUM_BATCHES / 2 * line.slope, rel=1e-9)
    assert found.se == pytest.approx(NUM_BATCHES / 2 * line.stderr, rel=1e-9)


def test_a_fall_names_the_step_at_which_the_best_block_ends():
    losses = np.concatenate([np.full(30, 9.0), np.full(200, 5.0), np.zeros(100), np.full(100, 3.0)])
    found = fall(losses)
    assert (found.nats, found.se, found.step) == (3.0, 0.0, 330)


def test_a_later_stage_has_its_own_learning_rate():
    run = SVI(Program(None), Program(None), Stochastic(Trace_ELBO(), 0.03, 10_000, 1.0))
    run.optimizer = SimpleNamespace(param_groups=[{"lr": 0.03}])
    for stage in range(1, len(DECAY)):
        run.losses += [0.0] * MIN_FIRST
        run._consider_stopping()
        assert run.stage == stage
        assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.03 * DECAY[stage])


class Stops:
    """A guide that is interrupted once it has drawn, when it is told to be."""

    def __init__(self):
        self.now = False

    def __call__(self):
        loc = pyro.param("loc", lambda: torch.zeros(()))
        pyro.sample("h", dist.Normal(loc, 1.0))
        if self.now:
            raise KeyboardInterrupt


def prior():
    pyro.sample("h", dist.Normal(3.0, 1.0))


def test_a_step_that_was_interrupted_is_taken_again_with_the_same_random_numbers():
    guide = Stops()
    run = SVI(Program(prior), Program(guide), Stochastic(Trace_ELBO(), 0.03, 1000, 1.0))
    with isolated(0):
        run.prepare()
        run.step()
        before, guide.now = torch.get_rng_state(), True
        with pytest.raises(KeyboardInterrupt):
            run.step()
        assert not torch.equal(torch.get_rng_state(), before)  # it had begun to draw
    assert torch.equal(run.state_dict()["rng"], before)


class Memory:
    def __init__(self):
        self.starts = {}

    def save(self, start, state):
        pass


def test_every_start_has_a_seed_of_its_own():
    options = {"elbo": Trace_ELBO(), "lr": 0.03, "max_steps": 60, "tol": 1.0}

    def losses(seed, num_starts):
        both = Stochastic(**options, num_starts=num_starts)
        ends = run_starts(
            Program(prior), "mean_field", both, seed=seed, memory=Memory(), progress=False
        )
        return [end.losses for end in ends]

    first, second = losses(5, 2)
    assert first == losses(5, 1)[0]
    assert second == losses(6, 1)[0]
    assert first != second


def test_every_part_that_can_be_redrawn_is():
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert _redraw(net)
    assert net[0].weight.abs().min() > 0
    assert net[2].weight.abs().min() > 0
    assert not _redraw(nn.Sequential(nn.Tanh()))


def test_the_trend_of_the_first_stage_is_saved():
    rose = trend(np.linspace(5, 0, 400))
    with isolated(0):
        first, second = (
            SVI(Program(prior), Program(Stops()), Stochastic(Trace_ELBO(), 0.03, 1000, 1.0))
            for _ in range(2)
        )
        first.prepare()
        second.prepare()
        first.rose = rose
        second.load_state_dict(first.state_dict())
    assert second.rose == rose


def test_where_the_bound_is_no_number_the_parameters_are_those_of_the_last_copy():
    height = torch.zeros(())

    def model():
        prior()
        pyro.factor("height", height)

    run = SVI(Program(model), Program(Stops()), Stochastic(Trace_ELBO(), 0.03, 1000, 1.0))
    with isolated(0):
        run.prepare()
        for _ in range(5):
            run.step()
        assert float(run.params["loc"].detach()) != 0
        height.fill_(-torch.inf)
        with pytest.raises(NonFiniteELBO, match=r"at step 5, at site 'height'; .* after 0 steps"):
            run.step()
    assert float(run.params["loc"].detach()) == 0  # a copy every hundred steps


def test_an_epoch_begins_with_the_first_step():
    """The estimate that finds the parameters has taken a mini-batch of its own."""

    def by_rows(y, num_obs=None):
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        with pyro.plate("row", num_obs or len(y), subsample_size=len(y)):
            pyro.sample("y", dist.Normal(h, 1.0), obs=y)

    def guide(y, num_obs=None):
        Stops()()

    options = Stochastic(Trace_ELBO(), 0.03, 1000, 1.0, batch_size=4)
    run = SVI(Program(by_rows, (torch.arange(12.0),)), Program(guide), options)
    with isolated(0):
        run.prepare()
        epochs = [torch.cat([run._next().args[0] for _ in range(3)]).tolist() for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2
