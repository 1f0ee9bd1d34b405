"""Explaining away: posterior, evidence and mean field, against conjugate algebra."""

import numpy as np
import pyro
import pytest
import torch
from build import build
from oracles.continuous_latents import causes_joint, causes_log_evidence, causes_posterior
from oracles.programs import (
    array,
    gaussian_elbo,
    gaussian_kl,
    log_ratio,
    mean_field_variances,
    row_log_ratios,
)
from oracles.programs import log_prob as log_joint_of
from pyro.infer import Trace_ELBO

import pyro_cookbook as pc
from guides.explaining_away import (
    ExplainingAwayAmortized,
    ExplainingAwayFullRank,
    ExplainingAwayMAP,
    ExplainingAwayMeanField,
)
from models.explaining_away import ExplainingAway
from pyro_cookbook.algorithms import explaining_away as closed

DTYPE = torch.float64
RTOL = {torch.float64: 1e-9, torch.float32: 1e-5}
STRENGTHS = {
    "two": torch.tensor([1.5, 2.0], dtype=DTYPE),
    "opposed": torch.tensor([-0.7, 2.0], dtype=DTYPE),
    "four": torch.tensor([0.5, -1.0, 2.0, 1.3], dtype=DTYPE),
}
strengths = pytest.mark.parametrize("w", STRENGTHS.values(), ids=STRENGTHS)


@pytest.fixture(scope="module")
def v() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2.5 * torch.randn(40, 1, generator=generator, dtype=DTYPE) + 0.3


def model_of(w, dtype=DTYPE) -> ExplainingAway:
    return build(ExplainingAway(len(w)), dtype, w=w)


def exact_guide(w, v, dtype=DTYPE) -> ExplainingAwayFullRank:
    mean, covariance = causes_posterior(w, v)
    guide = ExplainingAwayFullRank(*mean.shape)
    return build(guide, dtype, h_loc=mean, h_scale_tril=np.linalg.cholesky(covariance))


def exact_encoder(w, v, dtype=DTYPE) -> ExplainingAwayAmortized:
    """Made from the answers at v = 0 and v = 1: it has not seen the rows."""
    (offset, at_one), covariance = causes_posterior(w, torch.tensor([[0.0], [1.0]], dtype=DTYPE))
    guide = ExplainingAwayAmortized(len(w))
    weight = torch.as_tensor(at_one - offset)[:, None]
    guide.encoder[0].to(dtype).load_state_dict({"weight": weight, "bias": torch.as_tensor(offset)})
    return build(guide, dtype, h_scale_tril=np.linalg.cholesky(covariance))


def best_mean_field(w, v) -> ExplainingAwayMeanField:
    mean, covariance = causes_posterior(w, v)
    scale = np.broadcast_to(mean_field_variances(covariance) ** 0.5, mean.shape).copy()
    return build(ExplainingAwayMeanField(*mean.shape), h_loc=mean, h_scale=scale)


# --- the closed forms --------------------------------------------------------------------------


@strengths
def test_posterior_is_the_joint_gaussian_conditioned(w, v):
    for value, expected in zip(closed.posterior(w, v), causes_posterior(w, v), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-14)


@strengths
def test_log_evidence_is_the_density_of_the_marginal(w, v):
    np.testing.assert_allclose(closed.log_evidence(w, v), causes_log_evidence(w, v), rtol=1e-12)


@strengths
def test_draws_of_the_model_have_the_covariance_of_the_joint(w):
    num = 200_000
    with torch.no_grad(), pyro.poutine.trace() as tracer:
        model_of(w)(num_obs=num)
    h, v = (tracer.trace.nodes[name]["value"] for name in ("h", "v"))
    found, expected = np.cov(array(torch.cat([h, v], 1)).T), causes_joint(w)
    # The variance of a sample covariance is (C_ii C_jj + C_ij²) / n.
    se = np.sqrt((np.outer(expected.diagonal(), expected.diagonal()) + expected**2) / num)
    assert (np.abs(found - expected) < 5 * se).all()
    assert np.abs(found - np.eye(len(found))).max() > 50 * se.max()  # w = 0 would not do


