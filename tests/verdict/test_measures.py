"""The numbers that judges look at, where they are known."""

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_cookbook.posterior.pareto import smooth
from pyro_cookbook.verdict.measures import (
    chance,
    columns,
    effective_share,
    frequencies,
    khat_error,
    khat_limit,
    kl_bound,
    location_scale_errors,
    state_distance,
    told_khat,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("num_draws", "limit"), [(100, 0.5), (1000, 2 / 3), (2155, 0.7), (20_000, 0.7)]
)
def test_few_draws_have_a_smaller_limit_of_khat(num_draws, limit):
    assert khat_limit(num_draws) == pytest.approx(limit, abs=1e-4)
    assert khat_limit(2000) < 0.7


def test_equal_weights_have_no_divergence():
    assert abs(kl_bound(np.full(100, 3.0))) < 1e-12


@pytest.mark.parametrize("shift", [0.1, 0.3])
def test_the_bound_of_kl_is_the_divergence_and_two_standard_errors(shift):
    """Normals whose means differ by `shift`: KL is half its square, and log w = shift x − KL."""
    draws = RNG.standard_normal((500, 4000))
    log_weights = (shift * draws - shift**2 / 2).T
    bounds = kl_bound(log_weights)
    assert bounds.shape == (500,)
    top = np.log(np.exp(log_weights).mean(0)) - log_weights.mean(0)
    # The margin is twice the standard deviation of the estimate over replications; of 500 of them
    # a standard deviation has a relative standard error of 3%.
    assert (bounds - top).mean() == pytest.approx(2 * top.std(), rel=0.13)
    assert top.mean() == pytest.approx(shift**2 / 2, abs=4 * top.std() / 500**0.5)


def test_the_bound_of_kl_does_not_overflow_and_is_no_number_without_a_density():
    log_weights = RNG.standard_normal(1000)
    assert kl_bound(log_weights + 5000) == pytest.approx(kl_bound(log_weights), abs=1e-9)
    log_weights[3] = -np.inf
    assert not kl_bound(log_weights) <= 1e9


def test_columns_have_a_draw_in_each_row():
    value = torch.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_array_equal(columns(value), np.arange(12.0).reshape(2, 6))


def test_errors_of_location_and_scale_are_those_of_the_weighted_distribution():
    """Draws of N(0, 1) weighted to N(½, 0.8²): off by ½ / 0.8 sds, and too wide by a quarter."""
    value = RNG.standard_normal((40_000, 1))
    log_weight = stats.norm.logpdf(value, 0.5, 0.8) - stats.norm.logpdf(value)
    weight = np.exp(log_weight) / np.exp(log_weight).sum()
    shift, stretch = location_scale_errors(value, weight)
    # Effective draws: some 17,000; a median's standard error is 1.25/130, a quantile's 0.012.
    assert shift == pytest.approx(0.625, abs=0.05)
    assert stretch == pytest.approx(0.25, abs=0.06)


def test_equal_weights_change_nothing():
    value = RNG.standard_normal((5000, 3)) * [1e-3, 1.0, 1e6]
    assert location_scale_errors(value, np.full((5000, 1), 1 / 5000)).max() < 1e-3


def test_every_scalar_has_weights_of_its_own():
    value = np.tile(RNG.standard_normal((5000, 1)), 2)
    weight = np.ones((5000, 2)) / 5000
    weight[:, 1] = np.where(value[:, 1] > 0, 2.0, 0.0) / 5000
    shift, _ = location_scale_errors(value, weight)
    assert shift[0] < 1e-3
    assert shift[1] > 0.5


def test_a_heavy_tail_is_seen_in_the_sd_where_quantiles_are_right():
    value = RNG.standard_normal((20_000, 1))
    value[:10] = 100.0
    weight = np.where(value == 100.0, 0.0, 1.0) / 19_990
    _, stretch = location_scale_errors(value, weight)
    assert stretch > 1.0  # 10 · 100² / 20,000 = 5 beside a variance of 1


def test_a_shift_of_the_bulk_is_seen_in_the_median_where_a_tail_hides_the_mean():
    value = np.concatenate([RNG.standard_normal(9000), np.full(1000, 1e6)])[:, None]
    weight = np.where(value > 1, 2.0, 1.0)
    weight[value == 1e6] = 1.0
    shift, _ = location_scale_errors(value, weight / weight.sum())
    mean = (weight * value).sum() / weight.sum()
    sd = np.sqrt((weight * (value - mean) ** 2).sum() / weight.sum())
    by_mean = abs(value.mean() - mean) / sd
    assert by_mean < 0.1 < shift


