"""Chains from a fit's draws: they reach the exact posterior, and say so only where they have."""

from types import SimpleNamespace

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_stats.base.array import array_stats
from pyro import poutine
from scipy import stats

import pyro_cookbook as pc
from pyro_cookbook.fits.refined import RefinedDraws
from pyro_cookbook.posterior.refining import agreement as limits
from pyro_cookbook.posterior.refining import refine as refining
from pyro_cookbook.posterior.refining.agreement import (
    MAX_RHAT,
    MAX_TAIL,
    MAX_UNEQUAL,
    MIN_ESS,
    Agreement,
    agree,
    unequal,
)
from pyro_cookbook.posterior.refining.beginning import num_chains
from pyro_cookbook.posterior.refining.by_nuts import refine_by_nuts
from pyro_cookbook.posterior.refining.ensemble import Ensemble, Run
from pyro_cookbook.programs.coordinates import Coordinates

RNG = np.random.default_rng(0)
COVARIANCE = np.array([[4.0, 1.9], [1.9, 1.0]])


def gaussian(x):
    """A normal of mean (1, −2), correlation 0.95."""
    centred = x - np.array([1.0, -2.0])
    pull = np.linalg.solve(COVARIANCE, centred.T).T
    return -(centred * pull).sum(1) / 2, -pull


def chains(**options):
    x = RNG.normal(size=(64, 2)) * 5
    unit = Coordinates(np.zeros(2), np.ones(2))
    return Ensemble(gaussian, x, unit, np.random.default_rng(1), **options)


# --- the sampler ----------------------------------------------------------------------------------


def test_an_ensemble_reaches_mean_and_covariance_of_a_normal():
    ensemble = chains()
    before = np.cov(ensemble.at.x.T)
    ensemble.adapt(40, int)
    run = ensemble.run(100, int)
    ess = min(array_stats.ess(run.draws[..., i], chain_axis=0, draw_axis=1) for i in (0, 1))
    flat = run.draws.reshape(-1, 2)
    error = 5 / np.sqrt(ess)
    np.testing.assert_allclose(flat.mean(0), [1, -2], atol=2 * error)
    np.testing.assert_allclose(np.cov(flat.T), COVARIANCE, rtol=2 * error)
    assert np.abs(before / COVARIANCE - 1).max() > 4 * error  # where it began
    assert ess > 2000


def test_adapting_makes_the_coordinates_those_of_the_posterior():
    ensemble = chains()
    ensemble.adapt(60, int)
    root = ensemble.coordinates.matrix
    np.testing.assert_allclose(root @ root.T, COVARIANCE, rtol=0.25)
    assert 0.5 < ensemble.run(20, int).acceptance < 0.999


def test_the_length_grows_where_trajectories_are_too_short():
    short, long = chains(length=0.3), chains(length=0.3)
    for one, rounds in ((short, 1), (long, 4)):
        for _ in range(rounds):
            one.adapt(40, int)
    assert long.length > 2 * 0.3
    assert long.length > short.length


def test_a_chain_that_is_rejected_keeps_its_value_and_gradient():
    ensemble = chains(step=40.0, length=0.3)  # steps so long that nothing is accepted
    first = ensemble.at.x.copy()
    run = ensemble.run(5, int)
    stayed = (run.draws[:, -1] == first).all(1)
    assert stayed.mean() > 0.9
    value, gradient = gaussian(ensemble.at.x)
    np.testing.assert_array_equal(run.gradients[:, -1], gradient)
    np.testing.assert_array_equal(ensemble.at.value, value)
    assert run.acceptance < 0.1


def test_places_without_a_density_are_never_kept():
    def half(x):
        value, gradient = gaussian(x)
        return np.where(x[:, 0] > 0, value, np.nan), gradient

    start = np.abs(RNG.normal(size=(64, 2)))
    unit = Coordinates(np.zeros(2), np.ones(2))
    ensemble = Ensemble(half, start, unit, np.random.default_rng(0))
    ensemble.adapt(20, int)
    assert (ensemble.run(30, int).draws[..., 0] > 0).all()


