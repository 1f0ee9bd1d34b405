"""The classifier beside statsmodels, Newton's method and averages over draws."""

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from scipy.special import expit, softmax
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.metrics import log_loss

from pyro_cookbook.algorithms.logistic_regression import newton
from pyro_cookbook.estimators import BayesianClassifier

X, Y = load_breast_cancer(return_X_y=True)
X = X[:, [1, 4, 8, 9]]  # four columns that do not separate the classes
Z = (X - X.mean(0)) / X.std(0)
NUM_DRAWS = 4000


def test_under_a_flat_prior_it_is_maximum_likelihood():
    fitted = BayesianClassifier(intercept_scale=1e3, coefficient_scale=1e3, guide="laplace")
    fitted.fit(X, Y)
    peer = sm.Logit(Y, sm.add_constant(X)).fit(disp=False)
    ours = np.array([fitted.intercept_[0], *fitted.coef_[0]])
    error = peer.bse / NUM_DRAWS**0.5
    np.testing.assert_array_less(abs(ours - peer.params), 4 * error)
    assert (abs(peer.params) > 20 * error).all()  # the start, 0, fails
    scales = [fitted.intercept_scale_[0], *fitted.coef_scale_[0]]
    np.testing.assert_allclose(scales, peer.bse, rtol=0.05)


def test_with_the_prior_it_is_newtons_mode_and_curvature():
    fitted = BayesianClassifier(guide="laplace", coefficient_scale=0.3).fit(X, Y)
    found = newton(torch.tensor(Z), torch.tensor(Y * 1.0), coefficient_scale=0.3)
    scale = found.covariance.diagonal().sqrt().numpy()
    mean = fitted._mean[0]
    np.testing.assert_array_less(abs(mean - found.mode.numpy()), 4 * scale / NUM_DRAWS**0.5)
    covariance = fitted._covariance[0, :, 0]
    atol = 5 * (scale**2).max() / NUM_DRAWS**0.5
    np.testing.assert_allclose(covariance, found.covariance.numpy(), atol=atol)


def test_probabilities_are_averages_over_the_posterior():
    fitted = BayesianClassifier().fit(X[:40], Y[:40])
    proba, spread = fitted.predict_proba(X, return_std=True)
    rng = np.random.default_rng(0)
    beta = rng.multivariate_normal(fitted._mean[0], fitted._covariance[0, :, 0], 20_000)
    z = fitted._units.standardise(X)
    drawn = expit(np.column_stack([np.ones(len(z)), z]) @ beta.T)
    error = drawn.std(1) / 20_000**0.5
    np.testing.assert_array_less(abs(proba[:, 1] - drawn.mean(1)), 6 * error + 1e-5)
    np.testing.assert_allclose(spread[:, 1], drawn.std(1), atol=0.005)
    at_mean = expit(np.column_stack([np.ones(len(z)), z]) @ fitted._mean[0])
    assert abs(at_mean - proba[:, 1]).max() > 0.05  # less sure than at the mean
    assert log_loss(Y[40:], proba[40:]) < log_loss(Y[40:], at_mean[40:])
    np.testing.assert_allclose(fitted.predict_log_proba(X), np.log(proba))


def test_probabilities_are_calibrated():
    """Coefficients from the prior, twenty rows: among rows said to be yes by p, a share p is."""
    rng = np.random.default_rng(0)
    said, seen = [], []
    for _ in range(12):
        x = rng.normal(size=(220, 3))
        beta = rng.normal(size=3) * 2.5
        y = (rng.random(220) < expit(x @ beta)).astype(int)
        if 0 < y[:20].sum() < 20:
            said.append(BayesianClassifier().fit(x[:20], y[:20]).predict_proba(x[20:])[:, 1])
            seen.append(y[20:])
    said, seen = np.concatenate(said), np.concatenate(seen)
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        chosen = (said >= low) & (said < low + 0.2)
        assert seen[chosen].mean() == pytest.approx(said[chosen].mean(), abs=0.12)


def iris():
    x, y = load_iris(return_X_y=True)
    return x[:, :2], y  # two lengths, that do not separate


def log_posterior(beta, x, codes, intercept_scale, coefficient_scale):
    """Softmax regression with a column of coefficients for each class, written directly."""
    scores = np.column_stack([np.ones(len(x)), x]) @ beta
    log_p = np.log(softmax(scores, axis=1))[np.arange(len(x)), codes].sum()
    scale = np.array([intercept_scale, coefficient_scale, coefficient_scale])[:, None]
    return log_p - ((beta / scale) ** 2).sum()  # N(0, scale / √2) for each class


def test_three_classes_have_the_mode_of_the_symmetric_prior():
    from scipy.optimize import minimize

    x, y = iris()
    z = (x - x.mean(0)) / x.std(0)
    best = minimize(
        lambda b: -log_posterior(b.reshape(3, 3), z, y, 5.0, 2.5), np.zeros(9), tol=1e-10
    )
    mode = best.x.reshape(3, 3)
    fitted = BayesianClassifier(guide="laplace").fit(x, y)
    coef = fitted.coef_ * x.std(0)
    np.testing.assert_allclose(coef.sum(0), 0, atol=1e-9)
    error = (fitted.coef_scale_ * x.std(0)) / NUM_DRAWS**0.5
    np.testing.assert_array_less(abs(coef - mode[1:].T), 5 * error)
    raw = fitted.intercept_ + fitted.coef_ @ x.mean(0)
    np.testing.assert_allclose(raw, mode[0], atol=0.05)
    assert abs(mode).max() > 1


def test_two_classes_are_the_case_of_three_with_one_that_never_is():
    """The same numbers whichever way two classes are written: the program of K classes at K = 2."""
    from pyro_cookbook import fit
    from pyro_cookbook.estimators.linear_programs import softmax_regression

    x, codes = torch.tensor(Z), torch.tensor(Y)
    contrasts = torch.tensor([[-1.0], [1.0]]).double() / 2**0.5
    options = {"contrasts": contrasts, "intercept_scale": 5.0, "coefficient_scale": 2.5}
    found = fit(softmax_regression, "full_rank", x, codes, data_kwargs=options)
    other = BayesianClassifier(guide="full_rank").fit(X, Y)
    assert found.elbo.value == pytest.approx(other.fit_.elbo.value, abs=0.05)


def test_words_are_classes():
    names = load_iris().target_names[load_iris().target]
    x, y = iris()
    fitted, plain = BayesianClassifier().fit(x, names), BayesianClassifier().fit(x, y)
    assert list(fitted.classes_) == ["setosa", "versicolor", "virginica"]
    np.testing.assert_array_equal(fitted.predict(x), load_iris().target_names[plain.predict(x)])
    assert fitted.score(x, names) == (fitted.predict(x) == names).mean() > 0.75
    proba, spread = fitted.predict_proba(x, return_std=True)
    np.testing.assert_allclose(proba.sum(1), 1)
    assert spread.shape == proba.shape == (150, 3)
