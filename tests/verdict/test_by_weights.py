"""Weights as a witness: each rule on both sides of its limit, as a function of numbers."""

import numpy as np
import pytest
import torch

from pyro_cookbook.fits.result import Estimate
from pyro_cookbook.posterior.importance import Blocks, States, Weights
from pyro_cookbook.programs.drawing import Draws
from pyro_cookbook.programs.program import Site
from pyro_cookbook.verdict import by_weights
from pyro_cookbook.verdict.by_weights import (
    BlockCheck,
    RowCheck,
    StateCheck,
    WeightCheck,
    check_weights,
    doubts,
    judge_block,
    judge_density,
    judge_errors,
    judge_evidence,
    judge_rows,
    judge_states,
    judge_weights,
)
from pyro_cookbook.verdict.findings import NOTHING, RELIABLE, REWEIGHT, UNRELIABLE
from pyro_cookbook.verdict.measures import chance

RNG = np.random.default_rng(0)
LIMIT = 0.7


def errors(shift=0.0, stretch=0.0):
    return np.array([[0.0, shift], [stretch, 0.0]])


def test_the_limits_are_those_of_the_study():
    assert (by_weights.MAX_SHIFT, by_weights.MAX_STRETCH, by_weights.MAX_KL) == (0.25, 0.25, 0.03)
    assert (by_weights.MAX_DISTANCE, by_weights.MIN_SHARE) == (0.05, 0.1)
    assert (by_weights.EVIDENCE_ERRORS, by_weights.EVIDENCE_NATS) == (4.0, 1.0)


@pytest.mark.parametrize(
    ("khat", "kl", "verdict", "told"),
    [
        (0.9, 0.029, RELIABLE, "is below 0.029 nats (k-hat 0.90): too little"),
        (0.9, 0.031, UNRELIABLE, "is 0.90, above 0.70: the guide misses mass"),
        (0.9, np.nan, UNRELIABLE, "is 0.90, above 0.70"),
        (np.inf, np.nan, UNRELIABLE, "is inf, above 0.70"),
        (0.71, 0.5, UNRELIABLE, "is 0.71, above 0.70"),
        (0.69, 0.5, RELIABLE, "k-hat of the joint weights is 0.69"),
        (0.0, -1e-16, RELIABLE, "is below 1e-06 nats"),  # the rounding of a sum is not printed
    ],
)
def test_a_block_is_judged_by_its_divergence_and_then_by_khat(khat, kl, verdict, told):
    finding = judge_block(BlockCheck("joint", khat, kl), LIMIT)
    assert finding.verdict == verdict
    assert told in finding.reasons[0]


@pytest.mark.parametrize(
    ("shift", "stretch", "verdict"),
    [
        (0.249, 0.249, RELIABLE),
        (0.251, 0.0, REWEIGHT),
        (0.0, 0.251, REWEIGHT),
    ],
)
def test_usable_weights_that_change_the_numbers_have_to_be_used(shift, stretch, verdict):
    found = {"a": errors(), "b": errors(shift, stretch)}
    finding = judge_block(BlockCheck("global", 0.4, 1.0, found), LIMIT)
    assert finding == judge_errors("global", 0.4, found)
    assert finding.verdict == verdict
    assert "most at site 'b'" in finding.reasons[0]
    assert f"up to {shift:.2f} sd and sds by up to {stretch:.0%}" in finding.reasons[0]


def test_errors_without_a_bound_are_not_printed_at_length():
    (reason,) = judge_errors("joint", 0.1, {"a": errors(1e200, 1e250)}).reasons
    assert "by up to >1000 sd and sds by up to >1000%" in reason


def rows(khat, kl, **found):
    return RowCheck("group", np.array(khat), np.array(kl), found)


@pytest.mark.parametrize(
    ("khat", "kl", "bad"),
    [
        ([0.69, 0.1], [1.0, 1.0], ()),
        ([0.71, 0.1], [1.0, 1.0], (0,)),
        ([0.71, 0.1], [0.029, 1.0], ()),  # heavy tails, and nothing in them
        ([0.71, 0.1], [0.031, 1.0], (0,)),
        ([0.1, np.inf], [1.0, np.nan], (1,)),  # draws without a density
        ([0.8, 0.1, 0.9], [1.0, 1.0, 1.0], (2, 0)),  # worst first
    ],
)
def test_a_row_that_cannot_be_reweighted_spoils_them_all(khat, kl, bad):
    finding = judge_rows(rows(khat, kl, theta=errors(0.1)), LIMIT)
    assert finding.bad_rows == bad
    assert finding.verdict == (UNRELIABLE if bad else RELIABLE)
    if bad:
        assert finding.reasons[0].startswith(
            f"{len(bad)} of {len(khat)} entries of 'group' have k-hat above 0.70, up to"
            f" {max(khat):.2f} (entries {bad[0]}"
        )
    else:
        assert f"k-hat of the worst 'group' weights is {max(khat):.2f}" in finding.reasons[0]


