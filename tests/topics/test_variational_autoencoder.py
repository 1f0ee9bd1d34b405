"""Variational auto-encoder: likelihoods, the linear case, grids, bounds, refinement, collapse."""

import numpy as np
import pyro
import pytest
import torch
from build import build
from oracles import variational_autoencoder as oracle
from oracles.programs import (
    array,
    factor_analysis_log_evidence,
    factor_analysis_marginal,
    factor_analysis_posterior,
    gaussian_elbo,
    gaussian_kl,
    log_prob,
    row_log_ratios,
)
from pyro.infer import Trace_ELBO
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.decomposition import PCA
from torch import Tensor

import pyro_cookbook as pc
from guides.variational_autoencoder import (
    VariationalAutoencoderAmortized,
    VariationalAutoencoderMeanField,
)
from models.variational_autoencoder import LIKELIHOODS, VariationalAutoencoder
from pyro_cookbook.algorithms.factor_analysis import FactorAnalysisParameters
from pyro_cookbook.algorithms.variational_autoencoder import bounds, linear, refinement
from pyro_cookbook.algorithms.variational_autoencoder.early_stopping import in_rounds
from pyro_cookbook.catalogue.topics.variational_autoencoder import likelihood_for

RTOL = {torch.float64: 1e-9, torch.float32: 1e-5}
NUM_LATENTS, TOTAL = 2, 6


@pytest.fixture(scope="module")
def theta(wine: Tensor) -> FactorAnalysisParameters:
    """Probabilistic PCA of the wines; b not 0, as its sign counts."""
    best = linear.optimum(wine, NUM_LATENTS)
    return FactorAnalysisParameters(best.W, best.b + torch.linspace(-0.5, 1, 13), best.scale)


def linear_model(theta: FactorAnalysisParameters, dtype: torch.dtype = torch.float64):
    model = VariationalAutoencoder(*theta.W.shape, hidden=(), isotropic=len(theta.scale) == 1)
    build(model, dtype, scale=theta.scale)
    model.decoder[0].load_state_dict({"weight": theta.W, "bias": theta.b})
    return model


def linear_guide(theta: FactorAnalysisParameters, dtype: torch.dtype = torch.float64, unit=1.0):
    """Put the encoder of the closed form into a network without hidden layers."""
    best = linear.encoder(theta)
    num_features, num_latents = theta.W.shape
    guide = VariationalAutoencoderAmortized(num_features, num_latents, (), unit).to(dtype)
    weight = torch.cat([unit * best.A, torch.zeros_like(best.A)])
    bias = torch.cat([best.c, best.scale.log()])
    guide.encoder[0].load_state_dict({"weight": weight, "bias": bias})
    return guide


def network(likelihood: str, **options) -> VariationalAutoencoder:
    """A decoder with a hidden layer and weights large enough to bend the posterior."""
    model = VariationalAutoencoder(
        5, NUM_LATENTS, (8,), likelihood=likelihood, total_count=TOTAL, **options
    ).double()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2)
    if likelihood == "gaussian":
        model.scale = torch.linspace(0.6, 1.4, len(model.scale)).double()
    return model


@pytest.fixture(params=LIKELIHOODS)
def bent(request) -> tuple[VariationalAutoencoder, Tensor]:
    model = network(request.param)
    with torch.no_grad():
        return model, model(num_obs=7)


# --- the model ---------------------------------------------------------------------------------


def test_the_model_is_the_oracle(bent):
    model, v = bent
    h = torch.randn(7, NUM_LATENTS).double()
    expected = oracle.log_likelihood(model, array(h), array(v)) + norm.logpdf(array(h)).sum(1)
    assert log_prob(model, {"h": h}, v) == pytest.approx(expected.sum(), rel=1e-10)


def test_prior_predictive_of_the_linear_model_has_its_moments(theta):
    n = 40_000
    with torch.no_grad():
        drawn = array(linear_model(theta)(num_obs=n))
    covariance = factor_analysis_marginal(theta)
    error = (covariance.diagonal() / n) ** 0.5
    np.testing.assert_array_less(abs(drawn.mean(0) - array(theta.b)), 5 * error)
    largest = (2 / n) ** 0.5 * covariance.diagonal().max()
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=5 * largest)
    assert abs(covariance - np.diag(covariance.diagonal())).max() > 20 * largest


def test_counts_stay_within_their_range():
    with torch.no_grad():
        drawn = network("beta_binomial")(num_obs=2000)
    assert (drawn == drawn.round()).all()
    assert (drawn.min(), drawn.max()) == (0, TOTAL)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match=r"^likelihood: got 'poisson', expected one of gaussian"):
        VariationalAutoencoder(3, 1, likelihood="poisson")
    with pytest.raises(ValueError, match=r"^total_count: got 0, expected at least 1"):
        VariationalAutoencoder(3, 1, likelihood="beta_binomial", total_count=0)


