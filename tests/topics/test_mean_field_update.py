"""The general mean-field update on a grid, against the algebra of explaining away."""

import numpy as np
import pytest
from oracles.maximum_entropy import explaining_away_log_joint, explaining_away_posterior
from oracles.programs import gaussian_kl
from scipy import stats

from pyro_cookbook.algorithms.calculus_of_variations.maximum_entropy import make_grid
from pyro_cookbook.algorithms.calculus_of_variations.mean_field_update import mean_field, update

W, V = np.array([1.6, -0.7]), 1.3
GRIDS = make_grid(-9, 9, 60), make_grid(-8, 10, 50, order=4)


def test_update_needs_only_the_mean_of_the_other_factor_and_makes_it_gaussian():
    """E[log p] is quadratic in h₁ whatever q₂ is: here two bumps, of mean 0.6."""
    first, second = GRIDS
    values = explaining_away_log_joint(W, V)(first.points[:, None], second.points[None])
    q2 = 0.6 * stats.norm(-1, 0.5).pdf(second.points) + 0.4 * stats.norm(3, 0.8).pdf(second.points)
    log_q1 = update(values, np.log(q2), first, second)
    expected = stats.norm(W[0] * (V - W[1] * 0.6) / (1 + W[0] ** 2), (1 + W[0] ** 2) ** -0.5)
    np.testing.assert_allclose(log_q1, expected.logpdf(first.points), atol=1e-7)


def test_fixed_point_is_the_closed_form_of_explaining_away():
    found = mean_field(explaining_away_log_joint(W, V), GRIDS)
    mean, covariance, log_evidence = explaining_away_posterior(W, V)
    assert found.converged
    for i in (0, 1):
        loc, scale = found.moments(i)
        assert loc == pytest.approx(mean[i], abs=1e-6)
        assert scale == pytest.approx((1 + W[i] ** 2) ** -0.5, abs=1e-9)
        exact = stats.norm(mean[i], covariance[i, i] ** 0.5).logpdf(found.grids[i].points)
        np.testing.assert_allclose(np.exp(found.log_marginals[i]), np.exp(exact), atol=1e-7)
        assert scale < covariance[i, i] ** 0.5 - 0.05  # too sure
    assert found.log_evidence == pytest.approx(log_evidence, abs=1e-9)
    factorised = np.diag(1 / (1 + W**2))
    gap = gaussian_kl(mean, factorised, mean, covariance)
    assert found.log_evidence - found.elbo[-1] == pytest.approx(gap, abs=1e-9)
    assert gap > 0.1


def test_bound_never_falls_and_the_start_is_far_below():
    start = stats.norm(-4, 0.3).logpdf(GRIDS[1].points)
    found = mean_field(explaining_away_log_joint(W, V), GRIDS, start=start)
    assert np.diff(found.elbo).min() > -1e-12
    assert found.elbo[-1] - found.elbo[0] > 1


def test_mean_field_is_exact_where_the_posterior_factorises():
    def log_joint(h1, h2):
        return stats.norm.logpdf(h1, 1, 0.5) + stats.logistic.logpdf(h2, -1, 0.4) - 2.5

    found = mean_field(log_joint, GRIDS)
    assert found.elbo[-1] == pytest.approx(-2.5, abs=1e-6)
    assert found.elbo[-1] == pytest.approx(found.log_evidence, abs=1e-9)
    np.testing.assert_allclose(found.log_q[1], found.log_marginals[1], atol=1e-9)


def test_any_other_factor_has_a_lower_bound():
    found = mean_field(explaining_away_log_joint(W, V), GRIDS)
    first, second = GRIDS
    values = explaining_away_log_joint(W, V)(first.points[:, None], second.points[None])
    q2 = second.weights * np.exp(found.log_q[1])

    def bound(log_q1):
        q1 = first.weights * np.exp(log_q1)
        q1 /= q1.sum()
        return q1 @ values @ q2 - q1 @ np.log(q1 / first.weights) - q2 @ found.log_q[1]

    best = bound(found.log_q[0])
    assert best == pytest.approx(found.elbo[-1], abs=1e-9)
    for bump in (first.points, first.points**2, np.cos(3 * first.points)):
        for sign in (1, -1):
            assert bound(found.log_q[0] + sign * 0.01 * bump) < best - 1e-7


def test_a_log_joint_that_is_not_finite_is_refused():
    def log_joint(h1, h2):
        return np.where(h1 > 0, -np.inf, 0) + 0 * h2

    with pytest.raises(ValueError, match="log_joint: expected finite"):
        mean_field(log_joint, GRIDS)
    with pytest.raises(ValueError, match="log_joint: expected finite"):
        mean_field(lambda h1, h2: h1, GRIDS)
