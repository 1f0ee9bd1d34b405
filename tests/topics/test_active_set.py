"""Sparse codes by Newton steps on a row's own atoms: against FISTA, scikit-learn, known answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import sparse_coding as oracle
from torch import Tensor

from pyro_cookbook.algorithms.sparse_coding import active_set
from pyro_cookbook.algorithms.sparse_coding.active_set import codes
from pyro_cookbook.algorithms.sparse_coding.dictionary_learning import (
    alternate,
    learn_online,
    random_atoms,
)
from pyro_cookbook.algorithms.sparse_coding.fista import (
    SparseCodingParameters,
    duality_gap,
    fista,
    objective,
    soft_threshold,
)

B = torch.linspace(-0.5, 1, 13, dtype=torch.float64)


@pytest.fixture(scope="module", params=[5, 40], ids=["undercomplete", "overcomplete"])
def theta(request) -> SparseCodingParameters:
    generator = torch.Generator().manual_seed(request.param)
    W = torch.randn(13, request.param, generator=generator, dtype=torch.float64)
    return SparseCodingParameters(W / W.norm(dim=0), B, 1.5, 0.7)


def some_rows(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, 13, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rate", [0.05, 1.5, 3.0])
@pytest.mark.parametrize("scale", [0.4, 0.8])
def test_codes_are_those_of_sklearn(wine, theta, rate, scale):
    theta = replace(theta, rate=rate, scale=scale)
    found = codes(theta, wine, tol=1e-9)
    expected = oracle.codes(theta, wine)
    best = oracle.objective(theta, wine, expected).sum()
    assert found.converged
    assert oracle.objective(theta, wine, found.h).sum() == pytest.approx(best, rel=1e-8)
    assert found.trace[-1] == pytest.approx(best, rel=1e-8)
    assert oracle.objective(theta, wine, torch.zeros_like(found.h)).sum() > best * (1 + 1e-3)


def test_codes_satisfy_the_conditions_of_optimality_and_know_their_gap(wine, theta):
    found = codes(theta, wine, tol=1e-12)
    assert oracle.kkt_violation(theta, wine, found.h).max() < 1e-5
    assert (found.h == 0).double().mean() > 0.1
    rough = codes(theta, wine, tol=1e-2)
    assert (rough.gap <= 1e-2 * objective(theta, wine, rough.h)).all()
    for one in (found, rough):
        np.testing.assert_allclose(one.gap, duality_gap(theta, wine, one.h), atol=1e-10)
    assert rough.gap.max() > 1e-6


def test_no_round_raises_the_objective_wherever_it_starts(theta):
    v = some_rows(300)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(300, theta.W.shape[1], generator=generator, dtype=torch.float64)
    best = fista(theta, v, tol=1e-9).trace[-1]
    for start in (0 * noise, 3 * noise):  # the second: every atom used, half of the signs wrong
        found = codes(theta, v, start=start, tol=1e-9)
        assert len(found.trace) > 3
        assert found.trace[0] > 1.1 * best
        assert np.diff(found.trace).max() < 1e-9 * best
        assert found.trace[-1] == pytest.approx(best, rel=1e-8)
    assert len(codes(theta, v, start=found.h).trace) == 1


def test_many_rows_in_pieces_are_the_same_rows_one_by_one(theta):
    v = some_rows(1100)  # more than a piece
    whole, again = codes(theta, v, tol=1e-10), codes(theta, v, tol=1e-10)
    assert whole.h.equal(again.h)
    few = codes(theta, v[1020:1030], tol=1e-10)
    torch.testing.assert_close(
        objective(theta, v, whole.h)[1020:1030], objective(theta, v[1020:1030], few.h), rtol=1e-9,
        atol=0,
    )  # fmt: skip


def test_rows_that_rounds_do_not_finish_are_left_to_fista(theta, monkeypatch):
    v = some_rows(50)
    best = fista(theta, v, tol=1e-9)
    monkeypatch.setattr(active_set, "_ROUNDS", 1)
    cut = codes(theta, v, start=torch.zeros_like(best.h), tol=1e-9)
    assert len(cut.trace) == 3
    assert cut.converged
    assert cut.trace[-1] == pytest.approx(best.trace[-1], rel=1e-8) != pytest.approx(cut.trace[1])
    np.testing.assert_allclose(cut.gap, duality_gap(theta, v, cut.h), atol=1e-9)


def test_first_steps_end_at_the_optimum_if_they_are_let(theta, monkeypatch):
    """They are longer than FISTA's by a third, nearly as long as momentum allows."""
    rows = some_rows(200)
    monkeypatch.setattr(active_set, "_SETTLED", 0)
    monkeypatch.setattr(active_set, "_ROUNDS", 0)
    best = codes(theta, rows, tol=1e-9).trace[-1]
    assert codes(theta, rows, tol=1e-9).trace[0] == pytest.approx(best, rel=1e-4)
    monkeypatch.setattr(active_set, "_FIRST", 3)
    assert codes(theta, rows, tol=1e-9).trace[0] > best * (1 + 1e-3)
    monkeypatch.setattr(active_set, "_FIRST", 12)
    monkeypatch.setattr(active_set, "_LENGTH", 3)
    assert codes(theta, rows, tol=1e-9).trace[0] > best * (1 + 1e-3)


