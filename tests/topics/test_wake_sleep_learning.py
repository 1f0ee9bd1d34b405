"""Learning sigmoid belief networks: the mean of every pull, by sums over all states."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from build import belief_model, belief_network, belief_phi, belief_theta
from oracles import sigmoid_belief_network as oracle
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor

import pyro_cookbook as pc
from models.sigmoid_belief_network import SigmoidBeliefNetwork
from pyro_cookbook.algorithms.wake_sleep import enumeration, learning, rules
from pyro_cookbook.algorithms.wake_sleep.elbo import ParticleELBO
from pyro_cookbook.algorithms.wake_sleep.enumeration import BeliefParameters
from pyro_cookbook.algorithms.wake_sleep.learning import Recognition

NUM_ROWS, NUM_FEATURES, NUM_UNITS = 6, 5, 3
PARTICLES = {
    "wake_sleep": 1,
    "reweighted_sleep": 2,
    "reweighted": 2,
    "importance_weighted": 2,
    "score": 1,
}


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


# --- the rules: their expectations, by sums over states ----------------------------------------


def gradients(objective: Tensor, theta, phi) -> list[Tensor]:
    return list(torch.autograd.grad(objective, [*theta, *phi]))


def leaves(*tuples):
    return [type(t)(*(x.clone().requires_grad_() for x in t)) for t in tuples]


def expected_pull(method: str, theta, phi, v) -> list[Tensor]:
    """Mean of `learning.pull` by autograd through sums over all states, or pairs of states."""
    theta, phi = leaves(theta, phi)
    joint = enumeration.log_joint(theta, v)
    log_q = enumeration.log_factorised(phi.logits(v))
    q = log_q.exp()
    if method == "score":
        return gradients((q * (joint - log_q)).sum() / len(v), theta, phi)
    every = torch.tensor(oracle.states(v.shape[1])).to(v)
    p = enumeration.log_joint(theta, every).exp().detach()
    asleep = (p * enumeration.log_factorised(phi.logits(every))).sum()
    if method == "wake_sleep":
        return gradients((q.detach() * joint).sum() / len(v) + asleep, theta, phi)
    log_w = joint - log_q
    pair = q[:, :, None] * q[:, None, :]
    bound = torch.logsumexp(
        torch.stack([log_w[:, :, None] + 0 * pair, log_w[:, None] + 0 * pair]), 0
    )
    if method == "importance_weighted":
        return gradients((pair * bound).sum() / len(v), theta, phi)
    share = torch.sigmoid(log_w[:, :, None] - log_w[:, None, :])
    pulled = (2 * (pair * share).sum(2)).detach()
    if method == "reweighted_sleep":
        return gradients((pulled * joint).sum() / len(v) + asleep, theta, phi)
    return gradients((pulled * (joint + log_q)).sum() / len(v), theta, phi)


def stacked(theta, phi, v, size: int):
    return (type(t)(*(x.expand(size, *x.shape) for x in t)) for t in (theta, phi)), v.expand(
        size, *v.shape
    )


def deviations(draws: list[Tensor], expected: list[Tensor]) -> tuple[float, float]:
    """Largest distance from the expectation in standard errors, and of 0 from it."""
    mean = torch.cat([g.mean(0).flatten() for g in draws])
    error = torch.cat([g.std(0).flatten() for g in draws]) / len(draws[0]) ** 0.5
    exact = torch.cat([g.flatten() for g in expected])
    moving = error > 1e-12
    assert ((mean - exact)[~moving].abs() < 1e-9).all()
    away = (mean - exact)[moving] / error[moving]
    return float(away.abs().max()), float((exact[moving] / error[moving]).abs().max())


@pytest.mark.parametrize("method", rules.METHODS)
def test_the_mean_pull_is_the_gradient_that_the_method_names(theta, phi, v, method):
    (many_theta, many_phi), rows = stacked(theta, phi, v, 20_000)
    found, _ = learning.pull(
        many_theta, many_phi, rows, method, PARTICLES[method], torch.Generator().manual_seed(0)
    )
    expected = expected_pull(method, theta, phi, v)
    largest, zero = deviations([*found.theta, *found.phi], expected)
    assert largest < 4.5
    assert zero > 30


@pytest.mark.parametrize("method", ["wake_sleep", "score"])
def test_more_draws_of_a_row_leave_the_mean_pull_as_it_is(theta, phi, v, method):
    """Where draws are not compared, K of them are a mean over K: not a sum."""
    (many_theta, many_phi), rows = stacked(theta, phi, v, 10_000)
    found, _ = learning.pull(
        many_theta, many_phi, rows, method, 3, torch.Generator().manual_seed(0)
    )
    expected = expected_pull(method, theta, phi, v)
    largest, zero = deviations([*found.theta, *found.phi], expected)
    assert largest < 4.5
    assert zero > 30


def test_the_oracle_knows_the_same_objectives(theta, phi, v):
    """The sums over pairs above, against NumPy's: by differences, and directly."""
    theta, phi = leaves(theta, phi)
    step = 1e-5
    *_, r = expected_pull("importance_weighted", theta, phi, v)
    *_, wake_phi = expected_pull("reweighted", theta, phi, v)
    logits = phi.logits(v)
    for i in range(NUM_UNITS):
        shift = step * torch.eye(NUM_UNITS, dtype=torch.float64)[i]
        up, down = (oracle.importance_weighted(theta, v, logits + s * shift) for s in (1, -1))
        assert float(r[i]) == pytest.approx((up - down).mean() / (2 * step), rel=1e-5)
    np.testing.assert_allclose(
        wake_phi, oracle.reweighted_pull(theta, v, logits).mean(0), rtol=1e-9
    )