def test_rows_that_are_right_when_reweighted_have_to_be():
    assert judge_rows(rows([0.1, 0.2], [1.0, 1.0], theta=errors(0.3)), LIMIT).verdict == REWEIGHT


def test_of_many_bad_rows_the_five_worst_are_named():
    khat = np.linspace(0.8, 0.9, 7)
    (reason,) = judge_rows(rows(khat, np.ones(7)), LIMIT).reasons
    assert reason.endswith("(entries 6, 5, 4, 3, 2, …)")
    (reason,) = judge_rows(rows(khat[:5], np.ones(5)), LIMIT).reasons
    assert reason.endswith("(entries 4, 3, 2, 1, 0)")


def test_rows_and_scalars_above_their_limits_are_doubtful():
    flagged, doubtful = doubts(
        rows([0.69, 0.71], [1, 1], a=np.array([[0.24, 0.26], [0.26, 0.24]])), LIMIT
    )
    assert flagged.tolist() == [False, True]
    assert doubtful["a"].tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize(
    ("distance", "share", "verdict", "bad"),
    [
        ([0.049, 0.01], [0.01, 1.0], RELIABLE, ()),
        ([0.051, 0.01], [0.11, 1.0], REWEIGHT, (0,)),
        ([0.051, 0.01], [0.09, 1.0], UNRELIABLE, (0,)),
        ([0.051, 0.9], [1.0, 0.09], UNRELIABLE, (1, 0)),
        ([0.01, np.nan], [1.0, 1.0], REWEIGHT, (1,)),  # what cannot be compared is not right
    ],
)
def test_discrete_rows_are_judged_by_their_distance_and_by_what_reweighting_leaves(
    distance, share, verdict, bad
):
    finding = judge_states(StateCheck("h", "row", np.array(distance), np.array(share)))
    assert finding.verdict == verdict
    assert finding.bad_rows == bad
    assert bool(finding.advice) == (verdict == UNRELIABLE)


def test_what_is_told_of_discrete_rows_is_the_worst_and_the_mean():
    (reason,) = judge_states(StateCheck("h", "row", np.array([0.1, 0.3]), np.ones(2))).reasons
    assert reason == (
        "probabilities of 'h' are within 0.300 of the exact ones for the worst entry of 'row'"
        " (0.200 on average)"
    )


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.0, RELIABLE), (0.01, RELIABLE), (0.011, UNRELIABLE)]
)
def test_many_draws_without_a_density_are_refused(share, verdict):
    finding = judge_density(share)
    assert finding.verdict == verdict
    assert bool(finding.reasons) == (share > 0)
    assert bool(finding.advice) == (verdict == UNRELIABLE)


def test_the_share_without_a_density_is_told():
    assert judge_density(0.502).reasons[0].startswith("50.20% of the guide's draws have no density")


@pytest.mark.parametrize(("missing", "se", "verdict"), [
    (0.99, 0.0, RELIABLE), (1.01, 0.0, UNRELIABLE), (2.99, 0.5, RELIABLE), (3.01, 0.5, UNRELIABLE),
    (-50.0, 0.0, RELIABLE),  # above the exact evidence: noise, or an evidence that is wrong
])  # fmt: skip
def test_weights_have_to_account_for_the_evidence_that_is_known(missing, se, verdict):
    assert judge_evidence(Estimate(-10.0, se), -10.0 + missing).verdict == verdict


def test_an_evidence_that_is_not_known_or_not_estimated_is_no_reason():
    assert judge_evidence(Estimate(-10.0), None) == NOTHING
    assert judge_evidence(Estimate(np.nan, np.nan), 0.0) == NOTHING


