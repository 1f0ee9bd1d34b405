"""Dictionary learning, patches and Gabor fits against known truths."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.sparse_coding import SparseCoding
from pyro_cookbook.algorithms.sparse_coding.dictionary_learning import (
    alternate,
    learn_online,
    random_atoms,
    sums,
    update_atoms,
)
from pyro_cookbook.algorithms.sparse_coding.fista import SparseCodingParameters, fista, objective
from pyro_cookbook.data import patches
from pyro_cookbook.data.gabors import fit_gabors

NUM_FEATURES, NUM_ATOMS = 16, 24
RATE, SCALE = 60.0, 0.1
SETTINGS = {"rate": RATE, "scale": SCALE, "num_steps": 150, "code_tol": 1e-2}


@pytest.fixture(scope="module")
def truth() -> SparseCodingParameters:
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(NUM_FEATURES, NUM_ATOMS, generator=generator, dtype=torch.float64)
    b = torch.linspace(-1, 1, NUM_FEATURES, dtype=torch.float64)
    return SparseCodingParameters(W / W.norm(dim=0), b, RATE, SCALE)


@pytest.fixture(scope="module")
def rows(truth) -> Tensor:
    """Two atoms a row: sparser than the prior, as in every proof of recovery."""
    generator = torch.Generator().manual_seed(2)
    h = torch.zeros(3000, NUM_ATOMS, dtype=torch.float64)
    used = torch.rand(h.shape, generator=generator).topk(2, dim=1).indices
    h.scatter_(1, used, 2 * torch.randn(3000, 2, generator=generator, dtype=torch.float64))
    noise = torch.randn(3000, NUM_FEATURES, generator=generator, dtype=torch.float64)
    return truth.b + h @ truth.W.mT + SCALE * noise


def recovered(W: Tensor, truth: SparseCodingParameters) -> float:
    """Share of the true atoms that one of W's matches, up to sign, with a cosine above 0.98."""
    return float(((truth.W.mT @ W).abs().amax(1) > 0.98).double().mean())


def squares(theta: SparseCodingParameters, v: Tensor, h: Tensor) -> float:
    return float((v - theta.b - h @ theta.W.mT).square().sum())


# --- the atoms' step ---------------------------------------------------------------------------


def test_atoms_step_lowers_the_squares_and_ends_where_no_atom_can_do_better(truth, rows):
    start = replace(truth, W=random_atoms(rows, NUM_ATOMS))
    h = fista(start, rows[:300], tol=1e-3).h
    total = sums(start, rows[:300], h)
    theta, values = start, [squares(start, rows[:300], h)]
    for _ in range(5):
        theta = replace(theta, W=update_atoms(theta.W, total))
        values.append(squares(theta, rows[:300], h))
        assert (theta.W.norm(dim=0) - 1).abs().max() < 1e-12
    assert np.diff(values).max() < 0
    settled = replace(theta, W=update_atoms(theta.W, total, sweeps=2000))
    lowest = squares(settled, rows[:300], h)
    generator = torch.Generator().manual_seed(0)
    for k in range(NUM_ATOMS):
        for _ in range(5):
            W = settled.W.clone()
            W[:, k] += 0.05 * torch.randn(NUM_FEATURES, generator=generator, dtype=W.dtype)
            W[:, k] /= W[:, k].norm()
            assert squares(replace(settled, W=W), rows[:300], h) > lowest


def test_one_step_finds_the_only_atom(truth):
    h = torch.linspace(-1, 2, 50, dtype=torch.float64)[:, None]
    v = truth.b + h @ truth.W[:, :1].mT
    start = replace(truth, W=truth.W[:, 1:2])
    W = update_atoms(start.W, sums(start, v, h))
    torch.testing.assert_close(W, truth.W[:, :1], rtol=1e-10, atol=1e-12)


def test_an_atom_that_no_code_uses_stays(truth, rows):
    h = fista(truth, rows[:100], tol=1e-3).h
    h[:, 7] = 0
    W = update_atoms(truth.W, sums(truth, rows[:100], h))
    assert W[:, 7].equal(truth.W[:, 7])
    assert not W[:, 8].equal(truth.W[:, 8])


# --- learning ----------------------------------------------------------------------------------