def test_a_new_start_is_another_start(bent):
    for module in (bent[0], VariationalAutoencoderAmortized(5, 2, (4,))):
        before = [p.detach().clone() for p in module.parameters()]
        module.reset_parameters()
        assert all(not p.equal(old) for p, old in zip(module.parameters(), before, strict=True))


# --- linear: probabilistic PCA -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", RTOL, ids=str)
def test_each_draw_from_the_linear_encoder_gives_the_evidence(wine, theta, dtype):
    expected = factor_analysis_log_evidence(theta, wine)
    for unit in (1.0, 4.0):
        model, guide = linear_model(theta, dtype), linear_guide(theta, dtype, unit)
        for _ in range(50):
            rows = row_log_ratios(model, guide, wine.to(dtype))
            np.testing.assert_allclose(rows, expected, rtol=10 * RTOL[dtype])


def test_the_linear_encoder_is_exact_on_rows_it_has_not_seen(wine, theta):
    unseen = 3 * wine.flip(0)[:20] + 1
    rows = row_log_ratios(linear_model(theta), linear_guide(theta), unseen)
    np.testing.assert_allclose(rows, factor_analysis_log_evidence(theta, unseen), rtol=1e-9)


def rotated(theta: FactorAnalysisParameters) -> FactorAnalysisParameters:
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]]).double()
    return FactorAnalysisParameters(theta.W @ turn, theta.b, theta.scale)


def test_turned_axes_cost_the_linear_encoder_its_kl(wine, theta):
    turned = rotated(theta)
    mean, covariance = factor_analysis_posterior(turned, wine)
    q = np.diag(1 / np.diag(np.linalg.inv(covariance)))
    gap = factor_analysis_log_evidence(turned, wine).sum() - gaussian_elbo(
        linear_model(turned), linear_guide(turned), wine
    )
    assert gap == pytest.approx(gaussian_kl(mean, q, mean, covariance), rel=1e-8)
    assert gap > 5
    np.testing.assert_allclose(linear.encoder(turned).scale ** 2, np.diag(q), rtol=1e-10)


@pytest.mark.parametrize("num_latents", [1, 2, 5])
def test_the_optimum_is_sklearns_probabilistic_pca(wine, num_latents):
    best = linear.optimum(wine, num_latents)
    n = len(wine)
    peer = PCA(num_latents).fit(wine.numpy() * ((n - 1) / n) ** 0.5)  # it divides by n − 1
    covariance = factor_analysis_marginal(best)
    np.testing.assert_allclose(covariance, peer.get_covariance(), atol=1e-10)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.9, 2.5])
def test_no_other_loadings_do_better_at_a_held_scale(wine, scale):
    best = linear.optimum(wine, NUM_LATENTS, scale)
    top = factor_analysis_log_evidence(best, wine).sum()
    for size in (0.05, 0.3):
        for _ in range(5):
            W = best.W + size * torch.randn_like(best.W)
            beside = FactorAnalysisParameters(W, best.b, best.scale)
            assert factor_analysis_log_evidence(beside, wine).sum() < top


# --- collapse ----------------------------------------------------------------------------------


def test_latents_collapse_one_by_one_at_the_roots_of_the_eigenvalues(wine):
    values = np.linalg.eigvalsh(np.cov(array(wine).T, ddof=0))[::-1]
    np.testing.assert_allclose(linear.eigenvalues(wine), values, atol=1e-10)
    assert linear.collapse_scale(wine) == pytest.approx(values[0] ** 0.5)
    for i, value in enumerate(values[:3]):
        for factor, active in ((0.99, i + 1), (1.01, i)):
            best = linear.optimum(wine, 3, factor * value**0.5)
            assert int((best.W.norm(dim=0) > 0).sum()) == active


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.4, 1.6, 2.1, 2.2, 3.0])
def test_the_rate_is_the_mean_kl_from_the_prior(wine, scale):
    best = linear.optimum(wine, 3, scale)
    mean, covariance = factor_analysis_posterior(best, wine)
    kl = gaussian_kl(mean, covariance, np.zeros(3), np.eye(3)) / len(wine)
    rate = linear.rate(linear.eigenvalues(wine), 3, scale)
    assert rate == pytest.approx(kl, abs=1e-10)
    assert (rate > 1e-3) == (scale < linear.collapse_scale(wine))