def test_a_value_that_is_always_the_same_has_no_error():
    value = np.full((1000, 1), 0.1)
    weight = RNG.random((1000, 1))
    np.testing.assert_array_equal(location_scale_errors(value, weight / weight.sum()), 0.0)


def test_frequencies_count_values_in_the_order_given():
    values = np.array([[2.0], [0.0], [1.0]])
    drawn = np.array([[0, 2], [0, 1], [2, 1], [0, 1]], dtype=float)[:, :, None]
    np.testing.assert_array_equal(frequencies(drawn, values), [[0.25, 0.75, 0], [0.25, 0, 0.75]])


def test_frequencies_tell_vectors_apart():
    values = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [3, 0], [3, 1]], dtype=float)
    drawn = values[[[0, 5], [3, 5], [3, 4], [2, 1]]]  # shape (4 draws, 2 rows, 2 entries)
    expected = [[0.25, 0, 0.25, 0.5, 0, 0], [0, 0.25, 0, 0, 0.25, 0.5]]
    np.testing.assert_array_equal(frequencies(drawn, values), expected)


def test_the_distance_of_a_scalar_is_the_total_variation_of_its_row():
    values = np.arange(3.0)[:, None]
    guide = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    exact = np.array([[0.4, 0.3, 0.3], [0.0, 0.5, 0.5]])
    distance = state_distance(guide, values, exact)
    np.testing.assert_allclose(distance, [0.1, 1.0])


def test_the_distance_of_a_vector_is_its_worst_entrys_mean_as_a_share_of_the_range():
    values = np.array([[0, 0], [0, 4], [1, 0], [1, 4]], dtype=float)
    exact = np.array([[0.25, 0.25, 0.25, 0.25]])  # means ½ and 2
    guide = np.array([[0.15, 0.25, 0.3, 0.3]])  # 0.6 and 2.2
    # Off by 0.1 of a range of 1, and by 0.2 of a range of 4.
    np.testing.assert_allclose(state_distance(guide, values, exact), [0.1])
    guide = np.array([[0.125, 0.375, 0.125, 0.375]])  # ½ and 3
    np.testing.assert_allclose(state_distance(guide, values, exact), [0.25])


@pytest.mark.parametrize("values", [np.arange(3.0)[:, None], np.array([[0, 0], [1, 0], [1, 5]])])
def test_draws_of_an_exact_guide_are_further_off_than_chance_once_in_a_hundred(values):
    rng = np.random.default_rng(3)
    exact, num_draws = rng.dirichlet([1.0, 1.0, 1.0], size=50), 400
    over = 0
    for _ in range(300):
        guide = rng.multinomial(num_draws, exact) / num_draws
        distance = state_distance(guide, values, exact)
        over += bool((distance > chance(exact, values, num_draws)).any())
        assert distance.max() > 0.03  # the worst of fifty rows, by chance
    assert over <= 8  # of 3 that are expected; P(more) < 0.004


def test_the_share_of_draws_left_is_one_over_the_expected_weight():
    guide, exact = np.array([[0.9, 0.1], [0.5, 0.5]]), np.array([[0.1, 0.9], [0.5, 0.5]])
    np.testing.assert_allclose(effective_share(guide, exact), [1 / (0.01 / 0.9 + 0.81 / 0.1), 1])


@pytest.mark.parametrize(("rare", "share"), [(0.009, 1 / (0.991**2)), (0.011, 0.0)])
def test_a_state_that_is_never_drawn_leaves_nothing_unless_it_is_rare(rare, share):
    guide, exact = np.array([[1.0, 0.0]]), np.array([[1 - rare, rare]])
    # At most 1: a sum without the rare state is below one.
    assert effective_share(guide, exact)[0] == pytest.approx(min(share, 1.0))


@pytest.mark.parametrize("index", [0.3, 0.7])
def test_the_error_of_k_hat_is_how_far_it_scatters(index):
    """Weights with a Pareto tail of a known index, again and again."""
    rng, num_draws = np.random.default_rng(0), 2000
    found = [
        float(smooth(-index * np.log(rng.random(num_draws)))[1]) for _ in range(200)
    ]  # log of a Pareto variable of tail index k
    error = khat_error(index, num_draws)
    assert np.std(found) == pytest.approx(error, rel=0.25)
    assert abs(np.mean(found) - index) < error


def test_a_k_hat_is_told_with_its_error_where_one_was_fitted():
    assert told_khat(0.5, 2000) == "0.50 ± 0.13"
    assert told_khat(0.5, 20_000) == "0.50 ± 0.07"
    assert (told_khat(0.0, 2000), told_khat(np.inf, 2000), told_khat(0.5, 0)) == (
        "0.00", "inf", "0.50",
    )  # fmt: skip
