"""Posteriors that were once called reliable and wrong, or refused in vain."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

import pyro_cookbook as pc


def hills(x, locs, log_shares):
    """Log density of a mixture of standard normals at x, shape (..., D); locs of shape (K, D)."""
    each = dist.Normal(locs, 1.0).to_event(1).log_prob(x[..., None, :])
    return torch.logsumexp(each + log_shares, -1)


def two_in_twenty():
    """Half of the mass each, 2.9 sds apart in every coordinate and 13 along the way."""
    x = pyro.sample("x", dist.Normal(torch.zeros(20), 10.0).to_event(1))
    pyro.factor("hills", hills(x, torch.tensor([[-1.45], [1.45]]).expand(2, 20), math.log(0.5)))


def two_far_apart():
    x = pyro.sample("x", dist.Normal(torch.zeros(2), 20.0).to_event(1))
    locs = torch.tensor([[-8.0, 0.0], [8.0, 0.0]])
    pyro.factor("hills", hills(x, locs, math.log(0.5)))


class TwoFarApart(PyroModule):
    """The same, with a parameter to learn."""

    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.tensor(1.0), constraints.positive)

    def forward(self):
        two_far_apart()
        pyro.sample("y", dist.Normal(0.0, self.scale), obs=torch.tensor(2.0))


def sixty_to_forty():
    x = pyro.sample("x", dist.ImproperUniform(constraints.real_vector, (), (2,)))
    locs, shares = torch.tensor([[0.0, 0.0], [6.0, 0.0]]), torch.tensor([0.6, 0.4])
    pyro.factor("hills", hills(x, locs, shares.log()))


def apart(distance):
    """Under a flat prior, and with a density that falls fast: no draw has a large weight."""

    def model():
        x = pyro.sample("x", dist.ImproperUniform(constraints.real_vector, (), (2,)))
        locs, shares = torch.tensor([[0.0, 0.0], [0.8, -0.6]]), torch.tensor([0.7, 0.3])
        pyro.factor("hills", hills(x, distance * locs, shares.log()))

    return model


@pytest.mark.parametrize(
    ("model", "guide"),
    [
        pytest.param(two_in_twenty, "full_rank", id="close in each of twenty coordinates"),
        pytest.param(two_far_apart, "full_rank", id="full rank"),
        pytest.param(two_far_apart, "flow", id="flow"),
        pytest.param(two_far_apart, AutoNormal(two_far_apart), id="a guide of one's own"),
        pytest.param(TwoFarApart(), "mean_field", id="a model with a parameter"),
        pytest.param(sixty_to_forty, "full_rank", id="found from a draw of large weight"),
        pytest.param(apart(8.0), "full_rank", id="eight sds away under a flat prior"),
        pytest.param(apart(15.0), "mean_field", id="fifteen sds away under a flat prior"),
    ],
)
def test_a_second_mode_is_found(model, guide):
    found = pc.diagnose(pc.fit(model, guide, max_steps=3000))
    assert found.verdict == "unreliable"
    assert any("modes; those that the guide does not cover" in told for told in found.reasons)


def tail_of(df):
    """A model and a guide that is right if it has no tail, in 150 dimensions."""

    def model():
        x = pyro.sample("x", dist.ImproperUniform(constraints.real_vector, (), (150,)))
        pyro.factor("t", -(df + 150) / 2 * torch.log1p(x.square().sum(-1) / df))

    def guide():
        pyro.sample("x", dist.Normal(torch.zeros(150), 1.0).to_event(1))

    return pc.as_fit(model, guide)


def test_a_heavy_tail_in_many_dimensions_is_not_missed():
    """The sds are 1.7; no latent shows it, and the chains do not get there."""
    found = pc.diagnose(tail_of(3.0))
    assert found.verdict == "unreliable"
    assert pc.diagnose(tail_of(1e6)).verdict == "reliable"


def test_one_hill_is_one_mode_for_every_engine():
    """The control: nothing is found where there is nothing."""

    def one():
        pyro.sample("x", dist.Normal(torch.zeros(20), 1.0).to_event(1))

    for guide in ("full_rank", AutoNormal(one)):
        assert pc.diagnose(pc.fit(one, guide)).verdict == "reliable"


def correlated(rho):
    root = torch.linalg.cholesky(torch.full((20, 20), rho) + (1 - rho) * torch.eye(20))

    def model():
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(20), scale_tril=root))

    return model


@pytest.mark.parametrize(("rho", "verdict"), [(0.36, "unreliable"), (0.03, "reliable")])
def test_the_sum_of_many_latents_counts(rho, verdict):
    """Mean field's sds are 20% too small at ρ = 0.36, and that of the sum 71%."""
    found = pc.diagnose(pc.fit(correlated(rho), "mean_field"))
    assert found.verdict == verdict
    assert ("a sum with much of" in found.reasons[0]) == (verdict == "unreliable")


def test_the_copies_of_an_angle_are_one_mode():
    def model(y):
        angle = pyro.sample("angle", dist.VonMises(torch.tensor(0.0), 0.1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.VonMises(angle, 4.0), obs=y)

    fit = pc.fit(model, "full_rank", torch.tensor([0.3, 0.1, 0.5, -0.2]))
    assert len(fit.modes) == 1
    assert pc.diagnose(fit).verdict == "reliable"


def two_switches(y):
    a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.5)))
    b = pyro.sample("b", dist.Bernoulli(0.2 + 0.6 * a))
    pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)


