"""Answers beside exact ones: scikit-learn, SciPy, conditioning, enumeration and quadrature."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from answered import (
    answers_of,
    beliefs,
    bits,
    block,
    causes,
    codes,
    dictionary,
    measurements,
    outcomes,
    prepared,
    schools,
    shapes,
    signals,
    sums,
)
from build import build
from oracles import binary_sparse_coding as switches_oracle
from oracles import continuous_latents, sigmoid_belief_network
from oracles.programs import array
from scipy import integrate, optimize, stats
from scipy.special import expit
from sklearn.linear_model import Lasso
from sklearn.mixture import GaussianMixture

from guides.factor_analysis import FactorAnalysisMAP
from models.factor_analysis import FactorAnalysis
from pyro_cookbook import data
from pyro_cookbook.algorithms.sparse_coding.fista import objective
from pyro_cookbook.fits.fitting import as_fit
from pyro_cookbook.programs.drawing import draw

# --- factors and components ----------------------------------------------------------------------


@pytest.mark.parametrize("guide", ["exact", "mean_field"])
def test_factors_by_conditioning_in_raw_units(guide):
    """The joint Gaussian of (h, row) made of the estimates alone."""
    table, fit = shapes(), prepared("04d", guide, "shapes")
    found = answers_of("04d").estimates(fit, table)["mean"]
    L = np.array([[found[f"loading[{k}, {c}]"] for k in range(2)] for c in table.columns])
    mean = np.array([found[f"mean[{c}]"] for c in table.columns])
    noise = np.array([found[f"noise sd[{c}]"] for c in table.columns])
    covariance = L @ L.T + np.diag(noise**2)
    gain = L.T @ np.linalg.inv(covariance)
    rows = answers_of("04d").apply(fit, table)
    raw = table.raw.numpy()
    np.testing.assert_allclose(block(rows, "h[{}] mean", 2), (raw - mean) @ gain.T, atol=1e-8)
    sd = np.sqrt(np.diag(np.eye(2) - gain @ L))
    np.testing.assert_allclose(block(rows, "h[{}] sd", 2), np.tile(sd, (len(raw), 1)))
    exact = stats.multivariate_normal(mean, covariance).logpdf(raw)
    np.testing.assert_allclose(rows["log density"], exact)
    np.testing.assert_allclose(block(rows, "h[{}] mean", 2), array(fit.guide.h_loc), atol=1e-8)


def test_a_mean_that_is_not_that_of_the_rows():
    """As after learning by gradients: b is 0 at the maximum of the likelihood."""
    table = shapes()
    model = FactorAnalysis(6, 2).double()
    model.b = torch.linspace(-1, 2, 6).double()
    fit = as_fit(model, FactorAnalysisMAP(150, 2).double(), table.v)
    found = answers_of("01").estimates(fit, table)["mean"]
    exact = table.loc + table.scale * model.b.detach()
    np.testing.assert_allclose([found[f"mean[{c}]"] for c in table.columns], exact)


def test_many_loadings_are_told_by_what_their_factors_explain(monkeypatch):
    from pyro_cookbook.catalogue.answers import factor_analysis as module

    monkeypatch.setattr(module, "FEW", 5)
    fit, table = prepared("04d", "exact", "shapes"), shapes()
    found = module.estimates(fit, table)["mean"]
    assert not any(name.startswith("loading") for name in found.index)
    shared = sum(found[f"variance explained[{k}]"] for k in range(2))
    assert shared == pytest.approx(float(fit.model.W.square().sum()))


def test_components_by_scikit_learn_in_raw_units():
    """Its mixture made of the estimates alone."""
    table, fit = measurements(), prepared("02", "exact")
    found = answers_of("02").estimates(fit, table)["mean"]
    peer = GaussianMixture(2)
    peer.weights_ = np.array([found[f"weight[{k}]"] for k in range(2)])
    peer.means_ = np.array([[found[f"mean[{k}, {c}]"] for c in table.columns] for k in range(2)])
    covariances = []
    for k in range(2):
        sd = np.array([found[f"sd[{k}, {c}]"] for c in table.columns])
        correlation = np.eye(3)
        for i, j in ((0, 1), (0, 2), (1, 2)):
            name = f"correlation[{k}, {table.columns[i]}, {table.columns[j]}]"
            correlation[i, j] = correlation[j, i] = found[name]
        covariances.append(correlation * np.outer(sd, sd))
    peer.covariances_ = np.array(covariances)
    peer.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(covariances))
    rows = answers_of("02").apply(fit, table)
    raw = table.raw.numpy()
    np.testing.assert_allclose(block(rows, "P[{}]", 2), peer.predict_proba(raw), atol=1e-8)
    np.testing.assert_allclose(rows["log density"], peer.score_samples(raw), atol=1e-7)
    np.testing.assert_array_equal(rows["component"], peer.predict(raw))
    assert 5 < rows["component"].sum() < 85
    own = torch.softmax(fit.guide._logits(table.v), 1)
    np.testing.assert_allclose(block(rows, "P[{}]", 2), own, atol=1e-10)


def test_a_bayesian_mixture_by_draws_of_its_guide():
    table, fit = measurements(), prepared("02", "mean_field")
    found, rows = (f(fit, table) for f in (answers_of("02").estimates, answers_of("02").apply))
    torch.manual_seed(3)
    number = 4000
    values = draw(fit.programs.guide, number).values
    weight, loc, precision = (array(values[name]) for name in ("weights", "loc", "precision"))
    covariance = np.linalg.inv(precision)
    scale, centre = table.scale.numpy(), table.loc.numpy()
    sd = scale * np.sqrt(covariance.diagonal(axis1=2, axis2=3))
    drawn = np.concatenate([weight, (centre + scale * loc).reshape(number, -1),
                            sd.reshape(number, -1)], 1)  # fmt: skip
    lines = found.iloc[: drawn.shape[1]]
    assert [n for n in lines.index if n.startswith("correlation")] == []
    error = (drawn.mean(0) - lines["mean"]) / lines["sd"] * number**0.5
    assert error.abs().max() < 5
    kurtosis = stats.kurtosis(drawn, axis=0, fisher=False).max()
    np.testing.assert_allclose(drawn.std(0), lines["sd"], rtol=5 * (kurtosis / 4 / number) ** 0.5)
    for end, tail in (("lower", 0.055), ("upper", 0.945)):
        below = (drawn <= lines[end].to_numpy()).mean(0)
        np.testing.assert_allclose(below, tail, atol=5 * (tail * (1 - tail) / number) ** 0.5)
    # The density of a row, averaged over θ.
    joint = torch.distributions.MultivariateNormal(
        values["loc"], precision_matrix=values["precision"]
    ).log_prob(table.v[:30, None, None])
    each = weight * array(joint.exp())  # (rows, draws, components)
    mean, se = each.mean(1), each.std(1) / number**0.5
    density = mean.sum(1)
    told = np.exp(rows["log density"][:30] + np.log(scale).sum())
    assert (abs(told - density) < 5 * each.sum(2).std(1) / number**0.5).all()
    share = block(rows, "P[{}]", 2)[:30]
    assert (abs(share * told.to_numpy()[:, None] - mean) < 5 * se + 1e-12).all()
    assert abs(share - array(fit.guide.h_logits.softmax(1))[:30]).max() < 0.2  # near, not equal


# --- codes, switches and beliefs -----------------------------------------------------------------


def test_codes_by_scikit_learns_lasso():
    theta, table = dictionary(), signals()
    rows = answers_of("03").apply(codes("map"), table)
    W, b = array(theta.W), array(theta.b)
    peer = Lasso(theta.rate * theta.scale**2 / 4, fit_intercept=False, tol=1e-10)
    h = np.array([peer.fit(W, row - b).coef_ for row in table.raw.numpy()])
    assert 0 < (h == 0).mean() < 1
    np.testing.assert_allclose(block(rows, "h[{}]", 6), h, atol=1e-2)
    found = torch.as_tensor(block(rows, "h[{}]", 6))
    excess = objective(theta, table.raw, found) - objective(theta, table.raw, torch.as_tensor(h))
    assert float(excess.max()) < 1e-4
    assert float(excess.min()) > -1e-6
    reconstruction = h @ W.T + b
    told = np.column_stack([rows[f"reconstruction[{c}]"] for c in table.columns])
    np.testing.assert_allclose(told, reconstruction, atol=1e-2)
    rms = np.sqrt(np.square(table.raw.numpy() - told).mean(1))
    np.testing.assert_allclose(rows["reconstruction error"], rms)
    lines = answers_of("03").estimates(codes("map"), table)["mean"]
    for k in range(6):
        assert lines[f"usage[{k}]"] == pytest.approx((h[:, k] != 0).mean())
        assert lines[f"mean |code|[{k}]"] == pytest.approx(abs(h[:, k]).mean(), abs=1e-3)
        assert lines[f"atom[{k}, q]"] == pytest.approx(W[1, k])
    assert (lines["noise sd"], lines["rate"], lines["mean[p]"]) == (0.6, 1.3, 0.5)


@pytest.mark.parametrize(
    ("guide", "factor"), [("gaussian", stats.norm), ("mean_field", stats.laplace)]
)
def test_the_spread_of_codes_is_that_of_the_best_factors(guide, factor):
    """The bound of one row by quadrature over every code, climbed by SciPy."""
    fit, table, theta = codes(guide), signals(), dictionary()
    rows = answers_of("03").apply(fit, table)
    pd.testing.assert_frame_equal(rows.iloc[:, :11], answers_of("03").apply(codes("map"), table))
    W, b = array(theta.W), array(theta.b)
    t = np.linspace(-25, 25, 10_001)

    def bound(parameters, row):
        """E log p(row, h) + H(q), the moments of |h| from a grid of standard quantiles."""
        loc, scale = parameters[:6], np.exp(parameters[6:])
        h = loc[:, None] + scale[:, None] * t
        weight = factor.pdf(t) / factor.pdf(t).sum()
        absolute, variance = (abs(h) @ weight), ((h - loc[:, None]) ** 2 @ weight)
        squares = np.sum((row - b - W @ loc) ** 2) + variance.sum()
        log_v = -squares / (2 * theta.scale**2) - 2 * math.log(2 * math.pi * theta.scale**2)
        log_h = 6 * math.log(theta.rate / 2) - theta.rate * absolute.sum()
        return log_v + log_h + sum(factor(loc[k], scale[k]).entropy() for k in range(6))

    for n in (0, 7):
        row = table.raw[n].numpy()
        loc = np.array([rows[f"h[{k}] mean"][n] for k in range(6)])
        sd = np.array([rows[f"h[{k}] sd"][n] for k in range(6)])
        told = np.concatenate([loc, np.log(sd / factor.std())])
        assert rows["ELBO"][n] == pytest.approx(bound(told, row), abs=1e-3)
        best = optimize.minimize(lambda x, row=row: -bound(x, row), told, method="L-BFGS-B",
                                 options={"maxiter": 2})  # fmt: skip
        assert -best.fun < rows["ELBO"][n] + 2e-3
        mode = np.array([rows[f"h[{k}]"][n] for k in range(6)])
        assert bound(np.concatenate([mode, told[6:]]), row) < rows["ELBO"][n] - 0.01


def test_an_encoder_of_codes_is_asked_for_their_spread():
    fit, table = codes("amortized"), signals()
    rows = answers_of("03").apply(fit, table)
    np.testing.assert_allclose(block(rows, "h[{}] mean", 6), array(fit.guide.encoder(table.raw)))
    sd = 2**0.5 * array(fit.guide.h_scale)
    np.testing.assert_allclose(block(rows, "h[{}] sd", 6), np.tile(sd, (20, 1)))
    best = answers_of("03").apply(codes("mean_field"), table)
    assert (rows["ELBO"] < best["ELBO"]).all()
    point = answers_of("03").apply(codes("amortized point"), table)
    assert list(point.columns) == list(rows.columns[:11])


@pytest.mark.parametrize("guide", ["psd", "lista", "learned_steps"])
def test_learned_codes_are_the_encoders_with_what_they_lack(guide):
    fit, table, theta = codes(guide), signals(), dictionary()
    rows = answers_of("05b").apply(fit, table)
    h = fit.guide.code(table.raw).detach()
    np.testing.assert_allclose(block(rows, "h[{}]", 6), h)
    best = torch.as_tensor(block(answers_of("03").apply(fit, table), "h[{}]", 6))
    excess = objective(theta, table.raw, h) - objective(theta, table.raw, best)
    assert (rows["duality gap"].to_numpy() >= array(excess) - 1e-4).all()
    assert float(excess.max()) > 0.01  # no optimum: three layers


def test_switches_by_enumeration():
    fit, table = prepared("04a", "map", "signals"), signals()
    rows = answers_of("04a").apply(fit, table)
    on = switches_oracle.marginals(fit.model, table.raw)
    np.testing.assert_allclose(block(rows, "P(h[{}] = 1)", 2), on, atol=1e-10)
    exact = switches_oracle.log_evidence(fit.model, table.raw)
    np.testing.assert_allclose(rows["log density"], exact)
    W = array(fit.model.W)
    told = np.column_stack([rows[f"reconstruction[{c}]"] for c in table.columns])
    np.testing.assert_allclose(told, on @ W.T, atol=1e-10)
    rms = np.sqrt(np.square(table.raw.numpy() - told).mean(1))
    np.testing.assert_allclose(rows["reconstruction error"], rms)
    lines = answers_of("04a").estimates(fit, table)["mean"]
    assert lines["P(on)[1]"] == pytest.approx(expit(float(fit.model.b[1])))
    assert lines["atom[1, r]"] == pytest.approx(W[2, 1])
    assert lines["atom norm[0]"] == pytest.approx(np.linalg.norm(W[:, 0]))
    assert lines["noise sd"] == pytest.approx(float(fit.model.scale))


def test_beliefs_by_enumeration():
    fit, table = beliefs(), bits()
    rows = answers_of("05a").apply(fit, table)
    posterior = sigmoid_belief_network.posterior(fit.model, table.raw)
    states = np.array(sigmoid_belief_network.states(3))
    np.testing.assert_allclose(block(rows, "P(h[{}] = 1)", 3), posterior @ states, atol=1e-10)
    exact = sigmoid_belief_network.log_evidence(fit.model, table.raw)
    np.testing.assert_allclose(rows["log probability"], exact)
    seen = expit(states @ array(fit.model.W).T + array(fit.model.c))
    told = np.column_stack([rows[f"P({c})"] for c in table.columns])
    np.testing.assert_allclose(told, posterior @ seen, atol=1e-10)
    lines = answers_of("05a").estimates(fit, table)["mean"]
    assert lines["P(on)[2]"] == pytest.approx(expit(float(fit.model.b[2])))
    assert lines["P(1 | all off)[d]"] == pytest.approx(expit(float(fit.model.c[3])))
    assert lines["weight[2, d]"] == pytest.approx(float(fit.model.W[3, 2]))
    assert lines["weight norm[0]"] == pytest.approx(float(fit.model.W[:, 0].norm()))


# --- continuous latents --------------------------------------------------------------------------


def test_causes_by_conditioning():
    fit, table = causes(), sums()
    mean, covariance = continuous_latents.causes_posterior(fit.model.w, table.raw)
    rows = answers_of("04c_expl").apply(fit, table)
    np.testing.assert_allclose(block(rows, "h[{}] mean", 2), mean)
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(block(rows, "h[{}] sd", 2), np.tile(sd, (len(mean), 1)))
    evidence = continuous_latents.causes_log_evidence(fit.model.w, table.raw)
    np.testing.assert_allclose(rows["log density"], evidence)
    lines = answers_of("04c_expl").estimates(fit, table)["mean"]
    assert lines["strength[1]"] == pytest.approx(0.8)
    assert lines["sd given the sum[0]"] == pytest.approx(sd[0])
    correlation = covariance[0, 1] / sd.prod()
    assert lines["correlation given the sum[0, 1]"] == pytest.approx(correlation)


@pytest.mark.parametrize("widened", [1.0, 30.0])
def test_the_probability_of_an_outcome_by_quadrature(widened):
    """The score of a row is normal under q: an integral for one row after the other."""
    table, fit = outcomes(), prepared("04c_log", "laplace", "outcomes", None)
    x = np.column_stack([np.ones(len(table.v)), table.v[:, :-1]])
    loc = array(fit.guide.loc)
    covariance = widened**2 * array(fit.guide.scale_tril @ fit.guide.scale_tril.mT)
    wide = fit
    if widened > 1:
        guide = build(type(fit.guide)(3), loc=fit.guide.loc, scale_tril=widened
                      * fit.guide.scale_tril)  # fmt: skip
        wide = as_fit(fit.model, guide, *fit.args, data_kwargs=fit.kwargs)
    rows = answers_of("04c_log").apply(wide, table)
    for n in (0, 11, 50):
        m, s = x[n] @ loc, math.sqrt(x[n] @ covariance @ x[n])
        exact, error = integrate.quad(
            lambda t, m=m, s=s: expit(t) * stats.norm.pdf(t, m, s), m - 9 * s, m + 9 * s,
            points=[0.0, m], limit=400,
        )  # fmt: skip
        assert rows["P(ill)"][n] == pytest.approx(exact, abs=1e-6 + 10 * error)
        interval = expit(stats.norm.ppf([0.055, 0.945], m, s))
        np.testing.assert_allclose(rows.loc[n, ["lower", "upper"]].to_numpy(float), interval)
    plain = expit(x @ loc)
    assert abs(rows["P(ill)"] - plain).max() > 0.001  # not the probability at the mean of q


def test_odds_ratios_are_those_of_a_lognormal():
    table, fit = outcomes(), prepared("04c_log", "laplace", "outcomes", None)
    line = answers_of("04c_log").estimates(fit, table).loc["odds ratio[mass]"]
    tril = array(fit.guide.scale_tril)
    exact = stats.lognorm(np.sqrt((tril @ tril.T)[2, 2]), scale=math.exp(array(fit.guide.loc)[2]))
    ends = exact.ppf([0.055, 0.945])
    found = line[["mean", "sd", "lower", "upper"]].to_numpy(float)
    np.testing.assert_allclose(found, [exact.mean(), exact.std(), *ends])


def test_a_new_school_by_quadrature():
    fit, table = schools(), data.load("eight_schools")
    loc, tril = array(fit.guide.loc), array(fit.guide.scale_tril)
    covariance = tril @ tril.T
    lines = answers_of("04c_eight").estimates(fit, table)
    tau = stats.lognorm(covariance[1, 1] ** 0.5, scale=math.exp(loc[1]))
    error = 5 / 20_000**0.5
    assert lines["mean"]["mu"] == pytest.approx(loc[0], abs=error * covariance[0, 0] ** 0.5)
    assert lines["sd"]["mu"] == pytest.approx(covariance[0, 0] ** 0.5, rel=error)
    assert lines["mean"]["tau"] == pytest.approx(tau.mean(), abs=error * tau.std())
    assert lines["upper"]["tau"] == pytest.approx(tau.ppf(0.945), rel=0.05)
    # E[μ + τ η] of jointly normal μ, log τ and η: E τ η = E τ (E η + cov(log τ, η)).
    effect = loc[0] + tau.mean() * (loc[5] + covariance[1, 5])
    spread = lines["sd"]["effect[3]"]
    assert lines["mean"]["effect[3]"] == pytest.approx(effect, abs=error * spread)
    assert lines["unit"]["effect[3]"] == "units of effect"
    rows = answers_of("04c_eight").apply(fit, table)
    new = covariance[0, 0] + tau.var() + tau.mean() ** 2
    np.testing.assert_allclose(rows["effect mean"], loc[0], atol=error * new**0.5)
    np.testing.assert_allclose(rows["effect sd"], new**0.5, rtol=0.1)  # τ has a long tail
    sigma = table.raw[:, 0].numpy()
    sd = np.sqrt(rows["effect sd"] ** 2 + sigma**2)
    np.testing.assert_allclose(rows["estimate sd"], sd)
    for end, tail in (("lower", 0.055), ("upper", 0.945)):
        for what, noise, number in (("effect", 0.0, 20_000), ("estimate", sigma[0], 4000)):
            below = _mixed(rows[f"{what} {end}"][0], noise, loc, covariance)
            width = (tail * (1 - tail) / number) ** 0.5
            assert below == pytest.approx(tail, abs=5 * width), (what, end)


def _mixed(value, noise, loc, covariance):
    """P(μ + τ z + noise z' ≤ value), by quadrature over log τ; μ given τ is normal."""
    z = np.linspace(-8, 8, 4001)
    log_tau = loc[1] + covariance[1, 1] ** 0.5 * z
    slope = covariance[0, 1] / covariance[1, 1]
    mu = loc[0] + slope * (log_tau - loc[1])
    left = covariance[0, 0] - slope * covariance[0, 1]
    sd = np.sqrt(left + np.exp(2 * log_tau) + noise**2)
    return integrate.trapezoid(stats.norm.pdf(z) * stats.norm.cdf(value, mu, sd), z)