def test_online_learning_finds_the_atoms_that_made_the_rows(truth, rows):
    start = random_atoms(rows, NUM_ATOMS)
    learned = learn_online(rows, NUM_ATOMS, **SETTINGS)
    assert recovered(start, truth) < 0.3
    assert recovered(learned.theta.W, truth) > 0.85
    assert (learned.theta.W.norm(dim=0) - 1).abs().max() < 1e-12
    torch.testing.assert_close(learned.theta.b, rows.mean(0))
    assert np.mean(learned.trace[-20:]) < 0.8 * learned.trace[0]
    again = learn_online(rows, NUM_ATOMS, **SETTINGS)
    assert again.theta.W.equal(learned.theta.W)


def test_alternation_never_raises_the_objective_and_finds_the_atoms(truth, rows):
    start = replace(truth, W=random_atoms(rows, NUM_ATOMS))
    learned = alternate(rows[:1500], start, max_rounds=60, code_tol=1e-5)
    before = float(objective(start, rows[:1500], fista(start, rows[:1500]).h).sum())
    assert np.diff([before, *learned.trace]).max() < 0
    assert learned.trace[-1] == pytest.approx(learned.codes.trace[-1], rel=1e-9)
    assert recovered(learned.theta.W, truth) > 0.85 > recovered(start.W, truth)
    settled = alternate(rows[:300], learned.theta, tol=0.01)
    assert settled.converged
    assert not alternate(rows[:300], start, max_rounds=1).converged


def test_an_atom_that_no_row_needs_is_replaced(truth):
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(400, NUM_FEATURES, generator=generator, dtype=torch.float64)
    flat[:, 0] = 0  # no row has a part along the first axis
    start = random_atoms(flat, 8)
    start[:, 3] = torch.eye(NUM_FEATURES, dtype=torch.float64)[0]
    learned = learn_online(flat, 8, rate=1, scale=0.5, num_steps=3, start=start)
    assert abs(float(learned.theta.W[0, 3])) < 1e-6
    assert (learned.codes.h[:, 3] != 0).any()


def test_rows_become_atoms_and_random_directions_fill_up():
    v = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    W = random_atoms(v, 5)
    assert W.shape == (3, 5)
    assert (W.norm(dim=0) - 1).abs().max() < 1e-6
    assert W[0, :2].abs().tolist() == [1, 1]
    with pytest.raises(ValueError, match="num_atoms: got 0 for 3 rows"):
        learn_online(v, 0, rate=1, scale=1)


# --- patches -----------------------------------------------------------------------------------


def test_patches_of_a_picture_can_be_put_back():
    picture = torch.rand(23, 17, dtype=torch.float64)
    squares = patches.all_patches(picture, 5)
    assert squares.shape == (19 * 13, 25)
    assert squares[14].reshape(5, 5).equal(picture[1:6, 1:6])
    torch.testing.assert_close(patches.average_patches(squares, (23, 17)), picture)
    assert patches.all_patches(picture, 5, stride=3).shape == (7 * 5, 25)
    with pytest.raises(ValueError, match="patches: got 247, expected 266 for shape"):
        patches.average_patches(squares, (23, 18))


def test_random_patches_are_patches_of_the_picture():
    picture = torch.rand(20, 30, dtype=torch.float64)
    squares = patches.random_patches(picture, 4, 50, seed=1)
    every = {tuple(row) for row in patches.all_patches(picture, 4).tolist()}
    assert {tuple(row) for row in squares.tolist()} <= every
    assert len({tuple(row) for row in squares.tolist()}) > 40
    assert squares.equal(patches.random_patches(picture, 4, 50, seed=1))
    assert not squares.equal(patches.random_patches(picture, 4, 50, seed=2))


def test_the_most_varied_rows_are_kept_in_their_order():
    rows = torch.tensor([[0.0, 1.0], [5.0, 5.0], [0.0, 3.0], [0.0, 2.0]])
    assert patches.most_varied(rows).equal(rows[[2, 3]])
    assert patches.most_varied(rows, 0.6).equal(rows[[0, 2, 3]])
    with pytest.raises(ValueError, match="share: got 0, expected above 0 and at most 1"):
        patches.most_varied(rows, 0)


