"""`fit`: what it accepts, what it refuses, and how it fails."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy import optimize

import pyro_cookbook as pc
from guides.factor_analysis import FactorAnalysisAmortized, FactorAnalysisMeanField
from models.factor_analysis import FactorAnalysis
from models.gaussian_mixture import GaussianMixture
from pyro_cookbook.engines.svi import SVI

ONE = torch.tensor(1.0, dtype=torch.float64)


def scale_model(y):
    """A positive latent: the posterior lives in unconstrained coordinates."""
    scale = pyro.sample("scale", dist.Gamma(y.new_tensor(2.0), y.new_tensor(1.0)))
    with pyro.plate("row", len(y), dim=-1):
        pyro.sample("y", dist.Normal(y.new_tensor(0.0), scale), obs=y)


@pytest.fixture(scope="module")
def y():
    return 2 * torch.randn(40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def log_joint(y, scale):
    return float(
        dist.Gamma(2 * ONE, ONE).log_prob(scale) + dist.Normal(0 * ONE, scale).log_prob(y).sum()
    )


def test_map_finds_the_mode_in_the_space_of_the_latent(y):
    fit = pc.fit(scale_model, "map", y)
    best = optimize.minimize_scalar(
        lambda s: -log_joint(y, s * ONE), bounds=(0.1, 10), method="bounded"
    )
    found = pc.to_datatree(fit, num_draws=10).posterior.scale[0]
    assert float(found[0]) == pytest.approx(best.x, rel=1e-3)
    assert fit.elbo.value == pytest.approx(-best.fun, abs=1e-3)


@pytest.mark.parametrize("family", ["laplace", "mean_field", "full_rank", "low_rank"])
@pytest.mark.parametrize("elbo", [None, Trace_ELBO(num_particles=4)], ids=["fixed", "fresh"])
def test_gaussian_families_reach_the_posterior_of_one_latent(y, family, elbo):
    grid = np.linspace(1.0, 4.0, 2001)
    density = np.array([log_joint(y, s * ONE) for s in grid])
    weight = np.exp(density - density.max())
    weight /= weight.sum()
    mean = float(weight @ grid)
    sd = float(np.sqrt(weight @ (grid - mean) ** 2))
    fit = pc.fit(scale_model, family, y, elbo=elbo)
    draws = pc.to_datatree(fit, num_draws=4000).posterior.scale
    assert fit.engine == ("stochastic" if elbo else "deterministic")
    assert fit.converged
    assert float(draws.mean()) == pytest.approx(mean, abs=0.25 * sd)
    assert float(draws.std()) == pytest.approx(sd, rel=0.15)


def test_a_flow_needs_two_latents(y):
    with pytest.raises(ValueError, match="'flow' needs two latent scalars"):
        pc.fit(scale_model, "flow", y)


def test_auto_is_full_rank_for_few_latents(y):
    assert pc.fit(scale_model, "auto", y, max_steps=500).family == "full_rank"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide": "meanfield"}, "guide: got 'meanfield', expected a guide or one of map"),
        ({"num_restarts": 0}, "num_restarts: got 0"),
        ({"max_steps": 0}, "max_steps: got 0"),
        ({"lr": -1.0}, "lr: got -1.0"),
        ({"batch_size": 0}, "batch_size: got 0"),
    ],
)
def test_bad_options_are_named_with_what_was_expected(y, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        pc.fit(scale_model, options.pop("guide", "auto"), y, **options)
    assert "\n" not in str(caught.value)


def test_a_discrete_latent_is_named(iris):
    with pytest.raises(ValueError, match="site 'h' is discrete"):
        pc.fit(GaussianMixture(4, 3), "mean_field", iris)


def test_restarts_need_something_to_redraw(wine):
    guide = FactorAnalysisMeanField(178, 2)
    model = FactorAnalysis(13, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="num_restarts: got 2, but neither"):
        pc.fit(model, guide, wine, num_restarts=2, max_steps=400)


def test_keywords_that_clash_with_options_go_into_data_kwargs(y):
    def model(y, seed=0.0):
        h = pyro.sample("h", dist.Normal(y.new_tensor(seed), 0.01))
        pyro.sample("y", dist.Normal(h, 1.0).expand(y.shape).to_event(1), obs=y)

    fit = pc.fit(model, "full_rank", y, data_kwargs={"seed": 5.0}, max_steps=3000)
    assert float(pc.to_datatree(fit, num_draws=50).posterior.h.mean()) == pytest.approx(5, abs=0.2)


def test_the_fit_follows_the_dtype_of_the_data(wine):
    programs = FactorAnalysis(13, 2), FactorAnalysisAmortized(13, 2)
    fit = pc.fit(*programs, wine.float(), max_steps=450)
    assert {p.dtype for p in fit.guide.parameters()} == {torch.float32}
    fit = pc.fit(*programs, wine, max_steps=450)
    assert {p.dtype for p in fit.guide.parameters()} == {torch.float64}


def test_losses_are_minus_the_elbo_and_elbo_has_the_true_sign(wine):
    fit = pc.fit(FactorAnalysis(13, 2), FactorAnalysisAmortized(13, 2), wine, max_steps=1500)
    assert fit.elbo.value == pytest.approx(-fit.losses[-200:].mean(), rel=1e-3)
    assert -fit.losses[0] < fit.elbo.value - 100


# --- failures ----------------------------------------------------------------------------------


class Fragile(pyro.nn.PyroModule):
    """A guide whose location falls until the model's density is not a number."""

    def __init__(self):
        super().__init__()
        self.loc = pyro.nn.PyroParam(torch.tensor(3.0))

    def forward(self, y):
        pyro.sample("h", dist.Normal(self.loc, 0.01))


