"""The regressor beside exact answers by other routes: dense normals, least squares, a grid."""

import numpy as np
import pyro
import pytest
import statsmodels.api as sm
import torch
from pyro import poutine
from scipy.special import logsumexp
from scipy.stats import gamma, multivariate_normal, norm, t
from sklearn.datasets import load_diabetes, make_regression

from pyro_cookbook.estimators import BayesianRegressor
from pyro_cookbook.estimators.linear_programs import linear_regression, student_t_regression

X, Y = load_diabetes(return_X_y=True)
UNIT = X.std(0)


def dense_posterior(x, y, scale, num_nodes=4001):
    """Mean and covariance of β, E σ and log evidence: an n × n normal for each of many σ."""
    columns = np.column_stack([np.ones(len(x)), x])
    nodes = np.linspace(-4, 3, num_nodes)
    prior = np.diag(scale**2)
    covariance = columns @ prior @ columns.T
    height, loc, second = [], [], []
    for log_sigma in nodes:
        variance = np.exp(2 * log_sigma)
        marginal = covariance + variance * np.eye(len(y))
        height.append(
            multivariate_normal(np.zeros(len(y)), marginal).logpdf(y)
            + gamma(0.01, scale=1e6).logpdf(1 / variance)
            + np.log(2 / variance)
        )
        gain = prior @ columns.T @ np.linalg.inv(marginal)
        loc.append(gain @ y)
        second.append(prior - gain @ columns @ prior)
    log_evidence = logsumexp(height) + np.log(nodes[1] - nodes[0])
    weight = np.exp(np.array(height) - logsumexp(height))
    mean = weight @ np.array(loc)
    apart = np.array(loc) - mean
    spread = np.einsum("g,gij->ij", weight, np.array(second)) + (weight[:, None] * apart).T @ apart
    return mean, spread, weight @ np.exp(nodes), log_evidence


@pytest.fixture(scope="module")
def few():
    """Twenty rows, so that the prior counts and σ is uncertain."""
    return X[:20, :3] / UNIT[:3], Y[:20]


def test_the_posterior_is_the_exact_one(few):
    x, y = few
    fitted = BayesianRegressor(intercept_scale=2.0, coefficient_scale=0.5).fit(x, y)
    z, v = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    mean, spread, sigma, log_evidence = dense_posterior(
        z, v, np.array([2.0, 0.5, 0.5, 0.5]), num_nodes=801
    )
    unit = y.std() / x.std(0)
    np.testing.assert_allclose(fitted.coef_, mean[1:] * unit, rtol=1e-8)
    scales = np.sqrt(np.diag(spread))
    np.testing.assert_allclose(fitted.coef_scale_, scales[1:] * unit, rtol=1e-8)
    assert fitted.noise_scale_ == pytest.approx(sigma * y.std(), rel=1e-6)
    assert fitted.fit_.guide.log_evidence == pytest.approx(log_evidence, abs=1e-9)
    columns = np.column_stack([np.ones(20), z])
    np.testing.assert_allclose(fitted.predict(x), y.mean() + y.std() * columns @ mean, rtol=1e-8)
    flat = BayesianRegressor(intercept_scale=1e3, coefficient_scale=1e3).fit(x, y)
    assert abs(flat.coef_ / fitted.coef_ - 1).max() > 0.1  # the prior counted


