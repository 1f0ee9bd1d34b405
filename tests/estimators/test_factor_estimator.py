"""Factor analysis beside scikit-learn's, and probabilistic PCA beside its closed form."""

import numpy as np
import pytest
from oracles.programs import array
from scipy.stats import multivariate_normal
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as Peer

from pyro_cookbook.estimators import FactorAnalysis

X = load_wine().data
UNIT = X.std(0)


@pytest.fixture(scope="module")
def fitted():
    return FactorAnalysis(3, tol=1e-13, max_iter=20_000).fit(X)


def test_the_likelihood_and_the_noise_are_the_peers(fitted):
    peer = Peer(3, tol=1e-10, max_iter=20_000, svd_method="lapack").fit(X / UNIT)
    assert fitted.score(X / 1) == pytest.approx(peer.score(X / UNIT) - np.log(UNIT).sum(), abs=1e-7)
    assert fitted.loglike_[-1] == pytest.approx(len(X) * fitted.score(X), rel=1e-9)
    np.testing.assert_allclose(fitted.noise_variance_, peer.noise_variance_ * UNIT**2, rtol=1e-3)
    np.testing.assert_allclose(fitted.noise_scale_**2, fitted.noise_variance_)
    expected = peer.get_covariance() * np.outer(UNIT, UNIT)
    np.testing.assert_allclose(fitted.get_covariance(), expected, atol=1e-4 * expected.max())
    started = FactorAnalysis(3, max_iter=1)
    with pytest.warns(UserWarning, match="not converged"):
        started.fit(X)
    assert started.score(X) < fitted.score(X) - 0.3


def test_scores_and_codes_are_those_of_the_marginal(fitted):
    W, psi, V = fitted.components_.T, fitted.noise_variance_, fitted.get_covariance()
    np.testing.assert_allclose(V, W @ W.T + np.diag(psi))
    expected = multivariate_normal(fitted.mean_, V, allow_singular=False).logpdf(X)
    np.testing.assert_allclose(fitted.score_samples(X), expected, atol=1e-8)
    h = (X - fitted.mean_) @ np.linalg.solve(V, W)
    np.testing.assert_allclose(fitted.transform(X), h, atol=1e-8)
    shown = fitted.inverse_transform(h)
    np.testing.assert_allclose(shown, fitted.mean_ + h @ W.T)
    given_row = np.linalg.inv(np.eye(3) + W.T @ (W / psi[:, None]))
    np.testing.assert_allclose(given_row, np.diag(fitted.posterior_scale_**2), atol=1e-9)


def test_the_factors_are_turned_alike_from_every_start(fitted):
    other = FactorAnalysis(3, tol=1e-13, max_iter=20_000, random_state=5).fit(X)
    np.testing.assert_allclose(other.components_ / UNIT, fitted.components_ / UNIT, atol=1e-3)
    strength = (fitted.components_**2 / fitted.noise_variance_).sum(1)
    assert (np.diff(strength) < 0).all()


def test_probabilistic_pca_is_the_closed_form_in_the_units_given():
    Z = X / UNIT * np.linspace(1, 2, 13)  # columns of different variance, which must not be undone
    ours, peer = FactorAnalysis(2, isotropic=True, tol=1e-13, max_iter=20_000).fit(Z), PCA(2).fit(Z)
    n = len(Z)
    np.testing.assert_allclose(ours.noise_variance_, peer.noise_variance_ * (n - 1) / n, rtol=1e-5)
    expected = (peer.explained_variance_ * (n - 1) / n - ours.noise_variance_[0]) ** 0.5
    np.testing.assert_allclose(np.linalg.norm(ours.components_, axis=1), expected, rtol=1e-4)
    apart = FactorAnalysis(2, tol=1e-13, max_iter=20_000).fit(Z)
    assert apart.score(Z) > ours.score(Z) + 0.1


def test_the_guide_is_the_exact_posterior(fitted):
    assert fitted.fit_.elbo.se < 1e-9
    total = len(X) * (fitted.score(X) + np.log(UNIT).sum())
    assert fitted.fit_.elbo.value == pytest.approx(total, abs=1e-6)
    assert array(fitted.fit_.args[0]).std(0) == pytest.approx(np.ones(13))


def test_draws_have_the_covariance(fitted):
    drawn = fitted.sample(40_000)
    error = np.sqrt(2 / 40_000) * np.outer(UNIT, UNIT)
    apart = abs(np.cov(drawn.T) - fitted.get_covariance())
    np.testing.assert_array_less(apart, 6 * error)
    assert (abs(fitted.get_covariance()) > 20 * error).sum() > 13  # beyond the diagonal
