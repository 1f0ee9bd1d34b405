"""Factor analysis: evidence, posterior, EM, maximum and each guide's gap, against exact answers."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from build import build, exact_encoder, exact_factors
from oracles.programs import (
    array,
    factor_analysis_log_evidence,
    factor_analysis_marginal,
    factor_analysis_posterior,
    gaussian_elbo,
    gaussian_kl,
    log_prob,
    log_ratio,
    mean_field_variances,
    row_log_ratios,
)
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as SklearnFactorAnalysis
from torch import Tensor

from guides.factor_analysis import (
    FactorAnalysisFullRank,
    FactorAnalysisMAP,
    FactorAnalysisMeanField,
)
from models.factor_analysis import FactorAnalysis
from pyro_cookbook.algorithms import factor_analysis as module
from pyro_cookbook.algorithms.factor_analysis import (
    LEAST_NOISE,
    FactorAnalysisParameters,
    em,
    log_evidence,
    maximise,
    posterior,
)

NUM_FACTORS = 3
RTOL = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.fixture(scope="module")
def theta(wine: Tensor) -> FactorAnalysisParameters:
    """W by EM, rotated as the random start happens to leave it; b not 0: its sign counts."""
    theta = em(wine, NUM_FACTORS)[0]
    return FactorAnalysisParameters(theta.W, theta.b + torch.linspace(-0.5, 1, 13), theta.scale)


def model_of(theta: FactorAnalysisParameters, dtype: torch.dtype = torch.float64) -> FactorAnalysis:
    isotropic = len(theta.scale) == 1 < len(theta.W)
    return build(FactorAnalysis(*theta.W.shape, isotropic=isotropic), dtype, **vars(theta))


def best_mean_field(theta: FactorAnalysisParameters, v: Tensor) -> FactorAnalysisMeanField:
    mean, covariance = factor_analysis_posterior(theta, v)
    scale = np.broadcast_to(mean_field_variances(covariance) ** 0.5, mean.shape)
    return build(FactorAnalysisMeanField(*mean.shape), h_loc=mean, h_scale=scale.copy())


# --- the closed forms --------------------------------------------------------------------------


@pytest.mark.parametrize("num_scales", [13, 1])
def test_log_evidence_is_the_density_of_the_marginal(wine, theta, num_scales):
    theta = FactorAnalysisParameters(theta.W, theta.b, theta.scale[:num_scales])
    expected = factor_analysis_log_evidence(theta, wine)
    np.testing.assert_allclose(log_evidence(theta, wine), expected, rtol=1e-10)


@pytest.mark.parametrize("num_scales", [13, 1])
def test_posterior_is_the_joint_gaussian_conditioned(wine, theta, num_scales):
    theta = FactorAnalysisParameters(theta.W, theta.b, theta.scale[:num_scales])
    for value, expected in zip(
        posterior(theta, wine), factor_analysis_posterior(theta, wine), strict=True
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-12)


# --- log p(v, h) − log q(h | v) = log p(v) for every draw --------------------------------------


@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize("make_guide", [exact_factors, exact_encoder])
def test_each_draw_from_the_posterior_gives_the_evidence(wine, theta, make_guide, dtype):
    model, guide = model_of(theta, dtype), make_guide(theta, wine, dtype)
    expected = factor_analysis_log_evidence(theta, wine)
    for _ in range(100):
        rows = row_log_ratios(model, guide, wine.to(dtype))
        assert rows.sum() == pytest.approx(expected.sum(), rel=RTOL[dtype])
        np.testing.assert_allclose(rows, expected, rtol=10 * RTOL[dtype])


def test_encoder_is_exact_on_rows_it_has_not_seen(wine, theta):
    unseen = 3 * wine.flip(0)[:20] + 1
    rows = row_log_ratios(model_of(theta), exact_encoder(theta, wine), unseen)
    np.testing.assert_allclose(rows, factor_analysis_log_evidence(theta, unseen), rtol=1e-9)


def test_each_draw_from_another_gaussian_gives_another_number(wine, theta):
    model, guide = model_of(theta), best_mean_field(theta, wine)
    expected = factor_analysis_log_evidence(theta, wine).sum()
    ratios = [log_ratio(model, guide, wine) for _ in range(100)]
    assert np.std(ratios) > 1
    assert np.mean(ratios) < expected - 1


# --- the gap of each guide ---------------------------------------------------------------------


@pytest.mark.parametrize("make_guide", [exact_factors, exact_encoder])
def test_exact_guides_have_no_gap(wine, theta, make_guide):
    bound = gaussian_elbo(model_of(theta), make_guide(theta, wine), wine)
    assert bound == pytest.approx(factor_analysis_log_evidence(theta, wine).sum(), rel=1e-12)


def test_gap_of_mean_field_is_its_kl_from_the_posterior(wine, theta):
    loc, covariance = factor_analysis_posterior(theta, wine)
    kl = gaussian_kl(loc, np.diag(mean_field_variances(covariance)), loc, covariance)
    evidence = factor_analysis_log_evidence(theta, wine).sum()
    bound = gaussian_elbo(model_of(theta), best_mean_field(theta, wine), wine)
    assert kl > 1
    assert evidence - bound == pytest.approx(kl, abs=1e-8)


def test_gap_of_any_gaussian_is_its_kl_from_the_posterior(wine, theta):
    loc, tril = torch.randn(178, 3), torch.randn(3, 3).tril(-1) + torch.diag(torch.rand(3) + 0.5)
    guide = build(FactorAnalysisFullRank(178, 3), h_loc=loc, h_scale_tril=tril)
    kl = gaussian_kl(array(loc), array(tril @ tril.mT), *factor_analysis_posterior(theta, wine))
    evidence = factor_analysis_log_evidence(theta, wine).sum()
    assert evidence - gaussian_elbo(model_of(theta), guide, wine) == pytest.approx(kl, rel=1e-6)


@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("name", ["h_loc", "h_scale"])
def test_mean_field_is_at_its_optimum(wine, theta, name, factor):
    model, guide = model_of(theta), best_mean_field(theta, wine)
    best = gaussian_elbo(model, guide, wine)
    setattr(guide, name, getattr(guide, name).detach() * factor)
    assert gaussian_elbo(model, guide, wine) < best - 0.1


def test_rotation_to_diagonal_posterior_closes_the_mean_field_gap(wine, theta):
    precision = (theta.W / theta.scale[:, None].square()).mT @ theta.W
    rotated = FactorAnalysisParameters(
        theta.W @ torch.linalg.eigh(precision).eigenvectors, theta.b, theta.scale
    )
    evidence = factor_analysis_log_evidence(theta, wine).sum()
    assert log_evidence(rotated, wine).sum() == pytest.approx(evidence, rel=1e-12)
    assert gaussian_elbo(model_of(theta), best_mean_field(theta, wine), wine) < evidence - 1
    bound = gaussian_elbo(model_of(rotated), best_mean_field(rotated, wine), wine)
    assert bound == pytest.approx(evidence, rel=1e-12)


# --- the delta is no bound ---------------------------------------------------------------------


def test_value_of_the_delta_is_the_log_joint_at_the_mode(wine, theta):
    model, (mode, _) = model_of(theta), posterior(theta, wine)
    value = log_ratio(model, build(FactorAnalysisMAP(178, 3), h_loc=mode), wine)
    assert value == pytest.approx(log_prob(model, {"h": mode}, wine), rel=1e-12)
    beside = build(FactorAnalysisMAP(178, 3), h_loc=mode + 0.01)
    assert log_ratio(model, beside, wine) < value


def in_other_units(theta: FactorAnalysisParameters, unit: float):
    """Return the same p(v), told with the factors measured in units of `unit`: h' = h / unit."""

    def model(v: Tensor) -> None:
        with pyro.plate("row", len(v), dim=-1):
            scale = torch.full((NUM_FACTORS,), 1 / unit, dtype=v.dtype)
            h = pyro.sample("h", dist.Normal(torch.zeros_like(scale), scale).to_event(1))
            loc = (unit * h) @ theta.W.mT + theta.b
            pyro.sample("v", dist.Normal(loc, theta.scale).to_event(1), obs=v)

    return model


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_units_of_the_factors_do_not_change_the_bound_of_a_gaussian(wine, theta, unit):
    mean, covariance = posterior(theta, wine)
    tril = torch.linalg.cholesky(covariance)
    guide = build(FactorAnalysisFullRank(178, 3), h_loc=mean / unit, h_scale_tril=tril / unit)
    value = log_ratio(in_other_units(theta, unit), guide, wine)
    assert value == pytest.approx(float(log_evidence(theta, wine).sum()), rel=1e-9)


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_units_of_the_factors_change_the_value_of_the_delta(wine, theta, unit):
    mode, _ = posterior(theta, wine)
    before = log_ratio(model_of(theta), build(FactorAnalysisMAP(178, 3), h_loc=mode), wine)
    model, guide = in_other_units(theta, unit), build(FactorAnalysisMAP(178, 3), h_loc=mode / unit)
    shift = log_ratio(model, guide, wine) - before
    assert shift == pytest.approx(mode.numel() * np.log(unit), rel=1e-9)


