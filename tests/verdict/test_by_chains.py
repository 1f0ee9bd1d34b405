"""Short chains as a witness: each rule on both sides of its limit, as a function of numbers."""

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_cookbook.posterior.chains.short import Summary
from pyro_cookbook.verdict import by_chains, chain_errors
from pyro_cookbook.verdict.by_chains import (
    MAX_ERROR,
    is_stuck,
    judge_mixed,
    judge_unmixed,
    share_moved,
    with_sums,
)
from pyro_cookbook.verdict.chain_errors import (
    Displacement,
    chain_table,
    directions_table,
    disagreement,
    displacement,
    draws_table,
    errors_against,
    labels_of,
    margin,
    with_errors,
)
from pyro_cookbook.verdict.findings import NOTHING, RELIABLE, REWEIGHT, UNRELIABLE

ORIGIN = torch.zeros((), dtype=torch.float64)


def summary(**numbers):
    """Chains of one scalar with mean 10 and sd 2, exact and at rest, but for `numbers`."""
    rest = {"mean": 10.0, "sd": 2.0, "mean_se": 0.0, "sd_se": 0.0}
    rest |= {"mean_drift": 0.0, "sd_drift": 0.0, "persistence": 0.0}
    return Summary(**{name: np.array([value]) for name, value in (rest | numbers).items()})


def test_the_limits_are_those_of_the_study():
    assert by_chains.MAX_ERROR == 0.22
    assert (by_chains.GOOD_KHAT, by_chains.STRICTER) == (0.5, 0.5)
    assert (by_chains.MAX_PERSISTENCE, by_chains.MAX_PERSISTENCE_OF_DENSITY) == (0.35, 0.5)
    assert chain_errors.DRIFT_ERRORS == 3.0
    assert (by_chains.NOISE_MEMORY, by_chains.MOST_MEMORY) == (0.2, 0.6)


# What is measured


@pytest.mark.parametrize(
    ("error", "drift", "expected"),
    [
        (0.1, 0.0, 0.1),
        (0.1, 0.39, 0.1),  # within noise: three errors, and less than one more
        (0.1, 0.5, 0.2),  # what is more than noise is to come again
        (0.0, 0.5, 0.5),
    ],
)
def test_a_number_that_still_moves_is_as_unsure_as_it_moves(error, drift, expected):
    assert margin(np.array([error]), np.array([drift])) == pytest.approx(expected)


@pytest.mark.parametrize(("persistence", "stuck"), [(0.34, False), (0.36, True)])
def test_chains_that_stay_where_they_are_are_stuck(persistence, stuck):
    assert is_stuck(summary(persistence=persistence)) == stuck
    assert not is_stuck(summary(persistence=persistence), 0.37)


@pytest.mark.parametrize(
    ("memory", "moved"),
    [
        ([0.0], 1.0),
        ([0.19, -0.1], 1.0),  # noise
        ([0.3, 0.1], 0.9),
        ([-0.3, 0.1], 0.9),  # chains that overshoot remember as well
        ([0.79], 0.41),
        ([0.95], 0.4),  # by then they are not heard
    ],
)
def test_chains_that_remember_their_start_have_moved_by_the_rest_of_the_error(memory, moved):
    assert share_moved(np.array(memory)) == pytest.approx(moved)


def test_the_table_of_chains_is_in_their_sds():
    found = chain_table(summary(mean_se=0.1, sd_se=0.2, mean_drift=0.7, sd_drift=0.9), ["h"])
    # The means have drifted by four more errors, the sds by one and a half.
    assert found.loc["h"].to_dict() == pytest.approx(
        {"chain_mean": 10, "chain_sd": 2, "shift_margin": 0.4 / 2, "stretch_margin": 0.3 / 2}
    )


def test_the_table_of_draws_has_their_moments_plain_and_reweighted():
    values = {"h": torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 4.0]], dtype=torch.float64)}
    assert list(draws_table(values, None).columns) == ["mean", "sd"]
    table = draws_table(values, np.array([0.5, 0.5, 0.0]))
    assert list(table.index) == ["h[0]", "h[1]"]
    assert table["mean"].tolist() == [1.0, 2.0]
    np.testing.assert_allclose(table["sd"], [(2 / 3) ** 0.5, 2**0.5])
    assert table["reweighted_mean"].tolist() == [0.5, 1.0]
    assert table["reweighted_sd"].tolist() == [0.5, 0.0]


def test_scalars_are_named_by_their_site_and_index():
    assert labels_of("tau", torch.zeros(5)) == ["tau"]
    assert labels_of("W", torch.zeros(5, 1, 2)) == ["W[0,0]", "W[0,1]"]