# --- the judges -----------------------------------------------------------------------------------


def run_of(draws, gradients=None):
    shape = draws.shape[:2]
    gradients = -draws if gradients is None else gradients
    return Run(draws, -(draws**2).sum(-1) / 2, gradients, 0.8, np.zeros(shape, dtype=bool))


def test_equipartition_holds_for_the_right_gradients_and_not_for_draws_too_narrow():
    draws = RNG.normal(size=(64, 50, 3))
    assert unequal(run_of(draws)) < 0.02
    # Draws of sd 0.8 under the gradients of a standard normal: 0.64.
    assert unequal(run_of(0.8 * draws)) == pytest.approx(0.36, abs=0.1)
    moved = draws + 7.0  # the mean is taken off
    assert unequal(run_of(moved, -draws)) < 0.02


GROUPS = np.repeat(np.arange(16), 4)


def agreement(draws):
    return agree({"z": draws}, run_of(draws), GROUPS)


def test_independent_draws_agree():
    found = agreement(RNG.normal(size=(64, 32, 2)))
    assert found.holds
    assert found.ess > 1000
    assert list(found.table.index) == ["log density", "z[0]", "z[1]"]


def test_groups_of_chains_that_stay_apart_do_not():
    draws = RNG.normal(size=(64, 32, 1)) + 0.3 * (GROUPS % 2)[:, None, None]
    found = agreement(draws)
    assert found.rhat > MAX_RHAT
    assert not found.holds


def test_chains_at_radii_of_their_own_do_not():
    """As in a t of 100 dimensions: no latent tells them apart, the log density does."""
    radii = np.exp(RNG.normal(size=16) / 10)[GROUPS]
    draws = radii[:, None, None] * RNG.normal(size=(64, 32, 100))
    found = agreement(draws)
    rhat = found.table["rhat"]
    assert rhat.drop("log density").max() < 1.05
    assert rhat["log density"] > 1.5
    assert not found.holds


def test_a_value_that_never_varies_agrees():
    draws = np.concatenate([RNG.normal(size=(64, 32, 1)), np.ones((64, 32, 1))], axis=2)
    found = agree({"z": draws}, run_of(draws[..., :1]), GROUPS)
    assert found.holds


def test_a_tail_whose_sd_draws_cannot_measure_is_refused():
    found = agreement(RNG.standard_t(1.5, size=(64, 32, 1)))
    assert found.table["tail"].max() > MAX_TAIL
    assert not found.holds
    fit = type("Fit", (), {"modes": ()})
    assert "its quantiles can" in " ".join(found.reasons(fit))


@pytest.mark.parametrize(
    ("changed", "holds"),
    [
        ({}, True),
        ({"rhat": MAX_RHAT - 1e-4}, True),
        ({"rhat": MAX_RHAT + 1e-4}, False),
        ({"ess_mean": MIN_ESS}, True),
        ({"ess_mean": MIN_ESS - 1}, False),
        ({"ess_square": MIN_ESS - 1}, False),
        ({"tail": MAX_TAIL}, True),
        ({"tail": MAX_TAIL + 0.01}, False),
        ({"unequal": MAX_UNEQUAL}, True),
        ({"unequal": MAX_UNEQUAL + 0.01}, False),
        ({"diverged": 0.01}, True),
        ({"diverged": 0.02}, False),
    ],
)
def test_each_limit_holds_on_both_sides(changed, holds):
    import pandas as pd

    row = {"rhat": 1.0, "ess_mean": 5000.0, "ess_square": 5000.0, "tail": 0.1}
    row |= {key: value for key, value in changed.items() if key in row}
    table = pd.DataFrame([row], index=["z"])
    found = Agreement(table, changed.get("unequal", 0.0), 0.8, changed.get("diverged", 0.0))
    assert found.holds is holds


def test_the_number_of_chains_follows_the_size_of_the_model():
    def of(scalars, obstacle=""):
        return num_chains(type("D", (), {"scalars": scalars, "obstacle": obstacle}))

    assert [of(n) for n in (1, 10_000, 30_000, 10**7)] == [256, 128, 64, 32]
    assert of(1, "a branch") == 32