def test_what_is_said_of_all_blocks_adds_up():
    block = BlockCheck("global", 0.1, 1.0, {"mu": errors(0.3)})
    bad = rows([0.9], [1.0])
    finding = judge_weights(WeightCheck(LIMIT, 2.0, (block,), rows=bad))
    assert finding == judge_block(block, LIMIT) + judge_rows(bad, LIMIT)
    states = StateCheck("h", "row", np.array([0.1]), np.ones(1))
    finding = judge_weights(WeightCheck(LIMIT, 2.0, (block,), states=states))
    assert finding == judge_block(block, LIMIT) + judge_states(states)


def test_the_khat_of_a_verdict_is_the_worst_of_the_blocks_that_it_rests_on():
    block = BlockCheck("global", 0.1, 1.0)
    both = WeightCheck(LIMIT, 2.0, (block,), rows=rows([0.3, 0.2], [1, 1]))
    assert both.khats == {"joint": 2.0, "global": 0.1, "group": 0.3}
    assert both.khat == 0.3
    alone = WeightCheck(LIMIT, 0.4, (BlockCheck("joint", 0.4, 1.0),))
    assert alone.khats == {"joint": 0.4}
    assert alone.khat == 0.4
    states = StateCheck("h", "row", np.zeros(1), np.ones(1))
    assert np.isnan(WeightCheck(LIMIT, 0.4, states=states).khat)


# What is measured, on weights made by hand


def site(*plates, shape=(), discrete=False):
    shape = torch.Size(shape)
    return Site(plates, shape, 0, observed=False, is_delta=False, is_discrete=discrete)


def made(sites, values, joint, *, blocks=None, rows=None, shared=None, states=None):
    """Weights with these numbers."""
    blocks = blocks or Blocks("", (), tuple(sites))
    draws = Draws({name: torch.as_tensor(value) for name, value in values.items()})
    return Weights(sites, sites, blocks, draws, joint, rows, shared, states)


def never():
    raise AssertionError("nothing here is doubtful")


S, R, K = 4000, 3, 2
LIGHT = 0.1 * RNG.standard_normal(S)  # KL 0.005, k-hat small
# exp(0.2 x²), as of a guide with 0.6 of the right variance: k-hat about 0.4.
NARROW = 0.2 * RNG.chisquare(1, S)
USELESS = 3.0 * RNG.standard_cauchy(S).clip(-50, 50)


def test_joint_weights_that_can_be_used_settle_every_part():
    sites = {"mu": site(), "k": site(discrete=True)}
    values = {"mu": RNG.standard_normal(S), "k": RNG.integers(0, 2, S)}
    check = check_weights(made(sites, values, NARROW, rows=NARROW[:, None]), never)
    (block,) = check.blocks
    assert block.block == "joint"
    assert list(block.errors) == ["mu"]  # a discrete value has neither location nor scale
    assert check.rows is None
    assert check.limit == 0.7


def test_joint_weights_with_a_small_divergence_settle_it_whatever_their_tail():
    tail = np.random.default_rng(1).pareto(1.1, S)  # tail index 0.91
    joint = np.log(1 + 0.005 * tail)
    check = check_weights(made({"mu": site()}, {"mu": LIGHT}, joint, rows=USELESS[:, None]), never)
    assert check.joint > 0.7
    assert check.blocks[0].kl < 0.03
    assert check.blocks[0].errors == {}
    assert check.rows is None


def row_weights(rows, *, first=False):
    """One local latent `theta` with R rows, in the first or the second of two batch dimensions."""
    names, shape = (("group", ""), (R, K)) if first else (("", "group"), (K, R))
    sites = {"theta": site(*names, shape=shape)}
    values = {"theta": RNG.standard_normal((S, *shape))}
    weights = made(sites, values, USELESS, blocks=Blocks("group", ("theta",), ()), rows=rows)
    return weights, values["theta"]


@pytest.mark.parametrize("first", [True, False])
def test_every_row_is_reweighted_by_its_own_weights_wherever_the_plate_lies(first):
    log_weights = np.stack([LIGHT, LIGHT, LIGHT], 1)
    weights, theta = row_weights(log_weights, first=first)
    # Moves the second of the second row's two entries, and no other.
    log_weights[:, 1] = 0.6 * theta[:, 1, 1]
    # Fresh draws say the same.
    check = check_weights(weights, lambda: weights)
    assert check.rows.khat.shape == (R,)
    shift = check.rows.errors["theta"][0].reshape(K, R)  # rows vary fastest
    moved = np.zeros((K, R), bool)
    moved[1, 1] = True
    assert shift[moved].min() > 0.5
    assert shift[~moved].max() < 0.2