@pytest.mark.parametrize("floor", [1e-9, 0.1])
def test_whitening_makes_pixels_uncorrelated_and_can_be_undone(floor):
    squares = patches.random_patches(patches.photograph("china.jpg", 2), 6, 3000)
    whitening = patches.fit_whitening(squares, floor=floor)
    white = whitening.whiten(squares)
    back = whitening.unwhiten(white) + squares.mean(1, keepdim=True)
    torch.testing.assert_close(back, squares, rtol=0, atol=1e-6)
    covariance = white.mT @ white / len(white)
    centred = squares - squares.mean(1, keepdim=True)
    centred = centred - centred.mean(0)
    before = centred.mT @ centred / len(centred)
    values = torch.linalg.eigvalsh(before)
    expected = (values / (values + floor * values.mean())).sort().values
    np.testing.assert_allclose(torch.linalg.eigvalsh(covariance), expected, atol=1e-4)
    assert values[-1] > 20 * values[1]
    torch.testing.assert_close(whitening.forward, whitening.forward.mT)


def test_psnr_of_a_known_error():
    truth = torch.zeros(4, 4)
    assert patches.psnr(truth + 0.1, truth) == pytest.approx(20, abs=1e-5)
    assert patches.psnr(truth - 0.01, truth) == pytest.approx(40, abs=1e-4)


def test_photographs_are_grey_between_black_and_white():
    whole, half = patches.photograph("flower.jpg"), patches.photograph("flower.jpg", 2)
    assert whole.shape == (427, 640)
    assert half.shape == (213, 320)
    assert 0 <= whole.min() < 0.1
    assert 0.8 < whole.max() <= 1
    assert float(half[3, 5]) == pytest.approx(float(whole[6:8, 10:12].mean()))
    with pytest.raises(ValueError, match=r"name: got 'cat\.jpg', expected one of china"):
        patches.photograph("cat.jpg")
    with pytest.raises(ValueError, match="size: got 99, expected 1 to 9"):
        patches.all_patches(torch.zeros(9, 12), 99)


def test_table_of_patches():
    table = patches.load_patches(num_patches=50)
    assert table.data.shape == (50, 36)
    assert list(table.data.columns) == table.feature_names
    assert table.data.equals(patches.load_patches(num_patches=50).data)
    assert 0.1 < table.data.to_numpy().std() < 3
    SparseCoding(36, 40)(torch.tensor(table.data.to_numpy(dtype=np.float32)))


# --- Gabor functions ---------------------------------------------------------------------------


def gabor(size, row, column, along, across, frequency, angle, phase):
    rows, columns = np.mgrid[:size, :size]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    xi, eta = (columns - column) * c + (rows - row) * s, (rows - row) * c - (columns - column) * s
    bell = np.exp(-(xi**2) / (2 * along**2) - eta**2 / (2 * across**2))
    return (bell * np.cos(2 * np.pi * frequency * xi + phase)).ravel()


@pytest.mark.parametrize("angle", [0, 30, 90, 135])
@pytest.mark.parametrize("phase", [0.0, 1.5])
def test_a_gabor_function_is_found_again(angle, phase):
    numbers = {"row": 5.0, "column": 6.5, "along": 1.6, "across": 2.2, "frequency": 0.2}
    atom = torch.tensor(gabor(12, **numbers, angle=angle, phase=phase))
    found = fit_gabors(-3 * atom[:, None])
    assert found.r2[0] > 1 - 1e-8
    for name, value in numbers.items():
        assert getattr(found, name)[0] == pytest.approx(value, abs=1e-3)
    assert (found.angle[0] - angle + 90) % 180 - 90 == pytest.approx(0, abs=0.1)
    np.testing.assert_allclose(found.picture.ravel(), -3 * atom, atol=1e-4)


def test_noise_is_no_gabor_function():
    noise = torch.randn(144, 5, generator=torch.Generator().manual_seed(0))
    found = fit_gabors(torch.cat([noise, torch.zeros(144, 1)], dim=1))
    assert found.r2.shape == (6,)
    assert found.r2.max() < 0.5
    assert found.r2[-1] == 0
    with pytest.raises(ValueError, match="atoms: got 143 pixels, expected a square number"):
        fit_gabors(noise[1:])
