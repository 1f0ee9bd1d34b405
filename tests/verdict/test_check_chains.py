"""From a fit to the numbers that short chains give: what `check_chains` measures."""

import dataclasses

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_cookbook as pc
from pyro_cookbook.posterior.chains.short import NUM_STEPS
from pyro_cookbook.posterior.importance import weigh
from pyro_cookbook.posterior.pareto import smooth
from pyro_cookbook.programs.coordinates import Coordinates
from pyro_cookbook.verdict import by_chains
from pyro_cookbook.verdict.by_chains import ChainCheck, check_chains

ORIGIN = torch.zeros((), dtype=torch.float64)


def standard_normal(v):
    h = pyro.sample("h", dist.Normal(v, v + 1.0))
    pyro.deterministic("tenth", 0 * h + 0.1)
    pyro.deterministic("log", h.log())
    pyro.sample("v", dist.Normal(v, 1.0), obs=v)


def guide(loc, scale):
    def run(v):
        pyro.sample("h", dist.Normal(v + loc, v + scale))

    return run


def checked(model, loc, scale, *, reweight=True):
    fit = pc.as_fit(model, guide(loc, scale), ORIGIN)
    weights = weigh(fit, 4000)
    return check_chains(fit, weights, smooth(weights.joint)[0] if reweight else None, 0)


def test_the_check_has_the_draws_and_where_the_chains_take_them():
    check = checked(standard_normal, 0.5, 0.8)
    assert check.conclusive
    assert check.labels == ["h"]
    row = check.table.loc["h"]
    # 4,000 draws; about 1,000 chains of which each is worth a draw or more.
    assert row["mean"] == pytest.approx(0.5, abs=4 * 0.8 / 4000**0.5)
    assert row["chain_mean"] == pytest.approx(0.0, abs=0.1)
    assert row["chain_sd"] == pytest.approx(1.0, abs=0.1)
    assert row["shift"] == pytest.approx(0.5, abs=0.15)
    assert row["stretch"] == pytest.approx(0.2, abs=0.1)
    assert row["reweighted_mean"] == pytest.approx(0.0, abs=0.1)
    assert check.coordinates.loc[0] == row["mean"]
    assert check.coordinates.scale[0] == pytest.approx(row["sd"])
    assert check.plain.shift == row["shift"] + row["shift_margin"]
    assert check.reweighted.label == "h"
    assert check.positions.shape[1] == 1


def test_constants_and_values_that_are_no_numbers_are_not_judged():
    """They made chains look stuck, so that the weights decided alone."""
    check = checked(standard_normal, 0.0, 1.0)
    assert list(check.table.index) == ["h", "tenth", "log"]
    assert check.conclusive
    assert check.table.loc["tenth", ["shift", "stretch"]].max() < 1e-3
    assert check.table.loc["log", "shift"] == 0.0
    assert check.plain.label == "h"


def test_without_usable_weights_nothing_is_reweighted():
    check = checked(standard_normal, 0.0, 1.0, reweight=False)
    assert check.reweighted is None
    assert check.plain is not None


def test_chains_that_are_stuck_or_have_not_moved_are_not_conclusive(monkeypatch):
    monkeypatch.setattr(by_chains, "is_stuck", lambda *_: True)
    assert not checked(standard_normal, 0.0, 1.0).conclusive


@pytest.fixture
def chains_with(monkeypatch):
    """Chains as they are, but for some of their numbers."""
    real = by_chains.run_chains

    def change(**numbers):
        monkeypatch.setattr(
            by_chains,
            "run_chains",
            lambda *args, **options: dataclasses.replace(real(*args, **options), **numbers),
        )

    return change


@pytest.mark.parametrize(("between", "conclusive"), [(0.9, True), (1.1, False)])
def test_chains_that_keep_their_log_density_are_not_conclusive(between, conclusive, chains_with):
    """Half of the variance lies between chains where both variances are 1."""
    rng = np.random.default_rng(0)
    chains_with(values=rng.standard_normal((40, 2000)) + between * rng.standard_normal(2000))
    assert checked(standard_normal, 0.0, 1.0).conclusive == conclusive