def test_value_of_the_delta_can_exceed_the_evidence(wine, theta):
    mode, _ = posterior(theta, wine)
    guide = build(FactorAnalysisMAP(178, 3), h_loc=mode / 1e3)
    evidence = float(log_evidence(theta, wine).sum())
    assert log_ratio(in_other_units(theta, 1e3), guide, wine) > evidence + 1000


# --- EM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_factors", [1, 2, 3])
def test_em_reaches_the_likelihood_of_sklearn(wine, num_factors):
    theta, trace = em(wine, num_factors)
    peer = SklearnFactorAnalysis(num_factors, tol=1e-10, max_iter=5000, svd_method="lapack")
    expected = peer.fit(wine.numpy()).score(wine.numpy()) * len(wine)
    assert float(log_evidence(theta, wine).sum()) == pytest.approx(expected, rel=1e-7)
    assert trace[0] < expected - 100


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_em_never_lowers_the_evidence(wine, isotropic, seed):
    _, trace = em(wine, NUM_FACTORS, isotropic=isotropic, seed=seed, max_iterations=200)
    assert np.diff(trace).min() > -1e-12 * abs(trace[-1])


def test_em_reports_the_evidence_of_its_parameters(wine):
    theta, trace = em(wine, NUM_FACTORS)
    expected = factor_analysis_log_evidence(theta, wine).sum()
    assert trace[-1] == pytest.approx(expected, rel=1e-12)
    _, (start,) = em(wine, NUM_FACTORS, start=theta, max_iterations=1)
    assert start == pytest.approx(expected, rel=1e-12)


