"""Discrete latents that the guide does not draw are summed out: same numbers as by hand."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import pyro_cookbook as pc
from pyro_cookbook.programs.density.enumeration import summed_out
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
from pyro_cookbook.programs.program import Program

Y = torch.tensor([-3.4, -2.6, -3.1, 2.7, 3.2, 2.9, 3.6], dtype=torch.float64)
COUNTS = torch.tensor([0, 0, 4, 2, 0, 5, 3, 0, 1, 2.0], dtype=torch.float64)
SERIES = torch.tensor([0.1, -0.4, 0.3, 3.7, 4.4, 4.1, 0.2], dtype=torch.float64)


def priors_of_mixture(y):
    share = pyro.sample("share", dist.Beta(y.new_tensor(2.0), 2.0))
    loc = pyro.sample("loc", dist.Normal(y.new_tensor([-3.0, 3.0]), 0.5).to_event(1))
    return share, loc


def mixture(y):
    share, loc = priors_of_mixture(y)
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Bernoulli(share))
        pyro.sample("y", dist.Normal(loc[z.long()], 1.0), obs=y)


def mixture_by_hand(y):
    share, loc = priors_of_mixture(y)
    kinds = dist.Categorical(torch.stack([1 - share, share]))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(kinds, dist.Normal(loc, 1.0)), obs=y)


def zero_inflated(y):
    share = pyro.sample("share", dist.Beta(y.new_tensor(2.0), 2.0))
    rate = pyro.sample("rate", dist.Gamma(y.new_tensor(4.0), 2.0))
    with pyro.plate("row", len(y)):
        on = pyro.sample("on", dist.Bernoulli(share))
        pyro.sample("y", dist.Poisson(on * rate + 1e-30), obs=y)


def zero_inflated_by_hand(y):
    share = pyro.sample("share", dist.Beta(y.new_tensor(2.0), 2.0))
    rate = pyro.sample("rate", dist.Gamma(y.new_tensor(4.0), 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.ZeroInflatedPoisson(rate, gate=1 - share), obs=y)


def markov(y):
    stay = pyro.sample("stay", dist.Beta(y.new_tensor(4.0), 2.0))
    loc = pyro.sample("loc", dist.Normal(y.new_tensor([0.0, 4.0]), 0.5).to_event(1))
    move = torch.stack([torch.stack([stay, 1 - stay]), torch.stack([1 - stay, stay])])
    z = 0
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(move[z]))
        pyro.sample(f"y{t}", dist.Normal(loc[z], 0.5), obs=y[t])


def markov_by_hand(y):
    stay = pyro.sample("stay", dist.Beta(y.new_tensor(4.0), 2.0))
    loc = pyro.sample("loc", dist.Normal(y.new_tensor([0.0, 4.0]), 0.5).to_event(1))
    move = torch.stack([torch.stack([stay, 1 - stay]), torch.stack([1 - stay, stay])])
    alpha = move[0].log()
    for t in range(len(y)):
        alpha = alpha + dist.Normal(loc, 0.5).log_prob(y[t])
        if t + 1 < len(y):
            alpha = torch.logsumexp(alpha[:, None] + move.log(), 0)
    pyro.factor("series", torch.logsumexp(alpha, 0))


PAIRS = [
    pytest.param(mixture, mixture_by_hand, Y, id="mixture"),
    pytest.param(zero_inflated, zero_inflated_by_hand, COUNTS, id="zero-inflated"),
    pytest.param(markov, markov_by_hand, SERIES, id="hidden Markov"),
]


@pytest.mark.parametrize(("model", "by_hand", "y"), PAIRS)
def test_the_density_is_that_of_the_sum_by_hand(model, by_hand, y):
    ours = UnconstrainedDensity(summed_out(Program(model, (y,))))
    theirs = UnconstrainedDensity(Program(by_hand, (y,)))
    z = np.random.default_rng(0).standard_normal((20, ours.dim))
    for a, b in zip(ours.value_and_grad(z), theirs.value_and_grad(z), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)
    assert not ours.obstacle


@pytest.mark.parametrize(("model", "by_hand", "y"), PAIRS)
def test_a_fit_and_its_verdict_are_those_of_the_sum_by_hand(model, by_hand, y):
    ours, theirs = pc.fit(model, "full_rank", y), pc.fit(by_hand, "full_rank", y)
    assert ours.engine == "deterministic"
    assert ours.elbo.value == pytest.approx(theirs.elbo.value, abs=1e-6)
    first, second = pc.diagnose(ours), pc.diagnose(theirs)
    assert first.verdict == second.verdict
    assert first.evidence.value == pytest.approx(second.evidence.value, abs=1e-6)
    columns = ["mean", "sd"]
    np.testing.assert_allclose(first.table[columns], second.table[columns], rtol=1e-6)


def test_what_follows_a_fit_takes_it(tmp_path):
    fit = pc.fit(mixture, "full_rank", Y)
    tree = pc.to_datatree(fit, num_draws=200)
    assert set(tree.posterior.data_vars) == {"share", "loc"}
    assert tree.log_likelihood["y"].sizes == {"chain": 1, "draw": 200, "row": 7}
    new = pc.predict(fit, num_draws=400)
    assert set(np.unique(new.posterior["z"])) == {0, 1}  # of new observations, from their prior
    pc.save(fit, tmp_path / "fit.safetensors")
    again = pc.load(tmp_path / "fit.safetensors", model=mixture)
    assert pc.diagnose(again).verdict == pc.diagnose(fit).verdict
    np.testing.assert_array_equal(
        pc.to_datatree(again, num_draws=200).posterior["loc"], tree.posterior["loc"]
    )
    chains = pc.sample(fit, num_draws=100, num_warmup=100, num_chains=2)
    assert set(chains.posterior.data_vars) == {"share", "loc"}
    assert pc.refine(fit, budget=20).converged


def test_infer_answers_a_mixture_in_the_ordinary_way():
    answer = pc.infer(mixture, Y)
    assert answer.may_be_used
    assert answer.fit.programs.model.summed == ("z",)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_guide_of_ones_own_without_the_latent_is_fitted_by_the_sum(batch_size):
    def rows(y, num_obs=None):
        share, loc = priors_of_mixture(y)
        with pyro.plate("row", num_obs or len(y), subsample_size=len(y)):
            z = pyro.sample("z", dist.Bernoulli(share))
            pyro.sample("y", dist.Normal(loc[z.long()], 1.0), obs=y)

    guide = AutoNormal(poutine.block(rows, hide=["z"]))
    fit = pc.fit(rows, guide, Y, max_steps=1500, batch_size=batch_size)
    theirs = pc.fit(mixture_by_hand, "mean_field", Y)
    assert abs(fit.elbo.value - theirs.elbo.value) < 0.1 + 4 * fit.elbo.se


def test_an_estimator_that_does_not_sum_is_refused():
    guide = AutoNormal(poutine.block(mixture, hide=["z"]))
    with pytest.raises(ValueError, match="elbo: got Trace_ELBO, but 'z' is discrete"):
        pc.fit(mixture, guide, Y, elbo=Trace_ELBO())


def test_what_cannot_be_summed_out_is_named():
    def model(y):
        h = pyro.sample("h", dist.Normal(y.new_zeros(()), 1.0))
        n = pyro.sample("n", dist.Poisson(y.new_tensor(3.0)))
        pyro.sample("y", dist.Normal(n + h, 1.0).expand(y.shape).to_event(1), obs=y)

    with pytest.raises(ValueError, match=r"site 'n'.*a Poisson cannot be summed out"):
        pc.fit(model, "full_rank", Y)


def test_a_latent_that_depends_on_the_sum_is_named():
    """A continuous latent of another law for each value of z has no one place to be drawn."""

    def model(y):
        z = pyro.sample("z", dist.Bernoulli(y.new_tensor(0.5)))
        h = pyro.sample("h", dist.Normal(4 * z, 1.0))
        pyro.sample("y", dist.Normal(h, 1.0).expand(y.shape).to_event(1), obs=y)

    fit = pc.fit(model, "full_rank", Y)
    assert pc.diagnose(fit).evidence.value == pytest.approx(
        float(_two_normals(Y)), abs=0.05 + 4 * pc.diagnose(fit).evidence.se
    )


def _two_normals(y):
    """log p(y) with h | z ~ N(4z, 1), y_i | h ~ N(h, 1)."""
    covariance = torch.eye(len(y)).to(y) + 1
    parts = [dist.MultivariateNormal(y.new_full((len(y),), m), covariance) for m in (0.0, 4.0)]
    return torch.logsumexp(torch.stack([one.log_prob(y) for one in parts]), 0) + np.log(0.5)
