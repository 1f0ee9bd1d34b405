"""What to do next: the family that is richer, the correlation that was missed."""

import numpy as np
import pytest

from pyro_cookbook.fits.settings import MAX_FULL_RANK
from pyro_cookbook.verdict.advice import STRONG, listed_names, missed_correlation, richer


@pytest.mark.parametrize(
    "family", ["mean_field", "map", "laplace", "whitened_mean_field", "low_rank"]
)
def test_a_narrow_family_has_a_richer_one_while_a_covariance_can_be_had(family):
    assert richer(family, MAX_FULL_RANK, "h", ": why") == ["fit the richer family 'full_rank': why"]
    assert richer(family, MAX_FULL_RANK + 1, "h", ": why") == []


def test_a_full_covariance_that_does_not_do_calls_for_a_flow():
    (step,) = richer("full_rank", MAX_FULL_RANK, "tau", "")
    assert step.startswith("the posterior, 'tau' most of all, is not Gaussian")
    assert "'flow'" in step
    (step,) = richer("full_rank", 3, "", "")
    assert step.startswith("the posterior is not Gaussian")


@pytest.mark.parametrize("family", ["flow", "mean_field+linear_response"])
def test_the_richest_families_have_no_richer_one(family):
    assert richer(family, 3, "tau", "") == []


def test_a_guide_of_the_readers_own_wants_capacity():
    (step,) = richer("Encoder", 10_000, "", "")
    assert step.startswith("give the guide more capacity")


def correlated(first, second):
    """Three columns; 0 and 2 have correlation `first`, 1 and 2 `second`."""
    a, b, c = np.linalg.qr(np.random.default_rng(0).standard_normal((400, 4)))[0].T[1:] * 20
    a, b, c = (one - one.mean() for one in (a, b, c))
    mixed = first * a + second * b + (1 - first**2 - second**2) ** 0.5 * c
    return np.stack([a, b, mixed], 1)


@pytest.mark.parametrize(("size", "told"), [(0.53, True), (0.47, False)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_strong_correlation_is_named(size, told, sign):
    assert STRONG == 0.5
    draws = correlated(0.3, sign * size)
    found = missed_correlation(draws, ["mu", "tau", "theta[1]"])
    if told:
        value = np.corrcoef(draws.T)[1, 2]
        assert found.startswith(f": 'tau' and 'theta[1]' are correlated ({value:+.2f})")
    else:
        assert found == ""


def test_the_strongest_correlation_is_named():
    labels = ["mu", "tau", "theta[1]"]
    assert "'mu' and 'theta[1]'" in missed_correlation(correlated(-0.7, 0.55), labels)


def test_without_a_pair_or_with_a_constant_there_is_no_correlation():
    assert missed_correlation(np.zeros((10, 1)), ["mu"]) == ""
    assert missed_correlation(np.zeros((10, 2)), ["mu", "tau"]) == ""


def test_of_many_sites_a_few_are_named():
    assert listed_names(["a", "b", "c", "d"]) == "'a', 'b', 'c', 'd'"
    assert listed_names(list("abcdefgh")) == "'a', 'b', 'c' and 5 more"
