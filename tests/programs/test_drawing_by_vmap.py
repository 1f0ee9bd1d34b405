"""Programs written for the shapes of one draw are drawn from many times in one run all the same."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_cookbook.programs import drawing
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.program import Program

S = 2000
X = torch.linspace(-1, 1, 8)[:, None] ** torch.arange(3)


def regression():
    beta = pyro.sample(
        "beta", dist.Normal(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])).to_event(1)
    )
    scale = pyro.sample("scale", dist.Gamma(3.0, 2.0))
    with pyro.plate("row", 8):
        pyro.sample("y", dist.Normal(X @ beta, scale))


def counts():
    share = pyro.sample("share", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    with pyro.plate("row", 8):
        pyro.sample("n", dist.Poisson(torch.exp(X @ share)))
        pyro.sample("k", dist.Bernoulli(logits=X @ share))


def one_by_one(monkeypatch, program, num_draws):
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "_draw_by_vmap", lambda *_: None)
        return draw(program, num_draws)


@pytest.mark.parametrize("program", [regression, counts])
def test_draws_by_vmap_have_the_moments_of_draws_in_turn(monkeypatch, program):
    program = Program(program)
    many, few = draw(program, S), one_by_one(monkeypatch, program, S)
    assert (many.how, few.how) == ("vmap", "loop")
    for name, value in few.values.items():
        error = (2 * value.var(0) / S) ** 0.5
        assert (abs(many.values[name].mean(0) - value.mean(0)) < 5 * error).all(), name
        assert not torch.equal(many.values[name][0], many.values[name][1])
        torch.testing.assert_close(many.values[name].std(0), value.std(0), rtol=0.2, atol=0.0)


def test_each_draw_has_its_own_density():
    drawn = draw(Program(regression), 50)
    beta, scale, y = (drawn.values[name] for name in ("beta", "scale", "y"))
    expected = dist.Normal(beta @ X.T, scale[:, None]).log_prob(y)
    torch.testing.assert_close(drawn.log_prob["y"], expected)


def test_values_that_are_given_stay_and_the_rest_follows_them():
    beta = torch.arange(S * 3.0).reshape(S, 3)
    drawn = draw(Program(regression), S, {"beta": beta, "scale": torch.full((S,), 0.1)})
    assert torch.equal(drawn.values["beta"], beta)
    assert abs(drawn.values["y"] - beta @ X.T).max() < 0.6


def test_draws_repeat_with_the_seed_and_use_up_random_numbers():
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found += [draw(Program(regression), 20).values["y"] for _ in range(2)]
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[4])


class Fixed(dist.Normal):
    """A sampler that takes its noise from elsewhere: under vmap the same for every draw."""

    has_rsample = False

    noise = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).tolist()
    taken = 0

    def sample(self, sample_shape=()):
        Fixed.taken += 1
        return self.loc + self.scale * self.noise[Fixed.taken]


def test_a_sampler_that_vmap_would_call_once_is_called_for_each_draw():
    def program():
        beta = pyro.sample("beta", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("z", Fixed(torch.zeros(()), 1.0))
        with pyro.plate("row", 8):
            pyro.sample("y", dist.Normal(X @ beta, 1.0))

    drawn = draw(Program(program), 100)
    assert drawn.how == "loop"
    assert drawn.values["z"].std() > 0.5


def test_a_program_that_branches_is_run_once_a_draw():
    def program():
        beta = pyro.sample("beta", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        scale = 5.0 if beta.sum() > 0 else 0.01
        with pyro.plate("row", 8):
            pyro.sample("y", dist.Normal(X @ beta, scale))

    drawn = draw(Program(program), 200)
    assert drawn.how == "loop"
    off = (drawn.values["y"] - drawn.values["beta"] @ X.T).std(1)
    positive = drawn.values["beta"].sum(1) > 0
    assert off[positive].min() > 10 * off[~positive].max()


RATE = torch.tensor([0.5, 2.0])
LAWS = {
    "normal": (lambda: dist.Normal(1.0, RATE), lambda k: stats.norm(1, RATE[k])),
    "cauchy": (lambda: dist.Cauchy(1.0, RATE), lambda k: stats.cauchy(1, RATE[k])),
    "half cauchy": (lambda: dist.HalfCauchy(RATE), lambda k: stats.halfcauchy(0, RATE[k])),
    "exponential": (lambda: dist.Exponential(RATE), lambda k: stats.expon(0, 1 / RATE[k])),
    "student": (lambda: dist.StudentT(4.0, 1.0, RATE), lambda k: stats.t(4, 1, RATE[k])),
    "beta": (lambda: dist.Beta(RATE, 3.0), lambda k: stats.beta(RATE[k], 3)),
}


@pytest.mark.parametrize("law", LAWS)
def test_what_vmap_draws_has_the_law_of_the_distribution(law):
    made, exact = LAWS[law]

    def program():
        beta = pyro.sample("beta", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("z", made().to_event(1))
        with pyro.plate("row", 8):
            pyro.sample("y", dist.Normal(X @ beta, 1.0))

    drawn = draw(Program(program), S)
    assert drawn.how == "vmap"
    z = drawn.values["z"].double().numpy()
    for k in (0, 1):
        assert stats.kstest(z[:, k], exact(k).cdf).pvalue > 1e-4
        assert stats.kstest(z[:, k], exact(1 - k).cdf).pvalue < 1e-4
    assert abs(np.corrcoef(stats.rankdata(z[:, 0]), stats.rankdata(z[:, 1]))[0, 1]) < 4.5 / S**0.5