@strengths
def test_correlation_is_that_of_the_posterior(w):
    covariance = causes_posterior(w, torch.zeros(1, 1, dtype=DTYPE))[1]
    sd = covariance.diagonal() ** 0.5
    expected = covariance / np.outer(sd, sd)
    np.testing.assert_allclose(closed.posterior_correlation(w), expected, rtol=1e-12)
    assert np.sign(expected[0, 1]) == -np.sign(float(w[0] * w[1]))  # explaining away


# --- log p(v, h) − log q(h | v) = log p(v) for every draw --------------------------------------


@strengths
@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize("make_guide", [exact_guide, exact_encoder])
def test_each_draw_from_the_posterior_gives_the_evidence(w, v, make_guide, dtype):
    model, guide = model_of(w, dtype), make_guide(w, v, dtype)
    expected = causes_log_evidence(w, v)
    for _ in range(20):
        rows = row_log_ratios(model, guide, v.to(dtype))
        np.testing.assert_allclose(rows, expected, rtol=10 * RTOL[dtype])


@strengths
def test_each_draw_from_another_gaussian_gives_another_number(w, v):
    model, guide = model_of(w), best_mean_field(w, v)
    ratios = [log_ratio(model, guide, v) for _ in range(100)]
    assert np.std(ratios) > 1
    assert np.mean(ratios) < causes_log_evidence(w, v).sum() - 1


# --- mean field --------------------------------------------------------------------------------


@strengths
def test_the_updates_end_at_the_best_factorised_gaussian(w, v):
    found = closed.mean_field(w, v)
    mean, covariance = causes_posterior(w, v)
    start = torch.zeros_like(found.loc)
    assert found.converged
    assert np.abs(array(start) - mean).max() > 0.1  # the start fails
    np.testing.assert_allclose(found.loc, mean, atol=1e-10)
    np.testing.assert_allclose(found.scale, mean_field_variances(covariance) ** 0.5, rtol=1e-12)
    optimum = closed.mean_field_optimum(w, v)
    for value, expected in zip(optimum, (found.loc, found.scale), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-10)


@strengths
def test_the_updates_never_lower_the_bound(w, v):
    start = 5 * torch.randn(len(v), len(w), dtype=DTYPE)
    found = closed.mean_field(w, v, start=start)
    assert found.elbo[-1] - found.elbo[0] > 1
    assert np.diff(found.elbo).min() > -1e-12 * abs(found.elbo[-1])
    assert torch.equal(found.path[0], start)
    np.testing.assert_allclose(found.loc, causes_posterior(w, v)[0], atol=1e-10)


@strengths
def test_the_bound_of_mean_field_is_that_of_the_program(w, v):
    loc, scale = torch.randn(len(v), len(w)).to(v), torch.rand(len(v), len(w)).to(v) + 0.5
    guide = build(ExplainingAwayMeanField(*loc.shape), h_loc=loc, h_scale=scale)
    expected = gaussian_elbo(model_of(w), guide, v)
    elbo = closed.mean_field_elbo(w, v, loc, scale)
    assert elbo.shape == (len(v),)
    assert float(elbo.sum()) == pytest.approx(expected, rel=1e-10)


@strengths
def test_the_gap_is_the_kl_of_the_best_factorised_gaussian(w, v):
    mean, covariance = causes_posterior(w, v)
    kl = gaussian_kl(mean, np.diag(mean_field_variances(covariance)), mean, covariance)
    bound = gaussian_elbo(model_of(w), best_mean_field(w, v), v)
    assert kl > 1
    assert causes_log_evidence(w, v).sum() - bound == pytest.approx(kl, rel=1e-9)
    assert closed.mean_field(w, v).elbo[-1] == pytest.approx(bound, rel=1e-12)


