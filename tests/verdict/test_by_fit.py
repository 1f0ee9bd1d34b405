"""What the fit itself says: each rule on both sides of its limit."""

import numpy as np
import pytest

from pyro_cookbook.fits.result import Mode
from pyro_cookbook.programs.coordinates import Coordinates
from pyro_cookbook.verdict.by_fit import (
    MAX_COVERED,
    MODE_SHIFT,
    MODE_VARIANCE,
    START_ERRORS,
    START_NATS,
    judge_convergence,
    judge_modes,
    judge_points,
    judge_restarts,
    mode_distances,
)
from pyro_cookbook.verdict.findings import NOTHING, RELIABLE, UNRELIABLE

# Each mode beyond a valley.
BEYOND = np.ones(4, dtype=bool)


def test_a_fit_that_has_converged_is_no_reason():
    assert judge_convergence(True, "whatever", "stochastic") == NOTHING


@pytest.mark.parametrize(
    ("engine", "reason", "advice"),
    [
        (
            "stochastic",
            "the ELBO rose",
            ["raise max_steps, or lower the noise: elbo=Trace_ELBO(num_particles=8)"],
        ),
        ("", "?", ["raise max_steps, or lower the noise: elbo=Trace_ELBO(num_particles=8)"]),
        ("deterministic", "out of steps: 0.1 nats to gain", ["raise max_steps"]),
        ("deterministic", "the curvature is not finite", []),
    ],
)
def test_a_fit_that_has_not_converged_is_refused_with_advice_for_its_engine(engine, reason, advice):
    finding = judge_convergence(False, reason, engine)
    assert finding.verdict == UNRELIABLE
    assert finding.reasons == (f"the fit has not converged: {reason}",)
    assert list(finding.advice) == advice


def test_the_limits_of_modes_are_those_of_the_study():
    assert (MAX_COVERED, MODE_SHIFT, MODE_VARIANCE) == (3.0, 0.1, 0.3)


def test_a_rise_that_noise_may_hide_is_left_to_the_chains_if_they_measure_all_that_was_fitted():
    hidden = "out of steps: ELBO rose by 0.1 ± 0.2 nats; the noise hides a rise above 0.05"
    rising = "out of steps while rising: ELBO rose by 9 ± 0.2 nats"
    for reason, measured, verdict in (
        (hidden, True, "reliable"), (hidden, False, "unreliable"), (rising, True, "unreliable"),
    ):  # fmt: skip
        found = judge_convergence(False, reason, "stochastic", measured=measured)
        assert found.verdict == verdict
        assert reason in found.reasons[0]


@pytest.mark.parametrize(
    ("share", "distance", "refused"),
    [
        (0.5, 2.99, False),  # covered
        (0.5, 3.01, True),
        # Share × distance: how far the mean would move. Here the variance would move by less.
        (0.0331, 3.01, False),
        (0.0335, 3.01, True),
        # Share × distance²: by how much the variance would grow, where the mean would not.
        (0.0029, 10.0, False),
        (0.0031, 10.0, True),
        (1e-6, 100.0, False),  # far away, and next to nothing
    ],
)
def test_a_mode_is_missed_if_it_is_not_covered_and_would_move_the_numbers(share, distance, refused):
    shares, distances = np.array([1 - share, share]), np.array([0.1, distance])
    finding = judge_modes(shares, distances, ["a", "b"], BEYOND[:2])
    assert (finding.verdict == UNRELIABLE) == refused
    assert bool(finding.reasons) == bool(finding.advice) == refused


def test_missed_modes_are_counted_and_the_heaviest_of_them_is_named():
    shares, distances = np.array([0.6, 0.15, 0.2, 0.05]), np.array([0.0, 9.0, 8.04, 1.0])
    finding = judge_modes(shares, distances, ["a", "b", "c", "d"], BEYOND)
    assert finding.reasons == (
        "climbs from dispersed starts ended in 4 modes; those that the guide does not cover hold"
        " about 0.35 of the mass, 8.0 of its sds away (most at site 'c')",
    )


