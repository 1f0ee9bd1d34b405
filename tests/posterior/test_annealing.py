"""Populations are annealed to the posterior, and say how much of the mass each hill has."""

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.optimize import check_grad

import pyro_cookbook as pc
from pyro_cookbook.posterior.refining import beginning
from pyro_cookbook.posterior.refining.annealing import (
    Hills,
    NotAnnealed,
    _drawn_again,
    _furthest,
    anneal,
)
from pyro_cookbook.programs.coordinates import Coordinates

NUM_POPULATIONS, SIZE = 16, 128


def place(loc, *sds) -> Coordinates:
    return Coordinates(np.array(loc, dtype=float), np.array(sds, dtype=float))


def tilted(loc) -> Coordinates:
    return Coordinates(np.array(loc, dtype=float), np.array([[1.0, 0.0], [0.8, 0.3]]))


TWO = Hills([place([-3.0], 0.5), place([4.0], 2.0)], np.array([0.2, 0.8]))
PLACES = [tilted([0.0, 1.0]), place([5.0, 5.0], 1.0, 2.0)]
PLANE = Hills(PLACES, np.array([0.5, 0.5]), tilted([2, 2]))


# --- where points begin ---------------------------------------------------------------------------


def test_a_mixture_of_hills_integrates_to_one():
    x = np.linspace(-400, 400, 400_001)[:, None]
    assert np.exp(TWO.value_and_grad(x)[0]).sum() * 0.002 == pytest.approx(1.0, abs=1e-4)


def test_one_hill_is_a_student_t():
    one = Hills([tilted([0.0, 1.0])], np.ones(1))
    x = np.random.default_rng(0).normal(size=(5, 2))
    shape = one.places[0].root @ one.places[0].root.T
    expected = stats.multivariate_t([0.0, 1.0], shape, df=5).logpdf(x)
    np.testing.assert_allclose(one.value_and_grad(x)[0], expected)


@pytest.mark.parametrize("at", [[0.3, 0.2], [4.0, 6.0], [2.5, 3.0]])
def test_its_gradient_is_that_of_its_density(at):
    def value(x):
        return float(PLANE.value_and_grad(x[None])[0][0])

    def gradient(x):
        return PLANE.value_and_grad(x[None])[1][0]

    assert check_grad(value, gradient, np.array(at)) < 1e-5


def test_its_draws_are_of_its_density():
    x = TWO.draw(20_000, np.random.default_rng(1))[:, 0]
    weights = TWO.parts[1]
    np.testing.assert_allclose(weights, [0.9 * 0.2 + 0.05, 0.9 * 0.8 + 0.05])

    def cdf(t):
        return weights[0] * stats.t(5, -3, 0.5).cdf(t) + weights[1] * stats.t(5, 4, 2).cdf(t)

    assert stats.kstest(x, cdf).pvalue > 1e-3
    assert stats.kstest(x, stats.t(5, 4, 2).cdf).pvalue < 1e-6


def test_residuals_are_from_the_hill_a_point_is_on():
    np.testing.assert_allclose(TWO.residuals(np.array([[-3.5], [5.0]])), [[-0.5], [1.0]])


def test_far_out_nothing_is_finite_and_nothing_is_warned_of():
    value, _ = PLANE.value_and_grad(np.full((1, 2), 1e200))
    assert not np.isfinite(value).any()


# --- on the way -----------------------------------------------------------------------------------


def test_a_step_is_as_long_as_most_points_still_count():
    gain = np.random.default_rng(2).normal(size=4000)
    assert _furthest(0.1 * gain, 1.0) == 1.0
    ahead = _furthest(30 * gain, 1.0)
    # Weights exp(s z) of normal z have the effective share exp(−s²).
    assert np.exp(-((30 * ahead) ** 2)) == pytest.approx(0.6, abs=0.05)
    with pytest.raises(NotAnnealed, match="no point has a density"):
        _furthest(np.full(3, -np.inf), 1.0)


def test_points_are_drawn_again_by_weight_within_their_population():
    weights = np.array([[0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.0, 1.0]])
    with np.errstate(divide="ignore"):
        chosen = _drawn_again(np.log(weights).ravel(), 2, np.random.default_rng(3))
    assert np.bincount(chosen, minlength=8).tolist() == [2, 1, 1, 0, 0, 0, 0, 4]
    with pytest.raises(NotAnnealed, match="has lost all"):
        _drawn_again(np.array([0.0, -np.inf]), 2, np.random.default_rng(3))


def mixture(x):
    """70% of a normal at −3 and 30% of a Student t at 4: neither as wide as the hills think."""
    parts = [(0.7, stats.norm(-3, 1.0)), (0.3, stats.t(8, 4, 0.7))]
    flat = x[:, 0]
    density = [weight * part.pdf(flat) for weight, part in parts]
    slopes = -(flat + 3), -9 * (flat - 4) / 0.7**2 / (8 + ((flat - 4) / 0.7) ** 2)
    total = np.sum(density, 0)
    slope = np.sum([d * s for d, s in zip(density, slopes, strict=True)], 0) / total
    return np.log(total), slope[:, None]


def annealed(evaluate=mixture, seed=0, hills=TWO):
    return anneal(
        evaluate, hills, size=SIZE, num_populations=NUM_POPULATIONS, num_moves=4,
        rng=np.random.default_rng(seed), tick=int,
    )  # fmt: skip


