"""`diagnose` asks every judge, hands each the right numbers, and adds up what they say."""

import dataclasses
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_cookbook as pc
from pyro_cookbook.fits.result import Estimate, Mode, Restart
from pyro_cookbook.posterior.chains import short
from pyro_cookbook.posterior.importance import weigh
from pyro_cookbook.verdict import diagnosis

ORIGIN = torch.zeros((), dtype=torch.float64)
LOG_EVIDENCE = stats.norm.logpdf(0.0)


def standard_normal(v):
    pyro.sample("h", dist.Normal(v, v + 1.0))
    pyro.sample("v", dist.Normal(v, 1.0), obs=v)


def guide_of(loc, scale):
    def guide(v):
        pyro.sample("h", dist.Normal(v + loc, v + scale))

    return guide


def fitted(loc=0.0, scale=1.0, **changes):
    return dataclasses.replace(pc.as_fit(standard_normal, guide_of(loc, scale), ORIGIN), **changes)


def reasons(fit, **options):
    found = pc.diagnose(fit, **options)
    return found.verdict, " ".join(found.reasons)


def test_a_right_fit_has_nothing_said_against_it():
    found = pc.diagnose(fitted())
    assert found.verdict == "reliable"
    assert len(found.reasons) == 1
    assert found.advice == ()


def test_convergence_is_judged():
    verdict, told = reasons(fitted(converged=False, reason="out of patience"))
    assert verdict == "unreliable"
    assert told.startswith("the fit has not converged: out of patience short chains")


def test_a_model_that_vmap_cannot_follow_is_named_beside_a_good_verdict(monkeypatch):
    def branching(v):
        h = pyro.sample("h", dist.Normal(v, v + 1.0))
        pyro.factor("data", -0.5 * h**2 if h > 0 else -0.5 * h * h)

    monkeypatch.setattr(short, "_MIN_CHAINS", 8)  # each costs a run of the model at every step
    found = pc.diagnose(
        pc.as_fit(branching, lambda v: pyro.sample("h", dist.Normal(v, v + 0.5**0.5)), ORIGIN),
        num_draws=200,
    )
    (step,) = found.advice
    assert step.startswith("write the model so that torch.vmap can follow it")
    assert step.endswith("data-dependent control flow)")


def mode(location, distance, share=0.5):
    return Mode(0.0, share, 1, distance, "h", (location,))


@pytest.mark.parametrize(
    ("location", "distance", "refused"),
    [(8.0, 0.0, True), (0.5, 8.0, False)],  # it is the guide's own draws that have to cover it
)
def test_modes_are_judged_by_their_distance_from_the_guides_draws(location, distance, refused):
    def two_hills():
        h = pyro.sample("h", dist.Normal(ORIGIN, 20.0))
        hills = dist.Normal(torch.tensor([1.0, 8.0]).to(ORIGIN), 1.0).log_prob(h[..., None])
        pyro.factor("hills", hills.logsumexp(-1))

    fit = dataclasses.replace(
        pc.as_fit(two_hills, lambda: pyro.sample("h", dist.Normal(ORIGIN + 1.0, 1.0))),
        modes=(mode(1.0, 0.0), mode(location, distance)),
    )
    assert ("ended in 2 modes" in reasons(fit)[1]) == refused


def test_modes_are_judged_by_their_own_distance_where_the_draws_have_no_place():
    def labelled(v):
        pyro.sample("h", dist.Bernoulli(v + 0.5))
        pyro.sample("v", dist.Normal(v, 1.0), obs=v)

    def guide(v):
        pyro.sample("h", dist.Bernoulli(v + 0.5))

    fit = pc.as_fit(labelled, guide, ORIGIN)
    far, near = ((mode(0.0, 0.0), mode(0.0, distance)) for distance in (8.0, 0.1))
    assert "ended in 2 modes" in reasons(dataclasses.replace(fit, modes=far))[1]
    assert "ended in 2 modes" not in reasons(dataclasses.replace(fit, modes=near))[1]


def test_starts_are_judged_and_do_not_refuse():
    ends = tuple(Restart(s, Estimate(-3.0 * s, 0.1), True, 10) for s in range(2))
    verdict, told = reasons(fitted(restarts=ends))
    assert verdict == "reliable"
    assert "1 of 2 starts ended more than 0.5 nats below" in told
    # Errors of the estimates count: 4 · 1.4 and half a nat are more than 3.
    noisy = tuple(Restart(s, Estimate(-3.0 * s, 1.0), True, 10) for s in range(2))
    assert "starts ended" not in reasons(fitted(restarts=noisy))[1]


def test_the_evidence_is_judged_where_it_is_known():
    assert reasons(fitted(), log_evidence=LOG_EVIDENCE)[0] == "reliable"
    verdict, told = reasons(fitted(), log_evidence=LOG_EVIDENCE + 2.0)
    assert verdict == "unreliable"
    assert "never visits part of the posterior" in told


