"""Sparse coding: codes, bounds and dictionaries against scikit-learn, SciPy and known truths."""

from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from build import build
from oracles import sparse_coding as oracle
from oracles.programs import log_ratio, row_log_ratios
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from scipy import stats
from torch import Tensor

import pyro_cookbook as pc
from guides.sparse_coding import (
    SparseCodingAmortized,
    SparseCodingGaussian,
    SparseCodingMAP,
    SparseCodingMeanField,
)
from models.sparse_coding import SparseCoding
from pyro_cookbook.algorithms.sparse_coding import fista as fista_module
from pyro_cookbook.algorithms.sparse_coding.fista import (
    SparseCodingParameters,
    duality_gap,
    fista,
    kkt_violation,
    largest_rate,
    log_normaliser,
    objective,
    soft_threshold,
)
from pyro_cookbook.posterior.importance import weigh


def make_theta(num_atoms: int, rate: float = 1.5, scale: float = 0.7) -> SparseCodingParameters:
    generator = torch.Generator().manual_seed(num_atoms)
    W = torch.randn(13, num_atoms, generator=generator, dtype=torch.float64)
    b = torch.linspace(-0.5, 1, 13, dtype=torch.float64)  # not 0: its sign counts
    return SparseCodingParameters(W / W.norm(dim=0), b, rate, scale)


def model_of(theta: SparseCodingParameters, dtype: torch.dtype = torch.float64) -> SparseCoding:
    model = SparseCoding(*theta.W.shape, rate=theta.rate, scale=theta.scale)
    return build(model, dtype, W=theta.W, b=theta.b)


@pytest.fixture(scope="module", params=[5, 40], ids=["undercomplete", "overcomplete"])
def theta(request) -> SparseCodingParameters:
    return make_theta(request.param)


def some_codes(v: Tensor, theta: SparseCodingParameters) -> Tensor:
    h = torch.randn(len(v), theta.W.shape[1], dtype=v.dtype)
    return torch.where(h.abs() < 0.5, 0, h)


# --- the objective and the delta's bound -------------------------------------------------------


def test_objective_is_the_formula_row_by_row(wine, theta):
    h = some_codes(wine, theta)
    np.testing.assert_allclose(
        objective(theta, wine, h), oracle.objective(theta, wine, h), rtol=1e-12
    )


def test_log_joint_is_minus_the_objective_and_a_constant(wine, theta):
    h = some_codes(wine, theta)
    expected = oracle.log_joint(theta, wine, h)
    value = log_normaliser(theta) - objective(theta, wine, h)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_trace_elbo_of_the_delta_is_minus_the_objective_and_the_constant(wine, theta):
    """At any point, not only at the mode; and the constant is that of every point."""
    model = model_of(theta)
    for h in (0 * some_codes(wine, theta), some_codes(wine, theta), fista(theta, wine).h):
        guide = build(SparseCodingMAP(*h.shape), h_loc=h)
        expected = len(wine) * log_normaliser(theta) - oracle.objective(theta, wine, h).sum()
        assert -Trace_ELBO().loss(model, guide, wine) == pytest.approx(expected, rel=1e-12)


def test_a_mini_batch_counts_for_all_rows(wine):
    theta = make_theta(5)
    batch, guide = wine[:10], SparseCodingAmortized(13, 5, point=True).double()
    with torch.no_grad():
        expected = log_normaliser(theta) - objective(theta, batch, guide.encoder(batch)).mean()
    bound = log_ratio(model_of(theta), guide, batch, num_obs=len(wine))
    assert bound == pytest.approx(len(wine) * float(expected), rel=1e-12)