def test_under_a_flat_prior_it_is_least_squares(few):
    x, y = few
    fitted = BayesianRegressor(intercept_scale=1e4, coefficient_scale=1e4).fit(x, y)
    peer = sm.OLS(y, sm.add_constant(x)).fit()
    np.testing.assert_allclose([fitted.intercept_, *fitted.coef_], peer.params, rtol=1e-5)
    # The prior of σ adds 2 · 0.01 degrees of freedom, and a t has an sd.
    df = peer.df_resid
    widen = np.sqrt(df / (df - 2))
    scales = [fitted.intercept_scale_, *fitted.coef_scale_]
    np.testing.assert_allclose(scales, peer.bse * widen, rtol=2e-3)
    np.testing.assert_allclose(fitted.covariance_, peer.cov_params() * widen**2, rtol=5e-3)
    mean, scale = fitted.predict(x, return_std=True)
    said = peer.get_prediction(sm.add_constant(x))
    np.testing.assert_allclose(mean, said.predicted_mean, rtol=1e-5)
    half = (said.conf_int(obs=True, alpha=0.05)[:, 1] - said.predicted_mean) / t.ppf(0.975, df)
    np.testing.assert_allclose(scale, half * widen, rtol=2e-3)
    np.testing.assert_array_equal(fitted.predict(x), mean)


def test_the_outcomes_unit_is_only_a_unit():
    plain, moved = BayesianRegressor().fit(X, Y), BayesianRegressor().fit(X, 1000 * Y - 7)
    np.testing.assert_allclose(moved.coef_, 1000 * plain.coef_, rtol=1e-9)
    np.testing.assert_allclose(moved.coef_scale_, 1000 * plain.coef_scale_, rtol=1e-9)
    assert moved.intercept_ == pytest.approx(1000 * plain.intercept_ - 7, rel=1e-9)
    assert moved.noise_scale_ == pytest.approx(1000 * plain.noise_scale_, rel=1e-9)
    assert moved.score(X, 1000 * Y - 7) == pytest.approx(plain.score(X, Y), rel=1e-9)
    one, two = plain.predict(X[:3], return_std=True), moved.predict(X[:3], return_std=True)
    np.testing.assert_allclose(two[1], 1000 * one[1], rtol=1e-9)
    by_hand = X @ plain.coef_ + plain.intercept_
    np.testing.assert_allclose(plain.predict(X), by_hand, rtol=1e-10)
    columns = np.column_stack([np.ones(len(X)), X])
    spread = ((columns @ plain.covariance_) * columns).sum(1)
    noise = plain.predict(X, return_std=True)[1] ** 2 - spread
    np.testing.assert_allclose(noise, noise[0], rtol=1e-6)


def test_intervals_cover_what_they_should():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(200):
        x = rng.normal(size=(21, 8))
        y = x[:, 0] + rng.normal(size=21)
        mean, scale = BayesianRegressor().fit(x[:20], y[:20]).predict(x[20:], return_std=True)
        inside.append(abs(y[20] - mean[0]) < 1.28 * scale[0])
    assert np.mean(inside) == pytest.approx(0.8, abs=4 * (0.8 * 0.2 / 200) ** 0.5)


def test_an_exact_line_and_more_columns_than_rows_are_no_trouble():
    x, y, coef = make_regression(100, 5, coef=True, random_state=0)
    fitted = BayesianRegressor().fit(x, y)
    np.testing.assert_allclose(fitted.coef_, coef, rtol=1e-3)
    assert fitted.noise_scale_ < 1e-3 * y.std()
    wide = BayesianRegressor().fit(X[:6], Y[:6])
    assert np.isfinite(wide.predict(X, return_std=True)).all()
    constant = BayesianRegressor().fit(np.column_stack([X, np.ones(len(X))]), Y)
    assert constant.coef_[-1] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(constant.coef_[:-1], BayesianRegressor().fit(X, Y).coef_, rtol=1e-9)
    assert constant.coef_scale_[-1] == pytest.approx(2.5 * Y.std(), rel=1e-9)  # the prior's


def test_the_guide_is_the_posterior(few):
    fitted = BayesianRegressor().fit(*few)
    elbo = fitted.fit_.elbo
    assert elbo.value == pytest.approx(fitted.fit_.guide.log_evidence, abs=0.005)
    assert elbo.se < 0.005
    assert fitted.verdict_ == "reliable"
    table = fitted.diagnosis_.table
    assert list(table.index)[:2] == ["precision", "beta[0]"]


