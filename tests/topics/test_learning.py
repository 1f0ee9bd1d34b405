"""What mean-field inference does to the parameters that are learnt with it."""

import numpy as np
import pytest
import torch
from build import build, exact_factors
from oracles.learning import brute_total_correlation, posterior_precision
from oracles.programs import (
    array,
    factor_analysis_log_evidence,
    factor_analysis_posterior,
    gaussian_elbo,
    gaussian_kl,
    log_ratio,
    mean_field_variances,
)
from torch import Tensor

from guides.factor_analysis import FactorAnalysisMeanField
from models.factor_analysis import FactorAnalysis
from pyro_cookbook.algorithms import factor_analysis
from pyro_cookbook.algorithms.binary_sparse_coding import mean_field as sparse
from pyro_cookbook.algorithms.binary_sparse_coding.em import em as sparse_em
from pyro_cookbook.algorithms.factor_analysis import FactorAnalysisParameters
from pyro_cookbook.algorithms.variational_em import (
    binary_total_correlation,
    em,
    mean_field_gap,
    total_correlation,
)
from pyro_cookbook.data import bars

TRIANGULAR = torch.ones(13, 3, dtype=torch.bool).tril()


def model_of(theta: FactorAnalysisParameters) -> FactorAnalysis:
    return build(FactorAnalysis(*theta.W.shape), **vars(theta))


def best_mean_field(theta: FactorAnalysisParameters, v: Tensor) -> FactorAnalysisMeanField:
    mean, covariance = factor_analysis_posterior(theta, v)
    scale = np.broadcast_to(mean_field_variances(covariance) ** 0.5, mean.shape)
    return build(FactorAnalysisMeanField(*mean.shape), h_loc=mean, h_scale=scale.copy())


def mean_field_bound(theta: FactorAnalysisParameters, v: Tensor) -> float:
    return gaussian_elbo(model_of(theta), best_mean_field(theta, v), v)


def evidence(theta: FactorAnalysisParameters, v: Tensor) -> float:
    return float(factor_analysis_log_evidence(theta, v).sum())


@pytest.fixture(scope="module")
def learnt(wine: Tensor) -> dict:
    """The triangular model, learnt both ways from one start."""
    return {
        how: em(wine, 3, inference=how, mask=TRIANGULAR, seed=1) for how in ("exact", "mean_field")
    }


# --- how factorial -----------------------------------------------------------------------------

COVARIANCES = torch.tensor(
    [
        [[2.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 0.5]],
        [[1.0, 0.0, 0.9], [0.0, 3.0, 0.0], [0.9, 0.0, 1.5]],
    ],
    dtype=torch.float64,
)


def test_total_correlation_is_the_kl_to_the_product_of_the_marginals():
    zero = np.zeros(3)
    expected = [gaussian_kl(zero, V, zero, np.diag(np.diag(V))) for V in COVARIANCES.numpy()]
    np.testing.assert_allclose(total_correlation(COVARIANCES), expected, rtol=1e-12)
    assert min(expected) > 0.1
    diagonal = torch.diag_embed(COVARIANCES.diagonal(dim1=-2, dim2=-1))
    assert total_correlation(diagonal).abs().max() < 1e-12


def test_mean_field_gap_is_the_kl_from_the_best_factorised_gaussian():
    zero = np.zeros(3)
    expected = [
        gaussian_kl(zero, np.diag(mean_field_variances(V)), zero, V) for V in COVARIANCES.numpy()
    ]
    np.testing.assert_allclose(mean_field_gap(COVARIANCES), expected, rtol=1e-12)
    assert (mean_field_gap(COVARIANCES) - total_correlation(COVARIANCES)).abs()[0] > 1e-3


def test_total_correlation_of_bits_by_brute_force():
    rng = np.random.default_rng(0)
    tables = rng.dirichlet(np.full(16, 0.5), size=3)
    expected = [brute_total_correlation(row.reshape(2, 2, 2, 2)) for row in tables]
    found = binary_total_correlation(torch.tensor(tables))
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert min(expected) > 0.05