# --- the codes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.3, 1.5, 3.0])
@pytest.mark.parametrize("scale", [0.4, 0.8])
def test_codes_reach_the_objective_of_sklearn(wine, theta, rate, scale):
    theta = replace(theta, rate=rate, scale=scale)
    found = fista(theta, wine)
    best = oracle.objective(theta, wine, oracle.codes(theta, wine)).sum()
    assert found.converged
    assert float(objective(theta, wine, found.h).sum()) == pytest.approx(best, rel=1e-6)
    assert found.trace[-1] == pytest.approx(best, rel=1e-6)
    at_zero = oracle.objective(theta, wine, torch.zeros_like(found.h)).sum()
    assert at_zero > best * (1 + 1e-3)


def test_codes_satisfy_the_conditions_of_optimality(wine, theta):
    found = fista(theta, wine, tol=1e-12)
    expected = oracle.kkt_violation(theta, wine, found.h)
    assert expected.max() < 1e-5
    assert (found.h == 0).double().mean() > 0.1
    np.testing.assert_allclose(kkt_violation(theta, wine, found.h), expected, atol=1e-12)
    off = some_codes(wine, theta)
    expected = oracle.kkt_violation(theta, wine, off)
    assert expected.min() > 0.01
    np.testing.assert_allclose(kkt_violation(theta, wine, off), expected, rtol=1e-10)


def test_duality_gap_bounds_what_is_missing(wine, theta):
    best = objective(theta, wine, fista(theta, wine, tol=1e-13).h)
    for h in (some_codes(wine, theta), fista(theta, wine, tol=1e-2).h):
        gap, missing = duality_gap(theta, wine, h), objective(theta, wine, h) - best
        assert (gap >= missing - 1e-9).all()
        assert missing.max() > 1e-3
    found = fista(theta, wine, tol=1e-9)
    np.testing.assert_allclose(found.gap, duality_gap(theta, wine, found.h), atol=1e-10)
    assert (found.gap <= 1e-9 * objective(theta, wine, found.h)).all()


def test_codes_of_orthogonal_atoms_are_thresholded_projections(wine):
    W = torch.linalg.qr(torch.randn(13, 13, dtype=torch.float64)).Q
    theta = SparseCodingParameters(W, torch.ones(13, dtype=torch.float64), 0.9, 0.8)
    expected = soft_threshold((wine - 1) @ W, 0.9 * 0.8**2)
    np.testing.assert_allclose(fista(theta, wine).h, expected, atol=1e-12)
    x = torch.tensor([-2.0, -0.3, 0.0, 0.3, 2.0])
    assert soft_threshold(x, 0.5).tolist() == [-1.5, 0, 0, 0, 1.5]


@pytest.mark.parametrize(("share", "zero"), [(1.0001, True), (0.999, False)])
def test_codes_are_zero_from_the_largest_rate_on(wine, theta, share, zero):
    for row in wine[:20].split(1):
        at = replace(theta, rate=share * float(largest_rate(theta, row)))
        assert bool((fista(at, row, tol=1e-10).h == 0).all()) == zero


def test_ista_never_raises_the_objective_and_needs_more_steps(wine):
    theta = make_theta(40)
    slow, fast = fista(theta, wine, accelerate=False, tol=1e-5), fista(theta, wine, tol=1e-5)
    assert np.diff(slow.trace).max() < 1e-9
    assert slow.trace[-1] == pytest.approx(fast.trace[-1], rel=1e-5)
    assert len(slow.trace) > 2 * len(fast.trace)


def test_codes_can_be_started_and_cut_short(wine):
    theta = make_theta(40)
    whole = fista(theta, wine)
    assert len(fista(theta, wine, start=whole.h).trace) < len(whole.trace) / 4
    short = fista(theta, wine, max_iterations=3)
    assert len(short.trace) == 3
    assert not short.converged
    assert short.trace[-1] == pytest.approx(float(objective(theta, wine, short.h).sum()))
    assert fista(theta, theta.b.expand(2, 13)).h.abs().max() == 0  # J is 0 there, and the gap
    with pytest.raises(ValueError, match="tol: got 0, expected a positive number"):
        fista(theta, wine, tol=0)


