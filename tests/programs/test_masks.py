"""A masked entry is neither a latent nor an observation: the exact answer of the seen rows."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import constraints

import pyro_cookbook as pc
from pyro_cookbook.programs.density.log_density import log_density
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
from pyro_cookbook.programs.observing import MaskedSite
from pyro_cookbook.programs.program import Program

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


FIRST = torch.tensor([True, True, False, False])


SECOND = torch.tensor([True, False, True, False])


FOUR = torch.tensor([0.3, -1.0, 0.7, 2.0], dtype=torch.float64)


def test_an_entry_counts_where_no_mask_of_two_hides_it():
    def model():
        b = pyro.sample("b", dist.Normal(FOUR.new_zeros(()), 1.0))
        with pyro.plate("row", 4), poutine.mask(mask=FIRST):
            pyro.sample("y", dist.Normal(b, 0.5).mask(SECOND), obs=FOUR)

    found = log_density(Program(model), {"b": FOUR.new_tensor([0.2])})["y"][0]
    whole = dist.Normal(0.2, 0.5).log_prob(FOUR)
    torch.testing.assert_close(found, torch.where(FIRST & SECOND, whole, 0.0))


def test_an_idle_entry_is_standard_normal_on_its_unconstrained_scale():
    """Whatever its support: log N(z; 0, 1) with the volume of the transform, which cancels."""

    def model():
        with pyro.plate("row", 4), poutine.mask(mask=FIRST):
            h = pyro.sample("h", dist.Gamma(FOUR.new_tensor(2.0), 3.0))
            pyro.sample("y", dist.Normal(h, 1.0), obs=FOUR)

    density = UnconstrainedDensity(Program(model))
    z = np.tile([0.1, -0.4, 0.0, 0.0], (2, 1))
    z[1, 2:] = [1.3, -0.8]
    low, high = density.value(z)[::-1]
    np.testing.assert_allclose(high - low, (1.3**2 + 0.8**2) / 2, rtol=1e-12)


def test_what_is_flat_at_one_point_alone_is_not_idle():
    """The slope of a square at 0: what is observed depends on the masked entries all the same."""

    def model():
        with pyro.plate("row", 4), poutine.mask(mask=FIRST):
            h = pyro.sample("h", dist.ImproperUniform(constraints.real, (), ()))
        pyro.sample("y", dist.Normal((h**2).sum(), 1.0), obs=FOUR[0])

    assert Program(model).idle == {}


def test_a_masked_latent_and_a_masked_factor_do_not_count():
    def model():
        a = pyro.sample("a", dist.Normal(FOUR.new_zeros(()), 1.0))
        with poutine.mask(mask=False):
            pyro.factor("extra", -3 * a**2)
            b = pyro.sample("b", dist.Normal(a, 0.1))  # not idle: y depends on it
        pyro.sample("y", dist.Normal(b, 1.0), obs=FOUR[0])

    z = np.array([[0.5, 2.0], [-1.0, 0.3]])
    expected = [-(a**2) / 2 - (0.3 - b) ** 2 / 2 - np.log(2 * np.pi) for a, b in z]
    np.testing.assert_allclose(UnconstrainedDensity(Program(model)).value(z), expected, rtol=1e-12)


class Die(dist.TorchDistribution):
    """Six sides from 1 on: 0 is no side, and is no index of a logarithm either."""

    arg_constraints = {}  # noqa: RUF012 - as torch declares it
    support = constraints.integer_interval(1, 6)

    def log_prob(self, value):
        assert (value >= 1).all()
        return value.new_full(value.shape, -np.log(6.0))


def test_a_masked_entry_is_filled_from_within_the_support():
    site = MaskedSite(Die(torch.Size([4]), validate_args=False), FIRST)
    found = site.log_prob(torch.tensor([3.0, 6.0, -1.0, torch.nan]))
    torch.testing.assert_close(found, torch.where(FIRST, -np.log(6.0), 0.0))