@pytest.mark.parametrize("w", [STRENGTHS["two"], STRENGTHS["opposed"]], ids=["two", "opposed"])
def test_one_number_sets_the_sds_the_gap_and_the_speed(w, v):
    rho = float(closed.posterior_correlation(w)[0, 1])
    found = closed.mean_field(w, v)
    mean, covariance = causes_posterior(w, v)
    shrunk = array(found.scale) / np.sqrt(covariance.diagonal())
    np.testing.assert_allclose(shrunk, np.sqrt(1 - rho**2), rtol=1e-12)
    gap = causes_log_evidence(w, v).sum() - found.elbo[-1]
    assert gap == pytest.approx(-0.5 * len(v) * np.log(1 - rho**2), rel=1e-9)
    error = np.abs(array(found.path) - mean).max((1, 2))
    np.testing.assert_allclose(error[3:6] / error[2:5], rho**2, rtol=1e-6)


@strengths
def test_gradients_of_trace_elbo_vanish_at_the_fixed_point(w, v):
    """Many draws in one run: the mean gradient is within its Monte-Carlo error of 0."""
    found = closed.mean_field(w, v)
    scale = found.scale.expand_as(found.loc)

    def gradients(loc, scale) -> tuple[np.ndarray, np.ndarray]:
        guide = build(ExplainingAwayMeanField(*loc.shape), h_loc=loc, h_scale=scale)
        rows = []
        for _ in range(200):
            guide.zero_grad()
            elbo = Trace_ELBO(num_particles=10, vectorize_particles=True, max_plate_nesting=1)
            elbo.loss_and_grads(model_of(w), guide, v)
            rows.append(torch.cat([p.grad.flatten() for p in guide.parameters()]).numpy())
        rows = np.array(rows)
        return rows.mean(0), rows.std(0) / len(rows) ** 0.5

    mean, se = gradients(found.loc, scale)
    assert np.abs(mean / se).max() < 5
    beside, se = gradients(found.loc, 1.3 * scale)
    assert np.abs(beside / se).max() > 10


def test_svi_reaches_the_fixed_point(v):
    w = STRENGTHS["two"]
    loc, scale = closed.mean_field_optimum(w, v)
    model = model_of(w).requires_grad_(False)
    elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    guide = ExplainingAwayMeanField(len(v), 2)
    fit = pc.fit(model, guide, v, elbo=elbo, lr=0.1, tol=0.5)
    assert np.abs(array(guide.h_loc) - array(loc)).max() > 1  # the start fails
    assert np.abs(array(fit.guide.h_loc) - array(loc)).max() < 0.15
    assert np.abs(array(fit.guide.h_scale / scale) - 1).max() < 0.2
    gap = float(closed.log_evidence(w, v).sum()) - fit.elbo.value
    optimum = -0.5 * len(v) * np.log(1 - float(closed.posterior_correlation(w)[0, 1]) ** 2)
    assert optimum - 4 * fit.elbo.se < gap < optimum + 1 + 4 * fit.elbo.se


# --- the point ---------------------------------------------------------------------------------


def test_the_mode_is_the_posterior_mean(v):
    w = STRENGTHS["two"]
    mode = torch.as_tensor(causes_posterior(w, v)[0])
    at = build(ExplainingAwayMAP(*mode.shape), h_loc=mode)
    height = log_ratio(model_of(w), at, v)
    assert height == pytest.approx(log_joint_of(model_of(w), {"h": mode}, v), rel=1e-12)
    for step in (0.01, -0.01):
        beside = build(ExplainingAwayMAP(*mode.shape), h_loc=mode + step)
        assert log_ratio(model_of(w), beside, v) < height


def test_per_row_guides_refuse_other_rows(v):
    for guide in (ExplainingAwayMAP, ExplainingAwayMeanField, ExplainingAwayFullRank):
        with pytest.raises(ValueError, match="use an amortized guide"):
            guide(len(v))(v[:3])
    assert ExplainingAwayAmortized()(v[:3].float(), num_obs=40)["h"].shape == (3, 2)


def test_a_new_start_draws_new_strengths():
    model = ExplainingAway(3)
    before = model.w.detach().clone()
    model.reset_parameters()
    assert not torch.equal(before, model.w)
    assert [name for name, _ in model.named_parameters()] == ["w_unconstrained"]
