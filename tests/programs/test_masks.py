"""A masked entry is neither a latent nor an observation: the exact answer of the seen rows."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyro_cookbook as pc

N, NOISE = 40, 0.3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, generator=GENERATOR)
Y = 1.5 * X + NOISE * torch.randn(N, generator=GENERATOR)
SEEN = torch.rand(N, generator=GENERATOR) < 0.7
MASKED = {
    "plain": Y,
    "nan": torch.where(SEEN, Y, torch.nan),
    "minus one": torch.where(SEEN, Y, -1.0),
}


def by_mask(x, y, seen):
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)), poutine.mask(mask=seen):
        pyro.sample("y", dist.Normal(b * x, NOISE), obs=y)


def by_distribution(x, y, seen):
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(b * x, NOISE).mask(seen), obs=y)


def by_obs_mask(x, y, seen):
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(b * x, NOISE), obs=y, obs_mask=seen)


def exact():
    """Posterior and evidence of the slope by the seen rows alone."""
    x, y = X[SEEN].double(), Y[SEEN].double()
    precision = 1 + float(x @ x) / NOISE**2
    mean = float(x @ y) / NOISE**2 / precision
    covariance = torch.outer(x, x) + NOISE**2 * torch.eye(len(x), dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(0 * y, covariance)
    return mean, precision**-0.5, float(normal.log_prob(y))


@pytest.mark.parametrize("values", MASKED)
@pytest.mark.parametrize("model", [by_mask, by_distribution, by_obs_mask])
def test_full_rank_is_the_posterior_of_the_seen_rows(model, values):
    mean, sd, evidence = exact()
    fit = pc.fit(model, "full_rank", X, MASKED[values], SEEN)
    draws = pc.to_datatree(fit, num_draws=4000).posterior["b"]
    assert fit.converged
    assert float(draws.mean()) == pytest.approx(mean, abs=4 * sd / 4000**0.5)
    assert float(draws.std()) == pytest.approx(sd, rel=4 / (2 * 4000) ** 0.5)
    assert fit.elbo.value == pytest.approx(evidence, abs=1e-2)


def test_all_rows_would_give_another_answer():
    _, sd, evidence = exact()
    whole = pc.fit(by_mask, "full_rank", X, Y, torch.ones(N, dtype=torch.bool))
    assert abs(whole.elbo.value - evidence) > 1
    assert abs(float(whole.guide.get_posterior().stddev.detach()) / sd - 1) > 0.05


@pytest.mark.parametrize("family", ["map", "mean_field", "low_rank", "laplace"])
def test_other_families_take_masked_rows_too(family):
    mean, sd, _ = exact()
    fit = pc.fit(by_mask, family, X, MASKED["nan"], SEEN)
    draws = pc.to_datatree(fit, num_draws=2000).posterior["b"]
    assert float(draws.mean()) == pytest.approx(mean, abs=4 * sd / 2000**0.5 + 1e-3)
    assert math.isfinite(fit.elbo.value)


def test_the_verdict_is_that_of_the_seen_rows():
    _, _, evidence = exact()
    diagnosis = pc.diagnose(pc.fit(by_mask, "full_rank", X, MASKED["nan"], SEEN))
    assert diagnosis.verdict == "reliable"
    assert diagnosis.evidence.value == pytest.approx(evidence, abs=1e-2)


def test_latents_under_a_mask_keep_to_the_seen_rows():
    def model(y, seen):
        with pyro.plate("row", len(y)), poutine.mask(mask=seen):
            h = pyro.sample("h", dist.Normal(y.new_zeros(()), 1.0))
            pyro.sample("y", dist.Normal(h, 1.0), obs=y)

    fit = pc.fit(model, "mean_field", MASKED["nan"], SEEN)
    exact = torch.distributions.Normal(0.0, 2**0.5).log_prob(Y)[SEEN].sum()
    assert fit.elbo.value == pytest.approx(float(exact), abs=1e-2)
    draws = pc.to_datatree(fit, num_draws=2000).posterior["h"][0, :, SEEN.numpy()]
    assert abs(draws.mean("draw") - Y[SEEN].numpy() / 2).max() < 5 * (0.5 / 2000) ** 0.5
