"""Many draws at once are what as many single runs would give, whatever the program."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from build import build, mixture_guide
from pyro import poutine
from torch import Tensor

from guides.factor_analysis import (
    FactorAnalysisAmortized,
    FactorAnalysisMAP,
    FactorAnalysisMeanField,
)
from guides.gaussian_mixture import GaussianMixtureAmortized, GaussianMixtureMAP
from models.factor_analysis import FactorAnalysis
from models.gaussian_mixture import GaussianMixture, MixturePrior, bayesian_gaussian_mixture
from pyro_cookbook.algorithms.gaussian_mixture.em import random_start
from pyro_cookbook.algorithms.gaussian_mixture.variational_bayes import fit_variational_mixture
from pyro_cookbook.programs import drawing as draws
from pyro_cookbook.programs.density import log_density as densities
from pyro_cookbook.programs.density.log_density import log_density
from pyro_cookbook.programs.drawing import Draws, draw, has_moving_support
from pyro_cookbook.programs.predictive import derived_values, predictive
from pyro_cookbook.programs.program import Program

X = torch.linspace(-1, 1, 60).reshape(20, 3)


def hierarchy(y: Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.Normal(1.0, 2.0))
    tau = pyro.sample("tau", dist.LogNormal(0.0, 0.5))
    with pyro.plate("school", 3, dim=-1):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def correlated() -> None:
    tril = torch.tensor([[1.0, 0.0], [0.9, 0.5]])
    z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), scale_tril=tril))
    pyro.sample("k", dist.Bernoulli(logits=2 * z[..., 0]))


def regression(X: Tensor, y: Tensor | None = None) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with pyro.plate("row", len(X), dim=-1):
        pyro.sample("y", dist.Normal(X @ b, 0.1), obs=y)


def features(drawn: Draws) -> np.ndarray:
    """One row a draw: every scalar, its square and the products of neighbours."""
    flat = torch.cat([v.reshape(len(v), -1).float() for v in drawn.values.values()], 1).numpy()
    return np.hstack([flat, flat**2, flat[:, :-1] * flat[:, 1:]])


def in_turn(monkeypatch: pytest.MonkeyPatch, *args: object, **kwargs: object) -> Draws:
    with monkeypatch.context() as patch:
        for way in ("_draw_at_once", "_draw_by_vmap"):
            patch.setattr(draws, way, lambda *args: None)
        return draw(*args, **kwargs)


@pytest.mark.parametrize("program", [hierarchy, correlated])
def test_draws_at_once_have_the_moments_of_draws_in_turn(monkeypatch, program):
    many = draw(Program(program), 20_000)
    few = in_turn(monkeypatch, Program(program), 2000)
    assert (many.how, few.how) == ("plate", "loop")
    a, b = features(many), features(few)
    se = (a.var(0) / len(a) + b.var(0) / len(b)) ** 0.5
    assert (abs(a.mean(0) - b.mean(0)) < 4.5 * se).all()


def test_draws_at_once_are_independent():
    drawn = draw(Program(hierarchy), 20_000).values["mu"].numpy()
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 4 / len(drawn) ** 0.5


@pytest.mark.parametrize("program", [hierarchy, correlated])
def test_draws_carry_the_log_density_of_what_was_drawn(program):
    drawn = draw(Program(program), 50)
    for name, expected in log_density(Program(program), drawn.values).items():
        torch.testing.assert_close(drawn.log_prob[name], expected, check_dtype=False)
    torch.testing.assert_close(
        drawn.total(), sum(v.double().reshape(50, -1).sum(1) for v in drawn.log_prob.values())
    )


def test_draws_repeat_with_the_seed_only():
    def values(seed: int) -> Tensor:
        pyro.set_rng_seed(seed)
        return draw(Program(hierarchy), 10).values["theta"]

    assert values(1).equal(values(1))
    assert not values(1).equal(values(2))


def test_draws_use_up_their_random_numbers():
    noise = (draw(Program(hierarchy), 20).values["mu"] - 1) / 2
    assert not torch.isclose(torch.randn(20), noise).any()


# --- programs that do not bear an outer plate --------------------------------------------------


def test_program_whose_shapes_break_falls_back_and_is_right():
    b = torch.randn(2000, 3)
    drawn = draw(Program(regression, (X,)), 2000, {"b": b})
    assert drawn.how != "plate"
    assert drawn.values["b"].equal(b)
    residual = (drawn.values["y"] - b @ X.T) / 0.1
    assert abs(residual.mean()) < 4 / residual.numel() ** 0.5
    assert abs(residual.square().mean() - 1) < 4 * (2 / residual.numel()) ** 0.5
    torch.testing.assert_close(
        drawn.log_prob["y"], dist.Normal(b @ X.T, 0.1).log_prob(drawn.values["y"])
    )


def square_product() -> None:
    """As many draws as columns: X @ b then runs over the draws instead of the columns."""
    b = pyro.sample("b", dist.Normal(torch.zeros(5), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(torch.arange(25.0).reshape(5, 5) @ b, 1.0).to_event(1))


def common_mean() -> None:
    """The mean of one draw's rows becomes the mean of all draws'."""
    with pyro.plate("row", 4, dim=-1):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x.mean(), 0.1))


def running_sum() -> None:
    """Points whose sum runs over the draws instead of the rows; their density is that of points."""
    with pyro.plate("row", 4, dim=-1):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Delta(x.cumsum(0)))


def hidden_noise() -> None:
    """One random number, not a sample site, shared by all draws."""
    pyro.sample("y", dist.Normal(torch.randn(()), 0.1))


@pytest.mark.parametrize("program", [square_product, common_mean, running_sum, hidden_noise])
def test_program_that_couples_draws_is_caught(program):
    drawn = draw(Program(program), 5)
    assert drawn.how != "plate"
    assert all(len(value) == 5 for value in drawn.values.values())


def test_error_of_the_program_is_its_own():
    def broken() -> None:
        pyro.sample("x", dist.Normal(0.0, 1.0))
        raise KeyError("no such column")

    with pytest.raises(KeyError, match="no such column"):
        draw(Program(broken), 10)


# --- densities ---------------------------------------------------------------------------------


def in_a_loop(program, values: dict[str, Tensor], *args: object) -> dict[str, Tensor]:
    """Log densities by one trace a draw."""
    rows = []
    for s in range(len(next(iter(values.values())))):
        held = poutine.condition(program, data={name: value[s] for name, value in values.items()})
        with torch.no_grad():
            trace = poutine.trace(held).get_trace(*args)
            trace.compute_log_prob()
        rows.append({n: trace.nodes[n]["log_prob"] for n in {*values, *trace.observation_nodes}})
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def bayesian_mixture(v: Tensor):
    prior = MixturePrior(
        torch.ones(3).to(v),
        v.mean(0),
        torch.ones(()).to(v),
        6 * torch.ones(()).to(v),
        torch.eye(4).to(v),
    )
    q = fit_variational_mixture(v, prior).posterior
    return partial(bayesian_gaussian_mixture, prior=prior), partial(
        mixture_guide(q, v), prior=prior
    )


PROGRAMS = {
    "amortized factors": lambda v: (FactorAnalysis(4, 2), FactorAnalysisAmortized(4, 2)),
    "factors by row": lambda v: (FactorAnalysis(4, 2, True), FactorAnalysisMeanField(150, 2)),
    "factors at points": lambda v: (FactorAnalysis(4, 2), FactorAnalysisMAP(150, 2)),
    "mixture": lambda v: (
        build(GaussianMixture(4, 3), **vars(random_start(v, 3))),
        GaussianMixtureAmortized(4, 3),
    ),
    "mixture at points": lambda v: (GaussianMixture(4, 3), GaussianMixtureMAP(4, 3)),
    "Bayesian mixture": bayesian_mixture,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_log_density_is_that_of_single_traces(iris, name):
    model, guide = (
        program.double() if isinstance(program, torch.nn.Module) else program
        for program in PROGRAMS[name](iris)
    )
    drawn = draw(Program(guide, (iris,)), 7)
    for program, found in (
        (model, log_density(Program(model, (iris,)), drawn.values)),
        (guide, drawn.log_prob),
    ):
        expected = in_a_loop(program, drawn.values, iris)
        assert found.keys() == expected.keys()
        for site in expected:
            torch.testing.assert_close(found[site], expected[site], rtol=1e-10, atol=1e-10)


def branching(y: Tensor) -> None:
    h = pyro.sample("h", dist.Normal(0.0, 1.0))
    scale = 1.0 if h.item() > 0 else 3.0
    pyro.sample("y", dist.Normal(h, scale).expand([len(y)]).to_event(1), obs=y)


def test_log_density_follows_branches_on_values():
    values, y = {"h": torch.tensor([-1.0, 1.0, -2.0, 2.0])}, torch.randn(5)
    expected = in_a_loop(branching, values, y)
    for site, value in log_density(Program(branching, (y,)), values).items():
        torch.testing.assert_close(value, expected[site], check_dtype=False)


def test_log_density_in_chunks_is_the_same(monkeypatch):
    values, y = (
        {k: v for k, v in draw(Program(hierarchy), 50).values.items() if k != "y"},
        torch.randn(3),
    )
    whole = log_density(Program(hierarchy, (y,)), values)
    monkeypatch.setattr(densities, "CHUNK_SCALARS", 1)
    for site, value in log_density(Program(hierarchy, (y,)), values).items():
        torch.testing.assert_close(value, whole[site])


def test_densities_of_a_mini_batch_are_scaled_as_in_the_bound(iris):
    model, guide = FactorAnalysis(4, 2).double(), FactorAnalysisAmortized(4, 2).double()
    batch = Program(model, (iris[:30],), {"num_obs": 150})
    drawn = draw(batch.of(guide), 5)
    log_p = log_density(batch, drawn.values)
    plain = log_density(batch.on(iris[:30]), drawn.values)
    for site, value in plain.items():
        torch.testing.assert_close(log_p[site], 5 * value)
    assert set(drawn.values) == {"h"}  # not the plate's index


# --- predictive --------------------------------------------------------------------------------


@pytest.mark.parametrize("num_draws", [3, 200])
def test_predictive_never_echoes_the_observations(num_draws):
    y = torch.tensor([7.0, 8.0, 9.0])
    latents = {"mu": torch.zeros(num_draws), "tau": torch.ones(num_draws)}
    latents["theta"] = torch.zeros(num_draws, 3)
    drawn = predictive(Program(hierarchy, (y,)), latents, num_draws)
    assert set(drawn) == {"y"}
    assert drawn["y"].shape == (num_draws, 3)
    assert not torch.isin(drawn["y"], y).any()
    assert abs(drawn["y"].mean()) < 4 / (3 * num_draws) ** 0.5
    assert len(drawn["y"].unique()) == 3 * num_draws


def test_predictive_releases_what_a_handler_conditions_too():
    model = poutine.condition(hierarchy, data={"y": torch.full((3,), 99.0)})
    assert predictive(Program(model), {}, 20)["y"].max() < 50


def test_predictive_without_latents_draws_from_the_prior():
    drawn = predictive(Program(hierarchy, (torch.zeros(3),)), {}, 5000)
    assert set(drawn) == {"mu", "tau", "theta", "y"}
    assert abs(drawn["mu"].mean() - 1) < 4 * 2 / 5000**0.5
    variance = 4 + np.exp(2 * 0.5**2) + 1  # of mu, theta and y: E τ² = exp(2 · 0.5²)
    assert abs(drawn["y"][:, 0].var() / variance - 1) < 0.15


def test_predictive_of_a_mixture_follows_the_given_components(iris):
    model = build(GaussianMixture(4, 2), loc=[[0.0] * 4, [100.0] * 4])
    h = torch.arange(100)[:, None].expand(100, 150) % 2
    drawn = predictive(Program(model, (iris,)), {"h": h}, 100)
    assert (drawn["v"].mean(-1) > 50).equal(h == 1)


# --- description -------------------------------------------------------------------------------


def test_describe_says_what_the_sites_are(iris):
    sites = Program(GaussianMixture(4, 3).double(), (iris,)).sites
    assert (sites["h"].plates, sites["h"].event_dim, sites["h"].is_discrete) == (("row",), 0, True)
    assert (sites["v"].shape, sites["v"].batch_shape) == ((150, 4), (150,))
    assert (sites["h"].observed, sites["v"].observed) == (False, True)
    points = Program(FactorAnalysisMAP(150, 2), (iris,)).sites["h"]
    assert (points.is_delta, points.is_discrete, points.event_dim) == (True, False, 1)
    assert Program(GaussianMixtureMAP(4, 3).double(), (iris,)).sites["h"].is_discrete


def test_a_computed_value_inside_a_plate_stays_computed():
    def model(s, y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("school", len(s), dim=-1):
            eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
            theta = pyro.deterministic("theta", mu + 5 * eta)  # Pyro takes it for an event
            return pyro.sample("y", dist.Normal(theta, s), obs=y)

    s = torch.ones(8)
    latents = {"mu": torch.zeros(6), "eta": torch.ones(6, 8)}
    new = predictive(Program(model, (s, torch.zeros(8))), latents, 6)
    assert new["y"].shape == (6, 8)
    assert torch.equal(new["theta"], torch.full((6, 8), 5.0))


def test_draws_that_are_coupled_in_few_places_are_not_taken_at_once():
    """Only in the tail, which the draws that are repeated one at a time seldom reach."""

    def coupled():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = torch.where(a > 2.0, a.mean(), 0.0)  # the mean over all draws, or of one
        pyro.sample("b", dist.Normal(b, 0.1))

    drawn = draw(Program(coupled), 400)
    assert not (drawn.values["a"][:3] > 2.0).any()  # or the test shows nothing
    far = drawn.values["a"] > 2.0
    own = dist.Normal(torch.where(far, drawn.values["a"], 0.0), 0.1).log_prob(drawn.values["b"])
    torch.testing.assert_close(drawn.log_prob["b"], own)
    assert drawn.how != "plate"


def test_a_support_moves_inside_to_event_too():
    def model(high):
        top = pyro.sample("top", dist.LogNormal(0.0, 1.0)) if high is None else high
        pyro.sample("y", dist.Uniform(0.0, top).expand([3]).to_event(1), obs=torch.ones(3))

    assert has_moving_support(Program(model, (None,)), "y")
    assert not has_moving_support(Program(model, (2.0,)), "y")


def test_rows_that_no_plate_declares_are_predicted_one_by_one():
    def model(y):
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(h, 1.0), obs=y)

    rows = predictive(Program(model, (torch.zeros(7),)), {"h": torch.zeros(50)}, 50)["y"]
    assert rows.shape == (50, 7)
    assert rows.unique().numel() == 350


def test_computed_values_are_computed_in_double_precision():
    """Single precision has steps of 0.06 at a million."""

    def model(y):
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        pyro.deterministic("shifted", (h + y) - y)

    h = torch.linspace(-1, 1, 11)
    found = derived_values(Program(model, (torch.full((2,), 1e6),)), {"h": h})["shifted"]
    torch.testing.assert_close(found, h[:, None].expand(11, 2), rtol=1e-6, atol=1e-6)
    assert found.dtype == torch.float32


def test_a_category_without_mass_and_without_counts_costs_nothing():
    """0 · −∞ is 0 there, as it is in torch."""
    logits, counts = torch.tensor([0.0, 0.5, -torch.inf]), torch.tensor([3.0, 1.0, 0.0])

    def model():
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Multinomial(4, logits=logits + h), obs=counts)

    found = log_density(Program(model), {"h": torch.tensor([0.0, 2.0])})["y"]
    exact = dist.Multinomial(4, logits=logits.double()).log_prob(counts.double())
    torch.testing.assert_close(found.double(), exact.expand(2), rtol=1e-6, atol=1e-6)


def test_a_draw_at_which_a_matrix_is_singular_has_no_density():
    def model():
        h = pyro.sample("h", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        root = torch.linalg.cholesky(torch.eye(2, dtype=torch.float64) * h)
        pyro.factor("volume", root.diagonal().log().sum())

    values = {"h": torch.tensor([1.0, -1.0, 4.0], dtype=torch.float64)}
    found = log_density(Program(model), values)["volume"]
    torch.testing.assert_close(found, found.new_tensor([0.0, -torch.inf, torch.tensor(4.0).log()]))


def test_the_draws_that_are_tried_first_take_no_random_numbers(monkeypatch):
    program, found = Program(hierarchy), []
    for _ in range(2):
        torch.manual_seed(len(program.sites))
        found.append(draw(program, 50).values)
        monkeypatch.setattr(draws, "_can_be_drawn_at_once", lambda *_: True)
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