def kl_after_training(v: Tensor, ratio: float) -> float:
    """Train with the noise scale held at a share of the threshold; mean KL from the prior."""
    pyro.set_rng_seed(0)
    model = VariationalAutoencoder(v.shape[1], 2, (16,), isotropic=True).to(v)
    model.scale = torch.tensor([ratio * linear.collapse_scale(v)]).to(v)
    model.scale_unconstrained.requires_grad_(False)
    guide = VariationalAutoencoderAmortized(v.shape[1], 2, (16,)).to(v)
    elbo = Trace_ELBO(8, vectorize_particles=True, max_plate_nesting=1)
    fit = pc.fit(model, guide, v, elbo=elbo, lr=0.02, max_steps=500)
    with torch.no_grad():
        loc, scale = fit.guide.encode(v)
    return float((loc**2 + scale**2 - 1 - 2 * scale.log()).sum(1).mean() / 2)


def test_a_network_collapses_beyond_the_same_threshold(iris):
    v = iris - iris.mean(0)
    assert kl_after_training(v, 0.7) > 0.2
    assert kl_after_training(v, 1.15) < 0.01


# --- the evidence on a grid --------------------------------------------------------------------


def test_the_grid_is_gauss_hermite(bent):
    model, v = bent
    found = bounds.on_grid(model, v, limit=7.0, num_points=141)
    log_evidence, mean, sd = oracle.by_gauss_hermite(model, array(v))
    np.testing.assert_allclose(found.log_evidence, log_evidence, atol=1e-6)
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)
    np.testing.assert_allclose(found.sd, sd, atol=1e-6)
    np.testing.assert_allclose(found.log_posterior.exp().sum(0), 1, atol=1e-10)


def test_the_grid_is_exact_for_the_linear_model(wine, theta, monkeypatch):
    expected = factor_analysis_log_evidence(theta, wine)
    mean, covariance = factor_analysis_posterior(theta, wine)
    for chunk in (2**22, 178 * 13 * 40):  # few pieces, and many
        monkeypatch.setattr(bounds, "_CHUNK_NUMBERS", chunk)
        found = bounds.on_grid(linear_model(theta), wine, limit=7.0, num_points=81)
        np.testing.assert_allclose(found.log_evidence, expected, rtol=1e-9)
        np.testing.assert_allclose(found.mean, mean, atol=1e-8)
        np.testing.assert_allclose(found.sd, np.tile(covariance.diagonal() ** 0.5, (178, 1)))


def test_a_grid_of_one_latent_and_of_three(wine):
    best = linear.optimum(wine, 1)
    found = bounds.on_grid(linear_model(best), wine, limit=7.0)
    np.testing.assert_allclose(
        found.log_evidence, factor_analysis_log_evidence(best, wine), rtol=1e-9
    )
    with pytest.raises(ValueError, match=r"^model: it has 3 latents, expected 1 or 2"):
        bounds.on_grid(linear_model(linear.optimum(wine, 3)), wine)


# --- bounds ------------------------------------------------------------------------------------


def test_importance_weighted_bounds_of_given_weights():
    weights = torch.randn(7, 3).double()
    np.testing.assert_allclose(bounds.importance_weighted_bound(weights, 1), weights.mean(0))
    two = [logsumexp(array(weights)[i : i + 2], axis=0) - np.log(2) for i in (0, 2, 4)]
    np.testing.assert_allclose(bounds.importance_weighted_bound(weights, 2), np.mean(two, axis=0))
    for wrong in (0, 8):
        with pytest.raises(ValueError, match=rf"^num_samples: got {wrong}, expected 1 to 7"):
            bounds.importance_weighted_bound(weights, wrong)


def test_bounds_rise_from_the_elbo_to_the_evidence(bent, monkeypatch):
    model, v = bent
    guide = VariationalAutoencoderAmortized(5, NUM_LATENTS, (4,)).double()
    state = torch.get_rng_state()
    weights = bounds.log_weights(model, guide, v, 8000)
    assert torch.get_rng_state().equal(state)
    evidence, *_ = oracle.by_gauss_hermite(model, array(v))
    means = [float(bounds.importance_weighted_bound(weights, k).sum()) for k in (1, 10, 100, 8000)]
    assert np.diff(means).min() > 0
    relative = (weights - weights.amax(0)).exp()
    error = (relative.std(0) / relative.mean(0) / 8000**0.5).norm()  # of the log of the mean
    assert means[-1] == pytest.approx(evidence.sum(), abs=5 * float(error))
    assert means[0] < evidence.sum() - 20 * float(error)
    # the ELBO, by the closed form of the KL and draws of its own
    with torch.no_grad():
        loc, scale = guide.encode(v)
        elbo = refinement.elbo(model, v, loc, scale, torch.randn(8000, 7, 2).double())
    noise = float((weights.std(0) / 8000**0.5).norm()) * 2**0.5
    assert means[0] == pytest.approx(float(elbo.sum()), abs=5 * noise)
    monkeypatch.setattr(bounds, "_CHUNK_NUMBERS", 35 * 3)  # three draws at once
    pieces = bounds.log_weights(model, guide, v, 10)
    assert pieces.shape == (10, 7)
    assert len(pieces.unique(dim=0)) == 10