def test_a_baseline_leaves_the_mean_and_lowers_the_noise(theta, phi, v):
    (many_theta, many_phi), rows = stacked(theta, phi, v, 5000)
    expected = expected_pull("score", theta, phi, v)
    noise = {}
    for baseline in (0.0, float(enumeration.factorised_elbo(theta, v, phi.logits(v)).mean())):
        rng = torch.Generator().manual_seed(0)
        found, _ = learning.pull(many_theta, many_phi, rows, "score", 1, rng, baseline)
        assert deviations([*found.phi], expected[3:])[0] < 4.5
        noise[baseline] = sum(float(g.var(0).sum()) for g in found.phi)
    without, with_baseline = noise.values()
    assert with_baseline < without / 2


def test_leaving_one_out_by_hand():
    log_w = torch.tensor([0.3, -1.0, 2.0]).double()
    a, c = rules.coefficients("importance_weighted", log_w)
    w = log_w.exp()
    for k in range(3):
        others = [log_w[j] for j in range(3) if j != k]
        stand_in = ((others[0] + others[1]) / 2).exp()
        mean_without = (sum(o.exp() for o in others) + stand_in) / 3
        assert float(a[k]) == pytest.approx(float(w[k] / w.sum()))
        signal = torch.log(w.mean()) - torch.log(mean_without)
        assert float(c[k]) == pytest.approx(float(signal - w[k] / w.sum()))


# --- the same as Pyro ELBOs --------------------------------------------------------------------


def pyro_gradients(method: str, particles: int, theta, phi, v, num_obs=None):
    model, guide = belief_model(theta), belief_network(phi)
    elbo = ParticleELBO(method, particles)
    draws = []
    for _ in range(700):
        model.zero_grad()
        guide.zero_grad()
        elbo.loss_and_grads(model, guide, v, num_obs)
        linear = guide.encoder[0]
        parameters = (*(getattr(model, n) for n in ("W", "b", "c")), linear.weight, linear.bias)
        draws.append([-p.grad / (num_obs or len(v)) for p in parameters])
    return [torch.stack(g) for g in zip(*draws, strict=True)]


@pytest.mark.parametrize("method", rules.METHODS)
def test_the_pyro_elbo_has_the_same_mean_pull(theta, phi, v, method):
    # A mini-batch is scaled up, and so are the dreams, of which there are as many as rows.
    num_obs = 60 if method in {"reweighted", "wake_sleep"} else None
    draws = pyro_gradients(method, PARTICLES[method], theta, phi, v, num_obs)
    largest, zero = deviations(draws, expected_pull(method, theta, phi, v))
    assert largest < 4.5
    assert zero > 6


