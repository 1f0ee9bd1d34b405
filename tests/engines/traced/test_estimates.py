"""Steps by graphs: Pyro's estimates are the oracle, bit for bit, and what differs is found."""

from functools import partial
from itertools import count

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyro_cookbook as pc
from pyro_cookbook.engines import families
from pyro_cookbook.engines import svi as svi_file
from pyro_cookbook.engines.choosing import Stochastic
from pyro_cookbook.engines.svi import SVI
from pyro_cookbook.engines.traced import estimates
from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.state.isolation import isolated

NEVER = 10**9


def schools(sd, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sd), obs=y)


SCHOOLS = (
    torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
    torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
)


def logistic(x, y, num_obs=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("row", num_obs or len(y), subsample_size=len(y)):
        pyro.sample("y", dist.Bernoulli(logits=x @ slope), obs=y)


def rows(num: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(num, 2, generator=rng)
    return x, (torch.rand(num, generator=rng) < torch.sigmoid(x[:, 0])).float()


def run(model, guide, data, monkeypatch, *, calls_before, steps=12, **options):
    """Take steps; give the run."""
    monkeypatch.setattr(estimates, "CALLS_BEFORE", calls_before)
    options = {"elbo": Trace_ELBO(), "lr": 0.05, "max_steps": 1000, "tol": 0.1, **options}
    with isolated(0), pyro.validation_enabled(False):
        program = Program(model, data)
        made = families.build(guide, program) if isinstance(guide, str) else guide()
        svi = SVI(program, program.of(made), Stochastic(**options))
        svi.prepare()
        for _ in range(steps):
            svi.step()
        with torch.random.fork_rng():
            svi.last = [svi.estimates.loss(svi._many()) for _ in range(6)]
    return svi


def both(*args, **kwargs):
    plain = run(*args, calls_before=NEVER, **kwargs)
    quick = run(*args, calls_before=3, **kwargs)
    return plain, quick


def numbers(svi):
    return [*svi.losses, *svi.last, *torch.cat([p.flatten() for p in svi.params.values()]).tolist()]


class Discrete:
    """A guide whose gradient is by the score function: h is a bit."""

    def __call__(self):
        logit = pyro.param("logit", lambda: torch.tensor(0.3))
        pyro.sample("h", dist.Bernoulli(logits=logit))


def bit():
    h = pyro.sample("h", dist.Bernoulli(0.3))
    pyro.sample("y", dist.Normal(h, 0.5), obs=torch.tensor(0.8))


def subsampled(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y), subsample_size=5) as taken:
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y[taken])


class Dropping(nn.Module):
    """A guide with a network that drops entries at random."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 2))

    def forward(self, x, y, num_obs=None):
        pyro.module("net", self.net)
        loc = self.net(x).mean(0)
        pyro.sample("slope", dist.Normal(loc, 0.3).to_event(1))


CASES = {
    "mean_field": (schools, "mean_field", SCHOOLS, {}),
    "full_rank": (schools, "full_rank", SCHOOLS, {}),
    "flow": (logistic, "flow", rows(), {}),
    "map": (schools, "map", SCHOOLS, {}),
    "particles": (logistic, "mean_field", rows(), {"elbo": Trace_ELBO(num_particles=3)}),
    "kl": (logistic, "mean_field", rows(), {"elbo": TraceMeanField_ELBO()}),
    "bits": (bit, Discrete, (), {}),
    "subsample": (subsampled, "mean_field", (torch.arange(20.0),), {}),
    "dropout": (logistic, Dropping, rows(), {}),
    "batches": (logistic, "mean_field", rows(), {"batch_size": 20, "steps": 30}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_graph_gives_pyros_numbers_bit_for_bit(case, monkeypatch):
    model, guide, data, options = CASES[case]
    plain, quick = both(model, guide, data, monkeypatch, **options)
    assert quick.estimates.obstacle == ""
    assert all(graph.calls > estimates.FIRST_CHECKS for graph in quick.estimates._graphs.values())
    # One of steps and one of bounds alone; mini-batches also of the ragged last of an epoch.
    assert len(quick.estimates._graphs) == (3 if case == "batches" else 2)
    assert numbers(quick) == numbers(plain)
    assert len(set(plain.losses)) > 1 or case == "map"  # the start does not pass


def branching(y):
    h = pyro.sample("h", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(h if h > 0 else -2 * h, 1.0), obs=y)


class Anneals:
    """A model that counts its runs, and believes the data more with each."""

    def __init__(self):
        self.runs = 0

    def __call__(self, y):
        self.runs += 1
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(h, 1.0), obs=y)
        pyro.factor("weight", h * 1e-3 if self.runs > 10_000 else 0 * h)


def by_numpy(y):
    h = pyro.sample("h", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(h, 1.0), obs=y + float(np.random.default_rng().normal()))


class Averaged(nn.Module):
    """A guide whose network keeps running averages."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))

    def forward(self, x, y, num_obs=None):
        pyro.module("net", self.net)
        pyro.sample("slope", dist.Normal(self.net(x).mean(0), 0.3).to_event(1))


