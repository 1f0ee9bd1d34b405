"""Logistic regression: Newton, Laplace, tangent bound and guides, against quadrature and peers."""

import numpy as np
import pyro
import pytest
import torch
from build import build
from oracles.continuous_latents import (
    logistic_grid,
    logistic_log_joint,
    logistic_mode,
)
from oracles.programs import array, log_prob, log_ratio
from pyro.infer import Trace_ELBO
from scipy.special import expit
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import pyro_cookbook as pc
from guides.logistic_regression import (
    LogisticRegressionFullRank,
    LogisticRegressionLaplace,
    LogisticRegressionMAP,
    LogisticRegressionMeanField,
)
from models.logistic_regression import logistic_regression
from pyro_cookbook.algorithms import logistic_regression as closed

DTYPE = torch.float64
PRIOR = {"intercept_scale": 3.0, "coefficient_scale": 0.8}


@pytest.fixture(scope="module")
def cancer() -> tuple[Tensor, Tensor]:
    """150 tumours, 10 measurements, standardised; 1 is malignant."""
    bunch = load_breast_cancer()
    x = torch.tensor(bunch.data[:150, :10])
    return (x - x.mean(0)) / x.std(0), torch.tensor(1.0 - bunch.target[:150], dtype=DTYPE)


@pytest.fixture(scope="module")
def small(cancer) -> tuple[Tensor, Tensor]:
    """25 rows and one column: a grid gives the exact posterior."""
    x, y = cancer
    return x[20:45, 1:2], y[20:45]


def prior_scales(x: Tensor) -> np.ndarray:
    scales = np.full(x.shape[1] + 1, PRIOR["coefficient_scale"])
    scales[0] = PRIOR["intercept_scale"]
    return scales


def split(beta: Tensor) -> dict[str, Tensor]:
    return {"intercept": beta[0], "coefficient": beta[1:]}


# --- logistic regression: the model ------------------------------------------------------------


def test_the_program_has_the_log_joint_of_the_formula(cancer):
    x, y = cancer
    precision = closed.prior_precision(x, **PRIOR)
    for beta in torch.randn(5, 11, dtype=DTYPE):
        expected = logistic_log_joint(array(beta), x, y, prior_scales(x))
        assert log_prob(logistic_regression, split(beta), x, y, **PRIOR) == pytest.approx(
            float(expected), rel=1e-12
        )
        assert float(closed.log_joint(beta, x, y, precision)) == pytest.approx(expected, rel=1e-12)


def test_many_draws_at_once_are_draws_one_by_one(cancer):
    x, y = cancer
    guide = LogisticRegressionFullRank(10).to(DTYPE)
    many = Trace_ELBO(num_particles=400, vectorize_particles=True, max_plate_nesting=1)
    at_once = [many.loss(logistic_regression, guide, x, y) for _ in range(10)]
    singly = [Trace_ELBO().loss(logistic_regression, guide, x, y) for _ in range(400)]
    se = np.hypot(np.std(at_once) / 10**0.5, np.std(singly) / 400**0.5)
    assert abs(np.mean(at_once) - np.mean(singly)) < 5 * se < 5


def test_a_mini_batch_of_the_model_is_scaled_up(cancer):
    x, y = cancer
    beta = split(torch.linspace(-1, 1, 11, dtype=DTYPE))
    flat = torch.cat([beta["intercept"][None], beta["coefficient"]])
    prior = float(torch.distributions.Normal(0, torch.tensor(prior_scales(x))).log_prob(flat).sum())
    batches = [
        log_prob(logistic_regression, beta, x[i : i + 30], y[i : i + 30], 150, **PRIOR) - prior
        for i in range(0, 150, 30)
    ]
    whole = log_prob(logistic_regression, beta, x, y, **PRIOR) - prior
    assert np.mean(batches) == pytest.approx(whole, rel=1e-12)
    assert np.std(batches) > 1


