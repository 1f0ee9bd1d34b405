"""Learned codes: layers against loops of ISTA and FISTA, bounds against J, tethered codes."""

from itertools import pairwise

import numpy as np
import pyro
import pytest
import torch
from build import build
from oracles import learned_codes as oracle
from oracles import sparse_coding as sparse
from oracles.programs import log_ratio
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import Tensor

import pyro_cookbook as pc
from guides.learned_codes import SparseCodingLearnedSteps, SparseCodingLISTA, SparseCodingPSD
from models.sparse_coding import SparseCoding
from pyro_cookbook.algorithms.sparse_coding.dictionary_learning import random_atoms
from pyro_cookbook.algorithms.sparse_coding.fista import (
    SparseCodingParameters,
    fista,
    log_normaliser,
    objective,
)
from pyro_cookbook.algorithms.sparse_coding.learned_codes import iterations_worth, tethered

D, K = 13, 20
UNROLLED = (SparseCodingLISTA, SparseCodingLearnedSteps)
T_LAYERS = pytest.mark.parametrize("num_layers", [1, 2, 5, 16])


@pytest.fixture
def theta() -> SparseCodingParameters:
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(D, K, generator=generator, dtype=torch.float64)
    b = torch.linspace(-0.5, 1, D, dtype=torch.float64)  # not 0: its sign counts
    return SparseCodingParameters(W / W.norm(dim=0), b, 1.5, 0.7)


def model_of(theta: SparseCodingParameters) -> SparseCoding:
    model = SparseCoding(*theta.W.shape, rate=theta.rate, scale=theta.scale)
    return build(model, W=theta.W, b=theta.b)


def started(kind: type, theta: SparseCodingParameters, num_layers: int):
    return kind(D, K, num_layers).double().start_at(theta)


def shaken(guide: torch.nn.Module, size: float = 0.3) -> torch.nn.Module:
    """Move every parameter: the start is special."""
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return guide


@torch.no_grad()
def code(guide: torch.nn.Module, v: Tensor) -> Tensor:
    return guide.code(v)


# --- the layers --------------------------------------------------------------------------------


@T_LAYERS
def test_lista_starts_as_so_many_iterations_of_ista(wine, theta, num_layers):
    h = code(started(SparseCodingLISTA, theta, num_layers), wine)
    np.testing.assert_allclose(h, oracle.ista(theta, wine, num_layers), rtol=0, atol=1e-12)
    library = fista(theta, wine, accelerate=False, max_iterations=num_layers, tol=1e-15)
    np.testing.assert_allclose(h, library.h, rtol=0, atol=1e-12)
    other = oracle.ista(theta, wine, num_layers + 1)
    assert np.abs(h.numpy() - other).max() > 1e-3


@T_LAYERS
def test_learned_steps_start_as_so_many_iterations_of_fista(wine, theta, num_layers):
    h = code(started(SparseCodingLearnedSteps, theta, num_layers), wine)
    np.testing.assert_allclose(h, oracle.fista(theta, wine, num_layers), rtol=0, atol=1e-12)
    if num_layers <= 2:  # the library drops the momentum where it points uphill, later on
        library = fista(theta, wine, max_iterations=num_layers, tol=1e-15)
        np.testing.assert_allclose(h, library.h, rtol=0, atol=1e-12)
    if num_layers > 1:
        assert np.abs(h.numpy() - oracle.ista(theta, wine, num_layers)).max() > 1e-2


@T_LAYERS
def test_lista_is_its_layers_wherever_its_parameters_are(wine, theta, num_layers):
    guide = shaken(started(SparseCodingLISTA, theta, num_layers), 0.1)
    expected = oracle.layers(wine, theta.b, guide.encode, guide.inhibit, guide.threshold)
    np.testing.assert_allclose(code(guide, wine), expected, rtol=1e-11, atol=1e-11)
    assert (code(guide, wine) == 0).double().mean() > 0.05


@T_LAYERS
def test_learned_steps_are_its_numbers_wherever_they_are(wine, theta, num_layers):
    guide = shaken(started(SparseCodingLearnedSteps, theta, num_layers))
    numbers = (p.detach().numpy() for p in (guide.step, guide.shrink, guide.momentum))
    expected = oracle.steps(theta, wine, *numbers)
    np.testing.assert_allclose(code(guide, wine), expected, rtol=1e-10, atol=1e-10)
    assert sum(p.numel() for p in guide.parameters()) == 3 * num_layers - 1