def test_draws_without_a_density_are_judged():
    def positive(v):
        pyro.sample("h", dist.HalfNormal(v + 1.0))
        pyro.sample("v", dist.Normal(v, 1.0), obs=v)

    # Φ(−2) = 2.3% of the draws: too many. Φ(−3.5) = 0.02%: they have weight 0, and chains run.
    verdict, told = reasons(pc.as_fit(positive, guide_of(2.0, 1.0), ORIGIN))
    assert verdict == "unreliable"
    assert re.match(r"2\.\d\d% of the guide's draws have no density under the model", told)
    told = reasons(pc.as_fit(positive, guide_of(3.5, 1.0), ORIGIN))[1]
    assert re.match(r"0\.0\d% of the guide's draws have no density .* short chains", told)


def test_the_bound_is_the_mean_of_the_log_weights_and_the_gap_is_what_is_missing():
    fit = fitted(loc=0.5)
    found = pc.diagnose(fit, log_evidence=LOG_EVIDENCE, num_draws=4000)
    assert found.gap.value == LOG_EVIDENCE - found.elbo.value
    assert found.gap.se == found.elbo.se
    # KL of normals half an sd apart is ⅛, and the log weights have an sd of ½.
    assert found.elbo.se == pytest.approx(0.5 / 4000**0.5, rel=0.1)
    assert found.gap.value == pytest.approx(0.125, abs=4 * found.gap.se)
    assert pc.diagnose(fit).gap is None


def test_reweighting_is_the_first_advice_and_is_given_only_where_it_helps():
    found = pc.diagnose(fitted(loc=0.5))
    assert found.verdict == "reliable after reweighting"
    assert found.advice == ("use the reweighted draws: to_datatree(fit, reweight=True)",)
    assert not any("reweighted draws" in step for step in pc.diagnose(fitted(scale=0.3)).advice)


def test_advice_names_the_site_that_is_worst():
    found = pc.diagnose(fitted(scale=0.3, family="full_rank"))
    assert any("the posterior, 'h' most of all," in step for step in found.advice)


def test_the_seed_is_the_readers():
    one, two = (pc.diagnose(fitted(loc=0.5), seed=seed, num_draws=500) for seed in (0, 1))
    assert one.elbo.value != two.elbo.value
    assert not one.table["chain_mean"].equals(two.table["chain_mean"])


# Chains that have not mixed, and weights instead


@pytest.fixture
def stuck(monkeypatch):
    """Chains that are run and do not mix."""

    def check(*args, **options):
        found = checked(*args, **options)
        return None if found is None else dataclasses.replace(found, conclusive=False)

    checked = diagnosis.check_chains
    monkeypatch.setattr(diagnosis, "check_chains", check)


@pytest.fixture
def no_chains(monkeypatch):
    monkeypatch.setattr(diagnosis, "check_chains", lambda *args, **options: None)


@pytest.mark.usefixtures("stuck")
def test_chains_that_have_not_mixed_refute_and_leave_the_rest_to_the_weights():
    verdict, told = reasons(fitted())
    assert verdict == "reliable"
    assert told.startswith("KL(q ‖ p) of the joint weights is below")
    verdict, told = reasons(fitted(scale=0.7))  # the weights, k-hat 0.5, say "reweight" as well
    assert told.startswith("short chains from the guide's draws move means by at least")
    assert "and have not mixed k-hat of the joint weights is 0." in told
    found = pc.diagnose(fitted(scale=0.3))
    assert found.verdict == "unreliable"


def groups(y):
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 5.0))
    with pyro.plate("group", len(y), dim=-1):
        theta = pyro.sample("theta", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(theta, 2.0), obs=y)


def groups_guide(y, scale=0.85):
    precision = len(y) / 5 + 1 / 25
    mu = pyro.sample("mu", dist.Normal(y.sum() / 5 / precision, precision**-0.5))
    with pyro.plate("group", len(y), dim=-1):
        pyro.sample("theta", dist.Normal((4 * mu + y) / 5, scale * 0.8**0.5))


def narrow_guide(y):
    groups_guide(y, 0.6)


Y = torch.linspace(-3, 3, 120, dtype=torch.float64)


@pytest.mark.usefixtures("no_chains")
def test_without_chains_blocks_are_weighed_where_the_joint_weights_are_of_no_use():
    found = pc.diagnose(pc.as_fit(groups, groups_guide, Y), num_draws=5000)
    assert set(found.khats) == {"joint", "global", "group"}
    assert found.verdict == "reliable"
    assert found.khat == max(found.khats["global"], found.khats["group"])
    assert found.table.empty


