"""Answers beside exact ones, by quadrature: densities of maximum entropy, auto-encoders."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from answered import (
    answers_of,
    autoencoder,
    bits,
    block,
    counts,
    entropy,
    measurements,
)
from oracles.programs import array
from scipy import integrate, stats

from guides.variational_autoencoder import VariationalAutoencoderMeanField
from models.variational_autoencoder import VariationalAutoencoder
from pyro_cookbook.algorithms import factor_analysis
from pyro_cookbook.algorithms.variational_autoencoder.bounds import on_grid
from pyro_cookbook.algorithms.variational_autoencoder.refinement import elbo, refine
from pyro_cookbook.fits.fitting import as_fit

# --- densities of maximum entropy ----------------------------------------------------------------


def test_a_normal_of_largest_entropy_in_raw_units():
    fit, table = entropy("normal"), measurements()
    loc = table.loc.numpy() + table.scale.numpy() * array(fit.guide.h_loc)
    exact = stats.norm(loc, table.scale.numpy() * array(fit.guide.h_scale))
    rows = answers_of("04b").apply(fit, table)
    raw = table.raw.numpy()
    below = np.column_stack([rows[f"P(below)[{c}]"] for c in table.columns])
    np.testing.assert_allclose(below, exact.cdf(raw))
    np.testing.assert_allclose(rows["log density"], exact.logpdf(raw).sum(1))
    lines = answers_of("04b").estimates(fit, table)["mean"]
    np.testing.assert_allclose(lines.iloc[:6], [*exact.mean(), *exact.std()])
    assert lines["entropy"] == pytest.approx(exact.entropy().sum())


def test_a_flow_of_largest_entropy_by_quadrature():
    """Column by column on a fine grid of raw values, the others held at a row's."""
    fit, table = entropy("flow"), measurements()
    apply, lines = answers_of("04b").apply, answers_of("04b").estimates(fit, table)["mean"]
    entropies = []
    for d, column in enumerate(table.columns):
        v = torch.linspace(-40, 40, 20_001, dtype=torch.float64)
        rows = table.v[:1].repeat(len(v), 1)
        rows[:, d] = v
        x = (table.loc[d] + table.scale[d] * v).numpy()

        found = apply(fit, replace(table, v=rows, raw=table.loc + table.scale * rows))
        density = np.exp(found["log density"] - found["log density"].max())
        density /= integrate.trapezoid(density, x)
        mean = integrate.trapezoid(density * x, x)
        variance = integrate.trapezoid(density * (x - mean) ** 2, x)
        assert lines[f"mean[{column}]"] == pytest.approx(mean, abs=1e-4 * variance**0.5)
        assert lines[f"sd[{column}]"] == pytest.approx(variance**0.5, rel=1e-4)
        positive = np.maximum(density, 1e-300)
        entropies.append(-integrate.trapezoid(density * np.log(positive), x))
        below = integrate.cumulative_trapezoid(density, x, initial=0)
        np.testing.assert_allclose(found[f"P(below)[{column}]"], below, atol=1e-4)
    assert lines["entropy"] == pytest.approx(sum(entropies), abs=1e-3)


# --- the variational auto-encoder ----------------------------------------------------------------


def test_rows_of_an_encoder_are_the_encoders():
    fit, table = autoencoder("amortized"), measurements()
    rows = answers_of("05c").apply(fit, table)
    loc, scale = (one.detach() for one in fit.guide.encode(table.v))
    np.testing.assert_allclose(block(rows, "h[{}] mean", 2), array(loc))
    np.testing.assert_allclose(block(rows, "h[{}] sd", 2), array(scale))
    mean = table.loc + table.scale * fit.model.decoder(loc)
    told = np.column_stack([rows[f"reconstruction[{c}]"] for c in table.columns])
    np.testing.assert_allclose(told, array(mean))
    evidence = array(on_grid(fit.model, table.v).log_evidence) - float(table.scale.log().sum())
    assert (rows["ELBO"] < evidence + 1e-6).all()
    lines = answers_of("05c").estimates(fit, table)["mean"]
    assert lines["activity[1]"] == pytest.approx(float(loc[:, 1].var(correction=0)))
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(loc, scale), torch.distributions.Normal(0.0, 1.0)
    ).mean(0)
    assert lines["KL[0]"] == pytest.approx(float(kl[0]))
    active = sum(float(loc[:, k].var(correction=0)) > 0.01 for k in range(2))
    assert lines["active latents"] == active


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "beta_binomial"])
def test_rows_without_an_encoder_come_close_to_their_evidence(likelihood):
    """By a grid over both latents; the prior in the posterior's place is far from it."""
    fit = autoencoder("mean_field", likelihood)
    table = {"gaussian": measurements, "bernoulli": bits, "beta_binomial": counts}[likelihood]()
    rows = answers_of("05c").apply(fit, table)
    v = table.v if likelihood == "gaussian" else table.raw
    exact = on_grid(fit.model, v)
    best = refine(fit.model, v, exact.mean, exact.sd, num_steps=400, num_draws=16)
    eps = torch.randn(2000, 1, 2, dtype=torch.float64)
    units = float(table.scale.log().sum()) if likelihood == "gaussian" else 0.0
    bound = array(elbo(fit.model, v, best.loc, best.scale, eps)) - units
    prior = array(elbo(fit.model, v, 0 * best.loc, 0 * best.scale + 1, eps)) - units
    evidence = array(exact.log_evidence) - units
    assert (rows["ELBO"] - evidence).max() < 0.05  # 32 draws of a bound
    lost = bound - rows["ELBO"]
    assert lost.mean() < 0.05
    assert lost.max() < 0.5  # in a row of two modes the other may have been found
    assert (bound - prior).mean() > 0.5
    off = (block(rows, "h[{}] mean", 2) - array(best.loc)) / array(best.scale)
    assert np.median(abs(off)) < 0.1


def test_row_by_row_is_exact_where_the_posterior_is_independent_normals():
    """A linear decoder with columns at right angles: probabilistic PCA with its own axes."""
    table = measurements()
    model = VariationalAutoencoder(3, 2, (), isotropic=True).double()
    model.decoder[0].weight.data = torch.tensor([[2.0, 0.0], [0.0, 0.7], [1.0, 0.0]]).double()
    model.decoder[0].bias.data = torch.tensor([0.1, -0.2, 0.3]).double()
    model.scale = torch.tensor([0.5], dtype=torch.float64)
    fit = as_fit(model, VariationalAutoencoderMeanField(90, 2).double(), table.v)
    theta = factor_analysis.FactorAnalysisParameters(
        model.decoder[0].weight, model.decoder[0].bias, model.scale.expand(3)
    )
    mean, covariance = factor_analysis.posterior(theta, table.v)
    rows = answers_of("05c").apply(fit, table)
    sd = array(covariance.diagonal().sqrt())
    off = (block(rows, "h[{}] mean", 2) - array(mean)) / sd
    assert abs(off).max() < 0.15
    np.testing.assert_allclose(block(rows, "h[{}] sd", 2), np.tile(sd, (90, 1)), rtol=0.05)
    evidence = array(factor_analysis.log_evidence(theta, table.v) - table.scale.log().sum())
    gap = evidence - rows["ELBO"]
    assert gap.min() > -1e-9
    assert gap.max() < 0.01
