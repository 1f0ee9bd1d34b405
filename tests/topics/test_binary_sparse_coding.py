"""Binary sparse coding: enumeration, mean field, learning and guides, against brute force."""

import numpy as np
import pyro
import pytest
import torch
from build import build
from oracles import binary_sparse_coding as oracle
from oracles.programs import array, log_prob, log_ratio, row_log_ratios
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, config_enumerate
from torch import Tensor

import pyro_cookbook as pc
from guides.binary_sparse_coding import (
    BinarySparseCodingAmortized,
    BinarySparseCodingMAP,
    BinarySparseCodingMeanField,
)
from models.binary_sparse_coding import BinarySparseCoding
from pyro_cookbook.algorithms.binary_sparse_coding import mean_field as closed
from pyro_cookbook.algorithms.binary_sparse_coding.elbo import ClosedFormELBO
from pyro_cookbook.algorithms.binary_sparse_coding.mean_field import SparseCodingParameters

NUM_ROWS, NUM_FEATURES, NUM_UNITS = 12, 7, 5
RTOL = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.fixture
def theta() -> SparseCodingParameters:
    """Overlapping atoms of both signs; every b and every norm its own."""
    rng = torch.Generator().manual_seed(3)
    W = torch.randn(NUM_FEATURES, NUM_UNITS, generator=rng, dtype=torch.float64)
    b = torch.linspace(-1.5, 1, NUM_UNITS, dtype=torch.float64)
    return SparseCodingParameters(W, b, torch.tensor(0.9, dtype=torch.float64))


@pytest.fixture
def v(theta) -> Tensor:
    with torch.no_grad():
        return model_of(theta)(num_obs=NUM_ROWS)


@pytest.fixture
def apart(theta) -> SparseCodingParameters:
    """Atoms at right angles: the posterior is a product."""
    W = torch.linalg.qr(theta.W).Q * torch.linspace(0.7, 2, NUM_UNITS)
    return SparseCodingParameters(W, theta.b, theta.scale)


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(NUM_ROWS, NUM_UNITS, dtype=torch.float64)


def model_of(theta, dtype: torch.dtype = torch.float64) -> BinarySparseCoding:
    return build(BinarySparseCoding(*theta.W.shape), dtype, **vars(theta))


def mean_field_of(logits: Tensor, dtype: torch.dtype = torch.float64):
    return build(BinarySparseCodingMeanField(*logits.shape), dtype, h_logits=logits)


def linear_encoder(theta, dtype: torch.dtype = torch.float64) -> BinarySparseCodingAmortized:
    """Put the drive, which is linear in v, into an encoder without hidden layers."""
    guide = BinarySparseCodingAmortized(*theta.W.shape, hidden=()).to(dtype)
    beta = theta.scale**-2
    bias = theta.b - beta * theta.W.square().sum(0) / 2
    guide.encoder[0].load_state_dict({"weight": beta * theta.W.mT, "bias": bias})
    return guide


# --- the model and enumeration -----------------------------------------------------------------


def test_the_oracle_is_a_density(theta):
    integral, error = oracle.is_normalised(theta)
    assert error < 0.05
    assert integral == pytest.approx(1, abs=4 * error)


def test_the_model_is_the_oracle_at_every_state(theta, v):
    model, expected = model_of(theta), oracle.log_joint(theta, v).sum(0)
    for s, h in enumerate(oracle.states(NUM_UNITS)):
        held = torch.tensor(h).to(v).expand(NUM_ROWS, -1)
        assert log_prob(model, {"h": held}, v) == pytest.approx(expected[s], rel=1e-12)


def test_prior_predictive_has_the_moments_of_the_mixture(theta):
    n = 40_000
    with torch.no_grad():
        drawn = array(model_of(theta)(num_obs=n))
    mean, covariance = oracle.first_two_moments(theta, None)
    np.testing.assert_array_less(abs(drawn.mean(0) - mean), 5 * (covariance.diagonal() / n) ** 0.5)
    error = (2 / n) ** 0.5 * covariance.diagonal().max()
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=5 * error)
    assert abs(covariance - np.eye(NUM_FEATURES)).max() > 20 * error


def test_enumeration_is_brute_force(theta, v, monkeypatch):
    np.testing.assert_allclose(closed.log_joint(theta, v), oracle.log_joint(theta, v), rtol=1e-11)
    for chunk in (2**22, 2**NUM_UNITS * 5):  # in one piece, and five rows at a time
        monkeypatch.setattr(closed, "CHUNK_NUMBERS", chunk)
        np.testing.assert_allclose(
            closed.log_evidence(theta, v), oracle.log_evidence(theta, v), rtol=1e-12
        )
        np.testing.assert_allclose(
            closed.posterior(theta, v), oracle.posterior(theta, v), atol=1e-12
        )
        np.testing.assert_allclose(
            closed.posterior_marginals(theta, v), oracle.marginals(theta, v), atol=1e-12
        )