def fragile_model(y):
    h = pyro.sample("h", dist.Normal(-20.0, 1.0))
    pyro.sample("y", dist.Normal(h**1.5, 1.0).expand(y.shape).to_event(1), obs=y)


def test_a_density_that_becomes_nan_stops_the_fit_and_names_step_and_site(y):
    with pytest.raises(pc.NonFiniteELBO, match="at site 'y'") as caught:
        pc.fit(fragile_model, Fragile(), y, lr=0.05)
    error = caught.value
    assert error.step > 10
    assert f"step {error.step}" in str(error)
    assert np.isnan(error.table.loc["y", "model"])
    assert np.isfinite(error.table.loc["h", "model"])
    assert "\n" not in str(error)
    kept = error.fit
    assert not kept.converged
    assert 0 < kept.guide.loc.item() < 3  # the last good parameters, not the start
    assert len(kept.losses) == error.step
    assert np.isfinite(kept.losses).all()


def test_a_density_of_minus_infinity_at_the_start_is_named_at_once(y):
    def model(y):
        h = pyro.sample("h", dist.Normal(y.new_tensor(0.0), 1.0))
        pyro.factor("barrier", torch.where(h.abs() < 1e9, -torch.inf, 0.0) * ONE)
        pyro.sample("y", dist.Normal(h, 1.0).expand(y.shape).to_event(1), obs=y)

    with pytest.raises(pc.NonFiniteELBO, match="step 0, at site 'barrier'") as caught:
        pc.fit(model, "full_rank", y, engine="stochastic")
    assert caught.value.fit is None
    with pytest.raises(
        ValueError, match=r"not finite at any .* it is not at site 'barrier'"
    ) as one:
        pc.fit(model, "full_rank", y)
    assert "\n" not in str(one.value)


# --- checkpoints -------------------------------------------------------------------------------


def interrupt(monkeypatch, at):
    """A KeyboardInterrupt in the middle of a step: its random numbers are drawn."""
    estimate, calls = SVI._estimate, []

    def interrupted(self, *args):
        found = estimate(self, *args)
        calls.append(found)
        if len(calls) == at:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(SVI, "_estimate", interrupted)


def test_an_interrupted_fit_resumes_with_the_same_numbers(y, tmp_path, monkeypatch):
    path = tmp_path / "fit.ckpt"
    options = {"engine": "stochastic", "max_steps": 1500, "seed": 4, "lr": 0.02}
    whole = pc.fit(scale_model, "full_rank", y, **options)
    with monkeypatch.context() as patch:
        interrupt(patch, 700)
        with pytest.raises(KeyboardInterrupt):
            pc.fit(scale_model, "full_rank", y, checkpoint=path, **options)
    assert path.exists()
    resumed = pc.fit(scale_model, "full_rank", y, checkpoint=path, **options)
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    assert resumed.elbo == whole.elbo


def test_mini_batches_and_restarts_resume_too(wine, tmp_path, monkeypatch):
    path = tmp_path / "fit.ckpt"
    programs = FactorAnalysis(13, 2), FactorAnalysisAmortized(13, 2)
    options = {"max_steps": 600, "batch_size": 50, "num_restarts": 2}
    whole = pc.fit(*programs, wine, **options)
    with monkeypatch.context() as patch:
        interrupt(patch, 1000)  # in the second start
        with pytest.raises(KeyboardInterrupt):
            pc.fit(*programs, wine, checkpoint=path, **options)
    resumed = pc.fit(*programs, wine, checkpoint=path, **options)
    assert [r.elbo for r in resumed.restarts] == [r.elbo for r in whole.restarts]
    np.testing.assert_array_equal(resumed.losses, whole.losses)


def test_a_checkpoint_of_another_fit_is_refused(y, tmp_path):
    path = tmp_path / "fit.ckpt"
    pc.fit(scale_model, "full_rank", y, max_steps=450, checkpoint=path)
    with pytest.raises(ValueError, match=r"checkpoint: .* was written with seed=0, got 1"):
        pc.fit(scale_model, "full_rank", y, max_steps=450, checkpoint=path, seed=1)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        pc.fit(scale_model, "full_rank", y, max_steps=450, checkpoint=path)


# --- the final bound ---------------------------------------------------------------------------


def test_the_elbo_and_its_standard_error_are_those_of_fresh_draws():
    """q = N(0, 1) and p = N(1, 1): log p − log q = h − ½, of mean −½ and variance 1."""

    def model():
        pyro.sample("h", dist.Normal(1.0, 1.0))

    def guide():
        pyro.sample("h", dist.Normal(0.0, 1.0))

    found = [pc.as_fit(model, guide, seed=seed).elbo for seed in range(20)]
    values = np.array([one.value for one in found])
    num_draws = 1000
    np.testing.assert_allclose([one.se for one in found], num_draws**-0.5, rtol=0.1)
    assert abs(values.mean() + 0.5) < 4 * (num_draws * len(found)) ** -0.5
    assert 0.5 < values.std(ddof=1) * num_draws**0.5 < 1.6  # as far apart as the error says


# --- keywords that the engine does not have ----------------------------------------------------


@pytest.mark.parametrize("keyword", ["lr", "tol"])
def test_a_keyword_that_the_engine_does_not_have_is_refused(y, keyword):
    with pytest.raises(ValueError, match=f"{keyword}: the deterministic engine, which fits"):
        pc.fit(scale_model, "mean_field", y, **{keyword: 0.1})
    asked = pc.fit(
        scale_model, "mean_field", y, engine="stochastic", max_steps=60, **{keyword: 0.1}
    )
    assert asked.engine == "stochastic"
