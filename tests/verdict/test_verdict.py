"""The verdict where the posterior is known: right guides pass, wrong ones get advice."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_cookbook as pc

SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
EFFECT = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])


def correlated():
    covariance = torch.tensor([[1.0, 0.95], [0.95, 1.0]])
    pyro.sample("h", dist.MultivariateNormal(torch.zeros(2), covariance))


def schools(sigma, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(5.0))
    with pyro.plate("school", 8, dim=-1):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def skewed():
    pyro.sample("rate", dist.Gamma(torch.full((150,), 2.5), torch.full((150,), 1.0)).to_event(1))


def two_modes(apart):
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 10.0))
        ends = torch.stack([-((x - apart) ** 2) / 2, -((x + apart) ** 2) / 2])
        pyro.factor("data", ends.logsumexp(0))

    return model


def test_a_right_guide_is_reliable_and_its_table_right():
    diagnosis = pc.diagnose(pc.fit(correlated, "full_rank"))
    assert diagnosis.verdict == "reliable"
    # 20,000 draws: standard errors 0.007 of a mean, 0.005 of an sd.
    assert diagnosis.table["mean"].abs().max() < 0.03
    assert diagnosis.table["sd"].tolist() == pytest.approx([1.0, 1.0], abs=0.02)
    assert diagnosis.table["stretch"].max() < 0.1


def test_a_measured_error_is_the_true_one():
    table = pc.diagnose(pc.fit(correlated, "mean_field")).table
    true = 1 - (1 - 0.95**2) ** 0.5
    assert table["stretch"].tolist() == pytest.approx([true, true], abs=0.06)


def test_a_missed_correlation_is_named():
    diagnosis = pc.diagnose(pc.fit(correlated, "mean_field"))
    assert diagnosis.verdict == "unreliable"
    assert any("'h[0]' and 'h[1]' are correlated (+0.9" in step for step in diagnosis.advice)
    assert any("pc.sample(fit)" in step for step in diagnosis.advice)


def test_a_funnel_is_refused_and_the_advice_mends_it():
    diagnosis = pc.diagnose(pc.fit(schools, "full_rank", SIGMA, EFFECT))
    assert diagnosis.verdict == "unreliable"
    assert any("non-centre 'theta'" in step for step in diagnosis.advice)
    assert "'tau'" in diagnosis.reasons[0]
    mended = pc.fit(schools, "full_rank", SIGMA, EFFECT, noncentred=True)
    assert mended.noncentred == ("theta",)
    again = pc.diagnose(mended)
    assert again.verdict.startswith("reliable")
    assert "theta[7]" in again.table.index  # what the reader asked for, not only θ's noise


def test_in_many_dimensions_right_marginals_pass_though_weights_cannot_be_used():
    diagnosis = pc.diagnose(pc.fit(skewed, "full_rank"))
    assert diagnosis.khats["joint"] > 0.7
    assert diagnosis.table["sd"].tolist() == pytest.approx([2.5**0.5] * 150, rel=0.2)
    assert diagnosis.verdict == "reliable"


def test_a_mode_far_away_is_noticed_though_the_weights_are_perfect():
    diagnosis = pc.diagnose(pc.fit(two_modes(8.0), "full_rank"))
    assert diagnosis.khats["joint"] < 0.5
    assert diagnosis.table["stretch"].max() < 0.2
    assert diagnosis.verdict == "unreliable"
    assert any("2 modes" in reason for reason in diagnosis.reasons)


def test_modes_that_one_guide_covers_are_no_reason():
    fit = pc.fit(two_modes(1.3), "full_rank")
    assert len(fit.modes) == 2
    assert not any("modes" in reason for reason in pc.diagnose(fit).reasons)


def test_same_seed_same_verdict():
    fit = pc.fit(schools, "mean_field", SIGMA, EFFECT)
    one, two = pc.diagnose(fit, seed=5), pc.diagnose(fit, seed=5)
    assert one.table.equals(two.table)
    assert str(one) == str(two)