# --- a model --------------------------------------------------------------------------------------

DOSE = torch.tensor([-0.86, -0.30, -0.05, 0.73], dtype=torch.float64)
DEATHS = torch.tensor([0.0, 1.0, 3.0, 5.0], dtype=torch.float64)


def bioassay(x, v=None):
    alpha = pyro.sample("alpha", dist.Normal(x.new_zeros(()), 2.0))
    beta = pyro.sample("beta", dist.Normal(x.new_tensor(10.0), 10.0))
    pyro.deterministic("half", -alpha / (beta.abs() + 1.0))
    with pyro.plate("group", len(x)):
        return pyro.sample("v", dist.Binomial(5, logits=alpha + beta * x), obs=v)


@pytest.fixture(scope="module")
def refined():
    return pc.refine(pc.fit(bioassay, "laplace", DOSE, DEATHS))


def exact():
    a, b = np.meshgrid(np.linspace(-6, 10, 400), np.linspace(-20, 60, 800), indexing="ij")
    log_p = -(a**2) / 8 - (b - 10) ** 2 / 200
    for x, y in zip(DOSE.tolist(), DEATHS.tolist(), strict=True):
        logits = a + b * x
        log_p += y * logits - 5 * np.logaddexp(0, logits)
    weight = np.exp(log_p - log_p.max())
    weight /= weight.sum()
    means = [(weight * z).sum() for z in (a, b)]
    return means, [
        np.sqrt((weight * (z - m) ** 2).sum()) for z, m in zip((a, b), means, strict=True)
    ]


def test_a_rejected_fit_is_refined_to_the_exact_posterior(refined):
    rough = pc.fit(bioassay, "laplace", DOSE, DEATHS)
    means, sds = exact()
    off = []
    for fit in (rough, refined):
        drawn = pc.to_datatree(fit)["posterior"]
        ess = 1000 if fit is rough else refined.refinements[-1].ess
        error = 5 / np.sqrt(ess)
        shifts = [abs(float(drawn[n].mean()) - m) / s
                  for n, m, s in zip(("alpha", "beta"), means, sds, strict=True)]  # fmt: skip
        widths = [abs(float(drawn[n].std()) / s - 1)
                  for n, s in zip(("alpha", "beta"), sds, strict=True)]  # fmt: skip
        off.append(max(*shifts, *widths) / error)
    assert off[1] < 1 < off[0]


def test_its_verdict_its_tree_and_its_predictions(refined):
    diagnosis = pc.diagnose(refined, log_evidence=-4.04)
    assert diagnosis.verdict == "reliable after refining"
    assert "nested R-hat" in str(diagnosis)
    record = refined.refinements[-1]
    tree = pc.to_datatree(refined)
    assert tree["posterior"]["beta"].sizes == {
        "chain": record.num_chains, "draw": record.num_draws}  # fmt: skip
    assert float(az.ess(tree)["beta"]) > 400
    half = -tree["posterior"]["alpha"] / (abs(tree["posterior"]["beta"]) + 1)
    np.testing.assert_allclose(tree["posterior"]["half"], half, atol=1e-12)
    fewer = pc.to_datatree(refined, num_draws=512, sample_dims=["sample"])
    assert fewer["posterior"]["beta"].sizes == {"sample": 512}
    new = pc.predict(refined, DOSE[:2] + 5.0, num_draws=50)
    assert new["predictions"]["v"].mean() > 4.9


def test_it_is_saved_and_loaded(refined, tmp_path):
    pc.save(refined, tmp_path / "r.safetensors")
    loaded = pc.load(tmp_path / "r.safetensors", model=bioassay)
    assert loaded.refinements == refined.refinements
    one, two = (pc.to_datatree(fit)["posterior"] for fit in (refined, loaded))
    assert one.equals(two)
    assert pc.diagnose(loaded).verdict == "reliable after refining"


def test_the_same_seed_gives_the_same_numbers(refined):
    again = pc.refine(pc.fit(bioassay, "laplace", DOSE, DEATHS))
    one, two = (fit.guide.latents["beta"] for fit in (refined, again))
    assert torch.equal(one, two)