def test_psd_is_its_formula(wine):
    guide = shaken(SparseCodingPSD(D, K).double())
    F, c, g = (p.detach().numpy() for p in (guide.weight, guide.bias, guide.gain))
    expected = [[g[k] * np.tanh(F[k] @ row + c[k]) for k in range(K)] for row in wine.numpy()]
    np.testing.assert_allclose(code(guide, wine), expected, rtol=1e-12)
    assert (code(guide, wine).abs() <= guide.gain.abs()).all()
    assert (code(guide, wine) != 0).all()


@pytest.mark.parametrize("kind", UNROLLED)
def test_a_start_is_a_copy_and_takes_the_models_numbers(wine, theta, kind):
    model = model_of(theta)
    guide = started(kind, model, 3)
    before = code(guide, wine)
    torch.testing.assert_close(before, code(started(kind, theta, 3), wine), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        model.W_unconstrained.neg_()
        model.b += 1
    assert code(guide, wine).equal(before)


@pytest.mark.parametrize("kind", UNROLLED)
def test_a_start_from_random_atoms_is_a_descent_and_uses_the_global_seed(wine, kind):
    pyro.set_rng_seed(3)
    first = kind(D, K, 4).double()
    pyro.set_rng_seed(3)
    assert code(first, wine).equal(code(kind(D, K, 4).double(), wine))
    pyro.set_rng_seed(3)
    W = torch.nn.functional.normalize(torch.randn(D, K), dim=0).double()
    at = SparseCodingParameters(W, torch.zeros(D).double(), 1.0, 1.0)
    run = {SparseCodingLISTA: oracle.ista, SparseCodingLearnedSteps: oracle.fista}[kind]
    np.testing.assert_allclose(code(first, wine), run(at, wine, 4), atol=1e-5)  # float32 at first


@pytest.mark.parametrize("kind", UNROLLED)
def test_no_layer_is_refused(kind):
    with pytest.raises(ValueError, match="num_layers: got 0, expected 1 at least"):
        kind(D, K, 0)


# --- the bound ---------------------------------------------------------------------------------


def guides_of(theta: SparseCodingParameters) -> list[torch.nn.Module]:
    return [
        SparseCodingPSD(D, K).double(),
        *(shaken(started(kind, theta, 3), 0.1) for kind in UNROLLED),
    ]


@pytest.mark.parametrize("index", range(3))
def test_trace_elbo_is_minus_the_objective_and_the_constant(wine, theta, index):
    guide, model = guides_of(theta)[index], model_of(theta)
    expected = log_normaliser(theta) - sparse.objective(theta, wine, code(guide, wine))
    assert -Trace_ELBO().loss(model, guide, wine) == pytest.approx(expected.sum(), rel=1e-12)
    batch = log_ratio(model, guide, wine[:10], num_obs=len(wine))
    assert batch == pytest.approx(len(wine) * expected[:10].mean(), rel=1e-12)


@pytest.mark.parametrize("index", range(3))
def test_gradients_of_the_bound_are_those_of_the_objective(wine, theta, index):
    """By central differences in a random direction of all parameters."""
    guide = guides_of(theta)[index]
    Trace_ELBO().loss_and_grads(model_of(theta), guide, wine)
    parameters = list(guide.parameters())
    along = [torch.randn_like(p) / p.numel() ** 0.5 for p in parameters]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, along, strict=True))

    def moved(size: float) -> float:
        with torch.no_grad():
            for p, d in zip(parameters, along, strict=True):
                p.add_(size * d)
            J = float(objective(theta, wine, guide.code(wine)).sum())
            for p, d in zip(parameters, along, strict=True):
                p.sub_(size * d)
        return J

    assert slope == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-4)
    assert abs(slope) > 0.1


@pytest.mark.parametrize("kind", UNROLLED)
def test_training_beats_the_iterations_it_started_from_on_new_rows(wine, theta, kind):
    rows, new = wine[::2], wine[1::2]
    guide = started(kind, theta, 3)
    best, before = fista(theta, new), objective(theta, new, code(guide, new))
    lr = 0.003 if kind is SparseCodingLISTA else 0.03
    model = model_of(theta).requires_grad_(False)
    fit = pc.fit(model, guide, rows, lr=lr, max_steps=300, num_restarts=1)
    after = objective(theta, new, code(fit.guide, new))
    lowest = best.trace[-1]
    assert lowest < float(after.sum()) < lowest + 0.7 * (float(before.sum()) - lowest)


