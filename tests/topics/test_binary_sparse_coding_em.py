"""Learning in binary sparse coding, and the bars test, against brute force and least squares."""

import numpy as np
import pytest
import torch
from oracles import binary_sparse_coding as oracle
from oracles.programs import array
from torch import Tensor

from pyro_cookbook.algorithms.binary_sparse_coding import em as learning
from pyro_cookbook.algorithms.binary_sparse_coding.mean_field import SparseCodingParameters
from pyro_cookbook.data.bars import bar_atoms, make_bars, match_atoms, share_recovered

SIDE = 3
NUM_UNITS = 2 * SIDE


@pytest.fixture(scope="module")
def bars():
    return make_bars(250, SIDE, scale=0.4, seed=1)


@pytest.fixture(scope="module")
def truth(bars) -> SparseCodingParameters:
    prob = torch.full((NUM_UNITS,), bars.prob, dtype=torch.float64)
    return SparseCodingParameters(
        bars.atoms, torch.logit(prob), torch.tensor(bars.scale, dtype=torch.float64)
    )


def moved(theta: SparseCodingParameters, name: str, change: Tensor) -> SparseCodingParameters:
    return SparseCodingParameters(**{**vars(theta), name: getattr(theta, name) + change})


# --- the M step --------------------------------------------------------------------------------


@pytest.mark.parametrize("inference", ["exact", "mean_field"])
def test_the_m_step_is_the_maximum(bars, truth, inference):
    """No direction of any parameter leads up from it, by the brute-force expectation."""
    v = bars.v[:40]
    start = moved(truth, "W", 0.3 * torch.randn_like(truth.W))
    if inference == "exact":
        q = oracle.posterior(start, v)
        sums, evidence = learning.exact_statistics(start, v)
        assert float(evidence) == pytest.approx(oracle.log_evidence(start, v).sum(), rel=1e-12)
    else:
        logits = torch.randn(len(v), NUM_UNITS, dtype=torch.float64)
        q, sums = oracle.factorised(logits), learning.mean_field_statistics(v, logits)
    theta = learning.m_step(sums)
    best = oracle.expected_log_joint(theta, v, q)
    assert best > oracle.expected_log_joint(start, v, q) + 5
    step = 1e-3
    for name in ("W", "b", "scale"):
        for _ in range(3):
            change = step * torch.randn_like(getattr(theta, name))
            up, down = (
                oracle.expected_log_joint(moved(theta, name, sign * change), v, q)
                for sign in (1, -1)
            )
            assert max(up, down) < best
            # The top is level: the slope is far below the curvature's share.
            assert abs(up - down) < 0.05 * (2 * best - up - down)


