"""Sigmoid belief network: enumeration, guides, by brute force."""

import numpy as np
import pytest
import torch
from build import belief_model, belief_network, belief_phi, belief_theta, build
from oracles import sigmoid_belief_network as oracle
from oracles.programs import log_prob, log_ratio, row_log_ratios
from pyro.infer import Trace_ELBO
from torch import Tensor

from guides.sigmoid_belief_network import (
    SigmoidBeliefNetworkMAP,
    SigmoidBeliefNetworkMeanField,
)
from pyro_cookbook.algorithms.wake_sleep import enumeration, learning
from pyro_cookbook.algorithms.wake_sleep.enumeration import BeliefParameters
from pyro_cookbook.algorithms.wake_sleep.learning import Recognition

NUM_ROWS, NUM_FEATURES, NUM_UNITS = 6, 5, 3
RTOL = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.fixture
def theta() -> BeliefParameters:
    return belief_theta()


@pytest.fixture
def phi() -> Recognition:
    return belief_phi()


@pytest.fixture
def v(theta) -> Tensor:
    with torch.no_grad():
        return belief_model(theta)(num_obs=NUM_ROWS)


@pytest.fixture
def apart(theta) -> BeliefParameters:
    """No two causes touch the same feature: the posterior is a product, linear in v."""
    owner = torch.tensor([0, 0, 1, 1, 2])
    return theta._replace(W=theta.W * (owner[:, None] == torch.arange(NUM_UNITS)))


def mean_field_of(logits: Tensor, dtype: torch.dtype = torch.float64):
    return build(SigmoidBeliefNetworkMeanField(*logits.shape), dtype, h_logits=logits)


def exact_network(theta) -> Recognition:
    """Where causes do not overlap: R = Wᵀ, and r is b less what the normalisers gain."""
    c, W = theta.c[:, None], theta.W
    gained = (torch.log1p(torch.exp(c + W)) - torch.log1p(torch.exp(c))).sum(0)
    return Recognition(W.mT, theta.b - gained)


# --- the model and enumeration -----------------------------------------------------------------


def test_the_oracle_is_a_probability(theta):
    every = torch.tensor(oracle.states(NUM_FEATURES)).double()
    assert np.exp(oracle.log_evidence(theta, every)).sum() == pytest.approx(1, rel=1e-12)


def test_the_model_is_the_oracle_at_every_state(theta, v):
    model, expected = belief_model(theta), oracle.log_joint(theta, v).sum(0)
    for s, h in enumerate(oracle.states(NUM_UNITS)):
        held = torch.tensor(h).to(v).expand(NUM_ROWS, -1)
        assert log_prob(model, {"h": held}, v) == pytest.approx(expected[s], rel=1e-12)


def test_dreams_of_model_and_library_have_the_oracles_probabilities(theta):
    n, every = 40_000, torch.tensor(oracle.states(NUM_FEATURES)).double()
    p = np.exp(oracle.log_evidence(theta, every))
    error = np.sqrt(p * (1 - p) / n)
    powers = 2 ** torch.arange(NUM_FEATURES - 1, -1, -1).double()
    with torch.no_grad():
        by_model = belief_model(theta)(num_obs=n)
    by_library, h = learning.dream(theta, n, torch.Generator().manual_seed(1))
    for rows in (by_model, by_library):
        counts = np.bincount((rows @ powers).int().numpy(), minlength=len(p))
        assert (abs(counts / n - p) < 4.5 * error).all()
        assert (abs(1 / len(p) - p) > 20 * error).any()  # a uniform draw fails
    on = torch.sigmoid(theta.b)
    assert ((h.mean(0) - on).abs() < 4.5 * (on * (1 - on) / n).sqrt()).all()


def test_enumeration_is_brute_force(theta, v):
    np.testing.assert_allclose(
        enumeration.log_joint(theta, v), oracle.log_joint(theta, v), rtol=1e-11
    )
    np.testing.assert_allclose(
        enumeration.log_evidence(theta, v), oracle.log_evidence(theta, v), rtol=1e-12
    )
    np.testing.assert_allclose(
        enumeration.posterior(theta, v), oracle.posterior(theta, v), atol=1e-12
    )