def test_the_loss_is_minus_the_importance_weighted_bound(theta, phi, v):
    model, guide = belief_model(theta), belief_network(phi)
    expected = -oracle.importance_weighted(theta, v, phi.logits(v)).sum()
    for evaluate in (
        ParticleELBO("reweighted", 2).loss,
        ParticleELBO("reweighted", 2).loss_and_grads,
    ):
        losses = np.array([evaluate(model, guide, v) for _ in range(500)])
        assert losses.mean() == pytest.approx(expected, abs=4 * losses.std() / 500**0.5)
    one = -oracle.elbo(theta, v, phi.logits(v)).sum()
    assert one - expected > 10 * losses.std() / 500**0.5


def test_the_loss_of_a_mini_batch_stands_for_all_rows(theta, v):
    """Exactly, where causes touch nothing: their posterior is the prior, and all weights agree."""
    alone = theta._replace(W=torch.zeros_like(theta.W))
    prior = Recognition(torch.zeros_like(theta.W.mT), theta.b)
    elbo, model, guide = ParticleELBO("reweighted", 2), belief_model(alone), belief_network(prior)
    expected = -10 * oracle.log_evidence(alone, v).sum()
    for evaluate in (elbo.loss, elbo.loss_and_grads):
        assert evaluate(model, guide, v, 10 * NUM_ROWS) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("method", rules.METHODS)
def test_a_draw_passes_no_gradient_on(method):
    """Draws of bits cannot; normal ones could, to φ from log p, and to θ from log q of dreams."""
    v = torch.tensor([-1.0, 0.5, 2.0]).double()
    b, r = (torch.tensor(x).double().requires_grad_() for x in (0.3, -0.4))
    seen = []

    def model(v=None, num_obs=None):
        with pyro.plate("row", num_obs if v is None else len(v), dim=-1):
            h = pyro.sample("h", dist.Normal(b, 1.0))
            return pyro.sample("v", dist.Normal(h, 1.0), obs=v)

    def guide(v, num_obs=None):
        with pyro.plate("row", len(v), dim=-1):
            seen.append((v.detach(), pyro.sample("h", dist.Normal(r * v, 1.0)).detach()))

    ParticleELBO(method, 3).loss_and_grads(model, guide, v)
    h, at = seen[0][1], {"b": b.detach(), "r": r.detach()}
    log_w = dist.Normal(at["b"], 1.0).log_prob(h) + dist.Normal(h, 1.0).log_prob(v)
    a, c = rules.coefficients(method, log_w - dist.Normal(at["r"] * v, 1.0).log_prob(h))
    to_r = (c * (h - at["r"] * v) * v).sum()
    if method in rules.DREAMING:
        dreamt, cause = seen[-1]
        to_r = to_r + ((cause - at["r"] * dreamt) * dreamt).sum()
    assert float(b.grad) == pytest.approx(-float((a * (h - at["b"])).sum()), rel=1e-10)
    assert float(r.grad) == pytest.approx(-float(to_r), rel=1e-10)


def test_a_latent_outside_the_rows_is_refused(theta, v):
    def model(v=None, num_obs=None):
        pyro.sample("g", pyro.distributions.Bernoulli(0.5))
        return belief_model(theta)(v, num_obs)

    def guide(v, num_obs=None):
        pyro.sample("g", pyro.distributions.Bernoulli(0.5))
        belief_network(belief_phi())(v, num_obs)

    with pytest.raises(ValueError, match=r"^model, guide: site 'g' belongs to no row"):
        ParticleELBO("score").loss(model, guide, v)


def test_enumeration_by_pyro_is_the_bound(theta, phi, v):
    summed = TraceEnum_ELBO(max_plate_nesting=1)
    loss = summed.loss(belief_model(theta), config_enumerate(belief_network(phi)), v)
    assert loss == pytest.approx(-oracle.elbo(theta, v, phi.logits(v)).sum(), rel=1e-11)


# --- what is asked for wrongly -----------------------------------------------------------------


def test_wrong_methods_draws_and_rows_are_refused(v):
    with pytest.raises(ValueError, match=r"^method: got 'awake', expected one of wake_sleep"):
        ParticleELBO("awake")
    for method in ("reweighted_sleep", "reweighted", "importance_weighted"):
        with pytest.raises(ValueError, match=r"^num_particles: got 1, expected 2 at least"):
            learning.learn(v, 2, method)
    with pytest.raises(ValueError, match=r"^v: got values besides 0 and 1"):
        learning.learn(v - 0.5, 2)