ONE = (torch.tensor(0.5),)
LEFT = {
    "branch": (branching, "mean_field", ONE, {}, "a number is taken out of a tensor"),
    "count": (Anneals(), "mean_field", ONE, {}, "'model.runs' changes as they run"),
    "numpy": (by_numpy, "mean_field", ONE, {}, "it gave other numbers on the same draws"),
    "averages": (logistic, Averaged, rows(), {}, "they write into what they keep"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_no_graph_is_left_to_pyro_and_named(case, monkeypatch):
    model, guide, data, options, told = LEFT[case]
    plain, quick = both(model, guide, data, monkeypatch, **options)
    assert told in quick.estimates.obstacle
    assert plain.estimates.obstacle == ""  # not looked for yet
    if case != "numpy":  # its numbers are others each time
        assert numbers(quick) == numbers(plain)


def graphs_made(monkeypatch, **options):
    """By rows of a mini-batch: the estimate of that kind at which its graph was made."""
    made = {}
    trace = estimates.Estimates._trace

    def noted(self, model, method, data):
        if method == "loss_and_grads":
            key = (method, *((one.shape, one.dtype) for one in data))
            made[len(data[0])] = self._calls[key]
        return trace(self, model, method, data)

    monkeypatch.setattr(estimates.Estimates, "_trace", noted)
    run(logistic, "mean_field", rows(), monkeypatch, batch_size=20, **options)
    return made


def test_a_graph_is_made_at_once_where_it_pays(monkeypatch):
    """Epochs are of batches of 20, 20 and 10 rows: a third of what is to come has 10."""
    make = partial(graphs_made, monkeypatch, steps=30)
    assert make(calls_before=10, max_steps=1000) == {20: 2, 10: 2}
    assert make(calls_before=10, max_steps=30) == {20: 2, 10: 10}  # a third of 25 is too few
    assert make(calls_before=29, max_steps=30) == {20: 2}
    assert make(calls_before=30, max_steps=30) == {}


def test_steps_that_are_sure_to_come_are_no_more_than_come(monkeypatch):
    """Each step's number, and how many came after it, of fits that end by themselves or not."""
    for steps in (5, 300, 5000):
        sure = []
        step = SVI.step

        def counted(self, step=step, sure=sure):
            sure.append(self._sure_steps())
            step(self)

        with monkeypatch.context() as patched:
            patched.setattr(SVI, "step", counted)
            patched.setattr(estimates, "CALLS_BEFORE", 20)
            fit = pc.fit(
                schools, "mean_field", *SCHOOLS, engine="stochastic", max_steps=steps, tol=5.0,
                progress=False,
            )  # fmt: skip
        come = np.arange(len(fit.losses), 0, -1)
        assert len(sure) == len(come)
        assert np.all(np.array(sure) <= come)
        assert sure[0] > (900 if steps == 5000 else steps - 1)


def test_a_fit_says_why_its_steps_are_pyros(monkeypatch):
    monkeypatch.setattr(estimates, "CALLS_BEFORE", 3)
    options = {"engine": "stochastic", "max_steps": 30, "progress": False}
    assert pc.fit(schools, "mean_field", *SCHOOLS, **options).why == "it was asked for"
    fit = pc.fit(branching, "mean_field", *ONE, **options)
    assert fit.why == (
        "it was asked for; each step by Pyro's handlers, as no graph of model and guide serves"
        " (a number is taken out of a tensor)"
    )


def test_a_model_that_differs_later_is_found_at_the_next_comparison(monkeypatch):
    """A branch on a number that no run changes: it is another from some step on."""
    monkeypatch.setattr(estimates, "CHECK_EVERY", 10)
    weight = [1.0]

    def model(y):
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(h, weight[0]), obs=y)

    with isolated(0), pyro.validation_enabled(False):
        svi = run(model, "mean_field", ONE, monkeypatch, calls_before=2, steps=9)
        weight[0] = 2.0
        for _ in range(6):
            svi.step()
    assert svi.estimates.obstacle == "it gave other numbers on the same draws"


def test_data_that_are_written_to_are_read_anew(monkeypatch):
    sd, y = SCHOOLS[0], SCHOOLS[1].clone()

    def change(calls_before):
        y.copy_(SCHOOLS[1])
        with isolated(0), pyro.validation_enabled(False):
            svi = run(schools, "mean_field", (sd, y), monkeypatch, calls_before=calls_before)
            y.add_(5.0)
            for _ in range(8):
                svi.step()
        assert svi.estimates.obstacle == ""
        return svi.losses

    assert change(3) == change(NEVER)


def test_a_bound_that_is_no_number_names_step_and_site(monkeypatch):
    height = torch.zeros(())

    def model(y):
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(h, 1.0), obs=y)
        pyro.factor("height", height + 0 * h)

    with isolated(0), pyro.validation_enabled(False):
        svi = run(model, "mean_field", ONE, monkeypatch, calls_before=3)
        height.fill_(-torch.inf)
        with pytest.raises(pc.NonFiniteELBO, match="at step 12, at site 'height'"):
            svi.step()