def shares(x):
    return (x[:, 0] < 0.5).reshape(NUM_POPULATIONS, SIZE).mean(1)


def test_the_shares_of_two_hills_are_right_and_their_error_is_known():
    z = []
    for seed in range(8):
        found = annealed(seed=seed)
        by_population = shares(found.x)
        error = by_population.std(ddof=1) / NUM_POPULATIONS**0.5
        assert error < 0.03
        z.append((by_population.mean() - 0.7) / error)
    began = shares(TWO.draw(SIZE * NUM_POPULATIONS, np.random.default_rng(0)))
    assert abs(began.mean() - 0.7) > 0.3
    assert abs(np.mean(z)) < 4 / 8**0.5
    assert np.max(np.abs(z)) < 4.5  # Student's t with 15 degrees of freedom


def test_within_each_hill_points_are_those_of_the_posterior():
    x = annealed().x[:, 0]
    left = x[x < 0.5]
    assert abs(left.mean() + 3) < 4 * left.std() / (len(left) / 3) ** 0.5
    assert left.std() == pytest.approx(1.0, abs=0.1)  # they began with 0.5


def test_points_without_a_density_are_left_behind():
    def half(x):
        value, slope = mixture(x)
        return np.where(x[:, 0] > -3.0, value, -np.inf), slope

    assert annealed(half).x.min() > -3.0
    nowhere = Hills([place([-40.0], 0.5), place([-60.0], 0.5)], np.ones(2))
    with pytest.raises(NotAnnealed):
        annealed(lambda x: (np.where(x[:, 0] > 0, 0.0, -np.inf), np.zeros_like(x)), hills=nowhere)


# --- of a model -----------------------------------------------------------------------------------


def two_roots(y):
    h = pyro.sample("h", dist.Normal(y.new_tensor(0.7), 2.0))
    pyro.sample("y", dist.Normal(h**2, 1.0), obs=y)


Y = torch.tensor(6.0, dtype=torch.float64)


def exact() -> tuple[float, float, float]:
    """Mean, sd, and share above 0."""
    h = np.linspace(-8, 8, 40_001)
    weight = np.exp(-((h - 0.7) ** 2) / 8 - (h**2 - 6) ** 2 / 2)
    weight /= weight.sum()
    mean = weight @ h
    return mean, (weight @ (h - mean) ** 2) ** 0.5, weight[h > 0].sum()


@pytest.fixture(scope="module")
def refined():
    return pc.refine(pc.fit(two_roots, "full_rank", Y))


def test_two_modes_of_unequal_mass_are_answered(refined):
    mean, sd, above = exact()
    diagnosis = pc.diagnose(refined)
    assert diagnosis.verdict == "reliable after refining"
    h = pc.to_datatree(refined)["posterior"]["h"].values
    groups = h.reshape(16, -1).mean(1)  # populations follow each other
    error = groups.std(ddof=1) / 4
    assert abs(h.mean() - mean) < 4.5 * error < 0.2 * sd
    assert h.std() == pytest.approx(sd, rel=0.05)
    assert 0.6 < above < 0.9
    told = next(reason for reason in diagnosis.reasons if "shares of the mass" in reason)
    first = float(told.split(": ")[1].split(" ± ")[0])
    assert abs(first - above) < 0.05
    by_population = (h > 0).reshape(16, -1).mean(1)
    told_error = float(told.split(" ± ")[1].split(",")[0])
    assert told_error == pytest.approx(by_population.std(ddof=1) / 4, abs=2e-3)
    guide = pc.to_datatree(pc.fit(two_roots, "full_rank", Y))["posterior"]["h"].values
    assert abs(guide.mean() - mean) > 0.3 * sd  # one hill alone is wrong


def test_the_same_seed_gives_the_same_points(refined):
    again = pc.refine(pc.fit(two_roots, "full_rank", Y))
    assert np.array_equal(*(pc.to_datatree(f)["posterior"]["h"].values for f in (refined, again)))


def test_hills_that_no_climb_had_found_are_found_by_chains_that_do_not_agree():
    fit = pc.fit(two_roots, "laplace", Y)
    fit = replace(fit, modes=fit.modes[:1])

    def wide():
        pyro.sample("h", dist.Normal(torch.zeros((), dtype=torch.float64), 3.0))

    guide = fit.programs.guide.of(lambda *_: wide())
    fit = replace(fit, programs=replace_guide(fit.programs, guide))
    refined = pc.refine(fit)
    assert pc.diagnose(refined).verdict == "reliable after refining"
    assert len(refined.modes) == 2


def replace_guide(programs, guide):
    return type(programs)(programs.model, guide)


def test_where_nothing_can_be_annealed_modes_are_told_and_nothing_is_answered(monkeypatch):
    def fail(*args, **options):
        raise NotAnnealed

    monkeypatch.setattr(beginning, "anneal", fail)
    refined = pc.refine(pc.fit(two_roots, "full_rank", Y), budget=0.01)
    assert len(refined.modes) == 2
    diagnosis = pc.diagnose(refined)
    assert diagnosis.verdict == "unreliable"
    assert "2 modes, apart at 'h'" in str(diagnosis)
    h = pc.to_datatree(refined)["posterior"]["h"]
    assert 0.2 < float((h > 0).mean()) < 0.8  # both are in the draws