# --- learning ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows_of_two_causes() -> tuple[BeliefParameters, Tensor]:
    """Two causes of three pixels each, and one pixel that both switch on."""
    W = torch.zeros(5, 2)
    W[:3, 0], W[2:, 1] = 6.0, 6.0
    truth = BeliefParameters(W, torch.tensor([-0.5, 0.0]), torch.full((5,), -3.0))
    return truth, learning.dream(truth, 600, torch.Generator().manual_seed(0))[0]


@pytest.mark.parametrize(
    ("method", "particles"),
    [
        ("wake_sleep", 1),
        ("reweighted_sleep", 5),
        ("reweighted", 5),
        ("importance_weighted", 5),
        ("score", 1),
    ],
)
def test_every_method_learns_what_made_the_rows(rows_of_two_causes, method, particles):
    truth, v = rows_of_two_causes
    found = learning.learn(
        v, 2, method, num_particles=particles, baseline=method == "score", num_steps=700,
        num_seeds=8, lr=0.05, seed=2,
    )  # fmt: skip
    at_truth = enumeration.log_evidence(truth, v)
    # The mean of a row's log p is known to this; a fit to the same rows may be above it.
    error = float(at_truth.std() / len(v) ** 0.5)
    best = float(found.log_evidence[-1].max())
    assert abs(best - float(at_truth.mean())) < 2 * error
    assert float(found.log_evidence[0].max()) < float(at_truth.mean()) - 4 * error
    at_end = enumeration.distances(found.theta, v, found.phi.logits(v))
    assert torch.equal(found.reverse[-1], at_end.reverse.mean(-1))
    assert torch.equal(found.forward[-1], at_end.forward.mean(-1))
    assert found.steps.tolist() == [*range(0, 700, 100), 700]


def test_a_model_that_is_held_stays(rows_of_two_causes):
    truth, v = rows_of_two_causes
    found = learning.learn(v, 2, "reweighted", num_particles=5, num_steps=300, theta=truth)
    assert all(torch.equal(a[0], b) for a, b in zip(found.theta, truth, strict=True))
    assert float(found.forward[-1]) < 0.3 * float(found.forward[0])
    again = learning.learn(v, 2, "reweighted", num_particles=5, num_steps=300, theta=truth)
    assert torch.equal(found.phi.R, again.phi.R)  # one seed, one answer


def test_the_sleep_phase_lowers_the_forward_and_the_bound_the_reverse_divergence(theta):
    """Either optimum is the worse one by the other measure: the marginals, and one explanation."""
    v = torch.ones(1, 1).double()
    either = BeliefParameters(
        torch.full((1, 2), 12.0).double(), torch.full((2,), -4.0).double(),
        torch.full((1,), -6.0).double(),
    )  # fmt: skip
    p = oracle.posterior(either, v)
    marginals = torch.tensor(p @ np.array(oracle.states(2)))
    asleep = enumeration.distances(either, v, torch.logit(marginals))
    logits, _ = enumeration.mean_field(either, v, start=torch.tensor([[1.0, -1.0]]).double())
    awake = enumeration.distances(either, v, logits)
    assert float(asleep.forward) < float(awake.forward) - 0.5
    assert float(awake.reverse) < float(asleep.reverse) - 0.2
    assert float(torch.sigmoid(logits).max()) > 0.8  # one of the two explanations
    assert torch.sigmoid(logits).min() < 0.1
    assert marginals.min() > 0.45


def test_a_network_learns_the_posterior_from_dreams(theta, phi, v):
    pyro.set_rng_seed(0)
    guide = belief_network(phi)
    model = pc.hold(SigmoidBeliefNetwork(NUM_FEATURES, NUM_UNITS), theta._asdict())
    optimizer, elbo = torch.optim.Adam(guide.parameters(), lr=0.05), ParticleELBO("wake_sleep")
    every = torch.tensor(oracle.states(NUM_FEATURES)).double()
    weight = torch.tensor(np.exp(oracle.log_evidence(theta, every)))

    def forward() -> float:
        logits = guide.encoder(every).detach()
        return float(weight @ enumeration.distances(theta, every, logits).forward)

    before = forward()
    for _ in range(300):
        optimizer.zero_grad()
        elbo.loss_and_grads(model, guide, v)
        optimizer.step()
    assert forward() < before / 2