def test_prior_predictive_has_the_rate_that_the_prior_says(cancer):
    """The score of a row is normal with the prior's variance; P(y = 1) is 1/2 by symmetry."""
    x = cancer[0][:4]
    with torch.no_grad(), pyro.plate("draw", 20_000, dim=-2):
        y = logistic_regression(x)
    assert y.shape == (20_000, 4)
    assert (y.mean(0) - 0.5).abs().max() < 5 * 0.5 / 20_000**0.5


# --- logistic regression: Newton and Laplace ---------------------------------------------------


def test_newton_ends_at_the_mode_that_scipy_finds(cancer):
    x, y = cancer
    found = closed.newton(x, y, **PRIOR)
    expected = logistic_mode(x, y, prior_scales(x))
    assert found.converged
    assert len(found.log_joint) < 15
    assert np.diff(found.log_joint).min() >= 0
    assert np.abs(expected).max() > 0.3  # the start, 0, fails
    np.testing.assert_allclose(found.mode, expected, atol=1e-5)


def test_newton_is_ridge_regression_of_sklearn(cancer):
    """One penalty for all: the intercept is a column, with the prior's scale of its own."""
    x, y = cancer
    ratio = PRIOR["intercept_scale"] / PRIOR["coefficient_scale"]
    columns = torch.cat([torch.full_like(x[:, :1], ratio), x], 1)
    peer = LogisticRegression(
        C=PRIOR["coefficient_scale"] ** 2, fit_intercept=False, tol=1e-10, max_iter=10_000
    ).fit(columns.numpy(), y.numpy())
    expected = peer.coef_[0] * np.array([ratio, *np.ones(10)])
    np.testing.assert_allclose(closed.newton(x, y, **PRIOR).mode, expected, atol=1e-5)


def test_newton_gets_home_where_the_outcomes_are_separated():
    x = torch.tensor([[-3.0], [-2.0], [2.0], [30.0]], dtype=DTYPE)
    y = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=DTYPE)
    found = closed.newton(x, y, intercept_scale=100.0, coefficient_scale=100.0)
    mode = found.mode.clone().requires_grad_()
    height = closed.log_joint(mode, x, y, closed.prior_precision(x, 100.0, 100.0))
    (gradient,) = torch.autograd.grad(height, mode)
    assert found.converged
    assert gradient.abs().max() < 1e-5


def test_the_covariance_of_laplace_is_the_inverse_hessian(cancer):
    x, y = cancer
    mode, covariance = closed.laplace(x, y, **PRIOR)
    precision = closed.prior_precision(x, **PRIOR)
    hessian = torch.autograd.functional.hessian(
        lambda beta: closed.log_joint(beta, x, y, precision), mode
    )
    np.testing.assert_allclose(covariance @ -hessian, np.eye(11), atol=1e-6)


def test_the_named_families_agree_with_newton(cancer):
    x, y = cancer
    mode, covariance = closed.laplace(x, y, **PRIOR)
    fit = pc.fit(logistic_regression, "laplace", x, y, data_kwargs=PRIOR)
    with torch.no_grad():
        draws = pc.to_datatree(fit, num_draws=4000)["posterior"].isel(chain=0)
    sd = array(covariance.diagonal().sqrt())
    found = np.column_stack([draws["intercept"].to_numpy(), draws["coefficient"].to_numpy()])
    assert (np.abs(found.mean(0) - array(mode)) < 5 * sd / 4000**0.5).all()
    np.testing.assert_allclose(found.std(0), sd, rtol=5 / (2 * 4000) ** 0.5)


def test_log_evidence_of_laplace_is_near_that_of_the_grid(small):
    x, y = small
    found = closed.newton(x, y, **PRIOR)
    exact = logistic_grid(x, y, prior_scales(x))
    error = closed.laplace_log_evidence(found) - exact.log_evidence
    assert abs(error) < 0.1
    assert abs(found.log_joint[-1] - exact.log_evidence) > 0.5  # the height alone is far off


# --- logistic regression: guides against the grid ----------------------------------------------