def test_psd_learns_to_code_and_no_code_is_below_the_optimum(wine, theta):
    best = fista(theta, wine).trace[-1]
    at_zero = objective(theta, wine, wine.new_zeros(len(wine), K))
    guide = SparseCodingPSD(D, K).double()
    svi = SVI(model_of(theta).requires_grad_(False), guide, Adam({"lr": 0.02}), Trace_ELBO())
    for _ in range(300):
        svi.step(wine)
    J = float(objective(theta, wine, code(guide, wine)).sum())
    assert best < J < best + 0.5 * (float(at_zero.sum()) - best)


# --- what they are measured by -----------------------------------------------------------------


def test_iterations_worth_finds_where_a_descent_came_down():
    trace = [10.0, 6.0, 4.0, 3.0]
    values = {11.0: 0, 10.0: 0, 8.0: 0.5, 6.0: 1, 4.5: 1.75, 3.0: 3, 2.9: float("inf")}
    for value, expected in values.items():
        assert iterations_worth(trace, value) == pytest.approx(expected)
    assert iterations_worth([], 1.0) == 0


def test_a_start_is_worth_its_layers(wine, theta):
    trace = [
        float(sparse.objective(theta, wine, oracle.ista(theta, wine, t)).sum()) for t in range(8)
    ]
    for t in (1, 4, 6):
        J = float(objective(theta, wine, code(started(SparseCodingLISTA, theta, t), wine)).sum())
        assert iterations_worth(trace, J) == pytest.approx(t, abs=1e-8)


@pytest.mark.parametrize("weight", [0.1, 2.0, 30.0])
def test_tethered_codes_satisfy_their_conditions(wine, theta, weight):
    f = code(shaken(SparseCodingPSD(D, K).double()), wine)
    found = tethered(theta, wine, f, weight, tol=1e-13)
    assert found.converged
    assert oracle.tether_violation(theta, wine, f, weight, found.h).max() < 1e-5
    assert oracle.tether_violation(theta, wine, f, weight, f).min() > 0.1
    off = oracle.tether_violation(theta, wine, f, weight, fista(theta, wine).h)
    assert np.median(off) > 0.05
    energy = objective(theta, wine, found.h) + weight / 2 * (found.h - f).square().sum(1)
    assert found.trace[-1] == pytest.approx(float(energy.sum()), rel=1e-9)


def test_codes_of_an_optimisation_pass_no_gradient_on(wine, theta):
    """To the dictionary, nor to the encoder: in PSD's step they are data."""
    model, guide = model_of(theta), SparseCodingPSD(D, K).double()
    f = guide.code(wine)
    assert f.requires_grad
    assert not fista(model, wine).h.requires_grad
    assert not tethered(model, wine, f, 2.0).h.requires_grad


def test_a_tether_goes_from_the_best_code_to_the_prediction(wine, theta):
    f = code(shaken(SparseCodingPSD(D, K).double()), wine)
    free = fista(theta, wine, tol=1e-10)
    distance = [
        float((tethered(theta, wine, f, weight, tol=1e-10).h - f).norm())
        for weight in (1e-8, 0.1, 1.0, 10.0, 1e8)
    ]
    assert all(near < far for far, near in pairwise(distance))
    assert distance[0] == pytest.approx(float((free.h - f).norm()), rel=1e-3)
    assert distance[-1] < 1e-4
    with pytest.raises(ValueError, match="weight: got 0, expected a positive number"):
        tethered(theta, wine, f, 0)


def test_psd_by_trace_elbo_lowers_its_energy_with_the_dictionary(wine):
    """Codes by their own optimisation, then one step on the atoms and the encoder."""
    model = build(SparseCoding(D, K, rate=1.5, scale=0.7), W=random_atoms(wine, K), b=wine.mean(0))
    guide, start = SparseCodingPSD(D, K).double(), model.W.detach().clone()

    def psd(v, h):
        with pyro.poutine.condition(data={"h": h}):
            model(v)
        pyro.factor("tether", -0.5 * (h - guide.code(v)).square().sum())

    @torch.no_grad()
    def energy() -> float:
        f = code(guide, wine)
        h = tethered(model, wine, f, 1.0).h
        return float(objective(model, wine, h).sum() + 0.5 * (h - f).square().sum())

    before = energy()
    svi = SVI(psd, lambda v, h: None, Adam({"lr": 0.02}), Trace_ELBO())
    for _ in range(60):
        svi.step(wine, tethered(model, wine, code(guide, wine), 1.0).h)
    assert energy() < 0.9 * before
    assert (model.W.detach() - start).abs().max() > 0.05
    assert (model.W.norm(dim=0) - 1).abs().max() < 1e-12
