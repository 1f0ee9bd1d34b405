"""Eight schools: one model in two parametrisations, and its guides, by an integral and PyMC."""

import arviz as az
import numpy as np
import pyro
import pytest
import torch
from build import build
from oracles.continuous_latents import schools_posterior
from oracles.programs import array, log_prob, log_ratio
from torch import Tensor

import pyro_cookbook as pc
from guides.eight_schools import EightSchoolsFullRank, EightSchoolsMAP, EightSchoolsMeanField
from models.eight_schools import eight_schools_centred, eight_schools_noncentred

DTYPE = torch.float64


@pytest.fixture(scope="module")
def schools() -> tuple[Tensor, Tensor]:
    """ArviZ's copy of Rubin's table: standard errors and effects."""
    tree = az.load_arviz_data("centered_eight")
    y, sigma = tree["observed_data"]["obs"], tree["constant_data"]["sigma"]
    return torch.tensor(sigma.to_numpy(), dtype=DTYPE), torch.tensor(y.to_numpy(), dtype=DTYPE)


def test_the_integral_agrees_with_the_draws_of_pymc(schools):
    """ArviZ ships PyMC's run on the same model: 2,000 draws, here taken as 400."""
    exact = schools_posterior(*schools)
    draws = az.load_arviz_data("non_centered_eight")["posterior"]
    for name, (mean, sd) in (("mu", exact.mu), ("tau", exact.tau), ("theta", exact.theta)):
        found = draws[name].mean(("chain", "draw")).to_numpy()
        assert (np.abs(found - mean) < 4 * np.asarray(sd) / 400**0.5).all()
        spread = draws[name].std(("chain", "draw")).to_numpy()
        np.testing.assert_allclose(spread, sd, rtol=0.1)


def test_both_parametrisations_are_one_model(schools):
    """log p(μ, τ, θ, y) + J log τ = log p(μ, τ, η, y) with θ = μ + τ η."""
    sigma, y = schools
    for _ in range(5):
        mu, tau, eta = 5 * torch.randn(()), torch.rand(()) * 9 + 0.1, torch.randn(8)
        shared = {"mu": mu.to(y), "tau": tau.to(y)}
        theta = (mu + tau * eta).to(y)
        centred = log_prob(eight_schools_centred, {**shared, "theta": theta}, sigma, y)
        other = log_prob(eight_schools_noncentred, {**shared, "eta": eta.to(y)}, sigma, y)
        assert centred + 8 * float(tau.log()) == pytest.approx(other, rel=1e-6)


def conditional(schools, tau: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of (μ, θ) given τ and y, by completing the square."""
    sigma, y = schools
    precision = torch.zeros(9, 9, dtype=DTYPE)
    precision[0, 0] = 1 / 25 + 8 / tau**2
    precision[0, 1:] = precision[1:, 0] = -1 / tau**2
    precision[1:, 1:] = torch.diag(1 / sigma.square() + 1 / tau**2)
    linear = torch.cat([y.new_zeros(1), y / sigma.square()])
    return torch.linalg.solve(precision, linear), torch.linalg.inv(precision)


@pytest.mark.parametrize("site", ["theta", "eta"])
def test_given_tau_full_rank_is_exact(schools, site):
    """With log τ nearly fixed, log p − log q is the same for every draw of μ and the schools."""
    tau, width = 4.0, 1e-7
    loc, covariance = conditional(schools, tau)
    if site == "eta":
        change = torch.eye(9, dtype=DTYPE) / tau
        change[0, 0], change[1:, 0] = 1, -1 / tau
        loc, covariance = change @ loc, change @ covariance @ change.mT
    order = [0, 9, *range(1, 9)]  # log τ in between
    full = torch.zeros(10, 10, dtype=DTYPE)
    full[:9, :9], full[9, 9] = covariance, width**2
    joint = torch.cat([loc, loc.new_tensor([np.log(tau)])])[order]
    guide = build(
        EightSchoolsFullRank(8, site), loc=joint,
        scale_tril=torch.linalg.cholesky(full[order][:, order]),
    )  # fmt: skip
    model = eight_schools_centred if site == "theta" else eight_schools_noncentred
    density = torch.distributions.Normal(0.0, 1.0)
    values = []
    for _ in range(20):
        with torch.no_grad():
            trace = pyro.poutine.trace(guide).get_trace(*schools)
        latent = trace.nodes["latent"]["value"]
        eps = (latent[1] - np.log(tau)) / width
        log_q_tau = float(density.log_prob(eps)) - np.log(width)
        replayed = pyro.poutine.trace(pyro.poutine.replay(model, trace)).get_trace(*schools)
        with torch.no_grad():
            log_ratio_ = float(replayed.log_prob_sum() - trace.log_prob_sum())
        values.append(log_ratio_ + log_q_tau)
    sigma, y = (array(one) for one in schools)
    # log p(τ, y) + log τ, with μ and θ integrated out in another way than in the oracle.
    marginal = np.diag(sigma**2 + tau**2) + 25
    log_p = -0.5 * (y @ np.linalg.solve(marginal, y) + np.linalg.slogdet(2 * np.pi * marginal)[1])
    log_p += np.log(2 / (np.pi * 5 * (1 + (tau / 5) ** 2))) + np.log(tau)
    np.testing.assert_allclose(values, log_p, atol=1e-4)


def test_guides_have_the_densities_they_say(schools):
    values = {
        "mu": torch.tensor(1.5, dtype=DTYPE),
        "tau": torch.tensor(3.0, dtype=DTYPE),
        "theta": torch.arange(8.0, dtype=DTYPE),
    }
    guide = build(EightSchoolsMeanField(8), log_tau_loc=torch.tensor(0.4), mu_loc=torch.tensor(2.0))
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = (
        normal.log_prob(torch.tensor(-0.5))
        + normal.log_prob(values["tau"].log() - 0.4)
        - values["tau"].log()
        + normal.log_prob(values["theta"]).sum()
    )
    assert log_prob(guide, values, *schools) == pytest.approx(float(expected), rel=1e-6)
    point = build(EightSchoolsMAP(8), tau_loc=torch.tensor(2.0))
    height = log_ratio(eight_schools_centred, point, *schools)
    at = {"mu": values["mu"] * 0, "tau": values["tau"] * 0 + 2, "theta": values["theta"] * 0}
    assert height == pytest.approx(log_prob(eight_schools_centred, at, *schools), rel=1e-12)


def test_guides_refuse_other_schools(schools):
    sigma, y = schools
    for guide in (EightSchoolsMAP, EightSchoolsMeanField, EightSchoolsFullRank):
        with pytest.raises(ValueError, match="factor for each of 8 rows"):
            guide(8)(sigma[:5], y[:5])


def test_noncentred_mean_field_is_close_and_centred_is_too_sure(schools):
    exact = schools_posterior(*schools)
    verdicts = {}
    for model in (eight_schools_centred, eight_schools_noncentred):
        fit = pc.fit(model, "mean_field", *schools)
        found = pc.diagnose(fit, log_evidence=exact.log_evidence)
        draws = pc.to_datatree(fit, num_draws=4000)["posterior"]
        spread = float(np.log(draws["tau"]).std()) / exact.log_tau[1]
        verdicts[model.__name__] = (found.verdict, found.gap.value, spread)
    verdict, gap, spread = verdicts["eight_schools_centred"]
    assert verdict == "unreliable"
    assert gap > 1
    assert spread < 0.4
    verdict, gap, spread = verdicts["eight_schools_noncentred"]
    assert verdict != "unreliable"
    assert 0 < gap < 0.5
    assert 0.55 < spread < 1.3
