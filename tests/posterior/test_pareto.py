"""Pareto smoothing of many columns at once, against ArviZ column by column."""

import numpy as np
import pytest
from arviz_stats.base.array import array_stats

from pyro_cookbook.posterior import pareto
from pyro_cookbook.posterior.pareto import fit_tails, quantiles, smooth

RNG = np.random.default_rng(0)


def one_by_one(log_weights):
    """The same by ArviZ, a column at a time: its k-hat is of log likelihoods, the negatives."""
    weights, khat = np.empty_like(log_weights), np.zeros(log_weights.shape[1])
    for r, column in enumerate(log_weights.T):
        some, smoothed = column != -np.inf, np.full(len(column), -np.inf)
        try:
            smoothed[some], khat[r] = array_stats.psislw(-column[some])
        except ValueError:  # a tied tail, or one of fewer than five weights
            khat[r] = np.nan
        if np.isnan(khat[r]):
            smoothed, khat[r] = column - np.logaddexp.reduce(column), 0.0
        weights[:, r] = np.exp(smoothed)
    return weights / weights.sum(0), khat


def drawn(kind, num_draws, count=40):
    """Columns whose weights vary from hardly to wildly."""
    sd = np.geomspace(0.01, 30, count)
    if kind == "normal":
        return sd * RNG.standard_normal((num_draws, count))
    if kind == "light":
        return -sd * RNG.chisquare(1, (num_draws, count))
    if kind == "pareto":
        return -sd * np.log(RNG.random((num_draws, count)))
    if kind == "ties":
        return np.round(3 * sd * RNG.standard_normal((num_draws, count))) / 3
    empty = RNG.random((num_draws, count)) < np.linspace(0, 0.1, count)
    return np.where(empty, -np.inf, sd * RNG.standard_normal((num_draws, count)))


@pytest.mark.parametrize("num_draws", [20, 30, 200, 225, 226, 1000, 4001])
@pytest.mark.parametrize("kind", ["normal", "light", "pareto", "ties", "empty"])
def test_columns_together_have_the_weights_and_khats_that_each_has_alone(kind, num_draws):
    log_weights = drawn(kind, num_draws)
    differ = np.array([c[c > -np.inf].std() > 2 * pareto.EQUAL_WEIGHTS for c in log_weights.T])
    log_weights = log_weights[:, differ]
    weights, khat = smooth(log_weights)
    expected, expected_khat = one_by_one(log_weights)
    np.testing.assert_allclose(khat, expected_khat, rtol=1e-10, atol=1e-12)
    # Among tied weights it may be another one that has the larger quantile.
    weights, expected = np.sort(weights, 0), np.sort(expected, 0)
    np.testing.assert_allclose(weights, expected, rtol=1e-10, atol=1e-14)


def test_pieces_change_nothing(monkeypatch):
    log_weights = drawn("normal", 400, count=11)
    log_weights[0, 4] = np.nan
    whole = smooth(log_weights)
    monkeypatch.setattr(pareto, "_PIECE", 900)  # two columns, and less than one tail
    for ours, other in zip(smooth(log_weights), whole, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-12)
    assert [at.stop - at.start for at in pareto.pieces(11, 400)] == [2] * 5 + [1]


@pytest.mark.parametrize("k", [-0.4, 0.0, 0.5, 1.2])
def test_a_fit_finds_the_law_that_its_quantiles_are_of(k):
    law = np.full(3, k), np.array([0.5, 1.0, 2.0])
    found, scale = fit_tails(quantiles(*law, 4000))
    # The prior is worth ten of four thousand.
    np.testing.assert_allclose(found, k, atol=0.02)
    np.testing.assert_allclose(scale, law[1], rtol=0.05)


def test_quantiles_are_those_of_the_law():
    k, scale = np.array([-0.3, 0.0, 0.7]), np.array([1.0, 2.0, 3.0])
    x = quantiles(k, scale, 5)
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where(
            k[:, None] == 0,
            np.exp(-x / scale[:, None]),
            (1 + k[:, None] * x / scale[:, None]) ** (-1 / k[:, None]),
        )
    np.testing.assert_allclose(1 - rest, np.tile([0.1, 0.3, 0.5, 0.7, 0.9], (3, 1)), atol=1e-12)