def against(mean, sd, known_mean, known_sd):
    own, known = ((np.array([m]), np.array([s])) for m, s in ((mean, sd), (known_mean, known_sd)))
    return tuple(float(one[0]) for one in errors_against(own, known))


@pytest.mark.parametrize(
    ("own", "known", "errors"),
    [
        ((1.0, 1.0), (0.0, 2.0), (0.5, 0.5)),
        ((-1.0, 3.0), (0.0, 2.0), (0.5, 0.5)),
        # A constant, whose mean over many draws is off by a rounding, and its sd is one.
        ((0.1, 1.4e-17), (0.1 + 1.4e-17, 0.0), (0.0, 0.0)),
        ((0.1, 0.0), (0.1, 1.4e-17), (0.0, 0.0)),
        ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0)),
        ((0.1, 0.0), (0.1, 0.01), (0.0, 1.0)),  # the guide alone does not vary
        # log of draws that are partly negative, for both: nothing to compare.
        ((np.nan, np.nan), (np.nan, np.nan), (0.0, 0.0)),
        ((np.inf, np.nan), (np.inf, np.nan), (0.0, 0.0)),
        ((np.nan, np.nan), (0.0, 1.0), (np.inf, np.inf)),  # for one of them
        ((0.0, 1.0), (np.nan, np.nan), (np.inf, np.inf)),
        ((np.inf, np.nan), (0.0, 1.0), (np.inf, np.inf)),  # draws that overflow
    ],
)
def test_errors_are_in_the_known_sds_and_of_constants_there_are_none(own, known, errors):
    # 1e-5 of an sd is what is left of the rounding.
    assert against(*own, *known) == pytest.approx(errors, abs=1e-4)


def test_a_precise_number_is_no_constant():
    assert against(1.0 + 2e-10, 1e-10, 1.0, 1e-10)[0] == pytest.approx(2, rel=1e-5)
    assert against(1.0, 2e-10, 1.0, 1e-10)[1] == pytest.approx(1)


def table_of(**numbers):
    """One scalar, right in every respect but for `numbers`."""
    rest = {"mean": 10.0, "sd": 2.0, "reweighted_mean": 10.0, "reweighted_sd": 2.0}
    rest |= {"chain_mean": 10.0, "chain_sd": 2.0, "shift_margin": 0.0, "stretch_margin": 0.0}
    return pd.DataFrame(rest | numbers, index=["h"])


def test_errors_are_those_of_the_draws_and_of_the_reweighted_draws():
    table = with_errors(table_of(mean=11.0, sd=1.0, reweighted_mean=9.8, reweighted_sd=2.2), 1.0)
    row = table.loc["h"]
    assert (row["shift"], row["stretch"]) == (0.5, 0.5)
    assert row["reweighted_shift"] == pytest.approx(0.1)
    assert row["reweighted_stretch"] == pytest.approx(0.1)
    assert "reweighted_shift" not in with_errors(table_of().drop(columns="reweighted_mean"), 1.0)


def test_what_chains_have_not_moved_is_added():
    row = with_errors(table_of(mean=11.0, sd=1.0, reweighted_mean=10.4), 0.8).loc["h"]
    assert row["shift"] == pytest.approx(0.5 / 0.8)
    assert row["stretch"] == pytest.approx(0.5 / 0.8)
    assert row["reweighted_shift"] == pytest.approx(0.2 / 0.8)


def test_a_displacement_is_the_worst_scalars_with_its_margin():
    table = pd.DataFrame(
        {
            "shift": [0.10, 0.05, 0.0],
            "shift_margin": [0.01, 0.09, 0.0],
            "stretch": [0.0, 0.0, 0.3],
            "stretch_margin": [0.0, 0.0, 0.02],
            "reweighted_shift": [0.5, 0.0, 0.0],
            "reweighted_stretch": [0.0, 0.0, 0.0],
        },
        index=["mu", "tau", "theta[1]"],
    )
    found = displacement(table, "")
    assert found[:3] == pytest.approx((0.14, 0.32, "theta[1]"), abs=1e-12)
    assert found.worst == pytest.approx(0.32)
    assert found.site == "theta"
    assert displacement(table, "reweighted_")[:3] == pytest.approx((0.51, 0.02, "mu"), abs=1e-12)


def test_a_margin_without_a_number_hides_no_error():
    table = with_errors(table_of(shift_margin=np.nan, stretch_margin=np.nan, mean=14.0), 1.0)
    assert displacement(table, "").shift == 2.0