def test_each_guide_has_the_density_it_says(cancer):
    x, y = cancer
    root = torch.randn(11, 11, dtype=DTYPE).tril(-1) + torch.diag(torch.rand(11).to(DTYPE) + 0.5)
    loc = torch.randn(11, dtype=DTYPE)
    full = LogisticRegressionFullRank(10).to(DTYPE)
    full.set_gaussian(loc, root @ root.mT)
    mean = build(
        LogisticRegressionMeanField(10), intercept_loc=loc[0], intercept_scale=root[0, 0],
        coefficient_loc=loc[1:], coefficient_scale=root.diagonal()[1:],
    )  # fmt: skip
    diagonal = root.diagonal().diag()
    for beta in torch.randn(5, 11, dtype=DTYPE):
        for guide, tril in ((full, root), (mean, diagonal)):
            expected = torch.distributions.MultivariateNormal(loc, scale_tril=tril).log_prob(beta)
            found = log_prob(guide, split(beta), x, y)
            assert found == pytest.approx(float(expected), rel=1e-10)


def test_full_rank_draws_have_its_covariance(cancer):
    x, y = cancer
    root = torch.tensor([[2.0, 0, 0], [1.5, 0.5, 0], [-0.7, 0.3, 0.2]], dtype=DTYPE)
    guide = build(LogisticRegressionFullRank(2), loc=torch.ones(3), scale_tril=root)
    with torch.no_grad(), pyro.plate("draw", 100_000, dim=-1):
        drawn = guide(x, y)
    found = np.cov(np.column_stack([array(drawn["intercept"]), array(drawn["coefficient"])]).T)
    expected = array(root @ root.mT)
    se = np.sqrt((np.outer(expected.diagonal(), expected.diagonal()) + expected**2) / 100_000)
    assert (np.abs(found - expected) < 5 * se).all()


def test_the_bound_of_full_rank_is_evidence_minus_kl_by_the_grid(small):
    """L = log p(y) − KL(q ‖ p): both sides without the library's densities but one."""
    x, y = small
    exact = logistic_grid(x, y, prior_scales(x))
    guide = LogisticRegressionLaplace(1).to(DTYPE)
    mode, covariance = closed.laplace(x, y, **PRIOR)
    guide.set_gaussian(mode, covariance)
    elbo = Trace_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    bounds = [-elbo.loss(logistic_regression, guide, x, y, **PRIOR) for _ in range(10)]
    q = torch.distributions.MultivariateNormal(mode, covariance)
    cell = np.prod([np.diff(np.unique(column))[0] for column in exact.points.T])
    q_mass = array(q.log_prob(torch.as_tensor(exact.points)).exp()) * cell
    kl = float((q_mass * np.log(q_mass / exact.weight)).sum())
    se = np.std(bounds) / 10**0.5
    assert q_mass.sum() == pytest.approx(1, abs=1e-6)
    assert kl > 10 * se
    assert np.mean(bounds) == pytest.approx(exact.log_evidence - kl, abs=5 * se)


def test_the_point_guide_is_highest_at_the_mode_of_newton(cancer):
    x, y = cancer
    found = closed.newton(x, y, **PRIOR)
    heights = []
    for step in (0.0, 0.05, -0.05):
        at = {"intercept_loc": found.mode[0] + step, "coefficient_loc": found.mode[1:] + step}
        guide = build(LogisticRegressionMAP(10), **at)
        heights.append(log_ratio(logistic_regression, guide, x, y, **PRIOR))
    assert heights[0] == pytest.approx(found.log_joint[-1], rel=1e-12)
    assert heights[0] > max(heights[1:])


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_a_fitted_gaussian_has_the_moments_of_the_grid(small, family):
    x, y = small
    exact = logistic_grid(x, y, prior_scales(x))
    fit = pc.fit(logistic_regression, family, x, y, data_kwargs=PRIOR)
    found = pc.diagnose(fit, log_evidence=exact.log_evidence)
    mode = logistic_mode(x, y, prior_scales(x))
    assert np.abs((mode - exact.mean) / exact.sd).max() > 0.08  # the mode would not do
    table = found.table
    assert (np.abs(table["mean"].to_numpy() - exact.mean) / exact.sd < 0.06).all()
    rho = exact.covariance[0, 1] / exact.sd.prod()
    shrunk = table["sd"].to_numpy() / exact.sd
    expected = np.sqrt(1 - rho**2) if family == "mean_field" else 1.0
    np.testing.assert_allclose(shrunk, expected, atol=0.05)
    assert -4 * found.gap.se < found.gap.value < 0.3
    assert found.verdict == "reliable"