def test_log_evidence_of_probabilistic_pca_is_the_score_of_sklearn(wine):
    peer = PCA(NUM_FACTORS, svd_solver="full").fit(wine.numpy())
    loadings = peer.components_.T * np.sqrt(peer.explained_variance_ - peer.noise_variance_)
    theta = FactorAnalysisParameters(
        torch.tensor(loadings),
        torch.tensor(peer.mean_),
        torch.tensor([peer.noise_variance_**0.5]),
    )
    expected = peer.score_samples(wine.numpy())
    np.testing.assert_allclose(log_evidence(theta, wine), expected, rtol=1e-10)


def test_isotropic_em_is_probabilistic_pca(wine):
    """sklearn divides the covariance by n − 1, the maximum of the likelihood by n."""
    theta, _ = em(wine, NUM_FACTORS, isotropic=True, tol=1e-14)
    assert theta.scale.shape == (1,)
    peer = PCA(NUM_FACTORS, svd_solver="full").fit(wine.numpy())
    expected = peer.get_covariance() * (len(wine) - 1) / len(wine)
    np.testing.assert_allclose(factor_analysis_marginal(theta), expected, atol=1e-6)
    assert float(log_evidence(theta, wine).sum()) > len(wine) * peer.score(wine.numpy())


# --- the maximum of the likelihood -------------------------------------------------------------