@pytest.mark.parametrize(
    ("numbers", "apart"),
    [
        ({}, 0.0),
        ({"reweighted_mean": 11.0}, 0.5),
        ({"reweighted_sd": 1.0}, 1.0),
        ({"mean": 0.1, "reweighted_mean": 0.1, "sd": 1e-17, "reweighted_sd": 1e-15}, 0.0),
    ],
)
def test_weights_disagree_with_the_draws_by_the_larger_of_shift_and_stretch(numbers, apart):
    assert disagreement(table_of(**numbers)) == pytest.approx(apart, abs=1e-4)


def test_without_weights_there_is_no_disagreement():
    assert disagreement(table_of().drop(columns=["reweighted_mean", "reweighted_sd"])) == 0.0


# What is judged


def moved(shift=0.0, stretch=0.0):
    return Displacement(shift, stretch, "theta[3]")


@pytest.mark.parametrize("where", ["shift", "stretch"])
@pytest.mark.parametrize(
    ("plain", "reweighted", "khat", "verdict"),
    [
        (0.219, None, 0.4, RELIABLE),
        (0.221, None, 0.4, UNRELIABLE),
        (0.219, 0.9, 0.9, RELIABLE),  # weights that cannot be used say nothing
        (0.4, 0.219, 0.49, REWEIGHT),
        (0.4, 0.221, 0.49, UNRELIABLE),
        (0.4, 0.109, 0.51, REWEIGHT),  # few weights have to agree twice as well
        (0.4, 0.111, 0.51, UNRELIABLE),
    ],
)
def test_chains_that_have_mixed_judge_the_draws_and_the_reweighted_draws(
    where, plain, reweighted, khat, verdict
):
    second = None if reweighted is None else moved(**{where: reweighted})
    finding = judge_mixed(moved(**{where: plain}), second, 0.0, khat)
    assert finding.verdict == verdict
    assert finding.site == "theta"


@pytest.mark.parametrize(
    ("apart", "khat", "verdict"),
    [
        (0.219, 0.3, RELIABLE),
        (0.221, 0.3, REWEIGHT),
        (0.221, 0.49, REWEIGHT),
        (0.221, 0.51, RELIABLE),  # not so good that they win
    ],
)
def test_good_weights_win_where_the_guide_has_heavy_tails(apart, khat, verdict):
    finding = judge_mixed(moved(0.1), moved(0.0), apart, khat)
    assert finding.verdict == verdict
    assert ("chains come back late" in finding.reasons[0]) == (verdict == REWEIGHT)


def test_the_weights_do_not_win_where_the_chains_see_the_error_too():
    finding = judge_mixed(moved(0.3), moved(0.3), 0.4, 0.3)
    assert finding.verdict == UNRELIABLE


@pytest.mark.parametrize(("khat", "told"), [(0.69, False), (0.71, True)])
def test_useless_weights_of_a_right_fit_are_told_to_be_no_matter(khat, told):
    reasons = judge_mixed(moved(0.1), None, 0.0, khat).reasons
    assert any("cannot be reweighted, and need not be" in reason for reason in reasons) == told


def test_what_chains_say_is_told_in_sds_and_percent():
    (reason,) = judge_mixed(moved(0.30, 0.456), moved(0.25, 0.1), 0.0, 0.4).reasons
    assert reason == (
        "short chains from the guide's draws move means by at most 0.30 sd and sds by at most 46%"
        " (most at 'theta[3]'); reweighting does not mend it (0.25 sd and 10%, at 'theta[3]'): a"
        " fit is right up to 0.22 sd and 22%"
    )
    (first, second) = judge_mixed(moved(0.30), moved(0.05, 0.1), 0.0, 0.4).reasons
    assert first.endswith("(most at 'theta[3]')")
    assert second == "reweighted, they are within 0.05 sd and 10% of the chains' (k-hat 0.40)"


def test_errors_without_a_bound_are_not_printed_at_length():
    for finding in (
        judge_mixed(moved(1e200, 1e250), moved(np.inf, 1e250), 0.0, 0.4),
        judge_unmixed(moved(1e200, 1e250), RELIABLE, 0.4),
        judge_mixed(moved(0.0), moved(0.0), 1e250, 0.4),
    ):
        assert ">1000%" in finding.reasons[0]
        assert len(finding.reasons[0]) < 260