def test_atoms_near_0_do_not_hold_each_other_up(monkeypatch):
    """Of two that are to come in, each turns the other's sign at once: one of them has to wait."""
    generator = torch.Generator().manual_seed(1)
    W = torch.nn.functional.normalize(torch.randn(8, 16, generator=generator).double(), dim=0)
    theta = SparseCodingParameters(W, torch.zeros(8).double(), 0.05, 1.0)
    rows = torch.randn(1000, 8, generator=generator).double()
    found = codes(theta, rows, tol=1e-9)
    assert found.converged
    assert len(found.trace) < 25
    assert np.diff(found.trace).max() <= 1e-9 * found.trace[0]
    monkeypatch.setattr(active_set, "_LITTLE", 0)
    assert len(codes(theta, rows, tol=1e-9).trace) > 40  # FISTA has to finish


def test_atoms_that_coincide_or_vanish_do_no_harm(theta):
    v = some_rows(60)
    W = torch.cat([theta.W, theta.W, -theta.W[:, :2], torch.zeros(13, 1)], dim=1)
    twice = replace(theta, W=W)
    found = codes(twice, v, tol=1e-9)
    best = fista(theta, v, tol=1e-10).trace[-1]
    assert found.trace[-1] == pytest.approx(best, rel=1e-8)
    assert found.h.isfinite().all()


def test_codes_of_orthogonal_atoms_are_thresholded_projections(wine):
    W = torch.linalg.qr(torch.randn(13, 13, dtype=torch.float64)).Q
    theta = SparseCodingParameters(W, torch.ones(13, dtype=torch.float64), 0.9, 0.8)
    expected = soft_threshold((wine - 1) @ W, 0.9 * 0.8**2)
    np.testing.assert_allclose(codes(theta, wine, tol=1e-12).h, expected, atol=1e-9)


def test_no_rows_rows_at_the_mean_and_a_wrong_tolerance(theta):
    assert codes(theta, some_rows(0)).h.shape == (0, theta.W.shape[1])
    assert codes(theta, theta.b.expand(2, 13)).h.abs().max() == 0
    with pytest.raises(ValueError, match="tol: got 0, expected a positive number"):
        codes(theta, some_rows(1), tol=0)


def test_single_precision(wine, theta):
    single = replace(theta, W=theta.W.float(), b=theta.b.float())
    found = codes(single, wine.float(), tol=1e-5)
    assert found.h.dtype == torch.float32
    assert found.converged
    best = fista(theta, wine).trace[-1]
    assert float(objective(single, wine.float(), found.h).sum()) == pytest.approx(best, rel=1e-5)


def test_dictionaries_by_either_solver_are_as_good(theta):
    v = some_rows(600)
    start = replace(theta, W=random_atoms(v, 20))
    before = start.W.clone()
    by = [alternate(v, start, max_rounds=5, solver=solver) for solver in (fista, codes)]
    assert by[1].trace == pytest.approx(by[0].trace, rel=1e-3)
    assert np.diff(by[1].trace).max() < 0
    assert start.W.equal(before)
    online = [
        learn_online(v, 20, rate=1.5, scale=0.7, num_steps=20, solver=solver)
        for solver in (fista, codes)
    ]
    ends = [objective(one.theta, v, codes(one.theta, v).h).sum() for one in online]
    assert float(ends[1]) == pytest.approx(float(ends[0]), rel=1e-3)
    assert ends[1] < 0.98 * fista(start, v).trace[-1]