def switches(p, q):
    def guide(y):
        pyro.sample("a", dist.Bernoulli(torch.tensor(p)))
        pyro.sample("b", dist.Bernoulli(torch.tensor(q)))

    return guide


def exact_switches(y):
    """Marginal probabilities of a and b, and log p(y)."""
    joint = np.array([[0.5 * 0.8, 0.5 * 0.2], [0.5 * 0.2, 0.5 * 0.8]])
    a, b = np.indices((2, 2))
    joint = joint * np.exp(-((y - a - b) ** 2) / 2) / np.sqrt(2 * np.pi)
    return joint.sum(1)[1] / joint.sum(), joint.sum(0)[1] / joint.sum(), np.log(joint.sum())


def test_discrete_latents_outside_plates_are_enumerated_together():
    p, q, log_evidence = exact_switches(1.2)
    y = torch.tensor(1.2)
    wrong = pc.diagnose(pc.as_fit(two_switches, switches(p, 0.9999), y))
    assert wrong.verdict == "unreliable"
    assert wrong.evidence.value == pytest.approx(log_evidence, abs=1e-5)
    right = pc.diagnose(pc.as_fit(two_switches, switches(p, q), y))
    assert right.verdict == "reliable"
    off = pc.as_fit(two_switches, switches(0.8, 0.8), y)
    assert pc.diagnose(off).verdict == "reliable after reweighting"
    drawn = pc.to_datatree(off, num_draws=4000, reweight=True).posterior
    for name, exact in (("a", p), ("b", q)):
        assert abs(float(drawn[name].mean()) - exact) < 4 * 0.5 / 4000**0.5
        assert abs(exact - 0.8) > 0.15


def test_two_discrete_latents_of_a_row_are_enumerated_together():
    def model(y):
        with pyro.plate("row", len(y)):
            two_switches(y)

    def guide(p, q):
        def run(y):
            with pyro.plate("row", len(y)):
                pyro.sample("a", dist.Bernoulli(p))
                pyro.sample("b", dist.Bernoulli(q))

        return run

    y = torch.tensor([1.2, -0.5, 0.3])
    p, q, log_evidence = map(torch.tensor, zip(*map(exact_switches, y.tolist()), strict=True))
    right = pc.diagnose(pc.as_fit(model, guide(p, q), y))
    assert right.verdict == "reliable"
    assert right.evidence.value == pytest.approx(float(log_evidence.sum()), abs=1e-5)
    q[1] = 0.999
    wrong = pc.diagnose(pc.as_fit(model, guide(p, q), y))
    assert wrong.verdict == "unreliable"
    assert wrong.bad_rows == (1,)


def test_a_discrete_latent_beside_continuous_ones_is_enumerated():
    """z ~ Bernoulli(0.3), h ~ N(0, 1), y ~ N(h + 2z, 1): the law of h given y has two parts."""

    def model(y):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
        h = pyro.sample("h", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(h + 2 * z, 1.0), obs=y)

    y = torch.tensor(1.0)
    up = 0.3 * math.exp(-((1 - 2) ** 2) / 4)
    up /= up + 0.7 * math.exp(-(1**2) / 4)
    mean = (1 - up) * 0.5 - up * 0.5
    sd = math.sqrt(0.5 + 0.25 - mean**2)

    def guide(share):
        def run(y):
            pyro.sample("z", dist.Bernoulli(torch.tensor(share)))
            pyro.sample("h", dist.Normal(torch.tensor(mean), sd))

        return run

    assert pc.diagnose(pc.as_fit(model, guide(up), y)).verdict == "reliable"
    assert pc.diagnose(pc.as_fit(model, guide(0.999), y)).verdict == "unreliable"


def test_a_draw_without_a_density_has_weight_zero():
    def model():
        x = pyro.sample("x", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.factor("cut", torch.where(x < -3.5, -math.inf, 0.0))

    found = pc.diagnose(pc.as_fit(model, lambda: pyro.sample("x", dist.Normal(0.0, 1.0))))
    assert found.verdict == "reliable"
    assert "have no density under the model: the bound is −∞" in found.reasons[0]


def test_a_sparse_vector_on_the_simplex_is_not_refused():
    def model(y):
        p = pyro.sample("p", dist.Dirichlet(torch.full((5,), 0.3)))
        pyro.sample("y", dist.Multinomial(4, p), obs=y)

    found = pc.diagnose(pc.fit(model, "full_rank", torch.tensor([3.0, 0.0, 1.0, 0.0, 0.0])))
    assert found.verdict == "reliable"


def test_a_guide_whose_latents_depend_on_a_discrete_one_keeps_its_joint_weights():
    """The exact posterior, h given z: nothing is summed out of q(h | z), and all weights agree."""

    def model(y):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
        h = pyro.sample("h", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(h + 2 * z, 1.0), obs=y)

    off, on = 0.7 * math.exp(-1 / 4), 0.3 * math.exp(-1 / 4)  # N(y | 2z, √2) at y = 1

    def guide(y):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(on / (on + off))))
        pyro.sample("h", dist.Normal((y - 2 * z) / 2, 0.5**0.5))

    found = pc.diagnose(pc.as_fit(model, guide, torch.tensor(1.0)))
    assert found.verdict == "reliable"
    log_evidence = math.log((on + off) / math.sqrt(4 * math.pi))
    assert found.evidence.value == pytest.approx(log_evidence, abs=1e-5)
    assert found.evidence.se < 1e-5