def test_a_fit_by_graphs_goes_on_from_a_checkpoint_bit_for_bit(monkeypatch, tmp_path):
    """The graph is made anew after the interruption: steps before it are Pyro's."""
    monkeypatch.setattr(estimates, "CALLS_BEFORE", 20)
    options = {"engine": "stochastic", "batch_size": 20, "max_steps": 1200, "progress": False}
    fitted = partial(pc.fit, logistic, "mean_field", *rows(), **options)
    whole = fitted()
    with monkeypatch.context() as patched:
        patched.setattr(svi_file, "heed", stops_at(620))
        with pytest.raises(KeyboardInterrupt):
            fitted(checkpoint=tmp_path / "fit")
    again = fitted(checkpoint=tmp_path / "fit")
    assert np.array_equal(again.losses, whole.losses)
    assert again.elbo == whole.elbo


def stops_at(call):
    calls = count(1)

    def heed():
        if next(calls) == call:
            raise KeyboardInterrupt

    return heed


def test_a_conjugate_posterior_is_reached_by_the_graph():
    """h ~ N(0, 1), five observations of sd 1: h | y is N(sum / 6, 1 / 6)."""
    y = torch.tensor([1.0, 2.0, 0.5, 1.5, 3.0], dtype=torch.float64)

    def model(y):
        h = pyro.sample("h", dist.Normal(torch.zeros((), dtype=y.dtype), 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(h, 1.0), obs=y)

    fit = pc.fit(model, "full_rank", y, engine="stochastic", max_steps=4000, progress=False)
    assert fit.why == "it was asked for"
    mean, sd = float(y.sum()) / 6, 6**-0.5
    loc = float(fit.guide.loc.detach())
    scale = float((fit.guide.scale * fit.guide.scale_tril).sum().detach())
    # The last rate, 3e-4, leaves the parameters within a few of its steps.
    assert loc == pytest.approx(mean, abs=0.01)
    assert scale == pytest.approx(sd, abs=0.01)
    assert abs(0.1 - sd) > 0.1  # where it started fails
    log_evidence = torch.distributions.MultivariateNormal(
        torch.zeros(5, dtype=y.dtype), torch.eye(5, dtype=y.dtype) + 1.0
    ).log_prob(y)
    assert fit.elbo.value == pytest.approx(float(log_evidence), abs=3e-3)