@pytest.mark.parametrize("num_factors", [1, 2, 3])
def test_maximum_is_that_of_em_and_of_sklearn(wine, num_factors):
    found = maximise(wine, num_factors)
    peer = SklearnFactorAnalysis(num_factors, tol=1e-10, max_iter=5000, svd_method="lapack")
    expected = peer.fit(wine.numpy()).score(wine.numpy()) * len(wine)
    theta, trace = em(wine, num_factors, tol=1e-13, max_iterations=3000)
    assert found.converged
    assert found.log_evidence[-1] == pytest.approx(expected, rel=1e-7)
    assert found.log_evidence[-1] == pytest.approx(trace[-1], rel=1e-8)
    assert found.log_evidence[-1] > trace[-1] - 1e-9
    np.testing.assert_allclose(
        factor_analysis_marginal(found.theta), factor_analysis_marginal(theta), atol=1e-3
    )
    assert found.log_evidence[0] < expected - 100


def test_maximum_is_climbed_to_and_reported(wine):
    found = maximise(wine, NUM_FACTORS)
    assert np.diff(found.log_evidence).min() >= 0
    expected = factor_analysis_log_evidence(found.theta, wine).sum()
    assert found.log_evidence[-1] == pytest.approx(expected, rel=1e-12)
    stopped = maximise(wine, NUM_FACTORS, max_iterations=3)
    assert not stopped.converged
    assert stopped.log_evidence == found.log_evidence[:4]
    expected = factor_analysis_log_evidence(stopped.theta, wine).sum()
    assert stopped.log_evidence[-1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["W", "b", "scale"])
def test_beside_the_maximum_the_evidence_is_lower(wine, name):
    theta = maximise(wine, NUM_FACTORS).theta
    best = float(log_evidence(theta, wine).sum())
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        value = getattr(theta, name)
        eps = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        moved = FactorAnalysisParameters(**{**vars(theta), name: value + 0.01 * eps})
        assert float(log_evidence(moved, wine).sum()) < best


def test_isotropic_maximum_is_probabilistic_pca(wine):
    found = maximise(wine, NUM_FACTORS, isotropic=True)
    assert found.theta.scale.shape == (1,)
    peer = PCA(NUM_FACTORS, svd_solver="full").fit(wine.numpy())
    expected = peer.get_covariance() * (len(wine) - 1) / len(wine)
    np.testing.assert_allclose(factor_analysis_marginal(found.theta), expected, rtol=1e-9)
    assert float(log_evidence(found.theta, wine).sum()) == pytest.approx(found.log_evidence[-1])


def test_noise_that_vanishes_is_stopped_where_it_is_said_to(wine):
    """A column twice: a factor explains it whole, and the evidence rises without end."""
    twice = torch.cat([wine, wine[:, :1]], 1)
    found = maximise(twice, NUM_FACTORS)
    variance = found.theta.scale.square() / twice.var(0, correction=0)
    np.testing.assert_allclose(variance[[0, -1]], LEAST_NOISE, rtol=0.02)
    assert variance.min() > 0.98 * LEAST_NOISE
    assert (variance > 0.1).sum() > 9


def test_where_a_noise_falls_to_nothing_the_maximum_is_above_what_em_has_come_to():
    rng = np.random.default_rng(1)
    v = torch.tensor(rng.normal(size=(100, 5)) @ rng.normal(size=(5, 5)))
    found, trace = maximise(v, 1), em(v, 1, max_iterations=1000)[1]
    variance = found.theta.scale.square() / v.var(0, correction=0)
    assert variance.min() == pytest.approx(LEAST_NOISE, rel=0.02)
    assert trace[-1] < found.log_evidence[-1] < trace[-1] + 1
    assert trace[-1] > trace[0] + 10


def test_chunks_and_single_precision_change_only_rounding(monkeypatch, wine):
    found = maximise(wine, NUM_FACTORS)
    monkeypatch.setattr(module, "CHUNK_ROWS", 7)
    chunked, single = maximise(wine, NUM_FACTORS), maximise(wine.float(), NUM_FACTORS)
    assert chunked.log_evidence[-1] == pytest.approx(found.log_evidence[-1], rel=1e-12)
    assert single.log_evidence[-1] == pytest.approx(found.log_evidence[-1], rel=1e-6)
    assert {x.dtype for x in vars(single.theta).values()} == {torch.float32}
