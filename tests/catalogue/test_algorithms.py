"""Pairs that the chapter's algorithms have set: the model holds what they have found."""

import pytest

from pyro_cookbook import catalogue, data
from pyro_cookbook.algorithms.binary_sparse_coding.em import em
from pyro_cookbook.catalogue.topics import binary_sparse_coding

# All that are no fit by SVI. Not the auto-encoder's: it refines each row on a few draws, which it
# then knows, so that its own bound is too high.
SET_BY_ALGORITHMS = [
    ("02_expectation_maximisation", "exact"),
    ("02_expectation_maximisation", "mean_field"),
    ("03_sparse_coding", "map"),
    ("04a_binary_sparse_coding", "mean_field"),
    ("04c_logistic_regression", "map"),
    ("04d_learning_meets_inference", "exact"),
    ("04d_learning_meets_inference", "mean_field"),
    ("05a_wake_sleep", "mean_field"),
    ("05a_wake_sleep", "amortized"),
]


@pytest.mark.parametrize(("name", "guide"), SET_BY_ALGORITHMS)
def test_the_bound_that_an_algorithm_ends_with_is_that_of_the_pair(name, guide):
    """By draws of the guide through the held model: another start's θ or φ has another."""
    recipe = catalogue.recipe(name)
    prepared = recipe.prepare(guide, data.load(recipe.data))
    first, last = -prepared.losses[0], -prepared.losses[-1]
    elbo = prepared.fit().elbo
    margin = 5 * elbo.se + 1e-6 * abs(last)
    assert abs(elbo.value - last) < margin
    assert abs(elbo.value - first) > margin  # where the algorithm began


def test_the_switches_held_are_those_of_the_best_start_of_em():
    """Coordinate ascent runs on the held model, and so says nothing of its θ."""
    recipe = catalogue.recipe("04a_binary_sparse_coding")
    table = data.load(recipe.data)
    found = em(
        recipe.rows(table), recipe.size, inference="exact",
        num_restarts=binary_sparse_coding._NUM_STARTS, seed=0,
    )  # fmt: skip
    held = recipe.log_evidence(recipe.prepare("mean_field", table).fit())
    assert held == pytest.approx(found.elbo[-1], abs=1e-3)
    assert held > found.elbo[0] + 100
