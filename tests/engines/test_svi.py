"""Steps of SVI: where a stage ends, where the fit ends, and what an interruption leaves."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import pyro_cookbook as pc
from pyro_cookbook.engines.choosing import Stochastic
from pyro_cookbook.engines.stochastic import _redraw, run_starts
from pyro_cookbook.engines.stopping import HIDDEN, NUM_BLOCKS, Trend
from pyro_cookbook.engines.svi import DECAY, SVI, NonFiniteELBO
from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.state.isolation import isolated


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


@pytest.mark.parametrize("max_steps", [1, 7, 39, 420])
def test_fit_of_any_number_of_steps_ends(max_steps):
    fit = pc.fit(model, "map", torch.full((20,), 1.0), engine="stochastic", max_steps=max_steps)
    assert len(fit.losses) == max_steps
    assert "out of steps" in fit.reason
    assert not fit.converged


@pytest.mark.parametrize("end", [0.0, 5.0])
def test_a_fit_whose_elbo_ended_below_its_best_has_not_converged(end):
    noise = 0.1 * np.random.default_rng(6).standard_normal(1400)
    run = SVI(Program(None), Program(None), Stochastic(Trace_ELBO(), 0.03, 10_000, 1.0))
    run.losses = [*(noise[:1000]), *(noise[1000:] + end)]
    converged, reason = run._conclude(Trend(0.0, 0.0, 200), True)
    assert converged == (end == 0.0)
    assert ("below its best, at step" in reason) == (end > 0)


@pytest.mark.parametrize(
    ("rose", "latest", "told"),
    [
        ((9.0, 0.1), (0.0, 0.1), "while rising: ELBO rose by 9 ± 0.1 nats"),
        ((0.0, 0.1), (9.0, 0.1), "while rising: ELBO rose by 9 ± 0.1 nats"),
        ((0.0, 9.0), (0.0, 9.0), HIDDEN),
    ],
)
def test_why_the_steps_did_not_suffice(rose, latest, told):
    run = SVI(Program(None), Program(None), Stochastic(Trace_ELBO(), 0.03, 10_000, 1.0))
    run.losses, run.rose = [0.0] * 400, Trend(*rose, 200)
    converged, reason = run._conclude(Trend(*latest, 200), False)
    assert not converged
    assert "out of steps" in reason
    assert told in reason


def at(loc: float) -> dict[str, torch.Tensor]:
    return {"loc": torch.tensor(loc)}


def prepared(max_steps: int = 1000, tol: float = 0.05) -> SVI:
    run = SVI(Program(prior), Program(Stops()), Stochastic(Trace_ELBO(), 0.03, max_steps, tol))
    run.prepare()
    return run


def test_a_later_stage_has_its_own_learning_rate():
    with isolated(0):
        check_rates(prepared(max_steps=10_000, tol=1.0))


def check_rates(run):
    for stage in range(1, len(DECAY)):
        run.losses += [0.0] * run._looks()[0]
        run.blocks.sums, run.blocks.counts = [at(3.0)] * NUM_BLOCKS, [1] * NUM_BLOCKS
        run._consider_stopping()
        assert run.stage == stage
        assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.03 * DECAY[stage])


def test_two_places_are_compared_on_the_same_draws_and_nothing_moves():
    with isolated(0):
        run = prepared()
        before, rng = run.params["loc"].detach().clone(), torch.get_rng_state()
        same = run._elbos([at(1.0), at(1.0)], 5, seed=0)
        assert np.array_equal(same[:, 0], same[:, 1])
        assert same[:, 0].std() > 0.1
        # KL of normals: the bound is −(loc − 3)² / 2, and its noise (loc − 3) z.
        both = run._elbos([at(3.0), at(2.0)], 4000, seed=0)
        gain = both[:, 0] - both[:, 1]
        assert gain.mean() == pytest.approx(0.5, abs=4 * gain.std() / 4000**0.5)
        assert torch.equal(run.params["loc"].detach(), before)
        assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize(("middle", "end"), [(3.0, 3.0), (-3.0, 2.9)])
def test_a_fit_ends_at_the_mean_of_its_window_unless_that_is_worse(middle, end):
    with isolated(0):
        run = prepared()
        run.restore(at(2.9))
        run._settle([at(middle - 0.5), at(middle + 0.5)])
        assert float(run.params["loc"].detach()) == pytest.approx(end)


def climbing(noise: float):
    """A bound that rises by 10 nats in 1,000 steps of Adam, for ever."""

    def model():
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        pyro.sample("k", dist.Normal(0.0, 1.0))
        pyro.factor("noise", noise * h)

    def guide():
        loc = pyro.param("loc", lambda: torch.zeros(()))
        pyro.sample("h", dist.Normal(0.0, 1.0))
        k = pyro.sample("k", dist.Normal(0.0, 1.0))
        pyro.factor("hill", 0.0 * k - loc, has_rsample=True)

    return model, guide


@pytest.mark.parametrize("seed", range(4))
def test_noise_of_thirty_nats_does_not_hide_a_slow_rise(seed):
    model, guide = climbing(30.0)
    options = {"elbo": Trace_ELBO(), "lr": 0.01, "max_steps": 2500, "tol": 0.05}
    (end,) = run_starts(
        Program(model), guide, Stochastic(**options), seed=seed, memory=Memory(), progress=False
    )
    assert np.std(end.losses) > 20
    assert not end.converged
    assert "while rising" in end.reason


def regression(x, y, num_obs=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 10.0).expand([3]).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(5.0))
    with pyro.plate("row", num_obs or len(y), subsample_size=len(y)):
        pyro.sample("y", dist.Normal(x @ slope, scale), obs=y)


def rows(num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(num_rows, 3, generator=rng)
    return x, x @ torch.tensor([1.0, -2.0, 0.5]) + 0.5 * torch.randn(num_rows, generator=rng)


@pytest.mark.parametrize(("num_rows", "max_steps"), [(200, 4000), (2000, 3000)])
def test_a_good_fit_of_mini_batches_may_be_used(num_rows, max_steps):
    """Whether or not its noise lets a rise by 0.05 nats be ruled out."""
    x, y = rows(num_rows)
    fit = pc.fit(regression, "full_rank", x, y, batch_size=50, max_steps=max_steps)
    drawn = pc.to_datatree(fit, num_draws=2000)["posterior"]["slope"].values.reshape(-1, 3)
    exact = np.linalg.lstsq(x.double().numpy(), y.double().numpy())[0]
    sd = 0.5 / num_rows**0.5
    assert abs(drawn.mean(0) - exact).max() < 0.3 * sd
    assert abs(exact).min() > 10 * sd  # where it started fails
    verdict = pc.diagnose(fit)
    assert verdict.verdict != "unreliable", verdict


def test_a_bad_fit_of_mini_batches_may_not():
    fit = pc.fit(regression, "full_rank", *rows(500), batch_size=50, max_steps=150)
    assert not fit.converged
    assert pc.diagnose(fit).verdict == "unreliable"


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
    rose = Trend(5.0, 1.0, 200)
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


def test_a_fit_that_was_interrupted_while_it_compared_compares_again():
    with isolated(0):
        run = prepared(max_steps=5000, tol=100.0)
        for _ in range(run._looks()[0]):
            run.step()
        state = run.state_dict()
        run._consider_stopping()
    with isolated(1):
        resumed = prepared(max_steps=5000, tol=100.0)
        resumed.load_state_dict(state)
        resumed.run(stop_at(len(state["losses"])))
    assert run.stage == resumed.stage == 1
    assert run.rose == resumed.rose


def stop_at(step: int):
    def on_step(run: SVI) -> None:
        run.reason = "enough" if len(run.losses) >= step else ""

    return on_step