def test_several_theta_in_one_call_are_each_alone(theta, phi, v):
    other = BeliefParameters(*(0.5 * x for x in theta))
    both = BeliefParameters(*map(torch.stack, zip(theta, other, strict=True)))
    nets = Recognition(torch.stack([phi.R, -phi.R]), torch.stack([phi.r, phi.r]))
    found = enumeration.distances(both, v, nets.logits(v))
    for s, (one, net) in enumerate(((theta, phi), (other, Recognition(-phi.R, phi.r)))):
        alone = enumeration.distances(one, v, net.logits(v))
        for a, b in zip(found, alone, strict=True):
            np.testing.assert_allclose(a[s], b, rtol=1e-12)


def test_both_divergences_and_the_bound_are_brute_force(theta, phi, v):
    logits = phi.logits(v)
    p, q = oracle.posterior(theta, v), oracle.factorised(logits)
    found = enumeration.distances(theta, v, logits)
    np.testing.assert_allclose(found.reverse, oracle.kl(q, p), rtol=1e-10)
    np.testing.assert_allclose(found.forward, oracle.kl(p, q), rtol=1e-10)
    assert (found.reverse - found.forward).abs().max() > 0.1  # they are not the same number
    bound = enumeration.factorised_elbo(theta, v, logits)
    np.testing.assert_allclose(bound, oracle.elbo(theta, v, logits), rtol=1e-11)
    np.testing.assert_allclose(found.log_evidence - found.reverse, bound, rtol=1e-11)


def test_mean_field_climbs_to_where_no_logit_can_improve(theta, v):
    logits, elbo = enumeration.mean_field(theta, v, tol=1e-12)
    assert np.diff(elbo).min() > -1e-10
    assert elbo[-1] > elbo[0] + 1
    best = oracle.elbo(theta, v, logits)
    assert elbo[-1] == pytest.approx(best.sum(), rel=1e-11)
    for i in range(NUM_UNITS):
        for shift in (-0.05, 0.05):
            beside = logits.clone()
            beside[:, i] += shift
            assert (oracle.elbo(theta, v, beside) < best).all()


# --- log p(v, h) − log q(h | v) = log p(v) for every draw, where the posterior is a product ----


@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize("kind", ["mean field", "network"])
def test_each_draw_from_the_posterior_gives_the_evidence(apart, v, kind, dtype):
    net = exact_network(apart)
    guide = belief_network(net, dtype) if kind == "network" else mean_field_of(net.logits(v), dtype)
    model, expected = belief_model(apart, dtype), oracle.log_evidence(apart, v)
    for _ in range(30):
        rows = row_log_ratios(model, guide, v.to(dtype))
        np.testing.assert_allclose(rows, expected, rtol=10 * RTOL[dtype])
    found, _ = enumeration.mean_field(apart, v)
    np.testing.assert_allclose(found, net.logits(v), atol=1e-8)


def test_each_draw_from_another_product_gives_another_number(apart, v):
    net = exact_network(apart)
    model, guide = belief_model(apart), mean_field_of(net.logits(v) + 0.5)
    ratios = [log_ratio(model, guide, v) for _ in range(50)]
    assert np.std(ratios) > 0.3


def test_the_point_is_a_mode_and_its_gap_is_its_surprise(theta, v):
    guide = build(SigmoidBeliefNetworkMAP(NUM_ROWS, NUM_UNITS))
    model, table = belief_model(theta), oracle.log_joint(theta, v)
    index = {h: s for s, h in enumerate(oracle.states(NUM_UNITS))}

    def heights(h: Tensor) -> np.ndarray:
        return np.array([table[n, index[tuple(row)]] for n, row in enumerate(h.int().tolist())])

    before = heights(guide.h_mode)
    guide.e_step(model, v)
    height = heights(guide.h_mode)
    assert (height >= before).all()
    assert height.sum() > before.sum() + 1
    for i in range(NUM_UNITS):
        flipped = guide.h_mode.clone()
        flipped[:, i] = 1 - flipped[:, i]
        assert (heights(flipped) <= height).all()
    assert -Trace_ELBO().loss(model, guide, v) == pytest.approx(height.sum(), rel=1e-12)
    with pytest.raises(ValueError, match="use an amortized guide"):
        guide.e_step(model, v[:3])