def test_pieces_of_the_rows_are_as_the_whole(wine, monkeypatch):
    theta = make_theta(20)
    whole = fista(theta, wine, tol=1e-9)
    monkeypatch.setattr(fista_module, "_SCALARS", 20 * 50)
    found = fista(theta, wine, tol=1e-9)
    torch.testing.assert_close(found.h, whole.h, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.gap, whole.gap, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.trace, whole.trace, rtol=1e-12)
    assert found.converged
    assert not fista(theta, wine, tol=1e-9, max_iterations=3).converged


def test_codes_in_single_precision(wine, theta):
    single = replace(theta, W=theta.W.float(), b=theta.b.float())
    found = fista(single, wine.float(), tol=1e-5)
    assert found.h.dtype == torch.float32
    assert found.converged
    best = objective(theta, wine, fista(theta, wine).h).sum()
    assert float(objective(single, wine.float(), found.h).sum()) == pytest.approx(
        float(best), rel=1e-5
    )


# --- gradient steps ----------------------------------------------------------------------------


def test_gradient_steps_reach_the_objective_and_no_zeros(wine):
    theta = make_theta(20)
    best = fista(theta, wine)
    model = model_of(theta).requires_grad_(False)
    start = SparseCodingMAP(len(wine), 20)
    fit = pc.fit(model, start, wine, lr=0.03, max_steps=3000)
    h = fit.guide.h_loc.detach()
    lowest, reached = best.trace[-1], float(objective(theta, wine, h).sum())
    at_start = float(objective(theta, wine, torch.zeros_like(h)).sum())
    assert lowest < reached < lowest * (1 + 1e-3) < at_start
    assert (best.h == 0).double().mean() > 0.3
    assert (h == 0).sum() == 0


@pytest.mark.parametrize("point", [False, True])
def test_an_encoder_learns_to_code_and_serves_new_rows(wine, point):
    theta = make_theta(20)
    best = objective(theta, wine, fista(theta, wine).h).sum()
    start = SparseCodingAmortized(13, 20, point=point)
    model = model_of(theta).requires_grad_(False)
    fit = pc.fit(model, start, wine, lr=0.01, max_steps=1500)
    with torch.no_grad():
        before = objective(theta, wine, start.double().encoder(wine)).sum()
        after = objective(theta, wine, fit.guide.encoder(wine)).sum()
        assert fit.guide.encoder(wine[:3] + 1).shape == (3, 20)
    assert best < after < best + 0.2 * (before - best)


# --- the mean-field bounds ---------------------------------------------------------------------

FAMILIES = [(SparseCodingMeanField, stats.laplace), (SparseCodingGaussian, stats.norm)]


@pytest.mark.parametrize(("family", "factor"), FAMILIES, ids=["laplace", "normal"])
def test_mean_field_bound_is_the_closed_form(wine, family, factor):
    theta, v = make_theta(5), wine[:4]
    loc = torch.randn(4, 5, dtype=torch.float64)
    scale = torch.rand(4, 5, dtype=torch.float64) + 0.1
    guide = build(family(4, 5), h_loc=loc, h_scale=scale)
    expected = oracle.elbo(theta, v, factor(loc.numpy(), scale.numpy()))
    draws = weigh(pc.as_fit(model_of(theta), guide, v), 20_000).joint
    se = draws.std() / len(draws) ** 0.5
    assert abs(draws.mean() - expected) < 4 * se
    # The tolerance tells the two families apart.
    other = dict(FAMILIES)[SparseCodingGaussian if factor is stats.laplace else FAMILIES[0][0]]
    assert abs(oracle.elbo(theta, v, other(loc.numpy(), scale.numpy())) - expected) > 8 * se