def test_with_known_switches_the_m_step_is_least_squares(bars):
    logits = 60 * (2 * bars.h - 1)
    theta = learning.m_step(learning.mean_field_statistics(bars.v, logits))
    h, v = array(bars.h), array(bars.v)
    W, _, rank, _ = np.linalg.lstsq(h, v)
    assert rank == NUM_UNITS
    np.testing.assert_allclose(theta.W, W.T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(torch.sigmoid(theta.b), h.mean(0), rtol=1e-9)
    assert float(theta.scale) == pytest.approx(((v - h @ W) ** 2).mean() ** 0.5, rel=1e-9)


def test_a_unit_that_is_never_on_gets_the_atom_zero(bars):
    logits = 60 * (2 * bars.h - 1)
    logits[:, 0] = -60
    theta = learning.m_step(learning.mean_field_statistics(bars.v, logits))
    assert theta.W[:, 0].abs().max() < 1e-6
    assert float(torch.sigmoid(theta.b[0])) == pytest.approx(learning.MIN_PROB)
    assert theta.W.isfinite().all()


def test_rows_without_noise_are_refused(bars):
    v, logits = bars.h @ bars.atoms.mT, 200 * (2 * bars.h - 1)
    with pytest.raises(ValueError, match=r"^the noise has vanished: 6 units explain 250 rows"):
        learning.m_step(learning.mean_field_statistics(v, logits))


# --- EM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_exact_em_never_lowers_the_evidence(bars, seed):
    found = learning.em(bars.v, NUM_UNITS, inference="exact", seed=seed, max_iterations=100)
    assert np.diff(found.elbo).min() > -1e-9
    assert found.logits is None
    expected = oracle.log_evidence(found.theta, bars.v).sum()
    assert found.elbo[-1] == pytest.approx(expected, rel=1e-12)
    assert found.elbo[0] < expected - 100


@pytest.mark.parametrize("seed", range(3))
def test_mean_field_em_never_lowers_its_bound(bars, seed):
    found = learning.em(bars.v, NUM_UNITS, seed=seed, max_iterations=100)
    assert np.diff(found.elbo).min() > -1e-9
    expected = oracle.elbo(found.theta, bars.v, found.logits).sum()
    assert found.elbo[-1] == pytest.approx(expected, rel=1e-9)
    gap = oracle.log_evidence(found.theta, bars.v).sum() - found.elbo[-1]
    kl = oracle.kl_to_posterior(found.theta, bars.v, found.logits).sum()
    assert gap == pytest.approx(kl, abs=1e-7)


def test_em_stays_where_it_has_converged(bars):
    first = learning.em(bars.v, NUM_UNITS, inference="exact", tol=1e-10)
    again = learning.em(bars.v, NUM_UNITS, inference="exact", start=first.theta, tol=1e-10)
    assert first.converged
    assert len(again.elbo) <= 3
    assert again.elbo[-1] == pytest.approx(first.elbo[-1], abs=1e-4)


def test_restarts_keep_the_best(bars):
    found = learning.em(bars.v, NUM_UNITS, num_restarts=4, seed=2, max_iterations=60)
    each = [
        learning.em(bars.v, NUM_UNITS, seed=seed, max_iterations=60).elbo[-1]
        for seed in range(2, 6)
    ]
    assert found.restarts == each
    assert found.elbo[-1] == max(each) > min(each) + 1
    short = learning.em(bars.v, NUM_UNITS, max_iterations=2)
    assert not short.converged
    assert len(short.elbo) == 2


def test_an_unknown_inference_is_refused(bars):
    with pytest.raises(
        ValueError, match=r"^inference: got 'map', expected 'mean_field' or 'exact'"
    ):
        learning.em(bars.v, NUM_UNITS, inference="map")


@pytest.mark.parametrize("inference", ["exact", "mean_field"])
def test_em_finds_the_bars(bars, truth, inference):
    start = learning.random_start(bars.v, NUM_UNITS)
    found = learning.em(bars.v, NUM_UNITS, inference=inference, num_restarts=5)
    assert share_recovered(start.W, bars.atoms) < 0.5
    assert share_recovered(found.theta.W, bars.atoms) == 1
    reached = oracle.log_evidence(found.theta, bars.v).sum()
    assert reached > oracle.log_evidence(truth, bars.v).sum() > found.elbo[0] + 100
    # Each pixel of an atom is a mean over the rows that have it, about n / side.
    order, _ = match_atoms(found.theta.W, bars.atoms)
    error = 2 * bars.scale / (len(bars.v) * bars.prob * (1 - bars.prob)) ** 0.5
    assert (found.theta.W[:, order] - bars.atoms).abs().max() < 5 * error
    assert (start.W - bars.atoms).abs().max() > 5 * error
    assert float(found.theta.scale) == pytest.approx(bars.scale, rel=0.1)


# --- bars --------------------------------------------------------------------------------------


def test_images_are_sums_of_bars_with_noise():
    bars = make_bars(4000, 4, scale=0.3, seed=5)
    assert bars.atoms.shape == (16, 8)
    picture = array(bars.atoms).T.reshape(8, 4, 4)
    for i in range(4):
        assert (picture[i][i] == 1).all()  # horizontal: line i
        assert (picture[4 + i][:, i] == 1).all()  # vertical: column i
        assert picture[i].sum() == picture[4 + i].sum() == 4
    noise = array(bars.v - bars.h @ bars.atoms.mT)
    assert noise.std() == pytest.approx(0.3, rel=5 / (2 * noise.size) ** 0.5)
    assert array(bars.h).mean() == pytest.approx(0.25, abs=5 * (0.19 / bars.h.numel()) ** 0.5)
    assert set(bars.h.unique().tolist()) == {0, 1}
    assert torch.equal(make_bars(4000, 4, scale=0.3, seed=5).v, bars.v)
    assert not torch.equal(make_bars(4000, 4, scale=0.3, seed=6).v, bars.v)


@pytest.mark.parametrize(
    "bad", [{"num_rows": 0}, {"side": 1}, {"prob": 1.0}, {"prob": 0.0}, {"scale": 0.0}], ids=str
)
def test_impossible_bars_are_refused(bad):
    with pytest.raises(ValueError, match=r"^num_rows, side, prob, scale: got"):
        make_bars(**bad)


def test_atoms_are_matched_whatever_their_order_and_length():
    atoms = bar_atoms(4)
    shuffled = torch.randperm(8)
    W = (atoms * torch.linspace(0.5, 3, 8))[:, shuffled]
    order, cosine = match_atoms(W, atoms)
    np.testing.assert_array_equal(shuffled[order], range(8))
    np.testing.assert_allclose(cosine, 1)
    assert share_recovered(W, atoms) == 1


def test_an_atom_serves_one_bar_and_its_sign_counts():
    atoms = bar_atoms(4)
    merged = atoms.clone()
    merged[:, 0], merged[:, 1] = atoms[:, 0] + atoms[:, 1], 0  # two bars in one atom, one empty
    assert share_recovered(merged, atoms) == 6 / 8
    negative = atoms.clone()
    negative[:, 2] *= -1
    assert share_recovered(negative, atoms) == 7 / 8
    order, cosine = match_atoms(atoms[:, :3], atoms)
    np.testing.assert_array_equal(order, [0, 1, 2, -1, -1, -1, -1, -1])
    assert cosine[3:].abs().max() == 0


def test_an_atom_of_opposite_sign_does_not_take_the_place_of_a_fair_one():
    atoms = bar_atoms(4)
    fair = atoms[:, :1] + 0.3 * atoms[:, 1:2]
    order, cosine = match_atoms(torch.cat([-atoms[:, :1], fair], dim=1), atoms[:, :1])
    assert order.tolist() == [1]
    assert float(cosine) == pytest.approx(1 / 1.09**0.5)
