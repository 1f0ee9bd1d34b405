"""The mixture beside scikit-learn's, from the same start, and its predictive by integration."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, wishart
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture as Peer

from pyro_cookbook.estimators import GaussianMixture

X = load_iris().data
ROWS = [0, 60, 140]


def start():
    precision = np.linalg.inv(np.cov(X.T))
    return {
        "weights_init": np.array([0.2, 0.3, 0.5]),
        "means_init": X[ROWS],
        "precisions_init": np.stack([precision, 2 * precision, 3 * precision]),
    }


def test_em_ends_where_scikit_learn_does_from_the_same_start():
    ours = GaussianMixture(3, **start(), reg_covar=0, tol=1e-15, max_iter=5000, n_init=1).fit(X)
    peer = Peer(3, **start(), reg_covar=0, tol=1e-13, max_iter=5000).fit(X)
    np.testing.assert_allclose(ours.weights_, peer.weights_, atol=1e-6)
    np.testing.assert_allclose(ours.means_, peer.means_, atol=1e-6)
    np.testing.assert_allclose(ours.covariances_, peer.covariances_, atol=1e-6)
    assert ours.lower_bound_ == pytest.approx(peer.lower_bound_, abs=1e-8)
    np.testing.assert_allclose(ours.score_samples(X), peer.score_samples(X), atol=1e-5)
    np.testing.assert_allclose(ours.predict_proba(X), peer.predict_proba(X), atol=1e-5)
    assert ours.bic(X) == pytest.approx(peer.bic(X), abs=1e-4)
    assert ours.aic(X) == pytest.approx(peer.aic(X), abs=1e-4)
    assert abs(ours.means_ - X[ROWS]).max() > 0.1  # it has left the start
    np.testing.assert_array_equal(ours.fit_predict(X), ours.predict(X))


def test_every_iteration_is_the_peers():
    ours = GaussianMixture(3, **start(), reg_covar=0, max_iter=4, n_init=1)
    peer = Peer(3, **start(), reg_covar=0, max_iter=4)
    with pytest.warns(UserWarning, match="not converge"):
        ours.fit(X)
    with pytest.warns(UserWarning, match="not converge"):
        peer.fit(X)
    np.testing.assert_allclose(ours.lower_bounds_, peer.lower_bounds_, rtol=1e-9)
    assert np.diff(ours.lower_bounds_).min() > 1e-3


@pytest.fixture(scope="module")
def bayesian():
    return GaussianMixture(4, inference="variational_bayes", n_init=3).fit(X)


def test_the_predictive_is_the_posterior_integrated(bayesian):
    q, units = bayesian._theta, bayesian._units
    rng = np.random.default_rng(0)
    num, rows = 2000, X[::30]
    z = units.standardise(rows)
    density = np.zeros((num, len(rows), 4))
    for k in range(4):
        tril = q.precision_tril[k].numpy()
        law = wishart(float(q.df[k]), tril @ tril.T)
        for s, precision in enumerate(law.rvs(num, random_state=rng)):
            covariance = np.linalg.inv(precision)
            loc = rng.multivariate_normal(q.loc[k].numpy(), covariance / float(q.mean_precision[k]))
            density[s, :, k] = multivariate_normal(loc, covariance).pdf(z)
    weights = rng.dirichlet(q.concentration.numpy(), num)
    joint = weights[:, None] * density
    mean, error = joint.mean(0), joint.std(0) / num**0.5
    joint = bayesian._log_joint(rows) + units.log_volume
    np.testing.assert_array_less(abs(np.exp(joint) - mean), 5 * error + 1e-12)
    total = np.log(mean.sum(1)) - units.log_volume
    np.testing.assert_allclose(bayesian.score_samples(rows), total, atol=0.1)
    plug_in = sum(
        w * multivariate_normal(m, c).pdf(rows)
        for w, m, c in zip(bayesian.weights_, bayesian.means_, bayesian.covariances_, strict=True)
    )
    assert abs(np.log(plug_in) - bayesian.score_samples(rows)).max() > 0.05  # wider tails


def test_what_is_reported_are_moments_of_the_posterior(bayesian):
    q, units = bayesian._theta, bayesian._units
    rng = np.random.default_rng(1)
    num, k = 20_000, int(bayesian.weights_.argmax())
    tril = q.precision_tril[k].numpy()
    precision = wishart(float(q.df[k]), tril @ tril.T).rvs(num, random_state=rng)
    covariance = np.linalg.inv(precision)
    eps = np.linalg.cholesky(covariance / float(q.mean_precision[k])) @ rng.normal(size=(4, 1))
    eps = (np.linalg.cholesky(covariance) @ rng.normal(size=(num, 4, 1)))[..., 0]
    loc = q.loc[k].numpy() + eps / float(q.mean_precision[k]) ** 0.5
    np.testing.assert_allclose((loc * units.scale).std(0), bayesian.means_scale_[k], rtol=0.03)
    raw = covariance * np.outer(units.scale, units.scale)
    atol = 5 * (raw.std(0) / num**0.5).max()
    np.testing.assert_allclose(raw.mean(0), bayesian.covariances_[k], atol=atol)
    weights = rng.dirichlet(q.concentration.numpy(), num)
    np.testing.assert_allclose(weights.mean(0), bayesian.weights_, atol=0.002)
    np.testing.assert_allclose(weights.std(0), bayesian.weights_scale_, atol=0.001)


@pytest.mark.parametrize("inference", ["em", "variational_bayes"])
def test_draws_have_the_density(inference, bayesian):
    mixture = bayesian if inference != "em" else GaussianMixture(3).fit(X)
    num = 20_000
    drawn, labels = mixture.sample(num)
    share = np.bincount(labels, minlength=len(mixture.weights_)) / num
    np.testing.assert_allclose(share, mixture.weights_, atol=0.015)
    mean = mixture.weights_ @ mixture.means_
    np.testing.assert_array_less(abs(drawn.mean(0) - mean), 5 * drawn.std(0) / num**0.5)
    # Cross-entropy of draws of one half is their entropy: E log p by both halves agrees.
    halves = mixture.score(drawn[: num // 2]), mixture.score(drawn[num // 2 :])
    assert halves[0] == pytest.approx(halves[1], abs=0.1)
    np.testing.assert_array_equal(mixture.sample(5)[0], mixture.sample(5)[0])
    agree = (mixture.predict(drawn) == labels).mean()
    assert agree > 0.9


def test_components_that_are_not_needed_stay_empty():
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(-3, 1, (150, 2)), rng.normal(3, 1, (150, 2))])
    by_vb = GaussianMixture(6, inference="variational_bayes").fit(rows)
    assert (by_vb.weights_ > 0.02).sum() == 2
    assert (GaussianMixture(6).fit(rows).weights_ > 0.02).sum() > 2
    assert not hasattr(by_vb, "bic")
    assert by_vb.fit_.elbo.value == pytest.approx(
        len(rows) * (by_vb.lower_bound_ + np.log(rows.std(0)).sum()), abs=1.0
    )