def test_rows_that_are_doubtful_are_drawn_again_and_the_second_look_counts():
    good = np.stack([LIGHT, LIGHT, LIGHT], 1)
    bad = good.copy()
    bad[:, 2] = USELESS
    first, _ = row_weights(bad)
    second, _ = row_weights(good)
    check = check_weights(first, lambda: second)
    assert check.rows.khat.max() < 0.7
    # And a row that was not in doubt keeps what it had, whatever the second look says of it.
    check = check_weights(second, lambda: first)
    assert check.rows.khat.max() < 0.7
    worse = bad.copy()
    worse[:, 0] = USELESS
    third, _ = row_weights(worse)
    check = check_weights(first, lambda: third)
    assert (check.rows.khat > 0.7).tolist() == [False, False, True]


def test_scalars_that_are_doubtful_are_drawn_again_too():
    log_weights = np.stack([LIGHT, LIGHT, LIGHT], 1)
    weights, theta = row_weights(log_weights)
    log_weights[:, 1] = 0.6 * theta[:, 1, 1]
    calm, _ = row_weights(np.stack([LIGHT, LIGHT, LIGHT], 1))
    check = check_weights(weights, lambda: calm)
    assert check.rows.khat.max() < 0.7
    assert check.rows.errors["theta"].max() < 0.2


def test_global_latents_are_judged_by_weights_with_the_rows_summed_out():
    sites = {"mu": site(), "theta": site("group", shape=(R,))}
    values = {"mu": RNG.standard_normal(S), "theta": RNG.standard_normal((S, R))}
    weights = made(
        sites, values, USELESS, blocks=Blocks("group", ("theta",), ("mu",)),
        rows=np.stack([LIGHT] * R, 1), shared=0.5 * values["mu"],
    )  # fmt: skip
    check = check_weights(weights, never)
    (block,) = check.blocks
    assert block.block == "global"
    assert list(block.errors) == ["mu"]
    assert block.errors["mu"][0] == pytest.approx(0.5, abs=0.1)
    assert set(check.khats) == {"joint", "global", "group"}


def test_discrete_rows_are_compared_with_probabilities_weighted_by_the_global_latents():
    sites = {"mu": site(), "h": site("row", shape=(1,), discrete=True)}
    mu = RNG.standard_normal(S)
    h = RNG.integers(0, 2, (S, 1))
    up = 1 / (1 + np.exp(-3 * mu))  # probability of 1 given mu
    # Unnormalised, as densities with the data are.
    log_p = np.log(np.stack([1 - up, up], -1))[:, None, :] - 7.0
    blocks = Blocks("row", ("h",), ("mu",))
    states = States(log_p, {"h": torch.tensor([0.0, 1.0])}, ("row",), None)
    weights = made(
        sites, {"mu": mu, "h": h}, USELESS, blocks=blocks, rows=LIGHT[:, None],
        shared=mu.copy(), states=states,
    )  # fmt: skip
    check = check_weights(weights, never)
    assert check.rows is None
    # Weights exp(mu) move mu to N(1, 1).
    exact = (np.exp(mu) * up).sum() / np.exp(mu).sum()
    allowed = chance(np.array([[1 - exact, exact]]), np.array([[0.0], [1.0]]), S)[0]
    assert check.states.distance[0] == pytest.approx(exact - h.mean() - allowed, abs=0.02)
    assert exact - up.mean() > 0.2
    assert (check.states.site, check.states.plate) == ("h", "row")
    assert check.states.share[0] == pytest.approx(
        1 / ((1 - exact) ** 2 / (1 - h.mean()) + exact**2 / h.mean()), abs=0.05
    )


def test_discrete_rows_are_enumerated_even_where_the_joint_weights_are_perfect():
    """A guide that always draws the same wrong value has equal weights."""
    sites = {"h": site("row", shape=(2,), discrete=True)}
    log_p = np.log(np.array([[[0.5, 0.5], [0.9, 0.1]]])) - 3.0
    states = States(log_p, {"h": torch.tensor([0.0, 1.0])}, ("row",), np.array([[1.0, 0.0]] * 2))
    weights = made(
        sites, {"h": np.zeros((S, 2))}, np.zeros(S), blocks=Blocks("row", ("h",), ()),
        rows=np.zeros((S, 2)), states=states,
    )  # fmt: skip
    check = check_weights(weights, never)
    np.testing.assert_allclose(check.states.distance, [0.5, 0.1])
    assert judge_weights(check).verdict == UNRELIABLE
    assert judge_weights(check).bad_rows == (0, 1)
