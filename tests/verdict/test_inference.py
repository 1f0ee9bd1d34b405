"""The whole ladder in one call: it stops at the first numbers that may be used."""

from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_cookbook as pc
from pyro_cookbook.posterior.nuts import OutOfTime
from pyro_cookbook.verdict import inference

Y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64)


def line(y):
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 5.0), obs=y)


def skewed(y):
    rate = pyro.sample("rate", dist.Exponential(y.new_ones(())))
    shift = pyro.sample("shift", dist.Normal(y.new_zeros(()), 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.StudentT(2.0, shift**3 / 9, 1 / rate), obs=y)


def two_places(y):
    h = pyro.sample("h", dist.Normal(y.new_zeros(()), 3.0))
    pyro.sample("y", dist.Normal(h**2, 0.5), obs=y)


def test_an_easy_model_needs_one_rung():
    answer = pc.infer(line, Y)
    assert answer.may_be_used
    assert list(answer.tried.index) == ["as it is"]
    precision = 1 / 100 + len(Y) / 25
    drawn = answer.tree(num_draws=4000)["posterior"]["mu"]
    assert float(drawn.mean()) == pytest.approx(float(Y.sum()) / 25 / precision, abs=5 * 1.7 / 63)
    assert float(drawn.std()) == pytest.approx(precision**-0.5, rel=5 / 89)
    assert "as it is" in str(answer)


def exact_schools():
    """Mean and sd of tau and of theta_0, on a grid, with mu summed out."""
    tau = np.linspace(0.001, 60, 6000)
    s2 = 100 + tau[:, None] ** 2
    precision = 1 / 25 + (1 / s2).sum(1, keepdims=True) * np.ones((1, 8))
    precision = 1 / 25 + 8 / s2[:, 0]
    centre = (Y.numpy() / s2).sum(1) / precision
    log_p = -(tau**2) / 50 - 4 * np.log(s2[:, 0]) - 0.5 * np.log(precision)
    log_p += 0.5 * precision * centre**2 - (Y.numpy() ** 2 / s2).sum(1) / 2
    w = np.exp(log_p - log_p.max())
    w /= w.sum()
    mean = (w * tau).sum()
    return mean, np.sqrt((w * (tau - mean) ** 2).sum())


def schools(y):
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(y.new_tensor(5.0)))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 10.0), obs=y)


def test_a_funnel_is_answered_and_the_answer_is_right():
    answer = pc.infer(schools, Y)
    assert answer.may_be_used
    assert len(answer.tried) > 1
    assert (answer.tried["verdict"].iloc[:-1] == "unreliable").all()
    mean, sd = exact_schools()
    tau = answer.tree(num_draws=4000)["posterior"]["tau"]
    # What the verdict promises.
    assert abs(float(tau.mean()) - mean) / sd < 0.25
    assert abs(float(tau.std()) / sd - 1) < 0.25


def test_two_modes_are_answered_with_their_weights():
    answer = pc.infer(two_places, torch.tensor(9.0, dtype=torch.float64))
    assert answer.verdict == "reliable after refining"
    assert list(answer.tried.index) == ["as it is", "refined"]
    h = answer.tree()["posterior"]["h"]
    assert abs(float((h > 0).mean()) - 0.5) < 0.05
    assert any("shares of the mass by hill" in reason for reason in answer.diagnosis.reasons)


@pytest.mark.parametrize(("budget", "expected"), [(1000.0, 1000.0), (0.001, 5.0)])
def test_nuts_gets_what_is_left_of_the_budget_and_says_if_that_was_not_enough(
    budget, expected, monkeypatch
):
    given = {}

    def by_nuts(fit, *, budget, **options):
        given["budget"] = budget
        raise OutOfTime("NUTS: 7 seconds were not enough for warm-up and 100 draws")

    def never(fit, **options):
        raise ArithmeticError("no chains")

    poor = pc.fit(schools, "mean_field", Y)
    monkeypatch.setattr(inference, "fit_once", lambda *args, **options: poor)
    monkeypatch.setattr(inference, "refine_as_it_is", never)
    monkeypatch.setattr(inference, "refine_by_nuts", by_nuts)
    stands_still = SimpleNamespace(perf_counter=lambda: 0.0)
    monkeypatch.setattr(inference, "time", stands_still)
    answer = pc.infer(schools, Y, budget=budget)
    assert given["budget"] == expected
    assert answer.tried.loc["NUTS", "verdict"] == "unreliable"
    assert "7 seconds were not enough" in answer.tried.loc["NUTS", "why"]
    assert answer.fit is poor  # the best so far is kept


def test_a_fit_of_lower_bound_is_not_judged(monkeypatch):
    judged = []

    def judge(fit, **options):
        judged.append(fit.noncentred)
        return pc.diagnose(fit, **options)

    monkeypatch.setattr(inference, "diagnose", judge)
    monkeypatch.setattr(inference, "_better", lambda found, best: False)
    answer = inference.infer(schools, Y)
    assert answer.tried.loc["non-centred", "why"] == "its bound is lower"
    assert judged == [(), ()]  # as it is, and what was refined from it


def test_the_budget_and_the_model_are_checked():
    with pytest.raises(ValueError, match="budget: got -1"):
        pc.infer(line, Y, budget=-1)
    with pytest.raises(ValueError, match="model: got the class Tensor"):
        pc.infer(torch.Tensor, Y)
