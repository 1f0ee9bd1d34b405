"""Findings add up, and no number is printed at more length than it has sense."""

import numpy as np
import pytest

from pyro_cookbook.verdict.findings import (
    NOTHING,
    REFINED,
    RELIABLE,
    REWEIGHT,
    UNRELIABLE,
    VERDICTS,
    Finding,
    nats,
    percent,
    sds,
)


@pytest.mark.parametrize("one", VERDICTS)
@pytest.mark.parametrize("other", VERDICTS)
def test_the_worst_verdict_wins_whatever_the_order(one, other):
    worst = VERDICTS[max(VERDICTS.index(one), VERDICTS.index(other))]
    assert (Finding(one) + Finding(other)).verdict == worst


def test_verdicts_are_ordered_from_the_best_to_the_worst():
    assert VERDICTS == (RELIABLE, REWEIGHT, REFINED, UNRELIABLE)


def test_reasons_follow_each_other_and_advice_is_given_once():
    one = Finding(RELIABLE, ("a",), ("fit again", "wait"), "h", (3, 1))
    other = Finding(REWEIGHT, ("b", "a"), ("wait", "sample"), "z", (1, 2))
    both = one + other
    assert both == Finding(
        REWEIGHT, ("a", "b", "a"), ("fit again", "wait", "sample"), "h", (3, 1, 2)
    )
    assert one == Finding(RELIABLE, ("a",), ("fit again", "wait"), "h", (3, 1))  # as it was


def test_nothing_changes_nothing_and_gives_way_to_a_site():
    one = Finding(UNRELIABLE, ("a",), ("wait",), "h", (1,))
    assert NOTHING + one == one + NOTHING == one


@pytest.mark.parametrize(
    ("write", "number", "text"),
    [
        (percent, 0.123, "12%"),
        (percent, 10.0, "1000%"),
        (percent, 10.01, ">1000%"),
        (percent, 1e200, ">1000%"),
        (percent, np.inf, ">1000%"),
        (percent, np.nan, "nan%"),
        (sds, 0.314, "0.31"),
        (sds, 1000.0, "1000.00"),
        (sds, 1000.1, ">1000"),
        (sds, 1e270, ">1000"),
        (nats, 4.14, "4.1"),
        (nats, 1e6, "1000000.0"),
        (nats, 1e6 + 1, ">1000000"),
        (nats, np.inf, ">1000000"),
    ],
)
def test_a_number_too_large_to_mean_anything_is_a_bound(write, number, text):
    assert write(number) == text


def test_digits_are_as_asked_for():
    assert percent(0.0123, 1) == "1.2%"
    assert percent(1e9, 1) == ">1000%"
    assert sds(15.94, 1) == "15.9"