@pytest.mark.parametrize(
    ("numbers", "conclusive"),
    [
        ({}, True),
        ({"acceptance": 0.3}, False),
        ({"diverged": 0.1}, False),
        ({"memory": np.array([0.7])}, False),
    ],
)
def test_chains_that_have_not_moved_well_are_not_conclusive(numbers, conclusive, chains_with):
    chains_with(**numbers)
    assert checked(standard_normal, 0.0, 1.0).conclusive == conclusive


def test_errors_are_larger_by_what_the_chains_remember(chains_with):
    chains_with(memory=np.array([0.0]))
    fresh = checked(standard_normal, 0.5, 0.8)
    chains_with(memory=np.array([0.5]))
    remembered = checked(standard_normal, 0.5, 0.8)
    for error in ("shift", "stretch", "reweighted_shift", "reweighted_stretch"):
        known, found = (check.table.loc["h", error] for check in (fresh, remembered))
        assert found == pytest.approx(known / 0.7)  # 0.5 − 0.2 of it are to come


def islands(v):
    """Two modes that no chain crosses between, and a guide over both."""
    x = pyro.sample("h", dist.Normal(v, 20.0))
    apart = torch.stack([-((x - 15) ** 2) / 2, -((x + 15) ** 2) / 2])
    pyro.factor("islands", apart.logsumexp(0))
    pyro.sample("v", dist.Normal(v, 1.0), obs=v)


def test_chains_that_cannot_leave_their_island_are_not_conclusive():
    check = checked(islands, 0.0, 15.0)
    assert not check.conclusive
    assert check.positions is not None


def test_a_model_too_large_for_chains_has_a_table_and_no_positions(monkeypatch):
    monkeypatch.setattr(by_chains, "num_chains", lambda density, large: 0)
    check = checked(standard_normal, 0.0, 1.0)
    assert (check.conclusive, check.positions) == (False, None)
    assert check.plain is None
    assert check.reweighted is None
    assert "chain_mean" not in check.table


@pytest.mark.parametrize(("lost", "runs"), [(30, True), (50, False)])
def test_draws_without_a_place_on_the_unconstrained_scale_are_left_out_while_they_are_few(
    lost, runs
):
    def positive(v):
        pyro.sample("h", dist.HalfNormal(v + 1.0))
        pyro.sample("v", dist.Normal(v, 1.0), obs=v)

    def half_normal(v):
        pyro.sample("h", dist.HalfNormal(v + 1.0))

    fit = pc.as_fit(positive, half_normal, ORIGIN)
    weights = weigh(fit, 4000)
    weights.draws.values["h"][:lost] = 0.0  # whose logarithm is −∞
    check = check_chains(fit, weights, None, 0)
    assert (check.positions is not None) == runs
    assert np.isfinite(check.coordinates.loc).all()


def test_a_model_without_a_flat_density_has_no_check():
    def moving(v):
        low = pyro.sample("low", dist.Normal(v, 1.0))
        pyro.sample("h", dist.Uniform(low, low + 1.0))
        pyro.sample("v", dist.Normal(v, 1.0), obs=v)

    def own(v):
        low = pyro.sample("low", dist.Normal(v, 1.0))
        pyro.sample("h", dist.Uniform(low, low + 1.0))

    fit = pc.as_fit(moving, own, ORIGIN)
    assert check_chains(fit, weigh(fit, 500), None, 0) is None


def test_every_step_of_the_chains_is_counted():
    ticks = []
    fit = pc.as_fit(standard_normal, guide(0.0, 1.0), ORIGIN)
    check_chains(fit, weigh(fit, 500), None, 0, lambda: ticks.append(1))
    assert len(ticks) == NUM_STEPS


def test_a_check_without_positions_displaces_nothing():
    check = ChainCheck(
        pd.DataFrame(), False, Coordinates(np.zeros(1), np.ones(1)), pd.DataFrame(), None, ["h"], ""
    )
    assert check.plain is None
