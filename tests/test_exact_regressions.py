"""Logistic regression and eight schools, against quadrature, SciPy, scikit-learn and PyMC."""

import arviz as az
import numpy as np
import pyro
import pytest
import torch
from build import build
from oracles import array, log_prob, log_ratio
from oracles_continuous import (
    logistic_grid,
    logistic_log_joint,
    logistic_mode,
    schools_posterior,
)
from pyro.infer import Trace_ELBO
from scipy.special import expit
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import pyro_cookbook as pc
from guides.eight_schools import EightSchoolsFullRank, EightSchoolsMAP, EightSchoolsMeanField
from guides.logistic_regression import (
    LogisticRegressionFullRank,
    LogisticRegressionLaplace,
    LogisticRegressionMeanField,
)
from models.eight_schools import eight_schools_centred, eight_schools_noncentred
from models.logistic_regression import logistic_regression
from pyro_cookbook.closed_form import logistic_regression as closed

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


@pytest.fixture(scope="module")
def schools() -> tuple[Tensor, Tensor]:
    """ArviZ's copy of Rubin's table: standard errors and effects."""
    tree = az.load_arviz_data("centered_eight")
    y, sigma = tree["observed_data"]["obs"], tree["constant_data"]["sigma"]
    return torch.tensor(sigma.to_numpy(), dtype=DTYPE), torch.tensor(y.to_numpy(), dtype=DTYPE)


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
        draws = pc.to_datatree(fit, num_draws=4000)["posterior"]
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
    """Against Laplace, which knows the correlations; mean field alone is off by a third and more."""
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


# --- eight schools -----------------------------------------------------------------------------


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