def test_linear_response_gives_the_sds_back(cancer):
    """Against Laplace, which knows the correlations; mean field is off by a third and more."""
    x, y = cancer
    _, covariance = closed.laplace(x, y, **PRIOR)
    sd = array(covariance.diagonal().sqrt())
    fit = pc.fit(logistic_regression, "mean_field", x, y, data_kwargs=PRIOR)
    before = pc.diagnose(fit).table["sd"].to_numpy() / sd
    after = pc.diagnose(pc.linear_response(fit)).table["sd"].to_numpy() / sd
    assert before.min() < 0.65
    assert np.abs(after - 1).max() < 0.25


# --- logistic regression: Jaakkola and Jordan --------------------------------------------------


def test_the_tangent_bound_never_falls_and_stays_below_the_evidence(small):
    x, y = small
    exact = logistic_grid(x, y, prior_scales(x))
    found = closed.jaakkola_jordan(x, y, **PRIOR)
    assert found.converged
    assert np.diff(found.bound).min() > -1e-12 * abs(found.bound[-1])
    assert found.bound[-1] - found.bound[0] > 0.05
    assert 0 < exact.log_evidence - found.bound[-1] < 0.7


def test_the_tangent_bound_is_the_integral_of_its_quadratic(small):
    """By quadrature: ∫ p(β) ∏ₙ exp(the tangent at ξ_n) dβ, on the grid."""
    x, y = small
    found = closed.jaakkola_jordan(x, y, **PRIOR, tol=1e-14)
    exact = logistic_grid(x, y, prior_scales(x))
    score = exact.points @ np.column_stack([np.ones(len(x)), array(x)]).T
    xi, sign = array(found.xi), 2 * array(y) - 1
    slope = np.tanh(xi / 2) / (4 * xi)
    tangent = np.log(expit(xi)) + (sign * score - xi) / 2 - slope * (score**2 - xi**2)
    assert (tangent <= np.log(expit(sign * score)) + 1e-12).all()
    prior = torch.distributions.Normal(0.0, torch.tensor(prior_scales(x)))
    log_prior = array(prior.log_prob(torch.as_tensor(exact.points)).sum(1))
    cell = np.prod([np.diff(np.unique(column))[0] for column in exact.points.T])
    integral = np.log(np.exp(tangent.sum(1) + log_prior).sum() * cell)
    assert found.bound[-1] == pytest.approx(integral, abs=1e-6)


def test_the_gaussian_of_the_tangent_bound_is_close_and_narrower(small):
    x, y = small
    exact = logistic_grid(x, y, prior_scales(x))
    found = closed.jaakkola_jordan(x, y, **PRIOR)
    assert (np.abs(array(found.loc) - exact.mean) / exact.sd < 0.25).all()
    shrunk = array(found.covariance.diagonal().sqrt()) / exact.sd
    assert (shrunk < 1).all()
    assert (shrunk > 0.65).all()


def test_the_bound_is_below_the_elbo_of_its_own_gaussian(cancer):
    x, y = cancer
    found = closed.jaakkola_jordan(x, y, **PRIOR)
    guide = LogisticRegressionFullRank(10).to(DTYPE)
    guide.set_gaussian(found.loc, found.covariance)
    fit = pc.as_fit(logistic_regression, guide, x, y, data_kwargs=PRIOR)
    assert found.bound[-1] < fit.elbo.value - 4 * fit.elbo.se


def test_bad_tables_are_refused(cancer):
    x, y = cancer
    with pytest.raises(ValueError, match=r"expected \(n, D\) and \(n,\)"):
        closed.newton(x, y[:, None])
    with pytest.raises(ValueError, match="0 and 1 only"):
        closed.jaakkola_jordan(x, 2 * y)
    with pytest.raises(ValueError, match="coefficient_scale: got 0"):
        closed.newton(x, y, coefficient_scale=0)
