"""Verdicts on rows of several bits: their states are enumerated, whatever the weights say."""

import numpy as np
import pytest
import torch
from build import build

import pyro_cookbook as pc
from guides.binary_sparse_coding import BinarySparseCodingMeanField
from models.binary_sparse_coding import BinarySparseCoding
from pyro_cookbook.algorithms.binary_sparse_coding import mean_field as closed
from pyro_cookbook.posterior.importance import smooth

ORTHOGONAL = torch.eye(4, dtype=torch.float64)[:, :3]
# Units 0 and 1 explain the first pixel equally well: either, but not both.
RIVALS = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def model_of(W):
    b = torch.tensor([-1.0, -1.0, 0.5], dtype=torch.float64)
    model = build(BinarySparseCoding(*W.shape), W=W, b=b, scale=torch.tensor(0.35))
    return model.requires_grad_(False)


def fitted(model, v, logits):
    guide = build(BinarySparseCodingMeanField(*logits.shape), h_logits=logits)
    return pc.as_fit(model, guide, v)


def test_a_posterior_that_factorises_is_reliable():
    model, v = model_of(ORTHOGONAL), torch.rand(6, 4, dtype=torch.float64)
    diagnosis = pc.diagnose(fitted(model, v, closed.drive(model, v)))
    assert diagnosis.verdict == "reliable"
    assert "within 0.0" in diagnosis.reasons[0]


def test_a_guide_that_picks_one_of_two_explanations_is_not():
    """Nearly all draws and weights are the same: k-hat has nothing to see."""
    model, v = model_of(RIVALS), torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(5, 2)
    logits = torch.tensor([[12.0, -12.0, -3.58]], dtype=torch.float64).expand(5, 3)
    assert closed.posterior_marginals(model, v)[0, 0] == pytest.approx(0.5, abs=0.01)
    diagnosis = pc.diagnose(fitted(model, v, logits))
    assert diagnosis.verdict == "unreliable"
    assert "within 0.5" in diagnosis.reasons[0]


def test_reweighted_rows_have_the_exact_marginals():
    model, v = model_of(RIVALS), torch.rand(6, 2, dtype=torch.float64)
    wide = torch.zeros(6, 3, dtype=torch.float64)
    tree = pc.to_datatree(fitted(model, v, wide), num_draws=4000, reweight=True)
    drawn = tree["posterior"]["h"].mean(("chain", "draw")).to_numpy()
    exact = closed.posterior_marginals(model, v).numpy()
    assert np.abs(drawn - exact).max() < 5 * 0.5 / 4000**0.5
    assert np.abs(0.5 - exact).max() > 0.3  # the guide's own are far off


def test_two_distinct_weights_have_a_finite_tail():
    weights = np.where(np.random.default_rng(0).random(4000) < 0.98, 0.0, 3.0)
    smoothed, khat = smooth(weights)
    assert khat == 0
    np.testing.assert_allclose(smoothed, np.exp(weights) / np.exp(weights).sum())