def test_states_are_all_and_in_order():
    np.testing.assert_array_equal(closed.all_states(4), oracle.states(4))
    for num_units in (0, 21):
        with pytest.raises(ValueError, match=rf"^num_units: got {num_units}, expected 1 to 20"):
            closed.all_states(num_units)


def test_a_vector_of_bits_lists_its_support(logits):
    fn = poutine.trace(mean_field_of(logits)).get_trace().nodes["h"]["fn"]
    plain = pyro.distributions.Bernoulli(logits=logits).to_event(1)
    states = fn.enumerate_support(expand=False)
    assert states.shape == (2**NUM_UNITS, 1, NUM_UNITS)
    assert fn.enumerate_support().shape == (2**NUM_UNITS, NUM_ROWS, NUM_UNITS)
    np.testing.assert_array_equal(states[:, 0], oracle.states(NUM_UNITS))
    assert torch.equal(fn.log_prob(states), plain.log_prob(states))
    np.testing.assert_allclose(fn.log_prob(states).exp().sum(0).detach(), 1, rtol=1e-12)


# --- log p(v, h) − log q(h | v) = log p(v) for every draw, where the posterior is a product ----


@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize("kind", ["mean_field", "encoder"])
def test_each_draw_from_the_posterior_gives_the_evidence(apart, v, kind, dtype):
    drive = closed.drive(apart, v)
    guide = mean_field_of(drive, dtype) if kind == "mean_field" else linear_encoder(apart, dtype)
    model, expected = model_of(apart, dtype), oracle.log_evidence(apart, v)
    for _ in range(50):
        rows = row_log_ratios(model, guide, v.to(dtype))
        assert rows.sum() == pytest.approx(expected.sum(), rel=RTOL[dtype])
        np.testing.assert_allclose(rows, expected, rtol=10 * RTOL[dtype])


def test_each_draw_from_another_product_gives_another_number(apart, v):
    model, guide = model_of(apart), mean_field_of(closed.drive(apart, v) + 0.5)
    ratios = [log_ratio(model, guide, v) for _ in range(50)]
    assert np.std(ratios) > 0.5
    assert np.mean(ratios) < oracle.log_evidence(apart, v).sum() - 0.3


# --- the bound of mean field -------------------------------------------------------------------


def test_the_bound_in_closed_form_is_the_sum_over_states(theta, v, logits):
    bound = closed.mean_field_elbo(theta, v, logits)
    np.testing.assert_allclose(bound, oracle.elbo(theta, v, logits), rtol=1e-11)
    far = 50 * logits.sign()  # a point, to rounding
    np.testing.assert_allclose(
        closed.mean_field_elbo(theta, v, far), oracle.elbo(theta, v, far), rtol=1e-11
    )


def test_the_gap_is_the_kl_from_the_posterior(theta, v, logits):
    for q in (logits, closed.coordinate_ascent(theta, v).logits):
        kl = oracle.kl_to_posterior(theta, v, q)
        gap = closed.log_evidence(theta, v) - closed.mean_field_elbo(theta, v, q)
        assert kl.sum() > 0.5
        np.testing.assert_allclose(gap, kl, atol=1e-9)


@pytest.mark.parametrize("guide_of", [mean_field_of, None], ids=["mean field", "encoder"])
def test_three_elbos_agree(theta, v, logits, guide_of):
    model = model_of(theta)
    guide = guide_of(logits) if guide_of else linear_encoder(theta)
    q = logits if guide_of else closed.drive(theta, v)
    expected = -oracle.elbo(theta, v, q).sum()
    summed = TraceEnum_ELBO(max_plate_nesting=1).loss(model, config_enumerate(guide), v)
    assert ClosedFormELBO().loss(model, guide, v) == pytest.approx(expected, rel=1e-11)
    assert summed == pytest.approx(expected, rel=1e-11)
    draws = np.array([-log_ratio(model, guide, v) for _ in range(400)])
    assert draws.mean() == pytest.approx(expected, abs=4 * draws.std() / 20)


def gradient(elbo, model, guide, v, run=None) -> Tensor:
    """Gradient of the loss by all parameters, from a run of the guide or of what wraps it."""
    model.zero_grad()
    guide.zero_grad()
    elbo.loss_and_grads(model, run or guide, v)
    parameters = [*model.parameters(), *guide.parameters()]
    return torch.cat([p.grad.flatten() for p in parameters])


def test_gradients_of_the_closed_form_are_those_of_the_sum_over_states(theta, v, logits):
    model = model_of(theta)
    for guide in (mean_field_of(logits), linear_encoder(theta)):
        ours = gradient(ClosedFormELBO(), model, guide, v)
        summed = TraceEnum_ELBO(max_plate_nesting=1)
        theirs = gradient(summed, model, guide, v, config_enumerate(guide))
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)