def test_total_correlation_of_bits_that_agree_and_of_independent_bits():
    same = torch.tensor([0.5, 0, 0, 0.5], dtype=torch.float64)
    assert float(binary_total_correlation(same)) == pytest.approx(np.log(2))
    on = torch.tensor([0.2, 0.9, 0.5], dtype=torch.float64)
    states = sparse.all_states(3)
    product = torch.where(states == 1, on, 1 - on).prod(1)
    assert abs(float(binary_total_correlation(product))) < 1e-12
    certain = torch.tensor([0.0, 0, 1, 0], dtype=torch.float64)
    assert float(binary_total_correlation(certain)) == 0


@pytest.mark.parametrize("num_states", [1, 3, 6])
def test_states_that_are_not_those_of_bits_are_refused(num_states):
    with pytest.raises(ValueError, match="expected a power of 2"):
        binary_total_correlation(torch.full((num_states,), 1 / num_states))


# --- EM ----------------------------------------------------------------------------------------


def test_exact_em_takes_the_steps_of_the_other_implementation(wine):
    start = factor_analysis.em(wine, 3, seed=5, max_iterations=1)[0]
    theirs, trace = factor_analysis.em(wine, 3, start=start, max_iterations=30, tol=0)
    ours = em(wine, 3, inference="exact", start=start, max_iterations=31, tol=0)
    np.testing.assert_allclose(ours.elbo[:30], trace, rtol=1e-12)
    torch.testing.assert_close(ours.theta.W, theirs.W, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.theta.scale, theirs.scale, rtol=1e-9, atol=1e-9)
    assert ours.elbo[-1] > ours.elbo[0] + 100


@pytest.mark.parametrize("mask", [None, TRIANGULAR], ids=["free", "triangular"])
@pytest.mark.parametrize("inference", ["exact", "mean_field"])
def test_reported_numbers_are_those_of_theta(wine, mask, inference):
    found = em(wine, 3, inference=inference, mask=mask, max_iterations=20)
    theta = found.theta
    _, covariance = factor_analysis_posterior(theta, wine)
    np.testing.assert_allclose(
        covariance, np.linalg.inv(posterior_precision(array(theta.W), array(theta.scale)))
    )
    correlation = gaussian_kl(np.zeros(3), covariance, np.zeros(3), np.diag(np.diag(covariance)))
    assert found.total_correlation[-1] == pytest.approx(correlation, rel=1e-9)
    assert found.log_evidence[-1] == pytest.approx(evidence(theta, wine), rel=1e-12)
    exact = inference == "exact"
    expected = evidence(theta, wine) if exact else mean_field_bound(theta, wine)
    assert found.elbo[-1] == pytest.approx(expected, rel=1e-11)
    assert not found.converged
    assert len(found.elbo) == 20


@pytest.mark.parametrize("mask", [None, TRIANGULAR], ids=["free", "triangular"])
@pytest.mark.parametrize("inference", ["exact", "mean_field"])
@pytest.mark.parametrize("seed", range(3))
def test_the_bound_never_falls(wine, mask, inference, seed):
    found = em(wine, 3, inference=inference, mask=mask, seed=seed, max_iterations=200)
    assert np.diff(found.elbo).min() > -1e-12 * abs(found.elbo[-1])
    assert found.elbo[-1] > found.elbo[0] + 100


@pytest.mark.parametrize("inference", ["exact", "mean_field"])
def test_the_m_step_maximises_the_bound_under_the_q_of_the_e_step(wine, inference):
    """One iteration: with q held, moving any free parameter lowers the bound."""
    start = em(wine, 3, inference=inference, mask=TRIANGULAR, max_iterations=5).theta
    step = em(wine, 3, inference=inference, mask=TRIANGULAR, start=start, max_iterations=2)
    theta = step.theta
    guide = exact_factors(start, wine) if inference == "exact" else best_mean_field(start, wine)

    def bound(W=theta.W, b=theta.b, scale=theta.scale) -> float:
        return gaussian_elbo(model_of(FactorAnalysisParameters(W, b, scale)), guide, wine)

    best = bound()
    assert best > gaussian_elbo(model_of(start), guide, wine) + 0.1
    assert best <= step.elbo[-1]
    rng = torch.Generator().manual_seed(0)
    for _ in range(4):
        noise = torch.randn(13, 3, generator=rng, dtype=torch.float64)
        for sign in (0.03, -0.03):
            assert bound(W=theta.W + sign * noise * TRIANGULAR) < best - 1e-3
            assert bound(scale=theta.scale * (1 + sign * noise[:, 0])) < best - 1e-3
            assert bound(b=theta.b + sign * noise[:, 1]) < best - 1e-3
    assert (theta.W[~TRIANGULAR] == 0).all()
    assert (theta.W[TRIANGULAR] != 0).all()