@pytest.mark.parametrize("where", ["shift", "stretch"])
@pytest.mark.parametrize(
    ("by_weights", "khat", "verdict"),
    [
        (RELIABLE, 0.3, UNRELIABLE),  # nothing confirms reweighted draws
        (REWEIGHT, 0.49, RELIABLE),  # the weights' own verdict stands
        (REWEIGHT, 0.51, UNRELIABLE),
        (UNRELIABLE, 0.3, RELIABLE),
    ],
)
def test_chains_that_have_not_mixed_can_refute_and_not_confirm(where, by_weights, khat, verdict):
    assert judge_unmixed(moved(**{where: 0.219}), by_weights, khat) == NOTHING
    finding = judge_unmixed(moved(**{where: 0.221}), by_weights, khat)
    assert finding.verdict == verdict
    assert finding.site == "theta"
    assert "and have not mixed" in finding.reasons[0]


def test_no_chains_say_nothing():
    assert judge_unmixed(None, RELIABLE, 0.9) == NOTHING


# --- sums of latents ------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "refused"), [(0.43, False), (0.45, True)])
def test_a_sum_may_be_off_twice_as_much_as_a_latent(error, refused):
    along = moved(0.0, error)._replace(of_sum=True)
    finding = judge_mixed(with_sums(moved(0.1), along), None, 0.0, 0.4)
    assert (finding.verdict == UNRELIABLE) == refused
    assert ("a sum with much of 'theta[3]'" in finding.reasons[0]) == refused
    assert finding.reasons[0].endswith("and up to 0.44 sd in sums of them") == refused


def test_a_latent_that_is_wrong_is_named_before_a_sum():
    assert with_sums(moved(0.3), moved(0.9)._replace(of_sum=True)) == moved(0.3)
    assert with_sums(moved(0.1), None) == moved(0.1)


def directions(draws, chains):
    labels = [f"h[{i}]" for i in range(draws.shape[1])]
    return with_errors(directions_table(draws, chains, labels, None), 1.0)


def test_directions_are_found_in_one_half_of_the_chains_and_measured_in_the_other():
    """Ten latents of correlation ρ: the variance of their sum is 1 + 9ρ times as large."""
    rng, rho = np.random.default_rng(0), 0.36
    root = np.linalg.cholesky(np.full((10, 10), rho) + (1 - rho) * np.eye(10))
    draws = rng.standard_normal((20_000, 10))
    table = directions(draws, rng.standard_normal((40, 1024, 10)) @ root.T)
    widest, narrowest, _ = table.itertuples()
    assert abs(widest.stretch - (1 - (1 + 9 * rho) ** -0.5)) < 0.03
    assert abs(narrowest.stretch - ((1 - rho) ** -0.5 - 1)) < 0.05
    # Each latent is right: their sds are 1 in both.
    assert widest.stretch > 2 * MAX_ERROR


def test_a_shift_along_a_direction_is_found():
    rng = np.random.default_rng(1)
    chains = 0.2 + rng.standard_normal((40, 999, 10))
    table = directions(rng.standard_normal((20_000, 10)), chains)
    assert abs(table["shift"].iloc[2] - 0.2 * 10**0.5) < 0.05
    assert (table["stretch"] < 0.05).all()


def test_chance_finds_no_direction():
    """With a few chains in many dimensions the extreme variances of one half are far from 1."""
    rng = np.random.default_rng(2)
    chains = rng.standard_normal((40, 16, 100))
    seen = chains[20:, ::2].reshape(-1, 100)
    assert np.linalg.eigvalsh(np.cov(seen.T)).max() ** 0.5 > 1.5
    table = directions(rng.standard_normal((20_000, 100)), chains)
    assert (table["stretch"] + table["stretch_margin"] < 2 * MAX_ERROR).all()


def test_one_latent_has_no_sums_and_too_many_are_not_looked_at():
    rng = np.random.default_rng(3)
    for dim in (1, 301):
        draws = rng.standard_normal((400, dim))
        assert directions_table(draws, draws[None], ["h"] * dim, None).empty


def test_what_never_varies_has_no_direction():
    """The parts of a whole: their sum is 1 for the guide and for the chains, up to rounding."""
    rng = np.random.default_rng(4)
    draws = rng.dirichlet([3.0, 4.0, 5.0], 20_000)
    constant = np.ones((20_000, 1))
    chains = rng.dirichlet([3.0, 4.0, 5.0], (40, 999))
    table = directions(
        np.hstack([draws, constant]), np.concatenate([chains, np.ones((40, 999, 1))], axis=2)
    )
    assert (table[["shift", "stretch"]] < 0.05).all(axis=None)
    assert "h[3]" not in table.index