def test_the_closed_form_refuses_a_point(theta, v):
    with pytest.raises(ValueError, match=r"^guide: its site 'h' is .*Delta.* expected Bernoulli"):
        ClosedFormELBO().loss(model_of(theta), build(BinarySparseCodingMAP(NUM_ROWS, NUM_UNITS)), v)


def test_score_function_gradients_have_the_mean_of_the_closed_form(theta, v, logits):
    """With and without a baseline; and the baseline lowers the variance."""
    model, guide = model_of(theta), mean_field_of(logits)
    exact = gradient(ClosedFormELBO(), model, guide, v)
    baseline = closed.mean_field_elbo(theta, v, logits)  # the mean of what is drawn
    with_baseline = poutine.infer_config(
        guide, config_fn=lambda site: {"baseline": {"baseline_value": baseline}}
    )
    variance = {}
    for name, elbo, run in (
        ("plain", Trace_ELBO(), guide),
        ("baseline", TraceGraph_ELBO(), with_baseline),
    ):
        draws = torch.stack([gradient(elbo, model, guide, v, run) for _ in range(400)])
        error = draws.std(0) / len(draws) ** 0.5
        z = (draws.mean(0) - exact) / error
        assert z.abs().max() < 5
        assert exact.abs().max() > 20 * error.max()
        variance[name] = draws[:, -logits.numel() :].var(0).sum()
    assert variance["baseline"] < variance["plain"] / 5


# --- the fixed point ---------------------------------------------------------------------------


def test_the_fixed_point_is_where_the_bound_is_level(theta, v, logits):
    """∂L/∂a_i = ĥ_i (1 − ĥ_i)(fixed point − a_i), by differences of the brute-force bound."""
    h, step = torch.sigmoid(logits), 1e-5
    expected = h * (1 - h) * (closed.fixed_point(theta, v, logits) - logits)
    for i in range(NUM_UNITS):
        shift = step * torch.eye(NUM_UNITS, dtype=torch.float64)[i]
        slope = oracle.elbo(theta, v, logits + shift) - oracle.elbo(theta, v, logits - shift)
        np.testing.assert_allclose(slope / (2 * step), expected[:, i], rtol=1e-6, atol=1e-8)


def test_no_single_update_lowers_any_bound(theta, v, logits):
    before, current = oracle.elbo(theta, v, logits), logits
    for _ in range(3):
        for i, after in enumerate(closed.single_updates(theta, v, current)):
            bound = oracle.elbo(theta, v, after)
            assert (bound >= before - 1e-10).all()
            assert torch.equal(after[:, :i], current[:, :i]) or i  # only earlier units have moved
            for shift in (-0.3, 0.3):  # and each is at the top of its coordinate
                beside = after.clone()
                beside[:, i] += shift
                assert (oracle.elbo(theta, v, beside) < bound).all()
            before = bound
        current = after
    assert (before > oracle.elbo(theta, v, logits) + 0.1).any()


def test_coordinate_ascent_ends_at_a_fixed_point(theta, v, logits):
    for start in (None, logits):
        found = closed.coordinate_ascent(theta, v, start=start, tol=1e-12)
        ends = torch.sigmoid(closed.fixed_point(theta, v, found.logits))
        assert found.converged
        np.testing.assert_allclose(ends, torch.sigmoid(found.logits), atol=1e-10)
        assert np.diff(found.elbo).min() > -1e-9
        assert found.elbo[-1] == pytest.approx(oracle.elbo(theta, v, found.logits).sum(), rel=1e-11)
        assert found.elbo[-1] > found.elbo[0] + 1
    one = closed.coordinate_ascent(theta, v, start=logits, max_sweeps=1, keep_elbo=False)
    *_, last = closed.single_updates(theta, v, logits)
    torch.testing.assert_close(one.logits, last, rtol=1e-12, atol=1e-12)
    assert not one.converged
    assert len(one.elbo) == 2


def test_mean_field_is_exact_where_atoms_are_at_right_angles(apart, v):
    found = closed.coordinate_ascent(apart, v)
    np.testing.assert_allclose(torch.sigmoid(found.logits), oracle.marginals(apart, v), atol=1e-10)
    assert found.elbo[-1] == pytest.approx(oracle.log_evidence(apart, v).sum(), rel=1e-12)