@pytest.mark.parametrize("amortized", [False, True])
def test_every_draw_gives_the_evidence_where_rows_say_nothing(wine, amortized):
    """With noise of 1e8 the posterior is the prior, and the prior is in the Laplace family."""
    theta = make_theta(5, scale=1e8)
    expected = stats.norm(theta.b.numpy(), theta.scale).logpdf(wine.numpy()).sum(1)
    guide = SparseCodingMeanField(len(wine), 5)
    if amortized:
        guide = SparseCodingAmortized(13, 5, hidden=())
        torch.nn.init.zeros_(guide.encoder[0].weight)
        torch.nn.init.zeros_(guide.encoder[0].bias)
    guide = build(guide, h_scale=torch.ones(guide.h_scale.shape).double() / theta.rate)
    for _ in range(20):
        np.testing.assert_allclose(
            row_log_ratios(model_of(theta), guide, wine), expected, rtol=1e-9
        )
    normal = build(SparseCodingGaussian(len(wine), 5))
    assert np.ptp([log_ratio(model_of(theta), normal, wine) for _ in range(5)]) > 1


@pytest.mark.parametrize(("family", "factor"), FAMILIES, ids=["laplace", "normal"])
def test_weighted_draws_give_the_evidence_and_the_bound_stays_below(wine, family, factor):
    theta, v = make_theta(2), wine[:6]
    evidence = oracle.log_evidence_of_two(theta, v)
    model = model_of(theta).requires_grad_(False)
    elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    fit = pc.fit(model, family(6, 2), v, elbo=elbo, max_steps=1500)
    guide = fit.guide
    bound = oracle.elbo(theta, v, factor(guide.h_loc.detach(), guide.h_scale.detach()))
    assert evidence.sum() - 2 < bound < evidence.sum()
    weights = np.exp(weigh(fit, 4000).rows - evidence)
    se = weights.std(0) / len(weights) ** 0.5
    assert (np.abs(weights.mean(0) - 1) < 4.5 * se + 1e-3).all()
    assert weights.std(0).max() < 3


# --- the model ---------------------------------------------------------------------------------


def test_rows_of_the_prior_have_the_models_covariance():
    """Var h = 2 / λ²."""
    theta = make_theta(5)
    rows = model_of(theta)(num_obs=100_000).detach()
    expected = 2 / theta.rate**2 * theta.W @ theta.W.mT + theta.scale**2 * torch.eye(13)
    error = (torch.cov(rows.mT) - expected).abs().max()
    assert error < 0.03 < (expected - torch.eye(13)).abs().max()
    assert (rows.mean(0) - theta.b).abs().max() < 0.02


def test_atoms_have_length_one_whatever_is_done_to_them(wine):
    theta = make_theta(5)
    model, guide = model_of(theta), SparseCodingMAP(len(wine), 5).double()
    torch.testing.assert_close(model.W.detach(), theta.W, rtol=1e-12, atol=0)
    model.W = theta.W * torch.arange(1, 6)
    torch.testing.assert_close(model.W.detach(), theta.W, rtol=1e-12, atol=0)
    svi = SVI(model, guide, Adam({"lr": 0.1}), Trace_ELBO())
    losses = [svi.step(wine) for _ in range(50)]
    assert losses[-1] < losses[0]
    assert (model.W.norm(dim=0) - 1).abs().max() < 1e-12
    assert (model.W.detach() - theta.W).abs().max() > 0.1


def test_a_redrawn_dictionary_is_another_of_unit_length():
    model = SparseCoding(13, 5)
    before = model.W.detach()
    model.reset_parameters()
    assert (model.W - before).abs().max() > 0.1
    assert (model.W.norm(dim=0) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["rate", "scale"])
def test_a_rate_or_scale_that_is_not_positive_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}: got 0, expected a positive number"):
        SparseCoding(3, 2, **{name: 0})


def test_a_redraw_uses_the_global_seed():
    pyro.set_rng_seed(3)
    first = SparseCoding(13, 5).W.detach()
    pyro.set_rng_seed(3)
    assert first.equal(SparseCoding(13, 5).W.detach())