@pytest.mark.parametrize("size", [0, 1])
def test_one_mode_is_no_reason_wherever_it_is(size):
    assert judge_modes(np.ones(size), np.full(size, 50.0), ["a"] * size, BEYOND[:size]) == NOTHING


def test_distances_are_in_the_guides_sds_where_its_draws_are_known():
    modes = [
        Mode(0.0, 0.5, 1, 0.0, "a", (0.0, 1.0)),
        Mode(0.0, 0.5, 1, 7.0, "a", (3.0, -3.0)),
    ]
    np.testing.assert_array_equal(mode_distances(modes, None), [0.0, 7.0])
    coordinates = Coordinates(np.array([1.0, 1.0]), np.array([0.5, 4.0]))
    # (0 − 1)/0.5 and 0; (3 − 1)/0.5 and (−3 − 1)/4.
    np.testing.assert_allclose(mode_distances(modes, coordinates), [2.0, 17**0.5])


def test_a_mode_on_the_guides_own_hill_is_not_missed():
    shares, distances = np.array([0.6, 0.4]), np.array([0.0, 8.0])
    for beyond in (True, False):
        finding = judge_modes(shares, distances, ["a", "b"], np.array([False, beyond]))
        assert (finding.verdict == UNRELIABLE) == beyond


def test_the_limits_of_starts_are_half_a_nat_and_four_errors():
    assert (START_NATS, START_ERRORS) == (0.5, 4.0)


@pytest.mark.parametrize(("below", "told"), [(2.49, False), (2.51, True)])
def test_a_start_below_the_best_is_told_if_noise_does_not_explain_it(below, told):
    # Standard errors 0.3 and 0.4: 0.5 of the difference; four of them and half a nat are 2.5.
    elbos, errors = np.array([-10.0 - below, -10.0, -10.1]), np.array([0.3, 0.4, 0.4])
    finding = judge_restarts(elbos, errors)
    assert finding.verdict == RELIABLE  # the best was kept: a reason, no refusal
    assert bool(finding.reasons) == told


def test_what_is_told_of_starts_is_how_many_and_by_how_much():
    elbos = np.array([-10.0, -14.1, -30.0, -10.2, np.nan])
    (reason,) = judge_restarts(elbos, np.zeros(5)).reasons
    assert reason.startswith("2 of 5 starts ended more than 0.5 nats below the best, by up to 20.0")
    (reason,) = judge_restarts(np.array([-1e200, 0.0]), np.zeros(2)).reasons
    assert "by up to >1000000:" in reason


@pytest.mark.parametrize("size", [0, 1])
def test_one_start_cannot_end_below_another(size):
    assert judge_restarts(np.zeros(size), np.zeros(size)) == NOTHING


def test_a_guide_with_spread_is_no_point():
    assert judge_points([], discrete=True, sure=1.0) == NOTHING


@pytest.mark.parametrize(
    ("discrete", "sure", "second"),
    [
        (False, None, "the entropy of a point is −∞"),
        (False, 0.5, "the entropy of a point is −∞"),  # some latent has a density
        (True, 0.517, "52% of the rows have a value of probability above 0.95"),
    ],
)
def test_a_point_is_refused_and_told_what_its_bound_means(discrete, sure, second):
    finding = judge_points(["h", "z"], discrete=discrete, sure=sure)
    assert finding.verdict == UNRELIABLE
    assert finding.reasons[0].startswith("the guide is a single point at 'h', 'z':")
    assert finding.reasons[1].startswith(second)
    assert len(finding.reasons) == 2
    assert finding.advice[0].startswith("use it as the mode only")


def test_a_discrete_point_that_was_not_enumerated_is_told_nothing_more():
    assert len(judge_points(["h"], discrete=True, sure=None).reasons) == 1