def test_one_draw_under_the_learnt_theta_is_the_evidence(wine, learnt):
    theta = learnt["exact"].theta
    value = log_ratio(model_of(theta), exact_factors(theta, wine), wine)
    assert value == pytest.approx(learnt["exact"].elbo[-1], rel=1e-11)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"inference": "gibbs"}, "inference: got 'gibbs'"),
        ({"mask": torch.ones(3, 13)}, "mask: got shape"),
        ({"mask": torch.tensor([True, True, False]).expand(13, 3)}, "a free loading in each"),
    ],
)
def test_wrong_arguments_are_refused(wine, kwargs, message):
    with pytest.raises(ValueError, match=message):
        em(wine, 3, **kwargs)


# --- what mean field does to theta ---------------------------------------------------------------


def test_a_free_rotation_makes_mean_field_learning_free(wine):
    """Both reach the largest evidence; mean field ends where the posterior is diagonal."""
    exact = em(wine, 3, inference="exact", seed=1, tol=1e-9)
    found = em(wine, 3, seed=1, tol=1e-9)
    assert exact.converged
    assert found.converged
    assert found.log_evidence[-1] == pytest.approx(exact.log_evidence[-1], abs=0.01)
    assert found.elbo[-1] == pytest.approx(exact.log_evidence[-1], abs=0.01)
    assert found.total_correlation[-1] < 1e-5
    assert found.total_correlation[0] > 0.1
    assert exact.total_correlation[-1] > 0.03


def test_where_the_rotation_is_fixed_mean_field_pays(wine, learnt):
    exact, found = learnt["exact"], learnt["mean_field"]
    # A triangular W costs the likelihood nothing: any W has a rotation that makes it triangular.
    free = factor_analysis.em(wine, 3)[1][-1]
    assert exact.log_evidence[-1] == pytest.approx(free, abs=0.01)
    assert exact.log_evidence[-1] > found.log_evidence[-1] + 3
    assert found.total_correlation[-1] < 0.1 * exact.total_correlation[-1]
    assert found.total_correlation[-1] < 0.1 * found.total_correlation[0]


def test_a_better_bound_is_not_a_better_model(wine, learnt):
    exact, found = learnt["exact"].theta, learnt["mean_field"].theta
    assert mean_field_bound(found, wine) > mean_field_bound(exact, wine) + 10
    assert evidence(found, wine) < evidence(exact, wine) - 3


def test_mean_field_can_lower_the_evidence_from_the_best_theta(wine, learnt):
    start = learnt["exact"].theta
    found = em(wine, 3, mask=TRIANGULAR, start=start)
    assert found.log_evidence[0] == pytest.approx(learnt["exact"].log_evidence[-1], rel=1e-9)
    assert found.elbo[-1] > found.elbo[0] + 10
    assert found.log_evidence[-1] < found.log_evidence[0] - 3


def test_mean_field_pays_in_binary_sparse_coding():
    v = bars.make_bars(200, 3, scale=0.6, seed=0).v
    for seed in (0, 2):
        exact = sparse_em(v, 6, inference="exact", seed=seed).theta
        found = sparse_em(v, 6, inference="mean_field", seed=seed).theta

        def summary(theta):
            bound = sparse.coordinate_ascent(theta, v).elbo[-1]
            correlation = binary_total_correlation(sparse.posterior(theta, v)).sum()
            return float(sparse.log_evidence(theta, v).sum()), bound, float(correlation)

        (best, loose, tangled), (price, tight, factorial) = summary(exact), summary(found)
        assert price < best - 5
        assert tight > loose + 5
        assert factorial < 0.4 * tangled