@pytest.fixture(scope="module")
def outliers():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    y = x @ [1.0, -2.0] + 0.3 * rng.normal(size=60)
    y[:4] += 15
    return x, y


def test_students_t_heeds_outliers_less(outliers):
    x, y = outliers
    robust = BayesianRegressor(family="student_t").fit(x, y)
    normal = BayesianRegressor().fit(x, y)
    np.testing.assert_allclose(robust.coef_, [1, -2], atol=4 * robust.coef_scale_.max())
    assert robust.coef_scale_.max() < normal.coef_scale_.min() / 3
    assert robust.df_ < 3.5
    assert robust.noise_scale_ < normal.noise_scale_ / 3


def test_students_t_is_the_grid(outliers):
    """One column, ν and σ on a grid, β by a grid as well: the posterior mean, by brute force."""
    x, y = outliers[0][3:43, 1:], outliers[1][3:43]
    fitted = BayesianRegressor(family="student_t").fit(x, y)
    z, v = (x[:, 0] - x.mean()) / x.std(), (y - y.mean()) / y.std()
    a, b = (g.ravel() for g in np.meshgrid(np.linspace(-0.8, 0.4, 41), np.linspace(-1.2, 0.2, 41)))
    apart = v - a[:, None] - b[:, None] * z
    log_prior = -(a**2) / 2 / 25 - b**2 / 2 / 6.25
    total, mean, second = -np.inf, 0.0, 0.0
    for log_sigma in np.linspace(-3.5, 0.5, 21):
        variance = np.exp(2 * log_sigma)
        by_sigma = gamma(0.01, scale=1e6).logpdf(1 / variance) + np.log(2 / variance)
        for log_excess in np.linspace(-6, 5, 16):
            excess = np.exp(log_excess)
            by_df = gamma(2, scale=10).logpdf(excess) + log_excess
            height = log_prior + by_sigma + by_df
            height = height + t(2 + excess, scale=variance**0.5).logpdf(apart).sum(1)
            peak = max(total, logsumexp(height))
            old, new = np.exp(total - peak), np.exp(height - peak)
            norm = old + new.sum()
            mean = (old * mean + new @ b) / norm
            second = (old * second + new @ b**2) / norm
            total = peak + np.log(norm)
    unit = y.std() / x.std()
    scale = (second - mean**2) ** 0.5
    assert fitted.coef_[0] / unit == pytest.approx(mean, abs=0.2 * scale)
    assert fitted.coef_scale_[0] / unit == pytest.approx(scale, rel=0.2)
    assert abs(BayesianRegressor().fit(x, y).coef_[0] / unit - mean) > 0.5 * scale


@pytest.mark.parametrize("program", [linear_regression, student_t_regression])
def test_the_programs_are_their_tables(program):
    x, y = torch.tensor(X[:7, :2] / UNIT[:2]), torch.tensor(Y[:7] / 100)
    scale, beta = (
        torch.tensor([3.0, 0.7, 0.7], dtype=torch.float64),
        torch.tensor([0.4, -0.2, 1.1], dtype=torch.float64),
    )
    values = {"precision": torch.tensor(1.7, dtype=torch.float64), "beta": beta}
    prior = {"scale": scale, "shape": 0.5, "rate": 0.2}
    expected = gamma(0.5, scale=5).logpdf(1.7) + norm(0, scale).logpdf(beta).sum()
    loc, sigma = beta[0] + x @ beta[1:], 1.7**-0.5
    if program is student_t_regression:
        values["excess"] = torch.tensor(3.0, dtype=torch.float64)
        expected += gamma(2, scale=10).logpdf(3.0) + t(5.0, loc, sigma).logpdf(y).sum()
    else:
        expected += norm(loc, sigma).logpdf(y).sum()
    trace = poutine.trace(pyro.condition(program, values)).get_trace(x, y, **prior)
    assert float(trace.log_prob_sum()) == pytest.approx(expected, rel=1e-10)