@pytest.mark.usefixtures("stuck")
@pytest.mark.parametrize(
    ("guide", "verdict", "blocks"),
    [(groups_guide, "reliable", 3), (narrow_guide, "unreliable", 1)],
)
def test_a_large_fit_that_chains_refute_is_not_weighed_row_by_row(
    monkeypatch, guide, verdict, blocks
):
    fit = pc.as_fit(groups, guide, Y)
    small = pc.diagnose(fit, num_draws=2000)
    monkeypatch.setattr(diagnosis, "MANY_LATENTS", 120)
    large = pc.diagnose(fit, num_draws=2000)
    assert (small.verdict, len(small.khats)) == (verdict, 3)
    assert (large.verdict, len(large.khats)) == (verdict, blocks)
    assert large.khats["joint"] == small.khats["joint"] > 0.7


@pytest.mark.usefixtures("no_chains")
def test_a_model_too_large_for_chains_is_asked_for_some_before_its_rows_are_summed_out(
    monkeypatch,
):
    asked = []
    monkeypatch.setattr(diagnosis, "check_chains", lambda *_, large: asked.append(large))
    pc.diagnose(pc.as_fit(groups, groups_guide, Y), num_draws=500)
    pc.diagnose(pc.as_fit(groups, groups_guide, Y[:3]), num_draws=500)  # joint weights can be used
    pc.diagnose(pc.as_fit(rows, rows_guide, Y), num_draws=500)  # rows have weights of their own
    assert asked == [True, False, False]


def test_with_chains_that_have_mixed_they_are_not():
    found = pc.diagnose(pc.as_fit(groups, groups_guide, Y), num_draws=5000)
    assert set(found.khats) == {"joint"}


@pytest.mark.usefixtures("no_chains")
def test_joint_weights_that_can_be_used_are_the_verdicts():
    found = pc.diagnose(pc.as_fit(groups, groups_guide, Y[:3]), num_draws=5000)
    assert set(found.khats) == {"joint"}


def rows(y):
    with pyro.plate("row", len(y), dim=-1):
        h = pyro.sample("h", dist.Normal(y.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(h, 1.0), obs=y)


def rows_guide(y):
    with pyro.plate("row", len(y), dim=-1):
        pyro.sample("h", dist.Normal(y / 2, 0.4))


def test_rows_in_doubt_are_drawn_again_by_another_seed_and_the_bad_are_listed(monkeypatch):
    def guide(y):
        scale = torch.where(torch.arange(len(y)) == 7, 0.2, 1.0).to(y)
        with pyro.plate("row", len(y), dim=-1):
            pyro.sample("h", dist.Normal(y / 2, scale * 0.5**0.5))

    seeds = []

    def recording(fit, num_draws, seed, **options):
        seeds.append((num_draws, seed))
        return weigh(fit, num_draws, seed, **options)

    monkeypatch.setattr(diagnosis, "weigh", recording)
    found = pc.diagnose(pc.as_fit(rows, guide, Y), seed=5)
    assert found.bad_rows == (7,)
    assert found.verdict == "unreliable"
    assert seeds == [(4000, 5), (4000, 6)]


@pytest.mark.parametrize("probability", [0.94, 0.96])
def test_a_discrete_point_is_told_how_many_rows_are_nearly_sure(probability):
    """One row at even odds, and one at those given."""
    p = torch.tensor([0.5, probability], dtype=torch.float64)

    def labelled(y):
        with pyro.plate("row", 2, dim=-1):
            pyro.sample("h", dist.Bernoulli(p))
            pyro.sample("y", dist.Normal(y.new_zeros(()), 1.0), obs=y)

    def point(y):
        with pyro.plate("row", 2, dim=-1):
            pyro.sample("h", dist.Delta(torch.ones(2).to(y)))

    found = pc.diagnose(pc.as_fit(labelled, point, Y[:2]), log_evidence=0.0)
    assert found.verdict == "unreliable"
    assert f"{50 * (probability > 0.95)}% of the rows have a value" in found.reasons[1]
    assert found.gap.value == -found.elbo.value
    assert np.isnan(found.evidence.value)
    assert found.khats == {}


def test_a_point_that_has_not_converged_is_told_both():
    fit = pc.fit(standard_normal, "map", ORIGIN)
    found = pc.diagnose(dataclasses.replace(fit, converged=False, reason="?"), log_evidence=0.0)
    assert found.reasons[0] == "the fit has not converged: ?"
    assert "single point at 'h'" in found.reasons[1]
    assert found.gap is None  # a height is no bound


def test_a_derived_value_that_is_constant_does_not_silence_the_chains():
    def model(v):
        h = pyro.sample("h", dist.Normal(v, v + 1.0))
        pyro.deterministic("tenth", 0 * h + 0.1)
        pyro.sample("v", dist.Normal(v, 1.0), obs=v)

    found = pc.diagnose(pc.as_fit(model, guide_of(0.0, 1.0), ORIGIN))
    assert found.verdict == "reliable"
    assert "short chains" in found.reasons[0]
    assert "'h'" in found.reasons[0]
