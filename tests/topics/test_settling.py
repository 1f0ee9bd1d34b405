"""Mean-field fixed points of many rows: windows and leaps, against plain sweeps in NumPy."""

import numpy as np
import pytest
import torch
from build import build
from oracles.programs import array

from models.binary_sparse_coding import BinarySparseCoding
from pyro_cookbook.algorithms.binary_sparse_coding import mean_field as closed
from pyro_cookbook.algorithms.binary_sparse_coding.mean_field import SparseCodingParameters

NUM_FEATURES, NUM_UNITS = 7, 20


@pytest.fixture
def theta() -> SparseCodingParameters:
    """More units than one block, overlapping with both signs; every b and every norm its own."""
    rng = torch.Generator().manual_seed(3)
    W = torch.randn(NUM_FEATURES, NUM_UNITS, generator=rng, dtype=torch.float64)
    b = torch.linspace(-2.5, 0, NUM_UNITS, dtype=torch.float64)
    return SparseCodingParameters(W, b, torch.tensor(0.9, dtype=torch.float64))


@pytest.fixture
def rows(theta) -> torch.Tensor:
    """More rows than are in work at once."""
    model = build(BinarySparseCoding(NUM_FEATURES, NUM_UNITS), torch.float64, **vars(theta))
    with torch.no_grad():
        return model(num_obs=1500)


@pytest.fixture
def twins() -> SparseCodingParameters:
    """Two copies of one atom."""
    atoms = torch.ones(4, 2, dtype=torch.float64)
    return SparseCodingParameters(atoms, torch.zeros(2).double(), torch.tensor(0.5).double())


def sweeps(theta, rows, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities after so many plain sweeps, and how far each of them moved each row."""
    drives, coupling = array(closed.drive(theta, rows)), array(closed.inhibition(theta))
    h = np.tile(1 / (1 + np.exp(-array(theta.b))), (len(rows), 1))
    moved = []
    for _ in range(number):
        before = h.copy()
        for i in range(NUM_UNITS):
            h[:, i] = 1 / (1 + np.exp(h @ coupling[:, i] - drives[:, i]))
        moved.append(np.abs(h - before).max(1))
    return h, np.reshape(moved, (number, len(rows)))


def test_many_rows_reach_the_fixed_points_of_plain_sweeps(theta, rows):
    """Rows that are done early are left where they are; the others go on."""
    h, moved = sweeps(theta, rows, 400)
    start, _ = sweeps(theta, rows, 0)
    found = closed.coordinate_ascent(theta, rows, max_sweeps=400, tol=1e-10, keep_elbo=False)
    kept = closed.coordinate_ascent(theta, rows, max_sweeps=400, tol=1e-10)
    assert moved[-1].max() < 1e-10
    assert moved[20].max() > 1e-3
    for one in (found, kept):
        assert one.converged
        np.testing.assert_allclose(torch.sigmoid(one.logits), h, atol=1e-7)
    assert np.abs(start - h).max() > 0.5
    assert 20 < len(kept.elbo) < 400
    assert len(found.elbo) == 2
    assert kept.elbo[0] == pytest.approx(found.elbo[0], rel=1e-12)
    assert kept.elbo[-1] == pytest.approx(found.elbo[-1], rel=1e-12)
    for keep_elbo in (True, False):
        empty = closed.coordinate_ascent(theta, rows[:0], keep_elbo=keep_elbo)
        assert empty.logits.shape == (0, NUM_UNITS)
        assert empty.converged


def test_a_row_does_not_depend_on_the_rows_beside_it(theta, rows):
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    found = closed.coordinate_ascent(theta, rows, tol=1e-9, keep_elbo=False).logits
    mixed = closed.coordinate_ascent(theta, rows[order], tol=1e-9, keep_elbo=False).logits
    some = closed.coordinate_ascent(theta, rows[1200:1300], tol=1e-9, keep_elbo=False).logits
    torch.testing.assert_close(mixed, found[order], rtol=0, atol=1e-10)
    torch.testing.assert_close(some, found[1200:1300], rtol=0, atol=1e-10)


@pytest.mark.parametrize("max_sweeps", [0, 1, 2, 3, 4, 8])
def test_every_row_is_swept_as_often_as_asked(theta, rows, max_sweeps):
    """Rows that move by more than 0.01 do not leap; those that wait for a place count their own."""
    h, moved = sweeps(theta, rows, max_sweeps)
    found = closed.coordinate_ascent(theta, rows, max_sweeps=max_sweeps, tol=0.01, keep_elbo=False)
    ends = torch.sigmoid(found.logits).numpy()
    going = (moved > 0.01).all(0)
    assert not found.converged
    assert going[1024:].sum() > 20
    np.testing.assert_allclose(ends[going], h[going], rtol=0, atol=1e-12)
    if max_sweeps:
        assert np.abs(ends[going] - sweeps(theta, rows, max_sweeps - 1)[0][going]).max() > 0.1


def test_leaps_reach_the_fixed_point_that_sweeps_crawl_to():
    """Nearly one atom twice, half of it needed: a sweep leaves most of what is missing."""
    W = torch.tensor([[1.0, 0.99], [0.0, 0.0199**0.5]]).double()
    theta = SparseCodingParameters(W, -torch.ones(2).double(), torch.tensor(0.5).double())
    rows = torch.tensor([[0.6, 0.1], [1.0, 0.2], [0.5, 0.0]]).double()
    crawls = closed.coordinate_ascent(theta, rows, max_sweeps=60, tol=1e-10)
    leaps = closed.coordinate_ascent(theta, rows, max_sweeps=60, tol=1e-10, keep_elbo=False)
    end = closed.coordinate_ascent(theta, rows, max_sweeps=1000, tol=1e-12)
    assert not crawls.converged
    assert leaps.converged
    h = torch.sigmoid(leaps.logits)
    again = torch.sigmoid(closed.fixed_point(theta, rows, leaps.logits))
    torch.testing.assert_close(again, h, rtol=0, atol=2e-9)
    torch.testing.assert_close(torch.sigmoid(end.logits), h, rtol=0, atol=2e-9)


def test_no_row_leaps_back_to_a_saddle(twins):
    """Beside the tie steps grow from sweep to sweep, and a row stays on its side of it."""
    lean = torch.logspace(-9, -4, 12, dtype=torch.float64)
    lean = torch.cat([lean, -lean])
    start = torch.stack([lean, -lean], 1)
    rows = torch.ones(len(start), 4).double()
    plain = closed.coordinate_ascent(twins, rows, start=start, tol=1e-10)
    found = closed.coordinate_ascent(twins, rows, start=start, tol=1e-10, keep_elbo=False)
    assert plain.converged
    assert found.converged
    torch.testing.assert_close(found.logits, plain.logits, rtol=0, atol=1e-7)
    assert set(torch.sigmoid(found.logits[:, 0]).round().tolist()) == {0, 1}


def test_single_precision_ends_where_it_no_longer_moves(theta, rows):
    single = SparseCodingParameters(theta.W.float(), theta.b.float(), theta.scale.float())
    found = closed.coordinate_ascent(single, rows[:300].float(), tol=1e-5, keep_elbo=False)
    exact = closed.coordinate_ascent(theta, rows[:300], max_sweeps=400)
    assert found.converged
    assert found.logits.dtype == torch.float32
    off = (torch.sigmoid(found.logits) - torch.sigmoid(exact.logits)).abs().amax(1)
    assert off.median() < 1e-5
