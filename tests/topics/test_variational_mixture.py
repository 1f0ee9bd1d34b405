"""The variational Bayes mixture: its bound, its updates and its guide, against exact answers."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from build import mixture_guide
from oracles.programs import array, log_ratio
from scipy.special import gammaln, multigammaln
from sklearn.cluster import KMeans
from sklearn.mixture import BayesianGaussianMixture
from torch import Tensor

from models.gaussian_mixture import MixturePrior, bayesian_gaussian_mixture
from pyro_cookbook.algorithms.gaussian_mixture.variational_bayes import (
    MixturePosterior,
    VariationalMixtureResult,
    expectation,
    fit_variational_mixture,
    kl_to_prior,
)

COMPONENTS = [3, 6]  # as many as there are species, and too many


def prior_of(v: Tensor, num_components: int) -> MixturePrior:
    """A prior whose every number is its own, so that no two can be swapped unnoticed."""
    eye = torch.eye(4, dtype=torch.float64)
    return MixturePrior(
        concentration=torch.full((num_components,), 0.6, dtype=torch.float64),
        loc=v.mean(0) + 0.3,
        mean_precision=torch.tensor(0.7, dtype=torch.float64),
        df=torch.tensor(6.5, dtype=torch.float64),
        precision_tril=torch.linalg.cholesky(torch.linalg.inv(0.3 * eye + 0.1)),
    )


def k_means(v: Tensor, num_components: int) -> Tensor:
    """Responsibilities as sklearn's mixtures begin with at random_state=0."""
    labels = KMeans(num_components, n_init=1, random_state=0).fit(array(v)).labels_
    return torch.nn.functional.one_hot(torch.tensor(labels).long(), num_components).to(v)


@pytest.fixture(params=COMPONENTS)
def prior(request, iris: Tensor) -> MixturePrior:
    return prior_of(iris, request.param)


@pytest.fixture
def result(iris: Tensor, prior: MixturePrior) -> VariationalMixtureResult:
    start = k_means(iris, len(prior.concentration))
    return fit_variational_mixture(iris, prior, start=start, tol=1e-14)


def bound(q: MixturePosterior, prior: MixturePrior, v: Tensor) -> float:
    return float(expectation(q, v)[1] - kl_to_prior(q, prior))


def test_bound_never_falls(result):
    assert result.converged
    assert result.elbo[-1] > result.elbo[0] + 1
    assert np.diff(result.elbo).min() > -1e-12 * abs(result.elbo[-1])


def test_fixed_point_is_that_of_sklearn(iris, prior, result):
    peer = BayesianGaussianMixture(
        n_components=len(prior.concentration),
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=float(prior.concentration[0]),
        mean_prior=array(prior.loc),
        mean_precision_prior=float(prior.mean_precision),
        degrees_of_freedom_prior=float(prior.df),
        covariance_prior=array(torch.cholesky_inverse(prior.precision_tril)),
        reg_covar=0,
        tol=1e-13,
        max_iter=5000,
        random_state=0,
    ).fit(array(iris))
    q = result.posterior
    covariance = torch.cholesky_inverse(q.precision_tril) / q.df[:, None, None]
    for ours, theirs in (
        (q.concentration, peer.weight_concentration_),
        (q.loc, peer.means_),
        (q.mean_precision, peer.mean_precision_),
        (q.df, peer.degrees_of_freedom_),
        (covariance, peer.covariances_),
        (result.responsibilities, peer.predict_proba(array(iris))),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_log_evidence_of_one_component_is_that_of_the_conjugate_prior(iris):
    """With K = 1 nothing is hidden, the family holds the posterior and the bound is log p(v)."""
    prior = prior_of(iris, 1)
    result = fit_variational_mixture(iris, prior)
    num_rows, num_features = iris.shape
    beta, df = float(prior.mean_precision), float(prior.df)
    loc, v = array(prior.loc), array(iris)
    shift = v.mean(0) - loc
    scatter = (v - v.mean(0)).T @ (v - v.mean(0))
    before = array(torch.cholesky_inverse(prior.precision_tril))
    after = before + scatter + beta * num_rows / (beta + num_rows) * np.outer(shift, shift)
    evidence = (
        -0.5 * num_rows * num_features * np.log(np.pi)
        + multigammaln((df + num_rows) / 2, num_features)
        - multigammaln(df / 2, num_features)
        + 0.5 * df * np.linalg.slogdet(before)[1]
        - 0.5 * (df + num_rows) * np.linalg.slogdet(after)[1]
        + 0.5 * num_features * np.log(beta / (beta + num_rows))
    )
    assert result.elbo[-1] == pytest.approx(evidence, rel=1e-10)


def test_bound_of_known_labels_is_the_evidence_of_labels_and_rows():
    """Groups so far apart that h is certain: log p(v) = log p(v, h) = Dirichlet times conjugate."""
    v = torch.randn(40, 4, dtype=torch.float64) + 1e3 * (torch.arange(40) >= 15)[:, None]
    one, two = prior_of(v, 1), prior_of(v, 2)
    whole = fit_variational_mixture(v, two).elbo[-1]
    parts = sum(fit_variational_mixture(part, one).elbo[-1] for part in (v[:15], v[15:]))
    alpha, count = 0.6, np.array([15, 25])
    labels = (
        gammaln(2 * alpha)
        - gammaln(2 * alpha + 40)
        + (gammaln(alpha + count) - gammaln(alpha)).sum()
    )
    assert whole == pytest.approx(parts + labels, rel=1e-10)


@pytest.mark.parametrize("shift", [0.0, 0.02])
def test_bound_is_that_of_the_programs(iris, prior, result, shift):
    """At the optimum and beside it."""
    optimum = result.posterior
    q = replace(optimum, loc=optimum.loc + shift, df=(1 - 5 * shift) * optimum.df)
    model = partial(bayesian_gaussian_mixture, prior=prior)
    guide = mixture_guide(q, iris)
    ratios = [log_ratio(model, guide, iris) for _ in range(400)]
    se = np.std(ratios) / len(ratios) ** 0.5
    assert se < 0.25
    assert abs(np.mean(ratios) - bound(q, prior, iris)) < 4 * se


def test_reported_bound_is_that_of_the_reported_posterior(iris, prior, result):
    assert bound(result.posterior, prior, iris) == pytest.approx(result.elbo[-1], rel=1e-12)


@pytest.mark.parametrize("factor", [0.95, 1.05])
@pytest.mark.parametrize("name", ["concentration", "loc", "mean_precision", "df", "precision_tril"])
def test_another_q_has_a_lower_bound(iris, prior, result, name, factor):
    q = replace(result.posterior, **{name: factor * getattr(result.posterior, name)})
    assert bound(q, prior, iris) < result.elbo[-1] - 1e-3


def test_restarts_keep_the_best(iris):
    prior = prior_of(iris, 3)
    singles = [fit_variational_mixture(iris, prior, seed=seed).elbo[-1] for seed in range(4)]
    result = fit_variational_mixture(iris, prior, num_restarts=4)
    assert result.elbo[-1] == max(singles)
    assert max(singles) > min(singles) + 1


def test_fit_does_not_mind_where_the_origin_is(iris, prior, result):
    moved = fit_variational_mixture(
        iris + 1e6,
        prior._replace(loc=prior.loc + 1e6),
        start=k_means(iris, len(prior.concentration)),
        tol=1e-14,
    )
    assert moved.elbo[-1] == pytest.approx(result.elbo[-1], rel=1e-7)
    np.testing.assert_allclose(moved.posterior.loc - 1e6, result.posterior.loc, atol=1e-6)