def centred(y):
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(y.new_tensor(5.0)))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 10.0), obs=y)


def test_sites_are_non_centred_where_that_is_better():
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64)
    refined = pc.refine(pc.fit(centred, "mean_field", y))
    assert refined.noncentred == ("theta",)
    assert refined.refinements[-1].accepted
    assert "theta" in pc.to_datatree(refined)["posterior"]


def test_discrete_latents_and_a_budget_of_nothing_are_refused():
    def model(y):
        h = pyro.sample("h", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(h, 1.0), obs=y)

    def guide(y):
        pyro.sample("h", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="h"):
        pc.refine(pc.as_fit(model, guide, torch.tensor(1.0)))
    with pytest.raises(ValueError, match="budget: got 0"):
        pc.refine(pc.fit(bioassay, "laplace", DOSE, DEATHS), budget=0)


def test_an_interrupt_after_a_round_gives_what_there_is(monkeypatch):
    from pyro_cookbook.posterior.refining import refine as module

    def then_the_key(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_next", then_the_key)
    monkeypatch.setattr(module, "_FIRST_ROUND", 8)
    refined = module.refine(pc.fit(bioassay, "laplace", DOSE, DEATHS))
    assert "it was interrupted" in refined.refinements[-1].reasons
    assert not refined.converged
    monkeypatch.undo()
    again = pc.refine(refined)
    assert again.refinements[-1].accepted
    assert len(again.refinements) == 2


def test_nuts_in_the_place_of_a_guide_is_judged_by_the_same_rules(monkeypatch):
    def model(y):
        mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 10.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    fit = pc.fit(model, "laplace", torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    monkeypatch.setattr(limits, "MIN_ESS", 100.0)  # a second in place of ten
    monkeypatch.setattr(limits, "MAX_RHAT", 1.05)
    long = refine_by_nuts(fit, num_draws=250, num_warmup=50)
    assert (long.engine, long.family, long.converged) == ("nuts", "refined", True)
    assert pc.diagnose(long).verdict == "reliable after refining"
    draws = pc.to_datatree(long).posterior["mu"]
    assert abs(float(draws.mean()) - 6 / 3.01) < 5 * 3.01**-0.5 / long.refinements[-1].ess ** 0.5
    short = refine_by_nuts(fit, num_draws=20, num_warmup=20)
    assert not short.converged
    assert "effective draws" in " ".join(short.refinements[-1].reasons)
    cut = refine_by_nuts(fit, num_draws=10**6, num_warmup=50, budget=4.0)
    assert 100 <= cut.refinements[-1].num_draws < 10**6
    assert pc.to_datatree(cut).posterior["mu"].size == 4 * cut.refinements[-1].num_draws
    with pytest.raises(ValueError, match="were not enough for warm-up"):
        refine_by_nuts(fit, budget=0.001)


def test_a_fit_that_has_not_converged_is_never_better(monkeypatch):
    fit = pc.fit(centred, "mean_field", torch.tensor([28.0, 8.0, -3.0], dtype=torch.float64))
    assert fit.converged
    higher = SimpleNamespace(value=fit.elbo.value + 1)
    for converged in (False, True):
        other = SimpleNamespace(converged=converged, elbo=higher)
        monkeypatch.setattr(refining, "fit_again", lambda *args, other=other, **options: other)
        assert (refining.better_centred(fit) is other) == converged


def test_draws_of_chains_are_chosen_evenly_and_one_at_a_time():
    """What a draw costs does not grow with the number that is kept."""
    kept = {"w": torch.arange(12.0)}
    guide = RefinedDraws.of(kept, torch.zeros(3, 4, dtype=torch.bool))
    nodes = poutine.trace(guide).get_trace().nodes
    assert max(len(node["fn"].shape()) for node in nodes.values() if node["type"] == "sample") == 0
    chosen = [int(guide()["w"]) for _ in range(2400)]
    assert stats.chisquare(np.bincount(chosen, minlength=12)).pvalue > 1e-4