def test_parallel_updates_swing_and_damping_stills_them():
    """Two copies of one atom: both on, both off, both on."""
    twins = SparseCodingParameters(
        torch.ones(4, 2).double(), torch.zeros(2).double(), torch.tensor(0.5).double()
    )
    v = torch.ones(1, 4).double()
    start = torch.tensor([[-1.0, -0.9]]).double()
    free = closed.parallel_updates(twins, v, damping=0, start=start)
    assert not free.converged
    both = torch.sigmoid(torch.stack([free.logits, closed.fixed_point(twins, v, free.logits)]))
    assert (both.sum(2).min() < 0.01) & (both.sum(2).max() > 1.99)
    damped = closed.parallel_updates(twins, v, damping=0.5, start=start)
    best = closed.coordinate_ascent(twins, v, start=start)
    assert damped.converged
    assert damped.elbo[-1] == pytest.approx(best.elbo[-1], abs=1e-6)
    assert free.elbo[-1] < damped.elbo[-1] - 1
    with pytest.raises(ValueError, match=r"^damping: got 1, expected"):
        closed.parallel_updates(twins, v, damping=1)


# --- the point ---------------------------------------------------------------------------------


def test_the_point_is_a_mode_and_its_gap_is_its_surprise(theta, v):
    guide = build(BinarySparseCodingMAP(NUM_ROWS, NUM_UNITS))
    model, table = model_of(theta), oracle.log_joint(theta, v)
    index = {h: s for s, h in enumerate(oracle.states(NUM_UNITS))}

    def heights(h: Tensor) -> np.ndarray:
        return np.array([table[n, index[tuple(row)]] for n, row in enumerate(h.int().tolist())])

    before = heights(guide.h_mode)
    guide.e_step(model, v)
    height = heights(guide.h_mode)
    assert (height >= before).all()
    assert height.sum() > before.sum() + 5
    for i in range(NUM_UNITS):
        flipped = guide.h_mode.clone()
        flipped[:, i] = 1 - flipped[:, i]
        assert (heights(flipped) <= height).all()
    bound = -Trace_ELBO().loss(model, guide, v)
    assert bound == pytest.approx(height.sum(), rel=1e-12)
    surprise = oracle.log_evidence(theta, v) - height
    assert (surprise > 0).all()
    assert oracle.log_evidence(theta, v).sum() - bound == pytest.approx(surprise.sum())
    with pytest.raises(ValueError, match="use an amortized guide"):
        guide.e_step(model, v[:3])


# --- mini-batches, fits, the verdict -----------------------------------------------------------


def test_batches_of_the_encoder_add_up(theta, v):
    model, guide = model_of(theta), linear_encoder(theta)
    whole = ClosedFormELBO().loss(model, guide, v)
    parts = [ClosedFormELBO().loss(model, guide, part, num_obs=NUM_ROWS) for part in v.split(3)]
    assert np.mean(parts) == pytest.approx(whole, rel=1e-12)
    assert np.std(parts) > 1
    with pytest.raises(ValueError, match="use an amortized guide"):
        mean_field_of(torch.zeros(NUM_ROWS, NUM_UNITS))(v[:3], num_obs=NUM_ROWS)


def test_fits_by_svi_end_at_an_optimum_of_the_bound(theta, v):
    model = model_of(theta).requires_grad_(False)
    start = build(BinarySparseCodingMeanField(NUM_ROWS, NUM_UNITS))
    fit = pc.fit(model, start, v, elbo=ClosedFormELBO(), lr=0.1, progress=False)
    logits = fit.guide.h_logits.detach()
    bound = float(closed.mean_field_elbo(theta, v, logits).sum())
    polished = closed.coordinate_ascent(theta, v, start=logits)
    assert fit.converged
    assert polished.elbo[-1] - bound < 0.05
    assert ClosedFormELBO().loss(model, start, v) > -bound + 5
    evidence = float(closed.log_evidence(theta, v).sum())
    diagnosis = pc.diagnose(fit, log_evidence=evidence, num_draws=2000)
    kl = oracle.kl_to_posterior(theta, v, logits).sum()
    assert diagnosis.gap.value == pytest.approx(kl, abs=4 * diagnosis.gap.se)
    assert diagnosis.gap.value > 10 * diagnosis.gap.se


def test_an_encoder_trained_on_batches_nears_mean_field(theta):
    with torch.no_grad():
        rows = model_of(theta)(num_obs=200)
    model = model_of(theta).requires_grad_(False)
    guide = BinarySparseCodingAmortized(NUM_FEATURES, NUM_UNITS)
    start = -ClosedFormELBO().loss(model, guide.double(), rows)
    fit = pc.fit(
        model, guide, rows, elbo=ClosedFormELBO(), batch_size=50, lr=0.01, max_steps=600,
        progress=False,
    )  # fmt: skip
    bound = -ClosedFormELBO().loss(model, fit.guide, rows)
    best = closed.coordinate_ascent(theta, rows).elbo[-1]
    evidence = oracle.log_evidence(theta, rows).sum()
    assert start < evidence - 500
    assert evidence - 100 < bound < best < evidence - 10  # mean field's gap, and amortisation's