def test_the_weights_of_the_exact_encoder_are_the_evidence(wine, theta):
    weights = bounds.log_weights(linear_model(theta), linear_guide(theta), wine, 5)
    expected = factor_analysis_log_evidence(theta, wine)
    np.testing.assert_allclose(weights, np.tile(expected, (5, 1)), rtol=1e-9)


def test_batches_add_up(wine, theta):
    model, guide = linear_model(theta), linear_guide(theta)
    parts = [-Trace_ELBO().loss(model, guide, v, num_obs=178) * len(v) for v in wine.split(50)]
    expected = factor_analysis_log_evidence(theta, wine).sum()
    assert sum(parts) / 178 == pytest.approx(expected, rel=1e-9)


# --- refinement and training -------------------------------------------------------------------


@pytest.mark.parametrize("turn", [False, True])
def test_refinement_finds_the_best_product_for_every_row(wine, theta, turn):
    theta = rotated(theta) if turn else theta
    model, best = linear_model(theta), linear.encoder(theta)
    start = torch.zeros(178, 2).double(), torch.ones(178, 2).double()
    found = refinement.refine(model, wine, *start, num_steps=300, lr=0.1)
    assert all(p.grad is None for p in model.parameters())

    def bound(loc: Tensor, scale: Tensor) -> float:
        guide = build(VariationalAutoencoderMeanField(178, 2), h_loc=loc, h_scale=scale)
        return gaussian_elbo(model, guide, wine) / 178

    top = bound(wine @ best.A.mT + best.c, best.scale.expand(178, -1))
    assert bound(*start) < top - 1
    # Four draws a step leave noise: in a row below 0.01 nats at the last, a tenth, rate.
    assert top - 0.01 < bound(found.loc, found.scale) <= top + 1e-9
    assert np.mean(found.elbo[-50:]) == pytest.approx(top, abs=0.05)


def test_refinement_starts_where_it_is_told(bent):
    model, v = bent
    loc, scale = torch.randn(7, NUM_LATENTS).double(), 0.2 + torch.rand(7, NUM_LATENTS).double()
    found = refinement.refine(model, v, loc, scale, num_steps=0)
    np.testing.assert_allclose(found.loc, loc, rtol=1e-12)
    np.testing.assert_allclose(found.scale, scale, rtol=1e-12)


def test_a_linear_auto_encoder_learns_probabilistic_pca(wine):
    best = linear.optimum(wine, NUM_LATENTS)
    top = factor_analysis_log_evidence(best, wine).sum()
    pyro.set_rng_seed(1)
    model = VariationalAutoencoder(13, NUM_LATENTS, (), isotropic=True).double()
    guide = VariationalAutoencoderAmortized(13, NUM_LATENTS, ()).double()
    start = float(bounds.log_weights(model, guide, wine, 200).mean(0).sum())
    elbo = Trace_ELBO(8, vectorize_particles=True, max_plate_nesting=1)
    fit = pc.fit(model, guide, wine, elbo=elbo, lr=0.03, max_steps=900)
    assert start < top - 500
    assert top - 3 < fit.elbo.value < top + 4 * fit.elbo.se
    with torch.no_grad():
        W, scale = fit.model.decoder[0].weight, fit.model.scale
        learnt = FactorAnalysisParameters(W, fit.model.decoder[0].bias, scale)
    np.testing.assert_allclose(
        factor_analysis_marginal(learnt), factor_analysis_marginal(best), atol=0.05
    )


def test_training_stops_when_the_score_has_stopped_rising():
    scores = [1.0, 3.0, 2.0, 2.5, 9.0]
    found = in_rounds(lambda state, r: [*state, r], lambda s: scores[s[-1]], [], patience=2)
    assert (found.best, found.best_round, found.scores) == ([0, 1], 1, scores[:4])
    last = in_rounds(lambda _, r: r, float, 0, patience=2, max_rounds=3)
    assert (last.best, last.best_round) == (2, 2)
    first = in_rounds(lambda _, r: r, lambda r: -float(r), 7, patience=1)
    assert (first.best, first.scores) == (0, [0.0, -1.0])
    with pytest.raises(ValueError, match=r"^patience: got 0, expected at least 1"):
        in_rounds(lambda s, _: s, float, 0, patience=0)


def test_the_catalogue_chooses_the_likelihood_by_the_columns():
    whole = torch.tensor([[0.0, 3], [2, 1]])
    assert likelihood_for(whole) == ("beta_binomial", 3)
    assert likelihood_for((whole > 1).double()) == ("bernoulli", 1)
    for rows in (whole + 0.5, -whole, 1000 * whole, 0 * whole):
        assert likelihood_for(rows) == ("gaussian", 1)
