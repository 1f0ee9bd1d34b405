"""Affine coordinates: the map, its inverse, its gradient, its volume; dense and diagonal."""

import numpy as np
import pytest

from pyro_cookbook.programs.coordinates import Coordinates, from_draws, from_precision

RNG = np.random.default_rng(0)
LOC = np.array([1.0, -2.0, 0.5])
DENSE = Coordinates(LOC, np.array([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [-3.0, 0.2, 4.0]]))
DIAGONAL = Coordinates(LOC, np.array([2.0, -0.5, 4.0]))
both = pytest.mark.parametrize("at", [DENSE, DIAGONAL], ids=["dense", "diagonal"])
U = RNG.standard_normal((5, 3))


@both
def test_the_map_row_by_row(at):
    by_row = np.stack([at.loc + at.matrix @ u for u in U])
    np.testing.assert_allclose(at.place(U), by_row, rtol=1e-14)
    np.testing.assert_allclose(at.stretch(U), by_row - LOC, rtol=1e-13, atol=1e-13)


@both
def test_a_step_is_solved_for(at):
    u = U[0]
    np.testing.assert_allclose(at.solve(at.matrix @ u), u, rtol=1e-12)
    assert at.distance(at.place(u)) == pytest.approx(np.linalg.norm(u), rel=1e-12)


@both
def test_gradients_follow_the_chain_rule(at):
    """Of f(z) = Σ sin z: in z cos z, and in u by differences."""
    u, h = U[0], 1e-6
    found = at.gradient(np.cos(at.place(u))[None])[0]
    steps = h * np.eye(3)
    by_differences = [
        (np.sin(at.place(u + s)).sum() - np.sin(at.place(u - s)).sum()) / (2 * h) for s in steps
    ]
    np.testing.assert_allclose(found, by_differences, rtol=1e-7)


@both
def test_scale_and_volume_are_those_of_the_covariance(at):
    covariance = at.matrix @ at.matrix.T
    np.testing.assert_allclose(at.scale, np.sqrt(np.diag(covariance)), rtol=1e-14)
    assert at.log_det == pytest.approx(np.linalg.slogdet(covariance)[1] / 2, rel=1e-12)


@both
def test_another_place_keeps_the_directions(at):
    moved = at.at(LOC + 1)
    assert moved.root is at.root
    np.testing.assert_array_equal(moved.loc, LOC + 1)


def test_a_precision_becomes_the_identity_whatever_its_units():
    units = np.array([1e-3, 1.0, 1e5])
    factor = RNG.standard_normal((3, 3)) + 2 * np.eye(3)
    precision = factor @ factor.T / units / units[:, None]
    at, eigenvalues, _ = from_precision(LOC, precision, flat=1e-9)
    np.testing.assert_allclose(at.root.T @ precision @ at.root, np.eye(3), atol=1e-9)
    assert (np.diff(eigenvalues) >= 0).all()
    assert eigenvalues[0] > 0
    assert eigenvalues.sum() == pytest.approx(3)  # of a matrix with a unit diagonal


def test_a_flat_direction_is_kept_finite_and_named():
    precision = np.diag([4.0, 0.0, 1.0])
    at, eigenvalues, weakest = from_precision(LOC, precision, flat=1e-9)
    assert (eigenvalues[0], weakest) == (0.0, 1)
    assert np.isfinite(at.root).all()
    saddle, eigenvalues, weakest = from_precision(LOC, np.diag([4.0, -1.0, 1.0]), flat=1e-9)
    assert (eigenvalues[0], weakest) == (-1.0, 1)
    np.testing.assert_allclose(saddle.scale, [0.5, 1.0, 1.0])  # taken by size


def test_draws_become_white():
    draws = DENSE.place(RNG.standard_normal((4000, 3)))
    at = from_draws(draws, max_dense=10, shrinkage=1e-9)
    white = np.array([at.solve(z - at.loc) for z in draws])
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(3), atol=1e-6)
    np.testing.assert_allclose(at.loc, draws.mean(0))
    # Where few draws are to be had the noise of their correlations is damped.
    shrunk = from_draws(draws, max_dense=10, shrinkage=0.5)
    correlation = np.corrcoef(draws.T)
    found = shrunk.matrix @ shrunk.matrix.T
    found = found / np.sqrt(np.outer(np.diag(found), np.diag(found)))
    np.testing.assert_allclose(found, 0.5 * correlation + 0.5 * np.eye(3), atol=1e-9)


@pytest.mark.parametrize(("num_draws", "max_dense"), [(4000, 2), (11, 10)])
def test_many_columns_or_few_draws_are_scaled_one_by_one(num_draws, max_dense):
    draws = DENSE.place(RNG.standard_normal((num_draws, 3)))
    at = from_draws(draws, max_dense=max_dense, shrinkage=1e-9)
    assert at.is_diagonal
    np.testing.assert_allclose(at.root, draws.std(0))
    assert not from_draws(draws[:12], max_dense=3, shrinkage=0.1).is_diagonal or num_draws < 12


def test_a_column_that_does_not_vary_keeps_its_unit():
    draws = RNG.standard_normal((100, 3)) * [1.0, 0.0, 2.0] + [0.0, 7.0, 0.0]
    at = from_draws(draws, max_dense=10, shrinkage=1e-9)
    assert at.is_diagonal
    assert at.root[1] == 1.0
